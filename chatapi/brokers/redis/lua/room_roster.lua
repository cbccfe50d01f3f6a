-- The second part of the script of a room (see room.lua): its roster.

-- The roster. `claim`, `release` and `rename` return why they refuse, or nothing.

local function parse_member(value)
  local node, session, name = string.match(value, '^(%S+) (%S+) (.*)$')
  return {node = node, session = session, name = name}
end

local function change_member_count(K, node, by)
  if redis.call('HINCRBY', K.meta, 'n:' .. node, by) <= 0 then redis.call('HDEL', K.meta, 'n:' .. node) end
end

local function claim(K, key, session_key, value, member_limit, seconds)
  local new, held = parse_member(value), redis.call('HGET', K.roster, key)
  if held then
    local old = parse_member(held)
    if old.session == '-' or old.session ~= new.session then return 'taken' end
    change_member_count(K, old.node, -1)
  elseif redis.call('HLEN', K.roster) >= member_limit then
    return 'full'
  end
  redis.call('HSET', K.roster, key, value)
  change_member_count(K, new.node, 1)
  remember_session(session_key, seconds)
end

local function release(K, key, session_key, node, seconds)
  local held = redis.call('HGET', K.roster, key)
  if not held or parse_member(held).node ~= node then return 'gone' end
  redis.call('HDEL', K.roster, key)
  change_member_count(K, node, -1)
  remember_session(session_key, seconds)
end

local function rename(K, key, new_key, value)
  local held = redis.call('HGET', K.roster, key)
  if not held or parse_member(held).node ~= parse_member(value).node then return 'gone' end
  if key ~= new_key and redis.call('HEXISTS', K.roster, new_key) == 1 then return 'taken' end
  redis.call('HDEL', K.roster, key)
  redis.call('HSET', K.roster, new_key, value)
end

-- Publish changes of the roster that are not part of any node's turn.
local function publish_roster_changes(K, publish, room, pieces, node)
  if #pieces == 0 then return end
  local roster_version = math.max(room.roster_version + #pieces, now())
  local line = header(room, 0, room.seq, roster_version, node, '0', '-')
  room.roster_version = roster_version
  redis.call('HSET', K.meta, 'pv', integer(roster_version))
  redis.call(publish, K.channel, line .. table.concat(pieces))
end

local function connection_lost_piece(key, name) return 'l\t0\t' .. key .. '\tconnection_lost\t' .. name .. '\n' end

