"""The templates of large models, with the names, loaders and settings of their publishers' templates."""

# ruff: noqa: RUF001  (the publishers' negative prompts are Chinese)

HUB = "https://huggingface.co"
QWEN = f"{HUB}/Comfy-Org/Qwen-Image_ComfyUI/resolve/main/split_files"
QWEN_EDIT = f"{HUB}/Comfy-Org/Qwen-Image-Edit_ComfyUI/resolve/main/split_files"
ZIMAGE = f"{HUB}/Comfy-Org/z_image_turbo/resolve/main/split_files"
WAN21 = f"{HUB}/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
WAN22 = f"{HUB}/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
KLEIN = f"{HUB}/Comfy-Org/flux2-klein/resolve/main/split_files"
KREA = f"{HUB}/Comfy-Org/Krea-2/resolve/main"
HUNYUAN = f"{HUB}/Comfy-Org/HunyuanVideo_1.5_repackaged/resolve/main/split_files"
LTX_FILE = f"{HUB}/Lightricks/LTX-2.3-fp8/resolve/main/ltx-2.3-22b-dev-fp8.safetensors"
LTX_UPSCALER = f"{HUB}/Lightricks/LTX-2.3/resolve/main/ltx-2.3-spatial-upscaler-x2-1.1.safetensors"
LTX_LORA = (
    f"{HUB}/Comfy-Org/ltx-2.3/resolve/main/split_files/loras/"
    "ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16.safetensors"
)
GEMMA = f"{HUB}/Comfy-Org/ltx-2/resolve/main/split_files/text_encoders/gemma_3_12B_it_fp4_mixed.safetensors"

ZIMAGE_TURBO = f"{ZIMAGE}/diffusion_models/z_image_turbo_bf16.safetensors"
ZIMAGE_SAMPLER = {"sampler_name": "res_multistep", "scheduler": "simple"}

# The negative prompts are the publishers'.
QWEN_NEGATIVE = "低分辨率，低画质，肢体畸形，手指畸形，画面过饱和，蜡像感，人脸无细节，过度光滑，画面具有AI感。构图混乱。文字模糊，扭曲"
WAN_NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
LTX_NEGATIVE = "pc game, console game, video game, cartoon, childish, ugly"

WHAT = (
    "Saddle-Free Guidance finds the direction in which the model is undecided between two pictures and pushes the sample "
    "out of it. It needs no other model and no training, and takes a few more model evaluations."
)
ABOVE = "Above: the model alone. Below: the same seed with saddle-free guidance."
ONE_VIDEO = "One video with saddle-free guidance. Set **scale** to 0 for the same noise without it."
KNOBS = (
    "- **scale**: 0 is off; double it until it is too much, then go back one step.\n"
    "- **guidance_seed**: the same noise, another picture."
)
UNMEASURED = "Names and settings are those of the publisher's template. Nobody has measured the guidance on this model yet."


VARIATION_KNOBS = (
    "- **count**: one more costs one more picture; the others are kept.\n"
    "- **difference**: how different they may be; 0 is off, 8 the default, 16 strong.\n"
    "- **order**: nearest first puts the most alike beside the first picture; **seeds** shows which is which.\n"
    "- **plain_first**: off, the picture without guidance is left out."
)


def note(look, *turn, knobs=KNOBS):
    """The text of a template's note."""
    return "\n".join(["## What to look at", look, "", WHAT, "", "## What to turn", knobs, *turn, "", UNMEASURED])


# --- Parts -----------------------------------------------------------------------------------------------------------


def named(address):
    """The file's name at an address."""
    return address.rsplit("/", 1)[-1]


def load(page, models, encoder, kind, vae):
    """The loaders of one or more diffusion models, a text encoder and a VAE: the models' outputs, clip, vae."""
    loaded = [
        page.add("UNETLoader", title, [address], unet_name=named(address))[0] for title, address in models.items()
    ]
    (clip,) = page.add("CLIPLoader", files=[encoder], clip_name=named(encoder), type=kind)
    (decoder,) = page.add("VAELoader", files=[vae], vae_name=named(vae))
    return loaded, clip, decoder


def texts(page, clip, positive, negative):
    """Both conditions; a negative of None is the positive one zeroed out."""
    (made,) = page.add("CLIPTextEncode", "Positive prompt", text=positive, clip=clip)
    if negative is None:
        return made, page.add("ConditioningZeroOut", conditioning=made)[0]
    return made, page.add("CLIPTextEncode", "Negative prompt", text=negative, clip=clip)[0]


def pair(page, model, vae, prefix, sample):
    """Pictures without and with our node. sample: adds a sampler for a model and a title, gives its latent."""
    page.column(250)
    page.top = 640
    guided = page.add("SaddleFreeGuidance", model=model)[0]
    left, width = page.left, page.width
    for top, branch, word in ((60, model, "without"), (640, guided, "with")):
        page.left, page.width = left, width
        page.column(280)
        page.top = top
        latent = sample(branch, f"Sampler, {word}")
        page.column(300)
        page.top = top
        (images,) = page.add("VAEDecode", samples=latent, vae=vae)
        title = "Without guidance" if word == "without" else "With saddle-free guidance"
        page.add("SaveImage", title, images=images, filename_prefix=f"{prefix}-{word}")


def video(page, images, fps, prefix, audio=None):
    """Makes and saves a video."""
    sound = {} if audio is None else {"audio": audio}
    (made,) = page.add("CreateVideo", images=images, fps=float(fps), **sound)
    page.add("SaveVideo", video=made, filename_prefix=f"video/{prefix}")


def ksampler(page, latent, conditions, **settings):
    """A function that adds a KSampler for a model."""

    def sample(model, title):
        return page.add(
            "KSampler", title, model=model, positive=conditions[0], negative=conditions[1], latent_image=latent, seed=1,
            **settings,
        )[0]

    return sample


# --- Templates -------------------------------------------------------------------------------------------------------


def z_image_parts(page, file, negative):
    """Z-Image, turbo or base: model, VAE, conditions and latent."""
    (model,), clip, vae = load(
        page, {None: file}, f"{ZIMAGE}/text_encoders/qwen_3_4b.safetensors", "lumina2", f"{ZIMAGE}/vae/ae.safetensors"
    )
    page.column(300)
    (model,) = page.add("ModelSamplingAuraFlow", model=model, shift=3.0)
    words = "a tea house on a steep hillside after rain, fog between the cedars, paper lanterns being lit, wide view"
    conditions = texts(page, clip, words, negative)
    (latent,) = page.add("EmptySD3LatentImage", width=1024, height=1024)
    return model, vae, conditions, latent


def z_image(page, file, steps, cfg, negative, title):
    """Z-Image, turbo or base, without and with our node."""
    model, vae, conditions, latent = z_image_parts(page, file, negative)
    sample = ksampler(page, latent, conditions, steps=steps, cfg=cfg, **ZIMAGE_SAMPLER)
    pair(page, model, vae, page.name, sample)
    page.note(title, note(ABOVE))


def z_image_turbo(page):
    """Z-Image turbo: 8 steps, CFG 1."""
    z_image(page, ZIMAGE_TURBO, 8, 1.0, None, "Z-Image turbo")


def z_image_turbo_variations(page):
    """Z-Image turbo: 8 steps, CFG 1; four variations from one noise."""
    model, vae, conditions, latent = z_image_parts(page, ZIMAGE_TURBO, None)
    page.column(330)
    images, _, seeds = page.add(
        "GuidanceVariations", model=model, positive=conditions[0], negative=conditions[1], latent_image=latent, vae=vae,
        seed=1, steps=8, cfg=1.0, order="nearest first", plain_first=True, **ZIMAGE_SAMPLER,
    )
    page.column(420)
    page.add("SaveImage", "Without guidance, and four variations", images=images, filename_prefix=page.name)
    page.add("PreviewAny", "Seeds and distances", source=seeds)
    page.note("Z-Image turbo, variations", note(
        "Five pictures from the same noise: the model alone, then four variations, the nearest to it first.",
        "- In bf16 the search may find nothing in 8 steps. Then all pictures are alike, and the log says so.",
        knobs=VARIATION_KNOBS,
    ))


def z_image_base(page):
    """Z-Image base: 25 steps, CFG 4."""
    file = f"{HUB}/Comfy-Org/z_image/resolve/main/split_files/diffusion_models/z_image_bf16.safetensors"
    z_image(page, file, 25, 4.0, "", "Z-Image base")


def qwen_image(page):
    """Qwen-Image 2512: 50 steps, CFG 4."""
    file = f"{QWEN}/diffusion_models/qwen_image_2512_fp8_e4m3fn.safetensors"
    (model,), clip, vae = load(
        page, {None: file}, f"{QWEN}/text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors", "qwen_image",
        f"{QWEN}/vae/qwen_image_vae.safetensors",
    )
    page.column(300)
    (model,) = page.add("ModelSamplingAuraFlow", model=model, shift=3.1)
    words = 'a hand-painted shop sign that says "MENDED CLOCKS", brass pendulums in the window, soft morning light'
    conditions = texts(page, clip, words, QWEN_NEGATIVE)
    (latent,) = page.add("EmptySD3LatentImage", width=1328, height=1328)
    sample = ksampler(page, latent, conditions, steps=50, cfg=4.0, sampler_name="euler", scheduler="simple")
    pair(page, model, vae, page.name, sample)
    page.note("Qwen-Image 2512", note(ABOVE))


def qwen_image_edit(page):
    """Qwen-Image-Edit 2511: 40 steps, CFG 4."""
    file = f"{QWEN_EDIT}/diffusion_models/qwen_image_edit_2511_fp8mixed.safetensors"
    (model,), clip, vae = load(
        page, {None: file}, f"{QWEN}/text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors", "qwen_image",
        f"{QWEN}/vae/qwen_image_vae.safetensors",
    )
    (picture, _) = page.add("LoadImage", "Picture to edit", image="example.png")
    page.column(320)
    (model,) = page.add("ModelSamplingAuraFlow", model=model, shift=3.1)
    (model,) = page.add("CFGNorm", model=model, strength=1.0)
    (image,) = page.add("FluxKontextImageScale", image=picture)
    conditions = []
    for title, words in (("Positive prompt", "Make it winter: snow lies on everything."), ("Negative prompt", "")):
        (made,) = page.add("TextEncodeQwenImageEditPlus", title, clip=clip, vae=vae, image1=image, prompt=words)
        (made,) = page.add(
            "FluxKontextMultiReferenceLatentMethod", conditioning=made, reference_latents_method="index_timestep_zero"
        )
        conditions.append(made)
    (latent,) = page.add("VAEEncode", pixels=image, vae=vae)
    sample = ksampler(page, latent, conditions, steps=40, cfg=4.0, sampler_name="euler", scheduler="simple")
    pair(page, model, vae, page.name, sample)
    page.note("Qwen-Image-Edit 2511", note(ABOVE))


def krea_2(page):
    """Krea 2 turbo: 8 steps, CFG 1."""
    (model,), clip, vae = load(
        page, {None: f"{KREA}/diffusion_models/krea2_turbo_fp8_scaled.safetensors"},
        f"{KREA}/text_encoders/qwen3vl_4b_fp8_scaled.safetensors", "krea2", f"{KREA}/vae/qwen_image_vae.safetensors",
    )
    page.column(300)
    words = "a ceramic fox asleep on a pile of old letters, glazed in deep green, side light from a window, film grain"
    conditions = texts(page, clip, words, None)
    (latent,) = page.add("EmptyLatentImage", width=1024, height=1024)
    sample = ksampler(page, latent, conditions, steps=8, cfg=1.0, sampler_name="euler", scheduler="simple")
    pair(page, model, vae, page.name, sample)
    page.note("Krea 2 turbo", note(
        f"{ABOVE} The publisher's template also has a language model lengthen the prompt; here it stays as you type it."
    ))


def flux_2_klein(page):
    """FLUX.2 klein base 4B: 20 steps, CFG 5."""
    (model,), clip, vae = load(
        page, {None: f"{KLEIN}/diffusion_models/flux-2-klein-base-4b.safetensors"},
        f"{KLEIN}/text_encoders/qwen_3_4b.safetensors", "flux2",
        f"{HUB}/Comfy-Org/flux2-dev/resolve/main/split_files/vae/flux2-vae.safetensors",
    )
    (noise,) = page.add("RandomNoise", noise_seed=1)
    page.column(300)
    words = "a lighthouse keeper's desk: a brass lamp, sea charts, a half-eaten orange, storm light through the window"
    positive, negative = texts(page, clip, words, "")
    (latent,) = page.add("EmptyFlux2LatentImage", width=1024, height=1024)
    (sampler,) = page.add("KSamplerSelect", sampler_name="euler")
    (sigmas,) = page.add("Flux2Scheduler", steps=20, width=1024, height=1024)

    def sample(model, title):
        (guider,) = page.add("CFGGuider", model=model, positive=positive, negative=negative, cfg=5.0)
        return page.add(
            "SamplerCustomAdvanced", title, noise=noise, guider=guider, sampler=sampler, sigmas=sigmas,
            latent_image=latent,
        )[0]

    pair(page, model, vae, page.name, sample)
    page.note("FLUX.2 klein, 4B base", note(ABOVE))


def wan_2_2(page):
    """Wan 2.2 14B text to video: two models, a node on each; 20 steps split at 10, CFG 3.5."""
    (high, low), clip, vae = load(
        page, {
            f"{level.capitalize()} noise": f"{WAN22}/diffusion_models/wan2.2_t2v_{level}_noise_14B_fp8_scaled.safetensors"
            for level in ("high", "low")
        },
        f"{WAN21}/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan", f"{WAN22}/vae/wan_2.1_vae.safetensors",
    )
    page.column(300)
    shifted = [page.add("ModelSamplingSD3", model=model, shift=5.0)[0] for model in (high, low)]
    words = "a paper boat drifts down a rain gutter past a bicycle and a cat, the camera follows low above the water"
    positive, negative = texts(page, clip, words, WAN_NEGATIVE)
    (latent,) = page.add("EmptyHunyuanLatentVideo", width=640, height=640, length=81)
    page.column(260)
    guided = [page.add("SaddleFreeGuidance", title, model=model)[0]
              for title, model in zip(("Saddle-Free Guidance, high noise", "Saddle-Free Guidance, low noise"), shifted)]
    page.column(290)
    common = {"steps": 20, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple"}
    common |= {"positive": positive, "negative": negative}
    (latent,) = page.add(
        "KSamplerAdvanced", "High noise: steps 0 to 10", model=guided[0], latent_image=latent, noise_seed=1,
        end_at_step=10, return_with_leftover_noise="enable", **common,
    )
    (latent,) = page.add(
        "KSamplerAdvanced", "Low noise: steps 10 to 20", model=guided[1], latent_image=latent, add_noise="disable",
        start_at_step=10, end_at_step=20, **common,
    )
    page.column(320)
    (images,) = page.add("VAEDecode", samples=latent, vae=vae)
    video(page, images, 16, page.name)
    page.note("Wan 2.2 text to video, 14B", note(
        f"{ONE_VIDEO} The model is two networks, and each has a node of its own; keep their settings alike.",
    ))


def hunyuan_video(page):
    """HunyuanVideo 1.5 text to video, 720p: 20 steps, CFG 6."""
    model_file = f"{HUNYUAN}/diffusion_models/hunyuanvideo1.5_720p_t2v_fp16.safetensors"
    encoders = [
        f"{HUNYUAN}/text_encoders/{name}.safetensors" for name in ("qwen_2.5_vl_7b_fp8_scaled", "byt5_small_glyphxl_fp16")
    ]
    vae_file = f"{HUNYUAN}/vae/hunyuanvideo15_vae_fp16.safetensors"
    (model,) = page.add("UNETLoader", files=[model_file], unet_name=named(model_file))
    first, second = map(named, encoders)
    (clip,) = page.add(
        "DualCLIPLoader", files=encoders, clip_name1=first, clip_name2=second, type="hunyuan_video_15"
    )
    (vae,) = page.add("VAELoader", files=[vae_file], vae_name=named(vae_file))
    (noise,) = page.add("RandomNoise", noise_seed=1)
    page.column(300)
    (shifted,) = page.add("ModelSamplingSD3", model=model, shift=7.0)
    words = "a kite in the shape of a whale rises over wheat fields, children run after it, the camera turns to follow"
    positive, negative = texts(page, clip, words, "")
    (latent,) = page.add("EmptyHunyuanVideo15Latent", width=1280, height=720, length=121)
    page.column(260)
    guided = page.add("SaddleFreeGuidance", model=shifted)[0]
    (sampler,) = page.add("KSamplerSelect", sampler_name="euler")
    (sigmas,) = page.add("BasicScheduler", model=model, scheduler="simple", steps=20)
    page.column(290)
    (guider,) = page.add("CFGGuider", model=guided, positive=positive, negative=negative, cfg=6.0)
    latent, _ = page.add(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
    )
    (images,) = page.add("VAEDecode", samples=latent, vae=vae)
    page.column(320)
    video(page, images, 24, page.name)
    page.note("HunyuanVideo 1.5 text to video, 720p", note(ONE_VIDEO))


def ltx(page):
    """LTX-2.3 text to video with sound: 8 steps at half the size, then 3 at the whole, CFG 1."""
    name = named(LTX_FILE)
    model, _, vae = page.add("CheckpointLoaderSimple", files=[LTX_FILE], ckpt_name=name)
    (model,) = page.add(
        "LoraLoaderModelOnly", files=[LTX_LORA], model=model, lora_name=named(LTX_LORA), strength_model=0.5
    )
    (clip,) = page.add("LTXAVTextEncoderLoader", files=[GEMMA, LTX_FILE], text_encoder=named(GEMMA), ckpt_name=name)
    (sound,) = page.add("LTXVAudioVAELoader", files=[LTX_FILE], ckpt_name=name)
    (upscaler,) = page.add("LatentUpscaleModelLoader", files=[LTX_UPSCALER], model_name=named(LTX_UPSCALER))
    page.column(300)
    words = (
        "a street musician tunes a battered cello under a railway bridge and begins to play, footsteps pass, a train "
        "rumbles overhead, the camera moves closer"
    )
    conditions = texts(page, clip, words, LTX_NEGATIVE)
    positive, negative = page.add("LTXVConditioning", positive=conditions[0], negative=conditions[1], frame_rate=25.0)
    (frames,) = page.add("EmptyLTXVLatentVideo", width=640, height=360, length=121)
    (silence,) = page.add("LTXVEmptyLatentAudio", frames_number=121, frame_rate=25, audio_vae=sound)
    page.column(260)
    guided = page.add("SaddleFreeGuidance", model=model)[0]
    (guider,) = page.add("CFGGuider", model=guided, positive=positive, negative=negative, cfg=1.0)
    (sampler,) = page.add("KSamplerSelect", sampler_name="euler")
    frames, silence = _ltx_stage(page, guider, sampler, frames, silence, 1, LTX_SIGMAS)
    (frames,) = page.add("LTXVLatentUpsampler", samples=frames, upscale_model=upscaler, vae=vae)
    frames, heard = _ltx_stage(page, guider, sampler, frames, silence, 2, LTX_LAST_SIGMAS)
    page.column(320)
    (images,) = page.add(
        "VAEDecodeTiled", samples=frames, vae=vae, tile_size=768, overlap=64, temporal_size=4096, temporal_overlap=4
    )
    (audio,) = page.add("LTXVAudioVAEDecode", samples=heard, audio_vae=sound)
    video(page, images, 25, page.name, audio)
    page.note("LTX-2.3 text to video with sound", note(
        f"{ONE_VIDEO} One node serves both stages: half the size first, then the whole.",
        "- The publisher's template also has a language model lengthen the prompt; here it stays as you type it.",
    ))


LTX_SIGMAS = "1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0"
LTX_LAST_SIGMAS = "0.85, 0.7250, 0.4219, 0.0"


def _ltx_stage(page, guider, sampler, frames, sound, number, sigmas):
    """One sampling of video and sound together; returns both latents."""
    page.column(290)
    (together,) = page.add("LTXVConcatAVLatent", video_latent=frames, audio_latent=sound)
    (noise,) = page.add("RandomNoise", noise_seed=number)
    (schedule,) = page.add("ManualSigmas", sigmas=sigmas)
    sampled, _ = page.add(
        "SamplerCustomAdvanced", f"Sampler, stage {number}", noise=noise, guider=guider, sampler=sampler,
        sigmas=schedule, latent_image=together,
    )
    return page.add("LTXVSeparateAVLatent", av_latent=sampled)


TEMPLATES = {
    "z-image-turbo": z_image_turbo, "z-image-turbo-variations": z_image_turbo_variations, "z-image": z_image_base,
    "qwen-image": qwen_image, "qwen-image-edit": qwen_image_edit,
    "ltx-2.3": ltx, "wan-2.2-14b": wan_2_2, "flux-2-klein": flux_2_klein, "krea-2": krea_2,
    "hunyuan-video-1.5": hunyuan_video,
}
