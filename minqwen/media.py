"""Pictures and clips to what the vision tower reads: patches of pixels, grids and placeholders.

A picture is resized once, to a multiple of the patch that keeps its shape and fits a budget of pixels; its colours are
brought to about -1..1; it is cut into patches, and 2 x 2 patches that will become one token stand next to each other.
A clip is first thinned out to a few frames a second, and every two frames become one slice of patches, which stands in
the text behind its own time. All of it is what the official processors do, to the last bit: in `transformers`,
Qwen2VLImageProcessor, Qwen3VLVideoProcessor and Qwen3VLProcessor; tests/test_media.py compares.

Symbols: N patches in all, P pixels along a patch, F frames of a slice (2), C colours (3), H and W the height and width.
"""

import io
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import QwenError, read_json

if TYPE_CHECKING:
    from .model import VisionConfig

__all__ = ["Clip", "Images", "Processor", "Settings", "Videos", "load_image", "sample_frames", "smart_resize"]

MOST_PIXELS = 2**26      # of one picture, before it is decoded: 8192 x 8192, four times what official models look at
MOST_ELONGATED = 200     # times as long as wide; the official limit
UNKNOWN_FPS = 24         # what the official code takes a clip for that does not say

# -------------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Settings:
    """How pictures, or clips, are prepared: by the official names, with the official values for pictures.

    `shortest_edge` and `longest_edge` are, whatever they are called, the least and the most pixels of a picture, or of
    all frames of a clip together.
    """

    shortest_edge: int = 65_536
    longest_edge: int = 16_777_216
    patch_size: int = 16
    temporal_patch_size: int = 2
    merge_size: int = 2
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    rescale_factor: float = 1 / 255
    do_sample_frames: bool = True    # from here on, for clips only: False takes all frames
    fps: float = 2                   # how many frames to take of each second,
    min_frames: int = 4              # but at least so many, if there are,
    max_frames: int = 768            # and at most so many

    @classmethod
    def from_dict(cls, official: dict, source: object, default: "Settings") -> "Settings":
        """Reads what a preprocessor_config.json holds; `source` is named in errors, `default` fills what is absent.

        Raises:
            QwenError: a value is of the wrong type, out of range, or asks for something that is not done here.
        """
        values = {name.name: official[name.name] for name in fields(cls) if official.get(name.name) is not None}
        size = official.get("size") or {}
        if not isinstance(size, dict):
            raise QwenError(f"{source}: size should hold shortest_edge and longest_edge, but is {size!r}.")
        for name, older in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
            found = official.get(older) or size.get(name) or size.get(older)    # the older name is asked first
            values |= {name: found} if found is not None else {}
        for name, value in values.items():
            values[name] = _checked(source, name, value, getattr(default, name))
        settings = replace(default, **values)
        if settings.shortest_edge > settings.longest_edge or settings.min_frames > settings.max_frames:
            raise QwenError(f"{source}: the least pixels or frames are more than the most.")
        for name, value in DONE.items():
            if official.get(name, value) not in (value, None):
                raise QwenError(f"{source}: {name} is {official[name]!r}, but here it can only be {value!r}.")
        return settings


DONE = dict(do_resize=True, do_rescale=True, do_normalize=True, do_convert_rgb=True, resample=3, do_center_crop=False,
            do_pad=False, num_frames=None, cap_pixels_per_frame=False)    # settings that have but one value here
CLIPS = Settings(shortest_edge=4_096, longest_edge=25_165_824)            # the official values for clips


def _checked(source, name, value, example):
    """The value, if it is like the example: positive, and of its type."""
    if isinstance(example, tuple):
        if isinstance(value, list) and len(value) == len(example) and all(map(_is_number, value)):
            if name != "image_std" or all(v > 0 for v in value):
                return tuple(value)
        what = "a list of three numbers" + (" above 0" if name == "image_std" else "")
    elif isinstance(example, bool):
        what = "true or false"
        if isinstance(value, bool):
            return value
    else:
        whole = name not in ("fps", "rescale_factor")
        what = f"a {'whole ' * whole}number above 0"
        if _is_number(value) and value > 0 and (value == int(value) or not whole):
            return int(value) if whole else value
    raise QwenError(f"{source}: {name} should be {what}, but is {value!r}.")


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# ------------------------------------------------------------------------------------------------------- processor


@dataclass(frozen=True)
class Images:
    """Pictures, ready for the model: `pixel_values` (N, C * F * P * P) float32, `grid_thw` (pictures, 3) long."""

    pixel_values: Tensor
    grid_thw: Tensor


@dataclass(frozen=True)
class Videos:
    """Clips, ready for the model.

    Attributes:
        pixel_values: (N, C * F * P * P) float32.
        grid_thw: (clips, 3) long: slices, and patches down and across.
        timestamps: for each clip, the time of each of its slices in seconds.
        frames: for each clip, which of its frames were taken.
    """

    pixel_values: Tensor
    grid_thw: Tensor
    timestamps: list[list[float]]
    frames: list[list[int]]


@dataclass(frozen=True)
class Clip:
    """A clip and what it cannot say itself.

    Attributes:
        frames: a list of pictures, an array (T, H, W, C), or the path or bytes of a video or an animation.
        fps: its frames per second; None: what its file says, or else 24.
        sample: take a few frames of each second (True), or all of them (False); None leaves it to the settings.
    """

    frames: object
    fps: float | None = None
    sample: bool | None = None


@dataclass(frozen=True)
class Processor:
    """Makes pictures and clips into patches, and placeholders into as many as there are tokens.

    Args:
        image, video: the settings for pictures and for clips.
    """

    image: Settings = Settings()
    video: Settings = CLIPS

    @classmethod
    def from_folder(cls, folder, vision_config: "VisionConfig | None" = None) -> "Processor":
        """Reads the settings of a checkpoint; what is absent has the official value, and patches as the model has them.

        They stand in preprocessor_config.json and video_preprocessor_config.json, or together in processor_config.json
        if `transformers` 5 saved them.

        Raises:
            QwenError: a setting is wrong, or does not fit the model.
        """
        folder, cut = Path(folder), {}
        if vision_config is not None:
            cut = dict(patch_size=vision_config.patch_size, temporal_patch_size=vision_config.temporal_patch_size,
                       merge_size=vision_config.spatial_merge_size)
        both = folder / "processor_config.json"
        together = read_json(both) if both.exists() else {}
        found = []
        for file, part, default in (("preprocessor_config.json", "image_processor", Settings()),
                                    ("video_preprocessor_config.json", "video_processor", CLIPS)):
            path, official = folder / file, together.get(part)
            source = f"{both}, {part}" if official is not None else path
            if official is None:
                official = read_json(path) if path.exists() else {}
            if not isinstance(official, dict):
                raise QwenError(f"{both}: {part} should hold settings, but is {official!r}.")
            settings = Settings.from_dict(official, source, replace(default, **cut))
            for name, value in cut.items():
                if getattr(settings, name) != value:
                    raise QwenError(f"{source}: {name} is {getattr(settings, name)}, but the model's is {value}.")
            found.append(settings)
        return cls(*found)

    def images(self, pictures: Iterable) -> Images:
        """Pictures to patches.

        Args:
            pictures: a list of anything that `load_image` takes.

        Raises:
            QwenError: one of them is no picture, or has no use as one.
        """
        settings, patches, grids = self.image, [], []
        for picture in _several(pictures):
            pixels = _pixels(load_image(picture))  # (1, C, H, W)
            pixels = _resize(pixels, image_size(*pixels.shape[-2:], settings))
            pixels = pixels.expand(settings.temporal_patch_size, -1, -1, -1)  # a still picture fills a slice
            patches.append(_patches(pixels, settings))
            grids.append(_grid(pixels, settings))
        return Images(_joined(patches, settings), torch.tensor(grids, dtype=torch.long).view(-1, 3))

    def videos(self, clips: Iterable, fps: float | Sequence[float] | None = None) -> Videos:
        """Clips to patches.

        Args:
            clips: a list of clips; each is a list of pictures, an array or tensor (T, H, W, C), the path or bytes of a
                video or an animation (GIF, WebP, PNG), or a `Clip` of any of these.
            fps: frames per second of the clips that do not say it themselves, one number or one for each clip. It
                decides which frames are taken, and the times in the text. None is 24.

        Raises:
            QwenError: one of them is no clip, or its frames differ in size, or cannot be read.
        """
        settings, clips = self.video, _several(clips)
        rates = list(fps) if isinstance(fps, Sequence) else [fps] * len(clips)
        if len(rates) != len(clips):
            raise QwenError(f"There are {len(clips)} clips, but {len(rates)} rates of frames per second.")
        patches, grids, timestamps, frames = [], [], [], []
        for clip, rate in zip(clips, rates):
            clip = clip if isinstance(clip, Clip) else Clip(clip)
            film = _open_film(clip.frames)
            rate = _checked_fps(next((r for r in (clip.fps, film.fps, rate) if r is not None), UNKNOWN_FPS))
            sampled = settings.do_sample_frames if clip.sample is None else clip.sample
            chosen = sample_frames(film.count, rate, settings) if sampled else list(range(film.count))
            pixels = _read(film, chosen, settings)  # (T, C, H, W)
            spare = -len(chosen) % settings.temporal_patch_size
            pixels = torch.cat([pixels, pixels[-1:].expand(spare, -1, -1, -1)])  # the last frame fills its slice
            patches.append(_patches(pixels, settings))
            grids.append(_grid(pixels, settings))
            timestamps.append(_timestamps(chosen + chosen[-1:] * spare, rate, settings.temporal_patch_size))
            frames.append(chosen)
        grids = torch.tensor(grids, dtype=torch.long).view(-1, 3)
        return Videos(_joined(patches, settings), grids, timestamps, frames)

    def expand(self, text: str, images: Images | None = None, videos: Videos | None = None) -> str:
        """The text with as many placeholders as there are tokens of pictures and clips, in order of reading.

        A picture's `<|image_pad|>` is repeated. A clip's `<|vision_start|><|video_pad|><|vision_end|>` becomes, for
        each slice, `<0.3 seconds><|vision_start|>`, the placeholders, `<|vision_end|>`.

        Raises:
            QwenError: there are more or fewer placeholders than pictures or clips.
        """
        pictures = [IMAGE * (grid.prod().item() // self.image.merge_size**2) for grid in _grids(images)]
        clips = [
            "".join(f"<{time:.1f} seconds>{START}{VIDEO * (h * w // self.video.merge_size**2)}{END}" for time in times)
            for (_, h, w), times in zip(_grids(videos).tolist(), videos.timestamps if videos else [])
        ]
        for name, placeholder, given in (("picture", IMAGE, pictures), ("clip", VIDEO, clips)):
            if (places := text.count(placeholder)) != len(given):
                raise QwenError(f"The text has {places} {placeholder} for {len(given)} {name}s; it needs one for each.")
        queues = {IMAGE: iter(pictures), VIDEO: iter(clips)}
        return PLACEHOLDERS.sub(lambda match: next(queues[match["image"] or VIDEO]), text)


START, END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
PLACEHOLDERS = re.compile("(?P<image>{1})|{0}{2}{3}|{2}".format(*map(re.escape, (START, IMAGE, VIDEO, END))))


def _grids(media: Images | Videos | None) -> Tensor:
    return torch.empty(0, 3, dtype=torch.long) if media is None else media.grid_thw


def _several(things) -> list:
    """A list of pictures or clips; a single one may come without brackets."""
    return list(things) if isinstance(things, (list, tuple)) else [things]


def _joined(patches: list[Tensor], settings: Settings) -> Tensor:
    width = 3 * settings.temporal_patch_size * settings.patch_size**2
    return torch.cat([torch.empty(0, width), *patches])


# --------------------------------------------------------------------------------------------------------- pixels


def smart_resize(height: int, width: int, factor: int, shortest_edge: int, longest_edge: int,
                 frames: int = 1, counted_frames: int = 1) -> tuple[int, int]:
    """The height and width to resize to: multiples of `factor` that keep the shape and the budget of pixels.

    Both are rounded, halves to the even multiple. Where that is too many or too few pixels, both are scaled by the
    same factor first, and then rounded down or up, so that the budget is kept.

    Args:
        height, width: in pixels.
        factor: patch times merge, in pixels.
        shortest_edge, longest_edge: the least and the most pixels, of all frames together.
        frames, counted_frames: of a clip, and as they count against the budget: rounded to whole slices.
    """
    h, w = (round(side / factor) * factor for side in (height, width))  # Python rounds half to even
    if counted_frames * h * w > longest_edge:
        scale = math.sqrt(frames * height * width / longest_edge)
        h, w = (max(factor, math.floor(side / scale / factor) * factor) for side in (height, width))
    elif counted_frames * h * w < shortest_edge:
        scale = math.sqrt(shortest_edge / (frames * height * width))
        h, w = (math.ceil(side * scale / factor) * factor for side in (height, width))
    return h, w


def image_size(height: int, width: int, settings: Settings) -> tuple[int, int]:
    """The size in pixels that a picture is resized to. Raises QwenError for one that is empty or too elongated."""
    _check_shape(height, width)
    factor = settings.patch_size * settings.merge_size
    return smart_resize(height, width, factor, settings.shortest_edge, settings.longest_edge)


def video_size(frames: int, height: int, width: int, settings: Settings) -> tuple[int, int]:
    """The size in pixels that each of a clip's frames is resized to. Raises QwenError as `image_size` does."""
    _check_shape(height, width)
    factor, slice = settings.patch_size * settings.merge_size, settings.temporal_patch_size
    frames = max(frames, slice)  # the official code refuses a single frame, which we repeat
    if min(height, width) < factor:  # official, for clips only: as if it had been enlarged to one token
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    return smart_resize(height, width, factor, settings.shortest_edge, settings.longest_edge,
                        frames, round(frames / slice) * slice)


def _check_shape(height, width):
    if min(height, width) < 1:
        raise QwenError(f"A picture of {width} x {height} pixels has nothing to look at.")
    if max(height, width) / min(height, width) > MOST_ELONGATED:
        raise QwenError(f"A picture of {width} x {height} pixels is more than {MOST_ELONGATED} times as long as wide; "
                        "crop it.")


def _pixels(image: Image.Image) -> Tensor:
    return rearrange(torch.from_numpy(np.array(image)), "h w c -> 1 c h w")  # uint8


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic, antialiased, and from bytes to bytes, which is not what resizing floats and rounding them gives."""
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    return F.interpolate(pixels.contiguous(), size=size, mode="bicubic", antialias=True, align_corners=False)


def _patches(pixels: Tensor, settings: Settings) -> Tensor:
    """Bytes (T, C, H, W) to normalised patches (N, C * F * P * P), those of one token next to each other."""
    # The official code fuses rescaling and normalising, and the order of the operations shows in the last bit.
    mean, std = (torch.tensor(x).view(3, 1, 1) * (1.0 / settings.rescale_factor)
                 for x in (settings.image_mean, settings.image_std))
    return rearrange((pixels.float() - mean) / std,
                     "(t f) c (h mh ph) (w mw pw) -> (t h w mh mw) (c f ph pw)", f=settings.temporal_patch_size,
                     mh=settings.merge_size, mw=settings.merge_size, ph=settings.patch_size, pw=settings.patch_size)


def _grid(pixels: Tensor, settings: Settings) -> tuple[int, int, int]:
    """How many slices, and patches down and across."""
    T, _, H, W = pixels.shape
    return T // settings.temporal_patch_size, H // settings.patch_size, W // settings.patch_size


# ------------------------------------------------------------------------------------------------------- pictures


def load_image(picture) -> Image.Image:
    """Any picture as an RGB image of pillow.

    What is transparent is laid on white, in whole numbers as pillow does it, since the official processor does so with
    pillow's images. The rotation that a camera notes in a file (EXIF) is applied; an image that is open already is
    taken as it is.

    Args:
        picture: a path, the bytes of a file, an image of pillow in any mode, or an array or tensor of the shape
            (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels: whole numbers 0..255, or floats 0..1.

    Raises:
        QwenError: it is no picture, is damaged, is empty, or has more than 67 million pixels.
    """
    if isinstance(picture, (np.ndarray, Tensor)):
        return _rgb(_from_array(picture))
    if isinstance(picture, Image.Image):
        name = "The picture"
        image = picture
    elif isinstance(picture, (str, os.PathLike, bytes, bytearray, memoryview)):
        name, file = _file(picture)
        image = _open(name, file)
    else:
        raise QwenError(f"A picture is a path, bytes, an image of pillow or an array, not a {type(picture).__name__}.")
    try:
        return _rgb(image if image is picture else ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, EOFError) as error:    # what pillow's many decoders raise
        raise QwenError(f"{name} is cut short or damaged ({error}); fetch or make it again.") from None


def _rgb(image: Image.Image) -> Image.Image:
    if min(image.size) < 1:
        raise QwenError(f"A picture of {image.width} x {image.height} pixels has nothing to look at.")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _file(source) -> tuple[str, object]:
    """What to call a file in an error, and what to open."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if not path.is_file():
            raise QwenError(f"There is no file {path}.")
        return str(path), path
    return f"What was given ({len(source):,} bytes)", io.BytesIO(source)


def _open(name: str, file) -> Image.Image:
    """Opened, not yet decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)    # our own limit is lower
            image = Image.open(file)
    except UnidentifiedImageError:
        raise QwenError(f"{name} is not a picture of a kind that pillow knows.") from None
    except Image.DecompressionBombError:
        raise QwenError(f"{name} has far more than {MOST_PIXELS:,} pixels, the most that are decoded.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise QwenError(f"{name} is cut short or damaged ({error}); fetch or make it again.") from None
    _check_pixels(name, *image.size)
    return image


def _check_pixels(name, width, height):
    if width * height > MOST_PIXELS:
        raise QwenError(f"{name} has {width:,} x {height:,} pixels, and at most {MOST_PIXELS:,} are decoded; "
                        "make it smaller.")


@contextmanager
def _damaged(name):
    """Turns what the many decoders raise into one sentence."""
    try:
        yield
    except QwenError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise QwenError(f"{name} is cut short or damaged ({error}); fetch or make it again.") from None


def _from_array(array) -> Image.Image:
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):    # official: where both ends could be colours, the first is
        array = np.moveaxis(array, 0, -1)
    if not (array.ndim == 2 or array.ndim == 3 and array.shape[-1] in (1, 3, 4)):
        raise QwenError("A picture as an array has the shape (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, "
                        f"not {tuple(array.shape)}.")
    if array.size == 0:
        raise QwenError(f"A picture as an array of the shape {tuple(array.shape)} has nothing to look at.")
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):    # NaN fails this too
            raise QwenError(f"A picture of floats has numbers from 0 to 1, not {array.min():g} to {array.max():g}.")
        array = (array * 255).round()
    elif array.dtype.kind in "iu":
        if array.min() < 0 or array.max() > 255:
            raise QwenError(f"A picture of whole numbers has those from 0 to 255, not {array.min()} to {array.max()}.")
    else:
        raise QwenError(f"A picture as an array holds whole numbers or floats, not {array.dtype}.")
    array = array.astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)


# ---------------------------------------------------------------------------------------------------------- clips


def sample_frames(count: int, fps: float, settings: Settings) -> list[int]:
    """Which of a clip's frames to take: evenly spread, the first and the last among them.

    Args:
        count: how many there are.
        fps: how many there are in a second.
        settings: how many to take of a second, at least, and at most.
    """
    wanted = int(count / fps * settings.fps)
    wanted = min(max(wanted, settings.min_frames), settings.max_frames, count)
    return np.linspace(0, count - 1, wanted).round().astype(int).tolist()


def _timestamps(frames: list[int], fps: float, slice: int) -> list[float]:
    """The time of each slice in seconds: half-way between its first frame and its last."""
    seconds = [frame / fps for frame in frames]
    return [(first + last) / 2 for first, last in zip(seconds[::slice], seconds[slice - 1 :: slice])]


@dataclass(frozen=True)
class _Film:
    """Frames to read: how many, how many a second if that is known, and a way to read those with given numbers."""

    count: int
    fps: float | None
    read: Callable[[list[int]], Iterator[Image.Image]]


def _open_film(frames) -> _Film:
    if isinstance(frames, (str, os.PathLike, bytes, bytearray, memoryview)):
        return _open_file(frames)
    if isinstance(frames, (np.ndarray, Tensor)) and frames.ndim != 4:
        raise QwenError(f"A clip as an array has the shape (T, H, W, C), not {tuple(frames.shape)}.")
    if not isinstance(frames, (list, tuple, np.ndarray, Tensor)):
        raise QwenError("A clip is a list of pictures, an array (T, H, W, C) or the path of a video, "
                        f"not a {type(frames).__name__}.")
    return _Film(len(frames), None, lambda chosen: (load_image(frames[i]) for i in chosen))


def _open_file(source) -> _Film:
    """An animation by pillow, any other video by av."""
    name, file = _file(source)
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        return _open_video(name, file)
    except Exception:  # _open says what it is
        image = _open(name, file)
    _check_pixels(name, *image.size)
    return _open_animation(name, image)


def _open_animation(name: str, image: Image.Image) -> _Film:
    count = getattr(image, "n_frames", 1)

    def read(chosen):
        with _damaged(name):
            for number in chosen:
                image.seek(number)
                yield _rgb(image)

    with _damaged(name):
        milliseconds = 0
        for number in range(count):
            image.seek(number)
            milliseconds += image.info.get("duration") or 100  # as browsers show frames without a duration
    return _Film(count, 1000 * count / milliseconds, read)


def _open_video(name: str, file) -> _Film:
    try:
        import av
    except ImportError:
        raise QwenError(f"{name} is no animation that pillow knows; other videos are read by av, which is missing "
                        "here: pip install 'minqwen[video]'.") from None
    def stream():
        with av.open(file) as container:
            yield from container.decode(video=0)

    with av.open(file) as container:
        track = container.streams.video[0]
        count, fps = track.frames, track.average_rate

    def read(chosen):
        for number, frame in enumerate(stream()):
            if number in chosen:
                yield frame.to_image()
    return _Film(count, float(fps), read)


def _read(film: _Film, chosen: list[int], settings: Settings) -> Tensor:
    """The frames with these numbers, each resized as soon as it is read, since a clip may be large: (T, C, H, W)."""
    if not chosen:
        raise QwenError("The clip has no frames.")
    frames, size, resized = [], None, None
    for number, image in zip(chosen, film.read(chosen), strict=True):
        if size is None:
            size, resized = image.size, video_size(len(chosen), image.height, image.width, settings)
        if image.size != size:
            raise QwenError(f"Frame {number} has {image.width} x {image.height} pixels, but the first of the clip has "
                            f"{size[0]} x {size[1]}; all must have the same.")
        frames.append(_resize(_pixels(image), resized))
    return torch.cat(frames)


def _checked_fps(fps) -> float:
    if not (_is_number(fps) and fps > 0):
        raise QwenError(f"A clip's frames per second are a number above 0, not {fps!r}.")
    return fps
