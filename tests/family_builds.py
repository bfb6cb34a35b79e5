"""Builds and samples the families of family_list, without the host's executor."""

import contextlib
from types import SimpleNamespace

import comfy.model_management
import comfy.model_patcher
import comfy.nested_tensor
import comfy.sample
import comfy.samplers
import comfy.supported_models
import stand_ins
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_void import VOID_DDIM
from family_list import FAMILIES, random
from graphs import AUTO_KNOBS, KNOBS
from saddle_free_guidance.nodes.auto_guidance import AutoGuidance
from saddle_free_guidance.nodes.host.compat import CHECK
from saddle_free_guidance.nodes.host.saddle_free_run import SaddleFreeRun
from saddle_free_guidance.nodes.saddle_free import SaddleFreeGuidance

SEEN = []  # the counts that are being made


def build(name, seed=0):
    """A patcher of a family's network with random weights."""
    family = FAMILIES[name]
    config = getattr(comfy.supported_models, family.cls)(dict(family.network))
    if family.cls == "SD_X4Upscaler":  # which the host's class sets for four levels
        config.unet_config.update(disable_self_attentions=[True], num_heads=8, num_head_channels=-1)
    config.set_inference_dtype(torch.float32, None)
    weights = family.weights() if callable(family.weights) else family.weights
    model = config.get_model(dict(weights or {}), "", device=torch.device("cpu"))
    own = model.diffusion_model.state_dict()
    with torch.no_grad():
        for key, value in stand_ins.random_weights(model.diffusion_model, seed).items():
            if own[key].is_floating_point():
                own[key].copy_(value)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def sample(name, model, batch, cfg, steps=3, sampler="euler"):
    """The latent of a sampling, its parts packed into one; with the host's own sampler where a family has one."""
    family = FAMILIES[name]
    latent, mask = _start(family, batch)
    conditions = family.conditions(1), family.conditions(2)
    common = {"noise_mask": mask, "disable_pbar": True, "seed": 7}
    with torch.inference_mode():
        if family.cls == "CogVideoX_T2V":
            sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
            found = comfy.sample.sample_custom(
                model, _noise(latent), cfg, VOID_DDIM(), sigmas, *conditions, latent, **common
            )
        else:
            found = comfy.sample.sample(
                model, _noise(latent), steps, cfg, sampler, "simple", *conditions, latent, **common
            )
    return torch.cat([part.flatten(1) for part in found.unbind()], 1) if found.is_nested else found


def _start(family, batch):
    nested = not isinstance(family.shape[0], int)
    shapes = family.shape if nested else [family.shape]
    if family.mask is None:
        parts, masks = [torch.zeros(batch, *shape) for shape in shapes], None
    else:
        parts = [random(batch, *shape, seed=3) for shape in shapes]
        masks = [torch.ones(batch, 1, *shape[1:]) for shape in shapes]
        masks[0][:, :, 0] = 0
    if not nested:
        return parts[0], masks and masks[0]
    return comfy.nested_tensor.NestedTensor(parts), masks and comfy.nested_tensor.NestedTensor(masks)


def _noise(latent):
    if latent.is_nested:
        return comfy.nested_tensor.NestedTensor(
            [random(*part.shape, seed=7 + place) for place, part in enumerate(latent.unbind())]
        )
    return random(*latent.shape, seed=7)


def batches_of(name):
    """The batches that the family's network takes."""
    return (1,) if FAMILIES[name].cls == "MiniMaxH3" else (1, 3)


def guided(model, **knobs):
    """The model with saddle-free guidance."""
    return SaddleFreeGuidance.execute(model, **KNOBS | {"scale": 4.0} | knobs)[0]


def steered(model, weak):
    """The model with auto-guidance."""
    return AutoGuidance.execute(model, weak, **AUTO_KNOBS | {"scale": 3.0})[0]


def apart(model):
    """The model with a wrapper that keeps probes out of the sample's own forward."""
    changed = model.clone()
    changed.add_wrapper_with_key(
        WrappersMP.CALC_COND_BATCH, "test_apart", lambda executor, *args: executor(*args)
    )
    return changed


def watched(model, amount=0.0):
    """The model with `amount` of x added to its predictions; what it is asked is counted."""

    def apply_model(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        for counts in SEEN:
            if CHECK in transformer_options:
                counts.checks += 1
            else:
                counts.rows += len(x)
                counts.points.append(x)
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs) + amount * x

    changed = model.clone()
    changed.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test_watch", apply_model)
    return changed


@contextlib.contextmanager
def pushes():
    """Keeps what saddle-free guidance adds to the predictions, a tensor a call."""
    added, correction = [], SaddleFreeRun.correction

    def kept(run, args):
        added.append(correction(run, args))
        return added[-1]

    SaddleFreeRun.correction = kept
    try:
        yield added
    finally:
        SaddleFreeRun.correction = correction


@contextlib.contextmanager
def counted():
    """Counts the rows that watched models are asked, which are kept, and the forwards that only check others."""
    counts = SimpleNamespace(rows=0, checks=0, points=[])
    SEEN.append(counts)
    try:
        yield counts
    finally:
        SEEN.remove(counts)
