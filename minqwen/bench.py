"""What a user calls, beside `transformers` on this machine: `make bench`, `minqwen bench`, `python -m minqwen.bench`.

One folder, which `transformers` has saved: Qwen3.5-0.8B's shape, whole vocabulary and vision tower, random weights.
Each side loads it its own way (`minqwen.load`, `from_pretrained`) and generates its own way (`minqwen.generate`,
`.generate`), so that the two share nothing, and each has its tensors and settings as its users have them. Prompts,
pads and a picture's pixels are made once and given to both. No text ends early: the folder names no token for that.

To decode after a long prompt, each side reads it once into a cache and then goes on from there, a few tokens a call, as
one does in a chat: so neither pays the prompt each time.

Seconds say little on a machine that does other things as well. So both are timed by turns, a call of ours and a call
of theirs, and what counts is the median of the ratios of neighbours: whatever slows the machine down slows down both.
How far to trust it say the quartiles of these ratios.

Drafts by the multi-token head are held against our own plain decoding, in tokens of each pass of the model and in time:
nano's say the same. What the rest of it costs shows on a model that is bound by reading its weights, with a drafter
made for that, who is always right.

The delta rule has rows of its own. Ordinary and strong gates are apart there: where memories are wiped at once (log
decays to -50), products underflow to denormal numbers, whose arithmetic is several times slower on a CPU.
"""

import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

from . import llama_cpp
from .cache import Cache
from .chat import NANO
from .checkpoint import KEPT_FLOAT32, load_config, usable_device
from .config import Config
from .delta_rule import chunk_gated_delta_rule, recurrent_gated_delta_rule
from .drafts import Drafter, Speculation
from .errors import QwenError
from .generate import generate, prefill
from .model import Qwen
from .sampling import Choice
from .verify import for_transformers, official_class, official_modules, official_twin, random_prompt

LAYERS = 18                                              # Gated DeltaNet layers of the 0.8B
UNITS = {"ms": lambda seconds: 1e3 * seconds, "tokens/s": lambda seconds: 1 / seconds, "GB": lambda n: n / 1e9,
         "tokens/pass": lambda passes: 1 / passes}
SAMPLING = {"temperature": 1.0, "top_k": 20, "top_p": 0.95}                           # as the model card has it
LENGTHS = [[12], [60], [19], [47], [26], [33], [40], [53]]                            # of the prompts in a batch


# -------------------------------------------------------------------------------------------------------- comparisons


@dataclass(frozen=True)
class Row:
    """One comparison, by turns.

    aim:     how many times as much theirs should take at least.
    measure: gives the pairs; nothing is made or loaded before.
    pairs:   what (ours, theirs) took in each round, in seconds or bytes.
    """

    what: str
    aim: float = 1.0
    unit: str = "ms"
    measure: Callable[[], list[tuple]] | None = None
    pairs: list[tuple[float, float]] = ()

    def measured(self) -> "Row":
        return replace(self, pairs=self.measure())

    def cells(self) -> list[str]:
        """As they stand under `HEADINGS`."""
        ratios = [theirs / ours for ours, theirs in self.pairs]
        low, ratio, high = quantiles(ratios * 2 if len(ratios) == 1 else ratios, method="inclusive")
        ours, theirs = (f"{UNITS[self.unit](median(side)):,.2f}" for side in zip(*self.pairs, strict=True))
        aim = f"{self.aim:.2f} {'✓' if ratio >= self.aim else '✗'}"
        return [self.what, f"{ratio:.2f}", f"{low:.2f} to {high:.2f}", aim, ours, theirs, self.unit]

    def __str__(self) -> str:
        return _line(self.cells())


HEADINGS = ["", "ratio", "half of them", "at least", "minqwen", "transformers", ""]
DRAFTED = ["", "ratio", "half of them", "at least", "drafted", "plain", ""]
QUANTIZED = ["", "ratio", "half of them", "at least", "few bits", "bfloat16", ""]
LLAMA_CPP = ["", "ratio", "half of them", "at least", "minqwen", "llama.cpp", ""]


def _line(cells: list[str]) -> str:
    what, ratio, spread, aim, ours, theirs, unit = cells
    return f"{what:<62}{ratio:>6}  {spread:>14}  {aim:>8}{ours:>12}{theirs:>14}  {unit}".rstrip()


def table(rows: list[Row], headings: list[str] = HEADINGS) -> str:
    """The same for a README, in Markdown."""
    cells = [headings, ["---", *["---:"] * 5, "---"], *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in cells)


def by_turns(ours: Callable, theirs: Callable, rounds: int, figure: Callable | None = None) -> list[tuple]:
    """(ours, theirs) of each round, after one that does not count; who goes first changes every round.

    figure: what a call comes to; None takes the seconds that it took.
    """

    def seconds(call):
        start = perf_counter()
        call()
        return perf_counter() - start

    figure, pairs = figure or seconds, []
    for n in range(rounds + 1):
        both = {call: figure(call) for call in ((ours, theirs) if n % 2 else (theirs, ours))}
        pairs.append((both[ours], both[theirs]))
    return pairs[1:]


# ----------------------------------------------------------------------------------------------------- the delta rule


def rule_inputs(T: int, Hk: int, Hv: int, strong: bool = False) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """([q, k, v], {g, beta}) of one row, heads 128 wide. Ordinary gates are a fresh model's, strong ones go to -50."""
    random = torch.Generator().manual_seed(T + Hv)
    q, k = torch.randn(2, 1, T, Hk, 128, generator=random)
    v, u = torch.randn(1, T, Hv, 128, generator=random), torch.rand(2, 1, T, Hv, generator=random)
    g = -50 * u[0] if strong else -(1 + 15 * u[0]) * 10 ** (-3 + 2 * u[1])               # -A dt, as `init_weights` has
    return [q, k, v], {"g": g, "beta": torch.rand(1, T, Hv, generator=random)}


def chunked(T: int, Hk: int, Hv: int, strong: bool, rounds: int) -> list[tuple]:
    """A prompt of T tokens through one layer's rule."""
    x, gates = rule_inputs(T, Hk, Hv, strong)
    options = {"output_final_state": True, "use_qk_l2norm_in_kernel": True}
    official = official_modules().torch_chunk_gated_delta_rule
    return by_turns(*(partial(rule, *x, **gates, **options) for rule in (chunk_gated_delta_rule, official)), rounds)


def learning(T: int, Hk: int, Hv: int, rounds: int) -> list[tuple]:
    """The same and back: the gradients of q, k, v, g and beta."""
    x, gates = rule_inputs(T, Hk, Hv)
    leaves, weights = [t.requires_grad_() for t in (*x, *gates.values())], torch.ones_like(x[2])

    @torch.enable_grad()
    def there_and_back(rule):
        o, _ = rule(*x, **gates, use_qk_l2norm_in_kernel=True)
        return torch.autograd.grad(o, leaves, weights)

    official = official_modules().torch_chunk_gated_delta_rule
    return by_turns(*(partial(there_and_back, rule) for rule in (chunk_gated_delta_rule, official)), rounds)


def decoding(Hk: int, Hv: int, rounds: int) -> list[tuple]:
    """One token through the rule of all layers, as each decodes: ours writes into the state, theirs is copied there."""
    x, gates = rule_inputs(1, Hk, Hv)
    states, official_states = (list(torch.zeros(2, LAYERS, 1, Hv, 128, 128)[i]) for i in range(2))
    options = {"output_final_state": True, "use_qk_l2norm_in_kernel": True}
    official = official_modules().torch_recurrent_gated_delta_rule

    def ours():
        for state in states:
            recurrent_gated_delta_rule(*x, **gates, initial_state=state, inplace_final_state=True, **options)

    def theirs():
        for state in official_states:
            state.copy_(official(*x, **gates, initial_state=state, **options)[1])

    return by_turns(ours, theirs, rounds)


# -------------------------------------------------------------------------------------------------------- whole models


def shape(layers: int, dtype: str) -> Config:
    """Qwen3.5-0.8B's, with as many layers as are wanted, and with no token that ends a text."""
    official = Config.named("Qwen3.5-0.8B")
    text = replace(official.text_config, num_hidden_layers=layers, layer_types=None, mtp_num_hidden_layers=0,
                   eos_token_id=None, dtype=dtype)
    return replace(official, text_config=text)


def mixture(dtype: str) -> Config:
    """Qwen3.5-35B-A3B's, cut to a size that two cores read: 4 layers of half its width, 32 experts, 8 for a token."""
    official = Config.named("Qwen3.5-35B-A3B")
    text = replace(official.text_config, num_hidden_layers=4, layer_types=None, mtp_num_hidden_layers=0,
                   eos_token_id=None, dtype=dtype, hidden_size=1024, num_experts=32)
    vision = replace(official.vision_config, depth=1, out_hidden_size=1024)
    return replace(official, text_config=text, vision_config=vision)


def make_folder(config: Config, folder: Path) -> Path:
    """A checkpoint of random weights that `transformers` saves, in the dtype that `config` names.

    As the checkpoints are published, two small tensors of each Gated DeltaNet are float32 whatever the others are.
    """
    qwen = Qwen(config).requires_grad_(False)
    for name, parameter in qwen.named_parameters():
        if not name.endswith(KEPT_FLOAT32):
            parameter.data = parameter.data.to(getattr(torch, config.text_config.dtype))
    official_twin(qwen, pictures=True).save_pretrained(folder)
    return folder


class Ours:
    """A folder and what a user of this package calls with it."""

    def __init__(self, folder: Path, device: str = "cpu", bits: int | None = None):
        import minqwen

        self.model = minqwen.load(folder, device=device, bits=bits).model

    def answer(self, inputs: dict, new: int, **options) -> list[list[int]]:
        """The new tokens of each row: the likeliest ones, unless options say how to draw them."""
        return generate(self.model, **inputs, max_new_tokens=new, **options)

    def begin(self, inputs: dict, room: int) -> None:
        """Read a prompt, to `go_on` from it for as many tokens as there is room."""
        self.cache = self.model.new_cache(1, inputs["input_ids"].shape[1] + room)
        self.said = self.answer(inputs, 1, cache=self.cache)[0]

    def go_on(self, new: int, **options) -> None:
        self.said += self.answer({"input_ids": torch.tensor([self.said[-1:]])}, new, cache=self.cache, **options)[0]


class Theirs:
    """A folder and what a user of `transformers` calls with it. The methods are those of `Ours`.

    options: of `from_pretrained`.
    """

    def __init__(self, folder: Path, device: str = "cpu", **options):
        official = official_class(load_config(folder), "ForConditionalGeneration")
        self.model = official.from_pretrained(folder, dtype="auto", **options).to(device)

    def _generate(self, inputs, new, **options):
        return self.model.generate(**inputs, max_new_tokens=new, do_sample="temperature" in options, **options)

    def answer(self, inputs, new, **options):
        ids = self._generate(for_transformers(self.model.config, inputs), new, **options)
        return ids[:, inputs["input_ids"].shape[1]:].tolist()

    def begin(self, inputs, room):
        read = self._generate(inputs, 1, return_dict_in_generate=True)
        self.ids, self.cache, self.prompt = read.sequences, read.past_key_values, inputs["input_ids"].shape[1]

    def go_on(self, new, **options):
        inputs = {"input_ids": self.ids, "attention_mask": torch.ones_like(self.ids), "past_key_values": self.cache}
        self.ids = self._generate(inputs, new, **options)

    @property
    def said(self):
        return self.ids[0, self.prompt:].tolist()


class Pair:
    """A folder that is made when it is first needed, and both sides of it: each loads it by itself."""

    def __init__(self, config: Config, folder: Path, device: str = "cpu"):
        self.config, self._folder, self.device = config, folder, device

    @cached_property
    def folder(self) -> Path:
        return make_folder(self.config, self._folder)

    @cached_property
    def sides(self) -> tuple[Ours, Theirs]:
        return Ours(self.folder, self.device), Theirs(self.folder, self.device)

    def prompt(self, *rows: list) -> dict:
        """What both are given: see `verify.random_prompt`. A mask is always there, as processors give it."""
        inputs = random_prompt(self.config, *rows, random=torch.Generator().manual_seed(0))
        inputs = {"attention_mask": torch.ones_like(inputs["input_ids"])} | inputs
        return {name: x.to(self.device) for name, x in inputs.items()}

    def answering(self, rounds: int, *rows: list, new: int = 1) -> list[tuple]:
        """From a prompt to `new` tokens."""
        inputs = self.prompt(*rows)
        return by_turns(*(partial(side.answer, inputs, new) for side in self.sides), rounds)

    def going_on(self, rounds: int, context: int, new: int = 8, sampling: dict | None = None, **ours: float):
        """A token behind `context` others and those that came meanwhile; the prompt is read before, and not counted.

        sampling: how to draw; the likeliest token otherwise. ours: what only our side knows of that.
        """
        for side in self.sides:
            side.begin(self.prompt([context]), room=(rounds + 1) * new)
        options = sampling or {}
        calls = (partial(side.go_on, new, **options, **more) for side, more in zip(self.sides, (ours, {}), strict=True))
        return [(a / new, b / new) for a, b in by_turns(*calls, rounds)]

    def loading(self, rounds: int, new: int) -> list[tuple]:
        """The folder to a model, and to its first token if there is one."""
        inputs = self.prompt([64])

        def load(side):
            model = side(self.folder, self.device)
            if new:
                model.answer(inputs, new)

        return by_turns(partial(load, Ours), partial(load, Theirs), rounds)

    def memory(self, rounds: int) -> list[tuple]:
        """The most bytes that a process of its own holds which loads the folder and gives one token."""

        def peak(side):
            code = (f"import torch\nfrom minqwen.bench import {side}, peak_memory\n"
                    f"ids = torch.ones(1, 64, dtype=torch.long, device={self.device!r})\n"
                    f"{side}({str(self.folder)!r}, {self.device!r}).answer({{'input_ids': ids}}, 1)\n"
                    f"print(peak_memory({self.device!r}))")
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            if done.returncode:
                raise QwenError(f"The process that was to be weighed failed: {done.stderr.strip()[-300:]}")
            return int(done.stdout.split()[-1])

        return by_turns("Ours", "Theirs", rounds, figure=peak)


def peak_memory(device: str = "cpu") -> int:
    """The most bytes that this process has held so far. Linux hands `ru_maxrss` on from a parent: VmHWM it does not."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    try:
        import resource
    except ImportError:
        raise QwenError("Windows does not tell what a process held at most: leave the rows of memory out.") from None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ------------------------------------------------------------------------------------------------------------- drafts


QUESTIONS = [f"{story} What does {name} have?" for name in ("Ann", "Bob", "Cid") for story in (
    "Ann has a red cup. Bob has a blue hat. Cid has a gold key.",
    "Cid has a green ball. Ann has a black book. Bob has a red lamp. Ann now has a blue key.")]
QUESTIONS += [f"What is {a} + {b}?" for a, b in ((12, 30), (48, 37), (105, 9), (250, 250), (381, 446), (7, 8))]


class Foresight(Drafter):
    """Drafts what it was told beforehand, row by row, and is always right. It costs nothing."""

    def __init__(self, model: Qwen, cache: Cache, told: list[list[int]]):
        self.model, self.cache, self.told, self.said = model, cache, told, [0] * len(told)

    def follow(self, given):
        self.said = [said + len(ids) for said, ids in zip(self.said, given, strict=True)]

    def draft(self, n, choose):
        rows = [told[said : said + n] for told, said in zip(self.told, self.said, strict=True)]
        return torch.tensor(rows, device=self.cache.positions.device)


class Hindsight(Foresight):
    """The same for the price of the model's own head, which hears and guesses - and is not listened to."""

    def __init__(self, model, cache, told):
        super().__init__(model, cache, told)
        self.head = Drafter(model, cache)

    def follow(self, given):
        super().follow(given)
        self.head.follow(given)

    def draft(self, n, choose):
        self.head.draft(n, choose)
        return super().draft(n, choose)


def of_nano(k: int, rounds: int | None = None) -> list[tuple]:
    """Nano's answers, with thinking and without, one by one: what a token takes with k drafts, and plainly.

    rounds: to take the seconds, prompts and all; None counts the passes of the model behind the prompt.
    """
    import minqwen

    qwen, passes = minqwen.load(), []
    prompts = [[qwen.inputs(question, thinking).ids] for question in QUESTIONS for thinking in (False, True)]
    answer = partial(generate, qwen.model, max_new_tokens=200, stop_ids=qwen.tokenizer.stop_ids)
    plain = [answer(ids)[0] for ids in prompts]
    if [answer(ids, draft_tokens=k, passes=passes)[0] for ids in prompts] != plain:
        raise QwenError("With drafts nano says something else than without: there is a mistake.")
    if rounds is None:
        behind = [len(one.given) for one in passes if one.drafted]
        return [(len(behind) / sum(behind), 1.0)]

    def all_answers(**options):
        for ids in prompts:
            answer(ids, **options)

    tokens = sum(map(len, plain))
    return [(a / tokens, b / tokens) for a, b in by_turns(partial(all_answers, draft_tokens=k), all_answers, rounds)]


class Foreseen:
    """A model of random weights, made when it is first needed, and what it says behind a prompt of 32 tokens."""

    def __init__(self, config: Config, new: int = 24, device: str = "cpu"):
        self.config, self.new, self.device = config, new, device

    @cached_property
    def model(self) -> Qwen:
        dtype = getattr(torch, self.config.text_config.dtype)
        return Qwen(self.config).requires_grad_(False).to(self.device, dtype)

    @cached_property
    def prompt(self) -> torch.Tensor:
        return random_prompt(self.config, [32], random=torch.Generator().manual_seed(0))["input_ids"].to(self.device)

    @cached_property
    def told(self) -> list[list[int]]:
        return generate(self.model, self.prompt, max_new_tokens=self.new)

    def decoding(self, kind: type[Foresight], k: int, rounds: int) -> list[tuple]:
        """A token with k drafts for each pass, and plainly. The prompt is read before, all but its last token.

        Random weights hardly prefer one token to the next, and in bfloat16 a pass over several tokens rounds otherwise
        than one over a single token: what such passes say is found out first, so that the drafter is right indeed.
        """
        model, last, cache = self.model, self.prompt[:, -1:], self.model.new_cache(1, 32 + self.new)
        told = list(self.told)
        prefill(model, self.prompt[:, :-1], cache)
        behind_the_prompt = cache.snapshot()

        def drafted():
            cache.restore(behind_the_prompt)
            drafter = kind(model, cache, told)
            choice = Choice(last, torch.ones_like(last), self.config.text_config.vocab_size)
            steps = Speculation(drafter, choice, [self.new], set()).steps(prefill(model, last, cache), k)
            return [id for (id,) in steps]

        while [said := drafted()] != told:               # each time right for one pass more, at least
            told[0] = said

        def plain():
            cache.restore(behind_the_prompt)
            return generate(model, last, cache=cache, max_new_tokens=self.new)[0]

        return [(a / self.new, b / self.new) for a, b in by_turns(drafted, plain, rounds)]


# ------------------------------------------------------------------------------------------------------------- the run


def rule_rows(rounds: int) -> Iterator[Row]:
    for Hk, Hv in ((16, 16), (16, 32)):
        for T, times, aim in ((64, 8, 1.5), (512, 4, 2.5), (2048, 1, 2.5), (8192, 1, 2.5)):
            for gates in ("ordinary", "strong"):
                yield Row(f"delta rule, {T:,} tokens, {Hk}:{Hv} heads, {gates} gates", aim,
                          measure=partial(chunked, T, Hk, Hv, gates == "strong", times * rounds))
        for T in (512, 2048):
            yield Row(f"delta rule, {T:,} tokens, {Hk}:{Hv} heads, forward and backward", 1.5,
                      measure=partial(learning, T, Hk, Hv, rounds))
        yield Row(f"delta rule, decoding, {LAYERS} layers, {Hk}:{Hv} heads", 2.0,
                  measure=partial(decoding, Hk, Hv, 8 * rounds))


def model_rows(pair: Pair, rounds: int) -> Iterator[Row]:
    dtype = pair.config.text_config.dtype
    full = dtype == "float32"                            # the aims differ: there is more to gain in bfloat16

    def row(what, measure, *arguments, aim=1.0, unit="ms", **options):
        return Row(f"{dtype}, {what}", aim, unit, partial(measure, rounds, *arguments, **options))

    yield row("peak memory", pair.memory, unit="GB")
    yield row("load", pair.loading, 0)
    yield row("load, and the first token after 64", pair.loading, 1)
    for T, aim in ((64, 1.0), (512, 1.3), (2048, 1.3)):
        yield row(f"first token after {T:,}", pair.answering, [T], aim=1.1 if full else aim)
    for side in (512, 1024):
        picture = (side // 16, side // 16)
        yield row(f"first token after a picture of {side} x {side}", pair.answering, [8, picture, 8], aim=1.3)
    for new in (8, 16) if pair.device == "cpu" else (64,):
        yield row(f"8 rows of 12 to 60 tokens, {new} new each", pair.answering, *LENGTHS, new=new, aim=1.3)
    new = 8 if pair.device == "cpu" else 64
    for context, aim in ((32, 1.15), (4096, 1.3)):
        yield row(f"decoding after {context:,}", pair.going_on, context, new=new, unit="tokens/s",
                  aim=aim if full else 1.4)
    sampling = partial(row, measure=pair.going_on, context=32, new=new, sampling=SAMPLING, unit="tokens/s")
    yield sampling("sampling after 32")
    yield sampling("sampling after 32, ours with presence penalty", presence_penalty=1.5)


def all_rows(layers: int, rounds: int, folder: str | None = None, device: str = "cpu") -> Iterator[Row]:
    """Every row there is, to be measured one after the other: a folder goes when the next dtype's turn has come.

    On a GPU only whole models in bfloat16: its delta rule has a table of its own, see `make gpu`.
    """
    if device == "cpu":
        yield from rule_rows(2 * rounds)
    for dtype in ("bfloat16", "float32") if device == "cpu" else ("bfloat16",):
        with TemporaryDirectory(prefix="minqwen-bench-", dir=folder, ignore_cleanup_errors=True) as place:
            yield from model_rows(Pair(shape(layers, dtype), Path(place), device), rounds)


class LlamaCpp:
    """A folder and what a user of llama.cpp calls with it, in weights of so many bits. The methods are those of `Ours`.

    A vocabulary is needed to write its file, and none is ever read: nano's will do.
    """

    def __init__(self, folder: Path, bits: int):
        with TemporaryDirectory(prefix="minqwen-bench-", dir=folder) as place:
            for file in {*folder.glob("*.json"), *folder.glob("*.safetensors*")}:
                (Path(place) / file.name).symlink_to(file.resolve())
            for name in ("tokenizer.json", "tokenizer_config.json"):
                (Path(place) / name).symlink_to(NANO / name)
            file = llama_cpp.convert(place, folder / f"{bits}.gguf", bits)
        self.server = llama_cpp.serve(file, context=8192, threads=torch.get_num_threads())

    def answer(self, inputs, new, **options):
        return [self._complete(row, new, **options) for row in inputs["input_ids"].tolist()]

    def _complete(self, ids, new, **options):
        asked = {"prompt": ids, "n_predict": new, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        answer = self.server.handle_completions(asked | {"return_tokens": True, "verbose": True} | options)
        if "error" in answer:
            raise QwenError(f"llama.cpp: {answer['error']}")
        return answer["__verbose"]["tokens"]

    def begin(self, inputs, room):
        (self.ids,) = inputs["input_ids"].tolist()
        self.go_on(1)

    def go_on(self, new, **options):
        self.ids = self.ids + self._complete(self.ids, new, cache_prompt=True, **options)


class OtherSides(Pair):
    """The folder of another pair, loaded otherwise: a side is what its function gives when it is first needed."""

    def __init__(self, pair: Pair, ours: Callable, theirs: Callable):
        super().__init__(pair.config, None, pair.device)
        self.loaders = ours, theirs

    @cached_property
    def sides(self):
        return tuple(load() for load in self.loaders)


def few_bits(pair: Pair, bits: int) -> Ours:
    """Our side of its folder, in so many bits."""
    return Ours(pair.folder, pair.device, bits)


def few_bits_rows(pair: Pair, rounds: int) -> Iterator[Row]:
    """Weights of 8 and of 4 bits: each token sooner than in `transformers`, and a prompt no later than in ours."""
    for bits, aim in ((8, 1.5), (4, 2.2)):
        few = partial(few_bits, pair, bits)
        ours, theirs = (OtherSides(pair, few, lambda side=side: pair.sides[side]) for side in (0, 1))
        for context in (32, 4096):
            yield Row(f"{bits} bits, decoding after {context:,}, beside transformers", aim, "tokens/s",
                      partial(theirs.going_on, rounds, context))
        yield Row(f"{bits} bits, first token after 512, beside ours", 1.0, "ms", partial(ours.answering, rounds, [512]))


def in_place(rows: Callable, config: Config, rounds: int, folder: str | None, device: str) -> Iterator[Row]:
    """`rows` of a pair, whose folder is there for the while. On a CPU only."""
    if device == "cpu":
        with TemporaryDirectory(prefix="minqwen-bench-", dir=folder, ignore_cleanup_errors=True) as place:
            yield from rows(Pair(config, Path(place)), rounds)


def expert_rows(pair: Pair, rounds: int) -> Iterator[Row]:
    """A prompt through a mixture of experts, beside both ways that `transformers` has for them."""
    dtype = pair.config.text_config.dtype
    for way, aim in (("grouped_mm", 1.0), ("eager", 1.5)):                                 # eager: expert by expert
        both = OtherSides(pair, lambda: pair.sides[0],
                          lambda way=way: Theirs(pair.folder, pair.device, experts_implementation=way))
        yield Row(f"{dtype}, experts, first token after 512, beside {way}", aim, "ms",
                  partial(both.answering, rounds, [512]))


def llama_cpp_rows(pair: Pair, rounds: int) -> Iterator[Row]:
    """Weights of 8 and of 4 bits here and there."""
    for bits in (8, 4):
        both = OtherSides(pair, partial(few_bits, pair, bits), lambda bits=bits: LlamaCpp(pair.folder, bits))
        for context in (32, 4096):
            yield Row(f"{bits} bits, decoding after {context:,}, beside llama.cpp", 0.9, "tokens/s",
                      partial(both.going_on, rounds, context))
        yield Row(f"{bits} bits, first token after 512, beside llama.cpp", 0.9, "ms",
                  partial(both.answering, rounds, [512]))


def draft_rows(layers: int, rounds: int, device: str = "cpu") -> Iterator[Row]:
    """With drafts and without, both ours."""
    for k in range(1, 5) if device == "cpu" else ():
        yield Row(f"nano, {k} drafted", 2.5 if k == 3 else 1.0, "tokens/pass", partial(of_nano, k))
        yield Row(f"nano, {k} drafted, in time", 1.0, "tokens/s", partial(of_nano, k, rounds))
    for dtype in ("float32", "bfloat16"):
        config = shape(layers, dtype)
        config = replace(config, text_config=replace(config.text_config, mtp_num_hidden_layers=1))
        model = Foreseen(config, device=device)
        for kind, whose in ((Foresight, "for nothing"), (Hindsight, "at the price of a head")):
            for k in range(1, 5):
                aim = 1.8 if k == 3 and kind is Foresight else 1.0
                yield Row(f"{dtype}, {k} drafted rightly {whose}", aim, "tokens/s",
                          partial(model.decoding, kind, k, rounds))


def all_tables(layers: int, rounds: int, folder: str | None = None,
               device: str = "cpu") -> Iterator[tuple[list[str], Iterator[Row]]]:
    """(headings, rows) of everything that there is to measure. Folders are made where they are needed."""
    half = shape(layers, "bfloat16")
    yield HEADINGS, all_rows(layers, rounds, folder, device)
    for dtype in "bfloat16", "float32":
        yield HEADINGS, in_place(expert_rows, mixture(dtype), rounds, folder, device)
    yield QUANTIZED, in_place(few_bits_rows, half, rounds, folder, device)
    yield LLAMA_CPP, in_place(llama_cpp_rows, half, rounds, folder, device)
    yield DRAFTED, draft_rows(layers, rounds, device)


def machine(device: str = "cpu") -> str:
    """The processor, what it has for bfloat16, threads and versions: a ratio holds for these."""
    import transformers

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    if device != "cpu":
        return f"{torch.cuda.get_device_name(device)}, {versions}"
    cpuinfo = Path("/proc/cpuinfo")
    facts = dict(re.findall(r"(.*?)\s*:\s*(.*)", cpuinfo.read_text())) if cpuinfo.exists() else {}
    flags = facts.get("flags", facts.get("Features", "")).split()
    has = [name for flag, name in (("avx512f", "AVX-512"), ("avx512_bf16", "AVX512-BF16"), ("amx_bf16", "AMX"),
                                   ("bf16", "BF16")) if flag in flags]
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({', '.join(has) or 'nothing'} for bfloat16), {torch.get_num_threads()} threads, {versions}"


def run(quick: bool = False, only: str = "", layers: int | None = None, folder: str | None = None,
        device: str = "cpu", markdown: bool = False) -> list[Row]:
    """Time our calls and transformers' by turns, and print how many times faster ours are.

    Args:
        quick: fewer rounds, and 8 layers of the model's 24.
        only: measure the rows whose names this regular expression finds; those beside llama.cpp it has to name.
        layers: of the model.
        folder: where the checkpoint is made for the while: 3.5 GB in float32.
        device: "cpu", or "cuda" for a GPU.
        markdown: print the table once more at the end, for a README.
    """
    layers, rounds = layers or (8 if quick else 24), 3 if quick else 7
    device = str(usable_device(device))
    try:
        wanted = re.compile(only)
    except re.error as error:
        raise QwenError(f"{only!r} is no regular expression ({error}).") from None
    official_modules()                                   # complains now, if it is missing
    from transformers.utils import logging

    logging.disable_progress_bar()
    print(f"{machine(device)}\nwhole models: Qwen3.5-0.8B's shape, {layers} layers", flush=True)
    tables = []
    for headings, there_are in all_tables(layers, rounds, folder, device):
        if headings == LLAMA_CPP and "llama" not in only:
            continue
        rows = []
        for row in there_are:
            if wanted.search(row.what):
                if not rows:
                    print(f"\n{_line(headings)}", flush=True)
                rows.append(row.measured())
                print(rows[-1], flush=True)
        tables.append((rows, headings))
    if not any(rows for rows, _ in tables):
        raise QwenError(f"No row's name has {only!r} in it.")
    if markdown:
        print(*(f"\n{table(rows, headings)}" for rows, headings in tables if rows), sep="\n")
    return [row for rows, _ in tables for row in rows]


if __name__ == "__main__":
    from .cli import main

    sys.exit(main(["bench", *sys.argv[1:]]))
