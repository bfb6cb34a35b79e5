"""The Saddle-Free Guidance node."""

import functools
from dataclasses import asdict

from comfy_api.latest import io

from ..guidance import CurvatureTrace
from ..guidance.strength import CONSTANT
from .host.run import guided
from .host.saddle_free_run import SaddleFreeRun, Settings
from .inputs import checked
from .knobs import strength_inputs, window_inputs
from .ui.live_trace import LiveTrace, Trace


class SaddleFreeGuidance(io.ComfyNode):
    """Adds saddle-free guidance to a model."""

    @classmethod
    def define_schema(cls):
        """Inputs and outputs; saved graphs store widget values by position, so inputs are only ever appended."""
        return io.Schema(
            node_id="SaddleFreeGuidance",
            display_name="Saddle-Free Guidance",
            category="model/patch/saddle-free",
            description=(
                "Clearer and more varied pictures from the model you have. While a picture forms, this finds where the "
                "model cannot decide between two pictures, and pushes it to one of them. No negative prompt, no second "
                "model, no training. A picture takes a little longer."
            ),
            search_aliases=["SFG", "saddle", "curvature guidance", "guidance without negative prompt"],
            inputs=[
                io.Model.Input("model", tooltip="The model to guide. Works with any sampler, guider and CFG."),
                *_push_inputs(), *window_inputs(), *_search_inputs(), *strength_inputs(),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with guidance."),
                Trace.Output(
                    "trace", display_name="trace",
                    tooltip="What guidance saw and did at each step. Connect it to a Curvature Scope to see it.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(
        cls, model, scale, guidance_seed, start_percent, end_percent, probe_radius, refresh_every, directions,
        strength_mask=None, strength_curve=CONSTANT,
    ):
        """A clone of the model with the guidance attached, or the model itself when scale is 0; and the trace."""
        if scale == 0:
            return io.NodeOutput(model, CurvatureTrace(off="Saddle-Free Guidance is off: its scale is 0."))
        settings = Settings(
            scale, guidance_seed, start_percent, end_percent, probe_radius, refresh_every, directions, strength_curve
        )
        trace, node_id = CurvatureTrace(), getattr(cls.hidden, "unique_id", None)
        watch = functools.partial(LiveTrace, trace, node_id, asdict(settings))
        run = functools.partial(SaddleFreeRun, settings, strength_mask, trace, watch)
        return io.NodeOutput(guided(model, run), trace)


def _push_inputs():
    return [
        io.Float.Input(
            "scale", default=8.0, min=0.0, max=20.0, step=0.05, round=0.001,
            tooltip="How far the picture is pushed where the model is undecided, in units of the noise that is "
            "left in it: further at each of a few large steps than of many small ones. Higher gives clearer shapes and "
            "stronger colours; too high makes shapes too simple. "
            "Useful range 2 to 16. 0 is off: the same picture as without the node, at no cost.",
        ),
        io.Int.Input(
            "guidance_seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=False,
            tooltip="Which of the two pictures you get where the model is undecided. Another number gives "
            "another picture from the same noise, so try a few. Any whole number; 0 is a number like the "
            "others.",
        ),
    ]


def _search_inputs():
    return [
        io.Float.Input(
            "probe_radius", default=0.0, min=0.0, max=10.0, step=0.01, round=0.001, advanced=True,
            tooltip="How far from the picture the model is tried out to find where it is undecided, in units "
            "of the noise level. 0 chooses for you, from 0.25 to 2: the more, the noisier half precision makes "
            "the model's answers. Leave it at 0 unless you know better: too small finds rounding errors, too "
            "large looks past the place.",
        ),
        io.Int.Input(
            "refresh_every", default=0, min=0, max=64, advanced=True,
            tooltip="How often the model is tried out to find where it is undecided. 0 chooses for you: "
            "usually 4 to 9 extra evaluations a picture, at most 4 where there is nothing to find. 1 is one "
            "extra evaluation at every call, 2 one every two steps, and so on. Useful range 0 to 4; higher is "
            "faster and finds less.",
        ),
        io.Int.Input(
            "directions", default=1, min=1, max=16, advanced=True,
            tooltip="In how many ways at once the picture may be undecided. 1 follows the strongest only, "
            "which is the best value for its cost. More also decide weaker ones, and each takes as many extra "
            "evaluations again. Useful range 1 to 4.",
        ),
    ]
