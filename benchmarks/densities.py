"""Densities of which everything is known, and networks that compute their denoiser as inexactly as real ones do.

Pictures are [B, C, H, W]. Along waves of any frequency, an orthonormal basis, the values are independent: Gaussian, or
in a `Mode` either of two. So the Jacobian of the denoiser is diagonal there, and its eigenvectors are these waves.
"""

import itertools
import math
from dataclasses import dataclass

import torch

FORMATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SHAPES = {3_072: (3, 32, 32), 65_536: (4, 128, 128), 262_144: (16, 128, 128)}  # digits, SDXL and FLUX at 1024 x 1024
# The bundled demo model's output in bf16 and fp16 differs from that in fp32 by one unit of rounding, of which the
# rounding of the output itself explains a half; between a sample and its probe three quarters of it are independent.
INTERNAL_NOISE = 0.65
SIGMA_MIN, SIGMA_MAX, RHO = 0.01, 40.0, 7  # of the demo model; Karras et al. 2022, eq. 5
OPENS = 0.15  # times sigma: from farther out a sample comes to one side of a saddle before it opens


def schedule(steps):
    """The sigmas of a run, with the 0 at the end."""
    ends = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    shares = [step / max(steps - 1, 1) for step in range(steps)]
    return [*((ends[0] + share * (ends[1] - ends[0])) ** RHO for share in shares), 0.0]


def waves(x):
    """Values [..., H, W] along waves, and back: the orthonormal Hartley transform, its own inverse."""
    spectrum = torch.fft.fft2(x, norm="ortho")
    return spectrum.real - spectrum.imag


def frequencies(shape):
    """The radial frequency of each wave, [C, H, W], at least 1 a picture."""
    sides = [torch.fft.fftfreq(side) * side for side in shape[1:]]
    return torch.hypot(sides[0][:, None], sides[1][None]).clamp(min=1).expand(shape)


def from_broad_to_fine(shape):
    """The waves in the order of their frequency, as places [N] among the values of a picture."""
    return frequencies(shape).flatten().argsort(stable=True)


def power_law(shape, exponent):
    """Variances [N] that fall as k^-exponent from the k = 1 broadest wave on; their mean is 1."""
    falling = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64) ** -exponent
    variances = torch.empty_like(falling)
    variances[from_broad_to_fine(shape)] = falling / falling.mean()
    return variances.float()


def broad(shape, count=8, wide=400.0, narrow=0.01):
    """Variances [N] of a few broad directions, the others narrow."""
    variances = torch.full((math.prod(shape),), narrow)
    variances[from_broad_to_fine(shape)[:count]] = wide
    return variances


@dataclass(frozen=True)
class Mode:
    """A wave along which a picture is either of two: place among the values; at -mean or mean, with a spread."""

    place: int
    mean: float
    spread: float


class Density:
    """Independent along waves: Gaussian with variances [N], or one of `modes`."""

    def __init__(self, shape, variances, modes=()):
        self.shape, self.variances, self.modes = shape, variances, modes

    def denoise(self, y, sigma):
        """E[x0 | y] of y [B, C, H, W] = x0 + sigma * noise."""
        values = waves(y).flatten(1)
        denoised = values * (self.variances / (self.variances + sigma**2))
        for mode in self.modes:
            total, value = mode.spread**2 + sigma**2, values[:, mode.place]
            kept = mode.spread**2 / total
            denoised[:, mode.place] = kept * value + (1 - kept) * mode.mean * torch.tanh(mode.mean * value / total)
        return waves(denoised.reshape(y.shape))

    def eigenvalues(self, y, sigma):
        """dD/dy along each wave, [B, N]."""
        found = (self.variances / (self.variances + sigma**2)).repeat(len(y), 1)
        values = waves(y).flatten(1)
        for mode in self.modes:
            total = mode.spread**2 + sigma**2
            kept = mode.spread**2 / total
            steep = torch.cosh((mode.mean * values[:, mode.place] / total).clamp(-40, 40)).square()
            found[:, mode.place] = kept + (1 - kept) * mode.mean**2 / total / steep
        return found

    def noise(self, batch, seed):
        """A start of a run, [B, C, H, W]; along each mode one from which its saddle opens, all alike far from each other.

        Of white noise that is the innermost eighth, and less where a saddle is open from the start.
        """
        generator = torch.Generator().manual_seed(seed)
        values = waves(torch.randn(batch, *self.shape, generator=generator)).flatten(1)
        places = 2 * (torch.arange(batch) + 0.5) / batch - 1
        for mode in self.modes:
            order = torch.randperm(batch, generator=generator)
            values[:, mode.place] = OPENS * places[order] / max(1, mode.mean / SIGMA_MAX)
        return SIGMA_MAX * waves(values.reshape(batch, *self.shape)).to(self.variances.device)


class Network:
    """A denoiser as a network in a number format computes it: its noise prediction, with internal noise and rounding.

    exact: denoise(y, sigma); noise: how much internal noise, 1 for that of the demo model; coloured: whether it falls
    with the frequency, as that of a UNet does. The samples' own noise does not depend on how many probes are made.
    """

    def __init__(self, exact, dtype, noise=1.0, coloured=False, seed=0):
        self.exact, self.dtype, self.coloured = exact, dtype, coloured
        self.noise = noise * INTERNAL_NOISE * torch.finfo(dtype).eps / 2
        self.main, self.other = (torch.Generator().manual_seed(2 * seed + part) for part in range(2))
        self.evaluations = 0
        self.answer = None  # at the samples of the last call

    def at(self, sigma, batch):
        """A denoise(rows, images) of one call, whose first rows are the samples."""
        self.answer = None

        def denoise(rows, images=None):
            fresh = batch if self.answer is None else 0
            drawn = [torch.randn(fresh, *rows.shape[1:], generator=self.main)]
            drawn.append(torch.randn(len(rows) - fresh, *rows.shape[1:], generator=self.other))
            answer = self._answer(rows, sigma, torch.cat(drawn).to(rows.device))
            self.evaluations += len(rows)
            self.answer = answer[:batch] if fresh else self.answer
            return answer

        return denoise

    def _answer(self, y, sigma, white):
        scale = 1 / math.hypot(1, sigma)
        rounded = (scale * y).to(self.dtype).to(y.dtype) / scale
        noise = (y - self.exact(rounded, sigma)) / sigma
        if self.coloured:
            fall = 1 / frequencies(white.shape[1:]).to(white.device)
            white = waves(waves(white) * (fall / fall.square().mean().sqrt()))
        noise = noise + self.noise * noise.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() * white
        return y - sigma * noise.to(self.dtype).to(y.dtype)


@torch.no_grad()
def run(network, y, sigmas, guide=None, watch=None):
    """Euler steps from y along the sigmas, guided by a SaddleFree or not; the picture [B, C, H, W].

    watch: called before each step with y, sigma, the push [B, C, H, W] and the guide.
    """
    for sigma, following in itertools.pairwise(sigmas):
        denoise = network.at(sigma, len(y))
        denoised = denoise(y) if guide is None else guide(denoise, y, alpha=1.0, std=sigma)
        if watch is not None:
            watch(y, sigma, denoised - network.answer, guide)
        y = denoised + (y - denoised) * (following / sigma)
    return y
