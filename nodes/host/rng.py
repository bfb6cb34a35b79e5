"""The moment before an evaluation: what generators and patches held, so that another evaluation can begin there."""

import contextlib
import dataclasses

import torch

from .memory import Memory, rooted_in


def random_state(device):
    """State of the generators from which patches of a network on `device` may draw."""
    own = getattr(torch, device.type, None)
    return torch.get_rng_state(), own.get_rng_state() if hasattr(own, "get_rng_state") else None


def set_random_state(device, state):
    """Gives the generators the state that `random_state` took."""
    general, own = state
    torch.set_rng_state(general)
    if own is not None:
        getattr(torch, device.type).set_rng_state(own)


@dataclasses.dataclass(frozen=True)
class Moment:
    """What the generators would draw next, and what the patches of a network remembered."""

    device: torch.device
    roots: list
    draws: tuple
    memory: Memory

    @classmethod
    def now(cls, device, roots):
        """The present, of generators for `device` and patches reached from `roots`."""
        return cls(device, roots, random_state(device), Memory(roots))

    @classmethod
    def before(cls, x, model, options):
        """The present, before an evaluation of the model at x under model options."""
        return cls.now(x.device, rooted_in(options, model))

    def restore(self):
        """Makes it the present."""
        set_random_state(self.device, self.draws)
        self.memory.restore()

    @contextlib.contextmanager
    def restored(self):
        """Evaluates as if it were this moment; the sampler's next evaluation is then what it would have been."""
        now = Moment.now(self.device, self.roots)
        self.restore()
        try:
            yield
        finally:
            now.restore()
