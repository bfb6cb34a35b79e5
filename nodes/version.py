"""The oldest ComfyUI that the pack works with."""

import re

OLDEST = (0, 30, 0)


def require_supported_host(version):
    """Raises ImportError, with what to do, where the host's version string is older than the pack supports."""
    numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
    if numbers < OLDEST:
        raise ImportError(
            f"Saddle-Free Guidance needs ComfyUI {'.'.join(map(str, OLDEST))} or newer and this is {version}; "
            "update ComfyUI."
        )
