"""Does guidance follow the direction of largest curvature? Along trajectories of a demo model, against exact products.

    python quickstart.py --run benchmarks/curvature.py
    python quickstart.py --run benchmarks/curvature.py --model emoji --plot output/curvature.png

samples the model without guidance and asks the guide at every call, with its automatic schedule and with evaluations at
every call. The largest eigenvalue of the Jacobian and its right eigenvector are computed to convergence from exact
Jacobian-vector products (forward-mode differentiation, Arnoldi iteration: a learned Jacobian is not symmetric). A row for
each call, then the means while the exact eigenvalue is above 1: |cosine| between the direction that is followed and the
exact one, 0 where nothing was looked for yet; the quotient over the exact value, at the calls with a look.

    python quickstart.py --run benchmarks/curvature.py --worth --samples 250

samples with exact eigenpairs in the place of the guide's, the push as it makes it, and tells the distance of the pictures.

    python quickstart.py --run benchmarks/curvature.py --along --model emoji --images 32 --steps 8 --dtype bfloat16

samples with guidance, and at every look compares the quotient that the guide reports with exact products in float32:
along the push, and along the direction before it, which is a step of power iteration behind.
"""

import argparse
import itertools
import statistics
from pathlib import Path

import torch
from classifier import in_batches
from demos import DEMOS
from densities import SIGMA_MAX, schedule
from half_precision import fast_half_precision
from measuring import denoiser
from pack import enter_host, load_pack
from torch.nn.attention import SDPBackend, sdpa_kernel

GUIDES = {"automatic": 0, "every call": 1}
COLUMNS = (
    "sigma", "exact eigenvalue", "residual", "exact above 1",
    *(f"{name}: {what}" for name in GUIDES for what in ("quotient", "|cosine|", "acted", "evaluations")),
)
PLACES = (3, 3, 4, 2) + (3, 2, 2, 1) * 2


def top_eigenpair(product, start, iterations):
    """Largest real eigenvalue [B], right eigenvector [B, N] and relative residual [B] by Arnoldi iteration.

    product: the matrix times vectors [B, N], images apart; start: [B, N].
    """
    basis = [torch.nn.functional.normalize(start, dim=1)]
    hessenberg = torch.zeros(len(start), iterations + 1, iterations, dtype=torch.float64, device=start.device)
    for step in range(iterations):
        vector = product(basis[-1])
        for _ in range(2):
            for row, known in enumerate(basis):
                part = (known * vector).sum(dim=1)
                hessenberg[:, row, step] += part.double()
                vector = vector - part[:, None] * known
        length = torch.linalg.vector_norm(vector, dim=1)
        hessenberg[:, step + 1, step] = length.double()
        basis.append(vector / length.clamp(min=1e-12)[:, None])
    values, vectors = torch.linalg.eig(hessenberg[:, :iterations])
    place = values.real.argmax(dim=1)
    images = torch.arange(len(start), device=start.device)
    weights = vectors[images, :, place].real.float()  # [B, iterations]
    vector = torch.nn.functional.normalize(torch.einsum("bi,ibn->bn", weights, torch.stack(basis[:-1])), dim=1)
    value = values.real[images, place].float()
    residual = torch.linalg.vector_norm(product(vector) - value[:, None] * vector, dim=1) / value.abs()
    return value, vector, residual


def jacobian(predict, x):
    """The product of the Jacobian of `predict` at x [B, ...] with vectors [B, N]."""
    return lambda v: torch.func.jvp(predict, (x,), (v.reshape(x.shape),))[1].flatten(1)


def followed(guide):
    """The unit direction [B, N] along which a guide pushes, or would; zero before its first look."""
    return guide._run.ahead[0]


def compared(guide, x, denoised, predict, sigma, exact):
    """What a guide says at x beside the exact eigenvalue [B] and vector [B, N], each [B]: quotient, |cosine|, acted, evaluations."""
    guide(lambda rows, images: predict(rows), x, alpha=1.0, std=sigma)
    call = guide.trace[-1]
    cosine = (followed(guide) * exact).sum(dim=1).abs()
    return call.rayleigh[0], cosine, (call.weight[0] > 0).float(), call.evaluations.float()


def measure(arguments):
    """Of each call sigma, then [B] each: exact eigenvalue, residual, whether it is above 1, and what each guide says."""
    from saddle_free_guidance.guidance import SaddleFree

    demo = DEMOS[arguments.model]
    denoise, generator = denoiser(demo), torch.Generator().manual_seed(arguments.seed)
    x = SIGMA_MAX * torch.randn(arguments.images, 3, demo.side, demo.side, generator=generator)
    guides, exact = [SaddleFree(seed=arguments.seed, refresh_every=refresh) for refresh in GUIDES.values()], None
    for sigma, following in itertools.pairwise(schedule(arguments.steps)):
        predict = lambda y: denoise(y, sigma)  # noqa: B023, E731
        denoised = predict(x)
        start = torch.randn(x.flatten(1).shape, generator=generator) if exact is None else exact
        value, exact, residual = top_eigenpair(jacobian(predict, x), start, arguments.iterations)
        found = [each for guide in guides for each in compared(guide, x, denoised, predict, sigma, exact)]
        yield (sigma, value, residual, (value > 1).float(), *found)
        x = denoised + (x - denoised) * following / sigma


def summary(rows):
    """For each guide the means while the exact eigenvalue is above 1, as rows of a table."""
    lines = ["| while above 1 | mean |cosine| | quotient over exact | acted | evaluations an image, of all calls |", "|---" * 5 + "|"]
    value = torch.stack([row[1] for row in rows])
    for place, name in enumerate(GUIDES):
        rayleigh, cosine, acted, evaluations = (
            torch.stack([row[4 + 4 * place + column] for row in rows]) for column in range(4)
        )
        positive, looked = value > 1, evaluations > 1
        quotient = (rayleigh / value)[positive & looked].mean().item()
        cells = f"{cosine[positive].mean():.3f}", f"{quotient:.3f}", f"{acted[positive].mean():.2f}"
        lines.append(f"| {name} | {' | '.join(cells)} | {evaluations.sum(dim=0).mean():.1f} |")
    return "\n".join(lines)


def quotients_along(guide, exact, x, sigma):
    """Of the images that were looked at in the last call [b] each: sigma, quotient, margin, exact along push and before."""
    run, call = guide._run, guide.trace[-1]
    looked = (call.evaluations > 1).nonzero()[:, 0]
    margin = guide.certainty * run.error[0]
    product = jacobian(exact, x)
    columns = [run.rayleigh[0], margin, *((v * product(v)).sum(dim=1) for v in (run.ahead[0], run.vectors[0]))]
    return torch.stack([torch.full_like(margin, sigma), *columns], dim=1)[looked]


def along(arguments):
    """Rows of a table: by sigma, the guide's quotient beside exact products, and which are above 1."""
    from saddle_free_guidance.curvature import LEAST
    from saddle_free_guidance.guidance import SaddleFree

    demo, dtype = DEMOS[arguments.model], getattr(torch, arguments.dtype)
    exact = denoiser(demo)
    denoise = exact if dtype == torch.float32 else denoiser(demo, dtype=dtype)
    generator, found = torch.Generator().manual_seed(arguments.seed), []
    x = SIGMA_MAX * torch.randn(arguments.images, 3, demo.side, demo.side, generator=generator)
    guide = SaddleFree(scale=8.0, seed=arguments.seed, refresh_every=arguments.refresh_every, dtype=dtype)
    for sigma, following in itertools.pairwise(schedule(arguments.steps)):
        with fast_half_precision():
            guided = guide(lambda rows, images: denoise(rows, sigma), x, alpha=1.0, std=sigma)  # noqa: B023
        found.append(quotients_along(guide, lambda y: exact(y, sigma), x, sigma))  # noqa: B023
        x = guided + (x - guided) * following / sigma
    yield "| sigma | looks | quotient | exact, along the push | exact, before it | found above 1 | exact above 1 | found and not above 1 |"
    yield "|---" * 8 + "|"
    named = [(f"{rows[0, 0]:.3f}", rows) for rows in found if len(rows)]
    for name, rows in [*named, ("all", torch.cat(found))]:
        _, quotient, margin, ahead, before = rows.T
        is_found, is_open = quotient - margin > 1 + LEAST, ahead > 1 + LEAST
        means = " | ".join(f"{each.mean():.3f}" for each in (quotient, ahead, before))
        shares = " | ".join(f"{each.float().mean():.2f}" for each in (is_found, is_open, is_found & (ahead < 1)))
        yield f"| {name} | {len(rows)} | {means} | {shares} |"


class Exact:
    """Pushes along exact eigenvectors as the guide pushes along its own, whole from 1 + ramp on."""

    def __init__(self, scale, iterations, seed, ramp=0.3):
        self.scale, self.iterations, self.ramp = scale, iterations, ramp
        self.generator, self.last, self.before = torch.Generator().manual_seed(seed), None, None

    def __call__(self, predict, x, sigma):
        """The guided prediction at x."""
        from saddle_free_guidance.guidance.run import HALVING, STEEPEST

        fall, self.before = HALVING if self.before is None else min(self.before / sigma, STEEPEST), sigma
        start = torch.randn(x.flatten(1).shape, generator=self.generator) if self.last is None else self.last
        value, vector, _ = top_eigenpair(jacobian(predict, x), start, self.iterations)
        vector = torch.where((vector * start).sum(dim=1, keepdim=True) < 0, -vector, vector)
        self.last = vector
        weight = ((value - 1) / self.ramp).clamp(0, 1)
        push = self.scale * sigma * fall / HALVING * weight[:, None] * vector
        return predict(x) + push.reshape(x.shape)


def pictures(demo, denoise, arguments, make_guide):
    """`samples` pictures [samples, 3, side, side] in batches, each with a guide(predict, x, sigma) of its own, or none."""
    found = []
    for start in range(0, arguments.samples, arguments.batch):
        size = min(arguments.batch, arguments.samples - start)
        generator = torch.Generator().manual_seed(arguments.seed * 1_000_003 + start)
        x, guide = SIGMA_MAX * torch.randn(size, 3, demo.side, demo.side, generator=generator), make_guide(start)
        for sigma, following in itertools.pairwise(schedule(arguments.steps)):
            predict = lambda y: denoise(y, sigma)  # noqa: B023, E731
            denoised = predict(x) if guide is None else guide(predict, x, sigma)
            x = denoised + (x - denoised) * following / sigma
        found.append(x)
    return torch.cat(found).clamp(-1, 1)


def worth(arguments):
    """Rows of a table: the distance of pictures made without, with the guide's and with exact eigenpairs."""
    from saddle_free_guidance.guidance import SaddleFree

    def guided(scale, refresh, start):
        guide = SaddleFree(scale=scale, seed=arguments.seed + start, refresh_every=refresh)
        return lambda predict, x, sigma: guide(lambda rows, images: predict(rows), x, alpha=1.0, std=sigma)

    demo = DEMOS[arguments.model]
    denoise, classifier = denoiser(demo), demo.load_classifier()
    real = demo.real(classifier)
    makers = {"no guidance": lambda start: None}
    for scale in arguments.scales:
        for name, refresh in GUIDES.items():
            makers[f"{name}, scale {scale:g}"] = lambda start, of=(scale, refresh): guided(*of, start)
        makers[f"exact, scale {scale:g}"] = lambda start, scale=scale: Exact(scale, arguments.iterations, arguments.seed + start)
    yield "| | FD | precision | recall |\n" + "|---" * 4 + "|"
    for name, make in makers.items():
        measured = real.measure(in_batches(classifier.features, pictures(demo, denoise, arguments, make)))
        yield f"| {name} | {measured['FD']:.2f} | {measured['precision']:.3f} | {measured['recall']:.3f} |"


def plot(rows, file):
    """Quotients and cosines against sigma, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    sigma, columns = [row[0] for row in rows], [[each.mean().item() for each in column] for column in list(zip(*rows))[1:]]
    left.plot(sigma, columns[0], "o-", color="#4477AA", markersize=3, label="largest eigenvalue, exact")
    for place, (name, colour) in enumerate(zip(GUIDES, ("#EE6677", "#228833"))):
        left.plot(sigma, columns[3 + 4 * place], "s--", color=colour, markersize=3, label=name)
        right.plot(sigma, columns[4 + 4 * place], "o-", color=colour, markersize=3, label=name)
    left.axhline(1, color="black", linestyle=":", linewidth=1)
    left.legend()
    right.set_ylim(0, 1.02)
    for axes, name in ((left, "curvature (saddle above 1)"), (right, "|cosine| of followed and exact direction")):
        axes.set(xscale="log", xlabel="sigma", title=name)
        axes.invert_xaxis()
    figure.savefig(file)


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=DEMOS, default="digits")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--iterations", type=int, help="of Arnoldi (default: 30, with --worth 10, each from the last direction)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--worth", action="store_true", help="sample with exact eigenpairs")
    parser.add_argument("--along", action="store_true", help="compare quotients along the push")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32", help="with --along")
    parser.add_argument("--refresh-every", type=int, default=0, help="with --along")
    parser.add_argument("--scales", type=float, nargs="+", default=[2.0, 4.0], help="with --worth")
    parser.add_argument("--samples", type=int, default=100, help="with --worth")
    parser.add_argument("--batch", type=int, default=50, help="with --worth")
    arguments = parser.parse_args()
    arguments.iterations = arguments.iterations or (10 if arguments.worth else 30)
    enter_host("--cpu")
    load_pack()
    with sdpa_kernel(SDPBackend.MATH):  # the others have no forward-mode derivative
        if arguments.worth or arguments.along:
            for line in (worth if arguments.worth else along)(arguments):
                print(line, flush=True)
            return
        rows = []
        print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
        for row in measure(arguments):
            rows.append(row)
            means = [row[0], *(statistics.mean(each.tolist()) for each in row[1:])]
            print("| " + " | ".join(f"{value:.{places}f}" for value, places in zip(means, PLACES)) + " |", flush=True)
    print("\n" + summary(rows))
    if arguments.plot is not None:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
