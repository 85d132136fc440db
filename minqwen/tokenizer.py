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
from tokenizers import Tokenizer as FastTokenizer

from .errors import QwenError, read_json, short
from .sandbox import Sandbox

BREAK = "\ufdd0"  # a Unicode noncharacter, meant for use inside a program: see `Tokenizer.write_chat`
OWN_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")  # which an assistant writes in its messages


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
            role: token.get("content") if isinstance(token, dict) else token for role, token in named.items()
        }
        for role, token in self.named_tokens.items():
            if not isinstance(token, str):
                raise QwenError(f"The {role} of this tokenizer should be a text, but is {short(repr(named[role]))}.")
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
            raise QwenError(f"{path} is not a tokenizer ({short(error)}); fetch or write it again.") from None
        fast.no_truncation(), fast.no_padding()  # `transformers` saves what its last call asked for
        config, generation, settings = (
            read_json(folder / name) if (folder / name).exists() else {}
            for name in ("config.json", "generation_config.json", "tokenizer_config.json")
        )
        template = settings.get("chat_template")
        if (folder / "chat_template.jinja").exists():
            template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        # An "eos_token_id" is an int, a list or missing; config.json alone would stop at <|endoftext|> only.
        text_config = config.get("text_config")
        parts = (config, text_config if isinstance(text_config, dict) else {}, generation)
        eos = [part.get("eos_token_id") for part in parts]
        stop_ids = [id for ids in eos for id in (ids if isinstance(ids, list) else [ids]) if id is not None]
        for id in stop_ids:
            if not isinstance(id, int) or isinstance(id, bool):
                raise QwenError(f"An eos_token_id in {folder} should be a whole number, but is {short(repr(id))}.")
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
            raise QwenError(f"The checkpoint's chat template refuses these messages: {_reason(error)}") from None

    def encode_chat(self, messages, expand=None, **options):
        """The ids of a chat: `encode(render(messages, **options))`, but nobody can speak for others.

        A user's `<|im_end|>`, a tool's `<think>` and the `<|im_start|>` in a call's arguments are encoded as the plain
        text that they are, and nobody but the template writes a placeholder for a picture. See `write_chat`.
        """
        return self.write_chat(messages, expand, **options)[1]

    def write_chat(self, messages, expand=None, **options):
        """What the model reads of a chat: the text, and its ids.

        This is exact: special tokens are cut out first and what lies between them is encoded on its own. So we break
        those in untrusted text before rendering, cut at the unbroken ones, and mend the rest.

        Args:
            messages, options: as in `render`.
            expand: what the rendered text goes through before it is cut, such as `Processor.expand`, which puts in as
                many placeholders as a picture has tokens.
        """
        text = self.render([self._safe(message) for message in messages], **options)
        text = text if expand is None else expand(text)
        ids, start = [], 0
        for match in self._special.finditer(text):
            if start < match.start():
                ids += self.encode(text[start : match.start()].replace(BREAK, ""), special=False)
            ids.append(self.added_tokens[match[0]])
            start = match.end()
        ids += self.encode(text[start:].replace(BREAK, ""), special=False)
        return text.replace(BREAK, ""), ids

    def _safe(self, message):
        """A message whose text holds no special token but those that its role may write."""
        role = message.get("role") if isinstance(message, dict) else "system"
        if role == "system":
            return message
        own = OWN_TOKENS if role == "assistant" else ()
        safe = message | {key: self._break(message[key], own) for key in ("content", "reasoning_content")
                          if key in message}  # fmt: skip
        if message.get("tool_calls"):
            safe["tool_calls"] = [self._safe_call(call) for call in message["tool_calls"]]
        return safe

    def _safe_call(self, call):
        if isinstance(call, dict) and "function" in call:
            return call | {"function": self._safe_call(call["function"])}
        safe = self._break(call)
        if not isinstance(safe, dict):  # no call: the template will say so
            return safe
        # The template puts a ">" behind a name, which must not make a token of its last letters.
        safe["name"] = f"{safe.get('name', '')}{BREAK}"
        if isinstance(safe.get("arguments"), dict):
            safe["arguments"] = {f"{name}{BREAK}": value for name, value in safe["arguments"].items()}
        return safe

    def _break(self, value, own=()):
        """The same value with a break in every special token, wherever it stands; `own` are left whole."""
        if isinstance(value, str):
            return self._special.sub(lambda m: m[0] if m[0] in own else m[0][0] + BREAK + m[0][1:], value)
        if isinstance(value, dict):
            return {self._break(key, own): self._break(item, own) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._break(item, own) for item in value]
        return value

    @cached_property
    def _special(self):
        """Finds the special tokens in a text."""
        names = sorted(self.added_tokens, key=len, reverse=True)  # the longest match wins, as in `tokenizers`
        return re.compile("|".join(map(re.escape, names)) or "(?!)")

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
        environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
        try:
            return environment.from_string(source)
        except Exception as error:  # also what Python says of loops that are nested too deeply
            raise QwenError(f"The checkpoint's chat template is not valid jinja: {short(error)}") from None

    @cached_property
    def supports_tools(self):
        """Whether the template shows the model its tools, and there are tokens to call them."""
        function = {"name": "probe", "description": "", "parameters": {"type": "object", "properties": {}}}
        chat, tools = [{"role": "user", "content": "Hi"}], [{"type": "function", "function": function}]
        return "<tool_call>" in self.added_tokens and "probe" in self.render(chat, tools=tools)

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


def _reason(error):
    return short(error) or type(error).__name__


def _raise_exception(message):
    raise jinja2.TemplateError(message)
