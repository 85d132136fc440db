"""Solutions of lesson 00: each piece of code goes in place of the exercise's cell."""

# %% exercise 1


def my_confidence(logits, tokens):
    """How likely the model found each token: a softmax over the vocabulary, then the entries that were asked for."""
    probabilities = torch.softmax(logits, dim=-1)              # (T, vocabulary)
    return probabilities[torch.arange(len(tokens)), tokens]    # (T,)
