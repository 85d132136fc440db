"""Our operations beside `transformers`' on this machine: `make bench`, `minqwen bench`, `python -m minqwen.bench`.

Seconds say little on a machine that does other things as well. So both are timed by turns, a call of ours and a call
of theirs, and what counts is the median of the ratios of neighbours: whatever slows the machine down slows down both.

Ordinary and strong gates are apart: where memories are wiped at once (log decays to -50), products underflow to
denormal numbers, whose arithmetic is several times slower on a CPU, and how much of it there is depends on the form.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter

import torch

from .checkpoint import KEPT_FLOAT32
from .delta_rule import chunk_gated_delta_rule, recurrent_gated_delta_rule
from .model import AttentionCache, Config, Qwen
from .verify import official_modules, official_twin

LAYERS = 18                                              # Gated DeltaNet layers of the 0.8B


@dataclass(frozen=True)
class Row:
    """One comparison: median seconds of each, and how many times faster ours is, by the median of pairwise ratios."""

    what: str
    ours: float
    theirs: float
    ratio: float
    aim: float | None = None

    def __str__(self) -> str:
        aim = "" if self.aim is None else f"at least {self.aim:.1f} {'✓' if self.ratio >= self.aim else '✗'}"
        return f"{self.what:<58}{1e3 * self.ours:>10.2f}{1e3 * self.theirs:>14.2f}{self.ratio:>9.2f} x   {aim}".rstrip()


HEADING = f"{'milliseconds':<58}{'ours':>10}{'transformers':>14}{'ratio':>9}     aim"


def by_turns(what: str, ours: Callable, theirs: Callable, rounds: int, aim: float | None = None) -> Row:
    """Call both in turn, `rounds` times after one that does not count; who goes first changes every round."""
    times = []
    for n in range(rounds + 1):
        seconds = {}
        for call in (ours, theirs) if n % 2 else (theirs, ours):
            start = perf_counter()
            call()
            seconds[call] = perf_counter() - start
        times.append((seconds[ours], seconds[theirs]))
    times = times[1:]
    return Row(what, median(a for a, _ in times), median(b for _, b in times), median(b / a for a, b in times), aim)


def rule_inputs(T: int, Hk: int, Hv: int, strong: bool = False) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """([q, k, v], {g, beta}) of one row, heads 128 wide. Ordinary gates are a fresh model's, strong ones go to -50."""
    random = torch.Generator().manual_seed(T + Hv)
    q, k = torch.randn(2, 1, T, Hk, 128, generator=random)
    v, u = torch.randn(1, T, Hv, 128, generator=random), torch.rand(2, 1, T, Hv, generator=random)
    g = -50 * u[0] if strong else -(1 + 15 * u[0]) * 10 ** (-3 + 2 * u[1])               # -A dt, as `init_weights` has
    return [q, k, v], {"g": g, "beta": torch.rand(1, T, Hv, generator=random)}


def chunked(T: int, Hk: int, Hv: int, strong: bool, rounds: int, aim: float | None) -> Row:
    """A prompt of T tokens through one layer's rule."""
    x, gates = rule_inputs(T, Hk, Hv, strong)
    options = {"output_final_state": True, "use_qk_l2norm_in_kernel": True}
    official = official_modules().torch_chunk_gated_delta_rule
    ours, theirs = (lambda rule=rule: rule(*x, **gates, **options) for rule in (chunk_gated_delta_rule, official))
    name = f"delta rule, {T} tokens, {Hk}:{Hv} heads, {'strong' if strong else 'ordinary'} gates"
    return by_turns(name, ours, theirs, rounds, aim)


def decoding(Hk: int, Hv: int, rounds: int, aim: float | None) -> Row:
    """One token through the rule of all layers, as each decodes: ours writes into the state, theirs is copied there."""
    x, gates = rule_inputs(1, Hk, Hv)
    states, official_states = (list(torch.zeros(2, LAYERS, 1, Hv, 128, 128)[i]) for i in range(2))
    options = {"output_final_state": True, "use_qk_l2norm_in_kernel": True}
    official = official_modules().torch_recurrent_gated_delta_rule

    def ours():
        for state in states:
            recurrent_gated_delta_rule(*x, **gates, initial_state=state, inplace_final_state=True, **options)

    def theirs():
        for state in official_states:
            state.copy_(official(*x, **gates, initial_state=state, **options)[1])

    return by_turns(f"delta rule, decoding, {LAYERS} layers, {Hk}:{Hv} heads", ours, theirs, rounds, aim)


def random_model(layers: int) -> Qwen:
    """Of the 0.8B's shape, float32."""
    text = replace(Config.named("Qwen3.5-0.8B").text_config, num_hidden_layers=layers, layer_types=None)
    return Qwen(Config(text)).eval().requires_grad_(False)


def in_bfloat16(qwen: Qwen) -> Qwen:
    """As the checkpoints are published: two small tensors of each Gated DeltaNet stay float32."""
    for name, parameter in qwen.named_parameters():
        if not name.endswith(KEPT_FLOAT32):
            parameter.data = parameter.data.bfloat16()
    return qwen


def whole_model(qwen: Qwen, contexts: tuple[int, ...], rounds: int, aim: float | None) -> list[Row]:
    """Prefill, and decoding at several contexts; both models on the same weights, each with its own cache.

    Decoding reads every weight once for each token: that is most of the time, and the same for both. The longer the
    context, the more it costs that theirs copies all keys and values to append one.
    """
    twin, text = official_twin(qwen), qwen.config.text_config
    ids = torch.randint(text.vocab_size, (1, 256), generator=torch.Generator().manual_seed(0))
    name = f"0.8B, {text.num_hidden_layers} layers, {str(qwen.head_weight.dtype).removeprefix('torch.')}"
    rows = [by_turns(f"{name}, prefill of {ids.shape[1]} tokens",
                     lambda: qwen(ids, cache=qwen.new_cache(1, ids.shape[1]), logits_to_keep=1),
                     lambda: twin(ids, use_cache=True, logits_to_keep=1), max(2, rounds // 10))]
    for context in contexts:
        cache, past = filled(qwen, twin, context, room=rounds + 1)
        rows.append(by_turns(f"{name}, decoding after {context:,} tokens",
                             lambda cache=cache: qwen(ids[:, :1], cache=cache),
                             lambda past=past: twin(ids[:, :1], past_key_values=past, use_cache=True), rounds, aim))
    return rows


def filled(qwen: Qwen, twin: torch.nn.Module, context: int, room: int):
    """Both caches with the same `context` tokens in them: one is read, keys and values of the others are made up."""
    cache, token = qwen.new_cache(1, context + room), torch.zeros(1, 1, dtype=torch.long)
    qwen(token, cache=cache)
    past = twin(token, use_cache=True).past_key_values
    for ours, theirs in zip(cache.layers, past.layers, strict=True):
        if isinstance(ours, AttentionCache):
            ours.keys[:, :, 1:context].normal_()
            ours.values[:, :, 1:context].normal_()
            theirs.keys, theirs.values = (x[:, :, :context].clone() for x in (ours.keys, ours.values))
            ours.length = context
    cache.length = context
    cache.positions.fill_(context)
    return cache, past


@torch.no_grad()
def run(quick: bool = False) -> list[Row]:
    """Time everything and print it line by line; `quick` takes fewer rounds and a third of the layers."""
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads, float32 unless it says otherwise\n\n{HEADING}", flush=True)
    rows = []

    def show(*new):
        rows.extend(new)
        print(*new, sep="\n", flush=True)

    few, many = (3, 20) if quick else (15, 100)
    for Hk, Hv in ((16, 16), (16, 32)):
        show(chunked(2048, Hk, Hv, False, few, 2.0), chunked(64, Hk, Hv, False, many, 1.3))
        show(chunked(2048, Hk, Hv, True, few, None), chunked(64, Hk, Hv, True, many, None))
        show(decoding(Hk, Hv, many, 2.5))
    qwen = random_model(8 if quick else 24)
    show(*whole_model(qwen, (256, 4096), many // 2, 1.2))
    show(*whole_model(in_bfloat16(qwen), (256, 4096), many // 2, 1.2))
    return rows


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=run.__doc__)
    options.add_argument("--quick", action="store_true")
    run(**vars(options.parse_args()))
