// What Harmony adds to ComfyUI's page. This file alone knows the page's own modules.

import { app } from '../../scripts/app.js'
import { api } from '../../scripts/api.js'
import { addStyle, after, makeRoom } from './dom.js'
import { addLengthHelper } from './length_helper.js'
import { addPlayer } from './player_widget.js'
import { showPreviews } from './preview_widget.js'
import { addTranscriptHelper } from './transcript_helper.js'
import { Server } from './server.js'

const HELP = new URL('./help.html', import.meta.url).href
const HELPERS = 'Harmony.Helpers'
const SNAP = 'Harmony.SnapLength'
const LOOP = 'Harmony.LoopPlayer'
const PREVIEW = 'Harmony.Preview'

const server = new Server(api)
const helpers = new Set()
const players = new Set()
const settings = { helpers: true, snap: true, loop: true, preview: true }

function showHelpers(on) {
  settings.helpers = on
  for (const { node, helper } of helpers) {
    helper.widget.hidden = !on
    helper.widget.element.hidden = !on
    helper.refresh()
    makeRoom(node)
  }
}

function addHelper(node, helper) {
  const entry = { node, helper }
  helpers.add(entry)
  after(node, 'onRemoved', () => helpers.delete(entry))
  if (!settings.helpers) showHelpers(false)
}

function refreshHelpers() {
  for (const { helper } of helpers) helper.refresh()
}

const ON_NODE = {
  HarmonyEmptyLatent(node) {
    addHelper(node, addLengthHelper(node, server, settings))
    // What is said of a transcript depends on the clip's length.
    for (const name of ['seconds', 'fps']) {
      const widget = node.widgets?.find((one) => one.name === name)
      if (widget) after(widget, 'callback', refreshHelpers)
    }
  },
  HarmonyEncode(node) {
    addHelper(node, addTranscriptHelper(node, server))
  },
  HarmonyLoadCheckpoint(node) {
    const widget = node.widgets?.find((one) => one.name === 'checkpoint')
    if (widget) after(widget, 'callback', refreshHelpers)
  },
  HarmonySyncReport(node) {
    const player = addPlayer(node, { app, urlOf: (file) => server.fileUrl(file), loop: () => settings.loop })
    players.add(player)
    after(node, 'onRemoved', () => { players.delete(player); player.remove() })
  },
}

app.registerExtension({
  name: 'Harmony',
  settings: [
    {
      id: HELPERS,
      category: ['Harmony', 'Nodes', 'Helpers'],
      name: 'Show lengths and speaking time on nodes',
      tooltip: 'On Empty Harmony Latent and Harmony Encode.',
      type: 'boolean',
      defaultValue: true,
      onChange: (on) => showHelpers(Boolean(on)),
    },
    {
      id: SNAP,
      category: ['Harmony', 'Nodes', 'Snap'],
      name: 'Change lengths and sizes to ones that fit',
      tooltip: 'Where Empty Harmony Latent would refuse what is entered, the nearest that it takes is put there.',
      type: 'boolean',
      defaultValue: true,
      onChange: (on) => { settings.snap = Boolean(on); refreshHelpers() },
    },
    {
      id: LOOP,
      category: ['Harmony', 'Player', 'Loop'],
      name: 'Clips in Sync Report start again at their end',
      type: 'boolean',
      defaultValue: true,
      onChange: (on) => {
        settings.loop = Boolean(on)
        for (const player of players) player.setLoop(settings.loop)
      },
    },
    {
      id: PREVIEW,
      category: ['Harmony', 'Nodes', 'Preview'],
      name: 'Show picture and sound on the sampler while it samples',
      type: 'boolean',
      defaultValue: true,
      onChange: (on) => { settings.preview = Boolean(on) },
    },
  ],
  commands: [
    { id: 'Harmony.Help', label: 'Harmony: nodes and help', icon: 'pi pi-book', function: () => window.open(HELP, '_blank', 'noopener') },
  ],
  menuCommands: [{ path: ['Help'], commands: ['Harmony.Help'] }],
  aboutPageBadges: [{ label: 'Harmony: help', url: HELP, icon: 'pi pi-book' }],
  setup() {
    addStyle()
    showPreviews({ app, api, wanted: () => settings.preview })
  },
  nodeCreated(node) {
    try {
      ON_NODE[node.comfyClass]?.(node)
    } catch (error) {
      console.warn('Harmony:', error)
    }
  },
  afterConfigureGraph() {
    refreshHelpers()
    for (const player of players) player.restore()
  },
})
