"""Chats with pictures and clips: what they compute is what `transformers` computes, in whatever pieces and turns."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chat_support import TEMPLATE, byte_tokenizer, written
from PIL import Image
from support import SMALL_VISION, error, random_qwen, seeing_config
from test_chat import Reads, same

import minqwen
from minqwen.chat import Assistant, load
from minqwen.config import Config
from minqwen.errors import QwenError
from minqwen.generate import generate, prefill, stream
from minqwen.media import Clip, Processor
from minqwen.messages import as_messages
from minqwen.tokenizer import Tokenizer

PATCHES = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}                # 8 x 8 pixels are a token
IMAGES = {"size": {"shortest_edge": 512, "longest_edge": 2304}, **PATCHES}           # 8 to 36 tokens
VIDEOS = {"size": {"shortest_edge": 256, "longest_edge": 4608}, **PATCHES, "do_sample_frames": False}


@pytest.fixture(scope="module")
def twin():
    """`transformers`' own model, random; its head is not its embedding, or it would answer every token with itself."""
    pytest.importorskip("transformers", minversion="5.23")
    from minqwen.verify import official_twin

    ids = byte_tokenizer().added_tokens
    config = replace(seeing_config(vocab_size=280, tie_word_embeddings=False, max_position_embeddings=1000),
                     image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
                     vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"])
    return official_twin(random_qwen(config), pictures=True)


@pytest.fixture(scope="module")
def folder(twin, tmp_path_factory):
    """A checkpoint that `transformers` saved, with a tokenizer, a template and the processors' settings beside it."""
    folder = tmp_path_factory.mktemp("checkpoint") / "seeing"
    twin.save_pretrained(folder)
    byte_tokenizer().fast.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGES))
    (folder / "video_preprocessor_config.json").write_text(json.dumps(VIDEOS))
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


@pytest.fixture(scope="module")
def qwen(folder):
    return load(folder)


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def clip(frames, width, height, seed=0):
    return Clip([picture(width, height, 100 * seed + n) for n in range(frames)], fps=4.0)


def user(*parts):
    kinds = {str: "text", Clip: "video"}
    named = [(kinds.get(type(part), "image"), part) for part in parts]
    return {"role": "user", "content": [{"type": kind, kind: part} for kind, part in named]}


def assistant(text):
    return {"role": "assistant", "content": text}


CHATS = {
    "one picture": [user(picture(30, 50), "what is it?")],
    "several, of several sizes": [user("this ", picture(80, 20, 1), " and ", picture(20, 90, 2), picture(40, 40), "?")],
    "a clip": [user(clip(5, 24, 32), "which way?")],
    "pictures and clips by turns": [user(picture(40, 24), clip(4, 32, 24), "?", picture(33, 35), clip(2, 40, 40))],
    "over several turns": [user(picture(32, 32, 6), "a?"), assistant("yes"), user("b?"), assistant("no"),
                           user(picture(32, 32, 7), clip(3, 32, 32, 3), "and this?")],
    "text alone": [user("hello")],
}  # fmt: skip


def official(twin, inputs: list, **options):
    """`transformers`' greedy answers to these prompts, as one batch padded on the left."""
    input_ids, mask = minqwen.generate.left_pad([one.ids for one in inputs])
    config, media = twin.config, minqwen.chat._joined([one.media for one in inputs])
    kinds = (input_ids == config.image_token_id).int() + 2 * (input_ids == config.video_token_id).int()
    out = twin.generate(input_ids=input_ids, attention_mask=mask, mm_token_type_ids=kinds, do_sample=False,
                        pad_token_id=0, **media, **options)
    return out[:, input_ids.shape[1]:].tolist()


# ------------------------------------------------------------------------------------------------ against transformers


@pytest.mark.parametrize("chunk", [None, 7, 1], ids=["whole", "pieces of 7", "one by one"])
@pytest.mark.parametrize("name", CHATS)
def test_greedy_answers_are_those_of_transformers(qwen, twin, name, chunk):
    expected = official(twin, [qwen.inputs(CHATS[name])], max_new_tokens=12)
    assert [qwen.chat(CHATS[name], max_new_tokens=12, prefill_chunk=chunk or 2048).ids] == expected


def test_a_batch_is_that_of_transformers_and_each_chat_alone(qwen, twin):
    expected = official(twin, [qwen.inputs(chat) for chat in CHATS.values()], max_new_tokens=10)
    for chunk in (2048, 11):
        replies = qwen.chat_batch(list(CHATS.values()), max_new_tokens=10, prefill_chunk=chunk)
        assert [reply.ids for reply in replies] == expected
    assert all(same(reply, qwen.chat(chat, max_new_tokens=10)) for reply, chat in zip(replies, CHATS.values()))
    assert len({*map(str, replies)}) == len(CHATS)


def test_answers_depend_on_the_picture(qwen):
    answers = {qwen.chat("?", images=[picture(32, 32, seed)], max_new_tokens=8) for seed in range(6)}
    assert len(answers) > 3


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_logits_after_pieces_that_cut_through_pictures(qwen, twin, chunk):
    inputs = qwen.inputs(CHATS["pictures and clips by turns"])
    ids, model = torch.tensor([inputs.ids]), qwen.model
    pieces, whole = model.new_cache(1, 400), model.new_cache(1, 400)
    a = prefill(model, ids, pieces, prefill_chunk=chunk, **inputs.media)
    assert error(a, prefill(model, ids, whole, **inputs.media)) < 2e-5
    assert error(a, model(ids, **inputs.media)[:, -1]) < 2e-5
    assert torch.equal(pieces.positions, whole.positions) and pieces.positions[0] < pieces.length == len(inputs.ids)
    kinds = (ids == twin.config.image_token_id).int() + 2 * (ids == twin.config.video_token_id).int()
    assert error(a, twin(ids, mm_token_type_ids=kinds, **inputs.media).logits[:, -1]) < 2e-5


# ------------------------------------------------------------------------------------------------------- what is read


def test_inputs_are_text_ids_and_pictures(qwen):
    inputs = qwen.inputs([user("a", picture(16, 32), clip(3, 32, 16))], thinking=True)
    grids = {name: inputs.media[name].tolist() for name in ("image_grid_thw", "video_grid_thw")}
    assert grids == {"image_grid_thw": [[1, 8, 4]], "video_grid_thw": [[2, 4, 8]]}
    assert inputs.media["pixel_values"].shape == (32, 96) and inputs.media["pixel_values_videos"].shape == (64, 96)
    start, end = "<|vision_start|>", "<|vision_end|>"
    assert inputs.text == (
        f"<|im_start|>user\na{start}{8 * '<|image_pad|>'}{end}"
        f"<0.1 seconds>{start}{8 * '<|video_pad|>'}{end}<0.5 seconds>{start}{8 * '<|video_pad|>'}{end}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n")
    assert inputs.ids == qwen.tokenizer.encode(inputs.text)
    hi = qwen.inputs("Hi")
    assert hi.media == {} and qwen.prompt([user("Hi")]) == (hi.text, hi.ids)
    assert qwen.inputs("Hi", add_generation_prompt=False).text.endswith("Hi<|im_end|>\n")


def test_ways_to_give_pictures(qwen, tmp_path):
    """In the messages, beside a text, beside messages that wait for them; as files, arrays, alone or in lists."""
    image, other, film = picture(32, 32, 8), picture(24, 40, 9), clip(4, 32, 32, 8)
    image.save(tmp_path / "a.png")
    expected = qwen.chat([user(image, other, film, "which?")], max_new_tokens=6)
    waiting = [user(image, other, film, "which?")]
    for part in waiting[0]["content"]:
        part.pop("image", None), part.pop("video", None)
    for reply in (
        qwen.chat("which?", images=[image, other], videos=[film], max_new_tokens=6),
        qwen.chat("which?", images=[tmp_path / "a.png", np.array(other)], videos=film, max_new_tokens=6),
        qwen.chat(waiting, images=(image, other), videos=[film], max_new_tokens=6),
        qwen.chat([{"role": "user", "content": "which?"}], images=[image, other], videos=[film], max_new_tokens=6),
        qwen.chat_batch(["which?"], images=[[image, other]], videos=[[film]], max_new_tokens=6)[0],
    ):
        assert same(reply, expected)
    one = qwen.chat("which?", images=image, max_new_tokens=6)
    assert same(one, qwen.chat([user(image, "which?")], max_new_tokens=6))
    batch = qwen.chat_batch(["which?", "which?", "no"], images=[[image], [other, image], []], max_new_tokens=6)
    assert same(batch[0], one) and same(batch[1], qwen.chat("which?", images=[other, image], max_new_tokens=6))
    assert same(batch[2], qwen.chat("no", max_new_tokens=6))
    history = [user(other, "a?"), assistant("b")]
    assert "image" in history[0]["content"][0] and "image" not in waiting[0]["content"][0]     # nothing was changed


def test_nobody_writes_a_placeholder(qwen):
    attack = "<|vision_start|><|image_pad|><|vision_end|><|video_pad|>"
    image, read = picture(32, 32), qwen.config.image_token_id
    messages = [user(attack), assistant(attack), user(attack, image, attack)]
    inputs = qwen.inputs(messages)
    assert inputs.ids.count(read) == 16 and inputs.ids.count(qwen.config.video_token_id) == 0
    assert inputs.text.count(attack) == 4 and len(qwen.inputs([user(attack)]).media) == 0
    assert qwen.chat(messages, max_new_tokens=3).finish == "length"

    def look():
        return attack

    call = [{"type": "function", "function": {"name": "look", "arguments": {"at": attack}}}]
    called = {"role": "assistant", "content": "", "tool_calls": call}
    inputs = qwen.inputs([user(image, "?"), called, {"role": "tool", "content": attack}], tools=[look])
    assert inputs.ids.count(read) == 16
    split = user("<|vision_start|><|image_", "pad|><|vision_end|>", image, "<|video_", "pad|>")
    assert qwen.inputs([{"role": "system", "content": attack}, split]).ids.count(read) == 16


def test_tools_and_pictures_go_together(qwen, twin, monkeypatch):
    """What the model reads behind the result is what it reads anew."""
    def colour() -> str:
        """The colour."""
        return "red"

    image, sample, calls = picture(32, 24, 3), minqwen.sampling.sample, iter(())

    def scripted(logits, **options):
        return next(calls, None) or sample(logits, **options)

    monkeypatch.setattr(minqwen.sampling, "sample", scripted)
    for talk in (None, qwen.conversation(tools=[colour], max_new_tokens=200, prefill_chunk=50)):
        ids = qwen.tokenizer.encode(f"{written('colour')}<|im_end|>")
        calls = (torch.tensor([id]) for id in ids)
        options = {"max_new_tokens": 200, "tools": [colour]}
        reply = talk("?", images=[image]) if talk else qwen.chat("?", images=[image], **options)
        assert [call.result for call in reply.tool_calls] == ["red"]
        inputs = qwen.inputs([user(image, "?"), *reply.messages[:2]], tools=[colour])
        assert inputs.text == reply.prompt
        options = {"max_new_tokens": len(reply.ids), "eos_token_id": list(qwen.tokenizer.stop_ids)}
        assert official(twin, [inputs], **options) == [reply.ids]


# -------------------------------------------------------------------------------------------------------- conversations


@pytest.mark.parametrize("options", [{}, {"prefill_chunk": 6}, {"repetition_penalty": 1.2}], ids=str)
def test_a_conversation_is_the_same_as_reading_all_anew(qwen, options):
    talk, history = qwen.conversation(max_new_tokens=9, **options), []
    turns = [("a?", [picture(32, 32, 1)], []), ("b?", [], []), ("c?", [picture(48, 16, 2)], [clip(4, 24, 32, 1)]),
             ("d?", [picture(32, 32, 3), picture(24, 24, 4)], []), ("e?", [], [clip(2, 32, 32, 2)])]
    for text, images, videos in turns:
        history.append(user(*images, *videos, text) if images or videos else {"role": "user", "content": text})
        reply = talk(text, images=images, videos=videos)
        assert same(reply, qwen.chat(history, max_new_tokens=9, **options))
        history += reply.messages
        assert talk.messages == history


def test_a_conversation_looks_at_each_picture_once(qwen):
    looked = []
    hook = qwen.model.model.visual.register_forward_hook(lambda module, args, out: looked.append(args[1].tolist()))
    talk = qwen.conversation(max_new_tokens=3)
    for n in range(3):
        with Reads(qwen) as reads:                          # the first turn is long, and makes room for the others
            talk("x" * (300 if n == 0 else 9), images=[picture(32, 32, 2 * n), picture(32, 48, 2 * n + 1)])
    talk("and?")
    hook.remove()
    assert looked == 3 * [[[1, 8, 8], [1, 12, 8]]] and sum(reads) < 200 < 500 < len(qwen.inputs(talk.messages).ids)


def test_another_picture_of_the_same_size_is_noticed(qwen):
    """Its ids are the same; even the file may be."""
    talk = qwen.conversation(max_new_tokens=9)
    talk("a?" * 200, images=[picture(32, 32, 1)])           # long, so that there is room for more turns
    with Reads(qwen) as reads:
        talk("b?")
    assert sum(reads) < 200
    for changed in (lambda content: content[0].update(image=picture(32, 32, 2)), lambda content: content.pop(0)):
        changed(talk.messages[0]["content"])
        anew = qwen.chat([*talk.messages, {"role": "user", "content": "c?"}], max_new_tokens=9)
        with Reads(qwen) as reads:
            assert same(talk("c?"), anew)
        assert sum(reads) > 400


def test_the_context_counts_tokens_and_not_positions(qwen):
    """A picture takes fewer positions than tokens: these would let in too much."""
    images = [picture(32, 32, seed) for seed in range(4)]
    inputs = qwen.inputs([user(*images, "?")])
    ids, length = torch.tensor([inputs.ids]), len(inputs.ids)
    assert qwen.model.positions(ids, image_grid_thw=inputs.media["image_grid_thw"]).max() < length - 40
    config = Config.from_dict(qwen.config.to_dict())
    config.text_config.max_position_embeddings = length + 10
    small = Assistant(random_qwen(config), qwen.tokenizer)
    small.processor = qwen.processor
    assert len(small.chat("?", images=images).ids) == len(small.conversation()("?", images=images).ids) == 10
    cache = small.model.new_cache(1, 400)
    prefill(small.model, ids, cache, **inputs.media)
    assert len(generate(small.model, [[1, 2]], cache=cache)[0]) == 8
    with pytest.raises(QwenError, match=f"{length + 19} tokens, but the model's context holds {length + 10}"):
        stream(small.model, [10 * [1]], cache=cache)


# --------------------------------------------------------------------------------------------------------------- errors


TWO = [user(picture(9, 9), "a"), assistant("b"), user(picture(9, 9), "c")]
WAITING = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}, {"type": "image"}]}]


@pytest.mark.parametrize("problem, arguments", [
    ("given beside them: put all into", {"messages": TWO, "images": [picture(9, 9)]}),
    ("given beside them: put all into", {"messages": TWO, "videos": [clip(2, 9, 9)]}),
    ("have 2 parts {'type': 'image'}, but 1 images are given", {"messages": WAITING, "images": [picture(9, 9)]}),
    ("have 2 parts {'type': 'image'}, but 3 images are given", {"messages": WAITING, "images": 3 * [picture(9, 9)]}),
    ("have 0 parts {'type': 'video'}, but 1 videos are given",
     {"messages": WAITING, "images": 2 * [picture(9, 9)], "videos": [clip(2, 9, 9)]}),
    ("'type': 'image'} without its image", {"messages": WAITING}),
    ("before a user's question, but there is none", {"messages": [assistant("a")], "images": [picture(9, 9)]}),
    ("There is no file nowhere.png", {"messages": "?", "images": ["nowhere.png"]}),
    ("A clip is", {"messages": "?", "videos": [picture(9, 9)]}),
    ("tokens, but the model's context holds 1000", {"messages": "?", "images": 80 * [picture(32, 32)]}),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_bad_pictures_are_refused_at_once(qwen, problem, arguments):
    with pytest.raises(QwenError, match=problem) as raised:
        qwen.chat(**arguments, stream=True)
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


def test_batches_with_the_wrong_number_of_lists(qwen):
    for images in ([[picture(9, 9)]], picture(9, 9), [[], [], []]):
        with pytest.raises(QwenError, match="a list of images for each of the 2 chats"):
            qwen.chat_batch(["a", "b"], images=images)


def test_checkpoints_that_cannot_see(qwen, twin):
    blind = Config.from_dict(qwen.config.to_dict() | {"vision_config": None})
    with pytest.raises(QwenError, match="no vision tower"):
        Assistant(random_qwen(blind), qwen.tokenizer).chat("?", images=[picture(9, 9)])
    bare = Assistant(qwen.model, qwen.tokenizer)
    with pytest.raises(QwenError, match="set qwen.processor to a minqwen.media.Processor."):
        bare.chat("?", images=[picture(9, 9)])
    assert bare.chat("?", max_new_tokens=2).finish == "length"
    bare.processor = qwen.processor
    assert same(bare.chat("?", images=[picture(9, 9)], max_new_tokens=4),
                qwen.chat("?", images=[picture(9, 9)], max_new_tokens=4))


def test_the_processor_is_the_folders(qwen, folder):
    assert qwen.processor == Processor.from_folder(folder, qwen.config.vision_config)
    assert qwen.processor.image.longest_edge == 2304 and qwen.processor.image.patch_size == SMALL_VISION["patch_size"]
    assert "3 layers, a token for every 8 x 8 pixels" in repr(qwen)


PIXELS, GRID = torch.randn(16, 96), torch.tensor([[1, 4, 4]])


@pytest.mark.parametrize("problem, pictures", [
    ("belong together", {"pixel_values": PIXELS}),
    ("belong together", {"video_grid_thw": GRID}),
    ("pixel_values has 16 patches, but image_grid_thw asks for 32",
     {"pixel_values": PIXELS, "image_grid_thw": GRID.repeat(2, 1)}),
    ("more pictures or clips than placeholders",
     {"pixel_values": PIXELS.repeat(2, 1), "image_grid_thw": GRID.repeat(2, 1)}),
    ("do not fit the grids", {"pixel_values": PIXELS[:8], "image_grid_thw": torch.tensor([[1, 4, 2]])}),
    ("more pictures or clips than placeholders", {"pixel_values_videos": PIXELS, "video_grid_thw": GRID}),
])
def test_stream_refuses_pictures_that_do_not_fit_before_the_first_step(qwen, problem, pictures):
    ids = [1, 2, *4 * [qwen.config.image_token_id], 3]
    with pytest.raises(QwenError, match=problem):
        stream(qwen.model, [ids], **pictures)
    blind = random_qwen(Config.from_dict(qwen.config.to_dict() | {"vision_config": None}))
    with pytest.raises(QwenError, match="no vision tower"):
        stream(blind, [ids], pixel_values=PIXELS, image_grid_thw=GRID)


def test_a_trace_of_a_chat_with_pictures(qwen):
    chat = CHATS["pictures and clips by turns"]
    t, inputs = minqwen.trace(qwen).run(chat), qwen.inputs(chat)
    assert t.input_ids[0].tolist() == inputs.ids and set(t.media) == set(inputs.media) and len(t.media) == 4
    assert all(torch.equal(t.media[name], x) for name, x in inputs.media.items())
    with torch.no_grad():
        assert torch.equal(t.logits, qwen.model(torch.tensor([inputs.ids]), **inputs.media))


# ------------------------------------------------------------------------------------------- rows of a table

NOTHING = {"type": None, "text": None, "image": None, "video": None, "url": None}


def rows(chat):
    """The chat as a table holds it: each part with a column for every key, None where it has none."""
    return [message | {"content": [NOTHING | part for part in message["content"]]}
            if isinstance(message["content"], list) else message for message in chat]


@pytest.mark.parametrize("name", CHATS)
def test_a_key_that_holds_nothing_is_none(qwen, name):
    chat = CHATS[name]
    assert inputs_are_equal(qwen.inputs(rows(chat)), qwen.inputs(chat))


def inputs_are_equal(ours, theirs):
    return ours.text == theirs.text and ours.ids == theirs.ids and set(ours.media) == set(theirs.media) and all(
        torch.equal(ours.media[name], theirs.media[name]) for name in ours.media)


def test_parts_that_wait_for_their_pictures_as_rows(qwen):
    one, two = picture(30, 40), picture(50, 20, 1)
    filled = qwen.inputs([user(one, "?", two)])
    for waiting in (rows(WAITING), [{"role": "user", "content": [{"image": None}, {"text": "?", "video": None},
                                                                 {"type": "image", "text": None}]}]):
        messages = as_messages(waiting, images=[one, two])
        assert inputs_are_equal(qwen.inputs(messages), filled)
        with pytest.raises(QwenError, match="without its image"):
            qwen.inputs(waiting)


@pytest.mark.parametrize("key", ["image", "url", "path", "base64"])
def test_the_names_of_transformers_for_a_picture(qwen, tmp_path, key):
    picture(30, 40).save(tmp_path / "a.png")
    given = str(tmp_path / "a.png")
    if key == "base64":
        given = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    part = {"type": "image", "image": None, "text": None, key: given}
    ask = {"type": "text", "text": "what is it?", "url": None}
    assert inputs_are_equal(qwen.inputs([{"role": "user", "content": [part, ask]}]),
                            qwen.inputs([user(picture(30, 40), "what is it?")]))


def test_nanos_template_knows_a_part_by_what_it_holds():
    """By itself, as another program renders it, too."""
    tokenizer = Tokenizer.from_folder(Path(__file__).parent.parent / "data/nano")
    seen = {kind: f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("image", "video")}
    for part, expected in [
        ({"type": "text", "text": "x", "image": None}, "x"), ({"text": "x", "video": None, "type": None}, "x"),
        ({"type": "text", "text": None, "image": None}, ""),
        ({"type": "image", "image": "a.png", "text": None}, seen["image"]),
        ({"image": "a.png", "video": None, "text": None}, seen["image"]),
        ({"type": "image", "image": None, "text": None}, seen["image"]), ({"type": "video"}, seen["video"]),
        ({"type": "video", "video": np.zeros((2, 8, 8, 3)), "text": None, "image": None}, seen["video"]),
    ]:
        chat = [{"role": "user", "content": [part, {"type": "text", "text": " and?"}]}]
        assert f"<|im_start|>user\n{(expected + ' and?').strip()}<|im_end|>" in tokenizer.render(chat), part
