--- Where a map's inputs come from: sources that fill a job.
--
-- A source is { total = n or nil, is_cheap = boolean, block = numbers that the next block has at most, patience = seconds,
-- fill = function(job, room) -> done, failure, is_idle }: fill pushes up to `room` further inputs to the job (fewer when reading them takes
-- long) and says whether that were all; the Failure that ended them early: what the user's iterator raised, or an item that is none; and
-- whether nothing was there to push now: then it is asked again after `patience` seconds. One that is not cheap may wait inside fill (in a
-- task): others then call its function flush, so that the inputs before come to work, and set has_waited, so that fill returns after
-- the next one. Numbers are packed, column by column, by loops that LuaJIT compiles, and so are numbers, strings, booleans and nil side by side
-- (mixed.lua); everything else is encoded in C (core.add).

local array = require "tidepool.array"
local check = require "tidepool.check"
local core = require "tidepool.core"
local describe = require "tidepool.describe"
local failure = require "tidepool.failure"
local ffi = require "ffi"
local interpret = require "tidepool.interpret"
local mixed = require "tidepool.mixed"

local inputs = {}

local numbers_type, columns_type = ffi.typeof "double *", ffi.typeof "void **"

-- A block of numbers starts small, so that work begins early, and grows. An iterator gets READ_S before results are looked for.
local FIRST_BLOCK, LARGEST_BLOCK, COLUMNS_MAX = 512, 16384, 8
inputs.LARGEST_BLOCK = LARGEST_BLOCK
local READ_S = 0.001

-- By a name of our own: scripts may declare clock_gettime with a type of theirs.
ffi.cdef 'int tidepool_clock_gettime(int clock, void *time) __asm__("clock_gettime");'
local time = ffi.new "struct { long s, ns; }"
local function now()
  ffi.C.tidepool_clock_gettime(1, time) -- CLOCK_MONOTONIC
  return tonumber(time.s) + tonumber(time.ns) * 1e-9
end

--- What ends the inputs early, from what was raised while they were read.
local function trouble(value)
  if failure.is_failure(value) and value.phase == "input" then return value end
  return failure.new { kind = "error", phase = "input", value = describe.value(value), message = describe.message(value), attempts = 1,
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
  return results and results.of(value) ~= nil
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

--- Text that mixed columns may need: TEXT_MIN bytes, and a bit more per string than those of the block before had.
local TEXT_MIN, TEXT_MAX = 4096, 2 ^ 20

--- How many bytes of text to ask for, for the columns of `count` items: `per_item` is what the last block's had.
local function text_for(count, per_item)
  return math.min(TEXT_MAX, math.ceil(TEXT_MIN + count * (per_item * 1.25 + 16)))
end

--- Lists and ranges, zipped: each is read by index.
---@param columns table  list of { list = table } or { range = Range }
local function indexed(columns, n)
  local m = #columns
  local at = 1            -- next position
  local source = { total = n < math.huge and n or nil, is_cheap = true, block = FIRST_BLOCK }
  local general_until = 0 -- something else than scalars here: the general way up to this position
  local general = 64
  local text_per_item = 16
  local kinds = {}        -- per column: "d" numbers, "m" scalars of any kind
  for c = 1, m do kinds[c] = "d" end
  local only_numbers, all_kinds = true, ("d"):rep(m)
  local arguments = {}

  --- Can the item at `at` go in a column? Makes it one of scalars, if it must be.
  local function prepare()
    for c = 1, m do
      local list = columns[c].list
      if list then
        local x = list[at]
        if type(x) ~= "number" then
          if not mixed.fits(x) and (core.is_worker or not mixed.is_lent(x)) then return false end
          kinds[c] = "m"
          only_numbers = false
        end
      end
    end
    return true
  end

  local function add_columns(job, to)
    local count = math.min(to - at + 1, source.block)
    local pointers, text = core.columns(job, count, only_numbers and all_kinds or table.concat(kinds, "", 1, m),
      only_numbers and 0 or text_for(count, text_per_item))
    only_numbers = true
    pointers, text = ffi.cast(columns_type, pointers), ffi.cast(mixed.text, text)
    local k, has_mixed, lent = count, false, nil
    for c = 1, m do
      local column, pointer = columns[c], pointers[c - 1]
      if column.range then
        copy_range(column.range, at, k, ffi.cast(numbers_type, pointer))
      elseif kinds[c] == "d" then
        k = copy_numbers(column.list, at, k, ffi.cast(numbers_type, pointer))
      else
        -- A worker's strings are not lent: its state may end while others still read.
        if not core.is_worker then lent = lent or {} end
        local were_numbers
        k, were_numbers = mixed.copy_in(column.list, at, k, ffi.cast(mixed.scalars, pointer), text, lent)
        if were_numbers and k > 0 then kinds[c] = "d" end
        only_numbers = only_numbers and kinds[c] == "d"
        has_mixed = true
      end
    end
    if has_mixed then text_per_item = text.used / math.max(k, 1) end
    core.push_columns(job, k, lent and lent[1] and lent)
    at = at + k
    source.block = math.min(source.block * 4, LARGEST_BLOCK)
    return k == count
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

  local run = 0 -- items in columns since the last one that was none
  function source.fill(job, room)
    local to = math.min(n, at + room - 1)
    while at <= to do
      if at <= general_until or m > COLUMNS_MAX then
        add_general(job, m <= COLUMNS_MAX and math.min(to, general_until) or to)
      elseif prepare() then
        local before = at
        add_columns(job, to)
        run = run + (at - before)
      else
        general = run < 64 and math.min(general * 2, LARGEST_BLOCK) or 64
        general_until = at + general - 1
        run = 0
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
      core.push_arrays(job, count, unpack(columns))
      at, room = at + count, room - count
    end
    return at > n
  end }
end

-- ---- one input per step ----

--- Steps of an iterator: step() gives true and the arguments, or false at the end.
local function stepped(step)
  local job                                        -- of the fill that runs
  local kind, numbers, scalars, text, capacity, k  -- the columns that are being filled: "d", "m", or nil while there are none
  local has_others                                 -- not only numbers in them
  local want, block = "d", FIRST_BLOCK             -- what to begin with
  local text_per_item = 16
  local general, misfits = 0, 0                    -- items that went the general way in this fill, and those of them that had to

  local function open(as, count)
    kind, capacity, k, has_others = as, count, 0, false
    if as == "d" then
      numbers = ffi.cast(numbers_type, core.numbers(job, count, 1))
    else
      local pointers, text_pointer = core.columns(job, count, "m", text_for(count, text_per_item))
      scalars = ffi.cast(mixed.scalars, ffi.cast(columns_type, pointers)[0])
      text = ffi.cast(mixed.text, text_pointer)
    end
  end

  local function flush()
    if kind then
      if kind == "m" and k > 0 then text_per_item = text.used / k end
      core.push_columns(job, k)
      kind = nil
    end
    core.push(job)
  end

  --- Puts a value into the columns; false when it does not fit.
  local function put(x)
    if kind == "d" and type(x) == "number" then
      numbers[k] = x
    else
      if not mixed.fits(x) then return false end
      if kind == "d" or not mixed.store(scalars[k], text, x) then
        local left = capacity - k
        flush()
        open("m", left)
        if not mixed.store(scalars[0], text, x) then return false end
      end
      has_others = has_others or type(x) ~= "number"
    end
    k = k + 1
    return true
  end

  --- An input that does not go into the columns.
  local function accept_general(...)
    if kind then flush() end
    general = general + 1
    if select("#", ...) ~= 1 or not mixed.fits((...)) then misfits = misfits + 1 end
    local has_room, why = core.add(job, ...)
    if has_room == nil then push_unsent(job, why) end
    return has_room or nil
  end
  interpret(accept_general)

  --- One more input; false at the end, nil when the block is full.
  local function accept(has, ...)
    if not has then return false end
    if kind and select("#", ...) == 1 then
      local x = ...
      if put(x) then return k < capacity or nil end
      return accept_general(x)
    end
    return accept_general(...)
  end

  local source = { is_cheap = false, flush = flush, has_waited = false }

  --- What to begin the next block with.
  local function learn()
    if kind then
      want = has_others and "m" or "d"
      if k == capacity then block = math.min(block * 4, LARGEST_BLOCK) end
    else
      want = general >= 64 and misfits == 0 and "m" or nil
    end
  end

  function source.fill(into, room)
    job = into
    source.has_waited = false
    local until_s = now() + READ_S
    local n = 0
    while n < room do
      general, misfits = 0, 0
      if want then open(want, math.min(room - n, block)) else kind = nil end
      local more
      local fine, why = xpcall(function()
        local count = 0
        repeat
          more = accept(step())
          count = count + 1
          n = n + 1
        until not more or n >= room or source.has_waited or ((count < 64 or count % 16 == 0) and now() > until_s)
      end, trouble)
      learn()
      flush()
      if not fine then return true, why end
      if more == false then return true end
      if source.has_waited or now() > until_s then return false end
    end
    return false
  end
  return source
end

-- The functions that builtins give for a loop need what comes with them.
local parts_of_triples = { [next] = "pairs(t)", [ipairs {}] = "ipairs(t)" }

local function refuse(who, position, value)
  local what = value == nil and "nil" or check.a(type(value))
  if type(value) == "table" and tostring(value):find "^tidepool%.%a" then what = "a " .. tostring(value):match "^tidepool%.%a+" end
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
  if is_results(value) then return function() return drop_index(value()) end end
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
  return stepped(function()
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

local ARGUMENTS_MAX = 7000 -- LuaJIT's C stack takes 8,000 values

--- What ends a starmap at this item, if it is not a list of arguments.
local function trouble_with(item, i)
  local message
  if type(item) ~= "table" then
    message = ("starmap: item %d is %s (a table expected)"):format(i, item == nil and "nil" or check.a(type(item)))
  elseif item.n ~= nil then
    local n = item.n
    if type(n) ~= "number" or n < 0 or n % 1 ~= 0 or n > ARGUMENTS_MAX then
      message = ("starmap: item %d: n must be an integer from 0 to %d, got %s"):format(i, ARGUMENTS_MAX, check.show(n))
    end
  elseif #item > ARGUMENTS_MAX then
    message = ("starmap: item %d has %d arguments; %d are possible"):format(i, #item, ARGUMENTS_MAX)
  else
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

--- The same for scalars of any kind, and whether all were numbers.
local function copy_mixed_items(items, first, n, m, columns, text)
  local only_numbers = true
  for k = 0, n - 1 do
    local item = items[first + k]
    if type(item) ~= "table" or #item ~= m or item.n then return k, only_numbers end
    for c = 1, m do
      local x = item[c]
      if x == nil or not mixed.store(columns[c][k], text, x) then return k, only_numbers end
      only_numbers = only_numbers and type(x) == "number"
    end
  end
  return n, only_numbers
end

--- How many columns the arguments in an item of a starmap take, 0 when they do not fit into columns; and whether all are numbers.
local function columns_of(item)
  local m = type(item) == "table" and not item.n and #item or 0
  local only_numbers = true
  if m > COLUMNS_MAX then return 0 end
  for c = 1, m do
    if item[c] == nil or not mixed.fits(item[c]) then return 0 end
    only_numbers = only_numbers and type(item[c]) == "number"
  end
  return m, only_numbers
end

local function spread(items, n)
  local at, general_until = 1, 0
  local is_mixed, text_per_item = false, 16
  local source = { total = n, is_cheap = true, block = FIRST_BLOCK }

  --- Up to `count` items of m arguments each; how many there were.
  local function add_columns(job, count, m)
    local k
    if is_mixed then
      local pointers, text = core.columns(job, count, ("m"):rep(m), text_for(count, text_per_item))
      local columns = {}
      for c = 1, m do columns[c] = ffi.cast(mixed.scalars, ffi.cast(columns_type, pointers)[c - 1]) end
      text = ffi.cast(mixed.text, text)
      local only_numbers
      k, only_numbers = copy_mixed_items(items, at, count, m, columns, text)
      is_mixed = not only_numbers
      text_per_item = text.used / math.max(k, 1)
    else
      local p = ffi.cast(numbers_type, core.numbers(job, count, m))
      k = copy_items(items, at, count, m, p, count)
    end
    core.push_columns(job, k)
    return k
  end

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
      local m, only_numbers = 0, true
      if at > general_until then m, only_numbers = columns_of(items[at]) end
      if m >= 1 then
        is_mixed = is_mixed or not only_numbers
        local count = math.min(to - at + 1, source.block)
        at = at + add_columns(job, count, m)
        source.block = math.min(source.block * 4, LARGEST_BLOCK)
        if at <= to and columns_of(items[at]) ~= m then general_until = at + 255 end
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
