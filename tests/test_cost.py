"""The benchmark of cost: its ratios, its count of live tensors, and the models it makes at their real sizes."""

import dataclasses

import cost
import pytest
import subjects
import torch
from cases import long_but

PARAMETERS = {"SDXL": 2_567_463_684, "SD3.5-medium": 2_243_171_520, "FLUX.1-dev": 11_901_408_320}
NAMES = [method.name for method in cost.METHODS]


def costs(**seconds):
    """Costs by method; CFG takes 2, 4 and 6 seconds a step."""
    base = cost.Cost([2.0, 4.0, 6.0], 2.0, weights=1000, working=200)
    return {"CFG": base} | {name: cost.Cost(values, 1.0, 1000, 100) for name, values in seconds.items()}


def test_a_ratio_is_the_median_over_turns_of_ratios_within_a_turn():
    measured = costs(other=[1.0, 8.0, 6.0])  # 0.5, 2 and 1 of CFG; the medians of the seconds would give 1.5
    assert cost.time_ratio(measured["other"], measured["CFG"]) == 1.0


def test_the_cells_hold_a_ratio_and_a_dash_where_a_method_was_not_run():
    measured = costs(PAG=[3.0, 6.0, 9.0])
    measured["auto-guidance"] = cost.Cost([1.0] * 3, 2.0, weights=2000, working=100)
    times, memory = (dict(zip(NAMES, cells(measured))) for cells in (cost.time_cells, cost.memory_cells))
    assert (times["CFG"], times["PAG"], times["no guidance"]) == ("1.00 (2.00)", "1.50 (1.00)", "-")
    assert (memory["CFG"], memory["PAG"], memory["no guidance"]) == ("1.00 (1.00)", "0.92 (0.50)", "-")
    assert memory["auto-guidance"] == "1.75 (0.50)"


def test_live_tensors_are_counted_once_and_until_they_are_freed():
    weights = torch.ones(10, 10)
    with cost.LiveTensors() as tensors:
        first = torch.zeros(1000)  # 4,000 bytes
        second = first + 1
        views = first[:10], second.reshape(10, 100), weights.t()
        assert (tensors.live, tensors.peak) == (8000, 8000)
        del first, second, views
        assert (tensors.live, tensors.peak) == (0, 8000)
        weights.mul_(2)
        third = weights @ torch.ones(10, 10)
        assert (tensors.live, tensors.peak) == (400, 8000)
        fourth = torch.zeros(3000, dtype=torch.float16).split(1000)
        assert (tensors.live, tensors.peak) == (6400, 8000)
        del third, fourth
    assert (tensors.live, tensors.peak) == (0, 8000)


def test_the_peak_of_a_run_is_that_of_its_tensors():
    def run():
        for size in (100, 1000, 10):
            torch.zeros(size).add(torch.ones(size))  # three of them at once

    assert cost.peak_bytes(run, torch.device("cpu")) == 12000


@pytest.mark.parametrize("name", subjects.REAL_SIZES)
def test_a_model_of_real_size_is_the_published_one(host, monkeypatch, name):
    """Without memory: as large as published, known by the host's detection, and it takes its latent and its text."""
    from comfy import model_detection, model_management

    monkeypatch.setattr(model_management, "get_free_memory", lambda *args: (1e12, 1e12))  # attention asks for it
    size = subjects.REAL_SIZES[name]
    model = subjects.build(size.network, torch.device("meta"), torch.bfloat16)
    network = model.diffusion_model
    assert sum(value.numel() for value in network.parameters()) == PARAMETERS[name]
    assert {(value.device.type, value.dtype) for value in network.parameters()} == {("meta", torch.bfloat16)}
    detected = model_detection.detect_unet_config(network.state_dict(), "")
    known = {key: value for key, value in detected.items() if value not in (None, False)}
    assert {key: size.network.get(key) for key in known} == known
    x = torch.empty(2, *size.latent, device="meta", dtype=torch.bfloat16)
    y = model.encode_adm(pooled_output=torch.zeros(2, size.pooled)).to("meta", torch.bfloat16)
    context = torch.empty(2, *size.context, device="meta", dtype=torch.bfloat16)
    more = {"guidance": torch.empty(2, device="meta")} if name == "FLUX.1-dev" else {}
    assert network(x, torch.empty(2, device="meta"), context=context, y=y, **more).shape == x.shape


def small(name):
    """The real size with as few layers, and as little of a latent, as its kind allows; SDXL is known by its depth."""
    size = subjects.REAL_SIZES[name]
    if name == "FLUX.1-dev":
        network = size.network | {"hidden_size": 128, "num_heads": 1, "depth": 1, "depth_single_blocks": 1}
    else:
        embedder = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}}
        network = size.network | {"depth": 2, "context_embedder_config": embedder, "x_block_self_attn_layers": [0]}
    return dataclasses.replace(size, network=network, latent=(16, 8, 8))


@pytest.mark.parametrize("name", long_but(["SD3.5-medium", "FLUX.1-dev"], ["SD3.5-medium"]))
def test_a_model_of_random_weights_is_measured(host, monkeypatch, name):
    monkeypatch.setitem(subjects.REAL_SIZES, name, small(name))
    subject = subjects.real_size(name)
    assert cost.sample(subject, subject.model, 1.0, 2).isfinite().all()
    first, second = (patcher.model.diffusion_model.state_dict() for patcher in (subject.model, subject.weak))
    assert not any(torch.equal(first[key], second[key]) for key in first)
    measured = cost.measure(subject, 3, 2)
    expected = {"no guidance": 1, "CFG": 2, "auto-guidance": 2}
    assert {key: measured[key].evaluations for key in expected} == expected
    assert 2 <= measured["saddle-free, every call"].evaluations <= 2 + 1 / 3  # one may measure the noise
    assert 1 <= measured["saddle-free, default"].evaluations <= 2
    assert "PAG" not in measured
    assert {len(value.seconds) for value in measured.values()} == {2}
    assert measured["auto-guidance"].weights == 2 * measured["CFG"].weights > 0
    latent = subject.latent.numel() * 4
    assert all(value.working > latent for value in measured.values())
    assert measured["no guidance"].working < min(measured[key].working for key in measured if key != "no guidance")


def test_pag_is_measured_where_a_unet_has_a_middle(host):
    for family, takes in (("sd15_middle", True), ("sd15", False)):
        subject = subjects.stand_in("SD1.5", family, host.models)
        assert (cost.methods_of(subject)[-1].name == "PAG") is takes
    assert [method.name for method in cost.methods_of(subjects.demo(1))] == NAMES[:-1]


def test_pag_changes_the_picture_of_the_stand_in_it_is_measured_on(host):
    subject = subjects.stand_in("SD1.5", subjects.STAND_INS["SD1.5"], host.models)
    pag = cost.METHODS[-1].guide(subject.model, None, 0)
    plain, guided = (cost.sample(subject, model, 1.0, 2) for model in (subject.model, pag))
    assert not torch.allclose(plain, guided)


@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (2, 16, 3, 4, 4), (1, 1, 50)])
def test_the_own_work_of_a_call_is_timed_for_latents_of_any_rank(shape):
    assert 0 < cost.own_work(torch.zeros(shape), torch.bfloat16, torch.device("cpu"), repeats=3) < 10


def test_a_model_makes_a_row_of_each_table(host):
    times, memory = cost.report(subjects.demo(2), 2, 1)
    assert times.startswith("| demo, batch 2, 3x32x32, float32 | ")
    assert times.count("|") == cost.heading(("", ""), *NAMES, "").partition("\n")[0].count("|")
    assert memory.count("|") == cost.heading(("", ""), *NAMES).partition("\n")[0].count("|")
    assert "1.00 (2.00)" in times and "1.00 (1.00)" in memory and times.endswith("% |")


def test_the_models_are_chosen_by_parts_of_their_names(tmp_path):
    assert list(subjects.named(["demo", "Wan"], tmp_path)) == ["Wan 2.1, stand-in", "demo, batch 1", "demo, batch 8"]
    assert len(subjects.named([], tmp_path)) >= len(subjects.STAND_INS) + 2
