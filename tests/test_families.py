"""A part of the families: one of each kind of layout, batch and parametrisation. `tests/families.py` runs all."""

import logging
import math

import families
import pytest
import torch
from cases import long_but

# Of a kind that another one of the part, or of other files, has, too.
ELSEWHERE = (
    "SVD_img2vid", "Flux Kontext (ref latents)", "ZImage", "HiDream", "PiD", "SD15_instructpix2pix", "HunyuanDiT",
    "SeedVR2", "HunyuanVideo15 (i2v)", "WAN22_S2V", "TripoSplat",
)


@pytest.mark.parametrize("name", long_but(families.PART, [name for name in families.PART if name not in ELSEWHERE]))
def test_a_family_of_the_host(host, name):
    cells = families.row(name)
    host.unload()
    assert not families.failed(cells), cells


def test_the_part_is_of_families_that_are_there_and_the_list_covers_the_hosts(host):
    import comfy.supported_models
    from family_list import FAMILIES

    assert set(families.PART) <= set(FAMILIES)
    built = {family.cls for family in FAMILIES.values()}
    assert len(built & {model.__name__ for model in comfy.supported_models.models}) >= 70


@pytest.mark.parametrize("refresh_every", [0, 1])
def test_a_part_on_a_sigma_of_its_own_is_left_out(host, refresh_every):
    """Of MiniMax H3's video and audio, both undecided everywhere, the video alone is probed and pushed."""
    from family_builds import build, counted, guided, pushes, sample, watched
    from family_list import FAMILIES

    model = watched(build("MiniMaxH3"), 10.0)
    with counted() as evaluated, pushes() as added:
        sample("MiniMaxH3", guided(model, refresh_every=refresh_every), 1, 1.0, steps=6)
    video = math.prod(FAMILIES["MiniMaxH3"].shape[0])
    added, asked = torch.cat(added).flatten(1), torch.cat(evaluated.points).flatten(1)
    assert len(added) == 6 and (added[:, video:] == 0).all()
    assert added[-1].any()  # where sigma is small enough for a saddle
    assert len(asked[:, video:].unique(dim=0)) == 6 < len(asked[:, :video].unique(dim=0))


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("name, done", [
    ("LotusD", "predicts from"), ("WAN21_FlowRVS", "predicts from"), ("PiD", "decodes or restores"),
    ("SeedVR2", "decodes or restores"),
])
def test_a_model_to_which_the_picture_is_given_is_not_guided_and_the_log_says_so(host, caplog, name, done, cfg):
    """In several steps, too, and where there would be saddles: not one evaluation more, and the same bits."""
    from family_builds import build, counted, guided, sample, watched

    model = watched(build(name), families.SADDLES)
    with counted() as without:
        plain = sample(name, model, 1, cfg)
    with counted() as evaluated, caplog.at_level(logging.WARNING):
        found = sample(name, guided(model), 1, cfg)
    assert torch.equal(found, plain)
    assert (evaluated.rows, evaluated.checks) == (without.rows, 0)
    said = [record.getMessage() for record in caplog.records if record.name.endswith("host.run")]
    assert len(said) == 1 and done in said[0]
