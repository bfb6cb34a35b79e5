"""Odd inputs: the host answers with the node and a sentence, or the node runs; and nothing from a file is evaluated."""

import ast
import builtins
import contextlib
import copy
import functools
import importlib.util
import itertools
import json
import os
import pickle
import random
import re
import socket
import subprocess
import sys

import pytest
import torch
from graphs import Graph, guided, output, sample, steered
from host import failure
from pack import ROOT
from safetensors.torch import load_file
from short_runs import quick_collections

SEED = int(os.environ.get("SADDLE_FREE_FUZZ_SEED", "20251121"))
NODES = (
    "SaddleFreeGuidance", "AutoGuidance", "WeakenModel", "CurvatureScope", "GuidanceSweep", "SaddleFreeDemoModel",
    "GuidanceSweepGrid",
)
ODD = [
    None, "", "abc", "nan", "-inf", "12x", "0x10", "1e999", "0, 1\n2;3", "\x00", "é" * 5000, "'; DROP TABLE x; --",
    "__import__('os').remove('x')", float("nan"), float("inf"), float("-inf"), 1e308, -1e308, 1e-320, 10**40, -(10**40),
    2**64, -1, -0.0, 0.5, 3.7, True, False, {}, {"a": 1}, [], [1], [1, 2, 3], {"__value__": [1, 2]},
    {"__value__": None}, {"__value__": float("nan")},
]
BROKEN_LINKS = [["nope", 0], ["1", 99], ["1", "x"]]


# --- Graphs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def executor(host):
    with quick_collections():
        yield host.executor(cached=True)


def graph_with(node, shape="2,3,8,8"):
    """A prompt that runs the node on tiny latents, and its id."""
    graph = Graph()
    demo = graph.add("SaddleFreeDemoModel", digit="3")
    condition, vae = output(demo, 3), output(demo, 2)
    latent = graph.add("TestLatentOfShape", shape=shape)
    weak = graph.add("WeakenModel", model=demo, method="more noise", strength=0.2)
    undecided = graph.add("TestUndecided", model=demo, amount=1.2)
    saddle_free = guided(graph, undecided)
    auto = steered(graph, saddle_free, weak)
    samples = sample(graph, "KSampler", auto, condition, condition, latent, steps=1)
    graph.add("TestCapture", samples=samples, label="run")
    if node == "CurvatureScope":
        images = graph.add("VAEDecode", samples=samples, vae=vae)
        scope = graph.add(
            "CurvatureScope", trace=output(saddle_free, 1), latent=samples, opacity=0.6, images=images
        )
        graph.add("TestCaptureImage", images=output(scope, 1), label="picture")
    if node == "GuidanceSweep":
        sweep = graph.add(
            "GuidanceSweep", model=demo, positive=condition, negative=condition, latent_image=latent, vae=vae, seed=0,
            steps=1, cfg=1.0, sampler_name="euler", scheduler="karras", denoise=1.0, parameter="scale", values="0, 1",
            second_parameter="none", second_values="", scale=1.0, guidance_seed=0, start_percent=0.0, end_percent=1.0,
            directions=1,
        )
        graph.add("TestCaptureImage", images=sweep, label="picture")
    if node == "GuidanceSweepGrid":
        image = graph.add("VAEDecode", samples=samples, vae=vae)
        grid = graph.add(
            "GuidanceSweepGrid", labels="one\ttwo", image_0=image, latent_0=samples, image_1=image, latent_1=samples
        )
        graph.add("TestCaptureImage", images=grid, label="picture")
    prompt = graph.prompt
    return prompt, next(name for name, entry in prompt.items() if entry["class_type"] == node)


def answer(host, executor, prompt):
    """What the host answers: errors of the validation by node type, or the failure's data, or None where it ran."""
    valid, error, outputs, errors = host.validate(prompt)
    if errors or not valid:
        assert errors, error
        return {entry["class_type"]: entry["errors"] for entry in errors.values()}, None
    host.record.clear()
    host.loop.run_until_complete(executor.execute_async(prompt, "test", {}, outputs))
    return None, None if executor.success else failure(executor)


def widgets(host, node):
    return [item for item in host.node(node).define_schema().inputs if hasattr(item, "default")]


def sockets(host, node):
    if node == "GuidanceSweepGrid":
        return ["image_0", "latent_0", "image_1", "latent_1"]
    return [item.id for item in host.node(node).define_schema().inputs if not hasattr(item, "default")]


def is_bare(data):
    """Whether a failure is Python's own complaint rather than a sentence of the node's."""
    return data["exception_type"] != "ValueError" or not data["exception_message"].strip().endswith(".")


def random_value(generator, depth=2):
    """Any JSON value."""
    kind = generator.randrange(7 if depth else 5)
    if kind == 5:
        return [random_value(generator, depth - 1) for _ in range(generator.choice((1, 3)))]
    if kind == 6:
        return {generator.choice(("a", "__value__", "")): random_value(generator, depth - 1)}
    text = "".join(chr(generator.choice((9, 32, 45, 46, 48, 49, 101, 233, 0x1F600))) for _ in range(6))
    return (None, text, generator.uniform(-1, 1) * 10.0 ** generator.randint(-300, 300),
            generator.randint(-(2**70), 2**70), generator.random() < 0.5)[kind]


# --- Widgets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", NODES)
def test_every_widget_with_odd_values(host, executor, node):
    """Refused by the host on this node and by the input's name, or by the node in a sentence with it; or it runs."""
    generator = random.Random(f"{SEED} {node}")
    for item in widgets(host, node):
        wrong = []
        more = [random_value(generator) for _ in range(12)] if item.id != "steps" else []  # thousands would be allowed
        for value in ODD + more:
            prompt, name = graph_with(node)
            prompt[name]["inputs"][item.id] = copy.deepcopy(value)
            refused, failed = answer(host, executor, prompt)
            if refused is not None:
                known = refused.get(node, [])
                told = known and all(
                    error["type"] != "exception_during_inner_validation" and item.id in error["details"]
                    for error in known
                )
                if not told:
                    wrong.append((value, refused))
            elif failed is not None:
                message = failed["exception_message"]
                told = failed["node_type"] == node and not is_bare(failed) and item.id in message
                if not told and not (node == "GuidanceSweep" and sampler_says(host, executor, item.id, value) == message):
                    wrong.append((value, failed["node_type"], message))
        assert not wrong, f"seed {SEED}, {node}.{item.id}: {len(wrong)} of them, first {wrong[:3]}"


def sampler_says(host, executor, knob, value):
    """What the host's own sampler says to a value of a knob that the sweep hands on to it."""
    prompt, name = graph_with("KSampler")
    prompt[name]["inputs"][knob] = value
    _, failed = answer(host, executor, prompt)
    return failed and failed["exception_message"]


KNOBS = [
    ("SaddleFreeGuidance", "scale"), ("SaddleFreeGuidance", "start_percent"), ("SaddleFreeGuidance", "end_percent"),
    ("SaddleFreeGuidance", "probe_radius"), ("AutoGuidance", "scale"), ("AutoGuidance", "start_percent"),
    ("AutoGuidance", "end_percent"), ("WeakenModel", "strength"), ("CurvatureScope", "opacity"),
    ("GuidanceSweep", "scale"), ("GuidanceSweep", "start_percent"),
]


@pytest.mark.parametrize("node, knob", KNOBS)
@pytest.mark.parametrize("value", [float("nan"), "nan"])
def test_a_number_that_is_none_is_refused(host, executor, node, knob, value):
    """The host lets NaN pass between min and max; it would make an image of nothing but NaN, or mean nothing."""
    prompt, name = graph_with(node)
    prompt[name]["inputs"][knob] = value
    if node == "GuidanceSweep":
        prompt[name]["inputs"] |= {"parameter": "guidance_seed", "values": "1"}
    refused, failed = answer(host, executor, prompt)
    if refused is not None:
        assert any(knob in error["details"] for error in refused[node])
    else:
        assert failed is not None, f"{knob} {value} is taken"
        assert failed["node_type"] == node and not is_bare(failed)
        assert f"{knob} is nan" in failed["exception_message"]


def test_the_host_itself_lets_nan_pass(host, executor):
    prompt, _ = graph_with("SaddleFreeGuidance")
    name = next(name for name, entry in prompt.items() if entry["class_type"] == "KSampler")
    prompt[name]["inputs"]["cfg"] = float("nan")
    assert answer(host, executor, prompt) == (None, None)


@pytest.mark.parametrize("link", BROKEN_LINKS, ids=str)
def test_a_link_to_nowhere_is_answered_as_for_the_hosts_own_nodes(host, executor, link):
    answers = set()
    for node, knob in (("SaddleFreeGuidance", "scale"), ("AutoGuidance", "weak_model"), ("KSampler", "cfg")):
        prompt, name = graph_with(node)
        prompt[name]["inputs"][knob] = link
        refused, _ = answer(host, executor, prompt)
        assert node in refused
        answers |= {(error["type"], error["details"]) for error in refused[node]}
    assert len(answers) == 1


# --- Missing inputs, and graphs of older versions --------------------------------------------------------------------


@pytest.mark.parametrize("node", NODES)
def test_each_missing_input_is_named(host, executor, node):
    optional = {item.id for item in host.node(node).define_schema().inputs if getattr(item, "optional", False)}
    for item in host.node(node).define_schema().inputs:
        prompt, name = graph_with(node)
        del prompt[name]["inputs"][item.id]
        refused, failed = answer(host, executor, prompt)
        if item.id in optional:
            assert (refused, failed) == (None, None)
        else:
            found = [(error["type"], error["details"]) for error in refused[node]]
            assert found == [("required_input_missing", item.id)]


def test_an_api_prompt_of_an_older_version_is_told_every_widget_that_it_lacks(host, executor):
    """As for the host's own nodes; the page fills them in from their defaults when it opens the graph."""
    for node, first in (("SaddleFreeGuidance", 3), ("AutoGuidance", 1), ("GuidanceSweep", 9), ("KSampler", 4)):
        prompt, name = graph_with(node)
        entry = prompt[name]["inputs"]
        lacks = [key for key, value in entry.items() if not isinstance(value, list)][first:]
        prompt[name]["inputs"] = {key: value for key, value in entry.items() if key not in lacks}
        refused, _ = answer(host, executor, prompt)
        assert sorted(error["details"] for error in refused[node]) == sorted(lacks)
        assert {error["type"] for error in refused[node]} == {"required_input_missing"}


def test_inputs_that_a_node_does_not_have_are_ignored(host, executor):
    for node in NODES:
        prompt, name = graph_with(node)
        prompt[name]["inputs"] |= {"of_a_later_version": 3, "": "x", "__class__": "y"}
        assert answer(host, executor, prompt) == (None, None), node


# --- Sockets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", [node for node in NODES if node not in ("SaddleFreeDemoModel", "GuidanceSweepGrid")])
def test_a_link_of_the_wrong_type_is_refused_by_name(host, executor, node):
    sources = {"MODEL": 0, "VAE": 2, "CONDITIONING": 3}  # outputs of the demo model
    for item in host.node(node).define_schema().inputs:
        for kind, index in sources.items():
            if kind == item.io_type:
                continue
            prompt, name = graph_with(node)
            prompt[name]["inputs"][item.id] = ["1", index]
            refused, _ = answer(host, executor, prompt)
            assert [error["type"] for error in refused[node]] == ["return_type_mismatch"]
            assert refused[node][0]["details"].startswith(f"{item.id}, received_type({kind})")


HOSTS_OWN = {  # a node of the host with such a socket
    "model": ("KSampler", "model"), "weak_model": ("KSampler", "model"), "positive": ("KSampler", "positive"),
    "negative": ("KSampler", "negative"), "latent": ("KSampler", "latent_image"),
    "latent_image": ("KSampler", "latent_image"), "vae": ("VAEDecode", "vae"), "images": ("ImageScale", "image"),
}


@pytest.mark.parametrize("node", [node for node in NODES if node not in ("SaddleFreeDemoModel", "GuidanceSweepGrid")])
def test_every_socket_with_odd_things(host, executor, node):
    """A literal, or what a wildcard output gives: it runs or fails on this node.

    In Python's words only where the host's own nodes do the same; the next run is as before.
    """
    prompt, _ = graph_with(node, "2,3,8,08")
    assert answer(host, executor, prompt) == (None, None)
    expected = host.record.latents["run"]
    odd = host.node("TestOdd").INPUT_TYPES()["required"]["kind"][0]
    for socket_id, thing in itertools.product(sockets(host, node), ["literal", *odd]):
        prompt, name = graph_with(node)
        refused, failed = answer(host, executor, with_odd(prompt, name, socket_id, thing))
        assert refused is None
        if failed is None:
            continue
        told = f"{node}.{socket_id} with {thing}: {failed['exception_message'].strip()}"
        assert failed["node_type"] == node, told
        if is_bare(failed):
            assert socket_id in HOSTS_OWN, told
            assert fails_alike(host, executor, *HOSTS_OWN[socket_id], thing), told
    prompt, _ = graph_with(node, "2,3,8,008")  # the same latent, sampled anew
    assert answer(host, executor, prompt) == (None, None)
    assert torch.equal(host.record.latents["run"], expected)


def with_odd(prompt, name, socket_id, thing):
    """The prompt with an odd thing in a node's socket."""
    if thing == "literal":
        prompt[name]["inputs"][socket_id] = "abc"
    else:
        prompt["odd"] = {"class_type": "TestOdd", "inputs": {"kind": thing}}
        prompt[name]["inputs"][socket_id] = ["odd", 0]
    return prompt


KNOWN = {}


def fails_alike(host, executor, node, socket_id, thing):
    """Whether a node of the host fails in Python's words, too, with such a thing in a socket of the kind."""
    if (node, socket_id, thing) not in KNOWN:
        prompt, _ = graph_with("CurvatureScope")
        if node == "ImageScale":
            inputs = {"image": None, "upscale_method": "bilinear", "width": 16, "height": 16, "crop": "disabled"}
            prompt["own"] = {"class_type": node, "inputs": inputs}
            prompt["end"] = {"class_type": "TestCaptureImage", "inputs": {"images": ["own", 0], "label": "x"}}
        name = next(name for name, entry in prompt.items() if entry["class_type"] == node)
        _, failed = answer(host, executor, with_odd(prompt, name, socket_id, thing))
        KNOWN[node, socket_id, thing] = failed is not None and is_bare(failed)
    return KNOWN[node, socket_id, thing]


@pytest.mark.parametrize("thing", ["nothing", "number", "text", "dictionary", "tensor"])
def test_the_scope_says_what_is_no_trace(host, executor, thing):
    """The socket is the pack's own, so no node of the host is an example."""
    prompt, name = graph_with("CurvatureScope")
    _, failed = answer(host, executor, with_odd(prompt, name, "trace", thing))
    assert failed["node_type"] == "CurvatureScope"
    assert not is_bare(failed) and "trace" in failed["exception_message"]


@pytest.mark.parametrize("missing", ["image_0", "latent_0", "image_1", "latent_1"])
def test_the_grid_names_the_cell_that_it_lacks(host, executor, missing):
    prompt, name = graph_with("GuidanceSweepGrid")
    del prompt[name]["inputs"][missing]
    refused, failed = answer(host, executor, prompt)
    if refused is not None:
        assert any(missing in error["details"] for error in refused["GuidanceSweepGrid"])
    else:
        assert failed["node_type"] == "GuidanceSweepGrid"
        assert not is_bare(failed) and missing in failed["exception_message"]


# --- Workflow files --------------------------------------------------------------------------------------------------


@pytest.fixture
def quickstart(host, monkeypatch):
    """quickstart.py with the host of this process in place of a server's."""
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    info = {name: {"input": cls.INPUT_TYPES()} for name, cls in needed(host).items()}

    @contextlib.contextmanager
    def server(*_):
        yield "here", None

    def execute(address, process, prompt):
        valid, error, *_ = host.validate(json.loads(json.dumps(prompt)))
        assert valid or error["message"]
        return []

    monkeypatch.setattr(module, "server", server)
    monkeypatch.setattr(module, "get_json", lambda url, data=None: info)
    monkeypatch.setattr(module, "real_execute", module.execute, raising=False)
    monkeypatch.setattr(module, "execute", execute)
    monkeypatch.setattr(module, "say", lambda text: None)
    return module


@functools.cache
def workflows():
    """The texts of the workflow files, by name."""
    paths = [*(ROOT / "workflows").glob("*.json"), *(ROOT / "tests" / "graphs_saved").glob("*.json")]
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(paths)}


def needed(host):
    """The node classes that occur in them."""
    types = {node["type"] for text in workflows().values() for node in json.loads(text)["nodes"]}
    return {name: cls for name, cls in host.nodes.NODE_CLASS_MAPPINGS.items() if name in types}


def run_file(quickstart, path, text, told):
    """The main job with such a workflow file; returns the sentence that it ends with, or None where it runs."""
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    quickstart.WORKFLOW = path
    try:
        quickstart.make_pictures(None, None)
    except quickstart.QuickstartError as error:
        message = str(error)
        assert len(message.splitlines()) == 1 and message.endswith("."), (told, message)
        return message
    except Exception as error:
        raise AssertionError(f"{told}: a traceback of {error!r}") from error
    return None


def test_every_workflow_file_runs_as_it_is(quickstart, tmp_path):
    for name, text in workflows().items():
        assert run_file(quickstart, tmp_path / name, text, name) is None


def test_workflow_files_cut_off_anywhere(quickstart, tmp_path):
    generator = random.Random(SEED)
    for name, text in workflows().items():
        for end in [0, 1, 2, *generator.sample(range(3, len(text.rstrip()) - 1), 8)]:
            message = run_file(quickstart, tmp_path / name, text[:end], f"seed {SEED}, {name} cut at {end}")
            assert message is not None and name in message


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "3", '"x"', "{}", '{"nodes": 3}', '{"nodes": [], "links": []}', "[" * 100000,
        "\udcff\udcfe{}", "\x00",
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_files_that_hold_no_workflow(quickstart, tmp_path, text):
    message = run_file(quickstart, tmp_path / "workflow.json", text, repr(text[:20]))
    assert message is not None or text == '{"nodes": [], "links": []}'


def test_a_workflow_file_that_is_gone(quickstart, tmp_path):
    quickstart.WORKFLOW = tmp_path / "gone.json"
    with pytest.raises(quickstart.QuickstartError, match=r"gone\.json.*\.$"):
        quickstart.make_pictures(None, None)


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


def test_workflow_files_with_random_edits(quickstart, tmp_path):
    generator = random.Random(SEED)
    parsed = {name: json.loads(text) for name, text in workflows().items()}
    for number in range(400):
        name = generator.choice(sorted(parsed))
        workflow, told = parsed[name], []
        for _ in range(generator.randint(1, 3)):
            workflow, where = edited(generator, workflow)
            told.append(where)
        run_file(quickstart, tmp_path / name, json.dumps(workflow), f"seed {SEED}, edit {number} of {name}: {told}")


def test_a_server_that_has_gone_is_a_sentence(quickstart):
    """Before the prompt is queued and while it is sampled."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    quickstart.get_json = get_json(quickstart)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(quickstart.QuickstartError, match=r"\.$"):
        quickstart.real_execute(address, gone, {})


def get_json(quickstart):
    """The script's own get_json."""
    spec = importlib.util.spec_from_file_location("quickstart", quickstart.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_json


# --- Nothing is evaluated --------------------------------------------------------------------------------------------

EVALUATES = {
    "eval", "exec", "compile", "__import__", "execfile", "pickle", "cPickle", "dill", "cloudpickle", "joblib",
    "marshal", "shelve", "yaml", "jsonpickle", "torch.load", "torch.jit.load", "numpy.load", "np.load",
    "load_torch_file", "torch.hub.load", "runpy", "os.system",
}
FOLDERS = ("nodes", "guidance", "curvature")
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


@pytest.mark.parametrize("kind", ["pickle", "torch", "cut off", "empty", "gone", "no description"])
def test_demo_weights_that_are_no_safetensors_are_refused_and_never_run(host, monkeypatch, tmp_path, kind):
    path = tmp_path / "model.safetensors"
    monkeypatch.setattr(sys.modules[host.node("SaddleFreeDemoModel").__module__], "WEIGHTS", tmp_path)
    good = (ROOT / "workflows" / "demo_model" / "model.safetensors").read_bytes()
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Payload()))
    elif kind == "torch":
        torch.save({"x": Payload()}, path)
    elif kind == "no description":
        path.write_bytes(b"\x02" + bytes(7) + b"{}")
    elif kind != "gone":
        path.write_bytes(good[: len(good) // 2] if kind == "cut off" else b"")
    prompt, _ = graph_with("SaddleFreeGuidance")
    executor = host.run(prompt)
    assert not executor.success and not hasattr(builtins, "evaluated")
    assert failure(executor)["node_type"] == "SaddleFreeDemoModel"
    message = failure(executor)["exception_message"].strip()
    assert "model.safetensors" in message and "install the pack again" in message and message.endswith(".")


def test_the_demo_weights_are_safetensors():
    paths = [path for path in (ROOT / "workflows" / "demo_model").iterdir() if path.suffix != ".md"]
    assert sorted(path.name for path in paths) == ["model.safetensors", "weak.safetensors"]
    for path in paths:
        assert all(value.isfinite().all() for value in load_file(path).values())
