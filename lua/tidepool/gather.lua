--- Waiting for several calls, tasks, maps and events: gather, wait, as_completed.

local call = require "tidepool.call"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local describe = require "tidepool.base.describe"
local event = require "tidepool.event"
local failure = require "tidepool.failure"
local loop = require "tidepool.engine.loop"
local options = require "tidepool.options"
local results = require "tidepool.results"
local spawned = require "tidepool.engine.spawned"
local task = require "tidepool.task"

local gather = {}

local classes = { [call.Call] = true, [task.Task] = true, [event.Event] = true }

--- The object behind x that loop.await and look can wait for: a call, a task, an event, or the
--- Results of a map; nil for anything else.
local function waited_for(x)
  return classes[getmetatable(x)] and x or results.of(x)
end

local function check_item(who, x, i)
  if not waited_for(x) then
    check.fail("%s: item %d is %s; expected what f:spawn, f:map, tidepool.async or tidepool.event gives", who, i,
      x == nil and "nil" or check.show(x))
  end
end

local function check_list(who, list)
  if type(list) ~= "table" or getmetatable(list) then
    check.fail("%s: expected a list of calls, got %s", who, waited_for(list) and "one alone: put it in { }" or check.show(list))
  end
  for i = 1, list.n or #list do check_item(who, list[i], i) end
end

-- ---- as they finish ----

---@class tidepool.AsCompleted
local AsCompleted = {}
AsCompleted.__index = AsCompleted
check.hints(AsCompleted, "what as_completed gives", "n_pending last first")
gather.AsCompleted = AsCompleted

--- Checks whether x has finished; if not, checks again when there may be news.
local function look(entry)
  local all = entry.all
  entry.watch = nil
  if entry.is_left then return end
  if not entry.x:_settle() then
    if all.is_watching then
      local watch = entry.x:_watch(look, entry)
      -- news that were there already have called this function again before
      if not (entry.is_over or entry.watch) then entry.watch = watch end
    end
    return
  end
  entry.is_over = true
  all.pending[entry] = nil
  all.n_pending = all.n_pending - 1
  all.last = all.last + 1
  all.finished[all.last] = entry
  for waiter in pairs(all.waiters) do loop.wake(waiter) end
end

local function add(all, given)
  local entry = { all = all, given = given, x = waited_for(given) }
  all.pending[entry] = true
  all.n_pending = all.n_pending + 1
  look(entry)
  return entry
end

local function unwatch(all)
  for entry in pairs(all.pending) do
    if entry.watch then entry.x:_unwatch(entry.watch) end
    entry.watch = nil
  end
end

--- Stops waiting for the rest.
local function leave(all)
  unwatch(all)
  for entry in pairs(all.pending) do entry.is_left = true end
  all.pending, all.n_pending = {}, 0
end

--- is_watching: a worker watches only while it waits, since its state also runs other items.
local function open(list)
  local all = setmetatable({
    pending = {}, n_pending = 0, finished = {}, first = 1, last = 0, waiters = {}, is_watching = not core.is_worker,
  }, AsCompleted)
  local entries = {}
  local fine, why = pcall(function()
    for i = 1, list.n or #list do
      entries[i] = add(all, list[i])
      loop.give_way_in_task()
    end
  end)
  if fine then return all, entries end
  leave(all)
  error(why, 0)
end

--- Waits until one has finished. Returns as loop.block does.
local function block(all, deadline)
  local waiter = {}
  all.waiters[waiter] = true
  if core.is_worker then
    all.is_watching = true
    local entries = {}
    for entry in pairs(all.pending) do entries[#entries + 1] = entry end
    for _, entry in ipairs(entries) do look(entry) end
  end
  local woken, why = loop.block(waiter, deadline)
  all.waiters[waiter] = nil
  if core.is_worker then
    all.is_watching = false
    unwatch(all)
  end
  return woken, why
end

--- Waits for the next one that finishes and returns its entry; nil when none is left, false at the
--- deadline.
local function next_entry(all, deadline)
  loop.give_way_in_task()
  while all.first > all.last do
    if all.n_pending == 0 then return nil end
    local woken, why = block(all, deadline)
    if woken == nil then error(why, 0) end
    if not woken and all.first > all.last then return false end
  end
  local entry = all.finished[all.first]
  all.finished[all.first] = nil
  all.first = all.first + 1
  return entry
end

--- One step of a loop: the next one that has finished.
function AsCompleted:__call()
  local entry = next_entry(self)
  return entry and entry.given
end

--- Adds one to wait for, even while a loop goes over the others.
---@param x tidepool.Call|tidepool.Task|tidepool.Results|tidepool.Event
function AsCompleted:add(x, extra)
  check.self(self, AsCompleted, "all", "add", "call")
  check.no_more(extra, "as_completed:add", "one call, task, map or event")
  check_item("as_completed:add", x, 1)
  add(self, x)
end

function AsCompleted:__tostring()
  return ("tidepool.as_completed: %d running, %d to be taken"):format(self.n_pending, self.last - self.first + 1)
end

--- Goes over calls, tasks, maps or events as they finish: for call in tidepool.as_completed(calls)
-- do print(call:get()) end
---@param calls table  a list
---@return tidepool.AsCompleted  an iterator, to which more can be added
function gather.as_completed(calls, extra)
  check.no_more(extra, "tidepool.as_completed", "a list")
  check_list("tidepool.as_completed", calls)
  return (open(calls))
end

-- ---- some of them ----

--- Waits until some have finished.
---@param calls table  a list of calls, tasks, maps and events
---@param given { n: integer?, timeout: number? }?  how many to wait for (1, and no more than there are), how many seconds at most
---@return table finished, table rest  both in the order of the list
function gather.wait(calls, given, extra)
  check.no_more(extra, "tidepool.wait", "(list, options)")
  check_list("tidepool.wait", calls)
  if given ~= nil and type(given) ~= "table" then check.fail("tidepool.wait: expected a table of options, got %s", check.show(given)) end
  local settings = given and options.check("tidepool.wait", options.of_wait, given) or {}
  local n = calls.n or #calls
  if (settings.n or 0) > n then
    check.fail("tidepool.wait: option 'n' is %d, but there %s to wait for", settings.n, n == 1 and "is 1" or ("are %d"):format(n))
  end
  loop.check_wait()
  local deadline = settings.timeout and core.loop.now() + settings.timeout
  local all, entries = open(calls)
  local fine, why = pcall(function()
    for _ = 1, math.min(settings.n or 1, #entries) do
      if not next_entry(all, deadline) then break end
    end
  end)
  leave(all)
  if not fine then error(why, 0) end
  local finished, rest = {}, {}
  for _, entry in ipairs(entries) do
    local list = entry.is_over and finished or rest
    list[#list + 1] = entry.given
  end
  return finished, rest
end

-- ---- all of them ----

--- The outcome of one that has finished: true and its first value, or false and its error.
local function outcome(x)
  if getmetatable(x) == results.Results then return pcall(x.list, x) end
  return x:_outcome()
end

--- The error as a Failure, so that it cannot be mistaken for a value.
local function as_failure(x, value)
  if failure.is_failure(value) then return value end
  return failure.new { kind = failure.kind_of(value), message = describe.message(value), value = value, traceback = x.traceback, attempts = 1 }
end

local function wait_for_all(list, settings)
  loop.check_wait()
  for i = 1, list.n or #list do
    if results.of(list[i]) then results.check_unread("tidepool.gather", list[i]) end
  end
  local all
  local xs, index = {}, {}
  for i = 1, list.n or #list do xs[i] = waited_for(list[i]) end
  -- first: the position of the first occurrence of something that is given more than once
  local values, first = { n = #xs }, {}
  local fine, why = pcall(function()
    local entries
    all, entries = open(list)
    for i, entry in ipairs(entries) do index[entry] = i end
    local entry = next_entry(all)
    while entry do
      local at = first[entry.x]
      local went_well, value = true, at and values[at]
      if not at then
        first[entry.x] = index[entry]
        went_well, value = outcome(entry.x)
      end
      if not went_well and not settings.return_exceptions then error(value, 0) end
      if not went_well then value = as_failure(entry.x, value) end
      values[index[entry]] = value
      entry = next_entry(all)
    end
  end)
  if fine then return values end
  if all then leave(all) end
  for _, x in ipairs(xs) do
    x:cancel()
    spawned.set_read(x)
  end
  error(why, 0)
end

--- Waits for all; cancels the rest when one fails, and raises its failure.
---@param ... any  calls, tasks, maps and events, or one list of them; then options: { return_exceptions = true }
---@return any ...  the first value of each (of a map: its list); as one list when a list was given
function gather.gather(...)
  local given, settings = { n = select("#", ...), ... }, {}
  local last = given[given.n]
  if check.is_options(last, given.n > 1) then
    settings = options.check("tidepool.gather", options.of_gather, last)
    given[given.n] = nil
    given.n = given.n - 1
  end
  local list = given[1]
  if given.n == 1 and type(list) == "table" and not getmetatable(list) then
    check_list("tidepool.gather", list)
    return wait_for_all(list, settings)
  end
  check_list("tidepool.gather", given)
  return unpack(wait_for_all(given, settings), 1, given.n)
end

return gather
