"""The one evaluation that tells a density from a Gaussian, before anything is looked for."""

import pytest
import torch
from saddle_free_guidance.guidance import SaddleFree

SIZE = 256
SIGMAS = torch.logspace(1.5, -2, 24, dtype=torch.float64).tolist()
BROAD = 64  # directions of a spread of 8, so that the norm of J is above what a look needs


def gaussian(seed=0):
    """A mean and a covariance with a basis of its own."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)).Q
    spreads = torch.rand(SIZE, generator=generator, dtype=torch.float64) + 0.1
    spreads[:BROAD] = 8.0
    return 3 * torch.randn(SIZE, generator=generator, dtype=torch.float64), basis, spreads.square()


def network(mean, basis, variances, undecided=None):
    """The denoiser of a Gaussian, or of one that is +-undecided along the last direction of its basis."""
    def denoise(y, sigma):
        values = (y - mean) @ basis
        answer = values * (variances / (variances + sigma**2))
        if undecided is not None:
            answer[:, -1] = undecided * torch.tanh(undecided * values[:, -1] / sigma**2)
        return mean + answer @ basis.T
    return denoise


def run(denoise, guide, images=4, alpha=1.0, mask=None):
    """Rows asked beside the sample, [sigma, rows, images, the answers], of Euler steps, and the guide."""
    generator = torch.Generator().manual_seed(1)
    y = SIGMAS[0] * torch.randn(images, SIZE, generator=generator, dtype=torch.float64)
    asked = []
    for sigma, following in zip(SIGMAS, [*SIGMAS[1:], 0.0]):
        calls = []

        def answer(rows, of, sigma=sigma, calls=calls):
            told = denoise(rows / alpha, sigma)
            calls.append((sigma, rows / alpha, of, told))
            return told
        guided = guide(answer, alpha * y, alpha=alpha, std=alpha * sigma, mask=mask)
        asked += calls[1:]
        y = guided + (y - guided) * following / sigma
    return asked, guide


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_a_gaussian_of_any_mean_and_covariance_is_never_looked_at(alpha):
    asked, guide = run(network(*gaussian()), SaddleFree(4.0), alpha=alpha)
    extra = (torch.stack(guide.trace.evaluations) - 1).sum(dim=0)
    assert (extra >= 1).all() and (extra <= 3).all() and len(asked) >= 2
    assert guide._run.schedule.last.isinf().all()


def test_each_answer_of_a_gaussian_is_known_before():
    """What is asked is answered by the prediction at a sample before."""
    denoise, samples = network(*gaussian()), []
    guide = SaddleFree(4.0)
    generator = torch.Generator().manual_seed(1)
    y, compared = SIGMAS[0] * torch.randn(2, SIZE, generator=generator, dtype=torch.float64), 0
    for sigma, following in zip(SIGMAS, [*SIGMAS[1:], 0.0]):
        answers = []

        def answer(rows, images, sigma=sigma, answers=answers):
            answers.append((images, denoise(rows, sigma)))
            return answers[-1][1]
        guided = guide(answer, y, alpha=1.0, std=sigma)
        for images, told in answers[1:]:
            for image, one in zip(images.tolist(), told):
                errors = [torch.linalg.vector_norm(one - sample[image]) for sample in samples]
                assert min(errors) < 1e-10 * torch.linalg.vector_norm(one)
                compared += 1
        samples.append(answers[0][1])
        y = guided + (y - guided) * following / sigma
    assert compared >= 2


def test_what_is_no_gaussian_is_followed_alone():
    """The probe after the test is along the undecided direction, among 64 broad ones."""
    mean, basis, variances = gaussian()
    variances[-1] = 1.0
    _, guide = run(network(mean, basis, variances, undecided=1.0), SaddleFree(1.0), images=8)
    cosines = (guide._run.ahead[0] @ basis[:, -1]).abs()
    assert (cosines > 0.99).sum() >= 6


def test_the_seed_chooses_the_side():
    mean, basis, variances = gaussian()
    variances[-1] = 1.0
    denoise, axis = network(mean, basis, variances, undecided=1.0), basis[:, -1]
    sides = torch.stack([run(denoise, SaddleFree(1.0, seed))[1]._run.ahead[0] @ axis for seed in range(4)]).sign()
    assert not torch.equal(sides[0], sides[1]) and sides.sum().abs() < sides.numel()


def test_under_a_mask_nothing_outside_of_it_is_moved():
    """What a mask protects would have to move in a test; the looks of before are made instead."""
    mask = torch.ones(1, SIZE, dtype=torch.float64)
    mask[:, : SIZE // 4] = 0
    samples = []
    denoise = network(*gaussian())

    def watched(y, sigma):
        samples.append(y)
        return denoise(y, sigma)

    asked, _ = run(watched, SaddleFree(4.0), mask=mask)
    assert asked
    for sigma, rows, images, _ in asked:
        near = [sample for sample in samples if len(sample) == 4 and torch.equal(sample[images][:, :64], rows[:, :64])]
        assert near, sigma
