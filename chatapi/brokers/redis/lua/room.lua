-- One room in Redis: its log, its numbers, its roster. Everything that changes a room is done here, atomically.
--
-- meta    format (of all this: 1), epoch, name, seq, ts (of the newest), first, first_ts, first_at (of the oldest kept),
--         at (bytes so far), kept_at (when the keys of the room were last kept from expiring),
--         pv (grows, as ts does, where the roster changes), n:NODE (members of a node), b:NODE (its last turn, and the answer)
-- log     a stream: an entry is a batch under the number of its last message; m: the batch, at: bytes before it
-- mended  batches some text of which was deleted, by that number: a stream's entries cannot be changed
-- who     the roster: key of the name -> "NODE SESSION NAME"
-- sent:S  what a session has said: id -> "SEQ TS"; an empty id stands for the session itself
-- A SESSION is the hash of a key that lets its holder come back.
--
-- A batch, as it is published and kept, begins with one line:
-- epoch seq ts pv (all before it) first_ts (of its first message) seq pv (after it) first node turn dropped

-- A number without an exponent; '%d' is the quicker one, where it has 64 bits.
local FORMAT = string.format('%d', 2^40) == '1099511627776' and '%d' or '%.0f'

local function integer(number) return string.format(FORMAT, number) end

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function read(meta, node)
  local v = redis.call('HMGET', meta, 'epoch', 'name', 'seq', 'ts', 'first', 'first_ts', 'first_at', 'at', 'pv',
    'format', 'kept_at', 'b:' .. (node or ''))
  if not v[1] then return nil end
  if v[10] ~= '1' then error('this room is of another version of the server') end
  return {
    epoch = v[1], name = v[2], seq = tonumber(v[3]), ts = tonumber(v[4]), first = tonumber(v[5]),
    first_ts = tonumber(v[6]), first_at = tonumber(v[7]), at = tonumber(v[8]), pv = tonumber(v[9]),
    kept_at = tonumber(v[11]) or 0, last_turn = v[12],
  }
end

local function head(room, first_ts, seq, pv, node, turn, dropped)
  return table.concat({room.epoch, integer(room.seq), integer(room.ts), integer(room.pv), integer(first_ts),
    integer(seq), integer(pv), integer(room.first), node, turn, dropped}, ' ') .. '\n'
end

-- Batches with numbers from `low` to `high`, those that were mended among them, as {number, batch}.
local function batches(K, low, high, count, newest_first)
  local found = {}
  local range = newest_first and redis.call('XREVRANGE', K.log, high, low, 'COUNT', count)
    or redis.call('XRANGE', K.log, low, high, 'COUNT', count)
  for _, entry in ipairs(range) do
    found[#found + 1] = {tonumber(string.match(entry[1], '^%d+')), entry[2][2]}
  end
  if redis.call('HLEN', K.mended) == 0 then return found end
  local from, to = tonumber(low) or 0, tonumber(high) or math.huge
  if #found == count then
    if newest_first then from = found[count][1] else to = found[count][1] end
  end
  local mended = redis.call('HGETALL', K.mended)
  for i = 1, #mended, 2 do
    local number = tonumber(mended[i])
    if number >= from and number <= to then found[#found + 1] = {number, mended[i + 1]} end
  end
  table.sort(found, function(a, b) if newest_first then return a[1] > b[1] end return a[1] < b[1] end)
  return found
end

local function member(value)
  local node, session, name = string.match(value, '^(%S+) (%S+) (.*)$')
  return {node = node, session = session, name = name}
end

local function value(node, session, name) return node .. ' ' .. session .. ' ' .. name end

local function remember(key, seconds, ...)
  redis.call('HSET', key, ...)
  redis.call('EXPIRE', key, seconds)
end

-- Forget the oldest ids of a session, where they are many more than are to be remembered.
local function few(session, most)
  if redis.call('HLEN', session) <= 2 * most + 1 then return end
  local ids, all = {}, redis.call('HGETALL', session)
  for i = 1, #all, 2 do
    if all[i] ~= '' then ids[#ids + 1] = {tonumber(string.match(all[i + 1], '^%d+')), all[i]} end
  end
  table.sort(ids, function(a, b) return a[1] < b[1] end)
  for i = 1, #ids - most do redis.call('HDEL', session, ids[i][2]) end
end

-- A room that nobody has said anything in is forgotten an hour after the last one has left it.
local UNUSED = 3600

local function keep_unused(K, room)
  if room.seq == 0 and redis.call('EXISTS', K.who) == 0 then redis.call('EXPIRE', K.meta, UNUSED) end
end

-- Forget the oldest batches, where they are too many, too much or too old.
local function trim(K, room, keep)
  for _ = 1, 16 do
    local old = keep.age > 0 and room.first_ts > 0 and room.first_ts < room.ts - keep.age
    local many = keep.messages > 0 and room.seq - room.first + 1 > keep.messages
    local much = keep.bytes > 0 and room.at - room.first_at > keep.bytes
    if not (old or many or much) then return end
    local oldest = redis.call('XRANGE', K.log, '-', '+', 'COUNT', 2)
    if #oldest < 2 then return end
    redis.call('XDEL', K.log, oldest[1][1])
    room.first = tonumber(string.match(oldest[1][1], '^%d+')) + 1
    room.first_at = tonumber(oldest[2][2][4])
    room.first_ts = tonumber(string.match(oldest[2][2][2], '^%S+ %S+ %S+ %S+ (%S+)'))
    for _, number in ipairs(redis.call('HKEYS', K.mended)) do
      if tonumber(number) < room.first then redis.call('HDEL', K.mended, number) end
    end
  end
end

local function save(K, room, ...)
  redis.call('HSET', K.meta, 'seq', integer(room.seq), 'ts', integer(room.ts), 'pv', integer(room.pv),
    'first', integer(room.first), 'first_ts', integer(room.first_ts), 'first_at', integer(room.first_at),
    'at', integer(room.at), 'kept_at', integer(room.kept_at), ...)
end

local function count(K, node, by)
  if redis.call('HINCRBY', K.meta, 'n:' .. node, by) <= 0 then redis.call('HDEL', K.meta, 'n:' .. node) end
end

-- Who comes, goes or is called something else. Returns why not, or nothing.

local function claim(K, key, session_key, value_, limit, seconds)
  local new, held = member(value_), redis.call('HGET', K.who, key)
  if held then
    local old = member(held)
    if old.session == '-' or old.session ~= new.session then return 'taken' end
    count(K, old.node, -1)
  elseif redis.call('HLEN', K.who) >= limit then
    return 'full'
  end
  redis.call('HSET', K.who, key, value_)
  count(K, new.node, 1)
  if session_key then remember(session_key, seconds, '', '0 0') end
end

local function release(K, key, session_key, node, seconds)
  local held = redis.call('HGET', K.who, key)
  if not held or member(held).node ~= node then return 'gone' end
  redis.call('HDEL', K.who, key)
  count(K, node, -1)
  if session_key then remember(session_key, seconds, '', '0 0') end
end

local function rename(K, key, new_key, value_)
  local held = redis.call('HGET', K.who, key)
  local new = member(value_)
  if not held or member(held).node ~= new.node then return 'gone' end
  if key ~= new_key and redis.call('HEXISTS', K.who, new_key) == 1 then return 'taken' end
  redis.call('HDEL', K.who, key)
  redis.call('HSET', K.who, new_key, value_)
end

-- A node's turn: what was said and done there, in order. What cannot be is dropped, and the answer says why.
-- A: publish, epoch, node, turn, members here, members at most, messages, bytes, seconds, age to keep, seconds and ids
-- to remember, until when it is to be done (0 for ever), then the steps: m COUNT SESSION IDS id… PIECE,
-- d NUMBER OLD NEW PIECE, j KEY SESSION VALUE PIECE, l KEY SESSION PIECE, r KEY NEW_KEY VALUE PIECE; SESSION is the
-- place of a key, or 0
local function turn(K, A)
  local publish, epoch, node, number = A[1], A[2], A[3], A[4]
  local room = read(K.meta, node)
  if not room or room.epoch ~= epoch then return {'epoch'} end
  if room.last_turn then
    local last, seq, pv, results = string.match(room.last_turn, '^(%d+) (%d+) (%d+) %d+ (.*)$')
    if last == number then return {'again', seq, pv, results} end
    if tonumber(number) < tonumber(last) then return {'late'} end  -- of a connection that was given up
  end
  local time, until_ = now(), tonumber(A[13])
  if until_ > 0 and time > until_ then return {'late'} end  -- likewise: whoever asked was told that it is not done
  if A[5] == '1' and redis.call('HEXISTS', K.meta, 'n:' .. node) == 0 then return {'fenced'} end
  local limit, seconds = tonumber(A[6]), tonumber(A[11])
  local keep = {messages = tonumber(A[7]), bytes = tonumber(A[8]), seconds = tonumber(A[9]), age = tonumber(A[10])}
  local first_ts = math.max(time, room.ts + 1)
  local seq, pv, at = room.seq, room.pv, 14
  local all, kept, dropped, results, said, mended = {}, {}, {}, {}, {}, {}
  local index, line = 0, nil
  while A[at] do
    local kind, why, piece = A[at], nil, nil
    if kind == 'm' then
      local messages, session, ids = tonumber(A[at + 1]), K[tonumber(A[at + 2])], tonumber(A[at + 3])
      piece = A[at + 4 + ids]
      local known = messages == 1 and ids == 1 and
        ((said[session] and said[session][A[at + 4]]) or redis.call('HGET', session, A[at + 4]))
      if known then
        why = 'known ' .. known
      else
        for i = 1, ids do
          said[session] = said[session] or {}
          local id = A[at + 3 + i]
          if id ~= '' then
            said[session][id] = integer(seq + i) .. ' ' .. integer(first_ts + seq + i - room.seq - 1)
          end
        end
        seq = seq + messages
        kept[#kept + 1] = piece
      end
      at = at + 5 + ids
    elseif kind == 'd' then
      local found = batches(K, A[at + 1], A[at + 1], 1)[1]
      piece = A[at + 4]
      if found and found[2] ~= A[at + 2] then
        why = 'changed'
      else
        if found then mended[#mended + 1] = {A[at + 1], A[at + 3]} end
        seq = seq + 1
        kept[#kept + 1] = piece
      end
      at = at + 5
    elseif kind == 'j' then
      why, piece = claim(K, A[at + 1], K[tonumber(A[at + 2])], A[at + 3], limit, seconds), A[at + 4]
      at = at + 5
    elseif kind == 'l' then
      why, piece = release(K, A[at + 1], K[tonumber(A[at + 2])], node, seconds), A[at + 3]
      at = at + 4
    else
      why, piece = rename(K, A[at + 1], A[at + 2], A[at + 3]), A[at + 4]
      at = at + 5
    end
    if why then
      dropped[#dropped + 1] = index
      results[#results + 1] = index .. ' ' .. why
    else
      all[#all + 1] = piece
      if kind == 'j' or kind == 'l' or kind == 'r' then pv = pv + 1 end
    end
    index = index + 1
  end
  if pv ~= room.pv then pv = math.max(pv, time) end  -- like ts: never the same twice, though Redis may lose some
  results = table.concat(results, ',')
  if #all > 0 then
    line = head(room, first_ts, seq, pv, node, number, #dropped > 0 and table.concat(dropped, ',') or '-')
    local body = table.concat(all)
    local messages = seq - room.seq
    if messages > 0 then
      local batch = line .. (#kept == #all and body or table.concat(kept))
      redis.call('XADD', K.log, integer(seq) .. '-0', 'm', batch, 'at', integer(room.at))
      for _, one in ipairs(mended) do
        redis.call('HSET', K.mended, one[1], one[2])
        redis.call('XDEL', K.log, one[1] .. '-0')
      end
      for session, ids in pairs(said) do
        for id, place in pairs(ids) do redis.call('HSET', session, id, place) end
        redis.call('EXPIRE', session, seconds)
        few(session, tonumber(A[12]))
      end
      room.at = room.at + #batch
      if room.first_ts == 0 then room.first_ts = first_ts end
      room.ts = first_ts + messages - 1
    end
    local is_new = room.seq == 0 or pv ~= room.pv or #mended > 0  -- a key may be
    room.seq, room.pv = seq, pv
    if messages > 0 then trim(K, room, keep) end
    if is_new or (keep.seconds > 0 and time - room.kept_at > keep.seconds * 100000) then  -- a tenth of it
      room.kept_at = time
      if keep.seconds > 0 then
        for _, key in ipairs({K.meta, K.log, K.mended, K.who}) do redis.call('EXPIRE', key, keep.seconds) end
      else
        redis.call('PERSIST', K.meta)
      end
      keep_unused(K, room)
    end
  end
  save(K, room, 'b:' .. node,
    table.concat({number, integer(room.seq), integer(room.pv), integer(time), results}, ' '))
  if #all > 0 then redis.call(publish, K.channel, line .. table.concat(all)) end
  return {'ok', integer(room.seq), integer(room.pv), results}
end

-- Forget the last turns of nodes that have not had one for an hour, and have nobody here.
local function forget(K, node)
  local old, fields = now() - 3600 * 1000000, redis.call('HGETALL', K.meta)
  for i = 1, #fields, 2 do
    local other = string.match(fields[i], '^b:(.*)$')
    local time = other and other ~= node and tonumber(string.match(fields[i + 1], '^%d+ %d+ %d+ (%d+) '))
    if time and time < old and redis.call('HEXISTS', K.meta, 'n:' .. other) == 0 then
      redis.call('HDEL', K.meta, fields[i])
    end
  end
end

-- The newest batches that have messages before a number, the oldest of them first: about so many messages and bytes.
local function newest(K, before, most, most_bytes)
  local found, messages, size = {}, 0, 0
  local first = batches(K, integer(before - 1), '+', 1, false)[1]
  local high = first and integer(first[1]) or '+'
  repeat
    local some = batches(K, '-', high, 16, true)
    for _, batch in ipairs(some) do
      local seq = tonumber(string.match(batch[2], '^%S+ (%d+)'))
      messages, size = messages + math.min(batch[1], before - 1) - seq, size + #batch[2]
      found[#found + 1] = batch[2]
      high = integer(seq)
      if messages >= most or size >= most_bytes then break end
    end
  until #some == 0 or high == '0' or messages >= most or size >= most_bytes
  local oldest_first = {}
  for i = #found, 1, -1 do oldest_first[#oldest_first + 1] = found[i] end
  return oldest_first
end

-- Tell of changes of the roster that no member's node tells of.
local function tell(K, publish, room, pieces, node)
  if #pieces == 0 then return end
  local pv = math.max(room.pv + #pieces, now())
  local line = head(room, 0, room.seq, pv, node, '0', '-')
  room.pv = pv
  redis.call('HSET', K.meta, 'pv', integer(pv))
  redis.call(publish, K.channel, line .. table.concat(pieces))
end

local function left(key, name) return 'l\t0\t' .. key .. '\tconnection_lost\t' .. name .. '\n' end

-- A node opens a room, or looks where it stands: A: publish, node, epoch for a new room, name, epoch, seq and ts that
-- and pv that are known (none where it is opened, or left for good: then there is no epoch either), messages and bytes
-- wanted, then its members: KEY VALUE PIECE.
-- Claims the names of members again, and gives back those that nobody has there. Where the roster is what is known
-- already, it is not told.
local function sync(K, A)
  local publish, node, known = A[1], A[2], A[5]
  local room = read(K.meta)
  if not room then
    if known ~= '' or A[3] == '' then return {'unknown_epoch'} end
    redis.call('DEL', K.log, K.mended)
    redis.call('HSET', K.meta, 'format', '1', 'epoch', A[3], 'name', A[4])
    room = {epoch = A[3], name = A[4], seq = 0, ts = 0, first = 1, first_ts = 0, first_at = 0, at = 0, pv = 0,
      kept_at = 0}
    save(K, room)
  end
  local found, more = {}, '0'
  if known == '' then
    found = newest(K, room.seq + 1, tonumber(A[9]), tonumber(A[10]))
  else
    local seq, ts = tonumber(A[6]), tonumber(A[7])
    if known ~= room.epoch then return {'unknown_epoch'} end
    if seq > room.seq or (seq == room.seq and ts ~= room.ts) then return {'diverged'} end
    if seq < room.first - 1 then return {'trimmed'} end
    if seq < room.seq then
      local size = 0
      local missed = batches(K, integer(seq + 1), '+', 64, false)
      for i, batch in ipairs(missed) do
        if size >= tonumber(A[10]) then more = '1' break end
        found[i] = batch[2]
        size = size + #batch[2]
      end
      if #missed > 0 and #found == #missed and missed[#missed][1] < room.seq then more = '1' end
      local last_seq, last_ts = string.match(found[1] or '', '^%S+ (%d+) (%d+)')
      if tonumber(last_seq) ~= seq or tonumber(last_ts) ~= ts then return {'diverged'} end
    end
  end
  local pieces, ours, lost = {}, {}, {}
  for i = 11, #A, 3 do
    local key, value_, held = A[i], A[i + 1], redis.call('HGET', K.who, A[i])
    ours[key] = true
    if not held then
      redis.call('HSET', K.who, key, value_)
      count(K, node, 1)
      pieces[#pieces + 1] = A[i + 2]
    elseif member(held).node ~= node then
      local new, old = member(value_), member(held)
      lost[#lost + 1] = key
      lost[#lost + 1] = old.session ~= '-' and old.session == new.session and 'replaced' or 'name_lost'
    elseif held ~= value_ then
      redis.call('HSET', K.who, key, value_)
      local new, old = member(value_).name, member(held).name
      if new ~= old then  -- it had another spelling for a moment, which its node has never heard of
        pieces[#pieces + 1] = table.concat({'r', '0', key, key, old, new}, '\t') .. '\n'
      end
    end
  end
  local number = (#A - 10) / 3
  if known ~= '' and tonumber(A[8]) == room.pv and #pieces == 0 and #lost == 0
    and tonumber(redis.call('HGET', K.meta, 'n:' .. node) or 0) == number then
    return {'ok', room.epoch, room.name, integer(room.seq), integer(room.ts), integer(room.first), integer(room.pv),
      more, 'same', lost, found}
  end
  local who = redis.call('HGETALL', K.who)
  local here = 0
  for i = 1, #who, 2 do
    local old = member(who[i + 1])
    if old.node == node then
      if ours[who[i]] then
        here = here + 1
      else
        redis.call('HDEL', K.who, who[i])
        pieces[#pieces + 1] = left(who[i], old.name)
      end
    end
  end
  if here > 0 then redis.call('HSET', K.meta, 'n:' .. node, here) else redis.call('HDEL', K.meta, 'n:' .. node) end
  tell(K, publish, room, pieces, node)
  forget(K, node)
  keep_unused(K, room)
  return {'ok', room.epoch, room.name, integer(room.seq), integer(room.ts), integer(room.first), integer(room.pv), more,
    redis.call('HGETALL', K.who), lost, found}
end

-- Nodes are gone, and their members with them: A: publish, node that says so, seconds to remember, nodes.
local function reap(K, A)
  local room = read(K.meta)
  if not room then return {'ok'} end
  local gone, pieces = {}, {}
  for i = 4, #A do
    gone[A[i]] = true
    redis.call('HDEL', K.meta, 'n:' .. A[i])  -- not b: it may be back, and say again what it does not know to be done
  end
  local who = redis.call('HGETALL', K.who)
  for i = 1, #who, 2 do
    local old = member(who[i + 1])
    if gone[old.node] then
      redis.call('HDEL', K.who, who[i])
      pieces[#pieces + 1] = left(who[i], old.name)
      if old.session ~= '-' then remember(K.sent .. old.session, A[3], '', '0 0') end
    end
  end
  tell(K, A[1], room, pieces, A[2])
  keep_unused(K, room)
  return {'ok'}
end

-- The newest batches that have messages before a number: A: before, messages, bytes.
local function page(K, A)
  if not read(K.meta) then return {'ok', {}} end
  return {'ok', newest(K, tonumber(A[1]), tonumber(A[2]), tonumber(A[3]))}
end

-- What a session has said here.
local function sent(K, A)
  return {'ok', redis.call('HGETALL', K.sent .. A[1])}
end

local commands = {turn = turn, sync = sync, reap = reap, page = page, sent = sent}

-- ARGV: a command, then for each room: how many keys and arguments it has, and those arguments.
-- KEYS of a room: meta, log, mended, who, channel, the beginning of its sessions' keys, and such keys.
local answers, key, at = {}, 0, 2
while at <= #ARGV do
  local keys, arguments = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local K = {meta = KEYS[key + 1], log = KEYS[key + 2], mended = KEYS[key + 3], who = KEYS[key + 4],
    channel = KEYS[key + 5], sent = KEYS[key + 6]}
  for i = 7, keys do K[i] = KEYS[key + i] end
  local A = {}
  for i = 1, arguments do A[i] = ARGV[at + 1 + i] end
  local ok, answer = pcall(commands[ARGV[1]], K, A)
  if not ok then
    answer = {'error', type(answer) == 'table' and answer.err or tostring(answer)}
  end
  answers[#answers + 1] = answer
  key, at = key + keys, at + 2 + arguments
end
return answers
