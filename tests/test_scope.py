"""The trace and the Curvature Scope in the real host: what is traced, sent, plotted and mapped."""

import sys

import pytest
import torch
from graphs import Graph, demo, guided, output, sample, stand_in, watched
from host import failure
from pack import ROOT

EVENT = "saddle_free_guidance.trace"
REFUSED = "images holds 2 pictures and the trace 3"


def scoped(host, *, family="demo", batch=3, images=None, scope=True, break_at=0, sampler="euler", **knobs):
    """A prompt that samples a guided, watched model and shows its trace."""
    graph = Graph()
    source = demo("3") if family == "demo" else stand_in(family, host.models)
    model, positive, negative, latent = source(graph)
    model = guided(graph, watched(graph, model, "main", break_at), **({"scale": 2.0} | knobs))
    samples = sample(graph, "KSampler", model, positive, negative, latent(batch), steps=8, sampler=sampler)
    graph.add("TestCapture", samples=samples, label="latent")
    graph.add("TestCaptureTrace", trace=output(model, 1), latent=samples, label="trace")
    if scope:
        chosen = {} if images is None else {"images": images(graph, samples)}
        seen = graph.add("CurvatureScope", trace=output(model, 1), latent=samples, opacity=0.6, **chosen)
        graph.add("TestCaptureImage", images=seen, label="plot")
        graph.add("TestCaptureImage", images=output(seen, 1), label="heat")
    return graph.prompt


def blank(width, height, count):
    """Images of one colour, as an input of the scope."""
    return lambda graph, samples: graph.add("EmptyImage", width=width, height=height, batch_size=count, color=0x808080)


def record(host):
    """The traced run in plain numbers."""
    return host.record.traces["trace"].plain()


def messages(host):
    """The live messages since last asked."""
    host.loop.run_until_complete(_turn())
    found, queue = [], host.server.messages
    while not queue.empty():
        event, data, _ = queue.get_nowait()
        if event == EVENT:
            found.append(data)
    return found


async def _turn():
    """Lets what was sent from elsewhere arrive."""


@pytest.mark.parametrize("family", ["demo", "sd3", "wan"])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_call_is_traced(host, family, batch):
    host.latents(scoped(host, family=family, batch=batch, sampler="heun", directions=2))
    traced = record(host)
    assert [call["sigma"] for call in traced["calls"]] == pytest.approx(host.record.calls["main"])
    assert all(call["active"] for call in traced["calls"])
    for call in traced["calls"]:
        assert len(call["rayleigh"]) == len(call["push"]) == len(call["acted"]) == batch
        assert all(len(quotients) == 2 for quotients in call["rayleigh"])
        for quotients, push, acted in zip(call["rayleigh"], call["push"], call["acted"]):
            assert acted == (push > 0)
            assert not acted or max(quotients) > 1


def test_calls_outside_the_window_say_so(host):
    host.latents(scoped(host, start_percent=0.3, end_percent=0.7))
    traced = record(host)
    start, end = traced["window"]
    inside = [end <= call["sigma"] <= start for call in traced["calls"]]
    assert [call["active"] for call in traced["calls"]] == inside and 0 < sum(inside) < len(inside) == 8
    reasons = {call["reason"] for call in traced["calls"] if not call["active"]}
    assert reasons == {"sigma was outside start_percent 0.3 to end_percent 0.7"}


def test_an_image_alone_has_the_trace_it_has_in_a_batch(host):
    host.latents(scoped(host, batch=3))
    together = record(host)["calls"]
    graph = Graph()
    model, positive, negative, latent = demo("3")(graph)
    model = guided(graph, model, scale=2.0)
    alone = graph.add("LatentFromBatch", samples=latent(3), batch_index=1, length=1)
    samples = sample(graph, "KSampler", model, positive, negative, alone, steps=8)
    graph.add("TestCaptureTrace", trace=output(model, 1), latent=samples, label="trace")
    host.run(graph.prompt)
    for one, many in zip(record(host)["calls"], together, strict=True):
        assert one["rayleigh"][0] == pytest.approx(many["rayleigh"][1], rel=1e-3)


def test_a_scope_changes_no_bit_of_the_picture(host):
    seen = host.latents(scoped(host))["latent"]
    assert torch.equal(seen, host.latents(scoped(host, scope=False))["latent"])


def test_scale_zero_traces_nothing_and_says_why(host):
    host.latents(scoped(host, scale=0.0, images=blank(64, 64, 3)))
    assert record(host)["calls"] == [] and "its scale is 0" in record(host)["off"]
    assert torch.equal(host.record.images["heat"], torch.full((3, 64, 64, 3), 128 / 255))


def test_an_interrupt_keeps_the_calls_until_then(host):
    messages(host)
    executor = host.run(scoped(host, break_at=9))
    assert not executor.success
    assert 3 <= len(sent(messages(host))) <= 5


def sent(data):
    """The calls that the page holds after these messages."""
    calls = []
    for message in data:
        calls = calls[: message["first"]] + message["calls"]
    return calls


def test_the_page_is_told_every_call_and_only_with_a_scope(host):
    messages(host)
    prompt = scoped(host)
    host.latents(prompt)
    told = messages(host)
    (scope,) = (name for name, node in prompt.items() if node["class_type"] == "CurvatureScope")
    assert all(message["nodes"] == [scope] for message in told)
    assert sent(told) == record(host)["calls"] and len(record(host)["calls"]) == 8
    host.latents(scoped(host, scope=False))
    assert messages(host) == []


def renamed(node):
    """The node in a prompt whose ids all begin with 9."""
    inputs = {key: [f"9{value[0]}", value[1]] if isinstance(value, list) else value
              for key, value in node["inputs"].items()}
    return {**node, "inputs": inputs}


def test_a_cached_guidance_node_of_another_id_tells_the_scope_of_this_prompt(host):
    """As when two workflows with the same guidance are run one after the other."""
    executor, prompt = host.executor(cached=True), scoped(host)
    other = {f"9{name}": renamed(node) for name, node in prompt.items()}
    next(node for node in other.values() if node["class_type"] == "KSampler")["inputs"]["seed"] += 1
    host.run(prompt, executor)
    messages(host)
    host.run(other, executor)
    assert executor.success
    (scope,) = (name for name, node in other.items() if node["class_type"] == "CurvatureScope")
    told = messages(host)
    assert told and all(message["nodes"] == [scope] for message in told)
    assert len(sent(told)) == 8


def test_lists_that_are_no_links_are_passed_over(host):
    """Nodes of other packs have lists of points and the like as values."""
    graph = Graph()
    graph.prompt.update(scoped(host))
    sampler = next(node for node in graph.prompt.values() if node["class_type"] == "KSampler")
    sampler["inputs"]["points"] = [[1, 2], [3, 4]]
    messages(host)
    host.latents(graph.prompt)
    assert len(sent(messages(host))) == 8


def test_a_node_of_other_values_under_the_old_id_is_not_taken_for_it(host):
    prompt = sys.modules[str(ROOT).replace(".", "_x_") + ".nodes.host.prompt"]
    node = {"class_type": "SaddleFreeGuidance", "inputs": {"model": ["1", 0], "scale": 2, "directions": ["5", 0]}}
    assert prompt._is_guidance(node, {"scale": 2.0, "directions": 3})
    assert not prompt._is_guidance(node, {"scale": 1.0, "directions": 3})
    assert not prompt._is_guidance({**node, "class_type": "KSampler"}, {"scale": 2.0})


def test_the_page_is_told_at_most_ten_times_a_second(host, monkeypatch):
    """By a clock that every look at it moves on by 30 ms: 8 calls are 0.24 s."""
    live_trace = sys.modules[str(ROOT).replace(".", "_x_") + ".nodes.ui.live_trace"]
    ticks = iter(range(10**6))
    monkeypatch.setattr(live_trace.time, "monotonic", lambda: 100 + 0.03 * next(ticks))
    messages(host)
    host.latents(scoped(host))
    told = messages(host)
    assert 2 <= len(told) <= 6
    assert sent(told) == record(host)["calls"]


def test_the_scope_s_own_output_is_the_whole_trace(host):
    executor = host.run(scoped(host))
    shown = [ui["trace"] for ui in executor.history_result["outputs"].values() if "trace" in ui]
    assert shown == [[record(host)]]


def test_two_halves_of_a_sampling_are_one_trace(host):
    graph = Graph()
    model, positive, negative, latent = demo("3")(graph)
    model = guided(graph, model, scale=2.0)
    halves = latent(1)
    for start, end, noise in ((0, 3, "enable"), (3, 10000, "disable")):
        halves = graph.add(
            "KSamplerAdvanced", model=model, positive=positive, negative=negative, latent_image=halves,
            add_noise=noise, noise_seed=7, cfg=1.0, start_at_step=start, end_at_step=end, steps=8,
            return_with_leftover_noise="enable", sampler_name="euler", scheduler="simple",
        )
    graph.add("TestCaptureTrace", trace=output(model, 1), latent=halves, label="trace")
    host.run(graph.prompt)
    sigmas = [call["sigma"] for call in record(host)["calls"]]
    assert len(sigmas) == 8 and sigmas == sorted(sigmas, reverse=True)


def test_the_plot_shows_a_line_in_each_image_s_colour(host):
    host.latents(scoped(host))
    plot = host.record.images["plot"]
    assert plot.shape == (1, 640, 1024, 3)
    for colour in ("4477AA", "EE6677", "228833"):
        wanted = torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        assert ((plot[0] - wanted).abs().amax(dim=-1) < 0.02).sum() > 100


def test_the_plot_tells_the_advice_below_its_axis(host):
    from saddle_free_guidance.nodes.ui.scope_images import plot

    host.latents(scoped(host))
    plain = record(host)
    assert plain["advice"]
    seen, without = plot(plain)[0], plot(plain | {"advice": []})[0]
    lowest = slice(seen.shape[0] - 16, None), slice(300)  # of the advice's last line, left of the axis' title
    assert torch.equal(seen, host.record.images["plot"][0])
    assert (seen[lowest] < 0.5).any() and (without[lowest] > 0.99).all()


def test_the_heat_map_lies_where_the_trace_says(host):
    host.latents(scoped(host))
    heat, indecision = host.record.images["heat"], host.record.traces["trace"].indecision()
    assert heat.shape == (3, 512, 512, 3) and indecision.shape == (3, 32, 32)
    brightness = torch.nn.functional.avg_pool2d(heat.sum(dim=-1)[:, None], 16)[:, 0]
    for seen, expected in zip(brightness.flatten(1), indecision.flatten(1)):
        brightest, most = (set(values.topk(100).indices.tolist()) for values in (seen, expected))
        assert len(brightest & most) >= 80


def test_over_pictures_the_decided_parts_stay_as_they_were(host):
    host.latents(scoped(host, images=blank(96, 64, 3)))
    heat, indecision = host.record.images["heat"], host.record.traces["trace"].indecision()
    assert heat.shape == (3, 64, 96, 3)
    enlarged = torch.nn.functional.interpolate(indecision[:, None], size=(64, 96), mode="bilinear")[:, 0]
    changed = (heat - 128 / 255).abs().amax(dim=-1)
    assert (changed <= 0.6 * enlarged + 1e-3).all()  # opacity times indecision, and colours differ by 1 at most
    assert changed[enlarged > 0.9].min() > 0.1


def test_a_video_s_frames_each_have_their_map(host):
    host.latents(scoped(host, family="wan", batch=2, images=blank(64, 64, 18)))
    assert host.record.traces["trace"].indecision().shape == (2, 3, 8, 8)
    assert host.record.images["heat"].shape == (18, 64, 64, 3)


def test_other_pictures_are_refused_on_the_node(host):
    executor = host.run(scoped(host, images=blank(64, 64, 2)))
    assert not executor.success
    error = failure(executor)
    assert error["node_type"] == "CurvatureScope" and REFUSED in error["exception_message"]


def test_without_matplotlib_it_says_what_to_install(host, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    missing = lambda name, *rest: None if name == "matplotlib" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    error = failure(host.run(scoped(host)))
    assert error["node_type"] == "CurvatureScope" and "pip install matplotlib" in error["exception_message"]
