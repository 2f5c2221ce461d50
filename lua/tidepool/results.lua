--- The results of a map: an iterator, and ways to have them all at once.

local abi = require "tidepool.base.abi"
local array = require "tidepool.array"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local ffi = require "ffi"
local interpret = require "tidepool.base.interpret"
local lazy = require "tidepool.base.lazy"
local loop = require "tidepool.engine.loop"
local mixed = require "tidepool.engine.mixed"

local columns_type = ffi.typeof "void **"
local double_pointer = ffi.typeof "const double *"
local void_pointer = ffi.typeof "void *"
local progress = require "tidepool.engine.progress"
local reduce = require "tidepool.engine.reduce"
local times = require "tidepool.engine.times"
local new_table = require "table.new"

local grid, plot, spawned = lazy "tidepool.grid", lazy "tidepool.plot", lazy "tidepool.engine.spawned"

-- The kinds of blocks that core.job.next gives.
local COLUMNS, FAILURE, RETRY = abi.block.COLUMNS, abi.block.FAILURE, abi.block.RETRY
local DONE, PART, PARTIALS = abi.block.DONE, abi.block.PART, abi.block.PARTIALS
local ABSENT = abi.scalar.ABSENT

---@class tidepool.Results
---@overload fun(): integer?, ...: any
local Results = {}
Results.__index = Results
Results._kept_as = "map" -- for spawned.keep

local results = { Results = Results }

-- ---- what users hold ----

-- A userdata, since ipairs, pairs and # would silently do nothing with a table like ours. Its
-- environment is its Results, which keeps them alive; the JIT compiler cannot read environments, so
-- this table is used for looking them up. It keeps nothing alive.
local of_handle = setmetatable({}, { __mode = "kv" })
-- the reverse; nil when no user can ask for the results any more
local handle_of = setmetatable({}, { __mode = "kv" })

local methods = {}
local handle = newproxy(true)
local handle_meta = getmetatable(handle)
handle_meta.__travels = "Results cannot travel to a worker: pass what results:list() gives"
results.methods, results.meta = methods, handle_meta -- others recognise handles by these

handle_meta.__index = setmetatable(methods, { __index = function(_, name)
  if type(name) == "number" then check.fail("Results have no element %d: they come one by one, or take results:list()[%d]", name, name) end
  local names = {}
  for each in pairs(methods) do names[#names + 1] = each end
  table.sort(names)
  local near = type(name) == "string" and check.nearest(name, names)
  check.fail("Results have no method '%s' (%s)", tostring(name),
    near and ("did you mean '%s'?"):format(near) or "they have " .. table.concat(names, ", "))
end })

function handle_meta.__newindex(_, name)
  check.fail("Results have no field %s that could be set: take results:list()", check.key(name))
end

--- Results that were given up unread, since only another map was to read them (device/fused.lua),
--- are wanted here after all: the map starts again, and the handle is that of the new Results.
local function restart(self, own)
  local new = own.restart()
  own.restart = false
  debug.setfenv(self, new)
  of_handle[self], handle_of[new] = new, self
  return new
end

-- A loop begins with a nil index. A loop that begins over results that were read to the end before,
-- by the same coroutine, would seem to have none: so it raises.
function handle_meta.__call(self, _, index)
  local own = of_handle[self]
  if own.restart then own = restart(self, own) end
  if index == nil and own.is_over and own.k >= own.n and own.left_by == (coroutine.running() or "main") then own:_check_unread "for" end
  return own()
end

function handle_meta.__tostring(self)
  return tostring(of_handle[self])
end

--- Results are no array: their length is not known before the end.
function handle_meta.__len()
  check.fail("Results have no length before the end: take results:list(), or results:progress().done")
end

-- A script that never reads the results of f:map or f:starmap has not said whether they should run,
-- and would not learn of their failures. By the place where they were made, "file:line: ": { name,
-- n = how many have not been asked for anything, left = those of them that still exist }. (Not
-- reported by a finalizer of handles: that would keep objects alive for a while that refer to a
-- closed job.)
local unread = {}
local weak = { __mode = "k" }
local spare = false -- an empty one of them, for the next place: most maps are read at once

--- From here on the Results, which were made at `place`, should be read.
function Results:_expect(place)
  local these = unread[place]
  if not these then
    these = spare or { n = 0, left = setmetatable({}, weak) }
    these.name, spare = self.settings.name, false
    unread[place] = these
  end
  self.place, these.n, these.left[self] = place, these.n + 1, true
end

local function forget_place(self)
  local place = self.place
  local these = unread[place]
  self.place = false
  if not these then return end -- it was reported already
  these.n, these.left[self] = these.n - 1, nil
  if these.n == 0 then unread[place], spare = nil, these end
end

--- The report about n maps that were made at a place; `left`: the one that still exists.
local function tell(place, name, n, left)
  if n > 1 then return ("tidepool: %sthe results of %d maps of '%s' were never read (for_each runs one for its effect)\n"):format(place, n, name) end
  local counts = ""
  if left and left.job then
    local p = left:progress()
    counts = (": %d of %s inputs have run"):format(p.done, p.total or "its")
    if p.failed > 0 then counts = ("%s, %d of them failed"):format(counts, p.failed) end
  end
  return ("tidepool: %sthe results of this map of '%s' were never read%s (for_each runs a map for its effect)\n"):format(place, name, counts)
end

--- Reports, on stderr, maps that nobody has read and nobody can read any more; at the script's end
--- all that were not read.
function results.tell_unread(is_end)
  local texts = {}
  for place, these in pairs(unread) do
    local n_left, one = 0, nil
    for left in pairs(these.left) do n_left, one = n_left + 1, left end
    local n = is_end and these.n or these.n - n_left
    if n > 0 then
      texts[#texts + 1] = tell(place, these.name, n, is_end and one)
      these.n = these.n - n
      if these.n == 0 then unread[place] = nil end
    end
  end
  table.sort(texts)
  for _, text in ipairs(texts) do core.io.warn(text) end
end
interpret(results.tell_unread) -- it may run in a finalizer (ending.tell_at_end)

--- The handle that a user gets for Results.
---@return tidepool.Results
function results.handle(self)
  local new = debug.setfenv(newproxy(handle), self)
  of_handle[new], handle_of[self] = self, new
  return new
end

--- The Results behind a handle; nil for anything else.
function results.of(value)
  local own = type(value) == "userdata" and of_handle[value] or nil
  if own and own.restart then return restart(value, own) end
  return own
end

-- The most arguments of a published method: passing "..." on after a call is not safe
-- (interpret.lua).
local ARGUMENTS_MAX = 3

--- Lets users call the method of that name. Its parameters as they are written tell how many
--- arguments it takes; `arguments` shows them in messages. `goes_over`: it reads all remaining
--- results.
---@param name string
---@param takes integer  the number of its parameters besides the Results; with another number this raises
---@param arguments string?  "fn, init"
---@param goes_over boolean?
function results.publish(name, takes, arguments, goes_over)
  local method = Results[name]
  local info = debug.getinfo(method, "u")
  if info.isvararg or info.nparams - 1 ~= takes or takes > ARGUMENTS_MAX then
    error(("Results:%s has %s%d parameters beside self, and is published with %d; at most %d, and no `...`, are possible"):format(name,
      info.isvararg and "`...` and " or "", info.nparams - 1, takes, ARGUMENTS_MAX), 2)
  end
  local in_words = takes == 0 and "no arguments" or ("(%s)"):format(arguments)
  methods[name] = function(self, first, second, third, fourth)
    local own = results.of(self)
    if not own then
      check.fail("results.%s was called with a dot, or on something else: write results:%s(%s)", name, name, takes > 0 and arguments or "")
    end
    local extra = fourth
    if takes < 3 and extra == nil then extra = third end
    if takes < 2 and extra == nil then extra = second end
    if takes < 1 and extra == nil then extra = first end
    if extra ~= nil then check.no_more(extra, "results:" .. name, in_words) end
    if goes_over and own.is_over then own:_check_unread("results:" .. name) end
    return method(own, first, second, third)
  end
end
local publish = results.publish

--- Raises a usage error when there is nothing left to read: all results were handed out, or what
--- ended them was raised.
function Results:_check_unread(who)
  if self.is_over and not self.end_failure and self.k >= self.n then
    check.fail("%s: these results have been read%s; keep what results:list() gives to go over them again", who, self.read_by or "")
  end
end

--- Opens the results of a running job.
---@param job userdata    of core.job.open
---@param source table    of inputs.lua
---@param settings table  { name, executor, ordered, progress, return_exceptions, on_error, times, max_attempts, on_retry, reducers, is_single,
---   reduces }:
---   times is true, for results:times(), or a function in the place of Results._keep_times;
---   reducers.open(op, total) gives the kernel that reduces on the device where the map runs, or
---   nothing; reducers.there(fn, array) the results of a map that gives the array's elements,
---   reduced; nil where reduce folds in order; is_single: in floats; reduces: who runs the items
---   can sum numbers, or find the least or greatest
function results.new(job, source, settings)
  local self = setmetatable({
    job = job, source = source, settings = settings, total = source.total,
    -- the block that is being handed out; numbers: its column of doubles
    k = 0, n = 0, first = 0, is_numbers = false, numbers = false, is_done = false, is_part = false,
    columns = false, -- pointers to its columns, when `returns` gives their types
    scalars = false, text = false, -- pointers to its columns of scalars, and their text
    partials = false, -- what was reduced where the items ran
    reduced = false, -- how: the argument of _reduce_there
    is_reading = false, is_feeding = false, has_all_inputs = false, input_failure = false, is_over = false,
    -- set later; listed here so that the table is made large enough
    watch = false, feeder = false, place = false, closed_job = false, left_by = false, missed = false, end_failure = false, note_times = false,
    -- Of device/fused.lua: how to start the map once more, as long as it may become one with
    -- another; from then on a function that does; and, in the other one's, the Results of this one.
    origin = false, restart = false, over = source.over or false,
  }, Results)
  if settings.times then self.note_times = settings.times == true and Results._keep_times or settings.times end
  self.watch = progress.open(job, settings, self.total, settings.progress)
  self:_feed()
  return self
end

--- Reads up to `room` inputs. While the iterator waits, others may read or cancel these results;
--- the job stays open until the iterator returns. True when there was nothing to read.
local function fill(self, source, job, room)
  self.feeder = loop.current() or "main"
  local fine, done, why, is_idle = pcall(source.fill, source, job, room)
  self.is_feeding = false
  if self.settings.journal then self.settings.journal:explain() end
  if self.job ~= job then
    core.job.close(job)
    return false
  elseif not fine or done then
    self.has_all_inputs = true
    if fine then self.input_failure = why else self.input_failure = done end
    self.source = nil
    core.job.finish(job)
  end
  loop.notify(job)
  return is_idle
end

-- A task reads inputs while those who want results go on.
local function ignore() end

--- Reads further inputs, in a task, after a source has given way.
local function feed_on(self, source, job)
  while true do
    if self.job ~= job then
      self.is_feeding = false
      return core.job.close(job)
    end
    local room = core.job.room(job)
    if room == 0 then -- whoever takes results goes on
      self.is_feeding = false
      return
    end
    source.has_more = false
    fill(self, source, job, room)
    if self.job ~= job or self.has_all_inputs or not source.has_more then return end
    self.is_feeding = true
    loop.sleep(0)
  end
end

--- For a batched function whose iterator waits: lets the inputs read so far be run when they have
--- waited for that long.
local function flush_late(self, source, job)
  loop.sleep(source.wait)
  source.is_awaited = false
  if self.job == job and self.is_feeding and not source.has_waited then
    source.has_waited = true
    source.flush()
  end
end

--- Reads more inputs into the job if there is room; true when some may have been read. In a task,
--- and for C, this takes some 5 ms at most; the rest is read between the turns of others.
--- `is_polling`: results of other maps that are not there yet are not waited for.
function Results:_feed(is_polling)
  if self.has_all_inputs or self.is_feeding then return false end
  local job, source = self.job, self.source
  source.is_polled = is_polling or false
  local room = core.job.room(job)
  if room == 0 then return false end
  self.is_feeding = true
  if not source.is_cheap and not core.is_worker and loop.is_in_task() then
    loop.start({ is_daemon = true, _end = ignore }, false, fill, self, source, job, room)
    if self.is_feeding and not source.has_waited then
      if not source.batch then
        source.has_waited = true
        source.flush()
      elseif not source.is_awaited then
        source.is_awaited = true
        loop.start({ is_daemon = true, _end = ignore }, true, flush_late, self, source, job)
      end
    end
    return not self.is_feeding
  end
  source.gives_way = source.always_gives_way or not core.is_worker and loop.is_in_task()
  source.has_more = false
  local is_idle = fill(self, source, job, room)
  if source.gives_way and source.has_more and self.job == job and not self.has_all_inputs then
    self.is_feeding, self.feeder = true, false -- the task that is started here
    loop.start({ is_daemon = true, _end = ignore }, true, feed_on, self, source, job)
  end
  return not is_idle
end

--- Says that a device did not come back from inputs of the map.
local function tell_lost(self, job)
  local n, number = core.job.lost(job)
  if n == 0 then return end
  local gpu = require "tidepool.device.gpu"
  local d = gpu.devices()[gpu.place(number)]
  core.io.warn(("tidepool: %s: %s has not come back from %.0f input%s, which threads have run instead; maps leave it out until it does\n"):format(
    require("tidepool.base.show").plain(self.settings.name, true), d.name, n, n == 1 and "" or "s"))
end

--- Says what nobody is told otherwise: a device cannot give what items of the map have written to
--- arrays.
local function tell_missed(name, why)
  core.io.warn(("tidepool: %s: %s\n"):format(require("tidepool.base.show").plain(name, true), why))
end

--- A device cannot give results of the map `name`, or what its items have written to arrays.
---@param index integer?  the input whose result it is
local function lost_failure(name, why, index)
  return failure.new { kind = abi.kind.DEVICE, message = check.placed(name .. ": " .. why), index = index, function_name = name,
    attempts = index and 1 }
end

--- Ends the job, if it has not ended. Nothing more is started.
function Results:_close(is_complete)
  local job = self.job
  if job then
    if self.settings.is_auto then tell_lost(self, job) end
    self.job, self.closed_job = nil, job
    self.source, self.origin = nil, false
    self.n, self.k = 0, 0
    self.is_over = true
    self.left_by = coroutine.running() or "main"
    local watch = self.watch
    self.watch = nil
    local fine, why = true, nil
    if watch then fine, why = pcall(progress.close, watch, is_complete) end
    if self.kept_in then spawned.drop(self) end
    if self.is_feeding then
      core.job.cancel(job) -- it is closed when the iterator returns
      loop.notify(job)
    else
      local _, lost, was_told = loop.close(job)
      local name = self.settings.name
      if lost and is_complete then -- of what items have written to arrays
        self.end_failure = lost_failure(name, lost)
      elseif lost and not was_told then -- something else is raised, or nothing
        tell_missed(name, lost)
      end
    end
    self.is_over = true
    if self.settings.journal then self.settings.journal:finish(is_complete) end
    if not fine then error(why, 0) end
  end
  self.is_over = true
end

local function raise(f)
  error(f, 0)
end

--- The failure whose block is being read.
function Results:_failure(index)
  local settings = self.settings
  local place = settings.shape and { grid.place(settings.shape, index) } or nil
  local f = failure.of_job(self.job, { index = index, function_name = settings.name, max_attempts = settings.max_attempts, place = place })
  if settings.has_places then f.input = { n = #place, unpack(place) } end
  return f
end

--- The failure that says why nothing more comes although there are inputs left.
function Results:_cancelled()
  local _, kind, why = core.job.is_cancelled(self.job)
  return failure.new { kind = kind or abi.kind.CANCELLED, message = why or "the map was cancelled",
    function_name = self.settings.name, attempts = 0 }
end

--- Raises when the iterator of the inputs reads results that depend on inputs which it has yet to
--- give. It may read earlier ones.
function Results:_check_wait()
  if not self.is_feeding or self.feeder ~= (loop.current() or "main") then return end
  if self.source.flush then self.source.flush() end
  local counts = core.job.counts(self.job)
  if counts.pushed > counts.delivered then return end
  check.fail("%s: the inputs of this map wait for its own results, and none are to come", self.settings.name)
end

--- Waits for news of the job, with `seconds` at most for so long. If the wait is interrupted, the
--- job may pause, unless somebody else waits for it and looks again.
function Results:_wait(job, seconds)
  local patience = self.source and self.source.patience
  local fine, why = pcall(loop.wait, job, seconds and math.min(seconds, patience or seconds) or patience)
  if fine then return end
  if self.job == job then
    core.job.leave(job)
    loop.notify(job)
  end
  error(why, 0)
end

--- Calls a user's callback; an error in it ends the map.
function Results:_ask(fn, f)
  local fine, value = pcall(check.called(fn, "the function that is told of failures"), f)
  if fine then return value end
  self:_close()
  raise(value)
end

--- Counts a failure, or n results, that are handed out now, for the option `halt`. Returns how many
--- of the results are still wanted.
function Results:_count(failed, n)
  local halt = self.settings.halt
  if not halt then return n end
  if failed then
    self.n_failed, self.n_given = (self.n_failed or 0) + 1, (self.n_given or 0) + 1
    local few = halt.share and math.max(halt.share * self.n_given, 1)
    if (halt.failures and self.n_failed >= halt.failures) or (few and self.n_failed > few) then
      self.halted = ("%d of %d inputs have failed"):format(self.n_failed, self.n_given)
    end
    return n
  end
  local successes = (self.n_given or 0) - (self.n_failed or 0)
  if halt.success and successes + n >= halt.success then
    self.halted, n = true, halt.success - successes
  end
  self.n_given = (self.n_given or 0) + n
  return n
end

--- Drops what has not been read of the open block.
function Results:_drop_block()
  self.dropped = (self.dropped or 0) + self.n - self.k
  self.k, self.n = 0, 0
end

--- The map gives up: the running items are finished, and then `why` is raised. The open block is
--- dropped.
function Results:_halt(why)
  self.halted = why
  self:_drop_block()
end

--- The end of a map that has given up: running items are stopped, or waited for.
function Results:_end_halted()
  local job, why = self.job, self.halted
  if job and self.settings.halt and self.settings.halt.now then
    core.job.cancel(job)
  elseif job and not self.is_feeding then
    self.has_all_inputs, self.source = true, nil
    core.job.stop(job)
    core.job.finish(job)
    while self.job == job and not core.job.is_cancelled(job) do
      if core.job.is_settled(job) then break end
      local kind, why_not = core.job.next(job)
      if not kind and not why_not then self:_wait(job) end
    end
  end
  self:_close()
  if why == true then return nil end
  self.halted = true -- it is raised only once
  raise(failure.new { kind = abi.kind.HALTED, message = "the map was halted: " .. why, function_name = self.settings.name, attempts = 0 })
end

--- The next input whose result a device had, and has lost, as Results:_advance gives a failure.
function Results:_miss()
  local missed, settings = self.missed, self.settings
  local index = missed.at
  missed.at = index + 1
  if index == missed.last then self.missed = false end
  local f = lost_failure(settings.name, missed.why, index)
  self:_count(true)
  if settings.return_exceptions then return "failure", index, f end
  return "failure", index, self:_ask(settings.on_error, f)
end

--- Waits for the next block of results and opens it; or returns at once when the open one is not
--- read to its end. Returns "block"; or "failure", its index and the failure that takes its place;
--- or nothing at the end; or, with no_wait, "later" instead of waiting. Raises what ends the map.
--- `is_reducing`: the caller can take what was reduced elsewhere; `is_polling`: see _feed.
function Results:_advance(no_wait, is_reducing, is_polling)
  if self.place then forget_place(self) end
  if self.over then self.over.restart, self.over = false, false end -- these read the others
  if not no_wait then loop.give_way() end
  if self.k < self.n then return "block" end -- the open block is not read to its end
  if self.halted and not self.is_over then return self:_end_halted() end
  if self.missed and not self.is_over and not self.is_cancelled then return self:_miss() end
  if self.is_over then
    if self.end_failure then raise(self.end_failure) end
    return nil
  end
  if self.is_cancelled then
    self.end_failure = self:_cancelled()
    self:_close()
    raise(self.end_failure)
  end
  if not no_wait then loop.check_wait() end
  local has_waited = false
  while true do
    local job = self.job
    local has_fed = self:_feed(is_polling)
    -- the iterator of the inputs has cancelled this map
    if self.job ~= job then return self:_advance(no_wait) end
    if self.watch then progress.step(has_waited) end
    -- a callback of the user's has cancelled it
    if self.job ~= job then return self:_advance(no_wait) end
    if self.k < self.n then return "block" end -- or has read some of it
    if self.settings.joins and not self.settings.joins(job, self.settings) then self.settings.joins = nil end
    local kind, first, n, pointers, n_scalars, text = core.job.next(job)
    if not kind then
      if first and pointers and (self.settings.return_exceptions or self.settings.on_error) then
        self.missed = { why = first, at = n, last = n + pointers - 1 }
        if self.note_times then self:note_times(n, pointers, core.job.ran(job)) end
        return self:_miss()
      elseif first then -- a device has results that it cannot give
        self.end_failure = lost_failure(self.settings.name, first)
        self:_close()
        raise(self.end_failure)
      elseif core.job.is_cancelled(job) then
        self.end_failure = self.input_failure or self:_cancelled()
        self:_close()
        raise(self.end_failure)
      elseif core.job.is_over(job) then
        self.end_failure = self.input_failure
        self:_close(not self.input_failure)
        if self.end_failure then
          local f = self.end_failure
          self.end_failure = nil
          raise(f)
        end
        return nil
      elseif not has_fed then
        if no_wait then return "later" end
        self:_check_wait()
        self:_wait(job)
        has_waited = true
        if self.job ~= job or self.k < self.n then return self:_advance() end
      end
    elseif kind == FAILURE then
      local f = self:_failure(first)
      if self.note_times then self:note_times(first, 1, core.job.ran(job)) end
      self:_count(true)
      if self.settings.return_exceptions then return "failure", first, f end
      if self.settings.on_error then return "failure", first, self:_ask(self.settings.on_error, f) end
      self:_close()
      raise(f)
    elseif kind == RETRY then
      if self.settings.on_retry then self:_ask(self.settings.on_retry, self:_failure(first)) end
    else
      if kind ~= PART then
        n = self:_count(false, n)
        if self.note_times then self:note_times(first, n, core.job.ran(job)) end
      end
      self.first, self.n, self.k = first, n, 0
      self.columns, self.partials, self.scalars = false, false, false
      self.is_numbers = false
      self.is_done, self.is_part = kind == DONE, kind == PART
      if kind == COLUMNS then
        self:_open_columns(ffi.cast(columns_type, pointers), n_scalars, text)
      elseif kind == PARTIALS then
        self.partials = ffi.cast(double_pointer, ffi.cast(columns_type, pointers)[0])
        if not is_reducing then
          self:_close()
          check.fail("these results were being reduced where they are made: they cannot be read one by one any more")
        end
      end
      return "block"
    end
  end
end

--- Keeps how the n items from `first` on were run, as core.job.ran gives it.
function Results:_keep_times(first, n, queued, started, duration, worker, attempts, device, lost, compiled)
  self.kept_times = self.kept_times or times.new(self.settings.executor.far)
  self.kept_times:keep(first, n, queued, started, duration, worker, attempts, device, lost, compiled)
  self.kept_times:take_builds(self.job)
end

--- How the inputs whose results have been handed out were run, of a map with the option times:
-- typed arrays by the inputs' indexes. `queued` and `started` (of the last attempt) are in
-- seconds of os.time's clock, as in a journal, and `duration` in seconds; `worker` is the number
-- of tidepool.current().worker. Inputs so small that a worker takes several at once have their
-- mean. `device` is that of tidepool.devices() which ran it, 0 where none did, and `lost` the one
-- that was to run it and has not come back, so that threads did. One that was not run, since a
-- journal or cache had its result, has NaN, and 0 attempts.
--
-- `builds` is a list of what was compiled for the map, and inside of its inputs, whoever ran them:
-- { device, name, seconds, how }, where `name` is the device's and `how` is "compiled", "read"
-- (from what an earlier run has kept) or "launched" (the driver compiled when the function was
-- first launched there, which is a part of the duration of those inputs). On a cluster `device`
-- is 0, and `host` is the machine's name.
---@return table  { queued, started, duration, worker, attempts, device, lost, builds }
function Results:times()
  if not self.settings.times then check.fail("results:times: the map of '%s' keeps no times: give it the option times = true", self.settings.name) end
  local settings = self.settings
  if settings.beside then -- what its device made meanwhile
    self:_add_builds(require("tidepool.device.gpu").builds(settings.beside))
  end
  return (self.kept_times or times.new()):give(settings.builds)
end

--- Copies n elements of `from` to the array's elements first..; the types may differ.
local function copy_elements(a, first, n, from)
  local data = a.elements + (first - 1)
  for k = 0, n - 1 do data[k] = from[k] end
end

--- A block of a map whose results go to arrays may lie elsewhere, when threads have run what a
--- device did not come back from: the device may still write to the arrays (host/engine/late.c). So
--- the map gets others, which it does not know.
function Results:_keep_apart(columns)
  local settings, first, n = self.settings, self.first, self.n
  local ready = settings.arrays
  -- small maps have many blocks: a closure would keep the loop over them from being compiled
  if columns[0] == ffi.cast(void_pointer, ready[1].elements + (first - 1)) then return end
  for c, a in ipairs(ready) do
    if not self.has_own_arrays then
      ready[c] = array.shaped(array.allocate(a.ctype, a.length, false), settings.shape)
      ffi.copy(ready[c].elements, a.elements, a.length * ffi.sizeof(array.c_name(a.ctype)))
    end
    copy_elements(ready[c], first, n, ffi.cast(array.pointer_type(settings.returns[c]), columns[c - 1]))
  end
  self.has_own_arrays = true
end

--- Opens a block of columns: of scalars, of the types of `returns`, or of doubles.
function Results:_open_columns(columns, n_scalars, text)
  local returns = self.settings.returns
  if self.settings.is_auto and self.settings.arrays then self:_keep_apart(columns) end
  if n_scalars > 0 then
    self.scalars, self.text = {}, ffi.cast(mixed.text, text)
    for c = 1, n_scalars do self.scalars[c] = ffi.cast(mixed.scalars, columns[c - 1]) end
  elseif not returns or (#returns == 1 and returns[1] == "double") then
    self.is_numbers = true
    self.numbers = ffi.cast(double_pointer, columns[0])
  else
    self.columns = {}
    for c, name in ipairs(returns) do self.columns[c] = ffi.cast(array.pointer_type(name), columns[c - 1]) end
  end
end

--- The values of item k of a block of scalars.
local function scalar_values(scalars, text, k, c)
  local element = scalars[c][k]
  if element.kind == ABSENT then return end
  if c == #scalars then return mixed.load(element, text) end
  return mixed.load(element, text), scalar_values(scalars, text, k, c + 1)
end

--- The values of item k of a block of columns.
local function column_values(columns, k, c)
  c = c or 1
  if c == #columns then return columns[c][k] end
  return columns[c][k], column_values(columns, k, c + 1)
end

--- One step of a loop: the index and the values, nothing at the end.
function Results:__call()
  local k = self.k
  if k < self.n then
    self.k = k + 1
    if self.is_numbers then return self.first + k, self.numbers[k] end
    if self.scalars then return self.first + k, scalar_values(self.scalars, self.text, k, 1) end
    if self.columns then return self.first + k, column_values(self.columns, k) end
    return self.first + k, core.job.item(self.job, k)
  end
  if not self.is_reading and self.job then
    self.is_reading = true
    if not self.settings.is_kept then core.job.set_reading(self.job, true) end
  end
  local what, index, value = self:_advance()
  if what == "block" then return self() end
  if what then return index, value end
end

--- One step by hand: the index and the values, or nothing at the end.
function Results:next()
  return self()
end

local function copy_out(list, first, from, n, p)
  for k = from, n - 1 do list[first + k] = p[k] end
end

--- Copies columns of scalars into lists; a column becomes a list when some item has a value in it.
local function copy_scalars(lists, self)
  for c, elements in ipairs(self.scalars) do
    if not lists[c] and mixed.find(self.k, self.n, elements) < self.n then lists[c] = {} end
    if lists[c] then mixed.copy_out(lists[c], self.first, self.k, self.n, elements, self.text) end
  end
end

local function close_lists(lists, n)
  for _, list in ipairs(lists) do list.n = n end
end

--- All results: a list per return value, each with n. Raises the first failure, whose field results
-- has what came before it.
---@return table ...
function Results:list()
  local total = self.source and self.source.total or self.total or 0
  local lists = { new_table(math.min(total, 2 ^ 26), 1) }
  local n = 0
  if self.job then core.job.set_reading(self.job, false) end
  while true do
    local fine, what, index, value = pcall(self._advance, self)
    if not fine then
      close_lists(lists, n)
      if failure.is_failure(what) and not rawget(what, "results") then what.results = lists[1] end
      raise(what)
    elseif not what then
      break
    elseif what == "failure" then
      lists[1][index] = value
      n = math.max(n, index)
    else
      if self.is_numbers then
        copy_out(lists[1], self.first, self.k, self.n, self.numbers)
      elseif self.scalars then
        copy_scalars(lists, self)
      elseif self.columns then
        for c, column in ipairs(self.columns) do
          lists[c] = lists[c] or {}
          copy_out(lists[c], self.first, self.k, self.n, column)
        end
      elseif not self.is_done then
        core.job.fill(self.job, lists, self.first, self.k)
      end
      n = math.max(n, self.first + self.n - 1)
      self.k = self.n
    end
  end
  close_lists(lists, n)
  return unpack(lists)
end

--- As list, under the name that calls, tasks and events have for it.
---@return table ...
function Results:get()
  return self:list()
end

--- An array with room for n elements: `a` itself, or a larger one with its elements.
local function with_room(a, n)
  if n <= a.length then return a end
  local larger = array.allocate(a.ctype, math.max(n, 2 * a.length), false)
  ffi.copy(larger.elements, a.elements, a.length * ffi.sizeof(array.c_name(a.ctype)))
  return larger
end

--- Reads blocks into arrays, which are made as they are needed. Returns them, and how many elements
--- they have.
function Results:_collect(types, total)
  local arrays, n = {}, 0
  local function target(c, last)
    arrays[c] = arrays[c] and with_room(arrays[c], last) or array.allocate(types[c] or types[1], math.max(total, last), false)
    return arrays[c]
  end
  while true do
    local what, index, value = self:_advance()
    if not what then return arrays, n end
    if what == "failure" then
      if type(value) ~= "number" then raise(value) end
      target(1, index).elements[index - 1] = value
      n = math.max(n, index)
    else
      local first, count = self.first, self.n
      n = math.max(n, first + count - 1)
      if self.is_numbers then
        copy_elements(target(1, n), first, count, self.numbers)
      elseif self.columns then
        for c, column in ipairs(self.columns) do copy_elements(target(c, n), first, count, column) end
      else
        for k = 0, count - 1 do
          local values = { core.job.item(self.job, k) }
          for c = 1, math.max(#values, 1) do
            if type(values[c]) ~= "number" then
              self:_close()
              check.fail("results:array holds numbers, but result %d is %s", first + k, values[c] == nil and "nil" or check.show(values[c]))
            end
            target(c, n).elements[first + k - 1] = values[c]
          end
        end
      end
      self.k = self.n
    end
  end
end

--- All results as typed arrays, one per return value. A function with `returns` has written its
-- results there already. Of the places of a grid they are matrices of its shape. Raises the first
-- failure.
---@param ctype string?  the element type; default: what `returns` says, or "double"
---@return tidepool.Array ...
function Results:array(ctype)
  if ctype ~= nil then array.check_type("results:array", ctype) end
  local returns, ready = self.settings.returns, self.settings.arrays
  if self.job then core.job.set_reading(self.job, false) end
  if ready and (ctype == nil or (#returns == 1 and returns[1] == ctype)) then
    repeat
      local what, index, value = self:_advance()
      if what == "failure" then
        if type(value) ~= "number" then raise(value) end
        ready[1][index] = value
      end
      self.k = self.n
    until not what
    return unpack(ready)
  end
  local types = ctype and { ctype } or returns or { "double" }
  local arrays, n = self:_collect(types, self.total or 0)
  if #arrays == 0 then arrays[1] = array.allocate(types[1], 0, false) end
  for c, a in ipairs(arrays) do
    if a.length ~= n then arrays[c] = n > 0 and a:slice(1, n) or array.allocate(a.ctype, 0, false) end
    array.shaped(arrays[c], self.settings.shape)
  end
  return unpack(arrays)
end

--- All results as buffers of the device where the map ran, one per return value: what is there
-- stays there, and further maps read it there. Raises the first failure. For functions with gpu =
-- ... whose results are numbers in arrays: those with `returns`, or with typed arrays or buffers as
-- inputs. (A map over the results of another map on devices needs no buffers in between:
-- g:map(f:map(xs)).)
---@return tidepool.Buffer ...
function Results:buffer()
  local settings, ready, job = self.settings, self.settings.arrays, self.job
  if not (ready and settings.device) then
    check.fail("results:buffer: %s %s", settings.name, settings.device and "gives no arrays: that takes arrays or buffers as inputs, or `returns` "
      .. "and a list, and results that are numbers"
      or settings.is_auto and 'has gpu = "auto", whose results are in the script\'s memory, since threads may run any of it: name a device, as in '
      .. 'gpu = "any"'
      or "does not run on a device (gpu = ...)")
  end
  local replaced, buffers = {}, {}
  if job then
    core.job.set_reading(job, false)
    core.job.stay(job)
  end
  repeat
    local what, index, value = self:_advance()
    if what == "failure" and type(value) ~= "number" then raise(value) end
    if what == "failure" then replaced[index] = value end
    self.k = self.n
  until not what
  if next(replaced) then
    local fine, why = core.buffer.bring_home(ready[1].memory)
    if not fine then raise(failure.new { kind = abi.kind.DEVICE, message = check.where() .. "results:buffer: " .. why }) end
    for index, value in pairs(replaced) do ready[1][index] = value end
  end
  local device = require "tidepool.device.device"
  for c, a in ipairs(ready) do buffers[c] = device.of_array(require("tidepool.device.gpu").open_device(settings.device), a) end
  return unpack(buffers)
end

-- ---- reductions ----

--- Reads blocks of results in order. each(p, first, n) gets numbers: p[0..n-1] are those of results
--- first...; each_partial(p, first, n) gets results that were reduced elsewhere: p[0] is that of
--- the first reduce.GROUP of them, and so on.
function Results:_each_block(who, each, each_partial)
  if self.job then core.job.set_reading(self.job, false) end
  local one = ffi.new "double[1]"
  local function take(index, value)
    if type(value) ~= "number" then
      self:_close()
      check.fail("%s is of numbers, but result %d is %s", who, index, value == nil and "nil" or check.show(value))
    end
    one[0] = value
    each(one, index, 1)
  end
  while true do
    local what, index, value = self:_advance(false, true)
    if not what then return end
    if what == "failure" then
      if failure.is_failure(value) then
        self:_close()
        raise(value)
      end
      take(index, value)
    else
      local k, n = self.k, self.n
      if self.partials then
        self.n_partial = (self.n_partial or 0) + n
        each_partial(self.partials, self.first, n)
      elseif self.is_numbers then
        each(self.numbers + k, self.first + k, n - k)
      elseif self.columns then
        each(self.columns[1] + k, self.first + k, n - k)
      else
        for i = k, n - 1 do take(self.first + i, (core.job.item(self.job, i))) end
      end
    end
    self.k = self.n
  end
end

--- These programs were made for the map, too.
function Results:_add_builds(builds)
  local all = self.settings.builds
  for _, each in ipairs(all and builds or {}) do all[#all + 1] = each end
end

--- Has whole groups of the results that are still to come reduced where they are made: on a device,
--- or a cluster's machines. Raises when op is a function that cannot run there.
function Results:_reduce_there(who, op)
  local reducers, job = self.settings.reducers, self.job
  if not job or not (reducers or self.settings.reduces) then return end
  if self.reduced and self.reduced ~= op then
    check.fail("%s: these results were being reduced where they are made, in another way: what is left of them cannot be reduced in this one", who)
  end
  self.reduced = op
  if not reducers then return core.job.reduce(job, op) end
  -- the reducer may have to be compiled, and until then results would come one by one
  core.job.hold_back(job, true)
  local fine, reducer, builds = pcall(reducers.open, op, self.total)
  if fine and reducer then self:_add_builds(builds) end
  if fine and reducer then core.job.set_reducer(job, reducer) end
  core.job.hold_back(job, false)
  if not fine then
    self:_close()
    error(reducer, 0)
  end
end

--- The sum of all results and how many they are.
function Results:_add_up(who)
  self:_reduce_there(who, "sum")
  local sums, count = reduce.new(self.settings.is_single), 0
  self:_each_block(who, function(p, first, n)
    sums:add(p, first, n)
    count = count + n
  end, function(p, first, n)
    sums:add_groups(p, first, n)
    count = count + n
  end)
  return sums:total(), count
end

--- The sum of all results, which are numbers; 0 of none. It is made of sums of 1,024 results, each
--- of sixteen interleaved ones, so that it is closer to the exact sum than a plain loop's, and the
--- same whoever ran the map. On a device, and on a cluster's machines, groups are summed there, and
--- only sums come back. The first failure is raised, here and below.
---@return number
function Results:sum()
  return (self:_add_up "results:sum")
end

--- Their mean; nil of none.
---@return number?
function Results:mean()
  local sum, count = self:_add_up "results:mean"
  return count > 0 and sum / count or nil
end

function Results:_extreme(who, op, m)
  self:_reduce_there(who, op)
  local count, of = 0, reduce[op]
  self:_each_block(who, function(p, _, n)
    m = of(p, n, m)
    count = count + n
  end, function(p, _, n)
    m = of(p, n / reduce.GROUP, m)
    count = count + n
  end)
  return count > 0 and m or nil
end

--- The least of all results; NaN when one is, nil of none.
---@return number?
function Results:min()
  return self:_extreme("results:min", "min", math.huge)
end

--- The greatest of all results; NaN when one is, nil of none.
---@return number?
function Results:max()
  return self:_extreme("results:max", "max", -math.huge)
end

--- fn(... fn(fn(init, result 1), result 2) ..., the last one): any values, in the order of the
-- results; here, in plain Lua.
---
--- On a device fn runs there too, on two numbers at a time: first two results, then two of what it
--- gave. So it must not matter in which order and how grouped it meets the results, as with + or
--- math.max; where it does, that is an error. `init` comes once.
---@param fn fun(sum: any, ...): any
---@param init any
function Results:reduce(fn, init)
  if type(fn) ~= "function" then check.fail("results:reduce: expected a function, got %s", check.kind(fn)) end
  local reducers = self.settings.reducers
  if reducers and reducers.there then
    self:_reduce_there("results:reduce", fn)
    local groups = reduce.new(self.settings.is_single, fn, function(values, each, each_partial)
      reducers.there(fn, values):_each_block("results:reduce", each, each_partial)
    end)
    self:_each_block("results:reduce", function(p, first, n) groups:add(p, first, n) end,
      function(p, first, n) groups:add_groups(p, first, n) end)
    return groups:fold(init)
  end
  fn = check.called(fn, "the function of results:reduce")
  local sum = init
  local function step(index, ...)
    if index == nil then return false end
    sum = fn(sum, ...)
    return true
  end
  repeat until not step(self())
  return sum
end

--- Prints how the results are spread: a bar for each of n ranges of the same width, as long as
--- there are results in it, with braille characters where the environment says UTF-8. Results must
--- be numbers; those that are not finite are only counted. The first failure is raised.
---@param n integer?  1 to 200; default: 10
function Results:histogram(n)
  n = plot.check_bins(n)
  local a, count
  self:_each_block("results:histogram", function(p, first, m)
    a = a and with_room(a, first + m - 1) or array.allocate("double", math.max(self.total or 0, m), false)
    copy_elements(a, first, m, p)
    count = first + m - 1
  end)
  plot.histogram(a and a:slice(1, count), n)
end

--- Reads to the end without keeping results. Failures are raised or, with return_exceptions,
--- counted.
function Results:_drain()
  if self.job then core.job.set_reading(self.job, false) end
  repeat
    local what = self:_advance()
    self.k = self.n
  until not what
end

--- For loop.await: a map is over when it can do nothing more before somebody reads its results. It
--- does not pause before that.
function Results:_settle()
  if self.place then forget_place(self) end
  if not self.job or self.is_cancelled then return true end
  core.job.set_reading(self.job, false)
  core.job.look(self.job) -- before inputs are read: whatever happens from here on is news
  self:_feed()
  if not self.job then return true end
  return not self.is_feeding and core.job.is_idle(self.job)
end

function Results:_watch(fn, arg)
  return loop.watch(self.job, fn, arg)
end

function Results._unwatch(_, entry)
  loop.unwatch(entry)
end

--- Is everything run, with nothing to report but results, so that these can wait to be read, or be
--- dropped?
function Results:_is_quietly_done()
  if not self:_has_run() then return false end
  local counts, settings = core.job.counts(self.job), self.settings
  return (counts.failed == 0 or settings.return_exceptions) and not (counts.retried > 0 and settings.on_retry)
end

--- Everything was run, and the results wait in the handle, if there is one: tells those who wait
--- for that.
function Results:_rest()
  if self.kept_in then spawned.drop(self) end
  local watch = self.watch
  self.watch = nil
  local fine, why = pcall(function()
    if self.settings.journal then self.settings.journal:finish(true) end
    if watch then progress.close(watch, true) end
  end)
  if not fine then
    self.final_failure = why
    spawned.set_failed(self)
  end
end

--- For spawned.keep.
function Results:_tidy()
  if not self:_has_run() then return end
  if self:_is_quietly_done() then
    self:_rest()
  elseif not handle_of[self] then
    spawned.drop(self)
    self:_finish()
  end
end

--- For the script's end: a spawned map goes on to its end. If somebody may still read it, its
--- results wait, as many as its window holds; anything beyond that, and failures, are read here.
function Results:_finish()
  if handle_of[self] then loop.await(self) end
  if not self.job then return end
  if self:_is_quietly_done() then return self:_rest() end
  self.read_by = " by tidepool.loop, which goes to the end of what was spawned"
  local fine, why = pcall(self._drain, self)
  if not fine and not (failure.is_failure(why) and why.kind == abi.kind.CANCELLED) then
    self.final_failure, self.end_failure = why, why
    spawned.set_failed(self)
  end
end

function Results:_report()
  return self.final_failure
end

--- Drops what is queued and stops what runs if it can; a loop over the results raises a failure of
--- kind "cancelled". After the end it does nothing.
function Results:cancel()
  if self.place then forget_place(self) end
  if self.job then
    self:_drop_block()
    self.is_cancelled = true
    core.job.cancel(self.job)
    if self.settings.journal then self.settings.journal:leave() end
  end
end

--- Have all inputs been run?
function Results:_has_run()
  if not self.job then return true end
  local counts = core.job.counts(self.job)
  return counts.has_all and counts.finished == counts.pushed
end

--- Are all results there, so that reading them would not wait? Does not block. Inputs that an
--- iterator gives are read on here, so that who asks again and again comes to the end. Of a map
--- with more inputs than its window: is that full of results, so that nothing more runs before
--- some are read?
---@return boolean
function Results:done()
  if self.job and not self.is_cancelled then self:_feed(true) end
  if not self.job or self.is_cancelled then return true end
  return self:_has_run() or not self.is_feeding and core.job.is_idle(self.job)
end

--- Counts, without blocking: { total = inputs or nil, done, failed, running, taken, retried };
--- `taken` are results that the reader has got.
---@return table
function Results:progress()
  local c = core.job.counts(self.job or self.closed_job)
  return { total = self.total or (c.has_all and c.pushed) or nil, done = c.finished - c.skipped, failed = c.failed,
    running = c.pushed - c.finished, taken = c.delivered - (self.n - self.k) - (self.dropped or 0), retried = c.retried }
end

function Results:__tostring()
  local p = self:progress()
  return ("tidepool.Results of %s: %d of %s done"):format(self.settings.name, p.done, p.total or "?")
end

for _, name in ipairs { "cancel", "done", "next", "progress", "times" } do publish(name, 0) end
for _, name in ipairs { "get", "list", "max", "mean", "min", "sum" } do publish(name, 0, nil, true) end
publish("array", 1, "type", true)
publish("buffer", 0, nil, true)
publish("histogram", 1, "n", true)
publish("reduce", 2, "fn, init", true)
for name in pairs(Results) do
  if not name:find "^_" and not rawget(methods, name) then error(("Results:%s is not published"):format(name)) end
end

--- Raises a usage error when a handle's results have been read.
function results.check_unread(who, value)
  local self = results.of(value)
  self:_check_unread(who)
  if self.place then forget_place(self) end -- from now on somebody else reads it
end

return results
