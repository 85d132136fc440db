"""The nano model: a true world, text as the template has it, training that resumes, scores as the card says."""

import json
import re
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as FastTokenizer

import minqwen
from minqwen.nano import score as scoring
from minqwen.nano import train, world
from minqwen.nano.tokenizer import build_tokenizer, save_tokenizer
from minqwen.tokenizer import Tokenizer

NANO = Path(__file__).parents[1] / "data" / "nano"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def qwen():
    return minqwen.load(NANO)


# --------------------------------------------------------------------------------------------------------- the world


def read_story(text):
    """What a careful reader takes from a story: who has what, and who is where, at its end."""
    has, place = {}, {}
    for sentence in re.findall(r"[^.?]+\.", text):
        if found := re.fullmatch(r"\s*(\w+) (?:now )?has (a \w+ \w+)\.", sentence):
            has[found[1]] = found[2]
        elif found := re.fullmatch(r"\s*(\w+) (?:goes to|is in) (the \w+)\.", sentence):
            place[found[1]] = "in " + found[2]
    return has, place


def test_answers_are_what_a_careful_reader_would_say():
    overwritten = set()
    for seed in range(300):
        conversation = world.facts_conversation(Random(seed), facts=1 + seed % 20, questions=4)
        text = ""
        for turn in conversation.turns:
            text += " " + turn.question
            has, place = read_story(text)
            asked, name = re.search(r"(what does|where is) (\w+)(?: have)?\?$", turn.question).groups()
            assert turn.answer == (has if asked == "what does" else place)[name]
            again = rf"{name} now has" if asked == "what does" else rf"{name} goes to"
            overwritten.add((asked, re.search(again, text) is not None))
    assert len(overwritten) == 4                        # both questions, about what was told once and what was changed


def test_what_is_thought_about_a_fact_is_the_last_that_was_told_of_it():
    for seed in range(100):
        turn = world.facts_conversation(Random(seed), 12, 1, thinking=True).turns[0]
        name = re.search(r"(?:what does|where is) (\w+)", turn.question)[1]
        verbs = r"(?:now )?has a \w+ \w+" if turn.question.endswith("have?") else r"(?:goes to|is in) the \w+"
        assert turn.thinking == re.findall(rf"\b{name} {verbs}\.", turn.question)[-1]
        assert turn.answer.split()[-1] in turn.thinking


def test_sums_are_right_and_so_is_every_line_that_is_thought():
    for seed in range(300):
        a, b = world.pair(Random(seed), 1 + seed % 4)
        turn = world.addition(a, b, thinking=True)
        assert turn.answer == str(a + b) and turn.question == f"what is {a} + {b}?"
        carry, digits = 0, ""
        for line in turn.thinking.splitlines():
            x, y, c, total = map(int, re.fullmatch(r"(\d) \+ (\d) \+ (\d) = (\d+)", line).groups())
            assert c == carry and total == x + y + c
            carry, digits = total // 10, str(total % 10) + digits
        assert int(f"{carry}{digits}") == a + b


def test_held_out_sums_are_never_trained_on():
    tested = {tuple(sorted(world.pair(Random(i), 3, test=True))) for i in range(500)}
    trained = {tuple(sorted(world.pair(Random(i), 3))) for i in range(5000)}
    assert not tested & trained
    assert all(world.held_out(a, b) and world.held_out(b, a) for a, b in tested)
    assert not any(world.held_out(a, b) for a, b in trained)


# ---------------------------------------------------------------------------------------- tokenizer, template, samples


def test_every_word_of_the_world_is_one_token(folder):
    tokenizer = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    for word in (*world.NAMES, *world.COLOURS, *world.THINGS, *world.PLACES):
        assert len(tokenizer.encode(" " + word).ids) == 1, word
    for word in world.NAMES:
        assert len(tokenizer.encode(word).ids) == 1, word
    assert len(tokenizer.encode("4096").ids) == 4
    for text in ("naïve café 日本語 🙂", "def f(x):\n    return x + 1\n"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_shipped_tokenizer_is_the_one_that_is_built():
    shipped = FastTokenizer.from_file(str(NANO / "tokenizer.json"))
    assert json.loads(shipped.to_str()) == json.loads(build_tokenizer().to_str())


@pytest.mark.parametrize("thinking", [False, True])
def test_training_text_is_what_the_template_renders(folder, thinking):
    """The pieces put together are the chat as it is rendered, and cutting them apart does not change their tokens."""
    tokenizer = Tokenizer.from_folder(folder)
    for seed in range(40):
        rng = Random(seed)
        conversation = (world.facts_conversation(rng, 6, 3, thinking), world.sums_conversation(rng, thinking, 3, 2),
                        world.greeting_conversation(rng, thinking))[seed % 3]
        pieces = world.pieces(conversation)
        text = "".join(text for text, _ in pieces)
        prompt = tokenizer.render(conversation.messages(), thinking=thinking)
        assert text.startswith(prompt)
        last = conversation.turns[-1]
        answer = {"role": "assistant", "content": last.answer, "reasoning_content": last.thinking or ""}
        assert text == tokenizer.render([*conversation.messages(), answer], add_generation_prompt=False)
        ids, learnt = train.Encoder(tokenizer.fast)(pieces)
        assert ids == tokenizer.encode(text)
        said = tokenizer.decode([i for i, yes in zip(ids, learnt) if yes], skip_special_tokens=False)
        assert said.endswith(f"{last.answer}<|im_end|>") and "<|im_start|>" not in said
        assert (last.thinking or "") in said


def test_thinking_is_off_unless_asked_for(folder):
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.supports_thinking and not tokenizer.thinking_by_default
    assert tokenizer.render([{"role": "user", "content": "hi"}]).endswith("assistant\n<think>\n\n</think>\n\n")


# ---------------------------------------------------------------------------------------------------------- training


def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path, monkeypatch):
    def run(name, *more):
        train.main(["--steps", "4", "--tokens", "400", "--probe-every", "100", "--keep-every", "2",
                    "--run", str(tmp_path / name), "--out", str(tmp_path / f"{name}-out"), *more])
        return load_file(tmp_path / f"{name}-out" / "model.safetensors")

    monkeypatch.setattr(train, "probe", lambda *_: {})
    whole = run("whole")
    real, calls = train.losses, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) > 2 * 2 + 1:                      # two batches a step: in the middle of the third step
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(train, "losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("resumed")
    assert not (tmp_path / "resumed-out").exists()
    monkeypatch.setattr(train, "losses", real)
    resumed = run("resumed")
    assert whole.keys() == resumed.keys()
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=1e-6, atol=1e-7)
    with pytest.raises(SystemExit, match="--restart"):
        run("resumed", "--lr", "0.5")


def test_the_shipped_model_says_how_it_was_made():
    facts = json.loads((NANO / "training.json").read_text())
    card = (NANO / "README.md").read_text()
    assert facts["command"] in card and f"Seed {facts['seed']}, {facts['steps']} steps" in card
    log = (NANO / "training.csv").read_text().splitlines()
    assert log[0].startswith("step,seconds,") and log[-1].startswith(f"{facts['steps']},")


# ------------------------------------------------------------------------------------------------------------ scores


@pytest.mark.parametrize("task", scoring.TASKS, ids=lambda task: task.name)
def test_scores_of_the_card_can_be_measured_again(qwen, task):
    """A sample of each line is asked again: as good as the card says, within what so few samples can tell."""
    claimed = json.loads((NANO / "scores.json").read_text())[task.name]
    p = claimed["right"] / claimed["samples"]
    row = f"| {task.name}{' *' if task.beyond else ''} | {p:.1%} | {claimed['samples']} |"
    assert row in (NANO / "README.md").read_text()
    measured = scoring.score(qwen, task, samples=50)
    spread = 4 * (max(p * (1 - p), 0.01) / measured.samples) ** 0.5
    assert abs(measured.accuracy - p) <= spread, measured.mistakes


def test_what_was_promised_of_the_scores():
    claimed = json.loads((NANO / "scores.json").read_text())
    accuracy = {name: row["right"] / row["samples"] for name, row in claimed.items()}
    assert accuracy["the latest of 12 facts"] >= 0.99
    assert accuracy["the latest of 40 facts"] >= 0.95
    assert accuracy["3-digit sums, thinking"] >= 0.98
    assert accuracy["3-digit sums, thinking"] >= accuracy["3-digit sums at once"] + 0.3
