"""Memory that runs out while sampling: one more try, then the picture is made without guidance, and the log says so."""

import dataclasses

import pytest
import torch
from cases import long_but
from fault_checks import fails, left_as_it_was, lines
from short_runs import Short, left_behind, one

RAN_OUT = "{}: memory ran out for its extra evaluation, twice; the rest of this image is made without it."
OUT_OF_MEMORY = [
    (Short("demo", "saddle-free", 2, steps=5, knobs={"refresh_every": refresh, "directions": directions}), "main")
    for refresh in (1, 3) for directions in (1, 2)
]
OUT_OF_MEMORY += [(Short("demo", kind, 2, steps=5), "weak") for kind in ("auto", "shared", "both", "both shared")]
OUT_OF_MEMORY += [
    (Short("demo", "both", 2, 4.0, steps=5, knobs={"directions": 2}), "main"),
    (Short("sd3", "both", 2, steps=4), "main"),
]
SHORTEST = [OUT_OF_MEMORY[place] for place in (1, 2, 4, 5, 9)]  # either refresh, either number, each kind


def named(cases):
    return [f"{short.family} {short.kind} {short.knobs or ''} {where}" for short, where in cases]


@pytest.mark.parametrize("short, where", long_but(OUT_OF_MEMORY, SHORTEST), ids=named(OUT_OF_MEMORY))
def test_memory_that_runs_out_for_an_extra_evaluation(runs, caplog, short, where):
    """Once: the picture as if nothing had happened. Twice: guided until then, with one line that says so.

    Nothing of a failed evaluation is alive when the next one begins.
    """
    fresh = runs.latent(short)
    traced = runs.host.record.traces["run"].calls if where == "main" else ()
    acts = [bool((call.weight > 0).any()) for call in traced] or [True] * short.steps
    phases = list(runs.phases(where))
    extra = [at for at, phase in enumerate(phases, 1) if phase == "extra"]
    lines(caplog)
    for at in extra:
        again = runs.latent(short, one("oom", at=at, where=where))
        assert runs.struck() == 1 and lines(caplog) == []
        assert torch.equal(again, fresh)
        repeated = len(runs.phases(where)) - len(phases)
        assert repeated == 1 + place_in_its_call(phases, at)
        assert runs.faults.held and not any(runs.faults.held)
        left_as_it_was(runs)

        halted = runs.latent(short, one("oom", at=f"{at},{at + 1 + place_in_its_call(phases, at)}", where=where))
        assert runs.struck() == 2
        name = "Saddle-Free Guidance" if where == "main" else "Auto-Guidance"
        assert lines(caplog) == [RAN_OUT.format(name)]
        assert not any(runs.faults.held)
        assert torch.equal(halted, until(runs, short, where, call_of(phases, at)))
        lines(caplog)  # a window before the first step leaves nothing to guide, and the log says so
        assert halted.isfinite().all()
        assert torch.equal(halted, fresh) != any(acts[call_of(phases, at) :])
        left_as_it_was(runs)
    assert left_behind() == []


def place_in_its_call(phases, at):
    """How many extra evaluations of its call come before the evaluation at this number."""
    before = phases[: at - 1][::-1]
    return before.index("base") if "base" in before else 0


def call_of(phases, at):
    """The number of the call, from 0, that an evaluation belongs to; a weak model alone has one in each."""
    return phases[:at].count("base") - 1 if "base" in phases else at - 1


def until(runs, short, where, call):
    """The latent of a run whose guidance (the saddle-free one at "main") ends before this call."""
    import comfy.samplers

    patcher, _ = runs.faults.kept["guided"]
    sampling = patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "karras", short.steps).tolist()
    end = end_percent(sampling, sigmas, call)
    changed = {"knobs": short.knobs | {"end_percent": end}} if where == "main" else {"auto_knobs": {"end_percent": end}}
    return runs.latent(dataclasses.replace(short, **changed))


def end_percent(sampling, sigmas, call):
    """The end_percent that leaves out this call and all later ones."""
    if call == 0:
        return 0.0
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if float(sampling.percent_to_sigma(middle)) < sigmas[call - 1] else (middle, high)
    end = float(sampling.percent_to_sigma(high))
    assert sigmas[call] < end <= sigmas[call - 1]
    return high


def test_cached_memory_is_given_back_before_the_second_try(runs, monkeypatch):
    import comfy.model_management

    emptied, empty = [], comfy.model_management.soft_empty_cache

    def watched(*args, **kwargs):
        emptied.append(len(runs.phases("main")))
        return empty(*args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "soft_empty_cache", watched)
    runs.latent(Short("demo", "saddle-free", 2), one("oom", at=2))
    assert emptied.count(2) == 1  # after the probe of the first call, the second pass of the model


def test_a_trace_says_when_memory_ran_out(runs):
    short = Short("demo", "saddle-free", 2, steps=4)
    runs.latent(short, one("oom", at="4,5"))
    calls = runs.host.record.traces["run"].plain()["calls"]
    assert [call["active"] for call in calls] == [True, False, False, False]
    assert [call["reason"] for call in calls] == [None, *["memory ran out"] * 3]


@pytest.mark.parametrize("family, kind", [("demo", "both"), ("sd3", "both shared")])
def test_memory_that_runs_out_without_guidance_is_the_hosts_own_failure(runs, caplog, family, kind):
    short = Short(family, kind, 2)
    fresh = runs.latent(short)
    lines(caplog)
    base = [at for at, phase in enumerate(runs.phases("main"), 1) if phase == "base"]
    for at in base:
        fails(runs, short, one("oom", at=at), words="you ran out of memory on your GPU")
    assert lines(caplog) == []
    assert torch.equal(runs.latent(short), fresh)
    assert left_behind() == []


def test_another_error_of_an_extra_evaluation_is_not_tried_again(runs):
    short = Short("demo", "both", 2)
    fails(runs, short, one("exception", at=2))
    assert runs.phases("main") == ["base", "extra"]
    fails(runs, short, one("exception", at=1, where="weak"))
    assert runs.phases("weak") == ["extra"]
