"""The expert explorer without a browser: its numbers are the routers', drawn in their places; mistakes are told."""

import base64
import json
from dataclasses import replace

import numpy as np
import pixels
import pytest
import torch
from support import random_qwen, shape_of_0_8b, small_config, tokens
from widget_support import in_a_notebook, kept_in, move

from minqwen import plots
from minqwen.config import Config
from minqwen.errors import QwenError
from minqwen.trace import trace
from minqwen.widgets import ExpertExplorer, experts

T, E = 14, 7


def mixture() -> Config:
    text = {"num_experts": E, "num_experts_per_tok": 3, "moe_intermediate_size": 40,
            "shared_expert_intermediate_size": 56, "model_type": "qwen3_5_moe_text"}
    return Config.from_dict({**small_config().to_dict()["text_config"], **text})


def shape_of_35b() -> Config:
    """Layers and experts of Qwen3.5-35B-A3B, and nothing else of it: what the explorer must bear."""
    published = Config.named("Qwen3.5-35B-A3B").text_config
    few = {name: getattr(published, name) for name in ("num_experts", "num_experts_per_tok", "num_hidden_layers")}
    return Config(replace(shape_of_0_8b().text_config, moe_intermediate_size=4, shared_expert_intermediate_size=4,
                          layer_types=None, **few))


@pytest.fixture(scope="module")
def model():
    return random_qwen(mixture())


@pytest.fixture(scope="module")
def explorer(model):
    return ExpertExplorer(model, tokens(1, T))


def test_numbers_are_the_routers(model, explorer):
    heard = {}
    hooks = [layer.mlp.register_forward_hook(lambda block, args, _, i=i: heard.update({i: (block, args[0][0])}))
             for i, layer in enumerate(model.model.language_model.layers)]
    model(tokens(1, T))
    for hook in hooks:
        hook.remove()
    for i, (block, x) in heard.items():
        p = (x @ block.gate.weight.T).softmax(-1)
        assert np.allclose(explorer.values("probabilities", i), p, atol=1e-6)
        told = explorer.values("weights", i)
        for t in range(T):
            best = p[t].topk(3).indices
            assert set(told[t].nonzero()[0]) == set(best.tolist())
            assert np.allclose(told[t, best], p[t, best] / p[t, best].sum(), atol=1e-6)
        assert np.allclose(explorer.values("shared", i), torch.sigmoid(block.shared_expert_gate(x)), atol=1e-6)
        assert np.allclose(explorer.loads()[i], (told > 0).mean(0)) and np.isclose(explorer.loads()[i].sum(), 3)
    with pytest.raises(QwenError, match="no 'alpha'; it has weights, probabilities, shared"):
        explorer.values("alpha", 3)


def test_frame_at_every_place(explorer):
    """Every cell has the colour of its number, and the two profiles are as long as theirs."""
    palette = np.insert(plots.sequential(), 3, 255, axis=1).astype(int)
    for layer in range(4):
        shown = explorer.story["layers"][layer]
        (across, down), shares = shown["cell"], explorer.values("weights", layer) / shown["limit"]
        assert shares.max() == 1
        for token in range(0, T, 3):
            for head in range(E):
                picture = pixels.expert_panel(explorer, token, layer, head)
                high, wide = E * down, T * across
                assert picture.shape == (high + experts.GAP + experts.BAR, wide + experts.GAP + experts.ACROSS, 4)
                cells = picture[:high, :wide].reshape(E, down, T, across, 4)
                assert (cells == cells[:, :1, :, :1]).all()
                shade = np.abs(cells[::-1, 0, :, 0, None].astype(int) - palette).sum(-1).argmin(-1)
                assert np.abs(shade / 255 - shares.T).max() < 1 / 80
                length = (picture[(E - 1 - head) * down, wide + experts.GAP :] == palette[255]).all(-1).sum()
                assert abs(length - shares[token, head] * experts.ACROSS) <= 0.5
                length = (picture[high + experts.GAP :, token * across] == palette[255]).all(-1).sum()
                assert abs(length - shares[token, head] * experts.BAR) <= 0.5
    across, down = explorer.story["load"]
    loads = pixels.expert_loads(explorer)
    shade = np.abs(loads[::-down, ::across, None].astype(int) - palette).sum(-1).argmin(-1)
    assert np.abs(shade / 255 * explorer.story["most"] - explorer.loads().T).max() < 1 / 80
    row = pixels.expert_shared(explorer, 2, 1)[0, : T * explorer.story["shared"][0] : explorer.story["shared"][0]]
    shade = np.abs(row[:, None].astype(int) - palette).sum(-1).argmin(-1)
    assert np.abs(shade / 255 - explorer.values("shared", 1)[:, 0]).max() < 1 / 80


def test_padding_is_left_out(model):
    ids, mask = tokens(2, T), torch.ones(2, T, dtype=torch.long)
    mask[0, :6] = 0
    with torch.no_grad(), trace(model) as t:
        model(ids, attention_mask=mask)
    padded, alone, other = ExpertExplorer(t), ExpertExplorer(model, ids[:1, 6:]), ExpertExplorer(t, row=1)
    assert padded.story["tokens"] == alone.story["tokens"] and np.allclose(padded.loads(), alone.loads())
    for layer in range(4):
        for name in ("weights", "probabilities", "shared"):
            assert np.allclose(padded.values(name, layer), alone.values(name, layer), atol=1e-5)
    assert np.allclose(other.values("shared", 1)[:, 0], t.layers[1].shared_gate[1])


def test_pages(model, monkeypatch):
    small = ExpertExplorer(model, tokens(1, T), layer=1)
    assert small.story["all_here"] and list(small.pages) == [f"layer {i}" for i in range(4)]
    told = np.frombuffer(small.pages["layer 1"], "<f4")
    assert np.array_equal(told[: T * E].reshape(T, E), small.values("weights", 1))
    assert np.array_equal(told[T * E : 2 * T * E].reshape(T, E), small.values("probabilities", 1))
    assert np.array_equal(told[2 * T * E :], small.values("shared", 1)[:, 0])
    monkeypatch.setattr(ExpertExplorer, "at_once", 100)
    large, sent = ExpertExplorer(model, tokens(1, T), layer=1), []
    assert list(large.pages) == ["layer 1"] and not large.story["all_here"]
    monkeypatch.setattr(large, "send", lambda message, buffers: sent.append((message, buffers)))
    large._handle_custom_msg({"want": "layer 2"}, [])
    assert sent == [({"page": "layer 2"}, [small.pages["layer 2"]])]


def test_the_size_of_35b():
    """40 layers of 256 experts and 300 tokens: one layer is sent at first, and it fits a page."""
    explorer = ExpertExplorer(random_qwen(shape_of_35b()), tokens(1, 300))
    assert explorer.loads().shape == (40, 256) and not explorer.story["all_here"]
    assert sum(map(len, explorer.pages.values())) + len(json.dumps(explorer.story)) < 1_000_000         # bytes
    assert pixels.expert_panel(explorer).shape[0] < 300 and pixels.expert_panel(explorer).shape[1] < 700
    assert pixels.expert_loads(explorer).shape[:2] == (256, 160)


def test_position(model):
    explorer = ExpertExplorer(model, tokens(1, T), token=-2, layer=1)
    assert explorer.token == T - 2
    assert explorer.head == explorer.values("weights", 1)[T - 2].argmax()               # its first expert
    move(explorer, head=5)
    assert np.array_equal(pixels.expert_panel(explorer), pixels.expert_panel(explorer, T - 2, 1, 5))
    for wrong, match in (({"layer": 4}, "no layer 4 to explore; the last is 3"), ({"token": T}, "no token 14"),
                         ({"head": 7}, "no expert 7 to explore; the last is 6"), ({"token": -15}, "no token -15")):
        with pytest.raises(QwenError, match=match):
            ExpertExplorer(model, tokens(1, T), **wrong)
    for name in ("token", "layer", "head"):
        for odd in ("1", 1.0, True):
            with pytest.raises(QwenError, match=f"{name} is a whole number, and not "):
                ExpertExplorer(model, tokens(1, T), **{name: odd})
    with pytest.raises(QwenError, match="room for 4096 tokens, but these are 4097"):
        ExpertExplorer(model, tokens(1, 4097))


def test_what_it_needs_is_told(model):
    for wrong in ((model,), (trace(model).run(tokens(1, 3)), "text")):
        with pytest.raises(QwenError, match="a model and a text"):
            ExpertExplorer(*wrong)
    with pytest.raises(QwenError, match="Layer 0 has an MLP and no experts"):
        ExpertExplorer(random_qwen(), tokens(1, 3))


def test_errors_in_callbacks_are_shown(model):
    explorer = ExpertExplorer(model, tokens(1, T), head=0)
    explorer.observe(lambda change: 1 / 0, "head")
    move(explorer, head=2)
    assert explorer.problem == "ZeroDivisionError: division by zero" and explorer.head == 2
    explorer._handle_custom_msg({"want": "layer 9"}, [])
    assert explorer.problem == "QwenError: There is no layer 9 to explore; the last is 3."


def test_in_a_notebook(explorer):
    assert in_a_notebook(explorer) == "ExpertExplorer(14 tokens; 4 layers of 7 experts, 3 for a token)"


def test_picture_is_described(explorer, figures):
    explorer.picture(token=4, layer=1, head=2)
    explorer.picture(token=4, layer=3, head=1, alt="Mine.")
    (figure, alt), (other, mine) = figures
    assert alt.startswith("What each of the 7 experts of layer 1 counts for 14 tokens, a row for each expert")
    assert "Token 5 and expert 2 are marked." in alt and mine == "Mine."
    above, beside, below = (ax.images[0].get_array() for ax in figure.axes[:3])
    assert np.array_equal(above, explorer.values("weights", 1).T) and np.array_equal(beside, explorer.loads().T)
    assert np.array_equal(below[0], explorer.values("shared", 1)[:, 0])
    for drawn in (figure, other):
        drawn.canvas.draw()


def test_page_holds_everything(explorer, tmp_path):
    kept = kept_in(explorer.to_html(tmp_path / "page.html"))
    assert list(kept["pages"]) == explorer.page_names()
    assert [kept[name] for name in explorer.position] == [getattr(explorer, name) for name in explorer.position]
    assert base64.b64decode(kept["pages"]["layer 1"]) == explorer.page("layer 1")
    kept = kept_in(explorer.to_html(tmp_path / "less.html", layers=[2, 3]))
    assert [x["index"] for x in kept["story"]["layers"]] == [2, 3] and kept["layer"] == 2
    assert list(kept["pages"]) == ["layer 2", "layer 3"]
    with pytest.raises(QwenError, match="at least one layer"):
        explorer.to_html(tmp_path / "less.html", layers=[])
