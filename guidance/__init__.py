"""Corrections to the denoised prediction, when they are active, their trace, and weaker models; needs torch alone."""

from .corrections import auto_guidance, classifier_free, saddle_free
from .schedule import SigmaWindow, schedule_position
from .trace import CurvatureTrace, TracedCall
from .weakening import noised_further, pruned

__all__ = [
    "CurvatureTrace", "SigmaWindow", "TracedCall", "auto_guidance", "classifier_free", "noised_further", "pruned",
    "saddle_free", "schedule_position",
]
