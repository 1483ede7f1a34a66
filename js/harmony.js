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
const WATCH = 'Harmony.PlayDecoded'

const server = new Server(api)
const helpers = new Set()
const players = new Set()
const settings = { helpers: true, snap: true, loop: true, preview: true, watch: false }

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

function showPlayer(node) {
  const player = addPlayer(node, { app, urlOf: (file) => server.fileUrl(file), loop: () => settings.loop })
  players.add(player)
  after(node, 'onRemoved', () => { players.delete(player); player.remove() })
}

let told = '' // what the server knows of this page

function tellServer() {
  const now = `${api.clientId} ${settings.watch}`
  if (!api.clientId || now === told || (!told && !settings.watch)) return
  told = now
  server.wantsPlayer(api.clientId, settings.watch)
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
    for (const name of ['checkpoint', 'weight_dtype']) {
      const widget = node.widgets?.find((one) => one.name === name)
      if (widget) after(widget, 'callback', refreshHelpers)
    }
  },
  HarmonyDecode: showPlayer,
  HarmonySyncReport: showPlayer,
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
      name: 'Clips that are played start again at their end',
      type: 'boolean',
      defaultValue: true,
      onChange: (on) => {
        settings.loop = Boolean(on)
        for (const player of players) player.setLoop(settings.loop)
      },
    },
    {
      id: WATCH,
      category: ['Harmony', 'Player', 'Decode'],
      name: 'Play clips in Harmony Decode too',
      tooltip: 'From the next time it decodes, which then takes a moment longer.',
      type: 'boolean',
      defaultValue: false,
      onChange: (on) => { settings.watch = Boolean(on); tellServer() },
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
    // The page gets its name with the first status; a server that was started anew knows nothing of it.
    api.addEventListener('status', tellServer)
    api.addEventListener('reconnected', () => { told = ''; tellServer() })
    tellServer()
  },
  nodeCreated(node) {
    try {
      ON_NODE[node.comfyClass]?.(node)
      // What is connected to the node of a subgraph reaches the nodes in it, which are not told.
      if (node.subgraph) after(node, 'onConnectionsChange', () => queueMicrotask(refreshHelpers))
    } catch (error) {
      console.warn('Harmony:', error)
    }
  },
  afterConfigureGraph() {
    refreshHelpers()
    for (const player of players) player.restore()
  },
})
