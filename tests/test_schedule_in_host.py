"""Probes by the automatic schedule in the host: how many, and of each image as if alone."""

import collections
import importlib

import pytest
import torch
from cases import in_turn, long_but
from conditions import per_image
from graphs import branches, demo, guided
from runs import counts, run, two_models


@pytest.mark.parametrize("sampler, steps", long_but(
    [("euler", 16), ("euler", 32), ("euler", 64), ("heun", 16), ("heun", 32), ("dpmpp_2m", 32)],
    [("euler", 16), ("euler", 64), ("heun", 16), ("dpmpp_2m", 32)],
))
def test_a_picture_takes_a_few_evaluations_more_whatever_the_steps(host, sampler, steps):
    host.latents(branches(
        demo(), {"plain": None, "guided": {"refresh_every": 0, "scale": 4.0}}, sampler=sampler, steps=steps,
        scheduler="karras",
    ))
    plain, guided = (collections.Counter(host.record.evaluations[label]) for label in ("plain", "guided"))
    probes = guided - plain
    assert 2 <= probes.total() <= 13


ROUNDS = 2  # most evaluations of a look in one direction, beside one that measures the noise


def undecided(graph, model, weak=None):
    return graph.add("TestUndecided", model=model, amount=3.0)


@pytest.mark.parametrize(
    "family, setting", list(in_turn(["sd15", "sd3", "sd35", "flux", "wan", "ltxav"], [(1, 4.0), (3, 1.0)]))
)
def test_every_family_is_probed_a_few_times_and_the_same_twice(host, family, setting):
    def probed(graph, model, weak):
        return guided(graph, undecided(graph, model), refresh_every=0)

    batch, cfg = setting
    sampling = {"batch": batch, "cfg": cfg, "steps": 4, "scheduler": "karras", "sampler": "heun"}
    latents, costs = [], []
    for change in (undecided, probed, probed):
        latents.append(run(host, two_models(family, host), "main", change, **sampling))
        costs.append(counts(host))
    assert torch.equal(latents[1], latents[2]) and costs[1] == costs[2]
    assert latents[1].isfinite().all() and not torch.equal(latents[1], latents[0])
    calls, plain = costs[0][:2]
    assert costs[1][0] == calls and 1 <= costs[1][1] - plain <= calls * ROUNDS


@pytest.mark.parametrize("directions", long_but([1, 2], [2]))
def test_images_that_are_due_are_probed_without_the_others_as_if_alone(host, directions):
    variants = {"plain": None, "guided": {"refresh_every": 0, "scale": 2.0, "directions": directions}}
    sampling = {"steps": 32, "scheduler": "karras"}
    batch = host.latents(branches(demo(), variants, batch=3, **sampling))
    rows, spread = host.record.rows["guided"], batch["guided"].std().item()
    assert rows <= 3 * len(host.record.evaluations["guided"])
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
