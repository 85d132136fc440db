"""Figures of lesson 07, Generation."""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from ... import spoken
from ...plots import INK, ON_DARK, PALETTE, RULE, WRITES, as_numpy, new_figure, tokens_on, told


def reads(prompt: int, new: int) -> Figure:
    """What is read to write `new` tokens after `prompt` ones: all of it again for each, and with a cache.

    Each row is a step, each column a token: orange is read in this step, pale blue was read before and is kept.
    """
    figure, axes = new_figure(2, (9.2, 0.3 * new + 1.0))
    colours = ListedColormap(["none", "#cfe3f4", WRITES])
    step, token = np.mgrid[:new, : prompt + new - 1]
    there = token < prompt + step
    just_come = there & ((token >= prompt + step - 1) | (step == 0))
    for ax, title, read in zip(axes, ("everything again", "with a cache"), (there, just_come)):
        ax.imshow(there * 1 + read, cmap=colours, vmin=0, vmax=2, aspect="auto")
        ax.set_title(f"{title}: {read.sum()} tokens read", fontsize=10, color=INK)
        ax.set(xticks=[], yticks=range(new), yticklabels=range(1, new + 1))
        ax.set_xticks(np.arange(0.5, prompt + new - 2), minor=True)
        ax.set_yticks(np.arange(0.5, new - 1), minor=True)
        ax.grid(which="minor", color=RULE, linewidth=0.8)
        ax.tick_params(which="both", length=0)
        ax.axvline(prompt - 0.5, color=INK, linewidth=1)
        ax.set_xlabel("prompt  |  new tokens", fontsize=8, color=INK)
    axes[0].set_ylabel("step", fontsize=8, color=INK)
    figure.alt = (f"Two tables, a row for each of {new} steps, a column for each token; {prompt} are the prompt. "
                  f"Left, in every step all tokens up to there are read, {there.sum()} in all. Right, the prompt is "
                  f"read in the first step, and then one new token in each, {just_come.sum()} in all; the others are "
                  "kept.")
    return figure


def rulers(chances: dict, words: list[str]) -> Figure:
    """Probabilities laid end to end from 0 to 1, a row for each way of choosing; a throw falls onto one of the pieces.

    Args:
        chances: title -> (V,) probabilities, in the order of `words`; those that are 0 have no piece.
    """
    figure, (ax,) = new_figure(1, (8.6, 0.44 * len(chances) + 0.7))
    for row, p in enumerate(chances.values()):
        start = 0.0
        for i, width in enumerate(as_numpy(p)):
            ax.barh(row, width, left=start, height=0.74, color=PALETTE[i % len(PALETTE)])
            if width > 0.015 * len(words[i]) + 0.01:      # else the word does not fit in
                ax.text(start + width / 2, row, words[i], ha="center", va="center", color=ON_DARK, fontsize=8)
            start += width
    ax.set(xlim=(0, 1), ylim=(len(chances) - 0.5, -0.5), xticks=np.linspace(0, 1, 6))
    ax.set_yticks(range(len(chances)), list(chances), fontsize=9)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "left", "right"]].set_visible(False)
    pieces = {title: [(word, width) for word, width in zip(words, as_numpy(p)) if width > 0]
              for title, p in chances.items()}
    figure.alt = "Rulers from 0 to 1, cut into pieces for words. " + " ".join(
        f"{title[:1].upper()}{title[1:]}: {spoken.bars(*zip(*its))}." for title, its in pieces.items())
    return figure


def choices(answers: dict) -> Figure:
    """How open each choice of an answer was: bars of entropy over its tokens, one answer below another on one scale.

    Args:
        answers: title -> (tokens, (T,) bits).
    """
    length = max(12, *(len(tokens) for tokens, _ in answers.values()))
    figure, axes = new_figure((len(answers), 1), (min(8.4, 1.0 + 0.2 * length), 1.9 * len(answers)), sharey=True)
    for ax, (title, (tokens, bits)) in zip(axes, answers.items()):
        ax.bar(range(len(tokens)), as_numpy(bits), width=0.8, color=WRITES)
        ax.plot(range(len(tokens)), as_numpy(bits), ".", color=WRITES, clip_on=False)         # a bar of 0 is not seen
        ax.set(xlim=(-0.6, length - 0.4))
        ax.set_title(title, fontsize=10, color=INK, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylabel("bits", fontsize=9, color=INK)
        tokens_on(ax.xaxis, tokens)
    axes[0].set_ylim(0, max(1.0, axes[0].get_ylim()[1]))
    figure.alt = "Bars over the tokens of each answer: how many bits of entropy a token has. " + " ".join(
        f"{title[:1].upper()}{title[1:]}: {spoken.bars(told(tokens), as_numpy(bits))}."
        for title, (tokens, bits) in answers.items())
    return figure
