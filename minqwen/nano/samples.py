"""What training reads: conversations from the little world, cut where the loss goes on and off."""

from functools import partial
from random import Random
from typing import NamedTuple

from . import world
from .recipe import Phase, Recipe

# Kinds of question that are asked by themselves for a while, because beside all others they were not learnt.
LOOKING_UP = "colour", "where", "shape"
MOVING = "which way", "what moves"
COUNTING = "how many", "how many of a kind"


class Sample(NamedTuple):
    """A conversation, cut where the loss goes on and off, and which of the losses is its."""

    kind: str
    conversation: world.Conversation
    pieces: list[tuple[str, bool]]


def story_samples(rng: Random, tokens: int, most_facts: int, most_digits: int) -> list[Sample]:
    """Stories of about the same length, some `tokens` in all; with one in ten there is a picture or a clip.

    Short stories, which come first, are running text; then comes the chat, in which the answer stands a dozen tokens
    away from the name that was asked for.

    In three of ten longer stories all things have one to three colours, which do not tell whose they are.
    """
    plain = 1 if most_facts < 10 else 0.5 if most_facts < 15 else 0.2
    facts = rng.randint(max(1, most_facts // 3), most_facts)
    samples = []
    while tokens > 0:
        about = max(1, facts + rng.randint(-1, 1))
        kind, tell = "facts", world.facts_conversation
        if rng.random() < 0.1:
            kind, tell = "mixed", world.mixed_conversation
        elif most_facts >= 18 and rng.random() < 0.3:
            tell = partial(tell, colours=rng.sample(world.COLOURS, rng.randint(1, 3)))
        if rng.random() < plain:
            conversation = tell(rng, about, rng.randint(10, 16))
            samples.append(Sample(kind, conversation, world.plain_pieces(conversation)))
            tokens -= 7 * about + 200
            continue
        conversation = tell(rng, about, rng.randint(6, 9), thinking=rng.random() < 0.2)
        if rng.random() < 0.1:                          # a sum in the middle of a story is a sum all the same
            conversation.turns.append(world.addition(*world.pair(rng, rng.randint(1, most_digits)), thinking=True))
        samples.append(Sample(kind, conversation, world.pieces(conversation, keep_blocks=rng.random() < 0.5)))
        tokens -= 7 * about + 220
    return samples


def sum_samples(rng: Random, tokens: int, most_digits: int, thinking: float = 0.9) -> list[Sample]:
    samples = []
    for _ in range(tokens // 55):
        if rng.random() < 0.04:
            conversation = world.greeting_conversation(rng, thinking=rng.random() < 0.3)
        else:
            questions = rng.choices((1, 2, 3), weights=(4, 1, 1))[0]
            conversation = world.sums_conversation(rng, rng.random() < thinking, most_digits, questions)
        samples.append(Sample("sums", conversation, world.pieces(conversation, learn="last")))
    return samples


def plain_samples(rng: Random, count: int, kinds: tuple[str, ...], film: bool = False,
                  most_shapes: int = 4) -> list[Sample]:
    """Pictures, or clips, in running text; one of these kinds of question is asked of each."""
    conversations = [world.picture_conversation(rng, rng.randint(2, 4), film=film, most_shapes=most_shapes,
                                                kind=rng.choice(kinds))
                     for _ in range(count)]
    kind = "clips" if film else "pictures"
    return [Sample(kind, conversation, world.plain_pieces(conversation)) for conversation in conversations]


def picture_samples(rng: Random, count: int, film: bool = False) -> list[Sample]:
    """All questions about pictures, or about clips: now and then in running text, mostly as a chat."""
    samples = []
    for _ in range(count):
        conversation = world.picture_conversation(rng, rng.randint(2, 4), thinking=rng.random() < 0.15, film=film)
        if rng.random() < 0.3:
            pieces = world.plain_pieces(conversation)
        else:
            pieces = world.pieces(conversation, keep_blocks=rng.random() < 0.5)
        samples.append(Sample("clips" if film else "pictures", conversation, pieces))
    return samples


def calculator_samples(rng: Random, count: int) -> list[Sample]:
    conversations = [world.tools_conversation(rng, thinking=rng.random() < 0.4) for _ in range(count)]
    return [Sample("calculator", conversation, world.pieces(conversation)) for conversation in conversations]


def phase_samples(rng: Random, phase: Phase, recipe: Recipe, most_facts: int) -> list[Sample]:
    """What a step of this phase reads, while the longest story has `most_facts` facts."""
    def number(share):
        return max(1, int(share * recipe.pictures)) if share else 0

    return [*story_samples(rng, int(phase.stories * recipe.tokens), most_facts, recipe.most_digits),
            *sum_samples(rng, int(phase.sums * recipe.tokens), recipe.most_digits),
            *plain_samples(rng, number(phase.looking_up), LOOKING_UP, most_shapes=3),
            *picture_samples(rng, number(phase.pictures)),
            *plain_samples(rng, number(phase.moving), MOVING, film=True),
            *picture_samples(rng, number(phase.clips), film=True),
            *calculator_samples(rng, number(phase.calls)),
            *plain_samples(rng, number(phase.counting), COUNTING)]
