-- Inputs that crash C code and inputs that never end: each costs itself, and nothing else.
--
--   tidepool run examples/poison.lua
--
-- prints: 1...10
-- prints: 2...crash...killed by SIGSEGV during input 2...attempts: 2
-- prints: 3...30
-- prints: 4...timeout...input 4 ran for more than 0.5 s...attempts: 1
-- prints: 5...crash...killed by SIGABRT during input 5...attempts: 2
-- prints: 6...60
-- prints: A later map: 1 4 9

local tidepool = require "tidepool"
local app = tidepool.App("poison", { executor = "processes" })

local risky = app:func { timeout = 0.5 } (function(x)
  local ffi = require "ffi"
  if x == 2 then ffi.cast("int *", 0)[0] = 1 end -- writes through a null pointer
  if x == 4 then while true do end end
  if x == 5 then
    ffi.cdef "void abort(void);"
    ffi.C.abort()
  end
  return 10 * x
end)

local square = app:func {} (function(x) return x * x end)

app:main(function()
  for i, r in risky:map({ 1, 2, 3, 4, 5, 6 }, { return_exceptions = true }) do
    if tidepool.is_failure(r) then
      print(i, r.kind, r.message, "attempts: " .. r.attempts)
    else
      print(i, r)
    end
  end
  print("A later map: " .. table.concat(square:map({ 1, 2, 3 }):list(), " "))
end)
