"""The rollout explorer without a browser: what it shows is what was drawn and what the model says now."""

import math
from random import Random

import numpy as np
import pixels
import pytest
import torch
from chat_support import byte_tokenizer
from plots_support import draw
from support import random_qwen, small_config
from widget_support import in_a_notebook, kept_in, move

import minqwen
from minqwen.chat import Assistant
from minqwen.errors import QwenError
from minqwen.nano import world
from minqwen.nano.rollouts import Answer, sum_of
from minqwen.widgets import RolloutExplorer


def assistant():
    tokenizer = byte_tokenizer()
    return Assistant(random_qwen(small_config(vocab_size=tokenizer.vocab_size)), tokenizer)


def answers_to(qwen, turn, random, *lengths):
    """Answers of random tokens, every third of which was read and not written; the first one is right."""
    prompt, found = qwen.tokenizer.encode(turn.question), []
    for n, length in enumerate(lengths):
        ids = [random.randrange(97, 123) for _ in range(length)]
        written = [i % 3 != 2 or length == 1 for i in range(length)]
        answer = Answer(turn, prompt + ids, [False] * len(prompt) + written, text=turn.answer if n == 0 else "?" * n)
        answer.logprobs = [-5 - random.random() for yes in written if yes]
        found.append(answer)
    return found


def answered(**place):
    """Two questions, the second with a shorter group of shorter answers."""
    qwen, random = assistant(), Random(0)
    turns = [sum_of(Random(seed), digits=3) for seed in (0, 1)]
    groups = [answers_to(qwen, turns[0], random, 20, 7, 33, 12), answers_to(qwen, turns[1], random, 1, 9)]
    return RolloutExplorer(qwen, groups, **place)


@pytest.fixture(scope="module")
def explorer():
    return answered()


def test_it_tells_what_was_drawn_and_what_is_likely_now(explorer):
    qwen, random = assistant(), Random(0)
    for told, lengths, seed in zip(explorer.story["groups"], ((20, 7, 33, 12), (1, 9)), (0, 1), strict=True):
        group = answers_to(qwen, sum_of(Random(seed), digits=3), random, *lengths)
        mean = 1 / len(group)
        assert told["question"] == group[0].turn.question and told["mean"] == mean
        for answer, one in zip(group, told["answers"], strict=True):
            first = len(answer.ids) - len(one["tokens"])
            with torch.no_grad():
                likely = qwen.model(torch.tensor([answer.ids]))[0].log_softmax(-1)
            after = [likely[i - 1, answer.ids[i]].item() if answer.written[i] else None
                     for i in range(first, len(answer.ids))]
            drawn = iter(answer.logprobs)
            assert list(one["before"]) == [next(drawn) if yes else None for yes in answer.written[first:]]
            assert [x is None for x in after] == [x is None for x in one["after"]]
            assert [x for x in one["after"] if x is not None] == pytest.approx([x for x in after if x is not None],
                                                                               abs=1e-4)
            assert "".join(token["text"] for token in one["tokens"]) == qwen.tokenizer.decode(answer.ids[first:])
            assert (one["reward"], one["right"], one["text"]) == (answer.right, answer.right, answer.text)
            assert one["advantage"] == pytest.approx(answer.right - mean)


def test_changes_are_what_is_after_less_what_was_before(explorer):
    changes, told = explorer.changes(0), explorer.story["groups"][0]
    assert changes.shape == (4, 33) and explorer.changes(1).shape == (2, 9)
    assert np.isnan(changes[1, 7:]).all() and np.isnan(changes[0, 2]) and not np.isnan(changes[0, :2]).any()
    assert changes[2, 3] == told["answers"][2]["after"][3] - told["answers"][2]["before"][3]
    assert told["limit"] == pytest.approx(np.nanmax(abs(changes)))


def test_another_reward_is_asked_for_each_answer():
    qwen, turn = assistant(), world.addition(1, 2, thinking=True)
    group = answers_to(qwen, turn, Random(0), 3, 5)
    told = RolloutExplorer(qwen, [group], lambda answer: len(answer.text)).story["groups"][0]
    assert [one["reward"] for one in told["answers"]] == [1, 1] and told["answers"][0]["advantage"] == 0


def test_the_map_has_a_cell_for_each_token_that_was_written(explorer):
    across, down = explorer.story["cell"]
    picture = pixels.rollout_map(explorer, 0)
    assert picture.shape == (4 * down, 33 * across, 4)
    assert np.array_equal(picture[::down, ::across, 3] > 0, ~np.isnan(explorer.changes(0)))


def test_moves_stay_within_the_answer():
    explorer = answered(answer=2, token=-1)
    assert explorer.token == 32
    move(explorer, answer=1)
    assert (explorer.answer, explorer.token) == (1, 6)
    explorer.answer, explorer.token = 3, 11
    explorer.group = 1
    assert (explorer.answer, explorer.token) == (1, 8)
    assert in_a_notebook(explorer) == repr(explorer) and repr(explorer).startswith("RolloutExplorer(2 x 4 answers, ")


@pytest.mark.filterwarnings("error")
def test_a_figure_that_stands_still(explorer):
    for place in ((0, 0, 0), (32, 2, 0), (0, 0, 1)):
        figure, alt = explorer.still(*place)
        draw(figure)
        token, answer, group = place
        assert f"Answer {answer + 1} and its token {token + 1} are marked" in alt
        assert explorer.story["groups"][group]["question"] in alt
        shown = figure.axes[0].images[0].get_array()
        assert np.allclose(shown.compressed(), (numbers := explorer.changes(group))[~np.isnan(numbers)])


def test_the_page(explorer, tmp_path):
    state = kept_in(explorer.to_html(tmp_path / "page.html"))
    assert state["story"]["groups"][1]["answers"][1]["text"] == "?" and state["token"] == explorer.token
    assert math.isclose(state["story"]["groups"][0]["limit"], explorer.story["groups"][0]["limit"])


def test_mistakes_are_told(explorer):
    qwen, turn = assistant(), sum_of(Random(0), 2)
    with pytest.raises(QwenError, match="needs what minqwen.load"):
        RolloutExplorer(qwen.model, [answers_to(qwen, turn, Random(0), 3)])
    for nothing in ([], [[]], [[Answer(turn, [1, 2], [False, False])]]):
        with pytest.raises(QwenError, match="nothing to show: give it groups of answers"):
            RolloutExplorer(qwen, nothing)
    with pytest.raises(QwenError, match="room for answers of 560 tokens, but one has 561"):
        RolloutExplorer(qwen, [answers_to(qwen, turn, Random(0), 561)])
    with pytest.raises(QwenError, match="no group 2 to explore; the last is 1"):
        answered(group=2)
    with pytest.raises(QwenError, match="no answer 4 to explore; the last is 3"):
        explorer.still(0, 4, 0)
    with pytest.raises(QwenError, match="no token 7 to explore; the last is 6"):
        explorer.still(7, 1, 0)
    assert minqwen.RolloutExplorer is RolloutExplorer
