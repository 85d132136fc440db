"""The explorer of quantization without a browser: it rounds as the package does; its pictures; mistakes are told."""

import base64

import numpy as np
import pixels
import pytest
import torch
from support import random_qwen, small_config
from widget_support import in_a_notebook, kept_in, move

import minqwen
from minqwen import plots
from minqwen.errors import QwenError
from minqwen.quantize import rounded
from minqwen.widgets import QuantExplorer, quant

N, K = 70, 64
NAME = "model.language_model.layers.0.mlp.gate_proj.weight"


def matrix(seed=0) -> torch.Tensor:
    """Rows of different sizes, an outlier here and there, a group of zeros."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(N, K, generator=random) * torch.rand(N, 1, generator=random)
    weight[::7, 5] *= 9
    weight[3, :8] = 0
    return weight


@pytest.fixture(scope="module")
def explorer():
    return QuantExplorer(matrix(), row=3, column=20, bits=3, group_size=16)


def test_it_rounds_as_the_package_does(explorer):
    for bits in (2, 3, 4, 8):
        for size in (8, 16, 32, 64):
            right = rounded(matrix(), bits, size).dequantize()
            assert np.array_equal(explorer.becomes(bits, size), right)
            off = (matrix() - right).norm() / matrix().norm()
            assert explorer.lost(bits, size) == pytest.approx(off.item(), rel=1e-5)
    plain = QuantExplorer(matrix(), search=False)
    assert np.array_equal(plain.becomes(2, 16), rounded(matrix(), 2, 16, search=False).dequantize())
    assert plain.story["parts"] == [1.0] and plain.lost(2, 16) > explorer.lost(2, 16)
    numbers, becomes, scale = explorer.group()
    assert np.array_equal(numbers, matrix()[3, 16:32]) and np.array_equal(becomes, explorer.becomes()[3, 16:32])
    assert np.allclose(becomes / scale, np.round(becomes / scale), atol=1e-5)


def test_weights_of_a_model():
    """By name; in bfloat16, too; the size of the groups is then the largest that fits, up to 128."""
    model = random_qwen(small_config())
    there = QuantExplorer(model, NAME)
    weight = dict(model.named_parameters())[NAME]
    assert np.array_equal(there.weight, weight.detach()) and there.story["name"] == NAME
    assert there.size == max(size for size in there.story["sizes"] if size <= 128)
    half = QuantExplorer(model.bfloat16(), NAME)
    assert np.array_equal(half.weight, weight.detach().float()) and half.weight.dtype == torch.float32


def test_pictures_at_every_place(explorer):
    """Each number has its colour; a number that is off by more than a fifteenth of the largest has the full one."""
    palette = np.insert(plots.diverging(), 3, 255, axis=1).astype(int)
    across, down = explorer.story["cell"]
    pictures = set()
    for bits in (2, 3, 4, 8):
        for row in (0, 60):
            first, limit = row // quant.ROWS * quant.ROWS, explorer.story["limit"]
            numbers = matrix()[first : first + quant.ROWS].numpy()
            for kind, shown, most in (("numbers", numbers, limit),
                                      ("errors", numbers - explorer.becomes(bits, 16)[first : first + quant.ROWS],
                                       limit / 15)):
                picture = pixels.quant_rows(explorer, row, bits, 16, kind)
                assert picture.shape == (quant.ROWS * down, K * across, 4)
                cells = picture[::down, ::across].astype(int)
                assert (cells[len(numbers) :] == 0).all()
                shade = np.abs(cells[: len(numbers), :, None] - palette[1:]).sum(-1).argmin(-1) + 1
                assert np.abs((shade - 128) / 127 * most - shown.clip(-most, most)).max() < most / 60
            pictures.add(pixels.quant_rows(explorer, row, bits, 16, "errors").tobytes())
    assert len(pictures) == 8
    assert len({pixels.quant_group(explorer, 5, 20, bits, size).tobytes() for bits in (2, 3, 4, 8)
                for size in (8, 16, 32, 64)}) == 16


def test_position(explorer):
    assert [getattr(explorer, name) for name in explorer.position] == [3, 20, 3, 16]
    moved = QuantExplorer(matrix())
    move(moved, row=50, column=63, bits=2, size=8)
    assert np.array_equal(pixels.quant_group(moved), pixels.quant_group(explorer, 50, 56, 2, 8))
    for wrong, match in (({"row": N}, "no row 70 to explore; the last is 69"),
                         ({"column": -1}, "no column -1 to explore; the last is 63"),
                         ({"bits": 5}, "bits 5 cannot be shown of this matrix; there are 2, 3, 4, 8"),
                         ({"group_size": 128}, "group size 128 cannot be shown .* 8, 16, 32, 64")):
        with pytest.raises(QwenError, match=match):
            QuantExplorer(matrix(), **wrong)
    for odd in ("4", True, 4.0, None):
        for name in ("bits", "group_size", "row", "column")[: 4 if odd is not None else 1]:
            with pytest.raises(QwenError, match="(bits|size|row|column) is a whole number, and not "):
                QuantExplorer(matrix(), **{name: odd})
    assert QuantExplorer(matrix(), bits=np.int64(4), row=np.int32(3)).row == 3
    with pytest.raises(QwenError, match="bits 16 cannot be shown"):
        explorer.lost(bits=16)
    with pytest.raises(QwenError, match="bits is a whole number, and not '4'"):
        explorer.group(bits="4")


def test_what_it_needs_is_told():
    model = random_qwen(small_config())
    for wrong in ((), (7, NAME), (model, None), ("nano", NAME), (matrix(), NAME)):
        with pytest.raises((QwenError, TypeError), match="Give a model and the name of a weight|missing"):
            QuantExplorer(*wrong)
    with pytest.raises(QwenError, match="no weight 'gate_proj' in this model; one is called '.*'"):
        QuantExplorer(model, "gate_proj")
    with pytest.raises(QwenError, match=r"has the shape \(\d+,\)"):
        QuantExplorer(model, "model.language_model.norm.weight")
    with pytest.raises(QwenError, match=r"groups of 8 numbers, and this tensor has the shape \(4, 12\)"):
        QuantExplorer(torch.zeros(4, 12))
    with pytest.raises(QwenError, match="rows of 4,096, and this tensor"):
        QuantExplorer(torch.zeros(1, 8192))
    with pytest.raises(QwenError, match="is quantized already: load the model in bfloat16"):
        QuantExplorer(minqwen.quantize(model, bits=8), NAME)


def test_nothing_but_zeros():
    zeros = QuantExplorer(torch.zeros(8, 16))
    assert zeros.lost() == 0 and pixels.quant_group(zeros).any()


def test_pages(explorer, monkeypatch):
    assert list(explorer.pages) == ["rows 0", "rows 1"]
    told = np.frombuffer(explorer.pages["rows 1"], "<f4").reshape(-1, K)
    assert np.array_equal(told, matrix()[quant.ROWS :])
    monkeypatch.setattr(QuantExplorer, "at_once", 100)
    large, sent = QuantExplorer(matrix(), row=60), []
    assert list(large.pages) == ["rows 1"]
    monkeypatch.setattr(large, "send", lambda message, buffers: sent.append((message, buffers)))
    large._handle_custom_msg({"want": "rows 0"}, [])
    assert sent == [({"page": "rows 0"}, [explorer.pages["rows 0"]])]
    large._handle_custom_msg({"want": "rows 9"}, [])
    assert large.problem == "QwenError: There is no row 432 to explore; the last is 69."


def test_errors_in_callbacks_are_shown():
    explorer = QuantExplorer(matrix())
    explorer.observe(lambda change: 1 / 0, "row")
    move(explorer, row=2)
    assert explorer.problem == "ZeroDivisionError: division by zero" and explorer.row == 2


def test_in_a_notebook(explorer):
    assert in_a_notebook(explorer) == "QuantExplorer(a matrix: 70 x 64)"


def test_picture_is_described(explorer, figures):
    explorer.picture(row=60, column=20, bits=2)
    explorer.picture(alt="Mine.")
    (figure, alt), (_, mine) = figures
    assert alt.startswith("22 rows of a matrix as colours") and "2 bits with a scale for 16" in alt and mine == "Mine."
    assert f"{explorer.lost(2, 16):.1%} of the whole" in alt
    assert np.array_equal(figure.axes[0].images[0].get_array(), matrix()[48:])
    figure.canvas.draw()


def test_page_holds_everything(explorer, tmp_path):
    kept = kept_in(explorer.to_html(tmp_path / "page.html"))
    assert list(kept["pages"]) == explorer.page_names()
    assert base64.b64decode(kept["pages"]["rows 0"]) == explorer.page("rows 0")
    assert [kept[name] for name in explorer.position] == [getattr(explorer, name) for name in explorer.position]
