"""What the kit saves is what TRL takes: two steps of GRPO on nano, with a reward of one's own."""

import pytest
import torch
from support import error, tokens

import minqwen
from minqwen.chat import NANO

pytest.importorskip("transformers", minversion="5.23")
trl = pytest.importorskip("trl", reason="TRL is not installed: pip install trl")


def nearness(completions, answer, **_):
    """How near a sum is; 0 for what is none."""
    said = [completion[0]["content"] for completion in completions]
    return [1 / (1 + abs(int(text) - right)) if text.isdecimal() else 0.0 for text, right in zip(said, answer)]


@pytest.mark.filterwarnings("ignore")                   # of what TRL itself calls by old names
def test_two_steps_of_grpo(tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    model = AutoModelForImageTextToText.from_pretrained(NANO, dtype=torch.float32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sums = [(100 + 37 * n, 800 - 41 * n) for n in range(8)]
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": f"What is {a} + {b}?"}], "answer": a + b}
                              for a, b in sums])
    settings = trl.GRPOConfig(
        output_dir=str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=4, num_generations=4,
        max_completion_length=8, temperature=1.5, learning_rate=1e-4, beta=0.0, seed=0, use_cpu=True, bf16=False,
        logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True)
    trainer = trl.GRPOTrainer(model=model, reward_funcs=nearness, args=settings, train_dataset=data,
                              processing_class=AutoTokenizer.from_pretrained(NANO))
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(steps) == 2 and all(entry["reward"] > 0 and entry["reward_std"] > 0 for entry in steps)
    assert all(0 < entry["grad_norm"] < float("inf") for entry in steps)
    learnt = {name for name, p in model.named_parameters() if not p.equal(before[name])}
    assert {"model.language_model.layers.0.linear_attn.A_log", "model.language_model.embed_tokens.weight"} <= learnt
    assert not any("visual" in name for name in learnt)

    trainer.save_model(str(tmp_path / "out"))
    ours, ids = minqwen.load(tmp_path / "out"), tokens(1, 30, 800)
    with torch.no_grad():
        assert error(ours.model(ids), model.eval()(ids).logits) < 2e-5
    assert ours.chat("What is 12 + 30?").isdecimal()
