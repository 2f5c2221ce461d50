--- Coroutines of users: a wait in one that a task runs is a wait of the task.
--
-- What waits in a task yields to the loop. In a coroutine that the task's function has made, a yield would go to whoever has resumed it. So a wait
-- yields PASS there, which coroutine.resume and what coroutine.wrap gives do not hand out: they yield in their turn, up to the task, and resume the
-- coroutine when the task goes on. For its owner such a coroutine has not come back: its status is "normal", and it cannot be resumed.
--
-- That needs the two functions of ours, which stand in the library from the moment that a script's state has a host, and room to yield from each
-- coroutine to the next: not across a function in C that calls back (string.gsub, table.sort, require). Where either lacks, waiting is refused.

local interpret = require "tidepool.base.interpret"

local coroutines = {}

local resume, status, wrap, yield = coroutine.resume, coroutine.status, coroutine.wrap, coroutine.yield
local running, is_yieldable = coroutine.running, coroutine.isyieldable
local getinfo, getupvalue = debug.getinfo, debug.getupvalue
local error, pcall, type, xpcall = error, pcall, type, xpcall

local PASS = {}

-- Functions in C that lie on the stack of who asks, or do not hinder a yield.
local lets_yield = { [getinfo] = true, [pcall] = true, [xpcall] = true, [resume] = true }

local tasks, n_tasks = setmetatable({}, { __mode = "k" }), 0 -- coroutine -> the task whose own it is; how many have not ended
local above = setmetatable({}, { __mode = "kv" })            -- coroutine -> the one that runs in it, by our functions: while that has not come back
local stuck = setmetatable({}, { __mode = "k" })             -- coroutine -> true: the one above it cannot yield

-- ---- for the loop ----

--- A coroutine is a task's own from now on, until coroutines.remove.
function coroutines.add(thread, task)
  if not tasks[thread] then n_tasks = n_tasks + 1 end
  tasks[thread] = task
end

function coroutines.remove(thread)
  if tasks[thread] then n_tasks = n_tasks - 1 end
  tasks[thread] = nil
end

--- The task that a coroutine is the own one of.
function coroutines.task_of(thread)
  return tasks[thread]
end

--- The task that runs here, nil when none does or that is not known; and the coroutine in which it cannot yield, if there is one.
function coroutines.here()
  local thread = running()
  if not thread then return nil end
  local task, stuck_in = tasks[thread], not is_yieldable() and thread or nil
  while not task do
    local outer = above[thread]
    if not outer then return nil end
    if stuck[thread] then stuck_in = outer end
    thread = outer
    task = tasks[thread]
  end
  return task, stuck_in
end

--- Yields to whoever resumes the task that runs here, where coroutines.here() finds nothing in the way.
local function pass()
  if tasks[running()] then yield() else yield(PASS) end
end
coroutines.pass = pass

--- Why there can be no wait here: `stuck_in` is what coroutines.here() gave.
function coroutines.obstacle(stuck_in)
  if not stuck_in then
    return "in a coroutine that something else than coroutine.resume or coroutine.wrap, as they are with tidepool loaded, has resumed"
  end
  local level, info = 0, getinfo(stuck_in, 0, "Snf")
  while info and (info.what ~= "C" or lets_yield[info.func]) do
    level = level + 1
    info = getinfo(stuck_in, level, "Snf")
  end
  return info and info.name and ("inside %s, a function in C"):format(info.name) or "inside a function in C"
end

-- ---- what stands in the library ----

local REFUSED = "cannot resume non-suspended coroutine"

local function come_back(thread, fine, first, ...)
  if fine and first == PASS then
    pass()
    return come_back(thread, resume(thread))
  end
  above[thread], stuck[thread] = nil, nil
  return fine, first, ...
end

local function go_on(thread, outer, ...)
  above[thread] = outer
  if not is_yieldable() then stuck[thread] = true end
  return come_back(thread, resume(thread, ...))
end

local function resume_within(thread, ...)
  if n_tasks == 0 or type(thread) ~= "thread" then return resume(thread, ...) end
  if above[thread] then return false, REFUSED end
  local outer = running()
  if not outer then return resume(thread, ...) end
  return go_on(thread, outer, ...)
end

local function give(fine, ...)
  if fine then return ... end
  local why = ...
  error(why, type(why) == "string" and 2 or 0) -- as coroutine.wrap's, with the place of its caller: of ours, which has called us as its last
end

local function wrap_within(fn)
  if type(fn) ~= "function" then return wrap(fn) end
  local go = wrap(fn)
  local _, thread = getupvalue(go, 1)
  local function go_within(...)
    if n_tasks == 0 then return go(...) end
    return give(resume_within(thread, ...))
  end
  interpret(go_within)
  return go_within
end

local function status_within(thread)
  if above[thread] and status(thread) == "suspended" then return "normal" end
  return status(thread)
end

interpret(come_back, go_on, resume_within, give)

--- Puts our functions in the place of the library's own. One that somebody has replaced stays.
function coroutines.install()
  local library = package.loaded.coroutine
  local own = { resume = resume_within, status = status_within, wrap = wrap_within }
  for name, function_within in pairs(own) do
    if getinfo(library[name], "S").what == "C" then library[name] = function_within end
  end
end

return coroutines
