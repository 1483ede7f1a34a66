// A clip with its sound, the waveform under it, and what is seen and heard to happen, on one line of time.

import { el, svg } from './dom.js'
import { eventInWords, eventsOf, foundInWords, isMeasured, momentAt, neighbour, outline, placeOf, said } from './timeline.js'

const LOUDEST = 127
const WIDTH = 1000
const WAVE = 60
const JOIN = 12
const CHROME = 112 // pixels of everything but the picture
const EVENTS = 84 // pixels more where events are shown
const NARROW = 330 // pixels of a node's width up to which the buttons take two lines
const ROW = 28
const SMALLEST = 96 // pixels of the picture's height
const LARGEST = 360

// Of a square of 16; text would look otherwise in every font.
const SIGNS = {
  play: 'M4 2v12l10-6z',
  pause: 'M3 2h4v12H3zM9 2h4v12H9z',
  back: 'M2 2h2v12H2zM14 2v12L5 8z',
  next: 'M12 2h2v12h-2zM2 2v12l9-6z',
  loop: 'M8 2V0l4 3-4 3V4a4 4 0 1 0 4 4h2a6 6 0 1 1-6-6z',
  mute: 'M1 5h3l4-4v14l-4-4H1zM10 5l1-1 2 3 2-3 1 1-2 3 2 3-1 1-2-3-2 3-1-1 2-3z',
}

const sign = (name) => svg('svg', { viewBox: '0 0 16 16', 'aria-hidden': 'true' }, svg('path', { d: SIGNS[name] }))

export class Player {
  #clips = []
  #number = 0
  #events = []
  #moving = 0
  #urlOf
  #scrubbing = false

  /**
   * @param {object} options
   * @param {(file: object) => string} options.urlOf address of a file the server wrote
   * @param {boolean} options.loop whether clips start again at their end
   */
  constructor({ urlOf, loop }) {
    this.#urlOf = urlOf
    this.#build(loop)
    this.#listen()
  }

  /** Show what a node sent. */
  show(clips) {
    this.#clips = clips
    this.#number = Math.min(this.#number, clips.length - 1)
    this.choice.replaceChildren(...clips.map((_, i) => el('option', { value: i }, `Clip ${i + 1}`)))
    this.choice.hidden = clips.length < 2
    this.#showClip()
  }

  /** The clip on screen. */
  get clip() {
    return this.#clips[this.#number]
  }

  /** Pixels the whole takes at a width, so that a node can make room. */
  heightAt(width) {
    const { videoWidth, videoHeight } = this.video
    const ratio = videoWidth ? videoHeight / videoWidth : 9 / 16
    return CHROME + (isMeasured(this.clip) ? EVENTS : 0) + (width < NARROW ? ROW : 0) + Math.min(LARGEST, Math.max(SMALLEST, (width - 20) * ratio))
  }

  setLoop(on) {
    this.video.loop = on
    this.loop.setAttribute('aria-pressed', on)
  }

  remove() {
    cancelAnimationFrame(this.#moving)
    this.video.pause()
    this.video.removeAttribute('src')
    this.video.load()
  }

  #build(loop) {
    const button = (label, shape, act) => {
      const made = el('button', { type: 'button', title: label, 'aria-label': label }, sign(shape))
      made.addEventListener('click', act)
      return made
    }
    this.video = el('video', { playsinline: '', preload: 'auto', 'aria-label': 'The clip' })
    this.message = el('p', { class: 'harmony-message', role: 'alert', hidden: '' })
    this.play = button('Play (space)', 'play', () => this.#toggle())
    this.back = button('Event before (P)', 'back', () => this.#toEvent(false))
    this.next = button('Next event (N)', 'next', () => this.#toEvent(true))
    this.loop = button('Loop (L)', 'loop', () => this.setLoop(!this.video.loop))
    this.mute = button('Mute (M)', 'mute', () => { this.video.muted = !this.video.muted })
    this.mute.setAttribute('aria-pressed', 'false')
    this.choice = el('select', { 'aria-label': 'Which clip', hidden: '' })
    this.time = el('span', { class: 'harmony-time' })
    this.wave = svg('path', { class: 'harmony-wave' })
    this.joins = svg('g', { class: 'harmony-joins' })
    this.seen = el('div', { class: 'harmony-row harmony-seen' })
    this.heard = el('div', { class: 'harmony-row harmony-heard' })
    this.cursor = el('div', { class: 'harmony-cursor' })
    const picture = (height, ...children) =>
      svg('svg', { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: 'none', height }, ...children)
    const drawn = el('div', { class: 'harmony-drawn', 'aria-hidden': 'true' })
    this.joined = picture(JOIN, this.joins)
    drawn.append(picture(WAVE, this.wave), this.seen, this.joined, this.heard, this.cursor)
    this.line = el('div', { class: 'harmony-line', role: 'slider', tabindex: 0, 'aria-label': 'Position in the clip', 'aria-valuemin': 0 }, drawn)
    this.found = el('p', { class: 'harmony-found' })
    this.words = el('ul', { class: 'harmony-unseen', 'aria-label': 'Events' })
    this.legend = el('p', { class: 'harmony-legend', 'aria-hidden': 'true' })
    this.legend.append(
      el('span', { class: 'is-matched' }, 'seen (above) and heard (below)'),
      el('span', { class: 'is-alone' }, 'only one of them'),
    )
    const controls = el('div', { class: 'harmony-controls' })
    controls.append(this.play, this.back, this.next, this.loop, this.mute, this.choice, this.time)
    this.element = el('div', { class: 'harmony-player', role: 'group' })
    this.element.append(this.video, this.message, controls, this.line, this.legend, this.found, this.words)
    this.setLoop(loop)
  }

  #listen() {
    const { video, line } = this
    video.addEventListener('play', () => { this.#drawPlaying(); this.#follow() })
    video.addEventListener('pause', () => this.#drawPlaying())
    video.addEventListener('volumechange', () => this.mute.setAttribute('aria-pressed', video.muted))
    video.addEventListener('click', () => this.#toggle())
    for (const kind of ['timeupdate', 'seeked', 'loadedmetadata']) video.addEventListener(kind, () => this.#draw())
    video.addEventListener('loadedmetadata', () => this.onResize?.())
    video.addEventListener('error', () => {
      if (video.hasAttribute('src')) this.#tell('The preview is no longer on the server; run the node again to see it.')
    })
    this.choice.addEventListener('change', () => { this.#number = Number(this.choice.value); this.#showClip() })
    this.element.addEventListener('keydown', (event) => this.#onKey(event))
    // The graph under the node is neither dragged nor zoomed by what is done in the player.
    for (const kind of ['pointerdown', 'pointermove', 'pointerup', 'dblclick', 'contextmenu']) {
      this.element.addEventListener(kind, (event) => event.stopPropagation())
    }
    line.addEventListener('pointerdown', (event) => {
      if (event.button) return
      this.#scrubbing = true
      line.setPointerCapture(event.pointerId)
      this.#scrub(event)
    })
    line.addEventListener('pointermove', (event) => this.#scrubbing && this.#scrub(event))
    for (const kind of ['pointerup', 'pointercancel', 'lostpointercapture']) {
      line.addEventListener(kind, () => { this.#scrubbing = false })
    }
  }

  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return
    if (event.target === this.choice) return event.stopPropagation()
    const picture = 1 / (this.clip?.fps || 24)
    const second = event.shiftKey ? 1 : picture
    const acts = {
      ' ': () => this.#toggle(),
      k: () => this.#toggle(),
      ArrowRight: () => this.#seek(this.video.currentTime + second),
      ArrowLeft: () => this.#seek(this.video.currentTime - second),
      PageUp: () => this.#seek(this.video.currentTime + 1),
      PageDown: () => this.#seek(this.video.currentTime - 1),
      Home: () => this.#seek(0),
      End: () => this.#seek(this.length),
      n: () => this.#toEvent(true),
      p: () => this.#toEvent(false),
      l: () => this.setLoop(!this.video.loop),
      m: () => { this.video.muted = !this.video.muted },
    }
    const onButton = event.target.closest?.('button')
    if (onButton && (event.key === ' ' || event.key === 'Enter')) return event.stopPropagation()
    const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key]
    if (!act) return
    event.preventDefault()
    event.stopPropagation()
    act()
  }

  /** Seconds on the whole line. */
  get length() {
    return this.clip?.seconds ?? 0
  }

  #seek(seconds) {
    const end = Number.isFinite(this.video.duration) ? this.video.duration : this.length
    this.video.currentTime = Math.min(end, Math.max(0, seconds))
    this.#draw()
  }

  #scrub(event) {
    const box = this.line.getBoundingClientRect()
    this.#seek(momentAt((event.clientX - box.left) / box.width, this.length))
  }

  #toEvent(forward) {
    const time = neighbour(this.#events, this.video.currentTime, forward)
    if (time === null) return
    this.#seek(time)
  }

  #toggle() {
    if (!this.video.paused) return this.video.pause()
    this.video.play().catch((error) => {
      if (error.name !== 'AbortError') this.#tell('The browser does not play this clip; run the node again, or try another browser.')
    })
  }

  #tell(text) {
    this.message.textContent = text
    this.message.hidden = !text
  }

  #showClip() {
    const { clip } = this
    this.#tell('')
    this.choice.value = this.#number
    this.video.src = this.#urlOf(clip)
    this.#events = eventsOf(clip)
    this.wave.setAttribute('d', outline(clip.peaks, LOUDEST, placeOf(clip.heard_seconds ?? clip.seconds, clip.seconds), WIDTH, WAVE))
    for (const kind of ['seen', 'heard']) {
      const marks = this.#events.filter((event) => event.kind === kind)
      this[kind].replaceChildren(...marks.map((event) => this.#mark(event)))
    }
    const measured = isMeasured(clip)
    this.element.setAttribute('aria-label', measured ? 'Clip with its events' : 'Clip')
    for (const part of [this.back, this.next, this.seen, this.joined, this.heard, this.legend, this.found]) {
      part.toggleAttribute('hidden', !measured)
    }
    const across = (time) => placeOf(time, clip.seconds) * WIDTH
    const lines = (clip.pairs ?? []).map(([i, j]) => svg('line', { x1: across(clip.seen[i]), x2: across(clip.heard[j]), y1: 0, y2: JOIN }))
    this.joins.replaceChildren(...lines)
    this.found.textContent = foundInWords(clip)
    this.words.replaceChildren(...this.#events.map((event) => el('li', {}, eventInWords(event))))
    this.line.setAttribute('aria-valuemax', clip.seconds.toFixed(2))
    this.#draw()
    this.#drawPlaying()
  }

  #mark(event) {
    const kind = event.partner === null ? 'is-alone' : 'is-matched'
    const mark = el('i', { class: `harmony-mark ${kind}`, title: eventInWords(event) })
    mark.style.left = `${100 * placeOf(event.time, this.length)}%`
    return mark
  }

  #draw() {
    const at = this.video.currentTime
    this.cursor.style.left = `${100 * placeOf(at, this.length)}%`
    this.time.textContent = `${said(at)} / ${said(this.length)} s`
    this.line.setAttribute('aria-valuenow', at.toFixed(2))
    this.line.setAttribute('aria-valuetext', `${said(at)} of ${said(this.length)} seconds`)
  }

  #drawPlaying() {
    const label = this.video.paused ? 'Play (space)' : 'Pause (space)'
    this.play.title = label
    this.play.setAttribute('aria-label', label)
    this.play.firstChild.firstChild.setAttribute('d', SIGNS[this.video.paused ? 'play' : 'pause'])
  }

  // timeupdate comes four times a second; the cursor moves with every picture of the screen.
  #follow() {
    cancelAnimationFrame(this.#moving)
    if (this.video.paused || !this.element.isConnected) return
    this.#draw()
    this.#moving = requestAnimationFrame(() => this.#follow())
  }
}
