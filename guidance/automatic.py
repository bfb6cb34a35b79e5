"""The automatic search of one call: an image is probed where sigma and what is known of its curvature say so."""

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..curvature import REACH, WIDEST, gaussian, side
from .call import Question, length
from .own_steps import OwnSteps
from .run import Run

if TYPE_CHECKING:
    from .saddle_free import SaddleFree

# Of the noise, what is longer beyond a Gaussian's answer is none: in full precision, where a network of many layers
# rounds more often than once, and in half precision where no filter can take the noise out.
BEYOND_EXACT, BEYOND = 30.0, 3.0
CERTAIN = 1.5  # times the most that the noise can be
LITTLE = 0.3  # of what a Gaussian explains: more than that, and two rounds from the sampler's own step find more


class Automatic(OwnSteps):
    """Probes where it is worth it.

    One evaluation first tests whether the density can be told from a Gaussian; where it cannot, no saddle is open.
    Where much is beyond a Gaussian, two rounds look for the saddle, and the sampler's own step is the first probe.
    Where little is, among much that a Gaussian explains, just that is followed from call to call.
    """

    def __init__(self, guide: "SaddleFree", run: Run, x: Tensor, alpha: float | Tensor, std: float | Tensor) -> None:
        super().__init__(guide, run, x, alpha, std)
        self.sides = torch.ones_like(self.std)  # of a first probe, to which a push goes

    def evaluate(self) -> Generator[Question, Tensor, torch.dtype]:
        """Yields rows and the image of each, takes the predictions there; returns the dtype of these."""
        told = yield self.x, list(range(len(self.x)))
        self.denoised = told.to(self.rows.dtype).flatten(1)
        self.learn_from_step()
        followed, once_more, tests, search = self._due()
        if followed:
            yield from self._follow(followed, self.reach()[self.index(followed)])
        if once_more:
            yield from self._look(once_more, self._start(once_more, once_more=True))
        if tests:
            yield from self._test(tests)
        if search:
            yield from self._look(search, self._start(search))
        self.remember()
        return told.dtype

    def _begun_toward(self, picked: Tensor, asked: Tensor) -> Tensor:
        return self.sides[picked, None] * super()._begun_toward(picked, asked)

    def _due(self) -> list[list[int]]:
        """The images to evaluate now: along a followed direction, along the last once more, as a test, in a search."""
        schedule, run = self.run.schedule, self.run
        if self.start is None or run.norm is None:
            return [[]] * 4
        noise = self.sigma_hat * self.size.sqrt() / torch.linalg.vector_norm(self.masked(self.denoised), dim=1)
        asks = schedule.asks(self.sigma_hat, run.norm, self.few, noise, self.guide.spacing) & run.norm.isfinite()
        tests, unsure = torch.zeros_like(asks), schedule.unsure
        if run.mask is None and run.near is not None:  # what a mask protects is where the caller puts it
            tests = schedule.untested & run.near.sigma_hat.isfinite()
        followed = schedule.follows & (self.sigma_hat <= schedule.due)
        kinds = torch.stack([followed, asks & unsure, asks & tests, asks & ~unsure & ~tests])
        read = kinds.tolist()  # the only one of a call without probes
        return [[image for image, is_due in enumerate(kind) if is_due] for kind in read]

    def _test(self, images: list[int]) -> Generator[Question, Tensor, None]:
        """Tells Gaussians from other densities by one evaluation, and goes on where there is more."""
        picked = self.index(images)
        beyond, foretold, noise = yield from self._beyond(images, picked)
        lengths = length(beyond)[:, 0]
        if self.is_exact or self.x.ndim < 4:
            tells = lengths > noise * (BEYOND_EXACT if self.is_exact else BEYOND)
        else:
            tells = beyond.any(dim=1)  # the filter leaves no noise
        little = lengths < LITTLE * foretold
        proves = ~little & (lengths > noise * (CERTAIN * self.most / self.noise())[picked].clamp(max=BEYOND))
        schedule = self.run.schedule.tested(picked, tells, little, tells & proves, self.sigma_hat)
        self.run = replace(self.run, schedule=schedule)
        kinds = torch.stack([tells & little, tells & ~little]).tolist()
        chosen, much = ([place for place, is_so in enumerate(kind) if is_so] for kind in kinds)
        if chosen:
            local, there = self.index(chosen), [images[place] for place in chosen]
            run, where = self.run, self.index(there)
            sides = self.placed(torch.tensor([side(run.seed, run.keys[image]) for image in there]))
            ahead = sides[:, None] * beyond[local] / length(beyond[local])
            ahead = run.ahead[0].index_copy(0, where, ahead)
            self.run = replace(run, ahead=torch.cat([ahead[None], run.ahead[1:]]))
            yield from self._follow(there, (REACH if self.is_exact else WIDEST) * self.std[where, None])
        if much:
            there = [images[place] for place in much]
            yield from self._look(there, self._start(there))

    def _beyond(
        self, images: list[int], picked: Tensor
    ) -> Generator[Question, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """What a prediction has beyond a Gaussian's, [b, N], and how long what this foretells and noise are, [b].

        For a Gaussian J = C / (C + sigma^2). So D(y) is also the prediction at D(y) + (sigma' / sigma)^2 (y - D(y)) and
        sigma', whatever its mean and covariance.
        """
        then, alpha = self.then(picked), self.alpha[picked, None]
        fall = self.sigma_hat[picked] / then.sigma_hat
        rows = alpha * (then.denoised + fall.square()[:, None] * (then.y - then.denoised))
        answer = yield rows.reshape(-1, *self.x.shape[1:]).to(self.x.dtype), images
        self.evaluations[images] += 1
        beyond = alpha * (answer.to(self.rows.dtype).flatten(1) - then.denoised)
        foretold = length(alpha * (then.denoised - self.denoised[picked]))[:, 0]
        noise = (self.noise() * self.std)[picked] * torch.hypot(torch.ones_like(fall), 1 / fall)
        return self.cleaned(beyond[None], noise[None, :, None], picked)[0], foretold, noise

    def _follow(self, images: list[int], reach: Tensor) -> Generator[Question, Tensor, None]:
        """One probe along the first direction of each image, reach [b, 1] long, and searches beside it."""
        picked = self.index(images)
        displacements = torch.cat([(reach * self.run.ahead[0, picked])[None], self._start(images)[1:]])
        displacements = self.scaled(displacements, picked)
        answer = yield self.asked(images, displacements)
        self.evaluations[images] += len(displacements)
        told = self.response(answer, picked)
        self.follows = True
        yield from self._conclude(images, displacements[None], told[None])
        self.follows = False
        ahead = self.run.ahead[:, picked]
        found = self.cleaned(ahead, (self.noise() * self.std)[picked, None] / length(told), picked)
        ahead = torch.where(found.any(dim=-1, keepdim=True), found / length(found), ahead)
        self.run = replace(self.run, ahead=self.run.ahead.index_copy(1, picked, ahead))

    def _start(self, images: list[int], once_more: bool = False) -> Tensor:
        """First displacements [directions, b, N]: along the direction that is known, and along what the picture does.

        A step of the sampler moves x by noise alike in all directions, so that the change of the denoised prediction is
        the first step of a power iteration, made for nothing. Its side is a coin's, that the seed throws. once_more: a
        step of power iteration further than the last look alone; under a mask, where no test tells of Gaussians, along
        the direction of that look, whose quotient can tell.
        """
        run, picked = self.run, self.index(images)
        if once_more:
            last = run.ahead if run.mask is None else run.vectors
            return self.scaled(self.reach()[picked] * last[:, picked], picked)
        was_open = self._was_open()[:, picked, None]
        # A direction that was no saddle would hide another.
        known = torch.where(was_open, self.reach()[picked] * run.ahead[:, picked], 0)
        new = torch.stack([self._new(images, k) for k in range(self.guide.directions)])
        searches = list(run.searches)
        for image in images:
            searches[image] += 1
        self.run = replace(run, searches=searches)
        return self.scaled(known + new, picked)

    def _new(self, images: list[int], direction: int) -> Tensor:
        run, size = self.run, self.rows.shape[1]
        names = [(run.seed, run.keys[image], direction, run.searches[image]) for image in images]
        picked = self.index(images)
        if direction == 0 and self.start is not None:
            sides = self.placed(torch.tensor([side(*name) for name in names]))
            if not self.is_exact:  # the probe's side is chosen already
                self.sides, sides = self.sides.index_copy(0, picked, sides), torch.ones_like(sides)
            return sides[:, None] * self.std[picked, None] * self.start[picked]
        white = self.placed(torch.stack([gaussian(size, *name) for name in names]))
        return self.masked(white, picked) * (REACH * self.std[picked, None])

    def _look(self, images: list[int], displacements: Tensor) -> Generator[Question, Tensor, None]:
        """Probes `images` from displacements [directions, b, N], where it is worth it a second time, and concludes."""
        answer = yield self.asked(images, displacements)
        picked = self.index(images)
        told = self.told(answer, picked)
        self.evaluations[images] += len(displacements)
        worth = self._worth_more(picked, displacements, told)
        once = [place for place, more in enumerate(worth) if not more]
        twice = [place for place, more in enumerate(worth) if more]
        if once:
            local, there = self.index(once), [images[place] for place in once]
            yield from self._conclude(there, displacements[None, :, local], told[None, :, local])
        if twice:
            local, images = self.index(twice), [images[place] for place in twice]
            yield from self._look_again(images, displacements[:, local], told[:, local])

    def _worth_more(self, picked: Tensor, displacements: Tensor, told: Tensor) -> list[bool]:
        """Which of the images a second probe is worth, a list of booleans."""
        growth = (length(told) / length(displacements))[..., 0].amax(dim=0)
        growth = torch.zeros_like(self.std).index_copy(0, picked, growth)
        worth: list[bool] = self.run.schedule.goes_on(growth, self.few, self.spent())[picked].tolist()
        return worth

    def _look_again(
        self, images: list[int], displacements: Tensor, told: Tensor
    ) -> Generator[Question, Tensor, None]:
        """The second round, from what the first one answered.

        To the other side of x: the noise of the prediction at x is in every response, and on the same side a
        displacement made from a response would agree with it.
        """
        picked = self.index(images)
        further = self.scaled(told * (length(displacements) / length(told)).clamp(max=1), picked)
        answer = yield self.asked(images, -further)
        self.evaluations[images] += len(further)
        more = -self.told(answer, picked)
        yield from self._conclude(images, torch.stack([displacements, further]), torch.stack([told, more]))
