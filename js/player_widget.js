// The player on a node that made or measured a clip. It is not there until there is something to play.

import { after, makeRoom, place } from './dom.js'
import { Player } from './player.js'
import { isClip } from './timeline.js'

const WIDTH = 380

/**
 * @param {object} node whose output holds `harmony_clips`
 * @param {{app: object, urlOf: (file: object) => string, loop: () => boolean}} page
 */
export function addPlayer(node, { app, urlOf, loop }) {
  let player = null

  function show(output) {
    const clips = output?.harmony_clips?.filter(isClip)
    if (!clips?.length) return
    if (!player) {
      player = new Player({ urlOf, loop: loop() })
      player.onResize = () => makeRoom(node)
      place(node, 'harmony_player', player.element, (width) => player.heightAt(width))
      if (node.size[0] < WIDTH) node.setSize([WIDTH, node.size[1]])
    }
    player.show(clips)
    makeRoom(node)
  }

  function outputs() {
    const all = app.nodeOutputs ?? {}
    return all[node.id] ?? all[`${node.graph?.id}:${node.id}`]
  }

  after(node, 'onExecuted', show)
  return {
    setLoop: (on) => player?.setLoop(on),
    /** Show again what was shown before the graph was left for another. */
    restore: () => show(outputs()),
    remove: () => player?.remove(),
  }
}
