"""Finds where the pack's own code would make the CPU wait for a GPU, while it runs on a CPU.

It goes by what is asked for: it cannot know that a tensor would still be in the host's memory where it should not be.
"""

import sys
from collections import namedtuple
from pathlib import Path

import pack
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

Wait = namedtuple("Wait", "place function call")  # place: "file.py:function"; call: post-CFG passes before it

OWN = tuple(f"{pack.ROOT / folder}/" for folder in ("curvature", "guidance", "nodes"))
READS = {
    "item", "tolist", "cpu", "numpy", "cuda", "__bool__", "__int__", "__float__", "__index__", "__complex__",
    "__array__", "__contains__", "__format__", "__repr__", "nonzero", "argwhere", "masked_select", "equal", "allclose",
    "is_nonzero", "unique", "bincount", "histc",
}
ATEN_READS = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero",
    "aten::_unique2", "aten::repeat_interleave", "aten::bincount", "aten::unique_dim", "aten::unique_consecutive",
}


def own_place():
    """Where in the pack an operation was asked for, or None: a model evaluation, which the host makes, is not ours."""
    frame = sys._getframe(1)
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        if path.startswith(OWN) and not name.startswith("<"):  # a comprehension
            return f"{Path(path).name}:{name}"
        if path.endswith("patcher_extension.py") or name.endswith("calc_cond_batch"):
            return None
        frame = frame.f_back
    return None


def waits(name, args, kwargs):
    """Whether a function of torch, on tensors of a GPU, returns only when the GPU has come as far.

    Copies to or from the host's memory do, unless they are told not to; so does an index that is a list or a mask.
    """
    if name in READS or (name == "where" and len(args) == 1):
        return True
    if name in ("tensor", "as_tensor", "asarray"):
        return kwargs.get("device") is not None and not isinstance(args[0], torch.Tensor)
    if name == "to":
        given = (*args[1:], *kwargs.values())
        to_device = any(isinstance(value, (str, torch.device, torch.Tensor)) for value in given)
        return to_device and not kwargs.get("non_blocking", False)
    if name in ("__getitem__", "__setitem__"):
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(part, list) or getattr(part, "dtype", None) == torch.bool for part in index)
    return False


class Waits:
    """Records the waits of the pack's own code while it is on; call: a function that tells which call is under way."""

    def __init__(self, call):
        self.found = []
        self._call = call
        self.inside = False  # a function that is noted already
        self._modes = _Functions(self), _Operations(self)

    def note(self, function):
        place = own_place()
        if place is not None and not self.inside:
            self.found.append(Wait(place, function, self._call()))

    def __enter__(self):
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error):
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class _Functions(TorchFunctionMode):
    """Sees what Python calls, also reads of a CPU tensor, which are no operation."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        if not waits(name, args, kwargs):
            return function(*args, **kwargs)
        self.waits.note(name)
        inside, self.waits.inside = self.waits.inside, True
        try:
            return function(*args, **kwargs)
        finally:
            self.waits.inside = inside


class _Operations(TorchDispatchMode):
    """Sees what torch's own functions do inside."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().partition(".")[0]
        masked = name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            part is not None and part.dtype in (torch.bool, torch.uint8) for part in args[1]
        )
        if name in ATEN_READS or masked:
            self.waits.note(name)
        return function(*args, **(kwargs or {}))
