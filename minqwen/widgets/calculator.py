"""What a training takes, to play with: sliders around `budget.describe`, and a picture for where no kernel runs."""

import base64

import ipywidgets
from matplotlib.figure import Figure

from .. import plots
from ..budget import budget, describe
from ..config import OFFICIAL_SIZES, Config

__all__ = ["Calculator"]

TOKENS = [(f"{n:,} billion", n * 1e9) for n in (1, 10, 100, 1000, 10_000, 36_000)]
GPUS = [2 ** n for n in range(13)]
SHARES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]                  # of the peak
WIRES = [(f"{n:g} GB/s", n * 1e9) for n in (0.1, 1, 5, 12.5, 25, 50, 100, 450)]


class Calculator(ipywidgets.VBox):
    """Choose a size, tokens and GPUs, and read what that takes.

    Attributes:
        choices: {argument of `describe`: its slider}
        answer: what is said.
    """

    def __init__(self):
        def slider(name, options, value):
            return ipywidgets.SelectionSlider(options=options, value=value, description=name)

        self.choices = {
            "name": ipywidgets.Dropdown(options=list(OFFICIAL_SIZES), value="Qwen3.5-0.8B", description="model"),
            "tokens": slider("tokens", TOKENS, 1e12), "gpus": slider("GPUs", GPUS, 64),
            "used": slider("of the peak", SHARES, 0.4), "wire": slider("wire", WIRES, 50e9)}
        self.answer = ipywidgets.HTML()
        for one in self.choices.values():
            one.observe(self._work_out, "value")
        self._work_out()
        super().__init__([*self.choices.values(), self.answer])

    def _work_out(self, _=None):
        words = describe(**{name: one.value for name, one in self.choices.items()})
        self.answer.value = f"<pre>{words}</pre>"

    def still(self) -> tuple[Figure, str]:
        """Days over tokens for the smaller sizes, and the picture in words."""
        amounts, gpus = [10 ** (n / 2) * 1e10 for n in range(8)], self.choices["gpus"].value
        days = {name: [budget(Config.named(name), D, gpus).days for D in amounts] for name in list(OFFICIAL_SIZES)[:4]}
        figure = plots.curves([D / 1e9 for D in amounts], days, "billion tokens", f"days on {gpus:,} GPUs", log="xy")
        return figure, (f"Days of training on {gpus:,} GPUs over the number of tokens, for four sizes, on logarithmic "
                        f"axes: straight lines side by side, that of the 9B highest.")

    def _repr_mimebundle_(self, **kwargs):
        data, (figure, alt) = super()._repr_mimebundle_(**kwargs), self.still()
        return data | {"image/png": base64.b64encode(plots.png(figure)).decode()}, {"image/png": {"alt": alt}}
