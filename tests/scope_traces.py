"""Traces to send to the scope in the page, and what it shows of them."""

import math

TEXTS = """() => [...document.querySelectorAll('.saddle-free-scope text')].map((text) => {
    const { left, right, top, bottom } = text.getBoundingClientRect()
    return { words: text.textContent, left, right, top, bottom }
})"""


def bell(images, calls=24, directions=1, height=1.6, window=None, sigmas=(14.6, 0.02)):
    """A plain trace whose Rayleigh quotients rise to `height` and fall again, image after image."""
    ratio = (sigmas[1] / sigmas[0]) ** (1 / (calls - 1))
    made = []
    for index in range(calls):
        sigma = sigmas[0] * ratio**index
        active = window is None or window[1] <= sigma <= window[0]
        rayleigh = [
            [height * math.exp(-((index / calls - 0.4 - image / 40) ** 2) * 9) / (1 + way) for way in range(directions)]
            for image in range(images if active else 0)
        ]
        acted = [values[0] > 1 for values in rayleigh]
        push = [float(did) for did in acted]
        made.append(
            {"sigma": sigma, "active": active, "rayleigh": rayleigh, "push": push, "acted": acted, "reason": None}
        )
    return {"first": 0, "calls": made, "window": window, "sigmas": [sigmas[0], 0.0], "off": None}
