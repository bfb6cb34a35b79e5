"""What may come into a node.

The host checks typed numbers against their limits, and links by their type. So nan passes, and a node of another pack
with outputs of any type can hand over anything.
"""

import functools
import inspect
import numbers

import torch
from comfy_api.latest import io

from ..guidance import CurvatureTrace

SOCKETS = {  # kind of link -> what it must be, in words and as a check
    "MODEL": ("a diffusion model", lambda value: hasattr(value, "get_model_object")),
    "LATENT": ("a latent", lambda value: isinstance(value, dict) and hasattr(value.get("samples"), "shape")),
    "IMAGE": (
        "pictures in a tensor [pictures, height, width, 3]",
        lambda value: isinstance(value, torch.Tensor) and value.ndim == 4 and value.shape[3] >= 3 and value.numel() > 0,
    ),
    "MASK": (
        "a mask, numbers in a tensor [masks, height, width]",
        lambda value: isinstance(value, torch.Tensor) and value.ndim in (2, 3) and value.numel() > 0
        and bool(value.isfinite().all()),
    ),
    "CURVATURE_TRACE": (
        "the trace that comes out of Saddle-Free Guidance", lambda value: isinstance(value, CurvatureTrace)
    ),
}
MOST_OPTIONS = 20  # in a message


def checked(execute):
    """A node's `execute` that first refuses what the node's schema does not allow; None is no optional input at all."""
    names = list(inspect.signature(execute).parameters)[1:]

    @functools.wraps(execute)
    def check(cls, *args, **kwargs):
        inputs, values = cls.define_schema().inputs, dict(zip(names, args)) | kwargs
        refuse_invalid(inputs, values)
        optional = {item.id for item in inputs if item.optional}
        given = {name: value for name, value in values.items() if name not in optional or value is not None}
        return execute(cls, **given)

    return check


def refuse_invalid(inputs, values):
    """Raises ValueError, naming the input, its value and what is allowed, for the first of `inputs` that is not valid.

    inputs: as in a schema; values: name -> value, where a missing one counts as None.
    """
    for item in inputs:
        value = values.get(item.id)
        if item.rawLink or (item.optional and value is None):
            continue
        words, allows = _allowed(item)
        if not allows(value):
            raise ValueError(f"{item.id} is {_shown(value)}; it must be {words}. Change it or what is connected to it.")


def _allowed(item):
    """What an input takes, in words and as a check of a value."""
    if isinstance(item, io.Int.Input):
        return f"a whole number from {item.min} to {item.max}", functools.partial(_within, item, numbers.Integral)
    if isinstance(item, io.Float.Input):
        return f"a number from {item.min:g} to {item.max:g}", functools.partial(_within, item, numbers.Real)
    if isinstance(item, io.Boolean.Input):
        return "true or false", lambda value: isinstance(value, bool)
    if isinstance(item, io.String.Input):
        return "text", lambda value: isinstance(value, str)
    if isinstance(item, io.Combo.Input):
        few = len(item.options) <= MOST_OPTIONS
        return f"one of {', '.join(item.options)}" if few else "one of its list", item.options.__contains__
    return SOCKETS.get(item.io_type, ("", lambda value: True))


def _within(item, kind, value):
    return isinstance(value, kind) and item.min <= value <= item.max


def _shown(value):
    if value is None:
        return "missing"
    if isinstance(value, numbers.Real):
        return str(value)
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
