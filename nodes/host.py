"""What the guidance needs of ComfyUI: coordinates, the raw prediction, an evaluation elsewhere, names for images."""

import contextlib
import dataclasses
import hashlib
import re

import comfy.model_sampling
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP, get_all_wrappers, get_wrappers_with_key
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

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


def amplification(model_sampling, sigma, std):
    """How an error of the network's output grows in the denoised prediction at `sigma` [B], over `std` [B]; [B]."""
    return model_sampling.calculate_denoised(sigma, torch.ones_like(sigma), torch.zeros_like(sigma)).abs() / std


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


CACHE = re.compile(r"\w*cache\w*", re.IGNORECASE)
IN_FRONT_OF_THE_NETWORK = (WrappersMP.DIFFUSION_MODEL, WrappersMP.APPLY_MODEL)
ROUNDING = 4  # units of the network's precision between two batches with the same image in them


def why_not_asked(model_options):
    """Why no evaluation may be added to this run, of this model or another, as the end of a sentence, or None."""
    if "ar_state" in model_options.get("transformer_options", {}):
        return "this video is made block by block, and each evaluation would add to the cache of its frames"
    return None


def why_not_probed(model_options):
    """Why a probe would not be answered by the network itself, as the end of a sentence, or None.

    A cache that stands in front of the network has the last answer ready for a sample so near; it is known by its name.
    """
    options = model_options.get("transformer_options", {})
    name = getattr(options.get("easycache"), "name", None)
    if name != "EasyCache":
        in_front = [model_options.get("model_function_wrapper")]
        for kind in IN_FRONT_OF_THE_NETWORK:
            in_front += get_all_wrappers(kind, options)
        found = (CACHE.search(getattr(function, "__qualname__", type(function).__qualname__)) for function in in_front)
        name = next((match.group() for match in found if match), None)
    return name and f"{name} would answer the probes from its cache; remove one of the two, or use LazyCache"


def random_state(device):
    """State of the generators from which patches of a network on `device` may draw."""
    own = getattr(torch, device.type, None)
    return torch.get_rng_state(), own.get_rng_state() if hasattr(own, "get_rng_state") else None


def set_random_state(device, state):
    """Gives the generators the state that `random_state` took."""
    general, own = state
    torch.set_rng_state(general)
    if own is not None:
        getattr(torch, device.type).set_rng_state(own)


@contextlib.contextmanager
def same_draws(device, state):
    """Evaluates with the random numbers that followed a state, and takes none of those that the sampler gets later."""
    now = random_state(device)
    set_random_state(device, state)
    try:
        yield
    finally:
        set_random_state(device, now)


class Coupling:
    """Whether the conditions of one evaluation reach each other's predictions, as some patches make them.

    Measured at the first evaluation with several conditions and a patch; from then on the others are evaluated only
    where they matter.
    """

    def __init__(self):
        self._found = None

    def evaluate(self, evaluated, x, sigma, model, options, base=None):
        """What `evaluated` is at another x, or of another model, whose conditions and draws it then holds.

        base: an x, and the model's prediction there with all the conditions.
        """
        index, draws = evaluated.index, evaluated.draws
        alone = [cond if place == index else None for place, cond in enumerate(evaluated.conds)]

        def ask(conds, x):
            with same_draws(x.device, draws):
                return comfy.samplers.calc_cond_batch(model, conds, x, sigma[: len(x)], options)[index]

        if self._found is None and _may_couple(options) and sum(cond is not None for cond in evaluated.conds) > 1:
            at, together = base or (x, ask(evaluated.conds, x))
            self._found = _differ(ask(alone, at), together, at, model.get_dtype_inference())
            if base is None:
                return together
        return ask(evaluated.conds if self._found else alone, x)


def _may_couple(options):
    transformer_options = options.get("transformer_options", {})
    patched = any(transformer_options.get(kind) for kind in ("patches", "patches_replace"))
    wrapped = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
    return patched or bool(wrapped) or "model_function_wrapper" in options


def _differ(one, other, x, dtype):
    tolerance = max(ROUNDING * torch.finfo(dtype).eps, 1e-5)
    error, size = (
        torch.linalg.vector_norm(difference.float().flatten(1), dim=1) for difference in (one - other, x - other)
    )
    return bool((error > tolerance * size).any())


def _separable(conds, options):
    """Whether some images of a batch can well be evaluated without the others: nothing is one image's own.

    A compiled network would be compiled anew for each number of images.
    """
    compiled = get_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY, options, is_model_options=True)
    entries = [entry for cond in conds if cond is not None for entry in cond]
    return not compiled and not _may_couple(options) and all(map(_for_any_image, entries))


def _for_any_image(entry):
    tensors = [entry.get("mask")]
    for value in entry.get("model_conds", {}).values():
        tensors += value.cond if isinstance(value.cond, list) else [value.cond]
    single = all(len(tensor) == 1 for tensor in tensors if isinstance(tensor, torch.Tensor) and tensor.ndim)
    return single and entry.get("control") is None


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A condition's prediction: its place among the conditions that were evaluated at once, and the draws before."""

    conds: list
    index: int
    denoised: torch.Tensor | None
    draws: tuple

    @property
    def cond(self):
        """The condition."""
        return self.conds[self.index]


class RawPredictions:
    """The conditional predictions of the evaluation under way, before any pack's pre-CFG or post-CFG edits.

    Two wrappers fill it: `evaluation` around one call of the guider, `batch` around the host's batch evaluation. Only
    calls at the evaluation's own x count, and of these the first for each condition: what other guidance evaluates
    there afterwards, with patched attention, is another model.
    """

    def __init__(self):
        self._coupling = Coupling()
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
        if self._x is not None and self._x is not x:
            return executor(model, conds, x, *args, **kwargs)
        self._x = x
        conds, draws = list(conds), random_state(x.device)
        outputs = executor(model, conds, x, *args, **kwargs)
        if self._x is x:
            found = [Evaluated(conds, index, output, draws) for index, output in enumerate(outputs)]
            self._found += [entry for entry in found if self._get(entry.cond) is None]
        return outputs

    def main(self, args):
        """The main condition as it was evaluated at x, from the arguments of a post-CFG function.

        The positive condition where the guider has evaluated one, else what the host calls cond. Evaluated once more
        where the host gave it in pieces, as context windows do.
        """
        positive = self._guider.conds.get("positive") if self._guider is not None else None
        cond = positive if self._get(positive) is not None or args["cond"] is None else args["cond"]
        if self._x is not args["input"]:
            self._x, self._found = args["input"], []
        found = self._get(cond)
        if found is None:
            unknown = Evaluated([cond], 0, None, random_state(args["input"].device))
            found = dataclasses.replace(unknown, denoised=self._evaluate(args, unknown, args["input"]))
            self._found.append(found)
        return found

    def elsewhere(self, args, main, x, images):
        """The main condition's prediction at another x [B, ...] by the network that made `main`.

        images: the places in the batch that are asked for; the others may come back as they are in `main`.
        """
        base = (args["input"], main.denoised)
        if len(images) == len(x) or not _separable(main.conds, args["model_options"]):
            return self._evaluate(args, main, x, base)
        places = torch.tensor(images).to(x.device, non_blocking=True)  # a list as an index would wait for the GPU
        return main.denoised.index_copy(0, places, self._evaluate(args, main, x[places], base))

    def _evaluate(self, args, evaluated, x, base=None):
        return self._coupling.evaluate(evaluated, x, args["sigma"], args["model"], args["model_options"], base)

    def _get(self, cond):
        return next((entry for entry in self._found if cond is not None and entry.cond is cond), None)
