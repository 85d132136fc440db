"""The course as static pages: `make site`, then open build/site/index.html.

The README becomes the front page and every lesson a page: its text, its code, its outputs. Explorers, which need no
kernel, become live pages inside the lesson's. What is made asks for nothing outside of its folder: formulas are MathML,
which browsers draw by themselves, and styles and modules are inlined or beside the page. So it can be read from a disk,
served from anywhere, and taken on a train.
"""

import argparse
import html
import os
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
from jinja2 import Environment, FileSystemLoader
from latex2mathml.converter import convert
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import TagRemovePreprocessor
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

# Run in the lesson's kernel before its first cell: an explorer that is shown becomes a page, and the page a frame.
AS_PAGES = """
from pathlib import Path
from minqwen.widgets.explorer import Explorer

def _as_page(self, count=[0], **_):
    count[0] += 1
    page = Path({folder!r}) / f"{name}_{{count[0]}}.html"
    self.to_html(page)
    frame = f'<iframe class="explorer" src="explorers/{{page.name}}" title="{{type(self).__name__}}"></iframe>'
    return {{"text/plain": repr(self), "text/html": frame}}

Explorer._repr_mimebundle_ = _as_page
"""


# ---------------------------------------------------------------------------------------------------------- text


class Renderer(IPythonRenderer):
    """Markdown to HTML, with formulas as MathML and links to where the site has what they mean."""

    def __init__(self, here: str, pages: dict[str, str]):
        super().__init__(escape=False, anchor_link_text="#")
        self.here, self.pages = here, pages

    def inline_math(self, body: str) -> str:
        return convert(body)

    def block_math(self, body: str) -> str:
        return convert(body, display="block")

    def latex_environment(self, name: str, body: str) -> str:
        return convert(f"\\begin{{{name}}}{body}\\end{{{name}}}", display="block")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return super().link(text, moved(url, self.here, self.pages), title)


def moved(url: str, here: str, pages: dict[str, str]) -> str:
    """Where a link of a file in the repository's folder `here` leads on the site, whose pages are file -> page."""
    if re.match(r"[a-z]+:|#", url):
        return url
    file, *anchor = url.split("#", 1)
    file = os.path.normpath(os.path.join(here, file))
    if file not in pages:
        raise SystemExit(f"{here or 'README.md'} links to {url}, of which there is no page: "
                         "link to a lesson, to a file named in the README, or to an address on the web.")
    return "#".join([pages[file], *anchor])


def markdown(text: str, here: str, pages: dict[str, str]) -> str:
    return MarkdownWithMath(renderer=Renderer(here, pages)).render(text)


# ------------------------------------------------------------------------------------------------------- lessons


def run(notebook: nbformat.NotebookNode, name: str, explorers: Path) -> nbformat.NotebookNode:
    """Run a lesson as `make notebooks` does, its explorers written as pages into the folder `explorers`."""
    hook = nbformat.v4.new_code_cell(AS_PAGES.format(folder=str(explorers), name=name))
    notebook.cells.insert(0, hook)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", store_widget_state=False,
                            resources={"metadata": {"path": str(ROOT / "notebooks")}})
    client.execute(stderr=subprocess.DEVNULL, env={**os.environ, "MINQWEN_MINE": "off", "TQDM_DISABLE": "1"})
    notebook.cells.pop(0)
    return notebook


def without_widgets(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A widget needs a kernel: its picture stands for it, or a word where it has none."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "application/vnd.jupyter.widget-view+json" in data:
                del data["application/vnd.jupyter.widget-view+json"]
                if "image/png" not in data:
                    data["text/html"] = '<p class="absent">This part is live: run the lesson to use it (make lab).</p>'
    return notebook


def body(notebook: nbformat.NotebookNode, pages: dict[str, str]) -> str:
    """The lesson's cells as HTML."""
    exporter = HTMLExporter(template_name="basic", anchor_link_text="#", filters={
        "markdown2html": lambda text: markdown(text, "notebooks", pages)})
    exporter.register_preprocessor(TagRemovePreprocessor(remove_cell_tags={"remove-cell"}), enabled=True)
    made, _ = exporter.from_notebook_node(without_widgets(notebook))
    return made


def title(notebook: nbformat.NotebookNode, number: str) -> str:
    """What a lesson is called in lists: its number, then its heading."""
    first = re.search(r"^# (?:\d+ · )?(.+)$", notebook.cells[0].source, flags=re.MULTILINE)
    return f"{number} · {first.group(1)}"


# ---------------------------------------------------------------------------------------------------------- site


def build(out: Path, execute: bool = True, notebooks: Path = ROOT / "notebooks", readme: Path = ROOT / "README.md"):
    """Write the whole site.

    Args:
        out: the folder to write; what an earlier build left in it is removed.
        execute: run the lessons, which makes their explorers live; else they are shown as they were committed.
        notebooks: where the lessons are.
        readme: the front page.
    """
    if out.exists() and any(out.iterdir()) and not (out / "site.css").exists():
        raise SystemExit(f"{out} holds something that is no site of ours; name an empty folder.")
    shutil.rmtree(out, ignore_errors=True)
    (out / "explorers").mkdir(parents=True)

    lessons = sorted(notebooks.glob("*.ipynb"))
    text = readme.read_text(encoding="utf-8")
    files = sorted(set(re.findall(r"\]\((minqwen/\w+\.py|data/nano/README\.md|LICENSE)[#)]", text)))
    solutions = sorted(path.name for path in (notebooks / "solutions").glob("*.py"))
    pages = {"README.md": "index.html", "notebooks/solutions": "solutions.html"}
    pages |= {f"notebooks/{path.name}": f"{path.stem}.html" for path in lessons}
    pages |= {file: f"{file.replace('/', '_').removesuffix('.py').removesuffix('.md')}.html" for file in files}
    images = re.findall(r"!\[[^\]]*\]\(([^):]+)\)", text)

    template = Environment(loader=FileSystemLoader(HERE), autoescape=False).get_template("page.html.j2")
    notes = {path: nbformat.read(path, as_version=4) for path in lessons}
    contents = [(pages[f"notebooks/{path.name}"], title(note, path.stem[:2])) for path, note in notes.items()]

    def write(page: str, heading: str, inside: str, **around) -> None:
        made = template.render(title=html.escape(heading), body=inside, lessons=contents, page=page, **around)
        (out / page).write_text(made, encoding="utf-8")

    write("index.html", "minqwen", markdown(text, "", pages))
    for index, (path, note) in enumerate(tqdm(notes.items(), unit="lesson", disable=None)):
        if execute:
            note = run(note, path.stem, out / "explorers")
        around = {"before": contents[index - 1] if index else None,
                  "after": contents[index + 1] if index + 1 < len(contents) else None}
        write(*contents[index], body(note, pages), **around)
    for file in files:
        source = (ROOT / file).read_text(encoding="utf-8")
        if file.endswith(".md"):
            inside = markdown(re.sub(r"\A---\n.*?\n---\n", "", source, flags=re.DOTALL), str(Path(file).parent), pages)
        elif file.endswith(".py"):
            inside = f"<h1><code>{file}</code></h1>" + code(source, lines=True)
        else:
            inside = f"<pre>{html.escape(source)}</pre>"
        write(pages[file], file, inside)
    parts = [f"<h2><code>{name}</code></h2>" + code((notebooks / "solutions" / name).read_text(encoding="utf-8"))
             for name in solutions]
    write("solutions.html", "Solutions", "<h1>Solutions</h1>" + "".join(parts))

    for image in images:
        (out / image).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(readme.parent / image, out / image)
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("friendly", "github-dark"))
    sheet = (HERE / "site.css").read_text(encoding="utf-8")
    (out / "site.css").write_text(
        f"{sheet}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n", encoding="utf-8")


def code(source: str, lines: bool = False) -> str:
    formatter = HtmlFormatter(linenos="inline" if lines else False, lineanchors="line", anchorlinenos=lines)
    return highlight(source, PythonLexer(), formatter)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    parser.add_argument("--as-committed", action="store_true", help="do not run the lessons: no live explorers")
    args = parser.parse_args(arguments)
    build(args.out.resolve(), not args.as_committed)
    print(f"Open {args.out / 'index.html'}")


if __name__ == "__main__":
    main()
