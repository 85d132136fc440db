"""The vision explorer without a browser: the model's pictures and weights, drawn in their places; mistakes are told."""

import base64
from dataclasses import replace

import numpy as np
import pixels
import pytest
import torch
from chat_support import TEMPLATE, byte_tokenizer
from support import IMAGE, VIDEO, prompt, random_qwen, seeing_config, small_config, tokens
from widget_support import in_a_notebook, kept_in, move

from minqwen import plots
from minqwen.chat import Assistant
from minqwen.errors import QwenError
from minqwen.media import Processor, Settings
from minqwen.trace import trace
from minqwen.widgets import VisionExplorer, pictures_of, vision

PARTS = [1, (4, 6), 2, (2, 4, 4), 2]                        # a picture of 2 x 3 tokens, a clip of two groups of 2 x 2
T, PICTURE, FIRST, SECOND = 29, range(2, 8), range(14, 18), range(22, 26)


@pytest.fixture(scope="module")
def model():
    return random_qwen(seeing_config())


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def traced(model, *rows, **given):
    with torch.no_grad(), trace(model) as t:
        model(**prompt(*rows) | given)
    return t


@pytest.fixture(scope="module")
def explorer(model):
    return VisionExplorer(traced(model, PARTS), head=2)


def test_pictures_come_back_whole():
    """To patches and back: nothing is lost, whatever the mean and deviation, and however many frames."""
    random = np.random.default_rng(0)
    settings = Settings(shortest_edge=1024, longest_edge=10**6, patch_size=8, image_mean=(0.5, 0.4, 0.3),
                        image_std=(0.5, 0.25, 0.2), do_sample_frames=False)
    processor = Processor(settings, settings)
    stills = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((32, 48), (80, 32))]
    films = [random.integers(0, 256, (frames, 48, 32, 3), dtype=np.uint8) for frames in (4, 3)]
    images, videos = processor.images(stills), processor.videos(films)
    for still, back in zip(stills, pictures_of(images.pixel_values, images.grid_thw, settings), strict=True):
        assert back.shape == (2, *still.shape) and (back == still).all()
    even, odd = pictures_of(videos.pixel_values, videos.grid_thw, settings)
    assert np.array_equal(even, films[0]) and np.array_equal(odd, films[1][[0, 1, 2, 2]])


def test_weights_are_the_traces(explorer):
    for layer, record in enumerate(explorer.trace.layers):
        map = record.attention[0].double().numpy()                                      # (heads, T, T)
        for t in range(T):
            heads = explorer._heads(t)[layer]
            seen = explorer.story["tokens"][t]["slice"] >= 0
            assert np.allclose(heads, map[:, :, t] if seen else map[:, t], atol=1e-6), (layer, t)
        for slice, places in enumerate((PICTURE, FIRST, SECOND)):
            for t in (T - 1, 11, 6):
                expected = map[:, places, t] if t == 6 else map[:, t, places]           # (heads, tokens)
                for head in (-1, 0, 3):
                    looked = expected[head] if head >= 0 else expected.mean(0)
                    shape = (2, 3) if slice == 0 else (2, 2)
                    assert np.allclose(explorer.weights(t, layer, head, slice), looked.reshape(shape), atol=1e-6)
                sizes = np.abs(expected).mean(0)
                assert np.allclose(explorer.weights(t, layer, -1, slice, signs=False).flat, sizes, atol=1e-6)


def test_the_row_of_a_batch(model):
    """Pictures of earlier rows are passed over, pads left out; the same row alone has the same weights."""
    rows = ([(4, 4), 3, (2, 4, 4), 1], [5, (4, 6), 2, (4, 8), 1], [2, (1, 8, 4), (6, 4), 9])
    whole = prompt(*rows)
    t = traced(model, *rows)
    assert not t.valid[1].all()
    for row in range(3):
        explorer = VisionExplorer(t, row=row)
        ids = whole["input_ids"][row][t.valid[row]]
        slices = explorer.story["slices"]
        assert [ids[slice["tokens"]].unique().item() for slice in slices] == [
            IMAGE if slice["kind"] == "picture" else VIDEO for slice in slices]
        assert sorted(sum((slice["tokens"] for slice in slices), [])) == [
            i for i, id in enumerate(ids.tolist()) if id in (IMAGE, VIDEO)]
        alone = {"input_ids": ids[None]}
        for name, grid, mine in (("pixel_values", "image_grid_thw", ([0], [1, 2], [3])),
                                 ("pixel_values_videos", "video_grid_thw", ([0], [], [1]))):
            if mine[row]:
                pieces = whole[name].split(whole[grid].prod(-1).tolist())
                alone |= {name: torch.cat([pieces[i] for i in mine[row]]), grid: whole[grid][mine[row]]}
        with trace(model) as single:
            model(**alone)
        lonely = VisionExplorer(single)
        assert lonely.story == explorer.story
        for slice in range(len(slices)):
            assert np.array_equal(lonely._frames[slice], explorer._frames[slice])
            for layer in range(4):
                assert np.allclose(lonely.weights(layer=layer, slice=slice), explorer.weights(layer=layer, slice=slice),
                                   atol=1e-5)


def test_a_conversation_that_was_going_on(model):
    """Attention layers have keys from before the record; a softmax's weights on the record's tokens sum to less."""
    inputs, cache = prompt([3, (4, 6), 4]), model.new_cache(1, 100)
    model(tokens(1, 5), cache=cache)
    with trace(model) as t:
        model(**inputs, cache=cache)
    explorer, map = VisionExplorer(t, layer=3, head=1), t.layers[3].attention[0, 1].double()
    last = inputs["input_ids"].shape[1] - 1
    assert map.shape == (last + 1, last + 6)
    places = explorer.story["slices"][0]["tokens"]
    assert np.allclose(explorer.weights().flat, map[last, 5:][places], atol=1e-6)
    assert np.allclose(explorer.weights(token=places[2]).flat, map[places, 5 + places[2]], atol=1e-6)


def blend(colour, grey):
    return (vision.VEIL * colour.astype(int) + (256 - vision.VEIL) * int(grey)) >> 8


@pytest.mark.parametrize("dark", [False, True])
def test_frame_shows_each_token_in_its_place(model, dark):
    """Every token of the picture has a colour of its own: that, its weight and its mark stand where they belong."""
    colours = np.array([[30 * i, 200 - 25 * i, 40 + 20 * i] for i in range(6)], dtype=np.uint8)
    picture = colours.reshape(2, 3, 3).repeat(8, axis=0).repeat(8, axis=1)                  # 16 x 24 pixels
    images = Processor(Settings(shortest_edge=64, patch_size=4)).images([picture])
    t = traced(model, [1, (4, 6), 2], pixel_values=images.pixel_values, image_grid_thw=images.grid_thw)
    explorer, palette = VisionExplorer(t), plots.diverging(dark)
    assert explorer.story["slices"][0]["zoom"] == 16                                         # 24 pixels become 384
    height, width, step = explorer.story["size"]
    assert (height, width, step) == (256, 784, 400)
    for layer, head, token in ((0, 0, 10), (2, -1, 10), (3, 3, 10), (1, 5, 4)):
        frame = pixels.vision_slice(explorer, token, layer, head, dark=dark)
        weights = explorer.weights(token, layer, head).flatten()
        assert frame.shape == (height, width, 4) and frame.dtype == np.uint8
        map = t.layers[layer].attention[0].double().numpy()
        map = map[:, :, token] if token == 4 else map[:, token]
        map = map[head] if head >= 0 else map.mean(0)
        limit = np.abs(map[5:] if token == 4 else map[2:8]).max()
        for at in range(6):
            y, x = at // 3 * 128, at % 3 * 128
            middle = np.s_[y + 70 : y + 90, x + 70 : x + 90]                                # inside a patch
            assert (frame[middle] == [*colours[at], 255]).all()
            shade = int(np.clip(np.floor(weights[at] / limit * 127 + 128.5), 1, 255))
            right = np.s_[y + 70 : y + 90, step + x + 70 : step + x + 90]
            r, g, b = colours[at].astype(int)
            expected = blend(palette[shade], (77 * r + 150 * g + 29 * b) >> 8)
            assert np.abs(frame[right][..., :3].astype(int) - expected).max() <= 6
            ink, paper = ((227, 230, 234), (36, 41, 47))[:: 1 if dark else -1]
            for left in (0, step):
                edge = frame[y + 64, left + x : left + x + 3, :3].tolist()
                assert (edge == [[*ink], [*ink], [*paper]]) == (token == 4 and at == 2)
        assert not frame[:, 384:400].any()                                                  # transparent in between
    line, patch, inside = (pixels.vision_slice(explorer, 10)[100, x, :3].astype(int) for x in (128, 64, 100))
    assert np.abs(line - inside).sum() > np.abs(patch - inside).sum() > 0                   # bold and thin lines


def test_overview(explorer):
    """One tile for each layer and head, its layer's kind on one scale."""
    picture, palette = pixels.vision_tiles(explorer, T - 1, 0), plots.diverging()
    (high, wide), unit = explorer.story["tile"], explorer.story["slices"][0]["unit"]
    assert picture.shape == (7 * (high + 4) - 4, 4 * (wide + 4) - 4, 4) and (high, wide, unit) == (40, 40, 13)
    maps = [record.attention[0, :, T - 1].double().numpy() for record in explorer.trace.layers]
    seen = [*PICTURE, *FIRST, *SECOND]
    limits = [max(np.abs(map[:, seen]).max() for map in maps[:3])] * 3 + [np.abs(maps[3][:, seen]).max()]
    for layer, map in enumerate(maps):
        for head in range(-1, 6):
            y, x = (5 - head) * 44, layer * 44
            tile = picture[y : y + 26, x : x + 39]
            if head >= len(map):
                assert not tile.any()
                continue
            numbers = (map[head] if head >= 0 else map.mean(0))[PICTURE].reshape(2, 3)
            shade = np.clip(np.floor(numbers / limits[layer] * 127 + 128.5), 1, 255).astype(int)
            assert np.abs(tile[6::13, 6::13, :3].astype(int) - palette[shade]).max() <= 6
            assert (tile == tile[6::13, 6::13].repeat(13, 0).repeat(13, 1)).all()
    # of a piece of a picture: the strongest look from the text behind it
    picture = pixels.vision_tiles(explorer, PICTURE[1], 0)
    later = [t for t in range(PICTURE[1] + 1, T) if t not in seen]
    maps = [record.attention[0, :, later, PICTURE[1]].double().numpy() for record in explorer.trace.layers]
    top = maps[3][2][np.abs(maps[3][2]).argmax()] / np.abs(maps[3]).max()
    colour = palette[int(np.floor(top * 127 + 128.5))].astype(int)
    tile = picture[3 * 44 : 3 * 44 + 26, 3 * 44 : 3 * 44 + 39]
    assert (tile == tile[0, 0]).all() and np.abs(tile[0, 0, :3] - colour).max() <= 6


def test_large_pictures_are_sent_smaller():
    frames = np.random.default_rng(1).integers(0, 256, (1, 1280, 1920, 3), dtype=np.uint8)
    small = vision._reduced(frames, 16)
    assert small.shape == (1, 320, 480, 3)                                                  # the least divisor: 4
    assert np.abs(small[0, 5, 7] - frames[0, 20:24, 28:32].mean((0, 1))).max() <= 0.5
    assert vision._reduced(frames[:, :640, :640], 16).shape == (1, 640, 640, 3)


def test_a_chat():
    """From messages, and the trace of an answer: shown are the pictures as they were prepared, in order of reading."""
    tokenizer = byte_tokenizer(TEMPLATE)
    ids = {f"{name}_token_id": tokenizer.added_tokens[f"<|{token}|>"] for name, token in (
        ("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"), ("vision_end", "vision_end"))}
    qwen = Assistant(random_qwen(replace(seeing_config(), **ids)), tokenizer)
    settings = Settings(shortest_edge=256, longest_edge=4096, patch_size=4, image_mean=(0.2, 0.3, 0.4))
    qwen.processor = Processor(settings, replace(settings, do_sample_frames=False))
    random = np.random.default_rng(0)
    still, film = random.integers(0, 256, (32, 24, 3), np.uint8), random.integers(0, 256, (4, 16, 24, 3), np.uint8)
    parts = [{"type": "video", "video": film}, {"type": "text", "text": "and "}, {"type": "image", "image": still}]
    messages = [{"role": "user", "content": parts}]
    explorer = VisionExplorer(qwen, messages)
    assert [(v["kind"], v["slice"], v["rows"], v["columns"]) for v in explorer.story["slices"]] == [
        ("clip", 0, 2, 3), ("clip", 1, 2, 3), ("picture", 0, 4, 3)]
    assert np.array_equal(explorer._frames[0], film[:2]) and np.array_equal(explorer._frames[1], film[2:])
    assert np.array_equal(explorer._frames[2], [still, still])                          # beside a clip: its whole slice
    tokens = explorer.story["tokens"]
    assert "".join(token["text"] for token in tokens if token["slice"] < 0).count("<|vision_start|>") == 3
    assert all(token["special"] for token in tokens if token["slice"] >= 0)

    with trace(qwen) as t:
        qwen.chat(messages, max_new_tokens=3, prefill_chunk=10)
    answer = VisionExplorer(t)
    assert answer.story["tokens"][: len(tokens)] == tokens and len(answer.story["tokens"]) == len(tokens) + 2
    for layer in range(4):
        before, alone = answer.weights(len(tokens) - 1, layer, -1, 2), explorer.weights(layer=layer, slice=2)
        assert np.allclose(before, alone, atol=1e-5)


def test_where_it_begins(model):
    t = traced(model, PARTS)
    explorer = VisionExplorer(t)
    assert (explorer.token, explorer.layer, explorer.head, explorer.signs) == (T - 1, 3, -1, True)
    look = t.layers[3].attention[0, :, T - 1].mean(0)
    assert explorer.slice == int(np.argmax([look[list(places)].sum() for places in (PICTURE, FIRST, SECOND)]))
    assert VisionExplorer(t, token=SECOND[0]).slice == 2
    assert VisionExplorer(t, slice=1).position == ("token", "layer", "head", "slice", "signs")
    several = random_qwen(seeing_config(num_hidden_layers=8))
    t = traced(several, PARTS)
    shares = {i: t.layers[i].attention[0, :, -1][:, [*PICTURE, *FIRST, *SECOND]].sum().item() for i in (3, 7)}
    assert VisionExplorer(t).layer == max(shares, key=shares.get)
    only_delta = random_qwen(seeing_config(layer_types=["linear_attention"] * 4))
    assert VisionExplorer(traced(only_delta, PARTS)).layer == 3


def test_pages_come_at_once_if_they_are_small(model, monkeypatch):
    t = traced(model, PARTS)
    small = VisionExplorer(t)
    assert set(small.pages) == {*(f"token {i}" for i in range(T)), "slice 0", "slice 1", "slice 2"}
    assert small.story["all_here"] and len(small.pages["token 3"]) == small.story["token_bytes"] == 4 * T * (3 * 6 + 4)
    monkeypatch.setattr(VisionExplorer, "at_once", sum(map(len, small.pages.values())) - 1)
    large = VisionExplorer(t, token=9, slice=2)
    assert set(large.pages) == {"token 9", "slice 2"} and not large.story["all_here"]
    sent = []
    monkeypatch.setattr(large, "send", lambda message, buffers: sent.append((message, buffers)))
    for name in ("token 5", "slice 0"):
        large._handle_custom_msg({"want": name}, [])
        assert sent.pop() == ({"page": name}, [small.pages[name]])


def test_position(model, explorer):
    moved = VisionExplorer(explorer.trace, token=-2, layer=1, head=5, slice=1)
    assert np.array_equal(pixels.vision_slice(moved), pixels.vision_slice(moved, T - 2, 1, 5, 1, True))
    moved.layer = 3                                                                         # where there are four heads
    assert moved.head == 3
    move(moved, head=5, layer=0)
    assert (moved.layer, moved.head) == (0, 5) and moved.problem == ""
    for where, message in (({"layer": 4}, "no layer 4 to explore; the last is 3"), ({"token": T}, "no token 29"),
                           ({"head": -2}, r"no head -2 to explore; the last is 3 \(-1 is the mean of all\)"),
                           ({"slice": 3}, "no slice 3 to explore; the last is 2"),
                           ({"layer": 3, "head": 4}, "no head 4")):
        with pytest.raises(QwenError, match=message):
            explorer.weights(**where)
        with pytest.raises(QwenError, match=message):
            VisionExplorer(explorer.trace, **where)
    with pytest.raises(QwenError, match="no token -30"):
        VisionExplorer(explorer.trace, token=-30)


def test_what_it_needs_is_told(model, explorer):
    for wrong in ((model,), (explorer.trace, "text")):
        with pytest.raises(QwenError, match="a model and messages with a picture"):
            VisionExplorer(*wrong)
    for blind in (traced(model, [9]), trace(random_qwen(small_config())).run(tokens(1, 3))):
        with pytest.raises(QwenError, match="no picture or clip in this"):
            VisionExplorer(blind)
    with pytest.raises(QwenError, match="no picture or clip in this"):                      # the other row has one
        VisionExplorer(traced(model, [(4, 4), 1], [5]), row=1)


def test_errors_in_callbacks_are_shown(model, explorer):
    broken = VisionExplorer(explorer.trace)
    broken.observe(lambda change: 1 / 0, "slice")
    slice = (broken.slice + 1) % 3
    move(broken, slice=slice)
    assert broken.problem == "ZeroDivisionError: division by zero" and broken.slice == slice
    broken._handle_custom_msg({"want": "token 99"}, [])
    assert broken.problem.startswith("IndexError")


def test_in_a_notebook(explorer):
    assert in_a_notebook(explorer) == "VisionExplorer(29 tokens, 1 pictures and 1 clips in 3 slices, 4 layers)"


def test_picture_is_described(explorer, figures):
    explorer.picture(token=T - 1, layer=1, head=2, slice=0)
    explorer.picture(token=PICTURE[3], layer=3, head=-1, slice=1, alt="Mine.")
    (figure, alt), (other, mine) = figures
    assert alt.startswith("A picture with its 2 x 3 tokens numbered") and "layer 1, head 2, token 29 of 29" in alt
    assert mine == "Mine."
    drawn = [image.get_array() for ax in figure.axes for image in ax.images if image.get_array().shape == (2, 3)]
    assert np.allclose(drawn[0], explorer.weights(T - 1, 1, 2, 0))
    assert np.allclose(drawn[1:], [explorer.weights(T - 1, layer, -1, 0) for layer in range(4)])
    assert "who looks at token 3" in other.axes[2].get_title()


def test_page_holds_everything(explorer, tmp_path):
    kept = kept_in(explorer.to_html(tmp_path / "page.html"))
    assert kept["story"]["stops"] == list(range(T)) and len(kept["pages"]) == T + 3
    assert [kept[name] for name in explorer.position] == [getattr(explorer, name) for name in explorer.position]
    assert base64.b64decode(kept["pages"]["token 7"]) == explorer.page("token 7")
    assert base64.b64decode(kept["pages"]["slice 2"]) == explorer._frames[2].tobytes()

    kept = kept_in(explorer.to_html(tmp_path / "less.html", tokens=[4, -3]))
    assert kept["story"]["stops"] == [4, T - 3] and kept["token"] == T - 3 and len(kept["pages"]) == 5
    with pytest.raises(QwenError, match="no token 29"):
        explorer.to_html(tmp_path / "less.html", tokens=[T])
    with pytest.raises(QwenError, match="at least one token"):
        explorer.to_html(tmp_path / "less.html", tokens=[])
