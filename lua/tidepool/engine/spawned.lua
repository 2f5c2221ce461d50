--- What was spawned and is not known to be over, and failures that nobody has asked for: the end of
-- a script, or in a worker of a slice of items, waits for the one and shows the other (ending.lua).

local abi = require "tidepool.base.abi"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local interpret = require "tidepool.base.interpret"
local lazy = require "tidepool.base.lazy"
local loop = require "tidepool.engine.loop"

local show = lazy "tidepool.base.show"

local spawned = {}

-- Locals, so that a session ends properly whatever its user does to the globals.
local pairs, ipairs, next, pcall, error, tostring, table, math = pairs, ipairs, next, pcall, error, tostring, table, math

local now, is_worker = core.loop.now, core.is_worker

-- Spawned things are checked again after this many times as long as the last check took.
local TIDY_SHARE = 50

-- Things that were spawned and are not known to be over, and failures that nobody has asked for: of
-- the script or, in a worker, of a slice of items. Spawned things are in list[first..last], with
-- holes, in the order in which they came; x.kept_in and x.kept_at say where x is. n: how many;
-- n_new: how many came since the last check (tidy); due: when to check again at the latest. unread:
-- x -> number.
local function new_list()
  return { first = 1, last = 0, n = 0, n_new = 0, due = 0, unread = {} }
end

local script = new_list()
local slices, n_slices = {}, 0 -- in a worker: the slice, as core.keep returns it -> its list
local n_unread = 0

--- The list of spawned things for the code that runs now; nil in a worker outside of items.
local function list_of_here()
  if not is_worker then return script end
  local slice = core.keep()
  if slice and not slices[slice] then
    slices[slice] = new_list()
    n_slices = n_slices + 1
  end
  return slices[slice]
end

--- Remembers x until spawned.drop, so that nobody needs to hold a handle. x has the methods
--- _finish(), which waits for its end, and _tidy(), which drops x when it is over, after doing what
--- is left to do then, without waiting; _kept_as is what it is called: "call" or "map".
function spawned.keep(x)
  local list = list_of_here()
  if not list then return end
  local at = list.last + 1
  x.kept_in, x.kept_at = false, at
  list[at] = x
  list.last, list.n, list.n_new = at, list.n + 1, list.n_new + 1
  x.kept_in = list
end

function spawned.drop(x)
  local list = x.kept_in
  if not list then return end
  list[x.kept_at] = nil
  list.n = list.n - 1
  x.kept_in = nil
end

--- The thing of a list that was remembered first. Stops where the last one was put: an entry may be
--- lost (a Lua table of LuaJIT's loses integer keys when there is no memory to grow it).
local function first_of(list)
  for i = list.first, list.last do
    local x = list[i]
    if x then
      list.first = i
      return x
    end
  end
  list.first, list.last, list.n = 1, 0, 0
end

--- Gives everything in a list the chance to be dropped, and closes the gaps.
local function tidy_list(list)
  local i, n = list.first, 0
  list.first = 1 -- set before the loop, since an error (Ctrl-C, no memory) may end it in the middle
  while i <= list.last do -- more may come meanwhile
    local x = list[i]
    if x then
      x:_tidy()
      if list[i] then
        list[i] = nil
        n = n + 1
        list[n], x.kept_at = x, n
      end
    end
    i = i + 1
  end
  list.last = n
end

--- Called whenever somebody has waited: drops spawned things that are over. Checking all of them
--- takes time, so it is done when as many are new as there were the last time, or so rarely that it
--- takes a small share of the time.
local function tidy()
  local list = script
  if is_worker then
    if n_slices == 0 then return end
    list = slices[core.keep()]
  end
  if not list or list.n == 0 or list.is_busy then return end
  local start = now()
  if 2 * list.n_new < list.n and start < list.due then return end
  list.is_busy, list.n_new = true, 0
  local fine, why = pcall(tidy_list, list)
  list.is_busy = false
  list.due = start + TIDY_SHARE * (now() - start)
  if not fine then error(why, 0) end
end

--- Spawned calls and maps of the script that are not known to be over: all, or some of the first n.
---@param n integer?
---@return table
function spawned.list(n)
  local found = {}
  for i = script.first, math.min(script.last, script.first + (n or math.huge) - 1) do found[#found + 1] = script[i] end
  return found
end

--- x has failed: its _report() is shown at the end, unless somebody asks for the failure before
--- that (spawned.set_read).
function spawned.set_failed(x)
  local list = list_of_here()
  if not list then return end
  n_unread = n_unread + 1
  list.unread[x] = n_unread
  x.unread_in = list.unread
end

function spawned.set_read(x)
  local unread = x.unread_in
  if unread then unread[x], x.unread_in = nil, nil end
end

function spawned.has_unread()
  return next(script.unread) ~= nil
end

local function warn_failure(f)
  core.io.warn("tidepool: " .. show.plain(tostring(f)) .. "\n")
end

--- In a worker: waits for what items of a slice have spawned, and shows their failures that nobody
--- has asked for.
function spawned.finish_slice(slice)
  local list = slices[slice]
  if not list then return end
  local x = first_of(list)
  while x do
    spawned.drop(x)
    pcall(x._finish, x)
    x = first_of(list)
  end
  slices[slice] = nil
  n_slices = n_slices - 1
  for failed in pairs(list.unread) do
    local f = failed:_report()
    if not (failure.is_failure(f) and f.kind == abi.kind.CANCELLED) then warn_failure(f) end
  end
end

--- The keys of a table in the order of its values.
function spawned.in_order(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return t[a] < t[b] end)
  return keys
end
interpret(spawned.in_order) -- in a finalizer, see tell_dropped in ending.lua

--- Returns the failures that nobody has asked for, and forgets them.
---@return table
function spawned.take_unread()
  local failures = {}
  for i, x in ipairs(spawned.in_order(script.unread)) do failures[i] = x:_report() end
  script.unread = {}
  return failures
end

--- Shows these failures on stderr.
function spawned.warn_unread()
  for _, unasked in ipairs(spawned.take_unread()) do warn_failure(unasked) end
end

--- The first thing of the script that is remembered.
function spawned.first()
  return first_of(script)
end

loop.set_spawned(tidy, spawned.warn_unread)

return spawned
