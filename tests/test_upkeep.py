"""What those who carry on find: workflows that do what is done here, a list of changes, how to cite it."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from PIL import Image
from wrong_answers import WRONG

import minqwen
from conftest import REPOSITORY


def workflow(name):
    return yaml.safe_load((REPOSITORY / ".github" / "workflows" / f"{name}.yml").read_text())


def commands(job):
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_workflow_of_tests_does_what_ci_does():
    """In the Python that the pins were made with, as root, for .ci/run installs what it needs."""
    job = workflow("test")["jobs"]["test"]
    python = re.search(r"Python (\d\.\d+)", (REPOSITORY / "requirements.txt").read_text()).group(1)
    assert job["container"] == f"python:{python}" and commands(job)[-1] == ".ci/run"
    assert {"push", "pull_request"} <= workflow("test")[True].keys()       # YAML reads `on` as a truth


def test_the_workflow_of_the_site_publishes_what_make_site_builds():
    jobs = workflow("site")["jobs"]
    assert commands(jobs["build"])[-1] == "make site"
    (upload,) = [step["with"]["path"] for step in jobs["build"]["steps"] if "upload-pages" in step.get("uses", "")]
    assert f'default=ROOT / "{upload.replace("/", chr(34) + " / " + chr(34))}")' in (
        REPOSITORY / "website/build.py").read_text()
    assert jobs["publish"]["needs"] == "build" and jobs["publish"]["permissions"] == {"pages": "write",
                                                                                      "id-token": "write"}
    assert "pages" not in workflow("site")["permissions"], "only what publishes may publish"
    assert jobs["build"]["if"] == "github.event_name == 'workflow_dispatch' || !github.event.repository.fork"
    assert "workflow_dispatch" in workflow("site")[True], "a fork without pages fails at no push, and can be asked"


@pytest.mark.parametrize("name", ["test", "site"])
def test_a_workflow_names_its_actions_by_version(name):
    used = [step["uses"] for job in workflow(name)["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in used)


def test_how_to_cite_it():
    """The keys that the format demands, none that it does not know, and the version of the package."""
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited.keys() <= {"cff-version", "message", "title", "abstract", "type", "version", "license", "authors",
                            "keywords", "date-released", "repository-code", "url"}
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software" and cited["license"] == "Apache-2.0"
    assert cited["version"] == minqwen.__version__
    assert all(author.keys() <= {"name"} or {"family-names", "given-names"} <= author.keys()
               for author in cited["authors"])


def test_the_changes_begin_with_this_version():
    versions = re.findall(r"(?m)^## (\d+\.\d+\.\d+)", (REPOSITORY / "CHANGELOG.md").read_text())
    assert versions[0] == minqwen.__version__
    assert versions == sorted(versions, key=lambda version: [*map(int, version.split("."))], reverse=True)


# ---- what the README says

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def part(heading):
    return re.search(rf"(?s)^## {re.escape(heading)}\n(.*?)(?=^## )", README, re.MULTILINE)[1]


def test_what_the_readme_names_is_there():
    links = {*re.findall(r"\]\(([^):]+)\)", README), *re.findall(r'src(?:set)?="([^":]+)"', README)}
    assert {"minqwen/model.py", "docs/state_explorer.webp", "docs/state_explorer_dark.png"} <= links
    assert not [link for link in links if not link.startswith("#") and not (REPOSITORY / link).exists()]


def needs(module):
    """The modules of the package that one of them imports, at once or when it comes to it, and those that these do."""
    found, left = set(), [module]
    while left:
        tree = ast.parse((REPOSITORY / f"minqwen/{left.pop()}.py").read_text(encoding="utf-8"))
        named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1}
        left += named - found
        found |= named
    return found - {module}


def test_files_that_are_copied_need_those_that_the_readme_names():
    said = re.search(r"(?s)To copy: (.*?)\. Or import", part("Take it home"))[1]
    alone, triton, model, checkpoint = (re.findall(r"`(\w+)\.py`", piece) for piece in
                                        re.split(r", and (?=`delta_rule_t)|\n(?=`model)|; (?=`checkpoint)", said))
    assert alone == ["delta_rule"] and not needs("delta_rule")
    assert triton == ["delta_rule_triton"] and needs("delta_rule_triton") == {"delta_rule"}
    assert {*model} == needs("model") | {"model"}
    assert {*model, *checkpoint} == needs("checkpoint") | {"checkpoint"}


def test_every_row_of_what_is_verified_names_its_tests():
    rows = [row for row in part("What is verified, and where").splitlines() if row.startswith("|")][2:]
    named = [re.findall(r"`(test_\w+\.py)`", row.split(" | ")[-1]) for row in rows]
    assert len(rows) > 10 and all(named)
    assert len(WRONG) > 800 and "over 800 wrong answers" in README
    for name in {*sum(named, []), *re.findall(r"`tests/(\w+\.py)`", README)}:
        assert "\ndef test_" in (REPOSITORY / "tests" / name).read_text(encoding="utf-8"), name


def test_pictures_are_there_for_light_and_dark_and_small():
    shown = re.findall(r"(?s)<picture>(.*?)</picture>", README)
    assert len(shown) == 2
    for picture in shown:
        assert len(re.search(r'<img src="docs/\w+\.\w+" alt="([^"]+)">', picture)[1]) > 60
        for media, file in re.findall(r'<source media="([^"]+)" srcset="([^"]+)">', picture):
            assert ("dark" in media) == ("_dark." in file) and ("motion" in media) <= file.endswith(".png")
    for path in (REPOSITORY / "docs").iterdir():
        assert path.stat().st_size < 1e6, path
    for name in ("state_explorer", "state_explorer_dark"):
        with Image.open(REPOSITORY / f"docs/{name}.webp") as film:
            assert film.n_frames > 20


def test_what_is_said_of_ourselves_and_of_transformers_can_be_counted():
    """Only of the version that it was said of."""
    said = part("Beside other projects")
    for file in ("model", "vision"):
        lines = (REPOSITORY / f"minqwen/{file}.py").read_text().count("\n")
        assert abs(int(re.search(rf"\(minqwen/{file}\.py\), about (\d+)\b", said)[1]) - lines) < 15, file
    transformers = pytest.importorskip("transformers")
    if f"/transformers) {transformers.__version__} " not in said:
        pytest.skip(f"here is transformers {transformers.__version__}, of which nothing is said")
    models = Path(transformers.__file__).parent / "models"
    assert f"{sum((path / '__init__.py').is_file() for path in models.iterdir())} folders" in said
    for name in ("qwen3_5", "qwen3_5_moe"):
        source = (models / name / f"modeling_{name}.py").read_text(encoding="utf-8")
        count = f"{source.count(chr(10)):,}"
        assert re.search(rf"`modeling_{name}.py`[^`]* in {count}\b", said)
        assert '_keys_to_ignore_on_load_unexpected = [r"^mtp.*"' in source


# ---- what the reference and `help` say


def documented():
    """(name, docstring) of all that the reference shows."""
    for name, home in minqwen.HOME.items():
        found = getattr(import_module(f"minqwen.{home}"), name)
        yield name, inspect.getdoc(found)
        if inspect.isclass(found):
            methods = ((method, getattr(x, "__func__", x)) for method, x in vars(found).items())    # of the class, too
            yield from ((f"{name}.{method}", inspect.cleandoc(x.__doc__)) for method, x in methods
                        if inspect.isfunction(x) and x.__doc__ and not method.startswith("_"))


def test_docstrings_keep_their_lines_where_they_are_read_as_markdown():
    """Code has an empty line before it, lists have headings that pdoc knows, and a reader of one function is not sent
    to a place that he does not see."""
    said = dict(documented())
    assert len(said) > 100 and "Cache.trial" in said
    for name, text in said.items():
        lines = text.splitlines()
        for before, line in zip(lines, lines[1:]):
            if line.startswith("    ") and before and not before.startswith(" "):
                assert re.fullmatch(r"(Args|Attributes|Returns|Raises|Yields):", before), f"{name}: {before}"
        assert not re.search(r"(?m)^\w+: {2,}\S", text), name
        assert not re.search(r"\bas above\b|\btop of this file\b", text), name
