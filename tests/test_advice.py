"""What the trace advises: from made-up traces in numbers, and in the host, where what it promises must come true."""

import inspect
import json

import pytest
import torch
from graphs import Graph, demo, emoji, guided, output, sample, watched
from pack import ROOT
from saddle_free_guidance.guidance import CurvatureTrace, SaddleFree
from saddle_free_guidance.guidance.advice import SENTENCES, advise

SIGMAS = (8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0)  # of eight steps


def sigma_of(share):
    """A model's percent_to_sigma, straight from 8 to 0."""
    return 8 * (1 - share)


def record(quotients, errors=1e-4, evaluations=2, acted=None, off=None):
    """A plain trace of one image; each of these one a call or one for all; acted where a quotient is certain."""
    count = len(quotients)
    errors, evaluations = (each if isinstance(each, list) else [each] * count for each in (errors, evaluations))
    if acted is None:
        acted = [value is not None and value - 1.01 > 3 * error for value, error in zip(quotients, errors)]
    calls = [
        {"sigma": sigma, "active": True, "reason": None, "rayleigh": [[value]], "error": [[error]],
         "push": [float(did)], "acted": [did], "evaluations": [spent]}
        for sigma, value, error, did, spent in zip(SIGMAS, quotients, errors, acted, evaluations, strict=False)
    ]
    return {"first": 0, "calls": calls, "window": None, "sigmas": [8.0, 0.0], "off": off}


def advised(*arguments, **options):
    """Key -> figures of what the made-up trace advises."""
    return {said["key"]: said["figures"] for said in advise(record(*arguments, **options), SIGMAS, sigma_of)}


def test_where_no_quotient_is_above_one_there_is_nothing_to_find():
    (said,) = advise(record([0.2, 0.5, 0.83, 0.4], evaluations=[1, 2, 3, 1]), SIGMAS, sigma_of)
    assert said == {
        "key": "nothing", "figures": {"largest": "0.83", "least": "1.01", "spent": "3"},
        "text": "Nothing to find: guidance changed nothing. The largest quotient was 0.83, and a saddle needs more "
        "than 1.01. Extra evaluations a picture: 3.",
    }


def test_only_looks_count_and_no_value_kept_between_them():
    assert advised([0.2, 0.9, 0.9], evaluations=[2, 1, 1])["nothing"]["largest"] == "0.2"


def test_a_run_without_a_look_cost_nothing_or_was_too_short():
    assert advised([None] * 5, [None] * 5, evaluations=1) == {"idle": {}}
    assert advised([None] * 2, [None] * 2, evaluations=1) == {"short": {"calls": "2"}}


def test_a_quotient_above_one_that_is_not_certain_is_noise():
    assert advised([0.4, 1.3, 1.4], [0.01, 0.2, 0.15]) == {"noise": {"quotient": "1.4", "error": "0.45", "spent": "3"}}


def test_quotients_below_one_that_may_be_saddles_are_noise_where_they_are_most():
    assert advised([0.9, 0.7, 0.2], [0.1, 0.2, 0.01])["noise"] == {"quotient": "0.9", "error": "0.3", "spent": "3"}
    assert set(advised([0.9, 0.2, 0.2], [0.1, 0.01, 0.01])) == {"nothing"}
    assert set(advised([0.98] * 3, [0.02] * 3)) == {"nothing"}  # a saddle that this hides would hardly be pushed


def test_it_tells_the_steps_and_what_an_earlier_end_saves():
    said = advised([0.5, 1.5, 1.5, 1.4, 0.9, 0.8, 0.7, 0.6], evaluations=[2, 3, 1, 2, 2, 1, 2, 1])
    assert said == {
        "pushes": {"first": "2", "last": "4", "steps": "8", "spent": "6"}, "end": {"percent": "0.44", "saved": "2"}
    }
    assert 4.0 < sigma_of(0.44) < 5.0


def test_an_end_that_saves_nothing_is_not_advised():
    assert set(advised([0.5, 1.5, 1.5, 1.4], evaluations=[2, 3, 1, 2])) == {"pushes"}
    assert set(advised([0.5, 1.5, 0.9, 0.9], evaluations=[2, 3, 1, 1])) == {"pushes"}


def test_a_later_start_is_advised_where_every_call_is_probed_and_leaves_two_to_settle():
    quotients = [0.1, 0.2, 0.3, 0.5, 0.7, 1.5, 1.6, 1.7]
    said = advised(quotients)
    assert said["start"]["saved"] == "3" and "end" not in said
    assert 5.0 < sigma_of(float(said["start"]["percent"])) < 6.0  # before the fourth call, two before the sixth
    assert "start" not in advised(quotients, evaluations=[2, 1, 2, 2, 2, 2, 2, 2])
    assert "start" not in advised([0.5, 0.7, 1.5, 1.6, 1.7])


def test_no_percent_is_told_where_no_thousandth_lies_between_two_calls():
    trace = record([1.5, 0.9, 0.8])
    trace["calls"][1]["sigma"] = 7.9999
    assert [said["key"] for said in advise(trace, SIGMAS, sigma_of)] == ["pushes"]
    assert [said["key"] for said in advise(trace)] == []


def test_looks_too_uncertain_to_push_are_counted_beside_those_that_pushed():
    said = advised([1.9, 1.4, 1.3, 0.9], [0.01, 0.2, 0.3, 0.01])
    assert said["unsure"] == {"looks": "2", "quotient": "1.4", "error": "0.6"}


def test_evaluations_are_those_of_a_picture():
    trace = record([1.5, 0.9, 0.8], evaluations=2)
    for call in trace["calls"]:
        for kind in ("rayleigh", "error", "push", "acted", "evaluations"):
            call[kind] = call[kind] * 2
        call["evaluations"] = [2, 1]
    said = {each["key"]: each["figures"] for each in advise(trace, SIGMAS, sigma_of)}
    assert said["pushes"]["spent"] == "1.5" and said["end"]["saved"] == "1"


def test_without_a_run_there_is_no_advice():
    assert advise(record([1.5], off="Guidance is off.")) == [] and advise(record([])) == []


def test_the_certainty_is_the_guides_own():
    parameters = (inspect.signature(function).parameters for function in (advise, SaddleFree.__init__))
    assert len({each["certainty"].default for each in parameters}) == 1


# --- In the host -----------------------------------------------------------------------------------------------------


def run(host, batch=2, steps=12, sampler="euler", cfg=1.0, digit="3", **knobs):
    """The latent, the advice by key, the trace's calls and the evaluations of a run of the digits model."""
    graph = Graph()
    model, positive, negative, latent = demo(digit)(graph)
    model = guided(graph, watched(graph, model, "main"), **({"scale": 4.0} | knobs))
    samples = sample(
        graph, "KSampler", model, positive, negative, latent(batch), steps=steps, sampler=sampler, scheduler="karras",
        cfg=cfg,
    )
    graph.add("TestCapture", samples=samples, label="latent")
    graph.add("TestCaptureTrace", trace=output(model, 1), latent=samples, label="trace")
    latents = host.latents(graph.prompt)["latent"]
    plain = host.record.traces["trace"].plain()
    evaluations = sum(sum(call["evaluations"]) for call in plain["calls"] if call["active"])
    idle = batch * sum(not call["active"] for call in plain["calls"])
    return latents, {said["key"]: said["figures"] for said in plain["advice"]}, plain["calls"], evaluations + idle


@pytest.mark.parametrize(
    "options",
    [
        {"refresh_every": 0, "digit": "1", "sampler": "heun"}, {"refresh_every": 1, "digit": "5", "scale": 8.0},
        {"refresh_every": 1, "digit": "6", "scale": 8.0, "cfg": 2.0},
    ],
    ids=["automatic with heun", "every call", "CFG"],
)
def test_an_earlier_end_gives_the_same_picture_for_as_many_evaluations_less_as_promised(host, options):
    before, said, calls, evaluations = run(host, **options)
    assert float(said["end"]["saved"]) >= 1
    after, _, later, fewer = run(host, **options, end_percent=float(said["end"]["percent"]))
    assert (evaluations - fewer) / 2 == pytest.approx(float(said["end"]["saved"]))
    assert torch.allclose(after, before, atol=1e-5)
    pushed = [call["sigma"] for call in calls if any(call["acted"])]
    assert pushed == pytest.approx([call["sigma"] for call in later if any(call["acted"])])
    assert sum(not call["active"] for call in later) == sum(call["sigma"] < min(pushed) for call in calls)


def test_a_later_start_costs_as_many_evaluations_less_as_promised_and_pushes_from_there(host):
    _, said, calls, evaluations = run(host, steps=24, refresh_every=1)
    assert float(said["start"]["saved"]) >= 3
    _, _, later, fewer = run(host, steps=24, refresh_every=1, start_percent=float(said["start"]["percent"]))
    assert (evaluations - fewer) / 2 == pytest.approx(float(said["start"]["saved"]))
    first, then = (
        next(place for place, call in enumerate(each) if call["active"] and any(call["acted"]))
        for each in (calls, later)
    )
    assert abs(first - then) <= 2


def test_the_steps_are_those_of_the_sampler(host):
    _, said, calls, _ = run(host)
    pushed = [place for place, call in enumerate(calls) if any(call["acted"])]
    figures = said["pushes"]
    assert [figures["first"], figures["last"], figures["steps"]] == [str(pushed[0] + 1), str(pushed[-1] + 1), "12"]


def test_while_it_runs_there_is_no_advice():
    trace = CurvatureTrace()
    trace.begin([8.0, 0.0])
    trace.add_idle(torch.tensor(8.0), "x")
    assert trace.plain()["advice"] == []


def test_noise_that_hides_a_saddle_in_half_precision_is_named(host):
    graph = Graph()
    model, positive, negative, latent = emoji()(graph)
    model = graph.add("ModelComputeDtype", model=model, dtype="bf16")
    model = guided(graph, model, scale=8.0, refresh_every=0)
    # Most other noises show their saddle in this format, too.
    samples = sample(graph, "KSampler", model, positive, negative, latent(1), steps=8, scheduler="karras", seed=37)
    graph.add("TestCaptureTrace", trace=output(model, 1), latent=samples, label="trace")
    host.run(graph.prompt)
    (said,) = host.record.traces["trace"].plain()["advice"]
    assert said["key"] == "noise" and float(said["figures"]["error"]) > 0.05


# --- In every language -----------------------------------------------------------------------------------------------


def test_the_english_sentences_are_those_that_the_page_translates():
    main = json.loads((ROOT / "locales" / "en" / "main.json").read_text(encoding="utf-8"))
    assert main["saddleFreeGuidance"]["advice"] == SENTENCES
