"""What nodes share that expand into the pack's own guidance and the host's sampler and decoder.

The host caches each picture by itself, so that one more costs one more.
"""

import comfy.nested_tensor
import comfy.samplers
import torch
from comfy_api.latest import io

from .inputs import refuse_odd
from .saddle_free import SaddleFreeGuidance


def add_picture(graph, name, knobs, model, vae, sampling):
    """Adds the guidance, sampler and decoder of one picture to a graph; gives the links to its image and its latent.

    name: says what is special about the picture, not its place: the host caches the guidance by its id, and a longer
    list moves places. knobs: of Saddle-Free Guidance, the others at their defaults; sampling: the inputs of KSampler.
    """
    guidance = graph.node("SaddleFreeGuidance", f"guidance {name}", model=model, **{**_defaults(), **knobs})
    latent = graph.node("KSampler", f"sampler {name}", model=guidance.out(0), **sampling)
    image = graph.node("VAEDecode", f"decoder {name}", samples=latent.out(0), vae=vae)
    return image.out(0), latent.out(0)


def as_inputs(pictures):
    """The links of pictures as the inputs image_0, latent_0, image_1 and so on."""
    places = range(len(pictures))
    return {f"{kind}_{place}": pictures[place][k] for place in places for k, kind in enumerate(("image", "latent"))}


def pictures_of(cells, count):
    """The IMAGEs and the samples that came into a node with the inputs of `as_inputs`; raises where one is no such."""
    for place in range(count):
        refuse_odd([io.Image.Input(f"image_{place}"), io.Latent.Input(f"latent_{place}")], cells)
    samples = [cells[f"latent_{place}"]["samples"] for place in range(count)]
    return [cells[f"image_{place}"] for place in range(count)], samples


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


def _defaults():
    inputs = SaddleFreeGuidance.define_schema().inputs
    return {item.id: item.default for item in inputs if isinstance(item, io.WidgetInput)}


def link_inputs(of_a_batch):
    """What pictures are made from; of_a_batch: what happens to a batch, as the end of a sentence."""
    # Links as such: only they let the host see that a cell's inputs are the ones it has cached.
    return [
        io.Model.Input("model", raw_link=True, tooltip="The model, without Saddle-Free Guidance: this node adds it."),
        io.Conditioning.Input("positive", raw_link=True, tooltip="What the pictures should show."),
        io.Conditioning.Input("negative", raw_link=True, tooltip="What they should not show, with cfg above 1."),
        io.Latent.Input("latent_image", raw_link=True, tooltip=f"The latent to start from; {of_a_batch}."),
        io.Vae.Input("vae", raw_link=True, tooltip="The VAE that decodes the pictures."),
    ]


def sampler_inputs():
    """The knobs of KSampler."""
    return [
        io.Int.Input(
            "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
            tooltip="The noise that every picture starts from. Any whole number.",
        ),
        io.Int.Input(
            "steps", default=20, min=1, max=10000,
            tooltip="Sampling steps of every picture. Useful range 10 to 50, or 4 to 8 for distilled models.",
        ),
        io.Float.Input(
            "cfg", default=1.0, min=0.0, max=100.0, step=0.1, round=0.01,
            tooltip="How closely the pictures follow the prompt; adds up with the guidance. 1 is off; useful range 2 "
            "to 8 for most models.",
        ),
        io.Combo.Input(
            "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler",
            tooltip="The sampler of every picture, as in KSampler.",
        ),
        io.Combo.Input(
            "scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="karras",
            tooltip="How fast the noise goes down over the steps, as in KSampler.",
        ),
        io.Float.Input(
            "denoise", default=1.0, min=0.0, max=1.0, step=0.01,
            tooltip="How much of latent_image is made anew. 1 makes all of it; 0 changes nothing.",
        ),
    ]
