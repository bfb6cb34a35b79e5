"""Several samplings in one prompt, each of a watched main and weak model, with what it evaluated."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from graphs import Graph, output, sample, watched

# How far x itself is added to a stand-in whose random weights leave no direction undecided.
ADDED = {"sd15": 3.0, "sd15_inpaint": 3.0, "sd3": 3.0, "sd35": 3.0, "flux": 3.0, "wan": 3.0, "ltxav": 10.0}


def unchanged(graph, *links):
    """Leaves a part of a graph as it is."""
    return links if len(links) > 1 else links[0]


def undecided(family, share=1.0):
    """Makes saddles in a stand-in that has none, with a share of what is usually added."""
    if family not in ADDED:
        return unchanged
    return lambda graph, model: graph.add("TestUndecided", model=model, amount=share * ADDED[family])


def k_sampler(graph, **inputs):
    """Adds a KSampler."""
    return sample(graph, "KSampler", **inputs)


@dataclass(frozen=True)
class Setup:
    """What users build around guidance; each part takes the graph and the links that it changes."""

    conditions: callable = unchanged  # positive and negative; the edited ones are shared by all samplings of a prompt
    latent: callable = unchanged  # shared, too
    models: callable = unchanged  # the main model, and the weak one
    main: callable = unchanged  # the main model only


@dataclass(frozen=True)
class Variant:
    """One sampling: a setup, what guidance makes of the main and weak model there, and how it is sampled."""

    setup: Setup = Setup()
    guide: callable = lambda graph, model, weak: model
    weak: callable = None  # another weak model, made in the graph
    sampler: callable = k_sampler
    settings: dict = field(default_factory=dict)
    traced: bool = False  # where `guide` ends with a Saddle-Free Guidance node


def sampled(host, source, variants, *, batch=3, **settings):
    """Samples label -> Variant; gives label -> latent, post-CFG passes, evaluations of main and weak, rows, trace."""
    graph, shared = Graph(), {}
    model, weak, *conditions, latent = source(graph)
    latent = latent(batch)

    def edited(edit, *links):
        if edit not in shared:
            shared[edit] = edit(graph, *links)
        return shared[edit]

    for label, variant in variants.items():
        setup = variant.setup
        main = setup.main(graph, setup.models(graph, watched(graph, model, label)))
        other = watched(graph, weak if variant.weak is None else variant.weak(graph), f"weak {label}")
        guided = variant.guide(graph, main, setup.models(graph, other))
        positive, negative = conditions if setup.conditions is unchanged else edited(setup.conditions, *conditions)
        samples = variant.sampler(
            graph, model=guided, positive=positive, negative=negative,
            latent=latent if setup.latent is unchanged else edited(setup.latent, latent),
            **(settings | variant.settings),
        )
        graph.add("TestCapture", samples=samples, label=label)
        if variant.traced:
            graph.add("TestCaptureTrace", trace=output(guided, 1), latent=samples, label=label)
    latents, record = host.latents(graph.prompt), host.record
    return {
        label: SimpleNamespace(
            latent=latents[label], calls=len(record.calls[label]), main=len(record.evaluations[label]),
            weak=len(record.evaluations[f"weak {label}"]), rows=record.rows[label],
            checks=record.checks[label], trace=record.traces.get(label),
        )
        for label in variants
    }


def independent_of_step(one, other, tolerance=0.01):
    """Whether two traced samplings with other probe radii found the same curvature at every call.

    That of a derivative does not depend on the step; where base and probe come from two models, it does.
    """
    one, other = (torch.stack([call.rayleigh for call in result.trace.calls]) for result in (one, other))
    return bool(((one - other).abs() <= tolerance * (1 + one.abs())).all())
