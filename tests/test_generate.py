"""Generation, against `transformers` where it has the same, and against itself: a row alone, a prompt read anew."""

import inspect
import os
import signal
import subprocess
import sys
import threading
from unittest import mock

import pytest
import torch
from support import error, random_qwen, small_config, tokens

import minqwen
from minqwen.errors import QwenError
from minqwen.generate import (
    ThinkingBudget,
    decode_one_token,
    generate,
    interrupts_held_back,
    left_pad,
    penalize,
    prefill,
    sample,
    stream,
    warp,
)

PROMPTS = [tokens(1, length, seed=length)[0].tolist() for length in (5, 37, 70, 1)]


@pytest.fixture(scope="module")
def qwen():
    """Its head is not its embedding: a random tied model answers every token with itself, for ever."""
    return random_qwen(small_config(tie_word_embeddings=False))


@pytest.fixture(scope="module")
def twin(qwen):
    pytest.importorskip("transformers", minversion="5.23")
    from minqwen.verify import official_twin

    return official_twin(qwen)


def official(twin, input_ids, attention_mask, **options):
    """`transformers`' new tokens, greedy, each row cut behind its stop id."""
    stops = options.get("eos_token_id", [])
    out = twin.generate(input_ids=input_ids, attention_mask=attention_mask, do_sample=False, pad_token_id=0,
                        use_cache=True, **options)
    rows = out[:, input_ids.shape[1]:].tolist()
    ends = [next((i + 1 for i, id in enumerate(row) if id in stops), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


# ------------------------------------------------------------------------------------------ against transformers


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_batch_is_that_of_transformers(qwen, twin, penalty):
    input_ids, mask = left_pad(PROMPTS)
    theirs = [official(twin, torch.tensor([p]), torch.ones(1, len(p)), max_new_tokens=24, repetition_penalty=penalty)[0]
              for p in PROMPTS]
    assert generate(qwen, input_ids, mask, max_new_tokens=24, repetition_penalty=penalty) == theirs
    if penalty == 1:                      # as a batch too; with a penalty transformers counts the pads as seen
        assert official(twin, input_ids, mask, max_new_tokens=24) == theirs


def test_stop_ids_are_those_of_transformers(qwen, twin):
    input_ids, mask = left_pad(PROMPTS)
    free = generate(qwen, PROMPTS, max_new_tokens=20)
    stops = [free[0][3], free[1][9]]
    ours = generate(qwen, PROMPTS, max_new_tokens=20, stop_ids=stops)
    assert ours == official(twin, input_ids, mask, max_new_tokens=20, eos_token_id=stops)
    assert len(ours[0]) <= 4 and len(ours[1]) <= 10


@pytest.mark.parametrize("options", [
    {"temperature": 0.6}, {"temperature": 1.7}, {"top_k": 1}, {"top_k": 20}, {"top_k": 1000}, {"top_p": 0.9},
    {"top_p": 1e-6}, {"min_p": 0.05}, {"min_p": 1.0}, {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.02},
    {"temperature": 1.4, "top_k": 7, "top_p": 0.5},
], ids=str)
def test_warped_logits_are_those_of_transformers(options):
    warpers = pytest.importorskip("transformers.generation.logits_process")
    kinds = {"temperature": "TemperatureLogitsWarper", "top_k": "TopKLogitsWarper", "top_p": "TopPLogitsWarper",
             "min_p": "MinPLogitsWarper"}                                           # in the order of `generate`
    logits = torch.randn(16, 300, generator=torch.Generator().manual_seed(0)) * 3
    theirs = logits
    for name, kind in kinds.items():
        if name in options:
            theirs = getattr(warpers, kind)(options[name])(None, theirs)
    torch.testing.assert_close(warp(logits, **options), theirs)


def test_repetition_penalty_is_that_of_transformers():
    processors = pytest.importorskip("transformers.generation.logits_process")
    logits, ids = torch.randn(4, 300) * 3, tokens(4, 50)
    seen = torch.zeros(4, 300, dtype=torch.bool).scatter(1, ids, True)
    prompt, output = seen.clone(), seen.clone()
    prompt[:, ::2], output[:, 1::2] = False, False                                  # one or the other counts
    theirs = processors.RepetitionPenaltyLogitsProcessor(1.7)(ids, logits)
    torch.testing.assert_close(penalize(logits, prompt, output, repetition_penalty=1.7), theirs)


def test_presence_penalty_is_subtracted_once_from_what_is_in_the_output():
    logits, prompt, output = torch.zeros(1, 4), torch.tensor([[1, 1, 0, 0]]).bool(), torch.tensor([[0, 1, 1, 0]]).bool()
    assert penalize(logits, prompt, output, presence_penalty=0.5).tolist() == [[0, -0.5, -0.5, 0]]


def test_presence_penalty_forbids_repeats_when_large(qwen):
    rows = generate(qwen, PROMPTS, max_new_tokens=100, presence_penalty=1e4)
    assert all(len(set(row)) == 100 for row in rows)
    assert all(len(set(row)) < 100 for row in generate(qwen, PROMPTS, max_new_tokens=100))


def test_penalties_do_not_count_pads(qwen):
    options = {"max_new_tokens": 20, "repetition_penalty": 5.0}
    for pad_id in generate(qwen, PROMPTS[:1], **options)[0][:3]:                    # a pad that the row wants to say
        input_ids, mask = left_pad(PROMPTS, pad_id)
        assert generate(qwen, input_ids, mask, **options)[0] == generate(qwen, PROMPTS[:1], **options)[0]


# --------------------------------------------------------------------------------------------- how likely tokens were


@pytest.mark.parametrize("options", [
    {"temperature": 1.0}, {"temperature": 0.5, "top_k": 5}, {"repetition_penalty": 1.5}, {"cache": True},
], ids=str)
def test_recorded_logarithms_are_those_of_a_fresh_pass(qwen, options):
    """The model's own, whatever is done to its logits before a token is drawn; rows stop, and are padded."""
    stops, logprobs = list(range(0, 300, 7)), []
    if "cache" in options:
        options = {"cache": qwen.new_cache(len(PROMPTS), 200), "temperature": 1.0}
    rows = generate(qwen, PROMPTS, max_new_tokens=20, seed=3, stop_ids=stops, logprobs=logprobs, **options)
    assert len(logprobs) == max(map(len, rows)) > min(map(len, rows))
    for prompt, row, ours in zip(PROMPTS, rows, torch.stack(logprobs, dim=1), strict=True):
        likely = qwen(torch.tensor([prompt + row]))[0].log_softmax(-1)
        theirs = likely[len(prompt) - 1 : -1].gather(-1, torch.tensor(row)[:, None])[:, 0]
        torch.testing.assert_close(ours[: len(row)], theirs, rtol=1e-4, atol=1e-4)


def test_with_drafts_nothing_is_recorded():
    with pytest.raises(QwenError, match="without drafts only"):
        generate(random_qwen(small_config(mtp_num_hidden_layers=1)), [[1]], draft_tokens=2, logprobs=[])


# ------------------------------------------------------------------------------------------------------- sampling


def test_samples_follow_the_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(20_000, 4)
    ids = sample(logits, temperature=0.8, top_k=3, generator=torch.Generator().manual_seed(0))
    frequency = ids.bincount(minlength=4) / len(ids)
    torch.testing.assert_close(frequency, warp(logits[:1], 0.8, top_k=3).softmax(-1)[0], atol=0.015, rtol=0)


def test_a_seed_repeats_the_tokens_and_leaves_torch_alone(qwen):
    def draw(seed):
        return generate(qwen, PROMPTS, max_new_tokens=12, temperature=1.0, seed=seed)

    before = torch.get_rng_state()
    first, again, other, free, free_again = draw(7), draw(7), draw(8), draw(None), draw(None)
    assert first == again != other and free != free_again
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert draw(7) == first


# -------------------------------------------------------------------------------------------------------- batches


def test_trap_6_every_row_has_its_own_stop(qwen):
    free = generate(qwen, PROMPTS, max_new_tokens=24)
    stops = {free[0][2], free[2][11]}
    rows = generate(qwen, PROMPTS, max_new_tokens=24, stop_ids=stops)
    assert rows == [generate(qwen, [prompt], max_new_tokens=24, stop_ids=stops)[0] for prompt in PROMPTS]
    for row, whole in zip(rows, free, strict=True):
        assert row == whole[: len(row)] and not stops & set(row[:-1])
        assert len(row) == 24 or row[-1] in stops
    assert len(rows[0]) <= 3 and len({*map(len, rows)}) > 1


def test_trap_6_a_stopped_row_stays_stopped(qwen):
    free = generate(qwen, PROMPTS, max_new_tokens=10)
    stop = next(id for id in free[0][:9] if id not in free[1])
    for step, given in enumerate(stream(qwen, PROMPTS, max_new_tokens=10, stop_ids={stop})):
        assert given[0] == (free[0][step] if step <= free[0].index(stop) else None)
        assert given[1] == free[1][step]
    assert step == 9


@pytest.mark.parametrize("chunk", [1, 16, 64, 1000])
def test_prefill_in_pieces(qwen, chunk):
    assert generate(qwen, PROMPTS, max_new_tokens=12, prefill_chunk=chunk) == generate(qwen, PROMPTS, max_new_tokens=12)
    x, whole, pieces = tokens(2, 70), qwen.new_cache(2, 70), qwen.new_cache(2, 70)
    assert error(prefill(qwen, x, pieces, prefill_chunk=chunk), prefill(qwen, x, whole)) < 2e-5


def test_prefill_asks_for_the_last_logits_only(qwen):
    shapes = []
    watch = qwen.register_forward_hook(lambda module, args, logits: shapes.append(tuple(logits.shape)))
    generate(qwen, PROMPTS, max_new_tokens=3)
    watch.remove()
    assert shapes == [(4, 1, 300)] * 3                    # the last token is given, but not read


def test_a_cache_goes_on_across_turns(qwen):
    """Also in rows that stopped early: what the others said meanwhile does not reach them."""
    free = generate(qwen, PROMPTS, max_new_tokens=16)
    cache = qwen.new_cache(4, 300)
    first = generate(qwen, PROMPTS, max_new_tokens=16, stop_ids={free[0][2], free[1][5]}, cache=cache)
    assert len(first[0]) <= 3 and max(map(len, first)) > 3
    turns = [row[-1:] + tokens(1, 4, seed=i)[0].tolist() for i, row in enumerate(first)]
    second = generate(qwen, turns, max_new_tokens=16, cache=cache)
    anew = [prompt + row[:-1] + turn for prompt, row, turn in zip(PROMPTS, first, turns, strict=True)]
    assert second == generate(qwen, anew, max_new_tokens=16)


# --------------------------------------------------------------------------------------------------- limits, errors


def test_generation_ends_where_the_context_ends():
    small = random_qwen(small_config(max_position_embeddings=40))
    rows = generate(small, PROMPTS[:2], max_new_tokens=100)
    assert [len(row) for row in rows] == [35, 3]                            # 5 + 35 and 37 + 3: pads do not count
    assert rows[0] == generate(small, PROMPTS[:1], max_new_tokens=100)[0]
    assert generate(small, [list(range(40))], max_new_tokens=5) == [[]]
    with pytest.raises(QwenError, match="41 tokens, but the model's context holds 40"):
        generate(small, [list(range(41))])


def test_a_cache_that_goes_on_ends_where_the_context_ends():
    """Pads take room in the cache, and none in the context."""
    small = random_qwen(small_config(max_position_embeddings=40, tie_word_embeddings=False))
    cache = small.new_cache(2, 100)
    first = generate(small, PROMPTS[:2], max_new_tokens=2, cache=cache)                 # 5 and 37 tokens, 1 read
    turns = [[first[0][-1], 1, 2], [first[1][-1]]]
    rows = generate(small, turns, max_new_tokens=100, cache=cache)
    assert [len(row) for row in rows] == [40 - 5 - 1 - 3, 40 - 37 - 1 - 1]
    anew = [prompt + row[:1] + turn for prompt, row, turn in zip(PROMPTS, first, turns)]
    assert rows == generate(small, anew, max_new_tokens=100)
    with pytest.raises(QwenError, match="41 tokens, but the model's context holds 40"):
        generate(small, [[1], [1, 2]], cache=cache)


@pytest.mark.parametrize("problem, arguments", [
    ("pad on the left", {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}),
    ("pad on the left", {"input_ids": [[1, 2], []]}),
    ("at least one token", {"input_ids": []}),
    ("at least one token", {"input_ids": torch.ones(3).long()}),
    ("attention_mask must be", {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.ones(2, 2)}),
    ("own tokenizer", {"input_ids": [[1, 300]]}),
    ("own tokenizer", {"input_ids": [[1, -1]]}),
    ("max_new_tokens", {"max_new_tokens": -1}),
    ("temperature", {"temperature": -0.1}),
    ("temperature", {"temperature": float("nan")}),
    ("top_k", {"top_k": -1}),
    ("top_p", {"top_p": 0.0}),
    ("min_p", {"min_p": 1.1}),
    ("repetition_penalty", {"repetition_penalty": 0.0}),
    ("prefill_chunk", {"prefill_chunk": 0}),
    ("thinking_budget", {"thinking_budget": -1, "think_ids": (1, 2)}),
    ("think_ids", {"thinking_budget": 5}),
])
def test_bad_input_is_refused_before_the_first_step(qwen, problem, arguments):
    with pytest.raises(QwenError, match=problem):
        stream(qwen, **({"input_ids": [[1, 2, 3]]} | arguments))


@pytest.mark.parametrize("says, arguments", [
    ("temperature must be a number, not '0.5'", {"temperature": "0.5"}),
    ("temperature must be a number, not nan", {"temperature": float("nan")}),
    ("temperature must be 0 .* or 0.000001 or more, not 1e-40", {"temperature": 1e-40}),
    ("temperature must be a number, not None", {"temperature": None}),
    ("top_k must be a whole number, not 2.5", {"top_k": 2.5}),
    ("top_k must be a whole number, not True", {"top_k": True}),
    ("top_p must be a number, not \\[0.9\\]", {"top_p": [0.9]}),
    ("max_new_tokens must be a whole number, not '10'", {"max_new_tokens": "10"}),
    ("max_new_tokens must be a whole number, not inf", {"max_new_tokens": float("inf")}),
    ("seed must be a whole number, not 1.5", {"seed": 1.5}),
    ("seed must be from -2", {"seed": 2**64}),
    ("presence_penalty must be a number, not 'x'", {"presence_penalty": "x"}),
    ("prefill_chunk must be a whole number", {"prefill_chunk": "all"}),
    ("thinking_budget must be a whole number", {"thinking_budget": 2.5, "think_ids": (1, 2)}),
    ("needs think_ids", {"thinking_budget": 2, "think_ids": (1,)}),
    ("stop_ids must be a list of token ids", {"stop_ids": 5}),
    ("stop_ids must be a list of token ids", {"stop_ids": "<|im_end|>"}),
    ("each row of input_ids must be a list of token ids", {"input_ids": [1, 2, 3]}),
    ("each row of input_ids must be a list of token ids", {"input_ids": "hi"}),
    ("each row of input_ids must be a list of token ids", {"input_ids": 5}),
    ("whole numbers .int64., but these are torch.float32", {"input_ids": torch.ones(1, 3)}),
])
def test_what_is_no_number_is_refused_in_one_sentence(qwen, says, arguments):
    for function in (stream, generate):
        with pytest.raises(QwenError, match=f"^[^\n]*{says}[^\n]*[.]$"):
            function(qwen, **({"input_ids": [[1, 2, 3]]} | arguments))


def test_numbers_are_taken_where_they_are_unmistakable(qwen):
    plain = {"max_new_tokens": 4, "temperature": 1.0, "top_k": 20, "seed": 3}
    odd = {"max_new_tokens": 4.0, "temperature": 1, "top_k": 20.0, "seed": 3.0}
    (row,) = generate(qwen, PROMPTS[:1], **plain)
    assert generate(qwen, PROMPTS[:1], **odd) == [row]
    assert generate(qwen, torch.tensor(PROMPTS[:1], dtype=torch.int32), **odd, presence_penalty=1) == \
        generate(qwen, PROMPTS[:1], **plain, presence_penalty=1.0)
    assert generate(qwen, PROMPTS[:1], stop_ids=torch.tensor(row[1:2]), **plain) == [row[:2]]


@pytest.mark.parametrize("dtype, says", [(torch.float16, "load it with dtype='bfloat16' or 'float32'"),
                                         (torch.float32, "weights are damaged")])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_no_numbers_end_it_with_a_sentence(dtype, says, temperature):
    """A float16 that overflows gave the token 0 for ever."""
    small = random_qwen().to(dtype)
    small.model.language_model.norm.weight.fill_(6e4)
    small.model.language_model.embed_tokens.weight.mul_(100 if dtype == torch.float16 else torch.nan)
    with pytest.raises(QwenError, match=says):
        generate(small, PROMPTS[:1], max_new_tokens=3, temperature=temperature)


def test_a_cache_too_short_is_refused_before_the_first_step(qwen):
    cache = qwen.new_cache(1, 12)
    with pytest.raises(QwenError, match="0 of 12 tokens.*5 of the prompt.*9 new"):
        stream(qwen, PROMPTS[:1], max_new_tokens=9, cache=cache)
    assert len(generate(qwen, PROMPTS[:1], max_new_tokens=8, cache=cache)[0]) == 8


# -------------------------------------------------------------------------------------------------- thinking budget

OPEN, CLOSE, END = 286, 287, [280, 287, 281]


def through(prompt, said, budget=3):
    choose = ThinkingBudget(budget, (OPEN, CLOSE), END, prompt)
    return [choose(id) for id in said]


def test_thinking_budget_closes_an_open_block():
    assert through([1, OPEN], range(10, 20)) == [10, 11, 12, *END, 16, 17, 18, 19]
    assert through([1], [5, OPEN, *range(10, 18)]) == [5, OPEN, 10, 11, 12, *END, 16, 17]
    assert through([OPEN], range(10, 15), budget=0) == [*END, 13, 14]


def test_a_second_block_has_a_budget_of_its_own():
    assert through([1], [OPEN, 10, 11, CLOSE, 5, OPEN, 12, 13, 14, 15, 16, 17]) == [
        OPEN, 10, 11, CLOSE, 5, OPEN, 12, 13, 14, *END]


def test_thinking_budget_leaves_the_rest_alone():
    said = list(range(10, 20))
    assert through([1], said) == through([OPEN, CLOSE], said) == said
    assert through([OPEN], [10, 11, 12, CLOSE, 13, 14, 15]) == [10, 11, 12, CLOSE, 13, 14, 15]


def test_thinking_budget_in_a_batch(qwen):
    prompts = [PROMPTS[0] + [OPEN], PROMPTS[1]]
    options = {"thinking_budget": 4, "think_ids": (OPEN, CLOSE), "end_think_ids": END}
    rows, free = (generate(qwen, prompts, max_new_tokens=12, **more) for more in (options, {}))
    assert not {OPEN, CLOSE} & {*free[0], *free[1]}
    assert rows[0][:7] == free[0][:4] + END and rows[1] == free[1]
    assert rows[0][7:] == generate(qwen, [prompts[0] + rows[0][:7]], max_new_tokens=5)[0]  # the rest saw it


# --------------------------------------------------------------------------------------------- Ctrl-C and exceptions


def in_the_midst(qwen, what, at):
    """Do something inside of the forward pass number `at`: some layers have read its tokens, others have not."""
    passes, layer = iter(range(1000)), qwen.model.language_model.layers[1]
    return layer.register_forward_hook(lambda *_: what() if next(passes) == at else None)


def interrupt():
    """What Ctrl-C does: a signal from outside."""
    sender = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))
    sender.start()
    sender.join()


@pytest.mark.parametrize("chunk, at", [(None, 4), (16, 1)], ids=["while decoding", "while reading the prompt"])
def test_ctrl_c_leaves_the_cache_usable(qwen, chunk, at):
    prompt, cache, calm = PROMPTS[2], qwen.new_cache(1, 200), qwen.new_cache(1, 200)
    everything = prompt + generate(qwen, [prompt], max_new_tokens=20)[0]
    given, hook = [], in_the_midst(qwen, interrupt, at)
    with pytest.raises(KeyboardInterrupt):
        for (id,) in stream(qwen, [prompt], max_new_tokens=20, cache=cache, prefill_chunk=chunk):
            given.append(id)
    hook.remove()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert cache.length == (32 if chunk else 74) and prompt + given == everything[: 70 + len(given)]

    prefill(qwen, torch.tensor([prompt[: cache.length]]), calm, prefill_chunk=chunk)
    for id in given:
        decode_one_token(qwen, torch.tensor([id]), calm)
    for layer, other in zip(cache.layers, calm.layers, strict=True):    # each layer has read the same tokens
        for name, value in vars(layer).items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(getattr(other, name))), name
    unread = everything[cache.length : max(cache.length + 1, 70)]
    after = everything[cache.length + len(unread) :][:9]
    assert generate(qwen, [unread], max_new_tokens=9, cache=cache)[0] == after


def test_ctrl_c_is_heard_once_and_by_who_listened_before():
    heard, before = [], signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *_: heard.append("now"))
    try:
        with interrupts_held_back():
            interrupt()
            interrupt()
            assert heard == []
        assert heard == ["now"]
        interrupt()
        assert heard == ["now", "now"]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with interrupts_held_back():
            interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_generation_off_the_main_thread(qwen):
    rows = []
    worker = threading.Thread(target=lambda: rows.extend(generate(qwen, PROMPTS, max_new_tokens=8)))
    worker.start()
    worker.join()
    assert rows == generate(qwen, PROMPTS, max_new_tokens=8)


def test_a_cache_whose_step_failed_is_refused_until_it_is_restored(qwen):
    def fail():
        raise RuntimeError("out of memory")

    cache = qwen.new_cache(1, 200)
    prefill(qwen, torch.tensor(PROMPTS[:1]), cache)
    snapshot = cache.snapshot()
    hook = in_the_midst(qwen, fail, 3)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(qwen, PROMPTS[1:2], max_new_tokens=8, cache=cache)
    hook.remove()
    with pytest.raises(ValueError, match="broke off"):
        generate(qwen, PROMPTS[1:2], max_new_tokens=8, cache=cache)
    cache.restore(snapshot)
    both = generate(qwen, [PROMPTS[0] + PROMPTS[1]], max_new_tokens=8)
    assert generate(qwen, PROMPTS[1:2], max_new_tokens=8, cache=cache) == both


# ---------------------------------------------------------------------------------------------------- the public face


FIRST = ["import minqwen", "import minqwen.generate as module", "from minqwen.generate import stream",
         "from minqwen import generate", "from minqwen import Qwen",
         "import minqwen.generate, minqwen.trace, minqwen.verify"]


def test_a_name_is_module_and_function_whatever_was_imported_first():
    program = f"""
import sys
import minqwen
assert "torch" not in sys.modules, "import minqwen is to be quick"
for first in {FIRST}:
    for name in [name for name in sys.modules if name.startswith("minqwen")]:
        del sys.modules[name]
    exec(first, {{}})
    import minqwen
    from minqwen import generate
    from minqwen.generate import left_pad
    for name in ("generate", "trace", "verify"):
        assert callable(getattr(minqwen, name)), (first, name)
    assert minqwen.generate is generate, first
    assert minqwen.generate.left_pad is left_pad, first
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_public_names(qwen):
    assert minqwen.generate(qwen, PROMPTS, max_new_tokens=3) == generate(qwen, PROMPTS, max_new_tokens=3)
    assert minqwen.stream is stream and minqwen.generate.generate is generate
    assert inspect.signature(minqwen.generate) == inspect.signature(generate)
    assert set(minqwen.__all__) <= set(dir(minqwen))
    assert minqwen.delta_rule.l2norm and not hasattr(minqwen, "no_such_thing")
    with pytest.raises(AttributeError, match="no attribute 'no_such_thing'"):
        minqwen.no_such_thing  # noqa: B018
    with pytest.raises(ImportError):
        from minqwen import no_such_thing  # noqa: F401


def test_a_long_prompt_is_read_in_pieces_unasked(qwen):
    sizes = []
    watch = qwen.register_forward_hook(lambda module, args, logits: sizes.append(args[0].shape[1]))
    generate(qwen, tokens(1, 1100), max_new_tokens=1)
    watch.remove()
    assert sizes == [512, 512, 76]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_warped_and_penalized_in_float32(dtype):
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(0)).mul(9).to(dtype)
    for options in ({}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.01}):
        ours = warp(logits, 0.7, **options)
        assert ours.dtype == torch.float32 and torch.equal(ours, warp(logits.float(), 0.7, **options))
    seen = torch.rand(3, 100, generator=torch.Generator().manual_seed(1)) < 0.5
    ours = penalize(logits, seen, ~seen, 0.3, 1.3)
    assert ours.dtype == torch.float32 and torch.equal(ours, penalize(logits.float(), seen, ~seen, 0.3, 1.3))


def test_logits_may_rule_tokens_out():
    logits = torch.full((1, 300), -torch.inf)
    logits[0, 9] = 1.0
    with mock.patch("minqwen.generate.prefill", lambda *_, **__: logits):
        assert generate(random_qwen(small_config()), [[7]], max_new_tokens=1) == [[9]]


@pytest.mark.parametrize("row", [0, 2])
def test_logits_that_are_no_numbers_are_told_in_any_row(row):
    logits = torch.zeros(3, 300)
    logits[row, 7] = torch.nan
    with mock.patch("minqwen.generate.prefill", lambda *_, **__: logits), \
            pytest.raises(QwenError, match="not a number any more"):
        generate(random_qwen(small_config()), [[7], [8], [9]], max_new_tokens=1)


def test_penalties_count_what_was_written_and_not_what_the_budget_replaced():
    """The block is closed in place of the token that the model wants: that was not written, and comes next."""
    qwen, logits = random_qwen(small_config()), torch.zeros(1, 300)
    logits[0, 9] = 5.0                                                        # always
    with mock.patch("minqwen.generate.prefill", lambda *_, **__: logits), \
            mock.patch("minqwen.generate.decode_one_token", lambda *_: logits):
        said = generate(qwen, [[7, 1]], max_new_tokens=2, thinking_budget=0, think_ids=(1, 2), presence_penalty=50.0)
    assert said == [[2, 9]]


def test_what_cannot_be_generated_from_is_said(qwen):
    with pytest.raises(QwenError, match="such as qwen.model, and not the Assistant"):
        generate(minqwen.load(), PROMPTS)
    with pytest.raises(QwenError, match="no option 'max_tokens'; it has max_new_tokens, temperature"):
        generate(qwen, PROMPTS, max_tokens=3)


def test_rows_may_come_one_by_one(qwen):
    assert generate(qwen, iter(PROMPTS), max_new_tokens=3) == generate(qwen, PROMPTS, max_new_tokens=3)
