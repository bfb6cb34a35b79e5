"""Nodes that put a cache of another pack's kind in front of the network, or couple the conditions there."""

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


CACHE_NODES = (TestStepCache, TestCoupled)
