"""What --all adds: every value of each dimension is in a case that runs without it."""

import itertools
from types import SimpleNamespace

import conftest
import pytest
from cases import in_turn, long_but


def ordinary(cases):
    return [one.values for one in cases if not one.marks]


def test_every_combination_is_there_and_every_value_runs_without_all():
    dimensions = ["abcd", (1, 3), (1.0, 4.0)]
    cases = list(in_turn(*dimensions))
    assert [one.values for one in cases] == list(itertools.product(*dimensions))
    assert {one.marks[0].name for one in cases if one.marks} == {"long"}
    assert ordinary(cases) == [("a", 1, 1.0), ("b", 1, 4.0), ("c", 3, 1.0), ("d", 3, 4.0)]


def test_all_but_those_that_are_kept_are_long():
    assert ordinary(long_but(["one", ("two", 2), "three"], ["three", ("two", 2)])) == [("two", 2), ("three",)]
    with pytest.raises(AssertionError):
        long_but(["one"], ["other"])


def test_what_needs_the_page_comes_first_and_the_rest_stays_in_its_order():
    needed = {"a": ["host"], "b": ["scope", "tab", "address"], "c": [], "d": ["address"], "e": ["host", "address"]}
    items = [SimpleNamespace(name=name, fixturenames=fixtures) for name, fixtures in needed.items()]
    conftest.pytest_collection_modifyitems(items)
    assert [item.name for item in items] == ["b", "d", "e", "a", "c"]
