"""Wrong answers to the exercises of lesson 01."""

import torch

from . import slip, wrong

# ---- my_merge

@wrong("my_merge", "as a tuple")
def puts_the_pair_itself(tokens, pair):
    merged, i = [], 0
    while i < len(tokens):
        found = tuple(tokens[i : i + 2]) == pair
        merged.append(pair if found else tokens[i])
        i += 2 if found else 1
    return merged


@wrong("my_merge", "only the first pair")
def glues_once(tokens, pair):
    for i in range(len(tokens) - 1):
        if tuple(tokens[i : i + 2]) == pair:
            return [*tokens[:i], tokens[i] + tokens[i + 1], *tokens[i + 2 :]]
    return tokens


@wrong("my_merge", "leave its halves out")
def keeps_the_right_half(tokens, pair):
    merged = []
    for i, token in enumerate(tokens):
        merged.append(token + tokens[i + 1] if tuple(tokens[i : i + 2]) == pair else token)
    return merged


@wrong("my_merge", "compare whole tokens")
def searches_in_the_bytes(tokens, pair):
    whole, glued, i, merged = b"".join(tokens), b"".join(pair), 0, []
    while i < len(whole):
        length = len(glued) if whole.startswith(glued, i) else 1
        merged.append(whole[i : i + length])
        i += length
    return tokens if merged == [bytes([byte]) for byte in whole] else merged


@wrong("my_merge", "from left to right")
def from_the_right(tokens, pair):
    merged, i = [], len(tokens) - 1
    while i >= 0:
        found = i > 0 and (tokens[i - 1], tokens[i]) == pair
        merged.insert(0, tokens[i - 1] + tokens[i] if found else tokens[i])
        i -= 2 if found else 1
    return merged


@wrong("my_merge", "changes tokens")
def in_place(tokens, pair):
    i = 0
    while i < len(tokens) - 1:
        if (tokens[i], tokens[i + 1]) == pair:
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
        i += 1
    return tokens


@wrong("my_merge", "the last token got lost")
def stops_one_too_early(tokens, pair):
    merged, i = [], 0
    while i < len(tokens) - 1:
        found = (tokens[i], tokens[i + 1]) == pair
        merged.append(tokens[i] + tokens[i + 1] if found else tokens[i])
        i += 2 if found else 1
    return merged


@wrong("my_merge", "not a generator")
def yields_them(tokens, pair):
    return (token for token in tokens)


@wrong("my_merge", "both spell abc")
def compares_what_they_spell(tokens, pair):
    merged, i = [], 0
    while i < len(tokens):
        found = len(tokens[i : i + 2]) == 2 and b"".join(tokens[i : i + 2]) == b"".join(pair)
        merged.append(b"".join(pair) if found else tokens[i])
        i += 2 if found else 1
    return merged


# ---- my_opening

slip("my_opening", "the block is left open", 'begun + "\\n</think>\\n\\n"', "begun")
slip("my_opening", "the line ends differ", '"\\n</think>\\n\\n"', '"</think>\\n"')
slip("my_opening", "begin with <|im_start|>assistant", "<|im_start|>", "")
slip("my_opening", "the turn is only begun", '</think>\\n\\n"', '</think>\\n\\n<|im_end|>"')
slip("my_opening", "there is no think block", 'begun + "\\n</think>\\n\\n"', 'begun.replace("<think>\\n", "")')
slip("my_opening", "more in it", 'begun + "\\n</think>\\n\\n"', 'begun + "/no_think\\n</think>\\n\\n"')


@wrong("my_opening", "must stay open")
def never_looks_at_the_switch(thinking):
    return "<|im_start|>assistant\n<think>\n\n</think>\n\n"


# ---- my_scores

slip("my_scores", "after the first token", "hidden[-1]", "hidden[0]")
slip("my_scores", "mean over the text", "hidden[-1]", "hidden.mean(0)")
slip("my_scores", "sum over the text", "hidden[-1]", "hidden.sum(0)")
slip("my_scores", "stops with", "hidden[-1]", "hidden[4]")


@wrong("my_scores", "after every token")
def of_all_tokens(hidden, embedding):
    return hidden @ embedding.T


@wrong("my_scores", "probabilities")
def probabilities(hidden, embedding):
    return (embedding @ hidden[-1]).softmax(-1)


@wrong("my_scores", "cosines")
def cosines(hidden, embedding):
    return torch.nn.functional.cosine_similarity(hidden[-1], embedding)


@wrong("my_scores", "for each token of the text")
def of_one_row(hidden, embedding):
    return hidden @ embedding[-1]


# ---- my_table_bytes

slip("my_table_bytes", "each of them takes two bytes", " * 2", "")
slip("my_table_bytes", "four bytes", " * 2", " * 4")
slip("my_table_bytes", "the other way round", "1 if tied else 2", "2 if tied else 1")
slip("my_table_bytes", "makes a difference", "1 if tied else 2", "1")
slip("my_table_bytes", "an int", " * 2", " * 2.0")


@wrong("my_table_bytes", "10 rows of 3 numbers")
def knows_the_official_one_by_heart(rows, width, tied):
    return 248320 * width * (2 if tied else 4)
