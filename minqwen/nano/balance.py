"""What the balancing loss is good for: `python -m minqwen.nano.balance`.

It trains the mixture of experts of data/nano_moe twice for a few steps, with the balancing loss and without it, and
writes down for data/nano_moe/balance.json how even the experts' loads came to be. A few minutes on two quiet cores.
"""

import argparse
import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..chat import Assistant, load
from ..errors import QwenError
from ..files import check_file, write_whole, writing
from ..trace import trace
from .recipe import EXPERTS
from .score import facts, sums
from .train import BALANCE, ROOT, mixture_config, train


def loads(qwen: Assistant, samples: int = 30) -> list[list[float]]:
    """For each layer, the share of the tokens that each of its experts reads: of held-out stories and sums."""
    texts = [conversation.dialogue() for task in (facts(12), sums(3, thinking=True))
             for conversation in task.samples(samples)]
    counts = 0
    for text in texts:
        layers = trace(qwen).run(text).layers
        E = layers[0].router_logits.shape[-1]
        counts += torch.stack([layer.experts.flatten().bincount(minlength=E) for layer in layers])
    return (counts / counts.sum(-1, keepdim=True) * layers[0].experts.shape[-1]).tolist()


def compare(steps: int, tokens: int) -> dict:
    """{"with" and "without": {"coefficient", "steps", "balance", "loss", "loads"}}: see `loads`; loss is that of the
    stories' answers, in nats a token."""
    found = {}
    for name, coefficient in (("with", BALANCE), ("without", 0.0)):
        with TemporaryDirectory() as folder:
            train(replace(EXPERTS, steps=steps, tokens=tokens), Path(folder) / "run", Path(folder) / "model",
                  probe_every=steps, config=partial(mixture_config, balance=coefficient))
            with open(Path(folder) / "model" / "training.csv", newline="") as file:
                rows = list(csv.DictReader(file))
            found[name] = {"coefficient": coefficient, "steps": [int(row["step"]) for row in rows],
                           "balance": [float(row["loss balance"]) for row in rows],
                           "loss": [float(row["loss facts"]) for row in rows],
                           "loads": [[round(x, 4) for x in layer] for layer in loads(load(Path(folder) / "model"))]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--tokens", type=int, default=2048, help="of a step, about")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "nano_moe" / "balance.json")
    args = parser.parse_args()
    command = f"python -m minqwen.nano.balance --steps {args.steps} --tokens {args.tokens}"
    try:
        check_file(args.out)
        found = compare(args.steps, args.tokens)
        with writing(args.out, kept=False):
            write_whole(args.out, (json.dumps({"command": command, **found}, indent=1) + "\n").encode())
    except QwenError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
