--- `tidepool new NAME`: a script to start from.

local cli = require "tidepool.program.cli"
local words = require "tidepool.program.words"

local new = {}

local text = [==[
-- NAME: what it does, in a line.
--
--   tidepool FILE 10 20 30         calls app:main below; tidepool run FILE --help shows its options
--   tidepool --watch FILE runs it again whenever this file, or what it requires, is changed

local tidepool = require "tidepool"
local app = tidepool.App "NAME"

-- The work of one input. It runs in parallel, in a Lua state of its own: it sees the locals and
-- globals that it names, as they are when a map starts. `retries`, `timeout` and others: help
-- "retries" at the prompt of tidepool.
local work = app:func { retries = 1 } (function(x)
  return x * x
end)

app:main { args = { verbose = { false, "shows each result" } } } (function(args)
  local inputs = {}
  for i, word in ipairs(args) do inputs[i] = assert(tonumber(word), word .. " is no number") end
  if #inputs == 0 then inputs = { 1, 2, 3, 4 } end

  local sum = 0
  for i, result in work:map(inputs) do -- in the order of the inputs
    if args.verbose then print(inputs[i], result) end
    sum = sum + result
  end
  print(("%d inputs, together %g"):format(#inputs, sum))
end)
]==]

--- Writes NAME.lua, which must not be there yet.
---@return integer code, string? message
function new.main(...)
  local given, problem = words.parse("new", {}, ...)
  if problem then return 2, problem end
  if not given then return cli.help "new" end
  if #given ~= 1 then return 2, ("new: expected one NAME, got %d (see tidepool help new)"):format(#given) end
  local path = given[1]:find "%.lua$" and given[1] or given[1] .. ".lua"
  local name = path:match "([^/]*)%.lua$"
  if name == "" then return 2, ("new: '%s' is no name of a file"):format(given[1]) end
  local there = io.open(path)
  if there then
    there:close()
    return 1, ("new: %s is there already, and is left as it is"):format(path)
  end
  local file, why = io.open(path, "w")
  if not file then return 1, "new: cannot make " .. why end
  local values = { NAME = (name:gsub('[%c"\\]', "_")), FILE = words.typed((path:gsub("%c", "?"))) }
  local fine
  fine, why = file:write((text:gsub("%u%u%u%u", values)))
  local closed, why_not = file:close()
  if not fine or not closed then return 1, ("new: cannot write %s: %s"):format(path, why or why_not) end
  print(("%s: a function, and an app:main that maps it; tidepool %s runs it"):format(path, words.typed(path)))
  return 0
end

return new
