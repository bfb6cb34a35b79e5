"""Draws the pictures of the help pages with the demo model, in the real host.

    python quickstart.py --run benchmarks/help_pictures.py

writes nodes/web/docs/<node>.jpg for every node that has a help page with a picture.
"""

import torch
from demos import Emoji
from measuring import auto, node, saddle_free, sample, weakened
from pack import ROOT, enter_host, load_pack
from PIL import Image

DOCS = ROOT / "nodes" / "web" / "docs"
IMAGES = 4
STEPS = 24
SEED = 3
KINDS = 10  # that the demo model is asked for
STYLE = 2  # fluent3d


def drawn(model, count=IMAGES, **sampling):
    """Pictures as an IMAGE [count, 64, 64, 3]."""
    return sample(model, count, steps=STEPS, seed=SEED, demo=Emoji, **sampling).movedim(1, -1) / 2 + 0.5


def compared(model, weak, rows):
    """A labelled grid: for each row of label -> guide, what the guided model draws from the same noise."""
    from saddle_free_guidance.nodes.ui.sweep_grid import grid_image

    cells = [drawn(guide(model, weak, 0)) for row in rows for guide in row.values()]
    return grid_image(cells, [list(row) for row in rows])


def scope(model):
    """The Curvature Scope's plot above its heat maps."""
    from saddle_free_guidance.nodes.curvature_scope import CurvatureScope
    from saddle_free_guidance.nodes.saddle_free import SaddleFreeGuidance

    guided, trace = SaddleFreeGuidance.execute(model, 8.0, 0, 0.0, 1.0, 0.0, 1, 1).result
    pictures = enlarged(drawn(guided))
    plot, heat = CurvatureScope.execute(trace, {"samples": pictures}, 0.6, pictures).result
    strip = torch.cat(list(heat), dim=1)  # [256, IMAGES * 256, 3]
    return torch.cat([plot[0], strip], dim=0)[None]


def enlarged(images):
    """IMAGE at four times the size."""
    return images.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)


def kinds(model):
    """Emoji of the first kinds that the demo model can be asked for, in one style; two rows."""
    asked = Emoji.styles * torch.arange(KINDS) + STYLE
    rows = [torch.cat(list(row), dim=1) for row in drawn(model, KINDS, classes=asked).chunk(2)]
    return enlarged(torch.cat(rows, dim=0)[None])


def pictures(model, weak):
    """Node id -> IMAGE."""
    plain = lambda model, weak, seed: model  # noqa: E731
    worse = weakened("pruned weights", 0.5)
    return {
        "SaddleFreeGuidance": compared(
            model, weak, [{"scale 0 (off)": plain, "scale 4": saddle_free(4.0)},
                          {"scale 8": saddle_free(8.0), "scale 16": saddle_free(16.0)}],
        ),
        "AutoGuidance": compared(
            model, weak, [{"scale 1 (off)": plain, "scale 1.5": auto(1.5)}, {"scale 2": auto(2.0), "scale 3": auto(3.0)}]
        ),
        "WeakenModel": compared(
            model, weak, [{"the model": plain, "weakened: pruned weights 0.5": lambda model, weak, seed: worse(model)},
                          {"Auto-Guidance 1.5 with it": auto(1.5, worse), "Auto-Guidance 2 with it": auto(2.0, worse)}],
        ),
        "GuidanceSweep": compared(
            model, weak, [
                {f"scale {scale}, guidance_seed {seed}": _seeded(scale, seed) for scale in (0, 4, 8)} for seed in (0, 1)
            ],
        ),
        "GuidanceVariations": compared(
            model, weak, [{"without guidance": plain, "guidance_seed 0": _seeded(8, 0, directions=2)},
                          {f"guidance_seed {seed}": _seeded(8, seed, directions=2) for seed in (1, 2)}],
        ),
        "CurvatureScope": scope(model),
        "SaddleFreeDemoModel": kinds(model),
    }


def _seeded(scale, guidance_seed, **knobs):
    return lambda model, weak, seed: node(
        "SaddleFreeGuidance", model=model, scale=float(scale), guidance_seed=guidance_seed, **knobs
    )


def main():
    enter_host(*([] if torch.cuda.is_available() else ["--cpu"]))
    load_pack()
    from saddle_free_guidance.nodes.host.demo_model import load_demo_model

    with torch.no_grad():
        for name, image in pictures(load_demo_model("emoji"), load_demo_model("emoji-weak")).items():
            path = DOCS / f"{name}.jpg"
            Image.fromarray((image[0].clamp(0, 1) * 255).round().byte().numpy()).save(path, quality=88, optimize=True)
            print(f"Written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
