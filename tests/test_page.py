"""The page, driven by a real browser: templates, help and translations."""

import itertools
import json
import re

import demo_server
import page as driver
import prompts
import pytest
from cases import long_but
from pack import ROOT

TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
LANGUAGES = sorted(path.parent.name for path in (ROOT / "locales").glob("*/nodeDefs.json"))
NODES = (
    "SaddleFreeGuidance", "AutoGuidance", "WeakenModel", "CurvatureScope", "GuidanceSweep", "GuidanceVariations",
    "SaddleFreeDemoModel",
)


def saved(name):
    """A graph as the page saved it."""
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


BY_ADDRESS = ("quickstart",)


@pytest.mark.parametrize("name, opened", long_but(
    itertools.product(TEMPLATES, (driver.load_template, driver.open_template)),
    [*((name, driver.load_template) for name in TEMPLATES), *((name, driver.open_template) for name in BY_ADDRESS)],
))
def test_a_template_opens_whole(tab, address, name, opened):
    """From the list of templates, and through an address."""
    opened(tab, address, name)
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
    "name, width, steps",
    long_but([
        ("quickstart", 1176, 2), ("quickstart", 1176, None), ("auto-guidance", 1200, None),
        ("saddle-free-plus-auto-guidance", 1608, None),
    ], [("quickstart", 1176, 2)]),
)
def test_a_template_runs_from_the_page_and_shows_its_picture(tab, address, new_outputs, name, width, steps):
    opened = driver.open_template if steps is None else driver.load_template
    opened(tab, address, name)
    if steps is not None:
        driver.set_steps(tab, steps)
    driver.run(tab)
    (node,) = driver.node_ids(tab, "SaveImage")
    (image,) = driver.outputs(tab)[node]["images"]
    tab.wait_for_function("(id) => app.rootGraph.getNodeById(id).imgs?.[0]?.naturalWidth > 0", arg=node)
    shown = tab.evaluate(
        "(id) => app.rootGraph.getNodeById(id).imgs.map((i) => [i.src, i.naturalWidth, i.naturalHeight])", node
    )
    assert [size for _, *size in shown] == [[width, 384]]
    assert image["filename"] in shown[0][0]


@pytest.mark.parametrize("path", sorted(prompts.API.glob("*.json")), ids=lambda path: path.stem)
def test_the_api_file_of_a_template_is_what_the_page_sends(tab, address, path):
    driver.load_template(tab, address, path.stem)
    sent = tab.evaluate("() => app.graphToPrompt()")["output"]
    sent = {name: {"class_type": node["class_type"], "inputs": node["inputs"]} for name, node in sent.items()}
    assert sent == json.loads(path.read_text(encoding="utf-8"))


# --- Help and languages ----------------------------------------------------------------------------------------------


def inputs_of(info):
    """Every input of a node with its options."""
    declared = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    return {name: (spec[1] if len(spec) > 1 else {}) for name, spec in declared.items()}


@pytest.fixture(scope="module")
def info(address):
    """What the server tells of each node."""
    return demo_server.get_json(f"{address}/object_info")


@pytest.fixture(scope="module")
def translations(address):
    """What the server hands out of each language."""
    return demo_server.get_json(f"{address}/i18n")


def test_these_are_the_nodes_of_the_pack(info):
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


def test_every_input_has_a_tooltip(info):
    for node in NODES:
        for name, options in inputs_of(info[node]).items():
            assert len(options.get("tooltip", "")) > 10, f"{node}.{name}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_input_has_a_tooltip_in_the_language(info, translations, language):
    translated = translations[language]["nodeDefs"]
    for node in NODES:
        assert translated[node]["display_name"] and translated[node]["description"]
        for name, options in inputs_of(info[node]).items():
            tooltip = translated[node]["inputs"][name]["tooltip"]
            assert len(tooltip) > 5, f"{node}.{name}"
            assert language == "en" or tooltip != options["tooltip"], f"{node}.{name}"
