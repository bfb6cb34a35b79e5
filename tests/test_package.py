"""The house rules that a machine can check."""

import json
import re
import subprocess
import sys

import pytest
from pack import ROOT

CORE = ("curvature", "guidance")


def test_the_core_imports_with_torch_alone():
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import pack; pack.load_pack()\n"
        "import saddle_free_guidance.curvature, saddle_free_guidance.guidance\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not roots & {'comfy', 'comfy_api', 'comfy_extras', 'folder_paths', 'server', 'safetensors'}, roots"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("folder, forbidden", [("curvature", r"guidance|nodes|comfy"), ("guidance", r"nodes|comfy")])
def test_imports_point_one_way(folder, forbidden):
    for path in (ROOT / folder).glob("*.py"):
        for line in path.read_text().splitlines():
            assert not re.match(rf"\s*(from|import)\s+\.*({forbidden})\b", line), (path, line)


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
    "SaddleFreeGuidance", "AutoGuidance", "WeakenModel", "CurvatureScope", "GuidanceSweep", "SaddleFreeDemoModel",
    "GuidanceSweepGrid",
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
            "directions",
        ],
        "AutoGuidance": ["model", "weak_model", "scale", "start_percent", "end_percent"],
        "WeakenModel": ["model", "method", "strength"],
        "CurvatureScope": ["trace", "latent", "opacity", "images"],
        "GuidanceSweep": [
            "model", "positive", "negative", "latent_image", "vae", "seed", "steps", "cfg", "sampler_name", "scheduler",
            "denoise", "parameter", "values", "second_parameter", "second_values", "scale", "guidance_seed",
            "start_percent", "end_percent", "directions",
        ],
        "SaddleFreeDemoModel": ["digit", "model", "kind", "style"],
        "GuidanceSweepGrid": ["labels"],
    }
    assert outputs == {
        "SaddleFreeGuidance": ["MODEL", "CURVATURE_TRACE"], "AutoGuidance": ["MODEL"], "WeakenModel": ["MODEL"],
        "CurvatureScope": ["IMAGE", "IMAGE"], "GuidanceSweep": ["IMAGE", "LATENT"],
        "SaddleFreeDemoModel": ["MODEL", "MODEL", "VAE", "CONDITIONING"], "GuidanceSweepGrid": ["IMAGE", "LATENT"],
    }
    methods = next(item for item in schemas(host)["WeakenModel"].inputs if item.id == "method")
    assert methods.options == ["more noise", "pruned weights"]


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
            "refresh_every": 0, "directions": 1,
        },
        "AutoGuidance": {"scale": 1.5, "start_percent": 0.0, "end_percent": 1.0},
        "WeakenModel": {"method": "pruned weights", "strength": 0.5},
        "CurvatureScope": {"opacity": 0.6},
        "GuidanceSweep": {
            "seed": 0, "steps": 20, "cfg": 1.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0,
            "parameter": "scale", "values": "0, 4, 8, 16", "second_parameter": "none", "second_values": "",
            "scale": 8.0, "guidance_seed": 0, "start_percent": 0.0, "end_percent": 1.0, "directions": 1,
        },
        "SaddleFreeDemoModel": {"digit": "none", "model": "digits", "kind": "any", "style": "any"},
        "GuidanceSweepGrid": {"labels": None},
    }
    advanced = [item.id for schema in schemas(host).values() for item in widgets(schema) if item.advanced]
    assert advanced == ["probe_radius", "refresh_every", "directions", "directions"]


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
