"""The Weaken Model node: a worse model of the same weights, for Auto-Guidance without a second model."""

from comfy_api.latest import io

from .host.weaken import NOISE, PRUNE, prune, raise_noise
from .inputs import checked


class WeakenModel(io.ComfyNode):
    """Makes a worse version of a model."""

    @classmethod
    def define_schema(cls):
        """Inputs and outputs; saved graphs store widget values by position, so inputs are only ever appended."""
        return io.Schema(
            node_id="WeakenModel",
            display_name="Weaken Model",
            category="model/patch/saddle-free",
            description=(
                "Makes a worse version of your model on purpose, to connect to weak_model of Auto-Guidance when you "
                "have no second checkpoint."
            ),
            search_aliases=["worse model", "autoguidance without second model"],
            inputs=[
                io.Model.Input("model", tooltip="The model to weaken, with its LoRAs."),
                io.Combo.Input(
                    "method", options=[NOISE, PRUNE], default=PRUNE,
                    tooltip="How the model is made worse. more noise: it is shown the picture with more noise in it; "
                    "needs no extra memory, but made emoji worse where it was measured. pruned weights: its smallest "
                    "weights are set to zero; it is loaded a second time and needs its memory a second time. It did no "
                    "harm on any model it was measured on.",
                ),
                io.Float.Input(
                    "strength", default=0.5, min=0.0, max=0.95, step=0.01, round=0.001,
                    tooltip="How much worse; higher makes each bit of the Auto-Guidance scale do more. Useful range "
                    "0.2 to 0.35 for more noise, 0.4 to 0.5 for pruned weights. 0 is off: the model as it is, which "
                    "Auto-Guidance refuses.",
                ),
            ],
            outputs=[io.Model.Output(display_name="weak_model", tooltip="The weakened model.")],
        )

    @classmethod
    @checked
    def execute(cls, model, method, strength):
        """A weakened clone of the model, or the model itself when strength is 0."""
        if strength == 0:
            return io.NodeOutput(model)
        if method == PRUNE:
            return io.NodeOutput(prune(model, strength))
        return io.NodeOutput(raise_noise(model, 1 / (1 - strength)))
