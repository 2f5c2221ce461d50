--- Where a map's inputs come from: sources, which fill a job. This file chooses the source; inputs/
--- has them.
--
-- A source is a table:
--   total      how many inputs there are; nil when not known
--   is_cheap   reading inputs costs nothing and has no effects
--   block      how many numbers the next block has at most
--   patience   after how many seconds it is asked again when it was idle
--   batch, wait   of a batched function (set by whoever starts the map): how many inputs a block
--              must have, and for how long they are waited for
--   arguments  how many each input has, where that is known and neither columns nor items (of
--              indexed.lua and spread.lua) tell it
--   shape      a Grid whose places the inputs begin with; nil when they are others
--   is_grid    the inputs are only these places; has_places: they are left to devices to compute
--   bytes      how much of inputs and results may wait before no more are read, if it is not the
--              engine's default
--   is_polled  (set by whoever calls fill) results of another map that are not there yet are not
--              waited for: there is nothing to push now
--   may_pin    those who take the items read this process's memory (set by whoever starts the
--              map)
--   fill(source, job, room) -> done, failure, is_idle   pushes up to `room` more inputs to the job,
--              fewer when reading takes long. done: these were the last ones; failure: the Failure
--              that ended them early, raised by the user's iterator or for an item that is no
--              input; is_idle: there was nothing to push now
--
-- While a source that is not cheap waits inside fill (in a task), others call its `flush`, so that
-- the inputs read so far can be run, and set has_waited, so that fill returns after the next input.
-- A cheap source with gives_way (set by whoever calls fill) returns after some 5 ms, with has_more
-- when more inputs were there.
--
-- Numbers are packed column by column by loops that LuaJIT compiles, as are numbers, strings,
-- booleans and nil side by side (mixed.lua); all else is encoded in C (core.job.add).

local abi = require "tidepool.base.abi"
local array = require "tidepool.array"
local check = require "tidepool.base.check"
local grid = require "tidepool.grid"
local indexed = require "tidepool.engine.inputs.indexed"
local lazy = require "tidepool.base.lazy"
local spread = require "tidepool.engine.inputs.spread"
local stepped = require "tidepool.engine.inputs.stepped"

local lines = lazy "tidepool.engine.inputs.lines"

local inputs = {}

inputs.LARGEST_BLOCK = require "tidepool.engine.inputs.columns".LARGEST_BLOCK
inputs.places = indexed.places

-- ---- a range ----

local Range = {}
Range.__index = Range
inputs.Range = Range -- the name by which ranges travel

local function check_number(value)
  if type(value) ~= "number" then check.fail("tidepool.range: expected numbers (from, to, step), got %s", check.show(value)) end
end

--- Numbers from..to in steps, lazily; `to` may be infinite.
---@param from number  or the count when it is the only argument: 1..from
---@param to number?
---@param step number?    default: 1
---@return table
function inputs.range(from, to, step, extra)
  check.no_more(extra, "tidepool.range", "(from, to, step)")
  if to == nil then from, to = 1, from end
  if step == nil then step = 1 end
  check_number(from)
  check_number(to)
  check_number(step)
  if step == 0 or step ~= step or from ~= from or to ~= to then
    check.fail("tidepool.range: the step must not be 0, and nothing may be nan")
  end
  return setmetatable({ from = from, to = to, step = step, n = math.max(0, math.floor((to - from) / step) + 1) }, Range)
end

--- The next number at each call: a range is an iterator too.
function Range:__call()
  local k = self.at or 0
  if k >= self.n then return nil end
  self.at = k + 1
  return indexed.range_value(self, k)
end

function Range:__tostring()
  return ("tidepool.range(%s, %s, %s)"):format(self.from, self.to, self.step)
end

-- ---- grids ----

local function is_same_shape(a, b) return a.rows == b.rows and a.columns == b.columns and a.planes == b.planes end

--- The inputs of a map with a range for each index of a grid in the place of the grid: a list, how
--- many they are, which input each belongs to, and the grid whose places they are, if there is one.
local function without_grids(given, n)
  local has_grids = false
  for c = 1, n do has_grids = has_grids or grid.is(given[c]) end
  if not has_grids then return given, n end
  local list, positions, m = {}, {}, 0
  local shape, is_one = nil, true
  for c = 1, n do
    local value = given[c]
    if grid.is(value) then
      is_one = is_one and is_same_shape(shape or value, value)
      shape = value
      for _, axis in ipairs(grid.axes(value)) do
        m = m + 1
        list[m], positions[m] = setmetatable({ from = 1, step = 1, n = value.n, every = axis.every, count = axis.count }, Range), c
      end
    else
      m = m + 1
      list[m], positions[m] = value, c
    end
  end
  return list, m, positions, is_one and shape or nil
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
    check.fail("tidepool.iter: expected an iterator function (as pairs(t) gives), got %s", check.show(f))
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

--- A function that gives another map's results one after the other, and one that tells whether the
--- first would not wait.
local function step_of_results(value, who, position)
  local results = require "tidepool.results"
  local own = results.of(value)
  results.check_unread(("%s: input %d"):format(who, position), value)
  local is_held, held = false, nil -- what takes a failure's place
  local function is_ready()
    if is_held or own.k < own.n then return true end
    local what, _, instead = own:_advance(true, false, true)
    is_held, held = what == "failure", instead
    return what ~= "later"
  end
  local function step()
    if is_held then
      is_held = false
      return true, held
    end
    return drop_index(own())
  end
  return step, is_ready
end

--- Is it one of tidepool.lines? Their module is not loaded unless there are some.
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

-- The iterator functions of builtins are useless without the values that come with them.
local parts_of_triples = { [next] = "pairs(t)", [ipairs {}] = "ipairs(t)" }

local function refuse(who, position, value)
  local what = check.kind(value)
  if position > 1 and (type(value) == "number" or type(value) == "boolean" or type(value) == "string") then
    check.fail("%s: input %d is %s (a table or an iterator expected; the same value with every input is tidepool.const(%s))", who, position, what,
      type(value) == "string" and "text" or tostring(value))
  end
  check.fail("%s: input %d is %s (a table or an iterator expected)", who, position, what)
end

--- A list's length. A hole in the list is an error unless the list has n.
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
  -- n may be a border in the middle: there is a number behind it.
  local behind = next(list, n > 0 and n or nil)
  if not hole and type(behind) == "number" and behind > n then hole = n + 1 end
  if hole then
    check.fail("%s: input %d has a hole at [%d]; pass n in it, so that holes are nil inputs", who, position, hole)
  elseif n == 0 and behind ~= nil and getmetatable(list) then
    refuse(who, position, list)
  elseif n == 0 and behind ~= nil then
    check.fail("%s: input %d is a table with names (%s), not a list", who, position, check.key(behind))
  end
  return n
end

--- A function that gives the next value of one source among several. For results of another map
--- also one that tells whether the first would not wait.
local function stepper(value, who, position)
  if getmetatable(value) == Iterator then return step_of_iter(value) end
  if getmetatable(value) == Constant then
    local constant = value.value
    return function() return true, constant end
  end
  if is_results(value) then return step_of_results(value, who, position) end
  if is_lines(value) then return lines.stepper(value) end
  if grid.is(value) then
    check.fail("%s: input %d is a grid, whose places are the arguments of a map: f:map(tidepool.grid(rows, columns))", who, position)
  end
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

--- The source of steps that give an argument each. `waits` are those functions of them that tell
--- whether a step would not wait.
local function zipped(steps, waits)
  local m, values = #steps, {}
  return stepped.new(function()
    for c = 1, m do
      local has, value = steps[c]()
      if not has then return false end
      values[c] = value
    end
    return true, unpack(values, 1, m)
  end, waits[1] and function()
    for _, is_ready in ipairs(waits) do
      if not is_ready() then return false end
    end
    return true
  end)
end

--- A function that gives the inputs of a map one by one: true and the arguments, or false at the
--- end. For maps that are run where they are read.
function inputs.steps(who, given, n)
  local list, m, positions = without_grids(given, n)
  local steps = {}
  given, n = list, m
  for c = 1, n do
    local value = given[c]
    if getmetatable(value) == Range and not value.at and not value.every then value = inputs.range(value.from, value.to, value.step) end
    steps[c] = stepper(value, who, positions and positions[c] or c)
  end
  return function()
    local values = {}
    for c = 1, n do
      local has, value = steps[c]()
      if not has then return false end
      values[c] = value
    end
    return true, unpack(values, 1, n)
  end
end

local function is_list(value)
  return type(value) == "table" and not getmetatable(value)
end

--- A list that has the value at each index.
local function endless_list(value)
  return setmetatable({}, { __index = function() return value end })
end

--- The source of f:map(xs, ys, ...) for the first n values of `given`, zipped to the shortest.
--- Raises usage errors in the name of `who`.
function inputs.map(who, given, n)
  local triple = parts_of_triples[given[1]]
  if triple then check.fail("%s: input 1 is one value of three that go over pairs: write tidepool.iter(%s)", who, triple) end
  if n == 1 and is_lines(given[1]) then return lines.source(given[1]) end
  local positions, shape
  given, n, positions, shape = without_grids(given, n)
  local columns, shortest, arrays, is_endless = {}, math.huge, {}, true
  for c = 1, n do is_endless = is_endless and getmetatable(given[c]) == Constant end
  if is_endless then check.fail("%s: all inputs are constants: one of them must say how many there are", who) end
  for c = 1, n do
    local value = given[c]
    if getmetatable(value) == Constant then
      columns[c] = { list = endless_list(value.value) }
    elseif getmetatable(value) == Range and not value.at then
      columns[c] = { range = value }
      shortest = math.min(shortest, value.n)
    elseif array.type_of(value) then
      arrays[#arrays + 1] = value
      columns[c] = { list = value } -- beside lists an array is read like one
      shortest = math.min(shortest, value.length)
    elseif type(value) == "table" and not is_callable(value) and getmetatable(value) ~= Iterator then
      columns[c] = { list = value }
      shortest = math.min(shortest, length_of(value, who, positions and positions[c] or c))
    else
      columns = nil
      break
    end
  end
  if #arrays == n and n <= abi.COLUMNS_MAX then return indexed.borrow(arrays, shortest) end
  if columns then
    local source = indexed.new(columns, shortest)
    if shape and shape.n == shortest then
      source.shape, source.is_grid = shape, n == (shape.planes and 3 or 2) -- there is nothing else
    end
    return source
  end
  local steps, waits = {}, {}
  for c = 1, n do steps[c], waits[#waits + 1] = stepper(given[c], who, positions and positions[c] or c) end
  if n == 1 then return stepped.new(steps[1], waits[1]) end
  local source = zipped(steps, waits)
  source.arguments = n
  return source
end

-- ---- starmap ----

--- The source of f:starmap(items).
function inputs.starmap(who, items)
  if is_lines(items) then
    if not items.columns then check.fail('%s: these lines are not cut into fields: tidepool.lines(path, { columns = "," })', who) end
    return lines.source(items, true)
  end
  if items ~= nil and is_list(items) then return spread.new(items, length_of(items, who, 1)) end
  local i, step, is_ready = 0, stepper(items, who, 1)
  return stepped.new(function()
    local has, item = step()
    if not has then return false end
    i = i + 1
    local ended = spread.trouble_with(item, i)
    if ended then error(ended, 0) end
    return true, unpack(item, 1, item.n or #item)
  end, is_ready)
end

-- ---- for devices ----

--- How many arguments each input of a source has at most; nil where that is not known. Those beyond
--- `enough` need not be counted.
function inputs.count_arguments(source, enough)
  if source.columns then return #source.columns end
  if not source.items then return source.arguments end
  local most = 0
  for i = 1, source.n do
    local tuple = source.items[i]
    if most >= enough or type(tuple) ~= "table" then return enough end
    most = math.max(most, tuple.n or #tuple)
  end
  return most
end

--- Argument c of the first input; nil where that is not known.
function inputs.first_argument(source, c)
  local column, item = source.columns and source.columns[c], source.items and source.items[1]
  if column then return column.list and column.list[1] end
  if type(item) == "table" then return item[c] end
  return nil
end

return inputs
