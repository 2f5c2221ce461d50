-- Several arguments per call, several results, and a function that maps another one.
--
--   tidepool run examples/starmap.lua
--
-- prints: ...
-- prints: maps inside of mapped functions:
-- prints: 11 22 33

local tidepool = require "tidepool"
local app = tidepool.App "starmap"

local divide = app:func {} (function(a, b)
  return math.floor(a / b), a % b
end)

-- A function may map another one: a worker that waits for it works on it meanwhile.
local sum_of_quotients = app:func {} (function(n)
  local sum = 0
  for _, quotient in divide:map({ n, n, n }, { 1, 2, 3 }) do
    sum = sum + quotient
  end
  return sum
end)

app:main(function()
  for i, quotient, rest in divide:starmap { { 7, 2 }, { 9, 3 }, { 22, 5 } } do
    print(i, quotient, rest)
  end
  print("map takes one list per argument:")
  for i, quotient, rest in divide:map({ 7, 9, 22 }, { 2, 3, 5 }) do
    print(i, quotient, rest)
  end
  print("maps inside of mapped functions:")
  print(table.concat(sum_of_quotients:map { 6, 12, 18 }:list(), " "))
end)
