"""Solutions to the exercises of 01_tokens_and_chat. Try first: the checks there say what is wrong."""

# %% exercise 1
def my_merge(tokens, pair):
    """The tokens with the pair glued together wherever it stands, from left to right."""
    merged, i = [], 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            merged.append(tokens[i] + tokens[i + 1])
            i += 2                              # both are used up
        else:
            merged.append(tokens[i])
            i += 1
    return merged

# %% exercise 2
def my_opening(thinking):
    """The end of the prompt: the turn of the assistant, begun."""
    begun = "<|im_start|>assistant\n<think>\n"
    if thinking:
        return begun                            # the block stays open: the model goes on inside of it
    return begun + "\n</think>\n\n"             # it is empty and closed: the answer comes next

# %% exercise 3
def my_scores(hidden, embedding):
    """The logits (V,) of the token that comes after a text, from its hidden states (T, d) and the table (V, d)."""
    return embedding @ hidden[-1]               # (V, d) times (d,): one product with each row

# %% exercise 4
def my_table_bytes(rows, width, tied):
    """The bytes of the embedding, and of the head where it is a table of its own; two bytes a number."""
    tables = 1 if tied else 2                   # tied: the embedding is the head
    return tables * rows * width * 2
