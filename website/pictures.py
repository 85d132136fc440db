"""The README's pictures of the explorers, as they are now: `python website/pictures.py` writes them into docs.

Where each begins is looked for in the shipped model: a memory that gives up a cup for a key, a head that looks at a
circle. Each is taken on a light page and on a dark one; and the memory once more, moving, while it reads the story.
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
SECONDS, LAST = 1, 4                           # of a token in the moving picture, and of the last one
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


def shot(page) -> Image.Image:
    """What a page shows, in few colours."""
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    return picture.quantize(method=Image.Quantize.MAXCOVERAGE)


def show(page, explorer, scheme: str) -> None:
    """Open an explorer's page, light or dark."""
    with tempfile.TemporaryDirectory() as folder:
        page.emulate_media(color_scheme=scheme)
        page.goto(explorer.to_html(Path(folder) / "page.html").as_uri())
        page.add_style_tag(content="body { margin: 20px }")
        page.wait_for_selector("[data-drawn]")


def film(page, explorer, path: Path) -> None:
    """A moving picture of the open page: its token goes from the first to the last, and rests there."""
    tokens, pictures = len(explorer.trace.tokens), []
    for token in range(tokens):
        page.eval_on_selector("[data-moves=token]", "(range, token) => { range.value = token; "
                              "range.dispatchEvent(new Event('input')); }", token)
        page.wait_for_selector(f"[data-drawn^='{token} ']")
        pictures.append(shot(page).convert("RGB"))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], loop=0, lossless=True, method=6,
                     minimize_size=True, duration=(tokens - 1) * [1000 * SECONDS] + [1000 * LAST])


def main() -> None:
    qwen = minqwen.load(dtype=torch.float32)
    explorers = state_explorer(qwen), vision_explorer(qwen)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        sharp, plain = (browser.new_page(viewport={"width": 1000, "height": 100}, device_scale_factor=scale)
                        for scale in (1.5, 1))
        for scheme, ending in (("light", ""), ("dark", "_dark")):
            for explorer, name in zip(explorers, ("state_explorer", "vision_explorer")):
                show(sharp, explorer, scheme)
                shot(sharp).save(DOCS / f"{name}{ending}.png", optimize=True)
            show(plain, explorers[0], scheme)
            film(plain, explorers[0], DOCS / f"state_explorer{ending}.webp")
        browser.close()


if __name__ == "__main__":
    main()
