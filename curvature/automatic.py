"""The probe radius to use when nobody chose one."""

import math

import torch

SMALLEST, LARGEST = 0.1, 0.5
GROWTH = 1.7


def automatic_probe_radius(dtype, size):
    """Probe radius kappa, in units of std, for a network computing in `dtype` on latents of `size` values per image.

    Rounding adds an error of about eps * sqrt(size) / kappa to a Jacobian-vector product and curvature one that grows
    with kappa; their sum is least at a kappa proportional to the square root of eps * sqrt(size). The factor is the one
    that gives the best radii measured in fp16 and bf16 at 64 values; the limits are where full precision no longer
    gains and where finite differences leave the linear range.
    """
    noise = torch.finfo(dtype).eps / 2 * math.sqrt(size)
    return min(max(GROWTH * math.sqrt(noise), SMALLEST), LARGEST)
