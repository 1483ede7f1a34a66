// What a node can know of others in the graph, without running it; through the borders of subgraphs too.

const DEEPEST = 100
const LOADER = 'HarmonyLoadCheckpoint'
const EMPTY = 'HarmonyEmptyLatent'

export const widgetOf = (node, name) => node?.widgets?.find((widget) => widget.name === name)
export const valueOf = (node, name) => widgetOf(node, name)?.value

const slotOf = (node, name) => node.inputs?.findIndex((input) => input.name === name) ?? -1
const linkOf = (graph, id) => (id == null ? null : graph?.getLink?.(id) ?? graph?.links?.[id] ?? null)

/** Whether something is connected to an input, be it a socket or a widget. */
export function isConnected(node, name) {
  return node.inputs?.[slotOf(node, name)]?.link != null
}

/** The nodes that stand for a subgraph, in whatever graph they are: one for each time it is used. */
function hostsOf(graph) {
  const root = graph?.rootGraph
  if (!root || root === graph) return []
  const graphs = [root, ...(root.subgraphs?.values() ?? [])]
  return graphs.flatMap((one) => one._nodes ?? []).filter((node) => node.subgraph === graph)
}

const comesFromOutside = (graph, link) => graph.inputNode != null && link.origin_id === graph.inputNode.id
const goesOutside = (graph, link) => graph.outputNode != null && link.target_id === graph.outputNode.id

/** The nodes whose outputs reach an input: several where a subgraph is used several times. */
function* sources(node, slot, depth = 0) {
  const link = linkOf(node.graph, node.inputs?.[slot]?.link)
  if (link) yield* origins(node.graph, link, depth)
}

function* origins(graph, link, depth) {
  if (depth > DEEPEST) return
  if (comesFromOutside(graph, link)) {
    for (const host of hostsOf(graph)) yield* sources(host, link.origin_slot, depth + 1)
    return
  }
  const node = graph.getNodeById(link.origin_id)
  const inner = node?.subgraph
  if (!inner) {
    if (node) yield node
    return
  }
  for (const one of inner.outputNode?.slots?.[link.origin_slot]?.getLinks() ?? []) yield* origins(inner, one, depth + 1)
}

/** The nodes that an output reaches. */
function* targets(graph, link, depth = 0) {
  if (depth > DEEPEST || !link) return
  if (goesOutside(graph, link)) {
    for (const host of hostsOf(graph)) {
      for (const id of host.outputs?.[link.target_slot]?.links ?? []) {
        yield* targets(host.graph, linkOf(host.graph, id), depth + 1)
      }
    }
    return
  }
  const node = graph.getNodeById(link.target_id)
  const inner = node?.subgraph
  if (!inner) {
    if (node) yield node
    return
  }
  for (const one of inner.inputNode?.slots?.[link.target_slot]?.getLinks() ?? []) yield* targets(inner, one, depth + 1)
}

/** What a widget holds, or where it is shown on the node of a subgraph, what is entered there; null where a node decides. */
function* valuesOf(node, name, depth = 0) {
  const link = linkOf(node.graph, node.inputs?.[slotOf(node, name)]?.link)
  if (!link) yield valueOf(node, name) ?? null
  else if (depth > DEEPEST || !comesFromOutside(node.graph, link)) yield null
  else for (const host of hostsOf(node.graph)) yield* valuesOf(host, host.inputs?.[link.origin_slot]?.name, depth + 1)
}

function loadersOf(start) {
  const seen = new Set()
  const queue = [start]
  while (queue.length) {
    const node = queue.shift()
    if (seen.has(node)) continue
    seen.add(node)
    if (node.comfyClass === LOADER) continue
    const slot = slotOf(node, 'model')
    queue.push(...sources(node, slot < 0 && node.inputs?.length === 1 ? 0 : slot))
  }
  return [...seen].filter((node) => node.comfyClass === LOADER)
}

/** What all loaders of a node's model say alike; null where they do not, or the graph does not tell. */
function told(node, name) {
  const values = new Set(loadersOf(node).flatMap((loader) => [...valuesOf(loader, name)]))
  return values.size === 1 ? [...values][0] : null
}

/** The checkpoint whose model reaches a node; null where the graph does not tell. */
export function checkpointOf(node) {
  return told(node, 'checkpoint')
}

/** How the weights of the model that reaches a node are stored; null where the graph does not tell. */
export function weightDtypeOf(node) {
  return told(node, 'weight_dtype')
}

function* around(node) {
  for (const slot of (node.inputs ?? []).keys()) yield* sources(node, slot)
}

function* following(node) {
  for (const output of node.outputs ?? []) {
    for (const id of output.links ?? []) yield* targets(node.graph, linkOf(node.graph, id))
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
