"""strength_mask and strength_curve in the real host: neutral to the last bit, exact in scale, named where wrong."""

import logging

import pytest
import torch
from graphs import Graph, demo, guided, output, sample, stand_in, watched
from host import failure

SPREAD = {"sd3": 3.0, "wan": 6.0, "ltxav": 10.0, "demo": 1.2}  # how far a model is made undecided everywhere
SHIFT = 3.0  # of the flow models; where half of sampling is over, sigma is 0.75
LATE = "0.75, 0.4, 0.0"
FADE = {"strength_curve": "fade in", "scale": 8.0}  # in two steps nothing is pushed at the first
LATE_FADE = FADE | {"start_percent": 0.5}
STILL = {"scale": 1e-30}  # evaluated in the same batches, which rounding depends on, and pushed nowhere


def even(*values):
    return "TestEvenMasks", {"values": " ".join(map(str, values)), "size": 32}


WHITE = {"strength_mask": even(1.0)}


def runs(host, family, variants, *, batch=1, undecided=True, sigmas=None, **sampling):
    """Label -> latent of label -> knobs, where a mask is (node, its inputs) and None is without guidance.

    Where FADE begins at the first of two calls, the last alone is pushed, so that its push is seen bit for bit.
    sigmas: those of SHIFT, for a flow model.
    """
    graph = Graph()
    source = demo() if family == "demo" else stand_in(family, host.models)
    model, positive, negative, latent = source(graph)
    latent = latent(batch)
    if family != "demo":
        model = graph.add("ModelSamplingSD3", model=model, shift=SHIFT)
    for label, knobs in variants.items():
        branch = watched(graph, model, label)
        if undecided:
            branch = graph.add("TestUndecided", model=branch, amount=SPREAD[family])
        if knobs is not None:
            knobs = {name: graph.add(value[0], **value[1]) if name == "strength_mask" else value
                     for name, value in knobs.items()}
            branch = guided(graph, branch, **knobs)
        if sigmas is None:
            samples = sample(graph, "KSampler", branch, positive, negative, latent, **sampling)
        else:
            samples = graph.add(
                "SamplerCustomAdvanced", noise=graph.add("RandomNoise", noise_seed=1),
                guider=graph.add("BasicGuider", model=branch, conditioning=positive),
                sampler=graph.add("KSamplerSelect", sampler_name="euler"),
                sigmas=graph.add("ManualSigmas", sigmas=sigmas), latent_image=latent,
            )
        graph.add("TestCapture", samples=samples, label=label)
        if knobs is not None:
            graph.add("TestCaptureTrace", trace=output(branch, 1), latent=samples, label=label)
    return host.latents(graph.prompt)


@pytest.mark.parametrize("family, batch", [("demo", 1), ("demo", 3), ("wan", 1), ("ltxav", 1)])
@pytest.mark.parametrize("refresh_every", [0, 1])
def test_neutral_is_the_same_picture_bit_for_bit(host, family, batch, refresh_every):
    """Not given, as in graphs saved before there were such inputs; constant; and a white mask."""
    common = {"refresh_every": refresh_every, "scale": 2.0}
    variants = {"old": {}, "constant": {"strength_curve": "constant"}, "white": WHITE}
    variants = {label: common | knobs for label, knobs in variants.items()}
    sampling = {"steps": 8, "scheduler": "karras" if family == "demo" else "simple"}
    latents = runs(host, family, {"plain": None, **variants}, batch=batch, undecided=family != "demo", **sampling)
    counts = [host.record.evaluations[label] for label in variants]
    assert not torch.equal(latents["old"], latents["plain"])
    assert all(torch.equal(latents["old"], latents[label]) for label in variants)
    assert counts[0] == counts[1] == counts[2] and len(counts[0]) > 8


@pytest.mark.parametrize("batch, cfg", [(1, 1.0), (3, 4.0)])
def test_the_push_is_in_the_mask_and_as_strong_as_it_is_there(host, batch, cfg):
    half = "TestMasks", {"count": 1, "size": 32, "soft": False}
    soft = "TestMasks", {"count": 1, "size": 64, "soft": True}
    variants = {"still": FADE | STILL, "whole": FADE, "half": FADE | {"strength_mask": half},
                "soft": FADE | {"strength_mask": soft}}
    latents = runs(host, "demo", variants, batch=batch, cfg=cfg, steps=2)
    pushes = {label: latents[label] - latents["still"] for label in variants}
    assert pushes["whole"].abs().amax(dim=(1, 2, 3)).min() > 0.01
    assert torch.equal(latents["half"][..., 16:], latents["still"][..., 16:])
    assert torch.equal(latents["half"][..., :16], latents["whole"][..., :16])
    fall = torch.cat([(15.5 - torch.arange(16)) / 16, torch.zeros(16)])
    assert torch.allclose(pushes["soft"], fall * pushes["whole"], atol=0.02 * pushes["whole"].abs().max().item())
    assert [len(host.record.evaluations[label]) for label in variants] == [4] * 4


@pytest.mark.parametrize("start, end", [(0.5, 1.0), (0.25, 0.9)])
def test_curves_scale_the_push_by_the_share_of_sampling(host, start, end):
    """Of the model that samples, with its shift: sigma = SHIFT t / (1 + (SHIFT - 1) t), where t is 1 - share."""
    knobs = {"scale": 0.5, "start_percent": start, "end_percent": end}
    curves = {"constant": 0, "fade in": 0, "fade out": 0, "middle": 0}
    runs(host, "sd3", {curve: knobs | {"strength_curve": curve} for curve in curves}, sigmas=LATE)
    last = host.record.calls["constant"][1]
    share, before = ((1 - sigma / (SHIFT - (SHIFT - 1) * sigma) - start) / (end - start) for sigma in (last, 0.75))
    pushed = {curve: host.record.traces[curve].push[1].item() for curve in curves}
    assert 0 <= before < 0.4 < share < 0.95 and pushed["constant"] > 0.001
    expected = {"constant": 1.0, "fade in": share, "fade out": 1 - share, "middle": 1 - abs(2 * share - 1)}
    for curve, strength in expected.items():
        assert pushed[curve] / pushed["constant"] == pytest.approx(strength, rel=0.01), curve


@pytest.mark.parametrize("curve", ["fade in", "fade out", "middle"])
@pytest.mark.parametrize("scheduler", ["karras", "simple"])
def test_along_sampling_the_strength_is_that_of_the_curve(host, curve, scheduler):
    """So small a scale that both runs see the same."""
    knobs = {"scale": 1e-3}
    runs(host, "demo", {"constant": knobs, "curve": knobs | {"strength_curve": curve}}, steps=12, scheduler=scheduler)
    whole, scaled = (torch.stack(host.record.traces[label].push)[:, 0] for label in ("constant", "curve"))
    strength = (scaled / whole)[whole > 1e-7]
    assert len(strength) >= 8
    if curve == "middle":
        peak = int(strength.argmax())
        assert 0 < peak < len(strength) - 1 and strength[peak] > 0.7
        assert (strength[: peak + 1].diff() > 0).all() and (strength[peak:].diff() < 0).all()
    else:
        assert (strength.diff() > 0).all() if curve == "fade in" else (strength.diff() < 0).all()
        assert strength.min() < 0.25 and strength.max() > 0.75


def test_each_image_of_a_batch_has_its_own_mask(host):
    each = {"strength_mask": even(0.0, 1.0, 1.0), "scale": 2.0, "refresh_every": 0}
    latents = runs(
        host, "demo", {"plain": None, "whole": each | WHITE, "each": each}, batch=3, undecided=False, steps=16
    )
    changed = (latents["whole"] - latents["plain"]).abs().amax(dim=(1, 2, 3))
    assert changed[0] > 0.1 and changed[2] > 0.1
    assert torch.equal(latents["each"][0], latents["plain"][0])
    for image in (1, 2):
        assert (latents["each"][image] - latents["whole"][image]).abs().mean() < 0.01 * latents["whole"].std()


def test_the_frames_of_a_video_have_masks_of_their_own(host):
    count = host.node("TestLatent")().make("wan", 1)[0]["samples"].shape[2]
    assert count > 1
    masks = LATE_FADE | {"strength_mask": even(*[0.0] * (count - 1), 1.0)}
    latents = runs(host, "wan", {"still": LATE_FADE | STILL, "whole": LATE_FADE, "last": masks}, sigmas=LATE)
    assert (latents["whole"] - latents["still"]).abs().amax(dim=(0, 1, 3, 4)).min() > 0.001
    assert torch.equal(latents["last"][:, :, :-1], latents["still"][:, :, :-1])
    assert torch.equal(latents["last"][:, :, -1], latents["whole"][:, :, -1])


def test_of_video_with_sound_the_video_is_masked_and_the_sound_is_not(host):
    """Packed into one; the first part is the video."""
    variants = {"still": LATE_FADE | STILL, "whole": LATE_FADE, "none": LATE_FADE | {"strength_mask": even(0.0)}}
    latents = runs(host, "ltxav", variants, sigmas=LATE)
    video = host.node("TestLatent")().make("ltxav", 1)[0]["samples"].unbind()[0].numel()
    pictures, sounds = ({label: latent[..., part] for label, latent in latents.items()}
                        for part in (slice(video), slice(video, None)))
    assert not torch.equal(pictures["whole"], pictures["still"]) and not torch.equal(sounds["whole"], sounds["still"])
    assert torch.equal(pictures["none"], pictures["still"]) and torch.equal(sounds["none"], sounds["whole"])


def test_the_images_of_a_batch_that_are_frames_of_one_video(host, monkeypatch):
    """A model that takes a batch for a video has one mask a frame, or one for all."""
    import importlib

    module = host.node("SaddleFreeGuidance").__module__.replace(".saddle_free", ".host.saddle_free_run")
    monkeypatch.setattr(importlib.import_module(module), "frames_per_video", lambda cond: 3)
    latents = runs(host, "demo", {"still": FADE | STILL, "whole": FADE, "white": FADE | WHITE,
                                  "each": FADE | {"strength_mask": even(1.0, 0.0, 0.5)}}, batch=3, steps=2)
    assert torch.equal(latents["white"], latents["whole"])
    assert torch.equal(latents["each"][0], latents["whole"][0]) and torch.equal(latents["each"][1], latents["still"][1])
    halved = (latents["each"] - latents["still"])[2]
    assert torch.allclose(halved, 0.5 * (latents["whole"] - latents["still"])[2], atol=1e-4)
    assert halved.abs().max() > 0.01


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("Saddle-Free")]


def test_a_black_mask_leaves_the_picture_and_the_log_says_why(host, caplog):
    black = {"strength_mask": even(0.0), "scale": 2.0, "refresh_every": 0}
    with caplog.at_level(logging.WARNING):
        latents = runs(host, "demo", {"plain": None, "black": black}, batch=3, undecided=False, steps=16)
    assert torch.equal(latents["plain"], latents["black"])
    (told,) = messages(caplog)
    assert told.endswith("did not change this image: strength_mask and strength_curve left nothing of the push.")
    calls = host.record.traces["black"].plain()["calls"]
    assert any(call["reason"] == "the strength was 0" for call in calls) and not any(any(c["acted"]) for c in calls)


@pytest.mark.parametrize("values, batch, words", [
    ((1.0, 1.0), 3, ["strength_mask", "2 masks for 3 pictures", "one for each picture"]),
    ((1.0, 1.0, 1.0), 1, ["strength_mask", "3 masks for 1 pictures"]),
    ((1.0, float("nan")), 2, ["strength_mask is a tensor of shape (2, 32, 32)", "numbers", "[masks, height, width]"]),
])
def test_masks_that_do_not_fit_are_refused_by_name(host, values, batch, words):
    graph = Graph()
    model, positive, negative, latent = demo()(graph)
    watch = watched(graph, model, "run")
    masks = graph.add("TestEvenMasks", values=" ".join(map(str, values)), size=32)
    branch = guided(graph, watch, strength_mask=masks)
    graph.add("TestCapture", samples=sample(graph, "KSampler", branch, positive, negative, latent(batch)), label="run")
    executor = host.run(graph.prompt)
    assert not executor.success
    error = failure(executor)
    assert error["node_type"] == ("SaddleFreeGuidance" if "numbers" in words else "KSampler")
    assert all(word in error["exception_message"] for word in words), error["exception_message"]
    assert error["exception_message"].strip().endswith(".") and host.record.evaluations["run"] == []


def test_an_unknown_curve_is_refused_on_the_node(host):
    graph = Graph()
    model, positive, negative, latent = demo()(graph)
    branch = guided(graph, model, strength_curve="swirl")
    graph.add("TestCapture", samples=sample(graph, "KSampler", branch, positive, negative, latent(1)), label="run")
    valid, _, _, errors = host.validate(graph.prompt)
    (error,) = (node for node in errors.values() if node["class_type"] == "SaddleFreeGuidance")
    assert not valid and "strength_curve" in error["errors"][0]["details"]
