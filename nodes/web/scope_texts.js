/** What the page says in its language: from the pack's locales/<language>/main.json, in English where that says nothing. */

import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"

export const ENGLISH = {
  hover: {
    point: "Image {image}, model call {call}",
    sigma: "sigma {value}",
    quotient: "quotient {value}",
    error: "standard error {value}",
    push: "push {value}",
    evaluations: "evaluations {value}, so far {total}",
  },
  menu: { csv: "Save trace as CSV", json: "Save trace as JSON" },
}

let texts = {}

/** Fetches the translations once. */
export async function loadTexts() {
  texts = (await api.getCustomNodesI18n?.()) ?? {}
}

/** A text of a group by its key, with its {figures} filled in; english: what to say where no translation is known. */
export function say(group, key, figures = {}, english = ENGLISH[group]?.[key]) {
  const language = app.extensionManager.setting.get("Comfy.Locale")
  const text = texts[language]?.saddleFreeGuidance?.[group]?.[key] ?? english
  return text.replace(/\{(\w+)\}/g, (_, name) => figures[name])
}
