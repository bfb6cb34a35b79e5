"""One step of shifted power iteration on a denoiser's Jacobian, as functions of tensors."""

import torch

RANK_TOLERANCE = 1e-6


def inner(a, b):
    """Inner product of each image's vectors; a, b: [..., N] -> [...]."""
    return (a * b).sum(dim=-1)


def jacobian_vector_product(difference, *, alpha, std, radius):
    """J v from a forward difference, J = dD/dy in variance-exploding coordinates y = x / alpha.

    difference: D(x + radius * std * v) - D(x), [..., B, N]; alpha, std: floats or [B, 1].
    The result is the difference over radius * sigma_hat with sigma_hat = std / alpha; alpha = 0 (pure noise) gives 0.
    """
    return difference * (alpha / (radius * std))


def orthonormalise(vectors, fallback):
    """Orthonormal vectors with the span of `vectors`, by Gram-Schmidt done twice.

    vectors, fallback: [directions, B, N]; the images are independent. Each result has a positive inner product with its
    vector, so that signs carry over from step to step. A vector that vanishes, or depends on those before it, is
    replaced by its fallback.
    """
    basis = []
    for vector, previous in zip(vectors, fallback):
        length = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)  # [B, 1]
        unit = _without(vector / torch.where(length > 0, length, 1), basis)
        rest = torch.linalg.vector_norm(unit, dim=-1, keepdim=True)
        unit = torch.where(rest > RANK_TOLERANCE, unit / rest, _without(previous, basis))
        basis.append(unit / torch.linalg.vector_norm(unit, dim=-1, keepdim=True))
    return torch.stack(basis)


def _without(vector, basis):
    for _ in range(2):
        for unit in basis:
            vector = vector - inner(unit, vector)[..., None] * unit
    return vector
