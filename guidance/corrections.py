"""The two guidance terms that compare predictions. Each returns what to add to the denoised prediction; they add up in any combination."""

import torch
from torch import Tensor


def classifier_free(denoised_cond: Tensor, denoised_uncond: Tensor, *, scale: float) -> Tensor:
    """(w - 1) * (D_cond - D_uncond); scale 1 is off. Ho & Salimans 2022 (arXiv 2207.12598), eq. 6.

    denoised_cond, denoised_uncond: [B, ...]. Zero for an image with values that are not finite.
    """
    return _away_from(denoised_cond, denoised_uncond, scale)


def auto_guidance(denoised: Tensor, weak_denoised: Tensor, *, scale: float) -> Tensor:
    """(w - 1) * (D - D_weak); scale 1 is off. Karras et al. 2024 (arXiv 2406.02507), eq. 3.

    denoised, weak_denoised: [B, ...]. Zero for an image with values that are not finite.
    """
    return _away_from(denoised, weak_denoised, scale)


def _away_from(denoised: Tensor, other: Tensor, scale: float) -> Tensor:
    if denoised.shape != other.shape:
        raise ValueError(
            f"the two predictions have shapes {tuple(denoised.shape)} and {tuple(other.shape)}; they must be equal."
        )
    dtype = torch.float64 if denoised.dtype == torch.float64 else torch.float32
    return _finite(((scale - 1) * (denoised.to(dtype) - other.to(dtype))).to(denoised.dtype))


def _finite(correction: Tensor) -> Tensor:
    finite = correction.flatten(1).isfinite().all(dim=1)
    return torch.where(_expand(finite, correction.ndim), correction, 0)


def _expand(values: Tensor, rank: int) -> Tensor:
    return values.reshape(values.shape + (1,) * (rank - values.ndim))
