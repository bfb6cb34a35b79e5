"""What the scope tells beyond its curves, in the page: advice, the point under the pointer, and the trace as a file."""

import csv
import io
import json

import page as driver
import pytest
from pack import ROOT
from scope_traces import TEXTS, bell
from test_page_nodes import HTML_NODES, KINDS

ROOM = 24  # pixels of the heading above a node's body
ADVICE = [
    {"key": "pushes", "figures": {"first": "9", "last": "17", "steps": "24", "spent": "6"}, "text": "Pushes, it says."},
    {"key": "end", "figures": {"percent": "0.58", "saved": "2"}, "text": "End, it says."},
]
ADVISED = (
    "Pushes from step 9 to 17 of 24. Extra evaluations a picture: 6. "
    "Set end_percent to 0.58 to save 2 of them: the picture stays the same."
)
PLACE = """(point) => {
    const circle = document.querySelector(`circle.call[data-image="${point[0]}"][data-call="${point[1]}"]`)
    const { left, top, width, height } = circle.getBoundingClientRect()
    return [left + width / 2, top + height / 2]
}"""


@pytest.fixture
def page(tab, address):
    """Opens a workflow with nothing but a scope, of canvas or of HTML nodes; the scope's id."""

    def start(html=False):
        driver.new_workflow(tab, address)
        driver.set_setting(tab, HTML_NODES, html)
        tab.evaluate(driver.ADD_SCOPE)
        tab.wait_for_function("() => document.querySelector('.saddle-free-scope')?.clientWidth > 0")
        tab.evaluate("() => new Promise((done) => setTimeout(done, 300))") if html else None
        return driver.node_ids(tab, "CurvatureScope")[0]

    yield start
    driver.set_setting(tab, HTML_NODES, False)


def full(images=2, advice=(), **options):
    """A plain trace with all that a run has."""
    trace = bell(images, **options)
    for index, call in enumerate(trace["calls"]):
        call["error"] = [
            [0.0123 + image + way for way in range(len(each))] for image, each in enumerate(call["rayleigh"])
        ]
        call["evaluations"] = [3 if index % 4 == 0 else 1 for _ in call["rayleigh"]]
        call["push"] = [0.25 * (image + 1) * did for image, did in enumerate(call["acted"])]
    return {**trace, "advice": list(advice)}


def frame(tab):
    """Waits until the page has drawn what was asked for."""
    tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def told(tab):
    """The lines about the point under the pointer, or None."""
    frame(tab)
    box = tab.locator(".saddle-free-scope .hover")
    return box.inner_text().split("\n") if box.is_visible() else None


def at(tab, image, call):
    """Moves the pointer to a point of the drawing."""
    tab.mouse.move(*tab.evaluate(PLACE, [image, call]))


@KINDS
def test_advice_stands_under_the_drawing_and_over_nothing(tab, page, html):
    scope = page(html)
    driver.send_trace(tab, scope, full(advice=ADVICE))
    frame(tab)
    advice = tab.locator(".saddle-free-scope .advice")
    assert advice.inner_text() == ADVISED
    box, root = advice.bounding_box(), tab.locator(".saddle-free-scope").bounding_box()
    assert max(text["bottom"] for text in tab.evaluate(TEXTS)) <= box["y"]
    assert box["y"] + box["height"] <= root["y"] + root["height"] and box["x"] >= root["x"]
    assert ADVISED in tab.locator(".saddle-free-scope svg").get_attribute("aria-label")
    driver.send_trace(tab, scope, full())
    frame(tab)
    assert not advice.is_visible()


@pytest.mark.parametrize("width", [0, 280, 900])
def test_advice_leaves_the_drawing_its_room_at_any_size(tab, page, width):
    driver.send_trace(tab, page(), full(advice=ADVICE * 3))
    driver.resize_scope(tab, width, width * 0.8)
    texts, box = tab.evaluate(TEXTS), tab.locator(".saddle-free-scope .advice").bounding_box()
    assert {"Rayleigh quotient", "sigma", "1"} <= {text["words"] for text in texts}
    assert max(text["bottom"] for text in texts) <= box["y"] and box["height"] >= 15


def test_where_there_is_nothing_to_draw_the_advice_says_why(tab, page):
    trace = full(advice=[{"key": "idle", "figures": {}, "text": "Idle."}])
    for call in trace["calls"]:
        call |= {"rayleigh": [[None], [None]], "error": [[None], [None]], "reason": "nothing was looked for yet"}
    tab.evaluate(
        "(message) => app.api.dispatchCustomEvent('saddle_free_guidance.trace', message)", {"nodes": [page()], **trace}
    )
    frame(tab)
    assert tab.locator(".saddle-free-scope p").inner_text().startswith("Nothing to find: guidance changed nothing.")


def test_an_unknown_sentence_is_said_as_it_was_sent(tab, page):
    driver.send_trace(tab, page(), full(advice=[{"key": "newer", "figures": {}, "text": "Of a newer version."}]))
    frame(tab)
    assert tab.locator(".saddle-free-scope .advice").inner_text() == "Of a newer version."


@KINDS
def test_a_point_under_the_pointer_tells_its_numbers(tab, page, html):
    trace = full(directions=2)
    driver.send_trace(tab, page(html), trace)
    at(tab, 1, 9)
    call = trace["calls"][9]
    assert told(tab) == [
        "Image 2, model call 10", f"sigma {call['sigma']:.3g}", f"quotient {call['rayleigh'][1][0]:.3g}",
        "standard error 1.01", "push 0.5", "evaluations 1, so far 16",
    ]
    assert tab.locator("circle.hovered").count() == 1
    root = tab.locator(".saddle-free-scope").bounding_box()
    for image, place in ((0, 0), (0, 23), (1, 10)):
        at(tab, image, place)
        assert told(tab)[0] == f"Image {image + 1}, model call {place + 1}"
        box = tab.locator(".saddle-free-scope .hover").bounding_box()
        assert root["x"] <= box["x"] and box["x"] + box["width"] <= root["x"] + root["width"]
        assert root["y"] <= box["y"] and box["y"] + box["height"] <= root["y"] + root["height"]
    tab.mouse.move(root["x"] + root["width"] + 60, root["y"])
    assert told(tab) is None and tab.locator("circle.hovered").count() == 0


def test_a_trace_of_an_older_version_tells_what_it_has(tab, page):
    driver.send_trace(tab, page(), bell(1))
    at(tab, 0, 8)
    assert [line.split(" ")[0] for line in told(tab)] == ["Image", "sigma", "quotient", "push"]


def test_the_pointer_over_something_else_tells_nothing(tab, page):
    driver.send_trace(tab, page(), full())
    at(tab, 0, 8)
    assert told(tab) is not None
    tab.evaluate(
        """() => {
            const cover = Object.assign(document.createElement('div'), { id: 'cover' })
            cover.style = 'position: fixed; inset: 0; z-index: 100000'
            document.body.append(cover)
        }"""
    )
    x, y = tab.evaluate(PLACE, [0, 9])
    tab.mouse.move(x, y)
    assert told(tab) is None
    tab.evaluate("() => document.querySelector('#cover').remove()")


def saved_by(tab, html, name):
    """What the browser saves when the entry is chosen in the node's own menu."""
    if html:
        tab.locator("[data-node-id]").first.click(button="right", position={"x": 150, "y": 12})
    else:
        tab.mouse.click(250, 100 - ROOM / 2, button="right")
    with tab.expect_download() as waiting:
        tab.get_by_text(name, exact=True).first.click()
    path = waiting.value.path()
    return waiting.value.suggested_filename, path.read_bytes().decode("utf-8")


@KINDS
def test_the_trace_is_saved_from_the_node_s_menu(tab, page, html):
    trace = full(images=2, directions=2, window=[5.0, 0.1], advice=ADVICE)
    for call in trace["calls"]:
        if not call["active"]:
            call["reason"] = 'sigma was "outside", they say'
    driver.send_trace(tab, page(html), trace)
    name, text = saved_by(tab, html, "Save trace as JSON")
    assert name == "curvature-trace.json" and json.loads(text) | {"first": 0} == trace
    name, text = saved_by(tab, html, "Save trace as CSV")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert name == "curvature-trace.csv" and "\r\n" in text
    active = [call for call in trace["calls"] if call["active"]]
    assert len(rows) == 4 * len(active) + len(trace["calls"]) - len(active)
    assert rows[0] | {"sigma": ""} == {
        "call": "1", "sigma": "", "active": "false", "reason": 'sigma was "outside", they say', "image": "",
        "direction": "", "quotient": "", "standard_error": "", "push": "", "acted": "", "evaluations": "",
    }
    place = next(index for index, call in enumerate(trace["calls"]) if call["active"] and call["acted"][1])
    call = trace["calls"][place]
    (row,) = (row for row in rows if (row["call"], row["image"], row["direction"]) == (f"{place + 1}", "2", "1"))
    numbers = [float(row[key]) for key in ("sigma", "quotient", "standard_error", "push", "evaluations")]
    assert numbers == [
        call["sigma"], call["rayleigh"][1][0], call["error"][1][0], call["push"][1], call["evaluations"][1]
    ]
    assert row["acted"] == "true" and row["reason"] == ""


def test_a_scope_without_a_trace_has_nothing_to_save_and_other_nodes_have_no_entry(tab, page):
    scope = page()
    offered = """(type) => {
        const node = LiteGraph.createNode(type)
        app.rootGraph.add(node)
        const items = app.canvas.getNodeMenuOptions(node).filter((item) => item?.content?.startsWith('Save trace'))
        app.rootGraph.remove(node)
        return items.map((item) => item.disabled)
    }"""
    assert tab.evaluate(offered, "CurvatureScope") == [True, True] and tab.evaluate(offered, "KSampler") == []
    driver.send_trace(tab, scope, full())
    disabled = tab.evaluate(
        "() => app.canvas.getNodeMenuOptions(app.rootGraph.nodes[0]).slice(-2).map((item) => item.disabled)"
    )
    assert disabled == [False, False]


def test_the_english_of_the_script_is_that_of_the_translations(tab, page, address):
    page()
    english = tab.evaluate(
        """async () => {
            const files = await (await fetch('/extensions')).json()
            const path = files.find((file) => file.endsWith('/scope_texts.js'))
            return (await import(path)).ENGLISH
        }"""
    )
    main = json.loads((ROOT / "locales/en/main.json").read_text(encoding="utf-8"))["saddleFreeGuidance"]
    assert english == {group: main[group] for group in ("hover", "menu")}


