--- What functions on threads promise is kept by worker processes (not stock: it is the program that
-- is run).

local support = require "tests.support"

describe("In processes", function()
  for _, spec in ipairs { "errors", "payloads", "inputs", "map", "limits", "retries", "mixed", "nesting", "reductions" } do
    it("what " .. spec .. "_spec promises is kept", function() -- but for how large blocks are, which follows from what an item takes
      support.contains(support.pass_specs("--executor processes", ("--filter-out 'large blocks' tests/engine/%s_spec.lua"):format(spec)), "1..")
    end)
  end
end)
