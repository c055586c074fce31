-- Balances in Redis: wallet.rs once more, in whole numbers up to 2^53, by Redis' own clock.
--
-- An account is these keys, all in one slot:
--   ...:w    hash: b balance, h held of it, t tokens that packages ever lost, e the sum of its entries; all but
--                  tokens in micro-units
--                  k<key>      held, day, spent that day, month, spent that month
--                  p<package>  name, tokens, left, held, granted, expires (milliseconds since 1970)
--                  P           the packages' ids, by expiry
--   ...:m    sorted set: holds, by when they expire unless renewed
--   ...:n    hash: of each hold the key, the money, the package (or -), the tokens
--   ...:a    hash: of each journal's epoch the last charge that was applied, and when
--   ...:d    hash: of each day that has usage what it cost, and the tokens that packages lost
--   ...:u:N  hash: day N's usage: key, project, model (between bytes 31) -> the sums of UsageRow
--   ...:e    list: the entries, as JSON
-- Everything is read and checked before anything is written: Redis takes nothing back when a function fails. A
-- value that cannot be ends the call with an error: garbage neither pays nor is written over.

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

-- What a call reads of an account once, and writes back once: `close` is the only one that writes.
local function open(key)
  local sums = redis.call('HMGET', key, 'b', 'h', 't', 'e')
  if not sums[1] then return nil end
  return {
    key = key, base = string.sub(key, 1, -2), b = whole(sums[1]), h = whole(sums[2] or 0), t = whole(sums[3] or 0), e = whole(sums[4] or 0),
    spent = {}, packages = {}, holds = {}, rows = {}, days = {}, changed = false,
  }
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

-- A hold's record; false if it is gone.
local function hold_of(wallet, id)
  local known = wallet.holds[id]
  if known == nil then
    local text = redis.call('ZSCORE', wallet.base .. 'm', id) and redis.call('HGET', wallet.base .. 'n', id)
    known = false
    if text then
      local w = words(text, 4)
      known = { key = w[1], money = whole(w[2]), package = w[3], tokens = whole(w[4]) }
    end
    wallet.holds[id] = known
  end
  return known
end

-- The packages' ids, by expiry.
local function ids(wallet)
  local list = {}
  for id in string.gmatch(redis.call('HGET', wallet.key, 'P') or '', '%S+') do list[#list + 1] = id end
  return list
end

-- Sums end where doubles are exact.
local function within(n) return math.max(math.min(n, EXACT), -EXACT) end

local function close(wallet)
  if not wallet.changed then return end
  local base = wallet.base
  local fields = { 'b', number(within(wallet.b)), 'h', number(within(wallet.h)), 't', number(within(wallet.t)), 'e', number(within(wallet.e)) }
  for id, s in pairs(wallet.spent) do
    s.held, s.daily, s.monthly = within(s.held), within(s.daily), within(s.monthly)
    fields[#fields + 1], fields[#fields + 2] = 'k' .. id, spent_text(s)
  end
  for id, p in pairs(wallet.packages) do
    if p then
      p.left, p.held = within(p.left), within(p.held)
      fields[#fields + 1], fields[#fields + 2] = 'p' .. id, package_text(p)
    end
  end
  redis.call('HSET', wallet.key, unpack(fields))
  for id, hold in pairs(wallet.holds) do
    if hold and hold.ended then
      redis.call('ZREM', base .. 'm', id)
      redis.call('HDEL', base .. 'n', id)
    elseif hold and hold.expires then
      redis.call('ZADD', base .. 'm', number(hold.expires), id)
      redis.call('HSET', base .. 'n', id, table.concat({ hold.key, number(hold.money), hold.package, number(hold.tokens) }, ' '))
    end
  end
  for day, rows in pairs(wallet.rows) do
    for row, values in pairs(rows) do
      for i = 1, #values do values[i] = number(within(values[i])) end
      redis.call('HSET', base .. 'u:' .. number(day), row, table.concat(values, ' '))
    end
  end
  for day, sums in pairs(wallet.days) do
    redis.call('HSET', base .. 'd', number(day), number(within(sums[1])) .. ' ' .. number(within(sums[2])))
  end
  if wallet.mark then redis.call('HSET', base .. 'a', wallet.mark.epoch, number(wallet.mark.seq) .. ' ' .. number(wallet.mark.at)) end
end

-- Gives back what a hold has set aside; what that was is what Redis has noted of it.
local function release(wallet, id)
  local hold = hold_of(wallet, id)
  if not hold or hold.ended then return nil end
  wallet.changed, hold.ended = true, true
  if hold.package == '-' then
    wallet.h = math.max(wallet.h - hold.money, 0)
    if hold.money > 0 then
      local s = spent(wallet, hold.key)
      s.held = math.max(s.held - hold.money, 0)
    end
  else
    local p = package(wallet, hold.package)
    if p then p.held = math.max(p.held - hold.tokens, 0) end
  end
  return hold
end

local function expire(wallet, now)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', wallet.base .. 'm', '-inf', number(now), 'LIMIT', 0, 64)) do
    release(wallet, id)
  end
end

-- Usage rows: requests, input, cached, cache write, output, reasoning, images, characters, seconds, cost,
-- the estimated part of it, tokens of packages.
local SUMS = 12

local function count(wallet, day, row, values)
  local rows = wallet.rows[day] or {}
  wallet.rows[day] = rows
  local sums = rows[row]
  if not sums then
    sums = {}
    local before = redis.call('HGET', wallet.base .. 'u:' .. number(day), row)
    local w = before and words(before, SUMS)
    for i = 1, SUMS do sums[i] = w and whole(w[i]) or 0 end
    rows[row] = sums
  end
  for i = 1, SUMS do sums[i] = sums[i] + values[i] end
  local total = wallet.days[day]
  if not total then
    local before = redis.call('HGET', wallet.base .. 'd', number(day))
    local w = before and words(before, 2) or { 0, 0 }
    total = { whole(w[1]), whole(w[2]) }
    wallet.days[day] = total
  end
  total[1], total[2] = total[1] + values[10], total[2] + values[12]
end

-- A period that lies ahead is one of a clock that was wrong: what was counted then counts now.
local function settle_down(s, today)
  if s.day > today.day then s.day = today.day end
  if s.month > today.month then s.month = today.month end
end

-- The package that pays where nobody could ask: of this name the first that is open, or else the last.
local function package_named(wallet, name, now)
  local last
  for _, id in ipairs(ids(wallet)) do
    local p = package(wallet, id)
    if p and p.name == name then
      last = id
      if p.expires > now and p.left > 0 then return id end
    end
  end
  return last
end

-- One charge: its number from `i` on, and what `write_charge` in billing/redis.rs puts behind it.
local FIELDS = 18
local function charge(wallet, args, i, now, today)
  local key, pack, source = args[i + 2], args[i + 5], args[i + 6]
  local day, month, cost = math.min(whole(args[i + 7]), today.day), math.min(whole(args[i + 8]), today.month), whole(args[i + 9])
  local values, tokens = { 1 }, 0
  for n = 1, 8 do values[n + 1] = whole(args[i + 9 + n]) end
  local hold = release(wallet, args[i + 1])
  if source == 'n' then return end
  wallet.changed = true
  if pack == '-' then
    if cost > 0 then
      wallet.b = wallet.b - cost
      local s = spent(wallet, key)
      settle_down(s, today)
      if day > s.day then s.day, s.daily = day, 0 end
      if month > s.month then s.month, s.monthly = month, 0 end
      if day == s.day then s.daily = s.daily + cost end
      if month == s.month then s.monthly = s.monthly + cost end
    end
  else
    cost, tokens = 0, values[2] + values[5]
    wallet.t = wallet.t + tokens
    if string.sub(pack, 1, 1) == '?' then
      pack = hold and hold.package ~= '-' and hold.package or package_named(wallet, string.sub(pack, 2), now)
    end
    local p = pack and package(wallet, pack)
    if p then p.left = p.left - tokens end
  end
  values[10], values[11], values[12] = cost, source == 'e' and cost or 0, tokens
  count(wallet, day, key .. '\31' .. args[i + 3] .. '\31' .. args[i + 4], values)
end

local function today_of(now, offset)
  local day = math.floor((now + offset) / DAY)
  return { day = day, month = month_of(day) }
end

-- Marks of journals that nobody has used for so long are forgotten: their files are gone.
local FORGOTTEN = 90 * DAY

-- The last charge of a journal that is applied.
local function mark_of(wallet, epoch, now)
  local text = redis.call('HGET', wallet.base .. 'a', epoch)
  if text then return whole(words(text, 2)[1]) end
  if redis.call('HLEN', wallet.base .. 'a') >= 32 then
    local all = redis.call('HGETALL', wallet.base .. 'a')
    for i = 1, #all, 2 do
      if whole(words(all[i + 1], 2)[2]) < now - FORGOTTEN then redis.call('HDEL', wallet.base .. 'a', all[i]) end
    end
  end
  return 0
end

-- Applies the charges of one journal, each once: from `i` on where days begin, the epoch, the number that the first of
-- them follows, how many, and the charges, in order. Answers the last number that is applied (-1: none was sent), and
-- whether one before them is missing; the next argument stands at the third value.
local function apply(wallet, args, i, now)
  local today, epoch, previous, many = today_of(now, whole(args[i])), args[i + 1], whole(args[i + 2]), whole(args[i + 3])
  local after = i + 4 + many * FIELDS
  if many == 0 then return -1, false, after end
  local mark = mark_of(wallet, epoch, now)
  if mark < previous then return mark, true, after end
  for n = 0, many - 1 do
    local at = i + 4 + n * FIELDS
    local seq = whole(args[at])
    if seq > mark then
      charge(wallet, args, at, now, today)
      mark = seq
    end
  end
  wallet.changed, wallet.mark = true, { epoch = epoch, seq = mark, at = now }
  return mark, false, after
end

-- Whether a request can be paid for. From `i` on: enforce or observe, the key, the package's name (empty: the balance
-- pays), money, tokens, the caps of the day and the month (-1: none), where days begin, the hold and its life.
local function afford(wallet, args, i, now)
  local bill = {
    enforced = args[i] == 'enforce', key = args[i + 1], name = args[i + 2], money = whole(args[i + 3]),
    tokens = whole(args[i + 4]), hold = args[i + 8], life = whole(args[i + 9]), package = '-',
    reason = 0, left = 0, resets = -1,
  }
  local daily, monthly, offset = whole(args[i + 5]), whole(args[i + 6]), whole(args[i + 7])
  local today = today_of(now, offset)
  bill.day, bill.month = today.day, today.month
  local function short(reason, left, resets)
    if bill.reason == 0 then bill.reason, bill.left, bill.resets = reason, left, resets end
  end
  if bill.name ~= '' then
    local needed, most, last = math.max(bill.tokens, 1), 0, nil
    for _, id in ipairs(ids(wallet)) do
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
      bill.package = last or '?' .. bill.name
    end
    bill.money = 0
  elseif bill.money > 0 then
    if wallet.b - wallet.h < bill.money then short(1, wallet.b - wallet.h, -1) end
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
  -- What there is not cannot be set aside.
  if bill.reason ~= 0 then bill.money, bill.tokens = 0, 0 end
  return bill
end

-- Sets aside what `afford` allowed.
local function take(wallet, bill, now)
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
  wallet.holds[bill.hold] = { key = bill.key, money = bill.money, package = bill.package, tokens = bill.tokens, expires = now + bill.life }
end

-- What is free of that which pays.
local function free(wallet, bill)
  local p = bill.package ~= '-' and package(wallet, bill.package)
  if p then return p.left - p.held end
  return bill.name == '' and wallet.b - wallet.h or 0
end

tollgate.money = { open = open, close = close, apply = apply, expire = expire, afford = afford, take = take, free = free }

-- Charges alone. KEYS: the wallet. ARGV: now, then as for `apply`. Answers: the last number that is applied,
-- 1 if one is missing before them, what is free of the balance; nothing if there is no such account.
local function settle(keys, args)
  local wallet = open(keys[1])
  if not wallet then return {} end
  local mark, gap = apply(wallet, args, 2, tollgate.clock(args[1]))
  close(wallet)
  return { mark, gap and 1 or 0, wallet.b - wallet.h }
end

-- Holds of requests that are still in flight. KEYS: the wallet. ARGV: now, their life, their ids.
local function extend(keys, args)
  local expires, base = number(tollgate.clock(args[1]) + tonumber(args[2])), string.sub(keys[1], 1, -2)
  for i = 3, #args do redis.call('ZADD', base .. 'm', 'XX', expires, args[i]) end
  return 1
end

-- Gives holds back: those that have expired, and those of which nobody knows whether they were taken. KEYS: the
-- wallet. ARGV: now, the ids of the latter.
local function forget(keys, args)
  local wallet = open(keys[1])
  if not wallet then return 0 end
  expire(wallet, tollgate.clock(args[1]))
  for i = 2, #args do release(wallet, args[i]) end
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
  local wallet = open(keys[1])
  if kind == 'open' then
    if wallet then return { 'exists' } end
    wallet = { key = keys[1], base = string.sub(keys[1], 1, -2), b = 0, h = 0, t = 0, e = 0, spent = {}, packages = {}, holds = {}, rows = {}, days = {} }
  end
  if not wallet then return { 'unknown' } end
  expire(wallet, now)
  local list
  if kind == 'open' or kind == 'top_up' then
    if math.abs(wallet.b + amount) > EXACT or math.abs(wallet.e + amount) > EXACT then return { 'large' } end
    wallet.b, wallet.e = wallet.b + amount, wallet.e + amount
  elseif kind == 'refund' then
    if wallet.b - wallet.h < amount then return { 'short', number(wallet.b - wallet.h) } end
    wallet.b, wallet.e = wallet.b - amount, wallet.e - amount
  else
    wallet.packages[id] = { name = args[8], tokens = amount, left = amount, held = 0, granted = now, expires = math.min(now + whole(args[9]), EXACT) }
    -- What was used up or ran out long ago is not looked through with every request for ever.
    list = { id }
    for _, other in ipairs(ids(wallet)) do
      local p = package(wallet, other)
      if p and (p.held > 0 or p.expires + 90 * DAY > now) then
        list[#list + 1] = other
      else
        wallet.packages[other] = false
        wallet.gone = wallet.gone or {}
        wallet.gone[#wallet.gone + 1] = 'p' .. other
      end
    end
    table.sort(list, function(x, y) return wallet.packages[x].expires < wallet.packages[y].expires end)
  end
  wallet.changed = true
  close(wallet)
  if list then redis.call('HSET', keys[1], 'P', table.concat(list, ' ')) end
  if wallet.gone then redis.call('HDEL', keys[1], unpack(wallet.gone)) end
  redis.call('RPUSH', wallet.base .. 'e', args[5])
  if args[6] ~= '' then redis.call('SET', keys[2], args[6] .. ' ' .. id, 'EX', args[7]) end
  return { 'ok' }
end

local function compare(found, what, stored, expected)
  if stored ~= expected then found[#found + 1] = { what, number(stored), number(expected) } end
end

-- Compares the sums of an account with each other: the balance with the sum of its entries and what each day cost,
-- holds with their records. It takes as long as there are days and requests in flight. KEYS: the wallet. Answers
-- lines of: which sum, as it is stored, as it should be.
local function verify(keys)
  local wallet = open(keys[1])
  if not wallet then return {} end
  local found, cost, tokens = {}, 0, 0
  local days = redis.call('HVALS', wallet.base .. 'd')
  for _, text in ipairs(days) do
    local w = words(text, 2)
    cost, tokens = cost + whole(w[1]), tokens + whole(w[2])
  end
  compare(found, 'balance', wallet.b, wallet.e - cost)
  compare(found, 'package tokens', wallet.t, tokens)
  local held, by_key, by_package = 0, {}, {}
  local holds = redis.call('HVALS', wallet.base .. 'n')
  for _, text in ipairs(holds) do
    local w = words(text, 4)
    if w[3] == '-' then
      held = held + whole(w[2])
      by_key[w[1]] = (by_key[w[1]] or 0) + whole(w[2])
    else
      by_package[w[3]] = (by_package[w[3]] or 0) + whole(w[4])
    end
  end
  compare(found, 'held', wallet.h, held)
  compare(found, 'holds', redis.call('ZCARD', wallet.base .. 'm'), #holds)
  local fields = redis.call('HGETALL', wallet.key)
  for i = 1, #fields, 2 do
    local kind, id = string.sub(fields[i], 1, 1), string.sub(fields[i], 2)
    if kind == 'k' then
      compare(found, 'key ' .. id .. ' held', spent_of(fields[i + 1]).held, by_key[id] or 0)
    elseif kind == 'p' then
      compare(found, 'package ' .. id .. ' held', package_of(fields[i + 1]).held, by_package[id] or 0)
    end
  end
  return found
end

-- Compares one day's usage with the day's sums, and with what keys have spent that day, if that is quick: a day with
-- more rows is compared by who asks, piece by piece. KEYS: the wallet. ARGV: the day. Answers as `verify` does; or
-- nothing for too many rows.
local QUICK = 500
local function verify_day(keys, args)
  local base, found = string.sub(keys[1], 1, -2), {}
  if redis.call('HLEN', base .. 'u:' .. args[1]) > QUICK then return false end
  local rows, cost, tokens, by_key = redis.call('HGETALL', base .. 'u:' .. args[1]), 0, 0, {}
  for i = 1, #rows, 2 do
    local w = words(rows[i + 1], SUMS)
    local key = string.match(rows[i], '^[^\31]*')
    cost, tokens = cost + whole(w[10]), tokens + whole(w[12])
    by_key[key] = (by_key[key] or 0) + whole(w[10])
  end
  local total = words(redis.call('HGET', base .. 'd', args[1]) or '0 0', 2)
  compare(found, 'day ' .. args[1], whole(total[1]), cost)
  compare(found, 'package tokens of day ' .. args[1], whole(total[2]), tokens)
  for key, sum in pairs(by_key) do
    local s = spent_of(redis.call('HGET', keys[1], 'k' .. key))
    if s.day == tonumber(args[1]) then compare(found, 'key ' .. key .. ' day', s.daily, sum) end
  end
  return found
end

redis.register_function('tollgate_charge_VERSION', settle)
redis.register_function('tollgate_extend_VERSION', extend)
redis.register_function('tollgate_forget_VERSION', forget)
redis.register_function('tollgate_post_VERSION', post)
redis.register_function{ function_name = 'tollgate_verify_VERSION', callback = verify, flags = { 'no-writes' } }
redis.register_function{ function_name = 'tollgate_verify_day_VERSION', callback = verify_day, flags = { 'no-writes' } }
