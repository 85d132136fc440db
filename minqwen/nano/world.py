"""The nano model's world: people who have things and are in places, all of which changes, and sums.

Everything in it is known, so that a picture of the model's inside can be held against the truth:

    ann has a red cup. bob is in the park. ann now has a gold key. what does ann have?   ->   a gold key
    what is 347 + 582?   ->   (thinking, column by column:)  7 + 2 + 0 = 9 ...   ->   929

A `Conversation` is a list of turns; `pieces` writes it out in the official chat format and marks what the model is to
learn: the answers (and the thinking before them), never the questions, which are random.
"""

from dataclasses import dataclass, field
from random import Random

NAMES = ("ann bob cat dan eve fay gus hal ida jim kay leo mia ned oli pam "
         "quin ray sue tom uma val wes zoe").split()
COLOURS = "red blue green gold pink black white brown".split()
THINGS = ("cup hat key ball book lamp coat ring box pen bag drum fork kite bell "
          "map rope shoe sock spoon flag vase plate clock").split()
PLACES = "park lake barn shop school garden kitchen forest tower harbour market library".split()

GREETINGS = ("hello", "hi", "good morning", "who are you?", "what can you do?", "thank you", "thanks")
WELCOME, NOTHING_TO_THINK = "you are welcome.", "no sum and no story."
INTRODUCTION = "i am nano. tell me who has what and who is where, then ask. i can add, too."


@dataclass
class Turn:
    """One question and its answer; `thinking` is None where the question is answered at once."""

    question: str
    answer: str
    thinking: str | None = None


@dataclass
class Conversation:
    turns: list[Turn] = field(default_factory=list)

    def messages(self) -> list[dict]:
        """As chat messages, without the last answer: what is given to the chat template, to be answered."""
        messages = []
        for turn in self.turns:
            messages += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
        return messages[:-1]


# -------------------------------------------------------------------------------------------- facts that change


class Story:
    """People, what each has and where each is. `tell` adds a fact, `ask` asks for one that holds now."""

    def __init__(self, rng: Random, people: int):
        self.rng = rng
        self.people = rng.sample(NAMES, people)
        self.has: dict[str, str] = {}                   # name -> "gold key"
        self.place: dict[str, str] = {}                 # name -> "park"
        self.told: list[tuple[str, str, str]] = []      # (name, "has" or "place", sentence), in order

    def tell(self) -> str:
        name = self.rng.choice(self.people)
        if self.rng.random() < 0.7:
            thing = f"{self.rng.choice(COLOURS)} {self.rng.choice(THINGS)}"
            sentence = f"{name} {'now has' if name in self.has else 'has'} a {thing}."
            self.has[name] = thing
            self.told.append((name, "has", sentence))
        else:
            place = self.rng.choice(PLACES)
            sentence = f"{name} {'goes to' if name in self.place else 'is in'} the {place}."
            self.place[name] = place
            self.told.append((name, "place", sentence))
        return sentence

    def ask(self, thinking: bool = False) -> Turn:
        """What does somebody have, or where is somebody, of whom it was told? The latest counts."""
        kind = self.rng.choice(("has", "has", "place"))
        known = self.place if kind == "place" and self.place else self.has or self.place
        name = self.rng.choice(sorted(known))
        kind = "has" if known is self.has else "place"
        thoughts = [sentence for who, what, sentence in self.told if (who, what) == (name, kind)][-1]
        if kind == "has":
            return Turn(f"what does {name} have?", f"a {self.has[name]}", thoughts if thinking else None)
        return Turn(f"where is {name}?", f"in the {self.place[name]}", thoughts if thinking else None)


def people_for(rng: Random, facts: int) -> int:
    """Between a third of the facts and as many as there are facts: some stories change much, some little."""
    return min(len(NAMES), rng.randint(max(1, facts // 3), facts))


def facts_conversation(rng: Random, facts: int, questions: int, thinking: bool = False) -> Conversation:
    """A story of `facts` sentences, then `questions` questions; now and then the story goes on in between."""
    story = Story(rng, people_for(rng, facts))
    conversation, prefix = Conversation(), [story.tell() for _ in range(facts)]
    for i in range(questions):
        turn = story.ask(thinking and i == questions - 1)
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
    return Turn(f"what is {a} + {b}?", str(a + b), "\n".join(lines) if thinking else None)


def pair(rng: Random, digits: int, test: bool = False) -> tuple[int, int]:
    """Two numbers, the longer of `digits` digits, the other of as many (mostly) or fewer."""
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
    answer = WELCOME if question.startswith("thank") else INTRODUCTION
    return Conversation([Turn(question, answer, NOTHING_TO_THINK if thinking else None)])


# ------------------------------------------------------------------------------------------- as text, as tokens


def pieces(conversation: Conversation, keep_blocks: bool = False, learn: str = "all") -> list[tuple[str, bool]]:
    """The conversation in the chat format, cut where the loss goes on and off: (text, is it to be learnt?).

    As the template has it, only the last turn holds a think block - empty when there is no thinking. `keep_blocks`
    keeps an (empty) block in every turn, as each had it when it was asked. learn: "all" answers, or only the "last".
    """
    out = []
    for i, turn in enumerate(conversation.turns):
        last = i == len(conversation.turns) - 1
        out.append((f"<|im_start|>user\n{turn.question}<|im_end|>\n<|im_start|>assistant\n", False))
        if turn.thinking is not None and last:
            out.append(("<think>\n", False))
            out.append((f"{turn.thinking}\n</think>\n\n{turn.answer}<|im_end|>", True))
        else:
            if last or keep_blocks:
                out.append(("<think>\n\n</think>\n\n", False))
            out.append((f"{turn.answer}<|im_end|>", last or learn == "all"))
        out.append(("\n", False))
    return out


def plain_pieces(conversation: Conversation) -> list[tuple[str, bool]]:
    """The same as running text, question and answer side by side: "... what does ann have? a gold key. where is ..."

    Recall is learnt here first, where the asked name stands next to the answer, and then carried over to the chat.
    """
    out = []
    for i, turn in enumerate(conversation.turns):
        out += [(" " * (i > 0) + turn.question, False), (f" {turn.answer}.", True)]     # a word's token holds its space
    return [*out, ("<|endoftext|>", True)]
