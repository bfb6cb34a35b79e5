"""The real data of the emoji model: 6,101 pictures of 884 names, 64x64 RGB on white in [-1, 1].

The pictures are not in the repository: benchmarks/emoji_data.py makes a file of them.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from page import load_quickstart

DATA = load_quickstart().cache_folder() / "emoji.npz"
AUGMENTS = 9


@dataclass(frozen=True)
class Emoji:
    """Pictures [N, 4, 64, 64] uint8 with alpha; the index of the name, kind and style of each; which are held out."""

    rgba: torch.Tensor
    name: torch.Tensor
    kind: torch.Tensor
    style: torch.Tensor
    held: torch.Tensor
    sizes: tuple  # how many names, kinds and styles there are

    @property
    def training(self):
        """The places of the pictures that are trained on."""
        return (~self.held).nonzero().flatten()

    @property
    def held_out(self):
        """The places of those that are not."""
        return self.held.nonzero().flatten()

    def to(self, device):
        """The same pictures on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return dataclasses.replace(self, **moved)

    def pictures(self, places):
        """Pictures [B, 3, 64, 64] in [-1, 1]."""
        rgba = self.rgba[places].float() / 255
        return (rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]) * 2 - 1

    def labels(self, places):
        """Label weights [B, 1, 39]: one for the kind, one for the style."""
        kinds, styles = (
            F.one_hot(which[places], size).float() for which, size in zip((self.kind, self.style), self.sizes[1:])
        )
        return torch.cat([kinds, styles], dim=1)[:, None]


def load_emoji(path=DATA):
    """The pictures of a file; SystemExit where it is not there."""
    path = Path(path)
    if not path.exists():
        raise SystemExit(f"{path} is not there; make it with: python quickstart.py --run benchmarks/emoji_data.py")
    with np.load(path, allow_pickle=False) as file:
        indices = [torch.from_numpy(file[key].astype(np.int64)) for key in ("name", "kind", "style")]
        sizes = tuple(len(file[key]) for key in ("names", "kinds", "styles"))
        return Emoji(torch.from_numpy(file["rgba"]), *indices, torch.from_numpy(file["held"]), sizes)


def without_some_labels(labels, sizes, dropout, generator):
    """Labels [B, 1, kinds + styles] of which a share `dropout` has none, and 0.7 times as many each one of the two."""
    chance = torch.rand(len(labels), 1, 1, generator=generator, device=generator.device)
    kinds, styles = labels.split(sizes, dim=2)
    has_kind = chance >= 1.7 * dropout
    has_style = (chance >= dropout) & ((chance < 1.7 * dropout) | (chance >= 2.4 * dropout))
    return torch.cat([kinds * has_kind, styles * has_style], dim=2)


def augmented(rgba, generator, chance=0.4):
    """Changed pictures [B, 3, 64, 64] in [-1, 1], and the sizes of the changes, [B, 9] (Karras et al. 2022, F.2).

    rgba: [B, 4, 64, 64] uint8. Each change is made with a chance; that half are mirrored the network is not told.
    """
    draws = _Draws(len(rgba), generator, chance)
    rgba = rgba.float() / 255
    rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)
    shape = (draws.some() * (0.13 * draws.normal() - 0.06)).clamp(-0.35, 0.08), 0.07 * draws.some() * draws.normal()
    turn, moved = 0.16 * draws.some() * draws.normal(), draws.some()
    shift = 0.05 * moved * draws.normal(), 0.05 * moved * draws.normal()
    grid = F.affine_grid(_affine(*shape, turn, *shift, draws.mirror()), list(rgba.shape), align_corners=False)
    rgba = F.grid_sample(rgba, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    hue, saturation, brightness = (size * draws.some() * draws.normal() for size in (0.35, 0.2, 0.1))
    colour, alpha = _recoloured(rgba[:, :3], hue, saturation, brightness), rgba[:, 3:]
    colour = torch.minimum(colour.clamp_min(0), alpha)
    told = (5 * shape[0], 8 * shape[1], 4 * turn, 15 * shift[0], 15 * shift[1])
    told += (3 * hue, hue.cos() - 1, 5 * saturation, 8 * brightness)
    return (colour + 1 - alpha) * 2 - 1, torch.stack(told, dim=1)


@dataclass(frozen=True)
class _Draws:
    """Random numbers for each picture of a batch."""

    count: int
    generator: torch.Generator
    chance: float

    def normal(self):
        return torch.randn(self.count, generator=self.generator, device=self.generator.device)

    def some(self):
        return (self._uniform() < self.chance).float()

    def mirror(self):
        return 1 - 2 * (self._uniform() < 0.5).float()

    def _uniform(self):
        return torch.rand(self.count, generator=self.generator, device=self.generator.device)


def _affine(scale, stretch, turn, right, down, mirror):
    """[B, 2, 3], from where in the old picture each place of the new one comes."""
    wide, high, cos, sin = (-scale - stretch).exp(), (-scale + stretch).exp(), turn.cos(), turn.sin()
    rows = torch.stack([cos * wide * mirror, sin * wide, right], 1), torch.stack([-sin * high * mirror, cos * high, down], 1)
    return torch.stack(rows, dim=1)


def _recoloured(colour, hue, saturation, brightness):
    """Colours turned about grey by an angle `hue`, and scaled; colour: [B, 3, height, width]."""
    hue, saturation, brightness = (value.reshape(-1, 1, 1, 1) for value in (hue, saturation, brightness))
    grey = colour.mean(dim=1, keepdim=True)
    across = torch.stack([colour[:, 2] - colour[:, 1], colour[:, 0] - colour[:, 2], colour[:, 1] - colour[:, 0]], dim=1)
    turned = (colour - grey) * hue.cos() + across * hue.sin() / math.sqrt(3)
    return (grey + turned * saturation.exp()) * brightness.exp()
