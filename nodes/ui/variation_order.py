"""Variations of the images of a batch, sorted by their distance from the first."""

import torch

from ..host.latents import image_of, joined, parts

ORDERS = ("by seed", "nearest first", "farthest first")


def arranged(images, samples, names, order):
    """The variations of the first image of a batch, then those of the next: images, samples, and a line for each.

    images: an IMAGE a variation, with one picture or the frames of one video for each image of the batch; samples: the
    batch's latents, one a variation; names: one a variation; order: one of ORDERS, of the variations after the first.
    """
    batch = len(parts(samples[0])[0])
    _refuse_uneven(images, samples, batch)
    distances = torch.stack([distance(samples[0], each) for each in samples], dim=1)  # [batch, variations]
    pictures, latents, lines = [], [], []
    for image in range(batch):
        for place in ranked(distances[image].tolist(), order):
            pictures.append(images[place].chunk(batch)[image])
            latents.append(image_of(samples[place], image))
            told = f"{names[place]}, distance {distances[image, place]:.3f}"
            lines.append(f"image {image + 1}: {told}" if batch > 1 else told)
    return torch.cat(pictures), joined(latents), lines


def distance(samples, others):
    """Root mean square difference of the latents of each image of a batch, [B]."""
    differences = [(one.float() - other.float()).flatten(1) for one, other in zip(parts(samples), parts(others))]
    return torch.cat(differences, dim=1).square().mean(dim=1).sqrt()


def ranked(distances, order):
    """Places by their distance from the first, which stays the first; of equal ones the earlier comes first."""
    others = range(1, len(distances))
    if order == ORDERS[0]:
        return [0, *others]
    sign = 1 if order == ORDERS[1] else -1
    return [0, *sorted(others, key=lambda place: sign * distances[place])]


def _refuse_uneven(images, samples, batch):
    if len(images[0]) % batch:
        count = len(images[0])
        raise ValueError(f"image_0 is of {count} pictures; it must be of {batch}, as latent_0 is, or a multiple.")
    for place, (pictures, each) in enumerate(zip(images, samples)):
        latents = [[tuple(part.shape) for part in parts(one)] for one in (each, samples[0])]
        pixels = tuple(pictures.shape), tuple(images[0].shape)
        for name, (shape, first) in (("image", pixels), ("latent", latents)):
            if shape != first:
                raise ValueError(f"{name}_{place} is of shape {shape}; it must be of {first}, as {name}_0 is.")
