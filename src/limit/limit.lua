-- Rate limits in Redis: state.rs once more, in whole numbers below 2^53, by Redis' own clock.
--
-- A subject (a key, an account, a network) is two keys in one slot:
--   ...:l:...  hash: r, ra  units in the request bucket (60,000 a request), and when that was right,
--                    t, ta  the same of the token bucket; milliseconds since 1970
--                    d, s   a day and the tokens of it
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

-- A plan's limits, from five arguments on; 0 is no limit.
local function limits(args, from)
  return {
    request_rate = tonumber(args[from]), request_capacity = tonumber(args[from + 1]),
    token_rate = tonumber(args[from + 2]), token_capacity = tonumber(args[from + 3]),
    day_offset = tonumber(args[from + 4]),
  }
end

-- Calls Redis; what is of another type than ours is no error but nothing.
local function own(...)
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if string.find(answer.err, 'WRONGTYPE', 1, true) then return nil end
  error(answer)
end

-- A bucket's level now, and whether its stored form has to be written anew.
local function pool(rate, capacity, level, at, now)
  if rate == 0 then return { level = 0, at = now, limited = false } end
  -- What was not limited until now is full.
  if not level and not at then return { level = capacity, at = now, limited = true } end
  local units, since = whole(level, -MOST, MOST), whole(at, 0, EXACT)
  local wrong = not (units and since)
  units = units or 0
  local elapsed = 0
  if wrong then
    units, since = math.min(units, 0), now
  elseif now >= since then
    elapsed, since = now - since, now
  elseif since - now > BEHIND then
    since, wrong = now, true
  end
  elapsed = math.min(elapsed, math.ceil(math.max(capacity - units, 0) / rate))
  units = math.max(math.min(units + rate * elapsed, capacity), -MOST)
  return { level = units, at = since, limited = true, wrong = wrong }
end

-- Where the subject stands now.
local function load(key, plan, now)
  local today = math.floor((now + plan.day_offset) / DAY)
  local stored = own('HMGET', key, 'r', 'ra', 't', 'ta', 'd', 's')
  local foreign = not stored
  if foreign then stored = { 'x', 'x', 'x', 'x', 'x', 'x' } end
  local state = {
    r = pool(plan.request_rate, plan.request_capacity, stored[1], stored[2], now),
    t = pool(plan.token_rate, plan.token_capacity, stored[3], stored[4], now),
    d = today, s = 0, foreign = foreign,
  }
  state.wrong = foreign or state.r.wrong or state.t.wrong
  state.others = (not state.r.limited and stored[1]) or (not state.t.limited and stored[3])
  if stored[5] then
    local d, s = whole(stored[5], -EXACT, EXACT), whole(stored[6], 0, EXACT)
    if not (d and s) then
      state.s, state.wrong = EXACT, true
    elseif d == today or d == today + 1 then
      state.d, state.s = d, s
    end
  end
  return state
end

local function save(key, plan, state, now)
  if state.foreign then redis.call('DEL', key) end
  local fields = { 'd', number(state.d), 's', number(state.s) }
  local left = 0
  -- A bucket that this plan does not limit may be limited by another node's: it stays as it is.
  for name, pool in pairs({ r = state.r, t = state.t }) do
    if pool.limited then
      fields[#fields + 1], fields[#fields + 2] = name, number(pool.level)
      fields[#fields + 1], fields[#fields + 2] = name .. 'a', number(pool.at)
    end
  end
  redis.call('HSET', key, unpack(fields))
  if plan.request_rate > 0 then left = (plan.request_capacity - state.r.level) / plan.request_rate end
  if plan.token_rate > 0 then left = math.max(left, (plan.token_capacity - state.t.level) / plan.token_rate) end
  if state.s > 0 then left = math.max(left, DAY) end
  -- Kept for twice as long as it takes to be as good as new; no shorter than another plan's bucket needs.
  local life = number(math.ceil(2 * left) + BEHIND)
  if state.others then redis.call('PEXPIRE', key, life, 'GT') else redis.call('PEXPIRE', key, life) end
end

-- Corrects what ended requests were charged: from that argument on to that one each one's hold, the tokens
-- to be added, and the day of its charge. A hold that is gone was settled already, or has expired: then the
-- estimate stays. Tells whether anything changed.
local function correct(keys, args, from, to, plan, state, by_day)
  local changed = false
  for i = from, to, 3 do
    if own('ZREM', keys[2], args[i]) == 1 and args[i + 1] ~= '0' then
      local more = tonumber(args[i + 1])
      if plan.token_rate > 0 then
        state.t.level = math.max(math.min(state.t.level - more * UNIT, plan.token_capacity), -MOST)
      end
      if by_day and tonumber(args[i + 2]) == state.d then state.s = math.max(state.s + more, 0) end
      changed = true
    end
  end
  return changed
end

local function answer(reason, wait, state)
  return { reason, wait, state.r.level, state.t.level, state.d, math.min(state.s, EXACT) }
end

-- Whether one request may go, with nothing charged yet.
-- KEYS: levels, holds. ARGV from 2 on: the plan's five, concurrency, tokens a day, the estimate,
-- a hold's id (empty: none is needed) and its life in milliseconds; then how many ended before it, and they,
-- as for `correct`: who asks again after an answer finds its place free.
local function ask(keys, args, now)
  local plan = limits(args, 2)
  local request = { keys = keys, plan = plan, now = now, hold = args[10], life = tonumber(args[11]), reason = 0, wait = -1 }
  local concurrency, day_limit, estimate = tonumber(args[7]), tonumber(args[8]), tonumber(args[9])
  -- A plan without limits leaves no trace.
  request.none = plan.request_rate == 0 and plan.token_rate == 0 and concurrency == 0 and day_limit == 0
  if request.none then
    request.state = { r = { level = 0 }, t = { level = 0 }, d = 0, s = 0 }
    return request
  end
  local state = load(keys[1], plan, now)
  request.state, request.tokens, request.by_day, request.estimate = state, estimate * UNIT, day_limit > 0, estimate
  request.changed = correct(keys, args, 13, 12 + 3 * tonumber(args[12]), plan, state, day_limit > 0)
  local function fired(which, how_long)
    if request.reason == 0 or how_long > request.wait then request.reason, request.wait = which, how_long end
  end
  if request.hold ~= '' and not own('ZREMRANGEBYSCORE', keys[2], '-inf', number(now)) then
    redis.call('DEL', keys[2])
  end
  if concurrency > 0 and redis.call('ZCARD', keys[2]) >= concurrency then fired(3, -1) end
  if plan.request_rate > 0 and state.r.level < UNIT then
    fired(1, math.ceil((UNIT - state.r.level) / plan.request_rate))
  end
  if plan.token_rate > 0 and state.t.level < request.tokens then
    fired(2, math.ceil((request.tokens - state.t.level) / plan.token_rate))
  end
  if day_limit > 0 and state.s + estimate > day_limit then
    fired(4, DAY - (now + plan.day_offset) % DAY)
  end
  return request
end

-- Charges what `ask` allowed.
local function take(request)
  if request.none then return end
  local plan, state, keys = request.plan, request.state, request.keys
  if plan.request_rate > 0 then state.r.level = state.r.level - UNIT end
  if plan.token_rate > 0 then state.t.level = state.t.level - request.tokens end
  if request.by_day then state.s = state.s + request.estimate end
  save(keys[1], plan, state, request.now)
  if request.hold ~= '' then
    redis.call('ZADD', keys[2], number(request.now + request.life), request.hold)
    redis.call('PEXPIRE', keys[2], number(2 * request.life))
  end
end

-- Charges nothing. Time heals what was wrong only if it is written down from when on.
local function leave(request)
  if not request.none and (request.changed or request.state.wrong) then
    save(request.keys[1], request.plan, request.state, request.now)
  end
end

-- Reason (0 admitted, else 1 + its place in Reason::ALL), wait in ms (-1: unknown), the levels of both
-- buckets, the day and its tokens.
local function tell(request) return answer(request.reason, request.wait, request.state) end

-- Where the arguments of others begin.
local function after(args) return 13 + 3 * tonumber(args[12]) end

tollgate.limit = { ask = ask, take = take, leave = leave, tell = tell, after = after }

-- Correcting, for a subject that nobody asks for. KEYS as above. ARGV: now, the plan's five, whether
-- tokens are counted by the day, then as for `correct`.
local function settle(keys, args)
  local now, plan = tollgate.clock(args[1]), limits(args, 2)
  local state = load(keys[1], plan, now)
  local changed = correct(keys, args, 8, #args, plan, state, args[7] == '1')
  if changed then save(keys[1], plan, state, now) end
  return changed and 1 or 0
end

-- Requests that are still in flight. One that has ended meanwhile stays out while others are known; after
-- a flush, when nobody is, all are known again. KEYS: holds. ARGV: now, the life in milliseconds, ids.
local function renew(keys, args)
  local expires = number(tollgate.clock(args[1]) + tonumber(args[2]))
  local flag = redis.call('ZCARD', keys[1]) > 0 and 'XX' or 'NX'
  for i = 3, #args do redis.call('ZADD', keys[1], flag, expires, args[i]) end
  redis.call('PEXPIRE', keys[1], number(2 * tonumber(args[2])))
  return 1
end

-- Where a subject stands. KEYS: levels. ARGV: now, the plan's five. Answers as `admit` does.
local function read(keys, args)
  local now, plan = tollgate.clock(args[1]), limits(args, 2)
  return answer(0, -1, load(keys[1], plan, now))
end

redis.register_function('tollgate_settle_VERSION', settle)
redis.register_function('tollgate_renew_VERSION', renew)
redis.register_function{ function_name = 'tollgate_read_VERSION', callback = read, flags = { 'no-writes' } }
