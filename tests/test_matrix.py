"""A part of the matrix: every sampler of the host with two light families, settings in turn."""

import itertools

import matrix
import pytest

PLACES = 44  # the host's samplers: their names can be read only once it runs


@pytest.mark.parametrize("place", range(PLACES))
def test_a_sampler_of_the_host(host, place):
    import comfy.samplers

    samplers = comfy.samplers.KSampler.SAMPLERS
    chosen = [cell for cell in matrix.covering(samplers) if cell[0] == samplers[place]]
    assert len(chosen) >= 2
    for cell in chosen:
        try:
            matrix.check(host, *cell)
        except AssertionError as error:
            raise AssertionError(f"{' '.join(map(str, cell))}: {error}") from error


def test_the_part_holds_every_setting():
    import comfy.samplers

    part = set(matrix.covering(comfy.samplers.KSampler.SAMPLERS))
    assert part <= set(matrix.cells(comfy.samplers.KSampler.SAMPLERS))
    settings = {cell[2:] for cell in part}
    assert settings == set(itertools.product(matrix.BATCHES, matrix.CFGS, matrix.GUIDANCE))
    for family in matrix.LIGHT:
        assert {cell[2:] for cell in part if cell[1] == family} == settings
    assert {cell[1] for cell in part} == set(matrix.FAMILIES)
