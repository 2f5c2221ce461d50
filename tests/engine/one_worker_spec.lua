--- A pool of one worker (not stock: other specs run in the program).

local support = require "tests.support"

describe("A pool", function()
  for _, spec in ipairs { "promises", "engine/map", "engine/inputs", "engine/errors", "engine/limits", "engine/retries", "engine/control" } do
    it("of one worker keeps what " .. spec .. "_spec promises", function()
      local dir = support.temp_dir()
      local status = os.execute(("timeout 600 %s --workers 1 /usr/bin/busted -o TAP tests/%s_spec.lua >%s/out 2>&1 </dev/null")
        :format(support.binary, spec, dir))
      local output = support.read_file(dir .. "/out")
      if status ~= 0 then
        local failed = {}
        for line in output:gmatch "[^\n]+" do
          if line:find "^not ok" then failed[#failed + 1] = line end
        end
        assert(false, #failed > 0 and table.concat(failed, "\n") or output)
      end
      assert.matches("1%.%.%d+\n$", output)
    end)
  end
end)
