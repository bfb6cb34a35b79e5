"""The node that Guidance Sweep expands into: the labelled grid of its pictures."""

from comfy_api.latest import io

from .expansion import pictures_of
from .host.latents import joined
from .inputs import checked
from .ui.sweep_grid import grid_image


class GuidanceSweepGrid(io.ComfyNode):
    """What Guidance Sweep expands into: collects the pictures and latents of the cells; not for use by hand."""

    @classmethod
    def define_schema(cls):
        """Takes image_0, latent_0, image_1 and so on beside the labels."""
        return io.Schema(
            node_id="GuidanceSweepGrid",
            display_name="Guidance Sweep (grid)",
            category="model/patch/saddle-free",
            description="The last step of Guidance Sweep, which adds it by itself.",
            inputs=[
                io.String.Input(
                    "labels", multiline=True,
                    tooltip="The labels of the pictures: a line for each row, tabs between the columns.",
                )
            ],
            outputs=[io.Image.Output("grid", display_name="grid"), io.Latent.Output("latents", display_name="latents")],
            is_dev_only=True,
            accept_all_inputs=True,
        )

    @classmethod
    @checked
    def execute(cls, labels, **cells):
        """The grid and the latents."""
        rows = [row.split("\t") for row in labels.split("\n")]
        images, latents = pictures_of(cells, sum(map(len, rows)))
        return io.NodeOutput(grid_image(images, rows), {"samples": joined(latents)})
