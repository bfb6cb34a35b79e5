"""What the guide makes of values of any size, shape and format, and of those that are not finite."""

import itertools
import math

import pytest
import torch
from guided_runs import EVERY, SIGMAS, Asked, noise, pair
from hypothesis import given, settings
from hypothesis import strategies as st
from saddle_free_guidance.guidance import SaddleFree


def spoiled(every, at=(), probe=False, bad=math.nan):
    """A run in which image 1 gets a `bad` value at the calls `at`, in the prediction at x or in those of its probes."""
    exact, guide, x, ends = pair().denoise, SaddleFree(2.0, refresh_every=EVERY[every]), None, []
    for call, (sigma, following) in enumerate(itertools.pairwise(SIGMAS)):
        x, asked = sigma * noise() if x is None else x, []

        def denoise(rows, images):
            answer, first = exact(rows, sigma), 0 if asked else 3  # noqa: B023
            asked.append(rows)  # noqa: B023
            places = [place for place, image in enumerate(images.tolist()) if image == 1]
            for place in places if call in at else ():  # noqa: B023
                if (place >= first) == probe:
                    answer[place, 2] = bad
            return answer

        denoised = guide(denoise, x, alpha=1.0, std=sigma)
        denoised = torch.where(denoised.isfinite(), denoised, exact(x, sigma))
        x = denoised + (x - denoised) * following / sigma
        ends.append(x)
    trace = guide.trace
    return torch.stack(ends), torch.stack(trace.push), torch.stack(trace.evaluations), torch.stack(trace.rayleigh)[:, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("probe", [False, True])
def test_values_that_are_not_finite_stop_their_own_image_only(bad, every, probe):
    clean = spoiled(every)
    looked = (clean[2][:, 1] > 1).nonzero().flatten().tolist()
    dirty = spoiled(every, looked[:1], probe, bad)
    for before, after in zip(clean, dirty):
        assert torch.equal(before[:, [0, 2]], after[:, [0, 2]]) and after.isfinite().all()
    assert dirty[1][:, 1].max() > 0  # looked at again


def test_a_sampler_that_asks_twice_at_one_place_gets_the_same_push():
    guide, exact = SaddleFree(2.0, refresh_every=1), pair().denoise
    assert not guide.begun
    for sigma in SIGMAS[:18]:
        x = sigma * noise()
        guided = guide(Asked(exact, sigma), x, alpha=1.0, std=sigma)
    assert guide.begun and guide.trace.push[-1].min() > 0
    again = guide.last_correction(alpha=torch.ones(3), std=torch.full((3,), sigma), dtype=torch.float64)
    assert torch.allclose(again, guided - exact(x, sigma), atol=1e-6) and len(guide.trace) == 18


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_prediction_keeps_its_dtype(dtype):
    exact, guide = pair().denoise, SaddleFree(2.0, refresh_every=1, dtype=dtype)
    for sigma in SIGMAS[:18]:
        def denoise(x, images):
            assert x.dtype == dtype
            return exact(x.double(), sigma).to(dtype)  # noqa: B023

        guided = guide(denoise, (sigma * noise()).to(dtype), alpha=1.0, std=sigma)
        assert guided.dtype == dtype
    assert dtype == torch.bfloat16 or max(push.max() for push in guide.trace.push) > 0  # noise may hide this one there


@pytest.mark.parametrize("size", [24, 1024])
def test_the_largest_eigenvalue_is_found_in_full_precision(size):
    """In float64 as exactly as float64 is, of a J that is the same everywhere."""
    gains = torch.cat([torch.full((size - 1,), 0.5), torch.tensor([2.0])]).double()
    guide, start = SaddleFree(1.0, refresh_every=1), noise(3, size)
    for sigma in torch.linspace(1, 0.5, 60).tolist():
        guided = guide(lambda x, images: gains * x, (1 + sigma) * start, alpha=1.0, std=sigma)
    assert guide.trace.rayleigh[-1].dtype == guided.dtype == torch.float64
    assert guide.trace.rayleigh[-1][0].tolist() == pytest.approx([2.0] * 3, abs=1e-9)


SHAPES = st.sampled_from([(4, 6, 6), (16, 2, 3, 3), (1, 40), (7,), (3, 1, 1)])
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16])


@settings(max_examples=40, deadline=None)
@given(
    shape=SHAPES, batch=st.integers(1, 4), directions=st.integers(1, 3), dtype=DTYPES, seed=st.integers(0, 2**64 - 1),
    refresh_every=st.integers(0, 2), alpha=st.floats(0.1, 1), std=st.floats(0.1, 10),
)
def test_any_shape_dtype_and_batch(shape, batch, directions, dtype, seed, refresh_every, alpha, std):
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    guide = SaddleFree(1.0, seed, refresh_every, directions, dtype)
    for call in range(4):
        level = std / 2**call
        asked = Asked(lambda y, sigma: 3 * y, level, batch=batch)
        guided = guide(asked, x / (1 + call), alpha=alpha, std=level)
        assert guided.shape == x.shape and guided.dtype == dtype and guided.isfinite().all()
        assert guide.trace.rayleigh[-1].shape == (directions, batch)
        assert torch.equal(guide.trace.evaluations[-1], asked.rows)
    if dtype == torch.float64 and refresh_every == 1:  # J = 3 alpha everywhere
        assert torch.allclose(guide.trace.rayleigh[-1], torch.tensor(3 * alpha, dtype=dtype), rtol=1e-6)


def one_call(x=None, **knobs):
    x = torch.zeros(2, 4) if x is None else x
    return SaddleFree(1.0, **knobs)(lambda rows, images: rows, x, alpha=1.0, std=1.0)


@pytest.mark.parametrize("broken, words", [
    (lambda: SaddleFree(directions=0), "directions is 0"),
    (lambda: SaddleFree(directions=1.5), "directions is 1.5"),
    (lambda: SaddleFree(refresh_every=-1), "refresh_every is -1"),
    (lambda: SaddleFree(probe_radius=-0.5), "probe_radius is -0.5"),
    (lambda: SaddleFree(probe_radius=math.nan), "probe_radius is nan"),
    (lambda: one_call(directions=9), "only 4 values"),
    (lambda: one_call(torch.zeros(4)), r"shape \(4,\)"),
    (lambda: one_call(image_keys=[1]), "1 entries for a batch of 2"),
    (lambda: one_call(mask=torch.ones(3, 4)), r"mask has shape \(3, 4\)"),
])
def test_bad_input_is_named(broken, words):
    with pytest.raises(ValueError, match=words):
        broken()
