"""Lesson 11: the router, the experts, a mixture of experts, and what balances it."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ...config import TextConfig
from ...model import MixtureOfExperts
from ...routing import balancing_loss
from ..judging import call, compare, demand, hints, parts


@hints(
    "Three steps: how probable is each expert, which are the most probable, and what does each of those count?",
    "A softmax over the experts, in float32; the top_k largest with their places (a tensor's topk gives both); and "
    "each of these divided by what they add up to.",
    "p = F.linear(x, weight).float().softmax(-1), then p.topk(top_k) gives values and places. Divide the values by "
    "their sum over the last axis, keepdim=True, and give them back in the dtype of x.",
)
def my_router(mine):
    """the most probable experts, and shares that add up to one"""
    for tokens, d, E, k in ((5, 6, 7, 3), (1, 4, 4, 1), (9, 5, 8, 8), (4, 8, 5, 2)):
        random = torch.Generator().manual_seed(E)
        x, weight = torch.randn(tokens, d, generator=random), torch.randn(E, d, generator=random)
        logits = F.linear(x, weight)
        p = logits.softmax(-1)
        best, right = p.topk(k)
        shares = best / best.sum(-1, keepdim=True)
        weights, chosen = parts(call(mine, x, weight, k), "weights", "chosen")
        compare(chosen, right, {
            "these are the least probable experts": p.topk(k, largest=False).indices,
            "the most probable expert comes first": right.flip(-1),
            "the softmax is taken over the tokens: it goes over the experts":
                logits.softmax(0).topk(k).indices,
        }, "these are not the most probable experts of each token.", "chosen")
        compare(weights, shares, {
            "the weights do not add up to one: divide them by their sum": best,
            "the weights are the router's scores: take their softmax": logits.topk(k).values,
            "the scores, and not their probabilities, are divided by their sum":
                logits.topk(k).values / logits.topk(k).values.sum(-1, keepdim=True),
            "every expert counts alike: each counts by its probability": torch.full_like(shares, 1 / k),
            "divided by the sum over all tokens: each token's weights add up to one":
                best / best.sum(0, keepdim=True),
            "a softmax of the probabilities is not what divides them by their sum": best.softmax(-1),
        }, "these are not the experts' probabilities, divided by their sum.", "weights")
    x, weight = 60 * torch.randn(6, 16, generator=random), torch.randn(4, 16, generator=random)
    weights, _ = parts(call(mine, x, weight, 2), "weights", "chosen")
    best = F.linear(x, weight).softmax(-1).topk(2).values            # scores of some hundreds
    compare(weights, best / best.sum(-1, keepdim=True), otherwise=(
        "of large scores the exponential is infinite in float32: take each token's largest one off first, as softmax "
        "does."), what="weights")
    x, weight = (torch.randn(n, 16, generator=random).bfloat16() for n in (64, 8))
    weights, _ = parts(call(mine, x, weight, 3), "weights", "chosen")

    def shares_of(scores):
        best = scores.softmax(-1).topk(3).values
        return (best / best.sum(-1, keepdim=True)).bfloat16()

    compare(weights, shares_of(F.linear(x, weight).float()), {
        "of bfloat16 numbers the scores come in bfloat16, as of every matrix: only the softmax is taken in float32":
            shares_of(F.linear(x.float(), weight.float())),
    }, "of bfloat16 numbers the softmax should be taken in float32, and rounded at the end.",
        what="of bfloat16 numbers, weights", tolerance=1e-6)


@hints(
    "Take one expert. Which rows of `chosen` name it, and in which column?",
    "Go through the experts. (chosen == e).nonzero(as_tuple=True) gives its tokens and the column in which each names "
    "it. Let it read those rows of x alone, and add what it says, by its weight, to those rows of the answer.",
    "For each expert, with the rows and columns from nonzero: its MLP as in lesson 06 on x[rows], gate and up from "
    "F.linear(x[rows], gate_up_proj[e]).chunk(2, dim=-1); then y.index_add_(0, rows, ...) on a y of zeros, times the "
    "weights at those rows and columns.",
)
@torch.no_grad()
def my_experts(mine):
    """each expert reads its own tokens, and what it says counts by its weight"""
    for tokens, d, E, k, n in ((6, 5, 4, 2, 3), (1, 4, 5, 1, 6), (20, 6, 7, 3, 4), (5, 8, 3, 3, 8)):
        random = torch.Generator().manual_seed(tokens)
        x, scores = torch.randn(tokens, d, generator=random), torch.randn(tokens, E, generator=random)
        gate_up, down = torch.randn(E, 2 * n, d, generator=random), torch.randn(E, d, n, generator=random)
        weights, chosen = scores.softmax(-1).topk(k)

        def said(weights=weights, chosen=chosen, x=x, gate_up=gate_up, down=down, swapped=False, act=F.silu):
            gate, up = torch.einsum("td, tknd -> tkn", x, gate_up[chosen]).chunk(2, dim=-1)
            gate, up = (up, gate) if swapped else (gate, up)
            return (torch.einsum("tkn, tkdn -> tkd", act(gate) * up, down[chosen]) * weights[..., None]).sum(1)

        right = said()
        with FlopCounterMode(display=False) as counter:
            found = call(mine, x, weights, chosen, gate_up, down)
        compare(found, right, {
            "what an expert says counts by its weight": said(torch.ones_like(weights)),
            "only the first expert of each token is heard": said(weights[:, :1], chosen[:, :1]),
            "the last expert of each token overwrites the others: add": said(weights[:, -1:], chosen[:, -1:]),
            "gate and up are swapped: the gate comes first": said(swapped=True),
            "the gate's silu is missing": said(act=lambda gate: gate),
            "the gate's silu is a sigmoid": said(act=torch.sigmoid),
            "the weights are in another order than the experts": said(weights.flip(-1)),
            "each expert has its own matrices": said(chosen=torch.zeros_like(chosen)),
        }, "this is not the sum of what each token's experts say, each by its weight.")
        needed = 2 * tokens * k * 3 * n * d
        demand(counter.get_total_flops() <= 1.01 * needed or k == E,
               "the answer is right, but experts read tokens that were not sent to them: let each multiply its own "
               "rows of x alone.")
    x, weights, chosen = x[:1], weights[:1, :1], chosen[:1, :1]
    idle = [e for e in range(E) if e != chosen.item()]
    right = said(weights, chosen, x)
    gate_up[idle], down[idle] = torch.inf, torch.inf
    found = call(mine, x, weights, chosen, gate_up, down)
    compare(found, right, otherwise="an expert that no token was sent to has a say in the answer.")


@hints(
    "The layer has two halves that are added: the chosen experts, and the shared one behind its gate.",
    "my_router and my_experts take a list of tokens, (B T, d): flatten the first two axes, and give the answer the "
    "shape of x again. The shared expert is my_mlp, and its gate one number for each token, through a sigmoid.",
    "The shared expert's tensors are those whose names begin with shared_expert. (with the dot): my_mlp wants them "
    "without it. Its gate is torch.sigmoid(F.linear(x, weights[...])) of shape (B, T, 1).",
)
@torch.no_grad()
def my_mixture(mine):
    """the chosen experts, and the shared one as loud as its gate lets it be"""
    for B, T, d, E, k, n, m in ((2, 5, 8, 4, 2, 4, 12), (1, 1, 8, 6, 3, 8, 4), (3, 4, 4, 3, 1, 8, 8)):
        random = torch.Generator().manual_seed(E)
        block = MixtureOfExperts(TextConfig(hidden_size=d, num_experts=E, num_experts_per_tok=k, num_hidden_layers=1,
                                            layer_types=["linear_attention"], moe_intermediate_size=n,
                                            shared_expert_intermediate_size=m))
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=random)
        x, weights = torch.randn(B, T, d, generator=random), block.state_dict()
        tokens = x.flatten(0, 1)
        routed = block.experts(tokens, *block.gate(tokens)).view_as(x)
        shared, gate = block.shared_expert(x), F.linear(x, block.shared_expert_gate.weight)
        loud = torch.sigmoid(gate)
        compare(call(mine, x, weights, k), block(x), {
            "the shared expert is missing": routed,
            "the chosen experts are missing": loud * shared,
            "the shared expert's gate is missing": routed + shared,
            "the gate is a sigmoid: from 0 to 1": routed + gate * shared,
            "the gate is a sigmoid, and no silu": routed + F.silu(gate) * shared,
            "the gate holds back the shared expert alone, and not the others": loud * (routed + shared),
            "the chosen experts are not held back by what the gate leaves": (1 - loud) * routed + loud * shared,
        }, "this is another layer: compare your lines with the formula.")


@hints(
    "For each expert two numbers: the share of the tokens that it reads, and its mean probability.",
    "Put all layers' logits below each other. The shares come from counting who is among the top_k; the probabilities "
    "from the softmax. Multiply, add up over the experts, and times their number.",
    "F.one_hot(chosen, E) of the chosen experts, summed over the top_k axis and averaged over the tokens, gives the "
    "shares (as float). The mean of the softmax over the tokens gives the other factor.",
)
def my_balancing_loss(mine):
    """top_k where all are used alike, more where some are favoured"""
    for layers, tokens, E, k in ((1, 9, 5, 1), (3, 14, 6, 2), (2, 8, 4, 3)):
        random = torch.Generator().manual_seed(E)
        logits = [torch.randn(tokens, E, generator=random) + torch.randn(E, generator=random) for _ in range(layers)]
        p = torch.cat(logits).softmax(-1)
        shares = torch.zeros_like(p).scatter(1, p.topk(k).indices, 1.0).mean(0)
        alone = torch.stack([balancing_loss([layer], k) for layer in logits])
        right = balancing_loss(logits, k)
        compare(call(mine, logits, k), right, {
            "it lacks the number of experts as a factor, or is a mean over them: add up, and times their number":
                right / E,
            "it lacks the shares: with the mean probabilities alone it cannot know who was chosen":
                E * (p.mean(0) ** 2).sum(),
            "it lacks the probabilities, and the shares are counts, which teach nothing": E * (shares ** 2).sum(),
            "this is the mean of the layers' losses: put all layers' tokens together first": alone.mean(),
            "this is the sum of the layers' losses: put all layers' tokens together first": alone.sum(),
            "only the first of each token's experts is counted":
                E * (torch.zeros_like(p).scatter(1, p.topk(1).indices, 1.0).mean(0) * p.mean(0)).sum(),
            "the shares should add up to top_k: each token is read by so many": right / k,
            "share and probability are multiplied for each expert, not for each token":
                E * (torch.zeros_like(p).scatter(1, p.topk(k).indices, 1.0) * p).mean(0).sum(),
        }, "this is not the sum over the experts of share times mean probability, times their number.")
    learnt = [layer.clone().requires_grad_() for layer in logits]
    with torch.enable_grad():
        loss = mine(learnt, k)
        demand(loss.requires_grad, "nothing can be learnt from it: the probabilities must keep their gradient.")
        found = torch.autograd.grad(loss, learnt)
        theirs = [layer.clone().requires_grad_() for layer in logits]
        right = torch.autograd.grad(balancing_loss(theirs, k), theirs)
    compare(torch.stack(found), torch.stack(right), what="its gradient")
