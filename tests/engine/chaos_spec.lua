--- Worker processes and hosts that are killed and stopped at random moments, a few times each:
-- tests/torture/chaos.lua, which does more of it by hand. not stock

local support = require "tests.support"

-- A sanitizer reports what kills its process.
support.let_signals_kill()

describe("Worker processes, and hosts, that are killed or stopped at random", function()
  for _, case in ipairs {
    { "kill", "inputs=2000 kills=100", "lose, double and change nothing" },
    { "stop", "inputs=600 stops=10", "lose, double and change nothing, where there is a timeout" },
    { "large", "megabytes=4 large_kills=8", "while large values are on their way change none of them" },
    { "functions", "function_kills=30", "while functions are being sent, and processes started, lose nothing" },
    { "hosts", "hosts=5 gone_s=100", "leave nothing behind" },
  } do
    local name, sizes, says = unpack(case)
    it(says, function()
      if support.sanitized then
        sizes = sizes:gsub("([%l_]*s=)(%d+)", function(what, n) return what .. (what == "gone_s=" and n or math.ceil(n / 10)) end) .. " pace=30"
      end
      local dir = support.temp_dir()
      local command = "timeout -k 5 500 %s --workers 4 tests/torture/chaos.lua %s %s >%s/out 2>&1 </dev/null"
      local status = os.execute(command:format(support.binary, name, sizes, dir))
      local output = support.read_file(dir .. "/out")
      assert.is_truthy(output:find("^" .. name .. ": [^\n]*\n$"), output)
      assert.equal(0, status)
    end)
  end
end)
