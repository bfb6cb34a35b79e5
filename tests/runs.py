"""One sampling run of a main and a weak model, with what it evaluated."""

from graphs import Graph, demo, load, output, sample, stand_in, watched


def two_models(family, host):
    """A source of a main model, a weak one of other weights, positive, negative and a latent maker."""

    def source(graph):
        if family == "demo":
            model, positive, negative, latent = demo("3")(graph)
            return model, output(model, 1), positive, negative, latent
        model, positive, negative, latent = stand_in(family, host.models)(graph)
        return model, load(graph, family, host.models, seed=1), positive, negative, latent

    return source


def run(
    host, source, label, change=lambda graph, model, weak: model, *, batch=1, guider="KSampler", conditions=None,
    **sampling,
):
    """Samples what `change` makes of a watched main and weak model; returns the latent."""
    graph = Graph()
    model, weak, positive, negative, latent = source(graph)
    if conditions is not None:
        positive, negative = conditions(graph, positive, negative)
    model, weak = watched(graph, model, "main"), watched(graph, weak, "weak")
    changed = change(graph, model, weak)
    samples = sample(graph, guider, changed, positive, negative, latent(batch), weak_model=weak, **sampling)
    graph.add("TestCapture", samples=samples, label=label)
    return host.latents(graph.prompt)[label]


def counts(host):
    """Post-CFG passes, and evaluations of the main and of the weak model."""
    record = host.record
    return len(record.calls["main"]), len(record.evaluations["main"]), len(record.evaluations["weak"])


def close(one, other, tolerance=1e-4):
    return (one - other).abs().max().item() <= tolerance * max(one.std().item(), 1e-3)
