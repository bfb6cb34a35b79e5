"""The per-run tracker: one unit vector per image and direction, kept from call to call."""

import hashlib
from dataclasses import dataclass

import torch

from .power_iteration import inner, jacobian_vector_product, orthonormalise
from .rounding import noise_share, rayleigh_without_noise


@dataclass(frozen=True)
class CurvatureEstimate:
    """What one probe says about the curvature of log p at x.

    direction, response: v and J v, [directions, B, ...]; rayleigh: v.J.v, [directions, B], above 1 where the log
    density curves upwards along v; sigma_hat: std / alpha, [B]; finite: [B], False where the model gave NaN or Inf and
    the values are the ones from before; dtype: that of the denoised prediction. Where the tracker knows of a rounding
    error, rayleigh is that of v without the noise in it.
    """

    direction: torch.Tensor
    response: torch.Tensor
    rayleigh: torch.Tensor
    sigma_hat: torch.Tensor
    finite: torch.Tensor
    dtype: torch.dtype

    @property
    def curvature(self):
        """v.H.v of the log density's Hessian H = (J - I) / sigma_hat^2, [directions, B]."""
        return (self.rayleigh - 1) / self.sigma_hat**2


class CurvatureTracker:
    """Tracks the eigen-directions of largest curvature of log p along one sampling run.

    Shifted power iteration: H + I / sigma_hat^2 = J / sigma_hat^2 is positive semi-definite for an exact denoiser, so
    iterating J finds the largest algebraic eigenvalue of H. A learned Jacobian is not symmetric; what is found is then
    its dominant right eigenvector. With several directions this is block iteration, re-orthogonalised at every step.

    seed: integer; another seed, another start. probe_radius: step of the finite difference in units of std, > 0, or a
    function that gives it, [directions, B], from the last Rayleigh quotients [directions, B], 0 where there are none.
    directions: how many eigen-directions, >= 1. image_keys: one integer per image that chooses its start; by default
    its place in the batch. The start never depends on the image, the score or the denoised prediction. rounding: the
    network's rounding error as `rounding_error` gives it, a float or [B]; 0 is exact. Against it, probes go to either
    side of x in turn and the Rayleigh quotient is freed of the noise in v.
    """

    def __init__(self, seed=0, probe_radius=0.1, directions=1, image_keys=None, rounding=0.0):
        if not callable(probe_radius) and not probe_radius > 0:
            raise ValueError(f"probe_radius is {probe_radius}; it must be above 0, usually 0.03 to 1.")
        if not (isinstance(directions, int) and directions >= 1):
            raise ValueError(f"directions is {directions!r}; it must be a whole number of at least 1.")
        self.seed = seed
        self.probe_radius = probe_radius
        self.directions = directions
        self.image_keys = image_keys
        self.rounding = rounding
        self.reset()

    def reset(self):
        """Begins a new run: forgets the tracked vectors and the last estimate."""
        self._shape = None
        self._vectors = None  # [directions, B, N]
        self._radius = None  # of the last probe, a float or [directions, B, 1], below 0 on the other side of x
        self._side = None  # of the next probe, 1 or -1, [B, 1]
        self._share = None  # of noise in the squares of the vectors, [directions, B]
        self._estimate = None

    def probe(self, x, *, std):
        """Where the model must be evaluated next: x + radius * std * v, [directions * B, ...], direction-major.

        x: [B, ...] of any rank >= 2; std: float or [B]. A new shape of x begins anew from random vectors.
        """
        if x.ndim < 2:
            raise ValueError(f"x has shape {tuple(x.shape)}; it must be [batch, ...] with at least two dimensions.")
        self._start(x)
        self._radius = self._next_radius()
        step = self._radius * _per_image(std, self._vectors) * self._vectors
        probes = x.to(self._vectors.dtype).flatten(1) + step  # [directions, B, N]
        return probes.reshape(-1, *x.shape[1:]).to(x.dtype)

    def update(self, denoised, probed, *, alpha, std, images=None):
        """The estimate from D(x) and D(probe); moves the tracked vectors one power-iteration step.

        denoised: [B, ...]; probed: [directions * B, ...]; alpha, std: floats or [B], x = alpha * x0 + std * noise.
        images: which ones were probed, a boolean [B], all by default; the others keep their vectors and their estimate.
        Where an image's values are not finite, its vectors and its last estimate stay as they were, too.
        """
        if self._vectors is None:
            raise RuntimeError("update() was called before probe(); a run begins with probe().")
        if probed.shape != (self.directions * len(denoised), *denoised.shape[1:]):
            raise ValueError(
                f"probed has shape {tuple(probed.shape)} and denoised {tuple(denoised.shape)}; probed must hold "
                f"{self.directions} x the batch of denoised."
            )
        vectors = self._vectors
        alpha, std = _per_image(alpha, vectors), _per_image(std, vectors)  # [B or 1, 1]
        difference = probed.to(vectors.dtype).reshape(vectors.shape) - denoised.to(vectors.dtype).flatten(1)
        response = jacobian_vector_product(difference, alpha=alpha, std=std, radius=self._radius)
        rayleigh, share = inner(vectors, response), self._share
        if self._rounds:
            rayleigh, share = rayleigh_without_noise(rayleigh, share), noise_share(response, self._noise())
            difference = difference * self._side  # its sign, not the side of the probe, is what v keeps
        moved = orthonormalise(difference, fallback=vectors)
        finite = (inner(response, response).isfinite() & moved.isfinite().all(dim=-1)).all(dim=0)  # [B]
        last = self._estimate
        asked = torch.ones_like(finite) if images is None else images
        taken = finite & asked
        kept = taken[:, None]  # [B, 1]
        self._estimate = CurvatureEstimate(
            direction=torch.where(asked[:, None], vectors, last.direction.flatten(2)).reshape(self._shape),
            response=torch.where(kept, response, last.response.flatten(2)).reshape(self._shape),
            rayleigh=torch.where(taken, rayleigh, last.rayleigh),
            sigma_hat=(std / alpha).expand(len(finite), 1).squeeze(1),
            finite=torch.where(asked, finite, last.finite),
            dtype=denoised.dtype,
        )
        self._vectors = torch.where(kept, moved, vectors)
        self._side = torch.where(kept, -self._side, self._side)
        self._share = torch.where(taken, share, self._share)
        return self._estimate

    @property
    def _rounds(self):
        return isinstance(self.rounding, torch.Tensor) or self.rounding > 0

    def _noise(self):
        rounding = _per_image(self.rounding, self._vectors)[:, 0]
        return (rounding / torch.as_tensor(self._radius).abs()[..., 0]).expand(self._share.shape)

    def _next_radius(self):
        radius = self.probe_radius
        if callable(radius):
            radius = radius(self._estimate.rayleigh)[..., None]
        # A forward difference errs by half a step of D''[v, v], which changes sign with the side.
        return radius * self._side if self._rounds else radius

    def _start(self, x):
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        shape = (self.directions, *x.shape)
        if self._shape == shape and self._vectors.dtype == dtype and self._vectors.device == x.device:
            return
        size = x[0].numel()
        if self.directions > size:
            raise ValueError(f"directions is {self.directions}, but an image has only {size} values; use no more.")
        keys = range(len(x)) if self.image_keys is None else self.image_keys
        if len(keys) != len(x):
            raise ValueError(f"image_keys has {len(keys)} entries for a batch of {len(x)}; it must have one per image.")
        start = torch.stack(
            [torch.stack([_gaussian(size, self.seed, key, k) for key in keys]) for k in range(self.directions)]
        ).to(x.device, dtype)
        self._shape = shape
        self._vectors = orthonormalise(start, fallback=start)
        nothing = torch.zeros_like(start)
        self._side, self._share = torch.ones_like(start[0, :, :1]), nothing[..., 0]
        self._estimate = CurvatureEstimate(
            direction=self._vectors.reshape(shape), response=nothing.reshape(shape), rayleigh=nothing[..., 0],
            sigma_hat=nothing[0, :, 0], finite=nothing[0, :, 0] == 0, dtype=x.dtype,
        )


def _gaussian(size, *identity):
    digest = hashlib.blake2b(" ".join(map(str, identity)).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return torch.randn(size, generator=generator)


def _per_image(value, like):
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1)
