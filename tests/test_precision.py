"""The noise in a network's answers, against noise that is known."""

import math

import pytest
import torch
from densities import frequencies, waves
from hypothesis import given, settings
from hypothesis import strategies as st
from saddle_free_guidance.curvature import (
    EXACT,
    REACH,
    SILENT,
    assumed_noise,
    balanced_reach,
    eps_of,
    filtered,
    gaussian,
    noise_along,
    noise_in_responses,
    noise_in_rings,
    reach,
    side,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rounds(noise, size=8192, batch=3, block=1, further=0.7):
    """Two rounds of probes of a diagonal J, each response with noise of the lengths `noise` [B], in float64."""
    gains = torch.linspace(0, 1.2, size, dtype=torch.float64)
    lengths = torch.as_tensor(noise, dtype=torch.float64).expand(batch)[:, None] / math.sqrt(size)
    draws = torch.randn(3, block, batch, size, generator=generator(), dtype=torch.float64)
    first = gains * draws[0] + lengths * draws[1]
    second = further * first
    return torch.stack([draws[0], second]), torch.stack([first, gains * second + lengths * draws[2]])


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("further", [0.5, 0.7, 5.0])
def test_the_noise_of_each_image_is_told_from_two_rounds(block, further):
    expected = torch.tensor([30.0, 60.0, 120.0], dtype=torch.float64)  # a response is about 63 long
    found = noise_in_responses(*rounds(expected, block=block, further=further))
    assert torch.allclose(found, expected, rtol=0.05)


def test_answers_without_noise_have_none():
    assert noise_in_responses(*rounds(0.0)).max() < 1e-5
    asked, told = rounds(50.0)
    assert torch.equal(noise_in_responses(asked[:1], told[:1]), torch.zeros(3, dtype=torch.float64))
    assert torch.equal(noise_in_responses(0 * asked, 0 * told), torch.zeros(3, dtype=torch.float64))


def wave(shape, place, channels=1.0):
    """A unit wave [C, H, W], in every channel by the same amount."""
    values = torch.zeros(shape)
    values[:, place[0], place[1]] = channels
    return waves(values) / values.norm()


def coloured(shape, batch, power, seed=0):
    """Noise [B, C, H, W] whose variance along each wave is `power` [C, H, W], and so along each direction's waves."""
    return waves(power.sqrt() * torch.randn(batch, *shape, generator=generator(seed)))


@pytest.mark.parametrize("place", [(0, 1), (2, 3), (30, 28)])
def test_noise_along_a_wave_is_that_of_its_frequency(place):
    shape = (4, 64, 64)
    power = 1 + 399 * torch.exp(-frequencies(shape).square() / (2 * 16**2))
    noise, direction = coloured(shape, 16, power), wave(shape, place)
    exact = power[0, place[0], place[1]].sqrt().item()
    many = coloured(shape, 2000, power, seed=1).flatten(1) @ direction.flatten()
    assert many.std().item() == pytest.approx(exact, rel=0.05)  # what the words above mean
    found = noise_along(noise, direction.expand(1, 16, *shape))[0]
    mean = noise.flatten(1).square().mean(dim=1).sqrt()
    if exact > mean.max():
        assert found.mean().item() == pytest.approx(exact, rel=0.1) and (found / exact - 1).abs().max() < 0.35
    else:
        assert torch.allclose(found, mean, rtol=0.1)  # never taken to be less than the mean


def test_noise_of_a_part_of_the_picture_counts_for_a_direction_there():
    shape = (1, 32, 32)
    strength = torch.ones(shape)
    strength[:, :8, :8] = 20.0
    noise = strength * torch.randn(16, *shape, generator=generator())
    inside = torch.zeros(shape)
    inside[:, 2:6, 2:6] = 0.25
    found = noise_along(noise, inside.expand(1, 16, *shape))[0]
    assert found.mean().item() == pytest.approx(20.0, rel=0.15)


@pytest.mark.parametrize("shape", [(40,), (2, 16), (3, 8, 8), (2, 3, 8, 8), (1, 1, 1)])
def test_white_noise_is_alike_in_all_directions(shape):
    noise = torch.randn(1, *shape, generator=generator()).sign().expand(2, *shape) * torch.tensor(
        [1.0, 3.0]
    ).reshape(2, *(1,) * len(shape))
    directions = torch.randn(3, 1, *shape, generator=generator(1)).expand(3, 2, *shape)
    directions = directions / directions.flatten(2).norm(dim=2).reshape(3, 2, *(1,) * len(shape))
    found = noise_along(noise, directions)
    assert found.shape == (3, 2)
    assert torch.allclose(found[:, 1], 3 * found[:, 0], rtol=1e-5)
    assert (found >= torch.tensor([1.0, 3.0]) * (1 - 1e-5)).all() and found[:, 0].max() < 2


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(1e-3, 1e3))
def test_twice_the_noise_is_twice_along_every_direction(seed, factor):
    noise, directions = torch.randn(2, 1, 2, 3, 6, 6, generator=generator(seed), dtype=torch.float64)
    once = noise_along(noise[0], directions)
    assert torch.allclose(noise_along(factor * noise[0], directions), factor * once, rtol=1e-5)
    assert torch.allclose(noise_along(noise[0], -directions), once, rtol=1e-6)


@pytest.mark.parametrize("dtype, unit", [(torch.float32, 2**-24), (torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_what_a_format_lets_one_expect(dtype, unit):
    assert assumed_noise(dtype, 1024) == pytest.approx(32 * unit)
    assert (torch.finfo(dtype).eps < EXACT) == (dtype == torch.float32)


def test_on_a_gpu_float32_may_be_as_coarse_as_tf32():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert eps_of(torch.float32, gpu) == 2**-10 and eps_of(torch.float32, cpu) == 2**-23
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert eps_of(dtype, gpu) == eps_of(dtype, cpu) == torch.finfo(dtype).eps


def test_a_probe_reaches_beyond_the_noise_and_stays_where_the_denoiser_is_straight():
    levels = torch.tensor([0.0, 0.01, 0.2, 0.3, 0.4, 1.0, 100.0])
    found = reach(levels)
    assert found[0] == found[1] == REACH and found.isfinite().all()
    assert (found.diff() >= 0).all() and found[-1] == found[-2] <= 2
    assert found[3].item() == pytest.approx(0.6) and reach(0.3).item() == pytest.approx(0.6)


def test_chance_is_the_same_for_the_same_name_and_another_for_another():
    names = [(seed, key, direction, search) for seed in (0, 2**64 - 1) for key in range(2) for direction in range(2)
             for search in range(2)]
    vectors = torch.stack([gaussian(512, *name) for name in names])
    assert torch.equal(vectors, torch.stack([gaussian(512, *name) for name in names]))
    cosines = torch.nn.functional.normalize(vectors, dim=1) @ torch.nn.functional.normalize(vectors, dim=1).T
    assert (cosines - torch.eye(len(names))).abs().max() < 0.25  # 5 standard deviations
    assert not torch.equal(gaussian(8, 1, 23), gaussian(8, 12, 3))


def test_chance_takes_no_direction_and_no_side_more_often():
    many = torch.stack([gaussian(16, seed, 5) for seed in range(2000)])
    assert (many.T @ many / 2000 - torch.eye(16)).abs().max() < 5 * math.sqrt(2 / 2000)
    assert many.mean(dim=0).abs().max() < 5 / math.sqrt(2000)
    sides = torch.tensor([side(seed, 5) for seed in range(2000)])
    assert set(sides.tolist()) == {-1.0, 1.0} and sides.mean().abs() < 5 / math.sqrt(2000)
    assert [side(7, key) for key in range(20)] == [side(7, key) for key in range(20)]


@pytest.mark.parametrize("times", [0.25, 1.0, 2.5])
@pytest.mark.parametrize("shape", [(3, 32, 32), (4, 64, 64), (4, 3, 24, 40)])
def test_nothing_is_left_of_white_noise_between_a_fifth_and_three_times_what_is_expected(times, shape):
    noise = times * torch.randn(40, *shape, generator=generator(1))
    assert not filtered(noise, torch.ones(40))[0].any()


@pytest.mark.parametrize("times", [0.25, 1.0, 2.5])
def test_a_broad_wave_is_left_as_it_is(times):
    """Six times as long as the noise of its ring, of 20 frequencies in 4 channels."""
    shape = (4, 64, 64)
    there = 6 * times * math.sqrt(80) * wave(shape, (2, 3)).expand(8, *shape)
    left = filtered(there + times * torch.randn(8, *shape, generator=generator(2)), torch.ones(8))[0]
    cosines = torch.nn.functional.cosine_similarity(left.flatten(1), there.flatten(1))
    assert (cosines > 0.97).all()
    assert ((left.flatten(1).norm(dim=1) / there.flatten(1).norm(dim=1) - 1).abs() < 0.1).all()


@pytest.mark.parametrize("times", [0.5, 1.0, 2.0])
def test_the_length_of_the_noise_that_stays_is_told(times):
    """The filter is linear in what it lets pass, so that it is the same with the noise's other sign."""
    shape = (4, 64, 64)
    there = sum(20 * wave(shape, place) for place in ((1, 2), (2, 3), (4, 1), (5, 5))).expand(16, *shape)
    noise = times * torch.randn(16, *shape, generator=generator(3))
    (plus, left, _), (minus, _, _) = (filtered(there + sign * noise, torch.ones(16)) for sign in (1, -1))
    stays = (plus - minus).flatten(1).norm(dim=1) / 2
    assert (stays > 0).all() and ((left / stays).mean() - 1).abs() < 0.1


def falling(shape, power):
    """Variances [C, H, W] that fall as frequency^-power; their mean is 1."""
    variances = frequencies(shape) ** -power
    return variances / variances.mean()


@pytest.mark.parametrize("power", [0.0, 2.0])
@pytest.mark.parametrize("shape", [(4, 64, 64), (4, 24, 40)])
def test_the_power_of_noise_in_rings_is_that_of_its_colour(power, shape):
    """In 40 samples of each: never much less, and in rings of more than a few values not much more."""
    told, exact = noise_in_rings(coloured(shape, 40, falling(shape, power))), falling(shape, power)[0]
    ring = frequencies(shape)[0].round().long()
    for place in range(1, min(shape[1:]) // 2):
        there = told[:, place] / exact[ring == place].mean()
        assert there.min() > 0.4 and (place < 3 or 0.95 < there.mean() < (1.4 if power else 1.2))


@pytest.mark.parametrize("power", [0.0, 2.0])
@pytest.mark.parametrize("shape", [(4, 64, 64), (4, 24, 40)])
def test_how_long_noise_of_any_colour_that_stays_can_be_is_told(power, shape):
    """Where its power is known; by the quietest rings alone it is told too short where it has a colour."""
    there = sum(100 * wave(shape, place) for place in ((1, 2), (2, 3), (4, 1), (5, 5))).expand(16, *shape)
    noise, other = (coloured(shape, 16, falling(shape, power), seed) for seed in (3, 4))
    most = noise_in_rings(other).mean(dim=0).expand(16, -1)
    (plus, left, at_most), (minus, _, _) = (
        filtered(there + sign * noise, torch.ones(16), SILENT, most) for sign in (1, -1)
    )
    ratios = at_most / ((plus - minus).flatten(1).norm(dim=1) / 2)
    assert 0.95 < ratios.mean() < 1.3 and ratios.min() > 0.7
    assert power == 0 or (left < 0.6 * at_most).all()
    assert filtered(there, torch.ones(16), SILENT)[2].isinf().all()


def test_at_the_balanced_reach_noise_and_bend_err_alike():
    noise = torch.tensor([0.1, 0.4, 1.0])
    reach = balanced_reach(noise)
    assert torch.allclose((noise / reach).square(), 0.04 * (reach / 0.25).square())
    assert balanced_reach(noise / 100)[0] == 0.25  # below which nothing bends


def test_values_without_a_height_and_a_width_keep_their_noise():
    values = torch.randn(2, 3, 100, generator=generator())
    kept, left, at_most = filtered(values, torch.ones(2))
    assert torch.equal(kept, values) and at_most.isinf().all()
    assert torch.allclose(left, torch.full((2,), math.sqrt(300)))
