"""What training a Qwen3.5 takes, on paper: operations, days, memory of a GPU, bytes on the wire.

    print(describe("Qwen3.5-0.8B", tokens=1e12, gpus=64))

Nothing is timed here. An addition and a multiplication are two operations, and a token's are counted as for a context
(`widgets/cost.py`): matrices and head, the delta rule, and attention to the tokens before it, half the sequence in the
mean. Then

    operations      of a token: once forward, twice that backward, and once more where layers are computed again
    days            operations / (GPUs x peak x the share of it that is reached), if the wire is no slower than that
    memory          18 bytes for each parameter (`masters.py`), cut up among the GPUs; activations come on top
    wire            what a GPU sends for each pass over the model: its weights are gathered twice (2 bytes a parameter),
                    its gradients summed once (4 bytes), of each the other ranks' share, (n - 1) / n

Sources: "Scaling Laws for Neural Language Models" (Kaplan et al. 2020, arXiv 2001.08361), of whose C = 6 N D this is a
more exact form; twice as many backward: "Training Compute-Optimal Large Language Models" (Hoffmann et al. 2022, arXiv
2203.15556), appendix F; the wire: "ZeRO" (Rajbhandari et al. 2019, arXiv 1910.02054), section 7.
"""

from dataclasses import dataclass

from .config import Config
from .errors import QwenError, number_above_0
from .info import in_thousands, parameter_counts, readable
from .widgets.cost import counted

__all__ = ["Budget", "budget", "describe"]

DAY = 24 * 3600
PEAK, WIRE = 989e12, 50e9                               # an H100's in bfloat16, by its data sheet; 400 Gbit/s each
LEARNING = 2 + 4 + 4 + 8                                # bytes of a parameter: itself, its copy, gradient, two moments
UNITS = ("", "thousand", "million", "billion", "trillion")


@dataclass(frozen=True)
class Budget:
    """What a training run takes."""

    parameters: int
    operations: float                                   # in all
    compute: float                                      # days, if nothing but arithmetic takes time
    wire: float                                         # days, if nothing but sending does
    memory: float                                       # bytes of each GPU, without activations
    sent: float                                         # bytes that each GPU sends in a pass over the model

    @property
    def days(self) -> float:
        """Arithmetic and sending go on at the same time, and the slower one decides."""
        return max(self.compute, self.wire)


def budget(config: Config, tokens: float, gpus: int = 64, length: int = 4096, in_pass: int = 32_768,
           peak: float = PEAK, used: float = 0.4, wire: float = WIRE, again: bool = True) -> Budget:
    """
    Args:
        tokens: of the training.
        length: of a sequence.
        in_pass: tokens that each GPU reads in one pass, forward and backward.
        peak, used: operations a second of a GPU, and the share of them that is reached: 0.4 is usual, measure yours.
        wire: bytes a second that a GPU sends to the others.
        again: layers are computed again in the backward pass, which saves their memory.
    Raises:
        QwenError: numbers that cannot be.
    """
    for name, x in (("tokens", tokens), ("gpus", gpus), ("length", length), ("in_pass", in_pass), ("peak", peak),
                    ("used", used), ("wire", wire)):
        number_above_0(name, x)
    if gpus < 1:
        raise QwenError(f"gpus must be 1 or more, not {gpus:g}.")
    if used > 1:
        raise QwenError(f"used is a share, at most 1, and not {used:g}.")
    counts, N = counted(config), parameter_counts(config)["text"]
    forward = counts["matrices"] + counts["head"] + counts["rule"] + counts["pair"] * length / 2
    operations = tokens * forward * (4 if again else 3)
    sent = (2 * 2 + 4) * N * (gpus - 1) / gpus
    return Budget(N, operations, operations / (gpus * peak * used) / DAY,
                  tokens / (gpus * in_pass) * sent / wire / DAY, LEARNING * N / gpus, sent)


def describe(name: str, tokens: float, gpus: int = 64, **options) -> str:
    """A budget in words. name: a published size; the rest as for `budget`."""
    found = budget(Config.named(name), tokens, gpus, **options)
    slower = "arithmetic" if found.compute >= found.wire else "the wire"
    return f"""\
{name}: {in_thousands(found.parameters, UNITS)} parameters, {in_thousands(tokens, UNITS)} tokens, {gpus:,} GPUs
operations    {found.operations:.2e}
time          {found.days:,.1f} days, which is {found.days * 24 * gpus:,.0f} hours of a GPU; {slower} decides
              (arithmetic {found.compute:,.1f} days, the wire {found.wire:,.1f})
each GPU      holds {readable(found.memory)} of weights, copies, gradients and moments, and sends \
{readable(found.sent)} in a pass"""
