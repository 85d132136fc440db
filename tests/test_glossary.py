"""The page of words and symbols: every symbol of a lesson's formula stands in it, and what stands in it is used."""

import re

import pytest
from notebooks_support import WHERE, lessons, read

from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "glossary.md").read_text(encoding="utf-8")
GREEK = "alpha beta Gamma Delta varepsilon epsilon eta lambda theta kappa mu nu pi rho sigma tau Phi phi varphi chi psi"
LETTER = re.compile(rf"\\(?:{'|'.join(GREEK.split())})(?![A-Za-z])|(?<![\\A-Za-z])[A-Za-z]")
SIGN = re.compile(r"\\(?:odot|leftarrow|lVert|lfloor|top|bar)(?![A-Za-z])")
FUNCTION = re.compile(r"(?<!_)\\(?:text|mathrm|operatorname)\{([A-Za-z ]+)\}(?=_?\w?\(|\\bigl\(|\\Bigl\()")
WORDS = re.compile(r"\\(?:text|mathrm|operatorname|textbf|begin|end)\{[^{}]*\}|_\{[A-Za-z]{2,}\}")


def formulas(text):
    """The formulas of a text in TeX; code in it has none."""
    text = re.sub(r"(?s)```.*?```|`[^`\n]*`", "", text)
    return [displayed or inline for displayed, inline in re.findall(r"(?s)\$\$(.+?)\$\$|\$([^$]+)\$", text)]


def rows(heading, columns):
    """The cells of each row of the first table below a line of the page."""
    lines = PAGE[PAGE.index(heading):].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    found = []
    for line in lines[start + 1:]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        assert len(cells) == columns, line
        found.append(cells)
    return found


def letters(tex):
    """The letters of a formula, without the words and names that are written out in it."""
    return set(LETTER.findall(WORDS.sub(" ", tex)))


def signs(tex):
    return set(SIGN.findall(tex)) | set(FUNCTION.findall(tex))


MEANINGS = [(set().union(*map(letters, formulas(symbol))), set(re.findall(r"\d\d", only)), what)
            for symbol, what, _, only in rows("## Symbols", 4)]
SIGNS = set().union(*(signs(cell) for sign, _ in rows("Signs and functions:", 2) for cell in formulas(sign)))
LESSONS = {path.stem[:2]: path for path in lessons()}


def text_of(path):
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("number", LESSONS)
def test_every_symbol_of_a_lesson_stands_there(number):
    """With a meaning that holds in this lesson: one for all lessons, or one that names it."""
    found = formulas(text_of(LESSONS[number]))
    used = set().union(*map(letters, found))
    known = set().union(*(symbols for symbols, only, _ in MEANINGS if not only or number in only))
    assert used <= known, (
        f"docs/glossary.md has no meaning of {', '.join(sorted(used - known))} that holds in lesson {number}: add a "
        f"row, with {number} in its last column if the letter means something else elsewhere")
    used = set().union(*map(signs, found))
    assert used <= SIGNS, f"docs/glossary.md does not explain {', '.join(sorted(used - SIGNS))}"


def test_a_letter_has_one_meaning_for_all_lessons():
    common = [letter for symbol, _, _, only in rows("## Symbols", 4) if not only
              for letter in set().union(*(letters(re.sub(r"_(\w|\{.*?\})", "", tex)) for tex in formulas(symbol)))]
    assert {letter for letter in common if common.count(letter) > 1} == {"D", "H"}, "of these the index says which"


def test_what_the_page_explains_is_used():
    """No row is left over from a lesson that has changed. (What only lessons say that are not there yet may stand.)"""
    used = {number: set().union(*map(letters, formulas(text_of(path)))) for number, path in LESSONS.items()}
    for symbols, only, what in MEANINGS:
        for number in only & used.keys():
            assert symbols & used[number], f"lesson {number} has none of {symbols}: {what}"
        assert only or any(symbols & letters for letters in used.values()) or what.startswith("learning rate"), what


def test_words_are_those_of_the_lessons():
    """Each stands in the lesson that is said to explain it."""
    for ours, _, _, where in rows("## Words", 4):
        text = text_of(LESSONS[where.strip("[]")]).lower()
        first = re.split(r"[,;]", ours.removeprefix("to "))[0].removesuffix(" of a layer").removesuffix(" of the model")
        assert first.lower() in text, f"lesson {where} never says {first!r}"


@pytest.mark.parametrize("path", lessons(), ids=lambda path: path.stem)
def test_every_lesson_links_to_it(path):
    assert "(../docs/glossary.md)" in WHERE and WHERE in read(path).cells[0].source


def test_what_counts_as_a_symbol():
    assert letters(r"S \leftarrow \alpha\,S + k_i v^\top_\text{new}") == {"S", r"\alpha", "k", "i", "v"}
    assert signs(r"\text{silu}(x) \odot \operatorname{tril}(K K^\top, -1)") == {"silu", "tril", r"\odot", r"\top"}
    assert formulas("`$not$` a $b$ and\n\n$$c$$") == ["b", "c"]


def test_words_stand_in_the_order_of_the_alphabet():
    """Where somebody looks for one: by the first, and without its "to"."""
    words = [re.sub("^to ", "", word.split(",")[0]).lower() for word, *_ in rows("## Words", 4)]
    assert words == sorted(words) and len(words) == len(set(words)) > 50
