"""What the tests of every explorer ask: what a page to share holds, and what a move in the browser does."""

import json
import re


def kept_in(page):
    """The state in a page that `to_html` wrote (its path). The page must be closed in itself and load nothing."""
    text = page.read_text(encoding="utf-8")
    assert text.count("</script>") == 2 and not re.search(r"(src|href)=|https?://|@import|url\(", text)
    return json.loads(re.search(r'type="application/json">(.*?)</script>', text)[1])


def move(widget, **state):
    """Tell the widget, as the browser does, that these of its traits have changed."""
    data = {"method": "update", "state": state, "buffer_paths": []}
    widget._handle_msg({"content": {"data": data}, "buffers": []})
