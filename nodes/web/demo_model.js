/** Lets a newly placed Saddle-Free Demo Model start with emoji; a loaded one has what was saved, or digits. */

import { app } from "../../scripts/app.js"

const NODE = "SaddleFreeDemoModel"
const FIRST = "emoji"

app.registerExtension({
  name: "SaddleFreeGuidance.DemoModel",
  nodeCreated(node) {
    const model = node.comfyClass === NODE && node.widgets?.find((widget) => widget.name === "model")
    if (!model) return
    const saved = model.value // the schema's default, which a graph saved before the input existed means
    const configure = node.configure
    model.value = FIRST
    node.configure = function (...args) {
      model.value = saved
      delete node.configure
      return configure.apply(this, args)
    }
  },
})
