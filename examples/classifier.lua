-- A classifier that is loaded once per worker, and kept there: the nearest of 1,797 handwritten digits (examples/data/digits.csv).
--
--   build/tidepool examples/classifier.lua
--   build/tidepool run examples/classifier.lua::Digits.classify 17

local tidepool = require "tidepool"
local app = tidepool.App "classifier"

local PIXELS = 64

local Digits = app:cls {
  --- Reads the pictures into a matrix. In each worker that classifies this takes place once, however many inputs there are.
  enter = function(self)
    local pixels, labels = {}, {}
    for line in io.lines(self.path or "examples/data/digits.csv") do
      local row = {}
      for number in line:gmatch "%d+" do row[#row + 1] = tonumber(number) end
      labels[#labels + 1] = table.remove(row)
      pixels[#pixels + 1] = row
    end
    self.pixels, self.labels = tidepool.array("float", pixels), labels
    self.asked = 0
  end,

  exit = function(self) io.stderr:write(("a worker has classified %d pictures\n"):format(self.asked)) end,

  --- How far two pictures are from each other.
  distance = function(self, i, j)
    local data, sum = self.pixels.data, 0
    local a, b = data + (i - 1) * PIXELS, data + (j - 1) * PIXELS
    for k = 0, PIXELS - 1 do
      local d = a[k] - b[k]
      sum = sum + d * d
    end
    return sum
  end,

  --- What picture number i shows: the label of the nearest other one. And is that right?
  classify = function(self, i)
    local best, least = nil, math.huge
    for j = 1, self.pixels.rows do
      local d = j ~= i and self:distance(i, j) or math.huge
      if d < least then best, least = j, d end
    end
    self.asked = self.asked + 1
    return self.labels[best], self.labels[best] == self.labels[i]
  end,
}

app:main(function()
  local digits = Digits { path = "examples/data/digits.csv" }
  local n, right = 500, 0
  for _, _, is_right in digits.classify:map(tidepool.range(n)) do
    if is_right then right = right + 1 end
  end
  print(("%d of %d pictures are recognised"):format(right, n))
end)
