"""What a trace of one run advises, in plain words with the figures behind them."""

import bisect
from collections.abc import Callable, Sequence
from typing import Any

from ..curvature import LEAST

SENTENCES = {
    "nothing": "Nothing to find: guidance changed nothing. The largest quotient was {largest}, and a saddle needs more "
    "than {least}. Extra evaluations a picture: {spent}.",
    "idle": "Nothing to find: guidance changed nothing. The model was never undecided enough for a look, so it cost "
    "nothing.",
    "noise": "The noise is too high in this format to see a saddle: guidance changed nothing. The clearest quotient "
    "was {quotient}, but it may be wrong by {error}. Load the model in a more exact format. Extra evaluations a "
    "picture: {spent}.",
    "short": "Guidance had too few model calls to look for a saddle: {calls}. Take more steps, or widen start_percent "
    "and end_percent.",
    "pushes": "Pushes from step {first} to {last} of {steps}. Extra evaluations a picture: {spent}.",
    "end": "Set end_percent to {percent} to save {saved} of them: the picture stays the same.",
    "start": "Set start_percent to {percent} to save {saved} of them: the search begins later, so the picture may go "
    "to the other side, as with another guidance_seed.",
    "unsure": "Looks that found a quotient above 1 too uncertain to push: {looks}. The clearest was {quotient}, but it "
    "may be wrong by {error}.",
}
SADDLE = 1 + LEAST
BLUR = 0.1  # a quotient that may be wrong by more hides what would get a third of the push
FEWEST = 3  # calls before the first look: two tell where to begin
WARM_UP = 2  # calls before the first push in which the direction settles
SHARES = 1000  # percents are told in thousandths, as the nodes round them


def advise(
    record: dict[str, Any], schedule: Sequence[float] = (), sigma_of: Callable[[float], float] | None = None,
    certainty: float = 3.0,
) -> list[dict[str, Any]]:
    """What the plain trace of a run that is over advises: sentences as {key, figures, text}, the main one first.

    schedule: the sigmas of its steps; sigma_of: the model's percent_to_sigma; without them no step and no percent is
    told. certainty: the guide's. Evaluations are those of a picture, in the mean.
    """
    calls = [call for call in record["calls"] if call["active"]]
    if record["off"] is not None or not calls:
        return []
    spent, looks = _short(_spent(calls)), _looks(calls)
    if any(any(call["acted"]) for call in calls):
        said = _where_it_pushes(calls, schedule, sigma_of)
        unsure = [look for look in looks if SADDLE < look[0] <= SADDLE + certainty * look[1]]
        return said + ([_said("unsure", looks=len(unsure), **_clearest(unsure, certainty))] if unsure else [])
    if not looks:
        return [_said("short", calls=len(calls)) if len(calls) < FEWEST else _said("idle")] if spent == 0 else []
    saddles = [look for look in looks if look[0] > SADDLE]
    blurred = [look for look in looks if BLUR < certainty * look[1] >= abs(look[0] - SADDLE)]
    if saddles or 2 * len(blurred) >= len(looks):
        return [_said("noise", **_clearest(saddles or blurred, certainty), spent=spent)]
    return [_said("nothing", largest=_short(max(looks)[0]), least=SADDLE, spent=spent)]


def _where_it_pushes(
    calls: list[dict[str, Any]], schedule: Sequence[float], sigma_of: Callable[[float], float] | None
) -> list[dict[str, Any]]:
    pushed = [call["sigma"] for call in calls if any(call["acted"])]
    first, last = max(pushed), min(pushed)
    said = []
    if len(schedule) > 1:
        steps = len(schedule) - 1
        at = [min(_step(schedule, sigma), steps) for sigma in (first, last)]
        said.append(_said("pushes", first=at[0], last=at[1], steps=steps, spent=_short(_spent(calls))))
    if sigma_of is not None:
        said += _later_start(calls, first, sigma_of) + _earlier_end(calls, last, sigma_of)
    return said


def _earlier_end(
    calls: list[dict[str, Any]], last: float, sigma_of: Callable[[float], float]
) -> list[dict[str, Any]]:
    """The end_percent behind the last push: nothing that is found later changes the picture."""
    after = [call for call in calls if call["sigma"] < last]
    saved = _spent(after)
    percent = _percent(sigma_of, last, max((call["sigma"] for call in after), default=0.0))
    return [_said("end", percent=percent, saved=_short(saved))] if saved and percent is not None else []


def _later_start(
    calls: list[dict[str, Any]], first: float, sigma_of: Callable[[float], float]
) -> list[dict[str, Any]]:
    """The start_percent before the first push, where every call is probed: else the search only moves."""
    sigmas = sorted({call["sigma"] for call in calls if call["sigma"] > first}, reverse=True)
    if len(sigmas) <= WARM_UP or any(count < 2 for call in calls for count in call["evaluations"]):
        return []
    start = sigmas[-WARM_UP]
    before = [call for call in calls if call["sigma"] > start]
    percent = _percent(sigma_of, sigmas[-WARM_UP - 1], start)
    return [] if percent is None else [_said("start", percent=percent, saved=_short(_spent(before)))]


def _percent(sigma_of: Callable[[float], float], high: float, low: float) -> float | None:
    """A share of sampling whose sigma lies between two, in hundredths where one does, else in thousandths, or None."""
    first, end = _share_below(sigma_of, high), _share_below(sigma_of, low, reached=True)
    inside = range(first, end)
    if not inside:
        return None
    middle = (first + end - 1) / 2
    round_ones = [share for share in inside if share % 10 == 0]
    return min(round_ones or inside, key=lambda share: abs(share - middle)) / SHARES


def _share_below(sigma_of: Callable[[float], float], sigma: float, reached: bool = False) -> int:
    """The first share, in thousandths, whose sigma is below one, or at it if `reached` says so."""

    def is_below(share: int) -> bool:
        """Whether the sigma of a share, in thousandths, is low enough."""
        there = float(sigma_of(share / SHARES))
        return there < sigma or (reached and there <= sigma)

    return bisect.bisect_left(range(SHARES + 1), True, key=is_below)


def _looks(calls: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """The largest quotient of each image at each look, and its standard error."""
    looks = []
    for call in calls:
        for values, errors, evaluations in zip(call["rayleigh"], call["error"], call["evaluations"]):
            known = [pair for pair in zip(values, errors) if None not in pair]
            if known and evaluations > 1:
                looks.append(max(known))
    return looks


def _clearest(looks: list[tuple[float, float]], certainty: float) -> dict[str, float]:
    """The figures of the look that comes nearest to a certain saddle."""
    quotient, error = max(looks, key=lambda look: look[0] - certainty * look[1])
    return {"quotient": _short(quotient), "error": _short(certainty * error)}


def _spent(calls: list[dict[str, Any]]) -> float:
    """Extra evaluations of an image, in the mean over the images of each call."""
    counts: list[list[int]] = [call["evaluations"] for call in calls if call["evaluations"]]
    return sum(sum(each) / len(each) - 1 for each in counts)


def _step(schedule: Sequence[float], sigma: float) -> int:
    """The step, from 1, in which the model is asked about a sigma."""
    return max(1, sum(step >= sigma * (1 - 1e-4) for step in schedule))


def _short(value: float) -> float:
    """A number in three digits."""
    return float(f"{value:.3g}")


def _said(key: str, **figures: float) -> dict[str, Any]:
    shown = {name: f"{value:g}" for name, value in figures.items()}
    return {"key": key, "figures": shown, "text": SENTENCES[key].format(**shown)}
