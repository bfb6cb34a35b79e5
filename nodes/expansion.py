"""What nodes share that expand into the pack's own guidance and the host's sampler and decoder.

The host caches each picture by itself, so that one more costs one more.
"""

from comfy_api.latest import io

from .inputs import refuse_invalid
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
        refuse_invalid([io.Image.Input(f"image_{place}"), io.Latent.Input(f"latent_{place}")], cells)
    samples = [cells[f"latent_{place}"]["samples"] for place in range(count)]
    return [cells[f"image_{place}"] for place in range(count)], samples


def _defaults():
    inputs = SaddleFreeGuidance.define_schema().inputs
    return {item.id: item.default for item in inputs if isinstance(item, io.WidgetInput)}
