"""Training of the emoji model that draws in 8 steps: its targets, what it may change, and that it learns."""

import dataclasses
import json
import shutil
import sys

import emoji
import pytest
import recipes
import students
import torch
from pack import ROOT
from safetensors import safe_open
from safetensors.torch import load_file
from test_training import few, trained  # noqa: F401  (a fixture)

SIZES = recipes.FEW_STEPS.networks["emoji-8-steps"]
LAYERS = recipes.FEW_STEPS.not_shipped


class Gaussian(torch.nn.Module):
    """A network whose denoised pictures are those of white noise of a size: the way of every sample is known."""

    def __init__(self, size, sigma_data):
        super().__init__()
        self.size, self.sigma_data = size, sigma_data

    def forward(self, x, timesteps, context=None):
        sigma = (4 * timesteps).exp().reshape(-1, 1, 1, 1)
        total = (sigma**2 + self.sigma_data**2).sqrt()
        wanted, skip = self.size**2 / (self.size**2 + sigma**2), self.sigma_data**2 / total**2
        return (wanted - skip) * total**2 / (sigma * self.sigma_data) * x


@pytest.fixture
def short(monkeypatch):
    """The recipe of a model that draws in three steps, so that a test is short."""
    recipe = dataclasses.replace(recipes.FEW_STEPS, sampler_steps=3, warm=1)
    monkeypatch.setattr(recipes, "FEW_STEPS", recipe)
    monkeypatch.setitem(recipes.RECIPES, "emoji-8-steps", recipe)
    monkeypatch.setattr(recipes, "HELD_OUT_COUNT", 2)


def student(steps=10, rate=1e-4):
    return students.FewSteps(recipes.FEW_STEPS, SIZES, steps, rate, torch.device("cpu"))


def asked(count=2, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 64, 64, generator=generator), torch.zeros(count, 1, 39)


def test_the_noise_levels_are_those_of_the_host_s_scheduler(host):
    from comfy.k_diffusion.sampling import get_sigmas_karras

    assert students.karras(8) == pytest.approx(get_sigmas_karras(8, 0.01, 40.0).tolist(), rel=1e-5)


def test_the_teacher_lands_where_its_equation_says():
    network, x = Gaussian(0.9, 0.56), 8.0 * torch.ones(1, 3, 64, 64)
    landing, first = students.heun(network, x, 8.0, 3.0, None, 0.56)
    exact = x * ((0.9**2 + 3.0**2) / (0.9**2 + 8.0**2)) ** 0.5
    single = students.euler(x, first, 8.0, 3.0)
    assert (landing - exact).abs().max() < 0.01 * exact.max()
    assert (single - exact).abs().max() > 2.5 * (landing - exact).abs().max()


def test_a_student_without_error_lands_where_the_teacher_does(monkeypatch):
    """What is wanted of a student is read off the walk: with it, one Euler step ends where the teacher's two end."""
    network, noise = Gaussian(0.9, 0.56), torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    predict, levels = students.predict, students.karras(8)

    def perfect(asked, x, sigma, *more):
        if asked != "student":
            return predict(asked, x, sigma, *more)
        after = levels[levels.index(sigma) + 1]
        landing, _ = students.heun(network, x, sigma, after, None, 0.56)
        return x + (landing - x) * sigma / (sigma - after)  # so that euler() gives the landing

    monkeypatch.setattr(students, "predict", perfect)
    with torch.no_grad():
        made, single = students.walk("student", network, noise, levels, None, 0.56)
    assert made.shape == single.shape == (7,)
    assert (made < 1e-6 * single.clamp_min(1e-6)).all() and (single > 1e-7).any()


def test_it_begins_as_its_teacher(short):
    """Before the first step its error is that of the teacher's single steps, but for the teacher's half precision."""
    one, (noise, labels) = student(), asked()
    with torch.no_grad():
        made, single = students.walk(one.network, one.teacher, noise, one.sigmas, labels, 0.56)
    assert (made.sum() / single.sum()).item() == pytest.approx(1, abs=0.02)


@pytest.mark.long
def test_training_takes_error_away_and_leaves_what_is_not_shipped_alone(short):
    one, (noise, labels) = student(8, rate=5e-5), asked()
    before = {name: value.clone() for name, value in one.network.state_dict().items()}
    with torch.no_grad():
        first, _ = students.walk(one.network, one.teacher, noise, one.sigmas, labels, 0.56)
    for index in range(8):
        one.step(index, noise, noise, None, labels, {})
    with torch.no_grad():
        last, _ = students.walk(one.network, one.teacher, noise, one.sigmas, labels, 0.56)
    assert last.sum() < 0.95 * first.sum()
    same = {name for name, value in one.network.state_dict().items() if torch.equal(value, before[name])}
    assert same == set(LAYERS)


@pytest.mark.long  # as that of the other models
def test_training_resumes_where_it_stopped(tmp_path, monkeypatch, few, short):  # noqa: F811
    (whole,) = trained("emoji-8-steps", tmp_path / "whole", few, steps=4)
    step = students.FewSteps.step

    def stop_at_two(one, index, *batch):
        if index == 2:
            raise KeyboardInterrupt
        step(one, index, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(students.FewSteps, "step", stop_at_two)
        with pytest.raises(KeyboardInterrupt):
            trained("emoji-8-steps", tmp_path / "halves", few, steps=4)
    (halves,) = trained("emoji-8-steps", tmp_path / "halves", few, steps=4)
    assert whole.keys() == halves.keys() and all(torch.equal(whole[name], halves[name]) for name in whole)


def test_its_file_holds_what_changed_and_the_host_puts_the_rest_to_it(host, tmp_path, monkeypatch, few, short):  # noqa: F811
    node, shipped = host.node("SaddleFreeDemoModel").__module__, ROOT / "workflows" / "demo_model"
    module = sys.modules[node.replace(".demo_model", ".host.demo_model")]
    (weights,) = trained("emoji-8-steps", tmp_path / "weights", few, steps=1)
    shutil.copy(shipped / "emoji.safetensors", tmp_path / "weights")
    monkeypatch.setattr(module, "WEIGHTS", tmp_path / "weights")
    loaded = module.load_demo_model("emoji-8-steps").model.diffusion_model.state_dict()
    teacher = load_file(shipped / "emoji.safetensors")
    assert set(loaded) - set(weights) == set(LAYERS)
    assert all(torch.equal(loaded[name], weights.get(name, teacher[name]).float()) for name in loaded)
    assert not torch.equal(loaded["exit.weight"], teacher["exit.weight"].float())
    with safe_open(tmp_path / "weights" / "emoji-8-steps.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["config"])
    assert facts["base"] == "emoji" and facts["steps"] == 1 and facts["batch"] == 2 and facts["sampler_steps"] == 3
    assert len(facts["left_each"]) == 2 and 0.5 < facts["left"] < 1.5


def test_labels_are_those_of_pictures_and_three_tenths_have_none(few):  # noqa: F811
    data = emoji.load_emoji(few)
    pictures, labels, _ = recipes.draw_labels(data, 4000, torch.Generator().manual_seed(0))
    assert pictures.shape == (4000, 3, 64, 64) and labels.shape == (4000, 1, 39)
    assert (labels.sum(dim=2) == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
