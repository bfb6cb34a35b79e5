"""The Curvature Scope node: a trace as a plot in the node, as a picture, and as heat maps."""

import torch
from comfy_api.latest import io

from .inputs import checked
from .ui.live_trace import Trace
from .ui.scope_images import heat_map, plot, require_matplotlib


class CurvatureScope(io.ComfyNode):
    """Shows what saddle-free guidance saw and did."""

    @classmethod
    def define_schema(cls):
        """Inputs and outputs; saved graphs store widget values by position, so inputs are only ever appended."""
        return io.Schema(
            node_id="CurvatureScope",
            display_name="Curvature Scope",
            category="model/patch/saddle-free", is_output_node=True,
            description=(
                "Shows what Saddle-Free Guidance saw and did. While the sampler runs, the node draws a curve for each "
                "picture: above the line at 1 the model is undecided between two pictures and guidance pushes. "
                "Afterwards you get the plot as a picture, and a heat map of where in each picture the model was "
                "undecided."
            ),
            search_aliases=["SFG", "curvature trace", "Rayleigh quotient", "heat map"],
            inputs=[
                Trace.Input("trace", tooltip="The trace that comes out of Saddle-Free Guidance."),
                io.Latent.Input(
                    "latent",
                    tooltip="What the sampler made with that model. It is not changed; the scope waits for it and then "
                    "draws.",
                ),
                io.Float.Input(
                    "opacity", default=0.6, min=0.0, max=1.0, step=0.05, round=0.001,
                    tooltip="How strongly the heat map's colours cover your pictures. Useful range 0.4 to 0.8. 0 shows "
                    "the pictures alone. No effect without `images`.",
                ),
                io.Image.Input(
                    "images", optional=True,
                    tooltip="The decoded pictures, to lay the heat map over. Without them the heat map stands alone.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "plot", display_name="plot",
                    tooltip="How undecided the model was about each picture, from noise to the end.",
                ),
                io.Image.Output(
                    "heat_map", display_name="heat_map", tooltip="Where in each picture the model was undecided."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, trace, latent, opacity, images=None):
        """The plot, the heat maps, and the trace for the drawing in the node."""
        require_matplotlib()
        record = trace.plain()
        return io.NodeOutput(plot(record), _heat_maps(trace.indecision(), images, opacity), ui={"trace": [record]})


def _heat_maps(indecision, images, opacity):
    if indecision is not None and indecision.ndim in (3, 4):
        return heat_map(indecision, images, opacity)
    return torch.zeros(1, 64, 64, 3) if images is None else images
