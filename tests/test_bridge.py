"""What the guidance takes from the host: coordinates, raw predictions, refusals, and the line it logs."""

import logging
from types import SimpleNamespace

import pytest
import stand_ins
import torch
from conditions import control_net, lora_hook, region
from graphs import Graph, branches, demo, guided, output, sample, stand_in
from host import failure

KINDS = ("EPS", "V_PREDICTION", "EDM", "CONST", "COSMOS_RFLOW", "X0", "IMG_TO_IMG")
SCHEDULES = {
    "CONST": "ModelSamplingDiscreteFlow",
    "COSMOS_RFLOW": "ModelSamplingCosmosRFlow",
    "EDM": "ModelSamplingContinuousEDM",
}


def model_sampling(kind):
    """The host's own combination of a schedule and a parametrisation."""
    import comfy.model_sampling

    schedule = getattr(comfy.model_sampling, SCHEDULES.get(kind, "ModelSamplingDiscrete"))
    return type("ModelSampling", (schedule, getattr(comfy.model_sampling, kind)), {})()


@pytest.fixture(scope="module")
def bridge(host):
    """The module nodes/host/coordinates.py as the host loaded it."""
    import importlib

    return importlib.import_module(host.node("SaddleFreeGuidance").__module__.replace(".saddle_free", ".host.coordinates"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_alpha_and_std_rebuild_the_noisy_latent(bridge, kind, batch):
    sampling = model_sampling(kind)
    latent, noise = torch.randn(2, batch, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    for sigma in (0.05, 0.4, 0.9):
        sigmas = torch.full((batch,), sigma)
        alpha, std = bridge.coordinates(sampling, sigmas)
        assert alpha.shape == std.shape == (batch,)
        noisy = sampling.noise_scaling(sigmas, noise.clone(), latent.clone())
        rebuilt = alpha.reshape(-1, 1, 1, 1) * latent + std.reshape(-1, 1, 1, 1) * noise
        assert torch.allclose(noisy, rebuilt, atol=1e-6)
        expected = (1 - sigma, sigma) if kind == "CONST" else (1.0, sigma)
        assert (alpha[0].item(), std[0].item()) == pytest.approx(expected)


def test_a_flow_model_that_scales_its_noise_is_followed(bridge):
    sampling = model_sampling("CONST")
    sampling.set_noise_scale(0.7)
    alpha, std = bridge.coordinates(sampling, torch.tensor([0.4]))
    assert (alpha.item(), std.item()) == pytest.approx((0.6, 0.28))


@pytest.mark.parametrize("kind", ["IMG_TO_IMG_FLOW", "V_PREDICTION_DDPM"])
def test_unusable_parametrisations_are_refused_by_name(host, bridge, kind):
    with pytest.raises(ValueError, match=f"cannot guide a model with {kind} sampling"):
        bridge.refuse_unusable(model_sampling(kind))
    graph = Graph()
    model = graph.add("SaddleFreeDemoModel", digit="none")
    patched = guided(graph, graph.add("TestSampling", model=model, kind=kind))
    latent = graph.add("EmptyLatentImage", width=32, height=32, batch_size=1)
    condition = output(model, 3)
    graph.add("TestCapture", samples=sample(graph, "KSampler", patched, condition, condition, latent), label="run")
    executor = host.run(graph.prompt)
    assert not executor.success
    assert failure(executor)["node_type"] == "SaddleFreeGuidance"
    assert kind in failure(executor)["exception_message"]


@pytest.mark.parametrize("sampling", ["eps", "v_prediction", "x0", "lcm"])
def test_the_parametrisation_of_a_later_node_counts(host, sampling):
    graph = Graph()
    model, positive, negative, latent = stand_in("sd15", host.models)(graph)
    early = graph.add("ModelSamplingDiscrete", model=guided(graph, model), sampling=sampling, zsnr=False)
    late = guided(graph, graph.add("ModelSamplingDiscrete", model=model, sampling=sampling, zsnr=False))
    for label, patched in (("early", early), ("late", late)):
        samples = sample(graph, "KSampler", patched, positive, negative, latent(1))
        graph.add("TestCapture", samples=samples, label=label)
    latents = host.latents(graph.prompt)
    assert latents["early"].isfinite().all()
    assert torch.equal(latents["early"], latents["late"])


def test_image_keys_name_the_noise_and_not_its_place(bridge):
    noise = torch.randn(3, 4, 8, 8)
    keys = bridge.image_keys(noise)
    assert len(set(keys)) == 3
    assert bridge.image_keys(noise[1:2]) == keys[1:2]
    assert bridge.image_keys(noise.double()) == keys
    assert bridge.image_keys(torch.zeros(3, 4)) is None


def unchanged(graph, *values):
    return values if len(values) > 1 else values[0]


def tiny_push(host, family, edit_model=unchanged, edit_conditions=unchanged, **sampling):
    """What a push of scale 0.001 does on top of edits of the model or the conditions.

    change: the largest change of the latent; guided, plain: evaluations with and without it; calls; latent: without it.
    """
    graph = Graph()
    model, positive, negative, latent = stand_in(family, host.models)(graph)
    positive, negative = edit_conditions(graph, positive, negative)
    for label, knobs in (("plain", None), ("tiny", {"scale": 0.001})):
        branch = graph.add("TestWatch", model=model, label=label, break_at=0, how="interrupt")
        branch = edit_model(graph, branch)
        branch = guided(graph, branch, **knobs) if knobs else branch
        samples = sample(graph, "KSampler", branch, positive, negative, latent(3), **sampling)
        graph.add("TestCapture", samples=samples, label=label)
    latents, record = host.latents(graph.prompt), host.record
    return SimpleNamespace(
        change=(latents["plain"] - latents["tiny"]).abs().max().item(),
        guided=len(record.evaluations["tiny"]), plain=len(record.evaluations["plain"]),
        calls=len(record.calls["tiny"]), latent=latents["plain"],
    )


@pytest.mark.parametrize(
    "edit",
    [
        lambda graph, model: graph.add("TCFG", model=model),
        lambda graph, model: graph.add("CFGZeroStar", model=model),
        lambda graph, model: graph.add("TestPreCFG", model=model, amount=100.0),
    ],
    ids=["TCFG", "CFGZeroStar", "constant"],
)
def test_edits_of_the_prediction_do_not_reach_the_jacobian(host, edit):
    """A base that was edited and a probe that was not would differ by the edit, over the radius: a fake, and large."""
    push = tiny_push(host, "sd3", edit, cfg=4.0)
    assert push.change < 0.05
    assert push.guided == push.plain + push.calls


@pytest.mark.parametrize(
    "other",
    [
        lambda graph, model: graph.add("PerturbedAttentionGuidance", model=model, scale=0.001),
        lambda graph, model: graph.add("TestOtherEvaluation", model=model, amount=100.0),
    ],
    ids=["PAG", "constant"],
)
def test_what_others_evaluate_at_the_same_point_is_not_the_base_of_the_probe(host, other):
    alone, beside = tiny_push(host, "sd15"), tiny_push(host, "sd15", other)
    assert beside.change <= 3 * alone.change + 1e-4
    assert (beside.plain, beside.guided) == (2 * beside.calls, 3 * beside.calls)


@pytest.mark.parametrize("family, edit", [("sd15", control_net), ("sd3", lora_hook)], ids=["ControlNet", "LoRA hook"])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_what_hangs_on_a_condition_applies_to_the_probe_too(host, family, edit, cfg):
    """A base with it and a probe without it would differ by what it does, over the radius."""
    stand_ins.write_lora("tiny", host.models)
    alone, beside = tiny_push(host, family, cfg=cfg), tiny_push(host, family, edit_conditions=edit, cfg=cfg)
    spread = alone.latent.std().item()
    assert (alone.latent - beside.latent).abs().max() > 0.1 * spread
    assert beside.change <= 3 * alone.change + 0.01 * spread
    assert beside.guided == beside.plain + beside.calls


def test_a_lora_on_the_model_applies_to_the_probe_too(host):
    stand_ins.write_lora("tiny", host.models)

    def lora(graph, model):
        return graph.add("LoraLoaderModelOnly", model=model, lora_name="tiny.safetensors", strength_model=1.0)

    alone, beside = tiny_push(host, "sd3"), tiny_push(host, "sd3", lora)
    spread = alone.latent.std().item()
    assert (alone.latent - beside.latent).abs().max() > 0.1 * spread
    assert beside.change <= 3 * alone.change + 0.01 * spread


@pytest.mark.parametrize("kind", ["area", "mask"])
def test_conditions_of_a_region_reach_the_probe(host, kind):
    graph = Graph()
    model, positive, negative, _ = stand_in("sd15", host.models)(graph)
    both, negative = region(kind)(graph, positive, negative)
    for label in ("plain", "guided"):
        branch = graph.add("TestWatch", model=model, label=label, break_at=0, how="interrupt")
        branch = guided(graph, branch) if label == "guided" else branch
        latent = graph.add("EmptyLatentImage", width=128, height=128, batch_size=3)
        samples = sample(graph, "KSampler", branch, both, negative, latent, cfg=1.0)
        graph.add("TestCapture", samples=samples, label=label)
    assert host.latents(graph.prompt)["guided"].isfinite().all()
    per_call = len(host.record.evaluations["plain"]) // len(host.record.calls["plain"])
    assert len(host.record.evaluations["guided"]) == 2 * per_call * len(host.record.calls["guided"])


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("Saddle-Free")]


def test_an_empty_window_is_reported_once(host, caplog):
    with caplog.at_level(logging.WARNING):
        host.latents(branches(demo(), {"run": {"start_percent": 0.6, "end_percent": 0.5}}, steps=4))
    assert len(messages(caplog)) == 1
    assert "sigma was outside start_percent 0.6 to end_percent 0.5" in messages(caplog)[0]


def test_guidance_that_acts_says_nothing(host, caplog):
    with caplog.at_level(logging.WARNING):
        host.latents(branches(demo(), {"run": {"scale": 2.0}}, batch=3, steps=8))
    assert messages(caplog) == []


def test_a_cache_that_would_fake_the_probe_switches_guidance_off(host, caplog):
    graph = Graph()
    model, positive, negative, latent = stand_in("sd3", host.models)(graph)
    for label in ("plain", "guided"):
        branch = graph.add(
            "EasyCache", model=model, reuse_threshold=0.2, start_percent=0.0, end_percent=1.0, verbose=False
        )
        branch = guided(graph, branch) if label == "guided" else branch
        graph.add("TestCapture", samples=sample(graph, "KSampler", branch, positive, negative, latent(1)), label=label)
    with caplog.at_level(logging.WARNING):
        latents = host.latents(graph.prompt)
    assert torch.equal(latents["plain"], latents["guided"])
    assert len(messages(caplog)) == 1 and "EasyCache" in messages(caplog)[0]


def test_a_cache_of_whole_steps_leaves_the_probes_real(host):
    graph = Graph()
    model, positive, negative, latent = stand_in("sd3", host.models)(graph)
    watched = graph.add("TestWatch", model=model, label="run", break_at=0, how="interrupt")
    cached = graph.add(
        "LazyCache", model=watched, reuse_threshold=2.0, start_percent=0.0, end_percent=1.0, verbose=False
    )
    samples = sample(graph, "KSampler", guided(graph, cached), positive, negative, latent(1), steps=8)
    graph.add("TestCapture", samples=samples, label="run")
    assert host.latents(graph.prompt)["run"].isfinite().all()
    calls = len(host.record.calls["run"])
    assert 0 < calls < 8  # some steps were skipped, and the others were each probed once
    assert len(host.record.evaluations["run"]) == 2 * calls


def test_a_guider_without_post_cfg_is_reported_by_name(host, caplog):
    graph = Graph()
    model, positive, negative, latent = stand_in("sd3", host.models)(graph)
    made = graph.add(
        "DualModelGuider", model=guided(graph, model), model_negative=model, positive=positive, negative=negative,
        cfg=1.0,
    )
    samples = graph.add(
        "SamplerCustomAdvanced", noise=graph.add("RandomNoise", noise_seed=1), guider=made,
        sampler=graph.add("KSamplerSelect", sampler_name="euler"),
        sigmas=graph.add("BasicScheduler", model=model, scheduler="simple", steps=3, denoise=1.0),
        latent_image=latent(1),
    )
    graph.add("TestCapture", samples=samples, label="run")
    with caplog.at_level(logging.WARNING):
        host.latents(graph.prompt)
    assert len(messages(caplog)) == 1 and "Guider_DualModel runs no post-CFG functions" in messages(caplog)[0]


def test_the_second_half_of_a_split_run_is_guided(host):
    graph = Graph()
    model = graph.add("SaddleFreeDemoModel", digit="none")
    condition = output(model, 3)
    latent = graph.add("EmptyLatentImage", width=32, height=32, batch_size=3)
    for label, knobs in (("plain", None), ("guided", {"scale": 3.0})):
        branch = graph.add("TestWatch", model=model, label=label, break_at=0, how="interrupt")
        branch = branch if knobs is None else guided(graph, branch, **knobs)
        common = {
            "positive": condition, "negative": condition, "cfg": 1.0, "steps": 8, "sampler_name": "euler",
            "scheduler": "karras", "noise_seed": 3,
        }
        first = graph.add(
            "KSamplerAdvanced", model=branch, latent_image=latent, add_noise="enable", start_at_step=0, end_at_step=4,
            return_with_leftover_noise="enable", **common,
        )
        second = graph.add(
            "KSamplerAdvanced", model=branch, latent_image=first, add_noise="disable", start_at_step=4,
            end_at_step=10000, return_with_leftover_noise="disable", **common,
        )
        graph.add("TestCapture", samples=second, label=label)
    latents = host.latents(graph.prompt)
    assert len(host.record.evaluations["plain"]) == 8
    assert len(host.record.evaluations["guided"]) == 16
    assert (latents["plain"] - latents["guided"]).abs().max() > 0.1


@pytest.mark.parametrize("refresh_every", [1, 4])
def test_a_latent_that_grows_in_the_middle_starts_a_new_direction(host, refresh_every):
    graph = Graph()
    model = graph.add("SaddleFreeDemoModel", digit="none")
    condition = output(model, 3)
    watched = graph.add("TestWatch", model=model, label="run", break_at=0, how="interrupt")
    made = graph.add("BasicGuider", model=guided(graph, watched, refresh_every=refresh_every), conditioning=condition)
    samples = graph.add(
        "SamplerCustomAdvanced", noise=graph.add("RandomNoise", noise_seed=1), guider=made,
        sampler=graph.add("SamplerLCMUpscale", scale_ratio=2.0, scale_steps=2, upscale_method="bilinear"),
        sigmas=graph.add("BasicScheduler", model=model, scheduler="karras", steps=6, denoise=1.0),
        latent_image=graph.add("EmptyLatentImage", width=16, height=16, batch_size=3),
    )
    graph.add("TestCapture", samples=samples, label="run")
    latent = host.latents(graph.prompt)["run"]
    assert latent.isfinite().all() and latent.shape[0] == 3 and latent.shape[-1] > 16
    assert len(host.record.evaluations["run"]) > len(host.record.calls["run"])
