"""Solutions of lesson 09: each piece of code goes in place of the exercise's cell."""

# %% exercise 1
def my_piece_mask(T, S):
    return torch.ones(T, S, dtype=torch.bool).tril(S - T)   # S - T tokens came before it

# %% exercise 2
def my_half_life(g):
    return math.log(2) / g.mean(0).abs()                # exp(n mean(g)) = 1/2; 0 gives inf

# %% exercise 3
def my_effective_rank(states):
    s = torch.linalg.svdvals(states)
    p = s / s.sum(-1, keepdim=True)                     # shares of the whole
    return torch.special.entr(p).sum(-1).exp()          # as many, if all were alike

# %% exercise 4
def my_yarn(dims, theta, factor, original, fast=32, slow=1):
    def pair_that_turns(turns):
        return dims * math.log(original / (2 * math.pi * turns)) / (2 * math.log(theta))

    first = max(math.floor(pair_that_turns(fast)), 0)
    last = min(math.ceil(pair_that_turns(slow)), dims - 1)
    i = torch.arange(dims // 2)
    ramp = ((i - first) / ((last - first) or 0.001)).clamp(0, 1)    # 0 kept, 1 stretched
    plain = theta ** (-2 * i / dims)
    return plain * (1 - ramp) + plain / factor * ramp
