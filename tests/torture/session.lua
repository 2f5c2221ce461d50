-- What scripts/torture runs: maps, starmaps, errors, arrays and, with "device", a map on one.
-- Prints "wrong ..." when a result is, "done" at the end; an error says what there was not enough
-- of.
local tidepool = require "tidepool"
local app = tidepool.App "torture"

local function check(is_right, what)
  if is_right then return end
  print("wrong " .. what)
  os.exit(3)
end

--- A failure of a map: of the function itself, or for want of what was made to fail.
local function check_failure(e, field, value)
  if not tidepool.is_failure(e) or e.kind ~= "error" then error(e, 0) end
  check(e[field] == value, field .. " of an error: " .. tostring(e[field]))
end

local double = app:func {} (function(x)
  if x == 3 then error { code = x } end
  return x * 2, tostring(x)
end)
local n = 0
for _, v, text in double:map { 1, 2, 4, 5 } do
  check(text == tostring(v / 2), "a text")
  n = n + v
end
check(n == 24, "a sum")
local is_done, e = pcall(function() return double:map({ 1, 3 }):list() end)
check(not is_done, "no error")
check_failure(e, "code", 3)

local pair = app:func {} (function(a, b) return { a, b } end)
for i, v in pair:starmap { { 1, 2 }, { 3, "x" } } do check(v[1] == 2 * i - 1, "a field") end

local again = app:func { retries = { max = 2, initial_delay = 0.001 } } (function(x) error("no " .. x, 0) end)
check_failure(again:map({ 1 }, { return_exceptions = true }):list()[1], "message", "no 1")

local halves = app:func { returns = "double" } (function(x) return x / 2 end)
local list = tidepool.array("double", { 2, 4, 6 })
check(halves:map(list):array()[3] == 3, "an element")
check(halves:map(list:slice(2, 3)):sum() == 5, "a reduction")

local lines = app:func {} (function(x)
  local file = assert(io.open(arg[0]))
  local line = file:read "*l"
  file:close()
  return x .. line:sub(1, 2)
end)
check(lines:map({ "a", "b" }):list()[2] == "b--", "a line")

if arg[1] == "device" then
  local plus = app:func { gpu = true } (function(x) return x + 1 end)
  check(plus:map({ 1, 2, 3 }):list()[3] == 4, "a result of a device")
end
print "done"
