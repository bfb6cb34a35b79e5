"""Workflow files of the page, written a node at a time, with the names and the order of inputs that the host declares."""

import json
import uuid

from pack import ROOT

WORKFLOWS = ROOT / "workflows"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR")
SLOT, WIDGET, TEXT, REST, TITLE, GAP = 20, 24, 90, 20, 30, 22  # heights of a node's parts, and between two nodes
PREVIEW = 270  # of a picture in the node that saves it
COLOURS = {
    "Positive prompt": ("#232", "#353"), "Negative prompt": ("#322", "#533"), "SaddleFreeGuidance": ("#233", "#355"),
    "GuidanceVariations": ("#233", "#355"),
}


class Output:
    """An output of a node, to link from."""

    def __init__(self, node, slot):
        self.node, self.slot = node, slot


class Page:
    """A workflow under construction: nodes are stacked in columns from left to right."""

    def __init__(self, name, classes):
        self.name, self.classes = name, classes
        self.nodes, self.links = [], []
        self.left = self.width = self.top = 0
        self.column(340)

    def column(self, width, gap=40):
        """Begins a column to the right."""
        self.left, self.width, self.top = self.left + self.width + gap, width, 60

    def add(self, kind, /, title=None, files=(), **given):
        """Adds a node below the last one; returns its outputs. given: values of its widgets, and outputs to link.

        files: addresses of the models that it names, in the order of its widgets.
        """
        declared = self.classes[kind].INPUT_TYPES()
        options = {**declared.get("required", {}), **declared.get("optional", {})}
        unknown = set(given) - set(options)
        if unknown:
            raise ValueError(f"{kind} has no inputs {sorted(unknown)}; it has {sorted(options)}.")
        node = {
            "id": len(self.nodes) + 1, "type": kind, "pos": [self.left, self.top], "size": [self.width, 0], "flags": {},
            "order": len(self.nodes), "mode": 0, "inputs": [], "outputs": self._outputs(kind),
            "properties": {"Node name for S&R": kind}, "widgets_values": [],
        }
        height = self._add_inputs(node, options, given)
        node["size"][1] = height + (PREVIEW if kind == "SaveImage" else 0)
        self.top += node["size"][1] + TITLE + GAP
        if files:
            node["properties"]["models"] = [_file(address) for address in files]
        self._decorate(node, title)
        self.nodes.append(node)
        return [Output(node, slot) for slot in range(len(node["outputs"]))]

    def _outputs(self, kind):
        host_class = self.classes[kind]
        types = [str(kind) for kind in host_class.RETURN_TYPES]
        names = getattr(host_class, "RETURN_NAMES", None) or types
        return [{"name": name or kind, "type": kind, "links": []} for name, kind in zip(names, types)]

    def _add_inputs(self, node, options, given):
        """Fills inputs and widget values in the host's order, links first as the page has it; returns the height."""
        widgets = {name: spec for name, spec in options.items() if _is_widget(spec)}
        plain = [name for name in options if name not in widgets]
        height = SLOT * max(len(plain), len(node["outputs"])) + REST
        for name in plain:
            kind = str(options[name][0])
            link = self._link(given[name], node, kind) if name in given else None
            node["inputs"].append({"name": name, "type": kind, "link": link})
        for name, spec in widgets.items():
            details = spec[1] if len(spec) > 1 else {}
            kind = "COMBO" if isinstance(spec[0], list) or spec[0] not in WIDGETS else spec[0]
            node["inputs"].append({"name": name, "type": kind, "widget": {"name": name}, "link": None})
            node["widgets_values"].append(given.get(name, _default(spec)))
            height += TEXT if details.get("multiline") else WIDGET
            if details.get("control_after_generate"):
                node["widgets_values"].append("fixed")
                height += WIDGET
        return height

    def _link(self, output, node, kind):
        number = len(self.links) + 1
        output.node["outputs"][output.slot]["links"].append(number)
        self.links.append([number, output.node["id"], output.slot, node["id"], len(node["inputs"]), kind])
        return number

    @staticmethod
    def _decorate(node, title):
        if title is not None:
            node["title"] = title
        colours = COLOURS.get(title) or COLOURS.get(node["type"])
        if colours:
            node["color"], node["bgcolor"] = colours

    def note(self, title, text, width=720, height=430):
        """Adds a note below everything, with the files that the nodes name, if any."""
        models = [model for node in self.nodes for model in node["properties"].get("models", [])]
        unique = {model["name"]: model for model in models}.values()
        lines = [
            f"- [{model['name']}]({model['url'].partition('/resolve/')[0]}) in `models/{model['directory']}`"
            for model in unique
        ]
        bottom = max(node["pos"][1] + node["size"][1] for node in self.nodes if node["pos"][0] < 40 + width)
        self.nodes.append({
            "id": len(self.nodes) + 1, "type": "MarkdownNote", "pos": [40, bottom + TITLE + GAP],
            "size": [width, height], "flags": {}, "order": len(self.nodes), "mode": 0, "inputs": [], "outputs": [],
            "properties": {"Node name for S&R": "MarkdownNote"},
            "widgets_values": ["\n".join([text, "", "## Files", *lines]) if lines else text],
            **({} if title is None else {"title": title}),
        })

    def workflow(self):
        """What the page saves."""
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.saddle-free-guidance")), "revision": 0,
            "last_node_id": len(self.nodes), "last_link_id": len(self.links), "nodes": self.nodes, "links": self.links,
            "groups": [], "config": {}, "extra": {"ds": {"scale": 0.7, "offset": [60, 120]}}, "version": 0.4,
        }


def write(name, workflow):
    """Writes workflows/<name>.json as the other templates are written."""
    path = WORKFLOWS / f"{name}.json"
    path.write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(name):
    """workflows/<name>.json."""
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def _is_widget(spec):
    details = spec[1] if len(spec) > 1 else {}
    kind = details.get("widgetType", spec[0])
    return (isinstance(kind, list) or kind in WIDGETS or str(kind).startswith("COMFY_DYNAMIC")) and not details.get(
        "forceInput"
    )


def _default(spec):
    details = spec[1] if len(spec) > 1 else {}
    if "default" in details:
        return details["default"]
    if isinstance(spec[0], list) or "options" in details:
        choices = spec[0] if isinstance(spec[0], list) else details["options"]
        first = choices[0] if choices else ""
        return first["key"] if isinstance(first, dict) else first
    return {"STRING": "", "BOOLEAN": False}.get(spec[0], 0)


def _file(address):
    """A model's entry in its loader's properties; the folder is the last one of the address or named in FOLDERS."""
    name = address.rsplit("/", 1)[-1]
    return {"name": name, "url": address, "directory": _folder(address)}


def _folder(address):
    path = address.partition("/resolve/main/")[2].split("/")
    if len(path) > 1:
        return path[-2]
    return "latent_upscale_models" if "upscaler" in path[0] else "checkpoints"
