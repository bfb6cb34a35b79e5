"""A part of the matrix: every sampler of the host with two light families, settings in turn."""

import itertools

import matrix
import pytest
from cases import long_but

PLACES = 44  # the host's samplers: their names can be read only once it runs


@pytest.mark.parametrize("place, is_quick", long_but(
    itertools.product(range(PLACES), (True, False)), [(place, True) for place in range(PLACES)]
))
def test_a_sampler_of_the_host(host, place, is_quick):
    import comfy.samplers

    samplers = comfy.samplers.KSampler.SAMPLERS
    quick, cells = set(matrix.quick(samplers)), list(matrix.covering(samplers))
    chosen = [cell for cell in cells if cell[0] == samplers[place] and (cell in quick) == is_quick]
    assert chosen
    for cell in chosen:
        try:
            matrix.check(host, *cell, steps=3 if is_quick else matrix.STEPS)
        except AssertionError as error:
            raise AssertionError(f"{' '.join(map(str, cell))}: {error}") from error


def test_the_quick_part_holds_every_sampler_family_and_setting():
    import comfy.samplers

    samplers = comfy.samplers.KSampler.SAMPLERS
    part = list(matrix.quick(samplers))
    assert set(part) < set(matrix.covering(samplers)) and len(part) == PLACES + 1
    every = samplers, (*matrix.LIGHT, "sd15"), matrix.BATCHES, matrix.CFGS, matrix.GUIDANCE
    assert [{cell[place] for cell in part} for place in range(5)] == [set(values) for values in every]
    assert len({cell[2:] for cell in part}) == 12


def test_the_part_holds_every_setting():
    import comfy.samplers

    part = set(matrix.covering(comfy.samplers.KSampler.SAMPLERS))
    assert part <= set(matrix.cells(comfy.samplers.KSampler.SAMPLERS))
    settings = {cell[2:] for cell in part}
    assert settings == set(itertools.product(matrix.BATCHES, matrix.CFGS, matrix.GUIDANCE))
    for family in matrix.LIGHT:
        assert {cell[2:] for cell in part if cell[1] == family} == settings
    assert {cell[1] for cell in part} == set(matrix.FAMILIES)
