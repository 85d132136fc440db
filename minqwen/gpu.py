"""What the delta rule and a whole model do on this GPU: `make gpu`, or `python -m minqwen.gpu --out build/gpu`.

    right      values and gradients beside the recurrence in float64, where it is hard: strong gates, keys that nearly
               agree, packed sequences, odd widths
    forward, backward
               milliseconds at 32,768 tokens, beside flash-linear-attention where it is installed, and beside the
               least that the GPU could need: each input read once, each output written once
    decode     microseconds of a step, and its share of what the memory can carry
    model      milliseconds of a whole model of Qwen3.5-0.8B's shape: a token, a prompt, and tokens/s of `generate`
    parts      which kernel takes how long
    tune       the same for other sizes of the tiles: what `delta_rule_triton.tiles` should say on this GPU

It prints as it goes, and a case that fails is noted and left behind. In the end the folder holds gpu.json and gpu.md,
the same as a page.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from functools import lru_cache, partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from .cache import Cache, DeltaCache
from .checkpoint import KEPT_FLOAT32
from .config import Config
from .delta_rule import chunk_gated_delta_rule, l2norm, recurrent_gated_delta_rule
from .errors import read_json
from .files import SHIPPED, check_place
from .generate import decode_one_token, generate, prefill
from .graph import Decoder
from .model import Qwen

HEADS = [(16, 16), (16, 32)]                             # key heads, value heads; all of width 128
PEER_HEADS = 16, 32                                      # where the peer is timed: it tunes itself anew for others
BATCHES = [(1, 32_768), (8, 4_096)]                      # rows, tokens
DEVICE = "cuda"
SECTIONS = ("right", "forward", "backward", "decode", "model", "parts", "tune")


# ------------------------------------------------------------------------------------------------ inputs, and truth


def inputs(B, T, Hk, Hv, Dk, Dv, dtype=torch.float64, strongest=1.0, apart=None, seed=0):
    """[q, k, v, g, beta]: unit keys, log decays from -strongest to 0; keys `apart` from one another if given."""
    random = torch.Generator(DEVICE).manual_seed(seed)
    normal = partial(torch.randn, generator=random, device=DEVICE, dtype=torch.float64)
    uniform = partial(torch.rand, generator=random, device=DEVICE, dtype=torch.float64)
    q, k = normal(B, T, Hk, Dk), normal(B, T, Hk, Dk)
    if apart is not None:
        k = normal(B, 1, Hk, Dk) + apart * k
    x = l2norm(q), l2norm(k), normal(B, T, Hv, Dv), -strongest * uniform(B, T, Hv) ** 3, uniform(B, T, Hv)
    return [t.to(dtype) for t in x]


def results(rule: Callable, x: list[Tensor], state: Tensor, weights: tuple[Tensor, Tensor], **options) -> dict:
    """What a rule gives and the gradients of a weighted sum of it: {name: Tensor in float64}."""
    x, state = [t.detach().clone().requires_grad_() for t in x], state.detach().clone().requires_grad_()
    o, last = rule(*x, initial_state=state, output_final_state=True, **options)
    ((o.double() * weights[0]).sum() + (last.double() * weights[1]).sum()).backward()
    values = [o, last] + [t.grad for t in (*x, state)]
    return dict(zip(("o", "state", "dq", "dk", "dv", "dg", "dbeta", "dstate"), (t.detach().double() for t in values)))


def error(ours: Tensor, right: Tensor) -> float:
    return ((ours - right).norm() / right.norm()).item()


def right_case(rule, B, T, Hk, Hv, Dk, Dv, dtype,
               truth=recurrent_gated_delta_rule, packed=None, strongest=1.0, apart=None):
    """({name: error}, {name: what is allowed}): 2e-5 in float32; in bfloat16 twice what rounding the inputs does."""
    exact = inputs(B, T, Hk, Hv, Dk, Dv, strongest=strongest, apart=apart)
    options = {} if packed is None else {"cu_seqlens": torch.tensor(packed, device=DEVICE)}
    random = torch.Generator(DEVICE).manual_seed(1)
    draw = partial(torch.randn, generator=random, device=DEVICE, dtype=torch.float64)
    state = draw(B if packed is None else len(packed) - 1, Hv, Dk, Dv)
    weights = draw(B, T, Hv, Dv), draw(*state.shape)
    x = [t.to(dtype) for t in exact[:3]] + [exact[3].float(), exact[4].to(dtype)]
    start, *towards = (t.to(dtype).double() for t in (state, *weights))          # inputs, too: the products round them
    ours = results(rule, x, start.float(), towards, **options)
    right = results(truth, [t.double() for t in x], start, towards, **options)
    off = {name: error(ours[name], right[name]) for name in right}
    if dtype == torch.float32:
        return off, dict.fromkeys(off, 2e-5)
    unrounded = results(truth, exact, state, weights, **options)
    return off, {name: 2 * max(error(right[name], unrounded[name]), 2.0 ** -9) for name in right}


def right_cases():
    """(name, arguments of `right_case`)"""
    full, half, long = torch.float32, torch.bfloat16, chunk_gated_delta_rule
    for dtype, name in ((half, "bfloat16"), (full, "float32")):
        yield f"{name}, 2 x 257", (2, 257, 4, 8, 128, 128, dtype), {}
        yield f"{name}, gates to -50", (2, 257, 4, 8, 128, 128, dtype), {"strongest": 50.0}
        yield f"{name}, keys 1e-3 apart", (2, 257, 4, 8, 128, 128, dtype), {"strongest": 0.01, "apart": 1e-3}
        yield f"{name}, packed", (1, 300, 4, 8, 128, 128, dtype), {"packed": [0, 1, 64, 129, 300]}
        yield f"{name}, widths 256 and 256", (1, 130, 2, 2, 256, 256, dtype), {}
        yield f"{name}, widths 24 and 40", (1, 130, 2, 4, 24, 40, dtype), {}
        yield f"{name}, widths 64 and 128", (1, 65, 2, 6, 64, 128, dtype), {}
        yield f"{name}, one token", (3, 1, 2, 4, 128, 128, dtype), {}
        yield f"{name}, 1 x 16384 (truth: chunks in float64)", (1, 16384, 2, 4, 128, 128, dtype), {"truth": long}


# ------------------------------------------------------------------------------------------------------------ clocks


def milliseconds(run: Callable, clear: list[Tensor] = ()) -> float:
    """The median of many runs, each from an empty cache."""
    from triton.testing import do_bench

    return do_bench(run, warmup=50, rep=200, grad_to_none=list(clear), return_mode="median")


def ceilings() -> dict:
    """What this GPU really does: gigabytes a second, copying; teraflops, multiplying bfloat16."""
    a = torch.randn(2 ** 29, device=DEVICE)
    b, m = torch.empty_like(a), torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    return {"GB/s": 2 * a.nbytes / milliseconds(lambda: b.copy_(a)) / 1e6,
            "TFLOP/s": 2 * 8192 ** 3 / milliseconds(lambda: m @ m) / 1e9}


def floors(B, T, Hk, Hv, ceiling, D=128, C=64, backward=False) -> tuple[float, float]:
    """(ms for the bytes, ms for the products of the chunked form). Backward reads q, k, v, do and writes dq, dk, dv."""
    passed = 2 * B * T * D * (2 * Hk + 2 * Hv + (4 * Hk + 3 * Hv if backward else 0))
    products = 2 * B * T * Hv * (2 * C * D + 3 * D * D + 2 * C * D)                           # kk, qk; five of the walk
    return passed / ceiling["GB/s"] / 1e6, (3.5 if backward else 1) * products / ceiling["TFLOP/s"] / 1e9


@lru_cache
def peer() -> Callable | None:
    """flash-linear-attention's rule, if it is installed and can be imported."""
    try:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule as rule
        return rule
    except Exception as problem:
        print(f"Without flash-linear-attention ({type(problem).__name__}: {str(problem)[:200]}).")
        return None


def timed(rule, x, backward: bool) -> float:
    if not backward:
        with torch.no_grad():
            return milliseconds(lambda: rule(*x))
    x = [t.detach().clone().requires_grad_() for t in x]
    do = torch.randn_like(x[2])
    return milliseconds(lambda: rule(*x)[0].backward(do), clear=x)


def rule_inputs(B, T, Hk, Hv):
    x = inputs(B, T, Hk, Hv, 128, 128, torch.bfloat16)
    return [*x[:3], x[3].float(), x[4]]


# ---------------------------------------------------------------------------------------------------------- sections


class Report:
    """Rows of tables, printed as they come; in the end a page and its numbers."""

    def __init__(self, folder: Path | None):
        self.folder, self.tables, self.failures, self.began = folder, {}, [], time.time()

    def add(self, table: str, **row):
        self.tables.setdefault(table, []).append(row)
        shown = "  ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                          for name, value in row.items())
        print(f"[{time.time() - self.began:5.1f} s] {table}: {shown}", flush=True)
        self.save()

    @contextmanager
    def survive(self, what: str):
        """A case that fails is a line of the report, and the others go on."""
        try:
            yield
        except Exception as problem:
            text = f"{what}: {type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
            self.failures.append(text)
            print(f"[{time.time() - self.began:5.1f} s] FAILED {text}", flush=True)

    def save(self):
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            content = {"tables": self.tables, "failures": self.failures}
            (self.folder / "gpu.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
            (self.folder / "gpu.md").write_text(page(content), encoding="utf-8")


ABOUT = {
    "right": "Values and gradients beside the recurrence in float64: relative errors, and what is allowed - 2e-5 in "
             "float32, in bfloat16 twice what rounding the inputs does. Tokens read in one graph: beside the "
             "same, layer by layer.",
    "ceilings, measured": "What this GPU does at best: copying, and multiplying matrices of bfloat16.",
    "forward": "Heads of 128, bfloat16. The floors are what the bytes and the products alone would take at those "
               "rates. FlashQLA publishes 0.88 ms for 1 x 32,768 with 16:32 heads on an H200.",
    "forward + backward": "The same with gradients of all inputs.",
    "decode": "One token of each row, heads of 128, the memories too many for the cache.",
    "model": "Qwen3.5-0.8B's shape, drawn weights in bfloat16, one row; by the clock, launches included. What a token "
             "must move are the weights, keys and values once, and the memories twice: read and written.",
    "parts": "Which kernel takes how long, forward and backward.",
    "tune": "Other sizes of tiles, one kernel at a time.",
}


def figure(x) -> str:
    """A cell of a table: three digits of a measured number, and all before its point."""
    return str(x) if not isinstance(x, float) else f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def page(content: dict) -> str:
    """What gpu.json holds, for people: `docs/gpu.md` is that of `data/gpu.json`, with notes on what to know of it."""
    tables = dict(content["tables"])
    machine, = tables.pop("machine")
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "triton", "CUDA", "flash-linear-attention"))
    lines = ["# The delta rule and a whole model on a GPU", "",
             f"Made by `make gpu` (`python -m minqwen.gpu --out build/gpu`) on one {machine['GPU']}, {machine['date']}:"
             f" {versions}. Times are medians of many runs, each from an empty cache, or as their table says.", ""]
    for name, rows in tables.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        lines += [f"## {name.capitalize()}", "", ABOUT[name], "", "| " + " | ".join(columns) + " |",
                  "|" + " --- |" * len(columns)]
        for row in rows:
            cells = (row.get(column, "") for column in columns)
            lines.append("| " + " | ".join(figure(x) for x in cells) + " |")
        lines.append("")
    lines += [f"- {text}" for text in content.get("notes", [])]
    lines += [f"- failed: {text}" for text in content["failures"]]
    return "\n".join(lines).strip() + "\n"


def right(report, quick):
    from .delta_rule_triton import decode_step, triton_gated_delta_rule

    for name, arguments, options in list(right_cases())[: 2 if quick else None]:
        with report.survive(name):
            off, allowed = right_case(triton_gated_delta_rule, *arguments, **options)
            worst = max(off, key=lambda x: off[x] / allowed[x] if off[x] == off[x] else float("inf"))
            fine = all(off[x] <= allowed[x] for x in off)
            more = {} if fine else {"all": " ".join(f"{x}={off[x]:.1e}/{allowed[x]:.1e}" for x in off)}
            report.add("right", case=name, ok="yes" if fine else "NO", worst=worst, error=off[worst],
                       allowed=allowed[worst], **more)
    for dtype, Dk in product((torch.float32, torch.bfloat16), (24, 128)):
        with report.survive(f"decode_step {dtype}"):
            x, state = inputs(3, 5, 2, 6, Dk, 128, dtype), torch.randn(3, 6, Dk, 128, device=DEVICE)
            truth, last = recurrent_gated_delta_rule(*(t.double() for t in x), initial_state=state.double(),
                                                     output_final_state=True)
            o = decode_step(*x, state)
            off, allowed = max(error(state, last), error(o, truth)), 2e-5 if dtype == torch.float32 else 2.0 ** -8
            report.add("right", case=f"decode, 5 tokens, {str(dtype)[6:]}, width {Dk}",
                       ok="yes" if off < allowed else "NO", worst="o, state", error=off, allowed=allowed)


def speed(report, ceiling, quick, backward):
    from .delta_rule_triton import triton_gated_delta_rule

    fla = peer()
    for (B, T), (Hk, Hv) in list(product(BATCHES, HEADS))[1 if quick else 0: 2 if quick else None]:
        case = f"{B} x {T:,}, {Hk}:{Hv}"
        with report.survive(case):
            x = rule_inputs(B, T, Hk, Hv)
            by_bytes, by_flops = floors(B, T, Hk, Hv, ceiling, backward=backward)
            row = {"case": case, "floor, bytes (ms)": by_bytes, "floor, products (ms)": by_flops,
                   "ours (ms)": timed(triton_gated_delta_rule, x, backward)}
            with report.survive(f"{case}, normalising"):
                row["ours, normalising (ms)"] = timed(partial(triton_gated_delta_rule, use_qk_l2norm_in_kernel=True), x,
                                                      backward)
            if fla is not None and (Hk, Hv) == PEER_HEADS:
                with report.survive(f"{case}, fla"):
                    row["fla (ms)"] = timed(fla, x, backward)
                    row["fla, normalising (ms)"] = timed(partial(fla, use_qk_l2norm_in_kernel=True), x, backward)
            report.add("forward + backward" if backward else "forward", **row)


def replayed(step: Callable, states: Tensor) -> float:
    """Milliseconds of a step, as one of many in a CUDA graph: the launches cost nothing then."""
    for state in states:
        step(state)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for state in states:
            step(state)
    return milliseconds(graph.replay) / len(states)


def decode(report, ceiling, quick):
    for B, (Hk, Hv) in list(product((1, 8, 64), HEADS))[: 1 if quick else None]:
        with report.survive(f"decode, {B} rows, {Hk}:{Hv}"):
            decode_case(report, ceiling, B, Hk, Hv)


def decode_case(report, ceiling, B, Hk, Hv):
    from .delta_rule_triton import decode_step

    x = rule_inputs(B, 1, Hk, Hv)
    layers = max(2, int(2 ** 28 / (B * Hv * 128 * 128 * 4)))                     # more than the cache holds
    states = torch.randn(layers, B, Hv, 128, 128, device=DEVICE)
    A_log, dt_bias = torch.zeros(2, Hv, device=DEVICE)

    def step(state):
        return decode_step(*x, state, use_qk_l2norm_in_kernel=True, A_log=A_log, dt_bias=dt_bias)

    ms = replayed(step, states)
    report.add("decode", case=f"{B} x 1, {Hk}:{Hv}", **{
        "in a graph (us)": 1000 * ms, "launched alone (us)": 1000 * milliseconds(partial(step, states[0])),
        "of the measured bandwidth (%)": 100 * 2 * states[0].nbytes / ms / 1e6 / ceiling["GB/s"]})


def random_model(dtype: torch.dtype, layers: int = 24) -> Qwen:
    """Qwen3.5-0.8B's shape, weights drawn; as in the checkpoints, two small tensors of a layer stay float32."""
    config = Config.named("Qwen3.5-0.8B")
    text = replace(config.text_config, num_hidden_layers=layers, layer_types=None)
    with torch.device(DEVICE):
        qwen = Qwen(replace(config, text_config=text)).requires_grad_(False)
    for name, parameter in qwen.named_parameters():
        if not name.endswith(KEPT_FLOAT32):
            parameter.data = parameter.data.to(dtype)
    return qwen


def right_tokens(report, qwen, rows):
    """Tokens read in one graph beside the same read layer by layer, with pads, over 512 slots, and a prompt between."""
    random, caches = torch.Generator(DEVICE).manual_seed(0), [qwen.new_cache(rows, 600) for _ in range(2)]
    ids = torch.randint(qwen.config.text_config.vocab_size, (rows, 520), device=DEVICE, generator=random)
    mask = torch.ones_like(ids[:, :508])
    mask[0, :100] = 0
    for cache in caches:
        prefill(qwen, ids[:, :508], cache, mask)
    decoder, worst = Decoder.of(qwen, caches[0]), 0.0
    for i in range(508, 520):
        if i == 514:
            for cache in caches:
                prefill(qwen, ids[:, :3], cache)
        worst = max(worst, error(decoder(ids[:, i]), decode_one_token(qwen, ids[:, i], caches[1])))
    how = "fused" if decoder.fused else "plain"
    report.add("right", case=f"a token of {rows} rows in one graph, {how}, float32", ok="yes" if worst < 2e-5 else "NO",
               worst="logits", error=worst, allowed=2e-5)


def bytes_of_a_step(qwen: Qwen, cache: Cache) -> int:
    """What reading one token has to move: all weights, keys and values so far; the memories are read and written."""
    moved = sum(x.nbytes for x in qwen.model.language_model.parameters())
    for layer in cache.layers:
        if isinstance(layer, DeltaCache):
            moved += 2 * layer.recurrent_state.nbytes
        else:
            moved += 2 * layer.keys[:, :, : layer.length].nbytes
    return moved


def elapsed(run: Callable, times: int) -> float:
    """Milliseconds of a run by the clock, launches included: the mean of so many, after two that do not count."""
    for _ in range(2):
        run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        run()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start) / times


def model(report, ceiling, quick):
    with report.survive("right tokens"):
        small = random_model(torch.float32, layers=4)
        for rows in (3, 9):
            right_tokens(report, small, rows)
        del small
    qwen, random = random_model(torch.bfloat16), torch.Generator(DEVICE).manual_seed(0)

    def row(case, tokens, ms, **more):
        report.add("model", case=case, ms=ms, **{"tokens/s": 1000 * tokens / ms}, **more)

    def prompt(T):
        return torch.randint(qwen.config.text_config.vocab_size, (1, T), device=DEVICE, generator=random)

    def read(ids):
        prefill(qwen, ids, qwen.new_cache(1, ids.shape[1]))

    for T in (512, 32_768)[: 1 if quick else None]:
        with report.survive(f"model, a prompt of {T:,} tokens"):
            row(f"a prompt of {T:,} tokens", T, elapsed(partial(read, prompt(T)), 3))
    for T in (32, 4096, 32_768)[: 1 if quick else None]:
        with report.survive(f"model, a token after {T:,}"):
            cache = qwen.new_cache(1, T + 256)
            token = prefill(qwen, prompt(T), cache).argmax(-1)
            floor = bytes_of_a_step(qwen, cache) / 1e6 / ceiling["GB/s"]                      # ms
            for how, step, times in (("in one graph", Decoder.of(qwen, cache), 128),
                                     ("layer by layer", partial(decode_one_token, qwen, cache=cache), 16)):
                ms = elapsed(partial(step, token), times)
                row(f"a token after {T:,}, {how}", 1, ms, **{"of the measured bandwidth (%)": 100 * floor / ms})
    for how, options in (("the likeliest", {}), ("drawn", {"temperature": 1.0, "top_k": 20, "top_p": 0.95})):
        with report.survive(f"model, generate, {how}"):
            row(f"generate: 256 tokens after 32, {how}", 256,
                elapsed(partial(generate, qwen, prompt(32), max_new_tokens=256, **options), 2))


def parts(report, quick):
    from torch.profiler import ProfilerActivity, profile

    from .delta_rule_triton import triton_gated_delta_rule

    rules = {"ours": triton_gated_delta_rule, "fla": peer()}
    for (B, T), name in product(BATCHES[:1] if quick else BATCHES, [name for name in rules if rules[name]]):
        rule = rules[name]
        with report.survive(f"parts {name}"):
            x = [t.requires_grad_() for t in rule_inputs(B, T, *HEADS[1])]
            do = torch.randn_like(x[2])
            rule(*x)[0].backward(do)
            with profile(activities=[ProfilerActivity.CUDA]) as seen:
                for _ in range(5):
                    rule(*x)[0].backward(do)
                torch.cuda.synchronize()
            for event in sorted(seen.key_averages(), key=lambda e: -e.self_device_time_total)[:12]:
                report.add("parts", case=f"{B} x {T:,}, 16:32, {name}", kernel=event.key[:60], **{
                    "ms": event.self_device_time_total / 5000, "launches": event.count // 5})


def tune(report, quick):
    from . import delta_rule_triton as module

    chosen, x = module.tiles, rule_inputs(*BATCHES[0], *HEADS[1])
    walks = [{"BV": BV, "num_warps": warps, "STAGES": stages} for BV, warps, stages in
             ((32, 4, 2), (64, 4, 1), (64, 4, 3), (64, 8, 2), (128, 8, 2), (128, 8, 3))]
    tries = {"prepare": [{"num_warps": 2}, {"num_warps": 8}], "walk": walks, "walk_back": walks,
             "gradients": [{"BK": BK, "BV": BV, "num_warps": warps, "num_stages": stages}
                           for BK, BV, warps, stages in ((64, 64, 4, 1), (64, 64, 8, 1), (64, 64, 8, 2),
                                                         (64, 128, 8, 1), (128, 32, 8, 1))]}
    for changed in [{}, *({"BV": BV, "num_warps": warps} for BV, warps in product((8, 16, 32), (1, 2, 4)))]:
        with report.survive(f"tune recur {changed}"):
            module.tiles = lambda name, *sizes, changed=changed: {**chosen(name, *sizes), **changed}
            case = rule_inputs(1, 1, *HEADS[0])
            ms = replayed(lambda state, case=case: module.decode_step(*case, state, use_qk_l2norm_in_kernel=True),
                          torch.randn(256, 1, 16, 128, 128, device=DEVICE))
            report.add("tune", kernel="recur", changed=json.dumps(changed), ms=ms)
    for kernel, configurations in tries.items():
        backward = kernel in ("walk_back", "gradients")
        for changed in [{}, *configurations[: 2 if quick else None]]:
            with report.survive(f"tune {kernel} {changed}"):
                def tiles(name, *sizes, kernel=kernel, changed=changed):
                    return {**chosen(name, *sizes), **(changed if name == kernel else {})}
                module.tiles = tiles
                report.add("tune", kernel=kernel, changed=json.dumps(changed), **{
                    "ms": timed(module.triton_gated_delta_rule, x, backward)})
    module.tiles = chosen


def machine() -> dict:
    from importlib.metadata import PackageNotFoundError, version

    def installed(name):
        try:
            return version(name)
        except PackageNotFoundError:
            return "none"
    return {"GPU": torch.cuda.get_device_name(), "date": date.today().isoformat(), "torch": torch.__version__,
            "triton": installed("triton"), "CUDA": torch.version.cuda, "flash-linear-attention": installed("fla-core")}


def recorded() -> dict[str, list[dict]]:
    """{table: its rows} of the run whose figures are shipped: what `make gpu` writes into gpu.json."""
    return read_json(SHIPPED / "data" / "gpu.json")["tables"]


def quick_look() -> dict[str, list[dict]]:
    """How fast this GPU is, in the same tables, a case or two of each: a minute; more if the peer chooses its tiles."""
    report, ceiling = Report(None), ceilings()
    report.add("machine", **machine())
    report.add("ceilings, measured", **ceiling)
    speed(report, ceiling, quick=True, backward=False)
    for section in (decode, model):
        section(report, ceiling, quick=True)
    return report.tables


def warm_peer(backward: bool):
    """Let flash-linear-attention choose its tiles, which takes minutes; it keeps them on the disk."""
    x = [t.requires_grad_(backward) for t in rule_inputs(1, 4096, *PEER_HEADS)]
    o, _ = peer()(*x, use_qk_l2norm_in_kernel=True)
    if backward:
        o.sum().backward()
    torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m minqwen.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="a folder for gpu.md and gpu.json")
    parser.add_argument("--quick", action="store_true", help="one case of each, under a minute")
    parser.add_argument("--only", default=",".join(SECTIONS[:-1]), help="sections, such as right,forward (also: tune)")
    parser.add_argument("--warm-peer", choices=("forward", "backward"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("There is no GPU that PyTorch can use here, and nothing was measured.")
        return 1
    if options.warm_peer:
        warm_peer(options.warm_peer == "backward")
        return 0
    if options.out is not None:
        check_place(options.out)
    sections = options.only.split(",")
    report = Report(options.out)
    waits = "backward" if {"backward", "parts"} & set(sections) else "forward" if "forward" in sections else None
    report.add("machine", **machine())
    other = subprocess.Popen([sys.executable, "-m", "minqwen.gpu", "--warm-peer", waits]) if waits and peer() else None
    if "right" in sections:
        right(report, options.quick)
    if other is not None:
        with report.survive("waiting for flash-linear-attention"):
            other.wait(timeout=150)
        other.kill()
    ceiling = ceilings()
    report.add("ceilings, measured", **ceiling)
    torch.cuda.empty_cache()
    for name, run in (("forward", partial(speed, report, ceiling, options.quick, False)),
                      ("backward", partial(speed, report, ceiling, options.quick, True)),
                      ("decode", partial(decode, report, ceiling, options.quick)),
                      ("model", partial(model, report, ceiling, options.quick)),
                      ("parts", partial(parts, report, options.quick)), ("tune", partial(tune, report, options.quick))):
        if name in sections:
            with report.survive(name):
                run()
    report.save()
    print(f"{len(report.failures)} failed; {time.time() - report.began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
