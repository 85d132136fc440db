"""Is this model the official one, computed the official way? Ask piece by piece.

    report = minqwen.verify("data/nano")          # or a loaded model, or a name
    print(report)                                 # a table: the piece, what it was compared with, error, tolerance
    report.raise_if_failed()

Three rings, from the inside out:

    1  kernel       the forms of the delta rule against the recurrence in float64, on this very machine
    2  model        every module and the whole model against `transformers` on the same weights - literally the same:
                    its model is built without memory and given our tensors, so that there is one copy of them. With
                    a vision tower also the tower, pictures and clips in the prompt, and how they are prepared; with
                    a tokenizer the ids of texts and of a chat, as `AutoTokenizer` has them and all that build on it
    3  weights      what is publicly known of the answers of Qwen/Qwen3.5-0.8B, where that is the checkpoint; only then

An error is always the largest difference over the largest entry of what is right. The pieces of layer i of both models
get the same input, so that what is named is the wrong piece, and not all that come after it.

At the end: `check_close`, for a single comparison, as the lessons make them.
"""

import html
import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minqwen.config import Config
from minqwen.delta_rule import chunk_gated_delta_rule, effective_attention, l2norm, recurrent_gated_delta_rule
from minqwen.errors import QwenError, short
from minqwen.model import MixtureOfExperts, Qwen, Step
from minqwen.quantized import quantized_bits

KERNEL = {"float64": 1e-12, "float32": 1e-5, "gates to -50": 2e-4}
GRADIENTS = {-3.0: 2e-5, -50.0: 2e-4}                     # log decays down to this: what is allowed in float32
# (one piece on the same input, the whole model, the whole model where chunks fall differently, and with pictures,
# where the tower has rounded before the language model does)
FULL_PRECISION, HALF_PRECISION = (2e-5, 5e-5, 1e-4, 1e-4), (2e-2, 1e-1, 1e-1, 2e-1)


# ------------------------------------------------------------------------------------------------------- the report


@dataclass(frozen=True)
class Check:
    """One comparison."""

    ring: str
    piece: str
    compared: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance               # not a number is not ok


@dataclass
class Report:
    """What was compared, and how it went. `print` it, or let a notebook show it."""

    title: str
    checks: list[Check] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.ok]

    def raise_if_failed(self) -> None:
        """
        Raises:
            AssertionError: a check failed; names all that did.
        """
        if not self.ok:
            wrong = "; ".join(f"{c.piece} is off by {c.error:.1e} ({c.tolerance:.0e} is allowed)" for c in self.failed)
            number = f"{len(self.failed)} of {len(self.checks)}"
            raise AssertionError(f"{number} checks failed: {wrong or 'nothing was compared'}.")

    def _rows(self) -> list[tuple[str, ...]]:
        return [(c.ring, c.piece, c.compared, f"{c.error:.1e}", f"{c.tolerance:.0e}", "✓" if c.ok else "✗", c.note)
                for c in self.checks]

    def _verdict(self) -> str:
        return f"{'✓' if self.ok else '✗'} {len(self.checks) - len(self.failed)} of {len(self.checks)} checks passed"

    def __str__(self) -> str:
        rows = [HEADINGS, *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        rule = "-" * sum(widths[:6], 2 * 5)
        return "\n".join([self.title, "", lines[0], rule, *lines[1:], "", *self.remarks, self._verdict()])

    def _repr_html_(self) -> str:
        def line(cells, tag):
            cells = (f'<{tag} style="text-align: left">{html.escape(cell)}</{tag}>' for cell in cells)
            return f"<tr>{''.join(cells)}</tr>"

        rows = "".join(line(row, "td") for row in self._rows())
        about = "".join(f"<p>{html.escape(text)}</p>" for text in (*self.remarks, self._verdict()))
        return (f"<p>{html.escape(self.title)}</p><table><thead>{line(HEADINGS, 'th')}</thead>"
                f"<tbody>{rows}</tbody></table>{about}")


HEADINGS = ("ring", "piece", "compared with", "error", "allowed", "", "")


# ----------------------------------------------------------------------------------------------------- the question


@torch.no_grad()
def verify(qwen, seed: int = 0) -> Report:
    """Compare a model piece by piece with `transformers`, and the kernels with the rule itself.

    Args:
        qwen: a folder or a name (loaded in the dtype that it is stored in), what `minqwen.load` or
            `minqwen.from_transformers` returns (then its own source is compared with, too), or a `Qwen`.
        seed: of the token ids and vectors that are put through both.

    Raises:
        QwenError: `transformers` is missing, or what was named cannot be loaded. A comparison that fails does not
            raise: ask `report.ok`, or call `report.raise_if_failed()`.
    """
    name, folder, model, tokenizer = _loaded(qwen)
    official = _official()
    weight, text = model.head_weight, model.config.text_config
    dtype = str(weight.dtype).removeprefix("torch.")
    if bits := quantized_bits(model):                     # the twin has the very same codes, which multiply as ours do
        dtype = f"{bits} beside {dtype}"
    report = Report(f"{name or 'The model'}: {model.config!r}, {dtype} on {weight.device}, beside transformers "
                    f"{official.__version__} and torch {torch.__version__}")
    random = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    try:
        report.checks += kernel_checks(text, weight.device, random)
        report.checks.append(_names(model))
        twin = official_twin(model)
        report.checks += module_checks(model, twin, random)
        report.checks += model_checks(model, twin, random)
        if getattr(qwen, "source", None) is not None:
            report.checks.append(source_check(model, qwen.source, random))
        reads_text, why = _official_tokenizer(qwen, folder)
        if reads_text is not None and tokenizer is not None:
            report.checks += text_checks(tokenizer, reads_text)
        elif tokenizer is not None:
            report.remarks.append(f"Texts: their ids were not compared, because {why}.")
        if model.config.vision_config is not None:
            whole = official_twin(model, pictures=True)
            report.checks += tower_checks(model, whole, random)
            if max(_marks(model.config)) < text.vocab_size:
                twin = whole
                report.checks += picture_checks(model, whole, random)
            else:
                report.remarks.append("Pictures in the prompt were not compared, because their placeholders are beyond "
                                      "the vocabulary.")
            ours, theirs, missing = _processors(qwen, folder, model.config, tokenizer, reads_text)
            if missing:
                report.remarks.append(f"Pictures: their preparation was not compared, because {missing}.")
            else:
                report.checks += processor_checks(ours, theirs, tokenizer, random)
        if text.mtp_num_hidden_layers:
            report.checks += mtp_checks(model, twin, random)
        known, remark = _known_outputs(name, model, tokenizer)
        report.checks += known
        report.remarks.append(remark)
    finally:
        model.train(was_training)
    return report


def official_twin(qwen: Qwen, pictures: bool = False) -> nn.Module:
    """`transformers`' own model on the very same weights: built without memory, then given our tensors.

    Args:
        pictures: False gives the language model alone (Qwen3_5ForCausalLM, with experts Qwen3_5MoeForCausalLM), True
            the whole with its vision tower (...ForConditionalGeneration). None has a head for multi-token prediction.

    Raises:
        QwenError: `transformers` is missing.
        ValueError: the whole is asked for, but this model has no tower.
    """
    if pictures and qwen.config.vision_config is None:
        raise ValueError("This model has no vision tower, and its twin cannot have one: ask for pictures=False.")
    official, numbers = partial(official_class, qwen.config), qwen.config.to_dict()
    ours = {name: tensor for name, tensor in qwen.state_dict().items() if not name.startswith("mtp.")}
    ours["lm_head.weight"] = qwen.head_weight.detach()
    if pictures:
        kind, config = official("ForConditionalGeneration"), official("Config").from_dict(numbers)
    else:
        kind, config = official("ForCausalLM"), official("TextConfig")(**numbers["text_config"])
        ours = {name.replace("language_model.", ""): x for name, x in ours.items() if ".visual." not in name}
    with torch.device("meta"):
        twin = kind(config).requires_grad_(False)
    if qwen.config.text_config.num_experts:               # expert by expert: in any shape and dtype, and not our kernel
        twin.set_experts_implementation("eager")
    twin.load_state_dict(ours, assign=True)
    twin.tie_weights()
    for part in twin.modules():                           # angles are in no checkpoint: they are worked out anew
        for name, rotary in part.named_children():
            if isinstance(rotary, official("TextRotaryEmbedding") | official("VisionRotaryEmbedding")):
                setattr(part, name, type(rotary)(rotary.config).to(qwen.head_weight.device))
    return twin.eval().requires_grad_(False)


def official_modules():
    """`transformers.models.qwen3_5.modeling_qwen3_5`. Raises QwenError if there is none."""
    return _official().models.qwen3_5.modeling_qwen3_5


def official_class(config: Config, name: str) -> type:
    """A class of `transformers`, such as "ForCausalLM", of this model's family: dense, or with experts.

    Raises:
        QwenError: there is no `transformers`.
    """
    if config.text_config.num_experts:
        return getattr(_official().models.qwen3_5_moe.modeling_qwen3_5_moe, f"Qwen3_5Moe{name}")
    return getattr(official_modules(), f"Qwen3_5{name}")


def _official():
    try:
        import transformers

        let_torchvision_in()
        import transformers.models.qwen3_5.modeling_qwen3_5
    except ImportError:
        raise QwenError("Verification compares with transformers 5.23 or newer, which is missing here: "
                        "pip install transformers torchvision.") from None
    if transformers.logging.get_verbosity() == transformers.logging.WARNING:
        transformers.logging.set_verbosity_error()        # that kernels for a GPU are missing is no news to us
    return transformers


def let_torchvision_in() -> bool:
    """Whether torchvision can be imported; call it before `transformers`' modules are, which import torchvision.

    A torchvision built for CUDA cannot load its compiled operators beside a torch built for CPUs, and its import
    then fails because it wants to say more about two of them, "operator torchvision::nms does not exist". The
    processors of `transformers` call no compiled operator, so here the two are declared, and it can be imported.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return False
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _DECLARED.append(torch.library.Library("torchvision", "DEF"))
        for operator in ("nms", "qnms"):
            _DECLARED[0].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401
    return True


_DECLARED = []  # a Library takes its operators back when it is let go


def _loaded(qwen) -> tuple[str, Path | None, Qwen, object]:
    """(its name or folder or "", the folder that it is in or None, the model, its tokenizer or None)"""
    if isinstance(qwen, Qwen):
        return "", None, qwen, None
    if hasattr(qwen, "model"):
        folder = getattr(qwen, "folder", None)
        return str(folder or ""), folder and Path(folder), qwen.model, getattr(qwen, "tokenizer", None)
    from minqwen import checkpoint
    from minqwen.tokenizer import Tokenizer

    folder = checkpoint.resolve(qwen)
    return str(qwen), folder, checkpoint.load_model(folder), Tokenizer.from_folder(folder)


def error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest entry of what is right; infinite where the shapes differ."""
    precision = torch.promote_types(torch.promote_types(ours.dtype, theirs.dtype), torch.float32)
    if ours.shape != theirs.shape:
        return torch.inf
    ours, theirs = ours.detach().to(precision), theirs.detach().to(ours.device, precision)
    off, scale = (ours - theirs).abs().max(), theirs.abs().max()
    return (off / scale if scale > 0 else off).nan_to_num(torch.inf).item()


# --------------------------------------------------------------------------------------------------- ring 1: kernel


def kernel_checks(text, device, random: torch.Generator) -> Iterator[Check]:
    """All forms of the delta rule against the recurrence in float64 on the CPU; heads as the model's, but few."""
    Hk = min(2, text.linear_num_key_heads)
    Hv = Hk * (text.linear_num_value_heads // text.linear_num_key_heads)
    shape = (1, 130, Hk, Hv, text.linear_key_head_dim, text.linear_value_head_dim)
    check = partial(Check, "kernel")
    single = torch.float32

    for gates, tolerance in ((-3.0, KERNEL["float32"]), (-50.0, KERNEL["gates to -50"])):
        x, state = rule_inputs(*shape, gates, random)
        right = recurrent_gated_delta_rule(*x, initial_state=state, output_final_state=True)
        on_device = [t.to(device, single) for t in x], state.to(device, single)
        for name, rule in (("recurrent", recurrent_gated_delta_rule), ("chunked", chunk_gated_delta_rule)):
            ours = rule(*on_device[0], initial_state=on_device[1], output_final_state=True)
            yield check(f"delta rule, {name}, float32", f"the recurrence in float64, gates to {gates:.0f}",
                        max(map(error, ours, _on(right, device))), tolerance)

    x, state = rule_inputs(*shape, -3.0, random)
    right = recurrent_gated_delta_rule(*x, initial_state=state, output_final_state=True)
    ours = chunk_gated_delta_rule(*x, initial_state=state, output_final_state=True)
    exact = KERNEL["float64"]
    yield check("delta rule, chunked, float64", "the recurrence in float64", max(map(error, ours, right)), exact)

    ends = torch.tensor([0, 1, 65, 130])
    ours = chunk_gated_delta_rule(*x, cu_seqlens=ends)[0]
    alone = [recurrent_gated_delta_rule(*(t[:, a:b] for t in x))[0] for a, b in zip(ends, ends[1:], strict=False)]
    yield check("delta rule, packed sequences", "each by itself", error(ours, torch.cat(alone, dim=1)), exact)

    q, k, v, g, beta = x
    attended = torch.einsum("b h t s, b s h d -> b t h d", effective_attention(q, k, g, beta), v)
    right = recurrent_gated_delta_rule(*x)[0]
    yield check("effective attention", "what the recurrence reads", error(attended, right), exact)

    for gates, tolerance in GRADIENTS.items():
        x, state = rule_inputs(*shape, gates, random)
        rule = partial(chunk_gated_delta_rule, output_final_state=True)
        ours = rule_gradients(rule, [t.to(device, single) for t in (*x, state)])
        off = gradient_errors(ours, _on(rule_gradients(recurrent_gated_delta_rule, [*x, state]), device))
        worst = max(off, key=off.get)
        yield check("delta rule, gradients, float32", f"autograd through the recurrence, gates to {gates:.0f}",
                    off[worst], tolerance, f"worst for {worst}")


def rule_inputs(B, T, Hk, Hv, Dk, Dv, gates, random):
    """q, k of unit length, v, log decays down to `gates`, beta in (0, 1), and a memory: float64, on the CPU."""
    normal = partial(torch.randn, generator=random, dtype=torch.float64)
    uniform = partial(torch.rand, generator=random, dtype=torch.float64)
    q, k = l2norm(normal(2, B, T, Hk, Dk))
    return [q, k, normal(B, T, Hv, Dv), gates * uniform(B, T, Hv) ** 3, uniform(B, T, Hv)], normal(B, Hv, Dk, Dv)


@torch.enable_grad()
def rule_gradients(rule, leaves):
    """Of what `rule` makes of q, k, v, g, beta and a memory, for each of the six."""
    leaves = [t.detach().requires_grad_() for t in leaves]
    o, state = rule(*leaves[:5], initial_state=leaves[5], **with_state(rule))
    return torch.autograd.grad(o.square().sum() + state.square().sum(), leaves)


def gradient_errors(ours, right) -> dict[str, float]:
    """Each by itself, for a loss may hang on one of them a thousand times as much as on another."""
    return dict(zip(("q", "k", "v", "g", "beta", "the initial state"), map(error, ours, right), strict=True))


def with_state(rule) -> dict[str, bool]:
    """What to ask a rule for its final state with, if it has to be asked."""
    return {"output_final_state": True} if "output_final_state" in inspect.signature(rule).parameters else {}


def _on(tensors, device):
    return [t.to(device, torch.float32 if device.type != "cpu" else t.dtype) for t in tensors]


# ---------------------------------------------------------------------------------------------------- ring 2: model


def _names(model: Qwen) -> Check:
    """Every tensor of the official model is there under its name, in its shape, and no other."""
    official = partial(official_class, model.config)
    with torch.device("meta"):
        whole = official("ForConditionalGeneration")(official("Config").from_dict(model.config.to_dict()))
    theirs = {name: tuple(t.shape) for name, t in whole.state_dict().items()}
    if model.config.tie_word_embeddings:
        del theirs["lm_head.weight"]                      # the embedding is the head, and stored once
    if model.config.vision_config is None:                # they build a tower all the same
        theirs = {name: shape for name, shape in theirs.items() if not name.startswith("model.visual.")}
    # multi-token prediction they do not build: `official_mtp_logits` would not take a name or a shape that is wrong
    ours = {name: tuple(t.shape) for name, t in model.state_dict().items() if not name.startswith("mtp.")}
    wrong = {name for name, _ in theirs.items() ^ ours.items()}
    return Check("model", "names and shapes", f"the official state_dict: {len(theirs)} tensors", len(wrong), 0,
                 f"such as {min(wrong)}" if wrong else "")


class Worst:
    """Of each piece that there is in every layer, the layer where it is furthest off."""

    def __init__(self):
        self.found = {}                                   # piece -> (error, layer, how many)

    def compare(self, piece: str, layer: int, ours: Tensor, theirs: Tensor) -> None:
        worst, where, count = self.found.get(piece, (-1.0, 0, 0))
        self.found[piece] = (*max((worst, where), (error(ours, theirs), layer)), count + 1)

    def checks(self, tolerance: float, layers: str = "layer") -> Iterator[Check]:
        for piece, (worst, layer, count) in self.found.items():
            where = f"official, in {count} {layers}s, on our input" if count > 1 else "official, on our input"
            note = f"worst in {layers} {layer}" if worst and count > 1 else ""
            yield Check("model", piece, where, worst, tolerance, note)


def module_checks(model: Qwen, twin: nn.Module, random: torch.Generator, T: int = 65) -> Iterator[Check]:
    """Each module of each layer on the input that it gets in our model."""
    ours, theirs, text = model.model.language_model, twin.model, model.config.text_config
    device, dtype = model.head_weight.device, model.head_weight.dtype
    tolerance = _tolerances(dtype)[0]

    positions = torch.randint(text.max_position_embeddings, (3, 2, T), generator=random).to(device)
    ours_at = Step.at(positions, text, torch.float32)
    right = theirs.rotary_emb(torch.zeros((), device=device), positions)
    turned = [torch.cat((x, x), dim=-1).squeeze(2) for x in (ours_at.cos, ours_at.sin)]
    yield Check("model", "rotary positions", f"official, in three rows, up to {text.max_position_embeddings:,}",
                max(map(error, turned, right)), FULL_PRECISION[0])

    inputs = []                                           # of each layer
    hooks = [layer.register_forward_pre_hook(lambda _, x: inputs.append(x)) for layer in ours.layers]
    model(_ids(model, 1, T, random), logits_to_keep=1)
    for hook in hooks:
        hook.remove()

    worst = Worst()
    compare = worst.compare
    for i, (layer, other) in enumerate(zip(ours.layers, theirs.layers, strict=True)):
        x, step, _ = inputs[i]
        angle = tuple(torch.cat((y, y), -1).squeeze(2) for y in (step.cos, step.sin))
        normed = layer.input_layernorm(x)
        compare("RMSNorm before the mixer", i, normed, other.input_layernorm(x))
        if layer.layer_type == "full_attention":
            mixer, right = layer.self_attn, other.self_attn(normed, angle, None)[0]
            q = mixer.q_proj(normed).unflatten(-1, (-1, 2, mixer.head_dim))[..., 0, :]
            compare("RMSNorm of queries", i, mixer.q_norm(q), other.self_attn.q_norm(q))
            compare("gated attention", i, mixer(normed, step), right)
        else:
            mixer, right = layer.linear_attn, other.linear_attn(normed)
            z = mixer.in_proj_z(normed).unflatten(-1, (mixer.num_v_heads, -1))
            compare("gated norm", i, mixer.norm(z.flip(1), z), other.linear_attn.norm(z.flip(1), z))
            compare("Gated DeltaNet", i, mixer(normed, step), right)
        x_mlp = layer.post_attention_layernorm(x)
        compare("RMSNorm before the MLP", i, x_mlp, other.post_attention_layernorm(x))
        if isinstance(layer.mlp, MixtureOfExperts):
            _compare_experts(compare, i, layer.mlp, other.mlp, x_mlp.flatten(0, 1))
        what = "mixture of experts" if isinstance(layer.mlp, MixtureOfExperts) else "MLP"
        compare(what, i, layer.mlp(x_mlp), other.mlp(x_mlp))
        compare("decoder layer", i, layer(x, step), other(x, angle))
    compare("last RMSNorm", len(ours.layers), ours.norm(x), theirs.norm(x))

    yield from worst.checks(tolerance)


def _compare_experts(compare, i: int, ours: MixtureOfExperts, theirs: nn.Module, x: Tensor) -> None:
    """The router by the weight that it gives to each expert, 0 to most; the experts where our router sends the tokens.

    x: (tokens, hidden_size)"""
    weights, chosen = ours.gate(x)
    _, their_weights, their_chosen = theirs.gate(x)
    of_all = weights.new_zeros(len(x), len(ours.gate.weight))                               # (tokens, num_experts)
    compare("router", i, of_all.scatter(1, chosen, weights), of_all.scatter(1, their_chosen, their_weights))
    compare("experts", i, ours.experts(x, weights, chosen), theirs.experts(x, chosen, weights))
    compare("shared expert", i, ours.shared_expert(x), theirs.shared_expert(x))


def model_checks(model: Qwen, twin: nn.Module, random: torch.Generator) -> Iterator[Check]:
    """Logits, end to end: lengths, padding, positions of a picture, and the cache."""
    _, whole, uneven, _ = _tolerances(model.head_weight.dtype)
    check = partial(_check_logits, model)
    for T in (1, 65, 200):
        ids = _ids(model, 1, T, random)
        yield check(f"logits of {T} token{'s' * (T > 1)}", "official", model(ids), twin(ids).logits, whole)

    mask = torch.ones(3, 80, dtype=torch.long, device=model.head_weight.device)
    mask[0, :37] = mask[1, 50:] = 0
    ids, real = _ids(model, 3, 80, random), mask.bool()
    logits = model(ids, attention_mask=mask)
    theirs = twin(ids, attention_mask=mask).logits
    yield check("logits, padded left and right", "official", logits[real], theirs[real], uneven)
    alone = [model(ids[row : row + 1, real[row]])[0] for row in range(3)]
    yield check("logits, padded left and right", "the same rows alone", logits[real], torch.cat(alone), uneven)

    ids = _ids(model, 1, 90, random)
    positions = torch.randint(90, (3, 1, 90), generator=random).to(ids.device)
    yield check("logits at positions of a picture", "official", model(ids, position_ids=positions),
                twin(ids, position_ids=positions).logits, whole)

    at_once = twin(ids).logits
    cache, steps = model.new_cache(1, 90), [40, 1, 1, 1, 30, 1, 1, 15]
    logits = torch.cat([model(piece, cache=cache) for piece in ids.split(steps, dim=1)], dim=1)
    yield check("prefill in pieces, and decoding", "official, at once", logits, at_once, uneven)

    cache, ours, theirs, past = model.new_cache(1, 90), [], [], None
    for piece in ids[:, :74].split([64] + [1] * 10, dim=1):
        ours.append(model(piece, cache=cache))
        output = twin(piece, past_key_values=past, use_cache=True)
        theirs.append(output.logits)
        past = output.past_key_values
    ours, theirs = torch.cat(ours, dim=1), torch.cat(theirs, dim=1)
    yield check("decoding, token by token", "official, with its own cache", ours, theirs, uneven)
    memories = [(layer.recurrent_state, other.recurrent_states[0])
                for layer, other in zip(cache.layers, past.layers, strict=True) if hasattr(layer, "recurrent_state")]
    yield Check("model", "memories after decoding", f"official, {len(memories)} layers",
                max((error(a, b) for a, b in memories), default=0.0), uneven)

    here = cache.snapshot()
    model(_ids(model, 1, 5, random), cache=cache)
    cache.restore(here)
    logits = model(ids[:, 74:], cache=cache)
    yield check("back to a snapshot, and on", "official, at once", logits, at_once[:, 74:], uneven)


def source_check(model: Qwen, source: nn.Module, random: torch.Generator) -> Check:
    """Logits beside the model of `transformers` that ours was made of: its settings, too, must have been understood."""
    ids, was_training = _ids(model, 2, 65, random), source.training
    try:
        theirs = source.eval()(ids, use_cache=False).logits
    finally:
        source.train(was_training)
    return _check_logits(model, "logits, two rows", "the model it was made from", model(ids), theirs,
                         _tolerances(model.head_weight.dtype)[1])


def tower_checks(model: Qwen, whole: nn.Module, random: torch.Generator) -> Iterator[Check]:
    """Each piece of the vision tower on the input that it gets in ours, then the tower: stills of three shapes, a clip.

    whole: `official_twin(model, pictures=True)`
    """
    ours, theirs, m = model.model.visual, whole.model.visual, model.config.vision_config.spatial_merge_size
    tolerance, end_to_end, *_ = _tolerances(model.head_weight.dtype)
    device = model.head_weight.device
    grids = torch.tensor([(1, 3 * m, 5 * m), (1, 6 * m, m), (1, m, m), (3, 2 * m, 2 * m)], device=device)
    pixels = _pixels(model.config, grids, random).to(device)

    inputs, others = [], []                               # of each block, here and there
    hooks = [block.register_forward_pre_hook(lambda _, x: inputs.append(x)) for block in ours.blocks]
    hooks += [block.register_forward_pre_hook(lambda _, x, named: others.append((x[0], named)), with_kwargs=True)
              for block in theirs.blocks]
    seen, right = ours(pixels, grids), theirs(pixels, grids)
    for hook in hooks:
        hook.remove()

    (x, cos, sin, _), (x_official, named) = inputs[0], others[0]
    yield Check("model", "patches, and their learned positions", "official", error(x, x_official), tolerance)
    turned = [(torch.cat((a, a), dim=-1).squeeze(1), b) for a, b in zip((cos, sin), named["position_embeddings"])]
    yield Check("model", "rotary positions of patches", "official, rows and columns",
                max(error(a, b) for a, b in turned), FULL_PRECISION[0])
    worst = Worst()
    for i, (block, other) in enumerate(zip(ours.blocks, theirs.blocks, strict=True)):
        x, *rest = inputs[i]
        normed = block.norm1(x)
        worst.compare("attention inside a frame", i, block.attn(normed, *rest), other.attn(normed, **named))
        worst.compare("the tower's MLP", i, block.mlp(normed), other.mlp(normed))
        worst.compare("the tower's block", i, block(x, *rest), other(x, **named))
    worst.compare("merger", 0, ours.merger(x), theirs.merger(x))
    yield from worst.checks(tolerance, "block")
    off = error(seen, right.pooler_output)
    yield Check("model", "vision tower", "official, 3 pictures and a clip", off, end_to_end)


def picture_checks(model: Qwen, whole: nn.Module, random: torch.Generator) -> Iterator[Check]:
    """Pictures and clips in the prompt: positions and logits, padded batches, pieces, decoding behind a picture."""
    config, device = model.config, model.head_weight.device
    tolerance = _tolerances(model.head_weight.dtype)[3]
    m = config.vision_config.spatial_merge_size
    picture, tall, clip = (2 * m, 3 * m), (5 * m, 2 * m), (3, 2 * m, 2 * m)

    def prompt(*rows):
        inputs = random_prompt(config, *rows, random=random)
        return {name: x.to(device) for name, x in inputs.items()}

    inputs = prompt([3, picture, 5, clip, 2, tall], [tall, picture, 4], [40])
    official = for_transformers(config, inputs)
    where = {name: x for name, x in inputs.items() if not name.startswith("pixel_values")}
    right, _ = whole.model.get_rope_index(**where, mm_token_type_ids=official["mm_token_type_ids"])
    real = inputs["attention_mask"].bool()
    wrong = (model.positions(**where) != right)[:, real].any(0).sum()
    yield Check("model", "positions, with pictures", f"official, {real.sum()} tokens", wrong.item(), 0)
    yield _check_logits(model, "logits, padded, with pictures", "official", model(**inputs)[real],
                        whole(**official).logits[real], tolerance)

    for what, row in (("a picture", [5, tall, 60]), ("a clip", [5, clip, 30]), ("both", [picture, 5, clip, tall, 9])):
        inputs = prompt(row)
        at_once = whole(**for_transformers(config, inputs)).logits
        yield _check_logits(model, f"logits with {what}", "official", model(**inputs), at_once, tolerance)

    ids, where = inputs["input_ids"], {name: inputs[name] for name in ("image_grid_thw", "video_grid_thw")}
    T, x, positions = ids.shape[1], model.embed(**inputs), model.positions(ids, **where)
    cache, logits, steps = model.new_cache(1, T), [], [4, 1, T - 13] + [1] * 8
    for piece in torch.arange(T, device=device).split(steps):  # the first cuts the picture in two
        logits.append(model(ids[:, piece], None, positions[..., piece], cache=cache, inputs_embeds=x[:, piece]))
    yield _check_logits(model, "pictures in pieces", "official, at once", torch.cat(logits, dim=1), at_once, tolerance)

    cache = model.new_cache(1, T)
    model(**inputs | {"input_ids": ids[:, :-9]}, cache=cache)  # nine tokens of text come behind all pictures
    logits = torch.cat([model(piece, cache=cache) for piece in ids[:, -9:].split(1, dim=1)], dim=1)
    yield _check_logits(model, "decoding behind a picture", "official, at once", logits, at_once[:, -9:], tolerance)


def mtp_checks(model: Qwen, twin: nn.Module, random: torch.Generator) -> Iterator[Check]:
    """The head for multi-token prediction: text, a padded batch, and - if `twin` sees them - pictures."""
    _, even, uneven, pictured = _tolerances(model.head_weight.dtype)
    what, compared = "multi-token prediction", "a reference of official parts"

    ids = _ids(model, 1, 90, random)
    right = official_mtp_logits(model, twin, {"input_ids": ids})
    yield _check_logits(model, what, compared, model.mtp_logits(ids), right, even)

    mask = torch.ones(2, 90, dtype=torch.long, device=ids.device)
    mask[0, :30] = mask[1, 70:] = 0
    logits = model.mtp_logits(torch.cat((ids.roll(30, dims=1), ids)), mask)
    ours, right = torch.cat((logits[0, 30:], logits[1, :69])), torch.cat((right[0, :59], right[0, :69]))
    yield _check_logits(model, f"{what}, padded", f"{compared}, unpadded", ours, right, uneven)

    if hasattr(twin.model, "visual"):
        m = model.config.vision_config.spatial_merge_size
        inputs = random_prompt(model.config, [3, (4 * m, 2 * m), 30, (2, m, m), 5], random=random)
        inputs = {name: x.to(ids.device) for name, x in inputs.items()}
        right = official_mtp_logits(model, twin, inputs)
        yield _check_logits(model, f"{what}, with pictures", compared, model.mtp_logits(**inputs), right, pictured)


def official_mtp_logits(qwen: Qwen, twin: nn.Module, inputs: dict[str, Tensor], normed: bool = True) -> Tensor:
    """What the head for multi-token prediction should say, put together from `transformers`' parts.

    `transformers` drops this head, but its layer, its norms and its rotary embedding are those of the model: a language
    model of attention alone that ends in `mtp.norm` is the head, once the two vectors that it reads are made one.

    Args:
        twin: `official_twin(qwen)`, or the one with a tower where there are pictures in `inputs`.
        inputs: of `Qwen.forward`, by name; one row, without pads.
        normed: False reads the hidden state before the model's last norm, which is wrong, to see how wrong.

    Returns:
        (1, T - 1, vocab_size), as `Qwen.mtp_logits`.

    Raises:
        RuntimeError: a name or a shape of the head's layers is not the official one.
    """
    official, head = partial(official_class, qwen.config), qwen.mtp
    numbers = qwen.config.to_dict()["text_config"] | {
        "num_hidden_layers": len(head.layers), "layer_types": ["full_attention"] * len(head.layers)}
    config = official("TextConfig")(**numbers)
    with torch.device("meta"):
        layers = official("TextModel")(config).requires_grad_(False)
        norms = [official("RMSNorm")(config.hidden_size, eps=config.rms_norm_eps) for _ in range(2)]
    if qwen.config.text_config.num_experts:
        layers.set_experts_implementation("eager")
    layers.embed_tokens = None
    layers.load_state_dict({name: x for name, x in head.state_dict().items() if name.startswith(("layers.", "norm."))},
                           assign=True)
    layers.rotary_emb = official("TextRotaryEmbedding")(config).to(qwen.head_weight.device)
    for norm, ours in zip(norms, (head.pre_fc_norm_embedding, head.pre_fc_norm_hidden)):
        norm.weight = ours.weight

    language_model, seen = getattr(twin.model, "language_model", twin.model), {}
    hooks = [language_model.register_forward_pre_hook(lambda _, x, named: seen.update(named), with_kwargs=True),
             language_model.norm.register_forward_hook(lambda _, x, normed: seen.update(before=x[0], after=normed))]
    twin(**for_transformers(qwen.config, inputs))
    for hook in hooks:
        hook.remove()
    embeddings = seen.get("inputs_embeds")
    if embeddings is None:                                # as where the language model has no tower beside it
        embeddings = language_model.embed_tokens(inputs["input_ids"])
    hidden = seen["after" if normed else "before"]
    x = torch.cat((norms[0](embeddings[:, 1:]), norms[1](hidden[:, :-1])), dim=-1)
    positions = seen.get("position_ids")
    positions = None if positions is None else positions[..., :-1]
    x = layers.eval()(inputs_embeds=F.linear(x, head.fc.weight), position_ids=positions).last_hidden_state
    return F.linear(x, qwen.head_weight)


TEXTS = (  # of all kinds that a cut into words, a normal form or special tokens may treat differently
    "Ann has a red cup. Where is BOB now?", "what's ann's? I'LL say: they've 3,141 cups, he'd 15 hats", "",
    "  spaces,\n\n\ttabs,\r\nline ends  \n ", '<tools>\n{"name": "add_2", "parameters": {"a": [1, -2.5e3]}}\n</tools>',
    "<function=add>\n<parameter=a>\n40213\n</parameter>", "e\u0301 is é, Größer, naïve, señor, ﬁ",
    "привет, 東京 और हिन्दी", "🙂 👩‍👩‍👧 🇨🇭", "f(x) = x**2 // 10; # no_camelCase!? ...",
)  # fmt: skip
CHAT = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[1]},
        {"role": "user", "content": TEXTS[3]}]
TOOL = {"type": "function", "function": {"name": "Add_2", "description": "adds", "parameters": {
    "type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}}}


def _official_tokenizer(qwen, folder: Path | None) -> tuple:
    """(what `AutoTokenizer` makes of the folder, or `from_transformers` was given; or None, and why)"""
    given = getattr(qwen, "source_tokenizer", None)
    if given is not None or folder is None:
        return given, "this is a model without the folder of its checkpoint"
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(folder), ""
    except Exception as error:                            # the files are anybody's, and it fails in many ways
        return None, f"AutoTokenizer does not load it ({short(error)})"


def text_checks(tokenizer, official) -> Iterator[Check]:
    """The ids of texts and of a chat, beside those of the official tokenizer.

    For a model of the type `qwen3_5`, `AutoTokenizer` builds the official one - its cut into words, its normal form -
    around the vocabulary in tokenizer.json, whatever else that says; and most engines read with `AutoTokenizer`.
    """
    texts = [*TEXTS, " b".join(tokenizer.added_tokens)]
    odd = [text for text in texts if tokenizer.encode(text) != official.encode(text, add_special_tokens=False)]
    note = f"{len(odd)} of {len(texts)} differ, such as {short(repr(odd[0]))}" if odd else ""
    yield Check("model", "ids of texts", "AutoTokenizer", len(odd), 0, note)
    if tokenizer.chat_template is not None:
        tools = [TOOL] if tokenizer.supports_tools else None
        ours = tokenizer.encode_chat(CHAT, tools=tools)
        theirs = official.apply_chat_template(CHAT, tools=tools, add_generation_prompt=True, return_dict=False)
        yield Check("model", "ids of a chat", "AutoTokenizer", float(ours != theirs), 0)


def _processors(qwen, folder: Path | None, config: Config, tokenizer, reads_text) -> tuple:
    """(our processor, the official one, ""), or (None, None, why there are not both)."""
    settings = ("preprocessor_config.json", "video_preprocessor_config.json")
    if getattr(qwen, "source_processor", None) is not None:              # what `from_transformers` was given
        return qwen.processor, qwen.source_processor, ""
    if getattr(qwen, "source", None) is not None:
        return None, None, "from_transformers was not given what AutoProcessor loads"
    if folder is None or tokenizer is None:
        return None, None, "this is a model without the folder of its checkpoint and a tokenizer"
    if not (folder / "processor_config.json").exists() and not all((folder / name).exists() for name in settings):
        return None, None, f"the folder lacks {' or '.join(settings)}"
    if reads_text is None:
        return None, None, "there is no official tokenizer beside it"
    if not let_torchvision_in():
        return None, None, "the official processor needs torchvision, which is missing here (pip install torchvision)"
    import transformers

    from minqwen.media import Processor

    official = transformers.Qwen3VLProcessor(
        transformers.Qwen2VLImageProcessor.from_pretrained(folder),
        reads_text, transformers.Qwen3VLVideoProcessor.from_pretrained(folder))
    return Processor.from_folder(folder, config.vision_config), official, ""


def processor_checks(processor, official, tokenizer, random) -> list[Check]:
    """How our processor prepares pictures and clips, beside the official one."""
    from PIL import Image

    from minqwen.media import Clip

    def noise(*shape):
        return torch.randint(256, shape, generator=random, dtype=torch.uint8).numpy()

    pictures = [Image.fromarray(noise(h, w, 3)) for h, w in ((75, 50), (64, 64), (40, 200))]
    clip = noise(7, 48, 80, 3)
    image, video = (f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("image", "video"))
    text = f"One {image} and {image}, then a clip: {video}, and again {image}."
    images, videos = processor.images(pictures), processor.videos([Clip(clip, fps=4)])
    ids = tokenizer.encode(processor.expand(text, images, videos))

    text = text.replace(video, "<|video_pad|>")           # theirs would keep these marks around the marks of each slice
    theirs = official(text=[text], images=pictures, videos=[clip], return_tensors="pt", video_metadata=[
        {"total_num_frames": len(clip), "fps": 4, "frames_indices": list(range(len(clip)))}])
    compared = [
        ("pixels of pictures", images.pixel_values, theirs["pixel_values"]),
        ("grids of pictures", images.grid_thw, theirs["image_grid_thw"]),
        ("pixels of a clip", videos.pixel_values, theirs["pixel_values_videos"]),
        ("grid of a clip", videos.grid_thw, theirs["video_grid_thw"]),
        ("ids of pictures and timestamps", torch.tensor([ids]), theirs["input_ids"]),
    ]
    return [Check("model", what, "official processor", error(ours, right), 0) for what, ours, right in compared]


def _marks(config):
    return (config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id)


def random_ids(config: Config, B: int, T: int, random: torch.Generator) -> Tensor:
    """(B, T) tokens of text: any but the placeholders of pictures and clips."""
    vocab_size = config.text_config.vocab_size
    placeholders = sorted(id for id in _marks(config)[:2] if id < vocab_size)
    ids = torch.randint(vocab_size - len(placeholders), (B, T), generator=random)
    for id in placeholders:                               # the numbers from here on move up by one
        ids += ids >= id
    return ids


def random_prompt(config: Config, *rows: list, random: torch.Generator, side: str = "left") -> dict[str, Tensor]:
    """What `Qwen.forward` takes, by name, for rows of the kind [3, (4, 6), 5, (2, 4, 4)].

    These are three tokens of text, a picture of 4 x 6 patches, five of text, and a clip of two slices, 4 x 4
    patches each, either of them behind two tokens of text, its timestamp. Ids and pixels are noise. Shorter rows are
    padded on their `side`; without any there is no mask.
    """
    ids, grids = [], {config.image_token_id: [], config.video_token_id: []}
    for row in rows:
        ids.append([])
        for part in row:
            if isinstance(part, int):
                ids[-1] += random_ids(config, 1, part, random)[0].tolist()
                continue
            kind, (t, h, w) = (config.image_token_id, (1, *part)) if len(part) == 2 else (config.video_token_id, part)
            grids[kind].append((t, h, w))
            seen = [kind] * (h * w // config.vision_config.spatial_merge_size ** 2)
            for _ in range(t):
                timestamp = random_ids(config, 1, 2 if len(part) == 3 else 0, random)[0].tolist()
                ids[-1] += [*timestamp, config.vision_start_token_id, *seen, config.vision_end_token_id]
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_side=side)
    inputs = {"input_ids": pad([torch.tensor(row) for row in ids])}
    if len(set(map(len, ids))) > 1:
        inputs["attention_mask"] = pad([torch.ones(len(row), dtype=torch.long) for row in ids])
    for (pixels, grid), found in zip(PICTURES, grids.values()):
        if found:
            inputs[grid] = torch.tensor(found)
            inputs[pixels] = _pixels(config, inputs[grid], random)
    return inputs


PICTURES = (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw"))


def for_transformers(config: Config, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same for the official model, which wants to be told which tokens are a picture's (1) and a clip's (2)."""
    ids = inputs["input_ids"]
    if not any(grid in inputs for _, grid in PICTURES):
        return inputs
    return {**inputs, "mm_token_type_ids": (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id)}


def _pixels(config, grids, random):
    vision = config.vision_config
    numbers = vision.in_channels * vision.temporal_patch_size * vision.patch_size ** 2
    return torch.randn(int(grids.prod(-1).sum()), numbers, generator=random)


def _ids(model, B, T, random) -> Tensor:
    return random_ids(model.config, B, T, random).to(model.head_weight.device)


def _check_logits(model, what, compared, ours, theirs, tolerance) -> Check:
    """The error is the largest of all tokens; with experts in half precision, that of the median token. For where two
    experts are as probable, rounding chooses, and a token or two go elsewhere. What router and experts do on the same
    input is compared by itself."""
    off, note = error(ours, theirs), _margin(ours, theirs)
    if model.config.text_config.num_experts and _tolerances(ours.dtype) is HALF_PRECISION and off < torch.inf:
        ours, theirs = ours.float(), theirs.float()
        off = ((ours - theirs).abs().amax(-1) / theirs.abs().amax(-1)).median().item()
        note = "; ".join(["of the median token", note] if note else ["of the median token"])
    return Check("model", what, compared, off, tolerance, note)


def _tolerances(dtype):
    return FULL_PRECISION if dtype in (torch.float32, torch.float64) else HALF_PRECISION


def _margin(ours: Tensor, theirs: Tensor) -> str:
    """Where the most probable token differs: by how much they prefer their own to their second. Small is rounding."""
    differs = ours.argmax(-1) != theirs.argmax(-1)
    if not differs.any():
        return ""
    first, second = theirs[differs].float().topk(2).values.unbind(-1)
    return (f"top-1 differs at {differs.sum()} of {differs.numel()} positions, "
            f"where top-1 and top-2 are at most {(first - second).max():.1e} apart")


# -------------------------------------------------------------------------------------------------- ring 3: weights

# Public facts on Qwen/Qwen3.5-0.8B: transformers' integration tests (tests/models/qwen3_5/test_modeling_qwen3_5.py).
KNOWN_NAME = "Qwen3.5-0.8B"
KNOWN_IDS, KNOWN_ARGMAX = [1, 306, 4658, 278, 6593, 310, 2834, 338], [198, 74, 9230, 198, 1, 264, 1, 198]
KNOWN_PROMPT = "My favourite condiment is "
KNOWN_ANSWER = "100% real.\nThe 100% real is the only one that is"


def _known_outputs(name, model, tokenizer) -> tuple[list[Check], str]:
    """The answers that are publicly known, if this is the checkpoint that gave them: by name, by numbers, trained."""
    why = None
    if KNOWN_NAME not in name or f"{KNOWN_NAME}-" in name:
        why = f"this was not loaded as Qwen/{KNOWN_NAME}"
    elif model.config.text_config != Config.named(KNOWN_NAME).text_config:
        why = f"its configuration is not that of Qwen/{KNOWN_NAME}"
    elif not model.model.language_model.norm.weight.any():
        why = "its weights were never trained"
    if why:
        return [], f"Official weights: publicly known answers were not compared, because {why}."

    ids = torch.tensor([KNOWN_IDS], device=model.head_weight.device)
    logits = model(ids)[0].float()
    wrong = sum(a != b for a, b in zip(logits.argmax(-1).tolist(), KNOWN_ARGMAX, strict=True))
    checks = [Check("weights", "most probable tokens", "transformers' integration test, 8 ids", wrong, 0)]
    if tokenizer is None:
        return checks, f"Official weights: the known text of {KNOWN_NAME} was not compared, for want of a tokenizer."
    from minqwen.generate import generate

    prompt = torch.tensor([tokenizer.encode(KNOWN_PROMPT)], device=ids.device)
    answer = tokenizer.decode(generate(model, prompt, max_new_tokens=20, temperature=0.0)[0])
    checks.append(Check("weights", "greedy answer", "transformers' integration test, 20 tokens",
                        float(answer.strip() != KNOWN_ANSWER), 0, f"it says {answer!r}"))
    return checks, f"Official weights: compared with the publicly known answers of Qwen/{KNOWN_NAME}."


# ------------------------------------------------------------------------------------------------ one comparison


def check_close(name: str, ours: Tensor | dict[str, Tensor], theirs: Tensor | dict[str, Tensor],
                rtol: float = 2e-5) -> None:
    """Raise unless `ours` is `theirs` up to `rtol` of the largest entry; then print `✓ name`, and what was measured.

    Whole numbers and truth values have to be equal. Of several tensors, by names that both have, each is judged by
    itself, and the worst is told.

    Raises:
        AssertionError: one sentence with the error, or with what cannot be compared.
    """
    several = isinstance(ours, dict) and isinstance(theirs, dict)
    if not several:
        ours, theirs = {"": ours}, {"": theirs}
    if ours.keys() != theirs.keys() or not ours:
        raise AssertionError(f"{name}: there should be {', '.join(map(str, theirs)) or 'something'}, but there "
                             f"is {', '.join(map(str, ours)) or 'nothing'}.")
    worst = worst_bound = 0.0
    for what in theirs:
        whose = f"{name}: {what}" if several else name
        mine, right = (_numbers(whose, some[what]) for some in (ours, theirs))
        if mine.shape != right.shape:
            raise AssertionError(f"{whose}: the shape should be {tuple(right.shape)} but is {tuple(mine.shape)}.")
        wide = torch.complex128 if mine.is_complex() or right.is_complex() else torch.float64
        bound = rtol if wide.is_complex or mine.is_floating_point() or right.is_floating_point() else 0
        off = error(mine.cpu().to(wide), right.cpu().to(wide))
        if not off <= bound:
            raise AssertionError(f"{whose}: the largest error is {off:.1e} of the largest value, and {bound:.0e} is "
                                 f"allowed.")
        worst, worst_bound = max(worst, off), max(worst_bound, bound)
    print(f"✓ {name} {measured(worst, worst_bound)}")


def _numbers(whose: str, x) -> Tensor:
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as cause:
        raise AssertionError(f"{whose}: a {type(x).__name__} is no tensor ({short(cause)}); several tensors are "
                             f"compared by names, as {{name: tensor}}.") from None
    if not x.numel():
        raise AssertionError(f"{whose}: there are no numbers to compare, the shape is {tuple(x.shape)}.")
    return x


def measured(off: float, bound: float) -> str:
    """How near it was, as all verdicts end: "(within 1e-6; 2e-5 is allowed)", or "(exactly)" where nothing else is.

    off: the error, at most `bound`. It is rounded up to a power of ten, which most machines share; `conftest.py` keeps
    nbval from comparing it where they do not.
    """
    near = f"within {_plain(min(10.0 ** math.ceil(math.log10(off)), bound))}" if off else "exactly"
    return f"({near}; {_plain(bound)} is allowed)" if bound else f"({near})"


def _plain(x: float) -> str:
    digits, power = f"{x:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"
