"""What a run with a fault in it must leave as it was, for the tests of faults."""

import sys

from host import failure


def fails(runs, short, faults, words="broken on purpose"):
    """Runs it; it must fail at the sampler with these words, or as an interrupt where words is None."""
    executor = runs.attempt(short, faults)
    assert not executor.success and runs.struck() == 1
    data = failure(executor)
    assert data["node_type"] == "KSampler"
    message = data.get("exception_message")
    assert message is None if words is None else words in message
    left_as_it_was(runs)


def left_as_it_was(runs):
    """The guided model and its weak model are as they were when the run began, and hold nothing of it."""
    state = sys.modules[type(runs.faults).__module__].state
    patcher, before = runs.faults.kept["guided"]
    assert state(patcher) == before
    assert all(part.model.current_patcher is None for part in (patcher, *patcher.get_nested_additional_models()))


def lines(caplog):
    """What the pack has logged since last asked."""
    found = [record.getMessage() for record in caplog.records if record.name.endswith("host.run")]
    caplog.clear()
    return found


def stays_with_its_images(runs, latent, fresh, images, same):
    """The images that were not spoiled are as they were, and finite is each whose base predictions were."""
    assert runs.struck() == 1
    spoiled = {int(image) for image in images.split(",") if image} or set(range(len(fresh)))
    broken = set().union(*runs.faults.broken.values())
    assert broken <= spoiled
    for image, (now, before) in enumerate(zip(latent, fresh, strict=True)):
        assert image in spoiled or same(now, before)
        assert now.isfinite().all() == (image not in broken)
