"""What was measured of a loaded model: which ways to evaluate it give what the sampler's own way gives."""

import inspect
import weakref

import torch
from comfy.patcher_extension import WrappersMP

from .compat import CHECK, KEY
from .devices import spread_out

# Ways to evaluate rows that are not the sampler's own evaluation.
BESIDE = "beside the sample"  # in one forward with it, or at once with it on several devices
TOGETHER = "together"  # in one forward, or at once on several devices
ALONE = "alone"  # without the other conditions
SAMPLED = "as sampled"

ROUNDING = 4  # units of the network's precision between two batches with the same image in them
CLEAR = 100  # times the rounding of a prediction, a change of it is known to four digits or so
FEW = 16  # values, in which a random direction may be an eigenvector


class Trust:
    """Measurements by loaded model, its patches, the layout of its conditions and its batch.

    It holds no model; whoever owns it, a node's closure for example, decides how long they are remembered.
    """

    def __init__(self):
        self._models = weakref.WeakKeyDictionary()

    def verdicts(self, model, conds, options, batch, forwards=None):
        """Way -> whether it gives what the sampler's own way gives; what is not measured yet is missing.

        forwards: in how many the host evaluated several conditions, None for one.
        """
        key = batch, forwards, spread_out(options), _layout(conds), _patches(options)
        return self._models.setdefault(model, {}).setdefault(key, {})


def _layout(conds):
    """What conditions are made of, without values; shapes by number, since equal ones are evaluated at once."""
    shapes, layout = {}, []
    for cond in conds:
        for entry in cond or ():
            layout.append(tuple(sorted(entry.keys() - {"uuid"})))
            for name, value in sorted(entry.get("model_conds", {}).items()):
                if isinstance(value.cond, torch.Tensor):
                    known = shapes.setdefault(name, {})
                    shape = tuple(value.cond.shape)
                    layout.append((name, shape[:1], known.setdefault(shape, len(known))))
                else:
                    layout.append((name, type(value.cond).__name__))
        layout.append(cond is None)
    return tuple(layout)


def _patches(options):
    transformer_options = options.get("transformer_options", {})
    patches = [options.get("model_function_wrapper")]
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
        for key, wrappers in transformer_options.get("wrappers", {}).get(kind, {}).items():
            patches += [] if key == KEY else wrappers
    for kind in ("patches", "patches_replace"):
        for listed in transformer_options.get(kind, {}).values():
            patches += listed.values() if isinstance(listed, dict) else listed
    return tuple(map(_itself, patches))


def _itself(patch):
    """What equals no other patch's, also when this one is gone and another one has its address."""
    try:
        itself = weakref.WeakMethod(patch) if inspect.ismethod(patch) else weakref.ref(patch)
        hash(itself)
    except TypeError:  # None, or an object that cannot be referred to weakly or has no hash
        return id(patch)
    return itself


def agree(one, other, x, dtype):
    """Whether two predictions [B, ...] of the same are equal up to rounding, or None where no image of them is finite.

    dtype: what the network computes in.
    """
    tolerance = max(ROUNDING * torch.finfo(dtype).eps, 1e-5)
    error, size = (
        torch.linalg.vector_norm(difference.float().flatten(1), dim=1) for difference in (one - other, x - other)
    )
    known = error.isfinite() & size.isfinite()
    some, apart = torch.stack([known.any(), (known & (error > tolerance * size)).any()]).tolist()
    return not apart if some else None


def made_up(answer, base, rows, x, dtype):
    """Whether predictions at rows differ from those at x by a multiple of the step and rounding alone.

    No network's do. The four are [R, ...], row by row of the same images; dtype: what the network computes in.
    """
    if x[0].numel() <= FEW:
        return False
    change, step = ((one - other).float().flatten(1) for one, other in ((answer, base), (rows, x)))
    share = (change * step).sum(dim=1, keepdim=True) / (step * step).sum(dim=1, keepdim=True)
    rest, size, rounding = (
        torch.linalg.vector_norm(part, dim=1) for part in (change - share * step, change, base.float().flatten(1))
    )
    rounding = torch.finfo(dtype).eps * rounding
    return bool(((rest <= rounding) & (size > CLEAR * rounding)).all())


def checking(options):
    """Model options that mark an evaluation which only checks another one."""
    transformer_options = options.get("transformer_options", {})
    return options | {"transformer_options": transformer_options | {CHECK: True}}
