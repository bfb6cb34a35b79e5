"""Two ways to make a worse model of the same weights, for auto-guidance without a second model."""

import torch
from torch import Tensor


def pruned(weight: Tensor, *, share: float) -> Tensor:
    """The weight without the `share` of its entries that are smallest in magnitude; share 0 is the weight itself.

    weight: any shape; returns a tensor of its shape and dtype.
    """
    count = round(share * weight.numel())
    if count == 0:
        return weight
    magnitude = weight.abs()
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    threshold = magnitude.flatten().to(dtype).kthvalue(count).values
    return torch.where(magnitude > threshold, weight, 0)


def noised_further(x: Tensor, noise: Tensor, *, ratio: Tensor, std: Tensor, new_std: Tensor) -> Tensor:
    """x = alpha * x0 + std * n with more noise: new_alpha * x0 + new_std * n', where ratio is new_alpha / alpha.

    x, noise: [B, ...]; ratio, std, new_std: [B], new_std at least ratio * std. The noise that x has is kept.
    """
    shape = (-1,) + (1,) * (x.ndim - 1)
    added = (new_std.square() - (ratio * std).square()).clamp(min=0).sqrt()
    return ratio.reshape(shape) * x + added.reshape(shape) * noise
