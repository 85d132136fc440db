"""Low-rank adapters (LoRA): few numbers beside a model that change what it does, kept in the layout of `peft`.

Beside a matrix W of shape (out, in), which stays as it is, come two thin ones, A (rank, in) and B (out, rank):

    y = W x + (alpha / rank) B A x

A begins random and B at nothing, so that the model begins as it was. What an adapter adds is a matrix of W's own shape
and can be put into W in the end; until then it costs two thin products.

    adapter = Adapter(qwen.model, rank=16)              # from here on the model computes with it
    adapter.save("tuned", base="Qwen/Qwen3.5-0.8B")     # adapter_config.json, adapter_model.safetensors
    merge(qwen.model, "tuned")                          # put an adapter, from here or from elsewhere, into the weights

Source: "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al. 2021, arXiv 2106.09685).
"""

import json
import math
from collections.abc import Sequence
from functools import partial
from numbers import Integral, Real
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as as_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import QwenError, read_json, short
from .files import write_whole
from .model import Linear, Qwen
from .quantized import quantized_bits

__all__ = ["TARGETS", "Adapter", "merge"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj",
           "gate_proj", "up_proj", "down_proj")
DECODER = "model.language_model."                       # neither the tower nor `mtp.*`, which peft's model has not
NOT_DONE = ("use_dora", "lora_bias", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out",
            "layer_replication", "target_parameters", "trainable_token_indices", "alora_invocation_tokens")
ONLY = {"peft_type": ("LORA",), "bias": ("none",),      # starts such as "pissa" change the weights beside the adapter
        "init_lora_weights": (None, True, False, "gaussian", "eva")}


class Adapter:
    """A and B for each chosen matrix of a model, which computes with them from here on, until `detach` or `merge`.

    Decoding on a GPU reads a model's weights by itself, and nothing beside them: merge before you generate there.

    Attributes:
        parameters: {name as in peft: tensor}, float32: what is to be trained.
    """

    def __init__(self, model: Qwen, rank: int = 16, alpha: float | None = None,
                 targets: Sequence[str] | None = None, seed: int = 0):
        """
        Args:
            rank: rows of A.
            alpha: 2 rank if None.
            targets: last parts of the names of the matrices, such as "q_proj"; None: all of `TARGETS`. Experts have no
                adapter; the shared expert has.
            seed: of A, which is uniform with variance 1 / (3 in), as `peft` has it.
        Raises:
            QwenError: no such rank or alpha, or no such target in this model; or its weights are quantized.
        """
        check_numbers(rank, alpha)
        if bits := quantized_bits(model):
            raise QwenError(f"The weights of this model are quantized ({bits}), and an adapter is for plain ones: take "
                            f"the checkpoint in bfloat16.")
        matrices = {name: module for name, module in model.named_modules()
                    if name.startswith(DECODER) and isinstance(module, Linear) and name.endswith(TARGETS)}
        last = {_last(name) for name in matrices}
        there = [name for name in TARGETS if name in last]
        targets = there if targets is None else list(targets)
        for target in targets or [""]:
            if target not in there:
                raise QwenError(f"This model has no matrix {target!r} that can have an adapter; it has "
                                f"{', '.join(there)}.")
        self.model, self.rank, self.targets = model, rank, targets
        self.alpha = 2 * rank if alpha is None else alpha
        self.scale = self.alpha / rank
        self.pairs, self.hooks, self.merged = {}, [], False
        random = torch.Generator().manual_seed(seed)
        for name, matrix in matrices.items():
            if _last(name) in targets:
                (rows, columns), device = matrix.weight.shape, matrix.weight.device
                A = (2 * torch.rand(rank, columns, generator=random) - 1) / math.sqrt(columns)
                A, B = (nn.Parameter(x.to(device)) for x in (A, torch.zeros(rows, rank)))
                self.pairs[name] = A, B
                self.hooks.append(matrix.register_forward_hook(partial(self._beside, A, B)))

    def _beside(self, A: Tensor, B: Tensor, matrix: Linear, inputs: tuple[Tensor], y: Tensor) -> Tensor:
        x, = inputs
        return y + self.scale * F.linear(F.linear(x, A.to(x.dtype)), B.to(x.dtype))

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The live tensors, under their names for the class that `transformers` has for this configuration."""
        decoder = DECODER if self.model.config.vision_config is not None else "model."
        return {f"base_model.model.{name.replace(DECODER, decoder)}.lora_{letter}.weight": tensor
                for name, pair in self.pairs.items() for letter, tensor in zip("AB", pair)}

    def detach(self) -> None:
        """The model computes without the adapter again."""
        while self.hooks:
            self.hooks.pop().remove()

    @torch.no_grad()
    def merge(self) -> None:
        """Put the adapter into the weights: computed in float32, rounded once. Raises QwenError if it is in them."""
        if self.merged:
            raise QwenError("This adapter is in the weights already, and would be there twice: go on without merge().")
        self.merged = True
        self.detach()
        for name, (A, B) in self.pairs.items():
            weight = self.model.get_submodule(name).weight
            weight.copy_(weight.float() + self.scale * B @ A)

    def save(self, folder: str | Path, base: str | Path) -> None:
        """Two files, each put in place at one stroke; the settings last, without which a folder is no adapter.

        base: the folder or name of the checkpoint that it is for. `peft` wants that as `AutoModelForImageTextToText`
        loads it, or a text model alone as `AutoModelForCausalLM` does.
        """
        settings = {"peft_type": "LORA", "task_type": None, "base_model_name_or_path": str(base), "r": self.rank,
                    "lora_alpha": self.alpha, "lora_dropout": 0.0, "bias": "none", "target_modules": self.targets,
                    "inference_mode": True}
        tensors = {name: tensor.detach().cpu() for name, tensor in self.parameters.items()}
        write_whole(Path(folder) / WEIGHTS, as_bytes(tensors, metadata={"format": "pt"}))
        write_whole(Path(folder) / CONFIG, (json.dumps(settings, indent=2) + "\n").encode())


def check_numbers(rank: int, alpha: float | None) -> None:
    """Raises QwenError unless an adapter can have this rank and alpha."""
    if isinstance(rank, bool) or not isinstance(rank, Integral) or rank < 1:
        raise QwenError(f"The rank of an adapter is a whole number from 1 on, such as 16, and not {short(repr(rank))}.")
    if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, Real) or not 0 < alpha < math.inf):
        raise QwenError(f"The alpha of an adapter, by which all that it does is multiplied, is a number above 0, such "
                        f"as {2 * rank}, and not {short(repr(alpha))}.")


def merge(model: Qwen, folder: str | Path) -> None:
    """Put an adapter into a model's weights, one from here or one of `peft`.

    Raises:
        QwenError: no adapter, one of another kind, or one for another model. Then the model is as it was.
    """
    folder = Path(folder)
    settings = read_json(folder / CONFIG)
    odd = [f"{name} is {short(settings[name])}" for name in NOT_DONE if settings.get(name)]
    odd += [f"{name} is {short(repr(settings.get(name)))}" for name, known in ONLY.items()
            if settings.get(name) not in known]
    if odd:
        raise QwenError(f"{folder} is an adapter of a kind that is not known here ({odd[0]}): load it with peft, call "
                        f"merge_and_unload(), and save what that gives.")
    try:
        stored, rank, alpha = load_file(folder / WEIGHTS), settings["r"], float(settings["lora_alpha"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise QwenError(f"{folder} is no whole adapter ({short(repr(error))}): fetch or save it again.") from None
    names = {_ours(key) for key in stored}
    adapter = Adapter(model, rank, alpha, sorted({_last(name) for name in names}))
    adapter.detach()
    adapter.scale = alpha / math.sqrt(rank) if settings.get("use_rslora") else adapter.scale
    adapter.pairs = {name: pair for name, pair in adapter.pairs.items() if name in names}
    parts = {f"{name}.lora_{letter}": part for name, pair in adapter.pairs.items() for letter, part in zip("AB", pair)}
    shapes = {name: tuple(part.shape) for name, part in parts.items()}
    stored = {f"{_ours(key)}.{_last(key.removesuffix('.weight'))}": tensor for key, tensor in stored.items()}
    for name in sorted(shapes.keys() | stored.keys()):
        given = tuple(stored[name].shape) if name in stored else None
        if given != shapes.get(name):
            raise QwenError(f"{folder} is for another model: of {short(name)} it has {given}, and here is place for "
                            f"{shapes.get(name)}.")
        parts[name].data.copy_(stored[name])
    adapter.merge()


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _ours(key: str) -> str:
    """The matrix that a tensor of an adapter belongs to, by its name here; it may be one for a text model alone."""
    name = key.removeprefix("base_model.model.").partition(".lora_")[0]
    return name if name.startswith(DECODER) else name.replace("model.", DECODER, 1)
