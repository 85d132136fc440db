"""The memory lab without a browser: its numbers are the edited model's, and mistakes are told."""


import numpy as np
import pixels
import pytest
import torch
from chat_support import byte_tokenizer
from support import random_qwen, small_config
from widget_support import in_a_notebook, kept_in, move

from minqwen.chat import Assistant
from minqwen.edits import Edit, edited
from minqwen.errors import QwenError
from minqwen.widgets import MemoryLab, lab

QUESTION, NEW = "What does Ann have?", 6


@pytest.fixture(scope="module")
def qwen():
    tokenizer = byte_tokenizer()
    return Assistant(random_qwen(small_config(vocab_size=tokenizer.vocab_size)), tokenizer)


@pytest.fixture
def bench(qwen):
    return MemoryLab(qwen, QUESTION, max_new_tokens=NEW)


def likely(qwen, lab, *edits):
    """(N, V): how likely each token is along the answer without edits; one forward for each token, by hand."""
    ids, rows = list(qwen.inputs(QUESTION).ids), []
    with torch.no_grad(), edited(qwen, *edits):
        for id in lab.reply.ids:
            rows.append(qwen.model(torch.tensor([ids]))[0, -1].double().softmax(-1))
            ids.append(id)
    return torch.stack(rows).numpy()


def test_without_edits_before_and_after_are_the_same(qwen, bench):
    result, p = bench.result, likely(qwen, bench)
    assert bench.edits == [] and result["labels"] == [] and len(bench.reply.ids) == NEW
    assert [answer["text"] for answer in result["answers"]] == 2 * [str(bench.reply)]
    for at, place in enumerate(result["places"]):
        assert place["before"] == place["after"] and len(place["texts"]) == lab.ROWS
        assert np.allclose(place["before"], np.sort(p[at])[::-1][: lab.ROWS], atol=1e-6)
    assert np.allclose(result["before"], [p[i, id] for i, id in enumerate(bench.reply.ids)], atol=1e-6)


@pytest.mark.parametrize("kind, layer, head, token, edit", [
    ("clear", 1, 2, 20, Edit("clear", layer=1, head=2, token=20)),
    ("alpha", -1, -1, 3, Edit("alpha", token=3)),
    ("beta", 0, -1, 10, Edit("beta", layer=0, token=10)),
    ("gate", 3, 1, 0, Edit("gate", layer=3, head=1)),
])
def test_an_edit_is_run(qwen, bench, kind, layer, head, token, edit):
    bench.kind = kind
    bench.layer, bench.head, bench.token = layer, head, token
    assert bench.edits == [edit]
    p, q, result = likely(qwen, bench), likely(qwen, bench, edit), bench.result
    with edited(qwen, edit):
        after = qwen.chat(QUESTION, max_new_tokens=NEW, temperature=0.0)
    assert [answer["text"] for answer in result["answers"]] == [str(bench.reply), str(after)]
    for at, place in enumerate(result["places"]):
        ids = np.maximum(p[at], q[at]).argsort()[::-1][: lab.ROWS]
        assert np.allclose(place["before"], p[at][ids], atol=1e-5)
        assert np.allclose(place["after"], q[at][ids], atol=1e-5)
    assert result["most"] == np.abs(p - q).sum(-1).argmax() and np.abs(p - q).max() > 1e-4
    assert not any("delta_rule" in vars(module) or "gated" in vars(module) for module in qwen.model.modules())


def test_edits_are_kept_one_upon_the_other(qwen, bench):
    bench.kind, bench.layer, bench.token = "beta", 1, 12
    first = bench.result
    bench.kept = [[bench.kind, bench.layer, bench.head, bench.token, None]]
    bench.kind = "none"
    assert bench.edits == [Edit("beta", layer=1, token=12)] and bench.result["places"] == first["places"]
    bench.kind = "clear"
    assert len(bench.result["labels"]) == 2
    assert bench.result["labels"][0] == "nothing is written (β = 0) from token 13, layer 1, all heads"
    assert bench.result["labels"][1] == "memory cleared before token 13, layer 1, all heads"
    bench.kind, bench.kept = "none", []
    assert bench.edits == [] and bench.result["places"][0]["before"] == bench.result["places"][0]["after"]
    given = MemoryLab(qwen, QUESTION, edits=[Edit("gate"), Edit("beta", layer=1, token=12)], max_new_tokens=NEW)
    assert (given.kind, given.layer, given.head, given.token) == ("beta", 1, -1, 12), "the last one is tried"
    assert given.kept == [["gate", -1, -1, 0, None]] and len(given.result["labels"]) == 2
    given.kept = []
    assert given.result["places"] == first["places"]
    half = MemoryLab(qwen, QUESTION, edits=[Edit("beta", value=0.5)], max_new_tokens=NEW)
    assert half.result["labels"] == ["beta = 0.5 from token 1, all layers, all heads"] and half.kind == "none"


def test_another_kind_has_other_layers_and_heads(bench):
    bench.kind, bench.layer, bench.head = "alpha", 2, 5
    bench.kind = "gate"
    assert (bench.layer, bench.head) == (-1, -1) and bench.edits == [Edit("gate", token=bench.token)]


def test_it_runs_once_for_each_change(bench, monkeypatch):
    runs = []
    monkeypatch.setattr(MemoryLab, "_likely", lambda self: runs.append(self.edits) or self._before)
    bench.set_state({"kind": "gate", "layer": 3, "head": 2, "token": 5})
    assert runs == [[Edit("gate", layer=3, head=2, token=5)]]
    bench.at = 3                                        # where one looks changes nothing
    assert len(runs) == 1


def test_frame_at_every_place(bench):
    bench.kind = "beta"
    for dark in (False, True):
        for at in range(NEW):
            picture, place = pixels.lab_bars(bench, at, dark), bench.result["places"][at]
            assert picture.shape == (lab.ROW * lab.ROWS, lab.WIDE, 4) and picture.dtype == np.uint8
            for i in range(lab.ROWS):
                for (top, bottom), which, colour in zip(lab.BARS, ("before", "after"), lab.colours(dark)):
                    bar = picture[lab.ROW * i + top : lab.ROW * i + bottom]
                    filled = (bar == [*colour, 255]).all(-1)
                    assert (filled == filled[0]).all() and not bar[~filled].any()
                    assert abs(filled[0].sum() / lab.WIDE - place[which][i]) <= 0.51 / lab.WIDE
    assert np.array_equal(pixels.lab_bars(bench), pixels.lab_bars(bench, bench.result["most"]))
    assert pixels.bars([1.0], [0.0])[lab.BARS[0][0]].all() and not pixels.bars([1.0], [0.0])[lab.BARS[1][0]].any()
    with pytest.raises(QwenError, match="no token 6 in the answer; the last is 5"):
        bench.still(NEW)


def test_a_picture_and_a_page(bench, figures, tmp_path):
    bench.kind, bench.layer = "beta", 1
    bench.picture(at=2)
    (figure, alt), = figures
    assert in_a_notebook(bench) == repr(bench)
    assert "before and after: nothing is written" in alt
    heights = [bar.get_width() for bar in figure.axes[0].patches]
    assert np.allclose(heights, bench.result["places"][2]["before"] + bench.result["places"][2]["after"])
    kept = kept_in(bench.to_html(tmp_path / "lab.html"))
    assert not kept["story"]["live"] and kept["result"] == bench.result and kept["kind"] == "beta"
    assert repr(bench) == f"MemoryLab({len(bench.story['tokens'])} tokens, 1 edit)"


def test_what_cannot_be_is_told(qwen, bench):
    with pytest.raises(QwenError, match="not a Qwen"):
        MemoryLab(qwen.model, QUESTION)
    with pytest.raises(QwenError, match="'beta' is none"):
        MemoryLab(qwen, QUESTION, edits=["beta"], max_new_tokens=1)
    with pytest.raises(QwenError, match="one layer or all"):
        MemoryLab(qwen, QUESTION, edits=[Edit("beta", layer=[0, 1])], max_new_tokens=1)
    with pytest.raises(QwenError, match=r"the attention layers are \[3\]"):
        MemoryLab(qwen, QUESTION, edits=[Edit("gate", layer=1)], max_new_tokens=1)
    for name, value, said in (("layer", 3, r"'beta' can be edited in layers \[0, 1, 2\] \(-1 is all of them\)"),
                              ("head", 6, "no head 6 here; the last is 5"), ("token", 99, "no token 99 here"),
                              ("at", NEW, "no answer token 6 here; the last is 5")):
        with pytest.raises(QwenError, match=said):
            setattr(bench, name, value)


def test_errors_are_shown(bench, monkeypatch):
    monkeypatch.setattr(MemoryLab, "_likely", lambda self: 1 / 0)
    move(bench, kind="beta")
    assert bench.problem == "ZeroDivisionError: division by zero"
    monkeypatch.undo()
    bench.set_state({"kind": "alpha"})
    assert bench.problem == "" and bench.result["labels"]
