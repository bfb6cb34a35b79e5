"""What is left of the gain in half precision on large latents? The demo model inside latents of the sizes that artists use.

    python quickstart.py --run benchmarks/large.py
    python quickstart.py --run benchmarks/large.py --sizes 262144 --samples 100 --schedules automatic "every call"

Each value of a digit lies in a smooth block of the latent, the rest is a narrow Gaussian, so that the denoiser of the whole is
exact where that of the digits is. A network of a format computes it (densities.py: internal noise as measured on the demo
model, and rounding). A row tells the distance of the digits without guidance and with it, and the share of the gain in fp32.
With few samples the distance is large, and means something only beside the others of the same number.
"""

import argparse
import math

import torch
from classifier import in_batches
from demos import DEMOS
from densities import FORMATS, SHAPES, SIGMA_MAX, Network, run, schedule
from measuring import denoiser
from pack import enter_host, load_pack

LARGE = [size for size in SHAPES if size > min(SHAPES)]
NARROW = 1e-4  # variance of what is no digit
SCHEDULES = {"automatic": 0, "every call": 1}


class Spread:
    """An isometry of pictures [B, 3, side, side] into latents [B, C, H, W]: each value in a block, smooth and of length 1.

    A picture's channel lies in as many channels of the latent as fit.
    """

    def __init__(self, side, shape):
        channels, self.side, self.shape = 3, side, shape
        self.copies, self.block = shape[0] // channels, shape[1] // side
        window = torch.sin(math.pi * (torch.arange(self.block) + 0.5) / self.block)
        window = window[:, None] * window
        self.window = window / window.norm() / math.sqrt(self.copies)

    def up(self, pictures):
        """Latents, zero outside of the blocks."""
        blocks = torch.kron(pictures, self.window.to(pictures.device))  # [B, 3, H, W]
        latents = blocks.repeat_interleave(self.copies, dim=1)
        return torch.nn.functional.pad(latents, (0, 0, 0, 0, 0, self.shape[0] - latents.shape[1]))

    def down(self, latents):
        """The values in the blocks."""
        kept = latents[:, : 3 * self.copies].unflatten(1, (3, self.copies)).sum(dim=2)
        blocks = kept.unflatten(3, (self.side, self.block)).unflatten(2, (self.side, self.block))
        return torch.einsum("bchiwj,ij->bchw", blocks, self.window.to(latents.device))


def inside(denoise, spread):
    """The denoiser of latents with a picture inside."""
    def whole(x, sigma):
        values = spread.down(x)
        rest = NARROW / (NARROW + sigma**2)
        return rest * x + spread.up(denoise(values, sigma) - rest * values)

    return whole


def pictures(whole, spread, dtype, refresh, arguments, device):
    """`samples` digits and the extra evaluations of one; refresh: of the guide, None for no guidance."""
    from saddle_free_guidance.guidance import SaddleFree

    found, evaluations = [], 0
    for start in range(0, arguments.samples, arguments.batch):
        size = min(arguments.batch, arguments.samples - start)
        generator = torch.Generator().manual_seed(1_000_003 + start)
        y = SIGMA_MAX * torch.randn(size, *spread.shape, generator=generator).to(device)
        network = Network(whole, dtype, seed=start)
        guide = None if refresh is None else SaddleFree(scale=arguments.scale, seed=start, refresh_every=refresh, dtype=dtype)
        found.append(spread.down(run(network, y, schedule(arguments.steps), guide)).clamp(-1, 1).cpu())
        evaluations += network.evaluations
    return torch.cat(found), evaluations / arguments.samples - arguments.steps


def rows(arguments):
    """The rows of the table."""
    demo, device = DEMOS["digits"], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier = demo.load_classifier()
    real, denoise = demo.real(classifier), denoiser(demo, device)
    for size in arguments.sizes:
        spread = Spread(demo.side, SHAPES[size])
        whole, gains = inside(denoise, spread), {}
        for name in arguments.formats:
            plain = None
            for each, refresh in {"none": None, **{each: SCHEDULES[each] for each in arguments.schedules}}.items():
                made, extra = pictures(whole, spread, FORMATS[name], refresh, arguments, device)
                distance = real.measure(in_batches(classifier.features, made))["FD"]
                if refresh is None:
                    plain = distance
                    continue
                gain = plain - distance
                share = gain / gains.setdefault(each, gain)
                yield f"| {size:,} | {name} | {each} | {plain:.2f} | {distance:.2f} | {share:.0%} | {extra:.1f} |"


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", choices=LARGE, default=LARGE)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="the first is what the others are compared with")
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=["automatic"])
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--scale", type=float, default=4.0)
    arguments = parser.parse_args()
    enter_host(*([] if torch.cuda.is_available() else ["--cpu"]))
    load_pack()
    columns = ("size", "format", "schedule", "FD, no guidance", "FD", f"share of the gain in {arguments.formats[0]}", "extra evaluations")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)
    for line in rows(arguments):
        print(line, flush=True)


if __name__ == "__main__":
    main()
