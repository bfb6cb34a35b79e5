"""The strength of a push in a sampling loop with torch alone: it scales what is added, and the search never sees it."""

import itertools
import math

import pytest
import torch
from guided_runs import EVERY, SIGMAS, SIZE, noise, pair
from saddle_free_guidance.guidance import SaddleFree
from saddle_free_guidance.guidance.strength import (
    CURVES,
    padded,
    share_of_sampling,
    strength_in_picture,
    strength_over_sampling,
)

# --- The guide -------------------------------------------------------------------------------------------------------


def corrections(every, strength=None, again=None):
    """The corrections [calls, B, N] along a path that they do not change, and the trace.

    again: the strength with which each call is made once more.
    """
    guide, exact, found = SaddleFree(2.0, refresh_every=EVERY[every]), pair().denoise, []
    for sigma in SIGMAS[:-1]:
        call = guide.questions(sigma * noise(), alpha=1.0, std=sigma, strength=strength)
        rows, _ = next(call)
        try:
            while True:
                rows, _ = call.send(exact(rows, sigma))
        except StopIteration as end:
            found.append(end.value)
        if again is not None:
            found[-1] = guide.last_correction(alpha=1.0, std=sigma, dtype=torch.float64, strength=again)
    return torch.stack(found), guide.trace


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("strength", [1.0, torch.ones(1, SIZE)])
def test_a_strength_of_1_changes_no_bit(every, strength):
    plain, traced = corrections(every)
    same, other = corrections(every, strength)
    assert plain.abs().max() > 0.1 and torch.equal(plain, same)
    assert torch.equal(torch.stack(traced.push), torch.stack(other.push))


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("strength", [
    0.5, 0.0, torch.linspace(0, 1, 3)[:, None], torch.linspace(0, 1, SIZE)[None], torch.rand(3, SIZE),
], ids=["half", "none", "an image each", "a value each", "all"])
def test_the_push_is_scaled_and_the_search_is_not(every, strength):
    plain, traced = corrections(every)
    scaled, other = corrections(every, strength)
    factor = torch.as_tensor(strength).double()
    assert plain.abs().amax(dim=(0, 2)).min() > 0.1
    assert torch.allclose(scaled, plain * factor, rtol=1e-12, atol=0)
    for one, two in zip(traced, other):
        assert torch.equal(one.rayleigh, two.rayleigh) and torch.equal(one.evaluations, two.evaluations)
        assert torch.equal(one.weight, two.weight)
    pushed = scaled.square().mean(dim=2).sqrt()
    assert torch.allclose(torch.stack(other.push).double(), pushed, rtol=1e-5, atol=1e-12)
    assert torch.equal(corrections(every, again=strength)[0], scaled)


def test_a_call_without_strength_says_so_in_the_trace():
    _, traced = corrections("every call", torch.tensor([[1.0], [0.0], [1.0]]))
    for call, plain in zip(traced, traced.plain()["calls"]):
        undecided = (call.weight > 0).any(dim=0).tolist()
        assert plain["acted"] == [undecided[0], False, undecided[2]]
    _, traced = corrections("every call", 0.0)
    reasons = [call["reason"] for call in traced.plain()["calls"]]
    assert reasons[-1] == "the strength was 0" and not any(any(call["acted"]) for call in traced.plain()["calls"])


def test_a_strength_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=rf"^strength has shape \(2, 5\); it must fit x with \(3, {SIZE}\)\.$"):
        corrections("every call", torch.ones(2, 5))


# --- Over sampling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve, expected", [
    ("constant", [1, 1, 1, 1, 1]), ("fade in", [0, 0.25, 0.5, 0.75, 1]), ("fade out", [1, 0.75, 0.5, 0.25, 0]),
    ("middle", [0, 0.5, 1, 0.5, 0]),
])
def test_curves_run_from_the_start_to_the_end_of_guidance(curve, expected):
    found = [strength_over_sampling(curve, share, 0.2, 0.6) for share in (0.2, 0.3, 0.4, 0.5, 0.6)]
    assert found == pytest.approx(expected, abs=1e-12)
    assert strength_over_sampling(curve, 0.1, 0.2, 0.6) == pytest.approx(expected[0])
    assert strength_over_sampling(curve, 0.9, 0.2, 0.6) == pytest.approx(expected[-1])
    assert strength_over_sampling(curve, 0.3, 0.3, 0.3) == pytest.approx(expected[0])


def test_every_curve_is_tried_above():
    assert list(CURVES) == ["constant", "fade in", "fade out", "middle"]


@pytest.mark.parametrize("percent_to_sigma, sigma_max", [
    (lambda share: 1 - share, 1.0), (lambda share: 3 * (1 - share) / (1 + 2 * (1 - share)), 1.0),
    (lambda share: math.exp(math.log(80) * (1 - share) + math.log(0.002) * share), 80.0),
])
def test_the_share_of_sampling_is_where_start_percent_would_begin(percent_to_sigma, sigma_max):
    for share in (0.01, 0.25, 0.5, 0.8, 0.99):
        assert share_of_sampling(percent_to_sigma(share), percent_to_sigma) == pytest.approx(share, abs=2e-6)
    assert share_of_sampling(sigma_max, percent_to_sigma) == 0 and share_of_sampling(1e9, percent_to_sigma) == 0
    assert share_of_sampling(0.0, percent_to_sigma) == 1


# --- In the picture --------------------------------------------------------------------------------------------------


def test_a_mask_of_the_latents_size_stays_as_it_is():
    mask = torch.randint(0, 256, (3, 8, 6)) / 256
    assert torch.equal(strength_in_picture(mask, (3, 4, 8, 6)), mask[:, None])
    assert torch.equal(strength_in_picture(mask[0], (3, 4, 8, 6)), mask[:1, None])


def test_soft_edges_stay_soft_and_every_pixel_counts():
    fade = torch.linspace(0, 1, 64).expand(1, 64, 64)
    small = strength_in_picture(fade, (1, 4, 8, 8))[0, 0]
    assert small.shape == (8, 8) and torch.allclose(small, small[:1].expand(8, 8), atol=1e-6)
    assert torch.allclose(small[0, 1:-1], torch.linspace(0, 1, 64).unflatten(0, (8, 8)).mean(dim=1)[1:-1], atol=1e-3)
    line = torch.zeros(64, 64)
    line[:, 20] = 1  # thinner than a value of the latent
    assert strength_in_picture(line, (1, 4, 8, 8)).sum() > 0.5


@pytest.mark.parametrize("shape", [(1, 4, 7, 5), (1, 4, 3, 9, 30), (1, 4, 11)])
def test_white_is_1_and_black_is_0_in_any_size(shape):
    for value in (0.0, 1.0):
        found = strength_in_picture(torch.full((1, 20, 31), value), shape)
        assert torch.equal(found, torch.full((1, 1, *shape[2:]), value))


def test_values_are_taken_from_0_to_1():
    mask = torch.tensor([[-1.0, 0.0], [0.5, 300.0]])
    assert strength_in_picture(mask, (1, 4, 2, 2)).flatten().tolist() == [0, 0, 0.5, 1]


@pytest.mark.parametrize("count, batch, expected", [
    (1, 3, [0.0]), (3, 3, [0.0, 1.0, 2.0]), (2, 4, [0.0, 1.0, 0.0, 1.0]), (1, 1, [0.0]),
])
@pytest.mark.parametrize("spatial", [(4, 6), (1, 4, 6), (6,)])
def test_a_batch_has_one_mask_or_one_an_image(count, batch, expected, spatial):
    masks = torch.arange(count)[:, None, None].expand(count, 16, 16) / 10
    found = strength_in_picture(masks, (batch, 5, *spatial))
    assert found.shape == (len(expected), 1, *spatial)
    assert torch.allclose(10 * found.flatten(1).mean(dim=1), torch.tensor(expected), atol=1e-4)


@pytest.mark.parametrize("count, batch", [(2, 3), (4, 3), (3, 1)])
@pytest.mark.parametrize("spatial", [(4, 6), (1, 4, 6)])
def test_masks_that_fit_no_batch_are_counted(count, batch, spatial):
    with pytest.raises(ValueError, match=f"there are {count} masks for {batch} pictures; give one mask, or one for"):
        strength_in_picture(torch.ones(count, 8, 8), (batch, 5, *spatial))


@pytest.mark.parametrize("frames", [2, 3, 5, 9, 17])
def test_the_masks_of_a_video_are_its_frames(frames):
    """Of any number: they are as long as the video, and alike for every video of the batch."""
    masks = torch.linspace(0, 1, frames)[:, None, None].expand(frames, 16, 24).clone()
    masks[:, :8] = 1
    found = strength_in_picture(masks, (2, 16, 5, 4, 6))
    assert found.shape == (1, 1, 5, 4, 6)
    over_time = found[0, 0, :, 3, 0]
    assert (over_time.diff() > 0).all() and over_time.mean() == pytest.approx(0.5, abs=1e-5)
    assert torch.equal(found[0, 0, :, 0], torch.ones(5, 6))
    if frames == 5:
        assert torch.allclose(over_time, torch.linspace(0, 1, 5), atol=1e-5)


def test_one_mask_is_for_the_whole_video():
    mask = torch.randint(0, 256, (4, 6)) / 256
    found = strength_in_picture(mask, (2, 16, 5, 4, 6))
    assert found.shape == (1, 1, 5, 4, 6) and all(torch.equal(one, mask) for one in found[0, 0])


def test_of_packed_latents_the_first_is_masked():
    first, batch, length = (2, 3, 2, 4, 4), 2, 3 * 2 * 4 * 4 + 7
    mask = torch.randint(0, 256, (4, 4)) / 256
    found = padded(strength_in_picture(mask, first), first, length)
    assert found.shape == (1, 1, length)
    assert torch.equal(found[0, 0, :-7].unflatten(0, first[1:]), mask.expand(first[1:]))
    assert torch.equal(found[0, 0, -7:], torch.ones(7))
    each = padded(strength_in_picture(torch.rand(batch, 4, 4), (2, 3, 4, 4)), (2, 3, 4, 4), 48 + 7)
    assert each.shape == (batch, 1, 55)


def test_a_latent_without_places_is_refused():
    for shape in ((2, 5), (2, 5, 2, 2, 2, 2)):
        with pytest.raises(ValueError, match=r"a mask does not fit a latent of shape \[2, 5"):
            strength_in_picture(torch.ones(4, 4), shape)


def test_shares_fall_with_sigma():
    shares = [share_of_sampling(sigma, lambda share: 10 * (1 - share)) for sigma in (9, 5, 2, 0.1)]
    assert all(one < two for one, two in itertools.pairwise(shares))
