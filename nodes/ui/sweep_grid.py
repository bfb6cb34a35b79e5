"""Pictures with labels in one grid."""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

GAP = 12
INK, PAPER = (20, 20, 20), (255, 255, 255)
SMALLEST_CELL = 192  # pixels; small pictures are enlarged without smoothing so that labels fit


def grid_image(cells, labels):
    """One IMAGE [1, H, W, 3] of labelled cells.

    cells: one IMAGE [N, h, w, 3] for each label, row by row; several pictures share their cell. labels: rows of texts.
    """
    tiles = [_tile(images) for images in cells]
    width, height = (max(tile.size[axis] for tile in tiles) for axis in (0, 1))
    factor = math.ceil(SMALLEST_CELL / min(width, height))
    width, height = factor * width, factor * height
    font = _font(max(map(len, (text for row in labels for text in row))), width)
    line = round(1.6 * font.size)
    columns = max(map(len, labels))
    size = columns * (width + GAP) + GAP, len(labels) * (height + line + GAP) + GAP
    page, place = Image.new("RGB", size, PAPER), iter(tiles)
    draw = ImageDraw.Draw(page)
    for row, texts in enumerate(labels):
        for column, text in enumerate(texts):
            left, top = GAP + column * (width + GAP), GAP + row * (height + line + GAP)
            draw.text((left, top), text, fill=INK, font=font)
            tile = next(place)
            page.paste(tile.resize((factor * tile.width, factor * tile.height), Image.NEAREST), (left, top + line))
    return torch.from_numpy(np.asarray(page).astype(np.float32) / 255)[None]


def _tile(images):
    """The pictures of a cell side by side, or in a square of them where they are many."""
    columns = len(images) if len(images) <= 4 else math.ceil(math.sqrt(len(images)))
    pixels = (images[..., :3].float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    height, width = pixels.shape[1:3]
    tile = Image.new("RGB", (columns * width, math.ceil(len(pixels) / columns) * height), PAPER)
    for place, picture in enumerate(pixels):
        tile.paste(Image.fromarray(picture), (place % columns * width, place // columns * height))
    return tile


def _font(letters, width):
    """The host's font at the largest size at which that many letters fit the width."""
    return ImageFont.load_default(size=max(9, min(28, round(1.7 * width / max(letters, 1)))))
