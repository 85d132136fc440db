"""Lesson 07: a convolution that goes on, the loop, what is kept, and the draw."""

import torch
from torch.nn import functional as F

from ...config import TextConfig
from ...generate import warp
from ..judging import Wrong, call, compare, demand, hints


@hints(
    "The first outputs of a piece see inputs that came before it. Where are these, and where must they stand for the "
    "convolution to meet them?",
    "Put `before` in front of x, along the tokens: that makes K - 1 + T inputs, and the convolution without padding "
    "gives T outputs of them. What the next piece will need is at the end of the same row.",
    "torch.cat((before, x), dim=1) is that row. F.conv1d wants channels first, so .mT in front and behind it, and "
    "groups=the number of channels. Then the silu. Of the row, not of x, give back the last K - 1: x may be short.",
)
def my_convolution_step(mine):
    """in pieces of any length it is the convolution of the whole"""
    for B, T, channels, K in ((2, 9, 3, 4), (1, 6, 5, 3), (3, 7, 2, 5)):
        random = torch.Generator().manual_seed(T)
        x = torch.randn(B, T, channels, generator=random)
        weight = torch.randn(channels, 1, K, generator=random)
        first = torch.randn(B, K - 1, channels, generator=random)
        row = torch.cat((first, x), dim=1)

        def convolved(row, weight=weight, channels=channels):
            return F.conv1d(row.mT, weight, groups=channels).mT

        def ask(piece, before, weight=weight):
            found = call(mine, piece, weight, before)
            demand(isinstance(found, (tuple, list)) and len(found) == 2,
                   "two things are wanted: the outputs, and the last inputs for the next piece.")
            return found

        right = F.silu(convolved(row))
        y, last = ask(x, first)
        compare(y, right, {
            "the silu is missing around the convolution": convolved(row),
            "the taps are the wrong way round: the last one belongs to the newest input":
                F.silu(convolved(row, weight.flip(-1))),
            "it does not see what came before the piece: put `before` in front of it":
                F.silu(convolved(F.pad(x, (0, 0, K - 1, 0)))),
            "`before` stands behind the piece: it belongs in front": F.silu(convolved(torch.cat((x, first), dim=1))),
        }, "each output sees its own input and the K - 1 before it: these are others.", what="y")
        compare(last, row[:, T:], {
            "outputs are kept, and the next piece needs inputs": right[:, T - K + 1 :],
            "the first inputs are kept: keep the last": x[:, : K - 1],
            "what came before the piece is kept: keep the piece's own last inputs": first,
        }, "what is kept should be the last K - 1 inputs.", what="what is kept")
        for lengths in ((1,) * T, (2, 1, T - 3), (T - 1, 1)):
            before, outputs = first, []
            for piece in x.split(lengths, dim=1):
                y, before = ask(piece, before)
                demand(tuple(before.shape) == tuple(first.shape), (
                    "after a piece shorter than K - 1 some of the older inputs are still needed: keep the last ones of "
                    "old and new together."))
                outputs.append(y)
            compare(torch.cat(outputs, dim=1), right, otherwise=(
                "short pieces go wrong: after a piece shorter than K - 1 some of the older inputs are still needed."),
                what="all pieces together")


class Recorded:
    """A language model in a few lines, which notes what it is asked: its guess depends on all that it has read."""

    vocabulary = 23

    def __init__(self):
        self.pieces, self.cache = [], None               # how many tokens were read at a time

    def new_cache(self, batch_size, max_length):
        demand(batch_size == 1, "the cache should be for one text: model.new_cache(1, ...).")
        self.cache = {"tokens": [], "room": max_length}
        return self.cache

    def __call__(self, input_ids, cache=None, **other):
        if not isinstance(input_ids, torch.Tensor) or input_ids.ndim != 2 or len(input_ids) != 1:
            raise Wrong("the model takes a tensor of token ids, (1, T): torch.tensor([...]) with a list inside.")
        demand(cache is not None, "it reads without a cache: make one by model.new_cache, and give it to the model.")
        self.pieces.append(input_ids.shape[1])
        logits = []
        for token in input_ids[0].tolist():
            cache["tokens"].append(token)
            logits.append(self.guess(cache["tokens"]))
        demand(len(cache["tokens"]) <= cache["room"], (
            f"the cache has room for {cache['room']} tokens and is given {len(cache['tokens'])}: it has to hold the "
            f"prompt and what is written."))
        return torch.stack(logits)[None]                 # (1, T, V)

    def guess(self, tokens):
        far = sum((i + 1) * token for i, token in enumerate(tokens))
        return ((torch.arange(self.vocabulary) * (far % 22 + 1) + far) % self.vocabulary).float()

    def answer(self, ids, count, choose):
        ids, start = list(ids), len(ids)
        while len(ids) < start + count:
            ids.append(choose(self.guess(ids)[None]).item())
        return ids[start:]


@hints(
    "What does the model have to read before the first new token, and what before each later one?",
    "Make a cache with room for all. Read the prompt into it, once; take a token from the last row of the logits; read "
    "only that token, with the same cache; and so on. A stop token ends it, and is returned with the others.",
    "The model reads torch.tensor([ids]) with cache=cache, and of its logits you want [:, -1]. In the loop, what "
    "choose(logits) gives has an .item(), which goes to the end of a list; if it is in stop_ids, leave the loop; else "
    "the model reads torch.tensor([[token]]).",
)
@torch.no_grad()
def my_generate(mine):
    """the tokens are the right ones, and each was read once"""
    def likeliest(logits):
        return logits.argmax(-1)

    def unlikeliest(logits):
        return logits.argmin(-1)

    for ids, count, choose in (([3, 1, 4, 1, 5], 6, likeliest), ([2, 7], 9, unlikeliest), ([11], 1, likeliest)):
        model = Recorded()
        right = model.answer(ids, count, choose)
        found = _written(mine, model, ids, count, choose)
        _judge_tokens(found, {
            "it takes the likeliest token itself: `choose` says which one": model.answer(ids, count, likeliest),
            "the prompt is among what it returns: the new tokens alone are wanted": ids + right,
            "it writes one token too many": right + model.answer(ids + right, 1, choose),
            "it writes one token too few": right[:-1],
            "the last new token comes first": right[::-1],
        }, right)
        read = sum(model.pieces)
        demand(read <= len(ids) + count, f"to write {count} tokens after {len(ids)} it reads {read}: with a cache each "
                                         f"is read once.")
        demand(read >= len(ids) + count - 1, f"to write {count} tokens after {len(ids)} it reads {read}: some are "
                                             f"never read.")
        demand(model.pieces[0] == len(ids), "the prompt is read in pieces: give all of it to the model at once.")
        room = model.cache["room"]
        demand(room <= 2 * (len(ids) + count), f"the cache has room for {room} tokens, whatever is asked for: the "
                                               f"prompt and what is written need {len(ids) + count}.")
    right = Recorded().answer([3, 1, 4], 8, likeliest)
    stop = next(token for i, token in enumerate(right) if 0 < i < 6 and token not in right[:i])
    for stop_ids in ({stop}, (-1, stop), (stop, -1), (99, stop), (stop, 99), {right[0]}):     # -1, 99: never written
        model, end = Recorded(), next(i for i, token in enumerate(right, start=1) if token in stop_ids)
        found = _written(mine, model, [3, 1, 4], 8, likeliest, stop_ids)
        told = f"the stop_ids are {stop_ids}, and "
        _judge_tokens(found, {
            told + "it writes on behind one of them": right,
            told + "the stop token is missing: it belongs to what is returned": right[: end - 1],
            told + "it stops one token too late": right[: end + 1],
        }, right[:end])
        demand(sum(model.pieces) <= 3 + end, "it reads on after the stop token.")


def _written(mine, model, *arguments):
    found = call(mine, model, *arguments)
    if isinstance(found, torch.Tensor):
        found = found.flatten().tolist()
    demand(isinstance(found, list), f"it should return a list of token ids, and not a {type(found).__name__}.")
    return [token.item() if isinstance(token, torch.Tensor) and token.numel() == 1 else token for token in found]


def _judge_tokens(found, slips, right):
    for slip, wrong in slips.items():
        demand(found != wrong or wrong == right, f"{slip}.")
    demand(found == right, f"the tokens should be {right}, and not {found}.")


@hints(
    "Which of the three places does a layer of each kind have? The table above says what each of them keeps.",
    "Attention: two vectors for each token and key-value head. Gated DeltaNet: a matrix for each value head, and K - 1 "
    "inputs of every channel of the convolution; the number of tokens does not come in.",
    "Attention: 2 times num_key_value_heads times head_dim times tokens. Gated DeltaNet: the matrices are Hv of Dk x "
    "Dv; the channels are 2 Hk Dk + Hv Dv, as the table has it, and each keeps linear_conv_kernel_dim - 1.",
)
def my_cache_numbers(mine):
    """what each kind of layer keeps"""
    for Hq, Hkv, D, Hk, Hv, Dk, Dv, K in ((9, 3, 11, 5, 10, 7, 13, 4), (4, 2, 8, 3, 3, 4, 5, 3)):
        config = TextConfig(                             # every number its own, so that slips show
            num_attention_heads=Hq, num_key_value_heads=Hkv, head_dim=D, linear_num_key_heads=Hk,
            linear_num_value_heads=Hv, linear_key_head_dim=Dk, linear_value_head_dim=Dv, linear_conv_kernel_dim=K)
        states, channels = Hv * Dk * Dv, 2 * Hk * Dk + Hv * Dv
        for tokens in (100, 7):
            growing = 2 * Hkv * D * tokens
            _judge_count("full_attention", call(mine, "full_attention", config, tokens), growing, {
                "it does not grow with the tokens: each brings its key and its value": (2 * Hkv * D,),
                "keys or values are counted: both are needed": (Hkv * D * tokens,),
                "query heads are counted: keys and values are kept once for each key-value head":
                    (2 * Hq * D * tokens,),
                "the queries are kept, too: nobody asks for an old one": ((2 * Hkv + Hq) * D * tokens,),
            }, "a key and a value of each token, in each key-value head, are wanted")
            constant = states + (K - 1) * channels
            _judge_count("linear_attention", call(mine, "linear_attention", config, tokens), constant, {
                "it grows with the tokens, and that it does not is its point":
                    (constant * tokens, states * tokens, states * tokens + (K - 1) * channels,
                     states + channels * tokens, growing),
                "the last inputs of the convolution are missing": (states,),
                "K inputs are kept, and the newest one comes by itself: K - 1": (states + K * channels,),
                "every value head has a memory of its own, Hv of them, not Hk": (Hk * Dk * Dv + (K - 1) * channels,),
                "the convolution runs over all of q, k and v":
                    (states + (K - 1) * Hv * Dv, states + (K - 1) * Hk * Dk, states + (K - 1) * (Hk * Dk + Hv * Dv)),
                "the memories are missing": ((K - 1) * channels,),
            }, "a memory for each value head, and K - 1 last inputs of each channel, are wanted")


def _judge_count(kind, found, right, slips, otherwise):
    demand(isinstance(found, int), f"{kind}: it should return a whole number, and not a {type(found).__name__}.")
    for slip, wrong in slips.items():
        demand(found == right or found not in wrong, f"{kind}: {slip}.")
    demand(found == right, f"{kind}: {otherwise}.")


@hints(
    "Begin with the odds: divide by the temperature, then the softmax. Which tokens stay, if the likeliest come first "
    "and they are to make up top_p together?",
    "Sort from the likeliest down. A token stays if those before it do not suffice, so look at the sum without its "
    "own. Put the others to zero, divide by what is left, and find the first place at which the sum is above u.",
    "p.cumsum(-1) - p is the sum before each; masked_fill puts what is not needed to 0. (sums > u[:, None]).int()"
    ".argmax(-1) finds the first place; the sorted ids say, by gather, which token stands there.",
)
def my_sample(mine):
    """the draws keep to the odds, bent and cut as they should be"""
    N = 4000
    u = (torch.arange(N) + 0.5) / N                      # throws everywhere, evenly
    two = torch.tensor([[1.0, 3.0, -1.0, 2.2, 1.4, 0.5], [0.3, -2.0, 0.9, 1.1, 2.5, 1.9]])      # different odds
    V = two.shape[1]
    rows, throws = two.repeat_interleave(N, dim=0), u.repeat(2)
    for tau, top_p in ((1.0, 1.0), (0.6, 0.8), (1.5, 0.7)):
        ids = call(mine, rows, throws, tau, top_p)
        demand(isinstance(ids, torch.Tensor) and tuple(ids.shape) == (2 * N,) and ids.dtype == torch.long, (
            "one token id for each row is wanted, (B,) of whole numbers"
            + (f", and not {tuple(ids.shape)} of {ids.dtype}." if isinstance(ids, torch.Tensor) else ".")))
        demand(0 <= ids.min() and ids.max() < V, (
            "some throws fall off the end of the ruler: after the cut, divide by the sum of what is left."))
        for logits, drawn in zip(two, ids.view(2, N)):
            _judge_share(drawn.bincount(minlength=V) / N, logits, tau, top_p, N)
    likeliest = two.argmax(-1).repeat_interleave(N)
    for tau, top_p, sentence in ((0.0, 1.0, "at temperature 0 it is always the likeliest token."),
                                 (0.0, 0.5, "at temperature 0 it is always the likeliest token, whatever top_p is."),
                                 (1.0, 1e-6, "however small top_p is, the likeliest stays.")):
        demand(torch.equal(call(mine, rows, throws, tau, top_p), likeliest), sentence)
    demand(torch.equal(call(mine, rows + 1000, throws, 1.0, 0.8), call(mine, rows, throws, 1.0, 0.8)), (
        "it is right for small logits, but e to the 1000 is more than a computer holds: softmax knows a way around."))
    ends = torch.tensor([0.0, 1 - 2**-24]).repeat(2)    # the smallest throw and the largest
    drawn = call(mine, two.repeat_interleave(2, dim=0), ends, 1.0, 0.5).view(2, 2)
    kept = warp(two, 1.0, top_p=0.5).isfinite()
    demand(kept.gather(1, drawn).all(), (
        "a throw at the very end of the ruler, 0 or just below 1, draws a token that was cut: look for the first place "
        "in the sorted list at which the sum is above u."))


def _judge_share(share, logits, tau, top_p, N):
    """Were the tokens drawn as often as their odds promise?"""
    p, order = (logits / tau).softmax(-1).sort(descending=True)          # sorted, from here on
    kept = p.cumsum(0) - p < top_p
    right = warp(logits[None], tau, top_p=top_p).softmax(-1)[0]
    raw, hot = logits[order].softmax(0), (logits[order] * tau).softmax(0)

    def laid_out(p, keep):
        left = p * keep
        return (left / left.sum()).gather(0, order.argsort())

    def alike(wrong):
        return torch.allclose(share, wrong, atol=3 / N)

    if alike(right):
        return
    demand((share > 0).sum() > 1 or top_p < 1, "it always takes the same token, whatever the throw is: use u.")
    slips = {
        "the cut comes before the temperature: bend the odds first, then cut": laid_out(p, raw.cumsum(0) - raw < top_p),
        "it multiplies by the temperature: divide": laid_out(hot, hot.cumsum(0) - hot < top_p),
        "the temperature is missing": laid_out(raw, raw.cumsum(0) - raw < top_p),
        "top-p is missing: all tokens are drawn": laid_out(p, torch.ones_like(kept)),
        "the token that crosses the mark is dropped: keep it, or nothing may be left":
            laid_out(p, p.cumsum(0) <= top_p),
        "these are places in the sorted list: look up which tokens stand there": right.gather(0, order),
    }
    for slip, wrong in slips.items():
        demand(not alike(wrong), f"{slip}.")
    unstretched = (p * kept).gather(0, order.argsort())
    as_they_were = ((share - unstretched).abs() < 3 / N) & (unstretched > 0)
    demand(as_they_were.sum() < kept.sum() - 1, (
        "the probabilities are not renormalised: divide by the sum of what is left, or one token gets all the rest."))
    raise Wrong(f"these are not the odds: {[round(x, 2) for x in right.tolist()]} were wanted, "
                f"{[round(x, 2) for x in share.tolist()]} were drawn.")
