"""What every guidance node does in a sampling run: hooks for its time only, a window of sigma, one line when idle."""

import logging

import comfy.model_management
import comfy.model_patcher
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...guidance import SigmaWindow
from .compat import KEY, why_not_asked
from .evaluate import RawPredictions
from .evaluated import UnansweredError
from .last_call import LastCall
from .trust import Trust

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
        self.trust = Trust()
        self.predictions = None
        self.has_begun = False
        self.repeated = False
        self._last_call = LastCall()
        self.calls = 0
        self.active_calls = 0
        self.unanswered = {}  # reason: number of calls
        self.idle_reason = None
        self._decided = None
        self.acted = None
        self.out_of_memory = False

    def correction(self, args):
        """What to add to the denoised prediction, from the arguments of a post-CFG function.

        Where `repeated` is set, the sampler asks at the same place again, or memory ran out after what was asked had
        been answered: the estimate stays as it is.
        """
        raise NotImplementedError

    def begun(self, model):
        """The first call: the schedule of the model that is evaluated, and no other, says where the window lies."""
        if self.percents[0] > 0 or self.percents[1] < 1:
            sigmas = (float(model.model_sampling.percent_to_sigma(share)) for share in self.percents)
            self.window = SigmaWindow(*sigmas)

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
        if not self.has_begun:
            self.has_begun = True
            self.begun(args["model"])
        if self._decided is None or self._decided[0] is not x:
            self._decided = x, self.why_idle(args)
        return self._decided[1]

    def why_ineffective(self):
        """Why active calls changed nothing, as the end of a sentence."""
        raise NotImplementedError

    def sample(self, executor, *args, **kwargs):
        """The sampling itself, for subclasses that must prepare something around it."""
        return executor(*args, **kwargs)

    def end(self):
        """The run is over, however it ended."""
        if self.predictions is not None:
            self.predictions.end()

    def install(self, model_options):
        """Adds this run's hooks to the run's own copy of the model options."""
        functions = list(model_options.get("sampler_post_cfg_function", []))
        runs = [getattr(function, "__self__", None) for function in functions]
        other = next((run for run in runs if isinstance(run, GuidedRun)), None)
        self.predictions = RawPredictions(self.trust) if other is None else other.predictions
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
        self.repeated = self._last_call.is_at(args["input"], args["sigma"])
        self._last_call = LastCall(args["input"], args["sigma"])
        self.calls += 1
        self.idle_reason = self.idle(args)
        self._decided = None
        if self.idle_reason is not None:
            return args["denoised"]
        try:
            correction = self._correction_in_memory(args)
        except UnansweredError as reason:
            self.idle_reason, self._last_call = str(reason), LastCall()
            self.unanswered[self.idle_reason] = self.unanswered.get(self.idle_reason, 0) + 1
            return args["denoised"]
        if correction is None:
            self._give_up(args)
            return args["denoised"]
        self.active_calls += 1
        return args["denoised"] + correction

    def _give_up(self, args):
        self.out_of_memory = True
        self.idle_reason = self.why_idle(args)
        log.warning(
            "%s: memory ran out for its extra evaluation, twice; the rest of this image is made without it.", self.NAME
        )

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

    def has_acted(self):
        """Whether anything was added in the run that is over; waits for the GPU."""
        return bool(self.acted.item())

    def report(self):
        """Says once, in one line, why guidance could not act in this run, if so."""
        if self.out_of_memory:
            return
        if self.calls == 0:
            reason = f"{type(self.guider).__name__} runs no post-CFG functions with these settings"
        elif self.active_calls == 0:
            reason = self.idle_reason
        elif self.unanswered:
            reason, calls = next(iter(self.unanswered.items()))
            log.warning("%s left out %d of %d calls: %s.", self.NAME, calls, self.calls, reason)
            return
        elif not self.has_acted():
            reason = self.why_ineffective()
        else:
            return
        log.warning("%s did not change this image: %s.", self.NAME, reason)


def guided_sampling(make_run):
    """OUTER_SAMPLE wrapper that gives each sampling run its own state and hooks, and takes them away at its end.

    make_run: called with the guider, the noise and the sigmas; gives a GuidedRun.
    """

    trust = Trust()  # lives as long as the node's model, and knows the models that it has sampled

    def outer_sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        run = make_run(guider, noise, sigmas)
        run.trust = trust
        model_options = guider.model_options
        guider.model_options = comfy.model_patcher.create_model_options_clone(model_options)
        try:
            run.install(guider.model_options)
            output = run.sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            guider.model_options = model_options
            run.end()
        run.report()
        return output

    return outer_sample


def guided(model, make_run):
    """A clone of the patcher whose every sampling run is guided by what `make_run` gives, as for guided_sampling."""
    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, guided_sampling(make_run))
    return clone


def without_guidance(model):
    """A clone of the patcher without the guidance that nodes of this pack have attached."""
    plain = model.clone()
    plain.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    plain.wrappers = {kind: wrappers for kind, wrappers in plain.wrappers.items() if wrappers}
    plain.remove_additional_models(KEY)
    return plain
