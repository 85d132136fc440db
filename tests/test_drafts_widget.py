"""The draft explorer without a browser: it tells what drafting really came to, and mistakes are told."""

import numpy as np
import pixels
import pytest
from chat_support import byte_tokenizer
from plots_support import draw
from support import random_qwen, small_config
from widget_support import in_a_notebook, kept_in, move

from minqwen.chat import Assistant
from minqwen.drafts import Pass
from minqwen.errors import QwenError
from minqwen.generate import generate
from minqwen.widgets import DraftExplorer, drafts

QUESTION, NEW = "what does ann have?", 24


@pytest.fixture(scope="module")
def qwen():
    tokenizer = byte_tokenizer()
    return Assistant(random_qwen(small_config(vocab_size=tokenizer.vocab_size, mtp_num_hidden_layers=1)), tokenizer)


@pytest.fixture(scope="module")
def explorer(qwen):
    return DraftExplorer(qwen, QUESTION, most=3, max_new_tokens=NEW, temperature=0.4, seed=3)


def test_the_tokens_are_those_of_generate(qwen, explorer):
    for n, run in zip((1, 2, 3), explorer.story["runs"], strict=True):
        ids = generate(qwen.model, [qwen.inputs(QUESTION).ids], max_new_tokens=NEW, temperature=0.4, seed=3,
                       draft_tokens=n, stop_ids=qwen.tokenizer.stop_ids)[0]
        assert [id for one in explorer.runs[n] for id in one.given] == ids
        texts = [token["text"] for one in run["passes"] for token in one["given"]]
        assert texts == [qwen.tokenizer.decode([id], skip_special_tokens=False) for id in ids]
        for told, one in zip(run["passes"], explorer.runs[n], strict=True):
            assert (told["q"], told["p"], told["coins"], told["taken"]) == (one.q, one.p, one.coins, one.taken)
            assert len(told["drafted"]) == len(one.drafted)
    assert {one.taken for one in explorer.runs[3]} >= {0, 1}, "there should be passes of several kinds"


PASSES = [
    Pass(0, [], [], [], [], 0, [5], [0.9]),                  # the prompt
    Pass(0, [6, 7], [0.5, 0.4], [0.9, 0.8], [], 2, [6, 7, 8], [0.9, 0.8, 0.7]),
    Pass(0, [9, 1], [0.5, 0.4], [0.9, 0.1], [], 1, [9, 2], [0.9, 0.7]),
    Pass(0, [3, 4], [0.5, 0.4], [0.2], [], 0, [5], [0.6]),
    Pass(0, [6, 0], [0.5, 0.4], [0.9], [], 1, [6], [0.9]),    # 6 was a stop
]


def test_how_each_token_came():
    assert drafts.ways(PASSES) == ["own", "taken", "taken", "own", "taken", "instead", "instead", "taken"]


def test_what_it_came_to():
    assert drafts.summary(PASSES) == {"passes": 4, "tokens": 7, "taken": [0.75, 0.25]}
    assert drafts.summary(PASSES[:1]) == {"passes": 0, "tokens": 0, "taken": []}


def test_where_a_token_is_from(explorer):
    for n, passes in explorer.runs.items():
        places = [(i, j) for i, one in enumerate(passes) for j in range(len(one.given))]
        assert [explorer.where(token, n) for token in range(len(places))] == places


def test_bars_are_as_long_as_probable(explorer):
    row, wide = drafts.ROW, drafts.WIDE
    for token in range(NEW):
        one, picture = explorer.runs[3][explorer.where(token)[0]], pixels.draft_bars(explorer, token)
        for (top, _), numbers in zip(drafts.BARS, (one.q, one.p)):
            for i, p in enumerate(numbers):
                assert abs(picture[row * i + top, :, 3].sum() / 255 - p * wide) <= 3, (token, i)


def test_moves(qwen):
    explorer = DraftExplorer(qwen, QUESTION, most=2, draft_tokens=2, max_new_tokens=8)
    move(explorer, token=3, drafts=1)
    assert (explorer.token, explorer.drafts) == (3, 1)
    explorer.token = 7
    assert repr(explorer).startswith("DraftExplorer(7 tokens in ") and in_a_notebook(explorer) == repr(explorer)


def test_a_shorter_answer_keeps_the_token_in_it(explorer):
    explorer.drafts, explorer.token = 3, NEW - 1
    kept = explorer.story
    explorer.story = kept | {"runs": [kept["runs"][0] | {"ways": ["own"] * 4}, *kept["runs"][1:]]}
    explorer.drafts = 1
    assert explorer.token == 3
    explorer.story, explorer.drafts = kept, 3


@pytest.mark.filterwarnings("error")
def test_a_figure_that_stands_still(explorer):
    for n, token in ((3, 0), (3, NEW // 2), (1, NEW - 1)):
        figure, alt = explorer.still(token, n)
        draw(figure)
        number, _ = explorer.where(token, n)
        one = explorer.runs[n][number]
        assert f"pass {number + 1} of {len(explorer.runs[n])}" in alt
        assert f"takes {one.taken} of {len(one.drafted)}" in alt
        bars = [bar.get_width() for bar in figure.axes[1].patches]
        own = one.p_given[one.taken :]
        unread = [0] * (len(one.drafted) - len(one.p))
        assert np.allclose(bars, [*one.q, *(0 for _ in own), *one.p, *unread, *own])
        marks = [line.get_xdata()[0] for line in figure.axes[1].lines]
        assert np.allclose(marks, [coin * q for coin, q in zip(one.coins, one.q)])
        refused = sum(way == "instead" for way in explorer.story["runs"][n - 1]["ways"])
        assert len(figure.axes[0].texts) == NEW + refused


def test_the_page(explorer, tmp_path):
    state = kept_in(explorer.to_html(tmp_path / "page.html"))
    assert state["story"]["runs"][2]["ways"] == explorer.story["runs"][2]["ways"]
    assert (state["token"], state["drafts"]) == (explorer.token, explorer.drafts)


def test_mistakes_are_told(qwen, explorer):
    tokenizer = byte_tokenizer()
    plain = Assistant(random_qwen(small_config(vocab_size=tokenizer.vocab_size)), tokenizer)
    with pytest.raises(QwenError, match="has no head for multi-token prediction"):
        DraftExplorer(plain, QUESTION)
    with pytest.raises(QwenError, match="needs what minqwen.load"):
        DraftExplorer(qwen.model, QUESTION)
    with pytest.raises(QwenError, match="room for 1 to 8 drafts"):
        DraftExplorer(qwen, QUESTION, most=9)
    with pytest.raises(QwenError, match="answers of 1 to 160 tokens"):
        DraftExplorer(qwen, QUESTION, max_new_tokens=0)
    with pytest.raises(QwenError, match="1 to 2 drafts a pass, and not with 3"):
        DraftExplorer(qwen, QUESTION, most=2, draft_tokens=3, max_new_tokens=2)
    with pytest.raises(QwenError, match="generate has no option 'warmth'"):
        DraftExplorer(qwen, QUESTION, warmth=2)
    with pytest.raises(QwenError, match=f"no token {NEW} in the answer; the last is {NEW - 1}"):
        explorer.still(NEW, 3)
    with pytest.raises(QwenError, match="no token -1"):
        explorer.token = -1
