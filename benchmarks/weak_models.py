"""Which worse versions of the same weights serve auto-guidance? Candidates for the Weaken Model node, on a demo model.

    python quickstart.py --run benchmarks/weak_models.py
    python quickstart.py --run benchmarks/weak_models.py --model emoji --samples 96 --batch 48

prints the columns of quality.py for every candidate. So that candidates of very different strength can be compared,
each is used at the scales where its correction is a quarter and a half the size of the real weak model's at scale 2,
in the median over noise levels. The findings are in weak_models.md. With more than one seed a row is printed again
after each, as mean and spread so far.

A merge with an earlier state of the training needs that state (about 20 minutes):

    python quickstart.py --run benchmarks/train_demo.py --steps 1000 --checkpoint early.pt --output early
    python quickstart.py --run benchmarks/weak_models.py --early early/model.safetensors
"""

import argparse
import functools
from pathlib import Path

import measuring
import torch
from demos import DEMOS, REAL_SEED, Digits
from digits import colour, load_digits
from pack import enter_host, load_pack
from quality import line
from safetensors.torch import load_file

NOISE_LEVELS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 6.0)
SHARES = (0.5, 0.25)
REAL = "real weak model"
DRAWN = 16  # pictures that a correction is measured on where there are no real ones


def skip_block(index):
    """The model without one of its middle blocks, through the host's block-replace patch."""

    def weaken(model):
        weak = model.clone()
        weak.set_model_patch_replace(lambda args, original: args, "dit", "double_block", index)
        return weak

    return weaken


def skip_random_block(each_call):
    """The model without one of its middle blocks, which one is drawn for each image, once a run or at each call.

    Drawn at each call it is the weak model of S2-Guidance (Chen et al. 2025, arXiv 2508.12880).
    """

    def weaken(model):
        from comfy.patcher_extension import WrappersMP

        weak, blocks = model.clone(), len(model.model.diffusion_model.middle)
        skip = functools.partial(_skip_random_block, blocks, each_call)
        weak.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "benchmark", skip)
        return weak

    return weaken


def _skip_random_block(
    blocks, each_call, executor, x, sigma, c_concat, c_crossattn, control, transformer_options, **kwargs
):
    from saddle_free_guidance.nodes.host.compat import IMAGE_KEYS

    level, skipped = float(sigma[0]) if each_call else 0.0, []
    for key in transformer_options.get(IMAGE_KEYS) or range(len(x)):
        generator = torch.Generator().manual_seed(hash((key, level)) & 0x7FFFFFFFFFFFFFFF)
        skipped.append(torch.randint(blocks, (), generator=generator))
    skipped = torch.stack(skipped).repeat(len(x) // len(skipped)).to(x.device)  # the images repeat for each condition

    def replacement(index):
        def keep_or_skip(args, original):
            made = original["original_block"](args)["img"]
            return {"img": torch.where((skipped == index)[:, None, None, None], args["img"], made)}

        return keep_or_skip

    replaced = {("double_block", index): replacement(index) for index in range(blocks)}
    options = transformer_options | {"patches_replace": {"dit": replaced}}
    return executor(x, sigma, c_concat, c_crossattn, control, options, **kwargs)


def low_rank(share):
    """The model with each weight matrix cut to a share of its singular values."""

    def cut(weight):
        left, values, right = torch.linalg.svd(weight.flatten(1).float(), full_matrices=False)
        rank = max(1, int(len(values) * share))
        return ((left[:, :rank] * values[:rank]) @ right[:rank]).reshape(weight.shape).to(weight)

    return _weight_change(cut)


def perturbed(amount):
    """The model with Gaussian noise of a share of each weight's spread added to it."""

    def disturb(weight):
        generator = torch.Generator().manual_seed(weight.numel())
        return weight + amount * weight.std() * torch.randn(weight.shape, generator=generator).to(weight)

    return _weight_change(disturb)


def wrong_level(factor):
    """The model told that the noise is `factor` times what it is."""

    def weaken(model):
        from comfy.patcher_extension import WrappersMP

        weak = model.clone()
        weak.add_wrapper_with_key(
            WrappersMP.APPLY_MODEL, "benchmark", lambda executor, x, sigma, *args, **kwargs: executor(
                x, factor * sigma, *args, **kwargs
            ),
        )
        return weak

    return weaken


def merged(early, share, demo):
    """The model merged with an earlier state of its training, as the host's merging nodes do it."""

    def weaken(model):
        from saddle_free_guidance.nodes.demo_model import load_demo_model

        other = load_demo_model(demo.models[0])
        other.model.diffusion_model.load_state_dict({key: value.float() for key, value in load_file(early).items()})
        patches = other.get_key_patches("diffusion_model.")
        weak = model.clone()
        weak.add_patches(patches, share, 1 - share)
        return weak

    return weaken


def _weight_change(change):
    def weaken(model):
        from saddle_free_guidance.nodes.weaken_model import patch_weights

        return patch_weights(model, change)

    return weaken


def candidates(early, demo, blocks):
    """Name -> what makes the weak model, of a model with so many middle blocks."""
    found = {f"more noise {strength:g}": measuring.weakened("more noise", strength) for strength in (0.2, 0.33)}
    found |= {f"pruned weights {share:g}": measuring.weakened("pruned weights", share) for share in (0.3, 0.5)}
    found |= {
        "a random block skipped at each call": skip_random_block(True),
        "a random block skipped, one a picture": skip_random_block(False),
    }
    found |= {f"block {index} skipped": skip_block(index) for index in range(blocks)}
    found |= {f"low rank, {share:.0%} of the values": low_rank(share) for share in (0.5, 0.25)}
    if early is not None:
        found |= {f"merged {share:.0%} with an early state": merged(early, share, demo) for share in (0.5, 1.0)}
    return found | {"weights perturbed by 15%": perturbed(0.15), "told 1.25 times the noise": wrong_level(1.25)}


def clean_pictures(model, demo):
    """Pictures that corrections are measured on: real digits, or what the model draws."""
    if demo is not Digits:
        return measuring.sample(model, DRAWN, seed=REAL_SEED, demo=demo)
    digits, _ = load_digits()
    return colour(digits[:64], torch.Generator().manual_seed(REAL_SEED))


@torch.no_grad()
def push(model, weak, clean, demo):
    """Size of auto-guidance's correction to the first prediction at scale 2, at each noise level."""
    guided = measuring.node("AutoGuidance", model=model, weak_model=weak, scale=2.0)
    return torch.tensor([
        (_first_prediction(guided, clean, level, demo) - _first_prediction(model, clean, level, demo)).norm().item()
        for level in NOISE_LEVELS
    ])


def _first_prediction(model, clean, sigma, demo):
    import comfy.sample
    import comfy.samplers

    generator = torch.Generator().manual_seed(0)
    condition = [[torch.zeros(1, 1, demo.labels), {}]]
    return comfy.sample.sample_custom(
        model, torch.randn(clean.shape, generator=generator), 1.0, comfy.samplers.sampler_object("euler"),
        torch.tensor([sigma, 0.0]), condition, condition, clean, disable_pbar=True, seed=0,
    )


def rows(models, demo, arguments):
    """No guidance, saddle-free guidance, the real weak model, and every candidate at two scales; those asked for."""
    model, weak = models
    clean = clean_pictures(model, demo)
    reference = push(model, weak, clean, demo)
    plain = [measuring.Method("no guidance"), measuring.Method("saddle-free 8", measuring.saddle_free(8.0))]
    blocks = len(model.model.diffusion_model.middle)
    weakened = {REAL: lambda model: weak} | candidates(arguments.early, demo, blocks)
    weakened = {name: weaken for name, weaken in weakened.items() if any(part in name for part in arguments.rows)}
    ratios = {
        name: (push(model, weaken(model), clean, demo) / reference).median().item() for name, weaken in weakened.items()
    }
    found = [row for row in plain if any(part in row.name for part in arguments.rows)]
    for share in arguments.shares:
        for name, weaken in weakened.items():
            scale = round(1 + share / ratios[name], 3)
            weaken = None if name == REAL else weaken  # as a row's guide gets it, which counts
            found.append(measuring.Method(f"{name}, scale {scale:g}", measuring.auto(scale, weaken)))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=DEMOS, default="digits")
    parser.add_argument("--early", type=Path, help="weights of an earlier state of the training")
    parser.add_argument("--rows", nargs="+", default=[""], metavar="PART", help="only candidates with a part in their name")
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES, help="sizes of the correction")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--steps", type=int, default=24)
    arguments = argparse.Namespace(
        **vars(parser.parse_args()), task="unconditional", sampler="euler", scheduler="karras"
    )
    enter_host(*([] if torch.cuda.is_available() else ["--cpu"]))
    load_pack()
    from saddle_free_guidance.nodes.demo_model import load_demo_model

    demo = DEMOS[arguments.model]
    classifier = demo.load_classifier()
    real = demo.real(classifier)
    models = [load_demo_model(name) for name in demo.models]
    for model in models:
        model.model.diffusion_model.to(memory_format=torch.channels_last)  # a third faster on a CPU
    measured = rows(models, demo, arguments)
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for row in measured:
            for column, value in measuring.measure_row(row, models, classifier, real, seed, arguments).items():
                row.values.setdefault(column, []).append(value)
            print(line(row.name, row.values), flush=True)


if __name__ == "__main__":
    main()
