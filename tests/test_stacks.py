"""Saddle-Free Guidance, Auto-Guidance and the host's own guidance on one model."""

import pytest
import torch
from cases import in_turn
from graphs import guided, steered
from runs import close, counts, run, two_models


def saddle_free_first(graph, model, weak, **knobs):
    return steered(graph, guided(graph, model, **knobs.get("saddle", {})), weak, **knobs.get("auto", {}))


def auto_first(graph, model, weak, **knobs):
    return guided(graph, steered(graph, model, weak, **knobs.get("auto", {})), **knobs.get("saddle", {}))


def pag(graph, model):
    return graph.add("PerturbedAttentionGuidance", model=model, scale=2.0)


def slg(graph, model):
    return graph.add(
        "SkipLayerGuidanceDiT", model=model, double_layers="0", single_layers="", scale=2.0, start_percent=0.0,
        end_percent=1.0, rescaling_scale=0.0,
    )


def apg(graph, model):
    return graph.add("APG", model=model, eta=0.5, norm_threshold=5.0, momentum=0.0)


NEIGHBOURS = {
    "APG": ("sd3", apg),
    "TCFG": ("sd3", lambda graph, model: graph.add("TCFG", model=model)),
    "CFGZeroStar": ("sd3", lambda graph, model: graph.add("CFGZeroStar", model=model)),
    "RescaleCFG": ("sd3", lambda graph, model: graph.add("RescaleCFG", model=model, multiplier=0.7)),
    "PAG": ("sd15_middle", pag),
    "SLG": ("sd35", slg),
}


@pytest.mark.parametrize("family, batch, cfg", list(in_turn(["demo", "sd3", "flux", "wan"], [1, 3], [1.0, 4.0])))
def test_the_order_of_the_two_does_not_matter(host, family, batch, cfg):
    source = two_models(family, host)
    common = {"batch": batch, "cfg": cfg, "steps": 4}
    run(host, source, "plain", **common)
    calls, evaluations, _ = counts(host)
    one = run(host, source, "one", saddle_free_first, **common)
    assert counts(host) == (calls, evaluations + calls, calls)
    other = run(host, source, "other", auto_first, **common)
    assert counts(host) == (calls, evaluations + calls, calls)
    assert one.isfinite().all() and torch.equal(one, other)


def test_the_two_together_cost_three_evaluations_a_call(host):
    run(host, two_models("demo", host), "both", saddle_free_first, steps=8, cfg=1.0)
    calls, main, weak = counts(host)
    assert (calls, main + weak) == (8, 24)


@pytest.mark.parametrize("family", ["demo", "sd3"])
def test_both_corrections_are_added(host, family):
    """The two corrections of a first step add up: their sum is the correction of the two together."""
    source = two_models(family, host)
    common = {"batch": 3, "steps": 1, "scheduler": "simple"}
    plain = run(host, source, "plain", **common)
    saddle = run(host, source, "saddle", lambda g, m, w: guided(g, m, scale=2.0), **common)
    auto = run(host, source, "auto", steered, **common)
    both = run(host, source, "both", lambda g, m, w: auto_first(g, m, w, saddle={"scale": 2.0}), **common)
    assert close(both - plain, (saddle - plain) + (auto - plain), 1e-3)
    assert (auto - plain).abs().max() > 0.01


@pytest.mark.parametrize("name, cfg", list(in_turn(NEIGHBOURS, [1.0, 4.0])))
def test_beside_the_guidance_of_the_host(host, name, cfg):
    family, neighbour = NEIGHBOURS[name]
    source = two_models(family, host)
    common = {"cfg": cfg, "batch": 3 if family == "sd3" else 1, "steps": 3}

    def alone(graph, model, weak):
        return neighbour(graph, model)

    def tiny(first):
        knobs = {"saddle": {"scale": 0.001}, "auto": {"scale": 1.001}}
        return lambda graph, model, weak: first(graph, neighbour(graph, model), weak, **knobs)

    bare = run(host, source, "bare", **common)
    lone = run(host, source, "alone", alone, **common)
    calls, evaluations, _ = counts(host)
    gentle = run(host, source, "tiny", tiny(auto_first), **common)
    assert counts(host) == (calls, evaluations + calls, calls)
    assert close(gentle, lone, 0.05)  # the neighbour's effect is all there
    needs_cfg = name in ("TCFG", "CFGZeroStar", "RescaleCFG")
    assert close(bare, lone, 0.05) == (needs_cfg and cfg == 1)

    both = run(host, source, "both", lambda g, m, w: auto_first(g, neighbour(g, m), w), **common)
    swapped = run(host, source, "swapped", lambda g, m, w: neighbour(g, saddle_free_first(g, m, w)), **common)
    assert torch.equal(both, swapped)
    assert not close(both, lone, 0.01)


@pytest.mark.parametrize(
    "sampler, model", list(in_turn(["euler", "heun", "dpmpp_2m"], [("demo", 1.0), ("demo", 4.0), ("sd3", 4.0)]))
)
def test_no_model_is_evaluated_twice_at_one_point(host, model, sampler):
    family, cfg = model
    run(host, two_models(family, host), "both", saddle_free_first, cfg=cfg, batch=3, steps=5, sampler=sampler)
    calls, main, weak = counts(host)
    points = host.record.points
    assert len(set(points["main"])) == len(points["main"]) == main == 2 * calls
    assert len(set(points["weak"])) == len(points["weak"]) == weak == calls
