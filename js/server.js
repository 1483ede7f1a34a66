// What the pack's own routes answer; null where the server does not know them, as one with an older pack would not.

export class Server {
  #api
  #checkpoints = new Map()

  constructor(api) {
    this.#api = api
  }

  /** The grid of a checkpoint; null where it is not known. */
  checkpoint(name) {
    if (!this.#checkpoints.has(name)) {
      const answer = this.#ask(`/harmony/checkpoint?name=${encodeURIComponent(name)}`).then((about) => {
        const usable = about?.grid?.frame_stride > 0
        // A file that is not there yet may come.
        if (!usable) this.#checkpoints.delete(name)
        return usable ? about : null
      })
      this.#checkpoints.set(name, answer)
    }
    return this.#checkpoints.get(name)
  }

  /** How a checkpoint reads a transcript, or an error to show; null where nobody can say. */
  transcript(checkpoint, transcript, language) {
    const body = JSON.stringify({ checkpoint, transcript, language })
    return this.#ask('/harmony/transcript', { method: 'POST', body, headers: { 'Content-Type': 'application/json' } })
  }

  /** The address of a file the server wrote. */
  fileUrl({ filename, subfolder, type }) {
    return this.#api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)
  }

  async #ask(path, options) {
    try {
      const answer = await this.#api.fetchApi(path, options)
      return answer.ok ? await answer.json() : null
    } catch {
      return null
    }
  }
}
