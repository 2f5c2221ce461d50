--- Runs the list of promises on every executor. A new executor gets a line here.

local tidepool = require "tidepool"
local promises = require "tests.promises"
local support = require "tests.support"

local executors = {
  { name = "inline", lua = true },
  { name = "threads", lua = true, parallel = support.workers() > 1, background = true, isolated = true },
  { name = "opencl", is_missing = #tidepool.devices() == 0, defaults = { gpu = true } },
}

for _, executor in ipairs(executors) do
  describe("On the executor " .. executor.name, function()
    local app = tidepool.App("promises", executor.defaults or { executor = executor.name })
    local case = { executor = executor.name, has_traceback = executor.lua }
    if executor.is_missing then
      pending "no OpenCL device"
      return
    end

    --- func(fn), func(options, fn), or func(options)(fn)
    function case.func(...) return app:func(...) end

    for _, promise in ipairs(promises) do
      if not promise.needs or executor[promise.needs] then
        it(promise.says, function() promise.check(case) end)
      end
    end
  end)
end
