"""nano's tokenizer, template and training: text as the template has it, samples as promised, a run that resumes."""

import csv
import json
import math
import re
from collections import Counter
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from support import random_qwen
from tokenizers import Tokenizer as FastTokenizer
from torch.nn import functional as F
from tuning_support import FULL, on_a_full_disk, spoil

import minqwen
from minqwen.media import Processor
from minqwen.model import GatedDeltaNet, Qwen, Step
from minqwen.nano import chatter, pictures, train, world
from minqwen.nano.recipe import PHASES, Phase, Recipe
from minqwen.nano.samples import (
    COUNTING,
    LOOKING_UP,
    MOVING,
    Sample,
    calculator_samples,
    chatter_samples,
    phase_samples,
    picture_samples,
    story_samples,
    sum_samples,
)
from minqwen.nano.tokenizer import build_tokenizer, save_tokenizer
from minqwen.tokenizer import Tokenizer
from minqwen.verify import error

NANO = Path(__file__).parents[1] / "data" / "nano"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return folder


def encoder(folder):
    tokenizer = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    return train.Encoder(tokenizer, Processor.from_folder(folder, train.nano_config(tokenizer).vision_config))


def normal(question):
    """As it may be typed: a capital or a question mark less makes no other question."""
    return question.lower().removesuffix("?")


# ---------------------------------------------------------------------------------------- tokenizer, template, samples


def test_every_word_of_the_world_is_one_token(folder):
    tokenizer = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    words = "calculator picture shapes crosses colour many left right top bottom middle moves down up seconds".split()
    names = [*world.NAMES, *map(str.lower, world.NAMES)]
    for word in (*names, *world.COLOURS, *world.THINGS, *world.PLACES, *pictures.SHAPES, *words):
        assert len(tokenizer.encode(" " + word).ids) == 1, word
    for word in (*names, *world.COLOURS, "What", "what", "Where", "where", "Which", "which", "How", "how"):
        assert len(tokenizer.encode(word).ids) == 1, word
    assert len(tokenizer.encode("4096").ids) == 4
    for tag in ("<function=add>", "<parameter=a>", "</parameter>", "</function>", "<tools>"):
        assert len(tokenizer.encode(tag).ids) <= 3, tag
    assert len(tokenizer.encode(world.tools_block([world.add])).ids) < 80 and tokenizer.get_vocab_size() <= 960
    for text in ("naïve café 日本語 🙂", "def f(x):\n    return x + 1\n", "Ann, ann and ANN"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("cafe\u0301").ids == tokenizer.encode("café").ids


def test_texts_are_cut_and_put_together_as_by_the_official_tokenizer(folder):
    """To the letter of its settings: whoever builds that one around these merges reads the same."""
    transformers = pytest.importorskip("transformers")
    ours = json.loads((folder / "tokenizer.json").read_text())
    theirs = json.loads(transformers.Qwen3_5Tokenizer().backend_tokenizer.to_str())
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        assert ours[part] == theirs[part]


def test_the_shipped_tokenizer_is_the_one_that_is_built():
    shipped = FastTokenizer.from_file(str(NANO / "tokenizer.json"))
    assert json.loads(shipped.to_str()) == json.loads(build_tokenizer().to_str())


CONVERSATIONS = {
    "facts": lambda rng, thinking: world.facts_conversation(rng, 6, 3, thinking),
    "sums": lambda rng, thinking: world.sums_conversation(rng, thinking, 3, 2),
    "greeting": world.greeting_conversation,
    "picture": lambda rng, thinking: world.picture_conversation(rng, 4, thinking),
    "clip": lambda rng, thinking: world.picture_conversation(rng, 4, thinking, film=True),
    "mixed": lambda rng, thinking: world.mixed_conversation(rng, 3, 4, thinking),
    "tools": lambda rng, thinking: world.tools_conversation(rng, thinking, renamed=0.5),
    "told first": lambda rng, thinking: world.facts_conversation(rng, 6, 3, thinking, unknown=0.5, pause=True),
    "too long": lambda rng, thinking: world.Conversation([world.too_long(48210, 3377, thinking)], world.OTHERS),
    "unnamed": lambda rng, thinking: world.picture_conversation(rng, 4, thinking, unnamed=1),
    "chatter": world.chatter_conversation,
    "interrupted": lambda rng, thinking: world.interrupted(rng, world.facts_conversation(rng, 3, 2, thinking)),
    "typed": lambda rng, thinking: world.typed(rng, world.facts_conversation(rng, 6, 3, thinking)),
    "system": lambda rng, thinking: spoken_to(rng, world.chatter_conversation(rng, thinking)),
    "system and tools": lambda rng, thinking: spoken_to(rng, world.tools_conversation(rng, thinking)),
}


def spoken_to(rng, conversation):
    """With a system message."""
    conversation.system = chatter.chatter(rng)
    return conversation


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_training_text_is_what_the_template_renders(folder, kind, thinking):
    """The pieces put together are the chat as it is rendered, and cutting them apart does not change their tokens.

    What the model is to say is cut where the template ends its prompt: before each call, and before each answer.
    """
    tokenizer = Tokenizer.from_folder(folder)
    for seed in range(30):
        conversation = CONVERSATIONS[kind](Random(seed), thinking)
        tools = [world.describe(tool) for tool in conversation.tools] or None
        pieces, dialogue = world.pieces(conversation), conversation.dialogue()
        text = "".join(text for text, _ in pieces)
        assert text == tokenizer.render(dialogue, add_generation_prompt=False, tools=tools)
        assert conversation.system in text and (not conversation.system or dialogue[0]["role"] == "system")
        assert [id for text, _ in pieces for id in tokenizer.encode(text)] == tokenizer.encode(text)
        said = "".join(text for text, learn in pieces if learn)
        assert "<|im_start|>" not in said and "<tool_response>" not in said and "<tools>" not in said
        last = conversation.turns[-1]
        expected = [turn.call.text() for turn in conversation.turns if turn.call]
        expected += [turn.answer for turn in conversation.turns] + [last.thinking or ""]
        assert all(part in said for part in expected)

        # the prompts of the last turn: its question, and the result of its call
        asked = conversation.messages()
        assert asked[-1]["role"] == "user" and "user" not in [message["role"] for message in dialogue[len(asked):]]
        prompts = [asked, dialogue[:-1]] if last.call else [asked]
        starts = [sum(len(text) for text, _ in pieces[:i]) for i, (_, learn) in enumerate(pieces) if learn]
        for prompt, start in zip(prompts, starts[-len(prompts):]):
            assert text[:start] == tokenizer.render(prompt, thinking=last.thinking is not None, tools=tools)

        pieces = world.plain_pieces(conversation)
        plain = "".join(text for text, _ in pieces)
        assert [id for text, _ in pieces for id in tokenizer.encode(text)] == tokenizer.encode(plain)
        assert plain.count(world.IMAGE) == len(conversation.images()) == text.count(world.IMAGE)
        assert plain.count(world.CLIP) == len(conversation.clips()) == text.count(world.CLIP)


def test_trap_25_results_of_tools_are_no_questions(folder):
    """Think blocks after the last question are kept, empty ones too, however many results have come since."""
    render = Tokenizer.from_folder(folder).render
    def calls(*sums):
        return [{"function": {"name": "add", "arguments": {"a": a, "b": b}}} for a, b in sums]

    chat = [{"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello", "reasoning_content": "forgotten"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "", "tool_calls": calls((1, 2), (3, 4)), "reasoning_content": "kept"},
            {"role": "tool", "content": "3"}, {"role": "tool", "content": [{"type": "text", "text": "7"}]}]
    one = ("<tool_call>\n<function=add>\n<parameter=a>\n{}\n</parameter>\n<parameter=b>\n{}\n</parameter>\n"
           "</function>\n</tool_call>")
    user, assistant = "<|im_start|>user\n", "<|im_start|>assistant\n"
    results = "<tool_response>\n3\n</tool_response>\n<tool_response>\n7\n</tool_response>"
    expected = (f"{user}hi<|im_end|>\n{assistant}hello<|im_end|>\n{user}hi<|im_end|>\n"
                f"{assistant}<think>\nkept\n</think>\n\n{one.format(1, 2)}\n{one.format(3, 4)}<|im_end|>\n"
                f"{user}{results}<|im_end|>\n{assistant}<think>\n\n</think>\n\n")
    assert render(chat, thinking=False) == expected
    assert render([*chat[:4], {"role": "user", "content": results}], thinking=False) == expected
    assert "kept" not in render([*chat, {"role": "user", "content": "hi"}])
    assert "<think>\n\n</think>\n\nso" in render([*chat, {"role": "assistant", "content": "so"}])


def test_thinking_is_looked_for_in_the_answer_only_if_it_is_not_beside_it(folder):
    render, user = Tokenizer.from_folder(folder).render, {"role": "user", "content": "hi"}
    for beside, said in (({"reasoning_content": ""}, "a plain </think> tag"), ({}, "tag"), ({"thinking": None}, "tag")):
        answer = {"role": "assistant", "content": "a plain </think> tag", **beside}
        assert f"assistant\n{said}<|im_end|>" in render([user, answer, user])


def test_trap_26_calls_are_xml_and_values_that_are_no_text_are_json(folder):
    call = {"name": "book", "arguments": {"who": "ann", "sure": True, "seats": [1, 2]}}
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so:", "tool_calls": [call]}]
    text = Tokenizer.from_folder(folder).render(chat, add_generation_prompt=False)
    assert text.endswith("so:\n\n<tool_call>\n<function=book>\n<parameter=who>\nann\n</parameter>\n<parameter=sure>\n"
                         "true\n</parameter>\n<parameter=seats>\n[1, 2]\n</parameter>\n</function>\n</tool_call>"
                         "<|im_end|>\n")


def test_the_template_says_what_it_does_not_take(folder):
    render = Tokenizer.from_folder(folder).render
    user = {"role": "user", "content": "hi"}
    for messages, says in [([user, {"role": "robot", "content": "hi"}], "robot"),
                           ([user, {"role": "system", "content": "hi"}], "must come first"),
                           ([{"role": "system", "content": "hi"}], "no user message"),
                           ([{"role": "user", "content": [{"type": "sound"}]}], "a text, an image or a video"),
                           ([{"role": "user", "content": 3}], "a text or a list")]:
        with pytest.raises(minqwen.QwenError, match=says):
            render(messages)
    tools = [world.describe(world.add)]
    assert render([{"role": "system", "content": "be kind"}, user], tools=tools).startswith(
        f"<|im_start|>system\n{world.tools_block([world.add])}\n\nbe kind<|im_end|>\n<|im_start|>user\nhi")


def test_settings_of_the_pictures_are_those_that_are_trained_with(folder):
    images, videos = (json.loads((folder / f"{kind}preprocessor_config.json").read_text()) for kind in ("", "video_"))
    for settings, most in ((images, 9216), (videos, 36864)):
        assert settings["size"] == {"shortest_edge": 4096, "longest_edge": most}
        assert (settings["patch_size"], settings["merge_size"], settings["temporal_patch_size"]) == (8, 2, 2)
    sizes = [width * height for width, height in pictures.SIZES]
    assert min(sizes) >= 4096 and max(sizes) <= 9216 and videos["do_sample_frames"] is False


def test_thinking_is_off_unless_asked_for(folder):
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.supports_thinking and not tokenizer.thinking_by_default
    assert tokenizer.render([{"role": "user", "content": "hi"}]).endswith("assistant\n<think>\n\n</think>\n\n")


# ---------------------------------------------------------------------------------------------------------- training


def resumes_to_the_same_weights(folder, monkeypatch, *options):
    """A run of four steps, and one interrupted in its third that goes on. Returns what starts a run by a name."""
    def run(name, *more):
        train.main(["--steps", "4", "--tokens", "400", "--probe-every", "100", "--keep-every", "2", *options,
                    "--run", str(folder / name), "--out", str(folder / f"{name}-out"), *more])
        return load_file(folder / f"{name}-out" / "model.safetensors")

    monkeypatch.setattr(train, "probe", lambda *_: {})
    whole = run("whole")
    real, calls = train.step_losses, []

    def interrupted(*args):
        calls.append(1)
        losses = real(*args)
        if len(calls) > 2:                              # in the third step: its gradients are there, and are lost
            raise KeyboardInterrupt
        return losses

    monkeypatch.setattr(train, "step_losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("resumed")
    assert not (folder / "resumed-out").exists()
    monkeypatch.setattr(train, "step_losses", real)
    resumed = run("resumed")
    assert whole.keys() == resumed.keys()
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=1e-6, atol=1e-7)
    return run


def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path, monkeypatch, capsys):
    run = resumes_to_the_same_weights(tmp_path, monkeypatch, "--looks", "3", "--pictures", "3")
    known = [torch.load(tmp_path / name / "snapshot.pt")["state"]["curriculum"] for name in ("whole", "resumed")]
    assert known[1] == pytest.approx(known[0]) and known[0]["since"] == 4
    with pytest.raises(SystemExit):
        run("resumed", "--seed", "5")
    assert "holds a run with another seed: go on with the same" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["gradient", "weights"])
def test_a_training_that_comes_to_nothing_keeps_what_was_good(tmp_path, monkeypatch, capsys, fault):
    """And goes on from there with a lower rate; a disk that is full at its very end is told, and costs nothing."""
    real, rates = train.step_all, []

    def broken(optimizers, lr):
        rates.append(lr)
        if len(rates) == 3:
            spoil(optimizers[1], fault)
        return real(optimizers, lr)

    def run(*more):
        train.main(["--experts", "--steps", "4", "--tokens", "300", "--keep-every", "1", "--run", str(tmp_path / "run"),
                    "--out", str(tmp_path / "out"), *more])

    monkeypatch.setattr(train, "probe", lambda *_: {})
    monkeypatch.setattr(train, "step_all", broken)
    with pytest.raises(SystemExit):
        run()
    what = {"gradient": "The gradient is not a number", "weights": "The weights are no numbers any more"}[fault]
    assert f"{what}, in step 3; the last good state is kept: the same command goes on" in capsys.readouterr().err
    kept = torch.load(tmp_path / "run" / "snapshot.pt", weights_only=True)["state"]
    assert kept["step"] == 2 and all(x.isfinite().all() for x in kept["model"].values())
    for name in ("save_model", "save_tokenizer", "write_csv"):
        with monkeypatch.context() as full, pytest.raises(SystemExit):
            whole = getattr(train, name)
            full.setattr(train, name, lambda place, *args, whole=whole, **named: (
                on_a_full_disk(whole) if place != tmp_path / "run" / "tokenizer" else whole)(place, *args, **named))
            run("--lr", "1e-5")
        assert re.search(FULL, capsys.readouterr().err.partition("error: ")[2].strip())
    run("--lr", "1e-5")
    assert len(rates) == 5 and (tmp_path / "out" / "training.json").exists()


def test_every_layer_begins_with_memories_of_all_lengths(folder):
    model = Qwen(train.nano_config(FastTokenizer.from_file(str(folder / "tokenizer.json"))))
    train.begin_as_a_memory(model, half_lives=(30, 2000))
    mixers = [module for module in model.modules() if isinstance(module, GatedDeltaNet)]
    assert len(mixers) == 6
    for mixer in mixers:
        decay = torch.exp(-mixer.A_log.exp() * torch.nn.functional.softplus(mixer.dt_bias))     # of one token
        kept = decay.double() ** torch.logspace(*(math.log10(x) for x in (30, 2000)), 4).double()
        torch.testing.assert_close(kept, torch.full_like(kept, 0.5), rtol=1e-3, atol=0)


def test_a_words_spellings_begin_alike(folder):
    """"Ann", " Ann", "ann" and " ann": as near to each other as is said, as long as before, and far from all others."""
    tokenizer = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    spellings = {}
    for token, id in tokenizer.get_vocab().items():
        if (word := token.removeprefix("Ġ").lower()).isalpha() and word.isascii() and len(word) > 1:
            spellings.setdefault(word, []).append(id)
    several = [ids for ids in spellings.values() if len(ids) > 1]
    assert len(spellings["ann"]) == len(spellings["zoe"]) == 4 and len(spellings["red"]) >= 2
    for likeness in (0.8, 0.3):
        torch.manual_seed(0)
        model = Qwen(train.nano_config(tokenizer))
        vectors = model.model.language_model.embed_tokens.weight
        before = vectors.detach().clone()
        train.spell_alike(model, tokenizer, likeness)
        cosines = F.normalize(vectors.detach(), dim=-1) @ F.normalize(vectors.detach(), dim=-1).T
        alike = torch.cat([cosines[ids][:, ids][~torch.eye(len(ids), dtype=torch.bool)] for ids in several])
        assert alike.mean().item() == pytest.approx(likeness, abs=0.03) and alike.min() > likeness - 0.25
        changed = (vectors != before).any(-1)
        assert changed.nonzero().flatten().tolist() == sorted(sum(several, []))
        assert vectors[changed].norm(dim=-1).mean().item() == pytest.approx(before.norm(dim=-1).mean().item(), rel=0.05)
        groups = [torch.tensor(ids) for ids in several[:100]]
        strange = torch.stack([cosines[one[0], other[0]] for one in groups for other in groups if one is not other])
        assert strange.abs().mean() < 0.12


def test_stories_come_first_then_pictures_and_then_everything():
    phases = {phase.name: phase for phase in PHASES}

    def read(phase, steps=20, **numbers):
        recipe = Recipe(**numbers)
        samples = [sample for seed in range(steps)
                   for sample in phase_samples(Random(seed), phases[phase], recipe, most_facts=8)]
        kinds = Counter(sample.kind for sample in samples)
        weights = recipe.weights | phases[phase].weights
        assert weights.keys() == recipe.weights.keys()
        return weights, {kind: kinds[kind] / steps for kind in kinds}

    assert list(phases) == ["stories", "pictures", "clips", "everything", "counting", "kinds", "together"]
    weights, told = read("stories")
    assert told["pictures"] == 8 and told["facts"] > 8 and told.keys() == {"pictures", "facts", "mixed"}
    assert weights["facts"] == 10 * weights["pictures"]
    weights, kinds = read("pictures")
    assert kinds["pictures"] == 36 and 0.4 < kinds["facts"] / told["facts"] < 0.6 and kinds.keys() == told.keys()
    assert weights["facts"] == 1.5 * weights["pictures"]
    for phase, clips, more, counts, calls, chats in (
            ("clips", 9 + 8, {"clips": 2.0}, 0, 4, 3), ("everything", 9, {}, 0, 4, 3), ("counting", 9, {}, 8, 4, 3),
            ("together", 9, {}, 8, 6, 6)):
        weights, kinds = read(phase)
        assert (kinds["pictures"], kinds["clips"], kinds["calculator"], kinds["chatter"]) == (
            24 + counts, clips, calls, chats)
        assert 0.2 < kinds["unknown"] / (kinds["unknown"] + kinds["facts"]) < 0.3
        assert kinds.keys() == weights.keys() and weights == Recipe().weights | more
    weights, kinds = read("kinds")
    assert [kinds[kind] for kind in ("pictures", "clips", "calculator", "chatter")] == [8 + 24, 6, 8, 2]
    assert kinds.keys() == weights.keys() and weights["pictures"] == 2 and weights["calculator"] == 0.8
    _, kinds = read("clips", tokens=400, pictures=1)                            # none of them is ever left out
    assert [kinds[kind] for kind in ("pictures", "clips", "calculator", "chatter")] == [1, 2, 1, 1]


def test_the_next_phase_begins_when_this_one_is_mastered():
    """Or after so many steps. Stories grow when they are easy, up to the longest, and not while they are not."""
    recipe = Recipe()

    def steps_with(curriculum, **losses):
        phase, steps = curriculum.phase, 0
        while curriculum.phase == phase and steps < 5000:
            curriculum.go_on(losses, recipe)
            steps += 1
        return steps

    slow, quick = train.Curriculum(), train.Curriculum()
    stories, looking, clips, *between, _ = recipe.phases
    assert steps_with(slow, facts=0.3, pictures=0) == stories.steps and slow == train.Curriculum(
        1, 0, 8, pytest.approx(0.3), 1.0)
    assert 30 < steps_with(quick, facts=0.1, pictures=0.5) < 200 and quick.most_facts >= stories.until_facts > 25
    assert (quick.phase, quick.since, quick.pictures) == (1, 0, 1.0)
    assert steps_with(slow, facts=0.3, pictures=looking.until_seen + 0.01) == looking.steps
    assert 20 < steps_with(quick, facts=0.1, pictures=looking.until_seen - 0.01) < 100
    assert (slow.phase, slow.since) == (2, 0) == (quick.phase, quick.since) and slow.most_facts == 8
    assert steps_with(quick, facts=0.1, pictures=0) == clips.steps
    for phase in between:
        assert steps_with(quick, facts=0.1, pictures=0) == phase.steps
    assert steps_with(quick, facts=0.1, pictures=0) == 5000 and quick.most_facts == recipe.most_facts


def test_a_recipe_is_kept_as_plain_numbers():
    recipe = Recipe(steps=7, half_lives=(1, 2), phases=(Phase("all", stories=1, weights={"facts": 3.0}),))
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe != Recipe()
    assert json.loads(json.dumps(recipe.to_dict())) == recipe.to_dict()


def test_a_resumed_run_keeps_the_recipe_it_began_with(tmp_path, monkeypatch, capsys):
    """From the command line nothing need be said again; in Python another recipe is refused by name."""
    monkeypatch.setattr(train, "probe", lambda *_: {})
    recipe = Recipe(steps=1, looks=1, tokens=100, pictures=1, mtp_weight=0.7, enough=9)
    train.train(recipe, tmp_path / "run", tmp_path / "out")
    made = json.loads((tmp_path / "out" / "training.json").read_text())
    assert Recipe.from_dict(made["recipe"]) == recipe
    train.main(["--run", str(tmp_path / "run"), "--out", str(tmp_path / "again")])
    assert "holds this run at step 1" in capsys.readouterr().out
    assert Recipe.from_dict(json.loads((tmp_path / "again" / "training.json").read_text())["recipe"]) == recipe
    with pytest.raises(minqwen.QwenError, match="holds a run with another enough and another mtp_weight: "):
        train.train(Recipe(steps=1, looks=1, tokens=100, pictures=1), tmp_path / "run", tmp_path / "out")


def test_in_some_longer_stories_a_colour_does_not_tell_whose_thing_it_is():
    """One to three colours for all that people have: found by its colour, it would mostly be somebody else's."""
    numbers = []
    for seed in range(20):
        for sample in story_samples(Random(seed), 4096, most_facts=48, most_digits=3):
            if sample.kind == "facts":
                text = "".join(text for text, _ in sample.pieces)
                numbers.append(len(set(re.findall(rf"has a ({'|'.join(world.COLOURS)})", text))))
            assert sample.kind in ("facts", "mixed")
    assert 0.2 * len(numbers) < sum(n <= 3 for n in numbers) < 0.4 * len(numbers)
    assert set(numbers) >= {1, 2, 3, 8} and len(numbers) > 100


@pytest.mark.parametrize("sample, kinds_asked, shapes", [
    (dict(looking_up=300), LOOKING_UP, {1, 2, 3}), (dict(moving=300), MOVING, {1, 2}),
    (dict(counting=300), COUNTING, {1, 2, 3, 4}),
])
def test_what_is_asked_in_running_text_is_of_one_kind(sample, kinds_asked, shapes):
    """One kind of question to each picture, the first of up to three shapes, or to each clip."""
    asked, counts, film = Counter(), set(), "moving" in sample
    all_questions = world.film_questions if film else world.scene_questions
    phase = Phase("", stories=0, **sample)
    for sort, conversation, pieces in phase_samples(Random(0), phase, Recipe(pictures=1), most_facts=8):
        assert sort == ("clips" if film else "pictures") and pieces == world.plain_pieces(conversation)
        kinds, sees = set(), None
        for turn in conversation.turns:
            assert not (turn.images if film else turn.clips)
            sees = [sees, *turn.images, *turn.clips][-1]
            known = {(normal(question), answer): kind for kind, some in all_questions(sees).items()
                     for question, answer in some}
            kinds.add(known[normal(turn.question), turn.answer])
            counts.add(len(sees.shapes))
            assert turn.thinking is None and not any(pictures.held_out(s.colour, s.kind) for s in sees.shapes)
        [kind] = kinds
        asked[kind] += 1
    assert asked.keys() == set(kinds_asked) and counts == shapes
    for kind, times in Counter(kinds_asked).items():
        assert 0.8 < asked[kind] / asked.total() / (times / len(kinds_asked)) < 1.2


@pytest.mark.parametrize("least, samples", [
    (0.43, lambda: picture_samples(Random(0), 3000, film=True)),
    (0.9, lambda: phase_samples(Random(0), Phase("", stories=0, moving=3000), Recipe(pictures=1), most_facts=8))])
def test_what_stands_still_is_asked_often_beside_what_moves(least, samples):
    """Though in half of all clips nothing does. Asked a quarter as often, as it was once, it was not learnt."""
    asked = Counter(normal(turn.question) for sample in samples() for turn in sample.conversation.turns)
    assert asked["what moves"] > 1000 and asked["what stands still"] > least * asked["what moves"], asked


def test_one_talk_in_five_is_typed_in_haste():
    """Of every kind; and the model answers as always, with its capitals."""
    for phase in ("pictures", "counting"):
        [phase] = [each for each in PHASES if each.name == phase]
        typed, of = Counter(), Counter()
        for seed in range(30):
            for sample in phase_samples(Random(seed), phase, Recipe(), most_facts=20):
                asked = " ".join(turn.question for turn in sample.conversation.turns)
                if any(letter.isalpha() and letter.lower() not in "lorem" for letter in asked):
                    of[sample.kind] += 1
                    typed[sample.kind] += asked == asked.lower()
        assert 0.17 < typed.total() / of.total() < 0.24
        assert all(0.05 < typed[kind] / of[kind] < 0.4 for kind in of if of[kind] > 60) and of.keys() >= {"facts"}


def test_half_of_what_is_asked_of_some_stories_was_not_told():
    """Of a quarter of the stories, if that is wished for; and of the others, or of those with a picture, all was."""
    kinds, answers = Counter(), Counter()
    for seed in range(20):
        for sample in story_samples(Random(seed), 4096, most_facts=24, most_digits=3, unknown=0.25):
            kinds[sample.kind] += 1
            answers.update((sample.kind, turn.answer == world.NOBODY_KNOWS) for turn in sample.conversation.turns
                           if normal(turn.question).endswith("have") or "where is" in normal(turn.question))
    assert 0.2 < kinds["unknown"] / (kinds["unknown"] + kinds["facts"]) < 0.3
    assert not answers["facts", True] and not answers["mixed", True] and answers["facts", False] > 500
    assert 0.45 < answers["unknown", True] / (answers["unknown", True] + answers["unknown", False]) < 0.55


def test_some_chats_begin_with_telling_alone():
    told, chats = 0, 0
    for seed in range(40):
        for sample in story_samples(Random(seed), 4096, most_facts=48, most_digits=3):
            if sample.kind == "facts" and sample.pieces != world.plain_pieces(sample.conversation):
                chats += 1
                told += sample.conversation.turns[0].answer == world.UNDERSTOOD
    assert chats > 200 and 0.05 < told / chats < 0.15


def test_sums_that_are_too_long_are_declined_and_never_one_that_is_not():
    samples, declined, greeted = sum_samples(Random(0), 60_000, most_digits=3), Counter(), 0
    for sample in samples:
        assert sample.kind == "sums" and not sample.conversation.tools
        for turn in sample.conversation.turns:
            if found := re.fullmatch(r"what is (\d+) \+ (\d+)", normal(turn.question)):
                a, b = map(int, found.groups())
                digits = len(str(max(a, b)))
                assert turn.answer == (str(a + b) if digits <= 3 else world.NO_CALCULATOR)
                assert turn.call is None and not world.held_out(a, b)
                if digits > 3:
                    declined[digits] += 1
            else:
                assert turn.answer in (world.INTRODUCTION, world.WELCOME)
                greeted += 1
    assert 0.02 < greeted / len(samples) < 0.06
    assert declined.keys() == {4, 5, 6, 7, 8} and 0.06 < declined.total() / len(samples) < 0.1


def test_a_quarter_of_the_pictures_and_no_clip_is_in_unnamed_colours():
    scenes = [turn.images[0] for sample in picture_samples(Random(0), 800) for turn in sample.conversation.turns
              if turn.images]
    assert 0.2 < sum(not scene.named for scene in scenes) / len(scenes) < 0.3
    films = [film for sample in picture_samples(Random(0), 300, film=True) for turn in sample.conversation.turns
             for film in turn.clips]
    assert all(shape.colour in pictures.COLOURS for film in films for shape in film.shapes)


def test_the_calculator_is_trained_under_other_names_too():
    """In so many of its calls; once in a while another name is the usual one."""
    for renamed in (0.4, 0.7):
        samples = calculator_samples(Random(0), 600, renamed)
        made = [turn.call.name for sample in samples for turn in sample.conversation.turns if turn.call]
        assert 0.75 * renamed < sum(name != "add" for name in made) / len(made) < renamed + 0.05
        assert set(made) == set(world.ADDERS)
    declined = [sample.conversation for sample in samples
                if any(turn.answer == world.NO_CALCULATOR for turn in sample.conversation.turns)]
    assert 30 < len(declined) < 90 and all(set(talk.tools) <= set(world.OTHERS) for talk in declined)


def test_chatter_is_heard_alone_and_in_every_sort_of_talk():
    """It is no sentence of those that are tested; a system message, which one in five has, is chatter, too."""
    sorts, systems, samples = Counter(), 0, chatter_samples(Random(0), 600)
    for sample in samples:
        turns, talk = sample.conversation.turns, sample.conversation
        beside = [turn for turn in turns if turn.answer != world.BEYOND]
        assert sample.kind == "chatter" and len(beside) < len(turns)
        sorts["calls" if talk.tools else "picture" if any(turn.images for turn in turns) else
              "sums" if any("+" in t.question for t in beside) else "story" if beside else "alone"] += 1
        said = {normal(text) for text in (talk.system, *(turn.question for turn in turns))}
        assert not said & {normal(text) for text in chatter.HELD_OUT}
        systems += talk.system != ""
        assert not talk.system or f"\n{talk.system}<|im_end|>" in sample.pieces[0][0]
    assert 0.25 < sorts["alone"] / len(samples) < 0.45 and 0.15 < systems / len(samples) < 0.25
    assert min(sorts.values()) > 70 and sorts.keys() == {"picture", "sums", "story", "calls", "alone"}


def test_what_is_learnt_first_of_pictures_is_what_must_be_looked_up():
    assert set(LOOKING_UP) < set(world.LOOKUPS)


def test_the_teacher_wants_the_words_of_what_is_seen(folder):
    """What is seen at a place is to be the sum of its shape's, its colour's and its own words, as long as a word.

    Words are one-hot here, a picture's tokens are its nine places, and the teacher looks for the place's words. Any
    other shape, colour, place or length costs more.
    """
    tokenizer, width, long = FastTokenizer.from_file(str(folder / "tokenizer.json")), 32, 0.7
    teacher = train.Teacher(tokenizer, width).requires_grad_(False)
    names = [*pictures.SHAPES, *pictures.COLOURS, *"top bottom left right middle".split()]
    vector = {name: F.one_hot(torch.tensor(i), width).float() for i, name in enumerate(names)}
    words = torch.zeros(tokenizer.get_vocab_size(), width)

    def say(group, as_if):
        for name, other in zip(group, as_if):
            words[tokenizer.token_to_id(f"Ġ{name}")] = long * vector[other]

    say(names, names)
    here = torch.stack([sum(vector[word] for word in place.split()) for place in pictures.WHERE])
    teacher.nothing[0] = F.one_hot(torch.tensor(width - 1), width)
    teacher.key.weight.copy_(torch.eye(width))
    teacher.key.bias.zero_()
    teacher.places.copy_(100 * (2 * here - sum(vector[word] for word in names[-5:])))   # its words, and no others

    scenes = [pictures.Scene.sample(Random(seed)) for seed in range(50)]
    places = list(pictures.WHERE)

    def loss(seen_as=lambda shape: shape, length=1.0):
        """The teacher's loss where what is seen of a shape is another: scenes are true all the same."""
        seen = (here + teacher.nothing).repeat(len(scenes), 1, 1)                       # (scenes, places, width)
        for i, scene in enumerate(scenes):
            for shape in map(seen_as, scene.shapes):
                place = places.index(shape.place)
                seen[i, place] = vector[shape.kind] + vector[shape.colour] + here[place]
        return teacher(length * long * F.normalize(seen, dim=-1), scenes, words).item()

    def next_of(group, one):
        return group[(group.index(one) + 1) % len(group)]

    colours = list(pictures.COLOURS)
    assert loss() < 0.1
    assert loss(lambda s: replace(s, colour=next_of(colours, s.colour))) > 1.5
    assert loss(lambda s: replace(s, kind=next_of(pictures.SHAPES, s.kind))) > 1.5
    assert loss(lambda s: replace(s, place=next_of(places, s.place))) > 1.5
    for length in (20, 1 / 20):
        assert loss(length=length) == pytest.approx(loss() + 0.1 * math.log(20) ** 2, rel=1e-2)

    for group in (pictures.SHAPES, colours, names[-5:]):                                # in another language
        say(group, group[1:] + group[:1])
        assert loss() > 1.5
        say(group, group)
    assert loss() < 0.1

    scenes = [scene.in_unnamed_colours(Random(0)) for scene in scenes]                  # any colour will do there
    assert loss(lambda s: replace(s, colour="red")) < 0.1 > loss(lambda s: replace(s, colour="pink"))
    assert loss(lambda s: replace(s, kind=next_of(pictures.SHAPES, s.kind), colour="red")) > 1.5


def test_in_unnamed_colours_a_picture_stays_as_it_is_in_all_else():
    for seed in range(50):
        scene = pictures.Scene.sample(Random(seed))
        other = scene.in_unnamed_colours(Random(seed))
        assert not any(shape.colour in pictures.COLOURS for shape in other.shapes)
        assert scene == replace(other, shapes=[replace(shape, colour=named.colour)
                                               for shape, named in zip(other.shapes, scene.shapes)])


def test_an_unnamed_colour_is_never_near_to_one_that_is_held_out():
    """And it is to be seen on its background, and there are all sorts of them."""
    rng, drawn = Random(0), set()
    for kind in pictures.SHAPES:
        [never] = [pictures.COLOURS[colour] for colour, shape in pictures.HELD_OUT if shape == kind]
        for background in pictures.BACKGROUNDS:
            for _ in range(50):
                colour = pictures.unnamed_colour(rng, kind, background)
                drawn.add(tuple(x // 86 for x in colour))
                assert min(math.dist(colour, never), math.dist(colour, background)) > 60
                shape = pictures.Shape(kind, colour, 32, 32, 10)
                assert pictures.paint(64, 64, background, [shape]).getpixel((32, 32)) == colour
    assert len(drawn) > 20                              # of the cube's 27 parts


def test_beside_the_model_the_teacher_shows_unnamed_colours_in_half_of_its_pictures(tmp_path, monkeypatch):
    shares = []

    class Watch(train.Teacher):
        def forward(self, seen, scenes, words):
            unnamed = [all(s.colour not in pictures.COLOURS for s in scene.shapes) for scene in scenes]
            shares.append(sum(unnamed) / len(scenes))
            return super().forward(seen, scenes, words)

    def nothing_learnt(*_):
        return dict.fromkeys((*Recipe().weights, "mtp"), 0.0)

    stand_ins = {"Teacher": Watch, "probe": lambda *_: {}, "step_losses": nothing_learnt}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(train, name, stand_in)
    train.main(["--steps", "3", "--looks", "2", "--tokens", "100", "--pictures", "1",
                "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    assert shares == [0, 0, 0.5, 0.5, 0.5]


def test_a_step_reads_every_sample_once_in_batches_of_a_like_length(folder):
    encode = encoder(folder)
    samples = phase_samples(Random(0), Recipe().phases[-1], Recipe(), 48)
    encode.batch = lambda rows: [(row.kind, row.ids) for row in rows]
    batches = encode.batches(samples, area=2048)
    assert sorted(sum(batches, [])) == sorted((row.kind, row.ids) for row in map(encode, samples))
    lengths = [[len(ids) for _, ids in batch] for batch in batches]
    areas = [max(T) * len(T) for T in lengths]
    assert max(areas) <= 2048 and max(area - sum(T) for area, T in zip(areas, lengths)) <= train.MOST_PADS
    assert len(batches) < len(samples) / 4


def test_a_kind_of_few_tokens_does_not_drown_the_others(monkeypatch):
    """Four learnt tokens pull with 4 / enough of their kind's weight, ten times as many as enough with all of it."""
    recipe = Recipe(enough=512, mtp_weight=0.25)
    few, many = 4, 10 * recipe.enough
    targets = torch.full((2, many + 1), -100)
    targets[0, :few], targets[1, :many] = 1, 1
    weights = {"calculator": 0.5, "facts": 2.0, "sums": 1.0}
    batch = train.Batch(["calculator", "facts"], torch.zeros_like(targets), targets, {})

    def losses(model, batch, drafts):
        return [x * (targets >= 0) for x in (loss, first, further, further)[: 1 + drafts]]

    monkeypatch.setattr(train, "losses", losses)
    for drafts in (1, 2, 3):                            # they share the weight that one of them would have alone
        loss, first, further = (torch.full(targets.shape, x, requires_grad=True) for x in (1.0, 2.0, 4.0))
        means = train.step_losses(random_qwen(), [batch], weights, recipe, drafts)
        assert means["calculator"] == means["facts"] == 1 and means["mtp"] == 2 and means["sums"] == 0
        assert loss.grad.sum(-1).tolist() == pytest.approx([0.5 * few / 512, 2])
        for ahead, share in ((first, 0.25 / drafts), (further, 0.25 * (drafts - 1) / drafts)):
            grad = torch.zeros(2) if ahead.grad is None else ahead.grad.sum(-1)
            assert grad.tolist() == pytest.approx([share * 0.5 * few / 512, share * 2])


@pytest.fixture(scope="module")
def read(folder):
    """A model that learnt nothing, and talks of all sorts as it reads them: two of them at once, padded, and alone."""
    encode = encoder(folder)
    model = random_qwen(train.nano_config(encode.tokenizer))
    talks = [world.facts_conversation(Random(0), 2, 2), world.sums_conversation(Random(1), thinking=True),
             world.picture_conversation(Random(2), 2), world.picture_conversation(Random(3), 1, film=True)]
    rows = [encode(Sample("facts", talk, world.pieces(talk))) for talk in talks]
    assert len({len(row.ids) for row in rows}) == len(rows)
    return model, rows, encode.batch(rows)


@pytest.fixture(scope="module")
def guesses(read):
    """By row and draft (the next token is draft 0) the logits at each place, worked out one place after the other.

    What is drafted at a place is worked out from what is known there: nothing of what comes later, no pads, no others.
    """
    model, rows, _ = read
    text = model.config.text_config
    found = []
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row.ids])
            grids = row.media.get("image_grid_thw"), row.media.get("video_grid_thw")
            words, positions = model.embed(ids, **row.media), model.positions(ids, None, *grids)
            depths = [model.hidden_states(ids, position_ids=positions, inputs_embeds=words)[0]]
            for d in (1, 2, 3):
                tops = []
                for n in range(1, len(row.ids) - d + 1):                                # so many are known, and d more
                    step = Step.at(positions[..., d - 1 : d - 1 + n], text, words.dtype)
                    tops.append(model.mtp(depths[-1][None, :n], words[:, d : d + n], step)[0, -1])
                depths.append(torch.stack(tops))
            found.append([model.head(states[None])[0] for states in depths])
    return found


def test_the_first_draft_is_what_the_model_says_two_tokens_ahead(read, guesses):
    model, rows, _ = read
    for row, (following, draft, *_) in zip(rows, guesses):
        inputs = {"input_ids": torch.tensor([row.ids]), **row.media}
        assert error(model(**inputs)[0], following) < 2e-5 > error(model.mtp_logits(**inputs)[0], draft)


@torch.no_grad()
def test_losses_are_of_the_next_token_and_of_three_drafts_in_a_row(read, guesses):
    """Of those tokens alone that are to be learnt, each of them d + 1 places on, for draft d."""
    model, rows, batch = read
    found = train.losses(model, batch, drafts=3)
    B, T = batch.targets.shape
    assert [tuple(loss.shape) for loss in found] == [(B, T - d) for d in range(4)]
    assert len(train.losses(model, batch)) == 2
    for d, losses in enumerate(found):
        expected = torch.zeros(B, T - d)
        for r, row in enumerate(rows):
            for place, logits in enumerate(guesses[r][d]):
                to_say = place + d + 1
                if to_say < len(row.ids) and row.learnt[to_say]:
                    expected[r, place] = F.cross_entropy(logits[None], torch.tensor([row.ids[to_say]]))
        assert (expected > 0).sum() > 40 and error(losses, expected) < 2e-5


def test_drafts_in_a_row_are_right_together(read, guesses):
    """All of them, wherever all are to be learnt. Much of the text here is what the head drafts, so that some are."""
    model, rows, batch = read
    said = [list(row.ids) for row in rows]
    for r, row in enumerate(rows):
        for i in range(4, len(row.ids)):
            if i % 7:                                   # in runs of six: what one of the places before it would draft
                d = 1 + (i % 7 - 1) % 3
                said[r][i] = guesses[r][d][i - d - 1].argmax().item()
    targets = torch.full_like(batch.targets, -100)
    for r, row in enumerate(rows):
        for i in range(1, len(row.ids)):
            if row.learnt[i]:
                targets[r, i - 1] = said[r][i]
    found = train.drafted(model, batch._replace(targets=targets), drafts=3)
    for n, right in enumerate(found, start=1):
        expected = []
        for r, row in enumerate(rows):
            for i in range(len(row.ids) - n - 1):
                ahead = range(1, n + 1)
                if all(row.learnt[i + d + 1] for d in ahead):
                    expected.append(all(said[r][i + d + 1] == guesses[r][d][i].argmax() for d in ahead))
        assert right.tolist() == expected and 0 < sum(expected) < len(expected)
    assert len(found) == 3 and len(found[0]) == sum(sum(row.learnt[2:]) for row in rows) > len(found[1])


def test_phases_and_recipe_decide_about_drafts_and_spellings(tmp_path, monkeypatch):
    drafts, likeness = [], []

    def nothing_learnt(model, batches, weights, recipe, depth):
        drafts.append(depth)
        return dict.fromkeys((*weights, "mtp"), 0.5)

    def spelt(model, tokenizer, spellings):
        likeness.append(spellings)

    stand_ins = {"probe": lambda *_: {}, "step_losses": nothing_learnt, "spell_alike": spelt}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(train, name, stand_in)
    phases = tuple(replace(phase, steps=1, until_facts=None, until_seen=None) for phase in PHASES)
    recipe = Recipe(steps=5, looks=1, tokens=100, pictures=1, spellings=0.6, phases=phases)
    train.train(recipe, tmp_path / "run", tmp_path / "out")
    assert drafts == [1, 1, 1, 3, 3] and likeness == [0.6]


def test_the_shipped_model_says_how_it_was_made():
    facts = json.loads((NANO / "training.json").read_text())
    card = (NANO / "README.md").read_text()
    recipe = Recipe.from_dict(facts["recipe"])
    assert recipe == Recipe(), "`make nano` makes another model than the one that is shipped"
    assert facts["command"] in card and f"Seed {recipe.seed}, {recipe.steps} steps" in card
    log = (NANO / "training.csv").read_text().splitlines()
    assert log[0].startswith("step,seconds,") and log[-1].startswith(f"{recipe.steps},")


def test_what_the_card_says_of_other_seeds():
    lines = csv.DictReader((NANO / "seeds.csv").read_text().splitlines())
    runs = {seed: list(points) for seed, points in groupby(lines, key=itemgetter("seed"))}
    card = (NANO / "README.md").read_text()
    for seed, points in runs.items():
        there = next(point["step"] for point in points if float(point["12 facts"]) > 0)
        end = " | ".join(f"{100 * float(points[-1][name]):.0f}%" for name in ("12 facts", "40 facts"))
        assert f"| {seed} | {there} | {end} |" in card
    assert len(runs) == 3 and str(Recipe().seed) not in runs
