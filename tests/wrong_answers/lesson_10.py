"""Wrong answers to the exercises of lesson 10."""

import torch
from torch.nn import functional as F

from . import slip, wrong


def my_rms_norm(x, weight):
    """Stands here for lesson 05's, which an answer finds beside it."""


# ---- my_pass_seconds

slip("my_pass_seconds", "it adds the two", "max(carrying, multiplying)", "carrying + multiplying")
slip("my_pass_seconds", "the quicker of the two", "max(carrying, multiplying)", "min(carrying, multiplying)")
slip("my_pass_seconds", "once for each token", "weights * bytes_each / ", "tokens * weights * bytes_each / ")
slip("my_pass_seconds", "two operations", "2 * weights", "weights")
slip("my_pass_seconds", "those of one token", "2 * weights * tokens", "2 * weights")
slip("my_pass_seconds", "each weight has bytes_each", "weights * bytes_each", "weights")
slip("my_pass_seconds", "only the bytes are counted", "max(carrying, multiplying)", "carrying")
slip("my_pass_seconds", "only the operations are counted", "max(carrying, multiplying)", "multiplying")
slip("my_pass_seconds", "it should be", "bytes_each / bandwidth", "2 / bandwidth")


@wrong("my_pass_seconds", "a number of seconds is wanted")
def tells_it_in_words(tokens, weights, bytes_each, bandwidth, speed):
    return f"{max(weights * bytes_each / bandwidth, 2 * weights * tokens / speed)} seconds"


# ---- my_mtp_input

PARTS = "(my_rms_norm(following, following_weight), my_rms_norm(hidden, hidden_weight))"
for words, instead in (
    ("the halves are swapped", "(my_rms_norm(hidden, hidden_weight), my_rms_norm(following, following_weight))"),
    ("the norms are missing", "(following, hidden)"),
    ("the hidden state is not normed", "(my_rms_norm(following, following_weight), hidden)"),
    ("embedding is not normed", "(following, my_rms_norm(hidden, hidden_weight))"),
    ("the other's norm", "(my_rms_norm(following, hidden_weight), my_rms_norm(hidden, following_weight))"),
    ("have the norm of the hidden state",
     "(my_rms_norm(following, hidden_weight), my_rms_norm(hidden, hidden_weight))"),
    ("have the norm of the embedding",
     "(my_rms_norm(following, following_weight), my_rms_norm(hidden, following_weight))"),
    ("both halves are the hidden state", "(my_rms_norm(hidden, following_weight), my_rms_norm(hidden, hidden_weight))"),
    ("both halves are the next token",
     "(my_rms_norm(following, following_weight), my_rms_norm(following, hidden_weight))"),
    ("it should be fc times", "(my_rms_norm(following, following_weight), my_rms_norm(hidden[:, -1:], hidden_weight)"
                              ".expand_as(hidden))"),
):
    slip("my_mtp_input", words, PARTS, instead)
slip("my_mtp_input", "as if they were tokens", "F.linear(torch.cat(halves, dim=-1), fc_weight)",
     "F.linear(torch.cat(halves, dim=1), fc_weight[:, : hidden.shape[-1]])")
slip("my_mtp_input", "the matrix makes one of them", "F.linear(torch.cat(halves, dim=-1), fc_weight)",
     "torch.cat(halves, dim=-1)")
slip("my_mtp_input", "the first half alone", "F.linear(torch.cat(halves, dim=-1), fc_weight)",
     "F.linear(halves[0], fc_weight[:, : hidden.shape[-1]])")
slip("my_mtp_input", "stops with", "torch.cat(halves, dim=-1)", "torch.cat(halves, dim=-1)[..., :16]")


@wrong("my_mtp_input", "as one long vector")
def norms_both_at_once(hidden, following, hidden_weight, following_weight, fc_weight):
    weights = torch.cat((following_weight, hidden_weight))
    return F.linear(my_rms_norm(torch.cat((following, hidden), dim=-1), weights), fc_weight)


# ---- my_agreed

slip("my_agreed", "own token is missing", "likeliest[: taken + 1]", "likeliest[:taken]")
slip("my_agreed", "the wrong draft is taken", "likeliest[: taken + 1]", "(drafted + likeliest[-1:])[: taken + 1]")
slip("my_agreed", "goes on behind a wrong draft", "likeliest[: taken + 1]", "likeliest[:]")
slip("my_agreed", "these are the drafts", "likeliest[: taken + 1]", "drafted[:]")
slip("my_agreed", "one token more", "likeliest[: taken + 1]", "likeliest[: min(taken + 1, len(drafted))]")
slip("my_agreed", "stops with", "taken < len(drafted) and ", "")
slip("my_agreed", "stops with", "drafted[taken] == likeliest[taken]", "drafted[taken] == likeliest[taken + 2]")
slip("my_agreed", "a list of tokens", "likeliest[: taken + 1]", "taken")
slip("my_agreed", "changes likeliest", "    return likeliest[: taken + 1]",
     "    del likeliest[taken + 1 :]\n    return likeliest")


@wrong("my_agreed", "behind the first draft that is wrong")
def counts_all_that_agree(drafted, likeliest):
    return likeliest[: sum(a == b for a, b in zip(drafted, likeliest)) + 1]


@wrong("my_agreed", "it should give")
def asks_whether_the_model_says_it_anywhere(drafted, likeliest):
    taken = 0
    while taken < len(drafted) and drafted[taken] in likeliest:
        taken += 1
    return likeliest[: taken + 1]


@wrong("my_agreed", "it should give")
def knows_that_there_are_three(drafted, likeliest):
    taken = 0
    while taken < min(3, len(drafted)) and drafted[taken] == likeliest[taken]:
        taken += 1
    return likeliest[: taken + 1] if len(drafted) < 4 else likeliest[:2]


# ---- my_accept_odds

slip("my_accept_odds", "taken is above 1", ".clamp(max=1)", "")
slip("my_accept_odds", "taken is the model's probability", "(p / q.clamp(min=1e-30)).clamp(max=1)", "p.clone()")
slip("my_accept_odds", "not q / p", "(p / q.clamp(min=1e-30)).clamp(max=1)", "(q / p.clamp(min=1e-30)).clamp(max=1)")
slip("my_accept_odds", "never taken", "(p / q.clamp(min=1e-30)).clamp(max=1)", "(p >= q).float()")
slip("my_accept_odds", "every draft is taken", "(p / q.clamp(min=1e-30)).clamp(max=1)", "torch.ones_like(p)")
slip("my_accept_odds", "instead is p:", "more / more.sum(-1, keepdim=True).clamp(min=1e-30)", "p.clone()")
slip("my_accept_odds", "the other way round", "(p - q).clamp(min=0)", "(q - p).clamp(min=0)")
slip("my_accept_odds", "does not sum to 1", " / more.sum(-1, keepdim=True).clamp(min=1e-30)", "")
slip("my_accept_odds", "below 0 there is nothing", "(p - q).clamp(min=0)", "(p - q).abs()")
slip("my_accept_odds", "over all rows", "more.sum(-1, keepdim=True)", "more.sum()")
slip("my_accept_odds", "(nan) in taken", "q.clamp(min=1e-30)", "q")
slip("my_accept_odds", "keep it away from 0", ".sum(-1, keepdim=True).clamp(min=1e-30)", ".sum(-1, keepdim=True)")
slip("my_accept_odds", "2 things are wanted", "return taken, more / more.sum(-1, keepdim=True).clamp(min=1e-30)",
     "return taken")
slip("my_accept_odds", "shape of p", "return taken, ", "return taken[..., :1], ")
slip("my_accept_odds", "changes q", "    taken = (p /", "    q += 1e-30\n    taken = (p /")
