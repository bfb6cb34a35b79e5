"""What a network's rounding does to the tracked direction, and what is done against it; exact networks need none of it.

A response u = J v + n carries noise n of a length that is known beforehand: the rounding error over the probe radius.
It has no direction, so that in many dimensions it lengthens u, is orthogonal to everything else and changes v.u little.
"""

import math

import torch

from .power_iteration import inner

EXACT = 1e-5  # a format with a smaller eps is computed with as if it were exact
INPUT = 0.5  # of the rounding of the network's input that its Jacobian lets through, chosen on the demo model
LARGEST_SHARE = 0.5


def rounding_error(dtype, size, amplification=1.0):
    """Error of a Jacobian-vector product with a unit vector times the probe radius: eps / 2 * sqrt(N) * amplification.

    dtype: what the network computes in; size: N, values per image; amplification: a float or [B], as
    `automatic_probe_radius` takes it. 0 in full precision.
    """
    eps = torch.finfo(dtype).eps
    return 0.0 if eps < EXACT else amplification * (eps / 2 * math.sqrt(size))


def with_input_rounding(amplification, x, std):
    """The amplification [B] with what rounding the network's input x [B, ...] adds to it; amplification, std: [B].

    A value of x is wrong by eps / 2 of itself, hence by |x| / std in units of the noise level, which J passes on. The
    two errors are independent. It rules at the end of a run, where a probe's step is small beside x.
    """
    rms = x.float().flatten(1).square().mean(dim=1).sqrt()
    return torch.hypot(amplification, INPUT * rms / std)


def noise_share(response, noise):
    """Which share of the square of response / |response| is noise of length `noise`; at most a half.

    response: [directions, B, N]; noise, share: [directions, B]. Noise is orthogonal to the rest, so that
    |u|^2 = |J v|^2 + noise^2.
    """
    square = inner(response, response)
    return (noise**2 / torch.where(square > 0, square, 1)).clamp(0, LARGEST_SHARE)


def rayleigh_without_noise(rayleigh, share):
    """Rayleigh quotient of what v is without its noise; rayleigh, share: [directions, B].

    A unit v = sqrt(1 - share) e + sqrt(share) n with J n = 0 has v.J.v = (1 - share) e.J.e.
    """
    return rayleigh / (1 - share)
