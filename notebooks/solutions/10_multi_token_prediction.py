"""Solutions of lesson 10: each piece of code goes in place of the exercise's cell."""

# %% exercise 1
def my_pass_seconds(tokens, weights, bytes_each, bandwidth, speed):
    carrying = weights * bytes_each / bandwidth         # once, for all tokens of the pass
    multiplying = 2 * weights * tokens / speed
    return max(carrying, multiplying)                   # they go on at the same time

# %% exercise 2
def my_mtp_input(hidden, following, hidden_weight, following_weight, fc_weight):
    halves = (my_rms_norm(following, following_weight), my_rms_norm(hidden, hidden_weight))
    return F.linear(torch.cat(halves, dim=-1), fc_weight)

# %% exercise 3
def my_agreed(drafted, likeliest):
    taken = 0
    while taken < len(drafted) and drafted[taken] == likeliest[taken]:
        taken += 1
    return likeliest[: taken + 1]                       # the drafts, and the model's own token

# %% exercise 4
def my_accept_odds(p, q):
    taken = (p / q.clamp(min=1e-30)).clamp(max=1)
    more = (p - q).clamp(min=0)                         # of what the head drafts too little
    return taken, more / more.sum(-1, keepdim=True).clamp(min=1e-30)
