"""For tests of chats: a small tokenizer and chat template in the official form, and a model that says what it is told.

The template is written here, and does with every chat what the official one does with it, but for the words in which it
explains tools, and what it says when it refuses. It is off by default, as that of 0.8B and 2B.
"""

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from minqwen.tokenizer import Tokenizer

SPECIAL = "endoftext im_start im_end vision_start vision_end image_pad video_pad".split()
TAGS = "tool_call /tool_call tool_response /tool_response think /think".split()

TEMPLATE = """
{%- set seen = namespace(image=0, video=0) %}
{%- macro picture(kind, name, system, counted) %}
    {%- if system %}{{ raise_exception('No pictures in the system message.') }}{% endif %}
    {%- if counted and kind == 'image' %}{% set seen.image = seen.image + 1 %}{% endif %}
    {%- if counted and kind == 'video' %}{% set seen.video = seen.video + 1 %}{% endif %}
    {%- if add_vision_id %}{{ name ~ ' ' ~ seen[kind] ~ ': ' }}{% endif %}
    {{- '<|vision_start|>' ~ ('<|image_pad|>' if kind == 'image' else '<|video_pad|>') ~ '<|vision_end|>' }}
{%- endmacro %}
{%- macro text(content, system=false, counted=false) %}
    {%- if content is string %}{{- content }}
    {%- elif content is mapping %}{{ raise_exception('A content is a text or a list of parts.') }}
    {%- elif content is iterable %}
        {%- for part in content %}
            {%- if part.type == 'image' or 'image' in part or 'image_url' in part %}
                {{- picture('image', 'Picture', system, counted) }}
            {%- elif part.type == 'video' or 'video' in part %}{{ picture('video', 'Video', system, counted) }}
            {%- elif 'text' in part %}{{ part.text }}
            {%- else %}{{ raise_exception('A part is a text, an image or a video.') }}
            {%- endif %}
        {%- endfor %}
    {%- elif content is not none and content is defined %}{{ raise_exception('A content is a text or parts.') }}
    {%- endif %}
{%- endmacro %}
{%- if not messages %}{{ raise_exception('There are no messages.') }}{% endif %}
{%- set last = namespace(question=none) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set said = text(message.content) | trim %}
        {%- if not (said.startswith('<tool_response>') and said.endswith('</tool_response>')) %}
            {%- set last.question = loop.index0 %}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if last.question is none %}{{ raise_exception('There is no question.') }}{% endif %}
{%- set system = text(messages[0].content, true) | trim if messages[0].role == 'system' %}
{%- if tools and tools is iterable and tools is not mapping %}
    {{- '<|im_start|>system' }}
    {%- for tool in tools %}{{ '\n' ~ tool | tojson }}{% endfor %}
    {{- '\n<tool_call></tool_call>' ~ ('\n\n' ~ system if system else '') ~ '<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' ~ system ~ '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set said = text(message.content, counted=true) | trim %}
    {%- if message.role == 'system' %}
        {%- if not loop.first %}{{ raise_exception('The system message comes first.') }}{% endif %}
    {%- elif message.role == 'user' %}
        {{- '<|im_start|>user\n' ~ said ~ '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if not loop.first and loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
        {{- '\n<tool_response>\n' ~ said ~ '\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
    {%- elif message.role == 'assistant' %}
        {%- set thought = message.reasoning_content if message.reasoning_content is string else '' %}
        {%- if message.reasoning_content is not string and '</think>' in said %}
            {%- set thought = said.split('</think>')[0].rstrip('\n').split('<think>')[-1] %}
            {%- set said = said.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > last.question or preserve_thinking is true %}
            {{- '<think>\n' ~ thought | trim ~ '\n</think>\n\n' }}
        {%- endif %}
        {{- said }}
        {%- if message.tool_calls and message.tool_calls is not mapping %}
            {%- for call in message.tool_calls %}
                {%- set call = call.function if call.function is defined else call %}
                {{- ('\n' if not loop.first else '\n\n' if said | trim else '') ~ '<tool_call>\n' }}
                {{- '<function=' + call.name + '>\n' }}
                {%- for name, value in call.arguments | items %}
                    {{- '<parameter=' + name + '>\n' }}
                    {{- (value if value is string else value | tojson) ~ '\n</parameter>\n' }}
                {%- endfor %}
                {{- '</function>\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- else %}{{ raise_exception('There is no such role.') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' ~ ('<think>\n' if enable_thinking is true else '<think>\n\n</think>\n\n') }}
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
