"""How large is the noise of a network's answers, beside what is assumed before it is measured?

    python quickstart.py --run benchmarks/noise.py
    python quickstart.py --run benchmarks/noise.py --models SDXL FLUX

asks the demo models in fp16 and bf16 and, on a GPU, the real sizes of benchmarks/cost.py with random weights, at three
places of the sampling. A row tells the length of the noise in units of std, as the guide measures it: by a second question so
little beside the first that only the rounding is another. Then its ratio to what is assumed; for the demo models, the same
ratio of the error that a probe's difference has against fp32; the ratio of the difference that a copy of the sample makes in the
batch; and the power in bands of frequency from broad to fine over the mean.
"""

import argparse
import gc
import logging
import sys

import subjects
import torch
from demos import DEMOS
from pack import ROOT, enter_host, load_pack

FORMATS = {"fp16": torch.float16, "bf16": torch.bfloat16}
SHARES = (0.2, 0.5, 0.8)
BANDS, RADIUS = 6, 0.25
PICTURE = 0.8  # spread of a made-up latent


def bands(noise, count=BANDS):
    """The power of noise [B, C, H, W] in bands of radial frequency, over the mean, a list."""
    power = torch.fft.fft2(noise.float()).abs().square().mean(dim=(0, 1))
    sides = [torch.fft.fftfreq(side, device=noise.device) for side in power.shape]
    place = (torch.hypot(sides[0][:, None], sides[1][None]) / 0.5 * count).long().clamp(max=count - 1).flatten()
    total, members = (
        torch.zeros(count, device=noise.device).index_add(0, place, values)
        for values in (power.flatten(), torch.ones_like(power).flatten())
    )
    return (total / members / power.mean().clamp(min=torch.finfo(power.dtype).tiny)).tolist()


def measured(ask, exact, x, alpha, std, dtype):
    """Length of the noise at x [1, ...] in units of std; its ratio to the assumed, three ways; and its bands.

    ask, exact: the denoised prediction at rows, in the format and in fp32, None where that is not to be had.
    """
    from saddle_free_guidance.curvature import assumed_noise

    generator = torch.Generator().manual_seed(0)
    white = torch.randn(x.shape, generator=generator).to(x.device)
    beside = x + torch.finfo(dtype).eps * x.abs().clamp(min=std) * white.sign()
    probe = x + RADIUS * std * white / torch.linalg.vector_norm(white)
    here = ask(x)
    errors = [ask(beside) - here, None, ask(torch.cat([x, x]))[:1] - here]
    if exact is not None:
        errors[1] = ask(probe) - here - exact(probe) + exact(x)
    lengths = [None if error is None else (alpha / std * torch.linalg.vector_norm(error)).item() for error in errors]
    assumed = assumed_noise(dtype, x.numel())
    return lengths[0], [None if length is None else length / assumed for length in lengths], bands(errors[0])


def question(model, sigma, conditions):
    """A function of rows [R, ...] that gives the denoised predictions there."""
    def ask(x):
        each = {name: value.expand(len(x), *value.shape[1:]) for name, value in conditions.items()}
        return model.apply_model(x, sigma.expand(len(x)), **each).float()

    return ask


def demo_cases(name, dtype):
    """Of a demo model at each place: the share, how it answers in a format and in fp32, x, alpha and std."""
    import comfy.model_management
    from measuring import sample
    from saddle_free_guidance.nodes.host.coordinates import coordinates
    from saddle_free_guidance.nodes.host.demo_model import load_demo_model

    demo, models = DEMOS[name], []
    for compute in (dtype, torch.float32):
        patcher = load_demo_model(DEMOS[name].models[0])
        if compute != torch.float32:
            patcher.set_model_compute_dtype(compute)
        models.append(patcher)
    picture = sample(models[1], 1, steps=8, demo=demo)
    comfy.model_management.load_models_gpu(models)
    device = models[0].load_device
    conditions = {"c_crossattn": torch.zeros(1, 1, demo.labels, device=device)}
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(1)).to(device)
    sampling = models[1].model.model_sampling
    for share in SHARES:
        sigma = torch.tensor([float(sampling.percent_to_sigma(share))], device=device)
        alpha, std = coordinates(sampling, sigma)
        x = alpha * picture.to(device) + std * noise
        yield share, *(question(model.model, sigma, conditions) for model in models), x, alpha, std


def real_cases(name, dtype):
    """The same of a model of real size with random weights; fp32 is left out."""
    import comfy.model_management
    from saddle_free_guidance.nodes.host.coordinates import coordinates

    size, device = subjects.REAL_SIZES[name], comfy.model_management.get_torch_device()
    model = subjects.build(size.network, device, dtype)
    subjects.fill(model.diffusion_model, 0)
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape):
        return torch.randn(1, *shape, generator=generator, device=device)

    pooled = size.network.get("adm_in_channels") or size.network.get("vec_in_dim") or size.pooled
    conditions = {"c_crossattn": draw(*size.context), "y": draw(pooled)}
    if size.network.get("guidance_embed"):
        conditions["guidance"] = torch.full((1,), 3.5, device=device)
    picture, noise = PICTURE * draw(*size.latent), draw(*size.latent)
    for share in SHARES:
        sigma = torch.tensor([float(model.model_sampling.percent_to_sigma(share))], device=device)
        alpha, std = coordinates(model.model_sampling, sigma)
        yield share, question(model, sigma, conditions), None, alpha * picture + std * noise, alpha, std


def cell(value):
    """A ratio, or a dash where there is none."""
    return "-" if value is None else f"{value:.2f}"


@torch.no_grad()
def rows(names):
    """The rows of the table."""
    for name in names:
        for label, dtype in FORMATS.items():
            cases = demo_cases if name in DEMOS else real_cases
            for share, ask, exact, x, alpha, std in cases(name, dtype):
                length, ratios, power = measured(ask, exact, x, alpha, std, dtype)
                cells = [f"{(std / alpha).item():.3f}", f"{length:.4f}", *map(cell, ratios), " ".join(f"{each:.1f}" for each in power)]
                yield f"| {name} | {label} | {share:g} | " + " | ".join(cells) + " |"
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[""], metavar="PART", help="only models with a part in their name")
    arguments = parser.parse_args()
    sys.path.append(str(ROOT / "tests"))
    enter_host("--highvram" if torch.cuda.is_available() else "--cpu")
    load_pack()
    logging.disable(logging.WARNING)  # of the host, that models are still held
    names = [*DEMOS, *(subjects.REAL_SIZES if torch.cuda.is_available() else [])]
    columns = ("model", "format", "place", "sigma", "noise / std", "over assumed", "in a probe", "by a copy", "bands, broad to fine")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)
    for line in rows([name for name in names if any(part in name for part in arguments.models)]):
        print(line, flush=True)


if __name__ == "__main__":
    main()
