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


def lora_hook(graph, positive, negative):
    """A LoRA hook on the positive condition."""
    hook = graph.add("CreateHookLora", lora_name="tiny.safetensors", strength_model=1.0, strength_clip=0.0)
    hooked = graph.add(
        "ConditioningSetProperties", cond_NEW=positive, strength=1.0, set_cond_area="default", hooks=hook
    )
    return hooked, negative


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
