"""What emoji are measured with: the classifier, the real features, labels, and the command that makes the pictures."""

import base64
import hashlib
import io
import json

import demos
import emoji_data
import emoji_names
import measuring
import numpy as np
import pytest
import quality
import torch
from metrics import frechet_distance, precision_recall_density_coverage
from PIL import Image
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def real():
    return demos.Emoji.real()


@pytest.fixture(scope="module")
def held_out():
    return load_file(demos.EMOJI_REAL)["held_out_features"]


# --- The metrics -----------------------------------------------------------------------------------------------------


def test_real_held_out_emoji_have_the_distance_that_the_training_run_measured(real, held_out):
    """The figures of its evaluation for held-out names, which had the pictures and its own code."""
    assert real.features.shape == (4000, 96) and held_out.shape == (602, 96)
    measured = real.measure(held_out)
    assert measured["FD"] == pytest.approx(54.45, abs=0.03)
    expected = {"precision": 0.900, "recall": 0.734, "density": 0.752, "coverage": 0.312}
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=0.002)


def test_the_stored_moments_are_nearly_those_of_the_stored_features(real):
    """4,000 of the 5,499 that the moments are of."""
    whole = demos.distance_of_moments(real.moments, real.moments)
    part = demos.distance_of_moments(real.moments, demos.moments(real.features))
    assert abs(whole) < 1e-4 and 0 < part < 2


def test_digits_are_measured_against_as_many_real_ones(real_digits):
    real = real_digits
    drawn = real.features[1000:1200] + 0.1
    expected = {
        "FD": frechet_distance(real.features, drawn), **precision_recall_density_coverage(real.features[:200], drawn)
    }
    assert real.measure(drawn) == expected


@pytest.mark.parametrize("model", demos.DEMOS)
def test_a_row_of_either_model_has_every_column(host, monkeypatch, real_digits, model):
    monkeypatch.setattr(demos.Digits, "real", lambda classifier: real_digits)
    arguments = type("Arguments", (), {
        "model": model, "dtype": "float32", "task": "conditional", "samples": 12, "alike": 1, "steps": 2, "batch": 6,
        "sampler": "euler", "scheduler": "karras",
    })()
    models, classifier, real = quality.prepare(model, "float32")
    values = measuring.measure_row(measuring.Method("no guidance"), models, classifier, real, 0, arguments)
    extra = [] if model == "digits" else ["style"]
    columns = ["FD", "precision", "recall", "density", "coverage", "accuracy", *extra, "evaluations per image"]
    assert list(values) == columns and values["evaluations per image"] == 2
    assert all(np.isfinite(value) for value in values.values()) and values["FD"] > 10


def test_classes_are_label_pairs_as_real_ones_have_them(host):
    from saddle_free_guidance.nodes.demo.emoji_network import KINDS, STYLES
    from saddle_free_guidance.nodes.host.demo_model import emoji_conditioning

    classes = demos.Emoji.classes(12, alike=3)
    assert classes.shape == (12,) and (classes.reshape(4, 3) == classes[::3, None]).all()
    many = demos.Emoji.classes(4000)
    stored = load_file(demos.EMOJI_REAL)["classes"].long()
    assert len(stored) == 5499 and set(many.tolist()) <= set(stored.tolist())
    assert (many % 8 == STYLES.index("fxemoji")).float().mean() < (many % 8 == STYLES.index("noto")).float().mean()
    asked = torch.tensor([8 * KINDS.index("boat") + STYLES.index("fluent")])
    assert torch.equal(demos.Emoji.weights(asked), emoji_conditioning("boat", "fluent")[0][0])


# --- The pictures ----------------------------------------------------------------------------------------------------


def test_kinds_and_styles_are_those_of_the_model():
    from saddle_free_guidance.nodes.demo.emoji_network import KINDS, STYLES

    assert tuple(emoji_names.KINDS) == KINDS and emoji_data.STYLES == STYLES
    assert set(emoji_data.PACKAGES) == {*STYLES, "datasource", "unicode"}


def test_an_archive_that_is_another_one_is_refused_and_removed(tmp_path):
    path = tmp_path / "some.tgz"
    good = base64.b64encode(hashlib.sha512(b"good").digest()).decode()
    package = emoji_data.Package("some", "1.0", good)
    path.write_bytes(b"good")
    emoji_data.check(path, package)
    assert path.exists()
    path.write_bytes(b"bad")
    with pytest.raises(SystemExit, match=r"some\.tgz has the sha512 .* must have .*try again"):
        emoji_data.check(path, package)
    assert not path.exists()


def test_names_have_kinds_and_what_is_no_subject_is_left_out():
    def entry(short, part, order, category="Animals & Nature"):
        return {
            "short_name": short, "short_names": [short], "subcategory": part, "category": category, "sort_order": order,
            "unified": "1F40D-FE0F", "non_qualified": "1F40D", "name": "SNAKE",
        }

    listed = [entry("snake", "animal-reptile", 2), entry("gun", "tool", 1, "Objects"), entry("flag", "country-flag", 3)]
    found = emoji_names.names(json.dumps(listed), json.dumps({"\U0001f40d": {"name": "Snake\u2019s Ñame"}}))
    assert found == [{
        "name": "Snake\u2019s Ñame", "kind": "reptile", "spellings": ["snakes-name", "snake"], "code": "1f40d-fe0f",
        "plain code": "1f40d",
    }]


def test_a_subject_is_cropped_centred_and_scaled_to_its_longest_side():
    picture = np.zeros((200, 300, 4), np.uint8)
    picture[20:60, 10:126] = [255, 0, 0, 255]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    found = emoji_data.drawn(file.getvalue())
    assert found.shape == (64, 64, 4)
    rows, columns = np.where(found[..., 3] > 128)
    assert (columns.min(), columns.max()) == (3, 60) and (rows.min(), rows.max()) == (22, 41)
    assert (found[30, 30] == [255, 0, 0, 255]).all()
    assert emoji_data.fitted(np.zeros((64, 64, 4), np.float32)) is None


def test_a_tenth_of_each_kind_is_held_out_and_always_the_same():
    kinds = [kind for kind in range(31) for _ in range(20 + kind)]
    held = emoji_data.held_out(kinds)
    assert (held == emoji_data.held_out(kinds)).all()
    for kind in range(31):
        of_kind = held[[index for index, other in enumerate(kinds) if other == kind]]
        assert of_kind.sum() == round(0.1 * len(of_kind))


def test_pictures_that_repeat_in_a_style_are_left_out():
    one, other = np.zeros((64, 64, 4), np.uint8), np.full((64, 64, 4), 200, np.uint8)
    pictures = [("noto", 0, one), ("noto", 1, one + 3), ("blob", 1, one), ("noto", 2, other)]
    assert emoji_data.without_repeats(pictures) == [0, 2, 3]
