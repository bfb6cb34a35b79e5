"""Does guidance help? Samples the demo model in the real host and compares with real digits.

    python quickstart.py --run benchmarks/quality.py

prints a table of the Frechet distance (FD, lower is better) and of k-NN precision, recall, density and coverage
(higher is better) in the features of a digit classifier, mean and spread over seeds, and the model evaluations that
each sampling step cost.
"""

import argparse
import statistics
from dataclasses import dataclass, field

import torch
from classifier import in_batches, load_classifier
from digits import colour, load_digits
from metrics import frechet_distance, precision_recall_density_coverage
from pack import enter_host, load_pack
from tqdm import tqdm

COLUMNS = ("FD", "precision", "recall", "density", "coverage", "evaluations per step")
REAL_SEED = 123456


@dataclass
class Method:
    """One row: the sampler's settings and the node's knobs, None for no node."""

    name: str
    knobs: dict | None = None
    step_factor: int = 1
    values: dict = field(default_factory=lambda: {column: [] for column in COLUMNS})


def methods(scales):
    """The rows of the table."""
    rows = [Method("no guidance"), Method("no guidance, twice the steps", step_factor=2)]
    return rows + [Method(f"saddle-free, scale {scale:g}", {"scale": scale}) for scale in scales]


def guide(model, knobs, seed):
    """The model with a Saddle-Free Guidance node, knobs not given at their defaults."""
    from saddle_free_guidance.nodes.saddle_free import SaddleFreeGuidance

    defaults = {item.id: item.default for item in SaddleFreeGuidance.define_schema().inputs if item.id != "model"}
    return SaddleFreeGuidance.execute(model, **(defaults | {"guidance_seed": seed} | knobs)).result[0]


@torch.no_grad()
def sample(model, condition, count, steps, seed, arguments):
    """count images [count, 3, 32, 32] through the host's sampler, and the model evaluations per step it took."""
    import comfy.sample
    from comfy.patcher_extension import WrappersMP

    evaluations = 0

    def counted(executor, *args, **kwargs):
        nonlocal evaluations
        evaluations += 1
        return executor(*args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "benchmark", counted)
    images, batches = [], range(0, count, arguments.batch)
    for start in batches:
        size = min(arguments.batch, count - start)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
        noise = torch.randn(size, 3, 32, 32, generator=generator)
        images.append(
            comfy.sample.sample(
                model, noise, steps, 1.0, arguments.sampler, arguments.scheduler, condition, condition,
                torch.zeros_like(noise), disable_pbar=True, seed=seed,
            )
        )
    return torch.cat(images), evaluations / (steps * len(batches))


def measure(real, fake):
    """The metrics of two sets of features as a dict; as many real ones as fake for the k-NN ones."""
    return {"FD": frechet_distance(real, fake), **precision_recall_density_coverage(real[: len(fake)], fake)}


def run(arguments):
    from saddle_free_guidance.nodes.demo_model import NO_CLASS, class_conditioning, load_demo_model

    classifier = load_classifier()
    digits, _ = load_digits()
    generator = torch.Generator().manual_seed(REAL_SEED)
    order = torch.randperm(len(digits), generator=generator)
    real = in_batches(classifier.features, colour(digits[order], generator))
    model, condition = load_demo_model("model"), class_conditioning(NO_CLASS)
    rows = methods(arguments.scales)
    progress = tqdm(total=len(rows) * arguments.seeds, unit="set")
    for seed in range(arguments.seeds):
        for row in rows:
            progress.set_description(row.name)
            guided = model if row.knobs is None else guide(model, row.knobs, seed)
            steps = arguments.steps * row.step_factor
            images, cost = sample(guided, condition, arguments.samples, steps, seed, arguments)
            measured = measure(real, in_batches(classifier.features, images.clamp(-1, 1)))
            for column, value in (measured | {"evaluations per step": cost}).items():
                row.values[column].append(value)
            progress.update()
    progress.close()
    return rows


def table(rows):
    """The rows as a Markdown table."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in rows:
        cells = [row.name]
        for column in COLUMNS:
            values = row.values[column]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            digits = 2 if column in ("FD", "evaluations per step") else 3
            cells.append(f"{statistics.mean(values):.{digits}f}" + (f" ± {spread:.{digits}f}" if spread else ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--scheduler", default="karras")
    arguments = parser.parse_args()
    enter_host(*([] if torch.cuda.is_available() else ["--cpu"]))
    load_pack()
    rows = run(arguments)
    print(f"\nunconditional, {arguments.sampler}, {arguments.steps} steps, {arguments.samples} images a seed, "
          f"{arguments.seeds} seeds\n")
    print(table(rows))


if __name__ == "__main__":
    main()
