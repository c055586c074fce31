-- Balances in Redis: wallet.rs once more, in whole numbers up to 2^53, by Redis' own clock.
--
-- An account is these keys, all in one slot:
--   ...:w    hash: b balance, h held of it, t tokens that packages ever lost; all but tokens in micro-units
--                  k<key>      held, day, spent that day, month, spent that month
--                  p<package>  name, tokens, left, held, granted, expires (milliseconds since 1970)
--                  P           the packages' ids, by expiry
--   ...:m    sorted set: holds, by when they expire unless renewed
--   ...:n    hash: of each hold the key, the money, the package (or -), the tokens
--   ...:a    hash: of each journal's epoch the last charge that was applied
--   ...:d    set: the days that have usage
--   ...:u:N  hash: day N's usage: key, project, model (between bytes 31) -> the sums of UsageRow
--   ...:e    list: the entries, as JSON
-- A value that cannot be ends the call with an error: garbage neither pays nor is written over.

local EXACT, DAY = 2 ^ 53, 86400000

local function whole(text)
  local n = tonumber(text)
  if n and n >= -EXACT and n <= EXACT and n % 1 == 0 then return n end
  error({ err = 'TOLLGATE a number of an account is none' })
end

local function number(n) return string.format('%.0f', n) end

local function words(text, count)
  local list = {}
  for word in string.gmatch(text, '%S+') do list[#list + 1] = word end
  if #list ~= count then error({ err = 'TOLLGATE a record of an account is none' }) end
  return list
end

-- Days since 1970 -> months since year 0: Howard Hinnant's civil_from_days, as in period.rs.
local function month_of(day)
  local shifted = day + 719468
  local era, of_era = math.floor(shifted / 146097), shifted % 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local from_march = math.floor((5 * of_year + 2) / 153)
  local month = from_march < 10 and from_march + 3 or from_march - 9
  return (year + era * 400 + (month <= 2 and 1 or 0)) * 12 + month - 1
end

local function spent_of(text)
  if not text then return { held = 0, day = 0, daily = 0, month = 0, monthly = 0 } end
  local w = words(text, 5)
  return { held = whole(w[1]), day = whole(w[2]), daily = whole(w[3]), month = whole(w[4]), monthly = whole(w[5]) }
end

local function spent_text(s)
  return table.concat({ number(s.held), number(s.day), number(s.daily), number(s.month), number(s.monthly) }, ' ')
end

local function package_of(text)
  local w = words(text, 6)
  return { name = w[1], tokens = whole(w[2]), left = whole(w[3]), held = whole(w[4]), granted = whole(w[5]), expires = whole(w[6]) }
end

local function package_text(p)
  return table.concat({ p.name, number(p.tokens), number(p.left), number(p.held), number(p.granted), number(p.expires) }, ' ')
end

-- What a call reads of a wallet once, and writes back once.
local function open(key)
  local sums = redis.call('HMGET', key, 'b', 'h', 't')
  if not sums[1] then return nil end
  return { key = key, b = whole(sums[1]), h = whole(sums[2] or 0), t = whole(sums[3] or 0), spent = {}, packages = {}, changed = false }
end

local function spent(wallet, id)
  local known = wallet.spent[id]
  if not known then
    known = spent_of(redis.call('HGET', wallet.key, 'k' .. id))
    wallet.spent[id] = known
  end
  return known
end

local function package(wallet, id)
  local known = wallet.packages[id]
  if known == nil then
    local text = redis.call('HGET', wallet.key, 'p' .. id)
    known = text and package_of(text) or false
    wallet.packages[id] = known
  end
  return known
end

local function close(wallet)
  if not wallet.changed then return end
  local fields = { 'b', number(wallet.b), 'h', number(wallet.h), 't', number(wallet.t) }
  for id, s in pairs(wallet.spent) do
    fields[#fields + 1], fields[#fields + 2] = 'k' .. id, spent_text(s)
  end
  for id, p in pairs(wallet.packages) do
    if p then fields[#fields + 1], fields[#fields + 2] = 'p' .. id, package_text(p) end
  end
  redis.call('HSET', wallet.key, unpack(fields))
end

-- Gives back what a hold has set aside.
local function release(wallet, key, money, pack, tokens)
  wallet.changed = true
  if pack == '-' then
    wallet.h = math.max(wallet.h - money, 0)
    if money > 0 then
      local s = spent(wallet, key)
      s.held = math.max(s.held - money, 0)
    end
  else
    local p = package(wallet, pack)
    if p then p.held = math.max(p.held - tokens, 0) end
  end
end

local function expire(wallet, base, now)
  local dead = redis.call('ZRANGEBYSCORE', base .. 'm', '-inf', number(now), 'LIMIT', 0, 8)
  for _, id in ipairs(dead) do
    local text = redis.call('HGET', base .. 'n', id)
    redis.call('ZREM', base .. 'm', id)
    redis.call('HDEL', base .. 'n', id)
    if text then
      local w = words(text, 4)
      release(wallet, w[1], whole(w[2]), w[3], whole(w[4]))
    end
  end
end

-- Usage rows: requests, input, cached, cache write, output, reasoning, images, characters, seconds, cost,
-- the estimated part of it, tokens of packages.
local SUMS = 12

local function count(base, day, row, values)
  local key = base .. 'u:' .. number(day)
  local before = redis.call('HGET', key, row)
  if before then
    local w = words(before, SUMS)
    for i = 1, SUMS do values[i] = math.min(values[i] + whole(w[i]), EXACT) end
  else
    redis.call('SADD', base .. 'd', number(day))
  end
  for i = 1, SUMS do values[i] = number(values[i]) end
  redis.call('HSET', key, row, table.concat(values, ' '))
end

-- One charge: 19 arguments from `i` on, in the order of `Charge` (see billing/redis.rs).
local FIELDS = 19
local function charge(wallet, base, args, i)
  local hold, key, pack = args[i + 1], args[i + 2], args[i + 5]
  if redis.call('ZREM', base .. 'm', hold) == 1 then
    redis.call('HDEL', base .. 'n', hold)
    release(wallet, key, whole(args[i + 6]), pack, whole(args[i + 7]))
  end
  local source, day, month = args[i + 8], whole(args[i + 9]), whole(args[i + 10])
  if source == 'n' then return end
  wallet.changed = true
  local cost, tokens = whole(args[i + 11]), 0
  local values = { 1 }
  for n = 1, 8 do values[n + 1] = whole(args[i + 11 + n]) end
  if pack == '-' then
    if cost > 0 then
      wallet.b = wallet.b - cost
      local s = spent(wallet, key)
      if day > s.day then s.day, s.daily = day, 0 end
      if month > s.month then s.month, s.monthly = month, 0 end
      if day == s.day then s.daily = s.daily + cost end
      if month == s.month then s.monthly = s.monthly + cost end
    end
  else
    cost, tokens = 0, values[2] + values[5]
    wallet.t = wallet.t + tokens
    local p = package(wallet, pack)
    if p then p.left = p.left - tokens end
  end
  values[10], values[11], values[12] = cost, source == 'e' and cost or 0, tokens
  count(base, day, key .. '\31' .. args[i + 3] .. '\31' .. args[i + 4], values)
end

-- Applies the charges of one journal, each once: from `i` on the epoch, the number that the first of them
-- follows, how many, and the charges, in order. Answers the last number that is applied, and whether one
-- before them is missing; the next argument stands at the third value.
local function apply(wallet, base, args, i)
  local epoch, previous, many = args[i], whole(args[i + 1]), whole(args[i + 2])
  local after = i + 3 + many * (FIELDS + 1)
  if many == 0 then return -1, false, after end
  local mark = whole(redis.call('HGET', base .. 'a', epoch) or 0)
  if mark < previous then return mark, true, after end
  for n = 0, many - 1 do
    local at = i + 3 + n * (FIELDS + 1)
    local seq = whole(args[at])
    if seq > mark then
      charge(wallet, base, args, at)
      mark = seq
    end
  end
  redis.call('HSET', base .. 'a', epoch, number(mark))
  return mark, false, after
end

-- Whether a request can be paid for. From `i` on: enforce or observe, the key, the package's name (or -), money,
-- tokens, the caps of the day and the month (-1: none), where days begin, the hold and its life.
local function afford(wallet, args, i, now)
  local bill = {
    enforced = args[i] == 'enforce', key = args[i + 1], name = args[i + 2], money = whole(args[i + 3]),
    tokens = whole(args[i + 4]), hold = args[i + 8], life = whole(args[i + 9]), package = '-',
    reason = 0, left = 0, resets = -1,
  }
  local offset = whole(args[i + 7])
  bill.day = math.floor((now + offset) / DAY)
  bill.month = month_of(bill.day)
  local function short(reason, left, resets)
    if bill.reason == 0 then bill.reason, bill.left, bill.resets = reason, left, resets end
  end
  if bill.name ~= '-' then
    local needed, most, last = math.max(bill.tokens, 1), 0, ''
    for id in string.gmatch(redis.call('HGET', wallet.key, 'P') or '', '%S+') do
      local p = package(wallet, id)
      if p and p.name == bill.name then
        last = id
        if p.expires > now then
          most = math.max(most, p.left - p.held)
          if p.left - p.held >= needed then bill.package = id break end
        end
      end
    end
    if bill.package == '-' then
      short(2, most, -1)
      -- Who must be served all the same: the last package goes below nothing, or none that there is.
      bill.package = last ~= '' and last or '?'
    end
    bill.money = 0
  elseif bill.money > 0 then
    if wallet.b - wallet.h < bill.money then short(1, wallet.b - wallet.h, -1) end
    local daily, monthly = whole(args[i + 5]), whole(args[i + 6])
    if daily >= 0 or monthly >= 0 then
      local s = spent(wallet, bill.key)
      local left = daily - s.held - (s.day >= bill.day and s.daily or 0)
      if daily >= 0 and left < bill.money then short(3, left, (bill.day + 1) * DAY - offset) end
      left = monthly - s.held - (s.month >= bill.month and s.monthly or 0)
      if monthly >= 0 and left < bill.money then
        local day = bill.day + 1
        while month_of(day) == bill.month do day = day + 1 end
        short(4, left, day * DAY - offset)
      end
    end
  end
  bill.refused = bill.enforced and bill.reason ~= 0
  return bill
end

-- Sets aside what `afford` allowed.
local function take(wallet, base, bill, now)
  wallet.changed = true
  if bill.package == '-' then
    if bill.money > 0 then
      wallet.h = wallet.h + bill.money
      local s = spent(wallet, bill.key)
      s.held = s.held + bill.money
    end
  else
    local p = package(wallet, bill.package)
    if p then p.held = p.held + bill.tokens end
  end
  redis.call('ZADD', base .. 'm', number(now + bill.life), bill.hold)
  redis.call('HSET', base .. 'n', bill.hold,
    table.concat({ bill.key, number(bill.money), bill.package, number(bill.tokens) }, ' '))
end

-- What is free of that which pays.
local function free(wallet, bill)
  local p = bill.package ~= '-' and package(wallet, bill.package)
  if p then return p.left - p.held end
  return bill.name == '-' and wallet.b - wallet.h or 0
end

-- The wallet's key ends in `w`; the others of the account begin like it.
local function base_of(key) return string.sub(key, 1, -2) end

tollgate.money = { open = open, close = close, apply = apply, expire = expire, afford = afford, take = take, free = free, base_of = base_of }

-- Charges alone. KEYS: the wallet. ARGV: now, then as for `apply`. Answers: the last number that is applied,
-- 1 if one is missing before them, what is free of the balance; nothing if there is no such account.
local function settle(keys, args)
  local wallet, base = open(keys[1]), base_of(keys[1])
  if not wallet then return {} end
  local mark, gap = apply(wallet, base, args, 2)
  close(wallet)
  return { mark, gap and 1 or 0, wallet.b - wallet.h }
end

-- Holds of requests that are still in flight. KEYS: the wallet. ARGV: now, their life, their ids.
local function extend(keys, args)
  local expires = number(tollgate.clock(args[1]) + tonumber(args[2]))
  for i = 3, #args do redis.call('ZADD', base_of(keys[1]) .. 'm', 'XX', expires, args[i]) end
  return 1
end

-- Gives holds back of which nobody knows whether they were taken. KEYS: the wallet. ARGV: now, their ids.
local function forget(keys, args)
  local wallet, base = open(keys[1]), base_of(keys[1])
  if not wallet then return 0 end
  for i = 2, #args do
    local text = redis.call('HGET', base .. 'n', args[i])
    if redis.call('ZREM', base .. 'm', args[i]) == 1 and text then
      redis.call('HDEL', base .. 'n', args[i])
      local w = words(text, 4)
      release(wallet, w[1], whole(w[2]), w[3], whole(w[4]))
    end
  end
  close(wallet)
  return 1
end

-- An operator's entry, once. KEYS: the wallet, what remembers the Idempotency-Key (or the wallet again). ARGV:
-- now, open | top_up | refund | grant, the amount or the tokens, the entry's id, its JSON, the fingerprint
-- (or empty), how long it is remembered in seconds; of a grant the package's name and its validity in ms.
-- Answers: ok; before, the id; reused; exists; unknown; short, what is free; large.
local function post(keys, args)
  local now, kind, amount, id = tollgate.clock(args[1]), args[2], whole(args[3]), args[4]
  if args[6] ~= '' then
    local before = redis.call('GET', keys[2])
    if before then
      local w = words(before, 2)
      if w[1] ~= args[6] then return { 'reused' } end
      return { 'before', w[2] }
    end
  end
  local wallet, base = open(keys[1]), base_of(keys[1])
  if kind == 'open' then
    if wallet then return { 'exists' } end
    wallet = { key = keys[1], b = 0, h = 0, t = 0, spent = {}, packages = {} }
  end
  if not wallet then return { 'unknown' } end
  wallet.changed = true
  expire(wallet, base, now)
  if kind == 'open' or kind == 'top_up' then
    if math.abs(wallet.b + amount) > EXACT then return { 'large' } end
    wallet.b = wallet.b + amount
  elseif kind == 'refund' then
    if wallet.b - wallet.h < amount then
      close(wallet)
      return { 'short', number(wallet.b - wallet.h) }
    end
    wallet.b = wallet.b - amount
  else
    local granted = { name = args[8], tokens = amount, left = amount, held = 0, granted = now, expires = math.min(now + whole(args[9]), EXACT) }
    wallet.packages[id] = granted
    -- What was used up or ran out long ago is not looked through with every request for ever.
    local list = { id }
    for other in string.gmatch(redis.call('HGET', keys[1], 'P') or '', '%S+') do
      local p = package(wallet, other)
      if p and (p.held > 0 or p.expires + 90 * DAY > now) then
        list[#list + 1] = other
      else
        wallet.packages[other] = false
        redis.call('HDEL', keys[1], 'p' .. other)
      end
    end
    table.sort(list, function(a, b) return wallet.packages[a].expires < wallet.packages[b].expires end)
    redis.call('HSET', keys[1], 'P', table.concat(list, ' '))
  end
  close(wallet)
  redis.call('RPUSH', base .. 'e', args[5])
  if args[6] ~= '' then redis.call('SET', keys[2], args[6] .. ' ' .. id, 'EX', args[7]) end
  return { 'ok' }
end

-- Compares the sums of an account with what they are sums of. KEYS: the wallet. Answers lines of: which sum, as
-- it is stored, as it should be.
local function verify(keys, args)
  local wallet, base = open(keys[1]), base_of(keys[1])
  if not wallet then return {} end
  local balance, tokens, days, months = 0, 0, {}, {}
  for _, text in ipairs(redis.call('LRANGE', base .. 'e', 0, -1)) do
    local entry = cjson.decode(text).entry
    local amount = whole(entry.amount or 0)
    if entry.kind == 'refund' then balance = balance - amount else balance = balance + amount end
  end
  for _, day in ipairs(redis.call('SMEMBERS', base .. 'd')) do
    local rows, month = redis.call('HGETALL', base .. 'u:' .. day), month_of(whole(day))
    for i = 1, #rows, 2 do
      local w = words(rows[i + 1], SUMS)
      local cost, key = whole(w[10]), string.match(rows[i], '^[^\31]*')
      balance, tokens = balance - cost, tokens + whole(w[12])
      days[key .. ' ' .. day] = (days[key .. ' ' .. day] or 0) + cost
      months[key .. ' ' .. month] = (months[key .. ' ' .. month] or 0) + cost
    end
  end
  local found = {}
  local function compare(what, stored, expected)
    if stored ~= expected then found[#found + 1] = { what, number(stored), number(expected) } end
  end
  compare('balance', wallet.b, balance)
  compare('package tokens', wallet.t, tokens)
  local held, by_key, by_package = 0, {}, {}
  local holds = redis.call('HGETALL', base .. 'n')
  for i = 1, #holds, 2 do
    local w = words(holds[i + 1], 4)
    if w[3] == '-' then
      held = held + whole(w[2])
      by_key[w[1]] = (by_key[w[1]] or 0) + whole(w[2])
    else
      by_package[w[3]] = (by_package[w[3]] or 0) + whole(w[4])
    end
  end
  compare('held', wallet.h, held)
  local fields = redis.call('HGETALL', wallet.key)
  for i = 1, #fields, 2 do
    local kind, id = string.sub(fields[i], 1, 1), string.sub(fields[i], 2)
    if kind == 'k' then
      local s = spent_of(fields[i + 1])
      compare('key ' .. id .. ' held', s.held, by_key[id] or 0)
      compare('key ' .. id .. ' day', s.daily, days[id .. ' ' .. number(s.day)] or 0)
      compare('key ' .. id .. ' month', s.monthly, months[id .. ' ' .. number(s.month)] or 0)
    elseif kind == 'p' then
      compare('package ' .. id .. ' held', package_of(fields[i + 1]).held, by_package[id] or 0)
    end
  end
  return found
end

redis.register_function('tollgate_charge_VERSION', settle)
redis.register_function('tollgate_extend_VERSION', extend)
redis.register_function('tollgate_forget_VERSION', forget)
redis.register_function('tollgate_post_VERSION', post)
redis.register_function{ function_name = 'tollgate_verify_VERSION', callback = verify, flags = { 'no-writes' } }
