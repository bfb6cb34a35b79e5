"""Every family that the host lists and that can be built small, guided in this process.

    python quickstart.py --run tests/families.py
    python quickstart.py --run tests/families.py Wan ACEStep --rows README.md

prints a row for each family (or those whose names begin so); a cell is "ok" or says what was found. With --rows the
table in a file is written anew. The test suite runs a part of it. Each family is sampled with random weights:

- the relation x = alpha x0 + std n, and that of the network's output, hold
- off: with scale 0 the node gives back the model itself
- base: with a scale that adds nothing, the picture is that of no node; at CFG 1 and 4, one image and three
- acts: with a saddle everywhere the picture changes, is finite, and its evaluations are as many as stated
- joint: in one forward as in two
- twin: auto-guidance with a copy of the model changes nothing
"""

import argparse
import gc
import os
import sys
import tempfile
from pathlib import Path

TOLERANCE = 1e-3  # of the spread; random weights let the host's own rounding grow
STEPS = 3
SADDLES = 10.0  # how much of x is added to a prediction, so that there is a saddle everywhere
PART = (
    "SVD_img2vid", "LotusD", "SD15_instructpix2pix", "StableAudio3", "HunyuanDiT", "Flux Kontext (ref latents)",
    "MiniMaxH3", "HunyuanVideo15 (i2v)", "ZImage", "PiD", "WAN21_FlowRVS", "WAN22_S2V", "Hunyuan3Dv2_1", "HiDream",
    "SeedVR2", "ACEStep15", "QwenImage edit (ref)", "LTXAV i2v (nested mask)", "CogVideoX_T2V", "TripoSplat",
)  # one of each kind of layout, batch and parametrisation
NOTHING = "LotusD", "PiD", "SeedVR2", "WAN21_FlowRVS"  # a picture is given, which they predict from, decode or restore
COLUMNS = ("family", "sampling", "relation", "off", "base", "acts", "joint", "twin", "checks")


def relation(model_sampling):
    """The largest error of x = alpha x0 + std n, and of the denoised prediction of a perfect network."""
    import torch
    from saddle_free_guidance.nodes.host.compat import UNSCALED
    from saddle_free_guidance.nodes.host.coordinates import coordinates

    x0, noise = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = []
    sigmas = model_sampling.sigmas
    for sigma in (model_sampling.sigma_max, sigmas[len(sigmas) // 2], model_sampling.sigma_min):
        sigma = torch.as_tensor(float(sigma), dtype=torch.float64).repeat(2)
        alpha, std = (value.view(-1, 1, 1, 1) for value in coordinates(model_sampling, sigma))
        x = alpha * x0 + std * noise
        slope = model_sampling.calculate_denoised(sigma, torch.ones_like(x), torch.zeros_like(x))
        known = model_sampling.calculate_denoised(sigma, torch.zeros_like(x), x)
        back = model_sampling.calculate_denoised(sigma, (x0 - known) / slope, x)
        errors.append(float((back - x0).abs().max()))
        if not isinstance(model_sampling, UNSCALED):
            scaled = model_sampling.noise_scaling(sigma, noise.clone(), x0.clone())
            errors.append(float((scaled - x).abs().max() / x.abs().max()))
    return max(errors)


def base(name, model, batches, cfgs):
    """What the node changes where it adds nothing, in parts of the spread: the largest."""
    from family_builds import guided, sample

    found = []
    for batch in batches:
        for cfg in cfgs:
            plain = sample(name, model, batch, cfg)
            found += [
                distance(sample(name, guided(model, scale=1e-9, **knobs), batch, cfg), plain)
                for knobs in (({}, {"directions": 2}) if batch == 1 else ({"refresh_every": 0},))
            ]
    return max(found)


def acts(name, model, batch, cfg):
    """How a saddle everywhere changes the picture, and whether its evaluations are as many as stated."""
    from family_builds import counted, guided, sample, watched

    with counted() as plain:
        before = sample(name, watched(model, SADDLES), batch, cfg)
    with counted() as evaluated:
        after = sample(name, guided(watched(model, SADDLES)), batch, cfg)
    probes = evaluated.rows - plain.rows
    assert after.isfinite().all(), "not finite"
    asked = 1 if cfg == 1 else 2  # a family whose conditions reach each other is asked with both
    tried = 1 if cfg == 1 else 0  # the joint forward that was found to be wrong
    assert batch * STEPS <= probes <= batch * (asked * STEPS + 2 * tried) or probes == 0, f"{probes} rows of probes"
    assert evaluated.checks <= 1, f"{evaluated.checks} checks"
    return distance(after, before), probes / batch, evaluated.checks


def joint(name, model):
    """The difference between one forward and two, in parts of what guidance does."""
    from family_builds import apart, guided, sample, watched

    model = watched(model, SADDLES)
    plain, one, two = (sample(name, each, 1, 1.0) for each in (model, guided(model), apart(guided(model))))
    return distance(one, two) / max(distance(two, plain), 1e-9)


def twin(name, model, cfgs):
    """What auto-guidance with a copy of the model changes."""
    from family_builds import build, sample, steered

    other = build(name)
    return max(distance(sample(name, steered(model, other), 1, cfg), sample(name, model, 1, cfg)) for cfg in cfgs)


def distance(one, other):
    """The norm of the difference, in parts of the other's."""
    return float((one - other).norm() / other.norm())


def row(name):
    """A family's row of the table."""
    from family_builds import batches_of, build
    from saddle_free_guidance.nodes.host.coordinates import prediction_type

    model = build(name)
    model_sampling = model.get_model_object("model_sampling")
    cells = {"family": name, "sampling": prediction_type(model_sampling)}
    batches, cfgs = batches_of(name), (1.0, 4.0)
    nothing = "nothing" if name in NOTHING else None
    checks = []

    def change():
        cfg_found = [acts(name, model, batch, cfg) for batch in batches[:1] for cfg in cfgs]
        checks.extend(each[2] for each in cfg_found)
        if nothing:
            assert all(change == probes == 0 for change, probes, _ in cfg_found), cfg_found
            return nothing
        assert all(change > 1e-4 for change, *_ in cfg_found), [round(change, 6) for change, *_ in cfg_found]
        return "ok"

    tests = {
        "relation": lambda: nothing or small(relation(model_sampling), 2e-3),
        "off": lambda: "ok" if off(model) else "another model",
        "base": lambda: small(base(name, model, batches, cfgs)),
        "acts": change,
        "joint": lambda: nothing or small(joint(name, model), 0.02),
        "twin": lambda: small(twin(name, model, cfgs)),
    }
    for column, test in tests.items():
        try:
            cells[column] = test()
        except Exception as error:
            cells[column] = f"{type(error).__name__}: {str(error)[:80]}"
    return cells | {"checks": str(max(checks, default="-"))}


def off(model):
    """Whether the node at scale 0 gives back the model itself."""
    from family_builds import guided

    return guided(model, scale=0.0) is model


def small(value, tolerance=TOLERANCE):
    """ "ok" where a difference is small, else the difference."""
    return "ok" if value <= tolerance else f"{value:.2g}"


def failed(cells):
    """The columns in which a family failed."""
    return {key: value for key, value in cells.items() if key in COLUMNS[2:-1] and value not in ("ok", "nothing")}


def line(cells):
    """A row in Markdown."""
    return f"| {' | '.join(cells)} |"


def main(arguments):
    """Prints the table; exits with 1 where a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of names; all by default")
    parser.add_argument("--rows", type=Path, help="a file whose table is written anew")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import conftest  # noqa: F401, as it makes the pack importable
    from host import Host

    with tempfile.TemporaryDirectory() as base_directory:
        Host(Path(base_directory))
        from family_list import FAMILIES

        lines = [line(COLUMNS), line(["---"] * len(COLUMNS))]
        print("\n".join(lines), flush=True)
        names = [name for name in FAMILIES if not options.names or name.startswith(tuple(options.names))]
        bad = 0
        for name in names:
            cells = row(name)
            bad += bool(failed(cells))
            lines.append(line([cells[column] for column in COLUMNS]))
            print(lines[-1], flush=True)
            Host.unload()
            gc.collect()
    if options.rows:
        from results import write_between

        write_between(options.rows, "families", "\n".join(lines))
    print(f"{len(names) - bad} of {len(names)} families are clean.")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
