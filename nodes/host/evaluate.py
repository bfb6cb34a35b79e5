"""The network's own predictions in a sampling run: those that the guider asked for, and those at other points."""

import dataclasses
import logging

import comfy.model_management
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP, get_all_wrappers

from .blocks import Blocks
from .compat import compiled, patched, spread_out, tied
from .joint import active, fits, in_batches, levels, on_device, repeatable, separable
from .places import Place
from .rng import Moment
from .trust import Trust, agree, checking, made_up

log = logging.getLogger(__name__)

CACHED = "a cache or a forecast answered in place of the network; remove one of the two, or use LazyCache"
REMEMBERS = "a patch of another pack remembers what it was asked, and a probe would change the picture; remove one"
MADE_UP = "what answered in place of the network makes its answers up; remove one of the two"
SAID = {
    "joint": "This model answers for the sample differently when a probe is beside it",
    "several": "This model answers differently in a batch of another size",
    "whole": "The conditions of this model reach each other",
    "beside": "This model does not answer twice",
}


class UnansweredError(Exception):
    """An evaluation was not the network's own; the message is the end of a sentence."""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A condition's prediction: its place among the conditions that were evaluated at once, and the moment before.

    answered: whether the network itself made it; forwards: in how many all conditions were evaluated.
    """

    conds: list
    index: int
    denoised: torch.Tensor | None
    before: Moment
    answered: bool = True
    forwards: int = 0

    @property
    def cond(self):
        """The condition."""
        return self.conds[self.index]

    @property
    def alone(self):
        """The conditions with None for all others."""
        return [cond if place == self.index else None for place, cond in enumerate(self.conds)]

    @property
    def several(self):
        """Whether there are others."""
        return sum(cond is not None for cond in self.conds) > 1


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to evaluate rows: which conditions are evaluated, in which forwards, and where the rows lie in them."""

    name: str
    conds: list
    forwards: list
    places: torch.Tensor | None = None


class RawPredictions:
    """The conditional predictions of the evaluation under way, before any pack's pre-CFG or post-CFG edits.

    Two wrappers fill it: `evaluation` around one call of the guider, `batch` around the host's batch evaluation. Only
    calls at the evaluation's own x count, and of these the first for each condition: what other guidance evaluates
    there afterwards, with patched attention, is another model.

    companions: functions of the arguments of a post-CFG function, as far as they are known by then, that give the
    Points which will be asked for, or None. Where a single condition is evaluated, no patch may couple what is in a
    batch, and the host's estimate of the memory allows, these are evaluated with x in one forward.

    Nothing is taken for granted: each way that is not the sampler's own is first compared with it, by one evaluation
    more, and `trust` keeps what was found. What a patch remembers is put back after each evaluation.
    """

    def __init__(self, trust=None):
        self.companions = []
        self._trust = Trust() if trust is None else trust
        self._blocks = Blocks()
        self._static = None  # whether the network is compiled
        self._crowded = False
        self._last = Place()
        self._clear()

    def _clear(self):
        self._guider, self._asked, self._x, self._found, self._beside = None, None, None, [], []

    def end(self):
        """The run is over."""
        self._blocks.forget()

    def evaluation(self, executor, x, sigma, *args, **kwargs):
        """PREDICT_NOISE wrapper."""
        self._guider, self._asked = executor.class_obj, x
        try:
            return executor(x, sigma, *args, **kwargs)
        finally:
            self._last = Place(x, sigma)
            self._clear()

    def batch(self, executor, model, conds, x, sigma, options):
        """CALC_COND_BATCH wrapper."""
        if self._x is not None and self._x is not x:
            return executor(model, conds, x, sigma, options)
        first, self._x = self._x is None, x
        self._begin(model, options)
        conds, before, outputs = list(conds), Moment.before(x, model, options), None
        if first and x is self._asked and self.companions and not self._last.same(x, sigma):
            outputs = self._joint(executor, model, conds, x, sigma, options, before)
        if outputs is None:
            self._blocks.begin()
            outputs = executor(model, conds, x, sigma, options)
        how = self._blocks.all_ran() or not active(conds, x, sigma), self._blocks.forwards()
        if self._x is x:
            found = [Evaluated(conds, index, output, before, *how) for index, output in enumerate(outputs)]
            self._found += [entry for entry in found if self._get(entry.cond) is None]
        return outputs

    def _begin(self, model, options):
        if self._static is None:
            self._static = compiled(model, options)
            if not self._static and not spread_out(options):  # a hook would compile the block anew
                self._blocks.watch(model.diffusion_model)

    def _joint(self, executor, model, conds, x, sigma, options, before):
        """The outputs at x, with what the companions ask for evaluated in the same forward, or None where it cannot be.

        Other wrappers of the batch evaluation may not expect more rows than x has. x comes last: what is made for the
        first image of a batch alone is found so.
        """
        given = [index for index, cond in enumerate(conds) if cond is not None]
        if len(given) != 1 or not self._may_join(model, conds, conds[given[0]], options, len(x)):
            return None
        verdicts = self._trust.verdicts(model, conds, options, len(x))
        args = {"model": model, "input": x, "sigma": sigma, "model_options": options, "cond": conds[given[0]]}
        asked = [points for points in (companion(args) for companion in self.companions) if points is not None]
        rows = [self._regrouped(conds, points.x, points.images, x) for points in asked]
        count = len(x) + sum(len(part) for part, _ in rows)
        if not asked or verdicts.get("joint") is False or not fits(model, conds, x, count):
            return None
        self._blocks.begin()
        together = torch.cat([*(part for part, _ in rows), x])
        outputs = self._tried("joint", verdicts, executor, model, conds, together, levels(sigma, count), options)
        if outputs is None:
            return None
        own = [output[-len(x) :] for output in outputs]
        if not self._blocks.all_ran():
            return own  # which `batch` will see, too
        if "joint" not in verdicts:
            with before.again():
                alone = executor(model, conds, x, sigma, checking(options))
            same = agree(own[given[0]], alone[given[0]], x, model.get_dtype_inference())
            self._note("joint", verdicts, same)
            if same is False:
                return alone
        parts = outputs[given[0]].split([*(len(part) for part, _ in rows), len(x)])
        self._beside = [(conds[given[0]], points, _picked(*each)) for points, *each in zip(
            asked, parts, (places for _, places in rows)
        )]
        return own

    def _may_join(self, model, conds, cond, options, batch):
        positive = self._guider.conds.get("positive", cond)
        wrappers = get_all_wrappers(WrappersMP.CALC_COND_BATCH, options, is_model_options=True)
        alone = len(wrappers) == 1 and not spread_out(options)
        return alone and not self._crowded and cond is positive and self._regroups(conds, options, batch)

    def _regroups(self, conds, options, batch):
        """Whether other numbers of images than the sampler's may be evaluated at once."""
        free = not self._static and not patched(options) and not self._tied()
        return free and repeatable(conds, batch)

    def _regrouped(self, conds, rows, images, x):
        """Rows as they can be evaluated beside others: as they are, or as whole batches; and their places there."""
        return (rows, None) if separable(conds) else in_batches(rows, images, x)

    def _tied(self):
        return self._guider is not None and tied(self._guider.model_patcher)

    def _tried(self, way, verdicts, function, *args):
        """What the function gives, or None where it fails: that way is not tried again with this model.

        Where memory ran out for probes alone, it is for the run to try again.
        """
        try:
            return function(*args)
        except UnansweredError:
            raise
        except Exception as error:
            crowded, reason = comfy.model_management.is_oom(error), str(error)
            if crowded and way != "joint":
                raise
        # Outside the handler, whose traceback would keep the evaluation's tensors alive.
        if crowded:
            comfy.model_management.soft_empty_cache()
            self._crowded = True
        else:
            verdicts |= {way: False} | ({"several": False} if way == "joint" else {})
            log.info("%s (%s); guidance asks it the slower way.", SAID[way], reason)
        return None

    def _note(self, way, verdicts, same):
        """Keeps what was measured; None is nothing. What is right for more rows is right for the sampler's own."""
        if same is None:
            return
        verdicts |= {"joint": {"joint": same, "several": same}, "several": {"several": same}}.get(way, {way: same})
        if same and way != "beside":
            verdicts["whole"] = True
        elif not same:
            log.info("%s; guidance asks it the slower way.", SAID[way])

    def main_cond(self, args):
        """The condition of `main` as the host prepared it, also before anything is evaluated."""
        positive = self._guider.conds.get("positive") if self._guider is not None else None
        return args.get("cond") if positive is None else positive

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
            before = Moment.before(args["input"], args["model"], args["model_options"])
            unknown = Evaluated([cond], 0, None, before)
            found = dataclasses.replace(unknown, denoised=self._evaluate(args, unknown, [cond], args["input"]))
            self._found.append(found)
        return found

    def elsewhere(self, args, main, points):
        """The main condition's predictions at Points, by the network that made `main`; maybe several times a call."""
        if not main.answered:
            raise UnansweredError(CACHED)
        beside = (found for cond, at, found in self._beside if at is points and cond is main.cond)
        found = next(beside, None)
        return self._ask(args, main, points.x, points.images) if found is None else found

    def _ask(self, args, main, rows, images):
        """The predictions at rows, in the fastest way that is known to be right."""
        x, options = args["input"], args["model_options"]
        forwards = main.forwards if main.several else None
        verdicts = self._trust.verdicts(args["model"], main.conds, options, len(x), forwards)
        for way in self._ways(args, main, rows, images):
            measured = self._is_right(args, main, way, verdicts)
            found = self._by(args, main, way, verdicts) if measured is not None else None
            if found is None:
                continue
            if measured or patched(options):
                dtype = args["model"].get_dtype_inference()
                if made_up(found, _of(images, main.denoised), rows, _of(images, x), dtype):
                    raise UnansweredError(MADE_UP)
            return found
        raise UnansweredError(REMEMBERS)

    def _ways(self, args, main, rows, images):
        """Ways to evaluate rows, the fastest first; the last is as the sampler evaluates."""
        model, x, options = args["model"], args["input"], args["model_options"]
        whole, places = in_batches(rows, images, x)
        if places is not None or len(whole) != len(x):
            together, there = self._regrouped(main.alone, rows, images, x)
            fitting = not self._crowded and self._regroups(main.alone, options, len(x))
            if fitting and fits(model, [main.cond], x, len(together)):
                yield Way("several", main.alone, [together], there)
        if not main.several:
            yield Way("beside", main.conds, whole.split(len(x)), places)
            return
        if not self._static:
            yield Way("whole", main.alone, whole.split(len(x)), places)
        yield Way("beside", main.conds, whole.split(len(x)), places)

    def _is_right(self, args, main, way, verdicts):
        """Whether the way was measured here, None where it is known to be wrong."""
        if way.name in verdicts:
            return False if verdicts[way.name] else None
        if self._static or (way.name == "beside" and not patched(args["model_options"])):
            return False
        x = args["input"]
        rows = torch.cat([way.forwards[0], x]) if way.name == "several" else x
        asked = self._evaluate, args, main, way.conds, rows, True
        found = asked[0](*asked[1:]) if way.name == "beside" else self._tried(way.name, verdicts, *asked)
        if found is None:
            return None
        same = agree(found[-len(x) :], main.denoised, x, args["model"].get_dtype_inference())
        self._note(way.name, verdicts, same)
        if same is False and way.name == "several" and main.several:
            verdicts["whole"] = False  # which of the two is wrong would take one more evaluation to know
        return None if same is False else True

    def _by(self, args, main, way, verdicts):
        def evaluate():
            return torch.cat([self._evaluate(args, main, way.conds, part) for part in way.forwards])

        safe = way.name == "beside"
        found = evaluate() if safe else self._tried(way.name, verdicts, evaluate)
        return found if found is None else _picked(found, way.places)

    def _evaluate(self, args, main, conds, x, check=False):
        options = checking(args["model_options"]) if check else args["model_options"]
        self._blocks.begin()
        with main.before.again():
            outputs = comfy.samplers.calc_cond_batch(args["model"], conds, x, levels(args["sigma"], len(x)), options)
        if not self._blocks.all_ran() and active(conds, x, args["sigma"]):
            raise UnansweredError(CACHED)
        return outputs[main.index]

    def _get(self, cond):
        return next((entry for entry in self._found if cond is not None and entry.cond is cond), None)


def _picked(found, places):
    return found if places is None else found.index_select(0, places)


def _of(images, values):
    """Values [B, ...] of the image of each row."""
    return values if images == list(range(len(values))) else values.index_select(0, on_device(images, values.device))
