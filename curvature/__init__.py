"""Curvature of the log density from a few evaluations of a denoiser; needs torch alone."""

from .krylov import quotient_ahead, rayleigh_ritz
from .precision import (
    EXACT,
    FARTHEST,
    LOW,
    QUIETEST,
    REACH,
    SILENT,
    WIDEST,
    assumed_noise,
    balanced_reach,
    eps_of,
    filtered,
    noise_along,
    noise_in_responses,
    noise_in_rings,
    reach,
    rings,
)
from .schedule import APART, LEAST, ProbeSchedule
from .starts import by_chance, gaussian, side

__all__ = [
    "APART", "EXACT", "FARTHEST", "LEAST", "LOW", "QUIETEST", "REACH", "SILENT", "WIDEST", "ProbeSchedule",
    "assumed_noise", "balanced_reach", "by_chance", "eps_of", "filtered", "gaussian", "noise_along",
    "noise_in_responses", "noise_in_rings", "quotient_ahead", "rayleigh_ritz", "reach", "rings", "side",
]
