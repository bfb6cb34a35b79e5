"""The Curvature Scope's pictures: Rayleigh quotients against sigma, and heat maps of indecision."""

import importlib.util
import textwrap

import numpy as np
import torch

# Paul Tol's bright scheme, which colour-blind eyes can tell apart.
COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")
HEAT = "inferno"
PLOT_INCHES, PLOT_DPI = (8, 5), 128
MOST_NAMED = 12  # images in the legend
LETTERS = 110  # of advice in a line
SMALLEST_SIDE = 512  # of a heat map without a picture below it


def require_matplotlib():
    """Raises RuntimeError, saying what to install, where the host's Python has no matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise RuntimeError(
            "Curvature Scope draws with matplotlib, which ComfyUI's Python does not have; "
            "install it with `pip install matplotlib` and run again."
        )


def plot(record):
    """A plain trace as an IMAGE [1, H, W, 3]: the largest Rayleigh quotient of each image against sigma."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=PLOT_INCHES, dpi=PLOT_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if record["off"] is None:
        _draw_curves(axes, record)
    else:
        axes.text(0.5, 0.5, record["off"], ha="center", va="center", transform=axes.transAxes)
    axes.set(xlabel="sigma", ylabel="Rayleigh quotient")
    advice = textwrap.fill(" ".join(said["text"] for said in record["advice"]), LETTERS)
    if advice:
        figure.supxlabel(advice, x=0.02, ha="left", fontsize="small")
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[None, ..., :3].astype(np.float32) / 255)


def _draw_curves(axes, record):
    calls = [call for call in record["calls"] if call["active"]]
    images = max((len(call["rayleigh"]) for call in calls), default=0)
    sigmas = [call["sigma"] for call in record["calls"] if call["sigma"] > 0]
    if sigmas and max(sigmas) > 10 * min(sigmas):
        axes.set_xscale("log")
    axes.margins(x=0.03)
    for image in range(images):
        points = [(call["sigma"], _largest(call, image), _acted(call, image)) for call in calls]
        colour = COLOURS[image % len(COLOURS)]
        line = "-" if image < len(COLOURS) else "--"
        name = f"image {image + 1}" if image < MOST_NAMED else None
        axes.plot(*zip(*((sigma, value) for sigma, value, _ in points)), line, color=colour, label=name, linewidth=1.6)
        for acted, fill in ((True, colour), (False, "white")):
            chosen = [(sigma, value) for sigma, value, did in points if did == acted]
            if chosen:
                axes.plot(*zip(*chosen), "o", color=colour, markerfacecolor=fill, markersize=4)
    if sigmas:
        axes.axhline(1, color="black", linestyle=":", linewidth=1.2)
        axes.set_xlim(max(sigmas) * 1.05, min(sigmas) / 1.05)
        _shade_window(axes, record["window"], min(sigmas), max(sigmas))
    if images > 1:
        title = f"{images - MOST_NAMED} more not named" if images > MOST_NAMED else None
        axes.legend(title=title, ncols=2 if images > 6 else 1, fontsize="small")


def _shade_window(axes, window, lowest, highest):
    start, end = (None, None) if window is None else window
    low = lowest if end is None else max(end, lowest)
    high = highest if start is None else min(start, highest)
    if low <= high:
        axes.axvspan(low, high, color="#4477AA", alpha=0.08, linewidth=0)


def _largest(call, image):
    values = [value for value in call["rayleigh"][image] if value is not None] if image < len(call["rayleigh"]) else []
    return max(values, default=float("nan"))


def _acted(call, image):
    return image < len(call["acted"]) and call["acted"][image]


def heat_map(indecision, images=None, opacity=1.0):
    """Indecision [B, H, W] or [B, T, H, W] from 0 to 1 as an IMAGE [N, H, W, 3], over `images` [N, H, W, 3] if given.

    Where the model was decided a picture shows through; opacity: how much of the colour covers it where it was not.
    """
    maps = indecision.float()[:, None] if indecision.ndim == 3 else indecision.float()  # [B, T, H, W]
    if images is None:
        factor = max(1, round(SMALLEST_SIDE / min(maps.shape[-2:])))
        maps = maps.flatten(0, 1)[:, None]  # [N, 1, H, W]
        return _colours(_resized(maps, [factor * side for side in maps.shape[-2:]]))
    if len(images) % len(maps):
        raise ValueError(
            f"images holds {len(images)} pictures and the trace {len(maps)}; connect the decoded pictures of the same "
            "sampling, or leave images unconnected."
        )
    frames = len(images) // len(maps)
    chosen = torch.arange(frames) * maps.shape[1] // frames  # video decoders make several frames of one latent
    maps = _resized(maps[:, chosen].flatten(0, 1)[:, None], images.shape[1:3])
    cover = opacity * maps.movedim(1, -1)  # [N, H, W, 1]
    return (1 - cover) * images[..., :3].float().cpu() + cover * _colours(maps)


def _resized(maps, size):
    return torch.nn.functional.interpolate(maps, size=list(size), mode="bilinear").clamp(0, 1)


def _colours(maps):
    import matplotlib

    return torch.from_numpy(matplotlib.colormaps[HEAT](maps[:, 0].numpy())[..., :3].astype(np.float32))
