"""The weak model of auto-guidance: whether it fits the main one, weights of its own, and its part in a sampling run."""

import dataclasses
import math
import os

import comfy.hooks
import comfy.model_management
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers

from .host.compat import IMAGE_KEYS
from .host.coordinates import image_keys, prediction_type
from .host.run import without_guidance

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


class WeakModel:
    """The weak model in one sampling run: its own patches, wrappers and hooks, and its own encoding of the conditions.

    With shared weights the main model is evaluated, under the weak model's options and with its own conditions.
    """

    def __init__(self, patcher, shared, main, noise):
        refuse_misfit(main.model_patcher, patcher)
        self.shared = shared
        self.main = main
        self.guider = comfy.samplers.CFGGuider(patcher)
        self.image_keys = image_keys(noise)
        self.latent_shapes = None
        self.model = self.conds = self.options = None
        self.coupling = None

    def sample(self, executor, *args, **kwargs):
        """The main model's sampling inside the weak one's OUTER_SAMPLE wrappers, which set up their per-run state."""
        self.latent_shapes = kwargs.get("latent_shapes")
        patcher = self.guider.model_patcher
        self.guider.conds = _copy_conds(self.main.original_conds)
        self.guider.model_options = comfy.model_patcher.create_model_options_clone(patcher.model_options)
        comfy.samplers.preprocess_conds_hooks(self.guider.conds)
        hook_mode = patcher.hook_mode
        if comfy.samplers.get_total_hook_groups_in_conds(self.guider.conds) <= 1:
            patcher.hook_mode = comfy.hooks.EnumHookMode.MinVram
        try:
            comfy.sampler_helpers.prepare_model_patcher(patcher, self.guider.conds, self.guider.model_options)
            comfy.samplers.filter_registered_hooks_on_conds(self.guider.conds, self.guider.model_options)
            wrappers = get_all_wrappers(WrappersMP.OUTER_SAMPLE, self.guider.model_options, is_model_options=True)
            wrapped = WrapperExecutor.new_class_executor(executor, self.guider, wrappers)
            return wrapped.execute(*args, **kwargs)
        finally:
            patcher.hook_mode = hook_mode
            patcher.restore_hook_patches()

    def sampling(self, executor, main, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args):
        """SAMPLER_SAMPLE wrapper: the models are loaded; encodes the conditions, and cleans up at the end."""
        patcher, options = self.guider.model_patcher, self.guider.model_options
        device = patcher.load_device
        try:
            comfy.samplers.cast_to_load_options(options, device=device, dtype=patcher.model_dtype())
            if self.shared:
                self.model, self.conds = main.inner_model, main.conds
            else:
                patcher.pre_run()
                self.model = patcher.model
                self.conds = comfy.samplers.process_conds(
                    self.model, noise, self.guider.conds, device, latent_image, denoise_mask, extra_args.get("seed"),
                    latent_shapes=self.latent_shapes,
                )
                _follow_schedule(self.conds, main.inner_model)
            self.options = comfy.model_patcher.create_model_options_clone(options)
            self.options.setdefault("transformer_options", {}).update(
                {"sample_sigmas": sigmas, IMAGE_KEYS: self.image_keys}
            )
            context_handler = extra_args["model_options"].get("context_handler")
            if context_handler is not None:
                self.options.setdefault("context_handler", context_handler)
            return executor(main, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args)
        finally:
            if not self.shared:
                patcher.cleanup()
                comfy.sampler_helpers.cleanup_models(self.guider.conds, [])
            comfy.samplers.cast_to_load_options(options, device=patcher.offload_device)
            self.model = self.conds = self.options = None

    def denoised(self, main, x, sigma):
        """The weak model's denoised prediction at x and sigma [B] for the condition of `main`, an Evaluated."""
        own = dataclasses.replace(main, conds=[self._own(cond) for cond in main.conds])
        return self.coupling.evaluate(own, x, sigma, self.model, self.options)

    def _own(self, cond):
        if cond is None:
            return None
        names = (name for name, known in self.main.conds.items() if known is cond)
        return self.conds[next(names, next(iter(self.conds)))]


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


def _follow_schedule(conds, model):
    """Says by the schedule of `model`, whichever model evaluates them, when ranges, ControlNets and keyframes apply."""
    percent_to_sigma = model.model_sampling.percent_to_sigma
    for entries in conds.values():
        comfy.samplers.calculate_start_end_timesteps(model, entries)
        for entry in entries:
            for hook in entry["hooks"].hooks if entry.get("hooks") is not None else ():
                hook.initialize_timesteps(model)
            control = entry.get("control")
            while control is not None:
                for one in (control, *control.multigpu_clones.values()):
                    one.timestep_range = tuple(map(percent_to_sigma, one.timestep_percent_range))
                control = control.previous_controlnet


def _copy_conds(conds):
    """Conditions for another model: a ControlNet and a hook keep per-run state of the model they were prepared for."""
    copies = {}

    def copy_once(thing, copy):
        if thing is not None and id(thing) not in copies:
            copies[id(thing)] = copy(thing)
        return copies.get(id(thing))

    def copy_control(control):
        return control.copy().set_previous_controlnet(copy_once(control.previous_controlnet, copy_control))

    def copy_hooks(hooks):
        copied = hooks.clone()
        for hook in copied.hooks:
            hook.hook_keyframe = copy_once(hook.hook_keyframe, comfy.hooks.HookKeyframeGroup.clone)
        return copied

    def copy_entry(entry):
        owned = {"control": copy_control, "hooks": copy_hooks}
        return entry | {key: copy_once(entry[key], copy) for key, copy in owned.items() if key in entry}

    return {name: [copy_entry(entry) for entry in entries] for name, entries in conds.items()}
