"""What the checks of the exercises are made of. A check is a function that gets the learner's, and raises `Wrong`.

    @hints("where to look", "the idea", "nearly the code")
    def my_double(mine):
        '''twice as much, of any number'''
        x = torch.tensor([1.0, -2.0])
        compare(call(mine, x), 2 * x, {"these are the squares: add x to itself": x * x})

Its name is the exercise's, its docstring ends the line "✓ my_double: ..." of a learner who has got it right; behind it
stands how near the numbers were.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor

from ..verify import error

__all__ = ["Wrong", "apart", "call", "compare", "demand", "hints", "measuring", "near", "parts", "torch_as_found"]

SETTINGS = {                                            # torch's, for a whole session: how each is asked for, and set
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "whether torch records gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the number of torch's threads": (torch.get_num_threads, torch.set_num_threads),
}


class Wrong(AssertionError):
    """What is wrong with a learner's function, in one sentence. A notebook shows the sentence and no traceback."""

    def _render_traceback_(self) -> list[str]:          # IPython asks for this
        return [str(self)]


def hints(*levels: str) -> Callable:
    """Give a check its hints, three or so: where to look, the idea, nearly the code. None is the whole answer."""

    def decorate(check):
        check.hints = levels
        return check

    return decorate


def demand(condition: Any, sentence: str) -> None:
    """Raise `Wrong` with the sentence unless the condition holds."""
    if not condition:
        raise Wrong(sentence)


def call(mine: Callable, *given: Any, **named: Any) -> Any:
    """What `mine` returns. It is handed copies; to return nothing, or to change what it was given, is wrong."""
    signature = inspect.signature(mine)
    try:
        signature.bind(*given, **named)
    except TypeError as error:
        raise Wrong(f"its arguments are not those of the exercise ({error}).") from None
    handed, handed_names = _copy(given), _copy(named)
    result = mine(*handed, **handed_names)
    before = signature.bind(*given, **named).arguments
    after = signature.bind(*handed, **handed_names).arguments
    changed = " and ".join(name for name in before if not _same(before[name], after[name]))
    demand(not changed, f"it changes {changed}, which it was given: leave that as it is, and make a new one.")
    demand(result is not None and result is not ..., "it returns nothing: end it with `return`, and what it found.")
    return result


def compare(mine: Any, right: Tensor, slips: dict[str, Tensor] | None = None,
            otherwise: str = "", what: str = "what it returns", tolerance: float = 1e-4) -> None:
    """Raise `Wrong` unless `mine` is `right`: in shape, dtype, and every number.

    Args:
        slips: {sentence without full stop: what one gets by this mistake}. The first that fits is told.
        otherwise: the sentence where none of them fits; there is a plain one.
        what: the name of the result, where there are several.
        tolerance: the largest error that is allowed, over the largest number of `right`.
    """
    demand(isinstance(mine, Tensor), f"{what} should be a tensor, and not a {type(mine).__name__}.")
    ours, theirs = tuple(mine.shape), tuple(right.shape)
    demand(ours == theirs, f"{what} should have the shape {theirs}, and not {ours}.")
    demand(mine.dtype == right.dtype, f"{what} should be {right.dtype}, and not {mine.dtype}.")

    bound = tolerance if right.is_floating_point() and right.any() else 0
    if near(error(mine.double(), right.double()), bound):
        return

    def alike(wrong):
        return mine.shape == wrong.shape and torch.allclose(
            mine.double(), wrong.double(), rtol=0, atol=bound * right.double().abs().max().item(), equal_nan=True)

    for slip, wrong in (slips or {}).items():
        demand(not alike(wrong), f"{slip}.")
    missing = f"in {what} there are numbers missing (nan)." if mine.isnan().any() else ""
    raise Wrong(otherwise or missing or f"in {what} the numbers are not the right ones.")


_measured: ContextVar[list[tuple[float, float]] | None] = ContextVar("measured", default=None)


@contextmanager
def measuring() -> Iterator[list[tuple[float, float]]]:
    """What is found `near` meanwhile: the list gets its (error, bound), in order."""
    token = _measured.set([])
    try:
        yield _measured.get()
    finally:
        _measured.reset(token)


def near(off: float, bound: float) -> bool:
    """Is this error within its bound? `compare` asks, and a check of numbers that it compares by itself."""
    if off <= bound and (seen := _measured.get()) is not None:
        seen.append((off, bound))
    return off <= bound


def apart(a: float, b: float) -> float:
    """How far two numbers are apart, over the larger one of them, signs aside."""
    return abs(a - b) / (max(abs(a), abs(b)) or 1)


@contextmanager
def torch_as_found() -> Iterator[list[str]]:
    """Torch's settings and random numbers are afterwards as before. The list then says which settings had changed."""
    before, changed = {what: ask() for what, (ask, _) in SETTINGS.items()}, []
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            yield changed
    finally:
        for what, (ask, put) in SETTINGS.items():
            if ask() != before[what]:
                changed.append(what)
                put(before[what])


def parts(found: Any, *names: str) -> tuple:
    """`found` as a tuple of so many things; to return fewer, more, or another kind of thing is wrong."""
    wanted = ", ".join(names)
    demand(type(found) in (tuple, list), f"{len(names)} things are wanted: return {wanted}.")
    demand(len(found) == len(names), f"{len(names)} things are wanted, {wanted}, and not {len(found)}.")
    return tuple(found)


def _copy(x):
    if isinstance(x, Tensor):
        return x.clone()
    if isinstance(x, dict):
        return {name: _copy(value) for name, value in x.items()}
    if is_dataclass(x):                                  # a config
        return deepcopy(x)
    return type(x)(_copy(value) for value in x) if type(x) in (list, tuple) else x


def _same(a, b):
    if isinstance(a, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    if type(a) in (list, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a is b or a == b
