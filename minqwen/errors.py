"""The one error class of this package, its warnings, and JSON read so that the error is raised."""

import json
import math
import warnings
from numbers import Integral, Real
from pathlib import Path


class QwenError(ValueError):
    """Something the user gave us is wrong. The message is one sentence: what is wrong and what to do."""


def short(words):
    """Somebody else's words, or a value, for a sentence of ours: one line, and of a long one the beginning."""
    words = " ".join(str(words).split())
    return words if len(words) <= 120 else f"{words[:120]} ..."


def whole_number(name, x, least, most=math.inf):
    """The value as a whole number: 3 of numpy's 3. Raises QwenError if it is none, or out of its range."""
    if isinstance(x, bool) or not isinstance(x, Integral):
        raise QwenError(f"{name} must be a whole number, not {short(repr(x))}.")
    if not least <= x <= most:
        wanted = f"{least} or more" if most == math.inf else f"between {least} and {most}"
        raise QwenError(f"{name} must be {wanted}, not {x}.")
    return int(x)


def number_above_0(name, x):
    """The value. Raises QwenError unless it is a finite number above 0."""
    if isinstance(x, bool) or not isinstance(x, Real) or not 0 < x < math.inf:
        raise QwenError(f"{name} must be a number above 0, not {short(repr(x))}.")
    return x


def remark(sentence):
    """Warn in one line: `minqwen:0: UserWarning: ...`, with none of our code under it."""
    warnings.warn_explicit(sentence, UserWarning, filename="minqwen", lineno=0)


def read_json(path):
    """The object in a JSON file. A file that is missing, or holds something else, raises `QwenError`."""
    path = Path(path)
    if path.exists() and not path.is_file():  # a folder; or a device or a pipe, which may never end
        raise QwenError(f"{path} is no file; fetch or write it again.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise QwenError(f"{path} is missing.") from None
    except RecursionError:
        raise QwenError(f"{path} is nested too deeply to be read; fetch or write it again.") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number with thousands of digits
        raise QwenError(f"{path} is not valid JSON ({short(error)}); fetch or write it again.") from None
    if not isinstance(content, dict):
        raise QwenError(f"{path} should hold a JSON object, but holds a {type(content).__name__}.")
    return content
