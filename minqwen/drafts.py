"""Speculative decoding: a small head guesses the next tokens, and the model reads them all at once.

A model reads its weights from memory for every token that it writes, and reading four tokens takes hardly longer than
reading one. So the head for multi-token prediction drafts a few; one forward pass says what the model itself would have
put in each place; and the longest stretch on which both agree is kept. Then comes the model's own token. Nothing of
what is written depends on the drafts, only how soon it is there.

    hear        the head is told which tokens were read, and what the model made of them
    draft       it guesses on, from its own guesses
    accept      where tokens are drawn: a draft is taken as often as the model would have drawn it

`generate.stream` runs them by turns. What is refused is given back by `cache.Trial`.

Symbols: B rows of the batch, n drafts, V tokens of the vocabulary, and those of `model.py`.

Source: "Fast Inference from Transformers via Speculative Decoding" (Leviathan, Kalman, Matias 2023, arXiv 2211.17192);
drafts by the multi-token head: "DeepSeek-V3 Technical Report" (arXiv 2412.19437), section 2.2.
"""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import replace
from itertools import compress, zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from .cache import Cache, interrupts_held_back, may_look
from .errors import QwenError
from .model import GatedDeltaNet, Qwen, Step
from .sampling import Choice, draw, no_numbers

__all__ = ["Drafter", "Pass", "accept", "Speculation", "check_drafts"]


class Pass(NamedTuple):
    """What one forward pass of the model came to in one row: a record for whoever wants to look.

    The first one of a row is the reading of its prompt, before which nothing could be drafted. Probabilities are those
    that tokens are drawn with. Where the likeliest is taken nothing is drawn, and they are those after penalties, at
    temperature 1, of all tokens: no top_k, top_p or min_p takes part.
    """

    row: int
    drafted: list[int]                                   # what the head guessed
    q: list[float]                                       # its probability of each
    p: list[float]                                       # the model's, up to the first refusal
    coins: list[float]                                   # draft i is taken when coins[i] * q[i] < p[i]; greedy: none
    taken: int                                           # how many of the drafts were taken, from the first on
    given: list[int]                                     # these, and the model's own token, unless the row ended before
    p_given: list[float]                                 # the model's probability of each


def accept(p: Tensor, q: Tensor, drafted: Tensor, coins: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A token of each row, distributed as p, and as often as can be the one that was drafted, which is drawn from q.

    The draft is taken with probability p / q. Else the token comes from what p has more than q:

        q min(1, p / q)  +  (1 - sum min(p, q)) max(0, p - q) / sum max(0, p - q)  =  p

    Args:
        p, q: (B, V), probabilities of the model and of the head.
        drafted: (B,)
        coins: (B,), uniform in [0, 1).
    Returns:
        (B,)
    """
    draft = drafted[:, None]
    taken = coins * q.gather(1, draft)[:, 0] < p.gather(1, draft)[:, 0]
    rest = (p - q).clamp(min=0)
    rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, p)          # p is q, but for rounding
    return torch.where(taken, drafted, draw(rest, generator))


class Drafter:
    """The head for multi-token prediction beside a cache: it hears what the model reads, and guesses what comes next.

    Keys and values of its own are in `cache.mtp`, one for each token of which it has heard together with the next one.
    """

    def __init__(self, model: Qwen, cache: Cache):
        if cache.mtp is None:
            config, weight = model.config.text_config, model.model.language_model.embed_tokens.weight
            layers = ["full_attention"] * config.mtp_num_hidden_layers
            config = replace(config, num_hidden_layers=len(layers), layer_types=layers)
            cache.mtp = Cache(config, cache.batch_size, cache.max_length, weight.dtype, weight.device)
        self.model, self.cache, self.own = model, cache, cache.mtp
        self.embed = model.model.language_model.embed_tokens

    @torch.no_grad()
    def hear(self, hidden: Tensor, following: Tensor, position_ids: Tensor, valid: Tensor | None = None) -> Tensor:
        """Tokens, and which came behind each -> what the head makes of it, (B, T, hidden_size).

        hidden: what the model made of the tokens; following: the embeddings of the next ones, both (B, T, hidden_size);
        position_ids: (3, B, T) of the tokens; valid: (B, T) bool, which of them are real (None: all).
        """
        B, T, _ = hidden.shape
        self.own.check_room(B, T)
        step = Step.at(position_ids, self.model.config.text_config, hidden.dtype,
                       mask=may_look(B, T, valid, self.own, device=hidden.device))
        self.own.advance(position_ids, valid)
        states = self.model.mtp(hidden, following, step, self.own.layers)
        self.own.midway = False
        return states

    def read_along(self, start: int, x: Tensor, position_ids: Tensor, mask: Tensor | None) -> None:
        """The model has read a piece of a prompt, from token `start` on. The last token of all has no next one yet.

        x: (B, T, hidden_size), position_ids: (3, B, T) and mask: (B, T) or None, of the whole prompt, as `Qwen.embed`,
        `Qwen.positions` and `generate.prefill` have them; pads are on the left.
        """
        top = self.cache.top
        following = x[:, start + 1 : start + 1 + top.shape[1]]
        if n := following.shape[1]:
            here = slice(start, start + n)
            valid = None if mask is None or mask[:, here].all() else mask[:, here].bool()
            self.hear(top[:, :n], following, position_ids[..., here], valid)
        self.cache.top = top[:, -1:]

    def follow(self, given: Sequence[Sequence[int]]) -> None:
        """Each row keeps tokens of the pass, and was given as many: the ones that come behind them."""
        counts = [len(ids) for ids in given]
        longest = max(counts)
        ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in given], device=self.own.valid.device)
        counted, place = torch.tensor(counts, device=ids.device), torch.arange(longest, device=ids.device)
        position_ids = (self.cache.positions - counted)[:, None] + place                       # (B, longest)
        with self.own.trial() as trial:                  # what a shorter row hears beyond its own is given back
            states = self.hear(self.cache.top[:, :longest], self.embed(ids), position_ids.expand(3, *ids.shape))
            trial.keep(counts)
        self.state = states[place.new_tensor(range(len(ids))), counted.clamp(min=1) - 1, None]     # (B, 1, hidden_size)

    @torch.no_grad()
    def draft(self, n: int, choose: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Guess n tokens of each row -> (B, n). choose: from logits, (B, V), and the guesses before, (B, i), to one of
        each row, (B,)."""
        here, state, drafted = self.own.snapshot(), self.state, self.cache.positions.new_zeros(len(self.state), n)
        for i in range(n):
            if i > 0:                                    # what it made itself stands for what the model would
                position_ids = (self.cache.positions + i - 1).expand(3, -1)[..., None]         # (3, B, 1)
                state = self.hear(state, self.embed(drafted[:, i - 1 : i]), position_ids)
            drafted[:, i] = choose(self.model.head(state)[:, -1], drafted[:, :i])
        self.own.restore(here)
        return drafted


class Speculation:
    """Drafting and verifying by turns, for a batch whose rows go their own ways.

    Args:
        drafter: has heard the prompt, as the model has.
        choice: how tokens are chosen, of the head's logits as of the model's.
        limits: how many tokens each row may be given at most.
        stops: ids behind which a row ends.
        passes: takes a record of each pass and row; or None.
    """

    def __init__(self, drafter: Drafter, choice: Choice, limits: Sequence[int], stops: Set[int],
                 passes: list[Pass] | None = None):
        self.drafter, self.model, self.choice, self.stops, self.passes = drafter, drafter.model, choice, stops, passes
        self.left, self.running, self.q = list(limits), [limit > 0 for limit in limits], []
        self.looks = not choice.greedy or passes is not None     # at probabilities, and not only at which is highest

    def steps(self, logits: Tensor, draft_tokens: int) -> Iterator[list[int | None]]:
        """From the logits behind the prompt, (B, V), on: steps as `generate.stream` gives them."""
        cache, last = self.drafter.cache, logits.new_zeros(len(logits), dtype=torch.long)       # (B,)
        given = self.verify(logits[:, None], last[:, None][:, :0])
        yield from map(list, zip_longest(*given))
        while any(self.running):
            for row, ids in enumerate(given):
                last[row] = ids[-1] if ids else 0        # a row that has ended reads something, and gives it back
            n = min(draft_tokens, max(compress(self.left, self.running)) - 1)
            drafted = self.guess(given, n) if n > 0 else last[:, None][:, :0]                   # (B, n)
            with cache.trial() as trial:
                given, told, kept = [[]] * len(last), 0, None
                try:
                    with interrupts_held_back(), torch.no_grad():
                        logits = self.model(torch.cat((last[:, None], drafted), dim=1), cache=cache)
                    given = self.verify(logits, drafted)
                    trial.keep(kept := [len(ids) for ids in given])
                    for step in zip_longest(*given):
                        told += 1
                        yield list(step)
                finally:                                 # who goes away midway leaves a cache that has read what he got
                    if kept != (got := [len(ids[:told]) for ids in given]) and not cache.midway:
                        trial.keep(got)

    def guess(self, given: list[list[int]], n: int) -> Tensor:
        """n drafts of each row, (B, n), behind what the last pass gave; in `self.q` what they were drawn with."""
        self.q = []

        def choose(logits, ahead):
            self._check(logits)
            bent = self.choice.bend(logits, ahead)
            if self.looks:
                self.q.append(self.choice.probabilities(bent))                                  # (B, V)
            return self.choice.draw(bent)

        with interrupts_held_back():
            self.drafter.follow(given)
            return self.drafter.draft(n, choose)

    def verify(self, logits: Tensor, drafted: Tensor) -> list[list[int]]:
        """What a pass with these logits, (B, n + 1, V), gives each row: the drafts, (B, n), up to where the model puts
        another token, and that one."""
        B, n = drafted.shape
        guesses, given, agrees = drafted.tolist(), [[] for _ in range(B)], list(self.running)
        records = [Pass(row, guesses[row], [], [], [], 0, given[row], []) for row in range(B)]
        for place in range(n + 1):
            self._check(logits[agrees, place])
            bent, coins = self.choice.bend(logits[:, place]), None
            p = self.choice.probabilities(bent) if self.looks else None
            if self.choice.greedy or place == n:
                ids = self.choice.draw(bent)
            else:
                coins = torch.rand(B, generator=self.choice.generator, device=logits.device)
                ids = accept(p, self.q[place], drafted[:, place], coins, self.choice.generator)
            for row, id in enumerate(self.choice.write(ids, agrees).tolist()):
                if not agrees[row]:
                    continue
                given[row].append(id)
                self.left[row] -= 1
                self.running[row] = id not in self.stops and self.left[row] > 0
                agrees[row] = self.running[row] and place < n and id == guesses[row][place]
                if self.passes is not None:
                    records[row].p_given.append(p[row, id].item())
                    if place < n:
                        records[row].p.append(p[row, guesses[row][place]].item())
                    if coins is not None:
                        records[row].coins.append(coins[row].item())
            if not any(agrees):
                break
        if self.passes is not None:
            q = [[q[row, id].item() for q, id in zip(self.q, guess)] for row, guess in enumerate(guesses)]
            self.passes += [one._replace(q=q[one.row], taken=sum(a == b for a, b in zip(one.given, one.drafted)))
                            for one in records if one.given]
        return given

    def _check(self, logits):
        if not logits.amax(-1).isfinite().all():
            raise no_numbers(self.model.head_weight.dtype)


def check_drafts(model: Qwen) -> None:
    """Raise a QwenError where there is nobody who drafts, or what was read cannot be given back."""
    if not model.config.text_config.mtp_num_hidden_layers:
        raise QwenError("This model has no head for multi-token prediction (mtp.*), so it cannot draft: leave "
                        "draft_tokens out.")
    if any("delta_rule" in vars(module) for module in model.modules() if isinstance(module, GatedDeltaNet)):
        raise QwenError("Refused drafts are given back, which only the layers' own delta rule can do, and a trace, an "
                        "edit or you have put another in its place: leave draft_tokens out.")
