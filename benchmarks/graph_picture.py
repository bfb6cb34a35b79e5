"""Draws a workflow as a diagram: the thumbnail of a template whose pictures nobody made here."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, MARGIN, FINER = 1240, 24, 2  # pixels; drawn this many times larger and scaled down
MOST_HEIGHT = 900
PAPER, BOX, HEAD, INK, PALE = (32, 33, 36), (53, 54, 58), (70, 72, 78), (235, 235, 235), (160, 160, 165)
OURS, OURS_HEAD = (32, 92, 92), (40, 140, 140)
LINKS = {
    "MODEL": (179, 157, 219), "CLIP": (255, 213, 0), "VAE": (255, 110, 110), "CONDITIONING": (255, 169, 49),
    "LATENT": (255, 156, 249), "IMAGE": (100, 181, 246), "GUIDER": (102, 255, 255), "AUDIO": (120, 200, 120),
}
TITLE = 30
OWN = ("SaddleFreeGuidance", "GuidanceVariations")


def draw(workflow, names, path):
    """Writes a JPEG of a workflow. names: type -> what the page calls it."""
    nodes = {node["id"]: node for node in workflow["nodes"] if node["type"] != "MarkdownNote"}
    left, top = min(node["pos"][0] for node in nodes.values()), min(node["pos"][1] for node in nodes.values()) - TITLE
    right = max(node["pos"][0] + node["size"][0] for node in nodes.values())
    bottom = max(node["pos"][1] + node["size"][1] for node in nodes.values())
    unit = min((WIDTH - 2 * MARGIN) / (right - left), (MOST_HEIGHT - 2 * MARGIN) / (bottom - top)) * FINER
    margin = max(MARGIN * FINER, (WIDTH * FINER - unit * (right - left)) / 2)

    def at(x, y):
        return margin + (x - left) * unit, MARGIN * FINER + (y - top) * unit

    height = round(2 * MARGIN * FINER + unit * (bottom - top))
    page = Image.new("RGB", (WIDTH * FINER, height), PAPER)
    pen = ImageDraw.Draw(page)
    for _, source, slot, target, place, kind in workflow["links"]:
        start = at(*_port(nodes[source], slot, right=True))
        end = at(*_port(nodes[target], place, right=False))
        pen.line(_curve(start, end), fill=LINKS.get(kind, PALE), width=2 * FINER, joint="curve")
    for node in nodes.values():
        _box(pen, node, names, at, unit)
    page.resize((WIDTH, height // FINER), Image.LANCZOS).save(path, quality=90, optimize=True)


def _port(node, slot, right):
    """Where the page draws a node's slot."""
    return node["pos"][0] + (node["size"][0] if right else 0), node["pos"][1] + 14 + 20 * slot


def _curve(start, end, points=24):
    """A cubic from one point to another that leaves and arrives level, as the page's links do."""
    pull = max(abs(end[0] - start[0]) / 2, 20 * FINER)
    corners = [start, (start[0] + pull, start[1]), (end[0] - pull, end[1]), end]
    made = []
    for step in range(points + 1):
        t = step / points
        weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3]
        made.append(tuple(sum(w * corner[axis] for w, corner in zip(weights, corners)) for axis in (0, 1)))
    return made


def _box(pen, node, names, at, unit):
    own, (x, y), (width, height) = node["type"] in OWN, node["pos"], node["size"]
    corner, head = at(x, y - TITLE), at(x + width, y)
    end = at(x + width, y + height)
    radius = 6 * unit
    pen.rounded_rectangle([*corner, *end], radius, fill=OURS if own else BOX)
    pen.rounded_rectangle([*corner, *head], radius, fill=OURS_HEAD if own else HEAD)
    title = node.get("title") or names.get(node["type"], node["type"])
    _text(pen, title, corner[0] + 8 * unit, (corner[1] + head[1]) / 2, 17 * unit, width * unit * 0.93, INK, bold=True)
    lines = _settings(node)
    row = at(x, y + 8 + 20 * _rows(node))[1]
    for line in lines:
        row += 24 * unit
        if row > end[1] - 8 * unit:
            break
        _text(pen, line, corner[0] + 14 * unit, row - 6 * unit, 13 * unit, width * unit * 0.88, PALE)


def _settings(node):
    """A line for each widget: the value alone where it is a text, else its name before it."""
    names = [slot["name"] for slot in node["inputs"] if "widget" in slot]
    values = [value for value in node["widgets_values"] if value != "fixed"]
    pairs = [(name, str(value).partition("\n")[0], isinstance(value, str)) for name, value in zip(names, values)]
    return [value if text else f"{name}  {value}" for name, value, text in pairs if value]


def _rows(node):
    return max(sum("widget" not in slot for slot in node["inputs"]), len(node["outputs"]))


def _text(pen, text, x, y, size, room, fill, bold=False):
    """One line, cut off where there is no more room."""
    font = _font(size, bold)
    while text and pen.textlength(text, font=font) > room:
        text = text[:-2].rstrip(" .…") + "…" if len(text) > 2 else ""
    pen.text((x, y), text, font=font, fill=fill, anchor="lm")


def _font(size, bold):
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), max(8, round(size)))
