"""What is chosen about a training run, as plain numbers: the recipe, and the phases it goes through.

    train(replace(Recipe(), steps=4000, mtp_weight=0.3), run="runs/mine", out="runs/mine/model")

How this one was found is told in data/nano/README.md.
"""

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Phase:
    """A part of training: what its steps read, what counts in their loss, and when the next part begins.

    Stories and sums are shares of the recipe's `tokens`, all else multiples of its `pictures`, and at least one.
    """

    name: str
    stories: float
    mixed: float = 0.1              # the share of stories in which there is a picture or a clip
    unknown: float = 0.0            # the share of stories of which half of what is asked was not told
    half_known: float = 0.0         # of that, the share about people of whom something else was told
    sums: float = 0.0
    looking_up: float = 0.0         # pictures of up to three shapes, each asked one kind of question, in running text
    pictures: float = 0.0           # pictures of which all is asked
    moving: float = 0.0             # clips that are asked, in running text, what moves, which way, or what stands still
    clips: float = 0.0              # clips of which all is asked
    calls: float = 0.0              # of the calculator
    renamed: float = 0.4            # the share of these in which it and its parameters have any names
    chatter: float = 0.0            # what has no answer in this world
    counting: float = 0.0           # pictures that are asked, in running text, how many there are
    drafts: int = 1                 # so many tokens in a row are drafted by the head for multi-token prediction
    weights: dict[str, float] = field(default_factory=dict)     # of losses, where they differ from the recipe's
    steps: int | None = None        # it ends after so many; None: it is the last one
    until_facts: int | None = None  # or sooner, once stories have grown to so many facts
    until_seen: float | None = None  # or once pictures cost no more than so many nats a token


PHASES = (
    # Stories grow from a few facts to many, with a few pictures among them from the first step on.
    Phase("stories", stories=0.8, looking_up=1 / 3, weights={"pictures": 0.2}, until_facts=30, steps=1000),
    # Half of the stories, which are known by now, make room for pictures, until what is asked for is looked up in them.
    Phase("pictures", stories=0.4, looking_up=1.5, weights={"facts": 1.5}, until_seen=0.06, steps=700),
    # Everything, and more clips than there will be, until it is known which way something moves.
    Phase("clips", stories=0.8, unknown=0.25, sums=0.2, pictures=1, moving=1 / 3, clips=3 / 8, calls=1 / 6,
          chatter=1 / 8, weights={"clips": 2.0}, steps=400),
    # Everything as it is; and from here on drafts of three tokens.
    Phase("everything", stories=0.8, unknown=0.25, half_known=0.5, sums=0.2, pictures=1, clips=3 / 8, calls=1 / 6,
          chatter=1 / 8, drafts=3, steps=220),
    # Everything, and counting by itself: its answers are short and weigh little among those about pictures.
    Phase("counting", stories=0.8, unknown=0.25, half_known=0.5, sums=0.2, pictures=1, clips=3 / 8, calls=1 / 6,
          chatter=1 / 8, counting=1 / 3, drafts=3, steps=700),
    # What comes last by itself: counting one kind of shape among others, and calculators of any name.
    Phase("kinds", stories=0.6, unknown=0.25, half_known=0.5, sums=0.15, pictures=1 / 3, clips=1 / 4, calls=1 / 3,
          renamed=0.7, chatter=1 / 12, counting=1, drafts=3, weights={"pictures": 2.0, "calculator": 0.8}, steps=300),
    # All of it together, while the learning rate goes down.
    Phase("together", stories=0.8, unknown=0.25, half_known=0.5, sums=0.2, pictures=1, clips=3 / 8, calls=1 / 4,
          renamed=0.7, chatter=1 / 4, counting=1 / 3, drafts=3),
)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. A run keeps its recipe beside its weights, and goes on with it when it is resumed."""

    seed: int = 2
    looks: int = 600                # steps of the tower by itself, before
    steps: int = 3450
    lr: float = 2e-3
    matrix_pace: float = 3.0        # the learning rate of matrices is so many times `lr`
    tower_pace: float = 0.2         # and the tower's so much of that, once it has learnt to look
    tokens: int = 4096              # of stories and sums in a step, about
    pictures: int = 24              # in a step, at last; phases count in these
    most_facts: int = 48            # in the longest story
    most_digits: int = 3            # in the longest sum without the calculator
    weights: dict[str, float] = field(default_factory=lambda: {         # of the losses
        "facts": 2.0, "unknown": 0.7, "sums": 1.0, "pictures": 1.0, "clips": 0.7, "mixed": 0.5, "calculator": 0.4,
        "chatter": 0.3})
    enough: int = 256               # learnt tokens of a kind in a step: fewer of them count less
    mtp_weight: float = 0.2         # of the loss of all drafts together, beside that of the next token
    spellings: float = 0.8          # cosine, at first, of the vectors of one word's spellings: "Ann", " Ann", " ann"
    half_lives: tuple[float, float] = (30, 2000)    # tokens: of a layer's shortest and longest memory at first
    phases: tuple[Phase, ...] = PHASES

    def to_dict(self) -> dict:
        """Numbers, texts, lists and dicts only, as JSON has them."""
        return asdict(self) | {"half_lives": list(self.half_lives), "phases": [asdict(phase) for phase in self.phases]}

    @classmethod
    def from_dict(cls, numbers: dict) -> "Recipe":
        """What `to_dict` gave."""
        return cls(**numbers | {"half_lives": tuple(numbers["half_lives"]),
                                "phases": tuple(Phase(**phase) for phase in numbers["phases"])})


EXPERTS = Recipe(                   # of the mixture of experts in data/nano_moe, which knows stories and sums alone
    looks=0, steps=1200, pictures=0, most_facts=24, weights={"facts": 2.0, "sums": 1.0},
    phases=(Phase("stories", stories=0.8, mixed=0.0, drafts=0, until_facts=15, steps=500),
            Phase("stories and sums", stories=0.5, mixed=0.0, sums=0.4, drafts=0)),
)
