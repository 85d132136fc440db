"""Text to token ids and back, and the checkpoint's own chat template.

A Qwen3.5 tokenizer is byte-level BPE: `tokenizer.json` (read by the `tokenizers` library) first cuts the
special tokens out of the text, then splits the rest by a regular expression, and merges the bytes of each
piece into tokens. A chat becomes text by a jinja template that comes with the checkpoint. Both are data, so
nothing here knows a size or a family: whether a model thinks by default is found out by rendering.
"""

import json
import re
from datetime import datetime
from functools import cached_property
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as FastTokenizer

from .errors import QwenError, read_json

BREAK = "\ufdd0"  # a Unicode noncharacter, meant for use inside a program: see `Tokenizer.encode_chat`


class Tokenizer:
    """Encodes, decodes and renders chats for one checkpoint.

    Args:
        fast: the `tokenizers.Tokenizer`.
        chat_template: jinja source, or None (then `render` raises).
        settings: what `tokenizer_config.json` holds.
        stop_ids: ids that end an answer, beside those of the tokens that always do.
    """

    def __init__(self, fast, chat_template=None, settings=None, stop_ids=()):
        self.fast = fast
        self.chat_template = chat_template
        # The tokens that a template may name by role. Each is a string, or a dict with it as "content".
        roles = ("bos_token", "eos_token", "pad_token", "unk_token")
        named = {role: settings[role] for role in roles if settings and settings.get(role)}
        self.named_tokens = {
            role: token["content"] if isinstance(token, dict) else token for role, token in named.items()
        }
        self.added_tokens = {token.content: id for id, token in fast.get_added_tokens_decoder().items()}
        enders = filter(None, ("<|im_end|>", "<|endoftext|>", self.eos_token))
        self.stop_ids = {*stop_ids, *map(fast.token_to_id, enders)} - {None}

    @classmethod
    def from_folder(cls, folder):
        """Reads `tokenizer.json` and what lies beside it. None for a folder without a tokenizer."""
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.exists():
            return None
        try:
            fast = FastTokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower class
            raise QwenError(f"{path} is not a tokenizer ({error}); fetch or write it again.") from None
        config, generation, settings = (
            read_json(folder / name) if (folder / name).exists() else {}
            for name in ("config.json", "generation_config.json", "tokenizer_config.json")
        )
        template = settings.get("chat_template")
        if (folder / "chat_template.jinja").exists():
            template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        # An "eos_token_id" is an int, a list or missing; config.json alone would stop at <|endoftext|> only.
        eos = [part.get("eos_token_id") for part in (config, config.get("text_config", {}), generation)]
        stop_ids = [id for ids in eos for id in (ids if isinstance(ids, list) else [ids]) if id is not None]
        return cls(fast, template, settings, stop_ids)

    # ------------------------------------------------------------------------------------------ text and ids

    def encode(self, text, special=True):
        """Text to ids. With `special=False` the name of a special token in the text is but text."""
        return (self.fast if special else self._plain).encode(text, add_special_tokens=False).ids

    def decode(self, ids, skip_special_tokens=True):
        """Ids to text. Bytes that are not UTF-8 become U+FFFD, as everywhere."""
        return self.fast.decode([int(id) for id in ids], skip_special_tokens=skip_special_tokens)

    def stream(self, skip_special_tokens=True):
        """A decoder that takes an answer id by id."""
        return Stream(self, skip_special_tokens)

    def id_of(self, token):
        """The id of one token, by its name."""
        id = self.fast.token_to_id(token)
        if id is None:
            raise QwenError(f"This tokenizer has no token {token!r}.")
        return id

    @property
    def vocab_size(self):
        """How many tokens there are. The embedding may have more rows: the official ones are padded."""
        return self.fast.get_vocab_size()

    @property
    def eos_token(self):
        """The name of the token that ends a turn, or None."""
        return self.named_tokens.get("eos_token")

    @property
    def pad_token_id(self):
        """The id to fill a batch with, or None. Padding is masked, so any id would do."""
        return self.fast.token_to_id(self.named_tokens.get("pad_token", "<|endoftext|>"))

    @cached_property
    def _plain(self):
        """The same tokenizer without its added tokens: no text can name one, and no merge builds one."""
        return FastTokenizer.from_str(json.dumps(json.loads(self.fast.to_str()) | {"added_tokens": []}))

    # ------------------------------------------------------------------------------------------------- chats

    def render(self, messages, thinking=None, add_generation_prompt=True, tools=None, **options):
        """A chat as the text that the model reads, by the checkpoint's template.

        Args:
            messages: list of dicts like {"role": "user", "content": "Hi"}.
            thinking: True or False sets the template's `enable_thinking`; None leaves the choice to it.
            add_generation_prompt: end with the opening of the assistant's turn.
            tools: list of the functions' JSON schemas, or None.
            options: further variables that the template knows, such as `preserve_thinking`.
        """
        if not messages or not all(isinstance(message, dict) and "role" in message for message in messages):
            raise QwenError("A chat is a list of one or more messages: [{'role': 'user', 'content': 'Hi'}].")
        if thinking is not None:
            options["enable_thinking"] = bool(thinking)
        options |= {"messages": messages, "tools": tools, "documents": None}
        template = self._template
        try:
            return template.render(self.named_tokens | options, add_generation_prompt=add_generation_prompt)
        except Exception as error:  # a template is a program from elsewhere: it may fail in any way
            raise QwenError(f"The checkpoint's chat template refuses these messages: {error}") from None

    def encode_chat(self, messages, **options):
        """`encode(render(messages, **options))`, but users and tools cannot speak for others.

        A user's `<|im_end|>`, or a tool's `<think>`, is encoded as the plain text that it is. This is exact:
        special tokens are cut out first and what lies between them is encoded on its own. So we break those
        in untrusted text before rendering, cut at the unbroken ones, and mend the rest.
        """
        names = sorted(self.added_tokens, key=len, reverse=True)  # the longest match wins, as in `tokenizers`
        special = re.compile("|".join(map(re.escape, names)) or "(?!)")

        def broken(content):
            if isinstance(content, str):
                return special.sub(lambda match: match[0][0] + BREAK + match[0][1:], content)
            if isinstance(content, list):  # of {"type": "text", "text": ...}, {"type": "image", ...}
                return [{key: broken(value) for key, value in item.items()} for item in content]
            return content

        def safe(message):
            untrusted = isinstance(message, dict) and message.get("role") in ("user", "tool")
            return message | {"content": broken(message.get("content"))} if untrusted else message

        text = self.render([safe(message) for message in messages], **options)
        ids, start = [], 0
        for match in special.finditer(text):
            ids += self.encode(text[start : match.start()].replace(BREAK, ""), special=False)
            ids.append(self.added_tokens[match[0]])
            start = match.end()
        return ids + self.encode(text[start:].replace(BREAK, ""), special=False)

    @cached_property
    def _template(self):
        """The compiled template, in the environment that `transformers` gives it."""
        source = self.chat_template
        if isinstance(source, list):  # several templates by name: an older form of tokenizer_config.json
            source = {entry["name"]: entry["template"] for entry in source}.get("default")
        if source is None:
            raise QwenError(
                "This checkpoint has no chat template (chat_template.jinja, or chat_template in "
                "tokenizer_config.json): it can complete text, but not chat."
            )
        # The sandbox matters: a template is code that came with a download.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
        try:
            return environment.from_string(source)
        except jinja2.TemplateError as error:
            raise QwenError(f"The checkpoint's chat template is not valid jinja: {error}") from None

    # ---------------------------------------------------------------------------------------------- thinking

    @property
    def supports_thinking(self):
        """Whether the template has a thinking switch."""
        return self.chat_template is not None and self._prompts[True] != self._prompts[False]

    @property
    def thinking_by_default(self):
        """Whether the template, left alone, asks for thinking. 4B and larger do, 0.8B and 2B do not."""
        if self.supports_thinking:
            return self._prompts[None] == self._prompts[True]
        return self.chat_template is not None and opens_thinking(self._prompts[None])

    @cached_property
    def _prompts(self):
        """The prompt of a smallest chat for each position of the thinking switch."""
        chat = [{"role": "user", "content": "Hi"}]
        return {switch: self.render(chat, thinking=switch) for switch in (None, True, False)}


class Stream:
    """Decodes ids as they come and never gives half a character.

    One character may take several tokens (an emoji is four bytes), and one token may end inside of one. What
    is decoded is final except for a last U+FFFD, which may be the beginning of a character: that one waits.
    """

    def __init__(self, tokenizer, skip_special_tokens=True):
        self.tokenizer, self.skip_special_tokens = tokenizer, skip_special_tokens
        self.ids = []  # those since the last whole character
        self.given = 0  # how many characters of their text were given already

    def push(self, id):
        """Takes one id and returns the text that became final: often a word, sometimes ''."""
        self.ids.append(id)
        text = self.tokenizer.decode(self.ids, self.skip_special_tokens)
        final = text.removesuffix("\ufffd")
        piece, self.given = final[self.given :], len(final)
        if final == text:
            self.ids, self.given = [], 0
        return piece

    def flush(self):
        """What still waited, when no more ids come: '', or U+FFFD for a character that was cut."""
        piece = self.tokenizer.decode(self.ids, self.skip_special_tokens)[self.given :]
        self.ids, self.given = [], 0
        return piece


def opens_thinking(prompt):
    """Whether a prompt ends inside a think block that it has just opened."""
    return prompt.rstrip().endswith("<think>")


def split_thinking(text, prompt=None):
    """Splits what a model wrote into (thinking, answer).

    The opening tag is the model's, or stands at the end of the prompt already. Thinking that was cut short,
    by a limit of tokens for instance, has no closing tag: all is thinking and the answer is empty. Only the
    prompt can tell that from an answer without thinking, or from one that merely mentions `</think>`.

    Args:
        text: the new text.
        prompt: the rendered prompt, if known.
    """
    opened = prompt is not None and opens_thinking(prompt)
    if text.lstrip().startswith("<think>"):
        opened, text = True, text.lstrip().removeprefix("<think>")
    thinking, closing, answer = text.partition("</think>")
    if closing and (opened or prompt is None):
        return thinking.strip("\n"), answer.lstrip("\n")
    return (text.strip("\n"), "") if opened else ("", text)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """jinja's own filter escapes for HTML; a model reads plain JSON."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message):
    raise jinja2.TemplateError(message)
