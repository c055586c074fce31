-- What the parts of the library share.
local tollgate = {}

-- Milliseconds since 1970. `given` is empty but in simulations.
function tollgate.clock(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

