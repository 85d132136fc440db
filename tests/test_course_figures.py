"""Figures of single lessons show the numbers they are given, and can be drawn without a warning."""

import html
import re

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from plots_support import STRANGE, draw, heights, image, maps, picture, texts, traced
from support import random_qwen

from minqwen import plots
from minqwen.config import Config
from minqwen.course import figures

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def t():
    return traced()


SAID = {                                         # what a figure says of itself, for those who hear it
    "stack": (figures.stack(Config.named("Qwen3.5-0.8B").text_config),
              "24 layers. From the bottom: 6 times, 3 of Gated DeltaNet and then 1 of gated attention. Each Gated "
              "DeltaNet has 16 memories of 128 by 128, each gated attention 8 heads."),
    "boxes": (figures.boxes({"mark": ["hello", "<|im_end|>"], "long": 9 * ["A", " red"]}, marked=["<|im_end|>"]),
              "mark: 2 tokens, “hello” “<|im_end|>” in orange. long: 18 tokens, " + " ".join(8 * ["“A” “red”"]) +
              ", and 2 more."),
    "ids": (figures.boxes({"ids": ["a", " red"]}, notes={"ids": [7, 8]}), "ids: 2 tokens, “a” 7 “red” 8."),
    "lengths": (figures.lengths({"b": 7, "yours": 5, "a": 3, "c": 9}, {"b": 2, "yours": 9, "a": 4, "c": 1}, ["yours"]),
                "The fewest: a 3, with 4; yours 5, with 9; b 7, with 2 letters and signs. The most: yours 5, with 9; "
                "b 7, with 2; c 9, with 1; in orange yours 5, with 9, which is number 2."),
    "pointing": (figures.pointing({"red": (1, 0.1), "up": (0, 1)}, (2.2, -0.3), [2.17, -0.3], [0.92, 0.08]),
                 "2 words as arrows in the plane, red and up, and one more arrow, h, that points most nearly where red "
                 "does. The logits: red at 2.2, up at -0.3. The probabilities: red at 0.9, up at 0.1."),
    "heads": (figures.heads({"head 0": torch.tensor([[1.0, 0], [0.2, 0.8]])}),
              "to the first token, head 0 at 0.6; to the token before, head 0 at 0.2; to itself, head 0 at 0.9."),
    "tables": (figures.tables({"at first": torch.zeros(2, 2), "Bob has it.": torch.tensor([[0, 0], [1, 0.5]])},
                              ["Ann", "Bob"], ["red", "cup"]),
               "Tables of Ann and Bob by red and cup. at first: empty. Bob has it: Bob has red at 1, cup at 0.5."),
    "theory": (figures.beside_theory([1, 10], {"a": [1, 2], "b": [4, 6]}, {"b": [4, 6.2]}, "n", "error"),
               "a rises from 1 to 2; b rises from 4 to 6. Lines are what theory says: the dots lie on them."),
    "likenesses": (figures.likenesses({"after": [0.1, 0.2, 1.0]}, ["Ann", " has", "Ann"]),
                   "up to “Ann”: how like that of each. After: “Ann” (0) at 0.1, “has” at 0.2, “Ann” (2) at 1; this "
                   "token itself is at 1."),
    "chunks": (figures.chunks(tokens=16, chunk_size=4), "4 small triangles along the diagonal, of 4 tokens"),
    "errors": (figures.errors([1, 2, 3], {"good": [1e-7, 3e-7, 2e-7], "bad": [1e-5, 0.4, float("nan")],
                                          "half": [0.008, 0.004, 0.009]}, "strength", "error"),
               "from 1 to 3. A line is at 1, where it is as large as the result. In powers of ten, good stays next to "
               "0; bad begins next to 0 and gets as large as 1, and is not a number from 3 on; half gets as large as "
               "0.01."),
    "turned": (figures.turned({"$q^\\top k$": {"q": 0.5, "k": -0.5}}), "qᵀ k: q at 29, k at 331."),
    "openness": (figures.openness({"head 0": [0.1, 0.9], "head 1": [0.5, 0.9]}, ["Ann", " has"], "how open"),
                 "2 heads by 2 tokens, how open: from 0, closed, to 1, open. On average over the tokens, head 0 at "
                 "0.5, head 1 at 0.7. On average over the heads, “Ann” at 0.3, “has” at 0.9."),
    "open and first": (figures.open_and_first([0.1, 0.1, 0.9, 0.5], {"head 0": 0.42}, 0.12),
                       "0 to 0.2 at 50, to 0.4 at 0, to 0.6 at 25, to 0.8 at 0, to 1 at 25. Right, the share of each "
                       "head's attention that goes to the first token: head 0 at 0.4. A dashed line at 0.1 is"),
    "half-lives": (figures.half_lives({0: torch.tensor([3.0, 2000.0]), 2: torch.tensor([7e5, 72.3])}),
                   "Layer 0, from 3 to 2,000; layer 2, from 70 to 700,000."),
    "grouped": (figures.grouped({"0": {"facts": 1, "sums": 0.42}, "1": {"facts": 0.2, "sums": 0}}, "right", "layer"),
                "Bars in groups: right, by layer. 0: facts at 1, sums at 0.4; 1: facts at 0.2, sums at 0."),
    "lens": (figures.lens([["a", " b"], ["c", "d"]], torch.tensor([[0.1, 0.2], [0.3, 0.4]]), ["Ann", " has"]),
             "Read were “Ann” “has”. From the bottom: embedding, “a” “b”; layer 0, “c” “d”."),
    "reads": (figures.reads(prompt=8, new=6), "63 in all. Right, the prompt is read in the first step, and then one "
                                              "new token in each, 13 in all"),
    "rulers": (figures.rulers({"top-k 2": torch.tensor([0.6, 0.4, 0])}, ["key", "cup", "hat"]),
               "Top-k 2: key at 0.6, cup at 0.4."),
    "choices": (figures.choices({"at once": (["8", "7"], [2.1, 3.3])}), "At once: “8” at 2, “7” at 3."),
}


@pytest.mark.parametrize("figure, said", SAID.values(), ids=SAID)
def test_what_figures_say_of_themselves(figure, said):
    assert said in figure.alt


NAN = float("nan")
ODD = {                                          # the same of nothing, of one thing, and of what is no number
    "a hole": (figures.errors([1, 2, 4, 8], {"a": [1, NAN, 1, 1], "b": [1, NAN, NAN, NAN]}, "x", "error"),
               "a gets as large as 1, and is not a number at 2; b gets as large as 1, and is not a number from 2 on."),
    "no error": (figures.errors([1, 2], {"exact": [0, 0], "broken": [NAN, NAN]}, "x", ""),
                 "exact stays next to 0; broken is not a number anywhere."),
    "no pull": (figures.pulls([0, 1, 2], {"a": [0, 0, 0]}, {"b": [0, 1, 0]}),
                "Where its answer was better: a stays at 0. Where it was worse: b rises from 0 to 1, then falls to 0, "
                "and is nothing below 0.5 and above 1.5."),
    "no weight": (figures.over(np.zeros((4, 4, 3), np.uint8), {"shut": np.zeros((2, 2))}), "shut: nothing anywhere."),
    "no title": (figures.rulers({"": [0.5, 0.5]}, ["a", "b"]), "pieces for words. : a at 0.5, b at 0.5."),
    "neither": (figures.overlap([0.0, 1.0], [0.0, 1.0], ["a", "b"]), "a: nothing. b: 100% drafted and taken."),
    "one dot": (figures.beside_theory([1], {"a": [2]}, {"a": [2]}, "x", "y"), "the dots lie on them."),
}


@pytest.mark.parametrize("figure, said", ODD.values(), ids=list(ODD))
def test_what_is_said_of_nothing_of_one_thing_and_of_no_numbers(figure, said):
    assert said in figure.alt


def test_boxes_hold_every_token_and_wrap():
    """In their order, each inside of its box, the marked ones in their own colour; a long text takes more lines."""
    figure = draw(figures.boxes({"strange": STRANGE, "long": 40 * [" red"]}, marked=STRANGE[:1], width=80,
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


def test_heads(t):
    maps = {f"head {i}": t.layers[3].attention[0, i] for i in range(3)}
    figure = draw(figures.heads(maps, limit=0.5, columns=2))
    for i, (title, weights) in enumerate(maps.items()):
        shown = figure.axes[i].images[0]
        assert figure.axes[i].get_title() == title and shown.get_clim() == (0, 0.5)
        assert np.allclose(shown.get_array().filled(0), weights) and shown.get_array().mask[0, 1:].all()
    assert not figure.axes[3].axison                             # the place that is left over


def test_beside_theory():
    figure = draw(figures.beside_theory([1, 10, 100], {"a": [1, 2, 3], "b": [4, 5, 6]}, {"b": [4, 4, 4]}, "n", "error"))
    a, b, theory, _ = figure.axes[0].lines
    assert [list(line.get_ydata()) for line in (a, b, theory)] == [[1, 2, 3], [4, 5, 6], [4, 4, 4]]
    assert theory.get_color() == b.get_color() != a.get_color() and a.get_linestyle() == "None"
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"


def test_costs():
    work = {"contexts": [1024, 4096], **{phase: {"linear_attention": [1e-5, 1e-5], "full_attention": [1e-5, 4e-5]}
                                         for phase in ("prefill", "decode")}}
    now = {"contexts": [1024], **{phase: {"linear_attention": [2e-5], "full_attention": [3e-5]}
                                  for phase in ("prefill", "decode")}}
    figure = draw(figures.costs(work, now))
    for ax in figure.axes:
        delta, rings, attention, _ = ax.lines[:4]
        assert list(delta.get_ydata()) == [1e-5, 1e-5] and list(attention.get_ydata()) == [1e-5, 4e-5]
        assert list(rings.get_xdata()) == [1024] and rings.get_color() == delta.get_color() != attention.get_color()
    assert {"1k", "4k"} <= {label.get_text() for label in figure.axes[0].get_xticklabels()}
    assert "10 µs" in {label.get_text() for label in figure.axes[0].get_yticklabels()}
    assert "For a token of the answer: Gated DeltaNet from 10 µs to 10 µs and attention from 10 µs to 40" in figure.alt


def test_recall():
    panels = {"by age": ("age", ["near", "far"], {"short": [1.0, 0.5], "long": [0.9, float("nan")]}),
              "by load": ("people", [2, 4, 8], {"all": [1, 0.75, 0.5]})}
    figure = draw(figures.recall(panels))
    assert [ax.get_ylabel() for ax in figure.axes] == ["recalled", ""]
    assert draw(figures.recall(panels, "right")).axes[0].get_ylabel() == "right"
    assert figure.alt == (
        "by age, the share that is recalled over age, near up to far: short falls from 1 to 0.5; long stays at 0.9. "
        "by load, the share that is recalled over people, 2 up to 8: all falls from 1 to 0.5.")
    for ax, (title, (label, places, lines)) in zip(figure.axes, panels.items()):
        assert (ax.get_title(), ax.get_xlabel()) == (title, label)
        assert [tick.get_text() for tick in ax.get_xticklabels()] == [str(place) for place in places]
        for line, shares in zip(ax.lines, lines.values()):
            np.testing.assert_allclose(line.get_ydata(), shares)
        assert bool(ax.get_legend()) == (len(lines) > 1)


def test_worn():
    figure = draw(figures.worn({"random": {1: 0.9, 2: 0.8}, "few": {64: 0.7}}, {"random": {1: 0.95, 2: 0.85}}))
    random, theory, few, _ = figure.axes[0].lines
    assert list(random.get_ydata()) == [0.9, 0.8] and list(theory.get_ydata()) == [0.95, 0.85]
    assert theory.get_color() == random.get_color() != few.get_color() and list(few.get_xdata()) == [64]
    assert figure.alt.endswith("Lines of theory: random falls from 1 to 0.9. The dots that belong to them are off by "
                               "0.05 at most. Other dots: few stays at 0.7.")


def test_heads_of_layers():
    rows = {"layer 0": {"a": torch.tensor([3.0, 20.0]), "b": torch.tensor([4.0])},
            "layer 2": {"a": torch.tensor([900.0])}}
    figure = draw(figures.heads_of_layers(rows, "tokens", log=True, marks={"this text": 50}))
    ax = figure.axes[0]
    dots = [line for line in ax.lines if line.get_marker() != "None"]
    assert [list(line.get_xdata()) for line in dots] == [[3, 20], [900], [4], []]
    assert [round(line.get_ydata().mean()) for line in dots[:3]] == [0, 1, 0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(rows) and ax.get_xscale() == "log"
    assert ax.texts[0].get_text() == "this text " and ax.get_legend() is not None
    assert figure.alt == ("A dot for each head, tokens: layer 0, 3 to 20; layer 2, all at 900. "
                          "A line at 50: this text.")
    one = draw(figures.heads_of_layers({"layer 0": {"a": [1, 2]}}, "directions"))
    assert one.axes[0].get_legend() is None and one.axes[0].get_xscale() == "linear"


def test_patches():
    pixels = picture(0, 16, 24)
    figure = draw(figures.patches(pixels, patch=4, merge=2, title="$16$"))
    (ax,) = figure.axes
    assert np.array_equal(image(figure), pixels)
    numbers = {text.get_text(): text.get_position() for text in ax.texts}
    assert numbers == {str(i): (i % 3 * 8 + 0.5, i // 3 * 8 + 0.5) for i in range(6)}       # row by row
    assert figure.alt.startswith("A picture, 16, under two grids: a thin one around each patch of 4 x 4 pixels, and a "
                                 "bold one around each token of 2 x 2 patches. The tokens, 2 rows of 3, are numbered")
    many = draw(figures.patches(picture(0, 16, 32 * 8), patch=4))
    assert [text.get_text() for text in many.axes[0].texts] == ["0", "32"]                  # the begin of each row


def test_over():
    random = np.random.default_rng(0)
    weights = {f"head {i}": random.standard_normal((2, 3)) for i in range(4)}
    figure = draw(figures.over(picture(0, 16, 24), weights, columns=3))
    assert np.array_equal(maps(figure), np.float32(list(weights.values())))
    assert [ax.get_title() for ax in figure.axes[:4]] == list(weights)
    limits = {shown.get_clim() for ax in figure.axes for shown in ax.images if shown.get_alpha()}
    low, high = limits.pop()
    assert not limits and low == -high == pytest.approx(-max(np.abs(x).max() for x in weights.values()))
    positive = draw(figures.over(picture(0, 16, 24), {"softmax": np.abs(weights["head 0"])}))
    assert positive.axes[-1].get_ylim()[0] == 0 and figure.axes[-1].get_ylim()[0] < 0       # the colour bars
    assert [int(token) for token in re.findall(r"head \d: the strongest at token (\d)", figure.alt)] == [
        np.abs(looked).argmax() for looked in weights.values()]
    assert figures.over(picture(0, 16, 24), {"a": np.array([[0.1, -0.8], [0.9, 0.6]])}).alt.endswith(
        "a: the strongest at token 2, and more than half as strong at 1 and 3.")


def test_clip():
    frames, weights = picture(0, 6, 16, 24), torch.rand(3, 2, 3)
    figure = draw(figures.clip(frames, weights, times=[0.3, 1.3, 2.3]))
    for at in range(3):
        for frame in range(2):
            assert np.array_equal(image(figure, frame * 3 + at), frames[2 * at + frame])
    assert np.allclose(maps(figure), weights)
    assert [ax.get_title() for ax in figure.axes[:3]] == ["slice 0\n0.3 s", "slice 1\n1.3 s", "slice 2\n2.3 s"]
    assert len(draw(figures.clip(frames)).axes) == 6
    frames[5] = frames[4]
    assert figures.clip(frames, weights, times=[0.3, 1.3, 2.3]).alt == (
        "A clip as 3 slices of 2 frames at 0.3, 1.3 and 2.3 seconds; in slice 2 they are the same. Below each slice a "
        f"weight for each token: the strongest is in slice {weights.amax((1, 2)).argmax()}.")


def test_side_by_side():
    pictures = {"before": picture(0, 8, 12), "after": torch.tensor(picture(1, 4, 6))}
    figure = draw(figures.side_by_side(pictures))
    assert [ax.get_title() for ax in figure.axes] == ["before", "after"]
    assert all(np.array_equal(image(figure, i), x) for i, x in enumerate(pictures.values()))
    assert figure.alt == "Side by side: before, 12 x 8 pixels; after, 6 x 4 pixels."
    assert figures.side_by_side({"": picture(0, 8, 12)}).alt == "A picture, 12 x 8 pixels."


def test_learned_positions_show_the_cosine_to_the_dot():
    grid = torch.randn(3, 4, 5)
    figure = draw(figures.learned_positions([(grid, 1, 2), (torch.randn(2, 6, 5), 0, 0)]))
    centred = grid - grid.mean((0, 1))
    assert np.allclose(image(figure), torch.cosine_similarity(centred, centred[1, 2], dim=-1), atol=1e-6)
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[2, 1]]
    assert [ax.get_title() for ax in figure.axes[:2]] == ["row 1, column 2\nof 3 x 4", "row 0, column 0\nof 2 x 6"]


def test_reads():
    left, right = draw(figures.reads(prompt=3, new=4)).axes
    for ax, read in ((left, 3 + 4 + 5 + 6), (right, 3 + 1 + 1 + 1)):
        table = np.asarray(ax.images[0].get_array())
        assert table.shape == (4, 6) and (table > 0).sum() == 3 + 4 + 5 + 6
        assert (table == 2).sum() == read and ax.get_title().endswith(f" {read} tokens read")
    assert table[2].tolist() == [1, 1, 1, 1, 2, 0]


def test_rulers():
    chances = {"all": torch.tensor([0.5, 0.3, 0.2]), "top": [0.0, 1.0, 0.0]}
    (ax,) = draw(figures.rulers(chances, ["cup", "hat", "key"])).axes
    pieces = [(round(bar.get_x(), 6), round(bar.get_width(), 6)) for bar in ax.patches]
    assert pieces == [(0, 0.5), (0.5, 0.3), (0.8, 0.2), (0, 0), (0, 1), (1, 0)]
    assert [text.get_text() for text in ax.texts] == ["cup", "hat", "key", "hat"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["all", "top"]


def test_choices():
    bits = torch.tensor([0.1, 2.5, 0.0])
    long, short = draw(figures.choices({"long": (STRANGE, [0.0] * len(STRANGE)), "short": (STRANGE[:3], bits)})).axes
    assert heights(short) == pytest.approx(bits.tolist()) and len(heights(long)) == len(STRANGE)
    assert long.get_ylim() == short.get_ylim() and short.get_ylim()[1] > 2.5
    (ax,) = draw(figures.choices({"a long thought": (["x"] * 44, [0.0] * 44)})).axes     # it fits a small screen
    assert ax.figure.get_figwidth() <= 8.5 and {label.get_fontsize() for label in ax.get_xticklabels()} == {8}


def test_gated_attention_says_the_widths():
    config = random_qwen().config.text_config                                               # 4 query heads on 2, of 32
    figure = draw(figures.gated_attention(config))
    said = texts(figure)
    assert "x, 64 wide" in figure.alt and "each of 4 heads, 32 wide" in figure.alt and "values of 2 heads" in figure.alt
    assert {"query\n4 × 32", "gate\n4 × 32", "key\n2 × 32", "value\n2 × 32", "x\n64 wide", "64 wide"} <= set(said)


def test_turned():
    figure = draw(figures.turned({"here": {"q": 0.5, "k": 2.0}, "$there": {"q": 3.5, "k": 5.0}}))
    assert [ax.get_title() for ax in figure.axes] == ["here", "$there"]
    for ax, angles in zip(figure.axes, ((0.5, 2.0), (3.5, 5.0))):
        tips = [text.xy for text in ax.texts if not text.get_text()]
        assert np.allclose(tips, [(np.cos(angle), np.sin(angle)) for angle in angles])


def test_openness(t):
    gates = {f"head {h}": torch.sigmoid(t.layers[3].gate[0, :, h]).mean(-1) for h in range(4)}
    figure = draw(figures.openness(gates, STRANGE, "how open"))
    assert np.array_equal(image(figure), np.stack(list(gates.values())))
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(gates)


def test_open_and_first():
    shares = {f"layer 3, head {h}": torch.tensor(0.05 * h) for h in range(20)}
    figure = draw(figures.open_and_first(torch.tensor([0.01, 0.02, 0.99]), shares, evenly=0.25))
    assert [bar.get_height() for bar in figure.axes[0].patches][0] == 2
    assert heights(figure.axes[1]) == pytest.approx([0.05 * h for h in range(20)])
    assert figure.axes[1].lines[0].get_ydata()[0] == 0.25
    assert len(figure.axes[1].get_xticks()) <= 16


def test_wiring_says_whose_each_piece_is():
    pieces = ["my_rms_norm", "my_gated_attention", "my_mlp", "my_gated_delta_net", "my_convolution", "my_decay",
              "my_chunk_gated_delta_rule", "my_gated_norm"]
    owners = dict.fromkeys(pieces, "built today") | {"my_mlp": "yours", "my_rms_norm": "the course's"}
    figure = draw(figures.wiring(owners))
    texts = {text.get_text(): text for ax in figure.axes for text in ax.texts}
    assert {*pieces, "in_proj_qkv", "in_proj_z", "out_proj", "yours"} <= texts.keys()
    colours = {name: to_hex(next(box for ax in figure.axes for box in ax.patches if isinstance(box, Rectangle)
                                 and box.axes is texts[name].axes and box.contains_point(
                                     texts[name].axes.transData.transform(texts[name].get_position()))).get_facecolor())
               for name in pieces}
    assert "yours my_mlp; the course's my_rms_norm; built today my_gated_attention, my_gated_delta_net," in figure.alt
    assert colours["my_mlp"] == plots.KEEPS and colours["my_rms_norm"] == "#dfe3e8"
    assert {colours[name] for name in pieces if owners[name] == "built today"} == {"#fbe3c8"}


def test_tensor_names_are_those_of_one_layer_of_each_kind():
    model = random_qwen()
    config = model.config.text_config
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items() if "visual" not in name}
    figure = draw(figures.tensor_names(shapes, config))
    stack, words = figure.axes
    assert "layers.3: " in figure.alt and f"input_layernorm.weight {config.hidden_size}, " in figure.alt
    assert f"outside of the layers: embed_tokens.weight {config.vocab_size} × {config.hidden_size}, " in figure.alt
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
    figure = draw(figures.lens(guesses, chances, STRANGE))
    assert np.array_equal(image(figure), chances)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[1] == "·red" and texts[-1] == "a" * 12 + "…"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["embedding", "layer 0", "layer 1"]


def test_grouped_bars():
    values = {"0": {"mixer": 0.5, "MLP": 0.25}, "1": {"mixer": 0.125, "MLP": 1.0}}
    (ax,) = draw(figures.grouped(values, "added", "layer")).axes
    assert [bar.get_height() for bar in ax.patches] == [0.5, 0.125, 0.25, 1.0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mixer", "MLP"]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("added", "layer")


def test_lengths_put_the_fewest_tokens_first():
    figure = draw(figures.lengths({"b": 7, "yours": 5, "a": 3}, {"b": 2, "yours": 9, "a": 4}, marked=["yours"]))
    left, right = figure.axes
    assert [label.get_text() for ax in figure.axes for label in ax.get_yticklabels()] == ["a", "yours", "b"]
    assert [bar.get_width() for ax in figure.axes for bar in ax.patches] == [3, 5, 7]
    assert [list(ax.lines[0].get_xdata()) for ax in figure.axes] == [[4, 9], [2]]
    numbers = [text for ax in figure.axes for text in ax.texts]
    assert [text.get_text() for text in numbers] == ["3", "5", "7"]
    assert all(text.get_position()[0] < 1 for text in numbers), "at its end a bar's number could meet a dot"
    assert left.patches[1].get_facecolor() != left.patches[0].get_facecolor() == right.patches[0].get_facecolor()


def test_pieces_are_read_in_any_script():
    shown = figures.pieces({"a <title>": [b" red", "मि".encode()[3:], b"\xe1\x89", b"<b>\n\x00", "東".encode(), b""]})
    tokens = ["·red", "\u25ccि", r"\xe1\x89", "<b>↵‹0›", "東", ""]
    assert repr(shown) == "a <title> (6): " + " │ ".join(tokens)
    page = shown._repr_html_()
    assert re.findall(r"<code [^>]*>([^<]*)</code>", page) == [html.escape(token) for token in tokens]
    assert "<b>a &lt;title&gt;</b>: 6 tokens" in page and "<b>↵" not in page
    assert 'dir="auto"' in page                                          # so that Arabic goes from right to left


def test_chunks_say_which_pairs_meet_inside_one():
    figure = draw(figures.chunks(tokens=6, chunk_size=2))
    assert image(figure).tolist() == [[2, 0, 0, 0, 0, 0],
                                      [2, 2, 0, 0, 0, 0],
                                      [1, 1, 2, 0, 0, 0],
                                      [1, 1, 2, 2, 0, 0],
                                      [1, 1, 1, 1, 2, 0],
                                      [1, 1, 1, 1, 2, 2]]
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()] == ["$S$", "$S$"]


def test_errors_show_every_number_and_what_is_none():
    lines = {"short": [1e-7, 1e-3, float("nan"), float("inf")], "right": [1e-7, 2e-7, 3e-7, 1e2]}
    (ax,) = draw(figures.errors([1, 10, 100, 1000], lines, "x", "error", log=True)).axes
    drawn = {line.get_label(): line for line in ax.lines}
    assert drawn["short"].get_ydata().tolist() == pytest.approx([1e-7, 1e-3])
    assert drawn["right"].get_ydata().tolist() == pytest.approx(lines["right"])
    assert drawn["short: not a number"].get_xdata().tolist() == [100, 1000]
    low, high = ax.get_ylim()
    assert low < 1e-7 and 1e2 < drawn["short: not a number"].get_ydata().min() < high
    (ax,) = draw(figures.errors([1, 2], {"a": [1e-7, 1e-6]}, "x", "error", points=True)).axes
    assert ax.lines[0].get_linestyle() == "None" and ax.get_ylim()[1] > 1


def test_likenesses():
    """A row of bars for each vector, a bar for each token, drawn as long as they are told to be."""
    cosines = {"before": torch.linspace(-1, 1, len(STRANGE)), "after": torch.zeros(len(STRANGE))}
    figure = draw(figures.likenesses(cosines, STRANGE))
    assert [ax.get_ylabel() for ax in figure.axes] == ["before", "after"]
    for ax, numbers in zip(figure.axes, cosines.values()):
        assert heights(ax) == pytest.approx(numbers.tolist()) and ax.get_ylim() == (-1, 1)
    names = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert names == [plots.visible(token).replace("$", r"\$") for token in STRANGE]


def test_walk_step():
    """Each tile as large as it is, on the floor where it lies; as many arrows as there are products."""
    figure = draw(figures.walk_step(C=48, Dk=96, BV=32))
    ax, = figure.axes
    said = [text.get_text() for text in ax.texts]
    assert [word for word in said if word in "①②③④⑤" and word] == list("①②③④⑤")
    boxes = [box for box in ax.patches if isinstance(box, Rectangle)]
    shapes = {(round(64 * box.get_height()), round(64 * box.get_width())) for box in boxes}
    assert {(32, 96), (32, 48), (48, 96), (48, 48), (48, 32)} <= shapes
    assert {"$S^T$  32 × 96", "$u^T$  32 × 48", "$k$  48 × 96", "$M$  48 × 48", "$v$  48 × 32"} <= set(said)


def test_roofline():
    """The slope is the memory's, the flat part the tensor cores'; every point is where it was measured."""
    figure = draw(figures.roofline(2000, 400, {"a": (0.5, 1e11), "b": (300, 2e14)}, "a machine"))
    ax, = figure.axes
    roof, bend, a, b = ax.lines
    assert np.allclose(roof.get_xydata()[1], (200, 4e14)) and np.allclose(roof.get_ydata()[[0, 2]], (2e11, 4e14))
    assert bend.get_xdata()[0] == 200
    assert [tuple(line.get_xydata()[0]) for line in (a, b)] == [(0.5, 1e11), (300, 2e14)]
    assert ax.get_title() == "a machine" and len({line.get_marker() for line in (a, b)}) == 2
    assert "a slope up to 200 of them, then flat at 400 T" in figure.alt
    assert "a at 0.5 with 10% of the roof and b at 300.0 with 50% of the roof" in figure.alt


def test_durations():
    figure = draw(figures.durations({"slow": 66.78, "fast": 0.356}, "ms", "a machine"))
    ax, = figure.axes
    assert [bar.get_width() for bar in ax.patches] == [66.78, 0.356]
    assert [text.get_text().strip() for text in ax.texts] == ["66.8 ms", "0.356 ms"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["slow", "fast"] and ax.yaxis_inverted()
    assert figure.alt == "Bars. a machine. slow, 67 ms; fast, 0.36 ms."


def test_drafting():
    """A box for each token and for each guess; the head stands once below each of its guesses, and on what it read."""
    figure = draw(figures.drafting(["a", "b", "$c$"], ["d", "e"]))
    ax, = figure.axes
    said = [text.get_text() for text in ax.texts]
    assert [said.count(word) for word in ("a", "b", r"\$c\$", "d", "e")] == [1, 1, 1, 2, 2]
    assert said.count("model") == 2 and said.count("head") == 3
    boxes = [box for box in ax.patches if isinstance(box, Rectangle)]
    assert len(boxes) == 5 + 2 + 3 + 2
    assert "“a”, “b” and “$c$”" in figure.alt and figure.alt.endswith("has drafted: “d” and “e”.")


def test_overlap():
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.4, 0.2, 0.4])
    ax, = draw(figures.overlap(p, q, ["key", "$", "hat"])).axes
    both, refused, instead = np.array([bar.get_height() for bar in ax.patches]).reshape(3, 3)
    assert np.allclose(both + refused, q) and np.allclose(both + instead, p)
    assert np.allclose(np.minimum(refused, instead), 0)
    assert ax.figure.alt.endswith("key: 40% drafted and taken and 30% instead of others. $: 20% drafted and taken. "
                                  "hat: 10% drafted and taken and 30% drafted and refused.")


def test_a_mixture_leads_to_its_chosen_experts():
    (ax,) = draw(figures.mixture(5, {3: 0.75, 1: 0.25})).axes
    words = [text.get_text() for text in ax.texts if text.get_text()]
    boxes = dict(zip(words, (patch for patch in ax.patches if isinstance(patch, Rectangle)), strict=True))
    assert words[2:8] == ["expert 0", "expert 1\n× 0.25", "expert 2", "expert 3\n× 0.75", "expert 4",
                          "shared expert\n× its gate"]
    chosen = {boxes[word].get_facecolor() for word in words if "×" in word}
    assert len(chosen) == 1 and boxes["expert 0"].get_facecolor() not in chosen
    assert "expert 3, times 0.75, and expert 1, times 0.25, and from there to a sum" in ax.figure.alt


def test_readers():
    shares = {0: np.array([[0.5, 0.5], [1, 0]]), 6: np.array([[0, 1], [0.25, 0.75]])}
    figure = draw(figures.readers(shares, ["names", "digits"], top=2))
    for ax, (layer, share) in zip(figure.axes, shares.items()):
        assert ax.get_title() == f"layer {layer}" and ax.images[0].get_clim() == (0, 2)
        assert np.array_equal(ax.images[0].get_array(), share)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["names", "digits"]
    assert figure.alt.endswith("In layer 0 digits at expert 0, 1. In layer 6 names at expert 1, 1.")
    assert figures.readers({2: np.array([[0.01, 0]]), 4: np.array([[0, 0.5]])}, ["names"]).alt.endswith(
        "In layer 2 all are pale. In layer 4 names at expert 1, 0.5.")


def test_loads():
    runs = {name: {"steps": [10, 20], "balance": [2.5, end], "loads": [[0.5, 1.5], [load, 2 - load]]}
            for name, end, load in (("with", 2.0, 1.0), ("without", 3.0, 2.0))}
    left, *maps = draw(figures.loads(runs, top_k=2)).axes[:3]
    assert [list(line.get_ydata()) for line in left.lines] == [[2.5, 2.0], [2.5, 3.0], [2, 2]]
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["with it", "without it"]
    assert "from 2.50 to 2.00 with it and from 2.50 to 3.00 without it" in left.figure.alt
    for ax, run in zip(maps, runs.values()):
        assert np.array_equal(ax.images[0].get_array(), run["loads"]) and ax.images[0].get_clim() == (0, 2)


def test_times():
    ratios = {"held": {"small": 1.0, "8 experts": 4.0}, "met": {"small": 1.0, "8 experts": 1.25}}
    left, right = draw(figures.times(ratios)).axes
    assert [bar.get_width() for ax in (left, right) for bar in ax.patches] == [1, 4, 1, 1.25]
    assert [text.get_text() for text in right.texts] == ["1.0", "1.2"]
    assert left.patches[1].get_facecolor() != left.patches[0].get_facecolor()
    assert "held: 1.0 for small; 4.0 for 8 experts. met: 1.0 for small;" in left.figure.alt
    assert [label.get_text() for label in left.get_yticklabels()] == ["small", "8 experts"]


def test_on_a_grid():
    numbers, becomes = torch.tensor([0.4, -0.3, 0.1]), torch.tensor([0.5, -0.5, 0.0])
    figure = draw(figures.on_a_grid({"2 bits": (numbers, torch.tensor([-1, -0.5, 0, 0.5]), becomes),
                                     "4 bits": (numbers, torch.arange(-8, 8) / 8, numbers)}))
    above, below = figure.axes
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["2 bits", "4 bits"]
    rungs, ways = above.collections
    assert [segment[0, 1] for segment in rungs.get_segments()] == [-1, -0.5, 0, 0.5]
    assert np.allclose([segment[:, 1] for segment in ways.get_segments()], torch.stack((numbers, becomes), dim=1))
    assert [list(line.get_ydata()) for line in above.lines] == [numbers.tolist(), becomes.tolist()]
    assert len(below.collections[0].get_segments()) == 16
    assert figure.alt.endswith("2 bits: 4 levels, and 1 of 3 numbers become 0. "
                               "4 bits: 16 levels, and 0 of 3 numbers become 0.")


def test_smaller_groups():
    figure = draw(figures.smaller_groups({"4 bits": {16: (5, 0.1), 8: (6, 0.08)}, "5 bits": {16: (6, 0.05)}}))
    four, five = figure.axes[0].lines
    assert list(four.get_xdata()) == [5, 6] and list(four.get_ydata()) == [0.1, 0.08]
    assert list(five.get_xdata()) == [6] and texts(figure) == ["16", "8", "16"]
    assert figure.alt.endswith(": 4 bits 16 down to 8 falls from 0.1 to 0.08; 5 bits 16 down to 16 stays at 0.05.")


def test_layer_by_layer():
    figure = draw(figures.layer_by_layer([0.2, 0.1, 0.3, 0.05], [False, False, False, True], 0.7))
    each, whole = figure.axes
    assert sorted(heights(each)) == [0.05, 0.1, 0.2, 0.3] and heights(whole) == pytest.approx([0.65, 0.7])
    assert len({to_hex(bar.get_facecolor()) for bar in each.patches}) == 2 and texts(figure, 1) == ["0.65", "0.7"]
    assert "the most by layer 2, the least by layer 3. Beside it two bars: about 0.7 added up" in figure.alt


def test_price():
    """By nats for each byte; what is kept is told apart; what costs nothing can be drawn, too."""
    kinds = {"mlp": (4e5, 0.02, True), "A_log": (10, 0.01, False), "norms": (2e3, 0.0, False)}
    figure = draw(figures.price(kinds, 4))
    saved, lost, each = figure.axes
    assert [label.get_text() for label in saved.get_yticklabels()] == ["norms", "mlp", "A_log"]
    for ax, numbers in ((saved, [2, 400, 0.01]), (lost, [1e-7, 0.02, 0.01]), (each, [5e-8, 5e-5, 1])):
        quantized, kept = ax.lines
        assert quantized.get_xdata() == pytest.approx(numbers[1:2]) and kept.get_xdata() == pytest.approx(numbers[::2])
        assert ax.get_xscale() == "log" and quantized.get_marker() != kept.get_marker()
    assert saved.get_title() == "kB saved by 4 bits"
    assert "the dearest at the top: A_log, mlp and norms." in saved.figure.alt
    assert saved.figure.alt.endswith("diamonds, kept as they are, stand at A_log and norms.")


def test_packed():
    """A box for each token and, above, one for each pad; below a line where each text ends."""
    rows = [[False, True, True], [False, False, True, True, True], [True]]
    above, below = draw(figures.packed(rows)).axes
    filled = [box for box in above.patches if box.get_fill()]
    assert len(filled) == 9 and len(above.patches) == 15 and len(below.patches) == 9
    assert [text.get_text() for text in below.texts] == ["0", "3", "8", "9"]
    own = [to_hex(box.get_facecolor()) for box in below.patches]
    says = [yes for row in rows for yes in row]
    assert {own[i] for i in range(9) if says[i]} == {plots.WRITES}
    assert {own[i] for i in range(9) if not says[i]} == {plots.KEEPS}
    assert "one for each of 3, 5 and 1 tokens" in above.figure.alt and "at 0, 3, 8 and 9." in above.figure.alt


def test_learning():
    state = np.arange(12).reshape(3, 4) - 5.0
    figure = draw(figures.learning([0, 20, 40], [6, 2, 1], {"told once": [0, 0.1, 0.5], "changed": [0, 0, 0.4]},
                                   {"alpha": np.linspace(0, 1, 12), "beta": np.ones(12)}, state, STRANGE, "layer 0"))
    loss, recall, memory, *_ = figure.axes
    strips = [ax for ax in figure.axes if len(heights(ax)) == 12]
    assert loss.lines[0].get_ydata().tolist() == [6, 2, 1]
    known = [line.get_ydata().tolist() for line in recall.lines]
    assert known == [pytest.approx([0, 0.1, 0.5]), pytest.approx([0, 0, 0.4])]
    assert np.array_equal(memory.images[0].get_array(), state) and memory.images[0].get_clim() == (-6, 6)
    assert heights(strips[0]) == pytest.approx(np.linspace(0, 1, 12)) and heights(strips[1]) == [1] * 12
    assert figure.alt == (
        "A model as it learns, after 40 steps. In nats a token, the loss falls from 6 to 1. Of facts the share "
        "recalled: told once rises from 0 to 0.5; changed rises from 0 to 0.4. Of layer 0, the memory after a story; "
        "and over the story's tokens how much it keeps, from 0.0 to 1.0, and how strongly it writes, from 1.0 to 1.0.")


def test_corrections():
    lost = np.array([[0, 0.0], [0.1, -0.2], [0.5, 0.25]])
    figure = draw(figures.corrections([0, 10, 20], lost, [0, 4], at=20))
    assert np.allclose(image(figure), [[0, 0.1, 0.5], [0, 0, 0.25]])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["layer 0", "layer 4"]
    assert figure.axes[0].lines[0].get_xdata() == [2, 2]
    assert "with a line at 20" in figure.alt and figure.alt.endswith("50% in layer 0 and 25% in layer 4.")


def test_ablations():
    rows = {"whole": {"changed": [0.8, 0.9, 1.0], "told once": [0.5, 0.5, 0.5]},
            "less": {"changed": [0.1], "told once": [0.2]}}
    (ax,) = draw(figures.ablations(rows)).axes
    dots = {tuple(round(float(x), 3) for x in line.get_xdata()) for line in ax.lines if line.get_marker() in "os"}
    assert {(0.8, 0.9, 1.0), (0.5, 0.5, 0.5), (0.1,), (0.2,)} <= dots
    bars = [line.get_xdata().tolist() for line in ax.lines if line.get_linewidth() == 2.2 and len(line.get_xdata())]
    assert pytest.approx([0.8, 1.0], abs=1e-6) in bars and pytest.approx([0.9, 0.9], abs=1e-6) in bars
    assert [label.get_text() for label in ax.get_yticklabels()] == ["whole", "less"]
    assert ax.figure.alt.endswith("whole, changed 90% and told once 50%; less, changed 10% and told once 20%.")


def test_put_together():
    """A piece of each layer is always there, and of the layer that is computed all are."""
    figure = draw(figures.put_together(ranks=3, layers=4))
    pieces = figure.axes[0].patches
    colours = [to_hex(piece.get_facecolor(), keep_alpha=True) for piece in pieces]
    own, gathered, others = colours[1], colours[0], colours[3]
    assert len(pieces) == 4 * 4 * 3 and len({own, gathered, others}) == 3
    for now in range(4):
        for layer in range(4):
            around = gathered if layer == now else others
            assert colours[(now * 4 + layer) * 3 :][:3] == [around, own, around]
    assert figure.alt.startswith("4 moments") and "one piece of 3 of every layer" in figure.alt


def test_waves():
    """Each rank is in each layer once, one layer behind the rank before it."""
    figure = draw(figures.waves(ranks=2, layers=5))
    ax = figure.axes[0]
    starts = [round(bar.get_x()) for bar in ax.patches[:10]]
    assert starts == [0, 1, 2, 3, 4, 1, 2, 3, 4, 5]
    assert [text.get_text() for text in ax.texts if text.get_text()] == [*"01234"] * 2
    assert figure.alt.startswith("2 ranks over time: each goes through layers 0 to 4")


def test_courses():
    """Of three runs a thin line each and their mean; a run by itself is its own mean. What was not noted is no zero."""
    runs = {"several": [([1, 2, 3, 4], [0, 1, None, 0.5]), ([1, 2, 3, 4], [1, 1, None, 0.0])],
            "one": [([1, 2], [0.2, 0.4])], **{f"more {i}": [([1, 2], [0, i])] for i in range(3)}}
    (ax,) = draw(figures.courses(runs, "rollout", "right")).axes
    assert [line.get_ydata().tolist() for line in ax.lines[:4]] == [
        [0, 1, 0.5], [1, 1, 0], [0.5, 1, 0.25], pytest.approx([0.2, 0.4])]
    assert ax.lines[2].get_xdata().tolist() == [1, 2, 4] and ax.lines[2].get_linewidth() > ax.lines[0].get_linewidth()
    assert ax.figure.alt.endswith("several rises from 0.5 to 1, then falls to 0.3; one rises from 0.2 to 0.4; "
                                  "more 0 stays at 0; more 1 rises from 0 to 1; more 2 rises from 0 to 2.")
    (ax,) = draw(figures.courses({"smooth": [([1, 2, 3], [0, 1, 5])]}, "rollout", "tokens", 2, share=False)).axes
    assert ax.lines[0].get_ydata().tolist() == [0, 0.5, 3]


def test_before_after():
    before, after = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]), np.array([[0.9, 0.8, 0.7], [0.7, 0.8, 0.9]])
    right, calls = draw(figures.before_after([3, 4, 5], {"right": (before, after), "calls": (after, before)})).axes
    for ax, both in ((right, (before, after)), (calls, (after, before))):
        drawn = [line.get_ydata().tolist() for line in ax.lines]
        assert np.allclose(drawn, [*both[0], both[0].mean(0), *both[1], both[1].mean(0)])
        assert ax.lines[0].get_xdata().tolist() == [3, 4, 5]
    assert [text.get_text() for text in calls.get_legend().get_texts()] == ["before", "after"]
    assert calls.figure.alt.startswith("Before learning, and after. right: 3-digit sums 20%, then 80%, 4-digit")


def test_pulls():
    ratio = np.linspace(0.5, 2, 7)
    better, worse = {"clip": ratio, "none": np.ones(7)}, {"clip": -ratio, "none": -np.ones(7)}
    left, other = draw(figures.pulls(ratio, better, worse)).axes
    for ax, lines in ((left, better), (other, worse)):
        assert np.allclose([line.get_ydata() for line in ax.lines[:2]], list(lines.values()))
    assert left.get_legend() is None and [text.get_text() for text in other.get_legend().get_texts()] == list(better)
    assert left.figure.alt.endswith("it was worse: clip falls from −0.5 to −2, half of it by 1.2; none stays at −1.")


def test_pulls_say_where_there_is_none():
    ratio = np.array([0.6, 0.7, 0.9, 1.1, 1.3])
    said = figures.pulls(ratio, {"clip": [0.6, 0.7, 0.9, 0, 0]}, {"clip": [0, 0, 0, -1.1, -1.3]}).alt
    assert "better: clip rises from 0.6 to 0.9, then falls to 0, and is nothing above 1.0." in said
    assert said.endswith("and is nothing below 1.0.")
