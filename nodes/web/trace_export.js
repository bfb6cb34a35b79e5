/** A trace as a file: CSV with a row for each model call, image and direction, or JSON with all that the page knows. */

const COLUMNS = [
  "call", "sigma", "active", "reason", "image", "direction", "quotient", "standard_error", "push", "acted", "evaluations",
]

/** CSV (RFC 4180) of a trace; calls, images and directions count from 1, what is not known is empty. */
export function csv(trace) {
  const rows = trace.calls.flatMap((call, index) => {
    const head = [index + 1, call.sigma, call.active, call.reason]
    const images = call.rayleigh.flatMap((values, image) =>
      values.map((value, direction) => [
        ...head, image + 1, direction + 1, value, call.error?.[image]?.[direction], call.push[image], call.acted[image],
        call.evaluations?.[image],
      ]),
    )
    return images.length ? images : [[...head, ...Array(COLUMNS.length - head.length)]]
  })
  return [COLUMNS, ...rows].map((row) => row.map(cell).join(",") + "\r\n").join("")
}

function cell(value) {
  const text = `${value ?? ""}`
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

/** Lets the browser save a trace as "csv" or "json". */
export function save(trace, kind) {
  const { first, ...whole } = trace // which messages say where their calls belong
  const [text, type] = kind === "csv" ? [csv(trace), "text/csv"] : [JSON.stringify(whole, null, 2) + "\n", "application/json"]
  const link = document.createElement("a")
  link.href = URL.createObjectURL(new Blob([text], { type }))
  link.download = `curvature-trace.${kind}`
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
}
