"""A rehearsal of `MINQWEN_CHECKPOINT=Qwen/Qwen3.5-0.8B make lessons-with-checkpoint`, without the official weights.

`transformers` saves a random model in the official layout that shares nothing with the nano model but the architecture:
the head counts are 0.8B's, it has a vision tower, bfloat16 weights, another vocabulary and another chat template. The
lessons must run on it, every check included. What is not rehearsed: sensible answers, and the official weights' scale.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from notebooks_support import NOTEBOOKS, lessons
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ("<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> "
           "<|video_pad|>").split()
NOT_SPECIAL = "<tool_call> </tool_call> <tool_response> </tool_response> <think> </think>".split()  # tokens, but shown

# The official tokenizer's way of cutting text into words.
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")

# Written here, in the official form: no thinking unless asked for, and then an empty think block.
TEMPLATE = """\
{%- macro text(content) %}
    {%- if content is string %}{{- content }}
    {%- else %}
        {%- for part in content %}
            {{- part.text if 'text' in part else '<|vision_start|><|' ~ part.type ~ '_pad|><|vision_end|>' }}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{- tool | tojson }}{% endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + text(message.content) + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is true %}{{- '<think>\\n' }}
    {%- else %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
"""

TEXT = """The gated delta rule keeps a memory of fixed size. A key asks, the memory answers, the error is written back,
so that what was there before goes and the new value stays; a gate lets everything fade a little with every token.
Attention keeps all keys and values instead and looks at every one of them again. Tokens are pieces of words, words are
made of letters, and letters of bytes: naïve café, größer, 東京, привет. Ann has a red cup and Bob a blue hat."""


def make_tokenizer():
    """A byte-level BPE of a few hundred tokens, trained on the text above."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=450, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in NOT_SPECIAL])
    return tokenizer


def make_checkpoint(folder):
    """Save it, by `transformers` alone: nothing of ours may be what makes it loadable by us."""
    transformers = pytest.importorskip("transformers")
    tokenizer = make_tokenizer()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE)
    wrapped.save_pretrained(folder)

    at = tokenizer.token_to_id
    text = dict(
        vocab_size=tokenizer.get_vocab_size() + 10,                        # padded, as the official ones are
        hidden_size=128, intermediate_size=256, num_hidden_layers=4, max_position_embeddings=4096,
        num_attention_heads=8, num_key_value_heads=2, head_dim=64,
        linear_num_key_heads=16, linear_num_value_heads=16, linear_key_head_dim=32, linear_value_head_dim=32,
        rope_parameters=dict(rope_type="default", rope_theta=10_000_000, partial_rotary_factor=0.25,
                             mrope_interleaved=True, mrope_section=[3, 3, 2]),
        tie_word_embeddings=True, eos_token_id=at("<|endoftext|>"), dtype="bfloat16")
    vision = dict(depth=1, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=128)
    config = transformers.Qwen3_5Config(
        text_config=text, vision_config=vision, tie_word_embeddings=True, image_token_id=at("<|image_pad|>"),
        video_token_id=at("<|video_pad|>"), vision_start_token_id=at("<|vision_start|>"),
        vision_end_token_id=at("<|vision_end|>"))
    torch.manual_seed(0)
    model = transformers.Qwen3_5ForConditionalGeneration(config).to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if re.search(r"A_log|linear_attn\.norm", name):                    # float32, as in the official checkpoints
            parameter.data = parameter.data.float()
        if name.endswith("dt_bias"):                                       # ones would wipe the memory at every token
            parameter.data.uniform_(-7, -2)
    model.generation_config = transformers.GenerationConfig(eos_token_id=[at("<|im_end|>"), at("<|endoftext|>")])
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def test_it_is_the_official_layout(checkpoint):
    """The rehearsal is worth something: names, types and files are those of an official checkpoint."""
    from safetensors import safe_open
    files = {path.name for path in checkpoint.iterdir()}
    assert files >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                     "tokenizer_config.json", "chat_template.jinja"}
    with safe_open(checkpoint / "model.safetensors", "pt") as tensors:
        kinds = {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}
    layer = "model.language_model.layers.0.linear_attn."
    assert kinds[layer + "A_log"] == kinds[layer + "norm.weight"] == "F32"
    assert kinds[layer + "in_proj_qkv.weight"] == kinds["model.language_model.embed_tokens.weight"] == "BF16"
    assert any(name.startswith("model.visual.") for name in kinds) and "lm_head.weight" not in kinds


@pytest.fixture(scope="module")
def with_a_head(checkpoint, tmp_path_factory):
    """The same with a head for multi-token prediction, as the official ones have it, and `transformers` saves none."""
    from safetensors.torch import load_file, save_file
    folder = tmp_path_factory.mktemp("with_a_head")
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    tensors, random = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(0)
    layer = {name: x for name, x in tensors.items() if name.startswith("model.language_model.layers.3.")}
    head = {name.replace("model.language_model.layers.3.", "mtp.layers.0."): x.clone() for name, x in layer.items()}
    head["mtp.fc.weight"] = 0.06 * torch.randn(128, 256, generator=random)
    for norm in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        head[f"mtp.{norm}.weight"] = 0.3 * torch.randn(128, generator=random)
    save_file(tensors | {name: x.bfloat16() for name, x in head.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["mtp_num_hidden_layers"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_lesson_on_drafts_with_a_head(with_a_head, repository):
    test_lesson(NOTEBOOKS / "10_multi_token_prediction.ipynb", with_a_head, repository)


@pytest.mark.parametrize("lesson", lessons(), ids=lambda path: path.stem)
def test_lesson(lesson, checkpoint, repository):
    """`make lessons-with-checkpoint` itself, on one lesson; -o: make need not look after the environment it runs in."""
    done = subprocess.run(
        ["make", "-o", ".venv/.ready", f"PY={sys.executable}", f"LESSONS={lesson}", "lessons-with-checkpoint"],
        cwd=repository, env={**os.environ, "MAKEFLAGS": "", "MINQWEN_CHECKPOINT": str(checkpoint)},
        capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:] + done.stderr[-1000:]
