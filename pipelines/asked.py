"""A call of a pipeline's network, remembered, so that the same can be asked about other latents."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

NAMES = ("sample", "hidden_states", "x")  # of the latents among the arguments of a network


class Asked:
    """One call of a network: what it was given, and what it answered.

    network: the module; args, kwargs: of the call; answered: what it returned; prediction: what the pipeline made of
    that, [B, ...], in the shape of the latents.
    """

    def __init__(self, network: torch.nn.Module, args: tuple, kwargs: dict, answered, prediction: Tensor) -> None:
        self.network, self.args, self.kwargs, self.shape = network, args, kwargs, prediction.shape
        self.place = 0 if args else next((name for name in NAMES if name in kwargs), None)
        if self.place is None:
            raise ValueError(
                f"{type(network).__name__} was called without latents that SaddleFreeGuidance knows: it looks at the "
                f"first argument, and for one named {', '.join(NAMES)}."
            )
        self.given = args[0] if args else kwargs[self.place]
        self.x, self.answer = _part(self.given, self.shape), prediction
        answer = _part(_first(answered), self.shape).to(prediction.dtype)
        self.sign = next((sign for sign in (1, -1) if torch.allclose(sign * answer, prediction, equal_nan=True)), 0)
        if not self.sign:
            raise ValueError(
                f"what the pipeline hands to the guider is not what {type(network).__name__} answered; "
                "SaddleFreeGuidance works with pipelines that hand it on as it is, or with the other sign."
            )

    def at(self, x: Tensor) -> Tensor:
        """The prediction at other latents x [B, ...], everything else as it was."""
        given = _with_part(self.given, x)
        args = (given, *self.args[1:]) if self.place == 0 else self.args
        kwargs = self.kwargs if self.place == 0 else {**self.kwargs, self.place: given}
        with torch.no_grad():
            return self.sign * _part(_first(self.network(*args, **kwargs)), self.shape)

    def rows(self, rows: Tensor, images: list[int], read: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """read(x, prediction) at rows [R, ...] of the images that are named for each.

        A forward has all images of the batch, as conditions cannot be told from what else has as many rows; an image
        that is not asked about is at its own latents, and its answer is not used.
        """
        answers: list[Tensor | None] = [None] * len(images)
        waiting = list(enumerate(images))
        while waiting:
            now = {image: row for row, image in reversed(waiting)}  # the first row of each image
            x = self.x.to(rows.dtype).clone()
            for image, row in now.items():
                x[image] = rows[row]
            answer = read(x, self.at(x))
            for image, row in now.items():
                answers[row] = answer[image]
            waiting = [(row, image) for row, image in waiting if now[image] != row]
        return torch.stack([answer for answer in answers if answer is not None])


def _first(answered):
    """The prediction in what a network of diffusers returns."""
    return answered if isinstance(answered, Tensor) else answered[0]


def _part(value, shape: torch.Size) -> Tensor:
    """The latents of a shape in what goes into a network or comes out: all of it, or what other channels follow."""
    value = value if isinstance(value, Tensor) else torch.stack(list(value))
    if value.numel() == math.prod(shape):
        return value.reshape(shape)
    if value.ndim == len(shape) and all(has >= needs for has, needs in zip(value.shape, shape)):
        return value[tuple(map(slice, shape))]
    raise ValueError(
        f"a network's latents have shape {tuple(value.shape)} and its predictions {tuple(shape)}; SaddleFreeGuidance "
        "needs the second to be a part of the first."
    )


def _with_part(value, x: Tensor):
    """What goes into a network, with other latents x [B, ...] in it."""
    if not isinstance(value, Tensor):
        return [row.reshape(old.shape).to(old.dtype) for old, row in zip(value, x)]
    if value.numel() == x.numel():
        return x.reshape(value.shape).to(value.dtype)
    value = value.clone()
    value[tuple(map(slice, x.shape))] = x.to(value.dtype)
    return value
