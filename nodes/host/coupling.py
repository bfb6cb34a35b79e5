"""Whether the conditions of one evaluation reach each other's predictions, of a model that only guidance evaluates."""

import logging

import comfy.model_management
import comfy.samplers

from .compat import compiled
from .joint import levels
from .trust import ALONE, agree, checking

log = logging.getLogger(__name__)


class Coupling:
    """Evaluates one condition without the others where that was found to be the same as with them.

    trust: a Trust, which keeps what was found.
    """

    def __init__(self, trust):
        self._trust = trust

    def evaluate(self, evaluated, x, sigma, model, options):
        """What `evaluated` is, by another model: its conditions, and the moment before it, are the other's then."""

        def ask(conds, options=options):
            with evaluated.before.restored():
                return comfy.samplers.calc_cond_batch(model, conds, x, levels(sigma, len(x)), options)[evaluated.index]

        conds = evaluated.conds
        verdicts = self._trust.verdicts(model, conds, options, len(x))
        if sum(cond is not None for cond in conds) == 1 or verdicts.get(ALONE):
            return ask(evaluated.alone)
        if ALONE in verdicts or compiled(model, options):
            return ask(conds)
        together = ask(conds, checking(options))
        try:
            alone = ask(evaluated.alone)
        except Exception as error:  # of another pack's model that needs all of its conditions
            if comfy.model_management.is_oom(error):
                raise
            log.info("The weak model cannot evaluate one condition alone (%r); all are evaluated together.", error)
            verdicts[ALONE] = False
            return together
        same = agree(alone, together, x, model.get_dtype_inference())
        if same is None:
            return alone
        verdicts[ALONE] = same
        if not same:
            log.info("The weak model's conditions reach each other; they are evaluated together.")
        return alone if same else together
