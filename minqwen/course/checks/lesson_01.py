"""Lesson 01: gluing tokens, the thinking switch, and the two ends of a model."""

import torch
from torch.nn import functional as F

from ..judging import call, compare, demand, hints


@hints(
    "Walk through the tokens from left to right, and build the new list as you go. Look at two neighbours at a time.",
    "Where two neighbours are the pair, append both as one token, and go on behind them: neither may be used again. "
    "Where they are not, append the first alone.",
    "A `while i < len(tokens)` loop: compare the tuple of tokens[i : i + 2] with the pair; after gluing, i goes on by "
    "two, else by one. The last token has no right neighbour, and stays.",
)
def my_merge(mine):
    """it glues a pair wherever it stands, and loses nothing"""
    has = [b" ", b"h", b"a", b"s"]
    merged = call(mine, has, (b" ", b"h"))
    demand(isinstance(merged, list), f"it should return a list, and not a {type(merged).__name__}.")
    demand((b" ", b"h") not in merged, "the pair stands there as a tuple: glue the two, a + b, to one bytes object.")
    demand(all(isinstance(token, bytes) for token in merged), "the tokens should be bytes, as those that were given.")
    demand(merged != has, "nothing was glued: the pair stands at the very beginning.")
    demand(len(b"".join(merged)) <= 4, f"{has} became {merged}: what is glued is used up, leave its halves out.")
    demand(merged[-1:] == [b"s"], "the last token got lost: it is half of no pair, and stays.")
    demand(merged == [b" h", b"a", b"s"], f"{has} should become {[b' h', b'a', b's']}, and not {merged}.")

    demand(call(mine, has, (b"a", b"s"))[-1] == b"as", "the pair at the very end was not glued.")
    demand(call(mine, has, (b"h", b"s")) == has, "h and s do not stand side by side in has: nothing is to be glued.")
    long = [b"xa", b"nb"]
    demand(call(mine, long, (b"a", b"n")) == long, "xa, nb holds no token a and no token n: compare whole tokens.")
    spelt = [b"ab", b"c"]
    demand(call(mine, spelt, (b"a", b"bc")) == spelt, "ab, c is not the pair a, bc, though both spell abc: compare "
                                                      "token by token.")
    demand(call(mine, [b"ha", b"s"], (b"ha", b"s")) == [b"has"], "tokens may be longer than a byte: ha and s make has.")
    demand(call(mine, [], (b"a", b"n")) == [], "a word without tokens should stay one.")
    demand(call(mine, [b"a"], (b"a", b"n")) == [b"a"], "a single token should stay as it is.")

    banana = call(mine, [b"b", b"a", b"n", b"a", b"n", b"a"], (b"a", b"n"))
    demand(banana != [b"b", b"an", b"a", b"n", b"a"], "only the first pair was glued: go on to the end of the word.")
    demand(banana == [b"b", b"an", b"an", b"a"], f"banana should become b, an, an, a, and not {banana}.")
    row = call(mine, [b"o", b"o", b"o"], (b"o", b"o"))
    demand(b"".join(row) == b"ooo", f"ooo became {b''.join(row).decode()}: a token that is glued is used up.")
    demand(row == [b"oo", b"o"], "ooo should become oo, o: go from left to right.")


@hints(
    "Print the end of a prompt with the package: tokenizer.render(chat, thinking=True), and False. Look at repr() of "
    "it, which shows the line ends.",
    "Both begin with the mark of a turn, the role, and an opened think block. Off, the block is closed again, with "
    "nothing in it, and the answer begins after an empty line.",
    "On ends with \"<think>\\n\". Off goes on from there: an empty line, the closing tag, and an empty line.",
)
def my_opening(mine):
    """with thinking the block is left open, without it the block is empty and closed"""
    for thinking in (False, True):
        begun, switch = call(mine, thinking), f"thinking {'on' if thinking else 'off'}"
        demand(isinstance(begun, str), f"{switch}: a string is wanted, and not a {type(begun).__name__}.")
        right = "<|im_start|>assistant\n<think>\n" + ("" if thinking else "\n</think>\n\n")
        demand(begun.startswith("<|im_start|>assistant\n"),
               f"{switch}: begin with <|im_start|>assistant and a line end, and not with {begun[:24]!r}.")
        demand("<|im_end|>" not in begun, f"{switch}: the turn is only begun; the model will end it.")
        demand("<think>" in begun, f"{switch}: there is no think block; off means an empty one, and not none.")
        demand(not (thinking and "</think>" in begun), f"{switch}: the block must stay open; the model will close it.")
        demand(thinking or "</think>" in begun, f"{switch}: the block is left open, and the model would think.")
        demand(begun.split() == right.split(), f"{switch}: there is more in it than marks and tags, in {begun!r}.")
        demand(begun == right, f"{switch}: the line ends differ, in {begun!r}.")


@hints(
    "Which row of `hidden` belongs to the last token of the text?",
    "A score is the product of that vector with a row of the table, and there is one for every row: all of them "
    "together are one product with the table.",
    "A table (V, d) times a vector (d,) by @ gives V numbers; -1 is the last.",
)
def my_scores(mine):
    """one product with each row, and every token has its score"""
    for T, V, d in ((5, 11, 8), (1, 7, 3), (6, 6, 6)):
        random = torch.Generator().manual_seed(T)
        hidden, embedding = torch.randn(T, d, generator=random), torch.randn(V, d, generator=random)
        found, right = call(mine, hidden, embedding), embedding @ hidden[-1]
        shape = tuple(getattr(found, "shape", ()))
        demand(shape != (T, V), "these are the scores after every token; only those after the last one are wanted.")
        demand(shape != (T,) or T == V, "these are numbers for each token of the text; wanted are those of the table.")
        compare(found, right, {
            "these are the scores after the first token of the text: take the last": embedding @ hidden[0],
            "this is asked with the sum over the text: take the last hidden state alone": embedding @ hidden.sum(0),
            "this is asked with the mean over the text: take the last hidden state alone": embedding @ hidden.mean(0),
            "these are probabilities: leave the softmax out": right.softmax(-1),
            "these are logarithms of probabilities: leave the softmax out": right.log_softmax(-1),
            "these are cosines: the vectors keep their lengths here": F.cosine_similarity(hidden[-1], embedding),
            "these are the scores of the last row of the table: take all rows": hidden @ embedding[-1]
                if T == V else torch.empty(0),
        }, "these are not the products of the last hidden state with each row of the table.")


@hints(
    "How many numbers does one table hold? And how many tables are there?",
    "Tied means that one table serves both ends; untied, that the head has a second one of the same size.",
    "rows times width numbers in a table, two bytes each, and one table or two.",
)
def my_table_bytes(mine):
    """one table if tied, two if not, and two bytes for each number"""
    found = [call(mine, rows=10, width=3, tied=tied) for tied in (True, False)]
    demand(all(type(n) is int for n in found), f"a number of bytes is a whole number, an int, and not {found}.")
    demand(found != [30, 60], "these are the numbers in the tables: each of them takes two bytes.")
    demand(found != [120, 240], "a number takes four bytes in float32, but two here.")
    demand(found != [120, 60], "it is the other way round: tied means one table for both ends, untied means two.")
    demand(found[0] != found[1], "tied or not makes a difference: an untied head is a second table.")
    demand(found == [60, 120], f"10 rows of 3 numbers are 60 bytes if tied and 120 if not, and not {found}.")
    for rows, width in ((7, 5), (248320, 1024)):
        for tied in (True, False):
            right, found = 2 * rows * width * (2 - tied), call(mine, rows, width, tied)
            demand(found == right, f"{rows} rows of {width}, tied {tied}: it should be {right} bytes, and not {found}.")
