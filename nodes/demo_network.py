"""The digits model's network: a class-conditional U-Net small enough to sample on a laptop's CPU."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 10
IMAGE_SIZE = 32
SIDE = 4  # each side is halved twice
SIGMA_DATA = 0.5
SIGMA_MIN, SIGMA_MAX = 0.01, 40.0
HEAD_WIDTH = 24


class ResidualBlock(nn.Module):
    """Two convolutions modulated by the embedding, then optional self-attention over all pixels in heads of a width."""

    def __init__(self, channels_in, channels, embedding, attention=False, head=HEAD_WIDTH, *, ops, factory):
        super().__init__()
        self.norm_in = ops.GroupNorm(8, channels_in, **factory)
        self.conv_in = ops.Conv2d(channels_in, channels, 3, padding=1, **factory)
        self.modulation = ops.Linear(embedding, 2 * channels, **factory)
        self.norm_out = ops.GroupNorm(8, channels, **factory)
        self.conv_out = ops.Conv2d(channels, channels, 3, padding=1, **factory)
        self.skip = ops.Conv2d(channels_in, channels, 1, **factory) if channels_in != channels else nn.Identity()
        self.attention, self.head = attention, head
        if attention:
            self.norm_attention = ops.GroupNorm(8, channels, **factory)
            self.qkv = ops.Conv2d(channels, 3 * channels, 1, **factory)
            self.projection = ops.Conv2d(channels, channels, 1, **factory)

    def forward(self, x, embedding, attention=None):
        """attention: replaces the mixing of q, k and v, all [B, pixels, channels], as the host's patches do it."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv_in(F.silu(self.norm_in(x)))
        h = self.conv_out(F.silu(self.norm_out(h) * (1 + scale) + shift))
        x = self.skip(x) + h
        return x + self._attend(x, attention) if self.attention else x

    def _attend(self, x, attention=None):
        b, c, height, width = x.shape
        qkv = self.qkv(self.norm_attention(x))
        if attention is not None:
            mixed = attention(*qkv.reshape(b, 3, c, height * width).transpose(-1, -2).unbind(1), {
                "n_heads": c // self.head, "dim_head": self.head,
            })
            return self.projection(mixed.transpose(-1, -2).reshape(b, c, height, width))
        qkv = qkv.reshape(b, 3, c // self.head, self.head, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # [B, heads, pixels, head width]
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.projection(mixed.transpose(-1, -2).reshape(b, c, height, width))


class DemoUNet(nn.Module):
    """Preconditioned network F(c_in * x, c_noise, class) of Karras et al. 2022 (EDM), eq. 7.

    x: [B, 3, 32, 32]; timesteps: c_noise, [B]; context: [B, tokens, 10] class weights, all zero for no class.
    Tokens are averaged, so that combined and concatenated conditions mean a mixture of classes. The middle blocks can
    be replaced as the host's DiT blocks can, by ("double_block", index).
    `operations` lets the host choose the layers that cast weights; torch's own by default.
    """

    def __init__(self, width=48, blocks=4, embedding=192, dtype=None, device=None, operations=nn):
        super().__init__()
        self.dtype = dtype
        ops, factory = operations, {"dtype": dtype, "device": device}
        block = {"embedding": embedding, "ops": ops, "factory": factory}
        self.embed_time = nn.Sequential(
            ops.Linear(64, embedding, **factory), nn.SiLU(), ops.Linear(embedding, embedding, **factory)
        )
        self.embed_class = ops.Linear(CLASSES, embedding, bias=False, **factory)
        self.entry = ops.Conv2d(12, width, 3, padding=1, **factory)
        self.encoder = ResidualBlock(width, width, **block)
        self.down = ops.Conv2d(width, 2 * width, 2, stride=2, **factory)
        self.middle = nn.ModuleList(
            ResidualBlock(2 * width, 2 * width, attention=True, **block) for _ in range(blocks)
        )
        self.up = ops.ConvTranspose2d(2 * width, width, 2, stride=2, **factory)
        self.decoder = nn.ModuleList(ResidualBlock(2 * width, width, **block) for _ in range(2))
        self.exit_norm = ops.GroupNorm(8, width, **factory)
        self.exit = ops.Conv2d(width, 12, 3, padding=1, **factory)

    def forward(self, x, timesteps, context=None, transformer_options=None, **kwargs):
        require_sides(x, SIDE, IMAGE_SIZE)
        embedding = self.embed_time(waves(timesteps).to(x.dtype))
        if context is not None:
            embedding = embedding + self.embed_class(context.to(x.dtype).mean(dim=1))
        embedding = F.silu(embedding)

        entry = self.entry(F.pixel_unshuffle(x, 2))  # [B, width, 16, 16]
        encoded = self.encoder(entry, embedding)
        h = self.down(encoded)  # [B, 2 width, 8, 8]
        h = run_middle(self.middle, h, embedding, transformer_options)
        h = self.up(h)
        for block, skip in zip(self.decoder, (encoded, entry)):
            h = block(torch.cat([h, skip], dim=1), embedding)
        return F.pixel_shuffle(self.exit(F.silu(self.exit_norm(h))), 2)


def require_sides(x, multiple, best):
    """ValueError where the sides of x, [..., height, width], are not what a network can halve."""
    height, width = x.shape[-2:]
    if height % multiple or width % multiple or 0 in (height, width):
        raise ValueError(
            f"the demo model draws pictures whose sides are a multiple of {multiple} pixels, best "
            f"{best}x{best}, and this latent is {width}x{height}; give it an empty latent of that size."
        )


def waves(timesteps):
    """Cosines and sines of c_noise, [B], at 32 frequencies from 1 to 100; [B, 64] float32."""
    frequencies = torch.exp(torch.linspace(0, math.log(100), 32, device=timesteps.device))
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def run_middle(blocks, h, embedding, transformer_options):
    """h after the middle blocks, any of which the host's options may replace as ("double_block", index).

    Their self-attention is replaced as that of the host's UNets, by ("middle", 0), or ("middle", 0, index) for one.
    """
    patches = (transformer_options or {}).get("patches_replace", {})
    replaced, attentions = patches.get("dit", {}), patches.get("attn1", {})
    for index, block in enumerate(blocks):
        attention = attentions.get(("middle", 0, index), attentions.get(("middle", 0)))
        if attention is not None:
            attention = functools.partial(_replaced_attention, attention, transformer_options, index)
        replacement = replaced.get(("double_block", index))
        if replacement is None:
            h = block(h, embedding, attention)
        else:
            original = functools.partial(_original_block, block, attention)
            h = replacement({"img": h, "vec": embedding}, {"original_block": original})["img"]
    return h


def _replaced_attention(attention, transformer_options, index, q, k, v, heads):
    return attention(q, k, v, transformer_options | heads | {"block": ("middle", 0), "block_index": index})


def _original_block(block, attention, args):
    return {"img": block(args["img"], args["vec"], attention)}


def denoise(network, x, sigma, context=None, sigma_data=SIGMA_DATA, **more):
    """Denoised prediction D(x; sigma) with EDM preconditioning; x: [B, 3, height, width], sigma: [B]."""
    sigma = sigma.reshape(-1, 1, 1, 1)
    total = sigma**2 + sigma_data**2
    output = network(x / total.sqrt(), sigma.log().flatten() / 4, context, **more)
    return x * sigma_data**2 / total + output * sigma * sigma_data / total.sqrt()
