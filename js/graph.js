// What a node can know of others in the graph, without running it.

const DEEPEST = 100
const LOADER = 'HarmonyLoadCheckpoint'
const EMPTY = 'HarmonyEmptyLatent'

export const widgetOf = (node, name) => node?.widgets?.find((widget) => widget.name === name)
export const valueOf = (node, name) => widgetOf(node, name)?.value

const slotOf = (node, name) => node.inputs?.findIndex((input) => input.name === name) ?? -1

/** Whether something is connected to an input, be it a socket or a widget. */
export function isConnected(node, name) {
  return node.inputs?.[slotOf(node, name)]?.link != null
}

function before(node, name) {
  const slot = slotOf(node, name)
  return slot < 0 ? null : node.getInputNode?.(slot) ?? null
}

function loaderOf(node) {
  let at = node
  for (let depth = 0; at && depth < DEEPEST; depth++) {
    if (at.comfyClass === LOADER) return at
    at = before(at, 'model') ?? (at.inputs?.length === 1 ? at.getInputNode?.(0) : null)
  }
  return null
}

const told = (node, name) => (!node || isConnected(node, name) ? null : valueOf(node, name) ?? null)

/** The checkpoint whose model reaches a node; null where the graph does not tell. */
export function checkpointOf(node) {
  return told(loaderOf(node), 'checkpoint')
}

/** How the weights of the model that reaches a node are stored; null where the graph does not tell. */
export function weightDtypeOf(node) {
  return told(loaderOf(node), 'weight_dtype')
}

function* around(node) {
  for (const input of node.inputs ?? []) {
    const link = node.graph?.getLink?.(input.link) ?? node.graph?.links?.[input.link]
    const other = link && node.graph.getNodeById(link.origin_id)
    if (other) yield other
  }
}

function* following(node) {
  for (const output of node.outputs ?? []) {
    for (const id of output.links ?? []) {
      const link = node.graph?.getLink?.(id) ?? node.graph?.links?.[id]
      const other = link && node.graph.getNodeById(link.target_id)
      if (other) yield other
    }
  }
}

function search(start, step, wanted) {
  const seen = new Set(start)
  const queue = [...start]
  while (queue.length) {
    const node = queue.shift()
    if (wanted(node)) return node
    for (const other of step(node)) {
      if (!seen.has(other)) {
        seen.add(other)
        queue.push(other)
      }
    }
  }
  return null
}

/** The Empty Harmony Latent of the clip that a node's words are for: one that feeds what the node feeds. */
export function latentFor(node) {
  const fed = new Set()
  search([node], following, (one) => { fed.add(one); return false })
  fed.delete(node)
  return search([...fed], around, (one) => one.comfyClass === EMPTY)
}
