"""Qwen3.5 as one readable file, with its checkpoints, its insides, and a small trained model to try everything on.

    import minqwen
    qwen = minqwen.load()                   # the shipped model; or a folder, or "Qwen/Qwen3.5-0.8B"
    print(qwen.chat("Ann has a red cup. What does Ann have?"))

The names below are all there is to know to begin with; each has a docstring. They are imported when first used, so that
`import minqwen` itself is quick.
"""

import inspect
import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

HOME = {                                        # where each public name is defined
    "load": "chat", "Assistant": "chat", "Reply": "chat", "Conversation": "chat",
    "Config": "config", "Qwen": "model", "Cache": "cache",
    "from_transformers": "adopt",
    "load_config": "checkpoint", "load_model": "checkpoint", "save_model": "checkpoint",
    "Tokenizer": "tokenizer", "official_tokenizer": "official",
    "generate": "generate", "stream": "generate", "quantize": "quantize",
    "trace": "trace", "verify": "verify", "Edit": "edits", "edited": "edits",
    "recurrent_gated_delta_rule": "delta_rule", "chunk_gated_delta_rule": "delta_rule",
    "effective_attention": "delta_rule",
    "AttentionExplorer": "widgets", "ChatPanel": "widgets", "ContextCost": "widgets", "DraftExplorer": "widgets",
    "ExpertExplorer": "widgets", "GateExplorer": "widgets", "MemoryLab": "widgets", "QuantExplorer": "widgets",
    "RolloutExplorer": "widgets", "StateExplorer": "widgets", "TrainingExplorer": "widgets",
    "VisionExplorer": "widgets",
    "example": "files", "QwenError": "errors",
}  # fmt: skip
__all__ = list(HOME)


def __getattr__(name: str):
    """Import a public name, or a module such as `minqwen.plots`, when it is first asked for (PEP 562)."""
    if name in HOME:
        module = import_module(f"{__name__}.{HOME[name]}")
        return module if name == HOME[name] else getattr(module, name)
    if not name.startswith("_"):
        try:
            return import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":      # the module is there, but something that it needs is not
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})


class CallableModule(ModuleType):
    """A module that is called like the function of its own name: `minqwen.trace(...)` is `minqwen.trace.trace(...)`.

    Importing `minqwen.trace` from anywhere binds the module to that name: so it is both, whatever came first.
    """

    @property
    def _function(self):
        return vars(self)[self.__name__.rpartition(".")[2]]

    def __call__(self, *args, **kwargs):
        return self._function(*args, **kwargs)

    @property
    def __signature__(self):
        return inspect.signature(self._function)


class _Package(ModuleType):
    def __setattr__(self, name, value):
        if isinstance(value, ModuleType) and HOME.get(name) == name:   # the import system binds a submodule to its name
            value.__class__ = CallableModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
