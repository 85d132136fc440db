"""Pictures and clips beside the processors of `transformers`, to the last bit; and what is said of those that are none.

Every input of the table goes two ways into a chat: through `transformers`, from the messages to pixels, grids and token
ids, and through ours. All must be equal, not close.
"""

import base64
import io
import json
import random
import re
import struct
import subprocess
import sys
import warnings
import wave
import zlib
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from official_processor import BARE, SMALL, WRAPPED, official_dict, official_processor, our_tokenizer
from PIL import Image

import minqwen.media as media
from minqwen.errors import QwenError
from minqwen.media import CLIPS, Clip, Processor, Settings, load_image, sample_frames, smart_resize, video_size
from minqwen.verify import let_torchvision_in

OFFICIAL = Processor()
CAPPED = replace(OFFICIAL, video=replace(CLIPS, cap_pixels_per_frame=True, max_video_tokens=20))
UNSAMPLED = replace(SMALL, video=replace(SMALL.video, do_sample_frames=False))
UNEVEN = Processor(*(replace(settings, image_mean=(0.48, 0.46, 0.41), image_std=(0.27, 0.26, 0.28))
                     for settings in (SMALL.image, SMALL.video)))


def noise(*shape, seed=0):
    """Bytes in which every pixel counts."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(height, width, mode="RGB"):
    """A picture of pillow in any mode, with all of its channels, alpha too, in use."""
    if mode == "I;16":
        return Image.fromarray(noise(height, width).astype(np.uint16) * 3)
    if mode in ("I", "F"):
        return Image.fromarray(noise(height, width).astype({"I": np.int32, "F": np.float32}[mode]))
    channels = len(Image.new(mode, (1, 1)).getbands())
    if mode in ("1", "P"):
        image = Image.fromarray(noise(height, width)).convert(mode)
    else:
        image = Image.frombytes(mode, (width, height), noise(height, width, channels).tobytes())
    if mode in ("P", "PA"):
        image.putpalette(noise(256, 3, seed=1).tobytes())
    return image


def with_transparency(image, transparency):
    image.info["transparency"] = transparency
    return image


def as_file(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# ------------------------------------------------------------------------------------------ beside transformers


@dataclass
class Case:
    """What goes into a chat: pictures, clips, and how it is prepared."""

    name: str
    images: list = ()
    videos: list = ()
    processor: Processor = OFFICIAL
    fps: float | None = None


SIZES = [(1, 1), (2, 3), (7, 5), (16, 16), (31, 33), (32, 32), (48, 80), (64, 64), (100, 37), (224, 224), (256, 256),
         (257, 255), (240, 320), (333, 517), (37, 1000), (1000, 37), (15, 3000), (3000, 15), (900, 1200)]
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16", "F"]
FRAMES = [1, 2, 3, 7, 100]

TABLE = [
    *(Case(f"picture {h} x {w}", [picture(h, w)]) for h, w in SIZES),
    Case("huge picture", [picture(4200, 4100)], processor=Processor(Settings(longest_edge=500_000))),
    *(Case(f"small picture {h} x {w}", [picture(h, w)], processor=SMALL)
      for h, w in [(1, 1), (64, 64), (96, 96), (70, 90), (8, 1600), (5, 400), (200, 300)]),
    *(Case(f"mode {mode}", [picture(40, 52, mode)], processor=SMALL) for mode in MODES),
    Case("palette, one colour transparent", [with_transparency(picture(40, 52, "P"), 7)], processor=SMALL),
    Case("palette, with alpha", [with_transparency(picture(40, 52, "P"), bytes(range(256)))], processor=SMALL),
    Case("RGB, one colour transparent", [with_transparency(Image.new("RGB", (52, 40), "red"), (255, 0, 0))],
         processor=SMALL),
    Case("array (H, W, C)", [noise(50, 60, 3)], processor=SMALL),
    Case("array (C, H, W)", [noise(3, 50, 60)], processor=SMALL),
    Case("array (H, W)", [noise(50, 60)], processor=SMALL),
    Case("array (3, 50, 3), of which the first are colours", [noise(3, 50, 3)], processor=SMALL),
    Case("tensor (C, H, W)", [torch.from_numpy(noise(3, 50, 60))], processor=SMALL),
    Case("tensor (1, H, W)", [torch.from_numpy(noise(1, 50, 60))], processor=SMALL),
    Case("uneven mean and deviation", [picture(50, 60)], [noise(5, 50, 60, 3)], processor=UNEVEN),
    Case("two pictures of a size and one of another", [picture(40, 80), picture(80, 40), picture(40, 80)],
         processor=SMALL),
    *(Case(f"clip of {T} frames", videos=[noise(T, 48, 70, 3)]) for T in FRAMES if T > 1),
    *(Case(f"small clip of {T} frames at {fps} per second", videos=[noise(T, 64, 80, 3)], processor=SMALL, fps=fps)
      for T in FRAMES if T > 1 for fps in (1, 12.5, 30)),
    *(Case(f"all of {T} frames", videos=[noise(T, 64, 80, 3)], processor=UNSAMPLED) for T in FRAMES[1:-1]),
    Case("all of 5 frames at 3 per second", videos=[noise(5, 64, 80, 3)], processor=UNSAMPLED, fps=3),
    Case("clip smaller than a token", videos=[noise(6, 9, 13, 3)]),
    Case("long and narrow clip", videos=[noise(4, 10, 1500, 3)]),
    Case("clip beyond the budget", videos=[noise(6, 300, 300, 3)],
         processor=Processor(video=replace(CLIPS, longest_edge=200_000))),
    Case("clip within its tokens per frame", videos=[noise(6, 300, 300, 3)], processor=CAPPED),
    *(Case(f"clip of {T} frames within its tokens per frame and a budget of {budget}", videos=[noise(T, 150, 170, 3)],
           processor=Processor(video=replace(CAPPED.video, longest_edge=budget))) for T, budget in
      [(30, 20_000), (6, 60_000)]),
    Case("clip as pictures", videos=[[picture(48, 70)] * 2 + [Image.fromarray(noise(48, 70, 3, seed=2))]]),
    Case("clip (T, C, H, W)", videos=[torch.from_numpy(noise(5, 3, 48, 70))]),
    Case("grey clip (T, C, H, W)", videos=[torch.from_numpy(noise(5, 1, 48, 70))]),
    Case("two clips", videos=[noise(9, 64, 80, 3), noise(4, 90, 64, 3)], processor=SMALL),
    Case("pictures and clips", [picture(64, 64), picture(90, 70, "RGBA")],
         [noise(9, 64, 80, 3), noise(26, 64, 64, 3)], processor=SMALL, fps=10),
]


def messages(case):
    """A user's turn in which pictures and clips take turns, then an answer, then a question."""
    pictures = [{"type": "image", "image": image} for image in case.images]
    clips = [{"type": "video", "video": video} for video in case.videos]
    mixed = [item for pair in zip(pictures, clips) for item in pair]
    rest = pictures[len(clips) :] + clips[len(pictures) :]
    look, and_ = ({"type": "text", "text": text} for text in ("Look: ", " and "))
    return [
        {"role": "user", "content": [look, *mixed, and_, *rest]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
        {"role": "user", "content": [{"type": "text", "text": "What does Ann have?"}]},
    ]


def theirs(case, clip=WRAPPED):
    """{input_ids, pixel_values, ...} as `transformers` makes them."""
    options = {}
    if case.fps is not None:
        options["video_metadata"] = [{"total_num_frames": len(video), "fps": case.fps,
                                      "frames_indices": list(range(len(video)))} for video in case.videos]
    return official_processor(case.processor, clip).apply_chat_template(
        messages(case), tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs=options)


def ours(case, clip=WRAPPED, **changes):
    """The same, as we make them."""
    processor, tokenizer = replace(case.processor, **changes), our_tokenizer(clip)
    images = processor.images(case.images) if case.images else None
    videos = processor.videos(case.videos, fps=case.fps) if case.videos else None
    text = processor.expand(tokenizer.render(messages(case), add_generation_prompt=False), images, videos)
    inputs = {"input_ids": torch.tensor([tokenizer.encode(text)])}
    if images:
        inputs |= {"pixel_values": images.pixel_values, "image_grid_thw": images.grid_thw}
    if videos:
        inputs |= {"pixel_values_videos": videos.pixel_values, "video_grid_thw": videos.grid_thw}
    return inputs


def assert_equal(ours, theirs):
    assert set(ours) == set(theirs) - {"attention_mask", "mm_token_type_ids"}
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert tensor.shape == theirs[name].shape, name
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
def test_as_transformers(case):
    assert_equal(ours(case, keep_outer_marks=True), theirs(case))


def test_the_table_is_large():
    assert len(TABLE) >= 40 and len({case.name for case in TABLE}) == len(TABLE)


@pytest.mark.parametrize("case", [case for case in TABLE if len(case.videos) > 1], ids=lambda case: case.name)
def test_the_marks_around_a_clip_go_into_its_slices(case):
    """Given the placeholder alone, `transformers` adds the marks of each slice. The same comes out of a clip here when
    the template has put marks around it: see `Processor.keep_outer_marks`."""
    alone = theirs(case, clip=BARE)
    assert_equal(ours(case, clip=BARE), alone)
    assert_equal(ours(case, clip=WRAPPED), alone)


def test_the_text_of_a_clip():
    videos = SMALL.videos([noise(6, 64, 64, 3)], fps=10)
    slice = "<|vision_start|>" + 16 * "<|video_pad|>" + "<|vision_end|>"
    assert SMALL.expand(f"See {WRAPPED}!", videos=videos) == f"See <0.1 seconds>{slice}<0.4 seconds>{slice}!"


def test_times_that_are_publicly_known():
    """Those in the text that transformers' integration test expects of Qwen3.5-0.8B for a clip of 9.7 seconds."""
    taken = sample_frames(291, 30, CLIPS)
    assert len(taken) == 19, "so the last frame is its slice, and its time the slice's"
    times = [f"{time:.1f}" for time in media._timestamps(taken + taken[-1:], 30, 2)]
    assert times == ["0.3", "1.3", "2.4", "3.5", "4.6", "5.6", "6.7", "7.8", "8.9", "9.7"]


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_a_clip_of_one_frame(size):
    """`transformers` refuses to resize one. Here it is repeated as the last of any odd number is, and as `transformers`
    repeats it where nothing is to be resized."""
    frame = noise(1, *size, 3)
    one = Case("one frame", videos=[frame], processor=UNSAMPLED)
    assert_equal(ours(one, keep_outer_marks=True),
                 theirs(Case("twice", videos=[np.concatenate([frame, frame])], processor=UNSAMPLED)))
    processor = official_processor(UNSAMPLED).video_processor
    fitting = processor(videos=[frame], do_resize=False, return_tensors="pt")
    assert_equal(ours(one) | {"input_ids": torch.empty(0)}, {"input_ids": torch.empty(0), **fitting})
    assert SMALL.videos([frame]).timestamps == [[0.0]]


def test_sizes_as_transformers():
    """The size alone, for many more sizes than there is time to resize."""
    pytest.importorskip("transformers", minversion="5.23")
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as of_pictures
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as of_clips
    dice = random.Random(0)
    for _ in range(3000):
        height = round(2 ** dice.uniform(0, 14))
        width = max(1, round(height * 2 ** dice.uniform(-6, 6)))
        frames = round(2 ** dice.uniform(1, 9))
        assert smart_resize(height, width, 32, 65_536, 16_777_216) == of_pictures(height, width, 32, 65_536, 16_777_216)
        if max(height, width) / min(height, width) < 60:
            theirs = of_clips(frames, height, width, 2, 32, 4_096, 25_165_824)
            assert video_size(frames, height, width, CLIPS) == theirs


def test_frames_as_transformers():
    """Which frames are taken, for many lengths and rates."""
    processor = official_processor(OFFICIAL).video_processor
    dice = random.Random(0)
    for _ in range(1000):
        count, fps = round(2 ** dice.uniform(0, 13)), dice.choice([1, 12.5, 23.976, 24, 30, dice.uniform(1, 99)])
        theirs = processor.sample_frames(SimpleNamespace(total_num_frames=count, fps=fps), fps=2)
        assert sample_frames(count, fps, CLIPS) == theirs.tolist()


# ------------------------------------------------------------------------------------------------------- traps


def test_trap_19_a_still_picture_fills_its_slice_and_so_does_the_last_frame():
    still = SMALL.images([noise(64, 64, 3)]).pixel_values.view(64, 3, 2, 8, 8)  # (N, C, F, P, P)
    assert torch.equal(still[:, :, 0], still[:, :, 1])
    clip = UNSAMPLED.videos([noise(3, 64, 64, 3)]).pixel_values.view(2, 64, 3, 2, 8, 8)  # (slices, N, C, F, P, P)
    assert not torch.equal(clip[0, :, :, 0], clip[0, :, :, 1])
    assert torch.equal(clip[1, :, :, 0], clip[1, :, :, 1])


def test_trap_19_patches_of_one_token_stand_together():
    """Patch by patch: two by two down and across, colours before frames before pixels."""
    pixels = noise(64, 96, 3)
    patches = SMALL.images([pixels]).pixel_values.view(4, 6, 2, 2, 3, 2, 8, 8)  # (h, w, down, across, C, F, P, P)
    for place in [(0, 0, 0, 0, 0), (0, 0, 0, 1, 1), (0, 0, 1, 0, 2), (0, 1, 0, 0, 0), (3, 5, 1, 1, 2)]:
        h, w, down, across, color = place
        top, left = 16 * h + 8 * down, 16 * w + 8 * across
        expected = torch.from_numpy(pixels[top : top + 8, left : left + 8, color] / 127.5 - 1).float()
        torch.testing.assert_close(patches[(*place, 0)], expected)


def test_trap_20_resized_once_to_whole_tokens_within_the_budget(monkeypatch):
    resize, sizes = media.interpolate, []

    def spy(pixels, size, **options):
        sizes.append(size)
        return resize(pixels, size=size, **options)

    monkeypatch.setattr(media, "interpolate", spy)
    SMALL.images([noise(200, 300, 3)])
    assert sizes == [(64, 112)]  # 200 x 300 has 6.5 times the budget; then both are rounded down to 16s
    SMALL.images([noise(64, 96, 3)])
    assert len(sizes) == 1, "what fits already is not resized"
    dice = random.Random(0)
    for _ in range(1000):
        height, width = dice.randint(40, 4000), dice.randint(40, 4000)
        h, w = smart_resize(height, width, 32, 65_536, 1_000_000)
        assert h % 32 == w % 32 == 0 and h * w >= 65_536 and (h * w <= 1_000_000 or min(h, w) == 32)
    assert smart_resize(336, 400, 32, 1, 10**9) == (320, 384)  # 10.5 and 12.5: halves to the even


# ------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_float_is_the_nearest_byte(dtype):
    """All bytes come back, though many of them times 1 / 255 times 255 are a little less; a half goes to the even."""
    levels = torch.arange(256).view(16, 16)
    assert np.array_equal(np.array(load_image(levels.to(dtype) / 255))[..., 0], levels)
    halves = torch.tensor([[0.5, 126.5 / 255, 127.4 / 255, 127.6 / 255]])
    assert np.array(load_image(halves))[0, :, 0].tolist() == [128, 126, 127, 128]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_rotation_that_a_camera_notes(tmp_path, orientation):
    image = picture(40, 56)
    exif = image.getexif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    image.save(path, exif=exif)
    official = pytest.importorskip("transformers.image_utils")
    expected = np.array(official.load_image(str(path)))
    assert expected.shape == ((40, 56, 3) if orientation < 5 else (56, 40, 3))
    assert np.array_equal(load_image(path), expected)
    assert np.array_equal(load_image(path.read_bytes()), expected)
    assert np.array_equal(load_image(Image.open(path)), np.array(image)), "an open image is taken as it stands"


def test_every_way_to_give_a_picture(tmp_path):
    image = picture(40, 56)
    image.save(tmp_path / "a.png")
    array = np.array(image)
    file = (tmp_path / "a.png").read_bytes()
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), file, bytearray(file), memoryview(file), image, array,
                  array.transpose(2, 0, 1), torch.from_numpy(array), array.astype(np.int64), array / 255,
                  torch.from_numpy(array).permute(2, 0, 1) / 255, np.float16(array / 255)):
        loaded = load_image(given)
        assert loaded.mode == "RGB" and np.array_equal(loaded, array)
    grey = array[..., 0]
    for given in (grey, grey[..., None], grey[None], torch.from_numpy(grey)):
        assert np.array_equal(load_image(given), np.stack([grey] * 3, axis=-1))
    assert np.array_equal(load_image(grey > 127), np.stack([(grey > 127) * np.uint8(255)] * 3, axis=-1))
    assert np.abs(np.array(load_image(torch.from_numpy(array / 255).bfloat16()), dtype=int) - array).max() <= 1
    image = picture(40, 56, "RGBA")
    assert np.array_equal(load_image(image), load_image(np.array(image)))


LINES = base64.encodebytes(as_file(picture(40, 56))).decode()  # as mails have it, with line breaks
BASE64 = LINES.replace("\n", "")


@pytest.mark.parametrize("given", [
    f"data:image/png;base64,{BASE64}", f"DATA:image/png;charset=utf-8;base64,{BASE64}", f"data:;base64,{LINES}", BASE64,
    LINES, BASE64.rstrip("="), BASE64.translate(str.maketrans("+/", "-_")), BASE64.replace("+", "%2B"),
], ids=["URI", "URI in capitals", "URI in lines", "alone", "lines", "without padding", "for URLs", "in per cents"])
def test_a_picture_as_base64(given):
    """As `transformers` takes it, and as browsers write it."""
    assert any(sign in BASE64 for sign in "+/")
    assert np.array_equal(load_image(given), np.array(picture(40, 56)))
    assert SMALL.videos([given]).frames == [[0]]
    official = pytest.importorskip("transformers.image_utils")
    if given in (f"data:image/png;base64,{BASE64}", BASE64, LINES):
        assert np.array_equal(official.load_image(given), load_image(given))


def test_a_file_comes_before_what_its_name_encodes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(9, 9).save("abcd", "PNG")
    assert load_image("abcd").size == (9, 9)


def test_transparent_is_white():
    assert load_image(Image.new("RGBA", (2, 2), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(as_file(Image.new("LA", (2, 2), (0, 0)))).getpixel((0, 0)) == (255, 255, 255)
    assert load_image(Image.new("RGBA", (2, 2), (255, 0, 0, 255))).getpixel((0, 0)) == (255, 0, 0)


def animation(kind, frames, **options):
    first, *rest = map(Image.fromarray, frames)
    return as_file(first, kind, save_all=True, append_images=rest, **options)


@pytest.mark.parametrize("kind, options", [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_animations(tmp_path, kind, options):
    """Frames and the time that they last; a clip of the same frames is the same clip."""
    frames = np.repeat(noise(7, 8, 10, 1) & 0xF0, 3, axis=-1).repeat(8, axis=1).repeat(8, axis=2)  # what a GIF can keep
    file = animation(kind, frames, duration=[100, 300] * 3 + [100], **options)
    (tmp_path / "clip").write_bytes(file)
    expected = SMALL.videos([frames], fps=7000 / 1300)
    for given in (file, tmp_path / "clip", Clip(str(tmp_path / "clip"))):
        clip = SMALL.videos([given])
        assert torch.equal(clip.pixel_values, expected.pixel_values) and torch.equal(clip.grid_thw, expected.grid_thw)
        assert clip.timestamps == expected.timestamps and clip.frames == expected.frames == [[0, 2, 4, 6]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_that_does_not_say_how_long_its_frames_last(kind):
    film = media._open_film(animation(kind, noise(5, 64, 64, 3)))
    assert film.count == 5 and film.fps == 10
    assert media._open_film(animation(kind, noise(2, 64, 64, 3), duration=[0, 300])).fps == 5
    assert media._open_film(as_file(picture(64, 64), kind)).count == 1, "a still picture is a clip of one frame"


def video(frames, kind="mp4", codec="mpeg4", fps=10, times=None, **options):
    """A file made of frames (T, H, W, C), by av; `times` are theirs, counted in frames."""
    av = pytest.importorskip("av")
    if codec not in av.codecs_available:
        pytest.skip(f"this av has no {codec}")
    with TemporaryDirectory() as folder, av.open(f"{folder}/clip", "w", format=kind, options=options) as container:
        track = container.add_stream(codec, rate=fps)
        track.height, track.width, track.pix_fmt = *frames.shape[1:3], "yuv420p"
        for time, frame in zip(times or range(len(frames)), frames, strict=True):
            frame = av.VideoFrame.from_ndarray(frame, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, fps)
            container.mux(track.encode(frame))
        container.mux(track.encode())
        container.close()
        return Path(folder, "clip").read_bytes()


def greys(count, height=64, width=80):
    """Frames that tell their number by how bright they are."""
    return np.stack([np.full((height, width, 3), 10 * i, dtype=np.uint8) for i in range(count)])


@pytest.mark.parametrize("kind, codec", [("mp4", "mpeg4"), ("mov", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mpeg4")])
def test_videos(tmp_path, kind, codec):
    file = video(greys(23), kind, codec)
    (tmp_path / "clip").write_bytes(file)
    for given in (file, tmp_path / "clip", Clip(str(tmp_path / "clip"))):
        clip = SMALL.videos([given])
        assert clip.frames == [[0, 7, 15, 22]] and clip.timestamps == [[0.35, 1.85]]
        brightness = clip.pixel_values.view(2, -1, 3, 2, 64).mean(dim=(1, 2, 4)).flatten() * 127.5 + 127.5
        assert (brightness - 10 * torch.tensor(clip.frames[0])).abs().max() < 5


GAPS = [0, 1, 2, 3, 10, 11, 12, 13, 14, 30]  # the times of ten frames, in tenths of a second


@pytest.mark.parametrize("times", [None, GAPS + list(range(40, 53))], ids=["even", "uneven"])
def test_a_video_as_transformers_reads_it(tmp_path, times):
    official = pytest.importorskip("transformers.video_utils")
    (tmp_path / "clip.mp4").write_bytes(video(noise(23, 64, 80, 3), times=times))
    processor = official_processor(SMALL).video_processor
    frames, metadata = official.load_video(
        str(tmp_path / "clip.mp4"), backend="pyav", sample_indices_fn=processor.sample_frames)
    theirs = processor(videos=[frames], do_sample_frames=False, return_tensors="pt")
    clip = SMALL.videos([tmp_path / "clip.mp4"])
    assert clip.frames == [metadata.frames_indices.tolist()]
    assert torch.equal(clip.pixel_values, theirs["pixel_values_videos"])
    assert torch.equal(clip.grid_thw, theirs["video_grid_thw"])


def assert_is_greys(film, count):
    """Its frames are those of `greys`, each as bright as its number says."""
    brightness = [np.array(image).mean() for image in film.read(range(film.count))]
    assert film.count == len(brightness) == count
    assert np.abs(np.array(brightness) - 10 * np.arange(count)).max() < 5


@pytest.mark.parametrize("kind, codec", [
    ("avi", "mpeg4"), ("matroska", "mpeg4"), ("webm", "libvpx"), ("mpegts", "mpeg4")])
def test_gaps_in_time(kind, codec):
    """An AVI counts the empty chunks of a gap as frames. Those that decode are the clip, and the last one's time is
    its own; mp4 says it a little otherwise, as `transformers` has it."""
    film = media._open_film(video(greys(10), kind, codec, times=GAPS))
    assert_is_greys(film, 10)
    assert film.fps == pytest.approx(9 / 3.0)
    assert media._open_film(video(greys(10), kind, codec)).fps == pytest.approx(10)
    assert media._open_film(video(greys(10), "mp4", times=GAPS)).fps == pytest.approx(10 / 3.1)


def patched(file, after, *numbers, order="<"):
    """The file with these whole numbers, of four bytes, so many bytes behind each name."""
    file = bytearray(file)
    for (name, skip), number in zip(after, numbers, strict=True):
        start = file.index(name) + 4 + skip
        file[start : start + 4] = struct.pack(f"{order}I", number)
    return bytes(file)


COUNTS = (b"avih", 20), (b"strh", 36)  # where an AVI says how many frames it has


@pytest.mark.parametrize("counts", [(3, 3), (1000, 1000), (0, 0), (10, 1000)], ids=str)
@pytest.mark.parametrize("times, fps", [(None, 10), (GAPS, 3)], ids=["even", "gaps"])
def test_a_header_that_miscounts(counts, times, fps):
    film = media._open_film(patched(video(greys(10), "avi", times=times), COUNTS, *counts))
    assert_is_greys(film, 10)
    assert film.fps == pytest.approx(fps)


def test_empty_chunks_at_the_end():
    """As a screen that no longer moves leaves them: the list of frames, and the file, are longer by them."""
    file = video(greys(10), "avi")
    film, index = file.index(b"movi"), file.index(b"idx1")
    spare = 5 * (b"00dc" + bytes(4))
    longer = file[:index] + spare + file[index:]
    sizes = [struct.unpack("<I", file[start : start + 4])[0] + len(spare) for start in (4, film - 4)]
    longer = patched(longer, (*COUNTS, (b"RIFF", 0)), 15, 15, sizes[0])
    longer = longer[: film - 4] + struct.pack("<I", sizes[1]) + longer[film:]
    assert_is_greys(media._open_film(longer), 10)


def test_frames_of_the_same_time():
    file = video(greys(10), times=GAPS)
    film = media._open_film(patched(file, [(b"stts", 12)], 0, order=">"))  # the first four last no time at all
    assert_is_greys(film, 10)
    assert film.fps == pytest.approx(10 / 2.8)


def test_a_video_that_was_trimmed():
    """A phone only notes in an mp4 how much is to be shown, and leaves the rest in it."""
    film = media._open_film(patched(video(greys(10)), [(b"elst", 8)], 400, order=">"))  # milliseconds
    assert_is_greys(film, 4)


def test_a_video_that_does_not_say_how_long_it_is():
    """As it is written by who cannot go back to its beginning: whole, for all that one can say."""
    avi, mkv = video(greys(10), "avi", times=GAPS), bytearray(video(greys(10), "matroska"))
    for size in (0, 2**32 - 1):
        assert_is_greys(media._open_film(patched(avi, [(b"RIFF", 0)], size)), 10)
    start = mkv.index(b"\x18S\x80g") + 4
    assert mkv[start] == 1, "its size has eight bytes"
    mkv[start : start + 8] = b"\x01" + 7 * b"\xff"
    assert_is_greys(media._open_film(bytes(mkv)), 10)
    long = video(greys(10), movflags="faststart")
    assert_is_greys(media._open_film(long + struct.pack(">I4sQ", 1, b"free", 20) + bytes(4)), 10)
    assert_is_greys(media._open_film(long + b"SEFT of a phone"), 10)


@pytest.mark.parametrize("degrees, matrix", [(90, (0, -1, 1, 0)), (270, (0, 1, -1, 0)), (180, (-1, 0, 0, -1))])
def test_a_video_that_was_filmed_upright(degrees, matrix):
    """Phones film lying down and note how to turn it: in an mp4 as a matrix of nine numbers in its track's header."""
    frames = greys(4)
    frames[:, :32] = 255  # the upper half is white
    file = bytearray(video(frames))
    a, b, c, d = matrix
    start = file.index(b"tkhd") + 44
    file[start : start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    turned = next(media._open_film(bytes(file)).read([0]))
    assert turned.size == ((64, 80) if degrees != 180 else (80, 64))
    expected = Image.fromarray(frames[0]).rotate(degrees, expand=True)
    assert np.abs(np.array(turned, dtype=int) - np.array(expected)).max() < 30


def test_fps_of_a_clip_comes_first_then_its_file_then_the_argument():
    frames = list(noise(20, 64, 64, 3))
    file = animation("GIF", frames, duration=100)
    videos = UNSAMPLED.videos([Clip(frames, fps=5), file, Clip(file, fps=20), frames], fps=8)
    assert [times[0] for times in videos.timestamps] == [0.5 / 5, 0.5 / 10, 0.5 / 20, 0.5 / 8]
    videos = UNSAMPLED.videos([frames, frames], fps=[4, 2])
    assert [times[0] for times in videos.timestamps] == [0.125, 0.25]
    assert UNSAMPLED.videos([frames]).timestamps[0][0] == 0.5 / 24
    assert UNSAMPLED.videos([Clip(frames, sample=True)]).frames == [[0, 6, 13, 19]]
    assert SMALL.videos([Clip(frames, sample=False)]).frames == [list(range(20))]


def test_one_thing_needs_no_list_and_nothing_is_nothing():
    assert torch.equal(SMALL.images(noise(64, 64, 3)).pixel_values, SMALL.images([noise(64, 64, 3)]).pixel_values)
    assert SMALL.videos(noise(4, 64, 64, 3)).grid_thw.tolist() == [[2, 8, 8]]
    assert SMALL.images([]).pixel_values.shape == (0, 384) and SMALL.images([]).grid_thw.shape == (0, 3)
    assert SMALL.expand("no pictures", SMALL.images([]), SMALL.videos([])) == "no pictures"


# -------------------------------------------------------------------------------------------------- what is wrong

NOISE = noise(64, 80, 3)
SENTENCES = [
    ("missing", lambda: load_image("nowhere/a.png"), "There is no file nowhere/a.png."),
    ("a folder", lambda: load_image("."), "There is no file ."),
    ("nobody's folder", lambda: load_image("~no.body/a.png"), "There is no file ~no.body/a.png."),
    ("nobody's clip", lambda: SMALL.videos(["~no.body/a.mp4"]), "There is no file ~no.body/a.mp4."),
    ("no name", lambda: load_image(""), "There is no file without a name."),
    ("a name that cannot be", lambda: load_image("a\0b.png"), "There is no file a"),
    ("no base64", lambda: load_image("data:image/svg+xml;utf8,<svg/>"), "holds no base64 behind its comma"),
    ("nothing encoded", lambda: SMALL.videos(["data:image/png;base64,"]), "The clip holds no base64 behind its comma"),
    ("base64, cut short", lambda: load_image(f"data:image/png;base64,{BASE64[:2000]}"), "seems cut short or damaged"),
    ("base64 of no picture", lambda: load_image("photos/cat"), "There is no file photos/cat, and what this"),
    ("base64 of no clip", lambda: SMALL.videos(["photos/cat"]), "as base64 is neither a picture nor a video"),
    ("an address", lambda: load_image("https://example.com/a.png"), "save https://example.com/a.png as a file"),
    ("empty file", lambda: load_image(b""), "The picture is no picture of a kind that pillow knows."),
    ("text", lambda: load_image(b"Ann has a red cup"), "no picture of a kind that pillow knows"),
    ("cut short, PNG", lambda: load_image(as_file(picture(64, 64))[:5000]), "seems cut short or damaged"),
    ("cut short, JPEG", lambda: load_image(as_file(picture(64, 64), "JPEG")[:2000]), "seems cut short or damaged"),
    ("damaged", lambda: load_image(as_file(picture(64, 64))[:200].ljust(9000, b"?")), "seems cut short or damaged"),
    ("a number", lambda: load_image(3), "an image of pillow or an array, not int."),
    ("two channels", lambda: load_image(noise(9, 9, 2)), "with 1, 3 or 4 channels, not (9, 9, 2)."),
    ("four dimensions", lambda: load_image(noise(2, 9, 9, 3)), "not (2, 9, 9, 3)."),
    ("empty array", lambda: load_image(noise(0, 9, 3)), "not (0, 9, 3)."),
    ("empty image", lambda: load_image(Image.new("RGB", (0, 9))), "The picture is empty: 0 x 9 pixels."),
    ("not a number", lambda: load_image(np.full((9, 9), np.nan)), "from 0 to 1, but this one from nan to nan."),
    ("beyond 1", lambda: load_image(torch.full((9, 9), 255.0)), "of float32 holds numbers from 0 to 1"),
    ("below 0", lambda: load_image(np.full((9, 9), -0.5)), "but this one from -0.5 to -0.5."),
    ("beyond 255", lambda: load_image(np.full((9, 9), 256)), "of int64 holds numbers from 0 to 255"),
    ("not numbers", lambda: load_image(np.full((9, 9), "a")), "whole numbers or floats, not <U1."),
    ("too large", lambda: load_image(Image.new("1", (9000, 9000))), "9,000 x 9,000 pixels, and 67,108,864 are"),
    ("too elongated", lambda: OFFICIAL.images([noise(10, 2001)]), "2001 x 10 pixels is too elongated"),
    ("clip too elongated", lambda: OFFICIAL.videos([noise(2, 2001, 10, 3)]), "10 x 2001 pixels is too elongated"),
    ("no frames", lambda: SMALL.videos([[]]), "The clip has no frames."),
    ("no frames in an array", lambda: SMALL.videos([noise(0, 64, 64, 3)]), "The clip has no frames."),
    ("three dimensions", lambda: SMALL.videos([noise(64, 64, 3)]), "has the shape (T, H, W, C), not (64, 64, 3)."),
    ("a picture as a clip", lambda: SMALL.videos([picture(9, 9)]), "A clip is a list of pictures"),
    ("frames of two sizes", lambda: SMALL.videos([[NOISE, NOISE[:60]]]),
     "the first has 80 x 64 pixels, and frame 1 has 80 x 60."),
    ("no video", lambda: SMALL.videos([b"Ann has a red cup"]), "neither a picture nor a video"),
    ("no such video", lambda: SMALL.videos(["nowhere/a.mp4"]), "There is no file nowhere/a.mp4."),
    ("GIF cut short", lambda: SMALL.videos([animation("GIF", noise(9, 64, 64, 3))[:20_000]]), "cut short or damaged"),
    ("rates for others", lambda: SMALL.videos([[NOISE]], fps=[1, 2]), "are given for 2 of 1 clips"),
    ("no rate", lambda: SMALL.videos([[NOISE]], fps=0), "Frames per second are a number above 0, not 0."),
    ("no number as rate", lambda: SMALL.videos([Clip([NOISE], fps="10")]), "a number above 0, not '10'."),
    ("a picture too few", lambda: SMALL.expand(2 * "<|image_pad|>", SMALL.images([NOISE])),
     "The text must have one <|image_pad|> for each picture, but has 2 for 1."),
    ("a picture too many", lambda: SMALL.expand("What is it?", SMALL.images([NOISE])), "has 0 for 1"),
    ("no picture at all", lambda: SMALL.expand("<|image_pad|>"), "has 1 for 0"),
    ("a clip too few", lambda: SMALL.expand(WRAPPED + WRAPPED, videos=SMALL.videos([[NOISE]])),
     "The text must have one <|video_pad|> for each clip, but has 2 for 1."),
    ("a clip too many", lambda: SMALL.expand("", videos=SMALL.videos([[NOISE]])), "has 0 for 1"),
]


def sentence(error):
    """What a QwenError says, if it is one sentence on one line."""
    said = str(error.value)
    assert said.endswith(".") and "\n" not in said and said[0] == said[0].upper()
    return said


@pytest.mark.parametrize("mistake, says", [row[1:] for row in SENTENCES], ids=[row[0] for row in SENTENCES])
def test_what_is_wrong_is_said(mistake, says):
    if "video" in says:
        pytest.importorskip("av")
    with pytest.raises(QwenError) as error:
        mistake()
    assert says in sentence(error)


@pytest.mark.parametrize("given", [
    BASE64 + "!", LINES + "!", f"data:image/png;base64,{BASE64}!", f"data:image/png;base64,{LINES[:900]}!",
    BASE64[:4000], LINES[:4000], 9000 * "x", 9000 * "x" + ".png", f"https://example.com/{BASE64}"])
def test_no_error_prints_a_whole_picture(given):
    for use in (load_image, lambda given: SMALL.videos([given])):
        with pytest.raises(QwenError) as error:
            use(given)
        assert len(sentence(error)) < 400


def test_a_picture_bomb_is_not_decoded(monkeypatch):
    """A file of a few kilobytes that would fill gigabytes: by our limit, and by pillow's own."""
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    for side in (8_200, 10_000, 40_000):  # pillow is content; warns; refuses
        size = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        header = b"IHDR" + size
        file = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        file += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
        for use in (load_image, lambda file: SMALL.videos([file])):
            with warnings.catch_warnings(), pytest.raises(QwenError) as error:
                warnings.simplefilter("error")
                use(file)
            assert re.search("67,108,864.* the most that are read", sentence(error))


@pytest.mark.parametrize("part", [0.97, 0.9, 0.5])
@pytest.mark.parametrize("kind, codec, times", [
    ("mp4", "mpeg4", None), ("mp4", "libx264", None), ("avi", "mpeg4", None), ("avi", "mpeg4", GAPS),
    ("matroska", "mpeg4", None), ("webm", "libvpx", GAPS), ("flv", "flv", None)])
def test_a_video_that_is_cut_short(kind, codec, times, part):
    """Wherever the cut falls, within a frame or between two."""
    options = {"movflags": "faststart"} if kind == "mp4" else {}
    whole = video(noise(25, 64, 80, 3), kind, codec, times=times and times + list(range(40, 55)), **options)
    if times is None:
        assert SMALL.videos([whole]).frames == [[0, 6, 12, 18, 24]]
    with pytest.raises(QwenError) as error:
        SMALL.videos([whole[: int(len(whole) * part)]])
    assert "cut short" in sentence(error)


def test_a_video_that_is_cut_between_two_frames():
    """Then no decoder stumbles, but the file is shorter than it says."""
    whole = video(noise(25, 64, 80, 3), "avi", times=GAPS + list(range(40, 55)))
    part = whole[: whole.rindex(b"00dc", 0, whole.index(b"idx1"))]
    with pytest.raises(QwenError) as error:
        SMALL.videos([part])
    assert f"is cut short: {len(part):,} of its {len(whole):,} bytes are there; fetch it again." in sentence(error)


def test_a_video_that_lost_the_list_of_its_frames():
    with pytest.raises(QwenError) as error:
        SMALL.videos([video(greys(25))[:2000]])  # it stands at the end
    assert "neither a picture nor a video of a known kind, or it is damaged" in sentence(error)


def test_sound_alone_is_no_clip():
    pytest.importorskip("av")
    file = io.BytesIO()
    with wave.open(file, "w") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
        sound.writeframes(bytes(2000))
    with pytest.raises(QwenError) as error:
        SMALL.videos([file.getvalue()])
    assert sentence(error) == "The clip has sound or text in it, but no pictures."


def test_without_av_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(QwenError) as error:
        SMALL.videos([b"a film"])
    assert "pip install av" in sentence(error)


# ---------------------------------------------------------------------------------------------------- settings

# As the official checkpoints have them.
PICTURES_FILE = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16, "temporal_patch_size": 2,
    "merge_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor", "image_processor_type": "Qwen2VLImageProcessorFast"}
CLIPS_FILE = PICTURES_FILE | {
    "size": {"longest_edge": 25165824, "shortest_edge": 4096}, "video_processor_type": "Qwen3VLVideoProcessor"}


def written(folder, image=None, video=None, together=None):
    for name, content in (("preprocessor_config.json", image), ("video_preprocessor_config.json", video),
                          ("processor_config.json", together)):
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return folder


def test_official_settings(tmp_path):
    assert Processor.from_folder(tmp_path) == OFFICIAL, "where there are none"
    assert Processor.from_folder(written(tmp_path, PICTURES_FILE, CLIPS_FILE)) == OFFICIAL
    assert OFFICIAL.video != Processor().image


def test_settings_that_transformers_saved(tmp_path):
    """It writes both into one file, and reads that one before older ones that may still lie beside it."""
    for processor in (SMALL, UNSAMPLED, UNEVEN, CAPPED):
        official_processor(processor).save_pretrained(tmp_path)
        assert (tmp_path / "processor_config.json").exists()
        assert Processor.from_folder(written(tmp_path, PICTURES_FILE, CLIPS_FILE)) == processor
        written(tmp_path, official_dict(processor.image), official_dict(processor.video), {"processor_class": "Qwen"})
        assert Processor.from_folder(tmp_path) == processor, "in two files, beside one that holds neither"


def test_older_names_for_the_budget(tmp_path):
    for image in ({"min_pixels": 3136, "max_pixels": 200704}, {"size": {"min_pixels": 3136, "max_pixels": 200704}},
                  {"size": {"shortest_edge": 9, "longest_edge": 99}, "min_pixels": 3136, "max_pixels": 200704}):
        settings = Processor.from_folder(written(tmp_path, image)).image
        assert (settings.shortest_edge, settings.longest_edge) == (3136, 200704)


def test_the_model_says_how_large_its_patches_are(tmp_path):
    vision = SimpleNamespace(patch_size=8, temporal_patch_size=2, spatial_merge_size=2)
    assert Processor.from_folder(tmp_path, vision).image.patch_size == 8
    with pytest.raises(QwenError) as error:
        Processor.from_folder(written(tmp_path, {}, CLIPS_FILE), vision)
    assert "video_preprocessor_config.json: patch_size is 16, but the model was made for 8." in sentence(error)


@pytest.mark.parametrize("wrong, says", [
    ({"size": 448}, "size should hold shortest_edge and longest_edge, but is 448."),
    ({"size": {"height": 448, "width": 448}}, "size should hold shortest_edge and longest_edge, but is {'height'"),
    ({"size": {"shortest_edge": 1.5}}, "shortest_edge should be a whole number above 0, but is 1.5."),
    ({"max_pixels": -1}, "longest_edge should be a whole number above 0, but is -1."),
    ({"min_pixels": 900, "max_pixels": 100}, "shortest_edge is 900, more than longest_edge, which is 100."),
    ({"min_frames": 9, "max_frames": 8}, "min_frames is 9, more than max_frames, which is 8."),
    ({"patch_size": "16"}, "patch_size should be a whole number above 0, but is '16'."),
    ({"image_mean": 0.5}, "image_mean should be three numbers, but is 0.5."),
    ({"image_mean": [0.5, 0.5, "x"]}, "image_mean should be three numbers"),
    ({"image_std": [0.5, 0.5, 0]}, "image_std should be three numbers above 0, but is [0.5, 0.5, 0]."),
    ({"rescale_factor": 0}, "rescale_factor should be a number above 0, but is 0."),
    ({"do_sample_frames": "no"}, "do_sample_frames should be true or false, but is 'no'."),
    ({"fps": True}, "fps should be a number above 0, but is True."),
    ({"do_resize": False}, "do_resize is False, but here it can only be True."),
    ({"resample": 2}, "resample is 2, but here it can only be 3."),
    ({"num_frames": 8}, "num_frames is 8, but here it can only be None."),
    ({"video_processor_type": "Qwen2VLVideoProcessor"}, "is for a Qwen2VLVideoProcessor"),
], ids=str)
def test_settings_that_are_wrong(tmp_path, wrong, says):
    with pytest.raises(QwenError) as error:
        Processor.from_folder(written(tmp_path, video=CLIPS_FILE | wrong))
    assert str(tmp_path / "video_preprocessor_config.json") in sentence(error) and says in sentence(error)
    with pytest.raises(QwenError) as error:
        Processor.from_folder(written(tmp_path, together={"video_processor": wrong}))
    assert str(tmp_path / "processor_config.json") in sentence(error) and says in sentence(error)


def test_settings_that_are_none(tmp_path):
    with pytest.raises(QwenError) as error:
        Processor.from_folder(written(tmp_path, together={"image_processor": "Qwen2VLImageProcessor"}))
    assert "image_processor should hold settings, but is 'Qwen2VLImageProcessor'." in sentence(error)
    written(tmp_path, together={}, image={name: None for name in vars(CLIPS)})
    assert Processor.from_folder(tmp_path) == OFFICIAL, "what is null is absent"


# ------------------------------------------------------------------------------------------------- torchvision


def test_torchvision_is_let_in(monkeypatch):
    assert let_torchvision_in() is True
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as if it were not installed
    assert let_torchvision_in() is False


def test_torchvision_in_a_fresh_process():
    """Also after an import of it has failed, and however often it is asked for."""
    program = """if True:
        try:
            import torchvision
        except Exception:
            pass
        from minqwen.verify import let_torchvision_in, official_modules
        if let_torchvision_in() and let_torchvision_in():
            from transformers import Qwen3VLProcessor
        official_modules()"""
    pytest.importorskip("transformers", minversion="5.23")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
