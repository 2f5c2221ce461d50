--- Runs the list of promises on every executor that there is.

local tidepool = require "tidepool"
local executors = require "tidepool.engine.executors"
local promises = require "tests.promises"

local function has_all(abilities, needs)
  for _, need in ipairs(needs) do
    if not abilities[need] then return false end
  end
  return true
end

--- Checks all promises that an executor must keep. `defaults` are options of all functions; `far`:
--- its devices are those of that executor's workers.
local function ask(executor, says, defaults, far)
  describe(says, function()
    local app = tidepool.App("promises", defaults)
    local case = { executor = executor.name, has_traceback = executor.runs_lua, at_once = defaults.concurrent_inputs }
    if (executor.far or far) and not os.getenv "TIDEPOOL_ENGINE" then
      pending "no engine: tests/cluster/promises_spec.lua has one"
      return
    end
    if executor.runs_kernels and not far and #tidepool.devices() == 0 then
      pending "no OpenCL device"
      return
    end

    --- func(fn), func(options, fn), or func(options)(fn)
    function case.func(...) return app:func(...) end

    local abilities = promises.abilities(executor)
    for _, promise in ipairs(promises) do
      if has_all(abilities, promise.needs) then
        it(promise.says, function() promise.check(case) end)
      end
    end
  end)
end

for _, executor in ipairs(executors.list) do
  ask(executor, "On the executor " .. executor.name, executor.runs_lua and { executor = executor.name } or { gpu = true })
  if executor.far then
    ask(executors.of_kernels, "With devices on the executor " .. executor.name, { executor = executor.name, gpu = true }, executor)
  end
  -- the same promises where a worker runs many inputs at once
  if executor.interleaves then
    ask(executor, "With concurrent_inputs on the executor " .. executor.name, { executor = executor.name, concurrent_inputs = 16 })
  end
end

-- and where it is left to Tidepool whether threads or devices run an input
ask(executors.fallback, "With gpu = \"auto\"", { gpu = "auto" })
