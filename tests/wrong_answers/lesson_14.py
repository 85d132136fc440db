"""Wrong answers to the exercises of lesson 14."""

import torch

from . import slip, wrong

# ---- my_advantages

MEAN = "rewards.mean(dim=1, keepdim=True)"
slip("my_advantages", "rewards themselves", f" - {MEAN}", "")
slip("my_advantages", "all questions have one mean", MEAN, "rewards.mean()")
slip("my_advantages", "the mean is that of a column", "dim=1", "dim=0")
slip("my_advantages", "divided by the spread", f"return rewards - {MEAN}",
     f"return (rewards - {MEAN}) / (rewards.std(dim=1, keepdim=True) + 1e-4)")
slip("my_advantages", "that of the others alone", MEAN,
     "(rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)")
slip("my_advantages", "the best answer", MEAN, "rewards.amax(dim=1, keepdim=True)")
slip("my_advantages", "the sign is turned round", f"rewards - {MEAN}", f"{MEAN} - rewards")
slip("my_advantages", "changes rewards", f"return rewards - {MEAN}", f"return rewards.sub_({MEAN})")


@wrong("my_advantages", "each reward less the mean of its row")
def knows_rewards_of_0_and_1(rewards):
    return torch.where(rewards > 0.5, 1.0, 0.0) - rewards.mean(dim=1, keepdim=True)


# ---- my_policy_loss

slip("my_policy_loss", "the sign is wrong", "-(", "(")
slip("my_policy_loss", "it is a sum", ".mean()", ".sum()")
slip("my_policy_loss", "pulls at the probabilities", "* logprobs", "* logprobs.exp()")
slip("my_policy_loss", "advantages are not used", "advantages[answer] * logprobs", "logprobs")
slip("my_policy_loss", "divided by the number of answers", ".mean()", ".sum() / len(advantages)")
slip("my_policy_loss", "gradient is cut off", "* logprobs", "* logprobs.detach()")
slip("my_policy_loss", "changes logprobs", "    return", "    logprobs *= 2\n    return")


@wrong("my_policy_loss", "each answer has a mean of its own")
def averages_answers(logprobs, advantages, answer):
    means = [logprobs[answer == a].mean() for a in range(len(advantages))]
    return -(advantages * torch.stack(means)).mean()


@wrong("my_policy_loss", "the mean over all tokens of advantage times logarithm")
def takes_tokens_for_sorted(logprobs, advantages, answer):
    return -(advantages.repeat_interleave(torch.bincount(answer)) * logprobs).mean()


@wrong("my_policy_loss", "its gradient is not the advantages'")
def pulls_at_the_square(logprobs, advantages, answer):
    gain = advantages[answer] * logprobs
    return -(gain.detach() * 2 - gain).mean()


# ---- my_pass_at

slip("my_pass_at", "drawn anew", "1 - math.comb(n - right, k) / math.comb(n, k)", "1 - (1 - right / n) ** k")
slip("my_pass_at", "the share of right answers", "1 - math.comb(n - right, k) / math.comb(n, k)", "right / n")
slip("my_pass_at", "how likely none is right", "1 - math", "math")
slip("my_pass_at", "all k are right", "1 - math.comb(n - right, k)", "math.comb(right, k)")
slip("my_pass_at", "one is enough", "1 - math.comb(n - right, k) / math.comb(n, k)", "min(1.0, k * right / n)")
slip("my_pass_at", "a number is wanted", "1 - math.comb(n - right, k) / math.comb(n, k)",
     "torch.tensor(1 - math.comb(n - right, k) / math.comb(n, k))")


@wrong("my_pass_at", "one of 1 is so with")
def knows_that_there_are_eight(k, n, right):
    return 1 - math.comb(8 - right, k) / math.comb(8, k) if right < 8 else 1.0


# ---- my_clipped

MINIMUM = "torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)"
slip("my_clipped", "nothing is clipped", MINIMUM, "ratio * advantage")
slip("my_clipped", "clipped always", MINIMUM, "ratio.clamp(1 - low, 1 + high) * advantage")
slip("my_clipped", "the larger of the two", "torch.minimum", "torch.maximum")
slip("my_clipped", "turned round", "(new - old)", "(old - new)")
slip("my_clipped", "take exp of it", "(new - old).exp()", "new - old")
slip("my_clipped", "low and high are swapped", "clamp(1 - low, 1 + high)", "clamp(1 - high, 1 + low)")
slip("my_clipped", "gradient of `new` is cut off", "(new - old)", "(new.detach() - old)")
slip("my_clipped", "its gradient is not the right one", "ratio * advantage,", "ratio.detach() * advantage,")
slip("my_clipped", "changes new", "(new - old)", "new.sub_(old)")


@wrong("my_clipped", "the smaller of ratio times advantage")
def knows_a_fifth(new, old, advantage, low, high):
    ratio = (new - old).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)


# ---- my_answer_ratio

slip("my_answer_ratio", "one is wanted for each token", ".exp()[answer]", ".exp()")
slip("my_answer_ratio", "the product of all ratios", "total / tokens", "total")
slip("my_answer_ratio", "exp is missing", ".exp()[answer]", "[answer]")
slip("my_answer_ratio", "turned round", "new - old", "old - new")
slip("my_answer_ratio", "its gradient is not the right one", "return (total / tokens).exp()[answer]",
     "whole = (total / tokens).exp()[answer]\n    return whole.detach() * (new - new.detach()).exp()")


@wrong("my_answer_ratio", "exp of the mean")
def cuts_where_the_answer_changes(new, old, answer):
    lengths = answer.unique_consecutive(return_counts=True)[1].tolist()
    return torch.cat([part.mean().exp().expand(len(part)) for part in (new - old).split(lengths)])


@wrong("my_answer_ratio", "the tokens' own ratios")
def token_by_token(new, old, answer):
    return (new - old).exp()


@wrong("my_answer_ratio", "take that of their logarithms")
def averages_ratios(new, old, answer):
    tokens = torch.bincount(answer)
    return (new.new_zeros(len(tokens)).index_add(0, answer, (new - old).exp()) / tokens)[answer]


@wrong("my_answer_ratio", "all answers have one ratio")
def all_as_one(new, old, answer):
    return (new - old).mean().exp().expand(len(new))


@wrong("my_answer_ratio", "exp of the mean")
def knows_six_answers(new, old, answer):
    total = new.new_zeros(6).index_add(0, answer, new - old)
    return (total / torch.bincount(answer, minlength=6).clamp(min=1).sum() * 6).exp()[answer]
