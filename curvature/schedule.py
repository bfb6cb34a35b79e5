"""When an image is probed, decided from sigma and from what is known of its curvature, never by counting calls."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LEAST = 0.01  # by how much a quotient must exceed 1: less is within what a probe's own step bends
BUDGET = 3  # evaluations in which something must be found
PROVEN = 6  # the same after a test that is certain, not counting that
FEW, MANY = 1.0, 2.0  # norms of J where one direction may be a saddle, and where one of many may
NEAR = 0.85  # of |J d| over |d|, above which a look goes on where not every look does
FAR = 0.5  # of the same where a saddle was found before
GRANTED = 1.1
APART = 2.0  # sigma of an earlier call over that of now: nearer, a test tells too little; farther, it has more noise
# Of noise to picture, at most, for the second test and the third: before the picture stands out, which is where most is
# undecided, and once it does. A test tells of what opened at a sigma a few times larger, as these are apart.
LEVELS = (1.7, 0.5)
AGAIN = 0.9  # of the spread: a saddle that opens there is already a little open then
SPAN = 7.0  # once sigma is so many times smaller than at the first saddle, what a push still moves is as much smaller


@dataclass(frozen=True)
class ProbeSchedule:
    """When each image is looked at again; all tensors are [B].

    last: sigma_hat of its last look, inf before the first; due: at or below which sigma_hat the next one is; rayleigh:
    its last quotient, and margin: what that may be wrong by; found: whether a saddle was ever found, and first: the
    sigma_hat of that; misses: how many looks in a row found none since; spent: evaluations before anything was found,
    and budget: how many there may be; quiet: how many tests could not tell the density from a Gaussian; follows:
    whether what a test told is followed.
    """

    last: Tensor
    due: Tensor
    rayleigh: Tensor
    margin: Tensor
    found: Tensor
    first: Tensor
    misses: Tensor
    spent: Tensor
    budget: Tensor
    quiet: Tensor
    follows: Tensor

    @classmethod
    def start(cls, batch: int, device: torch.device | None = None) -> "ProbeSchedule":
        """The schedule at the start of a run, for `batch` images."""
        endless, nothing = torch.full((batch,), math.inf, device=device), torch.zeros(batch, device=device)
        no = nothing.bool()
        budget = nothing + BUDGET
        return cls(endless, endless, nothing, nothing, no, nothing, nothing, nothing, budget, nothing.long(), no)

    @property
    def begun(self) -> Tensor:
        """Which images have been looked at."""
        return self.last.isfinite()

    def fresh(self, sigma_hat: Tensor, spacing: float) -> Tensor:
        """Which images' last look still tells at sigma_hat [B]: until the next would be due, and half as long again."""
        fresh: Tensor = self.begun & (sigma_hat * spacing**1.5 > self.last)
        return fresh

    @property
    def unsure(self) -> Tensor:
        """Which images are asked once more, a step of power iteration further than a search that found no saddle."""
        return ~self.found & self.begun & ~self.follows & self._goes_further(self.spent)

    def _goes_further(self, spent: Tensor) -> Tensor:
        return (spent >= BUDGET - 1) & (spent < self.budget)

    @property
    def untested(self) -> Tensor:
        """Which images must first be told from a Gaussian."""
        return ~self.begun & ~self.follows

    def tested(
        self, picked: Tensor, tells: Tensor, little: Tensor, proves: Tensor, sigma_hat: Tensor
    ) -> "ProbeSchedule":
        """The schedule after a test at sigma_hat [B] of the images `picked`, whose looks are still to come.

        tells: whether the density is no Gaussian there, little: whether little of it is not, which is then followed,
        and proves: whether that is certain, so that the test is not counted; booleans of the length of picked.
        """
        def put(values: Tensor) -> Tensor:
            """The booleans of `picked` in their places, [B], False elsewhere."""
            return torch.zeros_like(self.found).index_copy(0, picked, values)

        silent, proven = put(~tells), put(proves)
        return replace(
            self, quiet=self.quiet + silent, spent=self.spent + silent.float() - proven.float(),
            budget=torch.where(proven, PROVEN, self.budget), follows=self.follows | put(tells & little),
            due=torch.where(silent, sigma_hat / APART, self.due),
        )

    def asks(self, sigma_hat: Tensor, norm: Tensor, few: Tensor, noise: Tensor, spacing: float) -> Tensor:
        """Which images to look at now; all [B], the result a boolean.

        norm: the Frobenius norm of J, which no quotient exceeds; few: whether few directions are undecided, so that a
        saddle opens at a norm of about 1; where many are, it is later; noise: how many times longer the noise is than
        the picture; spacing: as in `after`. A density that showed no saddle for the budget is left alone.
        """
        enough = norm > torch.where(few & (self.spent == 0), FEW, MANY)
        wanted = self.found | self.unsure | (enough & (self.spent < BUDGET))
        for quiet, most in enumerate(LEVELS, start=1):
            wanted = wanted & (self.begun | (self.quiet != quiet) | (noise < most))
        due = self._sooner(norm, spacing).due
        return wanted & ~self.follows & sigma_hat.isfinite() & (sigma_hat <= due)

    def _sooner(self, norm: Tensor, spacing: float) -> "ProbeSchedule":
        """The schedule where few directions are undecided, all of which a look sees: one at each fall by `spacing`."""
        sooner = torch.maximum(self.due, self.last / spacing)
        return replace(self, due=torch.where(self.found & (norm < MANY), sooner, self.due))

    def goes_on(self, growth: Tensor, few: Tensor, evaluations: Tensor) -> Tensor:
        """For which images a second probe is worth it, after one with |J d| / |d| = growth, [B]; a boolean [B].

        evaluations: those of the call so far, [B]. A probe that leaves none for later must promise something.
        """
        is_last = self.spent + evaluations + 1 >= BUDGET
        enough = growth > torch.where(self.found, FAR, torch.where(few | is_last, NEAR, 0))
        return enough & ~self.unsure & (self.found | (self.spent < BUDGET - 1))

    def after(
        self, images: Tensor, sigma_hat: Tensor, rayleigh: Tensor, margin: Tensor, evaluations: Tensor,
        spacing: float, norm: Tensor, is_same: bool = False,
    ) -> "ProbeSchedule":
        """The schedule after a look at `images`, a boolean [B], that found the quotients `rayleigh` within `margin`.

        Where a saddle was found, the next look comes when sigma has fallen by `spacing`. Where many directions are
        undecided, of which a look sees few, it comes by that much later after each look that finds none, and none comes
        once sigma is SPAN times smaller. Where a search found none, it comes where the spread of the picture along that
        direction, sigma_hat sqrt(rho), could become a saddle. What is followed is looked at again after `spacing` where
        it is open, and else where its spread could become a saddle. evaluations: what the look cost; norm: the
        Frobenius norm of J, [B]; is_same: whether what is asked once more is the direction of the look before, of which
        a quotient that grows faster than any Gaussian's tells that it is about to open.
        """
        is_open = rayleigh > 1 + LEAST + margin
        rises = rayleigh > self.gaussian(sigma_hat) + LEAST + margin
        spent = self.spent + evaluations
        follows = self._follows_on(is_open, rises, spent)
        spent = torch.where(self.follows & ~follows, BUDGET, spent)
        grows = self.unsure & rises & is_same
        found = self.found | ((is_open | grows) & ~self.follows)
        first = torch.where(self.found, self.first, sigma_hat)
        misses = torch.where(is_open, 0, self.misses + 1)
        later = sigma_hat / spacing ** (1 + misses)
        later = torch.where(later < first / SPAN, 0, later)
        spread = sigma_hat * rayleigh.clamp(0.01, 1).sqrt()
        again = torch.where(self._goes_further(spent), AGAIN * spread, sigma_hat)
        due = torch.where(found, torch.where(grows & ~is_open, spread, later), again)
        due = torch.where(follows, torch.where(is_open, sigma_hat / spacing, AGAIN * spread), due)
        new = replace(
            self, last=sigma_hat, due=due, rayleigh=rayleigh, margin=margin, found=found, first=first, misses=misses,
            spent=spent, follows=follows,
        )._sooner(norm, spacing)
        return ProbeSchedule(**{
            name: torch.where(images, value, getattr(self, name)) for name, value in vars(new).items()
        })

    def _follows_on(self, is_open: Tensor, rises: Tensor, spent: Tensor) -> Tensor:
        """Where what was followed still is: while it is open, and before as long as it rises faster than a Gaussian's.

        Where an earlier test was silent, noise is no reason for what a later one tells, and the budget no limit.
        """
        was_open = self.rayleigh > 1 + LEAST + self.margin
        may_open = ~was_open & (~self.begun | rises) & ((self.quiet > 0) | (spent < BUDGET))
        return self.follows & (is_open | may_open)

    def gaussian(self, sigma_hat: Tensor) -> Tensor:
        """The largest quotient that the direction of the last look can have at sigma_hat if the density is Gaussian.

        Along an eigenvector of the covariance J = c / (c + sigma^2), which gives c. J at a smaller sigma is a concave
        function of J at a larger one, so that by Jensen's inequality a mixture of eigenvectors has no more. What the
        last quotient may be wrong by is granted, and a tenth of c for what a finite probe may be wrong by.
        """
        before = (self.rayleigh + self.margin).clamp(0, 1)
        variance = GRANTED * before * (self.last / sigma_hat).square()
        return torch.where(self.begun, variance / (variance + 1 - before), 0)
