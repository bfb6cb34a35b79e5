"""The Guidance Sweep node: one picture for every value of a knob, in one labelled grid.

It expands into the pack's own guidance and the host's sampler and decoder, so the host caches each picture by itself.
"""

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from .expansion import add_picture, as_inputs
from .inputs import checked, refuse_invalid
from .knobs import link_inputs, sampler_inputs
from .saddle_free import SaddleFreeGuidance
from .ui.sweep_values import combinations

PARAMETERS = ["scale", "guidance_seed", "start_percent", "end_percent", "directions"]


class GuidanceSweep(io.ComfyNode):
    """Samples once for every value, or pair of values, of Saddle-Free Guidance's knobs."""

    @classmethod
    def define_schema(cls):
        """Inputs and outputs; saved graphs store widget values by position, so inputs are only ever appended."""
        return io.Schema(
            node_id="GuidanceSweep",
            display_name="Guidance Sweep",
            category="model/patch/saddle-free",
            description=(
                "Tries several values of a knob of Saddle-Free Guidance from the same noise and shows the pictures in "
                "one labelled grid. Add a value and run again: only its picture is made. The guidance and the sampler "
                "are inside, so connect the plain model."
            ),
            search_aliases=["SFG", "XY plot", "grid", "compare"],
            inputs=[
                *link_inputs("of a batch, every image is shown in each cell"), *sampler_inputs(), *_list_inputs(),
                *_guidance_inputs(),
            ],
            outputs=[
                io.Image.Output("grid", display_name="grid", tooltip="All pictures, labelled with their values."),
                io.Latent.Output(
                    "latents", display_name="latents", tooltip="The latents of all pictures, in the order of the grid."
                ),
            ],
            enable_expand=True,
        )

    @classmethod
    def validate_inputs(cls, parameter=None, values=None, second_parameter=None, second_values=None):
        """True, or what is wrong with the lists, for the page to show on the node before anything is sampled.

        None is what comes from another node and is not known yet, or is missing, of which the host tells.
        """
        given = [parameter, values, second_parameter, second_values]
        if None in given:
            return True
        try:
            refuse_invalid(_list_inputs(), dict(zip((item.id for item in _list_inputs()), given)))
            _cells(*given)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    @checked
    def execute(
        cls, model, positive, negative, latent_image, vae, seed, steps, cfg, sampler_name, scheduler, denoise,
        parameter, values, second_parameter, second_values, **knobs,
    ):
        """The graph of one guidance, sampler and decoder per cell, and of the grid."""
        rows = _cells(parameter, values, second_parameter, second_values)
        sampling = {
            "positive": positive, "negative": negative, "latent_image": latent_image, "seed": seed, "steps": steps,
            "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler, "denoise": denoise,
        }
        graph = GraphBuilder()
        pictures = [
            add_picture(graph, _label(cell), {**knobs, **cell}, model, vae, sampling) for row in rows for cell in row
        ]
        labels = "\n".join("\t".join(map(_label, row)) for row in rows)
        grid = graph.node("GuidanceSweepGrid", "grid", labels=labels, **as_inputs(pictures))
        return io.NodeOutput(grid.out(0), grid.out(1), expand=graph.finalize())


def _label(cell):
    return ", ".join(f"{knob} {value}".removesuffix(".0") for knob, value in cell.items())


def _cells(parameter, values, second_parameter, second_values):
    knobs = {item.id: item for item in _guidance_inputs()}
    lists = [(parameter, knobs[parameter], values, "values")]
    if second_parameter != "none":
        lists.append((second_parameter, knobs[second_parameter], second_values, "second_values"))
    return combinations(lists)


def _list_inputs():
    return [
        io.Combo.Input(
            "parameter", options=PARAMETERS, default=PARAMETERS[0],
            tooltip="The knob whose values you want to compare; they become the columns.",
        ),
        io.String.Input(
            "values", default="0, 4, 8, 16",
            tooltip="The values of parameter, with commas or spaces between. At most 64 pictures. For scale, 0 shows "
            "the picture without guidance.",
        ),
        io.Combo.Input(
            "second_parameter", options=["none", *PARAMETERS], default="none",
            tooltip="A second knob, whose values become the rows. none compares one knob only.",
        ),
        io.String.Input(
            "second_values", default="",
            tooltip="The values of second_parameter, with commas or spaces between. No effect while that is none.",
        ),
    ]


def _guidance_inputs():
    swept = {item.id: item for item in SaddleFreeGuidance.define_schema().inputs}
    return [swept[name] for name in PARAMETERS]
