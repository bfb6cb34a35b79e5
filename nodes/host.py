"""What the guidance needs of ComfyUI: coordinates, names for images, and when it must not act."""

import hashlib
import re

import comfy.model_sampling
import torch
from comfy.patcher_extension import WrappersMP, get_all_wrappers

UNUSABLE = {
    comfy.model_sampling.IMG_TO_IMG_FLOW: "it adds no noise, so there is no log density to follow",
    comfy.model_sampling.V_PREDICTION_DDPM: "its noise scaling and its denoising disagree",
}


def refuse_unusable(model_sampling):
    """Raises ValueError, naming the parametrisation, where noise and denoised prediction have no usable relation."""
    for kind, reason in UNUSABLE.items():
        if isinstance(model_sampling, kind):
            raise ValueError(
                f"Saddle-Free Guidance cannot guide a model with {kind.__name__} sampling: {reason}. "
                "Connect a model of another kind, or connect this one to the sampler directly."
            )


def prediction_type(model_sampling):
    """The name of the parametrisation, as the host's classes have it: EPS, V_PREDICTION, EDM, CONST and so on."""
    bases = type(model_sampling).__mro__[1:]
    return next(base.__name__ for base in bases if not issubclass(base, torch.nn.Module))


def coordinates(model_sampling, sigma):
    """alpha and std, each [B], with x = alpha * x0 + std * noise at `sigma` [B], in the model's own parametrisation."""
    zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
    return model_sampling.noise_scaling(sigma, zero, one), model_sampling.noise_scaling(sigma, one, zero)


def amplification(model_sampling, sigma, std):
    """How an error of the network's output grows in the denoised prediction at `sigma` [B], over `std` [B]; [B]."""
    return model_sampling.calculate_denoised(sigma, torch.ones_like(sigma), torch.zeros_like(sigma)).abs() / std


def image_keys(noise):
    """One integer per image of `noise` [B, ...] that follows the image through any batch, or None without noise.

    A batch and one of its images sampled alone draw the same noise, so a digest of it names the image. A digest carries
    no direction, hence nothing of the image reaches the tracked vectors.
    """
    if torch.count_nonzero(noise) == 0:
        return None
    return [
        int.from_bytes(hashlib.blake2b(image.float().cpu().numpy().tobytes(), digest_size=8).digest(), "big")
        for image in noise
    ]


def unpacked(directions, latent_shapes):
    """Directions [directions, B, ...] in the layout of the latent, or of the first of several packed into one."""
    if latent_shapes is None or len(latent_shapes) < 2:
        return directions
    inner = latent_shapes[0][1:]
    return directions.flatten(2)[..., : inner.numel()].unflatten(2, inner)


CACHE = re.compile(r"\w*cache\w*", re.IGNORECASE)
IN_FRONT_OF_THE_NETWORK = (WrappersMP.DIFFUSION_MODEL, WrappersMP.APPLY_MODEL)


def why_not_asked(model_options):
    """Why no evaluation may be added to this run, of this model or another, as the end of a sentence, or None."""
    if "ar_state" in model_options.get("transformer_options", {}):
        return "this video is made block by block, and each evaluation would add to the cache of its frames"
    return None


def why_not_probed(model_options):
    """Why a probe would not be answered by the network itself, as the end of a sentence, or None.

    A cache that stands in front of the network has the last answer ready for a sample so near; it is known by its name.
    """
    options = model_options.get("transformer_options", {})
    name = getattr(options.get("easycache"), "name", None)
    if name != "EasyCache":
        in_front = [model_options.get("model_function_wrapper")]
        for kind in IN_FRONT_OF_THE_NETWORK:
            in_front += get_all_wrappers(kind, options)
        found = (CACHE.search(getattr(function, "__qualname__", type(function).__qualname__)) for function in in_front)
        name = next((match.group() for match in found if match), None)
    return name and f"{name} would answer the probes from its cache; remove one of the two, or use LazyCache"
