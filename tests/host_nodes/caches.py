"""Nodes that put a cache of another pack's kind in front of the network, or couple the conditions there."""

import itertools

import torch
from comfy.patcher_extension import WrappersMP


class StepCache:
    """Gives the last answer again, the sample's change added, where the sample has changed by less than a hundredth."""

    def __init__(self):
        self.last = {}

    def ask(self, conditions, x, network):
        """The network's answer, or nearly."""
        known = self.last.get(conditions)
        if known is not None and (x - known[0]).norm() < 0.01 * x.norm():
            return known[1] + x - known[0]
        self.last[conditions] = x.clone(), network()
        return self.last[conditions][1]

    def function_wrapper(self, apply_model, call):
        """model_function_wrapper"""
        x, sigma = call["input"], call["timestep"]
        return self.ask(tuple(call["cond_or_uncond"]), x, lambda: apply_model(x, sigma, **call["c"]))

    def wrapper(self, executor, x, *args, **kwargs):
        """DIFFUSION_MODEL wrapper"""
        options = kwargs.get("transformer_options", args[-1])
        return self.ask(tuple(options["cond_or_uncond"]), x, lambda: executor(x, *args, **kwargs))


class TestStepCache:
    """Patches a model with it, in one of the two places where packs do."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "where": (["function", "wrapper"],)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"
    MAKE = StepCache

    def patch(self, model, where):
        patched, made = model.clone(), self.MAKE()
        if where == "function":
            patched.set_model_unet_function_wrapper(made.function_wrapper)
        else:
            patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, type(made).__name__, made.wrapper)
        return (patched,)


class Coupled:
    """Adds a third of the other conditions' mean prediction to that of each condition evaluated with them."""

    @staticmethod
    def mixed(output, count):
        """output: [count * B, ...]"""
        each = output.reshape(count, -1, *output.shape[1:])
        others = each.sum(dim=0) - each
        return (each + others / 3 / max(count - 1, 1)).reshape(output.shape)

    def function_wrapper(self, apply_model, call):
        """model_function_wrapper"""
        return self.mixed(apply_model(call["input"], call["timestep"], **call["c"]), len(call["cond_or_uncond"]))

    def wrapper(self, executor, x, *args, **kwargs):
        """DIFFUSION_MODEL wrapper"""
        options = kwargs.get("transformer_options", args[-1])
        return self.mixed(executor(x, *args, **kwargs), len(options["cond_or_uncond"]))


class TestCoupled(TestStepCache):
    """Patches a model with it."""

    MAKE = Coupled


class Paired(Coupled):
    """The same, of two conditions and no fewer."""

    @staticmethod
    def mixed(output, count):
        """output: [count * B, ...]"""
        if count < 2:
            raise ValueError("two conditions are needed")
        return Coupled.mixed(output, count)


class TestPaired(TestStepCache):
    """Patches a model with it."""

    MAKE = Paired


REMEMBERED = {}
NUMBERS = itertools.count()  # an id would be that of a gone object again, and so would what was remembered


class Remembers:
    """Adds a share of the mean of what it was asked last to each prediction, as statistics of the last step are used.

    Kept in a list, as an attribute of the network, in place in a tensor, or outside of what hangs on the model.
    """

    def __init__(self, kind):
        self.kind, self.last, self.tensor = kind, [0.0], torch.zeros(())
        self.name = f"test_last_{next(NUMBERS)}"

    def _get(self, network):
        return {
            "list": lambda: self.last[0], "network": lambda: getattr(network, self.name, 0.0),
            "place": lambda: self.tensor.clone(), "outside": lambda: REMEMBERED.get(self.name, 0.0),
        }[self.kind]()

    def _put(self, network, value):
        if self.kind == "list":
            self.last[0] = value
        elif self.kind == "network":
            setattr(network, self.name, value)
        elif self.kind == "place":
            self.tensor.copy_(value)
        else:
            REMEMBERED[self.name] = value

    def wrapper(self, executor, x, *args, **kwargs):
        """DIFFUSION_MODEL wrapper"""
        network = executor.class_obj
        last = self._get(network)
        self._put(network, x.mean())
        return executor(x, *args, **kwargs) + 3.0 * last


class TestRemembers:
    """Patches a model with it."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "kind": (["list", "network", "place", "outside"],)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model, kind):
        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test_remembers", Remembers(kind).wrapper)
        return (patched,)


class TestTwice:
    """A model that each step of the sampler asks twice at one x."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "double": ("BOOLEAN", {})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model, double):
        def predict_noise(executor, x, *args, **kwargs):
            if double:
                return executor(x.double(), *args, **kwargs)
            executor(x, *args, **kwargs)
            return executor(x, *args, **kwargs)

        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test_twice", predict_noise)
        return (patched,)


class TestPicky:
    """A model that takes so many rows and no more."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "rows": ("INT", {})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model, rows):
        def apply_model(executor, x, *args, **kwargs):
            if len(x) > rows:
                raise ValueError(f"this network takes {rows} rows")
            return executor(x, *args, **kwargs)

        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test_picky", apply_model)
        return (patched,)


class TestCompiledBlock:
    """A model with a compiled block in the place of the network's own."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "block": ("STRING", {})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model, block):
        patched = model.clone()
        patched.add_object_patch(block, torch.compile(patched.get_model_object(block), backend="eager"))
        return (patched,)


class Forecast:
    """Runs the blocks at two steps of three, and gives at the third where the line through their outputs leads."""

    def __init__(self):
        self.step, self.outputs = -1, {}

    def outer_sample(self, executor, *args, **kwargs):
        """OUTER_SAMPLE wrapper"""
        self.__init__()
        return executor(*args, **kwargs)

    def predict_noise(self, executor, *args, **kwargs):
        """PREDICT_NOISE wrapper"""
        self.step += 1
        return executor(*args, **kwargs)

    def block(self, name):
        """The replacement of a block."""

        def replaced(args, extra):
            key = name, tuple(args["transformer_options"]["cond_or_uncond"])
            if self.step % 3 == 2:
                before, last = self.outputs[key]
                return {part: 2 * last[part] - before[part] for part in last}
            found = extra["original_block"](args)
            self.outputs[key] = [*self.outputs.get(key, []), found][-2:]
            return found

        return replaced


class TestForecast:
    """Patches FLUX with it."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model):
        patched, made = model.clone(), Forecast()
        for name in ("double_block", "single_block"):
            patched.set_model_patch_replace(made.block(name), "dit", name, 0)
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "test_forecast", made.outer_sample)
        patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test_forecast", made.predict_noise)
        return (patched,)


class TestNamed:
    """A function around the network that does nothing, under a name that tells of a cache."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    def patch(self, model):
        def clear_cache_between_steps(apply_model, call):
            return apply_model(call["input"], call["timestep"], **call["c"])

        patched = model.clone()
        patched.set_model_unet_function_wrapper(clear_cache_between_steps)
        return (patched,)


CACHE_NODES = (
    TestStepCache, TestCoupled, TestPaired, TestRemembers, TestTwice, TestPicky, TestCompiledBlock, TestForecast,
    TestNamed,
)
