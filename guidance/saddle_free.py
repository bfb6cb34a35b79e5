"""Saddle-free guidance of any sampling loop, from the first probe to the push; after arXiv 2511.21863."""

import torch

from .search import AUTOMATIC, Run, Search
from .trace import CurvatureTrace


class SaddleFree:
    """Saddle-free guidance of one sampling run after another, with any denoiser.

        guide = SaddleFree(scale=4.0, seed=0)
        guided = guide(denoise, x, alpha=alpha, std=std)

    denoise(x, images) gives the denoised predictions at rows x [R, ...], of the image that the LongTensor images [R]
    names for each row; x = alpha * x0 + std * noise. Each image is guided by itself, whatever else is in the batch.

    scale: length of the push in units of sigma_hat = std / alpha; 0 is off. seed: to which
    side of a saddle the sample goes. refresh_every: 0 probes where sigma and the curvature found say so; n >= 1 probes
    as often as makes one evaluation in n steps. directions: how many directions are followed, >= 1. dtype: what the
    network computes in. mask: [B or 1, ...], 0 where the picture must not change. image_keys: an integer an image, by
    default its place in the batch. probe_radius: length of every probe in units of std; 0 chooses. ramp: by how much a
    quotient must exceed 1 for the whole push. spacing: ratio of the sigmas of two looks at a saddle. certainty: how many
    standard errors a quotient must exceed 1 by.
    trace: a CurvatureTrace to write into.
    """

    def __init__(
        self, scale=1.0, seed=0, refresh_every=AUTOMATIC, directions=1, dtype=torch.float32, *, mask=None,
        image_keys=None, probe_radius=0.0, ramp=0.1, spacing=2.5, certainty=3.0, trace=None,
    ):
        if not (isinstance(directions, int) and directions >= 1):
            raise ValueError(f"directions is {directions!r}; it must be a whole number of at least 1.")
        if not (isinstance(refresh_every, int) and refresh_every >= 0):
            raise ValueError(f"refresh_every is {refresh_every!r}; it must be 0 for automatic, or a whole number above.")
        if not probe_radius >= 0:
            raise ValueError(f"probe_radius is {probe_radius}; it must be 0 for automatic, or above.")
        self.scale, self.seed, self.refresh_every, self.directions = scale, seed, refresh_every, directions
        self.dtype, self.mask, self.image_keys, self.probe_radius = dtype, mask, image_keys, probe_radius
        self.ramp, self.spacing, self.certainty = ramp, spacing, certainty
        self.trace = CurvatureTrace() if trace is None else trace
        self._run = None

    def reset(self):
        """Begins a new run: forgets what was found, and the trace."""
        self._run = None
        self.trace.clear()

    def __call__(self, denoise, x, *, alpha, std, mask=None, image_keys=None):
        """The guided prediction at x [B, ...]; alpha, std: floats or [B]. A new shape of x begins a new run."""
        call = self.questions(x, alpha=alpha, std=std, mask=mask, image_keys=image_keys)
        rows, images = next(call)
        answer = denoise(rows, torch.tensor(images, device=x.device))
        denoised = answer[: len(x)]
        while True:
            try:
                rows, images = call.send(answer)
            except StopIteration as end:
                return denoised + end.value
            answer = denoise(rows, torch.tensor(images, device=x.device))

    def questions(self, x, *, alpha, std, mask=None, image_keys=None, sigma=None):
        """The evaluations of one call, for a caller that makes them itself, and the correction [B, ...] at the end.

        A generator: yields rows [R, ...] and the image of each, a list, to be answered by the predictions there. The
        first rows are x itself, maybe with probes behind it. What was found is kept only when the call ends, so that a
        call that breaks off can be made again. sigma: the name of the call in the trace, by default sigma_hat.
        """
        if x.ndim < 2:
            raise ValueError(f"x has shape {tuple(x.shape)}; it must be [batch, ...] with at least two dimensions.")
        if self.scale == 0:
            return torch.zeros_like((yield x, list(range(len(x)))))
        search = Search(self, self._run_of(x, mask, image_keys), x, alpha, std)
        dtype = yield from search.evaluate()
        self._run = search.run
        correction = self._push(search.run, search.sigma_hat).to(dtype)
        self.trace.add(search.sigma_hat[0] if sigma is None else sigma, search.traced(correction))
        return correction

    @property
    def begun(self):
        """Whether a call has ended since the run began."""
        return self._run is not None

    def again(self, *, alpha, std, dtype):
        """The correction [B, ...] of the last call once more, for a sampler that asks twice at one place."""
        sigma_hat = torch.as_tensor(std / alpha, dtype=self._run.ahead.dtype, device=self._run.ahead.device)
        return self._push(self._run, sigma_hat).to(dtype)

    def _push(self, run, sigma_hat):
        """scale * sigma_hat along each direction J v, as far as its quotient says that it is a saddle; [B, ...]."""
        weight = run.weight(self, sigma_hat)  # [directions, B]
        push = torch.where(weight > 0, self.scale * sigma_hat * weight, 0)[..., None] * run.ahead
        push = push.sum(dim=0)  # [B, N]
        return torch.where(push.isfinite().all(dim=1, keepdim=True), push, 0).reshape(run.shape[1:])

    def _run_of(self, x, mask, image_keys):
        shape = (self.directions, *x.shape)
        run, dtype = self._run, torch.float64 if x.dtype == torch.float64 else torch.float32
        if run is None or run.shape != shape or run.ahead.dtype != dtype or run.ahead.device != x.device:
            keys = self.image_keys if image_keys is None else image_keys
            run = Run.begin(self.seed, shape, keys, dtype, x.device)
        return run.under(self.mask if mask is None else mask)
