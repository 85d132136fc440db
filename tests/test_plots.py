"""Figures show the numbers they are given, can be drawn without a warning, and carry their description."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from plots_support import STRANGE, draw, heights, image, traced
from support import contrast

from minqwen import QwenError, plots, spoken
from minqwen.config import Config
from minqwen.info import memory

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def t():
    return traced()


def test_step_shows_the_sum_that_it_is(t):
    figure = draw(plots.step(t.layers[0], t=5, head=3, token="红"))
    memory, decayed, erased, written = (image(figure, i) for i in range(4))
    assert np.array_equal(memory, t.layers[0].state(5, 3))
    assert np.allclose(memory, decayed - erased + written)
    limits = {figure.axes[i].images[0].get_clim() for i in range(4)}
    assert len(limits) == 1                                  # one scale, symmetric about zero
    low, high = limits.pop()
    assert low == -high == pytest.approx(-max(abs(image(figure, i)).max() for i in range(4)))


def test_gates(t):
    figure = draw(plots.gates(t.layers[1], STRANGE, head=2))
    assert heights(figure.axes[0]) == pytest.approx(t.layers[1].alpha[0, :, 2].tolist())
    assert heights(figure.axes[1]) == pytest.approx(t.layers[1].beta[0, :, 2].tolist())


def test_maps(t):
    softmax = draw(plots.attention(t.layers[3].attention[0, 1], STRANGE))
    effective = draw(plots.attention(t.layers[0].attention[0, 1], STRANGE, title="effective"))
    assert np.array_equal(image(softmax), t.layers[3].attention[0, 1])
    assert np.array_equal(image(effective), t.layers[0].attention[0, 1])
    assert softmax.axes[0].images[0].get_clim() == (0, 1)
    low, high = effective.axes[0].images[0].get_clim()
    assert low == -high < 0
    assert np.array_equal(effective.axes[0].images[0].get_array().mask, ~np.tri(len(STRANGE), dtype=bool))
    labels = [label.get_text() for label in softmax.axes[0].get_yticklabels()]
    assert labels[:4] == ["<|im_start|>", "·red", "↵", "‹7ea2›"]
    wide = draw(plots.attention(torch.eye(12)[9:], STRANGE[9:], looked_at=STRANGE))
    assert image(wide).shape == (3, 12) and len(wide.axes[0].get_xticks()) == 12


def test_bars():
    figure = draw(plots.bars({"$1$ scores": {"Ann": 1.0, "Bob": -2.0}, "answer": {"red": 0.5, "cup": 0.0, "key": 2.0}},
                             wanted={"Ann", "key"}))
    left, right = figure.axes
    assert [bar.get_height() for bar in left.patches] == [1, -2] and left.get_ylim()[0] < -2
    assert [bar.get_height() for bar in right.patches] == [0.5, 0, 2] and right.get_ylim()[1] > 2
    assert [label.get_text() for label in right.get_xticklabels()] == ["red", "cup", "key"]
    blue = [bar.get_facecolor() for bar in left.patches + right.patches]
    assert blue[0] == blue[4] != blue[1] == blue[2] == blue[3]


def test_long_texts_keep_their_labels_apart():
    figure = draw(plots.attention(torch.eye(200), ["a"] * 200))
    assert len(figure.axes[0].get_xticks()) <= 64


def test_curves():
    lines = {"a": [1, 2, 3], "b": torch.tensor([3.0, 2, float("nan")])}
    (ax,) = draw(plots.curves([1, 10, 100], lines, "x", "y", "xy")).axes
    assert [line.get_label() for line in ax.lines] == ["a", "b"]
    assert ax.lines[0].get_xydata().tolist() == [[1, 1], [10, 2], [100, 3]]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    linear = draw(plots.curves(range(100), {"$a$": range(100)}, "x", "y")).axes[0]
    assert linear.get_yscale() == "linear" and linear.lines[0].get_marker() == "None"
    few = draw(plots.curves([0, 1, 2, 3, 4], {"a": range(5)}, "drafts", "y")).axes[0]
    assert all(place.is_integer() for place in few.get_xticks()), "there is no half a draft"


def test_cache_bytes():
    config, lengths = Config.named("Qwen3.5-0.8B"), [100, 1_000_000]
    kept = [memory(config, n) for n in lengths]
    (ax,) = draw(plots.cache_bytes(lengths, {"0.8B": kept})).axes
    grows, stays = ax.lines[:2]
    assert grows.get_ydata().tolist() == [m.keys_and_values for m in kept]
    assert stays.get_ydata().tolist() == 2 * [kept[0].states + kept[0].convolutions]
    assert "10 GB" in {label.get_text() for label in ax.get_yticklabels()}


def test_dials():
    angles = {"word": torch.tensor([0.0, 1.0, 20.0]), "patch": torch.tensor([0.0, 2.0, 3.0])}
    figure = draw(plots.dials(angles, listens=[0, 1, 2]))
    hands = [np.diff(line.get_xydata(), axis=0)[0] for line in figure.axes[0].lines]
    wanted = torch.cat(list(angles.values()))
    assert np.allclose(hands, 0.42 * torch.stack((wanted.cos(), wanted.sin()), dim=1), atol=1e-5)
    colours = [line.get_color() for line in figure.axes[0].lines]
    assert len(set(colours)) == 3 and colours[:3] == colours[3:]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0\nt", "1\nh", "2\nw"]
    assert [label.get_text() for label in draw(plots.dials(angles)).axes[0].get_xticklabels()] == ["0", "1", "2"]


def test_training_reads_its_log(tmp_path):
    (tmp_path / "training.csv").write_text(
        "step,seconds,lr,phase,loss facts,loss sums,12 facts\n"
        "1,10,0.1,stories,3.0,2.0,\n" "2,20,0.2,stories,2.0,1.0,0.25\n" "3,30,0.1,everything,1.0,0.5,0.5\n")
    figure = draw(plots.training(tmp_path / "training.csv"))
    losses, accuracies = figure.axes
    assert [line.get_label() for line in losses.lines] == ["loss facts", "loss sums"]
    assert losses.lines[1].get_xydata().tolist() == [[1, 2], [2, 1], [3, 0.5]]
    assert accuracies.lines[0].get_xydata().tolist() == [[2, 0.25], [3, 0.5]]


def test_every_colour_is_read_on_white_and_on_black():
    for colour in (*plots.PALETTE, plots.FAINT):
        for page in ("#ffffff", "#111111"):
            assert contrast(to_rgb(colour), to_rgb(page)) >= 4, f"{colour} on {page}"
    assert contrast(to_rgb(plots.INK), (1, 1, 1)) >= 4.5


@pytest.mark.parametrize("dark", [False, True])
def test_colours_say_sign_and_size_to_every_eye(dark):
    palette = plots.diverging(dark).astype(int)
    zero = palette[128]
    brightness = palette @ [0.2126, 0.7152, 0.0722]
    towards = 1 if dark else -1                              # away from zero it gets brighter on dark, darker on light
    assert (np.diff(brightness[128:]) * towards > -1e-9).all() and (np.diff(brightness[1:129]) * towards < 1e-9).all()
    assert abs(zero - zero.mean()).max() < 6                 # zero is grey
    for size in range(40, 128):                              # blue against orange, never red against green
        negative, positive = palette[128 - size], palette[128 + size]
        assert negative[2] > negative[0] and positive[0] > positive[2]


def test_show_is_one_png_with_its_description(monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda *args, **kwargs: shown.append((args, kwargs)))
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, ax = pyplot.subplots()
    ax.plot([1, 2])
    plots.show(figure, alt="A line that goes up from one to two.")
    [((data,), options)] = shown
    assert data["image/png"][:8] == b"\x89PNG\r\n\x1a\n" and set(data) == {"image/png", "text/plain"}
    assert data["text/plain"] == options["metadata"]["image/png"]["alt"] == "A line that goes up from one to two."
    assert options["raw"] is True
    assert pyplot.get_fignums() == []


def test_what_a_figure_says_of_itself_is_shown_with_it(monkeypatch):
    """Without `alt` it is the figure's own; a figure that says nothing is refused, and nothing is shown."""
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, **options: shown.append((data, options["metadata"])))
    figure = plots.bars({"answer": {"red": 1.0, "blue": 0.6}})
    plots.show(figure)
    plots.show(figure, alt="Red is higher.")
    live = plots.Live()
    live.show(figure)
    assert [data["text/plain"] for data, _ in shown] == [figure.alt, "Red is higher.", figure.alt]
    assert [data["image/png"]["alt"] for _, data in shown] == [figure.alt, "Red is higher.", figure.alt]
    del figure.alt
    with pytest.raises(QwenError, match="no description"):
        plots.show(figure)
    assert len(shown) == 3


SAID = {                                         # what a figure says of itself, beside what it shows
    "bars": (plots.bars({"like $q$": {"red": 1.0, "blue": 0.6, "no": 0.0}}),
             "Bars. like q: red at 1, blue at 0.6, no at 0."),
    "asked for": (plots.bars({"a": {"red": 1.0, "blue": 0.6}, "b": {"red": 0.2, "no": 0.9}}, wanted={"no", "red"}),
                  "b: red at 0.2, no at 0.9. Blue, as asked for: red and no."),
    "many bars": (plots.bars({"": {str(i): i for i in range(1, 15)}}),
                  "the largest are 14 at 14, 13 at 13 and 12 at 12; the smallest is 1 at 1."),
    "curves": (plots.curves([1, 2, 4], {"soft\nmax": [1, 0.99, 1], "memory": [1, 0.5, 0.25]}, "pairs", "share", "x"),
               "Curves: share, over pairs, from 1 to 4 on a logarithmic axis. In round numbers, soft max stays at 1; "
               "memory falls from 1 to 0.3."),
    "up and down": (plots.curves(range(6), {"width": [6, 2, 7, 1, 7, 3]}, "x", "y"),
                    "width goes up and down, between 1 and 7, from 6 to 3."),
    "noise": (plots.curves(range(5), {"word": [4.1, 4.4, 4.1, 4.4, 4.2]}, "x", "y"), "word goes up and down about 4."),
    "half of it": (plots.curves(range(201), {"α": [0.98**n for n in range(201)]}, "later", "left"),
                   "later, from 0 to 200. In round numbers, α falls from 1 to 0, half of it by 33."),
    "Dk": (plots.curves([0, 1], {"width": [7.4, 12.2], "Dk": [32, 32]}, "head", "width"),
           "width rises from 7 to 10; Dk stays at 32."),
    "hills": (plots.curves([0.5, 1, 3], {"up": [0, 30, 10], "down": [40, 2, 30], "gone": [float("nan")] * 3}, "x", "y"),
              "from 0.5 to 3. In round numbers, up rises from 0 to 30, then falls to 10; down falls from 40 to 2, then "
              "rises to 30; gone has no number."),
    "powers": (plots.curves([1, 2], {"seconds": [0.3, 300], "rounding": [2e-7, 1e-7]}, "x", "y", log="xy"),
               "seconds rises from 0.3 to 300; rounding stays at next to 0."),
    "states": (plots.states({"S": torch.eye(2), "half": -torch.eye(2) / 2}), "S at 1, half at 0.5."),
    "attention": (plots.attention([[1.0, 0], [0.2, 0.8]], ["Ann", " has"], title="a head"),
                  "A map of a head. 2 tokens, the rows, look at those up to themselves, the columns. The weight of a "
                  "column, on average: “Ann” at 0.6, “has” at 0.8."),
    "dials": (plots.dials({"word": [0.0, 0.0, 0.0], "patch": [0.0, 1.0, 2 * torch.pi]}, [0, 1, 2]),
              "first row, word: patch, 0 of 1 hands of time, 1 of 1 hands of height and 0 of 1 hands of width."),
    "matrices": (plots.matrices({"L": torch.tensor([[1.0, 0], [-0.6, 1]]), "none": torch.eye(2)}, ["Ann", "Ann"]),
                 "L: off the diagonal, by row and column, 1 Ann by 0 Ann at −0.6. none: nothing off the diagonal."),
    "alike": (plots.matrices({"cosines": [[1.0, 0.4], [0.4, 1]]}, ["a", "b"]), "row and column, b by a at 0.4."),
    "shares": (plots.shares({"small": {"head": 300, "MLP": 700}}), "small, of 1 thousand: head 30% and MLP 70%."),
}


@pytest.mark.parametrize("figure, said", SAID.values(), ids=SAID)
def test_what_figures_say_of_themselves(figure, said):
    assert said in figure.alt


def test_the_rest_of_what_figures_say(t, tmp_path):
    gates = plots.gates(t.layers[1], STRANGE, head=2)
    assert gates.alt.startswith("Two rows of bars over 12 tokens. α keeps: “<|im_start|>” at ")
    kept = [memory(Config.named("Qwen3.5-0.8B"), n) for n in (64, 4096)]
    assert ("0.8B: keys and values are straight lines, from 786 kB to 50.3 MB; states and last inputs are flat, at "
            "19.5 MB.") in plots.cache_bytes([64, 4096], {"0.8B": kept}).alt
    log = tmp_path / "log.csv"
    log.write_text("step,loss,lr,right\n1,2.5,1,0.1\n2,0.5,1,0.9\n")
    assert plots.training(log).alt == ("A training's curves over step. Loss: loss falls from 3 to 0.5. "
                                       "Accuracy: right rises from 0.1 to 0.9.")


def test_curves_over_places_that_have_names():
    lines = {"near": [1.0, 1.0, 1.0, 0.4, 0.2], "far": [0.33, 0.32, 0.31, 0.30, 0.27]}
    assert spoken.curves(["0 to 7", "8 to 15", "16 to 31", "32 to 63", "64 on"], lines) == (
        "near falls from 1 to 0.2, half of it by 32 to 63; far falls a little from 0.3")


def test_ends_that_are_told_alike_are_told_apart():
    lines = {"all": [1, 5], "some": [1, 4.6], "most": [1, 4.9], "none": [1, 1]}
    assert spoken.curves([0, 1], lines).endswith("stays at 1. At the end, from the top: all, most, some and none")
    assert "from the top" not in spoken.curves([0, 1], {"a": [1, 5], "b": [1, 4.9], "c": [1, 4]})


@pytest.mark.parametrize("value", [0.125, 0.25, 0.375, 0.5, 0.75, 0.05, 0.15, 3.0, 8.0, 12.5, 0.04])
def test_what_is_told_is_the_same_where_last_digits_differ(value):
    told = {spoken.numbers([value * (1 + slip), 1.0])[0] for slip in (-1e-4, 0, 1e-4)}
    told |= {spoken.numbers([value * (1 + slip)], rough=True)[0] for slip in (-1e-4, 0, 1e-4)}
    assert len(told) <= 2                        # one in each way


NAN = float("nan")
ODD = {                                          # what figures say where there is nothing, one thing, or no number
    "empty": (plots.curves([], {"a": []}, "x", "y", "y"), "over x, its height logarithmic. In round numbers, a has no "
              "number."),
    "a place below zero": (plots.curves([-2, 1], {"a": [1, 2]}, "x", "y"), "over x, from −2 to 1."),
    "a place that is none": (plots.curves([NAN, 1], {"a": [1, 2]}, "x", "y"), "over x, from not a number to 1."),
    "one of many": (plots.bars({"": {str(i): NAN if i == 9 else i for i in range(1, 15)}}),
                    "the largest are 14 at 14, 13 at 13 and 12 at 12; the smallest is 1 at 1; 1 are not a number."),
    "none of many": (plots.bars({"": {str(i): NAN if i else 1 for i in range(3)}}), "0 at 1, 1 at not a number"),
    "a hole": (plots.matrices({"a": torch.tensor([[1, 0], [NAN, 1]])}, ["x", "y"]), "y by x at not a number."),
    "one length": (plots.cache_bytes([1024], {"a": [memory(Config.named("Qwen3.5-0.8B"), 1024)]}), "from 1,024 to"),
}


@pytest.mark.parametrize("figure, said", ODD.values(), ids=list(ODD))
def test_what_is_said_of_nothing_of_one_thing_and_of_no_numbers(figure, said):
    assert said in figure.alt


def test_of_nothing_it_is_said_and_of_no_numbers():
    assert plots.dials({"a": torch.zeros(3)}).alt == "Dials like clocks, 3 in a row, one for each pair."
    assert spoken.listed(iter(())) == spoken.curves([], {}) == "nothing"
    assert spoken.place(float("-inf")) == "not a number"
    assert spoken.bars([str(i) for i in range(20)], 20 * [NAN]) == "none of 20 is a number"


def test_shares_add_up_to_one():
    parts = {"small": {"head": 300, "MLP": 700}, "large": {"head": 10**9, "MLP": 3 * 10**9}}
    (ax,) = draw(plots.shares(parts)).axes
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx([0.3, 0.7, 0.25, 0.75])
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["30%", "70%", "1 thousand", "25%", "75%", "4 billion"]


def test_matrices_share_a_scale_and_say_their_numbers():
    L = torch.tensor([[1.0, 0, 0], [0.6, 1, 0], [-2.0, 0, 1]])
    figure = draw(plots.matrices({"L": L, "half": L / 2}, STRANGE[:3], numbers=True))
    assert np.array_equal(image(figure), L) and np.array_equal(image(figure, 1), L / 2)
    assert {figure.axes[i].images[0].get_clim() for i in range(2)} == {(-2, 2)}
    cells = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert cells == {(0, 0): "1", (0, 1): "0.6", (1, 1): "1", (0, 2): "−2", (2, 2): "1"}
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == ["<|im_start|>", "·red", "↵"]
    plain = draw(plots.matrices({"L": L}, STRANGE[:3], limit=4))
    assert not plain.axes[0].texts and plain.axes[0].images[0].get_clim() == (-4, 4)


def test_a_live_figure_is_drawn_over_in_its_place(monkeypatch):
    """The first makes an output, the next ones change that same output; each carries the description."""
    import IPython.display

    shown = []

    class Place:
        def update(self, data, **options):
            shown.append((data, options))

    def display(data, **options):
        shown.append((data, options))
        return Place() if options.pop("display_id", False) else None

    monkeypatch.setattr(IPython.display, "display", display)
    live = plots.Live("how it goes on")
    description = {"raw": True, "metadata": {"image/png": {"alt": "how it goes on"}}}
    pictures = [plots.curves([1, 2], {"a": [1, y]}, "x", "y") for y in (2, 3)]
    for picture in pictures:
        live.show(picture)
    plots.show(pictures[0], alt="how it goes on")
    assert [options for _, options in shown] == 3 * [description]
    images = [data["image/png"] for data, _ in shown]
    assert images[0].startswith(b"\x89PNG") and images[0] != images[1] and images[2] == images[0]
    assert {data["text/plain"] for data, _ in shown} == {"how it goes on"} and live.place is not None
