"""Where an explorer is told to stand: what is no place of its own is told in one sentence, by all of them alike."""

import inspect
import math
from random import Random

import pytest
import torch
from chat_support import byte_tokenizer
from support import random_qwen, seeing_config, small_config, tokens
from test_experts_widget import mixture
from test_rollouts_widget import answers_to
from test_training_widget import a_run
from test_vision_widget import PARTS, traced

from minqwen import widgets
from minqwen.chat import Assistant
from minqwen.edits import Edit
from minqwen.errors import QwenError
from minqwen.nano.rollouts import sum_of
from minqwen.trace import trace
from minqwen.widgets.explorer import Explorer

ODD = (None, "x", "1", 1.0, 2.5, math.nan, True, 99, -99, 10**30, [], [1], (), torch.tensor([1, 2]), object())
WHAT = {"qwen", "text", "second", "groups", "reward", "run", "configs", "name", "search", "messages", "thinking",
        "most", "max_new_tokens", "options", "system", "tools"}      # arguments that say what is shown, and not where


@pytest.fixture(scope="module")
def makers():
    tokenizer = byte_tokenizer()
    with torch.no_grad():
        t, experts = trace(random_qwen()).run(tokens(1, 9)), trace(random_qwen(mixture())).run(tokens(1, 9))
    seeing = traced(random_qwen(seeing_config()), PARTS)
    qwen = Assistant(random_qwen(small_config(vocab_size=tokenizer.vocab_size, mtp_num_hidden_layers=1)), tokenizer)
    short, turn = {"max_new_tokens": 2}, sum_of(Random(0), digits=2)
    drafts = short | {"most": 2, "draft_tokens": 1}
    groups = [answers_to(qwen, turn, Random(0), 5, 3), answers_to(qwen, turn, Random(1), 4)]
    return {
        widgets.StateExplorer: lambda **place: widgets.StateExplorer(t, **place),
        widgets.AttentionExplorer: lambda **place: widgets.AttentionExplorer(t, **place),
        widgets.GateExplorer: lambda **place: widgets.GateExplorer(t, **place),
        widgets.ExpertExplorer: lambda **place: widgets.ExpertExplorer(experts, **place),
        widgets.VisionExplorer: lambda **place: widgets.VisionExplorer(seeing, **place),
        widgets.QuantExplorer: lambda **place: widgets.QuantExplorer(torch.eye(8, 64), search=False, **place),
        widgets.ContextCost: lambda **place: widgets.ContextCost({"small": small_config()}, **place),
        widgets.TrainingExplorer: lambda **place: widgets.TrainingExplorer(a_run(), **place),
        widgets.RolloutExplorer: lambda **place: widgets.RolloutExplorer(qwen, groups, **place),
        widgets.DraftExplorer: lambda **place: widgets.DraftExplorer(qwen, "?", **drafts | place),
        widgets.MemoryLab: lambda **place: widgets.MemoryLab(qwen, "?", **short | place),
        widgets.ChatPanel: lambda **place: widgets.ChatPanel(qwen, **place),
    }


def told(what, *arguments, **named):
    """The sentence that something ends with; None if all is well."""
    try:
        what(*arguments, **named)
    except QwenError as error:
        said = str(error)
        assert said.endswith(".") and "\n" not in said and len(said) < 250, said
        return said


KINDS = [kind for kind in vars(widgets).values() if inspect.isclass(kind) and issubclass(kind, Explorer)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_odd_place_is_told_in_one_sentence(makers, kind):
    """Given to begin with, moved to, or asked for: nothing but our sentence, for whatever somebody has written."""
    make = makers[kind]
    explorer = make()
    for name in inspect.signature(kind).parameters.keys() - WHAT:
        said = [told(make, **{name: odd}) for odd in ODD]
        assert all(said[ODD.index(odd)] for odd in ("x", 2.5, math.nan, 99, -99, 10**30)), (name, said)
    for name in kind.position:
        if not isinstance(before := getattr(explorer, name), list | dict):
            for odd in ODD:
                if told(setattr, explorer, name, odd):
                    assert getattr(explorer, name) == before, "it stays where it was"
                assert type(getattr(explorer, name)) is type(before), (name, odd)
                setattr(explorer, name, before)
    for name in inspect.signature(kind.still).parameters.keys() & set(kind.position):
        assert all(told(explorer.still, **{name: odd}) for odd in ("x", 1.5, True, 99, -99)), name


@pytest.mark.parametrize("text", [2.5, ["Ann has", "Bob has"]])
def test_what_is_no_text_is_told_in_one_sentence(text):
    for kind in (widgets.StateExplorer, widgets.AttentionExplorer, widgets.GateExplorer):
        assert "one text, one chat, or token ids" in told(kind, random_qwen(), text)


def test_a_row_is_counted_from_the_end_as_well():
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[0, :2] = 0
    with torch.no_grad(), trace(model := random_qwen()) as t:
        model(tokens(2, 6), attention_mask=mask)
    for kind in (widgets.StateExplorer, widgets.AttentionExplorer, widgets.GateExplorer):
        assert [kind(t, row=row).row for row in (0, 1, -1, -2)] == [0, 1, 1, 0]
        assert kind(t, row=-2).story == kind(t, row=0).story != kind(t, row=-1).story
        with pytest.raises(QwenError, match="no row 2 in this trace; the last is 1"):
            kind(t, row=2)


def test_a_lab_takes_a_list_of_edits_before_the_model_is_run(makers, monkeypatch):
    monkeypatch.setattr(Assistant, "chat", None)
    for wrong in (Edit("beta"), "beta", ["beta"], [Edit("beta", layer=9)]):
        assert told(makers[widgets.MemoryLab], edits=wrong)
