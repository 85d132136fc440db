"""Pictures and clips: the tower, the positions around what it sees, and the logits, as `transformers` computes them."""

import copy
from functools import partial

import pytest
import torch
from einops import rearrange
from support import (
    IMAGE,
    KINDS,
    VIDEO,
    error,
    for_transformers,
    one_by_one,
    prompt,
    random_qwen,
    seeing_config,
    small_config,
    tokens,
)
from torch.nn import functional as F

from minqwen.model import mrope_positions
from minqwen.verify import official_twin

EXACT = 2e-5                                             # largest error over largest logit
PADDED = 1e-4                                            # of padded rows, whose chunks fall differently


@pytest.fixture(scope="module")
def qwen():
    return random_qwen(seeing_config())


@pytest.fixture(scope="module")
def twin(qwen):
    pytest.importorskip("transformers", minversion="5.23")
    return official_twin(qwen, pictures=True)


@pytest.fixture(scope="module")
def tower(qwen):
    return qwen.model.visual


@pytest.fixture(scope="module")
def official(twin):
    return twin.model.visual


def noise(grids, patch=3 * 2 * 4 * 4):
    """Pixels for some grids, and the grids."""
    grids = torch.tensor(grids)
    return torch.randn(int(grids.prod(-1).sum()), patch, generator=torch.Generator().manual_seed(3)), grids


# ----------------------------------------------------------------------------------------------------------- the tower

GRIDS = {
    "one block": [(1, 2, 2)],
    "tall": [(1, 12, 2)],
    "wide": [(1, 2, 14)],
    "as large as the learned grid": [(1, 6, 6)],
    "larger than the learned grid": [(1, 16, 10)],
    "several pictures": [(1, 4, 6), (1, 6, 4), (1, 2, 2), (1, 4, 6), (1, 4, 6)],
    "a clip of one group": [(1, 4, 4)],
    "a clip of five": [(5, 4, 6)],
    "clips": [(2, 4, 6), (3, 6, 4), (1, 2, 2)],
    "pictures and clips": [(1, 8, 2), (3, 4, 4), (1, 4, 4), (2, 2, 8)],
}


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_tower(tower, official, grids):
    pixels, grid_thw = noise(grids)
    assert error(tower(pixels, grid_thw), official(pixels, grid_thw).pooler_output) < EXACT


@pytest.mark.parametrize("grid", [(1, 2, 2), (1, 12, 2), (1, 2, 14), (1, 6, 6), (1, 16, 10)], ids=str)
def test_learned_positions_are_the_official_ones(tower, official, grid):
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights

    where, weights = get_vision_interpolation_indices_and_weights(
        torch.tensor([grid]), num_grid_per_side=6, align_corners=True, spatial_merge_size=2)
    theirs = (official.pos_embed(where) * weights[..., None]).sum(1)
    assert error(tower.learned_positions(*grid[1:]), theirs) < 1e-6


def test_trap_18_learned_positions_are_bilinear_with_corners_aligned(tower):
    """A table that is its own row and column: what comes out says where each patch looked it up."""
    with torch.no_grad():
        tower = copy.deepcopy(tower)
        rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
        tower.pos_embed.weight.zero_()
        tower.pos_embed.weight[:, 0], tower.pos_embed.weight[:, 1] = rows.flatten(), columns.flatten()
        looked_up = rearrange(tower.learned_positions(4, 10), "(h w i j) c -> (h i) (w j) c", h=2, w=5, i=2, j=2)
    torch.testing.assert_close(looked_up[:, 0, 0], torch.tensor([0, 5 / 3, 10 / 3, 5]))    # from corner to corner
    torch.testing.assert_close(looked_up[0, :, 1], torch.arange(10) * 5 / 9)
    torch.testing.assert_close(looked_up[:, :, :2], torch.stack(torch.broadcast_tensors(
        looked_up[:, :1, 0], looked_up[:1, :, 1]), dim=-1))


def test_trap_18_patches_are_embedded_by_a_convolution_over_both_frames_with_a_bias(tower):
    clip = torch.randn(3, 4, 8, 16, generator=torch.Generator().manual_seed(0))            # (C, frames, H, W)
    projection = tower.patch_embed.proj
    assert projection.bias.any() and not torch.equal(projection.weight[:, :, 0], projection.weight[:, :, 1])
    right = F.conv3d(clip, projection.weight, projection.bias, stride=(2, 4, 4))           # (hidden, t, h, w)
    patches = rearrange(clip, "c (t f) (h p) (w q) -> (t h w) (c f p q)", f=2, p=4, q=4)
    assert error(tower.patch_embed(patches), rearrange(right, "d t h w -> (t h w) d")) < 1e-6


def test_trap_18_blocks_use_the_gelu_of_tanh_and_the_merger_the_exact_one(tower):
    x = 2 * torch.randn(8, 48, generator=torch.Generator().manual_seed(0))
    mlp, merger = tower.blocks[0].mlp, tower.merger
    inside = F.linear(x, mlp.linear_fc1.weight, mlp.linear_fc1.bias)
    curved, exact = (F.linear(F.gelu(inside, approximate=form), mlp.linear_fc2.weight, mlp.linear_fc2.bias)
                     for form in ("tanh", "none"))
    assert error(mlp(x), curved) < 1e-6 < 1e-5 < error(mlp(x), exact)
    inside = merger.linear_fc1(F.layer_norm(x, (48,), merger.norm.weight, merger.norm.bias, eps=1e-6).view(2, 192))
    curved, exact = (merger.linear_fc2(F.gelu(inside, approximate=form)) for form in ("tanh", "none"))
    assert error(merger(x), exact) < 1e-6 < 1e-5 < error(merger(x), curved)


def test_trap_18_every_patch_of_a_frame_looks_at_every_other_and_at_none_of_another_frame(tower):
    pixels, grid = noise([(3, 4, 4)])
    other = pixels.clone()
    other[16] += 1                                                           # one patch of the second frame of three
    change = (tower(other, grid) - tower(pixels, grid)).abs().amax(-1).view(3, 4)
    assert change[[0, 2]].eq(0).all() and change[1].gt(1e-4).all()


def test_a_picture_is_seen_as_if_it_were_alone(tower):
    grids = GRIDS["pictures and clips"]
    pixels, grid_thw = noise(grids)
    frames = [(1, h, w) for t, h, w in grids for _ in range(t)]
    alone = [tower(x, torch.tensor([grid])) for grid, x in
             zip(frames, pixels.split([h * w for _, h, w in frames]), strict=True)]
    assert error(tower(pixels, grid_thw), torch.cat(alone)) < 1e-5


def test_trap_18_there_is_no_norm_at_the_end_but_the_mergers(tower, official):
    pixels, grid = noise([(1, 4, 6)])
    seen = {}
    hook = tower.merger.register_forward_pre_hook(lambda _, x: seen.update(x=x[0]))
    tower(pixels, grid)
    hook.remove()
    assert error(seen["x"], official(pixels, grid).last_hidden_state) < EXACT
    assert not torch.allclose(seen["x"].mean(-1), torch.zeros(24), atol=1e-2)


def test_rotary_angles_are_the_official_ones(tower, official):
    from transformers.vision_utils import get_vision_position_ids

    for h, w in ((2, 2), (8, 4), (4, 8)):
        angles = tower.rotary_angles(h, w).squeeze(1)
        cos, sin = official.rotary_pos_emb(torch.zeros(()), get_vision_position_ids(torch.tensor([[1, h, w]]), 2))
        assert error(torch.cat((angles, angles), dim=-1).cos(), cos) < 1e-6
        assert error(torch.cat((angles, angles), dim=-1).sin(), sin) < 1e-6


def test_pieces_of_the_tower(tower, official):
    """Attention, MLP, block and merger, each on the same input as the official one."""
    h, w = 4, 6
    x = torch.randn(3 * h * w, 48, generator=torch.Generator().manual_seed(0))
    angles = tower.rotary_angles(h, w).repeat(3, 1, 1)
    cos, sin, frames = angles.cos(), angles.sin(), [h * w] * 3
    theirs = {"cu_seqlens": h * w * torch.arange(4), "position_embeddings": tuple(
        torch.cat((y, y), dim=-1).squeeze(1) for y in (cos, sin))}
    for ours, other in zip(tower.blocks, official.blocks, strict=True):
        assert error(ours.attn(x, cos, sin, frames), other.attn(x, **theirs)) < EXACT
        assert error(ours.mlp(x), other.mlp(x)) < EXACT
        assert error(ours(x, cos, sin, frames), other(x, **theirs)) < EXACT
    assert error(tower.merger(x), official.merger(x)) < EXACT


def test_a_tower_in_half_precision_is_as_close_to_the_truth_as_the_official_one(qwen, tower):
    half = copy.deepcopy(qwen).to(torch.bfloat16)
    pixels, grid = noise(GRIDS["pictures and clips"])
    exact = copy.deepcopy(half).float().model.visual(pixels, grid)
    ours, theirs = half.model.visual(pixels, grid), official_twin(half, pictures=True).model.visual(
        pixels.bfloat16(), grid).pooler_output
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert error(ours, exact) < 2e-2 and error(ours, theirs) < 2e-2
    assert error(ours, exact) < 1.5 * error(theirs, exact)


def test_gradients_of_the_tower_are_the_official_ones():
    pytest.importorskip("transformers", minversion="5.23")
    qwen = random_qwen(seeing_config())
    twin = official_twin(qwen, pictures=True).requires_grad_(True)
    qwen.requires_grad_(True)
    inputs = prompt([3, (4, 6), 9, (2, 4, 2), 20])
    labels = inputs["input_ids"]
    loss = F.cross_entropy(qwen(**inputs)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    theirs = twin(**for_transformers(inputs), labels=labels).loss
    torch.testing.assert_close(loss, theirs)
    loss.backward()
    theirs.backward()
    gradients = {name: p.grad for name, p in twin.named_parameters()}
    for name, parameter in qwen.named_parameters():
        if not name.startswith("mtp."):
            # all keys of a frame moved by the same vector change no softmax: their bias has no gradient but rounding
            ours, right = (g.view(3, -1)[[0, 2]] if name.endswith("qkv.bias") else g
                           for g in (parameter.grad, gradients[name]))
            assert right.any() and error(ours, right) < 5e-4, name


# ------------------------------------------------------------------------------------------------------------ positions

ONE_ROW = [                                               # numbers are text, pairs are pictures, triples are clips
    [(4, 6)], [7, (4, 6)], [(4, 6), 7], [7, (4, 6), 7],                              # text before, after, around, none
    [3, (2, 2), 5], [3, (12, 2), 5], [3, (2, 12), 5], [3, (6, 10), 5], [3, (10, 6), 5], [3, (14, 14), 5], [3, (2, 4)],
    [(4, 6), (4, 6)], [(2, 8), (8, 2), (4, 4)], [1, (4, 6), 1, (6, 4), 1, (2, 2), 1], [(2, 2), 30, (2, 2)],
    [9, (8, 2), 1, (8, 2), (8, 2), 9],
    [(1, 4, 6)], [5, (1, 4, 6), 5], [5, (2, 4, 6), 5], [5, (3, 6, 4), 5], [5, (7, 2, 2), 5], [5, (50, 2, 4), 5],
    [(2, 4, 4), (3, 4, 4)], [(3, 2, 8)], [(7, 8, 2), 5], [(1, 2, 2), (1, 2, 2), (1, 2, 2)],
    [3, (4, 6), 5, (2, 4, 4), 5], [3, (2, 4, 4), 5, (4, 6), 5], [(4, 6), (2, 4, 4), (6, 4), (1, 2, 6)],
    [(7, 2, 4), (12, 2), (3, 2, 2), (2, 2)], [2, (2, 2), (50, 2, 2), (2, 2), 2],
]
ROWS = [
    [[3, (4, 6), 5], [20]], [[20], [3, (4, 6), 5]], [[(4, 6)], [(6, 4)]], [[(2, 2), 9], [9, (2, 2), 30]],
    [[3, (4, 6), (2, 2), 5], [1, (8, 2)], [40], [(2, 2), (2, 2), (2, 2), 1]],
    [[5, (2, 4, 4), 5], [5, (4, 6), 5]], [[(3, 4, 4), 1], [50], [(1, 2, 2), (2, 2, 2)]],
    [[4, (2, 2), (3, 4, 4), 6], [(7, 2, 2)], [(4, 6), 2, (2, 8)], [1]],
]


@pytest.mark.parametrize("row", ONE_ROW, ids=str)
def test_positions_of_one_row(qwen, twin, row):
    inputs = prompt(row)
    assert torch.equal(ours_of(qwen, inputs), theirs_of(twin, inputs)[0])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_positions_of_a_batch(qwen, twin, rows, side):
    inputs = prompt(*rows, side=side)
    real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    assert torch.equal(ours_of(qwen, inputs)[:, real], theirs_of(twin, inputs)[0][:, real])


def ours_of(qwen, inputs):
    return qwen.positions(**{name: x for name, x in inputs.items() if not name.startswith("pixel_values")})


def theirs_of(twin, inputs):
    """(their positions, how far the next token's is from the number of tokens)"""
    inputs = for_transformers(inputs)
    return twin.model.get_rope_index(**{name: x for name, x in inputs.items() if not name.startswith("pixel_values")})


def test_trap_16_text_resumes_past_the_longer_side_of_a_picture(qwen):
    """3 + 6 x 2 tokens + 2: five positions pass and not one, nor twelve."""
    time, height, width = ours_of(qwen, prompt([2, (12, 4), 2]))[:, 0].tolist()       # 2 text, start, 12 seen, end, 2
    assert time == [0, 1, 2] + [3] * 12 + [9, 10, 11]
    assert height == [0, 1, 2] + [3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8] + [9, 10, 11]
    assert width == [0, 1, 2] + [3, 4] * 6 + [9, 10, 11]


def test_trap_19_a_clip_is_laid_out_group_by_group_behind_its_timestamps(qwen):
    """Each group stands at a time of its own, behind two tokens of timestamp and a start, and before an end."""
    time, height, width = ours_of(qwen, prompt([1, (2, 2, 4), 1]))[:, 0].tolist()
    assert time == [0, 1, 2, 3, 4, 4, 6, 7, 8, 9, 10, 10, 12, 13]
    assert height == [0, 1, 2, 3, 4, 4, 6, 7, 8, 9, 10, 10, 12, 13]
    assert width == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]


def test_pictures_without_text_between_them_are_told_apart_by_their_grids():
    grids = {1: iter([(1, 2, 1), (1, 1, 3)]), 2: iter([])}
    positions = mrope_positions(torch.tensor([1, 1, 1, 1, 1]), grids, start=4)
    assert positions.tolist() == [[4, 4, 6, 6, 6], [4, 5, 6, 6, 6], [4, 4, 6, 7, 8]]


# -------------------------------------------------------------------------------------------------- logits, and placing

READ = {
    "a picture": [[3, (4, 6), 60]], "a picture alone": [[(4, 6)]], "pictures": [[3, (4, 6), (2, 8), 30, (6, 2), 9]],
    "larger than the learned grid": [[2, (16, 10), 9]],
    "a clip": [[3, (3, 4, 4), 20]], "a long clip": [[(20, 2, 2), 9]],
    "pictures and clips": [[1, (2, 4, 4), 5, (4, 6), 5, (3, 2, 4), (2, 2), 9]],
    "rows of one length": [[5, (4, 6), 1], [1, (6, 4), 5], [14]],
}
READ_PADDED = [[[3, (4, 6), 60], [(2, 2), (8, 2), 7]], [[20], [3, (3, 4, 4), 5], [(2, 2), 9, (2, 2, 2)]],
               [[3, (4, 6), 5], [1]]]


@pytest.mark.parametrize("rows", READ.values(), ids=READ)
def test_logits(qwen, twin, rows):
    inputs = prompt(*rows)
    assert "attention_mask" not in inputs
    assert error(qwen(**inputs), twin(**for_transformers(inputs)).logits) < EXACT


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("rows", READ_PADDED, ids=str)
def test_logits_of_padded_rows(qwen, twin, rows, side):
    inputs = prompt(*rows, side=side)
    real = inputs["attention_mask"].bool()
    logits = qwen(**inputs)
    assert error(logits[real], twin(**for_transformers(inputs)).logits[real]) < PADDED
    for (row, alone), kept in zip(one_by_one(inputs), real, strict=True):
        assert error(logits[row, kept], qwen(**alone)[0]) < PADDED


def test_what_is_seen_stands_where_its_placeholders_are(qwen):
    inputs = prompt([3, (4, 6), 5, (2, 4, 2), 2], [(2, 2), 1, (1, 2, 6), 4, (2, 4)])
    x = qwen.embed(**{name: value for name, value in inputs.items() if name != "attention_mask"})
    for kind, pixels, grid in KINDS:
        here = inputs["input_ids"] == kind
        assert torch.equal(x[here], qwen.model.visual(inputs[pixels], inputs[grid]))
    words = (inputs["input_ids"] != IMAGE) & (inputs["input_ids"] != VIDEO)
    assert torch.equal(x[words], qwen.model.language_model.embed_tokens(inputs["input_ids"])[words])


def test_without_pixels_a_placeholder_is_a_token_like_any_other(qwen):
    ids = prompt([3, (4, 6), 5])["input_ids"]
    assert torch.equal(qwen.positions(ids), torch.arange(ids.shape[1]).expand(3, 1, -1))
    x = qwen.embed(ids)
    assert torch.equal(qwen(ids), qwen(ids, inputs_embeds=x))


def test_a_clip_is_no_picture(qwen):
    """The same numbers as a picture and as a clip of one group: only the placeholders tell."""
    clip = prompt([2, (1, 4, 4), 3])
    ids = torch.where(clip["input_ids"] == VIDEO, IMAGE, clip["input_ids"])
    picture = {"pixel_values": clip["pixel_values_videos"], "image_grid_thw": clip["video_grid_thw"]}
    assert error(qwen(**clip), qwen(ids, **picture)) < 1e-6
    with pytest.raises(ValueError, match="placeholder"):
        qwen(clip["input_ids"], **picture)


# ------------------------------------------------------------------------------------------------------------ the cache

LONG = [[3, (4, 6), 5, (2, 4, 4), 8, (2, 12), 9]]        # 57 tokens: pictures are 4..9 and 41..46, a clip between them


@pytest.mark.parametrize("pieces", [
    [57], [4, 3, 50], [5, 1, 1, 1, 49], [20, 1, 36], [1] * 57, [56, 1], [2] * 28 + [1], [26, 31]], ids=str)
@torch.no_grad()                                          # so that decoding is in place
def test_a_prompt_is_read_in_pieces_cut_anywhere(qwen, twin, pieces):
    """Also in the middle of a picture: it is embedded once, its positions are found once, and both are cut."""
    inputs = prompt(*LONG)
    ids = inputs["input_ids"]
    assert ids.shape[1] == sum(pieces) == 57
    x, position_ids, cache, logits = qwen.embed(**inputs), ours_of(qwen, inputs), qwen.new_cache(1, 60), []
    for piece in torch.arange(57).split(pieces):
        logits.append(qwen(ids[:, piece], position_ids=position_ids[..., piece], cache=cache,
                           inputs_embeds=x[:, piece]))
        assert cache.positions.item() == position_ids[..., : piece[-1] + 1].max() + 1  # past all that is seen
    assert error(torch.cat(logits, dim=1), twin(**for_transformers(inputs)).logits) < EXACT
    assert cache.length == 57


@torch.no_grad()                                          # so that decoding is in place
def test_a_padded_batch_is_read_in_pieces(qwen):
    for side in ("left", "right"):
        inputs = prompt([3, (4, 6), 5, (2, 4, 4), 8], [(2, 12), 9], [30], side=side)
        mask, ids = inputs.pop("attention_mask"), inputs["input_ids"]
        x, cache, logits = qwen.embed(**inputs), qwen.new_cache(3, 60), []
        position_ids = qwen.positions(ids, mask, inputs["image_grid_thw"], inputs["video_grid_thw"])
        for piece in torch.arange(ids.shape[1]).split([6, 1, 9, ids.shape[1] - 16]):
            logits.append(qwen(ids[:, piece], mask[:, piece], position_ids[..., piece], cache=cache,
                               inputs_embeds=x[:, piece]))
        at_once = qwen(attention_mask=mask, **inputs)
        assert error(torch.cat(logits, dim=1)[mask.bool()], at_once[mask.bool()]) < PADDED
        assert cache.positions.tolist() == [int(position_ids[:, row, mask[row].bool()].max()) + 1 for row in range(3)]


@pytest.mark.parametrize("rows", [
    [[3, (4, 6), 2]], [[3, (12, 4)]], [[5, (3, 4, 4)]], [[(4, 8), (2, 4, 4), 30]],
    [[3, (12, 4), 5], [(2, 2), 9], [20]], [[1, (7, 4, 4), 1], [40], [(4, 20)]]], ids=str)
@torch.no_grad()                                          # so that decoding is in place
def test_trap_16_decoding_keeps_the_offset_that_a_picture_left(qwen, twin, rows):
    inputs = prompt(*rows)
    B, T = inputs["input_ids"].shape
    mask = inputs.get("attention_mask", torch.ones(B, T, dtype=torch.long))
    cache, past = qwen.new_cache(B, T + 20), twin(**for_transformers(inputs), use_cache=True).past_key_values
    qwen(**inputs, cache=cache)
    offset = theirs_of(twin, inputs)[1][:, 0]
    assert torch.equal(cache.positions, mask.sum(-1) + offset)
    assert cache.length == T and offset.min() < 0
    more = tokens(B, 20, IMAGE)
    for t in range(20):
        mask = F.pad(mask, (0, 1), value=1)
        theirs = twin(more[:, t : t + 1], attention_mask=mask, past_key_values=past, use_cache=True,
                      position_ids=(mask.sum(-1) - 1 + offset).expand(3, B)[..., None])
        ours = qwen(more[:, t : t + 1], cache=cache)
        assert error(ours, theirs.logits) < (PADDED if "attention_mask" in inputs else EXACT)
    for row, alone in one_by_one(inputs):                                                  # and as if read at once
        alone["input_ids"] = torch.cat((alone["input_ids"], more[row : row + 1]), dim=1)
        assert error(ours[row, -1], qwen(**alone)[0, -1]) < PADDED


@torch.no_grad()                                          # so that decoding is in place
def test_going_back_before_and_behind_a_picture(qwen):
    """The offset is a part of what a snapshot keeps."""
    before, picture, behind = prompt([9]), prompt([2, (12, 4), 3], seed=2), tokens(1, 6, IMAGE, seed=3)
    cache = qwen.new_cache(1, 60)
    qwen(**before, cache=cache)
    early = cache.snapshot()
    seen = qwen(**picture, cache=cache)
    late = cache.snapshot()
    right = torch.cat([qwen(x, cache=cache) for x in behind.split([1, 5], dim=1)], dim=1)
    for _ in range(2):
        cache.restore(late)
        assert cache.positions.item() == 9 + 2 + 1 + 6 + 1 + 3 and cache.length == 9 + 2 + 1 + 12 + 1 + 3
        assert error(torch.cat([qwen(x, cache=cache) for x in behind.split([1, 5], dim=1)], dim=1), right) < EXACT
    cache.restore(early)
    assert cache.positions.item() == cache.length == 9
    text = qwen(tokens(1, 3, IMAGE), cache=cache)
    assert error(text, qwen(torch.cat((before["input_ids"], tokens(1, 3, IMAGE)), dim=1))[:, 9:]) < EXACT
    cache.restore(early)
    assert error(qwen(**picture, cache=cache), seen) < EXACT


@pytest.mark.parametrize("turns", [
    [[3, (4, 6), 5], [4, (2, 12), 6]], [[3, (4, 6)], [(8, 2)], [(2, 2, 2), 1], [7]],
    [[20], [(3, 4, 4), 2], [(12, 2), 5]],
], ids=str)
@torch.no_grad()                                          # so that decoding is in place
def test_a_picture_in_a_later_turn(qwen, twin, turns):
    """The pictures of each turn come with it, and its positions go on where the cache stands."""
    whole = prompt(sum(turns, []))
    left, cache, logits = dict(whole), qwen.new_cache(1, 100), []
    for turn in turns:
        inputs = {}
        for name, x in prompt(turn).items():              # as many tokens, patches and pictures as this turn has
            along = 1 if name == "input_ids" else 0
            inputs[name], left[name] = left[name].tensor_split([x.shape[along]], dim=along)
        assert error(ours_of(qwen, inputs | {"cache": cache}), qwen.positions(
            inputs["input_ids"], None, inputs.get("image_grid_thw"), inputs.get("video_grid_thw"), cache)) == 0
        logits.append(qwen(**inputs, cache=cache))
    assert error(torch.cat(logits, dim=1), twin(**for_transformers(whole)).logits) < EXACT


@torch.no_grad()                                          # so that decoding is in place
def test_pictures_in_later_turns_of_a_padded_batch(qwen):
    first, then = prompt([3, (4, 6), 5], [2, (2, 2)]), prompt([(2, 2), 1], [6, (12, 2), 2], side="right", seed=5)
    cache = qwen.new_cache(2, 60)
    logits = [qwen(**turn, cache=cache) for turn in (first, then)]
    masks = [turn["attention_mask"].bool() for turn in (first, then)]
    for (row, one), (_, two) in zip(one_by_one(first), one_by_one(then), strict=True):
        ids = torch.cat((one["input_ids"], two["input_ids"]), dim=1)
        alone = qwen(ids, **{name: torch.cat((one[name], two[name])) for name in ("pixel_values", "image_grid_thw")})
        ours = torch.cat([turn[row, mask[row]] for turn, mask in zip(logits, masks)])
        assert error(ours, alone[0]) < PADDED


def test_packed_sequences_with_pictures(qwen):
    rows = [[3, (4, 6), 5], [20], [(2, 12), 4, (2, 2, 2)], [(2, 2)]]
    whole = prompt(sum(rows, []))
    ends = [0] + [prompt(row)["input_ids"].shape[1] for row in rows]
    ends = torch.tensor(ends).cumsum(0)
    logits, position_ids = qwen(**whole, cu_seqlens=ends), ours_of(qwen, whole | {"cu_seqlens": ends})
    padded = {**whole, "input_ids": torch.nn.utils.rnn.pad_sequence(
        [whole["input_ids"][0, a:b] for a, b in zip(ends, ends[1:])], batch_first=True)}
    padded["attention_mask"] = (torch.arange(padded["input_ids"].shape[1]) < ends.diff()[:, None]).long()
    for (_, alone), (a, b) in zip(one_by_one(padded), zip(ends, ends[1:]), strict=True):
        assert error(logits[:, a:b], qwen(**alone)) < EXACT
        assert torch.equal(position_ids[..., a:b], ours_of(qwen, alone))           # in each they start anew


# ------------------------------------------------------------------------------------------------------------ bad input


def test_errors_are_one_sentence(qwen):
    inputs = prompt([3, (4, 6), 5])
    clip = prompt([3, (2, 4, 6), 5])
    ids, pixels, grid = inputs["input_ids"], inputs["pixel_values"], inputs["image_grid_thw"]
    blind = random_qwen(small_config())
    cache = qwen.new_cache(1, 50)
    see = partial(qwen, cache=cache)
    twice = pixels.repeat(2, 1), grid.repeat(2, 1)
    wrong = [
        ("no vision tower", lambda: blind(**inputs)),
        ("no vision tower", lambda: blind.embed(**inputs)),
        ("no vision tower", lambda: blind.positions(ids, image_grid_thw=grid)),
        (r"need pixels of \(24, 96\).* these are \(20, 96\)", lambda: qwen.embed(ids, pixels[:20], grid)),
        (r"need pixels of \(24, 96\).* these are \(24, 48\)", lambda: qwen.embed(ids, pixels[:, :48], grid)),
        (r"\[\[1, 8, 3\]\] must be multiples of 2", lambda: qwen.embed(ids, pixels, torch.tensor([[1, 8, 3]]))),
        ("pictures come without their grids", lambda: see(ids, pixel_values=pixels)),
        ("clips come without their grids", lambda: see(ids, pixel_values_videos=pixels)),
        ("12 tokens, but 6 placeholders", lambda: qwen.embed(ids, *twice)),
        ("6 tokens, but 12 placeholders", lambda: qwen.embed(ids.repeat(2, 1), pixels, grid)),
        ("6 tokens, but 0 placeholders", lambda: qwen.embed(ids, None, None, pixels, grid)),
        ("placeholder tokens .* do not fit the grids", lambda: see(ids.repeat(1, 2), None, None, pixels, grid)),
        ("placeholder tokens .* do not fit the grids",
         lambda: see(ids, None, None, pixels[:16], torch.tensor([[1, 4, 4]]))),
        ("more pictures or clips than placeholders", lambda: see(ids, None, None, *twice)),
        ("more pictures or clips than placeholders",
         lambda: see(**clip | {"input_ids": clip["input_ids"][:, :-15]})),
        (r"inputs_embeds must be \(1, 16, 64\)", lambda: see(ids, inputs_embeds=torch.zeros(1, 3, 64))),
        ("Token ids run from 0 to 299", lambda: qwen.embed(ids + 290)),
    ]
    for says, call in wrong:
        with pytest.raises(ValueError, match=rf"^[^\n]*{says}[^\n]*\.$") as caught:
            call()
        assert ". " not in caught.value.args[0]
    assert cache.length == 0 and not cache.midway
