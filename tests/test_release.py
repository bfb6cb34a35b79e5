"""What a release says of itself agrees, and the workflow that publishes one does so for a tag that agrees only."""

import os
import re
import subprocess
import sys

import page
import pytest
import yaml
from pack import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOW = ROOT / ".github" / "workflows" / "publish.yml"


def test_the_newest_change_is_of_this_version():
    changes = re.findall(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert changes[0] == PROJECT["project"]["version"] == "0.2.0"
    assert changes == sorted(changes, reverse=True, key=lambda version: tuple(map(int, version.split("."))))


def test_the_registry_is_told_what_it_asks_for():
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z-]{0,98}[a-z]", project["name"]) and "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert (ROOT / project["license"]["file"]).is_file()
    assert comfy["PublisherId"] and comfy["DisplayName"] == "Saddle-Free Guidance"
    oldest = ".".join(map(str, page.load_quickstart().OLDEST_HOST))
    assert comfy["requires-comfyui"] == f">={oldest}"


def test_publishing_needs_a_tag_and_one_secret():
    text = WORKFLOW.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow[True] == {"push": {"tags": ["v*.*.*"]}}  # YAML reads the key `on` as true
    assert set(re.findall(r"secrets\.(\w+)", text)) == {"REGISTRY_ACCESS_TOKEN"}
    assert workflow["permissions"] == {"contents": "read"}


def steps():
    """The shell steps of the workflow, in order."""
    (job,) = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step]


@pytest.fixture
def checkout(tmp_path):
    """A folder with the files that the steps read."""
    for name in ("pyproject.toml", "CHANGELOG.md"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def outcome(checkout, step, tag):
    """The exit code of a step, as the runner runs it for this tag."""
    environment = {
        **os.environ, "GITHUB_REF_NAME": tag, "GITHUB_SERVER_URL": "https://example.org", "GITHUB_REPOSITORY": "a/b",
    }
    return subprocess.run(["bash", "-e", "-c", step], cwd=checkout, env=environment).returncode


@pytest.mark.skipif(os.name == "nt", reason="the runner's shell is not on Windows")
@pytest.mark.parametrize("tag, passes", [("v0.2.0", True), ("v0.2.1", False), ("v0.1.0", False), ("v0x2.0", False)])
def test_a_tag_of_another_version_is_not_published(checkout, tag, passes):
    assert (outcome(checkout, steps()[0], tag) == 0) == passes


@pytest.mark.skipif(os.name == "nt", reason="the runner's shell is not on Windows")
def test_the_address_of_the_sources_is_added_once(checkout):
    for _ in range(2):
        assert outcome(checkout, steps()[1], "v0.2.0") == 0
        project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert project["urls"] == {"Repository": "https://example.org/a/b"}
