"""The training explorer: a run of training, snapshot by snapshot. What was recalled, which layer overwrote, and what
the gates and the memory of one head did with a story then.

The browser gets the curves, and of each head at each snapshot the keys, values, alphas and betas of the story. It runs
the delta rule itself, as the state explorer does.
"""

import numpy as np
import traitlets
from matplotlib.figure import Figure

from .. import plots
from ..errors import QwenError
from ..nano.seedling import Run
from . import stills
from .explorer import LayerExplorer, Place, in_base64, sources, token_at, whole
from .state import KEPT

HEIGHT, WIDTH, ROW = 132, 480, 15               # pixels: the curves, both pictures about so wide, a layer of the map
CURVES = "loss", "told once", "changed"
COLOURS = {                                     # safe for colour-blind eyes
    "light": {"grid": "#e9ebee", "jump": "#b9bec6", "here": "#1565c0", "loss": "#8a8f98", "told once": "#2f7cba",
              "changed": "#d8721b"},
    "dark": {"grid": "#2a2e36", "jump": "#5d6673", "here": "#64b5f6", "loss": "#9aa2ad", "told once": "#4597dc",
             "changed": "#e08a2e"},
}  # fmt: skip


class TrainingExplorer(LayerExplorer):
    """Sliders and keys for snapshot, token, layer and head; loss and recall over the steps, the layers that overwrite,
    and a head's gates over the story with its memory.

        TrainingExplorer()                      # the run that is shipped: python -m minqwen.nano.seedling
        TrainingExplorer(recorder.run())        # or one of your own: see `minqwen.nano.seedling.Recorder`

    Args:
        run: what was seen of a training run.
        snapshot: where to begin; None: where changed facts begin to be recalled.
        token, layer, head: likewise; `layer` is the number of a Gated DeltaNet layer in the model, None the one that
            overwrites; `token` may be negative.

    Raises:
        QwenError: no such snapshot, token, layer or head; fewer than two snapshots, or what is no number in them.
    """

    _esm, _css = sources("training_explorer")
    position = ("token", "layer", "head", "snapshot")

    snapshot = Place().tag(sync=True)

    def __init__(self, run: Run | None = None, *, snapshot: int | None = None, token: int = -1,
                 layer: int | None = None, head: int = 0):
        self.run = run = Run.load() if run is None else run
        if len(run) < 2:
            raise QwenError("TrainingExplorer needs a run of two snapshots or more: look more often.")
        for name in ("loss", "once", "changed", "without"):
            if not np.isfinite(getattr(run, name)).all():
                raise QwenError(f"TrainingExplorer has nothing to draw where the run's {name!r} is no number: look at "
                                f"a model whose loss is one, with held-out stories of both kinds.")
        S, _, T, H, Dk = run.k.shape
        self._records = {int(index): i for i, index in enumerate(run.layers)}               # number -> place in the run
        lost, loss = np.clip(run.corrections(), 0, 1), run.loss.astype(float)
        curves = {"loss": loss / (loss.max() or 1.0), "told once": run.once, "changed": run.changed}
        super().__init__(story={
            "title": "How a memory is learnt",
            "tokens": [{"text": text, "special": False} for text in run.tokens.tolist()],
            "layers": [{"index": index, "heads": H} for index in self._records],
            "key_dim": Dk, "value_dim": run.v.shape[-1], "kept": KEPT, "steps": run.steps.tolist(),
            "loss": [round(x, 4) for x in loss.tolist()],
            "curves": {name: [round(float(x), 4) for x in curves[name]] for name in CURVES},
            "lost": np.round(lost.astype(float), 4).tolist(), "most_lost": round(float(lost.max()), 4) or 1.0,
            "jumps": {"told once": run.jump("once"), "changed": run.jump("changed")},
            "cell": [max(1, WIDTH // S), ROW], "height": HEIGHT, "colours": COLOURS,
            "palettes": {"memory": in_base64(plots.diverging), "map": in_base64(plots.sequential)}, "all_here": True,
        })
        self.layer = run.overwriting_layer() if layer is None else layer
        self.snapshot = self.story["jumps"]["changed"] if snapshot is None else snapshot
        self.token = token_at(token, T)
        self.head = head
        self.pages = {name: self.page(name) for name in self.page_names()}

    # ------------------------------------------------------------------------------------------------------- the pages

    def page_names(self, layers=None) -> list[str]:
        return [f"layer {x['index']}" for x in (self.story["layers"] if layers is None else layers)]

    def page(self, name: str) -> bytes:
        """A layer's numbers, little-endian float32: for each snapshot and head a page of the state explorer, with k
        (T, Dk), v (T, Dv), alpha (T,), beta (T,) and the limits of the colours, which all snapshots of a head share."""
        l, run, parts = self._records[self._checked("layer", int(name.split()[1]))], self.run, []
        limits = [self._limits(l, head) for head in range(run.k.shape[3])]
        for s in range(len(run)):
            for head, its_own in enumerate(limits):
                parts += [x[s, l, :, head].astype("<f4").tobytes() for x in (run.k, run.v, run.alpha, run.beta)]
                parts.append(np.array(its_own, "<f4").tobytes())
        return b"".join(parts)

    def _limits(self, l, head) -> list[float]:
        """Which number of a memory, a key and a value has the full colour; the memory's own after the story."""
        run, layer = self.run, int(self.run.layers[l])
        states = [run.memory(s, layer, head) for s in range(len(run))]
        return [float(np.abs(x).max()) or 1.0 for x in (states, run.k[:, l, :, head], run.v[:, l, :, head])]

    # -------------------------------------------------------------------------------------------- what can be had of it

    def still(self, token=None, layer=None, head=None, snapshot=None) -> tuple[Figure, str]:
        """What it shows, as a figure that stands still, and its description."""
        token, layer, head = self._place(token, layer, head)
        s, run = self.snapshot if snapshot is None else self._checked("snapshot", snapshot), self.run
        l, tokens = self._records[layer], run.tokens.tolist()
        curves = {"told once": run.once, "changed": run.changed}
        figure = stills.training(
            run.steps, run.loss, curves, run.corrections(), list(self._records), s, self.story["jumps"]["changed"],
            {"alpha": run.alpha[s, l, :, head], "beta": run.beta[s, l, :, head]}, run.memory(s, layer, head, token),
            self._limits(l, head)[0], tokens, token)
        return figure, (
            f"After {run.steps[s]} of {run.steps[-1]} steps: curves of the loss and of the facts recalled, a map of "
            f"which layer's correction counts, and layer {layer}, head {head}: its gates over a story of {len(tokens)} "
            f"tokens, and its memory after token {token + 1}.")

    # ----------------------------------------------------------------------------------------------- numbers and places

    @traitlets.validate("snapshot")
    def _validate_snapshot(self, proposal):
        return self._checked("snapshot", proposal["value"])

    def _checked(self, name, value, layer=None):
        if name == "snapshot":
            value = whole(name, value)
            if value not in range(len(self.run)):
                raise QwenError(f"There is no snapshot {value} to explore; the last is {len(self.run) - 1}.")
            return value
        return super()._checked(name, value, layer)

    def __repr__(self) -> str:
        return (f"TrainingExplorer({len(self.run)} snapshots of {self.run.steps[-1]} steps, {len(self._records)} "
                f"layers, {len(self.run.tokens)} tokens)")
