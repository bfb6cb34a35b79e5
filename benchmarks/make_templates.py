"""Writes the templates of large models, as their publishers' templates have them, with our node and a thumbnail.

    python quickstart.py --run benchmarks/make_templates.py                 those of template_recipes, with thumbnails
    python quickstart.py --run benchmarks/make_templates.py --scale 3.0     also sets `scale` in every other large model's

Every knob of our node is at its default. A template that samples the demo model keeps the scale that it was made with.
"""

import argparse

from graph_picture import draw
from pack import ROOT, enter_host
from template_page import WORKFLOWS, Page, read, write
from template_recipes import TEMPLATES


def set_scale(scale):
    """Sets `scale` of our node in every other template that does not sample the demo model; yields their names."""
    for path in sorted(WORKFLOWS.glob("*.json")):
        workflow = read(path.stem)
        kinds = {node["type"] for node in workflow["nodes"]}
        if path.stem in TEMPLATES or "SaddleFreeDemoModel" in kinds or "SaddleFreeGuidance" not in kinds:
            continue
        for node in workflow["nodes"]:
            if node["type"] == "SaddleFreeGuidance":
                node["widgets_values"][0] = scale
        write(path.stem, workflow)
        yield path.stem


def main():
    """Writes the templates and their thumbnails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, help="scale in the other templates of large models")
    options = parser.parse_args()
    classes, names = host_nodes()
    for name, make in TEMPLATES.items():
        page = Page(name, classes)
        make(page)
        write(name, page.workflow())
        draw(page.workflow(), names, WORKFLOWS / f"{name}.jpg")
        print(f"Written: workflows/{name}.json and .jpg")
    for name in set_scale(options.scale) if options.scale is not None else ():
        print(f"scale {options.scale}: workflows/{name}.json")


def host_nodes():
    """Type -> class, and type -> what the page calls it, of every node of the host and of this pack."""
    import asyncio

    enter_host("--cpu", "--disable-api-nodes")
    import server

    import nodes

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    server.PromptServer(loop)
    loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    loop.run_until_complete(nodes.load_custom_node(str(ROOT)))
    return nodes.NODE_CLASS_MAPPINGS, nodes.NODE_DISPLAY_NAME_MAPPINGS


if __name__ == "__main__":
    main()
