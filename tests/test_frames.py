"""Videos whose frames are the images of a batch, as SVD and SV3D have: one direction each, and as if sampled alone."""

import pytest
import torch

UNDECIDED = 2.0  # of x in a prediction: a saddle in every direction
CALL = 2  # at which all are pushed
SCALE = 4.0


def videos_of(model, count):
    """A clone whose conditions say that `count` images of the batch are a video; the host says all of them."""
    from comfy.conds import CONDConstant

    changed, extra_conds = model.clone(), model.model.extra_conds
    frames = {"num_video_frames": CONDConstant(count)}
    changed.add_object_patch("extra_conds", lambda **kwargs: extra_conds(**kwargs) | frames)
    return changed


def run(name, model, batch, **knobs):
    """The latent without and with guidance, and what was added at each call."""
    from family_builds import guided, pushes, sample, watched

    model = watched(model, UNDECIDED)
    plain = sample(name, model, batch, 1.0, steps=4)
    with pushes() as added:
        found = sample(name, guided(model, scale=SCALE, **knobs), batch, 1.0, steps=4)
    return plain, found, added


def sigma_hats(model, steps=4):
    """std / alpha at each call."""
    import comfy.samplers
    from saddle_free_guidance.nodes.host.coordinates import coordinates

    sampling = model.get_model_object("model_sampling")
    alpha, std = coordinates(sampling, comfy.samplers.calculate_sigmas(sampling, "simple", steps)[:-1])
    return std / alpha


@pytest.mark.parametrize("refresh_every", [0, 1])
@pytest.mark.parametrize("name, batch, frames, videos", [
    ("SVD_img2vid", 4, 4, 1), ("SV3D_u", 4, 4, 1), ("SVD_img2vid", 4, 2, 2), ("SD21UnclipL", 4, 1, 4),
])
def test_the_frames_of_a_video_share_one_direction(host, name, batch, frames, videos, refresh_every):
    """A push of the asked length a video, not an image."""
    from family_builds import build

    model = build(name)
    if 1 < frames < batch:
        model = videos_of(model, frames)
    plain, found, added = run(name, model, batch, refresh_every=refresh_every)
    lengths = torch.linalg.vector_norm(added[CALL].reshape(videos, -1), dim=1)
    before, now = sigma_hats(model)[CALL - 1 : CALL + 1]
    expected = SCALE * now * (before / now).clamp(max=4) / 2
    assert torch.allclose(lengths, expected.expand(videos), rtol=1e-3)
    shares = torch.linalg.vector_norm(added[CALL].flatten(1), dim=1).reshape(videos, -1) / lengths[:, None]
    assert ((shares > 0.1) & (shares <= 1.001)).all() and not torch.equal(found, plain)


@pytest.mark.parametrize("refresh_every", [0, 1])
def test_each_of_two_videos_is_as_alone(host, refresh_every):
    from family_builds import build, random

    assert torch.equal(random(4, 4, 8, 8, seed=7)[:2], random(2, 4, 8, 8, seed=7))
    model = videos_of(build("SVD_img2vid"), 2)
    plain, both, added = run("SVD_img2vid", model, 4, refresh_every=refresh_every)
    _, alone, _ = run("SVD_img2vid", model, 2, refresh_every=refresh_every)
    effect = (both - plain).norm()
    assert (both[:2] - alone).norm() < 1e-3 * effect
    one, other = torch.nn.functional.normalize(added[CALL].reshape(2, -1))
    assert (one @ other).abs() < 0.5
