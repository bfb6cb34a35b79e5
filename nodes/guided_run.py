"""What every guidance node does in a sampling run: hooks for its time only, a window of sigma, one line when idle."""

import logging

import comfy.model_management
import comfy.model_patcher
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy_api.latest import io

from ..guidance import SigmaWindow
from .host import why_not_asked
from .predictions import RawPredictions

KEY = "saddle_free_guidance"
IMAGE_KEYS = "saddle_free_image_keys"  # among the transformer options of a weak model
log = logging.getLogger(__name__)


class GuidedRun:
    """One sampling run of one node: adds `correction(args)` to the denoised prediction at each active call.

    Subclasses give NAME and RANK, `correction` and `why_ineffective`. Corrections
    are added in the order of RANK, so the order of the nodes does not change a bit of the result.
    """

    NAME = ""
    RANK = 0

    def __init__(self, guider, start_percent, end_percent):
        self.guider = guider
        self.percents = start_percent, end_percent
        self.window = None
        if start_percent > 0 or end_percent < 1:
            model_sampling = guider.model_patcher.get_model_object("model_sampling")
            self.window = SigmaWindow(*(float(model_sampling.percent_to_sigma(share)) for share in self.percents))
        self.predictions = None
        self.calls = 0
        self.active_calls = 0
        self.idle_reason = None
        self.decided = None
        self.acted = None
        self.out_of_memory = False

    def correction(self, args):
        """What to add to the denoised prediction, from the arguments of a post-CFG function."""
        raise NotImplementedError

    def why_idle(self, args):
        """Why guidance does not act at this call, as the end of a sentence, or None."""
        if self.out_of_memory:
            return "memory ran out"
        if self.window is not None and not self.window.contains(float(args["sigma"][0])):
            start, end = self.percents
            return f"sigma was outside start_percent {start:g} to end_percent {end:g}"
        return why_not_asked(args["model_options"])

    def idle(self, args):
        """`why_idle`, decided once in a call, because it may wait for the GPU."""
        x = args["input"]
        if self.decided is None or self.decided[0] is not x:
            self.decided = x, self.why_idle(args)
        return self.decided[1]

    def why_ineffective(self):
        """Why active calls changed nothing, as the end of a sentence."""
        raise NotImplementedError

    def sample(self, executor, *args, **kwargs):
        """The sampling itself, for subclasses that must prepare something around it."""
        return executor(*args, **kwargs)

    def install(self, model_options):
        """Adds this run's hooks to the run's own copy of the model options."""
        functions = list(model_options.get("sampler_post_cfg_function", []))
        runs = [getattr(function, "__self__", None) for function in functions]
        other = next((run for run in runs if isinstance(run, GuidedRun)), None)
        self.predictions = RawPredictions() if other is None else other.predictions
        if other is None:
            for kind, wrapper in (
                (WrappersMP.PREDICT_NOISE, self.predictions.evaluation),
                (WrappersMP.CALC_COND_BATCH, self.predictions.batch),
            ):
                add_wrapper_with_key(kind, KEY, wrapper, model_options, is_model_options=True)
        later = (i for i, run in enumerate(runs) if isinstance(run, GuidedRun) and run.RANK > self.RANK)
        functions.insert(next(later, len(functions)), self.post_cfg)
        model_options["sampler_post_cfg_function"] = functions

    def post_cfg(self, args):
        """Post-CFG function: the denoised prediction plus the correction."""
        self.calls += 1
        self.idle_reason = self.idle(args)
        self.decided = None
        if self.idle_reason is not None:
            return args["denoised"]
        correction = self._correction_in_memory(args)
        if correction is None:
            self.out_of_memory = True
            self.idle_reason = self.why_idle(args)
            log.warning(
                "%s: memory ran out for its extra evaluation, twice; the rest of this image is made without it.",
                self.NAME,
            )
            return args["denoised"]
        self.active_calls += 1
        return args["denoised"] + correction

    def _correction_in_memory(self, args):
        """The correction, tried once more after freeing memory where it ran out, or None."""
        for _ in range(2):
            try:
                return self.correction(args)
            except Exception as error:
                if not comfy.model_management.is_oom(error):
                    raise
            # Outside the handler, whose traceback would keep the evaluation's tensors alive.
            comfy.model_management.soft_empty_cache()
        return None

    def note_acted(self, acted):
        """Remembers whether anything was added; acted: a boolean tensor, read at the run's end only."""
        self.acted = acted if self.acted is None else self.acted | acted

    def report(self):
        """Says once, in one line, why guidance could not act in this run, if so."""
        if self.out_of_memory:
            return
        if self.calls == 0:
            reason = f"{type(self.guider).__name__} runs no post-CFG functions with these settings"
        elif self.active_calls == 0:
            reason = self.idle_reason
        elif not self.acted.item():
            reason = self.why_ineffective()
        else:
            return
        log.warning("%s did not change this image: %s.", self.NAME, reason)


def guided_sampling(make_run):
    """OUTER_SAMPLE wrapper that gives each sampling run its own state and hooks, and takes them away at its end.

    make_run: called with the guider, the noise and the sigmas; gives a GuidedRun.
    """

    def outer_sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        run = make_run(guider, noise, sigmas)
        model_options = guider.model_options
        guider.model_options = comfy.model_patcher.create_model_options_clone(model_options)
        try:
            run.install(guider.model_options)
            output = run.sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            guider.model_options = model_options
        run.report()
        return output

    return outer_sample


def without_guidance(model):
    """A clone of the patcher without the guidance that nodes of this pack have attached."""
    plain = model.clone()
    plain.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    plain.wrappers = {kind: wrappers for kind, wrappers in plain.wrappers.items() if wrappers}
    plain.remove_additional_models(KEY)
    return plain


def window_inputs():
    """The inputs of a node that set when guidance is active."""
    return [
        io.Float.Input(
            "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, round=0.001,
            tooltip="When guidance begins, as a share of sampling. 0 is from the first step; later keeps more "
            "of the composition that the model would have made. Useful range 0 to 0.5; 1 is off.",
        ),
        io.Float.Input(
            "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, round=0.001,
            tooltip="When guidance ends, as a share of sampling. 1 is at the last step; earlier saves time "
            "and leaves fine detail to the model. Useful range 0.5 to 1; 0 is off.",
        ),
    ]
