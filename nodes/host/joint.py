"""Which images can be evaluated in one forward, by the conditions that belong to them and by the memory."""

import copy
from dataclasses import dataclass

import comfy.conds
import comfy.samplers
import torch

HEADROOM = 1.5  # over its estimate of the memory, which the host itself leaves when it makes a batch

# The host's values whose rows it repeats until each image has one. Those of other packs may be used in another way.
REPEATED = (comfy.conds.CONDRegular, comfy.conds.CONDNoiseShape, comfy.conds.CONDCrossAttn, comfy.conds.CONDList)


def separable(conds):
    """Whether any images can well be evaluated together, in any number: what is an image's own is known."""
    return _regroupable(conds, lambda value, rows: rows == 1 or _repeats(value))


def repeatable(conds, batch):
    """Whether a batch can well be evaluated several times at once: what belongs to its images repeats with it."""
    return _regroupable(conds, lambda value, rows: batch % rows == 0)


def _regroupable(conds, fits):
    entries = entries_of(conds)
    if any(entry.get("control") is not None for entry in entries):
        return False
    values = [value for entry in entries for value in _values(entry)]
    return all(fits(value, len(tensor)) for value in values for tensor in _tensors(value))


def of_images(conds, images):
    """Separable conditions for rows of images, a list [R]: what is an image's own follows it."""
    return [None if cond is None else [_entry_of(entry, images) for entry in cond] for cond in conds]


def _entry_of(entry, images):
    own = {name: _rows_of(value, images) for name, value in entry["model_conds"].items()}
    mask = {"mask": _rows_of(entry["mask"], images)} if "mask" in entry else {}
    return entry | mask | {"model_conds": own}


def _rows_of(value, images):
    if isinstance(value, torch.Tensor):
        if value.ndim == 0 or len(value) == 1:
            return value
        return value.index_select(0, on_device([image % len(value) for image in images], value.device))
    if isinstance(value, list):
        return [_rows_of(each, images) for each in value]
    if type(value) not in REPEATED:
        return value
    own = copy.copy(value)
    own.cond = _rows_of(value.cond, images)
    return own


def entries_of(conds):
    """The entries of several conditions."""
    return [entry for cond in conds if cond is not None for entry in cond]


def active(conds, x, sigma):
    """Whether any condition applies at sigma; where none does, the host predicts zeros without asking the network."""
    return any(comfy.samplers.get_area_and_mult(entry, x, sigma) is not None for entry in entries_of(conds))


def _values(entry):
    """A condition's mask and values."""
    return [entry.get("mask"), *entry.get("model_conds", {}).values()]


def _repeats(value):
    """Whether the host repeats the rows of a mask or of a condition's value until each image has one."""
    return isinstance(value, torch.Tensor) or type(value) in REPEATED


def _tensors(value):
    """The tensors of a condition's value that have rows."""
    held = getattr(value, "cond", value)
    held = held if isinstance(held, list) else [held]
    return [tensor for tensor in held if isinstance(tensor, torch.Tensor) and tensor.ndim]


def fits(model, conds, x, rows):
    """Whether `rows` images like those of x fit into memory at once, by the host's own estimate."""
    free = model.current_patcher.get_free_memory(x.device)
    shapes = [
        {name: [[rows, *list(value.size())[1:]]] for name, value in entry.get("model_conds", {}).items()}
        for entry in entries_of(conds)
    ]
    required = (model.memory_required([rows, *x.shape[1:]], cond_shapes=each) for each in shapes)
    return all(HEADROOM * memory < free for memory in required)


@dataclass(frozen=True)
class Regrouped:
    """Rows as they can be evaluated beside others: each with its image, or in whole batches, and their places there."""

    rows: torch.Tensor
    images: list | None
    places: torch.Tensor | None


def regrouped(conds, rows, images, x):
    """Rows of images, a list [R], as conditions allow."""
    if separable(conds):
        return Regrouped(rows, images, None)
    rows, places = in_batches(rows, images, x)
    return Regrouped(rows, None, places)


def in_batches(rows, images, x):
    """Rows [R, ...] of `images` as whole batches [n * B, ...] with x in the gaps, and each row's place there.

    The places are None where they are 0, 1, 2 and so on, and there are no gaps.
    """
    counts, places = [0] * len(x), []
    for image in images:
        places.append(counts[image] * len(x) + image)
        counts[image] += 1
    batches = max(counts)
    if places == list(range(batches * len(x))):
        return rows, None
    places = on_device(places, x.device)
    return x.repeat(batches, *[1] * (x.ndim - 1)).index_copy(0, places, rows), places


def on_device(places, device):
    """A list of places as a tensor; as an index itself it would wait for the GPU."""
    return torch.tensor(places).to(device, non_blocking=True)


def levels(sigma, count):
    """sigma [B], whose rows are equal, for `count` rows."""
    return sigma[:count] if count <= len(sigma) else sigma[:1].repeat(count)
