"""Wrong answers to the exercise of lesson 00."""

import torch

from . import wrong


@wrong("my_confidence", "likeliest")
def takes_the_likeliest(logits, tokens):
    return logits.softmax(-1).max(-1).values


@wrong("my_confidence", "over the positions")
def over_the_positions(logits, tokens):
    return logits.softmax(0)[torch.arange(len(tokens)), tokens]


@wrong("my_confidence", "logits themselves")
def leaves_the_softmax_out(logits, tokens):
    return logits[torch.arange(len(tokens)), tokens]


@wrong("my_confidence", "logarithms")
def logarithms(logits, tokens):
    return logits.log_softmax(-1)[torch.arange(len(tokens)), tokens]


@wrong("my_confidence", "divide them by their sum")
def does_not_divide(logits, tokens):
    return logits.exp()[torch.arange(len(tokens)), tokens]


@wrong("my_confidence", "probabilities of all tokens")
def gives_all(logits, tokens):
    return logits.softmax(-1)


@wrong("my_confidence", "every row")
def all_columns_of_every_row(logits, tokens):
    return logits.softmax(-1)[:, tokens]


@wrong("my_confidence", "row 0")
def always_the_first_row(logits, tokens):
    return logits.softmax(-1)[0, tokens]


@wrong("my_confidence", "stops with IndexError")
def knows_the_length_by_heart(logits, tokens):
    return logits.softmax(-1)[torch.arange(4), tokens]


@wrong("my_confidence", "more than a computer")
def overflows(logits, tokens):
    exponentials = logits.exp()
    return (exponentials / exponentials.sum(-1, keepdim=True))[torch.arange(len(tokens)), tokens]


@wrong("my_confidence", "changes logits")
def changes_what_it_was_given(logits, tokens):
    logits -= logits.max(-1, keepdim=True).values
    return logits.softmax(-1)[torch.arange(len(tokens)), tokens]


@wrong("my_confidence", "tensor, and not a list")
def a_list(logits, tokens):
    return [row.softmax(-1)[token].item() for row, token in zip(logits, tokens)]


@wrong("my_confidence", "returns nothing")
def forgets_to_return(logits, tokens):
    logits.softmax(-1)[torch.arange(len(tokens)), tokens]
