"""Odd inputs: the host answers with the node and a sentence, or the node runs."""

import copy
import itertools
import random

import pytest
import torch
from cases import long_but
from graphs import Graph, guided, output, sample, steered
from host import failure
from odd_inputs import NODES, ODD, widgets
from seeds import SEED

EXPANDING = ("GuidanceSweep", "GuidanceVariations")  # into nodes of the host, which check what these hand on
COLLECTORS = ("GuidanceSweepGrid", "GuidanceVariationsBatch")
BROKEN_LINKS = [["nope", 0], ["1", 99], ["1", "x"]]


# --- Graphs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def executor(host):
    return host.executor(cached=True)


def add_scope(graph, made):
    samples = made["samples"]
    images = graph.add("VAEDecode", samples=samples, vae=made["vae"])
    scope = graph.add("CurvatureScope", trace=made["trace"], latent=samples, opacity=0.6, images=images)
    return output(scope, 1)


def sampling_of(made):
    return {
        "model": made["model"], "positive": made["condition"], "negative": made["condition"],
        "latent_image": made["latent"], "vae": made["vae"], "seed": 0, "steps": 1, "cfg": 1.0,
        "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0, "guidance_seed": 0, "directions": 1,
    }


def add_sweep(graph, made):
    return graph.add(
        "GuidanceSweep", **sampling_of(made), parameter="scale", values="0, 1", second_parameter="none",
        second_values="", scale=1.0, start_percent=0.0, end_percent=1.0,
    )


def add_variations(graph, made):
    return graph.add(
        "GuidanceVariations", **sampling_of(made), count=1, difference=1.0, order="by seed", plain_first=False
    )


def add_batch(graph, made):
    image = graph.add("VAEDecode", samples=made["samples"], vae=made["vae"])
    return graph.add(
        "GuidanceVariationsBatch", labels="one\ntwo", order="by seed", image_0=image, latent_0=made["samples"],
        image_1=image, latent_1=made["samples"],
    )


def add_grid(graph, made):
    image = graph.add("VAEDecode", samples=made["samples"], vae=made["vae"])
    return graph.add(
        "GuidanceSweepGrid", labels="one\ttwo", image_0=image, latent_0=made["samples"], image_1=image,
        latent_1=made["samples"],
    )


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
    add = {
        "CurvatureScope": add_scope, "GuidanceSweep": add_sweep, "GuidanceVariations": add_variations,
        "GuidanceVariationsBatch": add_batch, "GuidanceSweepGrid": add_grid,
    }.get(node)
    if add is not None:
        made = {"trace": output(saddle_free, 1), "samples": samples}
        picture = add(graph, made | {"model": demo, "condition": condition, "latent": latent, "vae": vae})
        graph.add("TestCaptureImage", images=picture, label="picture")
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


def sockets(host, node):
    if node in COLLECTORS:
        return ["image_0", "latent_0", "image_1", "latent_1"]
    return [item.id for item in host.node(node).define_schema().inputs if not hasattr(item, "default")]


def is_bare(data):
    """Whether a failure is Python's own complaint rather than a sentence of the node's."""
    return data["exception_type"] != "ValueError" or not data["exception_message"].strip().endswith(".")


def names(data, name):
    """Whether a failure is a sentence about an input and its value."""
    return not is_bare(data) and data["exception_message"].startswith((f"{name} is ", f"{name} holds "))


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


@pytest.mark.parametrize("node, count", long_but(
    itertools.product(NODES, (2, 12)), [(node, 2) for node in NODES if node != "GuidanceVariations"],
))
def test_every_widget_with_odd_values(host, executor, node, count):
    """Refused by the host on this node and by the input's name, or by the node in a sentence with it; or it runs.

    count: of random values beside those that are always tried.
    """
    generator = random.Random(f"{SEED} {node}")
    for item in widgets(host, node):
        wrong = []
        endless = item.id in ("steps", "denoise")  # the host's sampler takes thousands, and steps / denoise of them
        more = [] if endless else [random_value(generator) for _ in range(count)]
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
                about = item.id in message or (item.id == "labels" and " is missing; " in message)
                told = failed["node_type"] == node and not is_bare(failed) and about
                hosts_own = node in EXPANDING and sampler_says(host, executor, item.id, value) == message
                if not told and not hosts_own:
                    wrong.append((value, failed["node_type"], message))
        assert not wrong, f"seed {SEED}, {node}.{item.id}: {len(wrong)} of them, first {wrong[:3]}"


@pytest.mark.parametrize("node", long_but(NODES, [node for node in NODES if node != "GuidanceVariations"]))
def test_every_widget_with_odd_things_through_a_link(host, executor, node):
    """The host checks neither the range of what comes through a link nor, from an output of any type, its kind."""
    odd = host.node("TestOdd").INPUT_TYPES()["required"]["kind"][0]
    for item, thing in itertools.product(widgets(host, node), odd):
        prompt, name = graph_with(node)
        refused, failed = answer(host, executor, with_odd(prompt, name, item.id, thing))
        told = f"{node}.{item.id} with {thing}: {failed and failed['exception_message'].strip()}"
        assert refused is None
        if failed is None:
            assert fits(item, thing), told
        else:
            assert not fits(item, thing) or thing == "text", told
            assert failed["node_type"] == node and names(failed, item.id), told


def fits(item, thing):
    """Whether a thing is of the kind and in the range of a widget. 5 is no digit: the choices are texts."""
    if thing == "nothing":
        return item.optional
    if thing == "text":
        return isinstance(item.default, str | None) and not hasattr(item, "options")
    return thing == "number" and hasattr(item, "min") and item.min <= 5 <= item.max


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
    ("GuidanceSweep", "scale"), ("GuidanceSweep", "start_percent"), ("GuidanceVariations", "difference"),
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
        prompt[name]["inputs"].pop(item.id, None)
        refused, failed = answer(host, executor, prompt)
        if item.id in optional:
            assert (refused, failed) == (None, None)
        else:
            found = [(error["type"], error["details"]) for error in refused[node]]
            assert found == [("required_input_missing", item.id)]


def test_an_api_prompt_of_an_older_version_is_told_every_widget_that_it_lacks(host, executor):
    """As for the host's own nodes; the page fills them in from their defaults when it opens the graph."""
    known = {"SaddleFreeGuidance": 3, "AutoGuidance": 1, "GuidanceSweep": 9, "GuidanceVariations": 9, "KSampler": 4}
    for node, first in known.items():
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


@pytest.mark.parametrize("node", [node for node in NODES if node not in ("SaddleFreeDemoModel", *COLLECTORS)])
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


HOSTS_OWN = {  # the node of the host that takes what comes into a socket of a node that expands
    "positive": ("KSampler", "positive"), "negative": ("KSampler", "negative"),
    "latent_image": ("KSampler", "latent_image"), "vae": ("VAEDecode", "vae"),
}


@pytest.mark.parametrize("node", long_but(
    [node for node in NODES if node != "SaddleFreeDemoModel"],
    [node for node in NODES if node not in ("SaddleFreeDemoModel", "GuidanceSweep")],  # that expands as variations do
))
def test_every_socket_with_odd_things(host, executor, node):
    """A literal, or what a wildcard output gives: it runs or fails on this node with a sentence that names the input.

    In nodes that expand the host's own sampler and decoder take them, in Python's words only where they do so by
    themselves. The next run is as before.
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
        if (socket_id, thing) == ("strength_mask", "flat picture"):  # are masks, but too many for the batch
            assert failed["node_type"] == "KSampler" and not is_bare(failed), told
            assert failed["exception_message"].startswith("strength_mask of Saddle-Free Guidance cannot"), told
            continue
        assert failed["node_type"] == node, told
        if node in EXPANDING and is_bare(failed):
            assert fails_alike(host, executor, *HOSTS_OWN[socket_id], thing), told
        elif node in EXPANDING:
            assert names(failed, "model"), told
        else:
            assert names(failed, socket_id), told
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


@pytest.mark.parametrize("node", COLLECTORS)
@pytest.mark.parametrize("missing", ["image_0", "latent_0", "image_1", "latent_1"])
def test_what_collects_pictures_names_the_one_that_it_lacks(host, executor, node, missing):
    prompt, name = graph_with(node)
    del prompt[name]["inputs"][missing]
    refused, failed = answer(host, executor, prompt)
    if refused is not None:
        assert any(missing in error["details"] for error in refused[node])
    else:
        assert failed["node_type"] == node
        assert not is_bare(failed) and missing in failed["exception_message"]
