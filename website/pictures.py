"""The README's pictures of the explorers, as they are now: `python website/pictures.py` writes them into docs.

Where each begins is looked for in the shipped model: a memory that gives up a cup for a key, a head that looks at a
circle.
"""

import io
import shutil
import tempfile
from pathlib import Path

import torch
from PIL import Image
from playwright.sync_api import sync_playwright
from torch.nn import functional as F

import minqwen

DOCS = Path(__file__).resolve().parent.parent / "docs"
STORY = "Ann has a red cup. Bob has a blue hat. Ann now has a gold key. What does Ann have?"
QUESTION = [{"role": "user", "content": [{"type": "image", "image": str(minqwen.example("three_shapes.png"))},
                                         {"type": "text", "text": "What colour is the circle?"}]}]
CIRCLE = [0, 1, 6, 7]                            # the tokens of the picture, 6 x 6, that it lies on


def state_explorer(qwen) -> minqwen.StateExplorer:
    """The memory whose answer to the key of "key" is the cup before that is read, and then no longer."""
    t = minqwen.trace(qwen).run(STORY)
    cup, key = (t.tokens.index(word) for word in (" cup", " key"))

    def gives_up(layer, head):
        k = layer.k[0, key, head // (layer.v.shape[2] // layer.k.shape[2])]
        before, after = (F.cosine_similarity(k @ S, layer.v[0, cup, head], dim=0)
                         for S in (layer.decayed(key, head), layer.state(key, head)))
        return before - after

    places = [(layer, head) for layer in t.delta_layers for head in range(layer.v.shape[2])]
    layer, head = max(places, key=lambda place: gives_up(*place))
    return minqwen.StateExplorer(t, token=key, layer=layer.index, head=head)


def vision_explorer(qwen) -> minqwen.VisionExplorer:
    """The attention head by which the last token of the question puts most of its weight on the circle."""
    t = minqwen.trace(qwen).run(QUESTION)
    seen = (t.input_ids[0] == qwen.config.image_token_id).nonzero()[CIRCLE, 0]
    places = [(layer, head) for layer in t.attention_layers for head in range(layer.q.shape[1])]
    layer, head = max(places, key=lambda place: place[0].attention[0, place[1], -1, seen].sum())
    return minqwen.VisionExplorer(t, layer=layer.index, head=head)


def take(page, explorer, path: Path) -> None:
    """A picture of an explorer's page, by a browser's page."""
    with tempfile.TemporaryDirectory() as folder:
        page.goto(explorer.to_html(Path(folder) / "page.html").as_uri())
        page.add_style_tag(content="body { margin: 20px }")
        page.wait_for_selector("[data-drawn]")
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    picture.quantize(method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def main() -> None:
    qwen = minqwen.load(dtype=torch.float32)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 100}, device_scale_factor=1.5)
        for explorer in (state_explorer, vision_explorer):
            take(page, explorer(qwen), DOCS / f"{explorer.__name__}.png")
        browser.close()


if __name__ == "__main__":
    main()
