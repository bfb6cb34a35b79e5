"""One sampling run of Auto-Guidance: the weak model beside the main one."""

from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...guidance import auto_guidance
from .compat import KEY
from .coupling import Coupling
from .run import GuidedRun
from .weak import WeakModel


class AutoGuidanceRun(GuidedRun):
    """One sampling run: the weak model beside the main one; weak: as with_weak_model gives it."""

    NAME, RANK = "Auto-Guidance", 1

    def __init__(self, scale, start_percent, end_percent, weak, guider, noise, sigmas):
        super().__init__(guider, start_percent, end_percent)
        self.scale = scale
        self.weak = WeakModel(weak, guider, noise)

    def install(self, model_options):
        """Also prepares the weak model when the models are loaded."""
        super().install(model_options)
        self.weak.coupling = Coupling(self.trust)
        add_wrapper_with_key(
            WrappersMP.SAMPLER_SAMPLE, KEY, self.weak.sampling, model_options, is_model_options=True
        )

    def sample(self, executor, *args, **kwargs):
        """The sampling within the weak model's own wrappers."""
        return self.weak.sample(executor, *args, **kwargs)

    def correction(self, args):
        """The auto-guidance correction at this call."""
        main = self.predictions.main(args)
        weak_denoised = self.weak.denoised(main, args["input"], args["sigma"])
        correction = auto_guidance(main.denoised, weak_denoised, scale=self.scale)
        self.note_acted((correction != 0).any())
        return correction

    def why_ineffective(self):
        """Two files may hold the same weights."""
        return f"the weak model predicted the same as the model at each of {self.active_calls} calls"
