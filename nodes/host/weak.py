"""The weak model of auto-guidance in a sampling run."""

import dataclasses

import comfy.hooks
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers

from .compat import IMAGE_KEYS, KEY
from .coordinates import image_keys
from .weak_fit import refuse_misfit, with_own_weights


def with_weak_model(model, weak):
    """A clone of the patcher that brings the weak one along, and what a WeakModel finds the weak one by.

    That is the weak patcher where it shares the main one's weights, else its place among the additional models.
    Raises ValueError where the two do not fit.
    """
    refuse_misfit(model, weak)
    weak, shared = with_own_weights(model, weak)
    clone = model.clone()
    if shared:
        return clone, weak
    others = clone.get_additional_models_with_key(KEY)
    clone.set_additional_models(KEY, [*others, weak])
    return clone, len(others)


class WeakModel:
    """The weak model in one sampling run: its own patches, wrappers and hooks, and its own encoding of the conditions.

    With shared weights the main model is evaluated, under the weak model's options and with its own conditions.
    weak: as with_weak_model gives it; main: the guider.
    """

    def __init__(self, weak, main, noise):
        self.shared = not isinstance(weak, int)
        patcher = weak if self.shared else main.model_patcher.get_additional_models_with_key(KEY)[weak]
        refuse_misfit(main.model_patcher, patcher)
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
