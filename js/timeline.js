// Where moments are on a line of time, and how the waveform and the marks become shapes. No browser is needed for any of it.

/** Share of the line, 0 to 1, at which a moment is. */
export function placeOf(seconds, length) {
  if (!(length > 0)) return 0
  return Math.min(1, Math.max(0, seconds / length))
}

/** The moment, in seconds, at a share of the line. */
export function momentAt(share, length) {
  return Math.min(1, Math.max(0, share)) * Math.max(0, length)
}

/** Seconds as people read them. */
export function said(seconds) {
  const minutes = Math.floor(seconds / 60)
  const rest = (seconds - 60 * minutes).toFixed(2)
  return minutes ? `${minutes}:${rest.padStart(5, '0')}` : rest
}

/**
 * The outline of a waveform, for an SVG path.
 * @param {[number, number][]} peaks lowest and highest value of each column
 * @param {number} loudest what full scale is in them
 * @param {number} share of the width that the sound fills: it may be shorter than the clip
 */
export function outline(peaks, loudest, share, width, height) {
  if (!peaks?.length) return ''
  const across = (index) => ((index / peaks.length) * share * width).toFixed(2)
  const down = (value) => (height / 2 - (value / loudest) * (height / 2 - 1)).toFixed(2)
  const top = peaks.map(([, high], i) => `${across(i + 0.5)},${down(high)}`)
  const bottom = peaks.map(([low], i) => `${across(i + 0.5)},${down(low)}`).reverse()
  return `M${[...top, ...bottom].join('L')}Z`
}

/**
 * Every event of a clip, in the order of time.
 * @returns {{time: number, kind: 'seen'|'heard', partner: number|null}[]}
 */
export function eventsOf(clip) {
  const partners = { seen: new Map(), heard: new Map() }
  for (const [seen, heard] of clip.pairs ?? []) {
    partners.seen.set(seen, clip.heard[heard])
    partners.heard.set(heard, clip.seen[seen])
  }
  const of = (kind) => (clip[kind] ?? []).map((time, i) => ({ time, kind, partner: partners[kind].get(i) ?? null }))
  return [...of('seen'), ...of('heard')].sort((a, b) => a.time - b.time)
}

/** What an event is, for those who hear it read out. */
export function eventInWords({ time, kind, partner }) {
  const other = kind === 'seen' ? 'heard' : 'seen'
  const rest = partner === null ? `not ${other}` : `${other} at ${said(partner)} s`
  return `${kind} at ${said(time)} s, ${rest}`
}

/** Whether what happens in a clip was looked for. */
export function isMeasured(clip) {
  return Number.isFinite(clip?.score)
}

/** What was found, in a line. */
export function foundInWords(clip) {
  if (!isMeasured(clip)) return ''
  const counts = `${clip.seen.length} seen, ${clip.heard.length} heard, ${clip.pairs.length} together`
  const score = `score ${clip.score.toFixed(2)}`
  if (!clip.clear) return `${counts} · ${score}`
  const late = Math.round(clip.offset_ms)
  const offset = late ? `sound ${Math.abs(late)} ms ${late > 0 ? 'late' : 'early'}` : 'sound on time'
  return `${counts} · ${score} · ${offset}`
}

/** The next event after a moment, or the last before it; null where there is none. */
export function neighbour(events, seconds, forward) {
  const apart = 0.02
  const times = events.map((event) => event.time)
  const found = forward ? times.find((t) => t > seconds + apart) : times.findLast((t) => t < seconds - apart)
  return found ?? null
}

/** Whether the data are a clip this player can show; an older or newer server may send something else. */
export function isClip(clip) {
  const lists = isMeasured(clip) ? ['peaks', 'seen', 'heard', 'pairs'] : ['peaks']
  const numbers = isMeasured(clip) ? ['seconds', 'fps', 'offset_ms'] : ['seconds', 'fps']
  const whole = lists.every((key) => Array.isArray(clip?.[key])) && numbers.every((key) => Number.isFinite(clip[key]))
  return whole && typeof clip.filename === 'string'
}
