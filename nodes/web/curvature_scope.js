/** Draws in each Curvature Scope node, and on subgraphs around it, what saddle-free guidance sees while the sampler runs. */

import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"
import { followPointer, Hover } from "./scope_hover.js"
import { message, plot } from "./scope_plot.js"
import { loadTexts, say } from "./scope_texts.js"
import { contains, dropWidget, holdWidget, keepInBodies, letHoldWidgets, subgraphNodes } from "./subgraph_widgets.js"
import { save } from "./trace_export.js"

const NODE = "CurvatureScope"
const EVENT = "saddle_free_guidance.trace"
const LEAST_WIDTH = 220
const LEAST_HEIGHT = 160
const MARGIN = 10
const WIDEST_TEXT = 104 // what the host adds to a widget's least width
const FONT = "11px Arial, sans-serif" // as on the canvas
const FIRST_SIZE = [360, 400]
const LEAST_PLOT = 120 // height that advice leaves to the drawing
const ADVICE_LINE = 15
const ADVICE_GAP = 6
const COLOURS = ["#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB"] // Paul Tol's bright

const STYLE = `
.dom-widget:has(> .saddle-free-scope) { pointer-events: none !important; }
.saddle-free-scope {
  position: relative; box-sizing: border-box; min-height: ${LEAST_HEIGHT}px; overflow: hidden; pointer-events: none;
  border: 1px solid var(--border-color); border-radius: 6px; background: var(--comfy-menu-bg); color: var(--input-text); font: ${FONT};
}
[data-testid^="node-body"] > .saddle-free-scope { flex: 1; width: auto !important; margin: 4px 12px 0; }
.saddle-free-scope p {
  position: absolute; inset: 0; margin: 0; padding: 12px; display: grid; place-content: center; text-align: center;
  font-size: 12px; overflow-wrap: anywhere; white-space: normal;
}
.saddle-free-scope svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.saddle-free-scope .advice {
  position: absolute; inset: auto 0 0; margin: 0 8px ${ADVICE_GAP}px; font-size: 12px; line-height: ${ADVICE_LINE}px;
  display: -webkit-box; -webkit-box-orient: vertical; overflow: hidden; overflow-wrap: anywhere; white-space: normal;
}
.saddle-free-scope .hover {
  position: absolute; padding: 4px 6px; border: 1px solid var(--border-color); border-radius: 4px; white-space: nowrap;
  background: var(--comfy-input-bg); color: var(--input-text); line-height: 1.3;
}
.saddle-free-scope [hidden] { display: none; }
.saddle-free-scope text { fill: var(--input-text); }
.saddle-free-scope text.title, .saddle-free-scope text.threshold { font-weight: bold; }
.saddle-free-scope .axis { stroke: var(--descrip-text); }
.saddle-free-scope .grid { stroke: var(--descrip-text); opacity: 0.18; }
.saddle-free-scope .threshold:is(line) { stroke: var(--input-text); stroke-width: 1.2; stroke-dasharray: 5 4; }
.saddle-free-scope .window { fill: var(--input-text); opacity: 0.09; }
.saddle-free-scope .key { stroke: var(--input-text); stroke-width: 1.4; }
.saddle-free-scope .key.window { stroke: none; opacity: 0.3; }
.saddle-free-scope .key.acted { fill: var(--input-text); }
.saddle-free-scope .largest, .saddle-free-scope .further { fill: none; stroke: var(--line); stroke-linejoin: round; }
.saddle-free-scope .largest { stroke-width: 1.6; }
.saddle-free-scope .further { stroke-width: 0.9; opacity: 0.6; }
.saddle-free-scope .dashed:not(circle) { stroke-dasharray: 4 3; }
.saddle-free-scope .dotted:not(circle) { stroke-dasharray: 1.5 2.5; }
.saddle-free-scope .call { stroke: var(--line); stroke-width: 1.4; }
.saddle-free-scope .call.acted { fill: var(--line); }
.saddle-free-scope .call.hovered { stroke-width: 4; }
.saddle-free-scope .idle { fill: var(--comfy-menu-bg); }
${COLOURS.map(
  (colour, index) =>
    `.saddle-free-scope .colour-${index} { --line: color-mix(in srgb, ${colour} 80%, var(--input-text)); }`,
).join("\n")}
`

const views = new WeakMap() // node -> its View
const elements = new WeakMap() // element -> its View
let placeDrawings = () => {}
const parents = new WeakMap() // a subgraph's node with a scope within -> its widget

/** What one node shows, drawn at most once per frame and only while it has a size. */
class View {
  constructor(element) {
    this.element = element
    this.text = element.appendChild(document.createElement("p"))
    this.drawing = element.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "svg"))
    this.drawing.setAttribute("role", "img")
    this.advice = element.appendChild(document.createElement("div"))
    this.advice.className = "advice"
    this.hover = new Hover(element, this.drawing)
    elements.set(element, this)
    this.ruler = document.createElement("canvas").getContext("2d")
    this.ruler.font = `bold ${FONT}`
    this.trace = null
    this.frame = 0
    new ResizeObserver(() => this.request()).observe(element)
  }

  /** Shows a whole trace. */
  show(trace) {
    this.trace = trace
    this.request()
  }

  /** Takes the new calls of a running trace; call 0 begins a new one. */
  extend({ first, calls, ...rest }) {
    const before = first ? (this.trace?.calls ?? []).slice(0, first) : []
    this.show({ ...rest, calls: [...before, ...calls] })
  }

  /** Asks for a drawing in the next frame. */
  request() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0
      this.draw()
    })
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.element
    if (!width || !height) return
    const told = adviceOf(this.trace)
    const reason = message(this.trace)
    const words = reason && (told || reason)
    this.text.hidden = words === null
    this.drawing.toggleAttribute("hidden", words !== null)
    this.text.textContent = words ?? ""
    const free = height - this.tell(words === null ? told : "", height)
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${height}`)
    this.drawing.innerHTML = words === null ? plot(this.trace, width, free, (text) => this.measure(text)) : ""
    const calls = this.trace?.calls.length ?? 0
    this.drawing.setAttribute("aria-label", `Rayleigh quotient against sigma, ${calls} model calls. ${told}`.trim())
    this.hover.update(words === null ? this.trace : null)
  }

  /** Writes as many lines of advice as the drawing leaves room for, at least one; returns the height that they take. */
  tell(told, height) {
    this.advice.hidden = !told
    this.advice.textContent = told
    this.advice.style.webkitLineClamp = `${Math.max(1, Math.floor((height - LEAST_PLOT) / ADVICE_LINE))}`
    return told ? this.advice.offsetHeight + ADVICE_GAP : 0
  }

  /** The pointer is at a place on the screen, or elsewhere where that is null. */
  point(pointer) {
    if (pointer || this.hover.pointer) this.hover.update(this.trace, pointer)
  }

  /** The width of a text in the drawing, at least. */
  measure(text) {
    return this.ruler.measureText(text).width
  }
}

/** What a trace advises, in the language of the page. */
function adviceOf(trace) {
  return (trace?.advice ?? []).map(({ key, figures, text }) => say("advice", key, figures, text)).join(" ")
}

function addStyle() {
  const style = document.createElement("style")
  style.textContent = STYLE
  document.head.append(style)
}

/** Adds a drawing to a node; returns its widget. */
function addWidget(node) {
  const element = document.createElement("div")
  element.className = "saddle-free-scope"
  views.set(node, new View(element))
  const widget = node.addDOMWidget("scope", "saddle_free_scope", element, {
    serialize: false, hideOnZoom: false, margin: MARGIN,
  })
  widget.serialize = false
  const minWidth = LEAST_WIDTH + 2 * MARGIN - WIDEST_TEXT
  widget.computeLayoutSize = () => ({ minWidth, minHeight: LEAST_HEIGHT + 2 * MARGIN })
  return widget
}

/** Pairs of a subgraph's node and its drawing. */
function* drawnParents() {
  for (const [node] of subgraphNodes(app.rootGraph)) if (parents.has(node)) yield [node, parents.get(node).element]
}

function grow(node, [width, height]) {
  const [leastWidth, leastHeight] = node.computeSize()
  node.setSize([Math.max(width, leastWidth), Math.max(height, leastHeight)])
  node.setDirtyCanvas(true, true)
}

function addView(node) {
  addWidget(node)
  grow(node, FIRST_SIZE)
  const { onExecuted } = node
  node.onExecuted = function (output) {
    onExecuted?.apply(this, arguments)
    if (output?.trace) views.get(this)?.show(output.trace[0])
  }
  for (const event of ["onAdded", "onRemoved"]) {
    const before = node[event]
    node[event] = function () {
      before?.apply(this, arguments)
      requestAnimationFrame(() => updateSubgraphs(FIRST_SIZE))
    }
  }
}

/** Gives every subgraph with a scope in it a drawing, at least of a size where it is new, and takes it from the others. */
function updateSubgraphs(size) {
  for (const [node] of subgraphNodes(app.rootGraph)) {
    const widget = parents.get(node)
    const wanted = contains(node.subgraph, NODE)
    if (wanted && !widget) {
      parents.set(node, addWidget(node))
      holdWidget(node, parents.get(node))
      views.get(node).show(traceWithin(node.subgraph)) // what came before the node was drawn
      grow(node, [0, 1].map((side) => Math.max(node.size[side], size[side])))
    } else if (!wanted && widget) {
      dropWidget(node, widget)
      parents.delete(node)
      views.delete(node)
    }
  }
  placeDrawings()
}

/** The trace that a scope in a graph shows, or null. */
function traceWithin(graph) {
  for (const [node] of nodesWithin(graph)) {
    const trace = node.comfyClass === NODE && views.get(node)?.trace
    if (trace) return trace
  }
  return null
}

/** The nodes of an execution id, from the outermost: for "3:7" node 3 and node 7 in its subgraph. */
function nodesOf(executionId) {
  let graph = app.rootGraph
  return String(executionId).split(":").map((id) => {
    const node = graph?.getNodeById(id)
    graph = node?.subgraph
    return node
  })
}

/** Every node with the key of its outputs in app.nodeOutputs and the subgraphs' nodes around it. */
function* nodesWithin(graph, around = []) {
  for (const node of graph?.nodes ?? []) {
    yield [node, graph === app.rootGraph ? `${node.id}` : `${graph.id}:${node.id}`, around]
    if (node.subgraph) yield* nodesWithin(node.subgraph, [node, ...around])
  }
}

function showOutputs(outputs) {
  for (const [node, key, around] of nodesWithin(app.rootGraph)) {
    const trace = outputs?.[key]?.trace?.[0]
    if (trace) for (const shown of [node, ...around]) views.get(shown)?.show(trace)
  }
}

app.registerExtension({
  name: "SaddleFreeGuidance.CurvatureScope",
  setup() {
    addStyle()
    loadTexts()
    followPointer((element) => elements.get(element), () => app.canvas.canvas)
    placeDrawings = keepInBodies(drawnParents, () => app.canvas)
    api.addEventListener(EVENT, ({ detail: { nodes, ...trace } }) => {
      for (const node of new Set(nodes.flatMap(nodesOf))) views.get(node)?.extend(trace)
    })
    api.addEventListener("executed", ({ detail: { display_node, node, output } }) => {
      const around = nodesOf(display_node ?? node).slice(0, -1)
      if (output?.trace) for (const outer of around) views.get(outer)?.show(output.trace[0])
    })
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) addView(node)
    if (!node.subgraph) return
    letHoldWidgets(node)
    requestAnimationFrame(() => updateSubgraphs(FIRST_SIZE))
  },
  getNodeMenuItems(node) {
    const view = views.get(node)
    if (!view) return []
    return ["csv", "json"].map((kind) => ({
      content: say("menu", kind), disabled: !view.trace?.calls.length, callback: () => save(view.trace, kind),
    }))
  },
  afterConfigureGraph() {
    updateSubgraphs([0, 0])
    showOutputs(app.nodeOutputs)
  },
  onNodeOutputsUpdated: showOutputs,
})
