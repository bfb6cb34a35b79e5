"""Rayleigh-Ritz on a Krylov space against `eigh`, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from saddle_free_guidance.curvature import quotient_ahead, rayleigh_ritz


def matrices(batch, size, seed=0):
    """Symmetric matrices [B, N, N] with eigenvalues on both sides of 0 and 1."""
    values = torch.randn(batch, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (values + values.mT) / math.sqrt(2 * size) + 0.5 * torch.eye(size, dtype=torch.float64)


def krylov(matrix, rounds, block, seed=1):
    """Displacements and responses [rounds, k, B, N] of block power iteration, lengths at random."""
    generator = torch.Generator().manual_seed(seed)
    batch, size = matrix.shape[:2]
    displacement = torch.randn(block, batch, size, generator=generator, dtype=torch.float64)
    asked, told = [], []
    for _ in range(rounds):
        asked.append(displacement)
        told.append((matrix @ displacement[..., None])[..., 0])
        displacement = told[-1] * (0.1 + torch.rand(block, batch, 1, generator=generator, dtype=torch.float64))
    return torch.stack(asked), torch.stack(told)


def exact_pairs(matrix, displacements, count):
    """Largest eigenvalues [count] and vectors [count, N] of one matrix within the span of displacements [n, N]."""
    basis = torch.linalg.qr(displacements.T)[0]
    values, weights = torch.linalg.eigh(basis.T @ matrix @ basis)
    return values.flip(0)[:count], (basis @ weights).T.flip(0)[:count]


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("directions", [1, 2, 3, 4])
def test_the_pairs_are_those_of_the_projected_matrix(rounds, directions):
    matrix = matrices(3, 24)
    asked, told = krylov(matrix, rounds, directions)
    values, vectors, images, gain = rayleigh_ritz(asked, told, directions)
    assert values.shape == gain.shape == (directions, 3) and vectors.shape == images.shape == (directions, 3, 24)
    for image in range(3):
        span = asked[:, :, image].flatten(0, 1)
        expected, lines = exact_pairs(matrix[image], span, directions)
        assert torch.allclose(values[:, image], expected, atol=1e-9)
        assert torch.allclose((vectors[:, image] * lines).sum(dim=1).abs(), torch.ones_like(expected), atol=1e-9)
        assert torch.allclose(images[:, image], vectors[:, image] @ matrix[image], atol=1e-9)
        weights = torch.linalg.lstsq(span.T, vectors[:, image].T).solution  # of each displacement in a direction
        assert torch.allclose(gain[:, image], weights.norm(dim=0), rtol=1e-6)


@pytest.mark.parametrize("size, rounds, directions", [(1, 1, 1), (3, 1, 3), (4, 1, 4)])
def test_a_span_of_everything_gives_the_exact_eigenpairs(size, rounds, directions):
    matrix = matrices(5, size, seed=2)
    values, vectors, _, _ = rayleigh_ritz(*krylov(matrix, rounds, directions), directions)
    exact, lines = torch.linalg.eigh(matrix)
    assert torch.allclose(values.T, exact.flip(1)[:, :directions], atol=1e-6)
    found = (vectors.transpose(0, 1) * lines.mT.flip(1)[:, :directions]).sum(dim=2).abs()
    assert torch.allclose(found, torch.ones_like(found), atol=1e-6)


def test_more_rounds_come_closer_to_the_largest_eigenvalue():
    matrix = matrices(4, 40, seed=3)
    largest = torch.linalg.eigvalsh(matrix)[:, -1]
    gaps = [(largest - rayleigh_ritz(*krylov(matrix, rounds, 1), 1)[0][0]).mean().item() for rounds in (1, 2, 4, 8)]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.1 * gaps[0] and gaps[-1] >= 0


def test_lengths_of_probes_change_nothing_but_how_much_noise_counts():
    asked, told = krylov(matrices(3, 12), 2, 2)
    factors = torch.tensor([[2.0, 0.01], [30.0, 1.0]], dtype=torch.float64)[:, :, None, None]
    first, second = rayleigh_ritz(asked, told, 2), rayleigh_ritz(factors * asked, factors * told, 2)
    for before, after in zip(first[:3], second[:3]):
        assert torch.allclose(before, after, atol=1e-9)
    twice = rayleigh_ritz(2 * asked, 2 * told, 2)
    assert torch.allclose(twice[3], first[3] / 2, rtol=1e-9)


@pytest.mark.parametrize("copy", [1.0, -3.0, 1e-6])
@pytest.mark.parametrize("beside", [0.0, 1e-3])
def test_a_direction_that_adds_nothing_new_is_left_out(copy, beside):
    matrix = matrices(2, 10)
    asked, _ = krylov(matrix, 1, 2)
    asked[:, 1] = copy * (asked[:, 0] + beside * asked[:, 1])
    told = (matrix @ asked[..., None])[..., 0]
    values, vectors, images, gain = rayleigh_ritz(asked, told, 2)
    line = torch.nn.functional.normalize(asked[0, 0], dim=1)
    assert torch.allclose(values[0], (line[:, None] @ matrix @ line[..., None])[:, 0, 0], atol=1e-2)
    assert torch.allclose((vectors[0] * line).sum(dim=1).abs(), torch.ones(2, dtype=torch.float64), atol=1e-5)
    for nothing in (values[1], vectors[1], images[1], gain[1]):
        assert torch.equal(nothing, torch.zeros_like(nothing))


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("directions", [1, 2, 3])
def test_no_displacement_at_all_is_no_direction(rounds, directions):
    nothing = torch.zeros(rounds, directions, 2, 6, dtype=torch.float64)
    for found in rayleigh_ritz(nothing, nothing, directions):
        assert torch.equal(found, torch.zeros_like(found))


def test_a_direction_of_negative_curvature_is_not_taken_for_a_missing_one():
    matrix = -torch.diag(torch.tensor([5.0, 7.0, 9.0], dtype=torch.float64))[None]
    values = rayleigh_ritz(*krylov(matrix, 1, 3), 3)[0]
    assert torch.allclose(values[:, 0], torch.tensor([-5.0, -7.0, -9.0], dtype=torch.float64), atol=1e-9)


def naive(asked, told):
    """The largest Ritz value [B] from two displacements, every product alike."""
    lengths = asked[:, 0].norm(dim=-1, keepdim=True)
    vectors, products = (asked[:, 0] / lengths).transpose(0, 1), (told[:, 0] / lengths).transpose(0, 1)
    mixed = vectors @ products.mT
    inverse = torch.linalg.inv(torch.linalg.cholesky(vectors @ vectors.mT))
    return torch.linalg.eigvalsh(inverse @ (mixed + mixed.mT) / 2 @ inverse.mT)[:, -1]


@pytest.mark.parametrize("level", [0.3, 0.9])
def test_independent_noise_makes_no_quotient_larger(level):
    """J = level * 1, noise as long as the response without: each Ritz value of many images has the mean `level`."""
    batch, size, generator = 256, 2048, torch.Generator().manual_seed(4)
    noise = level / math.sqrt(size) * torch.randn(2, 1, batch, size, generator=generator, dtype=torch.float64)
    first = torch.nn.functional.normalize(torch.randn(1, batch, size, generator=generator, dtype=torch.float64), dim=-1)
    answer = level * first + noise[0]
    second = torch.nn.functional.normalize(answer, dim=-1)
    asked, told = torch.stack([first, second]), torch.stack([answer, level * second + noise[1]])
    assert naive(asked, told).mean() > 1.1 * level
    values = rayleigh_ritz(asked, told, 1)[0][0]
    assert values.mean().item() == pytest.approx(level, rel=0.04)


@pytest.mark.parametrize("is_exact", [True, False])
def test_of_a_matrix_that_is_not_symmetric_exact_answers_give_the_quotient_itself(is_exact):
    """Where answers have noise, those that came later have a say of their own, and it is about that."""
    generator = torch.Generator().manual_seed(3)
    matrix = matrices(16, 24) + 0.3 * torch.randn(16, 24, 24, generator=generator, dtype=torch.float64) / math.sqrt(24)
    asked, told = krylov(matrix, 2, 1)
    values, vectors, images, _ = rayleigh_ritz(asked, told, 1, is_exact)
    assert torch.allclose(images[0, :, None], vectors[0, :, None] @ matrix.mT, atol=1e-9)
    quotients = (vectors * images).sum(dim=-1)
    if not is_exact:
        assert (values - quotients).abs().max() > 0.05  # the answers that came later are no whole truth
        return
    assert torch.allclose(values, quotients, atol=1e-9)
    for image in range(16):
        symmetric = (matrix[image] + matrix[image].T) / 2
        assert torch.allclose(values[:, image], exact_pairs(symmetric, asked[:, 0, image], 1)[0], atol=1e-9)


def covariances(batch, size, seed=0):
    """Matrices [B, N, N] without a negative eigenvalue, some of those above 1."""
    values = torch.randn(batch, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values @ values.mT / size / 2


@settings(max_examples=40, deadline=None)
@given(size=st.integers(2, 24), rounds=st.integers(1, 3), directions=st.integers(1, 2), seed=st.integers(0, 99))
def test_the_quotient_ahead_is_at_most_that_of_j_v_and_at_least_that_of_v(size, rounds, directions, seed):
    matrix = covariances(4, size, seed)
    values, _, images, _ = rayleigh_ritz(*krylov(matrix, rounds, directions, seed), directions, True)
    ahead = quotient_ahead(values, images, torch.zeros_like(values))
    further = (images[:, :, None] @ matrix)[:, :, 0]
    exact = (images * further).sum(dim=-1) / images.square().sum(dim=-1).clamp(min=1e-300)
    assert (ahead >= values).all() and (ahead <= exact + 1e-9).all()


def test_the_quotient_ahead_is_near_that_of_j_v():
    """After two rounds of 200 values; that of v itself is lower by more."""
    matrix = covariances(32, 200)
    values, _, images, _ = rayleigh_ritz(*krylov(matrix, 2, 1), 1, True)
    further = (images[:, :, None] @ matrix)[:, :, 0]
    exact = (images * further).sum(dim=-1) / images.square().sum(dim=-1)
    ahead = quotient_ahead(values, images, torch.zeros_like(values))
    assert (values / exact).mean() < 0.88 < 0.93 < (ahead / exact).mean() < 1


def test_the_quotient_ahead_of_an_eigenvector_is_its_eigenvalue():
    values, vectors = torch.linalg.eigh(covariances(3, 12))
    values, vectors = values[:, -2:].T, vectors[:, :, -2:].permute(2, 0, 1)
    assert torch.allclose(quotient_ahead(values, values[..., None] * vectors, 0 * values), values, atol=1e-9)


def test_noise_makes_the_quotient_ahead_no_larger():
    """Of J = 0.9 and noise of a known length, and what cannot be told from noise counts for nothing."""
    generator = torch.Generator().manual_seed(6)
    vectors, noise = torch.randn(2, 1, 64, 500, generator=generator, dtype=torch.float64) / math.sqrt(500)
    vectors, level = torch.nn.functional.normalize(vectors, dim=-1), 0.4
    images = 0.9 * vectors + level * noise
    values = (vectors * images).sum(dim=-1)
    none = torch.zeros_like(values)
    assert quotient_ahead(values, images, none).mean() > 1.05
    assert quotient_ahead(values, images, none + level).max() < 1
    assert torch.equal(quotient_ahead(values, images, none + math.inf), values)


def test_a_direction_far_from_its_answer_counts_on_no_more_than_a_covariance_could_tell():
    """J = diag(1, -0.6) is none: |J v|^2 / (v . J v) of a v between would be a saddle."""
    vector, values = torch.tensor([0.7, math.sqrt(0.51)]).double(), torch.tensor([1.0, -0.6]).double()
    images = (values * vector)[None, None]
    quotient = (images * vector).sum(dim=-1)
    assert images.square().sum() / quotient > 3
    assert 0.9 < quotient_ahead(quotient, images, 0 * quotient) < 1.05


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("directions", [1, 2, 3])
def test_values_that_are_not_finite_stay_in_their_image(bad, directions):
    asked, told = krylov(matrices(3, 8), 2, directions)
    clean = rayleigh_ritz(asked, told, directions)
    told[1, 0, 1, 2] = bad
    dirty = rayleigh_ritz(asked, told, directions)
    for before, after in zip(clean, dirty):
        assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])


@settings(max_examples=40, deadline=None)
@given(rounds=st.integers(1, 3), block=st.integers(1, 4), batch=st.integers(1, 4), seed=st.integers(0, 99))
def test_an_image_has_the_same_pairs_in_any_batch(rounds, block, batch, seed):
    asked, told = krylov(matrices(batch, 20, seed), rounds, block, seed)
    together = rayleigh_ritz(asked, told, block)
    for image in range(batch):
        alone = rayleigh_ritz(asked[:, :, image : image + 1], told[:, :, image : image + 1], block)
        for many, one in zip(together, alone):
            assert torch.allclose(many[:, image], one[:, 0], rtol=1e-6, atol=1e-8)
