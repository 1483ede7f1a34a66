// Previews of running samplers, each on the node that samples, whichever it is.

import { after, makeRoom, place } from './dom.js'
import { Preview } from './preview.js'

const EVENT = 'harmony.preview'

/** The node of a run: its number, or the numbers of the subgraphs it is in and its own, with colons between. */
export function nodeOf(graph, id) {
  let node = null
  for (const part of String(id).split(':')) {
    node = graph?.getNodeById(Number.isNaN(Number(part)) ? part : Number(part)) ?? null
    graph = node?.subgraph
  }
  return node
}

/** Whether the data are a step this page can show. */
export function isStep(data) {
  return [data?.step, data?.steps, data?.count, data?.seconds].every(Number.isFinite) && typeof data.spectrum === 'string'
}

/**
 * Show what the server sends from now on.
 * @param {{app: object, api: EventTarget, wanted: () => boolean}} page
 */
export function showPreviews({ app, api, wanted }) {
  const shown = new WeakMap()

  api.addEventListener(EVENT, ({ detail }) => {
    if (!wanted() || !isStep(detail)) return
    const node = nodeOf(app.rootGraph ?? app.graph, detail.node)
    if (!node) return
    let preview = shown.get(node)
    if (!preview) {
      preview = new Preview()
      shown.set(node, preview)
      place(node, 'harmony_preview', preview.element, () => preview.height)
      after(node, 'onRemoved', () => preview.remove())
    }
    preview.show(detail)
    makeRoom(node)
  })
}
