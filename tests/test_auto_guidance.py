"""The Auto-Guidance node in a real ComfyUI: against the host's DualModelGuider, and alone."""

import itertools
import logging
import shutil
from functools import partial

import pytest
import stand_ins
import torch
from cases import in_turn, long_but
from conditions import control_net, lora_hook, region, time_range
from graphs import Graph, guided, load, sample, stand_in, steered, watched
from guiders import guiders_in_turn
from host import failure
from runs import close, counts, run, two_models
from safetensors.torch import load_file
from variants import Setup, Variant, sampled

SAMPLERS = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_sde", "uni_pc", "lcm")
CONDITIONS = {
    "area": ("sd15", region("area")),
    "mask": ("sd15", region("mask")),
    "range": ("sd3", time_range),
    "ControlNet": ("sd15", control_net),
    "LoRA hook": ("sd3", lora_hook),
}


def compared():
    """Families with every other sampler, and with one of two guiders in turn; the others are long."""
    for index, (family, sampler) in enumerate(itertools.product(("demo", "sd15", "sd3", "flux", "wan"), SAMPLERS)):
        # KSampler leaves out one sigma for uni_pc, so only the other can be compared there.
        for place, guider in enumerate(("BasicGuider",) if sampler == "uni_pc" else ("BasicGuider", "KSampler")):
            is_long = sampler != "uni_pc" and index // 2 % 2 != place
            is_long |= sampler not in ("euler", "dpmpp_2m") if family == "sd15" else index % 2 == 1  # it is slow
            yield pytest.param(family, sampler, guider, marks=pytest.mark.long if is_long else ())


@pytest.mark.parametrize("family, sampler, guider", list(compared()))
def test_the_same_numbers_as_the_guider_of_the_host(host, as_loaded, family, sampler, guider):
    source = two_models(family, host)
    common = {"sampler": sampler, "batch": 1 if family == "sd15" else 3, "steps": 4}
    theirs = run(host, source, "dual", guider="DualModelGuider", cfg=2.5, **common)
    plain = run(host, source, "plain", guider=guider, **common)
    calls = counts(host)[0]
    ours = run(host, source, "auto", lambda g, m, w: steered(g, m, w, scale=2.5), guider=guider, **common)
    assert counts(host) == (calls, calls, calls)
    assert close(ours, theirs)
    assert not close(ours, plain, 0.05)


@pytest.mark.parametrize("family, batch, cfg, guider", list(guiders_in_turn()))
def test_every_guider_at_one_weak_evaluation_a_call_and_none_when_off(host, family, guider, batch, cfg):
    of = partial(Variant, Setup(), sampler=lambda graph, **inputs: sample(graph, guider, **inputs))
    found = sampled(host, two_models(family, host), {
        "plain": of(), "off": of(partial(steered, scale=1.0)), "on": of(steered), "again": of(steered),
    }, batch=batch, cfg=cfg)
    plain, off, on = found["plain"], found["off"], found["on"]
    assert torch.equal(off.latent, plain.latent)
    assert (off.calls, off.main, off.weak) == (plain.calls, plain.main, 0)
    assert (on.calls, on.main, on.weak) == (plain.calls, plain.main, plain.calls)
    assert on.latent.isfinite().all() and len(on.latent) == batch
    assert not close(on.latent, plain.latent, 1e-3)
    assert torch.equal(found["again"].latent, on.latent)


@pytest.mark.parametrize("family", long_but(["sd35", "sdxl", "sdxl_v", "sdxl_edm"], ["sd35", "sdxl_v"]))
def test_the_other_families(host, family):
    source = two_models(family, host)
    plain = run(host, source, "plain", cfg=4.0)
    calls, evaluations, _ = counts(host)
    guided_run = run(host, source, "auto", steered, cfg=4.0)
    assert counts(host) == (calls, evaluations, calls)
    assert guided_run.isfinite().all() and not close(guided_run, plain, 1e-3)


@pytest.mark.parametrize(
    "knobs, active", [({"start_percent": 0.5}, 4), ({"end_percent": 0.5}, 4), ({"start_percent": 1.0}, 0)]
)
def test_the_window_sets_the_number_of_weak_evaluations(host, knobs, active):
    source = two_models("demo", host)
    plain = run(host, source, "plain", steps=8)
    steered_run = run(host, source, "run", lambda g, m, w: steered(g, m, w, **knobs), steps=8)
    assert counts(host) == (8, 8, active)
    assert torch.equal(plain, steered_run) == (active == 0)


@pytest.mark.parametrize(
    "name, shared", list(in_turn(["demo", "sd3", "wan", "LoRA hook", "ControlNet", "area"], [True, False]))
)
def test_the_weak_model_keeps_its_own_patches(host, name, shared):
    """A weak model that is the model plus a constant c pushes by -(w - 1) c, exactly."""
    stand_ins.write_lora("tiny", host.models)
    family, conditions = CONDITIONS.get(name, (name, None))
    amount, scale = 0.2, 1.75

    def weak_is_off_by_a_constant(graph, model, _):
        twin = model if shared else second_copy(graph, host, family)
        return steered(graph, model, graph.add("TestOffset", model=twin, amount=amount, where="model"), scale=scale)

    def pushed(graph, model, _):
        return graph.add("TestOffset", model=model, amount=-(scale - 1) * amount, where="post_cfg")

    source, common = two_models(family, host), {"batch": 3, "conditions": conditions}
    expected = run(host, source, "expected", pushed, **common)
    alone = counts(host)[1]
    assert close(run(host, source, "run", weak_is_off_by_a_constant, **common), expected, 1e-3)
    assert counts(host)[1] == (2 if shared else 1) * alone


def copy_file(host, family):
    """A second file with the same weights as a stand-in."""
    name = stand_ins.write_stand_in(family, host.models)
    path = host.models / stand_ins.FAMILIES[family].folder / name
    twin = path.with_name(f"{family}_twin.safetensors")
    if not twin.exists():
        shutil.copy(path, twin)
    return twin.name


def second_copy(graph, host, family):
    """The same weights as the main model's, loaded on their own."""
    if family == "demo":
        return graph.add("SaddleFreeDemoModel", digit="7")  # another node, hence another load
    if stand_ins.FAMILIES[family].folder == "checkpoints":
        return graph.add("CheckpointLoaderSimple", ckpt_name=copy_file(host, family))
    return graph.add("UNETLoader", unet_name=copy_file(host, family), weight_dtype="default")


def with_lora(graph, model):
    return graph.add("LoraLoaderModelOnly", model=model, lora_name="tiny.safetensors", strength_model=1.0)


@pytest.mark.parametrize("lora_on", ["weak_model", "model"])
def test_a_clone_with_a_lora_is_a_model_of_its_own(host, lora_on):
    stand_ins.write_lora("tiny", host.models)
    copy_file(host, "sd3")

    def steer(graph, model, weak):
        if lora_on == "model":
            return steered(graph, with_lora(graph, model), weak)
        return steered(graph, model, with_lora(graph, weak))

    def clone(graph, model, _):
        return steer(graph, model, model)

    def two_files(graph, model, _):
        return steer(graph, model, second_copy(graph, host, "sd3"))

    source = two_models("sd3", host)
    expected = run(host, source, "expected", two_files, batch=3)
    assert torch.equal(run(host, source, "run", clone, batch=3), expected)
    lone = run(host, source, "plain", lambda g, m, w: with_lora(g, m) if lora_on == "model" else m, batch=3)
    assert not close(expected, lone, 0.01)
    assert torch.equal(run(host, source, "again", clone, batch=3), expected)


def test_a_lora_after_the_node_reaches_the_main_model_only(host):
    stand_ins.write_lora("tiny", host.models)
    source = two_models("sd3", host)
    before = run(host, source, "before", lambda g, m, w: steered(g, with_lora(g, m), w), batch=3)
    after = run(host, source, "after", lambda g, m, w: with_lora(g, steered(g, m, w)), batch=3)
    assert torch.equal(before, after)


def refusal(host, family, weak_of, after=lambda graph, model: model):
    """Node and message of a run whose weak model is `weak_of(graph, model)`."""
    graph = Graph()
    model, positive, negative, latent = stand_in(family, host.models)(graph)
    changed = after(graph, steered(graph, model, weak_of(graph, model)))
    samples = sample(graph, "KSampler", changed, positive, negative, latent(1))
    graph.add("TestCapture", samples=samples, label="run")
    executor = host.run(graph.prompt)
    assert not executor.success
    assert "run" not in host.record.latents
    return failure(executor)["node_type"], failure(executor)["exception_message"]


def discrete(graph, model, sampling="eps", zsnr=False):
    return graph.add("ModelSamplingDiscrete", model=model, sampling=sampling, zsnr=zsnr)


@pytest.mark.parametrize(
    "family, weak_of, sentence",
    [
        ("sd3", lambda h, g, m: load(g, "flux", h.models), "its latent format is Flux, and that of model is SD3"),
        ("sd15", lambda h, g, m: load(g, "sdxl", h.models), "its latent format is SDXL, and that of model is SD15"),
        ("sd15", lambda h, g, m: discrete(g, load(g, "sd15", h.models, 1), "v_prediction"),
         "its prediction type is V_PREDICTION, and that of model is EPS"),
        ("sdxl", lambda h, g, m: load(g, "sdxl_v", h.models), "its prediction type is V_PREDICTION"),
        ("sd15", lambda h, g, m: discrete(g, load(g, "sd15", h.models, 1), zsnr=True),
         "its noise schedule's largest sigma is 4519, and that of model is 14.61"),
        ("sd15", lambda h, g, m: load(g, "sd21", h.models), "its width of text conditions is 1024"),
        ("sd3", lambda h, g, m: m, "weak_model is the same as model"),
        ("sd3", lambda h, g, m: guided(g, m), "weak_model is the same as model"),
        ("sd3", lambda h, g, m: g.add("TestForgetFile", model=with_lora(g, m)), "cannot be loaded a second time"),
    ],
    ids=["latent", "latent2", "prediction", "prediction2", "schedule", "text", "same", "same guided", "no file"],
)
def test_a_weak_model_that_cannot_serve_is_refused_on_the_node(host, family, weak_of, sentence):
    stand_ins.write_lora("tiny", host.models)
    node, message = refusal(host, family, lambda graph, model: weak_of(host, graph, model))
    assert node == "AutoGuidance"
    assert sentence in message


def test_a_later_node_that_makes_the_models_differ_is_refused_too(host):
    node, message = refusal(
        host, "sd15", lambda graph, model: load(graph, "sd15", host.models, 1),
        after=lambda graph, model: discrete(graph, model, "v_prediction"),
    )
    assert node == "KSampler"
    assert "its prediction type is EPS, and that of model is V_PREDICTION" in message


def test_the_shift_of_the_weak_models_schedule_does_not_matter(host):
    def shifted(graph, model, weak):
        return steered(graph, model, graph.add("ModelSamplingSD3", model=weak, shift=6.0))

    source = two_models("sd3", host)
    assert torch.equal(run(host, source, "run", shifted, batch=3), run(host, source, "plain", steered, batch=3))
    itself = run(host, source, "itself", lambda g, m, w: shifted(g, m, m), batch=3)
    assert host.record.loaded == {"main": 2}  # one network cannot have two schedules
    assert torch.equal(itself, run(host, source, "bare", batch=3))


def test_both_models_are_managed_by_the_host(host):
    """Loaded together by the host during the run, once each, and gone with the graph."""
    source = two_models("sd3", host)
    run(host, source, "plain")
    assert host.record.loaded == {"main": 1}
    run(host, source, "run", steered)
    assert host.record.loaded == {"main": 2}
    assert host.record.options_restored == {"main": True, "weak": True}  # the weak model's own wrappers saw the run
    run(host, source, "shared", lambda g, m, w: steered(g, m, g.add("TestOffset", model=m, amount=1.0, where="model")))
    assert host.record.loaded == {"main": 1}


@pytest.mark.parametrize("how, label, at", long_but(
    [(how, *place) for place in (("main", 2), ("weak", 1), ("weak", 4)) for how in ("interrupt", "exception")],
    [("interrupt", "main", 2), ("exception", "weak", 1), ("interrupt", "weak", 4)],
))
def test_a_broken_run_leaves_nothing_behind(host, how, label, at):
    source = two_models("demo", host)

    def broken(graph, model, weak):
        if label == "main":
            return steered(graph, watched(graph, model, "broken", at, how), weak)
        return steered(graph, model, watched(graph, weak, "broken", at, how))

    fresh = run(host, source, "run", steered, batch=3, steps=6)
    graph = Graph()
    model, weak, positive, negative, latent = source(graph)
    changed = broken(graph, watched(graph, model, "main"), weak)
    samples = sample(graph, "KSampler", changed, positive, negative, latent(3), steps=6)
    graph.add("TestCapture", samples=samples, label="run")
    executor = host.run(graph.prompt)
    assert not executor.success
    assert failure(executor)["node_type"] == "KSampler"
    assert host.record.options_restored["main"]
    assert torch.equal(run(host, source, "run", steered, batch=3, steps=6), fresh)


def test_a_twin_changes_nothing_and_is_reported_once(host, caplog):
    source = two_models("sd3", host)
    plain = run(host, source, "plain", batch=3)
    with caplog.at_level(logging.WARNING):
        twins = run(host, source, "run", lambda g, m, w: steered(g, m, second_copy(g, host, "sd3")), batch=3)
    assert torch.equal(twins, plain)
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("host.run")]
    assert lines == [
        "Auto-Guidance did not change this image: the weak model predicted the same as the model at each of 3 calls."
    ]


@pytest.mark.parametrize("name, cfg", list(in_turn(CONDITIONS, [1.0, 4.0])))
def test_the_weak_model_sees_the_same_conditions(host, name, cfg):
    """A twin is asked for the positive condition exactly as the main model is, so it predicts the same."""
    family, conditions = CONDITIONS[name]
    stand_ins.write_lora("tiny", host.models)
    source = two_models(family, host)
    common = {"conditions": conditions, "cfg": cfg}

    def with_twin(graph, model, _):
        return steered(graph, model, second_copy(graph, host, family), scale=3.0)

    plain = run(host, source, "plain", **common)
    assert not close(plain, run(host, source, "bare", cfg=cfg), 0.05)
    assert close(run(host, source, "twins", with_twin, **common), plain, 1e-3)
    gentle = run(host, source, "gentle", lambda g, m, w: steered(g, m, w, scale=1.0001), **common)
    assert close(gentle, plain, 0.01)  # the main model is asked as before
    assert not close(run(host, source, "two", lambda g, m, w: steered(g, m, w, scale=3.0), **common), plain, 0.05)


@pytest.mark.parametrize("cache, shared", list(in_turn(["EasyCache", "LazyCache"], [True, False])))
def test_caches_on_both_models_keep_to_their_own(host, cache, shared):
    def cached(graph, model):
        return graph.add(
            cache, model=model, reuse_threshold=0.5, start_percent=0.0, end_percent=1.0, verbose=False
        )

    def both(graph, model, weak):
        weak = graph.add("TestOffset", model=model, amount=0.2, where="model") if shared else weak
        return steered(graph, cached(graph, model), cached(graph, weak))

    source = two_models("sd3", host)
    first = run(host, source, "run", both, steps=8)
    assert first.isfinite().all()
    assert torch.equal(run(host, source, "again", both, steps=8), first)


def test_guidance_on_the_weak_model_is_left_out(host, caplog):
    source = two_models("demo", host)
    plain = run(host, source, "plain", steered, batch=3)
    with caplog.at_level(logging.WARNING):
        on_weak = run(host, source, "run", lambda g, m, w: steered(g, m, steered(g, guided(g, w), m)), batch=3)
    assert [record for record in caplog.records if record.name.endswith("host.run")] == []
    assert torch.equal(on_weak, plain)
    calls = counts(host)[0]
    assert counts(host) == (calls, calls, calls)


def test_context_windows_apply_to_the_weak_model(host):
    def windows(graph, model):
        return graph.add(
            "ContextWindowsManual", model=model, context_length=2, context_overlap=1, closed_loop=False, dim=2,
            context_schedule="standard_static", context_stride=1, fuse_method="pyramid", freenoise=False,
            cond_retain_index_list="", split_conds_to_windows=False, latent_retain_index_list="",
            causal_window_fix=False,
        )

    source = two_models("wan", host)
    plain = run(host, source, "plain", lambda g, m, w: windows(g, m))
    calls, evaluations, _ = counts(host)
    assert evaluations == 2 * calls

    def with_twin(graph, model, _):
        return steered(graph, windows(graph, model), second_copy(graph, host, "wan"), scale=3.0)

    assert close(run(host, source, "twins", with_twin), plain, 1e-3)
    both = run(host, source, "both", lambda g, m, w: guided(g, steered(g, windows(g, m), w)))
    # in windows: the call, the whole once more as base of both corrections, and the probe; the weak model
    assert counts(host) == (calls, 3 * 2 * calls, 2 * calls)
    assert both.isfinite().all() and not close(both, plain, 0.05)


def test_a_run_leaves_the_weak_model_as_it_was(host):
    """Also with a LoRA hook on the condition, and when sampling breaks off."""
    import comfy.hooks
    import comfy.sample
    import comfy.sd

    folder = host.models / "checkpoints"
    main, weak = (
        comfy.sd.load_checkpoint_guess_config(str(folder / stand_ins.write_stand_in("sd3", host.models, seed)))[0]
        for seed in (0, 1)
    )
    guided_model = host.node("AutoGuidance").execute(main, weak, 1.5, 0.0, 1.0).result[0]
    lora = load_file(host.models / "loras" / stand_ins.write_lora("tiny", host.models))
    hooks = comfy.hooks.create_hook_lora(lora=lora, strength_model=1.0, strength_clip=0.0)
    condition = stand_ins.conditioning("sd3", 1)
    condition[0][1]["hooks"] = hooks
    used = guided_model.additional_models["saddle_free_guidance"][0]

    def broken(step, *args):
        assert used.model.current_patcher is used and used.hook_patches
        raise RuntimeError("broken on purpose")

    latent = torch.zeros(1, *stand_ins.FAMILIES["sd3"].latent_shape)
    with torch.no_grad(), pytest.raises(RuntimeError, match="broken on purpose"):
        comfy.sample.sample(
            guided_model, torch.randn(latent.shape), 3, 1.0, "euler", "simple", condition, condition, latent,
            callback=broken, disable_pbar=True, seed=1,
        )
    assert used.model.current_patcher is None
    assert used.hook_patches == {} and used.hook_mode == comfy.hooks.EnumHookMode.MaxSpeed


def test_two_weak_models_of_one_checkpoint_stay_two(host):
    """The corrections of a first step add up: those of the weak model, and of the weak model with a LoRA."""
    stand_ins.write_lora("tiny", host.models)
    source, common = two_models("sd3", host), {"batch": 3, "steps": 1}
    plain = run(host, source, "plain", **common)
    one = run(host, source, "one", lambda g, m, w: steered(g, m, w), **common)
    other = run(host, source, "other", lambda g, m, w: steered(g, m, with_lora(g, w)), **common)
    assert not close(one, other, 0.01)
    two = run(host, source, "two", lambda g, m, w: steered(g, steered(g, m, w), with_lora(g, w)), **common)
    assert close(two - plain, (one - plain) + (other - plain), 1e-3)


def test_two_weak_models_add_up(host):
    """With both corrections from one weak model, scales 1.3 and 1.4 are scale 1.7."""
    source = two_models("sd3", host)
    twice = run(
        host, source, "twice", lambda g, m, w: steered(g, steered(g, m, w, scale=1.3), w, scale=1.4), batch=3
    )
    calls = counts(host)[0]
    assert counts(host) == (calls, calls, 2 * calls)
    assert close(twice, run(host, source, "once", lambda g, m, w: steered(g, m, w, scale=1.7), batch=3))
