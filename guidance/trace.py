"""What saddle-free guidance saw and did, call by call, in one sampling run."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .advice import advise
from .window import SigmaWindow


@dataclass(frozen=True)
class TracedCall:
    """One model call.

    sigma: scalar tensor; reason: why guidance was not active, or None. Where it was active: rayleigh and error, the
    quotients in use and a standard error of each, and weight, how far each acts, from 0 to 1, all [directions, B];
    probed: [B], False before an image was; push: root mean square of the correction, [B]; evaluations: of each
    image at this call, the sampler's own included, [B].
    """

    sigma: Tensor
    reason: str | None = None
    rayleigh: Tensor | None = None
    error: Tensor | None = None
    weight: Tensor | None = None
    probed: Tensor | None = None
    push: Tensor | None = None
    evaluations: Tensor | None = None

    def plain(self) -> dict[str, Any]:
        """The call in numbers, lists and strings, None where a number is not known; waits for a GPU that it is on."""
        call = {"sigma": float(self.sigma), "active": self.rayleigh is not None, "reason": self.reason}
        if self.rayleigh is None:
            return call | {"rayleigh": [], "error": [], "push": [], "acted": [], "evaluations": []}
        assert self.probed is not None and self.weight is not None and self.error is not None
        assert self.push is not None and self.evaluations is not None
        known, weights = self.probed.tolist(), self.weight.T.tolist()
        undecided = [any(weight > 0 for weight in each) and there for each, there in zip(weights, known)]
        acted = [push > 0 and there for push, there in zip(self.push.tolist(), undecided)]
        if any(undecided) and not any(acted):
            call["reason"] = "the strength was 0"
        elif not any(acted):
            call["reason"] = "no positive curvature" if any(known) else "nothing was looked for yet"
        return call | {
            "rayleigh": _plain(self.rayleigh, known), "error": _plain(self.error, known), "acted": acted,
            "push": [_number(value) for value in self.push.tolist()], "evaluations": self.evaluations.tolist(),
        }


class CurvatureTrace:
    """The calls of the last sampling run, and where in each image the tracked directions lay.

    off: a sentence where guidance is off and nothing will be traced. Values stay tensors on their device until they
    are read, so that tracing does not wait for the GPU. A run that begins where the last one ended continues it.
    layout: turns directions [directions, B, ...] into [directions, B, C, *spatial], where they are not laid out so.
    sigma_of: the model's percent_to_sigma, if there is one: from a share of sampling to a sigma.
    Read as a list it gives the calls; rayleigh, push and evaluations have one entry a call.
    """

    def __init__(self, off: str | None = None) -> None:
        self.off = off
        self.window: tuple[float, float] | None = None
        self.layout: Callable[[Tensor], Tensor] | None = None
        self.sigma_of: Callable[[float], float] | None = None
        self.clear()

    def clear(self) -> None:
        """Forgets all calls."""
        self.sigmas: tuple[float, ...] = ()
        self.schedule: tuple[float, ...] = ()
        self.ended = False
        self.calls: list[TracedCall] = []
        self._fetched = 0  # how many calls are in the host's memory
        self._decided: Tensor | None = None  # energy of the last directions, [B, *spatial]
        self._undecided: Tensor | None = None  # the same, summed over calls, weighted by how far each direction acts

    def __len__(self) -> int:
        return len(self.calls)

    def __getitem__(self, index: int) -> TracedCall:
        return self.calls[index]

    @property
    def rayleigh(self) -> list[Tensor | None]:
        """The quotients [directions, B] of every call, None where guidance was not active."""
        return [call.rayleigh for call in self.calls]

    @property
    def push(self) -> list[Tensor | None]:
        """Root mean square of the correction, [B], of every call, None where guidance was not active."""
        return [call.push for call in self.calls]

    @property
    def evaluations(self) -> list[Tensor | None]:
        """How often each image was evaluated, [B], at every call, None where guidance was not active."""
        return [call.evaluations for call in self.calls]

    def begin(self, sigmas: Sequence[float], window: SigmaWindow | None = None, continues: bool = False) -> None:
        """A new run: sigmas, the schedule as floats; window, the SigmaWindow in which guidance acts, None for all.

        continues: whether the run goes on with the pictures of the last one.
        """
        joins = continues and self.sigmas and sigmas[0] > 0 and math.isclose(self.sigmas[1], sigmas[0], rel_tol=1e-4)
        first = self.sigmas[0] if joins else sigmas[0]
        if not joins:
            self.clear()
        self.sigmas = first, sigmas[-1]
        self.schedule = (*self.schedule, *sigmas[1:]) if joins else tuple(sigmas)
        self.ended = False
        self.window = None if window is None else (window.start, window.end)

    def add(self, sigma: Tensor, values: dict[str, Tensor]) -> None:
        """An active call: its sigma, and what the search knows, a dict.

        values: rayleigh, error, weight, probed, evaluations as in TracedCall; correction [B, ...]; directions, the unit
        directions [directions, B, ...].
        """
        push = values["correction"].float().square().flatten(1).mean(dim=1).sqrt()
        known, weight = values["probed"], values["weight"].float()
        self.calls.append(TracedCall(
            sigma, None, values["rayleigh"], values["error"], weight, known, push, values["evaluations"]
        ))
        directions = values["directions"] if self.layout is None else self.layout(values["directions"])
        energy = directions.float().square().mean(dim=2)  # [directions, B, *spatial]
        undecided = (energy * weight.reshape(weight.shape + (1,) * (energy.ndim - 2))).sum(dim=0)
        self._decided = energy.mean(dim=0)
        before = self._undecided
        if before is None or before.shape != undecided.shape:
            self._undecided = undecided
        else:  # what the run before this one left is in the host's memory
            self._undecided = before.to(undecided.device, non_blocking=True) + undecided

    def add_idle(self, sigma: Tensor, reason: str) -> None:
        """A call at which guidance was not active, and why."""
        self.calls.append(TracedCall(sigma, reason))

    def end(self) -> None:
        """The run is over: takes what is left of it off the GPU."""
        self.ended = True
        if self._decided is not None and self._undecided is not None:
            self._decided, self._undecided = self._fetch(self._decided, self._undecided)
        else:
            self._fetch()

    def _fetch(self, *maps: Tensor) -> list[Tensor]:
        """Takes the calls that are not there yet to the host's memory, and maps of theirs, all in one transfer."""
        calls, self._fetched = self.calls[self._fetched :], len(self.calls)
        if not calls:
            return [each.cpu() for each in maps]
        device = calls[-1].sigma.device
        named = [
            (place, name, value) for place, call in enumerate(calls) for name, value in vars(call).items()
            if isinstance(value, Tensor) and value.device == device
        ]
        values = [value for *_, value in named] + list(maps)
        together = torch.cat([value.reshape(-1).double() for value in values]).cpu()
        parts = torch.split(together, [value.numel() for value in values])
        fetched = [part.to(value.dtype).reshape(value.shape) for part, value in zip(parts, values)]
        of_calls: list[dict[str, Any]] = [{} for _ in calls]
        for (place, name, _), value in zip(named, fetched):
            of_calls[place][name] = value
        self.calls[-len(calls) :] = [replace(call, **mine) for call, mine in zip(calls, of_calls)]
        return fetched[len(named) :]

    def indecision(self) -> Tensor | None:
        """Where each image was undecided, [B, *spatial] from 0 to 1, or None where no call was active.

        The size of the tracked directions there, each weighted by how far it acted; where none ever did, that of the
        last directions.
        """
        if self._decided is None or self._undecided is None:
            return None
        energy = torch.where(self._largest(self._undecided) > 0, self._undecided, self._decided)
        return (energy / self._largest(energy).clamp(min=torch.finfo(energy.dtype).tiny)).sqrt()

    def plain(self, first: int = 0) -> dict[str, Any]:
        """The run in numbers, lists and strings from call `first` on, and what a whole one that is over advises.

        Waits for the GPU, once for all calls.
        """
        self._fetch()
        off = self.off
        if off is None and not self.calls:
            off = "Saddle-Free Guidance has taken part in no sampling yet."
        record = {
            "first": first,
            "calls": [call.plain() for call in self.calls[first:]],
            "window": None if self.window is None else [_number(sigma) for sigma in self.window],
            "sigmas": [_number(sigma) for sigma in self.sigmas],
            "off": off,
        }
        advice = advise(record, self.schedule, self.sigma_of) if self.ended and first == 0 else []
        return record | {"advice": advice}

    @staticmethod
    def _largest(energy: Tensor) -> Tensor:
        return energy.flatten(1).amax(dim=1).reshape((-1,) + (1,) * (energy.ndim - 1))


def _plain(values: Tensor, known: list[bool]) -> list[list[float | None]]:
    """Lists of numbers, an image each, of a tensor [directions, B]."""
    return [[_number(value) if there else None for value in each] for each, there in zip(values.T.tolist(), known)]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
