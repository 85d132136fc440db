"""Solutions of lesson 11: each piece of code goes in place of the exercise's cell."""

# %% exercise 1
def my_router(x, weight, top_k):
    probabilities = F.linear(x, weight).float().softmax(-1)             # (tokens, E)
    best, chosen = probabilities.topk(top_k)                            # (tokens, top_k) each
    return (best / best.sum(-1, keepdim=True)).to(x.dtype), chosen

# %% exercise 2
def my_experts(x, weights, chosen, gate_up_proj, down_proj):
    y = torch.zeros_like(x)
    for e in chosen.unique().tolist():
        token, place = (chosen == e).nonzero(as_tuple=True)             # its tokens, and where each names it
        gate, up = F.linear(x[token], gate_up_proj[e]).chunk(2, dim=-1)
        said = F.linear(F.silu(gate) * up, down_proj[e])
        y.index_add_(0, token, weights[token, place, None] * said)
    return y

# %% exercise 3
def my_mixture(x, weights, top_k):
    tokens = x.flatten(0, 1)                                            # (B T, d)
    counts, chosen = my_router(tokens, weights["gate.weight"], top_k)
    routed = my_experts(tokens, counts, chosen, weights["experts.gate_up_proj"], weights["experts.down_proj"])
    prefix = "shared_expert."
    shared = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
    loud = torch.sigmoid(F.linear(x, weights["shared_expert_gate.weight"]))
    return routed.view_as(x) + loud * my_mlp(x, shared)

# %% exercise 4
def my_balancing_loss(logits, top_k):
    probabilities = torch.cat(logits).softmax(-1)                       # (layers tokens, E)
    experts, chosen = probabilities.shape[-1], probabilities.topk(top_k).indices
    shares = F.one_hot(chosen, experts).float().sum(1).mean(0)          # add up to top_k
    return experts * (shares * probabilities.mean(0)).sum()
