"""Saddle-free guidance as a guider of diffusers, around any other guider."""

import torch
from diffusers import BaseGuidance, ClassifierFreeGuidance
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ..guidance import CurvatureTrace, SaddleFree, image_digests
from .asked import Asked
from .schedulers import as_answer, coordinates, denoised, prediction


class SaddleFreeGuidance(BaseGuidance):
    """Adds saddle-free guidance to what another guider makes of a network's predictions.

        guider = SaddleFreeGuidance(ClassifierFreeGuidance(guidance_scale=5.0), pipe.scheduler, scale=8.0, seed=0)
        pipe.update_components(guider=guider)

    A guider's batches are chosen before the network is asked, while here an answer decides about the next question. So
    the call of the network for the prompt is remembered, and asked again about latents beside those of the pipeline.

    guider: classifier-free guidance as it is by default, if none is given; for none, one with guidance_scale=1.
    scheduler: that of the pipeline, which tells the noise level. scale: how far the picture is pushed, in units of the
    noise that is left, where a step halves that; useful 2 to 16; 0 is off, the same picture as with `guider` alone at
    no cost. seed: to which side of a saddle it goes. refresh_every, directions, probe_radius: as in
    saddle_free_guidance.guidance.SaddleFree. start, stop: the part of the steps in which the picture is pushed;
    `guider` has its own.
    trace: what was found at each step of the last run.
    """

    _input_predictions = ["pred_cond"]

    def __init__(
        self, guider: BaseGuidance | None = None, scheduler=None, scale: float = 8.0, seed: int = 0,
        refresh_every: int = 0, directions: int = 1, probe_radius: float = 0.0, start: float = 0.0, stop: float = 1.0,
    ) -> None:
        self.guider = ClassifierFreeGuidance() if guider is None else guider
        super().__init__(start, stop)
        self.register_to_config(
            scale=scale, seed=seed, refresh_every=refresh_every, directions=directions, probe_radius=probe_radius,
            start=start, stop=stop,
        )
        self.scheduler, self.scale = scheduler, scale
        self.trace = CurvatureTrace()
        self._guide = SaddleFree(
            scale, seed, refresh_every, directions, probe_radius=probe_radius, trace=self.trace
        )
        self._handle: RemovableHandle | None = None
        self._call: tuple | None = None  # network, args, kwargs, and what it answered

    def __getattr__(self, name):
        """Whatever else a pipeline asks of a guider, such as guidance_scale, is the inner one's."""
        if name.startswith("_") or name == "guider":
            raise AttributeError(name)
        return getattr(self.guider, name)

    @property
    def _enabled(self):
        return self.guider._enabled

    @_enabled.setter
    def _enabled(self, enabled):
        """Set by the base class; whether the inner guider is enabled is its own."""

    def disable(self) -> None:
        """Switches the inner guider off, as pipelines do for networks that need none; saddle-free stays."""
        self.guider.disable()

    def enable(self) -> None:
        """Switches the inner guider on."""
        self.guider.enable()

    def new(self, **kwargs) -> "SaddleFreeGuidance":
        """A copy with other settings, around the same guider or another."""
        kwargs = {"guider": self.guider.new(), "scheduler": self.scheduler, **kwargs}
        return type(self).from_config(self.config, **kwargs)

    def set_state(self, step: int, num_inference_steps: int, timestep: Tensor) -> None:
        """A step of the loop begins; the first begins a run."""
        super().set_state(step, num_inference_steps, timestep)
        self.guider.set_state(step, num_inference_steps, timestep)
        if step == 0:
            self._guide.reset()
            self._guide.image_keys = None

    def prepare_inputs(self, data):
        """The batches of the inner guider."""
        return self.guider.prepare_inputs(data)

    def prepare_inputs_from_block_state(self, data, input_fields):
        """The batches of the inner guider."""
        return self.guider.prepare_inputs_from_block_state(data, input_fields)

    def prepare_models(self, denoiser: torch.nn.Module) -> None:
        """Before the network is called for a batch; the first is that of the prompt."""
        self.guider.prepare_models(denoiser)
        if self.guider._count_prepared == 1 and self.is_active:
            if getattr(denoiser, "is_cache_enabled", False):
                raise ValueError(
                    f"{type(denoiser).__name__} answers from a cache, which would take a probe for the picture; call "
                    "its disable_cache(), or set the scale of SaddleFreeGuidance to 0."
                )
            self._handle = denoiser.register_forward_hook(self._remember, with_kwargs=True)

    def cleanup_models(self, denoiser: torch.nn.Module) -> None:
        """After the network was called for a batch."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self.guider.cleanup_models(denoiser)

    def __call__(self, data):
        """What the inner guider makes of the predictions, and the correction added."""
        output, call = self.guider(data), self._call
        self._call = None
        if call is not None:
            output.pred = output.pred + self._correction(Asked(*call, data[0].noise_pred)).to(output.pred.dtype)
        return output

    def forward(self, *args, **kwargs):
        """What the inner guider makes of predictions."""
        return self.guider.forward(*args, **kwargs)

    @property
    def is_active(self) -> bool:
        """Whether this step is one in which the picture is pushed."""
        if self.scale == 0:
            return False
        steps = self._num_inference_steps
        return steps is None or int(self._start * steps) <= self._step < int(self._stop * steps)

    @property
    def is_conditional(self) -> bool:
        """Whether the network is asked for the prompt."""
        return self.guider.is_conditional

    @property
    def num_conditions(self) -> int:
        """How many batches the inner guider has."""
        return self.guider.num_conditions

    def _remember(self, denoiser, args, kwargs, answered):
        self._call = denoiser, args, kwargs, answered

    def _correction(self, asked: Asked) -> Tensor:
        """What to add to the prediction [B, ...]; asks the network again where the guide wants to know more."""
        if self.scheduler is None:
            raise ValueError("SaddleFreeGuidance does not know the noise level; give it scheduler=pipe.scheduler.")
        alpha, std = coordinates(self.scheduler, torch.as_tensor(self._timestep))
        kind = prediction(self.scheduler)

        def read(x, answer):
            return denoised(kind, x, answer.to(x.dtype), alpha, std)

        x = asked.x if asked.x.dtype == torch.float64 else asked.x.float()
        self._guide.dtype = getattr(asked.network, "dtype", asked.x.dtype)
        if self._guide.image_keys is None:
            self._guide.image_keys = image_digests(x)
        call = self._guide.questions(x, alpha=alpha, std=std)
        rows, images = next(call)
        answer = read(x, asked.answer)
        if len(rows) > len(x):
            answer = torch.cat([answer, asked.rows(rows[len(x) :], images[len(x) :], read)])
        while True:
            try:
                rows, images = call.send(answer)
            except StopIteration as end:
                return as_answer(kind, end.value, alpha, std)
            answer = asked.rows(rows, images, read)
