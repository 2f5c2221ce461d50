--- Where a map's inputs come from: sources that fill a job.
--
-- A source is { total = n or nil, is_cheap = boolean, block = numbers that the next block has at most, patience = seconds,
-- fill = function(job, room) -> done, failure, is_idle }: fill pushes up to `room` further inputs to the job (fewer when reading them takes
-- long) and says whether that were all; the Failure that ended them early: what the user's iterator raised, or an item that is none; and
-- whether nothing was there to push now: then it is asked again after `patience` seconds. One that is not cheap may wait inside fill (in a
-- task): others then call its function flush, so that the inputs before come to work, and set has_waited, so that fill returns after
-- the next one. Numbers are packed, column by column, by loops that LuaJIT compiles; everything else is encoded in C (core.add).

local array = require "tidepool.array"
local check = require "tidepool.check"
local core = require "tidepool.core"
local describe = require "tidepool.describe"
local failure = require "tidepool.failure"
local ffi = require "ffi"

local inputs = {}

local numbers_type = ffi.typeof "double *"

-- A block of numbers starts small, so that work begins early, and grows. An iterator gets READ_S before results are looked for.
local FIRST_BLOCK, LARGEST_BLOCK, COLUMNS_MAX = 512, 16384, 8
inputs.LARGEST_BLOCK = LARGEST_BLOCK
local READ_S = 0.001

ffi.cdef [[
typedef struct { long s, ns; } tp_timespec;
int clock_gettime(int clock, tp_timespec *t);
]]
local time = ffi.new "tp_timespec"
local function now()
  ffi.C.clock_gettime(1, time) -- CLOCK_MONOTONIC
  return tonumber(time.s) + tonumber(time.ns) * 1e-9
end

--- What ends the inputs early, from what was raised while they were read.
local function trouble(value)
  if failure.is_failure(value) and value.phase == "input" then return value end
  return failure.new { kind = "error", phase = "input", value = value, message = describe.message(value), attempts = 1,
    traceback = describe.traceback(debug.traceback("", 2)) }
end

--- An item that cannot travel fails by itself; the others go on.
local function push_unsent(job, why)
  core.push(job)
  core.push_failure(job, "codec", why)
end

-- ---- a range ----

local Range = {}
Range.__index = Range

--- Numbers from..to in steps, lazily; `to` may be infinite.
---@param from number  or the count when it is the only argument: 1..from
---@param to number?
---@param step number?    default: 1
---@return table
function inputs.range(from, to, step)
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

--- The three values of a generic for, as one input: tidepool.iter(pairs(t)).
---@param f function     gives the next control value, and what goes with it
---@param state any
---@param control any
---@return table
function inputs.iter(f, state, control)
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
  return results and getmetatable(value) == results.Results
end

local function is_callable(value)
  if type(value) == "function" then return true end
  local meta = type(value) == "table" and getmetatable(value)
  return type(meta) == "table" and meta.__call ~= nil
end

-- ---- one input per position: columns ----

--- list[first..] as doubles at p, up to the first that is not a number; how many.
local function copy_numbers(list, first, n, p)
  for k = 0, n - 1 do
    local x = list[first + k]
    if type(x) ~= "number" then return k end
    p[k] = x
  end
  return n
end

local function copy_range(range, first, n, p)
  local from, step = range.from, range.step
  for k = 0, n - 1 do p[k] = from + (first - 1 + k) * step end
  return n
end

--- Lists and ranges, zipped: each is read by index.
---@param columns table  list of { list = table } or { range = Range }
local function indexed(columns, n)
  local m = #columns
  local at = 1            -- next position
  local source = { total = n < math.huge and n or nil, is_cheap = true, block = FIRST_BLOCK }
  local general_until = 0 -- not all numbers here: the general way up to this position
  local general = 64
  local arguments = {}

  local function add_numbers(job, to)
    local count = math.min(to - at + 1, source.block)
    local p = ffi.cast(numbers_type, core.numbers(job, count, m))
    local k = count
    for c = 1, m do
      local column = columns[c]
      if column.range then
        copy_range(column.range, at, k, p + (c - 1) * count)
      else
        k = math.min(k, copy_numbers(column.list, at, k, p + (c - 1) * count))
      end
    end
    core.push_numbers(job, k)
    at = at + k
    source.block = math.min(source.block * 4, LARGEST_BLOCK)
    if k < count then
      general = k < 64 and math.min(general * 2, LARGEST_BLOCK) or 64
      general_until = at + general - 1
    end
  end

  local function add_general(job, to)
    local next_at, why, bad
    if m == 1 and type(columns[1].list) == "table" then
      next_at, why, bad = core.add_list(job, columns[1].list, at, to)
    else
      for i = at, to do
        for c = 1, m do
          local column = columns[c]
          if column.range then arguments[c] = column.range.from + (i - 1) * column.range.step else arguments[c] = column.list[i] end
        end
        local has_room
        has_room, why = core.add(job, unpack(arguments, 1, m))
        if has_room == nil then bad = i break end
        next_at = i + 1
        if not has_room then break end
      end
    end
    if bad then
      push_unsent(job, why)
      next_at = bad + 1
    end
    core.push(job)
    at = next_at
  end

  function source.fill(job, room)
    local to = math.min(n, at + room - 1)
    while at <= to do
      if at > general_until and m <= COLUMNS_MAX then
        -- One value decides; a list of other things never asks for a block of numbers.
        local first = columns[1].list and columns[1].list[at] or 0
        if type(first) ~= "number" then
          general_until = at + general - 1
          general = math.min(general * 2, LARGEST_BLOCK)
        else
          add_numbers(job, to)
        end
      else
        add_general(job, m <= COLUMNS_MAX and math.min(to, general_until) or to)
      end
    end
    return at > n
  end
  return source
end

--- Typed arrays, zipped: they are not copied, and the whole of them is there for the workers at once.
---@param arrays table  list of arrays
local function borrowed(arrays, n)
  local at = 1
  local BLOCK = 2 ^ 30
  local types = {}
  for c, a in ipairs(arrays) do types[c] = a.ctype end
  return { total = n, is_cheap = true, window = math.huge, types = types, fill = function(job, room)
    while at <= n and room > 0 do
      local count = math.min(n - at + 1, room, BLOCK)
      local columns = {}
      for _, a in ipairs(arrays) do
        columns[#columns + 1] = a.memory
        columns[#columns + 1] = array.number(a.ctype)
        columns[#columns + 1] = a.data + (at - 1)
      end
      core.push_columns(job, count, unpack(columns))
      at, room = at + count, room - count
    end
    return at > n
  end }
end

-- ---- one input per step ----

--- Steps of an iterator: step() gives true and the arguments, or false at the end.
local function stepped(step)
  local job, p, capacity, k -- of the fill that runs

  local function flush()
    if p then core.push_numbers(job, k) end
    p = nil
    core.push(job)
  end

  --- One more input; false at the end, nil when the block is full.
  local function accept(has, ...)
    if not has then return false end
    if select("#", ...) == 1 then
      local x = ...
      if type(x) == "number" and p then
        p[k] = x
        k = k + 1
        return k < capacity or nil
      end
    end
    if p then flush() end
    local has_room, why = core.add(job, ...)
    if has_room == nil then push_unsent(job, why) end
    return has_room or nil
  end

  local want_numbers = true
  local source = { is_cheap = false, flush = flush, has_waited = false }

  function source.fill(into, room)
    job = into
    source.has_waited = false
    local until_s = now() + READ_S
    local n = 0
    while n < room do
      capacity, k, p = math.min(room - n, LARGEST_BLOCK), 0, nil
      if want_numbers then p = ffi.cast(numbers_type, core.numbers(job, capacity, 1)) end
      local had_numbers = p ~= nil
      local more
      local fine, why = xpcall(function()
        local count = 0
        repeat
          more = accept(step())
          count = count + 1
          n = n + 1
        until not more or n >= room or source.has_waited or ((count < 64 or count % 16 == 0) and now() > until_s)
      end, trouble)
      -- Numbers are asked for as long as they come.
      want_numbers = had_numbers == (p ~= nil) and (p ~= nil or want_numbers)
      flush()
      if not fine then return true, why end
      if more == false then return true end
      if source.has_waited or now() > until_s then return false end
    end
    return false
  end
  return source
end

--- The next value of one source of several.
local function stepper(value, who, position)
  if getmetatable(value) == Iterator then return step_of_iter(value) end
  if is_results(value) then return function() return drop_index(value()) end end
  if is_callable(value) then return function() return has_value(value()) end end
  if type(value) == "table" or array.type_of(value) then
    local i, n = 0, type(value) == "table" and value.n or #value
    return function()
      i = i + 1
      if i > n then return false end
      return true, value[i]
    end
  end
  check.fail("%s: input %d is %s (a table or an iterator expected)", who, position,
    value == nil and "nil" or check.a(type(value)))
end

local function zipped(steps)
  local m, values = #steps, {}
  return stepped(function()
    for c = 1, m do
      local has, value = steps[c]()
      if not has then return false end
      values[c] = value
    end
    return true, unpack(values, 1, m)
  end)
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
  elseif n == 0 and behind ~= nil then
    check.fail("%s: input %d is a table with names (%s), not a list", who, position, check.show(behind))
  end
  return n
end

local function is_list(value)
  return type(value) == "table" and not getmetatable(value)
end

--- The source of f:map(xs, ys, ...): zipped to the shortest. Raises usage errors in the name of `who`.
function inputs.map(who, first, n, ...)
  local given = { first, ... }
  local columns, shortest, arrays = {}, math.huge, {}
  for c = 1, n do
    local value = given[c]
    if getmetatable(value) == Range and not value.at then
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
  if #arrays == n and n <= COLUMNS_MAX then return borrowed(arrays, shortest) end
  if columns then return indexed(columns, shortest) end
  local steps = {}
  for c = 1, n do steps[c] = stepper(given[c], who, c) end
  if n == 1 then return stepped(steps[1]) end
  return zipped(steps)
end

-- ---- starmap ----

--- What ends a starmap at this item, if it is not a list of arguments.
local function trouble_with(item, i)
  local message
  if type(item) ~= "table" then
    message = ("starmap: item %d is %s (a table expected)"):format(i, item == nil and "nil" or check.a(type(item)))
  elseif not item.n then
    for k = 1, #item do
      if item[k] == nil then message = ("starmap: item %d has a hole at [%d]; pass n in it"):format(i, k) break end
    end
  end
  return message and failure.new { kind = "usage", phase = "input", attempts = 0, message = message }
end

--- The arguments of items[first..], all numbers and m of them each, at p column by column; how many items were so.
local function copy_items(items, first, n, m, p, stride)
  for k = 0, n - 1 do
    local item = items[first + k]
    if type(item) ~= "table" or #item ~= m or item.n then return k end
    for c = 1, m do
      local x = item[c]
      if type(x) ~= "number" then return k end
      p[(c - 1) * stride + k] = x
    end
  end
  return n
end

local function spread(items, n)
  local at, general_until = 1, 0
  local source = { total = n, is_cheap = true, block = FIRST_BLOCK }

  --- Gives what ends the inputs, if something does.
  local function add_general(job, to)
    while at <= to do
      local item = items[at]
      local ended = trouble_with(item, at)
      if ended then
        core.push(job)
        return ended
      end
      local has_room, why = core.add(job, unpack(item, 1, item.n or #item))
      at = at + 1
      if has_room == nil then push_unsent(job, why) end
      if not has_room then break end
    end
    core.push(job)
  end

  function source.fill(job, room)
    local to = math.min(n, at + room - 1)
    while at <= to do
      local item = items[at]
      local m = type(item) == "table" and not item.n and type(item[1]) == "number" and #item or 0
      if at > general_until and m >= 1 and m <= COLUMNS_MAX then
        local count = math.min(to - at + 1, source.block)
        local p = ffi.cast(numbers_type, core.numbers(job, count, m))
        local k = copy_items(items, at, count, m, p, count)
        core.push_numbers(job, k)
        at = at + k
        source.block = math.min(source.block * 4, LARGEST_BLOCK)
        if k < count then general_until = at + 255 end
      else
        local ended = add_general(job, math.min(to, math.max(general_until, at)))
        if ended then return true, ended end
      end
    end
    return at > n
  end
  return source
end

--- The source of f:starmap(items).
function inputs.starmap(who, items)
  if items ~= nil and is_list(items) then return spread(items, length_of(items, who, 1)) end
  local step, i = stepper(items, who, 1), 0
  return stepped(function()
    local has, item = step()
    if not has then return false end
    i = i + 1
    local ended = trouble_with(item, i)
    if ended then error(ended, 0) end
    return true, unpack(item, 1, item.n or #item)
  end)
end

return inputs
