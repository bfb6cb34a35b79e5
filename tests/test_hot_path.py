"""On its hot path guidance makes the CPU wait for a GPU only where it must, and it holds little between two calls."""

import functools
from collections import Counter

import cost
import pytest
import subjects
import torch
from cases import in_turn, long_but
from graphs import branches, demo
from measuring import node
from waits import Wait, Waits

BATCH, STEPS, SEED = 3, 24, 9  # of the noise; its images are not all due at the same calls
AFTER = {"trace.py:_fetch", "saddle_free_run.py:has_acted"}  # the sampler has returned
LOADING = ("demo_model.py:", "coordinates.py:", "saddle_free_run.py:__init__", "trust.py:")  # once a model or a run
OF_EVERY_CALL = {
    ("automatic.py:_due", "tolist"), ("fixed_steps.py:_is_time", "__bool__"), ("run.py:why_idle", "__float__"),
}
WITHOUT_WAIT = {("own_steps.py:learn_from_step", "to")}  # to the dtype of a tensor that lies on the same device
MOST_A_LOOK = 14  # of a few images; each picks places of a batch, which waits only where that is a tensor of the GPU
FLOAT = 4  # bytes


def waits_of(host, cfg, **knobs):
    """The waits on the hot path of a run on the demo model, numbered by the call, from the second on.

    At CFG 1 probes in fixed steps are chosen before the sample's own prediction is made, all others after it.
    """
    before = 1 if cfg == 1 and knobs["refresh_every"] else 0
    with Waits(lambda: len(host.record.calls["guided"]) + before) as waits:
        host.latents(branches(
            demo(), {"guided": {"directions": 2} | knobs}, batch=BATCH, steps=STEPS, scheduler="karras",
            seed=SEED, cfg=cfg,
        ))
    assert len(host.record.calls["guided"]) == STEPS
    after = [wait for wait in waits.found if wait.place in AFTER]
    # One transfer; what is read then lies in the host's memory.
    assert [wait.function for wait in after if wait.place == "trace.py:_fetch"] == ["cpu"]
    assert {wait.function for wait in after[1:]} == {"__bool__"} and len(after) > 1
    return [
        wait for wait in waits.found
        if wait.call > 1 and wait.place not in AFTER and not wait.place.startswith(LOADING)
    ]


def once_a_call(place, function):
    return [Wait(place, function, call) for call in range(2, STEPS + 1)]


def split(found):
    """How many waits each call had for its looks, by the call; and the waits of every call."""
    looks = Counter(wait.call for wait in found if wait[:2] not in OF_EVERY_CALL | WITHOUT_WAIT)
    return looks, [wait for wait in found if wait[:2] in OF_EVERY_CALL]


@pytest.mark.parametrize("cfg", long_but([1.0, 4.0], [4.0]))
def test_the_automatic_schedule_waits_once_a_call_to_read_which_images_are_due(host, cfg):
    looks, others = split(waits_of(host, cfg, refresh_every=0))
    assert others == once_a_call("automatic.py:_due", "tolist")
    assert 2 <= len(looks) < 2 * STEPS / 3 and max(looks.values()) <= MOST_A_LOOK
    base = BATCH * STEPS * (1 if cfg == 1 else 2)
    assert (host.record.rows["guided"] - base) // 2 % BATCH  # some probes were of a part of the batch


@pytest.mark.parametrize("refresh_every, cfg", list(in_turn([1, 2], [1.0, 4.0])))
def test_fixed_steps_wait_once_a_call_to_read_sigma_where_they_are_longer_than_one(host, cfg, refresh_every):
    found, others = split(waits_of(host, cfg, refresh_every=refresh_every))
    assert others == (once_a_call("fixed_steps.py:_is_time", "__bool__") if refresh_every > 1 else [])
    assert not found


@pytest.mark.parametrize("cfg", long_but([1.0, 4.0], [1.0]))
def test_a_window_waits_once_a_call_to_read_sigma(host, cfg):
    others = split(waits_of(host, cfg, refresh_every=1, start_percent=0.2))[1]
    assert others == once_a_call("run.py:why_idle", "__float__")


@pytest.mark.parametrize("function", [
    lambda x: x.sum().item(), lambda x: x.tolist(), lambda x: x.cpu(), lambda x: float(x[0]), lambda x: bool(x[0] > 0),
    lambda x: x.nonzero(), lambda x: x[x > 0], lambda x: x[[0]], lambda x: torch.where(x > 0), lambda x: x.to("cpu"),
    lambda x: torch.equal(x, x), lambda x: torch.tensor([1.0], device=x.device), lambda x: torch.allclose(x, x),
    lambda x: x.numpy(), lambda x: x.masked_select(x > 0), lambda x: x.__setitem__(x > 0, 1.0), lambda x: 1.0 in x,
    lambda x: x.repeat_interleave(torch.tensor([1, 2, 3])), lambda x: torch.unique(x), lambda x: x.to(x),
])
def test_what_waits_is_seen_in_code_of_the_pack_alone(function, monkeypatch):
    x = torch.tensor([1.0, -2.0, 3.0])
    with Waits(lambda: 0) as waits:
        function(x)
    assert not waits.found
    monkeypatch.setattr("waits.own_place", lambda: "somewhere")
    with Waits(lambda: 0) as waits:
        function(x)
    assert len(waits.found) == 1


def test_what_does_not_wait_is_not_reported(monkeypatch):
    monkeypatch.setattr("waits.own_place", lambda: "somewhere")
    x = torch.tensor([1.0, -2.0, 3.0])
    with Waits(lambda: 0) as waits:
        x.to(torch.float64), x[0], x[torch.tensor([0, 1])], torch.where(x > 0, x, 0), x.isfinite().all(), x[1:] + x[:-1]
        torch.tensor([1, 2]).to(x.device, non_blocking=True), torch.full((2,), 1.0, device=x.device)
    assert not waits.found


def storages(held, found):
    """Adds the bytes of the float tensors that an object of the pack holds to `found`, by storage."""
    if isinstance(held, torch.Tensor):
        if held.is_floating_point():
            found[held.untyped_storage().data_ptr()] = held.untyped_storage().nbytes()
    elif isinstance(held, dict):
        for value in held.values():
            storages(value, found)
    elif isinstance(held, (list, tuple)):
        for value in held:
            storages(value, found)
    elif isinstance(held, functools.partial):
        storages((held.args, held.keywords), found)
    elif type(held).__module__.startswith("saddle_free_guidance"):
        storages(vars(held), found)
    return found


def bytes_between_calls(subject, **knobs):
    """What the run of a guided model holds before each call but the first, in bytes of float tensors."""
    from comfy.patcher_extension import WrappersMP

    held = []

    def before_a_call(executor, x, timestep, model_options, seed):
        functions = model_options["sampler_post_cfg_function"]
        run = next(function.__self__ for function in functions if hasattr(function.__self__, "guide"))
        if run.calls:
            held.append(sum(storages(run, {}).values()))
        return executor(x, timestep, model_options, seed)

    guided = node("SaddleFreeGuidance", model=subject.model, **knobs)
    guided.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test_memory", before_a_call)
    cost.sample(subject, guided, 1.0, STEPS)
    return held


@pytest.mark.parametrize("refresh_every", [0, 1])
@pytest.mark.parametrize("directions", [1, 3])
@pytest.mark.parametrize("family", ["demo", "sd3"])
def test_few_latents_are_held_between_calls(host, family, directions, refresh_every):
    """Directions, J times them; x, its prediction; two maps of the trace, values an image.

    With the automatic schedule what the last step did, and two calls before; in fixed steps displacements by chance,
    foretold ones and their answers, a direction.
    """
    subject = subjects.demo(2) if family == "demo" else subjects.stand_in("SD3", "sd3", host.models)
    batch, channels = subject.latent.shape[:2]
    latent = subject.latent.numel() * FLOAT
    maps = 2 * latent // channels
    traced = (3 * directions + 2) * batch * FLOAT  # of a call: quotients, errors, weights; the size of the push, sigma
    state = (3 * directions + 12) * batch * FLOAT  # quotients, errors, colours; noise, norm, sigma_hat, schedule
    held = bytes_between_calls(subject, directions=directions, refresh_every=refresh_every)
    assert len(held) == STEPS - 1
    for calls, size in enumerate(held, start=1):
        most = (5 * directions + 2 if refresh_every else 2 * directions + (6 if calls == 1 else 7)) * latent
        assert 2 * latent < size <= most + maps + calls * traced + state
