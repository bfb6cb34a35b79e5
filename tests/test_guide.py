"""The guide of `guidance/`, as any sampling loop uses it: its contract, on densities in closed form."""

import inspect
import itertools
import math

import pytest
import torch
from guided_runs import EVERY, SIGMAS, SIZE, Asked, bits, euler, noise, pair, same, steepness
from mixtures import Mixture, symmetric_pair
from saddle_free_guidance.guidance import SaddleFree


def test_the_names_are_those_of_the_contract():
    made = inspect.signature(SaddleFree).parameters
    defaults = {"scale": 1.0, "seed": 0, "refresh_every": 0, "directions": 1, "dtype": torch.float32}
    assert {name: made[name].default for name in list(made)[:5]} == defaults
    assert {"mask", "image_keys"} <= set(made)
    call = inspect.signature(SaddleFree().__call__).parameters
    assert list(call)[:2] == ["denoise", "x"]
    assert all(call[name].kind is inspect.Parameter.KEYWORD_ONLY for name in ("alpha", "std", "mask", "image_keys"))
    assert call["alpha"].default is call["std"].default is inspect.Parameter.empty


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_scale_0_asks_once_and_changes_no_bit(dtype):
    guide, x = SaddleFree(scale=0, refresh_every=1), torch.randn(2, 4, dtype=torch.float64).to(dtype)
    answer = torch.tensor([[-0.0, 0.0, math.nan, 1e-8], [math.inf, -math.inf, 3.0, -0.0]]).to(dtype)
    asked = Asked(lambda y, sigma: answer, 0.5, batch=2)
    for _ in range(3):
        guided = guide(asked, x, alpha=1.0, std=0.5)
        assert torch.equal(bits(guided), bits(answer))
    assert len(asked.calls) == 3 and asked.rows.tolist() == [3, 3]
    assert all(torch.equal(rows, x) for rows in asked.calls) and len(guide.trace) == 0


@pytest.mark.parametrize("every, directions", [
    *((every, 1) for every in EVERY), ("every call", 3), ("every other", 3),
    ("automatic", 2), ("automatic", 3),
])
def test_a_saddle_is_left_to_either_side_and_the_trace_tells_all(every, directions):
    exact, guide = pair().denoise, SaddleFree(2.0, refresh_every=EVERY[every], directions=directions)
    ends, pushes, rows = euler(guide, exact, noise())
    plain = euler(SaddleFree(0), exact, noise())[0]
    assert (ends - plain).norm(dim=1).max() > 0.1
    trace = guide.trace
    assert len(trace) == len(trace.rayleigh) == len(trace.push) == len(trace.evaluations) == len(SIGMAS) - 1
    assert torch.equal(torch.stack(trace.evaluations), rows)
    assert torch.allclose(torch.stack(trace.push).double(), pushes.square().mean(dim=2).sqrt(), atol=1e-6)
    assert {tuple(values.shape) for values in trace.rayleigh} == {(directions, 3)}
    acted = torch.stack([call.weight.amax(dim=0) for call in trace]) > 0
    assert torch.equal(acted, pushes.abs().amax(dim=2) > 0) and acted.any(dim=0).all() and not acted[0].any()
    along = pushes[..., 0].abs() / pushes.norm(dim=2).clamp(min=1e-9)
    assert (along[acted] > 0.7).float().mean() > 0.8


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_a_whole_push_is_scale_sigma_along_the_saddle(scale):
    guide, start = SaddleFree(scale, refresh_every=1), 0.9 * noise()
    exact, sigma = pair().denoise, 0.4
    for _ in range(12):  # at one place, so that the direction settles
        sigma *= 0.999
        asked = Asked(exact, sigma)
        guided = guide(asked, sigma * start, alpha=1.0, std=sigma)
    push, value = guided - exact(sigma * start, sigma), steepness(sigma * start, sigma)
    expected = torch.tensor(scale * sigma / 0.999 / 2).double()  # half of it where a step is short
    assert (value > 2).all() and torch.equal(guide.trace[-1].weight, torch.ones(1, 3))
    assert torch.allclose(push[:, 0].abs(), expected, rtol=1e-2)
    assert torch.allclose(push.norm(dim=1), expected, rtol=1e-6)


FALLS = [(2.0, 2.0), (1.25, 1.25), (3.0, 3.0), (50.0, 4.0), (1.0, 1.5), (0.5, 1.5)]


@pytest.mark.parametrize("fall, counted", FALLS)
def test_a_push_is_as_long_as_the_last_fall_of_sigma_is_large(fall, counted):
    """Up to 4; where sigma stays or rises, as for a sampler's second evaluation of a step, the fall before counts."""
    guide, gains = SaddleFree(1.0, refresh_every=1), torch.tensor([8.0, 0, 0, 0]).double()
    x, sigma = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).double(), 6.0

    def denoise(rows, images):
        return gains * rows

    for _ in range(12):
        sigma /= 1.5
        guide(denoise, sigma * x, alpha=1.0, std=sigma)
    assert (guide.trace[-1].weight == 1).all()
    sigma /= fall
    push = guide(denoise, sigma * x, alpha=1.0, std=sigma) - gains * sigma * x
    weight = guide.trace[-1].weight[0].double()
    assert torch.allclose(push.norm(dim=1), weight * sigma * counted / 2, rtol=1e-6)
    again = guide.last_correction(alpha=1.0, std=sigma, dtype=torch.float64)
    assert torch.allclose(again, push)


def test_the_first_call_of_a_run_is_pushed_as_if_sigma_had_halved():
    guide, gains = SaddleFree(3.0, refresh_every=1, directions=4), torch.tensor([8.0, 8, 8, 8]).double()
    x = torch.randn(1, 4, generator=torch.Generator().manual_seed(0)).double()
    push = guide(lambda rows, images: gains * rows, x, alpha=1.0, std=0.5) - gains * x
    weight = guide.trace[-1].weight[:, 0].double()
    assert torch.allclose(push.norm(), 1.5 * weight.norm(), rtol=1e-6) and (weight == 1).all()


def test_the_quotient_at_a_saddle_is_within_a_tenth():
    guide, start, exact, sigma = SaddleFree(1.0, refresh_every=1), 0.9 * noise(), pair().denoise, 0.4
    for _ in range(12):
        sigma *= 0.999
        guide(Asked(exact, sigma), sigma * start, alpha=1.0, std=sigma)
    assert torch.allclose(guide.trace.rayleigh[-1][0], steepness(sigma * start, sigma), rtol=0.1)


@pytest.mark.parametrize("every", ["automatic", "every call"])
def test_no_quotient_is_far_above_the_largest_eigenvalue(every):
    exact, guide, start, x = pair().denoise, SaddleFree(4.0, refresh_every=EVERY[every]), noise(16), None
    ratios = []
    for sigma, following in itertools.pairwise(SIGMAS):
        x = sigma * start if x is None else x
        asked = Asked(exact, sigma, batch=16)
        denoised, call = guide(asked, x, alpha=1.0, std=sigma), guide.trace[-1]
        looked = (asked.rows > 1) & (call.weight[0] > 0)
        ratios.append((call.rayleigh[0] / steepness(x, sigma))[looked])
        x = denoised + (x - denoised) * following / sigma
    assert len(torch.cat(ratios)) >= 16 and torch.cat(ratios).max() < 1.5


@pytest.mark.parametrize("every", EVERY)
def test_the_side_is_kept_while_a_saddle_lasts(every):
    exact, guide = pair().denoise, SaddleFree(1.0, refresh_every=EVERY[every])
    pushes = euler(guide, exact, noise(8))[1][..., 0]
    for image in range(8):
        seen = pushes[:, image][pushes[:, image].abs() > 1e-6].sign()
        assert len(seen) > 0 and (seen == seen[0]).all()


def test_the_seed_chooses_the_side_and_not_the_image():
    exact = pair().denoise
    ends = []
    for seed in range(12):
        start = noise(1)
        start[:, 0] = 0.02 if seed % 2 else -0.02
        ends.append(euler(SaddleFree(2.0, seed, refresh_every=1), exact, start)[0][0, 0].item())
    assert min(map(abs, ends)) > 0.5  # without guidance one on the saddle stays there
    assert min(ends) < 0 < max(ends)


@pytest.mark.parametrize("every", EVERY)
def test_a_reset_or_a_new_shape_begins_a_new_run(every):
    exact, other = pair().denoise, symmetric_pair(10).denoise
    guide = SaddleFree(2.0, refresh_every=EVERY[every], directions=2)
    first = euler(guide, exact, noise())
    guide.reset()
    assert len(guide.trace) == 0
    assert same(euler(guide, exact, noise()), first)
    for start, denoise in ((noise(2, 10), other), (noise(2), exact), (noise(3).reshape(3, 4, SIZE // 4), None)):
        denoise = denoise or (lambda y, sigma: exact(y.flatten(1), sigma).reshape(y.shape))
        fresh = euler(SaddleFree(2.0, refresh_every=EVERY[every], directions=2), denoise, start)
        assert same(euler(guide, denoise, start), fresh)


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("directions", [1, 2])
def test_an_image_is_guided_in_a_batch_as_alone(every, directions):
    exact, start, keys = pair().denoise, noise(4), [7, 8, 9, 2**40]
    knobs = {"refresh_every": EVERY[every], "directions": directions}
    ends, pushes, rows = euler(SaddleFree(2.0, image_keys=keys, **knobs), exact, start)
    for image, key in enumerate(keys):
        guide = SaddleFree(2.0, **knobs)
        alone = euler(guide, exact, start[image : image + 1], image_keys=[key])
        together = ends[image : image + 1], pushes[:, image : image + 1], rows[:, image : image + 1]
        assert same(alone, together, 1e-8)
    other = euler(SaddleFree(2.0, image_keys=[1, 2, 3, 4], refresh_every=1), exact, start)[1]
    assert not same([other], [euler(SaddleFree(2.0, image_keys=keys, refresh_every=1), exact, start)[1]], 1e-3)


def test_without_names_an_image_is_its_place():
    exact, start = pair().denoise, noise(3)
    named = euler(SaddleFree(2.0, refresh_every=1, image_keys=range(3)), exact, start)
    assert same(euler(SaddleFree(2.0, refresh_every=1), exact, start), named)


@pytest.mark.parametrize("every", EVERY)
def test_coordinates_change_nothing(every):
    exact, knobs = pair().denoise, {"refresh_every": EVERY[every]}
    exploding = euler(SaddleFree(2.0, **knobs), exact, noise())
    assert exploding[1].abs().max() > 0.1
    for flow, each in ((True, False), (False, True), (True, True)):
        assert same(euler(SaddleFree(2.0, **knobs), exact, noise(), flow=flow, each=each), exploding, 1e-6)


@pytest.mark.parametrize("every", EVERY)
def test_images_may_stand_at_different_sigmas(every):
    mixture, start = pair(), noise(2)
    shifted = [[factor * sigma for sigma in SIGMAS] for factor in (1.0, 0.8)]
    guide, x = SaddleFree(2.0, refresh_every=EVERY[every]), None
    for sigmas, after in zip(zip(*shifted), list(zip(*shifted))[1:]):
        sigma, following = torch.tensor(sigmas).double()[:, None], torch.tensor(after).double()[:, None]
        x = sigma * start if x is None else x

        def denoise(rows, images):
            return torch.cat([mixture.denoise(row[None], sigmas[image]) for row, image in zip(rows, images)])  # noqa: B023

        denoised = guide(denoise, x, alpha=torch.ones(2), std=sigma[:, 0])
        x = denoised + following * (x - denoised) / sigma
    for image in range(2):
        alone = SaddleFree(2.0, refresh_every=EVERY[every], image_keys=[image])
        end = euler(alone, mixture.denoise, start[image : image + 1], shifted[image])[0]
        assert torch.allclose(end[0], x[image], atol=1e-7)


def halves(first, second):
    """A denoiser of pictures whose halves have densities of their own."""
    def exact(y, sigma):
        return torch.cat([first(y[:, :SIZE], sigma), second(y[:, SIZE:], sigma)], dim=1)
    return exact


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("spread", [1, 3])
def test_what_is_protected_gets_no_push_and_decides_nothing(every, spread):
    """The protected half has a saddle of its own, or is a Gaussian, or jumps about."""
    mask = torch.cat([torch.ones(SIZE), torch.zeros(SIZE)]).expand(spread, 2 * SIZE)
    jumps = itertools.count()
    protected = [
        pair().denoise, Mixture(torch.zeros(1, SIZE), torch.full((1, SIZE), 5.0)).denoise,
        lambda y, sigma: 1e3 * math.sin(next(jumps)) * y,
    ]
    found = []
    for place, second in enumerate(protected):
        start = torch.cat([noise(3), (1 + 30 * place) * noise(3, seed=9 + place)], dim=1)
        guide = SaddleFree(2.0, refresh_every=EVERY[every], mask=mask if place else None)
        _, pushes, rows = euler(guide, halves(pair().denoise, second), start, mask=None if place else mask)
        assert torch.equal(pushes[..., SIZE:], torch.zeros_like(pushes[..., SIZE:]))
        found.append((pushes[..., :SIZE], rows))
    assert found[0][0].abs().max() > 0.1
    for other in found[1:]:
        assert torch.equal(other[1], found[0][1]) and same(other[:1], found[0][:1], 1e-4)


class Broken(RuntimeError):
    pass


@pytest.mark.parametrize("every, question", [*((every, 0) for every in EVERY), ("automatic", 1)])
def test_a_call_that_breaks_off_can_be_made_again(every, question):
    exact, knobs = pair().denoise, {"refresh_every": EVERY[every]}
    whole = euler(SaddleFree(2.0, **knobs), exact, noise())
    guide, x, broken = SaddleFree(2.0, **knobs), None, 0
    for call, (sigma, following) in enumerate(itertools.pairwise(SIGMAS)):
        x = sigma * noise() if x is None else x
        left = [question]

        def breaks(rows, images):
            left[0] -= 1  # noqa: B023
            if left[0] < 0:  # noqa: B023
                raise Broken
            return exact(rows, sigma)  # noqa: B023

        try:
            denoised = guide(breaks, x, alpha=1.0, std=sigma)  # ends where one question was enough
        except Broken:
            broken += 1
            assert len(guide.trace) == call
            denoised = guide(Asked(exact, sigma), x, alpha=1.0, std=sigma)
        x = denoised + (x - denoised) * following / sigma
    assert broken > 0 and same([x], whole[:1]) and torch.equal(torch.stack(guide.trace.evaluations), whole[2])


def test_pure_noise_of_a_flow_model_comes_first():
    """At t = 1 alpha is 0 and sigma_hat is infinite: no push, and the run goes on as it does without that call."""
    exact = pair().denoise
    for every in EVERY.values():
        guide = SaddleFree(2.0, refresh_every=every)
        first = Asked(lambda y, sigma: torch.full_like(y, 0.1), math.inf)
        x = noise()
        assert torch.equal(guide(first, x, alpha=0.0, std=1.0), torch.full_like(x, 0.1))
        assert first.rows.max() <= (2 if every else 1) and guide.trace.push[0].tolist() == [0, 0, 0]
        ends, pushes, rows = euler(guide, exact, noise(), flow=True)
        fresh = euler(SaddleFree(2.0, refresh_every=every), exact, noise(), flow=True)
        assert pushes.abs().amax(dim=(0, 2)).min() > 0.1 and ends.isfinite().all()
        assert rows.sum() <= fresh[2].sum() + 2 * 3


@pytest.mark.parametrize("sigma", [0.01, 0.3, 1.0, 14.0])
def test_runs_of_one_step_cost_nothing(sigma):
    guide, exact = SaddleFree(4.0), pair().denoise
    for _ in range(3):
        asked = Asked(exact, sigma)
        guided = guide(asked, sigma * noise(), alpha=1.0, std=sigma)
        assert asked.rows.tolist() == [1, 1, 1] and torch.equal(guided, exact(sigma * noise(), sigma))
        guide.reset()


@pytest.mark.parametrize("refresh_every", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("repeats", [1, 2])
def test_fixed_steps_cost_one_evaluation_in_so_many(refresh_every, dtype, repeats):
    """repeats: how often a sampler asks at every sigma."""
    guide, exact, steps = SaddleFree(1.0, refresh_every=refresh_every, dtype=dtype), pair().denoise, 60
    total, x = torch.zeros(3, dtype=torch.int64), noise()
    for sigma in torch.logspace(1, -1, steps, dtype=torch.float64).tolist():
        for _ in range(repeats):
            asked = Asked(exact, sigma)
            guide(asked, sigma * x, alpha=1.0, std=sigma)
            total += asked.rows - 1
    expected = steps * repeats if refresh_every == 1 else steps / refresh_every  # 1 is every call
    assert (total >= expected - 2).all() and (total <= expected + 3).all()


@pytest.mark.parametrize("steps", [24, 48, 96, 192])
def test_the_automatic_schedule_costs_as_much_with_more_steps(steps):
    exact = pair().denoise
    sigmas = [*torch.logspace(1.3, -1.3, steps, dtype=torch.float64).tolist(), 0.0]
    extra = euler(SaddleFree(2.0), exact, noise(8), sigmas)[2].sum(dim=0) - steps
    assert (extra >= 2).all() and extra.float().mean() <= 14


@pytest.mark.parametrize("every", EVERY)
def test_where_there_is_nothing_the_prediction_is_kept_bit_for_bit(every):
    broad = Mixture(torch.zeros(1, SIZE), torch.linspace(0.01, 30, SIZE)[None])
    _, pushes, rows = euler(SaddleFree(20.0, refresh_every=EVERY[every]), broad.denoise, noise())
    assert torch.equal(pushes, torch.zeros_like(pushes))
    assert every != "automatic" or (rows.sum(dim=0) - len(pushes) <= 3).all()
