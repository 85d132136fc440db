"""Wrong answers to the exercises of lesson 07."""

import torch

from . import slip, wrong

# ---- my_convolution_step

slip("my_convolution_step", "silu is missing", "F.silu(", "(")
slip("my_convolution_step", "wrong way round", ", weight, groups", ", weight.flip(-1), groups")
slip("my_convolution_step", "does not see what came before", "(before, x)", "(0 * before, x)")
slip("my_convolution_step", "it belongs in front", "(before, x)", "(x, before)")
slip("my_convolution_step", "outputs are kept", "return y, window[", "return y, y[")
slip("my_convolution_step", "what came before the piece is kept", "return y, window[:, -before.shape[1]:]",
     "return y, before")
slip("my_convolution_step", "shorter than K - 1", "return y, window[", "return y, x[")
slip("my_convolution_step", "two things are wanted", "return y, window[:, -before.shape[1]:]", "return y")
slip("my_convolution_step", "what is kept should have the shape", "-before.shape[1]:", "-3:")
slip("my_convolution_step", "changes before", "    return y,", "    before += x[:, -1:]\n    return y,")

# ---- my_generate

slip("my_generate", "each is read once", "torch.tensor([new[-1:]]), cache=cache",
     "torch.tensor([ids + new]), cache=model.new_cache(1, 99)")
slip("my_generate", "it reads without a cache", "torch.tensor([ids]), cache=cache", "torch.tensor([ids])")
slip("my_generate", "`choose` says which one", "choose(logits).item()", "logits.argmax(-1).item()")
slip("my_generate", "writes on behind one of them", "new[-1] in stop_ids or ", "")
slip("my_generate", "the stop token is missing", "            return new\n",
     "            return new[:-1] if new[-1] in stop_ids else new\n")
slip("my_generate", "the new tokens alone are wanted", "            return new\n", "            return ids + new\n")
slip("my_generate", "one token too few", "or len(new) == max_new_tokens", "or len(new) >= max(1, max_new_tokens - 1)")
slip("my_generate", "has room for 5 tokens", "len(ids) + max_new_tokens", "len(ids)")
slip("my_generate", "takes a tensor of token ids", "torch.tensor([new[-1:]])", "torch.tensor(new[-1:])")
slip("my_generate", "changes ids", "        new.append(choose(logits).item())",
     "        new.append(choose(logits).item())\n        ids += new[-1:]")


@wrong("my_generate", "the prompt is read in pieces")
def reads_the_prompt_token_by_token(model, ids, max_new_tokens, choose, stop_ids=()):
    cache, new = model.new_cache(1, len(ids) + max_new_tokens), []
    for token in ids:
        logits = model(torch.tensor([[token]]), cache=cache)[:, -1]
    while True:
        new.append(choose(logits).item())
        if new[-1] in stop_ids or len(new) == max_new_tokens:
            return new
        logits = model(torch.tensor([new[-1:]]), cache=cache)[:, -1]


@wrong("my_generate", "the tokens should be")
def reads_the_first_new_token_again_and_again(model, ids, max_new_tokens, choose, stop_ids=()):
    cache, new = model.new_cache(1, len(ids) + max_new_tokens), []
    logits = model(torch.tensor([ids]), cache=cache)[:, -1]
    while True:
        new.append(choose(logits).item())
        if new[-1] in stop_ids or len(new) == max_new_tokens:
            return new
        logits = model(torch.tensor([new[:1]]), cache=cache)[:, -1]


@wrong("my_generate", "the tokens should be")
def takes_the_first_row_of_the_logits(model, ids, max_new_tokens, choose, stop_ids=()):
    cache, new = model.new_cache(1, len(ids) + max_new_tokens), []
    logits = model(torch.tensor([ids]), cache=cache)[:, 0]
    while True:
        new.append(choose(logits).item())
        if new[-1] in stop_ids or len(new) == max_new_tokens:
            return new
        logits = model(torch.tensor([new[-1:]]), cache=cache)[:, 0]


slip("my_generate", "writes on behind one of them", "new[-1] in stop_ids or ",
     "len(new) > 1 and new[-1] in stop_ids or ")
slip("my_generate", "writes on behind one of them", "new[-1] in stop_ids", "new[-1:] == list(stop_ids)[:1]")
slip("my_generate", "writes on behind one of them", "new[-1] in stop_ids", "new[-1] == max(stop_ids, default=None)")
slip("my_generate", "has room for 4096 tokens", "len(ids) + max_new_tokens", "4096")

# ---- my_cache_numbers

slip("my_cache_numbers", "both are needed", "return 2 * config.num_key", "return config.num_key")
slip("my_cache_numbers", "query heads are counted", "num_key_value_heads", "num_attention_heads")
slip("my_cache_numbers", "it does not grow with the tokens", " * config.head_dim * tokens", " * config.head_dim")
slip("my_cache_numbers", "the newest one comes by itself", "(config.linear_conv_kernel_dim - 1)",
     "config.linear_conv_kernel_dim")
slip("my_cache_numbers", "Hv of them, not Hk", "values * config.linear_key_head_dim",
     "config.linear_num_key_heads * config.linear_value_head_dim * config.linear_key_head_dim")
slip("my_cache_numbers", "runs over all of q, k and v", "(2 * keys + values)", "values")
slip("my_cache_numbers", "last inputs of the convolution are missing",
     "return states + (config.linear_conv_kernel_dim - 1) * (2 * keys + values)", "return states")
slip("my_cache_numbers", "is its point", "values * config.linear_key_head_dim",
     "values * config.linear_key_head_dim * tokens")
slip("my_cache_numbers", "the newest one comes by itself", "(config.linear_conv_kernel_dim - 1)", "3")
slip("my_cache_numbers", "whole number", "return states +", "return 1.0 * states +")

# ---- my_sample

slip("my_sample", "the temperature is missing", "logits / temperature", "logits")
slip("my_sample", "multiplies by the temperature", "logits / temperature", "logits * temperature")
slip("my_sample", "top-p is missing", "p.cumsum(-1) - p >= top_p", "p < 0")
slip("my_sample", "crosses the mark is dropped", "p.cumsum(-1) - p >= top_p", "p.cumsum(-1) > top_p")
slip("my_sample", "not renormalised", "    p = p / p.sum(-1, keepdim=True)  ", "")
slip("my_sample", "places in the sorted list", "return ids.gather(-1, place)[:, 0]", "return place[:, 0]")
slip("my_sample", "one token id for each row", "return ids.gather(-1, place)[:, 0]", "return ids.gather(-1, place)")
slip("my_sample", "whatever the throw is", "> u[:, None]", "> 0.0")
slip("my_sample", "these are not the odds", "> u[:, None]", "> u[:1, None] * 0 + torch.rand(len(u), 1)**2")
slip("my_sample", "stops with", "u[:, None]", "u[:4000, None]")
slip("my_sample", "at temperature 0", "    if temperature == 0:\n        return logits.argmax(-1)\n",
     "    temperature = max(temperature, 1.0 if temperature == 0 else temperature)\n")
slip("my_sample", "changes logits",
     "    p, ids = (logits / temperature)", "    logits /= temperature\n    p, ids = (logits)")


@wrong("my_sample", "before the temperature")
def cuts_before_it_bends(logits, u, temperature=1.0, top_p=1.0):
    if temperature == 0:
        return logits.argmax(-1)
    raw, ids = logits.softmax(-1).sort(descending=True)
    p = (logits / temperature).softmax(-1).gather(-1, ids)
    p = p.masked_fill(raw.cumsum(-1) - raw >= top_p, 0)
    p = p / p.sum(-1, keepdim=True)
    return ids.gather(-1, (p.cumsum(-1) > u[:, None]).int().argmax(-1, keepdim=True))[:, 0]


@wrong("my_sample", "these are not the odds")
def knows_one_row_of_logits(logits, u, temperature=1.0, top_p=1.0):
    if temperature == 0:
        return logits.argmax(-1)
    p, ids = (logits[:1] / temperature).softmax(-1).sort(descending=True)
    p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0)
    p = (p / p.sum(-1, keepdim=True)).expand(len(u), -1)
    return ids.expand(len(u), -1).gather(-1, (p.cumsum(-1) > u[:, None]).int().argmax(-1, keepdim=True))[:, 0]


@wrong("my_sample", "e to the 1000")
def takes_the_exponential_itself(logits, u, temperature=1.0, top_p=1.0):
    if temperature == 0:
        return logits.argmax(-1)
    p, ids = (logits / temperature).exp().sort(descending=True)
    p = p / p.sum(-1, keepdim=True)
    p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0)
    p = p / p.sum(-1, keepdim=True)
    return ids.gather(-1, (p.cumsum(-1) > u[:, None]).int().argmax(-1, keepdim=True))[:, 0]


@wrong("my_sample", "very end of the ruler")
def draws_what_was_cut_by_the_smallest_throw(logits, u, temperature=1.0, top_p=1.0):
    if temperature == 0:
        return logits.argmax(-1)
    p, ids = (logits / temperature).softmax(-1).sort(descending=True)
    p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0)
    p = (p / p.sum(-1, keepdim=True)).gather(-1, ids.argsort(-1))       # in the order of the vocabulary again
    return (p.cumsum(-1) >= u[:, None]).int().argmax(-1)
