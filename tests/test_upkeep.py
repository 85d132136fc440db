"""What those who carry on find: workflows that do what is done here, a list of changes, how to cite it."""

import re

import pytest
import yaml

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
