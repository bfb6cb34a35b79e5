"""Which blocks of a network run: a cache or a forecast that answers in their place is known by those it leaves out."""

import collections

import torch


class Blocks:
    """Counts the blocks that an evaluation runs, by hooks for the time of a sampling run.

    Blocks are what the network itself keeps in lists; of sequences, whose layers a UNet calls one by one, the layers.
    Fewer of them than before is an answer from somewhere else.
    """

    def __init__(self):
        self._hooks = []
        self._ran = collections.Counter()
        self._most = 0

    def watch(self, network):
        """Begins to count."""
        lists = [part for part in network.children() if isinstance(part, torch.nn.ModuleList)]
        for block in (block for blocks in lists for block in blocks):
            layers = block if isinstance(block, torch.nn.Sequential) else [block]
            self._hooks += [layer.register_forward_pre_hook(self._note) for layer in layers]

    def forget(self):
        """Takes the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def begin(self):
        """An evaluation begins."""
        self._ran.clear()

    def all_ran(self):
        """Whether the evaluation that ends here ran as many blocks as any before."""
        self._most = max(self._most, len(self._ran))
        return len(self._ran) == self._most

    def forwards(self):
        """In how many forwards, 0 where no block is known."""
        return max(self._ran.values(), default=0)

    def _note(self, block, *_):
        self._ran[id(block)] += 1
