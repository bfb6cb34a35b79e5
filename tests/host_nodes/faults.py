"""Nodes that make something go wrong at a chosen moment of a sampling run, and nodes that hand odd values around."""

import os
import weakref
from collections import defaultdict

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import CallbacksMP, PatcherInjection, WrappersMP

PLACES = (
    "model", "calc_cond_batch", "predict_noise", "pre_cfg", "post_cfg", "late_post_cfg", "sampler_sample",
    "outer_sample",
)
RAISED = {
    "interrupt": comfy.model_management.InterruptProcessingException,
    "exception": lambda: RuntimeError("broken on purpose"),
    "oom": lambda: torch.OutOfMemoryError("out of memory on purpose"),
}
SPOILED = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
KINDS = ("none", *RAISED, "press", *SPOILED)


class FaultRecord:
    """What happened at the TestFault nodes, and the models that TestKeep has seen, since the last clear()."""

    def clear(self):
        self.counts = defaultdict(int)  # passes, by label and place
        self.struck = defaultdict(int)  # faults that happened, by label
        self.phase = defaultdict(lambda: "extra")  # of the call under way, by label
        self.phases = defaultdict(list)  # "base" or "extra" for each pass of the model, by label
        self.broken = defaultdict(set)  # images of which a base pass gave values that are not finite, by label
        self.kept = {}  # model patchers and their state, by label
        self.lost = []  # weak references to a tensor of each evaluation that ran out of memory
        self.held = []  # for each pass of the model after one: whether that tensor was still alive


FAULTS = FaultRecord()
FAULTS.clear()


class Fault:
    """One fault: what happens, where, at which passes, and to which images where it spoils numbers."""

    def __init__(self, label, kind, place, at, images):
        self.label, self.kind, self.place, self.at, self.images = label, kind, place, at, images

    def passes(self, place):
        """Counts a pass; raises where the fault is due; returns whether to spoil what comes out."""
        FAULTS.counts[self.label, place] += 1
        FAULTS.held += [reference() is not None for reference in FAULTS.lost]
        if self.kind == "none" or place != self.place or FAULTS.counts[self.label, place] not in self.at:
            return False
        FAULTS.struck[self.label] += 1
        if self.kind == "press":
            comfy.model_management.interrupt_current_processing()
        elif self.kind in RAISED:
            tensor = torch.zeros(1)  # lives as long as the traceback does
            FAULTS.lost.append(weakref.ref(tensor))
            raise RAISED[self.kind]()
        return self.kind in SPOILED

    def spoil(self, values, conditions=1):
        """A copy of [conditions * B, ...] with one value of each chosen image spoiled, under every condition."""
        spoiled = values.clone().unflatten(0, (conditions, -1)).flatten(2)
        images = self.images or range(spoiled.shape[1])
        spoiled[:, [image for image in images if image < spoiled.shape[1]], 0] = SPOILED[self.kind]
        return spoiled.reshape(values.shape)


class FaultHooks:
    """The hooks at which a fault may happen."""

    def __init__(self, fault):
        self.fault, self.label = fault, fault.label

    def apply_model(self, executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        if "saddle_free_check" in transformer_options:
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
        FAULTS.phases[self.label].append(FAULTS.phase[self.label])
        spoils = self.fault.passes("model")
        output = executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
        conditions = len(transformer_options["cond_or_uncond"])
        output = self.fault.spoil(output, conditions) if spoils else output
        if FAULTS.phase[self.label] == "base":
            finite = output.unflatten(0, (conditions, -1)).isfinite().flatten(2).all(dim=2).all(dim=0)
            FAULTS.broken[self.label] |= {image for image, known in enumerate(finite.tolist()) if not known}
        return output

    def calc_cond_batch(self, executor, *args, **kwargs):
        spoils = self.fault.passes("calc_cond_batch")
        outputs = executor(*args, **kwargs)
        return [self.fault.spoil(output) for output in outputs] if spoils else outputs

    def predict_noise(self, executor, *args, **kwargs):
        FAULTS.phase[self.label] = "base"
        spoils = self.fault.passes("predict_noise")
        output = executor(*args, **kwargs)
        return self.fault.spoil(output) if spoils else output

    def pre_cfg(self, args):
        FAULTS.phase[self.label] = "extra"
        outputs = args["conds_out"]
        return [self.fault.spoil(output) for output in outputs] if self.fault.passes("pre_cfg") else outputs

    def post_cfg(self, place):
        return lambda args: self.fault.spoil(args["denoised"]) if self.fault.passes(place) else args["denoised"]

    def sampler_sample(self, executor, *args, **kwargs):
        self.fault.passes("sampler_sample")
        return executor(*args, **kwargs)

    def outer_sample(self, executor, *args, **kwargs):
        self.fault.passes("outer_sample")
        guider = executor.class_obj
        options = guider.model_options
        guider.model_options = comfy.model_patcher.create_model_options_clone(options)
        functions = [*options.get("sampler_post_cfg_function", []), self.post_cfg("late_post_cfg")]
        guider.model_options["sampler_post_cfg_function"] = functions
        try:
            return executor(*args, **kwargs)
        finally:
            guider.model_options = options


class TestFault:
    """A model at which something goes wrong.

    place: the hook, "model" being the network itself and "late_post_cfg" a function that is added when sampling begins;
    at: its passes, "2" or "2,3", counted from 1 in each prompt; images: those that nan and inf spoil, all where it is
    empty. "press" is the page's button: the host notices later.
    """

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "label": ("STRING", {}),
                "kind": (list(KINDS),),
                "place": (list(PLACES),),
                "at": ("STRING", {}),
                "images": ("STRING", {}),
            }
        }

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model, label, kind, place, at, images):
        hooks = FaultHooks(Fault(label, kind, place, _numbers(at), _numbers(images)))
        patched, key = model.clone(), f"test_fault_{label}"
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, key, hooks.apply_model)
        patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, key, hooks.calc_cond_batch)
        patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, key, hooks.predict_noise)
        patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, key, hooks.sampler_sample)
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, hooks.outer_sample)
        patched.set_model_sampler_pre_cfg_function(hooks.pre_cfg)
        patched.set_model_sampler_post_cfg_function(hooks.post_cfg("post_cfg"))
        return (patched,)


def _numbers(text):
    return {int(number) for number in text.split(",") if number}


class TestUndecided:
    """A model whose denoised prediction has `amount` of x added: with enough of it every point is a saddle."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "amount": ("FLOAT", {"default": 0.0})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model, amount):
        def apply_model(executor, x, *args, **kwargs):
            return executor(x, *args, **kwargs) + amount * x

        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test_undecided", apply_model)
        return (patched,)


class TestCrowd:
    """A model whose memory runs out where more than `rows` are evaluated at once, whatever the host estimates."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "rows": ("INT", {"default": 1})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model, rows):
        def apply_model(executor, x, *args, **kwargs):
            if len(x) > rows:
                raise RAISED["oom"]()
            return executor(x, *args, **kwargs)

        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test_crowd", apply_model)
        return (patched,)


class TestInjection:
    """A model into which a pack builds something of its own for the time of a run, as motion modules are."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model):
        patched = model.clone()
        injection = PatcherInjection(inject=lambda patcher: None, eject=lambda patcher: None)
        patched.set_injections("test_injection", [injection])
        return (patched,)


class TestMemory:
    """A model of which the host believes that an image needs `factor` times the memory of a usual one."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "factor": ("FLOAT", {"default": 1.0, "max": 1e12})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model, factor):
        patched = model.clone()
        patched.add_object_patch("memory_usage_factor", factor)
        return (patched,)


class TestLoadFault:
    """A model that cannot be loaded into memory."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "kind": (list(RAISED),)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model, kind):
        def on_load(*args):
            raise RAISED[kind]()

        patched = model.clone()
        patched.add_callback_with_key(CallbacksMP.ON_LOAD, "test_load_fault", on_load)
        return (patched,)


class TestReload:
    """A model that something goes wrong with when its file is loaded once more."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "kind": (list(RAISED),)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model, kind):
        def load(*args, **kwargs):
            raise RuntimeError("no model in it.\n\nA hint.") if kind == "exception" else RAISED[kind]()

        patched = model.clone()
        patched.cached_patcher_init = (load, ("folder/some.safetensors",))
        return (patched,)


class TestReplaceFile:
    """A model whose file is deleted, or overwritten with `text`, once it is loaded."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "path": ("STRING", {}), "text": ("STRING", {})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "replace"
    CATEGORY = "tests"

    def replace(self, model, path, text):
        os.remove(path)
        if text:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        return (model,)


class TestKeep:
    """Keeps a model for the test to look at after the run."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "label": ("STRING", {})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "keep"
    CATEGORY = "tests"

    def keep(self, model, label):
        FAULTS.kept[label] = model, state(model)
        return (model,)


def state(patcher):
    """Everything that a run must leave as it was, of a patcher and of its additional models."""
    names = (
        "model_options", "wrappers", "callbacks", "object_patches", "injections", "attachments", "hook_patches",
        "hook_mode", "patches_uuid", "patches", "additional_models",
    )
    parts = [patcher, *patcher.get_nested_additional_models()]
    return [{name: _identity(getattr(part, name)) for name in names} for part in parts]


def _identity(value):
    if isinstance(value, dict):
        return {key: _identity(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_identity(entry) for entry in value]
    return value if isinstance(value, (str, int, float)) else id(value)


class TestLatentOfShape:
    """An empty latent of any shape, "1,16,2,2"."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"shape": ("STRING", {})}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, shape):
        return ({"samples": torch.zeros([int(size) for size in shape.split(",")])},)


ODD = {
    "nothing": lambda: None,
    "number": lambda: 5,
    "text": lambda: "model",
    "list": list,
    "dictionary": dict,
    "tensor": lambda: torch.zeros(2),
    "small picture": lambda: torch.zeros(1, 1, 1, 3),
    "grey picture": lambda: torch.zeros(3, 8, 8, 1),
    "flat picture": lambda: torch.zeros(8, 8, 3),
    "no picture": lambda: torch.zeros(0, 8, 8, 3),
    "picture of nan": lambda: torch.full((3, 8, 8, 3), float("nan")),
}


class TestOdd:
    """An odd value that fits every socket, as nodes with wildcard outputs have."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": (list(ODD),)}}

    RETURN_TYPES = ("*",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, kind):
        return (ODD[kind](),)


FAULT_NODES = (
    TestFault, TestUndecided, TestCrowd, TestMemory, TestInjection, TestLoadFault, TestReload, TestReplaceFile,
    TestKeep, TestLatentOfShape, TestOdd,
)
