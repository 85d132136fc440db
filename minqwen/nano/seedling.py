"""The seedling: a sibling of nano so small that one can watch it learn. Lesson 13 does.

It has nano's words and nano's two periods of the hybrid, half of its width, and one thing to learn: who has what in the
end, of stories in which that changes.

    Ann has a red cup. Bob has a blue hat. Ann now has a gold key. What does Ann have? a gold key. ...

So what is told once must be kept, and what is told anew must take the place of what was there.

    plan, tokenizer = Plan(), words()
    model = grow(plan)
    for step, loss in learning(model, plan, tokenizer): # a step of training each time that one is asked for
        ...                                             # and here one may look

    python -m minqwen.nano.seedling                     # the run in data/training that the TrainingExplorer shows

Step s draws its stories from a generator seeded with (seed, s): two runs of a plan see the same.
"""

import argparse
import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..config import Config, TextConfig
from ..errors import QwenError, number_above_0, short, whole_number
from ..files import SHIPPED, check_file, write_whole, writing
from ..model import Qwen
from ..tokenizer import Tokenizer
from ..trace import delta_step, trace
from . import world
from .train import begin_as_a_memory, optimizers_for, schedule, step_all
from .variants import VARIANTS, Additive, Variant, as_another

RUN = SHIPPED / "data" / "training" / "run.npz"
STORY = ("Ann has a red cup. Bob has a blue hat. Ann now has a gold key. What does Ann have? a gold key. What does Bob "
         "have? a blue hat.")                            # the one that is looked at all the while


@dataclass(frozen=True)
class Plan:
    """How a seedling is trained."""

    seed: int = 0
    steps: int = 700
    lr: float = 3e-3                # the highest learning rate, of all but matrices
    matrix_pace: float = 3.0        # the learning rate of matrices is so many times `lr`
    stories: int = 12               # in a step, all with as many facts
    facts: tuple[int, int] = (2, 6)
    people: tuple[int, int] = (2, 4)                    # who may be told of in a story
    half_lives: tuple[float, float] = (10, 300)         # tokens: of a layer's shortest and longest memory at first

    def __post_init__(self):
        """Raises QwenError for what cannot be."""
        for name in ("steps", "stories"):
            whole_number(name, getattr(self, name), 1)
        for name in ("lr", "matrix_pace"):
            number_above_0(name, getattr(self, name))
        for name, check in (("facts", partial(whole_number, least=1)), ("half_lives", number_above_0),
                            ("people", partial(whole_number, least=1, most=len(world.NAMES)))):
            ends = getattr(self, name)
            if not isinstance(ends, tuple | list) or len(ends) != 2:
                raise QwenError(f"{name} are the least and the most, such as {getattr(Plan, name)}, and not "
                                f"{short(repr(ends))}.")
            if check(name, ends[0]) > check(name, ends[1]):
                raise QwenError(f"{name} are the least and the most, in this order, and not {ends}.")


# ------------------------------------------------------------------------------------------------------------ stories


class Told(NamedTuple):
    """A story, cut where the loss goes on and off, and of each answer whether the fact had been another one before."""

    pieces: list[tuple[str, bool]]
    changed: list[bool]


def tell(rng: Random, facts: int, people: int) -> Told:
    """So many facts about up to so many people; then everybody of whom there was one is asked for, once.

    Raises: QwenError for numbers that cannot be.
    """
    whole_number("facts", facts, 1)
    whole_number("people", people, 1, len(world.NAMES))
    names, has, changed, sentences = rng.sample(world.NAMES, people), {}, set(), []
    for name in rng.choices(names, k=facts):
        thing = f"{rng.choice(world.COLOURS)} {rng.choice(world.THINGS)}"
        sentences.append(f"{name} {'now has' if name in has else 'has'} a {thing}.")
        if name in has:
            changed.add(name)
        has[name] = thing
    asked = rng.sample(sorted(has), len(has))
    pieces = [(" ".join(sentences), False)]
    for name in asked:
        pieces += [(f" What does {name} have?", False), (f" a {has[name]}.", True)]
    return Told(pieces, [name in changed for name in asked])


class Batch(NamedTuple):
    """Stories as rows, padded on the right.

    input_ids   (B, T)
    targets     (B, T)  the next token where it belongs to an answer, else -100
    answers     (B, T)  which answer that is, counted through all rows; -1 where there is none
    changed     (N,)    of each answer, was the fact another one before?
    """

    input_ids: Tensor
    targets: Tensor
    answers: Tensor
    changed: Tensor


def batch_of(tokenizer: Tokenizer, stories: list[Told]) -> Batch:
    rows, number = [], 0
    for story in stories:
        ids, answers = [], []
        for text, learnt in story.pieces:
            new = tokenizer.encode(text)
            ids, answers = ids + new, answers + len(new) * [number if learnt else -1]
            number += learnt
        rows.append((ids, answers))
    T = max(len(ids) for ids, _ in rows)
    input_ids = torch.tensor([ids + (T - len(ids)) * [tokenizer.pad_token_id] for ids, _ in rows])
    answers = torch.tensor([answers[1:] + (T - len(answers) + 1) * [-1] for _, answers in rows])
    targets = input_ids.roll(-1, dims=1).masked_fill(answers < 0, -100)
    return Batch(input_ids, targets, answers, torch.tensor([x for story in stories for x in story.changed]))


def read_in_step(plan: Plan, step: int) -> list[Told]:
    """The stories of a step, counted from 0: as many facts in each, so that hardly any row is padded."""
    rng = Random(f"{plan.seed} {step}")
    facts = rng.randint(*plan.facts)
    return [tell(rng, facts, rng.randint(*plan.people)) for _ in range(plan.stories)]


def held_out(plan: Plan, count: int) -> list[Told]:
    """Stories that no step reads, with as much in them as there may be. Raises QwenError if there is none of them."""
    whole_number("stories", count, 1)
    rng = Random("held out")
    return [tell(rng, plan.facts[1], plan.people[1]) for _ in range(count)]


# ----------------------------------------------------------------------------------------------------------- training


def words() -> Tokenizer:
    """Nano's."""
    return Tokenizer.from_folder(SHIPPED / "data" / "nano")


def seedling_config(vocab_size: int, layers: str = Variant.layers) -> Config:
    """layers: D for a Gated DeltaNet, A for gated attention."""
    kinds = {"D": "linear_attention", "A": "full_attention"}
    return Config(TextConfig(
        vocab_size=-(-vocab_size // 64) * 64, hidden_size=64, intermediate_size=128, num_hidden_layers=len(layers),
        layer_types=[kinds[layer] for layer in layers], num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=16, linear_value_head_dim=16,
        max_position_embeddings=1024, tie_word_embeddings=True, mtp_num_hidden_layers=0, dtype="float32",
        rope_parameters={"rope_type": "default", "rope_theta": 10_000, "partial_rotary_factor": 0.25,
                         "mrope_interleaved": True, "mrope_section": [2, 1, 1]},
    ), None)


def grow(plan: Plan, vocab_size: int, variant: Variant = VARIANTS["as it is, 3:1"]) -> Qwen:
    """A fresh seedling, by the plan's seed."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(plan.seed)
        model = Qwen(seedling_config(vocab_size, variant.layers))
        if variant.memory:
            begin_as_a_memory(model, plan.half_lives)
    if variant.change:
        variant.change(model)
    return model


def answer_loss(model: Qwen, batch: Batch) -> Tensor:
    """Cross entropy (nats) of an answer's token, the mean over all of them."""
    learnt = batch.targets >= 0
    states = model.hidden_states(batch.input_ids)[learnt]                               # the head for these alone
    return F.cross_entropy(F.linear(states, model.head_weight), batch.targets[learnt])


def learning(model: Qwen, plan: Plan, tokenizer: Tokenizer) -> Iterator[tuple[int, float]]:
    """Train, by one step whenever the next is asked for: (steps done, the loss before the last of them).

    Raises: QwenError where the gradient or the weights are no numbers any more.
    """
    optimizers = optimizers_for(model, matrix_pace=plan.matrix_pace)
    for step in range(plan.steps):
        batch = batch_of(tokenizer, read_in_step(plan, step))
        with torch.enable_grad():
            loss = answer_loss(model, batch)
            loss.backward()
        try:
            step_all(optimizers, schedule(step, plan.steps, plan.lr))
        except QwenError as error:
            raise QwenError(f"{str(error).rstrip('.')}, in step {step + 1}: take a smaller learning rate than "
                            f"{plan.lr:g}.") from None
        yield step + 1, loss.item()


@torch.no_grad()
def recall(model: Qwen, batch: Batch) -> tuple[float, float]:
    """The shares of answers of which every token is the likeliest one: facts told once, facts that changed."""
    there = batch.answers >= 0
    wrong = (model(batch.input_ids).argmax(-1) != batch.targets)[there].float()
    known = torch.zeros(len(batch.changed)).index_add(0, batch.answers[there], wrong) == 0
    return known[~batch.changed].float().mean().item(), known[batch.changed].float().mean().item()


# ---------------------------------------------------------------------------------------------------- what was seen


@dataclass
class Run:
    """What was seen of a training run, in S snapshots.

    steps, loss             (S,)            steps done, and the mean loss since the last snapshot, nats a token; that of
                                            held-out stories if there was no step since
    once, changed           (S,)            recall on held-out stories: of facts told once, and of those that changed
    without                 (S, L)          recall of changed facts, while one layer's correction is switched off
    layers                  (L,)            numbers of the Gated DeltaNet layers
    tokens                  (T,)            of `STORY`, which is read at each snapshot, and there
    k, v                    (S, L, T, H, D) keys and values, alpha and beta (S, L, T, H)
    """

    steps: np.ndarray
    loss: np.ndarray
    once: np.ndarray
    changed: np.ndarray
    without: np.ndarray
    layers: np.ndarray
    tokens: np.ndarray
    k: np.ndarray
    v: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)

    def jump(self, what: str = "changed") -> int:
        """The snapshot at which "once" or "changed" has gone up: see `jump`."""
        return jump(getattr(self, what))

    def corrections(self) -> np.ndarray:
        """(S, L): how much recall of changed facts is lost where a layer's correction is switched off."""
        return self.changed[:, None] - self.without

    def overwriting_layer(self) -> int:
        """The number of the layer whose correction counts most, once changed facts are known."""
        return int(self.layers[self.corrections()[self.jump() :].mean(0).argmax()])

    def memory(self, snapshot: int, layer: int, head: int, token: int = -1) -> np.ndarray:
        """(Dk, Dv): what a head of the layer of this number holds of the story after a token."""
        k, v, alpha, beta = (x[snapshot, list(self.layers).index(layer), :, head].astype("f8") for x in
                             (self.k, self.v, self.alpha, self.beta))
        state = np.zeros((k.shape[-1], v.shape[-1]))
        for t in range(len(self.tokens))[: token + 1 or None]:
            state = delta_step(state, k[t], v[t], alpha[t], beta[t]).after
        return state

    def save(self, path: Path) -> None:
        content = io.BytesIO()
        np.savez_compressed(content, **{name: getattr(self, name) for name in names_of(Run)})
        write_whole(Path(path), content.getvalue())

    @classmethod
    def load(cls, path: Path = RUN) -> "Run":
        """Raises: QwenError if there is no such file, or it holds something else."""
        try:
            with np.load(path, allow_pickle=False) as content:
                return cls(**{name: content[name] for name in names_of(cls)})
        except Exception as error:                      # whatever NumPy makes of what somebody else has put there
            raise QwenError(f"{path} holds no run of training ({type(error).__name__}): "
                            "python -m minqwen.nano.seedling makes one.") from None


def names_of(kind) -> list[str]:
    return [field.name for field in fields(kind)]


def jump(values) -> int:
    """Where a curve goes up for good: the first place of its upper part.

    Of all ways to cut it in two it is the one by which the numbers lie closest about the mean of their part: least
    squares, a change point. Nothing is smoothed, and no threshold chosen.
    """
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        raise QwenError("A jump needs two numbers or more.")
    return min(range(1, len(x)), key=lambda i: sum(((part - part.mean()) ** 2).sum() for part in (x[:i], x[i:])))


class Recorder:
    """Looks at a model as it learns; `run()` is what was seen."""

    def __init__(self, plan: Plan, tokenizer: Tokenizer, stories: int = 40):
        """stories: held-out ones that recall is measured on."""
        self.batch = batch_of(tokenizer, held_out(plan, stories))
        self.ids = tokenizer.encode(STORY)
        self.tokens = [tokenizer.decode([id], skip_special_tokens=False) for id in self.ids]
        self.seen, self.losses = [], []

    def note(self, loss: float) -> None:
        self.losses.append(loss)

    @torch.no_grad()
    def look(self, model: Qwen, step: int) -> dict:
        """What is to be seen of the model now, after so many steps: kept, and returned."""
        losses = self.losses or [answer_loss(model, self.batch).item()]
        records = trace(model).run(self.ids).delta_layers
        once, changed = recall(model, self.batch)
        without = []
        for record in records:
            with as_another(model.model.language_model.layers[record.index].linear_attn, Additive):
                without.append(recall(model, self.batch)[1])
        gates = {name: torch.stack([getattr(record, name)[0] for record in records]).numpy()
                 for name in ("k", "v", "alpha", "beta")}
        self.seen.append({"steps": step, "loss": float(np.mean(losses)), "once": once,
                          "changed": changed, "without": without, "layers": [record.index for record in records],
                          **gates})
        self.losses = []
        return self.seen[-1]

    def run(self) -> Run:
        """Raises: QwenError if nothing was looked at."""
        if not self.seen:
            raise QwenError("Nothing was seen yet: recorder.look(model, step) looks at the model.")
        columns = {name: np.array([seen[name] for seen in self.seen]) for name in self.seen[0]}
        columns["layers"] = columns["layers"][0]
        kinds = {"steps": "i4", "layers": "i4", "k": "f2", "v": "f2"}                       # all others float32
        return Run(tokens=np.array(self.tokens),
                   **{name: x.astype(kinds.get(name, "f4")) for name, x in columns.items()})


def record(plan: Plan, snapshots: int = 40, progress: bool = True) -> Run:
    """Train a seedling and look at it now and then: `snapshots` times, evenly, and before the first step.

    Raises: QwenError where nothing is to be looked at; where the gradient or the weights are no numbers any
        more.
    """
    whole_number("--snapshots", snapshots, 1)
    tokenizer = words()
    model, recorder = grow(plan, tokenizer.vocab_size), Recorder(plan, tokenizer)
    looks = {round(i * plan.steps / snapshots) for i in range(1, snapshots + 1)}
    with tqdm(total=plan.steps, unit="step", disable=None if progress else True) as bar:
        for step, loss in learning(model, plan, tokenizer):
            if not recorder.seen:                       # the loss before the first step is known now
                recorder.note(loss)
                recorder.look(grow(plan, tokenizer.vocab_size), 0)
            recorder.note(loss)
            if step in looks:
                seen = recorder.look(model, step)
                bar.set_postfix({name: f"{seen[name]:.2f}" for name in ("loss", "once", "changed")})
            bar.update()
    return recorder.run()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--snapshots", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RUN, help="where the run goes")
    args = parser.parse_args(arguments)
    torch.set_flush_denormal(True)
    try:
        check_file(args.out)
        run = record(Plan(seed=args.seed, steps=args.steps), args.snapshots)
        with writing(args.out, kept=False):
            run.save(args.out)
    except QwenError as error:
        parser.error(str(error))
    print(f"{args.out}: {len(run)} snapshots, {args.out.stat().st_size:,} bytes; changed facts are recalled from step "
          f"{run.steps[run.jump()]} on, and layer {run.overwriting_layer()} overwrites.")


if __name__ == "__main__":
    main()
