"""Guidance terms as additive corrections to the denoised prediction, and when they are active; needs torch alone."""

from .corrections import auto_guidance, classifier_free, saddle_free
from .schedule import SigmaWindow, schedule_position

__all__ = ["SigmaWindow", "auto_guidance", "classifier_free", "saddle_free", "schedule_position"]
