"""The Saddle-Free Demo Model node: small models that come with the pack."""

from comfy_api.latest import io

from .demo.digits_network import CLASSES
from .demo.emoji_network import KINDS, STYLES
from .host.demo_model import (
    ANY,
    FAMILIES,
    FEW_STEPS,
    NO_CLASS,
    class_conditioning,
    emoji_conditioning,
    load_demo_model,
    pixel_vae,
)
from .inputs import checked


class SaddleFreeDemoModel(io.ComfyNode):
    """Loads one of the bundled demo models."""

    @classmethod
    def define_schema(cls):
        """Inputs and outputs; appended to, never reordered."""
        return io.Schema(
            node_id="SaddleFreeDemoModel",
            display_name="Saddle-Free Demo Model",
            category="model/patch/saddle-free",
            description=(
                "Small models that come with the pack, so that you can see guidance without a download. The emoji "
                "models draw 64x64 pixels, the digits model 32x32. Use CFG 1 and 20 to 48 euler steps, or 8 for the "
                "model that is made for 8."
            ),
            search_aliases=["emoji", "digits", "toy model", "mnist"],
            inputs=[
                io.Combo.Input(
                    "digit", options=[NO_CLASS, *map(str, range(CLASSES))], default=NO_CLASS,
                    tooltip="Which digit you get from the digits model. none gives any digit, which is where guidance "
                    "shows most. The emoji model ignores it.",
                ),
                *_appended_inputs(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The demo model."),
                io.Model.Output(
                    display_name="weak_model", tooltip="A smaller version, trained for less time, to steer away from."
                ),
                io.Vae.Output(display_name="vae", tooltip="Pixels in, pixels out: the demo model needs no real VAE."),
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="What you asked for: a digit, or a kind and a style of emoji."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, digit, model="digits", kind=ANY, style=ANY):
        """The model, its weak version, the pixel-space VAE and the conditioning."""
        family = FAMILIES[model]
        condition = class_conditioning(digit) if model == "digits" else emoji_conditioning(kind, style)
        return io.NodeOutput(load_demo_model(family.model), load_demo_model(family.weak), pixel_vae(), condition)


def _appended_inputs():
    """The inputs that graphs of the first release do not have.

    A page gives such a graph the defaults, and a prompt without them leaves them out, so both must mean the digits
    model; nodes/web/demo_model.js lets a node that is newly placed start with emoji.
    """
    return [
        io.Combo.Input(
            "model", options=["emoji", "digits", FEW_STEPS], default="digits", optional=True,
            tooltip="What you want pictures of: emoji of 64x64 pixels, or handwritten digits of 32x32. Give the "
            "sampler an empty latent of that size. With 8 steps in its name it is a distilled model, as turbo models "
            "are: use 8 euler steps and the karras scheduler.",
        ),
        io.Combo.Input(
            "kind", options=[ANY, *KINDS], default=ANY, optional=True,
            tooltip="Which kind of emoji you get. any gives all kinds, which is where guidance shows most. The "
            "digits model ignores it.",
        ),
        io.Combo.Input(
            "style", options=[ANY, *STYLES], default=ANY, optional=True,
            tooltip="Whose way of drawing emoji you get: noto and blob are Google's, the fluent ones Microsoft's, "
            "twemoji Twitter's, emojitwo EmojiOne's, fxemoji Mozilla's. any gives all styles. The digits "
            "model ignores it.",
        ),
    ]
