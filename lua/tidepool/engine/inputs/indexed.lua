--- Sources of inputs that are read by index: lists and ranges, zipped; and typed arrays, which are
--- not copied.
--
-- Items go into columns as long as all of their values can. A column is of numbers until another
-- value is met; then it is of scalars, until a whole block had only numbers. When an item has a
-- value of another kind (a table, ...), it and a number of items after it are encoded one by one;
-- that number doubles while such items keep coming.

local abi = require "tidepool.base.abi"
local array = require "tidepool.array"
local columns = require "tidepool.engine.inputs.columns"
local core = require "tidepool.core"
local ffi = require "ffi"
local mixed = require "tidepool.engine.mixed"

local indexed = {}

local COLUMNS_MAX, DOUBLES, SCALARS = abi.COLUMNS_MAX, abi.column.DOUBLES, abi.column.SCALARS
local LARGEST_BLOCK = columns.LARGEST_BLOCK
local cast, numbers_type = ffi.cast, columns.numbers_type
-- ALL_DOUBLES[m]: the string of kinds for m columns of numbers
local ALL_DOUBLES = {}
for m = 1, COLUMNS_MAX do ALL_DOUBLES[m] = DOUBLES:rep(m) end

-- How many items, at least, are encoded one by one after one that must be; and how many must have
-- fitted into columns before that, so that the number does not double.
local GENERAL_MIN = 64

--- Copies list[first..] as doubles to p, up to the first value that is no number; returns how many.
local function copy_numbers(list, first, n, p)
  for k = 0, n - 1 do
    local x = list[first + k]
    if type(x) ~= "number" then return k end
    p[k] = x
  end
  return n
end

--- Number k of a range, from 0. In one whose numbers repeat (an index of a grid), each comes
--- `every` times in a row, and after `count` of them it begins again.
function indexed.range_value(range, k)
  if range.every then k = math.floor(k / range.every) % range.count end
  return range.from + k * range.step
end

local function copy_range(range, first, n, p)
  local from, step, every, count = range.from, range.step, range.every, range.count
  if every then
    for k = 0, n - 1 do p[k] = from + math.floor((first - 1 + k) / every) % count * step end
    return n
  end
  for k = 0, n - 1 do p[k] = from + (first - 1 + k) * step end
  return n
end

--- May long strings be pinned instead of copied? Only where threads of this process take the inputs
--- (those of worker processes copy them to where these read them), and not in a worker, whose state
--- may be closed while others still read them.
local function may_pin(self)
  return self.may_pin and not core.is_worker
end

--- Can the item at `at` go into columns? Makes columns into ones of scalars where that is needed.
local function prepare(self)
  for c, column in ipairs(self.columns) do
    local x = column.list and column.list[self.at]
    if column.list and type(x) ~= "number" then
      if not mixed.fits(x) and not (may_pin(self) and mixed.is_pinned(x)) then return false end
      self.kinds[c] = SCALARS
      self.only_numbers = false
    end
  end
  return true
end

--- Fills column c with items from `at` on, up to the first that does not fit; returns how many did.
--- `text` is that of columns of scalars. Strings that are pinned are added to the list `pinned`;
--- nil: none may be pinned.
local function fill_column(self, c, count, pointer, text, pinned)
  local column, kinds = self.columns[c], self.kinds
  if column.range then return copy_range(column.range, self.at, count, cast(numbers_type, pointer)) end
  if kinds[c] == DOUBLES then return copy_numbers(column.list, self.at, count, cast(numbers_type, pointer)) end
  local k, were_numbers = mixed.copy_in(column.list, self.at, count, cast(mixed.scalars, pointer), text, pinned)
  if were_numbers and k > 0 then kinds[c] = DOUBLES end
  self.only_numbers = self.only_numbers and kinds[c] == DOUBLES
  return k
end

--- Pushes a block of columns with the items from `at` to `to`, or as many as fit.
local function add_columns(self, job, to)
  local m, count = #self.columns, math.min(to - self.at + 1, self.block)
  local has_scalars = not self.only_numbers
  local pointers, text = columns.open(job, count, has_scalars and table.concat(self.kinds) or ALL_DOUBLES[m], has_scalars and self.text_per_item)
  self.only_numbers = true
  local k, pinned = count, has_scalars and may_pin(self) and {} or nil
  for c = 1, m do k = fill_column(self, c, k, pointers[c - 1], text, pinned) end
  if has_scalars then self.text_per_item = text.used / math.max(k, 1) end
  core.job.push_columns(job, k, pinned and pinned[1] and pinned)
  self.at = self.at + k
  self.run = self.run + k
  self.block = columns.next_block(self.block)
end

--- Encodes the items from `at` to `to`, or as many as a block takes. Gives the index after the last
--- one; or nil, why an item cannot travel, the kind of failure, and the item's index.
local function encode_items(self, job, to)
  local values, m = {}, #self.columns
  local next_at
  for i = self.at, to do
    for c = 1, m do
      local column = self.columns[c]
      if column.range then values[c] = indexed.range_value(column.range, i - 1) else values[c] = column.list[i] end
    end
    local has_room, why, kind = core.job.add(job, unpack(values, 1, m))
    if has_room == nil then return nil, why, kind, i end
    next_at = i + 1
    if not has_room then break end
  end
  return next_at
end

--- Pushes the items from `at` to `to` one by one, or as many as a block takes.
local function add_general(self, job, to)
  local next_at, why, kind, bad
  local list = #self.columns == 1 and self.columns[1].list
  if type(list) == "table" then
    next_at, why, kind, bad = core.job.add_list(job, list, self.at, to)
  else
    next_at, why, kind, bad = encode_items(self, job, to)
  end
  if bad then
    columns.push_unsent(self, job, why, kind)
    next_at = bad + 1
  end
  core.job.push(job)
  self.at = next_at
end

local function fill(self, job, room)
  local fits = #self.columns <= COLUMNS_MAX
  local to = math.min(self.n, self.at + room - 1)
  local deadline = columns.deadline(self)
  while self.at <= to do
    if not fits then
      add_general(self, job, to)
    elseif self.at <= self.general_until then
      add_general(self, job, math.min(to, self.general_until))
    elseif prepare(self) then
      add_columns(self, job, to)
    else
      self.general = self.run < GENERAL_MIN and math.min(self.general * 2, LARGEST_BLOCK) or GENERAL_MIN
      self.general_until = self.at + self.general - 1
      self.run = 0
    end
    if columns.is_late(deadline) then break end
  end
  self.has_more = self.at <= to
  return self.at > self.n
end

--- The source of lists and ranges, zipped.
---@param given table  list of { list = anything with indexes } or { range = Range }
---@param n number     how many items; may be infinite
function indexed.new(given, n)
  local self = {
    total = n < math.huge and n or nil, is_cheap = true, block = columns.FIRST_BLOCK,
    columns = given, n = n, at = 1,
    -- the kinds of columns; no column of scalars is needed
    kinds = { DOUBLES }, only_numbers = true,
    text_per_item = columns.FIRST_TEXT,
    general = GENERAL_MIN, general_until = 0, -- how many items go one by one, and up to which one
    run = 0, -- how many items fitted into columns since the last one that did not
    fill = fill, has_more = false, gives_way = false, -- 16 fields, with may_pin: one more takes twice the memory
  }
  for c = 2, #given do self.kinds[c] = DOUBLES end
  return self
end

-- The most items of one block of arrays, or of a grid.
local BORROWED_MAX = 2 ^ 30

--- The source of typed arrays, zipped. They are not copied, and the workers can have all of them at
--- once.
---@param arrays table  list of arrays
---@param n number      items
function indexed.borrow(arrays, n)
  local at, types = 1, {}
  for c, a in ipairs(arrays) do types[c] = a.ctype end
  return { total = n, is_cheap = true, window = math.huge, types = types, fill = function(_, job, room)
    while at <= n and room > 0 do
      local count = math.min(n - at + 1, room, BORROWED_MAX)
      local borrowed = {}
      for _, a in ipairs(arrays) do
        borrowed[#borrowed + 1] = a.memory
        borrowed[#borrowed + 1] = array.number(a.ctype)
        borrowed[#borrowed + 1] = a.elements + (at - 1)
      end
      core.job.push_arrays(job, count, unpack(borrowed))
      at, room = at + count, room - count
    end
    return at > n
  end }
end

--- The source of a grid's places for devices, which compute them: blocks of items without values.
---@param shape tidepool.Grid
function indexed.places(shape)
  local at, n = 1, shape.n
  return { total = n, is_cheap = true, window = math.huge, shape = shape, has_places = true, fill = function(_, job, room)
    while at <= n and room > 0 do
      local count = math.min(n - at + 1, room, BORROWED_MAX)
      core.job.push_arrays(job, count)
      at, room = at + count, room - count
    end
    return at > n
  end }
end

return indexed
