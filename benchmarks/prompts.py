"""Workflow files as the page sends them when Run is pressed; run as a script, writes those of workflows/api/ again.

    python quickstart.py --run benchmarks/prompts.py
"""

import asyncio
import json
import sys

import pack

WORKFLOWS = pack.ROOT / "workflows"
API = WORKFLOWS / "api"
NOTES = ("Note", "MarkdownNote")


def to_prompt(workflow, declared):
    """The API prompt of a workflow of the page.

    workflow: the page's JSON; declared: each node type's input types, as INPUT_TYPES gives them. Notes are left out.
    Widgets that the file does not have, as it was saved with an older version, are at their defaults.
    """
    source = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    nodes = [node for node in workflow["nodes"] if node["type"] not in NOTES]
    return {
        str(node["id"]): {"class_type": node["type"], "inputs": inputs_of(node, declared[node["type"]], source)}
        for node in nodes
    }


def inputs_of(node, declared, source):
    """A node's inputs by name: the output that is linked to it (node, place), or the value of its widget."""
    values = iter(node.get("widgets_values") or [])
    options = {**declared.get("required", {}), **declared.get("optional", {})}
    inputs = {}
    for slot in node.get("inputs", []):
        if "widget" in slot:
            details = options[slot["name"]][1] if len(options[slot["name"]]) > 1 else {}
            inputs[slot["name"]] = next(values, details.get("default"))
            if details.get("control_after_generate"):
                next(values, None)
        if slot.get("link") is not None:
            inputs[slot["name"]] = source[slot["link"]]
    known = {slot["name"] for slot in node.get("inputs", [])}
    newer = {name: about[1] for name, about in options.items() if name not in known and len(about) > 1}
    return inputs | {name: details["default"] for name, details in newer.items() if "default" in details}


def text_of(path, classes):
    """What workflows/api/ holds for a workflow file; classes: the host's node classes by name."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    types = {node["type"] for node in workflow["nodes"]} - set(NOTES)
    prompt = to_prompt(workflow, {name: classes[name].INPUT_TYPES() for name in types})
    return json.dumps(prompt, indent=2, ensure_ascii=False) + "\n"


def main():
    """Writes the file of workflows/api/ that belongs to each workflow there."""
    pack.enter_host("--cpu", "--disable-api-nodes")
    import server

    import nodes

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    server.PromptServer(loop)
    loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    if not loop.run_until_complete(nodes.load_custom_node(str(pack.ROOT))):
        sys.exit("prompts: the pack did not load; the host's log above says why.")
    for path in API.glob("*.json"):
        path.write_text(text_of(WORKFLOWS / path.name, nodes.NODE_CLASS_MAPPINGS), encoding="utf-8")
        print(f"Written: {path}")


if __name__ == "__main__":
    main()
