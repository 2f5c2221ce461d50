--- The loop: everything that waits, waits here.
--
-- Inside a task (a coroutine of ours) waiting yields. Elsewhere it takes turns of the host's loop,
-- in which tasks, timers and luv's callbacks go on, until what is waited for has come. Whoever
-- takes the turns resumes the tasks, outside uv_run. A task never takes turns: other tasks would
-- then run on top of it on the C stack, and it could not go on before they do. Where a task cannot
-- yield (coroutines.lua), waiting is refused.
--
-- In a worker's state an item of a function with the option concurrent_inputs is a task, with a
-- field `work`; loop.turn_items resumes these, and callbacks of luv's, on a loop of the worker's
-- own. Elsewhere in a worker there are no tasks, and a turn runs items of the jobs that are waited
-- for.
--
-- A waiter is a table: wake(w) sets is_woken and makes w.task ready. Whatever can be waited for has
-- the methods
--   x:_settle()         does what there is to do without waiting; true when x is over
--   x:_watch(fn, arg)   fn(arg), once, when there may be something new; gives an entry for
--                       x:_unwatch(entry)
--
-- A task here is a table with thread, is_ready, is_daemon (nobody waits for its end), source (of
-- its maps' random numbers), stop (an error that its next wait raises) and _end(fine, ...), which
-- is called with what its function returned, or with { value =, traceback = }.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local coroutines = require "tidepool.engine.coroutines"
local failure = require "tidepool.failure"
local ffi = require "ffi"
local lazy = require "tidepool.base.lazy"

local describe, show = lazy "tidepool.base.describe", lazy "tidepool.base.show"

local loop = {}

-- Locals, so that a session ends properly whatever its user does to the globals.
local pairs, ipairs, table, getinfo, loaded = pairs, ipairs, table, debug.getinfo, package.loaded

local now, is_worker = core.loop.now, core.is_worker
local item = is_worker and core.item -- made now: items must end where there is no memory, too
local is_traced = ffi.cast("const bool *", core.trace.flag())
local here, pass = coroutines.here, coroutines.pass

-- Starting a task inside a task takes C stack, so below this depth tasks start later.
local NESTED_MAX = 60
-- Code that never waits (starts one call after the other, reads results that are always there) lets
-- others go on after this time.
local PATIENCE_S = 0.005
-- When there are more jobs than this, one turn runs items of only so many.
local HELPED_MAX = 64

local BLOCKED_S = 0.3 -- an item that runs for so long without a wait keeps others waiting
-- How much longer each pause (loop.set_pause) of a wait is than the one before, and at most.
local PAUSE_MIN_S, PAUSE_MAX_S = 0.001, 0.005

-- Stands for infinity: a time that is never reached. Sleeping for ever is allowed, unlike waiting
-- for something that never comes, which is an error.
local FOR_EVER_S = 1e15

local show_problems -- defined below

local alive, n_alive = {}, 0 -- tasks that have not ended, except daemons: task -> number
local n_started, nested = 0, 0
-- In a worker: items that are tasks, and how many; those that wait in line for a permit; and the
-- entries of jobs that tasks wait for, by key.
local items, n_items, lining, asked = {}, 0, {}, {}
-- In a worker: `asked` entries that are still to be called, since memory ran out; whether the items
-- must look for cancellations; whether a turn runs, or was ended by an error.
local unfired, sees_cancels, is_unfinished
local source -- of the running task, for the random numbers of its maps; nil: the script's
local ready, first, last = {}, 1, 0                -- tasks to resume, in order
local watched, n_watched = {}, 0                   -- key of a job -> entries { key, fn, arg }
-- The same entries as queues { first, last, n, [first..last] = entries or nil }: of jobs that this
-- thread must run itself, and of others.
local owned, others = { first = 1, last = 0, n = 0 }, { first = 1, last = 0, n = 0 }
local timers = {} -- a heap of { due, waiter, at }, the earliest first
local last_turn = 0
local is_turning = false -- does a turn run now (or has one raised)?
local resumed_at = 0 -- when a task was last resumed, or begun, outside of a turn
local has_more_news = false -- are there jobs with news that the last turn has not reached?
local has_handles -- see loop.set_luv
local watcher = function(seconds) return seconds end -- see loop.set_watcher
local can_pause, pause -- see loop.set_pause
local function tidy() end -- see loop.set_spawned
local warn_unread = tidy
-- errors of callbacks that are still to be shown; and how many were shown
local problems, n_problems = {}, 0

-- ---- timers ----

local function put(timer, at)
  timers[at] = timer
  timer.at = at
end

--- Moves a timer from the free place `at` to where it belongs in the heap.
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
function loop.current()
  return (here())
end

--- Is this inside a task, a turn of somebody's, or uv_run?
function loop.is_inside()
  return here() ~= nil or nested > 0 or core.loop.is_running()
end

local function make_ready(task)
  if task.is_ready then return end
  -- here and below, steps that may run out of memory come first, so that counts stay right when
  -- they do
  ready[last + 1] = task
  last = last + 1
  task.is_ready = true
end

local function wake(waiter)
  if waiter.is_woken then return end
  if waiter.task then make_ready(waiter.task) end -- first: it may run out of memory
  waiter.is_woken = true
end
loop.wake = wake

--- For a trace: the task, which is to run fn, begins.
local function note_task(task, fn)
  local info = type(fn) == "function" and getinfo(fn, "S")
  task.number = n_started
  core.trace.task(task.number, info and ("task %s:%d"):format(info.short_src, info.linedefined) or "task")
end

local function end_task(task, ...)
  coroutines.remove(task.thread)
  if task.number then core.trace.task(task.number) end
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

--- The item has run, up to a wait or its end. If that has kept others in its worker waiting for
--- long, that is said, once for each function.
local function tell_blocking(task)
  local seconds = now() - task.resumed_at
  if seconds < BLOCKED_S or n_items < 2 then return end
  local is_first, index, name, worker = item.note_blocking(task.work)
  if not is_first then return end
  core.io.warn(("tidepool: input %d of '%s' blocked the loop of worker %d for %.0f ms; its other inputs (%d) could not go on: "
    .. "with concurrent_inputs, inputs wait by tidepool.sleep, calls, events and luv\n"):format(index, show.plain(name, true), worker,
    seconds * 1000, n_items - 1))
end

--- An item goes on.
local function resume_item(task, ...)
  local work, before = task.work, task.changes
  task.changes, task.resumed_at = false, now()
  if not before then
    item.enter(work)
  else
    local fine, why = pcall(item.enter, work, before[1], before[2])
    if not fine then
      item.enter(work)
      task.stop = why
    end
  end
  if not task.has_entered then
    task.has_entered = true
    n_items = n_items + 1
  end
  local _, why = coroutines.resume(task.thread, ...)
  -- Only an error that cannot be caught (see below) leaves a dead thread whose task is not over.
  if not task.is_over and coroutines.status(task.thread) == "dead" then task:_end(false, why) end
  if not task.is_over then
    local fine, list, applied = pcall(item.leave, work)
    if not fine then task.stop = list elseif list ~= nil or applied ~= nil then task.changes = { list, applied } end
    tell_blocking(task)
  end
end

local function resume(task, ...)
  if task.work then return resume_item(task, ...) end
  nested = nested + 1
  local source_before = source
  source = task.source
  core.random.enter(source)
  if not is_turning then resumed_at = now() end
  local fine, why = coroutines.resume(task.thread, ...)
  source = source_before
  core.random.enter(source)
  nested = nested - 1
  -- Only an error that cannot be caught (the stack was full in the handler) ends a thread like
  -- this. A thread that somebody else has resumed is left alone.
  if not fine and coroutines.task_of(task.thread) and coroutines.status(task.thread) == "dead" then end_task(task, false, { value = why }) end
end

--- Runs fn(...) as a task, up to its first wait; with is_later in a later turn.
function loop.start(task, is_later, fn, ...)
  if task.is_daemon then task.source = source else task.source = task.source or core.random.source(false) end
  if not task.is_daemon then
    n_started = n_started + 1
    alive[task] = n_started
    n_alive = n_alive + 1
    if is_traced[0] then note_task(task, fn) end
  end
  if is_later or nested >= NESTED_MAX then
    local n, arguments = select("#", ...), { ... }
    task.thread = coroutines.create(function()
      -- it was cancelled before it began
      if task.stop then return end_task(task, false, { value = task.stop }) end
      return run(task, fn, unpack(arguments, 1, n))
    end)
    coroutines.add(task.thread, task)
    make_ready(task)
  else
    task.thread = coroutines.create(run)
    coroutines.add(task.thread, task)
    resume(task, task, fn, ...)
  end
end

local Callback = {}
Callback.__index = Callback

function Callback:_end(fine, why)
  if not fine then problems[#problems + 1] = why end
end

--- Runs a callback of luv's in a task of its own. Nobody has a handle of it, so its error is shown
--- at once. In a worker whose item runs the loop itself (uv.run), it is a plain call.
function loop.call_back(fn, ...)
  if is_worker and not core.loop.is_running() then
    local fine, why = xpcall(fn, trouble, ...)
    if not fine then
      problems[#problems + 1] = why
      show_problems()
    end
    return
  end
  if core.loop.is_running() then core.loop.stop() end
  loop.start(setmetatable({ source = core.random.source(true) }, Callback), false, fn, ...)
end

function show_problems()
  while problems[1] do
    local problem = table.remove(problems, 1)
    n_problems = n_problems + 1
    core.io.warn(("tidepool: error in a callback: %s\n"):format(show.plain(describe.message(problem.value))) ..
      (problem.traceback and problem.traceback .. "\n" or ""))
  end
end

--- Is it time for a turn of the loop, so that others can go on?
local function is_late()
  return now() - last_turn >= PATIENCE_S
end

--- Resumes the tasks that are ready; if that takes long, the rest are resumed in the next turn.
local function run_ready()
  local until_here = last
  while first <= until_here and first <= last do
    local task = ready[first]
    ready[first] = nil
    first = first + 1
    task.is_ready = false
    resume(task)
    if is_late() then break end
  end
end

-- ---- jobs ----

local function put_last(queue, entries)
  local at = queue.last + 1
  queue[at] = entries
  queue.last, queue.n = at, queue.n + 1
  entries.queue, entries.at = queue, at
end

local function take_out(entries)
  local queue = entries.queue
  queue[entries.at] = nil
  queue.n = queue.n - 1
  if queue.n == 0 then queue.first = queue.last + 1 end
  entries.queue = nil
end

--- Removes the entries of a job that nobody watches any more.
local function forget(entries)
  watched[entries.key] = nil
  n_watched = n_watched - 1
  take_out(entries)
end

local function fire(key)
  local entries = watched[key]
  if not entries or not entries.queue then return end
  forget(entries)
  for _, entry in ipairs(entries) do
    entry.key = nil
    entry.fn(entry.arg)
  end
end

local function fire_all(entries)
  while entries[1] do
    local entry = entries[1]
    if entry.key then entry.fn(entry.arg) end
    table.remove(entries, 1)
    if entry.key then
      entry.key = nil
      entry.task.n_asked = entry.task.n_asked - 1
    end
  end
  unfired = entries.next
end

--- The same for `asked`. What is left over when memory runs out is fired in the next turn.
local function fire_asked(key)
  local entries = asked[key]
  if not entries then return end
  asked[key] = nil
  entries.next, unfired = unfired, entries
  fire_all(entries)
end

--- loop.watch for a task in a worker.
local function ask(key, job, task, fn, arg)
  local entry = { key = key, job = job, task = task, fn = fn, arg = arg }
  local entries = asked[key] or {}
  entries[#entries + 1] = entry
  asked[key] = entries
  task.n_asked = (task.n_asked or 0) + 1
  item.wait_for(job)
  if not core.job.await(job) then fire_asked(key) end
  return entry
end

local function leave_asked(entry)
  local key = entry.key
  if not key then return end
  entry.key = nil
  entry.task.n_asked = entry.task.n_asked - 1
  local entries = asked[key]
  for i, other in ipairs(entries or {}) do
    if other == entry then table.remove(entries, i) break end
  end
  if entries and not entries[1] then
    asked[key] = nil
    core.job.unawait(entry.job)
  end
end

--- Calls fn(arg), once, when the job has news since it was last looked at; at once when it has some
--- already.
function loop.watch(job, fn, arg)
  local key, is_owned = core.job.key(job)
  local task = is_worker and here()
  if task then return ask(key, job, task, fn, arg) end
  local entries = watched[key]
  if not entries or not entries.queue then -- the latter: there was no memory to put it into a queue
    entries = { key = key, job = job, queue = false, at = 0 } -- keeps the job alive
    watched[key] = entries
    local queue = is_owned and owned or others
    -- Numbers begin anew: a worker that waits watches everything again after each turn, and numbers
    -- that only grow would never be in the table's array part.
    if queue.n == 0 then queue.first, queue.last = 1, 0 end
    put_last(queue, entries)
    n_watched = n_watched + 1
  end
  local entry = { key = key, fn = fn, arg = arg }
  entries[#entries + 1] = entry
  local has_news
  if is_owned then has_news = core.job.has_news(job) else has_news = not core.job.await(job) end
  if has_news then fire(key) end
  return entry
end

function loop.unwatch(entry)
  if entry.task then return leave_asked(entry) end
  local entries = entry.key and watched[entry.key]
  if not entries then return end
  for i, other in ipairs(entries) do
    if other == entry then table.remove(entries, i) break end
  end
  if not entries[1] then
    if entries.queue == others then core.job.unawait(entries.job) end
    forget(entries)
  end
  entry.key = nil
end

--- The job has news that the engine does not know about.
function loop.notify(job)
  if is_worker and next(asked) then fire_asked((core.job.key(job))) end
  if n_watched > 0 then fire((core.job.key(job))) end
end

--- Closes the job; whoever waits for it looks again.
function loop.close(job)
  loop.notify(job)
  return core.job.close(job)
end

-- ---- turns ----

--- Sets a function: fn(seconds or nil) is called before each wait of that length, and returns how
--- long to wait at most. It may raise.
function loop.set_watcher(fn)
  watcher = fn
end

--- For a program that runs our caller in a coroutine of its own, among others (nginx's requests):
--- fn(seconds) lets these go on for so long, and is called instead of blocking the thread wherever
--- may() is true.
function loop.set_pause(may, fn)
  can_pause, pause = may, fn
end

--- Luv is on the loop; has_handles() tells whether a script's end waits for it.
function loop.set_luv(fn)
  has_handles = fn
end

--- Sets what spawned.lua does whenever somebody has waited, and after each step that an embedder
--- has taken.
function loop.set_spawned(after_wait, after_step)
  tidy, warn_unread = after_wait, after_step
end

--- Is there nothing that could go on while somebody waits?
local function is_quiet()
  return n_alive == 0 and n_watched == 0 and not timers[1] and not has_handles and first > last
end

--- Calls fn, which in a worker may run items that wait themselves: these must not see what this one
--- waits for.
local function apart(fn, ...)
  if not is_worker or n_watched == 0 then return fn(...) end
  local before, owned_before, n_before = watched, owned, n_watched
  watched, owned, n_watched = {}, { first = 1, last = 0, n = 0 }, 0
  local fine, result = pcall(fn, ...)
  watched, owned, n_watched = before, owned_before, n_before
  if not fine then error(result, 0) end
  return result
end

--- As help, for the first n jobs.
local function help_some(n, seconds)
  local some, jobs = {}, {}
  local queue, i = owned, owned.first
  while #some < n and i <= queue.last do
    local entries = queue[i]
    if entries then
      some[#some + 1] = entries
      jobs[#jobs + 1] = entries.job
    elseif i == queue.first then
      queue.first = i + 1
    end
    i = i + 1
  end
  local is_part = n < queue.n
  local has_run = apart(core.job.help, jobs, seconds)
  for _, entries in ipairs(some) do
    if entries.queue then -- unless one of those before has closed it
      if core.job.has_news(entries.job) then
        fire(entries.key)
      elseif is_part then
        take_out(entries)
        put_last(queue, entries)
      end
    end
  end
  return has_run
end

--- Runs items of the jobs that this thread must run, for that long; true when any was run. When
--- there are many jobs they take turns, except in a worker, where whoever waits looks at all of
--- them after each turn (gather.lua).
local function help(seconds)
  if not is_worker and owned.n > HELPED_MAX and help_some(HELPED_MAX, 0) then return true end
  return help_some(owned.n, seconds)
end

--- Are all awaited jobs unable to have news, because everything that they were given has been run
--- and is known? A job that can have news is left at the front, where the next call finds it at
--- once; jobs that cannot go to the back.
local function are_stuck()
  for i = others.first, others.last do
    local entries = others[i]
    if entries then
      if not core.job.is_settled(entries.job) or core.job.has_news(entries.job) then return false end
      take_out(entries)
      put_last(others, entries)
    end
    others.first = i + 1
  end
  return true
end

--- Wakes those whose time has come.
local function run_timers()
  while timers[1] and timers[1].due <= last_turn do
    local waiter = timers[1].waiter
    waiter.is_late = true
    make_ready(waiter.task) -- may run out of memory: then it is still there the next time
    remove_timer(timers[1])
  end
end

--- The work of one turn; see loop.turn.
local function take_turn(deadline)
  if is_worker then
    if owned.n == 0 then return true end
    help(deadline and math.max(0, deadline - now()))
    tidy()
    return false
  end
  local has_run = owned.n > 0 and help(0)
  last_turn = now()
  local limit = has_more_news and 0 or deadline or math.huge
  if timers[1] then limit = math.min(limit, timers[1].due) end
  if has_run or first <= last then
    limit = 0
  elseif owned.n > 0 then
    limit = math.min(limit, last_turn + 0.001) -- their items wait for a retry, or for a permit
  elseif limit == math.huge and not core.loop.is_alive() and are_stuck() then
    return true
  end
  local seconds = limit < math.huge and math.max(0, limit - last_turn) or nil
  if seconds ~= 0 then seconds = watcher(seconds) end
  core.loop.turn(seconds, n_watched > 0, limit == math.huge and not core.loop.is_alive())
  last_turn, has_more_news = now(), false
  local key = core.job.collect()
  while key do
    fire(key)
    has_more_news = is_late()
    key = not has_more_news and core.job.collect()
  end
  last_turn = now()
  run_timers()
  run_ready()
  show_problems()
  tidy()
  return false
end

--- One turn: waits for something to happen, at most until `deadline`, and lets everything go on
--- that can. True when nothing can happen any more.
function loop.turn(deadline)
  local before = is_turning
  is_turning = true
  local is_over = take_turn(deadline)
  is_turning = before
  return is_over
end

--- One turn of a worker's own loop, for items that wait beside each other.
---@param seconds number?  how long to wait at most for something to happen
function loop.turn_items(seconds)
  if is_unfinished then
    -- memory has run out in the last turn: any item may have been about to be resumed
    for task in pairs(items) do
      if task.has_entered then make_ready(task) end
    end
  end
  is_unfinished = true
  last_turn = now()
  local limit = has_more_news and 0 or seconds and last_turn + seconds or math.huge
  if timers[1] then limit = math.min(limit, timers[1].due) end
  if first <= last or unfired or sees_cancels then limit = 0 end
  core.loop.turn(limit < math.huge and math.max(0, limit - last_turn) or nil)
  last_turn, has_more_news = now(), false
  while unfired do fire_all(unfired) end
  local key = core.job.collect()
  while key do
    fire_asked(key)
    has_more_news = is_late()
    key = not has_more_news and core.job.collect()
  end
  for i = #lining, 1, -1 do
    local task = lining[i]
    if item.come_back(task.work) then
      make_ready(task)
      table.remove(lining, i)
      task.is_in_line = false
    end
  end
  sees_cancels = item.sees_cancels() or sees_cancels
  if sees_cancels then
    for task in pairs(items) do
      if task.has_entered and not task.stop and item.is_unwanted(task.work) then
        local why = failure.new { kind = abi.kind.CANCELLED, message = "the input was cancelled", attempts = 0 }
        if task.waiter then wake(task.waiter) end
        task.stop = why
      end
    end
    sees_cancels = false
  end
  run_timers()
  run_ready()
  show_problems()
  is_unfinished = false
end

--- For loops of embedders, which drive ours: does what there is to do, without waiting.
function loop.step()
  loop.turn(0)
end

--- The same for a loop in the script itself.
function loop.step_of_script()
  if is_worker then check.fail("tidepool.step: a mapped function has no loop of its own") end
  if loop.is_inside() then check.fail("tidepool.step: the loop runs already; in a task, tidepool.sleep(0) lets the others go on") end
  loop.turn(0)
end

--- Is there anything that goes on while somebody waits: tasks, callbacks, luv's handles?
function loop.is_busy()
  return n_alive > 0 or n_watched > 0 or timers[1] ~= nil or first <= last or has_more_news or (has_handles ~= nil and core.loop.is_alive())
end

--- In how many seconds loop.step must be called even if nothing happens; nil: only when something
--- happens.
---@return number?
function loop.due()
  if first <= last or has_more_news then return 0 end
  local due = timers[1] and math.max(0, timers[1].due - now())
  if owned.n > 0 then due = math.min(due or 1, 0.001) end
  return due
end

-- ---- waiting ----

--- An item that has given way waits for its permit, and takes its place again.
function loop.come_back(task)
  if item.come_back(task.work) then return end
  lining[#lining + 1] = task
  task.is_in_line = true
  repeat pass() until not task.is_in_line
end

--- Inside a task: yields until the waiter is woken.
local function block_task(task, waiter, deadline)
  if not waiter.is_woken and not task.stop then
    waiter.task, task.waiter = task, waiter
    local timer = deadline and add_timer(deadline, waiter)
    -- while an item waits for jobs, others may have its permit
    local gives_way = task.work and (task.n_asked or 0) > 0 and not task.is_away
    if gives_way then item.give_way(task.work, false, false) end
    -- in a loop, since the user's own code may also resume the coroutine
    repeat pass() until waiter.is_woken or waiter.is_late or task.stop
    if timer then remove_timer(timer) end
    waiter.task, task.waiter = nil, nil
    if gives_way then loop.come_back(task) end
  end
  local was_woken = waiter.is_woken or false
  waiter.is_woken = true -- late calls of its `wake` then do nothing
  if task.stop then
    local why = task.stop
    if not task.work then task.stop = nil end -- an item that is not wanted is not to wait again
    return nil, why
  end
  return was_woken
end

--- The task that yields for a wait here; nil when turns are taken instead; nil and a reason when
--- nothing can wait here.
local function who_waits()
  local task, stuck_in = here()
  if task and not stuck_in then return task end
  if task or not is_worker and (nested > 0 or core.loop.is_running()) then
    return nil, ("%sin %s nothing can wait %s, which cannot let the others go on: wait before it, or after"):format(check.where(),
      is_worker and "an input of a function with concurrent_inputs" or "a task", coroutines.obstacle(stuck_in))
  end
end

--- Raises where nothing can wait. Functions that may or may not have to wait always call it, so
--- that they are refused there in either case.
function loop.check_wait()
  local _, why = who_waits()
  if why then error(why, 0) end
end

--- Waits until the waiter is woken, or until `deadline`. True when it was woken, false at the
--- deadline; nil and an error, which the caller must raise after it has cleaned up.
local function block(waiter, deadline)
  local task, obstacle = who_waits()
  if task then return block_task(task, waiter, deadline) end
  if obstacle then return nil, obstacle end
  local pauses, step = can_pause and can_pause(), 0
  while not waiter.is_woken do
    local fine, result = pcall(loop.turn, pauses and 0 or deadline)
    if not fine then
      is_turning = false
      return nil, result
    end
    if waiter.is_woken then break end
    if deadline and now() >= deadline then
      waiter.is_woken = true
      return false
    elseif result then
      return nil, check.where() .. "this would wait for ever: nothing is left that could end it"
    end
    if pauses then
      step = math.min(step + PAUSE_MIN_S, PAUSE_MAX_S)
      pause(deadline and math.max(PAUSE_MIN_S, math.min(step, deadline - now())) or step)
    end
  end
  return true
end
loop.block = block

--- Is it this thread that waits, and nothing goes on meanwhile but what it waits for?
local function blocks()
  if is_worker then return not here() end
  return is_quiet() and not (can_pause and can_pause())
end

--- Waits for news of the job, or for so many seconds. May return early.
function loop.wait(job, seconds)
  if blocks() then
    apart(core.job.wait, job, watcher(seconds), seconds == nil)
    return tidy()
  end
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
    if x.job and blocks() then
      local left = deadline and deadline - now()
      if left and left <= 0 then return false end
      apart(core.job.wait, x.job, watcher(left), left == nil)
      tidy()
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

--- Lets others go on, if it is time to.
function loop.give_way()
  if is_worker or is_quiet() or not is_late() then return end
  local task, obstacle = who_waits()
  if obstacle then return end
  if not task then
    local woken, why = block({}, 0)
    if woken == nil then error(why, 0) end
    return
  end
  make_ready(task)
  pass()
  if task.stop then
    local why = task.stop
    task.stop = nil
    error(why, 0)
  end
end

--- The same, but only inside a task: for code that starts something, which must not wait in the
--- script itself. A task that the script has begun just now goes on: others can only do so when the
--- script waits.
function loop.give_way_in_task()
  if n_alive == 0 or not is_turning and now() - resumed_at < PATIENCE_S then return end
  if here() then loop.give_way() end
end

--- Waits for so long.
---@param seconds number  0: lets the others go on; math.huge: until something ends the wait (cancel, Ctrl-C)
function loop.sleep(seconds, extra)
  check.no_more(extra, "tidepool.sleep", "a number of seconds")
  if type(seconds) ~= "number" or not (seconds >= 0) then
    check.fail("tidepool.sleep: expected a number of seconds, 0 or more, got %s", check.show(seconds))
  end
  if is_worker and not here() then
    core.loop.sleep(seconds)
    return tidy()
  end
  local woken, why = block({}, now() + math.min(seconds, FOR_EVER_S))
  if woken == nil then error(why, 0) end
end

--- Would a wait here yield to the loop, because this is inside a task?
function loop.is_in_task()
  return (who_waits()) ~= nil
end

--- Calls fn(x) in a later turn, once x is over.
function loop.on_done(who, x, fn)
  if core.in_item then check.fail("%s: a mapped function has no loop that could call back; use get", who) end
  if type(fn) ~= "function" then check.fail("%s: expected a function, got %s", who, check.show(fn)) end
  loop.start(setmetatable({}, Callback), true, function()
    loop.await(x)
    fn(x)
  end)
end

-- ---- what others ask ----

--- How many tasks have not ended.
---@return integer
function loop.tasks()
  return n_alive
end

--- How many waits end at a time.
---@return integer
function loop.timers()
  return #timers
end

--- How many items wait beside each other, or run.
---@return integer
function loop.items()
  return n_items
end

--- Is nothing left that a script's end waits for, apart from what was spawned?
function loop.is_done()
  return n_alive == 0 and first > last and not (has_handles and has_handles())
end

--- Is there anything that a script's end waits for, or tells? Otherwise ending.lua is not needed.
function loop.has_ending()
  return not loop.is_done() or n_problems > 0 or loaded["tidepool.engine.spawned"] ~= nil or loaded["tidepool.results"] ~= nil
end

--- Gives the tasks that have not ended, in the order in which they began, and forgets them.
---@return table
function loop.lose_tasks()
  local lost = {}
  for task in pairs(alive) do lost[#lost + 1] = task end
  table.sort(lost, function(a, b) return alive[a] < alive[b] end)
  alive, n_alive = {}, 0
  return lost
end

--- How many errors of callbacks were shown since the last time.
---@return integer
function loop.take_problems()
  local n = n_problems
  n_problems = 0
  return n
end

-- ---- items that wait beside each other, in a worker ----

local Item = {}
Item.__index = Item

--- The item is over: its results or its error are kept, and what it has spawned is waited for.
function Item:_end(fine, ...)
  if self.is_over then return end
  self.is_over = true
  -- Each of these may find no memory, and the item must end nevertheless: it is over for good now.
  pcall(tell_blocking, self)
  if not pcall(item.keep, self.work, self.captured, fine, ...) then
    collectgarbage()
    pcall(item.keep, self.work, self.captured, false, abi.NO_MEMORY)
  end
  coroutines.remove(self.thread)
  items[self] = nil
  n_items = n_items - 1
  item.close(self.work)
end

local function end_item(task, ...)
  local spawned = loaded["tidepool.engine.spawned"]
  if spawned then spawned.finish_slice(task.work) end
  return task:_end(...)
end

local function run_item(task, on_error, fn, ...)
  return end_item(task, xpcall(fn, on_error, ...))
end

--- Begins an item as a task. `captured` are the captured tables of its function; on_error is the
--- handler that makes what core.item.keep takes for an error.
function loop.begin_item(work, captured, on_error, fn, ...)
  local was_unfinished = is_unfinished
  is_unfinished = true
  -- with all fields, so that setting one takes no memory
  local task = setmetatable({ work = work, captured = captured, thread = coroutines.create(run_item), has_entered = false, is_over = false,
    is_ready = false, is_away = false, is_in_line = false, n_asked = 0, resumed_at = 0, changes = false, stop = false, waiter = false }, Item)
  coroutines.add(task.thread, task)
  items[task] = true
  resume(task, task, on_error, fn, ...)
  is_unfinished = was_unfinished
end

if not is_worker then
  core.loop.drive(function()
    loop.step()
    warn_unread()
  end, loop.due)
end

return loop
