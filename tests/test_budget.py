"""What training takes, on paper: said once more by hand."""

import pytest

from minqwen.budget import DAY, budget, describe
from minqwen.config import OFFICIAL_SIZES, Config
from minqwen.errors import QwenError
from minqwen.widgets.calculator import Calculator


def test_operations_are_six_for_each_parameter_and_what_grows_with_the_text():
    config = Config.named("Qwen3.5-9B")
    t = config.text_config
    found = budget(config, 1e12, length=4096, again=False)
    lookup = t.vocab_size * t.hidden_size                   # the embedding is read, and not multiplied with
    plain = 6 * (found.parameters - lookup) * 1e12
    rule = 3 * 24 * 7 * 32 * 128 * 128 * 1e12
    looking = 3 * 8 * 4 * 16 * 256 * 2048 * 1e12            # 8 layers, 16 heads, 2,048 tokens in the mean
    assert found.operations == pytest.approx(plain + rule + looking, rel=1e-3)
    assert budget(config, 1e12).operations == pytest.approx(found.operations * 4 / 3)
    longer = budget(config, 1e12, length=8192, again=False)
    assert longer.operations - found.operations == pytest.approx(looking)


def test_days_memory_and_wire():
    config = Config.named("Qwen3.5-0.8B")
    found = budget(config, 2e12, gpus=8, in_pass=16_384, peak=1e15, used=0.5, wire=25e9)
    assert found.compute == pytest.approx(found.operations / (8 * 0.5e15) / 86_400)
    assert found.memory == 18 * found.parameters / 8
    assert found.sent == 8 * found.parameters * 7 / 8
    assert found.wire == pytest.approx(2e12 / (8 * 16_384) * found.sent / 25e9 / DAY)
    assert found.days == max(found.compute, found.wire)
    assert budget(config, 2e12, gpus=1).wire == 0
    assert budget(config, 1e12, in_pass=256).days == budget(config, 1e12, in_pass=256).wire


@pytest.mark.parametrize("name", OFFICIAL_SIZES)
def test_it_is_said_in_words(name):
    said = describe(name, tokens=36e12, gpus=1024)
    assert said.startswith(f"{name}: ") and "36 trillion tokens, 1,024 GPUs" in said and "arithmetic decides" in said


@pytest.mark.parametrize("number, says", [
    ({"gpus": 0}, "gpus must be a number above 0, not 0"), ({"gpus": 0.5}, "gpus must be 1 or more, not 0.5"),
    ({"tokens": float("nan")}, "tokens must be a number above 0, not n"), ({"peak": float("inf")}, "peak must be a n"),
    ({"used": 40}, "used is a share, at most 1, and not 40"), ({"tokens": "1e12"}, "tokens must be a .*, not '1e12'"),
    ({"length": None}, "length must be a number above 0, not None"), ({"wire": True}, "wire must be a number above 0"),
])
def test_numbers_that_cannot_be(number, says):
    with pytest.raises(QwenError, match=f"^{says}[^.]*[.]$"):
        budget(Config.named("Qwen3.5-0.8B"), **{"tokens": 1e12} | number)


def test_the_calculator_says_what_is_chosen():
    calculator = Calculator()
    assert describe("Qwen3.5-0.8B", 1e12, 64) in calculator.answer.value
    calculator.choices["name"].value, calculator.choices["wire"].value = "Qwen3.5-9B", 1e9
    assert describe("Qwen3.5-9B", 1e12, 64, wire=1e9) in calculator.answer.value
    assert "the wire decides" in calculator.answer.value
    data, metadata = calculator._repr_mimebundle_()
    assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= data.keys() and metadata["image/png"]["alt"]
    days = [line.get_ydata() for line in calculator.still()[0].axes[0].lines]
    assert len(days) == 4 and all(line[-1] > line[0] for line in days)
