"""AdamW in float32 for weights in bfloat16.

A step of training changes a weight by less than bfloat16 can tell apart, so most steps would change nothing. Of each
parameter there is therefore a master in float32: gradients are added up and AdamW computes there, and the model gets
what the master rounds to. That takes 18 bytes for each parameter: 2, its master 4, the gradient 4, two moments 8.

Where a model is cut up among ranks (`distributed.py`) each of them does this for its own pieces, as if they were all:
what AdamW does to a number depends on no other. Only the length of the gradient is everybody's.
"""

import math
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .ranks import many, ranks, summed

__all__ = ["MasterAdamW"]


class MasterAdamW:
    """AdamW for parameters of any dtype, without weight decay unless it is asked for.

    Attributes:
        masters: {name: tensor}, float32, where the gradients are; a parameter itself where it is float32.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], weight_decay: float):
        self.parameters = parameters
        self.masters = {name: p if _is_master(p) else _here(p.detach()).float() for name, p in parameters.items()}
        self.adamw = torch.optim.AdamW(self.masters.values(), betas=(0.9, 0.95), weight_decay=weight_decay, fused=True)
        for name, p in parameters.items():
            if not _is_master(p):
                p.register_post_accumulate_grad_hook(partial(self._add, self.masters[name]))

    @staticmethod
    def _add(master: Tensor, p: nn.Parameter) -> None:
        here = _here(p.grad)
        master.grad = here.float() if master.grad is None else master.grad.add_(here)
        p.grad = None

    def clip(self, length: float = 1.0) -> float:
        """Shorten the gradient to at most this length -> its length before."""
        pieces, alike = [], []
        for name, master in self.masters.items():
            if master.grad is not None:
                (pieces if isinstance(self.parameters[name], DTensor) else alike).append(master.grad)
        if many():                                      # what is cut up, FSDP has averaged
            for grad in alike:
                dist.all_reduce(grad)
                grad /= ranks()
        one, other = (nn.utils.get_total_norm(grads).item() for grads in (pieces, alike))
        norm = (summed(one ** 2) + other ** 2) ** 0.5
        nn.utils.clip_grads_with_norm_(self.masters.values(), length, torch.tensor(norm))
        return norm

    def step(self, lr: float) -> None:
        self.adamw.param_groups[0]["lr"] = lr
        self.adamw.step()
        self.round()

    def finite(self) -> bool:
        """Whether all weights are numbers, those of the other ranks as well."""
        return math.isfinite(summed(nn.utils.get_total_norm([x.detach() for x in self.masters.values()]).item()))

    def forget(self) -> None:
        """Let the gradients go."""
        self.adamw.zero_grad()

    @torch.no_grad()
    def round(self) -> None:
        """Give the model what the masters round to."""
        for name, p in self.parameters.items():
            if not _is_master(p):
                _here(p).copy_(self.masters[name])

    def state(self) -> dict:
        return {"weights": {name: x.detach() for name, x in self.masters.items()}, "adamw": self.adamw.state_dict()}

    @torch.no_grad()
    def load(self, state: dict) -> None:
        """What `state` gave."""
        for name, x in self.masters.items():
            x.copy_(state["weights"][name])
        self.adamw.load_state_dict(state["adamw"])
        self.round()

    def tensors(self) -> dict[str, Tensor]:
        """The live tensors that a run goes on from, by name; whoever writes to them calls `round` then. A piece is told
        as what it is a piece of, so that another number of ranks may read it."""
        found = {}
        for name, master in self.masters.items():
            state, p = self.adamw.state[master], self.parameters[name]
            if not state:                               # as AdamW itself begins
                state.update(step=torch.zeros((), device=master.device), exp_avg=torch.zeros_like(master),
                             exp_avg_sq=torch.zeros_like(master))
            for part, x in {"weight": master.detach(), **state}.items():
                if isinstance(p, DTensor) and part != "step":
                    x = DTensor.from_local(x, p.device_mesh, p.placements, run_check=False, shape=p.shape,
                                           stride=p.stride())
                found[f"{part}.{name}"] = x
        return found


def _here(x: Tensor) -> Tensor:
    """The piece of a tensor that this rank has."""
    return x.to_local() if isinstance(x, DTensor) else x


def _is_master(p: nn.Parameter) -> bool:
    return p.dtype == torch.float32 and not isinstance(p, DTensor)
