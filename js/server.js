// What the pack's own routes answer; null where the server does not know them, as one with an older pack would not.

const KEPT = 200 // answers

export class Server {
  #api
  #checkpoints = new Map()
  #memory = new Map()

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

  /** Bytes that a model and a step of it take at a size, `{weights, step}`; null where nobody can say. */
  memory(question) {
    const query = String(new URLSearchParams(question))
    if (!this.#memory.has(query)) {
      if (this.#memory.size >= KEPT) this.#memory.clear()
      const answer = this.#ask(`/harmony/memory?${query}`).then((found) => {
        const usable = found?.weights > 0 && found.step > 0
        if (!usable) this.#memory.delete(query)
        return usable ? found : null
      })
      this.#memory.set(query, answer)
    }
    return this.#memory.get(query)
  }

  /** Say whether this page wants to play what is decoded. */
  wantsPlayer(client, on) {
    const body = JSON.stringify({ client, on })
    return this.#ask('/harmony/player', { method: 'POST', body, headers: { 'Content-Type': 'application/json' } })
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
