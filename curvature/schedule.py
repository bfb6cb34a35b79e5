"""When an image is probed, decided from sigma and from what is known of its curvature, never by counting calls."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class ProbeSchedule:
    """When each image is looked at again; all tensors are [B].

    last: sigma_hat of its last probe, inf before the first; due: the sigma_hat at which the next one is; rayleigh: its
    last quotient, and margin: what it must exceed to mean something; open: whether it was a saddle; found: whether a
    saddle was ever found, and first: the sigma_hat of that; misses: how many looks in a row found none; closed: whether
    nothing more is to be found.
    """

    last: Tensor
    due: Tensor
    rayleigh: Tensor
    margin: Tensor
    open: Tensor
    found: Tensor
    first: Tensor
    misses: Tensor
    closed: Tensor

    @classmethod
    def start(cls, batch: int, device: torch.device | None = None) -> "ProbeSchedule":
        """The schedule at the start of a run, for `batch` images."""
        endless, nothing = torch.full((batch,), math.inf, device=device), torch.zeros(batch, device=device)
        return cls(endless, endless, nothing, nothing, nothing.bool(), nothing.bool(), nothing, nothing, nothing.bool())

    @property
    def begun(self) -> Tensor:
        """Which images have been probed."""
        return self.last.isfinite()

    def fresh(self, sigma_hat: Tensor, spacing: float) -> Tensor:
        """Which images' last look still tells at sigma_hat [B]: until the next would be due, and half as long again."""
        fresh: Tensor = self.begun & (sigma_hat * spacing**1.5 > self.last)
        return fresh

    @property
    def unsure(self) -> Tensor:
        """Which images have been probed in vain once: the next look is at the same direction, with one evaluation."""
        return self.begun & ~self.found

    def asks(self, sigma_hat: Tensor, norm: Tensor, threshold: float) -> Tensor:
        """Which images to probe at sigma_hat, given the Frobenius norm of J, both [B]; a boolean [B].

        No quotient is larger than the norm, so that the first probe waits until it is above the threshold.
        """
        ready = torch.where(self.begun, sigma_hat <= self.due, norm > threshold)
        return ready & ~self.closed & sigma_hat.isfinite()

    def after(
        self, images: Tensor, sigma_hat: Tensor, rayleigh: Tensor, margin: Tensor, spacing: float
    ) -> "ProbeSchedule":
        """The schedule after a probe of `images`, a boolean [B], that found the quotients `rayleigh` at sigma_hat.

        margin: what a quotient must exceed to mean something. Where a saddle was found, the next probe comes when sigma
        has fallen by `spacing`. Where none was, it comes where the spread of the picture along the direction, sigma_hat
        sqrt(rho), could become a saddle; one that has not grown by then faster than that of any Gaussian is none, and
        the image is closed.
        """
        open_ = rayleigh > 1 + LEAST + margin
        grows = rayleigh > self.gaussian(sigma_hat) + LEAST + margin
        closed = self.unsure & ~open_ & ~grows
        found = self.found | open_ | (self.unsure & grows)
        ahead = sigma_hat * torch.minimum(rayleigh.clamp(min=0.01).sqrt(), torch.ones_like(rayleigh))
        first = torch.where(self.found, self.first, sigma_hat)
        misses = torch.where(open_, 0, self.misses + 1)
        due = torch.where(found, sigma_hat / spacing ** (1 + misses), ahead * LOOK_AGAIN)
        due = torch.where(found & (due < first / SPAN), 0, due)
        new = replace(self, last=sigma_hat, due=due, rayleigh=rayleigh, margin=margin, open=open_, found=found, first=first, misses=misses)
        new = replace(new, closed=self.closed | closed)
        return ProbeSchedule(**{
            name: torch.where(images, value, getattr(self, name)) for name, value in vars(new).items()
        })

    def gaussian(self, sigma_hat: Tensor) -> Tensor:
        """The largest quotient that the direction of the last probe can have at sigma_hat if the density is Gaussian.

        Along an eigenvector of the covariance J = c / (c + sigma^2), which gives c. J at a smaller sigma is a concave
        function of J at a larger one, so that by Jensen's inequality a mixture of eigenvectors has no more. What the
        last quotient may be wrong by is granted, and a tenth of c for what a finite probe may be wrong by.
        """
        before = (self.rayleigh + self.margin).clamp(0, 1)
        variance = GRANTED * before * (self.last / sigma_hat).square()
        return torch.where(self.begun, variance / (variance + 1 - before), 0)


LEAST = 0.01  # by how much a quotient must exceed 1: less is within what a probe's own step bends
GRANTED = 1.1
SPAN = 10.0
LOOK_AGAIN = 0.9  # of the spread: a saddle that opens there is already a little open then
