-- Counts that all workers share: how often each byte is in the files that are named, or in
-- Tidepool's own sources.
--
--   build/tidepool examples/histogram.lua README.md
--   build/tidepool examples/histogram.lua --out counts.npy     (for NumPy: numpy.load "counts.npy")

local tidepool = require "tidepool"
local app = tidepool.App "histogram"

local counts = tidepool.array("int64", 256)
local longest = tidepool.array("int32", 1)

-- All workers add to the same elements. counts[byte] = counts[byte] + 1 would lose what another
-- worker adds between the two.
local count = app:func(function(path)
  local file = assert(io.open(path, "rb"))
  for line in file:lines() do
    longest:max(1, #line)
    for i = 1, #line do counts:add(line:byte(i) + 1, 1) end
  end
  file:close()
end)

app:main { args = { out = { "", "an .npy file for the counts" } } } (function(args)
  local files = #args > 0 and { unpack(args) } or { "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md" }
  count:for_each(files)

  local order = {}
  for byte = 0, 255 do order[byte + 1] = byte end
  table.sort(order, function(a, b) return counts[a + 1] > counts[b + 1] end)
  for i = 1, 8 do
    local byte = order[i]
    print(("%-4s %9d"):format(byte > 32 and byte < 127 and string.char(byte) or byte, tonumber(counts[byte + 1])))
  end
  print(("%d bytes in %d files; the longest line has %d"):format(tonumber(counts:sum()), #files, longest[1]))
  if args.out ~= "" then counts:save(args.out) end
end)
