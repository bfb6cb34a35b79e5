"""What one sampling run of saddle-free guidance remembers."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..curvature import LEAST, ProbeSchedule

HALVING = 2.0  # the fall of sigma_hat from call to call for which `scale` is in units of sigma_hat
SAME = 1e-4  # by which a sigma_hat that has not changed may differ
BEHIND = 1 / 3  # of how far the quotient of J v is above 1, that of v is: benchmarks/curvature.py --along
STEEPEST = 4.0  # a fall that counts; only the last of a few steps are longer, when little is undecided


def image_digests(images: Tensor) -> list[int]:
    """An integer for each of images [B, ...], the same alone and in any batch, for image_keys."""
    rows = images.detach().float().cpu()
    return [int.from_bytes(hashlib.blake2b(row.numpy().tobytes(), digest_size=8).digest(), "big") for row in rows]


@dataclass(frozen=True)
class Past:
    """A call before: y and the prediction there, [B, N], and sigma_hat, [B]."""

    y: Tensor
    denoised: Tensor
    sigma_hat: Tensor

    def where(self, chosen: Tensor, other: "Past") -> "Past":
        """The other where a boolean [B] says so, of each image."""
        rows = chosen[:, None]
        return Past(
            torch.where(rows, other.y, self.y), torch.where(rows, other.denoised, self.denoised),
            torch.where(chosen, other.sigma_hat, self.sigma_hat),
        )

    def __getitem__(self, picked: Tensor) -> "Past":
        return Past(self.y[picked], self.denoised[picked], self.sigma_hat[picked])


@dataclass(frozen=True)
class Turn:
    """What one of the sampler's steps changed of the prediction, [B, N], from which sigma_hat on, [B].

    noise: how long that of an answer can be by this step and the one before it, in units of std, [B]; 0 for the first.
    rings: what it can be in each ring of frequencies, [B, rings], as in a run; None for the first, and without rings.
    """

    changed: Tensor
    sigma_hat: Tensor
    noise: Tensor
    rings: Tensor | None = None


@dataclass(frozen=True)
class Run:
    """What one sampling run remembers of each image; replaced, never changed. N is the number of values of an image.

    shape: (directions, *shape of x); keys: an integer an image; schedule: when each is probed next; vectors: unit
    directions v, and ahead: those of J v, a step of power iteration further, [directions, B, N]; rayleigh: what the
    quotients of J v are at least, behind: whether it is that of v, because noise lets no more be known, and error: a
    standard error of each, [directions, B]; noise: how many times longer a response's error is than the format lets one
    expect, NaN before it is known, [B]; coloured: by how much it is larger along the direction than in the mean, NaN
    before it is measured, [directions, B]; searches: how many each image had; mask: where the picture may change, or
    None; denoised: the prediction at the last call, [B, N]; sigma_hat: of the last call, inf before the first, and
    fall: how many times smaller than before it was when it last fell, [B].

    By the automatic schedule, y: that of the last call; start: what the last step did to the denoised
    prediction, for a step of REACH in every value; turn: the same as it was, in half precision and without a mask;
    rings: the power of the noise of an answer in each ring of frequencies, as all steps so far say that it can be, over
    that of white noise which the format lets one expect, [B, rings];
    norm: the Frobenius norm of J, [B]; near, far: calls before, of each image those whose sigma_hat was APART times
    that of now, or of near.

    In fixed steps, step: how often sigma_hat has fallen, probed: at which step there was a probe,
    and probes: how many; chance: displacements by chance, [directions, B, N]; along: the quotients of the last probes
    themselves; age: of each search, in probes, candidate: whether it is probed alone next, and followed: the quotient
    of the last such probe, 0 for none, [directions, B];
    reference: a displacement and a Gaussian's answer to it, [directions, B, N], at a sigma_hat [B].
    """

    shape: tuple[int, ...]
    seed: int
    keys: list[int]
    schedule: ProbeSchedule
    vectors: Tensor
    ahead: Tensor
    rayleigh: Tensor
    behind: Tensor
    error: Tensor
    noise: Tensor
    coloured: Tensor
    searches: list[int]
    along: Tensor
    age: Tensor
    candidate: Tensor
    followed: Tensor
    sigma_hat: Tensor
    fall: Tensor
    mask: Tensor | None = None
    denoised: Tensor | None = None
    y: Tensor | None = None
    start: Tensor | None = None
    turn: Turn | None = None
    rings: Tensor | None = None
    norm: Tensor | None = None
    near: Past | None = None
    far: Past | None = None
    step: int = -1
    probed: int | None = None
    probes: int = 0
    chance: Tensor | None = None
    reference: tuple[Tensor, Tensor, Tensor] | None = None

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
            shape, seed, keys, ProbeSchedule.start(batch, device), empty, empty, none, none.bool(), none,
            none[0] + math.nan, none + math.nan, [0] * batch, none, none.long(), none.bool(), none,
            none[0] + math.inf, none[0] + HALVING,
        )

    def falls(self, sigma_hat: Tensor) -> Tensor:
        """Where sigma_hat [B] is less than at the last call, a boolean [B]."""
        return self.sigma_hat / sigma_hat > 1 + SAME

    def at(self, sigma_hat: Tensor) -> "Run":
        """The run at a call at sigma_hat [B]. Where that has not fallen since the last call, the fall before counts."""
        fall = self.sigma_hat / sigma_hat
        counts = self.falls(sigma_hat) & fall.isfinite()
        return replace(self, fall=torch.where(counts, fall.clamp(max=STEEPEST), self.fall))

    def under(self, mask: Tensor | None) -> "Run":
        """The run with another mask [B or 1, ...] of where the picture may change, None for everywhere."""
        return replace(self, mask=None if mask is None else self.fitted("mask", mask))

    def fitted(self, name: str, values: float | Tensor) -> Tensor:
        """Values [B or 1, ...] for every value of x, [B, N]; name: what the user knows them as."""
        shape = self.shape[1:]
        values = torch.as_tensor(values).to(self.ahead.device, self.ahead.dtype)
        try:
            values = values.expand(shape)
        except RuntimeError as error:
            raise ValueError(f"{name} has shape {tuple(values.shape)}; it must fit x with {tuple(shape)}.") from error
        return values.flatten(1)

    def above(self, certainty: float) -> Tensor:
        """By how much each quotient is above 1, less what it may be wrong by, [directions, B]."""
        return self.rayleigh - 1 - LEAST - certainty * self.error

    def weight(self, sigma_hat: Tensor, ramp: float, certainty: float, spacing: float | None) -> Tensor:
        """How far each direction is certain to be a saddle at sigma_hat [B], from 0 to 1, [directions, B].

        spacing: of the looks, after which one no longer tells; None where it does until the next.
        """
        known = self.schedule.begun if spacing is None else self.schedule.fresh(sigma_hat, spacing)
        whole = torch.where(self.behind, ramp * BEHIND, ramp)
        return torch.where(known, (self.above(certainty) / whole).clamp(0, 1), 0)
