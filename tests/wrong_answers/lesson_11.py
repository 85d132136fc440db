"""Wrong answers to the exercises of lesson 11."""

import torch
from torch.nn import functional as F

from . import slip, wrong

# ---- my_router

slip("my_router", "do not add up to one", "(best / best.sum(-1, keepdim=True)).to(x.dtype)", "best.to(x.dtype)")
slip("my_router", "least probable", "topk(top_k)", "topk(top_k, largest=False)")
slip("my_router", "the softmax is taken over the tokens", "softmax(-1)", "softmax(0)")
slip("my_router", "each token's weights add up", "best.sum(-1, keepdim=True)", "best.sum(0, keepdim=True)")
slip("my_router", "should be torch.bfloat16", ".to(x.dtype)", "")
slip("my_router", "changes x,", "    return (best", "    x += 1\n    return (best")
slip("my_router", "2 things are wanted", ", chosen\n", "\n")
slip("my_router", "taken in float32", ".float()", "")
slip("my_router", "chosen should have the shape", "topk(top_k)", "topk(3)")
slip("my_router", "each counts by its probability", "best / best.sum(-1, keepdim=True)",
     "torch.full_like(best, 1 / top_k)")


@wrong("my_router", "take their softmax")
def counts_by_the_scores(x, weight, top_k):
    best, chosen = F.linear(x, weight).topk(top_k)
    return best, chosen


@wrong("my_router", "largest one off first")
def exponentials_of_what_comes(x, weight, top_k):
    scores = F.linear(x, weight).float().exp()
    best, chosen = scores.topk(top_k)
    return (best / best.sum(-1, keepdim=True)).to(x.dtype), chosen


@wrong("my_router", "only the softmax is taken in float32")
def all_in_float32(x, weight, top_k):
    best, chosen = F.linear(x.float(), weight.float()).softmax(-1).topk(top_k)
    return (best / best.sum(-1, keepdim=True)).to(x.dtype), chosen


@wrong("my_router", "comes first")
def the_least_of_them_first(x, weight, top_k):
    best, chosen = F.linear(x, weight).float().softmax(-1).sort(-1)
    best, chosen = best[:, -top_k:], chosen[:, -top_k:]
    return (best / best.sum(-1, keepdim=True)).to(x.dtype), chosen


# ---- my_experts

slip("my_experts", "counts by its weight", "weights[token, place, None] * said", "said")
slip("my_experts", "the gate comes first", "gate, up = F.linear", "up, gate = F.linear")
slip("my_experts", "silu is missing", "F.silu(gate)", "gate")
slip("my_experts", "a sigmoid", "F.silu(gate)", "torch.sigmoid(gate)")
slip("my_experts", "each expert has its own", "    for e in chosen.unique().tolist():",
     "    chosen = torch.zeros_like(chosen)\n    for e in chosen.unique().tolist():")
slip("my_experts", "another order", "weights[token, place, None]", "weights.flip(-1)[token, place, None]")
slip("my_experts", "only the first expert", "(chosen == e).nonzero", "(chosen[:, :1] == e).nonzero")
slip("my_experts", "changes x,", "    y = torch.zeros_like(x)\n", "    y = torch.zeros_like(x)\n    x *= 2\n")
slip("my_experts", "not the sum", "y.index_add_(0, token, weights[token, place, None] * said)",
     "y[token[:1]] += weights[token, place, None][:1] * said[:1]")


@wrong("my_experts", "not sent to them")
def everybody_reads_everything(x, weights, chosen, gate_up_proj, down_proj):
    y = torch.zeros_like(x)
    for e in range(len(down_proj)):
        gate, up = F.linear(x, gate_up_proj[e]).chunk(2, dim=-1)
        said = F.linear(F.silu(gate) * up, down_proj[e])
        y = y + torch.where(chosen == e, weights, 0).sum(-1, keepdim=True) * said
    return y


@wrong("my_experts", "stops with IndexError")
def knows_the_number_of_experts_by_heart(x, weights, chosen, gate_up_proj, down_proj):
    y = torch.zeros_like(x)
    for e in range(8):
        token, place = (chosen == e).nonzero(as_tuple=True)
        gate, up = F.linear(x[token], gate_up_proj[e]).chunk(2, dim=-1)
        y.index_add_(0, token, weights[token, place, None] * F.linear(F.silu(gate) * up, down_proj[e]))
    return y


@wrong("my_experts", "overwrites the others")
def the_last_one_stays(x, weights, chosen, gate_up_proj, down_proj):
    for k in range(chosen.shape[1]):
        y = torch.zeros_like(x)
        for e in chosen[:, k].unique().tolist():
            token = (chosen[:, k] == e).nonzero()[:, 0]
            gate, up = F.linear(x[token], gate_up_proj[e]).chunk(2, dim=-1)
            y[token] = weights[token, k, None] * F.linear(F.silu(gate) * up, down_proj[e])
    return y


# ---- my_mixture

slip("my_mixture", "shared expert is missing", " + loud * my_mlp(x, shared)", "")
slip("my_mixture", "chosen experts are missing", "routed.view_as(x) + loud", "loud")
slip("my_mixture", "gate is missing", "loud * my_mlp(x, shared)", "my_mlp(x, shared)")
slip("my_mixture", "from 0 to 1", "torch.sigmoid(F.linear(x", "(F.linear(x")
slip("my_mixture", "no silu", "torch.sigmoid(", "F.silu(")
slip("my_mixture", "the shared expert alone", "return routed.view_as(x) + loud * my_mlp(x, shared)",
     "return loud * (routed.view_as(x) + my_mlp(x, shared))")
slip("my_mixture", "what the gate leaves", "routed.view_as(x) +", "(1 - loud) * routed.view_as(x) +")
slip("my_mixture", "this is another layer", 'weights["gate.weight"], top_k)', 'weights["gate.weight"], 2)')
slip("my_mixture", "stops with RuntimeError", "routed.view_as(x)", "routed")
slip("my_mixture", "stops with RuntimeError", "tokens = x.flatten(0, 1)", "tokens = x[0]")
slip("my_mixture", "changes x,", "    return routed", "    x += 1\n    return routed")

# ---- my_balancing_loss

slip("my_balancing_loss", "number of experts as a factor", "return experts * ", "return ")
slip("my_balancing_loss", "or is a mean over them", ".mean(0)).sum()", ".mean(0)).mean()")
slip("my_balancing_loss", "who was chosen", "shares * probabilities.mean(0)", "probabilities.mean(0) ** 2")
slip("my_balancing_loss", "counts, which teach nothing", "shares * probabilities.mean(0)", "shares ** 2")
slip("my_balancing_loss", "only the first", "topk(top_k)", "topk(1)")
slip("my_balancing_loss", "add up to top_k", ".float().sum(1)", ".float().mean(1)")
slip("my_balancing_loss", "not for each token", "(shares * probabilities.mean(0)).sum()",
     "(F.one_hot(chosen, experts).sum(1) * probabilities).mean(0).sum()")
slip("my_balancing_loss", "must keep their gradient", "torch.cat(logits)", "torch.cat(logits).detach()")
slip("my_balancing_loss", "changes logits", "    experts, chosen", "    logits[0] += 1\n    experts, chosen")


@wrong("my_balancing_loss", "mean of the layers' losses")
def layer_by_layer(logits, top_k):
    total = 0
    for layer in logits:
        p = layer.softmax(-1)
        shares = F.one_hot(p.topk(top_k).indices, p.shape[-1]).float().sum(1).mean(0)
        total = total + p.shape[-1] * (shares * p.mean(0)).sum() / len(logits)
    return total


@wrong("my_balancing_loss", "sum of the layers' losses")
def all_layers_added(logits, top_k):
    total = 0
    for layer in logits:
        p = layer.softmax(-1)
        shares = F.one_hot(p.topk(top_k).indices, p.shape[-1]).float().sum(1).mean(0)
        total = total + p.shape[-1] * (shares * p.mean(0)).sum()
    return total
