"""The automatic search of one call: an image is probed where sigma and what is known of its curvature say so."""

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..curvature import REACH, gaussian, side
from .call import Question, length
from .run import Run
from .search import Search

if TYPE_CHECKING:
    from .saddle_free import SaddleFree

STRAIGHT = 0.995  # cosine of two steps' changes above which few directions change


class Automatic(Search):
    """Probes where it is worth it: the sampler's own step is the first, and two more follow."""

    def __init__(self, guide: "SaddleFree", run: Run, x: Tensor, alpha: float | Tensor, std: float | Tensor) -> None:
        super().__init__(guide, run, x, alpha, std)
        self.start = run.start
        self.few = torch.zeros_like(self.std, dtype=torch.bool)  # whether few directions are undecided

    def evaluate(self) -> Generator[Question, Tensor, torch.dtype]:
        """Yields rows and the image of each, takes the predictions there; returns the dtype of these."""
        told = yield self.x, list(range(len(self.x)))
        self.denoised = told.to(self.rows.dtype).flatten(1)
        self._learn_from_step()
        for images, once_more in self._due():
            yield from self._look(images, self._start(images, once_more))
        return told.dtype

    def error(self, picked: Tensor, noise: Tensor, coloured: Tensor, gain: Tensor) -> Tensor:
        """A standard error of the quotients, [directions, b].

        The noise in a direction may agree with that in the response: both hold that of the prediction at x, and where x
        is rounded more coarsely than it is probed, most of the rest. certainty times a share of its square covers that.
        """
        agreeing = (noise * gain).square() / max(self.guide.certainty, 1)
        return super().error(picked, noise, coloured, gain) + agreeing

    def _due(self) -> list[tuple[list[int], bool]]:
        """The images to look at, in two groups: those asked once more about the same direction, and the others."""
        if self.start is None or self.run.norm is None:
            return []
        schedule = self.run.schedule
        asks = schedule.asks(self.sigma_hat, self.run.norm, self.few)
        asks, unsure = torch.stack([asks, asks & schedule.unsure]).tolist()  # the only read of a call without probes
        once_more = [image for image, asked in enumerate(unsure) if asked]
        search = [image for image, asked in enumerate(asks) if asked and not unsure[image]]
        return [(images, again) for images, again in ((once_more, True), (search, False)) if images]

    def _learn_from_step(self) -> None:
        """What the sampler's own last step tells: it moved x by y, and the denoised prediction by about J y."""
        run, y = self.run, self.rows / self.alpha[:, None]
        norm, start = run.norm, None
        if run.last is not None and run.denoised is not None:
            moved, changed = self.masked(y - run.last[0]), self.masked(self.denoised - run.denoised)
            length = torch.linalg.vector_norm(moved, dim=1)
            known = (length > 0) & length.isfinite()
            scale = torch.where(known, self.size.sqrt() / length, 0)  # [B]
            start = torch.where(known, scale * REACH, 0)[:, None] * changed
            start = torch.where(start.isfinite(), start, 0)
            if run.start is not None:  # a sampler that stands still tells nothing new
                start = torch.where(known[:, None], start, run.start)
            # J of a step lies between its ends, where J goes as 1 / sigma^2 while what is undecided stays.
            fallen = (run.last[1] / self.sigma_hat).clamp(min=1)
            norm = fallen * scale * torch.linalg.vector_norm(changed, dim=1)
            if run.start is not None:
                self.few = torch.cosine_similarity(start, run.start, dim=1) > STRAIGHT
        # The noise in this call's prediction is in every response, too: a start that held it would look like a saddle.
        self.start = start if self.is_exact else run.start
        self.run = replace(run, last=(y, self.sigma_hat), denoised=self.denoised, start=start, norm=norm)

    def _start(self, images: list[int], once_more: bool = False) -> Tensor:
        """First displacements [directions, b, N]: along the direction that is known, and along what the picture does.

        A step of the sampler moves x by noise alike in all directions, so that the change of the denoised prediction is
        the first step of a power iteration, made for nothing. Its side is a coin's, that the seed throws. once_more:
        along the direction of the last look alone.
        """
        run, picked = self.run, self.index(images)
        if once_more:
            return self.scaled(self.reach()[picked] * run.vectors[:, picked], picked)
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
            return sides[:, None] * self.std[picked, None] * self.start[picked]
        white = self.placed(torch.stack([gaussian(size, *name) for name in names]))
        return self.masked(white, picked) * (REACH * self.std[picked, None])

    def _look(self, images: list[int], displacements: Tensor) -> Generator[Question, Tensor, None]:
        """Probes `images` from displacements [directions, b, N], where it is worth it a second time, and concludes."""
        answer = yield self.asked(images, displacements)
        picked = self.index(images)
        told = self.response(answer, picked)
        self.evaluations[images] += len(displacements)
        again = self._worth_more(picked, displacements, told)
        once = [place for place, more in enumerate(again) if not more]
        twice = [place for place, more in enumerate(again) if more]
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
        worth: list[bool] = self.run.schedule.goes_on(growth, self.few)[picked].tolist()
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
        more = -self.response(answer, picked)
        yield from self._conclude(images, torch.stack([displacements, further]), torch.stack([told, more]))
