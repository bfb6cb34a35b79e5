"""Eigen-directions of a denoiser's Jacobian, estimated while sampling; needs torch alone."""

from .automatic import automatic_probe_radius
from .power_iteration import inner, jacobian_vector_product, orthonormalise
from .refresh import ProbeSchedule
from .rounding import rounding_error, with_input_rounding
from .tracker import CurvatureEstimate, CurvatureTracker

__all__ = [
    "CurvatureEstimate",
    "CurvatureTracker",
    "ProbeSchedule",
    "automatic_probe_radius",
    "inner",
    "jacobian_vector_product",
    "orthonormalise",
    "rounding_error",
    "with_input_rounding",
]
