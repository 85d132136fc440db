"""Train the nano model: `make nano`, or `python -m minqwen.nano.train`. From nothing to data/nano.

With `--experts`, or by `make nano_moe`, its small sibling: a mixture of experts that knows stories and sums alone.

First, for a minute or two, the vision tower looks at pictures by itself: a `Teacher`, which is thrown away in the end,
holds what it sees where against the model's words for it. Then the whole model learns: the next token, and by the head
for multi-token prediction the one after it, through the phases of its `Recipe`. Text and pictures share a context from
the first step on.

Step s draws its samples from a generator seeded with (seed, s), so that a run that was interrupted and resumed sees
what an uninterrupted one sees.
"""

import argparse
import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..checkpoint import save_model
from ..config import Config, TextConfig, VisionConfig
from ..errors import QwenError, number_above_0, whole_number
from ..files import check_place, write_csv, write_whole, writing
from ..media import Processor
from ..model import GatedDeltaNet, Qwen, Step
from ..routing import balancing_loss, routing
from ..snapshots import begun, keep, kept, may_diverge
from . import pictures, world
from .recipe import EXPERTS, Recipe
from .samples import Sample, phase_samples
from .tokenizer import save_tokenizer

ROOT = Path(__file__).parents[2]
CONTEXT = 4096
MOST_PADS = 250                                          # in a batch: computing them takes as long as one batch more


def nano_config(tokenizer) -> Config:
    """Two periods of the 3:1 hybrid. Two key heads serve four value heads, so that pictures and tests show grouping."""
    at = tokenizer.token_to_id
    text = TextConfig(
        vocab_size=-(-tokenizer.get_vocab_size() // 64) * 64, hidden_size=128, intermediate_size=256,
        num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=32, linear_value_head_dim=32,
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, mtp_num_hidden_layers=1, dtype="float32",
        eos_token_id=at("<|endoftext|>"),
        rope_parameters={"rope_type": "default", "rope_theta": 10_000, "partial_rotary_factor": 0.25,
                         "mrope_interleaved": True, "mrope_section": [3, 3, 2]},
    )
    vision = VisionConfig(depth=3, hidden_size=64, intermediate_size=128, num_heads=4, patch_size=8,
                          num_position_embeddings=64, out_hidden_size=128)
    ids = {f"{name}_token_id": at(f"<|{token}|>") for name, token in
           {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start",
            "vision_end": "vision_end"}.items()}
    return Config(text, vision, **ids)


BALANCE = 0.02                                          # how much the balancing loss counts beside the others


def mixture_config(tokenizer, balance: float = BALANCE) -> Config:
    """The same a little narrower, for text alone, and with eight experts in each layer, two of them for a token.

    balance: how much the balancing loss counts beside the others.
    """
    nano = nano_config(tokenizer)
    text = replace(nano.text_config, hidden_size=96, mtp_num_hidden_layers=0, num_experts=8, num_experts_per_tok=2,
                   moe_intermediate_size=28, shared_expert_intermediate_size=28, router_aux_loss_coef=balance)
    return replace(nano, text_config=text, vision_config=None)


# ------------------------------------------------------------------------------------------------------ batches


class Row(NamedTuple):
    """A sample as the model reads it."""

    kind: str
    ids: list[int]
    learnt: list[bool]
    media: dict[str, Tensor]


class Batch(NamedTuple):
    """Rows padded on the right. targets (B, T): the next token where it is to be learnt, else -100; real (B, T): is it
    a token, and no padding?"""

    kinds: list[str]
    input_ids: Tensor
    targets: Tensor
    media: dict[str, Tensor]
    real: Tensor | None = None                          # None: all are


class Encoder:
    """Conversations to token ids, pixels, and a mask of what is to be learnt."""

    def __init__(self, tokenizer, processor: Processor):
        self.tokenizer, self.processor = tokenizer, processor
        self.pad = tokenizer.token_to_id("<|endoftext|>")

    def __call__(self, sample: Sample) -> Row:
        images, clips = sample.conversation.images(), sample.conversation.clips()
        images = self.processor.images(images) if images else None
        videos = self.processor.videos(clips) if clips else None
        texts = self.processor.expand("\0".join(text for text, _ in sample.pieces), images, videos).split("\0")
        ids, learnt = [], []
        for text, (_, learn) in zip(texts, sample.pieces):
            new = self.tokenizer.encode(text, add_special_tokens=False).ids
            ids += new
            learnt += [learn] * len(new)
        media = {}
        if images:
            media |= {"pixel_values": images.pixel_values, "image_grid_thw": images.grid_thw}
        if videos:
            media |= {"pixel_values_videos": videos.pixel_values, "video_grid_thw": videos.grid_thw}
        return Row(sample.kind, ids, learnt, media)

    def batch(self, rows: list[Row]) -> Batch:
        T = max(len(row.ids) for row in rows)
        input_ids = torch.full((len(rows), T), self.pad)
        targets = torch.full((len(rows), T), -100)
        for i, row in enumerate(rows):
            input_ids[i, : len(row.ids)] = torch.tensor(row.ids)
            targets[i, : len(row.ids) - 1] = torch.tensor(
                [id if yes else -100 for id, yes in zip(row.ids[1:], row.learnt[1:])])
        media = {}
        for name in ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw"):
            if parts := [row.media[name] for row in rows if name in row.media]:
                media[name] = torch.cat(parts)
        real = torch.arange(T) < torch.tensor([[len(row.ids)] for row in rows])
        return Batch([row.kind for row in rows], input_ids, targets, media, real)

    def batches(self, samples: list[Sample], area: int) -> list[Batch]:
        """Samples of a like length together, whatever their kinds, in batches of up to `area` tokens, pads included.

        A batch is shorter where longer ones behind it would cost it more pads than one batch more is worth.
        """
        batches, rows, tokens = [], [], 0
        for row in sorted(map(self, samples), key=lambda row: len(row.ids)):
            T = len(row.ids)
            if rows and (T * (len(rows) + 1) > area or T * len(rows) - tokens > MOST_PADS):
                batches.append(self.batch(rows))
                rows, tokens = [], 0
            rows.append(row)
            tokens += T
        return [*batches, self.batch(rows)]


# ----------------------------------------------------------------------------------------------------- training


class Teacher(torch.nn.Module):
    """Holds what the tower sees at each of a picture's nine places against the model's own words for it.

    An answer in words gives the tower a few bits for each picture, and only once the language model has learnt where to
    look; this gives it all there is to know. What is seen of a red circle in the top left comes to lie near "red",
    "circle", "top" and "left" and is as long as a word, so that it can be looked up by its name. It is no part of the
    model and is not kept.
    """

    def __init__(self, tokenizer, width: int):
        super().__init__()
        self.places = torch.nn.Parameter(torch.randn(len(pictures.WHERE), width) * 0.1)
        self.norm = torch.nn.LayerNorm(width)
        self.key = torch.nn.Linear(width, width)
        self.nothing = torch.nn.Parameter(torch.randn(1, width) * width**-0.5)
        self.ids = [[[tokenizer.token_to_id(f"Ġ{word}") for word in name.split()] for name in names]
                    for names in (pictures.SHAPES, pictures.COLOURS, pictures.WHERE)]

    def forward(self, seen: Tensor, scenes: list[pictures.Scene], words: Tensor) -> Tensor:
        """seen: (scenes, tokens of one, width); words: (vocab, width) -> the mean loss, in nats a place."""
        shapes, colours, where = (torch.stack([words[ids].sum(0) for ids in names]) for names in self.ids)
        kind, colour = torch.zeros(2, len(scenes), len(self.places), dtype=torch.long)  # entry 0: nothing is there
        for i, scene in enumerate(scenes):
            for shape in scene.shapes:
                place = list(pictures.WHERE).index(shape.place)
                kind[i, place] = 1 + pictures.SHAPES.index(shape.kind)
                named = shape.colour in pictures.COLOURS
                colour[i, place] = 1 + list(pictures.COLOURS).index(shape.colour) if named else -100
        look = (self.places @ self.key(self.norm(seen)).mT * 0.3).softmax(-1)           # (scenes, places, tokens)
        there = look @ seen                                                             # (scenes, places, width)
        loss = 0.1 * (seen.norm(dim=-1) / shapes.norm(dim=-1).mean()).log().square().mean()
        for names, truth in ((torch.cat((self.nothing, shapes)), kind), (torch.cat((self.nothing, colours)), colour)):
            loss = loss + F.cross_entropy(likeness(there, names).flatten(0, 1), truth.flatten())
        occupied, place = kind.nonzero().unbind(-1)
        return loss + F.cross_entropy(likeness(there[occupied, place], where), place)


SHARP = 20                                               # two names' logits for cosines 1 apart


def likeness(seen: Tensor, names: Tensor) -> Tensor:
    """Cosines of seen (..., width) and names (n, width), times SHARP: logits (..., n)."""
    return SHARP * F.normalize(seen, dim=-1) @ F.normalize(names, dim=-1).T


def taught(model: Qwen, teacher: Teacher, processor: Processor, rng: Random, unnamed: bool = False,
           count: int = 32) -> Tensor:
    """The teacher's loss on `count` pictures of one size.

    unnamed: half of them are in colours that have no name, so that a shape is told by its form alone. From named ones
    alone the tower learns, too, which shapes never are of which colour, and takes white diamonds for crosses.
    """
    size = rng.choice(pictures.SIZES) if rng.random() < 0.3 else pictures.SIZES[0]
    scenes = [pictures.Scene.sample(rng, size=size) for _ in range(count)]
    if unnamed:
        scenes[::2] = [scene.in_unnamed_colours(rng) for scene in scenes[::2]]
    images = processor.images([scene.draw() for scene in scenes])
    seen = model.model.visual(images.pixel_values, images.grid_thw).unflatten(0, (count, -1))
    return teacher(seen, scenes, model.model.language_model.embed_tokens.weight.detach())


def foresee(model: Qwen, batch: Batch, drafts: int) -> list[Tensor]:
    """What stands at the top of the model, (B, T, width), and what the head for multi-token prediction makes of it.

    The d-th of `drafts` drafts, (B, T - d, width), is of the token d + 1 places on: the head has read what stands
    before that, and its own output in place of a hidden state, as it does when it drafts.
    """
    x = model.embed(batch.input_ids, **batch.media)
    grids = batch.media.get("image_grid_thw"), batch.media.get("video_grid_thw")
    position_ids = model.positions(batch.input_ids, None, *grids)
    states = [model.hidden_states(batch.input_ids, position_ids=position_ids, inputs_embeds=x)]
    for d in range(1, drafts + 1):                                                      # pads come last: causal will do
        step = Step.at(position_ids[..., d - 1 : -1], model.config.text_config, x.dtype)
        states.append(model.mtp(states[-1][:, :-1], x[:, d:], step))
    return states


def losses(model: Qwen, batch: Batch, drafts: int = 1) -> list[Tensor]:
    """Cross entropy (nats) of every token that is to be learnt: as the next one, (B, T), and as each of the drafts."""
    return [nats(model, states, batch.targets[:, d:]) for d, states in enumerate(foresee(model, batch, drafts))]


def nats(model: Qwen, states: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy (B, T) of targets (B, T) after hidden states (B, T, width); 0 where nothing is to be learnt."""
    learnt, loss = targets >= 0, torch.zeros_like(targets, dtype=torch.float)
    loss[learnt] = F.cross_entropy(F.linear(states[learnt], model.head_weight), targets[learnt], reduction="none")
    return loss


@dataclass
class Curriculum:
    """How far training has come, by what it has mastered."""

    phase: int = 0                                      # which of the recipe's
    since: int = 0                                      # steps of this phase
    most_facts: int = 8                                 # in the longest story now
    facts: float = 1.0                                  # losses, smoothed, nats a token
    pictures: float = 1.0

    def go_on(self, loss: dict[str, float], recipe: Recipe) -> None:
        """After a step with these losses: stories grow where they are easy, and a phase that is known ends."""
        self.since += 1
        self.facts += 0.1 * (loss["facts"] - self.facts)
        self.pictures += 0.1 * (loss.get("pictures", 1.0) - self.pictures)
        if self.facts < 0.2:                            # these stories are easy by now: make them longer by a fifth
            self.most_facts, self.facts = min(recipe.most_facts, self.most_facts + -(-self.most_facts // 5)), 0.3
        phase = recipe.phases[self.phase]
        told = phase.until_facts is not None and self.most_facts >= phase.until_facts
        seen = phase.until_seen is not None and self.pictures < phase.until_seen
        if self.phase + 1 < len(recipe.phases) and (told or seen or self.since == phase.steps):
            self.phase, self.since, self.pictures = self.phase + 1, 0, 1.0


def step_losses(model: Qwen, batches: list[Batch], weights: dict[str, float], recipe: Recipe,
                drafts: int = 1) -> dict[str, float]:
    """Backward through all batches of a step -> the mean loss of each kind of sample, and of the first draft as "mtp".

    Of a mixture of experts also its "balance", which counts by the coefficient in the model's config.

    Every kind counts by its weight, however many tokens of it there are - unless they are so few that their mean is
    mostly chance.
    """
    text, learnt = model.config.text_config, {kind: 0 for kind in weights}
    for batch in batches:
        for kind, row in zip(batch.kinds, batch.targets):
            learnt[kind] += (row >= 0).sum().item()
    means = {kind: 0.0 for kind in (*weights, "mtp")}
    for batch in batches:
        share = torch.tensor([weights[kind] / max(recipe.enough, learnt[kind]) for kind in batch.kinds])
        with routing(model) as logits:
            following, *ahead = (loss.sum(-1) for loss in losses(model, batch, drafts))             # (B,)
        loss = share @ (following + recipe.mtp_weight * sum(ahead) / max(1, drafts))
        if logits:
            balance = balancing_loss(logits, text.num_experts_per_tok, batch.real) / len(batches)
            loss = loss + text.router_aux_loss_coef * balance
            means["balance"] = means.get("balance", 0.0) + balance.item()
        loss.backward()
        for kind, mine in zip(batch.kinds, following.tolist()):
            means[kind] += mine / learnt[kind]
        if ahead:
            means["mtp"] += ahead[0].sum().item() / sum(learnt.values())
    return means


@torch.no_grad()
def exact(model: Qwen, batch: Batch) -> float:
    """The share of rows whose every learnt token is the likeliest one: what greedy decoding would get right."""
    right = model(batch.input_ids, **batch.media).argmax(-1) == batch.targets
    return (right | (batch.targets < 0)).all(-1).float().mean().item()


@torch.no_grad()
def drafted(model: Qwen, batch: Batch, drafts: int = 1) -> list[Tensor]:
    """For 1, 2, ... drafts in a row: are they right, wherever all of them are to be learnt? (places,) bool for each."""
    _, *states = foresee(model, batch, drafts)
    wanted = right = torch.ones_like(batch.targets, dtype=torch.bool)
    found = []
    for d, ahead in enumerate(states, start=1):
        targets = batch.targets[:, d:]
        wanted = wanted[:, :-1] & (targets >= 0)
        right = right[:, :-1] & (model.head(ahead).argmax(-1) == targets)
        found.append(right[wanted])
    return found


def probe(model: Qwen, encode: Encoder, samples: int = 48) -> dict[str, float]:
    """Accuracies on held-out samples, for the log. One question each: the last one asked."""
    def rows(name, conversation):
        rng = Random(f"probe {name}")
        conversations = [conversation(rng) for _ in range(samples)]
        return encode.batch([encode(Sample("facts", c, world.pieces(c))) for c in conversations])

    def sums(thinking):
        return lambda rng: world.Conversation([world.addition(*world.pair(rng, 3, test=True), thinking)])

    def looks(kind, **options):
        return lambda rng: world.picture_conversation(rng, 1, kind=kind, **options)

    model.eval()
    asked = {
        "12 facts": lambda rng: world.facts_conversation(rng, 12, 1),
        "40 facts": lambda rng: world.facts_conversation(rng, 40, 1),
        "sums thinking": sums(True), "sums at once": sums(False),
    }
    if model.config.vision_config is not None:          # else it is trained on stories and sums alone
        asked |= {
            **{kind: looks(kind) for kind in ("what", "colour", "shape", "where", "how many", "how many of a kind")},
            "new colour": looks("colour", test=True), "new shape": looks("shape", test=True),
            "which way": looks("which way", film=True), "what moves": looks("what moves", film=True),
            "stands still": looks("what stands still", film=True),
            "calculator": lambda rng: world.tools_conversation(rng, others=False, test=True),
            "renamed": lambda rng: world.tools_conversation(rng, others=False, test=True, renamed=1),
            "nobody knows": lambda rng: world.facts_conversation(rng, 12, 1, unknown=1),
            "typed": lambda rng: world.typed(rng, world.facts_conversation(rng, 12, 1)),
            "chatter": lambda rng: world.chatter_conversation(rng, False, test=True),
        }
    batches = {name: rows(name, conversation) for name, conversation in asked.items()}
    scores = {name: exact(model, batch) for name, batch in batches.items()}
    if model.config.text_config.mtp_num_hidden_layers:
        for d, right in enumerate(drafted(model, batches["what"], drafts=3), start=1):
            scores[f"draft {d}"] = right.float().mean().item()
    model.train()
    return scores


OTHERS = re.compile(r"embed|mlp\.(gate|shared_expert_gate)\.")    # matrices that are no projections


def optimizers_for(*modules: torch.nn.Module, matrix_pace: float,
                   tower_pace: float = 1.0) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the projections; AdamW for norms, gates, convolutions, biases and embeddings, and for
    experts and their routers.

    Muon (K. Jordan 2024; scaled to AdamW's steps as in arXiv 2502.16982) turns a matrix in all its directions alike,
    also in those that a few samples of a rare kind would drown. Recall, which the whole of training waits for, comes
    sooner. "pace": a group's share of the learning rate.
    """
    matrices, others = {}, {}
    for name, p in (named for module in modules for named in module.named_parameters()):
        groups, pace = (matrices, matrix_pace) if p.ndim == 2 and not OTHERS.search(name) else (others, 1.0)
        pace *= tower_pace if name.startswith("model.visual.") else 1.0
        groups.setdefault(pace, []).append(p)
    matrices, others = ([{"params": group, "pace": pace} for pace, group in groups.items()]
                        for groups in (matrices, others))
    return [torch.optim.Muon(matrices, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, weight_decay=0.0, betas=(0.9, 0.95), eps=1e-9)]


def step_all(optimizers: list[torch.optim.Optimizer], lr: float) -> float:
    """One step with the gradients that are there, clipped to a length of 1 -> their length before.

    Raises: QwenError if that is no number, and then the weights are as they were; or if they are none after the step.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    weights = [p for group in groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
    if not norm.isfinite():
        raise QwenError("The gradient is not a number.")
    for group in groups:
        group["lr"] = group["pace"] * lr
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    if not torch.nn.utils.get_total_norm([p.detach() for p in weights]).isfinite():
        raise QwenError("The weights are no numbers any more.")
    return norm.item()


def look_first(model: Qwen, teacher: Teacher, processor: Processor, recipe: Recipe, run: Path) -> None:
    """Train the tower alone, on what the teacher asks."""
    optimizers = optimizers_for(model.model.visual, teacher, matrix_pace=recipe.matrix_pace)
    for step in tqdm(range(recipe.looks), desc="looking", unit="step", disable=None):
        taught(model, teacher, processor, Random(f"{recipe.seed} look {step}")).backward()
        with may_diverge(run, recipe.lr, f"look {step + 1}"):
            step_all(optimizers, schedule(step, recipe.looks, recipe.lr))


@torch.no_grad()
def begin_as_a_memory(model: Qwen, half_lives: tuple[float, float]) -> None:
    """Start where recall is near: "Mimetic Initialization Helps State Space Models Learn to Recall" (arXiv 2410.11135).

    In each Gated DeltaNet layer queries begin equal to keys (a word finds itself), values pass through the convolution
    and are written out again as they came in (out_proj is the transpose of the values' projection), and there are
    memories of all lengths in each, for training hardly moves how fast a memory fades. The other layers begin small, so
    that a word's own vector is not drowned.

    half_lives: in tokens, of a layer's shortest and longest memory.
    """
    for name, p in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "experts.down_proj")):
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
        lives = torch.logspace(*(math.log10(x) for x in half_lives), mixer.num_v_heads)
        step = math.log(2) / (lives * mixer.A_log.exp())        # is softplus(dt_bias): half is gone after that long
        mixer.dt_bias.copy_(torch.log(torch.expm1(step)))
    if model.config.vision_config is not None:
        model.model.visual.merger.linear_fc2.weight.mul_(0.15)  # pictures' vectors about as long as words'
        model.model.visual.pos_embed.weight.mul_(4)             # and where a patch is counts as much as what it shows


@torch.no_grad()
def spell_alike(model: Qwen, tokenizer, likeness: float) -> None:
    """A word's spellings - "Ann", " Ann", " ann" - begin as vectors with cosines of about `likeness`."""
    words, vectors = {}, model.model.language_model.embed_tokens.weight
    for id in range(tokenizer.get_vocab_size()):
        word = tokenizer.decode([id]).strip().lower()
        if len(word) > 1 and word.isalpha():
            words.setdefault(word, []).append(id)
    for ids in (ids for ids in words.values() if len(ids) > 1):
        vectors[ids] = math.sqrt(likeness) * vectors[ids[0]] + math.sqrt(1 - likeness) * torch.randn_like(
            vectors[ids]) * vectors.std()


def schedule(step: int, steps: int, peak: float, warmup: int = 30) -> float:
    """Learning rate: linear warm-up, flat, and a last third down to nothing as 1 - sqrt."""
    down = max(0.0, (step - 2 * steps / 3) / (steps / 3))
    return peak * min(1.0, (step + 1) / warmup) * (1 - math.sqrt(down) if down > 0 else 1.0)


def train(recipe: Recipe, run: Path, out: Path, probe_every: int = 200, keep_every: int = 100,
          restart: bool = False, config: Callable[..., Config] = nano_config) -> None:
    """Train a model as the recipe says, from nothing or from where the run was interrupted.

    Args:
        run: the folder where a run keeps its place; an interrupted one goes on there, unless `restart`.
        out: where the finished model goes.
        probe_every, keep_every: steps.
        config: makes the model's, from the tokenizer.
    Raises: QwenError for numbers that cannot be; if the run there has another recipe, but for its learning rate; if
        torch is too old; if gradients or weights are no numbers; if there is no room for what came of it.
    """
    for name, least in (("looks", 0), ("steps", 1), ("tokens", 1), ("pictures", 0)):
        whole_number(f"--{name}", getattr(recipe, name), least)
    number_above_0("--lr", recipe.lr)
    whole_number("--probe-every", probe_every, 1)
    whole_number("--keep-every", keep_every, 1)
    if not hasattr(torch.optim, "Muon"):
        raise QwenError(f"Training needs torch 2.9 or newer, for torch.optim.Muon; this is {torch.__version__}.")
    torch.manual_seed(recipe.seed)
    torch.set_flush_denormal(True)
    with writing(run, kept=False):
        tokenizer = save_tokenizer(run / "tokenizer")
    model = Qwen(config(tokenizer))
    sees = model.config.vision_config is not None
    encode = Encoder(tokenizer, Processor.from_folder(run / "tokenizer", model.config.vision_config))
    begin_as_a_memory(model, recipe.half_lives)
    spell_alike(model, tokenizer, recipe.spellings)
    teacher = Teacher(tokenizer, model.config.text_config.hidden_size)
    optimizers = optimizers_for(model, teacher, matrix_pace=recipe.matrix_pace, tower_pace=recipe.tower_pace)
    first, seconds, log = 0, 0.0, []
    curriculum = Curriculum()
    if saved := None if restart else kept(run, recipe.to_dict(), may_change=("lr",)):
        model.load_state_dict(saved["model"])
        teacher.load_state_dict(saved["teacher"])
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        average, first, seconds, log = saved["average"], saved["step"], saved["seconds"], saved["log"]
        curriculum = Curriculum(**saved["curriculum"])
        print(f"{run} holds this run at step {first}: it goes on from there.")
    else:
        started = time.perf_counter()
        if sees:
            look_first(model, teacher, encode.processor, recipe, run)
        seconds = time.perf_counter() - started
        average = {name: p.detach().clone() for name, p in model.named_parameters()}

    def snapshot(step):
        keep(run, recipe.to_dict(), {
            "model": model.state_dict(), "teacher": teacher.state_dict(), "average": average,
            "optimizers": [optimizer.state_dict() for optimizer in optimizers], "step": step, "seconds": seconds,
            "log": log, "curriculum": vars(curriculum)})

    model.train()
    bar = tqdm(range(first, recipe.steps), initial=first, total=recipe.steps, unit="step", disable=None)
    for step in bar:
        started = time.perf_counter()
        rng = Random(f"{recipe.seed} {step}")
        phase = recipe.phases[curriculum.phase]
        samples = phase_samples(rng, phase, recipe, curriculum.most_facts)
        batches = encode.batches(samples, area=recipe.tokens)
        loss = step_losses(model, batches, recipe.weights | phase.weights, recipe, phase.drafts)
        if sees:
            teaching = taught(model, teacher, encode.processor, rng, unnamed=True)
            teaching.backward()
            loss["teacher"] = teaching.item()
        lr = schedule(step, recipe.steps, recipe.lr)
        with may_diverge(run, recipe.lr, f"step {step + 1}"):
            norm = step_all(optimizers, lr)
        with torch.no_grad():                           # an average over the last hundred steps or so is what is kept
            for name, p in model.named_parameters():
                average[name].lerp_(p, max(0.01, 1 / (step + 1)))
        seconds += time.perf_counter() - started
        row = {"step": step + 1, "seconds": round(seconds, 1), "lr": lr, "phase": phase.name,
               "most facts": curriculum.most_facts, "gradient norm": norm,
               **{f"loss {name}": x for name, x in loss.items()}}
        curriculum.go_on(loss, recipe)
        last = step + 1 == recipe.steps
        if last or (step + 1) % probe_every == 0:
            row |= probe(model, encode)
            bar.write("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
        if last or (step + 1) % 10 == 0:
            log.append(row)
        bar.set_postfix({name: f"{x:.2f}" for name, x in loss.items()})
        if (step + 1) % keep_every == 0:
            snapshot(step + 1)
    snapshot(recipe.steps)

    model.load_state_dict(average, strict=False)
    with writing(out):
        finish(model, out, recipe, log)


def finish(model: Qwen, out: Path, recipe: Recipe, log: list[dict]) -> None:
    """Weights, tokenizer, log and recipe, into the folder that ships."""
    save_model(model.eval(), out, overwrite=True)
    save_tokenizer(out, media=model.config.vision_config is not None)
    write_csv(out / "training.csv", log)
    options = " ".join(f"--{name} {getattr(recipe, name)}" for name in OPTIONS)
    which = " --experts" * (model.config.text_config.num_experts > 0)
    facts = {"command": f"python -m minqwen.nano.train{which} {options}", "seconds": log[-1]["seconds"],
             "threads": torch.get_num_threads(), "torch": torch.__version__, "recipe": recipe.to_dict()}
    write_whole(out / "training.json", (json.dumps(facts, indent=2) + "\n").encode())


OPTIONS = {                                              # of the command: what they are. All else is the recipe's.
    "seed": "", "looks": "steps of the tower by itself, before", "steps": "", "lr": "the highest learning rate",
    "tokens": "tokens of stories and sums in a step, about",
    "pictures": "pictures in a step, at last, and 3/8 as many clips",
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, words in OPTIONS.items():
        default, other = getattr(Recipe(), name), getattr(EXPERTS, name)
        parser.add_argument(f"--{name}", type=type(default), default=argparse.SUPPRESS, help=(
            f"{words} (default: {default}, with --experts {other}; or that of the run that is resumed)"))
    parser.add_argument("--experts", action="store_true", help="the mixture of experts of data/nano_moe instead")
    parser.add_argument("--probe-every", type=int, default=200, metavar="STEPS")
    parser.add_argument("--keep-every", type=int, default=100, metavar="STEPS", help="where an interrupted run resumes")
    parser.add_argument("--run", type=Path, help="where a run keeps its place (default: runs/nano, or runs/nano_moe)")
    parser.add_argument("--out", type=Path, help="where the model goes (default: data/nano, or data/nano_moe)")
    parser.add_argument("--restart", action="store_true", help="forget a run that was interrupted")
    args = vars(parser.parse_args(arguments))
    chosen = {name: args.pop(name) for name in OPTIONS if name in args}
    name, recipe, config = (("nano_moe", EXPERTS, mixture_config) if args.pop("experts") else
                            ("nano", Recipe(), nano_config))
    run, out = args.pop("run") or ROOT / "runs" / name, args.pop("out") or ROOT / "data" / name
    try:
        check_place(run, "--run")
        check_place(out)
        if before := None if args["restart"] else begun(run):
            recipe = Recipe.from_dict(before)           # what it began with
        train(replace(recipe, **chosen), run, out, config=config, **args)
    except QwenError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
