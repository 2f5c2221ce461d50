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

for _, executor in ipairs(executors.list) do
  describe("On the executor " .. executor.name, function()
    local app = tidepool.App("promises", executor.runs_lua and { executor = executor.name } or { gpu = true })
    local case = { executor = executor.name, has_traceback = executor.runs_lua }
    if executor.runs_kernels and #tidepool.devices() == 0 then
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
