"""The map of distance against evaluations: which points it has, and how it goes on."""

import json
from types import SimpleNamespace

import front
import pytest
import quality
import results
import torch


def line(steps, method, scale, seed, distance, evaluations=2.0, task="unconditional"):
    values = dict.fromkeys(front.COLUMNS[task], 0.5)
    return values | {
        "task": task, "steps": steps, "method": method, "scale": scale, "seed": seed, "FD": distance,
        "evaluations per step": evaluations,
    }


@pytest.mark.parametrize("task", front.TASKS)
def test_points_have_names_of_their_own_and_the_budget_of_two_is_covered(task):
    for steps in front.ALL_STEPS:
        settings = front.settings(task, steps)
        names = [(setting.name, setting.scale) for setting in settings]
        assert len(set(names)) == len(names)
        for setting in settings:
            if setting.refresh and setting.kind == "at once":
                assert 1 + setting.directions / setting.refresh <= 2
    assert set(front.settings(task, front.LONG)) < set(front.settings(task, 32)) == set(front.settings(task, 16))


def test_the_table_gives_means_and_spreads_in_the_order_of_the_settings():
    lines = [
        line(64, "no guidance", 0.0, 0, 8.0, 1.0), line(32, "1 direction, every call", 4.0, 0, 5.0),
        line(32, "1 direction, every call", 4.0, 1, 7.0),
    ]
    lines.append(line(16, "CFG", 1.5, 0, 3.0, task="conditional") | {"accuracy": 0.75})
    found = front.points(lines)
    rows = front.table("unconditional", found["unconditional"]).splitlines()[2:]
    assert len(rows) == 2
    assert rows[0].startswith("| 32 | 1 direction, every call | 4 | 6.00 ± 1.41 | 0.500 |")
    assert rows[1].startswith("| 64 | no guidance | - | 8.00 | 0.500 |") and rows[1].endswith("| 1.00 |")
    assert "accuracy" not in front.table("unconditional", found["unconditional"])
    heading, _, row = front.table("conditional", found["conditional"]).splitlines()
    assert heading.endswith("| accuracy | evaluations per step |")
    assert row.startswith("| 16 | CFG | 1.5 | 3.00 |") and row.endswith("| 0.750 | 2.00 |")


def test_what_a_file_holds_is_not_measured_again(tmp_path, monkeypatch):
    file, asked = tmp_path / "new" / "front.jsonl", []

    def measured(setting, task, steps, seed, context):
        asked.append((task, setting.name, setting.scale, seed))
        return line(steps, setting.name, setting.scale, seed, 1.0, task=task)

    monkeypatch.setattr(front, "measured", measured)
    context = None, None, None, SimpleNamespace(seeds=2)
    front.run(context, front.TASKS, [16], file)
    assert len(asked) == len(set(asked)) == 2 * sum(len(front.settings(task, 16)) for task in front.TASKS)
    kept = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(kept[:-1]) + "\n", encoding="utf-8")
    front.run(context, front.TASKS, [16], file)
    assert asked[-1] == asked[-2] and len(asked) == len(kept) + 1
    assert [json.loads(each) for each in kept] == results.read(file)


@pytest.mark.long
def test_the_plot_is_a_picture(tmp_path):
    lines = [line(steps, "no guidance", 0.0, 0, 8.0, 1.0) for steps in front.ALL_STEPS]
    found = front.points([*lines, line(32, "CFG", 1.5, 0, 8.0, task="conditional")])
    front.plot(found, 2.0, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_real_digits_have_a_distance_of_their_own_that_falls_with_their_number():
    real = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    few, many = front.distance_of_real(real, 50), front.distance_of_real(real, 400)
    assert 0 < many < few / 4  # the bias falls as one over the number
    assert front.distance_of_real(real, 2000) == pytest.approx(0, abs=1e-4)


def test_a_whole_name_chooses_its_row_alone_and_a_part_all_that_have_it():
    rows = [*quality.methods("unconditional"), *quality.more_methods("unconditional")]
    assert [row.name for row in quality.chosen(rows, ["no guidance"])] == ["no guidance"]
    parts = quality.chosen(rows, ["saddle-free 4"])
    assert len(parts) == 3 and all("saddle-free 4" in row.name for row in parts)
    assert quality.chosen(rows, [""]) == rows
