"""Saddle-free guidance of any sampling loop, from the first probe to the push; after arXiv 2511.21863."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .automatic import Automatic
from .call import Question
from .fixed_steps import FixedSteps
from .run import HALVING, Run
from .trace import CurvatureTrace

AUTOMATIC = 0  # of refresh_every


class SaddleFree:
    """Saddle-free guidance of one sampling run after another, with any denoiser.

        guide = SaddleFree(scale=4.0, seed=0)
        guided = guide(denoise, x, alpha=alpha, std=std)

    denoise(x, images) gives the denoised predictions at rows x [R, ...], of the image that the LongTensor images [R]
    names for each row; x = alpha * x0 + std * noise. Each image is guided by itself, whatever else is in the batch.

    scale: length of the push in units of sigma_hat = std / alpha at a call where that has halved since the last; in
    proportion to how far it fell; 0 is off. seed: to which side of a saddle the sample goes. refresh_every: 0 probes
    where sigma and the curvature found say so, 1 once a call, n > 1 once in n steps. directions: how many directions
    are followed, >= 1. dtype: what the network computes in. mask: [B or 1, ...], 0 where the picture must not change.
    image_keys: an integer an image, by default its place in the batch. probe_radius: length of every probe in units of
    std; 0 chooses. ramp: by how much a quotient must exceed 1 for the whole push. spacing: ratio of the sigmas of two
    looks at a saddle. certainty: how many standard errors a quotient must exceed 1 by. trace: a CurvatureTrace to write
    into.
    """

    def __init__(
        self, scale: float = 1.0, seed: int = 0, refresh_every: int = AUTOMATIC, directions: int = 1,
        dtype: torch.dtype = torch.float32, *, mask: Tensor | None = None, image_keys: Sequence[int] | None = None,
        probe_radius: float = 0.0, ramp: float = 0.3, spacing: float = 2.5, certainty: float = 3.0,
        trace: CurvatureTrace | None = None,
    ) -> None:
        if not (isinstance(directions, int) and directions >= 1):
            raise ValueError(f"directions is {directions!r}; it must be a whole number of at least 1.")
        if not (isinstance(refresh_every, int) and refresh_every >= 0):
            raise ValueError(f"refresh_every is {refresh_every!r}; it must be 0, which is automatic, or more.")
        if not probe_radius >= 0:
            raise ValueError(f"probe_radius is {probe_radius}; it must be 0 for automatic, or above.")
        self.scale, self.seed, self.refresh_every, self.directions = scale, seed, refresh_every, directions
        self.dtype, self.mask, self.image_keys, self.probe_radius = dtype, mask, image_keys, probe_radius
        self.ramp, self.spacing, self.certainty = ramp, spacing, certainty
        self.trace = CurvatureTrace() if trace is None else trace
        self._run: Run | None = None

    def reset(self) -> None:
        """Begins a new run: forgets what was found, and the trace."""
        self._run = None
        self.trace.clear()

    def __call__(
        self, denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, *, alpha: float | Tensor, std: float | Tensor,
        mask: Tensor | None = None, image_keys: Sequence[int] | None = None, strength: float | Tensor | None = None,
    ) -> Tensor:
        """The guided prediction at x [B, ...]; alpha, std: floats or [B]. A new shape of x begins a new run.

        strength: what the push is multiplied with, a float or [B or 1, ...]; the search does not see it.
        """
        call = self.questions(x, alpha=alpha, std=std, mask=mask, image_keys=image_keys, strength=strength)
        rows, images = next(call)
        answer = denoise(rows, torch.tensor(images, device=x.device))
        denoised = answer[: len(x)]
        if self.scale == 0:  # as it is: adding 0 would turn -0 into 0
            return denoised
        while True:
            try:
                rows, images = call.send(answer)
            except StopIteration as end:
                guided: Tensor = denoised + end.value
                return guided
            answer = denoise(rows, torch.tensor(images, device=x.device))

    def questions(
        self, x: Tensor, *, alpha: float | Tensor, std: float | Tensor, mask: Tensor | None = None,
        image_keys: Sequence[int] | None = None, sigma: Tensor | None = None, strength: float | Tensor | None = None,
    ) -> Generator[Question, Tensor, Tensor]:
        """The evaluations of one call, for a caller that makes them itself, and the correction [B, ...] at the end.

        A generator: yields rows [R, ...] and the image of each, a list, to be answered by the predictions there. The
        first rows are x itself, maybe with probes behind it. What was found is kept only when the call ends, so that a
        call that breaks off can be made again. sigma: the name of the call in the trace, by default sigma_hat.
        """
        if x.ndim < 2:
            raise ValueError(f"x has shape {tuple(x.shape)}; it must be [batch, ...] with at least two dimensions.")
        if self.scale == 0:
            return torch.zeros_like((yield x, list(range(len(x)))))
        way = Automatic if self.refresh_every == AUTOMATIC else FixedSteps
        search = way(self, self._run_of(x, mask, image_keys), x, alpha, std)
        dtype = yield from search.evaluate()
        correction = self._push(search.run, search.sigma_hat, dtype, strength)
        traced = search.traced(correction)
        self._run = replace(search.run, sigma_hat=search.sigma_hat)  # from here on nothing can fail
        self.trace.add(search.sigma_hat[0] if sigma is None else sigma, traced)
        return correction

    @property
    def begun(self) -> bool:
        """Whether a call has ended since the run began."""
        return self._run is not None

    def last_correction(
        self, *, alpha: float | Tensor, std: float | Tensor, dtype: torch.dtype, strength: float | Tensor | None = None
    ) -> Tensor:
        """The correction [B, ...] that the last call would make now, for a sampler that asks twice at one place."""
        assert self._run is not None, "last_correction() comes after a call"
        sigma_hat = torch.as_tensor(std / alpha, dtype=self._run.ahead.dtype, device=self._run.ahead.device)
        return self._push(self._run, sigma_hat, dtype, strength)

    def weight(self, run: Run, sigma_hat: Tensor) -> Tensor:
        """How far each direction of a run acts at sigma_hat [B], from 0 to 1, [directions, B]."""
        spacing = self.spacing if self.refresh_every == AUTOMATIC else None
        return run.weight(sigma_hat, self.ramp, self.certainty, spacing)

    def _push(
        self, run: Run, sigma_hat: Tensor, dtype: torch.dtype, strength: float | Tensor | None
    ) -> Tensor:
        """scale * sigma_hat along each direction J v, as far as its quotient says that it is a saddle; [B, ...].

        In proportion to the fall of sigma_hat: a saddle opened before this call, the longer ago the fewer steps there
        are. All of it is multiplied with strength.
        """
        weight = self.weight(run, sigma_hat)  # [directions, B]
        length = self.scale * sigma_hat * run.fall / HALVING
        push = torch.where(weight > 0, length * weight, 0)[..., None] * run.ahead
        push = push.sum(dim=0)  # [B, N]
        if strength is not None:
            push = push * (run.fitted("strength", strength) if isinstance(strength, Tensor) else strength)
        push = push.to(dtype)
        return torch.where(push.isfinite().all(dim=1, keepdim=True), push, 0).reshape(run.shape[1:])

    def _run_of(self, x: Tensor, mask: Tensor | None, image_keys: Sequence[int] | None) -> Run:
        shape = (self.directions, *x.shape)
        run, dtype = self._run, torch.float64 if x.dtype == torch.float64 else torch.float32
        if run is None or run.shape != shape or run.ahead.dtype != dtype or run.ahead.device != x.device:
            keys = self.image_keys if image_keys is None else image_keys
            run = Run.begin(self.seed, shape, keys, dtype, x.device)
        return run.under(self.mask if mask is None else mask)
