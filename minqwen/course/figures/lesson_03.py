"""A figure of lesson 03, The delta rule."""

from matplotlib.figure import Figure

from ... import spoken
from ...plots import FAINT, KEEPS, WRITES, as_numpy, new_figure, quoted, tokens_on, told


def likenesses(panels: dict, tokens: list[str]) -> Figure:
    """How much a vector is like that of each token, as bars from -1 to 1: a row for each vector.

    Args:
        panels: name of the row -> (tokens,) cosines.
    """
    figure, axes = new_figure((len(panels), 1), (9, 1.6 * len(panels)), sharex=True)
    for ax, (name, cosines), colour in zip(axes, panels.items(), (WRITES, KEEPS)):
        ax.bar(range(len(tokens)), as_numpy(cosines), color=colour)
        ax.axhline(0, color=FAINT, linewidth=0.8)
        ax.set(ylim=(-1, 1), ylabel=name)
        ax.spines[["top", "right"]].set_visible(False)
    tokens_on(axes[-1].xaxis, tokens)
    figure.alt = f"Bars from −1 to 1 over {len(tokens)} tokens, up to {quoted(tokens[-1])}: how like that of each. " + (
        " ".join(f"{name.capitalize()}: {spoken.bars(told(tokens), as_numpy(cosines))}; this token itself is at "
                 f"{spoken.numbers(as_numpy(cosines))[-1]}." for name, cosines in panels.items()))
    return figure
