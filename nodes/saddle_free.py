"""The Saddle-Free Guidance node and what one sampling run of it remembers."""

import functools
import weakref
from dataclasses import asdict, dataclass, replace

from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io

from ..curvature import (
    CurvatureTracker,
    ProbeSchedule,
    automatic_probe_radius,
    rounding_error,
    with_input_rounding,
)
from ..guidance import CurvatureTrace, saddle_free, schedule_position
from .host.compat import KEY, why_nothing_to_guide
from .host.coordinates import amplification, coordinates, image_keys, unpacked
from .host.points import Points
from .host.run import GuidedRun, guided_sampling, window_inputs
from .inputs import checked
from .live_trace import LiveTrace, Trace

AUTOMATIC = 0  # of refresh_every


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


class SaddleFreeRun(GuidedRun):
    """One sampling run: the tracked directions, the push in use, and the trace of both.

    node_id: of the node that guides, None where no executor runs it.
    """

    NAME, RANK = "Saddle-Free Guidance", 2

    def __init__(self, settings, trace, node_id, guider, noise, sigmas):
        super().__init__(guider, settings.start_percent, settings.end_percent)
        self.settings = settings
        self.schedule = sigmas.tolist()
        self.noise = weakref.ref(noise)
        self.image_keys = image_keys(noise)
        self.tracker = None
        self.estimate = None
        self.position = self.probed_at = None  # in the schedule, where every so many steps count
        self.probes = None
        self.planned = None
        self.nothing = None  # why there is nothing to guide, empty where there is
        self.latent_shapes = None
        self.trace = trace
        self.trace.begin(self.schedule)
        self.live = LiveTrace(trace, node_id, asdict(settings))

    def begun(self, model):
        """Also traces the window."""
        super().begun(model)
        self.trace.window = None if self.window is None else (self.window.start, self.window.end)

    def install(self, model_options):
        """Also says what to evaluate together with the sample."""
        super().install(model_options)
        self.predictions.companions.append(self.points)

    def sample(self, executor, *args, **kwargs):
        """The sampling; what was traced is kept however it ends."""
        self.latent_shapes = kwargs.get("latent_shapes")
        try:
            return super().sample(executor, *args, **kwargs)
        finally:
            self.live.flush()
            self.trace.end()

    def post_cfg(self, args):
        """The guided prediction; the call is traced."""
        denoised = super().post_cfg(args)
        if self.idle_reason is not None and not self.repeated:
            self.trace.add_idle(args["sigma"][0], self.idle_reason)
        self.live.update()
        return denoised

    def correction(self, args):
        """The saddle-free correction, from the estimate of this call or the one in use."""
        alpha, std = coordinates(args["model"].model_sampling, args["sigma"])
        again, points = self.repeated, None if self.repeated else self._plan(args)
        if points is not None:
            self.estimate = self._probed(args, points, alpha, std)
            self.planned = self.planned[0], None
            self.note_acted(((self.estimate.rayleigh > 1) & self.estimate.finite).any())
        estimate = replace(self.estimate, sigma_hat=std / alpha)
        correction = saddle_free(estimate, scale=self.settings.scale)
        directions = unpacked(estimate.direction, self.latent_shapes)
        if not again:
            self.trace.add(args["sigma"][0], estimate, correction, directions)
        self.planned = None
        return correction

    def points(self, args):
        """The probes of a call, as Points, before the sample is evaluated, or None.

        Also None once those of an earlier call were not used, by a guider that runs no post-CFG functions.
        """
        unused = self.planned is not None and self.planned[0] is not args["input"]
        return None if unused or self.idle(args) else self._plan(args)

    def why_idle(self, args):
        """Also where there is nothing to guide."""
        if self.nothing is None:  # at the first call, whatever its sigma
            model_sampling, x = args["model"].model_sampling, args["input"]
            self.nothing = why_nothing_to_guide(model_sampling, self.schedule, self.noise(), x) or ""
        return super().why_idle(args) or self.nothing or None

    def why_ineffective(self):
        """The model was nowhere undecided."""
        return f"the model showed no positive curvature at any of {self.active_calls} calls"

    def _plan(self, args):
        """The probes of this call as Points, or None; chosen once."""
        x = args["input"]
        if self.planned is None or self.planned[0] is not x:
            self.planned = x, self._choose(args)
        return self.planned[1]

    def _choose(self, args):
        x, (alpha, std) = args["input"], coordinates(args["model"].model_sampling, args["sigma"])
        images, chosen = self._due(args, std / alpha)
        if not images:
            return None
        if self.tracker is None:
            self.tracker = self._make_tracker(x)
        dtype, size, growth = self._precision(args, std)
        self.tracker.rounding = rounding_error(dtype, size, growth)
        self.tracker.probe_radius = self.settings.probe_radius or functools.partial(
            automatic_probe_radius, dtype, size, amplification=growth
        )
        return Points(self.tracker.probe(x, std=std), images, chosen)

    def _due(self, args, sigma_hat):
        """The places of the images to probe at this call, and a boolean [B] of the same, None where it is all or none.

        What is read here waits for the GPU; later in the call nothing does.
        """
        x, every = args["input"], self.settings.refresh_every
        reusable = self.estimate is not None and self.estimate.response.shape[1:] == x.shape
        if every == AUTOMATIC:
            if not reusable:
                self.probes = ProbeSchedule.start(len(x), x.device)
            chosen = self.probes.due(sigma_hat)
            return [place for place, due in enumerate(chosen.tolist()) if due], chosen
        if every > 1:
            self.position = schedule_position(float(args["sigma"][0]), self.schedule)
            if reusable and abs(self.position - self.probed_at) < every:
                return [], None
        return list(range(len(x))), None

    def _probed(self, args, points, alpha, std):
        """The estimate from the probes of this call."""
        main = self.predictions.main(args)
        probed = self.predictions.elsewhere(args, main, points)
        estimate = self.tracker.update(main.denoised, probed, alpha=alpha, std=std, images=points.chosen)
        if points.chosen is not None:
            self.probes = self.probes.after(estimate, points.chosen)
        self.probed_at = self.position
        return estimate

    def _precision(self, args, std):
        """What the network computes in, the values of an image, and how rounding errors grow, [B]."""
        model, x = args["model"], args["input"]
        growth = with_input_rounding(amplification(model.model_sampling, args["sigma"], std), x, std)
        return model.get_dtype_inference(), x[0].numel(), growth

    def _make_tracker(self, x):
        size = x[0].numel()
        keys = self.image_keys if self.image_keys is not None and len(self.image_keys) == len(x) else None
        return CurvatureTracker(
            seed=self.settings.guidance_seed, directions=min(self.settings.directions, size), image_keys=keys
        )


class SaddleFreeGuidance(io.ComfyNode):
    """Adds saddle-free guidance to a model."""

    @classmethod
    def define_schema(cls):
        """Inputs and outputs; saved graphs store widget values by position, so inputs are only ever appended."""
        return io.Schema(
            node_id="SaddleFreeGuidance",
            display_name="Saddle-Free Guidance",
            category="model/patch/saddle-free",
            description=(
                "Better and more varied pictures from the model you have: while sampling, finds the direction in which "
                "the model is undecided between two pictures and pushes the sample out of it. No labels, no second "
                "model, no training. Costs a few extra model evaluations per picture."
            ),
            search_aliases=["SFG", "saddle", "curvature guidance", "guidance without negative prompt"],
            inputs=[
                io.Model.Input("model", tooltip="The model to guide. Works with any sampler, guider and CFG."),
                io.Float.Input(
                    "scale", default=4.0, min=0.0, max=20.0, step=0.05, round=0.001,
                    tooltip="How hard the sample is pushed out of saddles, where the model is undecided. Useful range "
                    "1 to 8; too much simplifies shapes and strengthens colours. 0 is off: the same picture as "
                    "without the node, at no cost.",
                ),
                io.Int.Input(
                    "guidance_seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=False,
                    tooltip="Where the search for the direction starts. The same noise with another guidance seed is "
                    "another picture, so try a few. Any whole number. Has no off; no effect at scale 0.",
                ),
                *window_inputs(),
                io.Float.Input(
                    "probe_radius", default=0.0, min=0.0, max=10.0, step=0.01, round=0.001, advanced=True,
                    tooltip="How far from the sample the model is asked a second time, in units of the noise level. "
                    "0 chooses by the model's precision, the latent's size and the curvature found. Useful range 0.05 "
                    "to 0.5 in full precision, 0.5 to 8 in half precision, more for larger latents: too small drowns "
                    "in rounding, too large blurs the direction. Has no off.",
                ),
                io.Int.Input(
                    "refresh_every", default=0, min=0, max=64, advanced=True,
                    tooltip="How often the direction is estimated anew; in between its push is reused. 0 decides by "
                    "sigma and by the curvature found, which takes about 5 to 12 extra evaluations per picture. 1 is "
                    "every call (reuse off); 2 to 4 are every so many steps.",
                ),
                io.Int.Input(
                    "directions", default=1, min=1, max=16, advanced=True,
                    tooltip="How many directions are followed at once, each with one extra evaluation. 1 follows only "
                    "the strongest, the best value for its cost on the demo model; useful range 1 to 4, where more "
                    "also push out of weaker saddles. Has no off.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with guidance."),
                Trace.Output(
                    "trace", display_name="trace",
                    tooltip="What guidance saw and did at every call of the last sampling. Connect it to a Curvature "
                    "Scope.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(cls, model, scale, guidance_seed, start_percent, end_percent, probe_radius, refresh_every, directions):
        """A clone of the model with the guidance attached, or the model itself when scale is 0; and the trace."""
        if scale == 0:
            return io.NodeOutput(model, CurvatureTrace(off="Saddle-Free Guidance is off: its scale is 0."))
        settings = Settings(
            scale, guidance_seed, start_percent, end_percent, probe_radius, refresh_every, directions
        )
        trace, node_id = CurvatureTrace(), getattr(cls.hidden, "unique_id", None)
        guided = model.clone()
        guided.add_wrapper_with_key(
            WrappersMP.OUTER_SAMPLE, KEY, guided_sampling(functools.partial(SaddleFreeRun, settings, trace, node_id))
        )
        return io.NodeOutput(guided, trace)
