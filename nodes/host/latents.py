"""What a node that samples by expansion must know of the host: its samplers, and latents that may be nested."""

import comfy.nested_tensor
import comfy.samplers
import torch

SAMPLERS, SCHEDULERS = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS


def parts(samples):
    """The tensors of samples: one, or several where they are nested."""
    return samples.unbind() if _is_nested(samples) else [samples]


def image_of(samples, place):
    """The samples of one image of a batch, as a batch of it alone."""
    alone = [part[place : place + 1] for part in parts(samples)]
    return comfy.nested_tensor.NestedTensor(alone) if _is_nested(samples) else alone[0]


def joined(samples):
    """Samples of several latents as one batch."""
    together = [torch.cat(each) for each in zip(*map(parts, samples))]
    return comfy.nested_tensor.NestedTensor(together) if _is_nested(samples[0]) else together[0]


def _is_nested(samples):
    return isinstance(samples, comfy.nested_tensor.NestedTensor)
