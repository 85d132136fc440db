"""`%%nano`, the first line of a cell that asks for what only the shipped model knows.

    %%nano
    assert qwen.chat(story) == "a gold key"

A lesson runs on any checkpoint: `checkpoint` names it, or is None, and then it is the shipped model, nano. With another
one such a cell is passed over and says so. With nano it is a cell like any other: its names stay, its last value is
shown, and an error has one traceback, with the cell's own lines, and ends "run all". For that the line is taken out
before Python reads the cell; a magic of IPython's own kind would run the cell inside of itself.
"""

import sys

__all__ = ["FIRST_LINE", "as_python", "understand"]

FIRST_LINE = "%%nano"


def understand() -> None:
    """Let the notebook that imports this read `%%nano`. Outside of IPython nothing happens."""
    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()):
        shell.input_transformers_cleanup.append(lambda lines: as_python(lines, shell.user_ns))


def as_python(lines: list[str], names: dict) -> list[str]:
    """A cell as it is run: without its `%%nano`, or passed over. Its lines keep their numbers.

    Args:
        lines: the cell's, each with its end.
        names: what is defined in the notebook.
    """
    if not lines or lines[0].rstrip() != FIRST_LINE:
        return lines
    if "checkpoint" not in names:
        return ["raise NameError('`checkpoint` is not defined yet: run the first cells of this lesson.')\n"]
    if names["checkpoint"] is not None:
        return ["print('passed over: it asks what only the shipped model knows')\n"]
    if lines[1:] and lines[1].startswith("%%"):         # another magic, such as %%time, has to be the first line
        return lines[1:]
    return ["\n", *lines[1:]]
