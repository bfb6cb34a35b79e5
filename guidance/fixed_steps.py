"""The search in fixed steps: one probe of every image at each call, or at each so many steps."""

import math
from collections.abc import Generator
from dataclasses import replace

import torch
from torch import Tensor

from ..curvature import REACH, WIDEST, by_chance
from .call import Question, length
from .search import Search

PROBES = 4  # after which a search begins anew: by then what it began with is little beside what sigma has left
FADING = 0.5  # a quotient below which it does; otherwise after twice as many
RISING = 0.05  # by how much a quotient must rise from probe to probe for its direction to be followed
FALLEN = 10.0  # a sigma so many times smaller is too far to foretell answers: their noise would be as many times larger
# Of the noise: what is longer beyond a Gaussian's answer is no chance. In half precision its noise is filtered before;
# in full precision a network of many layers rounds more often than once.
BEYOND, BEYOND_EXACT = 0.1, 30.0


class FixedSteps(Search):
    """Follows a saddle, or searches for one among what a Gaussian cannot explain.

    A search begins along a direction by chance. As sigma falls, directions by the hundred come to a quotient of nearly
    1, among which a saddle that opens is not seen; but a Gaussian foretells the answers along all of these. So the next
    probe is one whose answer would be known, and what the answer has beyond that is followed.
    """

    def evaluate(self) -> Generator[Question, Tensor, torch.dtype]:
        """One forward, with the probes beside x where it is time for them."""
        rows, places, displacements = self.x, list(range(len(self.x))), None
        if self._is_time():
            displacements = self._displacements(places)
            beside, there = self.asked(places, displacements)
            rows, places = torch.cat([rows, beside]), places + there
        told = yield rows, places
        denoised = told[: len(self.x)].to(self.rows.dtype).flatten(1)
        self.denoised = denoised if displacements is None else denoised.clone()  # a view would hold the probes', too
        self.run = replace(self.run, denoised=self.denoised)
        if displacements is not None:
            yield from self._look(displacements, told[len(self.x) :])
        return told.dtype

    def _is_time(self) -> bool:
        """Whether there is a probe at this call; one value is read at most."""
        run, every = self.run, self.guide.refresh_every
        if run.denoised is None and not self.is_exact:
            return False  # pure noise tells least, and saves the evaluation that the noise of a format may need
        if every > 1:
            falls = bool(run.falls(self.sigma_hat)[0])
            run = replace(run, step=run.step + (falls or run.step < 0))
            self.run = run
            if run.probed is not None and run.step - run.probed < every:
                return False
            self.run = replace(run, probed=run.step)
        return True

    def _displacements(self, images: list[int]) -> Tensor:
        """From x to the probes, [directions, B, N]."""
        run, self.follows = self.run, self._was_open()
        if run.probes % PROBES == 0:
            run = replace(run, chance=self._by_chance(images))
        assert run.chance is not None
        self.run = replace(run, probes=run.probes + 1)
        fading = (run.along < FADING) | (run.age >= 2 * PROBES)
        begins = (run.age == 0) | ((run.age >= PROBES) & fading)
        self.far = torch.zeros_like(begins)
        if run.reference is not None:
            self.far = (run.reference[2] > FALLEN * self.sigma_hat).expand(begins.shape)
            begins = begins | ~run.reference[2].isfinite()  # a flow model's first call is pure noise and tells nothing
        self.begins = ~self.follows & begins
        self.asks = ~(self.follows | begins | run.candidate | self.far)
        # A larger quotient bends sooner.
        further = self.reach() * run.ahead * (2 / run.rayleigh.clamp(min=2))[..., None]
        added = torch.where((run.age > 1)[..., None], further, 0)  # before, it is along all that is decided
        self.foretold = self._foretold()
        wanted = torch.where(self.asks[..., None], self.foretold[0] + added, further)
        wanted = torch.where(self.begins[..., None], self.std[:, None] * run.chance, wanted)
        made = self.scaled(self.masked(wanted), self.index(images))
        self.shortened = length(made) / length(wanted)
        return made

    def _by_chance(self, images: list[int]) -> Tensor:
        """Displacements by chance in units of std, [directions, B, N]."""
        run, shape = self.run, tuple(self.x.shape[1:])
        found = torch.stack([
            torch.stack([by_chance(shape, run.seed, run.keys[image], direction, run.probes) for image in images])
            for direction in range(self.guide.directions)
        ])
        return (REACH if self.is_exact else WIDEST) * self.placed(found)  # noise hides what is small

    def _foretold(self) -> tuple[Tensor, Tensor]:
        """Displacements of which a Gaussian's answers are known, and these answers, both [directions, B, N].

        For a Gaussian J = C / (C + sigma^2). So J d = r says C (d - r) = sigma^2 r, and at any other sigma'
        J (r + (sigma' / sigma)^2 (d - r)) = r.
        """
        asked, told, sigma_hat = self.run.reference or (0 * self.run.ahead, 0 * self.run.ahead, self.sigma_hat)
        fall = torch.where(sigma_hat.isfinite(), self.sigma_hat / sigma_hat, 1)[:, None]
        return fall * (told + fall.square() * (asked - told)), fall * told

    def _look(self, displacements: Tensor, answer: Tensor) -> Generator[Question, Tensor, None]:
        images = list(range(len(self.x)))
        told = self.response(answer, self.index(images))
        self.evaluations += len(displacements)
        yield from self._conclude(images, displacements[None], told[None])
        self._search_on(displacements, told, self.follows | self._was_open())

    def _search_on(self, asked: Tensor, told: Tensor, follows: Tensor) -> None:
        """Keeps what the next probes need: where to go on, and by what the answers there are foretold.

        follows: where a saddle is or was followed, [directions, B]; once it is closed, a search begins.
        """
        run, noise = self.run, (self.noise() * self.std)[:, None]  # [B, 1]
        begins, asks = (self.begins & ~follows)[..., None], (self.asks & ~follows)[..., None]
        along = (asked * told).sum(dim=-1) / length(asked)[..., 0].square()
        along = torch.where(along.isfinite(), along, run.along)
        grows = run.candidate & (along > (run.followed + RISING).clamp(min=FADING))
        foretold, answer = self.foretold
        new = begins | self.far[..., None]
        found = torch.where(asks, told - answer * self.shortened, run.ahead)
        # What is beyond a Gaussian's answer has the noise of two answers, and what was found before is of length 1.
        noises = noise * torch.where(asks, math.sqrt(2), 1 / length(told))
        found = self.cleaned(found, noises, self.index(list(range(len(self.x)))))
        tells = length(found) > (BEYOND_EXACT if self.is_exact else BEYOND) * noise
        ahead = torch.where(asks, torch.where(tells, found / length(found), 0), found)
        self.run = replace(
            run, ahead=ahead, along=along, age=~follows * (torch.where(begins[..., 0], 0, run.age) + 1),
            candidate=torch.where(asks[..., 0], tells[..., 0], grows),
            followed=torch.where(run.candidate, along, 0),
            reference=(torch.where(new, asked, foretold), torch.where(new, told, answer), self.sigma_hat),
        )
