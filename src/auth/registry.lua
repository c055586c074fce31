-- Keys and accounts that were made at run time. All of them are in one slot:
--   ...:r  hash: name -> JSON;   ...:c  sorted set: names, by the number of their last change;   ...:n  that number

local function version_of(stored)
  if not stored then return 0 end
  local _, inner = next(cjson.decode(stored))
  return inner.version
end

-- The number of the last change, also if the counter was lost.
local function last(keys)
  local top = redis.call('ZREVRANGE', keys[2], 0, 0, 'WITHSCORES')[2]
  return math.max(tonumber(redis.call('GET', keys[3]) or 0), tonumber(top or 0))
end

local function keep(keys, args)
  local number = last(keys) + 1
  redis.call('SET', keys[3], number)
  redis.call('HSET', keys[1], args[1], args[3])
  redis.call('ZADD', keys[2], number, args[1])
end

-- KEYS: r, c, n, what remembers the Idempotency-Key (or r again). ARGV: name, version, JSON, the fingerprint (or
-- empty), how long it is remembered in seconds. Answers: ok; before, the name; reused; changed.
local function write(keys, args)
  if args[4] ~= '' then
    local before = redis.call('GET', keys[4])
    if before then
      local fingerprint, name = string.match(before, '^(%S+) (.*)$')
      if fingerprint ~= args[4] then return { 'reused' } end
      return { 'before', name }
    end
  end
  if version_of(redis.call('HGET', keys[1], args[1])) + 1 ~= tonumber(args[2]) then return { 'changed' } end
  keep(keys, args)
  if args[4] ~= '' then redis.call('SET', keys[4], args[4] .. ' ' .. args[1], 'EX', args[5]) end
  return { 'ok' }
end

-- A record that a node knows and this server has lost. KEYS: r, c, n. ARGV: name, version, JSON. Answers whether it was
-- needed: 1 or 0.
local function restore(keys, args)
  if version_of(redis.call('HGET', keys[1], args[1])) >= tonumber(args[2]) then return 0 end
  keep(keys, args)
  return 1
end

-- What changed after a number. KEYS: r, c, n. ARGV: the number, how many at most. Answers the number of the last
-- change that there is, then of each change its number, its name and its JSON, in order.
local function changes(keys, args)
  local found = { last(keys) }
  local names = redis.call('ZRANGEBYSCORE', keys[2], '(' .. args[1], '+inf', 'WITHSCORES', 'LIMIT', 0, args[2])
  for i = 1, #names, 2 do
    found[#found + 1] = tonumber(names[i + 1])
    found[#found + 1] = names[i]
    found[#found + 1] = redis.call('HGET', keys[1], names[i]) or ''
  end
  return found
end

redis.register_function('tollgate_write_VERSION', write)
redis.register_function('tollgate_restore_VERSION', restore)
redis.register_function{ function_name = 'tollgate_changes_VERSION', callback = changes, flags = { 'no-writes' } }
