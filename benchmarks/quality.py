"""Does guidance help? Samples the demo model in the real host and compares with real digits.

    python quickstart.py --run benchmarks/quality.py
    python quickstart.py --run benchmarks/quality.py --task conditional --samples 500

prints a table of the Frechet distance (FD, lower is better) and of k-NN precision, recall, density and coverage
(higher is better) in the features of a digit classifier, mean and spread over seeds, and the model evaluations that
an image cost. The conditional task asks for the ten digits in turn and also tells how many came out as the digit asked
for. Each row depends on its own settings only, so --rows computes some of the table.

    python quickstart.py --run benchmarks/quality.py --front

maps what saddle-free guidance gives for how many evaluations: how many directions are probed how often, in turn or at
once, at two scales and in windows, beside auto-guidance. It keeps what it has measured in a file, goes on where it was
broken off, prints the table and draws front.png.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from classifier import accuracy, in_batches, load_classifier
from digits import colour, load_digits
from metrics import frechet_distance, precision_recall_density_coverage
from pack import enter_host, load_pack
from tqdm import tqdm

REAL_SEED = 123456
CLASSES = 10


@dataclass
class Method:
    """One row: what is done to the model, called with the model, the weak model and a seed, and the sampler's settings."""

    name: str
    guide: Callable = lambda model, weak, seed: model
    cfg: float = 1.0
    step_factor: float = 1.0
    values: dict = field(default_factory=dict)


def node(name, **inputs):
    """The first output of a node of the pack, inputs not given at their defaults."""
    from saddle_free_guidance.nodes import auto_guidance, saddle_free, weaken_model

    modules = (saddle_free, auto_guidance, weaken_model)
    node_class = next(getattr(module, name) for module in modules if hasattr(module, name))
    schema = node_class.define_schema()
    defaults = {item.id: item.default for item in schema.inputs if item.io_type != "MODEL"}
    return node_class.execute(**(defaults | inputs)).result[0]


def saddle_free(scale, **knobs):
    """Saddle-free guidance as a row's `guide`."""
    return lambda model, weak, seed: node(
        "SaddleFreeGuidance", model=model, scale=scale, guidance_seed=seed, **knobs
    )


def auto(scale, weaken=None):
    """Auto-guidance as a row's `guide`, with the real weak model or with what `weaken` makes of the model."""
    return lambda model, weak, seed: node(
        "AutoGuidance", model=model, weak_model=weak if weaken is None else weaken(model), scale=scale
    )


def both(saddle_free_scale, auto_scale):
    """Saddle-free guidance at every call and auto-guidance together as a row's `guide`."""
    first, second = saddle_free(saddle_free_scale, refresh_every=1), auto(auto_scale)
    return lambda model, weak, seed: second(first(model, weak, seed), weak, seed)


def weakened(method, strength):
    """What Weaken Model makes of a model."""
    return lambda model: node("WeakenModel", model=model, method=method, strength=strength)


def saddle_free_rows(scale):
    """Saddle-free guidance with its default schedule of probes and with a probe at every call."""
    return [
        Method(f"saddle-free {scale:g}, automatic", saddle_free(scale)),
        Method(f"saddle-free {scale:g}, every call", saddle_free(scale, refresh_every=1)),
    ]


def methods(task):
    """The rows of a task's table."""
    rows = [Method("no guidance"), Method("no guidance, twice the steps", step_factor=2)]
    if task == "conditional":
        rows += [Method(f"CFG {scale:g}", cfg=scale) for scale in (1.5, 2.0, 4.0)]
        rows += [row for scale in (2.0, 4.0) for row in saddle_free_rows(scale)]
        name = "saddle-free 2, every call + auto-guidance 1.5"
        rows += [Method("auto-guidance 1.5", auto(1.5)), Method(name, both(2.0, 1.5))]
        return [*rows, Method(f"{name}, 2/3 of the steps", both(2.0, 1.5), step_factor=2 / 3)]
    rows += [row for scale in (1.0, 2.0, 4.0, 8.0) for row in saddle_free_rows(scale)]
    rows += [Method(f"auto-guidance {scale:g}", auto(scale)) for scale in (1.5, 2.0, 3.0)]
    for scales in ((2.0, 1.5), (4.0, 1.5)):
        name = "saddle-free {:g}, every call + auto-guidance {:g}".format(*scales)
        rows += [Method(name, both(*scales)), Method(f"{name}, 2/3 of the steps", both(*scales), step_factor=2 / 3)]
    return rows + [
        Method(f"auto-guidance 1.5, {method} {strength:g}", auto(1.5, weakened(method, strength)))
        for method, strength in (("more noise", 0.2), ("pruned weights", 0.4))
    ]


class Counter:
    """Counts how many images the models it is attached to evaluate."""

    def __init__(self):
        self.images = 0

    def attach(self, model):
        """A clone of the model that is counted."""
        from comfy.patcher_extension import WrappersMP

        def count(executor, x, *args, **kwargs):
            self.images += len(x)
            return executor(x, *args, **kwargs)

        counted = model.clone()
        counted.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "benchmark", count)
        return counted


@torch.no_grad()
def sample(model, count, *, classes=None, cfg=1.0, steps=24, seed=0, batch=250, sampler="euler", scheduler="karras"):
    """count images [count, 3, 32, 32] through the host's sampler; classes: [count], or None for no class."""
    import comfy.sample
    from saddle_free_guidance.nodes.demo_model import NO_CLASS, class_conditioning

    images, negative = [], class_conditioning(NO_CLASS)
    for start in range(0, count, batch):
        size = min(batch, count - start)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
        noise = torch.randn(size, 3, 32, 32, generator=generator)
        positive = negative
        if classes is not None:
            weights = torch.nn.functional.one_hot(classes[start : start + size], CLASSES).float()
            positive = [[weights[:, None], {}]]  # [size, 1, 10]
        images.append(
            comfy.sample.sample(
                model, noise, steps, cfg, sampler, scheduler, positive, negative, torch.zeros_like(noise),
                disable_pbar=True, seed=seed,
            )
        )
    return torch.cat(images).clamp(-1, 1)


def real_features(classifier):
    """Features of all real digits in fixed random colours."""
    digits, _ = load_digits()
    generator = torch.Generator().manual_seed(REAL_SEED)
    order = torch.randperm(len(digits), generator=generator)
    return in_batches(classifier.features, colour(digits[order], generator))


def measure(real, fake):
    """The metrics of two sets of features as a dict; as many real ones as fake for the k-NN ones."""
    return {"FD": frechet_distance(real, fake), **precision_recall_density_coverage(real[: len(fake)], fake)}


def measure_row(row, models, classifier, real, seed, arguments):
    """The metrics of one row at one seed."""
    classes = torch.arange(arguments.samples) % CLASSES if arguments.task == "conditional" else None
    counter = Counter()
    guided = row.guide(*(counter.attach(model) for model in models), seed)
    images = sample(
        guided, arguments.samples, classes=classes, cfg=row.cfg, steps=round(arguments.steps * row.step_factor),
        seed=seed, batch=arguments.batch, sampler=arguments.sampler, scheduler=arguments.scheduler,
    )
    measured = measure(real, in_batches(classifier.features, images))
    if classes is not None:
        measured["accuracy"] = accuracy(classifier, images, classes)
    return measured | {"evaluations per image": counter.images / arguments.samples}


def prepare(arguments):
    """The model and the weak model, the classifier, the real features and the arguments."""
    from saddle_free_guidance.nodes.demo_model import load_demo_model

    classifier = load_classifier()
    real = real_features(classifier)
    models = [load_demo_model(name) for name in ("model", "weak")]
    for model in models:
        model.model.diffusion_model.to(memory_format=torch.channels_last)  # a third faster on a CPU
        if arguments.dtype != "float32":
            model.set_model_compute_dtype(getattr(torch, arguments.dtype))
    return models, classifier, real, arguments


def run(context):
    """The measured rows of a task's table."""
    models, classifier, real, arguments = context
    rows = [row for row in methods(arguments.task) if any(part in row.name for part in arguments.rows)]
    progress = tqdm(total=len(rows) * arguments.seeds, unit="set")
    for row in rows:
        progress.set_description(row.name)
        for seed in range(arguments.seeds):
            for column, value in measure_row(row, models, classifier, real, seed, arguments).items():
                row.values.setdefault(column, []).append(value)
            progress.update()
        progress.write(line(row))
    progress.close()
    return rows


def line(row):
    """A row as Markdown: mean and spread over the seeds."""
    cells = [row.name]
    for column, values in row.values.items():
        digits = {"FD": 2, "evaluations per image": 0}.get(column, 3)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        cells.append(f"{statistics.mean(values):.{digits}f}" + (f" ± {spread:.{digits}f}" if round(spread, digits) else ""))
    return "| " + " | ".join(cells) + " |"


def table(rows):
    """The rows as a Markdown table."""
    columns = list(rows[0].values)
    return "\n".join(["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|", *map(line, rows)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["unconditional", "conditional"], default="unconditional")
    parser.add_argument("--rows", nargs="+", default=[""], metavar="PART", help="only rows with a part in their name")
    parser.add_argument(
        "--front", nargs="?", const=Path("output/front.jsonl"), type=Path, metavar="FILE", help="map the front"
    )
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--samples", type=int, help="of each seed (default: 1000, for the front 250)")
    parser.add_argument("--steps", type=int, nargs="+", help="(default: 24, for the front 16 32 64)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--scheduler", default="karras")
    arguments = parser.parse_args()
    arguments.samples = arguments.samples or (1000 if arguments.front is None else 250)
    enter_host(*([] if torch.cuda.is_available() else ["--cpu"]))
    load_pack()
    context = prepare(arguments)
    if arguments.front is not None:
        import front

        print(front.front(context))
        return
    for steps in arguments.steps or [24]:
        arguments.steps = steps
        rows = run(context)
        print(f"\n{arguments.task}, {arguments.sampler}, {steps} steps, {arguments.dtype}, {arguments.samples} images a "
              f"seed, {arguments.seeds} seeds\n")
        print(table(rows))


if __name__ == "__main__":
    main()
