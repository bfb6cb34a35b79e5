"""The benchmark's metrics against closed forms and brute force."""

import pytest
import torch
from metrics import frechet_distance, precision_recall_density_coverage


def test_frechet_distance_of_gaussians_with_diagonal_covariance():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    base = (base - base.mean(dim=0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(base.T))).T  # exactly white
    scale, shift = torch.tensor([2.0, 0.5, 3.0], dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5])
    expected = (shift.double() ** 2).sum() + ((scale - 1) ** 2).sum()
    assert frechet_distance(base, base * scale + shift) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(base, base) == pytest.approx(0, abs=1e-6)


def test_neighbour_metrics_match_their_definitions():
    generator = torch.Generator().manual_seed(1)
    real, fake = torch.randn(30, 2, generator=generator), 0.7 + torch.randn(20, 2, generator=generator)
    k = 3

    def ball(points, i):
        return sorted((points[i] - point).norm().item() for point in points)[k]

    real_balls, fake_balls = [ball(real, i) for i in range(30)], [ball(fake, j) for j in range(20)]
    distance = [[(real[i] - fake[j]).norm().item() for j in range(20)] for i in range(30)]
    expected = {
        "precision": sum(any(distance[i][j] < real_balls[i] for i in range(30)) for j in range(20)) / 20,
        "recall": sum(any(distance[i][j] < fake_balls[j] for j in range(20)) for i in range(30)) / 30,
        "density": sum(distance[i][j] < real_balls[i] for i in range(30) for j in range(20)) / (k * 20),
        "coverage": sum(min(distance[i]) < real_balls[i] for i in range(30)) / 30,
    }
    assert precision_recall_density_coverage(real, fake, k) == pytest.approx(expected)
    assert 0 < expected["precision"] < 1 and 0 < expected["recall"] < 1


def test_the_same_points_are_perfect():
    points = torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
    found = precision_recall_density_coverage(points, points.clone())
    assert [found[name] for name in ("precision", "recall", "coverage")] == [1, 1, 1]
