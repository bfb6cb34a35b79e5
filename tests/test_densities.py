"""The densities of the controls, their exact eigenpairs and inexact networks; and the controls themselves, small."""

import argparse
import math

import controls
import densities
import pytest
import torch
from densities import SHAPES, Density, Mode, Network, power_law, waves

SHAPE = SHAPES[3_072]
SMALL = argparse.Namespace(
    sizes=[3_072], formats=["fp32", "bf16"], noise=[1.0], images=2, steps=24, scale=1.0
)


def cells(lines):
    """The cells of a table's rows without its heading."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in list(lines)[1:]]


def test_waves_are_orthonormal_and_broad_ones_come_first():
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(waves(waves(x)), x, atol=1e-5)
    assert waves(x).norm().item() == pytest.approx(x.norm().item(), rel=1e-5)
    order = densities.from_broad_to_fine(SHAPE)
    found = densities.frequencies(SHAPE).flatten()[order]
    assert (found[1:] >= found[:-1]).all() and sorted(order.tolist()) == list(range(3_072))
    variances = power_law(SHAPE, 2)
    assert variances.mean().item() == pytest.approx(1, rel=1e-4)
    assert (variances[order[0]] / variances[order[9]]).item() == pytest.approx(100, rel=1e-4)


@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_eigenvalues_are_the_slopes_of_the_denoiser_along_waves(sigma):
    place = densities.from_broad_to_fine(SHAPE)[5].item()
    density = Density(SHAPE, power_law(SHAPE, 1.5), (Mode(place, 1.0, 0.3),))
    y = 0.3 * torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    for along in (place, 7, 2_000):
        axis = controls.axis(SHAPE, along).reshape(1, *SHAPE)
        jvp = torch.func.jvp(lambda y: density.denoise(y, sigma), (y,), (axis,))[1]
        expected = density.eigenvalues(y, sigma)[0, along].item()
        assert (jvp * axis).sum().item() == pytest.approx(expected, abs=1e-5)
        assert (jvp - expected * axis).norm().item() < 1e-4


@pytest.mark.parametrize("coloured", [False, True])
def test_the_noise_of_a_network_is_what_was_asked_for_and_the_same_with_and_without_probes(coloured):
    density = Density(SHAPE, power_law(SHAPE, 1.5))
    y = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(2))
    networks = [Network(density.denoise, torch.bfloat16, 3.0, coloured) for _ in range(2)]
    answer = networks[0].at(2.0, 1)(y)
    more = networks[1].at(2.0, 1)(torch.cat([y, y + 1]))
    assert torch.equal(answer, more[:1]) and networks[1].evaluations == 2
    error = (answer - density.denoise(y, 2.0)).norm().item()
    assumed = 2.0 * torch.finfo(torch.bfloat16).eps / 2 * math.sqrt(3_072)
    size = ((y - density.denoise(y, 2.0)) / 2.0).square().mean().sqrt().item()
    assert 1.5 < error / (assumed * size) < 2.8  # 3 times .65, and the format's own


@pytest.mark.long  # as test_controls.py has it
def test_guidance_is_idle_where_no_saddle_is():
    rows = cells(controls.negative(SMALL))
    assert len(rows) == 2 * len(controls.SPECTRA)
    for row in rows:
        acted, change, extra, acted_always, change_always, extra_always = map(float, row[3:])
        assert acted <= 0.01 and acted_always <= 0.01 and max(change, change_always) <= 1, row
        assert extra <= 3 and extra_always in (23, 24), row


def test_a_saddle_is_open_as_long_as_it_was_made_to_be_and_a_whole_krylov_run_finds_it():
    density = controls.hidden_saddle(SHAPE)
    resolved = density.variances / (density.variances + 1)
    assert (resolved >= controls.NEARLY_ONE - 1e-5).sum().item() == controls.RESOLVED
    watch, evaluations = controls.watched(density, torch.float32, 1, argparse.Namespace(images=4, steps=24, scale=0.0))
    assert evaluations == 1.0 and watch.share() == 0  # scale 0 is off
    assert 3.5 <= watch.calls() <= 5
    assert watch.krylov(1) < 0.5 < watch.krylov(24)


def test_the_fine_saddle_after_a_coarse_one_is_pushed_at_by_every_call():
    one = argparse.Namespace(images=4, steps=24, scale=1.0)
    watch, _ = controls.watched(controls.two_saddles(SHAPE, 5.0), torch.float32, 1, one)
    assert watch.images(1) >= 0.75
