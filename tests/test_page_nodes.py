"""The scope in the page's HTML nodes ("Nodes 2.0") and on the nodes of subgraphs, in either kind of page."""

import page as driver
import pytest
from scope_traces import TEXTS, bell

HTML_NODES = "Comfy.VueNodes.Enabled"
KINDS = pytest.mark.parametrize("html", [False, True], ids=["canvas", "html"])
LEAST = 160  # height of a drawing

INTO_SUBGRAPH = """() => {
    const { node, subgraph } = app.rootGraph.convertToSubgraph(new Set(app.rootGraph.nodes))
    node.pos = [100, 100]
    app.canvas.setDirty(true, true)
    return `${node.id}:${subgraph.nodes[0].id}`
}"""
DRAWINGS = """() => [...document.querySelectorAll('.saddle-free-scope')].map((root) => {
    const { left, top, width, height } = root.getBoundingClientRect()
    const { width: drawnWidth, height: drawnHeight } = root.querySelector('svg').viewBox.baseVal
    return { left, top, width, height, drawn: [drawnWidth, drawnHeight], inner: [root.clientWidth, root.clientHeight],
             points: root.querySelectorAll('circle.call').length }
}).filter(({ width }) => width > 0)"""
DRAWN = """([least, points]) => {
    const shown = [...document.querySelectorAll('.saddle-free-scope')].filter((root) => root.clientWidth > 0)
    if (shown.length !== 1) return false
    const { width, height } = shown[0].querySelector('svg').viewBox.baseVal
    const node = app.canvas.graph.nodes[0]
    return width === shown[0].clientWidth && height === shown[0].clientHeight &&
        shown[0].offsetWidth < node.size[0] && shown[0].offsetWidth > node.size[0] - 40 && height >= least &&
        (points === null || shown[0].querySelectorAll('circle.call').length === points)
}"""


@pytest.fixture
def page(tab, address):
    """Opens a workflow with nothing but a scope, of canvas or of HTML nodes; the scope's id."""

    def start(html):
        driver.new_workflow(tab, address)
        driver.set_setting(tab, HTML_NODES, html)
        tab.evaluate(driver.ADD_SCOPE)
        drawing(tab)
        return driver.node_ids(tab, "CurvatureScope")[0]

    yield start
    driver.set_setting(tab, HTML_NODES, False)


def drawing(tab, points=None):
    """The only drawing that can be seen, once it fills its node and has so many points."""
    tab.wait_for_function(DRAWN, arg=[LEAST - 2, points], timeout=30_000)
    (shown,) = tab.evaluate(DRAWINGS)
    return shown


def send(tab, node, trace):
    """Gives the page the message of a running sampler."""
    tab.evaluate(
        "(message) => app.api.dispatchCustomEvent('saddle_free_guidance.trace', message)", {"nodes": [node], **trace}
    )


def resize(tab, width, height):
    """Sets the size of the first node in the graph that is shown."""
    tab.evaluate(
        """([width, height]) => {
            app.canvas.graph.nodes[0].setSize([width, height])
            app.canvas.setDirty(true, true)
        }""",
        [width, height],
    )


def show(tab, graph):
    """Shows the root graph, or that of the first subgraph."""
    tab.evaluate(f"() => app.canvas.setGraph({graph})")


def test_the_scope_draws_and_scales_as_a_html_node(tab, page):
    scope = page(html=True)
    assert tab.evaluate("() => document.querySelector('.saddle-free-scope').closest('[data-node-id]') !== null")
    send(tab, scope, bell(2))
    first = drawing(tab, points=2 * 24)
    resize(tab, 700, 650)
    larger = drawing(tab, points=2 * 24)
    assert larger["width"] - first["width"] == pytest.approx(700 - 360, abs=1)
    assert larger["height"] - first["height"] == pytest.approx(650 - 400, abs=1)
    texts = tab.evaluate(TEXTS)
    assert {"Rayleigh quotient", "sigma", "1", "pushed"} <= {text["words"] for text in texts}
    for text in texts:
        assert larger["left"] <= text["left"] and text["right"] <= larger["left"] + larger["width"]


def test_a_html_node_of_the_scope_is_resized_with_the_mouse(tab, page):
    send(tab, page(html=True), bell(1))
    first = drawing(tab, points=24)
    node = tab.locator("[data-node-id]").bounding_box()
    right, bottom = node["x"] + node["width"] - 3, node["y"] + node["height"] - 3
    tab.mouse.move(right, bottom)
    tab.mouse.down()
    tab.mouse.move(right + 120, bottom + 80, steps=6)
    tab.mouse.up()
    tab.wait_for_function("(width) => document.querySelector('.saddle-free-scope').offsetWidth > width + 90",
                          arg=first["width"])
    larger = drawing(tab, points=24)
    assert larger["width"] - first["width"] == pytest.approx(120, abs=12)  # the page may snap to its grid
    assert larger["height"] - first["height"] == pytest.approx(80, abs=12)


@KINDS
def test_a_subgraph_s_node_draws_what_the_scope_in_it_draws(tab, page, html):
    page(html)
    path = tab.evaluate(INTO_SUBGRAPH)
    send(tab, path, bell(2))
    outside = drawing(tab, points=2 * 24)
    resize(tab, 620, 540)
    larger = drawing(tab, points=2 * 24)
    assert larger["width"] > outside["width"] + 200 and larger["height"] > outside["height"] + 100
    show(tab, "app.rootGraph.nodes[0].subgraph")
    drawing(tab, points=2 * 24)
    show(tab, "app.rootGraph")
    drawing(tab, points=2 * 24)
    detail = {"node": path, "display_node": path, "output": {"trace": [bell(3)]}}
    tab.evaluate("(detail) => app.api.dispatchCustomEvent('executed', detail)", detail)
    drawing(tab, points=3 * 24)


@KINDS
def test_a_message_before_the_first_frame_is_drawn_on_a_subgraph_s_node(tab, page, html):
    page(html)
    tab.evaluate(f"""(trace) => {{
        const path = ({INTO_SUBGRAPH})()
        app.api.dispatchCustomEvent('saddle_free_guidance.trace', {{ nodes: [path], ...trace }})
    }}""", bell(2))
    drawing(tab, points=2 * 24)


@KINDS
def test_a_subgraph_in_a_subgraph_draws_on_both(tab, page, html):
    page(html)
    inner = tab.evaluate(INTO_SUBGRAPH)
    outer = tab.evaluate(INTO_SUBGRAPH)
    path = f"{outer.partition(':')[0]}:{outer.partition(':')[2]}:{inner.partition(':')[2]}"
    send(tab, path, bell(1))
    drawing(tab, points=24)
    show(tab, "app.rootGraph.nodes[0].subgraph")
    drawing(tab, points=24)


@KINDS
def test_the_drawing_on_a_subgraph_is_not_saved_nor_sent(tab, page, html):
    page(html)
    tab.evaluate(INTO_SUBGRAPH)
    drawing(tab)
    (node,) = tab.evaluate("() => app.rootGraph.serialize().nodes")
    assert node["inputs"] == [] and not node.get("widgets_values")
    prompt = tab.evaluate("() => app.graphToPrompt()")["output"]
    assert [entry["inputs"] for entry in prompt.values()] == [{"opacity": 0.6}]


@KINDS
def test_a_subgraph_loses_its_drawing_with_its_scope(tab, page, html):
    page(html)
    tab.evaluate(INTO_SUBGRAPH)
    drawing(tab)
    tab.evaluate("() => { const { subgraph } = app.rootGraph.nodes[0]; subgraph.remove(subgraph.nodes[0]) }")
    tab.wait_for_function("() => document.querySelectorAll('.saddle-free-scope').length === 0")
    assert tab.evaluate("() => app.rootGraph.nodes[0].widgets.length") == 0


@KINDS
def test_a_saved_subgraph_comes_back_in_its_size_with_its_last_trace(tab, page, html):
    page(html)
    path = tab.evaluate(INTO_SUBGRAPH)
    drawing(tab)
    resize(tab, 520, 460)
    drawing(tab)
    graph = tab.evaluate("() => JSON.stringify(app.rootGraph.serialize())")  # as a file has it
    tab.evaluate("(graph) => app.loadGraphData(JSON.parse(graph))", graph)
    drawing(tab)
    assert tab.evaluate("() => [...app.rootGraph.nodes[0].size]") == [520, 460]
    send(tab, path, bell(1))
    drawing(tab, points=24)


@KINDS
def test_a_change_of_the_kind_of_nodes_keeps_the_drawing(tab, page, html):
    page(html)
    path = tab.evaluate(INTO_SUBGRAPH)
    send(tab, path, bell(1))
    drawing(tab, points=24)
    for kind in (not html, html):
        driver.set_setting(tab, HTML_NODES, kind)
        drawing(tab, points=24)
