"""A curvature trace on its way: the type of its links, and messages to the page while it grows."""

import time

from comfy_api.latest import io
from comfy_execution.graph_utils import is_link
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from server import PromptServer

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
            server = PromptServer.instance
            server.send_sync(EVENT, {"nodes": self.scopes, **self.trace.plain(self.sent)}, server.client_id)
            self.sent = len(self.trace.calls)


def scopes_of(node_id, knobs):
    """Ids, as the page knows them, of the scopes in the running prompt that a guidance node's trace goes to.

    A node whose output the host had cached may have another id in this prompt: it is the one with these input values
    that the executing sampler depends on.
    """
    prompt, context = get_progress_state().dynprompt, get_executing_context()
    needed = set() if context is None else _upstream(prompt, context.node_id)
    alike = {name for name in needed if _is_guidance(prompt.get_node(name), knobs)}
    sources = {node_id} if node_id in alike or not alike else alike
    return [
        prompt.get_display_node_id(name)
        for name in prompt.all_node_ids()
        if prompt.get_node(name)["class_type"] == "CurvatureScope"
        and any(prompt.get_node(name)["inputs"].get("trace") == [source, 1] for source in sources)
    ]


def _upstream(prompt, name):
    """Ids of the nodes that a node's inputs come from."""
    found, waiting = set(), [name]
    while waiting:
        for value in prompt.get_node(waiting.pop())["inputs"].values():
            if is_link(value) and prompt.has_node(value[0]) and value[0] not in found:
                found.add(value[0])
                waiting.append(value[0])
    return found


def _is_guidance(node, knobs):
    """Whether a node of a prompt is Saddle-Free Guidance with these values, as far as they are not links."""
    typed = {key: value for key, value in node["inputs"].items() if not is_link(value)}
    return node["class_type"] == "SaddleFreeGuidance" and typed.items() <= knobs.items()
