"""The node that Guidance Variations expands into: its pictures in one batch, sorted."""

from comfy_api.latest import io

from .expansion import pictures_of
from .inputs import checked
from .knobs import order_input
from .ui.variation_order import arranged


class GuidanceVariationsBatch(io.ComfyNode):
    """What Guidance Variations expands into: ranks the variations and joins them; not for use by hand."""

    @classmethod
    def define_schema(cls):
        """Takes image_0, latent_0, image_1 and so on beside the labels."""
        return io.Schema(
            node_id="GuidanceVariationsBatch",
            display_name="Guidance Variations (batch)",
            category="model/patch/saddle-free",
            description="The last step of Guidance Variations, which adds it by itself.",
            inputs=[
                io.String.Input(
                    "labels", multiline=True, tooltip="What the variations are called: a line for each."
                ),
                order_input(),
            ],
            outputs=[
                io.Image.Output("images", display_name="images"), io.Latent.Output("latents", display_name="latents"),
                io.String.Output("seeds", display_name="seeds"),
            ],
            is_dev_only=True,
            accept_all_inputs=True,
        )

    @classmethod
    @checked
    def execute(cls, labels, order, **cells):
        """All variations as one batch, their latents, and a line for each."""
        names = labels.split("\n")
        images, samples, lines = arranged(*pictures_of(cells, len(names)), names, order)
        return io.NodeOutput(images, {"samples": samples}, "\n".join(lines))
