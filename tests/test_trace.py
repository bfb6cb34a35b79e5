"""The curvature trace against a denoiser whose Jacobian is known: rho along value i of an image is gains[i]."""

import math

import pytest
import torch
from saddle_free_guidance.guidance import CurvatureTrace, SaddleFree, SigmaWindow
from waits import Waits

GAINS = torch.tensor([[0.2, 0.1, 0.3], [0.1, 1.8, 0.2], [0.3, 0.2, 1.4]], dtype=torch.float64)  # [H, W]


class Last(CurvatureTrace):
    """Also keeps what was found at the last call."""

    def add(self, sigma, found):
        self.found = found
        super().add(sigma, found)


def converged(gains=GAINS, batch=2, directions=1, calls=80, scale=1.0, spoiled=()):
    """What the guide finds at random images [batch, 1, H, W] and sigma 2 once its directions have settled.

    spoiled: images whose predictions are not finite.
    """
    x = torch.randn(batch, 1, *gains.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    guide = SaddleFree(scale, refresh_every=1, directions=directions, trace=Last())

    def denoise(rows, images):
        answer = gains * rows
        answer[torch.isin(images, torch.tensor(spoiled, dtype=torch.int64))] = math.nan
        return answer

    for sigma in torch.linspace(6, 2, calls).tolist():
        guide(denoise, sigma * x, alpha=1.0, std=sigma)
    return guide.trace.found


def traced(*found):
    """A trace of one run with an active call for each, at sigmas 8, 4, 2 ..."""
    trace = CurvatureTrace()
    trace.begin([8.0, 0.0])
    for call, each in enumerate(found):
        trace.add(torch.tensor(8.0 / 2**call), each)
    return trace


def test_a_call_holds_every_quotient_and_the_size_of_the_push():
    call = traced(converged(directions=2, scale=3.0)).plain()["calls"][0]
    assert call["sigma"] == 8.0 and call["active"] and call["reason"] is None
    assert call["acted"] == [True, True]
    for quotients in call["rayleigh"]:
        assert quotients == pytest.approx([1.8, 1.4], abs=1e-9)
    fall = (2 + 4 / 79) / 2  # from the call before
    push = 3.0 * 2.0 * fall / 2 * math.sqrt(2 / 9)  # along two of the 9 values of an image
    assert call["push"] == pytest.approx([push, push], rel=1e-6)
    assert all(0 <= error < 1e-3 for errors in call["error"] for error in errors)
    assert call["evaluations"] == [3, 3]  # the sampler's own, and one a direction


def test_where_nothing_curves_upwards_it_says_so():
    call = traced(converged(gains=0.5 * GAINS)).plain()["calls"][0]
    assert call["acted"] == [False, False] and call["push"] == [0.0, 0.0]
    assert call["active"] and call["reason"] == "no positive curvature"


def test_values_that_are_not_finite_are_none():
    call = traced(converged(spoiled=[1])).plain()["calls"][0]
    assert call["rayleigh"][0] == pytest.approx([1.8]) and call["rayleigh"][1] == [None]
    assert call["acted"] == [True, False] and call["push"][1] == 0.0
    call = traced(converged(spoiled=[0, 1])).plain()["calls"][0]
    assert call["rayleigh"] == [[None], [None]] and call["reason"] == "nothing was looked for yet"


def test_idle_calls_carry_their_reason_and_the_window_is_told():
    trace = CurvatureTrace()
    trace.begin([8.0, 4.0, 0.0], SigmaWindow(math.inf, 5.0))
    trace.add_idle(torch.tensor(4.0), "sigma was outside")
    assert trace.plain() == {
        "first": 0, "window": [None, 5.0], "sigmas": [8.0, 0.0], "off": None, "advice": [],
        "calls": [
            {"sigma": 4.0, "active": False, "reason": "sigma was outside", "rayleigh": [], "error": [], "push": [],
             "acted": [], "evaluations": []}
        ],
    }


def test_indecision_is_the_size_of_directions_weighted_by_how_far_they_act():
    expected = torch.zeros(3, 3)
    expected[1, 1] = 1.0
    for image in traced(converged()).indecision():
        assert torch.allclose(image, expected, atol=1e-4)
    expected[2, 2] = 1.0  # both are certain
    for image in traced(converged(directions=2), converged(directions=2)).indecision():
        assert torch.allclose(image, expected, atol=1e-4)


def test_without_positive_curvature_indecision_is_where_the_last_direction_was():
    later = converged(gains=torch.flip(0.5 * GAINS, dims=(0, 1)).clone() * torch.tensor([1.0, 1.0, 0.1]))
    image = traced(converged(gains=0.5 * GAINS), later).indecision()[0]
    assert image.argmax() == later["directions"][0, 0].abs().argmax() and image.max() == 1.0


def test_a_new_run_drops_the_last_and_one_that_goes_on_keeps_it():
    trace = traced(converged(), converged())
    trace.sigmas = (8.0, 4.0)
    trace.begin([4.0, 2.0, 0.0], continues=True)
    assert len(trace.calls) == 2 and trace.plain()["sigmas"] == [8.0, 0.0]
    trace.begin([0.0, 0.0], continues=True)
    assert trace.calls == []
    trace = traced(converged())
    trace.sigmas = (8.0, 4.0)
    trace.begin([4.0, 2.0, 0.0])
    assert trace.calls == [] and trace.indecision() is None
    assert "no sampling" in trace.plain()["off"]


def test_a_trace_of_guidance_that_is_off_says_why():
    assert CurvatureTrace(off="It is off.").plain()["off"] == "It is off."
    assert CurvatureTrace().indecision() is None


def test_a_latent_that_changes_size_begins_a_new_map():
    trace = traced(converged(), converged(gains=torch.full((5, 4), 1.5)))
    assert trace.indecision().shape == (2, 5, 4)


def test_a_run_on_a_gpu_that_goes_on_adds_to_what_the_last_one_left_in_the_hosts_memory():
    """A device without values stands in for it: it refuses to add what is not on it."""
    trace, found = traced(converged()), converged()
    trace.end()
    trace.add(torch.tensor(1.0), {name: value.to("meta") for name, value in found.items()})
    assert trace._undecided.device.type == "meta" and trace._undecided.shape == (2, *GAINS.shape)


def transfers(waits):
    """From the GPU to the host's memory; other reads are of what is there."""
    return sum(wait.function == "cpu" for wait in waits.found)


def test_a_run_is_read_in_one_transfer(monkeypatch):
    """As it grows, what is new of it; at its end the rest, with its maps. What was read is read from there."""
    monkeypatch.setattr("waits.own_place", lambda: "trace")
    trace, found = traced(*[converged(directions=2)] * 5), converged(directions=2)
    with Waits(lambda: None) as waits:
        trace.plain()
    assert waits.found[0].function == "cpu" and transfers(waits) == 1
    with Waits(lambda: None) as waits:
        trace.plain(2)
    assert transfers(waits) == 0
    trace.add(torch.tensor(0.1), found)
    with Waits(lambda: None) as waits:
        trace.end()
    assert [wait.function for wait in waits.found] == ["cpu"]
    with Waits(lambda: None) as waits:
        trace.plain()
        trace.indecision()
    assert transfers(waits) == 0


def test_the_end_of_a_run_changes_no_number():
    trace = traced(converged(directions=2), converged())
    before, indecision = trace.plain(), trace.indecision()
    trace.end()
    assert trace.plain() | {"advice": []} == before and torch.equal(trace.indecision(), indecision)
    assert trace.plain(first=1)["calls"] == before["calls"][1:]
