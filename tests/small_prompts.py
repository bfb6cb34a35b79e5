"""Prompts for large models made to run in a test: stand-ins for loaders, few steps, small latents, watched samplers."""

import copy

from official_graphs import is_link
from PIL import Image

PARTS = {"MODEL": "model", "CLIP": "clip", "VAE": "vae", "LATENT_UPSCALE_MODEL": "upscaler"}
PLACES = {"model": 0, "clip": 1, "vae": 2, "audio": 3, "upscaler": 4}
SMALL = {"width": 64, "height": 64, "length": 9, "frames_number": 9, "megapixels": 0.01}  # at most
SMALL_PICTURE = {"upscale_method": "bilinear", "width": SMALL["width"], "height": SMALL["height"], "crop": "disabled"}
STEPS = 4
HALVES = {True: {"end_at_step": STEPS // 2}, False: {"start_at_step": STEPS // 2, "end_at_step": 10000}}  # first?


def with_stand_ins(host, prompt, family):
    """A prompt whose loaders are stand-ins of a family, each model of other weights, and whose LoRAs are left out."""
    made = _without_loras(copy.deepcopy(prompt))
    loaders = {}
    for key, node in made.items():
        kinds = [PARTS.get(kind) for kind in host.node(node["class_type"]).RETURN_TYPES]
        if any(kinds) and not any(is_link(value) for value in node["inputs"].values()):
            names = " ".join(str(value) for value in [node["class_type"], *node["inputs"].values()]).lower()
            loaders[key] = ["audio" if kind == "vae" and "audio" in names else kind for kind in kinds]
    for seed, (key, kinds) in enumerate(loaders.items()):
        parts = " ".join(filter(None, kinds))
        made[key] = {"class_type": "TestFamily", "inputs": {"family": family, "seed": seed, "parts": parts}}
    for node in made.values():
        for name, value in node["inputs"].items():
            if is_link(value) and value[0] in loaders:
                node["inputs"][name] = [value[0], PLACES[loaders[value[0]][value[1]]]]
    return made


def _without_loras(prompt):
    loras = {key: node["inputs"] for key, node in prompt.items() if "lora_name" in node["inputs"]}
    for node in prompt.values():
        for name, value in node["inputs"].items():
            while is_link(value) and value[0] in loras:
                value = loras[value[0]]["clip" if value[1] == 1 else "model"]
            node["inputs"][name] = value
    return {key: node for key, node in prompt.items() if key not in loras}


def reduced(host, prompt):
    """A prompt with few steps and small latents, and with a probe at every call of our node."""
    small = copy.deepcopy(prompt)
    for node in small.values():
        inputs, kinds = node["inputs"], host.node(node["class_type"]).RETURN_TYPES
        if "LATENT" in kinds or node["class_type"] == "ResolutionSelector":
            inputs |= {name: _least(inputs[name], most) for name, most in SMALL.items() if name in inputs}
        if "steps" in inputs:
            inputs["steps"] = STEPS
        if "start_at_step" in inputs:
            inputs |= HALVES[inputs["start_at_step"] == 0]
        if "sigmas" in inputs and isinstance(inputs["sigmas"], str):
            values = inputs["sigmas"].split(",")
            inputs["sigmas"] = ",".join([*values[: STEPS - 1], values[-1]])
        if node["class_type"] == "SaddleFreeGuidance":
            inputs["refresh_every"] = 1
        if node["class_type"] == "FluxKontextImageScale":
            node |= {"class_type": "ImageScale", "inputs": inputs | SMALL_PICTURE}
    return small


def _least(value, most):
    return most if is_link(value) else min(value, most)


def samplers(host, prompt):
    """The ids of the nodes that sample: they take a model or a guider and give a latent."""
    return [
        key for key, node in prompt.items()
        if "LATENT" in host.node(node["class_type"]).RETURN_TYPES and {"model", "guider"} & set(node["inputs"])
    ]


def watched(host, prompt):
    """A prompt whose samplers' models are watched, and whose latents are kept, both by the sampler's id."""
    made = copy.deepcopy(prompt)
    for key in samplers(host, prompt):
        guide = made[key] if "model" in made[key]["inputs"] else made[made[key]["inputs"]["guider"][0]]
        watch = {"model": guide["inputs"]["model"], "label": key, "break_at": 0, "how": "interrupt"}
        made[f"watch {key}"] = {"class_type": "TestWatch", "inputs": watch}
        guide["inputs"]["model"] = [f"watch {key}", 0]
        place = host.node(made[key]["class_type"]).RETURN_TYPES.index("LATENT")
        made[f"capture {key}"] = {"class_type": "TestCapture", "inputs": {"samples": [key, place], "label": key}}
    return made


def only_latents(prompt):
    """The part of a watched prompt that its kept latents need: nothing is decoded or saved."""
    needed, waiting = set(), [key for key, node in prompt.items() if node["class_type"] == "TestCapture"]
    while waiting:
        key = waiting.pop()
        if key not in needed:
            needed.add(key)
            waiting += [value[0] for value in prompt[key]["inputs"].values() if is_link(value)]
    return {key: node for key, node in prompt.items() if key in needed}


def write_pictures(host, prompt):
    """Noise under the names of the pictures that a prompt loads."""
    folder = host.models.parent / "input"
    folder.mkdir(exist_ok=True)
    for node in prompt.values():
        if node["class_type"] == "LoadImage":
            Image.effect_noise((64, 64), 90).convert("RGB").save(folder / node["inputs"]["image"])
