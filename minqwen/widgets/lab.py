"""The memory lab: change what memories and gates do, and see how the next token and the answer change.

Here the kernel computes: each edit is run through the whole model, once along the answer it gave without edits - for
how likely each of those tokens is now - and once freely, for the answer it gives now. The browser draws what came back.
"""

import torch
import traitlets
from matplotlib.figure import Figure

from ..edits import KINDS, Edit, edited
from ..errors import QwenError, short
from . import stills
from .explorer import Choice, Explorer, Place, sources, whole

ROWS, ROW, WIDE = 8, 22, 480                    # tokens that are compared; pixels for each, and for a probability of 1
BARS = ((3, 10), (12, 19))                      # where in its row the bar before stands, and the bar after
NAMES = {"clear": "memory cleared", "alpha": "nothing fades (α = 1)", "beta": "nothing is written (β = 0)",
         "gate": "output gate closed"}

def colours(dark: bool = False) -> list[list[int]]:
    """Red, green and blue of what was before, and of what is after."""
    return [[91, 155, 216], [232, 150, 63]] if dark else [[59, 130, 196], [224, 123, 26]]


def likeliest(before: torch.Tensor, after: torch.Tensor, rows: int = ROWS) -> list[int]:
    """The ids that are likely before or after, the likeliest first. before, after: (V,) probabilities."""
    return torch.maximum(before, after).topk(min(rows, len(before))).indices.tolist()


# ---------------------------------------------------------------------------------------------------------- the widget


class MemoryLab(Explorer):
    """Edit the memories of a model, live, and see the next token and the answer change.

        MemoryLab(qwen, "Ann has a red cup. Ann now has a gold key. What does Ann have?")
        MemoryLab(qwen, "...", edits=[Edit("beta", layer=1, token=14)])

    Clear a memory, let nothing fade, let nothing be written, or close an attention layer's output gate: in one layer or
    in all, one head or all, from a token of the prompt on. An edit can be kept while the next one is tried.

    Args:
        qwen: what `minqwen.load()` gives.
        messages: a question, or a chat as a list of messages.
        edits: `Edit`s to begin with; each of one layer or all, one head or all. The last is the one that is being
            tried, unless it has a value of its own; the others are kept.
        thinking: whether the model thinks first; None leaves it to the checkpoint.
        max_new_tokens: how long an answer may be.

    Raises:
        QwenError: a checkpoint that cannot chat; edits that do not fit it.
    """

    _esm, _css = sources("lab")
    position = ("kind", "layer", "head", "token", "kept", "at", "result")

    kind = Choice("none").tag(sync=True)                                    # the edit that is being tried
    layer, head, at = (Place(-1).tag(sync=True) for _ in range(3))          # -1: all; all; where the change is largest
    token = Place().tag(sync=True)
    kept = traitlets.List().tag(sync=True)                                  # of [what, layer, head, token, value]
    result = traitlets.Dict().tag(sync=True)

    def __init__(self, qwen, messages, *, edits: "list[Edit] | tuple[Edit, ...]" = (), thinking: bool | None = None,
                 max_new_tokens: int = 64):
        if not hasattr(qwen, "chat"):
            raise QwenError(f"The lab needs what minqwen.load() gives, not a {type(qwen).__name__}.")
        if not isinstance(edits, list | tuple):
            raise QwenError(f"edits is a list, such as [Edit('beta', token=20)], and not {short(repr(edits))}.")
        for edit in edits:
            if not isinstance(edit, Edit):
                raise QwenError(f"An edit is made by minqwen.Edit, such as Edit('beta', token=20), and {edit!r} is "
                                "none.")
            if not all(x is None or isinstance(x, int) for x in (edit.layer, edit.head)):
                raise QwenError("In the lab an edit is of one layer or all, and one head or all: give several edits.")
            edit.check(qwen.config.text_config)
        self.qwen, self.messages = qwen, messages
        self._options = {"thinking": thinking, "max_new_tokens": max_new_tokens, "temperature": 0.0}
        self.reply = qwen.chat(messages, **self._options)                   # without edits
        self._inputs = qwen.inputs(messages, thinking)
        self._before = self._likely()                                       # (N, V), N tokens of the answer
        self._ran = None                                                    # the edits of `result`
        config, tokenizer = qwen.config.text_config, qwen.tokenizer
        special = set(tokenizer.added_tokens.values())

        def told(ids):
            return [{"text": tokenizer.decode([i], skip_special_tokens=False), "special": i in special} for i in ids]

        super().__init__(story={
            "title": "Change the memory, and see the answer change", "live": True, "names": NAMES,
            "tokens": told(self._inputs.ids), "answer": told(self.reply.ids), "row": ROW, "rows": ROWS, "wide": WIDE,
            "bars": BARS, "colours": {"light": colours(), "dark": colours(dark=True)},
            "layers": {what: Edit(what).layers(config) for what in NAMES},
            "heads": {what: config.num_attention_heads if KINDS[what][0] == "full_attention" else
                      config.linear_num_value_heads for what in NAMES},
        })
        self.token = len(self._inputs.ids) // 2
        kept = [[edit.what, -1 if edit.layer is None else edit.layer, -1 if edit.head is None else edit.head,
                 edit.token, edit.value] for edit in edits]
        tried = {}
        if kept and kept[-1][-1] is None:
            tried = dict(zip(("kind", "layer", "head", "token"), kept.pop()))
        with self.hold_trait_notifications():                               # the model runs once, with all of them
            self.set_trait("kept", kept)
            for name, value in tried.items():
                self.set_trait(name, value)
        self._run()

    # ------------------------------------------------------------------------------------------------------ computing

    @property
    def edits(self) -> list[Edit]:
        """What the model is run with now: the edits that are kept, and the one that is being tried."""
        tried = [[self.kind, self.layer, self.head, self.token, None]] if self.kind != "none" else []
        return [Edit(what, None if layer == -1 else layer, None if head == -1 else head, token, value)
                for what, layer, head, token, value in [*self.kept, *tried]]

    def _likely(self) -> torch.Tensor:
        """(N, V): how likely every token is at each place of the answer, read as it was given without edits."""
        ids = torch.tensor([[*self._inputs.ids, *self.reply.ids[:-1]]], device=self.qwen.model.head_weight.device)
        with torch.no_grad():
            logits = self.qwen.model(ids, **self._inputs.media, logits_to_keep=len(self.reply.ids))
        return logits[0].double().softmax(-1).cpu()

    @traitlets.observe("kind", "layer", "head", "token", "kept")
    def _run(self, change=None):
        if self.kind != "none":                                             # another kind may have other layers, heads
            self.layer = self.layer if self.layer in self.story["layers"][self.kind] else -1
            self.head = self.head if self.head < self.story["heads"][self.kind] else -1
        if self._ran == self._key():
            return
        edits, reply, after = self.edits, self.reply, self._before
        if edits:
            with edited(self.qwen, *edits):
                reply, after = self.qwen.chat(self.messages, **self._options), self._likely()
        decode, places = self.qwen.tokenizer.decode, []
        for before, now in zip(self._before, after):
            ids = likeliest(before, now)
            places.append({"texts": [decode([i], skip_special_tokens=False) for i in ids],
                           "before": before[ids].tolist(), "after": now[ids].tolist()})
        given = torch.tensor(self.reply.ids)[:, None]
        self._ran = self._key()
        self.result = {
            "of": self._ran, "labels": [self._label(edit) for edit in edits], "places": places,
            "before": self._before.gather(1, given)[:, 0].tolist(), "after": after.gather(1, given)[:, 0].tolist(),
            "most": (self._before - after).abs().sum(-1).argmax().item(),
            "answers": [{"text": str(r), "thinking": r.thinking, "finish": r.finish} for r in (self.reply, reply)],
        }
        self.problem = ""

    def _key(self) -> list:
        return [self.kind, self.layer, self.head, self.token, self.kept] if self.kind != "none" else ["none", self.kept]

    def _label(self, edit: Edit) -> str:
        what = NAMES[edit.what] if edit.value is None else f"{edit.what} = {edit.value:g}"
        where = "all layers" if edit.layer is None else f"layer {edit.layer}"
        heads = "all heads" if edit.head is None else f"head {edit.head}"
        when = "before" if edit.what == "clear" else "from"
        return f"{what} {when} token {edit.token + 1}, {where}, {heads}"

    @traitlets.validate("kind", "layer", "head", "token", "at")
    def _validate(self, proposal):
        name, value = proposal["trait"].name, proposal["value"]
        what = self.kind if self.kind != "none" else "beta"
        if name == "kind":
            if value not in ("none", *NAMES):
                raise QwenError(f"There is no kind {short(repr(value))} of edit; there are none, {', '.join(NAMES)}.")
            if value != "none" and not self.story["layers"][value]:
                raise QwenError(f"This model has no layer with a {value} to edit.")
        there = {"layer": [-1, *self.story["layers"][what]], "head": range(-1, self.story["heads"][what]),
                 "token": range(len(self.story["tokens"])), "at": range(-1, len(self.story["answer"]))}.get(name)
        if there is not None and value not in there:
            hint = {"layer": f"{what!r} can be edited in layers {there[1:]} (-1 is all of them)",
                    "head": f"the last is {there[-1]} (-1 is all of them)", "token": f"the last is {there[-1]}",
                    "at": f"the last is {there[-1]} (-1 is where most changes)"}[name]
            raise QwenError(f"There is no {'answer token' if name == 'at' else name} {value} here; {hint}.")
        return value

    # ------------------------------------------------------------------------------------------- what can be had of it

    def still(self, at: int | None = None) -> tuple[Figure, str]:
        """What it shows, as a figure that stands still, and its description."""
        place, (before, after) = self._place(at), self.result["answers"]
        figure = stills.before_after(place["texts"], place["before"], place["after"],
                                    [f"before: {before['text']}", f"after: {after['text']}"])
        labels = "; ".join(self.result["labels"]) or "no edit"
        return figure, (f"How likely each next token is, before and after: {labels}. The answer before: "
                        f"{before['text']} The answer after: {after['text']}")

    def to_html(self, path):
        """Write a page with what the lab shows now. Its edits stand as they are: to change them takes a kernel."""
        return self._write_page(path, self.story | {"live": False}, [], {x: getattr(self, x) for x in self.position})

    def _place(self, at) -> dict:
        at = self.at if at is None else whole("at", at)
        places = self.result["places"]
        if at not in range(-1, len(places)):
            raise QwenError(f"There is no token {at} in the answer; the last is {len(places) - 1}.")
        return places[self.result["most"] if at == -1 else at]

    def __repr__(self) -> str:
        edits = len(self.edits)
        return f"MemoryLab({len(self.story['tokens'])} tokens, {edits} edit{'s' * (edits != 1)})"
