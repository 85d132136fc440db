"""Installed, not only cloned: the wheel is built, put where no repository is, and does there what README shows."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from minqwen import __version__, cli, files
from minqwen.errors import QwenError

# ------------------------------------------------------------------------------------------- the wheel, as it is built


def run(*command, **options) -> str:
    """A command that must succeed -> what it printed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def clone(committed, repository, tmp_path_factory):
    """The repository somewhere else: building leaves folders behind. A learner has been at work in it."""
    clone = tmp_path_factory.mktemp("clone")
    for path in committed:
        (clone / path.relative_to(repository)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, clone / path.relative_to(repository))
    (clone / "notebooks/mine").mkdir()
    (clone / "notebooks/mine/03.py").write_text("# mine\n")
    (clone / "notebooks/.ipynb_checkpoints").mkdir()
    (clone / "notebooks/.ipynb_checkpoints/03_delta_rule-checkpoint.ipynb").write_text("{}")
    return clone


@pytest.fixture(scope="module")
def built(clone, tmp_path_factory):
    """A source distribution, and the wheel that is built of it alone."""
    out = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, clone)
    return out


@pytest.fixture(scope="module")
def wheel(built):
    [wheel] = built.glob("*.whl")
    return wheel


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_carries_what_lies_beside_the_package(wheel, repository):
    there, shipped = contents(wheel), "minqwen/shipped/"
    carried = {name.removeprefix(shipped): content for name, content in there.items() if name.startswith(shipped)}
    folders = "nano", "nano_moe", "nano_sft", "media", "training", "rl/*"
    wanted = [*(path for folder in folders for path in repository.glob(f"data/{folder}/*")),
              *repository.glob("data/*.json"), *repository.glob("notebooks/*.ipynb"),
              *repository.glob("notebooks/solutions/*.py"), repository / "docs/glossary.md"]
    assert carried == {path.relative_to(repository).as_posix(): path.read_bytes() for path in wanted}
    assert there["minqwen/py.typed"] == b""
    package = {path.relative_to(repository).as_posix() for path in (repository / "minqwen").rglob("*")
               if path.is_file() and path.suffix != ".pyc"}
    rest = {name for name in there if not name.startswith((shipped, f"minqwen-{__version__}.dist-info/"))}
    assert rest == package


def test_the_source_distribution_makes_the_same_wheel(built, wheel, clone, tmp_path):
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, clone)
    assert contents(tmp_path / wheel.name) == contents(wheel)
    [source] = built.glob("*.tar.gz")
    names = {name.partition("/")[2] for name in tarfile.open(source).getnames()}
    for name in ("tests/test_wheel.py", "website/build.py", "Makefile", "requirements.txt", ".binder/postBuild",
                 "package-lock.json", ".npmrc"):
        assert name in names, f"{name} is not in the source distribution"
    assert not [name for name in names if "/mine" in name or "checkpoints" in name]


def test_a_wheel_without_its_model_is_not_built(clone, tmp_path):
    shutil.copytree(clone, tmp_path / "clone", ignore=shutil.ignore_patterns("nano", "build", "*.egg-info"))
    done = subprocess.run([sys.executable, "setup.py", "-q", "build"], cwd=tmp_path / "clone", capture_output=True,
                          text=True, timeout=300)
    assert done.returncode != 0 and "Nothing matches data/nano/*" in done.stderr


# ---------------------------------------------------------------------------------------- the wheel, where it is used


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """(python, minqwen) of an environment that has the wheel and what it depends on, and no repository."""
    home = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", home)
    bin, packages = (Path(sysconfig.get_path(name, "venv", {"base": home})) for name in ("scripts", "purelib"))
    # What lies in a folder that a .pth names is found, but the .pth files in there - of the clone - are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", bin / "python", "install", "--no-deps",
        "--no-index", "--ignore-installed", wheel)
    return bin / "python", bin / "minqwen"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Another folder, and nothing in the environment that leads back."""
    for name in ("PYTHONPATH", "MINQWEN_MINE", "MINQWEN_CHECKPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


BEFORE = """                                          # what README takes for granted
from minqwen.files import SHIPPED
from minqwen.verify import official_modules
nano = SHIPPED / "data" / "nano"
model = official_modules().Qwen3_5ForConditionalGeneration.from_pretrained(nano)
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(nano)
"""
LOOKS = """
page = lambda explorer: len(explorer.to_html(f"{type(explorer).__name__}.html").read_text())
see = [{"role": "user", "content": [{"type": "image", "image": minqwen.example("three_shapes.png")},
                                    {"type": "text", "text": "what is it?"}]}]
for explorer in (minqwen.StateExplorer(t), minqwen.AttentionExplorer(t), minqwen.GateExplorer(t),
                 minqwen.VisionExplorer(qwen, see), minqwen.MemoryLab(qwen, "Ann has a red cup."),
                 minqwen.DraftExplorer(qwen, "Ann has a red cup."), minqwen.ContextCost(), minqwen.ChatPanel(qwen),
                 minqwen.QuantExplorer(qwen, "mtp.fc.weight")):
    assert "export default" in explorer._esm and "{" in explorer._css
    assert page(explorer) > len(explorer._esm)
"""
WHERE = """
import sys
from pathlib import Path
from minqwen import files
strangers = [name for name, module in sys.modules.items() if name.partition(".")[0] == "minqwen"
             and not Path(module.__file__).is_relative_to(sys.prefix)]
assert not strangers, strangers
assert files.SHIPPED == Path(minqwen.__file__).parent / "shipped"
"""
KEEPS = """
from minqwen import course
assert course.piece("my_rotate") is not None            # of the lessons inside the package
def my_table_bytes(rows, width, tied):
    return 2 * rows * width * (1 if tied else 2)
course.check.my_table_bytes(my_table_bytes)             # and this goes where we are
"""


def test_all_that_readme_shows_works_from_the_wheel(environment, wheel, elsewhere, repository):
    (python, _), readme = environment, (repository / "README.md").read_text()
    assert f"dist/{wheel.name}[verify]" in readme
    code = "\n".join(re.findall(r"```python\n(.*?)```", readme, re.DOTALL))
    code, claims = re.subn(r"^(qwen\.chat\(.*\)) +# (.+)$", r"assert \1 == '\2'", code, flags=re.MULTILINE)
    assert claims == 4
    (elsewhere / "readme.py").write_text(BEFORE + code + LOOKS + KEEPS + WHERE)
    run(python, "readme.py")
    assert "def my_table_bytes" in (elsewhere / "mine/01.py").read_text()
    assert not list(python.parent.parent.rglob("mine"))


def test_the_commands_work_from_the_wheel(environment, elsewhere):
    _, minqwen = environment
    said = run(minqwen, "chat", input="Ann has a red cup. What does Ann have?\n\n")
    assert "nano" in said and "a red cup" in said
    assert "checks passed" in run(minqwen, "verify")


OPENS = """
import sys
from jupyterlab.labapp import LabApp
from minqwen import cli
LabApp.launch_instance = lambda arguments: print(*arguments, sep="\\n")
sys.exit(cli.main(["lab", *sys.argv[1:]]))
"""


def test_the_lessons_are_opened_in_a_folder_of_ones_own(environment, elsewhere, repository):
    python, _ = environment

    def opened(*arguments):
        return run(python, "-c", OPENS, *arguments).splitlines()

    for home, arguments in ((elsewhere / "minqwen-lessons", []), (elsewhere / "mine", ["--folder", "mine"])):
        said = opened("03", *arguments)
        assert f"The lessons are in {home}." in said and f"--ServerApp.root_dir={home}" in said
        assert str(home / "notebooks/03_delta_rule.ipynb") in said
        for pattern in ("notebooks/*.ipynb", "notebooks/solutions/*.py", "docs/glossary.md", "data/media/*"):
            for path in repository.glob(pattern):
                assert (home / path.relative_to(repository)).read_bytes() == path.read_bytes()

    here = elsewhere / "mine/notebooks"                 # again, from inside: nothing is copied into itself
    os.chdir(here)
    (here / "00_start_here.ipynb").write_text("worked on")
    assert f"The lessons are in {here.parent}." in opened()
    assert (here / "00_start_here.ipynb").read_text() == "worked on"
    assert not list(here.rglob("minqwen-lessons"))


# ------------------------------------------------------------------------------------------ lessons, version by version


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """release(version, lesson=...): what an installation of that version ships."""
    monkeypatch.setattr(files, "SHIPPED", tmp_path / "shipped")

    def release(version, **lessons):
        monkeypatch.setattr(files, "__version__", version)
        shutil.rmtree(tmp_path / "shipped", ignore_errors=True)
        for name, text in {"00_start": "start", **lessons}.items():
            for place in (f"notebooks/{name.strip('_')}.ipynb", f"notebooks/solutions/{name.strip('_')}.py",
                          "notebooks/mine/03.py", "data/media/wide.png"):
                path = tmp_path / "shipped" / place
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    release("1")
    return release


def texts(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("[!.]*") if path.is_file()}


def test_lessons_are_copied_and_renewed_as_long_as_they_are_as_they_were(shipped, tmp_path):
    lessons = tmp_path / "lessons"
    assert files.unpack(lessons) == []
    assert texts(lessons) == {"notebooks/00_start.ipynb": "start", "notebooks/solutions/00_start.py": "start",
                              "data/media/wide.png": "start"}, "and no one's own pieces"
    (lessons / "notebooks/00_start.ipynb").unlink()     # thrown away to begin anew
    shipped("2", _00_start="better", _01_more="more")
    assert files.unpack(lessons) == []
    assert texts(lessons) == {"notebooks/00_start.ipynb": "better", "notebooks/solutions/00_start.py": "better",
                              "notebooks/01_more.ipynb": "more", "notebooks/solutions/01_more.py": "more",
                              "data/media/wide.png": "more"}


def test_a_changed_lesson_stays_and_a_new_version_of_it_comes_beside(shipped, tmp_path):
    lessons = tmp_path / "lessons"
    mine, beside = lessons / "notebooks/00_start.ipynb", lessons / "notebooks/00_start_2.ipynb"
    files.unpack(lessons)
    mine.write_text("worked on")
    before = texts(lessons)
    assert files.unpack(lessons) == [] and texts(lessons) == before, "there is nothing new"

    shipped("2", _00_start="better")
    [said] = files.unpack(lessons)
    assert said == ("You have changed notebooks/00_start.ipynb, so it stays as it is; "
                    "00_start_2.ipynb beside it is this version's.")
    assert mine.read_text() == "worked on" and beside.read_text() == "better"
    assert (lessons / "notebooks/solutions/00_start.py").read_text() == "better"

    beside.write_text("worked on, too")
    before = texts(lessons)
    assert files.unpack(lessons) == [] and texts(lessons) == before

    shipped("3", _00_start="best")
    assert len(files.unpack(lessons)) == 1
    assert texts(lessons).items() >= (before | {"notebooks/00_start_3.ipynb": "best"}).items() - {
        ("notebooks/solutions/00_start.py", "better"), ("data/media/wide.png", "better")}


def test_a_folder_that_was_something_else_loses_nothing(shipped, tmp_path):
    lessons = tmp_path / "lessons"
    (lessons / "notebooks").mkdir(parents=True)
    (lessons / "notebooks/00_start.ipynb").write_text("my diary")
    assert "00_start_1.ipynb beside it" in files.unpack(lessons)[0]
    assert (lessons / "notebooks/00_start.ipynb").read_text() == "my diary"
    assert files.unpack(lessons) == []


def test_copying_that_breaks_off_leaves_nothing_half_written(shipped, tmp_path, monkeypatch):
    lessons = tmp_path / "lessons"
    files.unpack(lessons)
    shipped("2", _00_start="better")

    def fails(source, target):
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch, pytest.raises(QwenError, match=r"lessons \(No space left on device\)"):
        patch.setattr(files.os, "replace", fails)
        files.unpack(lessons)
    assert set(texts(lessons).values()) == {"start"} and not list(lessons.rglob("*.[0-9]*"))
    assert files.unpack(lessons) == []
    assert set(texts(lessons).values()) == {"better"}


@pytest.mark.parametrize("blocks", ["lessons", "lessons/notebooks"])
def test_a_file_where_a_folder_should_be_is_one_sentence(blocks, tmp_path, capsys):
    (tmp_path / blocks).parent.mkdir(exist_ok=True)
    (tmp_path / blocks).write_text("a file")
    assert cli.main(["lab", "--folder", str(tmp_path / "lessons")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("minqwen: The lessons cannot be copied to") and said.count("\n") == 1
    assert (tmp_path / blocks).read_text() == "a file"


def test_a_clone_is_left_alone(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository / "notebooks")
    assert cli.find_lesson("03") == repository / "notebooks/03_delta_rule.ipynb"
    assert cli.find_lesson("03", str(repository)) == repository / "notebooks/03_delta_rule.ipynb"
    monkeypatch.chdir(repository / "tests")
    assert cli.find_lesson("03") == repository / "notebooks/03_delta_rule.ipynb"
    assert not (repository / files.RECORD).exists() and not (repository / "tests/minqwen-lessons").exists()


def test_examples():
    assert files.example("wide.png").is_file() and files.example() == files.example("wide.png").parent
    with pytest.raises(QwenError, match=r"There is no example 'x.png'; there are landscape.jpg, moving.webp, "):
        files.example("x.png")
