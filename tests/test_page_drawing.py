"""The scope's drawing in the page: while a sampler runs, at any size, in either theme."""

import page as driver
import pytest
from scope_traces import TEXTS, bell

WIDTHS = (0, 280, 340, 420, 560, 720, 900)  # 0: the least that the page allows
COLOURS = """() => {
    const style = (element) => getComputedStyle(element)
    const root = document.querySelector('.saddle-free-scope')
    const of = (kind, read) => [...new Set([...root.querySelectorAll(kind)].map(read))]
    return {
        background: style(root).backgroundColor,
        texts: [...of('text', (text) => style(text).fill), style(root.querySelector('p')).color],
        lines: of('polyline.largest', (line) => style(line).stroke),
    }
}"""
PIXELS = """(colours) => {
    const canvas = document.createElement('canvas')
    const context = canvas.getContext('2d', { willReadFrequently: true })
    return colours.map((colour) => {
        context.fillStyle = colour
        context.fillRect(0, 0, 1, 1)
        return [...context.getImageData(0, 0, 1, 1).data]
    })
}"""
PLACE_OF_THE_WORKFLOW = """() => {
    const { openWorkflows, activeWorkflow } = app.extensionManager.workflow
    return openWorkflows.findIndex((workflow) => workflow.path === activeWorkflow.path)
}"""
WATCH_DRAWING = """() => {
    window.drawn = []
    let executed = false
    const scope = String(app.rootGraph.nodes.find((node) => node.type === 'CurvatureScope').id)
    app.api.addEventListener('executed', ({ detail }) => { executed ||= detail.node === scope })
    const drawing = document.querySelector('.saddle-free-scope svg')
    new MutationObserver(() => drawn.push({ executed, points: drawing.querySelectorAll('circle.call').length }))
        .observe(drawing, { childList: true })
}"""


def test_the_scope_draws_every_active_call_while_the_sampler_runs(tab, address, new_outputs):
    driver.load_template(tab, address, "scope")
    tab.wait_for_selector(".saddle-free-scope p:not([hidden])")
    driver.set_steps(tab, 8)
    tab.evaluate(WATCH_DRAWING)
    driver.run(tab)
    (node,) = driver.node_ids(tab, "CurvatureScope")
    (trace,) = driver.outputs(tab)[node]["trace"]
    active = [call for call in trace["calls"] if call["active"]]
    images = len(active[0]["rayleigh"])
    assert len(active) > 5 and images > 1
    tab.wait_for_function("() => drawn.at(-1).executed")
    drawn = tab.evaluate("() => drawn")
    live = [drawing["points"] for drawing in drawn if not drawing["executed"]]
    assert max(live, default=0) > 0 and live == sorted(live)
    assert drawn[-1]["points"] == images * len(active)
    acted = tab.locator(".saddle-free-scope circle.call.acted").count()
    assert acted == sum(sum(call["acted"]) for call in active) > 0


def test_the_scope_shows_the_last_trace_when_its_workflow_comes_back(tab, lone_scope):
    """A change to another workflow and back makes the nodes anew."""
    detail = {"node": lone_scope, "display_node": lone_scope, "output": {"trace": [bell(2)]}}
    tab.evaluate("(detail) => app.api.dispatchCustomEvent('executed', detail)", detail)
    points = tab.locator("circle.call")
    points.nth(2 * 24 - 1).wait_for()
    place = tab.evaluate(PLACE_OF_THE_WORKFLOW)
    tab.evaluate("() => app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()")
    tab.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    tab.wait_for_function("() => document.querySelectorAll('.saddle-free-scope').length === 0")
    tab.locator(".workflow-tab").nth(place).click()
    points.nth(2 * 24 - 1).wait_for()
    assert points.count() == 2 * 24


def test_the_scope_in_a_subgraph_draws(tab, lone_scope):
    """Messages name the node by its path through the subgraphs."""
    path = tab.evaluate(
        """() => {
            app.rootGraph.convertToSubgraph(new Set(app.rootGraph.nodes))
            const [outer] = app.rootGraph.nodes
            app.canvas.setGraph(outer.subgraph)
            return `${outer.id}:${outer.subgraph.nodes[0].id}`
        }"""
    )
    assert tab.evaluate("() => app.rootGraph.nodes[0].subgraph.nodes[0].type") == "CurvatureScope"
    driver.send_trace(tab, path, bell(1))
    assert tab.locator("circle.call").count() == 24


def test_messages_append_and_begin_anew(tab, address, scope):
    trace = bell(1)
    driver.send_trace(tab, scope, {**trace, "calls": trace["calls"][:10]})
    tab.evaluate(
        "(message) => app.api.dispatchCustomEvent('saddle_free_guidance.trace', message)",
        {"nodes": [scope, "999", "3:7"], **trace, "first": 8, "calls": trace["calls"][8:14]},
    )
    tab.wait_for_function("() => document.querySelectorAll('circle.call').length === 14")
    calls = tab.evaluate("() => [...document.querySelectorAll('circle.call')].map((circle) => +circle.dataset.call)")
    assert calls == list(range(14))
    driver.send_trace(tab, scope, {**trace, "calls": trace["calls"][:1]})


def test_where_there_is_nothing_to_draw_the_scope_says_why(tab, address, scope):
    def said(**changes):
        idle = {"sigma": 1.0, "active": False, "rayleigh": [], "push": [], "acted": [], "reason": None}
        calls = [{**idle, "reason": reason} for reason in changes.pop("reasons", [])]
        driver.send_trace(tab, scope, {**bell(1), "calls": calls, **changes})
        tab.evaluate("() => new Promise(requestAnimationFrame)")
        return tab.locator(".saddle-free-scope p").inner_text()

    assert tab.locator(".saddle-free-scope p").inner_text().endswith("appears here while the sampler runs.")
    assert said(off="Guidance is off.") == "Guidance is off."
    assert said(reasons=["the first", "the second"]) == "Nothing to draw: the second."
    driver.send_trace(tab, scope, bell(1))
    assert not tab.locator(".saddle-free-scope p").is_visible()


@pytest.mark.parametrize(
    "trace",
    [
        bell(1), bell(3, window=[5.0, 0.1]), bell(12, directions=2), bell(120, calls=4), bell(3, height=9),
        bell(3, height=30_000), bell(3, height=3e-4), bell(3, sigmas=(1.0, 0.3)), bell(3, sigmas=(80.0, 1e-5)),
        bell(1, calls=2),
    ],
    ids=["1 image", "3 images", "12 images", "120 images", "high", "huge", "low", "flow", "wide range", "2 calls"],
)
def test_no_two_texts_of_the_scope_touch_at_any_size(tab, address, scope, trace):
    driver.send_trace(tab, scope, trace)
    for width in WIDTHS:
        driver.resize_scope(tab, width, width * 0.8)
        texts = tab.evaluate(TEXTS)
        words = {text["words"] for text in texts}
        assert {"Rayleigh quotient", "sigma", "1", "pushed"} <= words and len(words) > 6
        box = tab.locator(".saddle-free-scope").bounding_box()
        for index, one in enumerate(texts):
            assert box["x"] <= one["left"] and one["right"] <= box["x"] + box["width"], (width, one)
            assert box["y"] <= one["top"] and one["bottom"] <= box["y"] + box["height"], (width, one)
            for other in texts[:index]:
                apart = one["left"] >= other["right"] or other["left"] >= one["right"]
                assert apart or one["top"] >= other["bottom"] or other["top"] >= one["bottom"], (width, one, other)


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_the_scope_can_be_read_in_either_theme(tab, address, scope, kept_settings, theme):
    kept_settings("Comfy.ColorPalette", theme)
    driver.send_trace(tab, scope, bell(7))
    colours = tab.evaluate(COLOURS)
    background, *others = tab.evaluate(PIXELS, [colours["background"], *colours["texts"], *colours["lines"]])
    assert background[3] == 255
    assert (luminance(background) > 0.5) == (theme == "light")
    contrasts = [contrast(background, other) for other in others]
    assert min(contrasts[: len(colours["texts"])]) >= 4.5
    assert len(colours["lines"]) == 7 and min(contrasts[len(colours["texts"]):]) >= 2


def luminance(pixel):
    """Relative luminance of an sRGB pixel (WCAG 2)."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in pixel[:3])]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """Contrast ratio of two pixels (WCAG 2)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_the_scope_leaves_the_canvas_its_wheel_and_the_workflow_its_size(tab, address, scope):
    driver.send_trace(tab, scope, bell(3))
    box = tab.locator(".saddle-free-scope").bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.wheel(0, -100)
    tab.wait_for_function("() => app.canvas.ds.scale > 1")
    tab.mouse.down(button="middle")
    tab.mouse.move(box["x"] + 10, box["y"] + 10)
    tab.mouse.up(button="middle")
    tab.wait_for_function("() => app.canvas.ds.offset[0] < -10")
    (node,) = tab.evaluate("() => app.rootGraph.serialize().nodes")
    assert node["widgets_values"] == [0.6]
    prompt = tab.evaluate("() => app.graphToPrompt()")["output"]
    assert prompt[scope]["inputs"] == {"opacity": 0.6}
