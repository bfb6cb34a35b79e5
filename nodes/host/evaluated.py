"""An evaluation of the network as it was made, so that another one can begin where it began."""

import dataclasses

import torch

from .rng import Moment


class UnansweredError(Exception):
    """An evaluation was not the network's own; the message is the end of a sentence."""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A condition's prediction: its place among the conditions that were evaluated at once, and the moment before.

    answered: whether the network itself made it; forwards: in how many all conditions were evaluated.
    """

    conds: list
    index: int
    denoised: torch.Tensor | None
    before: Moment
    answered: bool = True
    forwards: int = 0

    @property
    def cond(self):
        """The condition."""
        return self.conds[self.index]

    @property
    def alone(self):
        """The conditions with None for all others."""
        return [cond if place == self.index else None for place, cond in enumerate(self.conds)]

    @property
    def several(self):
        """Whether there are others."""
        return sum(cond is not None for cond in self.conds) > 1
