"""Figures of lesson 06, The hybrid decoder."""

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ... import spoken
from ...plots import (
    INK,
    KEEPS,
    ON_DARK,
    ON_LIGHT,
    RECALLS,
    WRITES,
    as_numpy,
    ink_on,
    new_figure,
    quoted,
    tokens_on,
    visible,
)

OWNERS = {                               # whose a piece of the course is: (its box, its words)
    "yours": (KEEPS, ON_DARK),
    "the course's": ("#dfe3e8", ON_LIGHT),
    "built today": ("#fbe3c8", ON_LIGHT),
}


def wiring(owners: dict[str, str]) -> Figure:
    """One layer of the decoder as it is wired, and beside it the inside of a Gated DeltaNet; tokens go upwards.

    Args:
        owners: for each function of the course that is at work here ("my_rms_norm", ...) one of "yours",
            "the course's", "built today".
    """
    figure, (layer, mixer) = new_figure(2, (10.5, 6.0), width_ratios=(1, 1.75))
    add = {"fontsize": 15, "ha": "center", "va": "center", "color": ON_LIGHT, "zorder": 5}

    def box(ax, x, y, width, title, function=None, height=0.62):
        colour, ink = OWNERS[owners[function]] if function else ("#f4f5f7", ON_LIGHT)
        ax.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, facecolor=colour,
                               edgecolor="#9aa3ad", linewidth=0.8))
        lines = [(title, 9, "sans-serif")] + ([(function, 7.5, "monospace")] if function else [])
        for i, (words, size, family) in enumerate(lines):
            ax.text(x, y + (0.13 - 0.27 * i if function else 0), words, fontsize=size, family=family, color=ink,
                    ha="center", va="center")

    def arrow(ax, *corners):
        for a, b in zip(corners, corners[1:-1]):
            ax.plot(*zip(a, b), color=INK, linewidth=1)
        ax.annotate("", corners[-1], corners[-2], arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1,
                                                              "shrinkA": 0, "shrinkB": 0})

    arrow(layer, (0, 0), (0, 8.6))                       # the residual stream, with two branches
    for y, title, function in ((0.6, "mixer: one of two", "my_gated_attention"), (4.6, "MLP", "my_mlp")):
        arrow(layer, (0, y), (1.9, y), (1.9, y + 0.49))
        box(layer, 1.9, y + 0.8, 2.3, "norm", "my_rms_norm")
        arrow(layer, (1.9, y + 1.11), (1.9, y + 1.59))
        if function == "my_mlp":
            box(layer, 1.9, y + 1.9, 2.3, title, function)
            top = y + 2.21
        else:
            box(layer, 1.9, y + 1.9, 2.3, "Gated DeltaNet", "my_gated_delta_net")
            box(layer, 1.9, y + 2.52, 2.3, "or gated attention", function)
            top = y + 2.83
        arrow(layer, (1.9, top), (1.9, y + 3.4), (0.2, y + 3.4))
        layer.plot(0, y + 3.4, "o", markersize=15, markerfacecolor="#f4f5f7", markeredgecolor=INK, zorder=4)
        layer.text(0, y + 3.38, "+", **add)
    layer.text(0, -0.3, "x", fontsize=11, color=INK, ha="center", style="italic")
    layer.set_title("a layer: it adds to the stream, twice", fontsize=10, color=INK)
    layer.set(xlim=(-0.7, 3.3), ylim=(-0.6, 8.8))

    columns = {"in_proj_qkv": 1.0, "in_proj_b": 3.0, "in_proj_a": 4.4, "in_proj_z": 5.9}
    mixer.plot((1.0, 5.9), (0.15, 0.15), color=INK, linewidth=1)
    mixer.plot((3.0, 3.0), (-0.15, 0.15), color=INK, linewidth=1)
    mixer.text(3.0, -0.45, "x, normed", fontsize=9, color=INK, ha="center")
    for name, x in columns.items():
        arrow(mixer, (x, 0.15), (x, 0.69))
        box(mixer, x, 1.0, 1.3 if name != "in_proj_qkv" else 2.1, name)
    arrow(mixer, (1.0, 1.31), (1.0, 1.89))
    box(mixer, 1.0, 2.2, 2.1, "convolution", "my_convolution")
    for x, words in ((0.3, "q"), (1.0, "k"), (1.7, "v")):
        arrow(mixer, (x, 2.51), (x, 3.09) if words != "v" else (x, 4.39))
        mixer.text(x + 0.09, 2.74, words, fontsize=10, color=INK, style="italic", va="center")
    box(mixer, 0.65, 3.4, 1.3, "length 1")
    for x in (0.3, 1.0):
        arrow(mixer, (x, 3.71), (x, 4.39))
    arrow(mixer, (3.0, 1.31), (3.0, 1.89))
    box(mixer, 3.0, 2.2, 1.3, "sigmoid")
    arrow(mixer, (3.0, 2.51), (3.0, 4.39))
    mixer.text(3.1, 3.4, "β", fontsize=10, color=INK, style="italic", va="center")
    arrow(mixer, (4.4, 1.31), (4.4, 1.89))
    box(mixer, 4.4, 2.2, 1.3, "decay", "my_decay")
    arrow(mixer, (4.4, 2.51), (4.4, 4.39))
    mixer.text(4.5, 3.4, "g", fontsize=10, color=INK, style="italic", va="center")
    box(mixer, 2.55, 4.7, 5.2, "the gated delta rule, in chunks", "my_chunk_gated_delta_rule")
    arrow(mixer, (2.55, 5.01), (2.55, 5.79))
    mixer.text(2.65, 5.4, "o", fontsize=10, color=INK, style="italic", va="center")
    box(mixer, 2.55, 6.1, 2.1, "gated norm", "my_gated_norm")
    arrow(mixer, (5.9, 1.31), (5.9, 6.1), (3.62, 6.1))
    mixer.text(6.0, 3.4, "z", fontsize=10, color=INK, style="italic", va="center")
    arrow(mixer, (2.55, 6.41), (2.55, 6.99))
    box(mixer, 2.55, 7.3, 2.1, "out_proj")
    arrow(mixer, (2.55, 7.61), (2.55, 8.3))
    mixer.set_title("inside of Gated DeltaNet", fontsize=10, color=INK)
    mixer.set(xlim=(-0.3, 6.8), ylim=(-0.6, 8.8))
    for i, (owner, (colour, _)) in enumerate(OWNERS.items()):
        y = 8.3 - 0.45 * i
        mixer.add_patch(Rectangle((4.6, y - 0.13), 0.3, 0.26, facecolor=colour, edgecolor="#9aa3ad", linewidth=0.8))
        mixer.text(5.0, y, owner, fontsize=8.5, color=INK, va="center")
    for ax in (layer, mixer):
        ax.axis("off")
    whose = "; ".join(f"{owner} {', '.join(name for name, its in owners.items() if its == owner)}"
                      for owner in OWNERS if owner in owners.values())
    figure.alt = ("Left, a layer. From the residual stream a branch goes through a norm and a mixer and is added "
                  "back, then another through a norm and the MLP. Right, a Gated DeltaNet. Four projections of x; "
                  "behind the first a convolution gives q, k and v, and q and k are brought to length 1; the others "
                  "give β, the decay g, and z. All but z enter the delta rule; its answer o passes the gated norm, "
                  f"where z comes in, and out_proj. By their colours: {whose}.")
    return figure


def half_lives(layers: dict[int, Tensor]) -> Figure:
    """For how many tokens each memory of each layer would keep half of what it holds, as dots over the layers.

    Args:
        layers: number of the layer -> (heads,) tokens.
    """
    figure, (ax,) = new_figure(1, (7.5, 2.9))
    for i, tokens in layers.items():
        ax.scatter([i] * len(tokens), as_numpy(tokens), color=KEEPS, alpha=0.8, s=36)
    ax.set(yscale="log", xlabel="layer", ylabel="tokens until half is gone")
    ax.set_xticks(range(max(layers) + 1))
    ax.spines[["top", "right"]].set_visible(False)
    ends = "; ".join(f"layer {i}, from {' to '.join(spoken.numbers([min(x), max(x)], rough=True))}"
                     for i, x in layers.items())
    figure.alt = ("After how many tokens half of what is in a memory is gone: a dot for each head of each Gated "
                  f"DeltaNet layer, on a logarithmic height. {ends[0].upper()}{ends[1:]}.")
    return figure


def tensor_names(shapes: dict[str, tuple], config) -> Figure:
    """A checkpoint's names beside the stack they belong to: one layer of each kind in full, the others are like them.

    Args:
        shapes: official name -> shape, of all tensors of the language model.
        config: its `TextConfig`.
    """
    inside, layers = "model.language_model.", config.num_hidden_layers
    colours = {"linear_attention": KEEPS, "full_attention": WRITES}
    figure, (stack, words) = new_figure(2, (10.5, 6.2), width_ratios=(1, 3.6))
    rows = [("embed_tokens", INK), *((f"layers.{i}", colours[kind]) for i, kind in enumerate(config.layer_types)),
            ("norm", INK)]
    for y, (name, colour) in enumerate(rows):
        stack.barh(y, 1, height=0.82, color=colour)
        if len(rows) <= 34:
            stack.text(0.5, y, name, fontsize=8, color=ON_DARK, ha="center", va="center", family="monospace")
    stack.set(xlim=(-0.05, 1.05), ylim=(-0.6, len(rows) - 0.4))
    stack.set_title("the stack, tokens go up", fontsize=9, color=INK)

    line, y = 1 / 36, 1.0
    first = {kind: config.layer_types.index(kind) for kind in colours if kind in config.layer_types}
    groups = [("", INK, [name for name in shapes if ".layers." not in name])]
    groups += [(f"{inside}layers.{i}.", colours[kind], [name for name in shapes if f".layers.{i}." in name])
               for kind, i in first.items()]
    for prefix, colour, names in groups:
        if prefix:
            alike = config.layer_types.count(config.layer_types[int(prefix.split(".")[3])]) - 1
            words.text(0.02, y, prefix, fontsize=8.5, family="monospace", weight="bold", color=colour, va="top")
            words.text(0.52, y, f"and {alike} other layer{'s' * (alike != 1)} like it, of {layers}", fontsize=8.5,
                       color=colour, va="top")
            y -= line
        for name in names:
            words.text(0.05 if prefix else 0.02, y, name.removeprefix(prefix), fontsize=8, family="monospace",
                       color=INK, va="top")
            words.text(0.52, y, " × ".join(map(str, shapes[name])), fontsize=8, family="monospace", color=INK, va="top")
            y -= line
        y -= line * 0.7
    words.set(xlim=(0, 1), ylim=(min(y, 0), 1))
    for ax in (stack, words):
        ax.axis("off")
    named = "; ".join(f"{prefix.removeprefix(inside).rstrip('.') or 'outside of the layers'}: " + ", ".join(
        f"{name.removeprefix(prefix or inside)} {' × '.join(map(str, shapes[name]))}" for name in names)
        for prefix, _, names in groups)
    figure.alt = (f"The stack as bars: embed_tokens at the bottom, {layers} layers, and the norm on top. Beside it "
                  "the names and shapes of all tensors of one layer of each kind, and of those outside of layers. "
                  f"{named}.")
    return figure


def lens(guesses: list[list[str]], probabilities, tokens: list[str]) -> Figure:
    """What a model would say after each layer: its likeliest next token, and how likely it finds it.

    Args:
        guesses: one list of T tokens for each row, the first at the bottom: the embedding, then the layers.
        probabilities: (rows, T)
        tokens: the T tokens that were read.
    """
    probabilities = as_numpy(probabilities)
    rows, T = probabilities.shape
    longest = max(len(visible(guess)) for row in guesses for guess in row)
    width = min(1.0, max(0.62, 0.075 * min(longest, 13) + 0.1))
    figure, (ax,) = new_figure(1, (min(12, 1.6 + width * T), 1.4 + 0.26 * rows))
    image = ax.imshow(probabilities, cmap="Blues", vmin=0, vmax=1.15, aspect="auto", origin="lower",
                      interpolation="nearest")
    for y, row in enumerate(guesses):
        for x, guess in enumerate(row):
            text = visible(guess).replace("$", r"\$")
            ax.text(x, y, text if len(text) <= 13 else text[:12] + "…", fontsize=7.5, ha="center", va="center",
                    family="monospace", color=ink_on(image.to_rgba(probabilities[y, x])))
    ax.set_yticks(range(rows), ["embedding", *(f"layer {i}" for i in range(rows - 1))], fontsize=8)
    tokens_on(ax.xaxis, tokens)
    ax.set_xlabel("token that was read", fontsize=8, color=INK)
    bar = figure.colorbar(image, ax=[ax], shrink=0.8, aspect=18, pad=0.02)
    bar.ax.set_ylim(0, 1)
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.outline.set_visible(False)
    rows_told = "; ".join(f"{name}, {' '.join(map(quoted, row))}" for name, row in zip(
        ("embedding", *(f"layer {i}" for i in range(rows - 1))), guesses))
    figure.alt = (f"A table: a column for each of {T} tokens that were read, a row for the embedding and for each "
                  "layer, and in each field the token that the head would say there, darker where it is surer. Read "
                  f"were {' '.join(map(quoted, tokens))}. From the bottom: {rows_told}.")
    return figure


def grouped(values: dict[str, dict[str, float]], ylabel: str = "", xlabel: str = "") -> Figure:
    """Bars side by side. values: group -> {bar: height}; every group has the same bars."""
    names = list(next(iter(values.values())))
    colours = (KEEPS, WRITES, RECALLS)
    figure, (ax,) = new_figure(1, (min(11, 2.6 + 0.34 * (len(names) + 1) * len(values)), 2.9))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        ax.bar([x + (i - (len(names) - 1) / 2) * width for x in range(len(values))],
               [group[name] for group in values.values()], width=width, color=colours[i % 3], label=name)
    ax.set_xticks(range(len(values)), list(values))
    ax.set_ylabel(ylabel, fontsize=9, color=INK)
    ax.set_xlabel(xlabel, fontsize=9, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    told = iter(spoken.numbers([height for group in values.values() for height in group.values()]))
    figure.alt = f"Bars in groups: {ylabel}{', by ' * bool(xlabel)}{xlabel}. " + "; ".join(
        f"{group}: " + ", ".join(f"{name} at {next(told)}" for name in bars) for group, bars in values.items()) + "."
    return figure
