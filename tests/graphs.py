"""Prompts in the host's API format, built a node at a time."""

KNOBS = {
    "scale": 1.0,
    "guidance_seed": 0,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "probe_radius": 0.0,
    "refresh_every": 1,
    "directions": 1,
}

AUTO_KNOBS = {"scale": 1.5, "start_percent": 0.0, "end_percent": 1.0}


class Graph:
    """A prompt under construction; `add` returns the link to the new node's first output."""

    def __init__(self):
        self.prompt = {}

    def add(self, class_type, **inputs):
        name = str(len(self.prompt) + 1)
        self.prompt[name] = {"class_type": class_type, "inputs": inputs}
        return [name, 0]


def output(link, index):
    """Another output of the node that `link` points to."""
    return [link[0], index]


def guided(graph, model, **knobs):
    """Adds a Saddle-Free Guidance node with the given knobs, the rest at their defaults."""
    return graph.add("SaddleFreeGuidance", model=model, **(KNOBS | knobs))


def steered(graph, model, weak_model, **knobs):
    """Adds an Auto-Guidance node with the given knobs, the rest at their defaults."""
    return graph.add("AutoGuidance", model=model, weak_model=weak_model, **(AUTO_KNOBS | knobs))


def watched(graph, model, label, break_at=0, how="interrupt"):
    """Adds a node that records the model's evaluations under a label."""
    return graph.add("TestWatch", model=model, label=label, break_at=break_at, how=how)


def sample(
    graph, guider, model, positive, negative, latent, *, cfg=1.0, sampler="euler", scheduler="simple", steps=3, seed=7,
    weak_model=None,
):
    """Adds a sampler node of any kind, or a custom sampler with one of the host's guiders; returns its latent."""
    common = {"sampler_name": sampler, "scheduler": scheduler, "steps": steps}
    if guider == "KSampler":
        return graph.add(
            "KSampler", model=model, positive=positive, negative=negative, latent_image=latent,
            seed=seed, cfg=cfg, denoise=1.0, **common,
        )
    if guider == "KSamplerAdvanced":
        return graph.add(
            "KSamplerAdvanced", model=model, positive=positive, negative=negative, latent_image=latent,
            add_noise="enable", noise_seed=seed, cfg=cfg, start_at_step=0, end_at_step=10000,
            return_with_leftover_noise="disable", **common,
        )
    if guider == "BasicGuider":
        made = graph.add("BasicGuider", model=model, conditioning=positive)
    elif guider == "CFGGuider":
        made = graph.add("CFGGuider", model=model, positive=positive, negative=negative, cfg=cfg)
    elif guider == "DualModelGuider":
        made = graph.add(
            "DualModelGuider", model=model, model_negative=weak_model, positive=positive, negative=positive, cfg=cfg
        )
    elif guider == "DualCFGGuider":
        made = graph.add(
            "DualCFGGuider", model=model, cond1=positive, cond2=negative, negative=negative,
            cfg_conds=cfg, cfg_cond2_negative=cfg, style="regular",
        )
    else:
        raise ValueError(guider)
    return graph.add(
        "SamplerCustomAdvanced", noise=graph.add("RandomNoise", noise_seed=seed), guider=made,
        sampler=graph.add("KSamplerSelect", sampler_name=sampler),
        sigmas=graph.add("BasicScheduler", model=model, scheduler=scheduler, steps=steps, denoise=1.0),
        latent_image=latent,
    )


def branches(source, variants, *, batch=1, pick=None, guider="KSampler", **sampling):
    """A prompt that samples one model several times, each watched and captured under its label.

    source: called with the graph, gives model, positive, negative and a function from batch size to latent.
    variants: label -> knobs of a Saddle-Free Guidance node, None for none, or (knobs, evaluation to break off at, how).
    pick: sample only this image of the batch.
    """
    graph = Graph()
    model, positive, negative, latent = source(graph)
    latent = latent(batch)
    if pick is not None:
        latent = graph.add("LatentFromBatch", samples=latent, batch_index=pick, length=1)
    for label, variant in variants.items():
        knobs, at, how = variant if isinstance(variant, tuple) else (variant, 0, "interrupt")
        branch = watched(graph, model, label, at, how)
        if knobs is not None:
            branch = guided(graph, branch, **knobs)
        samples = sample(graph, guider, branch, positive, negative, latent, **sampling)
        graph.add("TestCapture", samples=samples, label=label)
    return graph.prompt


def load(graph, family, models, seed=0):
    """Adds the host's loader for a stand-in checkpoint."""
    import stand_ins

    name = stand_ins.write_stand_in(family, models, seed)
    if stand_ins.FAMILIES[family].folder == "checkpoints":
        return graph.add("CheckpointLoaderSimple", ckpt_name=name)
    return graph.add("UNETLoader", unet_name=name, weight_dtype="default")


def stand_in(family, models):
    """A source for `branches`: a stand-in checkpoint through the host's loader."""

    def source(graph):
        model = load(graph, family, models)
        positive = graph.add("TestConditioning", family=family, seed=1)
        negative = graph.add("TestConditioning", family=family, seed=2)
        return model, positive, negative, lambda batch: graph.add("TestLatent", family=family, batch_size=batch)

    return source


def demo(digit="none", *more):
    """A source for `branches`: the bundled demo model, with a digit, or one for each image."""

    def source(graph):
        model = graph.add("SaddleFreeDemoModel", digit=digit)
        positive = output(model, 3)
        for other in more:
            following = output(graph.add("SaddleFreeDemoModel", digit=other), 3)
            positive = graph.add("TestJoinConditions", batch=positive, next=following)
        negative = graph.add("ConditioningZeroOut", conditioning=output(model, 3))
        return model, positive, negative, lambda batch: graph.add(
            "EmptyLatentImage", width=32, height=32, batch_size=batch
        )

    return source


def emoji(kind="any", style="any", model="emoji"):
    """A source for `branches`: the bundled emoji model, or the one of 8 steps."""

    def source(graph):
        loaded = graph.add("SaddleFreeDemoModel", digit="none", model=model, kind=kind, style=style)
        negative = graph.add("ConditioningZeroOut", conditioning=output(loaded, 3))
        return loaded, output(loaded, 3), negative, lambda batch: graph.add(
            "EmptyLatentImage", width=64, height=64, batch_size=batch
        )

    return source
