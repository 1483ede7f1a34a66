// Elements in one line, and a place for them on a node that is never part of what is saved or queued.

const SVG = 'http://www.w3.org/2000/svg'

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  made.append(...children)
  return made
}

export const el = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children)
export const svg = (name, attributes = {}, ...children) => filled(document.createElementNS(SVG, name), attributes, children)

/** Load the pack's style sheet, once. */
export function addStyle() {
  const href = new URL('./harmony.css', import.meta.url).href
  if (document.querySelector(`link[href="${href}"]`)) return
  document.head.append(el('link', { rel: 'stylesheet', href }))
}

/**
 * Put an element on a node.
 * @param {(width: number) => number} heightAt pixels it takes at the node's width
 * @returns the widget; neither the workflow nor the prompt knows of it
 */
export function place(node, name, element, heightAt) {
  const height = () => (widget.hidden ? 0 : Math.ceil(heightAt(node.size[0])))
  const widget = node.addDOMWidget(name, name, element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: height,
    getMaxHeight: height,
    getValue: () => '',
    setValue: () => {},
  })
  // `options.serialize` keeps it out of the prompt, this one out of the saved workflow.
  widget.serialize = false
  return widget
}

/** Make a node as tall as what is on it, and no narrower than it was. */
export function makeRoom(node) {
  const [, least] = node.computeSize()
  if (node.size[1] < least) node.setSize([node.size[0], least])
  node.setDirtyCanvas?.(true, true)
}

/** Call `then` after a node's own callback of that name; both see the same arguments. */
export function after(target, name, then) {
  const before = target[name]
  target[name] = function (...given) {
    const result = before?.apply(this, given)
    try {
      then.apply(this, given)
    } catch (error) {
      // A helper that fails must never take the graph with it.
      console.warn('Harmony:', error)
    }
    return result
  }
}
