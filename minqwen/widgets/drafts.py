"""The draft explorer: how each token of an answer came - drafted and taken, or from the model itself - pass by pass.

An answer is written once for each number of drafts, and what was drafted, taken and refused is told with it. So the
browser has all there is from the beginning; see `minqwen.drafts.Pass` for what is known of a pass.
"""

import traitlets
from matplotlib.figure import Figure

from ..drafts import Pass, check_drafts
from ..errors import QwenError
from ..generate import generate
from . import stills
from .explorer import Explorer, Place, sources, whole

ROW, WIDE = 24, 400                             # pixels for each token of a pass, and for a probability of 1
BARS = ((4, 11), (13, 20))                      # where in its row the head's bar stands, and the model's


def colours(dark: bool = False) -> dict[str, list[int]]:
    """Red, green and blue of what the head says, of what the model says, and of the coin between them."""
    return ({"head": [91, 155, 216], "model": [154, 162, 173], "coin": [255, 196, 120]} if dark else
            {"head": [59, 130, 196], "model": [120, 127, 138], "coin": [180, 84, 0]})


def ways(passes: list[Pass]) -> list[str]:
    """How each token of the answer came: "taken", the head guessed it; "instead", the model put it in the place of a
    guess; "own", nothing had been guessed there."""
    found = []
    for one in passes:
        behind = len(one.given) - one.taken              # the model's own: one, or none where the answer ended before
        found += ["taken"] * one.taken + ["instead" if one.taken < len(one.drafted) else "own"] * behind
    return found


def summary(passes: list[Pass]) -> dict:
    """What drafting came to; the reading of the prompt, before which nothing can be drafted, does not count.

    passes, tokens      forward passes, and the tokens that they gave
    taken               of the drafts in each place, the first one first, the share that was taken
    """
    after = passes[1:]
    places = max((len(one.drafted) for one in after), default=0)
    taken = [[one.taken > place for one in after if len(one.drafted) > place] for place in range(places)]
    return {"passes": len(after), "tokens": sum(len(one.given) for one in after),
            "taken": [sum(these) / len(these) for these in taken]}


class DraftExplorer(Explorer):
    """An answer, each token marked by how it came; and pass by pass what was guessed, and what decided.

        DraftExplorer(qwen, "Ann has a red cup. Where is Bob?")
        DraftExplorer(qwen, "...", draft_tokens=2, temperature=1.0, seed=3)

    Args:
        qwen: what `minqwen.load()` gives; its model needs the head for multi-token prediction.
        messages: a question, or a chat as a list of messages.
        draft_tokens: how many drafts for each pass are shown at first.
        most: the answer is written with 1, 2, ... up to so many drafts.
        token: the token of the answer that is chosen at first, from 0.
        thinking: whether the model thinks first; None leaves it to the checkpoint.
        max_new_tokens: how long an answer may be.
        options: others of `minqwen.stream`, such as temperature, top_p and seed; the likeliest tokens if none is given.

    Raises:
        QwenError: a checkpoint that cannot draft or chat; numbers that do not go together.
    """

    _esm, _css = sources("drafts_explorer")
    position = ("token", "drafts")

    token, drafts = (Place().tag(sync=True) for _ in range(2))

    def __init__(self, qwen, messages, *, draft_tokens: int = 3, most: int = 4, token: int = 0,
                 thinking: bool | None = None, max_new_tokens: int = 64, **options):
        if not hasattr(qwen, "chat"):
            raise QwenError(f"DraftExplorer needs what minqwen.load() gives, not a {type(qwen).__name__}.")
        if not isinstance(most, int) or not 1 <= most <= 8:
            raise QwenError(f"DraftExplorer has room for 1 to 8 drafts a pass: most must be one of these, not "
                            f"{most!r}.")
        if not isinstance(max_new_tokens, int) or not 1 <= max_new_tokens <= 160:
            raise QwenError(f"DraftExplorer has room for answers of 1 to 160 tokens: max_new_tokens must be one of "
                            f"these, not {max_new_tokens!r}.")
        check_drafts(qwen.model)
        inputs, self.runs = qwen.inputs(messages, thinking), {}             # drafts a pass -> its passes
        for n in range(1, most + 1):
            self.runs[n] = []
            generate(qwen.model, [inputs.ids], **inputs.media, draft_tokens=n, passes=self.runs[n],
                     max_new_tokens=max_new_tokens, stop_ids=qwen.tokenizer.stop_ids, **{"seed": 0, **options})
        special = set(qwen.tokenizer.added_tokens.values())

        def told(ids):
            return [{"text": qwen.tokenizer.decode([id], skip_special_tokens=False), "special": id in special}
                    for id in ids]

        super().__init__(story={
            "title": "How each token came", "row": ROW, "rows": most + 1, "wide": WIDE, "bars": BARS,
            "colours": {"light": colours(), "dark": colours(dark=True)},
            "runs": [{"passes": [one._asdict() | {"drafted": told(one.drafted), "given": told(one.given)}
                                 for one in passes],
                      "ways": ways(passes), "summary": summary(passes)} for passes in self.runs.values()],
        })
        self.drafts = draft_tokens
        self.token = token

    def page_names(self) -> list[str]:
        return []                                                           # the story says it all

    # -------------------------------------------------------------------------------------------- what can be had of it

    def where(self, token: int | None = None, drafts: int | None = None) -> tuple[int, int]:
        """The pass that gave a token of the answer, and which of its tokens that is; both from 0."""
        token, drafts = self._place(token, drafts)
        for number, one in enumerate(self.runs[drafts]):
            if token < len(one.given):
                return number, token
            token -= len(one.given)

    def still(self, token: int | None = None, drafts: int | None = None) -> tuple[Figure, str]:
        """What it shows, as a figure that stands still, and its description."""
        token, drafts = self._place(token, drafts)
        run, (number, _), came = self.story["runs"][drafts - 1], self.where(token, drafts), self._summed_up(drafts)
        figure = stills.drafts(run["passes"], number, came)
        return figure, (
            f"An answer of {len(run['ways'])} tokens, each with a mark for how it came: {came}. Below, pass "
            f"{number + 1} of {len(run['passes'])}: how likely its drafts are to the head, and to the model, which "
            f"takes {run['passes'][number]['taken']} of {len(run['passes'][number]['drafted'])}.")

    def _summed_up(self, drafts) -> str:
        done = self.story["runs"][drafts - 1]["summary"]
        return f"{done['tokens']} tokens in {done['passes']} passes behind the prompt, with {drafts} drafts for each"

    # ----------------------------------------------------------------------------------------------- numbers and places

    @traitlets.validate("token", "drafts")
    def _validate(self, proposal):
        return self._checked(proposal["trait"].name, proposal["value"])

    @traitlets.observe("drafts")
    def _keep_to_the_answer(self, change):                                  # drawn answers differ in their lengths
        self.token = min(self.token, len(self.story["runs"][self.drafts - 1]["ways"]) - 1)

    def _place(self, token, drafts) -> tuple[int, int]:
        """A token of the answer and a number of drafts; where one is None, our own."""
        drafts = self.drafts if drafts is None else self._checked("drafts", drafts)
        tokens = len(self.story["runs"][drafts - 1]["ways"])
        return (min(self.token, tokens - 1) if token is None else self._checked("token", token, tokens)), drafts

    def _checked(self, name, value, tokens=None):
        value = whole(name, value)
        runs = self.story["runs"]
        if name == "drafts" and value not in range(1, len(runs) + 1):
            raise QwenError(f"The answer was written with 1 to {len(runs)} drafts a pass, and not with {value}: "
                            f"most=... says up to how many.")
        if name == "token":
            tokens = tokens or (len(runs[self.drafts - 1]["ways"]) if self.drafts else 1)
            if value not in range(tokens):
                raise QwenError(f"There is no token {value} in the answer; the last is {tokens - 1}.")
        return value

    def __repr__(self) -> str:
        return f"DraftExplorer({self._summed_up(self.drafts)})"
