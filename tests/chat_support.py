"""For tests of chats: a small tokenizer and chat template in the official form, and a model that says what it is told.

The template knows what the official one knows - tools and calls, their results, pictures and clips, think blocks that
are kept since the last question - and is off by default, as that of 0.8B and 2B. It is written here.
"""

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from minqwen.tokenizer import Tokenizer

SPECIAL = "endoftext im_start im_end vision_start vision_end image_pad video_pad".split()
TAGS = "tool_call /tool_call tool_response /tool_response think /think".split()

TEMPLATE = """
{%- macro text(content) %}
    {%- if content is string %}{{- content | trim }}
    {%- else %}
        {%- for part in content %}
            {{- part.text if 'text' in part else '<|vision_start|><|' ~ part.type ~ '_pad|><|vision_end|>' }}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- set last = namespace(question=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set last.question = loop.index0 %}{% endif %}
{%- endfor %}
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- for tool in tools %}{{ tool | tojson ~ '\n' }}{% endfor %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {%- if loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
        {{- '\n<tool_response>\n' ~ text(message.content) ~ '\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
        {%- continue %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\n' }}
    {%- if message.role == 'assistant' and loop.index0 > last.question %}
        {{- '<think>\n' ~ (message.reasoning_content or '') | trim ~ '\n</think>\n\n' }}
    {%- endif %}
    {{- text(message.content) }}
    {%- for tool_call in message.tool_calls or [] %}
        {%- set function = tool_call.function or tool_call %}
        {{- ('\n' if not loop.first else '\n\n' if message.content | trim else '') ~ '<tool_call>\n' }}
        {{- '<function=' ~ function.name ~ '>\n' }}
        {%- for name, value in function.arguments | items %}
            {{- '<parameter=' ~ name ~ '>\n' ~ (value if value is string else value | tojson) ~ '\n</parameter>\n' }}
        {%- endfor %}
        {{- '</function>\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' ~ ('<think>\n' if enable_thinking else '<think>\n\n</think>\n\n') }}
{%- endif %}
"""


def byte_tokenizer(template: str = TEMPLATE) -> Tokenizer:
    """A token for each byte, and the official names."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = FastTokenizer(models.BPE({character: id for id, character in enumerate(alphabet)}, []))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(f"<|{name}|>") for name in SPECIAL])
    fast.add_tokens([AddedToken(f"<{name}>", special=False) for name in TAGS])
    return Tokenizer(fast, template, {"eos_token": "<|im_end|>"})


def written(name: str, **arguments: str) -> str:
    """A call as a model writes it."""
    text = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{text}</function>\n</tool_call>"
