"""The map of distance against evaluations: which points it has, how it goes on, and directions that take turns."""

import json
from types import SimpleNamespace

import front
import measuring
import pytest
import quality
import torch
from graphs import KNOBS
from mixtures import random_mixture


def line(steps, method, scale, seed, distance, evaluations=2.0):
    values = dict.fromkeys(front.QUALITY_DIGITS, 0.5)
    return {
        "steps": steps, "method": method, "scale": scale, "seed": seed, "FD": distance,
        "evaluations per step": evaluations,
    } | values


def test_points_have_names_of_their_own_and_the_budget_of_two_is_covered():
    for steps in front.ALL_STEPS:
        names = [(setting.name, setting.scale) for setting in front.settings(steps)]
        assert len(set(names)) == len(names)
    for setting in front.settings(front.STEPS):
        if setting.refresh and setting.kind == "at once":
            assert 1 + setting.directions / setting.refresh <= 2


def test_the_table_gives_means_and_spreads_in_the_order_of_the_settings():
    lines = [
        line(64, "no guidance", 0.0, 0, 8.0, 1.0), line(32, "1 direction, every call", 4.0, 0, 5.0),
        line(32, "1 direction, every call", 4.0, 1, 7.0),
    ]
    rows = front.table(front.points(lines)).splitlines()[2:]
    assert rows[0].startswith("| 32 | 1 direction, every call | 4 | 6.00 ± 1.41 | 0.500 |")
    assert rows[1].startswith("| 64 | no guidance | - | 8.00 | 0.500 |") and rows[1].endswith("| 1.00 |")


def test_what_a_file_holds_is_not_measured_again(tmp_path, monkeypatch):
    file, asked = tmp_path / "new" / "front.jsonl", []

    def measured(setting, steps, seed, context):
        asked.append((setting.name, setting.scale, seed))
        return line(steps, setting.name, setting.scale, seed, 1.0)

    monkeypatch.setattr(front, "measured", measured)
    context = None, None, None, SimpleNamespace(seeds=2)
    front.run(context, [16], file)
    assert len(asked) == len(set(asked)) == 2 * len(front.settings(16))
    kept = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(kept[:-1]) + "\n", encoding="utf-8")
    front.run(context, [16], file)
    assert asked[-1] == asked[-2] and len(asked) == len(kept) + 1
    assert [json.loads(each) for each in kept] == front.read(file)


def test_the_plot_is_a_picture(tmp_path):
    found = front.points([line(steps, "no guidance", 0.0, 0, 8.0, 1.0) for steps in front.ALL_STEPS])
    front.plot(found, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_a_whole_name_chooses_its_row_alone_and_a_part_all_that_have_it():
    rows = quality.methods("unconditional")
    assert [row.name for row in quality.chosen(rows, ["no guidance"])] == ["no guidance"]
    parts = quality.chosen(rows, ["saddle-free 4"])
    assert len(parts) == 4 and all("saddle-free 4" in row.name for row in parts)
    assert quality.chosen(rows, [""]) == rows


def test_directions_take_turns_and_find_what_all_at_once_find(host):
    """At a fixed point, several rounds of turns converge to the same block of eigenvectors."""
    mixture, sigma, directions = random_mixture(12, 4, seed=1), 0.6, 2
    y = torch.randn(3, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoised = mixture.denoise(y, sigma)
    turns = front.taking_turns()(directions=directions, probe_radius=1e-4)
    before = None
    for call in range(400):
        probes = turns.probe(y, std=sigma)
        assert probes.shape == y.shape
        estimate = turns.update(denoised, mixture.denoise(probes, sigma), alpha=1.0, std=sigma)
        other = 1 - call % directions
        if before is not None:
            assert torch.equal(estimate.response[other], before.response[other])
        before = estimate
    for image in range(3):
        jacobian = mixture.jacobian(y[image], sigma)
        exact = torch.linalg.eigvalsh(jacobian)[-directions:].flip(0)
        assert estimate.rayleigh[:, image].tolist() == pytest.approx(exact.tolist(), rel=1e-2)


def test_turns_cost_one_evaluation_a_call_in_the_host(host):
    from saddle_free_guidance.nodes.demo_model import load_demo_model

    counter = measuring.Counter()
    knobs = {name: value for name, value in KNOBS.items() if name != "probe_radius"}
    guided = front.in_turn(counter.attach(load_demo_model("model")), **(knobs | {"directions": 2, "scale": 8.0}))
    plain = measuring.sample(load_demo_model("model"), 2, steps=24)
    assert (measuring.sample(guided, 2, steps=24) - plain).abs().max() > 0.01
    assert counter.images == 2 * 2 * 24
