"""How well low precision lets the direction be found, against closed forms.

    python quickstart.py --run benchmarks/precision.py

samples a Gaussian mixture whose exact denoiser is made as inexact as a network: its noise prediction gets internal
noise and is rounded to a number format. While the exact largest eigenvalue of the Jacobian is above 1, the table tells
the mean |cosine| between the tracked and the exact direction, and in brackets the mean relative error of the Rayleigh
quotient, for fixed probe radii and the automatic one.
"""

import argparse
import functools
import itertools
import statistics
from dataclasses import dataclass

import torch
from pack import load_pack

# The bundled demo model's output in bf16 and fp16 differs from that in fp32 by one unit of rounding, of which the
# rounding of the output itself explains a half; between a sample and its probe three quarters of it are independent.
INTERNAL_NOISE = 0.65
FORMATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
SIZES = (256, 16_384, 262_144)
RADII = (0.1, 0.5)
STEPS, SIGMA_MAX, SIGMA_MIN, RHO = 24, 20.0, 0.3, 7
COMPONENTS, LENGTH, VARIANCE = 6, 4.0, 0.09


class Mixture:
    """Equal-weight mixture of isotropic Gaussians of one variance in `size` dimensions, with random means."""

    def __init__(self, size, seed):
        generator = torch.Generator().manual_seed(seed)
        means = torch.randn(COMPONENTS, size, generator=generator)
        self.means = LENGTH * means / torch.linalg.vector_norm(means, dim=1, keepdim=True)  # [K, N]

    def _weights(self, y, sigma):
        distance = y @ self.means.T - self.means.square().sum(dim=1) / 2  # [B, K]
        return torch.softmax(distance / (VARIANCE + sigma**2), dim=1)

    def denoise(self, y, sigma):
        """E[x0 | y] of points y [B, N]."""
        kept = VARIANCE / (VARIANCE + sigma**2)
        return kept * y + (1 - kept) * self._weights(y, sigma) @ self.means

    def top_eigenpairs(self, y, sigma):
        """The largest eigenvalue [B] and its eigenvector [B, N] of dD/dy at each y [B, N]."""
        kept = VARIANCE / (VARIANCE + sigma**2)
        weights = self._weights(y, sigma)
        spread = weights.sqrt()[..., None] * (1 - kept) * (self.means - (weights @ self.means)[:, None])  # [B, K, N]
        values, vectors = torch.linalg.eigh((spread @ spread.mT).double())
        directions = torch.nn.functional.normalize((vectors[..., -1:].mT.float() @ spread)[:, 0], dim=1)
        return kept + values[:, -1].float() / sigma**2, directions


@dataclass
class Inexact:
    """The mixture's denoiser as a network in a number format computes it; noise from a seeded generator."""

    mixture: Mixture
    dtype: torch.dtype
    generator: torch.Generator

    def denoise(self, y, sigma):
        """The denoised prediction [B, N] from a noise prediction with internal noise and rounding."""
        exact = self.mixture.denoise(y, sigma)
        if self.dtype == torch.float32:
            return exact
        noise = (y - exact) / sigma
        size = noise.square().mean(dim=1, keepdim=True).sqrt()
        internal = INTERNAL_NOISE * torch.finfo(self.dtype).eps / 2 * size
        noise = noise + internal * torch.randn(noise.shape, generator=self.generator)
        return y - sigma * noise.to(self.dtype).float()


def schedule():
    """The sigmas of the run."""
    ends = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return [(ends[0] + step / (STEPS - 1) * (ends[1] - ends[0])) ** RHO for step in range(STEPS)]


@torch.no_grad()
def follow(size, dtype, radius, *, images=8, seed=0):
    """|cosine| and relative Rayleigh error, two lists, of every probe after which the exact eigenvalue is above 1."""
    from saddle_free_guidance.curvature import CurvatureTracker, rounding_error

    mixture, generator = Mixture(size, seed), torch.Generator().manual_seed(seed + 1)
    model = Inexact(mixture, dtype, generator)
    tracker = CurvatureTracker(seed=seed, probe_radius=radius, rounding=rounding_error(dtype, size))
    sigmas = schedule()
    y = sigmas[0] * torch.randn(images, size, generator=generator)
    cosines, errors = [], []
    for sigma, following in itertools.pairwise(sigmas):
        denoised, probe = model.denoise(y, sigma), tracker.probe(y, std=sigma)
        estimate = tracker.update(denoised, model.denoise(probe, sigma), alpha=1.0, std=sigma)
        value, direction = mixture.top_eigenpairs(y, sigma)
        found = torch.nn.functional.normalize(estimate.response[0], dim=1)
        positive = value > 1
        cosines += (found * direction).sum(dim=1).abs()[positive].tolist()
        errors += ((estimate.rayleigh[0] - value).abs() / value)[positive].tolist()
        exact = mixture.denoise(y, sigma)
        y = exact + (y - exact) * following / sigma
    return cosines, errors


def automatic(dtype, size):
    """What the node does where probe_radius is 0."""
    from saddle_free_guidance.curvature import automatic_probe_radius

    return functools.partial(automatic_probe_radius, dtype, size)


def cell(size, dtype, radius, seeds):
    """Both figures, over several mixtures."""
    runs = [follow(size, dtype, radius, images=8 if size < 100_000 else 4, seed=seed) for seed in range(seeds)]
    cosines, errors = ([value for run in runs for value in run[part]] for part in (0, 1))
    return f"{statistics.mean(cosines):.3f} ({statistics.mean(errors):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    load_pack()
    print("| format | size | " + " | ".join(f"radius {radius:g}" for radius in RADII) + " | automatic |")
    print("|---" * (len(RADII) + 3) + "|")
    for name, dtype in FORMATS.items():
        for size in arguments.sizes:
            cells = [cell(size, dtype, radius, arguments.seeds) for radius in (*RADII, automatic(dtype, size))]
            print(f"| {name} | {size:,} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
