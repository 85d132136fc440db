"""Shared by all tests: steady numbers, and the browser where there is one."""

import os
import shutil
import signal
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from minqwen.verify import let_torchvision_in

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; the tests of Ctrl-C need it
    signal.signal(signal.SIGINT, signal.default_int_handler)

let_torchvision_in()  # before a test imports transformers, which imports torchvision

REPOSITORY = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium():
    """The path of a Chromium to drive, or None. MINQWEN_CHROMIUM overrules the search."""
    named = os.environ.get("MINQWEN_CHROMIUM")
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def chromium():
    """Path of the browser for tests marked `browser`; without one they skip and say so."""
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium (Debian: apt-get install chromium), so no explorer was driven")
    return path


@pytest.fixture(scope="module")
def browser(request, tmp_path_factory):
    """A Chromium to open pages in. CI must have one."""
    if os.environ.get("CI") == "true" and find_chromium() is None:
        pytest.fail("CI has no Chromium: install it (Debian: apt-get install chromium), or no explorer is driven")
    from browser_support import a_browser

    with a_browser(request.getfixturevalue("chromium"), tmp_path_factory.mktemp("profile")) as context:
        yield context


@pytest.fixture
def page(browser):
    """A page that all explorers fit on; whatever they ask the network for, or complain of, is an error at the end."""
    from browser_support import watched
    from explorers_support import HEIGHT, WIDTH

    page = browser.new_page()
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    errors = watched(page, "file:")
    yield page
    assert errors == ([], [])
    page.close()


@pytest.fixture
def figures(monkeypatch):
    """[(figure, description)]: what is given to `plots.show`, which then shows nothing."""
    from minqwen import plots

    shown = []
    monkeypatch.setattr(plots, "show", lambda figure, alt=None: shown.append((figure, plots.description(figure, alt))))
    return shown


@pytest.fixture(scope="session")
def repository():
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def committed(repository):
    """Every file that is, or would be, committed; outside a clone, all but what .gitignore names."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    if listed.returncode:
        ignored = [".git", *(line.strip("/") for line in (repository / ".gitignore").read_text().split())]

        def counts(path):
            parts = path.relative_to(repository).parts
            return path.is_file() and not any(fnmatch(part, name) for part in parts for name in ignored)
        return list(filter(counts, repository.rglob("*")))
    return [path for name in listed.stdout.split("\0") if name and (path := repository / name).is_file()]


def pytest_terminal_summary(terminalreporter):
    """CI without a browser must not look like CI with one."""
    if os.environ.get("CI") and find_chromium() is None:
        warning = "WARNING: CI has no Chromium, so no explorer was driven in a browser."
        terminalreporter.write_line(warning, red=True, bold=True)
