"""To call a function that is given a config: it gets a copy, as of its tensors, and has to leave it as it is."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from ...config import TextConfig
from .. import judging


def call(mine: Callable, *given: Any) -> Any:
    """What `mine` returns, as `judging.call` has it; to change a config that it was given is wrong as well."""
    configs = [x for x in given if isinstance(x, TextConfig)]
    handed = [deepcopy(x) if isinstance(x, TextConfig) else x for x in given]
    result = judging.call(mine, *handed)
    judging.demand(configs == [x for x in handed if isinstance(x, TextConfig)],
                   "it changes config, which it was given: leave that as it is.")
    return result
