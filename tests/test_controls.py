"""Nothing is found where nothing is, and what is there is: small controls on densities of which everything is known."""

import itertools

import pytest
import torch
from cases import in_turn
from densities import (
    FORMATS,
    SHAPES,
    Density,
    Mode,
    Network,
    broad,
    from_broad_to_fine,
    power_law,
    run,
    schedule,
    waves,
)
from saddle_free_guidance.curvature import noise_in_rings, rings
from saddle_free_guidance.guidance import SaddleFree

SHAPE = SHAPES[3_072]
STEPS = schedule(24)
SPECTRA = {"8 broad": broad(SHAPE)} | {f"k^-{power}": power_law(SHAPE, power) for power in (1.0, 1.5, 2.0, 2.5)}
NOISES = [(0.2, False), (1.0, False), (3.0, False), (0.2, True), (1.0, True), (3.0, True)]
ALONG = 0.7
GENTLE = 0.02  # a scale that leaves a saddle open, so that each is seen as often as it is


@pytest.mark.parametrize("spectrum, name", list(in_turn(SPECTRA, FORMATS)))
def test_where_no_saddle_is_nothing_is_done_and_hardly_anything_asked(name, spectrum):
    """Of each format and spectrum, over all noises; fp32 has none but its rounding."""
    density, acted, images = Density(SHAPE, SPECTRA[spectrum]), {0: [], 1: []}, 2
    for (noise, coloured), every in itertools.product(NOISES if name != "fp32" else NOISES[1:2], acted):
        network = Network(density.denoise, FORMATS[name], noise, coloured)
        guide = SaddleFree(4.0, refresh_every=every, dtype=FORMATS[name])
        run(network, density.noise(images, 0), STEPS, guide)
        acted[every] += [(call.weight > 0).any(dim=0) for call in guide.trace]
        extra = torch.stack(guide.trace.evaluations).sum(dim=0) - len(guide.trace)
        assert every or (extra <= 3).all(), (noise, coloured)
        assert network.evaluations == torch.stack(guide.trace.evaluations).sum()
    for every, found in acted.items():
        assert torch.stack(found).float().mean() <= 0.01, every


class Seen:
    """While modes of a density are open: whether they are, and whether a push goes along them, [calls, modes, B]."""

    def __init__(self, density):
        self.density, self.open, self.along = density, [], []
        places = [mode.place for mode in density.modes]
        self.axes = waves(torch.eye(3072)[places].reshape(-1, *density.shape)).flatten(1)

    def __call__(self, y, sigma, push, guide):
        values = self.density.eigenvalues(y, sigma)
        self.open.append(torch.stack([values[:, mode.place] > 1 for mode in self.density.modes]))
        cosines = self.axes @ torch.nn.functional.normalize(push.flatten(1), dim=1).T
        self.along.append(cosines.abs() > ALONG)

    def calls(self, mode):
        """Of the calls at which a mode is open, the share with a push along it."""
        open_, along = (torch.stack(each)[:, mode] for each in (self.open, self.along))
        return ((open_ & along).sum() / open_.sum()).item()

    def images(self, mode):
        """Whether each image was pushed along a mode while it was open, of those in which it was."""
        open_, along = (torch.stack(each)[:, mode] for each in (self.open, self.along))
        return (open_ & along).any(dim=0)[open_.any(dim=0)].float()


def seen(density, every, images=8, name="fp32", seed=0, scale=1.0):
    found, guide = Seen(density), SaddleFree(scale, seed, refresh_every=every, dtype=FORMATS[name])
    network = Network(density.denoise, FORMATS[name], seed=seed)
    run(network, density.noise(images, seed), STEPS, guide, found)
    return found, network.evaluations / images - len(guide.trace), guide


@pytest.mark.parametrize("noise, coloured", [(1.0, False), (3.0, False), (1.0, True), (3.0, True)])
@pytest.mark.parametrize("spectrum", ["8 broad", "k^-1.5", "k^-2.5"])
def test_the_samplers_steps_tell_how_long_the_noise_can_be(spectrum, noise, coloured):
    """Hardly more than it is, and hardly ever less, whatever its colour, until rounding of the sample outweighs it."""
    density, ratios = Density(SHAPE, SPECTRA[spectrum]), []
    network = Network(density.denoise, torch.bfloat16, noise, coloured)

    def watch(y, sigma, push, guide):
        if guide._run.turn is not None and sigma > 0.5:
            exact = torch.linalg.vector_norm((network.answer - density.denoise(y, sigma)).flatten(1), dim=1)
            ratios.append(guide._run.turn.noise * sigma / exact)

    run(network, density.noise(8, 0), STEPS, SaddleFree(1.0, dtype=torch.bfloat16), watch)
    told = torch.stack(ratios[2:])  # before, there is no step to compare with
    assert told.shape[0] >= 10 and 1 <= told.median() <= 1.3 and told.min() > 0.85 and told.max() < 2


@pytest.mark.parametrize("noise, coloured", [(1.0, False), (3.0, False), (1.0, True), (3.0, True)])
@pytest.mark.parametrize("spectrum", ["8 broad", "k^-1.5", "k^-2.5"])
def test_the_samplers_steps_tell_of_what_colour_the_noise_can_be(spectrum, noise, coloured):
    """In rings of many values hardly more than it is, and hardly ever less; together never much less."""
    density, ratios, lengths = Density(SHAPE, SPECTRA[spectrum]), [], []
    network = Network(density.denoise, torch.bfloat16, noise, coloured)

    def watch(y, sigma, push, guide):
        if guide._run.rings is not None and sigma > 0.5:
            error = (network.answer - density.denoise(y, sigma)) / sigma
            size = 1 + (network.answer / sigma).square().mean(dim=(1, 2, 3))
            told = guide._run.rings * (size * (torch.finfo(torch.bfloat16).eps / 2) ** 2)[:, None]
            ratios.append(told / noise_in_rings(error))
            count = rings(SHAPE[1:], told.device)[1]
            exact = error.flatten(1).norm(dim=1)
            lengths.append((SHAPE[0] * count * told).sum(dim=1).sqrt() / exact)

    run(network, density.noise(8, 0), STEPS, SaddleFree(1.0, dtype=torch.bfloat16), watch)
    told, length = torch.stack(ratios[2:]), torch.stack(lengths[2:])
    assert told.shape[0] >= 10 and told[..., 3:16].median() < 1.7 and told[..., 3:16].min() > 0.4
    assert length.min() > 0.9 and length.median() < 1.5


def hidden(mean=1.0, rank=64, resolved=40):
    """One bimodal wave over variances that fall as k^-1.5, of which `resolved` have J > 0.99 where it opens."""
    variances = power_law(SHAPE, 1.5)
    variances = variances * (99 * mean**2 * resolved**1.5 / variances.max())
    return Density(SHAPE, variances, (Mode(from_broad_to_fine(SHAPE)[rank].item(), mean, 0.1 * mean),))


@pytest.mark.parametrize("name, least", [("fp32", 0.75), ("fp16", 0.3)])
def test_one_undecided_direction_among_many_resolved_ones_is_found(name, least):
    """At that share of the calls at which it is open, with two evaluations a step."""
    found, extra, _ = seen(hidden(), 1, name=name, scale=GENTLE)
    assert found.calls(0) >= least and extra <= len(STEPS) - 1


@pytest.mark.parametrize("name, least", [("fp32", 0.5), ("fp16", 0.3)])
def test_one_undecided_direction_among_many_resolved_ones_is_found_by_the_automatic_schedule(name, least):
    """At that share of the calls at which it is open, with less than half an evaluation a step."""
    found, extra, _ = seen(hidden(), 0, name=name, scale=GENTLE)
    assert found.calls(0) >= least and extra <= len(STEPS) / 2


def many(largest=8.0):
    """Twelve bimodal waves, broad ones the farthest apart, over narrow directions: much is undecided at once."""
    means = [largest * (rank + 1) ** -0.7 for rank in range(12)]
    places = from_broad_to_fine(SHAPE)
    modes = tuple(Mode(place.item(), mean, 0.2 * mean) for place, mean in zip(places, means))
    return Density(SHAPE, torch.full((3072,), 1e-4), modes)


@pytest.mark.parametrize("largest", [8.0, 2.0])
@pytest.mark.parametrize("steps, least", [(8, 0.55), (24, 0.28)])
@pytest.mark.parametrize("name", FORMATS)
def test_where_much_is_undecided_half_precision_finds_it_nearly_as_full_precision_does(name, steps, least, largest):
    """While a wave is open, that share of a push's square is along open waves; without a push it is none."""
    density, seen_open, along = many(largest), [], []
    places = [mode.place for mode in density.modes]
    axes = waves(torch.eye(3072)[places].reshape(-1, *SHAPE)).flatten(1)

    def watch(y, sigma, push, guide):
        is_open = density.eigenvalues(y, sigma)[:, places] > 1.05
        parts = torch.nn.functional.normalize(push.flatten(1), dim=1) @ axes.T  # [B, modes]
        seen_open.append(is_open.any(dim=1))
        along.append((parts.square() * is_open).sum(dim=1))

    network, guide = Network(density.denoise, FORMATS[name]), SaddleFree(1.0, dtype=FORMATS[name])
    run(network, density.noise(16, 0), schedule(steps), guide, watch)
    is_open = torch.stack(seen_open)
    assert is_open.float().mean() > 0.3 and torch.stack(along)[is_open].mean() >= least


def two(coarse, fine=0.75, rank=64):
    """A coarse and a fine saddle over narrow directions, at +-coarse and +-fine."""
    order = from_broad_to_fine(SHAPE)
    modes = (Mode(order[0].item(), coarse, 0.05 * coarse), Mode(order[rank].item(), fine, 0.05 * fine))
    return Density(SHAPE, torch.full((3072,), 1e-4), modes)


@pytest.mark.parametrize("name, least", [("fp32", 0.5), ("fp16", 0.3), ("bf16", 0.2)])
def test_a_fine_saddle_after_a_coarse_one_is_found_as_often_as_by_every_call(name, least):
    """But for a fifth of the images."""
    automatic, extra, _ = seen(two(5.0), 0, images=16, name=name)
    every = seen(two(5.0), 1, images=16, name=name)[0]
    assert automatic.images(0).mean() >= every.images(0).mean() - 0.13
    assert automatic.images(1).mean() >= every.images(1).mean() - 0.2 and automatic.images(1).mean() > least
    assert extra <= len(STEPS)


@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("quotient", [6, 20, 100])
def test_no_large_quotient_ends_the_search(every, quotient):
    """The coarse saddle is that steep at the largest sigma, where the run begins, and soon closed."""
    found = seen(two(STEPS[0] * quotient**0.5), every)[0]
    assert found.images(1).sum() > 0 and (quotient > 6 or found.images(0).mean() > 0.5)
