--- Values that functions give while they run: Function:stream, Function:flat_map.
--
-- Workers send them as blocks of a job that streams; its Results read these (results.lua). What an
-- item returns is dropped. When the caller's own thread would have to run the function (the
-- executor inline, and in workers) it is a coroutine here, which runs as it is read.

local check = require "tidepool.base.check"
local core = require "tidepool.core"
local describe = require "tidepool.base.describe"
local executors = require "tidepool.engine.executors"
local failure = require "tidepool.failure"
local jobs = require "tidepool.engine.jobs"
local loop = require "tidepool.engine.loop"

---@class tidepool.Stream
---@overload fun(): ...: any
local Stream = {}
Stream.__index = Stream
check.hints(Stream, "a stream", "at is_over index own name is_waiting asked_at fn step settings has_index is_cancelled thread")
Stream.__travels = "a stream cannot travel to a worker: pass what it gives"

local generator = { Stream = Stream }

-- A loop that is left early does not tell us. So, while the script waits, a stream that was not
-- read for this long is searched for by a garbage collection; after each one that finds it alive
-- the time doubles, and after the seventh there is no more.
local LEFT_S, LOOKS = 0.05, 7

local function ignore() end

local UNREAD = "nobody reads these values any more"

--- Ends a coroutine that has yielded: raises in it, so that its pcalls end. It has called the
--- library's yield, so only a hook can do that, which is run at the next instruction anywhere.
local function stop(thread)
  if coroutine.status(thread) ~= "suspended" then return end
  local running, sethook = coroutine.running, debug.sethook
  local hook, mask, count = debug.gethook()
  sethook(function()
    if running() ~= thread then return end
    sethook()
    error(UNREAD, 2)
  end, "", 1)
  coroutine.resume(thread)
  sethook(hook, mask, count)
end
require "tidepool.base.interpret"(stop)

--- Looks whether somebody still has the stream weak[1]. `at` has its coroutine, if it is one.
local function watch(weak, at)
  local seconds = LEFT_S
  for _ = 1, LOOKS do
    loop.sleep(seconds)
    local self = weak[1]
    if not self then return at.thread and stop(at.thread) end
    if self.is_over then return end
    local is_read = self.is_waiting or core.loop.now() - self.asked_at < seconds
    self = nil -- luacheck: ignore 311
    if is_read then
      seconds = LEFT_S
    else
      collectgarbage()
      seconds = 2 * seconds
    end
  end
end

local function look_after(self)
  self.asked_at = core.loop.now()
  loop.start({ is_daemon = true, _end = ignore }, true, watch, setmetatable({ self }, { __mode = "v" }), self.at)
end

--- A stream that reads the Results of a job which streams.
function generator.of_results(own, name, has_index)
  local self = setmetatable({ own = own, name = name, has_index = has_index, at = {} }, Stream)
  look_after(self)
  return self
end

--- A stream of fn's values for each of the inputs that step() gives, as coroutines here.
---@param settings table  { return_exceptions, on_error }
function generator.of_coroutines(fn, step, name, has_index, settings)
  local self = setmetatable({ fn = fn, step = step, index = 0, name = name, has_index = has_index, settings = settings, at = {} }, Stream)
  if not core.is_worker then look_after(self) end
  return self
end

local function close(self)
  self.is_over, self.at.thread = true, nil
end

--- The outcome of one step of the stream's coroutine: "value", index, ...; "failure", index, what
--- takes its place; or "end".
local function take(self, fine, ...)
  local thread = self.at.thread
  if fine and coroutine.status(thread) == "suspended" then return "value", self.index, ... end
  self.at.thread = nil
  if fine then return "end" end
  local value = (...)
  local settings = self.settings
  local failed = failure.is_failure(value) and value or failure.new { kind = failure.kind_of(value), message = describe.message(value),
    value = describe.value(value), traceback = describe.traceback(debug.traceback(thread)), index = self.index, function_name = self.name,
    attempts = 1 }
  if settings.return_exceptions then return "failure", self.index, failed end
  if settings.on_error then return "failure", self.index, settings.on_error(failed) end
  close(self)
  error(failed, 0)
end

local function begin(self, has, ...)
  if not has then
    close(self)
    return nil
  end
  self.index = self.index + 1
  self.at.thread = coroutine.create(self.fn)
  return take(self, coroutine.resume(self.at.thread, ...))
end

local function step_coroutine(self)
  if self.at.thread then return take(self, coroutine.resume(self.at.thread)) end
  return begin(self, self.step())
end

local function step_results(self)
  local own = self.own
  while true do
    if own.k < own.n then
      local k = own.k
      own.k = k + 1
      if own.is_part then return "value", own.first, core.job.item(own.job, k) end
      own.k = own.n -- the block says that these inputs are over
    else
      local what, index, value = own:_advance()
      if not what then
        self.is_over = true
        return nil
      elseif what ~= "block" then
        return what, index, value
      end
    end
  end
end

local give

local function next_value(self)
  if self.is_over then return nil end
  self.is_waiting = true
  local function done(fine, ...)
    self.is_waiting, self.asked_at = false, core.loop.now()
    if fine then return give(self, ...) end
    self.is_over = true
    error((...), 0)
  end
  return done(pcall(self.fn and step_coroutine or step_results, self))
end

function give(self, what, index, ...)
  if what == "end" then return next_value(self) end
  if what == nil then return nil end
  if self.has_index then return index, ... end
  if (...) == nil then
    self:cancel()
    check.fail("Function:stream: '%s' has given nil as its value, which ends a loop; flat_map gives indexes before values", self.name)
  end
  return ...
end

--- One step of a loop: the values, with the index of their input before them for flat_map; nothing
--- at the end.
function Stream:__call()
  return next_value(self)
end

--- One step by hand.
function Stream:next(extra)
  check.self(self, Stream, "stream", "next")
  check.no_more(extra, "stream:next", "no arguments")
  return next_value(self)
end

--- Stops the function: its next yield raises. Values that were not read are dropped. After the end
--- it does nothing.
function Stream:cancel(extra)
  check.self(self, Stream, "stream", "cancel")
  check.no_more(extra, "stream:cancel", "no arguments")
  if self.is_over then return end
  local thread = self.at.thread
  close(self)
  if thread then stop(thread) end
  if self.own then
    self.own:cancel()
    self.own:_close()
  end
end

function Stream:__tostring()
  return ("tidepool.Stream of %s"):format(self.name)
end

require "tidepool.base.interpret"(take, begin, give, next_value)

--- Raises for options that nobody could keep where the function runs as a coroutine of the item
--- that reads it.
function generator.check_limits(who, f)
  for _, option in ipairs { "timeout", "memory" } do
    if f.options[option] then
      check.fail("%s: '%s' has the option '%s', which cannot be kept here: what an input streams, it runs itself. Map the function, or give the "
        .. "option to the one that streams it", who, f.name, option)
    end
  end
end

--- Raises for options that Function:stream and flat_map cannot have.
function generator.check(who, f, settings)
  if f.options.batched then check.fail("%s: '%s' is batched: it gives lists, all at once", who, f.name) end
  if f.options.concurrent_inputs then
    check.fail("%s: '%s' has option 'concurrent_inputs': one worker runs many of its inputs, of which none can wait for its reader", who, f.name)
  end
  local is_on_device = f.options.gpu and f.options.gpu ~= executors.AUTO and not jobs.drives(f)
  if is_on_device then check.fail("%s: '%s' runs on a device, which gives its results all at once", who, f.name) end
  for _, option in ipairs { "journal", "halt", "times" } do
    if settings[option] then check.fail("%s: option '%s' is not for values that come while a function runs", who, option) end
  end
end

--- How many values may wait, and inputs be in flight, by default.
generator.WINDOW = 64

return generator
