"""Gaussian mixtures with exact denoiser, score and Hessian: the oracles of the curvature tests."""

import torch


class Mixture:
    """Equal-weight mixture of N(mean_k, diag(variance_k)) in `size` dimensions; everything in float64.

    means: [K, N]; variances: [K, N]. Points are [B, N].
    """

    def __init__(self, means, variances):
        self.means, self.variances = means.double(), variances.double()

    def denoise(self, y, sigma):
        """E[x0 | y] at noise level sigma in variance-exploding coordinates."""
        total = self.variances + sigma**2  # [K, N]
        offset = y[:, None] - self.means  # [B, K, N]
        weight = self._weights(offset, total)  # [B, K]
        posterior = self.means + offset * self.variances / total
        return (weight[..., None] * posterior).sum(dim=1)

    def jacobian(self, y, sigma):
        """dD/dy, [N, N], of one point y [N], from the closed form Cov[x0 | y] / sigma^2."""
        total = self.variances + sigma**2
        offset = y - self.means  # [K, N]
        weight = self._weights(offset[None], total)[0]  # [K]
        posterior = self.means + offset * self.variances / total
        mean = (weight[:, None] * posterior).sum(dim=0)
        within = torch.diag((weight[:, None] * self.variances * sigma**2 / total).sum(dim=0))
        spread = posterior - mean
        return (within + (weight[:, None, None] * spread[:, :, None] * spread[:, None, :]).sum(dim=0)) / sigma**2

    def hessian(self, y, sigma):
        """Hessian of log p_sigma at one point y [N]: (J - I) / sigma^2."""
        return (self.jacobian(y, sigma) - torch.eye(len(y), dtype=torch.float64)) / sigma**2

    def log_density(self, y, sigma):
        """log p_sigma at one point y [N], up to a constant."""
        total = self.variances + sigma**2
        terms = -0.5 * ((y - self.means) ** 2 / total + total.log()).sum(dim=1)
        return torch.logsumexp(terms, dim=0)

    @staticmethod
    def _weights(offset, total):
        terms = -0.5 * (offset**2 / total + total.log()).sum(dim=-1)
        return torch.softmax(terms, dim=-1)


def random_mixture(size, components, seed, spread=2.0):
    """A mixture with random means of length about `spread` and random small variances."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(components, size, generator=generator, dtype=torch.float64)
    means = spread * means / means.norm(dim=1, keepdim=True)
    variances = 0.02 + 0.1 * torch.rand(components, size, generator=generator, dtype=torch.float64)
    return Mixture(means, variances)


def symmetric_pair(size, distance=1.0, variance=0.02):
    """Two equal Gaussians at +-distance along the first axis: an exact saddle at the origin."""
    means = torch.zeros(2, size, dtype=torch.float64)
    means[0, 0], means[1, 0] = distance, -distance
    return Mixture(means, torch.full((2, size), variance, dtype=torch.float64))
