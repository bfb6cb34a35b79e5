"""Latents of one value, of none, and of sizes that a model cannot draw."""

import pytest
from host import failure
from short_runs import LATENTS, Short

SIZES = [
    ("sd3", (16, 1, 1)), ("flux", (16, 1, 1)), ("wan", (16, 1, 1, 1)), ("sd3", (16, 3, 5)), ("sd3", (16, 0, 0)),
    ("sd3", (16, 1, 0)), ("flux", (16, 0, 0)), ("wan", (16, 0, 4, 4)),
]


@pytest.mark.parametrize("family, shape", SIZES)
@pytest.mark.parametrize("kind", ["saddle-free", "auto", "both shared"])
def test_the_smallest_latents_do_as_without_the_nodes(runs, family, shape, kind):
    """One value per channel is sampled; none at all fails in the model as it does without guidance."""
    plain = runs.attempt(Short(family, "plain", 2, shape=shape))
    guided = runs.attempt(Short(family, kind, 2, shape=shape, knobs={"directions": 3}))
    assert guided.success == plain.success == (0 not in shape)
    if guided.success:
        assert runs.host.record.latents["run"].shape == (2, *shape)
        assert runs.host.record.latents["run"].isfinite().all()
    else:
        assert failure(guided)["exception_message"] == failure(plain)["exception_message"]
        assert failure(guided)["node_type"] == failure(plain)["node_type"] == "KSampler"


@pytest.mark.parametrize("family", LATENTS)
def test_a_batch_of_none_fails_as_without_the_nodes(runs, family):
    messages = set()
    for kind in ("plain", "saddle-free", "both"):
        executor = runs.attempt(Short(family, kind, 0))
        assert not executor.success
        messages.add(failure(executor)["exception_message"])
    assert len(messages) == 1


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 6, 8), (3, 8, 6), (3, 0, 0)])
def test_the_demo_model_names_the_sizes_it_can_draw(runs, shape):
    executor = runs.attempt(Short("demo", "both", 1, shape=shape))
    assert not executor.success
    data = failure(executor)
    message = data["exception_message"].strip()
    assert data["node_type"] == "KSampler"
    assert "multiple" in message and "4" in message and f"{shape[2]}x{shape[1]}" in message and message.endswith(".")
