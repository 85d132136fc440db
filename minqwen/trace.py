"""Look inside: what every layer computed for every token, and every state of every memory.

    with minqwen.trace(qwen) as t:                      # or: t = minqwen.trace(qwen).run("Ann has a red cup.")
        qwen.model(input_ids)
    t.tokens, t.logits
    t.layers[0].alpha, t.layers[0].beta                 # a Gated DeltaNet layer: (B, T, Hv) each
    t.layers[0].state(t=5, head=2)                      # (Dk, Dv), its memory after the sixth token
    t.layers[3].attention                               # a softmax map (B, Hq, T, S); for layer 0 the effective one

A trace stands between each layer and its kernel for as long as the `with` lasts, and takes down what goes in and out;
`model.py` knows nothing of it. Only that is kept. States, answers and maps are derived when asked for, head by head.

Several forwards on one cache - a prefill, then decoding - are one record, joined along the tokens. A forward that does
not carry on where the last one ended starts a new record. Symbols are those of `model.py`; t counts tokens from 0.
"""

import inspect
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

from .delta_rule import effective_attention, full_precision
from .errors import QwenError, short
from .model import MixtureOfExperts, Qwen

__all__ = ["Answers", "AttentionRecord", "DeltaRecord", "Trace", "trace"]


def trace(qwen) -> "Trace":
    """A trace of a loaded checkpoint (`minqwen.load`) or of a bare `Qwen`: use it in a `with`, or call its `run`."""
    return Trace(qwen)


class Joined:
    """A recorded tensor: one piece from each forward, joined along `dim` when it is looked at."""

    def __init__(self, dim: int):
        self.dim = dim

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, record, owner=None):
        if record is None:
            return self
        pieces = record.pieces[self.name]
        if len(pieces) > 1:
            pieces[:] = [torch.cat(pieces, self.dim)]
        return pieces[0]


class Routed(Joined):
    """The same, of what only a mixture of experts has."""

    def __get__(self, record, owner=None):
        if record is not None and self.name not in record.pieces:
            raise QwenError(f"Layer {record.index} has an MLP and no experts, and so no {self.name}: take a "
                            "mixture of experts, such as Qwen3.5-35B-A3B.")
        return super().__get__(record, owner)


# ------------------------------------------------------------------------------------------- a Gated DeltaNet layer


class DeltaStep(NamedTuple):
    """What one token does to one memory, part by part."""

    decayed: Tensor           # (Dk, Dv)  alpha S, the memory as the token finds it, a little faded
    answer: Tensor            # (Dv,)     what that answers to the token's key
    erased: Tensor            # (Dk, Dv)  k (beta answer)^T
    written: Tensor           # (Dk, Dv)  k (beta v)^T

    @property
    def after(self) -> Tensor:
        """(Dk, Dv): the memory after the token."""
        return self.decayed - self.erased + self.written


def delta_step(state, k, v, alpha, beta) -> DeltaStep:
    """One token's step of the gated delta rule for one head, taken apart.

    state (Dk, Dv), k (Dk,), v (Dv,), alpha and beta numbers: tensors, or NumPy's arrays. Every sum and product has its
    order, so that a page in the browser, which does the same, comes to the same bits.
    """
    decayed = alpha * state
    answer = ask(decayed, k)
    return DeltaStep(decayed, answer, k[:, None] * (beta * answer), k[:, None] * (beta * v))


def ask(state, k):
    """(Dv,): S^T k, what a memory (Dk, Dv) answers to a key (Dk,); summed from the first key dimension to the last."""
    return (k[:, None] * state).cumsum(0)[-1]


@dataclass
class Answers:
    """What a memory answers when it is asked with the keys it has seen; one row for each of N keys, oldest first."""

    values: Tensor            # (N, Dv)  S^T k_j
    cosine: Tensor            # (N,)     how close that is to v_j, the value that came with the key: 1 is perfect recall
    latest: Tensor            # (N,)     the last token with (nearly) the same key: its value *should* be answered
    cosine_latest: Tensor     # (N,)     how close the answer is to that token's value


class OtherKind(QwenError, AttributeError):
    """What one kind of layer has was asked of the other."""


class Record:
    """What the records of both kinds of layers share: each knows what the other one has.

    In a mixture of experts each has, besides its own,

    router_logits  (B, T, num_experts)  what the router says of each expert, before its softmax
    experts        (B, T, top_k)        which experts read the token, the most probable first
    expert_weights (B, T, top_k)        what each of them counts; they add up to one
    shared_gate    (B, T)               how loud the shared expert is, from 0 to 1
    """

    router_logits, experts, expert_weights, shared_gate = (Routed(1) for _ in range(4))

    def __getattr__(self, name):
        for other, where in ((DeltaRecord, "delta_layers"), (AttentionRecord, "attention_layers")):
            if hasattr(other, name):
                raise OtherKind(f"Layer {self.index} is {self.title} and has no {name}: ask one of {where}.")
        raise AttributeError(f"A {type(self).__name__} has no {name}.")


class DeltaRecord(Record):
    """What one Gated DeltaNet layer computed.

    q, k           (B, T, Hk, Dk)       after convolution and l2norm; o = S^T q Dk ** -0.5
    v, z, o        (B, T, Hv, Dv)       value, output gate (before its silu), what was read - before norm and gate
    g, beta, alpha (B, T, Hv)           log decay, writing strength, exp(g)
    initial_state  (B, Hv, Dk, Dv)      the memory before the first recorded token; float32

    Padding is supported: a padded token stands in its place with zeros for all of these (so alpha = 1), and leaves the
    memory as it is. Methods look at one row of the batch and one value head; a negative t counts from the end.
    """

    kind, title = "linear_attention", "Gated DeltaNet"
    q, k, v, g, beta, z, o = (Joined(1) for _ in range(7))

    def __init__(self, index: int):
        self.index = index
        self.pieces = {name: [] for name in ("q", "k", "v", "g", "beta", "z", "o")}
        self.initial_state = None
        self._reached = {}               # (row, head): (t, state), how far a memory was last followed

    @property
    def alpha(self) -> Tensor:
        """(B, T, Hv): how much of the memory each token lets stand."""
        return full_precision(self.g).exp()

    @property
    def attention(self) -> Tensor:
        """(B, Hv, T, T): the effective attention A. A v = o if the memory began empty; else the rest is from before."""
        return effective_attention(self.q, self.k, self.g, self.beta)

    def decayed(self, t: int, head: int, row: int = 0) -> Tensor:
        """(Dk, Dv): alpha S, the memory as token t finds it, a little faded."""
        return self._step(t, head, row).decayed

    def erase(self, t: int, head: int, row: int = 0) -> Tensor:
        """(Dk, Dv): what token t takes away - the old answer to its key, k (beta S^T k)^T with S decayed."""
        return self._step(t, head, row).erased

    def write(self, t: int, head: int, row: int = 0) -> Tensor:
        """(Dk, Dv): what token t puts in its place, k (beta v)^T."""
        return self._step(t, head, row).written

    def error(self, t: int, head: int, row: int = 0) -> Tensor:
        """(Dv,): v - S^T k, what the decayed memory's answer to token t's key lacks."""
        return full_precision(self.v[row, t, head]) - self._step(t, head, row).answer

    def state(self, t: int, head: int, row: int = 0) -> Tensor:
        """(Dk, Dv): the memory after token t, decayed(t) - erase(t) + write(t) exactly. Going on is quick."""
        t = self._token(t, head, row)
        reached, state = self._reached.get((row, head), (-1, None))
        if reached > t or state is None:
            reached, state = -1, self.initial_state[row, head]
        for step in range(reached + 1, t + 1):
            state = self._step(step, head, row, state).after
        self._reached[row, head] = t, state
        return state

    def states(self, head: int | None = None, row: int = 0) -> Tensor:
        """(T + 1, Dk, Dv) for one head, (T + 1, Hv, Dk, Dv) for all: the memory at first, then after each token."""
        _, T, Hv, _ = self.v.shape
        if head is None:
            return torch.stack([self.states(h, row) for h in range(Hv)], dim=1)
        after = [self.state(t, head, row) for t in range(T)]
        return torch.stack([self.initial_state[row, head], *after])

    def answers(self, t: int, head: int, row: int = 0, same: float = 0.9) -> Answers:
        """What the memory after token t answers to each key it has met up to then.

        Args:
            same: two keys count as one when the cosine between them is at least this.
        """
        t = self._token(t, head, row)
        k = full_precision(self.k[row, : t + 1, head // self._group])                       # (N, Dk)
        v = full_precision(self.v[row, : t + 1, head])                                      # (N, Dv)
        values = k @ self.state(t, head, row)                                               # (N, Dv)
        alike = F.cosine_similarity(k[:, None], k[None], dim=-1) >= same                    # (N, N)
        alike.fill_diagonal_(True)
        latest = (alike * torch.arange(1, t + 2, device=k.device)).argmax(-1)
        return Answers(values, F.cosine_similarity(values, v, dim=-1), latest,
                       F.cosine_similarity(values, v[latest], dim=-1))

    @property
    def _group(self) -> int:
        """How many value heads share a key head."""
        return self.v.shape[2] // self.k.shape[2]

    def _token(self, t: int, head: int, row: int) -> int:
        B, T, Hv, _ = self.v.shape
        if not (-T <= t < T and 0 <= head < Hv and 0 <= row < B):
            raise QwenError(f"There is no token {t}, head {head}, row {row} here: layer {self.index} has {Hv} value "
                            f"heads, and the record holds {T} tokens in {B} rows; all are counted from 0.")
        return t % T

    def _step(self, t, head, row, before=None) -> DeltaStep:
        """The step of token t; `before` is the state it meets, where that is known."""
        t = self._token(t, head, row)
        if before is None:
            before = self.state(t - 1, head, row) if t else self.initial_state[row, head]
        k, v, g, beta = (full_precision(x) for x in (self.k[row, t, head // self._group], self.v[row, t, head],
                                                     self.g[row, t, head], self.beta[row, t, head]))
        return delta_step(before, k, v, g.exp(), beta)

    def __repr__(self) -> str:
        (B, T, Hk, Dk), (Hv, Dv) = self.k.shape, self.v.shape[2:]
        return f"DeltaRecord(layer {self.index}: {B} x {T} tokens, {Hk} key and {Hv} value heads of {Dk} x {Dv})"


# ---------------------------------------------------------------------------------------------- an attention layer


class AttentionRecord(Record):
    """What one gated attention layer computed.

    q              (B, Hq, T, D)        after norm and rotary
    k, v           (B, Hkv, S, D)       of all tokens there have been, those before the record too: S >= T
    o              (B, Hq, T, D)        softmax(q k^T / sqrt(D)) v, before the gate
    gate           (B, T, Hq, D)        before its sigmoid
    mask           (B or 1, 1, T, S)    True where a query may look
    """

    kind, title = "full_attention", "gated attention"
    q, k, v, o, gate = Joined(2), Joined(2), Joined(2), Joined(2), Joined(1)

    def __init__(self, index: int):
        self.index = index
        self.pieces = {name: [] for name in ("q", "k", "v", "o", "gate", "mask")}

    @property
    def mask(self) -> Tensor:
        S, masks = self.k.shape[2], self.pieces["mask"]
        B = max(mask.shape[0] for mask in masks)
        return torch.cat([F.pad(mask, (0, S - mask.shape[3])).expand(B, -1, -1, -1) for mask in masks], dim=2)

    @property
    def attention(self) -> Tensor:
        """(B, Hq, T, S): who looks where; every row sums to one. float32."""
        q, k = full_precision(self.q), full_precision(self.k)
        k = repeat(k, "b h s d -> b (h r) s d", r=q.shape[1] // k.shape[1])
        scores = (q @ k.mT) * q.shape[-1] ** -0.5
        return scores.masked_fill(~self.mask, -torch.inf).softmax(-1)

    def __repr__(self) -> str:
        (B, Hq, T, D), (Hkv, S) = self.q.shape, self.k.shape[1:3]
        return (f"AttentionRecord(layer {self.index}: {B} x {T} tokens looking at {S}, "
                f"{Hq} query and {Hkv} key-value heads of {D})")


# -------------------------------------------------------------------------------------------------------- the trace


class Trace:
    """Records a model's forwards while it is open. See the top of this file.

    input_ids      (B, T)               the record's tokens
    valid          (B, T)               False where there is padding
    tokens         list of T strings    of the first row; `texts(row)` for another
    logits         (B, N, vocabulary)   as the model returned them: N < T where it was told to keep fewer
    media          dict of tensors      its pictures and clips in order of reading, by the names of the arguments of
                                        `Qwen.forward` (pixel_values, image_grid_thw, ...), as far as there are any
    layers         a `DeltaRecord` or `AttentionRecord` each; `delta_layers`, `attention_layers`: one kind
    """

    input_ids, valid, logits = (Joined(1) for _ in range(3))

    def __init__(self, qwen):
        self.qwen, self.model = qwen, qwen if isinstance(qwen, Qwen) else getattr(qwen, "model", None)
        self.tokenizer = getattr(qwen, "tokenizer", None)
        if not isinstance(self.model, Qwen):
            raise QwenError(f"A trace needs what minqwen.load() gives, or a Qwen, not a {type(qwen).__name__}.")
        self._open = None                # what has to be put back
        self._now = None                 # layer index -> what the forward under way has shown so far
        self._cache, self._length = None, 0
        self._embedded = {}              # the pictures that the model looked at last
        self._new_record()

    def run(self, text) -> "Trace":
        """Trace one forward, without gradients.

        Args:
            text: a string, a list of chat messages (with their pictures), a list of ids, or ids as a tensor (B, T).
        """
        with self, torch.no_grad():
            ids, media = self._inputs(text)
            self.model(ids, **media)
        return self

    @property
    def layers(self) -> list[DeltaRecord | AttentionRecord]:
        if not self.pieces["input_ids"]:
            raise QwenError("Nothing is traced yet: run the model in `with minqwen.trace(qwen) as t:`, or t.run(text).")
        return self._layers

    @property
    def delta_layers(self) -> list[DeltaRecord]:
        return [layer for layer in self.layers if layer.kind == "linear_attention"]

    @property
    def attention_layers(self) -> list[AttentionRecord]:
        return [layer for layer in self.layers if layer.kind == "full_attention"]

    @property
    def tokens(self) -> list[str]:
        return self.texts(0)

    def texts(self, row: int = 0) -> list[str]:
        """Each token's text; its id in digits where there is no tokenizer."""
        ids = self.input_ids[row].tolist() if self.layers else []
        if self.tokenizer is None:
            return [str(id) for id in ids]
        return [self.tokenizer.decode([id], skip_special_tokens=False) for id in ids]

    def __len__(self) -> int:
        return self.input_ids.shape[1] if self.pieces["input_ids"] else 0

    def __repr__(self) -> str:
        return f"Trace({len(self)} tokens, {len(self._layers)} layers)"

    # ------------------------------------------------------------------------------- standing between layer and kernel

    def __enter__(self) -> "Trace":
        if self._open is not None:
            raise QwenError("This trace is open already; make another with minqwen.trace().")
        with ExitStack() as stack:       # should anything fail here, what was done so far is undone
            hook = self.model.register_forward_pre_hook(self._begin, with_kwargs=True)
            stack.callback(hook.remove)
            self._watch_pictures(stack)
            for i, layer in enumerate(self.model.model.language_model.layers):
                if layer.layer_type == "full_attention":
                    self._watch_attention(stack, i, layer.self_attn)
                else:
                    self._watch_delta_rule(stack, i, layer.linear_attn)
                if isinstance(layer.mlp, MixtureOfExperts):
                    self._watch_experts(stack, i, layer.mlp)
            stack.callback(self.model.register_forward_hook(self._end, with_kwargs=True).remove)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._open.close()
        self._open = self._now = self._cache = None

    def _begin(self, model, args, kwargs):
        if arguments(args, kwargs).get("cu_seqlens") is not None:
            raise QwenError("A trace follows one sequence in each row; trace packed sequences (cu_seqlens) one by one.")
        self._now = {i: {} for i in range(len(self._layers))}

    def _watch_pictures(self, stack):
        embed = self.model.embed

        def watched_embed(*args, **kwargs):
            x = embed(*args, **kwargs)
            given = arguments(args, kwargs, Qwen.embed)
            # a prompt that is read in pieces is embedded before its first forward: whichever comes next takes them over
            self._embedded = {name: x for name, x in given.items() if name != "input_ids" and x is not None}
            return x

        replace(stack, self.model, "embed", watched_embed)

    def _watch_delta_rule(self, stack, i, mixer):
        rule, padding = mixer.delta_rule, None

        def in_place(x):                 # the layer has real tokens first, pads last; the record as they stand
            x = x.detach()
            return x if padding is None else padding.unpack(x.flatten(2)).view_as(x)

        def before(mixer, args):
            nonlocal padding
            padding = args[1].padding

        def delta_rule(q, k, v, g, beta, state, *rest):
            initial = state if state is None else state.detach().clone()                    # decoding writes into it
            o, state = rule(q, k, v, g, beta, state, *rest)
            if self._now is not None:
                seen = {"q": q, "k": k, "v": v, "g": g, "beta": beta, "o": o}
                self._now[i] = {name: in_place(x) for name, x in seen.items()}
                self._now[i]["initial_state"] = torch.zeros_like(state).detach() if initial is None else initial
            return o, state

        def gate(norm, args):
            if self._now is not None:
                self._now[i]["z"] = in_place(args[1])

        replace(stack, mixer, "delta_rule", delta_rule)
        stack.callback(mixer.register_forward_pre_hook(before).remove)
        stack.callback(mixer.norm.register_forward_pre_hook(gate).remove)

    def _watch_attention(self, stack, i, mixer):
        attend, gated = mixer.attend, mixer.gated

        def watched_attend(q, k, v, mask):
            o = attend(q, k, v, mask)
            if self._now is not None:
                T, S = q.shape[2], k.shape[2]
                if mask is None:
                    mask = torch.ones(1, 1, T, S, dtype=torch.bool, device=q.device).tril(S - T)
                self._now[i] = {"q": q.detach(), "k": k.detach(), "v": v.detach(), "o": o.detach(), "mask": mask}
            return o

        def watched_gated(o, gate):
            if self._now is not None:
                self._now[i]["gate"] = gate.detach()
            return gated(o, gate)

        replace(stack, mixer, "attend", watched_attend)
        replace(stack, mixer, "gated", watched_gated)

    def _watch_experts(self, stack, i, mixture):
        def watched(mixture, args, y):
            if self._now is not None:
                x, = args                                                                   # (B, T, hidden_size)
                weights, experts = mixture.gate(x)       # once more: what it chose has no batch and no tokens
                seen = {"router_logits": F.linear(x, mixture.gate.weight), "experts": experts,
                        "expert_weights": weights, "shared_gate": mixture.shared_expert_gate(x).sigmoid().squeeze(-1)}
                self._now[i] |= {name: x.detach() for name, x in seen.items()}

        stack.callback(mixture.register_forward_hook(watched).remove)

    def _end(self, model, args, kwargs, logits):
        """A forward came to its end: take over what it showed."""
        given = arguments(args, kwargs)
        ids, mask, cache = given["input_ids"], given.get("attention_mask"), given.get("cache")
        (B, T), length = ids.shape, 0 if cache is None else cache.length                    # length: with these tokens
        carries_on = (cache is not None and cache is self._cache and length - T == self._length
                      and self.input_ids.shape[0] == B)
        if not carries_on:
            self._new_record()
        self._cache, self._length = cache, length

        valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask[:, -T:].bool()
        for name, piece in (("input_ids", ids), ("valid", valid), ("logits", logits)):
            self.pieces[name].append(piece.detach())
        for name, piece in self._embedded.items():
            before = [self.media[name]] if name in self.media else []
            self.media[name] = torch.cat([*before, piece.detach()])
        self._embedded = {}
        for layer in self._layers:
            seen = self._now[layer.index]
            if layer.kind == "linear_attention":
                initial_state = seen.pop("initial_state")
                layer.initial_state = layer.initial_state if carries_on else initial_state
                layer._reached.clear()
            else:
                # a cache hands out all keys there are, in its own storage: take the new ones, and a copy
                new = slice(-T, None) if carries_on else slice(None)
                seen["k"], seen["v"] = seen["k"][:, :, new].clone(), seen["v"][:, :, new].clone()
            for name, x in seen.items():
                layer.pieces.setdefault(name, []).append(x)
        self._now = None

    def _new_record(self):
        kinds = {"linear_attention": DeltaRecord, "full_attention": AttentionRecord}
        self._layers = [kinds[kind](i) for i, kind in enumerate(self.model.config.text_config.layer_types)]
        self.pieces = {"input_ids": [], "valid": [], "logits": []}
        self.media = {}

    def _inputs(self, text) -> tuple[Tensor, dict]:
        """Ids, (B, T), and the pictures among them."""
        media, is_chat = {}, isinstance(text, list) and text and isinstance(text[0], dict)
        if (isinstance(text, str) or is_chat) and self.tokenizer is None:
            raise QwenError("There is no tokenizer here to read text with; give token ids instead.")
        if isinstance(text, str):
            text = self.tokenizer.encode(text)
        elif is_chat and hasattr(self.qwen, "inputs"):
            inputs = self.qwen.inputs(text)
            text, media = inputs.ids, inputs.media
        elif is_chat:
            text = self.tokenizer.encode_chat(text)
        try:
            ids = torch.as_tensor(text, device=self.model.head_weight.device)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            ids = None
        if ids is None or ids.dtype == torch.bool or ids.is_floating_point():
            raise QwenError(f"What is read is one text, one chat, or token ids, which are whole numbers, and not "
                            f"{short(repr(text))}.")
        ids = ids.long()
        return rearrange(ids, "t -> 1 t") if ids.ndim == 1 else ids, media


def arguments(args, kwargs, method=Qwen.hidden_states) -> dict:
    """The arguments of a forward, or of another method, by name."""
    return dict(zip(inspect.signature(method).parameters, (None, *args), strict=False)) | kwargs


def replace(stack, module, name, function):
    """Let `module.name` be `function` till the stack closes; then the class's method again, or an outer trace's."""
    outer = module.__dict__.get(name)
    setattr(module, name, function)
    stack.callback(lambda: module.__dict__.pop(name) if outer is None else setattr(module, name, outer))
