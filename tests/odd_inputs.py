"""Odd values for the inputs of the pack's nodes."""

NODES = (
    "SaddleFreeGuidance", "AutoGuidance", "WeakenModel", "CurvatureScope", "GuidanceSweep", "GuidanceVariations",
    "SaddleFreeDemoModel", "GuidanceSweepGrid", "GuidanceVariationsBatch",
)
ODD = [
    None, "", "abc", "nan", "-inf", "12x", "0x10", "1e999", "0, 1\n2;3", "\x00", "é" * 5000, "'; DROP TABLE x; --",
    "__import__('os').remove('x')", float("nan"), float("inf"), float("-inf"), 1e308, -1e308, 1e-320, 10**40, -(10**40),
    2**64, -1, -0.0, 0.5, 3.7, True, False, {}, {"a": 1}, [], [1], [1, 2, 3], {"__value__": [1, 2]},
    {"__value__": None}, {"__value__": float("nan")},
]


def widgets(host, node):
    return [item for item in host.node(node).define_schema().inputs if hasattr(item, "default")]
