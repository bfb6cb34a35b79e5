/** The drawing of a curvature trace: pure functions from a trace and a size to SVG markup. */

const COLOURS = 7 // of the classes colour-0 to colour-6
const DASHES = ["", " dashed", " dotted"]
const LINE = 14 // height of a row of text
const GAP = 8 // least distance between two texts in a row
const PAD = 8
const HALF_TEXT = 6

/** What to say instead of a drawing, or null where there is something to draw. */
export function message(trace) {
  if (!trace) return "The curvature at each model call appears here while the sampler runs."
  if (trace.off) return trace.off
  if (curves(trace.calls).length) return null
  const reason = trace.calls.findLast((call) => call.reason)?.reason
  return reason ? `Nothing to draw: ${reason}.` : "Guidance has not been active at any model call so far."
}

/**
 * SVG markup of a trace that has something to draw.
 * measure: gives the width of a text in the units of width and height.
 */
export function plot(trace, width, height, measure) {
  const lines = curves(trace.calls)
  const points = lines.flatMap((line) => line.segments.flat())
  const rows = tickRows(points, height - 5 * LINE)
  const gutter = Math.max(...rows.ticks.map((value) => measure(number(value))), measure("1")) + 6
  const inner = { top: PAD + HALF_TEXT + LINE, bottom: height - PAD - HALF_TEXT - 3 * LINE }
  const box = { left: PAD + gutter, right: width - PAD - 4, ...inner }
  const x = sigmaScale(trace, box)
  const y = linear(rows.low, rows.high, box.bottom, box.top)
  return [
    window_(trace.window, x, box),
    verticalAxis(rows.ticks, y, box),
    horizontalAxis(x, box, width, measure),
    threshold(y, box),
    lines.map((line) => polylines(line, x, y)).join(""),
    lines.filter((line) => line.rank === 0).map((line) => circles(line, x, y, box)).join(""),
    heading(trace.window, width, measure),
    legend(lines, height - PAD - HALF_TEXT, width, measure),
  ].join("")
}

/** One line per image and direction, largest first: {image, rank, segments of {call, sigma, value, acted}}. */
function curves(calls) {
  const lines = new Map()
  calls.forEach((call, index) => {
    call.rayleigh.forEach((values, image) => {
      const sorted = values.filter((value) => value !== null).sort((a, b) => b - a)
      sorted.forEach((value, rank) => {
        const key = `${image} ${rank}`
        if (!lines.has(key)) lines.set(key, { image, rank, segments: [] })
        const { segments } = lines.get(key)
        const point = { call: index, sigma: call.sigma, value, acted: call.acted[image] === true }
        if (segments.at(-1)?.at(-1).call === index - 1) segments.at(-1).push(point)
        else segments.push([point])
      })
    })
  })
  return [...lines.values()].sort((a, b) => b.rank - a.rank || a.image - b.image)
}

// --- Scales -----------------------------------------------------------------

/** A function from values to pixels. */
function linear(low, high, from, to) {
  return (value) => from + ((value - low) / (high - low)) * (to - from)
}

/** Sigma to pixels, high sigma at the left; `at.low`, `at.high` and `at.log` tell the range and the kind. */
function sigmaScale({ calls, sigmas }, box) {
  const seen = [...calls.map((call) => call.sigma), ...sigmas].filter((sigma) => sigma > 0)
  const high = Math.max(...seen)
  const least = Math.min(...seen)
  const decades = high > 1 && sigmas.at(-1) === 0 // where no flow model begins; the last calls will lie far below
  const log = high > 10 * least || decades
  const low = log ? Math.min(least, high / 10) : Math.min(...sigmas, least, high / 2)
  const inset = 6
  const scale = log
    ? linear(Math.log(high), Math.log(low), box.left + inset, box.right - inset)
    : linear(high, low, box.left + inset, box.right - inset)
  const at = (sigma) => scale(log ? Math.log(sigma) : sigma)
  return Object.assign(at, { low, high, log })
}

/** Range and ticks of the vertical axis: from 0 or below, with room above the threshold. */
function tickRows(points, height) {
  const values = points.map((point) => point.value)
  const lowest = values.reduce((a, b) => Math.min(a, b), 0)
  const highest = values.reduce((a, b) => Math.max(a, b), 1.25)
  const margin = 0.04 * (highest - lowest)
  const low = lowest < -margin ? lowest - margin : 0
  const high = highest + margin
  return { low, high, ticks: roundValues(low, high, Math.max(2, height / 32)) }
}

/** At most about `count` round values in a range. */
function roundValues(low, high, count) {
  const rough = (high - low) / count
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough)
  const first = Math.ceil(low / step - 1e-9)
  const last = Math.floor(high / step + 1e-9)
  return Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(12)))
}

/** Values of a logarithmic range with these leading digits, in every `every`-th decade. */
function logValues({ low, high }, digits, every = 1) {
  const values = []
  for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade++) {
    if (decade % every) continue
    for (const digit of digits) values.push(Number(`${digit}e${decade}`))
  }
  return values.filter((value) => value >= low * 0.999 && value <= high * 1.001)
}

/** The most ticks whose labels fit beside each other. */
function sigmaTicks(x, width, measure) {
  const choices = x.log
    ? [[1, 2, 5], [1, 3], [1]].map((digits) => logValues(x, digits)).concat([2, 3].map((n) => logValues(x, [1], n)))
    : [10, 8, 6, 5, 4, 3, 2, 1].map((count) => roundValues(x.low, x.high, count))
  const fitting = choices.find((values) => fits(values, x, width, measure) && values.length > 1)
  return fitting ?? spaced(x.log ? choices[0] : choices.at(-1), x, width, measure)
}

function fits(values, x, width, measure) {
  return spaced(values, x, width, measure).length === values.length
}

/** Values, from high to low, less those whose label would touch the one before or the edge. */
function spaced(values, x, width, measure) {
  let free = 0
  return values.toSorted((a, b) => b - a).filter((value) => {
    const half = measure(number(value)) / 2
    if (x(value) - half < free || x(value) + half > width) return false
    free = x(value) + half + GAP
    return true
  })
}

/** A tick's label. */
export function number(value) {
  const size = Math.abs(value)
  return size && (size < 1e-3 || size >= 1e5) ? value.toExponential().replace("+", "") : `${value}`
}

// --- Parts ------------------------------------------------------------------

function window_(window, x, box) {
  const clamp = (sigma) => Math.min(Math.max(sigma, x.low), x.high)
  const [start, end] = window ?? [null, null]
  if ((start ?? Infinity) < x.low || (end ?? 0) > x.high) return ""
  const left = start === null || start >= x.high ? box.left : x(clamp(start))
  const right = end === null || end <= x.low ? box.right : x(clamp(end))
  return tag("rect", { class: "window", x: left, y: box.top, width: right - left, height: box.bottom - box.top })
}

function verticalAxis(ticks, y, box) {
  const labelled = ticks.filter((value) => Math.abs(y(value) - y(1)) > LINE - 1)
  return [
    ...ticks.map((value) => rule("grid", box.left, y(value), box.right, y(value))),
    ...labelled.map((value) => text(number(value), { x: box.left - 6, y: y(value), "text-anchor": "end" })),
    rule("axis", box.left, box.top, box.left, box.bottom),
  ].join("")
}

function horizontalAxis(x, box, width, measure) {
  const row = box.bottom + LINE
  const marks = x.log ? logValues(x, [1, 2, 3, 4, 5, 6, 7, 8, 9]) : []
  const ticks = sigmaTicks(x, width, measure)
  return [
    rule("axis", box.left, box.bottom, box.right, box.bottom),
    ...marks.map((sigma) => rule("axis", x(sigma), box.bottom, x(sigma), box.bottom + 2)),
    ...ticks.map((sigma) => rule("axis", x(sigma), box.bottom, x(sigma), box.bottom + 4)),
    ...ticks.map((sigma) => text(number(sigma), { x: x(sigma), y: row, "text-anchor": "middle" })),
    text("sigma", { class: "title", x: (box.left + box.right) / 2, y: row + LINE, "text-anchor": "middle" }),
  ].join("")
}

function threshold(y, box) {
  return (
    rule("threshold", box.left, y(1), box.right, y(1)) +
    text("1", { class: "threshold", x: box.left - 6, y: y(1), "text-anchor": "end" })
  )
}

function polylines({ image, rank, segments }, x, y) {
  return segments
    .filter((segment) => segment.length > 1)
    .map((segment) => {
      const points = segment.map((point) => `${round(x(point.sigma))},${round(y(point.value))}`).join(" ")
      return tag("polyline", { class: `${rank ? "further" : "largest"} ${look(image)}`, points })
    })
    .join("")
}

/** A point per call, smaller where they are crowded. */
function circles({ image, segments }, x, y, box) {
  const points = segments.flat()
  const room = (box.right - box.left) / points.length
  const radius = Math.min(3, Math.max(1.6, room / 3))
  return points
    .map((point) =>
      tag("circle", {
        class: `call ${point.acted ? "acted" : "idle"} ${look(image)}`,
        cx: x(point.sigma), cy: y(point.value), r: radius, "data-image": image, "data-call": point.call,
      }),
    )
    .join("")
}

/** The title of the vertical axis, and from the right as many of the keys as there is room for. */
function heading(window, width, measure) {
  const row = PAD + HALF_TEXT
  const title = "Rayleigh quotient"
  const keys = [
    ["pushed", (x) => tag("circle", { class: "key acted", cx: x + 4, cy: row, r: 3 })],
    ["not", (x) => tag("circle", { class: "key idle", cx: x + 4, cy: row, r: 3 })],
    ["active", (x) => tag("rect", { class: "key window", x, y: row - 4, width: 8, height: 8 })],
  ]
  let room = width - 2 * PAD - measure(title)
  const shown = []
  for (const [label, mark] of window ? keys : keys.slice(0, 2)) {
    const taken = 12 + measure(label) + 1.5 * GAP
    if (taken > room) break
    room -= taken
    shown.push([label, mark, taken])
  }
  let x = width - PAD + 1.5 * GAP - shown.reduce((sum, [, , taken]) => sum + taken, 0)
  const drawn = shown.map(([label, mark, taken]) => {
    const here = x
    x += taken
    return mark(here) + text(label, { x: here + 12, y: row })
  })
  return text(title, { class: "title", x: PAD, y: row }) + drawn.join("")
}

/** A row of image numbers with their lines: the first ones and "+N". */
function legend(lines, row, width, measure) {
  const images = [...new Set(lines.map((line) => line.image))].sort((a, b) => a - b)
  const word = images.length > 1 ? "images" : "image"
  const right = width - PAD
  const parts = [text(word, { x: PAD, y: row })]
  let x = PAD + measure(word) + GAP
  for (const [index, image] of images.entries()) {
    const label = `${image + 1}`
    const end = x + 20 + measure(label)
    const rest = images.length - index - 1
    if (end + (rest ? GAP + measure(`+${images.length}`) : 0) > right) {
      parts.push(text(`+${rest + 1}`, { x, y: row }))
      return parts.join("")
    }
    parts.push(rule(`largest ${look(image)}`, x, row, x + 16, row), text(label, { x: x + 20, y: row }))
    x = end + 1.25 * GAP
  }
  const further = "thin: further directions"
  if (lines.some((line) => line.rank) && x + GAP + measure(further) <= right) {
    parts.push(text(further, { x: right, y: row, "text-anchor": "end" }))
  }
  return parts.join("")
}

/** Classes of an image's line; beyond the seven colours they come again, dashed and then dotted. */
function look(image) {
  return `colour-${image % COLOURS}${DASHES[Math.floor(image / COLOURS) % DASHES.length]}`
}

function rule(kind, x1, y1, x2, y2) {
  return tag("line", { class: kind, x1, y1, x2, y2 })
}

function text(words, attributes) {
  const escaped = words.replace(/[&<>]/g, (sign) => `&#${sign.charCodeAt(0)};`)
  return tag("text", { "dominant-baseline": "central", ...attributes }).replace("/>", `>${escaped}</text>`)
}

function tag(name, attributes) {
  const written = Object.entries(attributes).map(
    ([key, value]) => `${key}="${typeof value === "number" ? round(value) : value}"`,
  )
  return `<${name} ${written.join(" ")}/>`
}

function round(value) {
  return Math.round(value * 100) / 100
}
