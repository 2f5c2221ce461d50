-- The Mandelbrot set, by a plain Lua function on a device, as a picture: PGM, which most viewers open.
--
--   tidepool run examples/mandelbrot.lua [--size 1024] [--iterations 256] [--out mandelbrot.pgm] [--device any]
--
-- Without a device, or with --device threads, worker threads run the same function: the pixels are the same.
--
-- test: --size 96 --iterations 64 --out /dev/null
-- prints: 96 x 96 pixels, 1619 of them inside after 64 iterations, ... s

local tidepool = require "tidepool"
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
  out = { "mandelbrot.pgm", "the picture" },
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

  local rows, inside = {}, 0
  for row = 1, size do
    local shades = {}
    for column = 1, size do
      local n = counts[(row - 1) * size + column]
      if n == 0 then inside = inside + 1 end
      shades[column] = string.char(n == 0 and 0 or 255 - math.floor(200 * n / iterations))
    end
    rows[row] = table.concat(shades)
  end
  local file = assert(io.open(args.out, "wb"))
  file:write(("P5 %d %d 255\n"):format(size, size), table.concat(rows))
  file:close()
  print(("%d x %d pixels, %d of them inside after %d iterations, %.3f s"):format(size, size, inside, iterations, seconds))
end)
