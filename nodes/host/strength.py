"""How strong Saddle-Free Guidance is over sampling and in the picture, as the inputs of its node say."""

from ...guidance.strength import CONSTANT, padded, share_of_sampling, strength_in_picture, strength_over_sampling


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
