"""Corrections to the denoised prediction, when they are active, their trace, and weaker models; needs torch alone."""

from .corrections import auto_guidance, classifier_free
from .run import image_digests
from .saddle_free import SaddleFree
from .trace import CurvatureTrace, TracedCall
from .weakening import noised_further, pruned
from .window import SigmaWindow

__all__ = [
    "CurvatureTrace", "SaddleFree", "SigmaWindow", "TracedCall", "auto_guidance", "classifier_free", "image_digests",
    "noised_further", "pruned",
]
