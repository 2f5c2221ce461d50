--- What is different in a worker's state: it prints through the host, os.exit is an error,
--- finalizers are quiet; and the functions that host/workers/vm calls.

local core = require "tidepool.core"
local coroutines = require "tidepool.engine.coroutines" -- before coroutine.yield is replaced

local worker = {}

-- Loads a module when an item needs it, so that an idle worker stays small.
local function lazy(module, name)
  local fn
  return function(...)
    fn = fn or require(module)[name]
    return fn(...)
  end
end
local function one_line(text) return require "tidepool.base.show".plain(text, true) end

print = core.io.print
local files = getmetatable(io.stdout).__index
files.write = core.io.writer(files.write)
io.write = core.io.writer(io.write, io.output) -- luacheck: globals io.write
os.execute = core.io.execute
io.popen = core.io.opener(io.popen) -- luacheck: globals io.popen

--- os.exit is an error of the input that calls it: the host lives on.
function os.exit(code)
  local shown = code == nil and "" or tostring(code)
  error(("os.exit(%s) called in a worker"):format(shown), 2)
end

-- In stock LuaJIT a finalizer's error is raised in whatever code happens to run the collector
-- (newproxy), or swallowed (ffi.gc). Here it is a line on stderr, once per worker.
local has_warned = false
local function guard(finalizer)
  if type(finalizer) ~= "function" then return finalizer end
  return function(object)
    local fine, why = pcall(finalizer, object)
    if not fine and not has_warned then
      has_warned = true
      local _, _, _, index = core.current()
      core.io.warn(("tidepool: worker %d: error in a finalizer: %s\n"):format(index or 0, one_line(tostring(why))))
    end
  end
end

local new_proxy = newproxy
local watch_gc = {
  __newindex = function(meta, key, value) rawset(meta, key, key == "__gc" and guard(value) or value) end,
}
function newproxy(meta) -- luacheck: globals newproxy
  local proxy = new_proxy(meta)
  if meta == true then setmetatable(getmetatable(proxy), watch_gc) end
  return proxy
end

local outside = math.random
local draw
local function first_draw(...)
  draw = require "tidepool.engine.random".of_items(outside)
  return draw(...)
end
jit.off(first_draw) -- see interpret.lua
draw = first_draw
function math.random(...) return draw(...) end -- luacheck: globals math.random

local ffi = require "ffi"
local ffi_gc = ffi.gc
function ffi.gc(object, finalizer) return ffi_gc(object, guard(finalizer)) end

-- Changes that items make outside tables (host/workers/vm looks after those) are noted when they
-- happen, and undone before the next item begins.
local taken_back = {}
worker.marks = ffi.new "int32_t[1]"

local function note(what, take_back)
  taken_back[what] = taken_back[what] or take_back
  worker.marks[0] = 1
end

--- Undoes what was noted.
function worker.take_back()
  worker.marks[0] = 0
  for what, take_back in next, taken_back do
    taken_back[what] = nil
    pcall(take_back)
  end
end

--- Wraps a standard function that sets something when it has arguments: `get` is called before, and
--- the function with its result undoes the change.
local function watch(set, what, get)
  return function(...)
    if select("#", ...) > 0 and not taken_back[what] then
      local before = get()
      note(what, function() set(before) end)
    end
    return set(...)
  end
end

io.output = watch(io.output, "output", io.output) -- luacheck: globals io.output
io.input = watch(io.input, "input", io.input) -- luacheck: globals io.input

-- In an item that streams, what the function itself yields is a value; coroutines of its own yield
-- as usual.
local yield, running = coroutine.yield, coroutine.running
function coroutine.yield(...) -- luacheck: globals coroutine.yield
  if core.job.emit(...) then return end
  if coroutines.task_of(running()) then
    error("attempt to yield outside a coroutine: an input waits by tidepool.sleep, tidepool.event, calls and maps", 2)
  end
  return yield(...)
end
coroutines.install()
jit.off(coroutine.yield) -- as interpret.lua says

local set_locale = os.setlocale
function os.setlocale(locale, ...) -- luacheck: globals os.setlocale
  if locale then
    local before = set_locale()
    note("locale", function() set_locale(before) end)
  end
  return set_locale(locale, ...)
end

-- The environment of the thread, which functions get that are loaded later.
local set_environment = setfenv
function setfenv(f, environment) -- luacheck: globals setfenv
  if f == 0 then
    local before = getfenv(0)
    note("environment", function() set_environment(0, before) end)
  end
  return set_environment(f, environment) -- a tail call, so that level 1 still means our caller
end

-- jit.on and jit.off without arguments switch the compiler for the whole state, so the change is
-- noted.
local jit_on, jit_off = jit.on, jit.off
function jit.off(...) -- luacheck: globals jit.off
  if select("#", ...) == 0 and jit.status() then note("jit", jit_on) end
  return jit_off(...)
end
function jit.on(...) -- luacheck: globals jit.on
  if select("#", ...) == 0 and not jit.status() then note("jit", jit_off) end
  return jit_on(...)
end

--- The fields of a failure: see base/describe.lua.
worker.describe = lazy("tidepool.base.describe", "failure")

--- (list of setups): runs those that have not run in this state.
worker.set_up = lazy("tidepool.engine.setups", "run")

--- Called before the state is closed: instances of classes leave.
function worker.leave()
  local instances = package.loaded["tidepool.engine.instances"]
  if instances then instances.leave() end
end

--- Items that wait beside each other: see loop.lua.
worker.begin, worker.turn = lazy("tidepool.engine.loop", "begin_item"), lazy("tidepool.engine.loop", "turn_items")

--- Runs the items of a batch: see batch.lua.
worker.run_batch = lazy("tidepool.engine.batch", "run")

--- (slice): waits for the calls that its items have spawned.
worker.finish_kept = lazy("tidepool.engine.spawned", "finish_slice")

-- ---- columns ----

local in_specialised = "tidepool.engine.specialise"
worker.specialise, worker.read_integer = lazy(in_specialised, "make"), lazy(in_specialised, "read_integer")
worker.broken_promise, worker.store = lazy(in_specialised, "broken_promise"), lazy(in_specialised, "store")

return worker
