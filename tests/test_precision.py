"""Low precision does not lose the direction: closed forms made as inexact as networks."""

import functools
import statistics

import precision
import pytest
import torch
from mixtures import Mixture


def means(size, dtype, radius, seeds=(0, 1, 2)):
    """Mean |cosine| and mean relative Rayleigh error while the exact eigenvalue is above 1."""
    runs = [precision.follow(size, dtype, radius, seed=seed) for seed in seeds]
    return tuple(statistics.mean(value for run in runs for value in run[part]) for part in (0, 1))


@pytest.mark.parametrize("size, dtype, least", [
    (256, torch.float32, 0.97), (16384, torch.float32, 0.97), (256, torch.float16, 0.95), (3072, torch.float16, 0.9),
    (3072, torch.bfloat16, 0.85), (16384, torch.float16, 0.85), (16384, torch.bfloat16, 0.7),
])
def test_the_automatic_radius_finds_the_direction(size, dtype, least):
    assert means(size, dtype, precision.automatic(dtype, size))[0] >= least


@pytest.mark.parametrize("size, dtype", [(16384, torch.float16), (3072, torch.bfloat16), (16384, torch.bfloat16)])
def test_a_radius_for_full_precision_loses_it(size, dtype):
    assert means(size, dtype, 0.1)[0] < 0.3


def test_the_automatic_radius_is_the_smallest_in_full_precision():
    for size in (256, 3072):
        automatic = functools.partial(precision.follow, size, torch.float32, precision.automatic(torch.float32, size))
        assert automatic() == precision.follow(size, torch.float32, 0.1)


@pytest.mark.parametrize("sigma", [0.7, 1.2, 3.0])
def test_the_oracle_of_large_sizes_agrees_with_the_dense_one(sigma):
    large = precision.Mixture(40, seed=3)
    dense = Mixture(large.means, torch.full((precision.COMPONENTS, 40), precision.VARIANCE))
    y = large.means.mean(dim=0) + 0.3 * torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(large.denoise(y, sigma).double(), dense.denoise(y.double(), sigma), atol=1e-5)
    values, directions = large.top_eigenpairs(y, sigma)
    for point, value, direction in zip(y.double(), values, directions.double()):
        exact, vectors = torch.linalg.eigh(dense.jacobian(point, sigma))
        assert value.item() == pytest.approx(exact[-1].item(), rel=1e-4)
        assert abs(direction @ vectors[:, -1]) == pytest.approx(1, abs=1e-4)


def test_the_inexact_denoiser_is_wrong_by_as_much_as_its_format():
    mixture, size, sigma = precision.Mixture(4096, seed=0), 4096, 2.0
    y = sigma * torch.randn(4, size, generator=torch.Generator().manual_seed(1))
    exact = mixture.denoise(y, sigma)
    for dtype, unit in ((torch.float16, 2**-11), (torch.bfloat16, 2**-8), (torch.float8_e4m3fn, 2**-4)):
        model = precision.Inexact(mixture, dtype, torch.Generator().manual_seed(2))
        error = (model.denoise(y, sigma) - exact).square().mean().sqrt() / ((y - exact).square().mean().sqrt())
        assert 0.5 * unit < error < 1.5 * unit
