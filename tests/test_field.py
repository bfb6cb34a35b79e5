"""What users reported of other packs of this kind, tried on ours; the table in README.md says where the rest is."""

import logging
from functools import partial

import pytest
import torch
from graphs import Graph, guided, watched
from runs import close, two_models
from test_conditions import assert_acts, saddle_free
from variants import ADDED, Setup, Variant, independent_of_step, sampled, undecided


def node(class_type, **inputs):
    return lambda graph, model, weak=None: graph.add(class_type, model=model, **inputs)


def beside(patch, **knobs):
    """Guidance of a model with a patch."""
    return lambda graph, model, weak: saddle_free(graph, patch(graph, model), weak, **knobs)


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name.endswith("host.run")]


@pytest.mark.parametrize("refresh_every", [0, 1])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_forecaster_keeps_its_history_and_its_steps_are_not_guided(host, caplog, cfg, refresh_every):
    """Of six calls it makes up two; random weights have no saddle, so the picture is its own, bit for bit."""
    forecast, knobs = node("TestForecast"), {"refresh_every": refresh_every}
    with caplog.at_level(logging.WARNING):
        found = sampled(host, two_models("flux", host), {
            "bare": Variant(), "forecast": Variant(guide=forecast), "guided": Variant(guide=beside(forecast, **knobs)),
        }, cfg=cfg, steps=6)
    (line,) = said(caplog)
    assert "left out 2 of 6 calls: a cache or a forecast" in line
    assert not close(found["forecast"].latent, found["bare"].latent, 0.01)
    assert torch.equal(found["guided"].latent, found["forecast"].latent)

    setup = Setup(models=undecided("flux"))
    found = sampled(host, two_models("flux", host), {
        label: Variant(setup, beside(forecast, scale=scale, probe_radius=radius, **knobs), traced=True)
        for label, scale, radius in (("tiny", 1e-6, 0.1), ("coarse", 1e-6, 0.3), ("pushed", 1.0, 0.1))
    } | {"plain": Variant(setup, forecast)}, cfg=cfg, steps=6)
    for each in found.values():
        if each.trace is not None:
            left_out = [call.rayleigh is None for call in each.trace.calls]
            assert left_out == [False, False, True] * 2 if refresh_every else sum(left_out) <= 2
            each.trace.calls = [call for call in each.trace.calls if call.rayleigh is not None]
    assert independent_of_step(found["tiny"], found["coarse"])
    assert close(found["tiny"].latent, found["plain"].latent, 1e-4)
    assert_acts(found["pushed"], found["plain"])


def test_a_name_switches_nothing_off(host):
    setup = Setup(models=undecided("sd3"))
    found = sampled(host, two_models("sd3", host), {
        "free": Variant(setup, saddle_free), "named": Variant(setup, beside(node("TestNamed"))),
        "plain": Variant(setup),
    }, cfg=1.0, steps=3)
    assert close(found["named"].latent, found["free"].latent, 1e-3)
    assert_acts(found["named"], found["plain"])


def in_single_steps(graph, model, positive, negative, latent, *, cfg, steps):
    """A chain of samplers of one step each, of which the first alone adds noise."""
    for step in range(steps):
        latent = graph.add(
            "KSamplerAdvanced", model=model, positive=positive, negative=negative, latent_image=latent, cfg=cfg,
            steps=steps, noise_seed=7, sampler_name="euler", scheduler="simple", start_at_step=step,
            end_at_step=step + 1, add_noise="disable" if step else "enable",
            return_with_leftover_noise="disable" if step == steps - 1 else "enable",
        )
    return latent


@pytest.mark.parametrize("refresh_every", [0, 1])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_one_step_runs_chained_without_noise_are_not_probed(host, caplog, cfg, refresh_every):
    """A single step finds no direction; the picture is that of no node, and each run says so."""
    of = partial(Variant, Setup(models=undecided("sd3")), sampler=in_single_steps)
    guide = partial(saddle_free, refresh_every=refresh_every)
    with caplog.at_level(logging.WARNING):
        found = sampled(host, two_models("sd3", host), {
            "plain": of(), "guided": of(guide), "whole": Variant(Setup(models=undecided("sd3"))),
        }, cfg=cfg, steps=4)
    assert close(found["plain"].latent, found["whole"].latent, 1e-3)
    assert torch.equal(found["guided"].latent, found["plain"].latent)
    assert (found["guided"].main, found["guided"].checks) == (found["plain"].main, 0)
    assert len(said(caplog)) == 4 and all("this run is a single step" in line for line in said(caplog))


@pytest.mark.parametrize("refresh_every", [0, 1])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_each_of_a_batch_of_one_frame_videos_is_as_alone(host, cfg, refresh_every):
    """Latents [3, 16, 1, 8, 8] are three pictures, no video of three frames."""
    setup = Setup(
        models=undecided("wan"), latent=lambda graph, latent: graph.add("TestLatentOfShape", shape="3,16,1,8,8")
    )
    guide = partial(saddle_free, refresh_every=refresh_every)

    def one(graph, latent, *, place):
        return graph.add("LatentFromBatch", samples=setup.latent(graph, latent), batch_index=place, length=1)

    found = sampled(host, two_models("wan", host), {
        "plain": Variant(setup), "batch": Variant(setup, guide, traced=True), **{
            f"image {place}": Variant(Setup(models=setup.models, latent=partial(one, place=place)), guide, traced=True)
            for place in range(3)
        },
    }, cfg=cfg, steps=4)
    batch, effect = found["batch"], (found["batch"].latent - found["plain"].latent).flatten(1).norm(dim=1)
    assert batch.latent.shape == (3, 16, 1, 8, 8) and (effect > 0.01 * found["plain"].latent.std()).all()
    for place in range(3):
        alone = found[f"image {place}"]
        assert (alone.latent - batch.latent[place : place + 1]).norm() < 1e-3 * effect[place]
        for one_call, call in zip(alone.trace.calls, batch.trace.calls, strict=True):
            assert torch.allclose(one_call.rayleigh[:, 0], call.rayleigh[:, place], rtol=1e-3, atol=1e-3)


DETAILS = {"face": "1,16,16,16", "hand": "1,16,8,12", "tile": "3,16,16,16", "eye": "1,16,16,16"}  # as detailers cut


def detailed(host, cfg, shared, **knobs):
    """A picture, then parts of it of other sizes, repainted under masks; by one guided model, or one a part."""
    graph = Graph()
    model, _, positive, negative, _ = two_models("sd3", host)(graph)

    def made(label):
        undecided_model = graph.add("TestUndecided", model=watched(graph, model, label), amount=ADDED["sd3"])
        return guided(graph, undecided_model, **knobs) if knobs else undecided_model

    one = made("all") if shared else None
    for seed, (label, shape) in enumerate(DETAILS.items()):
        latent = graph.add("TestPicture", samples=graph.add("TestLatentOfShape", shape=shape))
        masks = graph.add("TestMasks", count=int(shape[0]), size=16, soft=False)
        latent = graph.add("SetLatentNoiseMask", samples=latent, mask=masks)
        samples = graph.add(
            "KSampler", model=one if shared else made(label), positive=positive, negative=negative, seed=seed, cfg=cfg,
            latent_image=latent, sampler_name="euler", scheduler="simple", steps=4, denoise=0.8,
        )
        graph.add("TestCapture", samples=samples, label=label)
    return host.latents(graph.prompt)


@pytest.mark.parametrize("refresh_every", [0, 1])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_each_run_of_a_detailer_starts_clean(host, cfg, refresh_every):
    """One guided model for runs of other sizes and masks gives the bits that a guided model for each gives."""
    knobs = {"scale": 1.0, "refresh_every": refresh_every}
    plain = detailed(host, cfg, shared=True)
    own, shared = (detailed(host, cfg, shared, **knobs) for shared in (False, True))
    assert shared.keys() == DETAILS.keys()
    for label in DETAILS:
        assert torch.equal(shared[label], own[label])
        assert not close(shared[label], plain[label], 0.003)
