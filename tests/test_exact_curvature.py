"""The benchmark's exact eigenpairs against matrices whose eigenvalues are known."""

import pytest
import torch

from curvature import top_eigenpair


def rows_of(matrices):
    """Matrices [B, N, N] times vectors [B, N], images apart."""
    return lambda vectors: torch.einsum("bij,bj->bi", matrices, vectors)


@pytest.mark.parametrize("size, iterations", [(30, 30), (200, 40)])
def test_the_largest_eigenvalue_of_a_matrix_that_is_not_symmetric(size, iterations):
    generator = torch.Generator().manual_seed(0)
    values = torch.stack([torch.linspace(0, 1, size) ** 3, 2 * torch.linspace(0, 1, size) ** 4])  # [B, N]
    values[:, -1] += 0.5
    frame = torch.eye(size) + 0.2 * torch.randn(2, size, size, generator=generator) / size**0.5
    matrices = frame @ torch.diag_embed(values) @ torch.linalg.inv(frame)
    assert (matrices - matrices.mT).abs().max() > 0.05
    start = torch.randn(2, size, generator=generator)
    value, vector, residual = top_eigenpair(rows_of(matrices), start, iterations)
    assert value.tolist() == pytest.approx([1.5, 2.5], abs=1e-3)
    exact = torch.nn.functional.normalize(frame[..., -1], dim=1)
    assert ((vector * exact).sum(dim=1).abs() > 0.999).all()
    assert (residual < 0.01).all()


def test_the_residual_tells_where_it_has_not_converged():
    matrices = torch.diag(torch.linspace(0, 1, 100))[None]
    start = torch.randn(1, 100, generator=torch.Generator().manual_seed(0))
    assert top_eigenpair(rows_of(matrices), start, 3)[2] > 0.05
