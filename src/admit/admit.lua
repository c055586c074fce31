-- Admission in Redis, one round trip for all who ask at the same moment: limits and money, for each everything or
-- nothing, one after the other.
-- ARGV: now, what the names of the node's holds of limits begin with, how long these live; then groups, each of one
-- subject: how many arguments it has, how many keys (levels, holds; where there is something to pay the wallet, whose
-- key begins like all of its account), as for `limit.open`, how many ask, of each the estimate and its hold, with a
-- wallet also what `money.afford` wants; with a wallet then as for `money.payer`, and as for `money.apply`, of charges
-- that came before.
-- Answers of each group: of each who asks the reason (0: admitted, else 1 + its place in Reason::ALL), the wait in ms
-- (-1: unknown), the levels of both buckets, the day and its tokens; with a wallet then the reason (0: it can be paid
-- for, else 1 + its place in Reason::ALL; -1: there is no such account), what is left of what is short, when that
-- is reset (-1: never), the day and the month, what is free now of the balance or the package, and the package that pays
-- (or -); before all of them the last number of a charge that is applied (-1: none was sent), and 1 if something must be
-- sent again. Of a group with values that cannot be: what is said of them.

local EXACT = 2 ^ 53

local function group(keys, k, args, at, node, life, now)
  local limit, money, paying = tollgate.limit, tollgate.money, args[at] == '3'
  local asks = at + 9 + 3 * tonumber(args[at + 8])
  local many, width = tonumber(args[asks]), paying and 5 or 2
  local wallet, payer, said = nil, nil, {}
  if paying then
    local mark, gap, at = -1, false, asks + 1 + many * width
    payer = money.payer(args, at, now)
    wallet = money.open(keys[k + 2], payer.key)
    if wallet then
      money.expire(wallet, now)
      mark, gap = money.apply(wallet, args, at + 8, now)
    end
    said = { mark, gap and 1 or 0 }
  end
  local subject = limit.open(keys[k], keys[k + 1], args, at + 1, node, life, many, now)
  local state = subject.state
  for i = asks + 1, asks + many * width, width do
    local estimate, bill = tonumber(args[i]), nil
    if wallet then bill = money.afford(wallet, payer, args, i + 2) end
    local reason, wait = limit.ask(subject, estimate)
    if reason == 0 and (not paying or (bill and not bill.refused)) then
      limit.take(subject, estimate, args[i + 1])
      if bill then money.take(wallet, bill, payer.expires) end
    end
    local n = #said
    said[n + 1], said[n + 2], said[n + 3], said[n + 4] = reason, wait, state.r.level, state.t.level
    said[n + 5], said[n + 6] = state.d, math.min(state.s, EXACT)
    if bill then
      said[n + 7], said[n + 8], said[n + 9], said[n + 10] = bill.reason, bill.left, bill.resets, payer.day
      said[n + 11], said[n + 12], said[n + 13] = payer.month, money.free(wallet, bill), bill.package
    elseif paying then
      for field, value in ipairs({ -1, 0, -1, 0, 0, 0, '-' }) do said[n + 6 + field] = value end
    end
  end
  limit.close(subject)
  if wallet then money.close(wallet) end
  return said
end

local function admit(keys, args)
  local now, node, life = tollgate.clock(args[1]), args[2], tonumber(args[3])
  local all, k, at = {}, 1, 4
  while args[at] do
    -- Values of one account that cannot be are nothing that others are to suffer from. They are found before anything is
    -- written.
    local done, said = pcall(group, keys, k, args, at + 1, node, life, now)
    if not done then
      local why = type(said) == 'table' and said.err or tostring(said)
      if not string.find(why, 'TOLLGATE', 1, true) and not string.find(why, 'WRONGTYPE', 1, true) then error(said) end
      said = why
    end
    all[#all + 1] = said
    k, at = k + tonumber(args[at + 1]), at + 1 + tonumber(args[at])
  end
  return all
end

redis.register_function('tollgate_admit_VERSION', admit)
