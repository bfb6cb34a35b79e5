"""The matrix of samplers, families, batches, CFG and guidance, each cell checked in the real host.

    python quickstart.py --run tests/matrix.py
    python quickstart.py --run tests/matrix.py --samplers heun lcm --families sd3 flux

runs every cell (or those asked for) and prints a table: a row for each sampler, a column for each family, and in it
how many of the cells passed; what failed is listed below. The test suite runs a part of it.
"""

import argparse
import functools
import itertools
import sys
import tempfile
import traceback
from pathlib import Path

LIGHT, HEAVY = ("sd3", "flux", "wan", "ltxav"), ("sd15", "sdxl")
FAMILIES = HEAVY + LIGHT
BATCHES, CFGS = (1, 3), (1.0, 4.0)
GUIDANCE = ("saddle-free", "auto", "both")
STEPS = 4


def cells(samplers, families=FAMILIES):
    """Every cell: sampler, family, batch, cfg, guidance."""
    return list(itertools.product(samplers, families, BATCHES, CFGS, GUIDANCE))


def covering(samplers):
    """Two light families for each sampler, the heavy ones for some samplers; the settings in turn."""
    settings = list(itertools.product(GUIDANCE, BATCHES, CFGS))
    for row, sampler in enumerate(samplers):
        for column, family in enumerate(LIGHT + HEAVY):
            if row % 2 == column % 2 if family in LIGHT else row % 11 == 5 * (column % 2):
                guidance, batch, cfg = settings[(row // 2 * 5 + column) % len(settings)]
                yield sampler, family, batch, cfg, guidance


WITH_HEAVY = 33  # of the samplers: where SD1.5 is cheapest, one picture at CFG 1 with saddle-free guidance alone


def quick(samplers):
    """Of those one light family for each sampler in turn, and SD1.5 once; still every setting."""
    for row, sampler in enumerate(samplers):
        light, *others = [cell for cell in covering(samplers) if cell[0] == sampler]
        other, *heavy = others
        yield other if row // 2 % 2 else light
        yield from heavy if row == WITH_HEAVY else ()


def guide(kind, off=False):
    """What a guidance of the matrix does to a model in a prompt, or its nodes at their neutral settings."""
    from graphs import guided, steered

    saddle, auto = ({"scale": 0.0}, {"scale": 1.0}) if off else ({"scale": 1.0}, {"scale": 1.5})

    def change(graph, model, weak):
        if kind != "auto":
            model = guided(graph, model, **saddle)
        return model if kind == "saddle-free" else steered(graph, model, weak, **auto)

    return change


def check(host, sampler, family, batch, cfg, kind, steps=STEPS):
    """Finite, the same twice, off is bit-identical and free, and the expected number of evaluations; else raises."""
    import torch
    from runs import two_models
    from variants import Setup, Variant, sampled, undecided

    amplified = undecided(family, share=0.4)  # more, and adaptive samplers take tiny steps
    of = functools.partial(Variant, Setup(models=amplified))
    found = sampled(host, two_models(family, host), {
        "plain": of(), "off": of(guide(kind, off=True)), "guided": of(guide(kind)), "again": of(guide(kind)),
    }, sampler=sampler, batch=batch, cfg=cfg, steps=steps, scheduler="karras")
    plain, off, guided = found["plain"], found["off"], found["guided"]
    assert plain.weak == 0 and plain.calls > 0 and plain.main % plain.calls == 0, f"plain: {costs(plain)}"
    assert torch.equal(off.latent, plain.latent), "off is not bit-identical"
    assert costs(off) == costs(plain), f"off costs {costs(off)}"
    probes = 0 if kind == "auto" else guided.calls
    a_call = plain.main // plain.calls
    expected = (guided.calls, a_call * guided.calls + probes, 0 if kind == "saddle-free" else guided.calls)
    assert costs(guided) == expected, f"costs {costs(guided)}, expected {expected}"
    assert guided.latent.isfinite().all(), "not finite"
    assert len(guided.latent) == batch
    assert not torch.equal(guided.latent, plain.latent), "guidance changed nothing"
    assert torch.equal(found["again"].latent, guided.latent), "not the same twice"


def costs(found):
    """Post-CFG passes, and evaluations of the main and of the weak model."""
    return found.calls, found.main, found.weak


def report(host, samplers, families):
    """Runs the cells and prints the table and what failed; gives the number of failures."""
    failures = []
    print("| sampler | " + " | ".join(families) + " |")
    print("|---" * (len(families) + 1) + "|")
    for sampler in samplers:
        row = []
        for family in families:
            found = cells([sampler], [family])
            passed = sum(passes(host, cell, failures) for cell in found)
            row.append(f"{passed} of {len(found)}")
        print(f"| {sampler} | " + " | ".join(row) + " |", flush=True)
    for cell, reason in failures:
        print(*cell, "-", reason)
    return len(failures)


def passes(host, cell, failures):
    """Whether a cell passes; if not, it is added to the failures with the reason."""
    try:
        check(host, *cell)
    except Exception as error:  # any failure is a result here
        failures.append((cell, "".join(traceback.format_exception_only(error)).strip().replace("\n", " ")))
        return False
    return True


def main():
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
    import pack
    import torch

    pack.load_pack()
    torch.set_num_threads(1)
    from host import Host

    with tempfile.TemporaryDirectory() as base:
        host = Host(Path(base))
        import comfy.samplers

        samplers = comfy.samplers.KSampler.SAMPLERS
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--samplers", nargs="+", choices=samplers, default=samplers)
        parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
        arguments = parser.parse_args(ARGUMENTS)
        sys.exit(min(report(host, arguments.samplers, arguments.families), 1))


if __name__ == "__main__":
    ARGUMENTS = sys.argv[1:]
    main()
