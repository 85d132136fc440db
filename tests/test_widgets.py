"""The state explorer without a browser: its numbers are the trace's, and mistakes are told."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from support import random_qwen, small_config, tokens

from minqwen import plots
from minqwen.errors import QwenError
from minqwen.trace import trace
from minqwen.widgets import StateExplorer, state

T = 14


@pytest.fixture(scope="module")
def model():
    return random_qwen()


@pytest.fixture(scope="module")
def explorer(model):
    return StateExplorer(model, tokens(1, T))


def begun(model):
    """A trace that begins in the middle of a conversation."""
    cache, ids = model.new_cache(2, T), tokens(2, T)
    with torch.no_grad():
        model(ids[:, :5], cache=cache)
        with trace(model) as t:
            model(ids[:, 5:], cache=cache)
    return t


def test_every_step_is_the_traces(explorer):
    for record in explorer.trace.delta_layers:
        for head in range(6):
            steps, _ = explorer._steps(record.index, head)
            for t in range(T):
                mine = {name: torch.tensor(x, dtype=torch.float32) for name, x in steps[t].items()}
                torch.testing.assert_close(mine["memory"], record.state(t, head))
                torch.testing.assert_close(mine["decayed"], record.decayed(t, head))
                torch.testing.assert_close(mine["erased"], record.erase(t, head))
                torch.testing.assert_close(mine["written"], record.write(t, head))
                torch.testing.assert_close(mine["error"], record.error(t, head))
                torch.testing.assert_close(mine["value"], record.v[0, t, head])
                torch.testing.assert_close(mine["now"], record.answers(t, head).values[-1])


def test_a_conversation_that_was_going_on(model):
    t = begun(model)
    explorer = StateExplorer(t, row=1)
    assert not explorer.story["begins_empty"]
    steps, _ = explorer._steps(2, 4)
    torch.testing.assert_close(torch.tensor(steps[-1]["memory"]).float(), t.layers[2].state(-1, 4, row=1))


def test_padding_is_left_out(model):
    ids, mask = tokens(2, T), torch.ones(2, T, dtype=torch.long)
    mask[0, :6] = 0
    with torch.no_grad(), trace(model) as t:
        model(ids, attention_mask=mask)
    padded, alone = StateExplorer(t, token=3), StateExplorer(model, ids[:1, 6:], token=3)
    assert padded.story == alone.story
    for mine, theirs in zip(padded._steps(1, 5)[0], alone._steps(1, 5)[0], strict=True):
        assert np.allclose(mine["memory"], theirs["memory"], atol=1e-5)


def test_frame_at_every_place(explorer):
    """Each part stands in its place, coloured by its number."""
    height, width, places = state.layout(16, 24)
    palette = {tuple(colour): i for i, colour in reversed(list(enumerate(plots.diverging().tolist())))}
    for layer in (0, 1, 2):
        for head in range(6):
            steps, limits = explorer._steps(layer, head)
            for t in range(0, T, 3):
                picture = explorer.frame(t, layer, head)
                assert picture.shape == (height, width, 4) and picture.dtype == np.uint8
                drawn = np.zeros((height, width), bool)
                for name, scale, x, y, down, across in places:
                    part = steps[t][name]
                    part = part.reshape({"memory": (16, 24), "key": (16, 1), "value": (1, 24)}[scale])
                    here = np.s_[y : y + len(part) * down, x : x + part.shape[1] * across]
                    assert not drawn[here].any()                     # no part hides another
                    drawn[here] = True
                    colours = picture[here][..., :3].tolist()
                    shade = np.array([[palette[tuple(pixel)] for pixel in line] for line in colours])
                    number = (shade - 128) / 127 * limits[scale]
                    expected = np.kron(part, np.ones((down, across))).clip(-limits[scale], limits[scale])
                    assert np.abs(number - expected).max() < limits[scale] / 80     # neighbours may share a colour
                assert np.array_equal(picture[..., 3], drawn * 255)
    assert not np.array_equal(explorer.frame(3, 0, 0), explorer.frame(3, 0, 0, dark=True))


def test_large_heads_have_large_units():
    height, width, places = state.layout(128, 128)
    assert (height, width) == (152, 4 * 128 + 3 * 48) and max(place[4] for place in places) == 16


def test_colours_keep_to_zero_and_to_their_limits():
    parts = state.step(np.zeros((2, 2)), np.array([1.0, 0.0]), np.array([5.0, -5.0]), 1.0, 1.0)
    picture = state.frame(parts, {"memory": 1.0, "key": 1.0, "value": 1.0}, plots.diverging())
    low, zero, high = plots.diverging()[[1, 128, 255]].tolist()
    assert picture[0, :2, :3].tolist() == [high, low] and picture[1, :2, :3].tolist() == [zero, zero]


def test_pages_come_at_once_if_they_are_small(model, monkeypatch):
    small = StateExplorer(model, tokens(1, T))
    assert set(small.pages) == {"0", "1", "2"} and len(small.pages["0"]) == small._size
    monkeypatch.setattr(StateExplorer, "at_once", 3 * small._size - 1)
    large = StateExplorer(model, tokens(1, T), layer=1)
    assert set(large.pages) == {"1"}
    sent = []
    monkeypatch.setattr(large, "send", lambda message, buffers: sent.append((message, buffers)))
    large._handle_custom_msg({"want": "2"}, [])
    assert sent == [({"page": "2"}, [small.pages["2"]])]


def test_position(model):
    explorer = StateExplorer(model, tokens(1, T), token=-2, head=3)
    assert (explorer.token, explorer.layer, explorer.head) == (T - 2, 0, 3)
    assert np.array_equal(explorer.frame(), explorer.frame(T - 2, 0, 3))
    explorer.layer = 2
    assert np.array_equal(explorer.frame(), explorer.frame(layer=2))
    with pytest.raises(QwenError, match=r"no layer 3 to explore; Gated DeltaNet layers are \[0, 1, 2\]"):
        explorer.layer = 3
    with pytest.raises(QwenError, match="no token 14 to explore; the last is 13"):
        explorer.frame(token=T)
    with pytest.raises(QwenError, match="no head 6"):
        StateExplorer(model, tokens(1, T), head=6)
    with pytest.raises(QwenError, match="no token -15"):
        StateExplorer(model, tokens(1, T), token=-15)


def test_what_it_needs_is_told(model):
    for wrong in ((model,), (trace(model).run(tokens(1, 3)), "text")):
        with pytest.raises(QwenError, match="a model and a text"):
            StateExplorer(*wrong)
    with pytest.raises(QwenError, match="no Gated DeltaNet layer"):
        StateExplorer(random_qwen(small_config(layer_types=["full_attention"] * 4)), tokens(1, 3))


def test_errors_in_callbacks_are_shown(model):
    explorer = StateExplorer(model, tokens(1, T))
    explorer.observe(lambda change: 1 / 0, "head")
    move = {"method": "update", "state": {"head": 2}, "buffer_paths": []}
    explorer._handle_msg({"content": {"data": move}, "buffers": []})
    assert explorer.problem == "ZeroDivisionError: division by zero" and explorer.head == 2
    explorer._handle_custom_msg({"want": "99"}, [])
    assert explorer.problem.startswith("KeyError")


def test_in_a_notebook(explorer):
    data, _ = explorer._repr_mimebundle_()
    assert data["text/plain"] == "StateExplorer(14 tokens, 3 Gated DeltaNet layers, 6 heads of 16 x 24)"
    assert "application/vnd.jupyter.widget-view+json" in data


def test_picture_is_described(explorer, monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "show", lambda figure, alt: shown.append((figure, alt)))
    explorer.picture(token=4, layer=1, head=2)
    explorer.picture(token=4, layer=1, head=2, alt="Mine.")
    (figure, alt), (_, mine) = shown
    assert alt.startswith("Layer 1, head 2, after token 5 of 14") and mine == "Mine."
    assert np.allclose(figure.axes[0].images[0].get_array(), explorer.trace.layers[1].state(4, 2), atol=1e-6)


class Letters:
    """A tokenizer that reads letter by letter, for a text that would like to end the page's script."""

    added_tokens = {"<": 28}

    def encode(self, text):
        return [ord(c) - 32 for c in text]

    def decode(self, ids, skip_special_tokens=True):
        return "".join(chr(i + 32) for i in ids)


def test_page_holds_everything(model, tmp_path):
    class Loaded:
        tokenizer = Letters()

    Loaded.model = model
    text = "</script> {x} & ann"
    explorer = StateExplorer(Loaded, text, layer=2)
    page = explorer.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 2 and not re.search(r"(src|href)=|https?://|@import|url\(", page)
    kept = json.loads(re.search(r'type="application/json">(.*?)</script>', page)[1])
    assert "".join(token["text"] for token in kept["story"]["tokens"]) == text
    assert [token["special"] for token in kept["story"]["tokens"]] == [c == "<" for c in text]
    assert (kept["token"], kept["layer"], kept["head"]) == (len(text) - 1, 2, 0)
    assert base64.b64decode(kept["pages"]["1"]) == explorer.page("1")

    less = explorer.to_html(tmp_path / "less.html", layers=[1]).read_text(encoding="utf-8")
    kept = json.loads(re.search(r'type="application/json">(.*?)</script>', less)[1])
    assert kept["story"]["layers"] == [1] == [kept["layer"]] and list(kept["pages"]) == ["1"]
    with pytest.raises(QwenError, match="no layer 3"):
        explorer.to_html(tmp_path / "less.html", layers=[1, 3])
