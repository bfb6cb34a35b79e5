"""What guidance gives for how many evaluations: the points, table and plot of quality.py --front."""

import argparse
import dataclasses
import functools
import itertools
import json
import statistics
from pathlib import Path

from measuring import Method, auto, measure_row, saddle_free
from tqdm import tqdm

PLOT = Path(__file__).parent / "front.png"
STEPS, ALL_STEPS = 32, (16, 32, 64)
SCALE, SCALES = 8.0, (4.0, 8.0, 16.0)
AUTOMATIC = 0
AT_ONCE = [
    (1, AUTOMATIC), (1, 1), (1, 2), (1, 4), (1, 8), (2, AUTOMATIC), (2, 2), (2, 4), (4, AUTOMATIC), (4, 4), (4, 8), (8, 8)
]
IN_TURN = (2, 4, 8)
WINDOWS = ((0.3, 1.0), (0.3, 0.6))
QUALITY_DIGITS = ("precision", "recall", "density", "coverage")
COLUMNS = ("FD", *QUALITY_DIGITS, "evaluations per step")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One point: how the directions are probed, and at which scale; auto-guidance with the real weak model."""

    kind: str
    scale: float = 0.0
    directions: int = 1
    refresh: int = 1
    window: tuple = (0.0, 1.0)

    @property
    def name(self):
        """Without the scale."""
        if self.kind in ("no guidance", "auto-guidance"):
            return self.kind
        directions = f"{self.directions} direction{'s' * (self.directions > 1)}"
        if self.kind == "in turn":
            return f"{directions} in turn"
        often = {AUTOMATIC: "automatic", 1: "every call"}.get(self.refresh, f"every {self.refresh} steps")
        window = "" if self.window == (0.0, 1.0) else ", {:g} to {:g}".format(*self.window)
        return f"{directions}, {often}{window}"

    def guide(self):
        """What is done to the model, as in a row of quality.py."""
        if self.kind == "no guidance":
            return lambda model, weak, seed: model
        if self.kind == "auto-guidance":
            return auto(self.scale)
        knobs = {
            "directions": self.directions, "refresh_every": self.refresh, "start_percent": self.window[0],
            "end_percent": self.window[1],
        }
        if self.kind == "in turn":
            return lambda model, weak, seed: in_turn(model, scale=self.scale, guidance_seed=seed, **knobs)
        return saddle_free(self.scale, **knobs)


def settings(steps):
    """The points that are measured at a number of steps: all of them at STEPS, those that matter at others."""
    points = [Setting("no guidance"), Setting("auto-guidance", 2.0)]
    if steps != STEPS:
        pairs = itertools.product([(1, AUTOMATIC), (1, 1)], SCALES[:2])
        return points + [Setting("at once", scale, directions, refresh) for (directions, refresh), scale in pairs]
    points += [Setting("auto-guidance", 1.5)]
    points += [Setting("at once", SCALE, directions, refresh) for directions, refresh in AT_ONCE]
    points += [Setting("in turn", SCALE, directions) for directions in IN_TURN]
    points += [Setting("at once", SCALE, window=window) for window in WINDOWS]
    points += [
        Setting("at once", scale, directions, refresh)
        for (directions, refresh), scale in itertools.product([(1, AUTOMATIC), (1, 1), (4, 4)], SCALES)
    ]
    return list(dict.fromkeys(points))


def in_turn(model, **knobs):
    """Saddle-free guidance that probes one of its directions at each call, which the node does not offer."""
    from comfy.patcher_extension import WrappersMP
    from saddle_free_guidance.guidance import CurvatureTrace
    from saddle_free_guidance.nodes.guided_run import KEY, guided_sampling
    from saddle_free_guidance.nodes.saddle_free import SaddleFreeRun, Settings

    class InTurn(SaddleFreeRun):
        """A run whose tracker takes turns."""

        def _make_tracker(self, x):
            made = super()._make_tracker(x)
            return taking_turns()(made.seed, directions=made.directions, image_keys=made.image_keys)

    guided = model.clone()
    make = functools.partial(InTurn, Settings(probe_radius=0.0, **knobs), CurvatureTrace(), None)
    guided.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, guided_sampling(make))
    return guided


def taking_turns():
    """A CurvatureTracker that probes one direction a call; the others keep their vector and their estimate."""
    from saddle_free_guidance.curvature import CurvatureTracker

    class Turns(CurvatureTracker):
        """Its `probe` gives, and its `update` takes, the points of one direction, [B, ...]."""

        turn = -1

        def probe(self, x, *, std):
            self.turn = (self.turn + 1) % self.directions
            return super().probe(x, std=std).unflatten(0, (self.directions, -1))[self.turn]

        def update(self, denoised, probed, *, alpha, std, images=None):
            last = self._estimate
            points = denoised.expand(self.directions, *denoised.shape).clone()  # no difference leaves a vector as it is
            points[self.turn] = probed
            new = super().update(denoised, points.flatten(0, 1), alpha=alpha, std=std, images=images)
            kept = {name: getattr(last, name).clone() for name in ("direction", "response", "rayleigh")}
            for name, values in kept.items():
                values[self.turn] = getattr(new, name)[self.turn]
            self._estimate = dataclasses.replace(new, **kept)
            return self._estimate

    return Turns


def measured(setting, steps, seed, context):
    """One line of the results: the setting's numbers at one seed."""
    models, classifier, real, arguments = context
    row = Method(setting.name, setting.guide())
    arguments = argparse.Namespace(**(vars(arguments) | {"steps": steps}))
    values = measure_row(row, models, classifier, real, seed, arguments)
    values["evaluations per step"] = values.pop("evaluations per image") / steps
    return {"steps": steps, "method": setting.name, "scale": setting.scale, "seed": seed} | values


def front(context):
    """Measures what is missing, draws the plot and gives the table."""
    arguments = context[3]
    run(context, arguments.steps or ALL_STEPS, arguments.front)
    found = points(read(arguments.front))
    plot(found)
    return table(found)


def run(context, steps, file):
    """Measures what is not in the file yet, line by line, so that a broken-off run goes on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    known = {key(line) for line in read(file)}
    work = [(count, setting, seed) for count in steps for setting in settings(count) for seed in range(context[3].seeds)]
    work = [each for each in work if (each[0], each[1].name, each[1].scale, each[2]) not in known]
    for count, setting, seed in tqdm(work, unit="set"):
        line = measured(setting, count, seed, context)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")


def read(file):
    """The results so far."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def key(line):
    """What makes a line one of its own."""
    return line["steps"], line["method"], line["scale"], line["seed"]


def points(lines):
    """(steps, method, scale) -> column -> values over the seeds, in the order of `settings`."""
    found = {}
    for line in lines:
        values = found.setdefault(key(line)[:3], {column: [] for column in COLUMNS})
        for column in COLUMNS:
            values[column].append(line[column])
    order = [(steps, setting.name, setting.scale) for steps in ALL_STEPS for setting in settings(steps)]
    return {name: found[name] for name in order if name in found}


def table(found):
    """The points as a Markdown table, mean and spread over the seeds."""
    rows = ["| steps | method | scale | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 3) + "|"]
    for (steps, method, scale), values in found.items():
        cells = []
        for column in COLUMNS:
            digits, mean = 3 if column in QUALITY_DIGITS else 2, statistics.mean(values[column])
            spread = statistics.stdev(values[column]) if column == "FD" and len(values[column]) > 1 else None
            cells.append(f"{mean:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}"))
        rows.append(f"| {steps} | {method} | {f'{scale:g}' if scale else '-'} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def plot(found, file=PLOT):
    """Distance and recall against evaluations per step, a column for each number of steps."""
    from matplotlib.figure import Figure

    columns = [steps for steps in ALL_STEPS if any(name[0] == steps for name in found)]
    figure = Figure(figsize=(5.5 * len(columns), 8), layout="constrained")
    axes = figure.subplots(2, len(columns), squeeze=False)
    methods = list(dict.fromkeys(method for _, method, _ in found))
    for (steps, method, scale), values in found.items():
        for row, column in enumerate(("FD", "recall")):
            axis = axes[row][columns.index(steps)]
            place = methods.index(method)
            axis.scatter(
                statistics.mean(values["evaluations per step"]), statistics.mean(values[column]), label=method,
                color=f"C{place % 10}", marker="os^Dv"[place // 10], s=20 + 6 * scale,
            )
            axis.set(xlabel="evaluations per step", ylabel=column, title=f"{steps} steps")
            axis.grid(alpha=0.3)
    handles = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8, title="size: scale")
    figure.savefig(file, dpi=90)
