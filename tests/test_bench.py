"""The benchmark compares what is equal, by turns; its figures are not judged here, for no test knows how busy it is."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support import error, seeing_config

from minqwen import bench, cli, llama_cpp
from minqwen.errors import QwenError
from minqwen.quantized import quantized_bits

pytest.importorskip("transformers", minversion="5.23")


def small(dtype="float32"):
    return seeing_config(eos_token_id=None, mtp_num_hidden_layers=0, dtype=dtype, max_position_embeddings=8192)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return bench.Pair(small(), tmp_path_factory.mktemp("bench"))


@pytest.fixture
def results(monkeypatch):
    """[(ours, theirs)]: what is timed for each side is called once, and kept here."""
    seen = []

    def by_turns(ours, theirs, rounds, figure=None):
        seen.append((ours(), theirs()))
        return [(1.0, 1.0)]

    monkeypatch.setattr(bench, "by_turns", by_turns)
    return seen


# ---------------------------------------------------------------------------------------------------------- comparisons


def test_by_turns_takes_turns():
    calls = []
    pairs = bench.by_turns(lambda: calls.append("a"), lambda: calls.append("b"), rounds=3)
    assert calls == list("baabbaab") and len(pairs) == 3 and all(a > 0 and b > 0 for a, b in pairs)
    assert bench.by_turns("ab", "abcd", rounds=2, figure=len) == [(2, 4), (2, 4)]


def test_a_row_is_the_median_of_neighbours_ratios():
    row = bench.Row("x", 1.5, pairs=[(1.0, 3.0), (10.0, 12.0), (1.0, 1.5)])             # medians alone would say 3
    assert row.cells() == ["x", "1.50", "1.35 to 2.25", "1.50 ✓", "1,000.00", "3,000.00", "ms"]
    tokens = bench.Row("y", unit="tokens/s", pairs=[(0.1, 0.2)]).cells()
    assert tokens == ["y", "2.00", "2.00 to 2.00", "1.00 ✓", "10.00", "5.00", "tokens/s"]
    assert bench.table([row]).splitlines()[2] == f"| {' | '.join(row.cells())} |"


def test_every_row_can_fail():
    """None has an aim below 1: ours a hundredth slower is red in each."""
    rows = list(bench.all_rows(4, 1))
    assert len({row.what for row in rows}) == len(rows) == 2 * (4 * 2 + 2 + 1) + 2 * 14
    for row in rows:
        assert "✗" in str(replace(row, pairs=[(1.01, row.aim)])) and "✓" in str(replace(row, pairs=[(1.0, row.aim)]))


# ------------------------------------------------------------------------------------------------------- the delta rule


@pytest.mark.parametrize("strong", [False, True])
def test_gates_are_what_they_are_called(strong):
    x, gates = bench.rule_inputs(500, 2, 4, strong)
    assert gates["g"].max() < 0 and (gates["g"].min() < -40) == strong
    assert 0.05 < -gates["g"].median() < 1 or strong


def test_both_rules_compute_the_same(results):
    bench.chunked(70, 2, 4, False, 1)
    (ours, theirs), = results
    assert error(ours[0], theirs[0]) < 1e-5 and error(ours[1], theirs[1]) < 1e-5


def test_both_rules_learn_the_same(results):
    bench.learning(70, 2, 4, 1)
    (ours, theirs), = results
    assert len(ours) == 5 and all(error(*pair) < 1e-4 for pair in zip(ours, theirs, strict=True))


def test_decoding_leaves_both_with_the_same_states(monkeypatch):
    monkeypatch.setattr(bench, "LAYERS", 2)
    sides = []
    monkeypatch.setattr(bench, "by_turns", lambda ours, theirs, rounds: sides.extend((ours, theirs)))
    with torch.no_grad():
        bench.decoding(2, 4, 1)
        for side in sides:
            side(), side()
    states = [next(c.cell_contents for c in side.__closure__ if isinstance(c.cell_contents, list)
                   and c.cell_contents[0].dim() == 4 and c.cell_contents[0].shape[-1] == c.cell_contents[0].shape[-2])
              for side in sides]
    for a, b in zip(*states, strict=True):
        assert a.any() and error(a, b) < 1e-5


# --------------------------------------------------------------------------------------------------------- whole models


def test_each_side_has_tensors_of_its_own_as_its_users_have_them(pair):
    """A twin on our parameters would have them without gradients, and hide what a user pays."""
    ours, theirs = (side.model for side in pair.sides)
    assert not any(p.requires_grad for p in ours.parameters()) and all(p.requires_grad for p in theirs.parameters())
    names = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.equal(names[name]) and parameter.data_ptr() != names[name].data_ptr(), name
    weight = theirs.model.language_model.norm.weight
    with torch.no_grad():
        weight += 1
        assert error(ours.model.language_model.norm.weight, weight) > 0.1
        weight -= 1


@pytest.mark.parametrize("what", [row.what for row in bench.model_rows(bench.Pair(small(), None), 1)
                                  if re.search("float32, (first|8 rows)", row.what)])
def test_both_sides_answer_the_same(pair, results, what):
    next(row for row in bench.model_rows(pair, 1) if row.what == what).measure()
    (ours, theirs), = results
    rows, new = (8, int(re.search(r"(\d+) new", what)[1])) if "rows" in what else (1, 1)
    assert ours == theirs and [len(row) for row in ours] == rows * [new]


@pytest.mark.parametrize("context", [32, 4096])
def test_both_sides_go_on_alike(pair, context):
    """Two rounds, and one that does not count, on one cache each: as if all had been asked at once."""
    pair.going_on(2, context)
    ours, theirs = (side.said for side in pair.sides)
    assert ours == theirs == pair.sides[0].answer(pair.prompt([context]), 1 + 3 * 8)[0]


def test_sampling_draws(pair):
    said = []
    for _ in range(2):
        pair.going_on(1, 32, sampling=bench.SAMPLING, presence_penalty=1.5)
        said += [side.said for side in pair.sides]
    assert len(set(map(tuple, said))) == 4 and {len(ids) for ids in said} == {1 + 2 * 8}


def test_nothing_ends_a_text(pair):
    for side in pair.sides:
        assert [len(row) for row in side.answer(pair.prompt([5], [9]), 400)] == [400, 400]


def test_loading_and_memory(pair):
    assert all(a > 0 and b > 0 for new in (0, 1) for a, b in pair.loading(1, new))
    (ours, theirs), = pair.memory(1)
    assert 1e8 < ours < 2e9 and 1e8 < theirs < 2e9                                      # torch alone takes so much


def test_memory_of_a_process_that_fails(pair, monkeypatch):
    monkeypatch.setattr(bench.sys, "executable", "false")
    with pytest.raises(bench.QwenError, match="failed"):
        pair.memory(1)


def test_peak_memory_is_of_bytes_that_were_held():
    before = bench.peak_memory()
    torch.ones(3 * before // 4)                                                         # four bytes each
    assert before < 3 * before < bench.peak_memory() < 5 * before


def test_bfloat16_is_as_published(tmp_path):
    from safetensors.torch import load_file

    folder = bench.make_folder(small("bfloat16"), tmp_path)
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert tensor.isfinite().all()
        assert (tensor.dtype == torch.float32) == name.endswith(("A_log", "linear_attn.norm.weight")), name
    for side in bench.Ours(folder), bench.Theirs(folder):
        assert side.model.get_parameter("model.language_model.norm.weight").dtype == torch.bfloat16


def test_the_shape_is_the_official_one():
    config = bench.shape(8, "float32").text_config
    assert (config.hidden_size, config.vocab_size, config.layer_types.count("full_attention")) == (1024, 248320, 2)


# -------------------------------------------------------------------------------------------------------------- drafts


@pytest.mark.parametrize("kind", [bench.Foresight, bench.Hindsight])
def test_a_drafter_that_is_always_right_says_the_same_in_fewer_passes(kind, results):
    config = seeing_config(eos_token_id=None, tie_word_embeddings=False)
    model, sizes = bench.Foreseen(config, new=13), []
    right = model.told
    model.told = [[*right[0][:2], (right[0][2] + 1) % 32, *right[0][3:]]]           # as another rounding has it
    watch = model.model.register_forward_hook(lambda model, args, logits: sizes.append(args[0].shape[1]))
    pairs = model.decoding(kind, 3, 1)
    watch.remove()
    assert sizes[-17:] == [1, 4, 4, 4] + [1] * 13 and pairs == [(1 / 13, 1 / 13)]
    assert sizes[0] == 31 and len(sizes) > 1 + 4 + 17, "what it was told wrongly is found out before"
    assert results == [(right[0], right[0])] and len(set(right[0])) > 1


def test_drafts_of_nano_are_counted_by_pass(monkeypatch):
    monkeypatch.setattr(bench, "QUESTIONS", bench.QUESTIONS[:2])
    (one,), (two,) = bench.of_nano(1), bench.of_nano(2)
    assert 1 > one[0] > two[0] >= 1 / 3 and one[1] == 1
    assert "2.00" in bench.Row("x", 1.5, "tokens/pass", pairs=[(0.5, 1.0)]).cells()[4]
    (seconds,) = bench.of_nano(1, rounds=1)
    assert all(0 < side < 1 for side in seconds)


def test_in_few_bits_beside_both(tmp_path, results):
    config = seeing_config(eos_token_id=None, mtp_num_hidden_layers=0, dtype="bfloat16", hidden_size=128,
                           intermediate_size=128, linear_value_head_dim=64, num_attention_heads=4,
                           max_position_embeddings=8192, vision={"out_hidden_size": 128})
    pair = bench.Pair(config, tmp_path)
    for row in bench.few_bits_rows(pair, 1):
        row.measure()
        few, whole = row.measure.func.__self__.sides
        assert quantized_bits(few.model) == ("8 bits" if row.what.startswith("8") else "4 and 8 bits")
        assert whole is pair.sides["transformers" in row.what]
        ours, theirs = results.pop()
        assert len(ours[0]) == len(theirs[0]) == 1 if "first" in row.what else len(few.said) == len(whole.said) == 9


def test_experts_beside_both_of_their_ways(tmp_path, results):
    pair = bench.Pair(seeing_config(eos_token_id=None, mtp_num_hidden_layers=0, num_experts=4, num_experts_per_tok=2,
                                    moe_intermediate_size=16, shared_expert_intermediate_size=16), tmp_path)
    ways = []
    for row in bench.expert_rows(pair, 1):
        row.measure()
        ours, theirs = row.measure.func.__self__.sides
        ways.append(theirs.model.config.text_config._experts_implementation)
        assert ours is pair.sides[0] and ours.model.config.text_config.num_experts == 4
        ours, theirs = results.pop()
        assert ours == theirs and len(ours[0]) == 1
    assert ways == ["grouped_mm", "eager"]


@pytest.mark.parametrize("rows, number", [
    (bench.draft_rows(4, 1), 2 * 4 + 2 * 2 * 4),
    (bench.in_place(bench.few_bits_rows, bench.shape(4, "bfloat16"), 1, None, "cpu"), 2 * 3),
    (bench.in_place(bench.llama_cpp_rows, bench.shape(4, "bfloat16"), 1, None, "cpu"), 2 * 3),
    (bench.in_place(bench.expert_rows, bench.mixture("bfloat16"), 1, None, "cpu"), 2),
], ids=["drafts", "few bits", "llama.cpp", "experts"])
def test_every_row_of_the_other_tables_can_fail(rows, number):
    rows = list(rows)
    assert len({row.what for row in rows}) == len(rows) == number
    for row in rows:
        assert "✗" in str(replace(row, pairs=[(1.01, row.aim)])) and "✓" in str(replace(row, pairs=[(1.0, row.aim)]))


CONVERTER = """
import json, pathlib, sys
from conversion.base import TextModel

def main():
    names = "blk.3.ffn_up.weight", "token_embd.weight"
    kinds = {name: TextModel.tensor_force_quant(None, "", name, 0, 2) for name in names}
    files = sorted(path.name for path in pathlib.Path(sys.argv[1]).iterdir() if path.exists())
    pathlib.Path(sys.argv[3]).write_text(json.dumps([TextModel.get_vocab_base_pre(), kinds, files, sys.argv[4:]]))
"""


@pytest.fixture
def llama(monkeypatch, tmp_path):
    """A stand-in for llama.cpp: a converter that writes what it was asked for, and a server that counts on."""
    source = tmp_path / "source"
    for name, text in {"convert_hf_to_gguf.py": CONVERTER, "gguf.py": "class GGMLQuantizationType: Q4_0 = 'Q4_0'",
                       "conversion/base.py": "class TextModel: tensor_force_quant = lambda *_: False"}.items():
        (source / name).parent.mkdir(exist_ok=True, parents=True)
        (source / name).write_text(text)
    asked = []

    class Server:
        def __init__(self, settings):
            self.written = json.loads(Path(settings.model.path).read_text())

        def handle_completions(self, question):
            asked.append(question)
            ids, new = question["prompt"], question["n_predict"]
            return {"__verbose": {"tokens": [*range(len(ids), len(ids) + new)]}} if ids else {"error": "no prompt"}

    def settings():
        return SimpleNamespace(model=SimpleNamespace(), cpuparams=SimpleNamespace(), cpuparams_batch=SimpleNamespace())

    monkeypatch.setitem(sys.modules, "xllamacpp", SimpleNamespace(Server=Server, CommonParams=settings))
    monkeypatch.setenv("LLAMA_CPP", str(source))
    return asked


def test_beside_llama_cpp(tmp_path, llama, monkeypatch):
    """It has the folder, a vocabulary, and its matrices in as few bits; and it goes on from what it has read."""
    monkeypatch.chdir(tmp_path)
    (folder := Path("folder")).mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    for bits, kind, outtype in ((8, False, "q8_0"), (4, "Q4_0", "q8_0")):
        side = bench.LlamaCpp(folder, bits)
        assert side.server.written == [
            "qwen35", {"blk.3.ffn_up.weight": kind, "token_embd.weight": False},
            ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
            ["--outtype", outtype, "--no-mtp"]]
    assert side.answer({"input_ids": torch.tensor([[7, 8], [8, 9]])}, 3) == [[2, 3, 4]] * 2
    assert not llama[-1]["cache_prompt"] and llama[-1]["ignore_eos"] and llama[-1]["temperature"] == 0
    side.begin({"input_ids": torch.tensor([[7, 8]])}, room=4)
    side.go_on(2)
    assert llama[-1]["prompt"] == [7, 8, 2] and side.ids == [7, 8, 2, 3, 4] and llama[-1]["cache_prompt"]
    with pytest.raises(QwenError, match="llama.cpp: no prompt"):
        side.answer({"input_ids": torch.empty(1, 0, dtype=torch.long)}, 1)


def test_llama_cpp_that_is_not_there(monkeypatch, tmp_path, llama):
    with pytest.raises(QwenError, match=r"8, 4 or 32 bits, or the folder's own \(None\), not 5"):
        llama_cpp.convert(tmp_path, tmp_path / "x", bits=5)
    (tmp_path / "source" / "gguf.py").write_text("raise ValueError('broken')")
    with pytest.raises(QwenError, match="converter failed: (.|\n)*broken"):
        llama_cpp.convert(tmp_path, tmp_path / "x")
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    with pytest.raises(QwenError, match="Set LLAMA_CPP to the folder of llama.cpp's source"):
        llama_cpp.convert(tmp_path, tmp_path / "x")
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(QwenError, match="pip install xllamacpp"):
        llama_cpp.serve(tmp_path / "x")


# -------------------------------------------------------------------------------------------------------------- the run


def test_a_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench, "shape", lambda layers, dtype: small(dtype))
    pattern = "first token after 64$|rule, 64 tokens, 16:16 heads, ord|float32, 2 drafted rightly for"
    assert cli.main(["bench", "--quick", "--only", pattern, "--folder", str(tmp_path), "--markdown"]) == 0
    printed, rows = capsys.readouterr().out, [*bench.all_rows(8, 1), *bench.draft_rows(8, 1)]
    names = [row.what for row in rows if re.search(pattern, row.what)]
    assert len(names) == 6 and all(printed.count(f"{name}  ") == 1 for name in names)
    assert torch.__version__ in printed and "8 layers" in printed
    lines = [line.split(" | ")[0][2:] for line in printed.splitlines() if line.startswith("| ")]
    assert [line for line in lines if re.search(pattern, line)] == names
    assert not any(tmp_path.iterdir())                                                  # the folders are gone


def test_the_readme_says_what_the_bench_prints(repository):
    text = (repository / "README.md").read_text(encoding="utf-8")
    text = re.search(r"<!-- bench.*?-->\n(.*?)<!-- end of bench -->", text, re.DOTALL)[1]
    known = {(tuple(headings), row.what): row for headings, rows in bench.all_tables(24, 1) for row in rows}
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 5
    for table in tables:
        head, rule, *rows = table.splitlines()
        (headings,) = {headings for headings, _ in known if bench.table([], list(headings)) == f"{head}\n{rule}"}
        for row in rows:
            what, ratio, spread, aim, _, _, unit = (cell.strip() for cell in row.strip("|").split("|"))
            one, (low, high) = known[headings, what], map(float, spread.split(" to "))
            assert low <= float(ratio) <= high and unit == one.unit
            assert aim == f"{one.aim:.2f} {'✓' if float(ratio) >= one.aim else '✗'}", what


@pytest.mark.parametrize("only, says", [("(", "is no regular expression"), ("nothing of the kind", "No row's name")])
def test_a_pattern_that_finds_nothing_is_told(only, says):
    with pytest.raises(QwenError, match=says):
        bench.run(only=only)
