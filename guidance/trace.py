"""What saddle-free guidance saw and did, call by call, in one sampling run."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TracedCall:
    """One model call.

    sigma: scalar tensor; reason: why guidance was not active, or None; rayleigh: [directions, B] and finite: [B] of the
    estimate in use; push: root mean square of the correction, [B]. The last three are None where it was not active.
    """

    sigma: torch.Tensor
    reason: str | None = None
    rayleigh: torch.Tensor | None = None
    finite: torch.Tensor | None = None
    push: torch.Tensor | None = None

    def plain(self):
        """The call in numbers, lists and strings, None where a number is not finite; waits for the GPU."""
        call = {"sigma": float(self.sigma), "active": self.rayleigh is not None, "reason": self.reason}
        if self.rayleigh is None:
            return call | {"rayleigh": [], "push": [], "acted": []}
        finite = self.finite.tolist()
        rayleigh = [
            [_number(value) if known else None for value in values]
            for values, known in zip(self.rayleigh.T.tolist(), finite)
        ]
        acted = [any(value is not None and value > 1 for value in values) for values in rayleigh]
        if not any(acted):
            call["reason"] = "no positive curvature" if any(finite) else "the model gave values that are not finite"
        return call | {"rayleigh": rayleigh, "push": [_number(value) for value in self.push.tolist()], "acted": acted}


class CurvatureTrace:
    """The calls of the last sampling run, and where in each image the tracked directions lay.

    off: a sentence where guidance is off and nothing will be traced. Values stay tensors on their device until they
    are read, so that tracing does not wait for the GPU. A run that begins where the last one ended continues it.
    """

    def __init__(self, off=None):
        self.off = off
        self.window = None
        self.sigmas = ()
        self.calls = []
        self._decided = None  # energy of the last directions, [B, *spatial]
        self._undecided = None  # the same, summed over calls, weighted by how far each direction curves upwards

    def begin(self, sigmas, window=None):
        """A new run: sigmas, the schedule as floats; window, the SigmaWindow in which guidance acts, None for all."""
        continues = self.sigmas and sigmas[0] > 0 and math.isclose(self.sigmas[1], sigmas[0], rel_tol=1e-4)
        first = self.sigmas[0] if continues else sigmas[0]
        self.sigmas = first, sigmas[-1]
        self.window = None if window is None else (window.start, window.end)
        if not continues:
            self.calls, self._decided, self._undecided = [], None, None

    def add(self, sigma, estimate, correction, directions=None):
        """An active call: its sigma, CurvatureEstimate and correction [B, ...].

        directions: the estimate's directions as [directions, B, C, *spatial], where it holds them in another layout.
        """
        push = correction.float().square().flatten(1).mean(dim=1).sqrt()
        self.calls.append(TracedCall(sigma, None, estimate.rayleigh, estimate.finite, push))
        directions = estimate.direction if directions is None else directions
        energy = directions.float().square().mean(dim=2)  # [directions, B, *spatial]
        weight = torch.where(estimate.finite, (estimate.rayleigh.float() - 1).clamp(min=0), 0)
        undecided = (energy * weight.reshape(weight.shape + (1,) * (energy.ndim - 2))).sum(dim=0)
        self._decided = energy.mean(dim=0)
        same = self._undecided is not None and self._undecided.shape == undecided.shape
        self._undecided = self._undecided + undecided if same else undecided

    def add_idle(self, sigma, reason):
        """A call at which guidance was not active, and why."""
        self.calls.append(TracedCall(sigma, reason))

    def end(self):
        """The run is over: takes what is left of it off the GPU."""
        moved = [
            {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in vars(call).items()}
            for call in self.calls
        ]
        self.calls = [TracedCall(**values) for values in moved]
        if self._decided is not None:
            self._decided, self._undecided = self._decided.cpu(), self._undecided.cpu()

    def indecision(self):
        """Where each image was undecided, [B, *spatial] from 0 to 1, or None where no call was active.

        The size of the tracked directions there, each weighted by how far it curved upwards; where nothing ever did,
        that of the last directions.
        """
        if self._decided is None:
            return None
        energy = torch.where(self._largest(self._undecided) > 0, self._undecided, self._decided)
        return (energy / self._largest(energy).clamp(min=torch.finfo(energy.dtype).tiny)).sqrt()

    def plain(self, first=0):
        """The run in numbers, lists and strings from call `first` on; waits for the GPU."""
        off = self.off
        if off is None and not self.calls:
            off = "Saddle-Free Guidance has taken part in no sampling yet."
        return {
            "first": first,
            "calls": [call.plain() for call in self.calls[first:]],
            "window": None if self.window is None else [_number(sigma) for sigma in self.window],
            "sigmas": [_number(sigma) for sigma in self.sigmas],
            "off": off,
        }

    @staticmethod
    def _largest(energy):
        return energy.flatten(1).amax(dim=1).reshape((-1,) + (1,) * (energy.ndim - 1))


def _number(value):
    return value if math.isfinite(value) else None
