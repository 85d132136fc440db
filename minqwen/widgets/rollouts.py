"""The rollout explorer: several answers to one question, what each is worth, and what learning made of its tokens.

An answer's tokens have the probabilities that they were drawn with; the model, which may have learnt since, is asked
once more. The browser has all there is from the beginning.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure

from .. import plots
from ..errors import QwenError
from ..nano.rl import Experience, logprobs
from ..nano.rollouts import Answer
from ..nano.tasks import right
from . import stills
from .explorer import Explorer, Place, in_base64, sources, token_at, whole

WIDE, ACROSS, DOWN = 560, 14, 20                # pixels: of all tokens, of one at most, and of an answer
MOST = 560                                      # tokens of an answer


class RolloutExplorer(Explorer):
    """Answers side by side: reward, advantage, and of each token how much likelier it has become, or less likely.

        groups = rollout(qwen, [sum_of(Random(0), 4)], answers=8, rng=Random(1))
        ...                                                 # learn from them, and then
        RolloutExplorer(qwen, groups)

    Args:
        qwen: what `minqwen.load()` gives: the model as it is now.
        groups: answers, a list for each question, as `minqwen.nano.rollouts.rollout` gives them.
        reward: what is rewarded; the right answer, if nothing is said.
        token: of the answer, its first one being what the model wrote first; may be negative.
        answer, group: counted from 0.

    Raises:
        QwenError: groups with nothing in them, or too much; no such token, answer or group.
    """

    _esm, _css = sources("rollouts_explorer")
    position = ("token", "answer", "group")

    token, answer, group = (Place().tag(sync=True) for _ in range(3))

    def __init__(self, qwen, groups: Sequence[Sequence[Answer]], reward: Callable[[Answer], float] = right, *,
                 token: int = 0, answer: int = 0, group: int = 0):
        if not hasattr(qwen, "chat"):
            raise QwenError(f"RolloutExplorer needs what minqwen.load() gives, not a {type(qwen).__name__}.")
        if not groups or not all(groups) or not all(answer.logprobs for group in groups for answer in group):
            raise QwenError("RolloutExplorer has nothing to show: give it groups of answers, as rollout does.")
        told = [self._told(qwen, group, reward) for group in groups]
        longest = max(len(answer["tokens"]) for group in told for answer in group["answers"])
        if longest > MOST:
            raise QwenError(f"RolloutExplorer has room for answers of {MOST} tokens, but one has {longest}.")
        super().__init__(story={
            "title": "What becomes of a group of answers", "groups": told, "longest": longest,
            "rows": max(len(group) for group in groups), "cell": [min(ACROSS, WIDE // longest), DOWN],
            "palette": in_base64(plots.diverging),
        })
        self.group, self.answer = group, answer
        self.token = token_at(token, len(self._answer_at(self.answer, self.group)["tokens"]))

    @staticmethod
    def _told(qwen, group, reward) -> dict:
        """A group as the browser has it; what stands before an answer's first token, the question, is left out."""
        special, rewards = set(qwen.tokenizer.added_tokens.values()), [float(reward(answer)) for answer in group]
        with torch.no_grad():
            rows = [Experience(answer.ids, answer.written, answer.logprobs, 0.0) for answer in group]
            now = logprobs(qwen.model, rows).split([len(answer.logprobs) for answer in group])
        answers = []
        for answer, own, likely in zip(group, rewards, now):
            first, numbers = answer.written.index(True), iter(zip(answer.logprobs, likely.tolist()))
            tokens = [{"text": qwen.tokenizer.decode([id], skip_special_tokens=False), "special": id in special}
                      for id in answer.ids[first:]]
            before, after = zip(*(next(numbers) if mine else (None, None) for mine in answer.written[first:]))
            answers.append({"text": answer.text, "right": answer.right, "reward": own,
                            "advantage": own - float(np.mean(rewards)), "tokens": tokens, "before": before,
                            "after": after})
        changes = [abs(new - old) for one in answers for old, new in zip(one["before"], one["after"])
                   if old is not None]
        return {"question": group[0].turn.question, "mean": float(np.mean(rewards)), "answers": answers,
                "limit": max(*changes, 0.01)}                       # about one percent: less is not worth a colour

    def page_names(self) -> list[str]:
        return []                                                           # the story says it all

    # -------------------------------------------------------------------------------------------- what can be had of it

    def changes(self, group: int | None = None) -> np.ndarray:
        """(answers, tokens): how much larger the logarithm of each token's probability is now, in nats; not a number
        where a token was read and not written, and behind an answer's end."""
        *_, group = self._place(None, None, group)
        told = self.story["groups"][group]["answers"]
        found = np.full((len(told), max(len(one["tokens"]) for one in told)), np.nan)
        for row, one in zip(found, told):
            row[: len(one["tokens"])] = [np.nan if old is None else new - old
                                         for old, new in zip(one["before"], one["after"])]
        return found

    def still(self, token: int | None = None, answer: int | None = None, group: int | None = None
              ) -> tuple[Figure, str]:
        """What it shows, as a figure that stands still, and its description."""
        token, answer, group = self._place(token, answer, group)
        told = self.story["groups"][group]
        figure = stills.rollouts(told["question"], told["answers"], self.changes(group), told["limit"], answer, token)
        return figure, (
            f"{len(told['answers'])} answers to “{told['question']}”, a row for each with its reward and its "
            f"advantage; each token's colour says how much likelier it has become since it was drawn, or less likely, "
            f"by up to {told['limit']:.2f} nats. Answer {answer + 1} and its token {token + 1} are marked.")

    # ----------------------------------------------------------------------------------------------- numbers and places

    @traitlets.validate("token", "answer", "group")
    def _validate(self, proposal):
        return self._checked(proposal["trait"].name, proposal["value"])

    @traitlets.observe("answer", "group")
    def _keep_to_the_answer(self, change):                                  # others are shorter, or fewer
        self.answer = min(self.answer, len(self.story["groups"][self.group]["answers"]) - 1)
        self.token = min(self.token, len(self._answer_at(self.answer, self.group)["tokens"]) - 1)

    def _answer_at(self, answer, group) -> dict:
        return self.story["groups"][group]["answers"][answer]

    def _place(self, token, answer, group) -> list[int]:
        """A token, an answer and a group; where one is None, our own, or the last if that is beyond it."""
        group = self.group if group is None else self._checked("group", group)
        last = len(self.story["groups"][group]["answers"]) - 1
        answer = min(self.answer, last) if answer is None else self._checked("answer", answer, last)
        last = len(self._answer_at(answer, group)["tokens"]) - 1
        return [min(self.token, last) if token is None else self._checked("token", token, last), answer, group]

    def _checked(self, name, value, last=None):
        value = whole(name, value)
        if last is None:
            there = self.story["groups"]
            if name != "group":
                there = there[self.group]["answers"]
            if name == "token":
                there = there[self.answer]["tokens"]
            last = len(there) - 1
        if value not in range(last + 1):
            raise QwenError(f"There is no {name} {value} to explore; the last is {last}.")
        return value

    def __repr__(self) -> str:
        groups = self.story["groups"]
        return f"RolloutExplorer({len(groups)} x {self.story['rows']} answers, {groups[0]['question']!r} first)"
