"""The processors of `transformers` for the tests of ours: a chat with pictures and clips as they make it."""

from tempfile import TemporaryDirectory

import pytest
from test_lessons_with_checkpoint import make_tokenizer

from minqwen.media import Processor, Settings
from minqwen.tokenizer import Tokenizer

# Written here, in the official form. %s is what stands for a clip.
TEMPLATE = """\
{%%- for message in messages %%}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%%- for item in message.content %%}
        {%%- if item.type == 'image' %%}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
        {%%- elif item.type == 'video' %%}{{- '%s' }}
        {%%- else %%}{{- item.text }}{%% endif %%}
    {%%- endfor %%}
    {{- '<|im_end|>\\n' }}
{%%- endfor %%}
"""
WRAPPED, BARE = "<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>"

# The settings of a small model: 16 x 16 pixels are one token, and there are 16 to 36 of them.
SMALL = Processor(Settings(4_096, 9_216, patch_size=8), Settings(4_096, 36_864, patch_size=8))

FOR_CLIPS = ("do_sample_frames", "fps", "min_frames", "max_frames", "cap_pixels_per_frame", "max_video_tokens")


def official_dict(settings: Settings) -> dict:
    """Settings as they stand in an official preprocessor_config.json."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(settings).items()}
    return values | {"size": {name: values.pop(name) for name in ("shortest_edge", "longest_edge")}}


def official_processor(processor: Processor, clip: str = WRAPPED):
    """Qwen3VLProcessor with the settings of ours, a small tokenizer, and a template that writes `clip` for a clip."""
    transformers = pytest.importorskip("transformers", minversion="5.23")
    pytest.importorskip("torchvision")
    with TemporaryDirectory() as folder:                  # as AutoTokenizer makes it: with the official cut into words
        make_tokenizer().save(f"{folder}/tokenizer.json")
        tokenizer = transformers.Qwen3_5Tokenizer.from_pretrained(
            folder, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    image, video = official_dict(processor.image), official_dict(processor.video)
    image = {name: value for name, value in image.items() if name not in FOR_CLIPS}
    return transformers.Qwen3VLProcessor(
        transformers.Qwen2VLImageProcessor(**image), tokenizer, transformers.Qwen3VLVideoProcessor(**video),
        chat_template=TEMPLATE % clip)


def our_tokenizer(clip: str = WRAPPED) -> Tokenizer:
    return Tokenizer(make_tokenizer(), TEMPLATE % clip)
