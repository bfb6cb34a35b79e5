"""Latents of one frame, [B, C, 1, h, w], as Qwen-Image, Krea 2 and Anima have: drawn as pictures."""

import pytest
import torch
from graphs import Graph, guided, output, sample

FAMILY = "qwen_image"
IMAGES = 2


def loaded(graph):
    """Model, both conditions, an empty latent as the page makes it, and the VAE."""
    parts = {"family": FAMILY, "seed": 0, "parts": "model clip vae"}
    model = graph.add("TestFamily", **parts)
    texts = [graph.add("CLIPTextEncode", clip=output(model, 1), text=text) for text in ("yes", "no")]
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=IMAGES)
    return model, *texts, latent, output(model, 2)


@pytest.mark.parametrize("with_pictures", [False, True])
def test_the_scope_draws_a_map_for_each_picture(host, with_pictures):
    graph = Graph()
    model, positive, negative, latent, vae = loaded(graph)
    model = guided(graph, model, scale=1.0)
    samples = sample(graph, "KSampler", model, positive, negative, latent, steps=3)
    chosen = {"images": graph.add("VAEDecode", samples=samples, vae=vae)} if with_pictures else {}
    seen = graph.add("CurvatureScope", trace=output(model, 1), latent=samples, opacity=0.6, **chosen)
    graph.add("TestCapture", samples=samples, label="latent")
    graph.add("TestCaptureTrace", trace=output(model, 1), latent=samples, label="trace")
    graph.add("TestCaptureImage", images=output(seen, 1), label="heat")
    latents = host.latents(graph.prompt)
    assert latents["latent"].shape == (IMAGES, 16, 1, 8, 8)
    trace = host.record.traces["trace"]
    assert trace.indecision().shape == (IMAGES, 1, 8, 8)
    assert [len(call["rayleigh"]) for call in trace.plain()["calls"]] == [IMAGES] * 3
    size = 64 if with_pictures else 512
    heat = host.record.images["heat"]
    assert heat.shape == (IMAGES, size, size, 3)
    assert all(one.flatten().std() > 0.01 for one in heat)


def test_the_sweep_shows_a_picture_for_each_value(host):
    graph = Graph()
    model, positive, negative, latent, vae = loaded(graph)
    swept = graph.add(
        "GuidanceSweep", model=model, positive=positive, negative=negative, latent_image=latent, vae=vae, seed=7,
        steps=3, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0, parameter="scale", values="0, 1",
        second_parameter="none", second_values="", scale=1.0, guidance_seed=0, start_percent=0.0, end_percent=1.0,
        directions=1,
    )
    graph.add("TestCaptureImage", images=swept, label="grid")
    graph.add("TestCapture", samples=output(swept, 1), label="latents")
    latents = host.latents(graph.prompt)["latents"]
    assert latents.shape == (2 * IMAGES, 16, 1, 8, 8)
    without, with_guidance = latents.chunk(2)
    assert not torch.equal(without, with_guidance)
    grid = host.record.images["grid"]
    assert grid.shape[0] == 1 and grid.shape[2] > grid.shape[1]
