"""Mixture of experts: what router and experts compute, beside `transformers`; the checkpoints in all their layouts."""

import copy
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import SMALL, error, for_transformers, one_by_one, prompt, random_qwen, seeing_config, tokens
from torch.nn import functional as F

import minqwen
from minqwen import model as architecture
from minqwen.checkpoint import load_model, save_model, without_memory
from minqwen.config import Config
from minqwen.errors import QwenError
from minqwen.generate import generate
from minqwen.graph import fits_a_graph
from minqwen.info import active_parameters, describe, parameter_counts
from minqwen.model import Experts, MixtureOfExperts, Router, by_groups
from minqwen.verify import official_mtp_logits, official_twin, verify
from minqwen.widgets.cost import counted

pytest.importorskip("transformers", minversion="5.23")
EXACT = 2e-5
NUMBERS = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 40,
           "shared_expert_intermediate_size": 56}
EXPERTS_OF_MTP = "mtp.layers.0.mlp.experts"


def mixture(**changes) -> Config:
    """As `seeing_config`, with seven experts, three for a token: nothing equal that could be confused."""
    return seeing_config(**NUMBERS | changes)


@pytest.fixture(scope="module")
def qwen():
    return random_qwen(mixture())


@pytest.fixture(scope="module")
def twin(qwen):
    """`transformers` by its own loop over experts."""
    return official_twin(qwen, pictures=True)


@pytest.fixture(scope="module")
def block(qwen):
    return qwen.model.language_model.layers[0].mlp


@pytest.fixture
def x():
    return torch.randn(50, SMALL["hidden_size"], generator=torch.Generator().manual_seed(3))


def swiglu(x, gate_up, down):
    gate, up = (x @ gate_up.mT).chunk(2, dim=-1)
    return (F.silu(gate) * up) @ down.mT


# ------------------------------------------------------------------------------------------------ what it computes


def test_a_token_is_what_its_experts_and_the_shared_one_say(block, x):
    """By the book, one token after the other, in float64."""
    double = copy.deepcopy(block).double()
    right = []
    for token in x.double():
        p = (double.gate.weight @ token).softmax(0)
        best = p.argsort(descending=True)[:3]
        said = sum(p[e] * swiglu(token, double.experts.gate_up_proj[e], double.experts.down_proj[e]) for e in best)
        loud = torch.sigmoid(double.shared_expert_gate.weight[0] @ token)
        right.append(said / p[best].sum() + loud * double.shared_expert(token))
    right = torch.stack(right)[None]
    assert error(double(x.double()[None]), right) < 1e-12
    assert error(block(x[None]), right) < EXACT
    assert error(block(x.view(2, 25, -1)).view(1, 50, -1), right) < EXACT


def test_an_expert_reads_its_own_tokens_and_no_other(block, x, monkeypatch):
    """As many rows are multiplied as tokens were sent somewhere, and what nobody was sent to may be anything."""
    rows, plain = [], architecture.by_groups
    monkeypatch.setattr(architecture, "by_groups", lambda x, *rest: (rows.append(len(x)), plain(x, *rest))[1])
    weights, chosen = block.gate(x)
    right = block.experts(x, weights, chosen)
    assert rows == [150, 150]
    lonely = copy.deepcopy(block.experts)
    few = chosen[:1]
    idle = sorted(set(range(7)) - set(few[0].tolist()))
    lonely.gate_up_proj[idle], lonely.down_proj[idle] = torch.nan, torch.nan
    assert torch.equal(lonely(x[:1], weights[:1], few), block.experts(x[:1], weights[:1], few))
    assert error(lonely(x[:1], weights[:1], few), right[:1]) < EXACT


@pytest.mark.parametrize("sizes", [[3, 0, 5, 1, 0], [0, 0, 0, 0, 9], [9, 0, 0, 0, 0]])
@pytest.mark.parametrize("dtype, d, n", [(torch.float32, 16, 24), (torch.float32, 15, 6), (torch.float64, 16, 24),
                                         (torch.bfloat16, 16, 24), (torch.bfloat16, 12, 24)])
def test_each_group_of_rows_meets_its_own_matrix(sizes, dtype, d, n, monkeypatch):
    random = torch.Generator().manual_seed(0)
    rows, matrices = (torch.randn(*shape, generator=random).to(dtype) for shape in ((9, d), (5, n, d)))
    ends = torch.tensor(sizes).cumsum(0).int()
    right = torch.cat([part @ matrix.mT for part, matrix in zip(rows.split(sizes), matrices, strict=True)])
    allowed = 1e-2 if dtype == torch.bfloat16 else 1e-6
    assert error(by_groups(rows, matrices, ends), right) < allowed
    monkeypatch.delattr(F, "grouped_mm", raising=False)                                  # an older torch
    assert error(by_groups(rows, matrices, ends), right) < allowed


def test_weights_add_up_to_one_and_are_worked_out_in_float32(block, x):
    weights, chosen = block.gate(x)
    assert torch.allclose(weights.sum(-1), torch.ones(50)) and (weights.diff(dim=-1) <= 0).all()
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    half = copy.deepcopy(block.gate).bfloat16()
    weights, chosen = half(x.bfloat16())
    exact = F.linear(x.bfloat16(), half.weight).float().softmax(-1).gather(1, chosen)
    assert torch.equal(weights, (exact / exact.sum(-1, keepdim=True)).bfloat16())


@pytest.mark.parametrize("twins", [[(0, 4)], [(1, 2), (2, 6)], [(0, e) for e in range(1, 7)]])
def test_ties_are_broken_as_in_transformers(qwen, twin, x, twins):
    """Experts of the same probability: which of them is taken is anybody's guess, and must be the same guess."""
    ours, theirs = (copy.deepcopy(one.model.language_model.layers[0].mlp) for one in (qwen, twin))
    for one, other in twins:
        ours.gate.weight[other] = ours.gate.weight[one]
    theirs.gate.weight.copy_(ours.gate.weight)
    for rows in (x, x[:1], x.new_zeros(5, 64)):
        weights, chosen = ours.gate(rows)
        _, their_weights, their_chosen = theirs.gate(rows)
        assert torch.equal(chosen, their_chosen) and torch.equal(weights, their_weights)


# ---------------------------------------------------------------------------------------------- the whole model


@pytest.mark.parametrize("way", ["eager", "grouped_mm"])
@pytest.mark.parametrize("T", [1, 2, 70])
def test_logits(qwen, way, T):
    twin = official_twin(qwen)
    twin.set_experts_implementation(way)
    assert error(qwen(tokens(2, T)), twin(tokens(2, T)).logits) < EXACT


@pytest.mark.parametrize("numbers", [{"moe_intermediate_size": 42, "num_experts": 5}, {"num_experts_per_tok": 7},
                                     {"num_experts_per_tok": 1}, {"tie_word_embeddings": False}])
def test_logits_of_other_sizes(numbers):
    other = random_qwen(mixture(**numbers))
    assert error(other(tokens(2, 40)), official_twin(other)(tokens(2, 40)).logits) < EXACT


def test_pictures_and_padding(qwen, twin):
    inputs = prompt([3, (4, 6), 5, (2, 4, 4), 2], [(2, 2), 7], [12])
    real = inputs["attention_mask"].bool()
    logits = qwen(**inputs)
    assert error(logits[real], twin(**for_transformers(inputs)).logits[real]) < EXACT
    for row, alone in one_by_one(inputs):
        assert error(logits[row, real[row]], qwen(**alone)[0]) < EXACT


def test_prefill_in_pieces_and_decoding(qwen, twin):
    ids = tokens(2, 60)
    at_once = twin(ids).logits
    cache = qwen.new_cache(2, 60)
    logits = torch.cat([qwen(piece, cache=cache) for piece in ids.split([30, 1, 1, 20] + [1] * 8, dim=1)], dim=1)
    assert error(logits, at_once) < EXACT


def test_greedy_tokens_are_the_official_ones(qwen, twin):
    ids = tokens(1, 9)
    theirs = twin.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert generate(qwen, ids, max_new_tokens=12, temperature=0.0, stop_ids=[]) == theirs[:, 9:].tolist()


def test_multi_token_prediction(qwen, twin):
    inputs = prompt([3, (6, 4), 20])
    assert isinstance(qwen.mtp.layers[0].mlp, MixtureOfExperts)
    assert error(qwen.mtp_logits(**inputs), official_mtp_logits(qwen, twin, inputs)) < EXACT


def test_gradients_are_the_official_ones():
    ours = random_qwen(mixture(mtp_num_hidden_layers=0))
    theirs = official_twin(copy.deepcopy(ours)).requires_grad_(True)
    ours.requires_grad_(True)
    for logits in (ours(tokens(2, 30)), theirs(tokens(2, 30)).logits):
        logits.square().mean().backward()
    grads = {name.replace("model.language_model", "model"): p.grad for name, p in ours.named_parameters()}
    for name, p in theirs.named_parameters():
        if p.grad is not None and "lm_head" not in name:
            assert error(grads[name], p.grad) < 1e-4, name
    assert any("experts.gate_up_proj" in name for name, grad in grads.items() if grad is not None and grad.any())


def test_half_precision_is_as_near_to_the_truth_as_transformers(qwen):
    """The typical error over tokens: rounding may send a token to another expert, here and there."""
    half, ids = copy.deepcopy(qwen).bfloat16(), tokens(4, 60)
    truth = copy.deepcopy(half).float()(ids)
    theirs = official_twin(half)
    theirs.set_experts_implementation("grouped_mm")                                      # what it takes by default
    ours, theirs = ((logits.float() - truth).norm(dim=-1).median() for logits in (half(ids), theirs(ids).logits))
    assert ours < 1.1 * theirs, (ours, theirs)


def test_autocast_around_the_model(qwen):
    exact = qwen(tokens(2, 30))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = qwen(tokens(2, 30)).float()
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.1


def test_fresh_weights_keep_the_stream_at_its_size():
    torch.manual_seed(0)
    config = mixture(num_experts=64)
    fresh = minqwen.Qwen(config).requires_grad_(False)
    layer = fresh.model.language_model.layers[0].mlp
    for p, inputs, writers in ((layer.gate.weight, 64, 1), (layer.experts.gate_up_proj, 64, 1),
                               (layer.experts.down_proj, 40, 8), (layer.shared_expert.down_proj.weight, 56, 8)):
        assert abs(p.std() * (inputs * writers) ** 0.5 - 1) < 0.05
    x = torch.randn(1, 400, 64)
    assert 0.05 < layer(x).std() < 1
    load = layer.gate(x[0])[1].flatten().bincount(minlength=64)
    assert (load > 0).all(), "every expert is sent something"


# -------------------------------------------------------------------------------------------------- checkpoints


def experts_in(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name for name in file.keys() if ".experts." in name}


def assert_same(loaded, qwen, without=()):
    ours = {name: p for name, p in qwen.state_dict().items() if not name.startswith(without or "-")}
    assert loaded.state_dict().keys() == ours.keys()
    assert all(torch.equal(p, ours[name]) for name, p in loaded.state_dict().items())


@pytest.mark.parametrize("pictures", [True, False])
def test_what_transformers_saves_we_load(qwen, tmp_path, pictures):
    """It stores the experts of all layers one by one."""
    official_twin(qwen, pictures).save_pretrained(tmp_path)
    assert any(name.endswith("experts.6.up_proj.weight") for name in experts_in(tmp_path))
    assert_same(load_model(tmp_path), qwen, without=("mtp.",) if pictures else ("mtp.", "model.visual."))


def test_what_we_save_is_laid_out_as_published_and_transformers_loads_it(qwen, tmp_path):
    """Fused in the layers, one by one in the head for multi-token prediction (trap 22)."""
    from transformers import AutoModelForImageTextToText

    save_model(qwen, tmp_path)
    found = experts_in(tmp_path)
    layers = {f"model.language_model.layers.{i}.mlp.experts.{name}" for i in range(4)
              for name in ("gate_up_proj", "down_proj")}
    single = {f"{EXPERTS_OF_MTP}.{e}.{name}_proj.weight" for e in range(7) for name in ("gate", "up", "down")}
    assert found == layers | single
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "Qwen3_5MoeForConditionalGeneration"
    assert error(qwen(tokens(1, 20)), theirs(tokens(1, 20)).logits) < EXACT
    assert_same(load_model(tmp_path), qwen)


def test_several_files_and_another_dtype(qwen, tmp_path):
    save_model(qwen, tmp_path, max_shard_size=100_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 5
    assert_same(load_model(tmp_path), qwen)
    loaded = load_model(tmp_path, dtype="bfloat16")
    assert torch.equal(loaded.mtp.layers[0].mlp.experts.down_proj, qwen.mtp.layers[0].mlp.experts.down_proj.bfloat16())


@pytest.fixture
def folder(qwen, tmp_path):
    save_model(qwen, tmp_path)
    return tmp_path


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_trap_22_the_head_may_be_fused_and_the_layers_split(qwen, folder):
    def other_way_round(tensors):
        for name in [name for name in tensors if ".experts." in name]:
            if name.startswith("mtp."):
                del tensors[name]
            else:
                place, _, which = name.rpartition(".")
                for e, matrix in enumerate(tensors.pop(name)):
                    for one, part in zip(which.removesuffix("_proj").split("_"), matrix.chunk(1 + ("_up" in which))):
                        tensors[f"{place}.{e}.{one}_proj.weight"] = part.clone()
        for name, p in qwen.mtp.layers[0].mlp.experts.named_parameters():
            tensors[f"{EXPERTS_OF_MTP}.{name}"] = p.detach().clone()

    rewrite(folder, other_way_round)
    assert_same(load_model(folder), qwen)


@pytest.mark.parametrize("change, says", [
    (lambda tensors: tensors.pop(f"{EXPERTS_OF_MTP}.3.up_proj.weight"), "mtp.layers.0.mlp.experts.3.up_proj.weight"),
    (lambda tensors: tensors.update({f"{EXPERTS_OF_MTP}.3.down_proj.weight": torch.zeros(64, 39)}),
     r"experts.3.down_proj.weight, or it is not of the shape and dtype of the others \(\(64, 40\), F32\)"),
    (lambda tensors: [tensors.pop(f"{EXPERTS_OF_MTP}.6.{name}_proj.weight") for name in ("gate", "up", "down")],
     r"gate_up_proj in .* has the shape \(6, 80, 64\), but config.json asks for \(7, 80, 64\)"),
    (lambda tensors: [tensors.pop(f"{EXPERTS_OF_MTP}.{e}.down_proj.weight") for e in range(7)],
     "lacks the tensor mtp.layers.0.mlp.experts.down_proj;"),
    (lambda tensors: tensors.update({"model.language_model.layers.2.mlp.experts.down_proj": torch.zeros(7, 40, 64)}),
     r"layers.2.mlp.experts.down_proj in .* has the shape \(7, 40, 64\), but"),
    (lambda tensors: tensors.update({name: p.to(torch.float8_e4m3fn) for name, p in tensors.items()
                                     if name.endswith("layers.2.mlp.experts.gate_up_proj")}),
     "is quantized: it stores the tensor model.language_model.layers.2.mlp.experts.gate_up_proj as F8_E4M3"),
], ids=["a matrix", "a shape", "an expert", "all of a kind", "transposed", "quantized"])
def test_what_is_wrong_with_experts_is_told_by_name(folder, change, says):
    rewrite(folder, change)
    with pytest.raises(QwenError, match=says) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------- the tools around it


@pytest.mark.parametrize("pictures", [True, False])
def test_a_model_of_transformers_on_the_same_parameters(pictures):
    source = official_twin(random_qwen(mixture(mtp_num_hidden_layers=0)), pictures)
    adopted = minqwen.from_transformers(source)
    ours, theirs = ({id(p) for p in one.parameters()} for one in (adopted.model, source))
    assert ours == theirs
    assert error(adopted.model(tokens(1, 20)), source(tokens(1, 20)).logits) < EXACT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_right_model_passes_verification(qwen, dtype):
    report = verify(copy.deepcopy(qwen).to(dtype))
    report.raise_if_failed()
    assert {"router", "experts", "shared expert", "mixture of experts"} <= {check.piece for check in report.checks}
    assert ("of the median token" in str(report)) == (dtype == torch.bfloat16)


def renormed_no_more(self, x):
    probabilities = F.linear(x, self.weight).softmax(-1)
    return probabilities.topk(self.top_k)


def up_first(self, x, weights, chosen):
    other = copy.deepcopy(self)
    other.gate_up_proj.copy_(torch.cat(self.gate_up_proj.chunk(2, dim=1)[::-1], dim=1))
    return FORWARD(other, x, weights, chosen)


FORWARD = Experts.forward


@pytest.mark.parametrize("kind, broken, named", [(Router, renormed_no_more, "router"), (Experts, up_first, "experts")])
def test_a_broken_piece_is_named(qwen, kind, broken, named, monkeypatch):
    monkeypatch.setattr(kind, "forward", broken)
    failed = {check.piece for check in verify(qwen).failed}
    assert {named, "mixture of experts", "decoder layer"} <= failed
    assert not failed & ({"router", "experts", "shared expert", "gated attention", "Gated DeltaNet"} - {named})


def test_active_parameters_are_those_that_a_token_meets(qwen):
    text = qwen.model.language_model
    experts = sum(p.numel() for name, p in text.named_parameters() if ".experts." in name)
    assert active_parameters(qwen.config) == parameter_counts(qwen.config)["text"] - experts * 4 // 7
    dense = seeing_config()
    assert active_parameters(dense) == parameter_counts(dense)["text"] and "experts" not in describe(dense)
    page = describe(Config.named("Qwen3.5-35B-A3B"))
    assert "256 in each layer, 512 wide, of which a token meets 8; and a shared one, 512 wide\n" in page
    assert "active        3,454,988,928 of the text model's for each token\n" in page


def test_the_work_of_a_token_is_that_of_the_experts_it_meets():
    config = mixture(mtp_num_hidden_layers=0)
    text = without_memory(replace(config, vision_config=None)).model.language_model
    mixtures = [m for m in text.modules() if isinstance(m, MixtureOfExperts)]
    matrices = sum(m.weight.numel() for m in text.modules() if isinstance(m, torch.nn.Linear))
    matrices += sum(m.gate.weight.numel() + sum(p[:3].numel() for p in m.experts.parameters()) for m in mixtures)
    assert counted(config)["matrices"] == 2 * matrices


def test_on_a_gpu_experts_take_neither_the_fused_step_nor_a_graph(qwen):
    fused = pytest.importorskip("minqwen.decode_triton")
    dense = random_qwen(seeing_config())
    assert fused.FusedStep.fits(dense, 1) and not fused.FusedStep.fits(qwen, 1)
    assert fits_a_graph(dense) and not fits_a_graph(qwen)
