"""The shipped model anywhere: its folder, unchanged, in `transformers`, which most engines build on, and in others."""

import base64
import io
import json
import os
from dataclasses import replace
from functools import cache
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import minqwen
from minqwen import llama_cpp
from minqwen.checkpoint import save_model
from minqwen.media import Clip
from minqwen.nano import world
from minqwen.nano.tokenizer import ADDED, save_tokenizer
from minqwen.tools import describe
from minqwen.verify import error, official_modules

OFFICIAL_SETTINGS = {  # the keys of the official tokenizer_config.json; the template has a file of its own
    "add_bos_token", "add_prefix_space", "added_tokens_decoder", "additional_special_tokens", "bos_token",
    "clean_up_tokenization_spaces", "eos_token", "errors", "extra_special_tokens", "model_max_length", "pad_token",
    "split_special_tokens", "tokenizer_class", "unk_token",
}  # fmt: skip

# name: (a conversation whose last question is to be answered, with thinking?); each is asked so many times
KINDS = {
    "stories": (lambda rng: world.facts_conversation(rng, rng.randint(3, 12), 3, unknown=0.2), False),
    "stories, thinking": (lambda rng: world.facts_conversation(rng, 8, 2, thinking=True), True),
    "typed in haste": (lambda rng: world.typed(rng, world.facts_conversation(rng, 5, 2, pause=True)), False),
    "sums, thinking": (lambda rng: world.sums_conversation(rng, True, questions=rng.randint(1, 2)), True),
    "pictures": (lambda rng: world.picture_conversation(rng, rng.randint(1, 3)), False),
    "pictures, thinking": (lambda rng: world.picture_conversation(rng, 1, thinking=True), True),
    "clips": (lambda rng: world.picture_conversation(rng, rng.randint(1, 2), film=True), False),
    "stories with pictures": (lambda rng: world.mixed_conversation(rng, 5, 4), False),
    "tools": (lambda rng: world.tools_conversation(rng, renamed=0.3), False),
    "tools, thinking": (lambda rng: world.tools_conversation(rng, thinking=True, renamed=0.3), True),
    "from outside": (lambda rng: world.interrupted(rng, world.facts_conversation(rng, 4, 2)), False),
    "chatter": (lambda rng: world.chatter_conversation(rng, thinking=False), False),
}
TIMES = 18
kinds = pytest.mark.parametrize("kind", KINDS)


def conversations(kind: str) -> list[world.Conversation]:
    tell, _ = KINDS[kind]
    rng = Random(kind)
    return [tell(rng) for _ in range(TIMES)]


@pytest.fixture(scope="module")
def qwen():
    return minqwen.load()


@pytest.fixture(scope="module")
def theirs(qwen):
    """What `transformers`' Auto classes make of the folder."""
    pytest.importorskip("transformers", minversion="5.23")
    pytest.importorskip("torchvision")
    official_modules()
    return loaded(qwen.folder)


def loaded(folder):
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    return SimpleNamespace(
        processor=AutoProcessor.from_pretrained(folder), tokenizer=AutoTokenizer.from_pretrained(folder),
        model=AutoModelForImageTextToText.from_pretrained(folder).eval(),
        text=AutoModelForCausalLM.from_pretrained(folder).eval())


def for_them(messages: list[dict]) -> tuple[list[dict], list[dict]]:
    """(the same messages with plain frames in place of our `Clip`s, what is known of each clip)"""
    known, messages = [], [dict(message) for message in messages]
    for message in messages:
        if isinstance(message["content"], list):
            message["content"] = [dict(part) for part in message["content"]]
        for part in message["content"] if isinstance(message["content"], list) else ():
            if isinstance(clip := part.get("video"), Clip):
                part["video"] = np.stack([np.asarray(frame) for frame in clip.frames])
                known.append({"total_num_frames": len(clip.frames), "fps": clip.fps,
                              "frames_indices": list(range(len(clip.frames)))})
    return messages, known


def read_by_them(theirs, some: list[world.Conversation], thinking: bool, whole: bool = False) -> dict:
    """What their processor makes of each conversation, alone: {input_ids (1, T), pixel_values, ...}."""
    rows = []
    for conversation in some:
        messages, known = for_them(conversation.dialogue() if whole else conversation.messages())
        rows.append(theirs.processor.apply_chat_template(
            messages, tools=[describe(tool) for tool in conversation.tools] or None, enable_thinking=thinking,
            add_generation_prompt=not whole, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"video_metadata": known} if known else {}))
    return rows


def read_by_us(qwen, some: list[world.Conversation], thinking: bool, whole: bool = False) -> list:
    return [qwen.inputs(conversation.dialogue() if whole else conversation.messages(), thinking=thinking,
                        tools=conversation.tools, add_generation_prompt=not whole) for conversation in some]


PIXELS = "pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw"


def batch(rows: list[dict], pad: int) -> dict:
    """Rows of any lengths as one, padded on the left."""
    longest = max(row["input_ids"].shape[1] for row in rows)
    fill = {"input_ids": pad, "attention_mask": 0, "mm_token_type_ids": 0}
    text = {name: torch.cat([torch.nn.functional.pad(row[name], (longest - row[name].shape[1], 0), value=value)
                             for row in rows]) for name, value in fill.items()}
    return text | {name: torch.cat(found) for name in PIXELS if (found := [row[name] for row in rows if name in row])}


def test_there_are_enough():
    assert TIMES * len(KINDS) >= 200


@kinds
def test_ids_and_pixels_are_those_of_auto_processor(qwen, theirs, kind, monkeypatch):
    """Of the prompt and of the whole talk with its calls. In 5.23 the marks around a clip stay (`keep_outer_marks`)."""
    monkeypatch.setattr(qwen, "processor", replace(qwen.processor, keep_outer_marks=True))
    some, (_, thinking) = conversations(kind), KINDS[kind]
    for whole in (False, True):
        for ours, right in zip(read_by_us(qwen, some, thinking, whole),
                               read_by_them(theirs, some, thinking, whole), strict=True):
            assert [ours.ids] == right["input_ids"].tolist()
            assert ours.media.keys() == right.keys() & set(PIXELS)
            for name, tensor in ours.media.items():
                assert torch.equal(tensor, right[name]), name


@kinds
@torch.inference_mode()
def test_logits_and_greedy_answers_are_those_of_auto_model(qwen, theirs, kind):
    """On what they read; answers of 80 tokens at most, which nearly all are shorter than."""
    some, (_, thinking) = conversations(kind), KINDS[kind]
    rows = read_by_them(theirs, some, thinking)
    inputs = batch(rows, qwen.tokenizer.pad_token_id)
    seen = {name: inputs[name] for name in PIXELS if name in inputs}
    there = inputs["attention_mask"].bool()
    ours = qwen.model(inputs["input_ids"], attention_mask=inputs["attention_mask"], **seen)[there]
    assert error(ours, theirs.model(**inputs).logits[there]) <= 1e-4
    if not seen:
        text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        assert error(ours, theirs.text(**text).logits[there]) <= 1e-4
    answers = theirs.model.generate(**inputs, max_new_tokens=80, do_sample=False)[:, inputs["input_ids"].shape[1]:]
    said = minqwen.generate(qwen.model, [row["input_ids"][0].tolist() for row in rows], **seen, max_new_tokens=80,
                            temperature=0, stop_ids=qwen.tokenizer.stop_ids)
    for mine, right in zip(said, answers.tolist(), strict=True):
        assert mine == right[: len(mine)] and set(right[len(mine):]) <= {qwen.tokenizer.pad_token_id}
        assert qwen.tokenizer.decode(mine) == theirs.tokenizer.decode(right, skip_special_tokens=True)


def test_marks_around_a_clip_make_no_difference_to_what_is_seen_in_it(qwen, monkeypatch):
    """Those that 5.23 leaves standing, see above: at most one answer in twenty may be another one."""
    rng = Random("marks")
    chats = [world.picture_conversation(rng, 1, film=True).messages() for _ in range(100)]
    options = {"temperature": 0, "max_new_tokens": 40}
    without = qwen.chat_batch(chats, **options)
    monkeypatch.setattr(qwen, "processor", replace(qwen.processor, keep_outer_marks=True))
    assert qwen.inputs(chats[0]).text.count("<|vision_start|>") > qwen.inputs(chats[0]).media["video_grid_thw"][0, 0]
    assert sum(map(str.__ne__, without, qwen.chat_batch(chats, **options))) <= 5


def test_what_they_save_is_ours_again_and_what_we_save_of_it_is_theirs(qwen, theirs, tmp_path):
    theirs.model.save_pretrained(tmp_path / "theirs")
    theirs.processor.save_pretrained(tmp_path / "theirs")
    back = minqwen.load(tmp_path / "theirs")
    save_model(back.model, tmp_path / "ours", tokenizer_from=tmp_path / "theirs")
    again = loaded(tmp_path / "ours")
    for kind in ("clips", "tools"):
        some = conversations(kind)[:3]
        for conversation in some:
            chat, options = conversation.messages(), {"temperature": 0, "tools": conversation.tools}
            assert back.chat(chat, **options) == qwen.chat(chat, **options)
        rows = [read_by_them(one, some, thinking=False) for one in (theirs, again)]
        for first, second in zip(*rows, strict=True):
            assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
            with torch.inference_mode():
                assert torch.equal(theirs.model(**first).logits, again.model(**second).logits)


# --------------------------------------------------------------------------- other engines, where they are installed


@cache
def talks(qwen) -> list[tuple]:
    """[(messages, options, our inputs, our greedy answer)] of all kinds but clips, where the answer ends."""
    found = []
    for kind, (_, thinking) in KINDS.items():
        for conversation in conversations(kind):
            if not conversation.clips():
                inputs = qwen.inputs(conversation.messages(), thinking=thinking, tools=conversation.tools)
                (answer,) = minqwen.generate(qwen.model, [inputs.ids], **inputs.media, max_new_tokens=200,
                                             temperature=0, stop_ids=qwen.tokenizer.stop_ids)
                if answer[-1] not in qwen.tokenizer.stop_ids:    # lost in thought: rounding decides how it goes on
                    continue
                tools = {"tools": [describe(tool) for tool in conversation.tools]} if conversation.tools else {}
                found.append((conversation.messages(), {"enable_thinking": thinking} | tools, inputs, answer))
    return found


def test_mlx_lm_gives_the_same_answers(qwen):
    """Its `load` leaves the tower out, so text alone: rendered, encoded and answered by it."""
    pytest.importorskip("mlx_lm", reason="no mlx-lm here (pip install mlx-lm 'mlx[cpu]')")
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load

    model, tokenizer = load(str(qwen.folder))
    asked = [talk for talk in talks(qwen) if not talk[2].media]
    for messages, options, inputs, answer in asked:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **options)
        assert ids == inputs.ids
        said = []
        for token, _ in generate_step(mx.array(ids), model, max_tokens=200):
            said.append(int(token))
            if said[-1] in tokenizer.eos_token_ids:
                break
        assert said == answer, messages[-1]
    print(f"mlx-lm: {len(asked)} of {len(asked)} answers are ours")


def test_llama_cpp_gives_the_same_answers(qwen, tmp_path):
    """By its own tokenizer, its own reading of the template, and, for pictures, its own preparation and tower."""
    pytest.importorskip("xllamacpp", reason="no llama.cpp here (pip install xllamacpp)")
    if not os.environ.get("LLAMA_CPP"):
        pytest.skip("LLAMA_CPP does not say where the source of llama.cpp is, which has the converter")
    model, tower = (llama_cpp.convert(qwen.folder, tmp_path / f"{tower}.gguf", 32, tower) for tower in (False, True))
    server = llama_cpp.serve(model, tower)
    options = {"temperature": 0, "cache_prompt": False, "n_predict": 200}
    count = {"text": 0, "pictures": 0}
    for messages, template, inputs, answer in talks(qwen):
        said = qwen.tokenizer.decode(answer, skip_special_tokens=False)
        if not inputs.media:
            theirs = server.handle_completions({"prompt": inputs.text, **options})
            assert theirs["choices"][0]["text"] == said and theirs["usage"]["prompt_tokens"] == len(inputs.ids)
        if template.get("tools") is None:
            theirs = server.handle_chat_completions({"messages": with_urls(messages), "chat_template_kwargs": template,
                                                     "reasoning_format": "none", **options})
            assert theirs["usage"]["prompt_tokens"] == len(inputs.ids)
            assert theirs["choices"][0]["message"]["content"].endswith(said.strip())
        count["pictures" if inputs.media else "text"] += 1
    print(f"llama.cpp: {count} answers are ours")


def with_urls(messages: list[dict]) -> list[dict]:
    """As web services take pictures."""
    def url(part):
        if part["type"] != "image":
            return part
        part["image"].save(file := io.BytesIO(), "PNG")
        picture = base64.b64encode(file.getvalue()).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}

    return [message | {"content": [url(part) for part in message["content"]]}
            if isinstance(message["content"], list) else message for message in messages]


# -------------------------------------------------------------------------------------------------- its settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the tokenizer and the settings as training writes them."""
    folder = tmp_path_factory.mktemp("nano")
    save_tokenizer(folder)
    return folder


def test_settings_of_the_tokenizer_have_the_official_keys(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings.keys() == OFFICIAL_SETTINGS
    assert settings["tokenizer_class"] == "Qwen2Tokenizer"
    tokens = {token["id"]: token for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]}
    assert {int(id): token | {"id": int(id)} for id, token in settings["added_tokens_decoder"].items()} == tokens
    assert [token["content"] for token in tokens.values()] == [token.content for token in ADDED]
