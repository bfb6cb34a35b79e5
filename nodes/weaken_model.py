"""The Weaken Model node: a worse model of the same weights, for Auto-Guidance without a second model."""

import functools

import comfy.model_sampling
import torch
from comfy.patcher_extension import WrappersMP
from comfy.weight_adapter import WeightAdapterBase
from comfy_api.latest import io

from ..guidance import noised_further, pruned
from .host.compat import IMAGE_KEYS, NO_NOISE, UNSCALED
from .host.coordinates import coordinates, prediction_type
from .inputs import checked

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


class WeakenModel(io.ComfyNode):
    """Makes a worse version of a model."""

    @classmethod
    def define_schema(cls):
        """Inputs and outputs; saved graphs store widget values by position, so inputs are only ever appended."""
        return io.Schema(
            node_id="WeakenModel",
            display_name="Weaken Model",
            category="model/patch/saddle-free",
            description=(
                "Makes a worse version of your model on purpose, to connect to weak_model of Auto-Guidance when you "
                "have no second checkpoint."
            ),
            search_aliases=["worse model", "autoguidance without second model"],
            inputs=[
                io.Model.Input("model", tooltip="The model to weaken, with its LoRAs."),
                io.Combo.Input(
                    "method", options=[NOISE, PRUNE], default=PRUNE,
                    tooltip="How the model is made worse. more noise: it is shown the picture with more noise in it; "
                    "needs no extra memory, but made emoji worse where it was measured. pruned weights: its smallest "
                    "weights are set to zero; it is loaded a second time and needs its memory a second time. It did no "
                    "harm on any model it was measured on.",
                ),
                io.Float.Input(
                    "strength", default=0.5, min=0.0, max=0.95, step=0.01, round=0.001,
                    tooltip="How much worse; higher makes each bit of the Auto-Guidance scale do more. Useful range "
                    "0.2 to 0.35 for more noise, 0.4 to 0.5 for pruned weights. 0 is off: the model as it is, which "
                    "Auto-Guidance refuses.",
                ),
            ],
            outputs=[io.Model.Output(display_name="weak_model", tooltip="The weakened model.")],
        )

    @classmethod
    @checked
    def execute(cls, model, method, strength):
        """A weakened clone of the model, or the model itself when strength is 0."""
        if strength == 0:
            return io.NodeOutput(model)
        if method == PRUNE:
            return io.NodeOutput(prune(model, strength))
        return io.NodeOutput(raise_noise(model, 1 / (1 - strength)))
