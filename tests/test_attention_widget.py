"""The attention explorer without a browser: its maps are the trace's, drawn in their places; mistakes are told."""

import base64
import json

import numpy as np
import pixels
import pytest
import torch
from support import random_qwen, shape_of_0_8b, small_config, tokens
from widget_support import in_a_notebook, kept_in, move

from minqwen import plots
from minqwen.errors import QwenError
from minqwen.trace import trace
from minqwen.widgets import AttentionExplorer, attention

T, HEADS = 14, [6, 6, 6, 4]                                 # three Gated DeltaNet layers and one of attention
PLACES = [(layer, head) for layer in range(4) for head in range(HEADS[layer])]


@pytest.fixture(scope="module")
def model():
    return random_qwen()


@pytest.fixture(scope="module")
def explorer(model):
    return AttentionExplorer(model, tokens(1, T))


def numbers(picture, palette, limit, signed, unit):
    """What the colours of a picture (n unit, n unit, 4) stand for, (n, n)."""
    n = len(picture) // unit
    squares = picture.reshape(n, unit, n, unit, 4)
    assert (squares == squares[:, :1, :, :1]).all()                                     # each cell has one colour
    cells = squares[:, 0, :, 0]
    drawn = np.tri(n, dtype=bool)
    assert np.array_equal(cells[..., 3] == 255, drawn) and not cells[~drawn].any()      # nobody looks ahead
    distance = np.abs(cells[:, :, None, :3].astype(int) - palette.astype(int)).sum(-1)  # (n, n, 256)
    assert not distance.min(-1)[drawn].any()
    shade = distance.argmin(-1)
    return np.where(drawn, (shade - 128) / 127 * limit if signed else shade / 255 * limit, 0)


def test_maps_are_the_traces(explorer):
    for layer, head in PLACES:
        expected = explorer.trace.layers[layer].attention[0, head].numpy()
        assert np.allclose(explorer.weights(layer, head), expected, atol=1e-6), (layer, head)
        assert np.array_equal(explorer.weights(layer, head), np.tril(explorer.weights(layer, head)))


def test_frame_at_every_place(explorer):
    for layer, head in PLACES:
        for dark in (False, True):
            weights, signed = explorer.weights(layer, head), layer < 3
            limit = attention.limit_of(weights)
            palette = (plots.diverging if signed else plots.sequential)(dark)
            picture = pixels.attention_map(explorer, layer, head, dark)
            assert picture.dtype == np.uint8 and picture.shape == (T * 28, T * 28, 4)
            shown, clipped = numbers(picture, palette, limit, signed, 28), weights.clip(-limit, limit)
            assert np.abs(shown - clipped).max() < limit / 80       # neighbours may share a colour
    assert len({pixels.attention_map(explorer, *place).tobytes() for place in PLACES}) == len(PLACES)


def test_overview_has_every_map_in_its_place(explorer):
    tile = explorer.story["tile"]
    side, step = tile["cells"] * tile["unit"], tile["cells"] * tile["unit"] + attention.GAP
    assert (tile["block"], tile["cells"]) == (1, T)
    picture, drawn = explorer.overview(), np.zeros((6 * step - attention.GAP, 4 * step - attention.GAP), bool)
    assert picture.shape[:2] == drawn.shape
    for layer, head in PLACES:
        top, left = (5 - head) * step, layer * step
        here = np.s_[top : top + side, left : left + side]
        drawn[here] = True
        small, large = picture[here], pixels.attention_map(explorer, layer, head)
        assert np.array_equal(small[:: tile["unit"], :: tile["unit"]], large[::28, ::28]), (layer, head)
    assert not picture[~drawn].any()
    assert not np.array_equal(picture, explorer.overview(dark=True))


def test_a_few_large_weights_leave_the_rest_its_colours():
    weights = np.tril(np.full((40, 40), 0.01, np.float32))          # 820 of them
    weights[range(5), range(5)] = 1.0
    assert attention.limit_of(weights) == np.float32(0.01)
    assert attention.limit_of(np.eye(3, dtype=np.float32)) == 1.0
    few = np.zeros((40, 40), np.float32)
    few[3, 1] = -0.5
    assert attention.limit_of(few) == 0.5 and attention.limit_of(0 * few) == 1.0
    shade = attention.shades(np.array([-2.0, -1, 0, 1, 2]), 1.0, signed=True)
    assert shade.tolist() == [1, 1, 128, 255, 255]
    assert attention.shades(np.array([0, 0.5, 1, 2]), 1.0, signed=False).tolist() == [0, 128, 255, 255]


def test_blocks_show_their_strongest():
    weights = np.tril(np.arange(25, dtype=np.float32).reshape(5, 5)) / 100
    weights[4, 3] = -0.9
    assert attention.blocks(weights, 1).tolist() == weights.tolist()
    assert np.allclose(attention.blocks(weights, 2), [[0.06, 0, 0], [0.16, 0.18, 0], [0.21, -0.9, 0.24]])


def test_habits():
    itself, previous, first = np.eye(6), np.eye(6, k=-1), np.zeros((6, 6))
    first[:, 0] = -1
    mixed = 0.5 * itself + 0.3 * previous + 0.2 * first
    assert np.allclose(attention.habits(mixed.astype(np.float32)), [0.5, 0.3, 0.2])
    assert attention.habits(np.ones((2, 2), np.float32)).tolist() == [0, 0, 0]


def test_padding_is_left_out(model):
    ids, mask = tokens(2, T), torch.ones(2, T, dtype=torch.long)
    mask[0, :6] = 0
    with torch.no_grad(), trace(model) as t:
        model(ids, attention_mask=mask)
    padded, alone = AttentionExplorer(t), AttentionExplorer(model, ids[:1, 6:])
    assert padded.story == alone.story
    for place in PLACES:
        assert np.allclose(padded.weights(*place), alone.weights(*place), atol=1e-6)
    other = AttentionExplorer(t, row=1)
    assert np.allclose(other.weights(3, 2), t.layers[3].attention[1, 2], atol=1e-6)


def test_a_conversation_that_was_going_on(model):
    cache, ids = model.new_cache(2, T), tokens(2, T)
    with torch.no_grad():
        model(ids[:, :5], cache=cache)
        with trace(model) as t:
            model(ids[:, 5:], cache=cache)
    explorer, whole = AttentionExplorer(t, row=1), AttentionExplorer(model, ids[1:])
    assert not explorer.story["begins"] and whole.story["begins"]
    for place in PLACES:
        assert np.allclose(explorer.weights(*place), whole.weights(*place)[5:, 5:], atol=1e-5)
    assert (explorer.weights(3, 0).sum(-1) < 0.99).any()


def test_pages(model, monkeypatch):
    small = AttentionExplorer(model, tokens(1, T), layer=1)
    assert small.story["all_here"] and set(small.pages) == set(small.page_names()) and len(small.pages) == 4 + 22
    page = np.frombuffer(small.pages["map 2 5"], "<f4")
    assert len(small.pages["map 2 5"]) == small.story["map_bytes"] and page[0] == np.float32(
        attention.limit_of(small.weights(2, 5)))
    assert np.array_equal(page[1:], small.weights(2, 5)[np.tril_indices(T)])

    monkeypatch.setattr(AttentionExplorer, "at_once", 1000)
    large = AttentionExplorer(model, tokens(1, T), layer=1, head=3)
    assert not large.story["all_here"] and set(large.pages) == {"layer 1", "map 1 3"}
    sent = []
    monkeypatch.setattr(large, "send", lambda message, buffers: sent.append((message, buffers)))
    large._handle_custom_msg({"want": "map 2 5"}, [])
    assert sent == [({"page": "map 2 5"}, [small.pages["map 2 5"]])]


def test_the_size_of_0_8b(monkeypatch):
    """24 layers of up to 16 heads and 300 tokens: little is sent at first, pages are small, maps are not made anew."""
    t = trace(random_qwen(shape_of_0_8b())).run(tokens(1, 300))
    made, effective_attention = [], attention.effective_attention
    monkeypatch.setattr(attention, "effective_attention", lambda *x: made.append(x[0].shape) or effective_attention(*x))
    explorer = AttentionExplorer(t)
    layers = explorer.story["layers"]
    assert [x["heads"] for x in layers] == [16, 16, 16, 8] * 6 and not explorer.story["all_here"]
    at_first = sum(map(len, explorer.pages.values())) + len(json.dumps(explorer.story))
    assert at_first < 300_000                                       # bytes
    height, width = explorer.overview().shape[:2]                   # makes the page of every layer
    assert height <= attention.GRID_HEIGHT and width <= attention.GRID_WIDTH
    assert sum(len(explorer.page(f"layer {x['index']}")) for x in layers) < 600_000
    assert len(explorer.page("map 0 15")) == explorer.story["map_bytes"] < 200_000
    assert pixels.attention_map(explorer, 3, 7).shape == (300, 300, 4)
    assert len(made) < 2 * 18 * 16 + 10                              # once for the overview, once for its page


def test_long_texts(model):
    explorer = AttentionExplorer(model, tokens(1, 700))
    assert explorer.story["map"] == {"block": 2, "cells": 350, "unit": 1}
    weights = explorer.weights(3, 1)
    expected = attention.shades(attention.blocks(weights, 2), attention.limit_of(weights), signed=False)
    picture = pixels.attention_map(explorer, 3, 1)
    assert np.array_equal(picture, attention.coloured(expected, plots.sequential(), 1))
    with pytest.raises(QwenError, match="room for 2048 tokens, but these are 2049"):
        AttentionExplorer(model, tokens(1, 2049))


def test_one_token(model):
    explorer = AttentionExplorer(model, tokens(1, 1))
    assert explorer.weights(3, 0).tolist() == [[1.0]] and pixels.attention_map(explorer, 3, 0).shape == (28, 28, 4)


def test_it_begins_where_most_is_to_be_seen(model):
    """In the head with the sharpest look, at that; neither at a token's look at itself nor at the first of the text."""
    even = np.tril(np.ones((6, 6))) / np.arange(1, 7)[:, None]
    sink, sharp = np.zeros((6, 6)), even.copy()
    sink[:, 0] = 1
    sharp[4] = [0.05, 0.1, -0.75, 0.05, 0.05, 0]
    assert attention.telling(sharp)[1:] == (4, 2) and attention.telling(sharp)[0] == pytest.approx(0.75 - 0.2)
    assert max(attention.telling(x)[0] for x in (even, sink, np.eye(6))) < 1e-12
    assert attention.telling(np.ones((2, 2)))[1:] == (1, 0) and attention.telling(np.ones((1, 1)))[1:] == (0, 0)
    explorer = AttentionExplorer(model, tokens(1, T))
    strengths = [attention.telling(explorer.weights(3, head)) for head in range(4)]
    assert (explorer.layer, explorer.head) == (3, int(np.argmax([strength for strength, *_ in strengths])))
    assert (explorer.token, explorer.seen) == strengths[explorer.head][1:] and 0 < explorer.seen < explorer.token
    given = AttentionExplorer(explorer.trace, layer=1, head=2, token=-1)
    assert (given.layer, given.head, given.token) == (1, 2, T - 1)
    assert given.seen == attention.telling(explorer.weights(1, 2))[2]


def test_an_empty_text_is_told(model):
    for text in ("", [], torch.zeros(1, 0, dtype=torch.long)):
        with pytest.raises(QwenError, match="AttentionExplorer has nothing to show: the text is empty"):
            AttentionExplorer(model, text)


def test_position(model):
    explorer = AttentionExplorer(model, tokens(1, T), head=0, token=-2, seen=3)
    assert [getattr(explorer, name) for name in explorer.position] == [3, 0, T - 2, 3, False]
    explorer.layer, explorer.head = 0, 5
    assert np.array_equal(pixels.attention_map(explorer), pixels.attention_map(explorer, 0, 5))
    explorer.layer = 3                                              # which has but four heads
    assert explorer.head == 3
    for wrong, match in (({"layer": 4}, "no layer 4 to explore; the last is 3"),
                         ({"head": 4}, "no head 4 .* last is 3"),
                         ({"token": T}, "no token 14 .* last is 13"), ({"seen": -15}, "no token -15")):
        with pytest.raises(QwenError, match=match):
            AttentionExplorer(model, tokens(1, T), **wrong)
    with pytest.raises(QwenError, match="no head 5"):
        explorer.weights(3, 5)


def test_what_it_needs_is_told(model):
    for wrong in ((model,), (trace(model).run(tokens(1, 3)), "text")):
        with pytest.raises(QwenError, match="a model and a text"):
            AttentionExplorer(*wrong)


def test_one_kind_of_layer_alone():
    for kind, signed in (("full_attention", False), ("linear_attention", True)):
        explorer = AttentionExplorer(random_qwen(small_config(layer_types=[kind] * 4)), tokens(1, 3))
        assert explorer.layer == 0 and all(x["signed"] == signed for x in explorer.story["layers"])
        assert explorer.overview().any()


def test_errors_in_callbacks_are_shown(model):
    explorer = AttentionExplorer(model, tokens(1, T))
    explorer.observe(lambda change: 1 / 0, "head")
    move(explorer, head=2)
    assert explorer.problem == "ZeroDivisionError: division by zero" and explorer.head == 2
    explorer._handle_custom_msg({"want": "map 99 0"}, [])
    assert explorer.problem.startswith("KeyError")


def test_in_a_notebook(explorer):
    assert in_a_notebook(explorer) == (
        "AttentionExplorer(14 tokens; 1 layers of softmax attention, 3 of effective attention)")


def test_picture_is_described(explorer, figures):
    explorer.picture(layer=1, head=4)
    explorer.picture(layer=3, head=1, alt="Mine.")
    (figure, alt), (softmax, mine) = figures
    assert alt.startswith("Left, the maps of all 4 layers") and "layer 1, head 4 (effective attention)" in alt
    assert mine == "Mine."
    tiles, large = (figure.axes[i].images[0] for i in range(2))
    assert np.array_equal(tiles.get_array(), explorer.overview())
    assert np.array_equal(large.get_array().filled(0), explorer.weights(1, 4))
    low, high = large.get_clim()
    assert low == -high < 0 and softmax.axes[1].images[0].get_clim()[0] == 0
    layers, heads = ([label.get_text() for label in labels] for labels in (
        figure.axes[0].get_xticklabels(), figure.axes[0].get_yticklabels()))
    assert layers[-1] == "3 softmax" and heads == ["5", "4", "3", "2", "1", "0"]                     # from the top
    for drawn in (figure, softmax):
        drawn.canvas.draw()


def test_page_holds_everything(explorer, tmp_path):
    kept = kept_in(explorer.to_html(tmp_path / "page.html"))
    assert list(kept["pages"]) == explorer.page_names()
    assert [kept[name] for name in explorer.position] == [getattr(explorer, name) for name in explorer.position]
    assert base64.b64decode(kept["pages"]["map 1 2"]) == explorer.page("map 1 2")

    kept = kept_in(explorer.to_html(tmp_path / "less.html", layers=[2, 0]))
    assert [x["index"] for x in kept["story"]["layers"]] == [0, 2] and kept["layer"] == 0
    assert len(kept["pages"]) == 2 + 12
    with pytest.raises(QwenError, match="no layer 4"):
        explorer.to_html(tmp_path / "less.html", layers=[4])
    with pytest.raises(QwenError, match="at least one layer"):
        explorer.to_html(tmp_path / "less.html", layers=[])
