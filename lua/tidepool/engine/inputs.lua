--- Where a map's inputs come from: sources that fill a job. Which source it is, is decided here; they are in inputs/.
--
-- A source is { total = n or nil, is_cheap = boolean, block = numbers that the next block has at most, patience = seconds,
-- batch, wait = of a batched function (set by who starts the map): in blocks of so many, which are waited for so long;
-- bytes = what of inputs and results may wait before no more are read, if not the engine's,
-- may_pin = whether those who run the items can read this process's memory (set by who starts the map),
-- fill = function(job, room) -> done, failure, is_idle }: fill pushes up to `room` further inputs to the job (fewer when reading
-- them takes long) and says whether that were all; the Failure that ended them early: what the user's iterator raised, or an item
-- that is none; and whether nothing was there to push now: then it is asked again after `patience` seconds. One that is not cheap
-- may wait inside fill (in a task): others then call its function flush, so that the inputs before come to work, and set
-- has_waited, so that fill returns after the next one. One that is cheap and that gives_way (set by who calls fill) returns after
-- some 5 ms, and says in has_more whether further ones were there. Numbers are packed, column by column, by loops that LuaJIT compiles, and so
-- are numbers, strings, booleans and nil side by side (mixed.lua); everything else is encoded in C (core.job.add).

local abi = require "tidepool.base.abi"
local array = require "tidepool.array"
local check = require "tidepool.base.check"
local indexed = require "tidepool.engine.inputs.indexed"
local lazy = require "tidepool.base.lazy"
local spread = require "tidepool.engine.inputs.spread"
local stepped = require "tidepool.engine.inputs.stepped"

local lines = lazy "tidepool.engine.inputs.lines"

local inputs = {}

inputs.LARGEST_BLOCK = require "tidepool.engine.inputs.columns".LARGEST_BLOCK

-- ---- a range ----

local Range = {}
Range.__index = Range
inputs.Range = Range -- ranges travel by this name

--- Numbers from..to in steps, lazily; `to` may be infinite.
---@param from number  or the count when it is the only argument: 1..from
---@param to number?
---@param step number?    default: 1
---@return table
function inputs.range(from, to, step, extra)
  check.no_more(extra, "tidepool.range", "(from, to, step)")
  if to == nil then from, to = 1, from end
  step = step or 1
  if type(from) ~= "number" or type(to) ~= "number" or type(step) ~= "number" then
    check.fail("tidepool.range: expected numbers, got %s, %s, %s", type(from), type(to), type(step))
  elseif step == 0 or step ~= step or from ~= from or to ~= to then
    check.fail("tidepool.range: the step must not be 0, and nothing may be nan")
  end
  return setmetatable({ from = from, to = to, step = step, n = math.max(0, math.floor((to - from) / step) + 1) }, Range)
end

--- The next number at each call: a range is an iterator too.
function Range:__call()
  local k = self.at or 0
  if k >= self.n then return nil end
  self.at = k + 1
  return self.from + k * self.step
end

function Range:__tostring()
  return ("tidepool.range(%s, %s, %s)"):format(self.from, self.to, self.step)
end

-- ---- iterators ----

local Iterator = {}
inputs.Iterator = Iterator

-- ---- constants ----

local Constant = {}
inputs.Constant = Constant

--- The same value with every input: f:map(xs, tidepool.const(5)).
---@param value any
---@return table
function inputs.const(value, extra)
  check.no_more(extra, "tidepool.const", "one value")
  return setmetatable({ value = value }, Constant)
end

--- The three values of a generic for, as one input: tidepool.iter(pairs(t)).
---@param f function     gives the next control value, and what goes with it
---@param state any
---@param control any
---@return table
function inputs.iter(f, state, control, extra)
  check.no_more(extra, "tidepool.iter", "the three values of a loop")
  if type(f) ~= "function" and not (type(f) == "table" and getmetatable(f) and getmetatable(f).__call) then
    check.fail("tidepool.iter: expected an iterator function (as pairs(t) gives), got %s", type(f))
  end
  return setmetatable({ f = f, state = state, control = control }, Iterator)
end

local function step_of_iter(it)
  local function take(first, ...)
    if first == nil then return false end
    it.control = first
    return true, first, ...
  end
  return function() return take(it.f(it.state, it.control)) end
end

local function has_value(first, ...)
  if first == nil then return false end
  return true, first, ...
end

local function drop_index(index, ...)
  if index == nil then return false end
  return true, ...
end

local function is_results(value)
  local results = package.loaded["tidepool.results"]
  return results and results.of(value) ~= nil
end

--- One after the other of another map's results.
local function step_of_results(value, who, position)
  local results = require "tidepool.results"
  local own = results.of(value)
  results.check_unread(("%s: input %d"):format(who, position), value)
  return function() return drop_index(own()) end
end

--- tidepool.lines: their module is not loaded where there are none.
local function is_lines(value)
  local module = package.loaded["tidepool.engine.inputs.lines"]
  return module ~= nil and module.is_lines(value)
end

local function is_callable(value)
  if type(value) == "function" then return true end
  local meta = type(value) == "table" and getmetatable(value)
  return type(meta) == "table" and meta.__call ~= nil
end

-- ---- maps ----

-- The functions that builtins give for a loop need what comes with them.
local parts_of_triples = { [next] = "pairs(t)", [ipairs {}] = "ipairs(t)" }

local function refuse(who, position, value)
  local what = value == nil and "nil" or check.a(type(value))
  if type(value) == "table" and tostring(value):find "^tidepool%.%a" then what = "a " .. tostring(value):match "^tidepool%.%a+" end
  if position > 1 and (type(value) == "number" or type(value) == "boolean" or type(value) == "string") then
    check.fail("%s: input %d is %s (a table or an iterator expected; the same value with every input is tidepool.const(%s))", who, position, what,
      type(value) == "string" and "text" or tostring(value))
  end
  check.fail("%s: input %d is %s (a table or an iterator expected)", who, position, what)
end

--- A list's length; a hole is an error unless the list says n.
local function length_of(list, who, position)
  local n = list.n
  if n ~= nil then
    if type(n) ~= "number" or n < 0 or n % 1 ~= 0 then
      check.fail("%s: input %d: n must be an integer of at least 0, got %s", who, position, check.show(n))
    end
    return n
  end
  n = #list
  local hole
  for i = 1, n do
    if list[i] == nil then hole = i break end
  end
  -- A border that is not the end: there is a number behind it.
  local behind = next(list, n > 0 and n or nil)
  if not hole and type(behind) == "number" and behind > n then hole = n + 1 end
  if hole then
    check.fail("%s: input %d has a hole at [%d]; pass n in it, so that holes are nil inputs", who, position, hole)
  elseif n == 0 and behind ~= nil and getmetatable(list) then
    refuse(who, position, list)
  elseif n == 0 and behind ~= nil then
    check.fail("%s: input %d is a table with names (%s), not a list", who, position, check.show(behind))
  end
  return n
end

--- The next value of one source of several.
local function stepper(value, who, position)
  if getmetatable(value) == Iterator then return step_of_iter(value) end
  if getmetatable(value) == Constant then
    local constant = value.value
    return function() return true, constant end
  end
  if is_results(value) then return step_of_results(value, who, position) end
  if is_lines(value) then return lines.stepper(value) end
  if is_callable(value) then return function() return has_value(value()) end end
  if type(value) == "table" or array.type_of(value) then
    local i, n = 0, type(value) == "table" and length_of(value, who, position) or #value
    return function()
      i = i + 1
      if i > n then return false end
      return true, value[i]
    end
  end
  refuse(who, position, value)
end

local function zipped(steps)
  local m, values = #steps, {}
  return stepped.new(function()
    for c = 1, m do
      local has, value = steps[c]()
      if not has then return false end
      values[c] = value
    end
    return true, unpack(values, 1, m)
  end)
end

local function is_list(value)
  return type(value) == "table" and not getmetatable(value)
end

--- The source of f:map(xs, ys, ...): the first n of `given`, zipped to the shortest. Raises usage errors in the name of `who`.
function inputs.map(who, given, n)
  local triple = parts_of_triples[given[1]]
  if triple then check.fail("%s: input 1 is one value of three that go over pairs: write tidepool.iter(%s)", who, triple) end
  if n == 1 and is_lines(given[1]) then return lines.source(given[1]) end
  local columns, shortest, arrays, is_endless = {}, math.huge, {}, true
  for c = 1, n do is_endless = is_endless and getmetatable(given[c]) == Constant end
  if is_endless then check.fail("%s: all inputs are constants: one of them must say how many there are", who) end
  for c = 1, n do
    local value = given[c]
    if getmetatable(value) == Constant then
      columns[c] = { list = setmetatable({}, { __index = function() return value.value end }) }
    elseif getmetatable(value) == Range and not value.at then
      columns[c] = { range = value }
      shortest = math.min(shortest, value.n)
    elseif array.type_of(value) then
      arrays[#arrays + 1] = value
      columns[c] = { list = value } -- beside lists it is read like one
      shortest = math.min(shortest, value.length)
    elseif type(value) == "table" and not is_callable(value) and getmetatable(value) ~= Iterator then
      columns[c] = { list = value }
      shortest = math.min(shortest, length_of(value, who, c))
    else
      columns = nil
      break
    end
  end
  if #arrays == n and n <= abi.COLUMNS_MAX then return indexed.borrow(arrays, shortest) end
  if columns then return indexed.new(columns, shortest) end
  local steps = {}
  for c = 1, n do steps[c] = stepper(given[c], who, c) end
  if n == 1 then return stepped.new(steps[1]) end
  return zipped(steps)
end

-- ---- starmap ----

--- The source of f:starmap(items).
function inputs.starmap(who, items)
  if is_lines(items) then
    if not items.columns then check.fail('%s: these lines are not cut into fields: tidepool.lines(path, { columns = "," })', who) end
    return lines.source(items, true)
  end
  if items ~= nil and is_list(items) then return spread.new(items, length_of(items, who, 1)) end
  local step, i = stepper(items, who, 1), 0
  return stepped.new(function()
    local has, item = step()
    if not has then return false end
    i = i + 1
    local ended = spread.trouble_with(item, i)
    if ended then error(ended, 0) end
    return true, unpack(item, 1, item.n or #item)
  end)
end

return inputs
