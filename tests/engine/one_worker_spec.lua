--- A pool of one worker (not stock: other specs run in the program).

local support = require "tests.support"

describe("A pool", function()
  for _, spec in ipairs { "promises", "engine/map", "engine/inputs", "engine/errors", "engine/limits", "engine/retries", "engine/control" } do
    it("of one worker keeps what " .. spec .. "_spec promises", function()
      assert.matches("1%.%.%d+\n$", support.pass_specs("--workers 1", ("tests/%s_spec.lua"):format(spec)))
    end)
  end
end)
