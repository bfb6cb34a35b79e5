"""What guidance gives for how many evaluations: the points, table and plot of quality.py --front."""

import argparse
import dataclasses
import functools
import itertools
import statistics
from pathlib import Path

import results
import torch
from demos import DEMOS, REAL_SEED
from measuring import Method, auto, measure_row, saddle_free
from metrics import frechet_distance

PLOT = Path(__file__).parent / "front.png"
TASKS = ("unconditional", "conditional")
ALL_STEPS, LONG = (8, 16, 32, 64), 64
SCALE, SCALES = 8.0, (4.0, 8.0, 16.0)
AUTOMATIC = 0
AT_ONCE = [
    (1, AUTOMATIC), (1, 1), (1, 2), (1, 4), (1, 8), (2, AUTOMATIC), (2, 2), (2, 4), (4, AUTOMATIC), (4, 4), (4, 8), (8, 8)
]
WINDOWS = ((0.3, 1.0), (0.3, 0.6))
SCALED = [(1, AUTOMATIC), (1, 1), (2, AUTOMATIC), (4, 4)]
COMPARED = {"no guidance": "X", "CFG": "P", "auto-guidance": "*"}
QUALITY_DIGITS = ("precision", "recall", "density", "coverage", "accuracy")
COLUMNS = {
    "unconditional": ("FD", *QUALITY_DIGITS[:-1], "evaluations per step"),
    "conditional": ("FD", *QUALITY_DIGITS, "evaluations per step"),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One point: how the directions are probed, and at which scale; CFG; auto-guidance with the real weak model."""

    kind: str
    scale: float = 0.0
    directions: int = 1
    refresh: int = 1
    window: tuple = (0.0, 1.0)

    @property
    def name(self):
        """Without the scale."""
        if self.kind in COMPARED:
            return self.kind
        directions = f"{self.directions} direction{'s' * (self.directions > 1)}"
        often = {AUTOMATIC: "automatic", 1: "every call"}.get(self.refresh, f"every {self.refresh} steps")
        window = "" if self.window == (0.0, 1.0) else ", {:g} to {:g}".format(*self.window)
        return f"{directions}, {often}{window}"

    def method(self):
        """What is done to the model, as a row of quality.py."""
        return Method(self.name, self.guide(), cfg=self.scale if self.kind == "CFG" else 1.0)

    def guide(self):
        """What is done to the model besides CFG."""
        if self.kind in ("no guidance", "CFG"):
            return lambda model, weak, seed: model
        if self.kind == "auto-guidance":
            return auto(self.scale)
        knobs = {
            "directions": self.directions, "refresh_every": self.refresh, "start_percent": self.window[0],
            "end_percent": self.window[1],
        }
        return saddle_free(self.scale, **knobs)


def settings(task, steps):
    """The points that are measured of a task at a number of steps: at LONG only those that matter."""
    few = steps == LONG
    if task == "conditional":
        return conditional_settings(few)
    points = [Setting("no guidance"), Setting("auto-guidance", 2.0), Setting("auto-guidance", 1.5)]
    points += [Setting("at once", SCALE, *pair) for pair in (AT_ONCE[:4] + [(2, 2), (4, 4)] if few else AT_ONCE)]
    points += [Setting("at once", SCALE, window=window) for window in (WINDOWS[:1] if few else WINDOWS)]
    pairs = itertools.product(SCALED[:2] if few else SCALED, SCALES)
    return list(dict.fromkeys(points + [Setting("at once", scale, *pair) for pair, scale in pairs]))


def conditional_settings(few):
    """The points of the task with classes, or a few of them."""
    points = [Setting("no guidance")] + [Setting("CFG", scale) for scale in ((1.5, 2.0) if few else (1.5, 2.0, 4.0))]
    points += [Setting("auto-guidance", scale) for scale in ((1.5,) if few else (1.5, 2.0))]
    pairs = itertools.product([(1, AUTOMATIC), (1, 1)], (4.0,) if few else (2.0, 4.0, 8.0))
    return points + [Setting("at once", scale, *pair) for pair, scale in pairs]


def measured(setting, task, steps, seed, context):
    """The setting's numbers at one seed.

    With classes a batch has one of them, like a batch of pictures of one prompt.
    """
    models, classifier, real, arguments = context
    changed = {"steps": steps, "task": task}
    if task == "conditional":
        groups = DEMOS[arguments.model].groups
        size = max(arguments.samples // groups, 1)
        changed |= {"samples": size * groups, "batch": size, "alike": size}
    values = measure_row(setting.method(), models, classifier, real, seed, argparse.Namespace(**(vars(arguments) | changed)))
    values["evaluations per step"] = values.pop("evaluations per image") / steps
    return values


def front(context):
    """Measures what is missing, draws the plot and gives the tables."""
    real, arguments = context[2:]
    run(context, [arguments.task] if arguments.task else TASKS, arguments.steps or ALL_STEPS, arguments.front)
    found, least = points(results.read(arguments.front)), distance_of_real(real.features, arguments.samples)
    plot(found, least)
    tables = [table(task, found[task]) for task in found]
    return "\n\n".join([*tables, f"{arguments.samples} real {arguments.model} have FD {least:.2f} themselves."])


def distance_of_real(real, count, draws=20):
    """The mean FD of `count` of the real pictures, drawn at random: what a perfect model would have without classes.

    With classes, which come in equal numbers, the distance can be smaller.
    """
    generator = torch.Generator().manual_seed(REAL_SEED)
    orders = [torch.randperm(len(real), generator=generator) for _ in range(draws)]
    return statistics.mean(frechet_distance(real, real[order[:count]]) for order in orders)


def run(context, tasks, all_steps, file):
    """Measures what is not in the file yet, line by line, so that a broken-off run goes on."""
    places = itertools.product(tasks, all_steps)
    points = [(*place, setting, seed) for place in places for setting in settings(*place) for seed in range(context[3].seeds)]
    results.measure(file, [
        (
            {"task": task, "steps": steps, "method": setting.name, "scale": setting.scale, "seed": seed},
            functools.partial(measured, setting, task, steps, seed, context),
        )
        for task, steps, setting, seed in points
    ])


def key(line):
    """What makes a line one of its own."""
    return line["task"], line["steps"], line["method"], line["scale"], line["seed"]


def points(lines):
    """task -> (steps, method, scale) -> column -> values over the seeds, in the order of `settings`."""
    found = {}
    for line in lines:
        values = found.setdefault(key(line)[:4], {column: [] for column in COLUMNS[line["task"]]})
        for column in values:
            values[column].append(line[column])
    ordered = {}
    for task, steps in itertools.product(TASKS, ALL_STEPS):
        for setting in settings(task, steps):
            name = steps, setting.name, setting.scale
            if (task, *name) in found:
                ordered.setdefault(task, {})[name] = found[(task, *name)]
    return ordered


def table(task, found):
    """The points of a task as a Markdown table, mean and spread over the seeds."""
    columns = COLUMNS[task]
    rows = ["| steps | method | scale | " + " | ".join(columns) + " |", "|---" * (len(columns) + 3) + "|"]
    for (steps, method, scale), values in found.items():
        cells = []
        for column in columns:
            digits, mean = 3 if column in QUALITY_DIGITS else 2, statistics.mean(values[column])
            spread = statistics.stdev(values[column]) if column == "FD" and len(values[column]) > 1 else None
            cells.append(f"{mean:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}"))
        rows.append(f"| {steps} | {method} | {f'{scale:g}' if scale else '-'} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def plot(found, least, file=PLOT):
    """Distance and recall of each task against evaluations per step, a column for each number of steps.

    least: the distance of real pictures drawn without classes, a line.
    """
    from matplotlib.figure import Figure

    names = {task: list(found[task]) for task in found}
    all_steps = [steps for steps in ALL_STEPS if any(name[0] == steps for task in names for name in names[task])]
    looks = markers(dict.fromkeys(name[1] for task in names for name in names[task]))
    rows = list(itertools.product(found, ("FD", "recall")))
    figure = Figure(figsize=(5.5 * len(all_steps), 4 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(all_steps), squeeze=False)
    for (row, (task, column)), (place, steps) in itertools.product(enumerate(rows), enumerate(all_steps)):
        axis = axes[row][place]
        axis.set(xlabel="evaluations per step", ylabel=column, title=f"{task}, {steps} steps")
        if column == "FD":
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("{x:g}")
        axis.grid(alpha=0.3, which="both")
        if column == "FD" and task == "unconditional":
            axis.axhline(least, color="grey", linestyle=":", label="real pictures")
        for (_, method, scale), values in ((name, found[task][name]) for name in names[task] if name[0] == steps):
            axis.scatter(
                statistics.mean(values["evaluations per step"]), statistics.mean(values[column]), label=method,
                s=30 + 6 * scale, alpha=0.8, **looks[method],
            )
    handles = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8, title="size: scale")
    figure.savefig(file, dpi=90)


def markers(methods):
    """method -> colour and marker: what saddle-free guidance is compared with is black."""
    others = [method for method in methods if method not in COMPARED]
    looks = {method: {"color": f"C{place % 10}", "marker": "os^Dv"[place // 10]} for place, method in enumerate(others)}
    return looks | {method: {"color": "black", "marker": marker} for method, marker in COMPARED.items()}
