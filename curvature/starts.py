"""Seeded chance: where a search starts and to which side of a saddle it goes; never from the image or the score."""

import hashlib

import torch
from torch import Tensor


def gaussian(size: int, *identity: int) -> Tensor:
    """A white vector [size] that the identity, any integers, chooses; the same on every device."""
    generator = torch.Generator().manual_seed(_number(identity))
    return torch.randn(size, generator=generator)


def side(*identity: int) -> float:
    """1.0 or -1.0, as the identity, any integers, chooses."""
    return 1.0 if _number(identity) % 2 else -1.0


def _number(identity: tuple[int, ...]) -> int:
    digest = hashlib.blake2b(" ".join(map(str, identity)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
