"""quickstart.py: the main job as a stranger runs it, and one sentence for everything that can go wrong."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request

import demo_server
import page
import prompts
import pytest
from pack import ROOT

SCRIPT = ROOT / "quickstart.py"


@pytest.fixture(scope="module")
def quickstart():
    return page.load_quickstart()


def run(*arguments, script=SCRIPT, **environment):
    """The script in a process of its own."""
    kept = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, str(script), *arguments], env={k: v for k, v in kept.items() if v is not None},
        capture_output=True, text=True,
    )


def refused(result, *words):
    """Exit code 2, nothing but one sentence, with these words in it."""
    assert result.returncode == 2, (result.stdout, result.stderr)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("quickstart: ") and lines[0].endswith(".")
    for word in words:
        assert word in lines[0]


def in_fewer_steps(folder, steps):
    """The script in a copy of the pack, whose quickstart takes so many steps."""
    pack = folder / "saddle-free-guidance"
    shutil.copytree(ROOT, pack, ignore=shutil.ignore_patterns(".git", "output", "__pycache__"))
    path = pack / demo_server.PROMPT.relative_to(ROOT)
    prompt = json.loads(path.read_text())
    samplers = [node["inputs"] for node in prompt.values() if node["class_type"] == "KSampler"]
    assert {inputs["steps"] for inputs in samplers} == {24}
    for inputs in samplers:
        inputs["steps"] = steps
    path.write_text(json.dumps(prompt))
    return pack / "quickstart.py"


@pytest.mark.parametrize("steps", [4, pytest.param(24, marks=pytest.mark.long)])
def test_the_main_job_writes_a_picture_of_both(tmp_path, steps):
    from PIL import Image, ImageChops

    result = run(script=SCRIPT if steps == 24 else in_fewer_steps(tmp_path, steps))
    assert result.returncode == 0, result.stderr
    written = [line.removeprefix("Written: ") for line in result.stdout.splitlines() if line.startswith("Written: ")]
    assert len(written) == 1
    with Image.open(written[0]) as picture:
        assert picture.size == (1176, 384)
        picture = picture.convert("RGB")
        left, right = picture.crop((0, 96, 576, 384)), picture.crop((600, 96, 1176, 384))
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
    """Neither uv nor, where the user has one, anything else is half there."""
    refused(
        run(COMFYUI_PATH=None, XDG_CACHE_HOME=str(tmp_path), PIP_NO_INDEX="1", PIP_FIND_LINKS=None, PATH=""),
        "install uv", "network",
    )
    assert list((tmp_path / "saddle-free-guidance").iterdir()) == []


# --- The page and its server -----------------------------------------------------------------------------------------


def test_a_taken_port_is_named():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        refused(run("--serve", "--port", str(listener.getsockname()[1])), "in use", "--port")


def check_what_the_page_needs(address):
    """The server knows every template of the pack, and hands out their thumbnails and the help pages."""
    templates = demo_server.get_json(f"{address}/workflow_templates")
    names = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    assert {"quickstart", "auto-guidance", "saddle-free-plus-auto-guidance"} <= names == set(templates[ROOT.name])
    paths = [f"/api/workflow_templates/{ROOT.name}/{name}.jpg" for name in names]
    paths += [f"/extensions/{ROOT.name}/docs/{page.name}" for page in (ROOT / "nodes/web/docs").glob("*.md")]
    for path in paths:
        with urllib.request.urlopen(f"{address}{path}") as answer:
            assert answer.status == 200


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to send")
def test_the_page_is_served_until_it_is_stopped_and_leaves_no_server():
    port = demo_server.free_port()
    command = [sys.executable, str(SCRIPT), "--serve", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            link = next(line.removeprefix("Open ").strip() for line in process.stdout if line.startswith("Open "))
            assert link == f"http://127.0.0.1:{port}/?template=quickstart&source={ROOT.name}"
            check_what_the_page_needs(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
        assert process.wait(30) == 0
    assert not demo_server.port_is_taken(port)


@pytest.mark.long
def test_the_templates_run_as_the_page_sends_them(quickstart, output):
    """Each template, fetched from a server as the page does, makes one picture with differing panels."""
    from PIL import Image

    comfyui, python = quickstart.find_host(quickstart.parse_arguments([]))
    with demo_server.server(comfyui, python, demo_server.free_port()) as (address, process):
        declared = {name: node["input"] for name, node in demo_server.get_json(f"{address}/object_info").items()}
        for name in ("auto-guidance", "saddle-free-plus-auto-guidance"):
            workflow = demo_server.get_json(f"{address}/api/workflow_templates/{ROOT.name}/{name}.json")
            (image,) = demo_server.execute(address, process, prompts.to_prompt(workflow, declared))
            path = output / image["subfolder"] / image["filename"]
            with Image.open(path) as picture:
                panels = (picture.width + 24) // (384 + 24)
                assert (panels, picture.height) == (3 if name == "auto-guidance" else 4, 384)
                left = (408 * panel for panel in range(panels))
                seen = {picture.convert("L").crop((x, 96, x + 384, 384)).tobytes() for x in left}
            assert len(seen) == panels
            os.remove(path)


def test_workflow_widgets_land_on_their_inputs():
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
    declared = {
        "Source": {},
        "Sampler": {
            "required": {"model": ["MODEL"], "seed": ["INT", {"control_after_generate": True}], "steps": ["INT"]},
        },
    }
    assert prompts.to_prompt(workflow, declared) == {
        "1": {"class_type": "Source", "inputs": {}},
        "2": {"class_type": "Sampler", "inputs": {"model": ["1", 0], "seed": 5, "steps": 8}},
    }


# --- The tests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, passed",
    [
        ([], ["-c"]),
        (["--all", "-x"], ["-x", "-m", ""]),
        (["--no-browser"], [f"--ignore-glob={ROOT / 'tests' / 'test_*page*.py'}"]),
    ],
)
def test_what_is_passed_on_to_pytest(quickstart, monkeypatch, capsys, arguments, passed):
    commands, browsers = [], []
    monkeypatch.setattr(quickstart, "provide_test_tools", lambda python: None)
    monkeypatch.setattr(quickstart, "provide_browser", lambda: browsers.append("provided"))
    monkeypatch.setattr(quickstart, "in_host", lambda comfyui, command: commands.append(command) or 0)
    assert quickstart.run_tests("ComfyUI", "python", arguments) == 0
    (command,) = commands
    assert command[:5] == ["python", "-m", "pytest", "-c", str(ROOT / "tests" / "pytest.ini")]
    assert str(ROOT / "tests") in command and set(passed) <= set(command)
    assert not {"--all", "--no-browser"} & set(command)
    left_out = "--no-browser" in arguments
    assert browsers == ([] if left_out else ["provided"])
    assert ("are left out, as --no-browser says" in capsys.readouterr().out) == left_out


@pytest.mark.parametrize(
    "arguments, cores, processes",
    [
        ([], 2, "2"), (["-k", "words"], 64, "4"), (["--all"], 2, "2"), ([], 1, None), (["-n", "3"], 2, None),
        (["-n3"], 2, None), (["--pdb"], 2, None), ([__file__], 2, None), ([f"{__file__}::test_it"], 2, None),
    ],
)
def test_the_whole_suite_has_a_process_a_core(quickstart, monkeypatch, arguments, cores, processes):
    """Not where somebody says how many, debugs, or names files."""
    commands = []
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(quickstart, "provide_test_tools", lambda python: None)
    monkeypatch.setattr(quickstart, "provide_browser", lambda: None)
    monkeypatch.setattr(quickstart, "in_host", lambda comfyui, command: commands.append(command) or 0)
    quickstart.run_tests("ComfyUI", "python", arguments)
    (command,) = commands
    assert ("--dist" in command) == (processes is not None)
    assert processes is None or command[command.index("-n") + 1] == processes


def run_small_suite(folder, text, *options):
    """The result of pytest, with the settings of the suite, for the tests in a text."""
    (folder / "test_small.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "tests" / "pytest.ini"), "--rootdir", str(folder)]
    return subprocess.run([*command, *options, str(folder)], capture_output=True, text=True)


@pytest.mark.parametrize("options, ran", [([], 1), (["-m", ""], 2)])
def test_long_tests_run_with_all_only(tmp_path, options, ran):
    text = "import pytest\ndef test_short(): pass\n@pytest.mark.long\ndef test_long(): pass\n"
    done = run_small_suite(tmp_path, text, *options)
    assert done.returncode == 0 and f"{ran} passed" in done.stdout, done.stdout


def test_a_process_that_dies_is_red_and_names_its_test(tmp_path):
    text = "import os\ndef test_one(): pass\ndef test_dies(): os._exit(0)\ndef test_other(): pass\n"
    done = run_small_suite(tmp_path, text, "-n", "2", "--dist", "worksteal")
    assert done.returncode == 1 and "1 failed, 2 passed" in done.stdout, done.stdout
    assert "test_small.py::test_dies" in done.stdout


def test_another_environment_is_told_what_it_lacks_and_left_alone(quickstart, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(quickstart.QuickstartError, match=r"lacks the test tools; run: .* pip install -r .*tests\.in"):
        quickstart.provide_test_tools(str(python))


def test_a_missing_browser_is_named_where_it_may_not_be_installed(quickstart, tmp_path, monkeypatch, capsys):
    (tmp_path / "apt-get").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    quickstart.provide_browser()
    assert capsys.readouterr().out == (
        "No browser (chromium, chromium-browser, google-chrome) is on the PATH: the tests of the page cannot run.\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="apt-get is not on Windows")
@pytest.mark.parametrize("works", [True, False])
def test_a_missing_browser_is_installed_or_done_without(quickstart, tmp_path, monkeypatch, capsys, works):
    installer = tmp_path / "apt-get"
    effect = f"[ $1 = update ] || /bin/cp $0 {tmp_path}/chromium" if works else "exit 1"
    installer.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{effect}\n')
    installer.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert quickstart.find_browser() is None
    quickstart.provide_browser()
    said = capsys.readouterr().out.strip().splitlines()
    assert quickstart.find_browser() == (str(tmp_path / "chromium") if works else None)
    assert len(said) == (1 if works else 2)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["update", "install -y --no-install-recommends chromium fonts-dejavu-core"][: 2 if works else 1]
    if works:
        quickstart.provide_browser()
        assert (tmp_path / "asked").read_text().splitlines() == asked
