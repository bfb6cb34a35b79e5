"""The Auto-Guidance node."""

import functools

from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy_api.latest import io

from ..guidance import auto_guidance
from .host.compat import KEY
from .host.coupling import Coupling
from .host.run import GuidedRun, guided_sampling, window_inputs
from .inputs import checked
from .weak_model import WeakModel, refuse_misfit, with_own_weights


class AutoGuidanceRun(GuidedRun):
    """One sampling run: the weak model beside the main one.

    weak: the weak patcher where it shares the main one's weights, else its place among the additional models.
    """

    NAME, RANK = "Auto-Guidance", 1

    def __init__(self, scale, start_percent, end_percent, weak, guider, noise, sigmas):
        super().__init__(guider, start_percent, end_percent)
        self.scale = scale
        shared = not isinstance(weak, int)
        patcher = weak if shared else guider.model_patcher.get_additional_models_with_key(KEY)[weak]
        self.weak = WeakModel(patcher, shared, guider, noise)

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


class AutoGuidance(io.ComfyNode):
    """Steers a model away from a weaker one."""

    @classmethod
    def define_schema(cls):
        """Inputs and outputs; saved graphs store widget values by position, so inputs are only ever appended."""
        return io.Schema(
            node_id="AutoGuidance",
            display_name="Auto-Guidance",
            category="model/patch/saddle-free",
            description=(
                "Steers the picture away from what a weaker model would have made of the same prompt, so that the "
                "mistakes that both make grow smaller. Needs no negative prompt. Works with any sampler, guider and "
                "CFG. Each step also asks the weak model once."
            ),
            search_aliases=["autoguidance", "bad version of itself", "weak model guidance"],
            inputs=[
                io.Model.Input("model", tooltip="The model to guide. Works with any sampler, guider and CFG."),
                io.Model.Input(
                    "weak_model",
                    tooltip="A worse model of the same family: an earlier or smaller checkpoint, or the base of a "
                    "fine-tune. It keeps its own LoRAs and needs its own memory beside the model. If only a LoRA makes "
                    "the difference, the checkpoint is loaded a second time.",
                ),
                io.Float.Input(
                    "scale", default=1.5, min=1.0, max=20.0, step=0.05, round=0.001,
                    tooltip="How far the picture is steered away from the weak model's. Higher corrects more; too high "
                    "overdraws shapes and colours. Useful range 1.25 to 2. 1 is off: the same picture as without the "
                    "node, at no cost.",
                ),
                *window_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="The model with guidance.")],
        )

    @classmethod
    @checked
    def execute(cls, model, weak_model, scale, start_percent, end_percent):
        """A clone of the model with the guidance attached, or the model itself when scale is 1."""
        if scale == 1:
            return io.NodeOutput(model)
        refuse_misfit(model, weak_model)
        weak, shared = with_own_weights(model, weak_model)
        guided = model.clone()
        others = guided.get_additional_models_with_key(KEY)
        if not shared:
            guided.set_additional_models(KEY, [*others, weak])
        make_run = functools.partial(
            AutoGuidanceRun, scale, start_percent, end_percent, weak if shared else len(others)
        )
        guided.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, guided_sampling(make_run))
        return io.NodeOutput(guided)
