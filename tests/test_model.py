"""Ring 2 of verification, the model: it computes what `transformers` computes from the same weights, in float32."""

import copy

import pytest
import torch
from support import error, random_qwen, small_config, tokens
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from minqwen.model import GatedDeltaNet, Qwen, Step, linear
from minqwen.verify import official_twin

EXACT = 2e-5                                              # largest error over largest logit
PADDED = 1e-4                                             # of padded rows, whose chunks fall differently


@pytest.fixture(scope="module")
def qwen():
    return random_qwen()


@pytest.fixture(scope="module")
def twin(qwen):
    pytest.importorskip("transformers", minversion="5.23")
    return official_twin(qwen)


def mask_of(*rows):
    """Rows of the kind "0011", as an attention mask."""
    return torch.tensor([[int(c) for c in row] for row in rows])


# ------------------------------------------------------------------------------------------------------- whole model


@pytest.mark.parametrize("T", [1, 63, 64, 65, 200])
def test_logits(qwen, twin, T):
    x = tokens(2, T)
    assert error(qwen(x), twin(x).logits) < EXACT


@pytest.mark.parametrize("heads", [(2, 2), (2, 4), (1, 3)])
def test_logits_with_other_heads(heads):
    pytest.importorskip("transformers")
    other = random_qwen(small_config(linear_num_key_heads=heads[0], linear_num_value_heads=heads[1]))
    assert error(other(tokens(2, 70)), official_twin(other)(tokens(2, 70)).logits) < EXACT


def test_logits_of_an_untied_model_with_biased_attention():
    pytest.importorskip("transformers")
    other = random_qwen(small_config(tie_word_embeddings=False, attention_bias=True))
    for name, parameter in other.named_parameters():
        if name.endswith("bias"):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    assert "lm_head.weight" in other.state_dict()
    assert error(other(tokens(2, 70)), official_twin(other)(tokens(2, 70)).logits) < EXACT


def test_logits_to_keep(qwen):
    x = tokens(2, 20)
    assert error(qwen(x, logits_to_keep=3), qwen(x)[:, -3:]) < 1e-6


@pytest.mark.parametrize("tokens_now", [1, 2, 4, 5, 16, 17])
@pytest.mark.parametrize("bias", [False, True])
def test_few_tokens_by_all_cores_are_the_same_product(tokens_now, bias):
    x, weight = torch.randn(1, tokens_now, 512), torch.randn(2048, 512)
    b = torch.randn(2048) if bias else None
    assert error(linear(x, weight, b), F.linear(x.double(), weight.double(), b if b is None else b.double())) < 1e-6
    assert linear(x, weight, b).shape == (1, tokens_now, 2048)


class Operations(TorchDispatchMode):
    """The operations that were called, by name."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.add(operation.__name__.partition(".")[0])
        return operation(*args, **kwargs or {})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trap_30_the_head_is_one_product_for_the_last_token_of_a_prompt(dtype):
    """A loaded model's weights need no gradient: then `F.linear` of a slice becomes `bmm`, which copies the matrix."""
    model = random_qwen().to(dtype).requires_grad_(False)
    hidden = torch.randn(2, 30, model.config.text_config.hidden_size, dtype=dtype)
    with Operations() as ours:
        assert model.head(hidden[:, -1:]).shape == (2, 1, model.config.text_config.vocab_size)
    with Operations() as copying:
        F.linear(hidden[:, -1:], model.head_weight)
    assert "mm" in ours.names and "bmm" not in ours.names and "bmm" in copying.names


def test_positions_in_three_rows(qwen, twin):
    """Trap 15: with time, height and width all different, as in a picture; text alone can show no error here."""
    x = tokens(2, 90)
    positions = torch.randint(0, 60, (3, 2, 90), generator=torch.Generator().manual_seed(2))
    ours = qwen(x, position_ids=positions)
    assert error(ours, twin(x, position_ids=positions).logits) < EXACT
    assert error(ours, qwen(x, position_ids=positions[[0, 2, 1]])) > 1e-2          # height and width are not the same
    assert error(ours, qwen(x, position_ids=positions[[1, 0, 2]])) > 1e-2


test_trap_15_m_rope_is_interleaved = test_positions_in_three_rows


# ------------------------------------------------------------------------------------------------- padding and packing


@pytest.mark.parametrize("rows", [
    pytest.param(["0" * 37 + "1" * 63], id="left, a batch of one"),
    pytest.param(["1" * 63 + "0" * 37], id="right, a batch of one"),
    pytest.param(["0" * 37 + "1" * 63, "1" * 100, "0" * 99 + "1"], id="left"),
    pytest.param(["1" * 63 + "0" * 37, "1" * 100, "1" + "0" * 99], id="right"),
    pytest.param(["0" * 37 + "1" * 63, "1" * 60 + "0" * 40, "0" * 10 + "1" * 70 + "0" * 20], id="left and right"),
])
def test_trap_1_padding_enters_neither_convolution_nor_memory(qwen, twin, rows):
    mask, x = mask_of(*rows), tokens(len(rows), 100)
    logits = qwen(x, attention_mask=mask)
    assert error(logits[mask.bool()], twin(x, attention_mask=mask).logits[mask.bool()]) < PADDED
    for row, real in enumerate(mask.bool()):
        assert error(logits[row, real], qwen(x[row : row + 1, real])[0]) < PADDED
    assert logits.isfinite().all()


def test_trap_1_holes_are_as_if_they_were_not_there(qwen):
    """Pads between real tokens, as when turns of a batch are joined: a row is its real tokens and nothing else."""
    mask = mask_of("0011" * 5 + "1" * 40 + "0" * 7 + "1" * 13, "1" * 50 + "0" * 20 + "1" * 10)
    x = tokens(2, 80)
    logits = qwen(x, attention_mask=mask)
    for row, real in enumerate(mask.bool()):
        assert error(logits[row, real], qwen(x[row : row + 1, real])[0]) < PADDED


def test_what_stands_under_a_pad_does_not_matter(qwen):
    mask, x = mask_of("0" * 20 + "1" * 30, "1" * 25 + "0" * 25), tokens(2, 50)
    other = torch.where(mask.bool(), x, tokens(2, 50, seed=7))
    assert torch.equal(qwen(x, attention_mask=mask)[mask.bool()], qwen(other, attention_mask=mask)[mask.bool()])


@pytest.mark.parametrize("cut", [[0, 40, 41, 130], [0, 1, 2, 3, 6, 130], [0, 64, 128, 130], [0, 130]])
def test_trap_2_packed_sequences_do_not_see_each_other(qwen, cut):
    x = tokens(1, 130)
    alone = torch.cat([qwen(x[:, a:b]) for a, b in zip(cut, cut[1:], strict=False)], dim=1)
    assert error(qwen(x, cu_seqlens=torch.tensor(cut)), alone) < EXACT


# --------------------------------------------------------------------------------------------------------------- cache


@pytest.mark.parametrize("pieces", [
    [130], [50, 1, 64, 1, 1, 13], [1] * 20, [1, 2, 3, 4, 5], [64, 64, 1, 1], [3, 1, 60],
], ids=str)
@torch.no_grad()                                          # so that decoding is in place
def test_trap_3_prefill_pieces_and_decoding_are_one_function(qwen, twin, pieces):
    x, cache, outputs = tokens(2, sum(pieces)), qwen.new_cache(2, 200), []
    for piece in x.split(pieces, dim=1):
        outputs.append(qwen(piece, cache=cache))
    assert cache.length == x.shape[1]
    logits = torch.cat(outputs, dim=1)
    assert error(logits, qwen(x)) < EXACT
    assert error(logits, twin(x).logits) < EXACT


def test_trap_3_caches_hold_the_same_after_pieces_and_at_once(qwen):
    x, at_once, in_pieces = tokens(2, 75), qwen.new_cache(2, 80), qwen.new_cache(2, 80)
    qwen(x, cache=at_once)
    for piece in x.split([30, 1, 44], dim=1):
        qwen(piece, cache=in_pieces)
    for a, b in zip(at_once.layers, in_pieces.layers, strict=True):
        for name in a.__dict__.keys() - {"length"}:
            assert error(getattr(a, name), getattr(b, name)) < EXACT, name


@torch.no_grad()                                          # so that decoding is in place
def test_decoding_beside_the_official_cache(qwen, twin):
    x, cache = tokens(2, 60), qwen.new_cache(2, 60)
    theirs = twin(x[:, :40], use_cache=True)
    assert error(qwen(x[:, :40], cache=cache), theirs.logits) < EXACT
    for t in range(40, 60):
        theirs = twin(x[:, t : t + 1], past_key_values=theirs.past_key_values, use_cache=True)
        assert error(qwen(x[:, t : t + 1], cache=cache), theirs.logits) < EXACT


@pytest.mark.parametrize("side", ["left", "right", "both"])
@torch.no_grad()                                          # so that decoding is in place
def test_trap_1_padded_prefill_then_decoding(qwen, side):
    """A padded row goes on exactly as the same row alone, whichever side its pads are on."""
    rows = {"left": ["0" * 15 + "1" * 25, "1" * 40], "right": ["1" * 25 + "0" * 15, "1" * 40],
            "both": ["0" * 5 + "1" * 25 + "0" * 10, "0" * 39 + "1"]}[side]
    mask, x, more = mask_of(*rows), tokens(2, 40), tokens(2, 50, seed=3)
    cache = qwen.new_cache(2, 90)
    qwen(x, attention_mask=mask, cache=cache)
    steps = [1] * 10 + [33, 1, 6]
    logits = torch.cat([qwen(piece, cache=cache) for piece in more.split(steps, dim=1)], dim=1)
    for row, real in enumerate(mask.bool()):
        alone = torch.cat((x[row, real], more[row]))[None]
        assert error(logits[row], qwen(alone)[0, -50:]) < PADDED


def test_a_second_padded_piece(qwen):
    """A chat in a batch: each turn is padded by itself, and the mask may come for this piece or for all so far."""
    masks = mask_of("0011111", "1111111"), mask_of("111100", "001111"), mask_of("1", "1")
    x = tokens(2, 14)
    real = torch.cat(masks, dim=1).bool()
    for whole_mask in (False, True):
        cache, outputs, start = qwen.new_cache(2, 20), [], 0
        for mask in masks:
            end = start + mask.shape[1]
            given = torch.cat(masks, dim=1)[:, :end] if whole_mask else mask
            outputs.append(qwen(x[:, start:end], attention_mask=given, cache=cache))
            start = end
        logits = torch.cat(outputs, dim=1)
        for row in range(2):
            assert error(logits[row, real[row]], qwen(x[row : row + 1, real[row]])[0]) < PADDED


def test_trap_4_the_state_stays_float32():
    half = random_qwen().to(torch.bfloat16)
    cache = half.new_cache(1, 10)
    for piece in tokens(1, 8).split([4, 1, 3], dim=1):
        half(piece, cache=cache)
        assert cache.layers[0].recurrent_state.dtype == torch.float32
        assert cache.layers[3].keys.dtype == torch.bfloat16


def test_a_model_in_float64_decodes_too(qwen):
    double = copy.deepcopy(qwen).double()
    x, cache = tokens(1, 12), double.new_cache(1, 12)
    logits = torch.cat([double(piece, cache=cache) for piece in x.split([9, 1, 2], dim=1)], dim=1)
    assert error(logits, double(x)) < 1e-12


@torch.no_grad()                                          # so that decoding is in place
def test_trap_5_going_back_is_as_if_nothing_had_happened(qwen):
    x, cache = tokens(2, 60), qwen.new_cache(2, 100)
    qwen(x[:, :30], cache=cache)
    here = cache.snapshot()
    for wrong in ([1, 1, 1], [20], [1]):                                           # three detours from one snapshot
        for piece in tokens(2, sum(wrong), seed=9).split(wrong, dim=1):
            qwen(piece, cache=cache)
        cache.restore(here)
        assert cache.length == 30
        right = torch.cat([qwen(piece, cache=cache) for piece in x[:, 30:].split([1, 1, 28], dim=1)], dim=1)
        assert error(right, qwen(x)[:, 30:]) < EXACT
        cache.restore(here)


def test_trap_5_a_snapshot_that_was_written_over_says_so(qwen):
    cache = qwen.new_cache(1, 50)
    qwen(tokens(1, 10), cache=cache)
    early = cache.snapshot()
    qwen(tokens(1, 10), cache=cache)
    late = cache.snapshot()
    cache.restore(early)
    cache.restore(late)                                                            # nothing was written in between
    cache.restore(early)
    qwen(tokens(1, 1), cache=cache)
    with pytest.raises(ValueError, match="This snapshot .* written over"):
        cache.restore(late)
    cache.restore(early)


def test_trap_5_padding_is_rolled_back_too(qwen):
    x, cache = tokens(2, 30), qwen.new_cache(2, 40)
    qwen(x[:, :10], cache=cache)
    here = cache.snapshot()
    qwen(x[:, 10:20], attention_mask=mask_of("0001111111", "1111100000"), cache=cache)
    cache.restore(here)
    assert error(qwen(x[:, 10:], cache=cache), qwen(x)[:, 10:]) < EXACT


@torch.no_grad()                                          # so that decoding is in place
@pytest.mark.parametrize("steps", [[1] * 10, [3, 1, 6]], ids=str)
def test_trap_5_slots_of_pads_that_were_rolled_back_are_slots_again(qwen, steps):
    """Where there is padding all along, what was a pad on the detour is a token on the way."""
    x, cache, mask = tokens(2, 30), qwen.new_cache(2, 40), mask_of("0000111111", "1111111111")
    qwen(x[:, :10], attention_mask=mask, cache=cache)
    here = cache.snapshot()
    for detour in (mask_of("0001111111", "1111100000"), mask_of("0000000000", "1000000000")):
        qwen(x[:, 10:20], attention_mask=detour, cache=cache)
        cache.restore(here)
        logits = torch.cat([qwen(piece, cache=cache) for piece in x[:, 20:].split(steps, dim=1)], dim=1)
        cache.restore(here)
        for row, real in enumerate(mask.bool()):
            alone = torch.cat((x[row, :10][real], x[row, 20:]))[None]
            assert error(logits[row], qwen(alone)[0, -10:]) < PADDED


# ----------------------------------------------------------------------------------------------------- the other traps


def test_trap_7_a_log_and_gated_norm_stay_float32_in_a_half_precision_model():
    """As official checkpoints store them; and it is another model when they are rounded."""
    pytest.importorskip("transformers")
    half = as_published(random_qwen())
    x = tokens(2, 100)
    logits, theirs = half(x), official_twin(half)(x).logits
    assert logits.dtype == theirs.dtype == torch.bfloat16
    assert error(logits, theirs) < 2e-2                  # rounding anywhere else than they do would make 5e-2 and more
    exact = copy.deepcopy(half).float()(x)
    assert error(logits, exact) < 1.2 * error(theirs, exact)                      # no further from the truth than they
    assert error(copy.deepcopy(half).bfloat16()(x), logits) > 0


def as_published(qwen):
    """bfloat16, but A_log and the norm behind the delta rule float32, as in the official checkpoints."""
    qwen.to(torch.bfloat16)
    exact = random_qwen(qwen.config).state_dict()
    for name, parameter in qwen.named_parameters():
        if name.endswith(("A_log", "linear_attn.norm.weight")):
            parameter.data = exact[name]
    return qwen


def test_trap_12_fresh_norms_are_the_identity():
    """A fresh weight is 0 where the norm is (1 + w), and 1 where it is plain: the gated norm behind the delta rule."""
    fresh, x = Qwen(small_config()), 3 * torch.randn(2, 5, 64)
    layer = fresh.model.language_model.layers[0]
    assert layer.input_layernorm.weight.eq(0).all() and layer.linear_attn.norm.weight.eq(1).all()
    torch.testing.assert_close(layer.input_layernorm(x).square().mean(-1), torch.ones(2, 5))
    o, z = torch.randn(2, 5, 6, 24), torch.randn(2, 5, 6, 24)
    torch.testing.assert_close(layer.linear_attn.norm(o, z), torch.nn.functional.rms_norm(o, (24,), eps=1e-6)
                               * torch.nn.functional.silu(z))


def test_trap_13_query_and_gate_are_split_inside_each_head(qwen):
    """Silence the gate rows of head 1 alone: exactly its share of what is let through is halved."""
    layer = copy.deepcopy(qwen.model.language_model.layers[3].self_attn)
    seen = {}
    layer.gated = lambda o, gate: seen.update(gate=gate) or o * torch.sigmoid(gate)
    layer.q_proj.weight.view(4, 2, 32, 64)[1, 1] = 0
    cos, sin = torch.ones(1, 5, 1, 8), torch.zeros(1, 5, 1, 8)
    layer(torch.randn(1, 5, 64), Step(cos, sin))
    assert [head.eq(0).all().item() for head in seen["gate"].unbind(2)] == [False, True, False, False]


@pytest.mark.parametrize("seed", range(3))
def test_trap_14_a_fresh_memory_outlasts_the_token(seed):
    torch.manual_seed(seed)
    fresh = Qwen(small_config(linear_num_key_heads=16, linear_num_value_heads=64, num_hidden_layers=8))
    for name, parameter in fresh.named_parameters():
        assert parameter.isfinite().all(), name
    for module in fresh.modules():
        if isinstance(module, GatedDeltaNet):
            g = -module.A_log.exp() * torch.nn.functional.softplus(module.dt_bias)     # where the input says nothing
            lasts = -1 / g                                                             # tokens until 1/e is left
            assert 0.5 < lasts.min() and 4 < lasts.median() < 100 and 100 < lasts.max() < 1e4
    x = tokens(2, 50)
    logits = fresh(x)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), x.flatten()).backward()
    assert logits.isfinite().all() and logits.std() < 3
    for name, parameter in fresh.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_gradients_are_the_official_ones():
    """One training step of both: next-token loss, then every parameter's gradient by its name."""
    pytest.importorskip("transformers")
    qwen = random_qwen()
    twin = official_twin(qwen).requires_grad_(True)
    qwen.requires_grad_(True)
    x = tokens(2, 80)
    loss = torch.nn.functional.cross_entropy(qwen(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())
    theirs = twin(x, labels=x).loss
    torch.testing.assert_close(loss, theirs)
    loss.backward()
    theirs.backward()
    gradients = {name: p.grad for name, p in twin.named_parameters()}
    for name, parameter in qwen.named_parameters():
        assert error(parameter.grad, gradients[name.replace("language_model.", "")]) < 5e-4, name


# ------------------------------------------------------------------------------------------------------------ bad input


def test_errors_are_one_sentence(qwen):
    full = qwen.new_cache(2, 5)
    qwen(tokens(2, 4), cache=full)
    wrong = {
        "nothing": lambda: qwen(tokens(2, 0)),
        "a list": lambda: qwen([[1, 2]]),
        "a row alone": lambda: qwen(tokens(1, 5)[0]),
        "a row alone, predicted further": lambda: qwen.mtp_logits(tokens(1, 5)[0]),
        "fractions": lambda: qwen(tokens(1, 5).float()),
        "bytes": lambda: qwen(tokens(1, 5).to(torch.uint8)),
        "truth values": lambda: qwen(tokens(1, 5) > 3),
        "a mask that is a list": lambda: qwen(tokens(1, 5), attention_mask=[[1, 1, 1, 1, 1]]),
        "a list of ends": lambda: qwen(tokens(1, 5), cu_seqlens=[0, 5]),
        "ends beyond the tokens": lambda: qwen(tokens(1, 5), cu_seqlens=torch.tensor([0, 6])),
        "a mask of another length": lambda: qwen(tokens(2, 5), attention_mask=torch.ones(2, 4)),
        "a cache for other rows": lambda: qwen(tokens(1, 1), cache=full),
        "a full cache": lambda: qwen(tokens(2, 2), cache=full),
        "packed and padded": lambda: qwen(tokens(1, 5), torch.ones(1, 5), cu_seqlens=torch.tensor([0, 5])),
        "packed in two rows": lambda: qwen(tokens(2, 5), cu_seqlens=torch.tensor([0, 5])),
        "an id beyond the vocabulary": lambda: qwen(tokens(1, 3) + 300),
        "positions of another shape": lambda: qwen(tokens(2, 5), position_ids=torch.zeros(3, 2, 4, dtype=torch.long)),
    }
    for name, call in wrong.items():
        with pytest.raises(ValueError, match=r"^[^\n]+\.$") as caught:
            call()
        assert caught.value.args[0].count(". ") == 0, name
    assert full.length == 4
    with pytest.raises(TypeError, match=r"^Qwen takes a Config, such as [^\n]+, and not a str; minqwen.load [^\n]+\.$"):
        Qwen("Qwen3.5-0.8B")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("cores", [2, 3, 4, 6])
@pytest.mark.parametrize("rows", [1, 2, 4, 5, 16, 17])
def test_any_number_of_cores_shares_a_matrix(threads, cores, rows):
    """1,028 rows of a matrix go into 2 and 4 parts, and not into 3 or 6."""
    threads(cores)
    x, weight, bias = torch.randn(rows, 1024), torch.randn(1028, 1024), torch.randn(1028)
    assert error(linear(x, weight, bias), F.linear(x.double(), weight.double(), bias.double())) < 2e-6


def test_no_rows_at_all_make_no_rows(threads):
    threads(2)
    assert linear(torch.ones(0, 1024), torch.ones(1028, 1024)).shape == (0, 1028)


def test_decoding_convolves_as_the_prompt_does_in_bfloat16():
    qwen = random_qwen(small_config()).bfloat16()
    layer = qwen.model.language_model.layers[0].linear_attn
    torch.manual_seed(0)
    x = torch.randn(1, 64, layer.conv1d.weight.shape[0]).bfloat16()
    step = Step(None, None)                              # a convolution has no positions
    whole, cache = layer.convolve(x, step), qwen.new_cache(1, 100).layers[0]
    steps = torch.cat([layer.convolve(x[:, t : t + 1], step, cache) for t in range(64)], dim=1)
    weight = layer.conv1d.weight[:, 0].double()
    exact = F.conv1d(F.pad(x.mT.double(), (3, 0)), weight[:, None], groups=len(weight)).mT
    exact = F.silu(exact.bfloat16())                                # rounded once before silu, and once behind it
    for convolved in (whole, steps):
        assert (convolved == exact).double().mean() > 0.999


def test_a_cache_keeps_the_last_inputs_and_not_the_whole_prompt():
    qwen = random_qwen(small_config())
    cache = qwen.new_cache(1, 300)
    with torch.no_grad():
        qwen(tokens(1, 200), cache=cache)
    last = cache.layers[0].conv_state
    assert last.untyped_storage().nbytes() == last.nbytes


@pytest.mark.parametrize("grad", [False, True])
def test_autocast_around_the_model(grad):
    """In bfloat16 what torch's autocast takes for it; the rule, the norms and the decays stay in float32."""
    qwen, ids = random_qwen(small_config()).requires_grad_(grad), tokens(2, 70)
    right = qwen(ids).detach()
    with torch.autocast("cpu", torch.bfloat16):
        logits = qwen(ids)
        cache = qwen.new_cache(2, 80)
        with torch.no_grad():
            pieces = [qwen(ids[:, a:b], cache=cache) for a, b in ((0, 40), (40, 41), (41, 70))]
    for ours in (logits, torch.cat(pieces, 1)):
        assert ours.dtype == torch.bfloat16 and (ours.float() - right).norm() < 0.1 * right.norm()
    if grad:
        logits.float().logsumexp(-1).sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in qwen.parameters())


@pytest.mark.parametrize("traced", ["compiled", "exported"])
def test_one_graph_for_a_compiler_and_for_export(traced):
    two = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
    qwen, x, mask = random_qwen(small_config(**two)), tokens(2, 5), mask_of("00111", "11111")
    if traced == "compiled":
        torch.compiler.reset()
        graph = torch.compile(qwen, backend="eager", fullgraph=True)
    else:
        graph = torch.export.export(qwen, (x, mask), strict=False).module()
    assert error(graph(x, mask)[mask.bool()], qwen(x, mask)[mask.bool()]) < PADDED
