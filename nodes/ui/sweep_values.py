"""Lists of values as text, for knobs with a known kind and range."""

import math
import re

from comfy_api.latest import io

MOST_CELLS = 64


def parse_values(knob, text, name):
    """The values in `text`, with commas, semicolons (also full-width ones) or white space between.

    knob: an input of a schema; name: what the user knows the text as. Raises ValueError naming the item that cannot be
    used.
    """
    items = [item for item in re.split(r"[,;\uff0c\u3001\uff1b\s]+", text) if item]
    if not items:
        raise ValueError(f"{name} is empty; write values for {knob.id} with commas between, for example 0, 1, 2.")
    return [_parse(knob, item, name) for item in items]


def _parse(knob, item, name):
    whole = isinstance(knob, io.Int.Input)
    try:
        value = int(item) if whole else round(float(item), 6)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{name} holds {item[:40]!r}, which is not {kind}; {knob.id} takes one from {_range(knob)}.")
    if not knob.min <= value <= knob.max:
        raise ValueError(f"{name} holds {item}, but {knob.id} must be from {_range(knob)}; change or remove it.")
    return value


def _range(knob):
    return f"{knob.min:g} to {knob.max:g}" if knob.max < 1e6 else f"{knob.min} to {knob.max}"


def combinations(lists):
    """The cells of a sweep, row by row, each as knob name -> value.

    lists: one or two of (knob name, knob, text, name of the text). One list is laid out in rows of equal length; of
    two, the first runs along the columns and the second along the rows.
    """
    parsed = [parse_values(knob, text, name) for _, knob, text, name in lists]
    knobs = [knob for knob, *_ in lists]
    if len(set(knobs)) < len(knobs):
        raise ValueError(
            f"parameter and second_parameter are both {knobs[0]}; choose another second_parameter, or none."
        )
    cells = math.prod(map(len, parsed))
    if cells > MOST_CELLS:
        lengths = " x ".join(str(len(values)) for values in parsed)
        extra = parsed[-1][MOST_CELLS // math.prod(map(len, parsed[:-1]))]
        raise ValueError(
            f"the sweep has {cells} pictures ({lengths}) and at most {MOST_CELLS} are allowed; {knobs[-1]} {extra} is "
            "the first value too many."
        )
    if len(parsed) == 2:
        return [[{knobs[0]: first, knobs[1]: second} for first in parsed[0]] for second in parsed[1]]
    return [[{knobs[0]: value} for value in row] for row in _rows(parsed[0])]


def _rows(values):
    columns = len(values) if len(values) <= 6 else math.ceil(math.sqrt(len(values)))
    return [values[start : start + columns] for start in range(0, len(values), columns)]
