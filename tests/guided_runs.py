"""Sampling runs guided by the torch-only guide, near a saddle that is known."""

import itertools

import torch
from mixtures import symmetric_pair

SIZE = 1024
SIGMAS = [*torch.logspace(1.3, -1.3, 24, dtype=torch.float64).tolist(), 0.0]
EVERY = {"automatic": 0, "every call": 1, "every other": 2}


def pair(size=SIZE):
    """Two narrow Gaussians at distance 2 along the first axis."""
    return symmetric_pair(size)


def steepness(y, sigma):
    """dD/dy of the pair along the first axis at y [B, N], the largest eigenvalue where it is above 1; [B]."""
    total = 0.02 + sigma**2
    return 0.02 / total + sigma**2 / total**2 / torch.cosh((y[:, 0] / total).clamp(-300, 300)).square()


def noise(batch=3, size=SIZE, seed=0):
    """Starts of runs, [B, N], that come near the saddle."""
    values = torch.randn(batch, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values[:, 0] = torch.linspace(-0.1, 0.1, batch, dtype=torch.float64) + 0.013
    return values


class Asked:
    """denoise(x, images) at one sigma for the guide, in the coordinates alpha; counts the rows of each image."""

    def __init__(self, exact, sigma, alpha=1.0, batch=3):
        self.exact, self.sigma, self.alpha = exact, sigma, alpha
        self.rows, self.calls, self.first = torch.zeros(batch, dtype=torch.int64), [], None

    def __call__(self, x, images):
        assert images.dtype == torch.int64 and images.shape == (len(x),)
        self.rows += torch.bincount(images.cpu(), minlength=len(self.rows))
        self.calls.append(x.clone())
        answer = self.exact(x / self.alpha, self.sigma)
        self.first = answer[: len(self.rows)] if self.first is None else self.first
        return answer


def euler(guide, exact, start, sigmas=SIGMAS, flow=False, each=False, **knobs):
    """Guided Euler steps; returns y = x / alpha, the pushes [calls, B, ...] and the rows of every image [calls, B].

    flow: in coordinates x = (1 - t) x0 + t n, else x0 + sigma n; each: alpha and std a tensor instead of a float.
    """
    x, pushes, rows = None, [], []
    for sigma, following in itertools.pairwise(sigmas):
        alpha, after = ((1 / (1 + level)) if flow else 1.0 for level in (sigma, following))
        x = alpha * sigma * start if x is None else x
        asked = Asked(exact, sigma, alpha, len(x))
        given = [torch.full((len(x),), value, dtype=torch.float64) for value in (alpha, alpha * sigma)]
        alphas, stds = given if each else (alpha, alpha * sigma)
        denoised = guide(asked, x, alpha=alphas, std=stds, **knobs)
        pushes.append(denoised - asked.first)
        rows.append(asked.rows)
        x = after * denoised + after * following * (x - alpha * denoised) / (alpha * sigma)
    return x, torch.stack(pushes), torch.stack(rows)


def same(first, second, tolerance=0.0):
    """Whether what two runs gave is the same."""
    return all(torch.allclose(one.double(), other.double(), rtol=0, atol=tolerance) for one, other in zip(first, second))  # noqa: E501


def bits(values):
    return values.view({8: torch.int64, 4: torch.int32, 2: torch.int16}[values.element_size()])
