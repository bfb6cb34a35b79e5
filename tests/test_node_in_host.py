"""The Saddle-Free Guidance node in a real ComfyUI, queued through its executor."""

import itertools

import pytest
import torch
from cases import long_but
from graphs import Graph, branches, demo, guided, output, sample, stand_in
from guiders import SETTINGS, guiders_in_turn
from host import failure

SAMPLERS = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_sde", "uni_pc", "lcm")
LIGHT, HEAVY = ("sd3", "sd35", "flux", "wan"), ("sd15", "sdxl", "sdxl_v", "sdxl_edm")
THREE = {"plain": None, "off": {"scale": 0.0}, "guided": {"scale": 1.0}}


def covering():
    """Every family with every sampler; light families at every batch and CFG, heavy ones at one of them in turn.

    Not long are the light ones with every other sampler at one setting in turn, and each heavy one but SDXL with one
    sampler, one image and CFG 1.
    """
    for index, (family, sampler) in enumerate(itertools.product(LIGHT, SAMPLERS)):
        for place, setting in enumerate(SETTINGS):
            kept = place == index % len(SETTINGS) and (LIGHT.index(family) + SAMPLERS.index(sampler)) % 2 == 0
            marks = () if kept else pytest.mark.long
            yield pytest.param(family, sampler, *setting, marks=marks)
    for index, (family, sampler) in enumerate(itertools.product(HEAVY, SAMPLERS)):
        cheapest = [SETTINGS[0]] if index % (len(SAMPLERS) + 1) == 0 and family != "sdxl" else []
        for setting in dict.fromkeys([*cheapest, SETTINGS[SAMPLERS.index(sampler) % len(SETTINGS)]]):
            yield pytest.param(family, sampler, *setting, marks=() if setting in cheapest else pytest.mark.long)


def check_run(host, source, **sampling):
    """Off is bit-identical and free; on costs one evaluation a call; the same queue twice is the same image."""
    latents = host.latents(branches(source, THREE, **sampling))
    evaluations, calls = dict(host.record.evaluations), dict(host.record.calls)
    assert torch.equal(latents["off"], latents["plain"])
    assert evaluations["off"] == evaluations["plain"]
    assert len(calls["plain"]) == len(calls["guided"]) >= 3
    assert len(evaluations["guided"]) == len(evaluations["plain"]) + len(calls["guided"])
    assert latents["guided"].isfinite().all()
    assert len(latents["guided"]) == sampling["batch"]
    again = host.latents(branches(source, {"guided": {"scale": 1.0}}, **sampling))
    assert torch.equal(again["guided"], latents["guided"])
    return latents


@pytest.mark.parametrize("family, sampler, batch, cfg", list(covering()))
def test_every_family_with_every_sampler(host, family, sampler, batch, cfg):
    check_run(host, stand_in(family, host.models), sampler=sampler, batch=batch, cfg=cfg)


@pytest.mark.parametrize("family, batch, cfg, guider", list(guiders_in_turn()))
def test_every_guider(host, family, guider, batch, cfg):
    source = demo("3") if family == "demo" else stand_in(family, host.models)
    check_run(host, source, guider=guider, batch=batch, cfg=cfg)


@pytest.mark.parametrize("sampler", long_but(SAMPLERS, ["euler", "heun", "lcm"]))
def test_guidance_changes_the_picture_of_a_trained_model(host, sampler):
    """Of each image that was undecided: of most."""
    latents = check_run(host, demo(), sampler=sampler, batch=3, steps=8)
    change = (latents["guided"] - latents["plain"]).abs().amax(dim=(1, 2, 3))
    assert change.max() > 0.001  # at scale 1, in 8 steps


@pytest.mark.parametrize("source_name", ("demo", "sd15", "sd3", "flux", "wan"))
def test_an_image_of_a_batch_is_the_image_alone(host, source_name):
    source = demo() if source_name == "demo" else stand_in(source_name, host.models)
    variants = {"plain": None, "guided": {"scale": 1.0}}
    batch = host.latents(branches(source, variants, batch=3))
    alone = host.latents(branches(source, variants, batch=3, pick=1))
    noise = {label: (batch[label][1] - alone[label][0]).abs().max().item() for label in variants}
    spread = batch["guided"].std().item()
    assert noise["guided"] <= 30 * noise["plain"] + 1e-4 * spread


@pytest.mark.parametrize("how, at", [("interrupt", 2), ("interrupt", 5)])
def test_a_broken_run_leaves_nothing_behind(host, how, at):
    knobs = {"scale": 2.0}
    fresh = host.latents(branches(demo(), {"run": knobs}, batch=3, steps=6))
    broken = host.run(branches(demo(), {"run": (knobs, at, how)}, batch=3, steps=6))
    assert not broken.success
    assert failure(broken)["node_type"] == "KSampler"
    assert host.record.options_restored == {"run": True}
    assert torch.equal(host.latents(branches(demo(), {"run": knobs}, batch=3, steps=6))["run"], fresh["run"])


def test_two_nodes_in_one_graph_share_nothing(host):
    one, other = {"scale": 1.0, "guidance_seed": 1}, {"scale": 2.0, "guidance_seed": 2}
    both = host.latents(branches(demo(), {"one": one, "other": other}, batch=3, steps=6))
    assert not torch.equal(both["one"], both["other"])
    for label, knobs in (("one", one), ("other", other)):
        assert torch.equal(host.latents(branches(demo(), {label: knobs}, batch=3, steps=6))[label], both[label])


def test_two_nodes_on_one_model_each_probe_once(host):
    graph = Graph()
    model = graph.add("SaddleFreeDemoModel", digit="none")
    watched = graph.add("TestWatch", model=model, label="both", break_at=0, how="interrupt")
    twice = guided(graph, guided(graph, watched, scale=1.0), scale=1.0, guidance_seed=1)
    condition = output(model, 3)
    latent = graph.add("EmptyLatentImage", width=32, height=32, batch_size=3)
    graph.add("TestCapture", samples=sample(graph, "KSampler", twice, condition, condition, latent), label="both")
    assert host.latents(graph.prompt)["both"].isfinite().all()
    assert len(host.record.evaluations["both"]) == 3 * len(host.record.calls["both"])


def test_guidance_seed_is_a_creative_control(host):
    variants = {str(seed): {"scale": 8.0, "guidance_seed": seed, "refresh_every": 0} for seed in range(4)}
    latents = host.latents(branches(demo(), variants, batch=3, steps=24))
    changes = [(one - other).abs().max() for one, other in itertools.combinations(latents.values(), 2)]
    assert torch.stack(changes).median() > 0.1  # two seeds may choose the same sides


@pytest.mark.parametrize(
    "knobs, probes",
    [
        ({"start_percent": 0.5}, 4),
        ({"end_percent": 0.5}, 4),
        ({"start_percent": 0.25, "end_percent": 0.75}, 4),
        ({"refresh_every": 3}, 3),
        ({"directions": 2}, 16),
        ({"directions": 3, "refresh_every": 4}, 6),
        ({"start_percent": 1.0}, 0),
    ],
)
def test_knobs_set_the_number_of_probes(host, knobs, probes):
    latents = host.latents(branches(demo(), {"plain": None, "guided": knobs}, batch=1, steps=8))
    assert len(host.record.evaluations["plain"]) == 8
    assert len(host.record.evaluations["guided"]) == 8 + probes
    assert probes > 0 or torch.equal(latents["guided"], latents["plain"])


def test_refresh_counts_steps_not_calls(host):
    host.latents(branches(demo(), {"guided": {"refresh_every": 2}}, sampler="heun", steps=8))
    calls = len(host.record.calls["guided"])
    assert calls == 15
    assert len(host.record.evaluations["guided"]) == calls + 4


@pytest.mark.parametrize("knobs", [{"scale": -1.0}, {"scale": 21.0}, {"directions": 0}, {"start_percent": 1.5}])
def test_the_host_refuses_values_out_of_range(host, knobs):
    valid, _, _, errors = host.validate(branches(demo(), {"run": knobs}))
    assert not valid
    name, value = next(iter(knobs.items()))
    messages = [error for node in errors.values() for error in node["errors"]]
    assert [error["extra_info"]["input_name"] for error in messages] == [name]
    assert str(value) in str(messages[0]["extra_info"]["received_value"])


def test_a_direct_call_without_the_executor_gives_the_same_picture(host):
    import comfy.sample

    queued = host.latents(branches(demo(), {"run": {"scale": 2.0}}, batch=2, steps=6))["run"]
    model, _, _, condition = host.node("SaddleFreeDemoModel").execute("none").result
    knobs = {"guidance_seed": 0, "start_percent": 0.0, "end_percent": 1.0, "probe_radius": 0.0}
    patched = host.node("SaddleFreeGuidance").execute(
        model, scale=2.0, refresh_every=1, directions=1, **knobs
    ).result[0]
    latent = torch.zeros(2, 3, 32, 32)
    noise = comfy.sample.prepare_noise(latent, 7)
    with torch.no_grad():
        direct = comfy.sample.sample(
            patched, noise, 6, 1.0, "euler", "simple", condition, condition, latent, disable_pbar=True, seed=7
        )
    assert torch.equal(direct, queued)
