"""Which worse versions of the same weights serve auto-guidance? Candidates for the Weaken Model node, on the demo model.

    python quickstart.py --run benchmarks/weak_models.py

prints the columns of quality.py for every candidate. So that candidates of very different strength can be compared,
each is used at the scales where its correction is a quarter and a half the size of the real weak model's at scale 2,
in the median over noise levels. The findings are in weak_models.md.

A merge with an earlier state of the training needs that state (about 20 minutes):

    python quickstart.py --run benchmarks/train_demo.py --steps 1000 --checkpoint early.pt --output early
    python quickstart.py --run benchmarks/weak_models.py --early early/model.safetensors
"""

import argparse
from pathlib import Path

import measuring
import torch
from demos import REAL_SEED, Digits
from digits import colour, load_digits
from pack import enter_host, load_pack
from quality import line
from safetensors.torch import load_file

NOISE_LEVELS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 6.0)
SHARES = (0.25, 0.5)


def skip_block(index):
    """The model without one of its middle blocks, through the host's block-replace patch."""

    def weaken(model):
        weak = model.clone()
        weak.set_model_patch_replace(lambda args, original: args, "dit", "double_block", index)
        return weak

    return weaken


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


def merged(early, share):
    """The model merged with an earlier state of its training, as the host's merging nodes do it."""

    def weaken(model):
        from saddle_free_guidance.nodes.demo_model import load_demo_model

        other = load_demo_model("model")
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


def candidates(early):
    """Name -> what makes the weak model."""
    found = {f"block {index} skipped": skip_block(index) for index in range(4)}
    found |= {f"low rank, {share:.0%} of the values": low_rank(share) for share in (0.5, 0.25)}
    if early is not None:
        found |= {f"merged {share:.0%} with an early state": merged(early, share) for share in (0.5, 1.0)}
    found |= {"weights perturbed by 15%": perturbed(0.15), "told 1.25 times the noise": wrong_level(1.25)}
    found |= {f"more noise {strength:g}": measuring.weakened("more noise", strength) for strength in (0.2, 0.33)}
    return found | {
        f"pruned weights {share:g}": measuring.weakened("pruned weights", share) for share in (0.3, 0.5)
    }


@torch.no_grad()
def push(model, weak):
    """Median over noise levels of the size of auto-guidance's correction to the first prediction at scale 2."""
    digits, _ = load_digits()
    generator = torch.Generator().manual_seed(REAL_SEED)
    clean = colour(digits[:64], generator)
    guided = measuring.node("AutoGuidance", model=model, weak_model=weak, scale=2.0)
    return torch.tensor(
        [(_first_prediction(guided, clean, level) - _first_prediction(model, clean, level)).norm().item()
         for level in NOISE_LEVELS]
    )


def _first_prediction(model, clean, sigma):
    import comfy.sample
    import comfy.samplers
    from saddle_free_guidance.nodes.demo_model import NO_CLASS, class_conditioning

    generator = torch.Generator().manual_seed(0)
    condition = class_conditioning(NO_CLASS)
    return comfy.sample.sample_custom(
        model, torch.randn(clean.shape, generator=generator), 1.0, comfy.samplers.sampler_object("euler"),
        torch.tensor([sigma, 0.0]), condition, condition, clean, disable_pbar=True, seed=0,
    )


def rows(models, early, parts):
    """No guidance, the real weak model, and every candidate at two scales; those with a part in their name."""
    model, weak = models
    reference = push(model, weak)
    chosen = {"no guidance": None, "real weak model": lambda model: weak} | candidates(early)
    for name, weaken in chosen.items():
        if not any(part in name for part in parts):
            continue
        if weaken is None:
            yield measuring.Method(name)
            continue
        ratio = (push(model, weaken(model)) / reference).median().item()
        for share in SHARES:
            scale = round(1 + share / ratio, 3)
            yield measuring.Method(f"{name}, scale {scale:g}", measuring.auto(scale, weaken))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--early", type=Path, help="weights of an earlier state of the training")
    parser.add_argument("--rows", nargs="+", default=[""], metavar="PART", help="only candidates with a part in their name")
    parser.add_argument("--samples", type=int, default=500)
    arguments = parser.parse_args()
    arguments = argparse.Namespace(
        **vars(arguments), model="digits", task="unconditional", steps=24, batch=250, sampler="euler", scheduler="karras"
    )
    enter_host(*([] if torch.cuda.is_available() else ["--cpu"]))
    load_pack()
    from saddle_free_guidance.nodes.demo_model import load_demo_model

    classifier = Digits.load_classifier()
    real = Digits.real(classifier)
    models = load_demo_model("model"), load_demo_model("weak")
    for row in rows(models, arguments.early, arguments.rows):
        measured = measuring.measure_row(row, models, classifier, real, 0, arguments)
        row.values = {column: [value] for column, value in measured.items()}
        print(line(row), flush=True)


if __name__ == "__main__":
    main()
