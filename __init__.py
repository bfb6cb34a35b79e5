"""Saddle-Free Guidance: curvature and auto-guidance for every diffusion and flow model in ComfyUI."""

WEB_DIRECTORY = "./nodes/web"


async def comfy_entrypoint():
    """The host's entry: the extension that lists the nodes."""
    from comfyui_version import __version__

    from .nodes.version import require_supported_host

    require_supported_host(__version__)

    from .nodes.extension import SaddleFreeExtension

    return SaddleFreeExtension()
