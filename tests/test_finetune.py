"""Fine-tuning: what learns, that nothing leaks, that a run goes on from where it was, what is said if it cannot."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tuning_support
from PIL import Image
from safetensors.torch import load_file
from support import error, tokens
from tuning_support import chat, files_of_at_most, small_checkpoint, spelling, spoil, write_chats

import minqwen
from minqwen import finetune as tuning
from minqwen.chat import NANO, load
from minqwen.dataset import read_chats, rows_of
from minqwen.errors import QwenError
from minqwen.finetune import Settings, Trainer, finetune
from minqwen.info import readable, training_memory, training_table
from minqwen.masters import MasterAdamW

folder, half, data = tuning_support.folder, tuning_support.half, tuning_support.data
QUICK = Settings(lr=3e-3, epochs=1, batch=3, length=256, held_out=0.1)            # six steps of 20 chats


def trainer_of(folder, settings=QUICK, steps=10):
    return Trainer(load(folder), settings, steps)


def rows_in(data, trainer, count=6):
    return [row for one in read_chats(data)[:count] for row in rows_of(one, trainer.qwen)]


def gradients(trainer):
    return {name: x.grad.clone() for name, x in trainer.optimizer.masters.items()}


# ------------------------------------------------------------------------------------------------------------ one step


def test_packed_chats_do_not_see_each_other(folder, data):
    trainer = trainer_of(folder)
    rows = rows_in(data, trainer)
    with torch.no_grad():
        together, alone = trainer.loss(rows), [trainer.loss([row]) for row in rows]
        assert error(together, sum(alone)) < 1e-5
        count = sum(int(row.learnt.sum()) for row in rows)
        for length in 64, 256:                          # a mean over tokens, and not over rows or packs
            trainer.settings = replace(QUICK, length=length)
            assert trainer.judge(rows) == pytest.approx(float(sum(alone)) / count, rel=1e-5)
        others = [replace(row, ids=(row.ids + 1) % 250, learnt=row.learnt & False) for row in rows]
        for n in 0, 3, 5:
            assert error(trainer.loss(others[:n] + [rows[n]] + others[n + 1 :]), alone[n]) < 1e-5


def test_the_loss_is_that_of_the_answers(folder, data):
    """Said once more without packs, masks of ours or pieces: by the whole row's logits."""
    trainer = trainer_of(folder)
    row = rows_in(data, trainer)[0]
    with torch.no_grad():
        scores = trainer.model(row.ids[None].long())[0].log_softmax(-1)
        wanted = -sum(scores[t - 1, row.ids[t]] for t in range(len(row.ids)) if row.learnt[t])
        assert error(trainer.loss([row]), wanted) < 1e-5


@pytest.mark.parametrize("changes", [{"length": 64}, {"checkpointing": False}], ids=["more packs", "no checkpointing"])
def test_a_step_is_the_same_however_it_is_computed(folder, data, changes, monkeypatch):
    monkeypatch.setattr(MasterAdamW, "forget", lambda self: None)
    one, other = trainer_of(folder), trainer_of(folder, replace(QUICK, **changes))
    first, second = (trainer.step(0, rows_in(data, trainer)) for trainer in (one, other))
    assert abs(first["loss"] - second["loss"]) < 1e-5 and abs(first["gradient"] / second["gradient"] - 1) < 1e-4
    theirs = gradients(other)
    assert first["gradient"] > 1 and torch.stack([x.norm() for x in theirs.values()]).norm() < 1 + 1e-5, "clipped"
    assert all(error(x, theirs[name]) < 1e-3 for name, x in gradients(one).items() if x.abs().max() > 1e-4)


@pytest.mark.parametrize("changes, trained, kept", [
    ({}, "language_model", ("visual", "mtp")),
    ({"tower": True}, "visual", ("mtp",)),
    ({"lora": 2}, "lora_", ()),
])
def test_what_learns_and_what_stays(half, data, changes, trained, kept):
    trainer = trainer_of(half, replace(QUICK, **changes, lr=0.1, warmup=0))
    before = {name: x.clone() for name, x in trainer.model.state_dict().items()}
    trainer.step(0, rows_in(data, trainer))
    learning = trainer.optimizer.parameters
    assert any(trained in name for name in learning) and not any(part in name for part in kept for name in learning)
    changed = {name for name, x in trainer.model.state_dict().items() if not x.equal(before[name])}
    assert changed <= learning.keys() and (changed or "lora" in changes)
    if "lora" in changes:
        assert all(B.abs().max() > 0 for _, B in trainer.adapter.pairs.values())


def test_masters_are_float32_adamw():
    """On gradients that come in pieces; the weights in bfloat16 are what the masters round to."""
    p = torch.nn.Parameter(torch.linspace(-1, 1, 64).bfloat16())
    twin = torch.nn.Parameter(p.detach().float())
    ours, theirs = MasterAdamW({"p": p}, 0.1), torch.optim.AdamW([twin], lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    random_numbers = torch.Generator().manual_seed(0)
    for _ in range(20):
        pieces = torch.randn(3, 64, generator=random_numbers).bfloat16()
        for piece in pieces:
            (p * piece).sum().backward()
        twin.grad = pieces.float().sum(0)
        ours.step(1e-4)
        ours.forget()
        theirs.step()
    assert error(ours.masters["p"], twin) < 1e-6 and p.equal(twin.bfloat16())
    assert p.grad is None and not twin.bfloat16().equal(torch.linspace(-1, 1, 64).bfloat16())


def test_the_rate_rises_and_falls(folder):
    trainer = trainer_of(folder, replace(QUICK, warmup=0.2), steps=50)
    rates = [trainer.lr(n) / QUICK.lr for n in range(50)]
    assert rates[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 0.01 and rates[30] == pytest.approx(0.5, abs=0.05)


def test_what_is_chosen_reaches_the_adapter_and_adamw(folder):
    one, other = (trainer_of(folder, replace(QUICK, lora=2, alpha=7, weight_decay=0.25, seed=seed)) for seed in (0, 1))
    assert one.adapter.scale == 3.5 and one.optimizer.adamw.param_groups[0]["weight_decay"] == 0.25
    for (A, _), (B, _) in zip(one.adapter.pairs.values(), other.adapter.pairs.values(), strict=True):
        assert not A.equal(B), "the seed"


def test_every_epoch_has_an_order_of_its_own_by_the_seed():
    def epochs(**changes):
        steps = list(tuning.batches([*range(7)], replace(QUICK, epochs=2, **changes)))
        assert [len(rows) for rows in steps] == [3, 3, 1] * 2
        return sum(steps[:3], []), sum(steps[3:], [])

    first, second = epochs()
    assert sorted(first) == sorted(second) == [*range(7)] and first != second
    assert (first, second) == epochs() and not {*map(tuple, (first, second))} & {*map(tuple, epochs(seed=1))}


def test_what_is_judged_by_is_not_learnt():
    learnt, judged = tuning.split([*range(40)], QUICK)
    assert len(judged) == 4 and sorted(learnt + judged) == [*range(40)]
    assert tuning.split([*range(40)], replace(QUICK, seed=1))[1] != judged


# ------------------------------------------------------------------------------------------------------- a whole run


def weights(out):
    return load_file(next(path for path in map(out.joinpath, ("adapter_model.safetensors", "model.safetensors"))
                          if path.exists()))


def same(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(x.equal(other[name]) for name, x in one.items())


@pytest.mark.parametrize("lora", [None, 2])
@pytest.mark.parametrize("kind", ["folder", "half"])
def test_a_run_that_was_interrupted_ends_in_the_same_bits(request, data, tmp_path, monkeypatch, lora, kind):
    source, settings = request.getfixturevalue(kind), replace(QUICK, lora=lora)
    log = finetune(source, data, tmp_path / "whole", settings, keep_every=2)
    assert len(log) == 7 and log[0].keys() == {"step", "held out"} and "held out" in log[-1]
    real, breaks = Trainer.step, [random.randrange(3), random.randrange(3, 6)]     # the second is behind a snapshot

    def fragile(self, number, rows):
        if number in breaks:
            breaks.remove(number)
            raise KeyboardInterrupt
        return real(self, number, rows)

    monkeypatch.setattr(Trainer, "step", fragile)
    for _ in 0, 1:
        with pytest.raises(KeyboardInterrupt):
            finetune(source, data, tmp_path / "parts", settings, keep_every=2)
    assert finetune(source, data, tmp_path / "parts", settings, keep_every=2) == log
    assert same(tmp_path / "whole", tmp_path / "parts") and not (tmp_path / "parts" / tuning.SNAPSHOT).exists()


def test_a_run_that_was_killed_ends_in_the_same_bits(half, data, tmp_path):
    options = f"--lr 3e-3 --epochs 60 --batch 3 --length 256 --keep-every 1 --data {data} --out {tmp_path / 'b'}"
    process = subprocess.Popen([sys.executable, "-m", "minqwen.finetune", str(half), *options.split()])
    snapshot = tmp_path / "b" / tuning.SNAPSHOT
    while not snapshot.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(random.random() / 4)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and snapshot.exists()
    step = torch.load(snapshot, weights_only=True)["progress"]["step"]
    assert 0 < step < 400
    settings = replace(QUICK, epochs=60, held_out=Settings.held_out)

    def stop_soon(real, last):
        def step(self, number, rows):
            if number == last:
                raise KeyboardInterrupt
            return real(self, number, rows)
        return step

    with pytest.MonkeyPatch.context() as patch:         # a few steps further on all is as if nothing had happened
        patch.setattr(Trainer, "step", stop_soon(Trainer.step, step + 3))
        for out in "a", "b":
            with pytest.raises(KeyboardInterrupt):
                finetune(str(half), data, tmp_path / out, settings, keep_every=step + 3 if out == "a" else 1)
    one, other = (torch.load(tmp_path / out / tuning.SNAPSHOT, weights_only=True) for out in "ab")
    assert one["progress"] == other["progress"] and one["progress"]["step"] == step + 3
    for name, x in one["optimizer"]["weights"].items():
        assert x.equal(other["optimizer"]["weights"][name])


def test_another_file_to_judge_by_and_packs_that_the_model_can_read(folder, data, tmp_path):
    other = write_chats(tmp_path / "other.jsonl", [chat("hm", "q" * 40)])
    log = finetune(folder, data, tmp_path / "out", replace(QUICK, length=5000, batch=10), judge=other)
    trainer = trainer_of(folder)
    assert log[0]["held out"] == pytest.approx(trainer.judge(rows_in(other, trainer)), rel=1e-5)
    assert len(log) == 3, "all 20 are learnt"
    settings = json.loads((tmp_path / "out" / tuning.LOG).read_text())["settings"]
    assert settings["length"] == trainer.qwen.config.text_config.max_position_embeddings == 1000


@pytest.mark.parametrize("lora", [None, 2])
def test_a_full_disk_costs_the_last_snapshot(folder, data, tmp_path, monkeypatch, lora):
    settings, out = replace(QUICK, lora=lora), tmp_path / "out"
    real = Trainer.step

    def fills(self, number, rows):
        if number == 3:
            held.__enter__()
        return real(self, number, rows)

    held = files_of_at_most(20_000)
    monkeypatch.setattr(Trainer, "step", fills)
    try:
        with pytest.warns(UserWarning, match="The snapshot of step 4 cannot be written .*the snapshot before it stays"):
            with pytest.raises(QwenError, match="The result cannot be written to .*: make room"):
                finetune(folder, data, out, settings, keep_every=2)
    finally:
        held.__exit__(None, None, None)
    assert torch.load(out / tuning.SNAPSHOT, weights_only=True)["progress"]["step"] == 2
    assert not any((out / name).exists() for name in ("config.json", "adapter_config.json", f"{tuning.SNAPSHOT}.part"))
    monkeypatch.setattr(Trainer, "step", real)
    finetune(folder, data, out, settings, keep_every=2)
    finetune(folder, data, tmp_path / "whole", settings)
    assert same(out, tmp_path / "whole")


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_was_good(folder, data, tmp_path, monkeypatch):
    real, trainers = Trainer.loss, []

    def spoilt(self, rows):
        trainers.append(self)
        done = [state["step"] for state in self.optimizer.adamw.state.values()]
        return real(self, rows) * (torch.nan if done and done[0] == 4 else 1)

    monkeypatch.setattr(Trainer, "loss", spoilt)
    with pytest.raises(QwenError, match="Stopped, as the loss of step 5, or its gradient, is not a number: the same "
                                        "command with a lower rate than --lr 0.003 goes on from the last good") as told:
        finetune(folder, data, tmp_path, QUICK, keep_every=2)
    assert "\n" not in str(told.value)
    saved = torch.load(tmp_path / tuning.SNAPSHOT, weights_only=True)
    assert saved["progress"]["step"] == 4 and all(x.isfinite().all() for x in saved["optimizer"]["weights"].values())
    assert all(x.isfinite().all() for x in trainers[0].model.state_dict().values())
    monkeypatch.setattr(Trainer, "loss", real)
    log = finetune(folder, data, tmp_path, replace(QUICK, lr=1e-3))
    assert [entry["step"] for entry in log] == list(range(7)) and log[5]["lr"] < 1e-3 < log[4]["lr"]


@pytest.mark.parametrize("at", [4, 6])
def test_weights_that_are_no_numbers_are_neither_kept_nor_the_result(folder, data, tmp_path, monkeypatch, at):
    """Though loss and gradient of the step were: at a snapshot, and at the end."""
    real, count = MasterAdamW.step, []

    def spoilt(self, lr):
        count.append(lr)
        if len(count) == at:
            spoil(self.adamw, "weights")
        real(self, lr)

    monkeypatch.setattr(MasterAdamW, "step", spoilt)
    with pytest.raises(QwenError, match=f"Stopped, as after step {at} the weights are no numbers any more: the same "
                                        "command with a lower rate than --lr 0.003 goes on from the last good state"):
        finetune(folder, data, tmp_path, QUICK, keep_every=2)
    saved = torch.load(tmp_path / tuning.SNAPSHOT, weights_only=True)
    assert all(x.isfinite().all() for x in saved["optimizer"]["weights"].values())
    assert saved["progress"]["step"] == at - 2 == len(saved["progress"]["log"]) - 1
    assert {path.name for path in tmp_path.iterdir()} == {tuning.SNAPSHOT}


def test_what_is_wrong_with_the_data_is_not_put_down_to_the_rate(folder, data, tmp_path, monkeypatch):
    def missing(*_):
        raise QwenError("chats.jsonl, line 3: there is no file x.png.")

    monkeypatch.setattr(Trainer, "step", missing)
    with pytest.raises(QwenError, match=r"^chats.jsonl, line 3: there is no file x.png\.$"):
        finetune(folder, data, tmp_path / "out", QUICK)


def test_a_loss_that_rises_stops_the_run(folder, data, tmp_path):
    with pytest.raises(QwenError, match="Stopped, as by step [0-9]+ the loss has risen from .* to .* begins anew"):
        finetune(folder, data, tmp_path, replace(QUICK, lr=1.0, epochs=5, held_out=0), keep_every=1000)


def test_snapshots_are_of_good_states_alone():
    progress = tuning.Progress()
    for step, loss in enumerate([3.0, 2.0, 1.0, *[0.1] * 40, *[1.0] * 10], 1):
        progress.note({"step": step, "loss": loss, "gradient": 1.0})
    assert progress.lowest < 0.2 and progress.smooth > progress.lowest + tuning.WORSE / 2 and not progress.well


def test_the_result_is_a_checkpoint_for_everybody(half, data, tmp_path):
    transformers = pytest.importorskip("transformers", minversion="5.23")
    finetune(half, data, tmp_path / "out", QUICK)
    ours, source = load(tmp_path / "out"), load(half)
    assert ours.config == source.config and ours.tokenizer.chat_template == source.tokenizer.chat_template
    for name, x in ours.model.state_dict().items():
        assert x.dtype == source.model.state_dict()[name].dtype
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = tokens(1, 20, 256)
    with torch.no_grad():
        assert error(load(tmp_path / "out", "float32").model(ids), theirs(ids).logits) < 2e-5
        assert error(source.model(ids), ours.model(ids)) > 0.01
    assert ours.processor is not None
    assert json.loads((tmp_path / "out" / tuning.LOG).read_text())["log"][-1]["step"] == 6


def test_an_adapter_is_the_same_merged_or_beside(folder, data, tmp_path):
    settings = replace(QUICK, lora=2)
    finetune(folder, data, tmp_path / "beside", settings)
    finetune(folder, data, tmp_path / "merged", settings, merge=True)
    model = load(folder).model
    minqwen.lora.merge(model, tmp_path / "beside")
    with torch.no_grad():
        assert model(tokens(1, 9)).equal(load(tmp_path / "merged").model(tokens(1, 9)))
    assert (tmp_path / "beside" / "preprocessor_config.json").exists()
    with pytest.raises(QwenError, match="is an adapter"):
        load(tmp_path / "beside")
    with pytest.raises(QwenError, match="merged holds a whole model, which an adapter would leave there"):
        finetune(folder, data, tmp_path / "merged", settings, restart=True)
    finetune(folder, data, tmp_path / "beside", settings, merge=True, restart=True)
    assert {path.name for path in (tmp_path / "beside").iterdir()} == {
        path.name for path in (tmp_path / "merged").iterdir()}, "nothing is left of the adapter"


def test_pictures_are_learnt_from(folder, tmp_path):
    """Two pictures, the same question, two answers: which is right only the picture says."""
    for name, shade in (("dark", 20), ("light", 230)):
        Image.fromarray(np.full((24, 24, 3), shade, np.uint8)).save(tmp_path / f"{name}.png")
    chats = [{"messages": [{"role": "user", "content": [{"type": "image", "image": f"{name}.png"},
                                                        {"type": "text", "text": "?"}]},
                           {"role": "assistant", "content": name}]} for name in ("dark", "light")]
    data = write_chats(tmp_path / "chats.jsonl", chats)
    log = finetune(folder, data, tmp_path / "out", replace(QUICK, epochs=40, held_out=0, tower=True, lr=1e-2))
    qwen = load(tmp_path / "out")
    assert log[-1]["loss"] < 0.1
    for name in "dark", "light":
        assert qwen.chat("?", images=[tmp_path / f"{name}.png"], max_new_tokens=8) == name


# -------------------------------------------------------------------------------------------------------------- memory


MEASURE = """
import sys
from pathlib import Path
from minqwen.bench import peak_memory
from minqwen.chat import load
from minqwen.dataset import read_chats, rows_of
from minqwen.finetune import Settings, Trainer

def steps(folder, data):
    trainer = Trainer(load(folder), Settings(length=512, lora=rank), 2)
    rows = [row for chat in read_chats(data) for row in rows_of(chat, trainer.qwen)]
    for number in 0, 1:
        trainer.step(number, rows)

small, narrow, data, rank = sys.argv[1:]
rank = int(rank) or None
steps(small, data)
before = peak_memory()
steps(narrow, data)
print(peak_memory() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak of a parent is in it")
@pytest.mark.parametrize("rank", [None, 256])            # of weights, so that they count beside all else
def test_the_memory_that_is_planned_is_the_memory_it_takes(half, tmp_path, rank):
    narrow = small_checkpoint(tmp_path / "narrow", "bfloat16", hidden_size=512, intermediate_size=4096,
                              vision={"out_hidden_size": 512})
    data = write_chats(tmp_path / "chats.jsonl", [chat("q" * 200, "a" * 180)])
    config = minqwen.load_config(narrow)
    length = len(rows_of(read_chats(data)[0], load(half))[0].ids)
    planned = training_memory(config, rank, length)
    command = [sys.executable, "-c", MEASURE, half, narrow, data, rank or 0]
    measured = int(subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout)
    assert 0.8 < measured / sum(planned.values()) < 1.25, (measured, planned)


def test_the_readme_says_what_each_size_takes(repository, capsys):
    text = (repository / "README.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- training.*?-->\n(.*?)\n<!-- end of training -->", text, re.DOTALL)[1]
    assert table == training_table()
    tuning.main(["--plan", "Qwen3.5-4B"])
    assert capsys.readouterr().out.splitlines()[-1] in table
    tuning.main(["--plan", "Qwen3.5-4B", "--lora", "32"])
    adapter = 2 * training_memory(minqwen.Config.named("Qwen3.5-4B"), 16)["learning"]       # of 16; it is linear in it
    assert f"| {readable(adapter)} |" in capsys.readouterr().out.splitlines()[-1]


# ---------------------------------------------------------------------------------------------- a new language for nano

COLOURS = {"red": "merah", "blue": "biru", "green": "hijau", "black": "hitam"}
THINGS = {"hat": "topi", "key": "kunci", "ball": "bola", "book": "buku"}


def story(rng):
    """What two people have, told in English; of one it is asked, and answered, in Indonesian: the thing comes first."""
    one, other = rng.sample(["ann", "bob", "eve", "tom", "sue"], 2)
    has = {name: (rng.choice(list(COLOURS)), rng.choice(list(THINGS))) for name in (one, other)}
    told = [f"{name} has a {colour} {thing}." for name, (colour, thing) in has.items()]
    rng.shuffle(told)
    colour, thing = has[one]
    return chat(f"{' '.join(told)} {one} punya apa?", f"{THINGS[thing]} {COLOURS[colour]}")


def test_nano_learns_to_answer_in_another_language(tmp_path):
    rng = random.Random(0)
    chats = [story(rng) for _ in range(160)]
    new = [one["messages"] for one in (story(rng) for _ in range(40)) if one not in chats][:32]

    def right(qwen):
        replies = qwen.chat_batch([question["content"] for question, _ in new], max_new_tokens=12)
        return sum(reply == answer["content"] for reply, (_, answer) in zip(replies, new))

    assert right(load()) == 0
    data = write_chats(tmp_path / "chats.jsonl", chats)
    log = finetune(NANO, data, tmp_path / "out", Settings(lr=4e-3, epochs=5, batch=8, checkpointing=False))
    assert log[0]["held out"] > 10 * log[-1]["held out"]
    assert right(load(tmp_path / "out")) >= 12           # a thing and a colour drawn at random are right in two of 32


# ------------------------------------------------------------------------------------------------------- what is wrong


def run(*arguments):
    with pytest.raises(SystemExit) as left:
        tuning.main(list(map(str, arguments)))
    return left.value.code


@pytest.mark.parametrize("options, words", [
    (["--lora", 0], "The rank of an adapter is a whole number from 1 on"),
    (["--lora", 4, "--targets", "q_proj,qkv"], "no matrix 'qkv'"),
    (["--alpha", 3], "--alpha is for an adapter: add --lora 16"),
    (["--lora", 4, "--alpha", "nan"], "The alpha of an adapter, by which all that it does is multiplied, is a number"),
    (["--merge"], "There is no adapter to merge"),
    (["--lora", 4, "--tower"], "An adapter does not hold the vision tower"),
    (["--length", 20], "this chat, the longest, has 3"),
    (["--lr", -1], "--lr is -1.0, and must lie between 0 and 1"),
    (["--lr", "nan"], "--lr is nan, and must lie between 0 and 1"),
    (["--epochs", 0], "--epochs is 0, and must lie between 1 and"),
    (["--held-out", 1], "--held-out is 1.0, and must lie between 0 and 0.9"),
    (["--keep-every", 0], "--keep-every and --judge-every count steps: they are 1 or more"),
    (["--plan", "Qwen3.5-0.8B"], "--plan goes with --lora and --length alone: leave --data out"),
    (["--dtype", "float16"], "Small gradients vanish in float16"),
    (["--data", "none.jsonl"], "none.jsonl cannot be read"),
])
def test_what_cannot_be_is_one_sentence(folder, data, tmp_path, capsys, options, words):
    assert run(folder, "--data", data, "--out", tmp_path / "out", *options) == 2
    told = capsys.readouterr().err
    assert told.startswith("minqwen: ") and words in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options, words", [
    (["Foo"], "There is no configuration named 'Foo'; there are"),
    (["Qwen3.5-0.8B", "--length", 0], "--length is 0, and must lie between 2 and"),
    (["Qwen3.5-0.8B", "--lora", 0], "The rank of an adapter is a whole number from 1 on"),
    (["Qwen3.5-0.8B", "--tower"], "--plan goes with --lora and --length alone: leave --tower out"),
    (["Qwen3.5-0.8B", "--no-checkpointing"], "alone: leave --no-checkpointing out"),
    (["Qwen3.5-0.8B", "tuned"], "alone: leave a checkpoint out"),
])
def test_plans_that_cannot_be(capsys, options, words):
    assert run("--plan", *options) == 2
    told = capsys.readouterr().err
    assert told.startswith("minqwen: ") and words in told and told.count("\n") == 1


@pytest.mark.parametrize("place", ["file", "file/in/it", "x" * 300, "/proc/none"])
def test_a_place_where_nothing_can_be_written_is_told_before_any_work(folder, data, tmp_path, monkeypatch, place):
    """As root, who may write everywhere else, /proc stands for a folder that one may not write to."""
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(tuning, "load", None)
    with pytest.raises(QwenError, match="^Nothing can be written to .*: name another folder .--out.[.]$"):
        finetune(folder, data, tmp_path / place, QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", [tuning.SNAPSHOT, tuning.LOG, "adapter_model.safetensors"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_in_the_place_of_a_file(folder, data, tmp_path, monkeypatch, name, restart):
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tuning, "load", None)
    with pytest.raises(QwenError, match=f"{name} is a folder, where a file is to be written: move it away"):
        finetune(folder, data, tmp_path, QUICK, restart=restart)


def test_runs_that_do_not_go_together(folder, half, data, tmp_path, monkeypatch):
    def stops(*_):
        raise KeyboardInterrupt

    finetune(folder, data, tmp_path / "done", QUICK)
    with pytest.raises(QwenError, match="done holds a model already"):
        finetune(folder, data, tmp_path / "done", QUICK)
    with pytest.raises(QwenError, match="is the checkpoint itself"):
        finetune(folder, data, folder, QUICK)
    other = write_chats(tmp_path / "other.jsonl", spelling(15))
    real = tuning.finish
    monkeypatch.setattr(tuning, "finish", stops)
    with pytest.raises(KeyboardInterrupt):
        finetune(folder, data, tmp_path / "run", QUICK)
    for source, chats, settings, dtype, what in ((folder, data, replace(QUICK, seed=1), None, "seed"),
                                                 (half, data, QUICK, "float32", "checkpoint"),
                                                 (folder, data, QUICK, "bfloat16", "dtype"),
                                                 (folder, other, QUICK, None, "data")):
        with pytest.raises(QwenError, match=f"run holds a run with another {what}"):
            finetune(source, chats, tmp_path / "run", settings, dtype=dtype)
    monkeypatch.setattr(tuning, "finish", real)
    kept = torch.load(tmp_path / "run" / tuning.SNAPSHOT, weights_only=True)
    torch.save({**kept, "progress": []}, tmp_path / "run" / tuning.SNAPSHOT)
    with pytest.raises(QwenError, match="snapshot.pt is damaged"):
        finetune(folder, data, tmp_path / "run", QUICK)
    (tmp_path / "run" / tuning.SNAPSHOT).write_bytes(b"?")
    with pytest.raises(QwenError, match="snapshot.pt is damaged"):
        finetune(folder, data, tmp_path / "run", QUICK)
    assert len(finetune(folder, data, tmp_path / "run", QUICK, restart=True)) == 7


@pytest.mark.parametrize("name, value", [("batch", 2.5), ("epochs", 1.5), ("lr", "1e-5"), ("warmup", None)])
def test_settings_are_numbers(name, value):
    with pytest.raises(QwenError, match=f"^--{name} is {value}, and must lie between "):
        Settings(**{name: value}).check()


def test_quantized_checkpoints_do_not_learn(folder, data, tmp_path):
    minqwen.save_model(minqwen.quantize(load(folder).model, bits=8), tmp_path / "codes", tokenizer_from=folder)
    for lora in None, 4:
        with pytest.raises(QwenError, match="weights .* are quantized .*take the checkpoint in bfloat16"):
            finetune(tmp_path / "codes", data, tmp_path / "out", replace(QUICK, lora=lora))


def test_a_command_from_beginning_to_end(folder, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = "--lora 2 --epochs 1 --length 256 --targets q_proj"
    tuning.main([str(folder), "--data", str(data), *options.split()])
    assert capsys.readouterr().out.splitlines()[-1] == str(Path("tuned", "checkpoint-chats"))
    settings = json.loads((tmp_path / "tuned" / "checkpoint-chats" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["q_proj"] and settings["base_model_name_or_path"] == str(folder)


def test_the_folder_one_is_in_has_a_name(folder, data, monkeypatch):
    monkeypatch.chdir(folder)
    given = {}
    monkeypatch.setattr(tuning, "finetune", lambda **named: given.update(named))
    tuning.main([".", "--data", str(data)])
    assert given["out"] == Path("tuned", "checkpoint-chats")
