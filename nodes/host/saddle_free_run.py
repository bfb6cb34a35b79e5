"""One sampling run of Saddle-Free Guidance: the guide, asked through the host."""

import functools
import weakref
from dataclasses import dataclass

import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...guidance import SaddleFree
from ...guidance.strength import CONSTANT
from .compat import KEY, frames_per_video, parts_left_out, why_nothing_to_guide
from .coordinates import coordinates, image_keys, unpacked
from .frames import Frames
from .points import Points
from .run import GuidedRun
from .strength import Strength


@dataclass(frozen=True)
class Settings:
    """The node's knobs."""

    scale: float
    guidance_seed: int
    start_percent: float
    end_percent: float
    probe_radius: float
    refresh_every: int
    directions: int
    strength_curve: str = CONSTANT


class SaddleFreeRun(GuidedRun):
    """One sampling run: the guide, asked through the host, and its trace.

    masks: how strong it is in the picture, a MASK or None; watch: gives what shows the trace while it grows, with
    `update`, called after each model call, and `flush`, called at the end.
    """

    NAME, RANK = "Saddle-Free Guidance", 2

    def __init__(self, settings, masks, trace, watch, guider, noise, sigmas):
        super().__init__(guider, settings.start_percent, settings.end_percent)
        self.settings = settings
        self.schedule = sigmas.tolist()
        self.noise = weakref.ref(noise)
        self.image_keys = image_keys(noise)
        self.strength = Strength(masks, settings.strength_curve, self.percents)
        self.denoise_mask = None  # where the picture may change, as the sampler has it
        self.guided_part = None  # which values of a packed latent are guided, None for all
        self.guide = None
        self.frames = Frames(1)
        self.call = None  # of the guide: x, the generator, and what is asked beside x
        self.why_nothing = None  # why there is nothing to guide, empty where there is
        self.trace = trace
        self.trace.begin(self.schedule, continues=self.image_keys is None)
        self.first_call = len(trace)  # of the run's own calls
        self.live = watch()

    def begun(self, model):
        """Also traces the window, and how the model's percents lie."""
        super().begun(model)
        self.trace.sigma_of = model.model_sampling.percent_to_sigma
        self.trace.window = None if self.window is None else (self.window.start, self.window.end)

    def install(self, model_options):
        """Also says what to evaluate together with the sample, and takes the mask as the sampler gets it."""
        super().install(model_options)
        self.predictions.companions.append(self.points)
        add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, self.masked, model_options, is_model_options=True)

    def masked(self, executor, guider, sigmas, extra_args, callback, noise, latent=None, denoise_mask=None, *args):
        """SAMPLER_SAMPLE wrapper: remembers where the picture may change."""
        self.denoise_mask = denoise_mask
        return executor(guider, sigmas, extra_args, callback, noise, latent, denoise_mask, *args)

    def sample(self, executor, noise, latent_image, *args, **kwargs):
        """The sampling; what was traced is kept however it ends."""
        self.strength.latent_shapes = shapes = kwargs.get("latent_shapes")
        self.strength.check(noise.shape)
        self.trace.layout = None if shapes is None else functools.partial(unpacked, latent_shapes=shapes)
        if self.image_keys is None:  # without noise, what is sampled from names the image
            self.image_keys = image_keys(latent_image)
        try:
            return super().sample(executor, noise, latent_image, *args, **kwargs)
        finally:
            self.trace.end()
            self.live.flush()

    def post_cfg(self, args):
        """The guided prediction; the call is traced."""
        denoised = super().post_cfg(args)
        if self.idle_reason is not None and not self.repeated:
            self.trace.add_idle(args["sigma"][0], self.idle_reason)
        self.live.update()
        return denoised

    def correction(self, args):
        """The saddle-free correction, from the answers to what the guide asks."""
        if self.repeated and self.guide is not None and self.guide.begun:
            alpha, std = self._coordinates(args)
            dtype, strength = args["denoised"].dtype, self._strength(args)
            return self.frames.apart(self.guide.last_correction(alpha=alpha, std=std, dtype=dtype, strength=strength))
        call, points = self._ask(args)
        self.call = None
        main = self.predictions.main(args)
        answer = self.frames.together(main.denoised)
        while True:
            if points is not None:
                there = self.frames.together(self.predictions.elsewhere(args, main, points))
                answer = there if answer is None else torch.cat([answer, there])
            try:
                points = self._points(*call.send(answer))
            except StopIteration as end:
                return self.frames.apart(end.value)
            answer = None

    def points(self, args):
        """The probes of a call, as Points, before the sample is evaluated, or None.

        Also None once those of an earlier call were not used, by a guider that runs no post-CFG functions.
        """
        unused = self.call is not None and self.call[0] is not args["input"]
        return None if unused or self.idle(args) else self._ask(args)[1]

    def why_idle(self, args):
        """Also where there is nothing to guide."""
        if self.why_nothing is None:  # at the first call, whatever its sigma
            model_sampling, cond = args["model"].model_sampling, self.predictions.main_cond(args)
            why = why_nothing_to_guide(model_sampling, self.schedule, self.noise(), args["input"], cond)
            self.why_nothing = why or ""
        return super().why_idle(args) or self.why_nothing or None

    def has_acted(self):
        """Whether anything was pushed; the trace has it in the host's memory by now."""
        pushes = (call.push for call in self.trace.calls[self.first_call :])
        return any(push is not None and bool((push > 0).any()) for push in pushes)

    def why_ineffective(self):
        """The model was nowhere undecided, or where it was, the strength is 0."""
        if any(call.weight is not None and bool((call.weight > 0).any()) for call in self.trace):
            return "strength_mask and strength_curve left nothing of the push"
        return f"the model showed no positive curvature at any of {self.active_calls} calls"

    def _ask(self, args):
        """The guide's call at this x and what it asks beside x, begun once."""
        x = args["input"]
        if self.call is None or self.call[0] is not x:
            if self.guide is None:
                self._begin(args)
            alpha, std = self._coordinates(args)
            call = self.guide.questions(
                self.frames.together(x), alpha=alpha, std=std, mask=self._mask(x), sigma=args["sigma"][0],
                strength=self._strength(args),
            )
            rows, images = next(call)
            count = len(x) // self.frames.count
            self.call = x, call, self._points(rows[count:], images[count:])
        return self.call[1:]

    def _begin(self, args):
        settings, x, cond = self.settings, args["input"], self.predictions.main_cond(args)
        self.frames = Frames.of(frames_per_video(cond), len(x))
        left_out = parts_left_out(args["model"], cond)
        self.guided_part = None if left_out is None else (~left_out).to(x.device, x.dtype)
        keys, frames = self.image_keys, self.frames.count
        keys = keys[::frames] if keys is not None and len(keys) == len(x) else None
        self.guide = SaddleFree(
            settings.scale, settings.guidance_seed, settings.refresh_every,
            min(settings.directions, frames * x[0].numel()), args["model"].get_dtype_inference(),
            image_keys=keys, probe_radius=settings.probe_radius, trace=self.trace,
        )

    def _points(self, rows, images):
        if not images:
            return None
        return Points(self.frames.apart(rows), self.frames.images(images))

    def _coordinates(self, args):
        return coordinates(args["model"].model_sampling, args["sigma"][:: self.frames.count])

    def _mask(self, x):
        """Where guidance may change the picture, in the layout of x, or None for everywhere."""
        if self.denoise_mask is None or self.denoise_mask.shape[1:] != x.shape[1:]:
            return self.guided_part
        mask = self.frames.together(self.denoise_mask.to(x.device).expand(x.shape))
        return mask if self.guided_part is None else mask * self.guided_part

    def _strength(self, args):
        """What the push is multiplied with, in the layout of what the guide sees, or None."""
        x, sigma = args["input"], args["sigma"][0]
        strength = self.strength.at(x, sigma, args["model"].model_sampling)
        if isinstance(strength, torch.Tensor) and self.frames.count > 1:
            strength = self.frames.together(strength.expand(len(x), *strength.shape[1:]))
        return strength
