"""The command line: every command runs, and what the user got wrong is one sentence and exit code 2."""

import io
import json
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path
from unittest.mock import call, create_autospec

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import random_qwen, seeing_config, small_config

from minqwen import cli
from minqwen.chat import load
from minqwen.checkpoint import load_model, save_model
from minqwen.config import Config
from minqwen.errors import QwenError
from minqwen.info import describe, memory, parameter_counts, readable, table, weight_bytes
from minqwen.model import AttentionCache
from minqwen.quantize import quantize
from minqwen.quantized import QuantizedTensor, packs_as_we_know

PUBLISHED = json.loads(Path(__file__).with_name("official_sizes.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "small"
    save_model(random_qwen(), path)
    return path


# ---------------------------------------------------------------------------------------------------------------- info


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "every size"])
def test_parameters_are_as_many_as_published(name):
    assert parameter_counts(Config.named(name)) == PUBLISHED[name]["parameters"]


def test_parameters_of_a_small_model_are_counted_by_part():
    qwen = random_qwen(seeing_config())
    counts = parameter_counts(qwen.config)
    assert counts == {part: sum(p.numel() for p in module.parameters()) for part, module in (
        ("text", qwen.model.language_model), ("vision", qwen.model.visual), ("mtp", qwen.mtp))}
    assert parameter_counts(small_config()) == counts | {"vision": 0, "mtp": 0}


def test_memory_is_what_a_cache_takes():
    qwen = random_qwen()
    cache = qwen.new_cache(1, 100)
    kept = memory(qwen.config, 100, "float32")
    attention = [layer for layer in cache.layers if isinstance(layer, AttentionCache)]
    delta = [layer for layer in cache.layers if not isinstance(layer, AttentionCache)]
    assert kept.keys_and_values == sum(layer.keys.nbytes + layer.values.nbytes for layer in attention)
    assert kept.states == sum(layer.recurrent_state.nbytes for layer in delta)
    assert kept.convolutions == sum(layer.conv_state.nbytes for layer in delta)
    assert kept.keys_and_values == 100 * kept.per_token
    half = memory(qwen.config, 100, "bfloat16")
    assert 2 * half.keys_and_values == kept.keys_and_values and half.states == kept.states


def test_info_by_name_needs_no_download(capsys):
    assert cli.main(["info", "Qwen/Qwen3.5-4B", "--context", "32768"]) == 0
    page = capsys.readouterr().out
    for fact in ("24 Gated DeltaNet", "8 gated attention", "4,659,865,088", "333,514,240", "9.32 GB in bfloat16",
                 "32,768 tokens", "1.07 GB", "51.5 MB", "24 blocks, 1024 wide, 16 heads", "32 x 32 pixels",
                 "by 1 layer of gated attention", "mtp 120,599,552"):
        assert fact in page, fact


def test_info_at_a_context_beyond_the_longest_is_that_of_the_model_loaded_for_it(folder, capsys):
    assert cli.main(["info", "Qwen3.5-4B", "--context", "1000000"]) == 0
    page = capsys.readouterr().out
    assert "1,000,000 tokens at most, by YaRN: 4 times 262,144\n" in page
    assert "cache of one row at 1,000,000 tokens\n  attention   32.8 GB" in page and "51.5 MB, always" in page
    assert cli.main(["info", str(folder), "--context", "1000000", "--dtype", "float32"]) == 0
    long = load_model(folder, context=1_000_000)
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in long.new_cache(1, 1000).layers
               if isinstance(layer, AttentionCache))
    assert f"attention   {readable(1000 * kept)} in float32" in capsys.readouterr().out
    assert describe(long.config, dtype="float32") == describe(small_config(), 1_000_000, "float32")
    assert "YaRN" not in describe(small_config(), 262_144)


@pytest.mark.parametrize("options", [{"bits": 8}, {"bits": 4, "group_size": 16}, {"bits": "fp8"},
                                     {"bits": 4, "group_size": 32, "embeddings": 4}, {"bits": 3, "group_size": 16}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bytes_of_weights_are_those_that_a_quantized_model_takes(options, dtype):
    for changes in ({}, {"tie_word_embeddings": False}, {"num_experts": 3, "num_experts_per_tok": 2,
                                                                   "moe_intermediate_size": 128}):
        config = seeing_config(hidden_size=64, intermediate_size=96, linear_value_head_dim=16, **changes)
        small = quantize(random_qwen(config).to(getattr(torch, dtype)), **options)
        held = sum(p.bytes() if isinstance(p, QuantizedTensor) else p.nbytes for p in small.parameters())
        sizes = weight_bytes(config, dtype, **options)
        assert sum(sizes.values()) == held and ("head" in sizes) == ("tie_word_embeddings" in changes)
        assert sizes["mtp"] == sum(p.bytes() if isinstance(p, QuantizedTensor) else p.nbytes
                                   for p in small.mtp.parameters())


@pytest.mark.skipif(not packs_as_we_know(), reason="other processors hold codes of 4 bits in a little less")
def test_the_readme_says_what_each_size_takes(repository):
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert re.search(r"<!-- sizes.*?-->\n(.*?)\n<!-- end of sizes -->", text, re.DOTALL)[1] == table()
    half, least = (weight_bytes(Config.named("Qwen3.5-9B"), bits=4, embeddings=n) for n in (8, 4))
    whole, ends, least = (readable(n) for n in (sum(half.values()), half["embedding"] + half["head"],
                                                sum(least.values())))
    assert (f"So the 9B in 4 bits is {whole}, of which embedding and head are {ends}, and {least} with these two in 4 "
            "bits." in " ".join(text.split()))


def test_info_in_few_bits(capsys):
    assert cli.main(["info", "Qwen3.5-9B", "--bits", "4"]) == 0
    page = capsys.readouterr().out
    for fact in ("weights       6.31 GB: layers 3.69 GB, embedding 1.02 GB, head 1.02 GB, vision 461 MB, mtp 129 MB",
                 "codes of 4 bits, the rest in bfloat16", "with those of 4 bits, too, it is 5.36 GB (embeddings=4)"):
        assert fact in page or not packs_as_we_know(), fact
    assert ("by torch's product for 4-bit codes" in page) == packs_as_we_know()
    assert cli.main(["info", "Qwen3.5-9B", "--bits", "4", "--embeddings", "4"]) == 0
    assert "weights       5.36 GB" in capsys.readouterr().out or not packs_as_we_know()
    assert cli.main(["info", "Qwen3.5-0.8B", "--bits", "8", "--dtype", "float32"]) == 0
    assert "numbers are made of the codes each time" in capsys.readouterr().out


def test_info_of_a_quantized_folder_says_how_it_is_stored(tmp_path, capsys):
    save_model(quantize(random_qwen(), 8), tmp_path, layout="gptq")
    assert cli.main(["info", str(tmp_path)]) == 0
    assert "stored        as codes and scales, by gptq" in capsys.readouterr().out


def test_info_of_a_folder(folder, capsys):
    assert cli.main(["info", str(folder), "--dtype", "float32"]) == 0
    page = capsys.readouterr().out
    assert f"{sum(p.numel() for p in random_qwen().parameters()):,}" in page
    assert "vision" not in page and "MTP" not in page


def test_info_of_a_folder_that_lacks_a_head_does_not_count_it(tmp_path, capsys):
    """As `transformers` saves: without the head for multi-token prediction, whose number stays in config.json."""
    whole = random_qwen(small_config(mtp_num_hidden_layers=1))
    save_model(whole, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: x for name, x in weights.items() if not name.startswith("mtp.")}, tmp_path / "model.safetensors")
    assert cli.main(["info", str(tmp_path)]) == 0
    page = capsys.readouterr().out
    assert f"{sum(p.numel() for name, p in whole.named_parameters() if not name.startswith('mtp.')):,}: text" in page
    assert "MTP" not in page
    (tmp_path / "model.safetensors").unlink()                                    # its numbers are still to be read
    assert cli.main(["info", str(tmp_path)]) == 0 and "MTP" in capsys.readouterr().out


def test_info_knows_the_dtype_by_its_old_name(folder, tmp_path, capsys):
    config = json.loads((folder / "config.json").read_text())
    del config["text_config"]["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"torch_dtype": "torch.float32"}))
    assert cli.main(["info", str(tmp_path)]) == 0
    parameters = sum(p.numel() for p in random_qwen().parameters())
    assert f"weights       {readable(4 * parameters)} in float32" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["Qwen3.6-27B", "Qwen/Qwen3.8-27B"])
def test_info_of_later_models_of_this_architecture(name, capsys):
    assert cli.main(["info", name]) == 0
    assert "27,781,427,952" in capsys.readouterr().out


def test_memory_in_a_dtype_that_is_none():
    with pytest.raises(QwenError, match="no dtype 'int3'; there are float64, float32"):
        memory(small_config(), 100, "int3")


def test_readable():
    assert [readable(n) for n in (0, 999, 12345, 999_499, 999_600, 1.5e6, 55.6e9, 2e12)] == \
        ["0 bytes", "999 bytes", "12.3 kB", "999 kB", "1 MB", "1.5 MB", "55.6 GB", "2 TB"]


def test_describe_takes_the_longest_context_by_default():
    assert "262,144 tokens\n  attention" in describe(Config.named("Qwen3.5-0.8B"))


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("argv", [
    ["info", "Qwen3.5-1T"], ["info", "Qwen3.5-4B", "--bits", "5"],
    ["info", "Qwen3.5-4B", "--bits", "4", "--group-size", "96"], ["info", "Qwen3.5-4B", "--context", "0"],
    ["info", "Qwen3.5-4B", "--context", "9999999999"], ["verify", "nowhere"], ["chat", "nowhere"],
    ["info", "Qwen3.5-4B", "--group-size", "64"], ["chat", "--embeddings", "4"], ["verify", "--kernel", "quick"],
    ["download", "nowhere"], ["lab", "99_no_such_lesson"],
    ["chat", "--image", "no.png"], ["chat", "--video", "README.md"],
    ["chat", "--temperature", "-1"], ["chat", "--top-p", "0"], ["chat", "--max-new-tokens", "-5"],
], ids=" ".join)
def test_mistakes_are_one_sentence_and_exit_code_2(argv, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if len(argv) == 3 and argv[0] == "chat":            # before anything is loaded
        monkeypatch.setattr("minqwen.chat.load", None if argv[1] != "--embeddings" else load)
    assert cli.main(argv) == 2
    said = capsys.readouterr()
    assert said.err.startswith("minqwen: ") and said.err.endswith(".\n") and said.err.count("\n") == 1
    assert said.out == ""


def test_a_bug_elsewhere_keeps_its_traceback(monkeypatch):
    """A JSONDecodeError is a ValueError, but it says nothing to a user, and is not shown as if it did."""
    monkeypatch.setattr("minqwen.checkpoint.resolve", lambda name, revision: json.loads(""))
    with pytest.raises(json.JSONDecodeError):
        cli.main(["download", "x"])


def test_a_value_error_of_the_model_is_ours(monkeypatch, capsys):
    monkeypatch.setattr("minqwen.checkpoint.resolve", lambda name, revision: random_qwen()(torch.tensor([[999]])))
    assert cli.main(["download", "x"]) == 2
    assert "Token ids run from" in capsys.readouterr().err


def test_from_the_shell():
    done = subprocess.run([sys.executable, "-m", "minqwen.cli", "info", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr.startswith("minqwen: ")
    done = subprocess.run([sys.executable, "-m", "minqwen.cli", "--help"], capture_output=True, text=True)
    assert all(name in done.stdout for name in ("lab", "chat", "verify", "info", "download", "bench"))


# ------------------------------------------------------------------------------------------------------------ commands


def test_verify(folder, capsys):
    pytest.importorskip("transformers", minversion="5.23")
    assert cli.main(["verify", str(folder)]) == 0
    report = capsys.readouterr().out
    assert "gated attention" in report and "checks passed" in report and str(folder) in report
    assert "publicly known answers were not compared" in report


def test_verify_says_so_with_its_exit_code(folder, capsys, monkeypatch):
    pytest.importorskip("transformers", minversion="5.23")
    monkeypatch.setattr("minqwen.model.GatedAttention.gated", lambda self, o, gate: o)
    assert cli.main(["verify", str(folder)]) == 1
    assert "✗" in capsys.readouterr().out


def test_download_of_a_folder_is_where_it_is(folder, capsys):
    assert cli.main(["download", str(folder)]) == 0
    assert Path(capsys.readouterr().out.strip()) == folder


def test_find_lesson(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    for name in ("00_start_here.ipynb", "03_delta_rule.ipynb", "scratch.ipynb"):
        (tmp_path / "notebooks" / name).touch()
    monkeypatch.chdir(tmp_path)
    assert cli.find_lesson("00").name == "00_start_here.ipynb"
    assert cli.find_lesson("03_delta_rule").name == "03_delta_rule.ipynb"
    assert cli.find_lesson("notebooks/scratch.ipynb").name == "scratch.ipynb"
    with pytest.raises(QwenError, match="03_delta_rule"):
        cli.find_lesson("42")


def test_lab_opens_the_lesson_and_asks_nothing_of_the_network(tmp_path, monkeypatch):
    lab = pytest.importorskip("jupyterlab.labapp")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00_start_here.ipynb").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "")
    seen = {}

    def launch(argv):
        from jupyterlab_server.config import get_page_config

        seen["argv"], seen["page"] = argv, get_page_config([])
        app = lab.LabApp()
        app.parse_command_line(argv)
        seen["news"], seen["root"] = app.news_url, argv[1]
        seen["updates"] = app.check_for_updates_class.__name__

    monkeypatch.setattr(lab.LabApp, "launch_instance", staticmethod(launch))
    assert cli.main(["lab", "--no-browser", "--port", "9999"]) == 0
    assert seen["argv"][0] == str(tmp_path / "notebooks" / "00_start_here.ipynb")
    assert seen["news"] is None and seen["updates"] == "NeverCheckForUpdate"
    assert "@jupyterlab/apputils-extension:announcements" in seen["page"]["disabledExtensions"]
    assert "--no-browser" in seen["argv"] and "--port=9999" in seen["argv"]
    assert "--ContentsManager.pre_save_hook=minqwen.cli.keep_pictures" in seen["argv"]


def test_what_is_saved_of_an_explorer_is_its_picture():
    view = "application/vnd.jupyter.widget-view+json"
    outputs = [{"data": {view: {"model_id": "a"}, "image/png": "iVBO"}}, {"data": {view: {"model_id": "b"}}},
               {"data": {"image/png": "iVBO"}}, {"name": "stdout", "text": "hello"}]
    content = {"cells": [{"cell_type": "code", "outputs": outputs}, {"cell_type": "markdown"}]}
    cli.keep_pictures(model={"type": "notebook", "content": content}, path="a.ipynb", contents_manager=None)
    assert [list(output.get("data", {})) for output in outputs] == [["image/png"], [view], ["image/png"], []]
    cli.keep_pictures({"type": "file", "content": "text"})
    cli.keep_pictures({"type": "notebook", "content": None})


class Talk:
    """A conversation that says two words; the second answer is interrupted."""

    def __init__(self):
        self.turns = 0

    def conversation(self, **options):
        self.options = options
        return self

    def __call__(self, text, stream):
        from minqwen.chat import Piece

        self.turns += 1
        yield Piece("hm", thinking=True)
        yield Piece(f"you said {text}")
        if self.turns == 2:
            raise KeyboardInterrupt
        yield Piece("!")


@pytest.mark.parametrize("command", ["chat", "verify"])
def test_what_load_takes_is_taken_and_handed_on(command, monkeypatch):
    given = {"dtype": "bfloat16", "device": "meta", "revision": "v1", "kernel": "chunk", "context": 5000, "bits": "fp8",
             "group_size": 64, "embeddings": 4}
    assert {"path_or_name", *given} == {*signature(load).parameters}
    fake = create_autospec(load, side_effect=QwenError("So far."))
    monkeypatch.setattr("minqwen.chat.load", fake)
    options = [part for name, x in given.items() for part in (f"--{name.replace('_', '-')}", str(x))]
    assert cli.main([command, "folder", *options]) == 2
    fake.assert_called_once_with("folder", **given)
    fake.reset_mock()
    assert cli.main([command, "--bits", "4"]) == 2
    assert fake.call_args == call(None, **{name: p.default for name, p in list(signature(load).parameters.items())[1:]}
                                  | {"bits": 4})


def test_chat_goes_on_after_an_interrupted_answer(monkeypatch, capsys):
    qwen, said = Talk(), iter(["hi", "stop", "again"])
    monkeypatch.setattr("minqwen.chat.load", create_autospec(load, return_value=qwen))
    monkeypatch.setattr("builtins.input", lambda prompt: next(said, None) or (_ for _ in ()).throw(EOFError))
    options = ["--no-thinking", "--top-k", "5", "--draft-tokens", "3", "--system", "Be brief."]
    assert cli.main(["chat", *options]) == 0
    out = capsys.readouterr().out
    assert "you said hi!" in out and "you said stop ..." in out and "you said again!" in out
    assert qwen.options == {"system": "Be brief.", "thinking": False, "top_k": 5, "draft_tokens": 3}


def test_chat_goes_on_after_a_line_that_is_not_utf_8(monkeypatch, capsys):
    qwen, lines = Talk(), io.TextIOWrapper(io.BytesIO(b"hi\n\xff\xfe oh\nagain\n"), encoding="utf-8")
    monkeypatch.setattr("minqwen.chat.load", create_autospec(load, return_value=qwen))
    monkeypatch.setattr("sys.stdin", lines)
    assert cli.main(["chat"]) == 0
    out, err = capsys.readouterr()
    assert "you said hi!" in out and "you said again" in out and "oh" not in out
    assert err.count("\n") == 1 and "not UTF-8" in err


@pytest.mark.parametrize("name", ["Qwen3.5-3B", "27B", "Qwen3.5-36B-A3B"])
def test_info_of_a_name_that_is_not_known_lists_those_that_are(name, capsys):
    assert cli.main(["info", name]) == 2
    assert re.search(f"no configuration named '{re.escape(name)}'; there are Qwen3.5-0.8B, .*Qwen3.8-27B",
                     capsys.readouterr().err)


def test_the_package_is_the_command():
    done = subprocess.run([sys.executable, "-m", "minqwen", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage: minqwen" in done.stdout
