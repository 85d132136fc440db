"""The figure of lesson 00, Start here."""

from itertools import groupby

from matplotlib.figure import Figure

from ...plots import INK, KEEPS, ON_DARK, WRITES, new_figure


def stack(config) -> Figure:
    """A model's layers, the first at the bottom: which mixer each has. config: a `TextConfig`."""
    layers = config.num_hidden_layers
    figure, (ax,) = new_figure(1, (7.2, 0.34 * layers + 0.9))
    mixers = {
        "linear_attention": (KEEPS, f"Gated DeltaNet: {config.linear_num_value_heads} memories of "
                                    f"{config.linear_key_head_dim} × {config.linear_value_head_dim}"),
        "full_attention": (WRITES, f"gated attention: {config.num_attention_heads} heads that see every token"),
    }
    for i, kind in enumerate(config.layer_types):
        colour, words = mixers[kind]
        ax.barh(i, 1, height=0.74, color=colour)
        ax.text(0.02, i, f"layer {i}", va="center", color=ON_DARK, fontsize=9, weight="bold")
        ax.text(0.17, i, words, va="center", color=ON_DARK, fontsize=9)
    ax.text(0.02, -0.85, "↑ tokens come in", va="center", fontsize=9, color=INK)
    ax.text(0.02, layers - 0.15, "↑ a guess of the next token comes out", va="center", fontsize=9, color=INK)
    ax.set(xlim=(0, 1), ylim=(-1.2, layers + 0.2))
    ax.axis("off")
    runs = [f"{len(list(run))} of {mixers[kind][1].split(':')[0]}" for kind, run in groupby(config.layer_types)]
    times = len(runs) // 2
    order = f"{times} times, {runs[0]} and then {runs[1]}" if runs == runs[:2] * times else ", ".join(runs)
    figure.alt = (f"A model as a stack of {layers} layers. From the bottom: {order}. Each Gated DeltaNet has "
                  f"{config.linear_num_value_heads} memories of {config.linear_key_head_dim} by "
                  f"{config.linear_value_head_dim}, each gated attention {config.num_attention_heads} heads.")
    return figure
