--- Coroutines of users in tasks: when one waits, its task waits.
--
-- A task waits by yielding to the loop. In a coroutine that the task's function has made, a yield
-- would reach whoever resumed that coroutine. So a wait yields PASS there; coroutine.resume, and
-- the functions that coroutine.wrap makes, do not return PASS but yield in their turn, up to the
-- task, and resume the coroutine when the task goes on. To its owner such a coroutine seems to be
-- still running: its status is "normal", and it cannot be resumed.
--
-- This needs our versions of the two functions, which replace the library's as soon as a script's
-- state has a host; and each coroutine on the way must be able to yield, which it cannot across a C
-- function that calls back (string.gsub, table.sort, require). Where one of these is missing,
-- waiting is refused.

local core = require "tidepool.core"
local interpret = require "tidepool.base.interpret"

local coroutines = {}

--- LuaJIT's own function: nginx puts others in the place of some, which schedule requests, and
--- keeps these beside them.
local function own(name)
  return coroutine["_" .. name] or coroutine[name]
end

local resume, status, wrap, yield = own "resume", own "status", own "wrap", own "yield"
local running, is_yieldable = coroutine.running, core.is_yieldable -- nginx drops coroutine.isyieldable
local getinfo, getupvalue = debug.getinfo, debug.getupvalue
local error, pcall, type, xpcall = error, pcall, type, xpcall

local PASS = {}

-- C functions on the stack that belong to the check itself, or that a yield can cross.
local lets_yield = { [getinfo] = true, [pcall] = true, [xpcall] = true, [resume] = true }

-- coroutine -> the task that runs in it; how many have not ended
local tasks, n_tasks = setmetatable({}, { __mode = "k" }), 0
-- coroutine -> the one that it has resumed by our functions and that has not come back
local above = setmetatable({}, { __mode = "kv" })
-- coroutine -> true: the one that resumed it cannot yield
local stuck = setmetatable({}, { __mode = "k" })

-- ---- for the loop ----

--- Notes that a task runs in the coroutine, until coroutines.remove.
function coroutines.add(thread, task)
  if not tasks[thread] then n_tasks = n_tasks + 1 end
  tasks[thread] = task
end

function coroutines.remove(thread)
  if tasks[thread] then n_tasks = n_tasks - 1 end
  tasks[thread] = nil
end

--- The task that runs in the coroutine itself.
function coroutines.task_of(thread)
  return thread and tasks[thread]
end

--- The task that runs here, nil when there is none or it is not known; and the coroutine that
--- cannot yield to it, if any.
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

--- Yields to whoever resumes the running task; coroutines.here() must have found no obstacle.
local function pass()
  if tasks[running()] then yield() else yield(PASS) end
end
coroutines.pass = pass

--- The reason why there can be no wait here; `stuck_in` comes from coroutines.here().
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

-- ---- our versions of library functions ----

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
  -- as coroutine.wrap does: at level 2 is our caller, since this is a tail call
  error(why, type(why) == "string" and 2 or 0)
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

--- What the loop runs tasks with.
coroutines.create, coroutines.resume, coroutines.status = own "create", resume_within, status_within

--- Replaces the library's functions by ours, except those that somebody else has replaced already.
function coroutines.install()
  local library = package.loaded.coroutine
  for name, function_within in pairs { resume = resume_within, status = status_within, wrap = wrap_within } do
    if getinfo(library[name], "S").what == "C" then library[name] = function_within end
  end
end

return coroutines
