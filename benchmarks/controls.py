"""Does guidance find what is there, and nothing where nothing is? Densities of which everything is known.

    python quickstart.py --run benchmarks/controls.py
    python quickstart.py --run benchmarks/controls.py negative --sizes 262144 --formats bf16 --noise 3
    python quickstart.py --run benchmarks/controls.py positive --images 8

negative: log-concave densities, in which no saddle is; a row for each size, format and spectrum holds the worst over
the noises: the share of calls at which guidance acted, the largest change of a picture over the change that its rounding
makes, and the extra evaluations of a picture.
positive: a saddle among dozens of directions that are all but one; of the calls at which it is open the share with a push
along it (|cosine| > 0.7), and evaluations of a picture a step. Beside it what Arnoldi iteration from a white start finds with exact
products at these same calls, with as many a call as guidance made in the mean, with three, with six, and with all of a run at once.
two: a coarse and a fine saddle, and saddles of large quotients before a fine one.
"""

import argparse
import functools
import itertools
import math

import torch
from densities import (
    FORMATS,
    SHAPES,
    SIGMA_MAX,
    Density,
    Mode,
    Network,
    broad,
    from_broad_to_fine,
    power_law,
    run,
    schedule,
    waves,
)
from pack import load_pack

from curvature import top_eigenpair

SPECTRA = {"8 broad": broad} | {f"k^-{power:g}": functools.partial(power_law, exponent=power) for power in (1, 1.5, 2, 2.5)}
NOISES = (0.2, 1.0, 3.0)
SCHEDULES = {"automatic": 0, "every call": 1}
ALONG = 0.7
RESOLVED, NEARLY_ONE = 40, 0.99  # so many directions have at least this eigenvalue where the saddle opens
RANK = 64  # of the saddle's wave from broad to fine
FINE = 0.75
PARTS = ("negative", "positive", "two")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_guide(dtype, refresh, scale, seed=0):
    """The guide of the pack."""
    from saddle_free_guidance.guidance import SaddleFree

    return SaddleFree(scale=scale, seed=seed, refresh_every=refresh, dtype=dtype)


def row(*cells):
    """A row of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def heading(*cells):
    """The heading of a Markdown table."""
    return row(*cells) + "\n" + "|---" * len(cells) + "|"


def false_alarms(density, dtype, refresh, noise, coloured, *, images, steps, scale, plain=None):
    """Share of calls acted on, largest change over that of rounding, extra evaluations an image, and the pictures without."""
    sigmas, y = schedule(steps), density.noise(images, 0)

    def network(seed):
        return Network(density.denoise, dtype, noise, coloured, seed)

    plain = [run(network(seed), y, sigmas) for seed in range(2)] if plain is None else plain
    counted, guide = network(0), make_guide(dtype, refresh, scale)
    guided = run(counted, y, sigmas, guide)
    acted = torch.stack([(call.weight > 0).any(dim=0).float() for call in guide.trace]).mean().item()
    lengths = [torch.linalg.vector_norm((other - plain[0]).flatten(1), dim=1) for other in (guided, plain[1])]
    return acted, (lengths[0] / lengths[1]).max().item(), counted.evaluations / images - steps, plain


def negative(arguments):
    """The rows of the negative controls, worst over the noises."""
    columns = [f"{name}: {what}" for name in SCHEDULES for what in ("calls acted on", "change", "extra evaluations")]
    yield heading("size", "format", "spectrum", *columns)
    for size, name, spectrum in itertools.product(arguments.sizes, arguments.formats, SPECTRA):
        density = Density(SHAPES[size], SPECTRA[spectrum](SHAPES[size]).to(DEVICE))
        worst = dict.fromkeys(SCHEDULES, (0.0, 0.0, 0.0))
        for noise, coloured in itertools.product(arguments.noise, (False, True)):
            plain = None
            for each, refresh in SCHEDULES.items():
                *found, plain = false_alarms(
                    density, FORMATS[name], refresh, noise, coloured, images=arguments.images, steps=arguments.steps,
                    scale=arguments.scale, plain=plain,
                )
                worst[each] = tuple(map(max, worst[each], found))
        cells = [f"{value:.{digits}f}" for each in worst.values() for value, digits in zip(each, (3, 2, 1))]
        yield row(f"{size:,}", name, spectrum, *cells)


def hidden_saddle(shape, mean=1.0, spread=0.3):
    """One bimodal wave over a background of variances that fall as k^-1.5, dozens of them resolved where it opens."""
    place = from_broad_to_fine(shape)[RANK].item()
    variances = power_law(shape, 1.5)
    largest = NEARLY_ONE / (1 - NEARLY_ONE) * mean**2 * RESOLVED**1.5
    return Density(shape, (variances * (largest / variances.max())).to(DEVICE), (Mode(place, mean, spread),))


def axis(shape, place):
    """The unit wave of a place, [N]."""

    unit = torch.zeros(math.prod(shape))
    unit[place] = 1
    return waves(unit.reshape(shape)).flatten()


class Watch:
    """What happens at the calls of a run while modes of a density are open: [calls, B] each."""

    def __init__(self, density):
        self.density = density
        self.axes = [axis(density.shape, mode.place).to(DEVICE) for mode in density.modes]
        self.open, self.along, self.points = [], [], []  # a list of [modes, B] a call

    def __call__(self, y, sigma, push, guide):
        values = self.density.eigenvalues(y, sigma)
        self.open.append(torch.stack([values[:, mode.place] > 1 for mode in self.density.modes]))
        flat = torch.nn.functional.normalize(push.flatten(1), dim=1)
        self.along.append(torch.stack([(flat @ axis).abs() > ALONG for axis in self.axes]))
        self.points.append(values)

    def share(self, mode=0):
        """Of the open calls of a mode, those with a push along it."""
        open_, along = (torch.stack(each)[:, mode] for each in (self.open, self.along))
        return ((open_ & along).sum() / open_.sum().clamp(min=1)).item()

    def calls(self, mode=0):
        """Open calls of a mode, an image."""
        return torch.stack(self.open)[:, mode].float().sum(dim=0).mean().item()

    def images(self, mode):
        """Of the images in which a mode was open, the share with a push along it while it was."""
        open_, along = (torch.stack(each)[:, mode] for each in (self.open, self.along))
        return ((open_ & along).any(dim=0).sum() / open_.any(dim=0).sum().clamp(min=1)).item()

    def krylov(self, products, seed=0):
        """Of the open calls of the first mode, those at which Arnoldi iteration from a white start finds its direction."""
        found = []
        place = self.density.modes[0].place
        generator = torch.Generator().manual_seed(seed)
        for values, open_ in zip(self.points, self.open):
            if open_[0].any():
                values = values[open_[0]]
                start = torch.randn(values.shape, generator=generator).to(DEVICE)
                vector = top_eigenpair(lambda v: values * v, start, products)[1]  # noqa: B023
                ahead = torch.nn.functional.normalize(values * vector, dim=1)
                found.append(ahead[:, place].abs() > ALONG)
        return torch.cat(found).float().mean().item() if found else math.nan


def watched(density, dtype, refresh, arguments, y=None, seed=0):
    """A Watch of a guided run, and the evaluations of an image a step."""
    y = density.noise(arguments.images, seed) if y is None else y
    network, watch = Network(density.denoise, dtype, seed=seed), Watch(density)
    run(network, y, schedule(arguments.steps), make_guide(dtype, refresh, arguments.scale, seed), watch)
    return watch, network.evaluations / len(y) / arguments.steps


def positive(arguments):
    """The rows of the positive controls."""
    yield heading(
        "size", "format", "schedule", "open calls an image", "pushed along", "evaluations a step", "Krylov, as many a call",
        "Krylov, three a call", "Krylov, six a call", "Krylov, a run's at once",
    )
    for size, name, (each, refresh) in itertools.product(arguments.sizes, arguments.formats, SCHEDULES.items()):
        if size == min(SHAPES):
            continue
        watch, evaluations = watched(hidden_saddle(SHAPES[size]), FORMATS[name], refresh, arguments)
        extra = arguments.steps * (evaluations - 1)
        bounds = [watch.krylov(count) for count in (max(1, round(evaluations - 1)), 3, 6, max(1, round(extra)))]
        yield row(
            f"{size:,}", name, each, f"{watch.calls():.2f}", f"{watch.share():.2f}", f"{evaluations:.2f}",
            *(f"{bound:.2f}" for bound in bounds),
        )


def two_saddles(shape, coarse, fine=FINE, sharp=0.05):
    """A coarse saddle at the broadest wave and a fine one, over narrow directions; means of each."""
    order = from_broad_to_fine(shape)
    modes = [Mode(order[rank].item(), mean, sharp * mean) for rank, mean in ((0, coarse), (RANK, fine))]
    return Density(shape, torch.full((math.prod(shape),), 1e-4, device=DEVICE), modes)


def two(arguments):
    """Rows for a coarse saddle before a fine one: separations 10 and 1.5, and quotients of 6, 20 and 100 at the start."""
    yield heading("coarse saddle", "format", "schedule", "largest quotient", "coarse: pushed along", "fine: pushed along",
                  "fine: images pushed", "evaluations a step")
    shape = SHAPES[min(SHAPES)]
    cases = {"separation 10": 5.0} | {f"quotient {value}": SIGMA_MAX * math.sqrt(value) for value in (6, 20, 100)}
    for (case, mean), name, (each, refresh) in itertools.product(cases.items(), arguments.formats, SCHEDULES.items()):
        density = two_saddles(shape, mean)
        watch, evaluations = watched(density, FORMATS[name], refresh, arguments)
        largest = max(values.max().item() for values in watch.points)
        yield row(case, name, each, f"{largest:.1f}", f"{watch.share(0):.2f}", f"{watch.share(1):.2f}",
                  f"{watch.images(1):.2f}", f"{evaluations:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--sizes", type=int, nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--noise", type=float, nargs="+", default=NOISES, help="of the negative controls")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--scale", type=float, default=1.0)
    arguments = parser.parse_args()
    load_pack()
    for part in arguments.parts:
        print(f"\n{part}\n")
        for line in {"negative": negative, "positive": positive, "two": two}[part](arguments):
            print(line, flush=True)


if __name__ == "__main__":
    main()
