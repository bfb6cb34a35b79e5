"""The noise in a network's answers: its length, how much of it lies along a direction, how far a probe must reach."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .starts import radial_frequency

EXACT = 1e-5  # a format with a smaller eps hides no saddle; its noise is still told from the answers themselves
TF32 = 2.0**-10  # eps of that format
REACH, BEND = 0.25, 0.04  # of the noise level: so far D is straight to within BEND along a direction of J = 2, as tanh
WIDEST = 1.0
FARTHEST = 2.0  # of a search, whose directions must stand out of the noise
# A ring of n values of noise has more than 1 + 5 sqrt(2 / n) + 25 / n times its power in 1 of 270,000 cases at most
# (Laurent and Massart, Annals of Statistics 28, 2000, lemma 1).
ERRORS = 5.0
QUIETEST = 0.9  # of all frequencies are mostly noise: the strongest of these tells its level
SILENT = 0.1  # of all frequencies are hardly more than noise
LOW, HIGH = 0.2, 3.0  # times what is expected, between which the noise is as it is measured
SMOOTHED = 5  # neighbours over which the power of one noise sample is averaged, a side


def assumed_noise(dtype: torch.dtype, size: int) -> float:
    """Length of the error of an answer in units of std, before it is measured: eps / 2 * sqrt(N) of a unit output.

    dtype: what the network computes in; size: N, values of an image.
    """
    return torch.finfo(dtype).eps / 2 * math.sqrt(size)


def eps_of(dtype: torch.dtype, device: torch.device) -> float:
    """The eps of a network's products: a GPU may multiply float32 as TF32, which has 10 bits."""
    return TF32 if dtype == torch.float32 and device.type == "cuda" else torch.finfo(dtype).eps


def reach(noise: float | Tensor, most: float = WIDEST) -> Tensor:
    """How far to probe in units of std: twice the noise, from REACH to `most`.

    noise: length of the error of an answer in units of std, a float or [B].
    """
    return (2 * torch.as_tensor(noise)).clamp(REACH, most)


def balanced_reach(noise: Tensor) -> Tensor:
    """How far to probe in units of std, so that noise and bend make the same error in a quotient; at least REACH.

    noise: length of the error of an answer in units of std, [B]. Over a length d that error is (noise / d)^2, and what
    bends makes one of BEND (d / REACH)^2.
    """
    return (REACH * noise / math.sqrt(BEND)).sqrt().clamp(min=REACH)


def noise_in_responses(displacements: Tensor, responses: Tensor) -> Tensor:
    """Length of the noise in a response, [B], from two rounds of probes; 0 with one.

    displacements, responses: [rounds, k, B, N], each round's displacement a multiple of the last round's response. For
    a symmetric J, |J d|^2 is d . J (J d): what the first round's response is longer than that is noise.
    """
    if len(displacements) < 2:
        return torch.zeros_like(displacements[0, 0, :, 0])
    first, second = responses[0], displacements[1]
    square = first.square().sum(dim=-1)  # [k, B]
    scale = square / (first * second).sum(dim=-1).clamp(min=torch.finfo(square.dtype).tiny)
    clean = scale * (displacements[0] * responses[1]).sum(dim=-1)
    return (square - clean).clamp(min=0).mean(dim=0).sqrt()


def noise_along(noise: Tensor, directions: Tensor) -> Tensor:
    """Standard deviation [count, B] of noise along unit directions, from one sample of it.

    noise: [B, C, ...]; directions: [count, B, C, ...]. Noise of a network has a spectrum of its own, so that along a
    smooth direction it may be many times the mean; it is taken to be alike everywhere in the picture. At least the
    mean over all directions.
    """
    axes = tuple(range(max(1, noise.ndim - 2), noise.ndim)) if noise.ndim > 2 else (1,)
    white = noise.flatten(1).square().mean(dim=1).sqrt()  # [B]
    along = [_cross_power(noise, directions, None)]
    if noise.ndim > 2:
        along.append(_cross_power(noise, directions, axes))
    return torch.stack([white.expand(along[0].shape), *along]).amax(dim=0)


def rings(shape: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The ring of frequencies of each place of an FFT over [H, W], flat, and how many places each has, >= 1."""
    ring = radial_frequency(shape, device).round().long().flatten()
    ones = torch.ones(len(ring), dtype=torch.float32, device=device)
    count = ones.new_zeros(1 + round(math.hypot(*(side // 2 for side in shape))))
    return ring, count.index_add(0, ring, ones).clamp(min=1)


def noise_in_rings(noise: Tensor) -> Tensor:
    """The power of noise in each ring of frequencies, [R, rings], from samples [R, C, ..., H, W] of it.

    At least the mean over SMOOTHED rings: the innermost have few values, which are small together now and then.
    """
    ring, count = rings(noise.shape[-2:], noise.device)
    mean = _mean_power(torch.fft.fft2(noise.float(), norm="ortho"), ring, count)
    ends = (SMOOTHED // 2, SMOOTHED // 2)
    near = [torch.nn.functional.pad(each, ends).unfold(-1, SMOOTHED, 1).sum(dim=-1) for each in (mean * count, count)]
    return torch.maximum(mean, near[0] / near[1])


def filtered(
    values: Tensor, noise: Tensor, quietest: float = QUIETEST, most: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures [R, C, ..., H, W] less the white noise in them, by a Wiener filter, and what stays of it.

    noise: its standard deviation in a value, [R]. What is undecided is mostly broad, and the noise is not: a ring of
    frequencies keeps as much as its power exceeds that of noise (Wiener, Extrapolation, Interpolation and Smoothing of
    Stationary Time Series, 1949). quietest: the share of all frequencies of which the strongest tells the noise. most:
    the power of the noise in each ring, [R, rings], of whatever colour, that it has at most, where that is known.
    Returns the pictures, the length of the noise that stays, [R], and the length that it has at most, inf where most is
    not known. Values without a height and a width are returned as they are.
    """
    if values.ndim < 4:
        return values, noise * math.sqrt(values[0].numel()), torch.full_like(noise, math.inf)
    spectrum = torch.fft.fft2(values.float(), norm="ortho")
    ring, count = rings(values.shape[-2:], values.device)
    mean = _mean_power(spectrum, ring, count)
    values_in = math.prod(values.shape[1:-2]) * count
    level = noise.float().square()[:, None]
    measured = mean.index_select(1, ring).quantile(quietest, dim=1, keepdim=True)
    level = torch.minimum(torch.maximum(measured, LOW**2 * level), HIGH**2 * level)
    chance = 1 + ERRORS * (2 / values_in).sqrt() + ERRORS**2 / values_in
    kept = torch.where(mean > chance * level, 1 - level / mean.clamp(min=torch.finfo(mean.dtype).tiny), 0)
    lengths = [
        torch.full_like(noise, math.inf) if power is None else (kept.square() * values_in * power).sum(dim=1).sqrt()
        for power in (level, most)
    ]
    kept = kept.index_select(1, ring).reshape(-1, *[1] * (values.ndim - 3), *values.shape[-2:])
    left, at_most = (each.to(noise) for each in lengths)
    return torch.fft.ifft2(kept * spectrum, norm="ortho").real.to(values), left, at_most


def _mean_power(spectrum: Tensor, ring: Tensor, count: Tensor) -> Tensor:
    """The mean power [R, rings] in each ring of frequencies of FFTs [R, C, ..., H, W]; ring, count: as of `rings`."""
    power = spectrum.abs().square().reshape(len(spectrum), -1, len(ring)).mean(dim=1)  # [R, H * W]
    return power.new_zeros(len(power), len(count)).index_add(1, ring, power) / count


def _cross_power(noise: Tensor, directions: Tensor, axes: tuple[int, ...] | None) -> Tensor:
    values = [noise, directions]
    if axes is not None:
        dims = [tuple(axis - noise.ndim for axis in axes)] * 2
        values = [torch.fft.fftn(value.float(), dim=dim, norm="ortho") for value, dim in zip(values, dims)]
    power = _smoothed(values[0].abs().square())  # [B, ...]
    return (values[1].abs().square() * power).flatten(2).sum(dim=-1).sqrt()


def _smoothed(power: Tensor) -> Tensor:
    """Power [B, ...] averaged over neighbours along its last two axes, around the ends, as those of an FFT are."""
    flat = power.flatten(0, -3) if power.ndim > 2 else power
    for axis in range(1 if power.ndim == 2 else flat.ndim - 2, flat.ndim):
        width = min(SMOOTHED, flat.shape[axis])
        shifts = range(-(width // 2), width - width // 2)
        flat = sum((flat.roll(shift, dims=axis) for shift in shifts), start=torch.zeros_like(flat)) / width
    return flat.reshape(power.shape)
