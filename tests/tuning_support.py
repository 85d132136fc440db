"""For tests of training: a small random checkpoint in a folder, with all that belongs to it, and files of chats."""

import json
import math
import resource
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from chat_support import TEMPLATE, byte_tokenizer
from support import random_qwen, seeing_config

from minqwen.checkpoint import KEPT_FLOAT32, save_model

PATCHES = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}                # 8 x 8 pixels are a token
IMAGES = {"size": {"shortest_edge": 512, "longest_edge": 2304}, **PATCHES}
VIDEOS = {"size": {"shortest_edge": 256, "longest_edge": 4608}, **PATCHES, "do_sample_frames": False}


def small_checkpoint(folder, dtype="float32", **changes):
    """A folder as the official ones are: one period of the hybrid, a tower, drafts; a token for each byte."""
    ids = byte_tokenizer().added_tokens
    config = replace(seeing_config(vocab_size=280, max_position_embeddings=1000, **changes),
                     image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
                     vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"])
    model = random_qwen(config)
    for name, p in model.named_parameters():
        p.data = p.data.to(torch.float32 if name.endswith(KEPT_FLOAT32) else getattr(torch, dtype))
    save_model(model, folder)
    byte_tokenizer().fast.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    settings = {"tokenizer_config": {"eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"},
                "preprocessor_config": {**IMAGES, "image_processor_type": "Qwen2VLImageProcessor"},
                "video_preprocessor_config": {**VIDEOS, "video_processor_type": "Qwen3VLVideoProcessor"}}
    for name, content in settings.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def chat(*texts, **more):
    """A line of a file: texts of user and assistant by turns."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"messages": messages, **more}


def write_chats(path, chats):
    path.write_text("".join(json.dumps(one) + "\n" for one in chats), encoding="utf-8")
    return path


def spelling(count=20):
    """Something to learn: single letters are answered with the next one."""
    return [chat(f"after {chr(97 + n % 25)}?", f"{chr(98 + n % 25)}{'!' * (n % 3)}") for n in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint")


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("small") / "half", "bfloat16")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_chats(tmp_path_factory.mktemp("data") / "chats.jsonl", spelling())


# --------------------------------------------------------------------------------------------------- what may befall it

FULL = r"^The result cannot be written to [^:]* \([^:]*\): make room, and give the same command again[^:]*\.$"


@contextmanager
def files_of_at_most(size):
    """As on a full disk: writing fails in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def on_a_full_disk(writes):
    """The same function, but for what becomes of its files."""
    def full(*args, **named):
        with files_of_at_most(10):
            return writes(*args, **named)

    return full


def spoil(optimizer, fault):
    """Put "gradient" or "weights" to what is no number: before the optimizer's next step, or after it."""
    weight = optimizer.param_groups[0]["params"][0]
    if fault == "gradient":
        weight.grad.fill_(math.nan)
    if fault == "weights":
        optimizer.register_step_post_hook(lambda *_: weight.data.fill_(math.nan))
