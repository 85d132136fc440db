"""A checkpoint to talk to: weights, tokenizer and chat template together.

    qwen = minqwen.load("Qwen/Qwen3.5-0.8B")
    print(qwen.chat("Why is the sky blue?"))

    for piece in qwen.chat("Write a poem.", stream=True):
        print(piece, end="", flush=True)

    talk = qwen.conversation()                          # remembers
    talk("My name is Ann."), talk("What is my name?")

Between text and tokens stand the template, which turns messages into one text, and `Speech`, which turns new tokens
back into text and knows what of it is thinking.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from . import generate as generation
from .checkpoint import load_model, resolve
from .delta_rule import chunk_gated_delta_rule, recurrent_gated_delta_rule
from .errors import QwenError, read_json
from .model import GatedDeltaNet, Qwen
from .tokenizer import Tokenizer, opens_thinking

__all__ = ["Assistant", "Conversation", "Piece", "Reply", "load"]

NANO = Path(__file__).parent.parent / "data" / "nano"
KERNELS = {"auto": None, "recurrent": recurrent_gated_delta_rule, "chunk": chunk_gated_delta_rule}
END_OF_THINKING = "\n</think>\n\n"                      # as the official template writes it
OPTIONS = {                                             # of `chat`, and what they are if nobody says otherwise
    "max_new_tokens": 1024, "prefill_chunk": 2048,      # a prompt in pieces, so that Ctrl-C works while it is read
    "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
    "presence_penalty": 0.0, "repetition_penalty": 1.0, "seed": None, "thinking_budget": None,
}  # fmt: skip


def load(path_or_name: str | Path | None = None, dtype: torch.dtype | str | None = None, device: str = "cpu",
         revision: str | None = None, kernel: str = "auto") -> "Assistant":
    """A checkpoint, ready to talk.

    Args:
        path_or_name: a folder, "Qwen/Qwen3.5-0.8B" (Hugging Face Hub), "modelscope:Qwen/Qwen3.5-0.8B", or None for the
            small trained model that ships with the repository.
        dtype: of the weights, such as torch.float32; None keeps them as stored.
        device: "cpu", "cuda", ...
        revision: branch, tag or commit of a checkpoint fetched by name.
        kernel: how the delta rule is computed. "auto" takes chunks for many tokens and the recurrence for one;
            "recurrent" and "chunk" always take the one, to compare.

    Raises:
        QwenError: no such checkpoint or a damaged one, no such kernel.
    """
    if kernel not in KERNELS:
        raise QwenError(f"There is no kernel {kernel!r}; there are {', '.join(KERNELS)}.")
    if path_or_name is None:
        path_or_name = NANO
        if not (NANO / "config.json").exists():
            raise QwenError("The small trained model is not beside this installation of minqwen: work in a clone of "
                            "the repository, where it is data/nano, or name a checkpoint like 'Qwen/Qwen3.5-0.8B'.")
    folder = resolve(path_or_name, revision)
    model = load_model(folder, dtype, device)
    if KERNELS[kernel] is not None:
        use_rule(model, KERNELS[kernel])
    return Assistant(model, Tokenizer.from_folder(folder), folder)


def use_rule(model: Qwen, rule) -> None:
    """Let every Gated DeltaNet layer compute by `rule`, one of the functions in `delta_rule.py`."""

    def delta_rule(q, k, v, g, beta, state, cu_seqlens=None):
        return rule(q, k, v, g, beta, initial_state=state, output_final_state=True, cu_seqlens=cu_seqlens)

    for module in model.modules():
        if isinstance(module, GatedDeltaNet):
            module.delta_rule = delta_rule


class Assistant:
    """A loaded checkpoint. `load` makes it.

    Attributes:
        config, model, tokenizer, folder: the checkpoint's parts; `tokenizer` is None where the folder has none.
        processor: of images and videos; None in this version, which reads text.
        defaults: how `chat` draws tokens unless told otherwise: `generation_config.json`; greedy without that file.
    """

    def __init__(self, model: Qwen, tokenizer: Tokenizer | None = None, folder: str | Path | None = None):
        self.model, self.config, self.tokenizer, self.processor = model, model.config, tokenizer, None
        self.folder = None if folder is None else Path(folder)
        self.defaults = _sampling_defaults(self.folder)

    def chat(self, messages: "str | list[dict]", *, system: str | None = None, thinking: bool | None = None,
             stream: bool = False, **options) -> "Reply | Iterator[Piece]":
        """Answer a text, or the last of a list of messages.

        Args:
            messages: "Hi", or [{"role": "user", "content": "Hi"}, ...].
            system: a text that is put first, as the system's message.
            thinking: whether to think before the answer; None leaves it to the checkpoint's template.
            stream: give the text in pieces as it comes.
            options: max_new_tokens (1024), temperature, top_k, top_p, min_p, presence_penalty, repetition_penalty,
                seed, thinking_budget, prefill_chunk: see `minqwen.stream`.

        Returns:
            The answer as a str that has `.thinking` and more: see `Reply`. With `stream`, an iterator of `Piece`s.

        Raises:
            QwenError: messages or options that cannot be, or a checkpoint that cannot chat.
        """
        prompt, ids = self.prompt(_messages(messages, system), thinking)
        options = self._options(options)
        speech = Speech(self.tokenizer, prompt, options["thinking_budget"])
        pieces = speech.follow(id for (id,) in generation.stream(self.model, [ids], **options))
        return pieces if stream else speech.reply(pieces)

    def chat_batch(self, chats: "Sequence[str | list[dict]]", *, system: str | None = None,
                   thinking: bool | None = None, **options) -> "list[Reply]":
        """Answer several chats at once, each by itself. Arguments are those of `chat`."""
        if isinstance(chats, str) or not chats:
            raise QwenError("chat_batch answers a list of one or more chats; for one text there is chat.")
        prompts = [self.prompt(_messages(messages, system), thinking) for messages in chats]
        options = self._options(options)
        rows = generation.generate(self.model, [ids for _, ids in prompts], **options)
        speeches = [Speech(self.tokenizer, prompt, options["thinking_budget"]) for prompt, _ in prompts]
        return [speech.reply(speech.follow(ids)) for speech, ids in zip(speeches, rows, strict=True)]

    def conversation(self, *, system: str | None = None, thinking: bool | None = None, **options) -> "Conversation":
        """A chat that remembers: `talk = qwen.conversation()`, then `talk("Hi")` as often as you like."""
        return Conversation(self, system, thinking, options)

    def prompt(self, messages: list[dict], thinking: bool | None = None,
               add_generation_prompt: bool = True) -> tuple[str, list[int]]:
        """What the model reads when it is to answer these messages: the text, and its ids."""
        tokenizer = self.tokenizer
        if tokenizer is None:
            raise QwenError(f"{self._name} has no tokenizer (tokenizer.json), so it cannot chat: add the file, or call "
                            f"qwen.model and minqwen.generate with token ids.")
        if thinking not in (None, tokenizer.thinking_by_default) and not tokenizer.supports_thinking:
            raise QwenError(f"The chat template of {self._name} has no thinking switch: leave `thinking` out.")
        how = {"thinking": thinking, "add_generation_prompt": add_generation_prompt}
        return tokenizer.render(messages, **how), tokenizer.encode_chat(messages, **how)

    def _options(self, given: dict) -> dict:
        """The options of `minqwen.stream` for a chat: the given ones, then the checkpoint's, then our own."""
        for name in given:
            if name in ("images", "videos", "tools"):
                raise QwenError(f"This version of minqwen reads text, so chat takes no {name} yet: leave them out.")
            if name not in OPTIONS:
                raise QwenError(f"chat has no option {name!r}; it has {', '.join(OPTIONS)}.")
        options = OPTIONS | self.defaults | {name: value for name, value in given.items() if value is not None}
        options["stop_ids"] = self.tokenizer.stop_ids
        if options["thinking_budget"] is not None:
            options["think_ids"] = tuple(map(self.tokenizer.id_of, ("<think>", "</think>")))
            options["end_think_ids"] = self.tokenizer.encode(END_OF_THINKING)
        return options

    @property
    def _name(self) -> str:
        return "This model" if self.folder is None else self.folder.name

    def __repr__(self):
        text, weight = self.config.text_config, self.model.head_weight
        parameters = sum(p.numel() for p in self.model.parameters())
        tokens = "none"
        if self.tokenizer is not None:
            thinking = "on" if self.tokenizer.thinking_by_default else "off"
            tokens = f"{self.tokenizer.vocab_size:,} tokens, thinking {thinking} by default"
        linear, dtype = text.layer_types.count("linear_attention"), str(weight.dtype).removeprefix("torch.")
        return (f"{self._name}: {parameters:,} parameters, {dtype} on {weight.device}\n"
                f"  layers     {linear} Gated DeltaNet, {text.num_hidden_layers - linear} gated attention, "
                f"{text.hidden_size} wide\n"
                f"  tokenizer  {tokens}\n"
                f"  context    {text.max_position_embeddings:,} tokens")


class Conversation:
    """A chat that remembers what was said.

    `messages` is the history, and may be edited. On the next turn the template shows the model's answer without its
    thinking, without even the empty think block; so the cache then goes back to the end of the question, and reads the
    answer anew. A recurrent state cannot be cropped: going back takes a snapshot.
    """

    def __init__(self, assistant: Assistant, system: str | None = None, thinking: bool | None = None, options=None):
        self.assistant, self.thinking, self.options = assistant, thinking, options or {}
        self.messages = [] if system is None else [{"role": "system", "content": system}]
        self._saved = [], None, None                    # ids read, the cache, its snapshot when it had read them

    def __call__(self, text: str, *, stream: bool = False, **options) -> "Reply | Iterator[Piece]":
        """Say something: the `Reply`, or with `stream` its `Piece`s. An answer broken off is kept as far as it came."""
        question, answer = {"role": "user", "content": text}, {"role": "assistant", "content": ""}
        messages = [*self.messages, question]
        prompt, ids = self.assistant.prompt(messages, self.thinking)
        _, stem = self.assistant.prompt(messages, self.thinking, add_generation_prompt=False)
        options = self.assistant._options(self.options | options)
        generation.stream(self.assistant.model, [ids], **options)               # not begun: complains now, if it must
        speech = Speech(self.assistant.tokenizer, prompt, options["thinking_budget"])

        def new_ids():
            for n, (id,) in enumerate(self._steps(ids, stem, options)):
                if n == 0:                              # not before: a prompt that could not be read leaves no trace
                    self.messages += [question, answer]
                yield id

        def pieces():
            for piece in speech.follow(new_ids()):
                part = "reasoning_content" if piece.thinking else "content"
                answer[part] = answer.get(part, "") + piece
                yield piece

        return pieces() if stream else speech.reply(pieces())

    def _steps(self, ids: list[int], stem: list[int], options: dict) -> Iterator[list[int]]:
        """Generate from `ids`, of which `stem` is the part that the next turn will begin with, too."""
        model, context = self.assistant.model, self.assistant.config.text_config.max_position_embeddings
        room = min(len(ids) + options["max_new_tokens"], context)
        known, cache, snapshot = self._saved
        may_reuse = options["repetition_penalty"] == 1  # else every token of the prompt counts, and must come by
        if may_reuse and known and ids[: len(known)] == known and len(known) < len(ids) and room <= cache.max_length:
            cache.restore(snapshot)
        else:
            known, cache = [], model.new_cache(1, min(2 * room, context))
        if may_reuse and ids[: len(stem)] == stem and len(known) < len(stem) < len(ids):
            piece = torch.tensor([stem[len(known):]], device=model.head_weight.device)
            generation.prefill(model, piece, cache, prefill_chunk=options["prefill_chunk"])
            known, snapshot = stem, cache.snapshot()
            self._saved = known, cache, snapshot
        yield from generation.stream(model, [ids[len(known):]], cache=cache, **options)


# ------------------------------------------------------------------------------------------------------ tokens to text


class Reply(str):
    """An answer. It is the text, without the thinking, and has

    thinking: what the model thought before it, "" if it did not.
    ids:      every new token, thinking and the token it stopped at included.
    prompt:   the whole text that the model read.
    finish:   "stop" - it ended by itself; "budget" - so it did, but its thinking was cut at `thinking_budget`;
              "length" - it was cut at `max_new_tokens`, or the context was full.
    """

    def __new__(cls, answer="", thinking="", ids=(), prompt="", finish="stop"):
        self = super().__new__(cls, answer)
        self.thinking, self.ids, self.prompt, self.finish = thinking, list(ids), prompt, finish
        return self

    @property
    def stopped(self) -> bool:
        """Whether the model ended the answer by itself."""
        return self.finish != "length"


class Piece(str):
    """Some text of an answer, never half a character; `.thinking` says whether it is part of the thinking."""

    def __new__(cls, text="", thinking=False):
        self = super().__new__(cls, text)
        self.thinking = thinking
        return self


class Speech:
    """Turns one answer's tokens into text, and knows what of it is thinking.

    A think block is open from the start if the prompt opened it, or opens with `<think>` where nothing was said yet;
    it ends with `</think>`. In other places these are text like any other.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: str, thinking_budget: int | None = None):
        self.tokenizer, self.prompt, self.thinking_budget = tokenizer, prompt, thinking_budget
        self.decoder = tokenizer.stream()
        self.think_ids = tuple(map(tokenizer.fast.token_to_id, ("<think>", "</think>")))
        self.thinking = opens_thinking(prompt)
        self.may_open = not self.thinking               # until something is said
        self.ids, self.thought = [], 0                  # all tokens; how many were thinking

    def follow(self, ids: Iterable[int]) -> Iterator[Piece]:
        """The text of these tokens, piece by piece, without special tokens."""
        opener, closer = self.think_ids
        trim = self.thinking                            # the line breaks behind a tag belong to the template
        for id in ids:
            self.ids.append(id)
            if id in self.tokenizer.stop_ids:
                continue
            turns = id == closer if self.thinking else id == opener and self.may_open
            text = self.decoder.flush() if turns else self.decoder.push(id)
            self.thought += self.thinking and not turns
            text = text.lstrip("\n") if trim else text
            if text:
                yield Piece(text, self.thinking)
                trim = False
                self.may_open &= text.isspace()
            if turns:
                self.thinking, self.may_open, trim = not self.thinking, False, True
        if text := self.decoder.flush():
            yield Piece(text, self.thinking)

    def reply(self, pieces: Iterable[Piece]) -> Reply:
        """All of `follow`'s pieces as one answer."""
        parts = {True: "", False: ""}
        for piece in pieces:
            parts[piece.thinking] += piece
        if not self.ids or self.ids[-1] not in self.tokenizer.stop_ids:
            finish = "length"
        else:
            finish = "stop" if self.thinking_budget is None or self.thought <= self.thinking_budget else "budget"
        return Reply(parts[False], parts[True].rstrip("\n"), self.ids, self.prompt, finish)


def _messages(messages: "str | list[dict]", system: str | None) -> list[dict]:
    """A chat as a list of messages of text, the system's first."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list | tuple) or not all(isinstance(message, dict) for message in messages):
        raise QwenError("A chat is a text or a list of messages such as {'role': 'user', 'content': 'Hi'}.")
    for message in messages:
        content = message.get("content")
        kinds = {part.get("type") for part in content if isinstance(part, dict)} if isinstance(content, list) else set()
        if kinds - {"text"}:
            others = ", ".join(sorted(map(str, kinds - {"text"})))
            raise QwenError(f"This version of minqwen reads text, but a message holds {others}: leave it out.")
    if system is None:
        return list(messages)
    if messages and messages[0].get("role") == "system":
        raise QwenError("These messages begin with the system's already: leave out `system`, or that message.")
    return [{"role": "system", "content": system}, *messages]


def _sampling_defaults(folder: Path | None) -> dict:
    """What `generation_config.json` says of sampling; without `do_sample` the likeliest token is taken."""
    if folder is None or not (folder / "generation_config.json").exists():
        return {}
    stored = read_json(folder / "generation_config.json")
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    defaults = {name: stored[name] for name in names if stored.get(name) is not None}
    return {"temperature": 1.0} | defaults if stored.get("do_sample") else defaults | {"temperature": 0.0}
