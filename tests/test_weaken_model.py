"""The Weaken Model node: its mathematics, and what Auto-Guidance does with it in a real ComfyUI."""

import sys

import pytest
import stand_ins
import torch
from cases import in_turn
from graphs import Graph, demo, guided, sample, stand_in, steered, watched
from host import failure
from hypothesis import given
from hypothesis import strategies as st
from runs import close, counts, run, two_models
from saddle_free_guidance.guidance import noised_further, pruned
from safetensors.torch import load_file, save_file

NOISE, PRUNE = "more noise", "pruned weights"


def weakened(graph, model, method, strength):
    return graph.add("WeakenModel", model=model, method=method, strength=strength)


@given(st.integers(0, 99), st.sampled_from([(7,), (6, 5), (4, 3, 3, 3)]), st.integers(0, 5))
def test_pruning_zeroes_the_smallest_share(percent, shape, seed):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    count = round(percent / 100 * weight.numel())
    result = pruned(weight, share=percent / 100)
    zeroed = result == 0
    assert zeroed.sum() == count
    assert torch.equal(result[~zeroed], weight[~zeroed])
    if 0 < count < weight.numel():
        assert weight[zeroed].abs().max() < weight[~zeroed].abs().min()


def test_more_noise_keeps_the_signal_and_raises_the_variance():
    generator = torch.Generator().manual_seed(0)
    clean, noise, fresh = torch.randn(3, 2, 100_000, generator=generator, dtype=torch.float64)
    alpha, std = torch.tensor([0.8, 1.0]).double(), torch.tensor([0.2, 3.0]).double()
    ratio, new_std = torch.tensor([0.9, 1.0]).double(), torch.tensor([0.5, 4.0]).double()
    x = alpha[:, None] * clean + std[:, None] * noise
    result = noised_further(x, fresh, ratio=ratio, std=std, new_std=new_std)
    remaining = result - (ratio * alpha)[:, None] * clean
    assert torch.allclose(remaining.std(dim=1), new_std, rtol=0.01)
    silent = noised_further(x, torch.zeros_like(x), ratio=ratio, std=std, new_std=new_std)
    assert torch.allclose(silent, ratio[:, None] * x)


def test_each_image_has_noise_of_its_own_in_any_batch(host):
    module = sys.modules[host.node("WeakenModel").__module__.replace(".weaken_model", ".host.weaken")]
    x = torch.zeros(6, 4, 5)
    noise = module._noise(x, 1.5, [11, 12, 13])  # three images under two conditions
    assert torch.equal(noise[:3], noise[3:])
    assert len({image.numpy().tobytes() for image in noise[:3]}) == 3
    assert torch.equal(module._noise(x[:1], 1.5, [12]), noise[1:2])
    assert not torch.equal(module._noise(x[:1], 1.25, [12]), noise[1:2])


def test_a_pruned_model_is_the_model_of_a_pruned_file(host):
    path = host.models / "checkpoints" / stand_ins.write_stand_in("sd3", host.models)
    weights = {
        key: pruned(value, share=0.4) if key.endswith("weight") and value.ndim >= 2 else value
        for key, value in load_file(path).items()
    }
    save_file(weights, path.with_name("sd3_pruned.safetensors"))
    graph = Graph()
    model, positive, negative, latent = stand_in("sd3", host.models)(graph)
    variants = {
        "plain": model,
        "node": weakened(graph, model, PRUNE, 0.4),
        "file": graph.add("CheckpointLoaderSimple", ckpt_name="sd3_pruned.safetensors"),
    }
    for label, variant in variants.items():
        graph.add("TestCapture", samples=sample(graph, "KSampler", variant, positive, negative, latent(1)), label=label)
    latents = host.latents(graph.prompt)
    assert torch.equal(latents["node"], latents["file"])
    assert not close(latents["node"], latents["plain"], 0.05)


def test_pruning_comes_after_the_loras(host):
    """A LoRA fills the zeros of a weight that was pruned before it."""
    stand_ins.write_lora("tiny", host.models)
    graph = Graph()
    model, positive, negative, latent = stand_in("sd3", host.models)(graph)

    def lora(patched):
        return graph.add("LoraLoaderModelOnly", model=patched, lora_name="tiny.safetensors", strength_model=1.0)

    first, last = weakened(graph, lora(model), PRUNE, 0.4), lora(weakened(graph, model, PRUNE, 0.4))
    for label, variant in (("lora first", first), ("lora last", last)):
        graph.add("TestCapture", samples=sample(graph, "KSampler", variant, positive, negative, latent(1)), label=label)
    latents = host.latents(graph.prompt)
    assert not close(latents["lora first"], latents["lora last"], 0.01)


@pytest.mark.parametrize("family", ["demo", "sd15", "sd3", "flux"])
def test_more_noise_asks_at_the_raised_sigma(host, family):
    factor = 1 / (1 - 0.2)

    def change(graph, model, weak):
        return steered(graph, model, watched(graph, weakened(graph, weak, NOISE, 0.2), "raised"))

    def source(graph):
        model, positive, negative, latent = (demo() if family == "demo" else stand_in(family, host.models))(graph)
        return model, model, positive, negative, latent

    run(host, source, "run", change, steps=4)
    asked, raised = host.record.evaluations["weak"], host.record.evaluations["raised"]
    assert asked == host.record.calls["main"]
    if family in ("demo", "sd15"):
        expected = [factor * sigma for sigma in asked]
    else:
        expected = [factor * sigma / (1 - sigma + factor * sigma) for sigma in asked]
    assert raised == pytest.approx(expected, rel=1e-4)
    assert len(set(host.record.points["raised"]) & set(host.record.points["weak"])) == 0


@pytest.mark.parametrize("way", [(NOISE, 1), (PRUNE, 2)])
@pytest.mark.parametrize(
    "family, cfg, batch", list(in_turn(["demo", "sd15", "sd3", "flux", "wan"], [1.0, 4.0], [3, 1]))
)
def test_auto_guidance_with_a_weakened_model(host, family, batch, cfg, way):
    method, models = way
    if family == "sd15" and batch != 1:
        pytest.skip("the heavy family sees one batch size")
    source = two_models(family, host)

    def steer(graph, model, weak):
        return steered(graph, model, watched(graph, weakened(graph, model, method, 0.4), "weakened"))

    common = {"batch": batch, "cfg": cfg}
    plain = run(host, source, "plain", **common)
    calls, evaluations, _ = counts(host)
    on = run(host, source, "on", steer, **common)
    assert counts(host) == (calls, evaluations + calls, 0)
    assert len(host.record.evaluations["weakened"]) == calls
    assert host.record.loaded["main"] == models
    assert on.isfinite().all() and not close(on, plain, 1e-3)
    assert torch.equal(run(host, source, "again", steer, **common), on)


@pytest.mark.parametrize("method", [NOISE, PRUNE])
def test_an_image_of_a_batch_is_the_image_alone(host, method):
    latents = []
    for pick in (None, 1):
        graph = Graph()
        model, positive, negative, latent = demo()(graph)
        latent = latent(3) if pick is None else graph.add("LatentFromBatch", samples=latent(3), batch_index=1, length=1)
        changed = steered(graph, model, weakened(graph, model, method, 0.3))
        samples = sample(graph, "KSampler", changed, positive, negative, latent, steps=6)
        graph.add("TestCapture", samples=samples, label="run")
        latents.append(host.latents(graph.prompt)["run"])
    batch, alone = latents
    assert (batch[1] - alone[0]).abs().max() < 1e-3
    assert (batch[0] - alone[0]).abs().max() > 0.1


def test_both_kinds_of_guidance_with_a_weakened_model_in_either_order(host):
    source = two_models("demo", host)

    def first(graph, model, weak):
        return steered(graph, guided(graph, model, scale=2.0), weakened(graph, model, NOISE, 0.2))

    def last(graph, model, weak):
        return guided(graph, steered(graph, model, weakened(graph, model, NOISE, 0.2)), scale=2.0)

    one = run(host, source, "one", first, batch=3, steps=6)
    assert counts(host)[:2] == (6, 18)
    assert torch.equal(one, run(host, source, "other", last, batch=3, steps=6))


def test_strength_zero_is_the_model_itself(host):
    graph = Graph()
    model, positive, negative, latent = demo()(graph)
    for label, variant in (("plain", model), ("zero", weakened(graph, model, PRUNE, 0.0))):
        graph.add("TestCapture", samples=sample(graph, "KSampler", variant, positive, negative, latent(1)), label=label)
    latents = host.latents(graph.prompt)
    assert torch.equal(latents["plain"], latents["zero"])


def test_a_parametrisation_without_a_known_way_is_refused_by_name(host):
    graph = Graph()
    model, positive, negative, latent = demo()(graph)
    other = graph.add("TestSampling", model=model, kind="V_PREDICTION_DDPM")
    samples = sample(graph, "KSampler", weakened(graph, other, NOISE, 0.2), positive, negative, latent(1))
    graph.add("TestCapture", samples=samples, label="run")
    executor = host.run(graph.prompt)
    assert not executor.success
    data = failure(executor)
    assert data["node_type"] == "WeakenModel"
    assert '"more noise" cannot weaken a model with V_PREDICTION_DDPM sampling' in data["exception_message"]


def test_the_hosts_layer_skipping_reaches_the_demo_model(host):
    graph = Graph()
    model, positive, negative, latent = demo()(graph)
    skipping = graph.add(
        "SkipLayerGuidanceDiT", model=model, double_layers="2", single_layers="", scale=1.0, start_percent=0.0,
        end_percent=1.0, rescaling_scale=0.0,
    )
    for label, variant in (("plain", model), ("skipping", skipping)):
        graph.add("TestCapture", samples=sample(graph, "KSampler", variant, positive, negative, latent(1)), label=label)
    latents = host.latents(graph.prompt)
    assert not close(latents["plain"], latents["skipping"], 0.05)
