"""The probe radius to use when nobody chose one."""

import math

import torch

SMALLEST, LARGEST = 0.1, 16.0
LEAST_RAYLEIGH = 0.01
OFF_DISTRIBUTION = 8  # a probe stays within 1 / 8 of the length of the noise itself
GROWTH = 1.7


def automatic_probe_radius(dtype, size, rayleigh=1.0, amplification=1.0):
    """Probe radius kappa, in units of std, for a network computing in `dtype` on latents of `size` values per image.

    rayleigh: the last Rayleigh quotients, a float or a tensor whose shape the result has; 0 where none is known yet.
    amplification: by how much an error of the network's output grows in the denoised prediction, over std; a float or
    [B]. It is 1 for noise prediction and for rectified flow.

    Rounding adds an error of about eps * sqrt(size) / kappa to a Jacobian-vector product of length rho. Between two
    modes the denoised prediction bends over a distance of sigma_hat / sqrt(rho), which adds a relative error that grows
    with kappa * sqrt(rho). The sum of both is least at a kappa proportional to sqrt(eps * sqrt(size)) * rho^(-3/4):
    wide probes while the direction is still lost in rounding, short ones where the density bends. The factor gives the
    best radii measured in fp16 and bf16 at 64 values and rho = 1; the smallest is where full precision no longer gains.
    """
    noise = torch.as_tensor(amplification * torch.finfo(dtype).eps / 2 * math.sqrt(size))
    largest = max(SMALLEST, min(LARGEST, math.sqrt(size) / OFF_DISTRIBUTION))
    radius = GROWTH * noise.sqrt() * torch.as_tensor(rayleigh).clamp(min=LEAST_RAYLEIGH) ** -0.75
    return radius.clamp(SMALLEST, largest)
