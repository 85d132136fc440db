"""Speculative decoding: what is written must not depend on who drafts, only how soon it is there."""

import os
import random
import signal
from importlib import import_module
from itertools import product
from math import ceil

import pytest
import torch
from support import error, one_by_one, prompt, random_qwen, seeing_config, small_config, tokens

import minqwen
from minqwen import graph
from minqwen.cache import AttentionCache
from minqwen.chat import _joined
from minqwen.drafts import Drafter, accept
from minqwen.errors import QwenError
from minqwen.generate import generate, stream
from minqwen.model import Step
from minqwen.nano.pictures import Scene
from minqwen.sampling import warp

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
@torch.no_grad()
def test_less_and_less_is_kept(qwen, T):
    """Also of a single token, which a layer's memory reads in place."""
    x, ids, end = tokens(2, 20), tokens(2, T, seed=5), tokens(2, 3, seed=7)
    cache = qwen.new_cache(2, 40)
    qwen(x, cache=cache)
    with cache.trial() as trial:
        qwen(ids, cache=cache)
        for counts in ([T, T], [T, 1], [T - 1, 1], [T - 1, 0]):
            trial.keep(counts)
            assert cache.padded == (len(set(counts)) > 1)    # without gaps attention needs no mask
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
], ids=["text", "thinking", "tools", "pictures", "budget", "penalties"])
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


def test_no_more_is_drafted_than_the_rows_that_go_on_may_have(qwen):
    first, passes = generate(qwen, PROMPTS[:2], max_new_tokens=1)[1], []
    told = generate(qwen, PROMPTS[:2], max_new_tokens=9, stop_ids=first, draft_tokens=4, passes=passes)
    left = 9
    for one in (one for one in passes if one.row == 0):
        assert len(one.drafted) <= left - 1 and (one is passes[0] or len(one.drafted) == min(4, left - 1))
        left -= len(one.given)
    assert (len(told[0]), len(told[1])) == (9, 1)


def test_a_lent_cache_knows_no_drafts_of_before(qwen, foresee, monkeypatch):
    """On a GPU a cache is lent again: the head begins anew in it, and plain decoding after drafts is as ever."""
    prompts = PROMPTS[:2]
    plain = generate(qwen, prompts, max_new_tokens=12)
    for each in (graph, module):
        monkeypatch.setattr(each, "on_gpu", lambda model: True)
    for k in (3, 0, 2):
        foresee(plain)
        assert generate(qwen, prompts, max_new_tokens=12, draft_tokens=k) == plain
    assert graph._IDLE[qwen][0].mtp.length <= 37 + 12


# ------------------------------------------------------------------------------------------------------ what is drafted


def by_hand(qwen, inputs, given, n):
    """n drafts behind a prompt and what was given, without any cache: the head's own states stand for the model's."""
    ids = inputs["input_ids"]
    media = {name: x for name, x in inputs.items() if name not in ("input_ids", "attention_mask")}
    positions = qwen.positions(ids, None, media.get("image_grid_thw"), media.get("video_grid_thw"))
    positions = torch.cat((positions, positions[..., -1:] + torch.arange(1, len(given) + 1)), dim=-1)
    x, given = qwen.embed(ids, **media), torch.tensor([given])
    x, ids = torch.cat((x, qwen.embed(given)), dim=1), torch.cat((ids, given), dim=1)
    hidden, drafts = qwen.hidden_states(ids, None, positions, inputs_embeds=x)[:, :-1], []
    for _ in range(n):
        step = Step.at(positions[..., :-1], qwen.config.text_config, x.dtype)
        state = qwen.mtp(hidden, x[:, 1:], step)[:, -1:]
        drafts.append(qwen.head(state).argmax(-1))
        hidden = torch.cat((hidden, state), dim=1)
        x = torch.cat((x, qwen.embed(drafts[-1])), dim=1)
        positions = torch.cat((positions, positions[..., -1:] + 1), dim=-1)
    return torch.cat(drafts, dim=1)[0].tolist()


@pytest.mark.parametrize("rows", [
    [[30], [3], [12]], [[3, (4, 6), 5], [9, (2, 8), (4, 4), 2], [2, (2, 2, 4), 4]],
], ids=str)
@pytest.mark.parametrize("chunk", [None, 7])
def test_drafts_are_those_of_a_head_that_has_heard_all_before(qwen, foresee, rows, chunk):
    """Of prompts read in pieces, of pictures, and of rows that agree with different numbers of drafts."""
    inputs, seen = prompt(*rows, side="left"), []
    plain = generate(qwen, **inputs, max_new_tokens=9)
    foresee(plain)
    told = module.Drafter

    class Watched(told):
        def draft(self, n, choose):
            seen.append((list(self.said), Drafter.draft(self, n, choose).tolist()))
            return super().draft(n, choose)

    module.Drafter = Watched
    assert generate(qwen, **inputs, max_new_tokens=9, prefill_chunk=chunk, draft_tokens=3) == plain
    apart = set()
    for said, drafts in seen:
        apart.add(len(set(said)))
        for row, alone in one_by_one(inputs):
            if said[row] < 9:
                assert drafts[row] == by_hand(qwen, alone, plain[row][: said[row]], len(drafts[row]))
    assert max(apart) > 1


def test_drafts_are_chosen_as_the_models_own_tokens(qwen):
    """With penalties a draft never repeats what the model would not: not in one pass, nor what was said before."""
    passes = []
    rows = generate(qwen, PROMPTS, max_new_tokens=30, presence_penalty=1e4, draft_tokens=4, passes=passes)
    for row, ids in enumerate(rows):
        mine = [one for one in passes if one.row == row]
        for n, one in enumerate(mine):
            before = [id for other in mine[:n] for id in other.given]
            assert len({*before, *one.drafted}) == len(before) + len(one.drafted)
        assert len(set(ids)) == 30


def test_a_conversation_reads_along(nano):
    """Its cache goes back to the end of the question, and the head's with it."""
    plain, drafted = (nano.conversation(draft_tokens=k, max_new_tokens=20) for k in (0, 3))
    for text in ("Ann has a red cup. What does Ann have?", "Bob has a hat. What does Ann have?", "What is 3 + 4?"):
        assert plain(text) == drafted(text)
        read = drafted._read[-1]
        cache, snapshot = read.snapshot.mtp
        assert cache is read.cache.mtp and snapshot.length >= len(read.ids) - len(drafted._read) - 3
    assert nano.chat("What is 3 + 4?", draft_tokens=2) == nano.chat("What is 3 + 4?")
    both = nano.chat_batch(["What is 3 + 4?", "Hello!"], draft_tokens=2)
    assert both == nano.chat_batch(["What is 3 + 4?", "Hello!"])


# -------------------------------------------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("p, q", [((0.7, 0.3), (0.2, 0.8)), ((0.25, 0.75), (0.5, 0.5)), ((1.0, 0.0), (0.5, 0.5)),
                                  ((0.5, 0.5), (0.5, 0.5)), ((0.0, 1.0), (1.0, 0.0))])
def test_two_tokens_come_exactly_as_often_as_the_model_says(p, q):
    """Every draft by its probability, and for each of them every coin there is."""
    p, q, n = torch.tensor(p, dtype=torch.double), torch.tensor(q, dtype=torch.double), 4000
    coins, out = (torch.arange(n, dtype=torch.double) + 0.5) / n, torch.zeros(2, dtype=torch.double)
    for draft in range(2):
        ids = accept(p.expand(n, 2), q.expand(n, 2), torch.full((n,), draft), coins)
        out += q[draft] * ids.bincount(minlength=2) / n
    torch.testing.assert_close(out, p, atol=1e-12, rtol=0)


def test_as_many_drafts_are_taken_as_can_be():
    """The share of what both have in common, sum min(p, q); and where one draws like the other, all."""
    p, q = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0)).softmax(-1).expand(2, 40_000, 8)
    random = torch.Generator().manual_seed(0)
    drafted, coins = q.multinomial(1, generator=random)[:, 0], torch.rand(40_000, generator=random)
    ids = accept(p, q, drafted, coins, random)
    assert abs((ids == drafted).float().mean() - torch.minimum(p, q)[0].sum()) < 0.01
    torch.testing.assert_close(ids.bincount(minlength=8) / 40_000, p[0], atol=0.01, rtol=0)
    assert torch.equal(accept(q, q, drafted, coins, random), drafted)
    rounded, half = torch.tensor([0.5, 0.4999998]).expand(100, 2), torch.full((100, 2), 0.5)  # refused by rounding
    assert {0, 1} == {*accept(rounded, half, torch.ones(100).long(), torch.full((100,), 0.9999999), random).tolist()}


def exact(qwen, prompt, length, presence_penalty=0.0, **sampling):
    """The probability of every continuation, (V,) * length: as a model is defined, with nothing cached or drafted."""
    V = qwen.config.text_config.vocab_size
    p = torch.ones(1)
    for n in range(length):
        before = torch.tensor(list(product(range(V), repeat=n)), dtype=torch.long).view(V**n, n)
        logits = qwen(torch.cat((torch.tensor([prompt]).expand(V**n, -1), before), dim=1))[:, -1]
        said = torch.zeros(V**n, V, dtype=torch.bool).scatter(1, before, True)
        p = (p[:, None] * warp(logits - presence_penalty * said, **sampling).softmax(-1)).flatten()
    return p


@pytest.mark.parametrize("options", [
    {"temperature": 1.0}, {"temperature": 1.0, "top_k": 3}, {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.3}, {"temperature": 0.7, "top_k": 3, "top_p": 0.9, "presence_penalty": 1.0},
], ids=str)
def test_drawn_tokens_are_distributed_as_without_drafts(options):
    """Four tokens of 2,500 rows against the probability of each of the 256 texts: by chi squared, drafted and plain."""
    small, rows = random_qwen(small_config(vocab_size=4, mtp_num_hidden_layers=1, tie_word_embeddings=False)), 2500
    small.lm_head.weight.mul_(0.5)
    expected, options = exact(small, [1, 2, 3], 4, **options) * rows, {"max_new_tokens": 4, "seed": 5, **options}
    for k in (0, 2):
        ids = torch.tensor(generate(small, [[1, 2, 3]] * rows, draft_tokens=k, **options))
        counts = (ids * torch.tensor([64, 16, 4, 1])).sum(-1).bincount(minlength=256)
        assert not counts[expected == 0].any()
        often = expected >= 5
        cells = torch.cat((expected[often], expected[~often].sum()[None])).clamp(min=1e-9)
        found = torch.cat((counts[often], counts[~often].sum()[None]))
        chi2, free = ((found - cells) ** 2 / cells)[cells > 1].sum(), often.sum()
        assert chi2 < free + 4 * (2 * free) ** 0.5
    passes = []
    generate(small, [[1, 2, 3]] * 100, draft_tokens=2, passes=passes, **options)
    assert {0, 1, 2} == {one.taken for one in passes if len(one.drafted) == 2}


def test_a_seed_repeats_the_tokens(qwen):
    def draw(seed):
        return generate(qwen, PROMPTS, max_new_tokens=12, temperature=1.0, draft_tokens=3, seed=seed)

    before = torch.get_rng_state()
    assert draw(7) == draw(7) != draw(8)
    assert torch.equal(before, torch.get_rng_state())


# ----------------------------------------------------------------------------------------------------------- the record


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"temperature": 1.0, "top_k": 3, "seed": 4}], ids=str)
def test_passes_tell_what_was_drafted_and_why_it_was_taken(nano, options):
    """Where the likeliest is taken nothing is drawn: top_k changes no odds."""
    draws = "temperature" in options
    ids = [nano.inputs(text).ids for text in ("What is 12 + 30?", "Ann has a cup. Bob has a hat. What does Ann have?")]
    stops, passes = nano.tokenizer.stop_ids, []
    rows = generate(nano.model, ids, draft_tokens=3, passes=passes, max_new_tokens=30, stop_ids=stops, **options)
    for row, (prompt_ids, new) in enumerate(zip(ids, rows)):
        mine = [one for one in passes if one.row == row]
        assert sum((one.given for one in mine), []) == new
        assert (mine[0].drafted, mine[0].taken, len(mine[0].given)) == ([], 0, 1)
        logits = nano.model(torch.tensor([prompt_ids + new]))[0, len(prompt_ids) - 1 : -1]
        p = (warp(logits, 1.0, 3) if draws else logits).softmax(-1)
        said = [x for one in mine for x in one.p_given]
        torch.testing.assert_close(torch.tensor(said), p[range(len(new)), new], atol=1e-4, rtol=0)
        for one in mine[1:]:
            assert one.given[: one.taken] == one.drafted[: one.taken] and len(one.q) == len(one.drafted) <= 3
            ended = one is mine[-1] and len(one.given) == one.taken
            assert len(one.given) == one.taken + (not ended)
            assert len(one.p) == min(len(one.given), len(one.drafted)) and len(one.coins) == len(one.p) * draws
            if draws:
                decided = [coin * q < p for coin, q, p in zip(one.coins, one.q, one.p)]
                assert decided == [i < one.taken for i in range(len(one.p))]
    assert len({one.taken for one in passes}) > 2


# ---------------------------------------------------------------------------------------------- broken off, and refused


def test_who_goes_away_midway_leaves_a_cache_that_has_read_what_he_got(qwen, foresee):
    plain = generate(qwen, PROMPTS[1:2], max_new_tokens=16)
    for steps in (1, 2, 3, 6, 9):
        foresee(plain, 0.8)
        cache, given = qwen.new_cache(1, 100), []
        running = stream(qwen, PROMPTS[1:2], max_new_tokens=16, draft_tokens=4, cache=cache)
        for _, (id,) in zip(range(steps), running):
            given.append(id)
        running.close()
        assert cache.length == 37 + steps - 1
        assert given + generate(qwen, [given[-1:]], max_new_tokens=16 - steps, cache=cache)[0] == plain[0]


def test_ctrl_c_leaves_the_cache_usable(qwen, foresee):
    plain, cache = generate(qwen, PROMPTS[1:2], max_new_tokens=16), qwen.new_cache(1, 100)
    given, passes = [], iter(range(99))
    foresee(plain, 0.8)

    def interrupt(*_):
        if next(passes) == 3:                            # some layers have read its tokens, and others have not
            os.kill(os.getpid(), signal.SIGINT)

    hook = qwen.model.language_model.layers[1].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        for (id,) in stream(qwen, PROMPTS[1:2], max_new_tokens=16, draft_tokens=4, cache=cache):
            given.append(id)
    hook.remove()
    assert cache.length == 37 + len(given) - 1 and 2 < len(given) < 16
    assert given + generate(qwen, [given[-1:]], max_new_tokens=16 - len(given), cache=cache)[0] == plain[0]


def test_a_head_that_is_broken_is_told(qwen):
    other = random_qwen(seeing_config(tie_word_embeddings=False))
    other.mtp.norm.weight.fill_(torch.nan)
    assert generate(other, PROMPTS, max_new_tokens=3)
    with pytest.raises(QwenError, match="not a number any more"):
        generate(other, PROMPTS, max_new_tokens=3, draft_tokens=2)


def test_what_cannot_be_drafted_is_refused_in_one_sentence(qwen):
    without, cache = random_qwen(small_config()), qwen.new_cache(4, 70 + 8)
    assert len(generate(qwen, PROMPTS, max_new_tokens=9, cache=cache)[0]) == 9
    for says, model, options in (
        ("no head for multi-token prediction .*leave draft_tokens out", without, {"draft_tokens": 3}),
        ("draft_tokens must be 1 or more, or 0 for none, not -1", qwen, {"draft_tokens": -1}),
        ("draft_tokens must be a whole number, not 1.5", qwen, {"draft_tokens": 1.5}),
        ("give draft_tokens, too, or leave passes out", qwen, {"passes": []}),
        ("70 of the prompt and 13 new ones do not fit", qwen,
         {"draft_tokens": 3, "max_new_tokens": 9, "cache": qwen.new_cache(4, 70 + 11)}),
    ):
        with pytest.raises(QwenError, match=f"^[^\n]*{says}[^\n]*[.]$"):
            stream(model, PROMPTS, **options)
    with minqwen.trace(qwen), pytest.raises(QwenError, match="put another in its place: leave draft_tokens out"):
        stream(qwen, PROMPTS, draft_tokens=3)
    with minqwen.edited(qwen, minqwen.Edit("beta", token=2)), pytest.raises(QwenError, match="put another in"):
        stream(qwen, PROMPTS, draft_tokens=3)
    plain = generate(qwen, PROMPTS, max_new_tokens=3)
    assert generate(qwen, PROMPTS, draft_tokens=3, max_new_tokens=3) == plain
    assert generate(qwen, PROMPTS, draft_tokens=10**9, max_new_tokens=3) == plain           # no room is made for all


def test_bfloat16_drafts(nano):
    """A pass of several tokens rounds as it likes: the texts need not be the same, but most are."""
    half, texts = minqwen.load(dtype="bfloat16"), list(questions(random.Random(1), 12))
    plain, drafted = (half.chat_batch(texts, thinking=False, max_new_tokens=20, draft_tokens=k) for k in (0, 3))
    assert sum(a == b for a, b in zip(plain, drafted)) >= 9
