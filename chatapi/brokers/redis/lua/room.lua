-- One room in Redis: its log, its numbers and its roster. Only this script changes a room, and each call is atomic.
-- The script is room_log.lua, room_roster.lua and this file, one behind the other.
--
-- meta    a hash. format: of all these keys, 1. epoch, name. seq, ts: of the newest message. first, first_ts, first_at:
--         seq, ts and byte position of the oldest message that is kept. at: bytes written to the log so far.
--         kept_at: when the expiry of the keys was last set. pv: the roster version; it grows, as ts does, with each
--         change of the roster. n:NODE: number of members on a node. b:NODE: last turn of a node, and its answer
-- log     a stream. One entry for each batch; its ID is the seq of the last message. m: the batch. at: bytes before it
-- mended  a hash: the redacted batches (a text in them was deleted), by the same ID; stream entries cannot be changed
-- who     a hash, the roster: key of the name -> "NODE SESSION NAME"
-- sent:S  a hash: the ids that session S has used: id -> "SEQ TS". The empty id says that the session is known
-- A SESSION is the hash of a session key, or "-" for a member without a session.
--
-- A batch, as it is published and kept, is one header line and then pieces, one for each step. The header:
-- epoch seq ts pv (these three before the batch) first_ts (of its first message) seq pv (after the batch) first node
-- turn dropped (indexes of the steps that were refused, with commas, or "-")

-- Do a node's turn: its steps, in order. A step that cannot be done is dropped, and the answer says why.
-- The steps follow the 13 fixed arguments: m COUNT SESSION IDS id… PIECE, d ID OLD NEW PIECE,
-- j KEY SESSION VALUE PIECE, l KEY SESSION PIECE, r KEY NEW_KEY VALUE PIECE. SESSION is the index of a session's key in
-- K, or 0.
local function turn(K, A)
  local publish, epoch, node, number, has_members, member_limit, keep_messages, keep_bytes, keep_seconds, keep_age,
    remember_seconds, remember_ids, deadline = unpack(A, 1, 13)
  local room = read_room(K, node)
  if not room or room.epoch ~= epoch then return {'epoch'} end
  if room.last_turn then
    local last, seq, roster_version, results = string.match(room.last_turn, '^(%d+) (%d+) (%d+) %d+ (.*)$')
    if last == number then return {'again', seq, roster_version, results} end
    if tonumber(number) < tonumber(last) then return {'late'} end  -- from a connection that was given up
  end
  local time = now()
  deadline = tonumber(deadline)  -- 0: none
  if deadline > 0 and time > deadline then return {'late'} end  -- the senders were told that it was not done
  if has_members == '1' and redis.call('HEXISTS', K.meta, 'n:' .. node) == 0 then return {'fenced'} end
  local keep = {messages = tonumber(keep_messages), bytes = tonumber(keep_bytes), seconds = tonumber(keep_seconds),
    age = tonumber(keep_age)}
  member_limit = tonumber(member_limit)
  local first_ts = math.max(time, room.ts + 1)
  local seq, roster_version, at = room.seq, room.roster_version, 14
  local done, kept, dropped, results, said, redacted = {}, {}, {}, {}, {}, {}
  local index, line = 0, nil
  while A[at] do
    local kind, refusal, piece = A[at], nil, nil
    if kind == 'm' then
      local messages, session_key, ids = tonumber(A[at + 1]), K[tonumber(A[at + 2])], tonumber(A[at + 3])
      piece = A[at + 4 + ids]
      local place = messages == 1 and ids == 1 and
        ((said[session_key] and said[session_key][A[at + 4]]) or redis.call('HGET', session_key, A[at + 4]))
      if place then
        refusal = 'already_sent ' .. place
      else
        for i = 1, ids do
          said[session_key] = said[session_key] or {}
          local id = A[at + 3 + i]
          if id ~= '' then
            said[session_key][id] = integer(seq + i) .. ' ' .. integer(first_ts + seq + i - room.seq - 1)
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
        refusal = 'changed'
      else
        if found then redacted[#redacted + 1] = {A[at + 1], A[at + 3]} end
        seq = seq + 1
        kept[#kept + 1] = piece
      end
      at = at + 5
    elseif kind == 'j' then
      refusal = claim(K, A[at + 1], K[tonumber(A[at + 2])], A[at + 3], member_limit, remember_seconds)
      piece, at = A[at + 4], at + 5
    elseif kind == 'l' then
      refusal = release(K, A[at + 1], K[tonumber(A[at + 2])], node, remember_seconds)
      piece, at = A[at + 3], at + 4
    else
      refusal = rename(K, A[at + 1], A[at + 2], A[at + 3])
      piece, at = A[at + 4], at + 5
    end
    if refusal then
      dropped[#dropped + 1] = index
      results[#results + 1] = index .. ' ' .. refusal
    else
      done[#done + 1] = piece
      if kind == 'j' or kind == 'l' or kind == 'r' then roster_version = roster_version + 1 end
    end
    index = index + 1
  end
  -- Like ts, a roster version is never given twice, even if Redis loses its newest data.
  if roster_version ~= room.roster_version then roster_version = math.max(roster_version, time) end
  results = table.concat(results, ',')
  if #done > 0 then
    line = header(room, first_ts, seq, roster_version, node, number, #dropped > 0 and table.concat(dropped, ',') or '-')
    local body = table.concat(done)
    local messages = seq - room.seq
    if messages > 0 then
      local batch = line .. (#kept == #done and body or table.concat(kept))
      redis.call('XADD', K.log, integer(seq) .. '-0', 'm', batch, 'at', integer(room.bytes_written))
      for _, one in ipairs(redacted) do
        redis.call('HSET', K.redacted, one[1], one[2])
        redis.call('XDEL', K.log, one[1] .. '-0')
      end
      for session_key, ids in pairs(said) do
        for id, place in pairs(ids) do redis.call('HSET', session_key, id, place) end
        redis.call('EXPIRE', session_key, remember_seconds)
        prune_ids(session_key, tonumber(remember_ids))
      end
      room.bytes_written = room.bytes_written + #batch
      if room.first_ts == 0 then room.first_ts = first_ts end
      room.ts = first_ts + messages - 1
    end
    local may_have_new_key = room.seq == 0 or roster_version ~= room.roster_version or #redacted > 0
    room.seq, room.roster_version = seq, roster_version
    if messages > 0 then trim(K, room, keep) end
    -- Set the expiry again after a tenth of its time.
    if may_have_new_key or (keep.seconds > 0 and time - room.expiry_set_at > keep.seconds * 100000) then
      room.expiry_set_at = time
      if keep.seconds > 0 then
        for _, key in ipairs({K.meta, K.log, K.redacted, K.roster}) do redis.call('EXPIRE', key, keep.seconds) end
      else
        redis.call('PERSIST', K.meta)
      end
      expire_if_empty(K, room)
    end
  end
  local answer = {number, integer(room.seq), integer(room.roster_version), integer(time), results}
  save_room(K, room, 'b:' .. node, table.concat(answer, ' '))
  if #done > 0 then redis.call(publish, K.channel, line .. table.concat(done)) end
  return {'ok', integer(room.seq), integer(room.roster_version), results}
end

-- Remove the last turns of nodes that have had none for an hour and have no members here.
local function prune_last_turns(K, node)
  local limit, fields = now() - 3600 * 1000000, redis.call('HGETALL', K.meta)
  for i = 1, #fields, 2 do
    local other = string.match(fields[i], '^b:(.*)$')
    local time = other and other ~= node and tonumber(string.match(fields[i + 1], '^%d+ %d+ %d+ (%d+) '))
    if time and time < limit and redis.call('HEXISTS', K.meta, 'n:' .. other) == 0 then
      redis.call('HDEL', K.meta, fields[i])
    end
  end
end

-- Open a room for a node, or bring the node up to date: return the batches that it missed and the roster. Claim the
-- names of the node's members again, and release names that the roster has for the node but that no member there has.
-- The arguments 5 to 8 are the node's position, all empty or 0 if it opens the room or has closed it. `new_epoch` is
-- for a room that does not exist yet; it is empty if the node has closed the room. The node's members follow:
-- KEY VALUE PIECE.
-- The answer has 'same' in place of the roster if the node's roster version is current.
local function sync(K, A)
  local publish, node, new_epoch, name, epoch, seq, ts, roster_version, max_messages, max_bytes = unpack(A, 1, 10)
  local room = read_room(K)
  if not room then
    if epoch ~= '' or new_epoch == '' then return {'unknown_epoch'} end
    redis.call('DEL', K.log, K.redacted)
    redis.call('HSET', K.meta, 'format', '1', 'epoch', new_epoch, 'name', name)
    room = {epoch = new_epoch, name = name, seq = 0, ts = 0, first = 1, first_ts = 0, bytes_trimmed = 0,
      bytes_written = 0, roster_version = 0, expiry_set_at = 0}
    save_room(K, room)
  end
  local found, more = {}, '0'
  if epoch == '' then
    found = newest_batches(K, room.seq + 1, tonumber(max_messages), tonumber(max_bytes))
  else
    seq, ts = tonumber(seq), tonumber(ts)
    if epoch ~= room.epoch then return {'unknown_epoch'} end
    if seq > room.seq or (seq == room.seq and ts ~= room.ts) then return {'diverged'} end
    if seq < room.first - 1 then return {'trimmed'} end
    if seq < room.seq then
      local size = 0
      local missed = batches(K, integer(seq + 1), '+', 64, false)
      for i, batch in ipairs(missed) do
        if size >= tonumber(max_bytes) then more = '1' break end
        found[i] = batch[2]
        size = size + #batch[2]
      end
      if #missed > 0 and #found == #missed and missed[#missed][1] < room.seq then more = '1' end
      local seq_before, ts_before = string.match(found[1] or '', '^%S+ (%d+) (%d+)')
      if tonumber(seq_before) ~= seq or tonumber(ts_before) ~= ts then return {'diverged'} end
    end
  end
  local pieces, ours, lost = {}, {}, {}
  for i = 11, #A, 3 do
    local key, value, held = A[i], A[i + 1], redis.call('HGET', K.roster, A[i])
    ours[key] = true
    if not held then
      redis.call('HSET', K.roster, key, value)
      change_member_count(K, node, 1)
      pieces[#pieces + 1] = A[i + 2]
    elseif held ~= value then
      local new, old = parse_member(value), parse_member(held)
      if old.node ~= node then
        lost[#lost + 1] = key
        lost[#lost + 1] = old.session ~= '-' and old.session == new.session and 'replaced' or 'name_lost'
      else
        redis.call('HSET', K.roster, key, value)
        if new.name ~= old.name then  -- the member had another spelling of its name, which its node never heard of
          pieces[#pieces + 1] = table.concat({'r', '0', key, key, old.name, new.name}, '\t') .. '\n'
        end
      end
    end
  end
  local function answer(roster)
    return {'ok', room.epoch, room.name, integer(room.seq), integer(room.ts), integer(room.first),
      integer(room.roster_version), more, roster, lost, found}
  end
  if epoch ~= '' and tonumber(roster_version) == room.roster_version and #pieces == 0 and #lost == 0
    and tonumber(redis.call('HGET', K.meta, 'n:' .. node) or 0) == (#A - 10) / 3 then
    return answer('same')
  end
  local roster, here = redis.call('HGETALL', K.roster), 0
  for i = 1, #roster, 2 do
    local old = parse_member(roster[i + 1])
    if old.node == node then
      if ours[roster[i]] then
        here = here + 1
      else
        redis.call('HDEL', K.roster, roster[i])
        pieces[#pieces + 1] = connection_lost_piece(roster[i], old.name)
      end
    end
  end
  if here > 0 then redis.call('HSET', K.meta, 'n:' .. node, here) else redis.call('HDEL', K.meta, 'n:' .. node) end
  publish_roster_changes(K, publish, room, pieces, node)
  prune_last_turns(K, node)
  expire_if_empty(K, room)
  return answer(redis.call('HGETALL', K.roster))
end

-- Remove the members of dead nodes. Arguments: publish, the node that asks, seconds to remember sessions, dead nodes.
local function reap(K, A)
  local publish, node, remember_seconds = unpack(A, 1, 3)
  local room = read_room(K)
  if not room then return {'ok'} end
  local dead, pieces = {}, {}
  for i = 4, #A do
    dead[A[i]] = true
    redis.call('HDEL', K.meta, 'n:' .. A[i])  -- not b:NODE, because it may resend a turn whose answer it never received
  end
  local roster = redis.call('HGETALL', K.roster)
  for i = 1, #roster, 2 do
    local old = parse_member(roster[i + 1])
    if dead[old.node] then
      redis.call('HDEL', K.roster, roster[i])
      pieces[#pieces + 1] = connection_lost_piece(roster[i], old.name)
      if old.session ~= '-' then remember_session(K.sent_prefix .. old.session, remember_seconds) end
    end
  end
  publish_roster_changes(K, publish, room, pieces, node)
  expire_if_empty(K, room)
  return {'ok'}
end

-- Return the newest batches that have messages before a number. Arguments: that number, messages, bytes.
local function page(K, A)
  if not read_room(K) then return {'ok', {}} end
  return {'ok', newest_batches(K, tonumber(A[1]), tonumber(A[2]), tonumber(A[3]))}
end

-- Return the ids that a session has used here.
local function sent(K, A)
  return {'ok', redis.call('HGETALL', K.sent_prefix .. A[1])}
end

local commands = {turn = turn, sync = sync, reap = reap, page = page, sent = sent}

-- ARGV: a command, then for each room: the number of its keys, the number of its arguments, and these arguments.
-- KEYS of a room: meta, log, mended, who, the channel, the prefix of its sessions' keys, and some sessions' keys.
local answers, key, at = {}, 0, 2
while at <= #ARGV do
  local keys, arguments = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local K = {meta = KEYS[key + 1], log = KEYS[key + 2], redacted = KEYS[key + 3], roster = KEYS[key + 4],
    channel = KEYS[key + 5], sent_prefix = KEYS[key + 6]}
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
