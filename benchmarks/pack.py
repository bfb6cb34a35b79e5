"""Reaches the pack and the host from scripts and tests, without putting the checkout on the import path."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "saddle_free_guidance"


def load_pack():
    """Imports this checkout as `saddle_free_guidance`, from its file as the host does; its parts import by name then."""
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[NAME]


def enter_host(*options):
    """Makes the ComfyUI at COMFYUI_PATH importable, as if its main.py had been started with these options."""
    comfyui = os.environ.get("COMFYUI_PATH")
    if not comfyui:
        raise SystemExit("COMFYUI_PATH is not set; start this with: python quickstart.py --run SCRIPT")
    sys.path.insert(0, comfyui)
    arguments = sys.argv
    sys.argv = ["main.py", *options]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
    finally:
        sys.argv = arguments
