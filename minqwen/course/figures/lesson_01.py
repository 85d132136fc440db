"""Figures of lesson 01, Tokens and chat."""

import html
import unicodedata

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ... import spoken
from ...plots import BLANKS, FAINT, INK, KEEPS, ON_DARK, ON_LIGHT, WRITES, as_numpy, new_figure, quoted, visible


def boxes(texts: dict, notes: dict | None = None, marked=(), width: int = 92) -> Figure:
    """Texts cut into tokens: each token a box, and a text that is too long for a line goes on in the next.

    Args:
        texts: title -> the text's tokens.
        notes: title -> a few signs to stand under each token, such as its id.
        marked: tokens in a colour of their own, such as the special ones.
        width: characters in a line.
    """
    lines = []                                            # (title, [(token, note, where it begins, how wide it is)])
    for title, tokens in texts.items():
        line, at = [], 0.0
        lines.append((title, line))
        for token, note in zip(tokens, notes[title] if notes else [""] * len(tokens), strict=True):
            wide = max(len(visible(token)), 0.8 * len(str(note))) + 0.7
            if line and at + wide > width:
                line, at = [], 0.0
                lines.append(("", line))
            line.append((token, str(note), at, wide))
            at += wide + 0.2
    margin, high = 1.1 * max(map(len, texts)) + 1, 1.75 if notes else 1.25
    figure = Figure(figsize=(0.081 * (margin + width), 0.27 * high * len(lines) + 0.1))
    ax = figure.add_axes((0, 0, 1, 1))                    # a sign of this font is 0.08 inches wide
    for y, (title, line) in enumerate(lines):
        ax.text(-1, y * high, title, ha="right", va="center", fontsize=9, color=INK)
        for i, (token, note, at, wide) in enumerate(line):
            colour = "#f8c793" if token in marked else ("#d5e4f3", "#e9f1f9")[i % 2]
            ax.add_patch(Rectangle((at, y * high - 0.5), wide, 1, color=colour, linewidth=0))
            ax.text(at + wide / 2, y * high + 0.04, visible(token).replace("$", r"\$"), ha="center", va="center",
                    fontsize=9, color=ON_LIGHT, family="monospace")
            ax.text(at + wide / 2, y * high + 0.8, note, ha="center", va="center", fontsize=7, color=INK)
    ax.set(xlim=(-margin, width), ylim=((len(lines) - 1) * high + (1.1 if notes else 0.6), -0.6))
    ax.axis("off")
    figure.alt = "Texts cut into tokens, each a box. " + " ".join(
        f"{title}: {_told(tokens, notes[title] if notes else None, marked)}." for title, tokens in texts.items())
    return figure


def _told(tokens, notes, marked, most: int = 16) -> str:
    """How many tokens, and which they are: the first ones, with what stands under them; those of a colour are named."""
    ids = [f" {note}" for note in notes] if notes else [""] * len(tokens)
    shown = [f"{quoted(token)}{id}{' in orange' * (token in marked)}" for token, id in zip(tokens, ids)]
    rest = f", and {len(shown) - most} more" if len(shown) > most else ""
    return f"{len(tokens)} token{'s' * (len(tokens) != 1)}, {' '.join(shown[:most])}{rest}"


class pieces:
    """Texts cut into tokens, for a notebook's own fonts, which know every script. (A figure's do not: `boxes`.)

    Args:
        texts: title -> the text's tokens as bytes; those that are no whole character are shown as \\x and two signs.
    """

    def __init__(self, texts: dict[str, list[bytes]]):
        self.texts = {title: [_readable(token) for token in tokens] for title, tokens in texts.items()}

    def __repr__(self) -> str:
        return "\n".join(f"{title} ({len(tokens)}): " + " │ ".join(tokens) for title, tokens in self.texts.items())

    def _repr_html_(self) -> str:
        def box(i, token):
            style = (f"background: {('#d5e4f3', '#e9f1f9')[i % 2]}; color: {ON_LIGHT}; display: inline-block; "
                     "margin: 1px; padding: 1px 4px; border-radius: 3px")
            return f'<code style="{style}">{html.escape(token)}</code>'
        return "\n".join(f'<div style="margin-top: 0.6em"><b>{html.escape(title)}</b>: {len(tokens)} tokens</div>\n'
                         '<div dir="auto">' + " ".join(box(i, token) for i, token in enumerate(tokens)) + "</div>"
                         for title, tokens in self.texts.items())


def _readable(token: bytes) -> str:
    text = token.decode("utf-8", "backslashreplace")
    alone = text and unicodedata.category(text[0]).startswith("M")              # a mark needs a letter to sit on
    shown = "".join(BLANKS.get(c, c if c.isprintable() else f"‹{ord(c):x}›") for c in text)
    return ("\u25cc" if alone else "") + shown


def lengths(tokens: dict[str, int], signs: dict[str, int], marked=()) -> Figure:
    """How many tokens texts take, the fewest first, and how many letters and signs each of them has.

    Args:
        tokens, signs: the text's name -> its number; marked: names whose bars have a colour of their own.
    """
    names = sorted(tokens, key=tokens.get)
    half = -(-len(names) // 2)
    figure, axes = new_figure(2, (9.5, 0.19 * half + 0.8), sharex=True)
    for ax, part in zip(axes, (names[:half], names[half:])):
        places = range(len(part))
        bars = ax.barh(places, [tokens[name] for name in part], height=0.7, label="tokens",
                       color=[WRITES if name in marked else KEEPS for name in part])
        for bar, name in zip(bars, part):                # at its begin: at its end it could meet a dot
            ax.text(0.5, bar.get_y() + 0.37, str(tokens[name]), fontsize=7, color=ON_DARK, va="center")
        ax.plot([signs[name] for name in part], places, "o", color=INK, markeredgecolor=ON_DARK, markeredgewidth=0.5,
                markersize=4, label="letters and signs")
        ax.set_yticks(places, part)
        ax.set_ylim(half - 0.4, -0.6)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_xlim(0, 1.05 * max(*tokens.values(), *signs.values()))
    axes[0].legend(*axes[1].get_legend_handles_labels(), fontsize=8, frameon=False, loc="lower center",
                   bbox_to_anchor=(0.5, 1.0), ncols=2)
    told = [f"{name} {tokens[name]}, with {signs[name]}" for name in names]
    named = [f"in orange {told[i]}, which is number {i + 1}" for i, name in enumerate(names) if name in marked]
    figure.alt = (f"How many tokens {len(names)} texts take, as bars from the fewest to the most, and as dots how "
                  f"many letters and signs they have. The fewest: {'; '.join(told[:3])} letters and signs. The most: "
                  f"{'; '.join([*told[-3:], *named])}.")
    return figure


def pointing(words: dict, hidden, scores, chances) -> Figure:
    """A vocabulary of two dimensions: words as arrows, a hidden state among them, their logits and probabilities.

    Args:
        words: word -> (2,); hidden: (2,).
        scores, chances: a number for each word.
    """
    figure, (plane, left, right) = new_figure(3, (7.5, 2.7), width_ratios=(1.5, 1, 1))
    for name, (x, y) in {**words, "h": hidden}.items():
        colour = WRITES if name == "h" else KEEPS
        plane.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2})
        plane.text(x * 1.05 + 0.05, y * 1.1, name, color=colour, va="center")
    plane.set(xlim=(-0.6, 2.4), ylim=(-0.8, 1.3), aspect="equal", xticks=[], yticks=[])
    plane.set_title("the words, and h")
    plane.spines[:].set_visible(False)
    for ax, heights, title in ((left, scores, "logits"), (right, chances, "probabilities")):
        ax.bar(list(words), as_numpy(heights), color=KEEPS, width=0.6)
        ax.axhline(0, color=FAINT, linewidth=0.8)
        ax.set_title(title)
        ax.spines[["top", "right"]].set_visible(False)
    logits = ", ".join(f"{word} at {score:.1f}" for word, score in zip(words, as_numpy(scores)))
    cosines = {word: np.dot(arrow, hidden) / np.linalg.norm(arrow) / np.linalg.norm(hidden)
               for word, arrow in words.items()}
    figure.alt = (f"{len(words)} words as arrows in the plane, {spoken.listed(words)}, and one more arrow, h, that "
                  f"points most nearly where {max(cosines, key=cosines.get)} does. The logits: {logits}. The "
                  f"probabilities: {spoken.bars(words, as_numpy(chances))}.")
    return figure
