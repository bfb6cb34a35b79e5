"""When the next probe of an image pays, decided by sigma and by what its last probe found, never by counting steps."""

import math
from dataclasses import dataclass

import torch

SPACING = 1.33  # least ratio of two sigmas at which an image is probed
FIRST_REACH = 0.5
REACH = 1.3
LAST = 0.4


@dataclass(frozen=True)
class ProbeSchedule:
    """Between which sigma_hats the last estimate of each image serves; every image is due at the start of a run.

    A direction v along which the prediction varies by s = sigma_hat * sqrt(rho) is a saddle once sigma_hat falls below
    s. Far above, the next probe waits until sigma_hat comes near s, the more so as s shrinks with sigma_hat. From then
    on the push of the last probe serves for a while: what it moves is proportional to the fall of sigma_hat, so that
    little is left to gain below a share of the largest s.

    below, above: [B], a probe is due at sigma_hat <= below and at sigma_hat >= above; spread: [B], the largest s of a
    direction found by iteration; seen: [B], how often an image has been probed; positive: [B], whether rho was above 1.
    """

    below: torch.Tensor
    above: torch.Tensor
    spread: torch.Tensor
    seen: torch.Tensor
    positive: torch.Tensor

    @classmethod
    def start(cls, batch, device=None):
        """The schedule of a run that begins, for `batch` images."""
        endless = torch.full((batch,), math.inf, device=device)
        nothing = torch.zeros(batch, device=device)
        return cls(endless, endless, nothing, nothing, nothing.bool())

    def due(self, sigma_hat):
        """Which images to probe at sigma_hat [B], a boolean [B]."""
        return (sigma_hat <= self.below) | (sigma_hat >= self.above)

    def after(self, estimate, probed):
        """The schedule after a probe of the images `probed`, a boolean [B], that gave a CurvatureEstimate.

        The first response J v of a random v has the length |J| / sqrt(N), where |J| is the Frobenius norm, so it bounds
        the largest s before any direction is known.
        """
        sigma_hat, rayleigh = estimate.sigma_hat.float(), estimate.rayleigh.float().amax(dim=0)  # [B]
        response = estimate.response.float().flatten(2)  # [directions, B, N]
        length = torch.linalg.vector_norm(response, dim=-1).square().mean(dim=0).sqrt()
        bound = sigma_hat * (length * math.sqrt(response.shape[-1])).sqrt()
        spread = sigma_hat * rayleigh.clamp(min=0).sqrt()
        first = self.seen == 0
        largest = torch.where(first, 0, torch.maximum(self.spread, spread))
        positive = self.positive | (rayleigh > 1)
        reach = torch.where(first, FIRST_REACH * bound, torch.where(positive, math.inf, REACH * spread))
        below = torch.minimum(reach, sigma_hat / SPACING)
        below = torch.where(below < LAST * largest, 0, below)
        known = estimate.finite & sigma_hat.isfinite()
        below = torch.where(known, below, math.inf)
        new = (below, sigma_hat * SPACING, largest, self.seen + known, positive)
        old = (self.below, self.above, self.spread, self.seen, self.positive)
        return ProbeSchedule(*(torch.where(probed, now, before) for now, before in zip(new, old)))
