"""When the next probe of an image pays, decided by sigma and by what its last probe found, never by counting steps."""

import math
from dataclasses import dataclass

import torch

FIRST_REACH = 0.5  # of the bound that the first probe gives: what is undecided shrinks as the noise falls
REACH = 1.3  # of the spread: a direction is followed for a while before it turns into a saddle
SPACING = 1.08  # least ratio of the sigmas of two probes
LAST = 0.4  # of the largest spread: below it, hardly any of the push is left to come


@dataclass(frozen=True)
class ProbeSchedule:
    """Between which sigma_hats the last estimate of each image serves; in the beginning every image is due.

    Along a direction v the denoised prediction varies by s = sigma_hat * sqrt(rho), its spread: v is a saddle where
    sigma_hat < s. Far above, s is known well enough to wait until sigma_hat comes near it. Once a saddle is found, the
    push of one probe serves while sigma_hat falls by a ratio; what it moves is proportional to that fall, so that
    below a share of the largest spread the last push serves to the end.

    below, above: a probe is due at sigma_hat <= below and at sigma_hat >= above, which is where the last one was itself
    near the spread until a saddle has been probed twice; spread: the largest s of a direction found by iteration;
    begun: whether there has been a probe; positive: whether one found a rho above 1. All are [B].
    """

    below: torch.Tensor
    above: torch.Tensor
    spread: torch.Tensor
    begun: torch.Tensor
    positive: torch.Tensor

    @classmethod
    def start(cls, batch, device=None):
        """The schedule at the start of a run, for `batch` images."""
        endless, nothing = torch.full((batch,), math.inf, device=device), torch.zeros(batch, device=device)
        return cls(endless, endless, nothing, nothing.bool(), nothing.bool())

    def due(self, sigma_hat):
        """Which images to probe at sigma_hat [B], a boolean [B]."""
        return (sigma_hat <= self.below) | (sigma_hat >= self.above)

    def after(self, estimate, images):
        """The schedule after a probe of `images`, a boolean [B], that gave a CurvatureEstimate.

        The first response, to a random v, has the expected length |J| / sqrt(N) in the Frobenius norm, which bounds the
        largest rho before any direction is known.
        """
        sigma_hat, rayleigh = estimate.sigma_hat.float(), estimate.rayleigh.float().amax(dim=0)  # [B]
        response = estimate.response.float().flatten(2)  # [directions, B, N]
        norm = (torch.linalg.vector_norm(response, dim=-1).square().mean(dim=0) * response.shape[-1]).sqrt()
        spread = sigma_hat * rayleigh.clamp(min=0).sqrt()
        largest = torch.where(self.begun, torch.maximum(self.spread, spread), 0)
        positive = self.positive | (rayleigh > 1)
        reach = torch.where(self.begun, REACH * spread, FIRST_REACH * sigma_hat * norm.sqrt())
        below = torch.minimum(torch.where(positive, math.inf, reach), sigma_hat / SPACING)
        below = torch.where(positive & (below < LAST * largest), 0, below)
        # Where a sampler asks twice at a sigma, as heun does, a second power iteration makes up for coarse steps.
        again = ~self.positive & (positive | (reach >= sigma_hat))
        above = torch.where(again, 1, SPACING) * sigma_hat
        known = estimate.finite & sigma_hat.isfinite()  # a flow model's first call is pure noise and tells nothing
        new = (torch.where(known, below, math.inf), above, largest, self.begun | known, positive)
        old = (self.below, self.above, self.spread, self.begun, self.positive)
        return ProbeSchedule(*(torch.where(images, now, before) for now, before in zip(new, old)))
