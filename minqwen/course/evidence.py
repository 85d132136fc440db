"""What lessons hold their own functions against: what layers put out, samples, and prompts in transformers' terms; and
what is still known of a long story."""

import os
from collections.abc import Iterable
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..cache import Cache, DeltaCache
from ..edits import edited
from ..generate import left_pad, prefill
from ..model import Qwen

__all__ = ["Fact", "Reading", "layer_outputs", "long_story", "nano_conversations", "official_numbers", "prompt_parts"]


def layer_outputs(model: nn.Module, input_ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The logits (B, T, V) and what each layer puts out, (B, T, hidden_size): of a `Qwen` or of its `official_twin`."""
    stack, seen = getattr(model.model, "language_model", model.model), []
    hooks = [layer.register_forward_hook(lambda layer, inputs, x: seen.append(x[0] if isinstance(x, tuple) else x))
             for layer in stack.layers]
    try:
        result = model(input_ids)
    finally:
        for hook in hooks:
            hook.remove()
    return getattr(result, "logits", result), seen


def nano_conversations(task, tokenizer, count: int) -> list[tuple[list[int], list[bool]]]:
    """Held-out conversations of the little world: [(token ids, which of them the model has to say)].

    task: one of `minqwen.nano.score`, such as `facts(8)`.
    """
    from minqwen.nano.world import pieces

    found = []
    for conversation in task.samples(count):
        ids, says = [], []
        for text, its_own in pieces(conversation):
            new = tokenizer.encode(text)
            ids, says = ids + new, says + len(new) * [its_own]
        found.append((ids, says))
    return found


def official_numbers(settings) -> dict:
    """Settings of pictures (`minqwen.media.Settings`), by the names and in the form that transformers wants."""
    numbers = {name: list(x) if isinstance(x, tuple) else x for name, x in vars(settings).items()}
    numbers["size"] = {name: numbers.pop(name) for name in ("shortest_edge", "longest_edge")}
    return numbers


def prompt_parts(input_ids: list[int], sizes: Iterable[tuple[int, int]], config) -> list[int | tuple[int, int]]:
    """A prompt as runs of words, which are counted, and the (rows, columns) of its pictures and slices, in order."""
    parts, sizes, left = [], iter(sizes), 0
    for id in input_ids:
        if left:                                         # inside of a picture
            left -= 1
        elif id in (config.image_token_id, config.video_token_id):
            rows, columns = next(sizes)
            parts.append((rows, columns))
            left = rows * columns - 1
        elif parts and isinstance(parts[-1], int):
            parts[-1] += 1
        else:
            parts.append(1)
    return parts


class Fact(NamedTuple):
    """A fact that holds at the end of a story, as it is asked for. age: how many sentences have come behind it."""

    question: str
    answer: str
    age: int


def long_story(rng: Random, facts: int, people: int, needles: int = 0) -> tuple[str, list[Fact]]:
    """A story of the little world, so many sentences long, and all that can be asked of it, the oldest facts first.

    Args:
        people: of whom it goes on telling: there are at most two facts for each that hold.
        needles: so many others of whom a single sentence is told, somewhere, evenly spread from the first sentence to
            the last. Then only these are asked for.
    """
    from minqwen.nano.world import Story

    story = Story(rng, people + needles)
    others, story.people = story.people[people:], story.people[:people]
    places = {round(i * (facts - 1) / max(1, needles - 1)): name for i, name in enumerate(others)}
    hay = list(story.people)
    for i in range(facts):
        story.people = [places[i]] if i in places else hay
        story.tell()
    asked = {}
    while len(asked) < len(story.has) + len(story.place):
        turn = story.ask(thinking=True)                  # thinking is the sentence that told of it last
        asked[turn.question] = turn
    sentences = [sentence for _, _, sentence in story.told]
    age = {sentence: facts - 1 - i for i, sentence in enumerate(sentences)}                 # the last one's counts
    found = [Fact(turn.question, turn.answer, age[turn.thinking]) for turn in asked.values()]
    if needles:
        found = [fact for fact in found if facts - 1 - fact.age in places]
    return " ".join(sentences), sorted(found, key=lambda fact: -fact.age)


class Reading:
    """A story that is read once, then to be asked many things, each as if it were the first.

        reading = Reading(qwen, story, facts)
        reading.recalled()                              # (N,) 1 where the model says the fact's answer, to the letter
        reading.recalled(Edit("clear", layer=2, token=reading.length))         # if that memory is empty then
    """

    def __init__(self, qwen, story: str, facts: list[Fact], model: Qwen | None = None, piece: int | None = None):
        """model: another one than `qwen.model`; piece: how many tokens are read at once, as in `prefill`."""
        self.model, tokenizer = model or qwen.model, qwen.tokenizer
        prompts = [qwen.prompt([{"role": "user", "content": f"{story} {fact.question}"}], thinking=False)[1]
                   for fact in facts]
        self.length = len(os.path.commonprefix(prompts)) # tokens of the story, and what stands before it
        self.answers = [tokenizer.encode(f"{fact.answer}<|im_end|>") for fact in facts]
        self.rest = [prompt[self.length :] for prompt in prompts]
        self.cache = self.model.new_cache(1, self.length)
        prefill(self.model, torch.tensor([prompts[0][: self.length]]), self.cache, prefill_chunk=piece)

    @torch.no_grad()
    def recalled(self, *edits, rows: int = 16) -> Tensor:
        """(N,) 1.0 where each token of the right answer is the likeliest one, else 0.0: so it would be said, greedily.

        edits: what is changed before the questions come. rows: how many are asked side by side.
        """
        found = []
        for start in range(0, len(self.rest), rows):
            rest, answers = self.rest[start : start + rows], self.answers[start : start + rows]
            texts, mask = left_pad([a + b[:-1] for a, b in zip(rest, answers)])
            cache = side_by_side(self.model, self.cache, len(rest), self.length + texts.shape[1])
            with edited(self.model, *edits):
                likeliest = self.model(texts, attention_mask=mask, cache=cache).argmax(-1)
            found += [row[-len(answer) :].tolist() == answer for row, answer in zip(likeliest, answers)]
        return torch.tensor(found).float()


def side_by_side(model: Qwen, cache: Cache, rows: int, max_length: int) -> Cache:
    """What a cache of one row holds, in each row of a new one, with room for so many tokens."""
    many, L = model.new_cache(rows, max_length), cache.length
    many.length, many.padded, many.positions[:] = L, cache.padded, cache.positions
    many.valid[:, :L] = cache.valid[:, :L]
    for one, copy in zip(cache.layers, many.layers):
        if isinstance(one, DeltaCache):
            copy.recurrent_state[:], copy.conv_state[:] = one.recurrent_state, one.conv_state
        else:
            copy.append(one.keys[:, :, :L].expand(rows, -1, -1, -1), one.values[:, :, :L].expand(rows, -1, -1, -1))
    return many
