// On Harmony Encode: how the model reads the transcript, and whether there is time to say it.

import { after, el, makeRoom, place } from './dom.js'
import { checkpointOf, isConnected, latentFor, valueOf, widgetOf } from './graph.js'
import { USUAL_GRID, clipNear } from './length.js'

const HEIGHT = 86
const PAUSE = 250 // milliseconds after the last key

/**
 * What is said about a transcript.
 * @param {object} read what the server answered
 * @param {number|null} seconds the clip lasts; null where it is not known
 */
export function verdict(read, seconds) {
  if (read.error) return { text: read.error, wrong: true }
  if (!read.count) return { text: 'No speech.', wrong: false }
  const takes = `${read.count} of ${read.length} symbols, about ${read.seconds.toFixed(1)} s to say`
  if (seconds === null) return { text: `${takes}.`, wrong: false }
  const wrong = read.seconds > seconds
  return { text: `${takes}; the clip lasts ${seconds.toFixed(2)} s${wrong ? ', which is too short for it' : ''}.`, wrong }
}

/**
 * @param {object} node a Harmony Encode
 * @param {object} server {@link ./server.js}
 */
export function addTranscriptHelper(node, server) {
  const live = el('p', { class: 'harmony-counts', role: 'status' })
  const meter = el('meter', { min: 0, max: 1, value: 0, 'aria-label': 'Speaking time of the clip’s length', hidden: '' })
  const spelled = el('p', { class: 'harmony-spelled' })
  const element = el('div', { class: 'harmony-helper', role: 'group', 'aria-label': 'Transcript' }, live, meter, spelled)
  const widget = place(node, 'harmony_transcript', element, () => HEIGHT)
  let timer = 0
  let asked = 0
  let told = ''

  function clipSeconds() {
    const latent = latentFor(node)
    if (!latent || ['images', 'audio', 'seconds', 'fps'].some((name) => isConnected(latent, name))) return null
    const [seconds, fps] = ['seconds', 'fps'].map((name) => Number(valueOf(latent, name)))
    return clipNear({ seconds, fps, width: 0, height: 0, grid: USUAL_GRID }).seconds
  }

  function draw(read) {
    const seconds = clipSeconds()
    const { text, wrong } = verdict(read, seconds)
    live.textContent = text
    element.classList.toggle('is-wrong', wrong)
    meter.hidden = read.error !== undefined || !read.count || seconds === null
    if (!meter.hidden) {
      meter.max = seconds
      meter.high = 0.9 * seconds
      meter.value = read.seconds
      meter.textContent = text
    }
    spelled.textContent = read.symbols ? `Read as: ${read.symbols}` : ''
    widget.harmony = { ...read, clip: seconds }
  }

  /** What the node said when it ran, where nothing is known before. */
  function drawTold() {
    live.textContent = told ? `When it ran: ${told.split('\n').at(-1)}` : 'How the transcript is read shows when the graph has run.'
    spelled.textContent = told.includes('\n') ? `Read as: ${told.split('\n')[0]}` : ''
    meter.hidden = true
    element.classList.remove('is-wrong')
    widget.harmony = null
  }

  async function refresh() {
    if (widget.hidden) return
    const number = ++asked
    const checkpoint = checkpointOf(node)
    const here = checkpoint && !isConnected(node, 'transcript') && !isConnected(node, 'language')
    const read = here
      ? await server.transcript(checkpoint, String(valueOf(node, 'transcript') ?? ''), valueOf(node, 'language') ?? 'automatic')
      : null
    if (number !== asked) return // an answer to an older question
    if (read) draw(read)
    else drawTold()
  }

  function soon() {
    clearTimeout(timer)
    timer = setTimeout(refresh, PAUSE)
  }

  for (const name of ['transcript', 'language']) {
    const target = widgetOf(node, name)
    if (target) after(target, 'callback', soon)
  }
  after(node, 'onConnectionsChange', soon)
  after(node, 'onConfigure', soon)
  after(node, 'onExecuted', (output) => {
    const text = output?.text
    told = (Array.isArray(text) ? text.join('') : text) ?? ''
    refresh()
  })
  drawTold()
  queueMicrotask(() => { refresh(); makeRoom(node) })
  return { widget, refresh: soon }
}
