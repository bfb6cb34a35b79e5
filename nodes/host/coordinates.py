"""Coordinates of a model's noise, and names for the images that are sampled."""

import comfy.model_sampling
import torch

from ...guidance import image_digests


def prediction_type(model_sampling):
    """The name of the parametrisation, as the host's classes have it: EPS, V_PREDICTION, EDM, CONST and so on."""
    bases = type(model_sampling).__mro__[1:]
    return next(base.__name__ for base in bases if not issubclass(base, torch.nn.Module))


def coordinates(model_sampling, sigma):
    """alpha and std, each [B], with x = alpha * x0 + std * noise at `sigma` [B], in the model's own parametrisation.

    The DDPM v-prediction is followed by its denoising, which the network was trained with: x0 = alpha x - std v.
    """
    if isinstance(model_sampling, comfy.model_sampling.V_PREDICTION_DDPM):
        length = (sigma**2 + 1) ** 0.5
        return 1 / length, sigma / length
    zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
    return model_sampling.noise_scaling(sigma, zero, one), model_sampling.noise_scaling(sigma, one, zero)


def image_keys(noise):
    """One integer per image of `noise` [B, ...] that follows the image through any batch, or None without noise.

    A batch and one of its images sampled alone draw the same noise, so a digest of it names the image. A digest carries
    no direction, hence nothing of the image reaches the tracked vectors.
    """
    if torch.count_nonzero(noise) == 0:
        return None
    return image_digests(noise)


def unpacked(directions, latent_shapes):
    """Directions [directions, B, ...] in the layout of the latent, or of the first of several packed into one."""
    if latent_shapes is None or len(latent_shapes) < 2:
        return directions
    inner = latent_shapes[0][1:]
    return directions.flatten(2)[..., : inner.numel()].unflatten(2, inner)
