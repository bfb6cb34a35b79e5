"""Where the host evaluates on several devices at once, sample and probes are parts of the same evaluation.

One processor stands in for two devices: the host has a thread and a copy of the model for each, as for two GPUs.
"""

import importlib
from collections import Counter

import conditions as edits
import pytest
import torch
from graphs import guided, steered
from runs import close, run, two_models

BATCH, STEPS = 2, 3


def sampled(host, *, split="after", meet=False, cfg=1.0, steer=False, conditions=None, **knobs):
    """The latent of a guided run, its forwards by device, call for call, and the checks.

    split: whether the model is split before or after our nodes, or not at all.
    """

    def change(graph, model, weak):
        model = graph.add("TestUndecided", model=model, amount=3.0)
        model = graph.add("TestTwoDevices", model=model, meet=meet) if split == "before" else model
        model = guided(graph, model, **knobs)
        model = steered(graph, model, weak) if steer else model
        return graph.add("TestTwoDevices", model=model, meet=meet) if split == "after" else model

    latent = run(
        host, two_models("sd3", host), "main", change, batch=BATCH, cfg=cfg, steps=STEPS, conditions=conditions
    )
    calls = {}
    for sigma, *forward in host.record.devices.batches:
        calls.setdefault(sigma, []).append(tuple(forward))
    return latent, list(calls.values()), host.record.checks["main"]


def test_the_host_gives_its_conditions_to_both_devices(host):
    """Without guidance, so that the stand-in is known to be split at all."""
    calls = sampled(host, meet=True, cfg=4.0, scale=0.0)[1]
    assert [Counter(call) for call in calls] == [Counter({(0, BATCH, (0,)): 1, (1, BATCH, (1,)): 1})] * STEPS


@pytest.mark.parametrize("split", ["before", "after"])
def test_sample_and_probe_are_in_the_network_at_the_same_moment(host, split):
    latent, calls, checks = sampled(host, split=split, meet=True, scale=8.0)
    assert [Counter(call) for call in calls] == [Counter({(0, BATCH, (0,)): 1, (1, BATCH, (0,)): 1})] * STEPS
    assert checks == 1
    assert close(latent, sampled(host, split=None, scale=8.0)[0], 1e-3)
    assert not close(latent, sampled(host, split=None, scale=0.0)[0], 1e-2)


def test_beside_a_negative_prompt_the_probe_is_a_third_condition(host):
    latent, calls, checks = sampled(host, meet=True, cfg=4.0)
    for call in calls:
        assert sorted(rows for _, rows, _ in call) == [BATCH, 2 * BATCH]
        assert {device for device, *_ in call} == {0, 1}
        assert sorted(name for *_, names in call for name in names) == [0, 0, 1]
    assert len(calls) == STEPS and checks == 2  # one, of two conditions on two devices
    assert close(latent, sampled(host, split=None, cfg=4.0)[0], 1e-3)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_the_probes_of_several_directions_are_spread(host, cfg):
    """The automatic schedule asks after the sample: two batches of probes, one for each device."""
    latent, calls, _ = sampled(host, cfg=cfg, refresh_every=0, directions=2)
    probed = [call[-2:] for call in calls if len(call) > (1 if cfg == 1 else 2)]
    assert probed
    for call in probed:
        assert sorted(call) == [(0, BATCH, (0,)), (1, BATCH, (0,))]
    assert close(latent, sampled(host, split=None, cfg=cfg, refresh_every=0, directions=2)[0], 1e-3)


@pytest.mark.parametrize("conditions", [edits.region("area"), edits.per_image("sd3", BATCH), edits.masked(5)])
def test_conditions_that_cannot_be_split_so_are_guided_all_the_same(host, conditions):
    latent, calls, _ = sampled(host, conditions=conditions)
    assert len(calls) == STEPS
    assert close(latent, sampled(host, split=None, conditions=conditions)[0], 1e-3)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_weak_model_stays_on_the_first_device(host, cfg):
    latent, calls, _ = sampled(host, cfg=cfg, steer=True, scale=0.0)
    assert [Counter(device for device, *_ in call) for call in calls] == [
        Counter({0: 1} if cfg == 1 else {0: 1, 1: 1})
    ] * STEPS
    assert len(host.record.evaluations["weak"]) == STEPS
    assert close(latent, sampled(host, split=None, cfg=cfg, steer=True, scale=0.0)[0], 1e-3)


@pytest.mark.parametrize("entry, options, spreads", [
    ({}, {}, True), ({"mask": torch.ones(1, 8, 8), "control": None}, {"context_handler": None}, True),
    ({"area": (1, 2, 3, 4)}, {}, False), ({"control": object()}, {}, False), ({}, {"context_handler": object()}, False),
])
def test_what_the_host_cuts_or_makes_from_x_keeps_a_condition_at_x(host, entry, options, spreads):
    node = host.node("SaddleFreeGuidance").__module__
    devices = importlib.import_module(node.replace(".saddle_free", ".host.devices"))
    assert devices.can_spread([[{}], None, [entry]], options) == spreads


def test_guidance_changes_nothing_where_it_is_off(host):
    plain = sampled(host, split=None, scale=0.0)[0]
    assert torch.equal(sampled(host, scale=0.0)[0], plain)
