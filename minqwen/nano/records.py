"""The runs that lesson 14 looks at: `make rl`, or `python -m minqwen.nano.records`, makes those that data/rl lacks.

    runs = recorded(task="sums", updates=1)             # of every seed
    runs[0].log["reward"], runs[0].result["after"]

Each is a run of `minqwen.nano.rl` with a recipe of its own, and begins with data/nano_sft.
"""

import argparse
import csv
import sys
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from ..errors import QwenError, read_json
from ..files import SHIPPED, write_whole, writing
from .rl import RATIOS, Recipe, name_of, reinforce, table
from .train import ROOT

RECORDS, FILES = SHIPPED / "data" / "rl", ("log.csv", "result.json")
RECIPES = (
    *(Recipe(seed=seed) for seed in range(3)),
    *(Recipe(task="agent", seed=seed, rollouts=40, judge=32, judge_every=40) for seed in range(3)),   # of six lengths
    Recipe(task="narrow", rollouts=40),
    *(Recipe(task=task, rollouts=30, most_tokens=160) for task in ("gamed", "mended")),   # there is room for a game
    *(Recipe(ratio=ratio, rollouts=12, updates=4, stale=2, judge=0) for ratio in RATIOS),
)


class Run(NamedTuple):
    """log: of each rollout, a list of numbers for each name - None where nothing was noted; result: what `reinforce`
    gave, its recipe among it."""

    log: dict[str, list[float | None]]
    result: dict


def recorded(folder: Path = RECORDS, **wanted) -> list[Run]:
    """The runs whose recipes agree in what is wanted, in the order in which they were made.

    Raises: QwenError if there are none.
    """
    found = []
    for recipe in RECIPES:
        if all(getattr(recipe, name) == x for name, x in wanted.items()) and (folder / name_of(recipe)).exists():
            log, result = (folder / name_of(recipe) / name for name in FILES)
            with open(log, newline="") as file:
                rows = list(csv.DictReader(file))
            columns = {name: [float(row[name]) if row[name] else None for row in rows] for name in rows[0]}
            found.append(Run(columns, read_json(result)))
    if not found:
        raise QwenError(f"No such run was recorded in {folder}: python -m minqwen.nano.records makes them.")
    return found


def record(recipe: Recipe, start: Path, runs: Path, folder: Path = RECORDS) -> None:
    """Make a run, or finish it, and keep its log and its result."""
    out = runs / name_of(recipe)
    done = out / "result.json"
    if not done.exists() or read_json(done)["recipe"] != asdict(recipe):
        print(name_of(recipe), table(reinforce(recipe, start, out)), sep="\n")
    with writing(folder):
        for name in FILES:
            write_whole(folder / name_of(recipe) / name, (out / name).read_bytes())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=[name_of(recipe) for recipe in RECIPES], metavar="RUN",
                        help="some of " + ", ".join(name_of(recipe) for recipe in RECIPES))
    parser.add_argument("--start", type=Path, default=ROOT / "data" / "nano_sft", help="the checkpoint to begin with")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "rl", help="where a run keeps its place")
    args = parser.parse_args(arguments)
    try:
        for recipe in RECIPES:
            name = name_of(recipe)
            if name in args.only if args.only else not (RECORDS / name).exists():
                record(recipe, args.start, args.runs)
    except QwenError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
