"""A start for reinforcement learning: `python -m minqwen.nano.sft`. From data/nano to data/nano_sft, in some minutes.

Reward makes likelier what a model does now and then. So it has to do it now and then: a model that is never right
learns nothing from being told so, and one that is always right neither. nano says of sums beyond its three digits that
they are too long. Here it is shown longer ones, until three in ten of its answers to sums of 4 and 5 digits are right,
drawn at temperature 1; and it is shown the calculator, which it then calls every other time, however long the sum is.
When that pays, reward has to teach.

Step s draws its samples from a generator seeded with (seed, s), and a run that was interrupted goes on where it was.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import mean

import torch
from tqdm import tqdm

from ..chat import load
from ..checkpoint import save_model
from ..errors import QwenError, number_above_0, whole_number
from ..files import check_place, write_whole, writing
from ..snapshots import forget, keep, kept, may_diverge
from . import world
from .rollouts import evaluate
from .samples import Sample
from .train import ROOT, Encoder, nats, step_all

LENGTHS = {3: 1, 4: 2, 5: 4}                            # digits of the sums without a calculator, and how often
AREA = 4096                                             # tokens of a batch, pads included
JUDGED, NEAR = (4, 5), 1 / 6                            # digits; and so much of what is wanted is near
WORSE = 1.0                                             # nats that the loss may lie above its lowest


@dataclass(frozen=True)
class Recipe:
    seed: int = 0
    steps: int = 400                                    # at most
    sums: int = 64                                      # of a step, half of them with a calculator at hand
    lr: float = 1e-3
    until: float = 0.3                                  # as many drawn answers to sums of 4 and 5 digits are right
    judge_every: int = 10                               # steps, and after each one when it is near: it comes suddenly


def samples(rng: Random, count: int) -> list[Sample]:
    """Sums that are thought through column by column; with the calculator at hand every other one is given to it."""
    found = []
    for i in range(count):
        if i % 2:
            a, b = world.pair(rng, rng.randint(1, 6))
            turn = world.calculation(a, b, thinking=True) if i % 4 == 1 else world.addition(a, b, thinking=True)
            conversation = world.Conversation([turn], tools=[world.add])
        else:
            [digits] = rng.choices(list(LENGTHS), weights=LENGTHS.values())
            conversation = world.Conversation([world.addition(*world.pair(rng, digits), thinking=True)])
        found.append(Sample("sums", conversation, world.pieces(conversation)))
    return found


def supervise(recipe: Recipe, start: str | Path, out: Path, run: Path, restart: bool = False) -> dict:
    """Show sums until they are answered rightly as often as wanted -> what came of it.

    Args:
        start: the checkpoint to begin with: a folder.
        out: where the model goes, and sft.json beside it.
        run: the folder where the run keeps its place.
        restart: forget what is there.
    Raises:
        QwenError: a recipe that cannot be; another one, or another start, began there; a gradient or weights that are
            no numbers, or a loss that rises; the wanted share did not come; no room for what came of it.
    """
    for name in ("steps", "sums", "judge_every"):
        whole_number(f"--{name.replace('_', '-')}", getattr(recipe, name), 1)
    number_above_0("--lr", recipe.lr)
    if number_above_0("--until", recipe.until) > 1:
        raise QwenError(f"--until is a share, at most 1, and not {recipe.until:g}.")
    check_place(out)
    check_place(run, "--run")
    torch.set_flush_denormal(True)
    qwen = load(start, dtype="float32")
    encode = Encoder(qwen.tokenizer.fast, qwen.processor)
    learning = [p.requires_grad_() for name, p in qwen.model.named_parameters()
                if not name.startswith(("model.visual.", "mtp."))]
    optimizer = torch.optim.AdamW([{"params": learning, "pace": 1.0}], weight_decay=0.0, betas=(0.9, 0.95))
    first, log, begun, started = 0, [], asdict(recipe) | {"start": str(start)}, time.perf_counter()
    if restart:
        forget(run)
    if saved := kept(run, begun, may_change=("steps", "lr")):
        qwen.model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, log, started = saved["step"], saved["log"], started - saved["seconds"]
        print(f"{run} holds this run at step {first}: it goes on from there.")
    bar = tqdm(range(first, recipe.steps), initial=first, total=recipe.steps, unit="step", disable=None)
    for step in bar:
        batches = encode.batches(samples(Random(f"{recipe.seed} {step}"), recipe.sums), AREA)
        tokens, loss = sum((batch.targets >= 0).sum().item() for batch in batches), 0.0
        for batch in batches:
            part = nats(qwen.model, qwen.model.hidden_states(batch.input_ids), batch.targets).sum() / tokens
            part.backward()
            loss += part.item()
        lowest = min((row["loss"] for row in log), default=loss)
        with may_diverge(run, recipe.lr, f"step {step + 1}"):
            step_all([optimizer], recipe.lr)
            if loss > lowest + WORSE:
                raise QwenError(f"The loss has risen from {lowest:.2f} to {loss:.2f}")
        near = log and log[-1]["right"] >= NEAR * recipe.until
        if near or (step + 1) % recipe.judge_every == 0:
            found = {f"{digits} digits": evaluate(qwen, digits, questions=32)["pass@1"] for digits in JUDGED}
            log.append({"step": step + 1, "loss": loss, **found, "right": mean(found.values())})
            bar.set_postfix(loss=f"{loss:.3f}", right=f"{log[-1]['right']:.0%}")
            if log[-1]["right"] >= recipe.until:
                break
            if loss <= lowest + WORSE / 2:
                keep(run, begun, {"model": qwen.model.state_dict(), "optimizer": optimizer.state_dict(),
                                  "step": step + 1, "seconds": time.perf_counter() - started, "log": log})
    else:
        raise QwenError(f"After {recipe.steps} steps less than {recipe.until:.0%} of the answers to sums of 4 and 5 "
                        f"digits are right: give it more --steps.")
    result = {"recipe": asdict(recipe), "log": log, "seconds": round(time.perf_counter() - started),
              "threads": torch.get_num_threads(), "torch": torch.__version__}
    with writing(out):
        save_model(qwen.model, out, overwrite=True, tokenizer_from=qwen.folder)
        write_whole(out / "sft.json", (json.dumps(result, indent=1) + "\n").encode())
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"({default})")
    parser.add_argument("--start", type=Path, default=ROOT / "data" / "nano", help="the checkpoint to begin with")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "nano_sft", help="where the model goes")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "sft", help="where a run keeps its place")
    parser.add_argument("--restart", action="store_true", help="forget a run that was interrupted")
    args = vars(parser.parse_args(arguments))
    recipe = Recipe(**{name: args.pop(name) for name in asdict(Recipe())})
    try:
        supervise(recipe, **args)
    except QwenError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
