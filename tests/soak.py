"""Many short runs in one host process: memory stays flat, and the last images are the first ones.

    python quickstart.py --run tests/soak.py [--runs 2000] [--images FILE]

The runs alternate models, kinds of guidance, batch sizes and samplers; a third of them are interrupted or break off.
With --images the first images are written to a safetensors file.
"""

import argparse
import gc
import logging
import random
import sys
import tempfile
from pathlib import Path

import conftest  # noqa: F401, as it makes the pack importable
import psutil
import torch
from safetensors.torch import save_file
from seeds import SEED
from short_runs import GUIDED, LATENTS, Runs, Short, left_behind, one

FAMILIES = tuple(LATENTS)
EACH = 5  # runs with one model before the next is loaded
WARM_UP = 0.2  # of the runs, before memory must be flat
ALLOWED = 0.02
FIRST = [Short(family, kind, 2, steps=4) for family in FAMILIES for kind in GUIDED]


class Memory:
    """Resident set, objects that the collector knows, and bytes in tensors, after a full collection."""

    def __init__(self):
        gc.collect()
        self.resident = psutil.Process().memory_info().rss
        things = gc.get_objects()
        self.objects = len(things)
        kept = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in things if type(x) is torch.Tensor}
        self.tensors = sum(kept.values())

    def __str__(self):
        resident, tensors = self.resident / 2**20, self.tensors / 2**20
        return f"{resident:.1f} MB resident, {self.objects} objects, {tensors:.2f} MB of tensors"


def chosen_run(generator, family):
    """A short run and the faults in it."""
    short = Short(
        family, generator.choice(GUIDED), generator.choice((1, 2, 3)), generator.choice((1.0, 4.0)), 2,
        generator.choice(("euler", "dpmpp_2m")),
        {"directions": generator.choice((1, 2)), "guidance_seed": generator.randrange(2**64)},
    )
    kind = generator.choice((*["none"] * 6, "press", "interrupt", "interrupt", "exception", "oom", "nan"))
    return short, one(kind, at=generator.randint(1, 3))


def soak(host, count, say):
    """Runs them; returns the memory measured on the way, and the first and the last images by name."""
    generator, runs, memory = random.Random(SEED), Runs(host, together=True), []
    first = {name(short): runs.latent(short).clone() for short in FIRST}
    broken = 0
    for number in range(count):
        short, faults = chosen_run(generator, FAMILIES[number // EACH % len(FAMILIES)])
        broken += not runs.attempt(short, faults).success
        deliver(host)
        if (number + 1) % max(count // 20, EACH) == 0:
            runs.latent(FIRST[0])  # so that the host's caches hold the same each time
            host.record.clear()
            memory.append(Memory())
            say(f"{number + 1:5} runs, {broken} broken off: {memory[-1]}")
    last = {name(short): runs.latent(short) for short in FIRST}
    assert count / 4 < broken < count / 2 or count < 100, f"seed {SEED}: {broken} of {count} runs broke off"
    return memory, first, last


def deliver(host):
    """Takes the messages for the page off the host's queue, as the loop of a running server does."""
    while not host.server.messages.empty():
        host.server.messages.get_nowait()


def name(short):
    """What the images of a run are called."""
    return f"{short.family} {short.kind}"


def check(memory, first, last):
    """Raises AssertionError where memory grew after the warm-up, an image changed, or something was left behind."""
    start = memory[int(WARM_UP * len(memory))]
    for kind in ("resident", "objects", "tensors"):
        before, after = getattr(start, kind), getattr(memory[-1], kind)
        assert after <= (1 + ALLOWED) * before, f"seed {SEED}: {kind} grew from {before} to {after}"
    for label, image in first.items():
        assert image.isfinite().all() and torch.equal(image, last[label]), f"seed {SEED}: {label} changed"
    assert left_behind() == []


def quiet_host(base):
    """A host without progress bars, and without the traceback of each fault."""
    from host import Host

    host = Host(Path(base))
    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)
    logging.disable(logging.CRITICAL)
    return host


def main(arguments=None):
    """The command line; exit code 1 with one sentence where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--images", type=Path)
    options = parser.parse_args(arguments)
    print(f"{options.runs} runs with SADDLE_FREE_TEST_SEED={SEED}", flush=True)
    try:
        with tempfile.TemporaryDirectory() as base:
            memory, first, last = soak(quiet_host(base), options.runs, lambda line: print(line, flush=True))
        if options.images:
            save_file({label: image.contiguous() for label, image in first.items()}, options.images)
        check(memory, first, last)
    except AssertionError as error:
        print(error)
        return 1
    grown = memory[-1].resident / memory[int(WARM_UP * len(memory))].resident - 1
    print(f"memory {100 * grown:+.2f}% after the warm-up; {len(first)} images as at first")
    return 0


if __name__ == "__main__":
    sys.exit(main())
