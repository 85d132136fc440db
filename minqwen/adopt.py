"""From a model that `transformers` has loaded to everything here: the same tensors, looked at and talked to our way.

    model = AutoModelForImageTextToText.from_pretrained("Qwen/Qwen3.5-0.8B")
    processor = AutoProcessor.from_pretrained("Qwen/Qwen3.5-0.8B")
    qwen = minqwen.from_transformers(model, processor)
    minqwen.StateExplorer(qwen, "Ann has a red cup.")

The names in a checkpoint are those of both models. So ours is built without memory, and its places are given the
parameters of theirs.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from .chat import Assistant
from .checkpoint import without_memory
from .config import Config
from .errors import QwenError
from .model import Qwen
from .tokenizer import Tokenizer

KINDS = ("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM",
         "Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
QUANTIZED = ("The weights of this model are quantized or cut up ({what}): load it whole and without a "
             "quantization_config, in bfloat16 for instance.")


def from_transformers(model: nn.Module, tokenizer_or_processor=None) -> Assistant:
    """A Qwen3.5 model loaded with `transformers`, as what `minqwen.load` returns. No weight is copied.

    Both models hold the same `nn.Parameter`s: what an optimizer, an update in place or `model.to(...)` does to one is
    seen by the other, and `requires_grad` stays as it was. A parameter that is put in another's place later is not seen
    (`resize_token_embeddings`, adapters): call this again. The tokenizer and settings are read once, as they are now.

    Args:
        model: a `Qwen3_5ForConditionalGeneration` or a `Qwen3_5ForCausalLM` (then there is no vision tower), or one of
            the two with experts (`Qwen3_5Moe...`), in any floating dtype and on any one device. An adapter of `peft` is
            merged first: `merge_and_unload()`.
        tokenizer_or_processor: what `AutoTokenizer` or `AutoProcessor` gives. Without a tokenizer there is no chat, and
            without a processor there are no pictures in it: `qwen.tokenizer` or `qwen.processor` are None.

    Returns:
        An `Assistant` that remembers them as its `source`, `source_tokenizer` and `source_processor`:
        `minqwen.verify` compares with them, too.

    Raises:
        QwenError: another architecture; weights that are quantized, adapted, not in memory or on several devices;
            something that is no tokenizer or processor; settings that cannot be read.
    """
    ours = on_the_same_parameters(model)
    tokenizer = getattr(tokenizer_or_processor, "tokenizer", tokenizer_or_processor)
    if tokenizer is not None and not hasattr(tokenizer, "backend_tokenizer"):
        raise QwenError(f"A {type(tokenizer).__name__} is no tokenizer that can be read here: pass what transformers' "
                        f"AutoTokenizer or AutoProcessor gives.")
    with TemporaryDirectory() as folder:                  # the one form in which their parts and ours are the same
        for name, settings in (("config.json", model.config), ("generation_config.json", model.generation_config)):
            (Path(folder) / name).write_text(json.dumps(settings.to_dict(), default=str), encoding="utf-8")
        if tokenizer is not None:
            tokenizer_or_processor.save_pretrained(folder)
        qwen = Assistant(ours, Tokenizer.from_folder(folder), folder)
    qwen.folder, qwen.source, qwen.source_processor = None, model, tokenizer_or_processor
    qwen.source_tokenizer = tokenizer
    if tokenizer is tokenizer_or_processor:
        qwen.processor = qwen.source_processor = None     # nobody has said how pictures are prepared
    return qwen


def on_the_same_parameters(model: nn.Module) -> Qwen:
    """Our model in place of `transformers`' one, every parameter the very object that is in theirs."""
    _check_kind(model)
    parts = {"model.language_model": model.model, "lm_head": model.lm_head}
    if hasattr(model.model, "language_model"):
        parts |= {"model.language_model": model.model.language_model, "model.visual": model.model.visual}
    theirs = {f"{part}.{name}": parameter for part, module in parts.items()
              for name, parameter in module.named_parameters(remove_duplicate=False)}
    _check_parameters(theirs)
    try:
        config = Config.from_dict(json.loads(model.config.to_json_string()))
    except (ValueError, KeyError, TypeError) as error:
        raise QwenError(f"The configuration of this model cannot be read: {error}") from None
    # Whether the head is the embedding is not a matter of words here. A head for drafts is not loaded by transformers.
    config.text_config.tie_word_embeddings = tied = model.lm_head.weight is model.get_input_embeddings().weight
    config.text_config.mtp_num_hidden_layers = 0
    if tied:
        del theirs["lm_head.weight"]

    ours = without_memory(config)
    expected = dict(ours.named_parameters())
    for name in expected.keys() ^ theirs.keys():
        if getattr(model.config, "quantization_config", None) is not None:
            raise QwenError(QUANTIZED.format(what=f"it has {'no' if name in expected else 'a'} {name}"))
        what = "lacks" if name in expected else "has, unlike any Qwen3.5,"
        raise QwenError(f"This model {what} the parameter {name}: if adapters are in it, merge them first.")
    for name, parameter in theirs.items():
        if parameter.shape != expected[name].shape:
            raise QwenError(f"The parameter {name} is {tuple(parameter.shape)}, but the model's configuration asks for "
                            f"{tuple(expected[name].shape)}.")
        place, _, leaf = name.rpartition(".")
        setattr(ours.get_submodule(place), leaf, parameter)
    return ours.train(model.training)


def _check_kind(model) -> None:
    kinds = {kind.__name__ for kind in type(model).__mro__}
    if kinds.isdisjoint(KINDS):
        what = f"from_transformers takes a {' or a '.join(KINDS)}, and this is of type {type(model).__name__}"
        if "PeftModel" in kinds:
            raise QwenError(f"{what}: call its merge_and_unload() first, and pass what that gives.")
        if isinstance(model, str | Path):
            raise QwenError(f"{what}: for a folder or a name there is minqwen.load.")
        raise QwenError(f"{what}.")


def _check_parameters(parameters: dict[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        if parameter.dtype not in DTYPES or type(parameter) is not nn.Parameter:
            raise QwenError(QUANTIZED.format(what=f"{name} is a {type(parameter).__name__} of {parameter.dtype}"))
        if parameter.is_meta:
            raise QwenError(f"The weights of this model are not in memory ({name} is on the device 'meta'): load it "
                            f"whole, without offloading.")
    devices = {str(parameter.device) for parameter in parameters.values()}
    if len(devices) > 1:
        raise QwenError(f"This model lies on several devices ({', '.join(sorted(devices))}): load it onto one.")
