"""Drives the page of a running ComfyUI in a headless browser, for the tests of the page and for screenshots."""

import contextlib
import importlib.util

import demo_server
from pack import ROOT

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    "--js-flags=--max-lazy",  # compiles of the page's 250 scripts what it calls
)
READY = "window.app?.extensionManager && !window.app.extensionManager.spinner"
RUN = """() => new Promise((resolve, reject) => {
    const listen = (event, act) => app.api.addEventListener(event, ({ detail }) => act(detail), { once: true })
    listen('execution_success', resolve)
    listen('execution_error', (detail) => reject(new Error(detail.exception_message)))
    app.queuePrompt(0, 1).then((accepted) => accepted || reject(new Error('the workflow was refused')))
})"""
LOAD_TEMPLATE = """async ([name, source]) => {
    const answer = await fetch(`/api/workflow_templates/${source}/${name}.json`)
    await app.loadGraphData(await answer.json(), true, true, name)
}"""
SET_STEPS = """(steps) => {
    const widgets = app.rootGraph.nodes.flatMap((node) => node.widgets ?? [])
    for (const widget of widgets.filter((widget) => widget.name === 'steps')) widget.value = steps
}"""
ADD_SCOPE = """() => {
    app.rootGraph.clear()
    const node = LiteGraph.createNode('CurvatureScope')
    app.rootGraph.add(node)
    node.pos = [100, 100]
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [0, 0]
    app.canvas.setDirty(true, true)
}"""
RESIZE = """([width, height]) => {
    const node = app.rootGraph.nodes.find((node) => node.type === 'CurvatureScope')
    const [leastWidth, leastHeight] = node.computeSize()
    node.setSize([Math.max(width, leastWidth), Math.max(height, leastHeight)])
    app.canvas.setDirty(true, true)
}"""
DRAWN_AT_ITS_SIZE = """() => {
    const node = app.rootGraph.nodes.find((node) => node.type === 'CurvatureScope')
    const root = document.querySelector('.saddle-free-scope')
    const drawing = root?.querySelector('svg').viewBox.baseVal
    return drawing?.width === root?.clientWidth && drawing?.height === root?.clientHeight &&
        Math.abs(root.offsetWidth + 20 - node.size[0]) < 1
}"""


def load_quickstart():
    """quickstart.py as a module."""
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def served(quickstart):
    """A ComfyUI with only this pack; gives its address."""
    demo_server.OUTPUT.mkdir(exist_ok=True)
    comfyui, python = quickstart.find_host(quickstart.parse_arguments([]))
    with demo_server.server(comfyui, python, demo_server.free_port()) as (address, _):
        yield address


@contextlib.contextmanager
def opened(executable, width=1400, height=1000):
    """A tab of a headless browser, which the rest of this file drives; it forgets all when it opens a page."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:
        raise SystemExit("playwright is not installed; `python quickstart.py --test` installs it.") from error

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        try:
            tab = browser.new_page(viewport={"width": width, "height": height})
            tab.set_default_timeout(180_000)
            tab.add_init_script("localStorage.clear(); sessionStorage.clear()")
            yield tab
        finally:
            browser.close()


def open_page(tab, address):
    """Opens the page on what it shows first."""
    tab.goto(address)
    tab.wait_for_function(READY)


def open_template(tab, address, name):
    """Opens the page on a template of the pack."""
    open_page(tab, f"{address}/?template={name}&source={ROOT.name}")
    tab.wait_for_function("(name) => app.extensionManager.workflow.activeWorkflow?.filename === name", arg=name)


def keep_open(tab, address):
    """Opens the page unless it is open; what was done in it stays."""
    if not tab.url.startswith(address):
        open_page(tab, address)


def load_template(tab, address, name):
    """Opens a template of the pack as the list of templates does, in a page that is open."""
    keep_open(tab, address)
    tab.evaluate(LOAD_TEMPLATE, [name, ROOT.name])


def new_workflow(tab, address):
    """Opens an empty workflow, in a page that is open."""
    keep_open(tab, address)
    tab.evaluate("() => app.canvas.setGraph(app.rootGraph)")  # in a subgraph the page would stay there
    tab.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    tab.wait_for_function("app.canvas.graph === app.rootGraph && app.rootGraph.nodes.length === 0", timeout=30_000)


def set_steps(tab, steps):
    """Sets the steps of all samplers of the workflow."""
    tab.evaluate(SET_STEPS, steps)


def run(tab):
    """Runs the workflow in the page; returns when it has ended."""
    tab.evaluate(RUN)


def set_setting(tab, name, value):
    """Sets a setting of the page."""
    tab.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [name, value])


def outputs(tab):
    """What the page knows of the outputs of each node."""
    return tab.evaluate("() => app.nodeOutputs")


def node_ids(tab, kind):
    """Ids of the nodes of a type."""
    return tab.evaluate("(kind) => app.rootGraph.nodes.filter((n) => n.type === kind).map((n) => String(n.id))", kind)


def add_scope(tab):
    """A graph of one Curvature Scope; gives its id."""
    tab.evaluate(ADD_SCOPE)
    tab.wait_for_function(DRAWN_AT_ITS_SIZE)
    return node_ids(tab, "CurvatureScope")[0]


def send_trace(tab, node, trace):
    """Gives the page the message that a run with this trace would send."""
    message = {"nodes": [node], **trace}
    tab.evaluate("(message) => app.api.dispatchCustomEvent('saddle_free_guidance.trace', message)", message)
    points = sum(len(call["rayleigh"]) for call in trace["calls"])
    tab.wait_for_function("(points) => document.querySelectorAll('circle.call').length === points", arg=points)


def resize_scope(tab, width, height):
    """Sets the size of the scope's node, at least the page's minimum; returns when it is drawn in that size."""
    tab.evaluate(RESIZE, [width, height])
    tab.wait_for_function(DRAWN_AT_ITS_SIZE)
