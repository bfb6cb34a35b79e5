"""The house rules that a machine can check."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pack import ROOT


def test_the_core_imports_with_torch_alone():
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import pack; pack.load_pack()\n"
        "import saddle_free_guidance.curvature, saddle_free_guidance.guidance\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not roots & {'comfy', 'comfy_api', 'comfy_extras', 'folder_paths', 'server', 'safetensors'}, roots"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel that pip makes of this checkout, without a network: a folder to import from, and what it declares."""
    base = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "__init__.py", "quickstart.py"):
        shutil.copy(ROOT / name, base)
    for name in ("curvature", "guidance", "pipelines", "nodes"):
        shutil.copytree(ROOT / name, base / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation"]
    made = subprocess.run([*command, "--wheel-dir", str(base), str(base)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (wheel,) = base.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(base / "installed")
    (metadata,) = (base / "installed").glob("*.dist-info/METADATA")
    return base / "installed", metadata.read_text(encoding="utf-8")


def test_the_wheel_holds_the_guide_and_needs_torch_alone(installed):
    folder, metadata = installed
    needed = re.findall(r"(?m)^Requires-Dist: (.+)$", metadata)
    assert [need for need in needed if "extra" not in need] == ["torch"]
    assert any(re.fullmatch(r"diffusers>=[\d.]+; extra == .diffusers.", need) for need in needed)
    package = folder / "saddle_free_guidance"
    modules = {path.relative_to(package) for path in package.rglob("*.py")}
    for place, name in (("curvature", "curvature"), ("guidance", "guidance"), ("pipelines", "diffusers")):
        files = {path.name for path in (ROOT / place).glob("*.py")}
        assert {path.name for path in modules if path.parent == Path(name)} == files
    assert not (package / "nodes").exists()


GUIDED = """
import importlib.abc, importlib.util, sys
sys.path.insert(0, sys.argv[1])
ABSENT = ("numpy", "safetensors", "matplotlib", "PIL", "diffusers", "transformers", "comfy")
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Absent())
import torch
from saddle_free_guidance.guidance import SaddleFree
guide = SaddleFree(scale=8.0, seed=0, refresh_every=1)
x = 0.01 * torch.ones(2, 4)
for sigma in (0.2, 0.19, 0.18):
    guided = guide(lambda rows, images: torch.tanh(3 * rows), x, alpha=1.0, std=sigma)
assert not torch.equal(guided, torch.tanh(3 * x))
try:
    import saddle_free_guidance.diffusers
except ModuleNotFoundError as error:
    print(error)
"""


def test_what_is_installed_guides_with_torch_alone(installed, tmp_path):
    command = [sys.executable, "-I", "-W", "ignore", "-c", GUIDED, str(installed[0])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "No module named 'diffusers'"


def test_the_guider_is_installed_under_the_name_it_is_documented_with(installed, tmp_path):
    pytest.importorskip("diffusers")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from saddle_free_guidance.diffusers import SaddleFreeGuidance\n"
        "import diffusers; print(issubclass(SaddleFreeGuidance, diffusers.BaseGuidance), SaddleFreeGuidance.__module__)"
    )
    command = [sys.executable, "-I", "-c", code, str(installed[0])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True saddle_free_guidance.diffusers.guider"


def test_ruff_is_clean():
    result = subprocess.run([sys.executable, "-m", "ruff", "check", str(ROOT)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("version", ["0.29.9", "0.3.75", "0.0.1"])
def test_an_old_host_is_told_what_to_do_at_load(host, version, monkeypatch):
    import comfyui_version

    monkeypatch.setattr(comfyui_version, "__version__", version)
    entry = sys.modules[str(ROOT).replace(".", "_x_")]
    with pytest.raises(ImportError, match=rf"needs ComfyUI 0.30.0 or newer and this is {version}; update ComfyUI"):
        host.loop.run_until_complete(entry.comfy_entrypoint())


@pytest.mark.parametrize("version", ["0.30.0", "0.31.2", "1.0.0", "0.30.0-dev"])
def test_a_supported_host_loads(version):
    from saddle_free_guidance.nodes.version import require_supported_host

    assert require_supported_host(version) is None


NODES = (
    "SaddleFreeGuidance", "AutoGuidance", "WeakenModel", "CurvatureScope", "GuidanceSweep", "GuidanceVariations",
    "SaddleFreeDemoModel", "GuidanceSweepGrid", "GuidanceVariationsBatch",
)


def schemas(host):
    return {name: host.node(name).define_schema() for name in NODES}


def widgets(schema):
    return [item for item in schema.inputs if hasattr(item, "default")]


def test_saved_graphs_keep_their_meaning(host):
    """Inputs by position, outputs by position: append to these lists, never change them."""
    inputs = {name: [item.id for item in schema.inputs] for name, schema in schemas(host).items()}
    outputs = {name: [item.io_type for item in schema.outputs] for name, schema in schemas(host).items()}
    assert inputs == {
        "SaddleFreeGuidance": [
            "model", "scale", "guidance_seed", "start_percent", "end_percent", "probe_radius", "refresh_every",
            "directions", "strength_mask", "strength_curve",
        ],
        "AutoGuidance": ["model", "weak_model", "scale", "start_percent", "end_percent"],
        "WeakenModel": ["model", "method", "strength"],
        "CurvatureScope": ["trace", "latent", "opacity", "images"],
        "GuidanceSweep": [
            "model", "positive", "negative", "latent_image", "vae", "seed", "steps", "cfg", "sampler_name", "scheduler",
            "denoise", "parameter", "values", "second_parameter", "second_values", "scale", "guidance_seed",
            "start_percent", "end_percent", "directions",
        ],
        "GuidanceVariations": [
            "model", "positive", "negative", "latent_image", "vae", "seed", "steps", "cfg", "sampler_name", "scheduler",
            "denoise", "count", "guidance_seed", "difference", "order", "directions", "plain_first",
        ],
        "SaddleFreeDemoModel": ["digit", "model", "kind", "style"],
        "GuidanceSweepGrid": ["labels"],
        "GuidanceVariationsBatch": ["labels", "order"],
    }
    assert outputs == {
        "SaddleFreeGuidance": ["MODEL", "CURVATURE_TRACE"], "AutoGuidance": ["MODEL"], "WeakenModel": ["MODEL"],
        "CurvatureScope": ["IMAGE", "IMAGE"], "GuidanceSweep": ["IMAGE", "LATENT"],
        "GuidanceVariations": ["IMAGE", "LATENT", "STRING"],
        "SaddleFreeDemoModel": ["MODEL", "MODEL", "VAE", "CONDITIONING"], "GuidanceSweepGrid": ["IMAGE", "LATENT"],
        "GuidanceVariationsBatch": ["IMAGE", "LATENT", "STRING"],
    }
    options = {
        ("WeakenModel", "method"): ["more noise", "pruned weights"],
        ("SaddleFreeGuidance", "strength_curve"): ["constant", "fade in", "fade out", "middle"],
        ("GuidanceVariations", "order"): ["by seed", "nearest first", "farthest first"],
    }
    for (node, name), listed in options.items():
        assert next(item for item in schemas(host)[node].inputs if item.id == name).options == listed


def test_every_input_says_what_it_does_and_every_node_has_a_help_page(host):
    for name, schema in schemas(host).items():
        page = (ROOT / "nodes" / "web" / "docs" / f"{name}.md").read_text()
        assert schema.description
        for item in schema.inputs:
            assert item.tooltip, (name, item.id)
            assert f"`{item.id}`" in page, (name, item.id)
        for picture in re.findall(r"!\[.+\]\((.+)\)", page):
            assert (ROOT / "nodes" / "web" / "docs" / picture).is_file()


def test_advanced_knobs_and_defaults(host):
    defaults = {name: {item.id: item.default for item in widgets(schema)} for name, schema in schemas(host).items()}
    assert defaults == {
        "SaddleFreeGuidance": {
            "scale": 8.0, "guidance_seed": 0, "start_percent": 0.0, "end_percent": 1.0, "probe_radius": 0.0,
            "refresh_every": 0, "directions": 1, "strength_curve": "constant",
        },
        "AutoGuidance": {"scale": 1.5, "start_percent": 0.0, "end_percent": 1.0},
        "WeakenModel": {"method": "pruned weights", "strength": 0.5},
        "CurvatureScope": {"opacity": 0.6},
        "GuidanceSweep": {
            "seed": 0, "steps": 20, "cfg": 1.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0,
            "parameter": "scale", "values": "0, 4, 8, 16", "second_parameter": "none", "second_values": "",
            "scale": 8.0, "guidance_seed": 0, "start_percent": 0.0, "end_percent": 1.0, "directions": 1,
        },
        "GuidanceVariations": {
            "seed": 0, "steps": 20, "cfg": 1.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0,
            "count": 4, "guidance_seed": 0, "difference": 8.0, "order": "by seed", "directions": 2,
            "plain_first": False,
        },
        "SaddleFreeDemoModel": {"digit": "none", "model": "digits", "kind": "any", "style": "any"},
        "GuidanceSweepGrid": {"labels": None},
        "GuidanceVariationsBatch": {"labels": None, "order": "by seed"},
    }
    advanced = [item.id for schema in schemas(host).values() for item in widgets(schema) if item.advanced]
    assert advanced == ["probe_radius", "refresh_every", "directions", "directions", "directions"]


def test_workflows_are_listed_with_a_thumbnail_and_hold_every_widget(host):
    workflows = sorted((ROOT / "workflows").glob("*.json"))
    assert workflows
    for path in workflows:
        assert path.with_suffix(".jpg").exists()
        for node in json.loads(path.read_text())["nodes"]:
            if node["type"] in NODES:
                knobs = widgets(schemas(host)[node["type"]])
                controls = sum(bool(getattr(item, "control_after_generate", None)) for item in knobs)
                appended = sum(item.optional for item in knobs)  # a graph that was saved before them has none
                most = len(knobs) + controls
                assert len(node["widgets_values"]) in (most, most - appended), path
