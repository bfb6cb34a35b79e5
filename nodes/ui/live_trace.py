"""A curvature trace on its way: the type of its links, and messages to the page while it grows."""

import time

from comfy_api.latest import io

from ..host.prompt import scopes_of, send

Trace = io.Custom("CURVATURE_TRACE")
EVENT = "saddle_free_guidance.trace"
SECONDS_BETWEEN = 0.1


class LiveTrace:
    """Sends the new calls of a trace to the Curvature Scope nodes that show it, at most ten times a second.

    node_id, knobs: id and input values of the guidance node when it was executed. Without a scope in the prompt nothing
    is read or sent.
    """

    def __init__(self, trace, node_id, knobs):
        self.trace = trace
        self.scopes = scopes_of(node_id, knobs)
        self.sent = len(trace.calls)
        self.due = 0.0

    def update(self):
        """Sends what is new, if it is time to."""
        if self.scopes and time.monotonic() >= self.due:
            self.flush()
            self.due = time.monotonic() + SECONDS_BETWEEN

    def flush(self):
        """Sends what is new."""
        if self.scopes and len(self.trace.calls) > self.sent:
            send(EVENT, {"nodes": self.scopes, **self.trace.plain(self.sent)})
            self.sent = len(self.trace.calls)
