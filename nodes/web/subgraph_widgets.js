/**
 * Widgets of our own on a subgraph's node. The page derives its widgets from the subgraph's inputs and drops others, or
 * lists them, too, in newer versions.
 */

const held = new WeakMap() // a subgraph's node -> the widgets it holds for us
const ours = new WeakSet()

/** Lets a subgraph's node hold widgets; to be called when it is created, before the page reads its list. */
export function letHoldWidgets(node) {
  const derived = Object.getOwnPropertyDescriptor(node, "widgets")
  const widgets = []
  held.set(node, widgets)
  Object.defineProperty(node, "widgets", {
    get: () => {
      const others = (derived?.get ? derived.get.call(node) : derived?.value) ?? []
      return [...others.filter((widget) => !ours.has(widget)), ...widgets]
    },
    set: derived?.set ?? (() => {}),
    configurable: true,
    enumerable: true,
  })
}

/** Adds a widget that the node's addDOMWidget has made. */
export function holdWidget(node, widget) {
  ours.add(widget)
  held.get(node).push(widget)
  void node.widgets // the page takes over what has changed when it reads the list
}

/** Takes a widget away again. */
export function dropWidget(node, widget) {
  const widgets = held.get(node)
  widgets.splice(widgets.indexOf(widget), 1)
  widget.onRemove?.()
  widget.element.remove()
  void node.widgets
}

/**
 * Keeps elements in the bodies of their nodes where the page builds nodes of HTML ("Nodes 2.0"): there a subgraph's node
 * shows nothing but the widgets of its inputs. elements: called for pairs of a node and its element. Returns a function to
 * call when the pairs have changed.
 */
export function keepInBodies(elements, canvas) {
  let frame = 0
  const place = () => {
    frame = 0
    if (!LiteGraph.vueNodesMode) return
    for (const [node, element] of elements()) {
      if (node.graph !== canvas().graph) continue
      const body = document.querySelector(`[data-testid="node-body-${node.id}"]`)
      if (body && !body.contains(element)) body.append(element) // newer pages put it there themselves
    }
  }
  const request = () => {
    frame ||= requestAnimationFrame(place)
  }
  new MutationObserver(request).observe(document.body, { childList: true, subtree: true })
  return request
}

/** The nodes of all subgraphs within a graph, each with the ones around it: [node, ...outer ones]. */
export function* subgraphNodes(graph, around = []) {
  for (const node of graph?.nodes ?? []) {
    if (!node.subgraph) continue
    yield [node, ...around]
    yield* subgraphNodes(node.subgraph, [node, ...around])
  }
}

/** Whether a graph, or a subgraph in it, has a node of this type. */
export function contains(graph, type) {
  return graph.nodes.some((node) => node.type === type || (node.subgraph && contains(node.subgraph, type)))
}
