"""Stand-in checkpoints for the few nodes that need a model of their own: a source of two models each, as in runs."""

import json

import stand_ins
import torch
from safetensors.torch import load_file, save_file


def source_of(name, host):
    """As runs.two_models, for "two levels" (SD1.5's kind, with 320 and 640 channels), "flux2" and "causal wan"."""
    write, loader, key, family = {
        "two levels": (two_levels, "CheckpointLoaderSimple", "ckpt_name", "sd15"),
        "flux2": (flux2, "UNETLoader", "unet_name", "flux"),
        "causal wan": (causal_wan, "UNETLoader", "unet_name", "wan"),
    }[name]

    def source(graph):
        more = {"weight_dtype": "default"} if loader == "UNETLoader" else {}
        models = [graph.add(loader, **{key: write(host.models, seed)}, **more) for seed in (0, 1)]
        conditions = [graph.add("TestConditioning", family=family, seed=seed) for seed in (1, 2)]

        def latent(batch):
            if name == "flux2":
                return graph.add("TestLatentOfShape", shape=f"{batch},128,8,8")
            return graph.add("TestLatent", family=family, batch_size=batch)

        return *models, *conditions, latent

    return source


def two_levels(models, seed):
    """Writes a UNet whose lower level has twice the channels, as FreeU looks for; returns the file's name."""
    import comfy.ldm.modules.diffusionmodules.openaimodel

    return _write(
        models, "checkpoints", "sd15_two_levels", seed, comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel,
        image_size=32, in_channels=4, out_channels=4, model_channels=320, channel_mult=[1, 2], num_res_blocks=[1, 1],
        transformer_depth=[1, 0], transformer_depth_output=[1, 1, 0, 0], transformer_depth_middle=-2,
        use_spatial_transformer=True, legacy=False, context_dim=768, num_heads=8,
    )


def flux2(models, seed):
    """Writes a FLUX.2, whose reference images the host can cache; returns the file's name."""
    import comfy.ldm.flux.model

    return _write(
        models, "diffusion_models", "flux2", seed, comfy.ldm.flux.model.Flux,
        in_channels=128, out_channels=128, vec_in_dim=None, context_in_dim=64, hidden_size=128, mlp_ratio=3.0,
        num_heads=1, depth=1, depth_single_blocks=1, axes_dim=[32, 32, 32, 32], theta=2000, patch_size=1,
        qkv_bias=False, guidance_embed=False, txt_ids_dims=[3], global_modulation=True, mlp_silu_act=True,
        ops_bias=False,
    )


def causal_wan(models, seed):
    """Writes the Wan stand-in as one that makes a video frame by frame; returns the file's name."""
    wan = models / "diffusion_models" / stand_ins.write_stand_in("wan", models, seed)
    path = wan.with_name(f"causal_{wan.name}")
    if not path.exists():
        save_file(load_file(wan), path, {"config": json.dumps({"transformer": {"causal_ar": True}})})
    return path.name


def _write(models, folder, name, seed, network, **config):
    import comfy.ops

    path = models / folder / f"{name}_{seed}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = network(**config, operations=comfy.ops.disable_weight_init, device="cpu", dtype=torch.float32)
        prefix = stand_ins.PREFIX if folder == "checkpoints" else ""
        weights = stand_ins.random_weights(made, seed)
        large = sum(weight.numel() for weight in weights.values()) > stand_ins.LARGE
        save_file({prefix + key: value.half() if large else value for key, value in weights.items()}, path)
    return path.name
