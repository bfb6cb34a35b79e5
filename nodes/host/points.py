"""Where the network is asked besides at the sample."""

import dataclasses

import torch

from .joint import on_device


@dataclasses.dataclass(frozen=True)
class Points:
    """Where else the network is to be asked: rows x [R, ...], and the image of each, a list [R] of places in the batch.

    Rows of an image may repeat, in any order. Also x [points * B, ...] with a shorter list of the images among which
    it is asked; then chosen, a boolean [B] of the same on the device of x, or None for all.
    """

    x: torch.Tensor
    images: list
    chosen: torch.Tensor | None = None

    @property
    def rows_are_listed(self):
        """Whether `images` has the image of each row."""
        return len(self.images) == len(self.x)

    def rows(self, batch):
        """Rows [R, ...] and the image of each."""
        if self.rows_are_listed:
            return self.x, self.images
        points = len(self.x) // batch
        if len(self.images) == batch:
            return self.x, self.images * points
        places = on_device(self.images, self.x.device)
        return self.x.unflatten(0, (points, batch)).index_select(1, places).flatten(0, 1), self.images * points

    def full(self, found, base):
        """Predictions in the layout of x, from those of `rows`, with those of the batch at x, [B, ...], elsewhere."""
        if len(found) == len(self.x):
            return found
        found = found.unflatten(0, (-1, len(self.images)))  # [points, images, ...]
        return base.expand(len(found), *base.shape).index_copy(
            1, on_device(self.images, found.device), found
        ).flatten(0, 1)
