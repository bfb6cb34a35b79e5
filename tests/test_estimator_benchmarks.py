"""The benchmarks of noise, large latents and one scale: what they compute, without a long run."""

import argparse
import json

import large
import noise
import pytest
import scale
import torch
from densities import SHAPES


@pytest.mark.parametrize("size", large.LARGE)
def test_a_picture_inside_a_large_latent_is_there_whole_and_denoised_as_it_is_alone(size):
    spread = large.Spread(32, SHAPES[size])
    generator = torch.Generator().manual_seed(0)
    picture, x = torch.randn(1, 3, 32, 32, generator=generator), torch.randn(1, *SHAPES[size], generator=generator)
    latent = spread.up(picture)
    assert latent.shape[1:] == SHAPES[size]
    assert torch.allclose(spread.down(latent), picture, atol=1e-5)
    assert latent.norm().item() == pytest.approx(picture.norm().item(), rel=1e-4)
    whole = large.inside(lambda y, sigma: y.tanh(), spread)
    found = whole(x, 0.5)
    assert torch.allclose(spread.down(found), spread.down(x).tanh(), atol=1e-5)
    rest = large.NARROW / (large.NARROW + 0.25)
    beside = x - spread.up(spread.down(x))
    assert torch.allclose(found - spread.up(spread.down(found)), rest * beside, atol=1e-5)


def test_noise_is_measured_by_a_second_question_and_told_in_units_of_what_is_assumed():
    dtype, std, generator = torch.float16, torch.tensor([2.0]), torch.Generator().manual_seed(5)
    eps, x = torch.finfo(dtype).eps, 2 * torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))

    def exact(rows):
        return rows / 100

    def ask(rows):  # of length eps * std * sqrt(N) in a difference: twice what is assumed
        return exact(rows) + eps * 2 / 2**0.5 * torch.randn(rows.shape, generator=generator)

    length, ratios, power = noise.measured(ask, exact, x, torch.tensor([1.0]), std, dtype)
    assert ratios == pytest.approx([2, 2, 2], rel=0.1)
    assert length == pytest.approx(eps * 64, rel=0.1)
    assert power == pytest.approx([1] * noise.BANDS, abs=0.3)
    assert noise.bands(torch.ones(1, 1, 32, 32))[0] > 10 * noise.bands(torch.ones(1, 1, 32, 32))[1]


def arguments(file, **changed):
    return argparse.Namespace(**({
        "models": ["digits"], "steps": [6, 8], "samplers": ["euler"], "coordinates": ["VE", "flow"],
        "scales": [2.0, 4.0],
        "refresh_every": 0, "samples": 3, "seeds": 2, "batch": 3, "file": file,
    } | changed))


def test_what_a_file_holds_is_not_measured_again_and_shares_are_of_the_best(tmp_path):
    asked = []

    class Subject:
        def __init__(self, name):
            pass

        def measure(self, work, batch):
            asked.append(tuple(work.values()))
            gain = {0.0: 0, 2.0: 1, 4.0: 4}[work["scale"]] * (1 if work["steps"] == 6 else -1)
            return work | {"FD": 10.0 + work["seed"] - gain}

    file = tmp_path / "new" / "scale.jsonl"
    lines = scale.run(arguments(file), Subject)
    assert len(asked) == len(set(asked)) == len(lines) == 2 * 2 * 2 * 3
    kept = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(kept[:-1]) + "\n", encoding="utf-8")
    assert scale.run(arguments(file), Subject) == lines
    assert asked[-1] == asked[-2] and len(asked) == len(lines) + 1
    assert [json.loads(line) for line in kept] == lines
    found = scale.shares(lines)
    assert found[("digits", 6, "euler", "VE")] == (10.5, {2.0: 0.25, 4.0: 1.0})
    assert found[("digits", 8, "euler", "flow")] == (10.5, {2.0: 0.0, 4.0: 0.0})
    assert scale.table(found).splitlines()[-1] == "| all |  |  |  |  | 12% (least 0%) | 50% (least 0%) |  |"


def test_in_flow_coordinates_the_same_model_is_sampled(host):
    from saddle_free_guidance.nodes.host.demo_model import load_demo_model

    model = load_demo_model("model")
    asked = 6, "euler", None, 2, 0, 2
    one, other = (
        scale.pictures(each, scale.DEMOS["digits"], *asked[:2], name, *asked[3:])
        for each, name in ((model, "VE"), (scale.in_flow_coordinates(model), "flow"))
    )
    assert one.std() > 0.2
    assert (one - other).abs().max() < 0.02
