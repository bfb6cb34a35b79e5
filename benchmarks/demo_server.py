"""The demo in a real ComfyUI: a server with only this pack, a client that executes a workflow in it, and the page.

Needs nothing but the standard library; quickstart.py runs it before there is any package.
"""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "output"
PROMPT = ROOT / "workflows" / "api" / "quickstart.json"
START_SECONDS = 600  # the first start of a new environment compiles all that it imports
MOST_LETTERS = 2000  # of an answer of the host


class QuickstartError(Exception):
    """Something the user can mend; the message is the whole sentence to show."""


def say(text):
    """One line for the user."""
    print(text, flush=True)


def succeeds(command, **options):
    """Whether a quiet command exits with 0."""
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options).returncode == 0


# --- The server ------------------------------------------------------------------------------------------------------


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


# --- The client ------------------------------------------------------------------------------------------------------


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


def progress(text):
    """A line that is overwritten, where there is a terminal; None ends it."""
    if sys.stdout.isatty():
        print(f"\r{text:<60}" if text else "", end="" if text else "\n", flush=True)


# --- What quickstart.py shows ----------------------------------------------------------------------------------------


def make_pictures(comfyui, python):
    """The main job: the quickstart workflow, executed by the real host."""
    prompt = read_prompt(PROMPT)
    OUTPUT.mkdir(exist_ok=True)
    say("Starting ComfyUI")
    with server(comfyui, python, free_port()) as (address, process):
        images = execute(address, process, prompt)
    for image in images:
        if image["type"] == "output":
            say(f"Written: {OUTPUT / image['subfolder'] / image['filename']}")
    say("Left: the model alone. Right: the same noise with saddle-free guidance.")
    return 0


def read_prompt(path):
    """A workflow in the host's API format."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QuickstartError(f"the workflow {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise QuickstartError(f"the workflow {path} is cut off or no JSON; put the original back.") from error


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
