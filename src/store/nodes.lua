-- A node is there. KEYS: nodes, by when they are forgotten; the library that each has. ARGV: the life in
-- milliseconds (0: it leaves), the node, its library. Answers how many there are. It reads and writes
-- both kinds of keys as the other functions do: where this may be done, so may that.
local function announce(keys, args)
  local time = redis.call('TIME')
  local now, life = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(args[1])
  redis.call('ZREMRANGEBYSCORE', keys[1], '-inf', string.format('%.0f', now))
  if life > 0 then
    redis.call('ZADD', keys[1], string.format('%.0f', now + life), args[2])
    redis.call('PEXPIRE', keys[1], string.format('%.0f', 2 * life))
    -- Nodes have names: there is nothing to remove.
    redis.call('ZREM', keys[1], '')
    if redis.call('HMGET', keys[2], args[2])[1] ~= args[3] then redis.call('HSET', keys[2], args[2], args[3]) end
    redis.call('PEXPIRE', keys[2], string.format('%.0f', 2 * life))
  else
    redis.call('ZREM', keys[1], args[2])
  end
  return redis.call('ZCARD', keys[1])
end

redis.register_function('tollgate_announce_VERSION', announce)
