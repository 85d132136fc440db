"""Change what a layer computes, for a while, and see what becomes of it.

    with minqwen.edited(qwen, Edit("clear", layer=1, head=2, token=20)):
        print(qwen.chat(story))                 # that memory has forgotten what came before token 20

    Edit("beta", token=20)                      # from token 20 on no memory is written
    Edit("alpha", layer=[0, 1])                 # in layers 0 and 1 nothing ever fades
    Edit("gate", layer=3, head=0)               # nothing of that attention head's answer gets through
    Edit("forget", layer=3, token=20)           # from token 20 on that attention layer looks back no further than there

An edit stands between a layer and its kernel, as a trace does, and `model.py` knows nothing of it. At the end of the
`with` the model is as it was, whatever happened inside. To look at the edited memories, open the trace first:

    with minqwen.trace(qwen) as t, minqwen.edited(qwen, Edit("beta", token=20)):
        qwen.model(input_ids)
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Real
from operator import index

import torch
from torch import Tensor

from .errors import QwenError
from .model import Qwen
from .trace import arguments, replace

__all__ = ["Edit", "edited"]

KINDS = {                                       # what: the kind of layer that has it, and the value if none is given
    "clear": ("linear_attention", 0.0), "alpha": ("linear_attention", 1.0), "beta": ("linear_attention", 0.0),
    "gate": ("full_attention", 0.0), "forget": ("full_attention", 0.0),
}  # fmt: skip
EMPTY = -104.0                                  # exp of it is 0 in float32; much less would blur the sums of log decays


@dataclass(frozen=True)
class Edit:
    """One change. What is not said means all of them: every layer that has such a thing, every head, every token.

    Attributes:
        what: "clear"   a Gated DeltaNet memory is emptied when `token` comes, before that one writes: its gate alpha is
                        0 there, once;
              "alpha"   the gate, the share of the memory that stays at each token, is `value`; 1, nothing fades, if
                        none is given;
              "beta"    the writing strength is `value`; 0, nothing is erased and nothing written, if none is given;
              "gate"    an attention layer's output gate is `value`; 0, closed, if none is given;
              "forget"  an attention layer's keys and values from before `token` are gone when it comes, for all heads.
        layer: the number of a layer in the model, or several.
        head: a value head of Gated DeltaNet, a query head of attention, or several.
        token: the first token for which it holds. Tokens are counted from 0 in each row, pads left out, those that a
            cache has read before included.
        value: from 0 to 1.

    Raises:
        QwenError: no such thing to edit, or a number that cannot be.
    """

    what: str
    layer: int | Sequence[int] | None = None
    head: int | Sequence[int] | None = None
    token: int = 0
    value: float | None = None

    def __post_init__(self):
        if self.what not in KINDS:
            raise QwenError(f"There is no edit {self.what!r}; there are {', '.join(KINDS)}.")
        if self.what in ("clear", "forget") and self.value is not None:
            raise QwenError("A memory is cleared or it is not: leave out `value`.")
        if self.what == "forget" and self.head is not None:
            raise QwenError("An attention layer forgets for all of its heads: leave out `head`.")
        if self.value is not None and not (isinstance(self.value, Real) and 0 <= self.value <= 1):
            raise QwenError(f"The value of an edit is from 0 to 1, not {self.value!r}.")
        try:
            index(self.token), [_several(numbers) for numbers in (self.layer, self.head) if numbers is not None]
        except TypeError:
            raise QwenError(f"An edit's token is a whole number, and so are its layer and head, or several of them; "
                            f"not token={self.token!r}, layer={self.layer!r}, head={self.head!r}.") from None
        if self.token < 0:
            raise QwenError(f"Tokens are counted from 0, so an edit cannot begin at {self.token}.")

    @property
    def becomes(self) -> float:
        """The value that holds."""
        return KINDS[self.what][1] if self.value is None else self.value

    def layers(self, config) -> list[int]:
        """The layers of a model that it changes, by their numbers. config: a `TextConfig`."""
        return [i for i, kind in enumerate(config.layer_types)
                if kind == KINDS[self.what][0] and (self.layer is None or i in _several(self.layer))]

    def heads(self, heads: int, device=None) -> Tensor:
        """(heads,) bool: the heads that it changes, of so many."""
        chosen = range(heads) if self.head is None else _several(self.head)
        return torch.tensor([h in chosen for h in range(heads)], device=device)

    def check(self, config) -> None:
        """Raise a QwenError if a model with this `TextConfig` has no such layer or head."""
        kind = KINDS[self.what][0]
        of = [i for i, other in enumerate(config.layer_types) if other == kind]
        name, heads = (("Gated DeltaNet", config.linear_num_value_heads) if kind == "linear_attention" else
                       ("attention", config.num_attention_heads))
        if not of:
            raise QwenError(f"This model has no {name} layer, so there is no {self.what} to edit.")
        for layer in [] if self.layer is None else _several(self.layer):
            if layer not in of:
                raise QwenError(f"Layer {layer} has no {self.what!r} to edit; the {name} layers are {of}.")
        for head in [] if self.head is None else _several(self.head):
            if head not in range(heads):
                raise QwenError(f"There is no head {head} to edit; {name} layers have {heads}, counted from 0.")


@contextmanager
def edited(qwen, *edits: Edit) -> Iterator[None]:
    """The model with these edits, as long as the `with` lasts.

    A later edit overrules an earlier one; but what is cleared is empty, whatever is said of its gate.

    Args:
        qwen: what `minqwen.load()` gives, or a `Qwen`.

    Raises:
        QwenError: an edit that does not fit this model - told before anything is changed; packed sequences.
    """
    model = qwen if isinstance(qwen, Qwen) else getattr(qwen, "model", None)
    if not isinstance(model, Qwen):
        raise QwenError(f"Edits need what minqwen.load() gives, or a Qwen, not a {type(qwen).__name__}.")
    config = model.config.text_config
    for edit in edits:
        if not isinstance(edit, Edit):
            raise QwenError(f"An edit is made by minqwen.Edit, such as Edit('beta', token=20), and {edit!r} is none.")
        edit.check(config)
    with ExitStack() as stack:                  # should anything fail, what was done so far is undone
        places = _follow(stack, model)
        for i, layer in enumerate(model.model.language_model.layers):
            ours = [edit for edit in edits if i in edit.layers(config)]
            ours.sort(key=lambda edit: edit.what == "clear")
            if ours and layer.layer_type == "linear_attention":
                _edit_delta_rule(stack, layer.linear_attn, ours, places)
            elif ours:
                _edit_gate(stack, layer.self_attn, [edit for edit in ours if edit.what == "gate"], places)
                _edit_past(stack, layer.self_attn, [edit for edit in ours if edit.what == "forget"], places)
        yield


class _Places:
    """Where the tokens of the forward under way stand in their rows, from 0; -1 for a pad."""

    in_order: Tensor                            # (B, T), every token where it came in
    packed: Tensor                              # (B, T), the real ones first, as Gated DeltaNet layers have them
    so_far: Tensor                              # (B, S), in order, those that a cache has read before included


def _follow(stack, model) -> _Places:
    """Keep the places up to date with every forward."""
    places, hidden_states = _Places(), model.hidden_states

    def followed(*args, **kwargs):
        given = arguments(args, kwargs)
        ids, mask, cache = given["input_ids"], given.get("attention_mask"), given.get("cache")
        if given.get("cu_seqlens") is not None:
            raise QwenError("Edits follow one sequence in each row; run packed sequences (cu_seqlens) one by one.")
        B, T = ids.shape
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask[:, -T:].bool()
        past = real[:, :0] if cache is None else cache.valid[:, : cache.length]
        before, so_far = past.sum(-1, keepdim=True), torch.cat((past, real), dim=1)         # (B, 1), (B, S)
        places.so_far = (so_far.cumsum(-1) - 1).masked_fill(~so_far, -1)
        order = torch.arange(T, device=ids.device).expand(B, T)
        places.in_order = (real.cumsum(-1) - 1 + before).masked_fill(~real, -1)
        places.packed = (order + before).masked_fill(order >= real.sum(-1, keepdim=True), -1)
        return hidden_states(*args, **kwargs)

    replace(stack, model, "hidden_states", followed)
    return places


def _edit_delta_rule(stack, mixer, edits, places):
    rule = mixer.delta_rule

    def edited_rule(q, k, v, g, beta, state, *rest):
        for edit in edits:
            first = places.packed == edit.token if edit.what == "clear" else places.packed >= edit.token    # (B, T)
            here = first[..., None] & edit.heads(g.shape[-1], g.device)                                     # (B, T, Hv)
            if edit.what == "beta":
                beta = beta.masked_fill(here, edit.becomes)
            else:
                g = g.masked_fill(here, max(EMPTY, torch.tensor(edit.becomes).log().item()))
        return rule(q, k, v, g, beta, state, *rest)

    replace(stack, mixer, "delta_rule", edited_rule)


def _edit_gate(stack, mixer, edits, places):
    gated = mixer.gated

    def edited_gate(o, gate):                   # (B, T, Hq, D) each
        through = gated(o, gate)
        for edit in edits:
            here = (places.in_order >= edit.token)[..., None] & edit.heads(o.shape[2], o.device)            # (B, T, Hq)
            through = torch.where(here[..., None], o * edit.becomes, through)
        return through

    replace(stack, mixer, "gated", edited_gate)


def _edit_past(stack, mixer, edits, places):
    attend = mixer.attend

    def edited_attend(q, k, v, mask):           # (B or 1, 1, T, S), or None: all of the past
        T, S = q.shape[2], k.shape[2]
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T) if mask is None else mask
        for edit in edits:
            looks, gone = places.in_order >= edit.token, places.so_far < edit.token         # (B, T), (B, S)
            mask = mask & ~(looks[:, None, :, None] & gone[:, None, None, :])
        return attend(q, k, v, mask)

    replace(stack, mixer, "attend", edited_attend)


def _several(numbers) -> list[int]:
    try:
        return [index(numbers)]
    except TypeError:
        return [index(number) for number in numbers]
