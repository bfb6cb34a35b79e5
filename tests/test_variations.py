"""Guidance Variations in the real host: the right pictures, each computed once, ranked as asked, bad values refused."""

import itertools

import pytest
import torch
from cases import long_but
from graphs import Graph, guided, output, sample
from host import failure

SAMPLING = {"steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0, "seed": 7}
KNOBS = {
    "count": 3, "guidance_seed": 0, "difference": 8.0, "order": "by seed", "directions": 1, "plain_first": False
}
ORDERS = ("by seed", "nearest first", "farthest first")


def loaded(graph, batch):
    """The demo model, its conditions and an empty latent."""
    model = graph.add("SaddleFreeDemoModel", digit="none")
    negative = graph.add("ConditioningZeroOut", conditioning=output(model, 3))
    return model, output(model, 3), negative, graph.add("EmptyLatentImage", width=32, height=32, batch_size=batch)


def variations(batch=1, **changes):
    """A prompt with variations on the watched demo model."""
    graph = Graph()
    model, positive, negative, latent = loaded(graph, batch)
    watch = graph.add("TestWatch", model=model, label="variations", break_at=0, how="interrupt")
    made = graph.add(
        "GuidanceVariations", model=watch, positive=positive, negative=negative, latent_image=latent,
        vae=output(model, 2), **(SAMPLING | KNOBS | changes),
    )
    graph.add("TestCaptureImage", images=made, label="images")
    graph.add("TestCapture", samples=output(made, 1), label="latents")
    graph.add("PreviewAny", source=output(made, 2))
    return graph.prompt


def made(host, prompt):
    """Images, latents and lines of a prompt that must succeed."""
    executor = host.run(prompt)
    assert executor.success, failure(executor)
    (shown,) = (found["text"] for found in executor.history_result["outputs"].values() if "text" in found)
    return host.record.images["images"], host.record.latents["latents"], shown[0].split("\n")


def by_hand(host, batch, **knobs):
    """The latent of one variation, from the nodes that an artist would connect."""
    graph = Graph()
    model, positive, negative, latent = loaded(graph, batch)
    samples = sample(
        graph, "KSampler", guided(graph, model, refresh_every=0, **knobs), positive, negative, latent,
        scheduler="karras", steps=SAMPLING["steps"],
    )
    graph.add("TestCapture", samples=samples, label="one")
    return host.latents(graph.prompt)["one"]


def apart(one, other):
    return (one - other).square().mean().sqrt().item()


@pytest.mark.parametrize(
    "batch, plain_first", long_but(itertools.product((1, 3), (False, True)), [(3, False), (1, True)])
)
def test_each_variation_is_what_the_nodes_by_hand_make(host, batch, plain_first):
    images, latents, lines = made(host, variations(batch, guidance_seed=5, plain_first=plain_first, directions=2))
    expected = [by_hand(host, batch, scale=8.0, guidance_seed=seed, directions=2) for seed in (5, 6, 7)]
    names = [f"guidance_seed {seed}" for seed in (5, 6, 7)]
    if plain_first:
        expected.insert(0, by_hand(host, batch, scale=0.0))
        names.insert(0, "without guidance")
    assert images.shape == (batch * len(expected), 32, 32, 3) and latents.shape == (batch * len(expected), 3, 32, 32)
    for image in range(batch):
        own = slice(image * len(expected), (image + 1) * len(expected))
        for place, (latent, picture, line) in enumerate(zip(latents[own], images[own], lines[own])):
            assert torch.equal(latent, expected[place][image])
            decoded = (latent.movedim(0, -1) / 2 + 0.5).clamp(0, 1)  # the demo model's latents are pixels
            assert torch.allclose(picture, decoded, atol=1e-5)
            number = f"image {image + 1}: " if batch > 1 else ""
            far = apart(latent, expected[0][image])
            assert line == f"{number}{names[place]}, distance {far:.3f}"
    differ = [apart(one, other) for one, other in itertools.combinations(latents[: len(expected)], 2)]
    assert max(differ) > 0.1


def test_one_more_variation_costs_one_more_picture(host):
    executor = host.executor(cached=True)
    one, two, four, none, ranked, further, plain, other = (
        len(evaluations(host, executor, variations(**changes))) for changes in (
            {"count": 1}, {"count": 2}, {"count": 4}, {"count": 4}, {"count": 4, "order": "farthest first"},
            {"count": 4, "guidance_seed": 1}, {"count": 4, "guidance_seed": 1, "plain_first": True},
            {"count": 4, "difference": 4.0},
        )
    )
    steps = SAMPLING["steps"]
    assert steps < one < 3 * steps and steps < two < 3 * steps and 2 * steps < four < 6 * steps
    assert none == ranked == 0
    assert steps < further < 3 * steps and plain == steps and other > 4 * steps


def evaluations(host, executor, prompt):
    """Sigmas of the model evaluations that a prompt costs in an executor that caches."""
    host.run(prompt, executor)
    assert executor.success, failure(executor)
    return host.record.evaluations["variations"]


@pytest.mark.parametrize("plain_first, order, batch", long_but(
    itertools.product((False, True), ORDERS[1:], (1, 3)), [(False, ORDERS[1], 3), (True, ORDERS[2], 1)],
))
def test_they_are_ranked_by_distance_from_the_first(host, batch, order, plain_first):
    """Of each image by itself; only the order differs, of pictures, latents and lines alike."""
    common = {"count": 5, "directions": 2, "plain_first": plain_first}
    images, latents, lines = made(host, variations(batch, **common))
    sorted_images, sorted_latents, sorted_lines = made(host, variations(batch, order=order, **common))
    count, moved = len(lines) // batch, 0
    for start in range(0, batch * count, count):
        far = [apart(latents[place], latents[start]) for place in range(start, start + count)]
        expected = sorted(range(1, count), key=lambda place: far[place], reverse=order == "farthest first")
        places = [start, *(start + place for place in expected)]
        assert sorted(sorted_lines[start : start + count]) == sorted(lines[start : start + count])
        found = [lines.index(line) for line in sorted_lines[start : start + count]]
        assert [far[place - start] for place in found] == pytest.approx([far[place - start] for place in places])
        assert torch.equal(sorted_images[start : start + count], images[found])
        assert torch.equal(sorted_latents[start : start + count], latents[found])
        moved += found != list(range(start, start + count))
    assert moved


def test_without_difference_all_are_the_plain_picture_made_once(host):
    for plain_first in (False, True):
        _, latents, lines = made(host, variations(difference=0.0, plain_first=plain_first))
        assert len(latents) == len(lines) == 3 + plain_first
        assert all(torch.equal(one, by_hand(host, 1, scale=0.0)[0]) for one in latents)
        assert set(lines) == {"without guidance, distance 0.000"}
    made(host, variations(difference=0.0))
    assert len(host.record.evaluations["variations"]) == SAMPLING["steps"]


def test_seeds_go_round_at_their_end(host):
    _, latents, lines = made(host, variations(guidance_seed=2**64 - 2))
    assert [line.partition(",")[0] for line in lines] == [
        f"guidance_seed {seed}" for seed in (2**64 - 2, 2**64 - 1, 0)
    ]
    assert torch.equal(latents[2], by_hand(host, 1, scale=8.0, guidance_seed=0)[0])


def family(graph, name, latent_shape):
    """A large model's stand-in and its parts."""
    model = graph.add("TestFamily", family=name, seed=0, parts="model clip vae")
    texts = [graph.add("CLIPTextEncode", clip=output(model, 1), text=text) for text in ("yes", "no")]
    return model, *texts, graph.add("EmptyHunyuanLatentVideo", **latent_shape), output(model, 2)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_frames_of_a_video_stay_together(host, batch):
    """Those of the first video's variations, then those of the second's."""
    graph = Graph()
    shape = {"width": 64, "height": 64, "length": 5, "batch_size": batch}
    model, positive, negative, latent, vae = family(graph, "wan", shape)
    undecided = graph.add("TestUndecided", model=model, amount=6.0)
    videos = graph.add(
        "GuidanceVariations", model=undecided, positive=positive, negative=negative, latent_image=latent, vae=vae,
        **(SAMPLING | KNOBS | {"scheduler": "simple", "count": 2, "steps": 10, "guidance_seed": 1}),
    )
    graph.add("TestCaptureImage", images=videos, label="images")
    graph.add("TestCapture", samples=output(videos, 1), label="latents")
    decoded = graph.add("VAEDecode", samples=output(videos, 1), vae=vae)
    graph.add("TestCaptureImage", images=decoded, label="decoded")
    latents = host.latents(graph.prompt)["latents"]
    assert latents.shape[0] == 2 * batch and latents.shape[2] == 2
    images, decoded = host.record.images["images"], host.record.images["decoded"]
    assert len(images) == 2 * batch * 5 and torch.allclose(images, decoded, atol=1e-4)
    assert (images[:5] - images[5:10]).abs().max() > 0.001


@pytest.mark.parametrize("changes, words", [
    ({"count": 0}, ["count", "1"]), ({"count": 65}, ["count", "64"]), ({"guidance_seed": -1}, ["guidance_seed"]),
    ({"difference": 21.0}, ["difference", "20"]), ({"difference": -1.0}, ["difference", "0"]),
    ({"order": "loudest first"}, ["order", "nearest first"]), ({"directions": 17}, ["directions", "16"]),
])
def test_bad_values_are_refused_on_the_node_before_sampling(host, changes, words):
    valid, _, _, node_errors = host.validate(variations(**changes))
    assert not valid
    (error,) = (details for details in node_errors.values() if details["class_type"] == "GuidanceVariations")
    text = " ".join(f"{entry['message']} {entry['details']}" for entry in error["errors"])
    assert all(word in text for word in words), text


@pytest.mark.parametrize("name, value, words", [
    ("count", 100, "count is 100; it must be a whole number from 1 to 64."),
    ("difference", 30, "difference is 30; it must be a number from 0 to 20."),
])
def test_a_bad_value_from_another_node_is_refused_when_it_runs(host, name, value, words):
    prompt = variations()
    prompt["90"] = {"class_type": "PrimitiveInt" if name == "count" else "PrimitiveFloat", "inputs": {"value": value}}
    node = next(node for node in prompt.values() if node["class_type"] == "GuidanceVariations")
    node["inputs"][name] = ["90", 0]
    executor = host.run(prompt)
    assert not executor.success
    error = failure(executor)
    assert error["node_type"] == "GuidanceVariations" and words in error["exception_message"].replace("30.0", "30")
    assert host.record.evaluations["variations"] == []


def test_pictures_that_do_not_belong_together_are_refused(host):
    graph = Graph()
    model, _, _, latent = loaded(graph, 2)
    image = graph.add("VAEDecode", samples=latent, vae=output(model, 2))
    alone = graph.add("LatentFromBatch", samples=latent, batch_index=0, length=1)
    batch = graph.add(
        "GuidanceVariationsBatch", labels="one\ntwo", order="by seed", image_0=image, latent_0=latent, image_1=image,
        latent_1=alone,
    )
    graph.add("TestCaptureImage", images=batch, label="images")
    error = failure(host.run(graph.prompt))
    assert error["node_type"] == "GuidanceVariationsBatch"
    assert error["exception_message"].startswith("latent_1 is of shape [(1, 4, 4, 4)]; it must be of [(2, 4, 4, 4)],")
