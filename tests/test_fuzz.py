"""Files that lie. Whatever is wrong with a checkpoint's files, it loads, or one sentence says why.

Each case is drawn from a seed of its own, which a failure names. A case may take ten seconds of the processor and one
gigabyte, and nothing may be written.
"""

import json
import os
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
from chat_support import TEMPLATE, byte_tokenizer
from PIL import Image
from support import random_qwen, seeing_config

import minqwen
from minqwen import sandbox
from minqwen.chat import NANO
from minqwen.checkpoint import load_model, save_model
from minqwen.cli import _is_ours

resource = pytest.importorskip("resource", reason="the limits are those of Unix")
SECONDS, BYTES = 10, 2**30
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICTURE = Image.new("RGB", (32, 32), "red")


class TooLong(BaseException):
    """Not an Exception, so that nobody takes it for an error of their own."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Many small models are built here, and threads would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
        odd = [b"[" * 100_000, b"{" * 50_000, b'{"a":' * 50_000, text[:-1], text + b"x", b"", b"\xff",
               text.decode().encode("utf-16"), b"\xef\xbb\xbf" + text, b" " * 64 + text]  # fmt: skip
        return packed(draw.choice(odd), rest)
    return packed(changed_header(draw, header, len(rest)), rest)


@pytest.mark.parametrize("part", range(4))
def test_headers_of_weights(small, part):
    """Whatever loads is the very model that was saved: bit for bit."""
    original = random_qwen().state_dict()

    def the_same(folder):
        loaded = load_model(folder).state_dict()
        for name, tensor in original.items():
            assert torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype, f"another {name}"
        return True

    data, case = (small / WEIGHTS).read_bytes(), Case(small)
    for seed in range(100 * part, 100 * part + 100):
        case.run(seed, WEIGHTS, lied_header(random.Random(f"header {seed}"), data), the_same)
    case.finish(least_sentences=20)


# ------------------------------------------------------------------------------------------------------- json anywhere

ODD = [None, True, False, 0, 1, -1, 3, 1.5, -0.0, 2**31, 2**63, 2**70, 10**400, float("nan"), float("inf"), 1e300, "",
       "x", "8", "float32", "\ud800", "a\nb", "\0", "x" * 5_000, [], [1], [None], ["x"], [[]], {}, {"a": 1}, {"": []},
       [1] * 5_000, [{"role": "x"}], {"content": None}]  # fmt: skip
RAW = [b"", b" ", b"null", b"7", b"[]", b'"x"', b"{}", b"{", b"\xff\xfe", b"\0" * 100, b"[" * 200_000,
       b'{"a":' * 100_000, b'{"a": ' + b"9" * 10_000 + b"}", b"[1]" * 3, b'{"a": NaN}', b"{'a': 1}", b'{"a": 1,}',
       b'{"a": 1} // x']  # fmt: skip


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
    return str(minqwen.load(folder).chat("What does Ann have?", max_new_tokens=3, temperature=0.0))


def looked(folder):
    """With a picture and a clip, which is all that the settings for these are about."""
    parts = [{"type": "image", "image": PICTURE}, {"type": "video", "video": [PICTURE] * 4},
             {"type": "text", "text": "Hi"}]  # fmt: skip
    return len(minqwen.load(folder).inputs([{"role": "user", "content": parts}]).ids)


FILES = {
    "config.json": (answered, 100), "generation_config.json": (answered, 60), "tokenizer_config.json": (answered, 60),
    "tokenizer.json": (answered, 100), "preprocessor_config.json": (looked, 50),
    "video_preprocessor_config.json": (looked, 50), "processor_config.json": (looked, 50),
}  # fmt: skip


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


# ------------------------------------------------------------------------------------------------------------- an index


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "shards"
    save_model(random_qwen(), folder, max_shard_size=300_000)
    return folder


def test_indices(shards):
    content, case = (shards / INDEX).read_bytes(), Case(shards)
    case.run("as it was", INDEX, content, load_model)
    assert case.loaded == 1
    for seed in range(60):
        case.run(seed, INDEX, changed_json(random.Random(f"index {seed}"), content), load_model)
    for raw in RAW:
        case.run(raw[:20], INDEX, raw, load_model)
    case.finish(least_sentences=10)


@pytest.mark.parametrize("kind", ["outside", "folder", "itself", "empty", "pipe", "lost link"])
def test_an_index_that_names_what_is_no_shard(shards, tmp_path, kind):
    """Weights outside of the folder are not read through it, although they would fit."""
    folder, index = tmp_path / "copy", json.loads((shards / INDEX).read_text())
    shutil.copytree(shards, folder)
    lost = sorted(set(index["weight_map"].values()))[0]
    os.replace(folder / lost, tmp_path / lost)
    name = {"outside": f"../{lost}", "itself": INDEX}.get(kind, "odd.safetensors")
    index["weight_map"] = {tensor: name if file == lost else file for tensor, file in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index))
    make = {"folder": Path.mkdir, "empty": Path.touch, "pipe": os.mkfifo,
            "lost link": lambda path: path.symlink_to("/nowhere")}  # fmt: skip
    make.get(kind, lambda _: None)(folder / "odd.safetensors")
    result, sentence = outcome(load_model, folder)
    assert result is None and re.search("no name of a safetensors file|lacks odd|damaged", sentence)


def test_links_within_reach_are_files_like_others(shards, tmp_path):
    """As they lie in the cache of a hub."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for path in shards.iterdir():
        (folder / path.name).symlink_to(path)
    assert torch.equal(load_model(folder).head_weight, random_qwen().head_weight)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_file_that_never_ends_is_not_read(nano, tmp_path, file):
    folder = tmp_path / "copy"
    shutil.copytree(nano, folder)
    (folder / file).unlink()
    os.mkfifo(folder / file)
    result, sentence = outcome(answered, folder)
    assert result is None and "is no file" in sentence


# ------------------------------------------------------------------------------------------------------------ templates

HI = [{"role": "user", "content": "Hi"}]
GROW = "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = BY %}{% endfor %}{{ ns.x }}"
ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
    "{% for i in range(9) %}" * 30 + "{% endfor %}" * 30, "{{ " + "(" * 10_000 + ")" * 10_000 + " }}",
    *(GROW.replace("BY", by) for by in ("ns.x + ns.x", "ns.x ~ ns.x", "[ns.x, ns.x]", "{1: ns.x, 2: ns.x}", "ns.x * 2",
                                        "(ns.x, ns.x)", "dict(a=ns.x, b=ns.x)", "'%s%s' % (ns.x, ns.x)",
                                        "namespace(a=ns.x, b=ns.x)", "[ns.x, ns.x]|tojson", "ns.x.replace('x', 'xx')")),
    GROW.replace("{% set ns.x = BY %}", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
    "{{ 'x' * 10**10 }}", "{{ 10**(10**10) }}", "{{ [0] * 10**10 }}", "{{ 'x'|center(10**10) }}", "{{ lipsum(10**9) }}",
    "{{ 'x'.ljust(10**10) }}", "{{ '%10000000000d' % 1 }}", "{{ '%*d' % (10**10, 1) }}",
    "{{ '{:{}}'.format(1, 10**10) }}",
    "{% set ns = namespace() %}{% set l = [ns] * 10**6 %}{% set ns.x = 'x' * 10**6 %}{{ l }}",
    "{{ '{:10000000000}'.format(1) }}", "{{ '%.10000000000f'|format(1) }}", "{{ 'x\n'|indent(10**10) }}",
    "{{ ('x' * 10**6)|replace('x', 'y' * 10**6) }}", "{{ ('x' * 10**6).replace('x', 'y' * 10**6) }}",
    "{{ range(99999)|join('x' * 10**6) }}", "{{ ('x' * 10**6).join(range(99999)|map('string')) }}",
    "{{ messages|tojson(indent=10**10) }}", "{{ ('a' * 10**6 ~ '{}' * 10**6).format(*range(10**5)) }}",
]  # fmt: skip
REACHING = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.__init__.__globals__.x }}",
    "{{ cycler.__init__.__globals__.os.system('touch owned') }}", "{{ self.__init__.__globals__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}", "{% include 'x' %}", "{{ messages.append(1) }}",
    "{{ (messages|attr('__class__')).mro() }}", "{{ raise_exception.__globals__.sys.exit() }}",
    "{{ messages[0].update(role='system') }}", "{% set messages[0].role = 'system' %}",
    "{{ strftime_now.__self__.x.y }}", "{% import '/etc/passwd' as x %}",
    "{{ namespace.__init__.__builtins__.open('owned', 'w') }}", "{{ joiner.__call__.__code__.x }}",
]  # fmt: skip


@pytest.mark.parametrize("template", ENDLESS + REACHING, ids=lambda template: template[:50])
def test_a_template_has_limits(template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result, sentence = outcome(byte_tokenizer(template).render, HI)
    assert result is None and sentence.startswith("The checkpoint's chat template")
    assert HI == [{"role": "user", "content": "Hi"}] and not list(tmp_path.iterdir())


def test_what_templates_do_is_still_done():
    """What a template writes within its limits is what jinja writes without any."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template = """
        {%- set x = dict(a=1) %}{% for i in [1, 2] %}{{ x }}{{ (1, 'b') }}{{ {'a': [i]} }}
        {{- 'a' ~ i ~ none ~ x ~ nope }}
        {{- loop.length }}{{ loop.last }}{{ loop.revindex }}{{ loop.previtem }}{{ loop.cycle('a', 'b') }}{% endfor %}
        {%- for a, b in {'k': 1}|dictsort %}{{ a }}{{ b }}{% else %}never{% endfor %}
        {%- for c in nope %}{% else %}-{% endfor %}
        {%- for m in messages if m.role == 'user' %}{{ m.content|upper }}{{ '%s-%d' % (m.role, 3) }}{% endfor %}
        {%- for m in messages[::-1] recursive %}
            {{- m.role }}{% if loop.depth0 < 2 %}{{ loop(messages) }}{% endif %}
        {%- endfor %}
        {{- [1, 2] + [3] }}{{ 2**10 }}{{ 7 % 4 }}{{ 'ab' * 3 }}{{ ['a', 'b']|join(', ') }}{{ 'x'|indent(4, true) }}
        {{- '{:>5}{}'.format('a', 20250101) }}{{ 'Cutoff: 20250101 %s' % 'x' }}{{ 'a b c'.split()[-1] }}
        {{- messages|length }}
        {{- range(3)|map('string')|list }}{{ messages|map(attribute='role')|join }}{{ 'aXb'.replace('X', '--') }}"""
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    chat = [*HI, {"role": "assistant", "content": "Hm"}]
    assert byte_tokenizer(template).render(chat) == plain.render(messages=chat)


def test_long_chats_are_within_the_limits():
    """As long as a context: thousands of messages, and one message of megabytes."""
    chat = [{"role": role, "content": "x" * 100} for _ in range(2_500) for role in ("user", "assistant")]
    assert byte_tokenizer(TEMPLATE).render(chat).count("x" * 100) == 5_000
    text = "long " * 1_000_000
    assert text.strip() in byte_tokenizer(TEMPLATE).render([{"role": "user", "content": text}])


def test_each_rendering_has_the_whole_effort(monkeypatch):
    monkeypatch.setattr(sandbox, "EFFORT", 2_000)
    tokenizer = byte_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert [tokenizer.render(HI) for _ in range(50)] == ["Hi"] * 50


# --------------------------------------------------------------------------------------------------- other vocabularies


def test_a_tokenizer_of_another_model(nano, tmp_path):
    """With more tokens than the embedding has rows."""
    save_model(random_qwen(seeing_config(vocab_size=260)), tmp_path / "copy")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(nano / name, tmp_path / "copy")
    result, sentence = outcome(answered, tmp_path / "copy")
    assert result is None and "but the vocabulary has 260: use the model's own tokenizer" in sentence
