"""Interrupts and exceptions in the middle of sampling, and weak models that do not load: the next run is as before."""

import gc
import weakref

import pytest
import stand_ins
import torch
from fault_checks import fails
from graphs import Graph, sample, stand_in, steered
from host import failure
from short_runs import GUIDED, Short, left_behind, one


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
