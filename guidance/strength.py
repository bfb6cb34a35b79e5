"""How much of the push is made: over sampling by a curve, and in the picture by masks."""

import math
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

CONSTANT = "constant"
CURVES: dict[str, Callable[[float], float]] = {  # name -> strength at a share of the guided part of sampling
    CONSTANT: lambda share: 1.0,
    "fade in": lambda share: share,
    "fade out": lambda share: 1.0 - share,
    "middle": lambda share: 1.0 - abs(2.0 * share - 1.0),
}
HALVINGS = 24  # of the interval in which a share is sought: to 1e-7
GREYS = 2**16  # to which a mask is rounded, so that white that was resized is 1 to the last bit


def strength_over_sampling(curve: str, share: float, start: float, end: float) -> float:
    """The strength, from 0 to 1, at a share of sampling where guidance acts from share `start` to share `end`."""
    length = end - start
    return CURVES[curve](min(max((share - start) / length, 0.0), 1.0) if length > 0 else 0.0)


def share_of_sampling(sigma: float, percent_to_sigma: Callable[[float], float]) -> float:
    """The share of sampling, from 0 to 1, at which percent_to_sigma, which falls, gives sigma."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if percent_to_sigma(middle) > sigma else (low, middle)
    return round((low + high) / 2, 6)


def strength_in_picture(masks: Tensor, shape: Sequence[int]) -> Tensor:
    """Masks in the layout of a latent of this shape: [B or 1, 1, *spatial], from 0 to 1, float32.

    masks: [H, W] or [M, H, W]. M is 1; or for a video [B, C, T, h, w] the frames of every video, in any number; or for
    pictures [B, C, h, w] and [B, C, 1, h, w] one for each of the batch, repeated in order where they are fewer. Of a
    latent [B, C, L] the width is the length. Raises ValueError where M does not fit.
    """
    masks = masks.reshape(-1, 1, *masks.shape[-2:]).float().clamp(0, 1)
    batch, spatial = shape[0], list(shape[2:])
    if len(spatial) > 3 or not spatial:
        raise ValueError(f"a mask does not fit a latent of shape {list(shape)}; leave it away.")
    plane = [1, *spatial] if len(spatial) == 1 else spatial[-2:]
    masks = _rounded(F.interpolate(masks, size=plane, mode="bilinear", antialias=True))  # [M, 1, *plane]
    if len(spatial) == 3 and spatial[0] > 1:
        return _over_time(masks, spatial[0])
    if batch % len(masks):
        raise ValueError(f"there are {len(masks)} masks for {batch} pictures; give one mask, or one for each picture.")
    if len(masks) > 1:
        masks = masks.repeat(batch // len(masks), 1, 1, 1)
    return masks.reshape(-1, 1, *spatial)


def _over_time(masks: Tensor, frames: int) -> Tensor:
    """The masks [M, 1, h, w] of the frames of a video as [1, 1, frames, h, w]."""
    if len(masks) == 1:
        return masks.expand(frames, *masks.shape[1:]).movedim(0, 1)[None]
    rows = masks.flatten(1).T[None]  # [1, h * w, M]
    rows = _rounded(F.interpolate(rows, size=frames, mode="linear"))
    return rows[0].T.reshape(1, 1, frames, *masks.shape[2:])


def _rounded(masks: Tensor) -> Tensor:
    return (GREYS * masks).round() / GREYS


def padded(strength: Tensor, first: Sequence[int], length: int) -> Tensor:
    """A strength [B or 1, 1, *spatial] of the first of several latents packed into one [B, 1, length], 1 elsewhere."""
    whole = strength.expand(len(strength), *first[1:]).flatten(1)
    return F.pad(whole, (0, length - math.prod(first[1:])), value=1.0)[:, None]
