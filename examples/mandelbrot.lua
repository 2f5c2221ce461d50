-- The Mandelbrot set, by a plain Lua function on a device, as a picture.
--
--   tidepool run examples/mandelbrot.lua [--size 1024] [--iterations 256] [--out mandelbrot.png]
--                                        [--device any]
--
-- Without a device, or with --device threads, worker threads run the same function: the pixels are
-- the same.
--
-- test: --size 96 --iterations 64 --out /dev/null
-- prints: 96 x 96 pixels, 1619 of them inside after 64 iterations, ... s: /dev/null
-- test: --size 96 --iterations 64 --out /dev/null --device threads
-- prints: 96 x 96 pixels, 1619 of them inside after 64 iterations, ... s: /dev/null

local tidepool = require "tidepool"
local picture = dofile((debug.getinfo(1, "S").source:match "^@(.*/)" or "") .. "lib/picture.lua")
local app = tidepool.App "mandelbrot"

local iterations, size

local escape = app:func { gpu = { "any", "threads" }, returns = "int32" } (function(i)
  local column, row = i % size, math.floor(i / size)
  local cx, cy = column / size * 3 - 2.25, row / size * 3 - 1.5
  local x, y = 0, 0
  for n = 1, iterations do
    local xx, yy = x * x, y * y
    if xx + yy > 4 then return n end
    x, y = xx - yy + cx, 2 * x * y + cy
  end
  return 0
end)

app:main { args = {
  size = { 1024, "pixels in a row, and rows" },
  iterations = { 256, "after which a point counts as inside" },
  out = { "mandelbrot.png", "the picture" },
  device = { "any", "as gpu = ..., or threads" },
} } (function(args)
  iterations, size = args.iterations, args.size
  local f = args.device == "any" and escape or escape:with { gpu = { args.device == "threads" and "no device" or args.device, "threads" } }
  local pixels = tidepool.array("double", size * size)
  for i = 1, #pixels do pixels[i] = i - 1 end

  f:remote(0) -- compiles it, the first time on this machine
  local began = tidepool.now()
  local counts = f:map(pixels):array()
  local seconds = tidepool.now() - began

  local inside, shades = 0, tidepool.array("uint8", #counts)
  for i = 1, #counts do
    local n = counts[i]
    if n == 0 then inside = inside + 1 end
    shades[i] = n == 0 and 0 or 255 - math.floor(200 * n / iterations)
  end
  print(("%d x %d pixels, %d of them inside after %d iterations, %.3f s: %s"):format(size, size, inside, iterations, seconds,
    picture.write(args.out, size, size, 1, shades)))
end)
