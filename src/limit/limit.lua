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

local function number(n) return string.format(tollgate.form('d'), n) end

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

-- What ended requests change: from that argument to that one each one's hold, the tokens to be added, and the day of
-- its charge. A hold that is gone was settled already, or has expired: then the estimate stays. Answers the holds
-- that are to go, how many of them are no longer counted by then, and whether a level has changed.
local function correct(key, node, args, from, to, plan, state, by_day, now)
  local names, gone, left, changed, seen = {}, {}, 0, false, {}
  for i = from, to, 3 do names[#names + 1] = node .. args[i] end
  local scores = #names > 0 and own('ZMSCORE', key, unpack(names))
  for n = 1, scores and #names or 0 do
    local name, expires, more = names[n], scores[n], args[from + 3 * n - 2]
    if expires and not seen[name] then
      seen[name], gone[#gone + 1] = true, name
      if tonumber(expires) > now then left = left + 1 end
      if more ~= '0' then
        more, changed = tonumber(more), true
        if plan.token_rate > 0 then
          state.t.level = math.max(math.min(state.t.level - more * UNIT, plan.token_capacity), -MOST)
        end
        if by_day and tonumber(args[from + 3 * n - 1]) == state.d then state.s = math.max(state.s + more, 0) end
      end
    end
  end
  return gone, left, changed
end

-- One subject's requests in one call: what is read is read here, and written by `close`.
-- From `at` on: the plan's five, concurrency, tokens a day, how many requests ended before, and they, as for
-- `correct`: who asks again after an answer finds its place free. `node` is what the names of its holds begin with,
-- `life` how long they live; `many` is how many requests ask.
local function open(levels, holds, args, at, node, life, many, now)
  local plan = limits(args, at)
  local subject = {
    levels = levels, holds = holds, plan = plan, node = node, life = life, now = now, begun = {}, gone = {}, count = 0,
    concurrency = tonumber(args[at + 5]), day_limit = tonumber(args[at + 6]), asked = many > 0,
  }
  subject.settles = plan.token_rate > 0 or subject.concurrency > 0 or subject.day_limit > 0
  -- A plan without limits leaves no trace.
  subject.none = plan.request_rate == 0 and not subject.settles
  if subject.none then
    subject.state = { r = { level = 0 }, t = { level = 0 }, d = 0, s = 0 }
    return subject
  end
  local state, by_day, left = load(levels, plan, now), subject.day_limit > 0, 0
  subject.state = state
  subject.gone, left, subject.changed = correct(holds, node, args, at + 8, at + 7 + 3 * tonumber(args[at + 7]), plan, state, by_day, now)
  if subject.settles and subject.asked then
    if not own('ZREMRANGEBYSCORE', holds, '-inf', number(now)) then redis.call('DEL', holds) end
    if subject.concurrency > 0 then subject.count = redis.call('ZCARD', holds) - left end
  end
  return subject
end

-- Why one request may not go (0: it may, else 1 + its place in Reason::ALL), and the wait in ms (-1: unknown).
local function ask(subject, estimate)
  if subject.none then return 0, -1 end
  local plan, state, reason, wait = subject.plan, subject.state, 0, -1
  local function fired(which, how_long)
    if reason == 0 or how_long > wait then reason, wait = which, how_long end
  end
  if subject.concurrency > 0 and subject.count >= subject.concurrency then fired(3, -1) end
  if plan.request_rate > 0 and state.r.level < UNIT then
    fired(1, math.ceil((UNIT - state.r.level) / plan.request_rate))
  end
  if plan.token_rate > 0 and state.t.level < estimate * UNIT then
    fired(2, math.ceil((estimate * UNIT - state.t.level) / plan.token_rate))
  end
  if subject.day_limit > 0 and state.s + estimate > subject.day_limit then
    fired(4, DAY - (subject.now + plan.day_offset) % DAY)
  end
  return reason, wait
end

-- Charges what `ask` allowed.
local function take(subject, estimate, hold)
  if subject.none then return end
  local plan, state = subject.plan, subject.state
  if plan.request_rate > 0 then state.r.level = state.r.level - UNIT end
  if plan.token_rate > 0 then state.t.level = state.t.level - estimate * UNIT end
  if subject.day_limit > 0 then state.s = state.s + estimate end
  subject.count, subject.changed = subject.count + 1, true
  if subject.settles then
    local begun = subject.begun
    begun[#begun + 1], begun[#begun + 2] = number(subject.now + subject.life), subject.node .. hold
  end
end

-- Writes what has changed. Time heals what was wrong only if it is written down from when on.
local function close(subject)
  if subject.none then return end
  if #subject.gone > 0 then redis.call('ZREM', subject.holds, unpack(subject.gone)) end
  if subject.changed or (subject.asked and subject.state.wrong) then
    save(subject.levels, subject.plan, subject.state, subject.now)
  end
  if #subject.begun > 0 then
    redis.call('ZADD', subject.holds, unpack(subject.begun))
    redis.call('PEXPIRE', subject.holds, number(2 * subject.life))
  end
end

tollgate.limit = { open = open, ask = ask, take = take, close = close }

-- Correcting, for a subject that nobody asks for. KEYS as above. ARGV: now, what its holds' names begin with, then
-- as for `open`.
local function settle(keys, args)
  local subject = open(keys[1], keys[2], args, 3, args[2], 0, 0, tollgate.clock(args[1]))
  close(subject)
  return subject.changed and 1 or 0
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

-- Where a subject stands. KEYS: levels. ARGV: now, the plan's five. Answers as `admit` does to one request.
local function read(keys, args)
  local now, plan = tollgate.clock(args[1]), limits(args, 2)
  local state = load(keys[1], plan, now)
  return { 0, -1, state.r.level, state.t.level, state.d, math.min(state.s, EXACT) }
end

redis.register_function('tollgate_settle_VERSION', settle)
redis.register_function('tollgate_renew_VERSION', renew)
redis.register_function{ function_name = 'tollgate_read_VERSION', callback = read, flags = { 'no-writes' } }
