"""The explorers' modules and sheets: Node tests what they share, eslint reads all, and no rule depends on an order."""

import re
import shutil
import subprocess

import pytest

from conftest import REPOSITORY
from minqwen.widgets import explorer

WIDGETS = REPOSITORY / "minqwen" / "widgets"
MODULES = ["state_explorer", "attention_explorer", "gates_explorer", "experts_explorer", "vision_explorer",
           "cost_explorer", "drafts_explorer", "quant_explorer", "rollouts_explorer", "training_explorer",
           "lab", "chat"]


@pytest.fixture(scope="module")
def node():
    if shutil.which("node") is None:
        pytest.skip("no Node (Debian: apt-get install nodejs), so no module was run outside of a browser")
    return "node"


def run(*command):
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_shared(node):
    run(node, "--test", "tests/explorers.test.mjs")


def test_lint(node):
    if not (REPOSITORY / "node_modules" / "eslint").is_dir():
        pytest.skip("no eslint here (npm ci), so no module was linted")
    run(node, "node_modules/eslint/bin/eslint.js", "minqwen/widgets", "tests", "website", "eslint.config.mjs")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_one_file(node, name, tmp_path):
    """A notebook takes one file: with all that it imports, once, and nothing exported but what anywidget asks for."""
    text = explorer.module(name)
    assert not re.search(r"^import ", text, flags=re.MULTILINE)
    assert re.findall(r"^export \w+", text, flags=re.MULTILINE) == ["export default"]
    assert text.count("class Explorer {") == 1 == len(re.findall(r'^const sheet = "', text, flags=re.MULTILINE))
    (tmp_path / "module.mjs").write_text(text, encoding="utf-8")
    run(node, "--check", str(tmp_path / "module.mjs"))


def specificity(selector):
    """(ids, classes, elements) of a selector; :where counts nothing, :is as its strongest."""
    selector = re.sub(r":where\((?:[^()]|\([^()]*\))*\)", "", selector)
    alike = r":(?:is|has|not)\(((?:[^()]|\([^()]*\))*)\)"
    inside = [max(map(specificity, several.split(","))) for several in re.findall(alike, selector)]
    selector = re.sub(alike, "", selector)
    own = (len(re.findall(r"#[\w-]+", selector)),
           len(re.findall(r"\.[\w-]+|\[[^]]*\]|(?<!:):[\w-]+(?:\([^)]*\))?", selector)),
           len(re.findall(r"(?:^|[\s>+~])[a-z][\w-]*|::[\w-]+", selector)))
    return tuple(map(sum, zip(own, *inside)))


def selectors(sheet):
    """Every selector of a sheet, nested ones written out."""
    sheet, found = re.sub(r"/\*.*?\*/", "", sheet, flags=re.DOTALL), []

    def read(text, above):
        at = 0
        for block in re.finditer(r"([^{};]+)\{", text):
            if block.start() < at:
                continue
            depth, end = 1, block.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                end += 1
            name, at = block[1].strip(), end
            parts = re.split(r",\s*(?![^()]*\))", name)
            names = above if name.startswith("@") else [
                part.replace("&", up) if "&" in part else f"{up} {part}".strip() for up in above for part in parts]
            if re.search(r"[\w-]+\s*:[^{}]*;?", re.sub(r"[^{};]+\{[^{}]*\}", "", text[block.end() : end - 1])):
                found.extend(names)
            read(text[block.end() : end - 1], names)

    read(sheet, [""])
    return found


def test_the_shared_rules_are_weaker_than_each_explorers_own():
    """So it does not matter which of the sheets on a page came last."""
    shared = selectors((WIDGETS / "explorer.css").read_text(encoding="utf-8"))
    assert len(shared) > 50 and {specificity(selector) for selector in shared} == {(0, 1, 0)}
    for name in MODULES:
        own = selectors((WIDGETS / f"{name}.css").read_text(encoding="utf-8"))
        assert len(own) > 3 and min(map(specificity, own)) >= (0, 2, 0), name
        assert len({selector.split()[0].split(":")[0] for selector in own if selector}) <= 3


def test_lines_are_no_longer_than_those_of_python():
    for path in [*WIDGETS.glob("*.js"), *WIDGETS.glob("*.css")]:
        long = [n for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if len(line) > 120]
        assert not long, f"{path.name}: lines {long}"
