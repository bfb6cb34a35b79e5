"""Official templates of the host's page with our node in them: the host takes them, and they sample."""

from collections import Counter

import official_graphs as official
import pytest
import small_prompts
from host import failure

# A template of each of the ten most used families, and the stand-in for its models.
SAMPLED = {
    "video_minimax_h3_t2v": "minimax_h3",
    "image_z_image_turbo": "z_image",
    "image_krea2_turbo_t2i": "krea2",
    "video_ltx2_3_t2v": "ltxav",
    "video_wan2_2_14B_t2v": "wan",
    "image_qwen_Image_2512": "qwen_image",
    "image_flux2_klein_text_to_image": "flux2",
    "text_to_video_wan": "wan",
    "image_anima_preview": "anima",
    "flux_dev_checkpoint_example": "flux",
}
ONLY_TAKEN = ("image_qwen_image_edit_2511", "image_z_image")


@pytest.fixture(scope="module")
def official_prompts(browser, address):
    """name -> (prompt without, prompt with our node), as the page sends them."""
    found = official.collected(browser.tab(), address, [*SAMPLED, *ONLY_TAKEN])
    browser.close()
    return found


@pytest.fixture
def guided(official_prompts):
    """The prompt of a template with our node; skips where the host's package has it no more."""

    def find(name):
        if name not in official_prompts:
            pytest.skip(f"this host has no official template {name}")
        return official_prompts[name][1]

    return find


def test_most_of_the_templates_are_there(official_prompts):
    assert len(official_prompts) >= 6


@pytest.mark.parametrize("name", [*SAMPLED, *ONLY_TAKEN])
def test_the_host_takes_our_node_in_it(host, official_prompts, guided, name):
    ours = official.ours(guided(name))
    assert ours and any(":" in key for key in ours) == any(":" in key for key in official_prompts[name][0])
    assert official.added_complaints(host, *official_prompts[name]) == {}


def test_a_complaint_about_our_node_is_found(host, official_prompts, guided):
    name = "image_z_image_turbo"
    without, prompt = official_prompts[name][0], guided(name)
    (ours,) = official.ours(prompt)
    wrong = {**prompt, ours: {**prompt[ours], "inputs": {**prompt[ours]["inputs"], "scale": 1000.0}}}
    assert [kind for kind, *_ in official.added_complaints(host, without, wrong)] == ["SaddleFreeGuidance"]


@pytest.mark.parametrize("name, family", SAMPLED.items())
def test_it_samples_with_our_node(host, guided, name, family):
    """Finite latents, and one more evaluation at every sigma; at the first, a forward of two rows may have failed."""
    small_prompts.write_pictures(host, guided(name))
    prompt = small_prompts.reduced(host, small_prompts.with_stand_ins(host, guided(name), family))
    executor = host.run(small_prompts.only_latents(small_prompts.watched(host, prompt)))
    assert executor.success, failure(executor)
    samplers = small_prompts.samplers(host, prompt)
    assert samplers and set(host.record.latents) == set(samplers)
    for key in samplers:
        latent = host.record.latents[key]
        for part in latent.unbind() if getattr(latent, "is_nested", False) else [latent]:
            assert part.isfinite().all() and part.std() > 0
        first, *others = Counter(host.record.evaluations[key]).values()
        assert first in (2, 4) and set(others) == {2}

