"""From a prompt to new tokens.

A model only ever says how likely each token is to come next. The rest is a loop around it, and here are its parts:

    prefill             reads the prompt, many tokens at once, into the cache
    penalize, warp      bend the last logits: against repetition, towards the likely
    sample              draws the next token (for these see `sampling.py`)
    decode_one_token    reads that one, and so on

Or the multi-token head drafts a few tokens, and the model reads them all at once: see `drafts.py`.

`stream` runs the loop and gives every step's tokens as they come; `generate` collects them. A row's last token is
given but not read: to go on with the same cache, begin the next `input_ids` with it.

Symbols: B rows of the batch, T tokens of the prompt (pads included), V tokens of the vocabulary.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

from .cache import Cache, interrupts_held_back
from .drafts import Drafter, Pass, Speculation, check_drafts
from .errors import QwenError
from .graph import Decoder, fits_a_graph, lent_cache, on_gpu
from .model import Qwen
from .sampling import Choice, ThinkingBudget, no_numbers, penalize, sample, warp

__all__ = ["decode_one_token", "generate", "left_pad", "penalize", "prefill", "sample", "stream", "warp"]


def generate(model: Qwen, input_ids: "Tensor | Sequence[Sequence[int]]", attention_mask: Tensor | None = None,
             **options) -> list[list[int]]:
    """The new tokens of each row, the one it stopped at among them. Arguments and errors are those of `stream`."""
    known = list(inspect.signature(stream).parameters)[3:]
    if unknown := options.keys() - known:
        raise QwenError(f"generate has no option {min(unknown)!r}; it has {', '.join(known)}.")
    if not isinstance(input_ids, Tensor) and isinstance(input_ids, Iterable):
        input_ids = list(input_ids)                      # it is looked at twice
    steps = stream(model, input_ids, attention_mask, **options)
    rows = [[] for _ in input_ids]
    for step in steps:
        for row, id in zip(rows, step, strict=True):
            if id is not None:
                row.append(id)
    return rows


def stream(
    model: Qwen,
    input_ids: "Tensor | Sequence[Sequence[int]]",
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    presence_penalty: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop_ids: Iterable[int] = (),
    cache: Cache | None = None,
    thinking_budget: int | None = None,
    think_ids: tuple[int, int] | None = None,
    end_think_ids: Sequence[int] = (),
    prefill_chunk: int | None = None,
    draft_tokens: int = 0,
    passes: list[Pass] | None = None,
    logprobs: list[Tensor] | None = None,
    pixel_values: Tensor | None = None,
    image_grid_thw: Tensor | None = None,
    pixel_values_videos: Tensor | None = None,
    video_grid_thw: Tensor | None = None,
) -> Iterator[list[int | None]]:
    """Generate step by step: at each the new token of every row, None for a row that has stopped.

    A row stops by itself: at a stop id (which is given), after `max_new_tokens`, or where the context is full. The
    others do not notice. With drafts several steps come of one forward pass, and None also stands for a row to which
    fewer tokens came of it than to others. Ctrl-C waits for the end of the pass under way, so that the cache stays
    usable: `cache.length` says how many tokens were read.

    Args:
        input_ids: (B, T), or a list of B lists of ids, which may differ in length.
        attention_mask: (B, T), 0 = padding, on the left.
        max_new_tokens: of each row, at most.
        stop_ids: ids that end a row, such as `qwen.tokenizer.stop_ids`; none of its own accord.
        temperature, top_k, top_p, min_p: see `warp`; temperature 0 takes the likeliest token always.
        presence_penalty, repetition_penalty: see `penalize`; they count the tokens of this call.
        seed: the same seed draws the same tokens; torch's own random state is neither read nor changed.
        cache: from `model.new_cache`, to go on from what it holds and to keep what is read now.
        thinking_budget: after so many tokens inside of a think block ...
        end_think_ids: ... these are written, and then the answer goes on. Only `</think>` if not given.
        think_ids: the ids of `<think>` and `</think>`.
        prefill_chunk: read the prompt in pieces of so many tokens: less memory, and Ctrl-C works between them; None: of
            512 on a CPU, and of 8,192 on a GPU, where a piece of 512 is over before the next one is launched.
        draft_tokens: so many tokens are drafted for each forward pass by the multi-token head. The likeliest tokens
            are the same as without, in float32 at least: in bfloat16 the logits of one token and of several round
            differently, and where two are nearly equal the other may come. Drawn tokens are distributed as without,
            but a seed draws others. In a batch a cache needs room for draft_tokens + 1 tokens more.
        passes: a list, to which a `Pass` of each row is added for each forward pass; with draft_tokens only.
        logprobs: a list, to which each step adds how likely its tokens were, (B,): the natural logarithms of the
            model's own probabilities, at temperature 1 and before penalties; without draft_tokens only. What stands
            there for a row that has stopped means nothing.
        pixel_values, image_grid_thw: the prompt's pictures, those of the first row first; see `Qwen.embed`.
        pixel_values_videos, video_grid_thw: its clips, likewise.

    Raises:
        QwenError: a prompt, its pictures or a number that cannot be; raised here, before the first step.
    """
    if not isinstance(model, Qwen):
        raise QwenError(f"To generate takes the model itself, such as qwen.model, and not the {type(model).__name__}; "
                        f"to talk there is qwen.chat.")
    max_new_tokens, top_k = number("max_new_tokens", max_new_tokens), number("top_k", top_k)
    temperature, top_p, min_p = number("temperature", temperature), number("top_p", top_p), number("min_p", min_p)
    presence_penalty = number("presence_penalty", presence_penalty)
    repetition_penalty = number("repetition_penalty", repetition_penalty)
    seed, prefill_chunk = number("seed", seed), number("prefill_chunk", prefill_chunk)
    if draft_tokens := number("draft_tokens", draft_tokens):
        check_drafts(model)
        if logprobs is not None:
            raise QwenError("Logprobs are recorded without drafts only: leave draft_tokens out, or logprobs.")
    elif passes is not None:
        raise QwenError("Only passes with drafts are recorded: give draft_tokens, too, or leave passes out.")
    budget, stops = number("thinking_budget", thinking_budget), set(_ids("stop_ids", stop_ids))
    end_think_ids, think_ids = _ids("end_think_ids", end_think_ids), tuple(_ids("think_ids", think_ids or ()))
    if budget is not None and len(think_ids) != 2:
        raise QwenError("This cannot be generated: a thinking_budget needs think_ids, the ids of <think> and </think>.")
    if not isinstance(input_ids, Tensor):
        if attention_mask is not None:
            raise QwenError("An attention_mask goes with a tensor of input_ids; lists of ids are padded for you.")
        rows = list(input_ids) if isinstance(input_ids, Iterable) else [input_ids]
        input_ids, attention_mask = left_pad([_ids("each row of input_ids", row) for row in rows])
    device = model.head_weight.device
    input_ids = input_ids.to(device)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(device)
    _check_prompt(model, input_ids, mask)
    input_ids = input_ids.long()
    pictures = {"pixel_values": pixel_values, "image_grid_thw": image_grid_thw,
                "pixel_values_videos": pixel_values_videos, "video_grid_thw": video_grid_thw}
    pictures = {name: x for name, x in pictures.items() if x is not None}
    _check_pictures(model, input_ids, mask, pictures)

    B, T = input_ids.shape
    lengths = mask.sum(-1)                               # tokens, of which there are more than positions
    if cache is not None:
        lengths = lengths + cache.valid[:, : cache.length].sum(-1).to(device)
    context = model.config.text_config.max_position_embeddings
    if lengths.max() > context:
        raise QwenError(f"The prompt has {lengths.max()} tokens, but the model's context holds {context}: shorten it.")
    limits = [min(max_new_tokens, context - length) for length in lengths.tolist()]
    # with drafts rows come to their ends apart, and one may go on where the longest has ended
    room = T + max(limits) + (min(draft_tokens, max(limits)) + 1 if draft_tokens and B > 1 else 0)
    if cache is not None and cache.length + room - 1 > cache.max_length:
        raise QwenError(f"The cache holds {cache.length} of {cache.max_length} tokens; {T} of the prompt and "
                        f"{room - T} new ones do not fit: make it longer with model.new_cache(max_length=...).")
    budgets = None
    if budget is not None:
        prompts = [row[real].tolist() for row, real in zip(input_ids, mask.bool(), strict=True)]
        budgets = [ThinkingBudget(budget, think_ids, end_think_ids or think_ids[1:], prompt) for prompt in prompts]

    choice = Choice(input_ids, mask, model.config.text_config.vocab_size,
                    {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p},
                    {"presence_penalty": presence_penalty, "repetition_penalty": repetition_penalty}, seed, budgets)

    def run(cache):
        drafter = Drafter(model, cache) if draft_tokens else None
        logits = prefill(model, input_ids, cache, mask, prefill_chunk, **pictures)                  # (B, V)
        if drafter is not None:
            yield from Speculation(drafter, choice, limits, stops, passes).steps(logits, draft_tokens)
            return
        running = [limit > 0 for limit in limits]
        read = reader(model, cache)
        for step in range(1, max(limits) + 1):
            broken = ~logits.amax(-1).isfinite()                                                    # (B,)
            next_ids = choice(logits)                                                               # (B,)
            if logprobs is not None:
                logprobs.append(logits.float().log_softmax(-1).gather(-1, next_ids[:, None])[:, 0])
            ids = told(next_ids.masked_fill(broken, BROKEN))
            ahead = goes_ahead and step < max(limits)
            if ahead:                                    # the GPU has its next step before we know of this one
                logits = read(next_ids)
            ids = ids()
            if BROKEN in ids:
                raise no_numbers(model.head_weight.dtype)
            given = [id if runs else None for id, runs in zip(ids, running, strict=True)]
            running = [runs and id not in stops and step < limit
                       for id, runs, limit in zip(ids, running, limits, strict=True)]
            yield given
            if not any(running):
                return
            if not ahead:
                # what a row reads after its stop is never looked at, unless the cache lives on: then it reads nothing
                real = None if not keep_cache or all(running) else torch.tensor(running, device=device)
                logits = read(next_ids, real)

    keep_cache = cache is not None
    goes_ahead = on_gpu(model) and not keep_cache and budgets is None
    if keep_cache:
        return run(cache)

    def run_and_give_back():
        with lent_cache(model, B, room) as cache:
            yield from run(cache)

    return run_and_give_back()


# ------------------------------------------------------------------------------------------------ the parts of the loop


@torch.no_grad()
def prefill(model: Qwen, input_ids: Tensor, cache: Cache, attention_mask: Tensor | None = None,
            prefill_chunk: int | None = None, **pictures: Tensor) -> Tensor:
    """Read a prompt, (B, T), into the cache, piece by piece -> the logits of the token after it, (B, V).

    prefill_chunk, pictures: as in `stream`. Pictures are looked at first, all at once: a piece may end in the middle of
    one. Where a `Drafter` belongs to the cache, it reads along.
    """
    T, x, positions = input_ids.shape[1], None, None
    prefill_chunk = prefill_chunk or (8192 if on_gpu(model) else 512)
    drafter = None if cache.mtp is None else Drafter(model, cache)
    if pictures or drafter is not None:
        grids = pictures.get("image_grid_thw"), pictures.get("video_grid_thw")
        positions = model.positions(input_ids, attention_mask, *grids, cache)                  # (3, B, T)
        x = model.embed(input_ids, **pictures)                                                 # (B, T, hidden_size)
    for start in range(0, T, prefill_chunk):
        piece = slice(start, start + prefill_chunk)
        with interrupts_held_back():
            logits = model(input_ids[:, piece], cache=cache, logits_to_keep=1,
                           attention_mask=None if attention_mask is None else attention_mask[:, piece],
                           position_ids=None if positions is None else positions[..., piece],
                           inputs_embeds=None if x is None else x[:, piece])
            if drafter is not None:
                drafter.read_along(start, x, positions, attention_mask)
    return logits[:, -1]


@torch.no_grad()
def decode_one_token(model: Qwen, ids: Tensor, cache: Cache, real: Tensor | None = None) -> Tensor:
    """Read one token of each row, (B,), into the cache -> the logits of the one after it, (B, V).

    real: (B,) bool; a row that is False reads nothing.
    """
    with interrupts_held_back():
        return model(ids[:, None], attention_mask=None if real is None else real[:, None], cache=cache)[:, -1]


def reader(model: Qwen, cache: Cache) -> Callable[..., Tensor]:
    """How a token of each row is read, `read(ids, real)`: by one CUDA graph on a GPU, else by `decode_one_token`."""
    decoder = Decoder.of(model, cache) if on_gpu(model) and fits_a_graph(model) else None

    def read(ids, real=None):
        if decoder is None or real is not None:
            return decode_one_token(model, ids, cache, real)
        with interrupts_held_back():
            return decoder(ids)

    return read


BROKEN = -1                                              # the token where logits were no numbers


def told(ids: Tensor) -> Callable[[], list[int]]:
    """Asks for ids, (B,), without waiting: the list is there when it is called for, and a GPU goes on meanwhile."""
    if not ids.is_cuda:
        return ids.tolist
    copy, arrived = ids.to("cpu", non_blocking=True), torch.cuda.Event()
    arrived.record()

    def wait():
        arrived.synchronize()
        return copy.tolist()

    return wait


def left_pad(rows: Sequence[Sequence[int]], pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Lists of ids as one batch that ends flush: input_ids and attention_mask, both (B, T)."""
    T = max(map(len, rows), default=0)
    ids = torch.tensor([[pad_id] * (T - len(row)) + list(row) for row in rows], dtype=torch.long)
    mask = torch.tensor([[0] * (T - len(row)) + [1] * len(row) for row in rows], dtype=torch.long)
    return ids, mask


NUMBERS = {  # the numbers that `stream` takes: whole or not, which are allowed, and that in words
    "max_new_tokens": (int, lambda n: n >= 0, "0 or more"),
    "temperature": (float, lambda t: t == 0 or t >= 1e-6, "0 (the likeliest token), or 0.000001 or more"),
    "top_k": (int, lambda k: k >= 0, "1 or more, or 0 for all tokens"),
    "top_p": (float, lambda p: 0 < p <= 1, "above 0 and at most 1"),
    "min_p": (float, lambda p: 0 <= p <= 1, "from 0 to 1"),
    "presence_penalty": (float, lambda x: True, "any number"),
    "repetition_penalty": (float, lambda x: x > 0, "above 0, and is 1 for none"),
    "seed": (int | None, lambda n: -2**63 <= n < 2**64, "from -2**63 to 2**64 - 1"),
    "draft_tokens": (int, lambda n: n >= 0, "1 or more, or 0 for none"),
    "thinking_budget": (int | None, lambda n: n >= 0, "0 or more"),
    "prefill_chunk": (int | None, lambda n: n >= 1, "1 or more"),
}  # fmt: skip


def number(name: str, x, where: str = "This cannot be generated"):
    """An option of `stream` as the number that it must be: 20 of 20.0.

    Raises:
        QwenError: it is none, or out of its range. `where` says what it was for, or which file it is from.
    """
    kind, allowed, wanted = NUMBERS[name]
    if x is None and kind == int | None:
        return None
    whole = kind is not float
    if not isinstance(x, Real) or isinstance(x, bool) or not math.isfinite(x) or (whole and x != int(x)):
        raise QwenError(f"{where}: {name} must be a {'whole ' * whole}number, not {x!r:.60}.")
    if not allowed(x):
        raise QwenError(f"{where}: {name} must be {wanted}, not {x}.")
    return int(x) if whole else float(x)


def _ids(name: str, ids) -> list[int]:
    ids = ids.tolist() if isinstance(ids, Tensor) else ids
    ids = list(ids) if isinstance(ids, Iterable) else [None]
    if not all(isinstance(id, Integral) for id in ids):
        raise QwenError(f"This cannot be generated: {name} must be a list of token ids (whole numbers).")
    return list(map(int, ids))


def _check_prompt(model: Qwen, input_ids: Tensor, mask: Tensor) -> None:
    if input_ids.dtype not in (torch.int64, torch.int32):
        raise QwenError(f"A prompt is input_ids, whole numbers (int64), but these are {input_ids.dtype}.")
    if input_ids.dim() != 2 or input_ids.numel() == 0:
        raise QwenError(f"A prompt is input_ids (B, T), at least one token, but its shape is {tuple(input_ids.shape)}.")
    if mask.shape != input_ids.shape:
        raise QwenError(f"attention_mask must be {tuple(input_ids.shape)} like input_ids, but is {tuple(mask.shape)}.")
    if not mask[:, -1].all():
        raise QwenError("A prompt is empty or ends in padding, where the next token is to be guessed: pad on the left.")
    vocab_size = model.config.text_config.vocab_size
    if input_ids.min() < 0 or input_ids.max() >= vocab_size:
        raise QwenError(f"The prompt holds ids from {input_ids.min()} to {input_ids.max()}, but the vocabulary has "
                        f"{vocab_size}: use the model's own tokenizer.")


def _check_pictures(model: Qwen, input_ids: Tensor, mask: Tensor, pictures: dict[str, Tensor]) -> None:
    for pixels, grid in (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw")):
        if (pixels in pictures) != (grid in pictures):
            raise QwenError(f"{pixels} and {grid} belong together, but only one of them is given.")
        if pixels in pictures and len(pictures[pixels]) != pictures[grid].prod(-1).sum():
            raise QwenError(f"{pixels} has {len(pictures[pixels])} patches, but {grid} asks for "
                            f"{pictures[grid].prod(-1).sum()}.")
    try:
        model.positions(input_ids, mask, pictures.get("image_grid_thw"), pictures.get("video_grid_thw"))
    except ValueError as error:                          # of placeholders that do not fit; ours are QwenErrors
        raise QwenError(str(error)) from None
