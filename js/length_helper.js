// On Empty Harmony Latent: what its numbers come to, and numbers that fit.

import { after, el, makeRoom, place } from './dom.js'
import { checkpointOf, isConnected, valueOf, weightDtypeOf, widgetOf } from './graph.js'
import { USUAL_GRID, clipNear, fits, memoryInWords, reason, roundedSeconds, snapped, snappedSize } from './length.js'

const WATCHED = ['seconds', 'width', 'height', 'fps', 'batch']
const HEIGHT = 126
const PAUSE = 200 // milliseconds after the last change
const BUILT_IN = 'harmony-tiny (built in)'

/**
 * @param {object} node an Empty Harmony Latent
 * @param {object} server {@link ./server.js}
 * @param {{helpers: boolean, snap: boolean}} settings as they are now
 */
export function addLengthHelper(node, server, settings) {
  const counts = el('p', { class: 'harmony-counts', role: 'status' })
  const memory = el('p', { class: 'harmony-memory', hidden: '' })
  const why = el('p', { class: 'harmony-why' })
  const fit = el('button', { type: 'button', hidden: '' })
  const element = el('div', { class: 'harmony-helper', role: 'group', 'aria-label': 'Length of the clip' }, counts, memory, fit, why)
  const widget = place(node, 'harmony_length', element, () => HEIGHT)
  let grid = USUAL_GRID
  let known = null
  let busy = false
  let last = valueOf(node, 'seconds')
  let timer = 0
  let asked = 0

  function sizeIsGiven() {
    return isConnected(node, 'images') || isConnected(node, 'width') || isConnected(node, 'height')
  }

  function lengthIsGiven() {
    return ['images', 'audio', 'seconds', 'fps'].find((name) => isConnected(node, name))
  }

  const numbers = () => ({ ...Object.fromEntries(WATCHED.map((name) => [name, Number(valueOf(node, name))])), grid })

  function set(name, value) {
    const target = widgetOf(node, name)
    if (!target || target.value === value) return
    busy = true
    try {
      target.value = value
      node.setDirtyCanvas?.(true, true)
    } finally {
      busy = false
    }
  }

  function draw() {
    const now = numbers()
    const clip = clipNear(now)
    const given = lengthIsGiven()
    const side = grid.pixel_stride * grid.patch
    fit.hidden = true
    widget.harmony = { ...clip, seconds: clip.seconds, grid, memory: null }
    if (given) {
      const from = given === 'images' ? 'images, if they are several' : given
      counts.textContent = `The length comes from ${from} when the graph runs.`
    } else {
      const batch = now.batch > 1 ? `${now.batch} clips of ` : ''
      const tokens = sizeIsGiven() ? '' : ` (${clip.videoTokens} tokens)`
      counts.textContent =
        `${batch}${clip.pictures} pictures · ${clip.latents} video latents${tokens} · ` +
        `${clip.audioTokens} audio tokens · ${clip.seconds.toFixed(4)} s`
    }
    const reasons = [reason(grid)]
    const wrong = given || sizeIsGiven() ? [] : ['width', 'height'].filter((name) => now[name] % side)
    const long = !given && !fits(now.seconds, clip)
    if (long) reasons.unshift(`No clip lasts ${now.seconds} s at ${now.fps} pictures a second.`)
    if (wrong.length) reasons.push(`${wrong.join(' and ')}: multiples of ${side} fit.`)
    if (!known) reasons.push('Which checkpoint is connected is not known here, so the usual grid is shown.')
    why.textContent = reasons.join(' ')
    element.classList.toggle('is-wrong', long || wrong.length > 0)
    if (long || wrong.length) {
      fit.hidden = false
      fit.textContent = `Make it fit: ${clip.seconds.toFixed(4)} s, ${snappedSize(now.width, side)} × ${snappedSize(now.height, side)}`
    }
  }

  /** Of the clip there will be: of the nearest that fits, where what is entered does not. */
  async function drawMemory() {
    const number = ++asked
    const now = numbers()
    const side = grid.pixel_stride * grid.patch
    const checkpoint = checkpointOf(node)
    const question = {
      name: checkpoint ?? BUILT_IN,
      weight_dtype: (checkpoint && weightDtypeOf(node)) ?? 'default',
      pictures: clipNear(now).pictures,
      width: snappedSize(now.width, side),
      height: snappedSize(now.height, side),
      fps: now.fps,
      batch: now.batch,
    }
    const found = widget.hidden || lengthIsGiven() || sizeIsGiven() ? null : await server.memory(question)
    if (number !== asked) return // an answer to an older question
    memory.hidden = !found
    memory.textContent = found ? memoryInWords(found, checkpoint ? '' : 'harmony-tiny') : ''
    widget.harmony = { ...widget.harmony, memory: found }
  }

  function drawSoon() {
    draw()
    clearTimeout(timer)
    timer = setTimeout(drawMemory, PAUSE)
  }

  fit.addEventListener('click', () => {
    const now = numbers()
    const side = grid.pixel_stride * grid.patch
    if (!lengthIsGiven()) set('seconds', roundedSeconds(clipNear(now).seconds))
    if (!sizeIsGiven()) for (const name of ['width', 'height']) set(name, snappedSize(now[name], side))
    last = valueOf(node, 'seconds')
    drawSoon()
  })

  function changed(name) {
    if (busy || widget.hidden) return
    const now = numbers()
    const side = grid.pixel_stride * grid.patch
    if (settings.snap && known) {
      if ((name === 'seconds' || name === 'fps') && !lengthIsGiven()) {
        const smallest = name === 'seconds' ? 1e-4 : 0
        set('seconds', snapped(now.seconds, Number(last), { fps: now.fps, grid, smallest }))
      }
      if (name === 'width' || name === 'height') set(name, snappedSize(now[name], side))
    }
    if (name === 'fps') setStep()
    last = valueOf(node, 'seconds')
    drawSoon()
  }

  /** Arrows of the widget go from length to length. */
  function setStep() {
    const options = widgetOf(node, 'seconds')?.options
    if (!options || !settings.snap || !known) return
    const step = grid.frame_stride / Number(valueOf(node, 'fps') || 24)
    Object.assign(options, { step: 10 * step, step2: step })
  }

  async function refresh() {
    const name = checkpointOf(node)
    known = name ? await server.checkpoint(name) : null
    grid = known?.grid ?? USUAL_GRID
    setStep()
    last = valueOf(node, 'seconds')
    drawSoon()
  }

  for (const name of WATCHED) {
    const target = widgetOf(node, name)
    if (target) after(target, 'callback', () => changed(name))
  }
  after(node, 'onConnectionsChange', () => queueMicrotask(refresh))
  after(node, 'onConfigure', () => queueMicrotask(refresh))
  draw()
  queueMicrotask(() => { refresh(); makeRoom(node) })
  return { widget, refresh }
}
