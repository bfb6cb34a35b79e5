"""Tiny random networks of diffusers, pipelines around their denoising loops, and the same loops by hand."""

import torch
from diffusers import (
    ClassifierFreeGuidance,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from diffusers.modular_pipelines.stable_diffusion_3.denoise import StableDiffusion3DenoiseStep
from diffusers.modular_pipelines.stable_diffusion_xl.denoise import StableDiffusionXLDenoiseStep
from saddle_free_guidance.guidance import SaddleFree, classifier_free, image_digests
from saddle_free_guidance.pipelines import SaddleFreeGuidance

STEPS = 6


def drawn(*shape, seed=0):
    """Numbers that are the same for an image, whatever is in the batch beside it."""
    rows = [torch.randn(shape[1:], generator=torch.Generator().manual_seed(seed + row)) for row in range(shape[0])]
    return torch.stack(rows)


def strong(network, gain):
    """A network that answers `gain` times as much, so that it has saddles."""
    with torch.no_grad():
        for parameter in list(network.children())[-1].parameters():
            parameter.mul_(gain)
    return network.eval().requires_grad_(False)


class UNet:
    """An SDXL-like UNet that predicts epsilon, in Euler steps."""

    GATHERS = True  # the pipeline takes what the network is told as one dictionary

    def __init__(self):
        torch.manual_seed(0)
        self.network = strong(UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, in_channels=4, out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 2), norm_num_groups=4,
            addition_embed_type="text_time", addition_time_embed_dim=4, transformer_layers_per_block=(1, 1),
            projection_class_embeddings_input_dim=32, cross_attention_dim=16,
        ), 8)
        self.scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
        self.scheduler.set_timesteps(STEPS)

    def inputs(self, batch):
        return {
            "prompt_embeds": drawn(batch, 3, 16, seed=10), "negative_prompt_embeds": drawn(batch, 3, 16, seed=20),
            "pooled_prompt_embeds": drawn(batch, 8, seed=30), "negative_pooled_prompt_embeds": drawn(batch, 8, seed=40),
            "add_time_ids": torch.ones(batch, 6), "negative_add_time_ids": torch.ones(batch, 6),
            "latents": drawn(batch, 4, 8, 8) * self.scheduler.init_noise_sigma,
        }

    def pipeline(self, guider):
        pipe = StableDiffusionXLDenoiseStep().init_pipeline()
        pipe.update_components(unet=self.network, scheduler=self.scheduler, guider=guider)
        return pipe

    def answer(self, x, timestep, inputs, images, negative=""):
        told = {
            "text_embeds": inputs[negative + "pooled_prompt_embeds"][images],
            "time_ids": inputs[negative + "add_time_ids"][images],
        }
        embeds = inputs[negative + "prompt_embeds"][images]
        return self.network(x, timestep, encoder_hidden_states=embeds, added_cond_kwargs=told, return_dict=False)[0]

    def by_hand(self, inputs, guide, cfg):
        """The Euler loop in variance-exploding coordinates, where x = x0 + sigma n."""
        self.scheduler.set_timesteps(STEPS)
        x = inputs["latents"]
        seen = self.scheduler.scale_model_input(x, self.scheduler.timesteps[0])  # by the network
        keys = image_digests(seen)
        for timestep, sigma, following in zip(
            self.scheduler.timesteps, self.scheduler.sigmas[:-1].double(), self.scheduler.sigmas[1:].double()
        ):
            def denoise(y, images, negative="", sigma=float(sigma), timestep=timestep):
                answer = self.answer(y / (1 + sigma**2) ** 0.5, timestep, inputs, images, negative)
                return y - sigma * answer

            guided = guide(denoise, x, alpha=1.0, std=float(sigma), image_keys=keys)
            if cfg != 1:
                every = torch.arange(len(x))
                guided = guided + classifier_free(denoise(x, every), denoise(x, every, "negative_"), scale=cfg)
            x = guided + float(following / sigma) * (x - guided)
        return x


class Flow:
    """An SD3-like transformer that predicts the velocity of a rectified flow, in Euler steps."""

    GATHERS = False

    def __init__(self):
        torch.manual_seed(1)
        self.network = strong(SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=8, out_channels=4,
            pos_embed_max_size=8,
        ), 40)
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        self.scheduler.set_timesteps(STEPS)

    def inputs(self, batch):
        return {
            "prompt_embeds": drawn(batch, 3, 16, seed=10), "negative_prompt_embeds": drawn(batch, 3, 16, seed=20),
            "pooled_prompt_embeds": drawn(batch, 8, seed=30), "negative_pooled_prompt_embeds": drawn(batch, 8, seed=40),
            "latents": drawn(batch, 4, 8, 8),
        }

    def pipeline(self, guider):
        pipe = StableDiffusion3DenoiseStep().init_pipeline()
        pipe.update_components(transformer=self.network, scheduler=self.scheduler, guider=guider)
        return pipe

    def by_hand(self, inputs, guide, cfg):
        """The Euler loop in the flow's own coordinates, where x = (1 - sigma) x0 + sigma n."""
        x, keys = inputs["latents"], image_digests(inputs["latents"])
        for timestep, sigma, following in zip(
            self.scheduler.timesteps, self.scheduler.sigmas[:-1].double(), self.scheduler.sigmas[1:].double()
        ):
            def denoise(y, images, negative="", sigma=float(sigma), timestep=timestep):
                velocity = self.network(
                    hidden_states=y, timestep=timestep.expand(len(y)),
                    encoder_hidden_states=inputs[negative + "prompt_embeds"][images],
                    pooled_projections=inputs[negative + "pooled_prompt_embeds"][images], return_dict=False,
                )[0]
                return y - sigma * velocity

            guided = guide(denoise, x, alpha=1 - float(sigma), std=float(sigma), image_keys=keys)
            if cfg != 1:
                every = torch.arange(len(x))
                guided = guided + classifier_free(denoise(x, every), denoise(x, every, "negative_"), scale=cfg)
            x = x + float((following - sigma) / sigma) * (x - guided)
        return x


def sampled(kind, inputs, guider):
    """What a pipeline of diffusers makes with a guider."""
    kind.scheduler.set_timesteps(STEPS)
    pipe = kind.pipeline(guider)
    pipe.set_progress_bar_config(disable=True)
    embeds = {name: value for name, value in inputs.items() if name != "latents"}
    told = {"denoiser_input_fields": embeds} if kind.GATHERS else embeds
    loop = {"timesteps": kind.scheduler.timesteps, "num_inference_steps": STEPS}
    return pipe(latents=inputs["latents"].clone(), **told, **loop, output="latents")


def guider(kind, cfg=1.0, **settings):
    """The guider under test around classifier-free guidance."""
    return SaddleFreeGuidance(ClassifierFreeGuidance(guidance_scale=cfg), kind.scheduler, **settings)


__all__ = ["STEPS", "Flow", "SaddleFree", "UNet", "drawn", "guider", "sampled", "strong"]
