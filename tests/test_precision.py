"""Low precision does not lose the direction: closed forms made as inexact as networks."""

import functools
import itertools
import statistics

import precision
import pytest
import torch
from mixtures import Mixture, symmetric_pair
from saddle_free_guidance.curvature import CurvatureTracker, rounding_error, with_input_rounding
from saddle_free_guidance.curvature.rounding import noise_share, rayleigh_without_noise


def means(size, dtype, radius, seeds=(0, 1, 2)):
    """Mean |cosine| and mean relative Rayleigh error while the exact eigenvalue is above 1."""
    runs = [precision.follow(size, dtype, radius, seed=seed) for seed in seeds]
    return tuple(statistics.mean(value for run in runs for value in run[part]) for part in (0, 1))


@pytest.mark.parametrize("size, dtype, least", [
    (256, torch.float32, 0.97), (16384, torch.float32, 0.97), (256, torch.float16, 0.97), (3072, torch.float16, 0.95),
    (256, torch.bfloat16, 0.94), (3072, torch.bfloat16, 0.9), (16384, torch.float16, 0.95),
    (16384, torch.bfloat16, 0.89),
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


def test_full_precision_has_no_rounding_and_half_precision_that_of_its_format():
    assert rounding_error(torch.float32, 2**18) == rounding_error(torch.float64, 2**18) == 0.0
    assert rounding_error(torch.float16, 1024) == pytest.approx(32 * 2**-11)
    amplified = rounding_error(torch.bfloat16, 1024, torch.tensor([1.0, 0.5]))
    assert amplified.tolist() == pytest.approx([32 * 2**-8, 16 * 2**-8])


def test_the_rounding_of_the_input_grows_as_the_noise_falls():
    x, std = torch.tensor([[3.0, -3.0], [3.0, -3.0]]), torch.tensor([30.0, 0.3])
    assert with_input_rounding(torch.ones(2), x, std).tolist() == pytest.approx([1.00125, 26**0.5], rel=1e-4)
    assert with_input_rounding(torch.ones(2), torch.zeros(2, 4), std).tolist() == [1.0, 1.0]


def test_the_quotient_is_freed_of_the_noise_in_a_direction():
    size, noise, value = 2**16, 0.7, 1.4
    exact = torch.zeros(1, 1, size)
    exact[..., 0] = value
    scattered = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0)) * noise / size**0.5
    response = exact + scattered
    share = noise_share(response, torch.full((1, 1), noise))
    vector = torch.nn.functional.normalize(response, dim=-1)
    quotient = value * vector[..., 0] ** 2  # of J = value e e^T
    assert quotient.item() < 0.9 * value
    assert rayleigh_without_noise(quotient, share).item() == pytest.approx(value, rel=0.01)
    assert noise_share(torch.zeros(1, 1, 4), torch.ones(1, 1)).item() <= 0.5


def test_probes_change_sides_for_each_image_and_the_direction_keeps_its_sign():
    mixture, sigma = symmetric_pair(6), 0.5
    y = torch.full((2, 6), 0.1, dtype=torch.float64)
    tracker, first = CurvatureTracker(probe_radius=0.01, rounding=1e-6), torch.tensor([True, False])
    steps, estimates = [], []
    for images in (first | True, first, first | True):
        probe = tracker.probe(y, std=sigma)
        probed = mixture.denoise(probe, sigma)
        estimates.append(tracker.update(mixture.denoise(y, sigma), probed, alpha=1.0, std=sigma, images=images))
        steps.append(((probe - y) * estimates[-1].direction[0]).sum(dim=1) / (0.01 * sigma))
    assert steps[0].tolist() == pytest.approx([1, 1])
    assert steps[2].tolist() == pytest.approx([1, -1])  # the second image was probed once before, the first one twice
    for earlier, later in itertools.pairwise(estimates):
        assert ((earlier.direction * later.direction).sum(dim=-1) > 0).all()
        assert (later.rayleigh > 0).all()


@pytest.mark.parametrize("rounding, bent", [(0.0, True), (1e-6, False)])
def test_two_sides_undo_the_bend_that_one_side_has(rounding, bent):
    def denoise(y):  # J = 1.2 e1 e1^T at 0, and a second derivative along e1 that points to e2
        return torch.stack([1.2 * y[:, 0], 0.8 * y[:, 0] ** 2], dim=1)

    tracker, y = CurvatureTracker(probe_radius=0.5, rounding=rounding), torch.zeros(1, 2, dtype=torch.float64)
    across = []
    for _ in range(40):
        estimate = tracker.update(denoise(y), denoise(tracker.probe(y, std=1.0)), alpha=1.0, std=1.0)
        across.append(estimate.response[0, 0, 1].item())
    assert (abs(statistics.mean(across[-2:])) > 0.3) == bent
    assert abs(statistics.mean(across[-2:])) < 0.01 or bent
