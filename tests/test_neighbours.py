"""Guidance beside the host's own nodes for models: nobody's effect is lost, no probe is answered by another model."""

import logging
import shutil
from dataclasses import dataclass
from functools import partial

import conditions as edits
import pytest
import stand_ins
import torch
from graphs import guided, steered
from odd_stand_ins import source_of
from runs import close, two_models
from test_conditions import assert_acts, at_one_cfg, both, saddle_free
from variants import Setup, Variant, independent_of_step, k_sampler, sampled, unchanged, undecided


def node(class_type, **inputs):
    """A neighbour: a node that patches a model."""
    return lambda graph, model, weak: graph.add(class_type, model=model, **inputs)


def nothing(graph, model, weak):
    return model


def merged(graph, model, weak):
    return graph.add("ModelMergeSimple", model1=model, model2=weak, ratio=0.5)


def perp_neg(graph, model, weak):
    empty = graph.add("TestConditioning", family="sd3", seed=5)
    return graph.add("PerpNeg", model=model, empty_conditioning=empty, neg_scale=1.0)


def perp_neg_guider(graph, model, positive, negative, latent, *, cfg, steps):
    guider = graph.add(
        "PerpNegGuider", model=model, positive=positive, negative=negative, cfg=cfg, neg_scale=1.0,
        empty_conditioning=graph.add("TestConditioning", family="sd3", seed=5),
    )
    return custom(graph, model, guider, graph.add("KSamplerSelect", sampler_name="euler"), latent, steps)


def frame_by_frame(graph, model, positive, negative, latent, *, cfg, steps):
    guider = graph.add("BasicGuider", model=model, conditioning=positive)
    return custom(graph, model, guider, graph.add("SamplerARVideo", num_frame_per_block=1), latent, steps)


def custom(graph, model, guider, sampler, latent, steps):
    return graph.add(
        "SamplerCustomAdvanced", noise=graph.add("RandomNoise", noise_seed=7), guider=guider, sampler=sampler,
        sigmas=graph.add("BasicScheduler", model=model, scheduler="simple", steps=steps, denoise=1.0),
        latent_image=latent,
    )


def long_reference(graph, positive, negative):
    """A reference latent of FLUX.2 and texts that fill its 512 tokens."""
    conditions = edits.reference("1,128,8,8")(graph, positive, negative)
    for _ in range(7):
        conditions = [
            graph.add("ConditioningConcat", conditioning_to=one, conditioning_from=one) for one in conditions
        ]
    return conditions


@dataclass(frozen=True)
class Neighbour:
    """A family and what stands beside guidance there, on the weak model too where `both` says so.

    at: CFG scales; seen_at: those where it changes the picture; size: of a UNet's latent, if not the stand-in's own.
    couples: it couples the conditions, and probes are evaluated with all of them.
    tolerance: of the curvature, which jumps a little where the patch chooses among tokens.
    """

    family: str
    patch: callable
    both: bool = False
    at: tuple = (1.0, 4.0)
    seen_at: tuple = (1.0, 4.0)
    conditions: callable = unchanged
    sampler: callable = k_sampler
    size: int | None = None
    couples: bool = False
    tolerance: float = 0.01


layers = {"double_layers": "0", "single_layers": "", "start_percent": 0.0, "end_percent": 1.0}
freeu = {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}
tiles = {"tile_size": 32, "max_depth": 0, "scale_depth": False}
NEIGHBOURS = {
    "HyperTile": Neighbour("sd15", node("HyperTile", swap_size=2, **tiles), at=(4.0,), size=8),
    "HyperTile at random": Neighbour("sd15", node("HyperTile", swap_size=3, **tiles), at=(1.0,), size=16),
    "ToMe": Neighbour("sd15", node("TomePatchModel", ratio=0.5), tolerance=0.05, size=8),
    "ToMe on both": Neighbour(
        "sd15", node("TomePatchModel", ratio=0.5), both=True, at=(1.0,), tolerance=0.05, size=8
    ),
    "FreeU": Neighbour("two levels", node("FreeU", **freeu), at=(4.0,)),
    "FreeU_V2": Neighbour("two levels", node("FreeU_V2", **freeu), at=(1.0,)),
    "PAG": Neighbour("sd15_middle", node("PerturbedAttentionGuidance", scale=2.0), at=(4.0,)),
    "SAG": Neighbour(
        "sd15_middle", node("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0), at=(1.0,), size=8
    ),
    "NAG": Neighbour(
        "sd15", node("NAGuidance", nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5),
        couples=True,
    ),
    "NAG on both": Neighbour(
        "sd15", node("NAGuidance", nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5), both=True, at=(4.0,),
        couples=True,
    ),
    "SLG": Neighbour("sd35", node("SkipLayerGuidanceDiT", scale=2.0, rescaling_scale=0.5, **layers)),
    "SLG of the negative": Neighbour("sd35", node("SkipLayerGuidanceDiTSimple", **layers), at=(4.0,)),
    "APG": Neighbour("sd3", node("APG", eta=0.5, norm_threshold=5.0, momentum=0.5)),
    "TCFG": Neighbour("sd3", node("TCFG"), seen_at=(4.0,)),
    "CFGZeroStar": Neighbour("sd3", node("CFGZeroStar"), at=(4.0,)),
    "CFGNorm": Neighbour("sd3", node("CFGNorm", strength=1.0), at=(4.0,)),
    "RescaleCFG": Neighbour("sd3", node("RescaleCFG", multiplier=0.7), seen_at=(4.0,)),
    "Mahiro": Neighbour("sd3", node("Mahiro"), seen_at=(4.0,)),
    "Epsilon Scaling": Neighbour("sd3", node("Epsilon Scaling", scaling_factor=1.1)),
    "FreSca": Neighbour("sd3", node("FreSca", scale_low=1.0, scale_high=2.0, freq_cutoff=2), seen_at=(4.0,)),
    "CFGOverride": Neighbour("sd3", node("CFGOverride", cfg=2.0, start_percent=0.0, end_percent=0.7)),
    "PerpNeg": Neighbour("sd3", perp_neg),
    "PerpNegGuider": Neighbour("sd3", nothing, sampler=perp_neg_guider),
    "ModelMergeSimple": Neighbour("sd3", merged),
    "ModelSamplingSD3": Neighbour("sd3", node("ModelSamplingSD3", shift=6.0)),
    "ModelSamplingFlux": Neighbour(
        "flux", node("ModelSamplingFlux", max_shift=2.5, base_shift=2.0, width=1024, height=1024), at=(4.0,)
    ),
    "ModelSamplingDiscrete": Neighbour(
        "sd15", node("ModelSamplingDiscrete", sampling="v_prediction", zsnr=True), both=True, at=(4.0,)
    ),
    "ModelSamplingContinuousEDM": Neighbour(
        "sd15", node("ModelSamplingContinuousEDM", sampling="edm", sigma_max=80.0, sigma_min=0.01), both=True,
        at=(1.0,),
    ),
    "FluxKVCache": Neighbour(
        "flux2", node("FluxKVCache"), conditions=long_reference, tolerance=0.1,
    ),
    "a function that couples": Neighbour(
        "sd3", node("TestCoupled", where="function"), at=(4.0,), couples=True
    ),
    "a wrapper that couples": Neighbour(
        "flux", node("TestCoupled", where="wrapper"), at=(4.0,), couples=True
    ),
    "MultiGPU CFG Split": Neighbour("sd3", node("MultiGPU_WorkUnits", max_gpus=2), at=(4.0,), seen_at=()),
    "SelectModelDevice": Neighbour("sd3", node("SelectModelDevice", device="cpu"), at=(4.0,), seen_at=()),
    "a device that is not there": Neighbour("sd3", node("SelectModelDevice", device="gpu:7"), at=(4.0,), seen_at=()),
}
SLOW = (  # of a large UNet, and beside another one that patches the same places
    "HyperTile at random", "ToMe on both", "FreeU", "SAG", "NAG", "ModelSamplingContinuousEDM",
)


def source(host, case):
    """The two models of a case, with latents of its size."""
    made = two_models(case.family, host) if case.family in stand_ins.FAMILIES else source_of(case.family, host)
    if case.size is None:
        return made
    return lambda graph: (*made(graph)[:-1], lambda batch: graph.add(
        "EmptyLatentImage", width=8 * case.size, height=8 * case.size, batch_size=batch
    ))


def variants(case):
    """Our nodes beside the neighbour of a case, in ways whose pictures are compared."""

    def beside(guide):
        return lambda graph, model, weak: guide(graph, case.patch(graph, model, weak), of_weak(graph, weak))

    def of_weak(graph, weak):
        return case.patch(graph, weak, weak) if case.both else weak

    def swapped(graph, model, weak):
        model = model if case.both else steered(graph, model, weak)
        model = case.patch(graph, guided(graph, model), weak)
        return steered(graph, model, of_weak(graph, weak)) if case.both else model

    made = {"models": undecided(case.family), "conditions": case.conditions}
    of = partial(Variant, Setup(**made), sampler=case.sampler)
    return {
        "bare": Variant(Setup(**made)),
        "alone": of(case.patch),
        "off": of(beside(partial(both, saddle=0.0, auto=1.0))),
        "tiny": of(beside(partial(saddle_free, scale=0.001, probe_radius=0.1)), traced=True),
        "coarse": of(beside(partial(saddle_free, scale=0.001, probe_radius=0.3)), traced=True),
        "gentle": of(beside(partial(steered, scale=1.0001))),
        "both": of(beside(both)),
        "swapped": of(swapped),
    }


@pytest.mark.parametrize("name, cfg", list(at_one_cfg(NEIGHBOURS, SLOW)))
def test_beside_a_node_of_the_host(host, name, cfg):
    case = NEIGHBOURS[name]
    heavy = case.family.startswith(("sd15", "two"))
    batch = 1 if heavy else 3
    found = sampled(host, source(host, case), variants(case), batch=batch, cfg=cfg, steps=2)
    alone = found["alone"]
    assert close(found["bare"].latent, alone.latent, 0.02) == (cfg not in case.seen_at)
    assert torch.equal(found["off"].latent, alone.latent)
    assert (found["off"].main, found["off"].weak) == (alone.main, 0)
    assert independent_of_step(found["tiny"], found["coarse"], case.tolerance)
    for label in ("tiny", "gentle"):  # the neighbour's effect is all there
        assert close(found[label].latent, alone.latent, 1e-3)
    assert torch.equal(found["swapped"].latent, found["both"].latent)
    assert_acts(found["both"], alone)
    for label in ("both", "swapped"):
        assert found[label].main == alone.main + alone.calls
        assert found[label].weak == alone.calls
        assert found[label].rows == alone.rows + batch * (2 if case.couples else 1) * alone.calls
        assert found[label].checks <= 1 + case.couples


@pytest.mark.parametrize("name", ["NAG", "ToMe", "HyperTile at random"])
def test_a_weak_model_that_shares_the_patch_is_asked_as_the_main_one(host, name):
    """The same model once more, off by nothing, predicts the same: with the same draws, beside the same conditions."""
    case = NEIGHBOURS[name]

    def twins(graph, model, weak):
        patched = case.patch(graph, model, weak)
        return steered(graph, patched, graph.add("TestOffset", model=patched, amount=0.0, where="model"), scale=3.0)

    found = sampled(host, source(host, case), {
        "plain": Variant(guide=case.patch), "twins": Variant(guide=twins), "again": Variant(guide=twins),
    }, batch=1, cfg=4.0, steps=2)
    plain, result = found["plain"], found["twins"]
    assert close(result.latent, plain.latent, 1e-3)
    assert torch.equal(found["again"].latent, result.latent)
    assert result.main == 2 * plain.main


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name.endswith(".host.run")]


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_beside_easy_cache_auto_guidance_stays(host, caplog, cfg):
    """Steps that it answers are not guided, whatever the order of the nodes, and those it skips are the same ones."""
    cache = node("EasyCache", reuse_threshold=2.0, start_percent=0.0, end_percent=1.0, verbose=False)
    with caplog.at_level(logging.WARNING):
        found = sampled(host, two_models("flux", host), {
            "bare": Variant(),
            "cached": Variant(guide=cache),
            "auto": Variant(guide=lambda graph, model, weak: steered(graph, cache(graph, model, weak), weak)),
            "both": Variant(guide=lambda graph, model, weak: both(graph, cache(graph, model, weak), weak)),
            "swapped": Variant(guide=lambda graph, model, weak: cache(graph, both(graph, model, weak), weak)),
            "off": Variant(guide=lambda graph, model, weak: both(graph, cache(graph, model, weak), weak, 0.0, 1.0)),
        }, cfg=cfg, steps=7)
    lines = messages(caplog)
    assert len(lines) == 2 and all(line.startswith("Saddle-Free") and "calls: a cache" in line for line in lines)
    assert not close(found["cached"].latent, found["bare"].latent, 0.01)
    assert_acts(found["auto"], found["cached"])
    assert torch.equal(found["both"].latent, found["auto"].latent)
    assert torch.equal(found["swapped"].latent, found["auto"].latent)
    assert torch.equal(found["off"].latent, found["cached"].latent)
    assert found["both"].weak == found["both"].calls == 7


@pytest.mark.parametrize("where", ["function", "wrapper"])
def test_beside_a_cache_of_another_pack(host, where):
    """It would answer a probe with its last answer and the step; asked as before the sample, it asks the network."""
    cache = node("TestStepCache", where=where)
    of = partial(Variant, Setup(models=undecided("flux")))
    found = sampled(host, two_models("flux", host), {
        "cached": of(cache),
        "tiny": of(lambda graph, model, weak: saddle_free(
            graph, cache(graph, model, weak), weak, scale=0.001, probe_radius=0.1
        ), traced=True),
        "coarse": of(lambda graph, model, weak: saddle_free(
            graph, cache(graph, model, weak), weak, scale=0.001, probe_radius=0.3
        ), traced=True),
        "both": of(lambda graph, model, weak: both(graph, cache(graph, model, weak), weak)),
        "swapped": of(lambda graph, model, weak: cache(graph, both(graph, model, weak), weak)),
    }, cfg=4.0, steps=4)
    assert close(found["tiny"].latent, found["cached"].latent, 1e-3)
    assert independent_of_step(found["tiny"], found["coarse"])
    assert_acts(found["both"], found["cached"])
    assert torch.equal(found["swapped"].latent, found["both"].latent)
    assert (found["both"].main, found["both"].weak) == (2 * found["cached"].main, 4)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_beside_lazy_cache_the_steps_that_are_made_are_guided(host, caplog, cfg):
    cache = node("LazyCache", reuse_threshold=2.0, start_percent=0.0, end_percent=1.0, verbose=False)
    setup = Setup(models=undecided("sd3"))
    with caplog.at_level(logging.WARNING):
        found = sampled(host, two_models("sd3", host), {
            "cached": Variant(setup, cache),
            "both": Variant(setup, lambda graph, model, weak: both(graph, cache(graph, model, weak), weak)),
            "swapped": Variant(setup, lambda graph, model, weak: cache(graph, both(graph, model, weak), weak)),
        }, cfg=cfg, steps=8)
    assert messages(caplog) == []
    assert_acts(found["both"], found["cached"])
    for label in ("both", "swapped"):
        result = found[label]
        assert 0 < result.calls < 8
        assert (result.main, result.weak) == (2 * result.calls, result.calls)
    assert torch.equal(found["swapped"].latent, found["both"].latent)


def test_a_video_made_frame_by_frame(host, caplog):
    """Each evaluation adds to the cache of earlier frames, so none may be added, and saddle-free guidance says so."""

    def twin(graph):
        path = host.models / "diffusion_models" / "causal_wan.safetensors"
        if not path.with_stem("causal_twin").exists():
            shutil.copy(path, path.with_stem("causal_twin"))
        return graph.add("UNETLoader", unet_name="causal_twin.safetensors", weight_dtype="default")

    of = partial(Variant, sampler=frame_by_frame)
    models = source_of("causal wan", host)
    plain = sampled(host, models, {"plain": of()}, cfg=1.0, steps=3)["plain"]
    with caplog.at_level(logging.WARNING):
        saddle = sampled(host, models, {"saddle": of(guide=saddle_free)}, cfg=1.0, steps=3)["saddle"]
    assert torch.equal(saddle.latent, plain.latent)
    assert [line.split(" did not")[0] for line in messages(caplog)] == ["Saddle-Free Guidance"]
    twins = sampled(host, models, {"twins": of(guide=steered, weak=twin)}, cfg=1.0, steps=3)["twins"]
    assert close(twins.latent, plain.latent, 1e-3)  # a weak model is asked about the same frames, or not at all


@pytest.mark.long  # what compiles blocks is met by test_trust.py, too
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU needs g++")
def test_beside_a_compiled_model(host):
    """On one image at CFG 1, so that the host compiles once."""
    import torch._dynamo.utils

    compiled = node("TorchCompileModel", backend="inductor")
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    of = partial(Variant, Setup(models=undecided("sd3")))
    found = sampled(host, two_models("sd3", host), {
        "bare": of(both),
        "compiled": of(lambda graph, model, weak: both(graph, compiled(graph, model, weak), weak)),
        "swapped": of(lambda graph, model, weak: compiled(graph, both(graph, model, weak), weak)),
    }, batch=1, cfg=1.0, steps=3)
    assert close(found["compiled"].latent, found["bare"].latent, 1e-3)
    assert torch.equal(found["swapped"].latent, found["compiled"].latent)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    assert (found["compiled"].main, found["compiled"].weak) == (6, 3)
