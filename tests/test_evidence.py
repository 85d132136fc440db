"""What lessons hold their own functions against is what it says it is."""

import pytest
import torch

import minqwen
from minqwen.course import evidence
from minqwen.nano.score import facts
from minqwen.verify import official_twin


@pytest.fixture(scope="module")
def nano():
    return minqwen.load(dtype=torch.float32)


@torch.no_grad()
def test_layer_outputs_are_those_of_either_model(nano):
    ids = torch.tensor([[5, 6, 7, 8], [9, 9, 10, 11]])
    stack = nano.model.model.language_model
    logits, ours = evidence.layer_outputs(nano.model, ids)
    theirs_logits, theirs = evidence.layer_outputs(official_twin(nano.model), ids)
    assert len(ours) == len(theirs) == len(stack.layers)
    torch.testing.assert_close(logits, nano.model(ids))
    torch.testing.assert_close(logits, nano.model.head(stack.norm(ours[-1])))
    for one, other in zip([logits, *ours], [theirs_logits, *theirs]):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert not any(layer._forward_hooks for layer in stack.layers), "the model should be left as it was"


def test_nano_conversations_say_what_is_the_models_own(nano):
    task = facts(2)
    samples = task.samples(3)
    found = evidence.nano_conversations(task, nano.tokenizer, 3)
    assert len(found) == 3
    for (ids, says), conversation in zip(found, samples):
        assert len(ids) == len(says) and not says[0] and any(says)
        own = nano.tokenizer.decode([id for id, its in zip(ids, says) if its])
        given = nano.tokenizer.decode([id for id, its in zip(ids, says) if not its])
        for turn in conversation.turns:
            assert turn.question in given and turn.answer in own and turn.question not in own


def test_official_numbers_make_the_official_processor(nano):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Qwen3VLVideoProcessor(**evidence.official_numbers(nano.processor.video))
    assert theirs.patch_size == nano.processor.video.patch_size
    assert theirs.size == {"shortest_edge": nano.processor.video.shortest_edge,
                           "longest_edge": nano.processor.video.longest_edge}


def test_prompt_parts_count_words_and_keep_pictures_apart(nano):
    picture, clip = nano.config.image_token_id, nano.config.video_token_id
    ids = [5, 6, *6 * [picture], 7, *2 * [clip], *4 * [picture]]
    assert evidence.prompt_parts(ids, [(2, 3), (1, 2), (2, 2)], nano.config) == [2, (2, 3), 1, (1, 2), (2, 2)]
