-- A classifier that is loaded once per worker, kept there, and asked for many pictures at once: the
-- nearest of 1,797 handwritten digits (examples/data/digits.csv).
--
--   build/tidepool examples/classifier.lua
--   build/tidepool run examples/classifier.lua::Digits.classify 17

local tidepool = require "tidepool"
local app = tidepool.App "classifier"

local PIXELS = 64

-- Each picture of the file is read once for all that are asked for in a batch.
local Digits = app:cls { batched = 50 } {
  --- Reads the pictures into a matrix. In each worker that classifies this takes place once,
  -- however many inputs there are.
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

  --- What the pictures with these numbers show: the labels of the nearest other ones. And is that
  -- right?
  classify = function(self, numbers)
    local best, least, labels, are_right = {}, {}, {}, {}
    for j = 1, self.pixels.rows do
      for k, i in ipairs(numbers) do
        local d = j ~= i and self:distance(i, j) or math.huge
        if d < (least[k] or math.huge) then best[k], least[k] = j, d end
      end
    end
    for k, i in ipairs(numbers) do
      labels[k] = self.labels[best[k]]
      are_right[k] = labels[k] == self.labels[i]
    end
    self.asked = self.asked + #numbers
    return labels, are_right
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
