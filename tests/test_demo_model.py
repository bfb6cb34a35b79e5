"""The bundled demo model: real digits, real host objects, and guidance that helps it."""

import json

import pytest
import torch
from classifier import accuracy, in_batches, load_classifier
from digits import colour, load_digits
from graphs import Graph, branches, demo, guided, output, sample
from metrics import frechet_distance, precision_recall_density_coverage


def draw(host, digit, knobs, count, steps, seed=7, model_output=0):
    """count images [count, 3, 32, 32] of a digit through the executor."""
    graph = Graph()
    loaded = graph.add("SaddleFreeDemoModel", digit=digit)
    model = output(loaded, model_output)
    if knobs:
        model = guided(graph, model, **knobs)
    latent = graph.add("EmptyLatentImage", width=32, height=32, batch_size=count)
    condition = output(loaded, 3)
    samples = sample(
        graph, "KSampler", model, condition, condition, latent, scheduler="karras", steps=steps, seed=seed
    )
    graph.add("TestCapture", samples=samples, label="run")
    return host.latents(graph.prompt)["run"].clamp(-1, 1)


@pytest.fixture(scope="module")
def classifier():
    return load_classifier()


def test_the_classifier_knows_real_digits(classifier):
    digits, labels = load_digits()
    images = colour(digits[::10], torch.Generator().manual_seed(9))
    assert images.shape[1:] == (3, 32, 32) and images.min() >= -1 and images.max() <= 1
    assert accuracy(classifier, images, labels[::10]) >= 0.97


LENGTHS = [(4, 8), pytest.param(20, 20, marks=pytest.mark.long)]


@pytest.mark.parametrize("count, steps", LENGTHS)
def test_conditional_samples_are_recognisable(host, classifier, count, steps):
    images = torch.cat([draw(host, str(digit), None, count, steps, seed=digit) for digit in range(10)])
    labels = torch.arange(10).repeat_interleave(count)
    assert accuracy(classifier, images, labels) >= 0.85


@pytest.mark.parametrize("count, steps", LENGTHS)
def test_the_weak_model_is_worse_and_not_noise(host, classifier, count, steps):
    images = torch.cat([draw(host, str(digit), None, count, steps, seed=digit, model_output=1) for digit in range(10)])
    score = accuracy(classifier, images, torch.arange(10).repeat_interleave(count))
    assert score >= 0.4
    assert images.std(dim=(1, 2, 3)).min() > 0.05


@pytest.mark.parametrize("count, steps, most", [(64, 10, 0.92), pytest.param(250, 20, 0.85, marks=pytest.mark.long)])
def test_guidance_brings_samples_nearer_to_real_digits(host, classifier, real_digits, count, steps, most):
    """Of 64 samples the distance is 0.73 to 0.82 of that without guidance, by their seed; their recall is too noisy."""
    knobs, real = {"scale": 4.0, "refresh_every": 0}, real_digits.features
    plain, guided = (
        in_batches(classifier.features, draw(host, "none", guide, count, steps)) for guide in (None, knobs)
    )
    assert frechet_distance(real, guided) < most * frechet_distance(real, plain)
    recall = [precision_recall_density_coverage(real[:count], fake)["recall"] for fake in (plain, guided)]
    assert count < 250 or recall[1] >= recall[0] - 0.02


def test_no_class_is_what_zeroing_a_condition_gives(host):
    graph = Graph()
    loaded = graph.add("SaddleFreeDemoModel", digit="5")
    zeroed = graph.add("ConditioningZeroOut", conditioning=output(loaded, 3))
    latent = graph.add("EmptyLatentImage", width=32, height=32, batch_size=2)
    graph.add("TestCapture", samples=sample(graph, "KSampler", loaded, zeroed, zeroed, latent), label="zeroed")
    plain = host.latents(branches(demo("none"), {"plain": None}, batch=2))["plain"]
    assert torch.equal(host.latents(graph.prompt)["zeroed"], plain)


def test_the_vae_is_pixels(host):
    graph = Graph()
    loaded = graph.add("SaddleFreeDemoModel", digit="none")
    latent = graph.add("EmptyLatentImage", width=32, height=32, batch_size=2)
    condition = output(loaded, 3)
    samples = sample(graph, "KSampler", loaded, condition, condition, latent, steps=8)
    image = graph.add("VAEDecode", samples=samples, vae=output(loaded, 2))
    back = graph.add("VAEEncode", pixels=image, vae=output(loaded, 2))
    graph.add("TestCapture", samples=samples, label="sampled")
    graph.add("TestCapture", samples=back, label="back")
    latents = host.latents(graph.prompt)
    assert latents["sampled"].shape == (2, 3, 32, 32)
    assert torch.allclose(latents["back"], latents["sampled"].clamp(-1, 1), atol=1e-2)


def test_missing_weights_are_named_with_what_to_do(host, tmp_path, monkeypatch):
    import importlib

    node = host.node("SaddleFreeDemoModel").__module__
    module = importlib.import_module(node.replace(".demo_model", ".host.demo_model"))
    monkeypatch.setattr(module, "WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors are not in .*install the pack again"):
        module.load_demo_model("model")


def test_the_weights_are_small_half_precision_and_say_what_they_are():
    from pack import ROOT
    from safetensors import safe_open

    folder = ROOT / "workflows" / "demo_model"
    card = (folder / "README.md").read_text()
    for names, most in ((("model", "weak"), 12e6), (("emoji", "emoji-weak", "emoji-8-steps"), 24e6)):
        assert sum((folder / f"{name}.safetensors").stat().st_size for name in names) <= most
        for name in names:
            with safe_open(folder / f"{name}.safetensors", framework="pt") as file:
                assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
                facts = json.loads(file.metadata()["config"])
            assert f"{facts['steps']}, {facts['batch']}" in card
            losses = facts["losses"].values() if "losses" in facts else [facts["loss"]]
            assert all(str(loss) in card for loss in losses), name
