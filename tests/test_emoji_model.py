"""The bundled emoji model in the real host: what graphs load it, its labels, sizes, formats and weak version."""

import json
import random
import shutil
import sys

import demos
import measuring
import pytest
import torch
from cases import in_turn
from emoji_classifier import load_emoji_classifier
from graphs import Graph, branches, demo, emoji, output, sample, steered
from half_precision import fast_half_precision
from host import failure
from pack import ROOT
from safetensors import safe_open

WEIGHTS = ROOT / "workflows" / "demo_model"
FEW = "emoji, 8 steps"
FORMATS = ("float32", "float16", "bfloat16")


def labels():
    from saddle_free_guidance.nodes.demo.emoji_network import KINDS, STYLES

    return list(KINDS), list(STYLES)


def network(patcher):
    return type(patcher.model.diffusion_model).__name__


def one_forward(host, inputs):
    """What three steps of a loader's model draw, with its conditioning, as a graph that names only these inputs."""
    graph = Graph()
    loaded = graph.add("SaddleFreeDemoModel", **inputs)
    side = 32 if inputs.get("model", "digits") == "digits" else 64
    latent = graph.add("EmptyLatentImage", width=side, height=side, batch_size=2)
    condition = output(loaded, 3)
    samples = sample(graph, "KSampler", loaded, condition, condition, latent, scheduler="karras")
    graph.add("TestCapture", samples=samples, label="run")
    return host.latents(graph.prompt)["run"]


# --- Which model a graph loads ---------------------------------------------------------------------------------------


def test_a_prompt_from_before_the_choice_draws_the_same_digits(host):
    before = one_forward(host, {"digit": "7"})
    assert before.shape == (2, 3, 32, 32)
    assert torch.equal(before, one_forward(host, {"digit": "7", "model": "digits"}))
    assert torch.equal(before, one_forward(host, {"digit": "7", "model": "digits", "kind": "cat", "style": "blob"}))
    assert not torch.equal(before, one_forward(host, {"digit": "6", "model": "digits"}))


def test_what_a_page_fills_into_a_saved_graph_with_one_value_is_the_digits_model(host):
    """The page takes each value that is missing from the node's description as the host serves it."""
    import server

    described = server.node_info("SaddleFreeDemoModel") if hasattr(server, "node_info") else None
    described = described or host.node("SaddleFreeDemoModel").GET_NODE_INFO_V1()
    order = described["input_order"]["required"] + described["input_order"]["optional"]
    assert order == ["digit", "model", "kind", "style"]
    assert described["input_order"]["required"] == ["digit"]
    filled = {name: described["input"]["optional"][name][1]["default"] for name in order[1:]}
    assert filled == {"model": "digits", "kind": "any", "style": "any"}
    assert torch.equal(one_forward(host, {"digit": "7", **filled}), one_forward(host, {"digit": "7"}))


def test_the_digit_does_nothing_for_emoji(host):
    drawn = [one_forward(host, {"digit": digit, "model": "emoji", "kind": "bird"}) for digit in ("none", "4")]
    assert drawn[0].shape == (2, 3, 64, 64) and torch.equal(*drawn)


def test_the_choice_of_8_steps_comes_last_and_draws_what_its_own_weights_draw(host):
    schema = host.node("SaddleFreeDemoModel").define_schema()
    (options,) = (item.options for item in schema.inputs if item.id == "model")
    assert options == ["emoji", "digits", FEW]
    drawn = {model: one_forward(host, {"digit": "4", "model": model, "kind": "bird"}) for model in ("emoji", FEW)}
    other = one_forward(host, {"digit": "none", "model": FEW, "kind": "boat", "style": "noto"})
    assert drawn[FEW].shape == (2, 3, 64, 64)
    assert all((drawn[FEW] - one).square().mean().sqrt() > 0.02 for one in (drawn["emoji"], other))


def test_the_8_step_file_holds_changed_layers_and_the_emoji_model_has_the_rest(host):
    """The two differ in every layer of the file, and in no other."""
    from saddle_free_guidance.nodes.demo_model import load_demo_model

    few, teacher = (load_demo_model(name).model.diffusion_model.state_dict() for name in ("emoji-8-steps", "emoji"))
    changed = {name for name in few if not torch.equal(few[name], teacher[name])}
    with safe_open(WEIGHTS / "emoji-8-steps.safetensors", framework="pt") as file:
        assert set(file.keys()) == changed and 0 < len(changed) < len(few)


def test_without_the_emoji_model_the_8_step_one_says_which_file_is_missing(host, tmp_path, monkeypatch):
    node = host.node("SaddleFreeDemoModel").__module__
    module = sys.modules[node.replace(".demo_model", ".host.demo_model")]
    shutil.copy(WEIGHTS / "emoji-8-steps.safetensors", tmp_path)
    monkeypatch.setattr(module, "WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"emoji\.safetensors are not in .*install the pack again"):
        module.load_demo_model("emoji-8-steps")


@pytest.mark.parametrize("count", [4, pytest.param(12, marks=pytest.mark.long)])
def test_in_8_steps_it_draws_what_its_teacher_needs_24_for(host, count):
    """The same noise; what is left of the difference that the teacher's 8 steps make, and of its loss of contrast."""
    module = sys.modules[host.node("SaddleFreeDemoModel").__module__]
    wanted, teacher, few = (
        measuring.sample(module.load_demo_model(name), count, steps=steps, batch=count, seed=11, demo=demos.Emoji)
        for name, steps in (("emoji", 24), ("emoji", 8), ("emoji-8-steps", 8))
    )
    far = [(drawn - wanted).square().mean().sqrt().item() for drawn in (few, teacher)]
    pale = [abs(drawn.std() / wanted.std() - 1).item() for drawn in (few, teacher)]
    assert far[0] < 0.8 * far[1] and pale[0] < 0.5 * pale[1], (far, pale)


def test_each_name_loads_its_network_and_weak_ones_are_smaller(host):
    from saddle_free_guidance.nodes.host.demo_model import load_demo_model

    sizes = {}
    for name in ("model", "weak", "emoji", "emoji-weak", "emoji-8-steps"):
        patcher = load_demo_model(name)
        assert network(patcher) == ("EmojiUNet" if "emoji" in name else "DemoUNet")
        assert patcher.model.model_sampling.sigma_data == (0.56 if "emoji" in name else 0.5)
        assert patcher.model.model_sampling.sigma_max.item() == pytest.approx(40)
        sizes[name] = sum(value.numel() for value in patcher.model.diffusion_model.parameters())
    assert sizes["emoji"] == sizes["emoji-8-steps"] == 6_287_268 and sizes["emoji-weak"] == 1_048_412


# --- Labels ----------------------------------------------------------------------------------------------------------


def test_the_labels_of_the_node_are_those_of_the_weights(host):
    schema = host.node("SaddleFreeDemoModel").define_schema()
    options = {item.id: item.options for item in schema.inputs}
    for name in ("emoji", "emoji-weak", "emoji-8-steps"):
        with safe_open(WEIGHTS / f"{name}.safetensors", framework="pt") as file:
            facts = json.loads(file.metadata()["config"])
        assert options["kind"] == ["any", *facts["kinds"]] and len(facts["kinds"]) == 31
        assert options["style"] == ["any", *facts["styles"]] and len(facts["styles"]) == 8


def test_a_kind_and_a_style_are_one_token_of_weights(host):
    node, (kinds, styles) = host.node("SaddleFreeDemoModel"), labels()

    def weights(kind, style):
        (tensor, _), = node.execute("none", "emoji", kind, style).result[3]
        assert tensor.shape == (1, 1, 39)
        return tensor.flatten().nonzero().flatten().tolist()

    assert weights("any", "any") == []
    assert weights("cat", "any") == [kinds.index("cat")]
    assert weights("any", "blob") == [31 + styles.index("blob")]
    assert weights("tool", "fxemoji") == [30, 38]


def test_no_label_is_what_zeroing_a_condition_gives(host):
    graph = Graph()
    loaded = graph.add("SaddleFreeDemoModel", digit="none", model="emoji", kind="fruit", style="noto")
    zeroed = graph.add("ConditioningZeroOut", conditioning=output(loaded, 3))
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=2)
    graph.add("TestCapture", samples=sample(graph, "KSampler", loaded, zeroed, zeroed, latent), label="zeroed")
    plain = host.latents(branches(emoji(), {"plain": None}, batch=2))["plain"]
    assert torch.equal(host.latents(graph.prompt)["zeroed"], plain)


@pytest.mark.parametrize("batch, steps", [(1, 8), pytest.param(2, 12, marks=pytest.mark.long)])
def test_pictures_are_of_the_kind_and_in_the_style_that_was_asked_for(host, batch, steps):
    """Of most of 12 labels; batch: pictures of each."""
    classifier, (kinds, styles) = load_emoji_classifier(), labels()
    asked = list(zip(random.Random(3).sample(kinds, 12), [*styles, *styles]))
    found = {"kind": [], "style": [], "another kind": []}
    for index, (kind, style) in enumerate(asked):
        sampling = {"batch": batch, "cfg": 2.0, "steps": steps, "scheduler": "karras", "seed": index}
        drawn = host.latents(branches(emoji(kind, style), {"run": None}, **sampling))["run"]
        of_kind, in_style, _ = (scores.argmax(dim=1) for scores in classifier(drawn.clamp(-1, 1)))
        found["kind"] += (of_kind == kinds.index(kind)).tolist()
        found["style"] += (in_style == styles.index(style)).tolist()
        found["another kind"] += (of_kind == kinds.index(asked[index - 1][0])).tolist()
    shares = {name: sum(hits) / len(hits) for name, hits in found.items()}
    assert shares["kind"] >= 0.5 and shares["style"] >= 0.3 and shares["another kind"] <= 0.15, shares


# --- Sizes and formats -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width, height", [(64, 96), (8, 8), (128, 64)])
def test_sides_may_be_any_multiple_of_eight(host, width, height):
    from saddle_free_guidance.nodes.demo.emoji_network import EmojiUNet

    network = EmojiUNet(widths=(16, 16, 32), blocks=1, embedding=16)
    with torch.no_grad():
        assert network(torch.zeros(2, 3, height, width), torch.zeros(2)).shape == (2, 3, height, width)


@pytest.mark.parametrize("width, height", [(64, 68), (60, 64), (20, 20)])
def test_other_sides_are_refused_with_what_to_do(host, width, height):
    graph = Graph()
    loaded = graph.add("SaddleFreeDemoModel", digit="none", model="emoji")
    latent = graph.add("SolidMask", value=0.0, width=width, height=height)
    image = graph.add("MaskToImage", mask=latent)
    encoded = graph.add("VAEEncode", pixels=image, vae=output(loaded, 2))
    condition = output(loaded, 3)
    samples = sample(graph, "KSampler", loaded, condition, condition, encoded)
    graph.add("TestCapture", samples=samples, label="run")
    executor = host.run(graph.prompt)
    assert not executor.success
    message = failure(executor)["exception_message"]
    assert f"multiple of 8 pixels, best 64x64, and this latent is {width}x{height}" in message


def formatted(host, monkeypatch, name):
    """Makes the loader's models compute in a format."""
    module = sys.modules[host.node("SaddleFreeDemoModel").__module__]
    load = module.load_demo_model

    def in_format(*args, **kwargs):
        patcher = load(*args, **kwargs)
        if name != "float32":
            patcher.set_model_compute_dtype(getattr(torch, name))
        return patcher

    monkeypatch.setattr(module, "load_demo_model", in_format)


@pytest.fixture(scope="module")
def exact():
    """(model, batch) -> what was drawn in float32."""
    return {}


@pytest.mark.parametrize("name, batch, model", list(in_turn(FORMATS, [1, 3], [FEW, "emoji"])))
def test_guidance_acts_in_every_format_and_nearly_as_in_float32(host, monkeypatch, exact, model, name, batch):
    variants = {"plain": None, "off": {"scale": 0.0}, "on": {"scale": 8.0, "refresh_every": 0}}
    prompt = branches(emoji(model=model), variants, batch=batch, steps=8, scheduler="karras")
    if (model, batch) not in exact:
        exact[model, batch] = host.latents(prompt)
    formatted(host, monkeypatch, name)
    with fast_half_precision():
        drawn = host.latents(prompt)
    assert all(value.shape == (batch, 3, 64, 64) and value.isfinite().all() for value in drawn.values())
    assert torch.equal(drawn["off"], drawn["plain"])
    if (name, model, batch) != ("bfloat16", FEW, 1):  # where the only picture's saddle is not seen through the noise
        assert (drawn["on"] - drawn["plain"]).square().mean().sqrt() > 0.02
    apart = (drawn["plain"] - exact[model, batch]["plain"]).square().mean().sqrt()
    assert apart == 0 if name == "float32" else 0 < apart < 0.1


@pytest.mark.parametrize("name, batch", list(in_turn(FORMATS, [1, 3])))
def test_auto_guidance_takes_the_weak_emoji_model(host, monkeypatch, name, batch):
    formatted(host, monkeypatch, name)
    graph = Graph()
    model, condition, _, latent = emoji("flower")(graph)
    for label, scale in (("one", 1.0), ("two", 2.0)):
        guided = steered(graph, model, output(model, 1), scale=scale)
        samples = sample(graph, "KSampler", guided, condition, condition, latent(batch), scheduler="karras", steps=4)
        graph.add("TestCapture", samples=samples, label=label)
    with fast_half_precision():
        drawn = host.latents(graph.prompt)
    assert drawn["two"].shape == (batch, 3, 64, 64) and drawn["two"].isfinite().all()
    assert (drawn["two"] - drawn["one"]).square().mean().sqrt() > 0.02


def test_a_batch_draws_what_its_pictures_draw_alone(host):
    from saddle_free_guidance.nodes.host.demo_model import emoji_conditioning, load_demo_model

    model = load_demo_model("emoji").model
    generator = torch.Generator().manual_seed(1)
    x, sigma = 4 * torch.randn(3, 3, 64, 64, generator=generator), torch.tensor([4.0, 1.0, 0.2])
    labels = torch.cat([emoji_conditioning(*pair)[0][0] for pair in (("cat", "any"), ("any", "noto"), ("any", "any"))])
    with torch.no_grad():
        whole = model.apply_model(x, sigma, c_crossattn=labels)
        alone = [model.apply_model(x[i : i + 1], sigma[i : i + 1], c_crossattn=labels[i : i + 1]) for i in range(3)]
    assert torch.allclose(whole, torch.cat(alone), atol=1e-4)
    assert not torch.allclose(whole[:1], model.apply_model(x[:1], sigma[:1], c_crossattn=labels[2:]), atol=1e-2)


def test_the_digits_model_is_what_it_was(host):
    """The digits of a seed; they were drawn before there was an emoji model."""
    drawn = host.latents(branches(demo("3"), {"run": None}, steps=4, scheduler="karras"))["run"]
    recorded = torch.tensor(DIGITS_BEFORE)
    assert torch.allclose(drawn[0, :, 16, 8:24:4], recorded, atol=1e-4), drawn[0, :, 16, 8:24:4].tolist()


DIGITS_BEFORE = [
    [-0.59354, -0.57062, -0.34702, -0.57984], [-0.59275, -0.59903, -0.43642, -0.57712],
    [-0.66964, -0.65741, -0.44599, -0.65907],
]


# --- The host's guidance of attention --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "emoji"])
def test_the_middle_attention_is_replaced_as_that_of_the_hosts_unets(host, name):
    """By a function of q, k and v, [B, pixels, channels]: the host's own attention changes nothing."""
    from comfy.ldm.modules.attention import attention_basic
    from saddle_free_guidance.nodes.demo_model import load_demo_model

    network = load_demo_model(name).model.diffusion_model
    side, context = (64, 39) if name == "emoji" else (32, 10)
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(2, 3, side, side, generator=generator), torch.zeros(2, 1, context)
    seen = []

    def same(q, k, v, options):
        seen.append((q.shape, k.shape, v.shape, options["block"], options["block_index"], options["told"]))
        return attention_basic(q, k, v, options["n_heads"])

    def draw(**replaced):
        options = {"told": 5, "patches_replace": {"attn1": replaced.get("by", {})}}
        return network(x, torch.zeros(2), labels, options)

    with torch.no_grad():
        plain = draw()
        assert torch.allclose(draw(by={("middle", 0): same}), plain, atol=1e-4)
        width = network.middle[0].qkv.weight.shape[1]
        assert seen == [((2, 64, width),) * 3 + (("middle", 0), index, 5) for index in range(len(network.middle))]
        whole = draw(by={("middle", 0): lambda q, k, v, options: v})
        last = draw(by={("middle", 0, len(network.middle) - 1): lambda q, k, v, options: v})
    assert (whole - plain).abs().max() > (last - plain).abs().max() > 0.01
    assert torch.equal(plain, network(x, torch.zeros(2), labels))


def test_the_hosts_pag_changes_the_picture_and_is_off_at_0(host):
    graph = Graph()
    loaded = graph.add("SaddleFreeDemoModel", digit="none", model="emoji")
    condition, latent = output(loaded, 3), graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    for label, scale in (("none", None), ("off", 0.0), ("on", 1.0)):
        model = loaded if scale is None else graph.add("PerturbedAttentionGuidance", model=loaded, scale=scale)
        samples = sample(graph, "KSampler", model, condition, condition, latent, scheduler="karras")
        graph.add("TestCapture", samples=samples, label=label)
    drawn = host.latents(graph.prompt)
    assert torch.equal(drawn["none"], drawn["off"])
    assert (drawn["on"] - drawn["none"]).abs().max() > 0.05
