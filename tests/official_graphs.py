"""The official templates, opened by the page itself: what it sends to the host, without and with our node in them.

The page reads the graphs, also those of a later format, so that nothing here depends on how a template is written.
"""

import copy
from collections import Counter

import page as driver

NODE = "SaddleFreeGuidance"
PROMPTS = """async ([name, type]) => {
    const answer = await fetch(`/templates/${name}.json`)
    const written = answer.ok ? await answer.text() : ''
    if (!written.includes('"nodes"')) return null
    if (!written.includes('"MODEL"')) return [null, null]
    await app.loadGraphData(JSON.parse(written), true, false, app.extensionManager.workflow.activeWorkflow)
    const without = (await app.graphToPrompt()).output
    for (const graph of new Set([app.rootGraph, ...app.rootGraph.subgraphs.values()])) guide(graph, type)
    return [without, (await app.graphToPrompt()).output]

    /** Puts a node between each sampler or guider of a graph and its model. */
    function guide(graph, type) {
        for (const node of [...graph.nodes]) {
            const outputs = (node.outputs ?? []).map((output) => output.type)
            if (node.subgraph || node.mode || outputs.includes('MODEL')) continue  // a mode: muted or bypassed
            if (!outputs.some((output) => ['LATENT', 'GUIDER', 'SAMPLER'].includes(output))) continue
            for (const [slot, input] of (node.inputs ?? []).entries()) {
                if (input.type === 'MODEL' && input.link != null) insert(graph, type, node, slot)
            }
        }
    }

    function insert(graph, type, node, slot) {
        const { origin_id, origin_slot } = graph.getLink(node.inputs[slot].link)
        const ours = LiteGraph.createNode(type)
        graph.add(ours)
        if (graph.inputNode?.id === origin_id) graph.inputNode.slots[origin_slot].connect(ours.inputs[0], ours)
        else graph.getNodeById(origin_id).connect(origin_slot, ours, 0)
        ours.connect(0, node, slot)
    }
}"""
NAMES = """async () => {
    const categories = await (await fetch('/templates/index.json')).json()
    return categories.flatMap((category) => category.templates.map((template) => template.name))
}"""


def names(tab):
    """The names of all official templates that the opened page lists."""
    return tab.evaluate(NAMES)


def prompts(tab, name):
    """The API prompts of an official template, without our node and with it before each sampler or guider.

    None for a template that is gone or no graph, two empty prompts where nothing is a model. Nodes that the host does
    not have, as those of paid services, are left out with the links from them.
    """
    sent = tab.evaluate(PROMPTS, [name, NODE])
    return sent and tuple(_known(one or {}) for one in sent)


def _known(sent):
    known = {key: node for key, node in sent.items() if node["class_type"]}
    for node in known.values():
        node["inputs"] = {key: value for key, value in node["inputs"].items() if not _dangling(value, known)}
    return known


def _dangling(value, known):
    return is_link(value) and value[0] not in known


def is_link(value):
    """Whether an input of a prompt is a link to an output of another node."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def ours(prompt):
    """The ids of our nodes that have a model in a prompt; those in subgraphs have a colon."""
    return [key for key, node in prompt.items() if node["class_type"] == NODE and "model" in node["inputs"]]


def collected(tab, address, chosen=None):
    """name -> (prompt without, prompt with our node) of all official templates of a server, or of those named.

    The browser is to be closed before a host runs: its event loop and the host's cannot share a thread.
    """
    driver.keep_open(tab, address)
    found = {name: prompts(tab, name) for name in chosen or names(tab)}
    return {name: pair for name, pair in found.items() if pair is not None}


def complaints(host, prompt):
    """What the host's validation says of each node of a prompt, counted: (class, kind of error, details)."""
    _, _, _, errors = host.validate(copy.deepcopy(prompt))
    return Counter(
        (node["class_type"], error["type"], str(error.get("details")))
        for node in errors.values() for error in node["errors"]
    )


def added_complaints(host, without, with_ours):
    """What the host says against a prompt with our node beyond what it says without, as missing files."""
    return complaints(host, with_ours) - complaints(host, without)
