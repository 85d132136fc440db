"""Both hubs, by their real clients, from a hub of our own on loopback: the right model comes, or one sentence."""

import json
import os
import subprocess
import sys
import threading
from functools import partial

import huggingface_hub
import pytest
import torch
from hub_support import TOKEN, Hub
from huggingface_hub import constants
from support import random_qwen, small_config
from tqdm.auto import tqdm

from minqwen import cli
from minqwen.checkpoint import load_config, load_model, resolve, save_model
from minqwen.errors import QwenError

HUBS = ["", "modelscope:"]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
UNWANTED = ["README.md", "pytorch_model.bin", "model.fp16.safetensors", "onnx/model.onnx", "model/model.safetensors",
            "../../outside.safetensors", "model/../../../../outside.safetensors"]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two models, one in a file and one in shards, as {path: bytes}, with much beside them that nobody needs."""
    made = []
    for seed, size in ((0, 10**9), (1, 300_000)):
        folder = tmp_path_factory.mktemp("made")
        save_model(random_qwen(seed=seed), folder, max_shard_size=size)
        (folder / "generation_config.json").write_text('{"top_k": 7}')
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        made.append(files | dict.fromkeys(UNWANTED, b"unwanted"))
    return made


@pytest.fixture
def hub(tmp_path, monkeypatch, checkpoints):
    """Serves ann/one and ann/shards, at branch, tag and commit, to both clients in this process."""
    with Hub() as hub:
        hub.environ = hub.environment(tmp_path)
        for name, value in hub.environ.items():
            monkeypatch.setenv(name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "MODELSCOPE_API_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {  # which were read from the environment at import
            "ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hf" / "hub"), "HF_TOKEN_PATH": str(tmp_path / "hf" / "token"),
            "HF_HUB_OFFLINE": False, "DOWNLOAD_CHUNK_SIZE": 1_000,  # it goes on behind the last whole piece
        }.items():  # fmt: skip
            monkeypatch.setattr(constants, name, value)
        one, shards = checkpoints
        hub.old = hub.put("ann/one", shards, "v1")
        hub.new = hub.put("ann/one", one)
        hub.put("ann/shards", shards)
        yield hub


@pytest.fixture(params=HUBS, ids=["hugging_face", "modelscope"])
def prefix(request, monkeypatch):
    """What a name begins with, on either hub."""
    if request.param:
        pytest.importorskip("modelscope", minversion="1.38", reason="its client is not installed")
        monkeypatch.setattr("modelscope_hub.config._default_config", None)  # it keeps the first address that it reads
        monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_RETRY_TIMES", 1)  # it would wait for half a minute
        monkeypatch.setattr("modelscope_hub._legacy_api.REPO_TREE_PAGE_RETRY_MAX_DELAY_SECONDS", 0)
    return request.param


def is_model(model, seed):
    return all(torch.equal(ours, theirs) for ours, theirs in zip(
        model.state_dict().values(), random_qwen(seed=seed).state_dict().values(), strict=True))


def sentence(action, *arguments, **options):
    """The message of the QwenError that must come: one line, without an address or a stack of causes."""
    with pytest.raises(QwenError) as error:
        action(*arguments, **options)
    message = str(error.value)
    assert "\n" not in message and len(message) < 400 and message.endswith(".")
    return message


# ------------------------------------------------------------------------------------------------------ what comes


def test_a_name_becomes_the_model_and_only_what_it_needs_is_fetched(hub, prefix, checkpoints):
    for name, seed in (("ann/one", 0), ("ann/shards", 1)):
        hub.asked.clear()
        assert is_model(load_model(prefix + name), seed)
        wanted = set(checkpoints[seed]) - set(UNWANTED)
        assert hub.files_given() == wanted
        hub.asked.clear()
        assert is_model(load_model(prefix + name), seed)
        assert not hub.files_given()  # a second time nothing is fetched


def test_shards_may_have_any_name(hub, prefix, checkpoints):
    """The index says which files hold the weights, whatever they are called."""
    files = dict(checkpoints[1])
    index = json.loads(files[INDEX])
    shards = sorted(set(index["weight_map"].values()))
    new = {old: name for old, name in zip(shards, ["layers[0].safetensors", "rest/outside.safetensors"] +
                                          [f"part{i}.safetensors" for i in range(len(shards))])}  # fmt: skip
    index["weight_map"] = {tensor: new[file] for tensor, file in index["weight_map"].items()}
    files = {new.get(path, path): data for path, data in files.items()} | {INDEX: json.dumps(index).encode()}
    hub.put("ann/own_names", files)
    assert is_model(load_model(prefix + "ann/own_names"), 1)


@pytest.mark.parametrize("revision, seed", [(None, 0), ("main", 0), ("v1", 1), ("commit", 1)])
def test_revisions_of_hugging_face(hub, revision, seed):
    assert is_model(load_model("ann/one", revision=hub.old if revision == "commit" else revision), seed)


@pytest.mark.parametrize("revision, seed", [(None, 0), ("master", 0), ("v1", 1)])
@pytest.mark.parametrize("prefix", HUBS[1:], indirect=True)
def test_revisions_of_modelscope(hub, prefix, revision, seed):
    assert is_model(load_model(prefix + "ann/one", revision=revision), seed)


def test_a_branch_that_moves_on_is_followed(hub, prefix, checkpoints):
    hub.put("ann/moving", checkpoints[1])
    assert is_model(load_model(prefix + "ann/moving"), 1)
    hub.put("ann/moving", checkpoints[0])
    assert is_model(load_model(prefix + "ann/moving"), 0)


def test_the_numbers_alone(hub, prefix, capsys):
    """`info` of an unknown name fetches config.json and nothing else."""
    assert cli.main(["info", prefix + "ann/shards"]) == 0
    assert hub.files_given() == {"config.json"}
    assert f"{sum(p.numel() for p in random_qwen().parameters()):,}" in capsys.readouterr().out
    hub.asked.clear()
    assert cli.main(["info", "Qwen/Qwen3.5-0.8B"]) == 0 and not hub.asked
    assert is_model(load_model(prefix + "ann/shards"), 1)  # which goes on from there


def test_a_token_is_passed_on(hub, prefix, monkeypatch):
    hub.locked["ann/one"] = "RepoNotFound"
    monkeypatch.setenv("MODELSCOPE_API_TOKEN" if prefix else "HF_TOKEN", TOKEN)
    assert is_model(load_model(prefix + "ann/one"), 0)
    assert {request.token for request in hub.asked if request.file} == {TOKEN}


# --------------------------------------------------------------------------------------------------- what does not


def test_what_the_hub_refuses_is_said_in_one_sentence(hub, prefix, monkeypatch):
    missing = sentence(load_model, prefix + "ann/none")
    no_revision = sentence(load_model, prefix + "ann/one", revision="v9")
    hub.locked["ann/shards"] = "GatedRepo"
    gated = sentence(load_model, prefix + "ann/shards")
    if prefix:
        assert "ModelScope's repository" in missing and "not there" in missing and "not there" in no_revision
        assert "no permission" in gated
    else:
        assert "does not exist" in missing and "has no revision 'v9'" in no_revision and "accept its terms" in gated
    assert not hub.files_given()


def test_a_wrong_token_is_named(hub, monkeypatch):
    hub.locked["ann/one"] = "InvalidToken"
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    assert "your token, which the Hub does not know" in sentence(load_model, "ann/one")


@pytest.mark.parametrize("file", [WEIGHTS, "model-00002-of-00004.safetensors"])
def test_a_download_that_breaks_off_goes_on_where_it_was(hub, prefix, checkpoints, file):
    name, seed = ("ann/one", 0) if file == WEIGHTS else ("ann/shards", 1)
    hub.breaks_off_at[file] = 5_000
    assert is_model(load_model(prefix + name), seed)
    assert [request.range for request in hub.gets(file)] == [None, "bytes=5000-"]


def test_a_download_that_was_given_up_is_taken_up_again(hub, prefix, checkpoints):
    """What is whole is kept by both clients, the half file only by ModelScope's."""
    file = "model-00002-of-00004.safetensors"
    hub.breaks_off_at[file], hub.busy_then = 5_000, True
    assert "try again: files that have come are kept" in sentence(load_model, prefix + "ann/shards")
    hub.busy.clear()
    whole = {path for path in hub.files_given() - {file}}
    assert {"config.json", INDEX} <= whole
    hub.asked.clear()
    assert is_model(load_model(prefix + "ann/shards"), 1)
    assert [request.range for request in hub.gets(file)] == ["bytes=5000-" if prefix else None]
    assert not {"config.json", INDEX} & hub.files_given()


def test_without_a_network_what_was_fetched_is_enough(hub, prefix):
    for name in ("ann/one", "ann/shards"):
        load_model(prefix + name)
    load_config(prefix + "ann/one", revision="v1")
    hub.close()
    assert is_model(load_model(prefix + "ann/one"), 0) and is_model(load_model(prefix + "ann/shards"), 1)
    assert load_config(prefix + "ann/one", revision="v1").to_dict() == small_config().to_dict()
    for name, revision in (("ann/none", None), ("ann/one", "v1"), ("ann/one", "v9")):
        assert "cannot be reached (no network" in sentence(load_model, prefix + name, revision=revision)


def test_offline_by_wish_asks_nobody(hub, monkeypatch):
    load_model("ann/shards")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert is_model(load_model("ann/shards"), 1)
    assert "cannot be reached" in sentence(load_model, "ann/one")
    assert not hub.asked


@pytest.mark.parametrize("lost", ["an index's shards", "all shards but one"])
def test_a_cache_that_is_not_whole_is_no_checkpoint(hub, prefix, lost):
    folder = resolve(prefix + "ann/shards")
    for path in sorted(folder.glob("model-*"))[lost != "an index's shards":]:
        path.unlink()
    hub.close()
    assert "nor was all of it fetched before" in sentence(load_model, prefix + "ann/shards")


@pytest.mark.parametrize("file", [
    "../../../../outside.safetensors", "/etc/outside.safetensors", "..\\outside.safetensors", "C:\\outside.safetensors",
    "a.safetensors/../x", "config.json", INDEX, "*", "", ".", 7, None, ["a.safetensors"],
])  # fmt: skip
def test_an_index_names_nothing_but_weights_in_its_folder(hub, prefix, checkpoints, file, tmp_path):
    files = dict(checkpoints[1])
    index = json.loads(files[INDEX])
    index["weight_map"]["model.language_model.norm.weight"] = file
    hub.put("ann/climber", files | {INDEX: json.dumps(index).encode()})
    message = sentence(load_model, prefix + "ann/climber")
    assert "model.language_model.norm.weight" in message and "no name of a safetensors file in this folder" in message
    assert not any(path.endswith(".safetensors") for path in hub.files_given())
    assert not list(tmp_path.rglob("outside*"))


def test_a_folder_has_no_revisions(tmp_path):
    save_model(random_qwen(), tmp_path / "small")
    assert "has no revisions: leave out 'v1'" in sentence(load_model, tmp_path / "small", revision="v1")


# ---------------------------------------------------------------------------------------------------- from the shell


def download(hub, name, tmp_path):
    """`minqwen download` in a process of its own."""
    environment = os.environ | hub.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen([sys.executable, "-m", "minqwen.cli", "download", name], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)  # fmt: skip


def test_two_processes_at_once(hub, prefix, tmp_path, checkpoints):
    """Both ask for the weights' size before either gets them; both end with the whole checkpoint."""
    both, waiting = threading.Event(), []

    def wait(request):
        """Holds back the first answer to each until the other has come, too."""
        if "/revision/" in request.path or "/repo/files" in request.path:
            waiting.append(request)
            both.set() if len(waiting) > 1 else both.wait(60)

    hub.before = wait
    processes = [download(hub, prefix + "ann/one", tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    assert both.is_set() and [process.returncode for process in processes] == [0, 0], said
    (one, errors), (other, _) = said
    assert one == other and "%" not in errors  # nobody looks, so no bar is drawn
    assert errors.strip().endswith("files, 914 kB:")
    assert is_model(load_model(one.strip()), 0)


def test_the_progress_bar_is_for_those_who_look(hub, prefix, capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    huggingface_hub.utils.enable_progress_bars()         # `transformers` turns them off for all with its own
    if prefix:                                           # which reads it at import
        monkeypatch.setattr("modelscope_hub._download.tqdm", partial(tqdm, disable=False))
    resolve(prefix + "ann/one")
    assert "%" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    resolve(prefix + "ann/shards", progress=False)
    assert "%" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    resolve(prefix + "ann/one", revision="v1")
    assert "%" in capsys.readouterr().err
