"""The list of nodes that the host shows."""

from comfy_api.latest import ComfyExtension

from .auto_guidance import AutoGuidance
from .curvature_scope import CurvatureScope
from .demo_model import SaddleFreeDemoModel
from .guidance_sweep import GuidanceSweep
from .guidance_sweep_grid import GuidanceSweepGrid
from .guidance_variations import GuidanceVariations
from .guidance_variations_batch import GuidanceVariationsBatch
from .saddle_free import SaddleFreeGuidance
from .weaken_model import WeakenModel


class SaddleFreeExtension(ComfyExtension):
    """The pack as the host sees it."""

    async def get_node_list(self):
        """Node classes in the order in which menus list them."""
        return [
            SaddleFreeGuidance, AutoGuidance, WeakenModel, CurvatureScope, GuidanceSweep, GuidanceVariations,
            SaddleFreeDemoModel, GuidanceSweepGrid, GuidanceVariationsBatch,
        ]
