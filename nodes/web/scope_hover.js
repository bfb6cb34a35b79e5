/** What the scope tells about the point of its drawing that the pointer is near; it takes no event from the page. */

import { number } from "./scope_plot.js"
import { say } from "./scope_texts.js"

const NEAR = 14 // pixels of the screen

/** The circle of a drawing that is nearest to a place on the screen, if one is near. */
function nearest(drawing, { x, y }) {
  const box = drawing.getBoundingClientRect()
  const scale = box.width / drawing.viewBox.baseVal.width
  let found = null
  let least = NEAR
  for (const circle of drawing.querySelectorAll("circle.call")) {
    const place = [box.left + scale * circle.cx.baseVal.value, box.top + scale * circle.cy.baseVal.value]
    const distance = Math.hypot(place[0] - x, place[1] - y)
    if (distance < least) [least, found] = [distance, circle]
  }
  return found
}

/** Lines about an image at a call of a trace; its largest quotient, as drawn. */
export function linesOf(trace, image, index) {
  const call = trace.calls[index]
  const quotient = call.rayleigh[image].reduce((most, value) => Math.max(most, value ?? -Infinity), -Infinity)
  const error = call.error?.[image]?.[call.rayleigh[image].indexOf(quotient)]
  const counts = trace.calls.slice(0, index + 1).map((each) => each.evaluations?.[image] ?? 1)
  const total = counts.reduce((sum, count) => sum + count, 0)
  const told = (key, value, figures) => (value == null ? [] : [say("hover", key, figures ?? { value: short(value) })])
  return [
    say("hover", "point", { image: image + 1, call: index + 1 }),
    ...told("sigma", call.sigma),
    ...told("quotient", quotient),
    ...told("error", error),
    ...told("push", call.push?.[image]),
    ...told("evaluations", call.evaluations?.[image], { value: counts.at(-1), total }),
  ]
}

function short(value) {
  return number(Number(value.toPrecision(3)))
}

/** A box that tells about the point near the pointer. */
export class Hover {
  constructor(element, drawing) {
    this.element = element
    this.drawing = drawing
    this.box = element.appendChild(document.createElement("div"))
    this.box.className = "hover"
    this.box.hidden = true
    this.pointer = null
  }

  /** Shows what is near the pointer, {x, y} on the screen, or nothing where that is null. */
  update(trace, pointer = this.pointer) {
    this.pointer = pointer
    this.drawing.querySelector(".hovered")?.classList.remove("hovered")
    const circle = pointer && trace ? nearest(this.drawing, pointer) : null
    this.box.hidden = !circle
    if (!circle) return
    circle.classList.add("hovered")
    const { image, call } = circle.dataset
    this.box.replaceChildren(
      ...linesOf(trace, Number(image), Number(call)).map((line) =>
        Object.assign(document.createElement("div"), { textContent: line }),
      ),
    )
    this.place(circle.cx.baseVal.value, circle.cy.baseVal.value)
  }

  /** Beside a place of the drawing, where there is room. */
  place(x, y) {
    const { clientWidth: width, clientHeight: height } = this.element
    const { offsetWidth: wide, offsetHeight: high } = this.box
    const left = x + 12 + wide <= width ? x + 12 : x - 12 - wide
    this.box.style.left = `${Math.max(0, Math.min(left, width - wide))}px`
    this.box.style.top = `${Math.max(0, Math.min(y - high / 2, height - high))}px`
  }
}

/** Tells the view of each drawing where the pointer is; find: gives the view of an element. */
export function followPointer(find, canvas) {
  let frame = 0
  let last = null
  const tell = () => {
    frame = 0
    for (const element of document.querySelectorAll(".saddle-free-scope")) {
      const { left, right, top, bottom } = element.getBoundingClientRect()
      const inside = last.x >= left && last.x <= right && last.y >= top && last.y <= bottom
      const seen = inside && (last.target === canvas() || last.target?.contains?.(element))
      find(element)?.point(seen ? { x: last.x, y: last.y } : null)
    }
  }
  window.addEventListener(
    "pointermove",
    ({ clientX: x, clientY: y, target }) => {
      last = { x, y, target }
      frame ||= requestAnimationFrame(tell)
    },
    { capture: true, passive: true },
  )
}
