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

local form = tollgate.form

local function number(n) return string.format(form('d'), n) end

local function words(text, count)
  return tollgate.words(text, count) or error({ err = 'TOLLGATE a record of an account is none' })
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
  return string.format(form('d d d d d'), s.held, s.day, s.daily, s.month, s.monthly)
end

local function package_of(text)
  local w = words(text, 6)
  return { name = w[1], tokens = whole(w[2]), left = whole(w[3]), held = whole(w[4]), granted = whole(w[5]), expires = whole(w[6]) }
end

local function package_text(p)
  return string.format(form('s d d d d d'), p.name, p.tokens, p.left, p.held, p.granted, p.expires)
end

-- What a call reads of an account once, and writes back once: `close` is the only one that writes. What `key`, if it
-- is given, has spent is read along.
local function open(name, key)
  local sums = key and redis.call('HMGET', name, 'b', 'h', 't', 'e', 'k' .. key) or redis.call('HMGET', name, 'b', 'h', 't', 'e')
  if not sums[1] then return nil end
  return {
    key = name, base = string.sub(name, 1, -2), b = whole(sums[1]), h = whole(sums[2] or 0), t = whole(sums[3] or 0), e = whole(sums[4] or 0),
    spent = {}, packages = {}, holds = {}, rows = {}, days = {}, changed = false,
    -- A key that has never spent anything is written only once it does.
    read = key and { [key] = sums[5] or '' } or {},
  }
end

local function spent(wallet, id)
  local known = wallet.spent[id]
  if not known then
    local text = wallet.read[id] or redis.call('HGET', wallet.key, 'k' .. id)
    known = spent_of(text ~= '' and text)
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

-- A hold's record; false if there is none.
local function record_of(text)
  if not text then return false end
  local w = words(text, 4)
  return { key = w[1], money = whole(w[2]), package = w[3], tokens = whole(w[4]) }
end

-- Reads the records of holds, all at once.
local function find(wallet, names)
  if #names == 0 then return end
  local texts = redis.call('HMGET', wallet.base .. 'n', unpack(names))
  for n, name in ipairs(names) do
    if wallet.holds[name] == nil then wallet.holds[name] = record_of(texts[n]) end
  end
end

-- A hold's record; false if it is gone.
local function hold_of(wallet, id)
  if wallet.holds[id] == nil then find(wallet, { id }) end
  return wallet.holds[id]
end

-- The packages' ids, by expiry.
local function ids(wallet)
  local list = {}
  for id in string.gmatch(redis.call('HGET', wallet.key, 'P') or '', '%S+') do list[#list + 1] = id end
  return list
end

-- Usage rows: requests, input, cached, cache write, output, reasoning, images, characters, seconds, cost,
-- the estimated part of it, tokens of packages.
local SUMS = 12

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
  local ended, times, records = {}, {}, {}
  for id, hold in pairs(wallet.holds) do
    if hold and hold.ended then
      ended[#ended + 1] = id
    elseif hold and hold.expires then
      local n = #times
      times[n + 1], times[n + 2] = number(hold.expires), id
      records[n + 1], records[n + 2] = id, string.format(form('s d s d'), hold.key, hold.money, hold.package, hold.tokens)
    end
  end
  if #ended > 0 then
    redis.call('ZREM', base .. 'm', unpack(ended))
    redis.call('HDEL', base .. 'n', unpack(ended))
  end
  if #times > 0 then
    redis.call('ZADD', base .. 'm', unpack(times))
    redis.call('HSET', base .. 'n', unpack(records))
  end
  for day, rows in pairs(wallet.rows) do
    for row, values in pairs(rows) do
      for i = 1, #values do values[i] = within(values[i]) end
      redis.call('HSET', base .. 'u:' .. number(day), row, string.format(form('d d d d d d d d d d d d'), unpack(values)))
    end
  end
  for day, sums in pairs(wallet.days) do
    redis.call('HSET', base .. 'd', number(day), string.format(form('d d'), within(sums[1]), within(sums[2])))
  end
  if wallet.mark then redis.call('HSET', base .. 'a', wallet.mark.epoch, string.format(form('d d'), wallet.mark.seq, wallet.mark.at)) end
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
  local expired = redis.call('ZRANGEBYSCORE', wallet.base .. 'm', '-inf', number(now), 'LIMIT', 0, 64)
  find(wallet, expired)
  for _, id in ipairs(expired) do release(wallet, id) end
end

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

-- The sum of charges that are alike, from `i` on: see `write_row` in billing/redis/batch.rs.
local FIELDS = 17
local function charge(wallet, args, i, holds, now, today)
  local key, pack, source = args[i], args[i + 3], args[i + 4]
  local day, month, cost = math.min(whole(args[i + 5]), today.day), math.min(whole(args[i + 6]), today.month), whole(args[i + 7])
  local values, tokens = {}, 0
  for n = 1, 9 do values[n] = whole(args[i + 7 + n]) end
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
      -- One charge alone: of which hold stands behind the name.
      local name, nth = string.match(pack, '^%?(.*) (%d+)$')
      local hold = holds[tonumber(nth)]
      pack = hold and hold.package ~= '-' and hold.package or package_named(wallet, name, now)
    end
    local p = pack and package(wallet, pack)
    if p then p.left = p.left - tokens end
  end
  values[10], values[11], values[12] = cost, source == 'e' and cost or 0, tokens
  count(wallet, day, key .. '\31' .. args[i + 1] .. '\31' .. args[i + 2], values)
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

-- Applies charges of one journal, each once: from `i` on where days begin, the epoch, the number that the first of
-- them follows, that of the last, how many holds they end, which, how many sums they are, and these. What was applied
-- in part is not applied again: the rest is to be sent by itself. Answers the last number that is applied (-1: none
-- was sent), and whether something must be sent again.
local function apply(wallet, args, i, now)
  local today, epoch, previous, last = today_of(now, whole(args[i])), args[i + 1], whole(args[i + 2]), whole(args[i + 3])
  local many = whole(args[i + 4])
  if last == previous then return -1, false end
  local mark = mark_of(wallet, epoch, now)
  if mark ~= previous then return mark, mark < last end
  local names, holds = {}, {}
  for n = 1, many do names[n] = epoch .. '.' .. args[i + 4 + n] end
  find(wallet, names)
  for n, name in ipairs(names) do holds[n] = release(wallet, name) end
  local rows = i + 6 + many
  for at = rows, rows + (whole(args[rows - 1]) - 1) * FIELDS, FIELDS do charge(wallet, args, at, holds, now, today) end
  wallet.changed, wallet.mark = true, { epoch = epoch, seq = last, at = now }
  return last, false
end

-- Who pays for the requests of a call. From `i` on: enforce or observe, the key, the package's name (empty: the
-- balance pays), the caps of the day and the month (-1: none), where days begin, what the names of holds begin with,
-- and how long they live.
local function payer(args, i, now)
  local offset = whole(args[i + 5])
  local today = today_of(now, offset)
  return {
    enforced = args[i] == 'enforce', key = args[i + 1], name = args[i + 2], daily = whole(args[i + 3]),
    monthly = whole(args[i + 4]), offset = offset, epoch = args[i + 6], expires = now + whole(args[i + 7]), now = now,
    day = today.day, month = today.month,
  }
end

-- Whether one of them can be paid for: at `i` its money, its tokens and its hold.
local function afford(wallet, payer, args, i)
  local bill = {
    money = whole(args[i]), tokens = whole(args[i + 1]), hold = payer.epoch .. '.' .. args[i + 2], package = '-',
    key = payer.key, name = payer.name, reason = 0, left = 0, resets = -1,
  }
  local function short(reason, left, resets)
    if bill.reason == 0 then bill.reason, bill.left, bill.resets = reason, left, resets end
  end
  if bill.name ~= '' then
    local needed, most, last = math.max(bill.tokens, 1), 0, nil
    for _, id in ipairs(ids(wallet)) do
      local p = package(wallet, id)
      if p and p.name == bill.name then
        last = id
        if p.expires > payer.now then
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
    if payer.daily >= 0 or payer.monthly >= 0 then
      local s = spent(wallet, bill.key)
      local left = payer.daily - s.held - (s.day >= payer.day and s.daily or 0)
      if payer.daily >= 0 and left < bill.money then short(3, left, (payer.day + 1) * DAY - payer.offset) end
      left = payer.monthly - s.held - (s.month >= payer.month and s.monthly or 0)
      if payer.monthly >= 0 and left < bill.money then
        local day = payer.day + 1
        while month_of(day) == payer.month do day = day + 1 end
        short(4, left, day * DAY - payer.offset)
      end
    end
  end
  bill.refused = payer.enforced and bill.reason ~= 0
  -- What there is not cannot be set aside.
  if bill.reason ~= 0 then bill.money, bill.tokens = 0, 0 end
  return bill
end

-- Sets aside what `afford` allowed.
local function take(wallet, bill, expires)
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
  wallet.holds[bill.hold] = { key = bill.key, money = bill.money, package = bill.package, tokens = bill.tokens, expires = expires }
end

-- What is free of that which pays.
local function free(wallet, bill)
  local p = bill.package ~= '-' and package(wallet, bill.package)
  if p then return p.left - p.held end
  return bill.name == '' and wallet.b - wallet.h or 0
end

tollgate.money = { open = open, close = close, apply = apply, expire = expire, payer = payer, afford = afford, take = take, free = free }

-- Charges alone. KEYS: the wallet. ARGV: now, then as for `apply`. Answers: the last number that is applied,
-- 1 if something must be sent again, what is free of the balance; nothing if there is no such account.
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
    wallet = { key = keys[1], base = string.sub(keys[1], 1, -2), b = 0, h = 0, t = 0, e = 0, spent = {}, packages = {}, holds = {}, rows = {}, days = {}, read = {} }
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
