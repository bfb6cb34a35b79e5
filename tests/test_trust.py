"""What guidance evaluates is right, or is not used; and the sampler's own evaluations stay what they are."""

import importlib
import logging

import pytest
import torch
from cases import long_but
from graphs import guided, steered
from runs import close, counts, two_models
from runs import run as run_once
from variants import Setup, Variant, sampled, undecided

MODES = [(1.0, 1), (1.0, 3), (4.0, 1), (4.0, 3)]


def node(class_type, **inputs):
    return lambda graph, model, weak=None: graph.add(class_type, model=model, **inputs)


def beside(patch, **knobs):
    """Guidance of a model with a patch."""
    return lambda graph, model, weak: guided(graph, patch(graph, model), scale=4.0, **knobs)


def module(host, name):
    """A module of the pack as the host loaded it."""
    return importlib.import_module(host.node("SaddleFreeGuidance").__module__.replace(".saddle_free", f".{name}"))


@pytest.mark.parametrize("cfg, batch", MODES)
@pytest.mark.parametrize("kind", ["list", "network", "place", "outside"])
def test_a_patch_that_remembers_its_last_call_is_asked_what_it_is_asked_without_us(host, caplog, kind, cfg, batch):
    """Random weights have no saddle, so the pictures are the same, bit for bit, where nothing was remembered of us."""
    patch = node("TestRemembers", kind=kind)
    with caplog.at_level(logging.WARNING):
        found = sampled(host, two_models("flux", host), {
            "plain": Variant(guide=patch), "guided": Variant(guide=beside(patch)),
        }, cfg=cfg, batch=batch, steps=4)
    assert torch.equal(found["guided"].latent, found["plain"].latent)
    unreachable = kind in ("place", "outside")
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("host.run")]
    assert any("remembers what it was asked" in line for line in lines) == unreachable
    assert (found["guided"].main == found["plain"].main) == unreachable


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_patch_that_remembers_is_guided_by_the_derivative_of_what_the_sampler_gets(host, cfg):
    patch = node("TestRemembers", kind="list")
    setup = Setup(models=undecided("flux"))
    found = sampled(host, two_models("flux", host), {
        label: Variant(setup, lambda graph, model, weak, radius=radius: guided(
            graph, patch(graph, model), scale=1e-6, probe_radius=radius
        ), traced=True) for label, radius in (("tiny", 0.1), ("coarse", 0.3))
    }, cfg=cfg, batch=1, steps=4)
    one, other = (torch.stack([call.rayleigh for call in each.trace.calls]) for each in found.values())
    assert torch.allclose(one, other, rtol=0.02) and (one[-1] > 1).all()


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_network_that_takes_one_row_is_asked_row_by_row(host, caplog, cfg):
    """As MiniMax H3: whatever a forward of several rows raises, it is not tried again, and the log says so once."""
    setup, rows = Setup(models=undecided("sd3")), 1 if cfg == 1 else 2
    patch = node("TestPicky", rows=rows)
    with caplog.at_level(logging.INFO):
        found = sampled(host, two_models("sd3", host), {
            "plain": Variant(setup), "free": Variant(setup, lambda graph, model, weak: guided(
                graph, model, scale=4.0, directions=3
            )), "picky": Variant(setup, beside(patch, directions=3)),
        }, cfg=cfg, batch=1, steps=4)
    assert close(found["picky"].latent, found["free"].latent, 0.01)
    assert not close(found["picky"].latent, found["plain"].latent, 0.01)
    said = [record.getMessage() for record in caplog.records if record.name.endswith("host.ways")]
    assert len(said) == 1 and f"this network takes {rows} rows" in said[0]


def test_what_was_measured_is_remembered_by_the_node_and_its_model(host):
    """A prompt that is run again with another seed measures nothing, and gives the same bits for the same seed."""
    from graphs import Graph, sample, stand_in, watched

    def prompt(seed):
        graph = Graph()
        model, positive, negative, latent = stand_in("sd3", host.models)(graph)
        model = guided(graph, graph.add("TestUndecided", model=watched(graph, model, "run"), amount=3.0))
        samples = sample(graph, "KSampler", model, positive, negative, latent(2), cfg=1.0, seed=seed)
        graph.add("TestCapture", samples=samples, label="run")
        return graph.prompt

    host.unload()
    executor, latents, checks = host.executor(cached=True), [], []
    for seed in (7, 8, 7):
        host.run(prompt(seed), executor)
        latents.append(host.record.latents["run"])
        checks.append(host.record.checks["run"])
    assert checks == [1, 0, 0]
    assert torch.equal(latents[0], latents[2]) and not torch.equal(latents[0], latents[1])


def test_what_was_measured_of_a_patch_that_is_gone_is_not_taken_for_another_s(host):
    """One that has the same address, as when a knob of the patch's node was changed."""
    from comfy.patcher_extension import WrappersMP

    trust, made = module(host, "host.trust").Trust(), 0

    class Model:
        pass

    class Patch:
        def wrapper(self):
            pass

    def verdicts(patch):
        wrappers = {WrappersMP.DIFFUSION_MODEL: {"other": [patch]}}
        return trust.verdicts(model, [None], {"transformer_options": {"wrappers": wrappers}}, batch=1)

    model = Model()
    for make in (Patch, lambda: Patch().wrapper, lambda: lambda: None):
        patch = make()
        verdicts(patch)["alone"] = True
        assert verdicts(patch) == {"alone": True}
        address, kept = id(patch), []
        del patch
        for _ in range(1000):
            kept.append(make())
            if id(kept[-1]) == address:
                made += 1
                assert verdicts(kept[-1]) == {}
                break
    assert made


def test_where_the_sampler_asks_twice_at_one_x_the_direction_moves_once(host):
    setup = Setup(models=undecided("sd3"))
    found = sampled(host, two_models("sd3", host), {
        "once": Variant(setup, lambda graph, model, weak: guided(graph, model, scale=4.0), traced=True),
        "twice": Variant(setup, beside(node("TestTwice", double=False)), traced=True),
    }, cfg=1.0, steps=4)
    assert close(found["twice"].latent, found["once"].latent)  # the second is asked without a probe beside it
    assert len(found["twice"].trace.calls) == len(found["once"].trace.calls) == 4
    assert found["twice"].main == found["once"].main + 4  # the sampler's own second evaluations


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_samplers_that_pass_float64(host, cfg):
    setup = Setup(models=undecided("sd3"))
    double = node("TestTwice", double=True)
    found = sampled(host, two_models("sd3", host), {
        "plain": Variant(setup, double), "double": Variant(setup, beside(double)),
        "single": Variant(setup, lambda graph, model, weak: guided(graph, model, scale=4.0)),
    }, cfg=cfg, steps=4)
    assert close(found["double"].latent, found["single"].latent, 1e-3)
    assert not close(found["double"].latent, found["plain"].latent, 0.003)


@pytest.mark.parametrize("cfg, rows", long_but([(1.0, 3), (4.0, 6)], [(4.0, 6)]))
def test_a_compiled_block_never_sees_a_second_batch_size(host, cfg, rows):
    block = node("TestCompiledBlock", block="diffusion_model.joint_blocks.0")
    run_once(
        host, two_models("sd3", host), "run", lambda graph, model, weak: guided(
            graph, block(graph, graph.add("TestUndecided", model=model, amount=3.0)), directions=2
        ), cfg=cfg, batch=3,
    )
    record = host.record
    assert record.forwards["main"] == 3 * 3 and record.rows["main"] == rows * record.forwards["main"]
    assert record.checks["main"] == 0


def test_memory_that_runs_out_after_the_probe_was_answered_moves_the_direction_once(host, monkeypatch):
    guide = module(host, "host.saddle_free_run").SaddleFree
    push, lost = guide._push, []

    def once(*args, **kwargs):
        if len(lost) < 1:
            lost.append(True)
            raise torch.OutOfMemoryError("out of memory on purpose")
        return push(*args, **kwargs)

    def change(graph, model, weak):
        return guided(graph, graph.add("TestUndecided", model=model, amount=3.0))

    fresh = run_once(host, two_models("sd3", host), "run", change, batch=2, steps=4)
    calls, evaluations, _ = counts(host)
    monkeypatch.setattr(guide, "_push", once)
    again = run_once(host, two_models("sd3", host), "run", change, batch=2, steps=4)
    assert lost and torch.equal(again, fresh)
    assert counts(host)[:2] == (calls, evaluations + 1)  # its probes are asked once more


def test_the_window_is_that_of_the_model_which_is_evaluated(host):
    """A shift of the schedule that another run left in the loaded model moves the window with it."""
    guided_run, shifts = module(host, "host.run").GuidedRun, []

    class Guider:
        model_patcher = None

    class Model:
        class model_sampling:
            @staticmethod
            def percent_to_sigma(percent):
                return shifts[-1] * (1 - percent)

    run = guided_run(Guider(), 0.25, 0.5)
    for shift in (1.0, 3.0):
        shifts.append(shift)
        run.begun(Model)
        assert (run.window.start, run.window.end) == (0.75 * shift, 0.5 * shift)


def test_rows_of_any_images_in_any_order_are_answered_each(host):
    """Rows of one image may repeat; they are put into whole batches where conditions are an image's own."""
    joint = module(host, "host.joint")
    x = torch.arange(6.0).reshape(3, 2)
    rows = torch.arange(10.0, 18.0).reshape(4, 2)
    padded, places = joint.in_batches(rows, [2, 0, 2, 2], x)
    assert places.tolist() == [2, 0, 5, 8] and torch.equal(padded.index_select(0, places), rows)
    assert torch.equal(padded[[1, 3, 4, 6, 7]], x[[1, 0, 1, 0, 1]])
    assert joint.in_batches(x, [0, 1, 2], x)[1] is None


def test_an_answer_that_is_the_step_itself_is_made_up_and_no_network_s_is(host):
    """A response exactly along a random direction is that of a forecast; rounding, or a few values, tell nothing."""
    made_up = module(host, "host.trust").made_up
    x, base, step, other = torch.randn(4, 3, 100, generator=torch.Generator().manual_seed(0))
    for share in (0.3, 1.0, -2.0):
        assert made_up(base + share * step, base, x + step, x, torch.float32)
    assert not made_up(base + step + 1e-3 * other, base, x + step, x, torch.float32)
    assert not made_up(base + 1e-6 * step, base, x + step, x, torch.float32)
    one = base.clone()
    one[0] += other[0]
    assert not made_up(one + step, base, x + step, x, torch.float32)
    few = [tensor[:, :8] for tensor in (base + step, base, x + step, x)]
    assert not made_up(*few, torch.float32)


def test_a_weak_model_that_needs_all_conditions_is_asked_with_them(host, caplog):
    source, found = two_models("sd3", host), {}
    for patch in ("TestCoupled", "TestPaired"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            found[patch] = run_once(host, source, patch, lambda g, m, w, patch=patch: steered(
                g, m, g.add(patch, model=w, where="function"), scale=3.0
            ), batch=3, cfg=4.0)
    assert torch.equal(*found.values())
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("host.coupling")]
    assert len(lines) == 1 and "two conditions are needed" in lines[0]
