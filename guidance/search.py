"""What the answers of one call tell of the saddle of each image, however the questions were chosen."""

import math
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..curvature import LEAST, QUIETEST, eps_of, filtered, quotient_ahead, rayleigh_ritz
from .call import Call, Question, length
from .run import Run

COLOUR = 30.0  # noise along a smooth direction may be so many times the mean, hence a quotient as many errors above 1


class Search(Call):
    """The probes of one call. `run` is what the run knows after it.

    Subclasses choose the probes: evaluate() yields rows and the image of each, takes the predictions there, and returns
    the dtype of these.
    """

    def evaluate(self) -> Generator[Question, Tensor, torch.dtype]:
        """The evaluations of the call; the first rows are x itself."""
        raise NotImplementedError

    def _was_open(self) -> Tensor:
        """Which directions were a saddle when last looked at, [directions, B]."""
        return self.run.above(self.guide.certainty) > 0

    def _begun_toward(self, picked: Tensor, asked: Tensor) -> Tensor:
        """To which side of a saddle that was not known a push goes, [b, N]: to that of the first probes."""
        return asked[0].sum(dim=0)

    def _conclude(
        self, images: list[int], asked: Tensor, told: Tensor
    ) -> Generator[Question, Tensor, None]:
        """What the rounds [rounds, directions, b, N] tell, kept in the run."""
        picked = self.index(images)
        run, std = self.run, self.std[picked]
        rayleigh, vectors, responses, gain = rayleigh_ritz(asked, told, self.guide.directions, self.is_exact)
        # A push keeps its side, whichever side the coin chose for a new start.
        before = torch.where(self._was_open()[:, picked, None], run.ahead[:, picked], 0).sum(dim=0)
        toward = torch.where(before.any(dim=-1, keepdim=True), before, self._begun_toward(picked, asked))
        sides = (vectors * toward).sum(dim=-1, keepdim=True)
        turn = torch.where(sides < 0, -1.0, 1.0)
        vectors, responses = turn * vectors, turn * responses
        noise, coloured = self.noise_of(picked, asked, told), run.coloured[:, picked]
        error = self.error(picked, noise, coloured, std * gain)
        loud = self.noise_in_length(picked, asked, told, std * gain, length(responses)[..., 0])
        rayleigh = quotient_ahead(rayleigh, responses, loud)
        above = rayleigh - 1 - LEAST
        doubtful = (above > self.guide.certainty * error) & (above < COLOUR * error) & coloured.isnan()
        maybe = [] if self.is_exact else doubtful.any(dim=0).tolist()  # the read may wait for a GPU
        if any(maybe):
            measured, coloured = yield from self.measure(images, picked, vectors, maybe)
            noise = torch.fmax(noise, measured)
            error = self.error(picked, noise, coloured, std * gain)
        run = replace(run, noise=run.noise.index_copy(0, picked, noise / self.assumed()[picked]))
        finite = vectors.isfinite().all(dim=-1) & responses.isfinite().all(dim=-1) & rayleigh.isfinite()
        finite = finite.all(dim=0) & self.sigma_hat[picked].isfinite()  # [b]
        self._keep(run, picked, finite, vectors, responses, rayleigh, loud.isinf(), error, coloured)

    def noise_in_length(
        self, picked: Tensor, asked: Tensor, told: Tensor, gain: Tensor, ahead: Tensor
    ) -> Tensor:
        """Length of the noise that makes J v longer, [directions, b]; inf where it is not known or is too much.

        gain: how long in J v is what is of length 1 in units of std; ahead: the length of J v; [directions, b].
        """
        if not self.is_exact:
            return torch.full_like(ahead, math.inf)
        coarser = eps_of(self.guide.dtype, self.x.device) / torch.finfo(self.guide.dtype).eps
        known = 2 * coarser * self.assumed()[picked] * gain
        return torch.where(self.noise()[picked] * gain < ahead, known, math.inf)

    def _keep(
        self, run: Run, picked: Tensor, finite: Tensor, vectors: Tensor, responses: Tensor, rayleigh: Tensor,
        behind: Tensor, error: Tensor, coloured: Tensor,
    ) -> None:
        def put(old: Tensor, new: Tensor) -> Tensor:
            """The old values, or the new ones of an image where they are finite, [directions, B, ...]."""
            kept = finite.reshape((1, -1) + (1,) * (new.ndim - 2))
            return old.index_copy(1, picked, torch.where(kept, new, old.index_select(1, picked)))

        everyone = torch.zeros_like(run.noise, dtype=torch.bool).index_copy(0, picked, finite)
        new: dict[str, Any] = {
            "vectors": put(run.vectors, vectors), "ahead": put(run.ahead, responses / length(responses)),
            "rayleigh": put(run.rayleigh, rayleigh), "behind": put(run.behind, behind),
            "error": put(run.error, error), "coloured": put(run.coloured, coloured),
        }
        margin = self.guide.certainty * new["error"]
        best = (new["rayleigh"] - margin).argmax(dim=0, keepdim=True)
        quotient, margin = new["rayleigh"].gather(0, best)[0], margin.gather(0, best)[0]
        spent = self.spent()
        norm = torch.full_like(spent, math.inf) if run.norm is None else run.norm
        schedule = run.schedule.after(
            everyone, self.sigma_hat, quotient, margin, spent, self.guide.spacing, norm, is_same=run.mask is not None
        )
        self.run = replace(run, schedule=schedule, **new)

    def spent(self) -> Tensor:
        """Evaluations of each image beside x in this call, for one direction, [B]."""
        return self.placed((self.evaluations - 1) / self.guide.directions)

    def cleaned(self, values: Tensor, noise: Tensor, picked: Tensor, quietest: float = QUIETEST) -> Tensor:
        """Values [directions, b, N] less noise of a length [directions, b, 1]; 0 where they are not finite.

        quietest: as of `filtered`.
        """
        return self.filtered(values, noise, picked, quietest)[0]

    def filtered(
        self, values: Tensor, noise: Tensor, picked: Tensor, quietest: float = QUIETEST, most: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`cleaned` values, the length of the noise that stays in them, and that at most; both [directions, b].

        most: the power of the noise in each ring of frequencies, at most, [b, rings], None where it is not known.
        """
        values = torch.where(values.isfinite(), values, 0)
        noise = noise.expand(*values.shape[:2], 1)
        if self.is_exact:
            return values, noise[..., 0], noise[..., 0]
        level = noise[..., 0] / self.size[picked].sqrt()
        most = None if most is None else most.repeat(len(values), 1)
        rest, *lengths = filtered(values.reshape(-1, *self.x.shape[1:]), level.reshape(-1), quietest, most)
        left, at_most = (each.reshape(values.shape[:2]) for each in lengths)
        return self.masked(rest.reshape(values.shape), picked), left, at_most

    def traced(self, correction: Tensor) -> dict[str, Tensor]:
        """What the trace shows of the call."""
        run = self.run
        return {
            "rayleigh": run.rayleigh, "error": run.error, "evaluations": self.evaluations,
            "weight": self.guide.weight(run, self.sigma_hat), "correction": correction,
            "directions": run.vectors.reshape(run.shape), "probed": run.schedule.begun,
        }
