"""Whether the model is asked twice about the same."""

import weakref

import torch

SAMPLES = 64  # values of x that are kept


class LastCall:
    """Where the last evaluation was: x and sigma, known by the objects themselves and by a few values of x."""

    def __init__(self, x=None, sigma=None):
        self._objects = tuple(weakref.ref(thing) for thing in (x, sigma) if thing is not None)
        self._values = None if x is None else _some(x)

    def is_at(self, x, sigma):
        """Whether this x at this sigma was the last; a sampler may have overwritten it since."""
        here = len(self._objects) == 2 and all(known() is thing for known, thing in zip(self._objects, (x, sigma)))
        return here and bool((self._values == _some(x)).all())


def _some(x):
    """The bits of some values, as integers: what is not a number is the same where it has not changed."""
    values = x.reshape(-1)
    return values[:: max(1, len(values) // SAMPLES)].clone().view(torch.uint8)
