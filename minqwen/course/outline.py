"""What the lessons say of themselves: their titles, what they need, what one can do afterwards, how long they take.

It is read from their first cells, so that a new lesson is in every list as soon as it is there. The tables of
docs/teaching.md are made of it, and of what the exercises' checks say:

    python -m minqwen.course.outline
"""

import inspect
import re
from pathlib import Path
from typing import NamedTuple

from ..errors import QwenError, read_json
from ..files import SHIPPED, write_whole

__all__ = ["Lesson", "lesson", "outline", "tables"]

COUNTS = "minutes", "exercises"                         # columns of numbers, which stand below each other


class Lesson(NamedTuple):
    """A lesson by its opening. What it does not say is None."""

    number: str                                         # as "03"
    name: str                                           # of its file: "03_delta_rule"
    title: str
    needs: str | None
    afterwards: str | None
    minutes: int | None


def outline(folder: str | Path = SHIPPED / "notebooks") -> list[Lesson]:
    """The lessons of a folder in the order in which they are read.

    Raises:
        QwenError: one cannot be read, or has no title.
    """
    return [lesson(path.stem, "".join(read_json(path)["cells"][0]["source"]))
            for path in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))]


def lesson(name: str, opening: str) -> Lesson:
    """A lesson by the name of its file and the text of its first cell.

    Raises:
        QwenError: it has no title.
    """
    title = re.search(r"(?m)^# (?:\d+ · )?(.+)$", opening)
    if not title:
        raise QwenError(f"Lesson {name} has no title: its first cell begins with `# ` and the title.")
    text = " ".join(opening.split())
    parts = re.search(r"\*\*You need\*\* (.+?)\. \*\*Afterwards you can\*\* (.+?)\. \*\*It takes\*\*", text)
    takes = re.search(r"\*\*It takes\*\* (?:about )?(?:(\d+) minutes|an hour)", text)
    needs, afterwards = parts.groups() if parts else (None, None)
    return Lesson(name[:2], name, title.group(1), needs, afterwards, int(takes.group(1) or 60) if takes else None)


def tables() -> dict[str, str]:
    """{"lessons", "exercises"}: the tables of docs/teaching.md in Markdown."""
    from .checking import _check_of, exercises

    lessons = outline()
    exercise_of = exercises()
    rows = [(f"[{one.number} {one.title}](../notebooks/{one.name}.ipynb)", f"{one.minutes}",
             f"{len(exercise_of.get(one.number, ()))}", f"{one.needs}", f"{one.afterwards}") for one in lessons]
    total = ("all", f"{sum(one.minutes or 0 for one in lessons):,}", f"{sum(map(len, exercise_of.values()))}", "", "")
    points = [(number, f"`{name}`", inspect.getdoc(_check_of(name)).splitlines()[0])
              for number, names in exercise_of.items() for name in names]
    return {"lessons": _table(("lesson", "minutes", "exercises", "you need", "afterwards you can"), [*rows, total]),
            "exercises": _table(("lesson", "exercise", "what it must do"), points)}


def _table(head, rows):
    lines = [head, ["---:" if name in COUNTS else "---" for name in head], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def written(text: str) -> str:
    """A page with its tables renewed: each stands between `<!-- NAME: from ... -->` and `<!-- end of NAME -->`."""
    for name, table in tables().items():
        text = re.sub(rf"(?s)(<!-- {name}: [^\n]* -->\n).*?(<!-- end of {name} -->)",
                      lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text)
    return text


if __name__ == "__main__":
    page = SHIPPED / "docs" / "teaching.md"
    write_whole(page, written(page.read_text(encoding="utf-8")).encode())
    print(f"{page.name} has the lessons and exercises of today.")
