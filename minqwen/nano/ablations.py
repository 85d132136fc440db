"""What each part of the hybrid is good for: seedlings with a part taken out learn the same stories.

    python -m minqwen.nano.ablations                    # all that data/ablations.json lacks, one run after the other
    python -m minqwen.nano.ablations --jobs 2           # two at a time, each on one core
    python -m minqwen.nano.ablations --variants "no decay" "1:1" --seeds 1

A run is one variant with one seed. It is written down when it has ended, so that a table which was interrupted goes on
where it stood, and runs of a plan that is not the table's are refused.
"""

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from ..errors import QwenError, read_json, whole_number
from ..files import SHIPPED, check_file, write_whole, writing
from .seedling import Plan, batch_of, grow, held_out, learning, recall, words
from .variants import VARIANTS

TABLE = SHIPPED / "data" / "ablations.json"
EVERY, STORIES = 50, 100                                # steps between two looks, and held-out stories for each


def measure(variant: str, plan: Plan) -> dict:
    """Train one seedling, on one core -> what its curves were, and the seconds of that core."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    started, tokenizer = time.process_time(), words()
    model, batch = grow(plan, tokenizer.vocab_size, VARIANTS[variant]), batch_of(tokenizer, held_out(plan, STORIES))
    curves, losses = {"steps": [], "loss": [], "once": [], "changed": []}, []
    for step, loss in learning(model, plan, tokenizer):
        losses.append(loss)
        if step % EVERY == 0 or step == plan.steps:
            for name, x in zip(curves, (step, sum(losses) / len(losses), *recall(model, batch))):
                curves[name].append(round(x, 4))
            losses = []
    return {"variant": variant, "seed": plan.seed, "seconds": round(time.process_time() - started, 1),
            "parameters": sum(p.numel() for p in model.parameters()), **curves}


def table(path: Path = TABLE) -> dict[str, list[dict]]:
    """The runs that were recorded, variant by variant, in the order of `VARIANTS`.

    Raises: QwenError if there are none.
    """
    if not path.exists():
        raise QwenError(f"There is no {path.name}: python -m minqwen.nano.ablations makes it.")
    runs = read(path)["runs"]
    found = {variant: [run for run in runs if run["variant"] == variant] for variant in VARIANTS}
    return {variant: some for variant, some in found.items() if some}


def read(path: Path) -> dict:
    table = read_json(path)
    if not {"plan", "runs"} <= table.keys():
        raise QwenError(f"{path} holds no table of ablations: name another file (--out), or add --restart.")
    return table


def ended(run: dict, what: str = "changed") -> float:
    """A run's recall at its end, of facts told "once" or of those that "changed"."""
    return run[what][-1]


def write(path: Path, plan: Plan, runs: list[dict]) -> None:
    """A line for each run, in the order of variants and seeds."""
    runs = sorted(runs, key=lambda run: (list(VARIANTS).index(run["variant"]), run["seed"]))
    lines = ",\n".join(f"  {json.dumps(run)}" for run in runs)
    head = f' "plan": {json.dumps(numbers_of(plan))},\n "torch": {json.dumps(torch.__version__)}'
    write_whole(path, f'{{\n{head},\n "runs": [\n{lines}\n ]\n}}\n'.encode())


def numbers_of(plan: Plan) -> dict:
    """All of a plan but its seed, as JSON has it."""
    return json.loads(json.dumps({name: x for name, x in asdict(plan).items() if name != "seed"}))


def fill(path: Path, plan: Plan, variants: list[str], seeds: int, jobs: int = 1, restart: bool = False) -> list[dict]:
    """Run what the table at `path` lacks -> all of its runs.

    Raises: QwenError if nothing can be written there, at first or later, or it holds runs of another plan; if a process
        was killed; or, when all others are done, for those that diverged.
    """
    whole_number("--seeds", seeds, 1)
    whole_number("--jobs", jobs, 1)
    if unknown := [variant for variant in variants if variant not in VARIANTS]:
        raise QwenError(f"There is no variant {unknown[0]!r}; there are {', '.join(VARIANTS)}.")
    check_file(path)
    runs = []
    if path.exists() and not restart:
        before = read(path)
        if before["plan"] != numbers_of(plan):
            raise QwenError(f"{path} holds runs of another plan: add --restart to begin it anew.")
        runs = before["runs"]
    there = {(run["variant"], run["seed"]) for run in runs}
    missing = [(variant, seed) for seed in range(seeds) for variant in variants if (variant, seed) not in there]
    lost = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(measure, variant, replace(plan, seed=seed)): f"{variant}, seed {seed}"
                   for variant, seed in missing}
        try:
            for done in tqdm(as_completed(waiting), total=len(waiting), unit="run", disable=None):
                try:
                    run = done.result()
                except QwenError as error:              # it has diverged; that is no reason to give the others up
                    lost.append(f"{waiting[done]}: {error}")
                    continue
                except BrokenProcessPool:
                    raise QwenError("A process was ended from outside, perhaps for want of memory: the same command "
                                    "goes on with the runs that are missing.") from None
                runs.append(run)
                with writing(path):
                    write(path, plan, runs)
                tqdm.write(f"{run['variant']}, seed {run['seed']}: loss {run['loss'][-1]:.3f}, told once "
                           f"{ended(run, 'once'):.0%}, changed {ended(run):.0%}, {run['seconds']:.0f} s of a core")
        except BaseException:                           # those that have not begun need not
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if lost:
        raise QwenError(f"Not all runs came to their end. {' '.join(lost)}")
    return runs


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME",
                        help=f"which of them: {', '.join(VARIANTS)}")
    parser.add_argument("--seeds", type=int, default=3, help="0, 1, ... up to so many (default: 3)")
    parser.add_argument("--steps", type=int, default=Plan.steps, help=f"of a run (default: {Plan.steps})")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on a core of its own (default: 1)")
    parser.add_argument("--out", type=Path, default=TABLE, help="the table (default: data/ablations.json)")
    parser.add_argument("--restart", action="store_true", help="forget what the table holds")
    args = vars(parser.parse_args(arguments))
    os.environ.setdefault("OMP_NUM_THREADS", "1")       # of the runs, before they load torch
    path = args.pop("out")
    try:
        fill(path, Plan(steps=args.pop("steps")), **args)
    except QwenError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
