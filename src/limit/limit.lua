-- Rate limits in Redis: state.rs once more, in whole numbers below 2^53, by Redis' own clock.
--
-- A subject (a key, an account, a network) is two keys in one slot:
--   ...:l:...  hash: r, t  units in the request and the token bucket (60,000 a request or token)
--                    at    milliseconds since 1970 when they were right
--                    d, s  a day and the tokens of it
--   ...:h:...  sorted set: the requests in flight, by when they expire unless renewed
-- A value that cannot be is taken for an empty bucket: garbage never admits anyone.

local UNIT, BEHIND, DAY = 60000, 60000, 86400000
local MOST, EXACT = 6e15, 2 ^ 53

local function whole(text, least, most)
  local n = tonumber(text)
  -- Neither NaN nor infinity passes.
  if n and n >= least and n <= most and n % 1 == 0 then return n end
end

local function number(n) return string.format('%.0f', n) end

-- `given` is empty but in simulations.
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A plan's limits, from five arguments on; 0 is no limit.
local function limits(args, from)
  return {
    request_rate = tonumber(args[from]), request_capacity = tonumber(args[from + 1]),
    token_rate = tonumber(args[from + 2]), token_capacity = tonumber(args[from + 3]),
    day_offset = tonumber(args[from + 4]),
  }
end

local function refilled(rate, capacity, level, elapsed)
  if rate == 0 then return 0 end
  elapsed = math.min(elapsed, math.ceil(math.max(capacity - level, 0) / rate))
  return math.max(math.min(level + rate * elapsed, capacity), -MOST)
end

-- Where the subject stands now.
local function load(key, plan, now)
  local today = math.floor((now + plan.day_offset) / DAY)
  local stored = redis.pcall('HMGET', key, 'r', 't', 'at', 'd', 's')
  local state = { r = plan.request_capacity, t = plan.token_capacity, at = now, d = today, s = 0 }
  if stored.err then
    -- Not a hash.
    state.r, state.t, state.s, state.wrong = 0, 0, EXACT, true
    state.kind = true
    return state
  end
  if not stored[3] and not stored[1] and not stored[2] then return state end
  local at = whole(stored[3], 0, EXACT)
  local r, t = plan.request_capacity, plan.token_capacity
  if stored[1] and stored[1] ~= '' then r = whole(stored[1], -MOST, MOST) or 0 end
  if stored[2] and stored[2] ~= '' then t = whole(stored[2], -MOST, MOST) or 0 end
  local elapsed = 0
  if not at then
    r, t, state.wrong = math.min(r, 0), math.min(t, 0), true
  elseif now >= at then
    elapsed = now - at
  elseif at - now <= BEHIND then
    state.at = at
  else
    state.wrong = true
  end
  state.r = refilled(plan.request_rate, plan.request_capacity, r, elapsed)
  state.t = refilled(plan.token_rate, plan.token_capacity, t, elapsed)
  if stored[4] then
    local d, s = whole(stored[4], -EXACT, EXACT), whole(stored[5], 0, EXACT)
    if not (d and s) then
      state.s, state.wrong = EXACT, true
    elseif d == today or d == today + 1 then
      state.d, state.s = d, s
    end
  end
  return state
end

local function save(key, plan, state, now)
  if state.kind then redis.call('DEL', key) end
  -- What is not limited has no level: a limit that comes later begins full.
  redis.call('HSET', key, 'r', plan.request_rate > 0 and number(state.r) or '',
    't', plan.token_rate > 0 and number(state.t) or '', 'at', number(state.at),
    'd', number(state.d), 's', number(state.s))
  -- Kept for twice as long as it takes to be as good as new.
  local ttl = 0
  if plan.request_rate > 0 then ttl = (plan.request_capacity - state.r) / plan.request_rate end
  if plan.token_rate > 0 then ttl = math.max(ttl, (plan.token_capacity - state.t) / plan.token_rate) end
  if state.s > 0 then ttl = math.max(ttl, DAY) end
  redis.call('PEXPIRE', key, number(math.ceil(2 * ttl) + BEHIND))
end

-- Charging, one round trip: everything or nothing.
-- KEYS: levels, holds. ARGV: now, the plan's five, concurrency, tokens a day, the estimate,
-- a hold's id (empty: none is needed) and its life in milliseconds.
-- Answers: reason (0 admitted, else 1 + its place in Reason::ALL), wait in ms (-1: unknown), the
-- levels of both buckets, the day and its tokens.
local function admit(keys, args)
  local now, plan = clock(args[1]), limits(args, 2)
  local concurrency, day_limit, estimate = tonumber(args[7]), tonumber(args[8]), tonumber(args[9])
  local hold, life = args[10], tonumber(args[11])
  local state = load(keys[1], plan, now)
  local reason, wait = 0, -1
  local function fired(which, how_long)
    if reason == 0 or how_long > wait then reason, wait = which, how_long end
  end
  if hold ~= '' then
    local kind = redis.pcall('ZREMRANGEBYSCORE', keys[2], '-inf', number(now))
    -- Not a sorted set.
    if type(kind) == 'table' and kind.err then redis.call('DEL', keys[2]) end
  end
  if concurrency > 0 and redis.call('ZCARD', keys[2]) >= concurrency then fired(3, -1) end
  if plan.request_rate > 0 and state.r < UNIT then
    fired(1, math.ceil((UNIT - state.r) / plan.request_rate))
  end
  local tokens = estimate * UNIT
  if plan.token_rate > 0 and state.t < tokens then
    fired(2, math.ceil((tokens - state.t) / plan.token_rate))
  end
  if day_limit > 0 and state.s + estimate > day_limit then
    fired(4, DAY - (now + plan.day_offset) % DAY)
  end
  if reason == 0 then
    if plan.request_rate > 0 then state.r = state.r - UNIT end
    if plan.token_rate > 0 then state.t = state.t - tokens end
    if day_limit > 0 then state.s = state.s + estimate end
    save(keys[1], plan, state, now)
    if hold ~= '' then
      redis.call('ZADD', keys[2], number(now + life), hold)
      redis.call('PEXPIRE', keys[2], number(2 * life))
    end
  elseif state.wrong then
    -- Time heals it only if it is written down from when on.
    save(keys[1], plan, state, now)
  end
  return { reason, wait, state.r, state.t, state.d, math.min(state.s, EXACT) }
end

-- Correcting, when requests have ended. A hold that is gone was settled already, or has expired:
-- then the estimate stays. KEYS as above. ARGV: now, the plan's five, whether tokens are counted by
-- the day, then for each request its hold's id, the tokens to be added, and the day of its charge.
local function settle(keys, args)
  local now, plan, by_day = clock(args[1]), limits(args, 2), args[7] == '1'
  local state, changed = nil, false
  for i = 8, #args, 3 do
    local live = redis.pcall('ZREM', keys[2], args[i])
    if live == 1 and args[i + 1] ~= '0' then
      state = state or load(keys[1], plan, now)
      local more = tonumber(args[i + 1])
      if plan.token_rate > 0 then
        state.t = math.max(math.min(state.t - more * UNIT, plan.token_capacity), -MOST)
      end
      if by_day and tonumber(args[i + 2]) == state.d then state.s = math.max(state.s + more, 0) end
      changed = true
    end
  end
  if changed then save(keys[1], plan, state, now) end
  return changed and 1 or 0
end

-- Requests that are still in flight. KEYS: holds. ARGV: now, the life in milliseconds, ids.
local function renew(keys, args)
  local expires = number(clock(args[1]) + tonumber(args[2]))
  for i = 3, #args do redis.call('ZADD', keys[1], 'XX', expires, args[i]) end
  redis.call('PEXPIRE', keys[1], number(2 * tonumber(args[2])))
  return 1
end

-- Where a subject stands. KEYS: levels. ARGV: now, the plan's five. Answers as `admit` does.
local function read(keys, args)
  local now, plan = clock(args[1]), limits(args, 2)
  local state = load(keys[1], plan, now)
  return { 0, -1, state.r, state.t, state.d, math.min(state.s, EXACT) }
end

redis.register_function('tollgate_admit_VERSION', admit)
redis.register_function('tollgate_settle_VERSION', settle)
redis.register_function('tollgate_renew_VERSION', renew)
redis.register_function{ function_name = 'tollgate_read_VERSION', callback = read, flags = { 'no-writes' } }
