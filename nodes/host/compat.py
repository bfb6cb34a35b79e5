"""Every special case of the host, of a family or of another pack; each says why it is one."""

import math

import comfy.model_sampling
import torch
from comfy.patcher_extension import WrappersMP, get_all_wrappers, get_wrappers_with_key
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

KEY = "saddle_free_guidance"  # of this pack's wrappers
IMAGE_KEYS = "saddle_free_image_keys"  # among the transformer options of a weak model
CHECK = "saddle_free_check"  # among the transformer options where an evaluation only checks another one

# Parametrisations that a method for the usual ones must know of.
NO_NOISE = comfy.model_sampling.IMG_TO_IMG_FLOW  # predicts from a picture: the sampler adds no noise to it
PREDICTS = NO_NOISE, comfy.model_sampling.IMG_TO_IMG  # such as Lotus, that are asked about a picture as it is
UNSCALED = comfy.model_sampling.V_PREDICTION_DDPM  # sampled by one sampler alone, which starts from the plain noise

# What a condition is called that holds the picture itself: PiD decodes it, SeedVR2 restores it.
GIVEN = "lq_latent", "condition"


def compiled(model, options):
    """Whether another number of images would compile the network, or some block of it, anew.

    The host compiles in a wrapper; other packs put compiled blocks in the place of the network's own.
    """
    if get_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY, options, is_model_options=True):
        return True
    network = getattr(model, "diffusion_model", None)
    modules = network.modules() if isinstance(network, torch.nn.Module) else ()
    return any(
        isinstance(module, torch._dynamo.OptimizedModule) or module._compiled_call_impl is not None
        for module in modules
    )


def patched(options):
    """Whether something of another pack works inside the network: it may reach across a batch, or remember."""
    transformer_options = options.get("transformer_options", {})
    patches = any(transformer_options.get(kind) for kind in ("patches", "patches_replace"))
    wrapped = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
    return patches or bool(wrapped) or "model_function_wrapper" in options


def tied(patcher):
    """Whether something built into the network may count on the batch, as motion modules on its frames."""
    return bool(patcher.injections)


def why_not_asked(model_options):
    """Why no evaluation may be added to this run, of this model or another, as the end of a sentence, or None."""
    if "ar_state" in model_options.get("transformer_options", {}):
        return "this video is made block by block, and each evaluation would add to the cache of its frames"
    return None


def why_nothing_to_guide(model_sampling, sigmas, noise, x=None, cond=None):
    """Why a run has no saddles to be pushed out of, as the end of a sentence, or None.

    sigmas: its schedule; noise: what it was given; x: what its first evaluation is asked about, where that is known;
    cond: a condition as the host prepared it.
    """
    if isinstance(model_sampling, PREDICTS):
        return "this model predicts from a picture, which is given, so there is nothing to guide"
    if any(name in entry.get("model_conds", {}) for entry in cond or () for name in GIVEN):
        return "this model decodes or restores a picture, which is given, so there is nothing to guide"
    if len(sigmas) == 2:
        return "this run is a single step, and a direction takes several to be found, so there is nothing to guide"
    unscaled = isinstance(model_sampling, UNSCALED) and x is not None
    if unscaled and not torch.equal(x.float(), noise.to(x.device).float()):
        return "the sampler scales the noise in a way that this model was not made for; connect its own, VOIDSampler"
    return None


def frames_per_video(cond):
    """How many images of the batch are the frames of one video, under a condition as the host prepared it; 1 if none.

    SVD and SV3D attend from image to image of a batch, and their conditions say over how many.
    """
    frames = [entry.get("model_conds", {}).get("num_video_frames") for entry in cond or ()]
    return max((int(each.cond) for each in frames if each is not None), default=1)


def parts_left_out(model, cond):
    """Which values of a packed latent [B, 1, N] run on a sigma of their own, a boolean [N], or None where none do.

    MiniMax H3 moves its audio by another shift of the schedule than its video; the host's prediction of it at the
    video's sigma is no denoised audio. cond: a condition as the host prepared it.
    """
    network = getattr(model, "diffusion_model", None)
    shift = getattr(network, "sigma_shift_audio", None)
    if shift is None or shift == network.sigma_shift_video:
        return None
    shapes = next((entry["model_conds"].get("latent_shapes") for entry in cond or () if "model_conds" in entry), None)
    if shapes is None or len(shapes.cond) < 2:
        return None
    return torch.cat([torch.full((math.prod(shape[1:]),), part > 0) for part, shape in enumerate(shapes.cond)])
