"""Edits of a positive and a negative condition in a prompt, as users make them."""

from graphs import output


def control_net(graph, positive, negative):
    """The tests' constant ControlNet on both."""
    made = graph.add(
        "ControlNetApplyAdvanced", positive=positive, negative=negative, control_net=graph.add("TestControlNet"),
        image=graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0), strength=1.0, start_percent=0.0,
        end_percent=1.0,
    )
    return made, output(made, 1)


def tiny_lora(graph):
    """Hooks of the LoRA that stand_ins.write_lora("tiny") writes."""
    return graph.add("CreateHookLora", lora_name="tiny.safetensors", strength_model=1.0, strength_clip=0.0)


def hooked(graph, condition, hooks):
    """A condition with hooks."""
    return graph.add(
        "ConditioningSetProperties", cond_NEW=condition, strength=1.0, set_cond_area="default", hooks=hooks
    )


def lora_hook(graph, positive, negative):
    """A LoRA hook on the positive condition."""
    return hooked(graph, positive, tiny_lora(graph)), negative


def region(kind):
    """The negative condition's text in the left half of the picture, or everywhere at half weight."""

    def conditions(graph, positive, negative):
        if kind == "area":
            half = graph.add(
                "ConditioningSetAreaPercentage", conditioning=negative, width=0.5, height=1.0, x=0.0, y=0.0,
                strength=1.0,
            )
        else:
            mask = graph.add("SolidMask", value=0.5, width=64, height=64)
            half = graph.add(
                "ConditioningSetMask", conditioning=negative, mask=mask, strength=1.0, set_cond_area="default"
            )
        return graph.add("ConditioningCombine", conditioning_1=positive, conditioning_2=half), negative

    return conditions


def time_range(graph, positive, negative):
    """The positive condition in the first half of sampling, the negative one's text in the second."""
    early = graph.add("ConditioningSetTimestepRange", conditioning=positive, start=0.0, end=0.5)
    late = graph.add("ConditioningSetTimestepRange", conditioning=negative, start=0.5, end=1.0)
    return graph.add("ConditioningCombine", conditioning_1=early, conditioning_2=late), negative


def per_image(family, count):
    """A condition for each of `count` images."""

    def conditions(graph, positive, negative):
        return tuple(
            graph.add("TestConditions", family=family, seed=seed, batch_size=count) for seed in (11, 12)
        )

    return conditions


def masked(count, bounds="default"):
    """The negative condition's text in the masked part of `count` pictures, and the positive one's everywhere."""

    def conditions(graph, positive, negative):
        masks = graph.add("TestMasks", count=count, size=64, soft=False)
        part = graph.add(
            "ConditioningSetMask", conditioning=negative, mask=masks, strength=1.0, set_cond_area=bounds
        )
        return graph.add("ConditioningCombine", conditioning_1=positive, conditioning_2=part), negative

    return conditions


def combined(graph, positive, negative):
    """Both texts at once as the positive condition."""
    return graph.add("ConditioningCombine", conditioning_1=positive, conditioning_2=negative), negative


def empty_negative(graph, positive, negative):
    """A negative condition of zeros."""
    return positive, graph.add("ConditioningZeroOut", conditioning=negative)


def no_negative(graph, positive, negative):
    """A negative condition without an entry."""
    return positive, graph.add("TestNoCondition")


def early_only(graph, positive, negative):
    """A positive condition that ends in the middle of sampling, with nothing after it."""
    return graph.add("ConditioningSetTimestepRange", conditioning=positive, start=0.0, end=0.5), negative


def keyframes(graph, positive, negative):
    """A LoRA hook on the positive condition, turned around from the middle of sampling on."""
    late = graph.add("CreateHookKeyframe", strength_mult=-1.0, start_percent=0.5)
    frames = graph.add("CreateHookKeyframe", strength_mult=1.0, start_percent=0.0, prev_hook_kf=late)
    hooks = graph.add("SetHookKeyframes", hooks=tiny_lora(graph), hook_kf=frames)
    return hooked(graph, positive, hooks), negative


def regional_lora(graph, positive, negative):
    """The positive condition with a LoRA in a part of the picture, and without it everywhere."""
    masks = graph.add("TestMasks", count=1, size=64, soft=False)
    return graph.add(
        "ConditioningSetPropertiesAndCombine", cond=positive, cond_NEW=positive, strength=1.0, set_cond_area="default",
        mask=masks, hooks=tiny_lora(graph),
    ), negative


def hints(count, end=1.0):
    """A ControlNet on both conditions with `count` hint images, until a share of sampling."""

    def conditions(graph, positive, negative):
        made = graph.add(
            "ControlNetApplyAdvanced", positive=positive, negative=negative,
            control_net=graph.add("TestHintControlNet"), image=graph.add("TestHints", count=count, size=128),
            strength=1.0, start_percent=0.0, end_percent=end,
        )
        return made, output(made, 1)

    return conditions


def two_hints(graph, positive, negative):
    """A ControlNet until the middle of sampling, and before it another that ends later."""
    return hints(1, end=0.5)(graph, *hints(1, end=0.8)(graph, positive, negative))


def image_of(index, conditions):
    """The conditions of one image of the batch that other conditions are for."""

    def picked(graph, positive, negative):
        both = conditions(graph, positive, negative)
        return tuple(graph.add("TestPickCondition", conditioning=one, index=index) for one in both)

    return picked


def reference(shape):
    """A reference latent of a shape, "1,16,16,16", on both conditions."""

    def conditions(graph, positive, negative):
        picture = graph.add("TestPicture", samples=graph.add("TestLatentOfShape", shape=shape))
        return tuple(graph.add("ReferenceLatent", conditioning=one, latent=picture) for one in (positive, negative))

    return conditions
