--- The source of a starmap over a list: each item is a list of arguments.
--
-- Items with the same number of arguments go into columns, of numbers or of scalars; others are
-- encoded one by one.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local columns = require "tidepool.engine.inputs.columns"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local ffi = require "ffi"
local mixed = require "tidepool.engine.mixed"

local spread = {}

local COLUMNS_MAX, SCALARS = abi.COLUMNS_MAX, abi.column.SCALARS
local cast = ffi.cast

local ARGUMENTS_MAX = 7000 -- LuaJIT's C stack has 8,000 slots

-- How many items are encoded one by one after one that must be; and after a change of the number of
-- arguments.
local GENERAL_AFTER_ONE, GENERAL_AFTER_CHANGE = 63, 255

--- The Failure that ends a starmap at this item, if it is no list of arguments.
---@return tidepool.Failure?
function spread.trouble_with(item, i)
  local message
  if type(item) ~= "table" then
    message = ("starmap: item %d is %s (a table expected)"):format(i, check.kind(item))
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
  return message and failure.new { kind = abi.kind.USAGE, phase = "input", attempts = 0, message = check.where() .. message }
end

--- Copies the arguments of items[first..] to p, column by column, as long as each has exactly m and
--- all are numbers. Returns how many items it copied.
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

--- The same for scalars of any kind; also returns whether all were numbers.
local function copy_mixed_items(items, first, n, m, scalars, text)
  local only_numbers = true
  for k = 0, n - 1 do
    local item = items[first + k]
    if type(item) ~= "table" or #item ~= m or item.n then return k, only_numbers end
    for c = 1, m do
      local x = item[c]
      if x == nil or not mixed.store(scalars[c][k], text, x) then return k, only_numbers end
      only_numbers = only_numbers and type(x) == "number"
    end
  end
  return n, only_numbers
end

--- How many columns an item's arguments take, 0 when they cannot go into columns; and whether all
--- are numbers.
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

--- Adds up to `count` items with m scalars each; returns how many there were.
local function add_scalars(self, job, count, m)
  local pointers, text = columns.open(job, count, SCALARS:rep(m), self.text_per_item)
  local scalars = {}
  for c = 1, m do scalars[c] = cast(mixed.scalars, pointers[c - 1]) end
  local k, only_numbers = copy_mixed_items(self.items, self.at, count, m, scalars, text)
  self.is_mixed = not only_numbers
  self.text_per_item = text.used / math.max(k, 1)
  return k
end

local function add_numbers(self, job, count, m)
  local p = cast(columns.numbers_type, core.job.numbers(job, count, m))
  return copy_items(self.items, self.at, count, m, p, count)
end

--- Pushes a block of the items from `at` to `to` that have m arguments, or as many as fit.
local function add_columns(self, job, to, m)
  local count = math.min(to - self.at + 1, self.block)
  local k = (self.is_mixed and add_scalars or add_numbers)(self, job, count, m)
  core.job.push_columns(job, k)
  self.at = self.at + k
  self.block = columns.next_block(self.block)
  if self.at <= to and columns_of(self.items[self.at]) ~= m then self.general_until = self.at + GENERAL_AFTER_CHANGE end
end

--- Pushes the items from `at` to `to` one by one, or as many as a block takes. Returns the Failure
--- that ends the inputs, if there is one.
local function add_general(self, job, to)
  while self.at <= to do
    local item = self.items[self.at]
    local ended = spread.trouble_with(item, self.at)
    if ended then
      core.job.push(job)
      return ended
    end
    local has_room, why, kind = core.job.add(job, unpack(item, 1, item.n or #item))
    self.at = self.at + 1
    if has_room == nil then columns.push_unsent(self, job, why, kind) end
    if not has_room then break end
  end
  core.job.push(job)
end

local function fill(self, job, room)
  local to = math.min(self.n, self.at + room - 1)
  local deadline = columns.deadline(self)
  while self.at <= to do
    local m, only_numbers = 0, true
    if self.at > self.general_until then m, only_numbers = columns_of(self.items[self.at]) end
    if m >= 1 then
      self.is_mixed = self.is_mixed or not only_numbers
      add_columns(self, job, to, m)
    else
      if self.at > self.general_until then self.general_until = self.at + GENERAL_AFTER_ONE end
      local ended = add_general(self, job, math.min(to, self.general_until))
      if ended then return true, ended end
    end
    if columns.is_late(deadline) then break end
  end
  self.has_more = self.at <= to
  return self.at > self.n
end

--- The source of a list of n lists of arguments.
function spread.new(items, n)
  return {
    total = n, is_cheap = true, block = columns.FIRST_BLOCK,
    items = items, n = n, at = 1,
    general_until = 0, -- up to this one items go one by one
    -- scalars other than numbers were met; with so much text per item
    is_mixed = false, text_per_item = columns.FIRST_TEXT,
    fill = fill, has_more = false, gives_way = false,
  }
end

return spread
