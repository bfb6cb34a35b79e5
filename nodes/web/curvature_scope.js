/** Draws in each Curvature Scope node what saddle-free guidance sees, while the sampler runs. */

import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"
import { message, plot } from "./scope_plot.js"

const NODE = "CurvatureScope"
const EVENT = "saddle_free_guidance.trace"
const LEAST_WIDTH = 220
const LEAST_HEIGHT = 160
const MARGIN = 10
const WIDEST_TEXT = 104 // what the host adds to a widget's least width
const FONT = "11px Arial, sans-serif" // as on the canvas
const FIRST_SIZE = [360, 400]
const COLOURS = ["#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB"] // Paul Tol's bright

const STYLE = `
.dom-widget:has(> .saddle-free-scope) { pointer-events: none !important; }
.saddle-free-scope {
  position: relative; box-sizing: border-box; min-height: ${LEAST_HEIGHT}px; overflow: hidden; pointer-events: none;
  border: 1px solid var(--border-color); border-radius: 6px; background: var(--comfy-menu-bg); color: var(--input-text); font: ${FONT};
}
.saddle-free-scope p {
  position: absolute; inset: 0; margin: 0; padding: 12px; display: grid; place-content: center; text-align: center;
  font-size: 12px; overflow-wrap: anywhere; white-space: normal;
}
.saddle-free-scope svg { position: absolute; inset: 0; width: 100%; height: 100%; }
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
.saddle-free-scope .idle { fill: var(--comfy-menu-bg); }
${COLOURS.map(
  (colour, index) =>
    `.saddle-free-scope .colour-${index} { --line: color-mix(in srgb, ${colour} 80%, var(--input-text)); }`,
).join("\n")}
`

const views = new WeakMap() // node -> its View

/** What one node shows, drawn at most once per frame and only while it has a size. */
class View {
  constructor(element) {
    this.element = element
    this.text = element.appendChild(document.createElement("p"))
    this.drawing = element.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "svg"))
    this.drawing.setAttribute("role", "img")
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
    const words = message(this.trace)
    this.text.hidden = words === null
    this.drawing.toggleAttribute("hidden", words !== null)
    this.text.textContent = words ?? ""
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${height}`)
    this.drawing.innerHTML = words === null ? plot(this.trace, width, height, (text) => this.measure(text)) : ""
    const calls = this.trace?.calls.length ?? 0
    this.drawing.setAttribute("aria-label", `Rayleigh quotient against sigma, ${calls} model calls`)
  }

  /** The width of a text in the drawing, at least. */
  measure(text) {
    return this.ruler.measureText(text).width
  }
}

function addStyle() {
  const style = document.createElement("style")
  style.textContent = STYLE
  document.head.append(style)
}

function addView(node) {
  const element = document.createElement("div")
  element.className = "saddle-free-scope"
  const view = new View(element)
  views.set(node, view)
  const widget = node.addDOMWidget("scope", "saddle_free_scope", element, {
    serialize: false, hideOnZoom: false, margin: MARGIN,
  })
  widget.serialize = false
  const minWidth = LEAST_WIDTH + 2 * MARGIN - WIDEST_TEXT
  widget.computeLayoutSize = () => ({ minWidth, minHeight: LEAST_HEIGHT + 2 * MARGIN })
  node.setSize(node.computeSize().map((side, index) => Math.max(side, FIRST_SIZE[index])))
  const { onExecuted } = node
  node.onExecuted = function (output) {
    onExecuted?.apply(this, arguments)
    if (output?.trace) view.show(output.trace[0])
  }
}

/** The node of an execution id: "3:7" is node 7 in the subgraph of node 3. */
function nodeOf(executionId) {
  const path = executionId.split(":")
  const last = path.pop()
  const graph = path.reduce((outer, id) => outer?.getNodeById(id)?.subgraph, app.rootGraph)
  return graph?.getNodeById(last)
}

/** Every node with the key of its outputs in app.nodeOutputs. */
function* nodesWithin(graph) {
  for (const node of graph?.nodes ?? []) {
    yield [node, graph === app.rootGraph ? `${node.id}` : `${graph.id}:${node.id}`]
    if (node.subgraph) yield* nodesWithin(node.subgraph)
  }
}

function showOutputs(outputs) {
  for (const [node, key] of nodesWithin(app.rootGraph)) {
    const trace = outputs?.[key]?.trace?.[0]
    if (trace) views.get(node)?.show(trace)
  }
}

app.registerExtension({
  name: "SaddleFreeGuidance.CurvatureScope",
  setup() {
    addStyle()
    api.addEventListener(EVENT, ({ detail: { nodes, ...trace } }) => {
      for (const id of nodes) views.get(nodeOf(id))?.extend(trace)
    })
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) addView(node)
  },
  afterConfigureGraph() {
    showOutputs(app.nodeOutputs)
  },
  onNodeOutputsUpdated: showOutputs,
})
