"""What training reads: conversations from the little world, cut where the loss goes on and off."""

from functools import partial
from random import Random
from typing import NamedTuple

from . import world
from .recipe import Phase, Recipe

# Kinds of question that are asked by themselves for a while, because beside all others they were not learnt.
LOOKING_UP = "colour", "where", "shape"
MOVING = "which way", "what moves", "what stands still"
COUNTING = "how many", *3 * ("how many of a kind",)      # of a kind is the harder one


class Sample(NamedTuple):
    """A conversation, cut where the loss goes on and off, and which of the losses is its."""

    kind: str
    conversation: world.Conversation
    pieces: list[tuple[str, bool]]


def written(rng: Random, conversation: world.Conversation) -> world.Conversation:
    """As people write, or, one in five, as they type in haste."""
    return world.typed(rng, conversation) if rng.random() < 0.2 else conversation


def story_samples(rng: Random, tokens: int, most_facts: int, most_digits: int, unknown: float = 0,
                  half_known: float = 0, mixed: float = 0.1) -> list[Sample]:
    """Stories of about the same length, some `tokens` in all.

    unknown: the share of stories of which half of what is asked was not told; half_known: of that, the share about
    people of whom something else was told.
    mixed: the share of those in which there is a picture or a clip.

    Short stories, which come first, are running text; then comes the chat, in which the answer stands a dozen tokens
    away from the name that was asked for.

    In three of ten longer stories all things have one to three colours, which do not tell whose they are. One chat in
    ten begins by telling alone.
    """
    plain = 1 if most_facts < 10 else 0.5 if most_facts < 15 else 0.2
    facts = rng.randint(max(1, most_facts // 3), most_facts)
    samples = []
    while tokens > 0:
        about = max(1, facts + rng.randint(-1, 1))
        kind, tell = "facts", world.facts_conversation
        if rng.random() < mixed:
            kind, tell = "mixed", world.mixed_conversation
        elif most_facts >= 18 and rng.random() < 0.3:
            tell = partial(tell, colours=rng.sample(world.COLOURS, rng.randint(1, 3)))
        if kind == "facts" and rng.random() < unknown:
            kind, tell = "unknown", partial(tell, unknown=0.5, half_known=half_known)
        if rng.random() < plain:
            conversation = written(rng, tell(rng, about, rng.randint(10, 16)))
            samples.append(Sample(kind, conversation, world.plain_pieces(conversation)))
            tokens -= 7 * about + 200
            continue
        if kind != "mixed":
            tell = partial(tell, pause=rng.random() < 0.1)
        conversation = tell(rng, about, rng.randint(6, 9), thinking=rng.random() < 0.2)
        if rng.random() < 0.1:                          # a sum in the middle of a story is a sum all the same
            conversation.turns.append(world.addition(*world.pair(rng, rng.randint(1, most_digits)), thinking=True))
        conversation = written(rng, conversation)
        samples.append(Sample(kind, conversation, world.pieces(conversation, keep_blocks=rng.random() < 0.5)))
        tokens -= 7 * about + 220
    return samples


def sum_samples(rng: Random, tokens: int, most_digits: int, thinking: float = 0.9) -> list[Sample]:
    """Sums without a calculator: one in twelve is too long. And greetings."""
    samples = []
    for _ in range(tokens // 55):
        sort = rng.random()
        if sort < 0.04:
            conversation = world.greeting_conversation(rng, thinking=rng.random() < 0.3)
        elif sort < 0.12:
            long = world.pair(rng, rng.randint(most_digits + 1, 8))
            conversation = world.Conversation([world.too_long(*long, thinking=rng.random() < 0.5)])
        else:
            questions = rng.choices((1, 2, 3), weights=(4, 1, 1))[0]
            conversation = world.sums_conversation(rng, rng.random() < thinking, most_digits, questions)
        samples.append(Sample("sums", conversation, world.pieces(written(rng, conversation), learn="last")))
    return samples


def plain_samples(rng: Random, count: int, kinds: tuple[str, ...], film: bool = False,
                  most_shapes: int = 4) -> list[Sample]:
    """Pictures, or clips, in running text; one of these kinds of question is asked of each."""
    conversations = [written(rng, world.picture_conversation(rng, rng.randint(2, 4), film=film,
                                                             most_shapes=most_shapes, kind=rng.choice(kinds)))
                     for _ in range(count)]
    kind = "clips" if film else "pictures"
    return [Sample(kind, conversation, world.plain_pieces(conversation)) for conversation in conversations]


def picture_samples(rng: Random, count: int, film: bool = False) -> list[Sample]:
    """All questions about pictures, or about clips: now and then in running text, mostly as a chat.

    One picture in four is in colours that have no name: a shape is told by its form, whatever its colours so far.
    """
    samples = []
    for _ in range(count):
        conversation = world.picture_conversation(rng, rng.randint(2, 4), thinking=rng.random() < 0.15, film=film,
                                                  unnamed=0.25)
        conversation = written(rng, conversation)
        if rng.random() < 0.3:
            pieces = world.plain_pieces(conversation)
        else:
            pieces = world.pieces(conversation, keep_blocks=rng.random() < 0.5)
        samples.append(Sample("clips" if film else "pictures", conversation, pieces))
    return samples


def calculator_samples(rng: Random, count: int, renamed: float) -> list[Sample]:
    conversations = [written(rng, world.tools_conversation(rng, thinking=rng.random() < 0.4, renamed=renamed))
                     for _ in range(count)]
    return [Sample("calculator", conversation, world.pieces(conversation)) for conversation in conversations]


def out_of_place(rng: Random, thinking: bool) -> world.Conversation:
    """What has no answer here: alone, or in a short story, among sums, looks at a picture, or calls; at any turn."""
    return rng.choice([
        lambda: world.chatter_conversation(rng, thinking), lambda: world.chatter_conversation(rng, thinking),
        lambda: world.interrupted(rng, world.facts_conversation(rng, rng.randint(2, 12), 2, thinking)),
        lambda: world.interrupted(rng, world.sums_conversation(rng, thinking=True, questions=2)),
        lambda: world.interrupted(rng, world.picture_conversation(rng, 2, thinking)),
        lambda: world.interrupted(rng, world.tools_conversation(rng, thinking, renamed=0.4)),
    ])()


def chatter_samples(rng: Random, count: int) -> list[Sample]:
    """What has no answer here; to one in five a system message says something out of place, too."""
    samples = []
    for _ in range(count):
        conversation = out_of_place(rng, thinking=rng.random() < 0.3)
        if rng.random() < 0.2:
            conversation.system = world.chatter(rng)
        conversation = written(rng, conversation)
        samples.append(Sample("chatter", conversation, world.pieces(conversation, keep_blocks=rng.random() < 0.5)))
    return samples


def phase_samples(rng: Random, phase: Phase, recipe: Recipe, most_facts: int) -> list[Sample]:
    """What a step of this phase reads, while the longest story has `most_facts` facts."""
    def number(share):
        return max(1, int(share * recipe.pictures)) if share else 0

    return [*story_samples(rng, int(phase.stories * recipe.tokens), most_facts, recipe.most_digits, phase.unknown,
                            phase.half_known, phase.mixed),
            *sum_samples(rng, int(phase.sums * recipe.tokens), recipe.most_digits),
            *plain_samples(rng, number(phase.looking_up), LOOKING_UP, most_shapes=3),
            *picture_samples(rng, number(phase.pictures)),
            *plain_samples(rng, number(phase.moving), MOVING, film=True),
            *picture_samples(rng, number(phase.clips), film=True),
            *calculator_samples(rng, number(phase.calls), phase.renamed),
            *chatter_samples(rng, number(phase.chatter)),
            *plain_samples(rng, number(phase.counting), COUNTING)]
