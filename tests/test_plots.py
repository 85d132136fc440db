"""Figures show the numbers they are given, can be drawn without a warning, and carry their description."""

import html
import re
import warnings

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from support import random_qwen, tokens

from minqwen import plots
from minqwen.config import Config
from minqwen.info import memory
from minqwen.trace import trace

STRANGE = ["<|im_start|>", " red", "\n", "红", "🙂", "$x$", "_{", "\ufffd", "é", "", "\x00", "‮"]


@pytest.fixture(scope="module")
def t():
    return trace(random_qwen()).run(tokens(1, len(STRANGE)))


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def draw(figure):
    figure.canvas.draw()                 # this is where a missing glyph warns
    return figure


def image(figure, i=0):
    return np.asarray(figure.axes[i].images[0].get_array())


def heights(ax):
    return [bar.get_height() for bar in ax.patches if bar.get_width() == pytest.approx(0.8)]


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


def test_boxes_hold_every_token_and_wrap():
    """In their order, each inside of its box, the marked ones in their own colour; a long text takes more lines."""
    figure = draw(plots.boxes({"strange": STRANGE, "long": 40 * [" red"]}, marked=STRANGE[:1], width=80,
                              notes={"strange": list(range(len(STRANGE))), "long": 40 * [7]}))
    ax, shown = figure.axes[0], [plots.visible(token).replace("$", r"\$") for token in STRANGE]
    said = [text.get_text() for text in ax.texts]
    assert said[0] == "strange" and said[1 : 2 * len(STRANGE) : 2] == shown and said[2:5:2] == ["0", "1"]
    assert len(ax.patches) == len(STRANGE) + 40
    assert ax.patches[0].get_facecolor() not in {box.get_facecolor() for box in ax.patches[1:]}
    assert max(box.get_x() + box.get_width() for box in ax.patches) <= 80
    assert len({box.get_y() for box in ax.patches[len(STRANGE) :]}) > 1
    boxes, words = ax.patches[: len(STRANGE)], ax.texts[1 : 2 * len(STRANGE) : 2]
    for box, word in zip(boxes, words):
        assert box.get_window_extent().width >= word.get_window_extent().width


def test_maps(t):
    softmax = draw(plots.attention(t.layers[3].attention[0, 1], STRANGE))
    effective = draw(plots.attention(t.layers[0].attention[0, 1], STRANGE, title="effective"))
    assert np.array_equal(image(softmax), t.layers[3].attention[0, 1])
    assert np.array_equal(image(effective), t.layers[0].attention[0, 1])
    assert softmax.axes[0].images[0].get_clim() == (0, 1)
    low, high = effective.axes[0].images[0].get_clim()
    assert low == -high < 0
    labels = [label.get_text() for label in softmax.axes[0].get_yticklabels()]
    assert labels[:4] == ["<|im_start|>", "·red", "↵", "‹7ea2›"]
    wide = draw(plots.attention(torch.eye(12)[9:], STRANGE[9:], looked_at=STRANGE))
    assert image(wide).shape == (3, 12) and len(wide.axes[0].get_xticks()) == 12


def test_memory(t):
    layer = t.layers[0]
    step = {"memory": layer.state(6, 1), "decayed": layer.decayed(6, 1), "erased": layer.erase(6, 1),
            "written": layer.write(6, 1)}
    recall = layer.answers(6, 1).cosine
    figure = draw(plots.memory(step, layer.alpha[0, :, 1], layer.beta[0, :, 1], recall, STRANGE))
    assert np.array_equal(image(figure, 3), layer.write(6, 1))
    strips = figure.axes[-3:]
    assert heights(strips[2]) == pytest.approx(recall.tolist()) and len(heights(strips[0])) == len(STRANGE)
    for strip in strips:                                     # the mark is over token 6, as wide as a token
        [mark] = [patch.get_bbox() for patch in strip.patches if patch.get_width() == pytest.approx(1)]
        assert (mark.x0, mark.x1) == pytest.approx((5.5, 6.5))


def test_bars():
    figure = draw(plots.bars({"$1$ scores": {"ann": 1.0, "bob": -2.0}, "answer": {"red": 0.5, "cup": 0.0, "key": 2.0}},
                             wanted={"ann", "key"}))
    left, right = figure.axes
    assert [bar.get_height() for bar in left.patches] == [1, -2] and left.get_ylim()[0] < -2
    assert [bar.get_height() for bar in right.patches] == [0.5, 0, 2] and right.get_ylim()[1] > 2
    assert [label.get_text() for label in right.get_xticklabels()] == ["red", "cup", "key"]
    blue = [bar.get_facecolor() for bar in left.patches + right.patches]
    assert blue[0] == blue[4] != blue[1] == blue[2] == blue[3]


def test_heads(t):
    maps = {f"head {i}": t.layers[3].attention[0, i] for i in range(3)}
    figure = draw(plots.heads(maps, limit=0.5, columns=2))
    for i, (title, weights) in enumerate(maps.items()):
        shown = figure.axes[i].images[0]
        assert figure.axes[i].get_title() == title and shown.get_clim() == (0, 0.5)
        assert np.allclose(shown.get_array().filled(0), weights) and shown.get_array().mask[0, 1:].all()
    assert not figure.axes[3].axison                             # the place that is left over


def test_beside_theory():
    figure = draw(plots.beside_theory([1, 10, 100], {"a": [1, 2, 3], "b": [4, 5, 6]}, {"b": [4, 4, 4]}, "n", "error"))
    a, b, theory, _ = figure.axes[0].lines
    assert [list(line.get_ydata()) for line in (a, b, theory)] == [[1, 2, 3], [4, 5, 6], [4, 4, 4]]
    assert theory.get_color() == b.get_color() != a.get_color() and a.get_linestyle() == "None"
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"


def test_long_texts_keep_their_labels_apart():
    figure = draw(plots.attention(torch.eye(200), ["a"] * 200))
    assert len(figure.axes[0].get_xticks()) <= 64


def picture(seed=0, *shape):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def maps(figure):
    """The weights that lie over pictures, in order."""
    return [np.asarray(image.get_array()) for ax in figure.axes for image in ax.images if image.get_alpha()]


def test_patches():
    pixels = picture(0, 16, 24)
    figure = draw(plots.patches(pixels, patch=4, merge=2, title="$16$"))
    (ax,) = figure.axes
    assert np.array_equal(image(figure), pixels)
    numbers = {text.get_text(): text.get_position() for text in ax.texts}
    assert numbers == {str(i): (i % 3 * 8 + 0.5, i // 3 * 8 + 0.5) for i in range(6)}       # row by row
    many = draw(plots.patches(picture(0, 16, 32 * 8), patch=4))
    assert [text.get_text() for text in many.axes[0].texts] == ["0", "32"]                  # the begin of each row


def test_over():
    random = np.random.default_rng(0)
    weights = {f"head {i}": random.standard_normal((2, 3)) for i in range(4)}
    figure = draw(plots.over(picture(0, 16, 24), weights, columns=3))
    assert np.array_equal(maps(figure), np.float32(list(weights.values())))
    assert [ax.get_title() for ax in figure.axes[:4]] == list(weights)
    limits = {shown.get_clim() for ax in figure.axes for shown in ax.images if shown.get_alpha()}
    low, high = limits.pop()
    assert not limits and low == -high == pytest.approx(-max(np.abs(x).max() for x in weights.values()))
    positive = draw(plots.over(picture(0, 16, 24), {"softmax": np.abs(weights["head 0"])}))
    assert positive.axes[-1].get_ylim()[0] == 0 and figure.axes[-1].get_ylim()[0] < 0       # the colour bars


def test_clip():
    frames, weights = picture(0, 6, 16, 24), torch.rand(3, 2, 3)
    figure = draw(plots.clip(frames, weights, times=[0.3, 1.3, 2.3]))
    for group in range(3):
        for frame in range(2):
            assert np.array_equal(image(figure, frame * 3 + group), frames[2 * group + frame])
    assert np.allclose(maps(figure), weights)
    assert [ax.get_title() for ax in figure.axes[:3]] == ["group 0\n0.3 s", "group 1\n1.3 s", "group 2\n2.3 s"]
    assert len(draw(plots.clip(frames)).axes) == 6


def test_looking():
    frames, weights = picture(0, 2, 16, 24), np.arange(6.0).reshape(2, 3) - 2
    layers = {"0 delta rule": weights, "1 attention": np.abs(weights), "2 delta rule": weights / 9}
    figure = draw(plots.looking(frames, weights, layers, patch=4, title="layer $1"))
    assert np.array_equal(image(figure, 0), frames[0]) and np.array_equal(image(figure, 1), frames[1])
    assert np.allclose(maps(figure), [weights, *layers.values()])
    below = [ax.images[1].get_clim()[1] for ax in figure.axes if ax.get_title() in layers]
    assert below == [3, 3, 3]                                                               # one scale for each kind


def test_reads():
    left, right = draw(plots.reads(prompt=3, new=4)).axes
    for ax, read in ((left, 3 + 4 + 5 + 6), (right, 3 + 1 + 1 + 1)):
        table = np.asarray(ax.images[0].get_array())
        assert table.shape == (4, 6) and (table > 0).sum() == 3 + 4 + 5 + 6
        assert (table == 2).sum() == read and ax.get_title().endswith(f" {read} tokens read")
    assert table[2].tolist() == [1, 1, 1, 1, 2, 0]


def test_curves():
    lines = {"a": [1, 2, 3], "b": torch.tensor([3.0, 2, float("nan")])}
    (ax,) = draw(plots.curves([1, 10, 100], lines, "x", "y", "xy")).axes
    assert [line.get_label() for line in ax.lines] == ["a", "b"]
    assert ax.lines[0].get_xydata().tolist() == [[1, 1], [10, 2], [100, 3]]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    linear = draw(plots.curves(range(100), {"$a$": range(100)}, "x", "y")).axes[0]
    assert linear.get_yscale() == "linear" and linear.lines[0].get_marker() == "None"


def test_cache_bytes():
    config, lengths = Config.named("Qwen3.5-0.8B"), [100, 1_000_000]
    kept = [memory(config, n) for n in lengths]
    (ax,) = draw(plots.cache_bytes(lengths, {"0.8B": kept})).axes
    grows, stays = ax.lines[:2]
    assert grows.get_ydata().tolist() == [m.keys_and_values for m in kept]
    assert stays.get_ydata().tolist() == 2 * [kept[0].states + kept[0].convolutions]
    assert "10 GB" in {label.get_text() for label in ax.get_yticklabels()}


def test_rulers():
    chances = {"all": torch.tensor([0.5, 0.3, 0.2]), "top": [0.0, 1.0, 0.0]}
    (ax,) = draw(plots.rulers(chances, ["cup", "hat", "key"])).axes
    pieces = [(round(bar.get_x(), 6), round(bar.get_width(), 6)) for bar in ax.patches]
    assert pieces == [(0, 0.5), (0.5, 0.3), (0.8, 0.2), (0, 0), (0, 1), (1, 0)]
    assert [text.get_text() for text in ax.texts] == ["cup", "hat", "key", "hat"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["all", "top"]


def test_choices():
    bits = torch.tensor([0.1, 2.5, 0.0])
    long, short = draw(plots.choices({"long": (STRANGE, [0.0] * len(STRANGE)), "short": (STRANGE[:3], bits)})).axes
    assert heights(short) == pytest.approx(bits.tolist()) and len(heights(long)) == len(STRANGE)
    assert long.get_ylim() == short.get_ylim() and short.get_ylim()[1] > 2.5


def texts(figure, i=0):
    return [text.get_text() for text in figure.axes[i].texts]


def test_gated_attention_says_the_widths():
    config = random_qwen().config.text_config                                               # 4 query heads on 2, of 32
    said = texts(draw(plots.gated_attention(config)))
    assert {"query\n4 × 32", "gate\n4 × 32", "key\n2 × 32", "value\n2 × 32", "x\n64 wide", "64 wide"} <= set(said)


def test_turned():
    figure = draw(plots.turned({"here": {"q": 0.5, "k": 2.0}, "$there": {"q": 3.5, "k": 5.0}}))
    assert [ax.get_title() for ax in figure.axes] == ["here", "$there"]
    for ax, angles in zip(figure.axes, ((0.5, 2.0), (3.5, 5.0))):
        tips = [text.xy for text in ax.texts if not text.get_text()]
        assert np.allclose(tips, [(np.cos(angle), np.sin(angle)) for angle in angles])


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


def test_openness(t):
    gates = {f"head {h}": torch.sigmoid(t.layers[3].gate[0, :, h]).mean(-1) for h in range(4)}
    figure = draw(plots.openness(gates, STRANGE, "how open"))
    assert np.array_equal(image(figure), np.stack(list(gates.values())))
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(gates)


def test_open_and_first():
    shares = {f"layer 3, head {h}": torch.tensor(0.1 * h) for h in range(20)}
    figure = draw(plots.open_and_first(torch.tensor([0.01, 0.02, 0.99]), shares, evenly=0.25))
    assert [bar.get_height() for bar in figure.axes[0].patches][0] == 2
    assert heights(figure.axes[1]) == pytest.approx([0.1 * h for h in range(20)])
    assert figure.axes[1].lines[0].get_ydata()[0] == 0.25
    assert len(figure.axes[1].get_xticks()) <= 16


def test_training_reads_its_log(tmp_path):
    (tmp_path / "training.csv").write_text(
        "step,seconds,lr,loss facts,loss sums,12 facts\n"
        "1,10,0.1,3.0,2.0,\n" "2,20,0.2,2.0,1.0,0.25\n" "3,30,0.1,1.0,0.5,0.5\n")
    figure = draw(plots.training(tmp_path / "training.csv"))
    losses, accuracies = figure.axes
    assert [line.get_label() for line in losses.lines] == ["loss facts", "loss sums"]
    assert losses.lines[1].get_xydata().tolist() == [[1, 2], [2, 1], [3, 0.5]]
    assert accuracies.lines[0].get_xydata().tolist() == [[2, 0.25], [3, 0.5]]


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


# ---- the hybrid decoder

def test_wiring_says_whose_each_piece_is():
    pieces = ["my_rms_norm", "my_gated_attention", "my_mlp", "my_gated_delta_net", "my_convolution", "my_decay",
              "my_chunk_gated_delta_rule", "my_gated_norm"]
    owners = dict.fromkeys(pieces, "built today") | {"my_mlp": "yours", "my_rms_norm": "the lessons'"}
    figure = draw(plots.wiring(owners))
    texts = {text.get_text(): text for ax in figure.axes for text in ax.texts}
    assert {*pieces, "in_proj_qkv", "in_proj_z", "out_proj", "yours"} <= texts.keys()
    colours = {name: to_hex(next(box for ax in figure.axes for box in ax.patches if isinstance(box, Rectangle)
                                 and box.axes is texts[name].axes and box.contains_point(
                                     texts[name].axes.transData.transform(texts[name].get_position()))).get_facecolor())
               for name in pieces}
    assert colours["my_mlp"] == plots.KEEPS and colours["my_rms_norm"] == "#dfe3e8"
    assert {colours[name] for name in pieces if owners[name] == "built today"} == {"#fbe3c8"}


def test_tensor_names_are_those_of_one_layer_of_each_kind():
    model = random_qwen()
    config = model.config.text_config
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items() if "visual" not in name}
    stack, words = draw(plots.tensor_names(shapes, config)).axes
    texts = [text.get_text() for text in words.texts]
    kinds = {kind: config.layer_types.index(kind) for kind in set(config.layer_types)}
    shown = [name for name in shapes if ".layers." not in name
             or any(f".layers.{i}." in name for i in kinds.values())]
    for name in shown:
        short = name.split(".layers.")[-1].split(".", 1)[1] if ".layers." in name else name
        assert short in texts and " × ".join(map(str, shapes[name])) in texts
    assert f"and {config.layer_types.count('linear_attention') - 1} other layers like it, of 4" in texts
    assert [text.get_text() for text in stack.texts] == ["embed_tokens", *(f"layers.{i}" for i in range(4)), "norm"]


def test_lens():
    guesses = [STRANGE, STRANGE[::-1], ["a" * 40] * len(STRANGE)]
    chances = torch.rand(3, len(STRANGE))
    figure = draw(plots.lens(guesses, chances, STRANGE))
    assert np.array_equal(image(figure), chances)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[1] == "·red" and texts[-1] == "a" * 12 + "…"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["embedding", "layer 0", "layer 1"]


def test_grouped_bars():
    values = {"0": {"mixer": 0.5, "MLP": 0.25}, "1": {"mixer": 0.125, "MLP": 1.0}}
    (ax,) = draw(plots.grouped(values, "added", "layer")).axes
    assert [bar.get_height() for bar in ax.patches] == [0.5, 0.125, 0.25, 1.0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mixer", "MLP"]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("added", "layer")


def test_shares_add_up_to_one():
    parts = {"small": {"head": 300, "MLP": 700}, "large": {"head": 10**9, "MLP": 3 * 10**9}}
    (ax,) = draw(plots.shares(parts)).axes
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx([0.3, 0.7, 0.25, 0.75])
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["30%", "70%", "1 thousand", "25%", "75%", "4 billion"]


def test_lengths_put_the_fewest_tokens_first():
    figure = draw(plots.lengths({"b": 7, "yours": 5, "a": 3}, {"b": 2, "yours": 9, "a": 4}, marked=["yours"]))
    left, right = figure.axes
    assert [label.get_text() for ax in figure.axes for label in ax.get_yticklabels()] == ["a", "yours", "b"]
    assert [bar.get_width() for ax in figure.axes for bar in ax.patches] == [3, 5, 7]
    assert [list(ax.lines[0].get_xdata()) for ax in figure.axes] == [[4, 9], [2]]
    assert left.patches[1].get_facecolor() != left.patches[0].get_facecolor() == right.patches[0].get_facecolor()


def test_pieces_are_read_in_any_script():
    shown = plots.pieces({"a <title>": [b" red", "मि".encode()[3:], b"\xe1\x89", b"<b>\n\x00", "東".encode(), b""]})
    tokens = ["·red", "\u25ccि", r"\xe1\x89", "<b>↵‹0›", "東", ""]
    assert repr(shown) == "a <title> (6): " + " │ ".join(tokens)
    page = shown._repr_html_()
    assert re.findall(r"<code [^>]*>([^<]*)</code>", page) == [html.escape(token) for token in tokens]
    assert "<b>a &lt;title&gt;</b>: 6 tokens" in page and "<b>↵" not in page
    assert 'dir="auto"' in page                                          # so that Arabic goes from right to left


# ---- the chunked delta rule

def test_chunks_say_which_pairs_meet_inside_one():
    figure = draw(plots.chunks(tokens=6, chunk_size=2))
    assert image(figure).tolist() == [[2, 0, 0, 0, 0, 0],
                                      [2, 2, 0, 0, 0, 0],
                                      [1, 1, 2, 0, 0, 0],
                                      [1, 1, 2, 2, 0, 0],
                                      [1, 1, 1, 1, 2, 0],
                                      [1, 1, 1, 1, 2, 2]]
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()] == ["$S$", "$S$"]


def test_errors_show_every_number_and_what_is_none():
    lines = {"short": [1e-7, 1e-3, float("nan"), float("inf")], "right": [1e-7, 2e-7, 3e-7, 1e2]}
    (ax,) = draw(plots.errors([1, 10, 100, 1000], lines, "x", "error", log=True)).axes
    drawn = {line.get_label(): line for line in ax.lines}
    assert drawn["short"].get_ydata().tolist() == pytest.approx([1e-7, 1e-3])
    assert drawn["right"].get_ydata().tolist() == pytest.approx(lines["right"])
    assert drawn["short: not a number"].get_xdata().tolist() == [100, 1000]
    low, high = ax.get_ylim()
    assert low < 1e-7 and 1e2 < drawn["short: not a number"].get_ydata().min() < high
    (ax,) = draw(plots.errors([1, 2], {"a": [1e-7, 1e-6]}, "x", "error", points=True)).axes
    assert ax.lines[0].get_linestyle() == "None" and ax.get_ylim()[1] > 1


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
