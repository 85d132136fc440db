"""Which token comes next: from logits to one of each row.

    penalize            what was said before becomes less likely
    warp                the likely becomes likelier, and the unlikely is put out of reach
    sample              one token is drawn
    ThinkingBudget      and where the thinking has gone on for too long, another is written instead

A `Choice` is all of them in this order, with what they have to remember.

Symbols: B rows of the batch, T tokens of the prompt (pads included), V tokens of the vocabulary.
"""

from collections.abc import Sequence
from itertools import repeat

import torch
from torch import Tensor

from .errors import QwenError

__all__ = ["Choice", "ThinkingBudget", "draw", "no_numbers", "penalize", "sample", "seen", "warp"]

GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
NO_PENALTIES = {"presence_penalty": 0.0, "repetition_penalty": 1.0}


class Choice:
    """How the next tokens of a batch are chosen: the options of `generate.stream`, and what was chosen so far.

    Args:
        input_ids, mask: (B, T), the prompt; 0 in the mask = padding.
        sampling: temperature, top_k, top_p, min_p: see `warp`; temperature 0 takes the likeliest token always.
        penalties: presence_penalty, repetition_penalty: see `penalize`.
        budgets: for each row its `ThinkingBudget`, or None.
    """

    def __init__(self, input_ids: Tensor, mask: Tensor, vocab_size: int, sampling: dict[str, float] = GREEDY,
                 penalties: dict[str, float] = NO_PENALTIES, seed: int | None = None,
                 budgets: "list[ThinkingBudget] | None" = None):
        self.sampling, self.penalties, self.budgets = sampling, penalties, budgets
        self.generator = torch.Generator(input_ids.device)
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)
        self.penalizes = penalties != NO_PENALTIES
        if self.penalizes:
            self.in_prompt = seen(input_ids, mask, vocab_size)                                      # (B, V)
            self.in_output = torch.zeros_like(self.in_prompt)

    @property
    def greedy(self) -> bool:
        return self.sampling["temperature"] == 0

    def __call__(self, logits: Tensor) -> Tensor:
        """The next token of each row: (B, V) -> (B,)."""
        return self.write(self.draw(self.bend(logits)))

    def bend(self, logits: Tensor, ahead: Tensor | None = None) -> Tensor:
        """The logits after penalties, (B, V). ahead: (B, n), tokens that count as if they were written already."""
        if not self.penalizes:
            return logits
        in_output = self.in_output if ahead is None else self.in_output.scatter(1, ahead, True)
        return penalize(logits, self.in_prompt, in_output, **self.penalties)

    def draw(self, bent: Tensor) -> Tensor:
        """A token of each row, (B,), from logits after penalties."""
        return sample(bent, **self.sampling, generator=self.generator)

    def probabilities(self, bent: Tensor) -> Tensor:
        """Those that `draw` draws with, (B, V). Where it takes the likeliest nothing is drawn, and top_k and the others
        play no part: then those of the bent logits as they are."""
        return (bent.float() if self.greedy else warp(bent, **self.sampling)).softmax(-1)

    def write(self, ids: Tensor, rows: Sequence[bool] | None = None) -> Tensor:
        """Rows write these tokens - or what their budgets put in the place: (B,) -> (B,), what they wrote.

        rows: which of the B write at all; None: all of them, and then nothing but budgets waits for a GPU.
        """
        if self.budgets is not None:
            writing = zip(self.budgets, ids.tolist(), repeat(True) if rows is None else rows)
            ids = ids.new_tensor([budget(id) if writes else id for budget, id, writes in writing])
        if self.penalizes and rows is None:
            self.in_output.scatter_(1, ids[:, None], True)
        elif self.penalizes:
            self.in_output[rows, ids[rows]] = True
        return ids


def sample(logits: Tensor, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0,
           generator: torch.Generator | None = None) -> Tensor:
    """Draw one token of each row from its logits: (B, V) -> (B,). Temperature 0 draws the likeliest."""
    if temperature == 0:
        return logits.float().argmax(-1)                 # in bfloat16 the same, only slower
    scores, ids = _candidates(logits, temperature, top_k, top_p, min_p)
    drawn = draw(scores.softmax(-1), generator)
    return drawn if ids is None else ids.gather(1, drawn[:, None])[:, 0]


def draw(p: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw one token of each row from probabilities, or multiples of them: (B, V) -> (B,)."""
    # of exponential waiting times with rates p the shortest: what torch.multinomial does, and then waits for the GPU
    return (p / torch.empty_like(p).exponential_(generator=generator)).argmax(-1)


def warp(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Tensor:
    """Sharpen the logits and put the unlikely tokens out of reach: (B, V) -> (B, V), -inf at those.

    Args:
        temperature: below 1 the likely become likelier, above 1 less so.
        top_k: only the k likeliest stay, of equals as many as have room; 0 keeps all.
        top_p: of these, only the fewest that make up this probability. Holtzman et al. 2020 (arXiv 1904.09751).
        min_p: and only those at least this fraction as likely as the likeliest. Nguyen et al. 2024 (arXiv 2407.01082).
    """
    scores, ids = _candidates(logits, temperature, top_k, top_p, min_p)
    return scores if ids is None else scores.new_full(logits.shape, -torch.inf).scatter(1, ids, scores)


def _candidates(logits, temperature, top_k, top_p, min_p):
    """The warped scores of the top_k likeliest tokens, from the likeliest down, and which these are, both (B, top_k);
    or the scores of all, (B, V), in their own order, and None. Drawing from 20 is quicker than from 248,320."""
    scores = logits.float() / temperature
    if not top_k and top_p == 1 and min_p == 0:
        return scores, None
    V = scores.shape[-1]
    best, ids = scores.topk(min(top_k or V, V))
    p = best.softmax(-1)
    out = p < min_p * p[:, :1]
    if top_p < 1:
        out |= p.cumsum(-1) - p >= top_p                                                    # the likelier ones suffice
    return best.masked_fill(out, -torch.inf), ids


def penalize(logits: Tensor, in_prompt: Tensor, in_output: Tensor, presence_penalty: float = 0.0,
             repetition_penalty: float = 1.0) -> Tensor:
    """Make tokens that were seen before less likely. All (B, V); in_prompt and in_output are bool.

    Args:
        repetition_penalty: divides the logit of a token in prompt or output (multiplies it where negative).
            Keskar et al. 2019 (arXiv 1909.05858).
        presence_penalty: is subtracted, once, from the logit of a token in the output, as in OpenAI's API and in vLLM.
    """
    logits = logits.float()
    if repetition_penalty != 1:
        repeated = torch.where(logits < 0, logits * repetition_penalty, logits / repetition_penalty)
        logits = torch.where(in_prompt | in_output, repeated, logits)
    return logits - presence_penalty * in_output


def seen(input_ids: Tensor, mask: Tensor, vocab_size: int) -> Tensor:
    """Which tokens of the vocabulary a row holds, pads aside: (B, T) -> (B, V) bool."""
    ids = input_ids.masked_fill(mask == 0, vocab_size)                                      # pads fall off the end
    return ids.new_zeros(len(ids), vocab_size + 1, dtype=torch.bool).scatter(1, ids, True)[:, :-1]


class ThinkingBudget:
    """Watches one row's think block, and closes it when the budget is spent.

    Called with each token that the row would write, it says which one to write instead: mostly the same.
    """

    def __init__(self, budget: int, think_ids: tuple[int, int], end_think_ids: Sequence[int], prompt: Sequence[int]):
        self.budget, (self.opener, self.closer), self.end = budget, think_ids, end_think_ids
        self.open = next((id for id in reversed(prompt) if id in think_ids), self.closer) == self.opener
        self.spent, self.pending = 0, []

    def __call__(self, id: int) -> int:
        if self.open and self.spent >= self.budget and id != self.closer:
            self.open, self.pending = False, list(self.end)
        if self.pending:
            return self.pending.pop(0)
        if id == self.opener:
            self.open, self.spent = True, 0
        elif id == self.closer:
            self.open = False
        else:
            self.spent += self.open
        return id


def no_numbers(dtype: torch.dtype) -> QwenError:
    """What is to be said where logits are no numbers. dtype: of the model's weights."""
    why = ("float16 holds nothing beyond 65504, and this model needs more: load it with dtype='bfloat16' or 'float32'"
           if dtype == torch.float16 else "its weights are damaged, or an edit of them goes too far")
    return QwenError(f"What the model computes is not a number any more: {why}.")
