"""The bundled demo model as real host objects, so that every core node works on it."""

import json
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

from .demo_network import CLASSES, SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, DemoUNet
from .inputs import checked

WEIGHTS = Path(__file__).resolve().parent.parent / "workflows" / "demo_model"
NO_CLASS = "none"


class DemoLatentFormat(comfy.latent_formats.LatentFormat):
    """RGB pixels in [-1, 1] as latents."""

    latent_channels = 3
    spacial_downscale_ratio = 1
    latent_rgb_factors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


class DemoConfig(comfy.supported_models_base.BASE):
    """The host's description of the demo model."""

    latent_format = DemoLatentFormat
    sampling_settings = {"sigma_data": SIGMA_DATA, "sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX}
    unet_extra_config = {}
    memory_usage_factor = 0.5


def load_demo_model(name, disable_dynamic=False):
    """A ModelPatcher of `model` or `weak` with the bundled weights; an error says how to get them back.

    disable_dynamic: for the host, which calls the loader again when it wants weights of its own.
    """
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    model = _model_with_weights(WEIGHTS / f"{name}.safetensors", offload_device)
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = kind(model, load_device=load_device, offload_device=offload_device)
    patcher.cached_patcher_init = (load_demo_model, (name,))
    return patcher


def _model_with_weights(path, device):
    """The host's model of a file's weights; FileNotFoundError or ValueError where there is none or another one."""
    mend = "install the pack again, or train them with benchmarks/train_demo.py."
    if not path.exists():
        raise FileNotFoundError(f"the demo model's weights {path.name} are not in {path.parent}; {mend}")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["config"])
            sizes = {name: int(facts[name]) for name in ("width", "blocks")}
            weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} in {path.parent} is no file of the demo model's weights; {mend}") from error
    config = DemoConfig({**sizes, "dtype": torch.float32})
    model = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.EDM, device=device, unet_model=DemoUNet)
    if _shapes(weights) != _shapes(model.diffusion_model.state_dict()):
        raise ValueError(f"{path.name} in {path.parent} holds the weights of another model; {mend}")
    model.diffusion_model.load_state_dict(weights)
    return model


def _shapes(weights):
    return {name: tuple(value.shape) for name, value in weights.items()}


def class_conditioning(digit):
    """CONDITIONING for a digit from "0" to "9", or for no class: one token of class weights, [1, 1, 10]."""
    weights = torch.zeros(1, 1, CLASSES)
    if digit != NO_CLASS:
        weights[..., int(digit)] = 1
    return [[weights, {}]]


class SaddleFreeDemoModel(io.ComfyNode):
    """Loads the bundled demo model."""

    @classmethod
    def define_schema(cls):
        """Inputs and outputs; appended to, never reordered."""
        return io.Schema(
            node_id="SaddleFreeDemoModel",
            display_name="Saddle-Free Demo Model",
            category="model/patch/saddle-free",
            description=(
                "A small model of coloured handwritten digits that comes with the pack, so that guidance can be seen "
                "without a download. Draws 32x32 pixels; samples well with 20 to 48 euler steps at CFG 1."
            ),
            search_aliases=["digits", "toy model", "mnist"],
            inputs=[
                io.Combo.Input(
                    "digit", options=[NO_CLASS, *map(str, range(CLASSES))], default=NO_CLASS,
                    tooltip="Which digit the conditioning asks for. none is off: the model draws any digit, which "
                    "is where guidance shows most.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The demo model."),
                io.Model.Output(
                    display_name="weak_model", tooltip="A smaller version, trained for less time, to steer away from."
                ),
                io.Vae.Output(display_name="vae", tooltip="Pixels in, pixels out: the demo model needs no real VAE."),
                io.Conditioning.Output(display_name="conditioning", tooltip="The chosen digit, or no class."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, digit):
        """The model, its weak version, the pixel-space VAE and the conditioning."""
        vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
        return io.NodeOutput(load_demo_model("model"), load_demo_model("weak"), vae, class_conditioning(digit))
