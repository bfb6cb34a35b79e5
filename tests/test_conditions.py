"""Guidance under every kind of condition: probe and weak model are asked as the base is, and masks are kept."""

from dataclasses import dataclass
from functools import partial

import conditions as edits
import pytest
import stand_ins
import torch
from cases import case as either_way
from cases import long_but
from graphs import guided, steered
from runs import close, two_models
from test_auto_guidance import second_copy
from variants import Setup, Variant, independent_of_step, sampled, unchanged, undecided


def saddle_free(graph, model, weak, **knobs):
    return guided(graph, model, **knobs)


def both(graph, model, weak, saddle=1.0, auto=1.5):
    return guided(graph, steered(graph, model, weak, scale=auto), scale=saddle)


GUIDANCE = {"saddle": saddle_free, "auto": steered, "both": both}


def windows(graph, model, schedule="standard_static"):
    return graph.add(
        "ContextWindowsManual", model=model, context_length=2, context_overlap=1, closed_loop=False, dim=2,
        context_schedule=schedule, context_stride=1, fuse_method="pyramid", freenoise=False,
        cond_retain_index_list="", split_conds_to_windows=False, latent_retain_index_list="", causal_window_fix=False,
    )


@dataclass(frozen=True)
class Case:
    """A family and what users do to its conditions or to the main model.

    at: CFG scales; seen_at: those where it changes the picture; in_pieces: the host hands the base over in pieces.
    """

    family: str
    conditions: callable = unchanged
    main: callable = unchanged
    batch: int = 3
    at: tuple = (1.0, 4.0)
    seen_at: tuple = (1.0, 4.0)
    in_pieces: bool = False
    saddles: bool = True  # whether a saddle is open while the condition applies


CASES = {
    "area": Case("sd3", edits.region("area")),
    "mask": Case("sd3", edits.region("mask")),
    "a mask an image": Case("sd3", edits.masked(3)),
    "more masks": Case("sd3", edits.masked(5)),
    "mask bounds": Case("sd3", edits.masked(1, "mask bounds")),
    "range": Case("sd3", edits.time_range),
    "range with nothing after it": Case("sd3", edits.early_only, at=(4.0,), saddles=False),
    "keyframes": Case("sd3", edits.keyframes),
    "regional LoRA": Case("sd3", edits.regional_lora),
    "combine": Case("sd3", edits.combined),
    "a text an image": Case("sd3", edits.per_image("sd3", 3)),
    "2 texts": Case("sd3", edits.per_image("sd3", 2)),
    "5 texts": Case("sd3", edits.per_image("sd3", 5)),
    "empty negative": Case("sd3", edits.empty_negative, seen_at=(4.0,)),
    "no negative": Case("sd3", edits.no_negative, at=(4.0,)),
    "1 hint": Case("sd3", edits.hints(1)),
    "2 hints": Case("sd3", edits.hints(2)),
    "5 hints": Case("sd3", edits.hints(5)),
    "reference": Case("flux", edits.reference("1,16,16,16")),
    # The host takes a batch of conditions for frames.
    "windows": Case("wan", main=windows, batch=1, at=(4.0,), in_pieces=True),
    "moving windows": Case(
        "wan", main=partial(windows, schedule="standard_uniform"), batch=1, at=(1.0,), in_pieces=True
    ),
}


def assert_acts(result, plain, least=5e-4):
    """Finite, and another picture for each image of the batch.

    A push has a length of its own: where random weights make latents of hundreds, it is no larger.
    """
    assert result.latent.isfinite().all()
    changes = (result.latent - plain.latent).flatten(1).abs().amax(dim=1)
    assert (changes > least * plain.latent.std().clamp(max=10)).all()


def at_one_cfg(cases, long=()):
    """Each case at one of its CFG scales in turn; at the other one it is long, and where its name is among the long."""
    for index, (name, case) in enumerate(cases.items()):
        for place, cfg in enumerate(case.at):
            yield either_way(name, cfg, is_long=place != index % len(case.at) or name in long)


@pytest.mark.parametrize("name, cfg", list(at_one_cfg(CASES)))
def test_probe_and_weak_model_are_asked_under_the_same_condition(host, name, cfg):
    """A base with it and a probe or a weak model without it would differ by what it does."""
    case = CASES[name]
    stand_ins.write_lora("tiny", host.models)
    of = partial(Variant, Setup(conditions=case.conditions, main=case.main, models=undecided(case.family)))
    found = sampled(host, two_models(case.family, host), {
        "bare": Variant(Setup(models=undecided(case.family))),
        "positive alone": of(settings={"cfg": 1.0}),
        "plain": of(),
        "off": of(partial(both, saddle=0.0, auto=1.0)),
        "saddle": of(saddle_free),
        "auto": of(steered),
        "both": of(both),
        "again": of(both),
        "tiny": of(partial(saddle_free, scale=0.001, probe_radius=0.1), traced=True),
        "coarse": of(partial(saddle_free, scale=0.001, probe_radius=0.3), traced=True),
        "twins": of(partial(steered, scale=3.0), weak=lambda graph: second_copy(graph, host, case.family)),
    }, batch=case.batch, cfg=cfg, steps=4 if case.in_pieces else 3)
    plain, once = found["plain"], found["positive alone"].main
    assert close(found["bare"].latent, plain.latent, 0.01) == (cfg not in case.seen_at)
    assert torch.equal(found["off"].latent, plain.latent)
    assert (found["off"].main, found["off"].weak) == (plain.main, 0)
    for label in ("saddle", "auto", "both"):
        if case.saddles or label != "saddle":
            assert_acts(found[label], plain)
        again = once if case.in_pieces else 0
        assert found[label].main == plain.main + again + (0 if label == "auto" else once)
        assert found[label].weak == (0 if label == "saddle" else once)
    assert torch.equal(found["again"].latent, found["both"].latent)
    assert independent_of_step(found["tiny"], found["coarse"])
    assert close(found["tiny"].latent, plain.latent, 5e-4)
    assert close(found["twins"].latent, plain.latent, 1e-3)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_an_image_with_its_own_text_is_the_image_alone(host, cfg):
    texts = edits.per_image("sd3", 3)
    alone = Setup(
        conditions=edits.image_of(1, texts), models=undecided("sd3"),
        latent=lambda graph, latent: graph.add("LatentFromBatch", samples=latent, batch_index=1, length=1),
    )
    found = sampled(host, two_models("sd3", host), {
        "batch": Variant(Setup(conditions=texts, models=undecided("sd3")), both),
        "alone": Variant(alone, both),
        "plain": Variant(alone),
    }, cfg=cfg, steps=4)
    assert close(found["batch"].latent[1:2], found["alone"].latent, 1e-3)
    assert_acts(found["alone"], found["plain"])


@pytest.mark.parametrize(
    "conditions",
    [edits.time_range, edits.hints(1, end=0.5), edits.two_hints, edits.keyframes],
    ids=["range", "hint", "two hints", "keyframes"],
)
def test_the_schedule_of_the_main_model_says_when_a_condition_applies(host, conditions):
    """A twin with another shift is asked at the sigma of the main model, hence under the same condition."""
    stand_ins.write_lora("tiny", host.models)
    setup = Setup(conditions=conditions)

    def shifted_twin(graph):
        return graph.add("ModelSamplingSD3", model=second_copy(graph, host, "sd3"), shift=12.0)

    found = sampled(host, two_models("sd3", host), {
        "plain": Variant(setup),
        "twins": Variant(setup, partial(steered, scale=3.0), weak=shifted_twin),
        "again": Variant(setup),
    }, cfg=1.0, steps=8)
    assert torch.equal(found["again"].latent, found["plain"].latent)
    assert close(found["twins"].latent, found["plain"].latent, 1e-3)


def size(family):
    """Width of a family's latent, of the first of several parts."""
    shape = stand_ins.FAMILIES[family].latent_shape
    return shape[-1] if isinstance(shape[0], int) else shape[0][-1]


def inpainting(family, count, soft):
    """A latent with a picture in it, and noise masks."""

    def latent(graph, empty):
        masks = graph.add("TestMasks", count=count, size=size(family), soft=soft)
        return graph.add("SetLatentNoiseMask", samples=graph.add("TestPicture", samples=empty), mask=masks)

    return latent


def picture_and_mask(host, family, count, soft, batch):
    """The same two as tensors in the shape of a result."""
    import comfy.utils

    def packed(parts):
        return comfy.utils.pack_latents(parts)[0] if len(parts) > 1 else parts[0]

    (picture,) = host.node("TestPicture")().make({"samples": stand_ins.empty_latent(family, batch)})
    (masks,) = host.node("TestMasks")().make(count, size(family), soft)
    pictures = picture["samples"].unbind() if picture["samples"].is_nested else [picture["samples"]]
    parts = [comfy.utils.reshape_mask(masks, pictures[0].shape)] + [torch.ones_like(part) for part in pictures[1:]]
    return packed(pictures), packed(parts)


def differential(graph, model):
    return graph.add("DifferentialDiffusion", model=model, strength=1.0)


@pytest.mark.parametrize(
    "family, count, soft, sampler, cfg",
    long_but([
        ("sd3", 3, False, "euler", 1.0), ("sd3", 3, False, "heun", 4.0), ("sd3", 1, False, "dpmpp_sde", 4.0),
        ("sd3", 3, True, "euler", 1.0), ("sd3", 3, True, "dpmpp_2m", 4.0), ("flux", 3, False, "euler", 4.0),
        ("wan", 1, False, "euler", 4.0), ("ltxav", 1, False, "euler", 1.0), ("ltxav", 1, False, "heun", 4.0),
        ("sd15_inpaint", 1, True, "euler_ancestral", 1.0),
    ], [
        ("sd3", 3, False, "heun", 4.0), ("sd3", 1, False, "dpmpp_sde", 4.0), ("sd3", 3, True, "dpmpp_2m", 4.0),
        ("flux", 3, False, "euler", 4.0), ("wan", 1, False, "euler", 4.0), ("ltxav", 1, False, "euler", 1.0),
        ("sd15_inpaint", 1, True, "euler_ancestral", 1.0),
    ]),
)
def test_protected_pixels_stay(host, family, count, soft, sampler, cfg):
    """Hard masks, or soft ones with differential diffusion; what they protect is as without guidance and as before."""
    batch = 1 if family == "sd15_inpaint" else 3  # which is slow
    picture, mask = picture_and_mask(host, family, count, soft, batch)
    of = partial(Variant, Setup(
        latent=inpainting(family, count, soft), main=differential if soft else unchanged, models=undecided(family)
    ))
    found = sampled(host, two_models(family, host), {
        "unmasked": Variant(Setup(models=undecided(family))),
        "plain": of(),
        "off": of(partial(both, saddle=0.0, auto=1.0)),
        "saddle": of(saddle_free),
        "auto": of(steered),
        "both": of(both),
        "again": of(both),
        "tiny": of(partial(saddle_free, scale=0.001)),
        "twins": of(partial(steered, scale=3.0), weak=lambda graph: second_copy(graph, host, family)),
    }, batch=batch, cfg=cfg, steps=4, sampler=sampler)
    plain = found["plain"].latent
    free = (mask > 0).expand_as(plain)
    assert 0 < free.sum() < free.numel()
    assert (found["unmasked"].latent - picture)[~free].abs().max() > 0.1
    assert (plain - picture)[~free].abs().max() < 1e-4
    assert torch.equal(found["off"].latent, plain)
    assert torch.equal(found["again"].latent, found["both"].latent)
    for label in ("saddle", "auto", "both"):
        result = found[label]
        assert torch.equal(result.latent[~free], plain[~free])
        assert_acts(result, found["plain"])
        assert (result.main, result.weak) == (
            found["plain"].main + (0 if label == "auto" else result.calls), 0 if label == "saddle" else result.calls
        )
    assert close(found["tiny"].latent, plain, 1e-3)
    assert close(found["twins"].latent, plain, 1e-3)


def image_to_image(graph, model, positive, negative, latent, *, cfg, steps, denoise=0.2):
    return graph.add(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, seed=7, cfg=cfg,
        sampler_name="euler", scheduler="simple", steps=steps, denoise=denoise,
    )


@pytest.mark.parametrize(
    "family, batch, cfg",
    long_but([
        ("demo", 3, 4.0), ("sd15", 1, 1.0), ("sd3", 3, 1.0), ("sd3", 3, 4.0), ("sd35", 3, 4.0), ("flux", 3, 1.0),
        ("flux", 3, 4.0), ("wan", 3, 4.0), ("ltxav", 3, 4.0),
    ], [("demo", 3, 4.0), ("sd15", 1, 1.0), ("sd35", 3, 4.0), ("flux", 3, 1.0), ("wan", 3, 4.0), ("ltxav", 3, 4.0)]),
)
def test_a_picture_changed_a_little_is_guided_a_little(host, family, batch, cfg):
    def picture(graph, empty):
        if family == "demo":
            empty = graph.add("TestLatentOfShape", shape=f"{batch},3,32,32")
        return graph.add("TestPicture", samples=empty)

    def amplified(graph, model):
        return graph.add("TestUndecided", model=model, amount=1.0)

    of = partial(Variant, Setup(latent=picture, models=amplified), sampler=image_to_image)
    found = sampled(host, two_models(family, host), {
        "none": of(sampler=partial(image_to_image, denoise=0.0)),
        "plain": of(),
        "whole": of(sampler=partial(image_to_image, denoise=1.0)),
        "off": of(partial(both, saddle=0.0, auto=1.0)),
        **{label: of(guide) for label, guide in GUIDANCE.items()},
        "again": of(both),
        "tiny": of(partial(saddle_free, scale=0.001)),
    }, batch=batch, cfg=cfg, steps=3)
    original, plain = found["none"].latent, found["plain"]
    assert torch.equal(found["off"].latent, plain.latent)
    assert torch.equal(found["again"].latent, found["both"].latent)
    for label in GUIDANCE:
        result = found[label]
        assert_acts(result, plain, 1e-4)
        assert (result.main, result.weak) == (3 if label == "auto" else 6, 0 if label == "saddle" else 3)
    assert close(found["tiny"].latent, plain.latent, 5e-4)
    far = {label: (result.latent - original).square().mean() for label, result in found.items()}
    assert 0 < far["saddle"] < 1.05 * far["plain"] < far["whole"]


def in_halves(graph, model, positive, negative, latent, *, cfg, steps, sampler):
    """Two samplers, the second of which goes on where the first stopped."""
    common = {
        "model": model, "positive": positive, "negative": negative, "cfg": cfg, "steps": steps, "noise_seed": 7,
        "sampler_name": sampler, "scheduler": "simple",
    }
    first = graph.add(
        "KSamplerAdvanced", latent_image=latent, add_noise="enable", start_at_step=0, end_at_step=steps // 2,
        return_with_leftover_noise="enable", **common,
    )
    return graph.add(
        "KSamplerAdvanced", latent_image=first, add_noise="disable", start_at_step=steps // 2, end_at_step=10000,
        return_with_leftover_noise="disable", **common,
    )


def apart(one, other, plain):
    """How far two latents differ, in parts of what guidance changed in the first, of each image."""
    return ((one - other).flatten(1).norm(dim=1) / (one - plain).flatten(1).norm(dim=1)).tolist()


@pytest.mark.parametrize("sampler, family, cfg", long_but(
    [(sampler, *model) for sampler in ("euler", "heun") for model in (("sd3", 1.0), ("flux", 4.0))],
    [("heun", "sd3", 1.0), ("euler", "flux", 4.0)],
))
def test_a_run_in_two_halves(host, family, cfg, sampler):
    """Auto-guidance is that of one run; a direction is looked for anew, and where all are saddles it is another one."""
    of = partial(Variant, Setup(models=undecided(family)))
    found = sampled(host, two_models(family, host), {
        f"{way} {label}": of(
            guide, traced=label == "saddle", **({"sampler": in_halves} if way == "halves" else {})
        )
        for way in ("whole", "halves")
        for label, guide in {"plain": Variant.guide, "tiny": partial(saddle_free, scale=0.001), **GUIDANCE}.items()
    }, cfg=cfg, steps=4, sampler=sampler)
    plain = found["halves plain"]
    assert close(found["whole plain"].latent, plain.latent, 1e-3)
    assert close(found["halves auto"].latent, found["whole auto"].latent, 1e-3)
    assert close(found["halves tiny"].latent, plain.latent, 5e-4)
    for label in GUIDANCE:
        whole, halves = found[f"whole {label}"], found[f"halves {label}"]
        assert (halves.calls, halves.main, halves.weak) == (whole.calls, whole.main, whole.weak)
        assert_acts(halves, plain)
    whole, halves = found["whole saddle"], found["halves saddle"]
    same = [torch.equal(*(run.trace.calls[call].rayleigh for run in (whole, halves))) for call in range(whole.calls)]
    first = whole.calls // 2 + (sampler == "heun")  # whose last step alone is one call
    assert same == [True] * first + [False] * (whole.calls - first)
    assert all(1.1 < ratio < 1.5 for ratio in apart(whole.latent, halves.latent, plain.latent))  # 1.41 at right angles


def test_a_second_half_looks_again_for_what_the_first_half_has_found(host):
    """With the demo model, automatic: until there the same pushes, and in the end nearer to it than no guidance is."""
    guide = partial(saddle_free, scale=8.0, refresh_every=0)
    found = sampled(host, two_models("demo", host), {
        "plain": Variant(), "whole": Variant(guide=guide, traced=True),
        "halves": Variant(guide=guide, traced=True, sampler=in_halves),
    }, cfg=1.0, steps=8, sampler="euler")
    pushes = [torch.stack([call.push for call in found[label].trace.calls]) for label in ("whole", "halves")]
    assert torch.equal(*(each[:4] for each in pushes)) and pushes[0][3].min() > 0.1
    assert not torch.equal(*(each[4:] for each in pushes))
    ratios = apart(*(found[label].latent for label in ("whole", "halves", "plain")))
    assert all(0 < ratio < 0.5 for ratio in ratios)
