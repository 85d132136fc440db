"""What lessons hold their own functions against is what it says it is."""

from random import Random

import pytest
import torch

import minqwen
from minqwen import Edit
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


@pytest.mark.parametrize("facts, people, needles", [(1, 1, 0), (30, 5, 0), (40, 2, 4)])
def test_a_long_story_knows_what_holds_and_since_when(facts, people, needles):
    story, asked = evidence.long_story(Random(0), facts, people, needles)
    sentences = [f"{sentence}." for sentence in story.removesuffix(".").split(". ")]
    assert len(sentences) == facts and asked
    assert [fact.age for fact in asked] == sorted((fact.age for fact in asked), reverse=True)
    for question, answer, age in asked:
        kind = " has " if "have" in question else None
        name = question.removesuffix("?").split()[2]
        about = [i for i, sentence in enumerate(sentences) if sentence.startswith(f"{name} ")
                 and ((" has " in sentence) == (kind is not None))]
        assert about[-1] == facts - 1 - age and sentences[about[-1]].endswith(f"{answer.split(' ', 1)[1]}.")
    if needles:
        assert [fact.age for fact in asked] == [39, 26, 13, 0]


def test_a_reading_says_what_would_be_said(nano):
    story, asked = evidence.long_story(Random(1), 24, 8)
    reading = evidence.Reading(nano, story, asked)
    said = nano.chat_batch([[{"role": "user", "content": f"{story} {fact.question}"}] for fact in asked],
                           thinking=False, temperature=0, max_new_tokens=12)
    right = [reply == fact.answer for reply, fact in zip(said, asked)]
    assert reading.recalled().tolist() == right and reading.recalled(rows=3).tolist() == right
    assert sum(right) > len(right) / 2
    empty = reading.recalled(Edit("clear", token=reading.length), Edit("forget", token=reading.length))
    assert empty.sum() < 0.2 * len(right)
    assert reading.recalled().tolist() == right, "an edit is for one asking only"


def test_a_reading_of_another_model_and_in_pieces(nano):
    story, asked = evidence.long_story(Random(2), 24, 8)
    whole = evidence.Reading(nano, story, asked)
    pieces = evidence.Reading(nano, story, asked, piece=17)
    torch.testing.assert_close(pieces.cache.layers[0].recurrent_state, whole.cache.layers[0].recurrent_state)
    deaf = minqwen.Qwen(nano.config)                     # random weights
    assert evidence.Reading(nano, story, asked, model=deaf).recalled().sum() == 0
