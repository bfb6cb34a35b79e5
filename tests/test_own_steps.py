"""What the sampler's own steps tell of the noise in a network's answers."""

import contextlib
import dataclasses
import math

import pytest
import torch
from saddle_free_guidance.guidance import SaddleFree
from saddle_free_guidance.guidance.automatic import Automatic

SHAPE = (3, 32, 32)
SIGMAS = (40.0, 18.0, 8.0, 3.0, 1.0)


def bounds(lengths):
    """The bound on the noise at each call, [calls, B]: answers of a Gaussian with noise of these lengths at each."""
    generator, guide = torch.Generator().manual_seed(0), SaddleFree(1.0, dtype=torch.bfloat16)
    x, found = SIGMAS[0] * torch.randn(2, *SHAPE, generator=generator), []
    guide._run = guide._run_of(x, None, None)
    for sigma, following, length in zip(SIGMAS, SIGMAS[1:], lengths):
        noise = torch.randn(x.shape, generator=generator)
        noise = noise * length * sigma / noise.flatten(1).norm(dim=1)[:, None, None, None]
        search = Automatic(guide, guide._run, x, 1.0, sigma)
        exact = 16.0 / (16.0 + sigma**2) * x
        call = search.evaluate()
        next(call)
        with contextlib.suppress(StopIteration):
            while True:
                call.send(exact + noise)
        guide._run = dataclasses.replace(search.run, sigma_hat=search.sigma_hat)
        found.append(search.most)
        x = exact + (x - exact) * following / sigma
    return torch.stack(found)


@pytest.mark.parametrize("length", [0.1, 1.0])
def test_two_steps_bound_the_noise_in_an_answer(length):
    """A Gaussian's prediction changes along one line. With few steps the third call is where saddles open."""
    found = bounds([length] * 4)
    assert (found[:2] == math.inf).all()
    assert ((found[2:] > 0.8 * length) & (found[2:] < 2 * length)).all()


def test_the_larger_of_the_last_two_bounds_counts():
    """Noise of a few directions may lie along a change for once."""
    found = bounds([1.0, 1.0, 0.0, 0.0])
    assert (found[3] >= 0.99 * found[2]).all()
