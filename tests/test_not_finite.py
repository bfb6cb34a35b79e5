"""Predictions that are not finite, or too large for half precision, stay with the images they came to."""

import dataclasses

import pytest
import torch
from fault_checks import left_as_it_was, stays_with_its_images
from short_runs import Short, one

SPOILED = ("nan", "inf", "-inf")
NOT_FINITE = [
    Short("demo", "saddle-free", 3, knobs={"directions": 2, "refresh_every": 2}), Short("demo", "both", 3),
    Short("demo", "both shared", 3, 4.0, sampler="dpmpp_2m"), Short("sd3", "both", 3, sampler="heun", steps=2),
    Short("wan", "saddle-free", 3),
]


@pytest.mark.parametrize("short", NOT_FINITE, ids=[f"{short.family} {short.kind}" for short in NOT_FINITE])
def test_values_that_are_not_finite_stay_with_their_images(runs, caplog, short):
    """At every evaluation. The others are bit-identical; an image is lost only where the model itself lost it."""
    fresh = runs.latent(short)
    for where in ("main", "weak"):
        phases = list(runs.phases(where)) if where == "main" else ["extra"] * (short.kind != "saddle-free") * 3
        for at, phase in enumerate(phases, 1):
            kind, images = SPOILED[at % 3], ("1", "0,2", "")[(at + (where == "weak")) % 3]
            latent = runs.latent(short, one(kind, at=at, where=where, images=images))
            stays_with_its_images(runs, latent, fresh, images, torch.equal)
            assert all(image.isfinite().all() for image in latent) == (phase == "extra")
            left_as_it_was(runs)
    assert torch.equal(runs.latent(short), fresh)


@pytest.mark.parametrize("family, kind", [
    ("demo", "both"), ("sd3", "saddle-free"), ("sd3", "both"), ("wan", "both shared"), ("flux", "both"),
])
def test_half_precision_at_extreme_scales(runs, family, kind):
    """Where the network's half-precision numbers overflow, that image is lost and no other; the next run is as before.

    Of the FLUX stand-in, which normalises what it is given, only the latents grow.
    """
    moderate = Short(
        family, kind, 3, dtype="fp16", knobs={"scale": 2.0, "directions": 2},
        sigma_max=1000.0 if family == "demo" else None,
    )
    extreme = {"knobs": {"scale": 20.0, "directions": 2}, "auto_knobs": {"scale": 20.0}, "steps": 14}
    before = runs.latent(moderate)
    assert before.isfinite().all()
    latent = runs.latent(dataclasses.replace(moderate, **extreme))
    broken = set().union(*runs.faults.broken.values())
    assert broken or (family == "flux" and latent.abs().max() > 65504)
    for image, value in enumerate(latent):
        assert value.isfinite().all() == (image not in broken)
    left_as_it_was(runs)
    assert torch.equal(runs.latent(moderate), before)


def test_a_correction_too_large_for_half_precision_is_left_out(runs):
    """For users of the library, whose predictions may themselves be in half precision."""
    from saddle_free_guidance.guidance import SaddleFree, auto_guidance

    good, bad = torch.tensor([1.0, 2.0]), torch.tensor([30000.0, -60000.0])
    denoised = torch.stack([good, bad]).half()
    steered = auto_guidance(denoised, -denoised, scale=20.0)
    guide, x = SaddleFree(4e4, refresh_every=1), torch.tensor([[0.1, 0.2], [3.0, -6.0]])
    for factor in (4.0, 2.0, 1.0):  # scale * sigma_hat is 4e5 for the second image
        here = (factor * x).half()
        guided = guide(lambda rows, images: 2 * rows, here, alpha=1.0, std=factor * torch.tensor([0.1, 10.0]))
    assert (guide.trace[-1].weight == 1).all()
    for correction in (steered, guided - 2 * here):
        assert correction.dtype == torch.float16
        assert correction[0].abs().min() > 0
        assert torch.equal(correction[1], torch.zeros(2).half())
