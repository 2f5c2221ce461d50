-- The smallest app: one function, mapped over a hundred numbers.
--
--   tidepool run examples/hello.lua
--
-- prints: the squares of 1 to 100, in order:
-- prints: 1 4 9 16 25 36 49 64 81 100 ... 10000

local tidepool = require "tidepool"
local app = tidepool.App "hello"

local square = app:func {} (function(x)
  return x * x
end)

app:main(function()
  local squares = square:map(tidepool.range(100)):list()
  print("the squares of 1 to 100, in order:")
  print(table.concat(squares, " ", 1, 10) .. " ... " .. squares[100])
end)
