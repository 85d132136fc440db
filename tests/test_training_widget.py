"""The training explorer without a browser: its numbers are the run's, drawn in their places; mistakes are told."""

import json

import numpy as np
import pixels
import pytest
from widget_support import in_a_notebook, kept_in, move

from minqwen import plots
from minqwen.errors import QwenError
from minqwen.nano.seedling import RUN, Run
from minqwen.widgets import TrainingExplorer, training

S, T, H, DK, DV = 9, 12, 2, 4, 6
LAYERS = [0, 1, 4]


def a_run(snapshots=S):
    """A run that nobody trained: changed facts are known from snapshot 6 on, those told once from 4 on."""
    random, shape = np.random.default_rng(0), (snapshots, len(LAYERS), T, H)
    k = random.normal(size=(*shape, DK))
    changed = np.where(np.arange(snapshots) < 6, 0.05, 0.9) + random.uniform(0, 0.05, snapshots)
    lost = np.outer(np.arange(snapshots) >= 6, [0.1, 0.7, 0.3]) * random.uniform(0.9, 1, (snapshots, len(LAYERS)))
    return Run(steps=10 * np.arange(snapshots), loss=np.linspace(6, 1.03, snapshots, dtype="f4"),
               once=np.where(np.arange(snapshots) < 4, 0.1, 0.8).astype("f4"), changed=changed.astype("f4"),
               without=(changed[:, None] - lost).astype("f4"), layers=np.array(LAYERS),
               tokens=np.array([f" t{i}" for i in range(T)]),
               k=(k / np.linalg.norm(k, axis=-1, keepdims=True)).astype("f2"),
               v=random.normal(size=(*shape, DV)).astype("f2"), alpha=random.uniform(0.5, 1, shape).astype("f4"),
               beta=random.uniform(0, 1, shape).astype("f4"))


@pytest.fixture(scope="module")
def explorer():
    return TrainingExplorer(a_run(), head=1)


def test_it_begins_at_the_jump_and_in_the_layer_that_overwrites(explorer):
    assert (explorer.snapshot, explorer.layer, explorer.token) == (6, 1, T - 1)
    assert explorer.story["jumps"] == {"told once": 4, "changed": 6}


def test_pages_hold_the_run(explorer):
    """Of each snapshot and head k, v, alpha, beta, and the limits of the colours, which no snapshot is beyond."""
    for l, layer in enumerate(LAYERS):
        numbers = np.frombuffer(explorer.page(f"layer {layer}"), "<f4").reshape(S, H, -1)
        for head in range(H):
            limits = numbers[0, head, -3:]
            for s in range(S):
                parts = [x[s, l, :, head].ravel() for x in (explorer.run.k, explorer.run.v, explorer.run.alpha,
                                                            explorer.run.beta)]
                assert np.array_equal(numbers[s, head], np.concatenate([*parts, limits]).astype("<f4"))
                assert np.abs(explorer.run.memory(s, layer, head)).max() <= limits[0] * (1 + 1e-6)
    assert explorer.pages.keys() == {f"layer {layer}" for layer in LAYERS}


def test_the_memory_is_that_of_the_rule():
    """As the recurrence has it, written out."""
    run = a_run()
    for s, layer, head, token in ((0, 0, 0, 0), (5, 1, 1, 7), (8, 4, 0, T - 1)):
        k, v, alpha, beta = (x[s, LAYERS.index(layer), :, head].astype(float)
                             for x in (run.k, run.v, run.alpha, run.beta))
        state = np.zeros((DK, DV))
        for t in range(token + 1):
            state = alpha[t] * state
            state = state + np.outer(k[t], beta[t] * (v[t] - k[t] @ state))
        assert np.allclose(run.memory(s, layer, head, token), state)
    assert np.array_equal(run.memory(3, 1, 0), run.memory(3, 1, 0, T - 1))


@pytest.mark.parametrize("dark", [False, True])
def test_the_pictures(explorer, dark):
    """Curves stand where their numbers are; the map has the colour of each loss; the memory that of each cell."""
    colours = {name: np.array([*bytes.fromhex(colour[1:]), 255]) for name, colour in
               training.COLOURS["dark" if dark else "light"].items()}
    across, down = explorer.story["cell"]
    picture = pixels.training_curves(explorer, 2, dark)
    assert picture.shape == (training.HEIGHT, S * across, 4)
    for i, x in enumerate(explorer.run.changed):
        rows = np.flatnonzero((picture[:, (i + 1) * across - 1] == colours["changed"]).all(-1))
        assert abs((1 - rows.mean() / (training.HEIGHT - 1)) - x) < 0.02
    assert (picture[0, 2 * across : 3 * across] == colours["here"]).all()
    assert (picture[-1] == colours["here"]).all(-1).sum() == across
    shown, palette = pixels.training_layers(explorer, dark), plots.sequential(dark).astype(int)
    lost = np.clip(explorer.run.corrections(), 0, 1) / explorer.story["most_lost"]
    for s in range(S):
        for l in range(len(LAYERS)):
            cell = shown[(len(LAYERS) - 1 - l) * down, s * across, :3].astype(int)
            assert abs(np.abs(palette - cell).sum(-1).argmin() / 255 - lost[s, l]) < 1 / 80
    memory = pixels.training_memory(explorer, 7, 4, 0, 3, dark)
    state = explorer.run.memory(3, 4, 0, 7)
    bluer = memory[..., 2].astype(int) - memory[..., 0]
    assert (np.sign(-bluer[np.abs(state) > 0.3 * np.abs(state).max()]) == np.sign(
        state[np.abs(state) > 0.3 * np.abs(state).max()])).all()


def test_in_a_notebook(explorer):
    assert in_a_notebook(explorer) == "TrainingExplorer(9 snapshots of 80 steps, 3 layers, 12 tokens)"


def test_the_still_picture_takes_a_place(explorer):
    figure, alt = explorer.still(token=3, layer=4, head=0, snapshot=2)
    assert "After 20 of 80 steps" in alt and "layer 4, head 0" in alt and "after token 4" in alt
    image = figure.axes[2].images[0]
    assert np.allclose(image.get_array(), explorer.run.memory(2, 4, 0, 3))
    heat = figure.axes[1].images[0].get_array()
    assert np.allclose(heat, np.clip(explorer.run.corrections(), 0, None).T)


def test_a_page_to_share(explorer, tmp_path):
    state = kept_in(explorer.to_html(tmp_path / "one.html", layers=[1]))
    assert list(state["pages"]) == ["layer 1"] and [x["index"] for x in state["story"]["layers"]] == [1]
    assert (state["snapshot"], state["layer"], state["head"]) == (6, 1, 1)
    assert json.dumps(state["story"]["steps"]) == json.dumps(list(range(0, 90, 10)))


def test_moves_and_mistakes(explorer):
    moved = TrainingExplorer(a_run(), snapshot=2, token=-3, layer=4)
    assert (moved.token, moved.layer, moved.head, moved.snapshot) == (T - 3, 4, 0, 2)
    move(moved, snapshot=5, layer=0, token=1)
    assert (moved.snapshot, moved.layer, moved.token) == (5, 0, 1)
    for place, words in (({"snapshot": S}, f"no snapshot {S} to explore; the last is {S - 1}"),
                         ({"layer": 3}, "no layer 3"), ({"token": T}, f"no token {T}"), ({"head": H}, f"no head {H}")):
        with pytest.raises(QwenError, match=words):
            TrainingExplorer(a_run(), **place)
        with pytest.raises(QwenError, match=words):
            explorer.still(**place)
    with pytest.raises(QwenError, match="two snapshots or more"):
        TrainingExplorer(a_run(1))
    better = a_run()                                     # a layer without which more is recalled costs nothing
    better.without[0] = better.changed[0] + 0.2
    assert TrainingExplorer(better).story["lost"][0] == [0, 0, 0]
    nothing = a_run()
    nothing.once[2] = np.nan                             # no story was told of facts that stay: JSON has no nan
    with pytest.raises(QwenError, match="^TrainingExplorer has nothing to draw where the run's 'once' is no number: "):
        TrainingExplorer(nothing)


def test_the_run_that_is_shipped():
    """It is small, and what lesson 13 says of it is so."""
    assert RUN.stat().st_size < 2_000_000
    shown = TrainingExplorer()
    assert len(shown.run) > 30 and shown.snapshot == shown.run.jump("changed") > 1
    before, after = shown.run.changed[: shown.snapshot].mean(), shown.run.changed[shown.snapshot :].mean()
    assert after > before + 0.3
