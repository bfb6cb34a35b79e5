"""The bundled demo models as real host objects, so that every core node works on them."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import torch
from comfy_api.latest import io
from safetensors import SafetensorError, safe_open

from . import emoji_network
from .demo_network import CLASSES, SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, DemoUNet
from .emoji_network import KINDS, LABELS, STYLES, EmojiUNet
from .inputs import checked

WEIGHTS = Path(__file__).resolve().parent.parent / "workflows" / "demo_model"
NO_CLASS = "none"
ANY = "any"
MEND = "install the pack again, or train them with benchmarks/train_demo.py."


class DemoLatentFormat(comfy.latent_formats.LatentFormat):
    """RGB pixels in [-1, 1] as latents."""

    latent_channels = 3
    spacial_downscale_ratio = 1
    latent_rgb_factors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


class DigitsConfig(comfy.supported_models_base.BASE):
    """The host's description of the digits model."""

    latent_format = DemoLatentFormat
    sampling_settings = {"sigma_data": SIGMA_DATA, "sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX}
    unet_extra_config = {}
    memory_usage_factor = 0.5


class EmojiConfig(DigitsConfig):
    """The host's description of the emoji model."""

    sampling_settings = DigitsConfig.sampling_settings | {"sigma_data": emoji_network.SIGMA_DATA}


@dataclasses.dataclass(frozen=True)
class Family:
    """A demo model and its weak version: their files, the class of their network, and how a file tells its sizes.

    A file may hold only the layers that differ from those of another file, which it names as its base.
    """

    model: str
    weak: str
    network: type
    config: type
    sizes: Callable


def _emoji_sizes(facts):
    sizes = {name: int(facts[name]) for name in ("blocks", "embedding")}
    return sizes | {"widths": tuple(int(width) for width in facts["widths"])}


FEW_STEPS = "emoji, 8 steps"
FAMILIES = {
    "digits": Family(
        "model", "weak", DemoUNet, DigitsConfig, lambda facts: {name: int(facts[name]) for name in ("width", "blocks")}
    ),
    "emoji": Family("emoji", "emoji-weak", EmojiUNet, EmojiConfig, _emoji_sizes),
    FEW_STEPS: Family("emoji-8-steps", "emoji-weak", EmojiUNet, EmojiConfig, _emoji_sizes),
}


def load_demo_model(name, disable_dynamic=False):
    """A ModelPatcher with the bundled weights of a name; an error says how to get them back.

    name: `model` or `weak`, which draw digits, `emoji`, `emoji-weak` or `emoji-8-steps`.
    disable_dynamic: for the host, which calls the loader again when it wants weights of its own.
    """
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    family = next(family for family in FAMILIES.values() if name in (family.model, family.weak))
    model = _model_with_weights(family, WEIGHTS / f"{name}.safetensors", offload_device)
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = kind(model, load_device=load_device, offload_device=offload_device)
    patcher.cached_patcher_init = (load_demo_model, (name,))
    return patcher


def _model_with_weights(family, path, device):
    """The host's model of a file's weights; FileNotFoundError or ValueError where there is none or another one."""
    sizes, weights = _read(family, path)
    config = family.config({**sizes, "dtype": torch.float32})
    model = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.EDM, device=device, unet_model=family.network)
    if _shapes(weights) != _shapes(model.diffusion_model.state_dict()):
        raise ValueError(f"{path.name} in {path.parent} holds the weights of another model; {MEND}")
    model.diffusion_model.load_state_dict(weights)
    return model


def _read(family, path):
    """The sizes of a file's network and its weights in float32, with those of the file that it is based on."""
    if not path.exists():
        raise FileNotFoundError(f"the demo model's weights {path.name} are not in {path.parent}; {MEND}")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["config"])
            sizes = family.sizes(facts)
            weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} in {path.parent} is no file of the demo model's weights; {MEND}") from error
    if "base" in facts:
        weights = _read(family, path.with_name(f"{facts['base']}.safetensors"))[1] | weights
    return sizes, weights


def _shapes(weights):
    return {name: tuple(value.shape) for name, value in weights.items()}


def class_conditioning(digit):
    """CONDITIONING for a digit from "0" to "9", or for no class: one token of class weights, [1, 1, 10]."""
    weights = torch.zeros(1, 1, CLASSES)
    if digit != NO_CLASS:
        weights[..., int(digit)] = 1
    return [[weights, {}]]


def emoji_conditioning(kind, style):
    """CONDITIONING for a kind and a style of emoji, either of them "any": one token of label weights, [1, 1, 39]."""
    weights = torch.zeros(1, 1, LABELS)
    if kind != ANY:
        weights[..., KINDS.index(kind)] = 1
    if style != ANY:
        weights[..., len(KINDS) + STYLES.index(style)] = 1
    return [[weights, {}]]


class SaddleFreeDemoModel(io.ComfyNode):
    """Loads one of the bundled demo models."""

    @classmethod
    def define_schema(cls):
        """Inputs and outputs; appended to, never reordered."""
        return io.Schema(
            node_id="SaddleFreeDemoModel",
            display_name="Saddle-Free Demo Model",
            category="model/patch/saddle-free",
            description=(
                "Small models that come with the pack, so that you can see guidance without a download. The emoji "
                "models draw 64x64 pixels, the digits model 32x32. Use CFG 1 and 20 to 48 euler steps, or 8 for the "
                "model that is made for 8."
            ),
            search_aliases=["emoji", "digits", "toy model", "mnist"],
            inputs=[
                io.Combo.Input(
                    "digit", options=[NO_CLASS, *map(str, range(CLASSES))], default=NO_CLASS,
                    tooltip="Which digit you get from the digits model. none gives any digit, which is where guidance "
                    "shows most. The emoji model ignores it.",
                ),
                *_appended_inputs(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The demo model."),
                io.Model.Output(
                    display_name="weak_model", tooltip="A smaller version, trained for less time, to steer away from."
                ),
                io.Vae.Output(display_name="vae", tooltip="Pixels in, pixels out: the demo model needs no real VAE."),
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="What you asked for: a digit, or a kind and a style of emoji."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, digit, model="digits", kind=ANY, style=ANY):
        """The model, its weak version, the pixel-space VAE and the conditioning."""
        vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
        family = FAMILIES[model]
        condition = class_conditioning(digit) if model == "digits" else emoji_conditioning(kind, style)
        return io.NodeOutput(load_demo_model(family.model), load_demo_model(family.weak), vae, condition)


def _appended_inputs():
    """The inputs that graphs of the first release do not have.

    A page gives such a graph the defaults, and a prompt without them leaves them out, so both must mean the digits
    model; nodes/web/demo_model.js lets a node that is newly placed start with emoji.
    """
    return [
        io.Combo.Input(
            "model", options=["emoji", "digits", FEW_STEPS], default="digits", optional=True,
            tooltip="What you want pictures of: emoji of 64x64 pixels, or handwritten digits of 32x32. Give the "
            "sampler an empty latent of that size. With 8 steps in its name it is a distilled model, as turbo models "
            "are: use 8 euler steps and the karras scheduler.",
        ),
        io.Combo.Input(
            "kind", options=[ANY, *KINDS], default=ANY, optional=True,
            tooltip="Which kind of emoji you get. any gives all kinds, which is where guidance shows most. The "
            "digits model ignores it.",
        ),
        io.Combo.Input(
            "style", options=[ANY, *STYLES], default=ANY, optional=True,
            tooltip="Whose way of drawing emoji you get: noto and blob are Google's, the fluent ones Microsoft's, "
            "twemoji Twitter's, emojitwo EmojiOne's, fxemoji Mozilla's. any gives all styles. The digits "
            "model ignores it.",
        ),
    ]
