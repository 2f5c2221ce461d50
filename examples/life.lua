-- Conway's game of life on a torus: a map over the places of a matrix, whose function looks at the
-- neighbours, generation after generation. A glider moves by one place in four of them.
--
--   tidepool run examples/life.lua [--size 64] [--generations 200] [--out life.png]
--
-- Without a device worker threads do the same.
--
-- test: --size 8 --generations 12 --out /dev/null
-- prints: generation 0
-- prints: .#......
-- prints: ..#.....
-- prints: ###.....
-- prints: ........
-- prints: ...
-- prints: generation 12
-- prints: ........
-- prints: ........
-- prints: ........
-- prints: ....#...
-- prints: .....#..
-- prints: ...###..
-- prints: ........
-- prints: ........
-- prints: 5 alive, for all the times they were born: /dev/null

local tidepool = require "tidepool"
local app = tidepool.App "life"

local board -- a matrix of 0 and 1, which each generation replaces

local step = app:func { gpu = { "any", "threads" }, returns = "uint8" } (function(y, x)
  local around = -board:at(y, x)
  for j = -1, 1 do
    for i = -1, 1 do around = around + board:at(y + j, x + i, "wrap") end
  end
  if around == 3 or (around == 2 and board:at(y, x) == 1) then return 1 end
  return 0
end)

local function show(generation)
  print("generation " .. generation)
  for y = 1, math.min(board.rows, 32) do
    local line = {}
    for x = 1, math.min(board.columns, 64) do line[x] = board:at(y, x) == 1 and "#" or "." end
    print(table.concat(line))
  end
end

app:main { args = {
  size = { 64, "rows and columns of the board" },
  generations = { 200, "how many" },
  out = { "life.png", "a picture of the last one" },
} } (function(o)
  local places = tidepool.grid(o.size, o.size)
  board = tidepool.array("uint8", places)
  for i, row in ipairs { { 0, 1, 0 }, { 0, 0, 1 }, { 1, 1, 1 } } do
    for j, alive in ipairs(row) do board:set(i, j, alive) end
  end
  show(0)
  for _ = 1, o.generations do board = step:map(places):array() end
  show(o.generations)
  board:image(o.out)
  print(("%d alive, for all the times they were born: %s"):format(board:sum(), o.out))
end)
