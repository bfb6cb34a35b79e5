"""Inputs that several nodes share."""

from comfy_api.latest import io

from ..guidance.strength import CONSTANT, CURVES
from .host.latents import SAMPLERS, SCHEDULERS
from .ui.variation_order import ORDERS


def window_inputs():
    """The inputs of a node that set when guidance is active."""
    return [
        io.Float.Input(
            "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, round=0.001,
            tooltip="When guidance begins, as a share of sampling. 0 is from the first step; later keeps more "
            "of the composition that the model would have made. Useful range 0 to 0.5; 1 is off.",
        ),
        io.Float.Input(
            "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, round=0.001,
            tooltip="When guidance ends, as a share of sampling. 1 is at the last step; earlier saves time "
            "and leaves fine detail to the model. Useful range 0.5 to 1; 0 is off.",
        ),
    ]


def strength_inputs():
    """The inputs that say it; both leave the push as it is unless they are used."""
    return [
        io.Mask.Input(
            "strength_mask", optional=True,
            tooltip="Where in the picture guidance is strong: 1 is the whole push, 0 is none, grey is in between. Soft "
            "edges stay soft. One mask for all pictures, or one for each picture of a batch; for a video, one or one "
            "a frame. The search still looks at the whole picture. Without a mask it is 1 everywhere.",
        ),
        io.Combo.Input(
            "strength_curve", options=list(CURVES), default=CONSTANT, optional=True,
            tooltip="How strong guidance is in the course of sampling, between start_percent and end_percent. constant "
            "is the whole push all along. fade in rises evenly from nothing, which leaves composition to the model; "
            "fade out falls evenly to nothing, which leaves details to it; middle rises until halfway and falls again.",
        ),
    ]


def link_inputs(of_a_batch):
    """What pictures are made from; of_a_batch: what happens to a batch, as the end of a sentence."""
    # Links as such: only they let the host see that a cell's inputs are the ones it has cached.
    return [
        io.Model.Input("model", raw_link=True, tooltip="The model, without Saddle-Free Guidance: this node adds it."),
        io.Conditioning.Input("positive", raw_link=True, tooltip="What the pictures should show."),
        io.Conditioning.Input("negative", raw_link=True, tooltip="What they should not show, with cfg above 1."),
        io.Latent.Input("latent_image", raw_link=True, tooltip=f"The latent to start from; {of_a_batch}."),
        io.Vae.Input("vae", raw_link=True, tooltip="The VAE that decodes the pictures."),
    ]


def sampler_inputs():
    """The knobs of KSampler."""
    return [
        io.Int.Input(
            "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
            tooltip="The noise that every picture starts from. Any whole number.",
        ),
        io.Int.Input(
            "steps", default=20, min=1, max=10000,
            tooltip="Sampling steps of every picture. Useful range 10 to 50, or 4 to 8 for distilled models.",
        ),
        io.Float.Input(
            "cfg", default=1.0, min=0.0, max=100.0, step=0.1, round=0.01,
            tooltip="How closely the pictures follow the prompt; adds up with the guidance. 1 is off; useful range 2 "
            "to 8 for most models.",
        ),
        io.Combo.Input(
            "sampler_name", options=SAMPLERS, default="euler",
            tooltip="The sampler of every picture, as in KSampler.",
        ),
        io.Combo.Input(
            "scheduler", options=SCHEDULERS, default="karras",
            tooltip="How fast the noise goes down over the steps, as in KSampler.",
        ),
        io.Float.Input(
            "denoise", default=1.0, min=0.0, max=1.0, step=0.01,
            tooltip="How much of latent_image is made anew. 1 makes all of it; 0 changes nothing.",
        ),
    ]


def order_input():
    """How variations are sorted."""
    return io.Combo.Input(
        "order", options=list(ORDERS), default=ORDERS[0],
        tooltip="How the pictures after the first are sorted: by seed as they are numbered, nearest first or farthest "
        "first by their distance from the first picture. The distance is the root mean square difference of the "
        "latents.",
    )
