"""The nano model's tokenizer and chat template, in the official files' form.

Byte-level BPE with exactly the official cut into words, its normal form and its special tokens, by name and in their
order - whoever builds the official tokenizer around this vocabulary reads what we read. The merges are learnt from the
world, so that each of its words is one token, with a space before it and without, with a capital and without.
"""

import json
import re
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ..files import write_whole
from ..official import WORDS
from . import pictures, world

# the official added tokens, in the order of their ids; the second group counts as text, not as "special"
SPECIAL = ("endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end "
           "vision_start vision_end vision_pad image_pad video_pad").split()
ADDED = ([AddedToken(f"<|{name}|>", special=True, normalized=False) for name in SPECIAL]
         + [AddedToken(f"<{tag}>", special=False, normalized=False)
            for tag in "tool_call /tool_call tool_response /tool_response think /think".split()])
FLAGS = "content", "lstrip", "normalized", "rstrip", "single_word", "special"   # of an added token, in the files

TEMPLATE = """\
{#- The chat format of Qwen3.5, written for the nano model: <|im_start|>role, the text, <|im_end|>. An answer begins
    with its think block, empty when there is no thinking; those before the last question of a user are left out.
    Tools stand in the system turn, a call in the assistant's, its result in a user's turn, which is no question. -#}
{%- macro text(content) %}
    {%- if content is string %}{{ content }}
    {%- elif content is iterable %}
        {%- for part in content %}
            {%- if part is string %}{{ part }}
            {%- elif part.type == "image" or (part.image | default(none)) is not none %}
                {{- "<|vision_start|><|image_pad|><|vision_end|>" }}
            {%- elif part.type == "video" or (part.video | default(none)) is not none %}
                {{- "<|vision_start|><|video_pad|><|vision_end|>" }}
            {%- elif "text" in part %}{{ part.text if part.text is not none else "" }}
            {%- else %}{{ raise_exception("A part of a message must be a text, an image or a video.") }}
            {%- endif %}
        {%- endfor %}
    {%- elif content %}{{ raise_exception("A message's content must be a text or a list of parts.") }}
    {%- endif %}
{%- endmacro %}
{%- if not messages %}{{ raise_exception("There are no messages to answer.") }}{% endif %}
{%- set ns = namespace(last_user=-1) %}
{%- for message in messages %}
    {%- set content = text(message.content) | trim %}
    {%- set is_result = content.startswith("<tool_response>") and content.endswith("</tool_response>") %}
    {%- if message.role == "user" and not is_result %}{% set ns.last_user = loop.index0 %}{% endif %}
{%- endfor %}
{%- if ns.last_user < 0 %}{{ raise_exception("There is no user message to answer.") }}{% endif %}
{%- if tools %}
    {{- "<|im_start|>system\\n<tools>\\n" }}
    {%- for tool in tools %}{{ tool | tojson + "\\n" }}{% endfor %}
    {{- "</tools>\\n\\n@HOW_TO_CALL@" }}
    {%- if messages[0].role == "system" %}{{ "\\n\\n" + text(messages[0].content) | trim }}{% endif %}
    {{- "<|im_end|>\\n" }}
{%- endif %}
{%- for message in messages %}
    {%- set content = text(message.content) | trim %}
    {%- if message.role == "system" %}
        {%- if not loop.first %}{{ raise_exception("The system message must come first.") }}{% endif %}
        {%- if not tools %}{{ "<|im_start|>system\\n" + content + "<|im_end|>\\n" }}{% endif %}
    {%- elif message.role == "user" %}
        {{- "<|im_start|>user\\n" + content + "<|im_end|>\\n" }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or loop.previtem.role != "tool" %}{{ "<|im_start|>user" }}{% endif %}
        {{- "\\n<tool_response>\\n" + content + "\\n</tool_response>" }}
        {%- if loop.last or loop.nextitem.role != "tool" %}{{ "<|im_end|>\\n" }}{% endif %}
    {%- elif message.role == "assistant" %}
        {%- set thinking = message.reasoning_content or "" %}
        {%- if message.reasoning_content is not string and "</think>" in content %}
            {%- set thinking = content.split("</think>")[0].split("<think>")[-1] %}
            {%- set content = content.split("</think>")[-1] | trim %}
        {%- endif %}
        {{- "<|im_start|>assistant\\n" }}
        {%- if loop.index0 > ns.last_user %}{{ "<think>\\n" + thinking | trim + "\\n</think>\\n\\n" }}{% endif %}
        {{- content }}
        {%- for tool_call in message.tool_calls or [] %}
            {%- set function = tool_call.function or tool_call %}
            {%- if not loop.first %}{{ "\\n" }}{% elif content %}{{ "\\n\\n" }}{% endif %}
            {{- "<tool_call>\\n<function=" + function.name + ">\\n" }}
            {%- for name, value in (function.arguments or {}) | items %}
                {{- "<parameter=" + name + ">\\n" }}
                {{- (value if value is string else value | tojson) + "\\n</parameter>\\n" }}
            {%- endfor %}
            {{- "</function>\\n</tool_call>" }}
        {%- endfor %}
        {{- "<|im_end|>\\n" }}
    {%- else %}
        {{- raise_exception("A message's role must be system, user, assistant or tool, not " + message.role + ".") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\\n<think>\\n" }}
    {%- if not (enable_thinking is defined and enable_thinking) %}{{ "\\n</think>\\n\\n" }}{% endif %}
{%- endif %}
""".replace("@HOW_TO_CALL@", world.HOW_TO_CALL)

# what the pictures and clips become; 16 x 16 pixels, four patches, are one token
PATCHES = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2,
           "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "processor_class": "Qwen3VLProcessor"}
IMAGES = {"size": {"shortest_edge": 4096, "longest_edge": 9216}, **PATCHES,
          "image_processor_type": "Qwen2VLImageProcessorFast"}
VIDEOS = {"size": {"shortest_edge": 4096, "longest_edge": 36864}, **PATCHES, "do_sample_frames": False, "fps": 2,
          "video_processor_type": "Qwen3VLVideoProcessor"}


def build_tokenizer() -> Tokenizer:
    """Bytes, then merges until every word of the world is one token, then the added tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    rng = Random(0)
    words = [*world.NAMES, *(name.lower() for name in world.NAMES), *world.COLOURS, *world.THINGS, *world.PLACES,
             *pictures.SHAPES, "up", "down"]
    stories = [text for n in range(400) for conversation in (
                   world.facts_conversation(rng, 12, 4, thinking=n % 4 == 0),
                   world.sums_conversation(rng, thinking=True),
                   world.picture_conversation(rng, 6, thinking=n % 4 < 2, film=n % 2 == 0),
                   world.tools_conversation(rng, thinking=n % 2 == 0, renamed=0.2))
               for text, _ in world.pieces(world.typed(rng, conversation) if n % 4 == 3 else conversation)]
    phrases = [*world.GREETINGS, world.INTRODUCTION, world.WELCOME, world.UNDERSTOOD, world.NOBODY_KNOWS, world.BEYOND,
               world.NO_CALCULATOR, world.NOTHING_TO_THINK, world.NOT_TOLD,
               "user", "assistant", "system", "\n\n", "\n", "<0.2 seconds>"]
    corpus = [*stories, *(40 * phrases), *(40 * words), *(" " + word for word in 40 * words)]
    added = re.compile("|".join(re.escape(token.content) for token in ADDED))
    corpus = [part for text in corpus for part in added.split(text)]
    trainer = trainers.BpeTrainer(vocab_size=10_000, min_frequency=20, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens(ADDED)
    return tokenizer


def save_tokenizer(folder: str | Path, media: bool = True) -> Tokenizer:
    """Write tokenizer.json, chat_template.jinja and the settings beside them into `folder`.

    These are tokenizer_config.json, generation_config.json, and with `media` for pictures and clips
    preprocessor_config.json and video_preprocessor_config.json.
    """
    folder, tokenizer = Path(folder), build_tokenizer()
    settings = {                                        # with the official keys, so that others find what they look for
        "tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "add_bos_token": False,
        "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
        "clean_up_tokenization_spaces": False, "errors": "replace", "split_special_tokens": False,
        "model_max_length": 4096, "additional_special_tokens": [f"<|{name}|>" for name in SPECIAL[1:]],
        "extra_special_tokens": {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>",
                                 "vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>"},
        "added_tokens_decoder": {id: {name: getattr(token, name) for name in FLAGS}
                                 for id, token in tokenizer.get_added_tokens_decoder().items()},
    }
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    generation = {"bos_token_id": pad, "do_sample": False, "eos_token_id": [end, pad], "pad_token_id": pad}
    files = {"tokenizer_config": settings, "generation_config": generation}
    if media:
        files |= {"preprocessor_config": IMAGES, "video_preprocessor_config": VIDEOS}
    write_whole(folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
    write_whole(folder / "chat_template.jinja", TEMPLATE.encode())
    for name, content in files.items():
        write_whole(folder / f"{name}.json", (json.dumps(content, indent=2) + "\n").encode())
    return tokenizer
