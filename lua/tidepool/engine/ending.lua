--- The end of a script: what it waits for, and what it tells.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local describe = require "tidepool.base.describe"
local failure = require "tidepool.failure"
local ffi = require "ffi"
local loop = require "tidepool.engine.loop"
local spawned = require "tidepool.engine.spawned"

local ending = {}

-- Locals, as in spawned.lua.
local ipairs, pcall, tostring, table, traceback, loaded = ipairs, pcall, tostring, table, debug.traceback, package.loaded

--- Waits for everything: spawned calls and maps, tasks, callbacks of on_done, active handles of
--- luv.
---@param of string?  "script": it has ended, and nobody can read anything any more; "session": its input has ended, and values were shown
---@return table  the failures that nobody has asked for
function ending.finish(of)
  if loop.is_inside() then check.fail("tidepool.loop: a task cannot wait for all tasks; it runs in the loop already") end
  local failures = {}
  while true do
    local one = spawned.first()
    if one then
      spawned.drop(one)
      one:_finish()
    elseif loop.is_done() then
      break
    elseif loop.turn() then
      for _, task in ipairs(loop.lose_tasks()) do
        failures[#failures + 1] = failure.new { kind = abi.kind.ERROR, attempts = 0,
          message = "a task has not ended: nothing is left that could wake it",
          traceback = describe.traceback(traceback(task.thread)) }
      end
    end
  end
  for _, unasked in ipairs(spawned.take_unread()) do failures[#failures + 1] = unasked end
  local luv, results = loaded["tidepool.engine.luv"], loaded["tidepool.results"]
  if luv then luv.end_stop() end
  if results and of ~= "session" then results.tell_unread(of == "script") end
  local n = loop.take_problems()
  if n > 0 then failures[#failures + 1] = n == 1 and "1 callback failed: see above" or n .. " callbacks failed: see above" end
  return failures
end

-- For programs that do not wait at their end (stock luajit): when the state is closed, what is
-- dropped is reported.
local sentinel

local function count(n, what)
  return n > 0 and ("%d %s%s"):format(n, what, n == 1 and "" or "s") or nil
end

--- Runs in a finalizer while the state is closed. There a compiled loop over a table may leave its
--- trace at its head for ever: luaL_traceback showed that of spawned.in_order, in one of fifty runs
--- of misuse_spec under load. So no function of this path that loops over tables is compiled.
local function tell_dropped()
  for _, x in ipairs(spawned.list()) do x:_tidy() end
  spawned.warn_unread()
  local kept, pending = { call = 0, map = 0 }, {}
  for _, x in ipairs(spawned.list()) do
    if not x.is_cancelled then kept[x._kept_as] = kept[x._kept_as] + 1 end
  end
  pending[1] = count(loop.tasks(), "task")
  pending[#pending + 1] = count(kept.call, "spawned call")
  pending[#pending + 1] = count(kept.map, "spawned map")
  local last = table.remove(pending)
  if last then
    local others = table.concat(pending, ", ")
    core.io.warn(("tidepool: the program has ended before %s%s: what is to be waited for, tidepool.loop() waits for\n")
      :format(others == "" and "" or others .. " and ", last))
  end
  local results = loaded["tidepool.results"]
  if results then results.tell_unread(true) end
end

--- From now on the end of the state reports what was spawned and has failed, or is dropped. For
--- programs that do not call ending.finish.
function ending.tell_at_end()
  -- When a state is closed, finalizers of cdata run first, while everything still exists.
  sentinel = sentinel or ffi.gc(ffi.new "char[1]", function()
    local fine, why = pcall(tell_dropped)
    if not fine then core.io.warn(("tidepool: %s\n"):format(tostring(why))) end
  end)
end

return ending
