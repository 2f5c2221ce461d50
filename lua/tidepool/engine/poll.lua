--- Waits that look again and again whether they are over, for what nothing tells us about.

local check = require "tidepool.base.check"
local core = require "tidepool.core"
local loop = require "tidepool.engine.loop"
local spawned = require "tidepool.engine.spawned"

local now, is_worker = core.loop.now, core.is_worker

-- How long it waits between two tries, at first and at most; and after how long without any
-- progress it takes for certain that nothing can end the wait.
local MIN_S, MAX_S, STUCK_S = 0.0001, 0.002, 2
-- One turn helps with so many spawned things at most.
local HELPED_MAX = 64

--- Spawned things that the caller's own thread must run only go on while somebody waits for them.
local function help_spawned(time)
  for _, x in ipairs(spawned.list(HELPED_MAX)) do
    if x.job and select(2, core.job.key(x.job)) then loop.await(x, time) end
  end
end

-- Such waits without an end that are going on.
local n_polls = 0

--- Polls try() until it gives true, or until `deadline`; returns whether it did. Without a
--- deadline, is_stuck() says whether workers can still change the answer: when neither they nor
--- anything here can for a while, it raises.
return function(try, deadline, is_stuck)
  local step, stuck_since = MIN_S, nil
  local task = is_worker and loop.current()
  if task and not task.work then task = nil end
  if not deadline then n_polls = n_polls + 1 end
  if task then
    task.is_away = true
    core.item.give_way(task.work, true, not deadline)
  end
  local fine, result = pcall(function()
    while not try() do
      local time = now()
      if deadline and time >= deadline then return false end
      help_spawned(time)
      if not is_stuck() or deadline or loop.timers() >= n_polls or core.loop.is_alive() then
        stuck_since = nil
      else
        stuck_since = stuck_since or time
        if time - stuck_since > STUCK_S then error(check.where() .. "this would wait for ever: nothing is left that could end it", 0) end
      end
      local woken, why = loop.block({}, math.min(deadline or math.huge, now() + step))
      if woken == nil then error(why, 0) end
      step = math.min(1.5 * step, MAX_S)
    end
    return true
  end)
  if not deadline then n_polls = n_polls - 1 end
  if task then
    task.is_away = nil
    loop.come_back(task)
  end
  if not fine then error(result, 0) end
  return result
end
