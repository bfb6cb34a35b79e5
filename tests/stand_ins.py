"""Stand-in checkpoints with random weights that the host's own loaders take for the real families."""

import json
import math
from dataclasses import dataclass

import torch
from safetensors.torch import save_file

PREFIX = "model.diffusion_model."
LARGE = 10e6  # weights; more than this is stored in half precision


@dataclass(frozen=True)
class Family:
    """A stand-in: where its file belongs, one image's latent, and the widths of its conditions."""

    folder: str
    latent_shape: tuple  # of several shapes where a latent has several parts
    context: tuple  # (tokens, width)
    pooled: int | None = None
    extra_keys: tuple = ()  # (name, tensor) beside the weights, by which the host tells variants apart
    config: dict | None = None  # of the transformer, where the host reads widths from the file's metadata


LTXAV = {
    "cross_attention_dim": 64, "audio_cross_attention_dim": 32, "attention_head_dim": 16, "audio_attention_head_dim": 8,
    "num_attention_heads": 4, "audio_num_attention_heads": 4, "caption_channels": 96, "num_layers": 1,
    "connector_num_layers": 1, "connector_attention_head_dim": 16, "connector_num_attention_heads": 2,
}

FAMILIES = {
    "sd15": Family("checkpoints", (4, 4, 4), (4, 768)),
    "sd15_middle": Family("checkpoints", (4, 4, 4), (4, 768)),  # with the block that perturbed attention changes
    "sd15_inpaint": Family("checkpoints", (4, 4, 4), (4, 768)),  # is shown the mask and the picture under it
    "sd21": Family("checkpoints", (4, 4, 4), (4, 1024)),
    "sdxl": Family("checkpoints", (4, 4, 4), (4, 2048), 1280),
    "sdxl_v": Family("checkpoints", (4, 4, 4), (4, 2048), 1280, (("v_pred", 0.0), ("ztsnr", 0.0))),
    "sdxl_edm": Family("checkpoints", (4, 4, 4), (4, 2048), 1280, (("edm_mean", 0.0), ("edm_std", 1.0))),
    "sd3": Family("checkpoints", (16, 8, 8), (4, 64), 48),
    "sd35": Family("checkpoints", (16, 8, 8), (4, 64), 48),
    "flux": Family("diffusion_models", (16, 8, 8), (4, 64), 48),
    "wan": Family("diffusion_models", (16, 3, 8, 8), (4, 4096)),
    "ltxav": Family("diffusion_models", ((128, 2, 2, 2), (8, 9, 16)), (4, 192), config=LTXAV),  # video and audio
}


def write_stand_in(name, models, seed=0):
    """Writes models/<folder>/<name>.safetensors, or a sibling of it, unless it is there; returns the file's name."""
    family = FAMILIES[name]
    path = models / family.folder / (f"{name}.safetensors" if seed == 0 else f"{name}_{seed}.safetensors")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = PREFIX if family.folder == "checkpoints" else ""
        weights = random_weights(_network(name, family), seed)
        if sum(value.numel() for value in weights.values()) > LARGE:
            weights = {key: value.half() for key, value in weights.items()}
        weights = {prefix + key: value for key, value in weights.items()}
        metadata = None if family.config is None else {"config": json.dumps({"transformer": family.config})}
        save_file(weights | {key: torch.tensor([value]) for key, value in family.extra_keys}, path, metadata)
    return path.name


def empty_latent(name, batch=1):
    """Zeros in the shape of the family's latent, nested where it has several parts."""
    import comfy.nested_tensor

    shape = FAMILIES[name].latent_shape
    if isinstance(shape[0], int):
        return torch.zeros(batch, *shape)
    return comfy.nested_tensor.NestedTensor([torch.zeros(batch, *part) for part in shape])


def write_lora(name, models):
    """Writes models/loras/<name>.safetensors, a strong rank-4 LoRA on the first block of the SD3 stand-in."""
    path = models / "loras" / f"{name}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(0)
        layer = "diffusion_model.joint_blocks.0.x_block.attn.proj"
        sides = {"lora_up": (64, 4), "lora_down": (4, 64)}
        save_file(
            {f"{layer}.{side}.weight": torch.randn(shape, generator=generator) / 2 for side, shape in sides.items()},
            path,
        )
    return path.name


def conditioning(name, seed, batch=1):
    """CONDITIONING with random tensors of the family's widths."""
    family = FAMILIES[name]
    generator = torch.Generator().manual_seed(seed)
    details = {}
    if family.pooled is not None:
        details["pooled_output"] = torch.randn(batch, family.pooled, generator=generator)
    return [[torch.randn(batch, *family.context, generator=generator), details]]


def random_weights(network, seed):
    """Weights of the size that keeps activations near 1, with no zero-initialised layer left at zero."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, value in network.state_dict().items():
        if value.ndim < 2:
            is_gain = key.endswith(("weight", "scale"))
            weights[key] = torch.randn(value.shape, generator=generator) * 0.02 + (1.0 if is_gain else 0.0)
        else:
            spread = 1.0 if key == "pos_embed" else 1 / math.sqrt(value[0].numel())
            weights[key] = torch.randn(value.shape, generator=generator) * spread
    return weights


def _network(name, family):
    import comfy.ldm.flux.model
    import comfy.ldm.lightricks.av_model
    import comfy.ldm.modules.diffusionmodules.mmdit
    import comfy.ldm.modules.diffusionmodules.openaimodel
    import comfy.ldm.wan.model
    import comfy.ops

    common = {"operations": comfy.ops.disable_weight_init, "device": "cpu", "dtype": torch.float32}
    width, pooled = family.context[1], family.pooled
    if name.startswith(("sd15", "sd21", "sdxl")):
        return comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel(**_unet(name), **common)
    if name.startswith("sd3"):
        return comfy.ldm.modules.diffusionmodules.mmdit.MMDiT(**_mmdit(name, width, pooled), **common)
    if name == "flux":
        return comfy.ldm.flux.model.Flux(
            in_channels=16, out_channels=16, vec_in_dim=pooled, context_in_dim=width, hidden_size=128, mlp_ratio=4.0,
            num_heads=1, depth=1, depth_single_blocks=1, axes_dim=[16, 56, 56], theta=10000, patch_size=2,
            qkv_bias=True, guidance_embed=True, txt_ids_dims=[], **common,
        )
    if name == "ltxav":
        return comfy.ldm.lightricks.av_model.LTXAVModel(**family.config, **common)
    return comfy.ldm.wan.model.WanModel(
        dim=128, ffn_dim=256, num_heads=1, num_layers=2, text_dim=width, in_dim=16, out_dim=16, **common
    )


def _unet(name):
    config = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "channel_mult": [1],
        "use_spatial_transformer": True, "legacy": False, "transformer_depth_middle": -2,
    }
    if name.startswith(("sd15", "sd21")):
        config |= {"num_res_blocks": [1], "transformer_depth": [1], "transformer_depth_output": [1, 1]}
        if name.startswith("sd15"):
            middle = 1 if name == "sd15_middle" else -2
            channels = 9 if name == "sd15_inpaint" else 4
            return config | {
                "context_dim": 768, "num_heads": 8, "transformer_depth_middle": middle, "in_channels": channels
            }
        return config | {"context_dim": 1024, "num_head_channels": 64, "use_linear_in_transformer": True}
    return config | {
        "num_res_blocks": [3], "transformer_depth": [0, 2, 5], "transformer_depth_output": [0, 0, 0, 1],
        "context_dim": 2048, "num_head_channels": 64, "use_linear_in_transformer": True,
        "num_classes": "sequential", "adm_in_channels": 2816,
    }


def _mmdit(name, width, pooled):
    depth = 1 if name == "sd3" else 2
    return {
        "input_size": None, "patch_size": 2, "in_channels": 16, "depth": depth, "adm_in_channels": pooled,
        "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": width, "out_features": 64 * depth}
        },
        "num_patches": 64**2, "pos_embed_max_size": 64, "pos_embed_scaling_factor": None,
        "qk_norm": "rms" if name == "sd35" else None,
    }
