"""Train the nano model: `make nano`, or `python -m minqwen.nano.train`. From nothing to data/nano.

Each step reads two batches, one of stories and one of sums, and learns the answers. The stories grow from a few facts
to many (a curriculum: recall is learnt on short stories and then stretches). Step s draws its samples from a generator
seeded with (seed, s), so that a run that was interrupted and resumed sees what an uninterrupted one sees.
"""

import argparse
import csv
import json
import math
import os
import time
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..checkpoint import save_model
from ..model import Config, GatedDeltaNet, Qwen, TextConfig
from . import world
from .tokenizer import save_tokenizer

ROOT = Path(__file__).parents[2]
CONTEXT = 4096
MOST_FACTS, MOST_DIGITS = 48, 3                         # the longest story and the longest numbers in training


def nano_config(vocab_size: int) -> Config:
    """Two periods of the 3:1 hybrid. Two key heads serve four value heads, so that pictures and tests show grouping."""
    return Config(TextConfig(
        vocab_size=vocab_size, hidden_size=128, intermediate_size=256, num_hidden_layers=8,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=32, linear_value_head_dim=32,
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, dtype="float32",
        rope_parameters={"rope_type": "default", "rope_theta": 10_000, "partial_rotary_factor": 0.25,
                         "mrope_interleaved": True, "mrope_section": [2, 1, 1]},
    ))


# ------------------------------------------------------------------------------------------------------ batches


class Encoder:
    """Conversations to token ids and a mask of what is to be learnt."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.pad = tokenizer.token_to_id("<|endoftext|>")

    def __call__(self, pieces: list[tuple[str, bool]]) -> tuple[list[int], list[bool]]:
        ids, learnt = [], []
        for text, learn in pieces:
            new = self.tokenizer.encode(text, add_special_tokens=False).ids
            ids += new
            learnt += [learn] * len(new)
        return ids, learnt

    def batch(self, samples: list[list[tuple[str, bool]]]) -> tuple[Tensor, Tensor]:
        """ids (B, T), padded on the right, and targets (B, T): the next token where it is to be learnt, else -100."""
        rows = [self(sample) for sample in samples]
        T = max(len(ids) for ids, _ in rows)
        input_ids = torch.full((len(rows), T), self.pad)
        targets = torch.full((len(rows), T), -100)
        for row, (ids, learnt) in enumerate(rows):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            targets[row, : len(ids) - 1] = torch.tensor([i if yes else -100 for i, yes in zip(ids[1:], learnt[1:])])
        return input_ids, targets


def story_samples(rng: Random, tokens: int, most_facts: int) -> list:
    """Stories of about the same length, so that little is padding: some `tokens` in all.

    Short stories, which come first, are running text; then comes the chat, in which the answer stands a dozen tokens
    away from the name that was asked for.
    """
    plain = 1 if most_facts < 10 else 0.5 if most_facts < 15 else 0.2
    facts = rng.randint(max(1, most_facts // 3), most_facts)
    samples = []
    while tokens > 0:
        about = max(1, facts + rng.randint(-1, 1))
        if rng.random() < plain:
            samples.append(world.plain_pieces(world.facts_conversation(rng, about, rng.randint(10, 16))))
            tokens -= 7 * about + 200
            continue
        conversation = world.facts_conversation(rng, about, rng.randint(6, 9), thinking=rng.random() < 0.2)
        if rng.random() < 0.1:                          # a sum in the middle of a story is a sum all the same
            conversation.turns.append(world.addition(*world.pair(rng, rng.randint(1, MOST_DIGITS)), thinking=True))
        samples.append(world.pieces(conversation, keep_blocks=rng.random() < 0.5))
        tokens -= 7 * about + 220
    return samples


def sum_samples(rng: Random, tokens: int, most_digits: int, thinking: float = 0.9) -> list:
    samples = []
    for _ in range(tokens // 55):
        if rng.random() < 0.04:
            conversation = world.greeting_conversation(rng, thinking=rng.random() < 0.3)
        else:
            questions = rng.choices((1, 2, 3), weights=(4, 1, 1))[0]
            conversation = world.sums_conversation(rng, rng.random() < thinking, most_digits, questions)
        samples.append(world.pieces(conversation, learn="last"))
    return samples


# ----------------------------------------------------------------------------------------------------- training


def losses(model: Qwen, input_ids: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy (nats) of every token that is to be learnt."""
    logits = model(input_ids)
    learnt = targets >= 0
    return F.cross_entropy(logits[learnt].float(), targets[learnt], reduction="none")


@torch.no_grad()
def exact(model: Qwen, input_ids: Tensor, targets: Tensor) -> float:
    """The share of rows whose every learnt token is the likeliest one: what greedy decoding would get right."""
    right = (model(input_ids).argmax(-1) == targets) | (targets < 0)
    return right.all(-1).float().mean().item()


def probe(model: Qwen, encode: Encoder, samples: int = 64) -> dict[str, float]:
    """Accuracies on held-out samples, for the log. One question a story: the last one asked."""
    def stories(facts):
        rng = Random(f"probe facts {facts}")
        return [world.pieces(world.facts_conversation(rng, facts, 1)) for _ in range(samples)]

    def sums(thinking):
        rng = Random("probe sums")
        turns = [world.addition(*world.pair(rng, 3, test=True), thinking) for _ in range(samples)]
        return [world.pieces(world.Conversation([turn])) for turn in turns]

    model.eval()
    scores = {"12 facts": stories(12), "40 facts": stories(40),
              "sums thinking": sums(True), "sums at once": sums(False)}
    scores = {name: exact(model, *encode.batch(batch)) for name, batch in scores.items()}
    model.train()
    return scores


def parameter_groups(model: Qwen, weight_decay: float) -> list[dict]:
    """Weight decay for the matrices of the projections alone: not for norms, gates, convolution and embedding."""
    decayed = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "embed" not in n)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


@torch.no_grad()
def begin_as_a_memory(model: Qwen) -> None:
    """Start where recall is near: "Mimetic Initialization Helps State Space Models Learn to Recall" (arXiv 2410.11135).

    In each Gated DeltaNet layer queries begin equal to keys (a word finds itself), values pass through the convolution
    and are written out again as they came in (out_proj is the transpose of the values' projection), and the memory
    fades ten times more slowly. The other layers begin small, so that a word's own vector is not drowned. With plain
    random weights no recall had appeared after as many steps as this needs to have it.
    """
    for name, p in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            p.mul_(0.1)
    for mixer in (module for module in model.modules() if isinstance(module, GatedDeltaNet)):
        q, k, v = mixer.in_proj_qkv.weight.split([mixer.key_dim, mixer.key_dim, mixer.value_dim])     # (rows, width)
        conv_q, conv_k, conv_v = mixer.conv1d.weight.split([mixer.key_dim, mixer.key_dim, mixer.value_dim])
        q.copy_(k)
        conv_q.copy_(conv_k)
        torch.nn.init.orthogonal_(v)
        conv_v.mul_(0.2)
        conv_v[:, 0, -1] += 1
        mixer.out_proj.weight.copy_(0.3 * v.T)
        mixer.dt_bias.sub_(math.log(10))


def schedule(step: int, steps: int, peak: float, warmup: int = 30) -> float:
    """Learning rate: linear warm-up, flat, and a last third down to nothing as 1 - sqrt."""
    down = max(0.0, (step - 2 * steps / 3) / (steps / 3))
    return peak * min(1.0, (step + 1) / warmup) * (1 - math.sqrt(down) if down > 0 else 1.0)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    run = Path(args.run)
    run.mkdir(parents=True, exist_ok=True)
    tokenizer = save_tokenizer(run / "tokenizer")
    encode = Encoder(tokenizer)
    model = Qwen(nano_config(-(-tokenizer.get_vocab_size() // 64) * 64))
    model.config.text_config.eos_token_id = tokenizer.token_to_id("<|endoftext|>")
    begin_as_a_memory(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=args.lr, betas=(0.9, 0.95), eps=1e-9)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    settings = [args.seed, args.steps, args.lr, args.tokens]
    first, seconds, log = 0, 0.0, []
    most_facts, mastered = 8, 1.0                       # the curriculum: the longest story now, and the smoothed loss
    if (run / "last.pt").exists() and not args.restart:
        saved = torch.load(run / "last.pt", weights_only=False)
        if saved["args"] != settings:
            raise SystemExit(f"{run} holds a run with other settings: finish it with those, or add --restart.")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average, first, seconds, log = saved["average"], saved["step"], saved["seconds"], saved["log"]
        most_facts, mastered = saved["curriculum"]

    def keep(step):
        saved = {"args": settings, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average,
                 "step": step, "seconds": seconds, "log": log, "curriculum": (most_facts, mastered)}
        torch.save(saved, run / "last.pt.part")
        os.replace(run / "last.pt.part", run / "last.pt")

    model.train()
    bar = tqdm(range(first, args.steps), initial=first, total=args.steps, unit="step", disable=None)
    for step in bar:
        started = time.perf_counter()
        rng = Random(f"{args.seed} {step}")
        batches = {"facts": encode.batch(story_samples(rng, args.tokens * 4 // 5, most_facts)),
                   "sums": encode.batch(sum_samples(rng, args.tokens // 5, MOST_DIGITS))}
        for group in optimizer.param_groups:
            group["lr"] = schedule(step, args.steps, args.lr)
        loss = {}
        for name, batch in batches.items():
            loss[name] = losses(model, *batch).mean()
            loss[name].backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mastered = 0.9 * mastered + 0.1 * loss["facts"].item()
        with torch.no_grad():                           # an average over the last hundred steps or so is what is kept
            for name, p in model.named_parameters():
                average[name].lerp_(p, max(0.01, 1 / (step + 1)))
        seconds += time.perf_counter() - started
        row = {"step": step + 1, "seconds": round(seconds, 1), "lr": schedule(step, args.steps, args.lr),
               "most facts": most_facts, "gradient norm": norm.item(),
               **{f"loss {name}": x.item() for name, x in loss.items()}}
        if mastered < 0.2:                              # these stories are easy by now: make them longer by a fifth
            most_facts, mastered = min(MOST_FACTS, most_facts + -(-most_facts // 5)), 0.3
        last = step + 1 == args.steps
        if last or (step + 1) % args.probe_every == 0:
            row |= probe(model, encode)
            bar.write("  ".join(f"{k} {v:.4g}" for k, v in row.items()))
        if last or (step + 1) % 10 == 0:
            log.append(row)
        bar.set_postfix({name: f"{x.item():.3f}" for name, x in loss.items()})
        if (step + 1) % args.keep_every == 0:
            keep(step + 1)
    keep(args.steps)

    model.load_state_dict(average, strict=False)
    finish(model, run, Path(args.out), args, log)


def finish(model: Qwen, run: Path, out: Path, args: argparse.Namespace, log: list[dict]) -> None:
    """Weights, tokenizer, log and the command that made them, into the folder that ships."""
    save_model(model.eval(), out, overwrite=True)
    save_tokenizer(out)
    columns = list(dict.fromkeys(key for row in log for key in row))
    with open(out / "training.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in log:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})
    options = " ".join(f"--{name} {vars(args)[name]}" for name in ("seed", "steps", "lr", "tokens"))
    facts = {"command": f"python -m minqwen.nano.train {options}", "seed": args.seed, "steps": args.steps,
             "seconds": log[-1]["seconds"], "threads": torch.get_num_threads(), "torch": torch.__version__}
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens in a step, about")
    parser.add_argument("--probe-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--keep-every", type=int, default=100, metavar="STEPS", help="where an interrupted run resumes")
    parser.add_argument("--run", default=str(ROOT / "runs" / "nano"), help="where a run keeps its place")
    parser.add_argument("--out", default=str(ROOT / "data" / "nano"), help="where the finished model goes")
    parser.add_argument("--restart", action="store_true", help="forget a run that was interrupted")
    train(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
