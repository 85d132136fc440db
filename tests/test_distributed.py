"""Training shared by processes: the same run as one's, kill and resume, other numbers of processes, bad situations."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tuning_support
from PIL import Image
from ranks_support import fails_on_the_second, returns_what_cannot_be_sent, tune, tune_each
from safetensors.torch import load_file
from tuning_support import chat, small_checkpoint, spelling, write_chats

from minqwen import distributed
from minqwen.chat import load
from minqwen.dataset import packed, read_chats, rows_of, shares
from minqwen.errors import QwenError
from minqwen.finetune import SNAPSHOT, Settings, finetune
from minqwen.ranks import together

folder, half, data = tuning_support.folder, tuning_support.half, tuning_support.data
QUICK = Settings(lr=3e-3, epochs=1, batch=6, length=64, held_out=0.1, warmup=0.3)            # three steps of 18 chats


@pytest.fixture(scope="module")
def two(folder, data, tmp_path_factory):
    """A run of two processes that nothing happened to: its folder, and its log."""
    out = tmp_path_factory.mktemp("two") / "out"
    (log, remarks), (other, _) = together(tune, 2, folder, data, out, QUICK)
    assert log == other and not remarks, "all ranks say the same"
    return out, log


def weights(out, name="model.safetensors"):
    return load_file(out / name)


def close(log, other, within=1e-4):
    return len(log) == len(other) and all(
        one.keys() == two.keys() and all(abs(one[name] - two[name]) <= within * abs(one[name]) for name in one)
        for one, two in zip(log, other))


def alike(one, other, within=1e-3):
    return one.keys() == other.keys() and all(
        x.dtype == other[name].dtype and (other[name] - x).float().norm() <= within * x.float().norm()
        for name, x in one.items())


# --------------------------------------------------------------------------------------------------------- the same run


def test_two_processes_learn_what_one_learns(folder, data, two, tmp_path):
    out, log = two
    alone = finetune(folder, data, tmp_path / "one", QUICK)
    assert len(log) == 4 and log[0]["held out"] > 5 and close(alone, log)
    ours, theirs, source = (weights(path) for path in (tmp_path / "one", out, folder))
    assert alike(ours, theirs) and not alike(ours, source)
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}
    assert (out / "config.json").read_bytes() == (tmp_path / "one" / "config.json").read_bytes()


def test_so_in_bfloat16_and_beside_an_adapter_and_with_experts(folder, half, data, tmp_path):
    adapter = replace(QUICK, lora=2)
    experts = small_checkpoint(tmp_path / "checkpoint", num_experts=3, num_experts_per_tok=2, moe_intermediate_size=24,
                               shared_expert_intermediate_size=40)                  # 3: they cannot be halved
    runs = {"bfloat16": (half, QUICK, False), "adapter": (half, adapter, False), "merged": (folder, adapter, True),
            "experts": (experts, QUICK, False)}
    given = {name: [source, data, tmp_path / name / "two", settings, None, None, merge]
             for name, (source, settings, merge) in runs.items()}
    results, _ = together(tune_each, 2, *given.values())
    for (name, (source, settings, merge)), (log, _) in zip(runs.items(), results):
        one = tmp_path / name / "one"
        assert close(finetune(source, data, one, settings, merge=merge), log, 5e-2 if source == half else 1e-4), name
        file = "adapter_model.safetensors" if name == "adapter" else "model.safetensors"
        ours, theirs = (weights(tmp_path / name / out, file) for out in ("one", "two"))
        assert alike(ours, theirs, 0.05 if source == half else 1e-3), name


def test_so_where_one_process_sees_a_picture_and_the_other_none(folder, tmp_path):
    Image.fromarray(np.full((24, 24, 3), 200, np.uint8)).save(tmp_path / "light.png")
    seeing = {"messages": [{"role": "user", "content": [{"type": "image", "image": "light.png"},
                                                        {"type": "text", "text": "?"}]},
                           {"role": "assistant", "content": "light"}]}
    data = write_chats(tmp_path / "chats.jsonl", [seeing, *spelling(3)])
    settings = [replace(QUICK, batch=4, held_out=0, epochs=2, tower=tower) for tower in (False, True)]
    results, _ = together(tune_each, 2, *([folder, data, tmp_path / f"two {one.tower}", one] for one in settings))
    for one, (log, _) in zip(settings, results):
        assert close(finetune(folder, data, tmp_path / f"one {one.tower}", one), log)
        tower_of = [{name: x for name, x in weights(path).items() if name.startswith("model.visual.")}
                    for path in (tmp_path / f"one {one.tower}", tmp_path / f"two {one.tower}", folder)]
        assert alike(tower_of[0], tower_of[1]) and alike(tower_of[0], tower_of[2], 0) != one.tower


def test_shares_are_of_one_kind_and_hold_every_row_once(folder, tmp_path):
    qwen = load(folder)
    Image.fromarray(np.full((24, 24, 3), 200, np.uint8)).save(tmp_path / "light.png")
    picture = chat("?", "light")
    picture["messages"][0]["content"] = [{"type": "image", "image": "light.png"}, {"type": "text", "text": "?"}]
    chats = read_chats(write_chats(tmp_path / "chats.jsonl", [picture, *spelling(8), picture, picture]))
    rows = [row for one in chats for row in rows_of(one, qwen)]
    for ranks in (1, 2, 3, 5):
        given = [list(shares(rows, 100, rank, ranks)) for rank in range(ranks)]
        read = [row for packs in given for pack, counts in packs if counts for row in pack]
        assert sorted(map(id, read)) == sorted(map(id, rows))
        assert len({len(packs) for packs in given}) == 1
        if ranks > 1:
            for now in zip(*given):
                assert len({row.messages is not None for pack, _ in now for row in pack}) == 1
    assert [pack for pack, _ in shares(rows, 100, 0, 1)] == packed(rows, 100), "alone, all is packed together"


# ------------------------------------------------------------------------------------------------------ kill and resume


@pytest.mark.parametrize("fault", ["killed", "killed while writing"])
def test_a_run_whose_process_was_killed_ends_in_the_same_bits(folder, data, two, tmp_path, fault):
    out, log = two
    at = random.choice([1, 2])
    with pytest.raises(QwenError, match="^Process [01] of 2 has failed: "):
        together(tune, 2, folder, data, tmp_path / "out", QUICK, fault, at, False, 1)
    [kept] = distributed.snapshots(tmp_path / "out")
    assert kept.name == f"snapshot-{at:08d}", "what was being written does not count"
    for ranks in (1, 3):
        shutil.copytree(tmp_path / "out", tmp_path / f"by {ranks}")
    (tmp_path / "out" / distributed.SHARDS).mkdir()      # as if an earlier one was killed at the very end
    (tmp_path / "out" / distributed.SHARDS / "half.safetensors").write_bytes(b"?")
    (resumed, _), _ = together(tune, 2, folder, data, tmp_path / "out", QUICK)
    assert resumed == log and alike(weights(out), weights(tmp_path / "out"), 0)
    if fault == "killed":
        for ranks in (1, 3):
            (resumed, _), *_ = together(tune, ranks, folder, data, tmp_path / f"by {ranks}", QUICK)
            assert resumed[: at + 1] == log[: at + 1] and close(resumed, log)
            assert alike(weights(out), weights(tmp_path / f"by {ranks}"))


@pytest.mark.parametrize("fault", ["full disk", "full at last"])
def test_a_full_disk_costs_the_last_snapshot(folder, data, two, tmp_path, fault):
    (log, remarks), (_, silent) = together(tune, 2, folder, data, tmp_path, QUICK, fault, 1, False, 1)
    assert remarks == ["The snapshot of step 2 cannot be written (No space left on device): the run goes on, and the "
                       "snapshot before it stays."] and not silent
    assert log == two[1]


def test_a_half_snapshot_is_not_taken_for_a_whole_one(folder, data, two, tmp_path):
    with pytest.raises(QwenError):
        together(tune, 2, folder, data, tmp_path / "a", QUICK, "killed", 2, False, 1)
    [kept] = distributed.snapshots(tmp_path / "a")
    for number, lost in enumerate(there := [".metadata", "__1_0.distcp", "run.json"]):
        shutil.copytree(tmp_path / "a", tmp_path / str(number))
        (tmp_path / str(number) / kept.name / lost).unlink()
    shutil.copytree(tmp_path / "a", tmp_path / "3")
    for piece in (tmp_path / "3" / kept.name).glob("*.distcp"):
        piece.write_bytes(piece.read_bytes()[:100])
    there.append("no whole snapshot (EOFError)")
    (tmp_path / "a" / f"{kept.name}.bak").mkdir()        # somebody's own, and no snapshot of the run
    older = tmp_path / "a" / "snapshot-00000001"         # as if it was ended before it had removed that one
    older.mkdir()
    assert distributed.snapshots(tmp_path / "a") == [kept, older]
    runs = [[folder, data, tmp_path / str(number), QUICK] for number in range(4)]
    ours, others = together(tune_each, 2, *runs, [folder, data, tmp_path / "a", replace(QUICK, seed=1)])
    assert ours == others
    for (said, _), lost in zip(ours, there):
        assert lost in said and "\n" not in said and said.count(". ") == 0, said
    assert "a holds a run with another seed" in ours[-1][0]
    with pytest.raises(QwenError, match="a holds a run under torchrun: go on with it"):
        finetune(folder, data, tmp_path / "a", QUICK)
    begins_anew(folder, data, two, tmp_path / "0")       # what all these sentences advise
    (tmp_path / "1" / SNAPSHOT).write_bytes(b"")         # of one process alone
    begins_anew(folder, data, two, tmp_path / "1")


def begins_anew(folder, data, two, out):
    """With --restart: nothing that is there counts, and nothing of it is left."""
    (log, _), (other, _) = together(tune, 2, folder, data, out, QUICK, None, None, False, 1, True)
    assert log == other == two[1] and alike(weights(two[0]), weights(out), 0)
    assert {path.name for path in out.iterdir()} == {path.name for path in two[0].iterdir()}


# ------------------------------------------------------------------------------------------------------- bad situations


def test_what_cannot_be_shared_is_told_in_a_sentence(folder, data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / SNAPSHOT).write_bytes(b"")
    for (said, _), (other, _) in together(tune_each, 2, [folder, data, tmp_path, replace(QUICK, batch=3)],
                                          [folder, data, tmp_path / "out", QUICK]):
        assert said == ("The 3 sequences of a step cannot be shared out among 2 processes: make --batch a multiple of "
                        "2.")
        assert other.startswith(f"{tmp_path / 'out'} holds a run without torchrun: ")


def test_a_process_that_fails_ends_all():
    with pytest.raises(QwenError, match="^Process 1 of 2 has failed: this cannot be.$"):
        together(fails_on_the_second, 2)
    with pytest.raises(QwenError, match="^Process 0 of 1 has failed: .*pickle"):
        together(returns_what_cannot_be_sent, 1)


@pytest.mark.parametrize("size, says", [(0, "be 1 or more, not 0"), (-2, "be 1 or more, not -2"),
                                        (2.5, "be a whole number, not 2.5"), ("2", "be a whole number, not '2'")])
def test_a_number_of_processes_that_cannot_be_is_told(size, says):
    with pytest.raises(QwenError, match=f"^The number of processes must {says}[.]$"):
        together(fails_on_the_second, size)


def test_torchrun(folder, data, tmp_path):
    """As typed in a terminal; and when one process is killed there, the others say one sentence."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "minqwen.finetune", str(folder), "--data", str(data), "--batch", "6", "--length", "64", "--keep-every",
               "1", "--out", str(tmp_path / "out"), "--lr", "3e-3", "--epochs", "500"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not distributed.snapshots(tmp_path / "out") and process.poll() is None:
        time.sleep(0.05)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(workers[1]), signal.SIGKILL)
    said = process.communicate()[1]
    assert process.returncode != 0
    assert said.count("minqwen: ") == 1, said
    assert "minqwen: Stopped, as another process of this run has gone, or all are to end: the same command" in said
    step = int(distributed.snapshots(tmp_path / "out")[0].name.removeprefix("snapshot-"))
    assert 0 < step < 1500
