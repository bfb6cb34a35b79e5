"""Evaluations that the host spreads over several devices, as its MultiGPU CFG Split does, with points of our own.

The host's unit of work is a condition: it gives each device some of them and evaluates all devices at once. So a batch
of other points is one condition more, whose x is put in its place before the network sees it.
"""

import torch
from comfy.patcher_extension import WrappersMP

from .compat import KEY


def spread_out(options):
    """Whether the host evaluates the conditions on several devices, with blocks that are not the main network's."""
    return "multigpu_clones" in options


def can_spread(conds, options):
    """Whether a condition can have points of its own: not where the host cuts x, or makes something of it."""
    entries = [entry for cond in conds if cond is not None for entry in cond]
    whole = all(entry.get("control") is None and "area" not in entry for entry in entries)
    return whole and options.get("context_handler") is None


def spread(evaluate, model, conds, index, batches, x, sigma, options):
    """The predictions of the conditions at x, and those of one of them at each of `batches`, all evaluated at once.

    evaluate: the host's evaluation of conditions, calc_cond_batch or what is left of it; batches: like x [B, ...].
    """
    wrapper = OwnPoints(len(conds), index, batches)
    transformer_options = options.get("transformer_options", {})
    wrappers = transformer_options.get("wrappers", {})
    first = {KEY: [wrapper]}  # what other wrappers see is what is evaluated
    ours = wrappers | {WrappersMP.APPLY_MODEL: first | wrappers.get(WrappersMP.APPLY_MODEL, {})}
    options = options | {"transformer_options": transformer_options | {"wrappers": ours}}
    outputs = evaluate(model, [*conds, *[conds[index]] * len(batches)], x, sigma, options)
    return outputs[: len(conds)], outputs[len(conds) :]


class OwnPoints:
    """APPLY_MODEL wrapper that evaluates the conditions from place `count` on at batches of their own.

    They are the condition at place `index` once more.
    """

    def __init__(self, count, index, batches):
        self.count, self.index, self.batches = count, index, batches

    def __call__(self, executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        """The predictions; a device may have any of the conditions, in any order."""
        places = transformer_options["cond_or_uncond"]
        rows = [
            part if place < self.count else self.batches[place - self.count].to(part)
            for place, part in zip(places, x.chunk(len(places)))
        ]
        named = [place if place < self.count else self.index for place in places]
        transformer_options = transformer_options | {"cond_or_uncond": named}
        return executor(torch.cat(rows), t, c_concat, c_crossattn, control, transformer_options, **kwargs)
