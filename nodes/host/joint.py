"""Which images can be evaluated in one forward, by the conditions that belong to them and by the memory."""

import comfy.samplers
import torch

HEADROOM = 1.5  # over its estimate of the memory, which the host itself leaves when it makes a batch


def separable(conds):
    """Whether any images can well be evaluated together, in any number: nothing is one image's own."""
    return _regroupable(conds, lambda rows: rows == 1)


def repeatable(conds, batch):
    """Whether a batch can well be evaluated several times at once: what belongs to its images repeats with it."""
    return _regroupable(conds, lambda rows: batch % rows == 0)


def _regroupable(conds, fits):
    entries = entries_of(conds)
    rows = [
        len(tensor) for entry in entries for tensor in _tensors(entry)
        if isinstance(tensor, torch.Tensor) and tensor.ndim
    ]
    controlled = any(entry.get("control") is not None for entry in entries)
    return not controlled and all(map(fits, rows))


def entries_of(conds):
    """The entries of several conditions."""
    return [entry for cond in conds if cond is not None for entry in cond]


def active(conds, x, sigma):
    """Whether any condition applies at sigma; where none does, the host predicts zeros without asking the network."""
    return any(comfy.samplers.get_area_and_mult(entry, x, sigma) is not None for entry in entries_of(conds))


def _tensors(entry):
    tensors = [entry.get("mask")]
    for value in entry.get("model_conds", {}).values():
        tensors += value.cond if isinstance(value.cond, list) else [value.cond]
    return tensors


def fits(model, conds, x, rows):
    """Whether `rows` images like those of x fit into memory at once, by the host's own estimate."""
    free = model.current_patcher.get_free_memory(x.device)
    shapes = [
        {name: [[rows, *list(value.size())[1:]]] for name, value in entry.get("model_conds", {}).items()}
        for entry in entries_of(conds)
    ]
    required = (model.memory_required([rows, *x.shape[1:]], cond_shapes=each) for each in shapes)
    return all(HEADROOM * memory < free for memory in required)


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
