"""The guidance terms and the window, against the formulas."""

import math
from dataclasses import replace

import pytest
import torch
from saddle_free_guidance.guidance import SaddleFree, SigmaWindow, auto_guidance, classifier_free
from saddle_free_guidance.guidance.run import Run

AWAY = [auto_guidance, classifier_free]


def saddle_free(gains, x, alpha=1.0, std=0.5, calls=30, **knobs):
    """The correction at x [B, N] once the directions of a denoiser x -> gains * x have settled, and the guide.

    Also sigma_hat of the last call, and by how many times it fell to there.
    """
    guide = SaddleFree(refresh_every=1, **knobs)
    for call in range(calls):
        here = x * (1 + (calls - call) / calls)
        guided = guide(lambda rows, images: gains * rows, here, alpha=alpha, std=std * (1 + (calls - call) / calls))
    return guided - gains * here, guide, std * (1 + 1 / calls) / alpha, (1 + 2 / calls) / (1 + 1 / calls)


@pytest.mark.parametrize("term", AWAY)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 7.0])
def test_away_from_the_other_prediction(term, scale):
    strong, weak = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = scale * strong + (1 - scale) * weak
    assert torch.allclose(strong + term(strong, weak, scale=scale), expected, atol=1e-12)
    if scale == 1.0:
        assert torch.equal(term(strong, weak, scale=scale), torch.zeros_like(strong))


@pytest.mark.parametrize("scale", [0.5, 3.0])
@pytest.mark.parametrize("alpha, std", [(1.0, 0.4), (0.6, 0.4)])
def test_saddle_free_is_the_formula(scale, alpha, std):
    """scale * sigma_hat for a step that halves it, along each eigenvector of J = alpha dD/dx that is above 1 alone."""
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gains = torch.tensor([-0.6, -0.2, 0.5, 1, 4, 9], dtype=torch.float64)
    correction, guide, sigma_hat, fall = saddle_free(gains, x, alpha, std, scale=scale, directions=3)
    values = alpha * gains.flip(0)[:3]
    assert torch.allclose(guide.trace.rayleigh[-1][:2], values[:2, None].expand(2, 2), atol=1e-6)
    expected = torch.zeros(2, 6, dtype=torch.float64)
    expected[:, 4:] = scale * sigma_hat * fall / 2
    assert (values > 1).tolist() == [True, True, False]
    assert torch.allclose(correction.abs(), expected, atol=1e-6)


def test_saddle_free_is_zero_where_nothing_curves_upwards():
    correction = saddle_free(torch.full((6,), 0.9), torch.randn(2, 6), scale=10.0)[0]
    assert torch.equal(correction, torch.zeros(2, 6))


@pytest.mark.parametrize("rayleigh, weight", [(0.9, 0.0), (1.0, 0.0), (1.05, 0.4), (1.5, 1.0), (9.0, 1.0)])
def test_a_push_begins_at_zero_where_a_quotient_passes_one(rayleigh, weight):
    gains = torch.cat([torch.tensor([rayleigh]), torch.zeros(5)]).double()
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    guide = saddle_free(gains, x, scale=1.0, ramp=0.1)[1]
    assert torch.allclose(guide.trace[-1].weight, torch.tensor(weight), atol=1e-3)


def test_a_quotient_that_noise_lets_be_known_only_a_step_behind_counts_three_times():
    run = Run.begin(0, (1, 2, 4), None, torch.float64, torch.device("cpu"))
    run = replace(
        run, schedule=replace(run.schedule, last=torch.ones(2)), rayleigh=torch.full((1, 2), 1.07),
        behind=torch.tensor([[True, False]]),
    )
    weight = run.weight(torch.ones(2), ramp=0.3, certainty=3.0, spacing=None)
    assert weight.tolist() == [pytest.approx([0.6, 0.2])]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_one_round_in_half_precision_knows_the_quotient_only_a_step_behind(dtype):
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    guide = saddle_free(torch.tensor([0, 0, 0, 0.5, 1.0, 1.5]), x, calls=3, dtype=dtype)[1]
    assert guide._run.behind.all().item() == (dtype == torch.float16)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_corrections_come_back_in_the_dtype_of_denoised(dtype):
    x = torch.randn(2, 6, dtype=dtype)
    for term in AWAY:
        assert term(x, x.float(), scale=2.0).dtype == dtype
    assert saddle_free(3, x, scale=1.0)[0].dtype == dtype


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
    terms = [
        classifier_free(cond, uncond, scale=4.0), auto_guidance(cond, weak, scale=1.5),
        saddle_free(3, cond, scale=1.0)[0],
    ]
    assert torch.allclose(cond + terms[0] + terms[1] + terms[2], cond + terms[2] + terms[0] + terms[1], atol=1e-12)


def test_the_window_includes_its_ends():
    window = SigmaWindow(start=5.0, end=0.5)
    assert [window.contains(s) for s in (5.01, 5.0, 1.0, 0.5, 0.49)] == [False, True, True, True, False]
    assert not SigmaWindow(start=0.0, end=0.0).contains(0.1)
