"""The cost of a context: bytes beside real caches, operations beside those that torch counts; the charts; mistakes."""

from dataclasses import replace

import numpy as np
import pixels
import pytest
import torch
from support import random_qwen, small_config, tokens
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from widget_support import in_a_notebook, kept_in, move

import minqwen
from minqwen.config import OFFICIAL_SIZES, Config
from minqwen.errors import QwenError
from minqwen.info import describe, readable, weight_bytes
from minqwen.model import AttentionCache, Cache, Qwen
from minqwen.widgets import ContextCost, cost

SIZES = list(OFFICIAL_SIZES)


@pytest.fixture(scope="module")
def explorer():
    return ContextCost(size="Qwen3.5-4B", context=4096, batch=2)


def bytes_of(cache):
    """What a real cache holds: (keys and values, states and the convolutions' inputs)."""
    kept = {True: 0, False: 0}
    for layer in cache.layers:
        names = ("keys", "values") if isinstance(layer, AttentionCache) else ("recurrent_state", "conv_state")
        kept[names[0] == "keys"] += sum(getattr(layer, name).nbytes for name in names)
    return kept[True], kept[False]


def test_bytes_of_nanos_real_caches():
    for dtype in ("bfloat16", "float32"):
        qwen = minqwen.load(dtype=getattr(torch, dtype))
        explorer = ContextCost({"nano": qwen.config})
        for context, batch in ((256, 1), (1024, 4)):
            memory = explorer.numbers(context=context, batch=batch, dtype=dtype)["memory"]
            assert (memory["keys and values"], memory["states"]) == bytes_of(qwen.model.new_cache(batch, context))


def test_bytes_of_every_sizes_caches(explorer):
    """Of their shapes, with nothing allocated."""
    for size in SIZES:
        text = Config.named(size).text_config
        for dtype in ("bfloat16", "float32"):
            memory = explorer.numbers(size, 262_144, 8, dtype)["memory"]
            cache = Cache(text, 8, 262_144, getattr(torch, dtype), torch.device("meta"))
            assert (memory["keys and values"], memory["states"]) == bytes_of(cache)
            whole = replace(text, layer_types=["full_attention"] * text.num_hidden_layers)
            cache = Cache(whole, 8, 262_144, getattr(torch, dtype), torch.device("meta"))
            assert (memory["all attention"], 0) == bytes_of(cache)


def test_weights_are_those_of_minqwen_info(explorer):
    """Of every size, in each dtype, at each number of bits; and where groups of 128 do not fit, smaller ones."""
    for size in SIZES:
        config = Config.named(size)
        for dtype in cost.DTYPES:
            for bits, options in ((16, {}), (8, {"bits": 8}), (4, {"bits": 4})):
                held = explorer.numbers(size, dtype=dtype, bits=bits)["memory"]["weights"]
                assert held == sum(weight_bytes(config, dtype, **options).values())
                if size == "Qwen3.5-9B":
                    assert f"weights       {readable(held)}" in describe(config, dtype=dtype, **options)
    narrow = small_config(hidden_size=96, intermediate_size=160)
    with pytest.raises(QwenError, match="groups of 128 do not divide"):
        weight_bytes(narrow, bits=4)
    kept = ContextCost({"narrow": narrow}).numbers(bits=4, dtype="float32")["memory"]["weights"]
    assert kept == sum(weight_bytes(narrow, "float32", bits=4, group_size=16).values())
    odd = small_config(intermediate_size=100)
    assert ContextCost({"odd": odd}).numbers(bits=4)["memory"]["weights"] == 0
    assert pixels.cost_chart(ContextCost({"odd": odd}, bits=4)).any(), "a line of nothing is left out"


def torch_counts(forward, ids, cache):
    """Operations that torch counts, by kind: of matrices (linear layers), of products in batches, of convolutions."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):
        forward(ids, cache=cache)
    counts = {str(op).removeprefix("aten."): n for op, n in counter.get_flop_counts()["Global"].items()}
    return counts.get("mm", 0) + counts.get("addmm", 0), counts.get("bmm", 0), counts.get("convolution", 0)


def test_operations_are_those_that_torch_counts():
    """Decoding a token after 40 others: all matrices, attention's two products, and of the rule its two products."""
    for config in (small_config(), small_config(tie_word_embeddings=False, linear_num_value_heads=4)):
        model, t = random_qwen(config), config.text_config
        cache, ids = model.new_cache(3, 64), tokens(3, 41)
        model(ids[:, :40], cache=cache)
        counts = cost.counted(config)
        work = cost.cost(counts, 41, 3, "float32", "token")["work"]
        matrices, products, _ = torch_counts(model, ids[:, 40:], cache)
        assert matrices == work["matrices"]
        entries = 3 * 3 * t.linear_num_value_heads * t.linear_key_head_dim * t.linear_value_head_dim  # rows, layers
        values = t.linear_num_value_heads * t.linear_value_head_dim
        channels = 2 * t.linear_num_key_heads * t.linear_key_head_dim + values
        assert products == work["attention"] + 4 * entries              # the rest of the rule is elementwise
        assert work["delta rule"] == 7 * entries + 3 * 3 * 2 * 4 * channels
        matrices, _, convolutions = torch_counts(model.hidden_states, ids, model.new_cache(3, 64))
        assert convolutions == 41 * 3 * 3 * 2 * 4 * channels
        prompt = cost.cost(counts, 41, 3, "float32", "prompt")["work"]
        assert matrices == prompt["matrices"] - 3 * counts["head"]


def test_matrices_of_every_size():
    """Two operations for each weight of the linear layers and of the head; none for norms and convolutions."""
    for size in SIZES:
        config = Config.named(size)
        with torch.device("meta"):
            model = Qwen(Config(config.text_config))
        weights = sum(x.weight.numel() for x in model.model.modules() if isinstance(x, nn.Linear))
        counts = cost.counted(config)
        assert counts["matrices"] == 2 * weights and counts["head"] == 2 * model.head_weight.numel()


def test_a_prompt_is_the_sum_of_its_tokens():
    counts = cost.counted(Config.named("Qwen3.5-2B"))
    prompt = cost.cost(counts, 50, 3, "bfloat16", "prompt")["work"]
    steps = [cost.cost(counts, n, 3, "bfloat16", "token")["work"] for n in range(1, 51)]
    for name in ("attention", "delta rule", "all attention"):
        assert prompt[name] == sum(step[name] for step in steps)
    assert prompt["matrices"] == sum(step["matrices"] for step in steps) - 49 * 3 * counts["head"]


def test_numbers_go_by_their_axes(explorer):
    """Twice the context: twice the keys and values, and the same states. Twice the rows: twice of everything."""
    small, longer, wider = (explorer.numbers(context=c, batch=b) for c, b in ((1024, 1), (2048, 1), (1024, 2)))
    assert longer["memory"]["keys and values"] == 2 * small["memory"]["keys and values"]
    assert longer["memory"]["states"] == small["memory"]["states"]
    for chart in small:
        assert all(wider[chart][name] == 2 * small[chart][name] for name in small[chart] if name != "weights")
    assert wider["memory"]["weights"] == longer["memory"]["weights"] == small["memory"]["weights"] > 0
    half, whole = (explorer.numbers(dtype=dtype)["memory"] for dtype in ("bfloat16", "float32"))
    assert whole["keys and values"] == 2 * half["keys and values"]
    assert half["states"] < whole["states"] < 1.05 * half["states"]     # the states themselves are float32 always


def test_table(explorer):
    rows = pixels.cost_table(explorer)
    assert [row["size"] for row in rows] == SIZES
    here = explorer.numbers("Qwen3.5-9B")
    assert rows[3]["states"] == here["memory"]["states"]
    assert rows[3]["next token"] == pytest.approx(sum(here["work"].values()) - here["work"]["all attention"])
    assert rows[3]["of it attention"] == pytest.approx(here["work"]["attention"] / rows[3]["next token"])
    work = explorer.numbers("Qwen3.5-9B", work="prompt")["work"]
    assert rows[3]["prompt"] == pytest.approx(sum(work.values()) - work["all attention"])
    assert cost.operations(1.234e12) == "1.23 T" and cost.operations(12) == "12" and cost.operations(5e18) == "5 E"
    assert cost.operations(999.7e9) == "1 T"


def heights(values, decades):
    return (decades[1] - np.log10(values)) / (decades[1] - decades[0]) * (cost.HEIGHT - 1)


def rows_of(picture, colour):
    """Where a colour is, column by column: the middle of what is drawn in it, or nan."""
    drawn = (picture == np.array([*bytes.fromhex(colour[1:]), 255], np.uint8)).all(-1)
    rows = np.arange(len(picture))[:, None]
    with np.errstate(invalid="ignore"):
        return np.where(drawn.any(0), (rows * drawn).sum(0) / drawn.sum(0), np.nan)


def test_frame_at_every_place(explorer):
    """At each size, batch, dtype and kind of work every line is where its numbers are, and the context is marked."""
    pictures, columns = set(), 256 * 2 ** (np.arange(cost.WIDTH) / 70)
    for i, size in enumerate(SIZES):
        for batch in cost.BATCHES:
            for dtype in cost.DTYPES:
                for work in cost.WORKS:
                    context = cost.CONTEXTS[(5 * i + batch) % len(cost.CONTEXTS)]
                    for chart in cost.CHARTS:
                        if chart == "memory" and work == "prompt" or chart == "work" and dtype == "float32":
                            continue                                    # the same once more
                        picture = pixels.cost_chart(explorer, chart, size, context, batch, dtype, work)
                        assert picture.shape == (cost.HEIGHT, cost.WIDTH, 4) and picture.dtype == np.uint8
                        pictures.add(picture.tobytes())
                        costs = cost.cost(explorer.counts[size], columns, batch, dtype, work)[chart]
                        decades = explorer.story["decades"][f"{chart} {work}"]
                        at = 70 * cost.CONTEXTS.index(context)
                        for name in cost.CHARTS[chart]:
                            rows = rows_of(picture, cost.COLOURS["light"][name])
                            off = np.abs(rows - heights(costs[name] + 0 * columns, decades))
                            off[max(0, at - 12) : at + 13] = 0                          # a dot is there
                            assert np.nanmedian(off) < 1 and np.isnan(off).mean() < 0.6, (size, chart, name)
                        marked = rows_of(picture, cost.COLOURS["light"]["here"])
                        drawn = np.flatnonzero(~np.isnan(marked))
                        assert drawn.min() == max(0, at - 1) and drawn.max() == min(cost.WIDTH - 1, at + 1)
    assert len(pictures) == 5 * 7 * (2 + 2)
    assert not np.array_equal(pixels.cost_chart(explorer), pixels.cost_chart(explorer, dark=True))


def test_all_lines_are_on_their_axes(explorer):
    for name, (low, high) in explorer.story["decades"].items():
        chart, work = name.split()
        for size in SIZES:
            for batch in (1, 64):
                for context in (256, 2 ** 20):
                    for dtype in cost.DTYPES:
                        numbers = explorer.numbers(size, context, batch, dtype, work)[chart]
                        assert all(10.0 ** low <= x <= 10.0 ** high for x in numbers.values())


def test_models_of_one_kind_of_layer():
    alone = {kind: small_config(layer_types=[kind] * 4) for kind in ("full_attention", "linear_attention")}
    explorer = ContextCost(alone)
    assert explorer.numbers("full_attention")["memory"]["states"] == 0
    memory = explorer.numbers("linear_attention")["memory"]
    assert memory["keys and values"] == memory["all attention"] == 0 and memory["states"] > 0
    assert memory["weights"] == sum(weight_bytes(alone["linear_attention"]).values())
    for size in alone:
        assert pixels.cost_chart(explorer, size=size).any()


def test_position(explorer):
    assert [getattr(explorer, name) for name in explorer.position] == ["Qwen3.5-4B", 4096, 2, "bfloat16", "token", 16]
    there = pixels.cost_chart(explorer, "memory", "Qwen3.5-4B", 4096, 2, "bfloat16", "token")
    assert np.array_equal(pixels.cost_chart(explorer), there)
    for wrong, match in (({"size": "Qwen3.5-3B"}, "no size 'Qwen3.5-3B' to show; there are Qwen3.5-0.8B, "),
                         ({"context": 1000}, "no context 1000 .* 256, 512, 1,024, .*1,048,576"),
                         ({"batch": 3}, "no batch 3"), ({"dtype": "int8"}, "no dtype 'int8'"),
                         ({"work": "all"}, "no work 'all' to show; there are token, prompt"),
                         ({"bits": 3}, "no bits 3 to show; there are 16, 8, 4")):
        with pytest.raises(QwenError, match=match):
            ContextCost(**wrong)
        with pytest.raises(QwenError, match=match):
            explorer.numbers(**wrong)
    for wrong in ({}, {"a": 1}):
        with pytest.raises(QwenError, match="Give names and configurations"):
            ContextCost(wrong)


def test_errors_in_callbacks_are_shown():
    explorer = ContextCost()
    explorer.observe(lambda change: 1 / 0, "batch")
    move(explorer, batch=2)
    assert explorer.problem == "ZeroDivisionError: division by zero" and explorer.batch == 2


def test_in_a_notebook(explorer):
    assert in_a_notebook(explorer) == f"ContextCost({', '.join(SIZES)}: 256 to 1,048,576 tokens)"


def test_picture_is_described(explorer, figures):
    explorer.picture(size="Qwen3.5-2B", context=8192)
    explorer.picture(work="prompt", alt="Mine.")
    (figure, alt), (other, mine) = figures
    kept = explorer.numbers("Qwen3.5-2B", 8192)["memory"]
    assert readable(kept["keys and values"]) in alt and readable(kept["states"]) in alt and "2 rows, bfloat16" in alt
    assert mine == "Mine." and "whole prompt" in other.axes[1].get_title()
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines if len(line.get_ydata()) > 2}
    assert lines["keys and values"][5] == kept["keys and values"] and set(lines["states"]) == {kept["states"]}
    figure.canvas.draw()
    ticks = [{label.get_text() for label in ax.get_yticklabels()} for ax in figure.axes]
    assert {"10 MB", "1 GB"} <= ticks[0] and {"100 M", "10 G"} <= ticks[1], "bytes and operations, no powers of ten"
    for drawn in (figure, other):
        assert all(ax.get_xscale() == ax.get_yscale() == "log" for ax in drawn.axes)
        drawn.canvas.draw()


def test_page_holds_everything(explorer, tmp_path):
    page = explorer.to_html(tmp_path / "page.html")
    kept = kept_in(page)
    assert kept["story"]["counts"] == explorer.counts and kept["pages"] == {}
    assert [kept[name] for name in explorer.position] == [getattr(explorer, name) for name in explorer.position]
    assert page.stat().st_size < 70_000                                 # bytes: it is numbers of models, not data
