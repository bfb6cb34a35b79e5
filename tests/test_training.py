"""The training command: stopped in the middle, it goes on as if it had not been; and what the emoji are trained on."""

import dataclasses
import json
from types import SimpleNamespace

import emoji
import numpy as np
import pytest
import recipes
import students
import torch
import train_demo
from cases import long_but
from safetensors import safe_open
from safetensors.torch import load_file

NAMES = {"digits": ("model", "weak"), "emoji": ("emoji", "emoji-weak"), "emoji-8-steps": ("emoji-8-steps",)}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A file of twelve pictures of six names, of which two are held out."""
    path, random = tmp_path_factory.mktemp("data") / "emoji.npz", np.random.default_rng(0)
    rgba = np.zeros((12, 4, 64, 64), np.uint8)
    rgba[:, :, 8:56, 8:56] = random.integers(0, 256, (12, 4, 1, 1))
    rgba[:, 3, 8:56, 8:56] = 255
    name = np.arange(12) // 2
    np.savez(
        path, rgba=rgba, name=name, kind=name % 31, style=np.arange(12) % 8, held=name >= 4,
        names=np.arange(6).astype(str), kinds=np.array(recipes.emoji_network.KINDS),
        styles=np.array(recipes.emoji_network.STYLES),
    )
    return path


def trained(model, folder, data, steps=6):
    recipe = recipes.RECIPES[model]
    arguments = SimpleNamespace(
        model=model, data=data, steps=steps, batch=2, learning_rate=recipe.learning_rate, save_every=2,
        checkpoint=folder.with_suffix(".pt"), output=folder,
    )
    train_demo.train(arguments)
    return [load_file(folder / f"{name}.safetensors") for name in NAMES[model]]


@pytest.mark.parametrize("model", long_but(["digits", "emoji"], ["digits"]))
def test_training_resumes_where_it_stopped(tmp_path, monkeypatch, few, model):
    whole = trained(model, tmp_path / "whole", few)
    step = students.Student.step

    def stop_at_four(student, index, *batch):
        if index == 4:
            raise KeyboardInterrupt
        step(student, index, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(students.Student, "step", stop_at_four)
        with pytest.raises(KeyboardInterrupt):
            trained(model, tmp_path / "halves", few)
    assert not (tmp_path / "halves").exists()
    for one, other in zip(whole, trained(model, tmp_path / "halves", few)):
        assert one.keys() == other.keys()
        assert all((one[key] == other[key]).all() for key in one)


def test_what_training_writes_the_host_loads(host, tmp_path, monkeypatch, few):
    import sys

    module = sys.modules[host.node("SaddleFreeDemoModel").__module__.replace(".demo_model", ".host.demo_model")]
    weights = trained("emoji", tmp_path / "weights", few, steps=2)[0]
    assert not any("augments" in key for key in weights)
    monkeypatch.setattr(module, "WEIGHTS", tmp_path / "weights")
    loaded = module.load_demo_model("emoji").model.diffusion_model.state_dict()
    assert all(torch.equal(loaded[key], weights[key].float()) for key in weights)
    module.load_demo_model("emoji-weak")
    with safe_open(tmp_path / "weights" / "emoji.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["config"])
    assert facts["steps"] == 2 and facts["batch"] == 2
    assert list(facts["losses"]) == [f"{part} {sigma:g}" for part in ("train", "held") for sigma in (0.1, 0.3, 1, 3)]
    assert all(loss > 0 for loss in facts["losses"].values())


def test_training_learns_the_few_pictures(few):
    """A step lowers the loss at a noise level that pictures of one colour are easily told at."""
    recipe, data = recipes.EMOJI, emoji.load_emoji(few)
    torch.manual_seed(0)
    config = {"widths": (16, 16, 32), "blocks": 1, "embedding": 32, "augments": emoji.AUGMENTS}
    student = students.Student(recipe, config, 60, 2e-2, torch.device("cpu"))
    before = recipes.judged(student.network, data, data.training, 1.0)
    for index in range(60):
        student.step(index, *train_demo.draw_batch(recipe, data, 4, index, torch.device("cpu")))
    assert recipes.judged(student.network, data, data.training, 1.0) < 0.7 * before


# --- What the emoji model is shown -----------------------------------------------------------------------------------


def test_held_out_names_are_never_drawn(few):
    data = emoji.load_emoji(few)
    assert data.training.tolist() == list(range(8)) and data.held_out.tolist() == list(range(8, 12))
    hidden = data.rgba.clone()
    hidden[8:] = 7
    changed = [
        train_demo.draw_batch(recipes.EMOJI, each, 64, 0, torch.device("cpu"))[0]
        for each in (data, dataclasses.replace(data, rgba=hidden))
    ]
    assert torch.equal(*changed)


def test_pictures_are_on_white_and_labels_are_one_kind_and_one_style(few):
    data = emoji.load_emoji(few)
    pictures = data.pictures(torch.arange(12))
    assert (pictures[:, :, :8] == 1).all() and pictures.min() >= -1
    expected = data.rgba[:, :3, 30, 30].float() / 127.5 - 1
    assert torch.allclose(pictures[:, :, 30, 30], expected, atol=1e-6)
    labels = data.labels(torch.arange(12))
    assert labels.shape == (12, 1, 39)
    assert labels[9, 0].nonzero().flatten().tolist() == [4, 31 + 1]


def test_labels_are_left_out_as_often_as_they_should_be():
    labels, generator = torch.ones(40_000, 1, 39), torch.Generator().manual_seed(0)
    kept = emoji.without_some_labels(labels, (31, 8), 0.12, generator)
    kind, style = kept[:, 0, 0] > 0, kept[:, 0, 38] > 0
    assert (~kind & ~style).float().mean().item() == pytest.approx(0.12, abs=0.01)
    assert (~kind & style).float().mean().item() == pytest.approx(0.7 * 0.12, abs=0.01)
    assert (kind & ~style).float().mean().item() == pytest.approx(0.7 * 0.12, abs=0.01)


def test_a_change_that_is_not_made_changes_nothing_but_the_side(few):
    data = emoji.load_emoji(few)
    rgba = data.rgba.clone()
    rgba[:, :, 8:20, 8:20] = 255
    changed, told = emoji.augmented(rgba, torch.Generator().manual_seed(0), chance=0.0)
    plain = dataclasses.replace(data, rgba=rgba).pictures(torch.arange(12))
    mirrored = [torch.allclose(one, other.flip(2), atol=1e-5) for one, other in zip(changed, plain)]
    same = [torch.allclose(one, other, atol=1e-5) for one, other in zip(changed, plain)]
    assert all(one != other for one, other in zip(mirrored, same)) and 0 < sum(mirrored) < 12
    assert (told == 0).all()
    changed, told = emoji.augmented(rgba, torch.Generator().manual_seed(0), chance=1.0)
    assert told.shape == (12, 9) and (told != 0).all() and changed.min() >= -1 and changed.max() <= 1


def test_the_moving_average_is_as_wide_as_it_says():
    """The standard deviation of where its weight lies, as a share of all steps."""
    kept, steps = recipes.power_average(0.07), 20_000
    weights, left = np.zeros(steps), 1.0
    for index in reversed(range(steps)):
        weights[index] = left * (1 - kept(index))
        left *= kept(index)
    place = np.arange(steps) / steps
    mean = (weights * place).sum() / weights.sum()
    assert np.sqrt((weights * (place - mean) ** 2).sum() / weights.sum()) == pytest.approx(0.07, rel=0.02)
