"""The prompt that runs: which of its nodes show a trace, and messages to its page."""

from comfy_execution.graph_utils import is_link
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from server import PromptServer


def send(event, message):
    """Sends a message to the page that queued the prompt."""
    PromptServer.instance.send_sync(event, message, PromptServer.instance.client_id)


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
    upstream, waiting = set(), [name]
    while waiting:
        for value in prompt.get_node(waiting.pop())["inputs"].values():
            if is_link(value) and prompt.has_node(value[0]) and value[0] not in upstream:
                upstream.add(value[0])
                waiting.append(value[0])
    return upstream


def _is_guidance(node, knobs):
    """Whether a node of a prompt is Saddle-Free Guidance with these values, as far as they are not links."""
    typed = {key: value for key, value in node["inputs"].items() if not is_link(value)}
    return node["class_type"] == "SaddleFreeGuidance" and typed.items() <= knobs.items()
