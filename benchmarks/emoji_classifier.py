"""A small classifier of emoji: it tells kind, style and name, and its features are the space of the metrics."""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from emoji import augmented
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

WEIGHTS = Path(__file__).parent / "data" / "emoji-classifier.safetensors"
FEATURES = 96
WIDTHS = (32, 64, 96, 160)
HEADS = ("kind", "style", "name")


class EmojiClassifier(nn.Module):
    """Convolutional network; pictures [B, 3, 64, 64] in [-1, 1]; sizes: how many kinds, styles and names."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = tuple(sizes)
        layers, channels = [], 3
        for index, width in enumerate(WIDTHS):
            first = nn.Conv2d(channels, width, 3, padding=1, stride=2 if index else 1)
            layers += [first, nn.GroupNorm(8, width), nn.SiLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
            channels = width
        self.body = nn.Sequential(*layers)
        self.hidden = nn.Linear(2 * channels * 4, FEATURES)
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, size) for name, size in zip(HEADS, sizes)})

    def features(self, pictures):
        """[B, 96], the input of the last layers."""
        h = self.body(pictures)
        return self.hidden(torch.cat([F.adaptive_avg_pool2d(h, 2), F.adaptive_max_pool2d(h, 2)], dim=1).flatten(1))

    def answers(self, features):
        """Scores of the kinds, styles and names, each [B, so many]."""
        return [self.heads[name](features) for name in HEADS]

    def forward(self, pictures):
        return self.answers(F.dropout(self.features(pictures), 0.1, self.training))


def load_emoji_classifier():
    """The trained classifier from its file."""
    with safe_open(WEIGHTS, framework="pt") as file:
        sizes = json.loads(file.metadata()["config"])["sizes"]
        classifier = EmojiClassifier(sizes)
        classifier.load_state_dict({key: file.get_tensor(key).float() for key in file.keys()})  # noqa: SIM118
    return classifier.requires_grad_(False).eval()


def train(emoji, steps=1250, batch=512, rate=2e-3):
    """Trains from scratch on all names, which it measures and is not measured on; the classifier and its accuracies."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(1)
    classifier = EmojiClassifier([*emoji.sizes[1:], emoji.sizes[0]]).to(device)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=rate, weight_decay=0.02)
    answers = emoji.kind, emoji.style, emoji.name
    for step in tqdm(range(steps), unit="step"):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        places = torch.randint(len(emoji.rgba), (batch,), generator=generator)
        found = classifier(disturbed(emoji.rgba[places], generator).to(device))
        losses = [F.cross_entropy(scores, right[places].to(device)) for scores, right in zip(found, answers)]
        loss = losses[0] + losses[1] + 0.5 * losses[2]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return classifier.cpu().eval(), accuracies(classifier, emoji)


def disturbed(rgba, generator):
    """Augmented pictures, some of them blurred, with a little noise, so that features look at what is drawn."""
    pictures, count = augmented(rgba, generator, 0.6)[0], len(rgba)
    blurred = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pictures = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.3, blurred, pictures)
    noise = torch.randn(pictures.shape, generator=generator)
    return pictures + 0.15 * torch.rand(count, 1, 1, 1, generator=generator) * noise


@torch.no_grad()
def accuracies(classifier, emoji):
    """Share of real pictures whose kind, style and name it tells."""
    right = torch.zeros(len(HEADS))
    for places in torch.arange(len(emoji.rgba)).split(256):
        found = classifier(emoji.pictures(places))
        for index, (scores, of_all) in enumerate(zip(found, (emoji.kind, emoji.style, emoji.name))):
            right[index] += (scores.argmax(dim=1) == of_all[places]).sum()
    return dict(zip(HEADS, (right / len(emoji.rgba)).tolist()))


def save(classifier, facts):
    """Writes the file that `load_emoji_classifier` reads, in half precision."""
    weights = {key: value.half().contiguous() for key, value in classifier.state_dict().items()}
    save_file(weights, WEIGHTS, {"config": json.dumps({"sizes": classifier.sizes} | facts)})
