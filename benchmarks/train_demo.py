"""Trains a demo model and its weak companion.

    python quickstart.py --run benchmarks/train_demo.py
    python quickstart.py --run benchmarks/emoji_data.py
    python quickstart.py --run benchmarks/train_demo.py --model emoji
    python quickstart.py --run benchmarks/train_demo.py --model emoji-8-steps

The weak model is narrower and stops after a share of the steps, a third for the digits and a tenth for the emoji, on the
same batches. The last command makes a copy of the emoji model that draws in 8 steps, taught by the emoji model itself.
Stopped in the middle, the same command goes on from the last checkpoint. Runs on a GPU if there is one.
"""

import argparse
import json
from pathlib import Path

import torch
from pack import ROOT
from recipes import RECIPES
from safetensors.torch import save_file
from tqdm import tqdm


def draw_batch(recipe, data, size, index, device):
    """Pictures, noise, sigma [B], label weights and what more the network is told, the same for the same index."""
    generator = torch.Generator(device if recipe.on_device else "cpu").manual_seed(index)
    clean, context, more = recipe.draw(data, size, generator)
    mean, deviation = recipe.sigma_log
    sigma = torch.exp(mean + deviation * torch.randn(size, generator=generator, device=generator.device))
    noise = torch.randn(clean.shape, generator=generator, device=generator.device)
    return *(tensor.to(device) for tensor in (clean, noise, sigma, context)), more


def save_weights(students, recipe, data, arguments):
    """Writes the moving averages, in half precision, with what they are."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, student in students.items():
        facts = {key: value for key, value in recipe.networks[name].items() if key not in recipe.not_shipped}
        facts |= {"steps": student.steps, "batch": arguments.batch, "loss": round(student.loss, 4)}
        facts |= recipe.facts(student.average, data)
        weights = {
            key: value.cpu().half().contiguous() for key, value in student.average.state_dict().items()
            if not key.startswith(recipe.not_shipped)
        }
        save_file(weights, arguments.output / f"{name}.safetensors", {"config": json.dumps(facts)})


def make_students(recipe, arguments, device):
    """File name -> student; the weak one, which comes last, takes fewer steps."""
    steps = arguments.steps, max(1, arguments.steps // recipe.weak_share)
    return {
        name: recipe.student(recipe, config, count, arguments.learning_rate, device)
        for (name, config), count in zip(recipe.networks.items(), steps)
    }


def train(arguments):
    """Trains from the checkpoint, or from scratch, to the end and writes the weights."""
    device, recipe = torch.device("cuda" if torch.cuda.is_available() else "cpu"), RECIPES[arguments.model]
    torch.manual_seed(0)
    data, students, start = recipe.load(arguments.data, device), make_students(recipe, arguments, device), 0
    if arguments.checkpoint.exists():
        saved = torch.load(arguments.checkpoint, weights_only=True)
        start = saved["step"]
        for name, student in students.items():
            student.restore(saved[name])
    progress = tqdm(range(start, arguments.steps), initial=start, total=arguments.steps, unit="step")
    for index in progress:
        batch = draw_batch(recipe, data, arguments.batch, index, device)
        for student in students.values():
            if index < student.steps:
                student.step(index, *batch)
        done = index + 1
        if done % min(50, arguments.save_every) == 0:
            progress.set_postfix({name: f"{student.loss:.4f}" for name, student in students.items()})
        if done % arguments.save_every == 0 or done == arguments.steps:
            partial = arguments.checkpoint.with_suffix(".partial")
            torch.save({"step": done} | {name: student.state() for name, student in students.items()}, partial)
            partial.replace(arguments.checkpoint)
    save_weights(students, recipe, data, arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=RECIPES, default="digits")
    parser.add_argument("--steps", type=int, help="(default: 6000, for emoji 8775, for 8 steps 200)")
    parser.add_argument("--batch", type=int, help="(default: 128, for emoji 768, for 8 steps 8)")
    parser.add_argument("--learning-rate", type=float, help="(default: 0.002, for emoji 0.0014, for 8 steps 0.00025)")
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--checkpoint", type=Path, help="(default: demo-training.pt, for others NAME-training.pt)")
    parser.add_argument("--data", type=Path, help="what benchmarks/emoji_data.py made, where it is not in its usual place")
    parser.add_argument("--output", type=Path, default=ROOT / "workflows" / "demo_model")
    arguments = parser.parse_args()
    for name in ("steps", "batch", "learning_rate"):
        if getattr(arguments, name) is None:
            setattr(arguments, name, getattr(RECIPES[arguments.model], name))
    arguments.checkpoint = arguments.checkpoint or Path(RECIPES[arguments.model].checkpoint)
    train(arguments)


if __name__ == "__main__":
    main()
