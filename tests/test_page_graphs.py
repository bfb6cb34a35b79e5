"""Graphs saved with earlier versions, opened in the page: they keep their values, and the rest is at its default."""

import json

import page as driver
from pack import ROOT


def first_release():
    """A graph as the page saved it with the first release."""
    return json.loads((ROOT / "tests/graphs_saved/first_release.json").read_text(encoding="utf-8"))


def test_a_graph_of_the_first_release_keeps_its_values(tab, address):
    driver.new_workflow(tab, address)
    tab.evaluate("(graph) => app.loadGraphData(graph)", first_release())
    tab.wait_for_function("() => app.rootGraph.nodes.some((node) => node.type === 'SaddleFreeGuidance')")
    loaded = tab.evaluate(
        """() => {
            const node = app.rootGraph.nodes.find((node) => node.type === 'SaddleFreeGuidance')
            const links = node.outputs[0].links.map((id) => app.rootGraph.links.get(id))
            return {
                values: Object.fromEntries(node.widgets.map((widget) => [widget.name, widget.value])),
                targets: links.map((link) => [app.rootGraph.getNodeById(link.target_id).type, link.target_slot]),
                outputs: node.outputs.map((output) => [output.name, output.type]),
            }
        }"""
    )
    assert loaded["values"] == {
        "scale": 2.5, "guidance_seed": 123456789, "start_percent": 0.1, "end_percent": 0.9, "probe_radius": 0.25,
        "refresh_every": 2, "directions": 3, "strength_curve": "constant",
    }
    assert loaded["targets"] == [["KSampler", 0]]
    assert loaded["outputs"] == [["MODEL", "MODEL"], ["trace", "CURVATURE_TRACE"]]
    prompt = tab.evaluate("() => app.graphToPrompt()")["output"]
    assert {name: prompt["3"]["inputs"][name] for name in loaded["values"]} == loaded["values"]
    assert prompt["1"]["inputs"] == {"digit": "7", "model": "digits", "kind": "any", "style": "any"}


def test_a_new_demo_model_draws_emoji_and_a_saved_one_keeps_its_choice(tab, address):
    """Saved with one value, as the first release did, with all of them, and copied."""
    driver.new_workflow(tab, address)
    values = tab.evaluate(
        """() => {
            const read = (node) => node.widgets.map((widget) => widget.value)
            const make = (values) => {
                const node = LiteGraph.createNode('SaddleFreeDemoModel')
                app.rootGraph.add(node)
                if (values) node.configure({ ...node.serialize(), widgets_values: values })
                return node
            }
            const made = make()
            const first = read(made)
            made.widgets[2].value = 'cat'
            const all = ['none', 'digits', 'any', 'blob']
            return [first, read(made.clone()), read(make(['7'])), read(make(all)), read(make(all).clone())]
        }"""
    )
    assert values == [
        ["none", "emoji", "any", "any"], ["none", "emoji", "cat", "any"], ["7", "digits", "any", "any"],
        ["none", "digits", "any", "blob"], ["none", "digits", "any", "blob"],
    ]


def test_a_graph_with_fewer_widgets_has_the_rest_at_their_defaults(tab, address):
    """As a graph of an older version is; what it has keeps its place."""
    graph = first_release()
    node = next(node for node in graph["nodes"] if node["type"] == "SaddleFreeGuidance")
    node["widgets_values"] = node["widgets_values"][:2]
    node["inputs"] = node["inputs"][:3]
    driver.new_workflow(tab, address)
    tab.evaluate("(graph) => app.loadGraphData(graph)", graph)
    tab.wait_for_function("() => app.rootGraph.nodes.some((node) => node.type === 'SaddleFreeGuidance')")
    prompt = tab.evaluate("() => app.graphToPrompt()")["output"]
    inputs = next(entry["inputs"] for entry in prompt.values() if entry["class_type"] == "SaddleFreeGuidance")
    assert isinstance(inputs.pop("model"), list)
    assert inputs == {
        "scale": 2.5, "guidance_seed": 123456789, "start_percent": 0.0, "end_percent": 1.0, "probe_radius": 0.0,
        "refresh_every": 0, "directions": 1, "strength_curve": "constant",
    }
