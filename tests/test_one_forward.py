"""Base and probes in one forward where that is exact and fits into memory, in two calls elsewhere."""

import conditions as edits
import pytest
import torch
from cases import in_turn
from graphs import guided
from runs import close, counts, run, two_models
from variants import unchanged

FAMILIES = ["demo", "sd15", "sdxl", "sd3", "sd35", "flux", "wan", "ltxav"]


def undecided(graph, model):
    """The model with a saddle everywhere."""
    return graph.add("TestUndecided", model=model, amount=3.0)


def change(kind=None, **knobs):
    """Saddle-free guidance of an undecided model; kind: what keeps the probes apart, or None."""

    def changed(graph, model, weak):
        model = undecided(graph, model)
        if kind == "wrapper":
            model = graph.add("TestFault", model=model, label="apart", kind="none", place="model", at="", images="")
        elif kind == "memory":
            model = graph.add("TestMemory", model=model, factor=1e9)
        elif kind == "crowd":
            model = graph.add("TestCrowd", model=model, rows=knobs.get("rows", 3))
        elif kind == "patch":
            model = graph.add("PerturbedAttentionGuidance", model=model, scale=0.0)
            model = graph.add("HyperTile", model=model, tile_size=64, swap_size=2, max_depth=0, scale_depth=False)
        return guided(graph, model, **{key: value for key, value in knobs.items() if key != "rows"})

    return changed


def sampled(host, family, kind=None, *, batch=3, cfg=1.0, conditions=unchanged, **knobs):
    """The latent, calls, evaluations, and forwards of a guided run."""
    latent = run(
        host, two_models(family, host), "main", change(kind, **knobs), batch=batch, cfg=cfg, conditions=conditions,
        scheduler="karras",
    )
    calls, evaluations, _ = counts(host)
    return latent, calls, evaluations, host.record.forwards["main"]


@pytest.mark.parametrize("family, batch, directions", list(in_turn(FAMILIES, [3, 1], [1, 2])))
def test_one_forward_gives_what_two_calls_give(host, family, batch, directions):
    knobs = {"batch": batch, "directions": directions, "scale": 8.0}
    joined, calls, evaluations, forwards = sampled(host, family, **knobs)
    assert (evaluations, forwards) == ((1 + directions) * calls, calls)
    apart, _, evaluations, forwards = sampled(host, family, "wrapper", **knobs)
    assert (evaluations, forwards) == ((1 + directions) * calls, 2 * calls)  # the probes of a call are still together
    plain = run(
        host, two_models(family, host), "main", lambda graph, model, weak: undecided(graph, model), batch=batch,
        scheduler="karras",
    )
    assert (joined - apart).abs().max() < 0.03 * (joined - plain).abs().max()


@pytest.mark.parametrize("kind", ["memory", "crowd"])
def test_where_memory_is_short_there_are_two_calls(host, caplog, kind):
    joined = sampled(host, "sd3", directions=2)[0]
    apart, calls, evaluations, forwards = sampled(host, "sd3", kind, directions=2, rows=3)
    lost = 1 if kind == "crowd" else 0  # the host's estimate was wrong once
    assert forwards == 3 * calls + lost
    assert evaluations == 3 * calls + 3 * lost
    assert close(joined, apart, 1e-3) and "memory" not in caplog.text


@pytest.mark.parametrize("conditions, batch", [
    (edits.per_image("sd3", 3), 3),
    (edits.per_image("sd3", 2), 3),
    (edits.per_image("sd3", 5), 3),
    (edits.region("area"), 3),
    (edits.masked(3), 3),
    (edits.masked(5), 3),
    (edits.combined, 1),
    (edits.lora_hook, 3),
    (edits.time_range, 3),
])
def test_conditions_follow_their_images_into_one_forward(host, conditions, batch):
    import stand_ins

    stand_ins.write_lora("tiny", host.models)
    joined, *_, forwards = sampled(host, "sd3", batch=batch, conditions=conditions)
    apart, *_, separate = sampled(host, "sd3", "wrapper", batch=batch, conditions=conditions)
    assert forwards < separate
    assert close(joined, apart, 1e-3)


@pytest.mark.parametrize("family, kind, cfg, conditions", [
    ("sd3", None, 4.0, unchanged),
    ("sd15", "patch", 1.0, unchanged),
    ("sd15", None, 1.0, edits.control_net),
])
def test_what_reaches_across_a_batch_or_costs_more_in_one_is_evaluated_in_two_calls(
    host, family, kind, cfg, conditions
):
    _, calls, evaluations, forwards = sampled(host, family, kind, cfg=cfg, conditions=conditions)
    assert forwards == 2 * calls == evaluations


def test_only_images_that_are_due_are_asked_again(host):
    latent = run(
        host, two_models("demo", host), "main",
        lambda graph, model, weak: guided(graph, model, refresh_every=0, scale=4.0), batch=3, steps=24,
        scheduler="karras",
    )
    calls, evaluations, _ = counts(host)
    assert host.record.forwards["main"] == evaluations > calls
    assert 3 * calls < host.record.rows["main"] < 3 * evaluations  # not every image was due at the same calls
    assert latent.isfinite().all()


@pytest.mark.parametrize("directions", [1, 2])
def test_what_is_built_into_the_network_sees_the_batch_that_it_knows(host, directions):
    """Motion modules take the images of a batch for the frames of one video."""

    def injected(graph, model, weak):
        model = graph.add("TestInjection", model=model)
        return guided(graph, model, refresh_every=0, scale=4.0, directions=directions)

    run(host, two_models("demo", host), "main", injected, batch=3, steps=24, scheduler="karras")
    calls, evaluations, _ = counts(host)
    assert host.record.forwards["main"] == evaluations > calls
    assert host.record.rows["main"] == 3 * evaluations


def test_two_guidance_nodes_ask_in_the_same_forward(host):
    def twice(graph, model, weak):
        return guided(graph, guided(graph, undecided(graph, model), guidance_seed=1), guidance_seed=2)

    run(host, two_models("sd3", host), "main", twice, batch=3, scheduler="karras")
    calls, evaluations, _ = counts(host)
    assert (evaluations, host.record.forwards["main"]) == (3 * calls, calls)


def test_a_guider_that_never_asks_for_the_push_pays_for_one_probe_at_most(host):
    run(
        host, two_models("sd3", host), "main", lambda graph, model, weak: guided(graph, model), batch=3, steps=4,
        guider="DualModelGuider",
    )
    assert not host.record.calls["main"]
    assert host.record.rows["main"] <= 3 * (4 + 1)


def test_the_base_that_other_nodes_see_is_the_samples_own(host):
    """The rows of the probes are cut off before anything else of the host or of another pack sees them."""
    plain = run(host, two_models("sd3", host), "main", batch=3, scheduler="karras")
    idle = run(
        host, two_models("sd3", host), "main", lambda graph, model, weak: guided(graph, model), batch=3,
        scheduler="karras",
    )
    assert host.record.forwards["main"] == len(host.record.calls["main"])
    assert torch.allclose(plain, idle, atol=1e-5)  # random weights have no saddles, so nothing is pushed
