"""The gate explorer without a browser: its numbers are the trace's, drawn in their places; mistakes are told."""

import base64
import json

import numpy as np
import pixels
import pytest
import torch
from support import random_qwen, shape_of_0_8b, small_config, tokens
from torch.nn import functional as F
from widget_support import in_a_notebook, kept_in, move

from minqwen import plots
from minqwen.errors import QwenError
from minqwen.trace import trace
from minqwen.widgets import GateExplorer, gates

T, HEADS = 14, [6, 6, 6, 4]                                 # three Gated DeltaNet layers and one of attention
PLACES = [(layer, head) for layer in range(4) for head in range(HEADS[layer])]


@pytest.fixture(scope="module")
def model():
    return random_qwen()


@pytest.fixture(scope="module")
def explorer(model):
    return GateExplorer(model, tokens(1, T))


def test_numbers_are_the_traces(explorer):
    for layer, record in enumerate(explorer.trace.layers):
        factors = F.silu(record.z[0]) if layer < 3 else torch.sigmoid(record.gate[0])          # (T, H, D)
        expected = {"output": factors.abs().mean(-1), "shut": (factors.abs() < 0.1).sum(-1)}
        if layer < 3:
            expected |= {"alpha": record.alpha[0], "beta": record.beta[0]}
        for name, x in expected.items():
            assert np.allclose(explorer.values(name, layer), x, atol=1e-6), (layer, name)
        for head in range(HEADS[layer]):
            assert np.allclose(explorer.factors(layer, head), factors[:, head], atol=1e-6)
    with pytest.raises(QwenError, match="no 'beta'; it has output, shut"):
        explorer.values("beta", 3)
    assert (explorer.values("output", 3) <= 1).all() and explorer.values("shut", 3).any()


def test_places():
    alphas = np.array([0, 0.9, 0.99, 0.999, 0.9999, 1.0, 0.5], np.float32)
    assert np.allclose(gates.places("alpha", alphas, 1.0), [0, 0.25, 0.5, 0.75, 1, 1, np.log10(2) / 4], atol=1e-4)
    assert gates.places("beta", np.float32([0, 0.25, 1]), 1.0).tolist() == [0, 0.25, 1]
    assert gates.places("shut", np.float32([0, 8, 32]), 32.0).tolist() == [0, 0.25, 1]
    assert gates.marks("alpha", 1.0) == ["0", "0.9", "0.99", "0.999", "≥ 0.9999"]
    assert gates.marks("output", 2.46512) == ["0", "2.465"]


def bar(pixels, colour):
    """How many pixels of a row, or a column, have this colour."""
    return (pixels == colour).all(-1).sum()


def test_frame_at_every_place(explorer):
    """Every cell has the colour of its number, and the two profiles are as long as theirs."""
    palette = np.insert(plots.sequential(), 3, 255, axis=1)
    for layer, head in PLACES:
        shown = explorer.story["layers"][layer]
        (across, down), H = shown["cell"], HEADS[layer]
        for i, panel in enumerate(shown["panels"]):
            shares = gates.places(panel["name"], explorer.values(panel["name"], layer), panel["limit"]).astype(float)
            assert shares.min() >= 0 and shares.max() <= 1
            for token in range(0, T, 5):
                picture = pixels.gate_panel(explorer, token, layer, head, i)
                wide, high = T * across, H * down
                assert picture.dtype == np.uint8
                assert picture.shape == (high + gates.GAP + gates.BAR, wide + gates.GAP + gates.ACROSS, 4)
                cells = picture[:high, :wide].reshape(H, down, T, across, 4)
                assert (cells == cells[:, :1, :, :1]).all()
                shade = np.abs(cells[::-1, 0, :, 0, None].astype(int) - palette.astype(int)).sum(-1).argmin(-1)
                assert np.abs(shade / 255 - shares.T).max() < 1 / 80            # neighbours may share a colour
                for h in range(H):
                    row = picture[(H - 1 - h) * down, wide + gates.GAP :]
                    length = bar(row, palette[255 if h == head else 140])
                    assert abs(length - shares[token, h] * gates.ACROSS) <= 0.5
                for t in range(T):
                    column = picture[high + gates.GAP :, t * across]
                    length = bar(column, palette[255 if t == token else 140])
                    assert abs(length - shares[t, head] * gates.BAR) <= 0.5
                assert not picture[:high, wide : wide + gates.GAP].any()
    assert not np.array_equal(pixels.gate_panel(explorer, 3, 0, 0), pixels.gate_panel(explorer, 3, 0, 0, dark=True))
    every = {pixels.gate_panel(explorer, t, 0, h, i).tobytes() for t in range(T) for h in range(6) for i in range(3)}
    assert len(every) == T * 18


def test_dimensions_at_every_place(explorer):
    for layer, head in PLACES:
        for dark in (False, True):
            factors, signed = explorer.factors(layer, head), layer < 3
            D = factors.shape[1]
            across, down = explorer.story["layers"][layer]["dim_cell"]
            limit = np.abs(factors).max() if signed else 1.0
            picture = pixels.gate_dimensions(explorer, layer, head, dark)
            assert picture.shape == (D * down, T * across, 4) and (picture[..., 3] == 255).all()
            cells = picture.reshape(D, down, T, across, 4)
            assert (cells == cells[:, :1, :, :1]).all()
            palette = (plots.diverging if signed else plots.sequential)(dark).astype(int)
            shade = np.abs(cells[:, 0, :, 0, None, :3].astype(int) - palette).sum(-1).argmin(-1)
            number = (shade - 128) / 127 * limit if signed else shade / 255
            assert np.abs(number - factors.T).max() < limit / 80


def test_padding_is_left_out(model):
    ids, mask = tokens(2, T), torch.ones(2, T, dtype=torch.long)
    mask[0, :6] = 0
    with torch.no_grad(), trace(model) as t:
        model(ids, attention_mask=mask)
    padded, alone, other = GateExplorer(t), GateExplorer(model, ids[:1, 6:]), GateExplorer(t, row=1)
    assert [x["told"] for x in padded.story["layers"]] == [x["told"] for x in alone.story["layers"]]
    assert padded.story["tokens"] == alone.story["tokens"]
    for layer, head in PLACES:
        assert np.allclose(padded.values("output", layer), alone.values("output", layer), atol=1e-6)
        assert np.allclose(padded.factors(layer, head), alone.factors(layer, head), atol=1e-5)
    assert np.allclose(other.values("alpha", 1), t.layers[1].alpha[1])


def test_pages(model, monkeypatch):
    small = GateExplorer(model, tokens(1, T), layer=1)
    assert small.story["all_here"] and set(small.pages) == set(small.page_names()) and len(small.pages) == 4 + 22
    told = np.frombuffer(small.pages["layer 1"], "<f4").reshape(7, T, 6)
    assert np.array_equal(told[0], small.values("alpha", 1)) and np.array_equal(told[3], small.values("shut", 1))
    assert np.array_equal(told[4], gates.places("alpha", told[0], 1.0)) and np.array_equal(told[5], told[1])
    dims = np.frombuffer(small.pages["dims 3 2"], "<f4")
    assert dims[0] == 1 and np.array_equal(dims[1:].reshape(T, 32), small.factors(3, 2))

    monkeypatch.setattr(GateExplorer, "at_once", 20_000)            # all layers' numbers, but not all dimensions
    large = GateExplorer(model, tokens(1, T), layer=1, head=3)
    assert not large.story["all_here"]
    assert set(large.pages) == {*(f"layer {i}" for i in range(4)), "dims 1 3"}
    monkeypatch.setattr(GateExplorer, "at_once", 100)
    assert set(GateExplorer(model, tokens(1, T), layer=1, head=3).pages) == {"layer 1", "dims 1 3"}
    sent = []
    monkeypatch.setattr(large, "send", lambda message, buffers: sent.append((message, buffers)))
    large._handle_custom_msg({"want": "dims 2 5"}, [])
    assert sent == [({"page": "dims 2 5"}, [small.pages["dims 2 5"]])]


def test_the_size_of_0_8b():
    """24 layers of up to 16 heads and 300 tokens: a few megabytes are sent at first, further pages are small."""
    t = trace(random_qwen(shape_of_0_8b())).run(tokens(1, 300))
    explorer = GateExplorer(t, token=200)
    assert [x["heads"] for x in explorer.story["layers"]] == [16, 16, 16, 8] * 6 and not explorer.story["all_here"]
    assert sum(map(len, explorer.pages.values())) + len(json.dumps(explorer.story)) < 3_000_000         # bytes
    assert len(explorer.pages) == 24 + 1 and max(len(explorer.page(f"dims {i} 7")) for i in (0, 3)) < 320_000
    heights = [pixels.gate_panel(explorer, layer=layer, head=0).shape[0] for layer in (0, 3)]
    assert 3 * heights[0] < 300 > 2 * heights[1]                    # pixels
    assert pixels.gate_panel(explorer).shape[1] < 700


def test_position(model):
    explorer = GateExplorer(model, tokens(1, T), token=-2, head=5)
    assert [getattr(explorer, name) for name in explorer.position] == [T - 2, 0, 5]
    assert np.array_equal(pixels.gate_panel(explorer), pixels.gate_panel(explorer, T - 2, 0, 5))
    explorer.layer = 3                                              # which has but four heads
    assert explorer.head == 3
    assert np.array_equal(pixels.gate_dimensions(explorer), pixels.gate_dimensions(explorer, 3, 3))
    for wrong, match in (({"layer": 4}, "no layer 4 to explore; the last is 3"), ({"token": T}, "no token 14"),
                         ({"head": 6}, "no head 6 to explore; the last is 5"), ({"token": -15}, "no token -15")):
        with pytest.raises(QwenError, match=match):
            GateExplorer(model, tokens(1, T), **wrong)
    with pytest.raises(QwenError, match="room for 4096 tokens, but these are 4097"):
        GateExplorer(model, tokens(1, 4097))


def test_it_begins_where_most_is_to_be_seen(model, explorer):
    """Where a head's gate is farthest from its mean; of a head that is given, at its own such token."""
    for layer, name in ((0, "alpha"), (3, "output")):
        shares = gates.places(name, explorer.values(name, layer), 1.0)
        apart = np.abs(shares - shares.mean(0))
        whole, given = GateExplorer(explorer.trace, layer=layer), GateExplorer(explorer.trace, layer=layer, head=2)
        assert apart[whole.token, whole.head] == apart.max() and apart[given.token, 2] == apart[:, 2].max()


def test_what_it_needs_is_told(model):
    for wrong in ((model,), (trace(model).run(tokens(1, 3)), "text")):
        with pytest.raises(QwenError, match="a model and a text"):
            GateExplorer(*wrong)


def test_one_kind_of_layer_alone():
    for kind, panels in (("full_attention", 2), ("linear_attention", 3)):
        explorer = GateExplorer(random_qwen(small_config(layer_types=[kind] * 4)), tokens(1, 1))
        assert all(len(x["panels"]) == panels for x in explorer.story["layers"]) and pixels.gate_panel(explorer).any()


def test_errors_in_callbacks_are_shown(model):
    explorer = GateExplorer(model, tokens(1, T))
    explorer.observe(lambda change: 1 / 0, "head")
    move(explorer, head=2)
    assert explorer.problem == "ZeroDivisionError: division by zero" and explorer.head == 2
    explorer._handle_custom_msg({"want": "dims 1 99"}, [])
    assert explorer.problem == "QwenError: There is no head 99 to explore; the last is 5."


def test_in_a_notebook(explorer):
    assert in_a_notebook(explorer) == "GateExplorer(14 tokens; 3 Gated DeltaNet layers, 1 of gated attention)"


def test_picture_is_described(explorer, figures):
    explorer.picture(token=4, layer=1, head=2)
    explorer.picture(token=4, layer=3, head=1, alt="Mine.")
    (figure, alt), (other, mine) = figures
    assert alt.startswith("The gates of layer 1, a Gated DeltaNet layer, over 14 tokens, a row for each of 6 heads")
    assert "Token 5 and head 2 are marked." in alt and mine == "Mine."
    images = [ax.images[0].get_array() for ax in figure.axes if ax.images and len(ax.images[0].get_array()) != 256]
    assert np.array_equal(images[1], explorer.values("beta", 1).T)
    assert np.array_equal(images[3], explorer.factors(1, 2).T)
    images = [ax.images[0].get_array() for ax in other.axes if ax.images and len(ax.images[0].get_array()) != 256]
    assert len(images) == 3 and np.array_equal(images[0], explorer.values("output", 3).T)
    for drawn in (figure, other):
        drawn.canvas.draw()


def test_page_holds_everything(explorer, tmp_path):
    kept = kept_in(explorer.to_html(tmp_path / "page.html"))
    assert list(kept["pages"]) == explorer.page_names()
    assert [kept[name] for name in explorer.position] == [getattr(explorer, name) for name in explorer.position]
    assert base64.b64decode(kept["pages"]["dims 1 2"]) == explorer.page("dims 1 2")

    kept = kept_in(explorer.to_html(tmp_path / "less.html", layers=[2, 3]))
    assert [x["index"] for x in kept["story"]["layers"]] == [2, 3] and kept["layer"] == 2
    assert len(kept["pages"]) == 2 + 10
    with pytest.raises(QwenError, match="no layer 4"):
        explorer.to_html(tmp_path / "less.html", layers=[4])
    with pytest.raises(QwenError, match="at least one layer"):
        explorer.to_html(tmp_path / "less.html", layers=[])
