"""Solutions to the exercises of 01_tokens_and_chat. Try first: the checks there say what is wrong."""

# %% exercise 1
def my_merge(tokens, pair):
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
    begun = "<|im_start|>assistant\n<think>\n"
    if thinking:
        return begun                            # the block stays open: the model goes on inside of it
    return begun + "\n</think>\n\n"             # it is empty and closed: the answer comes next

# %% exercise 3
def my_scores(hidden, embedding):
    return embedding @ hidden[-1]               # (V, D) times (D,): one product with each row

# %% exercise 4
def my_table_bytes(rows, width, tied):
    tables = 1 if tied else 2                   # tied: the embedding is the head
    return tables * rows * width * 2
