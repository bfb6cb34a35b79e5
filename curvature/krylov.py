"""The directions of largest curvature in the span of a few probes: Rayleigh-Ritz on a Krylov space."""

import torch
from torch import Tensor

NEW = 0.03  # of the length of a displacement must be new for a direction: what bends is divided by the square
ALONG = 0.8  # cosine of v and J v, at least, that is counted on: a learned J is a covariance only nearly


def rayleigh_ritz(
    displacements: Tensor, responses: Tensor, count: int, is_exact: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The `count` largest Ritz pairs of J in the span of the displacements, for each image by itself.

    displacements, responses: [rounds, k, B, N], J applied to each displacement, where those of a round were made from
    the responses of the round before, as block power iteration makes them. Lengths are free.
    Returns the Rayleigh quotients [count, B], the unit directions and J times them, both [count, B, N], and by how
    much the noise of a response is longer or shorter in these products, [count, B]; largest quotient first. Where the
    span has fewer directions, the others are zero.

    A quotient knows the symmetric part of J alone (Parlett, The Symmetric Eigenvalue Problem, 1998, chapter 11), of
    which v_i . J v_j is the mean of both orders. is_exact: whether responses have no noise to speak of. Where they
    have, the displacement made from one carries the same noise, which would make quotients too large. So the mean
    counts no more than the one of both whose response came later: there the two are independent.
    """
    rounds, block = displacements.shape[:2]
    vectors = displacements.flatten(0, 1).transpose(0, 1)  # [B, n, N]
    products = responses.flatten(0, 1).transpose(0, 1)
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    scale = torch.where(lengths > 0, 1 / lengths, 0)  # [B, n, 1]
    vectors, products = scale * vectors, scale * products
    gram, mixed = vectors @ vectors.mT, vectors @ products.mT  # [B, n, n]
    symmetric = (mixed + mixed.mT) / 2
    if not is_exact:
        place = torch.arange(rounds * block, device=gram.device) // block
        earlier, later = place[:, None] < place, place[:, None] > place
        clean = torch.where(earlier, mixed, torch.where(later, mixed.mT, symmetric))
        symmetric = torch.where(clean.abs() < symmetric.abs(), clean, symmetric)
    values, weights = _largest(symmetric, _orthonormal(gram), count)  # [B, count], [B, n, count]
    directions = (weights.mT @ vectors).transpose(0, 1)  # [count, B, N]
    images = (weights.mT @ products).transpose(0, 1)
    length = torch.linalg.vector_norm(directions, dim=-1, keepdim=True)
    unit = torch.where(length > 0, 1 / length, 0)
    gain = torch.linalg.vector_norm(weights.mT * scale.mT, dim=-1).T[..., None]  # [count, B, 1]
    return values.T, unit * directions, unit * images, (unit * gain)[..., 0]


def quotient_ahead(rayleigh: Tensor, ahead: Tensor, noise: Tensor) -> Tensor:
    """What the Rayleigh quotient of J v is at least, [count, B], from that of a unit direction v.

    rayleigh: v . J v, [count, B]; ahead: J v, [count, B, N]; noise: the length of what is noise in it, [count, B].
    A covariance is symmetric and has no negative eigenvalue, and so has J. Then v . J J J v times v . J v is at least
    the square of |J v|^2 (Cauchy and Schwarz), so that the quotient of J v is at least |J v|^2 / (v . J v). Noise makes
    |J v| longer, and that of the prediction at x, which is in both responses, v . J v smaller.
    """
    loud = noise.square()
    square = torch.where(loud.isfinite(), ahead.square().sum(dim=-1) - loud, 0).clamp(min=0)
    below = torch.maximum(rayleigh, square.sqrt() * ALONG) + loud
    return torch.maximum(torch.where(square > 0, square / below, 0), rayleigh)


def _orthonormal(gram: Tensor) -> Tensor:
    """Coefficients [B, n, n] of an orthonormal basis, a column each, zero where a vector adds nothing new."""
    columns: list[Tensor] = []
    for index in range(gram.shape[-1]):
        column = torch.zeros_like(gram[:, :, 0])
        column[:, index] = 1
        for _ in range(2):
            for known in columns:
                column = column - (known * (gram @ column[..., None])[..., 0]).sum(dim=-1, keepdim=True) * known
        square = (column * (gram @ column[..., None])[..., 0]).sum(dim=-1, keepdim=True)
        columns.append(torch.where(square > NEW**2, column / square.clamp(min=NEW**2).sqrt(), 0))
    return torch.stack(columns, dim=-1)


def _largest(matrix: Tensor, basis: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues [B, count] of the matrix within the basis, and the coefficients [B, n, count]."""
    inside = basis.mT @ matrix @ basis  # [B, n, n]
    missing = basis.abs().sum(dim=1) == 0
    if inside.shape[-1] == 1:
        return torch.where(missing, 0, inside[..., 0]), basis
    least = inside.flatten(1).abs().sum(dim=1)[:, None] + 1
    inside = torch.where(inside.isfinite(), inside, 0) - torch.diag_embed(torch.where(missing, least, 0))
    values, vectors = (_pair(inside) if inside.shape[-1] == 2 else torch.linalg.eigh(inside))
    values, vectors = values.flip(-1)[:, :count], vectors.flip(-1)[..., :count]
    found = values > -least / 2
    return torch.where(found, values, 0), basis @ torch.where(found[:, None], vectors, 0)


def _pair(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """`eigh` of symmetric [B, 2, 2], without the wait for a GPU that the library's makes."""
    a, b, c = matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 1]
    angle = torch.atan2(2 * b, a - c) / 2
    cosine, sine = angle.cos(), angle.sin()
    large, small = torch.stack([cosine, sine], dim=-1), torch.stack([-sine, cosine], dim=-1)
    spread = torch.hypot((a - c) / 2, b)
    middle = (a + c) / 2
    return torch.stack([middle - spread, middle + spread], dim=-1), torch.stack([small, large], dim=-1)
