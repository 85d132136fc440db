"""The numbers of a model: what `config.json` says, what they demand of each other, and the published sizes.

    Config.named("Qwen3.5-4B")                  # official numbers, no download
    Config.from_dict(json)                      # an official config.json
    config.to_dict()                            # and back
"""

from dataclasses import asdict, dataclass, field, fields


@dataclass
class TextConfig:
    """The language model's numbers, under their names in `config.json` (`text_config`)."""

    vocab_size: int = 248320
    hidden_size: int = 4096
    intermediate_size: int = 12288
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
        if self.layer_types is None:
            self.layer_types = ["full_attention" if (i + 1) % self.full_attention_interval == 0 else "linear_attention"
                                for i in range(self.num_hidden_layers)]
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
            (self.hidden_act == "silu", f"hidden_act must be 'silu', not {self.hidden_act!r}"),
            (rope.get("rope_type", "default") == "default",
             f"rope_type must be 'default', not {rope.get('rope_type')!r}"),
        ]
        _check_demands(demands)

    @property
    def rotary_dim(self) -> int:
        """How many of an attention head's `head_dim` dimensions are rotated."""
        return int(self.head_dim * self.rope_parameters.get("partial_rotary_factor", 0.25))


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
        text, vision = self.text_config, self.vision_config
        _check_demands([(vision is None or vision.out_hidden_size == text.hidden_size,
                         f"out_hidden_size ({vision and vision.out_hidden_size}) must be the language model's "
                         f"hidden_size ({text.hidden_size})")])

    @property
    def tie_word_embeddings(self) -> bool:
        return self.text_config.tie_word_embeddings

    @classmethod
    def from_dict(cls, official: dict) -> "Config":
        """Read an official `config.json`: a whole model's (`qwen3_5`) or a language model's alone (`qwen3_5_text`).

        Raises:
            ValueError: another model type, or numbers that do not fit together; says which.
        """
        kind = official.get("model_type")
        if kind not in ("qwen3_5", "qwen3_5_text"):
            raise ValueError(f"The model type is {kind!r}, but this package reads dense Qwen3.5: 'qwen3_5' and "
                             f"'qwen3_5_text'.")
        text = dict(official["text_config"] if kind == "qwen3_5" else official)
        # a file may hold the tying inside, outside, or in both places: the whole model's word counts
        text["tie_word_embeddings"] = official.get("tie_word_embeddings", text.get("tie_word_embeddings", False))

        def known(numbers, config):
            names = {f.name for f in fields(config)}
            return config(**{name: value for name, value in numbers.items() if name in names and value is not None})

        vision = official.get("vision_config")
        ids = {f.name: official[f.name] for f in fields(cls) if f.name.endswith("_token_id") and f.name in official}
        return cls(known(text, TextConfig), None if vision is None else known(vision, VisionConfig), **ids)

    @classmethod
    def named(cls, name: str) -> "Config":
        """The configuration of a published dense model, such as "Qwen3.5-4B", without a download.

        Raises:
            ValueError: no such name; lists those there are.
        """
        name = name.removeprefix("Qwen/").removesuffix("-Base")
        if name not in OFFICIAL_SIZES:
            raise ValueError(f"There is no configuration named {name!r}; there are {', '.join(OFFICIAL_SIZES)}.")
        text, vision = OFFICIAL_SIZES[name]
        return cls(TextConfig(**text, mtp_num_hidden_layers=1), VisionConfig(**vision))

    def to_dict(self) -> dict:
        """The official `config.json` again, which `transformers` reads too."""
        official = {k: v for k, v in asdict(self).items() if v is not None}
        official["text_config"] |= {"model_type": "qwen3_5_text"}
        if self.vision_config is not None:
            official["vision_config"] |= {"model_type": "qwen3_5_vision"}
        return {"architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5",
                "tie_word_embeddings": self.tie_word_embeddings} | official

    def __repr__(self) -> str:
        t = self.text_config
        delta = (f"{t.linear_num_key_heads}:{t.linear_num_value_heads} heads of "
                 f"{t.linear_key_head_dim}x{t.linear_value_head_dim}")
        attention = f"{t.num_attention_heads}:{t.num_key_value_heads} heads of {t.head_dim}"
        return (f"Config({t.num_hidden_layers} layers of width {t.hidden_size}: "
                f"{t.layer_types.count('linear_attention')} Gated DeltaNet ({delta}), "
                f"{t.layer_types.count('full_attention')} attention ({attention}); vocabulary {t.vocab_size})")


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
