--- Maps of functions: what their inputs and options mean, and how they start.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local executors = require "tidepool.engine.executors"
local func = require "tidepool.func"
local inputs = require "tidepool.engine.inputs"
local jobs = require "tidepool.engine.jobs"
local lazy = require "tidepool.base.lazy"
local loop = require "tidepool.engine.loop"
local results = require "tidepool.results"

local array, generator = lazy "tidepool.array", lazy "tidepool.generator"
local journal, options = lazy "tidepool.engine.journal", lazy "tidepool.options"

local maps = {}

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

--- The kernel that runs a map's items on devices beside worker threads, where those run them; see
--- gpu.beside. Data of a device is left to it.
--- Also returns whether they may later (joiner).
local function open_beside(self, source, special)
  if jobs.is_auto(self) and not source.device and not special.streams and jobs.executor(self) == executors.fallback then
    return require("tidepool.device.gpu").beside(self, source.types, source)
  end
end

local LOAD_AFTER_S = 0.01 -- OpenCL is loaded for a map that has run for so long: a script of a short one can do without it

--- What has devices run a map, too, that began before they were known: called by its Results until
--- it returns false. They run the function as it was then, or not at all: nobody else keeps what it
--- captures.
local function joiner(self, source, n_returns, executor)
  local image, began = jobs.image(self), core.loop.now()
  return function(job, settings)
    local gpu = require "tidepool.device.gpu"
    if not gpu.are_known(core.loop.now() - began >= LOAD_AFTER_S) then return true end
    local can_travel, now = pcall(jobs.encode, self, executor) -- why it cannot, the next map says
    if not can_travel or now ~= image then return false end
    local kernel, unit = gpu.beside(self, source.types, source)
    if kernel and (n_returns > 0 or #unit.result_types == 1) then
      core.job.go_beside(job, kernel)
      settings.beside = unit
    end
    return false
  end
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

--- How results of a map on devices are reduced there: the setting `reducers` of results.new.
local function reducers(self, unit, types, shape, only)
  local given = {}
  function given.open(reduce, count) return require("tidepool.device.gpu").reducer(self, unit, types, reduce, count, shape, only) end
  local first = unit.result_types[1]
  -- a function of two is given 64-bit integers as they are
  if self.options.kernel or first == "int64" or first == "uint64" then return given end
  function given.there(reduce, values)
    local same = func.new(require("tidepool.device.gpu").identity(), self.name, { gpu = self.options.gpu, precision = self.options.precision })
    return maps.start(same, inputs.map("results:reduce", { values }, 1), {}, { reduce = reduce, is_inner = true })
  end
  return given
end

local NOTHING = {}

--- Refuses options of a call that contradict each other.
local function check_settings(self, settings)
  if settings.on_error and settings.return_exceptions then
    check.fail("%s: options 'on_error' and 'return_exceptions' exclude each other: with the first a value takes a failure's place, with the "
      .. "second the failure itself", self.name)
  end
end

--- Starts a map over a source (inputs.lua). `settings` are checked call options; `special` may have
--- discard, streams, is_kept, reduce and is_inner. What devices run is source.fused where there is
--- one, see device/fused.lua.
---@return tidepool.Results
function maps.start(self, source, settings, special)
  if core.on_map then core.on_map(self) end -- see program/replay.lua
  special = special or NOTHING
  check_settings(self, settings)
  local called_at = check.where()
  if not special.streams then jobs.check_yields(self) end
  if not special.is_inner then loop.give_way_in_task() end
  -- with all fields that most maps set, so that the table need not grow
  local more = {
    total = source.total, is_cheap = source.is_cheap, ordered = settings.ordered ~= false,
    keep_going = (settings.return_exceptions or settings.on_error or settings.ignore_exceptions) and true or false,
    discard = special.discard, streams = special.streams, reduce = special.reduce, is_inner = special.is_inner, is_kept = special.is_kept,
    times = settings.times and true or false, bytes = source.bytes, kernel = false, devices = false, stays = false, retries = false,
    captured = false, leased = false, timeout = false, crash_retries = false, recycle = false, memory = false, apart = false,
  }
  local retries, returns, arrays = self.options.retries, self.options.returns, nil
  -- what records inputs has to see them
  local is_recorded = self.options.cache or settings.journal ~= false and (settings.journal or core.journal_default)
  local run = source.fused or self
  local kernel, unit = jobs.kernel(run, source.types, source, source.is_grid and not is_recorded and source.shape or nil, source.device)
  local plan -- of devices of other machines
  if unit and unit.is_far then plan, kernel = kernel, nil end
  local may_join = false
  if not (kernel or plan) then more.kernel, unit, may_join = open_beside(self, source, special) end
  if unit and unit.has_places then source = inputs.places(source.shape) end
  if kernel or plan or more.kernel or may_join then source.block = inputs.LARGEST_BLOCK end -- a launch costs as much as some thousand numbers
  -- A device gives columns of numbers in any case; where the inputs are arrays or places of one,
  -- the results are too.
  local wants_arrays = returns ~= nil or source.types ~= nil or (kernel or plan) and source.shape ~= nil
  local n_results = unit and #unit.result_types or 0
  local is_new = not plan and unit and unit.is_new -- drivers compile, or go on to, when a kernel is first launched
  if is_new then unit.is_new = false end
  local builds = is_new and require("tidepool.device.gpu").builds(unit) or {}
  local may_be_columns = n_results >= 1 and n_results <= abi.COLUMNS_MAX and not unit.has_boolean
  -- threads beside devices give what they give alone
  for i = 1, more.kernel and not returns and n_results or 0 do may_be_columns = may_be_columns and unit.result_types[i] == "double" end
  if may_be_columns and (wants_arrays or n_results > 1 or unit.result_types[1] ~= "double") then
    returns = unit.result_types
  end
  local executor = kernel and executors.of_kernels or jobs.executor(self)
  if not (executor.shares_memory or executor.far) then core.array.share() end
  if executor.far and not plan and source.block then source.block = abi.GROUP end -- blocks of inputs end where groups of results do (reduce.lua)
  if returns and not more.discard then more.returns, arrays = open_returns(returns, wants_arrays and source.total or nil, source.shape) end
  if self.options.batched then source.wait, source.batch = self.options.batched.wait, self.options.batched.max end
  local halt, survives = settings.halt, more.keep_going
  if halt and (halt.failures or halt.share) and not survives then
    check.fail("%s: option 'halt' counts failures that are not raised: give return_exceptions, on_error or, to for_each, ignore_exceptions too",
      self.name)
  end
  local kept = open_journal(self, settings, more, source.total, executor) or not (more.is_inner or more.discard) and jobs.cache(self) or nil
  -- a recorder reads an input after its item is over, and perhaps after the state is
  source.may_pin = not executor.far and not kept
  source.comes_home = kept ~= nil or plan ~= nil
  more.stays = kernel and arrays and not kept
  more.window = settings.window or self.options.window or source.window
  more.journal = kept and kept.handle
  if more.reduce and kernel then
    local made
    more.reducer, made = reducers(run, unit, source.types, source.shape, source.device).open(more.reduce, source.total)
    for _, each in ipairs(made or {}) do builds[#builds + 1] = each end
  end
  local fine, job = pcall(jobs.open, self, more, kernel or plan, unit)
  if not fine then
    if kept then kept:finish(false) end
    error(job, 0)
  end
  source.place = called_at -- for inputs that cannot travel
  -- not where each result must be recorded or counted
  local may_reduce = not more.discard and not kept and not halt
  local on_device = kernel and may_reduce and reducers(run, unit, source.types, source.shape, source.device) or nil
  return results.new(job, source, {
    name = self.name, return_exceptions = settings.return_exceptions or settings.ignore_exceptions, on_error = settings.on_error,
    max_attempts = 1 + (retries and retries.max or 0), on_retry = retries and retries.on, is_kept = more.is_kept,
    returns = not more.discard and returns or nil, arrays = arrays, stays = more.stays, device = kernel and unit.device,
    is_auto = jobs.is_auto(self), beside = more.kernel and unit or nil,
    joins = may_join and source.total and joiner(self, source, returns and #returns or 0, executor) or nil,
    kernel = kernel, unit = kernel and unit,
    reducers = on_device, reduces = executor.far and not plan and may_reduce, is_single = (kernel or plan) and self.options.precision == "single",
    progress = settings.progress, journal = kept, halt = halt, ordered = more.ordered, executor = executor, times = settings.times, builds = builds,
    is_compiling = is_new, place = called_at, shape = source.shape, has_places = source.has_places,
  })
end

--- Is one of the inputs of a kind that may be on a device: a buffer, or Results?
local function may_be_resident(self, given, n)
  local has_buffers = package.loaded["tidepool.device.device"] ~= nil
  for c = 1, n do
    local value = given[c]
    if type(value) == "userdata" and (self.options.gpu or has_buffers) then return true end
  end
  return false
end

--- Starts a map over the inputs of a call, and the options at their end.
---@return tidepool.Results
function maps.over(self, who, rows, given, special)
  local settings, n = {}, math.max(given.n, 1)
  if n > 1 and check.is_options(given[n], true) then
    settings = options.check(who, options[rows], given[n])
    n = n - 1
  end
  local is_plain = not special and next(settings) == nil
  local source = may_be_resident(self, given, n) and require("tidepool.device.resident").source(who, self, given, n, is_plain)
  source = source or inputs.map(who, given, n)
  local started = maps.start(self, source, settings, special)
  if is_plain and started.settings.stays and source.types and not source.results then
    started.origin = { fn = source.fused or self, given = source.given or given, types = source.types, device = source.device }
  end
  return started
end

--- Opens a stream of f's values. `read` returns a function that gives the inputs one by one,
--- `source` a source of the same inputs.
function maps.stream(self, who, settings, has_index, source, read)
  check_settings(self, settings)
  generator.check(who, self, settings)
  if core.is_worker or jobs.executor(self).by_owner then
    generator.check_limits(who, self)
    return generator.of_coroutines(self.raw, read(), self.name, has_index, settings)
  end
  local executor = jobs.executor(self)
  if not executor.streams then
    check.fail("%s: %s, on %q, gives no values while it runs: that needs %s", who, self.name, executor.name,
      executors.in_words(executors.that("runs_lua", "streams")))
  end
  settings.window = settings.window or self.options.window or generator.WINDOW
  settings.journal = false
  local started = maps.start(self, source(), settings, { discard = true, streams = true })
  return generator.of_results(started, self.name, has_index)
end

return maps
