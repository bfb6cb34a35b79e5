"""The page in another language: the names of the nodes, and all that the scope says."""

import json

import page as driver
import pytest
from cases import long_but
from pack import ROOT
from test_page import NODES, saved
from test_scope_page import ADVICE, at, frame, full, told


@pytest.fixture(scope="module", params=long_but(["fr", "ja", "zh"], ["ja"]))
def language(request, browser, address):
    """The language of the page, opened anew, as it may load its first graph again when the language changes."""
    tab = browser.tab()
    driver.keep_open(tab, address)
    driver.set_setting(tab, "Comfy.Locale", request.param)
    driver.open_page(tab, address)
    yield request.param
    driver.set_setting(tab, "Comfy.Locale", "en")
    tab.goto("about:blank")


def test_the_nodes_have_names_in_the_language(tab, language):
    names = saved(f"locales/{language}/nodeDefs.json")
    for node in NODES:
        title = tab.evaluate("(type) => LiteGraph.createNode(type).title", node)
        assert title == names[node]["display_name"] != ""


def test_advice_points_and_menu_speak_the_language_of_the_page(tab, address, language):
    texts = json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))["saddleFreeGuidance"]
    driver.new_workflow(tab, address)
    scope = driver.add_scope(tab)
    driver.send_trace(tab, scope, full(advice=ADVICE))
    frame(tab)
    expected = " ".join(texts["advice"][each["key"]].format(**each["figures"]) for each in ADVICE)
    assert tab.locator(".saddle-free-scope .advice").inner_text() == expected
    at(tab, 0, 8)
    assert told(tab)[0] == texts["hover"]["point"].format(image=1, call=9)
    assert menu_texts(tab)[-2:] == [texts["menu"]["csv"], texts["menu"]["json"]]


def menu_texts(tab):
    """What the scope's menu offers."""
    return tab.evaluate("() => app.canvas.getNodeMenuOptions(app.rootGraph.nodes[0]).map((item) => item?.content)")
