"""Does guidance help? Samples a demo model in the real host and compares with real pictures.

    python quickstart.py --run benchmarks/quality.py
    python quickstart.py --run benchmarks/quality.py --task conditional --samples 500
    python quickstart.py --run benchmarks/quality.py --model emoji --steps 8 24 --samples 256
    python quickstart.py --run benchmarks/quality.py --model emoji-8-steps --steps 8 --samples 256

prints a table of the Frechet distance (FD, lower is better) and of k-NN precision, recall, density and coverage
(higher is better) in the features of a classifier of such pictures, mean and spread over seeds, and the model
evaluations that an image cost. The conditional task asks for the ten digits in turn, or for kinds and styles of emoji
as real ones have them, and also tells how many came out as asked.

    python quickstart.py --run benchmarks/quality.py --model emoji --task variety --samples 256

tells how different pictures of one label are: from one noise with several guidance seeds, and from several noises.

What was measured is kept in a file (--results), and a broken-off run goes on there; --again measures the chosen rows
anew, --print measures nothing. --rows chooses rows, also of those that are in no table by default. --write FILE puts
each table between its marks in a page, for instance `<!-- emoji, conditional, 8 steps -->`.

    python quickstart.py --run benchmarks/quality.py --front

maps what saddle-free guidance gives for how many evaluations: how many directions are probed how often, at several
scales and in windows, beside auto-guidance and CFG. It keeps what it has measured in a file, goes on where
it was broken off, prints the tables and draws front.png; --task and --steps measure a part of it.
"""

import argparse
import functools
from pathlib import Path

import front
import results
import torch
from demos import DEMOS
from half_precision import fast_half_precision
from measuring import Method, auto, both, measure_row, measure_variety, noisy_label, of_host, saddle_free, weakened
from pack import enter_host, load_pack

TASKS = (*front.TASKS, "variety")
RESULTS = Path(__file__).parent / "quality.jsonl"
DIGITS = {"FD": 2, "spread over seeds": 2, "spread over noise": 2, "evaluations per image": 0}  # others 3
PAG = "PerturbedAttentionGuidance"
ALIKE = 8  # pictures of a label whose spread is told


def saddle_free_rows(scale):
    """Saddle-free guidance with its default schedule of probes and with a probe at every call."""
    return [
        Method(f"saddle-free {scale:g}, automatic", saddle_free(scale), seeded=True),
        Method(f"saddle-free {scale:g}, every call", saddle_free(scale, refresh_every=1), seeded=True),
    ]


def with_auto(saddle_free_scale, auto_scale, often, **knobs):
    """Saddle-free guidance and auto-guidance together."""
    name = f"saddle-free {saddle_free_scale:g}, {often} + auto-guidance {auto_scale:g}"
    return Method(name, both(saddle_free_scale, auto_scale, **knobs), seeded=True)


def noisy(strength, **sampling):
    """Noise in the label for half of the sampling, without guidance or with CFG."""
    after = f", CFG {sampling['cfg']:g}" if "cfg" in sampling else ""
    return Method(f"noise in the label {strength:g}{after}", condition=noisy_label(strength), seeded=True, **sampling)


def methods(task):
    """The rows of a task's table. Without a label there is nothing for CFG and what edits it to work on."""
    rows = [Method("no guidance")]
    if task != "unconditional":
        rows += [Method(f"CFG {scale:g}", cfg=scale) for scale in (1.5, 2.0, 4.0)]
    rows += [*saddle_free_rows(8.0), Method("auto-guidance 1.5", auto(1.5)), Method("auto-guidance 2", auto(2.0))]
    rows += [with_auto(8.0, 1.5, "automatic")]
    if task == "unconditional":
        return [*rows, Method("PAG 1", of_host(PAG, scale=1.0)), Method("PAG 3", of_host(PAG, scale=3.0))]
    rows += [Method("saddle-free 8, automatic + CFG 2", saddle_free(8.0), cfg=2.0, seeded=True)]
    if task == "variety":
        return [*rows, noisy(0.05), noisy(0.1), noisy(0.2), noisy(0.2, cfg=2.0)]
    apg = of_host("APG", eta=0.0, norm_threshold=5.0, momentum=-0.5)
    rows += [Method("PAG 1", of_host(PAG, scale=1.0)), Method("PAG 3", of_host(PAG, scale=3.0))]
    return [*rows, Method("TCFG, CFG 2", of_host("TCFG"), cfg=2.0), Method("APG, CFG 2", apg, cfg=2.0), noisy(0.1)]


def more_methods(task):
    """Rows that are measured where they are asked for by --rows."""
    rows = [Method("no guidance, twice the steps", step_factor=2)]
    rows += [row for scale in (2.0, 4.0, 16.0) for row in saddle_free_rows(scale)]
    rows += [with_auto(scale, 1.5, "every call", refresh_every=1) for scale in (2.0, 4.0)]
    if task != "unconditional":
        return rows
    return [*rows, Method("auto-guidance 3", auto(3.0))] + [
        Method(f"auto-guidance 1.5, {method} {strength:g}", auto(1.5, weakened(method, strength)))
        for method, strength in (("more noise", 0.2), ("pruned weights", 0.5))
    ]


def chosen(rows, parts):
    """The rows with one of the parts in their name; a part that is a whole name means that row alone."""
    names = {row.name for row in rows}
    return [row for row in rows if any(part == row.name or (part in row.name and part not in names) for part in parts)]


def rows_of(task, parts=None):
    """The rows of the table, or those that the parts choose of all."""
    return methods(task) if parts is None else chosen([*methods(task), *more_methods(task)], parts)


@functools.cache
def prepare(model, dtype):
    """The model and the weak model, the classifier and the real pictures, in the host."""
    enter_host(*([] if torch.cuda.is_available() else ["--cpu"]))
    load_pack()
    from saddle_free_guidance.nodes.demo_model import load_demo_model

    demo = DEMOS[model]
    classifier = demo.load_classifier()
    models = [load_demo_model(name) for name in demo.models]
    for patcher in models:
        patcher.model.diffusion_model.to(memory_format=torch.channels_last)  # a third faster on a CPU
        if dtype != "float32":
            patcher.set_model_compute_dtype(getattr(torch, dtype))
    return models, classifier, demo.real(classifier)


def measured(row, seed, arguments):
    """The numbers of a row at a seed."""
    models, classifier, real = prepare(arguments.model, arguments.dtype)
    if arguments.task == "variety":
        return measure_variety(row, models, classifier, seed, arguments)
    return measure_row(row, models, classifier, real, seed, arguments)


def settings(row, seed, arguments):
    """What a line of the results is known by."""
    names = ("model", "task", "steps", "samples", "batch", "alike", "sampler", "scheduler", "dtype")
    return {"row": row.name, "seed": seed} | {name: getattr(arguments, name) for name in names}


def work(rows, arguments):
    """Settings and what measures them, for every row and seed; all rows with a seed before any with the next."""
    return [
        (settings(row, seed, arguments), functools.partial(measured, row, seed, arguments))
        for seed in range(arguments.seeds) for row in rows
    ]


def measured_rows(rows, arguments):
    """Row's name -> column -> values over the seeds, of the rows that have been measured."""
    lines, values = results.read(arguments.results), {}
    for asked, _ in work(rows, arguments):
        for column, value in (results.known(lines, asked) or {}).items():
            if column not in asked:
                values.setdefault(asked["row"], {}).setdefault(column, []).append(value)
    return {row.name: values[row.name] for row in rows if row.name in values}


def line(name, values):
    """A row as Markdown: mean and spread over the seeds."""
    return f"| {' | '.join([name, *(results.cell(of, DIGITS.get(column, 3)) for column, of in values.items())])} |"


def table(rows, seeds):
    """Row's name -> column -> values, as a Markdown table; a row with fewer seeds says so."""
    if not rows:
        return "Not measured yet."
    columns = next(iter(rows.values()))
    head = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    counts = {name: len(next(iter(values.values()))) for name, values in rows.items()}
    names = {name: name if count == seeds else f"{name} ({count} of {seeds} seeds)" for name, count in counts.items()}
    return "\n".join([*head, *(line(names[name], values) for name, values in rows.items())])


def report(arguments):
    """Measures what is missing, prints the table and writes it into the pages."""
    rows = rows_of(arguments.task, arguments.rows)
    todo = work(rows, arguments)
    if arguments.again:
        results.forget(arguments.results, todo)
    if not arguments.print:
        results.measure(arguments.results, todo)
    text = table(measured_rows(rows, arguments), arguments.seeds)
    about = f"{arguments.samples} pictures a seed, {arguments.seeds} seeds, `{arguments.sampler}`, {arguments.dtype}"
    print(f"\n{arguments.model}, {arguments.task}, {arguments.steps} steps, {about}\n\n{text}")
    for page in arguments.write:
        mark = f"{arguments.model}, {arguments.task}, {arguments.steps} steps"
        results.write_between(page, mark, f"{about[0].upper()}{about[1:]}:\n\n{text}")


def parsed(given=None):
    """The command's options, with what depends on the task filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=DEMOS, default="digits")
    parser.add_argument("--task", choices=TASKS, help="(default: unconditional, for the front both)")
    parser.add_argument("--rows", nargs="+", metavar="PART", help="only rows of these names, or with these parts in them")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="what has been measured so far")
    parser.add_argument("--again", action="store_true", help="measure the rows anew")
    parser.add_argument("--print", action="store_true", help="print what has been measured, and measure nothing")
    parser.add_argument("--write", nargs="+", type=Path, default=[], metavar="FILE", help="pages with marks for the tables")
    parser.add_argument(
        "--front", nargs="?", const=Path("output/front.jsonl"), type=Path, metavar="FILE", help="map the front"
    )
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--samples", type=int, help="of each seed (default: 1000, for the front 250)")
    parser.add_argument("--steps", type=int, nargs="+", help="(default: 24, for the front 8 16 32 64)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, help="(default: 64, for the front 250)")
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--scheduler", default="karras")
    parser.add_argument(
        "--alike", type=int, metavar="COUNT", help=f"so many images of one label follow each other (default: 1, variety {ALIKE})"
    )
    arguments = parser.parse_args(given)
    arguments.samples = arguments.samples or (1000 if arguments.front is None else 250)
    arguments.batch = arguments.batch or (64 if arguments.front is None else 250)
    arguments.alike = arguments.alike or (ALIKE if arguments.task == "variety" else 1)
    if arguments.front is not None and arguments.task == "variety":
        parser.error("--front maps the tasks unconditional and conditional; leave --task variety out")
    return arguments


def main():
    arguments = parsed()
    if arguments.front is not None:
        print(front.front((*prepare(arguments.model, arguments.dtype), arguments)))
        return
    arguments.task = arguments.task or "unconditional"
    with fast_half_precision():
        for steps in arguments.steps or [24]:
            report(argparse.Namespace(**(vars(arguments) | {"steps": steps})))


if __name__ == "__main__":
    main()
