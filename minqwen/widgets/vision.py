"""The vision explorer: where in a picture or clip a token looks, in every layer and head.

The browser gets the pictures as the model gets them and, for one token at a time, all its weights: a row of every
layer's token-to-token map - or, for a token that is a piece of a picture, a column: who looks at it. A picture is one
slice, a clip a slice for every few frames that a token spans.
"""

from pathlib import Path

import numpy as np
import torch
import traitlets
from einops import rearrange, repeat
from matplotlib.figure import Figure

from .. import plots
from ..delta_rule import full_precision
from ..errors import QwenError
from ..media import Settings
from ..trace import AttentionRecord, DeltaRecord, Trace, trace
from . import stills
from .explorer import Explorer, Place, Switch, in_base64, row_of, sources, token_at, tokens_of, whole

PANEL, LARGEST, TILE, GAP = 400, 640, 40, 4     # pixels: an enlarged picture, one as sent, a tile of the overview; gaps
VEIL = 176                                      # of 256: how much the colour of a weight hides of the picture below it

# --------------------------------------------------------------------------------------------- what there is to be seen


def pictures_of(pixel_values, grid_thw, settings: Settings) -> list[np.ndarray]:
    """The pictures and clips that were cut into these patches, as the model gets them: resized, and nothing lost.

    Args:
        pixel_values: (N, C * F * P * P) normalised patches, as `Processor.images` and `Processor.videos` make them.
        grid_thw: (pictures, 3): slices, patches down, patches across; their products add up to N.
        settings: what they were made with: sizes of patches, mean and standard deviation.

    Returns:
        For each picture its frames, (T, H, W, 3) uint8; a still has as many equal ones as its slice holds.
    """
    pixel_values, grids = torch.as_tensor(pixel_values).float().cpu(), torch.as_tensor(grid_thw).tolist()
    mean, std = (torch.tensor(x, dtype=torch.float32) for x in (settings.image_mean, settings.image_std))
    pictures = []
    for patches, (t, h, _) in zip(pixel_values.split([t * h * w for t, h, w in grids]), grids):
        frames = rearrange(patches, "(t h w mh mw) (c f ph pw) -> (t f) (h mh ph) (w mw pw) c", t=t,
                           h=h // settings.merge_size, mh=settings.merge_size, mw=settings.merge_size,
                           f=settings.temporal_patch_size, ph=settings.patch_size, pw=settings.patch_size)
        pictures.append(((frames * std + mean) * 255).round().clamp(0, 255).byte().numpy())
    return pictures


def looks(record: AttentionRecord | DeltaRecord, t: int, row: int, real: torch.Tensor) -> np.ndarray:
    """Where token t looks: one row of the (effective) attention, for every head. Quick, the whole map is not needed.

    In a Gated DeltaNet layer the query goes back through the memory's steps, M_s = alpha (I - beta k k^T):

        A_ts  =  beta_s k_s^T M_{s+1} ... M_t q_t.

    Args:
        real: (T,) the tokens of this row that are no padding; t is one of their numbers, 0 to T - 1.
    Returns:
        (heads, T) float64
    """
    if record.kind == "full_attention":
        return _softmax(record, row, real, real[t : t + 1])[:, 0]
    q, k, alpha, beta = _steps(record, row, real)
    seen, u = np.zeros((alpha.shape[1], len(real))), q[t]                                   # u: (Hv, Dk)
    for s in range(t, -1, -1):
        seen[:, s] = beta[s] * (k[s] * u).sum(-1)
        u = alpha[s, :, None] * (u - k[s] * seen[:, s, None])
    return seen


def looked_at(record: AttentionRecord | DeltaRecord, s: int, row: int, real: torch.Tensor) -> np.ndarray:
    """Who looks at token s: one column of the (effective) attention. Arguments and result as for `looks`.

    In a Gated DeltaNet layer, what s wrote goes on through the later steps and meets each query there.
    """
    if record.kind == "full_attention":
        return _softmax(record, row, real, real)[:, :, s]
    q, k, alpha, beta = _steps(record, row, real)
    seen, w = np.zeros((alpha.shape[1], len(real))), beta[s, :, None] * k[s]                # w: (Hv, Dk)
    for t in range(s, len(real)):
        if t > s:
            w = alpha[t, :, None] * (w - k[t] * (beta[t] * (k[t] * w).sum(-1))[:, None])
        seen[:, t] = (q[t] * w).sum(-1)
    return seen


def _steps(record, row, real):
    """q (scaled), k (T, Hv, Dk), alpha, beta (T, Hv) of a Gated DeltaNet layer: float64."""
    q, k, alpha, beta = (full_precision(x[row, real]).double().cpu().numpy()
                         for x in (record.q, record.k, record.alpha, record.beta))
    R = alpha.shape[1] // k.shape[1]
    return q.repeat(R, axis=1) * k.shape[-1] ** -0.5, k.repeat(R, axis=1), alpha, beta


def _softmax(record, row, real, queries) -> np.ndarray:
    """(Hq, queries, T): the map's rows for these queries, for the record's own tokens alone."""
    q, k = full_precision(record.q[row][:, queries]), full_precision(record.k[row])
    k = repeat(k, "h s d -> (h r) s d", r=q.shape[0] // k.shape[0])
    mask = record.mask
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~mask[row % len(mask), :, queries], -torch.inf)
    before = k.shape[1] - record.q.shape[2]                         # tokens that were there when the record began
    return scores.softmax(-1)[:, :, before + real].double().cpu().numpy()


def chosen(heads: np.ndarray, head: int, signs: bool = True) -> np.ndarray:
    """(T,): one head's weights, or with head = -1 the mean of all. heads: (H, T). Without signs only their size."""
    heads = heads if signs else np.abs(heads)
    return np.cumsum(heads, axis=0)[-1] / len(heads) if head == -1 else heads[head]


# ---------------------------------------------------------------------------------------------------------- the widget


class VisionExplorer(Explorer):
    """Pictures as the model gets them, and over them where a token looks; or who looks at a piece of a picture.

        VisionExplorer(qwen, [{"role": "user", "content": [{"type": "image", "image": "cat.png"},
                                                           {"type": "text", "text": "What colour is it?"}]}])
        VisionExplorer(t)                                   # a trace: of an answer, for example

    In attention layers the weights are those of the softmax: their sum over all tokens is one. In Gated DeltaNet layers
    they are the effective attention: how much of what a token wrote is still in what is read, negative where it is
    subtracted. The first token to be shown is the last there is, from which the answer's first word comes.

    Args:
        qwen: what `minqwen.load()` gives, or a `Qwen`; or a `Trace` that holds what is to be shown.
        messages: chat messages with pictures or clips in them; not with a trace.
        token: where to begin; may be negative.
        layer: the layer's number in the model; None: the attention layer that gives most of its weight to pictures.
        head: its number, or -1 for the mean of the layer's heads.
        slice: which picture, or slice of a clip, counted through from 0; None: the one with most of the weight.
        signs: False shows effective attention by its size alone.
        row: which row of a traced batch.

    Raises:
        QwenError: there is no picture in it, or no such token, layer, head or slice.
    """

    _esm, _css = sources("vision_explorer")
    position = ("token", "layer", "head", "slice", "signs")

    token, layer, head, slice = (Place().tag(sync=True) for _ in range(4))
    signs = Switch(True).tag(sync=True)

    def __init__(self, qwen, messages=None, *, token: int = -1, layer: int | None = None, head: int = -1,
                 slice: int | None = None, signs: bool = True, row: int = 0):
        if isinstance(qwen, Trace) != (messages is None):
            raise QwenError("Give a model and messages with a picture, VisionExplorer(qwen, [...]), or a trace alone.")
        self.trace = qwen if messages is None else trace(qwen).run(messages)
        self.row = row = row_of(self.trace, row)
        self._records = self.trace.layers
        self._real = self.trace.valid[row].nonzero()[:, 0]              # pads are not looked at: leave them out
        self._weighed = (None, [])                                      # a token, its weights in every layer
        slices, self._frames = self._slices()
        tokens = [token | {"slice": -1, "at": 0} for token in tokens_of(self.trace, row)]
        for number, seen in enumerate(slices):
            for at, i in enumerate(seen["tokens"]):
                tokens[i] |= {"slice": number, "at": at}
        kinds = {"linear_attention": "delta", "full_attention": "attention"}
        layers = [{"kind": kinds[record.kind], "heads": record.o.shape[2 if record.kind == "linear_attention" else 1]}
                  for record in self._records]
        height, width = (max(slice[side] * slice["zoom"] for slice in slices) for side in ("height", "width"))
        step = width + 4 * GAP
        across = step * (1 + max(slice["frames"] for slice in slices)) - 4 * GAP
        story = {
            "title": "Where the model looks", "tokens": tokens, "stops": list(range(len(tokens))), "layers": layers,
            "slices": slices, "size": [height, across, step], "veil": VEIL, "gap": GAP,
            "tile": [max(v["unit"] * v[side] for v in slices) for side in ("rows", "columns")],
            "token_bytes": 4 * len(tokens) * sum(x["heads"] for x in layers),
            "palettes": in_base64(plots.diverging),
        }
        size = len(tokens) * story["token_bytes"] + sum(frames.size for frames in self._frames)
        super().__init__(story=story | {"all_here": size <= self.at_once})
        self.token = token_at(token, len(tokens))
        self.layer = self._telling() if layer is None else layer
        self.head, self.signs = head, signs
        self.slice = self._fullest() if slice is None else slice
        names = self.page_names() if size <= self.at_once else [f"token {self.token}", f"slice {self.slice}"]
        self.pages = {name: self.page(name) for name in names}

    # ---------------------------------------------------------------------------------------------- what is in a trace

    def _slices(self) -> tuple[list[dict], list[np.ndarray]]:
        """What can be shown one at a time, pictures and the slices of clips, in order of reading; and their pixels."""
        config, media = self.trace.model.config, self.trace.media
        processor = getattr(self.trace.qwen, "processor", None)
        sizes, slices, pixels = config.vision_config, [], []
        clips = (self.trace.input_ids[self.row] == config.video_token_id).any()
        for kind, token, name, grid, setting in (
            ("picture", config.image_token_id, "pixel_values", "image_grid_thw", "image"),
            ("clip", config.video_token_id, "pixel_values_videos", "video_grid_thw", "video"),
        ):
            if name not in media:
                continue
            settings = getattr(processor, setting, None) or Settings(
                patch_size=sizes.patch_size, temporal_patch_size=sizes.temporal_patch_size,
                merge_size=sizes.spatial_merge_size)
            places, number = self.trace.input_ids == token, 0
            ours = places[self.row, self._real].nonzero()[:, 0].tolist()
            first = -int(places[: self.row].sum())          # pictures of earlier rows come first: ours begin at 0
            for frames in pictures_of(media[name], media[grid], settings):
                pairs = rearrange(frames, "(t f) h w c -> t f h w c", f=settings.temporal_patch_size)
                height, width = frames.shape[1:3]
                rows, columns = (n // (settings.merge_size * settings.patch_size) for n in (height, width))
                for at, pair in enumerate(pairs):
                    tokens, first = ours[max(0, first) : first + rows * columns], first + rows * columns
                    if first <= 0 or not tokens:
                        continue
                    # a still fills its slice with equal frames: one is enough, if no clip is there to compare
                    shown = _reduced(pair if clips else pair[:1], settings.patch_size)
                    names = ["what the model gets", "the same once more"][: len(shown)]
                    if kind == "clip":
                        names = [f"frame {len(shown) * at + f}" for f in range(len(shown))]
                    slices.append({
                        "kind": kind, "number": number, "slice": at, "frames": len(shown), "names": names,
                        "rows": rows, "columns": columns, "height": shown.shape[1], "width": shown.shape[2],
                        "patch": settings.patch_size * shown.shape[1] // height, "merge": settings.merge_size,
                        "zoom": max(1, PANEL // max(shown.shape[1:3])), "unit": max(1, TILE // max(rows, columns)),
                        "tokens": tokens,
                    })
                    pixels.append(shown)
                number += 0 < first <= len(ours)
        if not slices:
            raise QwenError("There is no picture or clip in this: give messages that hold one, or the trace of a "
                            "forward with pixel_values.")
        order = sorted(range(len(slices)), key=lambda i: slices[i]["tokens"][0])
        return [slices[i] for i in order], [pixels[i] for i in order]

    def _telling(self) -> int:
        """The attention layer that gives most of its weight to pictures; without any such layer, the last."""
        pictures = [i for i, token in enumerate(self.story["tokens"]) if token["slice"] >= 0]
        shares = {i: heads[:, pictures].sum() for i, heads in enumerate(self._heads(self.token))
                  if self.story["layers"][i]["kind"] == "attention"}
        return max(shares, key=shares.get) if shares else len(self._records) - 1

    def _fullest(self) -> int:
        """The slice that this token is in, or else the one it gives most weight to."""
        if self.story["tokens"][self.token]["slice"] >= 0:
            return self.story["tokens"][self.token]["slice"]
        weights = np.abs(chosen(self._heads(self.token)[self.layer], self.head))
        return int(np.argmax([weights[slice["tokens"]].sum() for slice in self.story["slices"]]))

    def page_names(self) -> list[str]:
        slices = [f"slice {i}" for i in range(len(self.story["slices"]))]
        return [*slices, *(f"token {i}" for i in self.story["stops"])]

    def page(self, name: str) -> bytes:
        """A slice's frames, (F, height, width, 3) uint8; or a token's weights: of every layer (H, T), float32.

        The weights with which a token of the text looks at each token; those with which each looks at a picture's.
        """
        kind, number = name.split()
        if kind == "slice":
            return self._frames[int(number)].tobytes()
        seen = looked_at if self.story["tokens"][int(number)]["slice"] >= 0 else looks
        with torch.no_grad():
            return b"".join(seen(record, int(number), self.row, self._real).astype("<f4").tobytes()
                            for record in self._records)

    # -------------------------------------------------------------------------------------------- what can be had of it

    def weights(self, token=None, layer=None, head=None, slice=None, signs=None) -> np.ndarray:
        """(rows, columns): a weight for each token of the picture; what is not given is where the explorer stands.

        For a token of the text: how it looks at these. For one of a picture: how these look at it.
        """
        token, layer, head, slice, signs = self._place(token, layer, head, slice, signs)
        return self._map(chosen(self._heads(token)[layer], head, signs), slice)

    def still(self, token=None, layer=None, head=None, slice=None) -> tuple[Figure, str]:
        """What it shows, as a figure that stands still, and its description."""
        token, layer, head, slice, signs = self._place(token, layer, head, slice, None)
        layers, seen, text = self.story["layers"], self.story["slices"][slice], self.story["tokens"][token]
        maps = {}
        for i, heads in enumerate(self._heads(token)):
            name = "attention" if layers[i]["kind"] == "attention" else "delta rule"
            maps[f"{i} {name}"] = self._map(chosen(heads, -1, signs), slice)
        towards = f"where “{plots.visible(text['text'])}” looks".replace("$", r"\$")
        if text["slice"] >= 0:
            towards = f"who looks at token {text['at']}"
        who = f"layer {layer}, " + ("mean of its heads" if head == -1 else f"head {head}")
        figure = stills.looking(self._frames[slice], seen["names"], self.weights(token, layer, head, slice), maps,
                                seen["patch"], seen["merge"], f"{towards}\n{who}")
        return figure, (
            f"A {seen['kind']} with its {seen['rows']} x {seen['columns']} tokens numbered; beside it, over it, the "
            f"weights in {who}, token {token + 1} of {len(self.story['tokens'])}: {towards}; below, for each layer, "
            f"the mean of its heads.")

    def to_html(self, path, tokens: list[int] | None = None) -> Path:
        """Write one page that holds everything and needs no kernel and no network.

        Args:
            path: the file to write.
            tokens: which tokens' weights to put in, negative ones counted from the end; all if None. (Of many tokens
                and a large model the page is large: `story["token_bytes"]` for each.)
        """
        there = self.story["stops"]
        tokens = there if tokens is None else [t + len(there) if -len(there) <= t < 0 else t for t in tokens]
        stops = sorted({self._checked("token", token) for token in tokens})
        if not stops:
            raise QwenError("A page needs the weights of at least one token: to_html(path, tokens=[-1]).")
        position = {name: getattr(self, name) for name in self.position}
        position["token"] = self.token if self.token in stops else stops[-1]
        names = [*(f"slice {i}" for i in range(len(self.story["slices"]))), *(f"token {i}" for i in stops)]
        return self._write_page(path, self.story | {"stops": stops, "all_here": True}, names, position)

    # ----------------------------------------------------------------------------------------------- numbers and places

    def _heads(self, token) -> list[np.ndarray]:
        """For each layer (H, T), from the numbers of the page."""
        if self._weighed[0] != token:
            T, page = len(self.story["tokens"]), np.frombuffer(self.page(f"token {token}"), "<f4").astype(np.float64)
            ends = np.cumsum([T * layer["heads"] for layer in self.story["layers"]])[:-1]
            self._weighed = token, [part.reshape(-1, T) for part in np.split(page, ends)]
        return self._weighed[1]

    def _map(self, weights, slice) -> np.ndarray:
        slice = self.story["slices"][slice]
        return weights[slice["tokens"]].reshape(slice["rows"], slice["columns"])

    @traitlets.validate("token", "layer", "head", "slice")
    def _validate(self, proposal):
        return self._checked(proposal["trait"].name, proposal["value"])

    @traitlets.observe("layer")
    def _keep_to_its_heads(self, change):
        self.head = min(self.head, self.story["layers"][self.layer]["heads"] - 1)

    def _place(self, token, layer, head, slice, signs) -> list:
        """A token, layer, head, slice, signs; where one is None, our own."""
        given = zip(self.position, (token, layer, head, slice, signs))
        token, layer, head, slice, signs = (getattr(self, name) if x is None else x for name, x in given)
        for name, value in (("token", token), ("layer", layer), ("slice", slice)):
            self._checked(name, value)
        self._checked("head", head, layer)
        return [token, layer, head, slice, bool(signs)]

    def _checked(self, name, value, layer=None):
        value = whole(name, value)
        layers = self.story["layers"]
        there = {"token": range(len(self.story["tokens"])), "layer": range(len(layers)),
                 "head": range(-1, layers[self.layer if layer is None else layer]["heads"]),
                 "slice": range(len(self.story["slices"]))}[name]
        if value not in there:
            hint = " (-1 is the mean of all)" if name == "head" else ""
            raise QwenError(f"There is no {name} {value} to explore; the last is {there[-1]}{hint}.")
        return value

    def __repr__(self) -> str:
        story = self.story
        kinds = [f"{sum(v['kind'] == kind and v['slice'] == 0 for v in story['slices'])} {kind}s"
                 for kind in ("picture", "clip")]
        return (f"VisionExplorer({len(story['tokens'])} tokens, {' and '.join(kinds)} in {len(story['slices'])} "
                f"slices, {len(story['layers'])} layers)")


def _reduced(frames: np.ndarray, patch: int) -> np.ndarray:
    """Frames (F, H, W, 3), made smaller by a divisor of the patch where they are larger than a screen has room for."""
    sides = max(frames.shape[1:3])
    by = next((d for d in range(1, patch) if patch % d == 0 and sides <= d * LARGEST), patch)
    blocks = rearrange(frames.astype(int), "f (h y) (w x) c -> f h w (y x) c", y=by, x=by)
    return ((blocks.sum(3) + by * by // 2) // (by * by)).astype(np.uint8)
