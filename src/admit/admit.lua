-- Admission in Redis, one round trip: limits and money, everything or nothing.
-- KEYS: levels, holds; where there is something to pay the wallet, whose key begins like all of its account.
-- ARGV: now, then as for `limit.ask`; with a wallet then as for `money.apply`, of charges that came before, and
-- as for `money.afford`. Answers: the limits' six numbers; with a wallet then the reason (0: it can be paid for,
-- else 1 + its place in Reason::ALL; -1: there is no such account), what is left of what is short, when that is
-- reset (-1: never), the day and the month, what is free now of the balance or the package, the last number
-- that is applied (-1: none was sent), 1 if one is missing before them, and the package that pays (or -).
local function admit(keys, args)
  local now = tollgate.clock(args[1])
  local request = tollgate.limit.ask(keys, args, now)
  if not keys[3] then
    if request.reason == 0 then tollgate.limit.take(request) else tollgate.limit.leave(request) end
    return tollgate.limit.tell(request)
  end
  local money = tollgate.money
  local wallet, base = money.open(keys[3]), money.base_of(keys[3])
  local said = tollgate.limit.tell(request)
  if not wallet then
    tollgate.limit.leave(request)
    for _, value in ipairs({ -1, 0, -1, 0, 0, 0, -1, 0, '-' }) do said[#said + 1] = value end
    return said
  end
  money.expire(wallet, base, now)
  local mark, gap, next = money.apply(wallet, base, args, request.after)
  local bill = money.afford(wallet, args, next, now)
  if request.reason == 0 and not bill.refused then
    tollgate.limit.take(request)
    money.take(wallet, base, bill, now)
  else
    tollgate.limit.leave(request)
  end
  money.close(wallet)
  said = tollgate.limit.tell(request)
  local paid = { bill.reason, bill.left, bill.resets, bill.day, bill.month, money.free(wallet, bill), mark, gap and 1 or 0, bill.package }
  for _, value in ipairs(paid) do said[#said + 1] = value end
  return said
end

redis.register_function('tollgate_admit_VERSION', admit)
