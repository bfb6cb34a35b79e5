"""Where things are: which folder imports which, and how long a file and a function may be."""

import ast
import sys
from pathlib import Path

import pytest
from pack import ROOT

# Folder of the package -> the folders and the modules of others that it may import, beside Python's own.
FOLDERS = {
    "curvature": ((), ("torch",)),
    "guidance": (("curvature",), ("torch",)),
    "pipelines": (("guidance",), ("torch", "diffusers")),
    "nodes/demo": ((), ("torch",)),
    "nodes/host": (
        ("guidance", "nodes/demo"),
        ("torch", "safetensors", "comfy", "comfy_api", "comfy_execution", "server"),
    ),
    "nodes/ui": (("nodes/host", "guidance"), ("torch", "numpy", "PIL", "matplotlib", "comfy_api.latest")),
    "nodes": (
        ("nodes/ui", "nodes/host", "nodes/demo", "guidance"),
        ("torch", "comfy_api.latest", "comfy_execution.graph_utils"),
    ),
    ".": (("nodes",), ("comfyui_version",)),
}
MOST_LINES, MOST_LINES_ELSEWHERE, MOST_LINES_OF_A_FUNCTION = 300, 400, 40


def files(*endings):
    """Files of the package, the tests and the benchmarks, as paths from the checkout's root."""
    folders = ("curvature", "guidance", "pipelines", "nodes", "tests", "benchmarks")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in found if path.suffix in endings)


def folder_of(name):
    """The folder of FOLDERS that a file is in, or None for what is not of the package."""
    return next((folder for folder in FOLDERS if Path(name).parent == Path(folder) and name != "quickstart.py"), None)


def imported(name):
    """What a file imports, anywhere in it: folders of the package, and dotted names of other modules."""
    folders, modules = set(), set()
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            base = Path(name).parents[node.level - 1].joinpath(*(node.module or "").split("."))
            folders |= {each.as_posix() for each in [base, *(base / alias.name for alias in node.names)]
                        if (ROOT / each).is_dir() and each != Path()} or {base.parent.as_posix()}
    return folders, modules


def strangers(name):
    """What a file of the package imports though its folder may not."""
    folder = folder_of(name)
    ours, others = FOLDERS[folder]
    folders, modules = imported(name)
    wrong = folders - {folder, *ours}
    return wrong | {
        module for module in modules
        if module.partition(".")[0] not in sys.stdlib_module_names
        and not any(module == known or module.startswith(f"{known}.") for known in others)
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_one_way_and_the_host_is_met_in_one_folder(folder):
    names = [name for name in files(".py") if folder_of(name) == folder]
    assert names
    assert {name: found for name in names if (found := strangers(name))} == {}


@pytest.mark.parametrize("line, found", [
    ("from .host.run import guided", set()), ("from . import host", set()),
    ("from ..curvature import side", {"curvature"}), ("from ..pipelines import guider", {"pipelines"}),
    ("import comfy.samplers", {"comfy.samplers"}), ("def f():\n    from comfy import utils", {"comfy"}),
    ("from comfy_api.latest import io", set()), ("from comfy_api.torch_helpers import x", {"comfy_api.torch_helpers"}),
    ("from ..guidance.strength import CONSTANT", set()),
])
def test_what_may_not_be_imported_is_seen(line, found, monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda path, **_: line)
    assert strangers("nodes/saddle_free.py") == found


def test_no_file_is_long():
    sizes = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in files(".py", ".js")}
    limits = {name: MOST_LINES if folder_of(name) or name.startswith("nodes/") else MOST_LINES_ELSEWHERE
              for name in sizes}
    assert {name: size for name, size in sizes.items() if size > limits[name]} == {}


def test_no_function_is_long():
    sizes = {
        (name, node.name): node.end_lineno - node.lineno + 1
        for name in files(".py")
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert len(sizes) > 1000
    assert {where: size for where, size in sizes.items() if size > MOST_LINES_OF_A_FUNCTION} == {}
