"""The state explorer without a browser: its numbers are the trace's, and mistakes are told."""

import base64

import numpy as np
import pixels
import pytest
import torch
from support import random_qwen, small_config, tokens
from widget_support import in_a_notebook, kept_in, move

from minqwen import plots
from minqwen.errors import QwenError
from minqwen.trace import trace
from minqwen.widgets import StateExplorer

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
            for t in range(T):
                parts = pixels.parts(explorer, t, record.index, head)
                mine = {name: torch.tensor(x, dtype=torch.float32) for name, x in parts.items()}
                own = explorer.parts(t, record.index, head)
                torch.testing.assert_close(own["memory"], own["decayed"] - own["erased"] + own["written"])
                torch.testing.assert_close(own["erased"], record.erase(t, head))
                torch.testing.assert_close(mine["memory"], record.state(t, head))
                torch.testing.assert_close(mine["decayed"], record.decayed(t, head))
                torch.testing.assert_close(mine["erased"], record.erase(t, head))
                torch.testing.assert_close(mine["written"], record.write(t, head))
                torch.testing.assert_close(mine["error"], record.error(t, head))
                torch.testing.assert_close(mine["value"], record.v[0, t, head])
                torch.testing.assert_close(mine["now"], record.answers(t, head).values[-1])


@pytest.mark.parametrize("off", [("decayed",), ("erased",), ("written",), ("erased", "written"), pixels.PARTS])
def test_the_sum_of_what_is_on(explorer, off):
    parts, whole = pixels.parts(explorer, 5, 1, 3, **dict.fromkeys(off, False)), pixels.parts(explorer, 5, 1, 3)
    signed = {"decayed": whole["decayed"], "erased": -whole["erased"], "written": whole["written"]}
    expected = sum(x for name, x in signed.items() if name not in off)
    assert np.allclose(parts["memory"], expected) and not np.allclose(parts["memory"], whole["memory"])
    assert np.allclose(parts["now"], whole["key"] @ (expected * np.ones((16, 24))))
    assert np.array_equal(parts["decayed"], whole["decayed"])               # the parts themselves stay to be seen


def test_what_a_token_is_answered(explorer):
    """Before and after the step, for every key of the text: also for those that are still to come."""
    record = explorer.trace.layers[1]
    for asked, t in ((2, 7), (7, 7), (11, 7), (-1, 7)):
        given, key = pixels.answers(explorer, asked, t, 1, 4), record.k[0, 7 if asked == -1 else asked, 4 // 3]
        torch.testing.assert_close(torch.tensor(given["before"][0]).float(), record.state(6, 4).T @ key)
        torch.testing.assert_close(torch.tensor(given["after"][0]).float(), record.state(7, 4).T @ key)
        assert np.allclose(given["value"], record.v[0, 7 if asked == -1 else asked, 4])
        after = record.v[0, :8, 4] @ (record.state(7, 4).T @ key)
        lengths = record.v[0, :8, 4].norm(dim=-1) * (record.state(7, 4).T @ key).norm()
        assert given["cosines"][0].shape == (2, 8) and np.allclose(given["cosines"][0][1], after / lengths, atol=1e-5)
    assert not pixels.answers(explorer, 3, 0, 1, 4)["before"].any()                 # an empty memory answers nothing
    unerased = pixels.answers(explorer, 2, 7, 1, 4, erased=False)["after"][0]
    kept = record.state(7, 4) + record.erase(7, 4)
    torch.testing.assert_close(torch.tensor(unerased).float(), kept.T @ record.k[0, 2, 1])


def test_two_texts(model):
    """The shorter one waits at its end; the difference is that of the two memories."""
    first, second = tokens(1, T), tokens(1, T - 4, seed=2)
    both = StateExplorer.compare(model, first, second, token=-1, layer=2, head=5)
    assert both.token == T - 1
    assert repr(both) == "StateExplorer(14 and 10 tokens, 3 Gated DeltaNet layers, 6 heads of 16 x 24)"
    one, two = (trace(model).run(ids).layers[2] for ids in (first, second))
    for t in range(T):
        parts, there = pixels.parts(both, t), min(t, T - 5)
        own = [both.parts(t, second=second)["memory"] for second in (False, True)]
        torch.testing.assert_close(own, [one.state(t, 5), two.state(there, 5)], rtol=0, atol=0)
        torch.testing.assert_close(torch.tensor(parts["first"]).float(), one.state(t, 5))
        torch.testing.assert_close(torch.tensor(parts["second"]).float(), two.state(there, 5))
        assert np.array_equal(parts["difference"], parts["first"] - parts["second"])
        given = pixels.answers(both, T + 3, t)                              # the second text's fourth token
        for i, (record, reached) in enumerate(((one, t), (two, there))):
            torch.testing.assert_close(torch.tensor(given["after"][i]).float(),
                                       record.state(reached, 5).T @ two.k[0, 3, 5 // 3])
    with pytest.raises(QwenError, match="no token 24 to ask about; the last is 23"):
        both.asked = T + T - 4
    traces = [trace(model).run(ids) for ids in (first, second)]
    assert StateExplorer(traces[0], second=traces[1]).story == both.story
    with pytest.raises(QwenError, match="both texts, for one model, or both traces"):
        StateExplorer(model, first, traces[1])
    other = trace(random_qwen(small_config(linear_num_value_heads=4))).run(first)
    with pytest.raises(QwenError, match="models of different shape"):
        StateExplorer(traces[0], second=other)


def test_a_conversation_that_was_going_on(model):
    t = begun(model)
    explorer = StateExplorer(t, row=1)
    assert not explorer.story["texts"][0]["begins_empty"]
    memory = pixels.parts(explorer, layer=2, head=4)["memory"]
    torch.testing.assert_close(torch.tensor(memory).float(), t.layers[2].state(-1, 4, row=1))


def test_padding_is_left_out(model):
    ids, mask = tokens(2, T), torch.ones(2, T, dtype=torch.long)
    mask[0, :6] = 0
    with torch.no_grad(), trace(model) as t:
        model(ids, attention_mask=mask)
    padded, alone = StateExplorer(t, token=3), StateExplorer(model, ids[:1, 6:], token=3)
    assert padded.story == alone.story
    for token in range(T - 6):
        mine, theirs = (pixels.parts(explorer, token, 1, 5)["memory"] for explorer in (padded, alone))
        assert np.allclose(mine, theirs, atol=1e-5)


def shades(picture):
    """Which colour of the palette each pixel has: (height, width)."""
    palette = {tuple(colour): i for i, colour in reversed(list(enumerate(plots.diverging().tolist())))}
    return np.array([[palette[tuple(pixel)] for pixel in line] for line in picture[..., :3].tolist()])


@pytest.mark.parametrize("block", [1, 5])
@pytest.mark.parametrize("texts", [1, 2])
def test_frame_at_every_place(model, texts, block):
    """Each part stands in its place, coloured by its number: of a block of cells, by the strongest of them."""
    explorer = StateExplorer(model, tokens(1, T), tokens(1, T, seed=2) if texts == 2 else None)
    explorer.story = explorer.story | {"block": block}
    height, width, places = pixels.layout(-(-16 // block), -(-24 // block), texts)
    for layer in (0, 1, 2):
        for head in range(6):
            _, limits = pixels.memories(explorer, layer, head)
            for t in range(0, T, 3):
                picture, parts = pixels.state(explorer, t, layer, head), pixels.parts(explorer, t, layer, head)
                assert picture.shape == (height, width, 4) and picture.dtype == np.uint8
                drawn = np.zeros((height, width), bool)
                for name, scale, x, y, down, across in places:
                    part = parts[name].reshape({"memory": (16, 24), "key": (16, 1), "value": (1, 24)}[scale])
                    points = np.array([[max(part[i : i + block, j : j + block].flat, key=abs)
                                        for j in range(0, part.shape[1], block)] for i in range(0, len(part), block)])
                    here = np.s_[y : y + len(points) * down, x : x + points.shape[1] * across]
                    assert not drawn[here].any()                     # no part hides another
                    drawn[here] = True
                    number = (shades(picture[here]) - 128) / 127 * limits[scale]
                    expected = np.kron(points, np.ones((down, across))).clip(-limits[scale], limits[scale])
                    assert np.abs(number - expected).max() < limits[scale] / 80     # neighbours may share a colour
                assert np.array_equal(picture[..., 3], drawn * 255)
    assert not np.array_equal(pixels.state(explorer, 3, 0, 0), pixels.state(explorer, 3, 0, 0, dark=True))
    assert np.array_equal(pixels.state(explorer, 3, 0, 0), pixels.state(explorer, 3, 0, 0, exact=True)) == (block == 1)


@pytest.mark.parametrize("asked", [-1, 4, 11])
def test_frame_of_the_answers(explorer, asked):
    height, width, places = pixels.answers_layout(16, 24, ["0 before", "0 after", "value"])
    for t in range(T):
        picture, given = pixels.state_answers(explorer, asked, t, 2, 1), pixels.answers(explorer, asked, t, 2, 1)
        limit = pixels.memories(explorer, 2, 1)[1]["value"]
        assert picture.shape == (height, width, 4) == (8, 24, 4)
        for (_, _, _, y, down, _), vector in zip(places, (given["before"][0], given["after"][0], given["value"])):
            number = (shades(picture[y : y + down]) - 128) / 127 * limit
            assert np.abs(number - vector.clip(-limit, limit)).max() < limit / 80
    assert (picture[2] == 0).all()                                          # between two strips there is nothing


def test_large_heads_have_large_units():
    height, width, places = pixels.layout(128, 128)
    assert (height, width) == (152, 4 * 128 + 3 * 48) and max(place[4] for place in places) == 16


def test_colours_keep_to_zero_and_to_their_limits():
    written = np.array([[1.0, 0.0]]), np.array([[5.0, -5.0]]), np.ones(1), np.ones(1)       # a key, a value, the gates
    parts = pixels.Memory(*written, np.zeros((2, 2))).step(0)
    limits = {"memory": 1.0, "key": 1.0, "value": 1.0}
    picture = pixels.put_together(parts | {"now": parts["value"]}, limits, plots.diverging(), pixels.layout(2, 2), 1)
    low, zero, high = plots.diverging()[[1, 128, 255]].tolist()
    assert picture[0, :2, :3].tolist() == [high, low] and picture[1, :2, :3].tolist() == [zero, zero]


def test_pages_come_at_once_if_they_are_small(model, monkeypatch):
    small = StateExplorer(model, tokens(1, T))
    names = [f"{layer} {head}" for layer in range(3) for head in range(6)]
    assert list(small.pages) == names and small.story["all_here"]
    assert {len(page) for page in small.pages.values()} == {small.story["page_bytes"]}
    monkeypatch.setattr(StateExplorer, "at_once", 18 * small.story["page_bytes"] - 1)
    large = StateExplorer(model, tokens(1, T), layer=1, head=4)
    assert set(large.pages) == {"1 4"} and not large.story["all_here"]
    sent = []
    monkeypatch.setattr(large, "send", lambda message, buffers: sent.append((message, buffers)))
    large._handle_custom_msg({"want": "2 3"}, [])
    assert sent == [({"page": "2 3"}, [small.pages["2 3"]])]


def test_at_the_size_of_an_official_model():
    """24 layers, three of four with 16 memories of 128 x 128: one head is made and sent at a time, drawn coarser."""
    config = small_config(num_hidden_layers=24, linear_num_key_heads=16, linear_num_value_heads=16,
                          linear_key_head_dim=128, linear_value_head_dim=128)
    explorer = StateExplorer(random_qwen(config), tokens(1, 60), layer=22, head=9)
    assert len(explorer.page_names()) == 18 * 16 and list(explorer.pages) == ["22 9"]
    assert explorer.story["page_bytes"] == 4 * (60 * (128 + 128 + 2) + 3) == len(explorer.pages["22 9"])
    assert explorer.story["block"] == 2 and pixels.state(explorer).shape == (64 + 12, 4 * 64 + 3 * 24, 4)
    assert pixels.state(explorer, exact=True).shape == (152, 656, 4)
    record = explorer.trace.layers[22]
    memory = torch.tensor(pixels.parts(explorer)["memory"]).float()
    torch.testing.assert_close(memory, record.state(-1, 9), atol=1e-5, rtol=1e-4)


def test_position(model):
    explorer = StateExplorer(model, tokens(1, T), token=-2, head=3)
    assert (explorer.token, explorer.layer, explorer.head) == (T - 2, 0, 3)
    assert np.array_equal(pixels.state(explorer), pixels.state(explorer, T - 2, 0, 3))
    explorer.layer = 2
    assert np.array_equal(pixels.state(explorer), pixels.state(explorer, layer=2))
    with pytest.raises(QwenError, match=r"no layer 3 to explore; Gated DeltaNet layers are \[0, 1, 2\]"):
        explorer.layer = 3
    with pytest.raises(QwenError, match="no token 14 to explore; the last is 13"):
        explorer.parts(token=T)
    with pytest.raises(QwenError, match="no head 6"):
        StateExplorer(model, tokens(1, T), head=6)
    with pytest.raises(QwenError, match="no token -15"):
        StateExplorer(model, tokens(1, T), token=-15)


def test_what_it_needs_is_told(model):
    for texts in (("",), ([],), (tokens(1, 3), torch.zeros(1, 0, dtype=torch.long))):
        with pytest.raises(QwenError, match="StateExplorer has nothing to show: the text is empty"):
            StateExplorer(model, *texts)
    for wrong in ((model,), (trace(model).run(tokens(1, 3)), "text")):
        with pytest.raises(QwenError, match="a model and a text"):
            StateExplorer(*wrong)
    with pytest.raises(QwenError, match="no Gated DeltaNet layer"):
        StateExplorer(random_qwen(small_config(layer_types=["full_attention"] * 4)), tokens(1, 3))


def test_errors_in_callbacks_are_shown(model):
    explorer = StateExplorer(model, tokens(1, T))
    explorer.observe(lambda change: 1 / 0, "head")
    move(explorer, head=2)
    assert explorer.problem == "ZeroDivisionError: division by zero" and explorer.head == 2
    explorer._handle_custom_msg({"want": "99"}, [])
    assert explorer.problem.startswith("ValueError")


def test_in_a_notebook(explorer):
    assert in_a_notebook(explorer) == "StateExplorer(14 tokens, 3 Gated DeltaNet layers, 6 heads of 16 x 24)"


def test_picture_is_described(explorer, model, figures):
    explorer.picture(token=4, layer=1, head=2)
    explorer.picture(token=4, layer=1, head=2, alt="Mine.")
    (figure, alt), (_, mine) = figures
    assert alt.startswith("Layer 1, head 2, after token 5 of 14") and mine == "Mine."
    assert np.allclose(figure.axes[0].images[0].get_array(), explorer.trace.layers[1].state(4, 2), atol=1e-6)
    both = StateExplorer.compare(model, tokens(1, T), tokens(1, T, seed=2))
    both.picture(token=4, layer=1, head=2)
    figure, alt = figures[-1]
    assert "their difference" in alt
    assert np.allclose(figure.axes[2].images[0].get_array(), pixels.parts(both, 4, 1, 2)["difference"], atol=1e-6)


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
    text = "</script> {x} & Ann"
    explorer = StateExplorer(Loaded, text, layer=2)
    kept = kept_in(explorer.to_html(tmp_path / "page.html"))
    (told,) = kept["story"]["texts"]
    assert "".join(token["text"] for token in told["tokens"]) == text
    assert [token["special"] for token in told["tokens"]] == [c == "<" for c in text]
    assert (kept["token"], kept["layer"], kept["head"]) == (len(text) - 1, 2, 0)
    assert base64.b64decode(kept["pages"]["1 2"]) == explorer.page("1 2")

    kept = kept_in(explorer.to_html(tmp_path / "less.html", layers=[1]))
    assert kept["story"]["layers"] == [1] == [kept["layer"]] and list(kept["pages"]) == [f"1 {i}" for i in range(6)]
    assert kept["story"]["left_out"] == 12
    one = explorer.to_html(tmp_path / "one.html", layers=[1], heads=[3])
    assert list(kept_in(one)["pages"]) == ["1 3"]
    with pytest.raises(QwenError, match="no layer 3"):
        explorer.to_html(tmp_path / "less.html", layers=[1, 3])
    with pytest.raises(QwenError, match="at least one layer"):
        explorer.to_html(tmp_path / "less.html", heads=[])
