"""Every widget of every node is a plain input: linked to another node's output, as XYZ plots do, it does the same."""

import pytest
import torch
from graphs import Graph, guided, output, sample, steered
from host import failure

STEPS = 6
SOURCES = {"INT": "PrimitiveInt", "FLOAT": "PrimitiveFloat", "STRING": "PrimitiveString", "COMBO": "PrimitiveString"}
CHANGED = {  # what each widget is set to, each another value than its default
    "SaddleFreeGuidance": {
        "scale": 6.0, "guidance_seed": 5, "start_percent": 0.05, "end_percent": 0.9, "probe_radius": 0.3,
        "refresh_every": 2, "directions": 2, "strength_curve": "fade out",
    },
    "AutoGuidance": {"scale": 2.5, "start_percent": 0.1, "end_percent": 0.8},
    "WeakenModel": {"method": "more noise", "strength": 0.3},
    "CurvatureScope": {"opacity": 0.9},
    "GuidanceSweep": {
        "seed": 3, "steps": 7, "cfg": 1.5, "sampler_name": "heun", "scheduler": "simple", "denoise": 0.9,
        "parameter": "guidance_seed", "values": "1, 2", "second_parameter": "scale", "second_values": "2, 6",
        "scale": 2.0, "guidance_seed": 4, "start_percent": 0.05, "end_percent": 0.9, "directions": 2,
    },
    "SaddleFreeDemoModel": {"digit": "3", "model": "digits", "kind": "cat", "style": "blob"},
}
FEW_SADDLES = ("SaddleFreeGuidance",)  # in these steps, so that not every widget has something to change
FEW = {"steps": STEPS}  # of the sweep, where its default is more


def graph_of(name):
    """A prompt with every node that the one under test needs, at its defaults, and the place of that one."""
    graph = Graph()
    emoji = name == "SaddleFreeDemoModel"
    own = [demo] = [graph.add("SaddleFreeDemoModel", digit="none", model="emoji" if emoji else "digits")]
    latent = graph.add("EmptyLatentImage", width=64 if emoji else 32, height=64 if emoji else 32, batch_size=1)
    model, weak, vae, conditioning = demo, output(demo, 1), output(demo, 2), output(demo, 3)
    if name == "GuidanceSweep":
        own = [graph.add(
            name, model=model, positive=conditioning, negative=conditioning, latent_image=latent, vae=vae, **FEW,
        )]
        graph.add("TestCapture", samples=output(own[0], 1), label="latent")
        graph.add("TestCaptureImage", images=own[0], label="image")
        return graph, own[0][0]
    if name == "WeakenModel":
        own = [graph.add(name, model=model)]
        model = steered(graph, model, own[0])
    elif name == "AutoGuidance":
        own = [model := graph.add(name, model=model, weak_model=weak)]
    elif name != "SaddleFreeDemoModel":
        model = guided(graph, model, scale=6.0)
        own = [model]
    samples = sample(graph, "KSampler", model, conditioning, conditioning, latent, steps=STEPS, scheduler="karras")
    graph.add("TestCapture", samples=samples, label="latent")
    if name == "CurvatureScope":
        images = graph.add("VAEDecode", samples=samples, vae=vae)
        own = [graph.add(name, trace=output(model, 1), latent=samples, images=images)]
        graph.add("TestCaptureImage", images=output(own[0], 1), label="image")
    return graph, own[0][0]


def defaults(host, name):
    """Widget -> default and the kind of its link."""
    inputs = host.node(name).define_schema().inputs
    return {item.id: (item.default, item.io_type) for item in inputs if hasattr(item, "default")}


def made(host, executor, name, values, kinds=None):
    """What is captured with these values of the widgets; where `kinds` are given, each comes through a link."""
    graph, node = graph_of(name)
    inputs = graph.prompt[node]["inputs"]
    for widget, value in values.items():
        inputs[widget] = value if kinds is None else linked(graph, kinds[widget], value)
    host.run(graph.prompt, executor)
    assert executor.success, failure(executor)
    record = host.record
    return {"latent": record.latents.get("latent"), **record.images}


def linked(graph, kind, value):
    """A core node's output of this value; one of any type for a list's choice, which no core node has an output for."""
    source = graph.add(SOURCES[kind], value=value)
    if kind != "COMBO":
        return source
    return graph.add("ComfySwitchNode", switch=True, on_true=source, on_false=source)


def same(one, other):
    """Whether two runs captured the same, bit for bit."""
    return all(torch.equal(one[label], other[label]) for label in one if one[label] is not None)


@pytest.mark.parametrize("name", CHANGED)
def test_a_link_does_what_the_widget_does(host, name):
    found, changed = defaults(host, name), dict(CHANGED[name])
    assert set(changed) == set(found)  # a new widget is to be listed above
    kinds = {widget: kind for widget, (_, kind) in found.items() if widget in changed}
    before = {widget: found[widget][0] for widget in kinds} | (FEW if name == "GuidanceSweep" else {})
    if name == "SaddleFreeDemoModel":
        before["model"] = changed["model"] = "emoji"  # digits have another size

    def run(values, kinds=None):
        return made(host, host.executor(), name, values, kinds)

    by_widget = run(changed)
    assert same(run(changed, kinds), by_widget)
    plain = run(before)
    assert not same(plain, by_widget)
    assert same(run(before, kinds), plain)


@pytest.mark.parametrize("name", ["SaddleFreeGuidance", "AutoGuidance", "WeakenModel"])
def test_each_value_of_a_plot_is_what_it_is_alone(host, name):
    """In one executor that caches, one widget after another and back: nothing of a run is left for the next."""
    executor = host.executor(cached=True)
    found = {widget: value for widget, (value, _) in defaults(host, name).items()}
    first = made(host, executor, name, found)
    for widget, value in CHANGED[name].items():
        changed = found | {widget: value}
        plotted = made(host, executor, name, changed)
        assert same(plotted, made(host, host.executor(), name, changed)), widget
        assert name in FEW_SADDLES or not same(plotted, first), widget
    assert same(made(host, host.executor(), name, found), first)
