"""The one error class of this package, and JSON read so that it is raised."""

import json
from pathlib import Path


class QwenError(ValueError):
    """Something the user gave us is wrong. The message is one sentence: what is wrong and what to do."""


def read_json(path):
    """The object in a JSON file. A file that is missing, or holds something else, raises `QwenError`."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise QwenError(f"{path} is missing.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise QwenError(f"{path} is not valid JSON ({error}); fetch or write it again.") from None
    if not isinstance(content, dict):
        raise QwenError(f"{path} should hold a JSON object, but holds a {type(content).__name__}.")
    return content
