"""Verification verifies: it passes what is right, and names the piece when that piece alone is broken."""

import copy
import json
import sys
from dataclasses import replace
from functools import wraps
from types import SimpleNamespace

import pytest
import torch
from official_processor import SMALL, official_dict
from support import random_qwen, seeing_config, small_config
from test_lessons_with_checkpoint import TEMPLATE, make_tokenizer
from tokenizers import Regex, normalizers, pre_tokenizers

import minqwen.media as media
import minqwen.model as architecture
import minqwen.verify as verification
import minqwen.vision as vision
from minqwen.checkpoint import save_model
from minqwen.course.checks.delta_rule import judge_gradients
from minqwen.course.judging import Wrong
from minqwen.delta_rule import chunk_gated_delta_rule
from minqwen.errors import QwenError
from minqwen.model import GatedAttention, GatedDeltaNet
from minqwen.verify import Check, Report, check_close, measured, verify


@pytest.fixture(scope="module")
def qwen():
    pytest.importorskip("transformers", minversion="5.23")
    return random_qwen()


@pytest.fixture(scope="module")
def seeing():
    """With a tower and a head for multi-token prediction."""
    pytest.importorskip("transformers", minversion="5.23")
    return random_qwen(seeing_config())


@pytest.fixture
def folder(tmp_path):
    """A checkpoint with a tower whose patches are 8 x 8 pixels, a tokenizer, and settings for pictures and clips."""
    save_model(random_qwen(seeing_config({"patch_size": 8})), tmp_path)
    make_tokenizer().save(str(tmp_path / "tokenizer.json"))
    for name, settings in (("preprocessor_config", SMALL.image), ("video_preprocessor_config", SMALL.video)):
        (tmp_path / f"{name}.json").write_text(json.dumps(official_dict(settings)))
    return tmp_path


# --------------------------------------------------------------------------------------- what is right passes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_right_model_passes(qwen, dtype):
    report = verify(copy.deepcopy(qwen).to(dtype))
    report.raise_if_failed()
    assert report.ok and {check.ring for check in report.checks} == {"kernel", "model"}
    assert len(report.checks) == 30
    assert not any(word in str(report) for word in ("picture,", "tower", "multi-token", "processor"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_right_model_that_sees_and_predicts_further_passes(seeing, dtype):
    report = verify(copy.deepcopy(seeing).to(dtype))
    report.raise_if_failed()
    assert len(report.checks) == 47
    assert any("preparation was not compared, because this is a model without" in line for line in report.remarks)


def test_a_tower_without_multi_token_prediction_and_the_reverse_pass():
    pytest.importorskip("transformers", minversion="5.23")
    sees = verify(random_qwen(seeing_config(mtp_num_hidden_layers=0)))
    predicts = verify(random_qwen(small_config(mtp_num_hidden_layers=2)))
    for report, has, has_not in ((sees, "vision tower", "multi-token"), (predicts, "multi-token", "vision tower")):
        report.raise_if_failed()
        assert has in str(report) and has_not not in str(report)


def test_a_tower_that_merges_three_by_three_passes():
    """Nor may a random id be a placeholder's, of which there are two in twelve here."""
    pytest.importorskip("transformers", minversion="5.23")
    config = seeing_config({"spatial_merge_size": 3, "patch_size": 2}, vocab_size=12)
    config = replace(config, image_token_id=1, video_token_id=11, vision_start_token_id=3, vision_end_token_id=4)
    verify(random_qwen(config)).raise_if_failed()


def test_placeholders_beyond_the_vocabulary_are_remarked():
    pytest.importorskip("transformers", minversion="5.23")
    report = verify(random_qwen(seeing_config(vocab_size=293)))          # vision_end is 293
    report.raise_if_failed()
    assert any("placeholders are beyond the vocabulary" in remark for remark in report.remarks)
    pieces = {check.piece for check in report.checks}
    assert {"vision tower", "multi-token prediction"} <= pieces and "logits with a picture" not in pieces


@pytest.mark.parametrize("file", [None, "processor_config.json"])
def test_the_processor_of_a_folder_is_compared_with_the_official_one(folder, file):
    pytest.importorskip("torchvision")
    if file:                                              # as `transformers` 5 saves them: in one
        settings = [json.loads((folder / f"{name}preprocessor_config.json").read_text()) for name in ("", "video_")]
        (folder / file).write_text(json.dumps(dict(zip(("image_processor", "video_processor"), settings))))
        for name in ("", "video_"):
            (folder / f"{name}preprocessor_config.json").unlink()
    report = verify(folder)
    report.raise_if_failed()
    assert sum(check.compared == "official processor" for check in report.checks) == 5


def test_a_wrong_processor_is_named(folder, monkeypatch):
    pytest.importorskip("torchvision")
    expand = media.Processor.expand
    monkeypatch.setattr(media.Processor, "expand", lambda *x: expand(*x).replace(" seconds>", ".0 seconds>"))
    images = media.Processor.images
    monkeypatch.setattr(media.Processor, "images", lambda *x: replace(
        images(*x), pixel_values=images(*x).pixel_values.flip(-1)))
    failed = {check.piece for check in verify(folder).failed}
    assert failed == {"pixels of pictures", "ids of pictures and timestamps"}


def test_what_keeps_the_processor_from_being_compared_is_remarked(folder, monkeypatch):
    monkeypatch.setattr(verification, "let_torchvision_in", lambda: False)
    report = verify(folder)
    assert report.ok and any("needs torchvision, which is missing here" in remark for remark in report.remarks)
    (folder / "preprocessor_config.json").unlink()
    assert any("lacks preprocessor_config.json or" in remark for remark in verify(folder).remarks)


def test_an_untied_model_of_attention_alone_passes():
    pytest.importorskip("transformers", minversion="5.23")
    config = small_config(tie_word_embeddings=False, layer_types=["full_attention"] * 2, num_hidden_layers=2)
    verify(random_qwen(config)).raise_if_failed()


def test_a_folder_is_loaded_and_verified(qwen, tmp_path):
    save_model(qwen, tmp_path / "here")
    report = verify(tmp_path / "here")
    assert report.ok and str(tmp_path / "here") in str(report)


def test_the_model_is_left_as_it_was(qwen):
    qwen = copy.deepcopy(qwen).train().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in qwen.state_dict().items()}
    verify(qwen)
    assert qwen.training and all(p.requires_grad for p in qwen.parameters())
    assert not any(module._forward_pre_hooks for module in qwen.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in qwen.state_dict().items())


# ------------------------------------------------------------------------------------ what is broken is named


def scaled(function, by=1.01):
    return lambda *args, **kwargs: function(*args, **kwargs) * by


def step_at(other_positions):
    return SimpleNamespace(at=lambda positions, *others: architecture.Step.at(other_positions(positions), *others))


@wraps(chunk_gated_delta_rule)
def learns_too_fast(*x, **options):
    """Forwards right, and backwards a tenth too much."""
    return tuple(1.1 * y - 0.1 * y.detach() for y in chunk_gated_delta_rule(*x, **options) if y is not None)


append = architecture.AttentionCache.append
BROKEN = {  # what fails -> how it is broken
    "gated attention": lambda patch: patch.setattr(GatedAttention, "gated", lambda self, o, gate: o),
    "Gated DeltaNet": lambda patch: patch.setattr(GatedDeltaNet, "convolve", scaled(GatedDeltaNet.convolve)),
    "rotary positions": lambda patch: patch.setattr(verification, "Step", step_at(lambda x: x[[0, 2, 1]])),
    "MLP": lambda patch: patch.setattr(architecture.MLP, "forward", scaled(architecture.MLP.forward)),
    "last RMSNorm": lambda patch: patch.setattr(architecture.RMSNorm, "forward", scaled(architecture.RMSNorm.forward)),
    "gated norm": lambda patch: patch.setattr(architecture.GatedRMSNorm, "forward", lambda self, x, z: x * self.weight),
    "logits, padded left and right": lambda patch: patch.setattr(architecture.Padding, "pack", lambda self, x: x),
    "back to a snapshot, and on": lambda patch: patch.setattr(
        architecture.DeltaCache, "restore", lambda self, saved: None),
    "prefill in pieces, and decoding": lambda patch: patch.setattr(
        architecture.AttentionCache, "append", lambda self, k, v: [1.01 * x for x in append(self, k, v)]),
    "delta rule, chunked, float32": lambda patch: patch.setattr(
        verification, "chunk_gated_delta_rule", lambda *x, **o: tuple(1.01 * t for t in chunk_gated_delta_rule(*x, **o)
                                                                      if t is not None)),
    "delta rule, gradients, float32": lambda patch: patch.setattr(
        verification, "chunk_gated_delta_rule", learns_too_fast),
    "effective attention": lambda patch: patch.setattr(
        verification, "effective_attention", scaled(verification.effective_attention)),
}


def scaled_forward(piece):
    return lambda patch: patch.setattr(piece, "forward", scaled(piece.forward))


positions, advance = vision.mrope_positions, architecture.Cache.advance
BROKEN_SIGHT = {
    "patches, and their learned positions": scaled_forward(vision.PatchEmbedding),
    "rotary positions of patches": lambda patch: patch.setattr(
        vision.VisionTower, "rotary_angles", scaled(vision.VisionTower.rotary_angles)),
    "attention inside a frame": scaled_forward(vision.VisionAttention),
    "the tower's MLP": scaled_forward(vision.VisionMLP),
    "the tower's block": scaled_forward(vision.VisionBlock),
    "merger": scaled_forward(vision.PatchMerger),
    "vision tower": lambda patch: patch.setattr(
        vision.VisionTower, "learned_positions", scaled(vision.VisionTower.learned_positions)),
    "positions, with pictures": lambda patch: patch.setattr(
        vision, "mrope_positions", lambda *x: positions(*x)[[0, 2, 1]]),
    "logits with a picture": lambda patch: patch.setattr(
        architecture.Qwen, "embed", lambda self, input_ids, *x, **y: self.model.language_model.embed_tokens(input_ids)),
    "decoding behind a picture": lambda patch: patch.setattr(
        architecture.Cache, "advance",
        lambda self, *x: (advance(self, *x), self.positions.fill_(self.length))),           # as if all were text
    "pictures in pieces": lambda patch: patch.setattr(
        architecture.AttentionCache, "append", lambda self, k, v: [1.01 * x for x in append(self, k, v)]),
    "multi-token prediction": scaled_forward(architecture.MultiTokenPrediction),
    "multi-token prediction, padded": lambda patch: patch.setattr(
        architecture, "may_look", lambda *x, **y: None),
}


@pytest.mark.parametrize("piece", BROKEN_SIGHT)
def test_a_broken_piece_of_sight_is_named(seeing, piece, monkeypatch):
    BROKEN_SIGHT[piece](monkeypatch)
    report = verify(seeing)
    assert piece in {check.piece for check in report.failed}


def test_halves_in_the_wrong_order_are_named(seeing):
    """Trap 21: what a checkpoint that was written the other way round would look like."""
    other = copy.deepcopy(seeing)
    other.mtp.forward = lambda hidden, embeddings, *rest: type(other.mtp).forward(other.mtp, embeddings, hidden, *rest)
    assert {check.piece for check in verify(other).failed} == {
        f"multi-token prediction{what}" for what in ("", ", padded", ", with pictures")}


@pytest.mark.parametrize("piece", BROKEN)
def test_a_broken_piece_is_named(qwen, piece, monkeypatch):
    BROKEN[piece](monkeypatch)
    report = verify(qwen)
    assert not report.ok and piece in {check.piece for check in report.failed}
    with pytest.raises(AssertionError, match=r"^\d+ of \d+ checks failed: .*\.$"):
        report.raise_if_failed()


@pytest.mark.parametrize("which, name", list(enumerate(("q", "k", "v", "g", "beta", "the initial state"))))
def test_a_gradient_that_is_a_twentieth_off_is_named(qwen, which, name, monkeypatch):
    """With ordinary gates and with strong ones; no other check may need to notice it."""
    def rule(*x, initial_state=None, output_final_state=False, cu_seqlens=None):
        x = [*x, initial_state]
        if x[which] is not None:
            x[which] = 1.05 * x[which] - 0.05 * x[which].detach()
        return chunk_gated_delta_rule(*x[:5], None, x[5], output_final_state, cu_seqlens)

    monkeypatch.setattr(verification, "chunk_gated_delta_rule", rule)
    report = verify(qwen)
    assert [check.note for check in report.failed] == 2 * [f"worst for {name}"]
    assert {check.piece for check in report.failed} == {"delta rule, gradients, float32"}
    with pytest.raises(Wrong, match=rf"^[^\n]* -3 the gradient of {name} is off by [^\n]*\.$"):
        judge_gradients(rule)


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
@torch.no_grad()
def test_a_form_that_is_a_thousandth_off_is_named(form, monkeypatch):
    """In float32, with ordinary gates and with strong ones."""
    name = {"recurrent": "recurrent_gated_delta_rule", "chunked": "chunk_gated_delta_rule"}[form]
    rule = getattr(verification, name)
    monkeypatch.setattr(verification, name, wraps(rule)(lambda *x, **options: tuple(
        y if y is None or y.dtype == torch.float64 else 1.001 * y for y in rule(*x, **options))))
    random = torch.Generator().manual_seed(0)
    checks = verification.kernel_checks(small_config().text_config, torch.device("cpu"), random)
    failed = [check.compared for check in checks if not check.ok and check.piece == f"delta rule, {form}, float32"]
    assert failed == [f"the recurrence in float64, gates to {gates}" for gates in (-3, -50)]


def test_angles_the_other_way_round_are_named(qwen, monkeypatch):
    """Their cosines are the same."""
    monkeypatch.setattr(verification, "Step", step_at(torch.neg))
    assert {check.piece for check in verify(qwen).failed} == {"rotary positions"}


def test_a_missing_name_is_named(qwen, seeing):
    other = copy.deepcopy(qwen)
    other.model.language_model.layers[0].mlp.extra = torch.nn.Parameter(torch.zeros(1))
    check = verification._names(other)
    assert not check.ok and "layers.0.mlp.extra" in check.note
    other = copy.deepcopy(seeing)
    del other.model.visual.merger.linear_fc1.bias
    check = verification._names(other)
    assert check.error == 1 and "model.visual.merger.linear_fc1.bias" in check.note


def test_weights_that_are_not_numbers_fail(qwen):
    other = copy.deepcopy(qwen)
    other.model.language_model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    failed = {check.piece for check in verify(other).failed}
    assert "MLP" in failed and "logits of 200 tokens" in failed


# ------------------------------------------------------------------------------------------------- the report


def test_report():
    good = Check("model", "MLP", "official", 1e-7, 2e-5)
    bad = Check("model", "norm", "<official>", float("nan"), 2e-5, "!")
    assert good.ok and not bad.ok
    report = Report("a model", [good, bad], ["a remark"])
    assert not report.ok and report.failed == [bad]
    assert "✗ 1 of 2 checks passed" in str(report) and "a remark" in str(report)
    assert str(report).count("✓") == 1 and "&lt;official&gt;" in report._repr_html_()
    assert Report("good", [good]).ok
    assert not Report("nothing was run").ok
    with pytest.raises(AssertionError, match="nothing was compared"):
        Report("nothing was run").raise_if_failed()


def test_what_has_another_shape_is_infinitely_wrong():
    assert verification.error(torch.ones(2, 1), torch.ones(2, 2)) == torch.inf
    assert verification.error(torch.ones(2), torch.tensor([1.0, torch.nan])) == torch.inf


def test_half_precision_reports_the_margin_beside_a_mismatch():
    theirs = torch.tensor([[1.0, 1.5, 0.0], [3.0, 0.0, 0.0]])
    ours = torch.tensor([[1.5, 1.25, 0.0], [3.0, 0.0, 0.0]])
    assert verification._margin(theirs, theirs) == ""
    assert verification._margin(ours, theirs) == (
        "top-1 differs at 1 of 2 positions, where top-1 and top-2 are at most 5.0e-01 apart")


def test_without_transformers_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(QwenError, match=r"pip install transformers torchvision\.$"):
        verify(random_qwen())


# -------------------------------------------------------------------------------------- ring 3, never claimed


@pytest.mark.parametrize("name, because", [
    ("", "not loaded as"), ("data/nano", "not loaded as"), ("Qwen/Qwen3.5-0.8B-Base", "not loaded as"),
    ("Qwen/Qwen3.5-0.8B", "configuration is not"),
])
def test_known_answers_are_compared_only_where_they_apply(qwen, name, because):
    checks, remark = verification._known_outputs(name, qwen, None)
    assert checks == [] and "were not compared" in remark and because in remark


def test_known_answers_need_trained_weights(monkeypatch):
    fresh = architecture.Qwen(small_config())
    monkeypatch.setattr(verification.Config, "named", lambda name: fresh.config)
    assert "never trained" in verification._known_outputs("Qwen/Qwen3.5-0.8B", fresh, None)[1]
    trained = random_qwen(small_config(vocab_size=10_000))
    monkeypatch.setattr(verification.Config, "named", lambda name: trained.config)
    checks, remark = verification._known_outputs("Qwen/Qwen3.5-0.8B", trained, None)
    assert [check.ok for check in checks] == [False] and "want of a tokenizer" in remark


# ----------------------------------------------------------------------------------------- one comparison


def test_check_close(capsys):
    right = torch.tensor([1.0, -4.0])
    check_close("a name", right + 4e-5, right)
    assert capsys.readouterr().out == "✓ a name (within 2e-5; 2e-5 is allowed)\n"
    for wrong in (right + 1e-3, right * torch.nan, right[:1]):
        with pytest.raises(AssertionError, match=r"^a name: [^\n]+\.$"):
            check_close("a name", wrong, right)


def test_whole_numbers_have_to_be_equal(capsys):
    ids = torch.tensor([3, 248_044])
    check_close("ids", ids, ids)
    assert capsys.readouterr().out == "✓ ids (exactly)\n"
    with pytest.raises(AssertionError, match="^ids: the largest error is 4.0e-06"):
        check_close("ids", ids, ids + torch.tensor([0, 1]))


def test_several_tensors_are_judged_each_by_itself(capsys):
    small, large = torch.tensor([1e-3, 2e-3]), torch.tensor([1.0, 1e3])
    check_close("layers", {0: small, 1: large + 5e-4}, {0: small, 1: large})
    assert capsys.readouterr().out == "✓ layers (within 1e-6; 2e-5 is allowed)\n"
    with pytest.raises(AssertionError, match="^layers: 0: the largest error is 5.0e-01 of the largest value"):
        check_close("layers", {0: small + 1e-3, 1: large}, {0: small, 1: large})         # next to nothing of the large
    for ours, theirs in (({0: small}, {0: small, 1: large}), ({}, {0: small}), ({}, {})):
        with pytest.raises(AssertionError, match=r"^layers: there should be [^\n]+\.$"):
            check_close("layers", ours, theirs)


def test_complex_numbers_are_compared_with_both_of_their_parts(capsys):
    right = torch.tensor([3 + 4j, 1j])
    check_close("turned", right * (1 + 3e-6j), right)
    assert capsys.readouterr().out == "✓ turned (within 1e-5; 2e-5 is allowed)\n"
    with pytest.raises(AssertionError, match="^turned: the largest error is 6.0e-01"):
        check_close("turned", torch.complex(right.real, torch.ones(2)), right)


def test_names_may_come_in_any_order(capsys):
    check_close("both", {"a": torch.ones(2), "b": torch.zeros(3)}, {"b": torch.zeros(3), "a": torch.ones(2)})
    assert capsys.readouterr().out == "✓ both (exactly; 2e-5 is allowed)\n"


@pytest.mark.parametrize("ours, theirs, says", [
    (torch.zeros(2, 0), torch.zeros(2, 0), r"there are no numbers to compare, the shape is \(2, 0\)"),
    ({"a": torch.ones(2)}, torch.ones(2), "a dict is no tensor .*compared by names, as {name: tensor}"),
    (torch.ones(2), {"a": torch.ones(2)}, "a dict is no tensor"), (None, torch.ones(2), "a NoneType is no tensor"),
    ((torch.ones(2), torch.ones(3)), torch.ones(2), "a tuple is no tensor"),
    ({"a": {"b": torch.ones(2)}}, {"a": {"b": torch.ones(2)}}, "a: a dict is no tensor"),
])
def test_what_cannot_be_compared_is_told(ours, theirs, says):
    with pytest.raises(AssertionError, match=rf"^these: {says}[^\n]*\.$"):
        check_close("these", ours, theirs)


@pytest.mark.parametrize("off, bound, says", [
    (0, 2e-5, "(exactly; 2e-5 is allowed)"), (0, 0, "(exactly)"),
    (1e-6, 2e-5, "(within 1e-6; 2e-5 is allowed)"), (1.1e-6, 2e-5, "(within 1e-5; 2e-5 is allowed)"),
    (1.1e-5, 2e-5, "(within 2e-5; 2e-5 is allowed)"),               # not 1e-4, which is not allowed
    (3e-12, 2.5e-3, "(within 1e-11; 2.5e-3 is allowed)"), (0.3, 0.5, "(within 5e-1; 5e-1 is allowed)"),
])
def test_what_was_measured_is_told_by_its_order_of_magnitude(off, bound, says):
    assert measured(off, bound) == says


# ------------------------------------------------------------------------------------------------ ids of texts


def test_the_tokenizer_of_a_folder_is_compared_with_what_auto_tokenizer_makes_of_it(folder):
    pytest.importorskip("transformers", minversion="5.23")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    report = verify(folder)
    report.raise_if_failed()
    assert {check.piece for check in report.checks if check.compared == "AutoTokenizer"} == {
        "ids of texts", "ids of a chat"}


def lower(fast):
    fast.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])


def cut_at_spaces(fast):
    fast.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r" ?\S+|\s+"), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


@pytest.mark.parametrize("change", [lower, cut_at_spaces])
def test_trap_31_a_tokenizer_that_others_would_read_in_another_way_is_named(folder, change):
    pytest.importorskip("transformers", minversion="5.23")
    fast = make_tokenizer()
    change(fast)
    fast.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    failed = {check.piece: check for check in verify(folder).failed}
    assert failed.keys() >= {"ids of texts", "ids of a chat"}
    assert failed["ids of texts"].note.startswith(f"{failed['ids of texts'].error} of 11 differ, such as ")


def test_a_tokenizer_that_auto_tokenizer_does_not_load_is_remarked(folder, monkeypatch):
    transformers = pytest.importorskip("transformers", minversion="5.23")

    def fails(folder):
        raise OSError("no such thing")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fails)
    report = verify(folder)
    assert report.ok and "Texts: their ids were not compared, because AutoTokenizer does not load it (no such" in str(
        report) and "there is no official tokenizer beside it" in str(report)
