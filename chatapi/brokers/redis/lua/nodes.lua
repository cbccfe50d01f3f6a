-- The nodes of a chat and until when each is taken to live: a sorted set of names by milliseconds.
-- KEYS: the set. ARGV: node, milliseconds of its lease; a lease of 0 gives it back.
-- Answers whether the node was known and its lease had not run out, whether the set was there, and who lives.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local day = 24 * 3600 * 1000
local was_there = redis.call('EXISTS', KEYS[1])
local until_ = redis.call('ZSCORE', KEYS[1], ARGV[1])
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - day))
local held = until_ and tonumber(until_) >= now and 1 or 0
return {held, was_there, redis.call('ZRANGEBYSCORE', KEYS[1], string.format('%.0f', now), '+inf')}
