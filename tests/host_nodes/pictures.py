"""Nodes that make conditions, latents, masks and a ControlNet for one batch or another."""

import comfy.controlnet
import comfy.model_management
import comfy.sample
import stand_ins
import torch


class TestConditions:
    """Random CONDITIONING of a stand-in family, another for each image."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"family": ("STRING", {}), "seed": ("INT", {}), "batch_size": ("INT", {})}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, family, seed, batch_size):
        return (stand_ins.conditioning(family, seed, batch_size),)


class TestNoCondition:
    """CONDITIONING without an entry."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self):
        return ([],)


class TestPickCondition:
    """The CONDITIONING of one image of a batch."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",), "index": ("INT", {})}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "pick"
    CATEGORY = "tests"

    def pick(self, conditioning, index):
        one = slice(index, index + 1)
        return ([[tokens[one], {key: value[one] for key, value in more.items()}] for tokens, more in conditioning],)


class TestJoinConditions:
    """The CONDITIONING of a batch whose next image has another one."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"batch": ("CONDITIONING",), "next": ("CONDITIONING",)}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "join"
    CATEGORY = "tests"

    def join(self, batch, next):
        return ([[torch.cat([batch[0][0], next[0][0]]), batch[0][1]]],)


class TestPicture:
    """A random latent in the shape of another."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, samples):
        return ({**samples, "samples": comfy.sample.prepare_noise(samples["samples"], 5)},)


class TestMasks:
    """Masks of 1 in the left of the picture, each in more of it than the one before; or falling from 1 to 0 there."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"count": ("INT", {}), "size": ("INT", {}), "soft": ("BOOLEAN", {})}}

    RETURN_TYPES = ("MASK",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, count, size, soft):
        widths = (torch.arange(1, count + 1) * size // (count + 1))[:, None, None]
        distance = widths - torch.arange(size).expand(count, size, size)
        return ((distance / widths if soft else distance).clamp(0, 1).float(),)


class TestEvenMasks:
    """Masks of one value each."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"values": ("STRING", {}), "size": ("INT", {"default": 32})}}

    RETURN_TYPES = ("MASK",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, values, size):
        return (torch.tensor([float(value) for value in values.split()])[:, None, None].repeat(1, size, size),)


class HintNetwork(torch.nn.Module):
    """The network of a ControlNet for the SD3 stand-in: adds a pattern to all tokens, as strong as an image's hint."""

    dtype = torch.float32

    def __init__(self):
        super().__init__()
        self.pattern = torch.nn.Parameter(torch.linspace(-4, 4, 64), requires_grad=False)

    def forward(self, x, hint, timesteps, context, **kwargs):
        tokens = x.shape[2] * x.shape[3] // 4
        added = hint.mean(dim=(1, 2, 3)).reshape(-1, 1, 1) * self.pattern
        return {"output": [added.expand(len(x), tokens, 64).clone()]}


class TestHintControlNet:
    """The host's ControlNet with a small network."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("CONTROL_NET",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self):
        device = comfy.model_management.get_torch_device()
        return (comfy.controlnet.ControlNet(HintNetwork(), load_device=device),)


class TestHints:
    """Images of one colour, another for each."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"count": ("INT", {}), "size": ("INT", {})}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, count, size):
        return (torch.linspace(-0.5, 1.0, count).reshape(-1, 1, 1, 1).expand(-1, size, size, 3).clone(),)


PICTURE_NODES = (
    TestConditions, TestNoCondition, TestPickCondition, TestJoinConditions, TestPicture, TestMasks, TestEvenMasks,
    TestHintControlNet, TestHints,
)
