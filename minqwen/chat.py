"""A checkpoint to talk to: weights, tokenizer and chat template together.

    qwen = minqwen.load("Qwen/Qwen3.5-0.8B")
    print(qwen.chat("Why is the sky blue?"))

    for piece in qwen.chat("Write a poem.", stream=True):
        print(piece, end="", flush=True)

    talk = qwen.conversation()                          # remembers
    talk("My name is Ann."), talk("What is my name?")

    qwen.chat("What is in this picture?", images=["photo.jpg"])
    qwen.chat("What is 48210 + 3377?", tools=[add])     # a Python function, which the model may call

Between text and tokens stand the template, which turns messages into one text, and `Speech`, which turns new tokens
back into text and knows what of it is thinking. A `Turn` is what becomes of one question.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from . import generate as generation
from .cache import Cache, Snapshot
from .checkpoint import load_model, resolve
from .drafts import Drafter
from .errors import QwenError, read_json
from .files import SHIPPED
from .kernels import check_kernel
from .media import Processor
from .messages import as_messages, media_of
from .model import GatedDeltaNet, Qwen
from .quantized import quantized_bits
from .speech import Piece, Reply, Speech
from .tokenizer import Tokenizer
from .tools import call, describe_all

__all__ = ["Assistant", "Conversation", "Inputs", "Piece", "Reply", "load"]

NANO = SHIPPED / "data" / "nano"
END_OF_THINKING = "\n</think>\n\n"                      # as the official template writes it
OPTIONS = {                                             # of `chat`, and what they are if nobody says otherwise
    "max_new_tokens": 1024, "prefill_chunk": None,      # a prompt in pieces, so that Ctrl-C works while it is read
    "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
    "presence_penalty": 0.0, "repetition_penalty": 1.0, "seed": None, "thinking_budget": None,
    "draft_tokens": 0,
}  # fmt: skip


def load(path_or_name: str | Path | None = None, dtype: torch.dtype | str | None = None, device: str = "cpu",
         revision: str | None = None, kernel: str = "auto", context: int | None = None, bits: int | None = None,
         group_size: int | None = None, embeddings: int = 8) -> "Assistant":
    """A checkpoint, ready to talk.

    Args:
        path_or_name: a folder, "Qwen/Qwen3.5-0.8B" (Hugging Face Hub), "modelscope:Qwen/Qwen3.5-0.8B", or None for the
            small trained model that is shipped.
        dtype: of the weights, such as torch.float32 or "bfloat16"; None keeps them as stored.
        device: "cpu", "cuda", ...
        revision: branch, tag or commit of a checkpoint fetched by name.
        kernel: how the delta rule is computed. "auto" takes the Triton kernels on a GPU where they are there and right,
            else chunks for many tokens and the recurrence for one; "triton", "chunk" and "recurrent" always take the
            one, to compare.
        context: tokens that it must be able to read, such as 1_010_000. Where that is more than it was trained on, its
            positions are stretched by YaRN, which short texts pay for a little: see `Config.with_context`.
        bits: 8 or 4 quantize the weights while they are loaded, so that memory never holds them whole.
        group_size, embeddings: how; see `minqwen.quantize`.

    Raises:
        QwenError: no such checkpoint or a damaged one, no such kernel, or not here, no such context, no such bits.
    """
    check_kernel(kernel, device)
    if path_or_name is None:
        path_or_name = NANO
        if not (NANO / "config.json").exists():
            raise QwenError(f"The small trained model should be in {NANO}, and is not: install minqwen again, or name "
                            "a checkpoint such as 'Qwen/Qwen3.5-0.8B'.")
    folder = resolve(path_or_name, revision)
    model = load_model(folder, dtype, device, context=context, bits=bits, group_size=group_size,
                       embeddings=embeddings)
    for module in model.modules():
        if isinstance(module, GatedDeltaNet):
            module.kernel = kernel
    return Assistant(model, Tokenizer.from_folder(folder), folder)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the model reads of a chat.

    Attributes:
        text: as the template writes it, with a placeholder for every token of a picture.
        ids: its tokens.
        media: pictures and clips, by the names of `Qwen.forward`'s arguments: pixel_values and image_grid_thw,
            pixel_values_videos and video_grid_thw, as far as there are any.
    """

    text: str
    ids: list[int]
    media: dict[str, Tensor] = field(default_factory=dict)


class Assistant:
    """A loaded checkpoint. `load` makes it.

    Attributes:
        config, model, tokenizer, folder: the checkpoint's parts; `tokenizer` is None where the folder has none.
        processor: of pictures and clips, see `media.py`; None where there is no vision tower.
        defaults: how `chat` draws tokens unless told otherwise: `generation_config.json`; greedy without that file.
    """

    def __init__(self, model: Qwen, tokenizer: Tokenizer | None = None, folder: str | Path | None = None):
        self.model, self.config, self.tokenizer = model, model.config, tokenizer
        self.folder = None if folder is None else Path(folder)
        sees = self.folder is not None and self.config.vision_config is not None
        self.processor = Processor.from_folder(self.folder, self.config.vision_config) if sees else None
        self.defaults = _sampling_defaults(self.folder)

    def chat(self, messages: "str | list[dict]", *, images: Sequence = (), videos: Sequence = (),
             system: str | None = None, thinking: bool | None = None, tools: "Sequence[Callable | dict]" = (),
             max_tool_rounds: int = 8, stream: bool = False, **options) -> "Reply | Iterator[Piece]":
        """Answer a text, or the last of a list of messages.

        Args:
            messages: "Hi", or [{"role": "user", "content": "Hi"}, ...]. A content may be a list of parts such as
                {"type": "image", "image": x}, {"type": "video", "video": x} and {"type": "text", "text": "Hi"}.
            images: pictures that stand before the question, each anything that `media.load_image` takes; or, in order,
                for the parts {"type": "image"} that have none.
            videos: clips, likewise; each a list of frames, an array, a path or a `media.Clip`.
            system: a text that is put first, as the system's message.
            thinking: whether to think before the answer; None leaves it to the checkpoint's template.
            tools: Python functions that the model may call. They are run, and it reads what they return - or raise. A
                function may also be given by its schema alone: then the answer ends where it is called, and carries
                the calls (`Reply.tool_calls`).
            max_tool_rounds: how often calls are run before the answer must come.
            stream: give the text in pieces as it comes.
            options: max_new_tokens (1024; in each round), temperature, top_k, top_p, min_p, presence_penalty,
                repetition_penalty, seed, thinking_budget, prefill_chunk, draft_tokens: see `minqwen.stream`.

        Returns:
            The answer as a str that has `.thinking`, `.tool_calls` and more: see `Reply`. With `stream`, an iterator of
            `Piece`s.

        Raises:
            QwenError: messages, pictures, tools or options that cannot be, or a checkpoint that cannot do this.
        """
        messages, options = as_messages(messages, system, images, videos), self._options(options)
        turn = Turn(self, messages, thinking, tools, max_tool_rounds, options["thinking_budget"])

        def read(inputs):
            return generation.stream(self.model, [inputs.ids], **inputs.media, **options)

        read(turn.inputs)                               # not begun: complains now, if it must
        return turn.pieces(read) if stream else turn.answer(read)

    def chat_batch(self, chats: "Sequence[str | list[dict]]", *, images: "Sequence[Sequence] | None" = None,
                   videos: "Sequence[Sequence] | None" = None, system: str | None = None, thinking: bool | None = None,
                   tools: "Sequence[Callable | dict]" = (), max_tool_rounds: int = 8, **options) -> "list[Reply]":
        """Answer several chats at once, each by itself. Arguments are those of `chat`; images and videos are lists with
        a list for each chat."""
        if isinstance(chats, str) or not chats:
            raise QwenError("chat_batch answers a list of one or more chats; for one text there is chat.")
        for name, lists in (("images", images), ("videos", videos)):
            if lists is not None and (not isinstance(lists, list | tuple) or len(lists) != len(chats)):
                raise QwenError(f"{name} must be a list with a list of {name} for each of the {len(chats)} chats.")
        options = self._options(options)
        nothing = [()] * len(chats)
        turns = [Turn(self, as_messages(messages, system, pictures, clips), thinking, tools, max_tool_rounds,
                      options["thinking_budget"])
                 for messages, pictures, clips in zip(chats, images or nothing, videos or nothing, strict=True)]
        while waiting := [turn for turn in turns if turn.reply is None]:
            media = _joined([turn.inputs.media for turn in waiting])
            rows = generation.generate(self.model, [turn.inputs.ids for turn in waiting], **media, **options)
            for turn, ids in zip(waiting, rows, strict=True):
                for _ in turn.hear(ids):
                    pass
        return [turn.reply for turn in turns]

    def conversation(self, *, system: str | None = None, thinking: bool | None = None,
                     tools: "Sequence[Callable | dict]" = (), max_tool_rounds: int = 8, **options) -> "Conversation":
        """A chat that remembers: `talk = qwen.conversation()`, then `talk("Hi")` as often as you like."""
        return Conversation(self, system, thinking, options, tools, max_tool_rounds)

    def inputs(self, messages: "str | list[dict]", thinking: bool | None = None, add_generation_prompt: bool = True,
               tools: "Sequence[Callable | dict] | None" = None) -> Inputs:
        """What the model reads when it is to answer these messages. Arguments and errors as in `chat`."""
        messages = as_messages(messages)
        schemas = list(describe_all(tools).values())
        return self._write(messages, self._look(messages), schemas, thinking, add_generation_prompt)

    def prompt(self, messages: list[dict], thinking: bool | None = None,
               add_generation_prompt: bool = True) -> tuple[str, list[int]]:
        """The text and the ids of `inputs`."""
        inputs = self.inputs(messages, thinking, add_generation_prompt)
        return inputs.text, inputs.ids

    def _look(self, messages: list[dict]) -> dict:
        """The pictures and clips of these messages, prepared: what `Processor.expand` takes."""
        pictures, clips = media_of(messages)
        if not pictures and not clips:
            return {}
        if self.config.vision_config is None:
            raise QwenError(f"{self._name} has no vision tower, so it reads text alone: leave pictures and clips out.")
        if self.processor is None:
            raise QwenError(f"{self._name} does not say how its pictures are prepared, as it was not loaded from a "
                            f"folder: give from_transformers an AutoProcessor, or set qwen.processor to a "
                            f"minqwen.media.Processor.")
        return {"images": self.processor.images(pictures) if pictures else None,
                "videos": self.processor.videos(clips) if clips else None}

    def _write(self, messages: list[dict], seen: dict, schemas: list[dict], thinking: bool | None,
               add_generation_prompt: bool = True) -> Inputs:
        """What the model reads, once `_look` has seen the pictures."""
        self._check_tokenizer()
        tokenizer = self.tokenizer
        if thinking not in (None, tokenizer.thinking_by_default) and not tokenizer.supports_thinking:
            raise QwenError(f"The chat template of {self._name} has no thinking switch: leave `thinking` out.")
        if schemas and not tokenizer.supports_tools:
            raise QwenError(f"{self._name} was not made for tools (its chat template does not show them, or it has no "
                            f"token <tool_call>): leave `tools` out.")
        text, ids = tokenizer.write_chat(
            messages, expand=partial(self.processor.expand, **seen) if seen else None, thinking=thinking,
            tools=schemas or None, add_generation_prompt=add_generation_prompt)
        media = {}
        for kind, pixels, grid in (("images", "pixel_values", "image_grid_thw"),
                                   ("videos", "pixel_values_videos", "video_grid_thw")):
            if seen.get(kind) is not None:
                media |= {pixels: seen[kind].pixel_values, grid: seen[kind].grid_thw}
        return Inputs(text, ids, media)

    def _options(self, given: dict) -> dict:
        """The options of `minqwen.stream` for a chat: the given ones, then the checkpoint's, then our own."""
        self._check_tokenizer()
        for name in given:
            if name not in OPTIONS:
                raise QwenError(f"chat has no option {name!r}; it has {', '.join(OPTIONS)}.")
        options = OPTIONS | self.defaults | {name: value for name, value in given.items() if value is not None}
        options = {name: generation.number(name, value) for name, value in options.items()}
        options["stop_ids"] = self.tokenizer.stop_ids
        if options["thinking_budget"] is not None:
            options["think_ids"] = tuple(map(self.tokenizer.id_of, ("<think>", "</think>")))
            options["end_think_ids"] = self.tokenizer.encode(END_OF_THINKING)
        return options

    def _check_tokenizer(self):
        if self.tokenizer is None:
            raise QwenError(f"{self._name} has no tokenizer (tokenizer.json), so it cannot chat: add the file (or "
                            f"give from_transformers a tokenizer), or call qwen.model and minqwen.generate with ids.")

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
        vision = ""
        if tower := self.config.vision_config:
            side = tower.patch_size * tower.spatial_merge_size
            vision = f"  vision     {tower.depth} layers, a token for every {side} x {side} pixels\n"
        linear, dtype = text.layer_types.count("linear_attention"), str(weight.dtype).removeprefix("torch.")
        if bits := quantized_bits(self.model):
            dtype = f"{bits} beside {dtype}"
        return (f"{self._name}: {parameters:,} parameters, {dtype} on {weight.device}\n"
                f"  layers     {linear} Gated DeltaNet, {text.num_hidden_layers - linear} gated attention, "
                f"{text.hidden_size} wide\n"
                f"{vision}"
                f"  tokenizer  {tokens}\n"
                f"  context    {text.max_position_embeddings:,} tokens")


class Turn:
    """What becomes of one question: the answer, and before it rounds of tool calls if the model asks for any.

    inputs: what the model reads in the round to come.
    new:    the messages that the turn adds to the chat; the last one grows while the model speaks.
    reply:  the answer, when it is complete; None before.
    """

    def __init__(self, assistant: Assistant, messages: list[dict], thinking: bool | None,
                 tools: "Sequence[Callable | dict]", max_tool_rounds: int, thinking_budget: int | None,
                 add: Callable[[dict], None] = lambda message: None):
        """add: is called with each new message as soon as it begins."""
        if not isinstance(max_tool_rounds, int) or max_tool_rounds < 0:
            raise QwenError(f"max_tool_rounds must be a whole number, 0 or more, not {max_tool_rounds!r}.")
        self.assistant, self.messages, self.thinking, self.add = assistant, messages, thinking, add
        schemas = describe_all(tools)
        self.tools, self.schemas = tools, list(schemas.values())
        self.for_the_user = {name for name, tool in zip(schemas, tools or ()) if isinstance(tool, dict)}
        self.rounds_left, self.thinking_budget = max_tool_rounds, thinking_budget
        self.seen = assistant._look(messages)           # once: what tools return is text
        self.new, self.calls, self.reply = [], [], None
        self.inputs = self._write()

    def _write(self, add_generation_prompt: bool = True) -> Inputs:
        messages = [*self.messages, *self.new]
        return self.assistant._write(messages, self.seen, self.schemas, self.thinking, add_generation_prompt)

    def stem(self) -> list[int]:
        """The beginning of `inputs.ids` that a later prompt will begin with, too."""
        return self._write(add_generation_prompt=False).ids

    def pieces(self, read: Callable[[Inputs], Iterator[list[int]]]) -> Iterator[Piece]:
        """The whole turn, piece by piece. read: gives the new tokens of one round."""
        while self.reply is None:
            yield from self.hear(id for (id,) in read(self.inputs))

    def answer(self, read: Callable[[Inputs], Iterator[list[int]]]) -> Reply:
        """The whole turn at once."""
        for _ in self.pieces(read):
            pass
        return self.reply

    def hear(self, ids: Iterable[int]) -> Iterator[Piece]:
        """One round: what the model says with these tokens, and the results of what it calls."""
        speech = Speech(self.assistant.tokenizer, self.inputs.text, self.thinking_budget, self.tools)
        message = {"role": "assistant", "content": ""}
        for piece in speech.follow(self._noted(ids, message)):
            part = "reasoning_content" if piece.thinking else "content"
            if not piece.tool:
                message[part] = message.get(part, "") + piece
            yield piece
        reply = speech.reply()
        calls, message["content"] = reply.tool_calls, str(reply)
        if calls or reply.thinking or "</think>" in reply:    # or the template would look for thinking in the content
            message["reasoning_content"] = reply.thinking
        if calls:
            message["tool_calls"] = [one.official() for one in calls]
            self.calls += calls
        # what can be run: all but schemas; a name that nobody knows gives an error, which the model reads
        can_run = self.rounds_left and not any(one.name in self.for_the_user and not one.problem for one in calls)
        if not calls or reply.finish == "length" or not can_run:
            finish = "tools" if calls and reply.finish != "length" else reply.finish
            self.reply = Reply(reply, reply.thinking, reply.ids, reply.prompt, finish, self.calls, self.new)
            return
        self.rounds_left -= 1
        for one in calls:
            one.result = call(self.tools, one)
            self._note({"role": "tool", "content": one.result})
            yield Piece(one.result, tool="result")
        self.inputs = self._write()

    def _noted(self, ids, message):
        for n, id in enumerate(ids):
            if n == 0:                                  # not before: a prompt that could not be read leaves no trace
                self._note(message)
            yield id

    def _note(self, message):
        self.new.append(message)
        self.add(message)


@dataclass(frozen=True, eq=False)
class Read:
    """What a cache had read when the snapshot was taken."""

    ids: list[int]
    media: dict[str, Tensor]
    cache: Cache
    snapshot: Snapshot

    def begins(self, inputs: Inputs) -> bool:
        """Whether these begin with what was read - the pictures too: two of one size have the same ids."""
        n, media = len(self.ids), inputs.media
        return (n < len(inputs.ids) and inputs.ids[:n] == self.ids
                and all(name in media and media[name][: len(x)].equal(x) for name, x in self.media.items()))


class Conversation:
    """A chat that remembers what was said.

    `messages` is the history, and may be edited. On the next turn the template shows the model's answer without its
    thinking, without even the empty think block; so the cache then goes back to the end of the question, and reads the
    answer anew. A recurrent state cannot be cropped: going back takes a snapshot.
    """

    def __init__(self, assistant: Assistant, system: str | None = None, thinking: bool | None = None, options=None,
                 tools: "Sequence[Callable | dict]" = (), max_tool_rounds: int = 8):
        self.assistant, self.thinking, self.options = assistant, thinking, options or {}
        self.tools, self.max_tool_rounds = tools, max_tool_rounds
        describe_all(tools)                             # complains now, if it must
        self.messages = [] if system is None else [{"role": "system", "content": system}]
        self._read: list[Read] = []                     # places to go back to, on one cache, each further on

    def __call__(self, text: str | None = None, *, images: Sequence = (), videos: Sequence = (), stream: bool = False,
                 **options) -> "Reply | Iterator[Piece]":
        """Say something: the `Reply`, or with `stream` its `Piece`s. An answer broken off is kept as far as it came.

        Args:
            text: None goes on from `messages` as they are, when you have added the results of tools there.
            images, videos, options: as in `Assistant.chat`.
        """
        question = [] if text is None else as_messages(text, None, images, videos)
        options = self.assistant._options(self.options | options)

        def add(message):
            self.messages += [*question, message]
            question.clear()

        turn = Turn(self.assistant, as_messages([*self.messages, *question]), self.thinking, self.tools,
                    self.max_tool_rounds, options["thinking_budget"], add)
        generation.stream(self.assistant.model, [turn.inputs.ids], **turn.inputs.media, **options)  # complains now
        read = partial(self._steps, turn, options)
        return turn.pieces(read) if stream else turn.answer(read)

    def _steps(self, turn: Turn, options: dict, inputs: Inputs) -> Iterator[list[int]]:
        """Generate from `inputs`, reading only what the cache has not read yet."""
        model, context = self.assistant.model, self.assistant.config.text_config.max_position_embeddings
        ids, stem, media = inputs.ids, turn.stem(), inputs.media
        room = min(len(ids) + options["max_new_tokens"], context)
        may_reuse = options["repetition_penalty"] == 1  # else every token of the prompt counts, and must come by
        while self._read and not (may_reuse and self._read[-1].begins(inputs)
                                  and room <= self._read[-1].cache.max_length):
            self._read.pop()
        if self._read:
            last = self._read[-1]
            known, cache, media = last.ids, last.cache, _rest(media, last.media)
            cache.restore(last.snapshot)
        else:
            known, cache = [], model.new_cache(1, min(2 * room, context))
        if options["draft_tokens"]:
            Drafter(model, cache)                       # from here on it reads along
        if may_reuse and ids[: len(stem)] == stem and len(known) < len(stem) < len(ids):
            piece = torch.tensor([stem[len(known):]], device=model.head_weight.device)
            generation.prefill(model, piece, cache, prefill_chunk=options["prefill_chunk"], **media)
            known, media = stem, {}
            # The end of the question is where the next turn goes on from, the end of a tool's result the next round.
            self._read = [*(self._read[:1] if turn.new else []), Read(stem, inputs.media, cache, cache.snapshot())]
        yield from generation.stream(model, [ids[len(known):]], cache=cache, **media, **options)


# --------------------------------------------------------------------------------------------------------- small things


def _joined(media: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The pictures of several chats, those of the first one first."""
    names = dict.fromkeys(name for one in media for name in one)
    return {name: torch.cat([one[name] for one in media if name in one]) for name in names}


def _rest(media: dict[str, Tensor], seen: dict[str, Tensor]) -> dict[str, Tensor]:
    """The pictures behind those that were seen."""
    rest = {name: x[len(seen.get(name, ())) :] for name, x in media.items()}
    return {name: x for name, x in rest.items() if len(x)}


def _sampling_defaults(folder: Path | None) -> dict:
    """What `generation_config.json` says of sampling; without `do_sample` the likeliest token is taken.

    With it, what the file leaves open is as in `transformers`: one of the 50 likeliest tokens, at temperature 1.
    """
    if folder is None or not (folder / "generation_config.json").exists():
        return {}
    path = folder / "generation_config.json"
    stored, names = read_json(path), ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    numbers = {name: generation.number(name, stored[name], path) for name in names if stored.get(name) is not None}
    draw = stored.get("do_sample")
    if not isinstance(draw, bool | None):
        raise QwenError(f"{path}: do_sample must be true or false, not {draw!r:.60}.")
    return {"temperature": 1.0, "top_k": 50} | numbers if draw else numbers | {"temperature": 0.0}
