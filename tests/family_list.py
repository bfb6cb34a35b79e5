"""A small network of random weights for each family that the host lists, from the host's own description of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import stand_ins
import torch


@dataclass(frozen=True)
class Family:
    """A family: its class among the host's supported models, the network, one image's latent and its conditions.

    shape: of several shapes where a latent has several parts; conditions: called with a seed, gives CONDITIONING;
    weights: beside the network's, or a function that gives them; mask: "frame" where the first frame is given,
    "parts" where that is so in a latent of several parts.
    """

    cls: str
    network: dict
    shape: tuple
    conditions: Callable
    weights: Any = None
    mask: str | None = None


FAMILIES = {}


def random(*shape, seed=0):
    """A random tensor."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def text(channels, /, tokens=4, pooled=None, **details):
    """Random CONDITIONING with so many channels; details that are functions are called with the seed."""

    def conditions(seed):
        made = {key: value(seed) if callable(value) else value for key, value in details.items()}
        if pooled:
            made["pooled_output"] = random(1, pooled, seed=seed + 50)
        return [[random(1, tokens, channels, seed=seed), made]]

    return conditions


def seconds(names, **settings):
    """Weights of Stable Audio's conditioners for a number of seconds."""

    def weights():
        import comfy.ldm.audio.embedders

        state = comfy.ldm.audio.embedders.NumberConditioner(768, min_val=0, **settings).state_dict()
        made = {key: random(*value.shape, seed=5) / max(1, math.sqrt(value.numel())) for key, value in state.items()}
        return {f"conditioner.conditioners.{name}.{key}": value for name in names for key, value in made.items()}

    return weights


def unet(**changes):
    """A UNet of one level."""
    return {**UNET, **changes}


def video_unet(adm):
    """A UNet that takes the images of a batch for the frames of a video."""
    return unet(
        in_channels=8, context_dim=64, use_linear_in_transformer=True, adm_in_channels=adm, num_classes="sequential",
        **FRAMES,
    )


UNET = dict(image_size=32, use_spatial_transformer=True, legacy=False, out_channels=4, num_res_blocks=[1],
    channel_mult=[1], transformer_depth=[1], transformer_depth_output=[1, 1], transformer_depth_middle=1,
    model_channels=64, adm_in_channels=None)
SQUARE = (4, 8, 8)
FAMILIES["SD20 (v)"] = Family("SD20", unet(in_channels=4, context_dim=64, use_linear_in_transformer=True), SQUARE,
    text(64), weights={"output_blocks.11.1.transformer_blocks.0.norm1.bias": random(64) * 9})
FAMILIES["SD21UnclipL"] = Family("SD21UnclipL", unet(in_channels=4, context_dim=64, use_linear_in_transformer=True,
    adm_in_channels=1536, num_classes="sequential"), SQUARE, text(64))
FAMILIES["SDXLRefiner"] = Family("SDXLRefiner", unet(in_channels=4, context_dim=64, use_linear_in_transformer=True,
    adm_in_channels=2560, num_classes="sequential"), SQUARE, text(64, pooled=1280))
FRAMES = dict(extra_ff_mix_layer=True, use_spatial_context=True, merge_strategy="learned_with_images",
    merge_factor=0.0, video_kernel_size=[3, 1, 1], use_temporal_resblock=True, use_temporal_attention=True,
    disable_temporal_crossattention=False)
FAMILIES["SVD_img2vid"] = Family("SVD_img2vid", video_unet(768), SQUARE, text(64, tokens=1,
    concat_latent_image=lambda seed: random(1, 4, 8, 8)))
FAMILIES["SV3D_u"] = Family("SV3D_u", video_unet(256), SQUARE, text(64, tokens=1,
    concat_latent_image=lambda seed: random(1, 4, 8, 8)))
FAMILIES["SV3D_p"] = Family("SV3D_p", video_unet(1280), SQUARE, text(64, tokens=1,
    concat_latent_image=lambda seed: random(1, 4, 8, 8)))
FAMILIES["Stable_Zero123"] = Family("Stable_Zero123", unet(in_channels=8, context_dim=768), SQUARE, text(772,
    tokens=1, concat_latent_image=lambda seed: random(1, 4, 8, 8)), weights={"cc_projection.weight": random(768,
    772) / 28, "cc_projection.bias": random(768)})
FAMILIES["SD_X4Upscaler"] = Family("SD_X4Upscaler", unet(in_channels=7, context_dim=64,
    use_linear_in_transformer=True, disable_self_attentions=[True]), SQUARE, text(64,
    concat_image=lambda seed: random(1, 3, 8, 8), noise_augmentation=0.1))
FAMILIES["SD15_instructpix2pix"] = Family("SD15_instructpix2pix", unet(in_channels=8, context_dim=768), SQUARE,
    text(768, concat_latent_image=lambda seed: random(1, 4, 8, 8)))
FAMILIES["SDXL_instructpix2pix"] = Family("SDXL_instructpix2pix", unet(in_channels=8, context_dim=64,
    use_linear_in_transformer=True, adm_in_channels=2816, num_classes="sequential"), SQUARE, text(64, pooled=1280,
    concat_latent_image=lambda seed: random(1, 4, 8, 8)), weights={"edm_vpred.sigma_max": torch.tensor(120.)})
FAMILIES["LotusD"] = Family("LotusD", unet(in_channels=4, context_dim=64, use_linear_in_transformer=True,
    adm_in_channels=4, num_classes="sequential"), SQUARE, text(64))
FAMILIES["Stable_Cascade_C"] = Family("Stable_Cascade_C", dict(stable_cascade_stage="c", c_cond=64, c_hidden=[64, 64],
    nhead=[2, 2], blocks=[[1, 1], [1, 1]], c_clip_text=32, c_clip_text_pooled=32), (16, 8, 8), text(32, pooled=32))
FAMILIES["Stable_Cascade_B"] = Family("Stable_Cascade_B", dict(stable_cascade_stage="b", c_cond=64, c_hidden=[32, 64,
    64, 64], nhead=[-1, -1, 2, 2], blocks=[[1, 1, 1, 1], [1, 1, 1, 1]], block_repeat=[[1] * 4, [1] * 4], c_clip=32),
    (4, 32, 32), text(32, pooled=32, stable_cascade_prior=lambda seed: random(1, 16, 4, 4)))
AUDIO = dict(audio_model="dit1.0", io_channels=64, embed_dim=64, num_heads=2, depth=2, cond_token_dim=768,
    global_cond_dim=1536, project_cond_tokens=True)
FAMILIES["StableAudio"] = Family("StableAudio", AUDIO, (64, 24), text(768, seconds_start=0, seconds_total=10),
    weights=seconds(["seconds_start", "seconds_total"], max_val=512))
FAMILIES["StableAudio3"] = Family("StableAudio3", {**AUDIO, "io_channels": 32, "local_add_cond_dim": 33,
    "global_cond_dim": 768, "timestep_features_type": "expo", "global_cond_type": "adaLN",
    "global_cond_shared_embed": True}, (32, 24), text(768),
    weights=seconds(["seconds_total"], max_val=384, fourier_features_type="expo"))
FAMILIES["AuraFlow"] = Family("AuraFlow", dict(dim=64, n_layers=2, n_double_layers=1, n_heads=2, global_conddim=64,
    cond_seq_dim=32, max_seq=256), (4, 16, 16), text(32))
PIXART = dict(hidden_size=72, depth=2, num_heads=2, caption_channels=32, in_channels=4, patch_size=2, input_size=16,
    pe_interpolation=1, model_max_length=8)
FAMILIES["PixArtAlpha"] = Family("PixArtAlpha", {**PIXART, "image_model": "pixart_alpha", "micro_condition": True},
    (4, 64, 64), text(32, width=512, height=512))
FAMILIES["PixArtSigma"] = Family("PixArtSigma", {**PIXART, "image_model": "pixart_sigma", "micro_condition": False},
    (4, 64, 64), text(32))
HUNYUAN_DIT = dict(image_model="hydit", depth=2, hidden_size=64, num_heads=2, text_states_dim=32,
    text_states_dim_t5=32, text_len=4, text_len_t5=4)
TWO_TEXTS = dict(attention_mask=lambda seed: torch.ones(1, 4), conditioning_mt5xl=lambda seed: random(1, 4, 32,
    seed=seed + 9), attention_mask_mt5xl=lambda seed: torch.ones(1, 4))
FAMILIES["HunyuanDiT"] = Family("HunyuanDiT", HUNYUAN_DIT, (4, 16, 16), text(32, **TWO_TEXTS))
FAMILIES["HunyuanDiT1"] = Family("HunyuanDiT1", {**HUNYUAN_DIT, "image_model": "hydit1", "size_cond": True,
    "use_style_cond": True}, (4, 16, 16), text(32, **TWO_TEXTS))
FLUX = dict(image_model="flux", in_channels=16, out_channels=16, vec_in_dim=48, context_in_dim=64, hidden_size=128,
    mlp_ratio=4.0, num_heads=1, depth=1, depth_single_blocks=1, axes_dim=[16, 56, 56], theta=10000, patch_size=2,
    qkv_bias=True, guidance_embed=True, txt_ids_dims=[])
FAMILIES["FluxInpaint (fill)"] = Family("FluxInpaint", {**FLUX, "in_channels": 96}, (16, 16, 16), text(64, pooled=48,
    concat_latent_image=lambda seed: random(1, 16, 16, 16)))
FAMILIES["Flux Kontext (ref latents)"] = Family("Flux", FLUX, (16, 16, 16), text(64, pooled=48,
    reference_latents=lambda seed: [random(1, 16, 16, 16)]))
FAMILIES["FluxSchnell"] = Family("FluxSchnell", {**FLUX, "guidance_embed": False}, (16, 16, 16), text(64, pooled=48))
FAMILIES["LongCatImage"] = Family("LongCatImage", {**FLUX, "guidance_embed": False, "vec_in_dim": None,
    "txt_ids_dims": [1, 2]}, (16, 16, 16), text(64))
FLUX2 = dict(image_model="flux2", in_channels=128, out_channels=128, vec_in_dim=None, context_in_dim=64,
    hidden_size=128, mlp_ratio=3.0, num_heads=1, depth=1, depth_single_blocks=1, axes_dim=[32] * 4, theta=2000,
    patch_size=1, qkv_bias=False, guidance_embed=True, txt_ids_dims=[3], global_modulation=True, mlp_silu_act=True,
    ops_bias=False, default_ref_method="index", ref_index_scale=10.0)
FAMILIES["Flux2"] = Family("Flux2", FLUX2, (128, 8, 8), text(64))
FAMILIES["Flux2 + ref"] = Family("Flux2", FLUX2, (128, 8, 8), text(64, reference_latents=lambda seed: [random(1, 128,
    8, 8)]))
FAMILIES["Lens"] = Family("Lens", dict(image_model="lens", num_layers=1, num_attention_heads=2, enc_hidden_dim=32,
    multi_layer_encoder_feature=False, selected_layer_index=(0,)), (128, 8, 8), text(32))
FAMILIES["GenmoMochi"] = Family("GenmoMochi", dict(image_model="mochi_preview", depth=2, patch_size=2, num_heads=2,
    hidden_size_x=64, hidden_size_y=32, mlp_ratio_x=192.0, mlp_ratio_y=192.0, learn_sigma=False, in_channels=12,
    qk_norm=True, qkv_bias=False, out_bias=True, attn_drop=0.0, patch_embed_bias=True, posenc_preserve_area=True,
    timestep_mlp_bias=True, attend_to_padding=False, timestep_scale=1000.0, use_t5=True, t5_feat_dim=32,
    t5_token_length=8, rope_theta=10000.0), (12, 2, 8, 8), text(32, tokens=8,
    attention_mask=lambda seed: torch.ones(1, 8, dtype=torch.long)))
LTXV = dict(image_model="ltxv", cross_attention_dim=64, attention_head_dim=16, num_attention_heads=4,
    caption_channels=32, num_layers=1)
FAMILIES["LTXV"] = Family("LTXV", LTXV, (128, 3, 4, 4), text(32, attention_mask=lambda seed: torch.ones(1, 4,
    dtype=torch.long)))
FAMILIES["LTXV i2v (mask)"] = Family("LTXV", LTXV, (128, 3, 4, 4), text(32, attention_mask=lambda seed: torch.ones(1,
    4, dtype=torch.long)), mask="frame")
FAMILIES["MiniMaxH3"] = Family("MiniMaxH3", dict(image_model="minimax_h3", hidden_size=128, num_layers=1,
    token_refiner_num_layers=1, num_attention_heads=2, attention_head_dim=64, ffn_hidden_size=128, latents_dim=24,
    audio_latents_dim=32, text_dim=32, timestep_input_dim=32, time_embed_hidden_size=64, time_embed_dim=32,
    rope_inv_freq_len=8), ((24, 2, 4, 4), (32, 2, 9)), text(32))
HUNYUAN_VIDEO = dict(image_model="hunyuan_video", in_channels=16, out_channels=16, vec_in_dim=48, context_in_dim=64,
    hidden_size=128, mlp_ratio=4.0, num_heads=1, depth=1, depth_single_blocks=1, axes_dim=[16, 56, 56], theta=256,
    patch_size=[1, 2, 2], qkv_bias=True, guidance_embed=True, byt5=False, meanflow=False,
    use_cond_type_embedding=False, vision_in_dim=None, meanflow_sum=False)
VIDEO = (16, 3, 8, 8)
FAMILIES["HunyuanVideo"] = Family("HunyuanVideo", HUNYUAN_VIDEO, VIDEO, text(64, pooled=48))
FAMILIES["HunyuanVideoI2V"] = Family("HunyuanVideoI2V", {**HUNYUAN_VIDEO, "in_channels": 33, "guidance_embed": False},
    VIDEO, text(64, pooled=48, concat_latent_image=lambda seed: random(1, *VIDEO)))
FAMILIES["HunyuanVideoSkyreelsI2V"] = Family("HunyuanVideoSkyreelsI2V", {**HUNYUAN_VIDEO, "in_channels": 32,
    "guidance_embed": False}, VIDEO, text(64, pooled=48, concat_latent_image=lambda seed: random(1, *VIDEO)))
FAMILIES["HunyuanImage21"] = Family("HunyuanImage21", {**HUNYUAN_VIDEO, "in_channels": 64, "out_channels": 64,
    "vec_in_dim": None, "patch_size": [1, 1], "axes_dim": [64, 64], "guidance_embed": False}, (64, 8, 8), text(64))
FAMILIES["HunyuanImage21 distilled (meanflow)"] = Family("HunyuanImage21", {**HUNYUAN_VIDEO, "in_channels": 64,
    "out_channels": 64, "vec_in_dim": None, "patch_size": [1, 1], "axes_dim": [64, 64], "meanflow": True}, (64, 8, 8),
    text(64))
FAMILIES["HunyuanImage21Refiner"] = Family("HunyuanImage21Refiner", {**HUNYUAN_VIDEO, "in_channels": 192,
    "out_channels": 64, "vec_in_dim": None, "patch_size": [1, 1, 1], "meanflow": True}, (64, 1, 8, 8), text(64,
    concat_latent_image=lambda seed: random(1, 64, 1, 8, 8)))
FAMILIES["HunyuanVideo15 (i2v)"] = Family("HunyuanVideo15", {**HUNYUAN_VIDEO, "in_channels": 65, "out_channels": 32,
    "vec_in_dim": None, "patch_size": [1, 1, 1], "use_cond_type_embedding": True, "vision_in_dim": 32,
    "meanflow_sum": True, "guidance_embed": False}, (32, 3, 4, 4), text(64, pooled=48,
    concat_latent_image=lambda seed: random(1, 32, 3, 4, 4)))
FAMILIES["HunyuanVideo15_SR"] = Family("HunyuanVideo15_SR_Distilled", {**HUNYUAN_VIDEO, "in_channels": 98,
    "out_channels": 32, "vec_in_dim": None, "patch_size": [1, 1, 1], "use_cond_type_embedding": True,
    "vision_in_dim": 32, "meanflow_sum": True, "meanflow": True, "guidance_embed": False}, (32, 3, 4, 4), text(64,
    pooled=48))
COSMOS = dict(image_model="cosmos", max_img_h=240, max_img_w=240, max_frames=128, in_channels=16, out_channels=16,
    patch_spatial=2, patch_temporal=1, model_channels=128, block_config="FA-CA-MLP", concat_padding_mask=True,
    pos_emb_cls="rope3d", pos_emb_learnable=False, pos_emb_interpolation="crop", block_x_format="THWBD",
    affline_emb_norm=True, use_adaln_lora=True, adaln_lora_dim=16, num_blocks=1, num_heads=1,
    extra_per_block_abs_pos_emb=True, rope_t_extrapolation_ratio=2.0, extra_per_block_abs_pos_emb_type="learnable",
    crossattn_emb_channels=32)
FAMILIES["CosmosT2V"] = Family("CosmosT2V", COSMOS, VIDEO, text(32))
FAMILIES["CosmosI2V"] = Family("CosmosI2V", {**COSMOS, "in_channels": 17}, VIDEO, text(32), mask="frame")
COSMOS2 = dict(image_model="cosmos_predict2", max_img_h=240, max_img_w=240, max_frames=128, in_channels=16,
    out_channels=16, patch_spatial=2, patch_temporal=1, model_channels=128, concat_padding_mask=True,
    crossattn_emb_channels=32, pos_emb_cls="rope3d", pos_emb_learnable=True, pos_emb_interpolation="crop", min_fps=1,
    max_fps=30, use_adaln_lora=True, adaln_lora_dim=16, num_blocks=1, num_heads=1, extra_per_block_abs_pos_emb=False,
    rope_enable_fps_modulation=False)
FAMILIES["CosmosT2IPredict2"] = Family("CosmosT2IPredict2", COSMOS2, (16, 1, 8, 8), text(32))
FAMILIES["CosmosI2VPredict2"] = Family("CosmosI2VPredict2", {**COSMOS2, "in_channels": 17}, VIDEO, text(32),
    mask="frame")
FAMILIES["Anima"] = Family("Anima", {**COSMOS2, "image_model": "anima", "crossattn_emb_channels": 1024}, (16, 1, 8,
    8), text(1024))
LUMINA = dict(image_model="lumina2", patch_size=2, in_channels=16, dim=96, cap_feat_dim=32, n_layers=1,
    n_refiner_layers=1, qk_norm=True, n_heads=1, n_kv_heads=1, axes_dims=[32, 32, 32], axes_lens=[300, 512, 512],
    rope_theta=10000.0, ffn_dim_multiplier=4.0)
FAMILIES["Lumina2"] = Family("Lumina2", LUMINA, (16, 16, 16), text(32))
Z_IMAGE = {**LUMINA, "dim": 256, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512,
    512], "rope_theta": 256.0, "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32}
FAMILIES["ZImage"] = Family("ZImage", Z_IMAGE, (16, 16, 16), text(32))
FAMILIES["ZImagePixelSpace"] = Family("ZImagePixelSpace", {**Z_IMAGE, "image_model": "zimage_pixel", "patch_size": 8,
    "in_channels": 3, "decoder_in_channels": 192, "decoder_hidden_size": 32, "decoder_num_res_blocks": 1,
    "decoder_max_freqs": 4, "use_x0": True}, (3, 32, 32), text(32))
PIXEL_DIT = dict(image_model="pixeldit_t2i", num_groups=2, hidden_size=128, pixel_hidden_size=16,
    pixel_attn_hidden_size=32, pixel_num_groups=2, patch_depth=2, pixel_depth=1, patch_size=8, txt_embed_dim=32,
    txt_max_length=8)
FAMILIES["PixelDiTT2I"] = Family("PixelDiTT2I", PIXEL_DIT, (3, 32, 32), text(32, tokens=8))
FAMILIES["PiD"] = Family("PiD", {**PIXEL_DIT, "image_model": "pid", "patch_size": 16, "lq_latent_channels": 16,
    "lq_hidden_dim": 32, "lq_num_res_blocks": 1}, (3, 64, 64), text(32, tokens=8, lq_latent=lambda seed: random(1, 16,
    2, 2), degrade_sigma=lambda seed: torch.zeros(1)))
WAN = dict(image_model="wan2.1", model_type="t2v", dim=128, ffn_dim=256, num_heads=1, num_layers=2, text_dim=64,
    in_dim=16, out_dim=16)
FAMILIES["WAN21_CausalAR_T2V"] = Family("WAN21_CausalAR_T2V", {**WAN, "causal_ar": True}, VIDEO, text(64))
FAMILIES["WAN21_I2V"] = Family("WAN21_I2V", {**WAN, "model_type": "i2v", "in_dim": 36}, VIDEO, text(64,
    concat_latent_image=lambda seed: random(1, *VIDEO)))
FAMILIES["WAN21_FunControl2V"] = Family("WAN21_FunControl2V", {**WAN, "model_type": "i2v", "in_dim": 48}, VIDEO,
    text(64, concat_latent_image=lambda seed: random(1, 32, 3, 8, 8)))
FAMILIES["WAN21_Vace"] = Family("WAN21_Vace", {**WAN, "model_type": "vace", "vace_in_dim": 96, "vace_layers": 1},
    VIDEO, text(64))
FAMILIES["WAN21_Camera"] = Family("WAN21_Camera", {**WAN, "model_type": "camera", "in_dim": 32,
    "in_dim_control_adapter": 24}, VIDEO, text(64))
FAMILIES["WAN22_Camera"] = Family("WAN22_Camera", {**WAN, "model_type": "camera_2.2", "in_dim": 36,
    "in_dim_control_adapter": 24}, VIDEO, text(64))
FAMILIES["WAN22_S2V"] = Family("WAN22_S2V", {**WAN, "model_type": "s2v", "audio_inject_layers": [0]}, VIDEO, text(64,
    audio_embed=lambda seed: random(1, 25, 1024, 12, seed=3), reference_latents=lambda seed: [random(1, 16, 1, 8,
    8)]))
FAMILIES["WAN21_HuMo (17B)"] = Family("WAN21_HuMo", {**WAN, "model_type": "humo", "in_dim": 36}, VIDEO, text(64))
FAMILIES["WAN22_Animate"] = Family("WAN22_Animate", {**WAN, "model_type": "animate", "in_dim": 36}, VIDEO, text(64))
FAMILIES["WAN22_T2V (5B ti2v)"] = Family("WAN22_T2V", {**WAN, "in_dim": 48, "out_dim": 48}, (48, 3, 8, 8), text(64))
FAMILIES["WAN22_T2V (5B, i2v mask)"] = Family("WAN22_T2V", {**WAN, "in_dim": 48, "out_dim": 48}, (48, 3, 8, 8),
    text(64), mask="frame")
FAMILIES["WAN21_FlowRVS"] = Family("WAN21_FlowRVS", {**WAN, "model_type": "flow_rvs"}, VIDEO, text(64))
FAMILIES["WAN21_SCAIL"] = Family("WAN21_SCAIL", {**WAN, "model_type": "scail", "in_dim": 20}, VIDEO, text(64,
    reference_latents=lambda seed: [random(1, 16, 1, 8, 8)], pose_video_latent=lambda seed: random(1, 16, 3, 4, 4)))
FAMILIES["WAN21_SCAIL2"] = Family("WAN21_SCAIL2", {**WAN, "model_type": "scail2", "in_dim": 20}, VIDEO, text(64,
    reference_latents=lambda seed: [random(1, 16, 1, 8, 8)], pose_video_latent=lambda seed: random(1, 16, 3, 4, 4)))
FAMILIES["WAN22_WanDancer"] = Family("WAN22_WanDancer", {**WAN, "model_type": "wandancer", "in_dim": 36,
    "audio_inject_layers": [0]}, VIDEO, text(64, concat_latent_image=lambda seed: random(1, *VIDEO)))
HUNYUAN_3D = dict(image_model="hunyuan3d2", in_channels=64, context_in_dim=32, hidden_size=64, mlp_ratio=4.0,
    num_heads=1, depth=1, depth_single_blocks=1, qkv_bias=True, guidance_embed=False)
FAMILIES["Hunyuan3Dv2"] = Family("Hunyuan3Dv2", HUNYUAN_3D, (64, 24), text(32))
FAMILIES["Hunyuan3Dv2mini"] = Family("Hunyuan3Dv2mini", {**HUNYUAN_3D, "guidance_embed": True}, (64, 24), text(32))
FAMILIES["Hunyuan3Dv2_1"] = Family("Hunyuan3Dv2_1", dict(image_model="hunyuan3d2_1", in_channels=64, context_dim=32,
    hidden_size=64, mlp_ratio=4.0, num_heads=1, depth=2, qkv_bias=False, guidance_cond_proj_dim=None,
    num_moe_layers=1, num_experts=2, moe_top_k=1), (64, 24), text(32))
FAMILIES["TripoSplat"] = Family("TripoSplat", dict(image_model="triposplat", q_token_length=24, model_channels=64,
    cond_channels=32, num_blocks=1, num_refiner_blocks=1, cond2_channels=128), ((24, 16), (1, 5)), text(32))
FAMILIES["HiDream"] = Family("HiDream", dict(image_model="hidream", attention_head_dim=128, axes_dims_rope=[64, 32,
    32], caption_channels=[32, 32], max_resolution=[128, 128], in_channels=16, llama_layers=[0, 0],
    num_attention_heads=1, num_routed_experts=2, num_activated_experts=1, num_layers=1, num_single_layers=1,
    out_channels=16, patch_size=2, text_emb_dim=48), (16, 16, 16), text(32, pooled=48,
    conditioning_llama3=lambda seed: random(1, 1, 4, 32, seed=seed)))
CHROMA = dict(image_model="chroma", in_channels=64, out_channels=64, context_in_dim=64, hidden_size=128,
    mlp_ratio=4.0, num_heads=1, depth=1, depth_single_blocks=1, axes_dim=[16, 56, 56], theta=10000, patch_size=2,
    qkv_bias=True, in_dim=64, out_dim=128, hidden_dim=64, n_layers=1, txt_ids_dims=[], vec_in_dim=None)
FAMILIES["Chroma"] = Family("Chroma", CHROMA, (16, 16, 16), text(64))
FAMILIES["ChromaRadiance"] = Family("ChromaRadiance", {**CHROMA, "image_model": "chroma_radiance", "in_channels": 3,
    "out_channels": 3, "patch_size": 16, "nerf_hidden_size": 16, "nerf_mlp_ratio": 2, "nerf_depth": 1,
    "nerf_max_freqs": 4, "nerf_tile_size": 64, "nerf_final_head_type": "conv", "nerf_embedder_dtype": torch.float32,
    "use_x0": True, "use_sequential_txt_ids": False}, (3, 64, 64), text(64))
FAMILIES["SeedVR2"] = Family("SeedVR2", dict(image_model="seedvr2", vid_dim=64, heads=1, head_dim=64, num_layers=2,
    mm_layers=1, norm_eps=1e-5, mlp_type="swiglu", txt_in_dim=32, rope_dim=48, vid_out_norm=True), (16, 2, 8, 8),
    text(32, condition=lambda seed: random(1, 17, 2, 8, 8)))
FAMILIES["ACEStep"] = Family("ACEStep", dict(audio_model="ace", attention_head_dim=32, in_channels=8, inner_dim=64,
    max_height=16, max_position=32768, max_width=32768, mlp_ratio=2.5, num_attention_heads=2, num_layers=1,
    out_channels=8, patch_size=[16, 1], rope_theta=1e6, speaker_embedding_dim=512, text_embedding_dim=32,
    ssl_encoder_depths=[8, 8], ssl_latent_dims=[1024, 768], ssl_names=["mert", "m-hubert"],
    lyric_encoder_vocab_size=50, lyric_hidden_size=1024), (8, 16, 12), text(32,
    conditioning_lyrics=lambda seed: torch.ones(1, 5, dtype=torch.long)))
FAMILIES["ACEStep15"] = Family("ACEStep15", dict(audio_model="ace1.5", hidden_size=128, intermediate_size=128,
    num_heads=1, num_kv_heads=1, head_dim=128, encoder_hidden_size=128, encoder_num_heads=1,
    encoder_intermediate_size=128, num_dit_layers=1, num_lyric_layers=1, num_timbre_layers=1, num_tokenizer_layers=1,
    text_hidden_dim=32, fsq_dim=128), (64, 20), text(32, conditioning_lyrics=lambda seed: random(1, 5, 32,
    seed=seed)))
OMNIGEN = dict(image_model="omnigen2", axes_dim_rope=[16, 16, 16], axes_lens=[300, 512, 512], ffn_dim_multiplier=None,
    hidden_size=48, in_channels=16, multiple_of=16, norm_eps=1e-5, num_attention_heads=1, num_kv_heads=1,
    num_layers=1, num_refiner_layers=1, out_channels=None, patch_size=2, text_feat_dim=32, timestep_scale=1000.0)
MASKED = dict(attention_mask=lambda seed: torch.ones(1, 4, dtype=torch.long))
FAMILIES["Omnigen2"] = Family("Omnigen2", OMNIGEN, (16, 16, 16), text(32, **MASKED))
FAMILIES["Boogu"] = Family("Boogu", dict(image_model="boogu", hidden_size=120, num_layers=1,
    num_double_stream_layers=1, num_refiner_layers=1, num_attention_heads=1, num_kv_heads=1, multiple_of=16,
    instruction_feat_dim=32), (16, 16, 16), text(32, **MASKED))
QWEN = dict(image_model="qwen_image", in_channels=64, num_layers=1, num_attention_heads=1, joint_attention_dim=32)
FAMILIES["QwenImage"] = Family("QwenImage", QWEN, (16, 1, 16, 16), text(32))
FAMILIES["QwenImage edit (ref)"] = Family("QwenImage", QWEN, (16, 1, 16, 16), text(32,
    reference_latents=lambda seed: [random(1, 16, 1, 16, 16)]))
FAMILIES["QwenImage edit 2511"] = Family("QwenImage", {**QWEN, "default_ref_method": "index_timestep_zero"}, (16, 1,
    16, 16), text(32, reference_latents=lambda seed: [random(1, 16, 1, 16, 16)]))
FAMILIES["QwenImage layered"] = Family("QwenImage", {**QWEN, "use_additional_t_cond": True,
    "default_ref_method": "negative_index"}, (16, 3, 8, 8), text(32, reference_latents=lambda seed: [random(1, 16, 1,
    8, 8)]))
FAMILIES["MageFlow"] = Family("MageFlow", dict(image_model="mage_flow", in_channels=128, num_layers=1,
    num_attention_heads=1, joint_attention_dim=32), (128, 8, 8), text(32))
FAMILIES["JoyImage"] = Family("JoyImage", dict(image_model="joyimage", in_channels=16, hidden_size=128, patch_size=[1,
    2, 2], num_layers=1, num_attention_heads=1, text_dim=32), (16, 1, 8, 8), text(32))
FAMILIES["Ideogram4"] = Family("Ideogram4", dict(image_model="ideogram4", in_channels=128, num_layers=1,
    num_attention_heads=1, attention_head_dim=128, intermediate_size=128, adaln_dim=32, mrope_section=(24, 20, 20)),
    (128, 8, 8), text(53248))
FAMILIES["Krea2"] = Family("Krea2", dict(image_model="krea2", features=128, tdim=32, txtdim=128, heads=1, kvheads=1,
    layers=1, patch=2, channels=16, txtlayers=2, txtheads=1, txtkvheads=1), (16, 1, 16, 16), text(256))
KANDINSKY = dict(image_model="kandinsky5", in_text_dim=32, in_text_dim2=48, time_dim=32, model_dim=64, ff_dim=64,
    visual_embed_dim=132, num_text_blocks=1, num_visual_blocks=1, axes_dims=(16, 24, 24))
FAMILIES["Kandinsky5 (video)"] = Family("Kandinsky5", KANDINSKY, VIDEO, text(32, pooled=48))
FAMILIES["Kandinsky5Image"] = Family("Kandinsky5Image", {**KANDINSKY, "visual_embed_dim": 64,
    "rope_scale_factor": (1., 1., 1.)}, (16, 1, 8, 8), text(32, pooled=48))
FAMILIES["ErnieImage"] = Family("ErnieImage", dict(image_model="ernie", hidden_size=128, num_attention_heads=1,
    num_layers=1, ffn_hidden_size=128, text_in_dim=32), (128, 8, 8), text(32))
FAMILIES["CogVideoX_T2V"] = Family("CogVideoX_T2V", dict(image_model="cogvideox", num_attention_heads=1,
    attention_head_dim=64, time_embed_dim=32, num_layers=1, in_channels=16, patch_size=2, text_embed_dim=32,
    use_rotary_positional_embeddings=True), (16, 2, 8, 8), text(32))
FAMILIES["LTXAV i2v (nested mask)"] = Family("LTXAV", {**stand_ins.LTXAV, "image_model": "ltxav"}, ((128, 3, 2, 2),
    (8, 9, 16)), text(192), mask="parts")
