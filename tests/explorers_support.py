"""Every explorer there is, and a page with some of them on it, as in a lesson."""

import base64
import json

from chat_support import byte_tokenizer
from support import random_qwen, shape_of_0_8b, small_config, tokens
from test_experts_widget import mixture, shape_of_35b
from test_rollouts_widget import answered
from test_training_widget import a_run

import minqwen
from conftest import REPOSITORY
from minqwen.chat import Assistant
from minqwen.edits import Edit

STORY = "Ann has a red cup. Bob has a blue hat. Ann now has a gold key. What does Ann have?"
WIDTH, HEIGHT = 1000, 820

# As a notebook does it: each explorer's own sheet goes to the head, its module is imported by itself, and a model that
# answers to nobody stands for the kernel's.
PAGE = """<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<style>
  body { margin: 0; background: light-dark(#fff, #111); }
  main { position: absolute; left: 0; width: %(width)dpx; } main.away { display: none; }
</style>
<script type="module">
window.models = [];
window.sent = [];                                           // what goes to the kernel
const shown = JSON.parse(atob("%(shown)s"));
for (const [i, { module, css, state, away }] of shown.entries()) {
  const el = document.createElement("main"), style = document.createElement("style"), listeners = {};
  el.style.top = `${i * 1200}px`;
  el.className = away ? "away" : "";
  style.textContent = css;
  document.head.append(style);
  document.body.append(el);
  const { default: explorer } = await import("data:text/javascript;base64," + module);
  window.models.push({
    get: (name) => state[name],
    set: (name, value) => { state[name] = value; (listeners[`change:${name}`] ?? []).forEach((go) => go()); },
    on: (event, go) => (listeners[event] ??= []).push(go),
    off: () => {}, save_changes: () => {}, send: (message) => window.sent.push(message),
  });
  explorer.render({ el, model: window.models.at(-1) });
}
document.body.dataset.ready = "yes";
</script>"""

def media(kind, name, question):
    part = {"type": kind, kind: str(REPOSITORY / "data" / "media" / name)}
    return [{"role": "user", "content": [part, {"type": "text", "text": question}]}]


def drafting():
    """As many drafts and tokens as there is room for, drawn by a random model that never ends, with coins."""
    tokenizer = byte_tokenizer()
    tokenizer.stop_ids = set()
    config = small_config(vocab_size=tokenizer.vocab_size, mtp_num_hidden_layers=1)
    return minqwen.DraftExplorer(Assistant(random_qwen(config), tokenizer), STORY, draft_tokens=8, most=8, token=150,
                                 max_new_tokens=160, temperature=0.5)


def every_explorer():
    """name -> explorer: each there is, on the shipped model."""
    qwen = minqwen.load()
    chat = minqwen.ChatPanel(qwen)
    chat.turns = [{"who": "you", "parts": [{"kind": "text", "text": STORY}], "pictures": [], "stopped": False},
                  {"who": "model", "parts": [{"kind": "thinking", "text": "Ann ..."},
                                             {"kind": "text", "text": "a gold key"}], "pictures": [], "stopped": True}]
    return {
        "state": minqwen.StateExplorer(qwen, STORY, token=12, layer=6, head=1, asked=3),
        "two texts": minqwen.StateExplorer.compare(qwen, STORY, STORY.replace("gold key", "green hat")),
        "attention": minqwen.AttentionExplorer(qwen, STORY, token=9, layer=3, head=1),
        "map": minqwen.AttentionExplorer(qwen, STORY, token=9, layer=3, head=1, opened=True),
        "gates": minqwen.GateExplorer(qwen, STORY, token=9, layer=4, head=1),
        "experts": minqwen.ExpertExplorer(random_qwen(mixture()), tokens(1, 40), token=9, layer=2, head=1),
        "vision": minqwen.VisionExplorer(qwen, media("image", "three_shapes.png", "Which shape is red?"), head=1),
        "clip": minqwen.VisionExplorer(qwen, media("video", "moving.webp", "Which way does it move?"), head=1),
        "cost": minqwen.ContextCost(context=2 ** 20),
        "training": minqwen.TrainingExplorer(a_run(), snapshot=3, token=5, layer=4),
        "drafts": minqwen.DraftExplorer(qwen, STORY, token=2),
        "quant": minqwen.QuantExplorer(qwen, "mtp.fc.weight", row=50, column=200),
        "rollouts": answered(),
        "lab": minqwen.MemoryLab(qwen, STORY, edits=[Edit("beta", token=20)], thinking=False, max_new_tokens=12),
        "chat": chat,
    }


def larger_explorers():
    """name -> explorer: those whose size goes with a model's, on the shape of Qwen3.5-0.8B, and a long answer."""
    large = random_qwen(shape_of_0_8b())
    return {
        "quant of 0.8B": minqwen.QuantExplorer(large, "model.language_model.layers.0.mlp.down_proj.weight"),
        "many drafts": drafting(),
        "state of 0.8B": minqwen.StateExplorer(large, tokens(1, 60)),
        "attention of 0.8B": minqwen.AttentionExplorer(large, tokens(1, 60)),
        "map of 0.8B": minqwen.AttentionExplorer(large, tokens(1, 60), opened=True),
        "gates of 0.8B": minqwen.GateExplorer(large, tokens(1, 60)),
        "experts of 35B": minqwen.ExpertExplorer(random_qwen(shape_of_35b()), tokens(1, 60)),
    }


def opened(page, tmp_path, *explorers, away=False, width=WIDTH):
    """A page with these explorers on it, one below the other -> their roots."""
    shown = []
    for explorer in explorers:
        state = {name: getattr(explorer, name) for name in ("story", "problem", *explorer.position)}
        state["pages"] = {name: base64.b64encode(data).decode() for name, data in explorer.pages.items()}
        module = base64.b64encode(explorer._esm.encode()).decode()
        shown.append({"module": module, "css": explorer._css, "state": state, "away": away})
    text = base64.b64encode(json.dumps(shown).encode("ascii")).decode()
    (tmp_path / "page.html").write_text(PAGE % {"width": width, "shown": text}, encoding="utf-8")
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("count => document.body.dataset.ready && (document.querySelector('.away') || "
                           "document.querySelectorAll('section[data-drawn]').length === count)", arg=len(shown))
    return page.locator("section").all()
