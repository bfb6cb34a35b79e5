"""Test-only nodes for a real host: conditions for stand-in checkpoints, and a record of what happened."""

import hashlib
from collections import defaultdict

import comfy.controlnet
import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import comfy.utils
import stand_ins
import torch
from comfy.patcher_extension import WrappersMP

from .caches import CACHE_NODES
from .devices import DEVICE_NODES, DEVICES
from .families import FAMILY_NODES
from .faults import FAULT_NODES, FAULTS
from .pictures import PICTURE_NODES

CHECK = "saddle_free_check"  # the pack's mark among the transformer options


class Record:
    """What the nodes below saw since the last clear()."""

    faults, devices = FAULTS, DEVICES

    def clear(self):
        self.faults.clear()
        self.devices.clear()
        self.latents = {}  # by label
        self.images = {}  # by label
        self.traces = {}  # by label
        self.forwards = defaultdict(int)  # APPLY_MODEL calls, by label
        self.evaluations = defaultdict(list)  # their sigmas, once for each batch that was evaluated, by label
        self.checks = defaultdict(int)  # APPLY_MODEL calls that only checked others, which are not counted, by label
        self.rows = defaultdict(int)  # images and conditions in them, by label
        self.points = defaultdict(list)  # digests of what was evaluated, by label
        self.batch = {}  # images of the guider's evaluation under way, by label
        self.calls = defaultdict(list)  # sigmas of the post-CFG passes, by label
        self.options_restored = {}  # by label
        self.loaded = {}  # number of models in the host's memory at the last post-CFG pass, by label


RECORD = Record()
RECORD.clear()


class TestConditioning:
    """Random CONDITIONING of a stand-in family."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"family": ("STRING", {}), "seed": ("INT", {"default": 0})}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, family, seed):
        return (stand_ins.conditioning(family, seed),)


class TestLatent:
    """An empty latent of a stand-in family."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"family": ("STRING", {}), "batch_size": ("INT", {"default": 1})}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, family, batch_size):
        return ({"samples": stand_ins.empty_latent(family, batch_size)},)


class TestWatch:
    """Records every model evaluation and post-CFG pass; breaks off at one of them when asked.

    Also records whether the guider had its own model options back when the run was over.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "label": ("STRING", {}),
                "break_at": ("INT", {"default": 0}),
                "how": (["interrupt", "exception"],),
            }
        }

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "watch"
    CATEGORY = "tests"

    def watch(self, model, label, break_at, how):
        hooks, watched = WatchHooks(label, break_at, how), model.clone()
        watched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, f"test_watch_{label}", hooks.predict_noise)
        watched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, f"test_watch_{label}", hooks.apply_model)
        watched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "test_watch", hooks.outer_sample)
        watched.set_model_sampler_post_cfg_function(hooks.post_cfg)
        return (watched,)


class WatchHooks:
    """What TestWatch records, and where."""

    def __init__(self, label, break_at, how):
        self.label, self.break_at, self.how = label, break_at, how

    def predict_noise(self, executor, x, *args, **kwargs):
        RECORD.batch[self.label] = len(x)
        return executor(x, *args, **kwargs)

    def apply_model(self, executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        label = self.label
        if CHECK in transformer_options:
            RECORD.checks[label] += 1
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
        rows = x.unflatten(0, (len(transformer_options["cond_or_uncond"]), -1))  # [conditions, images, ...]
        parts = rows.split(RECORD.batch.get(label, len(x)), dim=1)
        before = len(RECORD.evaluations[label])
        RECORD.forwards[label] += 1
        RECORD.rows[label] += len(x)
        RECORD.evaluations[label] += [float(t[0])] * len(parts)
        RECORD.points[label] += [hashlib.sha256(part.contiguous().numpy().tobytes()).hexdigest() for part in parts]
        if before < self.break_at <= len(RECORD.evaluations[label]):
            if self.how == "interrupt":
                raise comfy.model_management.InterruptProcessingException()
            raise RuntimeError("broken on purpose")
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def outer_sample(self, executor, *args, **kwargs):
        model_options = executor.class_obj.model_options
        try:
            return executor(*args, **kwargs)
        finally:
            RECORD.options_restored[self.label] = executor.class_obj.model_options is model_options

    def post_cfg(self, args):
        RECORD.calls[self.label].append(float(args["sigma"][0]))
        loaded = [entry.model for entry in comfy.model_management.current_loaded_models]
        RECORD.loaded[self.label] = len({id(patcher.model) for patcher in loaded if patcher is not None})
        return args["denoised"]


class ConstantControl(comfy.controlnet.ControlBase):
    """A control that adds a constant to the last block of the SD1.5 stand-in, larger for some models than for others.

    Like a ControlLora it is made for a model at the start of a run.
    """

    def pre_run(self, model, percent_to_timestep_function):
        super().pre_run(model, percent_to_timestep_function)
        self.amount = 3.0 + 30.0 * float(model.diffusion_model.out[2].weight.flatten()[0])

    def copy(self):
        copied = ConstantControl()
        self.copy_to(copied)
        return copied

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        added = torch.full((len(x_noisy), 320, *x_noisy.shape[2:]), self.amount * self.strength)
        return {"input": [], "middle": [], "output": [added]}


class TestControlNet:
    """A ControlNet without a file."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("CONTROL_NET",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self):
        return (ConstantControl(),)


class TestPreCFG:
    """Adds a constant to the conditional prediction before CFG, as packs that edit predictions do."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "amount": ("FLOAT", {"default": 0.0})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model, amount):
        patched = model.clone()
        patched.set_model_sampler_pre_cfg_function(
            lambda args: [args["conds_out"][0] + amount, *args["conds_out"][1:]]
        )
        return (patched,)


class TestOtherEvaluation:
    """Evaluates the same condition at the same x with a model that is off by a constant, as attention guidance does."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "amount": ("FLOAT", {"default": 0.0})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model, amount):
        def off_by_a_constant(apply_model, call):
            return apply_model(call["input"], call["timestep"], **call["c"]) + amount

        def post_cfg(args):
            options = {**args["model_options"], "model_function_wrapper": off_by_a_constant}
            comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
            return args["denoised"]

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(post_cfg)
        return (patched,)


class TestOffset:
    """Adds a constant to the model's prediction, or to the denoised prediction after CFG."""

    @classmethod
    def INPUT_TYPES(cls):
        where = (["model", "post_cfg"],)
        return {"required": {"model": ("MODEL",), "amount": ("FLOAT", {"default": 0.0, "min": -1e9}), "where": where}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model, amount, where):
        patched = model.clone()
        if where == "model":
            patched.set_model_unet_function_wrapper(
                lambda apply_model, call: apply_model(call["input"], call["timestep"], **call["c"]) + amount
            )
        else:
            patched.set_model_sampler_post_cfg_function(lambda args: args["denoised"] + amount)
        return (patched,)


class TestForgetFile:
    """A model whose loader left no record of its file, as loaders of other packs do."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model):
        patched = model.clone()
        patched.cached_patcher_init = None
        return (patched,)


class TestSampling:
    """Gives a model another parametrisation, as the nodes of the host that patch model_sampling do."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "kind": ("STRING", {})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model, kind):
        kinds = (comfy.model_sampling.ModelSamplingDiscrete, getattr(comfy.model_sampling, kind))
        patched = model.clone()
        patched.add_object_patch("model_sampling", type("ModelSampling", kinds, {})())
        return (patched,)


class TestCapture:
    """Keeps a latent for the test to look at; one of several parts packed into [B, 1, N], as samplers see it."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",), "label": ("STRING", {})}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "capture"
    CATEGORY = "tests"

    def capture(self, samples, label):
        latent = samples["samples"]
        RECORD.latents[label] = comfy.utils.pack_latents(latent.unbind())[0] if latent.is_nested else latent.clone()
        return {}


class TestCaptureImage:
    """Keeps an IMAGE for the test to look at."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",), "label": ("STRING", {})}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "capture"
    CATEGORY = "tests"

    def capture(self, images, label):
        RECORD.images[label] = images.clone()
        return {}


class TestCaptureTrace:
    """Keeps a curvature trace once sampling is over."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"trace": ("CURVATURE_TRACE",), "latent": ("LATENT",), "label": ("STRING", {})}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "capture"
    CATEGORY = "tests"

    def capture(self, trace, latent, label):
        RECORD.traces[label] = trace
        return {}


NODE_CLASS_MAPPINGS = {
    cls.__name__: cls
    for cls in (
        TestConditioning, TestLatent, TestWatch, TestControlNet, TestPreCFG, TestOtherEvaluation, TestOffset,
        TestForgetFile, TestSampling, TestCapture, TestCaptureImage, TestCaptureTrace,
        *CACHE_NODES, *DEVICE_NODES, *FAMILY_NODES, *FAULT_NODES, *PICTURE_NODES,
    )
}
