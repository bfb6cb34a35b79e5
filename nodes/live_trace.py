"""A curvature trace on its way: the type of its links, and messages to the page while it grows."""

import time

from comfy_api.latest import io
from comfy_execution.progress import get_progress_state
from server import PromptServer

Trace = io.Custom("CURVATURE_TRACE")
EVENT = "saddle_free_guidance.trace"
SECONDS_BETWEEN = 0.1


class LiveTrace:
    """Sends the new calls of a trace to the Curvature Scope nodes that show it, at most ten times a second.

    node_id: of the node whose trace it is. Without a scope in the prompt nothing is read or sent.
    """

    def __init__(self, trace, node_id):
        self.trace = trace
        self.scopes = scopes_of(node_id)
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
            server = PromptServer.instance
            server.send_sync(EVENT, {"nodes": self.scopes, **self.trace.plain(self.sent)}, server.client_id)
            self.sent = len(self.trace.calls)


def scopes_of(node_id):
    """Ids, as the page knows them, of the scopes in the running prompt that a node's trace goes to."""
    prompt = get_progress_state().dynprompt
    return [
        prompt.get_display_node_id(name)
        for name in prompt.all_node_ids()
        if prompt.get_node(name)["class_type"] == "CurvatureScope"
        and prompt.get_node(name)["inputs"].get("trace") == [node_id, 1]
    ]
