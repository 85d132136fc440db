"""What lessons hold their own functions against: what layers put out, samples, and prompts in transformers' terms."""

from collections.abc import Iterable

from torch import Tensor, nn

__all__ = ["layer_outputs", "nano_conversations", "official_numbers", "prompt_parts"]


def layer_outputs(model: nn.Module, input_ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The logits (B, T, V) and what each layer puts out, (B, T, hidden_size): of a `Qwen` or of its `official_twin`."""
    stack, seen = getattr(model.model, "language_model", model.model), []
    hooks = [layer.register_forward_hook(lambda layer, inputs, x: seen.append(x[0] if isinstance(x, tuple) else x))
             for layer in stack.layers]
    try:
        result = model(input_ids)
    finally:
        for hook in hooks:
            hook.remove()
    return getattr(result, "logits", result), seen


def nano_conversations(task, tokenizer, count: int) -> list[tuple[list[int], list[bool]]]:
    """Held-out conversations of the little world: [(token ids, which of them the model has to say)].

    task: one of `minqwen.nano.score`, such as `facts(8)`.
    """
    from minqwen.nano.world import pieces

    found = []
    for conversation in task.samples(count):
        ids, says = [], []
        for text, its_own in pieces(conversation):
            new = tokenizer.encode(text)
            ids, says = ids + new, says + len(new) * [its_own]
        found.append((ids, says))
    return found


def official_numbers(settings) -> dict:
    """Settings of pictures (`minqwen.media.Settings`), by the names and in the form that transformers wants."""
    numbers = {name: list(x) if isinstance(x, tuple) else x for name, x in vars(settings).items()}
    numbers["size"] = {name: numbers.pop(name) for name in ("shortest_edge", "longest_edge")}
    return numbers


def prompt_parts(input_ids: list[int], sizes: Iterable[tuple[int, int]], config) -> list[int | tuple[int, int]]:
    """A prompt as runs of words, which are counted, and the (rows, columns) of its pictures and slices, in order."""
    parts, sizes, left = [], iter(sizes), 0
    for id in input_ids:
        if left:                                         # inside of a picture
            left -= 1
        elif id in (config.image_token_id, config.video_token_id):
            rows, columns = next(sizes)
            parts.append((rows, columns))
            left = rows * columns - 1
        elif parts and isinstance(parts[-1], int):
            parts[-1] += 1
        else:
            parts.append(1)
    return parts
