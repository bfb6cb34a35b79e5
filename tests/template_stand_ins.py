"""Stand-ins for the model files that the templates name, under exactly those names.

Diffusion models are those of stand_ins. A checkpoint also holds a small VAE and, for SD1.5 and where asked for one
SDXL, text encoders of the real sizes, which the loaders fix: random embeddings, and zeros in all layers, so that each
passes its input on. The zeros are holes in the file: CLIP-G is 1.4 GB, of which 0.13 GB are written.
"""

import json
import math
import shutil

import torch
from safetensors.torch import load_file, save_file
from stand_ins import random_weights, write_stand_in

DTYPES = {torch.float16: "F16", torch.float32: "F32"}
DIFFERENT = 2000  # rows of an embedding
RANDOM = ("token_embedding", "position_embedding", "positional_embedding", "text_projection")


def write_template_files(models):
    """Writes the files that can be loaded into the folders of `models`, unless they are there."""
    checkpoints = {
        "v1-5-pruned-emaonly-fp16": ("sd15", 0, 4, _sd15_text_encoder),
        "sd_xl_base_1.0": ("sdxl", 0, 4, dict),
        "RealVisXL_V5.0_fp16": ("sdxl", 1, 4, dict),
        "sd3.5_medium": ("sd35", 0, 16, dict),
    }
    for path, (family, seed, channels, encoders) in _missing(models / "checkpoints", checkpoints):
        model = load_file(path.with_name(write_stand_in(family, models, seed)))
        vae = {f"first_stage_model.{key}": value for key, value in random_weights(_image_vae(channels), 0).items()}
        _write_sparse(path, model | vae | encoders())
    transformers = {"flux1-dev": "flux", "wan2.1_t2v_1.3B_fp16": "wan"}
    for path, family in _missing(models / "diffusion_models", transformers):
        shutil.copyfile(path.with_name(write_stand_in(family, models)), path)
    for path, vae in _missing(models / "vae", {"ae": lambda: _image_vae(16), "wan_2.1_vae": _video_vae}):
        save_file(random_weights(vae(), 0), path)


def write_sdxl_text_encoders(models):
    """Writes one SDXL checkpoint anew, with its text encoders; those of two at once would take more than 6 GB."""
    path = models / "checkpoints" / "RealVisXL_V5.0_fp16.safetensors"
    weights = load_file(path)
    path.unlink()  # the weights are still read from it
    _write_sparse(path, weights | _sdxl_text_encoders())


def write_empty_files(models, workflows):
    """Writes empty files for the rest of what workflows name: enough for a prompt to be valid."""
    nodes = [node for workflow in workflows for node in workflow["nodes"]]
    for model in (model for node in nodes for model in node["properties"].get("models", [])):
        folder = models / model["directory"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / model["name"]).touch()


def _missing(folder, recipes):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [(folder / f"{name}.safetensors", recipe) for name, recipe in recipes.items()]
    return [(path, recipe) for path, recipe in paths if not path.exists()]


def _image_vae(channels):
    import comfy.taesd.taesd

    return comfy.taesd.taesd.TAESD(latent_channels=channels)


def _video_vae():
    import comfy.ldm.wan.vae

    return comfy.ldm.wan.vae.WanVAE(dim=8, z_dim=16, temperal_downsample=[False, True, True])


def _sd15_text_encoder():
    return _passing_on({f"cond_stage_model.{key}": value for key, value in _clip_l().items()})


def _sdxl_text_encoders():
    import comfy.sdxl_clip
    import comfy.supported_models

    clip_g = comfy.sdxl_clip.SDXLClipG(device="meta", dtype=torch.float16).state_dict()
    clips = {f"clip_l.{key}": value for key, value in _clip_l().items()}
    clips |= {f"clip_g.{key}": value for key, value in clip_g.items()}
    return _passing_on(comfy.supported_models.SDXL.process_clip_state_dict_for_saving(None, clips))


def _clip_l():
    import comfy.sd1_clip

    return comfy.sd1_clip.SDClipModel(device="meta", dtype=torch.float16).state_dict()


def _passing_on(shapes):
    """Weights for tensors on the meta device: those that stay there are zeros."""
    generator = torch.Generator().manual_seed(0)
    weights = {key: value for key, value in shapes.items() if value.is_meta}
    for key, value in weights.items():
        if any(name in key for name in RANDOM):
            rows = torch.randn(min(DIFFERENT, len(value)), value.shape[-1], generator=generator).half()
            weights[key] = rows[torch.arange(len(value)) % len(rows)] / math.sqrt(value.shape[-1])
        elif value.ndim == 1 and key.endswith("weight"):
            weights[key] = torch.ones(value.shape, dtype=value.dtype)
    return weights


def _write_sparse(path, weights):
    """A safetensors file in which tensors on the meta device are zeros that take no space on the disk."""
    header, end = {}, 0
    for key, value in sorted(weights.items(), key=lambda item: -item[1].element_size()):  # keeps them aligned
        start, end = end, end + value.nbytes
        header[key] = {"dtype": DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        data = file.tell()
        for key, value in weights.items():
            if not value.is_meta:
                file.seek(data + header[key]["data_offsets"][0])
                file.write(value.contiguous().numpy().tobytes())
        file.truncate(data + end)
