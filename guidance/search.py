"""The search for the saddle of each image: what a run remembers, and the probes of one call."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..curvature import (
    EXACT, LEAST, REACH, ProbeSchedule, assumed_noise, gaussian, noise_along, noise_in_responses, rayleigh_ritz, reach,
    side,
)

if TYPE_CHECKING:
    from .saddle_free import SaddleFree

Question = tuple[Tensor, list[int]]  # rows, and the image of each

AUTOMATIC = 0  # of refresh_every
COLOUR = 30.0  # noise along a smooth direction may be so many times the mean, hence a quotient as many errors above 1
RESTART = 3  # probes after which a direction that is no saddle is given up in fixed steps
STRAIGHT = 0.995  # cosine of two steps' changes above which few directions change
ROUNDS = 2  # of probes in a search, one made from the answer of the other


@dataclass(frozen=True)
class Run:
    """What one sampling run remembers of each image; replaced, never changed. N is the number of values of an image.

    shape: (directions, *shape of x); keys: an integer an image; schedule: when each is probed next; vectors: unit
    directions v, and ahead: the unit directions of J v, a step of power iteration further, [directions, B, N]; rayleigh:
    the quotients of v, and error: a standard error of each, [directions, B]; noise: the length of a response's error in units of std, NaN before it is known, [B]; coloured: by
    how much it is larger along the direction than in the mean, [directions, B], NaN before it is measured; searches:
    how many each image had;
    mask: where the picture may change, or None; last: y and denoised at the last call; start: what the last step did to
    the denoised prediction, for a step of REACH in every value; norm: the Frobenius norm of J, [B]; step: how
    often sigma has fallen, probed: when it was last probed, and probes: how often, in fixed steps.
    """

    shape: tuple[int, ...]
    seed: int
    keys: list[int]
    schedule: ProbeSchedule
    vectors: Tensor
    ahead: Tensor
    rayleigh: Tensor
    error: Tensor
    noise: Tensor
    coloured: Tensor
    searches: list[int]
    mask: Tensor | None = None
    last: tuple[Tensor, Tensor, Tensor] | None = None
    start: Tensor | None = None
    norm: Tensor | None = None
    level: float = math.inf
    step: int = -1
    probed: int | None = None
    probes: int = 0

    @classmethod
    def begin(
        cls, seed: int, shape: tuple[int, ...], keys: Sequence[int] | None, dtype: torch.dtype, device: torch.device
    ) -> "Run":
        """A new run of images of a shape (directions, B, ...)."""
        directions, batch, size = shape[0], shape[1], math.prod(shape[2:])
        if directions > size:
            raise ValueError(f"directions is {directions}, but an image has only {size} values; use no more.")
        keys = list(range(batch)) if keys is None else list(keys)
        if len(keys) != batch:
            raise ValueError(f"image_keys has {len(keys)} entries for a batch of {batch}; it must have one per image.")
        empty = torch.zeros(directions, batch, size, dtype=dtype, device=device)
        none = empty[..., 0].clone()  # a view would hold a latent for as long as the trace lives
        return cls(
            shape, seed, keys, ProbeSchedule.start(batch, device), empty, empty, none, none, none[0] + math.nan,
            none + math.nan, [0] * batch,
        )

    def under(self, mask: Tensor | None) -> "Run":
        """The run with another mask [B or 1, ...] of where the picture may change, None for everywhere."""
        if mask is None:
            return replace(self, mask=None)
        shape = self.shape[1:]
        mask = torch.as_tensor(mask).to(self.ahead.device, self.ahead.dtype)
        try:
            mask = mask.expand(shape)
        except RuntimeError as error:
            raise ValueError(f"mask has shape {tuple(mask.shape)}; it must fit x with {tuple(shape)}.") from error
        return replace(self, mask=mask.flatten(1))

    def weight(self, guide: "SaddleFree", sigma_hat: Tensor) -> Tensor:
        """How far each direction is certain to be a saddle at sigma_hat [B], from 0 to 1, [directions, B]."""
        certain = (self.rayleigh - 1 - LEAST - guide.certainty * self.error) / guide.ramp
        known = self.schedule.begun
        if guide.refresh_every == AUTOMATIC:
            known = self.schedule.fresh(sigma_hat, guide.spacing)
        return torch.where(known, certain.clamp(0, 1), 0)


class Search:
    """The probes of one call: which images, from where, and what the answers say. `run` is what the run knows after."""

    def __init__(
        self, guide: "SaddleFree", run: Run, x: Tensor, alpha: float | Tensor, std: float | Tensor
    ) -> None:
        self.guide, self.run, self.x = guide, run, x
        self.rows = x.to(run.ahead.dtype).flatten(1)  # [B, N]
        self.alpha, self.std = (self._each(value) for value in (alpha, std))  # [B]
        self.sigma_hat = self.std / self.alpha
        self.evaluations = torch.ones(len(x), dtype=torch.int64)
        self.denoised: Tensor
        self.start = run.start
        self.few = torch.zeros_like(self.std, dtype=torch.bool)  # whether few directions are undecided

    @property
    def _is_exact(self) -> bool:
        return torch.finfo(self.guide.dtype).eps < EXACT

    def _each(self, value: float | Tensor) -> Tensor:
        value = torch.as_tensor(value, dtype=self.run.ahead.dtype, device=self.x.device)
        return value.reshape(-1).expand(len(self.x))

    def evaluate(self) -> Generator[Question, Tensor, torch.dtype]:
        """Yields rows and the image of each, takes the predictions there; returns the dtype of these."""
        images, probes = self._fixed() if self.guide.refresh_every != AUTOMATIC else ([], None)
        rows, places = self.x, list(range(len(self.x)))
        if probes is not None:
            beside, there = self._asked(images, probes)
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
            self.run = replace(run, probed=run.step)
        images = list(range(len(self.x)))
        probes = run.probes
        self.run = replace(self.run, probes=probes + 1)
        further = self._scaled(self._reach() * run.ahead, self._index(images))
        if probes > 1 and probes % RESTART:
            return images, further
        # A flow model's first call is pure noise and tells nothing, so that the second begins, too.
        keeps = run.schedule.begun & (self._was_open() if probes > 1 else torch.ones_like(self._was_open()))
        return images, torch.where(keeps[..., None], further, self._start(images))

    def _due(self) -> list[tuple[list[int], bool]]:
        """The images to look at, in two groups: those asked once more about the same direction, and the others."""
        if self.start is None or self.run.norm is None:
            return []
        schedule = self.run.schedule
        asks = schedule.asks(self.sigma_hat, self.run.norm, self.few)
        asks, unsure = torch.stack([asks, asks & schedule.unsure]).tolist()  # the only read of a call without probes
        groups = [([i for i, due in enumerate(asks) if due and unsure[i] == once_more], once_more) for once_more in (True, False)]
        return [group for group in groups if group[0]]

    def _learn_from_step(self) -> None:
        """What the sampler's own last step tells: it moved x by y, and the denoised prediction by about J y."""
        run, y = self.run, self.rows / self.alpha[:, None]
        norm, start = run.norm, None
        if run.last is not None:
            moved, changed = self._masked(y - run.last[0]), self._masked(self.denoised - run.last[1])
            length = torch.linalg.vector_norm(moved, dim=1)
            known = (length > 0) & length.isfinite()
            free = self._masked(torch.ones_like(y)).count_nonzero(dim=1)  # values that may change
            scale = torch.where(known, free.to(length).sqrt() / length, 0)  # [B]
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
        self.start = start if self._is_exact else run.start
        self.run = replace(run, last=(y, self.denoised, self.sigma_hat), start=start, norm=norm)

    def _start(self, images: list[int], once_more: bool = False) -> Tensor:
        """First displacements [directions, b, N]: along the direction that is known, and along what the picture does.

        A step of the sampler moves x by noise alike in all directions, so that the change of the denoised prediction is
        the first step of a power iteration, made for nothing. Its side is a coin's, that the seed throws. once_more: along
        the direction of the last look alone.
        """
        run, picked = self.run, self._index(images)
        if once_more:
            return self._scaled(self._reach()[picked] * run.vectors[:, picked], picked)
        was_open = self._was_open()[:, picked, None]
        known = torch.where(was_open, self._reach()[picked] * run.ahead[:, picked], 0)  # what was none would hide another
        new = torch.stack([self._new(images, k) for k in range(self.guide.directions)])
        searches = list(run.searches)
        for image in images:
            searches[image] += 1
        self.run = replace(run, searches=searches)
        return self._scaled(known + new, picked)

    def _reach(self) -> Tensor:
        """How far to probe along a direction that is known, [B, 1]."""
        return (reach(self._noise()) * self.std)[:, None]

    def _was_open(self) -> Tensor:
        """Which directions were a saddle when last looked at, [directions, B]."""
        return self.run.rayleigh > 1 + LEAST + self.guide.certainty * self.run.error

    def _new(self, images: list[int], direction: int) -> Tensor:
        run, size = self.run, self.rows.shape[1]
        names = [(run.seed, run.keys[image], direction, run.searches[image]) for image in images]
        picked = self._index(images)
        if direction == 0 and self.start is not None:
            sides = torch.tensor([side(*name) for name in names]).to(self.rows)
            return sides[:, None] * self.std[picked, None] * self.start[picked]
        white = torch.stack([gaussian(size, *name) for name in names]).to(self.rows)
        return self._masked(white, picked) * (REACH * self.std[picked, None])

    def _scaled(self, displacements: Tensor, picked: Tensor) -> Tensor:
        radius = self.guide.probe_radius
        if not radius:
            return displacements
        return displacements * (radius * self.std[picked, None] / _length(displacements))

    def _look(
        self, images: list[int], displacements: Tensor, answer: Tensor | None = None
    ) -> Generator[Question, Tensor, None]:
        """Probes `images` from displacements [directions, b, N], where it is worth it a second time, and concludes."""
        if answer is None:
            answer = yield self._asked(images, displacements)
        picked = self._index(images)
        told = self._response(answer, picked)
        self.evaluations[images] += len(displacements)
        again = self._worth_more(picked, displacements, told)
        once = [place for place, more in enumerate(again) if not more]
        twice = [place for place, more in enumerate(again) if more]
        if once:
            local = self._index(once)
            yield from self._conclude([images[place] for place in once], displacements[None, :, local], told[None, :, local])
        if twice:
            local, images = self._index(twice), [images[place] for place in twice]
            yield from self._look_again(images, displacements[:, local], told[:, local])

    def _worth_more(self, picked: Tensor, displacements: Tensor, told: Tensor) -> list[bool]:
        """Which of the images a second probe is worth, a list of booleans."""
        if self.guide.refresh_every != AUTOMATIC:
            return [False] * len(picked)
        growth = (_length(told) / _length(displacements))[..., 0].amax(dim=0)
        return self.run.schedule.goes_on(torch.zeros_like(self.std).index_copy(0, picked, growth), self.few)[picked].tolist()

    def _look_again(
        self, images: list[int], displacements: Tensor, told: Tensor
    ) -> Generator[Question, Tensor, None]:
        """The further rounds, each from what the one before answered.

        To the other side of x each time: the noise of the prediction at x is in every response, and on the same side a
        displacement made from a response would agree with it.
        """
        picked, asked, answers = self._index(images), [displacements], [told]
        for turn in range(1, ROUNDS):
            toward = 1 - 2 * (turn % 2)
            longest = (_length(displacements) / _length(told)).clamp(max=1)
            displacements = self._scaled(told * longest, picked)
            answer = yield self._asked(images, toward * displacements)
            told = toward * self._response(answer, picked)
            self.evaluations[images] += len(displacements)
            asked.append(displacements)
            answers.append(told)
        yield from self._conclude(images, torch.stack(asked), torch.stack(answers))

    def _conclude(
        self, images: list[int], asked: Tensor, told: Tensor
    ) -> Generator[Question, Tensor, None]:
        """What the rounds [rounds, directions, b, N] tell, kept in the run."""
        picked = self._index(images)
        run, std = self.run, self.std[picked]
        count, size = self.guide.directions, self.rows.shape[1]
        rayleigh, vectors, responses, gain = rayleigh_ritz(asked, told, count)
        # A push keeps its side, whichever side the coin chose for a new start.
        before = torch.where(self._was_open()[:, picked, None], run.ahead[:, picked], 0).sum(dim=0)
        toward = torch.where(before.any(dim=-1, keepdim=True), before, asked[0].sum(dim=0))
        sides = (vectors * toward).sum(dim=-1, keepdim=True)
        turn = torch.where(sides < 0, -1.0, 1.0)
        vectors, responses = turn * vectors, turn * responses
        noise, coloured = self._noise_of(picked, asked, told), run.coloured[:, picked]
        error = self._error(noise, coloured, std * gain)
        above = rayleigh - 1 - LEAST
        doubtful = (above > self.guide.certainty * error) & (above < COLOUR * error) & coloured.isnan()
        maybe = doubtful.any(dim=0)
        if not self._is_exact and bool(maybe.any()):
            measured, coloured = yield from self._measure(images, picked, vectors, maybe.tolist())
            noise = torch.fmax(noise, measured)
            error = self._error(noise, coloured, std * gain)
        run = replace(run, noise=run.noise.index_copy(0, picked, noise))
        finite = vectors.isfinite().all(dim=-1) & responses.isfinite().all(dim=-1) & rayleigh.isfinite()
        finite = finite.all(dim=0) & self.sigma_hat[picked].isfinite()  # [b]
        self._keep(run, picked, finite, vectors, responses, rayleigh, error, coloured)

    def _noise_of(self, picked: Tensor, asked: Tensor, told: Tensor) -> Tensor:
        """Length of the noise in a response, in units of std, [b]: from the answers, or from those before.

        Rounding x weighs more where sigma is smaller.
        """
        std = self.std[picked]
        if self._is_exact:
            size = torch.linalg.vector_norm(self._masked(self.denoised[picked], picked), dim=1) / std
            return torch.finfo(self.guide.dtype).eps * torch.hypot(size, size * 0 + math.sqrt(self.rows.shape[1]))
        if len(asked) > 1:
            return noise_in_responses(asked, told) / std
        fallen = self.run.schedule.last[picked] / self.sigma_hat[picked]
        return torch.where(fallen.isfinite(), fallen, 1) * self._noise()[picked]

    def _error(self, noise: Tensor, coloured: Tensor, gain: Tensor) -> Tensor:
        """A standard error of the quotients, [directions, b].

        The noise in a direction may agree with that in the response: both hold that of the prediction at x, and where x
        is rounded more coarsely than it is probed, most of the rest. certainty times a share of its square covers that.
        """
        along = torch.nan_to_num(coloured, nan=1.0) * noise * gain / math.sqrt(self.rows.shape[1])
        return along + (noise * gain).square() / max(self.guide.certainty, 1)

    def _keep(
        self, run: Run, picked: Tensor, finite: Tensor, vectors: Tensor, responses: Tensor, rayleigh: Tensor,
        error: Tensor, coloured: Tensor,
    ) -> None:
        def put(old: Tensor, new: Tensor) -> Tensor:
            kept = finite.reshape((1, -1) + (1,) * (new.ndim - 2))
            return old.index_copy(1, picked, torch.where(kept, new, old.index_select(1, picked)))

        everyone = torch.zeros_like(run.noise, dtype=torch.bool).index_copy(0, picked, finite)
        new: dict[str, Any] = {
            "vectors": put(run.vectors, vectors), "ahead": put(run.ahead, responses / _length(responses)),
            "rayleigh": put(run.rayleigh, rayleigh), "error": put(run.error, error),
            "coloured": put(run.coloured, coloured),
        }
        margin = self.guide.certainty * new["error"]
        best = (new["rayleigh"] - margin).argmax(dim=0, keepdim=True)
        quotient, margin = new["rayleigh"].gather(0, best)[0], margin.gather(0, best)[0]
        spent = (self.evaluations - 1).to(self.std)
        schedule = run.schedule.after(everyone, self.sigma_hat, quotient, margin, spent, self.guide.spacing)
        self.run = replace(run, schedule=schedule, **new)

    def _measure(
        self, images: list[int], picked: Tensor, vectors: Tensor, maybe: list[bool]
    ) -> Generator[Question, Tensor, tuple[Tensor, Tensor]]:
        """The noise of an answer, once a run: its length in units of std [b], and its colour along the directions.

        The same question is asked again so little beside x that only the rounding is another.
        """
        run, chosen = self.run, [place for place, needed in enumerate(maybe) if needed]
        there = [images[place] for place in chosen]
        index, local = self._index(there), self._index(chosen)
        eps = torch.finfo(self.guide.dtype).eps
        white = torch.stack([gaussian(self.rows.shape[1], run.seed, run.keys[image], -1) for image in there])
        small = eps * torch.maximum(self.rows[index].abs(), self.std[index, None]) * white.to(self.rows).sign()
        answer = yield self._asked(there, small[None])
        self.evaluations[there] += 1
        noise = self._response(answer, index)[0]  # [c, N]
        length = torch.linalg.vector_norm(noise, dim=-1)
        shape = (len(there), *self.run.shape[2:])
        along = noise_along(noise.reshape(shape), vectors[:, local].reshape(self.guide.directions, *shape))
        mean = length / math.sqrt(self.rows.shape[1])
        measured = torch.full_like(self.std[picked], math.nan).index_copy(0, local, length / self.std[index])
        ratio = torch.where(mean > 0, along / mean, 1)
        return measured, run.coloured[:, picked].index_copy(1, local, ratio)

    def _noise(self) -> Tensor:
        """Length of an answer's error in units of std, [B]: measured, or what the format lets one expect."""
        assumed = assumed_noise(self.guide.dtype, self.rows.shape[1])
        return torch.where(self.run.noise.isnan(), assumed, self.run.noise)

    def _asked(self, images: list[int], displacements: Tensor) -> Question:
        """Rows [directions * b, ...] that are x and a displacement [directions, b, N], and the image of each."""
        rows = self.rows[self._index(images)] + displacements
        return rows.reshape(-1, *self.x.shape[1:]).to(self.x.dtype), images * len(displacements)

    def _response(self, answer: Tensor, picked: Tensor) -> Tensor:
        """J times the displacements, [directions, b, N], from the predictions there."""
        answer = answer.to(self.rows.dtype).reshape(-1, len(picked), self.rows.shape[1])
        return self._masked(self.alpha[picked, None] * (answer - self.denoised[picked]), picked)

    def _masked(self, values: Tensor, picked: Tensor | None = None) -> Tensor:
        mask = self.run.mask
        return values if mask is None else values * (mask if picked is None else mask[picked])

    def _index(self, images: list[int]) -> Tensor:
        return torch.tensor(images, dtype=torch.int64).to(self.x.device, non_blocking=True)

    def traced(self, correction: Tensor) -> dict[str, Tensor]:
        """What the trace shows of the call."""
        run = self.run
        return {
            "rayleigh": run.rayleigh, "error": run.error, "evaluations": self.evaluations,
            "weight": run.weight(self.guide, self.sigma_hat), "correction": correction,
            "directions": run.vectors.reshape(run.shape), "probed": run.schedule.begun,
        }


def _length(vectors: Tensor) -> Tensor:
    """Lengths [..., 1], never 0."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return lengths.clamp(min=torch.finfo(vectors.dtype).tiny)
