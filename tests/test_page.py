"""The page, driven by a real browser: templates, the scope's drawing, help, translations, and graphs saved earlier."""

import itertools
import json
import math
import re

import demo_server
import page as driver
import prompts
import pytest
from pack import ROOT

TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
LANGUAGES = sorted(path.parent.name for path in (ROOT / "locales").glob("*/nodeDefs.json"))
NODES = (
    "SaddleFreeGuidance", "AutoGuidance", "WeakenModel", "CurvatureScope", "GuidanceSweep", "GuidanceVariations",
    "SaddleFreeDemoModel",
)
WIDTHS = (0, 280, 340, 420, 560, 720, 900)  # 0: the least that the page allows

TEXTS = """() => [...document.querySelectorAll('.saddle-free-scope text')].map((text) => {
    const { left, right, top, bottom } = text.getBoundingClientRect()
    return { words: text.textContent, left, right, top, bottom }
})"""
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
WATCH_DRAWING = """() => {
    window.drawn = []
    let executed = false
    const scope = String(app.rootGraph.nodes.find((node) => node.type === 'CurvatureScope').id)
    app.api.addEventListener('executed', ({ detail }) => { executed ||= detail.node === scope })
    const drawing = document.querySelector('.saddle-free-scope svg')
    new MutationObserver(() => drawn.push({ executed, points: drawing.querySelectorAll('circle.call').length }))
        .observe(drawing, { childList: true })
}"""


@pytest.fixture
def scope(tab, address):
    """A page with nothing but a Curvature Scope; its id."""
    if not tab.url.startswith(address):
        driver.open_page(tab, address)
    return driver.add_scope(tab)


@pytest.fixture
def lone_scope(tab, address):
    """As `scope`, in a page that is not used before or after: for tests that open workflows or subgraphs."""
    driver.open_page(tab, address)
    yield driver.add_scope(tab)
    tab.goto("about:blank")


@pytest.fixture
def kept_settings(tab):
    """Sets settings of the page, and sets them back."""
    before = {}

    def change(name, value):
        before.setdefault(name, tab.evaluate("(name) => app.extensionManager.setting.get(name)", name))
        driver.set_setting(tab, name, value)

    yield change
    for name, value in before.items():
        driver.set_setting(tab, name, value)


def saved(name):
    """A graph as the page saved it."""
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def bell(images, calls=24, directions=1, height=1.6, window=None, sigmas=(14.6, 0.02)):
    """A plain trace whose Rayleigh quotients rise to `height` and fall again, image after image."""
    ratio = (sigmas[1] / sigmas[0]) ** (1 / (calls - 1))
    made = []
    for index in range(calls):
        sigma = sigmas[0] * ratio**index
        active = window is None or window[1] <= sigma <= window[0]
        rayleigh = [
            [height * math.exp(-((index / calls - 0.4 - image / 40) ** 2) * 9) / (1 + way) for way in range(directions)]
            for image in range(images if active else 0)
        ]
        acted = [values[0] > 1 for values in rayleigh]
        push = [float(did) for did in acted]
        made.append(
            {"sigma": sigma, "active": active, "rayleigh": rayleigh, "push": push, "acted": acted, "reason": None}
        )
    return {"first": 0, "calls": made, "window": window, "sigmas": [sigmas[0], 0.0], "off": None}


# --- Templates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_opens_whole(tab, address, name):
    driver.open_template(tab, address, name)
    shown = tab.evaluate(
        """() => ({
            types: app.rootGraph.nodes.map((node) => node.type),
            unknown: app.rootGraph.nodes.filter((node) => !(node.type in LiteGraph.registered_node_types)).length,
            links: [...app.rootGraph.links.values()].map(
                (link) => [link.origin_id, link.origin_slot, link.target_id, link.target_slot].map(Number)),
            boxes: app.rootGraph.nodes.filter((node) => !node.flags?.collapsed).map((node) => [...node.getBounding()]),
        })"""
    )
    written = saved(f"workflows/{name}.json")
    assert sorted(shown["types"]) == sorted(node["type"] for node in written["nodes"])
    assert sorted(shown["links"]) == sorted(link[1:5] for link in written["links"])
    assert shown["unknown"] == 0
    for (x, y, width, height), (left, top, wide, high) in itertools.combinations(shown["boxes"], 2):
        assert x + width <= left or left + wide <= x or y + height <= top or top + high <= y


@pytest.mark.parametrize(
    "name, width", [("quickstart", 1176), ("auto-guidance", 1200), ("saddle-free-plus-auto-guidance", 1608)]
)
def test_a_template_runs_from_the_page_and_shows_its_picture(tab, address, new_outputs, name, width):
    driver.open_template(tab, address, name)
    driver.run(tab)
    (node,) = driver.node_ids(tab, "SaveImage")
    (image,) = driver.outputs(tab)[node]["images"]
    tab.wait_for_function("(id) => app.rootGraph.getNodeById(id).imgs?.[0]?.naturalWidth > 0", arg=node)
    shown = tab.evaluate(
        "(id) => app.rootGraph.getNodeById(id).imgs.map((i) => [i.src, i.naturalWidth, i.naturalHeight])", node
    )
    assert [size for _, *size in shown] == [[width, 384]]
    assert image["filename"] in shown[0][0]


# --- The scope -------------------------------------------------------------------------------------------------------


def test_the_scope_draws_every_active_call_while_the_sampler_runs(tab, address, new_outputs):
    driver.open_template(tab, address, "scope")
    tab.wait_for_selector(".saddle-free-scope p:not([hidden])")
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
    tab.evaluate("() => app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()")
    tab.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    tab.wait_for_function("() => document.querySelectorAll('.saddle-free-scope').length === 0")
    tab.locator(".workflow-tab").first.click()
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


# --- Help and languages ----------------------------------------------------------------------------------------------


def inputs_of(info):
    """Every input of a node with its options."""
    declared = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    return {name: (spec[1] if len(spec) > 1 else {}) for name, spec in declared.items()}


def test_these_are_the_nodes_of_the_pack(address):
    info = demo_server.get_json(f"{address}/object_info")
    own = {
        name for name, node in info.items()
        if node["python_module"] == f"custom_nodes.{ROOT.name}" and not node["dev_only"]
    }
    assert own == set(NODES)


@pytest.mark.parametrize("node", NODES)
def test_help_opens_in_the_page(tab, address, scope, node):
    tab.evaluate(
        """(type) => {
            const node = LiteGraph.createNode(type)
            app.rootGraph.clear()
            app.rootGraph.add(node)
            node.pos = [300, 300]
            app.canvas.selectNode(node)
            app.canvas.setDirty(true, true)
        }""",
        node,
    )
    tab.get_by_test_id("info-button").click()
    help_page = tab.locator(".node-help-content .markdown-content")
    help_page.wait_for()
    page = (ROOT / "nodes/web/docs" / f"{node}.md").read_text(encoding="utf-8")
    prose = next(paragraph for paragraph in page.split("\n\n") if paragraph[0].isalpha())
    sentence = plain(prose).partition(". ")[0]
    assert len(sentence) > 30
    assert sentence in plain(help_page.inner_text())


def plain(markdown):
    """Text without the marks of Markdown, on one line."""
    return re.sub(r"\s+", " ", re.sub(r"[*`]|\[([^]]*)\]\([^)]*\)", r"\1", markdown)).strip()


def test_every_input_has_a_tooltip(address):
    info = demo_server.get_json(f"{address}/object_info")
    for node in NODES:
        for name, options in inputs_of(info[node]).items():
            assert len(options.get("tooltip", "")) > 10, f"{node}.{name}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_input_has_a_tooltip_in_the_language(address, language):
    info = demo_server.get_json(f"{address}/object_info")
    translated = demo_server.get_json(f"{address}/i18n")[language]["nodeDefs"]
    for node in NODES:
        assert translated[node]["display_name"] and translated[node]["description"]
        for name, options in inputs_of(info[node]).items():
            tooltip = translated[node]["inputs"][name]["tooltip"]
            assert len(tooltip) > 5, f"{node}.{name}"
            assert language == "en" or tooltip != options["tooltip"], f"{node}.{name}"


def test_the_page_speaks_another_language(tab, address, kept_settings):
    language = next((name for name in ("zh", "ja", "fr", *LANGUAGES) if name in LANGUAGES), None)
    if language is None:
        pytest.skip("the pack has no translations")
    driver.open_page(tab, address)
    kept_settings("Comfy.Locale", language)
    driver.open_page(tab, address)
    names = saved(f"locales/{language}/nodeDefs.json")
    for node in NODES:
        title = tab.evaluate("(type) => LiteGraph.createNode(type).title", node)
        assert title == names[node]["display_name"] != ""


# --- Graphs saved earlier --------------------------------------------------------------------------------------------


def test_a_graph_of_the_first_release_keeps_its_values(tab, address):
    driver.open_page(tab, address)
    tab.evaluate("(graph) => app.loadGraphData(graph)", saved("tests/graphs_saved/first_release.json"))
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
    driver.open_page(tab, address)
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
    graph = saved("tests/graphs_saved/first_release.json")
    node = next(node for node in graph["nodes"] if node["type"] == "SaddleFreeGuidance")
    node["widgets_values"] = node["widgets_values"][:2]
    node["inputs"] = node["inputs"][:3]
    driver.open_page(tab, address)
    tab.evaluate("(graph) => app.loadGraphData(graph)", graph)
    tab.wait_for_function("() => app.rootGraph.nodes.some((node) => node.type === 'SaddleFreeGuidance')")
    prompt = tab.evaluate("() => app.graphToPrompt()")["output"]
    inputs = next(entry["inputs"] for entry in prompt.values() if entry["class_type"] == "SaddleFreeGuidance")
    assert isinstance(inputs.pop("model"), list)
    assert inputs == {
        "scale": 2.5, "guidance_seed": 123456789, "start_percent": 0.0, "end_percent": 1.0, "probe_radius": 0.0,
        "refresh_every": 0, "directions": 1, "strength_curve": "constant",
    }


@pytest.mark.parametrize("path", sorted(prompts.API.glob("*.json")), ids=lambda path: path.stem)
def test_the_api_file_of_a_template_is_what_the_page_sends(tab, address, path):
    driver.open_template(tab, address, path.stem)
    sent = tab.evaluate("() => app.graphToPrompt()")["output"]
    sent = {name: {"class_type": node["class_type"], "inputs": node["inputs"]} for name, node in sent.items()}
    assert sent == json.loads(path.read_text(encoding="utf-8"))
