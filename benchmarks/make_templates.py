"""Writes the templates that have a recipe, with their thumbnails, and the thumbnails of others on the demo model.

    python quickstart.py --run benchmarks/make_templates.py                 all of them
    python quickstart.py --run benchmarks/make_templates.py repair          this one
    python quickstart.py --run benchmarks/make_templates.py quickstart      its thumbnail: it has no recipe
    python quickstart.py --run benchmarks/make_templates.py --scale 3.0     also sets `scale` in every other large model's

Those of large models, in template_recipes, are as their publishers' templates with our node, and their thumbnail is a
diagram; those of the demo model, in demo_recipes, are run, and their thumbnail is the picture that they save. So is that
of a template on the demo model which was saved from the page; the scope's, with its heat maps, is put together by hand.

Every knob of our node is at its default. A template that samples the demo model keeps the scale that it was made with.
"""

import argparse
import functools
import tempfile
from pathlib import Path

import demo_recipes
from graph_picture import draw
from pack import ROOT, enter_host
from PIL import Image
from prompts import to_prompt
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


def saved_by_hand():
    """Name -> workflow of the templates without a recipe that save one picture of the demo model."""
    found = {}
    for path in sorted(WORKFLOWS.glob("*.json")):
        workflow = read(path.stem)
        kinds = [node["type"] for node in workflow["nodes"]]
        if path.stem not in demo_recipes.TEMPLATES and "SaddleFreeDemoModel" in kinds and kinds.count("SaveImage") == 1:
            found[path.stem] = workflow
    return found


def main():
    """Writes the templates and their thumbnails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recipes, by_hand = TEMPLATES | demo_recipes.TEMPLATES, saved_by_hand()
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join([*recipes, *by_hand])} (default: all that have a recipe)"
    )
    parser.add_argument("--scale", type=float, help="scale in the other templates of large models")
    options = parser.parse_args()
    unknown = set(options.names) - set(recipes) - set(by_hand)
    if unknown:
        parser.error(f"there is no template {', '.join(sorted(unknown))}; there are {', '.join([*recipes, *by_hand])}")
    classes, names, execute = host_nodes()
    for name in options.names or recipes:
        workflow, thumbnail = by_hand.get(name), WORKFLOWS / f"{name}.jpg"
        if workflow is None:
            page = Page(name, classes)
            recipes[name](page)
            workflow = page.workflow()
            write(name, workflow)
        if name in TEMPLATES:
            draw(workflow, names, thumbnail)
        else:
            types = {node["type"] for node in workflow["nodes"]} & set(classes)
            saved = execute(to_prompt(workflow, {kind: classes[kind].INPUT_TYPES() for kind in types}))
            saved.convert("RGB").save(thumbnail, quality=85, optimize=True)
        print(f"Written: workflows/{name}.jpg" if name in by_hand else f"Written: workflows/{name}.json and .jpg")
    for name in set_scale(options.scale) if options.scale is not None else ():
        print(f"scale {options.scale}: workflows/{name}.json")


def host_nodes():
    """Type -> class, and type -> what the page calls it, of every node of the host and of this pack; what runs a prompt."""
    import asyncio

    enter_host("--cpu", "--disable-api-nodes")
    import server

    import nodes

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    made = server.PromptServer(loop)
    loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    loop.run_until_complete(nodes.load_custom_node(str(ROOT)))
    execute = functools.partial(saved_picture, loop, made)
    return nodes.NODE_CLASS_MAPPINGS, nodes.NODE_DISPLAY_NAME_MAPPINGS, execute


def saved_picture(loop, server, prompt):
    """The picture that a prompt of one SaveImage saves; RuntimeError where the host reports a failure."""
    import execution
    import folder_paths

    with tempfile.TemporaryDirectory() as folder:
        folder_paths.set_output_directory(folder)
        executor = execution.PromptExecutor(
            server, cache_type=execution.CacheType.NONE, cache_args={"lru": 0, "ram": 0, "ram_inactive": 0}
        )
        valid, error, outputs, node_errors = loop.run_until_complete(execution.validate_prompt("template", prompt, None))
        if valid:
            loop.run_until_complete(executor.execute_async(prompt, "template", {}, outputs))
        if not valid or not executor.success:
            raise RuntimeError(f"the host did not run the template: {error or executor.status_messages} {node_errors}")
        (path,) = Path(folder).rglob("*.png")
        with Image.open(path) as picture:
            return picture.copy()


if __name__ == "__main__":
    main()
