"""The models whose cost is measured: stand-ins of the tests, the demo models, and real sizes with random weights."""

import dataclasses
import functools

import torch
from demos import DEMOS

STAND_INS = {
    "SD1.5": "sd15_middle", "SDXL": "sdxl", "SD3": "sd3", "SD3.5": "sd35", "FLUX.1-dev": "flux", "Wan 2.1": "wan",
}


@dataclasses.dataclass(frozen=True)
class RealSize:
    """A published model: its network as the host detects it in a checkpoint, one latent of 1024 x 1024 pixels, its text."""

    network: dict
    latent: tuple
    context: tuple  # (tokens, width)
    pooled: int


REAL_SIZES = {
    "SDXL": RealSize(
        {
            "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "channel_mult": [1, 2, 4],
            "num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048, "num_head_channels": 64,
            "adm_in_channels": 2816, "num_classes": "sequential", "use_spatial_transformer": True, "legacy": False,
            "use_linear_in_transformer": True, "use_temporal_attention": False, "use_temporal_resblock": False,
        },
        (4, 128, 128), (77, 2048), 1280,
    ),
    "SD3.5-medium": RealSize(
        {
            "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 24, "input_size": None,
            "adm_in_channels": 2048, "num_patches": 384**2, "pos_embed_max_size": 384, "pos_embed_scaling_factor": None,
            "context_embedder_config": {
                "target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}
            },
            "qk_norm": "rms", "x_block_self_attn_layers": list(range(13)),
        },
        (16, 128, 128), (154, 4096), 2048,
    ),
    "FLUX.1-dev": RealSize(
        {
            "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 768,
            "context_in_dim": 4096, "hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 19,
            "depth_single_blocks": 38, "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True,
            "guidance_embed": True, "txt_ids_dims": [],
        },
        (16, 128, 128), (256, 4096), 768,
    ),
}


@dataclasses.dataclass
class Subject:
    """A model to measure, as the host's patchers; latent: [B, ...]; positive, negative: CONDITIONING."""

    name: str
    model: object
    weak: object
    latent: torch.Tensor
    positive: list
    negative: list
    scheduler: str = "simple"


def stand_in(name, family, models):
    """A stand-in of the tests, through the host's own loaders."""
    import comfy.sd
    import stand_ins

    patchers = []
    for seed in (0, 1):
        path = str(models / stand_ins.FAMILIES[family].folder / stand_ins.write_stand_in(family, models, seed))
        if stand_ins.FAMILIES[family].folder == "checkpoints":
            patchers.append(comfy.sd.load_checkpoint_guess_config(path, output_vae=False, output_clip=False)[0])
        else:
            patchers.append(comfy.sd.load_diffusion_model(path))
    conditions = [stand_ins.conditioning(family, seed) for seed in (1, 2)]
    return Subject(f"{name}, stand-in", *patchers, stand_ins.empty_latent(family), *conditions)


def demo(batch, model="digits"):
    """A demo model and its real weak one, asked for one thing."""
    from saddle_free_guidance.nodes.host.demo_model import load_demo_model

    drawn = DEMOS[model]
    positive = drawn.weights(torch.tensor([3]))
    return Subject(
        f"{'demo' if model == 'digits' else model}, batch {batch}", *map(load_demo_model, drawn.models),
        torch.zeros(batch, 3, drawn.side, drawn.side), [[positive, {}]], [[torch.zeros_like(positive), {}]], "karras",
    )


def real_size(name):
    """A model of real size with random weights, made on the GPU."""
    import comfy.model_management
    import comfy.model_patcher

    size, device = REAL_SIZES[name], comfy.model_management.get_torch_device()
    patchers = []
    for seed in (0, 1):
        model = build(size.network, device)
        fill(model.diffusion_model, seed)
        offload = comfy.model_management.unet_offload_device()
        patchers.append(comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload))
    conditions = [
        [[torch.randn(1, *size.context), {"pooled_output": torch.randn(1, size.pooled)}]] for _ in ("positive", "negative")
    ]
    return Subject(name, *patchers, torch.zeros(1, *size.latent), *conditions)


def build(network, device, dtype=None):
    """The host's model of a network, its weights not yet set, in the precision that the host takes where none is given."""
    from comfy import model_detection, model_management

    config = model_detection.model_config_from_unet_config(network)
    supported = config.supported_inference_dtypes
    dtype = dtype or model_management.unet_dtype(device=device, supported_dtypes=supported)
    config.set_inference_dtype(dtype, model_management.unet_manual_cast(dtype, device, supported))
    return config.get_model({}, device=device)


@torch.no_grad()
def fill(network, seed):
    """Random weights of the size that keeps activations near 1, made where the network is."""
    generator = None
    for name, value in network.state_dict().items():
        generator = generator or torch.Generator(value.device).manual_seed(seed)
        if value.ndim < 2:
            value.normal_(1.0 if name.endswith(("weight", "scale")) else 0.0, 0.02, generator=generator)
        else:
            spread = 1.0 if name == "pos_embed" else value[0].numel() ** -0.5
            value.normal_(0.0, spread, generator=generator)


def named(names, models):
    """Name and maker of each model to measure; names: parts of names, all where empty."""
    makers = {f"{name}, stand-in": functools.partial(stand_in, name, family, models) for name, family in STAND_INS.items()}
    makers |= {f"demo, batch {batch}": functools.partial(demo, batch) for batch in (1, 8)}
    makers |= {f"emoji, batch {batch}": functools.partial(demo, batch, "emoji") for batch in (1, 8)}
    if torch.cuda.is_available():
        makers |= {name: functools.partial(real_size, name) for name in REAL_SIZES}
    return {name: maker for name, maker in makers.items() if any(part in name for part in names or [""])}
