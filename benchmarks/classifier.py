"""A small digit classifier: it names digits in generated images, and its features are the space of the metrics.

    python quickstart.py --run benchmarks/classifier.py [--model emoji]

trains it on the coloured digits and writes benchmarks/data/classifier.safetensors; or trains that of the emoji, and measures
the real ones anew with it.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from digits import colour, load_digits
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

WEIGHTS = Path(__file__).parent / "data" / "classifier.safetensors"
FEATURES = 64
HELD_OUT = 10  # every tenth digit is never trained on


class Classifier(nn.Module):
    """Convolutional network; images [B, 3, 32, 32] in [-1, 1]."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, padding=1)
        self.second = nn.Conv2d(24, 48, 3, padding=1)
        self.third = nn.Conv2d(48, 64, 3, padding=1)
        self.hidden = nn.Linear(64 * 4 * 4, FEATURES)
        self.classes = nn.Linear(FEATURES, 10)

    def features(self, images):
        """[B, 64], the input of the last layer."""
        x = images
        for layer in (self.first, self.second, self.third):
            x = F.max_pool2d(F.relu(layer(x)), 2)
        return F.relu(self.hidden(x.flatten(1)))

    def forward(self, images):
        return self.classes(self.features(images))


def load_classifier():
    """The trained classifier from its file."""
    classifier = Classifier()
    classifier.load_state_dict({key: value.float() for key, value in load_file(WEIGHTS).items()})
    return classifier.requires_grad_(False).eval()


@torch.no_grad()
def in_batches(function, images, size=500):
    """function over images in pieces, to bound memory."""
    return torch.cat([function(piece) for piece in images.split(size)])


def accuracy(classifier, images, labels):
    """Share of images whose digit the classifier names as in labels."""
    return (in_batches(classifier, images).argmax(dim=1) == labels).float().mean().item()


def train(steps=1500, batch=128):
    """Trains from scratch; returns the classifier and its accuracy on held-out digits in fresh colours."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    digits, labels = load_digits()
    held_out = torch.arange(len(digits)) % HELD_OUT == 0
    classifier = Classifier()
    optimiser = torch.optim.Adam(classifier.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    train_digits, train_labels = digits[~held_out], labels[~held_out]
    for _ in tqdm(range(steps), unit="step"):
        chosen = torch.randint(len(train_digits), (batch,), generator=generator)
        images = colour(train_digits[chosen], generator)
        images = images + 0.05 * torch.randn(images.shape, generator=generator)
        loss = F.cross_entropy(classifier(images), train_labels[chosen], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return classifier.eval(), accuracy(classifier, colour(digits[held_out], generator), labels[held_out])


def train_emoji(steps):
    """The same for the emoji, whose real pictures are then measured with it."""
    import demos
    import emoji
    import emoji_classifier

    classifier, scores = emoji_classifier.train(emoji.load_emoji(), steps)
    emoji_classifier.save(classifier, {"steps": steps, "batch": 512, "accuracy": scores})
    demos.write_emoji_real()
    print(f"accuracy on all real emoji: {scores}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("digits", "emoji"), default="digits")
    parser.add_argument("--steps", type=int, help="(default: 1500, for emoji 1250)")
    arguments = parser.parse_args()
    if arguments.model == "emoji":
        train_emoji(arguments.steps or 1250)
        return
    classifier, score = train(arguments.steps or 1500)
    save_file({key: value.half().contiguous() for key, value in classifier.state_dict().items()}, WEIGHTS)
    print(f"accuracy on held-out digits: {score:.4f}")


if __name__ == "__main__":
    main()
