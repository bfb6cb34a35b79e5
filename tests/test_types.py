"""What the type checker finds in the package, as pyproject.toml sets it up: strict where torch alone is needed."""

import os
import re
import subprocess
import sys

import pack
import page
import pytest

FOLDERS = ("curvature", "guidance", "nodes", "pipelines")
STRICT = ("curvature", "guidance")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The checker's errors by folder; its files are found through a link, as the checkout may have any name.

    What it knows of torch is kept between runs, which takes most of its time.
    """
    base = tmp_path_factory.mktemp("types")
    if os.name == "nt":
        pytest.skip("symbolic links need rights on Windows")
    (base / pack.NAME).symlink_to(pack.ROOT, target_is_directory=True)
    command = [sys.executable, "-m", "mypy", "--config-file", str(pack.ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(page.load_quickstart().cache_folder() / "types")]
    for folder in FOLDERS:
        command += ["--package", f"{pack.NAME}.{folder}"]
    done = subprocess.run(command, cwd=base, capture_output=True, text=True)
    checked = re.search(r"(?:checked|in) (\d+) source files", done.stdout)
    assert done.returncode in (0, 1) and checked, (done.stdout, done.stderr)
    assert int(checked[1]) >= sum(len(list((pack.ROOT / folder).rglob("*.py"))) for folder in FOLDERS)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    return {folder: [line for line in errors if line.startswith(f"{pack.NAME}/{folder}/")] for folder in FOLDERS}


@pytest.mark.parametrize("folder", sorted(set(FOLDERS) - set(STRICT)))
def test_no_type_is_wrong(found, folder):
    assert not found[folder], "\n".join(found[folder])


@pytest.mark.parametrize("folder", STRICT)
def test_everything_in_the_core_is_typed(found, folder):
    assert not found[folder], "\n".join(found[folder])
