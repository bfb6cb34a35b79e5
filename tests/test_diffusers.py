"""The guider for diffusers, in its own pipelines, and the examples of docs/pipelines.md."""

import re
import sys

import pytest
import torch
from cases import in_turn
from pack import ROOT

diffusers = pytest.importorskip("diffusers", reason="none goes with the host on Python 3.10")

import saddle_free_guidance.pipelines
from diffusers import ClassifierFreeGuidance
from diffusers_loops import STEPS, Flow, UNet, drawn, guider, sampled, strong
from saddle_free_guidance.guidance import SaddleFree
from saddle_free_guidance.pipelines import SaddleFreeGuidance
from saddle_free_guidance.pipelines.asked import Asked
from saddle_free_guidance.pipelines.schedulers import as_answer, coordinates, denoised, prediction

KINDS = {"UNet": UNet, "flow": Flow}
SETTINGS = {"automatic": {}, "every call": {"refresh_every": 1}, "two directions": {"directions": 2}}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return KINDS[request.param]()


def evaluations(trace):
    return torch.stack(trace.evaluations).tolist()


@pytest.mark.parametrize("settings, cfg, batch", list(in_turn(SETTINGS, [1.0, 4.0], [1, 3])))
def test_a_pipeline_makes_what_the_same_loop_makes_by_hand(kind, cfg, batch, settings):
    inputs, guide = kind.inputs(batch), SaddleFree(4.0, **SETTINGS[settings])
    guided = guider(kind, cfg, scale=4.0, **SETTINGS[settings])
    found, by_hand = sampled(kind, inputs, guided), kind.by_hand(inputs, guide, cfg)
    tolerance = 2e-4 * by_hand.abs().max()  # two directions in float32 differ most
    assert torch.allclose(found, by_hand, rtol=0, atol=tolerance)
    assert evaluations(guided.trace) == evaluations(guide.trace)
    if settings != "every call":  # which takes more than these steps to find a saddle of the flow
        plain = sampled(kind, inputs, guider(kind, cfg, scale=0))
        assert (found - plain).abs().max() > 50 * tolerance


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_scale_0_is_the_inner_guider_bit_for_bit(kind, cfg):
    inputs = kind.inputs(2)
    plain = sampled(kind, inputs, ClassifierFreeGuidance(guidance_scale=cfg))
    off = guider(kind, cfg, scale=0)
    assert torch.equal(sampled(kind, inputs, off), plain) and len(off.trace) == 0


def test_an_image_is_guided_as_it_is_alone(kind):
    inputs, guided = kind.inputs(3), guider(kind, 4.0, scale=4.0)
    together, counts = sampled(kind, inputs, guided), evaluations(guided.trace)
    for image in range(3):
        alone = sampled(kind, {name: rows[image : image + 1] for name, rows in inputs.items()}, guided)
        assert torch.allclose(alone[0], together[image], rtol=0, atol=1e-4 * together.abs().max())
        assert evaluations(guided.trace) == [[count[image]] for count in counts]


def test_a_run_forgets_the_one_before(kind):
    inputs, guided = kind.inputs(2), guider(kind, scale=4.0)
    assert torch.equal(sampled(kind, inputs, guided), sampled(kind, inputs, guided))
    assert len(guided.trace) == STEPS


def test_the_network_is_asked_as_often_as_the_trace_says(kind):
    forwards = []
    handle = kind.network.register_forward_pre_hook(lambda *_: forwards.append(1))
    guided = guider(kind, 4.0, scale=4.0)
    sampled(kind, kind.inputs(1), guided)
    handle.remove()
    assert len(forwards) == STEPS + sum(torch.stack(guided.trace.evaluations)[:, 0].tolist())
    assert not kind.network._forward_hooks


def test_it_pushes_in_its_part_of_the_steps_only(kind):
    guided = guider(kind, scale=4.0, start=1 / 3, stop=2 / 3)
    sampled(kind, kind.inputs(1), guided)
    assert len(guided.trace) == 2


@pytest.mark.parametrize("outer", ["AdaptiveProjectedGuidance", "TangentialClassifierFreeGuidance"])
def test_it_stands_around_other_guiders(kind, outer):
    inputs, inner = kind.inputs(2), getattr(diffusers, outer)(guidance_scale=3.0)
    off = sampled(kind, inputs, SaddleFreeGuidance(inner.new(), kind.scheduler, scale=0))
    assert torch.equal(off, sampled(kind, inputs, inner.new()))
    on = SaddleFreeGuidance(inner.new(), kind.scheduler, scale=4.0)
    assert not torch.allclose(sampled(kind, inputs, on), off, rtol=1e-2)
    assert on.guidance_scale == 3.0 and on.num_conditions == inner.num_conditions == 2


def test_settings_are_saved_and_copied(tmp_path):
    scheduler = UNet().scheduler
    guided = SaddleFreeGuidance(ClassifierFreeGuidance(guidance_scale=3.0), scheduler, scale=2.5, seed=7, stop=0.5)
    copy = guided.new(seed=8)
    assert (copy.config.scale, copy.config.seed, copy.config.stop) == (2.5, 8, 0.5)
    assert copy.guider is not guided.guider and copy.guidance_scale == 3.0 and copy.scheduler is scheduler
    guided.save_pretrained(tmp_path)
    back = SaddleFreeGuidance.from_pretrained(tmp_path, scheduler=scheduler)
    assert (back.scale, back.config.seed, back.scheduler) == (2.5, 7, scheduler)


def test_what_it_cannot_do_is_a_sentence():
    kind = UNet()
    inputs = kind.inputs(1)
    with pytest.raises(ValueError, match=r"give it scheduler=pipe\.scheduler"):
        sampled(kind, inputs, SaddleFreeGuidance())
    with pytest.raises(ValueError, match=r"has no timestep 999; give SaddleFreeGuidance the scheduler that"):
        sampled(kind, inputs, SaddleFreeGuidance(scheduler=Flow().scheduler))
    with pytest.raises(ValueError, match="cannot tell the noise level from EDMEulerScheduler"):
        edm = diffusers.EDMEulerScheduler()
        coordinates(edm, edm.timesteps[0])
    with pytest.raises(ValueError, match="call its disable_cache"):
        cached = guider(kind)
        cached.set_state(0, STEPS, kind.scheduler.timesteps[0])
        network = torch.nn.Identity()
        network.is_cache_enabled = True
        cached.prepare_models(network)


SCHEDULERS = [
    ("DDIMScheduler", {"clip_sample": False}),
    ("DDPMScheduler", {"clip_sample": False, "prediction_type": "v_prediction"}), ("EulerDiscreteScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {"prediction_type": "v_prediction"}), ("HeunDiscreteScheduler", {}),
    ("LMSDiscreteScheduler", {}), ("DPMSolverMultistepScheduler", {"prediction_type": "sample"}),
    ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
    ("UniPCMultistepScheduler", {"use_karras_sigmas": True}), ("KDPM2DiscreteScheduler", {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}), ("FlowMatchHeunDiscreteScheduler", {}),
]
TARGETS = {
    "epsilon": lambda x0, n, alpha, std: n, "v_prediction": lambda x0, n, alpha, std: alpha * n - std * x0,
    "sample": lambda x0, n, alpha, std: x0, "flow_prediction": lambda x0, n, alpha, std: n - x0,
}


@pytest.mark.parametrize("name, settings", SCHEDULERS)
def test_a_scheduler_is_read_as_it_reads_itself(name, settings):
    """A network that knows the one picture there is: the sampler must arrive at it, and so must we at each step."""
    scheduler = getattr(diffusers, name)(**settings)
    scheduler.set_timesteps(5)
    kind, x0 = prediction(scheduler), drawn(1, 2, 4, seed=1).double()
    latents = drawn(1, 2, 4, seed=2).double() * float(getattr(scheduler, "init_noise_sigma", 1.0))
    for timestep in scheduler.timesteps:
        scale = getattr(scheduler, "scale_model_input", lambda x, _: x)
        x = scale(latents, timestep).double()
        alpha, std = coordinates(scheduler, timestep)
        answer = TARGETS[kind](x0, (x - alpha * x0) / std, alpha, std)
        assert torch.allclose(denoised(kind, x, answer, alpha, std), x0, atol=1e-5)
        more = denoised(kind, x, answer + as_answer(kind, 0.5 * x0, alpha, std), alpha, std)
        assert torch.allclose(more, 1.5 * x0, atol=1e-5)
        latents = scheduler.step(answer, timestep, latents).prev_sample.double()
    assert torch.allclose(latents, x0, atol=0.05), (latents - x0).abs().max()


class Doubles(torch.nn.Module):
    """Answers twice what it gets at the latents: as a tensor with other channels or tokens behind, or as a list."""

    def forward(self, x, told=None):
        if isinstance(x, list):
            return ([-2 * row for row in x],)
        return (2 * x + (0 if told is None else told),)


@pytest.mark.parametrize("given, prediction_of", [
    (lambda x: torch.cat([x, x + 1], dim=1), lambda answer: answer[0][:, :2]),
    (lambda x: torch.cat([x, x + 1], dim=2), lambda answer: answer[0][:, :, :4]),
    (lambda x: [row[:, None] for row in x], lambda answer: -torch.stack(answer[0])[:, :, 0]),
], ids=["channels", "tokens", "a list and the other sign"])
def test_only_the_latents_in_a_network_s_input_are_replaced(given, prediction_of):
    x, network = drawn(3, 2, 4), Doubles()
    answered = network(given(x))
    asked = Asked(network, (given(x),), {}, answered, prediction_of(answered))
    assert torch.equal(asked.x, x) and torch.equal(asked.at(x + 1), 2 * x + 2)
    with pytest.raises(ValueError, match="is not what Doubles answered"):
        Asked(network, (given(x),), {}, answered, 3 * prediction_of(answered))


def test_rows_are_asked_each_with_its_own_conditions():
    x, told, network = drawn(3, 4), torch.tensor([[0.0], [10.0], [20.0]]), Doubles()
    asked = Asked(network, (), {"x": x, "told": told}, network(x, told), network(x, told)[0])
    rows, images = drawn(4, 4, seed=9), [2, 0, 2, 1]
    found = asked.rows(rows, images, lambda points, answer: answer - points)
    assert torch.allclose(found, rows + told[images])


EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8"), re.DOTALL)


def undecided(x, sigma, cond):
    """The denoiser of two pictures, cond and -cond [B, N]: a saddle between them."""
    weight = (x * cond).sum(dim=1, keepdim=True) / sigma[:, None] ** 2
    return torch.tanh(weight) * cond


def run_example(monkeypatch, number, **names):
    monkeypatch.setitem(sys.modules, "saddle_free_guidance.diffusers", saddle_free_guidance.pipelines)
    exec(compile(EXAMPLES[number], f"example {number}", "exec"), names)
    return names


def test_there_are_four_examples_and_each_is_about_ten_lines():
    assert [len(example.strip().splitlines()) <= 14 for example in EXAMPLES] == [True] * 4


@pytest.mark.parametrize("number, settles", [(0, "x"), (1, "samples")])
def test_the_examples_of_a_loop_run(monkeypatch, host, number, settles):
    from comfy.k_diffusion.sampling import sample_dpmpp_2m

    sigmas, cond = torch.tensor([10.0, 5, 2, 1, 0.5, 0.2, 0.1, 0.0]), drawn(3, 6, seed=3)
    names = {"model": undecided, "sigmas": sigmas, "cond": cond, "sample_dpmpp_2m": sample_dpmpp_2m}
    x = 10 * drawn(3, 6)
    ends = run_example(monkeypatch, number, x=x.clone(), **names)
    sides = (ends[settles] * cond).sum(dim=1) / cond.square().sum(dim=1)
    assert torch.allclose(sides.abs(), torch.ones(3), atol=0.05)
    guide = ends.get("guide")
    assert guide is None or (torch.stack(guide.trace.evaluations).sum(dim=0) > 7).any()


def test_the_example_of_a_modular_pipeline_runs(monkeypatch):
    kind = Flow()
    pipe, inputs = kind.pipeline(ClassifierFreeGuidance()), kind.inputs(2)
    loop = {"timesteps": kind.scheduler.timesteps, "num_inference_steps": STEPS, "output": "latents"}
    ends = run_example(monkeypatch, 2, pipe=pipe, inputs={**inputs, **loop})
    assert torch.equal(ends["picture"], sampled(kind, inputs, guider(kind, 5.0, scale=8.0)))
    assert pipe.guider is ends["guider"] and len(ends["guider"].trace) == STEPS


def test_the_example_of_a_loop_with_a_network_of_diffusers_runs(monkeypatch):
    torch.manual_seed(0)
    unet = strong(diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2, norm_num_groups=4, cross_attention_dim=16,
    ), 8)
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(STEPS)
    names = {"unet": unet, "scheduler": scheduler, "latents": drawn(2, 4, 8, 8)}
    names |= {"prompt_embeds": drawn(2, 3, 16, seed=5), "negative_embeds": drawn(2, 3, 16, seed=6)}
    ends = run_example(monkeypatch, 3, **names)
    assert ends["latents"].isfinite().all() and len(ends["guider"].trace) == STEPS
    assert (torch.stack(ends["guider"].trace.push) > 0).any()
