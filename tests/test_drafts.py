"""Speculative decoding: what is written must not depend on who drafts, only how soon it is there."""

import random
from importlib import import_module
from math import ceil

import pytest
import torch
from support import error, prompt, random_qwen, seeing_config, tokens

import minqwen
from minqwen.cache import AttentionCache
from minqwen.chat import _joined
from minqwen.drafts import Drafter
from minqwen.generate import generate
from minqwen.nano.pictures import Scene

PROMPTS = [tokens(1, length, seed=length)[0].tolist() for length in (5, 37, 70, 1)]
module = import_module("minqwen.generate")


@pytest.fixture(scope="module")
def qwen():
    """Its head is not its embedding: a random tied model answers every token with itself, for ever."""
    return random_qwen(seeing_config(tie_word_embeddings=False))


@pytest.fixture(scope="module")
def nano():
    return minqwen.load(dtype="float32")


class Foresees(Drafter):
    """Drafts what it was told the rows would write, and now and then something else. It hears as the real one does."""

    rows, right = None, 0.7

    def follow(self, given):
        super().follow(given)
        self.said = [n + len(ids) for n, ids in zip(getattr(self, "said", [0] * len(given)), given)]

    def draft(self, n, choose):
        super().draft(n, choose)
        self.random = getattr(self, "random", random.Random(0))
        return torch.tensor([[id if self.random.random() < self.right else (id + 1) % 290 for id in
                              (row[said : said + n] + [7] * n)[:n]] for row, said in zip(self.rows, self.said)])


@pytest.fixture
def foresee(monkeypatch):
    """foresee(rows, right): from now on the drafts are these rows', each token of them with this probability."""

    def told(rows, right=0.7):
        monkeypatch.setattr(module, "Drafter", type("Told", (Foresees,), {"rows": rows, "right": right}))

    return told


# -------------------------------------------------------------------------------------- what is read on trial goes back


def equal_caches(cache, other, layers=None):
    """The same real tokens in each row, wherever they lie; and the same memories."""
    assert torch.equal(cache.positions, other.positions)
    for a, b in zip(cache.layers, other.layers, strict=True):
        if isinstance(a, AttentionCache):
            assert a.length == cache.length
            for row in range(cache.batch_size):
                here, there = (c.valid[row, : c.length] for c in (cache, other))
                assert error(a.keys[row][:, : a.length][:, here], b.keys[row][:, : b.length][:, there]) < 2e-5
                assert error(a.values[row][:, : a.length][:, here], b.values[row][:, : b.length][:, there]) < 2e-5
        else:
            assert error(a.recurrent_state, b.recurrent_state) < 2e-5
            assert error(a.conv_state, b.conv_state) < 2e-5


@pytest.mark.parametrize("kept", [[[4, 1, 0], [1, 4, 2]], [[2, 2, 2], [0, 0, 0]], [[4, 4, 4], [3, 0, 4]]], ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_what_is_given_back_was_never_read(qwen, kept, padded):
    x, passes, end = tokens(3, 20), (tokens(3, 4, seed=5), tokens(3, 4, seed=6)), tokens(3, 3, seed=7)
    mask = torch.ones(3, 20).long()
    if padded:
        mask[0, :7], mask[2, :11] = 0, 0
    cache = qwen.new_cache(3, 60)
    qwen(x, mask, cache=cache)
    for ids, counts in zip(passes, kept):
        with cache.trial() as trial:
            qwen(ids, cache=cache)
            trial.keep(counts)
    # as pads on the right the same tokens are not read at all
    other, read = qwen.new_cache(3, 60), torch.arange(4) < torch.tensor(kept)[..., None]
    qwen(torch.cat((x, *passes), dim=1), torch.cat((mask, *read.long()), dim=1), cache=other)
    equal_caches(cache, other)
    assert error(qwen(end, cache=cache), qwen(end, cache=other)) < 2e-5


@pytest.mark.parametrize("T", [1, 4])
def test_less_and_less_is_kept(qwen, T):
    """Also of a single token, which a layer's memory reads in place."""
    x, ids, end = tokens(2, 20), tokens(2, T, seed=5), tokens(2, 3, seed=7)
    cache = qwen.new_cache(2, 40)
    qwen(x, cache=cache)
    with cache.trial() as trial:
        qwen(ids, cache=cache)
        for counts in ([T, T], [T, 1], [T - 1, 1], [T - 1, 0]):
            trial.keep(counts)
    right = [qwen(torch.cat((x[r], ids[r, :n], end[r]))[None])[0, -3:] for r, n in enumerate((T - 1, 0))]
    assert error(qwen(end, cache=cache), torch.stack(right)) < 2e-5


def test_a_trial_that_is_over_notes_nothing(qwen):
    cache = qwen.new_cache(1, 40)
    with cache.trial():
        qwen(tokens(1, 4), cache=cache)
        assert any(layer.noted for layer in cache.layers if hasattr(layer, "noted"))
    qwen(tokens(1, 4), cache=cache)
    assert not any(getattr(layer, "noted", None) for layer in cache.layers)


def test_a_snapshot_knows_the_gaps(qwen):
    """Rows that are apart leave gaps, which others fill later: going back finds them empty again."""
    x, ids, end = tokens(2, 20), tokens(2, 4, seed=5), tokens(2, 3, seed=7)
    cache = qwen.new_cache(2, 60)
    qwen(x, cache=cache)
    with cache.trial() as trial:
        qwen(ids, cache=cache)
        trial.keep([4, 1])
    here = cache.snapshot()
    right = qwen(end, cache=cache)
    cache.restore(here)
    with cache.trial() as trial:
        qwen(ids, cache=cache)
        trial.keep([1, 4])
    cache.restore(here)
    assert torch.equal(qwen(end, cache=cache), right)


# ---------------------------------------------------------------------------------------------- the same tokens, sooner


STOPS = {"stop_ids": {11, 23, 150, 77, 201, 260, 99}}
OPTIONS = [
    {}, STOPS, {"presence_penalty": 3.0}, {"repetition_penalty": 1.6}, {"prefill_chunk": 16}, {"max_new_tokens": 1},
    {"max_new_tokens": 2}, {"presence_penalty": 2.0, "repetition_penalty": 1.3, **STOPS},
    {"thinking_budget": 5, "think_ids": (286, 287), "end_think_ids": [280, 287, 281]},
    {"thinking_budget": 2, "think_ids": (286, 287), "presence_penalty": 4.0, **STOPS},
    {"max_new_tokens": 0}, {"temperature": 1.0, "top_k": 1},
]


@pytest.mark.parametrize("k, options", list(zip((3, 1, 6) * 4, OPTIONS)), ids=str)
def test_greedy_tokens_are_those_of_plain_decoding(qwen, foresee, options, k):
    """In a batch whose rows agree with different numbers of drafts, and alone."""
    options = {"max_new_tokens": 24, **options}
    prompts = [PROMPTS[0] + [286], *PROMPTS[1:]]
    plain = generate(qwen, prompts, **options)
    foresee(plain)
    passes = []
    assert generate(qwen, prompts, draft_tokens=k, passes=passes, **options) == plain
    if options["max_new_tokens"] == 24:
        assert len({one.taken for one in passes if one.drafted}) > min(k, 2)
    for ids, row in zip(prompts, plain):
        foresee([row])
        assert generate(qwen, [ids], draft_tokens=k, **options) == [row]


@pytest.mark.parametrize("config", [
    {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
    {"mtp_num_hidden_layers": 2}, {"tie_word_embeddings": True},
], ids=str)
def test_of_other_models_too(foresee, config):
    other = random_qwen(seeing_config(**{"tie_word_embeddings": False, **config}))
    plain = generate(other, PROMPTS, max_new_tokens=16)
    assert generate(other, PROMPTS, max_new_tokens=16, draft_tokens=3) == plain
    foresee(plain)
    assert generate(other, PROMPTS, max_new_tokens=16, draft_tokens=3) == plain


@pytest.mark.parametrize("chunk", [None, 7])
def test_pictures(qwen, foresee, chunk):
    inputs = prompt([3, (4, 6), 5], [9, (2, 8), (4, 4), 2], [40], [2, (2, 2, 4), 4], side="left")
    plain = generate(qwen, **inputs, max_new_tokens=16)
    foresee(plain)
    assert generate(qwen, **inputs, max_new_tokens=16, prefill_chunk=chunk, draft_tokens=3) == plain


def test_a_cache_goes_on_across_turns(qwen, foresee):
    """Also in rows that stopped early, and with plain decoding between."""
    options, cache = {"max_new_tokens": 16, **STOPS}, qwen.new_cache(4, 300)
    before = [[] for _ in PROMPTS]
    for turn, k in enumerate((3, 2, 0, 4)):
        new = [ids[-1:] + tokens(1, 4 + i, seed=10 * turn + i)[0].tolist() for i, ids in enumerate(before)]
        texts = [ids[:-1] + more for ids, more in zip(before, new)]
        plain = generate(qwen, texts, **options)
        foresee(plain)
        assert generate(qwen, new, cache=cache, draft_tokens=k, **options) == plain
        before = [ids + row for ids, row in zip(texts, plain)]
    assert cache.valid[:, : cache.length].sum(-1).tolist() == [len(ids) - 1 for ids in before]


def test_a_drafter_that_is_always_right(qwen, foresee):
    """k + 1 tokens of each pass, and one that never is costs nothing but time."""
    plain = generate(qwen, PROMPTS, max_new_tokens=21)
    sizes = []
    watch = qwen.register_forward_hook(lambda model, args, logits: sizes.append(tuple(args[0].shape)))
    for k, right, tokens_per_pass in ((3, 1.0, 4), (4, 1.0, 5), (3, 0.0, 1)):
        foresee(plain, right)
        assert generate(qwen, PROMPTS, max_new_tokens=21, draft_tokens=k) == plain
        assert len(sizes) == 1 + ceil(20 / tokens_per_pass) and sizes[1] == (4, k + 1)
        sizes.clear()
    watch.remove()


def test_the_context_ends_within_a_draft(foresee):
    small = random_qwen(seeing_config(max_position_embeddings=40, tie_word_embeddings=False))
    plain = generate(small, PROMPTS[:2], max_new_tokens=100)
    assert [len(row) for row in plain] == [35, 3]
    foresee(plain, 0.9)
    assert generate(small, PROMPTS[:2], max_new_tokens=100, draft_tokens=5) == plain
    foresee(plain[1:], 1.0)
    cache = small.new_cache(1, 39)                        # of a single row not one slot more is needed
    assert generate(small, PROMPTS[1:2], max_new_tokens=100, draft_tokens=5, cache=cache) == plain[1:]


def questions(rng, count):
    """About a little world, and beyond it."""
    names, things = ("Ann", "Bob", "Cid", "Dora", "Eve"), ("cup", "hat", "key", "ball", "book", "lamp")
    colours = ("red", "blue", "green", "gold", "black")
    for _ in range(count):
        facts = " ".join(f"{rng.choice(names)} has a {rng.choice(colours)} {rng.choice(things)}."
                         for _ in range(rng.randint(1, 5)))
        text = rng.choice((f"{facts} What does {rng.choice(names)} have?",
                           f"What is {rng.randint(0, 999)} + {rng.randint(0, 999)}?",
                           f"What is {rng.randint(0, 10**6)} + {rng.randint(0, 10**6)}?",
                           rng.choice(("Hello!", "Who are you?", "Why is the sky blue?", "Tell me about hats."))))
        yield rng.choice((text, text.lower()))


def add(a: int, b: int) -> int:
    """The sum of two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


@pytest.mark.parametrize("k, ask, options", [
    (1, {"thinking": False}, {}), (2, {"thinking": True}, {}), (3, {"tools": [add]}, {}), (3, {"pictures": True}, {}),
    (4, {"thinking": True}, {"thinking_budget": 6}),
    (3, {"thinking": False}, {"presence_penalty": 1.5, "repetition_penalty": 1.2}),
], ids=str)
def test_300_prompts(nano, k, ask, options):
    """50 each, by 25 in a batch: with nano's own head, plainly and drafted, the same tokens."""
    rng, ask, taken = random.Random(str(ask)), dict(ask), 0
    options = nano._options({"max_new_tokens": 20, **options})
    pictured = ask.pop("pictures", False)
    for _ in range(2):
        contents = list(questions(rng, 25))
        if pictured:
            contents = [[{"type": "image", "image": Scene.sample(rng).draw()}, {"type": "text", "text": text}]
                        for text in contents]
        inputs = [nano.inputs([{"role": "user", "content": content}], **ask) for content in contents]
        ids, media, passes = [one.ids for one in inputs], _joined([one.media for one in inputs]), []
        assert bool(media) == pictured
        plain = generate(nano.model, ids, **media, **options)
        assert generate(nano.model, ids, **media, **options | {"draft_tokens": k}, passes=passes) == plain
        taken += sum(one.taken for one in passes)
    assert taken > 40                                     # the head is right now and then, or this would show nothing
