"""What a benchmark does to the demo model, and the numbers of the pictures that it then makes."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from classifier import in_batches
from demos import DEMOS, Digits
from metrics import spread


@dataclass
class Method:
    """One row: what is done to the model, called with the model, the weak model and a seed, and the sampler's settings.

    condition: from label weights [B, 1, labels] and a seed to the CONDITIONING that is asked for. seeded: whether the
    guidance or the condition draws another picture from the same noise with another seed.
    """

    name: str
    guide: Callable = lambda model, weak, seed: model
    cfg: float = 1.0
    step_factor: float = 1.0
    condition: Callable = lambda weights, seed: [[weights, {}]]
    seeded: bool = False
    values: dict = field(default_factory=dict)


def node(name, **inputs):
    """The first output of a node of the pack, or of a guidance node of the host, inputs not given at their defaults."""
    from comfy_extras import nodes_apg, nodes_pag, nodes_tcfg
    from saddle_free_guidance.nodes import auto_guidance, saddle_free, weaken_model

    modules = (saddle_free, auto_guidance, weaken_model, nodes_pag, nodes_tcfg, nodes_apg)
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


def both(saddle_free_scale, auto_scale, **knobs):
    """Saddle-free guidance and auto-guidance together as a row's `guide`."""
    first, second = saddle_free(saddle_free_scale, **knobs), auto(auto_scale)
    return lambda model, weak, seed: second(first(model, weak, seed), weak, seed)


def of_host(name, **knobs):
    """A guidance node of the host as a row's `guide`."""
    return lambda model, weak, seed: node(name, model=model, **knobs)


def noisy_label(strength, until=0.5):
    """Noise in the condition as a row's `condition`, with nodes of the host: the label averaged with Gaussian noise.

    After the share `until` of the sampling the label is what was asked for (Sadat et al. 2023, arXiv 2310.17347). Each
    picture has noise of its own.
    """

    def condition(weights, seed):
        import nodes

        noise = torch.randn(weights.shape, generator=torch.Generator().manual_seed(seed))
        clean = [[weights, {}]]
        (noisy,) = nodes.ConditioningAverage().addWeighted(clean, [[noise, {}]], 1 - strength)
        limit = nodes.ConditioningSetTimestepRange().set_range
        return nodes.ConditioningCombine().combine(*limit(noisy, 0.0, until), *limit(clean, until, 1.0))[0]

    return condition


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


def denoiser(demo, device="cpu", dtype=torch.float32):
    """denoise(y, sigma) of a demo model without labels, y [B, 3, side, side] and sigma a float, without a sampler.

    dtype: what the network computes in; answers come back in that of y.
    """
    from saddle_free_guidance.nodes.demo.digits_network import denoise
    from saddle_free_guidance.nodes.host.demo_model import load_demo_model

    model = load_demo_model(demo.models[0]).model.to(device)
    network, sigma_data = model.diffusion_model.requires_grad_(False).to(dtype), model.model_sampling.sigma_data

    def answer(x, *conditions, **more):
        return network(x.to(dtype), *conditions, **more).to(x)

    return lambda y, sigma: denoise(answer, y, y.new_full((len(y),), sigma), sigma_data=sigma_data)


@torch.no_grad()
def sample(
    model, count, *, classes=None, cfg=1.0, steps=24, seed=0, batch=250, sampler="euler", scheduler="karras", demo=Digits,
    condition=Method.condition, condition_seed=None,
):
    """count images [count, 3, side, side] through the host's sampler; classes: [count], or None for no class.

    condition: as in Method; condition_seed: its seed, that of the noise if None.
    """
    import comfy.sample

    images, negative = [], [[torch.zeros(1, 1, demo.labels), {}]]
    for start in range(0, count, batch):
        size = min(batch, count - start)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
        noise = torch.randn(size, 3, demo.side, demo.side, generator=generator)
        positive = negative
        if classes is not None:
            weights = demo.weights(classes[start : start + size])  # [size, 1, labels]
            positive = condition(weights, (seed if condition_seed is None else condition_seed) * 1_000_003 + start)
        images.append(
            comfy.sample.sample(
                model, noise, steps, cfg, sampler, scheduler, positive, negative, torch.zeros_like(noise),
                disable_pbar=True, seed=seed,
            )
        )
    return torch.cat(images).clamp(-1, 1)


def drawn(row, models, count, arguments, *, classes=None, seed=0, guidance_seed=None):
    """Pictures of a row, and how many evaluations one of them took; guidance_seed: that of the noise if None."""
    demo, counter = DEMOS[arguments.model], Counter()
    guidance_seed = seed if guidance_seed is None else guidance_seed
    guided = row.guide(*(counter.attach(model) for model in models), guidance_seed)
    images = sample(
        guided, count, classes=classes, cfg=row.cfg, steps=round(arguments.steps * row.step_factor), seed=seed,
        batch=arguments.batch, sampler=arguments.sampler, scheduler=arguments.scheduler, demo=demo,
        condition=row.condition, condition_seed=guidance_seed,
    )
    return images, counter.images / count


def measure_row(row, models, classifier, real, seed, arguments):
    """The metrics of one row at one seed; with classes, so many images of one follow each other as `alike` says."""
    classes, demo = None, DEMOS[arguments.model]
    if arguments.task == "conditional":
        classes = demo.classes(arguments.samples, arguments.alike)
    images, evaluations = drawn(row, models, arguments.samples, arguments, classes=classes, seed=seed)
    measured = real.measure(in_batches(classifier.features, images))
    if classes is not None:
        measured |= demo.accuracy(classifier, images, classes)
    return measured | {"evaluations per image": evaluations}


def measure_variety(row, models, classifier, seed, arguments):
    """How different pictures of one label are: from one noise with several guidance seeds, and from several noises.

    The guidance seed of a row with noise in its condition is the seed of that noise. A spread is the mean distance
    between two pictures of a label in the classifier's features, mean over the labels; `alike` pictures have one label.
    What is as asked is told of the pictures of each spread.
    """
    demo, alike = DEMOS[arguments.model], arguments.alike
    labels = demo.classes(arguments.samples // alike)
    repeated = labels.repeat_interleave(alike)
    turns = [
        drawn(row, models, len(labels), arguments, classes=labels, seed=seed, guidance_seed=turn)[0]
        for turn in range(alike if row.seeded else 1)
    ]
    over_seeds = torch.stack(turns if row.seeded else turns * alike, dim=1).flatten(0, 1)  # those of a label together
    together = argparse.Namespace(**(vars(arguments) | {"batch": alike}))
    over_noise, evaluations = drawn(row, models, len(repeated), together, classes=repeated, seed=seed)
    measured = {}
    for name, images in (("seeds", over_seeds), ("noise", over_noise)):
        features = in_batches(classifier.features, images).unflatten(0, (-1, alike))
        measured[f"spread over {name}"] = spread(features)
        measured |= {f"{key} over {name}": value for key, value in demo.accuracy(classifier, images, repeated).items()}
    return measured | {"evaluations per image": evaluations}
