-- What the parts of the library share.
local tollgate = {}

-- Records are written and read whole, which takes a quarter of the time that it takes word by word. While the library is
-- loaded nothing can be called yet, so that this is made when it is first asked for.
local forms, patterns = {}, {}

-- The format of a record: d for a whole number, s for a word. '%d' takes half the time of '%.0f', but has 32 bits where
-- Redis is a program of 32 bits.
function tollgate.form(words)
  local form = forms[words]
  if not form then
    local digits = string.format('%d', 2 ^ 52) == '4503599627370496' and '%d' or '%.0f'
    form = string.gsub(string.gsub(words, 's', '%%s'), 'd', '%' .. digits)
    forms[words] = form
  end
  return form
end

-- The words of a record, if it has so many.
function tollgate.words(text, count)
  local pattern = patterns[count]
  if not pattern then
    pattern = '^' .. string.rep('(%S+) ', count - 1) .. '(%S+)$'
    patterns[count] = pattern
  end
  local list = { string.match(text, pattern) }
  return #list == count and list or nil
end

-- Milliseconds since 1970. `given` is empty but in simulations.
function tollgate.clock(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

