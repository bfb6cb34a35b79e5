"""Which of many cases run without --all."""

import itertools

import pytest


def in_turn(first, *others):
    """Every combination of values; all are long but each value of `first` with one combination of the others in turn.

    So every value is in a case that is not long, where `first` has as many values as the others have combinations.
    """
    combinations = list(itertools.product(*others))
    for index, value in enumerate(first):
        for place, rest in enumerate(combinations):
            yield case(value, *rest, is_long=place != index % len(combinations))


def long_but(cases, kept):
    """The cases, of one value or a tuple of them; those that are not kept are long."""
    cases, kept = list(cases), list(kept)
    assert all(one in cases for one in kept)
    return [case(*one if isinstance(one, tuple) else (one,), is_long=one not in kept) for one in cases]


def case(*values, is_long):
    """A set of parameters."""
    return pytest.param(*values, marks=pytest.mark.long if is_long else ())
