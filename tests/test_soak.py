"""Many short runs in a host process of their own, and the same graph in two processes and in other batches."""

import dataclasses
import functools
import subprocess
import sys

import pytest
import soak
import torch
from pack import ROOT
from safetensors.torch import load_file
from short_runs import Short

FEW = 5  # runs


@pytest.fixture(scope="module")
def soaked(tmp_path_factory):
    """Makes a soak of so many runs in another process: what it printed, its exit code, and its first images."""
    return functools.cache(functools.partial(soak_elsewhere, tmp_path_factory))


def soak_elsewhere(folders, count):
    path = folders.mktemp("soak") / "first.safetensors"
    command = [sys.executable, str(ROOT / "tests" / "soak.py"), "--runs", str(count), "--images", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert path.exists(), done.stderr
    return done, load_file(path)


@pytest.mark.long
@pytest.mark.parametrize("count", [200])
def test_memory_stays_flat_and_the_last_images_are_the_first(soaked, count):
    done, _ = soaked(count)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, lines[-1]
    assert lines[0] == f"{count} runs with SADDLE_FREE_TEST_SEED={soak.SEED}"
    assert len([line for line in lines if "resident" in line]) == min(count // soak.EACH, 20)
    assert lines[-1].startswith("memory ")


class Leak(soak.Memory):
    """A measurement of chosen numbers."""

    def __init__(self, **numbers):
        vars(self).update({"resident": 1000, "objects": 1000, "tensors": 0} | numbers)


@pytest.mark.parametrize("kind", ["resident", "objects", "tensors"])
def test_the_soak_sees_a_leak(kind):
    """Memory that grows by more than 2% after the warm-up; before it, anything goes."""
    for grown, found in ((1.5, True), (1.03, True), (1.02, False), (0.5, False)):
        memory = [Leak(**{kind: number}) for number in (10, *[1000] * 15, *[int(1000 * grown)] * 4)]
        if found:
            with pytest.raises(AssertionError, match=f"{kind} grew from 1000 to"):
                soak.check(memory, {}, {})
        else:
            soak.check(memory, {}, {})


def test_the_soak_sees_another_image():
    image = {"demo both": torch.zeros(2)}
    with pytest.raises(AssertionError, match="demo both changed"):
        soak.check([Leak()] * 10, image, {"demo both": torch.tensor([0, 1e-30])})


# --- Determinism -----------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("short", soak.FIRST, ids=soak.name)
def test_the_same_graph_is_the_same_image_in_another_process(soaked, as_loaded, runs, short):
    """Bit for bit; and guidance has changed it."""
    latent = runs.latent(short)
    assert torch.equal(latent, soaked(FEW)[1][soak.name(short)])
    assert not torch.equal(latent, runs.latent(dataclasses.replace(short, kind="plain")))


COMPOSED = [
    Short("demo", "both", 3, knobs={"directions": 2}), Short("sd3", "both", 3, knobs={"directions": 2}),
    Short("demo", "both shared", 3, 4.0, knobs={"refresh_every": 2}), Short("wan", "both shared", 3, sampler="heun"),
]


@pytest.mark.parametrize("short", COMPOSED, ids=soak.name)
@pytest.mark.parametrize("first, count", [(0, 1), (2, 1), (1, 2)])
def test_an_image_is_the_same_in_any_batch(as_loaded, runs, short, first, count):
    """As far as the model itself gives the same for other batch sizes; the tracked directions follow the image."""
    whole, part = runs.latent(short), runs.latent(dataclasses.replace(short, images=(first, count)))
    assert part.shape == (count, *whole.shape[1:])
    assert (whole[first : first + count] - part).abs().max() <= 5e-4 * whole.std()
    assert (whole - runs.latent(dataclasses.replace(short, kind="plain"))).abs().amax() > 0.1 * whole.std()
