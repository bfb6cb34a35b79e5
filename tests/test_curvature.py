"""The curvature core against closed forms, in float64 unless a test is about precision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import Mixture, random_mixture, symmetric_pair
from saddle_free_guidance.curvature import CurvatureTracker, automatic_probe_radius, jacobian_vector_product
from saddle_free_guidance.guidance import saddle_free


def track(mixture, y, sigma, iterations, **options):
    """The estimate after iterating at a fixed y [B, N]."""
    tracker = CurvatureTracker(**options)
    denoised = mixture.denoise(y, sigma)
    for _ in range(iterations):
        probe = tracker.probe(y, std=sigma)
        estimate = tracker.update(denoised, mixture.denoise(probe, sigma), alpha=1.0, std=sigma)
    return estimate


def between(mixture, first, second, share):
    """A point [1, N] on the line between two means."""
    return ((1 - share) * mixture.means[first] + share * mixture.means[second])[None]


def top_eigenpair(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return values[-1], vectors[:, -1]


def isotropic_top_eigenpair(mixture, y, sigma):
    """The same for equal isotropic variances, from the K x N spread alone, for sizes where eigh is too slow."""
    variance = mixture.variances[0, 0]
    weight = mixture._weights((y - mixture.means)[None], mixture.variances + sigma**2)[0]
    posterior = mixture.means + (y - mixture.means) * variance / (variance + sigma**2)
    spread = weight.sqrt()[:, None] * (posterior - weight @ posterior)
    _, singular, right = torch.linalg.svd(spread, full_matrices=False)
    return variance / (variance + sigma**2) + singular[0] ** 2 / sigma**2, right[0]


@pytest.mark.parametrize(
    "size, components, sigma", [(2, 2, 0.5), (3, 5, 0.6), (16, 3, 0.5), (64, 8, 0.6), (256, 20, 0.5)]
)
@pytest.mark.parametrize("share", [0.4, 0.5])
def test_fixed_point_iteration_finds_the_top_eigenpair(size, components, sigma, share):
    mixture = random_mixture(size, components, seed=size)
    y = between(mixture, 0, 1, share)
    value, vector = top_eigenpair(mixture.jacobian(y[0], sigma))
    estimate = track(mixture, y, sigma, 400, probe_radius=1e-4)
    assert abs(estimate.direction[0, 0] @ vector) >= 0.999
    assert estimate.rayleigh[0, 0] == pytest.approx(value.item(), abs=1e-3)
    assert estimate.curvature[0, 0] == pytest.approx(((value - 1) / sigma**2).item(), abs=1e-2)


@pytest.mark.parametrize("size, components", [(1024, 2), (4096, 2), (4096, 40)])
def test_fixed_point_iteration_in_many_dimensions(size, components):
    mixture = random_mixture(size, components, seed=1)
    mixture.variances[:] = 0.05
    y, sigma = between(mixture, 0, 1, 0.5), 0.5
    value, vector = isotropic_top_eigenpair(mixture, y[0], sigma)
    estimate = track(mixture, y, sigma, 200, probe_radius=1e-4)
    assert abs(estimate.direction[0, 0] @ vector) >= 0.999
    assert estimate.rayleigh[0, 0] == pytest.approx(value.item(), abs=1e-3)


def test_the_two_eigen_oracles_agree():
    mixture = random_mixture(32, 6, seed=3)
    mixture.variances[:] = 0.05
    y = between(mixture, 0, 1, 0.45)[0]
    value, vector = top_eigenpair(mixture.jacobian(y, 0.5))
    other_value, other_vector = isotropic_top_eigenpair(mixture, y, 0.5)
    assert value == pytest.approx(other_value.item(), rel=1e-12)
    assert abs(vector @ other_vector) == pytest.approx(1, abs=1e-12)


def test_closed_form_hessian_and_jacobian_match_autograd():
    mixture = random_mixture(5, 4, seed=2)
    y, sigma = between(mixture, 0, 1, 0.3)[0], 0.7
    exact = torch.autograd.functional.hessian(lambda point: mixture.log_density(point, sigma), y)
    assert torch.allclose(mixture.hessian(y, sigma), exact, atol=1e-10)
    jacobian = torch.func.jacrev(lambda point: mixture.denoise(point[None], sigma)[0])(y)
    assert torch.allclose(mixture.jacobian(y, sigma), jacobian, atol=1e-12)


def test_rayleigh_quotient_passes_one_exactly_where_the_hessian_turns_positive():
    mixture = symmetric_pair(6, distance=1.0, variance=0.05)
    signs = set()
    for sigma in (0.3, 0.7, 0.95, 1.0, 1.1, 2.0):  # the top eigenvalue at the saddle changes sign at sigma^2 = 0.95
        for distance in (0.0, 0.2, 0.5, 0.9):
            y = torch.zeros(1, 6, dtype=torch.float64)
            y[0, 0] = distance
            positive = torch.linalg.eigvalsh(mixture.hessian(y[0], sigma))[-1].item() > 0
            estimate = track(mixture, y, sigma, 300, probe_radius=1e-4)
            assert (estimate.rayleigh[0, 0].item() > 1) == positive, (sigma, distance)
            signs.add(positive)
    assert signs == {True, False}


@pytest.mark.parametrize("radius", [1e-3, 1e-2, 1e-1])
def test_jacobian_vector_product_within_its_truncation_error(radius):
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(32, 24, generator=generator, dtype=torch.float64) / 5
    second = torch.randn(24, 32, generator=generator, dtype=torch.float64) / 5
    x, v = torch.randn(2, 32, generator=generator, dtype=torch.float64)
    v = v / v.norm()
    alpha, std = 0.8, 0.6

    def denoise(point):
        return torch.tanh(point @ first) @ second

    _, exact = torch.func.jvp(denoise, (x,), (alpha * v,))
    step = radius * std
    found = jacobian_vector_product(denoise(x + step * v) - denoise(x), alpha=alpha, std=std, radius=radius)
    # |tanh''| <= 0.77, so |D''[v, v]| <= 0.77 |second| |first v|^2; a forward difference errs by half a step of it.
    bound = 0.5 * step * alpha * 0.77 * torch.linalg.matrix_norm(second, 2) * ((v @ first) ** 2).norm()
    assert (found - exact).norm() <= bound * 1.001
    assert (found - exact).norm() < 0.1 * exact.norm()


def euler_run(mixture, sigmas, noise, flow, scale, **options):
    """48 guided Euler steps in variance-exploding or flow coordinates; returns y = x / alpha at the end."""
    tracker = CurvatureTracker(**options)
    alphas = 1 / (1 + sigmas) if flow else torch.ones_like(sigmas)
    stds = sigmas * alphas
    x = noise * stds[0]
    for i in range(len(sigmas) - 1):
        denoise = lambda point: mixture.denoise(point / alphas[i], sigmas[i])  # noqa: B023, E731
        denoised = denoise(x)
        probe = tracker.probe(x, std=stds[i])
        probed = denoise(probe)
        estimate = tracker.update(denoised, probed, alpha=alphas[i], std=stds[i])
        denoised = denoised + saddle_free(estimate, scale=scale)
        noise_part = (x - alphas[i] * denoised) / stds[i]
        x = alphas[i + 1] * denoised + stds[i + 1] * noise_part
    return x / alphas[-1]


@pytest.mark.parametrize("directions", [1, 2])
def test_flow_and_variance_exploding_coordinates_give_the_same_samples(directions):
    mixture = random_mixture(12, 6, seed=5)
    noise = torch.randn(8, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sigmas = torch.cat([torch.logspace(1, -2, 48, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    exploding, flow, plain = (
        euler_run(mixture, sigmas, noise, flow=flow, scale=scale, directions=directions)
        for flow, scale in ((False, 1.0), (True, 1.0), (False, 0.0))
    )
    assert (exploding - flow).abs().max() <= 1e-6
    assert (exploding - plain).abs().max() > 0.05


def test_a_point_on_the_saddle_leaves_it_with_guidance_and_not_without():
    mixture = symmetric_pair(10, distance=1.0, variance=0.02)
    sigmas = torch.cat([torch.linspace(2, 0.05, 47, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    start = torch.zeros(4, 10, dtype=torch.float64)
    assert euler_run(mixture, sigmas, start, flow=False, scale=0.0).abs().max() < 1e-9
    ends = euler_run(mixture, sigmas, start, flow=False, scale=1.0)[:, 0]
    assert (ends.abs() > 0.7).all()
    assert ends.min() < 0 < ends.max()


def test_several_directions_find_the_leading_eigenvalues_in_order():
    mixture = random_mixture(20, 6, seed=8)
    y, sigma = mixture.means.mean(dim=0, keepdim=True), 0.6
    values = torch.linalg.eigvalsh(mixture.jacobian(y[0], sigma)).flip(0)[:3]
    estimate = track(mixture, y, sigma, 2000, probe_radius=1e-5, directions=3)
    assert torch.allclose(estimate.rayleigh[:, 0], values, atol=1e-3)
    gram = estimate.direction[:, 0] @ estimate.direction[:, 0].T
    assert torch.allclose(gram, torch.eye(3, dtype=torch.float64), atol=1e-12)
    acts = estimate.rayleigh[:, 0] > 1
    assert acts.sum() > 0
    expected = 2.0 * sigma * estimate.response[acts, 0].sum(dim=0)
    assert torch.allclose(saddle_free(estimate, scale=2.0)[0], expected, atol=1e-12)


def test_the_sign_is_kept_by_continuity():
    mixture = symmetric_pair(8)
    tracker = CurvatureTracker(seed=3)
    previous = None
    for step, sigma in enumerate(torch.linspace(1.5, 0.3, 60).tolist()):
        y = torch.zeros(2, 8, dtype=torch.float64)
        y[:, 0] = 0.1 * math.sin(step)  # the score along the direction changes sign; the direction must not
        probe = tracker.probe(y, std=sigma)
        estimate = tracker.update(mixture.denoise(y, sigma), mixture.denoise(probe, sigma), alpha=1.0, std=sigma)
        if previous is not None:
            assert ((estimate.direction[0] * previous).sum(dim=1) > 0).all()
        previous = estimate.direction[0]


def test_the_start_is_an_isotropic_unit_vector_that_only_the_seed_and_the_place_decide():
    def start(x, **options):
        tracker = CurvatureTracker(probe_radius=1.0, **options)
        return tracker.probe(x, std=1.0) - x.repeat(options.get("directions", 1), *[1] * (x.ndim - 1))

    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    vectors = start(x).flatten(1)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(start(100 - 7 * x).flatten(1), vectors, atol=1e-12)
    assert torch.allclose(start(x[:1]).flatten(1), vectors[:1], atol=1e-12)
    assert torch.allclose(start(x.float()).double().flatten(1), vectors, atol=1e-6)
    assert (vectors @ vectors.T - torch.eye(3)).abs().max() < 0.3
    assert not torch.allclose(start(x, seed=1).flatten(1), vectors)
    many = torch.cat([start(torch.zeros(64, 16, dtype=torch.float64), seed=seed) for seed in range(64)])
    covariance = many.T @ many / len(many)  # isotropic: identity / 16 up to sampling noise of 1 / sqrt(4096)
    assert (covariance - torch.eye(16) / 16).abs().max() < 5 / 16 / 64
    assert many.mean(dim=0).abs().max() < 5 * 0.25 / 64


def test_image_keys_follow_an_image_through_any_batch():
    x = torch.zeros(3, 5)
    batch = CurvatureTracker(image_keys=[7, 8, 9]).probe(x, std=1.0)
    alone = CurvatureTracker(image_keys=[8]).probe(x[1:2], std=1.0)
    assert torch.equal(batch[1:2], alone)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["denoised", "probed"])
@pytest.mark.parametrize("directions", [1, 2])
def test_values_that_are_not_finite_stop_their_own_image_only(bad, where, directions):
    mixture = symmetric_pair(6)
    y, sigma = 0.1 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 0.5

    def steps(tracker, corrupt):
        estimates = []
        for step in range(6):
            denoised, probed = mixture.denoise(y, sigma), mixture.denoise(tracker.probe(y, std=sigma), sigma)
            if corrupt and step == 4:
                (denoised if where == "denoised" else probed[-3:])[1, 2] = bad  # the last direction's probe
            estimates.append(tracker.update(denoised, probed, alpha=1.0, std=sigma))
        return estimates

    clean = steps(CurvatureTracker(directions=directions), False)
    dirty = steps(CurvatureTracker(directions=directions), True)
    assert (saddle_free(clean[4], scale=1.0)[1] != 0).any()
    correction = saddle_free(dirty[4], scale=1.0)
    assert torch.equal(correction[1], torch.zeros(6, dtype=torch.float64))
    others = [0, 2]
    assert torch.equal(correction[others], saddle_free(clean[4], scale=1.0)[others])
    assert torch.equal(dirty[4].response[:, 1], dirty[3].response[:, 1])
    assert torch.equal(dirty[4].rayleigh[:, 1], dirty[3].rayleigh[:, 1])
    assert torch.equal(dirty[5].direction[:, 1], dirty[4].direction[:, 1])
    assert torch.equal(saddle_free(dirty[5], scale=1.0)[others], saddle_free(clean[5], scale=1.0)[others])
    assert (saddle_free(dirty[5], scale=1.0)[1] != 0).any()


def test_pure_noise_of_a_flow_model_gives_no_correction_and_still_turns_the_direction():
    tracker = CurvatureTracker()
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    probe = tracker.probe(x, std=1.0)
    matrix = torch.diag(torch.arange(1.0, 7.0))
    estimate = tracker.update(x @ matrix, probe @ matrix, alpha=torch.zeros(2), std=torch.ones(2))
    assert torch.equal(saddle_free(estimate, scale=5.0), torch.zeros(2, 6))
    moved = (tracker.probe(x, std=1.0) - x) / 0.1
    expected = torch.nn.functional.normalize(estimate.direction[0] @ matrix, dim=1)
    assert torch.allclose(moved, expected, atol=1e-4)


def test_a_vanishing_response_keeps_the_direction():
    tracker = CurvatureTracker(directions=2)
    x = torch.randn(2, 6, dtype=torch.float64)
    before = tracker.probe(x, std=1.0)
    estimate = tracker.update(torch.zeros_like(x), torch.zeros(4, 6, dtype=torch.float64), alpha=1.0, std=1.0)
    assert torch.equal(estimate.rayleigh, torch.zeros(2, 2, dtype=torch.float64))
    assert torch.allclose(tracker.probe(x, std=1.0), before, atol=1e-12)


def test_reset_and_a_new_shape_begin_anew():
    mixture = symmetric_pair(6)
    y = torch.full((2, 6), 0.1, dtype=torch.float64)
    tracker = CurvatureTracker()
    first = tracker.probe(y, std=0.5)
    tracker.update(mixture.denoise(y, 0.5), mixture.denoise(first, 0.5), alpha=1.0, std=0.5)
    assert not torch.equal(tracker.probe(y, std=0.5), first)
    tracker.reset()
    assert torch.equal(tracker.probe(y, std=0.5), first)
    assert tracker.probe(torch.zeros(1, 4, 3), std=0.5).shape == (1, 4, 3)


@pytest.mark.parametrize(
    "broken, words",
    [
        (lambda: CurvatureTracker(probe_radius=0), "probe_radius is 0"),
        (lambda: CurvatureTracker(directions=0), "directions is 0"),
        (lambda: CurvatureTracker(directions=9).probe(torch.zeros(1, 4), std=1.0), "only 4 values"),
        (lambda: CurvatureTracker().probe(torch.zeros(4), std=1.0), r"shape \(4,\)"),
        (lambda: CurvatureTracker(image_keys=[1]).probe(torch.zeros(2, 4), std=1.0), "1 entries for a batch of 2"),
    ],
)
def test_bad_input_is_named(broken, words):
    with pytest.raises(ValueError, match=words):
        broken()


def test_update_wants_a_probe_and_matching_shapes():
    with pytest.raises(RuntimeError, match="before probe"):
        CurvatureTracker().update(torch.zeros(1, 4), torch.zeros(1, 4), alpha=1.0, std=1.0)
    tracker = CurvatureTracker(directions=2)
    tracker.probe(torch.zeros(3, 4), std=1.0)
    with pytest.raises(ValueError, match=r"2 x the batch"):
        tracker.update(torch.zeros(3, 4), torch.zeros(3, 4), alpha=1.0, std=1.0)


SHAPES = st.sampled_from([(4, 6, 6), (16, 2, 3, 3), (1, 40), (7,), (3, 1, 1)])
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16])


@settings(max_examples=80, deadline=None)
@given(
    shape=SHAPES, batch=st.integers(1, 4), directions=st.integers(1, 3), dtype=DTYPES, seed=st.integers(0, 2**64 - 1),
    alpha=st.floats(0.1, 1), std=st.floats(0.01, 10), per_image=st.booleans(),
)
def test_any_shape_dtype_and_batch(shape, batch, directions, dtype, seed, alpha, std, per_image):
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    if per_image:
        alpha, std = torch.full((batch,), alpha), torch.full((batch,), std)
    tracker = CurvatureTracker(seed=seed, directions=directions)
    probe = tracker.probe(x, std=std)
    assert probe.shape == (directions * batch, *shape) and probe.dtype == dtype
    estimate = tracker.update(3 * x, 3 * probe, alpha=alpha, std=std)
    math_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    assert estimate.direction.shape == estimate.response.shape == (directions, batch, *shape)
    assert estimate.rayleigh.shape == (directions, batch)
    assert {t.dtype for t in (estimate.direction, estimate.response, estimate.rayleigh)} == {math_dtype}
    correction = saddle_free(estimate, scale=1.0)
    assert correction.shape == x.shape and correction.dtype == dtype
    if math_dtype == torch.float64:
        exact = 3.0 * (float(alpha[0]) if per_image else alpha)
        assert torch.allclose(estimate.rayleigh, torch.full_like(estimate.rayleigh, exact), rtol=1e-4)


def test_an_image_is_guided_alike_in_any_batch():
    mixture = random_mixture(10, 4, seed=4)
    y = torch.randn(5, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    batch = track(mixture, y, 0.6, 5)
    for i in range(5):
        alone = track(mixture, y[i : i + 1], 0.6, 5, image_keys=[i])
        assert torch.allclose(alone.response[:, 0], batch.response[:, i], atol=1e-9)


def test_automatic_radius_grows_with_rounding_and_size_and_falls_with_curvature():
    def radius(dtype, size, rayleigh=1.0):
        return automatic_probe_radius(dtype, size, torch.tensor(rayleigh, dtype=torch.float64)).item()

    for rayleigh in (0.0, 0.1, 1.0, 2.0):
        assert radius(torch.float32, 64, rayleigh) == radius(torch.float32, 3072, rayleigh) == pytest.approx(0.1)
    assert radius(torch.float32, 64) <= radius(torch.float16, 64) < radius(torch.bfloat16, 64)
    assert radius(torch.float16, 64) < radius(torch.float16, 16384)
    assert radius(torch.bfloat16, 64) == pytest.approx(0.3, abs=0.01)
    assert radius(torch.bfloat16, 16384) == pytest.approx(1.2, abs=0.01)
    assert radius(torch.bfloat16, 16384, 16.0) == pytest.approx(radius(torch.bfloat16, 16384) / 8)
    assert radius(torch.bfloat16, 16384, 0.0) == radius(torch.bfloat16, 16384, -3.0) == 16.0
    assert radius(torch.bfloat16, 64, 0.0) == 1.0  # an eighth of the length of the noise


def test_a_radius_that_follows_the_curvature_is_asked_for_every_image_and_direction():
    mixture = symmetric_pair(6)
    y, sigma = torch.full((3, 6), 0.1, dtype=torch.float64), 0.5
    asked = []

    def radius(rayleigh):
        asked.append(rayleigh)
        return 0.01 + 0.001 * torch.arange(rayleigh.numel(), dtype=torch.float64).reshape(rayleigh.shape)

    tracker = CurvatureTracker(directions=2, probe_radius=radius)
    for _ in range(2):
        probe = tracker.probe(y, std=sigma)
        estimate = tracker.update(mixture.denoise(y, sigma), mixture.denoise(probe, sigma), alpha=1.0, std=sigma)
        moved = torch.linalg.vector_norm(probe.reshape(2, 3, 6) - y, dim=-1) / sigma
        assert torch.allclose(moved, radius(asked[-1]), atol=1e-12)
    assert torch.equal(asked[0], torch.zeros(2, 3))
    exact = mixture.jacobian(y[0], sigma)
    expected = (estimate.direction @ exact * estimate.direction).sum(dim=-1)
    assert torch.allclose(estimate.rayleigh, expected, atol=0.05)
    assert estimate.rayleigh.max() > 1


def test_mixture_of_one_gaussian_is_the_linear_denoiser():
    mixture = Mixture(torch.zeros(1, 3), torch.full((1, 3), 0.25))
    y = torch.randn(2, 3, dtype=torch.float64)
    assert torch.allclose(mixture.denoise(y, 0.5), y / 2)
