-- Admission in Redis, one round trip: limits and money, everything or nothing.
-- KEYS: levels, holds; where there is something to pay the wallet, whose key begins like all of its account.
-- ARGV: now, then as for `limit.ask`; with a wallet then as for `money.apply`, of charges that came before, and
-- as for `money.afford`. Answers: the limits' six numbers; with a wallet then the reason (0: it can be paid for,
-- else 1 + its place in Reason::ALL; -1: there is no such account), what is left of what is short, when that is
-- reset (-1: never), the day and the month, what is free now of the balance or the package, the last number
-- that is applied (-1: none was sent), 1 if one is missing before them, and the package that pays (or -).
local function admit(keys, args)
  local now = tollgate.clock(args[1])
  if not keys[3] then
    local request = tollgate.limit.ask(keys, args, now)
    if request.reason == 0 then tollgate.limit.take(request) else tollgate.limit.leave(request) end
    return tollgate.limit.tell(request)
  end
  -- The money is read and checked before the limits write anything.
  local money, wallet, bill, mark, gap, next = tollgate.money, tollgate.money.open(keys[3]), nil, -1, false, nil
  if wallet then
    money.expire(wallet, now)
    mark, gap, next = money.apply(wallet, args, tollgate.limit.after(args), now)
    bill = money.afford(wallet, args, next, now)
  end
  local request = tollgate.limit.ask(keys, args, now)
  local paid = { -1, 0, -1, 0, 0, 0, -1, 0, '-' }
  if not bill or bill.refused or request.reason ~= 0 then
    tollgate.limit.leave(request)
  else
    tollgate.limit.take(request)
    money.take(wallet, bill, now)
  end
  if bill then
    money.close(wallet)
    paid = { bill.reason, bill.left, bill.resets, bill.day, bill.month, money.free(wallet, bill), mark, gap and 1 or 0, bill.package }
  end
  local said = tollgate.limit.tell(request)
  for _, value in ipairs(paid) do said[#said + 1] = value end
  return said
end

redis.register_function('tollgate_admit_VERSION', admit)
