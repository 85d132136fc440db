"""What a long text costs, measured: `make long`, or `python -m minqwen.long_context --out data/long_context.json`.

    memory     the most bytes that a process of its own holds which reads 512, 32,768 and 131,072 tokens, and the most
               that its tensors take; beside what `minqwen.info` says
    work       what the processor spends in a Gated DeltaNet layer and in an attention layer as the text grows: for each
               token of a prompt, which is read in pieces, and for a token of the answer

The model is narrow, so that minutes will do: three Gated DeltaNet layers with memories as wide as the official ones,
and above them one of attention. Its weights are random, which costs the same.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import process_time

import torch
from torch.autograd.profiler import profile

from .bench import machine, peak_memory
from .config import Config
from .errors import QwenError
from .files import SHIPPED, check_file, write_whole, writing
from .generate import decode_one_token, prefill
from .info import memory
from .model import Qwen

RECORD = SHIPPED / "data" / "long_context.json"
CONFIG = Config.from_dict({
    "model_type": "qwen3_5_text", "vocab_size": 256, "hidden_size": 128, "intermediate_size": 256,
    "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64,
    "linear_num_key_heads": 1, "linear_num_value_heads": 2, "tie_word_embeddings": True, "dtype": "float32",
})
PIECE, LENGTHS = 512, (512, 32_768, 131_072)             # tokens that are read at once; texts that are weighed
CONTEXTS = tuple(2 ** n for n in range(10, 18))          # where a layer's work is timed


def narrow_model() -> Qwen:
    torch.manual_seed(0)
    return Qwen(CONFIG).requires_grad_(False)


def random_text(tokens: int) -> torch.Tensor:
    """(1, tokens) ids."""
    return torch.randint(CONFIG.text_config.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------------------------------------------------- memory


def explained(config: Config, tokens: int, dtype: str = "float32") -> dict[str, int]:
    """Bytes that the cache of a text of so many tokens takes, by what they are for.

    While a piece is read its own work comes on top of that, the activations of the layer that needs most: they are as
    many in a long text as in a short one.
    """
    kept = memory(config, tokens, dtype)
    return {"keys and values": kept.keys_and_values, "states": kept.states, "last inputs": kept.convolutions,
            "which slots are real": tokens}              # `Cache.valid`: a byte each


def tensor_bytes(call: Callable) -> int:
    """The most bytes that tensors made by `call` take at any time: all of them, those inside of torch's own functions
    included."""
    with profile(profile_memory=True) as seen:
        call()
    now = most = 0
    for event in seen.kineto_results.events():
        if event.name() == "[memory]":                   # one when bytes are taken, and one when they are given back
            now += event.nbytes()
            most = max(most, now)
    return most


def last_piece(model: Qwen, tokens: int, piece: int = PIECE) -> None:
    """Make a cache for so many tokens, and read the last piece of them into it, as if the others had been read."""
    cache = model.new_cache(1, tokens)
    cache.length = tokens - piece
    for layer in cache.layers:
        if hasattr(layer, "keys"):
            layer.length = tokens - piece
    prefill(model, random_text(piece), cache, prefill_chunk=piece)


def weigh(tokens: int) -> dict[str, int]:
    """Read a text of so many tokens: the most bytes that this process has held, and the most that tensors took."""
    model, text = narrow_model(), random_text(tokens)
    prefill(model, text, model.new_cache(1, tokens), prefill_chunk=PIECE)
    process = peak_memory()                              # now: to watch tensors takes memory, too
    return {"tokens": tokens, "process": process, "tensors": tensor_bytes(lambda: last_piece(model, tokens))}


def alone(function: str, *arguments: int) -> dict:
    """What a function of this file gives in a process of its own.

    Raises:
        QwenError: the process failed.
    """
    code = (f"import json\nfrom minqwen import long_context\n"
            f"print(json.dumps(long_context.{function}(*{arguments})))")
    quiet = os.environ | {"KINETO_LOG_LEVEL": "6"}       # torch's profiler tells on stderr when it begins
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=quiet)
    if done.returncode:
        raise QwenError(f"The process that was to be measured failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


# --------------------------------------------------------------------------------------------------------------- work


@contextmanager
def clocks(model: Qwen) -> Iterator[dict[str, list[float]]]:
    """{kind of layer: seconds of the processor that its mixers took}, an entry for each call of each layer.

    The processor's time, for other programs do not stretch it.
    """
    seconds, hooks = {kind: [] for kind in set(model.config.text_config.layer_types)}, []
    for layer in model.model.language_model.layers:
        mixer = layer.linear_attn if layer.layer_type == "linear_attention" else layer.self_attn
        began, spent = [], seconds[layer.layer_type]
        hooks += [mixer.register_forward_pre_hook(lambda *_, began=began: began.append(process_time())),
                  mixer.register_forward_hook(lambda *_, began=began, spent=spent:
                                              spent.append(process_time() - began.pop()))]
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()


def work(model: Qwen, contexts: tuple[int, ...] = CONTEXTS, piece: int = PIECE, steps: int = 16) -> dict:
    """Seconds of one layer of each kind where the text has become so long: {"prefill": {kind: [for each token of the
    pieces that end there]}, "decode": {kind: [of a step]}}; the least of a few, as everything else only adds."""
    text, cache, found = random_text(contexts[-1] + steps), model.new_cache(1, contexts[-1] + steps), {}
    last_piece(model, 2 * piece, piece)                  # the first one of a process takes longer
    for end in range(piece, contexts[-1] + 1, piece):
        with clocks(model) as seconds:
            prefill(model, text[:, end - piece : end], cache, prefill_chunk=piece)
        for kind, some in seconds.items():
            found.setdefault(("prefill", kind), []).append(min(some) / piece)
        if end in contexts:
            here = cache.snapshot()
            with clocks(model) as seconds:
                for t in range(end, end + steps):
                    decode_one_token(model, text[:, t], cache)
            cache.restore(here)
            for kind, some in seconds.items():
                found.setdefault(("decode", kind), []).append(min(some))
    kinds, near = list(seconds), [(end // piece, min(8, end // piece // 2)) for end in contexts]
    return {"contexts": list(contexts), "decode": {kind: found["decode", kind] for kind in kinds}, "prefill": {
        kind: [min(found["prefill", kind][n - few : n]) for n, few in near] for kind in kinds}}


def measured() -> dict:
    """All of it, as it stands in `RECORD`."""
    return {"machine": machine(), "piece": PIECE, "memory": [alone("weigh", tokens) for tokens in LENGTHS],
            "work": work(narrow_model())}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RECORD, help=f"where the figures go ({RECORD.name} of the data)")
    out = parser.parse_args(argv).out
    try:
        check_file(out)
        figures = measured()
        with writing(out, kept=False):
            write_whole(out, (json.dumps(figures, indent=1) + "\n").encode())
    except QwenError as error:
        parser.error(str(error))
    print(out)


if __name__ == "__main__":
    main()
