"""What a model costs, from its configuration alone: parameters, bytes of weights, and memory over a context.

    print(describe(Config.named("Qwen3.5-4B"), context=32_768))
    print(describe(Config.named("Qwen3.5-9B"), bits=4))

Attention keeps every key and value, so its cache grows with the context; a Gated DeltaNet keeps one matrix per head,
and nothing grows. One layer in four attends: that is what the hybrid saves.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .checkpoint import KEPT_FLOAT32, without_memory
from .config import OFFICIAL_MIXTURES, OFFICIAL_SIZES, Config, TextConfig
from .errors import QwenError
from .lora import Adapter
from .model import DecoderLayer, Step
from .quantize import EMBEDDING, HEAD, TOWER, plan, quantizes
from .quantized import bytes_held, products

LOGITS = 512                                            # tokens whose logits are there together, while one trains
BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def parameter_counts(config: Config) -> dict[str, int]:
    """Parameters of the "text" model, of the "vision" tower and of the head for multi-token prediction, "mtp".

    Counted on a model without memory, of which nothing is allocated. 0 where the configuration has none.
    """
    counts = {"text": 0, "vision": 0, "mtp": 0}
    for name, p in without_memory(config).named_parameters():
        part = "vision" if name.startswith("model.visual.") else "mtp" if name.startswith("mtp.") else "text"
        counts[part] += p.numel()
    return counts


def active_parameters(config: Config) -> int:
    """Of the text model's parameters, those that one token meets: all, but of the experts only the chosen ones."""
    t = config.text_config
    unused = t.num_experts - t.num_experts_per_tok if t.num_experts else 0
    expert = 3 * t.hidden_size * t.moe_intermediate_size
    return parameter_counts(config)["text"] - t.num_hidden_layers * unused * expert


@dataclass(frozen=True)
class Memory:
    """Bytes that one row of a batch keeps while it is generated from."""

    keys_and_values: int                                 # of the attention layers, for the whole context
    per_token: int                                       # what they grow by with each token
    states: int                                          # of the Gated DeltaNet layers, whatever the context: float32
    convolutions: int                                    # their last inputs


def weight_bytes(config: Config, dtype: str = "bfloat16", bits: int | None = None, group_size: int | None = None,
                 embeddings: int = 8) -> dict[str, int]:
    """Bytes of the weights in memory: of the decoder's "layers", and of the "embedding", the "head", the "vision" tower
    and what is for prediction, "mtp", as far as there are such. bits and so on: quantized, see `minqwen.quantize`."""
    return bytes_by_part(shapes_of(config), dtype, bits, group_size, embeddings)


def shapes_of(config: Config) -> dict[str, Sequence[int]]:
    """The shape of each parameter, by its name."""
    return {name: p.shape for name, p in without_memory(config).named_parameters()}


def bytes_by_part(shapes: dict[str, Sequence[int]], dtype: str, bits: int | None, group_size: int | None = None,
                  embeddings: int = 8) -> dict[str, int]:
    """`weight_bytes`, of parameters of these shapes."""
    chosen = plan(shapes, bits, group_size, embeddings) if quantizes(bits, group_size, embeddings) else {}
    parts = {TOWER: "vision", "mtp.": "mtp", EMBEDDING: "embedding", HEAD: "head", "": "layers"}
    sizes = dict.fromkeys(["layers", "embedding", "head", "vision", "mtp"], 0)
    for name, shape in shapes.items():
        part = next(part for start, part in parts.items() if name.startswith(start))
        size = math.prod(shape) * BYTES[dtype]
        sizes[part] += bytes_held(shape, *chosen[name], getattr(torch, dtype)) if name in chosen else size
    return {part: size for part, size in sizes.items() if size}


def memory(config: Config, context: int, dtype: str = "bfloat16") -> Memory:
    """What `context` tokens take in the cache, with keys and values in `dtype`."""
    if dtype not in BYTES:
        raise QwenError(f"There is no dtype {dtype!r}; there are {', '.join(BYTES)}.")
    t, size = config.text_config, BYTES[dtype]
    attention, linear = (t.layer_types.count(kind) for kind in ("full_attention", "linear_attention"))
    per_token = attention * 2 * t.num_key_value_heads * t.head_dim * size
    values = t.linear_num_value_heads * t.linear_value_head_dim
    channels = 2 * t.linear_num_key_heads * t.linear_key_head_dim + values
    return Memory(context * per_token, per_token, linear * values * t.linear_key_head_dim * 4,
                  linear * (t.linear_conv_kernel_dim - 1) * channels * size)


def describe(config: Config, context: int | None = None, dtype: str | None = None, bits: int | None = None,
             group_size: int | None = None, embeddings: int = 8) -> str:
    """A page on a model: layers, parameters, bytes of weights, the cache at `context` tokens (None: the longest).

    With bits, group_size and embeddings, which are those of `minqwen.quantize`, the weights are quantized. A context
    that is longer than the model's is one by YaRN: see `Config.with_context`, which says what cannot be.
    """
    if context is not None:
        config = config.with_context(context)
    t, counts = config.text_config, parameter_counts(config)
    dtype, context = dtype or t.dtype, context or t.max_position_embeddings
    kept, total = memory(config, context, dtype), sum(counts.values())
    attention, linear = (t.layer_types.count(kind) for kind in ("full_attention", "linear_attention"))
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    weights = (f"weights       {readable(total * BYTES[dtype])} in {dtype}, of which the text model "
               f"{readable(counts['text'] * BYTES[dtype])}")
    if quantizes(bits, group_size, embeddings):
        weights = _quantized(config, dtype, bits, group_size, embeddings)
    besides, v = "", config.vision_config
    if v is not None:
        side = v.patch_size * v.spatial_merge_size
        besides += (f"vision        {v.depth} blocks, {v.hidden_size} wide, {v.num_heads} heads; "
                    f"{side} x {side} pixels make one token, of a clip in {v.temporal_patch_size} frames\n")
    if t.num_experts:
        besides += (f"experts       {t.num_experts} in each layer, {t.moe_intermediate_size} wide, of which a token "
                    f"meets {t.num_experts_per_tok}; and a shared one, {t.shared_expert_intermediate_size} wide\n")
        parts += f"\nactive        {active_parameters(config):,} of the text model's for each token"
    if layers := t.mtp_num_hidden_layers:
        besides += f"prediction    of one token more, by {layers} layer{'s' * (layers > 1)} of gated attention (MTP)\n"
    rope, stretched = t.rope_parameters, ""
    if rope.get("rope_type") == "yarn":
        stretched = f", by YaRN: {rope['factor']:g} times {rope['original_max_position_embeddings']:,}"
    tied = "the embedding is the head" if t.tie_word_embeddings else "embedding and head apart"
    return f"""\
layers        {t.num_hidden_layers}, {t.hidden_size} wide
              {linear} Gated DeltaNet, {t.linear_num_key_heads} key and {t.linear_num_value_heads} value heads, \
memories of {t.linear_key_head_dim} x {t.linear_value_head_dim}
              {attention} gated attention, {t.num_attention_heads} query and {t.num_key_value_heads} key-value heads, \
{t.head_dim} wide
{besides}vocabulary    {t.vocab_size:,} tokens, {tied}
context       {t.max_position_embeddings:,} tokens at most{stretched}

parameters    {total:,}: {parts}
{weights}

cache of one row at {context:,} tokens
  attention   {readable(kept.keys_and_values)} in {dtype}, {readable(kept.per_token)} more with each token
  DeltaNet    {readable(kept.states + kept.convolutions)}, always; its states in float32"""


def _quantized(config, dtype, bits, group_size, embeddings) -> str:
    sizes = weight_bytes(config, dtype, bits, group_size, embeddings)
    lines = (f"weights       {readable(sum(sizes.values()))}: "
             + ", ".join(f"{part} {readable(size)}" for part, size in sizes.items()))
    lines += f"\n              codes of {bits if bits == 'fp8' else f'{bits} bits'}, the rest in {dtype}"
    if bits in (3, 4) and embeddings == 8:
        least = sum(weight_bytes(config, dtype, bits, group_size, bits).values())
        lines += (f"; embedding and head are of 8 bits,\n              with those of {bits} bits, too, it is "
                  f"{readable(least)} (embeddings={bits})")
    return f"{lines}\nproducts      {products(bits, dtype)}"


def table(contexts: Sequence[int] = (4096, 32_768, 262_144)) -> str:
    """What each published size takes, in Markdown: weights of 16, 8 and 4 bits, and one row's cache in bfloat16.

    The last of the columns of weights has embedding and head of 4 bits, too, which else have 8.
    """
    head = ["", "16 bits", "8 bits", "4 bits", "all 4", "states", *(f"{context:,} tokens" for context in contexts)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name in OFFICIAL_SIZES | OFFICIAL_MIXTURES:
        config = Config.named(name)
        weights = (weight_bytes(config, bits=bits, embeddings=embeddings)
                   for bits, embeddings in ((None, 8), (8, 8), (4, 8), (4, 4)))
        kept = [memory(config, context) for context in contexts]
        lines.append([name, *(readable(sum(sizes.values())) for sizes in weights),
                      readable(kept[0].states + kept[0].convolutions), *(readable(k.keys_and_values) for k in kept)])
    return _markdown(lines)


def training_memory(config: Config, rank: int | None = None, length: int = 4096,
                    dtype: str = "bfloat16") -> dict[str, int]:
    """Bytes that fine-tuning takes as `finetune.py` does it, layers computed again in the backward pass.

    Args:
        rank: of an adapter for all matrices; None: the language model's own weights learn.
        length: tokens of a pack.
        dtype: of the weights.
    Returns:
        "weights": as stored; "learning": of each number that learns the float32 copy, unless it is float32 itself, the
        gradient and two moments; "layers": what each layer was given, and what a Gated DeltaNet layer, computed in
        chunks as on a CPU, keeps for its own backward pass; "logits": of the tokens whose logits are there together.
    """
    model, t, wide = without_memory(config), config.text_config, getattr(torch, dtype)
    for name, p in model.named_parameters():
        p.data = p.data.to(torch.float32 if name.endswith(KEPT_FLOAT32) else wide)
    weights = sum(p.nbytes for p in model.parameters())
    if rank is None:
        learning = [p for name, p in model.named_parameters() if not name.startswith(("model.visual.", "mtp."))]
    else:
        with torch.device("meta"):
            learning = list(Adapter(model, rank).parameters.values())
    each = sum(p.numel() * (12 if p.dtype == torch.float32 and rank is None else 16) for p in learning)
    layer = max(model.model.language_model.layers, key=lambda layer: layer.layer_type == "linear_attention")
    kept = t.num_hidden_layers * length * t.hidden_size * BYTES[dtype] + bytes_kept(layer, t, length, wide)
    return {"weights": weights, "learning": each, "layers": kept,
            "logits": LOGITS * t.vocab_size * (2 * 4 + 2 * BYTES[dtype])}          # and their gradients


def bytes_kept(layer: DecoderLayer, config: TextConfig, length: int, dtype: torch.dtype) -> int:
    """What a layer keeps of so many tokens for its backward pass: asked of autograd, on a model without memory."""
    kept, weights = {}, {p.untyped_storage()._cdata for p in layer.parameters()}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        x = torch.empty(1, length, config.hidden_size, dtype=dtype, requires_grad=True)
        layer(x, Step.at(torch.zeros(3, 1, length, dtype=torch.long), config, dtype))
    return sum(storage.nbytes() for place, storage in kept.items() if place not in weights)


def training_table(names: Sequence[str] = ("Qwen3.5-0.8B", "Qwen3.5-2B", "Qwen3.5-4B", "Qwen3.5-9B"),
                   length: int = 4096, rank: int = 16) -> str:
    """What fine-tuning takes, in Markdown: all weights in bfloat16, and an adapter of this rank."""
    head = ["", "weights", "layers, logits", "all weights learn", "in all", "an adapter learns", "in all"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name in names:
        whole, adapter = (training_memory(Config.named(name), one, length) for one in (None, rank))
        lines.append([name, *map(readable, (whole["weights"], whole["layers"] + whole["logits"], whole["learning"],
                                            sum(whole.values()), adapter["learning"], sum(adapter.values())))])
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def in_thousands(number: float, units: Sequence[str]) -> str:
    """Three digits of it and the unit they are in; each of `units` is a thousand of the one before."""
    for unit in units[:-1]:
        if number < 999.5:                              # from there on three digits say 1000, which is 1 of the next
            return f"{number:.3g} {unit}".strip()
        number /= 1000
    return f"{number:.3g} {units[-1]}"


def readable(size: float) -> str:
    """1234567 -> "1.23 MB", in powers of ten as on the disk."""
    return in_thousands(size, ("bytes", "kB", "MB", "GB", "TB"))
