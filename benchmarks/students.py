"""Networks in training: one that learns from pictures, and one of few steps that learns from another network."""

import copy
import itertools
import math

import torch
from pack import ROOT, load_pack
from safetensors.torch import load_file

load_pack()
from saddle_free_guidance.nodes.demo.digits_network import SIGMA_MAX, SIGMA_MIN, denoise

PARTS = 2  # of a step of the student, each of which the teacher takes with two evaluations


class Student:
    """One network with its optimiser and the moving average that is shipped."""

    def __init__(self, recipe, config, steps, learning_rate, device):
        self.recipe = recipe
        self.steps = steps
        self.learning_rate = learning_rate
        self.network = recipe.network(**config).to(device, memory_format=torch.channels_last)
        for name, parameter in self.network.named_parameters():
            if name.endswith(("conv_out.weight", "projection.weight")) or name == "exit.weight":
                torch.nn.init.zeros_(parameter)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimiser = recipe.optimiser(self.network)
        self.loss = 1.0

    def step(self, index, *batch):
        recipe = self.recipe
        warm = min(1.0, (index + 1) / recipe.warm)
        fall = 0.5 * (1 + math.cos(math.pi * index / self.steps)) * (1 - recipe.last_rate) + recipe.last_rate
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * warm * fall
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.descend(*batch)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.loss += max(0.01, 1 / (index + 1)) * (loss - self.loss)
        kept = recipe.kept(index)
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.network.parameters()):
                mean.lerp_(value, 1 - kept)

    def descend(self, clean, noise, sigma, context, more):
        """Adds the gradients of a batch, and returns its loss: that of denoising, in EDM's weighting."""
        recipe = self.recipe
        weight = (sigma**2 + recipe.sigma_data**2) / (sigma * recipe.sigma_data) ** 2
        with torch.autocast(clean.device.type, torch.bfloat16, enabled=recipe.on_device and clean.is_cuda):
            noisy = clean + sigma[:, None, None, None] * noise
            error = denoise(self.network, noisy, sigma, context, recipe.sigma_data, **more).float() - clean
        loss = (weight * error.square().mean(dim=(1, 2, 3))).mean()
        loss.backward()
        return loss.item()

    def state(self):
        return {k: getattr(self, k).state_dict() for k in ("network", "average", "optimiser")} | {"loss": self.loss}

    def restore(self, state):
        for key in ("network", "average", "optimiser"):
            getattr(self, key).load_state_dict(state[key])
        self.loss = state["loss"]


class FewSteps(Student):
    """A copy of the emoji model whose every step lands where several of the teacher's do (Salimans & Ho 2022).

    It learns on its own way from noise to picture, so that it meets in training what it meets when it draws. Layers that
    are not shipped stay the teacher's. Its loss is the share that is left of the error that the teacher makes in one step.
    """

    def __init__(self, recipe, config, steps, learning_rate, device):
        super().__init__(recipe, config, steps, learning_rate, device)
        teacher = load_file(ROOT / "workflows" / "demo_model" / "emoji.safetensors")
        for network in (self.network, self.average):
            network.load_state_dict({name: value.float() for name, value in teacher.items()})
        self.teacher = copy.deepcopy(self.average).to(torch.bfloat16)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(not name.startswith(recipe.not_shipped))
        self.sigmas = karras(recipe.sampler_steps)

    def descend(self, clean, noise, sigma, context, more):
        """Adds the gradients of a walk from this noise; neither the pictures nor the noise levels matter."""
        made, single = walk(self.network, self.teacher, noise, self.sigmas, context, self.recipe.sigma_data)
        return (made.sum() / single.sum()).item()


def karras(steps):
    """The noise levels of the host's scheduler `karras` for the demo models, the last one 0."""
    ends = SIGMA_MAX ** (1 / 7), SIGMA_MIN ** (1 / 7)
    return [(ends[0] + index / (steps - 1) * (ends[1] - ends[0])) ** 7 for index in range(steps)] + [0.0]


def walk(network, teacher, noise, sigmas, context, sigma_data):
    """The errors [steps] of the network and of the teacher's single steps on the network's way from noise.

    noise: [B, 3, 64, 64], sigmas: [steps + 1]. Of all steps but the last, at which one evaluation is exact. An error is
    a mean square in units of the noise that is left, and of a tenth. Adds gradients where the network is in training.
    """
    x, made, single = sigmas[0] * noise, [], []
    for sigma, after in itertools.pairwise(sigmas[:-1]):
        weight = 1 / (after + 0.1)
        landing, first = heun(teacher, x, sigma, after, context, sigma_data)
        wanted = (landing - x * (after / sigma)) / (1 - after / sigma)
        denoised = predict(network, x, sigma, context, sigma_data)
        error = weight * (denoised - wanted).square().mean()
        if torch.is_grad_enabled():
            error.backward()
        made.append(error.detach())
        single.append(weight * (first - wanted).square().mean())
        x = euler(x, denoised.detach(), sigma, after)
    return torch.stack(made), torch.stack(single)


def predict(network, x, sigma, context, sigma_data):
    """Denoised pictures at one noise level, computed in bfloat16, which is several times as fast where a CPU has it."""
    with torch.autocast(x.device.type, torch.bfloat16):
        return denoise(network, x, x.new_full((len(x),), sigma), context, sigma_data).float()


def euler(x, denoised, sigma, after):
    """x one Euler step later."""
    return denoised + (x - denoised) * (after / sigma)


@torch.no_grad()
def heun(network, x, sigma, after, context, sigma_data):
    """x after PARTS steps of Heun's method from sigma to `after`, and the first denoised pictures."""
    ends = sigma ** (1 / 7), after ** (1 / 7)
    levels = [(ends[0] + index / PARTS * (ends[1] - ends[0])) ** 7 for index in range(PARTS + 1)]
    first = None
    for high, low in itertools.pairwise(levels):
        denoised = predict(network, x, high, context, sigma_data)
        first = denoised if first is None else first
        ahead = euler(x, denoised, high, low)
        slopes = (x - denoised) / high, (ahead - predict(network, ahead, low, context, sigma_data)) / low
        x = x + (low - high) * (slopes[0] + slopes[1]) / 2
    return x, first
