-- A node is there. KEYS: nodes, by when they are forgotten; the library that each has; what each says of itself.
-- ARGV: the life in milliseconds (0: it leaves), the node, its library, what it says of itself. Answers how many
-- there are. It reads and writes both kinds of keys as the other functions do: where this may be done, so may that.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function announce(keys, args)
  local now, life = now_ms(), tonumber(args[1])
  local function forget(node)
    redis.call('HDEL', keys[2], node)
    redis.call('HDEL', keys[3], node)
  end
  local past = string.format('%.0f', now)
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', keys[1], '-inf', past)) do forget(node) end
  redis.call('ZREMRANGEBYSCORE', keys[1], '-inf', past)
  if life > 0 then
    redis.call('ZADD', keys[1], string.format('%.0f', now + life), args[2])
    redis.call('PEXPIRE', keys[1], string.format('%.0f', 2 * life))
    -- Nodes have names: there is nothing to remove.
    redis.call('ZREM', keys[1], '')
    for nth = 2, 3 do
      local said = args[nth + 1]
      if redis.call('HMGET', keys[nth], args[2])[1] ~= said then redis.call('HSET', keys[nth], args[2], said) end
      redis.call('PEXPIRE', keys[nth], string.format('%.0f', 2 * life))
    end
  else
    redis.call('ZREM', keys[1], args[2])
    forget(args[2])
  end
  return redis.call('ZCARD', keys[1])
end

-- Who is there. KEYS: nodes; what each says of itself. ARGV: the life in milliseconds. Answers for each node its name,
-- how many milliseconds ago it was heard of, and what it says of itself, which is empty for one of another release.
local function nodes(keys, args)
  local now, life, found = now_ms(), tonumber(args[1]), {}
  local all = redis.call('ZRANGEBYSCORE', keys[1], '(' .. string.format('%.0f', now), '+inf', 'WITHSCORES')
  for i = 1, #all, 2 do
    found[#found + 1] = all[i]
    found[#found + 1] = math.max(0, now + life - tonumber(all[i + 1]))
    found[#found + 1] = redis.call('HMGET', keys[2], all[i])[1] or ''
  end
  return found
end

redis.register_function('tollgate_announce_VERSION', announce)
redis.register_function{ function_name = 'tollgate_nodes_VERSION', callback = nodes, flags = { 'no-writes' } }
