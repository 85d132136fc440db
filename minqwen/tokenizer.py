"""Text to token ids and back, and the checkpoint's own chat template.

A Qwen3.5 tokenizer is byte-level BPE: `tokenizer.json` (read by the `tokenizers` library) first cuts the
special tokens out of the text, then splits the rest by a regular expression, and merges the bytes of each
piece into tokens. A chat becomes text by a jinja template that comes with the checkpoint. Both are data, so
nothing here knows a size or a family: whether a model thinks by default is found out by rendering.
"""

import re
from functools import cached_property, partial
from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from .errors import QwenError, read_json, short
from .template import NOBODY, Own, compiled, marks_of, plain_data, unused

# What an assistant writes in its messages, and what a system's message may speak of.
OWN_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
THOUGHTS = ("reasoning_content", "thinking", "reasoning")  # names under which thinking comes, the official one first


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
        _add_listed_tokens(fast, settings)
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
        fast = self.fast if special else self._plain
        return fast.encode(_whole_characters(text), add_special_tokens=False).ids

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
        plain = FastTokenizer(self.fast.model)  # shared, not copied: there may be 248,044 tokens in it
        plain.normalizer, plain.pre_tokenizer = self.fast.normalizer, self.fast.pre_tokenizer
        return plain

    # ------------------------------------------------------------------------------------------------- chats

    def render(self, messages, thinking=None, **options):
        """A chat as the text that the model reads, by the checkpoint's template.

        Args:
            messages: list of dicts like {"role": "user", "content": "Hi"}.
            thinking: True or False sets the template's `enable_thinking`; None leaves the choice to it.
            add_generation_prompt: end with the opening of the assistant's turn (True).
            tools: list of the functions' JSON schemas, or None.
            options: further variables that the template knows, such as `preserve_thinking`.
        """
        return str.__str__(self._render(messages, thinking, **options))

    def encode_chat(self, messages, expand=None, **options):
        """The ids of a chat: `encode(render(messages, **options))`, but nobody can speak for others.

        A user's `<|im_end|>`, a tool's `<think>` and the `<|im_start|>` in a call's arguments are encoded as the plain
        text that they are, and nobody but the template writes a placeholder for a picture. See `write_chat`.
        """
        return self.write_chat(messages, expand, **options)[1]

    def write_chat(self, messages, expand=None, **options):
        """What the model reads of a chat: the text, as `render` gives it, and its ids.

        This is exact: special tokens are cut out first and what lies between them is encoded on its own. The template
        tells which are its own (see `template.py`); we break the others, cut at the unbroken ones, and mend the rest.

        Args:
            messages, options: as in `render`.
            expand: what the rendered text goes through before it is cut, such as `Processor.expand`, which puts in as
                many placeholders as a picture has tokens.
        """
        text, spans = self._control_tokens(messages, options)
        seam, broken, end = unused(text), "", 0
        for start, stop in [*spans, (len(text), len(text))]:
            broken += self._special.sub(lambda match: match[0][0] + seam + match[0][1:], text[end:start])
            broken, end = broken + text[start:stop], stop
        whole = broken if expand is None else expand(broken)
        ids, end = [], 0
        for match in self._special.finditer(whole):
            ids += self.encode(whole[end : match.start()].replace(seam, ""), special=False)
            ids.append(self.added_tokens[match[0]])
            end = match.end()
        ids += self.encode(whole[end:].replace(seam, ""), special=False)
        return whole.replace(seam, ""), ids

    def _control_tokens(self, messages, options):
        """The rendered text, and where in it the control tokens stand."""

        def spans(text):
            return [match.span() for match in self._special.finditer(text)]

        text = self._render(messages, **options)
        own, all = spans(marks_of(text)), spans(text)
        if own == all:
            return str.__str__(text), own
        # Somebody speaks of control tokens - or the template does with its own what `Own` texts do not follow. Then
        # they are lost from a chat that speaks of none, too.
        calm = partial(plain_data, text=partial(re.sub, "|".join(map(re.escape, self._openings)), "?"))
        calmed = self._render(calm(messages), **calm(options))
        if spans(marks_of(calmed)) != spans(calmed):
            if (calm(messages), calm(options)) != (plain_data(messages), plain_data(options)):
                raise QwenError("The checkpoint's chat template writes its control tokens in a way that they cannot be "
                                f"told from those in these messages: leave {' and '.join(self._openings)} out of them.")
            own = all
        return str.__str__(text), own

    def _render(self, messages, thinking=None, add_generation_prompt=True, tools=None, **options):
        """A chat as an `Own` text."""
        if not messages or not all(isinstance(message, dict) and "role" in message for message in messages):
            raise QwenError("A chat is a list of one or more messages: [{'role': 'user', 'content': 'Hi'}].")
        if thinking is not None:
            options["enable_thinking"] = bool(thinking)
        options |= {"tools": tools, "documents": None, "add_generation_prompt": add_generation_prompt}
        named = {role: Own(name, name) for role, name in self.named_tokens.items()}
        given = plain_data(options) | {"messages": [_seen(message) for message in messages]}
        template = self._template
        try:
            text = template.render(named | given)
        except Exception as error:  # a template is a program from elsewhere: it may fail in any way
            why = _reason(error, messages)
            raise QwenError(f"The checkpoint's chat template refuses these messages: {why}") from None
        return _whole_characters(text)

    @property
    def _openings(self):
        """The characters that special tokens begin with: official ones with "<"."""
        return sorted({name[0] for name in self.added_tokens})

    @cached_property
    def _special(self):
        """Finds the special tokens in a text."""
        names = sorted(self.added_tokens, key=len, reverse=True)  # the longest match wins, as in `tokenizers`
        return re.compile("|".join(map(re.escape, names)) or "(?!)")

    def __getstate__(self):
        """For copies and pickles: a compiled template is neither, and is compiled anew when it is asked for."""
        return {name: value for name, value in vars(self).items() if name != "_template"}

    @cached_property
    def _template(self):
        """The compiled template."""
        source = self.chat_template
        if isinstance(source, list):  # several templates by name: an older form of tokenizer_config.json
            source = {entry["name"]: entry["template"] for entry in source}.get("default")
        if source is None:
            raise QwenError(
                "This checkpoint has no chat template (chat_template.jinja, or chat_template in "
                "tokenizer_config.json): it can complete text, but not chat."
            )
        try:
            return compiled(source)
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
        self.ids = []  # those since the last whole character, as far as they can matter
        self.given = 0  # how many characters of their text were given already

    def push(self, id):
        """Takes one id and returns the text that became final: often a word, sometimes ''."""
        if not self._text([id]):  # a special token that is skipped: it may stand within a character
            return ""
        self.ids.append(id)
        text = self._text(self.ids)
        final = text.removesuffix("\ufffd")
        piece, self.given = final[self.given :], len(final)
        if final == text:
            self.ids, self.given = [], 0
        elif len(self.ids) > 3:  # the beginning of a character is three bytes at most, and a token is one at least
            self.ids = self.ids[-3:]
            self.given = len(self._text(self.ids).removesuffix("\ufffd"))
        return piece

    def flush(self):
        """What still waited, when no more ids come: '', or U+FFFD for a character that was cut."""
        piece = self._text(self.ids)[self.given :]
        self.ids, self.given = [], 0
        return piece

    def _text(self, ids):
        return self.tokenizer.decode(ids, self.skip_special_tokens)


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


def _add_listed_tokens(fast, settings):
    """Add the tokens that only `tokenizer_config.json` lists: the last seven of the official ones."""
    known = {token.content for token in fast.get_added_tokens_decoder().values()}
    listed = settings.get("added_tokens_decoder", {})
    for id in sorted(listed, key=int):
        try:
            token = AddedToken(**{name: value for name, value in listed[id].items() if not name.startswith("_")})
        except (AttributeError, TypeError) as error:
            raise QwenError(f"tokenizer_config.json describes token {id} of added_tokens_decoder in a way that no "
                            f"tokenizer knows ({error}): fetch the file anew.") from None
        if token.content not in known:
            fast.add_tokens([token])
            if fast.token_to_id(token.content) != int(id):
                raise QwenError(f"tokenizer_config.json lists {token.content} as token {id}, but in tokenizer.json it "
                                f"has no place there: fetch both files from one checkpoint.")


def _seen(message):
    """A message as the template sees it. `Own` in it are the tokens that its role may write."""
    message = plain_data(message)
    thought = next((message[name] for name in THOUGHTS if message.get(name) is not None), None)
    if thought is not None:  # as `transformers` has it
        message = {"thinking": thought, **message, "reasoning_content": thought}
    if message["role"] in ("assistant", "system"):
        for name in {"content", *THOUGHTS} & message.keys():
            message[name] = plain_data(message[name], _with_own_tokens)
    for part in (message, *(content if isinstance(content := message.get("content"), list) else ())):
        for name in ("role", "type"):  # words that a template may put between <| and |>
            if isinstance(part, dict) and isinstance(part.get(name), str) and part[name].isidentifier():
                part[name] = Own(part[name], part[name])
    return message


def _with_own_tokens(text):
    parts = re.split(f"({'|'.join(OWN_TOKENS)})", text)
    return Own(text, "".join(part if part in OWN_TOKENS else NOBODY * len(part) for part in parts))


def _whole_characters(text):
    """The text itself; half a character in it is an error."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QwenError(f"This text holds half a character ({text[error.start]!r}), which cannot be encoded: take it "
                        "out, or decode the text with errors='replace' where it comes from.") from None
    return text


ROLES = ("system", "user", "assistant", "tool")


def _reason(error, messages):
    """Why a template refuses messages, in words that help."""
    for message in messages:
        if message["role"] not in ROLES:
            return f"there is no role {short(repr(message['role']))}; the roles are {', '.join(ROLES)}."
    calls = [call for message in messages for call in message.get("tool_calls") or () if isinstance(call, dict)]
    functions = [function for call in calls if isinstance(function := call.get("function") or call, dict)]
    for function in functions:
        if isinstance(function.get("arguments"), str):
            return (f"the arguments of the call of {function.get('name')} are a text; give them as a dict, as "
                    "json.loads makes it.")
    return short(error) or type(error).__name__
