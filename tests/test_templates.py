"""Every workflow template: what the page needs of it, and what it makes in the real host from stand-in models."""

import copy
import itertools
import json
import re
from collections import Counter

import demo_recipes
import prompts
import pytest
import small_prompts
import template_page
import template_recipes
import template_stand_ins
import torch
from cases import long_but
from host import failure
from pack import ROOT
from PIL import Image

WORKFLOWS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "workflows").glob("*.json"))}
RECIPES = template_recipes.TEMPLATES | demo_recipes.TEMPLATES
ADDRESS = r"(https://huggingface\.co/[^/]+/[^/]+)/resolve/main/(\S+)"
TITLE = 30  # height of a node's title above its position

SDXL_TWICE = "auto-guidance-checkpoints"
# The first three encode text with T5, 5 billion weights of a fixed size: too many for a test, so that the loader and
# the encoding nodes behind it are replaced by random conditions. So are the encoding nodes of SDXL, because its text
# encoders take 2 GB and 10 s; one of its two templates has them with --all. Everything else runs as it stands.
WITHOUT_TEXT_ENCODER = {"sd35": "sd35", "flux-dev": "flux", "wan-video": "wan", "sdxl": "sdxl", SDXL_TWICE: "sdxl"}
SAMPLERS = ("KSampler", "KSamplerAdvanced")
TEXT_NODES = ("CLIPLoader", "DualCLIPLoader", "TripleCLIPLoader")

# The loaders of these fix sizes too large for a test, and are replaced by stand-ins built from the host's classes.
WITHOUT_LOADERS = {
    "flux-2-klein": "flux2", "hunyuan-video-1.5": "hunyuan_video_15", "krea-2": "krea2", "ltx-2.3": "ltxav",
    "qwen-image": "qwen_image", "qwen-image-edit": "qwen_image", "wan-2.2-14b": "wan", "z-image": "z_image",
    "z-image-turbo": "z_image", "z-image-turbo-variations": "z_image",
}

SMALL = {"steps": 2, "width": 64, "height": 64, "length": 5}  # at most
SEVERAL = ("GuidanceSweep", "GuidanceVariations")  # nodes that sample several times, and give the latents second
DEMO_STEPS = 8  # after fewer steps the demo model has not been undecided yet
DEMO = [
    name for name, workflow in WORKFLOWS.items()
    if any(node["type"] == "SaddleFreeDemoModel" for node in workflow["nodes"])
]
LARGE = "qwen-image-edit"  # its encoding node makes a picture of a megapixel of what it is given
# These make their pictures elsewhere: by the main job of quickstart.py, and in test_page_saved.py.
ELSEWHERE = ("quickstart", "saddle-free-plus-auto-guidance", "sweep")
ALIKE = ("variations", "distilled-variety", "upscale-second-pass")  # have the nodes of others, and take longer
UNDECIDED = ("scope", "refiner-hand-over")  # of them, those that run without --all until guidance acts
SAVED = {  # prefix of the files, how many of them, and their size
    "auto-guidance": {"auto-guidance": (1, (1200, 384))},
    "auto-guidance-checkpoints": {
        "auto-guidance-checkpoints-without": (1, (64, 64)), "auto-guidance-checkpoints-with": (1, (64, 64)),
    },
    "detail-pass": {"detail-pass": (1, (1176, 384))},
    "distilled-variety": {"distilled-variety": (1, (1024, 384))},
    "flux-2-klein": {"flux-2-klein-without": (1, (64, 64)), "flux-2-klein-with": (1, (64, 64))},
    "flux-dev": {"flux-dev-without": (1, (64, 64)), "flux-dev-with": (1, (64, 64))},
    "hunyuan-video-1.5": {"hunyuan-video-1.5": (1, (64, 64))},
    "krea-2": {"krea-2-without": (1, (64, 64)), "krea-2-with": (1, (64, 64))},
    "ltx-2.3": {"ltx-2.3": (1, (128, 128))},
    "qwen-image": {"qwen-image-without": (1, (64, 64)), "qwen-image-with": (1, (64, 64))},
    "qwen-image-edit": {"qwen-image-edit-without": (1, (64, 64)), "qwen-image-edit-with": (1, (64, 64))},
    "quickstart": {"saddle-free-quickstart": (1, (1176, 384))},
    "refiner-hand-over": {"refiner-hand-over": (1, (1176, 432))},
    "repair": {"repair": (1, (888, 600))},
    "saddle-free-plus-auto-guidance": {"saddle-free-plus-auto-guidance": (1, (1608, 384))},
    "scope": {"scope-plot": (1, (1024, 640)), "scope-heat-map": (3, (256, 256))},
    "sd15": {"sd15-without": (1, (64, 64)), "sd15-with": (1, (64, 64))},
    "sd35": {"sd35-without": (1, (64, 64)), "sd35-with": (1, (64, 64))},
    "sdxl": {"sdxl-without": (1, (64, 64)), "sdxl-with": (1, (64, 64))},
    "sweep": {"sweep": (1, (1032, 261))},
    "upscale-second-pass": {"upscale-second-pass": (1, (1176, 384))},
    "unconditional": {"unconditional-without": (4, (64, 64)), "unconditional-with": (4, (64, 64))},
    "variations": {"variations": (1, (1024, 384))},
    "wan-2.2-14b": {"wan-2.2-14b": (1, (64, 64))},
    "wan-video": {"wan-video": (1, (64, 64))},
    "z-image": {"z-image-without": (1, (64, 64)), "z-image-with": (1, (64, 64))},
    "z-image-turbo": {"z-image-turbo-without": (1, (64, 64)), "z-image-turbo-with": (1, (64, 64))},
    "z-image-turbo-variations": {"z-image-turbo-variations": (5, (64, 64))},
}
PASSES = {  # of templates that sample more than once: what the samplers of each pass do
    "detail-pass": Counter({"First pass": 1, "Detail pass": 2}),
    "refiner-hand-over": Counter({"Base": 2, "Refiner": 2}),
    "repair": Counter({"First pass": 1, "Repair": 2}),
    "upscale-second-pass": Counter({"First pass": 2, "Second pass": 2}),
}


@pytest.fixture(scope="module")
def to_prompt(host):
    """What the page sends when Run is pressed, once every file that a template names is there."""
    template_stand_ins.write_template_files(host.models)
    template_stand_ins.write_empty_files(host.models, WORKFLOWS.values())

    def convert(workflow):
        types = {node["type"] for node in workflow["nodes"]} & set(host.nodes.NODE_CLASS_MAPPINGS)
        prompt = prompts.to_prompt(workflow, {name: host.node(name).INPUT_TYPES() for name in types})
        small_prompts.write_pictures(host, prompt)
        return prompt

    return convert


def nodes(workflow, *types):
    return [node for node in workflow["nodes"] if not types or node["type"] in types]


def test_every_template_is_listed_here():
    assert set(SAVED) == set(WORKFLOWS)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_host_takes_what_the_page_sends(host, to_prompt, name):
    valid, error, outputs, node_errors = host.validate(to_prompt(WORKFLOWS[name]))
    assert valid, (error, node_errors)
    assert not node_errors
    assert len(outputs) >= len(SAVED[name])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_only_nodes_of_the_host_and_of_the_pack(host, name):
    for node in nodes(WORKFLOWS[name]):
        if node["type"] != "MarkdownNote":
            module = getattr(host.node(node["type"]), "RELATIVE_PYTHON_MODULE", None) or "nodes"
            assert module == "nodes" or module.startswith("comfy_extras.") or module.endswith(f".{ROOT.name}"), node


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_note_and_a_thumbnail(name):
    (note,) = nodes(WORKFLOWS[name], "MarkdownNote")
    (text,) = note["widgets_values"]
    assert "## What to look at" in text and "## What to turn" in text
    path = ROOT / "workflows" / f"{name}.jpg"
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        assert 800 <= picture.width <= 1700 and 200 <= picture.height <= 1000
    assert path.stat().st_size < 150_000


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_model_file_can_be_found(host, name):
    """Each file that a loader names is declared with its folder and address, and linked in the note."""
    import folder_paths

    (note,) = nodes(WORKFLOWS[name], "MarkdownNote")
    for node in nodes(WORKFLOWS[name]):
        named = [value for value in node["widgets_values"] if str(value).endswith(".safetensors")]
        declared = node["properties"].get("models", [])
        assert [model["name"] for model in declared] == named
        for model in declared:
            page, path = re.fullmatch(ADDRESS, model["url"]).groups()
            assert path.split("/")[-1] == model["name"]
            assert model["directory"] in folder_paths.folder_names_and_paths
            assert f"[{model['name']}]({page}) in `models/{model['directory']}`" in note["widgets_values"][0]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_node_lies_on_another(name):
    boxes = [
        (*node["pos"], node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1] + TITLE)
        for node in nodes(WORKFLOWS[name])
        if not node["flags"].get("collapsed")
    ]
    for (left, top, right, bottom), other in itertools.combinations(boxes, 2):
        assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


@pytest.mark.parametrize("name", sorted(set(WORKFLOWS) - set(PASSES)))
def test_samplers_differ_in_the_model_only(to_prompt, name):
    prompt = to_prompt(WORKFLOWS[name])
    samplers = [node["inputs"] for node in prompt.values() if node["class_type"] == "KSampler"]
    assert len({json.dumps(inputs["model"]) for inputs in samplers}) == len(samplers)
    assert len({json.dumps({**inputs, "model": None}) for inputs in samplers}) <= 1


@pytest.mark.parametrize("name", PASSES)
def test_the_samplers_of_a_pass_differ_in_the_model_and_what_is_before_it_only(to_prompt, name):
    prompt, titles = to_prompt(WORKFLOWS[name]), {}
    for node in nodes(WORKFLOWS[name], *SAMPLERS):
        titles.setdefault(node["title"], []).append(prompt[str(node["id"])]["inputs"])
    assert Counter({title: len(samplers) for title, samplers in titles.items()}) == PASSES[name]
    for samplers in titles.values():
        assert len({json.dumps(inputs["model"]) for inputs in samplers}) == len(samplers)
        assert len({json.dumps({**inputs, "model": None, "latent_image": None}) for inputs in samplers}) == 1


def test_a_hand_over_leaves_no_step_out(to_prompt):
    prompt = to_prompt(WORKFLOWS["refiner-hand-over"]).values()
    samplers = [node["inputs"] for node in prompt if node["class_type"] == "KSamplerAdvanced"]
    assert {sampler["end_at_step"] for sampler in samplers if sampler["add_noise"] == "enable"} == {
        sampler["start_at_step"] for sampler in samplers if sampler["add_noise"] == "disable"
    }
    for sampler in samplers:
        assert (sampler["add_noise"] == "enable") == (sampler["return_with_leftover_noise"] == "enable")


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_as_the_command_writes_it(host, name):
    """With the knobs of our node at their defaults; after a change run `--run benchmarks/make_templates.py`."""
    page = template_page.Page(name, host.nodes.NODE_CLASS_MAPPINGS)
    RECIPES[name](page)
    assert page.workflow() == WORKFLOWS[name]


def without_text_encoder(prompt, family):
    """The prompt with random conditions of a stand-in family."""
    for key, node in list(prompt.items()):
        if node["class_type"] in TEXT_NODES:
            del prompt[key]
        elif node["class_type"] == "CLIPTextEncode":
            prompt[key] = {"class_type": "TestConditioning", "inputs": {"family": family, "seed": int(key)}}


def reduced(prompt, steps):
    """A prompt with few steps and small pictures, whose samplers are watched and whose latents are kept by node."""
    small, most = copy.deepcopy(prompt), SMALL | {"steps": steps}
    for key, node in prompt.items():
        inputs = small[key]["inputs"]
        if node["class_type"] != "ImageScale":
            inputs |= {name: min(inputs[name], value) for name, value in most.items() if name in inputs}
        for place in ("start_at_step", "end_at_step"):  # at the same part of the schedule
            if inputs.get(place, 10000) < 10000:
                inputs[place] = inputs[place] * inputs["steps"] // node["inputs"]["steps"]
        if node["class_type"] in SAMPLERS:
            watch = {"model": inputs["model"], "label": key, "break_at": 0, "how": "interrupt"}
            small[f"watch {key}"] = {"class_type": "TestWatch", "inputs": watch}
            inputs["model"] = [f"watch {key}", 0]
        if node["class_type"] in (*SAMPLERS, *SEVERAL):
            samples = [key, 1 if node["class_type"] in SEVERAL else 0]
            small[f"capture {key}"] = {"class_type": "TestCapture", "inputs": {"samples": samples, "label": key}}
    return small


def is_guided(prompt, node):
    """Whether Saddle-Free Guidance is before a sampler."""
    while links := [node["inputs"][name] for name in ("model", "guider") if isinstance(node["inputs"].get(name), list)]:
        node = prompt[links[0][0]]
        if node["class_type"] == "SaddleFreeGuidance":
            return True
    return False


def frames(path):
    """The pictures of a PNG or of a video."""
    if path.suffix == ".png":
        with Image.open(path) as picture:
            return [picture.convert("RGB")]
    import av

    with av.open(str(path)) as video:
        return [frame.to_image() for frame in video.decode(video=0)]


@pytest.mark.parametrize("name, steps", long_but(
    [*((name, SMALL["steps"]) for name in WORKFLOWS if name not in UNDECIDED), *((name, DEMO_STEPS) for name in DEMO)],
    [
        (name, DEMO_STEPS if name in UNDECIDED else SMALL["steps"]) for name in WORKFLOWS
        if name not in (LARGE, *ALIKE, *ELSEWHERE)
    ],
))
def test_it_makes_its_pictures(host, to_prompt, name, steps):
    prompt = to_prompt(WORKFLOWS[name])
    if name in WITHOUT_TEXT_ENCODER:
        without_text_encoder(prompt, WITHOUT_TEXT_ENCODER[name])
    if name in WITHOUT_LOADERS:
        small = small_prompts.reduced(host, small_prompts.with_stand_ins(host, prompt, WITHOUT_LOADERS[name]))
        executor = host.run(small_prompts.watched(host, small))
    else:
        executor = host.run(reduced(prompt, steps))
    check_run(host, name, prompt, executor, steps)


@pytest.mark.long
def test_both_text_encoders_of_sdxl_encode(host, to_prompt):
    template_stand_ins.write_sdxl_text_encoders(host.models)
    prompt = to_prompt(WORKFLOWS[SDXL_TWICE])
    check_run(host, SDXL_TWICE, prompt, host.run(reduced(prompt, SMALL["steps"])), SMALL["steps"])


def check_run(host, name, prompt, executor, steps):
    """The latents and the files of a template that ran."""
    assert executor.success, failure(executor)
    check_latents(name, prompt, host.record, undecided=steps == DEMO_STEPS)
    shown = executor.history_result["outputs"].values()
    check_files(host, name, [file for output in shown for file in output.get("images", []) if file["type"] == "output"])


def check_latents(name, prompt, record, undecided):
    """Finite latents; an evaluation a sigma without guidance, more where it searches; where undecided, other pictures.

    After the few steps of the others it has not looked yet.
    """
    branches, searched = [], 0
    for key, latent in record.latents.items():
        for part in latent.unbind() if latent.is_nested else [latent]:
            assert part.isfinite().all() and part.std() > 0
        if prompt[key]["class_type"] not in SEVERAL:
            counts = Counter(record.evaluations[key])
            extra = sum(counts.values()) - len(counts)
            searched += extra
            least = 2 if undecided and name not in PASSES else 0
            assert extra == 0 if not is_guided(prompt, prompt[key]) else extra >= least
        if prompt[key]["class_type"] == "GuidanceVariations":
            check_variations(latent, prompt[key]["inputs"], undecided)
            continue
        count = len(prompt[key]["inputs"].get("values", "1").split(","))
        handed_over = prompt[key]["inputs"].get("return_with_leftover_noise") == "enable"  # before it has looked
        branches += [] if latent.is_nested or handed_over else latent.chunk(count)
    assert record.latents and (searched >= 2 or name not in PASSES or not undecided)
    if undecided:
        assert not any(torch.equal(one, other) for one, other in itertools.combinations(branches, 2))


def check_variations(latents, knobs, undecided):
    """Of each image its plain picture and `count` variations, the nearest first; of some undecided ones, all others."""
    assert knobs["plain_first"] and knobs["order"] == "nearest first"
    rows = latents.unflatten(0, (-1, knobs["count"] + 1))
    far = (rows - rows[:, :1]).flatten(2).square().mean(dim=2).sqrt()
    assert (far.diff(dim=1) >= 0).all()
    assert not undecided or (far[:, 1:].amin(dim=1) > 0.05).any()


def check_files(host, name, files):
    """The saved files, by prefix, with their sizes; no picture of one colour."""
    by_prefix = {}
    for file in files:
        prefix = re.sub(r"_\d+_\.(png|mp4)$", "", file["filename"])
        by_prefix.setdefault(prefix, []).append(host.output / file["subfolder"] / file["filename"])
    assert {prefix: len(paths) for prefix, paths in by_prefix.items()} == {
        prefix: count for prefix, (count, _) in SAVED[name].items()
    }
    for prefix, paths in by_prefix.items():
        for path in paths:
            pictures = frames(path)
            length = small_prompts.SMALL["length"] if name in WITHOUT_LOADERS else SMALL["length"]
            assert len(pictures) == (length if path.suffix == ".mp4" else 1)
            for picture in pictures:
                assert picture.size == SAVED[name][prefix][1]
                assert max(high - low for low, high in picture.getextrema()) > 20
