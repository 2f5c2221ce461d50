--- What functions on threads promise is kept by worker processes (not stock: it is the program that
-- is run).

local assert = require "luassert"
local support = require "tests.support"

describe("In processes", function()
  for _, spec in ipairs { "errors", "payloads", "inputs", "map", "limits", "retries", "mixed", "nesting", "reductions" } do
    it("what " .. spec .. "_spec promises is kept", function() -- but for how large blocks are, which follows from what an item takes
      local dir = support.temp_dir()
      local busted = "timeout 600 %s --executor processes /usr/bin/busted -o TAP --filter-out 'large blocks'"
      local status = os.execute((busted .. " tests/engine/%s_spec.lua >%s/out 2>&1 </dev/null"):format(support.binary, spec, dir))
      local output = support.read_file(dir .. "/out")
      if status ~= 0 then
        local failed = {}
        for line in output:gmatch "[^\n]+" do
          if line:find "^not ok" then failed[#failed + 1] = line end
        end
        assert(false, #failed > 0 and table.concat(failed, "\n") or output)
      end
      support.contains(output, "1..")
    end)
  end
end)
