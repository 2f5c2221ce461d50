--- A decorated function: plain Lua when it is called, parallel by its methods.

local abi = require "tidepool.base.abi"
local Call = require "tidepool.call"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local executors = require "tidepool.engine.executors"
local failure = require "tidepool.failure"
local interpret = require "tidepool.base.interpret"
local lazy = require "tidepool.base.lazy"
local loop = require "tidepool.engine.loop"

-- most scripts give no options
local options = lazy "tidepool.options"
local array, inputs, results = lazy "tidepool.array", lazy "tidepool.engine.inputs", lazy "tidepool.results"
local batch, gathered = lazy "tidepool.engine.batch", lazy "tidepool.engine.gathered"
local generator, own_modules = lazy "tidepool.generator", lazy "tidepool.engine.own_modules"
local cache, journal, share = lazy "tidepool.engine.cache", lazy "tidepool.engine.journal", lazy "tidepool.share"

---@class tidepool.Function
---@field raw function  the plain Lua function
---@field name string
---@overload fun(...: any): ...: any
local Function = {}

---@class tidepool.Function
local methods = {}

local CRASH_RETRIES = 1 -- when the option is not given
local LARGE = 2 ^ 20 -- bytes from which on it is checked whether a value is encoded again and again

local func = { Function = Function, methods = methods }

core.add_class("tidepool.func.Function", Function, false)
-- the field that makes up its identity (codec/identity.h); the others only say how it runs
Function.__identity = "raw"

-- Per Function, the table that was its first argument in the last call, if it was one.
local last_passed = setmetatable({}, { __mode = "kv" })

-- The executor of each Function where Lua runs it, once it was asked for: options do not change.
local lua_executors = setmetatable({}, { __mode = "k" })

-- The last image of each Function, so that an unchanged function is not sent again.
local images = setmetatable({}, { __mode = "k" })

--- Makes a Function. `given` are checked options; `setups` is the list of what workers run before
--- it, which may still grow; `of` is the core (limit and statistics) that it shares with other
--- Functions, or nil.
---@return tidepool.Function
function func.new(raw, name, given, setups, of)
  local f = setmetatable({
    raw = raw, name = name, options = given, core = of or core.func.new(name, given.concurrency_limit or 0), is_fresh = true, setups = setups,
  }, Function)
  if given.batched and given.gpu and not given.executor then
    check.fail("%s: option 'batched' is for functions that Lua runs; with option 'gpu' alone a function is translated, and devices run many "
      .. "inputs at once anyway", name)
  end
  if given.concurrent_inputs and given.batched then
    check.fail("%s: options 'concurrent_inputs' and 'batched' exclude each other: a batch is one call with many inputs", name)
  elseif given.concurrent_inputs and given.gpu then
    check.fail("%s: option 'concurrent_inputs' is for functions that wait in Lua; while one waits for its device, nothing else can run in its "
      .. "worker: without 'gpu' it could", name)
  end
  if func.drives(f) then require("tidepool.device.gpu").add_driver(f) end
  return f
end

--- The function for one input: `raw` itself, or for a batched one a function that calls it with
--- lists of one.
function func.single(f)
  return f.options.batched and batch.one(f.raw, f.name) or f.raw
end

--- Does the function drive its devices by hand? With `gpu` alone it is translated and runs on
--- devices. With an executor too it runs there, and tidepool.gpu.device() gives it its devices.
function func.drives(f)
  return f.options.gpu ~= nil and f.options.executor ~= nil
end

--- Is it a Function?
function func.is_function(value)
  return type(value) == "table" and getmetatable(value) == Function
end

function Function.__index(self, key)
  local method = methods[key]
  if method == nil then check.missing(rawget(self, "name"), key, methods) end
  return method
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
    check.fail("%s(inputs):%s() calls the function here and now, on the list; write %s:%s(inputs)", self.name, method, self.name, method)
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
  if self.options.batched then return call_batched(self, ...) end
  return self.raw(...)
end

--- The kernel that runs the function on devices, or `only` on that one, if it asks for some; see
--- gpu.kernel.
local function open_kernel(self, types, inputs_of, shape, only)
  if self.options.gpu and not self.options.executor then
    return require("tidepool.device.gpu").kernel(self, types, inputs_of, shape, only)
  end
end

--- The numbers of the devices that the function drives by hand; nil when it does not.
local function leased_to(self)
  if not func.drives(self) then return nil end
  local numbers = {}
  for i, d in ipairs(require("tidepool.device.gpu").match(self.options.gpu, self.name) or {}) do numbers[i] = d.number end
  return numbers
end

--- The executor that runs the function where no device does.
local function lua_executor(self)
  local executor = lua_executors[self]
  if not executor then
    executor = next(self.options) == nil and executors.default or options.executor(self.options, true)
    lua_executors[self] = executor
  end
  return executor
end

--- What workers of that executor load of the function as it is now: its image, and the tables that
--- it captures.
local function encode(self, executor)
  if executor.far then own_modules.collect(self.raw, self.setups) elseif not executor.shares_memory then core.array.share() end
  local image, captured, is_known = core.func.image(self.raw, package.path, package.cpath, self.setups and self.setups[1] and self.setups, self.name,
    images[self], self.core, not executor.shares_memory, executor.far)
  if not image then
    error(failure.new { kind = is_known, message = check.where() .. captured, function_name = self.name, attempts = 0 }, 0)
  end
  images[self] = image
  if not is_known and not core.is_worker and core.value.bytes(image) >= LARGE then share.note_image(self, image) end
  return image, captured
end

--- Opens a job of the function. `more` are options for core.job.open.
local function open(self, more, kernel, unit, image)
  more.retries = self.options.retries
  local job, why, kind
  local executor, batched, concurrent = lua_executor(self), self.options.batched, self.options.concurrent_inputs
  if not image and (not kernel or unit.may_fall_back) then image, more.captured = encode(self, executor) end
  if kernel then
    more.fallback = image
    job, why, kind = core.job.open(self.core, kernel, executors.of_kernels.name, more)
  else
    more.leased = leased_to(self)
    more.timeout, more.crash_retries = self.options.timeout, self.options.crash_retries or CRASH_RETRIES
    more.recycle, more.memory = self.options.recycle, self.options.memory
    more.concurrent = concurrent and concurrent > 1 and concurrent or nil
    if batched then more.batch, more.splits = batched.max, batched.split ~= false end
    job, why, kind = core.job.open(self.core, image, executor.name, more)
  end
  if not job then
    error(failure.new { kind = kind, message = ("%s%s: %s"):format(check.where(), self.name, why), function_name = self.name, attempts = 0 }, 0)
  end
  return job
end

--- What core.job.open needs for `returns`: the types and, when it is known how many results there
--- will be, arrays for them, with the shape of a grid that the inputs may be. Also returns the
--- arrays.
local function open_returns(returns, total, shape)
  local columns, memory, arrays = {}, {}, {}
  for c, name in ipairs(returns) do
    columns[c] = array.number(name)
    if total then
      arrays[c] = array.shaped(array.allocate(name, total, false), shape)
      memory[c] = arrays[c].memory
    end
  end
  return { columns = columns, memory = total and memory or nil }, total and arrays or nil
end

--- The map's part of its journal, from journal.open; nil when it has none.
local function open_journal(self, settings, more, total, executor)
  if more.is_inner or settings.journal == false then return nil end
  if settings.journal and core.in_item then
    check.fail("%s: option 'journal': a map inside of a mapped function has none: the outermost map keeps what its items give", self.name)
  end
  local spec = settings.journal or (not core.in_item and core.journal_default)
  return spec and journal.open(self.name, self, spec, total, executor.name) or nil
end

--- The function's part of its cache, from cache.open; nil when it has none. Maps inside mapped
--- functions have none.
local function open_cache(self)
  return self.options.cache and not core.in_item and cache.open(self) or nil
end

--- How results of a map on devices are reduced there: the setting `reducers` of results.new.
local function reducers(self, unit, types, shape, only)
  local given = {}
  function given.open(reduce, count) return require("tidepool.device.gpu").reducer(self, unit, types, reduce, count, shape, only) end
  if self.options.kernel then return given end
  function given.there(reduce, values)
    local same = func.new(require("tidepool.device.gpu").identity(), self.name, { gpu = self.options.gpu, precision = self.options.precision })
    return func.start(same, inputs.map("results:reduce", { values }, 1), {}, { reduce = reduce, is_inner = true })
  end
  return given
end

local NOTHING = {}

--- Refuses a call that would not read what the function yields, where its options say that it does.
local function check_yields(self)
  if not self.options.yields then return end
  check.fail("%s yields its values (option 'yields'): f:stream(...) reads those of one call, f:flat_map(xs) those of many", self.name)
end

--- Refuses options of a call that contradict each other.
local function check_settings(self, settings)
  if settings.on_error and settings.return_exceptions then
    check.fail("%s: options 'on_error' and 'return_exceptions' exclude each other: with the first a value takes a failure's place, with the "
      .. "second the failure itself", self.name)
  end
end

--- Starts a map over a source (inputs.lua). `settings` are checked call options; `special` may have
--- discard, streams, is_kept, reduce and is_inner.
---@return tidepool.Results
function func.start(self, source, settings, special)
  if core.on_map then core.on_map(self) end -- see program/replay.lua
  special = special or NOTHING
  check_settings(self, settings)
  if not special.streams then check_yields(self) end
  if not special.is_inner then loop.give_way_in_task() end
  -- with all fields that most maps set, so that the table need not grow
  local more = {
    total = source.total, is_cheap = source.is_cheap, ordered = settings.ordered ~= false,
    keep_going = (settings.return_exceptions or settings.on_error or settings.ignore_exceptions) and true or false,
    discard = special.discard, streams = special.streams, reduce = special.reduce, is_inner = special.is_inner, is_kept = special.is_kept,
    bytes = source.bytes, stays = false, retries = false, captured = false, leased = false, timeout = false, crash_retries = false, recycle = false,
    memory = false,
  }
  local retries, returns, arrays = self.options.retries, self.options.returns, nil
  -- what records inputs has to see them
  local is_recorded = self.options.cache or settings.journal ~= false and (settings.journal or core.journal_default)
  local kernel, unit = open_kernel(self, source.types, source, source.is_grid and not is_recorded and source.shape or nil, source.device)
  if unit and unit.has_places then source = inputs.places(source.shape) end
  if kernel then source.block = inputs.LARGEST_BLOCK end -- a launch costs as much as some thousand numbers
  -- A device gives columns of numbers in any case; where the inputs are arrays or places of one,
  -- the results are too.
  local wants_arrays = returns ~= nil or source.types ~= nil or kernel and source.shape ~= nil
  local n_results = unit and #unit.result_types or 0
  local is_new = unit and unit.is_new -- drivers compile, or go on to, when a kernel is first launched
  if is_new then unit.is_new = false end
  local may_be_columns = n_results >= 1 and n_results <= abi.COLUMNS_MAX and not unit.has_boolean
  if may_be_columns and (wants_arrays or n_results > 1 or unit.result_types[1] ~= "double") then
    returns = unit.result_types
  end
  local executor = kernel and executors.of_kernels or lua_executor(self)
  if not (executor.shares_memory or executor.far) then core.array.share() end
  if returns and not more.discard then more.returns, arrays = open_returns(returns, wants_arrays and source.total or nil, source.shape) end
  if self.options.batched then source.wait, source.batch = self.options.batched.wait, self.options.batched.max end
  local halt, survives = settings.halt, more.keep_going
  if halt and (halt.failures or halt.share) and not survives then
    check.fail("%s: option 'halt' counts failures that are not raised: give return_exceptions, on_error or, to for_each, ignore_exceptions too",
      self.name)
  end
  local kept = open_journal(self, settings, more, source.total, executor) or not (more.is_inner or more.discard) and open_cache(self) or nil
  -- a recorder reads an input after its item is over, and perhaps after the state is
  source.may_pin = not executor.far and not kept
  source.comes_home = kept ~= nil
  more.stays = kernel and arrays and not kept
  more.window = settings.window or self.options.window or source.window
  more.journal = kept and kept.handle
  if more.reduce and unit then
    more.reducer = reducers(self, unit, source.types, source.shape, source.device).open(more.reduce, source.total)
  end
  local fine, job = pcall(open, self, more, kernel, unit)
  if not fine then
    if kept then kept:finish(false) end
    error(job, 0)
  end
  -- not where each result must be recorded or counted
  local on_device = kernel and not more.discard and not kept and not halt and reducers(self, unit, source.types, source.shape, source.device) or nil
  return results.new(job, source, {
    name = self.name, return_exceptions = settings.return_exceptions or settings.ignore_exceptions, on_error = settings.on_error,
    max_attempts = 1 + (retries and retries.max or 0), on_retry = retries and retries.on, is_kept = more.is_kept,
    returns = not more.discard and returns or nil, arrays = arrays, stays = more.stays, device = unit and unit.device,
    reducers = on_device, is_single = kernel and self.options.precision == "single",
    progress = settings.progress, journal = kept, halt = halt, ordered = more.ordered, executor = executor, times = settings.times,
    is_compiling = is_new, shape = source.shape, has_places = source.has_places,
  })
end

--- Is one of the inputs of a kind that may be on a device: a buffer, or Results?
local function may_be_resident(self, given, n)
  local has_buffers = package.loaded["tidepool.device.device"] ~= nil
  for c = 1, n do
    local value = given[c]
    if type(value) == "userdata" and self.options.gpu or has_buffers and type(value) == "table" and getmetatable(value) then return true end
  end
  return false
end

--- The source and the options of a map, from the arguments of its call: inputs and, perhaps,
--- options at the end.
---@param rows string  the options that there are: a field of options
---@param given table  with n
local function map_source(self, who, rows, given)
  local settings, n = {}, math.max(given.n, 1)
  if n > 1 and check.is_options(given[n], true) then
    settings = options.check(who, options[rows], given[n])
    n = n - 1
  end
  local source = may_be_resident(self, given, n) and require("tidepool.device.resident").source(who, self, given, n)
  return source or inputs.map(who, given, n), settings
end

--- Runs over many inputs, one per position, zipped to the shortest; results in the order of the
-- inputs.
---@param ... any  lists, iterators, ranges or other maps' Results; then options of the call
---@return tidepool.Results
function methods.map(self, ...)
  local given = { n = select("#", ...), ... }
  check.self(self, Function, "f", "map", "inputs")
  local source, settings = map_source(self, "Function:map", "of_calls", given)
  local started = func.start(self, source, settings)
  started:_expect(check.where())
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
  local settings = given and options.check("Function:starmap", options.of_calls, given) or {}
  local started = func.start(self, inputs.starmap("Function:starmap", items), settings)
  started:_expect(check.where())
  return results.handle(started)
end

--- Runs over many inputs for the effect: results are not kept. Waits for the end.
---@param ... any  as for map; options may say ignore_exceptions
---@return table  { ok = inputs that ran, failed = that failed }
function methods.for_each(self, ...)
  local given = { n = select("#", ...), ... }
  check.self(self, Function, "f", "for_each", "inputs")
  loop.check_wait()
  local source, settings = map_source(self, "Function:for_each", "of_for_each", given)
  local all = func.start(self, source, settings, { discard = true })
  all:_drain()
  local p = all:progress()
  return { ok = p.done - p.failed, failed = p.failed }
end

--- Opens a stream of f's values. `read` returns a function that gives the inputs one by one,
--- `source` a source of the same inputs.
local function open_stream(self, who, settings, has_index, source, read)
  check_settings(self, settings)
  generator.check(who, self, settings)
  if core.is_worker or lua_executor(self).by_owner then
    return generator.of_coroutines(self.raw, read(), self.name, has_index, settings)
  end
  local executor = lua_executor(self)
  if not executor.streams then
    check.fail("%s: %s, on %q, gives no values while it runs: that needs %s", who, self.name, executor.name,
      executors.in_words(executors.that("runs_lua", "streams")))
  end
  settings.window = settings.window or self.options.window or generator.WINDOW
  settings.journal = false
  local started = func.start(self, source(), settings, { discard = true, streams = true })
  return generator.of_results(started, self.name, has_index)
end

--- The values that f yields for these arguments, while it runs: for v in f:stream(x) do. It runs
--- ahead by at most `window` values (64). What f returns is dropped.
---@param ... any  its arguments
---@return tidepool.Stream
function methods.stream(self, ...)
  local given = { n = select("#", ...), ... }
  check.self(self, Function, "f", "stream", "...")
  return open_stream(self, "Function:stream", {}, false, function() return inputs.starmap("Function:stream", { given }) end, function()
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
  return open_stream(self, "Function:flat_map", settings, true, function() return inputs.map("Function:flat_map", given, n) end,
    function() return inputs.steps("Function:flat_map", given, n) end)
end

--- Starts a map now; its Results may be read later, or never: the script does not end before it is
-- done.
---@param ... any  as for map
---@return tidepool.Results
function methods.spawn_map(self, ...)
  local given = { n = select("#", ...), ... }
  check.self(self, Function, "f", "spawn_map", "inputs")
  local source, settings = map_source(self, "Function:spawn_map", "of_calls", given)
  local started = func.start(self, source, settings, { is_kept = true })
  if started.job then loop.keep(started) end
  return results.handle(started)
end

--- Notes a large table that is passed again and again, which should be shared.
local function note_passed(self, value)
  if type(value) ~= "table" or core.is_worker then return end
  if last_passed[self] == value then share.note_passed(self, value) else last_passed[self] = value end
end

--- Opens a job of one call.
local function open_call(self, ...)
  check_yields(self)
  note_passed(self, (...))
  local kept = open_cache(self)
  -- with all fields that `open` sets, so that the table need not grow
  local more = {
    total = 1, is_cheap = true, ordered = true, journal = kept and kept.handle, retries = false, captured = false, leased = false,
    timeout = false, crash_retries = false, recycle = false, memory = false,
  }
  local job = open(self, more, open_kernel(self, nil, select("#", ...)))
  local has_room, why, kind = core.job.add(job, ...)
  if has_room == nil then
    core.job.close(job)
    error(failure.new { kind = kind, message = check.where() .. self.name .. ": " .. why, function_name = self.name, attempts = 0 }, 0)
  end
  core.job.push(job)
  core.job.finish(job)
  return job
end

--- Adds a call of a batched function to the batch that is being gathered.
local function gather(self, ...)
  check_yields(self)
  note_passed(self, (...))
  local image, captured = encode(self, lua_executor(self))
  local many = gathered.of(self, image, function()
    local kept = open_cache(self)
    return open(self, { is_cheap = true, keep_going = true, journal = kept and kept.handle, captured = captured }, nil, nil, image)
  end)
  local has_room, why, kind = core.job.add(many.job, ...)
  if has_room == nil then
    if many.n == 0 then many:drop() end
    error(failure.new { kind = kind, message = check.where() .. self.name .. ": " .. why, function_name = self.name, attempts = 0 }, 0)
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
  if type(given) ~= "table" then check.fail("Function:with: expected a table of options, got %s", type(given)) end
  local changed = options.check("Function:with", options.of_functions, given)
  if changed.kernel or changed.with then
    check.fail("Function:with: options 'kernel' and 'with' are the function itself; make another one with app:func")
  end
  if self.options.kernel and changed.executor then
    check.fail("Function:with: option 'executor': '%s' is OpenCL C, which only devices run", self.name)
  end
  local merged = options.merge("Function:with", self.options, changed)
  local other = func.new(self.raw, changed.name or self.name, merged, self.setups)
  other.method, other.instance = rawget(self, "method"), rawget(self, "instance")
  if changed.concurrency_limit == nil and changed.name == nil then other.core = self.core end
  return other
end

--- The OpenCL C that the function is on a device: generated from its Lua, with the Lua lines as
-- comments, or the user's own.
---@return string
function methods.opencl(self, extra)
  check.self(self, Function, "f", "opencl")
  check.no_more(extra, "Function:opencl", "no arguments")
  if func.drives(self) then check.fail("Function:opencl: %s has an executor: it is not translated, but drives its device itself", self.name) end
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
