"""The network's own predictions in a sampling run: those that the guider asked for, and those at other points."""

import dataclasses

import torch
from comfy.patcher_extension import WrappersMP, get_all_wrappers

from .devices import spread, spread_out
from .evaluated import Evaluated, UnansweredError
from .joint import active, fits, in_batches, levels, of_images, regrouped
from .last_call import LastCall
from .rng import Moment
from .trust import BESIDE, Trust, agree, checking
from .ways import CACHED, Ways, picked


class RawPredictions:
    """The conditional predictions of the evaluation under way, before any pack's pre-CFG or post-CFG edits.

    Two wrappers fill it: `evaluation` around one call of the guider, `batch` around the host's batch evaluation. Only
    calls at the evaluation's own x count, and of these the first for each condition: what other guidance evaluates
    there afterwards, with patched attention, is another model.

    companions: functions of the arguments of a post-CFG function, as far as they are known by then, that give the
    Points which will be asked for, or None. Where a single condition is evaluated, no patch may couple what is in a
    batch, and the host's estimate of the memory allows, these are evaluated with x in one forward. Where the host has
    several devices, they are evaluated on these at once, beside any number of conditions.
    """

    def __init__(self, trust=None):
        self.companions = []
        self._ways = Ways(Trust() if trust is None else trust)
        self._last_call = LastCall()
        self._clear()

    def _clear(self):
        self._guider, self._guider_x, self._x, self._evaluated, self._answers = None, None, None, [], []

    def end(self):
        """The run is over."""
        self._ways.blocks.forget()

    def evaluation(self, executor, x, sigma, *args, **kwargs):
        """PREDICT_NOISE wrapper."""
        self._guider, self._guider_x = executor.class_obj, x
        self._ways.patcher = self._guider.model_patcher
        try:
            return executor(x, sigma, *args, **kwargs)
        finally:
            self._last_call = LastCall(x, sigma)
            self._clear()

    def batch(self, executor, model, conds, x, sigma, options):
        """CALC_COND_BATCH wrapper."""
        if self._x is not None and self._x is not x:
            return executor(model, conds, x, sigma, options)
        first, self._x = self._x is None, x
        self._ways.begin(model, options)
        blocks, conds, outputs = self._ways.blocks, list(conds), None
        before = Moment.before(x, model, options)
        if first and x is self._guider_x and self.companions and not self._last_call.is_at(x, sigma):
            outputs = self._with_companions(executor, model, conds, x, sigma, options, before)
        if outputs is None:
            blocks.begin()
            outputs = executor(model, conds, x, sigma, options)
        how = blocks.all_ran() or not active(conds, x, sigma), blocks.forwards()
        if self._x is x:
            made = [Evaluated(conds, index, output, before, *how) for index, output in enumerate(outputs)]
            self._evaluated += [entry for entry in made if self._get(entry.cond) is None]
        return outputs

    def _with_companions(self, executor, model, conds, x, sigma, options, before):
        """The outputs at x, with what the companions ask for evaluated at once, or None where it cannot be.

        Other wrappers of the batch evaluation may not expect more rows, or more conditions, than there are.
        """
        index = self._main_index(conds)
        if index is None or not self._may_join(conds, options, len(x)):
            return None
        ways, verdicts = self._ways, self._ways.trust.verdicts(model, conds, options, len(x))
        args = {"model": model, "input": x, "sigma": sigma, "model_options": options, "cond": conds[index]}
        asked = [points for points in (companion(args) for companion in self.companions) if points is not None]
        if not asked or verdicts.get(BESIDE) is False:
            return None
        at_once = _on_devices if spread_out(options) else _in_one_forward
        ways.blocks.begin()
        made = ways.tried(BESIDE, verdicts, at_once, executor, model, conds, index, x, sigma, options, asked)
        if made is None:
            return None
        own, answers = made
        if not ways.blocks.all_ran():
            return own  # which `batch` will see, too
        if BESIDE not in verdicts:
            with before.restored():
                alone = executor(model, conds, x, sigma, checking(options))
            same = agree(own[index], alone[index], x, model.get_dtype_inference())
            ways.note(BESIDE, verdicts, same)
            if same is False:
                return alone
        self._answers = [(conds[index], points, answer) for points, answer in zip(asked, answers)]
        return own

    def _main_index(self, conds):
        """The place of the main condition among those that are evaluated, or None where it is not among them."""
        given = [index for index, cond in enumerate(conds) if cond is not None]
        positive = self._guider.conds.get("positive")
        if positive is None:
            return given[0] if len(given) == 1 else None
        return next((index for index in given if conds[index] is positive), None)

    def _may_join(self, conds, options, batch):
        wrappers = get_all_wrappers(WrappersMP.CALC_COND_BATCH, options, is_model_options=True)
        if len(wrappers) > 1 or self._ways.memory_is_short:
            return False
        if spread_out(options):
            return self._ways.spreads(conds, options)
        return sum(cond is not None for cond in conds) == 1 and self._ways.regroups(conds, options, batch)

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
        x, options = args["input"], args["model_options"]
        if self._x is not x:
            self._x, self._evaluated = x, []
        main = self._get(cond)
        if main is None:
            unknown = Evaluated([cond], 0, None, Moment.before(x, args["model"], options))
            denoised = self._ways.evaluate(args, unknown, [cond], x, options)[0]
            main = dataclasses.replace(unknown, denoised=denoised)
            self._evaluated.append(main)
        return main

    def elsewhere(self, args, main, points):
        """The main condition's predictions at Points, by the network that made `main`; maybe several times a call."""
        if not main.answered:
            raise UnansweredError(CACHED)
        known = (answer for cond, asked, answer in self._answers if asked is points and cond is main.cond)
        answer = next(known, None)
        return self._ways.ask(args, main, points.x, points.images) if answer is None else answer

    def _get(self, cond):
        return next((entry for entry in self._evaluated if cond is not None and entry.cond is cond), None)


def _in_one_forward(executor, model, conds, index, x, sigma, options, asked):
    """The outputs at x and the answers at Points, all rows in one batch, or None where they do not fit into memory.

    x comes last: what is made for the first image of a batch alone is found so.
    """
    beside = [regrouped(conds, points.x, points.images, x) for points in asked]
    sizes = [*(len(each.rows) for each in beside), len(x)]
    if not fits(model, conds, x, sum(sizes)):
        return None
    if beside[0].images is not None:
        conds = of_images(conds, [image for each in beside for image in each.images] + list(range(len(x))))
    rows = torch.cat([*(each.rows for each in beside), x])
    outputs = executor(model, conds, rows, levels(sigma, sum(sizes)), options)
    answers = outputs[index].split(sizes)
    own = [output[-len(x) :] for output in outputs]
    return own, [picked(answer, each.places) for answer, each in zip(answers, beside)]


def _on_devices(executor, model, conds, index, x, sigma, options, asked):
    """The outputs at x and the answers at Points, each batch of them a condition that the host gives to a device."""
    rows, places = zip(*(in_batches(points.x, points.images, x) for points in asked))
    batches = [part.split(len(x)) for part in rows]
    own, answers = spread(executor, model, conds, index, [one for part in batches for one in part], x, sigma, options)
    answers = iter(answers)
    return own, [picked(torch.cat([next(answers) for _ in part]), there) for part, there in zip(batches, places)]
