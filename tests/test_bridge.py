"""What the guidance takes from the host: coordinates, raw predictions, refusals, and the line it logs."""

import logging
from types import SimpleNamespace

import pytest
import stand_ins
import torch
from cases import long_but
from conditions import control_net, lora_hook, region
from graphs import Graph, branches, demo, guided, output, sample, stand_in

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

    node = host.node("SaddleFreeGuidance").__module__
    return importlib.import_module(node.replace(".saddle_free", ".host.coordinates"))


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


@pytest.mark.parametrize("kind, steps, reason", [
    ("IMG_TO_IMG_FLOW", 3, "predicts from a picture"),
    ("IMG_TO_IMG", 3, "predicts from a picture"),
    ("V_PREDICTION_DDPM", 3, "this model was not made for; connect its own, VOIDSampler"),
    ("EPS", 1, "is a single step"),
])
def test_where_there_is_nothing_to_guide_the_picture_is_that_of_no_node(host, caplog, kind, steps, reason):
    """No evaluation is added, and the log says why in one line."""
    graph = Graph()
    model, positive, negative, latent = stand_in("sd15", host.models)(graph)
    for label in ("plain", "guided"):
        branch = graph.add("TestWatch", model=model, label=label, break_at=0, how="interrupt")
        branch = graph.add("TestSampling", model=branch, kind=kind)
        branch = guided(graph, branch, scale=4.0) if label == "guided" else branch
        samples = sample(graph, "KSampler", branch, positive, negative, latent(1), steps=steps)
        graph.add("TestCapture", samples=samples, label=label)
    with caplog.at_level(logging.WARNING):
        latents = host.latents(graph.prompt)
    assert torch.equal(latents["guided"], latents["plain"])
    assert len(host.record.evaluations["guided"]) == len(host.record.evaluations["plain"]) == steps
    assert host.record.checks["guided"] == 0
    assert len(messages(caplog)) == 1 and reason in messages(caplog)[0]


def test_the_ddpm_v_prediction_is_guided_with_its_own_sampler(host, bridge):
    """The host's VOID sampler keeps x = alpha x0 + std n with alpha^2 + std^2 = 1, as the network was trained."""
    import comfy_extras.nodes_void

    sampling = model_sampling("V_PREDICTION_DDPM")
    x0, noise = torch.randn(2, 1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = []

    def perfect(x, sigma, **kwargs):
        alpha, std = (value.reshape(-1, 1, 1, 1, 1) for value in bridge.coordinates(sampling, sigma.double()))
        errors.append((x - alpha * x0 - std * noise).abs().max().item())
        return sampling.calculate_denoised(sigma.double(), alpha * noise - std * x0, x.double())

    sigmas = torch.cat([sampling.sigmas.flip(0)[::100], torch.zeros(1)]).double()
    alpha, std = bridge.coordinates(sampling, sigmas[:1])
    start = (alpha * x0 + std * noise).float()
    comfy_extras.nodes_void.VOID_DDIM().sample(perfect, sigmas, {}, None, start, disable_pbar=True)
    assert len(errors) == 10 and max(errors) < 1e-5

    graph = Graph()
    model, positive, _, latent = stand_in("sd15", host.models)(graph)
    for label in ("plain", "guided"):
        branch = graph.add("TestWatch", model=model, label=label, break_at=0, how="interrupt")
        branch = graph.add("TestSampling", model=branch, kind="V_PREDICTION_DDPM")
        branch = graph.add("TestUndecided", model=branch, amount=3.0)
        branch = guided(graph, branch) if label == "guided" else branch
        samples = graph.add(
            "SamplerCustomAdvanced", noise=graph.add("RandomNoise", noise_seed=1), sampler=graph.add("VOIDSampler"),
            guider=graph.add("BasicGuider", model=branch, conditioning=positive), latent_image=latent(1),
            sigmas=graph.add("BasicScheduler", model=branch, scheduler="simple", steps=3, denoise=1.0),
        )
        graph.add("TestCapture", samples=samples, label=label)
    latents = host.latents(graph.prompt)
    assert len(host.record.evaluations["guided"]) == 6 and latents["guided"].isfinite().all()
    assert not torch.allclose(latents["guided"], latents["plain"], atol=1e-3)


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
        batch = 1 if family == "sd15" else 3  # which is slow
        samples = sample(graph, "KSampler", branch, positive, negative, latent(batch), **sampling)
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


@pytest.mark.parametrize("family, edit, cfg", long_but(
    [(*one, cfg) for one in (("sd15", control_net), ("sd3", lora_hook)) for cfg in (1.0, 4.0)],
    [("sd15", control_net, 4.0), ("sd3", lora_hook, 1.0)],
), ids=["ControlNet 1", "ControlNet 4", "LoRA hook 1", "LoRA hook 4"])
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
        latent = graph.add("EmptyLatentImage", width=128, height=128, batch_size=1)
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


def test_a_cache_that_answers_in_place_of_the_network_is_left_alone(host, caplog):
    """Known by the blocks that do not run. The steps that the network itself answers are guided."""
    graph = Graph()
    model, positive, negative, latent = stand_in("flux", host.models)(graph)
    for label in ("plain", "tiny", "coarse"):
        branch = graph.add("TestUndecided", model=model, amount=3.0)
        branch = graph.add(
            "EasyCache", model=branch, reuse_threshold=2.0, start_percent=0.0, end_percent=1.0, verbose=False
        )
        knobs = {"scale": 1e-6, "probe_radius": 0.1 if label == "tiny" else 0.3}
        branch = branch if label == "plain" else guided(graph, branch, **knobs)
        samples = sample(graph, "KSampler", branch, positive, negative, latent(1), steps=8)
        graph.add("TestCapture", samples=samples, label=label)
        if label != "plain":
            graph.add("TestCaptureTrace", trace=output(branch, 1), latent=samples, label=label)
    with caplog.at_level(logging.WARNING):
        latents = host.latents(graph.prompt)
    assert torch.allclose(latents["plain"], latents["tiny"], rtol=1e-3, atol=1e-3)
    tiny, coarse = (
        [call for call in host.record.traces[label].calls if call.reason is None] for label in ("tiny", "coarse")
    )
    assert 0 < len(tiny) < 8 and len(tiny) == len(coarse)
    for one, other in zip(tiny, coarse):  # the derivative of one network, whatever the step
        assert torch.allclose(one.rayleigh, other.rayleigh, rtol=0.01)
    assert len(messages(caplog)) == 2 and f"left out {8 - len(tiny)} of 8 calls: a cache" in messages(caplog)[0]


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
            "positive": condition, "negative": condition, "cfg": 1.0, "steps": 16, "sampler_name": "euler",
            "scheduler": "karras", "noise_seed": 3,
        }
        first = graph.add(
            "KSamplerAdvanced", model=branch, latent_image=latent, add_noise="enable", start_at_step=0, end_at_step=8,
            return_with_leftover_noise="enable", **common,
        )
        second = graph.add(
            "KSamplerAdvanced", model=branch, latent_image=first, add_noise="disable", start_at_step=8,
            end_at_step=10000, return_with_leftover_noise="disable", **common,
        )
        graph.add("TestCapture", samples=second, label=label)
    latents = host.latents(graph.prompt)
    assert len(host.record.evaluations["plain"]) == 16
    assert len(host.record.evaluations["guided"]) == 32
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
