"""The guidance terms and the schedule, against the formulas."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from saddle_free_guidance.curvature import CurvatureTracker
from saddle_free_guidance.guidance import SigmaWindow, auto_guidance, classifier_free, saddle_free, schedule_position

AWAY = [auto_guidance, classifier_free]


def estimate_of(matrix, x, alpha, std, **options):
    tracker = CurvatureTracker(**options)
    probe = tracker.probe(x, std=std)
    return tracker.update(x @ matrix, probe @ matrix, alpha=alpha, std=std)


@pytest.mark.parametrize("term", AWAY)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 7.0])
def test_away_from_the_other_prediction(term, scale):
    strong, weak = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = scale * strong + (1 - scale) * weak
    assert torch.allclose(strong + term(strong, weak, scale=scale), expected, atol=1e-12)
    if scale == 1.0:
        assert torch.equal(term(strong, weak, scale=scale), torch.zeros_like(strong))


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("alpha, std", [(1.0, 0.4), (0.6, 0.4)])
def test_saddle_free_is_the_formula(scale, alpha, std):
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = torch.diag(torch.tensor([-6, -2, 0.5, 1, 4, 9], dtype=torch.float64))
    estimate = estimate_of(matrix, x, alpha, std, directions=3)
    response = alpha * estimate.direction @ matrix  # J v with J = alpha dD/dx
    rayleigh = (estimate.direction * response).sum(dim=-1)
    assert torch.allclose(estimate.response, response, atol=1e-9)
    assert torch.allclose(estimate.rayleigh, rayleigh, atol=1e-9)
    acts = rayleigh > 1
    assert acts.any() and not acts.all()
    expected = (scale * std / alpha * response * acts[..., None]).sum(dim=0)
    assert torch.allclose(saddle_free(estimate, scale=scale), expected, atol=1e-9)


def test_saddle_free_is_zero_where_nothing_curves_upwards():
    x = torch.randn(2, 6)
    estimate = estimate_of(0.9 * torch.eye(6), x, 1.0, 0.5)
    assert torch.equal(saddle_free(estimate, scale=10.0), torch.zeros(2, 6))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_corrections_come_back_in_the_dtype_of_denoised(dtype):
    x = torch.randn(2, 6, dtype=dtype)
    for term in AWAY:
        assert term(x, x.float(), scale=2.0).dtype == dtype
    assert saddle_free(estimate_of(torch.eye(6, dtype=dtype) * 3, x, 1.0, 0.5), scale=1.0).dtype == dtype


@pytest.mark.parametrize("term", AWAY)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_image_that_is_not_finite_gets_no_correction(term, bad):
    strong, weak = torch.randn(2, 3, 4)
    clean = term(strong, weak, scale=2.0)
    weak[1, 0] = bad
    correction = term(strong, weak, scale=2.0)
    assert torch.equal(correction[1], torch.zeros(4))
    assert torch.equal(correction[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("term", AWAY)
def test_predictions_of_different_shapes_are_refused(term):
    with pytest.raises(ValueError, match=r"\(1, 4\) and \(2, 4\)"):
        term(torch.zeros(1, 4), torch.zeros(2, 4), scale=2.0)


def test_terms_add_up_in_any_order():
    cond, uncond, weak = torch.randn(3, 2, 6, dtype=torch.float64)
    estimate = estimate_of(3 * torch.eye(6, dtype=torch.float64), cond, 1.0, 0.5)
    terms = [
        classifier_free(cond, uncond, scale=4.0), auto_guidance(cond, weak, scale=1.5), saddle_free(estimate, scale=1.0)
    ]
    assert torch.allclose(cond + terms[0] + terms[1] + terms[2], cond + terms[2] + terms[0] + terms[1], atol=1e-12)


def test_the_window_includes_its_ends():
    window = SigmaWindow(start=5.0, end=0.5)
    assert [window.contains(s) for s in (5.01, 5.0, 1.0, 0.5, 0.49)] == [False, True, True, True, False]
    assert not SigmaWindow(start=0.0, end=0.0).contains(0.1)


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=20, unique=True))
def test_schedule_position_is_the_step(sigmas):
    falling = sorted(sigmas, reverse=True)
    assert [schedule_position(s, [*falling, 0.0]) for s in falling] == list(range(len(falling)))
    for high, low in itertools.pairwise(falling):
        middle = (high + low) / 2
        if low < middle < high:
            assert schedule_position(middle, falling) == falling.index(low)
    assert schedule_position(falling[0] * 2, falling) == 0
