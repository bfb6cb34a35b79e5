"""Guidance Sweep in the real host: the right pictures, each computed once, and bad lists refused on the node."""

import pytest
import torch
from graphs import Graph, guided, output, sample
from host import failure

KNOBS = {"scale": 1.0, "guidance_seed": 0, "start_percent": 0.0, "end_percent": 1.0, "directions": 1}
LISTS = {"parameter": "scale", "values": "0, 2", "second_parameter": "none", "second_values": ""}
SAMPLING = {"steps": 6, "cfg": 1.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0, "seed": 7}


def sweep(batch=1, **changes):
    """A prompt with a sweep on the watched demo model."""
    graph = Graph()
    model = graph.add("SaddleFreeDemoModel", digit="3")
    negative = graph.add("ConditioningZeroOut", conditioning=output(model, 3))
    latent = graph.add("EmptyLatentImage", width=32, height=32, batch_size=batch)
    watch = graph.add("TestWatch", model=model, label="sweep", break_at=0, how="interrupt")
    swept = graph.add(
        "GuidanceSweep", model=watch, positive=output(model, 3), negative=negative, latent_image=latent,
        vae=output(model, 2), **(SAMPLING | LISTS | KNOBS | changes),
    )
    graph.add("TestCapture", samples=output(swept, 1), label="latents")
    graph.add("TestCaptureImage", images=swept, label="grid")
    return graph.prompt


def by_hand(host, batch, **knobs):
    """The latent of one cell, from the nodes that an artist would connect."""
    graph = Graph()
    model = graph.add("SaddleFreeDemoModel", digit="3")
    negative = graph.add("ConditioningZeroOut", conditioning=output(model, 3))
    latent = graph.add("EmptyLatentImage", width=32, height=32, batch_size=batch)
    samples = sample(
        graph, "KSampler", guided(graph, model, refresh_every=0, **knobs), output(model, 3), negative, latent,
        scheduler="karras", steps=SAMPLING["steps"],
    )
    graph.add("TestCapture", samples=samples, label="one")
    return host.latents(graph.prompt)["one"]


@pytest.mark.parametrize("batch", [1, 3])
def test_each_cell_is_what_the_nodes_by_hand_make(host, batch):
    latents = host.latents(sweep(batch, values="0, 2\n4"))["latents"]
    assert latents.shape == (3 * batch, 3, 32, 32)
    for cell, scale in zip(latents.split(batch), (0.0, 2.0, 4.0)):
        assert torch.equal(cell, by_hand(host, batch, scale=scale))
    assert (latents[batch:] - latents[:-batch]).abs().amax() > 0.01


@pytest.mark.parametrize("batch", [1, 3])
def test_one_cell_is_the_plain_picture(host, batch):
    """With one value what the nodes by hand make, and with 0 what the sampler makes without any of our nodes."""
    assert torch.equal(host.latents(sweep(batch, values="4"))["latents"], by_hand(host, batch, scale=4.0))
    off = host.latents(sweep(batch, values="0"))["latents"]
    grid = host.record.images["grid"]
    graph = Graph()
    model = graph.add("SaddleFreeDemoModel", digit="3")
    latent = graph.add("EmptyLatentImage", width=32, height=32, batch_size=batch)
    negative = graph.add("ConditioningZeroOut", conditioning=output(model, 3))
    samples = sample(
        graph, "KSampler", model, output(model, 3), negative, latent, scheduler="karras", steps=SAMPLING["steps"]
    )
    graph.add("TestCapture", samples=samples, label="plain")
    graph.add("TestCaptureImage", images=graph.add("VAEDecode", samples=samples, vae=output(model, 2)), label="image")
    assert torch.equal(off, host.latents(graph.prompt)["plain"])
    if batch == 1:
        shown = host.record.images["image"][0].repeat_interleave(6, dim=0).repeat_interleave(6, dim=1)
        assert torch.allclose(grid[0, -12 - 192 : -12, 12 : 12 + 192], shown, atol=0.01)


def test_two_knobs_make_rows_and_columns(host):
    latents = host.latents(
        sweep(values="1; 3", second_parameter="guidance_seed", second_values="5\uff0c6\u30017", start_percent=0.2)
    )["latents"]
    cells = [(scale, seed) for seed in (5, 6, 7) for scale in (1.0, 3.0)]
    for cell, (scale, seed) in zip(latents, cells):
        assert torch.equal(cell[None], by_hand(host, 1, scale=scale, guidance_seed=seed, start_percent=0.2))


def test_one_more_value_costs_one_more_picture(host):
    executor = host.executor(cached=True)
    one, two, three, none, other = (
        len(evaluations(host, executor, sweep(values=values, seed=seed)))
        for values, seed in (("2", 7), ("2, 4", 7), ("1, 2, 4", 7), ("4, 1, 2", 7), ("4, 1, 2", 8))
    )
    assert min(one, two, three) > SAMPLING["steps"]
    assert none == 0 and max(one, two, three) < 2 * SAMPLING["steps"] and other > 3 * SAMPLING["steps"]


def evaluations(host, executor, prompt):
    """Sigmas of the model evaluations that a prompt costs in an executor that caches."""
    host.run(prompt, executor)
    assert executor.success, failure(executor)
    return host.record.evaluations["sweep"]


@pytest.mark.parametrize("values, columns, rows", [("1", 1, 1), ("1 2 3", 3, 1), ("0 1 2 3 4 5 6", 3, 3)])
def test_the_grid_holds_every_picture_and_a_label(host, values, columns, rows):
    latents = host.latents(sweep(values=values))["latents"]
    grid = host.record.images["grid"]
    side, gap = 192, 12
    line = round(1.6 * max(9, min(28, round(1.7 * side / len("scale 1")))))
    assert grid.shape == (1, rows * (side + line + gap) + gap, columns * (side + gap) + gap, 3)
    for cell in range(len(values.split())):
        left, top = gap + cell % columns * (side + gap), gap + cell // columns * (side + line + gap)
        label = grid[0, top : top + line, left : left + side]
        picture = grid[0, top + line : top + line + side, left : left + side]
        assert label.min() < 0.2 and label.max() == 1.0
        decoded = (latents[cell].movedim(0, -1) / 2 + 0.5).clamp(0, 1)  # the demo model's latents are pixels
        enlarged = decoded.repeat_interleave(6, dim=0).repeat_interleave(6, dim=1)
        assert (picture - enlarged).abs().max() < 0.01


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"values": " , "}, ["values is empty", "scale"]),
        ({"values": "1, two"}, ["'two'", "number", "0 to 20"]),
        ({"values": "nan"}, ["'nan'", "number"]),
        ({"values": "1, 21"}, ["21", "0 to 20"]),
        ({"values": "-1"}, ["-1", "0 to 20"]),
        ({"parameter": "directions", "values": "1.5"}, ["'1.5'", "whole number", "1 to 16"]),
        ({"parameter": "start_percent", "values": "0 1.01"}, ["1.01", "0 to 1"]),
        ({"parameter": "guidance_seed", "values": "99999999999999999999"}, ["99999999999999999999", "guidance_seed"]),
        (
            {"parameter": "guidance_seed", "values": " ".join(map(str, range(65)))},
            ["65 pictures", "64", "guidance_seed 64"],
        ),
        (
            {"values": "1 2 3 4 5 6 7 8 9", "second_parameter": "directions", "second_values": "1 2 3 4 5 6 7 8"},
            ["72 pictures (9 x 8)", "directions 8"],
        ),
        ({"second_parameter": "scale", "second_values": "1"}, ["both scale"]),
        ({"second_parameter": "directions", "second_values": ""}, ["second_values is empty"]),
        ({"parameter": "sharpness"}, ["'sharpness'", "scale, guidance_seed"]),
    ],
)
def test_bad_lists_are_refused_on_the_node_before_sampling(host, changes, words):
    valid, _, _, node_errors = host.validate(sweep(**changes))
    assert not valid
    (error,) = (details for details in node_errors.values() if details["class_type"] == "GuidanceSweep")
    text = " ".join(f"{entry['message']} {entry['details']}" for entry in error["errors"])
    for word in words:
        assert word in text


def test_a_bad_list_from_another_node_is_refused_when_it_runs(host):
    prompt = sweep()
    prompt["90"] = {"class_type": "PrimitiveString", "inputs": {"value": "1, two"}}
    swept = next(node for node in prompt.values() if node["class_type"] == "GuidanceSweep")
    swept["inputs"]["values"] = ["90", 0]
    executor = host.run(prompt)
    assert not executor.success
    error = failure(executor)
    assert error["node_type"] == "GuidanceSweep" and "'two'" in error["exception_message"]
    assert host.record.evaluations["sweep"] == []
