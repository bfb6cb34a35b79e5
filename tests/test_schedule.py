"""When images are looked at: the bound on what a Gaussian can do, and how much is asked on densities that are known."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from saddle_free_guidance.curvature import ProbeSchedule
from saddle_free_guidance.guidance import SaddleFree

SIZE = 1024


def looked(sigma_hat, rayleigh, margin=0.0):
    """A schedule whose last look found the quotients [B]."""
    start = ProbeSchedule.start(len(rayleigh))
    return dataclasses.replace(
        start, last=torch.full_like(rayleigh, sigma_hat), rayleigh=rayleigh, margin=torch.full_like(rayleigh, margin)
    )


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6), count=st.integers(1, 40), sigma=st.floats(0.01, 100), fallen=st.floats(1, 20),
    spread=st.floats(0, 6), margin=st.floats(0, 0.3), wrong=st.floats(-1, 1),
)
def test_no_mixture_of_eigenvectors_of_a_gaussian_exceeds_the_bound(seed, count, sigma, fallen, spread, margin, wrong):
    """sigma to sigma / fallen; the last quotient may be wrong by the margin."""
    generator = torch.Generator().manual_seed(seed)
    variances = sigma**2 * torch.exp(spread * torch.randn(8, count, generator=generator, dtype=torch.float64))
    shares = torch.softmax(3 * torch.randn(8, count, generator=generator, dtype=torch.float64), dim=1)
    before, after = (
        (shares * variances / (variances + level**2)).sum(dim=1) for level in (sigma, sigma / fallen)
    )
    schedule = looked(sigma, (before + wrong * margin).clamp(0), margin)
    bound = schedule.gaussian(torch.full_like(before, sigma / fallen))
    assert (bound >= after * (1 - 1e-9)).all() and (bound <= 1 + 1e-9).all()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_the_bound_is_near_for_one_eigenvector_and_below_what_opens(share):
    """J = share now; at half of sigma a Gaussian has c / (c + 1/4); two points, J ~ 1 / sigma^2, four times as much."""
    schedule, variance = looked(1.0, torch.tensor([share], dtype=torch.float64)), share / (1 - share)
    bound = schedule.gaussian(torch.tensor([0.5], dtype=torch.float64)).item()
    assert variance / (variance + 0.25) <= bound < min(4 * share, 1)
    assert bound - variance / (variance + 0.25) < 0.05


def test_before_the_first_look_nothing_is_known():
    start = ProbeSchedule.start(2)
    assert not start.begun.any() and not start.unsure.any() and not start.found.any()
    assert not start.fresh(torch.ones(2), 2.0).any()
    assert torch.equal(start.gaussian(torch.ones(2)), torch.zeros(2))


@pytest.mark.parametrize("spacing", [1.5, 2.5])
def test_a_look_tells_until_half_as_long_again_as_the_next_is_due(spacing):
    schedule = looked(1.0, torch.tensor([2.0]))
    for sigma, fresh in ((1.0, True), (1 / spacing, True), (0.99 / spacing**1.5, False), (1.01 / spacing**1.5, True)):
        assert schedule.fresh(torch.tensor([sigma]), spacing).item() == fresh


def asked(denoise, sigmas, batch=2, seed=0, **knobs):
    """Extra rows of each image at every call, [calls, B], and the guide, along Euler steps that nothing moves."""
    start = torch.randn(batch, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    guide, x, rows = SaddleFree(1.0, seed, **knobs), sigmas[0] * start, []
    for sigma, following in itertools.pairwise(sigmas):
        guide(lambda y, images: denoise(y, sigma), x, alpha=1.0, std=sigma)  # noqa: B023
        rows.append(guide.trace.evaluations[-1] - 1)
        denoised = denoise(x, sigma)
        x = denoised + (x - denoised) * following / sigma
    return torch.stack(rows), guide


def falling(steps, high=2.0, low=-2.0):
    return torch.logspace(high, low, steps, dtype=torch.float64).tolist()


def gaussian(variances):
    return lambda y, sigma: y * variances / (variances + sigma**2)


def undecided(places, means, spread=0.05, background=1e-4):
    """Narrow but for values that are +-mean; the sample stands near 0 along them."""
    def denoise(y, sigma):
        total = spread**2 + sigma**2
        answer = y * background / (background + sigma**2)
        for place, mean in zip(places, means):
            value = 0.01 * y[:, place]
            answer[:, place] = mean * torch.tanh(mean * value / total) / 0.01
        return answer
    return denoise


@pytest.mark.parametrize("steps", [12, 24, 100, 400])
@pytest.mark.parametrize("count", [1, 8, 100])
def test_a_gaussian_is_left_alone_after_at_most_three_evaluations(steps, count):
    variances = torch.full((SIZE,), 0.01, dtype=torch.float64)
    variances[:count] = 4.0
    for other in (variances, variances.clone().index_fill_(0, torch.arange(count // 2), 400.0)):
        rows, guide = asked(gaussian(other), falling(steps))
        assert (rows.sum(dim=0) <= 3).all()
        assert max(call.weight.max() for call in guide.trace) == 0


@pytest.mark.parametrize("steps", [12, 24, 100, 400])
def test_a_saddle_is_found_where_it_opens_and_looked_at_again_by_the_ratio_of_sigmas(steps):
    sigmas = falling(steps)
    rows, guide = asked(undecided([0], [1.0]), sigmas)
    weights = torch.stack([call.weight[0] for call in guide.trace])
    for image in range(2):
        looks = [sigma for sigma, row in zip(sigmas, rows[:, image]) if row > 0]
        first = next(sigma for sigma, weight in zip(sigmas, weights[:, image]) if weight > 0)
        assert 0.3 < first < 1.1  # it opens at 1
        later = [sigma for sigma in looks if sigma <= first]
        for before, after in itertools.pairwise(later):
            assert before / after >= guide.spacing * (1 - 1e-9)
        assert len([sigma for sigma in looks if sigma > first]) <= 2


def test_the_number_of_looks_does_not_grow_with_the_steps():
    counts = [asked(undecided([0], [1.0]), falling(steps))[0].sum().item() for steps in (25, 50, 100, 400)]
    assert max(counts) <= 1.8 * min(counts)  # 8 to 14 of two images


@pytest.mark.parametrize("norm, looks", [(9.0, [1.0, 0.4, 0.16]), (1.5, [1.0, 0.4, 0.16, 0.064, 0.0256])])
def test_looks_end_a_seventh_below_the_first_saddle_where_much_is_undecided(norm, looks):
    """All find one, at each fall of sigma by 2.5. Where little is undecided, a finer one may come at any sigma."""
    schedule, everyone, norm = ProbeSchedule.start(1), torch.tensor([True]), torch.tensor([norm])
    found, sigma = [], torch.tensor([1.0])
    for _ in range(5):
        found.append(sigma.item())
        schedule = schedule.after(everyone, sigma, torch.tensor([1.5]), torch.tensor([0.01]), torch.ones(1), 2.5, norm)
        sigma = schedule.due
        if not sigma:
            break
    assert found == pytest.approx(looks)
    asks = schedule.asks(torch.tensor([0.01]), norm, ~everyone, torch.tensor([0.1]), 2.5)
    assert asks.item() == (norm.item() < 2)


def test_a_saddle_too_early_seen_is_seen_again_when_it_opens():
    """J along the mode grows as 1 / sigma^2, faster than any Gaussian's, from far below 1 to far above."""
    broad = torch.full((SIZE,), 1e-4, dtype=torch.float64)
    broad[1:6] = 9.0  # what makes the first look come long before

    def denoise(y, sigma):
        answer = gaussian(broad)(y, sigma)
        answer[:, 0] = torch.tanh(0.01 * y[:, 0] / (0.0025 + sigma**2)) / 0.01
        return answer

    rows, guide = asked(denoise, falling(40), batch=8)
    first = (rows > 0).float().argmax(dim=0)
    early = torch.tensor(falling(40))[first] > 1
    acted = torch.stack([call.weight[0] for call in guide.trace]).amax(dim=0) > 0
    assert early.sum() >= 2 and acted[early].float().mean() >= 0.5


@pytest.mark.parametrize("is_certain, first, most", [(True, 3, 7), (False, 2, 3)])
def test_a_search_goes_on_longer_where_the_test_is_certain(is_certain, first, most):
    """By one evaluation at each sigma that its spread calls for. first: those of the call of the test."""
    schedule, everyone = ProbeSchedule.start(1), torch.tensor([True])
    tells, sigma, spent = torch.tensor([True]), torch.tensor([8.0]), first
    schedule = schedule.tested(torch.tensor([0]), tells, ~tells, torch.tensor([is_certain]), sigma)
    rest = (torch.tensor([0.5]), torch.tensor([0.01]))
    schedule = schedule.after(everyone, sigma, *rest, torch.tensor([float(first)]), 2.5, torch.tensor([9.0]))
    while schedule.unsure.item():
        assert 0.6 * sigma < schedule.due < 0.7 * sigma
        sigma = schedule.due
        schedule = schedule.after(everyone, sigma, *rest, torch.tensor([1.0]), 2.5, torch.tensor([9.0]))
        spent += 1
    assert spent == most and not schedule.found.item()
    assert not schedule.asks(sigma / 2, torch.tensor([9.0]), ~tells, torch.tensor([0.1]), 2.5).item()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), sigma=st.floats(0.01, 100))
def test_images_are_asked_for_by_themselves(seed, sigma):
    generator = torch.Generator().manual_seed(seed)
    whole = looked(sigma, 1.5 * torch.rand(6, generator=generator), 0.05)
    level = sigma * torch.rand(6, generator=generator)
    for image in range(6):
        alone = ProbeSchedule(**{name: value[image : image + 1] for name, value in vars(whole).items()})
        for found, one in zip((whole.gaussian(level), whole.fresh(level, 2.5)),
                              (alone.gaussian(level[image : image + 1]), alone.fresh(level[image : image + 1], 2.5))):
            assert torch.equal(found[image : image + 1], one)
