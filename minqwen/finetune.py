"""Fine-tune a checkpoint on chats of your own.

    python -m minqwen.finetune Qwen/Qwen3.5-0.8B --data chats.jsonl                 all of the language model
    python -m minqwen.finetune Qwen/Qwen3.5-0.8B --data chats.jsonl --lora 16       a low-rank adapter beside it
    python -m minqwen.finetune --plan Qwen3.5-4B                                    the memory that either takes

What a line of the file is, and what of it is learnt, is told in `dataset.py`. A step learns from `batch` sequences,
packed into as few of up to `length` tokens as they need, and its loss is one mean over all tokens that they teach,
however they are packed. AdamW computes in float32: of weights in bfloat16 it keeps float32 copies, gradients are added
up in float32, and the model computes with what the copies round to. The head for multi-token prediction stays as it
was: it drafts a little worse, and no answer changes by that.

The same command goes on where a run was interrupted, to the same bits on the same machine with as many threads: what a
step does follows from the seed and its number, so a snapshot holds the weights, the moments of AdamW, and the number.
It is written aside and put in place at one stroke. While the loss is rising none is written.

Several processes, on one machine or on many, share a run under `torchrun`: see `distributed.py`.
"""

import argparse
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from . import distributed, lora, snapshots
from .chat import Assistant, load
from .checkpoint import COMPANIONS, CONFIG, resolve, save_model
from .dataset import Chat, Row, digest, pack, read_chats, rows_of, shares
from .errors import QwenError, remark, short
from .files import check_place, write_whole, writing
from .info import LOGITS, training_table
from .lora import Adapter
from .masters import MasterAdamW
from .quantized import quantized_bits
from .ranks import first_to_fail, join, many, peer_gone, rank, ranks, summed
from .snapshots import SNAPSHOT

__all__ = ["Settings", "Trainer", "finetune"]

LOG = "finetune.json"
WRITTEN = (SNAPSHOT, f"{SNAPSHOT}.part", LOG, CONFIG, lora.CONFIG, lora.WEIGHTS, *COMPANIONS)
SMOOTH = 0.1                                            # the weight of a step's loss in the smoothed one
WORSE = 1.0                                             # nats that this may lie above its lowest
again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)      # nothing here is random


@dataclass(frozen=True)
class Settings:
    """What is chosen about a run. It goes on only with the same, but for `lr`, which may be changed on the way."""

    lora: int | None = None                             # rank of the adapter; None: the weights themselves
    alpha: float | None = None                          # of the adapter; None: 2 rank
    targets: tuple[str, ...] | None = None              # which matrices have one; None: all
    tower: bool = False                                 # train the vision tower, too
    lr: float = 1e-5                                    # the highest
    warmup: float = 0.05                                # the share of the steps in which it rises; then a cosine down
    weight_decay: float = 0.0
    epochs: int = 3
    batch: int = 16                                     # sequences in a step
    length: int = 4096                                  # tokens of a pack, at most, if the model reads as many
    held_out: float = 0.05                              # the share of the chats to judge by
    seed: int = 0
    checkpointing: bool = True                          # compute layers again for the backward pass, or keep all

    def check(self) -> None:
        """Raises QwenError for what cannot be, before anything is loaded."""
        for name, least, most in (("lr", 0, 1), ("epochs", 1, 10**6), ("batch", 1, 10**6), ("length", 2, 10**9),
                                  ("warmup", 0, 1), ("held_out", 0, 0.9), ("weight_decay", 0, 1)):
            value, whole = getattr(self, name), isinstance(getattr(Settings, name), int)
            if not isinstance(value, int if whole else int | float) or not least <= value <= most:
                raise QwenError(f"--{name.replace('_', '-')} is {short(value)}, and must lie between {least} and {most}"
                                f"{', a whole number' if whole else ''}.")
        if self.lora is not None:
            lora.check_numbers(self.lora, self.alpha)


class Trainer:
    """A model that learns from rows: its steps, their loss, and what is to be kept of it. It knows no files.

    Several ranks share a step if each has one, of a model that was cut up before (`distributed.shard`): each is given
    all rows, reads its own of them, and says what all say.
    """

    def __init__(self, qwen: Assistant, settings: Settings, steps: int):
        self.qwen, self.model, self.settings, self.steps = qwen, qwen.model, settings, steps
        if bits := quantized_bits(self.model):
            raise QwenError(f"The weights of this model are quantized ({bits}) and cannot learn: take the checkpoint "
                            f"in bfloat16.")
        if self.model.head_weight.dtype == torch.float16:
            raise QwenError("Small gradients vanish in float16: train in bfloat16 (--dtype bfloat16).")
        tower = getattr(self.model.model, "visual", None)
        if settings.tower and tower is None:
            raise QwenError("This model has no vision tower that could learn: leave --tower out.")
        self.model.requires_grad_(False)
        self.adapter = None
        if settings.lora is not None:
            self.adapter = Adapter(self.model, settings.lora, settings.alpha, settings.targets, settings.seed)
        learning = {} if self.adapter is None else self.adapter.parameters
        for name, p in self.model.named_parameters():
            seeing, drafting = name.startswith("model.visual."), name.startswith("mtp.")
            if settings.tower if seeing else self.adapter is None and not drafting:
                learning[name] = p.requires_grad_(True)
        self.optimizer = MasterAdamW(learning, settings.weight_decay)
        if settings.checkpointing:
            for layer in [*self.model.model.language_model.layers, *(tower.blocks if settings.tower else ())]:
                layer.forward = partial(again, layer.forward)

    def loss(self, rows: list[Row]) -> Tensor:
        """The sum of the cross entropies (nats) of all learnt tokens of these rows, packed."""
        x = pack(rows, self.qwen)
        ends = x.cu_seqlens if len(rows) > 1 else None
        hidden, learnt = self.model.hidden_states(x.input_ids, cu_seqlens=ends, **x.media)[0], x.targets >= 0
        pieces = zip(hidden[learnt].split(LOGITS), x.targets[learnt].split(LOGITS))
        return sum(again(self._entropy, *piece) for piece in pieces)

    def _entropy(self, states: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(states, self.model.head_weight).float(), targets, reduction="sum")

    def step(self, number: int, rows: list[Row]) -> dict[str, float]:
        """Learn from these rows -> the mean loss (nats a token), the length of the gradient, which is clipped to 1, and
        the learning rate. Where these are no numbers the model stays as it was."""
        count, total, lr = taught(rows), 0.0, self.lr(number)
        for some, counts in self._shares(rows):
            loss = self.loss(some) / count * counts
            (loss * ranks()).backward()                 # gradients of ranks are averaged
            total += loss.item()
        total, norm = summed(total), self.optimizer.clip()
        if math.isfinite(total) and math.isfinite(norm):
            self.optimizer.step(lr)
        self.optimizer.forget()
        return {"step": number + 1, "loss": total, "gradient": norm, "lr": lr}

    @torch.no_grad()
    def judge(self, rows: list[Row]) -> float:
        """The mean loss of these rows, nats a token."""
        return summed(sum(self.loss(some).item() * counts for some, counts in self._shares(rows))) / taught(rows)

    def _shares(self, rows: list[Row]) -> Iterator[tuple[list[Row], bool]]:
        return shares(rows, self.settings.length, rank(), ranks())

    def lr(self, number: int) -> float:
        warm = max(1, round(self.settings.warmup * self.steps))
        down = max(0, number + 1 - warm) / (self.steps - warm + 1)
        return self.settings.lr * min(1, (number + 1) / warm) * (1 + math.cos(math.pi * down)) / 2


def taught(rows: list[Row]) -> int:
    """How many tokens are to be learnt."""
    return sum(int(row.learnt.sum()) for row in rows)


# ------------------------------------------------------------------------------------------------------------ one run


@dataclass
class Progress:
    """How far a run has come, and how well."""

    step: int = 0
    smooth: float = math.inf                            # the loss, smoothed
    lowest: float = math.inf                            # of these
    log: list[dict] = field(default_factory=list)

    def note(self, entry: dict[str, float]) -> None:
        """After a step. Raises QwenError if going on makes no sense."""
        loss, self.step = entry["loss"], entry["step"]
        self.log.append(entry)
        if not (math.isfinite(loss) and math.isfinite(entry["gradient"])):
            raise QwenError(f"the loss of step {self.step}, or its gradient, is not a number")
        self.smooth = loss if self.step == 1 else self.smooth + SMOOTH * (loss - self.smooth)
        self.lowest = min(self.lowest, self.smooth)
        if self.smooth > self.lowest + WORSE:
            raise QwenError(f"by step {self.step} the loss has risen from {self.lowest:.2f} to {self.smooth:.2f}")

    @property
    def well(self) -> bool:
        return self.smooth <= self.lowest + WORSE / 2


def finetune(folder: str | Path, data: str | Path, out: str | Path, settings: Settings | None = None,
             judge: str | Path | None = None, merge: bool = False, dtype: str | None = None, device: str = "cpu",
             keep_every: int = 50, judge_every: int = 50, restart: bool = False) -> list[dict]:
    """Fine-tune a checkpoint, from its beginning or from where the run was interrupted -> the log, a dict a step.

    Args:
        folder: the checkpoint: a folder, or a name to fetch.
        data: the file of chats.
        out: the folder where the run keeps its place and puts its result: a whole checkpoint with tokenizer, template
            and the settings of the processor; or, with `settings.lora`, an adapter, unless that is to `merge`.
        judge: another file of chats to judge by, instead of a part of the first.
        dtype, device: as in `minqwen.load`.
        keep_every, judge_every: steps.
        restart: forget what is in `out`.
    Raises:
        QwenError: files or settings that cannot be, a run of other settings; a loss that is no number, or rises.
    """
    settings, out = settings or Settings(), Path(out)
    settings.check()
    check_place(out)
    source = resolve(folder)
    if min(keep_every, judge_every) < 1:
        raise QwenError("--keep-every and --judge-every count steps: they are 1 or more.")
    if out.exists() and out.samefile(source):
        raise QwenError(f"{out} is the checkpoint itself, which stays as it is: name another folder (--out).")
    if merge and settings.lora is None:
        raise QwenError("There is no adapter to merge: add --lora 16, or leave --merge out.")
    if settings.tower and settings.lora is not None and not merge:
        raise QwenError("An adapter does not hold the vision tower that --tower trains: add --merge, or leave it out.")
    if settings.lora is not None and not merge and (out / CONFIG).exists():
        raise QwenError(f"{out} holds a whole model, which an adapter would leave there beside itself: name another "
                        f"folder (--out).")
    for name in WRITTEN:
        if (out / name).is_dir():
            raise QwenError(f"{out / name} is a folder, where a file is to be written: move it away, or name another "
                            f"folder (--out).")
    device = join(device)
    if settings.batch % ranks():
        raise QwenError(f"The {settings.batch} sequences of a step cannot be shared out among {ranks()} processes: "
                        f"make --batch a multiple of {ranks()}.")
    chats, others = read_chats(data), None if judge is None else read_chats(judge)
    qwen = load(source, dtype, device)
    if qwen.tokenizer is None:
        raise QwenError(f"{source} has no tokenizer.json, so it cannot read chats: fetch the file from where the "
                        f"checkpoint comes from.")
    train, held_out = split(chats, settings) if others is None else (chats, others)
    train, held_out = ([row for chat in some for row in rows_of(chat, qwen)] for some in (train, held_out))
    settings = replace(settings, length=min(settings.length, qwen.config.text_config.max_position_embeddings))
    check_length(train + held_out, settings.length)
    if many():
        distributed.shard(qwen.model)
    trainer = Trainer(qwen, settings, settings.epochs * math.ceil(len(train) / settings.batch))

    run = {"checkpoint": str(folder), "dtype": str(qwen.model.head_weight.dtype), "merge": merge, **asdict(settings),
           "targets": settings.targets and list(settings.targets), "data": digest(train),
           "chats to judge by": digest(held_out)}
    if restart and rank() == 0:
        forget(out)
    progress = Progress()
    if saved := None if restart else snapshot(out, run):
        if many():
            distributed.restore(distributed.snapshots(out)[0], trainer.optimizer)
        else:
            trainer.optimizer.load(saved["optimizer"])
        progress = Progress(**saved["progress"])
        say(f"{out} holds this run at step {progress.step}: it goes on from there.")
    elif held_out:
        progress.log.append({"step": 0, "held out": trainer.judge(held_out)})
    out.mkdir(parents=True, exist_ok=True)
    steps = islice(batches(train, settings), progress.step, None)
    bar = tqdm(steps, initial=progress.step, total=trainer.steps, unit="step", disable=rank() > 0 or None)
    for number, rows in enumerate(bar, progress.step):
        entry, last = trainer.step(number, rows), number + 1 == trainer.steps
        due = last or (number + 1) % keep_every == 0
        try:
            progress.note(entry)
            if due and not trainer.optimizer.finite():
                raise QwenError(f"after step {progress.step} the weights are no numbers any more")
        except QwenError as error:
            there = (out / SNAPSHOT).exists() or distributed.snapshots(out)
            kept = "goes on from the last good state" if there else "begins anew"
            raise QwenError(f"Stopped, as {error}: the same command with a lower rate than --lr {settings.lr:g} {kept}."
                            ) from None
        if held_out and (last or progress.step % judge_every == 0):
            entry["held out"] = trainer.judge(held_out)
            say(", ".join(f"{name} {x:.4g}" for name, x in entry.items()), bar.write)
        bar.set_postfix(loss=f"{progress.smooth:.3f}")
        if due and progress.well:
            state = {"run": run, "progress": vars(progress)}
            if many():
                distributed.keep(out, progress.step, trainer.optimizer, state)
            else:
                keep(out, state | {"optimizer": trainer.optimizer.state()})
    finish(trainer, folder, source, out, merge, {"settings": run, "log": progress.log})
    return progress.log


def say(words: str, by: Callable = print) -> None:
    """Once, however many ranks there are."""
    if rank() == 0:
        by(words)


def split(chats: list[Chat], settings: Settings) -> tuple[list[Chat], list[Chat]]:
    """The chats to learn from, and those to judge by: whole chats, as each may become several rows."""
    apart = set(Random(settings.seed).sample(range(len(chats)), int(settings.held_out * len(chats))))
    return [chat for n, chat in enumerate(chats) if n not in apart], [chats[n] for n in sorted(apart)]


def check_length(rows: list[Row], length: int) -> None:
    longest = max(rows, key=lambda row: len(row.ids))
    if len(longest.ids) > length:
        raise QwenError(f"{longest.where}: this chat, the longest, has {len(longest.ids):,} tokens, and {length:,} are "
                        f"the most that are read (--length, and as far as the model reads): shorten it.")


def batches(rows: list[Row], settings: Settings) -> Iterator[list[Row]]:
    """What each step learns from; every epoch has an order of its own."""
    for epoch in range(settings.epochs):
        order = Random(f"{settings.seed} {epoch}").sample(rows, len(rows))
        yield from (order[i : i + settings.batch] for i in range(0, len(rows), settings.batch))


def snapshot(out: Path, run: dict) -> dict | None:
    """What this run has kept; None if there is nothing. Raises QwenError if `out` is another's."""
    alone, shared = (out / SNAPSHOT).exists(), distributed.snapshots(out)
    if not (alone or shared):
        if any(path.name in (CONFIG, lora.CONFIG) or path.suffix == ".safetensors" for path in out.glob("*")):
            raise QwenError(f"{out} holds a model already: name another folder (--out), or add --restart.")
        return None
    if many() and not shared:
        raise QwenError(f"{out} holds a run without torchrun: go on without it, name another folder (--out), or add "
                        f"--restart.")
    if not many() and not alone:
        raise QwenError(f"{out} holds a run under torchrun: go on with it (one process will do: torchrun "
                        f"--nproc-per-node 1), name another folder (--out), or add --restart.")
    try:
        saved = distributed.about(shared[0]) if many() else snapshots.read(out / SNAPSHOT)
        before, _ = saved["run"].get, Progress(**saved["progress"])
    except QwenError:
        raise
    except Exception as error:                          # whatever somebody else has put there
        raise snapshots.damaged(shared[0] if many() else out / SNAPSHOT, error) from None
    for name in run:
        if name != "lr" and before(name) != run[name]:
            raise QwenError(f"{out} holds a run with another {name}: go on with the same, name another folder (--out), "
                            f"or add --restart.")
    return saved


def forget(out: Path) -> None:
    """Remove what was kept to go on from."""
    snapshots.forget(out)
    for folder in (*distributed.snapshots(out), out / distributed.PART, out / distributed.SHARDS):
        shutil.rmtree(folder, ignore_errors=True)


def keep(out: Path, state: dict) -> None:
    """Write a snapshot at one stroke. If it cannot be written, as on a full disk, the one before stays."""
    if error := snapshots.put(out / SNAPSHOT, state):
        remark(f"The snapshot of step {state['progress']['step']} cannot be written ({error.strerror}): the run goes "
               f"on, and the snapshot before it stays.")


def finish(trainer: Trainer, folder: str | Path, source: Path, out: Path, merge: bool, log: dict) -> None:
    """Write the result, and the log. Then the snapshot has served."""
    with writing(out, faults=(distributed.CheckpointException,)):
        model, adapter = trainer.model, trainer.adapter
        if many() and (adapter is None or merge):
            model = distributed.whole(model, out)
        if rank() > 0:
            return
        if adapter is None or merge:
            if merge:
                adapter.model = model
                adapter.merge()
            save_model(model, out, overwrite=True, tokenizer_from=source)
            for name in (lora.CONFIG, lora.WEIGHTS):    # of an earlier run: transformers would put it on top
                (out / name).unlink(missing_ok=True)
        else:
            for path in filter(Path.exists, (source / name for name in COMPANIONS)):
                write_whole(out / path.name, path.read_bytes())
            adapter.save(out, folder)
        write_whole(out / LOG, (json.dumps(log, indent=1) + "\n").encode())
    forget(out)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m minqwen.finetune", description=__doc__.split("\n")[0])
    option = partial(parser.add_argument, default=argparse.SUPPRESS)
    option("folder", nargs="?", metavar="checkpoint", help="a folder, or a name such as Qwen/Qwen3.5-0.8B")
    option("--data", type=Path, help="the file of chats: one in each line, as JSON")
    option("--judge", type=Path, help="another one, to judge by (a part of the first)")
    option("--out", type=Path, help="where the run keeps its place and puts its result (tuned/CHECKPOINT-DATA)")
    option("--lora", type=int, metavar="RANK", help="train an adapter of this rank, such as 16 (all weights)")
    option("--alpha", type=float, help="of the adapter (twice its rank)")
    option("--targets", type=lambda names: tuple(names.split(",")), metavar="NAMES", help="the matrices that get one, "
           "such as q_proj,v_proj (all)")
    option("--merge", action="store_true", help="put the adapter into the weights in the end, and save these")
    option("--tower", action="store_true", help="train the vision tower, too")
    option("--lr", type=float, help="the highest learning rate (1e-5, for an adapter 2e-4)")
    for name, words in (("epochs", "times that each chat is read"), ("batch", "sequences in a step"),
                        ("length", "tokens that are packed into one sequence"), ("warmup", "share of the steps"),
                        ("weight-decay", ""), ("held-out", "share of the chats to judge by"), ("seed", "")):
        default = getattr(Settings, name.replace("-", "_"))
        option(f"--{name}", type=type(default), metavar="N", help=f"{words} ({default})")
    option("--no-checkpointing", action="store_false", dest="checkpointing", help="quicker, with more memory")
    option("--keep-every", type=int, metavar="STEPS", help="where an interrupted run goes on from (50)")
    option("--judge-every", type=int, metavar="STEPS", help="(50)")
    option("--dtype", help="of the weights, such as bfloat16 (as stored)")
    option("--device", help="such as cuda (cpu)")
    option("--restart", action="store_true", help="forget what is in the folder")
    option("--plan", metavar="NAME", help="say what memory a model such as Qwen3.5-4B takes")
    given = vars(parser.parse_args(arguments))
    chosen = {f.name: given.pop(f.name) for f in fields(Settings) if f.name in given}
    try:
        if "plan" in given:
            spelt = {"folder": "a checkpoint", "checkpointing": "--no-checkpointing"}
            if lost := [*given.keys() - {"plan"}, *chosen.keys() - {"length", "lora"}]:
                name = spelt.get(min(lost), f"--{min(lost).replace('_', '-')}")
                raise QwenError(f"--plan goes with --lora and --length alone: leave {name} out.")
            (settings := Settings(**chosen)).check()
            try:
                return print(training_table([given["plan"]], settings.length, settings.lora or 16))
            except ValueError as error:                 # a name that is not known: it says which are
                raise QwenError(str(error)) from None
        if not {"folder", "data"} <= given.keys():
            raise QwenError("Name a checkpoint and --data chats.jsonl, or --plan and a model.")
        if "lora" not in chosen and (lost := [name for name in ("alpha", "targets") if name in chosen]):
            raise QwenError(f"--{lost[0]} is for an adapter: add --lora 16, or leave it out.")
        name = Path(os.path.abspath(given["folder"])).name              # of "." as well
        out = given.setdefault("out", Path("tuned") / f"{name}-{given['data'].stem}")
        finetune(settings=Settings(**{"lr": 2e-4 if "lora" in chosen else Settings.lr} | chosen), **given)
        say(str(out))
    except QwenError as error:
        parser.exit(2, f"minqwen: {error}\n" if first_to_fail() else None)
    except KeyboardInterrupt:
        told = "\nInterrupted: the same command goes on from the last snapshot.\n"
        parser.exit(130, told if first_to_fail() else None)
    except (RuntimeError, distributed.CheckpointException) as error:
        if not (many() and peer_gone(error)):
            raise
        told = ("minqwen: Stopped, as another process of this run has gone, or all are to end: the same command goes "
                "on from the last snapshot.\n")
        parser.exit(3, told if first_to_fail() else None)


if __name__ == "__main__":
    main()
