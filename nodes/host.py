"""What the guidance needs of ComfyUI: coordinates, the raw prediction, an evaluation elsewhere, names for images."""

import hashlib

import comfy.model_sampling
import comfy.samplers
import torch

UNUSABLE = {
    comfy.model_sampling.IMG_TO_IMG_FLOW: "it adds no noise, so there is no log density to follow",
    comfy.model_sampling.V_PREDICTION_DDPM: "its noise scaling and its denoising disagree",
}


def refuse_unusable(model_sampling):
    """Raises ValueError, naming the parametrisation, where noise and denoised prediction have no usable relation."""
    for kind, reason in UNUSABLE.items():
        if isinstance(model_sampling, kind):
            raise ValueError(
                f"Saddle-Free Guidance cannot guide a model with {kind.__name__} sampling: {reason}. "
                "Connect a model of another kind, or connect this one to the sampler directly."
            )


def prediction_type(model_sampling):
    """The name of the parametrisation, as the host's classes have it: EPS, V_PREDICTION, EDM, CONST and so on."""
    bases = type(model_sampling).__mro__[1:]
    return next(base.__name__ for base in bases if not issubclass(base, torch.nn.Module))


def coordinates(model_sampling, sigma):
    """alpha and std, each [B], with x = alpha * x0 + std * noise at `sigma` [B], in the model's own parametrisation."""
    zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
    return model_sampling.noise_scaling(sigma, zero, one), model_sampling.noise_scaling(sigma, one, zero)


def image_keys(noise):
    """One integer per image of `noise` [B, ...] that follows the image through any batch, or None without noise.

    A batch and one of its images sampled alone draw the same noise, so a digest of it names the image. A digest carries
    no direction, hence nothing of the image reaches the tracked vectors.
    """
    if torch.count_nonzero(noise) == 0:
        return None
    return [
        int.from_bytes(hashlib.blake2b(image.float().cpu().numpy().tobytes(), digest_size=8).digest(), "big")
        for image in noise
    ]


def unpacked(directions, latent_shapes):
    """Directions [directions, B, ...] in the layout of the latent, or of the first of several packed into one."""
    if latent_shapes is None or len(latent_shapes) < 2:
        return directions
    inner = latent_shapes[0][1:]
    return directions.flatten(2)[..., : inner.numel()].unflatten(2, inner)


class RawPredictions:
    """The conditional predictions of the evaluation under way, before any pack's pre-CFG or post-CFG edits.

    Two wrappers fill it: `evaluation` around one call of the guider, `batch` around the host's batch evaluation. Only
    calls at the evaluation's own x count, and of these the first for each condition: what other guidance evaluates
    there afterwards, with patched attention, is another model.
    """

    def __init__(self):
        self._clear()

    def _clear(self):
        self._guider, self._x, self._found = None, None, []

    def evaluation(self, executor, *args, **kwargs):
        """PREDICT_NOISE wrapper."""
        self._guider = executor.class_obj
        try:
            return executor(*args, **kwargs)
        finally:
            self._clear()

    def batch(self, executor, model, conds, x, *args, **kwargs):
        """CALC_COND_BATCH wrapper."""
        outputs = executor(model, conds, x, *args, **kwargs)
        if self._x is None:
            self._x = x
        if x is self._x:
            self._found += [(cond, output) for cond, output in zip(conds, outputs) if self._get(cond) is None]
        return outputs

    def main(self, args):
        """Main condition and its prediction at x, from the arguments of a post-CFG function.

        The positive condition where the guider has evaluated one, else what the host calls cond. Evaluated once more
        where the host gave it in pieces, as context windows do.
        """
        positive = self._guider.conds.get("positive") if self._guider is not None else None
        cond = positive if self._get(positive) is not None or args["cond"] is None else args["cond"]
        if self._x is not args["input"]:
            self._x, self._found = args["input"], []
        prediction = self._get(cond)
        if prediction is None:
            prediction = evaluate(args, cond, args["input"])
            self._found.append((cond, prediction))
        return cond, prediction

    def _get(self, cond):
        return next((output for known, output in self._found if cond is not None and known is cond), None)


def evaluate(args, cond, x):
    """Denoised prediction of `cond` at another x through the host's own batch evaluation, at the sigma of `args`."""
    return comfy.samplers.calc_cond_batch(args["model"], [cond], x, args["sigma"], args["model_options"])[0]
