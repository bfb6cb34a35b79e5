"""Files that are damaged or are not what they say: one sentence, and nothing from a file is evaluated."""

import ast
import builtins
import contextlib
import copy
import functools
import http.server
import json
import pickle
import random
import re
import socket
import sys
import threading

import demo_server
import prompts
import pytest
import torch
from graphs import branches, demo
from host import failure
from odd_inputs import NODES, ODD, widgets
from pack import ROOT
from safetensors.torch import load_file, save_file
from seeds import SEED

# --- Workflow files --------------------------------------------------------------------------------------------------


@pytest.fixture
def run_file(host, monkeypatch):
    """Does quickstart.py's main job with the host of this process; gives the sentence of its error, or None."""

    @contextlib.contextmanager
    def server(*_):
        yield "here", None

    def execute(address, process, prompt):
        try:
            valid, error, _, node_errors = host.validate(json.loads(json.dumps(prompt)))
        except Exception as error:  # for which the server answers 500 and what it is
            raise demo_server.QuickstartError(f"ComfyUI refused the workflow: {type(error).__name__}.") from error
        if not valid:
            told = demo_server.refusal(json.dumps({"error": error, "node_errors": node_errors}).encode())
            named = [f"{node['class_type']}: " for node in node_errors.values()]
            assert told and all(name in told for name in named), (told, error, node_errors)
            raise demo_server.QuickstartError(f"{told}.")
        return []

    monkeypatch.setattr(demo_server, "server", server)
    monkeypatch.setattr(demo_server, "execute", execute)
    monkeypatch.setattr(demo_server, "say", lambda text: None)
    return functools.partial(run_with, monkeypatch)


def run_with(monkeypatch, path, text, told):
    """The main job with this text as its workflow file."""
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr(demo_server, "PROMPT", path)
    try:
        demo_server.make_pictures(None, None)
    except demo_server.QuickstartError as error:
        message = str(error)
        assert len(message.splitlines()) == 1 and message.endswith("."), (told, message)
        return message
    except Exception as error:
        raise AssertionError(f"{told}: a traceback of {error!r}") from error
    return None


@functools.cache
def workflows():
    """The texts of the page's workflow files, by name."""
    paths = [*(ROOT / "workflows").glob("*.json"), *(ROOT / "tests" / "graphs_saved").glob("*.json")]
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(paths)}


@pytest.fixture
def declared(host):
    """The input types of every node in them."""
    types = {node["type"] for text in workflows().values() for node in json.loads(text)["nodes"]}
    return {name: cls.INPUT_TYPES() for name, cls in host.nodes.NODE_CLASS_MAPPINGS.items() if name in types}


@pytest.fixture
def saved(declared):
    """The texts of all of them in the API format, as workflows/api/ has it, by name."""
    converted = {name: prompts.to_prompt(json.loads(text), declared) for name, text in workflows().items()}
    return {name: json.dumps(prompt, indent=2) + "\n" for name, prompt in converted.items()}


def test_what_workflows_api_holds_is_what_the_page_sends(host):
    paths = sorted(prompts.API.glob("*.json"))
    assert [path.name for path in paths] == ["quickstart.json"]
    for path in paths:
        written = prompts.text_of(ROOT / "workflows" / path.name, host.nodes.NODE_CLASS_MAPPINGS)
        assert path.read_text(encoding="utf-8") == written, f"run: python quickstart.py --run {prompts.__file__}"


def test_every_workflow_runs_as_it_is(run_file, saved, tmp_path):
    """Or lacks nothing but the files of models, and the picture that every installed host has to begin with."""
    missing = "Value not in list", "Invalid image file: example.png"
    for name, text in saved.items():
        message = run_file(tmp_path / name, text, name)
        told = [] if message is None else message.split("; ")
        assert all(any(words in one for words in missing) for one in told), (name, message)


def test_a_refusal_names_every_node_whatever_files_the_host_has():
    files = [f"{number}.safetensors" for number in range(500)]
    errors = {
        node: {"class_type": node, "errors": [{"message": "Value not in list", "details": f"x: 'y' not in {files}"}]}
        for node in ("CLIPLoader", "VAELoader")
    }
    told = demo_server.refusal(json.dumps({"error": {"message": "no"}, "node_errors": errors}).encode())
    assert told.startswith("CLIPLoader: Value not in list, x: 'y' not in ['0.safetensors'") and len(told) < 450
    assert "; VAELoader: Value not in list, x: 'y' not in [" in told and told.endswith("'499.safetensors']")


def test_widgets_that_an_old_file_lacks_are_at_their_defaults(host, declared):
    """As the page has it: values are saved by position, and only ever appended."""
    checked = 0
    for text in workflows().values():
        whole = prompts.to_prompt(json.loads(text), declared)
        workflow = json.loads(text)
        for node in workflow["nodes"]:
            if node["type"] in NODES:
                node["widgets_values"] = node["widgets_values"][:1]
        for name, entry in prompts.to_prompt(workflow, declared).items():
            kinds = widgets(host, entry["class_type"]) if entry["class_type"] in NODES else []
            for place, item in enumerate(kinds):
                if item.id not in whole[name]["inputs"]:  # the file is older than the input
                    assert item.optional and item.id not in entry["inputs"]
                    continue
                linked = isinstance(whole[name]["inputs"][item.id], list)
                kept = whole[name]["inputs"][item.id] if place == 0 or linked else item.default
                assert entry["inputs"][item.id] == kept
                checked += place > 0
    assert checked > 50


def test_workflow_files_cut_off_anywhere(run_file, saved, tmp_path):
    generator = random.Random(SEED)
    for name, text in saved.items():
        for end in [0, 1, 2, *generator.sample(range(3, len(text.rstrip()) - 1), 8)]:
            message = run_file(tmp_path / name, text[:end], f"seed {SEED}, {name} cut at {end}")
            assert message is not None and name in message


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "3", '"x"', "{}", '{"1": 3}', '{"nodes": [], "links": []}', "[" * 100000,
        "\udcff\udcfe{}", "\x00",
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_files_that_hold_no_workflow(run_file, tmp_path, text):
    assert run_file(tmp_path / "workflow.json", text, repr(text[:20])) is not None


def test_a_workflow_file_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_server, "PROMPT", tmp_path / "gone.json")
    with pytest.raises(demo_server.QuickstartError, match=r"gone\.json.*\.$"):
        demo_server.make_pictures(None, None)


def edited(generator, value):
    """A copy of a JSON value with one thing in it changed at random, and where."""
    value = copy.deepcopy(value)
    part, path = value, []
    while True:
        keys = list(part) if isinstance(part, dict) else range(len(part))
        key = generator.choice(keys)
        path.append(key)
        inner = part[key]
        if isinstance(inner, (dict, list)) and inner and generator.random() < 0.85:
            part = inner
            continue
        what = generator.choice(("delete", "odd", "odd", "double", "shuffle"))
        if what == "delete":
            del part[key]
        elif what == "double" and isinstance(part, list):
            part.insert(key, copy.deepcopy(inner))
        elif what == "shuffle" and isinstance(part, list):
            generator.shuffle(part)
        else:
            part[key] = copy.deepcopy(generator.choice([*ODD[:8], 10**40, -1, True, {}, [], [1], {"a": 1}]))
        return value, f"{what} at {path}"


def test_workflow_files_with_random_edits(run_file, saved, tmp_path):
    generator = random.Random(SEED)
    parsed = {name: json.loads(text) for name, text in saved.items()}
    for number in range(400):
        name = generator.choice(sorted(parsed))
        workflow, told = parsed[name], []
        for _ in range(generator.randint(1, 3)):
            workflow, where = edited(generator, workflow)
            told.append(where)
        run_file(tmp_path / name, json.dumps(workflow), f"seed {SEED}, edit {number} of {name}: {told}")


@contextlib.contextmanager
def answering(status, body, length=None):
    """The address of a server with one answer to everything; without a status it hangs up instead."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if status is not None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


REFUSED = {
    "error": {"message": "Prompt outputs failed validation"},
    "node_errors": {"3": {"class_type": "KSampler", "errors": [{"message": "Value is too small", "details": "cfg"}]}},
}
ERROR = {"node_type": "KSampler", "exception_message": "Too big.\n\nTIP\n"}
FAILED = {"status": {"messages": [["execution_error", ERROR]]}}


@pytest.mark.parametrize(
    "status, body, length, told",
    [
        (400, json.dumps(REFUSED).encode(), None, "refused the workflow: KSampler: Value is too small, cfg."),
        (400, json.dumps(REFUSED | {"node_errors": {}}).encode(), None, "workflow: Prompt outputs failed validation."),
        (500, b"Internal\nServer Error", None, "refused the workflow: Internal Server Error."),
        (400, b"[3]", None, "refused the workflow: [3]."),
        (200, json.dumps({"prompt_id": "1", "1": FAILED}).encode(), None, "the node KSampler failed: Too big."),
        (200, b"no JSON", None, "stopped answering; run again with --serve to see why."),
        (200, b"{}", 100, "stopped answering; run again with --serve to see why."),
        (None, b"", None, "stopped answering; run again with --serve to see why."),
    ],
)
def test_a_server_that_refuses_or_fails_is_a_sentence(status, body, length, told):
    with answering(status, body, length) as address, pytest.raises(demo_server.QuickstartError) as caught:
        demo_server.execute(address, None, {})
    assert str(caught.value).endswith(told)


def test_a_server_that_has_gone_is_a_sentence():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(demo_server.QuickstartError, match=r"stopped answering.*\.$"):
        demo_server.execute(address, None, {})


# --- Nothing is evaluated --------------------------------------------------------------------------------------------

EVALUATES = {
    "eval", "exec", "compile", "__import__", "execfile", "pickle", "cPickle", "dill", "cloudpickle", "joblib",
    "marshal", "shelve", "yaml", "jsonpickle", "torch.load", "torch.jit.load", "numpy.load", "np.load",
    "load_torch_file", "torch.hub.load", "runpy", "os.system",
}
FOLDERS = ("nodes", "guidance", "curvature", "pipelines")
MODULES = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])


def dotted(node):
    """The dotted name of an expression, "" where it has none."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def evaluations(source):
    """Names in a module's source that evaluate what they are given."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call):
            found.add(dotted(node.func))
    return {name for name in found if any(part in EVALUATES for part in (name, *name.split("."))) } - {"re.compile"}


@pytest.mark.parametrize("source", [
    "eval('1')", "import pickle", "from pickle import loads", "import torch\ntorch.load('x')", "import yaml",
    "builtins.exec('x')", "x = comfy.utils.load_torch_file(path)",
])
def test_the_check_below_finds_what_it_looks_for(source):
    assert evaluations(source)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_evaluates_what_it_reads(path):
    assert evaluations(path.read_text(encoding="utf-8")) == set()


def test_no_script_of_the_page_evaluates_what_it_reads():
    scripts = list((ROOT / "nodes" / "web").rglob("*.js"))
    assert scripts
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\beval\s*\(|\bFunction\s*\(|document\.write|\bimport\s*\(", text), path


class Payload:
    """What a pickle would run."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.evaluated = True",)


@pytest.mark.parametrize("kind", [
    "pickle", "torch", "cut off", "empty", "gone", "no description", "another description", "no sizes", "other weights",
])
def test_demo_weights_that_are_no_safetensors_are_refused_and_never_run(host, monkeypatch, tmp_path, kind):
    path = tmp_path / "model.safetensors"
    loader = sys.modules[host.node("SaddleFreeDemoModel").__module__.replace(".demo_model", ".host.demo_model")]
    monkeypatch.setattr(loader, "WEIGHTS", tmp_path)
    good = (ROOT / "workflows" / "demo_model" / "model.safetensors").read_bytes()
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Payload()))
    elif kind == "torch":
        torch.save({"x": Payload()}, path)
    elif kind == "no description":
        path.write_bytes(b"\x02" + bytes(7) + b"{}")
    elif kind in ("another description", "no sizes", "other weights"):
        config = {"another description": "{", "no sizes": "{}", "other weights": '{"width": 48, "blocks": 4}'}[kind]
        save_file({"x": torch.zeros(1)}, path, {"config": config})
    elif kind != "gone":
        path.write_bytes(good[: len(good) // 2] if kind == "cut off" else b"")
    executor = host.run(branches(demo(), {"run": {}}))
    assert not executor.success and not hasattr(builtins, "evaluated")
    assert failure(executor)["node_type"] == "SaddleFreeDemoModel"
    message = failure(executor)["exception_message"].strip()
    assert "model.safetensors" in message and "install the pack again" in message and message.endswith(".")


def test_the_demo_weights_are_safetensors():
    paths = [path for path in (ROOT / "workflows" / "demo_model").iterdir() if path.suffix != ".md"]
    names = ["emoji", "emoji-8-steps", "emoji-weak", "model", "weak"]
    assert sorted(path.name for path in paths) == sorted(f"{name}.safetensors" for name in names)
    for path in paths:
        assert all(value.isfinite().all() for value in load_file(path).values())
