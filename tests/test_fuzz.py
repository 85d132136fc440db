"""Files that lie. Whatever is wrong with a checkpoint's files, it loads and answers as before, or one sentence says why.

Each case is drawn from its own seed, which its failure names: `python -m pytest "tests/test_fuzz.py" -k ...` runs it
again. A case may take ten seconds of the processor and one gigabyte, and nothing may be written.
"""

import json
import random
import re
import shutil
import signal
import struct
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image
from support import random_qwen

import minqwen
from minqwen.chat import NANO
from minqwen.checkpoint import load_model, save_model
from minqwen.cli import _is_ours

resource = pytest.importorskip("resource", reason="the limits are those of Unix")
SECONDS, BYTES = 10, 2**30
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICTURE = Image.new("RGB", (32, 32), "red")


class TooLong(BaseException):
    """Not an Exception, so that nobody takes it for an error of their own."""


@contextmanager
def bounded():
    """Time of the processor, and memory beyond what the process has now."""

    def ring(*_):
        raise TooLong(f"more than {SECONDS} seconds")

    size = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 if LINUX else None
    limits, before = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


LINUX = sys.platform == "linux"


def outcome(action, *arguments):
    """(result, None), or (None, the sentence); all else raises what is wrong with it."""
    try:
        with bounded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return action(*arguments), None
    except ValueError as error:
        message = str(error)
        assert _is_ours(error), f"an error from the depths: {error!r}"
        assert "\n" not in message and len(message) < 700, f"more than a sentence: {message[:2000]!r}"
        return None, message


class Case:
    """A folder with one of its files changed. Nothing else may change in it."""

    def __init__(self, folder):
        self.folder, self.wrong, self.loaded, self.said = folder, [], 0, set()

    def run(self, seed, file, content, action):
        path, was = self.folder / file, (self.folder / file).read_bytes() if (self.folder / file).exists() else None
        path.unlink(missing_ok=True)                     # a new file: what was loaded before maps the old one
        path.write_bytes(content)
        before = tree(self.folder)
        try:
            result, sentence = outcome(action, self.folder)
            assert tree(self.folder) == before, "something was written"
        except BaseException as error:                  # a panic of Rust's is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            self.wrong.append(f"{seed}: {type(error).__name__}: {str(error)[:500]}")
            result, sentence = None, None
        finally:
            path.unlink()
            if was is not None:
                path.write_bytes(was)
        self.loaded += result is not None
        self.said |= {sentence}
        return result, sentence

    def finish(self, least_sentences=1):
        assert not self.wrong, f"{len(self.wrong)} cases:\n" + "\n".join(self.wrong[:40])
        assert len(self.said) >= least_sentences            # or the fuzzer has gone blind


def tree(folder):
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.parent.rglob("*")}


# --------------------------------------------------------------------------------------------------- headers of weights


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small checkpoint in one file."""
    folder = tmp_path_factory.mktemp("fuzz") / "small"
    save_model(random_qwen(), folder)
    return folder


def split(data):
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def packed(header, rest, length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + rest


def changed_header(draw, header, size):
    """The header with one thing in it changed."""
    names = [name for name in header if name != "__metadata__"]
    name, other = draw.sample(names, 2)
    entry = dict(header[name])
    start, end = entry["data_offsets"]
    huge = draw.choice([-1, 2**31, 2**63, 2**64, 10**40, size, size + 1])
    entry |= draw.choice([
        {"dtype": draw.choice(["F64", "F16", "BF16", "I32", "I8", "BOOL", "F8_E4M3", "C64", "F4", "x", "", 7, None])},
        {"shape": draw.choice([[], [0], [-1], [huge], [huge, huge], [1.5], ["1"], "x", 7, None, [[1]], [0, huge],
                               entry["shape"][::-1], entry["shape"] + [1], [1] * 100_000])},
        {"data_offsets": draw.choice([[end, start], [start, huge], [huge, huge], [0, 0], [start, end + 1], [start],
                                      [start, end, end], "x", None, [start, 1.5], header[other]["data_offsets"]])},
        {draw.choice(list(entry)): None},
        {"more": 1},
    ])
    return draw.choice([
        header | {name: entry}, header | {name: entry}, header | {name: entry}, header | {name: entry},
        {key: value for key, value in header.items() if key != name},
        header | {draw.choice(["", "model.", "\ud800", "x" * 10_000, name.upper(), "../" + name]): header[name]},
        header | {"__metadata__": draw.choice([None, 7, [], {"a": 1}, {"format": "tf"}, {"": "x" * 10_000}])},
        header | {name: draw.choice([None, 7, "x", [], {}])},
        draw.choice([[], 7, None, "x", {}, [header]]),
    ])


def lied_header(draw, data):
    """The bytes of a file of weights with something wrong at its head."""
    header, rest = split(data)
    end = len(data) - len(rest)
    kind = draw.choice(["cut", "flip", "flip", "flip", "length", "change", "change", "change", "twice", "bytes"])
    if kind == "cut":
        return data[: draw.choice([draw.randrange(end), draw.randrange(len(data)), len(data) - 1])]
    if kind == "flip":
        flipped = bytearray(data)
        for _ in range(draw.choice([1, 1, 2, 8])):
            flipped[draw.randrange(end)] ^= 1 << draw.randrange(8)
        return bytes(flipped)
    if kind == "length":
        odd = [0, 1, end - 9, end - 7, 2**31, 2**62, 2**63, 2**64 - 1, 100_000_001, len(data), draw.randrange(end)]
        return struct.pack("<Q", draw.choice(odd)) + data[8:]
    if kind == "twice":                                  # a name twice in one header
        text, name = json.dumps(header), draw.choice(list(header)[1:])
        return packed((text[:-1] + f", {json.dumps(name)}: {json.dumps(header[list(header)[2]])}}}").encode(), rest)
    if kind == "bytes":
        text = json.dumps(header).encode()
        return packed(draw.choice([b"[" * 100_000, b"{" * 50_000, b'{"a":' * 50_000, text[:-1], text + b"x", b"", b"\xff",
                                   text.decode().encode("utf-16"), b"\xef\xbb\xbf" + text, b" " * 64 + text]), rest)
    return packed(changed_header(draw, header, len(rest)), rest)


@pytest.mark.parametrize("part", range(4))
def test_headers_of_weights(small, part):
    """Whatever loads is the very model that was saved: bit for bit."""
    data, original, case = (small / WEIGHTS).read_bytes(), random_qwen().state_dict(), Case(small)
    for seed in range(100 * part, 100 * part + 100):
        model, _ = case.run(seed, WEIGHTS, lied_header(random.Random(f"header {seed}"), data), load_model)
        if model is not None and not all(torch.equal(tensor, original[name]) and tensor.dtype == original[name].dtype
                                         for name, tensor in model.state_dict().items()):
            case.wrong.append(f"{seed}: another model was loaded")
    case.finish(least_sentences=20)


# ------------------------------------------------------------------------------------------------------- json anywhere

ODD = [None, True, False, 0, 1, -1, 3, 1.5, -0.0, 2**31, 2**63, 2**70, 10**400, float("nan"), float("inf"), 1e300, "", "x",
       "8", "float32", "\ud800", "a\nb", "\0", "x" * 5_000, [], [1], [None], ["x"], [[]], {}, {"a": 1}, {"": []},
       [1] * 5_000, [{"role": "x"}], {"content": None}]  # fmt: skip
RAW = [b"", b" ", b"null", b"7", b"[]", b'"x"', b"{}", b"{", b"\xff\xfe", b"\0" * 100, b"[" * 200_000, b'{"a":' * 100_000,
       b'{"a": ' + b"9" * 10_000 + b"}", b"[1]" * 3, b'{"a": NaN}', b"{'a': 1}", b'{"a": 1,}', b'{"a": 1} // x']  # fmt: skip


def somewhere(draw, value):
    """(container, key) of a place in it, each level as likely as the next."""
    while True:
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        inner = value[key]
        if not isinstance(inner, dict | list) or not inner or draw.random() < 0.25:
            return value, key
        value = inner


def changed_json(draw, content):
    """A JSON file with one value replaced, removed, renamed or doubled; or spoilt as a text."""
    value = json.loads(content)
    kind = draw.choice(["odd"] * 7 + ["gone", "name", "twice", "cut", "flip", "utf-16", "bom"])
    if kind in ("odd", "gone", "name"):
        place, key = somewhere(draw, value)
        if kind == "odd":
            place[key] = draw.choice(ODD)
        elif kind == "gone" or isinstance(place, list):
            del place[key]
        else:
            place[draw.choice(["", "x", "\ud800", key.upper(), key + " "])] = place.pop(key)
        return json.dumps(value).encode()
    if kind == "twice":
        key = draw.choice(list(value))
        return content.rstrip()[:-1] + f", {json.dumps(key)}: {json.dumps(draw.choice(ODD))}}}".encode()
    if kind == "cut":
        return content[: draw.randrange(len(content))]
    if kind == "flip":
        at = draw.randrange(len(content))
        return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
    return content.decode().encode("utf-16") if kind == "utf-16" else b"\xef\xbb\xbf" + content


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    """A whole checkpoint: nano, with its tower."""
    folder = tmp_path_factory.mktemp("fuzz") / "nano"
    shutil.copytree(NANO, folder)
    both = {"image_processor": json.loads((NANO / "preprocessor_config.json").read_text()),
            "video_processor": json.loads((NANO / "video_preprocessor_config.json").read_text())}
    (folder.parent / "processor_config.json").write_text(json.dumps(both))
    return folder


def answered(folder):
    return str(minqwen.load(folder).chat("what does ann have?", max_new_tokens=3, temperature=0.0))


def looked(folder):
    """With a picture and a clip, which is all that the settings for these are about."""
    inputs = minqwen.load(folder).inputs([{"role": "user", "content": [
        {"type": "image", "image": PICTURE}, {"type": "video", "video": [PICTURE] * 4}, {"type": "text", "text": "Hi"}]}])
    return len(inputs.ids)


FILES = {"config.json": (answered, 100), "generation_config.json": (answered, 60), "tokenizer_config.json": (answered, 60),
         "tokenizer.json": (answered, 100), "preprocessor_config.json": (looked, 60),
         "video_preprocessor_config.json": (looked, 60), "processor_config.json": (looked, 60)}  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_json_of_the_wrong_kind(nano, file):
    (action, count), case = FILES[file], Case(nano)
    content = (nano / file if (nano / file).exists() else nano.parent / file).read_bytes()
    case.run("as it was", file, content, action)
    assert case.loaded == 1
    for seed in range(count):
        case.run(seed, file, changed_json(random.Random(f"{file} {seed}"), content), action)
    for raw in RAW:
        case.run(raw[:20], file, raw, action)
    case.finish(least_sentences=10)
