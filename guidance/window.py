"""When guidance is active, decided by sigma alone: samplers may call the model at any sigma, in any order."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SigmaWindow:
    """The sigmas between which guidance acts: end <= sigma <= start."""

    start: float
    end: float

    def contains(self, sigma: float) -> bool:
        """Whether a model call at this sigma is guided."""
        return self.end <= sigma <= self.start
