"""The course as static pages: `make site`, then open build/site/index.html.

The README becomes the front page and every lesson a page: its text, its code, its outputs. Explorers, which need no
kernel, become live pages inside the lesson's. What is made asks for nothing outside of its folder: formulas are MathML,
which browsers draw by themselves; their font, styles, modules and the search's index lie beside the pages. So it can
be read from a disk, served from anywhere, and taken on a train. Scripts only add: they search, fold the contents away
where there is little room, and fit frames to their explorers.
"""

import argparse
import ast
import base64
import fnmatch
import functools
import gzip
import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from importlib import import_module
from pathlib import Path

import nbformat
import safetensors.torch
import torch
from bs4 import BeautifulSoup
from jinja2 import Environment, FileSystemLoader
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import TagRemovePreprocessor
from pdoc.doc import Class, Doc, Function, Module
from pdoc.docstrings import google
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import JavascriptLexer, PythonLexer
from pygments.style import Style
from pygments.token import Comment, Generic, Keyword, Name, Number, Operator, String
from tqdm import tqdm

import minqwen
from minqwen.course.outline import lesson
from minqwen.nano import world
from minqwen.widgets import attention, explorer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MODULES = ROOT / "node_modules"                  # by npm ci, which `make site` runs
FONT = "@fontsource/stix-two-math/files/stix-two-math-latin-400-normal.woff2"

# Run in the lesson's kernel before its first cell: an explorer that is shown becomes a page, and the page a frame; a
# figure is drawn twice, for light pages and for dark ones.
AS_PAGES = """
from base64 import b64encode
from html import escape
from pathlib import Path
from IPython.display import HTML, display
from minqwen.widgets.explorer import Explorer

def _as_page(self, count=[0], **_):
    count[0] += 1
    page = Path({folder!r}) / f"{name}_{{count[0]}}.html"
    self.to_html(page)
    frame = f'<iframe class="explorer" src="explorers/{{page.name}}" title="{{type(self).__name__}}"></iframe>'
    return {{"text/plain": repr(self), "text/html": frame}}

Explorer._repr_mimebundle_ = _as_page

from minqwen import plots

def _twice(figure, alt=None, dpi=100):
    alt = escape(plots.description(figure, alt))
    drawn = {{page: b64encode(plots.png(figure, dpi, page)).decode() for page in ("light", "dark")}}
    display(HTML("".join(f'<img class="for-{{page}}" src="data:image/png;base64,{{png}}" alt="{{alt}}">'
                         for page, png in drawn.items())))

plots.show = _twice
"""


# What lessons say on the site alone, behind their first cell: number -> text, whose link leads to the page of nano.
LIVE = {
    "00": "*On this site nano runs without a kernel, too: [type a story of your own](../website/nano.js), and see what "
          "it answers and what its memory holds.*",
    "03": "*On this site the rule of this lesson runs in [a page](../website/nano.js), inside the trained model: type "
          "a story of your own there, and watch its memories.*",
    "06": "*On this site the whole model of this lesson stands in [a page](../website/nano.js) once more, in "
          "JavaScript, and runs there.*",
}


class Light(Style):
    """Code on the site's light ground: every colour is read at a contrast of 4.5 at least. Dark is the same."""

    background_color = "#f5f7f9"                 # site.css: --shade
    styles = {Comment: "italic #59636f", Keyword: "#8428a0", Operator.Word: "#8428a0", Operator: "#4d5663",
              Name.Builtin: "#0b6270", Name.Function: "#1d4fbf", Name.Class: "#1d4fbf", Name.Decorator: "#8a4500",
              String: "#17693a", Number: "#9c3800", Generic: "#1d2129"}


class Dark(Style):
    background_color = "#171a1f"
    styles = {Comment: "italic #9aa4b2", Keyword: "#d9a6f2", Operator.Word: "#d9a6f2", Operator: "#bcc4cf",
              Name.Builtin: "#7fd3dd", Name.Function: "#8fbcff", Name.Class: "#8fbcff", Name.Decorator: "#f0b878",
              String: "#9fd79b", Number: "#f2b38a", Generic: "#e3e6eb"}


# ---------------------------------------------------------------------------------------------------------- text


def missing() -> str:
    """What a site cannot be built without, and is not here; empty if all is."""
    if not shutil.which("node"):
        return "there is no Node: install version 18.18 or newer with npm (Debian, Ubuntu: apt-get install nodejs npm)"
    return "" if MODULES.is_dir() else "the packages of package-lock.json are not here: npm ci"


@functools.cache
def _temml() -> subprocess.Popen:
    """One Node for all formulas. It ends with this process, which holds its input."""
    return subprocess.Popen(["node", HERE / "formulas.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            encoding="utf-8")


@functools.cache
def formula(tex: str, display: bool = False) -> str:
    """TeX as MathML. A formula that cannot be set in full is an error: half of one is another law."""
    node = _temml()
    node.stdin.write(json.dumps({"tex": tex, "display": display}) + "\n")
    node.stdin.flush()
    answer = json.loads(node.stdout.readline())
    if "error" in answer:
        raise SystemExit(f"This formula cannot be set: {tex.strip()}\n{answer['error'].strip()}")
    return f'<div class="formula">{answer["mathml"]}</div>' if display else answer["mathml"]


class Renderer(IPythonRenderer):
    """Markdown to HTML, with formulas as MathML and links to where the site has what they mean."""

    def __init__(self, here: str, pages: dict[str, str]):
        super().__init__(escape=False, anchor_link_text="#")
        self.here, self.pages = here, pages

    def inline_math(self, body: str) -> str:
        return formula(body)

    def block_math(self, body: str) -> str:
        return formula(body, display=True)

    def latex_environment(self, name: str, body: str) -> str:
        return formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", display=True)

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
    made = MarkdownWithMath(renderer=Renderer(here, pages)).render(text)
    made = made.replace("<th></th>", "<td></td>")         # an empty cell heads nothing
    return made.replace('<a class="anchor-link"', '<a class="anchor-link" aria-label="Link to this section"')


def sections(page: str, title: str, body: str) -> list[dict]:
    """A page's parts, as its contents list and the search need them: what stands under each heading.

    Returns:
        {"page", "title", "anchor", "level", "heading", "text"} each; anchors and headings as the body has them.
    """
    soup = BeautifulSoup(body, "html.parser")
    for element in soup.select("script, style, .anchor-link, .output_wrapper"):
        element.extract()
    for element in soup.find_all("math"):
        element.replace_with(f" {element.get_text()} ")              # as it is read, without its heights
    found = [{"page": page, "title": title, "anchor": "", "level": 1, "heading": title, "text": ""}]
    for element in soup.descendants:
        if element.name in ("h1", "h2", "h3"):
            found.append({"page": page, "title": title, "anchor": element.get("id", ""), "level": int(element.name[1]),
                          "heading": element.get_text(), "text": ""})
        elif isinstance(element, str) and element.find_parent(("h1", "h2", "h3")) is None:
            found[-1]["text"] += element
    for section in found:
        section["text"] = " ".join(section["text"].split())
    return [section for section in found if section["text"]]


def named(text: str, here: str = "", found: frozenset[str] = frozenset({"README.md"})) -> frozenset[str]:
    """What was found, the files that a text of the folder `here` leads to, and those that they lead to; no lessons."""
    for link in re.findall(r"\]\(([\w./-]+(?:\.md|\.py|LICENSE))[#)]", text):
        file = os.path.normpath(os.path.join(here, link))
        if file not in found:
            found |= {file}
            if file.endswith(".md"):
                found = named((ROOT / file).read_text(encoding="utf-8"), os.path.dirname(file), found)
    return found


def heading(file: str) -> str:
    """What a page of the repository is called: its first heading, else its name."""
    found = re.search(r"(?m)^# (.+)$", (ROOT / file).read_text(encoding="utf-8"))
    return found[1] if found else file


def definitions(page: str, file: str, source: str) -> list[dict]:
    """The same of a Python file: its classes and functions, with what their docstrings say."""
    return [{"page": page, "title": file, "anchor": f"line-{node.lineno}", "level": 2, "heading": node.name,
             "text": " ".join((ast.get_docstring(node) or "").split())}
            for node in ast.parse(source).body if isinstance(node, (ast.ClassDef, ast.FunctionDef))
            and not node.name.startswith("_")]


def reference() -> str:
    """All of `minqwen.__all__` as Markdown, in its order, with the public methods of classes."""
    modules = {home: Module(import_module(f"minqwen.{home}")) for home in minqwen.HOME.values()}
    parts = [f"# Reference\n\nThe public names of minqwen {minqwen.__version__}, as their docstrings have them."]
    for name, home in minqwen.HOME.items():
        found = modules[home].members[name]
        parts.append(f"## minqwen.{name}\n\n{_described(found)}")
        if isinstance(found, Class):
            parts += [f"### {name}.{method.name}\n\n{_described(method)}" for method in found.own_members
                      if isinstance(method, Function) and method.docstring and not method.name.startswith("_")]
    return "\n\n".join(parts)


def _described(found: Doc) -> str:
    """A signature as Python, and what the docstring says, its headings as bold words: they head no part of the page."""
    signature = str(found.signature) if isinstance(found, Function) else ""
    if isinstance(found, Class) and (made := found.members.get("__init__")):
        signature = str(made.signature_without_self)
    said = re.sub(r"(?m)^#+ (.+)$", r"**\1**", google(found.docstring))
    return f"```python\n{found.name}{signature}\n```\n\n{said}"


# ------------------------------------------------------------------------------------------------------- lessons


def run(notebook: nbformat.NotebookNode, name: str, explorers: Path) -> nbformat.NotebookNode:
    """Run a lesson as `make notebooks` does, its explorers written as pages into the folder `explorers`."""
    hook = nbformat.v4.new_code_cell(AS_PAGES.format(folder=str(explorers), name=name))
    notebook.cells.insert(0, hook)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", store_widget_state=False,
                            coalesce_streams=True,         # what a cell prints bit by bit is read as one
                            resources={"metadata": {"path": str(ROOT / "notebooks")}})
    steady = {"MINQWEN_MINE": "off", "MINQWEN_SHORT": "1", "TQDM_DISABLE": "1"}
    client.execute(stderr=subprocess.DEVNULL, env={**os.environ, **steady})
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


# ---------------------------------------------------------------------------------------------------- nano in a page


@functools.cache
def checkpoint() -> dict:
    """The shipped model as a page holds it: what reads text, in bfloat16 as official weights are, beside the files that
    lie in its folder; and what its explorers are told of every text alike."""
    qwen = minqwen.load(dtype=torch.bfloat16)
    weights = {name: tensor.contiguous() for name, tensor in qwen.model.state_dict().items()
               if name.startswith("model.language_model.")}
    files = {name: json.loads((qwen.folder / f"{name}.json").read_text("utf-8"))
             for name in ("config", "tokenizer", "generation_config")}
    state, maps = minqwen.StateExplorer(qwen, "a").story, minqwen.AttentionExplorer(qwen, "a").story
    return files | {
        "weights": base64.b64encode(gzip.compress(safetensors.torch.save(weights), mtime=0)).decode(),
        "state": state, "attention": maps,
        "room": {"side": attention.SIDE, "cell": attention.CELL, "tile": maps["tile"]["unit"]},     # pixels
        "parameters": sum(tensor.numel() for tensor in weights.values()),
    }


def live(pages: dict[str, str]) -> str:
    """The page in which nano runs: its text, the source of the model, and all that runs, embedded."""
    modules, sheets = [], []
    for name in ("State", "Attention"):
        module, sheet = explorer.sources(f"{name.lower()}_explorer")
        modules.append(module.replace("export default", f"globalThis.{name}Explorer ="))
        sheets.append(sheet)
    modules.append(explorer.module("live", HERE))
    sheets.append((HERE / "live.css").read_text("utf-8"))
    source, held = (HERE / "nano.js").read_text("utf-8"), json.dumps(checkpoint())
    held = held.replace("<", "\\u003c")                                      # so that no text can close the script
    return "\n".join([
        about_nano(source, pages), f'<div id="source">{highlight(source, JavascriptLexer(), HtmlFormatter())}</div>',
        *(f"<style>\n{sheet}</style>" for sheet in sheets),
        f'<script id="checkpoint" type="application/json">{held}</script>',
        *(f'<script type="module">\n{module}</script>' for module in modules)])


def about_nano(source: str, pages: dict[str, str]) -> str:
    """What that page says. Its numbers are counted, and what it names is linked where the site has a page of it."""

    def link(words: str, pattern: str) -> str:
        file = next(iter(fnmatch.filter(pages, pattern)), None)
        return f"[{words}](../{file})" if file else words

    text = Environment(autoescape=False).from_string((HERE / "nano.md").read_text("utf-8")).render(
        link=link, lesson=lambda number: link(f"lesson {number}", f"notebooks/{number}_*.ipynb"),
        lines=source.count("\n"), parameters=f"{checkpoint()['parameters']:,}",
        vocabulary=checkpoint()["config"]["text_config"]["vocab_size"], names=", ".join(world.NAMES),
        things=", ".join(world.THINGS[:6]), places=", ".join(world.PLACES[:4]))
    return markdown(text, "website", pages)


# ---------------------------------------------------------------------------------------------------------- site


def build(out: Path, execute: bool = True, notebooks: Path = ROOT / "notebooks", readme: Path = ROOT / "README.md"):
    """Write the whole site. It is made beside `out` and moved there whole: a build that fails leaves `out` as it was.

    Args:
        out: the folder to write; the site of an earlier build in it is replaced.
        execute: run the lessons, which makes their explorers live; else they are shown as they were committed.
        notebooks: where the lessons are.
        readme: the front page.
    """
    if missing():
        raise SystemExit(f"The site cannot be built, for {missing()}.")
    if out.exists() and any(out.iterdir()) and not (out / "site.css").exists():
        raise SystemExit(f"{out} holds something that is no site of ours; name an empty folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f"{out.name}-") as beside:
        made = Path(beside) / "site"
        write_site(made, execute, notebooks, readme)
        shutil.rmtree(out, ignore_errors=True)
        made.rename(out)


def write_site(out: Path, execute: bool, notebooks: Path, readme: Path) -> None:
    """The site's files, into a folder that is not there yet. Arguments as for `build`."""
    (out / "explorers").mkdir(parents=True)
    lessons = sorted(notebooks.glob("*.ipynb"))
    text = readme.read_text(encoding="utf-8")
    files = sorted(named(text) - {"README.md"})
    solutions = sorted(path.name for path in (notebooks / "solutions").glob("*.py"))
    pages = {"README.md": "index.html", "notebooks/solutions": "solutions.html", "website/nano.js": "nano.html"}
    pages |= {f"notebooks/{path.name}": f"{path.stem}.html" for path in lessons}
    pages |= {file: f"{file.replace('/', '_').removesuffix('.py').removesuffix('.md')}.html" for file in files}

    notes = {path: nbformat.read(path, as_version=4) for path in lessons}
    said = [lesson(path.stem, note.cells[0].source) for path, note in notes.items()]
    contents = [(f"{one.name}.html", f"{one.number} · {one.title}", one.minutes) for one in said]
    more = [("nano.html", "nano, live"),
            *((pages[file], heading(file)) for file in files if file.startswith("docs/")),
            ("reference.html", "Reference"), ("solutions.html", "Solutions")]
    bodies, parts = {}, {}                       # page -> its HTML, its sections

    def add(page: str, called: str, inside: str) -> None:
        bodies[page], parts[page] = (called, inside), sections(page, called, inside)

    add("index.html", "minqwen", markdown(text, "", pages))
    for (path, note), (page, named_so, _) in zip(tqdm(notes.items(), unit="lesson", disable=None), contents):
        opening = note.cells[0]                  # on paper, where no contents stand beside it, a lesson has its number
        opening.source = re.sub(r"(?m)^# .+$", lambda _, title=named_so: f"# {title}", opening.source, count=1)
        if path.stem[:2] in LIVE:
            note.cells.insert(1, nbformat.v4.new_markdown_cell(LIVE[path.stem[:2]]))
        add(page, named_so, body(run(note, path.stem, out / "explorers") if execute else note, pages))
    add("nano.html", "nano, live", live(pages))
    answers = [f'<h2 id="{name}"><code>{name}</code></h2>' + code((notebooks / "solutions" / name).read_text("utf-8"))
               for name in solutions]
    add("solutions.html", "Solutions", "<h1>Solutions</h1>" + "".join(answers))
    add("reference.html", "Reference", markdown(reference(), "", pages))
    for file in files:
        source = (ROOT / file).read_text(encoding="utf-8")
        if file.endswith(".md"):
            text_only = re.sub(r"\A---\n.*?\n---\n", "", source, flags=re.DOTALL)       # without a model card's data
            add(pages[file], heading(file), markdown(text_only, str(Path(file).parent), pages))
        elif file.endswith(".py"):
            add(pages[file], file, f"<h1><code>{file}</code></h1>" + code(source, lines=True))
            parts[pages[file]] = definitions(pages[file], file, source)
        else:
            add(pages[file], file, f"<h1>{file}</h1><pre>{html.escape(source)}</pre>")

    template = Environment(loader=FileSystemLoader(HERE), autoescape=False).get_template("page.html.j2")
    order = [page for page, *_ in contents]
    for page, (called, inside) in bodies.items():
        around = order.index(page) if page in order else None
        made = template.render(
            title=html.escape(called), body=inside, lessons=contents, more=more, page=page,
            here=[(html.escape(part["anchor"]), html.escape(part["heading"])) for part in parts[page]
                  if part["level"] == 2 and part["anchor"]],
            before=contents[around - 1] if around else None,
            after=contents[around + 1] if around is not None and around + 1 < len(order) else None)
        (out / page).write_text(made, encoding="utf-8")

    for image in {*re.findall(r"!\[[^\]]*\]\(([^):]+)\)", text), *re.findall(r'src(?:set)?="([^":]+)"', text)}:
        (out / image).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(readme.parent / image, out / image)
    write_shared(out, [part for page in parts.values() for part in page])


def write_shared(out: Path, found: list[dict]) -> None:
    """What all pages share: sheet, font, scripts, the search's index, and the licences of what is not ours.

    Args:
        found: the sections of all pages.
    """
    for folder in ("fonts", "licences"):
        (out / folder).mkdir()
    shutil.copy(MODULES / FONT, out / "fonts" / "stix-two-math.woff2")
    for package in ("@fontsource/stix-two-math", "minisearch", "temml"):
        for licence in (MODULES / package).glob("LICENSE*"):
            shutil.copy(licence, out / "licences" / f"{Path(package).name}.txt")
    own = (HERE / "site.css").read_text("utf-8")
    formulas = re.sub(r"(?s)@font-face \{.*?\}", "", (MODULES / "temml/dist/Temml-STIX2.css").read_text("utf-8"))
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in (Light, Dark))
    (out / "site.css").write_text(
        f"{formulas}\n{own}\n{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n", "utf-8")
    shutil.copy(HERE / "site.js", out)
    library = (MODULES / "minisearch/dist/umd/index.js").read_text("utf-8").replace("//# sourceMappingURL", "//")
    index = json.dumps(found, ensure_ascii=False)
    (out / "search.js").write_text(f"{library}\nglobalThis.sections = {index};\n", "utf-8")


def code(source: str, lines: bool = False) -> str:
    numbers = {"linenos": "inline", "lineanchors": "line", "anchorlinenos": True} if lines else {}
    formatter = HtmlFormatter(**numbers)
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
