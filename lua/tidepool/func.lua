--- A decorated function: plain Lua when it is called, parallel by its methods.

local Call = require "tidepool.call"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local interpret = require "tidepool.base.interpret"
local jobs = require "tidepool.engine.jobs"
local lazy = require "tidepool.base.lazy"
local loop = require "tidepool.engine.loop"

-- a script that makes one call needs none of these
local inputs, maps, results = lazy "tidepool.engine.inputs", lazy "tidepool.engine.maps", lazy "tidepool.results"
local batch, gathered, options = lazy "tidepool.engine.batch", lazy "tidepool.engine.gathered", lazy "tidepool.options"
local cache, share, spawned = lazy "tidepool.engine.cache", lazy "tidepool.share", lazy "tidepool.engine.spawned"

---@class tidepool.Function
---@field raw function  the plain Lua function; kept in `_raw`, so that assignments are noticed, as are:
---@field name string
---@field options table  those that it was made with, checked
---@overload fun(...: any): ...: any
local Function = {}

---@class tidepool.Function
local methods = {}

local func = { Function = Function, methods = methods }

core.add_class("tidepool.func.Function", Function, false)
-- the field that makes up its identity (codec/identity.h); the others only say how it runs
Function.__identity = "_raw"

-- Per Function, the table that was its first argument in the last call, if it was one.
local last_passed = setmetatable({}, { __mode = "kv" })

--- Makes a Function. `given` are checked options; `setups` is the list of what workers run before
--- it, which may still grow; `of` is the core (limit and statistics) that it shares with other
--- Functions, or nil.
---@return tidepool.Function
function func.new(raw, name, given, setups, of)
  local f = setmetatable({
    _raw = raw, _name = name, _options = given, core = of or core.func.new(name, given.concurrency_limit or 0), is_fresh = true, setups = setups,
  }, Function)
  if given.batched and given.gpu and not jobs.drives(f) then
    check.fail("%s: option 'batched' is for functions that Lua runs; with option 'gpu' alone a function is translated, and devices run many "
      .. "inputs at once anyway", name)
  end
  if given.concurrent_inputs and given.batched then
    check.fail("%s: options 'concurrent_inputs' and 'batched' exclude each other: a batch is one call with many inputs", name)
  elseif given.concurrent_inputs and given.gpu then
    check.fail("%s: option 'concurrent_inputs' is for functions that wait in Lua; while one waits for its device, nothing else can run in its "
      .. "worker: without 'gpu' it could", name)
  end
  if jobs.drives(f) then require("tidepool.device.gpu").add_driver(f) end
  return f
end

--- Makes the Function a method of an instance.
function func.bind(f, method, instance)
  rawset(f, "method", method)
  rawset(f, "instance", instance)
end

--- The function for one input: `raw` itself, or for a batched one a function that calls it with
--- lists of one.
function func.single(f)
  return f.options.batched and batch.one(f.raw, f.name) or f.raw
end

-- What people ask a Function for that its results have.
local of_results = { list = true, sum = true, mean = true, min = true, max = true, reduce = true, array = true, histogram = true, times = true }

--- Is it a Function?
function func.is_function(value)
  return type(value) == "table" and getmetatable(value) == Function
end

local stored_as = { raw = "_raw", name = "_name", options = "_options" }

function Function.__index(self, key)
  local method = methods[key]
  if method == nil then
    if stored_as[key] then return rawget(self, stored_as[key]) end
    check.missing(rawget(self, "_name"), key, methods)
    if of_results[key] then check.fail("%s has no method '%s': its results have, as in f:map(inputs):%s()", rawget(self, "_name"), key, key) end
  end
  return method
end

function Function.__newindex(self, key, value)
  if key == "options" and type(value) == "table" then
    check.fail("%s: the options of a function cannot be set: f:with { ... } is one with others", rawget(self, "_name"))
  end
  local form = options.is_of_functions(key) and (", and f:with { %s = %s } is one with another"):format(key, check.source(value)) or ""
  check.fail("%s: field %s of a function cannot be set: its options are given when it is made%s", rawget(self, "_name"), check.key(key), form)
end

function Function:__tostring()
  return "tidepool.Function: " .. self.name
end

--- The text of a line of a file.
local function read_line(path, number)
  local file = io.open(path)
  if not file then return nil end
  local text
  for _ = 1, number do text = file:read "*l" end
  file:close()
  return text
end

--- The first call of a Function looks for mistakes of people who come from other libraries:
--- f(xs):map(), for which it looks at the caller's line, and one:method(x).
local function first_call(self, ...)
  local instance = rawget(self, "instance")
  if instance and rawequal((...), instance) then
    local method = self.name:match "[^.]*$"
    check.fail("%s: a method of an instance is called with a dot: write one.%s(...)", self.name, method)
  end
  local frame = type((...)) == "table" and check.frame()
  local path = frame and frame.source:match "^@(.*)"
  local text = path and read_line(path, frame.currentline)
  local method = text and (text:match "%)%s*:%s*(s?t?a?r?map)%s*%(" or text:match "%)%s*:%s*(for_each)%s*%(")
  if not method then return func.single(self)(...) end
  local function give(fine, first, ...)
    if fine and (type(first) == "table" or type(first) == "userdata") then return first, ... end
    local name = self.name:find "^[%w_.]+$" and self.name or "f" -- else it has none, but its place
    check.fail("%s(inputs):%s() calls the function here and now, on the list; write %s:%s(inputs)", name, method, name, method)
  end
  return give(pcall(func.single(self), ...))
end

local function call_batched(self, ...)
  return func.single(self)(...)
end

function Function:__call(...)
  if self.is_fresh then
    self.is_fresh = false
    return first_call(self, ...)
  end
  if rawget(self, "_options").batched then return call_batched(self, ...) end
  return rawget(self, "_raw")(...)
end

--- Runs over many inputs, one per position, zipped to the shortest; results in the order of the
-- inputs.
---@param ... any  lists, iterators, ranges or other maps' Results; then options of the call
---@return tidepool.Results
function methods.map(self, ...)
  local given = { n = select("#", ...), ... }
  check.self(self, Function, "f", "map", "inputs")
  local started = maps.over(self, "Function:map", "of_calls", given)
  started:_expect(started.settings.place)
  return results.handle(started)
end

--- The same over a list of argument lists.
---@param items any  a list or an iterator of tables, each the arguments of one call; `n` in one for trailing nils
---@param given table?  options of the call
---@return tidepool.Results
function methods.starmap(self, items, given, extra)
  check.self(self, Function, "f", "starmap", "inputs")
  check.no_more(extra, "Function:starmap", "(lists of arguments, options)")
  if given ~= nil and type(given) ~= "table" then
    check.fail("Function:starmap: expected a list of argument lists, then options; got %s", check.show(given))
  end
  if given and given[1] ~= nil then
    check.fail("Function:starmap takes one list, of the arguments of each call, as in f:starmap { { 1, 2 }, { 3, 4 } }, and then options; " ..
      "lists side by side are for f:map(xs, ys)")
  end
  local settings = given and options.check("Function:starmap", options.of_calls, given) or {}
  local started = maps.start(self, inputs.starmap("Function:starmap", items), settings)
  started:_expect(started.settings.place)
  return results.handle(started)
end

--- Runs over many inputs for the effect: results are not kept. Waits for the end.
---@param ... any  as for map; options may say ignore_exceptions
---@return table  { ok = inputs that ran, failed = that failed }
function methods.for_each(self, ...)
  local given = { n = select("#", ...), ... }
  check.self(self, Function, "f", "for_each", "inputs")
  loop.check_wait()
  local all = maps.over(self, "Function:for_each", "of_for_each", given, { discard = true })
  all:_drain()
  local p = all:progress()
  return { ok = p.done - p.failed, failed = p.failed }
end

--- The values that f yields for these arguments, while it runs: for v in f:stream(x) do. It runs
--- ahead by at most `window` values (64). What f returns is dropped.
---@param ... any  its arguments
---@return tidepool.Stream
function methods.stream(self, ...)
  local given = { n = select("#", ...), ... }
  check.self(self, Function, "f", "stream", "...")
  return maps.stream(self, "Function:stream", {}, false, function() return inputs.starmap("Function:stream", { given }) end, function()
    local is_over = false
    return function()
      if is_over then return false end
      is_over = true
      return true, unpack(given, 1, given.n)
    end
  end)
end

--- The values that f yields for each of many inputs, in the order of the inputs: for i, v in
--- f:flat_map(xs) do. Several inputs run at once; at most `window` values wait.
---@param ... any  inputs as for map; then options of the call
---@return tidepool.Stream
function methods.flat_map(self, ...)
  local given = { n = select("#", ...), ... }
  check.self(self, Function, "f", "flat_map", "inputs")
  local settings, n = {}, math.max(given.n, 1)
  if n > 1 and check.is_options(given[n], true) then
    settings = options.check("Function:flat_map", options.of_calls, given[n])
    n = n - 1
  end
  return maps.stream(self, "Function:flat_map", settings, true, function() return inputs.map("Function:flat_map", given, n) end,
    function() return inputs.steps("Function:flat_map", given, n) end)
end

--- Starts a map now; its Results may be read later, or never: the script does not end before it is
-- done.
---@param ... any  as for map
---@return tidepool.Results
function methods.spawn_map(self, ...)
  local given = { n = select("#", ...), ... }
  check.self(self, Function, "f", "spawn_map", "inputs")
  local started = maps.over(self, "Function:spawn_map", "of_calls", given, { is_kept = true })
  if started.job then spawned.keep(started) end
  return results.handle(started)
end

--- Notes a large table that is passed again and again, which should be shared.
local function note_passed(self, value)
  if type(value) ~= "table" or core.is_worker then return end
  if last_passed[self] == value then share.note_passed(self, value) else last_passed[self] = value end
end

--- Opens a job of one call.
local function open_call(self, ...)
  jobs.check_yields(self)
  note_passed(self, (...))
  local kept = jobs.cache(self)
  -- with all fields that `open` sets, so that the table need not grow
  local more = {
    total = 1, is_cheap = true, ordered = true, journal = kept and kept.handle, retries = false, captured = false, leased = false,
    devices = false, timeout = false, crash_retries = false, recycle = false, memory = false, apart = false,
  }
  local only = self.options.gpu and { n = 1, items = { { n = select("#", ...), ... } } }
  local job = jobs.open(self, more, jobs.kernel(self, nil, only))
  local has_room, why, kind = core.job.add(job, ...)
  if has_room == nil then
    core.job.close(job)
    error(failure.new { kind = kind, message = check.placed(self.name .. ": " .. why), function_name = self.name, attempts = 0 }, 0)
  end
  core.job.push(job)
  core.job.finish(job)
  return job
end

--- Adds a call of a batched function to the batch that is being gathered.
local function gather(self, ...)
  jobs.check_yields(self)
  note_passed(self, (...))
  local image, captured = jobs.encode(self, jobs.executor(self))
  local many = gathered.of(self, image, function()
    local kept = jobs.cache(self)
    return jobs.open(self, { is_cheap = true, keep_going = true, journal = kept and kept.handle, captured = captured }, nil, nil, image)
  end)
  local has_room, why, kind = core.job.add(many.job, ...)
  if has_room == nil then
    if many.n == 0 then many:drop() end
    error(failure.new { kind = kind, message = check.placed(self.name .. ": " .. why), function_name = self.name, attempts = 0 }, 0)
  end
  return Call.of_gathered(many, self)
end

--- Are single calls of the function gathered? Only where others could call it meanwhile, so not in
--- a worker.
local function is_gathered(self)
  return self.options.batched and not core.is_worker
end

--- One call in the pool.
---@param ... any  its arguments
---@return any ...  all of its return values; its error is raised
function methods.remote(self, ...)
  check.self(self, Function, "f", "remote", "...")
  loop.check_wait()
  loop.give_way_in_task()
  if is_gathered(self) then return Call.finish(gather(self, ...)) end
  return Call.wait(open_call(self, ...), self)
end

--- Starts one call in the pool.
---@param ... any  its arguments
---@return tidepool.Call
function methods.spawn(self, ...)
  check.self(self, Function, "f", "spawn", "...")
  loop.give_way_in_task()
  if is_gathered(self) then return gather(self, ...) end
  return Call.new(open_call(self, ...), self)
end

--- The same function under other options: a new handle. It shares the limit and the statistics
-- unless it gives a limit or a name.
---@param given table
---@return tidepool.Function
function methods.with(self, given, extra)
  check.self(self, Function, "f", "with", "...")
  check.no_more(extra, "Function:with", "a table of options")
  if type(given) ~= "table" then check.fail("Function:with: expected a table of options, got %s", check.show(given)) end
  local changed = options.check("Function:with", options.of_functions, given)
  if changed.kernel or changed.with then
    check.fail("Function:with: options 'kernel' and 'with' are the function itself; make another one with app:func")
  end
  if self.options.kernel and changed.executor then
    check.fail("Function:with: option 'executor': '%s' is OpenCL C, which only devices run", self.name)
  end
  local merged = options.merge("Function:with", self.options, changed)
  local other = func.new(self.raw, changed.name or self.name, merged, self.setups)
  func.bind(other, rawget(self, "method"), rawget(self, "instance"))
  if changed.concurrency_limit == nil and changed.name == nil then other.core = self.core end
  return other
end

--- The OpenCL C that the function is on a device: generated from its Lua, with the Lua lines as
-- comments, or the user's own.
---@return string
function methods.opencl(self, extra)
  check.self(self, Function, "f", "opencl")
  check.no_more(extra, "Function:opencl", "no arguments")
  if jobs.drives(self) then check.fail("Function:opencl: %s has an executor: it is not translated, but drives its device itself", self.name) end
  return require("tidepool.device.gpu").source(self)
end

--- Counts of items over all maps and calls of this function, and how long they took.
--- `duration` is in seconds of attempts, also failed ones, within 6 %, and not there before the
--- first is over. With the option cache also { hits, misses }: results that were found there, and
--- that were not.
---@return table  { queued, running, done, failed, duration = { mean, p50, p90, p99, max } }
function methods.stats(self, extra)
  check.self(self, Function, "f", "stats")
  check.no_more(extra, "Function:stats", "no arguments")
  local queued, running, done, failed, mean, p50, p90, p99, max = core.func.stats(self.core)
  local stats = { queued = queued, running = running, done = done, failed = failed }
  if mean then stats.duration = { mean = mean, p50 = p50, p90 = p90, p99 = p99, max = max } end
  if self.options.cache then stats.hits, stats.misses = cache.counts(self) end
  return stats
end

--- Has the function's cache forget the result of the input with these arguments; without any those
--- of all inputs, also those of what the function was before it was changed.
---@param ... any  the arguments
---@return integer  how many results are forgotten
function methods.forget(self, ...)
  check.self(self, Function, "f", "forget", "...")
  if not self.options.cache then check.fail("Function:forget: '%s' has no option cache", self.name) end
  if core.in_item then check.fail("Function:forget: only the script can do that") end
  return cache.forget(self, select("#", ...), ...)
end

interpret(open_call, gather, methods.remote, methods.spawn, first_call, call_batched)

return func
