"""Seeded chance: where a search starts and to which side of a saddle it goes; never from the image or the score."""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor


def gaussian(size: int, *identity: int) -> Tensor:
    """A white vector [size] that the identity, any integers, chooses; the same on every device."""
    generator = torch.Generator().manual_seed(_number(identity))
    return torch.randn(size, generator=generator)


def by_chance(shape: tuple[int, ...], *identity: int) -> Tensor:
    """A vector of a picture's shape [C, ..., H, W] that the identity chooses, flat; values of size 1, half of it broad.

    Half of the power is white and half falls with the square of the frequency, as that of natural pictures does (Field,
    Relations between the statistics of natural images, 1987): what is undecided is mostly broad.
    """
    white = gaussian(math.prod(shape), *identity)
    if len(shape) < 3:
        return white
    frequency = radial_frequency(shape[-2:]).clamp(min=1)
    broad = gaussian(math.prod(shape), *identity, 1).reshape(shape)
    broad = torch.fft.ifft2(torch.fft.fft2(broad) / frequency).real.flatten()
    mixed: Tensor = (white + broad / broad.square().mean().sqrt()) / math.sqrt(2)
    return mixed


def radial_frequency(shape: Sequence[int], device: torch.device | None = None) -> Tensor:
    """The radial frequency of each place of an FFT over [H, W], in waves a picture."""
    sides = [torch.fft.fftfreq(side, device=device) * side for side in shape]
    return torch.hypot(sides[0][:, None], sides[1])


def side(*identity: int) -> float:
    """1.0 or -1.0, as the identity, any integers, chooses."""
    return 1.0 if _number(identity) % 2 else -1.0


def _number(identity: tuple[int, ...]) -> int:
    digest = hashlib.blake2b(" ".join(map(str, identity)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
