--- The loop: everything that waits, waits here.
--
-- Inside a task (a coroutine of ours) waiting yields; elsewhere it takes turns of the host's loop, in which tasks, timers and luv's
-- callbacks go on, until what is waited for has come. Tasks are resumed by whoever takes the turns, outside of uv_run, so that code that
-- cannot yield (a coroutine of the user's inside a task, a C function's callback) may take turns itself. Only inside luv's callbacks,
-- which uv_run calls, that is impossible.
--
-- In a worker's state there are no tasks, and a turn is running items of the jobs that are waited for.
--
-- A waiter is a table: wake(w) sets is_woken and makes w.task ready. What can be waited for has
--   x:_settle()         does what there is to do without waiting; true when x is over
--   x:_watch(fn, arg)   fn(arg), once, when there may be something new; gives an entry for x:_unwatch(entry)
--
-- A task here is a table with thread, is_ready, is_daemon (nobody waits for its end), stop (the error that its next wait raises) and
-- _end(fine, ...), which gets what its function returned, or { value =, traceback = }.

local check = require "tidepool.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local ffi = require "ffi"
local lazy = require "tidepool.lazy"

local describe, show = lazy "tidepool.describe", lazy "tidepool.show"

local loop = {}

local now, is_worker = core.now, core.is_worker
local yield, running, is_yieldable = coroutine.yield, coroutine.running, coroutine.isyieldable

-- Starting a task inside a task inside a task takes C stack; deeper ones start later.
local NESTED_MAX = 60
-- Who reads results that are always there gives way to the others after this time.
local PATIENCE_S = 0.005

local threads = setmetatable({}, { __mode = "k" }) -- coroutine -> task
local alive, n_alive = {}, 0                       -- tasks that have not ended, without daemons: task -> number
local n_started, nested = 0, 0
local ready, first, last = {}, 1, 0                -- tasks to resume, in order
local watched, n_watched = {}, 0                   -- key of a job -> entries { key, fn, arg }
local owned = {}                                   -- key -> job: those that this thread itself has to run
local timers = {}                                  -- a heap of { due, waiter, at }: the next one first
local last_turn = 0
local has_luv = false
local watcher = function(seconds) return seconds end -- see loop.set_watcher
local problems, n_problems = {}, 0                 -- errors of callbacks: to be shown; shown so far

-- ---- timers ----

local function put(timer, at)
  timers[at] = timer
  timer.at = at
end

--- Moves a timer to where it belongs, from a free place.
local function place(timer, at)
  while at > 1 do
    local above = timers[math.floor(at / 2)]
    if above.due <= timer.due then break end
    put(above, at)
    at = math.floor(at / 2)
  end
  while true do
    local below = 2 * at
    if timers[below + 1] and timers[below + 1].due < timers[below].due then below = below + 1 end
    if not timers[below] or timers[below].due >= timer.due then break end
    put(timers[below], at)
    at = below
  end
  put(timer, at)
end

local function add_timer(due, waiter)
  local timer = { due = due, waiter = waiter }
  place(timer, #timers + 1)
  return timer
end

local function remove_timer(timer)
  local at, other = timer.at, timers[#timers]
  if timers[at] ~= timer then return end
  timers[#timers] = nil
  if other ~= timer then place(other, at) end
end

-- ---- tasks ----

--- The task that runs, nil outside of one.
local function current()
  local thread = running()
  return thread and threads[thread]
end
loop.current = current

local function make_ready(task)
  if task.is_ready then return end
  task.is_ready = true
  last = last + 1
  ready[last] = task
end

local function wake(waiter)
  if waiter.is_woken then return end
  waiter.is_woken = true
  if waiter.task then make_ready(waiter.task) end
end
loop.wake = wake

local function end_task(task, ...)
  threads[task.thread] = nil
  if alive[task] then
    alive[task] = nil
    n_alive = n_alive - 1
  end
  task:_end(...)
end

local function trouble(value)
  return { value = value, traceback = describe.traceback(debug.traceback("", 2)) }
end

local function run(task, fn, ...)
  return end_task(task, xpcall(fn, trouble, ...))
end

local function resume(task, ...)
  nested = nested + 1
  local fine, why = coroutine.resume(task.thread, ...)
  nested = nested - 1
  -- Only what cannot be caught (a full stack in the handler) ends a thread so. One that somebody else runs is left alone.
  if not fine and threads[task.thread] and coroutine.status(task.thread) == "dead" then end_task(task, false, { value = why }) end
end

--- Runs fn(...) as a task, up to its first wait; later when is_later.
function loop.start(task, is_later, fn, ...)
  if not task.is_daemon then
    n_started = n_started + 1
    alive[task] = n_started
    n_alive = n_alive + 1
  end
  if is_later or nested >= NESTED_MAX then
    local n, arguments = select("#", ...), { ... }
    task.thread = coroutine.create(function()
      if task.stop then return end_task(task, false, { value = task.stop }) end -- cancelled before
      return run(task, fn, unpack(arguments, 1, n))
    end)
    threads[task.thread] = task
    make_ready(task)
  else
    task.thread = coroutine.create(run)
    threads[task.thread] = task
    resume(task, task, fn, ...)
  end
end

local Callback = {}
Callback.__index = Callback

function Callback:_end(fine, why)
  if not fine then problems[#problems + 1] = why end
end

--- Runs a callback of luv's in a task of its own, whose error is shown at once: nobody has a handle.
local function call_back(fn, ...)
  if core.is_running() then core.stop() end
  loop.start(setmetatable({}, Callback), false, fn, ...)
end

local function show_problems()
  while problems[1] do
    local problem = table.remove(problems, 1)
    n_problems = n_problems + 1
    core.warn(("tidepool: error in a callback: %s\n"):format(show.plain(describe.message(problem.value))) ..
      (problem.traceback and problem.traceback .. "\n" or ""))
  end
end

local function run_ready()
  local until_here = last
  while first <= until_here and first <= last do
    local task = ready[first]
    ready[first] = nil
    first = first + 1
    task.is_ready = false
    resume(task)
  end
end

-- ---- jobs ----

local function fire(key)
  local entries = watched[key]
  if not entries then return end
  watched[key], owned[key] = nil, nil
  n_watched = n_watched - 1
  for _, entry in ipairs(entries) do
    entry.key = nil
    entry.fn(entry.arg)
  end
end

--- Calls fn(arg), once, when job has news since it was looked at last; at once when there are some.
function loop.watch(job, fn, arg)
  local key, is_owned = core.key(job)
  local entries = watched[key]
  if not entries then
    entries = { job = job } -- keeps it
    watched[key] = entries
    n_watched = n_watched + 1
    if is_owned then owned[key] = job end
  end
  local entry = { key = key, fn = fn, arg = arg }
  entries[#entries + 1] = entry
  local has_news
  if is_owned then has_news = core.has_news(job) else has_news = not core.await(job) end
  if has_news then fire(key) end
  return entry
end

function loop.unwatch(entry)
  local entries = entry.key and watched[entry.key]
  if not entries then return end
  for i, other in ipairs(entries) do
    if other == entry then table.remove(entries, i) break end
  end
  if not entries[1] then
    if not owned[entry.key] then core.unawait(entries.job) end
    watched[entry.key], owned[entry.key] = nil, nil
    n_watched = n_watched - 1
  end
  entry.key = nil
end

--- There is something new about job that the engine does not know of.
function loop.notify(job)
  if n_watched > 0 then fire((core.key(job))) end
end

--- Closes job; who waits for it looks again.
function loop.close(job)
  loop.notify(job)
  core.close(job)
end

-- ---- turns ----

--- fn(seconds or nil) is called before each wait for that long, and gives for how long to wait at most. May raise.
function loop.set_watcher(fn)
  watcher = fn
end

--- Is there nothing that could go on while somebody waits?
local function is_quiet()
  return n_alive == 0 and n_watched == 0 and not timers[1] and not has_luv and first > last
end

--- Calls fn, which in a worker may run items that wait too: they are not to know what we wait for.
local function apart(fn, ...)
  if not is_worker or n_watched == 0 then return fn(...) end
  local before, owned_before, n_before = watched, owned, n_watched
  watched, owned, n_watched = {}, {}, 0
  local fine, result = pcall(fn, ...)
  watched, owned, n_watched = before, owned_before, n_before
  if not fine then error(result, 0) end
  return result
end

--- Runs items of the jobs that are ours to run, for so long; true when any was run.
local function help(seconds)
  local keys, jobs = {}, {}
  for key, job in pairs(owned) do
    keys[#keys + 1] = key
    jobs[#jobs + 1] = job
  end
  local has_run = apart(core.help, jobs, seconds)
  for i, key in ipairs(keys) do -- those before may have closed it
    if owned[key] == jobs[i] and core.has_news(jobs[i]) then fire(key) end
  end
  return has_run
end

--- Is there no job among those that are waited for that can have news by itself: all has been run that it was given, and is known?
local function are_stuck()
  for _, entries in pairs(watched) do
    local pushed, finished = core.counts(entries.job)
    if pushed ~= finished or core.has_news(entries.job) then return false end
  end
  return true
end

--- One turn: waits until `deadline` at most for something to happen, and lets go on what can. True when nothing can happen any more.
local function turn(deadline)
  if is_worker then
    if not next(owned) then return true end
    help(deadline and math.max(0, deadline - now()))
    return false
  end
  local has_run = next(owned) and help(0)
  last_turn = now()
  local limit = deadline or math.huge
  if timers[1] then limit = math.min(limit, timers[1].due) end
  if has_run or first <= last then
    limit = 0
  elseif next(owned) then
    limit = math.min(limit, last_turn + 0.001) -- their items wait for a retry, or for a place
  elseif limit == math.huge and not core.is_alive() and are_stuck() then
    return true
  end
  local seconds = limit < math.huge and math.max(0, limit - last_turn) or nil
  if seconds ~= 0 then seconds = watcher(seconds) end
  core.turn(seconds, n_watched > 0)
  local key = core.collect()
  while key do
    fire(key)
    key = core.collect()
  end
  last_turn = now()
  while timers[1] and timers[1].due <= last_turn do
    local waiter = timers[1].waiter
    remove_timer(timers[1])
    waiter.is_late = true
    make_ready(waiter.task)
  end
  run_ready()
  show_problems()
  return false
end

--- For a loop of others, which drives ours: what there is to do, without waiting.
function loop.step()
  turn(0)
end

--- Is there anything that goes on while somebody waits: tasks, callbacks, what luv does?
function loop.is_busy()
  return n_alive > 0 or n_watched > 0 or timers[1] ~= nil or first <= last or (has_luv and core.is_alive())
end

--- How many seconds after now loop.step is to be called, whatever happens; nil: when something happens.
---@return number?
function loop.due()
  if first <= last then return 0 end
  local due = timers[1] and math.max(0, timers[1].due - now())
  if next(owned) then due = math.min(due or 1, 0.001) end
  return due
end

-- ---- waiting ----

--- In a task: yields until the waiter is woken.
local function block_task(task, waiter, deadline)
  if not waiter.is_woken and not task.stop then
    waiter.task, task.waiter = task, waiter
    local timer = deadline and add_timer(deadline, waiter)
    -- Others may resume a coroutine too.
    repeat yield() until waiter.is_woken or waiter.is_late or task.stop
    if timer then remove_timer(timer) end
    waiter.task, task.waiter = nil, nil
  end
  local was_woken = waiter.is_woken or false
  waiter.is_woken = true -- whoever still knows it wakes nobody
  if task.stop then
    local why = task.stop
    task.stop = nil
    return nil, why
  end
  return was_woken
end

--- Waits until the waiter is woken or it is `deadline`. Gives true when it was woken, false at the deadline, nil and the error that the caller is to
--- raise after it has tidied up.
local function block(waiter, deadline)
  local task = current()
  if task and is_yieldable() then return block_task(task, waiter, deadline) end
  if not is_worker and core.is_running() then
    return nil, check.where() .. "waiting is not possible in a coroutine or a C function's callback inside a luv callback"
  end
  while not waiter.is_woken do
    if task and task.stop then
      local why = task.stop
      task.stop = nil
      return nil, why
    end
    local fine, result = pcall(turn, deadline)
    if not fine then return nil, result end
    if waiter.is_woken then break end
    if deadline and now() >= deadline then
      waiter.is_woken = true
      return false
    elseif result then
      return nil, check.where() .. "this would wait for ever: nothing is left that could end it"
    end
  end
  return true
end
loop.block = block

--- Waits for news of job, or for so many seconds. May come back early.
function loop.wait(job, seconds)
  if is_worker or is_quiet() then return apart(core.wait, job, watcher(seconds)) end
  local waiter = {}
  local entry = loop.watch(job, wake, waiter)
  local woken, why = block(waiter, seconds and now() + seconds)
  loop.unwatch(entry)
  if woken == nil then error(why, 0) end
end

--- Waits until x is over; false when it is not by the deadline.
---@return boolean
function loop.await(x, deadline)
  while not x:_settle() do
    if x.job and (is_worker or is_quiet()) then
      local left = deadline and deadline - now()
      if left and left <= 0 then return false end
      apart(core.wait, x.job, watcher(left))
    else
      local waiter = {}
      local entry = x:_watch(wake, waiter)
      local woken, why = block(waiter, deadline)
      x:_unwatch(entry)
      if woken == nil then error(why, 0) end
      if not woken then return x:_settle() end
    end
  end
  return true
end

--- Lets the others go on, if it is time.
function loop.give_way()
  if is_worker or is_quiet() or now() - last_turn < PATIENCE_S then return end
  if core.is_running() and not is_yieldable() then return end
  local woken, why = block({}, 0)
  if woken == nil then error(why, 0) end
end

--- Waits for so long.
---@param seconds number  0: lets the others go on
function loop.sleep(seconds)
  if type(seconds) ~= "number" or not (seconds >= 0) or seconds == math.huge then
    check.fail("tidepool.sleep: expected a number of seconds, 0 or more, got %s", check.show(seconds))
  end
  if is_worker then return core.sleep(seconds) end
  local woken, why = block({}, now() + seconds)
  if woken == nil then error(why, 0) end
end

--- May what is waited for yield?
function loop.is_in_task()
  return current() ~= nil and is_yieldable()
end

--- Calls fn(x), later, once x is over.
function loop.on_done(who, x, fn)
  if is_worker then check.fail("%s: a mapped function has no loop that could call back; use get", who) end
  if type(fn) ~= "function" then check.fail("%s: expected a function, got %s", who, check.show(fn)) end
  loop.start(setmetatable({}, Callback), true, function()
    loop.await(x)
    fn(x)
  end)
end

-- ---- what a script's end waits for, and what it shows ----

-- In a worker it is the end of a slice of items: the values here name the slice then.
local kept = {}               -- what was spawned and is not known to be over; nobody needs to keep a handle
local unread, n_unread = {}, 0 -- what has failed and nobody has asked for: x -> number

--- Remembers x until loop.drop; it has a method _finish(), which waits for its end.
function loop.keep(x)
  kept[x] = not is_worker or core.keep()
end

function loop.drop(x)
  kept[x] = nil
end

--- What is remembered: the calls and maps that were spawned and are not known to be over.
---@return table
function loop.list()
  local list = {}
  for one in pairs(kept) do list[#list + 1] = one end
  return list
end

--- x has failed: the end shows what its method _report() gives, unless somebody asks for it before (loop.set_read).
function loop.set_failed(x)
  n_unread = n_unread + 1
  if is_worker then unread[x] = core.keep() else unread[x] = n_unread end
end

function loop.set_read(x)
  unread[x] = nil
end

function loop.has_unread()
  return next(unread) ~= nil
end

--- The keys of a table that have this value.
local function keys_of(t, value)
  local keys = {}
  for key, of in pairs(t) do
    if of == value then keys[#keys + 1] = key end
  end
  return keys
end

--- In a worker: waits for what items of a slice have spawned, and shows failures of it that nobody has asked for.
function loop.finish_kept(slice)
  repeat
    local list = keys_of(kept, slice)
    for _, x in ipairs(list) do
      kept[x] = nil
      pcall(x._finish, x)
    end
  until not list[1]
  for _, x in ipairs(keys_of(unread, slice)) do
    unread[x] = nil
    local f = x:_report()
    if not (failure.is_failure(f) and f.kind == "cancelled") then core.warn("tidepool: " .. tostring(f) .. "\n") end
  end
end

--- The keys of a table in the order of its values.
local function in_order(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return t[a] < t[b] end)
  return keys
end

--- The failures that nobody has asked for so far.
---@return table
function loop.take_unread()
  local failures = {}
  for i, x in ipairs(in_order(unread)) do failures[i] = x:_report() end
  unread = {}
  return failures
end

--- Waits for everything: spawned calls and maps, tasks, callbacks of on_done.
---@return table  the failures that nobody has asked for
function loop.finish()
  if current() then check.fail("tidepool.loop: a task cannot wait for all tasks; it runs in the loop already") end
  local failures = {}
  while true do
    local one = next(kept)
    if one then
      kept[one] = nil
      one:_finish()
    elseif n_alive == 0 and first > last then
      break
    elseif turn() then
      for _, task in ipairs(in_order(alive)) do
        failures[#failures + 1] = failure.new { kind = "error", attempts = 0, message = "a task has not ended: nothing is left that could wake it",
          traceback = describe.traceback(debug.traceback(task.thread)) }
      end
      alive, n_alive = {}, 0
    end
  end
  for _, unasked in ipairs(loop.take_unread()) do failures[#failures + 1] = unasked end
  if n_problems > 0 then
    failures[#failures + 1] = n_problems == 1 and "1 callback failed: see above" or n_problems .. " callbacks failed: see above"
    n_problems = 0
  end
  return failures
end

-- ---- luv ----

--- Called with the module luv when it has been opened on the host's loop.
function loop.share(luv)
  has_luv = true
  local walk = luv.walk
  -- When the state is closed, finalizers of cdata come before those of userdata. luv's own would free handles that are still closing.
  local closer = ffi.gc(ffi.new "char[1]", function()
    core.set_callback(function(fn, handle) fn(handle) end)
    walk(function(handle)
      if not handle:is_closing() then handle:close() end
    end)
    core.set_callback(nil)
    core.run_out()
  end)
  core.set_callback(call_back, closer)
  local is_stopped

  --- As luv's: "default" until no handle and no task is left, "once", "nowait".
  function luv.run(mode)
    if mode ~= nil and mode ~= "default" and mode ~= "once" and mode ~= "nowait" then
      check.fail('uv.run: expected "default", "once" or "nowait", got %s', check.show(mode))
    elseif current() or core.is_running() then
      check.fail("uv.run: the loop runs already; in a task or a callback there is no need to run it")
    end
    is_stopped = false
    if mode == "nowait" or mode == "once" then
      turn(mode == "nowait" and 0 or nil)
    else
      while not is_stopped and (core.is_alive() or n_alive > 0) do
        if turn() then break end
      end
    end
    return core.is_alive()
  end

  function luv.stop()
    is_stopped = true
  end

end

return loop
