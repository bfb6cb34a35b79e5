"""The host's guiders with two families at every batch and CFG, for the tests of both guidances."""

import itertools

import pytest

GUIDERS = ("KSampler", "KSamplerAdvanced", "BasicGuider", "CFGGuider", "DualCFGGuider")
SETTINGS = list(itertools.product((1, 3), (1.0, 4.0)))  # batch, cfg


def guiders_in_turn():
    """Family, batch, CFG, guider: all of them; of each family and guider one batch and CFG in turn is not long.

    So each guider has either CFG, one image with one family and three with the other.
    """
    for (index, family), (place, guider) in itertools.product(enumerate(("demo", "sd3")), enumerate(GUIDERS)):
        for batch, cfg in SETTINGS:
            is_long = (cfg == 1.0) == (index + place) % 2 or (batch == 1) == (index + place // 2) % 2
            yield pytest.param(family, batch, cfg, guider, marks=pytest.mark.long if is_long else ())
