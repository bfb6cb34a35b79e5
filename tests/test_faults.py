"""Faults in the middle of sampling: what breaks, breaks cleanly, and the next run is as on a fresh host."""

import dataclasses
import gc
import random
import sys
import weakref
from functools import partial

import pytest
import stand_ins
import torch
from graphs import Graph, sample, stand_in, steered
from host import failure
from runs import close
from seeds import SEED
from short_runs import GUIDED, LATENTS, Runs, Short, left_behind, one, quick_collections

SPOILED = ("nan", "inf", "-inf")
FAULTS, FAULTS_BETWEEN_CHECKS = 500, 10


@pytest.fixture(scope="module")
def runs(host):
    with quick_collections():
        yield Runs(host)
    host.record.clear()


def fails(runs, short, faults, words="broken on purpose"):
    """Runs it; it must fail at the sampler with these words, or as an interrupt where words is None."""
    executor = runs.attempt(short, faults)
    assert not executor.success and runs.struck() == 1
    data = failure(executor)
    assert data["node_type"] == "KSampler"
    message = data.get("exception_message")
    assert message is None if words is None else words in message
    left_as_it_was(runs)


def left_as_it_was(runs):
    """The guided model and its weak model are as they were when the run began, and hold nothing of it."""
    state = sys.modules[type(runs.faults).__module__].state
    patcher, before = runs.faults.kept["guided"]
    assert state(patcher) == before
    assert all(part.model.current_patcher is None for part in (patcher, *patcher.get_nested_additional_models()))


def lines(caplog):
    """What the pack has logged since last asked."""
    found = [record.getMessage() for record in caplog.records if record.name.endswith("host.run")]
    caplog.clear()
    return found


@pytest.mark.parametrize(
    "family, kind", [*(("demo", kind) for kind in GUIDED), ("sd3", "both"), ("wan", "both shared")]
)
def test_an_interrupt_at_any_evaluation(runs, family, kind):
    """Raised in the model, or by the host's own flag, which the page sets and the network's layers notice."""
    short = Short(family, kind, batch=2)
    fresh = runs.latent(short)
    passes = {where: len(runs.phases(where)) for where in ("main", "weak")}
    assert passes["main"] >= 3 and sum(passes.values()) == 9 + 3 * (kind == "both shared") - 3 * (kind in GUIDED[:2])
    for where, count in passes.items():
        for at in range(1, count + 1):
            fails(runs, short, one("press" if at % 2 else "interrupt", at=at, where=where), words=None)
    assert torch.equal(runs.latent(short), fresh)
    assert left_behind() == []


EVERYWHERE = (
    "model", "calc_cond_batch", "predict_noise", "pre_cfg", "post_cfg", "late_post_cfg", "sampler_sample",
    "outer_sample",
)


@pytest.mark.parametrize("kind", ["both", "both shared"])
def test_an_exception_in_another_packs_hook(runs, kind):
    short = Short("demo", kind, batch=2)
    fresh = runs.latent(short)
    for where, places in (("main", EVERYWHERE), ("after", EVERYWHERE), ("weak", ("model", "calc_cond_batch"))):
        for place in places:
            first_only = place in ("sampler_sample", "outer_sample")
            for at in (1,) if first_only else (1, 3):
                fails(runs, short, one("exception", place, at, where))
    if kind == "both":
        fails(runs, short, one("exception", "outer_sample", 1, "weak"))
    assert torch.equal(runs.latent(short), fresh)
    assert left_behind() == []


# --- Out of memory ---------------------------------------------------------------------------------------------------

RAN_OUT = "{}: memory ran out for its extra evaluation, twice; the rest of this image is made without it."
OUT_OF_MEMORY = [
    (Short("demo", "saddle-free", 2, steps=5, knobs={"refresh_every": refresh, "directions": directions}), "main")
    for refresh in (1, 3) for directions in (1, 2)
]
OUT_OF_MEMORY += [(Short("demo", kind, 2, steps=5), "weak") for kind in ("auto", "shared", "both", "both shared")]
OUT_OF_MEMORY += [
    (Short("demo", "both", 2, 4.0, steps=5, knobs={"directions": 2}), "main"),
    (Short("sd3", "both", 2, steps=4), "main"),
]


def named(cases):
    return [f"{short.family} {short.kind} {short.knobs or ''} {where}" for short, where in cases]


@pytest.mark.parametrize("short, where", OUT_OF_MEMORY, ids=named(OUT_OF_MEMORY))
def test_memory_that_runs_out_for_an_extra_evaluation(runs, caplog, short, where):
    """Once: the picture as if nothing had happened. Twice: guided until then, with one line that says so.

    Nothing of a failed evaluation is alive when the next one begins.
    """
    fresh = runs.latent(short)
    traced = runs.host.record.traces["run"].calls if where == "main" else ()
    acts = [bool((call.weight > 0).any()) for call in traced] or [True] * short.steps
    phases = list(runs.phases(where))
    extra = [at for at, phase in enumerate(phases, 1) if phase == "extra"]
    lines(caplog)
    for at in extra:
        again = runs.latent(short, one("oom", at=at, where=where))
        assert runs.struck() == 1 and lines(caplog) == []
        assert torch.equal(again, fresh)
        repeated = len(runs.phases(where)) - len(phases)
        assert repeated == 1 + place_in_its_call(phases, at)
        assert runs.faults.held and not any(runs.faults.held)
        left_as_it_was(runs)

        halted = runs.latent(short, one("oom", at=f"{at},{at + 1 + place_in_its_call(phases, at)}", where=where))
        assert runs.struck() == 2
        name = "Saddle-Free Guidance" if where == "main" else "Auto-Guidance"
        assert lines(caplog) == [RAN_OUT.format(name)]
        assert not any(runs.faults.held)
        assert torch.equal(halted, until(runs, short, where, call_of(phases, at)))
        lines(caplog)  # a window before the first step leaves nothing to guide, and the log says so
        assert halted.isfinite().all()
        assert torch.equal(halted, fresh) != any(acts[call_of(phases, at) :])
        left_as_it_was(runs)
    assert left_behind() == []


def place_in_its_call(phases, at):
    """How many extra evaluations of its call come before the evaluation at this number."""
    before = phases[: at - 1][::-1]
    return before.index("base") if "base" in before else 0


def call_of(phases, at):
    """The number of the call, from 0, that an evaluation belongs to; a weak model alone has one in each."""
    return phases[:at].count("base") - 1 if "base" in phases else at - 1


def until(runs, short, where, call):
    """The latent of a run whose guidance (the saddle-free one at "main") ends before this call."""
    import comfy.samplers

    patcher, _ = runs.faults.kept["guided"]
    sampling = patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "karras", short.steps).tolist()
    end = end_percent(sampling, sigmas, call)
    changed = {"knobs": short.knobs | {"end_percent": end}} if where == "main" else {"auto_knobs": {"end_percent": end}}
    return runs.latent(dataclasses.replace(short, **changed))


def end_percent(sampling, sigmas, call):
    """The end_percent that leaves out this call and all later ones."""
    if call == 0:
        return 0.0
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if float(sampling.percent_to_sigma(middle)) < sigmas[call - 1] else (middle, high)
    end = float(sampling.percent_to_sigma(high))
    assert sigmas[call] < end <= sigmas[call - 1]
    return high


def test_cached_memory_is_given_back_before_the_second_try(runs, monkeypatch):
    import comfy.model_management

    emptied, empty = [], comfy.model_management.soft_empty_cache

    def watched(*args, **kwargs):
        emptied.append(len(runs.phases("main")))
        return empty(*args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "soft_empty_cache", watched)
    runs.latent(Short("demo", "saddle-free", 2), one("oom", at=2))
    assert emptied.count(2) == 1  # after the probe of the first call, the second pass of the model


def test_a_trace_says_when_memory_ran_out(runs):
    short = Short("demo", "saddle-free", 2, steps=4)
    runs.latent(short, one("oom", at="4,5"))
    calls = runs.host.record.traces["run"].plain()["calls"]
    assert [call["active"] for call in calls] == [True, False, False, False]
    assert [call["reason"] for call in calls] == [None, *["memory ran out"] * 3]


@pytest.mark.parametrize("family, kind", [("demo", "both"), ("sd3", "both shared")])
def test_memory_that_runs_out_without_guidance_is_the_hosts_own_failure(runs, caplog, family, kind):
    short = Short(family, kind, 2)
    fresh = runs.latent(short)
    lines(caplog)
    base = [at for at, phase in enumerate(runs.phases("main"), 1) if phase == "base"]
    for at in base:
        fails(runs, short, one("oom", at=at), words="you ran out of memory on your GPU")
    assert lines(caplog) == []
    assert torch.equal(runs.latent(short), fresh)
    assert left_behind() == []


def test_another_error_of_an_extra_evaluation_is_not_tried_again(runs):
    short = Short("demo", "both", 2)
    fails(runs, short, one("exception", at=2))
    assert runs.phases("main") == ["base", "extra"]
    fails(runs, short, one("exception", at=1, where="weak"))
    assert runs.phases("weak") == ["extra"]


# --- Weak models that do not load ------------------------------------------------------------------------------------


def broken_graph(host, weak_of, change=lambda graph, model: model):
    """Runs a graph whose model is `change(graph, loaded)` and whose weak one `weak_of(graph, model)`: the executor."""
    graph = Graph()
    loaded, positive, negative, latent = stand_in("sd3", host.models)(graph)
    model = change(graph, loaded)
    changed = steered(graph, model, weak_of(graph, model))
    samples = sample(graph, "KSampler", changed, positive, negative, latent(1))
    graph.add("TestCapture", samples=samples, label="run")
    return host.run(graph.prompt)


def with_lora(graph, model):
    """A weak model of other weights in the same file, which is loaded once more for it."""
    return graph.add("LoraLoaderModelOnly", model=model, lora_name="tiny.safetensors", strength_model=1.0)


@pytest.mark.parametrize("kind, words", [("exception", "broken on purpose"), ("oom", "ran out of memory on your GPU")])
def test_a_weak_model_that_fails_while_it_is_loaded(host, kind, words):
    def other(graph, _, broken=True):
        weak = graph.add("CheckpointLoaderSimple", ckpt_name=stand_ins.write_stand_in("sd3", host.models, 1))
        return graph.add("TestLoadFault", model=weak, kind=kind) if broken else weak

    fresh = broken_graph(host, lambda graph, model: other(graph, model, broken=False))
    assert fresh.success
    expected = host.record.latents["run"]
    broken = broken_graph(host, other)
    assert not broken.success
    assert failure(broken)["node_type"] == "KSampler" and words in failure(broken)["exception_message"]
    again = broken_graph(host, lambda graph, model: other(graph, model, broken=False))
    assert again.success and torch.equal(host.record.latents["run"], expected)
    assert left_behind() == []


@pytest.mark.parametrize("kind", ["oom", "interrupt", "exception"])
def test_what_goes_wrong_while_the_file_is_read_again(host, kind):
    """Memory that runs out and an interrupt stay what they are to the host."""
    stand_ins.write_lora("tiny", host.models)
    executor = broken_graph(host, with_lora, lambda graph, model: graph.add("TestReload", model=model, kind=kind))
    assert not executor.success
    data = failure(executor)
    assert data["node_type"] == "AutoGuidance"
    if kind == "exception":
        assert data["exception_type"] == "ValueError"
        assert "a second time from some.safetensors: no model in it. Put" in data["exception_message"]
    else:
        assert ("ran out of memory on your GPU" in data.get("exception_message", "")) == (kind == "oom")
        assert ("exception_message" in data) == (kind == "oom")


@pytest.mark.parametrize("text", ["", "this is no model"], ids=["deleted", "overwritten"])
def test_a_file_that_is_gone_when_the_weak_model_needs_weights_of_its_own(host, text):
    """The LoRA makes the weights differ, so Auto-Guidance loads the file once more."""
    stand_ins.write_lora("tiny", host.models)
    path = host.models / "checkpoints" / stand_ins.write_stand_in("sd3", host.models)
    gone = path.with_name("sd3_gone.safetensors")
    gone.write_bytes(path.read_bytes())

    def replaced(graph, _):
        loaded = graph.add("CheckpointLoaderSimple", ckpt_name=gone.name)
        return graph.add("TestReplaceFile", model=loaded, path=str(gone), text=text)

    executor = broken_graph(host, with_lora, replaced)
    gone.unlink(missing_ok=True)
    assert not executor.success
    data = failure(executor)
    assert data["node_type"] == "AutoGuidance"
    message = data["exception_message"].strip()
    assert "weak_model" in message and gone.name in message and message.endswith(".") and "\n" not in message


# --- Values that are not finite --------------------------------------------------------------------------------------


NOT_FINITE = [
    Short("demo", "saddle-free", 3, knobs={"directions": 2, "refresh_every": 2}), Short("demo", "both", 3),
    Short("demo", "both shared", 3, 4.0, sampler="dpmpp_2m"), Short("sd3", "both", 3, sampler="heun", steps=2),
    Short("wan", "saddle-free", 3),
]


@pytest.mark.parametrize("short", NOT_FINITE, ids=[f"{short.family} {short.kind}" for short in NOT_FINITE])
def test_values_that_are_not_finite_stay_with_their_images(runs, caplog, short):
    """At every evaluation. The others are bit-identical; an image is lost only where the model itself lost it."""
    fresh = runs.latent(short)
    for where in ("main", "weak"):
        phases = list(runs.phases(where)) if where == "main" else ["extra"] * (short.kind != "saddle-free") * 3
        for at, phase in enumerate(phases, 1):
            kind, images = SPOILED[at % 3], ("1", "0,2", "")[(at + (where == "weak")) % 3]
            latent = runs.latent(short, one(kind, at=at, where=where, images=images))
            stays_with_its_images(runs, latent, fresh, images, torch.equal)
            assert all(image.isfinite().all() for image in latent) == (phase == "extra")
            left_as_it_was(runs)
    assert torch.equal(runs.latent(short), fresh)


def stays_with_its_images(runs, latent, fresh, images, same):
    """The images that were not spoiled are as they were, and finite is each whose base predictions were."""
    assert runs.struck() == 1
    spoiled = {int(image) for image in images.split(",") if image} or set(range(len(fresh)))
    broken = set().union(*runs.faults.broken.values())
    assert broken <= spoiled
    for image, (now, before) in enumerate(zip(latent, fresh, strict=True)):
        assert image in spoiled or same(now, before)
        assert now.isfinite().all() == (image not in broken)


@pytest.mark.parametrize("family, kind", [
    ("demo", "both"), ("sd3", "saddle-free"), ("sd3", "both"), ("wan", "both shared"), ("flux", "both"),
])
def test_half_precision_at_extreme_scales(runs, family, kind):
    """Where the network's half-precision numbers overflow, that image is lost and no other; the next run is as before.

    Of the FLUX stand-in, which normalises what it is given, only the latents grow.
    """
    moderate = Short(
        family, kind, 3, dtype="fp16", knobs={"scale": 2.0, "directions": 2},
        sigma_max=1000.0 if family == "demo" else None,
    )
    extreme = {"knobs": {"scale": 20.0, "directions": 2}, "auto_knobs": {"scale": 20.0}, "steps": 14}
    before = runs.latent(moderate)
    assert before.isfinite().all()
    latent = runs.latent(dataclasses.replace(moderate, **extreme))
    broken = set().union(*runs.faults.broken.values())
    assert broken or (family == "flux" and latent.abs().max() > 65504)
    for image, value in enumerate(latent):
        assert value.isfinite().all() == (image not in broken)
    left_as_it_was(runs)
    assert torch.equal(runs.latent(moderate), before)


def test_a_correction_too_large_for_half_precision_is_left_out(runs):
    """For users of the library, whose predictions may themselves be in half precision."""
    from saddle_free_guidance.guidance import SaddleFree, auto_guidance

    good, bad = torch.tensor([1.0, 2.0]), torch.tensor([30000.0, -60000.0])
    denoised = torch.stack([good, bad]).half()
    steered = auto_guidance(denoised, -denoised, scale=20.0)
    guide, x = SaddleFree(4e4, refresh_every=1), torch.tensor([[0.1, 0.2], [3.0, -6.0]])
    for factor in (4.0, 2.0, 1.0):  # scale * sigma_hat is 4e5 for the second image
        here = (factor * x).half()
        guided = guide(lambda rows, images: 2 * rows, here, alpha=1.0, std=factor * torch.tensor([0.1, 10.0]))
    assert (guide.trace[-1].weight == 1).all()
    for correction in (steered, guided - 2 * here):
        assert correction.dtype == torch.float16
        assert correction[0].abs().min() > 0
        assert torch.equal(correction[1], torch.zeros(2).half())


# --- Sizes -----------------------------------------------------------------------------------------------------------

SIZES = [
    ("sd3", (16, 1, 1)), ("flux", (16, 1, 1)), ("wan", (16, 1, 1, 1)), ("sd3", (16, 3, 5)), ("sd3", (16, 0, 0)),
    ("sd3", (16, 1, 0)), ("flux", (16, 0, 0)), ("wan", (16, 0, 4, 4)),
]


@pytest.mark.parametrize("family, shape", SIZES)
@pytest.mark.parametrize("kind", ["saddle-free", "auto", "both shared"])
def test_the_smallest_latents_do_as_without_the_nodes(runs, family, shape, kind):
    """One value per channel is sampled; none at all fails in the model as it does without guidance."""
    plain = runs.attempt(Short(family, "plain", 2, shape=shape))
    guided = runs.attempt(Short(family, kind, 2, shape=shape, knobs={"directions": 3}))
    assert guided.success == plain.success == (0 not in shape)
    if guided.success:
        assert runs.host.record.latents["run"].shape == (2, *shape)
        assert runs.host.record.latents["run"].isfinite().all()
    else:
        assert failure(guided)["exception_message"] == failure(plain)["exception_message"]
        assert failure(guided)["node_type"] == failure(plain)["node_type"] == "KSampler"


@pytest.mark.parametrize("family", LATENTS)
def test_a_batch_of_none_fails_as_without_the_nodes(runs, family):
    messages = set()
    for kind in ("plain", "saddle-free", "both"):
        executor = runs.attempt(Short(family, kind, 0))
        assert not executor.success
        messages.add(failure(executor)["exception_message"])
    assert len(messages) == 1


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 6, 8), (3, 8, 6), (3, 0, 0)])
def test_the_demo_model_names_the_sizes_it_can_draw(runs, shape):
    executor = runs.attempt(Short("demo", "both", 1, shape=shape))
    assert not executor.success
    data = failure(executor)
    message = data["exception_message"].strip()
    assert data["node_type"] == "KSampler"
    assert "multiple" in message and "4" in message and f"{shape[2]}x{shape[1]}" in message and message.endswith(".")


# --- Many at random --------------------------------------------------------------------------------------------------


def test_no_model_outlives_its_graph_after_a_fault(host):
    """Without a cache, guided models and their networks are gone with the run, however it ended."""
    for fault in (one("exception", at=2), one("interrupt", at=3), one("oom", at="2,3"), one("nan", at=2), {}):
        for kind in ("both", "both shared"):
            host.run(Short("demo", kind, 2).prompt(host, faults=fault))
            patcher, _ = host.record.faults.kept["guided"]
            parts = [patcher, *patcher.get_nested_additional_models()]
            assert len(parts) == 1 + (kind == "both")
            alive = [weakref.ref(thing) for part in parts for thing in (part, part.model)]
            del patcher, parts
            host.record.clear()
            gc.collect()
            assert [reference() for reference in alive] == [None] * len(alive)
    assert left_behind() == []


def chosen_runs(generator):
    """Short runs of all kinds."""
    for family in ("demo", "sd3"):
        for kind in GUIDED:
            for batch in (1, 2, 3):
                knobs = {
                    "refresh_every": generator.choice((0, 0, 1, 2)), "directions": generator.choice((1, 2)),
                    "guidance_seed": generator.randrange(2**64),
                }
                yield Short(
                    family, kind, batch, generator.choice((1.0, 4.0)), generator.choice((2, 3)),
                    generator.choice(("euler", "heun", "dpmpp_2m", "euler_ancestral")), knobs,
                )


def chosen_fault(generator, counts, batch):
    """A fault that happens: where, place, kind, passes and images. counts: passes by (where, place) without a fault."""
    where, place = generator.choice(sorted(counts))
    if generator.random() < 0.6:
        place = "model"
    kind = generator.choice(("interrupt", "press", "exception", "oom", "oom", "nan", "inf", "-inf"))
    at = generator.randint(1, counts[where, place])
    twice = kind == "oom" and place == "model" and generator.random() < 0.5
    images = generator.sample(range(batch), generator.randint(0, batch))
    return where, place, kind, f"{at},{at + 1}" if twice else str(at), ",".join(map(str, images))


class Fresh:
    """What a run gives without a fault."""

    def __init__(self, runs, short):
        self.latent = runs.latent(short)
        self.phases = {where: list(runs.phases(where)) for where in ("main", "after", "weak")}
        self.counts = {
            (label.split()[0], place): count for (label, place), count in runs.faults.counts.items() if count
        }


def check_fault(runs, caplog, short, fresh, fault):
    """Runs it with the fault; raises where anything but the fault itself shows."""
    where, place, kind, at, images = fault
    lines(caplog)
    executor = runs.attempt(short, one(kind, place, at, where, images))
    latent, logged = runs.host.record.latents.get("run"), lines(caplog)
    assert runs.struck() >= 1
    left_as_it_was(runs)
    if kind in ("interrupt", "press"):
        assert not executor.success and "exception_message" not in failure(executor)
    elif kind == "exception" and executor.success:  # a way of asking that is not the sampler's own was given up
        assert place == "calc_cond_batch" or fresh.phases[where][int(at) - 1] == "extra"
        assert all(map(torch.isfinite, latent.mean(dim=tuple(range(1, latent.ndim)))))
    elif kind == "exception":
        assert "broken on purpose" in failure(executor)["exception_message"]
    elif kind == "oom":
        check_out_of_memory(executor, latent, logged, fresh, fault)
    else:
        assert executor.success, failure(executor)
        # With the automatic schedule the others may be looked at in a smaller batch, which rounds otherwise.
        same = partial(close, tolerance=1e-3) if short.knobs["refresh_every"] == 0 else torch.equal
        if place == "model":
            stays_with_its_images(runs, latent, fresh.latent, images, same)
        spoiled = {int(image) for image in images.split(",") if image} or set(range(short.batch))
        untouched = set(range(short.batch)) - spoiled if place not in ("sampler_sample", "outer_sample") else spoiled
        assert all(same(latent[image], fresh.latent[image]) for image in untouched)


def check_out_of_memory(executor, latent, logged, fresh, fault):
    where, place, _, at, _ = fault
    first, twice = int(at.split(",")[0]), "," in at
    extra = place == "model" and fresh.phases[where][first - 1] == "extra"
    if extra or executor.success:
        assert executor.success, failure(executor)
        assert place in ("model", "calc_cond_batch")
        assert sum("memory ran out" in line for line in logged) == twice
        assert latent.isfinite().all()
        assert twice or close(latent, fresh.latent, 1e-3)  # what was measured of the model is not measured again
    else:
        message = failure(executor)["exception_message"]
        assert "out of memory on purpose" in message and "you ran out of memory on your GPU" in message


def test_hundreds_of_faults_at_random(runs, caplog):
    runs.start_anew()
    gc.freeze()  # what the tests before have left in caches
    generator = random.Random(SEED)
    choices = list(chosen_runs(generator))
    generator.shuffle(choices)
    choices.sort(key=lambda short: short.family)  # the models stay loaded
    known = {}
    for number in range(FAULTS):
        short = choices[number * len(choices) // FAULTS]
        fresh = known.get(short) or known.setdefault(short, Fresh(runs, short))
        fault = chosen_fault(generator, fresh.counts, short.batch)
        told = f"seed {SEED}, fault {number}: {fault} in {short}"
        try:
            check_fault(runs, caplog, short, fresh, fault)
            if number % FAULTS_BETWEEN_CHECKS == FAULTS_BETWEEN_CHECKS - 1:
                assert torch.equal(runs.latent(short), fresh.latent), "the next run is not as on a fresh host"
            if number % 100 == 99:
                runs.start_anew()
                assert left_behind() == []
        except AssertionError as error:
            raise AssertionError(f"{told}: {error}") from error
    for short in choices[:: len(choices) // 6]:
        assert torch.equal(runs.latent(short), known[short].latent), f"seed {SEED}: {short}"
    assert left_behind() == []
