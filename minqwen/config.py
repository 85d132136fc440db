"""The numbers of a model: what `config.json` says, what they demand of each other, and the published sizes.

    Config.named("Qwen3.5-4B")                  # official numbers, no download
    Config.from_dict(json)                      # an official config.json
    config.to_dict()                            # and back
    config.with_context(1_010_000)              # for longer texts, by YaRN

Whatever a file says is understood, known to change nothing, or refused. Of a key that nobody here knows there is a
warning.
"""

import math
import sys
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Real

from .errors import QwenError, remark

DTYPES = ("float32", "bfloat16", "float16", "float64")
MOST, MOST_LAYERS = 2**31 - 1, 1000                      # of any size; of layers, which are built one by one

ONLY = {  # keys in which this architecture leaves no choice, with the values that mean it; null is as good as no key
    "attn_output_gate": [True], "output_gate_type": ["swish", "silu"], "mlp_only_layers": [[]],
    "decoder_sparse_step": [1], "norm_topk_prob": [True], "mtp_use_dedicated_embeddings": [False],
    "mamba_ssm_dtype": ["float32"], "use_sliding_window": [False], "sliding_window": [], "per_layer_config": [{}, []],
}  # fmt: skip
HARMLESS = {  # keys that change nothing of what is computed here, or that somebody else reads
    "architectures", "model_type", "transformers_version", "_name_or_path", "initializer_range", "attention_dropout",
    "use_cache", "pad_token_id", "bos_token_id", "return_dict", "output_hidden_states", "output_attentions",
    "chunk_size_feed_forward", "is_encoder_decoder", "id2label", "label2id", "problem_type", "unsloth_fixed",
    "unsloth_version", "torch_dtype", "dtype", "tie_word_embeddings", "language_model_only", "quantization_config",
    "output_router_logits",
}  # fmt: skip
SAID = {  # what else official files say of every model, and other engines look for
    "attention_dropout": 0.0, "attn_output_gate": True, "initializer_range": 0.02, "mamba_ssm_dtype": "float32",
    "mlp_only_layers": [], "mtp_use_dedicated_embeddings": False, "use_cache": True,
}  # fmt: skip
BESIDE = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")    # rotary settings, at home in
ROTARY = {"rope_parameters", "rope_scaling", *BESIDE}    # one of the first two, and found beside them
ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved"}
YARN = {  # numbers beside those where rope_type is "yarn" (and "truncate", true or false); the least that each may be
    "factor": 1, "original_max_position_embeddings": 1, "beta_fast": 0, "beta_slow": 0, "attention_factor": 0,
    "mscale": 0, "mscale_all_dim": 0,
}  # fmt: skip
OTHERS = {"qwen4_exp": ", whose layers are others"}    # models that are easily taken for this one
EXPERTS = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size")
OF_MIXTURES = (*EXPERTS, "router_aux_loss_coef")         # what a dense model has not
MIXTURE = {  # what is meant where the config.json of a mixture of experts is silent, and a dense one means the 9B
    "hidden_size": 2048, "num_hidden_layers": 40, "num_key_value_heads": 2, "num_experts": 256,
}


@dataclass
class TextConfig:
    """The language model's numbers, under their names in `config.json` (`text_config`)."""

    vocab_size: int = 248320
    hidden_size: int = 4096
    intermediate_size: int = 12288                      # of the MLP in each layer, where there are no experts
    num_experts: int = 0                                # 0: dense
    num_experts_per_tok: int = 8
    moe_intermediate_size: int = 512                    # of each expert
    shared_expert_intermediate_size: int = 512          # of the one that works on every token
    router_aux_loss_coef: float = 0.001                 # of the balancing loss in training, see `routing.py`
    num_hidden_layers: int = 32
    layer_types: list[str] | None = None                # each "linear_attention" or "full_attention"; if None, every
    full_attention_interval: int = 4                    # fourth is full attention
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    head_dim: int = 256
    attention_bias: bool = False
    linear_num_key_heads: int = 16
    linear_num_value_heads: int = 32
    linear_key_head_dim: int = 128
    linear_value_head_dim: int = 128
    linear_conv_kernel_dim: int = 4
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 262144
    rope_parameters: dict = field(default_factory=lambda: {
        "rope_type": "default", "rope_theta": 10_000_000, "partial_rotary_factor": 0.25,
        "mrope_interleaved": True, "mrope_section": [11, 11, 10],
    })
    tie_word_embeddings: bool = False
    mtp_num_hidden_layers: int = 0
    eos_token_id: int | list[int] | None = 248044
    dtype: str = "bfloat16"

    def __post_init__(self):
        _settle(self)
        if self.layer_types is None:
            self.layer_types = _every(self.full_attention_interval, self.num_hidden_layers)
        elif not self.regular and "full_attention" in self.layer_types:     # they count, and the interval follows them
            self.full_attention_interval = self.layer_types.index("full_attention") + 1
        rope, heads, value_heads = self.rope_parameters, self.num_attention_heads, self.linear_num_value_heads
        kinds = set(self.layer_types)
        demands = [
            (len(self.layer_types) == self.num_hidden_layers,
             f"layer_types must name {self.num_hidden_layers} layers (num_hidden_layers), not {len(self.layer_types)}"),
            (kinds <= {"linear_attention", "full_attention"},
             f"layer_types may hold 'linear_attention' and 'full_attention', not {', '.join(sorted(kinds))}"),
            (heads % self.num_key_value_heads == 0,
             f"num_attention_heads ({heads}) must be a multiple of num_key_value_heads ({self.num_key_value_heads})"),
            (value_heads % self.linear_num_key_heads == 0,
             f"linear_num_value_heads ({value_heads}) must be a multiple of linear_num_key_heads "
             f"({self.linear_num_key_heads})"),
            (not self.num_experts or self.num_experts_per_tok <= self.num_experts,
             f"num_experts_per_tok ({self.num_experts_per_tok}) must be at most num_experts ({self.num_experts})"),
            (self.hidden_act in ("silu", "swish"), f"hidden_act must be 'silu', not {self.hidden_act!r}"),  # two names
            (self.dtype in DTYPES, f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}"),
            *_rope_demands(rope),
        ]
        _check_demands(demands)
        if rope.get("rope_type") == "yarn":
            self._settle_yarn()
        _check_demands([(self.rotary_dim % 2 == 0,
                         f"partial_rotary_factor ({rope.get('partial_rotary_factor')}) must turn an even number of a "
                         f"head's {self.head_dim} dimensions, not {self.rotary_dim}")])

    @property
    def regular(self) -> bool:
        """Does `full_attention_interval` say what `layer_types` does? Some engines read the one, some the other."""
        return self.layer_types == _every(self.full_attention_interval, self.num_hidden_layers)

    @property
    def rotary_dim(self) -> int:
        """How many of an attention head's `head_dim` dimensions are rotated."""
        return int(self.head_dim * self.rope_parameters.get("partial_rotary_factor", 0.25))

    @property
    def attention_factor(self) -> float:
        """What YaRN multiplies cosines and sines by, so that softmax over more tokens stays as sharp; 1 without YaRN.

        Source: Peng et al. 2023 (arXiv 2309.00071), equation 22; `mscale` is DeepSeek's.
        """
        rope = self.rope_parameters
        if rope.get("rope_type") != "yarn":
            return 1.0
        if rope.get("attention_factor") is not None:
            return rope["attention_factor"]
        up, down = rope.get("mscale"), rope.get("mscale_all_dim")
        up, down = (up, down) if up and down else (1, 0)
        return (1 + 0.1 * up * math.log(rope["factor"])) / (1 + 0.1 * down * math.log(rope["factor"]))

    def _settle_yarn(self) -> None:
        """Fill in what YaRN's settings leave open, as `transformers` does, or say which of them cannot be."""
        given = {name: x for name, x in self.rope_parameters.items() if name in YARN and x is not None}
        truncate = self.rope_parameters.get("truncate", True)
        _check_demands([
            *((_is_number(x) and x >= YARN[name], f"{name} must be a number, {YARN[name]} or more, not {_short(x)}")
              for name, x in given.items()),
            (isinstance(truncate, bool), f"truncate must be true or false, not {_short(truncate)}"),
        ])
        original = given.get("original_max_position_embeddings", self.max_position_embeddings)
        factor = given.get("factor", self.max_position_embeddings / original)
        fast, slow = given.get("beta_fast") or 32, given.get("beta_slow") or 1
        reach, theta = factor * original, self.rope_parameters.get("rope_theta", 10_000)
        _check_demands([
            (original == int(original),
             f"original_max_position_embeddings must be a whole number, not {_short(original)}"),
            ("factor" in given or factor > 1, "YaRN needs a factor, or a max_position_embeddings above its "
                                              f"original_max_position_embeddings ({original})"),
            (fast > slow, f"beta_fast ({fast}) must be more than beta_slow ({slow})"),
            (reach <= MOST, f"factor ({factor}) times original_max_position_embeddings ({original}) must be at most "
                            f"{MOST}"),
            (theta > 1, f"with YaRN, rope_theta must be more than 1, not {_short(theta)}"),
        ])
        self.rope_parameters = self.rope_parameters | {
            "factor": factor, "original_max_position_embeddings": int(original)}
        if self.max_position_embeddings <= original:     # the model cards add YaRN's settings, and leave this as it was
            self.max_position_embeddings = int(reach)
        if self.max_position_embeddings > reach:
            remark(f"max_position_embeddings ({self.max_position_embeddings}) is more than YaRN makes room for: "
                   f"{factor} times {int(original)}.")


@dataclass
class VisionConfig:
    """The vision tower's numbers, under their names in `config.json` (`vision_config`)."""

    depth: int = 27
    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_heads: int = 16
    in_channels: int = 3
    patch_size: int = 16                                # pixels on a side
    temporal_patch_size: int = 2                        # frames that one patch spans
    spatial_merge_size: int = 2                         # patches on a side that become one token
    num_position_embeddings: int = 2304                 # a grid of 48 x 48
    out_hidden_size: int = 4096                         # the language model's hidden_size
    hidden_act: str = "gelu_pytorch_tanh"
    deepstack_visual_indexes: list[int] = field(default_factory=list)

    def __post_init__(self):
        for name in ("patch_size", "temporal_patch_size"):
            sides = getattr(self, name)
            if isinstance(sides, list) and sides and sides.count(sides[0]) == len(sides):   # [16, 16] is 16
                setattr(self, name, sides[0])
        _settle(self)
        side = round(self.num_position_embeddings ** 0.5)
        _check_demands([
            (self.hidden_size % (4 * self.num_heads) == 0,
             f"the vision tower's hidden_size ({self.hidden_size}) must be a multiple of 4 num_heads "
             f"({4 * self.num_heads}): its heads rotate in pairs, half for rows and half for columns"),
            (side * side == self.num_position_embeddings,
             f"num_position_embeddings must be a square, not {self.num_position_embeddings}"),
            (self.hidden_act == "gelu_pytorch_tanh",
             f"the vision tower's hidden_act must be 'gelu_pytorch_tanh', not {self.hidden_act!r}"),
            (not self.deepstack_visual_indexes, "deepstack_visual_indexes must be empty, as in Qwen3.5"),
        ])


def _check_demands(demands: list[tuple[bool, str]]) -> None:
    for met, demand in demands:
        if not met:
            raise ValueError(f"This configuration cannot be built: {demand}.")


def _every(interval: int, layers: int) -> list[str]:
    """The kind of each layer where every `interval`-th is full attention."""
    return ["full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(layers)]


def _is_number(x) -> bool:
    return isinstance(x, Real) and not isinstance(x, bool) and abs(x) <= sys.float_info.max


def _is_list(x, kind: type) -> bool:
    return isinstance(x, list) and all(isinstance(one, kind) and not isinstance(one, bool) for one in x)


def _settle(part) -> None:
    """Make every number of a part what its field is declared to be - 128 of 128.0 - or say which one cannot be."""
    for one in fields(part):
        name, x = one.name, getattr(part, one.name)
        least = 0 if name.endswith(("_token_id", "mtp_num_hidden_layers", "num_experts")) else 1
        most = MOST_LAYERS if name.endswith(("num_hidden_layers", "depth")) else MOST
        kinds = {
            int: (_is_number(x) and x == int(x) and least <= x <= most, f"a whole number from {least} to {most}"),
            float: (_is_number(x) and x >= 0, "a number, 0 or more"),
            bool: (isinstance(x, bool), "true or false"),
            str: (isinstance(x, str), "a text"),
            dict: (isinstance(x, dict), "an object"),
            list[int]: (_is_list(x, int), "a list of whole numbers"),
            list[str] | None: (x is None or _is_list(x, str), "a list of texts"),
            int | list[int] | None: (x is None or _is_list([x], int) or _is_list(x, int), "a whole number or several"),
        }
        if one.type in kinds:
            fits, wanted = kinds[one.type]
            _check_demands([(fits, f"{name} must be {wanted}, not {_short(x)}")])
        if one.type is int:
            setattr(part, name, int(x))


def _short(x) -> str:
    """A value for a sentence: its beginning, if it is long."""
    return text if len(text := repr(x)) <= 60 else f"{text[:60]} ..."


def _rope_demands(rope: dict) -> list[tuple[bool, str]]:
    kind, section = rope.get("rope_type", "default"), rope.get("mrope_section", [11, 11, 10])
    theta, part = rope.get("rope_theta", 1), rope.get("partial_rotary_factor", 1)
    interleaved = rope.get("mrope_interleaved", True)
    return [
        (not any(isinstance(x, dict) for x in rope.values()), "rope_parameters must be one object for all layers"),
        (kind in ("default", "yarn"), f"rope_type must be 'default' or 'yarn', not {_short(kind)}"),
        (_is_number(theta) and theta > 0, f"rope_theta must be a number above 0, not {_short(theta)}"),
        (_is_number(part) and 0 < part <= 1,
         f"partial_rotary_factor must be above 0 and at most 1, not {_short(part)}"),
        (_is_list(section, int) and len(section) == 3,
         f"mrope_section must be three whole numbers, not {_short(section)}"),
        (interleaved in (True, None), f"mrope_interleaved must be true, not {_short(interleaved)}"),
    ]


def _rope_parameters(numbers: dict) -> dict:
    """The settings of rotary positions, from all the places in which they were ever written.

    As `transformers` reads them: `rope_scaling` stands for `rope_parameters`; what neither holds may lie beside them.
    """
    rope = numbers.get("rope_scaling") or numbers.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"rope_parameters must be an object, not {_short(rope)}.")
    kind = rope.get("rope_type", rope.get("type", "default"))
    known = ROPE | ({*YARN, "truncate"} if kind == "yarn" else set())
    beside = {name: numbers[name] for name in BESIDE if name in known and name in numbers}
    original = "original_max_position_embeddings"
    if beside.get(original) is not None and rope.get(original) is not None:
        _check_demands([(rope[original] == beside[original], f"{original} is {_short(rope[original])} among the rotary "
                                                             f"settings and {_short(beside[original])} beside them")])
    rope = {"rope_theta": 10_000.0, "partial_rotary_factor": 0.25} | beside | rope | {"rope_type": kind}
    refused = kind not in ("default", "yarn") or any(isinstance(value, dict) for value in rope.values())
    if not refused:                                      # by `_rope_demands`, with all that is its own
        _remark(rope.keys() - known)
    return {name: value for name, value in rope.items() if name in known - {"type"} or isinstance(value, dict)}


def _from_old_places(text: dict, official: dict) -> dict:
    """A `text_config` with its dtype, its tying and its rotary positions where they belong."""
    # a file may hold the dtype and the tying inside, outside, or in both places: the whole model's word counts
    dtypes = (part.get(name) for part in (official, text) for name in ("dtype", "torch_dtype"))
    dtype = next((dtype for dtype in dtypes if dtype is not None), None)
    tied = next((part[name] for part in (official, text) if part.get(name := "tie_word_embeddings") is not None), None)
    return text | {"dtype": dtype.removeprefix("torch.") if isinstance(dtype, str) else dtype,
                   "tie_word_embeddings": tied, "rope_parameters": _rope_parameters(text)}


def _read_text(numbers: dict, kind: str) -> TextConfig:
    """A language model's numbers: `kind`, the model type, says whether each layer has an MLP or experts."""
    if "moe" in kind:                                    # nobody reads intermediate_size there
        numbers = MIXTURE | {name: x for name, x in numbers.items() if x is not None and name != "intermediate_size"}
        config = _read(TextConfig, numbers)
        _check_demands([(config.num_experts > 0, f"num_experts must be 1 or more in a {kind}, not 0")])
        return config
    experts = numbers.get("num_experts") or 0
    _check_demands([(experts == 0, f"num_experts must be 0 in a {kind}, not {_short(experts)}")])
    _remark(name for name in EXPERTS[1:] if numbers.get(name) is not None)
    return _read(TextConfig, {name: x for name, x in numbers.items() if name not in OF_MIXTURES})


def _read(part: type, numbers: dict):
    """A part of a configuration from its object in the file.

    Raises:
        ValueError: a value that means another model.
    """
    names = {one.name for one in fields(part)}
    numbers = {name: value for name, value in numbers.items() if value is not None}
    for name in [name for name in ONLY if name in numbers]:
        told = " or ".join(map(repr, ONLY[name])) or "absent"
        _check_demands([(numbers[name] in ONLY[name], f"{name} must be {told}, not {_short(numbers[name])}")])
    _remark(numbers.keys() - names - ONLY.keys() - HARMLESS - ROTARY)
    return part(**{name: value for name, value in numbers.items() if name in names})


def _read_vision(numbers: dict) -> VisionConfig:
    rope = _rope_parameters(numbers)
    theta, kind = rope["rope_theta"], rope["rope_type"]
    _check_demands([
        (theta == 10_000, f"the vision tower's rope_theta must be 10000, not {_short(theta)}"),
        (kind in ("default", "axial"), f"the vision tower's rope_type must be 'axial', not {_short(kind)}"),
    ])
    return _read(VisionConfig, numbers)


def _remark(unknown: Iterable[str]) -> None:
    if names := ", ".join(sorted(unknown)):
        remark(f"The configuration holds what is not known here and was not read: {names}.")


@dataclass
class Config:
    """A whole `config.json`: the language model, the vision tower if there is one, special tokens."""

    text_config: TextConfig = field(default_factory=TextConfig)
    vision_config: VisionConfig | None = None
    image_token_id: int = 248056
    video_token_id: int = 248057
    vision_start_token_id: int = 248053
    vision_end_token_id: int = 248054

    def __post_init__(self):
        _settle(self)
        text, vision = self.text_config, self.vision_config
        _check_demands([(vision is None or vision.out_hidden_size == text.hidden_size,
                         f"out_hidden_size ({vision and vision.out_hidden_size}) must be the language model's "
                         f"hidden_size ({text.hidden_size})")])

    @property
    def tie_word_embeddings(self) -> bool:
        return self.text_config.tie_word_embeddings

    @classmethod
    def from_dict(cls, official: dict) -> "Config":
        """Read an official `config.json`: a whole model's (`qwen3_5`) or a language model's alone (`qwen3_5_text`),
        and either with experts (`qwen3_5_moe`, `qwen3_5_moe_text`).

        Settings in the places where `transformers` 4 wrote them are found there, too.

        Raises:
            ValueError: another model type or another model's settings, or numbers that do not fit together; says which.
            KeyError, TypeError: this is not laid out like an official file.
        """
        kind = official.get("model_type")
        if kind not in ("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"):
            what = OTHERS.get(kind, "") if isinstance(kind, str) else ""
            raise ValueError(f"The model type is {_short(kind)}{what}, but this package reads Qwen3.5: 'qwen3_5' and "
                             f"'qwen3_5_moe', or with '_text' behind it the language model alone.")
        ids = {one.name: official[one.name] for one in fields(cls) if one.name.endswith("_token_id")
               and official.get(one.name) is not None}
        text, vision = official, None
        if not kind.endswith("_text"):
            text, vision = official["text_config"], official.get("vision_config")
            misplaced = official.keys() & ROTARY         # beside the parts these are nobody's
            _remark(official.keys() - HARMLESS - {one.name for one in fields(cls)} | misplaced)
        if official.get("language_model_only"):
            vision = None
        if not isinstance(text, dict) or not isinstance(vision, dict | None):
            raise TypeError("text_config and vision_config must be objects")
        text = _from_old_places(text, official)
        text = _read_text({name: value for name, value in text.items() if name not in ids}, kind)
        return cls(text, None if vision is None else _read_vision(vision), **ids)

    @classmethod
    def named(cls, name: str) -> "Config":
        """The configuration of a published model, such as "Qwen3.5-4B" or "Qwen3.5-35B-A3B", without a download.

        Raises:
            ValueError: no such name; lists those there are.
        """
        name = name.removeprefix("Qwen/").removesuffix("-Base")
        sizes = OFFICIAL_SIZES | OFFICIAL_MIXTURES
        if name not in sizes | SAME_AS:
            known = ", ".join(sizes | SAME_AS)
            raise ValueError(f"There is no configuration named {name!r}; there are {known}.")
        text, vision = sizes[SAME_AS.get(name, name)]
        return cls(TextConfig(**text, mtp_num_hidden_layers=1), VisionConfig(**vision))

    def with_context(self, tokens: int) -> "Config":
        """This model for texts of up to `tokens` tokens: with YaRN where they are more than it can take now.

        As the model cards do it: the factor is that of the contexts, rounded up to a whole number (4 for 1,010,000
        tokens over 262,144). Nothing is trained for it, and short texts are read with it, too.

        Raises:
            QwenError: that is no number of tokens, or this model's YaRN is tuned for the factor that it has.
        """
        text, rope = self.text_config, self.text_config.rope_parameters
        if not isinstance(tokens, int) or isinstance(tokens, bool) or not 1 <= tokens <= MOST:
            raise QwenError(f"A context is a whole number of tokens from 1 to {MOST:,}, not {_short(tokens)}.")
        if tokens <= text.max_position_embeddings:
            return self
        stretched = rope.get("rope_type") == "yarn"
        if stretched and rope.get("attention_factor") is not None:
            raise QwenError(f"This model's YaRN has an attention_factor of its own, for the factor {rope['factor']}: "
                            f"a context of {tokens:,} tokens needs another one, in rope_parameters.")
        original = rope["original_max_position_embeddings"] if stretched else text.max_position_embeddings
        yarn = {"rope_type": "yarn", "factor": float(math.ceil(tokens / original)),
                "original_max_position_embeddings": original}
        return replace(self, text_config=replace(text, rope_parameters=rope | yarn, max_position_embeddings=tokens))

    def to_dict(self) -> dict:
        """The official `config.json` again, with every key that official ones have.

        Other engines look for some of them in places of their own: SGLang and older converters of llama.cpp for
        `partial_rotary_factor` beside `rope_parameters`; SGLang and mlx-lm for `full_attention_interval`, which is
        left out where it would say another model than `layer_types`.
        """
        official = {k: v for k, v in asdict(self).items() if v is not None}
        kind, family, others = "qwen3_5", "Qwen3_5", [*OF_MIXTURES]
        if self.text_config.num_experts:
            kind, family, others = "qwen3_5_moe", "Qwen3_5Moe", ["intermediate_size"]
        if not self.text_config.regular:
            others.append("full_attention_interval")
        text = {name: x for name, x in official["text_config"].items() if name not in others}
        rotary = {"partial_rotary_factor": text["rope_parameters"].get("partial_rotary_factor", 0.25)}
        official["text_config"] = text | rotary | deepcopy(SAID) | {"model_type": f"{kind}_text"}
        if self.vision_config is not None:               # which has the whole model's type in official files
            official["vision_config"] |= {"initializer_range": SAID["initializer_range"], "model_type": kind}
        return {"architectures": [f"{family}ForConditionalGeneration"], "model_type": kind,
                "tie_word_embeddings": self.tie_word_embeddings} | official

    def __repr__(self) -> str:
        t = self.text_config
        delta = (f"{t.linear_num_key_heads}:{t.linear_num_value_heads} heads of "
                 f"{t.linear_key_head_dim}x{t.linear_value_head_dim}")
        attention = f"{t.num_attention_heads}:{t.num_key_value_heads} heads of {t.head_dim}"
        experts = f"{t.num_experts_per_tok} of {t.num_experts} experts; " if t.num_experts else ""
        return (f"Config({t.num_hidden_layers} layers of width {t.hidden_size}: "
                f"{t.layer_types.count('linear_attention')} Gated DeltaNet ({delta}), "
                f"{t.layer_types.count('full_attention')} attention ({attention}); {experts}vocabulary {t.vocab_size})")


def _size(hidden, mlp, layers, heads, kv_heads, value_heads, tied, depth, vision_hidden, vision_mlp, vision_heads):
    text = {"hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads,
            "linear_num_value_heads": value_heads, "tie_word_embeddings": tied}
    vision = {"depth": depth, "hidden_size": vision_hidden, "intermediate_size": vision_mlp,
              "num_heads": vision_heads, "out_hidden_size": hidden}
    return text, vision


OFFICIAL_SIZES = {  #    hidden    mlp  layers  Hq Hkv  Hv   tied   vision: depth  hidden   mlp  heads
    "Qwen3.5-0.8B": _size(1024,  3584,    24,   8,  2, 16,  True,            12,    768, 3072,    12),
    "Qwen3.5-2B":   _size(2048,  6144,    24,   8,  2, 16,  True,            24,   1024, 4096,    16),
    "Qwen3.5-4B":   _size(2560,  9216,    32,  16,  4, 32,  True,            24,   1024, 4096,    16),
    "Qwen3.5-9B":   _size(4096, 12288,    32,  16,  4, 32, False,            27,   1152, 4304,    16),
    "Qwen3.5-27B":  _size(5120, 17408,    64,  24,  4, 48, False,            27,   1152, 4304,    16),
}  # fmt: skip


def _mixture(hidden, experts, chosen, mlp, layers, heads, kv_heads, value_heads):
    text, vision = _size(hidden, None, layers, heads, kv_heads, value_heads, False, 27, 1152, 4304, 16)
    del text["intermediate_size"]
    return text | dict(zip(EXPERTS, (experts, chosen, mlp, mlp), strict=True)), vision


OFFICIAL_MIXTURES = {  #       hidden  experts  of them   mlp  layers  Hq Hkv  Hv
    "Qwen3.5-35B-A3B":   _mixture(2048,    256,       8,  512,     40, 16,  2, 32),
    "Qwen3.5-122B-A10B": _mixture(3072,    256,       8, 1024,     48, 32,  2, 64),
    "Qwen3.5-397B-A17B": _mixture(4096,    512,      10, 1024,     60, 32,  2, 64),
}  # fmt: skip
SAME_AS = {  # later weights of the same numbers
    "Qwen3.6-27B": "Qwen3.5-27B", "Qwen3.8-27B": "Qwen3.5-27B", "Qwen3.6-35B-A3B": "Qwen3.5-35B-A3B",
}  # fmt: skip
