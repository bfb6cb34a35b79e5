"""The network's own predictions in a sampling run: those that the guider asked for, and those at other points."""

import contextlib
import dataclasses

import comfy.model_management
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP, get_all_wrappers, get_wrappers_with_key
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

ROUNDING = 4  # units of the network's precision between two batches with the same image in them
HEADROOM = 1.5  # over its estimate of the memory, which the host itself leaves when it makes a batch


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


@contextlib.contextmanager
def same_draws(device, state):
    """Evaluates with the random numbers that followed a state, and takes none of those that the sampler gets later."""
    now = random_state(device)
    set_random_state(device, state)
    try:
        yield
    finally:
        set_random_state(device, now)


class Coupling:
    """Whether the conditions of one evaluation reach each other's predictions, as some patches make them.

    Measured at the first evaluation with several conditions and a patch; from then on the others are evaluated only
    where they matter.
    """

    def __init__(self):
        self._found = None

    def evaluate(self, evaluated, x, sigma, model, options, base=None):
        """What `evaluated` is at another x, or of another model, whose conditions and draws it then holds.

        base: an x, and the model's prediction there with all the conditions.
        """
        index, draws = evaluated.index, evaluated.draws
        alone = [cond if place == index else None for place, cond in enumerate(evaluated.conds)]

        def ask(conds, x):
            with same_draws(x.device, draws):
                return comfy.samplers.calc_cond_batch(model, conds, x, _levels(sigma, len(x)), options)[index]

        if self._found is None and _may_couple(options) and sum(cond is not None for cond in evaluated.conds) > 1:
            at, together = base or (x, ask(evaluated.conds, x))
            self._found = _differ(ask(alone, at), together, at, model.get_dtype_inference())
            if base is None:
                return together
        return ask(evaluated.conds if self._found else alone, x)


def _levels(sigma, count):
    """sigma [B], whose rows are equal, for `count` rows."""
    return sigma[:count] if count <= len(sigma) else sigma[:1].repeat(count)


def _may_couple(options):
    transformer_options = options.get("transformer_options", {})
    patched = any(transformer_options.get(kind) for kind in ("patches", "patches_replace"))
    wrapped = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
    return patched or bool(wrapped) or "model_function_wrapper" in options


def _differ(one, other, x, dtype):
    tolerance = max(ROUNDING * torch.finfo(dtype).eps, 1e-5)
    error, size = (
        torch.linalg.vector_norm(difference.float().flatten(1), dim=1) for difference in (one - other, x - other)
    )
    return bool((error > tolerance * size).any())


def separable(conds, options):
    """Whether some images of a batch can well be evaluated without the others: nothing is one image's own."""
    return _regroupable(conds, options, lambda rows: rows == 1)


def repeatable(conds, options, batch):
    """Whether a batch can well be evaluated several times at once: what belongs to its images repeats with it."""
    return _regroupable(conds, options, lambda rows: batch % rows == 0)


def _regroupable(conds, options, fits):
    """A compiled network would be compiled anew for each number of images."""
    compiled = get_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY, options, is_model_options=True)
    rows = [
        len(tensor) for entry in _entries(conds) for tensor in _tensors(entry)
        if isinstance(tensor, torch.Tensor) and tensor.ndim
    ]
    controlled = any(entry.get("control") is not None for entry in _entries(conds))
    return not compiled and not controlled and not _may_couple(options) and all(map(fits, rows))


def _entries(conds):
    return [entry for cond in conds if cond is not None for entry in cond]


def _tensors(entry):
    tensors = [entry.get("mask")]
    for value in entry.get("model_conds", {}).values():
        tensors += value.cond if isinstance(value.cond, list) else [value.cond]
    return tensors


def _fits(model, conds, x, rows):
    """Whether `rows` images like those of x fit into memory at once, by the host's own estimate."""
    free = model.current_patcher.get_free_memory(x.device)
    shapes = [
        {name: [[rows, *list(value.size())[1:]]] for name, value in entry.get("model_conds", {}).items()}
        for entry in _entries(conds)
    ]
    required = (model.memory_required([rows, *x.shape[1:]], cond_shapes=each) for each in shapes)
    return all(HEADROOM * memory < free for memory in required)


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A condition's prediction: its place among the conditions that were evaluated at once, and the draws before."""

    conds: list
    index: int
    denoised: torch.Tensor | None
    draws: tuple

    @property
    def cond(self):
        """The condition."""
        return self.conds[self.index]


@dataclasses.dataclass(frozen=True)
class Points:
    """Where else the network is to be asked: x, [points * B, ...], and for which images of the batch.

    images: their places; chosen: a boolean [B] of the same on the device of x, None where it is all of them.
    """

    x: torch.Tensor
    images: list
    chosen: torch.Tensor | None = None

    def places(self):
        """The images on the device of x; a list as an index would wait for the GPU."""
        return torch.tensor(self.images).to(self.x.device, non_blocking=True)


class RawPredictions:
    """The conditional predictions of the evaluation under way, before any pack's pre-CFG or post-CFG edits.

    Two wrappers fill it: `evaluation` around one call of the guider, `batch` around the host's batch evaluation. Only
    calls at the evaluation's own x count, and of these the first for each condition: what other guidance evaluates
    there afterwards, with patched attention, is another model.

    companions: functions of the arguments of a post-CFG function, as far as they are known by then, that give the
    Points which will be asked for, or None. Where a single condition is evaluated, no patch may couple what is in a
    batch, and the host's estimate of the memory allows, these are evaluated with x in one forward.
    """

    def __init__(self):
        self.companions = []
        self._coupling = Coupling()
        self._crowded = False
        self._clear()

    def _clear(self):
        self._guider, self._asked, self._x, self._found, self._beside = None, None, None, [], []

    def evaluation(self, executor, x, *args, **kwargs):
        """PREDICT_NOISE wrapper."""
        self._guider, self._asked = executor.class_obj, x
        try:
            return executor(x, *args, **kwargs)
        finally:
            self._clear()

    def batch(self, executor, model, conds, x, sigma, options):
        """CALC_COND_BATCH wrapper."""
        if self._x is not None and self._x is not x:
            return executor(model, conds, x, sigma, options)
        first, self._x = self._x is None, x
        conds, draws = list(conds), random_state(x.device)
        outputs = None
        if first and x is self._asked and self.companions:
            outputs = self._in_memory(self._joint, executor, model, conds, x, sigma, options)
        if outputs is None:
            outputs = executor(model, conds, x, sigma, options)
        if self._x is x:
            found = [Evaluated(conds, index, output, draws) for index, output in enumerate(outputs)]
            self._found += [entry for entry in found if self._get(entry.cond) is None]
        return outputs

    def _joint(self, executor, model, conds, x, sigma, options):
        """The outputs at x, with what the companions ask for evaluated in the same forward, or None where it cannot be.

        Other wrappers of the batch evaluation may not expect more rows than x has.
        """
        given = [index for index, cond in enumerate(conds) if cond is not None]
        if len(given) != 1 or not self._may_join(conds, conds[given[0]], options, len(x)):
            return None
        args = {"model": model, "input": x, "sigma": sigma, "model_options": options}
        asked = [points for points in (companion(args) for companion in self.companions) if points is not None]
        parts = [x, *(self._rows(points, conds, options, len(x)) for points in asked)]
        count = sum(map(len, parts))
        if not asked or not _fits(model, conds, x, count):
            return None
        outputs = executor(model, conds, torch.cat(parts), _levels(sigma, count), options)
        _, *predictions = outputs[given[0]].split([len(part) for part in parts])
        self._beside = [(conds[given[0]], points, found) for points, found in zip(asked, predictions)]
        return [output[: len(x)] for output in outputs]

    def _may_join(self, conds, cond, options, batch):
        positive = self._guider.conds.get("positive", cond)
        wrappers = get_all_wrappers(WrappersMP.CALC_COND_BATCH, options, is_model_options=True)
        alone = len(wrappers) == 1 and "multigpu_clones" not in options
        return alone and not self._crowded and cond is positive and self._repeatable(conds, options, batch)

    def _in_memory(self, function, *args):
        """What the function gives, or None where memory ran out; then nothing is joined for the rest of the run."""
        try:
            return function(*args)
        except Exception as error:
            if not comfy.model_management.is_oom(error):
                raise
        # Outside the handler, whose traceback would keep the evaluation's tensors alive.
        comfy.model_management.soft_empty_cache()
        self._crowded = True
        return None

    def _rows(self, points, conds, options, batch):
        """Those of the points that are evaluated: of the images asked for, or of all where they belong together."""
        if len(points.images) == batch or self._tied() or not separable(conds, options):
            return points.x
        return points.x.unflatten(0, (-1, batch)).index_select(1, points.places()).flatten(0, 1)

    def main(self, args):
        """The main condition as it was evaluated at x, from the arguments of a post-CFG function.

        The positive condition where the guider has evaluated one, else what the host calls cond. Evaluated once more
        where the host gave it in pieces, as context windows do.
        """
        positive = self._guider.conds.get("positive") if self._guider is not None else None
        cond = positive if self._get(positive) is not None or args["cond"] is None else args["cond"]
        if self._x is not args["input"]:
            self._x, self._found = args["input"], []
        found = self._get(cond)
        if found is None:
            unknown = Evaluated([cond], 0, None, random_state(args["input"].device))
            found = dataclasses.replace(unknown, denoised=self._evaluate(args, unknown, args["input"]))
            self._found.append(found)
        return found

    def elsewhere(self, args, main, points):
        """The main condition's predictions at Points, [points * B, ...], by the network that made `main`.

        Those of images that were not asked for may be as in `main`.
        """
        batch = len(main.denoised)
        found = next((found for cond, at, found in self._beside if at is points and cond is main.cond), None)
        if found is None:
            found = self._ask(args, main, self._rows(points, main.conds, args["model_options"], batch))
        if len(found) == len(points.x):
            return found
        found = found.unflatten(0, (-1, len(points.images)))  # [points, images, ...]
        predictions = main.denoised.expand(len(found), *main.denoised.shape)
        return predictions.index_copy(1, points.places(), found).flatten(0, 1)

    def _ask(self, args, main, rows):
        """The predictions at some rows: at once where that is exact and fits into memory, else no more than a batch."""
        x, options = args["input"], args["model_options"]
        together = self._repeatable(main.conds, options, len(x)) and _fits(args["model"], [main.cond], x, len(rows))
        base = (x, main.denoised)
        parts = [rows] if together and not self._crowded else rows.split(len(x))
        return torch.cat([self._evaluate(args, main, part, base) for part in parts])

    def _repeatable(self, conds, options, batch):
        return not self._tied() and repeatable(conds, options, batch)

    def _tied(self):
        """Whether something is built into the network that may count on the batch, as motion modules on its frames."""
        return self._guider is not None and bool(self._guider.model_patcher.injections)

    def _evaluate(self, args, evaluated, x, base=None):
        return self._coupling.evaluate(evaluated, x, args["sigma"], args["model"], args["model_options"], base)

    def _get(self, cond):
        return next((entry for entry in self._found if cond is not None and entry.cond is cond), None)
