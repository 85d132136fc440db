"""Where the routers of a mixture of experts send its tokens, and the loss that keeps all experts at work.

    with routing(model) as logits:                      # filled by each forward, layer by layer
        loss = F.cross_entropy(model(input_ids).flatten(0, 1), targets.flatten())
    text = model.config.text_config
    loss = loss + text.router_aux_loss_coef * balancing_loss(logits, text.num_experts_per_tok)

Nothing of this is needed to run a model: `model.py` knows nothing of it. What a trained model's routers do with a text,
`minqwen.trace` has.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import QwenError
from .model import Qwen, Router


@contextmanager
def routing(model: Qwen) -> Iterator[list[Tensor]]:
    """The routers' logits of all forwards while this is open: a list of (B T, num_experts), the lowest layer's first.

    Gradients flow through them. The list stays empty where there are no experts. The head for multi-token prediction
    is left out, as `transformers` leaves it out.
    """
    logits = []
    with ExitStack() as stack:
        for module in model.model.modules():
            if isinstance(module, Router):
                hook = module.register_forward_hook(lambda router, x, _: logits.append(F.linear(*x, router.weight)))
                stack.callback(hook.remove)
        yield logits


def balancing_loss(logits: list[Tensor], top_k: int, attention_mask: Tensor | None = None) -> Tensor:
    """How unevenly experts are used: `top_k` where each is used alike, up to `num_experts` where the same ones always.

    The share of the tokens that an expert gets, times the mean probability that the routers give it; summed over the
    experts, times their number. The shares are counts and teach nothing. What is learnt is that the probability of an
    expert with many tokens should be less. All layers are counted together.

    Args:
        logits: (B T, num_experts) of each layer, from `routing`.
        top_k: how many experts a token is sent to.
        attention_mask: (B, T), 0 = padding, which does not count.
    Returns:
        A scalar; 0 where there is nothing to balance: no experts, or padding alone. (Of that `transformers` makes NaN,
        which spoils what was learnt.)
    Raises:
        QwenError: a mask of other tokens than those that were routed, or a top_k that cannot be.
    Source: "Switch Transformers" (Fedus, Zoph, Shazeer 2021, arXiv 2101.03961), equations 4 to 6, for more than one
        expert a token; official `load_balancing_loss_func`.
    """
    if not logits:
        return torch.zeros(())
    if attention_mask is not None and attention_mask.numel() != len(logits[0]):
        raise QwenError(f"attention_mask is of {attention_mask.numel()} tokens, but {len(logits[0])} were routed: pass "
                        f"the mask that the forward had.")
    if not 1 <= top_k <= logits[0].shape[-1]:
        raise QwenError(f"top_k is {top_k}, but must be from 1 to {logits[0].shape[-1]}, the number of experts: pass "
                        f"config.text_config.num_experts_per_tok.")
    probabilities = torch.cat([layer.float().softmax(-1) for layer in logits])              # (layers B T, num_experts)
    if attention_mask is not None:
        probabilities = probabilities[attention_mask.flatten().bool().repeat(len(logits))]
    rows, experts = max(len(probabilities), 1), probabilities.shape[1]
    shares = probabilities.topk(top_k).indices.flatten().bincount(minlength=experts) / rows     # add up to top_k
    return experts * shares @ (probabilities.sum(0) / rows)
