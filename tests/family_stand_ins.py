"""Small stand-ins, with random weights, for families whose loaders fix sizes too large for a test.

They are built from the host's own classes and handed over by a node in the loader's place: model, text encoder, VAEs
and latent upscaler. A stand-in text encoder gives random conditions of the family's widths, the same for the same text.
"""

import json
import zlib
from dataclasses import dataclass, field

import torch
from stand_ins import LTXAV, random_weights

TOKENS = 8
CURVED = 10.0  # of x in the prediction, so that guidance acts on random weights too


@dataclass(frozen=True)
class SmallFamily:
    """The host's class of a model, a small configuration of it, and what its conditions and VAE are like."""

    model: str  # in comfy.supported_models
    config: dict
    width: int  # of a text token
    vae: str  # of VAES
    pooled: int | None = None
    details: dict = field(default_factory=dict)  # of the conditions


def _mask():
    return torch.ones(1, TOKENS, dtype=torch.long)


FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 48, "context_in_dim": 64, "hidden_size": 128, "mlp_ratio": 4.0,
    "num_heads": 1, "depth": 1, "depth_single_blocks": 1, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2,
    "qkv_bias": True, "guidance_embed": True,
}
FAMILIES = {
    "anima": SmallFamily("Anima", {
        "image_model": "anima", "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16,
        "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 128, "concat_padding_mask": True,
        "crossattn_emb_channels": 1024, "pos_emb_cls": "rope3d", "pos_emb_learnable": True,
        "pos_emb_interpolation": "crop", "min_fps": 1, "max_fps": 30, "use_adaln_lora": True, "adaln_lora_dim": 16,
        "num_blocks": 1, "num_heads": 1, "extra_per_block_abs_pos_emb": False, "rope_enable_fps_modulation": False,
    }, 1024, "wan"),
    "flux": SmallFamily("Flux", {"image_model": "flux", **FLUX, "txt_ids_dims": []}, 64, "image", 48),
    "flux2": SmallFamily("Flux2", {
        "image_model": "flux2", **FLUX, "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "mlp_ratio": 3.0,
        "axes_dim": [32] * 4, "theta": 2000, "patch_size": 1, "qkv_bias": False, "txt_ids_dims": [3],
        "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "default_ref_method": "index",
        "ref_index_scale": 10.0,
    }, 64, "flux2"),
    "hunyuan_video_15": SmallFamily("HunyuanVideo15", {
        "image_model": "hunyuan_video", **FLUX, "in_channels": 65, "out_channels": 32, "vec_in_dim": None, "theta": 256,
        "patch_size": [1, 1, 1], "guidance_embed": False, "byt5": False, "meanflow": False, "meanflow_sum": True,
        "use_cond_type_embedding": True, "vision_in_dim": 32,
    }, 64, "hunyuan_video_15", 48),
    "krea2": SmallFamily("Krea2", {
        "image_model": "krea2", "features": 128, "tdim": 32, "txtdim": 128, "heads": 1, "kvheads": 1, "layers": 1,
        "patch": 2, "channels": 16, "txtlayers": 2, "txtheads": 1, "txtkvheads": 1,
    }, 256, "wan"),
    "ltxav": SmallFamily("LTXAV", {"image_model": "ltxav", **LTXAV}, 192, "ltx"),
    "minimax_h3": SmallFamily("MiniMaxH3", {
        "image_model": "minimax_h3", "hidden_size": 128, "num_layers": 1, "token_refiner_num_layers": 1,
        "num_attention_heads": 2, "attention_head_dim": 64, "ffn_hidden_size": 128, "latents_dim": 24,
        "audio_latents_dim": 32, "text_dim": 32, "timestep_input_dim": 32, "time_embed_hidden_size": 64,
        "time_embed_dim": 32, "rope_inv_freq_len": 8,
    }, 32, "none"),  # its VAE has a fixed size of more than a billion weights
    "qwen_image": SmallFamily("QwenImage", {
        "image_model": "qwen_image", "in_channels": 64, "num_layers": 1, "num_attention_heads": 1,
        "joint_attention_dim": 32,
    }, 32, "wan"),
    "wan": SmallFamily("WAN21_T2V", {
        "image_model": "wan2.1", "model_type": "t2v", "dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 2,
        "text_dim": 64, "in_dim": 16, "out_dim": 16,
    }, 64, "wan"),
    "z_image": SmallFamily("ZImage", {
        "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 256, "cap_feat_dim": 32, "n_layers": 1,
        "n_refiner_layers": 1, "qk_norm": True, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48],
        "axes_lens": [1536, 512, 512], "rope_theta": 256.0, "ffn_dim_multiplier": 4.0, "z_image_modulation": True,
        "time_scale": 1000.0, "pad_tokens_multiple": 32,
    }, 32, "image", details={"attention_mask": _mask}),
}

LTX_VAE = {
    "dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": 128, "norm_layer": "pixel_norm", "patch_size": 4,
    "latent_log_var": "uniform", "causal_decoder": False, "timestep_conditioning": False,
    "encoder_base_channels": 16, "decoder_base_channels": 16,
    "encoder_blocks": [["res_x", {"num_layers": 1}], *[["compress_all_res", {"multiplier": 2}]] * 3],
    "decoder_blocks": [
        ["res_x", {"num_layers": 1}], *[["compress_all", {"residual": True, "multiplier": 2}]] * 3,
        ["res_x", {"num_layers": 1}],
    ],
}
LTX_AUDIO = {
    "audio_vae": {
        "model": {"params": {"sampling_rate": 16000, "ddconfig": {
            "double_z": True, "mel_bins": 64, "z_channels": 8, "resolution": 256, "downsample_time": False,
            "in_channels": 2, "out_ch": 2, "ch": 32, "ch_mult": [1, 1, 4], "num_res_blocks": 1, "attn_resolutions": [],
            "dropout": 0.0, "mid_block_add_attention": False, "norm_type": "pixel", "causality_axis": "height",
        }}},
        "preprocessing": {"stft": {"filter_length": 1024, "hop_length": 160}},
    },
    "vocoder": {"upsample_initial_channel": 32, "output_sample_rate": 24000},
}


def model(name, seed):
    """A ModelPatcher of a family with random weights, undecided everywhere."""
    import comfy.model_patcher
    import comfy.supported_models
    from comfy.patcher_extension import WrappersMP

    family, cpu = FAMILIES[name], torch.device("cpu")
    config = getattr(comfy.supported_models, family.model)(dict(family.config))
    config.set_inference_dtype(torch.float32, None)
    built = config.get_model({}, "", device=cpu)
    own = built.diffusion_model.state_dict()
    with torch.no_grad():
        for key, value in random_weights(built.diffusion_model, seed).items():
            if own[key].is_floating_point():
                own[key].copy_(value)
    patcher = comfy.model_patcher.ModelPatcher(built, load_device=cpu, offload_device=cpu)
    patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test_family", _curved)
    return patcher


def _curved(executor, x, *args, **kwargs):
    return executor(x, *args, **kwargs) + CURVED * x


class TextEncoder:
    """Takes the place of the host's CLIP: random conditions of a family's widths, the same for the same text."""

    def __init__(self, name):
        self.family = FAMILIES[name]

    def tokenize(self, text, **details):
        """The text itself."""
        return text

    def encode_from_tokens_scheduled(self, tokens, **details):
        """CONDITIONING of one row."""
        generator = torch.Generator().manual_seed(zlib.crc32(str(tokens).encode()))
        made = {key: value() for key, value in self.family.details.items()}
        if self.family.pooled is not None:
            made["pooled_output"] = torch.randn(1, self.family.pooled, generator=generator)
        return [[torch.randn(1, TOKENS, self.family.width, generator=generator), made]]

    def generate(self, tokens, **details):
        """The text itself, where a language model would extend it."""
        return tokens

    def decode(self, tokens, **details):
        """As generate."""
        return tokens


def vae(name):
    """The host's VAE of a family around a small network with random weights; None where it cannot be small."""
    import comfy.ldm.lightricks.vae.causal_video_autoencoder as ltx
    import comfy.ldm.wan.vae
    import comfy.sd
    import comfy.taesd.taehv
    import comfy.taesd.taesd

    make, metadata = {
        "image": (lambda: comfy.taesd.taesd.TAESD(latent_channels=16), None),
        "flux2": (lambda: comfy.taesd.taesd.TAESD(latent_channels=128), {"tae_latent_channels": 128}),
        "wan": (lambda: comfy.ldm.wan.vae.WanVAE(dim=8, z_dim=16, temperal_downsample=[False, True, True]), None),
        "hunyuan_video_15": (lambda: comfy.taesd.taehv.TAEHV(latent_channels=32), None),
        "ltx": (lambda: ltx.VideoVAE(config=LTX_VAE), {"config": json.dumps({"vae": LTX_VAE})}),
        "none": (None, None),
    }[FAMILIES[name].vae]
    return make and comfy.sd.VAE(sd=random_weights(make(), 0), metadata=metadata)


def audio_vae():
    """LTX-2's audio VAE, small."""
    import comfy.ldm.lightricks.vae.audio_vae
    import comfy.sd

    metadata = {"config": json.dumps(LTX_AUDIO)}
    weights = random_weights(comfy.ldm.lightricks.vae.audio_vae.AudioVAE(metadata), 0)
    return comfy.sd.VAE(sd=weights, metadata=metadata)


def latent_upscaler():
    """LTX-2's latent upscaler, small."""
    import comfy.ldm.lightricks.latent_upsampler as upsampler
    import comfy.model_patcher
    import comfy.ops

    made = upsampler.LatentUpsampler(comfy.ops.disable_weight_init, mid_channels=32, num_blocks_per_stage=1)
    made.load_state_dict(random_weights(made, 0))
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(made, load_device=cpu, offload_device=cpu)
