"""Whether a weak model fits the main one, and weights of its own for it."""

import math
import os

import comfy.model_management

from .coordinates import prediction_type
from .run import without_guidance

TEXT_WIDTHS = ("context_dim", "context_in_dim", "text_dim")


def refuse_misfit(model, weak):
    """Raises ValueError, naming both values, where the predictions of the two patchers cannot be compared.

    The shift of a flow schedule may differ: the weak model is asked at the sigma of the main one.
    """
    for (what, of_model), of_weak in zip(_facts(model).items(), _facts(weak).values()):
        numbers = isinstance(of_model, float) and isinstance(of_weak, float)
        if not (math.isclose(of_model, of_weak, rel_tol=0.01) if numbers else of_model == of_weak):
            raise ValueError(
                f"weak_model does not fit model: its {what} is {_shown(of_weak)}, and that of model is "
                f"{_shown(of_model)}. Connect a weak model of the same family, for example the base of a fine-tune."
            )


def with_own_weights(model, weak):
    """The weak patcher, and whether it shares its weights with the main one.

    Patchers of one loaded model share its weights. Sharing is right where they differ in options only; where their
    weights differ, by a LoRA for instance, the weak one is loaded once more from its file. ValueError says what to do
    where nothing differs or where the host does not know the file.
    """
    weak = without_guidance(weak)
    sharing = [other for other in (model, *model.get_nested_additional_models()) if other.model is weak.model]
    if all(_same_weights(other, weak) for other in sharing):
        if weak.model is model.model and _same_options(model, weak):
            raise ValueError(
                "weak_model is the same as model, so there is nothing to steer away from. Connect another checkpoint, "
                "or put the LoRA that makes the difference before this node."
            )
        return weak, weak.model is model.model
    if weak.cached_patcher_init is None:
        raise ValueError(
            "weak_model shares its weights with model and cannot be loaded a second time, because its loader left no "
            "record of the file. Save one of the two as a checkpoint and load it with a core loader node."
        )
    return _loaded_again(weak), False


def _loaded_again(weak):
    """A clone with weights of its own; ValueError names the file where it cannot be loaded a second time."""
    try:
        return weak.clone(force_deepcopy=True)
    except Exception as error:
        if comfy.model_management.is_oom(error):
            raise
        file = next((os.path.basename(item) for item in weak.cached_patcher_init[1] if isinstance(item, str)), "?")
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"weak_model shares its weights with model and cannot be loaded a second time from {file}: {reason}. Put "
            "the file back, or connect another checkpoint."
        ) from error


def _facts(patcher):
    latent_format = patcher.get_model_object("latent_format")
    model_sampling = patcher.get_model_object("model_sampling")
    config = getattr(patcher.model.model_config, "unet_config", {})
    return {
        "latent format": type(latent_format).__name__,
        "number of latent channels": latent_format.latent_channels,
        "prediction type": prediction_type(model_sampling),
        "noise schedule's largest sigma": float(model_sampling.sigma_max),
        "width of text conditions": next((config[key] for key in TEXT_WIDTHS if key in config), None),
    }


def _shown(value):
    return f"{value:.4g}" if isinstance(value, float) else value


def _same_weights(model, weak):
    return (
        model.patches_uuid == weak.patches_uuid
        and _same(model.object_patches, weak.object_patches)
        and _same(model.weight_wrapper_patches, weak.weight_wrapper_patches)
        and _same(model.injections, weak.injections)
    )


def _same_options(model, weak):
    model, weak = without_guidance(model), without_guidance(weak)
    return _same(model.model_options, weak.model_options) and _same(model.wrappers, weak.wrappers)


def _same(one, other):
    """Equality of nested dicts, lists and numbers; any other objects are the same only where they are identical."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, (str, int, float)) and one == other
