"""Does guidance help? Samples a demo model in the real host and compares with real pictures.

    python quickstart.py --run benchmarks/quality.py
    python quickstart.py --run benchmarks/quality.py --task conditional --samples 500
    python quickstart.py --run benchmarks/quality.py --model emoji --steps 8
    python quickstart.py --run benchmarks/quality.py --model emoji-8-steps --steps 8

prints a table of the Frechet distance (FD, lower is better) and of k-NN precision, recall, density and coverage
(higher is better) in the features of a classifier of such pictures, mean and spread over seeds, and the model
evaluations that an image cost. The conditional task asks for the ten digits in turn, or for kinds and styles of emoji
as real ones have them, and also tells how many came out as asked. Each row depends on its own settings only, so --rows computes some of the table.

    python quickstart.py --run benchmarks/quality.py --front

maps what saddle-free guidance gives for how many evaluations: how many directions are probed how often, at several
scales and in windows, beside auto-guidance and CFG. It keeps what it has measured in a file, goes on where
it was broken off, prints the tables and draws front.png; --task and --steps measure a part of it.
"""

import argparse
import statistics
from pathlib import Path

import front
import torch
from demos import DEMOS
from measuring import Method, auto, both, measure_row, saddle_free, weakened
from pack import enter_host, load_pack
from tqdm import tqdm


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
    rows += [row for scale in (2.0, 4.0, 8.0, 16.0) for row in saddle_free_rows(scale)]
    rows += [Method(f"auto-guidance {scale:g}", auto(scale)) for scale in (1.5, 2.0, 3.0)]
    for scales in ((2.0, 1.5), (4.0, 1.5)):
        name = "saddle-free {:g}, every call + auto-guidance {:g}".format(*scales)
        rows += [Method(name, both(*scales)), Method(f"{name}, 2/3 of the steps", both(*scales), step_factor=2 / 3)]
    return rows + [
        Method(f"auto-guidance 1.5, {method} {strength:g}", auto(1.5, weakened(method, strength)))
        for method, strength in (("more noise", 0.2), ("pruned weights", 0.4))
    ]


def prepare(arguments):
    """The model and the weak model, the classifier, the real pictures and the arguments."""
    from saddle_free_guidance.nodes.demo_model import load_demo_model

    demo = DEMOS[arguments.model]
    classifier = demo.load_classifier()
    real = demo.real(classifier)
    models = [load_demo_model(name) for name in demo.models]
    for model in models:
        model.model.diffusion_model.to(memory_format=torch.channels_last)  # a third faster on a CPU
        if arguments.dtype != "float32":
            model.set_model_compute_dtype(getattr(torch, arguments.dtype))
    return models, classifier, real, arguments


def chosen(rows, parts):
    """The rows with one of the parts in their name; a part that is a whole name means that row alone."""
    names = {row.name for row in rows}
    return [row for row in rows if any(part == row.name or (part in row.name and part not in names) for part in parts)]


def run(context):
    """The measured rows of a task's table."""
    models, classifier, real, arguments = context
    rows = chosen(methods(arguments.task), arguments.rows)
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
    parser.add_argument("--model", choices=DEMOS, default="digits")
    parser.add_argument("--task", choices=front.TASKS, help="(default: unconditional, for the front both)")
    parser.add_argument("--rows", nargs="+", default=[""], metavar="PART", help="only rows of these names, or with these parts in them")
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
    parser.add_argument(
        "--alike", type=int, default=1, metavar="COUNT", help="so many images of one digit follow each other (conditional)"
    )
    arguments = parser.parse_args()
    arguments.samples = arguments.samples or (1000 if arguments.front is None else 250)
    enter_host(*([] if torch.cuda.is_available() else ["--cpu"]))
    load_pack()
    context = prepare(arguments)
    if arguments.front is not None:
        print(front.front(context))
        return
    arguments.task = arguments.task or "unconditional"
    for steps in arguments.steps or [24]:
        arguments.steps = steps
        rows = run(context)
        print(f"\n{arguments.model}, {arguments.task}, {arguments.sampler}, {steps} steps, {arguments.dtype}, {arguments.samples} images a "
              f"seed, {arguments.seeds} seeds\n")
        print(table(rows))


if __name__ == "__main__":
    main()
