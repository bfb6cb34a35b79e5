"""A picture that the page has saved holds the settings of our nodes, and gives them back when it is dropped there."""

import base64
import json

import page as driver
import pytest
from cases import long_but
from PIL import Image
from test_page import NODES

CHANGED = {  # widget -> another value than that of the templates
    "scale": 3.5, "guidance_seed": 123456789, "start_percent": 0.05, "end_percent": 0.95, "probe_radius": 0.25,
    "refresh_every": 2, "directions": 2, "opacity": 0.3, "strength": 0.35, "method": "more noise", "digit": "7",
    "kind": "cat", "style": "blob", "values": "1, 2", "parameter": "guidance_seed", "second_parameter": "scale",
    "second_values": "2", "steps": 3, "batch_size": 1,
}
OTHERS = ("KSampler", "EmptyLatentImage")  # of which some are changed, too, so that the picture is there sooner
CHANGE = """([kinds, values]) => {
    for (const node of app.rootGraph.nodes.filter((node) => kinds.includes(node.type)))
        for (const widget of node.widgets ?? [])
            if (widget.name in values) widget.value = values[widget.name]
}"""
ADD_WEAKENED = """() => {
    const [demo, weak, auto] = ['SaddleFreeDemoModel', 'WeakenModel', 'AutoGuidance'].map((type) => {
        const node = app.rootGraph.nodes.find((node) => node.type === type) ?? LiteGraph.createNode(type)
        if (node.id === -1) app.rootGraph.add(node)
        return node
    })
    demo.connect(0, weak, 0)
    weak.connect(0, auto, 1)
}"""
READ = """(kinds) => app.rootGraph.nodes.filter((node) => kinds.includes(node.type)).map((node) => [
    node.id, node.type, Object.fromEntries((node.widgets ?? []).filter((widget) => widget.name in
        Object.fromEntries(node.inputs.filter((input) => input.widget).map((input) => [input.widget.name, 1])))
        .map((widget) => [widget.name, widget.value]))])"""
DROP = """([name, encoded]) => {
    const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0))
    const dataTransfer = new DataTransfer()
    dataTransfer.items.add(new File([bytes], name, { type: 'image/png' }))
    const canvas = app.canvas.canvas
    const { x, y, width, height } = canvas.getBoundingClientRect()
    const place = { clientX: x + width / 2, clientY: y + height / 2, bubbles: true, cancelable: true, dataTransfer }
    for (const kind of ['dragenter', 'dragover', 'drop']) canvas.dispatchEvent(new DragEvent(kind, place))
}"""


def of_widgets(nodes):
    """(id, type) -> the values of a node's widgets."""
    return {(node, kind): values for node, kind, values in nodes}


@pytest.mark.parametrize("template, kept", long_but([
    ("scope", "workflow and prompt"), ("scope", "prompt alone"), ("sweep", "workflow and prompt"),
    ("saddle-free-plus-auto-guidance", "workflow and prompt"),
], [
    ("scope", "prompt alone"), ("sweep", "workflow and prompt"),
    ("saddle-free-plus-auto-guidance", "workflow and prompt"),
]))
def test_a_saved_picture_gives_every_setting_back(tab, address, output, new_outputs, tmp_path, template, kept):
    changed = CHANGED | {"seed": len(kept)}  # else what the case before has saved and removed would be cached
    driver.load_template(tab, address, template)
    tab.evaluate(CHANGE, [[*NODES, *OTHERS], changed])
    if template == "saddle-free-plus-auto-guidance":
        tab.evaluate(ADD_WEAKENED)
        tab.evaluate(CHANGE, [[*NODES, *OTHERS], changed])
    before = of_widgets(tab.evaluate(READ, NODES))
    assert len(before) >= 2 and all(before.values())
    for (_, kind), values in before.items():
        asked = {widget: value for widget, value in changed.items() if widget in values}
        assert asked and {widget: values[widget] for widget in asked} == asked, kind
    driver.run(tab)
    image = next(found["images"][0] for found in driver.outputs(tab).values() if found.get("images"))
    path = output / image["filename"]
    told = check_readable(path, before)
    if kept == "prompt alone":  # as scripts save it that send prompts
        path = without_workflow(path, told, tmp_path)
    driver.new_workflow(tab, address)
    assert of_widgets(tab.evaluate(READ, NODES)) != before
    tab.evaluate(DROP, [path.name, base64.b64encode(path.read_bytes()).decode()])
    tab.wait_for_function(
        "(count) => app.rootGraph.nodes.filter((node) => node.type.match(/Saddle|Guidance/)).length >= count",
        arg=sum("Saddle" in kind or "Guidance" in kind for _, kind in before),
    )
    after = of_widgets(tab.evaluate(READ, NODES))
    assert {(str(node), kind): values for (node, kind), values in after.items()} == {
        (str(node), kind): values for (node, kind), values in before.items()
    }


def check_readable(path, before):
    """The picture's own text names each of our nodes by type and its settings by the words of the node; the text."""
    with Image.open(path) as picture:
        told = json.loads(picture.text["prompt"])
        assert "workflow" in picture.text
    named = {(node, entry["class_type"]): entry["inputs"] for node, entry in told.items()}
    for (node, kind), values in before.items():
        inputs = named[str(node), kind]
        assert {widget: inputs[widget] for widget in values} == values
    return told


def without_workflow(path, told, folder):
    """A copy of a picture that holds the prompt only."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("prompt", json.dumps(told))
    with Image.open(path) as picture:
        picture.save(folder / path.name, pnginfo=info)
    return folder / path.name
