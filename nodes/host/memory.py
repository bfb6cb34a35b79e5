"""What the patches of a network remember from evaluation to evaluation: caches, histories, counters."""

import collections
import functools
import operator
import types

import comfy.model_patcher
import torch
from comfy.patcher_extension import WrappersMP

from .compat import COMPILE_KEY, KEY

MOST = 4000  # objects that are looked at
# Whose objects are no patch's memory, or can neither be looked into nor put back.
OPAQUE = frozenset({
    "aiohttp", "app", "asyncio", "builtins", "comfy", "comfy_api", "concurrent", "ctypes", "execution", "folder_paths",
    "inspect", "io", "logging", "nodes", "numpy", "re", "server", "threading", "torch", "weakref",
})
NO_MEMORY = (torch.nn.Module, torch.Tensor, type, types.ModuleType, comfy.model_patcher.ModelPatcher)
PLAIN = (str, bytes, int, float, complex, bool, type(None))


def rooted_in(options, model):
    """The patches under model options, and the attributes that they may have given to the network."""
    transformer_options = options.get("transformer_options", {})
    roots = [options.get("model_function_wrapper")]
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
        for key, wrappers in transformer_options.get("wrappers", {}).get(kind, {}).items():
            roots += [] if key in (KEY, COMPILE_KEY) else wrappers
    roots += [value for key, value in transformer_options.items() if key not in ("wrappers", "callbacks")]
    network = getattr(model, "diffusion_model", None)
    return [*roots, Attributes(network)] if isinstance(network, torch.nn.Module) else roots


class Attributes:
    """The public attributes of a network that are neither weights nor parts of it."""

    def __init__(self, network):
        self.network = network

    def get(self):
        """Name -> value."""
        return {name: value for name, value in vars(self.network).items() if not name.startswith("_")}

    def put(self, attributes):
        """Makes them what they were."""
        own = vars(self.network)
        for name in self.get().keys() - attributes.keys():
            del own[name]
        own.update(attributes)


class Memory:
    """What the Python objects that are reached from `roots` hold at this moment; weights and modules are left out.

    Tensors are taken for unchanging: what is overwritten in place is not put back.
    """

    def __init__(self, roots):
        self._held = []  # (object, what it held)
        seen, waiting = set(), list(roots)
        while waiting and len(seen) < MOST:
            thing = waiting.pop()
            if isinstance(thing, (PLAIN, NO_MEMORY)) or id(thing) in seen:
                continue
            seen.add(id(thing))
            waiting += self._look_into(thing)

    def restore(self):
        """Gives every object what it held."""
        for thing, held in self._held:
            if isinstance(thing, types.CellType):
                thing.cell_contents = held
            elif isinstance(thing, Attributes):
                thing.put(held)
            elif isinstance(thing, list):
                thing[:] = held
            elif not _same(thing, held):
                thing.clear()
                (thing.extend if isinstance(thing, collections.deque) else thing.update)(held)

    def _look_into(self, thing):
        """Keeps what an object holds, and gives what to look into next."""
        if isinstance(thing, types.FunctionType):
            return [*(thing.__closure__ or ()), thing.__dict__, *(thing.__defaults__ or ())]
        if isinstance(thing, types.MethodType):
            return [thing.__self__, thing.__func__]
        if isinstance(thing, functools.partial):
            return [thing.func, thing.args, thing.keywords]
        if isinstance(thing, tuple):
            return thing
        if isinstance(thing, types.CellType):
            return self._keep(thing, _contents(thing))
        if isinstance(thing, Attributes):
            return self._keep(thing, thing.get())
        if isinstance(thing, (dict, list, set, collections.deque)):
            return self._keep(thing, thing.copy())
        if type(thing).__module__.partition(".")[0] in OPAQUE or not hasattr(thing, "__dict__"):
            return []
        return [vars(thing)]

    def _keep(self, thing, held):
        if held is thing:  # an empty cell
            return []
        self._held.append((thing, held))
        if isinstance(thing, types.CellType):
            return [held]
        return list(held.values()) if isinstance(held, dict) else list(held)


def _contents(cell):
    try:
        return cell.cell_contents
    except ValueError:  # nothing is in it yet
        return cell


def _same(one, other):
    """Whether two dicts, sets or deques hold the same objects."""
    if isinstance(one, set):
        return one == other
    if len(one) != len(other):
        return False
    if isinstance(one, dict):
        return all(key in other and other[key] is value for key, value in one.items())
    return all(map(operator.is_, one, other))
