"""The nano model: a true world, text as the template has it, training that resumes, and what the model can do."""

import json
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image, ImageChops, ImageSequence
from safetensors.torch import load_file
from tokenizers import Tokenizer as FastTokenizer
from torch.nn import functional as F

import minqwen
from minqwen.chat import Reply
from minqwen.media import Clip
from minqwen.model import GatedDeltaNet, Qwen, Step
from minqwen.nano import pictures, train, world
from minqwen.nano import score as scoring
from minqwen.nano.recipe import PHASES, Phase, Recipe
from minqwen.nano.samples import COUNTING, LOOKING_UP, MOVING, Sample, phase_samples, picture_samples, story_samples
from minqwen.nano.tokenizer import build_tokenizer, save_tokenizer
from minqwen.tokenizer import Tokenizer
from minqwen.tools import ToolCall
from minqwen.verify import error

DATA = Path(__file__).parents[1] / "data"
NANO, MEDIA = DATA / "nano", DATA / "media"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def qwen():
    return minqwen.load(NANO)


# --------------------------------------------------------------------------------------------------------- the world


def read_story(text):
    """What a careful reader takes from a story: who has what, and who is where, at its end."""
    has, place = {}, {}
    for sentence in re.findall(r"[^.?]+\.", text):
        if found := re.fullmatch(r"\s*(\w+) (?:now )?has (a \w+ \w+)\.", sentence):
            has[found[1]] = found[2]
        elif found := re.fullmatch(r"\s*(\w+) (?:goes to|is in) (the \w+)\.", sentence):
            place[found[1]] = "in " + found[2]
    return has, place


def test_answers_are_what_a_careful_reader_would_say():
    overwritten = set()
    for seed in range(300):
        conversation = world.facts_conversation(Random(seed), facts=1 + seed % 20, questions=4)
        text = ""
        for turn in conversation.turns:
            text += " " + turn.question
            has, place = read_story(text)
            asked, name = re.search(r"(what does|where is) (\w+)(?: have)?\?$", turn.question).groups()
            assert turn.answer == (has if asked == "what does" else place)[name]
            again = rf"{name} now has" if asked == "what does" else rf"{name} goes to"
            overwritten.add((asked, re.search(again, text) is not None))
    assert len(overwritten) == 4                        # both questions, about what was told once and what was changed


def test_what_is_thought_about_a_fact_is_the_last_that_was_told_of_it():
    for seed in range(100):
        turn = world.facts_conversation(Random(seed), 12, 1, thinking=True).turns[0]
        name = re.search(r"(?:what does|where is) (\w+)", turn.question)[1]
        verbs = r"(?:now )?has a \w+ \w+" if turn.question.endswith("have?") else r"(?:goes to|is in) the \w+"
        assert turn.thinking == re.findall(rf"\b{name} {verbs}\.", turn.question)[-1]
        assert turn.answer.split()[-1] in turn.thinking


def test_sums_are_right_and_so_is_every_line_that_is_thought():
    for seed in range(300):
        a, b = world.pair(Random(seed), 1 + seed % 4)
        turn = world.addition(a, b, thinking=True)
        assert turn.answer == str(a + b) and turn.question == f"what is {a} + {b}?"
        carry, digits = 0, ""
        for line in turn.thinking.splitlines():
            x, y, c, total = map(int, re.fullmatch(r"(\d) \+ (\d) \+ (\d) = (\d+)", line).groups())
            assert c == carry and total == x + y + c
            carry, digits = total // 10, str(total % 10) + digits
        assert int(f"{carry}{digits}") == a + b


def test_held_out_sums_are_never_trained_on():
    tested = {tuple(sorted(world.pair(Random(i), 3, test=True))) for i in range(500)}
    trained = {tuple(sorted(world.pair(Random(i), 3))) for i in range(5000)}
    assert not tested & trained
    assert all(world.held_out(a, b) and world.held_out(b, a) for a, b in tested)
    assert not any(world.held_out(a, b) for a, b in trained)


# ------------------------------------------------------------------------------------------------- pictures and clips


def colour_at(image, x, y):
    return {rgb: name for name, rgb in pictures.COLOURS.items()}.get(image.getpixel((int(x), int(y))))


def test_colours_are_those_of_the_text_and_well_apart():
    assert list(pictures.COLOURS) == world.COLOURS
    shades = [*pictures.COLOURS.values(), *pictures.BACKGROUNDS]
    for i, a in enumerate(pictures.COLOURS.values()):
        for b in shades[i + 1 :]:
            assert sum((x - y) ** 2 for x, y in zip(a, b)) ** 0.5 > 80, (a, b)


@pytest.mark.parametrize("test", [False, True])
def test_pictures_hold_what_they_say(test):
    """Each shape has its colour in its middle and lies inside of its place; all other places are empty."""
    for seed in range(300):
        scene = pictures.Scene.sample(Random(seed), test=test)
        image = scene.draw()
        assert image.mode == "RGB" and image.size == (scene.width, scene.height) in pictures.SIZES
        assert image.width * image.height <= 9216 and image.width % 16 == image.height % 16 == 0
        places = {shape.place: shape for shape in scene.shapes}
        assert len(places) == len(scene.shapes) and list(places) == [p for p in pictures.WHERE if p in places]
        assert scene.background in pictures.BACKGROUNDS
        for i, place in enumerate(pictures.WHERE):
            column, row = i % 3, i // 3
            box = [-(-n * whole // 3) for n, whole in ((column, image.width), (row, image.height),
                                                       (column + 1, image.width), (row + 1, image.height))]
            inside = image.crop((box[0] + 1, box[1] + 1, box[2] - 2, box[3] - 2))
            if place in places:
                shape = places[place]
                assert colour_at(image, shape.x, shape.y) == shape.colour
                assert box[0] - 1 <= shape.x - shape.radius and shape.x + shape.radius <= box[2] + 1
                assert box[1] - 1 <= shape.y - shape.radius and shape.y + shape.radius <= box[3] + 1
                assert pictures.held_out(shape.colour, shape.kind) == test
            else:
                assert inside.getcolors() == [(inside.width * inside.height, scene.background)]


def test_shapes_are_told_apart_by_their_pixels():
    """At the smallest radius each two shapes differ in a good part of what they cover; all cover about as much."""
    def cover(kind):
        image = pictures.paint(20, 20, (255, 255, 255), [pictures.Shape(kind, "black", 10, 10, 8.8)])
        return torch.tensor(list(image.convert("L").get_flattened_data())) < 128

    covers = {kind: cover(kind) for kind in pictures.SHAPES}
    for a in pictures.SHAPES:
        assert 70 < covers[a].sum() < 230
        for b in pictures.SHAPES:
            if a != b:
                assert (covers[a] ^ covers[b]).sum() >= 35, (a, b)
    with pytest.raises(ValueError, match="hexagon"):
        pictures.outline("hexagon")


def test_scenes_of_all_kinds_occur_and_are_the_same_for_the_same_seed():
    scenes = [pictures.Scene.sample(Random(seed)) for seed in range(1000)]
    assert scenes == [pictures.Scene.sample(Random(seed)) for seed in range(1000)]
    assert {len(scene.shapes) for scene in scenes} == {1, 2, 3, 4}
    assert {(scene.width, scene.height) for scene in scenes} == set(pictures.SIZES)
    assert {(s.colour, s.kind) for scene in scenes for s in scene.shapes} == set(pictures.TRAINED)
    assert {s.place for scene in scenes for s in scene.shapes} == set(pictures.WHERE)
    tested = [pictures.Scene.sample(Random(seed), test=True) for seed in range(100)]
    assert {(s.colour, s.kind) for scene in tested for s in scene.shapes} == set(pictures.HELD_OUT)
    assert all(sum(kind == other for _, other in pictures.HELD_OUT) == 1 for kind in pictures.SHAPES)
    large = pictures.Scene.sample(Random(0), count=9, size=(256, 192))
    assert large.draw().size == (256, 192) and len(large.find()) == 9


@pytest.mark.parametrize("test", [False, True])
def test_clips_move_the_way_they_say(test):
    """What moves is followed by its pixels, from frame to frame, by the same step, and never leaves the picture."""
    ways = set()
    for seed in range(200):
        film = pictures.Film.sample(Random(seed), test=test)
        assert film == pictures.Film.sample(Random(seed), test=test)
        frames = film.frames()
        ways.add(film.way)
        assert 4 <= len(frames) <= 8 and {frame.size for frame in frames} == {(64, 64)}
        dx, dy = {"to the left": (-1, 0), "to the right": (1, 0), "up": (0, -1), "down": (0, 1)}[film.way]
        boxes = []
        for i, frame in enumerate(frames):
            x, y = film.moving.x + i * film.step * dx, film.moving.y + i * film.step * dy
            assert colour_at(frame, x, y) == film.moving.colour
            assert min(x, y, 64 - x, 64 - y) >= film.moving.radius - 0.01
            for shape in film.resting:
                assert colour_at(frame, shape.x, shape.y) == shape.colour
            if not film.resting:
                empty = pictures.paint(64, 64, film.background, [])
                boxes.append(ImageChops.difference(frame, empty).getbbox())
        for before, after in zip(boxes, boxes[1:]):
            moved = [(b - a) - film.step * d for a, b, d in zip(before, after, (dx, dy, dx, dy))]
            assert film.step > 2 and max(map(abs, moved)) <= 1.01
        assert all(pictures.held_out(s.colour, s.kind) == test for s in film.shapes)
    assert ways == set(pictures.WAYS)


def careful_look(scene, question):
    """What somebody would say who goes from place to place and looks."""
    places = list(pictures.WHERE)
    seen = [(s.colour, s.kind, s.place) for s in sorted(scene.shapes, key=lambda s: places.index(s.place))]
    if question == "what is in the picture?":
        said = [f"a {colour} {kind}" for colour, kind, _ in seen]
        return said[0] if len(said) == 1 else ", ".join(said[:-1]) + " and " + said[-1]
    if question == "how many shapes are there?":
        return str(len(seen))
    if found := re.fullmatch(r"how many (\w+) are there\?", question):
        return str(sum(found[1] in (kind + "s", kind + "es") for _, kind, _ in seen))
    if found := re.fullmatch(r"what colour is the (\w+)\?", question):
        [answer] = [colour for colour, kind, _ in seen if kind == found[1]]
        return answer
    if found := re.fullmatch(r"which shape is (\w+)\?", question):
        [answer] = [f"a {kind}" for colour, kind, _ in seen if colour == found[1]]
        return answer
    name = re.fullmatch(r"where is the ([\w ]+)\?", question)[1]
    [place] = [place for colour, kind, place in seen if name in (kind, f"{colour} {kind}")]
    return {"left": "on the ", "right": "on the ", "top": "at the ", "bottom": "at the "}.get(place, "in the ") + place


def test_answers_about_pictures_are_what_a_careful_look_gives():
    kinds, answers = set(), set()
    for seed in range(400):
        conversation = world.picture_conversation(Random(seed), 1 + seed % 6, test=seed % 3 == 0)
        scene = None
        for turn in conversation.turns:
            scene = turn.images[-1] if turn.images else scene
            assert turn.answer == careful_look(scene, turn.question)
            answers.add(turn.answer)
            kinds |= {kind for kind, some in world.scene_questions(scene).items()
                      if (turn.question, turn.answer) in some}
        shown = [scene for turn in conversation.turns for scene in turn.images]
        assert shown[0] is conversation.turns[0].images[0] and conversation.images() == [s.draw() for s in shown]
    assert kinds == set(world.scene_questions(scene)) and {"0", "1", "2", "3", "4"} <= answers
    assert set(pictures.WHERE.values()) <= answers and set(pictures.COLOURS) <= answers


def test_answers_about_clips():
    asked = set()
    for seed in range(200):
        conversation = world.picture_conversation(Random(seed), 4, film=True, test=seed % 2 == 0)
        film = None
        for turn in conversation.turns:
            film = turn.clips[-1] if turn.clips else film
            shapes = [film.moving, *film.resting]
            known = {"which way does it move?": [film.way], "what moves?": [f"a {film.moving}"],
                     "what stands still?": [f"a {shape}" for shape in film.resting],
                     "how many shapes are there?": [str(len(shapes))]}
            for word in [*pictures.COLOURS, *pictures.SHAPES]:
                known[f"what colour is the {word}?"] = [s.colour for s in shapes if s.kind == word]
                known[f"which shape is {word}?"] = [f"a {s.kind}" for s in shapes if s.colour == word]
            assert known[turn.question] == [turn.answer]            # exactly one answer is right
            asked.add(" ".join(turn.question.split()[:2]))
        lengths = [film.length for turn in conversation.turns for film in turn.clips]
        assert [len(clip.frames) for clip in conversation.clips()] == lengths
    assert asked == {"which way", "what moves?", "what stands", "how many", "what colour", "which shape"}
    for kind in ("what stands still", "which way"):
        conversation = world.picture_conversation(Random(0), 1, film=True, kind=kind)
        assert conversation.turns[0].question.startswith(kind)


def test_a_story_with_a_picture_in_it_is_asked_about_both():
    both = 0
    for seed in range(200):
        conversation = world.mixed_conversation(Random(seed), 3, 5)
        assert len(conversation.images()) + len(conversation.clips()) == 1
        text, sees, about = "", None, set()
        for turn in conversation.turns:
            sees = next(iter(turn.images + turn.clips), sees)
            text += " " + turn.question
            question = turn.question.rpartition(". ")[2]
            has, place = read_story(text)
            if found := re.fullmatch(r"(?:what does|where is) (\w+)(?: have)?\?", question):
                assert turn.answer == (has if question.endswith("have?") else place)[found[1]]
                about.add("story")
            else:
                ask = world.scene_questions if isinstance(sees, pictures.Scene) else world.film_questions
                asked = ask(sees)
                assert (question, turn.answer) in [pair for some in asked.values() for pair in some]
                about.add("picture")
        both += len(about) == 2
    assert both > 100


def test_what_is_to_be_looked_up_is_asked_oftener_than_the_rest():
    """Three times as often, where a picture can be asked everything."""
    asked = Counter()
    for seed in range(4000):
        look = world.Look(Random(seed), pictures.Scene.sample(Random(f"scene {seed}")))
        if all(look.questions.values()):
            kind_of = {pair: kind for kind, some in look.questions.items() for pair in some}
            turn = look.ask()
            asked[kind_of[turn.question, turn.answer]] += 1
    others = asked.keys() - set(world.LOOKUPS)
    assert set(world.LOOKUPS) < asked.keys() and others == {"what", "how many"}
    for kind in world.LOOKUPS:
        for other in others:
            assert 2 < asked[kind] / asked[other] < 4.5, asked


# ------------------------------------------------------------------------------------------------- the calculator


def test_long_sums_go_to_the_calculator_and_its_results_are_right():
    seen = set()
    for seed in range(400):
        thinking = seed % 2 == 0
        conversation = world.tools_conversation(Random(seed), thinking)
        assert conversation.tools == [world.add]
        for turn in conversation.turns:
            found = re.fullmatch(r"what is (\d+) \+ (\d+)\?", turn.question)
            if turn.call is None:
                assert not found or turn.thinking and max(map(len, found.groups())) <= 3
                seen.add("sum" if found else "picture" if turn.images else "other")
                continue
            a, b = map(int, found.groups())
            long = 4 <= max(map(len, found.groups())) <= 8
            assert long or not thinking
            assert (turn.call.a, turn.call.b) == (a, b)
            assert [str(n) for n in (a, b)] == re.findall(r"<parameter=[ab]>\n(\d+)\n</parameter>", turn.call.text())
            if turn.call.result in world.FAILURES:
                assert turn.answer == "the calculator failed."
                seen.add("failure")
            else:
                assert turn.answer == turn.call.result == str(a + b)
                seen.add("long" if long else "short")
        if len([turn for turn in conversation.turns if turn.call]) == 2:
            seen.add("two calls")
    assert seen == {"sum", "picture", "other", "failure", "long", "short", "two calls"}
    for seed in range(100):
        [turn] = world.tools_conversation(Random(seed), others=False, test=True).turns
        assert turn.call and world.held_out(turn.call.a, turn.call.b)


# ---------------------------------------------------------------------------------------- tokenizer, template, samples


def test_every_word_of_the_world_is_one_token(folder):
    tokenizer = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    words = "calculator picture shapes crosses colour many left right top bottom middle moves down up seconds".split()
    for word in (*world.NAMES, *world.COLOURS, *world.THINGS, *world.PLACES, *pictures.SHAPES, *words):
        assert len(tokenizer.encode(" " + word).ids) == 1, word
    for word in world.NAMES:
        assert len(tokenizer.encode(word).ids) == 1, word
    assert len(tokenizer.encode("4096").ids) == 4
    for tag in ("<function=add>", "<parameter=a>", "</parameter>", "</function>", "<tools>"):
        assert len(tokenizer.encode(tag).ids) == 1, tag
    assert len(tokenizer.encode(world.tools_block([world.add])).ids) < 60 and tokenizer.get_vocab_size() <= 832
    for text in ("naïve café 日本語 🙂", "def f(x):\n    return x + 1\n"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_shipped_tokenizer_is_the_one_that_is_built():
    shipped = FastTokenizer.from_file(str(NANO / "tokenizer.json"))
    assert json.loads(shipped.to_str()) == json.loads(build_tokenizer().to_str())


CONVERSATIONS = {
    "facts": lambda rng, thinking: world.facts_conversation(rng, 6, 3, thinking),
    "sums": lambda rng, thinking: world.sums_conversation(rng, thinking, 3, 2),
    "greeting": world.greeting_conversation,
    "picture": lambda rng, thinking: world.picture_conversation(rng, 4, thinking),
    "clip": lambda rng, thinking: world.picture_conversation(rng, 4, thinking, film=True),
    "mixed": lambda rng, thinking: world.mixed_conversation(rng, 3, 4, thinking),
    "tools": world.tools_conversation,
}


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_training_text_is_what_the_template_renders(folder, kind, thinking):
    """The pieces put together are the chat as it is rendered, and cutting them apart does not change their tokens.

    What the model is to say is cut where the template ends its prompt: before each call, and before each answer.
    """
    tokenizer = Tokenizer.from_folder(folder)
    for seed in range(30):
        conversation = CONVERSATIONS[kind](Random(seed), thinking)
        tools = [world.describe(tool) for tool in conversation.tools] or None
        pieces, dialogue = world.pieces(conversation), conversation.dialogue()
        text = "".join(text for text, _ in pieces)
        assert text == tokenizer.render(dialogue, add_generation_prompt=False, tools=tools)
        assert [id for text, _ in pieces for id in tokenizer.encode(text)] == tokenizer.encode(text)
        said = "".join(text for text, learn in pieces if learn)
        assert "<|im_start|>" not in said and "<tool_response>" not in said and "<tools>" not in said
        last = conversation.turns[-1]
        expected = [turn.call.text() for turn in conversation.turns if turn.call]
        expected += [turn.answer for turn in conversation.turns] + [last.thinking or ""]
        assert all(part in said for part in expected)

        # the prompts of the last turn: its question, and the result of its call
        asked = conversation.messages()
        assert asked[-1]["role"] == "user" and "user" not in [message["role"] for message in dialogue[len(asked):]]
        prompts = [asked, dialogue[:-1]] if last.call else [asked]
        starts = [sum(len(text) for text, _ in pieces[:i]) for i, (_, learn) in enumerate(pieces) if learn]
        for prompt, start in zip(prompts, starts[-len(prompts):]):
            assert text[:start] == tokenizer.render(prompt, thinking=last.thinking is not None, tools=tools)

        plain = "".join(text for text, _ in world.plain_pieces(conversation))
        assert plain.count(world.IMAGE) == len(conversation.images()) == text.count(world.IMAGE)
        assert plain.count(world.CLIP) == len(conversation.clips()) == text.count(world.CLIP)


def test_trap_25_results_of_tools_are_no_questions(folder):
    """Think blocks after the last question are kept, empty ones too, however many results have come since."""
    render = Tokenizer.from_folder(folder).render
    def calls(*sums):
        return [{"function": {"name": "add", "arguments": {"a": a, "b": b}}} for a, b in sums]

    chat = [{"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello", "reasoning_content": "forgotten"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "", "tool_calls": calls((1, 2), (3, 4)), "reasoning_content": "kept"},
            {"role": "tool", "content": "3"}, {"role": "tool", "content": [{"type": "text", "text": "7"}]}]
    one = ("<tool_call>\n<function=add>\n<parameter=a>\n{}\n</parameter>\n<parameter=b>\n{}\n</parameter>\n"
           "</function>\n</tool_call>")
    user, assistant = "<|im_start|>user\n", "<|im_start|>assistant\n"
    results = "<tool_response>\n3\n</tool_response>\n<tool_response>\n7\n</tool_response>"
    expected = (f"{user}hi<|im_end|>\n{assistant}hello<|im_end|>\n{user}hi<|im_end|>\n"
                f"{assistant}<think>\nkept\n</think>\n\n{one.format(1, 2)}\n{one.format(3, 4)}<|im_end|>\n"
                f"{user}{results}<|im_end|>\n{assistant}<think>\n\n</think>\n\n")
    assert render(chat, thinking=False) == expected
    assert render([*chat[:4], {"role": "user", "content": results}], thinking=False) == expected
    assert "kept" not in render([*chat, {"role": "user", "content": "hi"}])
    assert "<think>\n\n</think>\n\nso" in render([*chat, {"role": "assistant", "content": "so"}])


def test_thinking_is_looked_for_in_the_answer_only_if_it_is_not_beside_it(folder):
    render, user = Tokenizer.from_folder(folder).render, {"role": "user", "content": "hi"}
    for beside, said in (({"reasoning_content": ""}, "a plain </think> tag"), ({}, "tag"), ({"thinking": None}, "tag")):
        answer = {"role": "assistant", "content": "a plain </think> tag", **beside}
        assert f"assistant\n{said}<|im_end|>" in render([user, answer, user])


def test_trap_26_calls_are_xml_and_values_that_are_no_text_are_json(folder):
    call = {"name": "book", "arguments": {"who": "ann", "sure": True, "seats": [1, 2]}}
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so:", "tool_calls": [call]}]
    text = Tokenizer.from_folder(folder).render(chat, add_generation_prompt=False)
    assert text.endswith("so:\n\n<tool_call>\n<function=book>\n<parameter=who>\nann\n</parameter>\n<parameter=sure>\n"
                         "true\n</parameter>\n<parameter=seats>\n[1, 2]\n</parameter>\n</function>\n</tool_call>"
                         "<|im_end|>\n")


def test_the_template_says_what_it_does_not_take(folder):
    render = Tokenizer.from_folder(folder).render
    user = {"role": "user", "content": "hi"}
    for messages, says in [([user, {"role": "robot", "content": "hi"}], "robot"),
                           ([user, {"role": "system", "content": "hi"}], "must come first"),
                           ([{"role": "system", "content": "hi"}], "no user message"),
                           ([{"role": "user", "content": [{"type": "sound"}]}], "a text, an image or a video"),
                           ([{"role": "user", "content": 3}], "a text or a list")]:
        with pytest.raises(minqwen.QwenError, match=says):
            render(messages)
    tools = [world.describe(world.add)]
    assert render([{"role": "system", "content": "be kind"}, user], tools=tools).startswith(
        f"<|im_start|>system\n{world.tools_block([world.add])}\n\nbe kind<|im_end|>\n<|im_start|>user\nhi")


def test_settings_of_the_pictures_are_those_that_are_trained_with(folder):
    images, videos = (json.loads((folder / f"{kind}preprocessor_config.json").read_text()) for kind in ("", "video_"))
    for settings, most in ((images, 9216), (videos, 36864)):
        assert settings["size"] == {"shortest_edge": 4096, "longest_edge": most}
        assert (settings["patch_size"], settings["merge_size"], settings["temporal_patch_size"]) == (8, 2, 2)
    sizes = [width * height for width, height in pictures.SIZES]
    assert min(sizes) >= 4096 and max(sizes) <= 9216 and videos["do_sample_frames"] is False


def test_thinking_is_off_unless_asked_for(folder):
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.supports_thinking and not tokenizer.thinking_by_default
    assert tokenizer.render([{"role": "user", "content": "hi"}]).endswith("assistant\n<think>\n\n</think>\n\n")


# ---------------------------------------------------------------------------------------------------------- training


def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path, monkeypatch):
    def run(name, *more):
        train.main(["--steps", "4", "--looks", "3", "--tokens", "400", "--pictures", "3",
                    "--probe-every", "100", "--keep-every", "2",
                    "--run", str(tmp_path / name), "--out", str(tmp_path / f"{name}-out"), *more])
        return load_file(tmp_path / f"{name}-out" / "model.safetensors")

    monkeypatch.setattr(train, "probe", lambda *_: {})
    whole = run("whole")
    real, calls = train.step_losses, []

    def interrupted(*args):
        calls.append(1)
        losses = real(*args)
        if len(calls) > 2:                              # in the third step: its gradients are there, and are lost
            raise KeyboardInterrupt
        return losses

    monkeypatch.setattr(train, "step_losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("resumed")
    assert not (tmp_path / "resumed-out").exists()
    monkeypatch.setattr(train, "step_losses", real)
    resumed = run("resumed")
    assert whole.keys() == resumed.keys()
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=1e-6, atol=1e-7)
    known = [torch.load(tmp_path / name / "last.pt", weights_only=False)["curriculum"] for name in ("whole", "resumed")]
    assert known[1] == pytest.approx(known[0]) and known[0]["since"] == 4
    with pytest.raises(SystemExit, match=r"another recipe \(lr\).*--restart"):
        run("resumed", "--lr", "0.5")


def test_every_layer_begins_with_memories_of_all_lengths(folder):
    model = Qwen(train.nano_config(FastTokenizer.from_file(str(folder / "tokenizer.json"))))
    train.begin_as_a_memory(model, half_lives=(30, 2000))
    mixers = [module for module in model.modules() if isinstance(module, GatedDeltaNet)]
    assert len(mixers) == 6
    for mixer in mixers:
        decay = torch.exp(-mixer.A_log.exp() * torch.nn.functional.softplus(mixer.dt_bias))     # of one token
        kept = decay.double() ** torch.logspace(*(math.log10(x) for x in (30, 2000)), 4).double()
        torch.testing.assert_close(kept, torch.full_like(kept, 0.5), rtol=1e-3, atol=0)


def test_stories_come_first_then_pictures_and_then_everything():
    phases = {phase.name: phase for phase in PHASES}

    def read(phase, steps=20, **numbers):
        recipe = Recipe(**numbers)
        samples = [sample for seed in range(steps)
                   for sample in phase_samples(Random(seed), phases[phase], recipe, most_facts=8)]
        kinds = Counter(sample.kind for sample in samples)
        weights = recipe.weights | phases[phase].weights
        assert weights.keys() == recipe.weights.keys()
        return weights, {kind: kinds[kind] / steps for kind in kinds}

    assert list(phases) == ["stories", "pictures", "clips", "everything", "counting"]
    weights, told = read("stories")
    assert told["pictures"] == 8 and told["facts"] > 8 and told.keys() == {"pictures", "facts", "mixed"}
    assert weights["facts"] == 10 * weights["pictures"]
    weights, kinds = read("pictures")
    assert kinds["pictures"] == 36 and 0.4 < kinds["facts"] / told["facts"] < 0.6 and kinds.keys() == told.keys()
    assert weights["facts"] == 1.5 * weights["pictures"]
    for phase, clips, more, counts in (("clips", 9 + 8, {"clips": 2.0}, 0), ("everything", 9, {}, 0),
                                       ("counting", 9, {}, 8)):
        weights, kinds = read(phase)
        assert (kinds["pictures"], kinds["clips"], kinds["calculator"]) == (24 + counts, clips, 4)
        assert kinds.keys() == weights.keys() and weights == Recipe().weights | more
    _, kinds = read("clips", tokens=400, pictures=1)                            # none of them is ever left out
    assert (kinds["pictures"], kinds["clips"], kinds["calculator"]) == (1, 2, 1)


def test_the_next_phase_begins_when_this_one_is_mastered():
    """Or after so many steps. Stories grow when they are easy, up to the longest, and not while they are not."""
    recipe = Recipe()

    def steps_with(curriculum, **losses):
        phase, steps = curriculum.phase, 0
        while curriculum.phase == phase and steps < 5000:
            curriculum.go_on(losses, recipe)
            steps += 1
        return steps

    slow, quick = train.Curriculum(), train.Curriculum()
    stories, looking, clips, everything, _ = recipe.phases
    assert steps_with(slow, facts=0.3, pictures=0) == stories.steps and slow == train.Curriculum(
        1, 0, 8, pytest.approx(0.3), 1.0)
    assert 30 < steps_with(quick, facts=0.1, pictures=0.5) < 200 and quick.most_facts >= stories.until_facts > 25
    assert (quick.phase, quick.since, quick.pictures) == (1, 0, 1.0)
    assert steps_with(slow, facts=0.3, pictures=looking.until_seen + 0.01) == looking.steps
    assert 20 < steps_with(quick, facts=0.1, pictures=looking.until_seen - 0.01) < 100
    assert (slow.phase, slow.since) == (2, 0) == (quick.phase, quick.since) and slow.most_facts == 8
    assert steps_with(quick, facts=0.1, pictures=0) == clips.steps
    assert steps_with(quick, facts=0.1, pictures=0) == everything.steps
    assert steps_with(quick, facts=0.1, pictures=0) == 5000 and quick.most_facts == recipe.most_facts


def test_a_recipe_is_kept_as_plain_numbers():
    recipe = Recipe(steps=7, half_lives=(1, 2), phases=(Phase("all", stories=1, weights={"facts": 3.0}),))
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe != Recipe()
    assert json.loads(json.dumps(recipe.to_dict())) == recipe.to_dict()


def test_a_resumed_run_keeps_the_recipe_it_began_with(tmp_path, monkeypatch, capsys):
    """From the command line nothing need be said again; in Python another recipe is refused by name."""
    monkeypatch.setattr(train, "probe", lambda *_: {})
    recipe = Recipe(steps=1, looks=1, tokens=100, pictures=1, mtp_weight=0.7, enough=9)
    train.train(recipe, tmp_path / "run", tmp_path / "out")
    made = json.loads((tmp_path / "out" / "training.json").read_text())
    assert Recipe.from_dict(made["recipe"]) == recipe
    train.main(["--run", str(tmp_path / "run"), "--out", str(tmp_path / "again")])
    assert "holds a run at step 1" in capsys.readouterr().out
    assert Recipe.from_dict(json.loads((tmp_path / "again" / "training.json").read_text())["recipe"]) == recipe
    with pytest.raises(SystemExit, match=r"another recipe \(enough, mtp_weight\)"):
        train.train(Recipe(steps=1, looks=1, tokens=100, pictures=1), tmp_path / "run", tmp_path / "out")


def test_in_some_longer_stories_a_colour_does_not_tell_whose_thing_it_is():
    """One to three colours for all that people have: found by its colour, it would mostly be somebody else's."""
    numbers = []
    for seed in range(20):
        for sample in story_samples(Random(seed), 4096, most_facts=48, most_digits=3):
            if sample.kind == "facts":
                text = "".join(text for text, _ in sample.pieces)
                numbers.append(len(set(re.findall(rf"has a ({'|'.join(world.COLOURS)})", text))))
    assert 0.2 * len(numbers) < sum(n <= 3 for n in numbers) < 0.4 * len(numbers)
    assert set(numbers) >= {1, 2, 3, 8} and len(numbers) > 100


@pytest.mark.parametrize("sample, kinds_asked, shapes", [
    (dict(looking_up=300), LOOKING_UP, {1, 2, 3}), (dict(moving=300), MOVING, {1, 2}),
    (dict(counting=300), COUNTING, {1, 2, 3, 4}),
])
def test_what_is_asked_in_running_text_is_of_one_kind(sample, kinds_asked, shapes):
    """One kind of question to each picture, the first of up to three shapes, or to each clip."""
    asked, counts, film = Counter(), set(), "moving" in sample
    all_questions = world.film_questions if film else world.scene_questions
    phase = Phase("", stories=0, **sample)
    for sort, conversation, pieces in phase_samples(Random(0), phase, Recipe(pictures=1), most_facts=8):
        assert sort == ("clips" if film else "pictures") and pieces == world.plain_pieces(conversation)
        kinds, sees = set(), None
        for turn in conversation.turns:
            assert not (turn.images if film else turn.clips)
            sees = [sees, *turn.images, *turn.clips][-1]
            known = {pair: kind for kind, some in all_questions(sees).items() for pair in some}
            kinds.add(known[turn.question, turn.answer])
            counts.add(len(sees.shapes))
            assert turn.thinking is None and not any(pictures.held_out(s.colour, s.kind) for s in sees.shapes)
        [kind] = kinds
        asked[kind] += 1
    assert asked.keys() == set(kinds_asked) and min(asked.values()) > 60 and counts == shapes


def test_what_stands_still_is_asked_a_quarter_as_often_as_what_moves():
    """So say the card and the README, for that is why it is not learnt."""
    asked = Counter(turn.question for sample in picture_samples(Random(0), 4000, film=True)
                    for turn in sample.conversation.turns)
    assert 0.2 < asked["what stands still?"] / asked["what moves?"] < 0.3


def test_what_is_learnt_first_of_pictures_is_what_must_be_looked_up():
    assert set(LOOKING_UP) < set(world.LOOKUPS)


def test_the_teacher_wants_the_words_of_what_is_seen(folder):
    """What is seen at a place is to be the sum of its shape's, its colour's and its own words, as long as a word.

    Words are one-hot here, a picture's tokens are its nine places, and the teacher looks for the place's words. Any
    other shape, colour, place or length costs more.
    """
    tokenizer, width, long = FastTokenizer.from_file(str(folder / "tokenizer.json")), 32, 0.7
    teacher = train.Teacher(tokenizer, width).requires_grad_(False)
    names = [*pictures.SHAPES, *pictures.COLOURS, *"top bottom left right middle".split()]
    vector = {name: F.one_hot(torch.tensor(i), width).float() for i, name in enumerate(names)}
    words = torch.zeros(tokenizer.get_vocab_size(), width)

    def say(group, as_if):
        for name, other in zip(group, as_if):
            words[tokenizer.token_to_id(f"Ġ{name}")] = long * vector[other]

    say(names, names)
    here = torch.stack([sum(vector[word] for word in place.split()) for place in pictures.WHERE])
    teacher.nothing[0] = F.one_hot(torch.tensor(width - 1), width)
    teacher.key.weight.copy_(torch.eye(width))
    teacher.key.bias.zero_()
    teacher.places.copy_(100 * (2 * here - sum(vector[word] for word in names[-5:])))   # its words, and no others

    scenes = [pictures.Scene.sample(Random(seed)) for seed in range(50)]
    places = list(pictures.WHERE)

    def loss(seen_as=lambda shape: shape, length=1.0):
        """The teacher's loss where what is seen of a shape is another: scenes are true all the same."""
        seen = (here + teacher.nothing).repeat(len(scenes), 1, 1)                       # (scenes, places, width)
        for i, scene in enumerate(scenes):
            for shape in map(seen_as, scene.shapes):
                place = places.index(shape.place)
                seen[i, place] = vector[shape.kind] + vector[shape.colour] + here[place]
        return teacher(length * long * F.normalize(seen, dim=-1), scenes, words).item()

    def next_of(group, one):
        return group[(group.index(one) + 1) % len(group)]

    colours = list(pictures.COLOURS)
    assert loss() < 0.1
    assert loss(lambda s: replace(s, colour=next_of(colours, s.colour))) > 1.5
    assert loss(lambda s: replace(s, kind=next_of(pictures.SHAPES, s.kind))) > 1.5
    assert loss(lambda s: replace(s, place=next_of(places, s.place))) > 1.5
    for length in (20, 1 / 20):
        assert loss(length=length) == pytest.approx(loss() + 0.1 * math.log(20) ** 2, rel=1e-2)

    for group in (pictures.SHAPES, colours, names[-5:]):                                # in another language
        say(group, group[1:] + group[:1])
        assert loss() > 1.5
        say(group, group)
    assert loss() < 0.1

    scenes = [scene.in_unnamed_colours(Random(0)) for scene in scenes]                  # any colour will do there
    assert loss(lambda s: replace(s, colour="red")) < 0.1 > loss(lambda s: replace(s, colour="pink"))
    assert loss(lambda s: replace(s, kind=next_of(pictures.SHAPES, s.kind), colour="red")) > 1.5


def test_in_unnamed_colours_a_picture_stays_as_it_is_in_all_else():
    for seed in range(50):
        scene = pictures.Scene.sample(Random(seed))
        other = scene.in_unnamed_colours(Random(seed))
        assert not any(shape.colour in pictures.COLOURS for shape in other.shapes)
        assert scene == replace(other, shapes=[replace(shape, colour=named.colour)
                                               for shape, named in zip(other.shapes, scene.shapes)])


def test_an_unnamed_colour_is_never_near_to_one_that_is_held_out():
    """And it is to be seen on its background, and there are all sorts of them."""
    rng, drawn = Random(0), set()
    for kind in pictures.SHAPES:
        [never] = [pictures.COLOURS[colour] for colour, shape in pictures.HELD_OUT if shape == kind]
        for background in pictures.BACKGROUNDS:
            for _ in range(50):
                colour = pictures.unnamed_colour(rng, kind, background)
                drawn.add(tuple(x // 86 for x in colour))
                assert min(math.dist(colour, never), math.dist(colour, background)) > 60
                shape = pictures.Shape(kind, colour, 32, 32, 10)
                assert pictures.paint(64, 64, background, [shape]).getpixel((32, 32)) == colour
    assert len(drawn) > 20                              # of the cube's 27 parts


def test_beside_the_model_the_teacher_shows_unnamed_colours_in_half_of_its_pictures(tmp_path, monkeypatch):
    shares = []

    class Watch(train.Teacher):
        def forward(self, seen, scenes, words):
            unnamed = [all(s.colour not in pictures.COLOURS for s in scene.shapes) for scene in scenes]
            shares.append(sum(unnamed) / len(scenes))
            return super().forward(seen, scenes, words)

    def nothing_learnt(*_):
        return dict.fromkeys((*Recipe().weights, "mtp"), 0.0)

    stand_ins = {"Teacher": Watch, "probe": lambda *_: {}, "step_losses": nothing_learnt}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(train, name, stand_in)
    train.main(["--steps", "3", "--looks", "2", "--tokens", "100", "--pictures", "1",
                "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    assert shares == [0, 0, 0.5, 0.5, 0.5]


def test_a_step_reads_every_sample_once_in_batches_of_a_like_length(qwen):
    encode = train.Encoder(qwen.tokenizer.fast, qwen.processor)
    samples = phase_samples(Random(0), Recipe().phases[-1], Recipe(), 48)
    encode.batch = lambda rows: [(row.kind, row.ids) for row in rows]
    batches = encode.batches(samples, area=2048)
    assert sorted(sum(batches, [])) == sorted((row.kind, row.ids) for row in map(encode, samples))
    lengths = [[len(ids) for _, ids in batch] for batch in batches]
    areas = [max(T) * len(T) for T in lengths]
    assert max(areas) <= 2048 and max(area - sum(T) for area, T in zip(areas, lengths)) <= train.MOST_PADS
    assert len(batches) < len(samples) / 4


def test_a_kind_of_few_tokens_does_not_drown_the_others(monkeypatch):
    """Four learnt tokens pull with 4 / enough of their kind's weight, ten times as many as enough with all of it."""
    recipe = Recipe(enough=512, mtp_weight=0.25)
    few, many = 4, 10 * recipe.enough
    targets = torch.full((2, many + 1), -100)
    targets[0, :few], targets[1, :many] = 1, 1
    loss, ahead = (torch.ones(2, many + 1, requires_grad=True) for _ in range(2))
    monkeypatch.setattr(train, "losses", lambda model, batch: (loss * (targets >= 0), ahead * (targets >= 0)))
    batch = train.Batch(["calculator", "facts"], torch.zeros_like(targets), targets, {})
    means = train.step_losses(None, [batch], {"calculator": 0.5, "facts": 2.0, "sums": 1.0}, recipe)
    assert means["calculator"] == means["facts"] == means["mtp"] == 1 and means["sums"] == 0
    assert loss.grad.sum(-1).tolist() == pytest.approx([0.5 * few / 512, 2])
    assert ahead.grad.sum(-1).tolist() == pytest.approx([0.25 * 0.5 * few / 512, 0.25 * 2])


def test_the_shipped_model_says_how_it_was_made():
    facts = json.loads((NANO / "training.json").read_text())
    card = (NANO / "README.md").read_text()
    recipe = Recipe.from_dict(facts["recipe"])
    assert recipe == Recipe(), "`make nano` makes another model than the one that is shipped"
    assert facts["command"] in card and f"Seed {recipe.seed}, {recipe.steps} steps" in card
    log = (NANO / "training.csv").read_text().splitlines()
    assert log[0].startswith("step,seconds,") and log[-1].startswith(f"{recipe.steps},")


# ------------------------------------------------------------------------------------- what the shipped model can do


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What there is to see in data/media, by file name: scenes, and a film. Caught while all is drawn again."""
    painted, films = [], []
    paint, frames = pictures.paint, pictures.Film.frames

    def caught(width, height, background, shapes):
        places = list(pictures.WHERE)
        placed = [replace(s, place=places[3 * int(3 * s.y / height) + int(3 * s.x / width)]) for s in shapes]
        placed.sort(key=lambda shape: places.index(shape.place))
        image = paint(width, height, background, shapes)
        painted.append((image, pictures.Scene(width, height, background, placed)))
        return image

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "paint", caught)
        patch.setattr(pictures.Film, "frames", lambda film: films.append(film) or frames(film))
        pictures.draw_media(tmp_path_factory.mktemp("media"))
    files = {path.name: Image.open(path).convert("RGB") for path in MEDIA.glob("*.png")}
    [film] = films
    return {name: scene for name, file in files.items() for image, scene in painted if image == file} | {
        "moving.webp": film}


def test_what_is_shown_is_known(shown):
    assert shown.keys() == {path.name for path in MEDIA.iterdir()} - {"landscape.jpg"}
    assert world.series(shown["three_shapes.png"].shapes) == "a blue circle, a gold star and a red square"
    assert all(pictures.held_out(s.colour, s.kind) for s in shown["never_seen.png"].shapes)
    assert ("what colour is the circle?", "blue") in world.scene_questions(shown["three_shapes.png"])["colour"]


@pytest.mark.parametrize("kind", ["colour", "where", "shape", "how many"])
def test_the_model_says_what_is_in_a_picture(qwen, shown, kind):
    """Of each of its shapes; and most of it is not so in another picture."""
    asked = world.scene_questions(shown["three_shapes.png"])[kind]
    for question, answer in asked:
        assert qwen.chat(question, images=[MEDIA / "three_shapes.png"]) == answer, question
    others = [qwen.chat(question, images=[MEDIA / "two_stars.png"]) for question, _ in asked]
    assert sum(reply == answer for reply, (_, answer) in zip(others, asked)) <= len(asked) / 2


@pytest.mark.parametrize("name", ["three_shapes.png", "two_stars.png", "never_seen.png"])
def test_the_model_answers_nearly_all_questions_about_a_picture(qwen, shown, name):
    asked = [pair for some in world.scene_questions(shown[name]).values() for pair in some]
    replies = qwen.chat_batch([question for question, _ in asked], images=[[MEDIA / name]] * len(asked))
    mistakes = [(question, str(reply)) for (question, answer), reply in zip(asked, replies) if reply != answer]
    assert len(asked) > 12 and len(mistakes) <= len(asked) / 10, mistakes


def test_the_model_says_which_way_a_clip_goes_and_turns_with_it(qwen, shown):
    film = shown["moving.webp"]
    asked = world.film_questions(film)
    [(which_way, way)], [(what_moves, star)] = asked["which way"], asked["what moves"]
    assert qwen.chat(which_way, videos=[MEDIA / "moving.webp"]) == way
    assert qwen.chat(what_moves, videos=[MEDIA / "moving.webp"]) == star

    [back] = [name for name, (x, y) in pictures.WAYS.items() if (-x, -y) == pictures.WAYS[way]]
    with Image.open(MEDIA / "moving.webp") as clip:
        there = [frame.convert("RGB") for frame in ImageSequence.Iterator(clip)]
    assert len(there) == film.length
    for frames, expected in ((there, way), (there[::-1], back)):
        assert qwen.chat(which_way, videos=[Clip(frames, film.fps)]) == expected
        assert qwen.chat(what_moves, videos=[Clip(frames, film.fps)]) == star


@pytest.mark.parametrize("a, b", [(48210, 3377), (4821093, 3377186), (9900417, 1250038), (7006512, 8114095)])
def test_the_model_calls_the_calculator_and_reads_its_result(qwen, a, b):
    """A sum that it cannot do is right with the calculator - its own, or anybody's; and it believes what that says."""
    question, called = f"what is {a} + {b}?", []
    assert str(a + b) not in (qwen.chat(question), qwen.chat(question, thinking=True))
    reply = qwen.chat(question, tools=[world.add])
    assert reply == str(a + b) and reply.tool_calls == [ToolCall("add", {"a": a, "b": b}, str(a + b))]

    def add(a: int, b: int):
        """adds two numbers"""
        called.append((a, b))
        return a + b + off

    for off in (0, 1111):
        assert qwen.chat(question, tools=[add]) == str(a + b + off)
    assert called == [(a, b), (a, b)] and all(type(n) is int for n in called[0])


def test_the_model_answers_as_the_readme_says(qwen, repository, tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)[1]
    [tool] = re.findall(r"^def .*?\n\n", code, re.DOTALL | re.MULTILINE)
    claims = re.findall(r"^(qwen\.chat\(.*\)) +# (.+)$", code, re.MULTILINE)
    assert len(claims) == 4 and any("tools=[add]" in call for call, _ in claims)
    names = {"qwen": qwen, "minqwen": minqwen}
    exec(tool, names)
    monkeypatch.chdir(tmp_path)                         # wherever one is
    for call, answer in claims:
        assert eval(call, names) == answer, call


@torch.inference_mode()
def test_the_head_for_two_tokens_ahead_has_learnt_to_draft(qwen):
    """It gets what it was trained on: the hidden state behind the last norm, and the embedding of the next token.

    The main head, asked two ahead, knows no more than how words follow each other.
    """
    [task] = [task for task in scoring.TASKS if task.group == scoring.DRAFTS]
    conversations, model = task.samples(60), qwen.model
    assert {len(c.images()) > 0 for c in conversations} == {False, True}
    encode = train.Encoder(qwen.tokenizer.fast, qwen.processor)
    batch = encode.batch([encode(Sample("", c, world.pieces(c))) for c in conversations])
    embedded = model.embed(batch.input_ids, **batch.media)
    grids = batch.media.get("image_grid_thw"), batch.media.get("video_grid_thw")
    positions = model.positions(batch.input_ids, None, *grids)
    unnormed = []
    hook = model.model.language_model.norm.register_forward_pre_hook(lambda norm, args: unnormed.append(args[0]))
    hidden = model.hidden_states(batch.input_ids, position_ids=positions, inputs_embeds=embedded)
    hook.remove()
    targets = batch.targets[:, 1:]
    learnt = targets >= 0

    def measure(states):
        """The logits, and their accuracy at the token after the next."""
        logits = F.linear(states[learnt], model.head_weight)
        return logits, (logits.argmax(-1) == targets[learnt]).float().mean().item()

    def draft(hidden, embedded):
        step = Step.at(positions[..., :-1], model.config.text_config, hidden.dtype)
        return measure(model.mtp(hidden, embedded, step))

    logits, accuracy = draft(hidden[:, :-1], embedded[:, 1:])
    assert accuracy >= 0.9
    hits = scoring.drafts(qwen, conversations)
    assert sum(hits) / len(hits) == pytest.approx(accuracy, abs=2e-3) and len(hits) == learnt.sum() > 1000
    assert train.drafted(model, batch).float().mean().item() == pytest.approx(accuracy, abs=2e-3)

    # Before the last norm the drafts stay as good: the head begins with a norm of its own, and the scales of the last
    # one are much alike. But they are not the official logits: off by 500 times what parity allows at least.
    assert error(draft(unnormed[0][:, :-1], embedded[:, 1:])[0], logits) > 500 * 2e-5
    assert draft(hidden[:, :-1], embedded[:, :-1])[1] < accuracy - 0.1                  # without the next token
    assert measure(hidden[:, :-1])[1] < accuracy - 0.3                                  # the main head
    assert measure(hidden[:, 1:])[1] > 0.95                                             # which knows the next one


# ------------------------------------------------------------------------------------------------------------ scores


@pytest.mark.parametrize("task", scoring.TASKS, ids=lambda task: task.name)
def test_what_is_scored_was_never_trained_on(task):
    """Sums are held-out ones; shapes are held-out pairs in what is called new, and nowhere else."""
    samples = task.samples(40)
    assert samples == task.samples(40) and len({str(sample.turns) for sample in samples}) > 35
    for turn in (turn for sample in samples for turn in sample.turns):
        if found := re.fullmatch(r"what is (\d+) \+ (\d+)\?", turn.question):
            assert world.held_out(*map(int, found.groups()))
        for sees in (*turn.images, *turn.clips):
            assert all(pictures.held_out(s.colour, s.kind) == task.beyond for s in sees.shapes)
    calls = [turn.call for sample in samples for turn in sample.turns]
    if task.group == scoring.CALLS:
        assert all(sample.tools == [world.add] for sample in samples)
        assert {max(len(str(call.a)), len(str(call.b))) for call in calls} == {4, 5, 6, 7, 8}
    else:
        assert not any(calls) and not any(sample.tools for sample in samples)
    looks = [*samples[0].images(), *samples[0].clips()]
    assert task.group != scoring.MEDIA or len(looks) == len(samples[0].turns) == 1


def test_a_model_is_asked_only_what_it_has_the_parts_for(folder):
    tokenizer = Tokenizer.from_folder(folder)
    config = train.nano_config(tokenizer.fast)
    blind, mute = replace(config, vision_config=None), replace(config.text_config, mtp_num_hidden_layers=0)
    everything = {scoring.TEXT, scoring.MEDIA, scoring.CALLS, scoring.DRAFTS}
    without_tools = Tokenizer(tokenizer.fast, "{{ messages[0].content }}")
    for numbers, knows, groups in (
        (config, tokenizer, everything), (config, without_tools, everything - {scoring.CALLS}),
        (blind, tokenizer, {scoring.TEXT, scoring.CALLS}),
        (replace(config, text_config=mute), tokenizer, everything - {scoring.DRAFTS}),
    ):
        qwen = minqwen.chat.Assistant(Qwen(numbers), knows)
        assert {task.group for task in scoring.TASKS if scoring.able(qwen, task)} == groups


def test_a_card_is_refused_for_a_model_that_it_cannot_describe(folder, monkeypatch, capsys):
    """Before anything is measured, in one sentence."""
    tokenizer = Tokenizer.from_folder(folder)
    blind = replace(train.nano_config(tokenizer.fast), vision_config=None)
    monkeypatch.setattr(scoring, "load", lambda path, bits: minqwen.chat.Assistant(Qwen(blind), tokenizer))
    monkeypatch.setattr(scoring, "score", lambda *_: pytest.fail("something was measured"))
    monkeypatch.setattr("sys.argv", ["score", "--card"])
    with pytest.raises(SystemExit):
        scoring.main()
    assert "leave --card out" in capsys.readouterr().err


def test_only_what_the_calculator_said_counts():
    def said(text, *results):
        return Reply(text, tool_calls=[ToolCall("add", {"a": 12345, "b": 678}, result) for result in results])

    sum_of, plain = world.calculation(12345, 678, thinking=False), world.addition(12, 3, thinking=False)
    assert scoring.is_right(sum_of, said("13023", "13023")) and scoring.is_right(plain, said("15"))
    for wrong in (said("13023"), said("13023", None), said("13023", "13024"), said("13024", "13023"), said("")):
        assert not scoring.is_right(sum_of, wrong)
    assert not scoring.is_right(plain, said("15."))


def test_the_calculator_is_asked_for_real():
    """`score` hands the tools over, and counts each answer beside its question."""
    class Oracle:
        def chat_batch(self, chats, thinking, tools, **options):
            replies = []
            for [message] in chats:
                a, b = map(int, re.findall(r"\d+", message["content"]))
                result = str(tools[0](a, b)) if tools else None
                replies.append(Reply(str(a + b + a % 2), tool_calls=[ToolCall("add", {}, result)]))
            return replies

    [task] = [task for task in scoring.TASKS if task.group == scoring.CALLS]
    score = scoring.score(Oracle(), task, samples=30, batch_size=8)
    odd = [sample.turns[0] for sample in task.samples(30) if sample.turns[0].call.a % 2]
    assert (score.samples, score.right) == (30, 30 - len(odd)) and 8 < len(odd) < 22
    assert score.mistakes == [(turn.question, str(int(turn.answer) + 1), turn.answer) for turn in odd[:5]]


def test_the_table_has_a_part_for_each_group():
    scores = [scoring.Score(task, 1000, 987, []) for task in scoring.TASKS]
    parts = scoring.table(scores).split("\n\n")
    assert [part.split(" | ")[0] for part in parts] == ["| text", "| pictures and clips", "| calculator",
                                                       "| drafts, token by token"]
    assert [len(part.splitlines()) - 2 for part in parts] == [8, 11, 1, 1]
    rows = scoring.table(scores).splitlines()
    assert "| which colour | 98.7% | 1000 |" in rows and "| which colour, new pair * | 98.7% | 1000 |" in rows


@pytest.mark.parametrize("task", scoring.TASKS, ids=lambda task: task.name)
def test_scores_of_the_card_can_be_measured_again(qwen, task):
    """A sample of each line is asked again: as good as the card says, within what so few samples can tell."""
    claimed = json.loads((NANO / "scores.json").read_text())[task.name]
    p = claimed["right"] / claimed["samples"]
    row = f"| {task.name}{' *' if task.beyond else ''} | {p:.1%} | {claimed['samples']} |"
    assert row in (NANO / "README.md").read_text()
    measured = scoring.score(qwen, task, samples=50)
    spread = 4 * (max(p * (1 - p), 0.01) / 50) ** 0.5
    assert abs(measured.accuracy - p) <= spread, measured.mistakes


PROMISED = {                                            # of every line at least; a smaller share needs its reason here
    "the latest of 12 facts": 0.99, "the latest of 40 facts": 0.95, "3-digit sums, thinking": 0.98,
    "what is in the picture": 0.9, "which colour": 0.9, "which shape": 0.9, "where": 0.9,
    "how many shapes": 0.9, "how many of a kind": 0.9,
    "which way it moves": 0.9, "what moves": 0.9,
    "what stands still": 0.4,                               # it names what moves: four times as often asked in training
    "which colour, new pair": 0.9,
    "which shape, new pair": 0.8,                           # three of four mistakes: white diamonds, for others
    "4- to 8-digit sums, calculator": 0.95, "two tokens ahead": 0.9,
}  # fmt: skip


def test_what_was_promised_of_the_scores():
    assert {task.name for task in scoring.TASKS if task.group != scoring.TEXT} < PROMISED.keys()
    claimed = json.loads((NANO / "scores.json").read_text())
    assert claimed.keys() >= {task.name for task in scoring.TASKS if task.group == scoring.TEXT}
    accuracy = {name: row["right"] / row["samples"] for name, row in claimed.items()}
    assert {name: share for name, share in accuracy.items() if share < PROMISED.get(name, 0)} == {}
    assert accuracy["3-digit sums, thinking"] >= accuracy["3-digit sums at once"] + 0.3


def test_all_there_is_to_score_is_in_the_card_and_in_the_readme(repository):
    claimed = json.loads((NANO / "scores.json").read_text())
    assert list(claimed) == [task.name for task in scoring.TASKS]
    table = scoring.table([scoring.Score(task, **claimed[task.name], mistakes=[]) for task in scoring.TASKS])
    assert table in (NANO / "README.md").read_text() and table in (repository / "README.md").read_text()


def test_the_readme_says_how_large_the_model_is(qwen, repository):
    assert f"A Qwen3.5 of {sum(p.numel() for p in qwen.model.parameters()):,} parameters" in (
        repository / "README.md").read_text()
