"""What guidance does where a sampler raises sigma, begins again, or changes the latent's size: sigma alone decides."""

import itertools
from functools import partial

import pytest
import torch
from cases import in_turn
from graphs import guided, steered
from runs import two_models
from variants import Variant, sampled


def both(graph, model, weak, **knobs):
    return guided(graph, steered(graph, model, weak), **knobs)


def custom(graph, model, positive, negative, latent, *, made, sigmas, cfg=1.0):
    """Any sampler node with any sigmas, a string or a link."""
    return graph.add(
        "SamplerCustomAdvanced", noise=graph.add("RandomNoise", noise_seed=7),
        guider=graph.add("CFGGuider", model=model, positive=positive, negative=negative, cfg=cfg), sampler=made(graph),
        sigmas=graph.add("ManualSigmas", sigmas=sigmas) if isinstance(sigmas, str) else sigmas(graph, model),
        latent_image=latent,
    )


def named(name):
    return lambda graph: graph.add("KSamplerSelect", sampler_name=name)


def falling(graph, model):
    return graph.add("BasicScheduler", model=model, scheduler="karras", steps=6, denoise=1.0)


def rising(graph, model):
    return graph.add("FlipSigmas", sigmas=falling(graph, model))


def sigmas_of(result):
    return [float(call.sigma) for call in result.trace.calls]


def rises(sigmas):
    return sum(later > earlier for earlier, later in itertools.pairwise(sigmas))


AGAIN = "8, 3, 1, 3, 1, 0"
CASES = {  # sampler, sigmas, how often sigma rises from one call to the next
    "heunpp2": (named("heunpp2"), falling, 4),
    "restart": (named("lcm"), AGAIN, 1),
    "unsampling": (named("euler"), rising, 5),
}


@pytest.mark.parametrize("name, setting", list(in_turn(CASES, [(1, 4.0), (3, 1.0)])))
def test_a_raised_sigma_is_guided_like_any_other(host, name, setting):
    (batch, cfg), (made, sigmas, raised) = setting, CASES[name]
    of = partial(Variant, sampler=partial(custom, made=made, sigmas=sigmas))
    window = {"start_percent": 0.3, "end_percent": 0.8}
    found = sampled(host, two_models("demo", host), {
        "plain": of(), "all": of(guide=both, traced=True), "again": of(guide=both),
        "window": of(guide=partial(both, **window), traced=True),
    }, batch=batch, cfg=cfg)
    plain, whole, window = found["plain"], found["all"], found["window"]
    assert rises(sigmas_of(whole)) == raised
    assert whole.latent.isfinite().all() and not torch.equal(whole.latent, plain.latent)
    assert torch.equal(found["again"].latent, whole.latent)
    assert (whole.main, whole.weak) == (plain.main + plain.calls, plain.calls)
    assert all(call.rayleigh is not None for call in whole.trace.calls)

    start, end = window.trace.window
    inside = [end <= sigma <= start for sigma in sigmas_of(window)]
    assert [call.rayleigh is not None for call in window.trace.calls] == inside
    assert 0 < sum(inside) < window.calls
    assert (window.main, window.weak) == (plain.main + sum(inside), plain.calls)


def test_a_run_that_begins_again_goes_on_with_its_directions(host):
    """The quotient along a direction that was followed is larger than along a random one at the same sigma."""
    of = partial(Variant, guide=both, traced=True)
    found = sampled(host, two_models("demo", host), {
        "again": of(sampler=partial(custom, made=named("lcm"), sigmas=AGAIN)),
        "fresh": of(sampler=partial(custom, made=named("lcm"), sigmas="3, 1, 0")),
    })
    assert sigmas_of(found["again"])[3] == sigmas_of(found["fresh"])[0] == 3.0
    followed, random = found["again"].trace.calls[3].rayleigh, found["fresh"].trace.calls[0].rayleigh
    assert (followed > 2 * random.abs()).all()


@pytest.mark.parametrize("every, probes", [(1, 5), (2, 2), (3, 2), (4, 1)])
def test_a_step_is_a_fall_of_sigma(host, every, probes):
    """The calls at 8, 3, 1, 3 and 1 are steps 0, 1, 2, 2 and 3: sigma falls three times, and once it rises."""
    of = partial(Variant, sampler=partial(custom, made=named("lcm"), sigmas=AGAIN))
    found = sampled(host, two_models("demo", host), {
        "run": of(guide=lambda graph, model, weak: guided(graph, model, refresh_every=every))
    }, cfg=1.0)
    assert (found["run"].calls, found["run"].main) == (5, 5 + probes)


@pytest.mark.parametrize("refresh_every, setting", list(in_turn([1, 4], [(1, 4.0), (3, 1.0)])))
def test_a_latent_that_grows_is_searched_anew(host, refresh_every, setting):
    """From 32 to 64 pixels in two steps: each new size is probed at once, along a random direction."""
    batch, cfg = setting

    def upscale(graph):
        return graph.add("SamplerLCMUpscale", scale_ratio=2.0, scale_steps=2, upscale_method="bilinear")

    of = partial(Variant, sampler=partial(custom, made=upscale, sigmas=falling))
    found = sampled(host, two_models("demo", host), {
        "plain": of(), "both": of(guide=partial(both, refresh_every=refresh_every), traced=True),
        "again": of(guide=partial(both, refresh_every=refresh_every)),
        "off": of(guide=lambda graph, model, weak: guided(graph, model, scale=0.0)),
    }, batch=batch, cfg=cfg)
    plain, result = found["plain"], found["both"]
    assert result.latent.shape == (batch, 3, 64, 64) and result.latent.isfinite().all()
    assert torch.equal(found["again"].latent, result.latent) and torch.equal(found["off"].latent, plain.latent)
    assert not torch.equal(result.latent, plain.latent)
    probes = 6 if refresh_every == 1 else 3
    assert (result.calls, result.main, result.weak) == (6, plain.main + probes, 6)
    quotients = [float(call.rayleigh.mean()) for call in result.trace.calls]
    assert refresh_every == 4 or max(quotients[1:3]) < quotients[5]
