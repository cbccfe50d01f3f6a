-- The first part of the script of a room (see room.lua): its log, its numbers, and the ids that sessions have used.

-- Format a number without an exponent. '%d' is faster; it works if it takes 64 bits.
local FORMAT = string.format('%d', 2^40) == '1099511627776' and '%d' or '%.0f'

local function integer(number) return string.format(FORMAT, number) end

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function read_room(K, node)
  local v = redis.call('HMGET', K.meta, 'epoch', 'name', 'seq', 'ts', 'first', 'first_ts', 'first_at', 'at', 'pv',
    'format', 'kept_at', 'b:' .. (node or ''))
  if not v[1] then return nil end
  if v[10] ~= '1' then error('this room was written by another version of the server') end
  return {
    epoch = v[1], name = v[2], seq = tonumber(v[3]), ts = tonumber(v[4]), first = tonumber(v[5]),
    first_ts = tonumber(v[6]), bytes_trimmed = tonumber(v[7]), bytes_written = tonumber(v[8]),
    roster_version = tonumber(v[9]), expiry_set_at = tonumber(v[11]) or 0, last_turn = v[12],
  }
end

local function save_room(K, room, ...)
  redis.call('HSET', K.meta, 'seq', integer(room.seq), 'ts', integer(room.ts), 'pv', integer(room.roster_version),
    'first', integer(room.first), 'first_ts', integer(room.first_ts), 'first_at', integer(room.bytes_trimmed),
    'at', integer(room.bytes_written), 'kept_at', integer(room.expiry_set_at), ...)
end

local function header(room, first_ts, seq, roster_version, node, turn, dropped)
  return table.concat({room.epoch, integer(room.seq), integer(room.ts), integer(room.roster_version),
    integer(first_ts), integer(seq), integer(roster_version), integer(room.first), node, turn, dropped}, ' ') .. '\n'
end

-- Return the batches with IDs from `low` to `high`, redacted ones included, as {ID, batch}.
local function batches(K, low, high, count, newest_first)
  local found = {}
  local range = newest_first and redis.call('XREVRANGE', K.log, high, low, 'COUNT', count)
    or redis.call('XRANGE', K.log, low, high, 'COUNT', count)
  for _, entry in ipairs(range) do
    found[#found + 1] = {tonumber(string.match(entry[1], '^%d+')), entry[2][2]}
  end
  if redis.call('HLEN', K.redacted) == 0 then return found end
  local from, to = tonumber(low) or 0, tonumber(high) or math.huge
  if #found == count then
    if newest_first then from = found[count][1] else to = found[count][1] end
  end
  local redacted = redis.call('HGETALL', K.redacted)
  for i = 1, #redacted, 2 do
    local number = tonumber(redacted[i])
    if number >= from and number <= to then found[#found + 1] = {number, redacted[i + 1]} end
  end
  table.sort(found, function(a, b) if newest_first then return a[1] > b[1] end return a[1] < b[1] end)
  return found
end

-- Return the newest batches that have messages before a number, the oldest of them first: about so many messages and
-- bytes.
local function newest_batches(K, before, max_messages, max_bytes)
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
      if messages >= max_messages or size >= max_bytes then break end
    end
  until #some == 0 or high == '0' or messages >= max_messages or size >= max_bytes
  local oldest_first = {}
  for i = #found, 1, -1 do oldest_first[#oldest_first + 1] = found[i] end
  return oldest_first
end

-- Remove the oldest batches while the room exceeds a bound of `keep`, at most 16 in one call.
local function trim(K, room, keep)
  for _ = 1, 16 do
    local too_old = keep.age > 0 and room.first_ts > 0 and room.first_ts < room.ts - keep.age
    local too_many = keep.messages > 0 and room.seq - room.first + 1 > keep.messages
    local too_large = keep.bytes > 0 and room.bytes_written - room.bytes_trimmed > keep.bytes
    if not (too_old or too_many or too_large) then return end
    local oldest = redis.call('XRANGE', K.log, '-', '+', 'COUNT', 2)
    if #oldest < 2 then return end
    redis.call('XDEL', K.log, oldest[1][1])
    room.first = tonumber(string.match(oldest[1][1], '^%d+')) + 1
    room.bytes_trimmed = tonumber(oldest[2][2][4])
    room.first_ts = tonumber(string.match(oldest[2][2][2], '^%S+ %S+ %S+ %S+ (%S+)'))
    for _, number in ipairs(redis.call('HKEYS', K.redacted)) do
      if tonumber(number) < room.first then redis.call('HDEL', K.redacted, number) end
    end
  end
end

-- Have a room without messages and members expire after an hour.
local EMPTY_ROOM_SECONDS = 3600

local function expire_if_empty(K, room)
  if room.seq == 0 and redis.call('EXISTS', K.roster) == 0 then
    redis.call('EXPIRE', K.meta, EMPTY_ROOM_SECONDS)
  end
end

-- Sessions and their ids

local function remember(session_key, seconds, ...)
  redis.call('HSET', session_key, ...)
  redis.call('EXPIRE', session_key, seconds)
end

-- Remember that a session exists, though it may have said nothing here.
local function remember_session(session_key, seconds)
  if session_key then remember(session_key, seconds, '', '0 0') end
end

-- Remove the oldest ids of a session when it has more than twice as many as are to be remembered.
local function prune_ids(session_key, limit)
  if redis.call('HLEN', session_key) <= 2 * limit + 1 then return end
  local ids, all = {}, redis.call('HGETALL', session_key)
  for i = 1, #all, 2 do
    if all[i] ~= '' then ids[#ids + 1] = {tonumber(string.match(all[i + 1], '^%d+')), all[i]} end
  end
  table.sort(ids, function(a, b) return a[1] < b[1] end)
  for i = 1, #ids - limit do redis.call('HDEL', session_key, ids[i][2]) end
end

