"""data/media, the pictures and the clip of the lessons, is what `python -m minqwen.nano.pictures` draws."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from minqwen.nano.pictures import draw_media


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    draw_media(folder)
    return folder


def frames(path):
    with Image.open(path) as image:
        return [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(image)]


def test_every_picture_is_drawn_by_the_command(drawn, repository):
    shipped = repository / "data" / "media"
    assert {path.name for path in shipped.iterdir()} == {path.name for path in drawn.iterdir()}
    for path in shipped.iterdir():
        ours, theirs = frames(path), frames(drawn / path.name)
        assert len(ours) == len(theirs), path.name
        most = 20 if path.suffix == ".jpg" else 0               # encoders of JPEG differ a little
        assert all(a.shape == b.shape and abs(a - b).max() <= most for a, b in zip(ours, theirs)), path.name


def test_they_are_small(repository):
    assert sum(path.stat().st_size for path in (repository / "data" / "media").iterdir()) < 50_000


def test_the_clip_has_two_frames_a_second(repository):
    """What nano saw in training, and an odd number of them, so that the last slice has to be filled."""
    with Image.open(repository / "data" / "media" / "moving.webp") as clip:
        durations = []
        for number in range(clip.n_frames):
            clip.seek(number)
            clip.load()
            durations.append(clip.info["duration"])
    assert durations == [500] * 7
