"""quickstart.py: the main job as a stranger runs it, and one sentence for everything that can go wrong."""

import importlib.util
import os
import subprocess
import sys
import tarfile
import urllib.request

import pytest
from pack import ROOT

SCRIPT = ROOT / "quickstart.py"


@pytest.fixture(scope="module")
def quickstart():
    spec = importlib.util.spec_from_file_location("quickstart", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments, **environment):
    """The script in a process of its own."""
    kept = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env={k: v for k, v in kept.items() if v is not None},
        capture_output=True, text=True,
    )


def refused(result, *words):
    """Exit code 2, nothing but one sentence, with these words in it."""
    assert result.returncode == 2, (result.stdout, result.stderr)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("quickstart: ") and lines[0].endswith(".")
    for word in words:
        assert word in lines[0]


def test_the_main_job_writes_a_picture_of_both():
    from PIL import Image, ImageChops

    result = run()
    assert result.returncode == 0, result.stderr
    written = [line.removeprefix("Written: ") for line in result.stdout.splitlines() if line.startswith("Written: ")]
    assert len(written) == 1
    with Image.open(written[0]) as picture:
        assert picture.size == (1236, 402)
        picture = picture.convert("RGB")
        left, right = picture.crop((0, 102, 606, 402)), picture.crop((630, 102, 1236, 402))
    assert max(high for _, high in left.getextrema()) > 150
    changed = ImageChops.difference(left, right).convert("L").point(lambda value: 255 * (value > 60))
    assert changed.histogram()[255] > 1000
    os.remove(written[0])


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--frobnicate"], ["--frobnicate", "--help"]),
        (["--port", "99999"], ["99999", "65535"]),
        (["--port", "many"], ["many"]),
        (["--run"], ["--run"]),
    ],
)
def test_wrong_options_are_named(arguments, words):
    refused(run(*arguments), *words)


def test_a_folder_that_is_no_comfyui_is_named(tmp_path):
    refused(run("--comfyui", str(tmp_path)), str(tmp_path), "main.py")


def test_an_old_comfyui_is_named_with_its_version(tmp_path):
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.29.4"\n')
    refused(run("--comfyui", str(tmp_path)), "0.29.4", "0.30.0")


def test_the_comfyui_it_sits_in_is_used(quickstart, tmp_path, monkeypatch):
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.30.0"\n')
    monkeypatch.setattr(quickstart, "ROOT", tmp_path / "custom_nodes" / "saddle-free-guidance")
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert quickstart.find_host(quickstart.parse_arguments([])) == (tmp_path, sys.executable)


def test_without_a_network_it_says_so_and_leaves_nothing(tmp_path):
    refused(
        run(COMFYUI_PATH=None, XDG_CACHE_HOME=str(tmp_path), PIP_NO_INDEX="1", PIP_FIND_LINKS=None),
        "download ComfyUI", "network",
    )
    assert list((tmp_path / "saddle-free-guidance").iterdir()) == []


def test_too_little_disk_is_said_before_anything_is_fetched(quickstart, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "DISK_NEEDED", 2**60)
    with pytest.raises(quickstart.QuickstartError, match=r"GB free and the private ComfyUI needs"):
        quickstart.install_host(tmp_path / "cache" / "host")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_made_is_named(quickstart, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(quickstart.QuickstartError, match=r"cache folder .*file cannot be made"):
        quickstart.install_host(tmp_path / "file" / "host")


def test_a_failing_step_leaves_nothing_half_installed(quickstart, tmp_path, monkeypatch):
    def fill(building):
        (building / "half").write_text("")
        raise quickstart.QuickstartError("stopped")

    monkeypatch.setattr(quickstart, "fill_host", fill)
    with pytest.raises(quickstart.QuickstartError):
        quickstart.install_host(tmp_path / "host")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_archive_is_refused(quickstart, tmp_path):
    archive = tmp_path / "comfy.tar.gz"
    archive.write_bytes(b"not an archive")
    with pytest.raises(quickstart.QuickstartError, match=r"broken or not the expected one"):
        quickstart.check_digest(archive)
    with pytest.raises(quickstart.QuickstartError, match=r"cannot be unpacked"):
        quickstart.unpack_archive(archive, tmp_path / "out")


def test_an_archive_that_reaches_outside_is_refused(quickstart, tmp_path):
    evil = tmp_path / "evil.py"
    evil.write_text("")
    archive = tmp_path / "comfy.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(evil, "x/vendor/ComfyUI/../../../escaped.py")
    with pytest.raises(quickstart.QuickstartError, match=r"outside its folder"):
        quickstart.unpack_archive(archive, tmp_path / "a" / "b" / "out")
    assert not list(tmp_path.rglob("escaped.py"))


def test_a_taken_port_is_named(quickstart):
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        refused(run("--serve", "--port", str(listener.getsockname()[1])), "in use", "--port")


def check_what_the_page_needs(quickstart, address):
    """The server knows every template of the pack, and hands out their thumbnails and the help pages."""
    templates = quickstart.get_json(f"{address}/workflow_templates")
    names = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    assert {"quickstart", "auto-guidance", "saddle-free-plus-auto-guidance"} <= names == set(templates[ROOT.name])
    paths = [f"/api/workflow_templates/{ROOT.name}/{name}.jpg" for name in names]
    paths += [f"/extensions/{ROOT.name}/docs/{page.name}" for page in (ROOT / "nodes/web/docs").glob("*.md")]
    for path in paths:
        with urllib.request.urlopen(f"{address}{path}") as answer:
            assert answer.status == 200


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to send")
def test_the_page_is_served_until_it_is_stopped_and_leaves_no_server(quickstart):
    port = quickstart.free_port()
    command = [sys.executable, str(SCRIPT), "--serve", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            link = next(line.removeprefix("Open ").strip() for line in process.stdout if line.startswith("Open "))
            assert link == f"http://127.0.0.1:{port}/?template=quickstart&source={ROOT.name}"
            check_what_the_page_needs(quickstart, f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
        assert process.wait(30) == 0
    assert not quickstart.port_is_taken(port)


def test_the_templates_run_as_the_page_sends_them(quickstart):
    """Each template, fetched from a server as the page does, makes one picture with differing panels."""
    from PIL import Image

    quickstart.OUTPUT.mkdir(exist_ok=True)
    comfyui, python = quickstart.find_host(quickstart.parse_arguments([]))
    port = quickstart.free_port()
    with quickstart.server(comfyui, python, port) as (address, process):
        info = quickstart.get_json(f"{address}/object_info")
        for name in ("auto-guidance", "saddle-free-plus-auto-guidance"):
            workflow = quickstart.get_json(f"{address}/api/workflow_templates/{ROOT.name}/{name}.json")
            (image,) = quickstart.execute(address, process, quickstart.to_prompt(workflow, info))
            path = quickstart.OUTPUT / image["subfolder"] / image["filename"]
            with Image.open(path) as picture:
                panels = (picture.width + 24) // (402 + 24)
                assert (panels, picture.height) == (3 if name == "auto-guidance" else 4, 402)
                left = (426 * panel for panel in range(panels))
                seen = {picture.convert("L").crop((x, 102, x + 402, 402)).tobytes() for x in left}
            assert len(seen) == panels
            os.remove(path)


def test_workflow_widgets_land_on_their_inputs(quickstart):
    workflow = {
        "links": [[1, 1, 0, 2, 0, "MODEL"]],
        "nodes": [
            {"id": 1, "type": "Source", "inputs": [], "widgets_values": []},
            {
                "id": 2, "type": "Sampler", "widgets_values": [5, "randomize", 8],
                "inputs": [
                    {"name": "model", "link": 1},
                    {"name": "seed", "widget": {"name": "seed"}, "link": None},
                    {"name": "steps", "widget": {"name": "steps"}, "link": None},
                ],
            },
            {"id": 3, "type": "Note", "widgets_values": ["text"]},
        ],
    }
    info = {
        "Source": {"input": {}},
        "Sampler": {
            "input": {
                "required": {
                    "model": ["MODEL"], "seed": ["INT", {"control_after_generate": True}], "steps": ["INT"],
                }
            }
        },
    }
    assert quickstart.to_prompt(workflow, info) == {
        "1": {"class_type": "Source", "inputs": {}},
        "2": {"class_type": "Sampler", "inputs": {"model": ["1", 0], "seed": 5, "steps": 8}},
    }
    with pytest.raises(quickstart.QuickstartError, match="node Sampler"):
        quickstart.to_prompt(workflow, {"Source": {"input": {}}})
