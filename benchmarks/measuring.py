"""What a benchmark does to the demo model, and the numbers of the pictures that it then makes."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from classifier import in_batches
from demos import DEMOS, Digits


@dataclass
class Method:
    """One row: what is done to the model, called with the model, the weak model and a seed, and the sampler's settings."""

    name: str
    guide: Callable = lambda model, weak, seed: model
    cfg: float = 1.0
    step_factor: float = 1.0
    values: dict = field(default_factory=dict)


def node(name, **inputs):
    """The first output of a node of the pack, inputs not given at their defaults."""
    from saddle_free_guidance.nodes import auto_guidance, saddle_free, weaken_model

    modules = (saddle_free, auto_guidance, weaken_model)
    node_class = next(getattr(module, name) for module in modules if hasattr(module, name))
    schema = node_class.define_schema()
    defaults = {item.id: item.default for item in schema.inputs if hasattr(item, "default")}
    return node_class.execute(**(defaults | inputs)).result[0]


def saddle_free(scale, **knobs):
    """Saddle-free guidance as a row's `guide`."""
    return lambda model, weak, seed: node(
        "SaddleFreeGuidance", model=model, scale=scale, guidance_seed=seed, **knobs
    )


def auto(scale, weaken=None):
    """Auto-guidance as a row's `guide`, with the real weak model or with what `weaken` makes of the model."""
    return lambda model, weak, seed: node(
        "AutoGuidance", model=model, weak_model=weak if weaken is None else weaken(model), scale=scale
    )


def both(saddle_free_scale, auto_scale):
    """Saddle-free guidance at every call and auto-guidance together as a row's `guide`."""
    first, second = saddle_free(saddle_free_scale, refresh_every=1), auto(auto_scale)
    return lambda model, weak, seed: second(first(model, weak, seed), weak, seed)


def weakened(method, strength):
    """What Weaken Model makes of a model."""
    return lambda model: node("WeakenModel", model=model, method=method, strength=strength)


class Counter:
    """Counts how many images the models it is attached to evaluate.

    In a tensor: what a wrapper holds otherwise is put back after an evaluation of which it is to know nothing.
    """

    def __init__(self):
        self._images = torch.zeros((), dtype=torch.int64)

    @property
    def images(self):
        """So many since it was last set."""
        return self._images.item()

    @images.setter
    def images(self, count):
        self._images.fill_(count)

    def attach(self, model):
        """A clone of the model that is counted."""
        from comfy.patcher_extension import WrappersMP

        def count(executor, x, *args, **kwargs):
            self._images.add_(len(x))
            return executor(x, *args, **kwargs)

        counted = model.clone()
        counted.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "benchmark", count)
        return counted


def denoiser(demo, device="cpu"):
    """denoise(y, sigma) of a demo model without labels, y [B, 3, side, side] and sigma a float, without a sampler."""
    from saddle_free_guidance.nodes.demo.digits_network import denoise
    from saddle_free_guidance.nodes.host.demo_model import load_demo_model

    model = load_demo_model(demo.models[0]).model.to(device)
    network, sigma_data = model.diffusion_model.requires_grad_(False), model.model_sampling.sigma_data
    return lambda y, sigma: denoise(network, y, y.new_full((len(y),), sigma), sigma_data=sigma_data)


@torch.no_grad()
def sample(
    model, count, *, classes=None, cfg=1.0, steps=24, seed=0, batch=250, sampler="euler", scheduler="karras", demo=Digits
):
    """count images [count, 3, side, side] through the host's sampler; classes: [count], or None for no class.

    A batch of one class has one condition for all its images, so that they can be probed one by one.
    """
    import comfy.sample

    images, negative = [], [[torch.zeros(1, 1, demo.labels), {}]]
    for start in range(0, count, batch):
        size = min(batch, count - start)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
        noise = torch.randn(size, 3, demo.side, demo.side, generator=generator)
        positive = negative
        if classes is not None:
            asked = classes[start : start + size]
            asked = asked[:1] if (asked == asked[0]).all() else asked
            positive = [[demo.weights(asked), {}]]  # [1 or size, 1, labels]
        images.append(
            comfy.sample.sample(
                model, noise, steps, cfg, sampler, scheduler, positive, negative, torch.zeros_like(noise),
                disable_pbar=True, seed=seed,
            )
        )
    return torch.cat(images).clamp(-1, 1)


def measure_row(row, models, classifier, real, seed, arguments):
    """The metrics of one row at one seed; with classes, so many images of one follow each other as `alike` says."""
    classes, demo = None, DEMOS[arguments.model]
    if arguments.task == "conditional":
        classes = demo.classes(arguments.samples, arguments.alike)
    counter = Counter()
    guided = row.guide(*(counter.attach(model) for model in models), seed)
    images = sample(
        guided, arguments.samples, classes=classes, cfg=row.cfg, steps=round(arguments.steps * row.step_factor),
        seed=seed, batch=arguments.batch, sampler=arguments.sampler, scheduler=arguments.scheduler,
        demo=demo,
    )
    measured = real.measure(in_batches(classifier.features, images))
    if classes is not None:
        measured |= demo.accuracy(classifier, images, classes)
    return measured | {"evaluations per image": counter.images / arguments.samples}
