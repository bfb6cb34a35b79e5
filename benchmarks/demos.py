"""The demo models as benchmarks see them: their labels, and the real pictures that what they draw is compared with."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from classifier import accuracy, in_batches, load_classifier
from digits import colour, load_digits
from emoji import DATA, load_emoji
from emoji_classifier import FEATURES, load_emoji_classifier
from metrics import distance_of_moments, moments, precision_recall_density_coverage
from safetensors.torch import load_file, save_file

REAL_SEED = 123456
EMOJI_REAL = Path(__file__).parent / "data" / "emoji-real.safetensors"
NEIGHBOURS_OF = 4000  # real emoji that k-NN metrics are measured with
ASKED_SEED = 4


@dataclass(frozen=True)
class Real:
    """Features [N, F] of real pictures for the k-NN metrics, and mean and covariance of all of them for the distance.

    matched: as many real ones as drawn ones are compared, instead of all.
    """

    features: torch.Tensor
    moments: tuple
    matched: bool

    def measure(self, drawn):
        """The metrics of drawn features [M, F] as a dict."""
        drawn = drawn.to(self.features.dtype)
        real = self.features[: len(drawn)] if self.matched else self.features
        return {
            "FD": distance_of_moments(self.moments, moments(drawn)), **precision_recall_density_coverage(real, drawn)
        }


class Digits:
    """The digits; a class is a digit."""

    name, models, side, labels = "digits", ("model", "weak"), 32, 10
    groups = 10  # batches of one class each

    load_classifier = staticmethod(load_classifier)

    @staticmethod
    def real(classifier, most=None):
        """All real digits, or so many of them, in fixed random colours."""
        digits, _ = load_digits()
        generator = torch.Generator().manual_seed(REAL_SEED)
        order = torch.randperm(len(digits), generator=generator)[:most]
        features = in_batches(classifier.features, colour(digits[order], generator))
        return Real(features, moments(features), matched=True)

    @staticmethod
    def classes(count, alike=1):
        """Which digit each of `count` pictures is of, [count]: all in turn, each `alike` times."""
        return torch.arange(count) // alike % 10

    @staticmethod
    def weights(classes):
        """Label weights, [B, 1, 10]."""
        return F.one_hot(classes, 10).float()[:, None]

    @staticmethod
    def accuracy(classifier, images, classes):
        """The share of pictures that are of what they should be, by what was asked."""
        return {"accuracy": accuracy(classifier, images, classes)}


class Emoji:
    """The emoji; a class is a kind and a style, 8 kind + style."""

    name, models, side, labels = "emoji", ("emoji", "emoji-weak"), 64, 39
    groups, kinds, styles = 50, 31, 8

    load_classifier = staticmethod(load_emoji_classifier)

    @staticmethod
    def real(classifier=None):
        """Real training pictures, as `write_emoji_real` measured them; their features belong to the classifier's file."""
        file = load_file(EMOJI_REAL)
        return Real(file["features"].double(), (file["mean"], file["covariance"]), matched=False)

    @classmethod
    def classes(cls, count, alike=1):
        """The labels of `count` pictures, [count], as real ones have them: drawn at random, each `alike` times."""
        real = load_file(EMOJI_REAL)["classes"]
        generator = torch.Generator().manual_seed(ASKED_SEED)
        drawn = torch.randint(len(real), (-(-count // alike),), generator=generator)
        return real[drawn].repeat_interleave(alike)[:count].long()

    @classmethod
    def weights(cls, classes):
        """Label weights, [B, 1, 39]."""
        kinds, styles = F.one_hot(classes // cls.styles, cls.kinds), F.one_hot(classes % cls.styles, cls.styles)
        return torch.cat([kinds, styles], dim=1).float()[:, None]

    @classmethod
    def accuracy(cls, classifier, images, classes):
        """The shares of pictures of the kind and in the style that was asked for, which the classifier knows from real ones."""
        found = classifier.answers(in_batches(classifier.features, images))
        shares = [
            (scores.argmax(dim=1) == asked).float().mean().item()
            for scores, asked in zip(found, (classes // cls.styles, classes % cls.styles))
        ]
        return {"accuracy": shares[0], "style": shares[1]}


class FewStepEmoji(Emoji):
    """The emoji of the model that draws in 8 steps."""

    name, models = "emoji-8-steps", ("emoji-8-steps", "emoji-weak")


DEMOS = {demo.name: demo for demo in (Digits, Emoji, FewStepEmoji)}


def write_emoji_real(data=DATA, file=EMOJI_REAL):
    """Measures the real emoji and writes what `Emoji.real` and `Emoji.classes` need, and the same of the held-out ones."""
    emoji, classifier = load_emoji(data), load_emoji_classifier()
    parts = {}
    for prefix, places in (("", emoji.training), ("held_out_", emoji.held_out)):
        features = torch.cat([classifier.features(emoji.pictures(part)) for part in places.split(500)])
        mean, covariance = moments(features)
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:NEIGHBOURS_OF]
        parts |= {f"{prefix}features": features[order].half(), f"{prefix}mean": mean, f"{prefix}covariance": covariance}
        parts[f"{prefix}classes"] = (Emoji.styles * emoji.kind[places] + emoji.style[places]).to(torch.uint8)
    save_file({name: value.contiguous() for name, value in parts.items()}, file)
    return parts


def main():
    """Writes benchmarks/data/emoji-real.safetensors again, which belongs to the classifier that is there."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="what benchmarks/emoji_data.py made")
    parts = write_emoji_real(parser.parse_args().data)
    print(f"{len(parts['classes'])} training and {len(parts['held_out_classes'])} held-out pictures, {FEATURES} features")


if __name__ == "__main__":
    main()
