"""The Auto-Guidance node."""

import functools

from comfy_api.latest import io

from .host.auto_guidance_run import AutoGuidanceRun
from .host.run import guided
from .host.weak import with_weak_model
from .inputs import checked
from .knobs import window_inputs


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
        model, weak = with_weak_model(model, weak_model)
        return io.NodeOutput(guided(model, functools.partial(AutoGuidanceRun, scale, start_percent, end_percent, weak)))
