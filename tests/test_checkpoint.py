"""Checkpoints: what we save `transformers` loads, what it saves we load, and what is broken is named."""

import json
import os
import re
import shutil
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors as hub_errors
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import random_qwen, seeing_config, small_config

import minqwen
from minqwen import checkpoint
from minqwen.checkpoint import load_config, load_model, resolve, save_model, without_memory
from minqwen.config import Config, TextConfig, VisionConfig
from minqwen.errors import QwenError
from minqwen.model import Qwen

EMBEDDING = "model.language_model.embed_tokens.weight"
IDS = torch.tensor([[5, 17, 2, 250, 33, 91, 4, 4, 120]])


def tiny(tied=True, **numbers):
    """Four layers of the official layout, with grouped heads; a tower and a head for multi-token prediction."""
    numbers = {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
               "mtp_num_hidden_layers": 1} | numbers
    text = TextConfig(
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8, tie_word_embeddings=tied,
        rope_parameters={
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
            "mrope_interleaved": True, "mrope_section": [2, 1, 1],
        },
        **numbers,
    )  # fmt: skip
    vision = VisionConfig(depth=1, hidden_size=24, intermediate_size=32, num_heads=2, patch_size=4,
                          num_position_embeddings=16, out_hidden_size=text.hidden_size)
    return Config(text, vision)


def tiny_model(tied=True, dtype=torch.float32, **numbers):
    """With every weight random, so that no two tensors can be mistaken for one another."""
    torch.manual_seed(0)
    model = Qwen(tiny(tied, **numbers)).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(tensor + 0.1 * torch.randn_like(tensor))
            if not name.endswith(("A_log", "linear_attn.norm.weight")):
                tensor.data = tensor.to(dtype)  # as the official checkpoints: all but these
    return model


def assert_same(model, other):
    """Every tensor: name, dtype and bits."""
    ours, theirs = model.state_dict(), other if isinstance(other, dict) else other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name


def in_the_whole(name):
    """What a tensor of a language model saved alone is called in the whole model."""
    return re.sub("^model[.](?!language_model|visual)", "model.language_model.", name)


def assert_close(logits, expected):
    assert (logits - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.fixture
def folder(tmp_path):
    """A checkpoint in one file."""
    save_model(tiny_model(), tmp_path / "one")
    return tmp_path / "one"


@pytest.fixture
def shards(tmp_path):
    """The same in several files."""
    save_model(tiny_model(), tmp_path / "several", max_shard_size=50_000)
    return tmp_path / "several"


def rewrite(folder, change):
    """Changes the dict of tensors of a checkpoint in one file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def set_config(folder, outside=(), inside=()):
    """Changes config.json, and its text_config."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"].update(inside)
    (folder / "config.json").write_text(json.dumps(config | dict(outside)))


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


# --------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [5 * 10**9, 50_000, 1])
def test_what_is_saved_is_loaded(tmp_path, tied, dtype, size):
    model = tiny_model(tied, dtype)
    save_model(model, tmp_path / "model", max_shard_size=size)
    loaded = load_model(tmp_path / "model")
    assert_same(loaded, model)
    assert loaded.config.to_dict() == load_config(tmp_path / "model").to_dict()
    assert loaded.config.text_config.dtype == str(dtype).removeprefix("torch.")
    assert torch.equal(loaded(IDS), model(IDS))
    assert not loaded.training and not any(tensor.requires_grad for tensor in loaded.parameters())
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])


def test_the_files_are_the_official_ones(folder, shards):
    model = tiny_model()
    assert names(folder) == ["config.json", "model.safetensors"]
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(model.state_dict()) and "lm_head.weight" not in file.keys()
    index = json.loads((shards / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    assert names(shards) == sorted(["config.json", *files, "model.safetensors.index.json"]) and len(files) > 2
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in model.state_dict().values())
    for file in files:
        tensors = load_file(shards / file)
        assert all(index["weight_map"][name] == file for name in tensors)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 50_000


def test_the_other_official_spelling_of_shards_loads(shards):
    """Qwen3.5's own files are named model.safetensors-00001-of-00002.safetensors."""
    index = (shards / "model.safetensors.index.json").read_text().replace("model-", "model.safetensors-")
    (shards / "model.safetensors.index.json").write_text(index)
    for path in shards.glob("model-*"):
        path.rename(shards / path.name.replace("model-", "model.safetensors-"))
    assert_same(load_model(shards), tiny_model())
    save_model(tiny_model(), shards, overwrite=True)
    assert names(shards) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [5 * 10**9, 50_000])
@pytest.mark.parametrize("auto", ["AutoModelForImageTextToText", "AutoModelForCausalLM"])
def test_transformers_loads_what_we_save(tmp_path, tied, size, auto):
    transformers = pytest.importorskip("transformers")
    model = tiny_model(tied)
    save_model(model, tmp_path, max_shard_size=size)
    theirs, report = getattr(transformers, auto).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[keys] for keys in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    with torch.no_grad():
        assert_close(model(IDS), theirs.eval()(IDS).logits)
    ours = model.state_dict() | {"lm_head.weight": model.head_weight}
    assert any("visual" in name for name in theirs.state_dict()) == (auto == "AutoModelForImageTextToText")
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, ours[in_the_whole(name)]), name


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", ["5GB", "50KB"])
@pytest.mark.parametrize("kind", ["Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"])
def test_we_load_what_transformers_saves(tmp_path, tied, dtype, size, kind):
    """The whole model, and the language model alone, whose names are shorter; neither with multi-token prediction."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Qwen3_5Config(**tiny(tied).to_dict())
    alone = kind == "Qwen3_5ForCausalLM"
    theirs = getattr(transformers, kind)(config.text_config if alone else config).eval().to(dtype)
    theirs.save_pretrained(tmp_path, max_shard_size=size)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == ("qwen3_5_text" if alone else "qwen3_5")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (size == "50KB")

    loaded = load_model(tmp_path)
    assert loaded.config.text_config.mtp_num_hidden_layers == 0 and (loaded.config.vision_config is None) == alone
    expected = {in_the_whole(name): tensor
                for name, tensor in theirs.state_dict().items() if not (tied and name == "lm_head.weight")}
    assert_same(loaded, expected)
    if dtype == torch.float32:
        with torch.no_grad():
            assert_close(loaded(IDS), theirs(IDS).logits)


def test_a_tied_head_is_stored_once_and_may_be_stored_twice(folder, recwarn):
    model = load_model(folder)
    assert model.head_weight is model.model.language_model.embed_tokens.weight
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": tensors[EMBEDDING].clone()}))
    loaded = load_model(folder)
    assert loaded.head_weight is loaded.model.language_model.embed_tokens.weight
    assert_same(loaded, tiny_model())
    rewrite(folder, lambda tensors: tensors.pop(EMBEDDING))  # either of the two is both
    assert_same(load_model(folder), tiny_model())
    assert not recwarn


@pytest.mark.parametrize("tied", [{}, {"tie_word_embeddings": None}], ids=["said twice", "said inside"])
def test_trap_33_a_head_that_was_trained_apart_is_not_tied(folder, tmp_path, tied):
    transformers = pytest.importorskip("transformers")
    head = torch.randn(256, 32, generator=torch.Generator().manual_seed(1))
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": head}))
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    set_config(folder, tied)
    with pytest.warns(UserWarning, match="a head of its own is stored beside it"):
        loaded = load_model(folder)
    with torch.no_grad():
        assert_close(loaded(IDS), theirs.eval()(IDS).logits)
    save_model(loaded, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["tie_word_embeddings"] is False
    assert_same(load_model(tmp_path / "again"), loaded)


def test_a_tied_head_of_another_dtype_is_the_same_head(folder):
    rewrite(folder, lambda tensors: tensors.update({
        EMBEDDING: tensors[EMBEDDING].bfloat16().float(), "lm_head.weight": tensors[EMBEDDING].bfloat16()}))
    assert load_model(folder).config.tie_word_embeddings


# ---------------------------------------------------------------------------------------------------- dtypes


def test_trap_7_what_is_float32_stays_float32(tmp_path):
    save_model(tiny_model(dtype=torch.bfloat16), tmp_path / "official")
    save_model(tiny_model(dtype=torch.bfloat16).to(torch.bfloat16), tmp_path / "all bfloat16")
    for stored, asked, special, rest in [
        ("official", None, torch.float32, torch.bfloat16),
        ("official", torch.float16, torch.float32, torch.float16),
        ("official", "float32", torch.float32, torch.float32),
        ("all bfloat16", None, torch.bfloat16, torch.bfloat16),  # as Qwen3.6-27B is
        ("all bfloat16", "float32", torch.float32, torch.float32),
    ]:
        for name, tensor in load_model(tmp_path / stored, asked).named_parameters():
            kept = name.endswith(("linear_attn.A_log", "linear_attn.norm.weight"))
            assert tensor.dtype == (special if kept else rest), (stored, asked, name)


def test_casting_is_what_torch_does(folder):
    for name, tensor in load_model(folder, "bfloat16").state_dict().items():
        stored = tiny_model().state_dict()[name]
        assert torch.equal(tensor, stored.to(tensor.dtype)), name


def test_dtypes_by_other_names(folder):
    for dtype in ("torch.bfloat16", "bfloat16", torch.bfloat16):
        assert load_model(folder, dtype).head_weight.dtype == torch.bfloat16
    assert_same(load_model(folder, "auto"), tiny_model())


# ---------------------------------------------------------------------------------------------------- memory


PEAK = """
import re, sys, torch
from minqwen.checkpoint import load_model

def kilobytes(what):                               # of memory: VmRSS now, VmHWM at most so far
    return int(re.search(what + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

load_model(sys.argv[1])                            # whatever is needed once
before = kilobytes("VmRSS")
model = load_model(sys.argv[2], sys.argv[3])
for tensor in model.parameters():
    tensor.view(torch.uint8).amax()                # so that every page is read
print((kilobytes("VmHWM") - before) * 1024 / sum(tensor.nbytes for tensor in model.parameters()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux")
def test_memory_holds_the_weights_once(tmp_path, folder):
    """Whether 300 MB are taken as they are or cast; each in another process, for its peak to be its own."""
    with torch.device("meta"):
        big = Qwen(tiny(hidden_size=512, intermediate_size=8192, num_hidden_layers=6))
    assert sum(tensor.nbytes for tensor in big.parameters()) > 300e6
    save_model(big.to_empty(device="cpu"), tmp_path / "big")
    process = [sys.executable, "-c", PEAK, folder, tmp_path / "big"]
    cast, as_stored = (float(subprocess.run([*process, dtype], capture_output=True, text=True, check=True).stdout)
                       for dtype in ("bfloat16", "auto"))
    assert 0.9 < as_stored < 1.1
    assert 0.9 < cast < 1.3


MAPPED = """
import re, sys, torch
from pathlib import Path
from minqwen.checkpoint import load_model

def anonymous():                                   # bytes of memory that are no file's
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])

load_model(sys.argv[1])                            # whatever is needed once
before = anonymous()
model = load_model(sys.argv[2], "auto" if len(sys.argv) < 4 else sys.argv[3])
for tensor in model.parameters():
    tensor.view(torch.uint8).amax()                # so that every page is read
print((anonymous() - before) / sum(tensor.nbytes for tensor in model.parameters()))
with torch.no_grad():
    for tensor in model.parameters():
        tensor.zero_()
print((anonymous() - before) / sum(tensor.nbytes for tensor in model.parameters()))
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux")
@pytest.mark.parametrize("asked", [[], ["float32"]], ids=["as stored", "asked for by name"])
def test_parameters_are_views_of_the_file_until_they_are_written_to(tmp_path, folder, asked):
    """And to build the model that they go into, no compiler is imported."""
    with torch.device("meta"):
        big = Qwen(tiny(hidden_size=256, intermediate_size=8192))
    save_model(big.to_empty(device="cpu"), tmp_path / "big", max_shard_size=30_000_000)
    process = [sys.executable, "-c", MAPPED, folder, tmp_path / "big", *asked]
    read, written, compiler = subprocess.run(process, capture_output=True, text=True, check=True).stdout.split()
    assert float(read) < 0.1 and 0.9 < float(written) < 1.2 and compiler == "False"


def test_a_model_without_memory_has_every_shape_and_leaves_the_world_as_it_was():
    model = without_memory(tiny())
    state = model.state_dict()
    assert all(tensor.is_meta for tensor in state.values())
    assert {name: tensor.shape for name, tensor in state.items()} == \
        {name: tensor.shape for name, tensor in tiny_model().state_dict().items()}
    assert torch.zeros(2).uniform_(1, 2).min() >= 1           # what fills tensors fills them again


def test_changing_a_loaded_model_leaves_the_file_alone(folder):
    """The tensors are the file's own pages until they are written to."""
    model = load_model(folder)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.zero_()
    assert_same(load_model(folder), tiny_model())


def test_a_model_can_be_saved_over_the_files_it_was_loaded_from(folder):
    model = load_model(folder)
    with torch.no_grad():
        model.model.language_model.norm.weight.fill_(0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_model(model, folder, overwrite=True)
    assert_same(model, before)
    assert_same(load_model(folder), before)


# ---------------------------------------------------------------------------------------------------- saving


def test_an_existing_checkpoint_is_not_overwritten_unasked(folder):
    with pytest.raises(QwenError, match="already; pass overwrite=True"):
        save_model(tiny_model(tied=False), folder)
    assert_same(load_model(folder), tiny_model())
    with pytest.raises(QwenError, match="is a file"):
        save_model(tiny_model(), folder / "config.json")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such permissions")
def test_others_may_read_what_is_saved_as_far_as_the_umask_lets_them(tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "tokenizer.json").touch(mode=0o600)
    before = os.umask(0o027)
    try:
        save_model(tiny_model(), tmp_path / "model", max_shard_size=1, tokenizer_from=tmp_path / "private")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()} == {0o640}


@pytest.mark.parametrize("first, then", [(1, 10**9), (10**9, 1), (1, 50_000), (10**9, 10**9)])
def test_overwriting_leaves_no_old_weights_and_all_other_files(tmp_path, first, then):
    save_model(tiny_model(), tmp_path / "model", max_shard_size=first)
    log = open(tmp_path / "model" / "training.csv", "a")  # a file that is being written meanwhile
    (tmp_path / "model" / "samples").mkdir()
    save_model(tiny_model(tied=False), tmp_path / "model", max_shard_size=then, overwrite=True)
    save_model(tiny_model(tied=False), tmp_path / "fresh", max_shard_size=then)
    print("step", file=log, flush=True)
    assert names(tmp_path / "model") == sorted([*names(tmp_path / "fresh"), "training.csv", "samples"])
    assert (tmp_path / "model" / "training.csv").read_text() == "step\n"
    assert_same(load_model(tmp_path / "model"), tiny_model(tied=False))


@pytest.mark.parametrize("interruption", [OSError("no space left"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_what_was_there(shards, monkeypatch, interruption):
    def fail(tensors, path, **options):
        if "00002" in str(path):
            Path(path).write_bytes(b"half")
            raise interruption
        save_file(tensors, path, **options)

    before = names(shards)
    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(type(interruption)):
        save_model(tiny_model(tied=False), shards, max_shard_size=50_000, overwrite=True)
    assert names(shards) == before
    assert_same(load_model(shards), tiny_model())


FEW, ONE = 50_000, 10**9  # sizes of shards


@pytest.mark.parametrize("first, then", [(FEW, FEW), (2 * FEW, FEW), (FEW, ONE), (ONE, FEW), (ONE, ONE)])
@pytest.mark.parametrize("numbers", [{}, {"intermediate_size": 64}])
def test_at_no_moment_is_there_a_mixture(tmp_path, monkeypatch, first, then, numbers):
    """Stops the save at each of its steps in turn: the folder holds the old, the new, or nothing that loads."""
    old, new = tiny_model(), tiny_model(**numbers)
    with torch.no_grad():
        for tensor in new.parameters():
            tensor += 1
    outcomes = []
    for steps in range(200):
        left = [steps]

        def limited(function, left=left):
            def step(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return function(*arguments, **options)

            return step

        folder = tmp_path / str(steps)
        save_model(old, folder, max_shard_size=first)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", limited(os.replace))
            patch.setattr(Path, "unlink", limited(Path.unlink))
            try:
                save_model(new, folder, max_shard_size=then, overwrite=True)
                finished = True
            except KeyboardInterrupt:
                finished = False
        try:
            loaded = load_model(folder).state_dict()
            is_new = torch.equal(loaded["model.language_model.norm.weight"], new.model.language_model.norm.weight)
            assert_same(new if is_new else old, loaded)
            outcomes.append("new" if is_new else "old")
        except QwenError as error:
            assert "config.json is missing" in str(error)
            outcomes.append("none")
        if finished:
            break
    assert outcomes[0] == "old" and outcomes[-1] == "new"
    assert outcomes == sorted(outcomes, key=["old", "none", "new"].index)
    if first == then == ONE and not numbers:
        assert "none" not in outcomes  # the common case, one file, is replaced at one stroke
    save_model(new, folder, max_shard_size=then, overwrite=True)
    assert not any(name.startswith(".saving") for name in names(folder))


@pytest.mark.parametrize("first, then", [(FEW, FEW), (FEW, ONE), (ONE, FEW), (ONE, ONE)])
@pytest.mark.parametrize("numbers", [{}, {"intermediate_size": 64}])
@pytest.mark.parametrize("error", [PermissionError("is in use"), KeyboardInterrupt()])
def test_a_step_that_fails_is_undone_with_all_before_it(tmp_path, monkeypatch, first, then, numbers, error):
    """Each step of putting a checkpoint in place fails in turn: the folder is what it was, and loads."""
    old, new, replace_file = tiny_model(), tiny_model(**numbers), os.replace
    source = tmp_path / "source"
    save_model(old, source, max_shard_size=first)
    for name in ("tokenizer.json", "chat_template.jinja"):
        (source / name).write_text("old")
    for step in range(200):
        folder, steps = tmp_path / f"{step}", iter(range(200))
        shutil.copytree(source, folder)
        (folder / "tokenizer.json").write_text("there")

        def fails_once(start, end, steps=steps, step=step):
            if next(steps) == step:
                raise error
            replace_file(start, end)

        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fails_once)
            try:
                save_model(new, folder, max_shard_size=then, overwrite=True, tokenizer_from=source)
                break
            except KeyboardInterrupt:
                assert isinstance(error, KeyboardInterrupt)
            except QwenError as told:
                assert "was left as it was" in str(told) and "(is in use): save to another folder" in str(told)
                assert isinstance(error, PermissionError)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert_same(load_model(folder), old)
    assert step >= 3 and next(steps) == step
    assert_same(load_model(folder), new)


def test_saving_over_the_folder_that_is_loaded_on_windows(folder, monkeypatch):
    """Where a file that is mapped cannot be replaced, moved or removed: nothing happens, and the sentence says so."""
    replace_file = os.replace

    def of_windows(start, end):
        mapped = [path for path in map(Path, (start, end)) if path.parent == folder and path.suffix == ".safetensors"]
        if any(path.exists() for path in mapped):
            raise PermissionError(13, "Access is denied")
        replace_file(start, end)

    model, before = load_model(folder), names(folder)
    monkeypatch.setattr(os, "replace", of_windows)
    for saved in (model, tiny_model(tied=False)):
        assert "let go first of the model" in sentence(save_model, saved, folder, overwrite=True)
        assert names(folder) == before
        assert_same(load_model(folder), tiny_model())


def test_what_a_killed_save_left_is_cleaned_up(folder):
    (folder / ".saving-killed" / "before").mkdir(parents=True)
    (folder / ".saving").mkdir()
    save_model(tiny_model(), folder, overwrite=True)
    assert names(folder) == ["config.json", "model.safetensors"]


def test_the_tokenizer_is_taken_along(tmp_path, folder):
    source = tmp_path / "source"
    save_model(tiny_model(tied=False), source)
    settings = ["processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"]
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "README.md", *settings):
        (source / name).write_text(f"{name} of the source")
    save_model(tiny_model(), tmp_path / "to", tokenizer_from=source)
    taken = ["chat_template.jinja", "generation_config.json", "tokenizer.json", *settings]
    assert names(tmp_path / "to") == sorted(["config.json", "model.safetensors", *taken])
    assert all((tmp_path / "to" / name).read_text() == f"{name} of the source" for name in taken)
    assert_same(load_model(tmp_path / "to"), tiny_model())
    save_model(tiny_model(), source, overwrite=True, tokenizer_from=source)  # from itself: all stays
    assert names(source) == sorted([*names(tmp_path / "to"), "README.md"])
    with pytest.raises(QwenError, match="no tokenizer.json"):
        save_model(tiny_model(), tmp_path / "other", tokenizer_from=folder)
    assert not (tmp_path / "other").exists()


# ---------------------------------------------------------------------------------------------------- errors


def sentence(action, *arguments, **options):
    """The message of the QwenError that must come, which is one line."""
    with pytest.raises(QwenError) as error:
        action(*arguments, **options)
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_not_a_checkpoint_folder(tmp_path, folder):
    assert "config.json is missing" in sentence(load_model, tmp_path)
    assert "no folder ./nowhere" in sentence(load_model, "./nowhere")
    assert "no folder nowhere" in sentence(load_config, "nowhere")
    assert "is a file" in sentence(load_model, folder / "config.json")
    (folder / "model.safetensors").unlink()
    assert "neither model.safetensors nor model.safetensors.index.json" in sentence(load_model, folder)


def test_missing_shard(shards):
    lost = next(shards.glob("model-00001-of-*"))
    lost.unlink()
    assert f"lacks {lost.name}, one of its" in sentence(load_model, shards)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_file(folder, shards, keep):
    for path in (folder / "model.safetensors", next(shards.glob("model-00002-of-*"))):
        path.write_bytes(path.read_bytes()[:keep])
        assert f"{path} is cut short or damaged" in sentence(load_model, path.parent)


def test_a_git_lfs_pointer_is_no_weights(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "only says where its weights are kept (Git LFS): run `git lfs pull` in" in sentence(load_model, folder)


NORM = "model.language_model.norm.weight"


def test_missing_tensor(folder, shards):
    rewrite(folder, lambda tensors: tensors.pop(NORM))
    assert f"lacks the tensor {NORM};" in sentence(load_model, folder)
    rewrite(folder, lambda tensors: tensors.pop("model.language_model.embed_tokens.weight"))
    assert "and 1 other;" in sentence(load_model, folder)
    rewrite(folder, lambda tensors: tensors.pop("model.language_model.layers.0.linear_attn.A_log"))
    assert "and 2 others;" in sentence(load_model, folder)


def test_an_untied_model_needs_its_head(tmp_path):
    save_model(tiny_model(tied=False), tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.pop("lm_head.weight"))
    assert "lacks the tensor lm_head.weight" in sentence(load_model, tmp_path)


def test_misshapen_tensor(folder):
    rewrite(folder, lambda tensors: tensors.update({NORM: torch.zeros(31)}))
    assert f"{NORM} in {folder / 'model.safetensors'} has the shape (31,), but config.json asks for (32,)" in sentence(
        load_model, folder
    )


@pytest.mark.parametrize("name", [
    "model.language_model.layers.4.mlp.weight", "model.visual.blocks.1.norm1.weight", "mtp.layers.1.mlp.up_proj.weight",
    "model.language_model.layers.3.self_attn.rotary_emb.inv_freq", "lm_head.bias",
])
def test_tensors_that_have_no_place_are_named_and_left_alone(folder, name):
    rewrite(folder, lambda tensors: tensors.update({name: torch.zeros(1)}))
    with pytest.warns(UserWarning, match=f"holds the tensor {re.escape(name)}, which .* no place for: not read[.]$"):
        assert_same(load_model(folder), tiny_model())


def test_a_head_for_multi_token_prediction_that_config_json_does_not_speak_of(folder):
    set_config(folder, inside={"mtp_num_hidden_layers": 0})
    with pytest.warns(UserWarning, match="the tensor mtp.* and [0-9]+ others, which"):
        loaded = load_model(folder)
    assert not hasattr(loaded, "mtp") and torch.equal(loaded(IDS), tiny_model()(IDS))


def test_the_language_models_config_beside_the_whole_models_weights(folder):
    text = json.loads((folder / "config.json").read_text())["text_config"]
    (folder / "config.json").write_text(json.dumps(text))
    assert text["model_type"] == "qwen3_5_text"
    with pytest.warns(UserWarning, match="the tensor model.visual"):
        loaded = load_model(folder)
    assert loaded.config.vision_config is None and torch.equal(loaded(IDS), tiny_model()(IDS))


def test_a_tensor_under_two_names_is_the_one_with_the_official_name(folder):
    """Both before and behind it in the file, which is in order of size and name."""
    for alias in ("model.embed_tokens.weight", "model.norm.weight", "model.layers.0.input_layernorm.weight"):
        official = load_file(folder / "model.safetensors")[in_the_whole(alias)]
        rewrite(folder, lambda tensors, alias=alias, x=official: tensors.update({alias: torch.full_like(x, 9)}))
    assert_same(load_model(folder), tiny_model())


@pytest.mark.parametrize("which", [0, -1])
def test_a_second_copy_that_the_index_does_not_name_is_not_read(shards, which):
    index = json.loads((shards / "model.safetensors.index.json").read_text())["weight_map"]
    other = sorted(set(index.values()) - {index[NORM]})[which]
    tensors = load_file(shards / other)
    alias = NORM.replace("language_model.", "")
    for name in (NORM, alias):
        save_file(tensors | {name: torch.full((32,), 9.0)}, shards / other)
        assert_same(load_model(shards), tiny_model())


def test_where_the_index_names_a_file_without_the_tensor_it_is_missing(shards):
    path = shards / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][NORM] = next(file for file in index["weight_map"].values() if file != index["weight_map"][NORM])
    path.write_text(json.dumps(index))
    assert f"lacks the tensor {NORM}" in sentence(load_model, shards)


QUANTIZED = "model.language_model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("dtype, called", [(torch.float8_e4m3fn, "F8_E4M3"), (torch.int8, "I8")])
@pytest.mark.parametrize("asked", [None, "float32"])
def test_weights_without_their_scales_are_no_weights(folder, dtype, called, asked):
    rewrite(folder, lambda tensors: tensors.update({QUANTIZED: tensors[QUANTIZED].to(dtype)}))
    told = sentence(load_model, folder, asked)
    assert "is quantized" in told and f"the tensor {QUANTIZED} as {called}" in told and "in bfloat16" in told


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("settings, says", [
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "is quantized by 'bitsandbytes' .* not known here"),
    ({"quant_method": None}, "is quantized by None"), ({"bits": 4}, "is quantized by None"),
    ({"quant_method": "gptq", "bits": 3}, r"\(gptq\) with bits 3, and known here is 8 or 4"),
    ({"quant_method": "awq", "w_bit": 8}, r"\(awq\) with bits 8, and known here is 4"),
    ({"quant_method": "awq", "version": "gemv"}, "with version 'gemv'"),
    ({"quant_method": "fp8", "activation_scheme": "static"}, "with activation_scheme 'static'"),
    ({"quant_method": "fp8", "weight_block_size": [64, 64]}, r"with weight_block_size \[64, 64\]"),
    ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "with format 'float-quantized'"),
    ({"quant_method": ["gptq"]}, r"is quantized by \['gptq'\] .* not known here"), ({"quant_method": {}}, "by {}"),
    ({"quant_method": "gptq", "bits": 4.0}, "with bits 4.0, and known here is 8 or 4"),
    (["fp8"], r"must be an object, not \['fp8'\]"),
])
def test_a_way_to_quantize_that_is_not_known_is_named(folder, settings, says, inside):
    """Whatever else is missing, or there too many: it need not be fetched again."""
    rewrite(folder, lambda tensors: tensors.pop(QUANTIZED))
    settings = {"quantization_config": settings}
    set_config(folder, *([(), settings] if inside else [settings]))
    told = sentence(load_model, folder)
    assert re.search(says, told) and "fetch it again" not in told
    assert load_config(folder).text_config.num_hidden_layers == 4     # its numbers can be read


def test_a_config_that_speaks_of_quantized_weights_where_there_are_none(folder):
    set_config(folder, {"quantization_config": None})
    assert_same(load_model(folder), tiny_model())
    set_config(folder, {"quantization_config": {"quant_method": "awq"}})
    with pytest.warns(UserWarning, match="speaks of quantized weights, but there are none"):
        assert_same(load_model(folder), tiny_model())


def test_a_tensor_in_a_dtype_of_counts_is_refused(folder):
    rewrite(folder, lambda tensors: tensors.update({NORM: tensors[NORM].long()}))
    assert f"the tensor {NORM} as I64" in sentence(load_model, folder)


def test_sizes_that_are_possible_only_alone(folder):
    set_config(folder, inside={"head_dim": 2**30, "num_attention_heads": 2**30, "num_key_value_heads": 2**30})
    assert "no model can be built of these sizes" in sentence(load_model, folder)


def test_a_tower_or_a_head_that_is_there_in_part_is_an_error(folder):
    for name in ("model.visual.blocks.0.attn.qkv.bias", "mtp.fc.weight"):
        kept = load_file(folder / "model.safetensors")[name].clone()
        rewrite(folder, lambda tensors, name=name: tensors.pop(name))
        assert f"lacks the tensor {name};" in sentence(load_model, folder)
        rewrite(folder, lambda tensors, name=name, kept=kept: tensors.update({name: kept}))
    assert_same(load_model(folder), tiny_model())


def test_a_head_for_multi_token_prediction_may_be_missing(folder, tmp_path):
    """`transformers` drops it when it saves, and leaves its number in config.json; without it all else is the same."""
    rewrite(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("mtp.")])
    assert json.loads((folder / "config.json").read_text())["text_config"]["mtp_num_hidden_layers"] == 1
    without, whole = load_model(folder), tiny_model()
    assert not hasattr(without, "mtp") and torch.equal(without(IDS), whole(IDS))
    with pytest.raises(ValueError, match="no head for multi-token prediction"):
        without.mtp_logits(IDS)
    save_model(without, tmp_path / "again")
    assert load_config(tmp_path / "again").text_config.mtp_num_hidden_layers == 0
    assert_same(load_model(tmp_path / "again"), without)


def test_names_that_a_wrapper_has_left_are_shown(folder):
    rewrite(folder, lambda tensors: [tensors.update({f"_orig_mod.{name}": tensors.pop(name)}) for name in [*tensors]])
    assert "and holds the tensor _orig_mod." in sentence(load_model, folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model-Q4_K_M.gguf"])
def test_weights_of_another_format_are_named(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    assert f"but {name}, which is of another format: have it written as safetensors." in sentence(load_model, folder)


def test_tower_and_head_do_after_loading_what_they_did_before(folder):
    pictures = {"pixel_values": torch.randn(16, 3 * 2 * 4 * 4), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    model = tiny_model()
    model.config.image_token_id = 200
    save_model(model, folder, overwrite=True)
    loaded, x = load_model(folder), torch.tensor([[5, 200, 200, 200, 200, 33, 91, 4]])
    assert loaded.config.image_token_id == 200
    assert torch.equal(loaded(x, **pictures), model(x, **pictures))
    assert torch.equal(loaded.mtp_logits(x, **pictures), model.mtp_logits(x, **pictures))
    assert not torch.equal(model(x, **pictures), model(x))


def test_a_model_without_tower_and_head(tmp_path):
    config = Config(replace(tiny().text_config, mtp_num_hidden_layers=0))
    save_model(Qwen(config), tmp_path)
    assert "vision_config" not in json.loads((tmp_path / "config.json").read_text())
    loaded = load_model(tmp_path)
    assert loaded.config.vision_config is None and not hasattr(loaded, "mtp")
    assert not any("visual" in name for name in loaded.state_dict())


def test_config_that_cannot_be_read(folder):
    config = json.loads((folder / "config.json").read_text())
    text_config = config["text_config"]
    for text, says in [
        ('{"half": ', "is not valid JSON"),
        ("[]", "should hold a JSON object"),
        (json.dumps(config | {"model_type": "llama"}), "'llama'"),
        (json.dumps({"model_type": "qwen3_5"}), "like an official one ('text_config')"),
        (json.dumps(config | {"text_config": text_config | {"num_attention_heads": 3}}), "num_attention_heads (3)"),
        (json.dumps(config | {"text_config": 7}), "like an official one"),
    ]:
        (folder / "config.json").write_text(text)
        message = sentence(load_model, folder)
        assert says in message and str(folder / "config.json") in message


def test_index_that_cannot_be_read(shards):
    for text, says in [('{"half": ', "is not valid JSON"), ("{}", "has no weight_map")]:
        (shards / "model.safetensors.index.json").write_text(text)
        assert says in sentence(load_model, shards)


def test_dtypes_and_devices_that_are_not_there(folder):
    for dtype in ("float99", "int8", torch.int64, 16, "nn"):
        assert "no dtype" in sentence(load_model, folder, dtype)
    for dtype in ("float8_e4m3fn", "torch.int8", torch.float8_e5m2, ["float32"]):
        assert f"There is no dtype {str(dtype)!r} for weights" in sentence(load_model, folder, dtype)
    for device in ("nowhere", "cuda:99"):
        assert f"The device '{device}' cannot be used" in sentence(load_model, folder, device=device)
    for device in ({"": 0}, ["cpu"], 1.5):
        assert "cannot be used: name one, such as 'cpu'" in sentence(load_model, folder, device=device)
    assert sentence(load_model, folder, device="gpu") == \
        "The device 'gpu' cannot be used: name one, such as 'cpu', or 'cuda' for a GPU."
    assert sentence(load_model, folder, device="vulkan") == \
        "The device 'vulkan' cannot be used: this torch does not compute there."


# ---------------------------------------------------------------------------------------------------- fetching


@pytest.fixture
def hub(monkeypatch, folder):
    """Stands for the Hub's download: notes what it was asked for, and gives `folder` or raises."""
    asked = types.SimpleNamespace(error=None)

    def snapshot_download(name, *, revision, allow_patterns, tqdm_class):
        asked.name, asked.revision, asked.patterns, asked.bar = name, revision, allow_patterns, tqdm_class
        if asked.error:
            raise asked.error
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_a_name_is_fetched_from_the_hub_at_its_revision(hub, folder):
    assert_same(load_model("Qwen/Qwen3.5-0.8B", revision="abc123"), tiny_model())
    assert (hub.name, hub.revision) == ("Qwen/Qwen3.5-0.8B", "abc123")
    wanted = {"config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json",
              "chat_template.jinja", "generation_config.json"}
    assert wanted <= set(hub.patterns)
    assert load_config("Qwen/Qwen3.5-0.8B").to_dict() == load_config(folder).to_dict()
    assert hub.patterns == ["config.json"]  # a look at the numbers fetches no weights
    resolve("Qwen/Qwen3.5-0.8B", progress=False)
    assert hub.bar(total=1).disable


@pytest.mark.parametrize(
    "kind, says",
    [
        ("RepositoryNotFoundError", "does not exist"),
        ("GatedRepoError", "accept its terms"),
        ("RevisionNotFoundError", "has no revision 'v9'"),
        ("HfHubHTTPError", r"could not be fetched \(what the hub says"),
    ],
)
def test_the_hub_says_no(hub, kind, says):
    response = types.SimpleNamespace(headers={}, request=None)
    hub.error = getattr(hub_errors, kind)("what the hub says\n\non many lines", response=response)
    with pytest.raises(QwenError, match=says) as error:
        load_model("Qwen/Nothing", revision="v9")
    assert "no folder Qwen/Nothing" in str(error.value) and "\n" not in str(error.value)


def test_no_network(monkeypatch, tmp_path):
    """With the library's own offline switch: nothing is sent, and nothing was fetched before."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "cannot be reached (no network" in sentence(load_model, "Qwen/Qwen3.5-0.8B")


def test_modelscope(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "modelscope", None)  # as if not installed
    assert "pip install modelscope" in sentence(load_model, "modelscope:Qwen/Qwen3.5-0.8B")

    asked = []

    def snapshot_download(model_id, revision=None, allow_patterns=None):
        asked.append((model_id, revision))
        if revision == "v9":
            raise RuntimeError("revision v9 not found\nmore")
        return str(folder)

    monkeypatch.setitem(sys.modules, "modelscope", types.SimpleNamespace(snapshot_download=snapshot_download))
    assert_same(load_model("modelscope:Qwen/Qwen3.5-0.8B", revision="v1"), tiny_model())
    assert asked == [("Qwen/Qwen3.5-0.8B", "v1")]
    assert "revision v9 not found" in sentence(load_model, "modelscope:Qwen/Qwen3.5-0.8B", revision="v9")


def test_the_progress_bar_can_be_turned_off(folder, monkeypatch, capsys):
    real, options = checkpoint.tqdm, []

    def impatient(items, **kwargs):
        options.append(kwargs)
        return real(items, **{"disable": False} | kwargs | {"delay": 0})     # whatever TQDM_DISABLE says here

    monkeypatch.setattr(checkpoint, "tqdm", impatient)
    load_model(folder, progress=False)
    assert capsys.readouterr().err == ""
    load_model(folder)
    assert "loading" in capsys.readouterr().err
    assert "disable" not in options[-1]  # or TQDM_DISABLE would be overruled


def test_config_json_is_the_first_to_go_and_the_last_to_come(tmp_path, monkeypatch):
    model, folder, replace_file, went = random_qwen(small_config()), tmp_path / "a", os.replace, []
    source = tmp_path / "source"
    source.mkdir()
    for name in ("tokenizer.json", "chat_template.jinja"):
        (source / name).write_text("x")
    save_model(model, folder, max_shard_size=100_000, tokenizer_from=source)
    monkeypatch.setattr(os, "replace", lambda a, b: went.append(os.path.basename(b)) or replace_file(a, b))
    save_model(random_qwen(small_config(), seed=1), folder, max_shard_size=100_000, overwrite=True,
               tokenizer_from=source)
    assert went[0] == went[-1] == "config.json" and went.count("config.json") == 2


def test_of_two_copies_the_index_counts_more_than_the_name(tmp_path):
    model, folder, name = random_qwen(small_config()), tmp_path / "a", "model.language_model.norm.weight"
    save_model(model, folder, max_shard_size=100_000)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    shard, alias = index["weight_map"].pop(name), name.replace("language_model.", "")
    tensors = load_file(folder / shard)
    save_file(tensors | {alias: tensors[name], name: torch.full_like(tensors[name], 9.0)}, folder / shard)
    index["weight_map"][alias] = shard                   # which speaks of the copy with the short name
    path.write_text(json.dumps(index))
    assert torch.equal(load_model(folder).model.language_model.norm.weight, model.model.language_model.norm.weight)


@pytest.mark.parametrize("odd", ["lm_head.weight", "model.language_model.embed_tokens.weight",
                                 "model.language_model.layers.3.self_attn.q_proj.weight",
                                 "model.visual.blocks.0.mlp.linear_fc1.bias"])
def test_matrices_of_several_dtypes_become_what_the_configuration_says(tmp_path, odd):
    """As in `transformers`: some people keep a head or an embedding in float32, and no product takes both."""
    model = random_qwen(seeing_config(tie_word_embeddings=False)).bfloat16()
    save_model(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {odd: tensors[odd].float()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=rf"{re.escape(odd)} as F32.: all are read as bfloat16, as config.json says"):
        loaded = load_model(tmp_path)
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.bfloat16}
    assert torch.equal(loaded(IDS), model(IDS))
    assert load_model(tmp_path, "float32").head_weight.dtype == torch.float32         # and nothing is said


def test_norms_and_the_tower_may_be_more_exact_than_the_rest(tmp_path, recwarn):
    model = random_qwen(seeing_config())
    for name, tensor in model.named_parameters():
        if "visual" not in name and "norm" not in name:
            tensor.data = tensor.data.bfloat16()
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert not recwarn and all(torch.equal(a, b) and a.dtype == b.dtype
                               for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_what_is_no_model_is_not_saved(tmp_path):
    with pytest.raises(QwenError, match="such as qwen.model, and not the Assistant"):
        save_model(minqwen.load(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_adapter_is_no_checkpoint(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(QwenError, match=r"is an adapter.*: load that one, .* minqwen.lora.merge\(qwen.model, "):
        load_model(tmp_path)
