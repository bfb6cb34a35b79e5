"""When guidance is active, decided by sigma alone: samplers may call the model at any sigma, in any order."""

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True)
class SigmaWindow:
    """The sigmas between which guidance acts: end <= sigma <= start."""

    start: float
    end: float

    def contains(self, sigma):
        """Whether a model call at this sigma is guided."""
        return self.end <= sigma <= self.start


def schedule_position(sigma, sigmas):
    """How many sigmas of a falling schedule lie above `sigma`: 0 at its start, whole numbers at each step.

    sigma: float; sigmas: a sequence of floats. A call between two steps counts as the later one, a repeated one as the
    same, and a raised sigma goes back.
    """
    return bisect_left(sorted(-s for s in sigmas), -sigma)
