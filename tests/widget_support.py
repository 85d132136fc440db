"""What the tests of every explorer ask: what a page to share holds, and what a move in the browser does."""

import base64
import io
import json
import re

from PIL import Image


def kept_in(page):
    """The state in a page that `to_html` wrote (its path). The page must be closed in itself and load nothing."""
    text = page.read_text(encoding="utf-8")
    assert text.count("</script>") == 2 and not re.search(r"(src|href)=|https?://|@import|url\(", text)
    return json.loads(re.search(r'type="application/json">(.*?)</script>', text)[1])


def move(widget, **state):
    """Tell the widget, as the browser does, that these of its traits have changed."""
    data = {"method": "update", "state": state, "buffer_paths": []}
    widget._handle_msg({"content": {"data": data}, "buffers": []})


def in_a_notebook(explorer):
    """What a notebook keeps of it as text; beside it stand the live widget, and a picture with its description."""
    data, metadata = explorer._repr_mimebundle_(include=None, exclude=None)
    assert data.keys() == {"text/plain", "image/png", "application/vnd.jupyter.widget-view+json"}
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert picture.format == "PNG" and 300 < picture.width <= 1200
    on_paper = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    assert len(on_paper.convert("L").getcolors()) > 10, "nothing is drawn"
    assert metadata["image/png"] == {"alt": explorer.still()[1]}
    return data["text/plain"]
