"""What lessons hold their own functions against: outputs of the package's layers and of transformers', and samples."""

from torch import Tensor, nn

__all__ = ["layer_outputs", "nano_conversations"]


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
