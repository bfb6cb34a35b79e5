"""How strong Saddle-Free Guidance is over sampling and in the picture, as its inputs say."""

from comfy_api.latest import io

from ..guidance.strength import CURVES, padded, share_of_sampling, strength_in_picture, strength_over_sampling

CONSTANT = next(iter(CURVES))


class Strength:
    """The strength of one sampling run.

    masks: a MASK or None; curve: a name in CURVES; percents: between which shares of sampling guidance acts;
    latent_shapes: of the latents that are packed into one, or None before they are known.
    """

    def __init__(self, masks, curve, percents):
        self.masks, self.curve, self.percents = masks, curve, percents
        self.latent_shapes = None
        self._fitted = None  # shape and device of a latent, and the masks in its layout there

    def check(self, shape):
        """Raises ValueError where the masks do not fit a latent of this shape."""
        if self.masks is not None:
            self._in_picture(shape, self.masks.device)

    def at(self, x, sigma, model_sampling):
        """The strength at x and sigma, a float or a tensor [B or 1, ...], or None where it is 1 everywhere."""
        over_sampling = None
        if self.curve != CONSTANT:
            share = share_of_sampling(float(sigma), lambda percent: float(model_sampling.percent_to_sigma(percent)))
            over_sampling = strength_over_sampling(self.curve, share, *self.percents)
        if self.masks is None:
            return over_sampling
        in_picture = self._in_picture(x.shape, x.device)
        return in_picture if over_sampling is None else over_sampling * in_picture

    def _in_picture(self, shape, device):
        if self._fitted is None or self._fitted[:2] != (shape, device):
            packed = self.latent_shapes is not None and len(self.latent_shapes) > 1
            first = self.latent_shapes[0] if packed else shape
            try:
                strength = strength_in_picture(self.masks.cpu(), first)
            except ValueError as error:
                raise ValueError(f"strength_mask of Saddle-Free Guidance cannot be used: {error}") from error
            whole = padded(strength, first, shape[-1]) if packed else strength
            self._fitted = shape, device, whole.to(device)
        return self._fitted[2]


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
