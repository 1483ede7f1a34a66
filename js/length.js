// How long a clip can be: the arithmetic of harmony_core/geometry.py, and the nearest length that fits. No browser is needed.

/** What checkpoints have unless they say otherwise. */
export const USUAL_GRID = {
  frame_stride: 4,
  pixel_stride: 16,
  patch: 2,
  sample_rate: 16000,
  hop: 512,
}

const TOLERANCE = 0.5e-3 // seconds by which a length may differ from its clip's

/** Rounds as Python does: halves go to the even neighbour. */
export function roundEven(value) {
  const below = Math.floor(value)
  const rest = value - below
  if (rest !== 0.5) return Math.round(value)
  return below % 2 === 0 ? below : below + 1
}

/** The clip nearest to a length. Sizes are taken as they are. */
export function clipNear({ seconds, width, height, fps, grid = USUAL_GRID }) {
  const steps = Math.max(0, roundEven((seconds * fps - 1) / grid.frame_stride))
  const pictures = 1 + steps * grid.frame_stride
  const samples = roundEven((pictures * grid.sample_rate) / fps)
  const side = grid.pixel_stride * grid.patch
  const latents = 1 + steps
  return {
    pictures,
    latents,
    seconds: pictures / fps,
    audioTokens: Math.ceil(samples / grid.hop),
    videoTokens: latents * Math.floor(height / side) * Math.floor(width / side),
  }
}

/** Whether a clip lasts that long, as the node will say. */
export function fits(seconds, clip) {
  return Math.abs(clip.seconds - seconds) <= TOLERANCE
}

/**
 * The length to have instead of one that was entered. A step of an arrow goes to the next length in its direction, and
 * anything else to the nearest.
 */
export function snapped(entered, before, { fps, grid = USUAL_GRID, smallest = 0 }) {
  const near = (seconds) => clipNear({ seconds, width: 0, height: 0, fps, grid })
  const step = grid.frame_stride / fps
  let clip = near(entered)
  const moved = entered - before
  const isArrow = smallest > 0 && moved !== 0 && Math.abs(moved) <= 1.5 * smallest && fits(before, near(before))
  if (isArrow) clip = near(Math.max(1 / fps, near(before).seconds + Math.sign(moved) * step))
  return roundedSeconds(clip.seconds)
}

/** A size to have instead of one that was entered. */
export function snappedSize(entered, multiple) {
  return Math.max(multiple, Math.round(entered / multiple) * multiple)
}

/** As the widget keeps it. */
export function roundedSeconds(seconds) {
  return Math.round(seconds * 1e4) / 1e4
}

const UNITS = [[1e9, 'GB'], [1e6, 'MB'], [1e3, 'kB']]

/** Bytes as people read them, to two figures. */
export function sizeInWords(bytes) {
  const [unit, name] = UNITS.find(([one]) => bytes >= 0.995 * one) ?? UNITS.at(-1)
  return `${Number((bytes / unit).toPrecision(2))} ${name}`
}

/** About how much memory a model takes at a size. */
export function memoryInWords({ weights, step }, name = '') {
  const whose = name ? ` with ${name}` : ''
  return `About ${sizeInWords(weights + step)} of memory${whose}: ${sizeInWords(weights)} of weights, ${sizeInWords(step)} a step.`
}

/** Why lengths are what they are. */
export function reason({ frame_stride: stride }) {
  return `Pictures come as 1 + ${stride}k: the first latent holds one picture, every later one ${stride}.`
}
