"""Pictures of the page for the README: a first workflow, the scope while it draws, a sweep. Writes to images/."""

import io
import sys

import page as driver
from pack import ROOT
from PIL import Image

IMAGES = ROOT / "images"
LARGEST_FILE = 300_000
MARGIN = 24
STEPS = 24  # of the sampler while the scope is pictured, so that it is still at work then
FIRST = ("SaddleFreeDemoModel", "SaddleFreeGuidance", "KSampler", "SaveImage", "MarkdownNote")
QUIET = {"Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False, "Comfy.NodeBadge.NodeSourceBadgeMode": "None"}
FRAME = """([kinds, margin]) => {
    const nodes = app.rootGraph.nodes.filter((node) => kinds.includes(node.type))
    const [left, top] = [0, 1].map((side) => Math.min(...nodes.map((node) => node.boundingRect[side])))
    const [right, bottom] = [0, 1].map((side) => Math.max(
        ...nodes.map((node) => node.boundingRect[side] + node.boundingRect[side + 2])))
    const canvas = app.canvas.canvas.getBoundingClientRect()
    const [x, y] = [120, 150]
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [x - left, y - top]
    app.canvas.deselectAll()
    app.canvas.setDirty(true, true)
    return {
        x: canvas.x + x - margin, y: canvas.y + y - margin,
        width: right - left + 2 * margin, height: bottom - top + 2 * margin,
    }
}"""


def main():
    """All pictures."""
    quickstart = driver.load_quickstart()
    executable = quickstart.find_browser()
    if executable is None:
        sys.exit(f"screenshots: none of {', '.join(quickstart.BROWSERS)} is on the PATH.")
    IMAGES.mkdir(exist_ok=True)
    with driver.served(quickstart) as address, driver.opened(executable, 2400, 1200) as tab:
        write("quickstart", finished(tab, address, "quickstart", *FIRST))
        write("scope", live_scope(tab, address))
        write("sweep", finished(tab, address, "sweep", "SaddleFreeDemoModel", "GuidanceSweep", "SaveImage", "MarkdownNote"))


def live_scope(tab, address):
    """The scope's template, halfway through sampling."""
    driver.open_template(tab, address, "scope")
    clip = framed(tab, "SaddleFreeDemoModel", "SaddleFreeGuidance", "KSampler", "CurvatureScope", "MarkdownNote")
    tab.screenshot(clip=clip)  # the first one is slow
    tab.evaluate(
        """(steps) => {
            const sampler = app.rootGraph.nodes.find((node) => node.type === 'KSampler')
            sampler.widgets.find((widget) => widget.name === 'steps').value = steps
            app.queuePrompt(0, 1)
        }""",
        STEPS,
    )
    tab.wait_for_function(
        "(call) => document.querySelector(`circle.call[data-call='${call}']`)", arg=STEPS // 2, polling="raf"
    )
    return tab.screenshot(clip=clip)


def finished(tab, address, name, *kinds):
    """A template with the picture that it has made, as far as the nodes of these types reach."""
    driver.open_template(tab, address, name)
    driver.run(tab)
    tab.wait_for_function("() => app.rootGraph.nodes.some((node) => node.imgs?.[0]?.naturalWidth)")
    return tab.screenshot(clip=framed(tab, *kinds))


def framed(tab, *kinds):
    """Moves the view to the nodes of these types; gives the part of the window to picture."""
    for setting, value in QUIET.items():
        driver.set_setting(tab, setting, value)
    clip = tab.evaluate(FRAME, [list(kinds), MARGIN])
    tab.evaluate("() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    return clip


def write(name, screenshot):
    """Saves a screenshot, with a palette of 256 colours where the file would be too large otherwise."""
    picture = Image.open(io.BytesIO(screenshot)).convert("RGB")
    path = IMAGES / f"{name}.png"
    picture.save(path, optimize=True)
    if path.stat().st_size > LARGEST_FILE:
        picture.quantize(256, kmeans=4, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {picture.width} x {picture.height}, {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
