--- The source for an iterator: each step gives one input.
--
-- Single values go into a column, of numbers or of scalars; other values, and several at once, are
-- encoded one by one. An iterator is read for READ_S at a time, then results are looked for.

local abi = require "tidepool.base.abi"
local columns = require "tidepool.engine.inputs.columns"
local core = require "tidepool.core"
local describe = require "tidepool.base.describe"
local failure = require "tidepool.failure"
local ffi = require "ffi"
local interpret = require "tidepool.base.interpret"
local mixed = require "tidepool.engine.mixed"

local stepped = {}

local DOUBLES, SCALARS = abi.column.DOUBLES, abi.column.SCALARS
local cast, numbers_type = ffi.cast, columns.numbers_type
local READ_S = 0.001

-- Columns are tried again after so many items that would have fitted, with none that would not.
local GENERAL_MIN = 64

-- Under a name of our own, since scripts may declare clock_gettime with another type.
ffi.cdef 'int tidepool_clock_gettime(int clock, void *time) __asm__("clock_gettime");'
local time = ffi.new "struct { long s, ns; }"
local function now()
  ffi.C.tidepool_clock_gettime(1, time) -- CLOCK_MONOTONIC
  return tonumber(time.s) + tonumber(time.ns) * 1e-9
end

--- The Failure that ends the inputs early, made of what was raised while they were read.
function stepped.trouble(value)
  if failure.is_failure(value) and value.phase == "input" then return value end
  return failure.new { kind = failure.kind_of(value), phase = "input", attempts = 1, value = describe.value(value),
    message = describe.message(value),
    traceback = describe.traceback(debug.traceback("", 2)) }
end

--- The column that is being filled. Its state is in upvalues, which LuaJIT reaches faster than
--- fields, since `put` is called for each input. put(job, x) returns how many more values there is
--- room for, or false when x does not fit; close(job) pushes the column.
local function new_column()
  -- DOUBLES, SCALARS, or nil while no column is open
  local kind, numbers, scalars, text, capacity, k
  local has_others -- it has values that are no numbers
  local text_per_item = columns.FIRST_TEXT
  local column = {}

  function column.open(job, as, count)
    kind, capacity, k, has_others = as, count, 0, false
    if as == DOUBLES then
      numbers = cast(numbers_type, core.job.numbers(job, count, 1))
    else
      local pointers
      pointers, text = columns.open(job, count, SCALARS, text_per_item)
      scalars = cast(mixed.scalars, pointers[0])
    end
  end

  function column.close(job)
    if kind then
      if kind == SCALARS and k > 0 then text_per_item = text.used / k end
      core.job.push_columns(job, k)
      kind = nil
    end
    core.job.push(job)
  end

  function column.put(job, x)
    if kind == DOUBLES and type(x) == "number" then
      numbers[k] = x
    else
      if not mixed.fits(x) then return false end
      if kind == DOUBLES or not mixed.store(scalars[k], text, x) then
        local left = capacity - k
        column.close(job)
        column.open(job, SCALARS, left)
        if not mixed.store(scalars[0], text, x) then return false end
      end
      has_others = has_others or type(x) ~= "number"
    end
    k = k + 1
    return capacity - k
  end

  function column.is_open() return kind ~= nil end

  --- The kind of column that would have been enough, and whether this one is full. It must be open.
  function column.describe() return has_others and SCALARS or DOUBLES, k == capacity end

  return column
end

--- The source of step(), which gives true and the arguments, or false at the end. is_ready() tells
--- whether it would not wait, where that can be known.
---@param step function
---@param is_ready function?
function stepped.new(step, is_ready)
  local job -- of the call of fill that runs
  local column = new_column()
  -- how to begin: want is the kind of column, nil for none
  local want, block = DOUBLES, columns.FIRST_BLOCK
  -- how many items of this block went one by one, and how many of those had to
  local general, misfits = 0, 0
  local put, is_open = column.put, column.is_open
  local source = { is_cheap = false, has_waited = false }

  --- Adds an input that does not go into the column.
  local function accept_general(...)
    if is_open() then column.close(job) end
    general = general + 1
    if select("#", ...) ~= 1 or not mixed.fits((...)) then misfits = misfits + 1 end
    local has_room, why, kind = core.job.add(job, ...)
    if has_room == nil then columns.push_unsent(source, job, why, kind) end
    return has_room or nil
  end
  interpret(accept_general)

  --- Adds one more input. Returns false at the end, nil when the block is full.
  local function accept(has, ...)
    if not has then return false end
    if select("#", ...) == 1 and is_open() then
      local x = ...
      local left = put(job, x)
      if left then return left > 0 or nil end
      return accept_general(x)
    end
    return accept_general(...)
  end

  function source.flush() column.close(job) end

  --- Decides how to begin the next block.
  local function learn()
    if is_open() then
      local is_full
      want, is_full = column.describe()
      if is_full then block = columns.next_block(block) end
    else
      want = general >= GENERAL_MIN and misfits == 0 and SCALARS or nil
    end
  end

  --- Is it time to end a block with so many inputs? For a batched function the last inputs of a
  --- batch are waited for (source.batch, source.wait).
  local function is_late(count, until_s)
    local moment, batch = now(), source.batch
    return moment > until_s and (not batch or count % batch == 0 or moment > until_s - READ_S + source.wait)
  end

  --- Reads a block of up to `room` inputs, until a time. Returns how many, what the last accept
  --- returned, and the Failure that ended them; and whether the next one would have to be waited
  --- for, and nobody wants that.
  local function read_block(room, until_s)
    general, misfits = 0, 0
    if want then column.open(job, want, math.min(room, block)) end
    local count, more, is_idle = 0, nil, false
    local check = source.is_polled and is_ready
    local fine, why = xpcall(function()
      repeat
        if check and not check() then
          is_idle = true
          return
        end
        more = accept(step())
        count = count + 1
      until not more or count >= room or source.has_waited or ((count < 64 or count % 16 == 0) and is_late(count, until_s))
    end, stepped.trouble)
    learn()
    column.close(job)
    return count, more, not fine and why or nil, is_idle
  end

  function source.fill(_, into, room)
    job = into
    source.has_waited = false
    local until_s = now() + READ_S
    while room > 0 do
      local count, more, why, is_idle = read_block(room, until_s)
      if why then return true, why end
      if more == false then return true end
      if is_idle then return false, nil, count == 0 end
      if source.has_waited or now() > until_s then return false end
      room = room - count
    end
    return false
  end
  return source
end

return stepped
