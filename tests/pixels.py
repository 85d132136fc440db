"""What the explorers' canvases show, painted once more in Python: for tests to compare, pixel by pixel.

Each function takes an explorer and a place in it; what is not given is where the explorer stands. All pictures are
(height, width, 4) uint8, transparent where nothing is. The modules in minqwen/widgets count by whole numbers, or in
double precision with each sum and product in the order in which it is done here: so no pixel may differ.
"""

from functools import lru_cache

import numpy as np

from minqwen import plots
from minqwen.trace import ask, delta_step
from minqwen.widgets import attention, cost, drafts, experts, gates, lab, quant, rollouts, training, vision
from minqwen.widgets.state import PARTS


def place_of(explorer, names, given) -> list:
    """A place: where something is None, the explorer's own."""
    return [getattr(explorer, name) if x is None else x for name, x in zip(names, given, strict=True)]


def coloured(numbers, limit, palette) -> np.ndarray:
    """(..., 3): zero has the palette's colour 128, the limit 255, its opposite 1."""
    return palette[np.clip(np.floor(numbers / limit * 127 + 128.5), 1, 255).astype(int)]


def opaque(colours) -> np.ndarray:
    return np.insert(colours, 3, 255, axis=-1)


def enlarged(picture, down, across=None) -> np.ndarray:
    return picture.repeat(down, axis=0).repeat(down if across is None else across, axis=1)


# ------------------------------------------------------------------------------------------------- the state explorer


class Memory:
    """One head's memory, followed through a text. k (T, Dk), v (T, Dv), alpha, beta (T,), initial (Dk, Dv): float64."""

    def __init__(self, k, v, alpha, beta, initial):
        self.tokens, self.kept = list(zip(k, v, alpha, beta)), [initial]

    def before(self, t) -> np.ndarray:
        """(Dk, Dv): the memory as token t finds it, not yet faded."""
        while len(self.kept) <= t:
            self.kept.append(self.step(len(self.kept) - 1)["memory"])
        return self.kept[t]

    def step(self, t) -> dict:
        """Token t's step of the gated delta rule, with all that is painted of it."""
        k, v, alpha, beta = self.tokens[t]
        step = delta_step(self.before(t), k, v, alpha, beta)
        return step._asdict() | {"memory": step.after, "key": k, "value": v, "error": v - step.answer}


def together(parts, on) -> np.ndarray:
    """(Dk, Dv): decayed - erased + written, of those that are on."""
    total = parts["decayed"] if on["decayed"] else np.zeros_like(parts["decayed"])
    total = total - parts["erased"] if on["erased"] else total
    return total + parts["written"] if on["written"] else total


@lru_cache(maxsize=32)
def memories(explorer, layer, head) -> tuple[list[Memory], dict]:
    """A head's memory along each text, and the limits of its colours: from the numbers of the page."""
    Dk, Dv = explorer.story["key_dim"], explorer.story["value_dim"]
    numbers, start = np.frombuffer(explorer.page(f"{layer} {head}"), "<f4").astype(np.float64), 0

    def take(*shape):
        nonlocal start
        start += int(np.prod(shape))
        return numbers[start - int(np.prod(shape)) : start].reshape(shape)

    followed = []
    for text in explorer.story["texts"]:
        T = len(text["tokens"])
        read = take(T, Dk), take(T, Dv), take(T), take(T)
        followed.append(Memory(*read, np.zeros((Dk, Dv)) if text["begins_empty"] else take(Dk, Dv)))
    return followed, dict(zip(("memory", "key", "value"), take(3)))


def parts(explorer, token=None, layer=None, head=None, **on) -> dict:
    """Name -> numbers, of all that is painted there; with two texts the two memories and the difference."""
    token, layer, head = place_of(explorer, ("token", "layer", "head"), (token, layer, head))
    on = {name: on.get(name, getattr(explorer, name)) for name in PARTS}
    steps = [memory.step(min(token, len(memory.tokens) - 1)) for memory in memories(explorer, layer, head)[0]]
    totals = [together(step, on) for step in steps]
    if len(steps) == 2:
        return {"first": totals[0], "second": totals[1], "difference": totals[0] - totals[1]}
    return steps[0] | {"memory": totals[0], "now": ask(totals[0], steps[0]["key"])}


def answers(explorer, asked=None, token=None, layer=None, head=None, **on) -> dict:
    """What the memories answer to the key of token `asked`.

    Returns:
        "before", "after" (texts, Dv): before this step, and after it - with the parts of it that are on;
        "value" (Dv,): the value that came with the key;
        "cosines": for each text (2, N): how close the answer before, and after, is to each value so far.
    """
    names = ("asked", "token", "layer", "head")
    asked, token, layer, head = place_of(explorer, names, (asked, token, layer, head))
    on = {name: on.get(name, getattr(explorer, name)) for name in PARTS}
    followed, _ = memories(explorer, layer, head)
    every = [token for memory in followed for token in memory.tokens]
    key, value = every[min(token, len(followed[0].tokens) - 1) if asked == -1 else asked][:2]
    before, after, cosines = [], [], []
    for memory in followed:
        t = min(token, len(memory.tokens) - 1)
        before.append(ask(memory.before(t), key))
        after.append(ask(together(memory.step(t), on), key))
        values = np.stack([v for _, v, _, _ in memory.tokens[: t + 1]])                     # (N, Dv)
        lengths = np.linalg.norm(values, axis=1)
        cosines.append(np.stack([values @ x / np.maximum(lengths * np.linalg.norm(x), 1e-12)
                                 for x in (before[-1], after[-1])]))
    return {"before": np.stack(before), "after": np.stack(after), "value": value, "cosines": cosines}


def strongest(numbers, block) -> np.ndarray:
    """Each block of cells as the one of them that is largest, its sign kept: (h, w) -> (h / block, w / block), up."""
    h, w = (-(-n // block) for n in numbers.shape)
    whole = np.zeros((h * block, w * block))
    whole[: numbers.shape[0], : numbers.shape[1]] = numbers
    blocks = whole.reshape(h, block, w, block).swapaxes(1, 2).reshape(h, w, -1)
    return np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], axis=-1)[..., 0]


def layout(Dk, Dv, texts=1) -> tuple[int, int, list]:
    """Height, width and places (name, scale, x, y, repeats down, repeats across) of what a picture consists of.

    One text: four matrices in a row, memory = decayed - erased + written. Left of the last two the key, as a column.
    Below them, sharing their columns: the memory's answer to the key now, its error before, its answer before, the
    value. Two texts: three matrices, first - second = difference.
    """
    unit = max(1, (Dk + 8) // 16)
    names = ("memory", "decayed", "erased", "written") if texts == 1 else ("first", "second", "difference")
    x = [i * (Dv + 6 * unit) for i in range(len(names))]
    places = [(name, "memory", x[i], 0, 1, 1) for i, name in enumerate(names)]
    if texts == 2:
        return Dk, x[-1] + Dv, places
    places += [("key", "key", x[i] - 2 * unit, 0, 1, unit) for i in (2, 3)]
    vectors = enumerate(("now", "error", "answer", "value"))
    places += [(name, "value", x[i], Dk + unit, 2 * unit, 1) for i, name in vectors]
    return Dk + 3 * unit, x[3] + Dv, places


def answers_layout(Dk, Dv, names) -> tuple[int, int, list]:
    """The same for answers: one strip below the other, as wide as a matrix."""
    unit = max(1, (Dk + 8) // 16)
    places = [(name, "value", 0, 3 * unit * i, 2 * unit, 1) for i, name in enumerate(names)]
    return 3 * unit * len(names) - unit, Dv, places


def put_together(parts, limits, palette, plan, block) -> np.ndarray:
    height, width, places = plan
    picture = np.zeros((height, width, 4), dtype=np.uint8)
    for name, scale, x, y, down, across in places:
        part = parts[name]
        part = strongest(part if part.ndim == 2 else part[None], block)
        part = enlarged(part.T if name == "key" else part, down, across)
        picture[y : y + part.shape[0], x : x + part.shape[1]] = opaque(coloured(part, limits[scale], palette))
    return picture


def points(explorer, exact) -> tuple[int, list[int]]:
    """How many cells a point stands for, along each side; and how many points are on a memory's sides."""
    block = 1 if (explorer.exact if exact is None else exact) else explorer.story["block"]
    return block, [-(-explorer.story[side] // block) for side in ("key_dim", "value_dim")]


def state(explorer, token=None, layer=None, head=None, dark=False, exact=None, **on) -> np.ndarray:
    """The canvas with the memories."""
    token, layer, head = place_of(explorer, ("token", "layer", "head"), (token, layer, head))
    block, sides = points(explorer, exact)
    limits = memories(explorer, layer, head)[1]
    plan = layout(*sides, len(explorer.traces))
    return put_together(parts(explorer, token, layer, head, **on), limits, plots.diverging(dark), plan, block)


def state_answers(explorer, asked=None, token=None, layer=None, head=None, dark=False, exact=None, **on) -> np.ndarray:
    """The canvas with the answers before and after, text by text, and the value."""
    token, layer, head = place_of(explorer, ("token", "layer", "head"), (token, layer, head))
    given, (block, sides) = answers(explorer, asked, token, layer, head, **on), points(explorer, exact)
    strips = {f"{i} {name}": given[name][i] for i in range(len(explorer.traces)) for name in ("before", "after")}
    strips["value"] = given["value"]
    limits, plan = memories(explorer, layer, head)[1], answers_layout(*sides, list(strips))
    return put_together(strips, limits, plots.diverging(dark), plan, block)


# --------------------------------------------------------------------------------------------- the attention explorer


def attention_map(explorer, layer=None, head=None, dark=False) -> np.ndarray:
    """The opened map; the grid of all maps is `AttentionExplorer.overview`."""
    layer, head = place_of(explorer, ("layer", "head"), (layer, head))
    weights, sizes = explorer.weights(layer, head), explorer.story["map"]
    signed = next(x["signed"] for x in explorer.story["layers"] if x["index"] == layer)
    shade = attention.shades(attention.blocks(weights, sizes["block"]), attention.limit_of(weights), signed)
    return attention.coloured(shade, (plots.diverging if signed else plots.sequential)(dark), sizes["unit"])


# -------------------------------------------------------------------------------------------------- the gate explorer


def described(explorer, layer) -> dict:
    return next(x for x in explorer.story["layers"] if x["index"] == layer)


def gate_panel(explorer, token=None, layer=None, head=None, panel=0, dark=False) -> np.ndarray:
    """One of a layer's panels, from the top: every head and token, beside it the heads, below it the tokens as bars."""
    token, layer, head = place_of(explorer, ("token", "layer", "head"), (token, layer, head))
    told, (across, down) = described(explorer, layer)["panels"][panel], described(explorer, layer)["cell"]
    shares = gates.places(told["name"], explorer.values(told["name"], layer), told["limit"]).astype(np.float64)
    return panel_of(shares, token, head, across, down, gates, dark)


def panel_of(shares, token, head, across, down, sizes, dark) -> np.ndarray:
    """shares: (T, H), places on the scale from 0 to 1; sizes: the module that has GAP, BAR and ACROSS."""
    (T, H), GAP, BAR, ACROSS = shares.shape, sizes.GAP, sizes.BAR, sizes.ACROSS
    wide, high, colours = T * across, H * down, opaque(plots.sequential(dark))
    canvas = np.zeros((high + GAP + BAR, wide + GAP + ACROSS, 4), dtype=np.uint8)
    shade = np.floor(shares * 255 + 0.5).astype(int).T[::-1]                                # (H, T)
    canvas[:high, :wide] = enlarged(colours[shade], down, across)
    canvas[:high, wide + GAP :] = canvas[high + GAP :, :wide] = colours[0]
    for h in range(H):
        top, bar = (H - 1 - h) * down, int(np.floor(shares[token, h] * ACROSS + 0.5))
        canvas[top : top + down - (down > 3), wide + GAP : wide + GAP + bar] = colours[255 if h == head else 140]
    for t in range(T):
        left, bar = t * across, int(np.floor(shares[t, head] * BAR + 0.5))
        canvas[len(canvas) - bar :, left : left + across - (across > 3)] = colours[255 if t == token else 140]
    return canvas


def gate_dimensions(explorer, layer=None, head=None, dark=False) -> np.ndarray:
    """A head's output gate: dimensions are rows, from the top; tokens are columns."""
    layer, head = place_of(explorer, ("layer", "head"), (layer, head))
    told, factors = described(explorer, layer), explorer.factors(layer, head).astype(np.float64).T
    (across, down), limit = told["dim_cell"], gates.limit_of(explorer.factors(layer, head), told["kind"])
    if told["kind"] == "delta":
        colours = coloured(factors, limit, plots.diverging(dark))
    else:
        colours = plots.sequential(dark)[np.clip(np.floor(factors / limit * 255 + 0.5), 0, 255).astype(int)]
    return enlarged(opaque(colours), down, across)


# ------------------------------------------------------------------------------------------------ the expert explorer


def expert_panel(explorer, token=None, layer=None, head=None, dark=False) -> np.ndarray:
    """What all experts of a layer count for all tokens, and the two profiles."""
    token, layer, head = place_of(explorer, ("token", "layer", "head"), (token, layer, head))
    told = described(explorer, layer)
    shares = (explorer.values("weights", layer).astype(np.float64) / told["limit"]).astype(np.float32)
    return panel_of(shares.astype(np.float64), token, head, *told["cell"], experts, dark)


def expert_shared(explorer, token=None, layer=None, dark=False) -> np.ndarray:
    """How loud the shared expert is: one row."""
    token, layer = place_of(explorer, ("token", "layer"), (token, layer))
    shares = explorer.values("shared", layer).astype(np.float64)
    return panel_of(shares, token, 0, *explorer.story["shared"], experts, dark)


def expert_loads(explorer, dark=False) -> np.ndarray:
    """Layers side by side, the first expert at the bottom."""
    shade = np.floor(explorer.loads() / explorer.story["most"] * 255 + 0.5).astype(int).T[::-1]
    across, down = explorer.story["load"]
    return enlarged(opaque(plots.sequential(dark))[shade], down, across)


# ------------------------------------------------------------------------------------------------ the vision explorer


def lines(length, slice) -> np.ndarray:
    """(length,): 2 where a line between tokens is, 1 where one between patches is, along one side of a picture."""
    patch, x = slice["patch"] * slice["zoom"], np.arange(length)
    token = patch * slice["merge"]
    between_tokens = (x % token == 0) | ((x + 1) % token == 0) & (token >= 24)
    return np.where(between_tokens, 2, (x % patch == 0) & (patch >= 8))


def mark_token(panel, mark, unit, dark):
    """A ring about a token's place (row, column), in a panel that is changed."""
    y, x = mark[0] * unit, mark[1] * unit
    inwards = np.minimum(np.arange(unit), np.arange(unit)[::-1])
    inwards = np.minimum.outer(inwards, inwards)                                            # to the nearest edge
    ring, ink, paper = (2 if unit >= 24 else 1), (227, 230, 234), (36, 41, 47)
    ink, paper = (ink, paper) if dark else (paper, ink)
    cell = panel[y : y + unit, x : x + unit]                                                # no copy
    cell[inwards < ring] = ink
    cell[inwards == ring] = paper


def looks_of(explorer, token, layer, head, signs):
    """(T,) the weights of a token, and the one that gets the full colour."""
    weights, tokens = vision.chosen(explorer._heads(token)[layer], head, signs), explorer.story["tokens"]
    return weights, np.abs(weights[aims(tokens, token)]).max(initial=0.0) or 1.0


def aims(tokens, token):
    """The tokens whose weights the scale is for: those of pictures, or all that come later and may look at it."""
    if tokens[token]["slice"] >= 0:
        return list(range(token + 1, len(tokens)))
    return [i for i, other in enumerate(tokens) if other["slice"] >= 0]


def vision_slice(explorer, token=None, layer=None, head=None, slice=None, signs=None, dark=False) -> np.ndarray:
    """The picture with its grids, frame by frame, and beside it, over a pale grey one, the weights."""
    names = ("token", "layer", "head", "slice", "signs")
    token, layer, head, slice, signs = place_of(explorer, names, (token, layer, head, slice, signs))
    at, here, palette = explorer.story["tokens"][token], explorer.story["slices"][slice], plots.diverging(dark)
    weights, limit = looks_of(explorer, token, layer, head, signs)
    zoom, side, (height, width, step) = here["zoom"], here["patch"] * here["merge"], explorer.story["size"]
    frames = explorer._frames[slice].astype(int)
    line = np.maximum.outer(lines(frames.shape[1] * zoom, here), lines(frames.shape[2] * zoom, here))
    mean = (frames.sum(0) + len(frames) // 2) // len(frames)
    grey = mean @ [77, 150, 29] >> 8                                                        # (h, w)
    shown = weights[here["tokens"]].reshape(here["rows"], here["columns"])
    shown = enlarged(coloured(shown, limit, palette).astype(int), side)
    veiled = (vision.VEIL * shown + (256 - vision.VEIL) * grey[..., None]) >> 8
    canvas = np.zeros((height, width, 4), dtype=np.uint8)
    for i, panel in enumerate((*frames, veiled)):
        panel = enlarged(panel, zoom)
        bright = (panel @ [77, 150, 29] >> 8 >= 128)[..., None]         # there a line is darker, else it is brighter
        soft = np.array([256, 200, 96] if i < len(frames) else [256, 256, 208])[line][..., None]
        panel = np.where(bright, panel * soft >> 8, 255 - ((255 - panel) * soft >> 8))
        if at["slice"] == slice:
            mark_token(panel, divmod(at["at"], here["columns"]), side * zoom, dark)
        canvas[: panel.shape[0], i * step : i * step + panel.shape[1]] = opaque(panel)
    return canvas


def vision_tiles(explorer, token=None, slice=None, signs=None, dark=False) -> np.ndarray:
    """Every layer and head at once: a column of tiles for each layer, the mean of its heads at the bottom.

    All layers of a kind have one scale. For a token of a picture, each tile has one colour: that of the largest weight
    with which a later token of the text looks at it.
    """
    token, slice, signs = place_of(explorer, ("token", "slice", "signs"), (token, slice, signs))
    tokens, layers, here = explorer.story["tokens"], explorer.story["layers"], explorer.story["slices"][slice]
    piece, maps, largest = tokens[token]["slice"] >= 0, [], {}
    later = [i for i in range(token + 1, len(tokens)) if tokens[i]["slice"] < 0]
    for layer, heads in zip(layers, explorer._heads(token)):
        kept = []
        for head in range(-1, len(heads)):
            weights = vision.chosen(heads, head, signs)
            numbers = weights[here["tokens"]].reshape(here["rows"], here["columns"])
            if piece:
                numbers = np.full_like(numbers, weights[max(later, key=lambda i: abs(weights[i]))] if later else 0.0)
            kept.append(numbers)
        maps.append(kept)
        goals = later if piece else aims(tokens, token)
        largest[layer["kind"]] = max(largest.get(layer["kind"], 0.0), np.abs(heads[:, goals]).max(initial=0.0))
    (high, wide), unit, most, GAP = explorer.story["tile"], here["unit"], max(map(len, maps)), vision.GAP
    canvas = np.zeros((most * (high + GAP) - GAP, len(maps) * (wide + GAP) - GAP, 4), dtype=np.uint8)
    for x, (layer, kept) in enumerate(zip(layers, maps)):
        for row, numbers in enumerate(kept):
            colours = coloured(numbers, largest[layer["kind"]] or 1.0, plots.diverging(dark))
            picture, top, left = enlarged(opaque(colours), unit), (most - 1 - row) * (high + GAP), x * (wide + GAP)
            canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


# ------------------------------------------------------------------------------------------------ the cost of a context


def height_of(value, decades):
    """The row of a number; None where it is zero. A millionth of a pixel keeps rounding the same in every language."""
    if value == 0:
        return None
    share = (np.log10(value) - decades[0]) / (decades[1] - decades[0])
    return int(np.floor((1 - share) * (cost.HEIGHT - 1) + 0.5 + 1e-6))


def total(costs, chart):
    """What is really kept, or done: the sum of a chart's lines."""
    return sum(x for name, x in costs[chart].items() if name != "all attention")


def cost_lines(explorer, chart, size, batch, dtype, work, bits) -> list[dict]:
    """The lines of a chart, from the back to the front: "values", (WIDTH,) numbers, one for each column; "colour";
    "thick", how far it reaches up and down from its middle; "dashed"; "dot", whether the context is marked on it."""
    columns = cost.CONTEXTS[0] * 2.0 ** (np.arange(cost.WIDTH) / cost.STEP)
    line = {"thick": 1, "dashed": False, "dot": False, "colour": "others"}
    lines = [line | {"values": total(cost.cost(counts, columns, batch, dtype, work, bits), chart)}
             for name, counts in explorer.counts.items() if name != size]
    costs = cost.cost(explorer.counts[size], columns, batch, dtype, work, bits)[chart]
    return lines + [{"values": costs[name], "colour": name, "thick": 1 if name == "all attention" else 2,
                     "dashed": name == "all attention", "dot": True} for name in cost.CHARTS[chart]]


def cost_chart(explorer, chart="memory", size=None, context=None, batch=None, dtype=None, work=None, bits=None,
               dark=False) -> np.ndarray:
    """A chart, "memory" or "work", on two logarithmic axes."""
    size, context, batch, dtype, work, bits = place_of(explorer, explorer.position,
                                                       (size, context, batch, dtype, work, bits))
    WIDTH, HEIGHT, decades = cost.WIDTH, cost.HEIGHT, explorer.story["decades"][f"{chart} {work}"]
    colours = cost.COLOURS["dark" if dark else "light"]
    inks = {name: [*bytes.fromhex(colour[1:]), 255] for name, colour in colours.items()}
    canvas, at = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8), cost.CONTEXTS.index(context) * cost.STEP
    for decade in range(decades[0], decades[1] + 1):
        row = height_of(10.0 ** decade, decades)
        canvas[max(0, row - 1) : row + 1] = inks["grid"]
    for beside in (0, 1):
        canvas[:, beside :: cost.STEP] = inks["grid"]
    canvas[:, max(0, at - 1) : at + 2] = inks["here"]
    for line in cost_lines(explorer, chart, size, batch, dtype, work, bits):
        rows, thick = [height_of(value, decades) for value in line["values"]], line["thick"]
        for x, (row, following) in enumerate(zip(rows, [*rows[1:], rows[-1]])):
            if row is None or following is None or line["dashed"] and x // 12 % 2:
                continue
            top, bottom = min(row, following) - thick, max(row, following) + thick + 1
            canvas[max(0, top) : max(0, bottom), x] = inks[line["colour"]]
        if line["dot"] and rows[at] is not None:
            for x in range(max(0, at - 9), min(WIDTH, at + 10)):
                for y in range(max(0, rows[at] - 9), min(HEIGHT, rows[at] + 10)):
                    if (x - at) ** 2 + (y - rows[at]) ** 2 <= 90:
                        canvas[y, x] = inks[line["colour"]]
    return canvas


def cost_table(explorer, context=None, batch=None, dtype=None, bits=None) -> list[dict]:
    """A row for each size: bytes of weights, of keys and values and of states, and operations, each with its name."""
    names = ("context", "batch", "dtype", "bits")
    context, batch, dtype, bits = place_of(explorer, names, (context, batch, dtype, bits))
    rows = []
    for name in explorer.counts:
        token, prompt = (explorer.numbers(name, context, batch, dtype, work, bits) for work in cost.WORKS)
        next_token = total(token, "work")
        rows.append({"size": name, **token["memory"], "next token": next_token,
                     "of it attention": token["work"]["attention"] / next_token, "prompt": total(prompt, "work")})
    return rows


# ------------------------------------------------------------------------------------------------- the draft explorer


def draft_bars(explorer, token=None, n=None, dark=False) -> np.ndarray:
    """A pass: a bar of the head and one of the model for each draft, a coin's mark, and the model's own token."""
    token, n = place_of(explorer, ("token", "drafts"), (token, n))
    one, inks = explorer.runs[n][explorer.where(token, n)[0]], drafts.colours(dark)
    row, wide = drafts.ROW, drafts.WIDE
    picture = np.zeros((row * explorer.story["rows"], wide, 4), dtype=np.uint8)

    def fill(who, i, left, top, bottom, right):
        picture[row * i + top : row * i + bottom, left:right] = [*inks[who], 255]

    def length(x):
        return int(np.floor(x * wide + 0.5))

    own = [(len(one.drafted), p) for p in one.p_given[one.taken :]]
    for i, p in (*enumerate(one.p), *own):
        fill("model", i, 0, *drafts.BARS[1], length(p))
    for i, q in enumerate(one.q):
        fill("head", i, 0, *drafts.BARS[0], length(q))
    for i, coin in enumerate(one.coins):
        left = min(wide - 2, length(coin * one.q[i]))
        fill("coin", i, left, 1, row - 1, left + 2)
    return picture


# ------------------------------------------------------------------------------------------------ the training explorer


def training_curves(explorer, snapshot=None, dark=False) -> np.ndarray:
    """Loss and recall, each snapshot a step; the snapshot that is marked, and where curves jump."""
    [snapshot], height = place_of(explorer, ["snapshot"], [snapshot]), training.HEIGHT
    across = explorer.story["cell"][0]
    inks = {name: [*bytes.fromhex(colour[1:]), 255]
            for name, colour in training.COLOURS["dark" if dark else "light"].items()}
    canvas = np.zeros((height, across * len(explorer.run), 4), dtype=np.uint8)

    def row_of(x):
        return int(np.floor((1 - x) * (height - 3) + 0.5))

    here = slice(snapshot * across, (snapshot + 1) * across)
    for share in (0, 0.5, 1):
        canvas[row_of(share) + 1] = inks["grid"]
    for jump in explorer.story["jumps"].values():
        canvas[:, jump * across] = inks["jump"]
    canvas[:, here] = inks["grid"]
    for name, numbers in explorer.story["curves"].items():
        rows = [row_of(x) for x in numbers]
        for i, (row, before) in enumerate(zip(rows, [rows[0], *rows])):
            canvas[row : row + 3, i * across : (i + 1) * across] = inks[name]
            canvas[min(row, before) : max(row, before) + 3, i * across] = inks[name]
    canvas[:3, here] = canvas[height - 3 :, here] = inks["here"]
    return canvas


def training_layers(explorer, dark=False) -> np.ndarray:
    """How much each layer's correction counts at each snapshot, the lowest layer at the bottom."""
    across, down = explorer.story["cell"]
    shade = np.floor(np.array(explorer.story["lost"]) / explorer.story["most_lost"] * 255 + 0.5).astype(int)
    return enlarged(opaque(plots.sequential(dark))[shade.T[::-1]], down, across)


def training_memory(explorer, token=None, layer=None, head=None, snapshot=None, dark=False) -> np.ndarray:
    """What a head holds of the story after a token, by the numbers of the page."""
    token, layer, head, snapshot = place_of(explorer, explorer.position, (token, layer, head, snapshot))
    (Dk, Dv), T = (explorer.story[name] for name in ("key_dim", "value_dim")), len(explorer.story["tokens"])
    heads = next(x["heads"] for x in explorer.story["layers"] if x["index"] == layer)
    numbers = np.frombuffer(explorer.page(f"layer {layer}"), "<f4").astype(np.float64)
    numbers = numbers.reshape(-1, heads, T * (Dk + Dv + 2) + 3)
    k, v, alpha, beta, limits = np.split(numbers[snapshot, head], np.cumsum([T * Dk, T * Dv, T, T]))
    memory = Memory(k.reshape(T, Dk), v.reshape(T, Dv), alpha, beta, np.zeros((Dk, Dv)))
    return opaque(coloured(memory.before(token + 1), limits[0], plots.diverging(dark)))


# ----------------------------------------------------------------------------------------------- the rollout explorer


def rollout_map(explorer, group=None, dark=False) -> np.ndarray:
    """A row for each answer, a cell for each token, by how much likelier it has become; tokens are apart if wide."""
    [group], (across, down) = place_of(explorer, ["group"], [group]), explorer.story["cell"]
    told, rows, longest = (explorer.story[name] for name in ("groups", "rows", "longest"))
    picture = np.zeros((rows * down, longest * across, 4), dtype=np.uint8)
    for a, changes in enumerate(explorer.changes(group)):
        for t, change in enumerate(changes):
            if not np.isnan(change):
                picture[a * down : (a + 1) * down - 2, t * across : (t + 1) * across - (across > 3)] = opaque(
                    coloured(change, told[group]["limit"], plots.diverging(dark)))
    assert down == rollouts.DOWN
    return picture


# ------------------------------------------------------------------------------------------------------- the memory lab


def bars(before, after, dark=False) -> np.ndarray:
    """Two bars for each token, as long as it is likely."""
    picture = np.zeros((lab.ROW * lab.ROWS, lab.WIDE, 4), dtype=np.uint8)
    for (top, bottom), chances, colour in zip(lab.BARS, (before, after), lab.colours(dark)):
        for i, p in enumerate(chances):
            row = lab.ROW * i
            picture[row + top : row + bottom, : int(np.floor(p * lab.WIDE + 0.5))] = [*colour, 255]
    return picture


def lab_bars(bench, at=None, dark=False) -> np.ndarray:
    """The lab's canvas, for one token of the answer; -1 is where most changes."""
    at = bench.at if at is None else at
    place = bench.result["places"][bench.result["most"] if at == -1 else at]
    return bars(place["before"], place["after"], dark)


# ---------------------------------------------------------------------------------------- the explorer of quantization


def quant_rows(explorer, row=None, bits=None, size=None, kind="numbers", dark=False) -> np.ndarray:
    """The rows of a page, or what each of their numbers is off by ("errors"), in colours."""
    row, bits, size = place_of(explorer, ("row", "bits", "size"), (row, bits, size))
    N, K = explorer.story["shape"]
    (across, down), first = explorer.story["cell"], row // quant.ROWS * quant.ROWS
    numbers = explorer.weight.numpy()[first : first + quant.ROWS]
    limit = explorer.story["limit"]
    if kind == "errors":
        numbers, limit = numbers - explorer.becomes(bits, size)[first : first + quant.ROWS], limit / 15
    canvas = np.zeros((quant.ROWS * down, K * across, 4), dtype=np.uint8)
    colours = opaque(coloured(numbers.astype(np.float64), limit, plots.diverging(dark)))
    canvas[: len(numbers) * down] = enlarged(colours, down, across)
    return canvas


def quant_group(explorer, row=None, column=None, bits=None, size=None, dark=False) -> np.ndarray:
    """A group on its grid: a rung for each code, a stroke for each number, and from it to its code."""
    row, column, bits, size = place_of(explorer, explorer.position, (row, column, bits, size))
    numbers, becomes, scale = explorer.group(row, column, bits, size)
    high, margin = explorer.story["chart"]
    width = explorer.story["shape"][1] * explorer.story["cell"][0]
    colours = quant.COLOURS["dark" if dark else "light"]
    inks = {name: [*bytes.fromhex(colour[1:]), 255] for name, colour in colours.items()}
    canvas, largest = np.zeros((high, width, 4), dtype=np.uint8), max(2 ** (bits - 1) * scale, np.abs(numbers).max())

    def height(x):
        return int(np.floor((1 - float(x) / float(largest)) / 2 * (high - 1 - 2 * margin) + margin + 0.5))

    for code in range(-(2 ** (bits - 1)), 2 ** (bits - 1)) if bits < 5 else ():
        canvas[height(code * scale)] = inks["rung"]
    ends = [i * width // size for i in range(size + 1)]
    for left, end, x, y in zip(ends, ends[1:], numbers, becomes):
        right, at, goes = max(left + 1, end - 1), height(x), height(y)
        canvas[min(at, goes) : max(at, goes) + 1, (left + right) // 2] = inks["off"]
        canvas[goes : goes + 2, left:right] = inks["off"]
        canvas[at - 1 : at + 2, left:right] = inks["number"]
    return canvas
