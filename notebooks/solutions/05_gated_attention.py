"""Solutions to the exercises of 05_gated_attention. Try first: the checks there say what is wrong."""

# %% exercise 1
def my_split(q_proj_output, head_dim):
    # the last axis is heads x (query, gate) x head_dim: open it up, and take the two apart
    query, gate = q_proj_output.unflatten(-1, (-1, 2, head_dim)).unbind(3)
    return query, gate

# %% exercise 2
def my_turn(pair, angle):
    a, b = pair
    return torch.stack((a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()))

# %% exercise 3
def my_listens(section):
    pairs = sum(section)
    listens = pairs * [0]                                   # to time, unless it is dealt to another
    for position in (1, 2):
        for turn in range(section[position]):
            listens[3 * turn + position] = position         # the turns are three pairs long: t h w
    return listens
