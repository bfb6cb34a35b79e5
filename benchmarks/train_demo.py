"""Trains the demo model and its weak companion on the coloured digits.

    python quickstart.py --run benchmarks/train_demo.py

The weak model is narrower and stops after a third of the steps, on the same batches. Stopped in the middle, the same
command goes on from the last checkpoint. Runs on a GPU if there is one.
"""

import argparse
import copy
import json
import math
from pathlib import Path

import torch
from digits import colour, load_digits
from pack import ROOT, load_pack
from safetensors.torch import save_file
from tqdm import tqdm

load_pack()
from saddle_free_guidance.nodes.demo_network import CLASSES, SIGMA_DATA, DemoUNet, denoise

WEAK_SHARE = 3
LABEL_DROPOUT = 0.2
SIGMA_LOG_MEAN, SIGMA_LOG_STD = -0.4, 1.5
CONFIGS = {"model": {"width": 48, "blocks": 4}, "weak": {"width": 24, "blocks": 2}}


class Student:
    """One network with its optimiser and the moving average that is shipped."""

    def __init__(self, config, steps, learning_rate, device):
        self.steps = steps
        self.learning_rate = learning_rate
        self.network = DemoUNet(**config).to(device, memory_format=torch.channels_last)
        for name, parameter in self.network.named_parameters():
            if name.endswith(("conv_out.weight", "projection.weight")) or name == "exit.weight":
                torch.nn.init.zeros_(parameter)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimiser = torch.optim.Adam(self.network.parameters(), betas=(0.9, 0.99))
        self.loss = 1.0

    def step(self, index, clean, noise, sigma, context):
        warm = min(1.0, (index + 1) / 200)
        rate = self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * index / self.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
        error = denoise(self.network, clean + sigma[:, None, None, None] * noise, sigma, context) - clean
        loss = (weight * error.square().mean(dim=(1, 2, 3))).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.loss += 0.01 * (loss.item() - self.loss)
        decay = min(0.999, (index + 1) / (index + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.network.parameters()):
                mean.lerp_(value, 1 - decay)

    def state(self):
        return {k: getattr(self, k).state_dict() for k in ("network", "average", "optimiser")} | {"loss": self.loss}

    def restore(self, state):
        for key in ("network", "average", "optimiser"):
            getattr(self, key).load_state_dict(state[key])
        self.loss = state["loss"]


def draw_batch(digits, labels, size, generator):
    chosen = torch.randint(len(digits), (size,), generator=generator)
    clean = colour(digits[chosen], generator)
    context = torch.nn.functional.one_hot(labels[chosen], CLASSES).float()[:, None]  # [B, 1, 10]
    context *= (torch.rand(size, 1, 1, generator=generator) >= LABEL_DROPOUT).float()
    sigma = torch.exp(SIGMA_LOG_MEAN + SIGMA_LOG_STD * torch.randn(size, generator=generator))
    return clean, torch.randn(clean.shape, generator=generator), sigma, context


def save_weights(students, folder, arguments, step):
    folder.mkdir(parents=True, exist_ok=True)
    for name, student in students.items():
        facts = CONFIGS[name] | {
            "steps": min(step, student.steps), "batch": arguments.batch, "loss": round(student.loss, 4)
        }
        weights = {k: v.half().contiguous() for k, v in student.average.cpu().state_dict().items()}
        save_file(weights, folder / f"{name}.safetensors", {"config": json.dumps(facts)})


def train(arguments):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    digits, labels = load_digits()
    students = {
        "model": Student(CONFIGS["model"], arguments.steps, arguments.learning_rate, device),
        "weak": Student(CONFIGS["weak"], max(1, arguments.steps // WEAK_SHARE), arguments.learning_rate, device),
    }
    start = 0
    if arguments.checkpoint.exists():
        saved = torch.load(arguments.checkpoint, weights_only=True)
        start = saved["step"]
        for name, student in students.items():
            student.restore(saved[name])
    progress = tqdm(range(start, arguments.steps), initial=start, total=arguments.steps, unit="step")
    for index in progress:
        batch = draw_batch(digits, labels, arguments.batch, torch.Generator().manual_seed(index))
        batch = [tensor.to(device) for tensor in batch]
        for student in students.values():
            if index < student.steps:
                student.step(index, *batch)
        done = index + 1
        if done % 50 == 0:
            progress.set_postfix({name: f"{student.loss:.4f}" for name, student in students.items()})
        if done % arguments.save_every == 0 or done == arguments.steps:
            partial = arguments.checkpoint.with_suffix(".partial")
            torch.save({"step": done} | {name: student.state() for name, student in students.items()}, partial)
            partial.replace(arguments.checkpoint)
    save_weights(students, arguments.output, arguments, arguments.steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--checkpoint", type=Path, default=Path("demo-training.pt"))
    parser.add_argument("--output", type=Path, default=ROOT / "workflows" / "demo_model")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
