"""The search for the saddle of each image, at one call."""

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..curvature import LEAST, REACH, by_chance, gaussian, rayleigh_ritz, side, without_noise
from .call import Call, Question, length
from .run import Run

if TYPE_CHECKING:
    from .saddle_free import SaddleFree

AUTOMATIC = 0  # of refresh_every
COLOUR = 30.0  # noise along a smooth direction may be so many times the mean, hence a quotient as many errors above 1
import math, os
KB=float(os.environ.get('KB','2'))
RESTART = int(os.environ.get('RS','6'))  # probes after which a direction that is no saddle is given up in fixed steps
WHITE, FORETOLD = 0, 1  # of these, the first and the second: along a direction by chance, and what a Gaussian foretells of it
STRAIGHT = 0.995  # cosine of two steps' changes above which few directions change


class Search(Call):
    """The probes of one call: which images, from where, and what the answers say. `run` is what the run knows after."""

    def __init__(self, guide: "SaddleFree", run: Run, x: Tensor, alpha: float | Tensor, std: float | Tensor) -> None:
        super().__init__(guide, run, x, alpha, std)
        self.start = run.start
        self.few = torch.zeros_like(self.std, dtype=torch.bool)  # whether few directions are undecided

    def evaluate(self) -> Generator[Question, Tensor, torch.dtype]:
        """Yields rows and the image of each, takes the predictions there; returns the dtype of these."""
        images, probes = self._fixed() if self.guide.refresh_every != AUTOMATIC else ([], None)
        rows, places = self.x, list(range(len(self.x)))
        if probes is not None:
            beside, there = self.asked(images, probes)
            rows, places = torch.cat([rows, beside]), places + there
        told = yield rows, places
        denoised = told[: len(self.x)].to(self.rows.dtype).flatten(1)
        self.denoised = denoised.clone() if images else denoised  # a view would hold the probes' answers, too
        self._learn_from_step()
        if self.guide.refresh_every == AUTOMATIC:
            for images, once_more in self._due():
                yield from self._look(images, self._start(images, once_more))
        elif probes is not None:
            yield from self._look(images, probes, told[len(self.x) :])
        return told.dtype

    def _fixed(self) -> tuple[list[int], Tensor | None]:
        """In fixed steps: all images where it is time, and their displacements; one value is read a call at most."""
        run, every = self.run, self.guide.refresh_every
        if every > 1:
            level = float(self.sigma_hat[0])
            run = replace(run, step=run.step + (level < run.level * (1 - 1e-4) or run.step < 0), level=level)
            self.run = run
            if run.probed is not None and run.step - run.probed < every:
                return [], None
            run = replace(run, probed=run.step)
        self.phase = run.probes % RESTART
        self.run = replace(run, probes=run.probes + 1)
        images = list(range(len(self.x)))
        picked = self.index(images)
        displacements, self.searching = self._further(picked), run.searching
        if self.phase == WHITE:
            self.searching = ~self._was_open() | ~run.schedule.begun
            displacements = torch.where(self.searching[..., None], self._white(images), displacements)
        else:
            self.searching = run.searching & ~self._was_open()
            self.asking = self.searching & ~run.candidate
            if run.reference is not None:
                displacements = torch.where(self.asking[..., None], self._foretold()[0] + (float(os.environ.get('GM','8')) * self.noise()).clamp(0.25,1.0)[:,None]*self.std[:,None]*run.ahead, displacements)
        return images, self.scaled(displacements, picked)

    def _further(self, picked: Tensor) -> Tensor:
        """Along J v of the last look, less far the more a larger quotient bends, [directions, b, N]."""
        bend = 2 / self.run.rayleigh[:, picked, None].clamp(min=2)
        return bend * self.reach()[picked] * self.run.ahead[:, picked]

    def _white(self, images: list[int]) -> Tensor:
        """Displacements by chance, [directions, B, N]: a direction that no step of the sampler shows is in them, too."""
        run, shape = self.run, tuple(self.x.shape[1:])
        white = torch.stack([
            torch.stack([by_chance(shape, run.seed, run.keys[image], k, run.probes) for image in images])
            for k in range(self.guide.directions)
        ])
        return self.masked(white.to(self.rows)) * (((12 * self.noise()).clamp(0.25, 1.0) * self.std)[:, None])

    def _foretold(self) -> tuple[Tensor, Tensor]:
        """Displacements and what a Gaussian would answer to them, from the last look's, both [directions, B, N].

        For a Gaussian J = C / (C + sigma^2), so that from J d = r follows C (d - r) = sigma^2 r, and at a smaller
        sigma' J (r + (sigma' / sigma)^2 (d - r)) = r.
        """
        assert self.run.reference is not None
        asked, told, sigma_hat = self.run.reference
        fall = torch.where(sigma_hat.isfinite(), self.sigma_hat / sigma_hat, 1)[:, None]
        return fall * (told + fall.square() * (asked - told)), fall * told

    def _search_on(self, asked: Tensor, told: Tensor) -> None:
        """In fixed steps, where no direction is a saddle: what the answers show beyond a Gaussian is followed next.

        A direction that is becoming one is hidden among hundreds that are nearly as undecided, but a Gaussian foretells
        the answers along these.
        """
        run, searching = self.run, self.searching & ~self._was_open()
        if self.phase == WHITE:
            reference, candidate = (asked, told, self.sigma_hat), torch.zeros_like(searching)
            run = replace(run, ahead=torch.where(searching[..., None], 0, run.ahead))
        else:
            foretold, answer = self._foretold()
            reference = (foretold, answer, self.sigma_hat)
            asking = self.asking & searching
            beyond = told - answer
            beyond = torch.where(beyond.isfinite(), beyond, 0)
            if not self.is_exact:
                level = math.sqrt(2) * self.noise() * self.std / self.size.sqrt()
                beyond = without_noise(beyond.reshape(-1, *self.x.shape[1:]), level.repeat(len(beyond))).reshape(beyond.shape)
            run = replace(run, ahead=torch.where(asking[..., None], beyond / length(beyond), run.ahead))
            candidate = asking & (length(beyond)[..., 0] > KB * self.noise() * self.std)
        if not self.is_exact:
            level = self.noise() * self.std / (length(told)[..., 0] * self.size.sqrt())
            ahead = without_noise(run.ahead.reshape(-1, *self.x.shape[1:]), level.flatten()).reshape(told.shape)
            alone = ~(self.asking & searching) if self.phase != WHITE else ~searching
            ahead = torch.where(alone[..., None], ahead, run.ahead)
            run = replace(run, ahead=torch.where(length(ahead) > 1e-3, ahead / length(ahead), run.ahead))
        self.run = replace(run, reference=reference, searching=searching, candidate=candidate)

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
        if run.last is not None:
            moved, changed = self.masked(y - run.last[0]), self.masked(self.denoised - run.last[1])
            length = torch.linalg.vector_norm(moved, dim=1)
            known = (length > 0) & length.isfinite()
            scale = torch.where(known, self.size.sqrt() / length, 0)  # [B]
            start = torch.where(known, scale * REACH, 0)[:, None] * changed
            start = torch.where(start.isfinite(), start, 0)
            if run.start is not None:  # a sampler that stands still tells nothing new
                start = torch.where(known[:, None], start, run.start)
            # J of a step lies between its ends, where J goes as 1 / sigma^2 while what is undecided stays.
            fallen = (run.last[2] / self.sigma_hat).clamp(min=1)
            norm = fallen * scale * torch.linalg.vector_norm(changed, dim=1)
            if run.start is not None:
                self.few = torch.cosine_similarity(start, run.start, dim=1) > STRAIGHT
        # The noise in this call's prediction is in every response, too: a start that held it would look like a saddle.
        self.start = start if self.is_exact else run.start
        self.run = replace(run, last=(y, self.denoised, self.sigma_hat), start=start, norm=norm)

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

    def _was_open(self) -> Tensor:
        """Which directions were a saddle when last looked at, [directions, B]."""
        return self.run.above(self.guide.certainty) > 0

    def _new(self, images: list[int], direction: int) -> Tensor:
        run, size = self.run, self.rows.shape[1]
        names = [(run.seed, run.keys[image], direction, run.searches[image]) for image in images]
        picked = self.index(images)
        if direction == 0 and self.start is not None:
            sides = torch.tensor([side(*name) for name in names]).to(self.rows)
            return sides[:, None] * self.std[picked, None] * self.start[picked]
        white = torch.stack([gaussian(size, *name) for name in names]).to(self.rows)
        return self.masked(white, picked) * (REACH * self.std[picked, None])

    def _look(
        self, images: list[int], displacements: Tensor, answer: Tensor | None = None
    ) -> Generator[Question, Tensor, None]:
        """Probes `images` from displacements [directions, b, N], where it is worth it a second time, and concludes."""
        fixed = answer is not None
        if answer is None:
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
        if fixed:
            self._search_on(displacements, told)
        if twice:
            local, images = self.index(twice), [images[place] for place in twice]
            yield from self._look_again(images, displacements[:, local], told[:, local])

    def _worth_more(self, picked: Tensor, displacements: Tensor, told: Tensor) -> list[bool]:
        """Which of the images a second probe is worth, a list of booleans."""
        if self.guide.refresh_every != AUTOMATIC:
            return [False] * len(picked)
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

    def _conclude(
        self, images: list[int], asked: Tensor, told: Tensor
    ) -> Generator[Question, Tensor, None]:
        """What the rounds [rounds, directions, b, N] tell, kept in the run."""
        picked = self.index(images)
        run, std = self.run, self.std[picked]
        rayleigh, vectors, responses, gain = rayleigh_ritz(asked, told, self.guide.directions)
        # A push keeps its side, whichever side the coin chose for a new start.
        before = torch.where(self._was_open()[:, picked, None], run.ahead[:, picked], 0).sum(dim=0)
        toward = torch.where(before.any(dim=-1, keepdim=True), before, asked[0].sum(dim=0))
        sides = (vectors * toward).sum(dim=-1, keepdim=True)
        turn = torch.where(sides < 0, -1.0, 1.0)
        vectors, responses = turn * vectors, turn * responses
        noise, coloured = self.noise_of(picked, asked, told), run.coloured[:, picked]
        error = self.error(picked, noise, coloured, std * gain)
        above = rayleigh - 1 - LEAST
        doubtful = (above > self.guide.certainty * error) & (above < COLOUR * error) & coloured.isnan()
        maybe = doubtful.any(dim=0)
        if not self.is_exact and bool(maybe.any()):
            measured, coloured = yield from self.measure(images, picked, vectors, maybe.tolist())
            noise = torch.fmax(noise, measured)
            error = self.error(picked, noise, coloured, std * gain)
        run = replace(run, noise=run.noise.index_copy(0, picked, noise / self.assumed()[picked]))
        finite = vectors.isfinite().all(dim=-1) & responses.isfinite().all(dim=-1) & rayleigh.isfinite()
        finite = finite.all(dim=0) & self.sigma_hat[picked].isfinite()  # [b]
        self._keep(run, picked, finite, vectors, responses, rayleigh, error, coloured)

    def _keep(
        self, run: Run, picked: Tensor, finite: Tensor, vectors: Tensor, responses: Tensor, rayleigh: Tensor,
        error: Tensor, coloured: Tensor,
    ) -> None:
        def put(old: Tensor, new: Tensor) -> Tensor:
            kept = finite.reshape((1, -1) + (1,) * (new.ndim - 2))
            return old.index_copy(1, picked, torch.where(kept, new, old.index_select(1, picked)))

        everyone = torch.zeros_like(run.noise, dtype=torch.bool).index_copy(0, picked, finite)
        new: dict[str, Any] = {
            "vectors": put(run.vectors, vectors), "ahead": put(run.ahead, responses / length(responses)),
            "rayleigh": put(run.rayleigh, rayleigh), "error": put(run.error, error),
            "coloured": put(run.coloured, coloured),
        }
        margin = self.guide.certainty * new["error"]
        best = (new["rayleigh"] - margin).argmax(dim=0, keepdim=True)
        quotient, margin = new["rayleigh"].gather(0, best)[0], margin.gather(0, best)[0]
        spent = ((self.evaluations - 1) / self.guide.directions).to(self.std)
        schedule = run.schedule.after(everyone, self.sigma_hat, quotient, margin, spent, self.guide.spacing)
        self.run = replace(run, schedule=schedule, **new)

    def traced(self, correction: Tensor) -> dict[str, Tensor]:
        """What the trace shows of the call."""
        run = self.run
        return {
            "rayleigh": run.rayleigh, "error": run.error, "evaluations": self.evaluations,
            "weight": self.guide.weight(run, self.sigma_hat), "correction": correction,
            "directions": run.vectors.reshape(run.shape), "probed": run.schedule.begun,
        }
