"""One call of the guide: how it asks about points near x, and how exact the answers are."""

import math
from collections.abc import Generator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..curvature import EXACT, LOW, assumed_noise, gaussian, noise_along, noise_in_responses, reach
from .run import Run

if TYPE_CHECKING:
    from .saddle_free import SaddleFree

Question = tuple[Tensor, list[int]]  # rows, and the image of each


class Call:
    """What is known at one call. J is that of y = x / alpha, applied to displacements of x.

    rows: x as [B, N]; alpha, std, sigma_hat: [B]; size: how many values of each image may change, [B]; denoised: the
    prediction at x, [B, N], once it is there, and that of the last call before; evaluations: how often each image was
    evaluated, [B].
    """

    def __init__(
        self, guide: "SaddleFree", run: Run, x: Tensor, alpha: float | Tensor, std: float | Tensor
    ) -> None:
        self.guide, self.x = guide, x
        self.rows = x.to(run.ahead.dtype).flatten(1)  # [B, N]
        self.alpha, self.std = (self._each(value) for value in (alpha, std))  # [B]
        self.sigma_hat = self.std / self.alpha
        self.run = run.at(self.sigma_hat)
        self.evaluations = torch.ones(len(x), dtype=torch.int64)
        self.size = self.masked(torch.ones_like(self.rows)).count_nonzero(dim=1).to(self.rows.dtype)  # [B]
        self.denoised = torch.zeros_like(self.rows) if run.denoised is None else run.denoised

    @property
    def is_exact(self) -> bool:
        """Whether the network computes in a format that hides no saddle."""
        return torch.finfo(self.guide.dtype).eps < EXACT

    def _each(self, value: float | Tensor) -> Tensor:
        value = torch.as_tensor(value, dtype=self.rows.dtype, device=self.x.device)
        return value.reshape(-1).expand(len(self.x))

    def asked(self, images: list[int], displacements: Tensor) -> Question:
        """Rows [directions * b, ...] that are x and a displacement [directions, b, N], and the image of each."""
        rows = self.rows[self.index(images)] + displacements
        return rows.reshape(-1, *self.x.shape[1:]).to(self.x.dtype), images * len(displacements)

    def response(self, answer: Tensor, picked: Tensor) -> Tensor:
        """J times the displacements, [directions, b, N], from the predictions there."""
        answer = answer.to(self.rows.dtype).reshape(-1, len(picked), self.rows.shape[1])
        return self.masked(self.alpha[picked, None] * (answer - self.denoised[picked]), picked)

    def masked(self, values: Tensor, picked: Tensor | None = None) -> Tensor:
        """Values [..., B, N] where the picture may change, 0 elsewhere."""
        mask = self.run.mask
        return values if mask is None else values * (mask if picked is None else mask[picked])

    def index(self, images: list[int]) -> Tensor:
        """Places in the batch as an index on the device of x; a list would wait for a GPU."""
        return torch.tensor(images, dtype=torch.int64).to(self.x.device, non_blocking=True)

    def placed(self, values: Tensor) -> Tensor:
        """Values made on the CPU as the rows are, without a wait for a GPU."""
        return values.to(self.rows.device, self.rows.dtype, non_blocking=True)

    def scaled(self, displacements: Tensor, picked: Tensor) -> Tensor:
        """Displacements of the length that was asked for, if any was."""
        radius = self.guide.probe_radius
        if not radius:
            return displacements
        return displacements * (radius * self.std[picked, None] / length(displacements))

    def reach(self) -> Tensor:
        """How far to probe along a direction that is known, [B, 1]."""
        return (reach(self.noise()) * self.std)[:, None]

    def assumed(self) -> Tensor:
        """Length of an answer's error that the format lets one expect, in units of std, [B].

        Half a unit of rounding of an output of size 1, and of x, which weighs more where sigma is smaller.
        """
        size = torch.linalg.vector_norm(self.masked(self.denoised), dim=1) / self.std
        return assumed_noise(self.guide.dtype, 1) * torch.hypot(size, self.size.sqrt())

    def noise(self) -> Tensor:
        """Length of an answer's error in units of std, [B]: as it was measured, or what the format lets one expect."""
        return self.assumed() * torch.where(self.run.noise.isnan(), 1, self.run.noise)

    def noise_of(self, picked: Tensor, asked: Tensor, told: Tensor) -> Tensor:
        """Length of the noise in a response, in units of std, [b]: from the answers, or from those before."""
        if self.is_exact:
            return 2 * self.assumed()[picked]
        if len(asked) > 1:
            told_of = noise_in_responses(asked, told) / self.std[picked]
            return torch.maximum(told_of, LOW * self.assumed()[picked])  # what bends may hide all of it
        return self.noise()[picked]

    def error(self, picked: Tensor, noise: Tensor, coloured: Tensor, gain: Tensor) -> Tensor:
        """A standard error of the quotients, [directions, b]: the noise of a response along a direction of its own."""
        return torch.nan_to_num(coloured, nan=1.0) * noise * gain / self.size[picked].sqrt()

    def measure(
        self, images: list[int], picked: Tensor, vectors: Tensor, maybe: list[bool]
    ) -> Generator[Question, Tensor, tuple[Tensor, Tensor]]:
        """The noise of an answer, once a run: its length in units of std [b], and its colour along the directions.

        The same question is asked again so little beside x that only the rounding is another.
        """
        run, chosen = self.run, [place for place, needed in enumerate(maybe) if needed]
        there = [images[place] for place in chosen]
        index, local = self.index(there), self.index(chosen)
        eps = torch.finfo(self.guide.dtype).eps
        white = torch.stack([gaussian(self.rows.shape[1], run.seed, run.keys[image], -1) for image in there])
        small = eps * torch.maximum(self.rows[index].abs(), self.std[index, None]) * white.to(self.rows).sign()
        answer = yield self.asked(there, small[None])
        self.evaluations[there] += 1
        noise = self.response(answer, index)[0]  # [c, N]
        length = torch.linalg.vector_norm(noise, dim=-1)
        shape = (len(there), *self.run.shape[2:])
        along = noise_along(noise.reshape(shape), vectors[:, local].reshape(self.guide.directions, *shape))
        mean = length / self.size[index].sqrt()
        measured = torch.full_like(self.std[picked], math.nan).index_copy(0, local, length / self.std[index])
        ratio = torch.where(mean > 0, along / mean, 1)
        return measured, run.coloured[:, picked].index_copy(1, local, ratio)


def length(vectors: Tensor) -> Tensor:
    """Lengths [..., 1], never 0."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return lengths.clamp(min=torch.finfo(vectors.dtype).tiny)
