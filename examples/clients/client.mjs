#!/usr/bin/env node
// A client of the chat's JSON protocol in plain Node. It sends the lines of its standard input as messages, and prints
// each message of another member as NAME:TEXT: node client.mjs localhost:8989 Mina dev
import { randomUUID } from 'node:crypto'
import net from 'node:net'

let [address, name, room] = process.argv.slice(2)
if (!room) {
  console.error('usage: client.mjs HOST:PORT NAME ROOM')
  process.exit(2)
}
const [host, port] = address.split(/:(?=\d+$)/)
const TEMPORARY = ['draining', 'server_full', 'room_full', 'handshake_timeout', 'server_error', 'unavailable']
const [BACKOFF_CAP, MAX_IN_FLIGHT] = [15, 64] // seconds; messages

const pending = new Map() // messages without an answer, by id, in the order of typing
let position = null // the place in the room: `resume` of the next handshake
let limits = { frame_bytes: 65536, remember: 300, remember_ids: 1024 }
let socket, inRoom = false, finished = false // `finished`: do not connect again
let attempt = 0, after = 0 // the attempts to connect so far; the seconds that the server asks for
let typed = 0, inputEnded = false, holding = false // `holding`: the server cannot keep messages for now

// Call `take` with each line, and return a function that returns the rest. Only \n ends a line, while `readline` also
// splits at U+2028. `setEncoding` joins characters whose bytes arrive in two pieces.
function eachLine(stream, take) {
  let rest = ''
  stream.setEncoding('utf8').on('data', (data) => {
    const lines = (rest + data).split('\n')
    rest = lines.pop()
    lines.forEach(take)
  })
  return () => rest
}

function connect() {
  const since = Date.now()
  const mine = (socket = net.connect({ host: host || 'localhost', port, noDelay: true, keepAlive: true }))
  mine.write(JSON.stringify({ name, room, protocol: 'json', echo: false, resume: position ?? undefined }) + '\n')
  eachLine(mine, (line) => {
    try {
      if (!mine.destroyed) receive(JSON.parse(line))
    } catch (error) {
      console.error(`protocol error: ${error.message}`)
      mine.destroy() // connect again, and resume behind the last good frame
    }
  })
  mine.on('error', (error) => console.error(error.message))
  mine.on('close', () => {
    if (finished) process.exit()
    inRoom = holding = false
    if (Date.now() - since > BACKOFF_CAP * 1000) attempt = 0
    const bound = Math.min(BACKOFF_CAP, 0.1 * 2 ** attempt++)
    setTimeout(connect, (after + Math.random() * bound) * 1000)
    after = 0
  })
}

function receive(frame) {
  if (Object.hasOwn(receivers, frame.type)) receivers[frame.type](frame) // other types are ignored
  flush()
}

const receivers = {
  welcome(frame) {
    const sessionLost = position && position.session !== frame.session
    ;({ name, room } = frame) // the server's spelling
    limits = { ...limits, ...frame.limits }
    if (frame.recovered === false) console.error(`messages may be missing: ${frame.reason}`)
    if (!frame.recovered) position = { session: frame.session, epoch: frame.epoch, seq: frame.seq, ts: frame.ts }
    const forgotten = Date.now() / 1000 - limits.remember + Math.min(10, limits.remember / 2)
    for (const message of pending.values()) {
      message.inFlight = false
      if (message.since && (sessionLost || message.since < forgotten)) giveUp(message, 'it is unknown if it was kept')
    }
    inRoom = true
  },
  message(frame) {
    advance(frame)
    if (frame.text === '') return // it was deleted
    for (const line of frame.text.split('\n')) console.log(`${frame.name}:${line}`)
  },
  ack(frame) {
    if (frame.seq !== null && !frame.duplicate) advance(frame)
    pending.delete(frame.id)
  },
  deleted: advance,
  renamed: (frame) => { name = frame.name === name ? frame.to : name },
  notice: (frame) => { holding &&= frame.code !== 'available' },
  error(frame) {
    const message = pending.get(frame.id)
    if (!inRoom) disconnected(frame, 'after' in frame || (position && TEMPORARY.includes(frame.code)))
    else if (message && frame.code === 'unavailable') {
      message.inFlight = false
      holding = true
      setTimeout(() => flush((holding = false)), 1000)
    } else if (message) giveUp(message, `${frame.code}: ${frame.detail}`)
  },
  bye: (frame) => disconnected(frame, frame.reconnect),
}

function advance({ seq, ts }) {
  if (seq !== position.seq + 1) throw new Error(`number ${seq} came after ${position.seq}`)
  position = { ...position, seq, ts }
}

function disconnected(frame, again) {
  if (finished) return // it answers our own goodbye
  console.error(`${frame.code}: ${frame.detail}`)
  after = frame.after ?? 0
  if ((finished = !again)) process.exitCode = 1
}

function giveUp(message, why) {
  console.error(`${JSON.stringify(message.text)}: ${why}`)
  pending.delete(message.id)
  process.exitCode = 1
}

// Write what may be written: fewer new ids than the server remembers, counted from the oldest unanswered message.
function flush() {
  if (!inRoom || finished) return
  const [oldest] = pending.values()
  for (const message of pending.values()) {
    if (holding || message.number - oldest.number >= Math.min(MAX_IN_FLIGHT, limits.remember_ids / 2)) break
    if (message.inFlight) continue
    const frame = JSON.stringify({ type: 'message', id: message.id, text: message.text }) + '\n'
    if (Buffer.byteLength(frame) > limits.frame_bytes) giveUp(message, 'it is too long')
    else socket.write(frame)
    message.inFlight = true
    message.since ??= Date.now() / 1000
  }
  if (pending.size < MAX_IN_FLIGHT) process.stdin.resume()
  finished = inputEnded && pending.size === 0
  if (finished) socket.end('{"type":"bye"}\n')
}

function type(text) {
  const id = randomUUID()
  if (text !== '') pending.set(id, { id, text, number: typed++ })
  if (pending.size > MAX_IN_FLIGHT) process.stdin.pause()
  flush()
}

const rest = eachLine(process.stdin, type)
process.stdin.on('end', () => {
  inputEnded = true
  type(rest())
})
connect()
