"""The Guidance Variations node: several pictures from one noise, each with a guidance seed of its own.

It expands into the pack's own guidance and the host's sampler and decoder, so the host caches each picture by itself.
"""

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from .expansion import add_picture, as_inputs
from .inputs import checked
from .knobs import link_inputs, order_input, sampler_inputs
from .saddle_free import SaddleFreeGuidance

MOST = 64
SEEDS = 2**64


class GuidanceVariations(io.ComfyNode):
    """Samples once for every guidance seed."""

    @classmethod
    def define_schema(cls):
        """Inputs and outputs; saved graphs store widget values by position, so inputs are only ever appended."""
        return io.Schema(
            node_id="GuidanceVariations",
            display_name="Guidance Variations",
            category="model/patch/saddle-free",
            description=(
                "Makes variations of one picture: the same noise and prompt, and each time another choice where the "
                "model cannot decide between two pictures. One variation more costs one picture more; the others are "
                "kept. The guidance and the sampler are inside, so connect the plain model."
            ),
            search_aliases=["SFG", "variation", "variety", "diversity", "batch of seeds"],
            inputs=[
                *link_inputs("of a batch, every image gets variations of its own"), *sampler_inputs(),
                *_variation_inputs(),
            ],
            outputs=[
                io.Image.Output(
                    "images", display_name="images",
                    tooltip="All variations as one batch: those of the first image of latent_image, then those of the "
                    "next.",
                ),
                io.Latent.Output("latents", display_name="latents", tooltip="Their latents, in the same order."),
                io.String.Output(
                    "seeds", display_name="seeds",
                    tooltip="A line for each variation: its guidance_seed and its distance from the first.",
                ),
            ],
            enable_expand=True,
        )

    @classmethod
    @checked
    def execute(
        cls, model, vae, count, guidance_seed, difference, order, directions, plain_first, **sampling
    ):
        """The graph of one guidance, sampler and decoder per variation, and of the batch."""
        seeds = [(guidance_seed + number) % SEEDS for number in range(count)]
        variations = [_knobs(difference, seed, directions) for seed in seeds]
        if plain_first:
            variations.insert(0, _knobs(0, 0, directions))
        graph = GraphBuilder()
        pictures = [add_picture(graph, _label(knobs), knobs, model, vae, sampling) for knobs in variations]
        labels = "\n".join(map(_label, variations))
        batch = graph.node("GuidanceVariationsBatch", "batch", labels=labels, order=order, **as_inputs(pictures))
        return io.NodeOutput(*map(batch.out, range(3)), expand=graph.finalize())


def _knobs(difference, seed, directions):
    """The knobs of a variation; without guidance all are the same picture, which is made once."""
    if difference == 0:
        return {"scale": 0.0}
    return {"scale": difference, "guidance_seed": seed, "directions": directions}


def _label(knobs):
    return f"guidance_seed {knobs['guidance_seed']}" if "guidance_seed" in knobs else "without guidance"


def _variation_inputs():
    knobs = {item.id: item for item in SaddleFreeGuidance.define_schema().inputs}
    return [
        io.Int.Input(
            "count", default=4, min=1, max=MOST,
            tooltip="How many variations you get. Each costs as much as one picture with guidance; what was made "
            "before is kept when you ask for more. Useful range 2 to 16.",
        ),
        io.Int.Input(
            "guidance_seed", default=0, min=0, max=SEEDS - 1, control_after_generate=False,
            tooltip="The guidance_seed of the first variation, which is the picture that Saddle-Free Guidance makes "
            "with it; the others take the numbers after it. Any whole number.",
        ),
        io.Float.Input(
            "difference", default=8.0, min=0.0, max=20.0, step=0.05, round=0.001,
            display_mode=io.NumberDisplay.slider,
            tooltip="How different the variations may be: the scale of Saddle-Free Guidance in all of them. Useful "
            "range 2 to 16. 0 is off: all are the picture without guidance.",
        ),
        order_input(),
        io.Int.Input(
            "directions", default=2, min=knobs["directions"].min, max=knobs["directions"].max, advanced=True,
            tooltip="In how many ways at once a picture may be undecided. With 1 several variations are alike, because "
            "there are few ways to choose; more give more different ones, and each takes as many extra evaluations "
            "again. Useful range 1 to 4.",
        ),
        io.Boolean.Input(
            "plain_first", default=False,
            tooltip="Also makes the picture without guidance and puts it before the variations, so that order counts "
            "their distance from it. Off, the first variation comes first.",
        ),
    ]
