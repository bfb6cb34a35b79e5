"""Does one scale do for all? The gain in distance at several scales, over models, numbers of steps, samplers and coordinates.

    python quickstart.py --run benchmarks/scale.py
    python quickstart.py --run benchmarks/scale.py --models emoji --steps 8 24 --samples 500 --file output/more.jsonl

samples the demo models through the host with the node, in their own coordinates (x = x0 + sigma noise) and in those of a
flow (x = (1 - t) x0 + t noise) at the same noise levels. Keeps what it has measured in a file and goes on where it was broken
off. A row of the table is a case: its distance without guidance, the gain at each scale as a share of its largest, and its best
scale; the last row is the mean share, and the least. With few samples the distances are large and the shares spread.
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path

import torch
from classifier import in_batches
from demos import DEMOS
from densities import schedule
from measuring import Counter, node
from pack import enter_host, load_pack
from tqdm import tqdm

SCALES = (2.0, 4.0, 8.0, 16.0)
STEPS = (6, 8, 16, 24, 32)
SAMPLERS = ("euler", "dpmpp_2m")
COORDINATES = ("VE", "flow")
KEY = ("model", "steps", "sampler", "coordinates", "samples", "seed", "refresh_every", "scale")
CASE = KEY[:4]


def in_flow_coordinates(model):
    """A clone of a demo model that is sampled as a flow: x = (1 - t) x0 + t noise, its sigma being t."""
    import comfy.model_sampling

    own = model.get_model_object("model_sampling")

    class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        """What the network is asked, at y = x / (1 - t) and sigma = t / (1 - t)."""

        def calculate_input(self, sigma, noise):
            return own.calculate_input(sigma / (1 - sigma), noise / _like(1 - sigma, noise))

        def timestep(self, sigma):
            return own.timestep(sigma / (1 - sigma))

        def calculate_denoised(self, sigma, model_output, model_input):
            return own.calculate_denoised(sigma / (1 - sigma), model_output, model_input / _like(1 - sigma, model_input))

    flow = model.clone()
    flow.add_object_patch("model_sampling", Flow(model.model.model_config))
    return flow


def _like(values, x):
    return values.reshape(values.shape[:1] + (1,) * (x.ndim - 1)) if values.ndim else values


def sigmas_of(coordinates, steps):
    """The sigmas of a run as the host's sampler takes them."""
    sigmas = torch.tensor(schedule(steps))
    return sigmas / (1 + sigmas) if coordinates == "flow" else sigmas


@torch.no_grad()
def pictures(model, demo, steps, sampler, coordinates, samples, seed, batch):
    """`samples` pictures [samples, 3, side, side] through the host's sampler."""
    import comfy.sample
    import comfy.samplers

    images, nothing = [], [[torch.zeros(1, 1, demo.labels), {}]]
    for start in range(0, samples, batch):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
        noise = torch.randn(min(batch, samples - start), 3, demo.side, demo.side, generator=generator)
        images.append(comfy.sample.sample_custom(
            model, noise, 1.0, comfy.samplers.sampler_object(sampler), sigmas_of(coordinates, steps), nothing, nothing,
            torch.zeros_like(noise), disable_pbar=True, seed=seed,
        ))
    return torch.cat(images).clamp(-1, 1)


class Subject:
    """A demo model in both coordinates, and what its pictures are compared with."""

    def __init__(self, name):
        from saddle_free_guidance.nodes.host.demo_model import load_demo_model

        self.demo = DEMOS[name]
        self.classifier = self.demo.load_classifier()
        self.real = self.demo.real(self.classifier)
        model = load_demo_model(self.demo.models[0])
        model.model.diffusion_model.to(memory_format=torch.channels_last)  # a third faster on a CPU
        self.models = {"VE": model, "flow": in_flow_coordinates(model)}

    def measure(self, work, batch):
        """The line of a piece of work."""
        counter = Counter()
        model = counter.attach(self.models[work["coordinates"]])
        guided = node(
            "SaddleFreeGuidance", model=model, scale=work["scale"], guidance_seed=work["seed"],
            refresh_every=work["refresh_every"],
        )
        names = ("steps", "sampler", "coordinates", "samples", "seed")
        made = pictures(guided, self.demo, *(work[name] for name in names), batch)
        measured = self.real.measure(in_batches(self.classifier.features, made))
        return work | measured | {"evaluations": counter.images / work["samples"]}


def works(arguments):
    """All pieces of work, case by case, no guidance first."""
    cases = itertools.product(arguments.models, arguments.steps, arguments.samplers, arguments.coordinates)
    for case, seed, scale in itertools.product(cases, range(arguments.seeds), (0.0, *arguments.scales)):
        yield dict(zip(KEY, (*case, arguments.samples, seed, arguments.refresh_every, scale)))


def read(file):
    """The results so far."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def run(arguments, make_subject=Subject):
    """Measures what is not in the file yet, line by line; returns the lines of all that was asked for."""
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    known = {tuple(line[name] for name in KEY): line for line in read(arguments.file)}
    asked, subjects = list(works(arguments)), {}
    missing = [work for work in asked if tuple(work.values()) not in known]
    for work in tqdm(missing, unit="set"):
        name = work["model"]
        if name not in subjects:
            subjects[name] = make_subject(name)
        line = known[tuple(work.values())] = subjects[name].measure(work, arguments.batch)
        with arguments.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
    return [known[tuple(work.values())] for work in asked]


def shares(lines):
    """Case -> (distance without guidance, scale -> share of the largest gain); shares are 0 where nothing gains."""
    distances = {}
    for line in lines:
        distances.setdefault(tuple(line[name] for name in CASE), {}).setdefault(line["scale"], []).append(line["FD"])
    found = {}
    for case, values in distances.items():
        means = {scale: statistics.mean(each) for scale, each in values.items()}
        plain = means.pop(0.0)
        most = max(plain - distance for distance in means.values())
        found[case] = plain, {scale: (plain - distance) / most if most > 0 else 0.0 for scale, distance in means.items()}
    return found


def table(found):
    """The shares as a Markdown table."""
    scales = list(next(iter(found.values()))[1])
    heading = [*CASE, "FD, no guidance", *(f"scale {scale:g}" for scale in scales), "best"]
    rows = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    for case, (plain, gains) in found.items():
        cells = [*map(str, case), f"{plain:.2f}", *(f"{gains[scale]:.0%}" for scale in scales), f"{max(gains, key=gains.get):g}"]
        rows.append("| " + " | ".join(cells) + " |")
    columns = [[gains[scale] for _, gains in found.values()] for scale in scales]
    cells = [f"{statistics.mean(column):.0%} (least {min(column):.0%})" for column in columns]
    return "\n".join([*rows, "| " + " | ".join(["all", "", "", "", "", *cells, ""]) + " |"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=DEMOS, default=["digits", "emoji"])
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    parser.add_argument("--coordinates", nargs="+", choices=COORDINATES, default=COORDINATES)
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES)
    parser.add_argument("--refresh-every", type=int, default=0)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--file", type=Path, default=Path("output/scale.jsonl"))
    arguments = parser.parse_args()
    enter_host(*([] if torch.cuda.is_available() else ["--cpu"]))
    load_pack()
    print(table(shares(run(arguments))))


if __name__ == "__main__":
    main()
