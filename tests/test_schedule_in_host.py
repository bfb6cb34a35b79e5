"""Probes by the automatic schedule in the host: how many, and of each image as if alone."""

import collections
import importlib

import pytest
import torch
from cases import in_turn, long_but
from graphs import branches, demo, guided
from runs import counts, run, two_models


@pytest.mark.parametrize("sampler, steps", long_but(
    [("euler", 16), ("euler", 32), ("euler", 64), ("heun", 16), ("heun", 32), ("dpmpp_2m", 32)],
    [("euler", 16), ("euler", 64), ("dpmpp_2m", 32)],
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


@pytest.mark.parametrize("directions, digits", long_but(
    [(1, ["none"]), (2, ["none"]), (1, ["0", "2", "6"]), (1, ["5", "6"])],
    [(2, ["none"]), (1, ["0", "2", "6"])],
))
def test_images_that_are_due_are_probed_without_the_others_as_if_alone(host, directions, digits):
    """Also where each image has a condition of its own."""
    variants = {"plain": None, "guided": {"refresh_every": 0, "scale": 2.0, "directions": directions}}
    sampling = {"steps": 24, "scheduler": "karras"}
    batch = host.latents(branches(demo(*digits), variants, batch=3, **sampling))
    rows, spread = host.record.rows["guided"], batch["guided"].std().item()
    assert rows <= 3 * len(host.record.evaluations["guided"])
    alone = 0
    for pick in range(3):
        latents = host.latents(branches(demo(digits[pick % len(digits)]), variants, batch=3, pick=pick, **sampling))
        alone += host.record.rows["guided"]
        # A saddle amplifies rounding, which depends on the number of rows, at the edges of a shape most of all.
        assert (batch["guided"][pick] - latents["guided"][0]).abs().mean().item() <= 0.005 * spread
        assert (batch["guided"][pick] - batch["plain"][pick]).abs().max().item() > 0.3 * spread
    assert rows == alone


class OtherCondition:
    """A condition's value of another pack."""

    def __init__(self, cond):
        self.cond = cond


def joint(host):
    guidance = host.node("SaddleFreeGuidance").__module__
    return importlib.import_module(guidance.replace(".saddle_free", ".host.joint"))


def values(count):
    """Conditions of the host with `count` rows each, as one entry."""
    from comfy import conds

    drawn = torch.randn(5, count, 2, 6, 6, generator=torch.Generator().manual_seed(count))
    model_conds = {
        "y": conds.CONDRegular(drawn[0]), "c_crossattn": conds.CONDCrossAttn(drawn[1].flatten(2)),
        "c_concat": conds.CONDNoiseShape(drawn[2]), "ref_latents": conds.CONDList([drawn[3], drawn[4]]),
        "guidance": conds.CONDConstant(3.5),
    }
    return {"model_conds": model_conds, "uuid": "one"}


def rows_of(given):
    """What the host makes of a condition's value, as tensors."""
    return given.cond if isinstance(given.cond, list) else [given.cond]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_rows_of_images_get_what_the_host_gives_to_these_images(host, count):
    images, x = [2, 0, 2, 1, 1], torch.zeros(3, 4, 6, 6)
    entry = values(count)
    none, (picked,) = joint(host).of_images([None, [entry]], images)
    assert none is None and picked["uuid"] == "one" and joint(host).separable([[entry], None])
    for name, value in entry["model_conds"].items():
        whole = rows_of(value.process_cond(batch_size=len(x), area=None))
        ours = rows_of(picked["model_conds"][name].process_cond(batch_size=len(images), area=None))
        for one, other in zip(whole, ours, strict=True):
            assert torch.equal(one[images], other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("count", [1, 3, 5])
def test_rows_of_images_are_masked_as_the_host_masks_these_images(host, count):
    from comfy.samplers import get_area_and_mult

    images = [2, 0, 2, 1]
    entry = values(1) | {"mask": torch.rand(count, 6, 6, generator=torch.Generator().manual_seed(0))}
    (picked,), = joint(host).of_images([[entry]], images)
    whole, ours = (
        get_area_and_mult(one, torch.zeros(rows, 4, 6, 6), torch.ones(rows)).mult
        for one, rows in ((entry, 3), (picked, len(images)))
    )
    assert torch.equal(whole[images], ours)


@pytest.mark.parametrize("entry, separable, repeatable", [
    ({"model_conds": {"own": OtherCondition(torch.zeros(1, 4, 8)), "guidance": OtherCondition(3.5)}}, True, True),
    ({"model_conds": {"own": OtherCondition(torch.zeros(3, 4, 8))}}, False, True),
    ({"model_conds": {"own": OtherCondition([torch.zeros(1, 4), torch.zeros(2, 4)])}}, False, False),
    ({"model_conds": {}, "mask": torch.ones(2, 8, 8)}, True, False),
    ({"model_conds": {}, "control": object()}, False, False),
])
def test_a_value_of_another_pack_and_a_hint_keep_a_batch_together(host, entry, separable, repeatable):
    assert joint(host).separable([[entry], None]) == separable
    assert joint(host).repeatable([[entry], None], 3) == repeatable


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
