"""nano's world: stories, sums, pictures, clips, the calculator and chatter are what they say they are."""

import re
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import torch
from PIL import ImageChops

from minqwen.nano import chatter, pictures, world
from minqwen.tools import call, describe, parse_tool_calls

# ----------------------------------------------------------------------------------------------------------- stories


def read_story(text):
    """What a careful reader takes from a story: who has what, and who is where, at its end."""
    has, place = {}, {}
    for sentence in re.findall(r"[^.?]+\.", text):
        if found := re.fullmatch(r"\s*(\w+) (?:now )?has (a \w+ \w+)\.", sentence):
            has[found[1]] = found[2]
        elif found := re.fullmatch(r"\s*(\w+) (?:goes to|is in) (the \w+)\.", sentence):
            place[found[1]] = "in " + found[2]
    return has, place


def asked_of(question):
    """("has" or "place", the name) of a question that may have a story before it."""
    asked, name = re.search(r"(What does|Where is) ([A-Z]\w+)(?: have)?\?$", question).groups()
    return "has" if asked == "What does" else "place", name


def test_people_have_capitals_and_so_have_sentences():
    for seed in range(100):
        for turn in world.facts_conversation(Random(seed), 1 + seed % 20, 4, unknown=0.3).turns:
            sentences = re.findall(r"[^.?]+[.?]", turn.question)
            assert "".join(sentences) == turn.question
            for sentence in map(str.strip, sentences):
                [name] = re.findall(r"\b[A-Z]\w+", sentence.removeprefix("What").removeprefix("Where"))
                assert sentence[0].isupper() and name in world.NAMES


def test_answers_are_what_a_careful_reader_would_say():
    overwritten = set()
    for seed in range(300):
        conversation = world.facts_conversation(Random(seed), facts=1 + seed % 20, questions=4)
        text = ""
        for turn in conversation.turns:
            text += " " + turn.question
            has, place = read_story(text)
            kind, name = asked_of(turn.question)
            assert turn.answer == (has if kind == "has" else place)[name]
            again = rf"{name} now has" if kind == "has" else rf"{name} goes to"
            overwritten.add((kind, re.search(again, text) is not None))
    assert len(overwritten) == 4                        # both questions, about what was told once and what was changed


def test_what_is_thought_about_a_fact_is_the_last_that_was_told_of_it():
    for seed in range(100):
        turn = world.facts_conversation(Random(seed), 12, 1, thinking=True).turns[0]
        kind, name = asked_of(turn.question)
        verbs = r"(?:now )?has a \w+ \w+" if kind == "has" else r"(?:goes to|is in) the \w+"
        assert turn.thinking == re.findall(rf"\b{name} {verbs}\.", turn.question)[-1]
        assert turn.answer.split()[-1] in turn.thinking


def test_nobody_knows_what_was_not_told_and_only_that():
    """Not even where the other thing is known of somebody, and for as many as are asked for."""
    half_known, shares = Counter(), []
    for seed in range(300):
        conversation = world.facts_conversation(Random(seed), 12, 8, thinking=True, unknown=0.5)
        text, unknown = "", 0
        for turn in conversation.turns:
            text += " " + turn.question
            has, place = read_story(text)
            kind, name = asked_of(turn.question)
            told, other = (has, place) if kind == "has" else (place, has)
            assert turn.answer == told.get(name, "nobody knows")
            if name not in told:
                unknown += 1
                half_known[kind, name in other] += 1
                assert turn.thinking == ("That was not told." if turn is conversation.turns[-1] else None)
        shares.append(unknown / 8)
    assert 0.45 < sum(shares) / len(shares) < 0.55
    assert len(half_known) == 4 and min(half_known.values()) > 25
    turns = [world.facts_conversation(Random(seed), 12, 1, unknown=1).turns[0] for seed in range(50)]
    assert {turn.answer for turn in turns} == {"nobody knows"}


@pytest.mark.parametrize("wished", [0, 0.5, 1])
def test_some_of_what_nobody_knows_is_about_people_of_whom_something_was_told(wished):
    """So that a name alone does not tell that there is an answer."""
    found = Counter()
    for seed in range(400):
        turn = world.facts_conversation(Random(seed), 12, 1, unknown=1, half_known=wished).turns[0]
        has, place = read_story(turn.question)
        kind, name = asked_of(turn.question)
        asked, other = (has, place) if kind == "has" else (place, has)
        if turn.answer == world.NOBODY_KNOWS:
            assert name not in asked
            if other.keys() - asked.keys():
                found[name in other] += 1
    share = found[True] / found.total()
    assert found.total() > 250 and wished - 0.05 < share < wished + 0.2 * (1 - wished) + 0.01, share


def test_where_all_is_told_of_everybody_what_is_known_is_asked():
    story = world.Story(Random(0), people=len(world.NAMES))
    while len(story.has) < len(world.NAMES) or len(story.place) < len(world.NAMES):
        story.tell()
    for _ in range(50):
        turn = story.ask(unknown=True)
        kind, name = asked_of(turn.question)
        assert turn.answer == (f"a {story.has[name]}" if kind == "has" else f"in the {story.place[name]}")


def test_a_story_may_be_told_before_anything_is_asked():
    """In a turn of its own, of which the model says that it sees; no fact is told twice, and none is lost."""
    told_first = set()
    for seed in range(200):
        facts = 1 + seed % 12
        conversation = world.facts_conversation(Random(seed), facts, 2, pause=True)
        first, second, third = conversation.turns
        assert first.answer == "I see." and "?" not in first.question and first.thinking is None
        assert first.question.count(".") + second.question.count(".") == facts
        has, place = read_story(" ".join((first.question, second.question)))
        kind, name = asked_of(second.question)
        assert second.answer == (has if kind == "has" else place)[name]
        told_first.add("all" if "." not in second.question else "some")
    assert told_first == {"all", "some"}
    assert not any(turn.answer == "I see." for turn in world.facts_conversation(Random(0), 12, 9).turns)


# -------------------------------------------------------------------------------------------------------------- sums


def test_sums_are_right_and_so_is_every_line_that_is_thought():
    for seed in range(300):
        a, b = world.pair(Random(seed), 1 + seed % 4)
        turn = world.addition(a, b, thinking=True)
        assert turn.answer == str(a + b) and turn.question == f"What is {a} + {b}?"
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


def test_a_sum_that_is_too_long_is_declined():
    """It is asked like any other, and no digit of an answer is given."""
    for thinking in (False, True):
        long, short = world.too_long(48210, 3377, thinking), world.addition(48210, 3377, thinking)
        assert long.question == short.question and long.call is None
        assert long.answer == "That sum is too long for me without a calculator."
        assert long.thinking == ("The sum is long. The calculator knows." if thinking else None)


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


def cover(kind, plump):
    """The pixels, bool, that a shape covers at the smallest radius there is."""
    image = pictures.paint(20, 20, (255, 255, 255), [pictures.Shape(kind, "black", 10, 10, 8.8, plump=plump)])
    return torch.tensor(list(image.convert("L").get_flattened_data())) < 128


def test_shapes_are_told_apart_by_their_pixels():
    """However plump they are, each two differ in a good part of what they cover; all cover about as much."""
    covers = {(kind, plump): cover(kind, plump) for kind in pictures.SHAPES for plump in (0, 0.25, 0.5, 0.75, 1)}
    for a, one in covers.items():
        assert 70 < one.sum() < 230
        for b, other in covers.items():
            if a[0] != b[0]:
                assert (one ^ other).sum() >= 30, (a, b)
    with pytest.raises(ValueError, match="hexagon"):
        pictures.outline("hexagon")


def test_shapes_come_in_all_forms_of_their_kind():
    """From lean to plump, and never out of their square; a circle and a square have but one form."""
    for kind in pictures.SHAPES:
        lean, middling, plump = (pictures.outline(kind, x) for x in (0, 0.5, 1))
        assert middling == pictures.outline(kind) and len(lean) == len(plump)
        assert (lean == plump == middling) == (kind in ("circle", "square"))
        for corners in (lean, middling, plump):
            assert max(max(map(abs, corner)) for corner in corners) <= 1
    for kind in ("star", "cross", "diamond"):
        assert cover(kind, 1).sum() > 1.15 * cover(kind, 0).sum()
    films = [pictures.Film.sample(Random(seed)) for seed in range(400)]
    for shapes in ([shape for seed in range(200) for shape in pictures.Scene.sample(Random(seed)).shapes],
                   [film.moving for film in films], [shape for film in films for shape in film.resting]):
        drawn = [shape.plump for shape in shapes]
        assert min(drawn) < 0.02 and max(drawn) > 0.98 and 0.45 < sum(drawn) / len(drawn) < 0.55


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

    def where(place):
        before = {"left": "on the ", "right": "on the ", "top": "at the ", "bottom": "at the "}
        return before.get(place, "in the ") + place

    if question == "What is in the picture?":
        said = [f"a {colour} {kind}" for colour, kind, _ in seen]
        return said[0] if len(said) == 1 else ", ".join(said[:-1]) + " and " + said[-1]
    if question == "How many shapes are there?":
        return str(len(seen))
    if found := re.fullmatch(r"How many (\w+) are there\?", question):
        return str(sum(found[1] in (kind + "s", kind + "es") for _, kind, _ in seen))
    if found := re.fullmatch(r"What colour is the (\w+)\?", question):
        [answer] = [colour for colour, kind, _ in seen if kind == found[1]]
        return answer
    if found := re.fullmatch(r"Which shape is ((?:in|on|at) the [\w ]+)\?", question):
        [answer] = [f"a {kind}" for _, kind, place in seen if where(place) == found[1]]
        return answer
    if found := re.fullmatch(r"Which shape is (\w+)\?", question):
        [answer] = [f"a {kind}" for colour, kind, _ in seen if colour == found[1]]
        return answer
    name = re.fullmatch(r"Where is the ([\w ]+)\?", question)[1]
    [place] = [place for colour, kind, place in seen if name in (kind, f"{colour} {kind}")]
    return where(place)


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


def test_colours_without_a_name_are_not_spoken_of():
    """All that is asked of such a picture has one right answer all the same, which is found without them."""
    kinds, unnamed, scene = set(), 0, None
    for seed in range(300):
        conversation = world.picture_conversation(Random(seed), 4, thinking=True, unnamed=0.5)
        for turn in conversation.turns:
            scene = turn.images[-1] if turn.images else scene
            assert turn.answer == careful_look(scene, turn.question)
            if not scene.named:
                said = " ".join((turn.question, turn.answer, turn.thinking or ""))
                assert not re.search(rf"\b(colour|{'|'.join(pictures.COLOURS)})\b|\d+,", said), said
                kinds |= {kind for kind, some in world.scene_questions(scene).items()
                          if (turn.question, turn.answer) in some}
        unnamed += not conversation.turns[0].images[0].named
        assert world.picture_conversation(Random(seed), 1).turns[0].images[0].named
    assert kinds == {"where", "what is there", "how many", "how many of a kind"} and 120 < unnamed < 180
    clips = world.picture_conversation(Random(0), 20, film=True, unnamed=1)
    assert all(s.colour in pictures.COLOURS for turn in clips.turns for film in turn.clips for s in film.shapes)


def test_what_is_thought_of_a_picture_is_all_there_is_and_where():
    for seed in range(100):
        conversation = world.picture_conversation(Random(seed), 2, thinking=True, film=seed % 2 == 0)
        *before, last = conversation.turns
        *_, sees = (look for turn in conversation.turns for look in (*turn.images, *turn.clips))
        thoughts = last.thinking.removesuffix(".").split(", ")
        if seed % 2:
            places = [careful_look(replace(sees, shapes=[s]), f"Where is the {s.kind}?") for s in sees.shapes]
            assert thoughts == [f"a {s.colour} {s.kind} {place}" for s, place in zip(sees.shapes, places)]
        else:
            assert thoughts == [f"a {sees.moving.colour} {sees.moving.kind} moves {sees.way}",
                                *(f"a {s.colour} {s.kind} stands still" for s in sees.resting)]
        assert not any(turn.thinking for turn in before)


def test_answers_about_clips():
    asked = set()
    for seed in range(200):
        conversation = world.picture_conversation(Random(seed), 4, film=True, test=seed % 2 == 0)
        film = None
        for turn in conversation.turns:
            film = turn.clips[-1] if turn.clips else film
            shapes = [film.moving, *film.resting]
            known = {"Which way does it move?": [film.way], "What moves?": [f"a {film.moving}"],
                     "What stands still?": [f"a {shape}" for shape in film.resting],
                     "How many shapes are there?": [str(len(shapes))]}
            for word in [*pictures.COLOURS, *pictures.SHAPES]:
                known[f"What colour is the {word}?"] = [s.colour for s in shapes if s.kind == word]
                known[f"Which shape is {word}?"] = [f"a {s.kind}" for s in shapes if s.colour == word]
            assert known[turn.question] == [turn.answer]            # exactly one answer is right
            asked.add(" ".join(turn.question.split()[:2]))
        lengths = [film.length for turn in conversation.turns for film in turn.clips]
        assert [len(clip.frames) for clip in conversation.clips()] == lengths
    assert asked == {"Which way", "What moves?", "What stands", "How many", "What colour", "Which shape"}
    for kind in ("what stands still", "which way"):
        conversation = world.picture_conversation(Random(0), 1, film=True, kind=kind)
        assert conversation.turns[0].question.lower().startswith(kind)


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
            if found := re.fullmatch(r"(?:What does|Where is) ([A-Z]\w+)(?: have)?\?", question):
                assert turn.answer == (has if question.endswith("have?") else place)[found[1]]
                about.add("story")
            else:
                ask = world.scene_questions if isinstance(sees, pictures.Scene) else world.film_questions
                asked = ask(sees)
                assert (question, turn.answer) in [pair for some in asked.values() for pair in some]
                about.add("picture")
        both += len(about) == 2
    assert both > 100


@pytest.mark.parametrize("sort, others", [(pictures.Scene, {"what", "how many"}),
                                          (pictures.Film, {"which way", "how many"})])
def test_what_is_to_be_looked_up_is_asked_oftener_than_the_rest(sort, others):
    """Three times as often, where a picture or a clip can be asked everything."""
    asked = Counter()
    for seed in range(4000):
        look = world.Look(Random(seed), sort.sample(Random(f"scene {seed}")))
        if all(look.questions.values()):
            kind_of = {pair: kind for kind, some in look.questions.items() for pair in some}
            turn = look.ask()
            asked[kind_of[turn.question, turn.answer]] += 1
    lookups = asked.keys() - others
    assert asked.keys() == look.questions.keys() and lookups == asked.keys() & set(world.LOOKUPS)
    for kind in lookups:
        for other in others:
            assert 2 < asked[kind] / asked[other] < 4.5, asked


# ---------------------------------------------------------------------------------------------------- the calculator


def test_long_sums_go_to_the_calculator_and_its_results_are_right():
    seen = set()
    for seed in range(800):
        thinking = seed % 2 == 0
        conversation = world.tools_conversation(Random(seed), thinking, renamed=0.4)
        adders = [tool for tool in conversation.tools if tool not in world.OTHERS]
        decoys = len(conversation.tools) - len(adders)
        assert len(adders) <= 1 and len(set(conversation.tools)) == len(conversation.tools) <= 3
        for turn in conversation.turns:
            found = re.fullmatch(r"What is (\d+) \+ (\d+)\?", turn.question)
            if turn.call is None:
                if found and not adders:
                    assert turn == world.too_long(*map(int, found.groups()), thinking) and decoys
                    assert 4 <= max(map(len, found.groups())) <= 8
                    seen.add("declined")
                    continue
                assert adders and (not found or turn.thinking and max(map(len, found.groups())) <= 3)
                seen.add("sum" if found else "picture" if turn.images else "other")
                continue
            [tool], numbers = adders, found.groups()
            a, b = map(int, numbers)
            long = 4 <= max(map(len, numbers)) <= 8
            assert long or not thinking
            assert turn.call.name == tool.__name__ and list(turn.call.arguments.values()) == [a, b]
            if turn.call.result in world.FAILURES:
                assert turn.answer == "The calculator failed."
                seen.add("failure")
            else:
                assert turn.answer == turn.call.result == str(a + b)
                seen.add("long" if long else "short")
            seen |= {"decoys" if decoys else "alone", "its own" if tool is world.add else "another"}
        if len([turn for turn in conversation.turns if turn.call]) == 2:
            seen.add("two calls")
    assert seen == {"sum", "picture", "other", "failure", "long", "short", "two calls", "declined", "decoys", "alone",
                    "its own", "another"}
    for seed in range(100):
        conversation = world.tools_conversation(Random(seed), others=False, test=True)
        [turn], [tool] = conversation.turns, conversation.tools
        assert turn.call and world.held_out(*turn.call.arguments.values()) and tool is world.add


def test_a_calculator_is_known_by_its_schema_alone():
    """Under all names, with all parameters and descriptions: what is called is what is described, and it adds."""
    assert len({*world.ADDERS, *(tool.__name__ for tool in world.OTHERS)}) == len(world.ADDERS) + len(world.OTHERS)
    for name in world.ADDERS:
        for parameters in world.PARAMETERS:
            for says in world.DESCRIPTIONS:
                tool = world.adder(name, parameters, says)
                function = describe(tool)["function"]
                assert (function["name"], function["description"]) == (name, says)
                assert function["parameters"]["required"] == list(parameters)
                assert function["parameters"]["properties"] == dict.fromkeys(parameters, {"type": "integer"})
                turn = world.calculation(48210, 3377, thinking=True, tool=tool)
                text, [made] = parse_tool_calls(turn.call.text(), [tool, *world.OTHERS])
                assert (text, made.name, made.arguments) == ("", name, dict(zip(parameters, (48210, 3377))))
                assert list(made.arguments) == list(parameters)
                assert call([tool], made) == turn.answer == "51587"
    assert describe(world.adder("add", ("a", "b"), "adds two numbers")) == describe(world.add)


def test_every_name_and_every_parameter_of_a_calculator_occurs():
    seen, own = set(), 0
    for seed in range(1500):
        [tool] = world.tools_conversation(Random(seed), others=False, renamed=1).tools
        function = describe(tool)["function"]
        seen |= {function["name"], tuple(function["parameters"]["properties"]), function["description"]}
        own += world.tools_conversation(Random(seed), others=False, renamed=0.5).tools == [world.add]
    assert seen == {*world.ADDERS, *world.PARAMETERS, *world.DESCRIPTIONS} and 650 < own < 850


# ---------------------------------------------------------------------------------------------- as people really write


def normal(text):
    """As it may be typed: a capital or a question mark less makes no other sentence."""
    return text.lower().removesuffix("?")


def what_chatter_says(letters):
    """A pattern of all that chatter may say in training, in its normal form; random `letters` may be any word."""
    blanks = {"{noun}": chatter.NOUNS, "{verb}": chatter.VERBS, "{adjective}": chatter.ADJECTIVES,
              "{name}": chatter.NAMES, "{thing}": chatter.THINGS}
    blanks = {blank: f"(?:{'|'.join(words)})".lower() for blank, words in blanks.items()}
    blanks |= {"{digit}": r"\d{1,5}", "{letters}": "[a-z]{2,9}"}
    said = [normal(sentence) for sentence in chatter.SENTENCES]
    patterns = [re.sub(r"\\{(\w+)\\}", lambda blank: blanks[f"{{{blank[1]}}}"], re.escape(normal(template)))
                for template in chatter.TEMPLATES if letters or "{letters}" not in template]
    before = "|".join(re.escape(sentence.lower()) for sentence in chatter.SENTENCES)
    return re.compile(rf"(?:(?:{before}) )?(?:{'|'.join(patterns)})|{'|'.join(map(re.escape, said))}")


def test_chatter_that_is_tested_is_never_trained_on():
    said, drawn = what_chatter_says(letters=True), {chatter.chatter(Random(seed)) for seed in range(5000)}
    assert [text for text in drawn if not said.fullmatch(normal(text))] == [] and len(drawn) > 3000
    assert not any("{" in text or not re.match(r"[A-Z\d]", text) for text in drawn)
    said = what_chatter_says(letters=False)
    assert [text for text in chatter.HELD_OUT if said.fullmatch(normal(text))] == []
    assert not {normal(text) for text in drawn} & {normal(text) for text in chatter.HELD_OUT}
    assert {chatter.chatter(Random(seed), test=True) for seed in range(2000)} == set(chatter.HELD_OUT)
    for words in (chatter.NOUNS, chatter.VERBS, chatter.ADJECTIVES, chatter.TEMPLATES, chatter.SENTENCES,
                  chatter.HELD_OUT):
        assert all(words) and len(set(words)) == len(words)


def test_chatter_is_never_something_that_can_be_answered():
    """Nor a fact, nor a greeting, whatever is put into its blanks; though it speaks of the same people and things."""
    known = {*world.GREETINGS, *(f"What is {a} + {b}?" for a in (0, 7, 48210) for b in (3, 58, 3377)),
             *(f"What does {name} have?" for name in world.NAMES), *(f"Where is {name}?" for name in world.NAMES)}
    for seed in range(500):
        story = world.Story(Random(seed), people=3)
        known |= {story.tell() for _ in range(20)}
        scene, film = pictures.Scene.sample(Random(seed)), pictures.Film.sample(Random(seed))
        known |= {question for some in world.scene_questions(scene).values() for question, _ in some}
        known |= {question for some in world.film_questions(film).values() for question, _ in some}
    said = what_chatter_says(letters=False)
    known_parts = {normal(part) for part in known}
    assert len(known) > 2000 and [text for text in known if said.fullmatch(normal(text))] == []
    assert not known_parts & {normal(text) for text in chatter.HELD_OUT}
    drawn = [chatter.chatter(Random(seed)) for seed in range(5000)]
    for words in (world.NAMES, world.THINGS, pictures.SHAPES, ["Peter", "Mei"], ["picture", "story", "calculator"]):
        assert any(re.search(rf"\b({'|'.join(words)})\b", text) for text in drawn)


def test_what_does_not_belong_here_is_told_what_does():
    lengths = Counter()
    for seed in range(200):
        for thinking in (False, True):
            conversation = world.chatter_conversation(Random(seed), thinking, test=seed % 2 == 0)
            *before, last = conversation.turns
            lengths[len(conversation.turns)] += 1
            assert {turn.answer for turn in conversation.turns} == {world.BEYOND}
            assert last.thinking == (world.NOTHING_TO_THINK if thinking else None)
            assert not any(turn.thinking for turn in before)
            assert all((turn.question in chatter.HELD_OUT) == (seed % 2 == 0) for turn in conversation.turns)
    assert lengths.keys() == {1, 2} and lengths[1] > 1.5 * lengths[2]


def test_what_does_not_belong_to_a_talk_comes_anywhere_in_it_and_changes_nothing():
    places = Counter()
    for seed in range(200):
        talk = world.facts_conversation(Random(seed), 6, 3, thinking=True)
        turns = list(talk.turns)
        assert world.interrupted(Random(seed), talk) is talk
        [at] = [i for i, turn in enumerate(talk.turns) if turn.answer == world.BEYOND]
        assert talk.turns[:at] + talk.turns[at + 1 :] == turns and talk.turns[at].thinking is None
        places[at] += 1
    assert places.keys() == {0, 1, 2, 3} and min(places.values()) > 30


@pytest.mark.parametrize("make", [
    lambda rng: world.facts_conversation(rng, 6, 3, thinking=True, unknown=0.3, pause=True),
    lambda rng: world.tools_conversation(rng, thinking=True, renamed=0.5),
    lambda rng: world.picture_conversation(rng, 3, thinking=True), lambda rng: world.chatter_conversation(rng, True),
])
def test_what_is_typed_in_haste_is_answered_as_if_it_was_not(make):
    """No capitals, and in half of the talks no question marks at the end; nothing else is another."""
    marks = Counter()
    for seed in range(200):
        one, other = make(Random(seed)), make(Random(seed))
        assert world.typed(Random(seed), other) is other
        asked = [turn.question for turn in one.turns if turn.question.endswith("?")]
        for turn, hasty in zip(one.turns, other.turns, strict=True):
            assert hasty.question in (turn.question.lower(), normal(turn.question))
            assert (turn.answer, turn.thinking, turn.call) == (hasty.answer, hasty.thinking, hasty.call)
        kept = [turn.question for turn in other.turns if turn.question.endswith("?")]
        assert len(kept) in (0, len(asked))
        marks[len(kept) > 0] += len(asked) > 0
    assert 0.35 < marks[True] / marks.total() < 0.65
