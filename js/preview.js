// Both streams of a clip while it is sampled: pictures that move, and the sound's spectrum under them.

import { el } from './dom.js'

const EDGE = 128 // pixels of the picture's height
const STRIP = 40
const CHROME = 48

export class Preview {
  #moving = 0
  #image = new Image()
  #data = null

  constructor() {
    this.canvas = el('canvas', { role: 'img', 'aria-label': 'Likeness of the pictures so far' })
    this.strip = el('img', { class: 'harmony-strip', alt: '' })
    this.said = el('p', { class: 'harmony-counts' })
    this.element = el('div', { class: 'harmony-preview', role: 'group', 'aria-label': 'The clip while it is made' })
    this.element.append(this.canvas, this.strip, this.said)
    this.#image.addEventListener('load', () => this.#start())
  }

  /** Pixels the whole takes. */
  get height() {
    return CHROME + STRIP + (this.#data?.count ? EDGE : 0)
  }

  /** A step, as the server sent it. */
  show(data) {
    this.#data = data
    this.strip.src = data.spectrum
    this.strip.alt = data.known ? 'Spectrum of the sound so far: time across, tones upwards' : 'Latents of the sound so far'
    this.said.textContent = `Step ${data.step} of ${data.steps} · a likeness, not the clip yet`
    this.canvas.hidden = !data.count
    if (data.count) this.#image.src = data.pictures
  }

  remove() {
    cancelAnimationFrame(this.#moving)
  }

  #start() {
    cancelAnimationFrame(this.#moving)
    const { canvas } = this
    const width = this.#image.naturalWidth / this.#data.count
    if (canvas.width !== width || canvas.height !== this.#image.naturalHeight) {
      canvas.width = width
      canvas.height = this.#image.naturalHeight
    }
    const still = matchMedia('(prefers-reduced-motion: reduce)').matches
    const draw = () => {
      const { count, seconds } = this.#data
      const share = still ? 0.5 : (performance.now() / 1000 / Math.max(seconds, 0.2)) % 1
      const at = Math.min(count - 1, Math.floor(share * count))
      canvas.getContext('2d').drawImage(this.#image, at * width, 0, width, canvas.height, 0, 0, width, canvas.height)
      if (!still && canvas.isConnected) this.#moving = requestAnimationFrame(draw)
    }
    draw()
  }
}
