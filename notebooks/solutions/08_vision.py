"""Solutions of lesson 08: each piece of code goes in place of the exercise's cell."""

# %% exercise 1
def my_patches(frames, patch, merge, per_slice):
    T, C, H, W = frames.shape
    side, rows = patch * merge, []
    for t in range(0, T, per_slice):
        for top in range(0, H, side):                   # token by token,
            for left in range(0, W, side):
                for y in range(top, top + side, patch):     # and in each its patches
                    for x in range(left, left + side, patch):
                        cut = frames[t : t + per_slice, :, y : y + patch, x : x + patch]
                        rows.append(cut.transpose(0, 1).flatten())      # colours first
    return torch.stack(rows)

# %% exercise 2
def my_smart_resize(height, width, factor, least, most):
    h, w = (round(side / factor) * factor for side in (height, width))  # halves to even
    if h * w > most:
        scale = math.sqrt(height * width / most)
        h, w = (max(factor, math.floor(side / scale / factor) * factor)
                for side in (height, width))
    elif h * w < least:
        scale = math.sqrt(least / (height * width))
        h, w = (math.ceil(side * scale / factor) * factor for side in (height, width))
    return h, w

# %% exercise 3
def my_stretch(row, length):
    u = torch.linspace(0, len(row) - 1, length)         # where each patch lands
    point = u.floor().long().clamp(max=len(row) - 2)    # the point before it
    r = (u - point)[:, None]                            # its share of the way to the next
    return (1 - r) * row[point] + r * row[point + 1]

# %% exercise 4
def my_positions(parts, start=0):
    places = []
    for part in parts:
        if isinstance(part, int):
            places += [(p, p, p) for p in range(start, start + part)]
            start += part
        else:
            rows, columns = part
            places += [(start, start + row, start + column)
                       for row in range(rows) for column in range(columns)]
            start += max(rows, columns)                 # on past the longer side
    return torch.tensor(places).T, start
