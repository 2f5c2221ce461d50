-- What the REPL's way to stop compiled loops costs: LuaJIT's profiler counts lines, so that
-- compiled code looks for its ticks (host/program/repl.c). The same functions with and without it,
-- in CPU time, the best of several runs. Scripts run without it.

local profile = require "jit.profile"

local cases = {
  { "a sum of numbers", 2e8, [[local s = 0 for i = 1, N do s = s + i end return s]] },
  { "calls of math.sin", 3e7, [[local s = 0 for i = 1, N do s = s + math.sin(i) * 0.5 end return s]] },
  { "reads of a table", 1e8, [[local t, s = { 1, 2, 3, 4, 5, 6, 7, 8 }, 0 for i = 1, N do s = s + t[i % 8 + 1] end return s]] },
  { "three lines in a body", 3e7, "local a, b = 0, 0\nfor i = 1, N do\na = a + i\nb = b + a % 3\na = a - b\nend\nreturn a" },
}

local function best(make, n)
  local least = math.huge
  for _ = 1, 3 do
    local fn = make()
    local began = os.clock()
    fn(n)
    least = math.min(least, os.clock() - began)
  end
  return least
end

print(("%-24s %12s %12s %8s"):format("compiled loop", "script, ns", "REPL, ns", "cost"))
for _, case in ipairs(cases) do
  local name, n, code = case[1], case[2], "local N = ... " .. case[3]
  -- Compiled anew for each run: traces are made for the profiler or not.
  local function make()
    jit.flush()
    return loadstring(code, "=loop")
  end
  local without = best(make, n)
  profile.start("li50", function() end)
  local with = best(make, n)
  profile.stop()
  print(("%-24s %12.3f %12.3f %7.0f%%"):format(name, without / n * 1e9, with / n * 1e9, 100 * (with / without - 1)))
end
