"""The emoji model's network: a U-Net of three resolutions, conditional on the kind of a picture and on its style."""

import torch
import torch.nn.functional as F
from torch import nn

from .digits_network import ResidualBlock, require_sides, run_middle, waves

KINDS = (
    "happy face", "moody face", "creature", "cat", "heart", "mammal", "bird", "reptile", "sea animal", "insect",
    "flower", "plant", "fruit", "vegetable", "meal", "sweet", "drink", "landscape", "building", "land vehicle", "boat",
    "aircraft", "weather", "party", "sport", "game", "music", "clothing", "device", "book", "tool",
)
STYLES = ("noto", "blob", "fluent3d", "fluent", "fluentflat", "twemoji", "emojitwo", "fxemoji")
LABELS = len(KINDS) + len(STYLES)
IMAGE_SIZE = 64
SIDE = 8  # each side is halved three times
SIGMA_DATA = 0.56


class EmojiUNet(nn.Module):
    """Preconditioned network F(c_in * x, c_noise, labels) of Karras et al. 2022 (EDM), eq. 7.

    x: [B, 3, 64, 64]; timesteps: c_noise, [B]; context: [B, tokens, 39] weights of the kinds, then of the styles, all
    zero for no label. Tokens are averaged, so that combined and concatenated conditions mean a mixture. The middle
    blocks can be replaced as the host's DiT blocks can, by ("double_block", index).
    augments: how many numbers tell the network in training what was done to a picture, as in EDM, appendix F.2.
    `operations` lets the host choose the layers that cast weights; torch's own by default.
    """

    def __init__(
        self, widths=(40, 128, 256), blocks=3, embedding=256, augments=0, dtype=None, device=None, operations=nn
    ):
        super().__init__()
        self.dtype = dtype
        ops, factory = operations, {"dtype": dtype, "device": device}
        first, second, third = widths

        def block(channels_in, channels, attention=True):
            head = 32 if channels % 32 == 0 else 16
            return ResidualBlock(channels_in, channels, embedding, attention, head, ops=ops, factory=factory)

        self.embed_time = nn.Sequential(
            ops.Linear(64, embedding, **factory), nn.SiLU(), ops.Linear(embedding, embedding, **factory)
        )
        self.embed_labels = ops.Linear(LABELS, embedding, bias=False, **factory)
        self.embed_augments = ops.Linear(augments, embedding, bias=False, **factory) if augments else None
        self.entry = ops.Conv2d(12, first, 3, padding=1, **factory)
        self.encoder = nn.ModuleList([block(first, first, False), block(second, second)])
        self.down = nn.ModuleList(
            ops.Conv2d(wide, wider, 2, stride=2, **factory) for wide, wider in ((first, second), (second, third))
        )
        self.middle = nn.ModuleList(block(third, third) for _ in range(blocks))
        self.up = nn.ModuleList(
            ops.ConvTranspose2d(wider, wide, 2, stride=2, **factory)
            for wider, wide in ((third, second), (second, first))
        )
        self.decoder = nn.ModuleList([block(2 * second, second), block(2 * first, first, False)])
        self.exit_norm = ops.GroupNorm(8, first, **factory)
        self.exit = ops.Conv2d(first, 12, 3, padding=1, **factory)

    def forward(self, x, timesteps, context=None, transformer_options=None, augments=None, **kwargs):
        require_sides(x, SIDE, IMAGE_SIZE)
        embedding = self.embed_time(waves(timesteps).to(x.dtype))
        if context is not None:
            embedding = embedding + self.embed_labels(context.to(x.dtype).mean(dim=1))
        if augments is not None:
            embedding = embedding + self.embed_augments(augments.to(x.dtype))
        embedding = F.silu(embedding)

        h, skips = self.entry(F.pixel_unshuffle(x, 2)), []  # [B, first, 32, 32]
        for block, down in zip(self.encoder, self.down):
            skips.append(block(h, embedding))
            h = down(skips[-1])
        h = run_middle(self.middle, h, embedding, transformer_options)  # [B, third, 8, 8]
        for up, block in zip(self.up, self.decoder):
            h = block(torch.cat([up(h), skips.pop()], dim=1), embedding)
        return F.pixel_shuffle(self.exit(F.silu(self.exit_norm(h))), 2)
