"""Saddle-free guidance for the pipelines of diffusers; installed as `saddle_free_guidance.diffusers`."""

from .guider import SaddleFreeGuidance

__all__ = ["SaddleFreeGuidance"]
