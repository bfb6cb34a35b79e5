"""What the demo models are trained on and how: everything of train_demo.py that differs between them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from digits import colour, load_digits
from emoji import AUGMENTS, DATA, augmented, load_emoji, without_some_labels
from pack import load_pack
from students import FewSteps, Student, karras, walk

load_pack()
from saddle_free_guidance.nodes.demo import digits_network, emoji_network
from saddle_free_guidance.nodes.demo.digits_network import denoise

AVERAGE = 0.07  # width of the emoji model's moving average, as a share of the training
JUDGED_AT = (0.1, 0.3, 1.0, 3.0)  # sigmas
JUDGED_ON = 600  # pictures


@dataclass(frozen=True)
class Recipe:
    """A demo model and its weak companion.

    networks: file name -> sizes, the weak one last. sigma_log: mean and standard deviation of the logarithm of sigma.
    last_rate: the share of the learning rate at the end. load: from the path of the data, or None for the usual place,
    and the device. draw: from the data, a number and a generator to pictures, label weights and what more the network
    is told. facts: from a trained network and the data, what its file says beside its sizes. not_shipped: beginnings of
    the names of what is not in the file. student: what trains a network; sampler_steps: in how many steps it draws, where
    that is fixed.
    """

    networks: dict
    network: type
    sigma_data: float
    sigma_log: tuple
    steps: int
    batch: int
    learning_rate: float
    warm: int
    last_rate: float
    weak_share: int
    checkpoint: str
    optimiser: Callable
    kept: Callable
    load: Callable
    draw: Callable
    facts: Callable
    on_device: bool = False
    not_shipped: tuple = ()
    student: type = Student
    sampler_steps: int = 0


# --- Digits ----------------------------------------------------------------------------------------------------------

LABEL_DROPOUT = 0.2


def draw_digits(data, size, generator):
    """Coloured digits with four fifths of their classes."""
    digits, labels = data
    chosen = torch.randint(len(digits), (size,), generator=generator)
    clean = colour(digits[chosen], generator)
    context = torch.nn.functional.one_hot(labels[chosen], digits_network.CLASSES).float()[:, None]  # [B, 1, 10]
    context *= (torch.rand(size, 1, 1, generator=generator) >= LABEL_DROPOUT).float()
    return clean, context, {}


DIGITS = Recipe(
    networks={"model": {"width": 48, "blocks": 4}, "weak": {"width": 24, "blocks": 2}}, network=digits_network.DemoUNet,
    sigma_data=digits_network.SIGMA_DATA, sigma_log=(-0.4, 1.5), steps=6000, batch=128, learning_rate=2e-3, warm=200,
    last_rate=0.0, weak_share=3, checkpoint="demo-training.pt",
    optimiser=lambda network: torch.optim.Adam(network.parameters(), betas=(0.9, 0.99)),
    kept=lambda index: min(0.999, (index + 1) / (index + 10)), load=lambda path, device: load_digits(),
    draw=draw_digits, facts=lambda network, data: {},
)

# --- Emoji -----------------------------------------------------------------------------------------------------------

EMOJI_LABEL_DROPOUT = 0.12


def draw_emoji(emoji, size, generator):
    """Changed training pictures with most of their labels, and the sizes of the changes."""
    training = emoji.training
    places = training[torch.randint(len(training), (size,), generator=generator, device=generator.device)]
    clean, told = augmented(emoji.rgba[places], generator)
    context = without_some_labels(emoji.labels(places), emoji.sizes[1:], EMOJI_LABEL_DROPOUT, generator)
    return clean, context, {"augments": told}


def decayed(network):
    """AdamW with decay of matrices and kernels alone."""
    groups = [{"params": [], "weight_decay": share} for share in (0.01, 0.0)]
    for parameter in network.parameters():
        groups[parameter.ndim <= 1]["params"].append(parameter)
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-8)


def power_average(width):
    """How much of a moving average stays at a step, which makes its width a share of all steps (Karras et al. 2024, 3.1)."""
    roots = np.roots([1, 7, 16 - width**-2, 12 - width**-2])
    exponent = max(root.real for root in roots if abs(root.imag) < 1e-9)
    return lambda index: (1 - 1 / (index + 2)) ** (exponent + 1)


@torch.no_grad()
def emoji_facts(network, emoji):
    """The labels, and the losses on training pictures and on held-out names, unchanged, at four noise levels."""
    order = torch.randperm(len(emoji.training), generator=torch.Generator().manual_seed(3)).to(emoji.rgba.device)
    parts = {"train": emoji.training[order[:JUDGED_ON]], "held": emoji.held_out[:JUDGED_ON]}
    losses = {
        f"{part} {sigma:g}": round(judged(network, emoji, places, sigma), 4)
        for part, places in parts.items() for sigma in JUDGED_AT
    }
    settings = {
        "sigma_data": emoji_network.SIGMA_DATA, "average": AVERAGE, "sigma_log_mean": EMOJI.sigma_log[0],
        "sigma_log_std": EMOJI.sigma_log[1],
    }
    return settings | {"losses": losses, "kinds": list(emoji_network.KINDS), "styles": list(emoji_network.STYLES)}


def judged(network, emoji, places, sigma):
    """The mean loss of pictures at one noise level, in EDM's weighting; the noise is the same every time."""
    total, device = 0.0, emoji.rgba.device
    generator, sigma_data = torch.Generator(device).manual_seed(9), emoji_network.SIGMA_DATA
    for part in places.split(100):
        clean = emoji.pictures(part)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        level = torch.full((len(part),), sigma, device=device)
        error = denoise(network, clean + sigma * noise, level, emoji.labels(part), sigma_data) - clean
        total += error.square().mean(dim=(1, 2, 3)).sum().item()
    return total / len(places) * (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


EMOJI = Recipe(
    networks={
        "emoji": {"widths": (40, 128, 256), "blocks": 3, "embedding": 256, "augments": AUGMENTS},
        "emoji-weak": {"widths": (32, 64, 112), "blocks": 2, "embedding": 128, "augments": AUGMENTS},
    },
    network=emoji_network.EmojiUNet, sigma_data=emoji_network.SIGMA_DATA, sigma_log=(-0.7, 1.3), steps=8775, batch=768,
    learning_rate=1.4e-3, warm=400, last_rate=0.02, weak_share=10, checkpoint="emoji-training.pt", optimiser=decayed,
    kept=power_average(AVERAGE), load=lambda path, device: load_emoji(path or DATA).to(device), draw=draw_emoji,
    facts=emoji_facts, on_device=True, not_shipped=("augments", "embed_augments"),
)

# --- Emoji in few steps ----------------------------------------------------------------------------------------------

FEW_LABELS_DROPOUT = 0.3
HELD_OUT_NOISE, HELD_OUT_COUNT = 1_000_003, 32  # a seed, which is no index of a batch


def draw_labels(emoji, size, generator):
    """Training pictures, of which the shape matters, with some of their labels."""
    places = emoji.training[torch.randint(len(emoji.training), (size,), generator=generator, device=generator.device)]
    context = without_some_labels(emoji.labels(places), emoji.sizes[1:], FEW_LABELS_DROPOUT, generator)
    return emoji.pictures(places), context, {}


@torch.no_grad()
def few_steps_facts(network, emoji):
    """The labels, whose layers the others are, and what is left of the teacher's error on unseen noise, of each step."""
    student = FewSteps(FEW_STEPS, FEW_STEPS.networks["emoji-8-steps"], 1, 0.0, emoji.rgba.device)
    generator = torch.Generator(emoji.rgba.device).manual_seed(HELD_OUT_NOISE)
    pictures, context, _ = draw_labels(emoji, HELD_OUT_COUNT, generator)
    noise = torch.randn(pictures.shape, generator=generator, device=generator.device)
    made, single = walk(
        network, student.teacher, noise, karras(FEW_STEPS.sampler_steps), context, FEW_STEPS.sigma_data
    )
    return {
        "base": "emoji", "sampler_steps": FEW_STEPS.sampler_steps, "sigma_data": FEW_STEPS.sigma_data, "average": AVERAGE,
        "left": round((made.sum() / single.sum()).item(), 4), "left_each": [round(share, 4) for share in (made / single).tolist()],
        "kinds": list(emoji_network.KINDS), "styles": list(emoji_network.STYLES),
    }


FEW_STEPS = replace(
    EMOJI, networks={"emoji-8-steps": {"widths": (40, 128, 256), "blocks": 3, "embedding": 256}}, steps=200, batch=8,
    learning_rate=2.5e-4, warm=12, weak_share=1, checkpoint="emoji-8-steps-training.pt", draw=draw_labels,
    facts=few_steps_facts, not_shipped=tuple(f"middle.{block}.conv_in.weight" for block in range(3)), student=FewSteps,
    sampler_steps=8,
)

RECIPES = {"digits": DIGITS, "emoji": EMOJI, "emoji-8-steps": FEW_STEPS}
