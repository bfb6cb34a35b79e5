"""Is the tracked direction the one of largest curvature? Along trajectories of the demo model, against exact products.

    python quickstart.py --run benchmarks/curvature.py

samples the demo model with a probe at every call and without guidance. At each call the largest eigenvalue of the
Jacobian and its right eigenvector are computed to convergence from exact Jacobian-vector products (forward-mode
differentiation, Arnoldi iteration: a learned Jacobian is not symmetric). Prints a table of means over the images and
writes benchmarks/curvature.png.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from pack import ROOT, load_pack
from safetensors import safe_open
from torch.nn.attention import SDPBackend, sdpa_kernel

PLOT = Path(__file__).with_suffix(".png")
RHO = 7  # of the schedule, Karras et al. 2022, eq. 5
COLUMNS = ("sigma", "exact eigenvalue", "residual", "tracked quotient", "|cosine|", "exact above 1", "tracked above 1")


def load_network(network):
    """The demo model's network with the bundled weights in float32."""
    with safe_open(ROOT / "workflows" / "demo_model" / "model.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["config"])
        weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    made = network(width=facts["width"], blocks=facts["blocks"], dtype=torch.float32)
    made.load_state_dict(weights)
    return made.requires_grad_(False)


def top_eigenpair(product, start, iterations):
    """Largest real eigenvalue [B], right eigenvector [B, N] and relative residual [B] by Arnoldi iteration.

    product: the matrix times vectors [B, N], images apart; start: [B, N].
    """
    basis = [torch.nn.functional.normalize(start, dim=1)]
    hessenberg = torch.zeros(len(start), iterations + 1, iterations, dtype=torch.float64)
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
    images = torch.arange(len(start))
    weights = vectors[images, :, place].real.float()  # [B, iterations]
    vector = torch.nn.functional.normalize(torch.einsum("bi,ibn->bn", weights, torch.stack(basis[:-1])), dim=1)
    value = values.real[images, place].float()
    residual = torch.linalg.vector_norm(product(vector) - value[:, None] * vector, dim=1) / value.abs()
    return value, vector, residual


def measure(arguments):
    """A row for each call: sigma and the means over images."""
    from saddle_free_guidance.curvature import CurvatureTracker
    from saddle_free_guidance.nodes.demo_network import SIGMA_MAX, SIGMA_MIN, DemoUNet, denoise

    network = load_network(DemoUNet)
    ends = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    sigmas = [(ends[0] + share * (ends[1] - ends[0])) ** RHO for share in torch.linspace(0, 1, arguments.steps).tolist()]
    generator = torch.Generator().manual_seed(arguments.seed)
    x = SIGMA_MAX * torch.randn(arguments.images, 3, 32, 32, generator=generator)
    tracker, exact = CurvatureTracker(seed=arguments.seed), None
    for sigma, following in zip(sigmas, [*sigmas[1:], 0.0]):
        predict = lambda y: denoise(network, y, torch.full((len(y),), sigma))  # noqa: B023, E731
        product = lambda v: torch.func.jvp(predict, (x,), (v.reshape(x.shape),))[1].flatten(1)  # noqa: B023, E731
        denoised = predict(x)
        estimate = tracker.update(denoised, predict(tracker.probe(x, std=sigma)), alpha=1.0, std=sigma)
        tracked = torch.nn.functional.normalize(estimate.response[0].flatten(1), dim=1)
        start = torch.randn(x.flatten(1).shape, generator=generator) if exact is None else exact
        value, exact, residual = top_eigenpair(product, start, arguments.iterations)
        cosine = (tracked * exact).sum(dim=1).abs()
        rayleigh = estimate.rayleigh[0]
        means = (value, residual, rayleigh, cosine, (value > 1).float(), (rayleigh > 1).float())
        yield (sigma, *(number.mean().item() for number in means))
        x = denoised + (x - denoised) * following / sigma


def plot(rows):
    """Quotient and cosine against sigma, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    sigma, exact, _, tracked, cosine, *_ = zip(*rows)
    left.plot(sigma, exact, "o-", color="#4477AA", markersize=3, label="largest eigenvalue, exact")
    left.plot(sigma, tracked, "s--", color="#EE6677", markersize=3, label="Rayleigh quotient, tracked")
    left.axhline(1, color="black", linestyle=":", linewidth=1)
    left.legend()
    right.plot(sigma, cosine, "o-", color="#228833", markersize=3)
    right.set_ylim(0, 1.02)
    for axes, name in ((left, "curvature (saddle above 1)"), (right, "|cosine| of tracked and exact direction")):
        axes.set(xscale="log", xlabel="sigma", title=name)
        axes.invert_xaxis()
    figure.savefig(PLOT)


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    load_pack()
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|", flush=True)
    rows = []
    with sdpa_kernel(SDPBackend.MATH):  # the others have no forward-mode derivative
        for row in measure(arguments):
            rows.append(row)
            places = (3 if row[0] < math.pi else 1, 3, 4, 3, 3, 2, 2)
            print("| " + " | ".join(f"{value:.{digits}f}" for value, digits in zip(row, places)) + " |", flush=True)
    plot(rows)


if __name__ == "__main__":
    main()
