"""What the sampler's own steps tell of the curvature, for nothing; in half precision less the noise in it."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..curvature import APART, FARTHEST, LOW, REACH, SILENT, WIDEST, balanced_reach, noise_in_rings, reach
from .call import length
from .run import Past, Run, Turn
from .search import Search

if TYPE_CHECKING:
    from .saddle_free import SaddleFree

STRAIGHT = 0.995  # cosine of two steps' changes above which few directions change
CLEAR = 4.0  # times its noise, which then takes no more than a sixteenth from a quotient
AUDIBLE = 2.5  # times the noise in it, which then takes no more than a sixth of its square: J v of a known length


@dataclass(frozen=True)
class Change:
    """What sampling since an earlier call did to the prediction.

    start: as if it had moved every value by REACH, [B, N]; norm: the mean of the Frobenius norm of J on that way, [B];
    step: how far sampling went in every value, in units of sigma_hat; clear: how many times longer the change is than
    the noise in it, and left: the noise that is in a prediction after the same filter, in units of std, [B].
    """

    start: Tensor
    norm: Tensor
    step: Tensor
    clear: Tensor
    left: Tensor


class OwnSteps(Search):
    """A search that begins with what the sampler's own steps did."""

    def __init__(self, guide: "SaddleFree", run: Run, x: Tensor, alpha: float | Tensor, std: float | Tensor) -> None:
        super().__init__(guide, run, x, alpha, std)
        self.start = run.start
        self.few = torch.zeros_like(self.std, dtype=torch.bool)  # whether few directions are undecided
        self.left = torch.zeros_like(self.std)  # of the noise in an answer after the filter, in units of std, [B]
        self.most = torch.full_like(self.std, math.inf)  # that the noise in an answer can be, in units of std, [B]
        self.loudest = torch.full_like(self.std, math.inf)  # the same of what the filter leaves in a response
        self.follows = False  # whether a direction is of another call than the probe along it

    def learn_from_step(self) -> None:
        """What the sampler's own steps tell: they moved y, and the denoised prediction by about J times as much."""
        run, y = self.run, self.rows / self.alpha[:, None]
        norm, start, turn, rings = run.norm, run.start, None, None
        if run.y is not None and run.denoised is not None:
            change = self._change(Past(run.y, run.denoised, run.sigma_hat))
            # J of a step lies between its ends, where J goes as 1 / sigma^2 while what is undecided stays.
            start, norm = change.start, (run.sigma_hat / self.sigma_hat).clamp(min=1) * change.norm
            if run.start is not None:
                self.few = torch.cosine_similarity(start, run.start, dim=1) > STRAIGHT
            self.start = start
            if not self.is_exact:
                norm = self._learn_in_noise(change, norm)
                if run.mask is None:  # under a mask no test asks for it
                    turn = self._turn(self.denoised - run.denoised, run.sigma_hat)
                    rings = self._least(turn.rings)
        self.run = replace(run, y=y, denoised=self.denoised, start=start, norm=norm, turn=turn, rings=rings)

    def _learn_in_noise(self, last: Change, norm: Tensor) -> Tensor:
        """The norm of J, [B], and the start, from the last step where it is clear, else from a longer way.

        The noise of the prediction at x is in the change, and with the other sign in every response: it makes quotients
        smaller, never larger.
        """
        then = self.then()
        longer = self._change(then)
        fallen = (then.sigma_hat / self.sigma_hat).clamp(min=1)
        # On a longer way some of what is undecided is decided, so that J goes as sigma^-1.5 in the mean.
        further = (fallen + fallen.sqrt()) / 2 * longer.norm
        is_clear = last.clear > CLEAR
        self.left = torch.where(is_clear, last.left, longer.left)
        start = torch.where(is_clear[:, None], last.start, longer.start)
        self.start = self._above_noise(start, last.step)
        return torch.where(is_clear, norm, further)

    def _turn(self, changed: Tensor, before: Tensor) -> Turn:
        """The sampler's last step, which changed [B, N] from sigma_hat `before` [B] on, and what noise it allows.

        A step changes a prediction nearly in the direction in which the step before it did. What it does besides is the
        noise of three predictions, each as long as its sigma is large, and where a picture turns it is more.
        """
        last = self.run.turn
        if last is None:
            return Turn(changed, before, torch.zeros_like(before))
        square = last.changed.square().sum(dim=1).clamp(min=torch.finfo(changed.dtype).tiny)
        share = (changed * last.changed).sum(dim=1) / square
        sigmas = torch.stack([self.sigma_hat, (1 + share) * before, share * last.sigma_hat])
        rest = (changed - share[:, None] * last.changed) / torch.linalg.vector_norm(sigmas, dim=0)[:, None]
        noise = torch.linalg.vector_norm(rest, dim=1)
        noise = torch.where(noise.isfinite(), noise, math.inf)
        self.most = torch.maximum(noise, last.noise)  # noise of a few directions may lie along a change for once
        return Turn(changed, before, noise, self._rings(rest))

    def _rings(self, rest: Tensor) -> Tensor | None:
        """What a step allows of noise in each ring of frequencies, as in a run, from all that may be noise, [B, N].

        A step that repeats a call repeats its noise, and tells nothing.
        """
        if self.x.ndim < 4:
            return None
        white = self.assumed().square() / self.size  # in units of std
        rings = noise_in_rings(rest.reshape(self.x.shape)) / white[:, None]
        tells = self.run.falls(self.sigma_hat)[:, None] & rings.isfinite()
        return torch.where(tells, rings, math.inf).clamp(min=LOW**2)

    def _least(self, rings: Tensor | None) -> Tensor | None:
        """The least that any step allows, with the step before it: early ones have hardly anything but noise."""
        last, least = self.run.turn, self.run.rings
        if rings is not None and last is not None and last.rings is not None:
            rings = torch.maximum(rings, last.rings)
        return rings if rings is None or least is None else torch.minimum(rings, least)

    def then(self, picked: Tensor | None = None) -> Past:
        """The call before that is APART from now, of the images picked or of all."""
        near, far, sigma_hat = self.run.near, self.run.far, self.sigma_hat
        assert near is not None and far is not None
        if picked is not None:
            near, far, sigma_hat = near[picked], far[picked], sigma_hat[picked]
        return far.where((near.sigma_hat >= APART * sigma_hat) | ~far.sigma_hat.isfinite(), near)

    def remember(self) -> None:
        """Keeps calls that are APART, of each image, from which a Gaussian's answers are foretold.

        sigma_hat is inf where a call tells nothing.
        """
        is_finite = torch.linalg.vector_norm(self.denoised, dim=1).isfinite()
        sigma_hat = torch.where(is_finite, self.sigma_hat, math.inf)
        run, now = self.run, Past(self.rows / self.alpha[:, None], self.denoised, sigma_hat)
        near, far = run.near or now, run.far or now
        moves = (near.sigma_hat >= APART * self.sigma_hat) | ~near.sigma_hat.isfinite()
        self.run = replace(run, near=near.where(moves, now), far=far.where(moves, near))

    def _change(self, then: Past) -> Change:
        """What sampling since then did to the prediction; where a sampler stands still, the start stays as it was."""
        moved = self.masked(self.rows / self.alpha[:, None] - then.y)
        changed = self.masked(self.denoised - then.denoised)
        noises = torch.hypot(self.sigma_hat, then.sigma_hat)
        left = torch.zeros_like(noises)
        if not self.is_exact:
            everyone, left = self.index(list(range(len(noises)))), self.noise() * noises
            changed, left, _ = (of[0] for of in self.filtered(changed[None], left[None, :, None], everyone, SILENT))
        lengths = torch.linalg.vector_norm(moved, dim=1)
        known = (lengths > 0) & lengths.isfinite()
        scale = torch.where(known, self.size.sqrt() / lengths, 0)  # [B]
        start = torch.where(known, scale * REACH, 0)[:, None] * changed
        start = torch.where(start.isfinite(), start, 0)
        if self.run.start is not None:
            start = torch.where(known[:, None], start, self.run.start)
        size = torch.linalg.vector_norm(changed, dim=1)
        step = lengths / (self.size.sqrt() * self.sigma_hat)
        return Change(start, scale * size, step, size / left, left / noises)

    def _above_noise(self, start: Tensor, step: Tensor) -> Tensor:
        """A start [B, N] as long as the sampler's own step [B], as far as WIDEST, and as the noise asks."""
        enough = torch.maximum(step.clamp(REACH, WIDEST), self._in_noise())[:, None]
        return start * (enough / length(start)).clamp(min=1)

    def _in_noise(self) -> Tensor:
        """How far a probe reaches for its noise, in units of std, [B]: twice all of it, and so that what bends counts.

        The direction of an answer must stand out of all the noise, its quotient of what the filter leaves.
        """
        return torch.maximum(reach(self.noise(), FARTHEST), balanced_reach(self.left)).clamp(max=FARTHEST)

    def told(self, answer: Tensor, picked: Tensor) -> Tensor:
        """J times the displacements of a search, [directions, b, N], from the predictions there, less the noise.

        The quietest rings tell how loud it is, so that little of the response goes; errors cover what is left of it.
        """
        told = self.response(answer, picked)
        if self.is_exact:
            return told
        noise = math.sqrt(2) * self.noise() * self.std  # of two predictions
        most = None
        if self.run.rings is not None:
            white = 2 * (self.assumed() * self.std)[picked].square() / self.size[picked]
            most = white[:, None] * self.run.rings[picked]
        told, left, at_most = self.filtered(told, noise[None, picked, None], picked, SILENT, most)
        left = left.amax(dim=0) / (math.sqrt(2) * self.std[picked])
        self.left = self.left.index_copy(0, picked, left)
        self.loudest = self.loudest.index_copy(0, picked, at_most.amax(dim=0) / self.std[picked])
        return told

    def reach(self) -> Tensor:
        """How far to probe along a direction that is known, [B, 1]."""
        if self.is_exact:
            return super().reach()
        return (self._in_noise() * self.std)[:, None]

    def noise_of(self, picked: Tensor, asked: Tensor, told: Tensor) -> Tensor:
        """Length of the noise in a response, in units of std, [b]: `in_answers` as told, `shared` after the filter."""
        self.shared = self.in_answers = super().noise_of(picked, asked, told)
        if self.is_exact or self.follows:
            return self.shared
        if self.x.ndim >= 4:
            self.shared = torch.maximum(self.left[picked], LOW * self.assumed()[picked])
        return torch.fmax(self.noise()[picked], self.shared)

    def noise_in_length(
        self, picked: Tensor, asked: Tensor, told: Tensor, gain: Tensor, ahead: Tensor
    ) -> Tensor:
        """What the filter leaves of the noise, as the sampler's own steps bound it, or two rounds of answers tell it.

        These tell by how much the first answer is longer than J is.
        """
        if self.is_exact:
            return super().noise_in_length(picked, asked, told, gain, ahead)
        by_steps = self.loudest[picked] * gain
        by_steps = torch.where(AUDIBLE * by_steps < ahead, by_steps, math.inf)
        if len(asked) < 2:
            return by_steps
        by_rounds = torch.maximum(self.shared, self.in_answers) * gain
        by_rounds = torch.where(self.noise()[picked] * gain < ahead, by_rounds, math.inf)
        return torch.minimum(by_steps, by_rounds)

    def error(self, picked: Tensor, noise: Tensor, coloured: Tensor, gain: Tensor) -> Tensor:
        """A standard error of the quotients, [directions, b].

        The noise in a direction may agree with that in the response: both hold that of the prediction at x, and where x
        is rounded more coarsely than it is probed, most of the rest. certainty times a share of its square covers that.
        A direction that is followed is of another call.
        """
        error = super().error(picked, noise, coloured, gain)
        return error if self.follows else error + (self.shared * gain).square() / max(self.guide.certainty, 1)
