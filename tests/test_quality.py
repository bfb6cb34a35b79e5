"""The command of the evidence: its rows, its file of results, its tables, and the spread of pictures."""

import json
from types import SimpleNamespace

import measuring
import metrics
import pytest
import quality
import results
import torch


def arguments(tmp_path, *more):
    file = str(tmp_path / "r.jsonl")
    given = quality.parsed(["--model", "emoji", "--samples", "16", "--seeds", "2", "--results", file, *more])
    return SimpleNamespace(**{**vars(given), "steps": 8, "task": given.task or "unconditional"})


# --- The spread ------------------------------------------------------------------------------------------------------


def test_the_spread_is_the_mean_distance_of_pairs_and_then_of_groups():
    groups = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0], [1.0, 3.0]]])
    assert metrics.spread(groups[:1]) == pytest.approx(10 / 3)
    assert metrics.spread(groups[1:]) == pytest.approx(4 / 3)
    assert metrics.spread(groups) == pytest.approx(7 / 3)
    assert metrics.spread(torch.full((4, 30, 96), 7.3)) == 0


def draws_numbers(row, models, count, asked, *, classes=None, seed=0, guidance_seed=None):
    """Pictures of one value: the label, ten times the guidance seed, and a tenth of the squared place in a batch."""
    guidance_seed = seed if guidance_seed is None else guidance_seed
    places = torch.arange(count) % asked.batch
    return (classes + 10 * guidance_seed * row.seeded + 0.1 * places**2)[:, None].double(), 8 + row.seeded


@pytest.mark.parametrize(("seeded", "over_seeds"), [(True, 50 / 3), (False, 0.0)])
def test_variety_compares_pictures_of_one_label_and_noise_and_of_one_label_and_seed(monkeypatch, seeded, over_seeds):
    told = []
    demo = SimpleNamespace(
        classes=lambda count: torch.arange(count) * 100,
        accuracy=lambda classifier, images, classes: told.append((images, classes)) or {"accuracy": 0.25 * len(told)},
    )
    monkeypatch.setattr(measuring, "drawn", draws_numbers)
    monkeypatch.setitem(measuring.DEMOS, "numbers", demo)
    classifier = SimpleNamespace(features=lambda images: images)
    asked = SimpleNamespace(model="numbers", alike=4, samples=12, batch=64)
    found = measuring.measure_variety(measuring.Method("row", seeded=seeded), None, classifier, 5, asked)
    assert list(found) == [
        "spread over seeds", "accuracy over seeds", "spread over noise", "accuracy over noise", "evaluations per image",
    ]
    assert found["spread over seeds"] == pytest.approx(over_seeds)  # of 0, 10, 20, 30
    assert found["spread over noise"] == pytest.approx(0.5, abs=1e-4)  # of 0, 0.1, 0.4, 0.9: a batch is of one label
    assert (found["accuracy over seeds"], found["accuracy over noise"]) == (0.25, 0.5)
    assert found["evaluations per image"] == 8 + seeded
    for images, classes in told:
        assert classes.tolist() == [0] * 4 + [100] * 4 + [200] * 4
        assert ((images[:, 0] - classes) < 60).all() and ((images[:, 0] - classes) >= 0).all()


# --- The rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", quality.TASKS)
def test_rows_have_names_of_their_own_and_are_chosen_by_them(task):
    every = [*quality.methods(task), *quality.more_methods(task)]
    names = [row.name for row in every]
    assert len(set(names)) == len(names)
    for name in names:
        assert [row.name for row in quality.rows_of(task, [name])] == [name]
    assert [row.name for row in quality.rows_of(task)] == names[: len(quality.methods(task))]
    assert {row.name for row in every if row.cfg != 1} == {name for name in names if "CFG" in name}


def test_noise_is_mixed_into_the_label_and_taken_away_in_the_middle(host):
    weights = torch.eye(39)[:3, None]
    noisy, clean = measuring.noisy_label(0.25, until=0.4)(weights, 7)
    noise = torch.randn(weights.shape, generator=torch.Generator().manual_seed(7))
    assert torch.allclose(noisy[0], 0.75 * weights + 0.25 * noise) and torch.equal(clean[0], weights)
    assert [(part[1]["start_percent"], part[1]["end_percent"]) for part in (noisy, clean)] == [(0.0, 0.4), (0.4, 1.0)]


def test_nodes_of_the_host_change_what_a_demo_model_draws_for_so_many_evaluations(host, tmp_path):
    asked = arguments(tmp_path, "--batch", "2", "--task", "conditional")
    asked.steps = 3
    models, _, _ = prepared("emoji")
    classes = measuring.DEMOS["emoji"].classes(2)
    rows = {row.name: row for row in quality.methods("conditional")}
    drawn = {
        name: measuring.drawn(rows[name], models, 2, asked, classes=classes)
        for name in ("no guidance", "CFG 2", "PAG 1", "TCFG, CFG 2", "APG, CFG 2", "noise in the label 0.1")
    }
    assert {name: evaluations for name, (_, evaluations) in drawn.items()} == {
        "no guidance": 3, "CFG 2": 6, "PAG 1": 6, "TCFG, CFG 2": 6, "APG, CFG 2": 6, "noise in the label 0.1": 3,
    }
    pictures = [images for images, _ in drawn.values()]
    for place, one in enumerate(pictures):
        assert all((one - other).abs().max() > 0.01 for other in pictures[:place])


def prepared(model):
    from saddle_free_guidance.nodes.demo_model import load_demo_model

    return [load_demo_model(name) for name in measuring.DEMOS[model].models], None, None


# --- The file and the tables -----------------------------------------------------------------------------------------


def test_a_run_goes_on_where_it_was_broken_off_and_measures_again_what_is_asked_for(tmp_path, monkeypatch, capsys):
    measured = []

    def numbers(row, seed, asked):
        measured.append((row.name, seed))
        if len(measured) == 3:
            raise KeyboardInterrupt
        return {"FD": 10.0 * seed + asked.steps, "evaluations per image": 8.0}

    monkeypatch.setattr(quality, "measured", numbers)
    asked = arguments(tmp_path, "--rows", "PAG 1", "no guidance")
    with pytest.raises(KeyboardInterrupt):
        quality.report(asked)
    assert measured == [("no guidance", 0), ("PAG 1", 0), ("no guidance", 1)]
    asked.print = True
    quality.report(asked)
    assert "| no guidance (1 of 2 seeds) | 8.00 | 8 |" in capsys.readouterr().out and len(measured) == 3
    asked.print = False
    quality.report(asked)
    assert measured[3:] == [("no guidance", 1), ("PAG 1", 1)]
    assert "| PAG 1 | 13.00 ± 7.07 | 8 |" in capsys.readouterr().out
    asked.steps = 24
    quality.report(asked)
    assert len(measured) == 9  # other settings are other lines
    asked.rows, asked.again = ["PAG 1"], True
    quality.report(asked)
    assert measured[9:] == [("PAG 1", 0), ("PAG 1", 1)]
    lines = results.read(asked.results)
    assert len(lines) == 8 and {line["task"] for line in lines} == {"unconditional"}


def test_the_table_is_written_between_its_marks_and_nothing_else_is_changed(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "above\n<!-- emoji, unconditional, 8 steps -->\nold\n<!-- end of emoji, unconditional, 8 steps -->\nbelow\n"
    )
    monkeypatch.setattr(quality, "measured", lambda row, seed, asked: {"FD": 2.0, "recall": 0.5})
    asked = arguments(tmp_path, "--rows", "no guidance", "--write", str(page))
    asked.print = True
    quality.report(asked)
    written = page.read_text().splitlines()[2:5]
    assert written == ["16 pictures a seed, 2 seeds, `euler`, float32:", "", "Not measured yet."]
    asked.print = False
    for _ in range(2):
        quality.report(asked)
        assert page.read_text().splitlines() == [
            "above", "<!-- emoji, unconditional, 8 steps -->", "16 pictures a seed, 2 seeds, `euler`, float32:", "",
            "| | FD | recall |", "|---|---|---|", "| no guidance | 2.00 | 0.500 |",
            "<!-- end of emoji, unconditional, 8 steps -->", "below",
        ]
    asked.steps = 12
    with pytest.raises(ValueError, match=r"page\.md has no lines <!-- emoji, unconditional, 12 steps -->"):
        quality.report(asked)


def test_every_mark_of_the_pages_is_one_that_the_commands_write():
    import which_guidance

    page = (quality.RESULTS.parent / "README.md").read_text(encoding="utf-8")
    for task in quality.TASKS:
        for steps in (8, 24):
            mark = f"emoji, {task}, {steps} steps -->\n"
            assert page.count(f"<!-- {mark}") == page.count(f"<!-- end of {mark}") == 1
    names = [row.name for row in quality.methods("conditional")]
    assert set(which_guidance.ROWS.values()) <= set(names)
    text = which_guidance.PAGE.read_text(encoding="utf-8")
    assert text.count("<!-- figures -->") == 1
    for name in which_guidance.ROWS:
        assert f"(guidance/{name}.jpg)" in text
        assert (which_guidance.SHEETS / f"{name}.jpg").stat().st_size < 60_000


def test_what_has_been_measured_is_json_with_every_setting():
    rows = {task: [*quality.methods(task), *quality.more_methods(task)] for task in quality.TASKS}
    for line in results.read(quality.RESULTS):
        assert json.loads(json.dumps(line)) == line
        assert line["row"] in {row.name for row in rows[line["task"]]}
        assert {"model", "steps", "samples", "batch", "seed", "sampler"} <= set(line)
