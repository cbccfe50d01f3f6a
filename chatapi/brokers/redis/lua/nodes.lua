-- The leases of the nodes of a chat: a sorted set of nodes, each with the time in milliseconds at which its lease ends.
-- KEYS: the set. ARGV: a node, and milliseconds for its lease; 0 ends the lease.
-- Returns whether the node had a valid lease, whether the set existed, and the nodes with a valid lease.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local day = 24 * 3600 * 1000
local existed = redis.call('EXISTS', KEYS[1])
local lease_end = redis.call('ZSCORE', KEYS[1], ARGV[1])
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - day))
local was_valid = lease_end and tonumber(lease_end) >= now and 1 or 0
return {was_valid, existed, redis.call('ZRANGEBYSCORE', KEYS[1], string.format('%.0f', now), '+inf')}
