"""AdamW in float32 for weights in bfloat16.

A step of training changes a weight by less than bfloat16 can tell apart, so most steps would change nothing. Of each
parameter there is therefore a master in float32: gradients are added up and AdamW computes there, and the model gets
what the master rounds to. That takes 18 bytes for each parameter: 2, its master 4, the gradient 4, two moments 8.
"""

from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["MasterAdamW"]


class MasterAdamW:
    """AdamW for parameters of any dtype, without weight decay unless it is asked for.

    Attributes:
        masters: {name: tensor}, float32, where the gradients are; a parameter itself where it is float32.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], weight_decay: float):
        self.parameters = parameters
        self.masters = {name: p if p.dtype == torch.float32 else p.detach().float() for name, p in parameters.items()}
        self.adamw = torch.optim.AdamW(self.masters.values(), betas=(0.9, 0.95), weight_decay=weight_decay, fused=True)
        for name, p in parameters.items():
            if p is not self.masters[name]:
                p.register_post_accumulate_grad_hook(partial(self._add, self.masters[name]))

    @staticmethod
    def _add(master: Tensor, p: nn.Parameter) -> None:
        master.grad = p.grad.float() if master.grad is None else master.grad.add_(p.grad)
        p.grad = None

    def clip(self, length: float = 1.0) -> float:
        """Shorten the gradient to at most this length -> its length before."""
        return nn.utils.clip_grad_norm_(self.masters.values(), length).item()

    def step(self, lr: float) -> None:
        self.adamw.param_groups[0]["lr"] = lr
        self.adamw.step()
        self._round()

    def forget(self) -> None:
        """Let the gradients go."""
        self.adamw.zero_grad()

    @torch.no_grad()
    def _round(self) -> None:
        for name, p in self.parameters.items():
            if p is not self.masters[name]:
                p.copy_(self.masters[name])

    def state(self) -> dict:
        return {"weights": {name: x.detach() for name, x in self.masters.items()}, "adamw": self.adamw.state_dict()}

    @torch.no_grad()
    def load(self, state: dict) -> None:
        """What `state` gave."""
        for name, x in self.masters.items():
            x.copy_(state["weights"][name])
        self.adamw.load_state_dict(state["adamw"])
        self._round()
