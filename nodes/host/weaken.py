"""Worse models of the same weights: pruned, or asked about more noise than there is."""

import functools

import comfy.model_sampling
import torch
from comfy.patcher_extension import WrappersMP
from comfy.weight_adapter import WeightAdapterBase

from ...guidance import noised_further, pruned
from .compat import IMAGE_KEYS, NO_NOISE, UNSCALED
from .coordinates import coordinates, prediction_type

KEY = "saddle_free_weaken"
NOISE, PRUNE = "more noise", "pruned weights"
WEIGHTS = "diffusion_model."


class WeightPatch(WeightAdapterBase):
    """A patch that the host applies to a weight when it loads the model, after the LoRAs: `change` of the weight."""

    name = "weaken"

    def __init__(self, change):
        self.change = change
        self.loaded_keys = set()
        self.weights = []

    def calculate_weight(self, weight, key, *args, **kwargs):
        """The changed weight."""
        return self.change(weight)


def patch_weights(model, change):
    """A clone of the patcher with `change` on each matrix and kernel of its network."""
    patched = model.clone()
    weights = patched.model_state_dict(WEIGHTS)
    names = [name for name, weight in weights.items() if name.endswith("weight") and weight.ndim >= 2]
    patched.add_patches({name: WeightPatch(change) for name in names})
    return patched


def prune(model, share):
    """A clone of the patcher whose matrices and kernels lose the share of their smallest entries."""
    return patch_weights(model, functools.partial(pruned, share=share))


def raise_noise(model, factor):
    """A clone of the patcher that is asked about x with `factor` times the noise, by the same weights.

    Raises ValueError for a parametrisation where the new sigma is not known.
    """
    model_sampling = model.get_model_object("model_sampling")
    known = (comfy.model_sampling.CONST, comfy.model_sampling.EPS)
    if not isinstance(model_sampling, known) or isinstance(model_sampling, (NO_NOISE, UNSCALED)):
        raise ValueError(
            f'"{NOISE}" cannot weaken a model with {prediction_type(model_sampling)} sampling; choose "{PRUNE}".'
        )
    weak = model.clone()
    weak.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, functools.partial(_ask_with_more_noise, factor))
    return weak


def _ask_with_more_noise(factor, executor, x, sigma, c_concat, c_crossattn, control, transformer_options, **kwargs):
    model_sampling = executor.class_obj.model_sampling
    raised, ratio = _raised(model_sampling, sigma, factor)
    _, std = coordinates(model_sampling, sigma)
    _, new_std = coordinates(model_sampling, raised)
    noise = _noise(x, float(sigma[0]), transformer_options.get(IMAGE_KEYS) or range(len(x)))
    x = noised_further(x, noise, ratio=ratio, std=std, new_std=new_std)
    return executor(x, raised, c_concat, c_crossattn, control, transformer_options, **kwargs)


def _raised(model_sampling, sigma, factor):
    """The sigma at `factor` times the noise-to-signal ratio of `sigma`, and alpha there over alpha here; both [B]."""
    if isinstance(model_sampling, comfy.model_sampling.CONST):
        total = 1 - sigma + factor * sigma
        return factor * sigma / total, 1 / total
    return factor * sigma, torch.ones_like(sigma)


def _noise(x, sigma, image_keys):
    """Noise [B, ...] that an image gets at a sigma in any batch; the images repeat for each condition in x."""
    rows = []
    for key in image_keys:
        generator = torch.Generator().manual_seed(hash((key, sigma)) & 0x7FFFFFFFFFFFFFFF)
        rows.append(torch.randn(x.shape[1:], generator=generator))
    noise = torch.stack(rows).to(x)
    return noise.repeat(-(-len(x) // len(noise)), *[1] * (x.ndim - 1))[: len(x)]
