"""A node in the place of the loaders of a family."""

import family_stand_ins


class TestFamily:
    """Model, text encoder, VAE, audio VAE and latent upscaler of a small stand-in."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"family": ("STRING", {}), "seed": ("INT", {"default": 0}), "parts": ("STRING", {})}}

    RETURN_TYPES = ("MODEL", "CLIP", "VAE", "VAE", "LATENT_UPSCALE_MODEL")
    FUNCTION = "make"
    CATEGORY = "tests"

    def make(self, family, seed, parts):
        makers = {
            "model": lambda: family_stand_ins.model(family, seed),
            "clip": lambda: family_stand_ins.TextEncoder(family),
            "vae": lambda: family_stand_ins.vae(family),
            "audio": family_stand_ins.audio_vae,
            "upscaler": family_stand_ins.latent_upscaler,
        }
        return tuple(make() if part in parts.split() else None for part, make in makers.items())


FAMILY_NODES = (TestFamily,)
