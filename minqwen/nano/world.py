"""The nano model's world: people who have things and are in places, all of which changes; sums; pictures and clips of
coloured shapes; and a calculator.

Everything in it is known, so that a picture of the model's inside can be held against the truth:

    Ann has a red cup. Bob is in the park. Ann now has a gold key. What does Ann have?   ->   a gold key
    What is 347 + 582?   ->   (thinking, column by column:)  7 + 2 + 0 = 9 ...   ->   929
    [a picture] Where is the red circle?   ->   in the top left
    What is 48210 + 3377?   ->   (a call of the calculator, its result)   ->   51587

It is written as people write, and understood when it is typed without capitals, too (`typed`). What the model writes
is the same, however it was asked. What has no answer here is said to have none, in one sentence (`chatter`).

A `Conversation` is a list of turns; `pieces` writes it out in the official chat format and marks what the model is to
learn: the answers, the calls and the thinking before them, never the questions, which are random.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import Parameter, Signature, signature
from random import Random

from PIL.Image import Image

from ..errors import whole_number
from ..media import Clip
from ..tools import describe
from . import pictures
from .chatter import chatter
from .pictures import Film, Scene

NAMES = ("Ann Bob Cat Dan Eve Fay Gus Hal Ida Jim Kay Leo Mia Ned Oli Pam "
         "Quin Ray Sue Tom Uma Val Wes Zoe").split()
COLOURS = "red blue green gold pink black white brown".split()
THINGS = ("cup hat key ball book lamp coat ring box pen bag drum fork kite bell "
          "map rope shoe sock spoon flag vase plate clock").split()
PLACES = "park lake barn shop school garden kitchen forest tower harbour market library".split()

GREETINGS = ("Hello!", "Hello.", "Hello", "Hi!", "Hi", "Good morning!", "Good morning", "Who are you?",
             "What can you do?", "Thank you.", "Thank you!", "Thanks.", "Thanks!")
INTRODUCTION = "I am nano. Tell me who has what and who is where, or show me shapes, then ask. I can add, too."
WELCOME, UNDERSTOOD, NOBODY_KNOWS = "You are welcome.", "I see.", "nobody knows"
BEYOND = "I only know little stories, shapes in pictures, and sums. Ask me about those!"
NO_CALCULATOR = "That sum is too long for me without a calculator."
NOTHING_TO_THINK, NOT_TOLD = "No sum and no story.", "That was not told."


@dataclass
class Call:
    """A sum that is given to the calculator, and what came back; `thinking` is what is thought of the result."""

    name: str
    arguments: dict[str, int]
    result: str
    thinking: str | None = None

    def text(self) -> str:
        """In the official form."""
        arguments = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in self.arguments.items())
        return f"<tool_call>\n<function={self.name}>\n{arguments}</function>\n</tool_call>"


@dataclass
class Turn:
    """One question and its answer; `thinking` is None where the question is answered at once.

    Pictures and clips stand before the question. A call, if there is one, stands between the question and the answer.
    """

    question: str
    answer: str
    thinking: str | None = None
    images: list[Scene] = field(default_factory=list)
    clips: list[Film] = field(default_factory=list)
    call: Call | None = None


@dataclass
class Conversation:
    turns: list[Turn] = field(default_factory=list)
    tools: list[Callable] = field(default_factory=list)     # the functions at hand
    system: str = ""                                        # what a system message says, if there is one

    def images(self) -> list[Image]:
        """Every picture, drawn, in the order of reading."""
        return [scene.draw() for turn in self.turns for scene in turn.images]

    def clips(self) -> list[Clip]:
        """Every clip, drawn, in the order of reading."""
        return [Clip(film.frames(), film.fps) for turn in self.turns for film in turn.clips]

    def dialogue(self) -> list[dict]:
        """All of it as chat messages, to the last answer, with the calls and with what was thought."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            media = [{"type": "image", "image": scene.draw()} for scene in turn.images]
            media += [{"type": "video", "video": Clip(film.frames(), film.fps)} for film in turn.clips]
            text = [{"type": "text", "text": turn.question}]
            messages.append({"role": "user", "content": media + text if media else turn.question})
            thinking = turn.thinking
            if call := turn.call:
                function = {"name": call.name, "arguments": call.arguments}
                messages.append({"role": "assistant", "content": "", "reasoning_content": thinking or "",
                                 "tool_calls": [{"type": "function", "function": function}]})
                messages.append({"role": "tool", "content": call.result})
                thinking = call.thinking
            messages.append({"role": "assistant", "content": turn.answer, "reasoning_content": thinking or ""})
        return messages

    def messages(self) -> list[dict]:
        """As chat messages up to the last question: what is given to the chat template, to be answered."""
        messages = self.dialogue()
        last = max(i for i, message in enumerate(messages) if message["role"] == "user")
        return messages[: last + 1]


# -------------------------------------------------------------------------------------------- facts that change


class Story:
    """People, what each has and where each is. `tell` adds a fact, `ask` asks for one that holds now."""

    def __init__(self, rng: Random, people: int, colours: list[str] = COLOURS):
        self.rng, self.colours = rng, colours
        self.people = rng.sample(NAMES, people)
        self.has: dict[str, str] = {}                   # name -> "gold key"
        self.place: dict[str, str] = {}                 # name -> "park"
        self.told: list[tuple[str, str, str]] = []      # (name, "has" or "place", sentence), in order

    def tell(self) -> str:
        name = self.rng.choice(self.people)
        if self.rng.random() < 0.7:
            thing = f"{self.rng.choice(self.colours)} {self.rng.choice(THINGS)}"
            sentence = f"{name} {'now has' if name in self.has else 'has'} a {thing}."
            self.has[name] = thing
            self.told.append((name, "has", sentence))
        else:
            place = self.rng.choice(PLACES)
            sentence = f"{name} {'goes to' if name in self.place else 'is in'} the {place}."
            self.place[name] = place
            self.told.append((name, "place", sentence))
        return sentence

    def ask(self, thinking: bool = False, unknown: bool = False, half_known: float = 0) -> Turn:
        """What does somebody have, or where is somebody, of whom it was told? The latest counts.

        unknown: of whom it was not told, unless it was told of everybody.
        half_known: the share of these of whom the other of both was told, if there is somebody.
        """
        kind = self.rng.choice(("has", "has", "place"))
        known = self.place if kind == "place" else self.has
        if unknown and (others := [name for name in NAMES if name not in known]):
            if half_known and self.rng.random() < half_known:
                others = [name for name in others if name in self.has or name in self.place] or others
            name = self.rng.choice(others)
            answer, thoughts = NOBODY_KNOWS, NOT_TOLD
        else:
            known = known or self.has or self.place
            name = self.rng.choice(sorted(known))
            kind = "has" if known is self.has else "place"
            answer = f"a {self.has[name]}" if kind == "has" else f"in the {self.place[name]}"
            thoughts = [sentence for who, what, sentence in self.told if (who, what) == (name, kind)][-1]
        question = f"What does {name} have?" if kind == "has" else f"Where is {name}?"
        return Turn(question, answer, thoughts if thinking else None)


def people_for(rng: Random, facts: int) -> int:
    """Between a third of the facts and as many as there are facts: some stories change much, some little."""
    return min(len(NAMES), rng.randint(max(1, facts // 3), facts))


def facts_conversation(rng: Random, facts: int, questions: int, thinking: bool = False,
                       colours: list[str] = COLOURS, unknown: float = 0, half_known: float = 0,
                       pause: bool = False) -> Conversation:
    """A story of `facts` sentences, then `questions` questions; now and then the story goes on in between.

    Args:
        colours: those that things have in it.
        unknown: the share of questions about what was not told.
        half_known: of these, the share about people of whom something else was told.
        pause: the story, or its first part, is told in a turn that asks nothing.
    """
    story = Story(rng, people_for(rng, facts), colours)
    conversation, prefix = Conversation(), [story.tell() for _ in range(facts)]
    if pause:
        first = rng.randint(1, facts)
        conversation.turns.append(Turn(" ".join(prefix[:first]), UNDERSTOOD))
        prefix = prefix[first:]
    for i in range(questions):
        turn = story.ask(thinking and i == questions - 1, rng.random() < unknown, half_known)
        turn.question = " ".join((*prefix, turn.question))
        conversation.turns.append(turn)
        prefix = [story.tell() for _ in range(rng.randint(1, 2))] if rng.random() < 0.3 else []
    return conversation


# --------------------------------------------------------------------------------------------------- arithmetic


def held_out(a: int, b: int) -> bool:
    """One pair in sixteen is never trained on, in either order."""
    return (min(a, b) * 7919 + max(a, b) * 104729) % 16 == 0


def addition(a: int, b: int, thinking: bool) -> Turn:
    """The way it is done on paper: last column first; the third number in a line is the carry from the line above."""
    lines, carry = [], 0
    for i in range(max(len(str(a)), len(str(b)))):
        x, y = a // 10**i % 10, b // 10**i % 10
        column = x + y + carry
        lines.append(f"{x} + {y} + {carry} = {column}")
        carry = column // 10
    return Turn(f"What is {a} + {b}?", str(a + b), "\n".join(lines) if thinking else None)


def too_long(a: int, b: int, thinking: bool) -> Turn:
    """A sum for the calculator, where there is none."""
    return Turn(f"What is {a} + {b}?", NO_CALCULATOR, TOO_LONG if thinking else None)


def pair(rng: Random, digits: int, test: bool = False) -> tuple[int, int]:
    """Two numbers, the longer of `digits` digits, the other of as many (mostly) or fewer."""
    whole_number("digits", digits, 1)
    while True:
        a = rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1)
        other = digits if test or rng.random() < 0.7 else rng.randint(1, digits)
        b = rng.randint(10 ** (other - 1) if other > 1 else 0, 10**other - 1)
        if held_out(a, b) == test:
            return (a, b) if rng.random() < 0.5 else (b, a)


def sums_conversation(rng: Random, thinking: bool, max_digits: int = 3, questions: int = 1) -> Conversation:
    """Sums one after the other; only the last is thought about (earlier thoughts are dropped from a chat's history)."""
    lengths = rng.choices(range(1, max_digits + 1), weights=[4**i for i in range(max_digits)], k=questions)
    return Conversation([addition(*pair(rng, digits), thinking and i == questions - 1)
                         for i, digits in enumerate(lengths)])


def greeting_conversation(rng: Random, thinking: bool) -> Conversation:
    question = rng.choice(GREETINGS)
    answer = WELCOME if question.startswith("Thank") else INTRODUCTION
    return Conversation([Turn(question, answer, NOTHING_TO_THINK if thinking else None)])


# ------------------------------------------------------------------------------------------- pictures and clips


LOOKUPS = ("colour", "shape", "where", "what is there", "how many of a kind",      # kinds of question that name what
           "what moves", "what stands still")                                      # is to be found


def series(shapes: list) -> str:
    """a red circle, a blue star and a gold cross"""
    names = [f"a {shape}" for shape in shapes]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def once(values: list) -> list:
    return [value for value in values if values.count(value) == 1]


def kinds_and_colours(shapes: list) -> dict[str, list[tuple[str, str]]]:
    """What can be asked of shapes wherever they are; only what has one right answer."""
    kinds, colours = [s.kind for s in shapes], [s.colour for s in shapes]
    return {
        "colour": [(f"What colour is the {s.kind}?", s.colour) for s in shapes
                   if s.kind in once(kinds) and s.colour in pictures.COLOURS],
        "shape": [(f"Which shape is {s.colour}?", f"a {s.kind}") for s in shapes
                  if s.colour in once(colours) and s.colour in pictures.COLOURS],
        "how many": [("How many shapes are there?", str(len(shapes)))],
    }


def scene_questions(scene: Scene) -> dict[str, list[tuple[str, str]]]:
    """All that can be asked of a picture, by kind of question: (question, its one right answer)."""
    shapes = scene.shapes
    kinds, names = [s.kind for s in shapes], [str(s) for s in shapes]
    return {
        "what": [("What is in the picture?", series(shapes))] if scene.named else [],
        **kinds_and_colours(shapes),
        "where": [(f"Where is the {name}?", pictures.WHERE[s.place]) for s in shapes
                  for name in dict.fromkeys((s.kind, str(s))) if (kinds + names * scene.named).count(name) == 1],
        "what is there": [(f"Which shape is {pictures.WHERE[s.place]}?", f"a {s.kind}") for s in shapes],
        "how many of a kind": [(f"How many {kind}{'es' if kind == 'cross' else 's'} are there?", str(kinds.count(kind)))
                               for kind in pictures.SHAPES],
    }


def film_questions(film: Film) -> dict[str, list[tuple[str, str]]]:
    """All that can be asked of a clip, by kind of question: (question, its one right answer)."""
    return {
        "which way": [("Which way does it move?", film.way)],
        "what moves": [("What moves?", f"a {film.moving}")],
        "what stands still": [("What stands still?", f"a {shape}") for shape in film.resting],
        **kinds_and_colours(film.shapes),
    }


class Look:
    """A picture or a clip that is being looked at; `ask` asks what it has not asked of it yet."""

    def __init__(self, rng: Random, sees: Scene | Film):
        self.rng, self.sees = rng, sees
        self.shown = False
        self.questions = scene_questions(sees) if isinstance(sees, Scene) else film_questions(sees)
        if isinstance(sees, Scene):
            self.thoughts = ", ".join(f"a {s} {pictures.WHERE[s.place]}" for s in sees.shapes) + "."
        else:
            still = "".join(f", a {s} stands still" for s in sees.resting)
            self.thoughts = f"a {sees.moving} moves {sees.way}{still}."

    def ask(self, thinking: bool = False, kind: str | None = None) -> Turn:
        """A question of this kind, or of any; the picture comes with the first one.

        What must be looked up by its shape, its colour or its place is asked oftener than what is there in all.
        """
        kinds = [kind for kind, some in self.questions.items() if some]
        kind = kind or self.rng.choices(kinds, weights=[3 if kind in LOOKUPS else 1 for kind in kinds])[0]
        left = self.questions[kind]
        # most shapes are not in the picture: ask oftener for those that are
        question, answer = self.rng.choices(left, weights=[1 if answer == "0" else 3 for _, answer in left])[0]
        left.remove((question, answer))
        return self.show(Turn(question, answer, self.thoughts if thinking else None))

    def show(self, turn: Turn) -> Turn:
        """The picture comes with this turn, if it has not come yet."""
        if not self.shown:
            (turn.images if isinstance(self.sees, Scene) else turn.clips).append(self.sees)
        self.shown = True
        return turn


def picture_conversation(rng: Random, questions: int, thinking: bool = False, kind: str | None = None,
                         test: bool = False, film: bool = False, most_shapes: int = 4,
                         unnamed: float = 0) -> Conversation:
    """Questions about a picture, or about a clip with `film`; now and then another one takes its place.

    kind: a key of `scene_questions` or `film_questions` that the questions are to be of, if one is asked of each.
    test: shapes of held-out pairs.
    most_shapes: no more shapes than these in a picture; 4 is what there is.
    unnamed: the share of pictures (not of clips) in colours that have no name, of which no colour is asked.
    """
    def look() -> Look:
        while True:
            count = None if most_shapes >= 4 else rng.randint(1, most_shapes)
            sees = Film.sample(rng, test=test) if film else Scene.sample(rng, count, test=test)
            if rng.random() < unnamed and not film:
                sees = sees.in_unnamed_colours(rng)
            look = Look(rng, sees)
            if kind is None or look.questions[kind]:
                return look

    conversation, seen = Conversation(), look()
    for i in range(questions):
        if i > 0 and (rng.random() < 0.1 or not any(seen.questions.values()) or kind and not seen.questions[kind]):
            seen = look()
        conversation.turns.append(seen.ask(thinking and i == questions - 1, kind))
    return conversation


def mixed_conversation(rng: Random, facts: int, questions: int, thinking: bool = False) -> Conversation:
    """A story, and somewhere in it a picture or a clip; questions about both."""
    story, conversation = Story(rng, people_for(rng, facts)), Conversation()
    look = Look(rng, (Film if rng.random() < 0.25 else Scene).sample(rng))
    shown = rng.randrange(min(questions, 3))            # the turn that brings it
    prefix = [story.tell() for _ in range(facts)]
    for i in range(questions):
        about_it = i >= shown and rng.random() < 0.6 and any(look.questions.values())
        turn = (look if about_it else story).ask(thinking and i == questions - 1)
        if i == shown:                                  # it may come along with a question about the story
            look.show(turn)
        turn.question = " ".join((*prefix, turn.question))
        conversation.turns.append(turn)
        prefix = [story.tell() for _ in range(rng.randint(1, 2))] if rng.random() < 0.3 else []
    return conversation


# ------------------------------------------------------------------------------------------------ the calculator


def add(a: int, b: int) -> int:
    """adds two numbers"""
    return a + b


def adder(name: str, parameters: tuple[str, str], says: str) -> Callable:
    """The same under any name, with parameters of any names: what a call needs stands in the schema alone."""
    def tool(**numbers: int) -> int:
        return sum(numbers.values())

    tool.__name__, tool.__doc__, tool.__annotations__ = name, says, dict.fromkeys(parameters, int)
    tool.__signature__ = Signature([Parameter(each, Parameter.KEYWORD_ONLY, annotation=int) for each in parameters])
    return tool


def weather(city: str) -> str:
    """tells the weather of a city"""
    return f"sunny in {city}"


def remind(text: str, hour: int) -> str:
    """reminds of something at an hour"""
    return f"{text} at {hour}"


ADDERS = "add plus total calculator add_numbers sum_of_two".split()
PARAMETERS = [("a", "b"), ("x", "y"), ("first", "second"), ("left", "right"), ("one", "two"), ("n", "m")]
DESCRIPTIONS = ["adds two numbers", "Adds two numbers.", "Add two integers.", "The sum of two numbers.", ""]
OTHERS = [weather, remind]                              # functions that do not add

HOW_TO_CALL = "Call a function by its name, with each parameter."
TOO_LONG = "The sum is long. The calculator knows."
FAILED = "The calculator failed."
FAILURES = ("ValueError: out of order.", "OverflowError: too long.", "RuntimeError: no answer.", "TypeError: a word.")


def tools_block(tools: list[Callable]) -> str:
    """What the system turn says about the functions at hand; the chat template writes the same."""
    lines = "\n".join(json.dumps(describe(tool), ensure_ascii=False) for tool in tools)
    return f"<tools>\n{lines}\n</tools>\n\n{HOW_TO_CALL}"


def calculation(a: int, b: int, thinking: bool, failure: str | None = None, tool: Callable = add) -> Turn:
    """A sum that is given to the calculator, `tool`, which answers it or fails."""
    result = failure or str(a + b)
    answer = FAILED if failure else result
    afterwards = FAILED if failure else f"The calculator says {result}."
    arguments = dict(zip(signature(tool).parameters, (a, b), strict=True))
    return Turn(f"What is {a} + {b}?", answer, TOO_LONG if thinking else None,
                call=Call(tool.__name__, arguments, result, afterwards if thinking else None))


def short_sum_conversation(rng: Random, thinking: bool, tool: Callable) -> Conversation:
    """With a calculator at hand: column by column where there is thinking, by the calculator where there is none."""
    conversation = sums_conversation(rng, thinking)
    if not thinking:
        conversation.turns = [calculation(*pair(rng, rng.randint(1, 3)), thinking, tool=tool)]
    return conversation


def tools_conversation(rng: Random, thinking: bool = False, least_digits: int = 4, most_digits: int = 8,
                       others: bool = True, test: bool = False, renamed: float = 0) -> Conversation:
    """With the calculator at hand: one or two sums of `least_digits` to `most_digits` digits, which it is asked for.

    With `others`, about a third are answered without it, as always: short sums that are thought about, facts, pictures,
    greetings; and in a few the calculator fails. A short sum that is not to be thought about is asked of it, too. Some
    have other functions beside it, or these alone: then a long sum is too long.

    renamed: the share in which the calculator and its parameters have any names.
    """
    tool = add
    if rng.random() < renamed:
        tool = adder(rng.choice(ADDERS), rng.choice(PARAMETERS), rng.choice(DESCRIPTIONS))
    beside = rng.sample(OTHERS, rng.randint(1, 2)) if others and rng.random() < 0.25 else []
    if beside and rng.random() < 0.4:
        a, b = pair(rng, rng.randint(least_digits, most_digits), test)
        return Conversation([too_long(a, b, thinking)], beside)
    if others and rng.random() < 0.35:
        conversation = rng.choice([
            lambda: short_sum_conversation(rng, thinking, tool), lambda: short_sum_conversation(rng, thinking, tool),
            lambda: facts_conversation(rng, rng.randint(2, 6), rng.randint(1, 3), thinking),
            lambda: picture_conversation(rng, rng.randint(1, 3), thinking),
            lambda: greeting_conversation(rng, thinking),
        ])()
    else:
        conversation = Conversation()
        count = 2 if others and rng.random() < 0.25 else 1
        for i in range(count):
            failure = rng.choice(FAILURES) if others and rng.random() < 0.05 else None
            a, b = pair(rng, rng.randint(least_digits, most_digits), test)
            conversation.turns.append(calculation(a, b, thinking and i == count - 1, failure, tool))
    conversation.tools = rng.sample([tool, *beside], 1 + len(beside))
    return conversation


# ---------------------------------------------------------------------------------------- as people really write


def beyond(rng: Random, thinking: bool, test: bool = False) -> Turn:
    """Something that has no answer in this world."""
    return Turn(chatter(rng, test), BEYOND, NOTHING_TO_THINK if thinking else None)


def chatter_conversation(rng: Random, thinking: bool, test: bool = False) -> Conversation:
    return Conversation([beyond(rng, thinking and i == 0, test) for i in range(rng.choice((1, 1, 2)))][::-1])


def interrupted(rng: Random, conversation: Conversation) -> Conversation:
    """The same talk, in which something is said that does not belong to it."""
    at = rng.randint(0, len(conversation.turns))
    conversation.turns.insert(at, beyond(rng, thinking=False))
    return conversation


def typed(rng: Random, conversation: Conversation) -> Conversation:
    """As those type who do not care for capitals, and half of them not for question marks either."""
    marks = rng.random() < 0.5
    for turn in conversation.turns:
        turn.question = turn.question.lower() if marks else turn.question.lower().removesuffix("?")
    return conversation


# ------------------------------------------------------------------------------------------- as text, as tokens


IMAGE, CLIP = "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"


def pieces(conversation: Conversation, keep_blocks: bool = False, learn: str = "all") -> list[tuple[str, bool]]:
    """The conversation in the chat format, cut where the loss goes on and off: (text, is it to be learnt?).

    As the template has it, only the last turn holds think blocks - empty when there is no thinking. `keep_blocks`
    keeps an (empty) block in every turn, as each had it when it was asked. learn: "all" answers, or only the "last".
    A picture or a clip is one placeholder here, in front of its question.
    """
    out = []

    def says(text, thinking, last):                     # one message of the assistant
        out.append(("<|im_start|>assistant\n", False))
        if thinking is not None and last:
            out.append(("<think>\n", False))
            out.append((f"{thinking}\n</think>\n\n{text}<|im_end|>", True))
        else:
            if last or keep_blocks:
                out.append(("<think>\n\n</think>\n\n", False))
            out.append((f"{text}<|im_end|>", last or learn == "all"))
        out.append(("\n", False))

    system = [tools_block(conversation.tools)] if conversation.tools else []
    if system := "\n\n".join([*system, *filter(None, [conversation.system])]):
        out.append((f"<|im_start|>system\n{system}<|im_end|>\n", False))
    for turn in conversation.turns:
        last = turn is conversation.turns[-1]
        media = IMAGE * len(turn.images) + CLIP * len(turn.clips)
        out.append((f"<|im_start|>user\n{media}{turn.question}<|im_end|>\n", False))
        thinking = turn.thinking
        if call := turn.call:
            says(call.text(), thinking, last)
            response = f"<tool_response>\n{call.result}\n</tool_response>"
            out.append((f"<|im_start|>user\n{response}<|im_end|>\n", False))
            thinking = call.thinking
        says(turn.answer, thinking, last)
    return out


def plain_pieces(conversation: Conversation) -> list[tuple[str, bool]]:
    """The same as running text, question and answer side by side: "... What does Ann have? a gold key. Where is ..."

    Recall is learnt here first, where the asked name stands next to the answer, and then carried over to the chat.
    """
    out = []
    for i, turn in enumerate(conversation.turns):
        media = IMAGE * len(turn.images) + CLIP * len(turn.clips)
        out.append((" " * (i > 0) + media + turn.question, False))
        out.append((f" {turn.answer.removesuffix('.')}.", True))                        # a word's token holds its space
    return [*out, ("<|endoftext|>", True)]
