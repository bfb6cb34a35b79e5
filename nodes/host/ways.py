"""The ways to ask the network at other points than the sample, and which of them are right."""

import dataclasses
import logging

import comfy.model_management
import comfy.samplers
import torch

from .blocks import Blocks
from .compat import compiled, patched, tied
from .devices import can_spread, spread, spread_out
from .evaluated import UnansweredError
from .joint import active, fits, in_batches, levels, of_images, on_device, regrouped, repeatable, separable
from .trust import ALONE, BESIDE, SAMPLED, TOGETHER, agree, checking, made_up

log = logging.getLogger(__name__)

CACHED = "a cache or a forecast answered in place of the network; remove one of the two, or use LazyCache"
REMEMBERS = "a patch of another pack remembers what it was asked, and a probe would change the picture; remove one"
MADE_UP = "what answered in place of the network makes its answers up; remove one of the two"
WRONG = {
    BESIDE: "This model answers for the sample differently when a probe is beside it",
    TOGETHER: "This model answers differently in a batch of another size",
    ALONE: "The conditions of this model reach each other",
    SAMPLED: "This model does not answer twice",
}


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to evaluate rows: which conditions are evaluated, in which forwards, and where the rows lie in them.

    images: the image of each row of a single forward, None where the forwards are whole batches; spread: whether the
    forwards are conditions of one evaluation, which the host spreads over devices.
    """

    name: str
    conds: list
    forwards: list
    places: torch.Tensor | None = None
    images: list | None = None
    spread: bool = False

    def with_sample(self, x):
        """The same way for its first forward and, last, the sample: together, or alone where it takes a batch."""
        if self.spread:
            return dataclasses.replace(self, forwards=[self.forwards[0], x], places=None)
        if self.name != TOGETHER:
            return dataclasses.replace(self, forwards=[x], places=None)
        images = None if self.images is None else [*self.images, *range(len(x))]
        return dataclasses.replace(self, forwards=[torch.cat([self.forwards[0], x])], places=None, images=images)


class Ways:
    """Asks the network at other points, in the fastest way that is known to be right.

    Nothing is taken for granted: each way that is not the sampler's own is first compared with it, by one evaluation
    more, and `trust` keeps what was found. What a patch remembers is put back after each evaluation.
    """

    def __init__(self, trust):
        self.trust = trust
        self.blocks = Blocks()
        self.compiled = None  # whether the network is; not known before the first evaluation
        self.memory_is_short = False
        self.patcher = None  # of the guider whose evaluation is under way

    def begin(self, model, options):
        """The first evaluation of a run is about to be made."""
        if self.compiled is None:
            self.compiled = compiled(model, options)
            if not self.compiled and not spread_out(options):  # a hook would compile the block anew
                self.blocks.watch(model.diffusion_model)

    def regroups(self, conds, options, batch):
        """Whether other numbers of images than the sampler's may be evaluated at once."""
        return self._is_free(options) and (separable(conds) or repeatable(conds, batch))

    def spreads(self, conds, options):
        """Whether batches of other points may be conditions of one evaluation."""
        return spread_out(options) and self._is_free(options) and can_spread(conds, options)

    def _is_free(self, options):
        return not self.compiled and not patched(options) and not (self.patcher is not None and tied(self.patcher))

    def tried(self, way, verdicts, function, *args):
        """What the function gives, or None where it fails: that way is not tried again with this model.

        Where memory ran out for probes alone, it is for the run to try again.
        """
        try:
            return function(*args)
        except UnansweredError:
            raise
        except Exception as error:
            out_of_memory, reason = comfy.model_management.is_oom(error), str(error)
            if out_of_memory and way != BESIDE:
                raise
        # Outside the handler, whose traceback would keep the evaluation's tensors alive.
        if out_of_memory:
            comfy.model_management.soft_empty_cache()
            self.memory_is_short = True
        else:
            verdicts |= {way: False} | ({TOGETHER: False} if way == BESIDE else {})
            log.info("%s (%s); guidance asks it the slower way.", WRONG[way], reason)
        return None

    def note(self, way, verdicts, same):
        """Keeps what was measured; None is nothing. What is right for more rows is right for the sampler's own."""
        if same is None:
            return
        verdicts |= {way: same} | ({TOGETHER: same} if way == BESIDE else {})
        if same and way == TOGETHER:
            verdicts[ALONE] = True
        elif not same:
            log.info("%s; guidance asks it the slower way.", WRONG[way])

    def ask(self, args, main, rows, images):
        """The predictions of `main`'s condition at rows of images, by the network that made `main`."""
        x, options = args["input"], args["model_options"]
        forwards = main.forwards if main.several else None
        verdicts = self.trust.verdicts(args["model"], main.conds, options, len(x), forwards)
        for way in self._ways(args, main, rows, images):
            measured = self._is_right(args, main, way, verdicts)
            answer = self._by(args, main, way, verdicts) if measured is not None else None
            if answer is None:
                continue
            if measured or patched(options):
                dtype = args["model"].get_dtype_inference()
                if made_up(answer, _of(images, main.denoised), rows, _of(images, x), dtype):
                    raise UnansweredError(MADE_UP)
            return answer
        raise UnansweredError(REMEMBERS)

    def _ways(self, args, main, rows, images):
        """Ways to evaluate rows, the fastest first; the last is as the sampler evaluates."""
        model, x, options = args["model"], args["input"], args["model_options"]
        whole, places = in_batches(rows, images, x)
        batches = whole.split(len(x))
        if len(batches) > 1 and self.spreads(main.alone, options):
            yield Way(TOGETHER, main.alone, batches, places, spread=True)
        elif places is not None or len(batches) > 1:
            together = regrouped(main.alone, rows, images, x)
            fitting = not self.memory_is_short and self.regroups(main.alone, options, len(x))
            if fitting and fits(model, [main.cond], x, len(together.rows)):
                yield Way(TOGETHER, main.alone, [together.rows], together.places, together.images)
        if main.several and not self.compiled:
            yield Way(ALONE, main.alone, batches, places)
        yield Way(SAMPLED, main.conds, batches, places)

    def _is_right(self, args, main, way, verdicts):
        """Whether the way was measured here, None where it is known to be wrong."""
        if way.name in verdicts:
            return False if verdicts[way.name] else None
        if self.compiled or (way.name == SAMPLED and not patched(args["model_options"])):
            return False
        x = args["input"]
        asked = self._evaluate, args, main, way.with_sample(x), checking(args["model_options"])
        answer = asked[0](*asked[1:]) if way.name == SAMPLED else self.tried(way.name, verdicts, *asked)
        if answer is None:
            return None
        same = agree(answer[-len(x) :], main.denoised, x, args["model"].get_dtype_inference())
        self.note(way.name, verdicts, same)
        if same is False and way.name == TOGETHER and main.several:
            verdicts[ALONE] = False  # which of the two is wrong would take one more evaluation to know
        return None if same is False else True

    def _by(self, args, main, way, verdicts):
        asked = self._evaluate, args, main, way, args["model_options"]
        answer = asked[0](*asked[1:]) if way.name == SAMPLED else self.tried(way.name, verdicts, *asked)
        return answer if answer is None else picked(answer, way.places)

    def _evaluate(self, args, main, way, options):
        if way.spread:
            first, *others = way.forwards
            return torch.cat(self.evaluate(args, main, way.conds, first, options, others))
        conds = way.conds if way.images is None else of_images(way.conds, way.images)
        return torch.cat([self.evaluate(args, main, conds, part, options)[0] for part in way.forwards])

    def evaluate(self, args, main, conds, x, options, others=()):
        """The predictions of `main`'s condition at x, and at other batches that are evaluated at once with it."""
        model, sigma = args["model"], levels(args["sigma"], len(x))
        self.blocks.begin()
        with main.before.restored():
            if others:
                calc_cond_batch = comfy.samplers.calc_cond_batch
                outputs, more = spread(calc_cond_batch, model, conds, main.index, others, x, sigma, options)
            else:
                outputs, more = comfy.samplers.calc_cond_batch(model, conds, x, sigma, options), []
        if not self.blocks.all_ran() and active(conds, x, args["sigma"]):
            raise UnansweredError(CACHED)
        return [outputs[main.index], *more]


def picked(answer, places):
    """The answers at places, all where they are None."""
    return answer if places is None else answer.index_select(0, places)


def _of(images, values):
    """Values [B, ...] of the image of each row."""
    return values if images == list(range(len(values))) else values.index_select(0, on_device(images, values.device))
