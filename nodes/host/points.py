"""Where the network is asked besides at the sample."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Points:
    """Rows x [R, ...], and the image of each, a list [R] of places in the batch; images may repeat, in any order."""

    x: torch.Tensor
    images: list
