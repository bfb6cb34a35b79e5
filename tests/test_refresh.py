"""When probes are due: the rule in numbers, on closed forms, and the evaluations it saves in the host."""

import collections
import importlib
import itertools
import math

import pytest
import torch
from conditions import per_image
from graphs import branches, demo, guided
from mixtures import random_mixture
from runs import counts, run, two_models
from saddle_free_guidance.curvature import CurvatureEstimate, CurvatureTracker, ProbeSchedule
from saddle_free_guidance.curvature.refresh import FIRST_REACH, LAST, REACH, SPACING
from saddle_free_guidance.guidance import saddle_free


def found(sigma_hat, rayleigh, response=None, finite=None):
    """An estimate with these values, [B], of one direction in 16 dimensions."""
    sigma_hat, rayleigh = torch.tensor(sigma_hat), torch.tensor([rayleigh])
    direction = torch.zeros(1, len(sigma_hat), 16)
    direction[..., 0] = 1
    length = rayleigh if response is None else torch.tensor([response])
    response = length[..., None] * direction
    finite = torch.ones(len(sigma_hat), dtype=torch.bool) if finite is None else torch.tensor(finite)
    return CurvatureEstimate(direction, response, rayleigh, sigma_hat, finite, torch.float32)


def everyone(count):
    return torch.ones(count, dtype=torch.bool)


def test_every_image_is_due_at_the_start_at_any_sigma():
    start = ProbeSchedule.start(2)
    for sigma in (math.inf, 1e6, 1.0, 1e-6):
        assert start.due(torch.full((2,), sigma)).all()


def test_the_first_response_bounds_where_to_look_again():
    """In 16 dimensions a response of length 0.25 means a Frobenius norm of 1, hence a spread of at most sigma_hat."""
    after = ProbeSchedule.start(1).after(found([20.0], [0.001], response=[0.25]), everyone(1))
    assert after.below.tolist() == pytest.approx([FIRST_REACH * 20.0])
    assert not after.due(torch.tensor([10.1])).any() and after.due(torch.tensor([9.9])).all()


def test_before_a_saddle_the_next_probe_waits_for_the_spread_and_at_one_for_the_spacing():
    begun = ProbeSchedule.start(3).after(found([20.0] * 3, [0.001] * 3, response=[0.25] * 3), everyone(3))
    after = begun.after(found([8.0] * 3, [0.04, 0.81, 1.21]), everyone(3))
    assert after.below.tolist() == pytest.approx([REACH * 8 * 0.2, 8 / SPACING, 8 / SPACING])
    assert after.positive.tolist() == [False, False, True]
    assert after.spread.tolist() == pytest.approx([1.6, 7.2, 8.8])
    assert after.due(torch.tensor([8.0 * SPACING] * 3)).all()
    assert not after.due(torch.tensor([7.99] * 3)).any()


def test_a_second_probe_at_the_same_sigma_is_due_near_the_spread_until_a_saddle_was_found_and_once_there():
    level, schedule = torch.tensor([4.0]), ProbeSchedule.start(1)
    schedule = schedule.after(found([4.0], [0.001], response=[0.25]), everyone(1))
    assert not schedule.due(level).any()  # far above the spread
    for rayleigh, due in ((0.3, False), (0.7, True), (0.9, True), (1.1, True), (1.2, False), (0.9, False)):
        schedule = schedule.after(found([4.0], [rayleigh]), everyone(1))
        assert schedule.due(level).all() == due


def test_once_a_saddle_was_found_probes_go_on_below_one_until_the_share_of_the_spread():
    schedule = ProbeSchedule.start(1).after(found([20.0], [0.001], response=[0.25]), everyone(1))
    schedule = schedule.after(found([4.0], [1.0001]), everyone(1))
    schedule = schedule.after(found([3.0], [0.2]), everyone(1))
    assert schedule.below.tolist() == pytest.approx([3.0 / SPACING])  # 0.2 alone would wait until 1.3 * 3 * 0.45
    schedule = schedule.after(found([LAST * 4.0 * SPACING * 0.99], [1.5]), everyone(1))
    assert schedule.below.tolist() == [0.0]
    assert not schedule.due(torch.tensor([1e-6])).any()


def test_where_no_saddle_has_been_found_the_search_goes_on():
    schedule = ProbeSchedule.start(1).after(found([20.0], [0.001], response=[0.25]), everyone(1))
    schedule = schedule.after(found([5.0], [0.9]), everyone(1))
    schedule = schedule.after(found([1.0], [0.98]), everyone(1))
    assert schedule.below.tolist() == pytest.approx([1.0 / SPACING])
    schedule = schedule.after(found([0.7], [1.02]), everyone(1))
    assert schedule.below.tolist() == [0.0]  # found late: this push serves to the end


def test_images_that_were_not_probed_keep_their_schedule():
    begun = ProbeSchedule.start(2).after(found([20.0] * 2, [0.001] * 2, response=[0.25] * 2), everyone(2))
    after = begun.after(found([8.0] * 2, [1.2, 1.2]), torch.tensor([True, False]))
    for name in ("below", "above", "spread", "begun", "positive"):
        assert getattr(after, name)[1] == getattr(begun, name)[1]
    assert after.positive[0] and not after.positive[1]


@pytest.mark.parametrize("sigma_hat, finite", [(math.inf, True), (5.0, False)])
def test_a_probe_that_tells_nothing_is_made_again_at_the_next_call(sigma_hat, finite):
    after = ProbeSchedule.start(1).after(found([sigma_hat], [0.0], finite=[finite]), everyone(1))
    assert after.due(torch.tensor([4.9])).all() and not after.begun.any()


def test_a_tracker_that_probes_some_images_leaves_the_others_as_they_were():
    mixture, sigma = random_mixture(12, 4, seed=1), 0.6
    y = torch.randn(3, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoised, some = mixture.denoise(y, sigma), torch.tensor([True, False, True])

    def step(tracker, images):
        probed = mixture.denoise(tracker.probe(y, std=sigma), sigma)
        probed[~images.repeat(2)] = 1e3  # what was not asked for must not be read
        return tracker.update(denoised, probed, alpha=1.0, std=sigma, images=images)

    part, whole = CurvatureTracker(directions=2), CurvatureTracker(directions=2)
    parts = [step(part, images) for images in (everyone(3), some, everyone(3))]
    wholes = [step(whole, everyone(3)) for _ in range(3)]
    for name in ("direction", "response", "rayleigh"):
        first, second, third = (getattr(estimate, name) for estimate in parts)
        assert torch.equal(second[:, 1], first[:, 1])
        assert torch.equal(second[:, some], getattr(wholes[1], name)[:, some])
        assert torch.equal(third[:, 1], getattr(wholes[1], name)[:, 1])  # one step behind the others
        assert torch.equal(third[:, some], getattr(wholes[2], name)[:, some])
    assert parts[1].finite.all()


def probes_and_ends(mixture, steps, rule):
    """Guided Euler samples of a mixture and how many probes each took; rule: probe by the schedule, or always."""
    sigmas = torch.cat([torch.logspace(1.3, -1.3, steps, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    y = sigmas[0] * torch.randn(64, mixture.means.shape[1], generator=torch.Generator().manual_seed(1)).double()
    tracker, schedule = CurvatureTracker(probe_radius=1e-3), ProbeSchedule.start(len(y))
    probes, estimate = torch.zeros(len(y)), None
    for sigma, following in itertools.pairwise(sigmas):
        level = sigma.expand(len(y))
        denoised, images = mixture.denoise(y, sigma), schedule.due(level) if rule else everyone(len(y))
        probed = mixture.denoise(tracker.probe(y, std=sigma), sigma)
        estimate = tracker.update(denoised, probed, alpha=1.0, std=sigma, images=images)
        schedule, probes = schedule.after(estimate, images), probes + images
        guided = denoised + saddle_free(estimate, scale=1.0)
        y = guided + (y - guided) * following / sigma
    return probes, y


def test_the_number_of_probes_is_bounded_whatever_the_number_of_steps():
    mixture = random_mixture(16, 6, seed=5, spread=3.0)
    means = [probes_and_ends(mixture, steps, True)[0].mean().item() for steps in (24, 48, 96, 192, 384)]
    search = 8
    assert max(means) < math.log(REACH / LAST) / math.log(SPACING) + search
    assert max(means) < 3 * min(means)  # sixteen times the steps
    ends = [probes_and_ends(mixture, 48, rule)[1] for rule in (True, False)]
    plain = [(mixture.means - end[:, None]).square().sum(dim=2).amin(dim=1).mean().item() for end in ends]
    assert plain[0] == pytest.approx(plain[1], rel=0.25)


@pytest.mark.parametrize(
    "sampler, steps", [("euler", 16), ("euler", 32), ("euler", 64), ("heun", 16), ("heun", 32), ("dpmpp_2m", 32)]
)
def test_a_picture_takes_a_quarter_more_evaluations(host, sampler, steps):
    host.latents(branches(
        demo(), {"plain": None, "guided": {"refresh_every": 0, "scale": 4.0}}, sampler=sampler, steps=steps,
        scheduler="karras",
    ))
    plain, guided = (collections.Counter(host.record.evaluations[label]) for label in ("plain", "guided"))
    probes = guided - plain
    assert 3 <= probes.total() <= max(plain.total() / 4, 5) + 1
    assert max(probes.values()) == (2 if sampler == "heun" else 1)  # at one sigma


def undecided(graph, model, weak=None):
    return graph.add("TestUndecided", model=model, amount=3.0)


@pytest.mark.parametrize("family", ["sd15", "sd3", "sd35", "flux", "wan", "ltxav"])
@pytest.mark.parametrize("batch, cfg", [(1, 4.0), (3, 1.0)])
def test_every_family_is_probed_at_most_once_a_call_and_the_same_twice(host, family, batch, cfg):
    def probed(graph, model, weak):
        return guided(graph, undecided(graph, model), refresh_every=0)

    sampling = {"batch": batch, "cfg": cfg, "steps": 4, "scheduler": "karras", "sampler": "heun"}
    latents, costs = [], []
    for change in (undecided, probed, probed):
        latents.append(run(host, two_models(family, host), "main", change, **sampling))
        costs.append(counts(host))
    assert torch.equal(latents[1], latents[2]) and costs[1] == costs[2]
    assert latents[1].isfinite().all() and not torch.equal(latents[1], latents[0])
    calls, plain = costs[0][:2]
    assert costs[1][0] == calls and 1 <= costs[1][1] - plain <= calls


@pytest.mark.parametrize("directions", [1, 2])
def test_images_that_are_due_are_probed_without_the_others_as_if_alone(host, directions):
    variants = {"plain": None, "guided": {"refresh_every": 0, "scale": 2.0, "directions": directions}}
    sampling = {"steps": 32, "scheduler": "karras"}
    batch = host.latents(branches(demo(), variants, batch=3, **sampling))
    rows, spread = host.record.rows["guided"], batch["guided"].std().item()
    assert rows < 3 * len(host.record.evaluations["guided"])
    alone = 0
    for pick in range(3):
        latents = host.latents(branches(demo(), variants, batch=3, pick=pick, **sampling))
        alone += host.record.rows["guided"]
        # A saddle amplifies rounding, which depends on the number of rows, at the edges of a shape most of all.
        assert (batch["guided"][pick] - latents["guided"][0]).abs().mean().item() <= 0.005 * spread
        assert (batch["guided"][pick] - batch["plain"][pick]).abs().max().item() > 0.3 * spread
    assert rows == alone


class Condition:
    """A condition's value as the host keeps it."""

    def __init__(self, cond):
        self.cond = cond


@pytest.mark.parametrize("entry, separable", [
    ({"model_conds": {"c_crossattn": Condition(torch.zeros(1, 4, 8)), "guidance": Condition(3.5)}}, True),
    ({"model_conds": {"c_crossattn": Condition(torch.zeros(3, 4, 8))}}, False),
    ({"model_conds": {"ref_latents": Condition([torch.zeros(1, 4), torch.zeros(3, 4)])}}, False),
    ({"model_conds": {}, "mask": torch.ones(1, 8, 8)}, True),
    ({"model_conds": {}, "mask": torch.ones(3, 8, 8)}, False),
    ({"model_conds": {}, "control": object()}, False),
])
def test_what_belongs_to_one_image_keeps_a_batch_together(host, entry, separable):
    guidance = host.node("SaddleFreeGuidance").__module__
    joint = importlib.import_module(guidance.replace(".saddle_free", ".host.joint"))
    assert joint.separable([[entry], None]) == separable


@pytest.mark.parametrize("options, reaches", [
    ({"transformer_options": {"patches": {"attn2_patch": [print]}}}, True),
    ({"transformer_options": {"wrappers": {"diffusion_model": {"other": [print]}}}}, True),
    ({"model_function_wrapper": print}, True),
    ({"transformer_options": {"wrappers": {"apply_model": {"other": [print]}}, "patches": {}}}, False),
])
def test_what_another_pack_puts_into_the_network_may_reach_across_a_batch(host, options, reaches):
    guidance = host.node("SaddleFreeGuidance").__module__
    compat = importlib.import_module(guidance.replace(".saddle_free", ".host.compat"))
    assert compat.patched(options) == reaches


def test_texts_of_their_own_are_kept_together_in_the_host(host):
    knobs = {"refresh_every": 0}
    run(
        host, two_models("sd3", host), "guided", lambda graph, model, weak: guided(graph, model, **knobs), batch=3,
        steps=12, scheduler="karras", conditions=per_image("sd3", 3),
    )
    assert host.record.rows["main"] == 3 * len(host.record.evaluations["main"]) > 3 * 12
