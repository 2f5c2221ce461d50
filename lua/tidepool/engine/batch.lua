--- Batched functions. They are called with lists of several inputs' arguments, one list per
--- argument, and return lists of as many results.
--
-- A worker runs the items of a batch with one call (batch.run). If that fails, it calls again with
-- each half, and so on, so that only those inputs fail that fail alone.

local lazy = require "tidepool.base.lazy"

local array = lazy "tidepool.array"
local check = lazy "tidepool.base.check"
local describe = lazy "tidepool.base.describe"

local batch = {}

local function pack(...)
  return { n = select("#", ...), ... }
end

--- The number of a result's elements; nil when it is no list.
local function length_of(value)
  if type(value) == "table" then return value.n or #value end
  return type(value) == "cdata" and array.type_of(value) and #value or nil
end

--- What is wrong with the results for n inputs; nil when they are right.
local function trouble_with(fn, name, results, n)
  for c = 1, results.n do
    local value = results[c]
    local length = length_of(value)
    if length ~= n then
      local what = check.kind(value)
      if length then what = ("a list of %d"):format(length) end
      return ("%s'%s' is batched: it was called with lists of %d and has to return lists of %d, but its result %d is %s"):format(
        describe.place_of(fn), name, n, n, c, what)
    end
  end
end

--- The arguments of items[from..to] (each a list with n) as one list per argument. A list with a
--- nil in it has n.
local function lists_of(items, from, to)
  local lists, width = {}, 0
  for k = from, to do width = math.max(width, items[k].n) end
  for c = 1, width do
    local list, has_nil = {}, false
    for k = from, to do
      local value = items[k][c]
      list[k - from + 1] = value
      has_nil = has_nil or value == nil
    end
    if has_nil then list.n = to - from + 1 end
    lists[c] = list
  end
  return lists, width
end

--- The results of input k of a batch.
local function results_of(results, k)
  local own = { n = results.n }
  for c = 1, results.n do own[c] = results[c][k] end
  return own
end

local function trouble(value)
  return { value, debug.traceback("", 2) }
end

--- (function, its name, number of items, read(i) -> the arguments of item i, whether the batch may
--- be split) -> two tables by item number: results, lists with n; and failures, { error value,
--- traceback or nil }.
function batch.run(fn, name, n, read, splits)
  local results, failures = {}, {}
  local items, numbers = {}, {}
  local function add(i, fine, ...)
    if fine then
      items[#items + 1], numbers[#numbers + 1] = pack(...), i
    else
      failures[i] = { (...) }
    end
  end
  for i = 1, n do add(i, pcall(read, i)) end

  local function call(from, to)
    local lists, width = lists_of(items, from, to)
    local given = pack(xpcall(fn, trouble, unpack(lists, 1, width)))
    if not given[1] then
      if splits and from < to then
        local middle = math.floor((from + to) / 2)
        call(from, middle)
        return call(middle + 1, to)
      end
      for k = from, to do failures[numbers[k]] = { given[2][1], given[2][2] } end
      return
    end
    given = { n = given.n - 1, unpack(given, 2, given.n) }
    local wrong = trouble_with(fn, name, given, to - from + 1)
    for k = from, to do
      if wrong then failures[numbers[k]] = { wrong } else results[numbers[k]] = results_of(given, k - from + 1) end
    end
  end
  if items[1] then call(1, #items) end
  return results, failures
end

--- A batched function as one of a single input: calls fn with lists of one, here and now.
function batch.one(fn, name)
  local function give(...)
    local results = pack(...)
    local wrong = trouble_with(fn, name, results, 1)
    if wrong then error(wrong, 0) end
    return unpack(results_of(results, 1), 1, results.n)
  end
  return function(...)
    local lists, width = lists_of({ pack(...) }, 1, 1)
    return give(fn(unpack(lists, 1, width)))
  end
end

return batch
