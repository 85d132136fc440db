"""Pictures and clips to what the vision tower reads: patches of pixels, grids, and placeholders in the text.

A picture is resized once, to whole patches, so that it keeps its shape and a budget of pixels. Its colours are brought
to about -1 ... 1, and it is cut into patches, where the 2 x 2 that will become one token stand next to each other. A
clip is first thinned out to a few frames a second; then every two frames make a slice of patches, and every slice
stands in the text behind its time. All this is what the official processors do, to the last bit: in `transformers`
these are Qwen2VLImageProcessor, Qwen3VLVideoProcessor and Qwen3VLProcessor (in their form for torchvision).

Symbols: N patches of all pictures, C = 3 colours, H and W a height and width in pixels, T frames of a clip, F = 2
frames of a slice (temporal_patch_size), P = 16 pixels along a patch (patch_size).
"""

import base64
import io
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from .errors import QwenError, read_json, short

if TYPE_CHECKING:
    from .config import VisionConfig

__all__ = ["Clip", "Images", "Processor", "Settings", "Videos",
           "image_size", "load_image", "sample_frames", "smart_resize", "video_size"]

MOST_PIXELS = 2**26  # of one picture: 8192 x 8192, four times as many as official models look at
MOST_ELONGATED = 200  # one side by the other; the official limit
UNKNOWN_FPS = 24  # what the official code takes a clip for that does not say

# ------------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Settings:
    """How pictures, or clips, are prepared, by the official names. The values are the official ones for pictures.

    `shortest_edge` and `longest_edge` are no edges, but the least and the most pixels of a picture, or of all frames of
    a clip together. The settings from `do_sample_frames` on are for clips.
    """

    shortest_edge: int = 65_536
    longest_edge: int = 16_777_216
    patch_size: int = 16
    temporal_patch_size: int = 2
    merge_size: int = 2
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    rescale_factor: float = 1 / 255
    do_sample_frames: bool = True  # False: take all frames
    fps: float = 2  # how many frames to take of each second,
    min_frames: int = 4  # but at least so many, if there are,
    max_frames: int = 768  # and at most so many
    cap_pixels_per_frame: bool = False  # also keep each frame within max_video_tokens
    max_video_tokens: int = 768

    @classmethod
    def from_dict(cls, official: dict, source: object, default: "Settings") -> "Settings":
        """Reads what a preprocessor_config.json holds.

        Args:
            official: the settings by name; with `size`, or with `min_pixels` and `max_pixels` as older files have it.
            source: the file, to be named in errors.
            default: what is absent is as here.

        Raises:
            QwenError: a value is of the wrong kind, or asks for something that is not done here.
        """
        size = official.get("size") or {}
        budget = {"shortest_edge", "longest_edge", "min_pixels", "max_pixels"}
        if not isinstance(size, dict) or {name for name in size if size[name] is not None} - budget:
            raise QwenError(f"{source}: size should hold shortest_edge and longest_edge, but is {short(repr(size))}.")
        official = {**size, **official}
        for name, older in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
            if official.get(older) is not None:
                official[name] = official[older]
        for name, only in NOT_SETTINGS.items():
            if official.get(name, only) not in (only, None):
                raise QwenError(f"{source}: {name} is {short(repr(official[name]))}, but here it can only be {only!r}.")
        given = {field.name: official[field.name] for field in fields(cls) if official.get(field.name) is not None}
        settings = replace(default, **{name: _setting(source, name, value, getattr(default, name))
                                       for name, value in given.items()})
        for least, most in (("shortest_edge", "longest_edge"), ("min_frames", "max_frames")):
            if getattr(settings, least) > getattr(settings, most):
                raise QwenError(f"{source}: {least} is {getattr(settings, least):,}, more than {most}, which is "
                                f"{getattr(settings, most):,}.")
        return settings


CLIPS = Settings(shortest_edge=4_096, longest_edge=25_165_824)  # the official values for clips
NOT_SETTINGS = dict(  # official names for what has but one value here
    do_resize=True, do_rescale=True, do_normalize=True, do_convert_rgb=True, resample=3, do_center_crop=False,
    do_pad=False, num_frames=None,
)  # fmt: skip


def _setting(source, name, value, example):
    """The value, if it is one for the setting of this name, of which `example` is one."""
    if isinstance(example, bool):
        right, what = isinstance(value, bool), "true or false"
    elif isinstance(example, tuple):
        least = 0 if name == "image_std" else -math.inf
        right = isinstance(value, list | tuple) and len(value) == 3 and all(_is_number(x) and x > least for x in value)
        value, what = tuple(value) if right else value, "three numbers" + " above 0" * (least == 0)
    elif isinstance(example, int) and name != "fps":
        right, what = _is_number(value) and value > 0 and value == int(value), "a whole number above 0"
        value = int(value) if right else value
    else:
        right, what = _is_number(value) and value > 0, "a number above 0"
    if not right:
        raise QwenError(f"{source}: {name} should be {what}, but is {short(repr(value))}.")
    return value


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


# ------------------------------------------------------------------------------------------------------ processor


@dataclass(frozen=True, eq=False)
class Images:
    """Pictures, ready for the model.

    Attributes:
        pixel_values: (N, C * F * P * P) float32.
        grid_thw: (pictures, 3) long: one slice, patches down, patches across.
    """

    pixel_values: Tensor
    grid_thw: Tensor


@dataclass(frozen=True, eq=False)
class Videos:
    """Clips, ready for the model.

    Attributes:
        pixel_values: (N, C * F * P * P) float32.
        grid_thw: (clips, 3) long: slices, patches down, patches across.
        timestamps: the time of each slice of each clip, in seconds.
        frames: which frames of each clip were taken.
    """

    pixel_values: Tensor
    grid_thw: Tensor
    timestamps: list[list[float]]
    frames: list[list[int]]


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip, and what its frames cannot say.

    Attributes:
        frames: a list of pictures, an array (T, H, W, C), or the path or bytes of a video or an animation.
        fps: its frames per second; None is what its file says.
        sample: whether to take a few frames of each second, or all; None leaves that to the settings.
    """

    frames: object
    fps: float | None = None
    sample: bool | None = None


START, END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"


@dataclass(frozen=True)
class Processor:
    """Makes patches of pictures and clips, and a placeholder in the text for every token of them.

    Args:
        image: the settings for pictures.
        video: the settings for clips.
        keep_outer_marks: what `expand` does with the vision_start and vision_end that a template puts around a clip.
            False lets them go, since each slice has its own: so do the code that came with Qwen3-VL and the official
            tests of Qwen3.5. True keeps them around all slices, as `transformers` does since 5.12 (at least to 5.23).
    """

    image: Settings = Settings()
    video: Settings = CLIPS
    keep_outer_marks: bool = False

    @classmethod
    def from_folder(cls, folder, vision_config: "VisionConfig | None" = None) -> "Processor":
        """Reads a checkpoint's settings; what is absent is as in the official checkpoints.

        They stand in preprocessor_config.json and video_preprocessor_config.json, or, written by `transformers` 5, both
        in processor_config.json, which is asked first.

        Args:
            folder: the checkpoint's.
            vision_config: its patches, if given, must be those of the settings.

        Raises:
            QwenError: a setting is wrong or does not fit the model, by name.
        """
        folder = Path(folder)
        together = folder / "processor_config.json"
        parts = read_json(together) if together.exists() else {}
        wanted = {} if vision_config is None else dict(
            patch_size=vision_config.patch_size, temporal_patch_size=vision_config.temporal_patch_size,
            merge_size=vision_config.spatial_merge_size)  # fmt: skip

        def settings(part, name, kind, default):
            source, official = together, parts.get(part)
            if official is None:
                source = folder / name
                official = read_json(source) if source.exists() else {}
            if not isinstance(official, dict):
                raise QwenError(f"{source}: {part} should hold settings, but is {short(repr(official))}.")
            if not str(official.get(f"{part}_type", kind)).startswith(kind):  # older names end in Fast
                told = short(official[f"{part}_type"])
                raise QwenError(f"{source} is for a {told}, but here only a {kind} is known.")
            found = Settings.from_dict(official, source, replace(default, **wanted))
            for name, value in wanted.items():
                if getattr(found, name) != value:
                    raise QwenError(f"{source}: {name} is {getattr(found, name)}, but the model was made for {value}.")
            return found

        return cls(settings("image_processor", "preprocessor_config.json", "Qwen2VLImageProcessor", Settings()),
                   settings("video_processor", "video_preprocessor_config.json", "Qwen3VLVideoProcessor", CLIPS))

    def images(self, pictures: Iterable) -> Images:
        """Pictures to patches.

        Args:
            pictures: a list of what `load_image` takes.

        Raises:
            QwenError: one of them is no picture, or cannot be used as one.
        """
        settings, patches, grids = self.image, [], []
        for picture in _several(pictures):
            pixels = _pixels(load_image(picture))  # (1, C, H, W)
            pixels = _normalize(_resize(pixels, image_size(*pixels.shape[-2:], settings)), settings)
            pixels = pixels.expand(settings.temporal_patch_size, -1, -1, -1)  # a still picture fills its slice
            patches.append(_patches(pixels, settings))
            grids.append(_grid(pixels, settings))
        return Images(_joined(patches, settings), torch.tensor(grids, dtype=torch.long).view(-1, 3))

    def videos(self, clips: Iterable, fps: float | Sequence[float] | None = None) -> Videos:
        """Clips to patches.

        Args:
            clips: a list of clips: each a list of pictures, an array or tensor (T, H, W, C), the path or bytes of a
                video or an animation (GIF, WebP, PNG), or a `Clip` of one of these.
            fps: how many frames per second the clips have that do not say so, as one number or as one for each. It
                decides which frames are taken, and what times they have. None is 24, as in the official code.

        Raises:
            QwenError: one of them is no clip, cannot be read, or has frames of several sizes.
        """
        settings, clips = self.video, _several(clips)
        rates = list(fps) if isinstance(fps, list | tuple) else [fps] * len(clips)
        if len(rates) != len(clips):
            raise QwenError(f"Frames per second are given for {len(rates)} of {len(clips)} clips; give one number, or "
                            "one for each.")
        patches, grids, timestamps, frames = [], [], [], []
        for clip, rate in zip(clips, rates):
            clip = clip if isinstance(clip, Clip) else Clip(clip)
            film = _open_film(clip.frames)
            rate = _checked_fps(next((r for r in (clip.fps, film.fps, rate) if r is not None), UNKNOWN_FPS))
            sample = settings.do_sample_frames if clip.sample is None else clip.sample
            taken = sample_frames(film.count, rate, settings) if sample else list(range(film.count))
            pixels = _normalize(_read(film, taken, settings), settings)  # (T, C, H, W)
            spare = -len(taken) % settings.temporal_patch_size
            pixels = torch.cat([pixels, pixels[-1:].expand(spare, -1, -1, -1)])  # the last frame fills its slice
            patches.append(_patches(pixels, settings))
            grids.append(_grid(pixels, settings))
            timestamps.append(_timestamps(taken + taken[-1:] * spare, rate, settings.temporal_patch_size))
            frames.append(taken)
        grids = torch.tensor(grids, dtype=torch.long).view(-1, 3)
        return Videos(_joined(patches, settings), grids, timestamps, frames)

    def expand(self, text: str, images: Images | None = None, videos: Videos | None = None) -> str:
        """The text with a placeholder for every token of its pictures and clips, which are taken in order of reading.

        `<|image_pad|>` is repeated. `<|vision_start|><|video_pad|><|vision_end|>` becomes, for each slice,
        `<0.3 seconds><|vision_start|>`, its placeholders, and `<|vision_end|>`.

        Raises:
            QwenError: the text has a placeholder without a picture or clip, or the other way round.
        """
        pictures, clips = [], []
        if images is not None:
            pictures = [IMAGE * (t * h * w // self.image.merge_size**2) for t, h, w in images.grid_thw.tolist()]
        if videos is not None:
            for (_, h, w), seconds in zip(videos.grid_thw.tolist(), videos.timestamps):
                tokens = VIDEO * (h * w // self.video.merge_size**2)
                clips.append("".join(f"<{time:.1f} seconds>{START}{tokens}{END}" for time in seconds))
        for placeholder, given, name in ((IMAGE, pictures, "picture"), (VIDEO, clips, "clip")):
            if text.count(placeholder) != len(given):
                raise QwenError(f"The text must have one {placeholder} for each {name}, but has "
                                f"{text.count(placeholder)} for {len(given)}.")
        if not self.keep_outer_marks:
            text = text.replace(START + VIDEO + END, VIDEO)
        queues = {IMAGE: iter(pictures), VIDEO: iter(clips)}
        return re.sub(f"{re.escape(IMAGE)}|{re.escape(VIDEO)}", lambda place: next(queues[place[0]]), text)


def _several(things) -> list:
    """A list of pictures or clips; a single one may come without a list."""
    return list(things) if isinstance(things, list | tuple) else [things]


def _joined(patches: list[Tensor], settings: Settings) -> Tensor:
    width = 3 * settings.temporal_patch_size * settings.patch_size**2
    return torch.cat(patches) if patches else torch.empty(0, width)


# --------------------------------------------------------------------------------------------------------- pixels


def smart_resize(height: int, width: int, factor: int, shortest_edge: int, longest_edge: int,
                 frames: int = 1, counted: int = 1) -> tuple[int, int]:
    """The height and width to resize to: multiples of `factor` that keep the shape, and the budget of pixels.

    Both are rounded, halves to the even multiple. If that makes too many pixels, or too few, both are scaled first, and
    then rounded down, or up, so that the budget is kept.

    Args:
        height, width: in pixels.
        factor: patch times merge, in pixels.
        shortest_edge, longest_edge: the least and the most pixels, of all frames together.
        frames: of a clip; 1 for a picture.
        counted: frames as the budget counts them, in whole slices.
    """
    h, w = (round(side / factor) * factor for side in (height, width))  # Python rounds half to even
    if counted * h * w > longest_edge:
        scale = math.sqrt(frames * height * width / longest_edge)
        h, w = (max(factor, math.floor(side / scale / factor) * factor) for side in (height, width))
    elif counted * h * w < shortest_edge:
        scale = math.sqrt(shortest_edge / (frames * height * width))
        h, w = (math.ceil(side * scale / factor) * factor for side in (height, width))
    return h, w


def image_size(height: int, width: int, settings: Settings) -> tuple[int, int]:
    """The height and width that a picture is resized to. Raises QwenError for one that is too elongated."""
    _check_shape(height, width)
    factor = settings.patch_size * settings.merge_size
    return smart_resize(height, width, factor, settings.shortest_edge, settings.longest_edge)


def video_size(frames: int, height: int, width: int, settings: Settings) -> tuple[int, int]:
    """The height and width that the frames of a clip are resized to. Raises QwenError as `image_size` does."""
    _check_shape(height, width)
    factor, per_slice = settings.patch_size * settings.merge_size, settings.temporal_patch_size
    most = settings.longest_edge
    frames = max(frames, per_slice)  # the official code refuses a single frame; here it fills its slice
    if min(height, width) < factor:  # for clips only: the shape that it would have if enlarged to one token
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    if settings.cap_pixels_per_frame:
        per_frame = min(settings.max_video_tokens * factor * factor, most // frames)
        most = max(per_frame, int(settings.shortest_edge * 1.05)) * frames
    counted = round(frames / per_slice) * per_slice  # half to even here too: 5 frames count as 4
    return smart_resize(height, width, factor, settings.shortest_edge, most, frames, counted)


def _check_shape(height, width):
    if max(height, width) > MOST_ELONGATED * min(height, width):
        raise QwenError(f"A picture of {width} x {height} pixels is too elongated: one side may be at most "
                        f"{MOST_ELONGATED} times the other; crop it.")


def _pixels(image: Image.Image) -> Tensor:
    return rearrange(torch.from_numpy(np.array(image)), "h w c -> 1 c h w")  # uint8


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic, antialiased, from bytes to bytes: resizing floats and rounding then is not the same."""
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    return interpolate(pixels.contiguous(), size=size, mode="bicubic", antialias=True)


def _normalize(pixels: Tensor, settings: Settings) -> Tensor:
    """(x / 255 - mean) / std, but as the official code fuses it: the order of operations shows in the last bit."""
    mean, std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) * (1 / settings.rescale_factor)
                 for values in (settings.image_mean, settings.image_std))  # fmt: skip
    return pixels.float().sub_(mean).div_(std)


def _patches(pixels: Tensor, settings: Settings) -> Tensor:
    """(T, C, H, W) to (N, C * F * P * P), where the patches of one token stand next to each other."""
    return rearrange(pixels, "(t f) c (h mh ph) (w mw pw) -> (t h w mh mw) (c f ph pw)",
                     f=settings.temporal_patch_size, mh=settings.merge_size, mw=settings.merge_size,
                     ph=settings.patch_size, pw=settings.patch_size)


def _grid(pixels: Tensor, settings: Settings) -> tuple[int, int, int]:
    """Slices, patches down, patches across."""
    T, _, H, W = pixels.shape
    return T // settings.temporal_patch_size, H // settings.patch_size, W // settings.patch_size


# ------------------------------------------------------------------------------------------------------- pictures


def load_image(picture) -> Image.Image:
    """Any picture as an RGB image of pillow.

    A file is turned as its camera noted (EXIF); an image that pillow has opened already is taken as it stands, as the
    official code takes it. What is transparent is laid on white.

    Args:
        picture: a path; the bytes of a file, also as base64, by itself or in a `data:` URI; an image of pillow in any
            mode; an array or tensor of the shape (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, which holds
            whole numbers 0 ... 255 or floats 0 ... 1.

    Raises:
        QwenError: it is no picture, damaged, empty, or of more than 67 million pixels.
    """
    name, image = "The picture", picture
    if isinstance(picture, np.ndarray | Tensor):
        image = _from_array(picture)
    elif isinstance(picture, FILES):
        name, file = _file(picture, "The picture")
        image = _open(name, file)
        if image is None:
            raise QwenError(f"{name} is no picture of a kind that pillow knows.")
        with _decoding(name):
            image = ImageOps.exif_transpose(image)
    elif not isinstance(picture, Image.Image):
        raise QwenError(f"A picture is a path, bytes, an image of pillow or an array, not {type(picture).__name__}.")
    with _decoding(name):
        return _rgb(name, image)


def check_media(pictures: Iterable = (), clips: Iterable = ()) -> None:
    """Find out before a model is loaded whether pictures and clips can be read. Raises QwenError if one cannot."""
    for picture in pictures:
        load_image(picture)
    for clip in clips:
        _open_film(clip)


FILES = (str, os.PathLike, bytes, bytearray, memoryview)


def _rgb(name: str, image: Image.Image) -> Image.Image:
    """On white, in pillow's whole numbers: so the official processor does it with pillow's images.

    With arrays it does so in floats, which may differ by one; here an array is treated as pillow's image of it.
    """
    _check_pixels(name, image)
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _check_pixels(name: str, image) -> None:
    """Whatever has a width and a height may be decoded: a small file can hold a picture that fills the memory."""
    if not image.width or not image.height:
        raise QwenError(f"{name} is empty: {image.width} x {image.height} pixels.")
    if image.width * image.height > MOST_PIXELS:
        raise QwenError(f"{name} has {image.width:,} x {image.height:,} pixels, and {MOST_PIXELS:,} are the most that "
                        "are read; make it smaller.")


def _file(source, name: str) -> tuple[str, object]:
    """What to call a file in errors, and what to open: its path or its bytes. A text is one or the other."""
    if not isinstance(source, str | os.PathLike):
        return name, io.BytesIO(source)
    text = os.fsdecode(source)
    path = os.path.expanduser(text)
    if os.path.isfile(path):
        return path, path
    said = text.partition("\n")[0][:LONGEST_SAID]
    said += "..." * (len(said) < len(text))
    if text[:5].lower() == "data:":
        encoded, missing = text.partition(",")[2], f"{name} holds no base64 behind its comma ({said}); make it again."
    elif "://" in text:
        raise QwenError(f"Nothing is fetched here: save {said} as a file and give that.")
    else:
        encoded, missing = text, f"There is no file {said if text else 'without a name'}."
        name = f"There is no file {said}, and what this holds as base64"
    try:
        return name, io.BytesIO(_from_base64(encoded))
    except ValueError:
        raise QwenError(missing) from None


LONGEST_SAID = 200  # characters of a path that errors show: it may be a whole picture


def _from_base64(text: str) -> bytes:
    """Either alphabet of base64, with or without line breaks and padding. Raises ValueError if it is none."""
    text = "".join(unquote(text).split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    if not text:
        raise ValueError("nothing is encoded here")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _open(name: str, file) -> Image.Image | None:
    """Opened but not decoded; None if pillow does not know what it is."""
    try:
        with _decoding(name), warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # ours comes earlier, and is no warning
            image = Image.open(file)
    except UnidentifiedImageError:
        return None
    _check_pixels(name, image)
    return image


@contextmanager
def _decoding(name: str):
    """Makes one sentence of whatever a decoder raises: of the many, each has its own way to say that a file is bad."""
    try:
        yield
    except (QwenError, UnidentifiedImageError):
        raise
    except Image.DecompressionBombError:
        raise QwenError(f"{name} has far more pixels than {MOST_PIXELS:,}, the most that are read; "
                        "make it smaller.") from None
    except Exception as error:
        raise QwenError(f"{name} cannot be read, it seems cut short or damaged ({error}); "
                        "fetch or make it again.") from None


def _from_array(array: np.ndarray | Tensor) -> Image.Image:
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()  # numpy has no bfloat16
    shape = tuple(array.shape)
    if array.ndim == 3 and shape[0] in (1, 3, 4):  # as the official code: if both ends could be colours, the first is
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or array.ndim == 3 and array.shape[-1] in (3, 4)):
        raise QwenError(f"A picture has the shape (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, not {shape}.")
    kind, most = array.dtype.kind, {"f": 1, "b": 1, "i": 255, "u": 255}
    if kind not in most:
        raise QwenError(f"A picture holds whole numbers or floats, not {array.dtype}.")
    if not (array.min() >= 0 and array.max() <= most[kind]):  # NaN is neither
        raise QwenError(f"A picture of {array.dtype} holds numbers from 0 to {most[kind]}, but this one from "
                        f"{array.min():g} to {array.max():g}.")
    return Image.fromarray((array if most[kind] == 255 else (array * 255.0).round()).astype(np.uint8))


# ---------------------------------------------------------------------------------------------------------- clips


def sample_frames(count: int, fps: float, settings: Settings) -> list[int]:
    """Which frames of a clip to take: evenly spread, the first and the last among them.

    Args:
        count: how many there are.
        fps: how many of them make a second.
        settings: how many to take of a second, at least, and at most.
    """
    wanted = min(max(int(count / fps * settings.fps), settings.min_frames), settings.max_frames, count)
    return np.linspace(0, count - 1, wanted).round().astype(int).tolist()


def _timestamps(frames: list[int], fps: float, per_slice: int) -> list[float]:
    """The time of each slice in seconds: half-way from its first frame to its last."""
    seconds = [frame / fps for frame in frames]
    return [(first + last) / 2 for first, last in zip(seconds[::per_slice], seconds[per_slice - 1 :: per_slice])]


def _checked_fps(fps) -> float:
    if not _is_number(fps) or fps <= 0:
        raise QwenError(f"Frames per second are a number above 0, not {fps!r}.")
    return float(fps)


@dataclass(frozen=True)
class _Film:
    """Frames that can be read: how many, how many make a second (if known), and a way to read some, in order."""

    count: int
    fps: float | None
    read: Callable[[list[int]], Iterator[Image.Image]]


def _read(film: _Film, numbers: list[int], settings: Settings) -> Tensor:
    """These frames, each resized as soon as it is read, for a whole clip may not fit into memory: (T, C, H, W)."""
    resized, size = [], None
    for number, image in zip(numbers, film.read(numbers)):
        if size is None:
            size, target = image.size, video_size(len(numbers), image.height, image.width, settings)
        if image.size != size:
            raise QwenError(f"The frames of a clip have one size, but the first has {size[0]} x {size[1]} pixels, and "
                            f"frame {number} has {image.width} x {image.height}.")
        resized.append(_resize(_pixels(image), target))
    return torch.cat(resized)


def _open_film(frames) -> _Film:
    if isinstance(frames, FILES):
        name, file = _file(frames, "The clip")
        image = _open(name, file)
        film = _open_video(name, file) if image is None else _open_animation(name, image)
    elif not isinstance(frames, list | tuple | np.ndarray | Tensor):
        raise QwenError("A clip is a list of pictures, an array (T, H, W, C) or the path of a video, not "
                        f"{type(frames).__name__}.")
    elif not isinstance(frames, list | tuple) and frames.ndim != 4:
        raise QwenError(f"A clip as an array has the shape (T, H, W, C), not {tuple(frames.shape)}.")
    else:
        film = _Film(len(frames), None, lambda numbers: (load_image(frames[number]) for number in numbers))
    if not film.count:
        raise QwenError("The clip has no frames.")
    return film


def _open_animation(name: str, image: Image.Image) -> _Film:
    """A GIF, WebP or PNG; its frames may last differently, and `fps` is their mean."""

    def read(numbers):
        with _decoding(name):
            for number in numbers:
                image.seek(number)
                yield _rgb(name, image)

    with _decoding(name):
        count, milliseconds = getattr(image, "n_frames", 1), 0
        for number in range(count):
            image.seek(number)
            image.load()  # WebP tells no earlier how long a frame lasts
            milliseconds += image.info.get("duration") or 100  # browsers give 100 to frames that do not say
    return _Film(count, 1000 * count / milliseconds, read)


def _open_video(name: str, file) -> _Film:
    """Any other video, by way of av, which is FFmpeg."""
    try:
        import av
    except ImportError:
        raise QwenError(f"{name} is no animation that pillow knows, and to read other videos av is missing: "
                        "pip install av.") from None

    @contextmanager
    def opened():
        if isinstance(file, io.BytesIO):
            file.seek(0)
        try:
            container = av.open(file)
        except av.FFmpegError:
            raise QwenError(f"{name} is neither a picture nor a video of a known kind, or it is damaged.") from None
        with container, _decoding(name):
            if not container.streams.video:
                raise QwenError(f"{name} has sound or text in it, but no pictures.")
            _check_pixels(name, container.streams.video[0])
            yield container

    def read(numbers):
        wanted = set(numbers)
        with opened() as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    image = frame.to_image()
                    yield image.rotate(frame.rotation, expand=True) if frame.rotation else image

    with opened() as container:
        count, fps = _count(name, container)
        if not 0 < container.streams.video[0].frames <= count:
            _check_whole(name, file)
        return _Film(count, fps, read)


def _count(name: str, container) -> tuple[int, float | None]:
    """How many frames a video has, and how many make a second: they are counted, for headers may say anything.

    Its average rate, unless by their times the frames would not fit: it counts frames that were left out, as in an AVI
    of a screen on which nothing moved.
    """
    track, times, count, cut = container.streams.video[0], [], 0, False
    for packet in container.demux(track):
        cut = packet.is_corrupt if packet.size else cut
        for frame in packet.decode():
            count += 1
            if frame.time is not None:
                times = [min([*times, frame.time]), max([*times, frame.time])]
    if cut:
        raise QwenError(f"{name} is cut short in the middle of its last frame; fetch it again.")
    fps, span = float(track.average_rate or 0), times[1] - times[0] if times else 0
    if span and (not fps or span * fps > count):
        fps = (count - 1) / span
    return count, fps or None


def _check_whole(name: str, file) -> None:
    """A video file is a row of boxes that say how long they are: do they end where the file does?"""
    with open(file, "rb") if isinstance(file, str) else io.BytesIO(file.getbuffer()) as file:
        there, end, size = file.seek(0, io.SEEK_END), 0, 1
        while size and end < there:
            file.seek(end)
            size = _box_size(file.read(16))
            end += size
    if end > there:
        raise QwenError(f"{name} is cut short: {there:,} of its {end:,} bytes are there; fetch it again.")


def _box_size(head: bytes) -> int:
    """The length of a box, in bytes, by the first 16 of them; 0 if it is none that we know, or does not say."""
    if head[:4] == b"RIFF":  # AVI
        size = int.from_bytes(head[4:8], "little")
        return 8 + size if size < 2**32 - 1 else 0
    if head[:4] in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):  # Matroska, WebM: the header, and all the rest
        digits = 9 - head[4].bit_length() if head[4:] else 0  # as many bytes as there are zeros in front
        size = int.from_bytes(head[4 : 4 + digits], "big") & ~(-1 << 7 * digits)
        return 4 + digits + size if size < 2 ** (7 * digits) - 1 else 0
    if head[4:8] in MP4_BOXES:
        size = int.from_bytes(head[:4], "big")
        return int.from_bytes(head[8:16], "big") if size == 1 else size
    return 0


MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"uuid", b"meta", b"udta", b"sidx", b"styp")
