"""What does guidance cost? Step time and peak memory of each method beside CFG of the same model, in one run.

    python quickstart.py --run benchmarks/cost.py
    python quickstart.py --run benchmarks/cost.py --models demo SD3.5 --repeats 9

samples through the host: stand-ins of the model families (their networks, with few layers and random weights), the
trained demo model and, on a GPU, SDXL, SD3.5-medium and FLUX.1-dev at their real sizes with random weights. Every
method samples once for warm-up; then they take turns, so that drift of the machine meets all of them alike.

Step time: a run's time over its steps, as a ratio to that of CFG in the same turn, the median of all turns; in brackets
the evaluations of an image per step. Peak memory: weights and tensors alive together at the most, as a ratio to CFG; in
brackets the same without the weights. On a GPU it is what the allocator gave out, on a CPU the tensors alone, without
what an operation takes for itself while it runs. Own work: the tensor operations of saddle-free guidance with an
evaluation at every call, timed alone, as a share of a step of CFG.

On random weights the curvature is hardly ever positive, so that saddle-free guidance with its default schedule pays for
the search only. On the demo model its cost is the real one.
"""

import argparse
import dataclasses
import functools
import gc
import itertools
import logging
import os
import statistics
import sys
import tempfile
import time
import weakref
from pathlib import Path

import subjects
import torch
from measuring import Counter, Method, auto, of_host, saddle_free
from pack import ROOT, enter_host, load_pack
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BASE = "CFG"
PAG_SCALE = 3.0


@dataclasses.dataclass
class Cost:
    """What a method took: seconds of a step at each turn, evaluations of an image per step, bytes."""

    seconds: list = dataclasses.field(default_factory=list)
    evaluations: float = 0.0
    weights: int = 0
    working: int = 0


METHODS = [
    Method("no guidance"),
    Method(BASE, cfg=4.0),
    Method("saddle-free, every call", saddle_free(1.0, refresh_every=1)),
    Method("saddle-free, default", saddle_free(1.0)),
    Method("auto-guidance", auto(1.5)),
    Method("PAG", of_host("PerturbedAttentionGuidance", scale=PAG_SCALE)),
]


def methods_of(subject):
    """The methods that the model takes: PAG changes the attention in the middle of a UNet."""
    has_middle = getattr(subject.model.model.diffusion_model, "middle_block", None) is not None
    return [method for method in METHODS if method.name != "PAG" or has_middle]


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of tensors made while it is on and not yet freed, each storage once; `peak` is the most."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._known = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = {storage._cdata for storage in _storages((args, kwargs))}
        result = function(*args, **kwargs)
        for storage in _storages(result):
            key, size = storage._cdata, storage.nbytes()
            if key not in given and key not in self._known:
                self._known[key] = weakref.ref(storage, functools.partial(self._freed, key, size))
                self.live += size
        self.peak = max(self.peak, self.live)
        return result

    def _freed(self, key, size, reference):
        del self._known[key]
        self.live -= size


def _storages(tree):
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def peak_bytes(run, device):
    """The bytes that a run holds at its peak above those held before."""
    if device.type != "cuda":
        with LiveTensors() as tensors:
            run()
        return tensors.peak
    gc.collect()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


def seconds_of(run, device):
    """The seconds that a run takes."""
    wait = functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


@torch.inference_mode()
def sample(subject, guided, cfg, steps):
    """One picture or batch through the host's sampler."""
    import comfy.sample

    noise = comfy.sample.prepare_noise(subject.latent, 0)
    return comfy.sample.sample(
        guided, noise, steps, cfg, "euler", subject.scheduler, subject.positive, subject.negative, subject.latent,
        disable_pbar=True, seed=0,
    )


def measure(subject, steps, repeats):
    """A Cost for each method that the model takes, by name."""
    device, counter, runs, costs = subject.model.load_device, Counter(), {}, {}
    for method in methods_of(subject):
        counter.images = 0
        guided = method.guide(counter.attach(subject.model), counter.attach(subject.weak), 0)
        run = functools.partial(sample, subject, guided, method.cfg, steps)
        run()
        weights = subject.model.model_size() + (subject.weak.model_size() if method.name == "auto-guidance" else 0)
        costs[method.name] = Cost([], counter.images / steps / len(subject.latent), weights, peak_bytes(run, device))
        runs[method.name] = run
    for _ in range(repeats):
        for name, run in runs.items():
            costs[name].seconds.append(seconds_of(run, device) / steps)
    return costs


@torch.inference_mode()
def own_work(latent, dtype, device, repeats=30):
    """The median seconds that saddle-free guidance takes a call where it evaluates at every call, without the evaluations.

    latent: [B, ...], of which the shape counts; dtype: that of the network.
    """
    from saddle_free_guidance.guidance import SaddleFree

    x, *answers = torch.randn(3, *latent.shape, device=device).unbind()
    answers, alpha = torch.cat(answers), torch.ones(len(x), device=device)
    guide, sigmas = SaddleFree(refresh_every=1, dtype=dtype), itertools.count(1)

    def call():
        guide(lambda rows, images: answers[: len(rows)], x, alpha=alpha, std=10 / next(sigmas) * alpha)

    call()
    return statistics.median(seconds_of(call, device) for _ in range(repeats))


def time_ratio(cost, base):
    """The median over the turns of a step's time over that of `base` in the same turn."""
    return statistics.median(one / other for one, other in zip(cost.seconds, base.seconds))


def time_cells(costs):
    """A cell for each method: step time over that of CFG, and evaluations of an image per step."""
    base = costs[BASE]
    return [
        f"{time_ratio(costs[method.name], base):.2f} ({costs[method.name].evaluations:.2f})"
        if method.name in costs else "-" for method in METHODS
    ]


def memory_cells(costs):
    """A cell for each method: peak memory over that of CFG, with the weights and without."""
    base = costs[BASE]
    return [
        f"{(cost.weights + cost.working) / (base.weights + base.working):.2f} ({cost.working / base.working:.2f})"
        if cost is not None else "-" for cost in (costs.get(method.name) for method in METHODS)
    ]


def row(*cells):
    """A row of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def heading(first, *columns):
    """The heading of a Markdown table."""
    return row(*first, *columns) + "\n" + "|---" * (len(first) + len(columns)) + "|"


def machine(device):
    """The device and the torch that were measured."""
    threads = torch.get_num_threads()
    name = f"{os.cpu_count()} CPU cores, {threads} thread{'s' * (threads > 1)}"
    return f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else name}, torch {torch.__version__}"


def report(subject, steps, repeats):
    """The rows of one model in the table of times and in that of memory."""
    costs, device = measure(subject, steps, repeats), subject.model.load_device
    dtype = subject.model.model.get_dtype_inference()
    name = f"{subject.name}, {'x'.join(map(str, subject.latent.shape[1:]))}, {str(dtype).removeprefix('torch.')}"
    base = costs[BASE]
    step = statistics.median(base.seconds)
    share = own_work(subject.latent, dtype, device) / step
    return (
        row(name, f"{1000 * step:.1f}", *time_cells(costs), f"{100 * share:.1f}%"),
        row(name, f"{(base.weights + base.working) / 2**20:.0f}", *memory_cells(costs)),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[], metavar="PART", help="only models with a part in their name")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    sys.path.append(str(ROOT / "tests"))
    enter_host("--highvram" if torch.cuda.is_available() else "--cpu")
    load_pack()
    logging.disable(logging.WARNING)  # that random weights show no positive curvature
    import comfy.model_management

    names, rows = [method.name for method in METHODS], []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in subjects.named(arguments.models, Path(folder)).items():
            try:
                rows.append(report(make(), arguments.steps, arguments.repeats))
            except torch.OutOfMemoryError:
                rows.append((row(name, "out of memory"),) * 2)
            comfy.model_management.unload_all_models()
            gc.collect()
            comfy.model_management.soft_empty_cache()
    print(f"{machine(comfy.model_management.get_torch_device())}; {arguments.steps} euler steps, medians of "
          f"{arguments.repeats} turns\n")
    print(heading(("step time", "CFG, ms"), *names, "own work"), *(times for times, _ in rows), sep="\n")
    print("\n" + heading(("peak memory", "CFG, MiB"), *names), *(memory for _, memory in rows), sep="\n")


if __name__ == "__main__":
    main()
