-- Heat spreads over a plate, by a device that is driven by hand: a stencil in OpenCL C, a thousand
-- passes over two buffers that change places.
--
--   tidepool run examples/heat.lua [--size 512] [--steps 1000] [--out heat.png] [--device any]
--
-- The plate is cold; of its border, one side is hot. Without a device, or with --device none, plain
-- Lua does it, on one thread.
--
-- test: --size 40 --steps 60 --out /dev/null
-- prints: 40 x 40 points, 60 steps in ... s on ...; mean 9.929; at most 0.0e+00 from plain Lua: ...
-- test: --size 40 --steps 60 --out /dev/null --device none
-- prints: 40 x 40 points, 60 steps in ... s on one thread; mean 9.929; at most 0.0e+00 from ...

local tidepool = require "tidepool"
local picture = dofile((debug.getinfo(1, "S").source:match "^@(.*/)" or "") .. "lib/picture.lua")
local app = tidepool.App "heat"

local rate = 0.2 -- of the difference to the neighbours that is evened out in a step

local source = [[
  #pragma OPENCL FP_CONTRACT OFF
  __kernel void step(__global const double *now, __global double *next, double rate)
  {
    size_t n = get_global_size(0), x = get_global_id(0), y = get_global_id(1), at = y * n + x;
    if (x == 0 || y == 0 || x == n - 1 || y == n - 1)
      next[at] = now[at];
    else
      next[at] = now[at] + rate * (now[at - 1] + now[at + 1] + now[at - n] + now[at + n] - 4 * now[at]);
  }]]

local function new_plate(n)
  local plate = tidepool.array("double", n * n)
  for x = 1, n do plate[x] = 100 end
  return plate
end

local function on_device(device, n, steps)
  local step = device:kernel(source)
  local now, next = device:buffer(new_plate(n)), device:buffer("double", n * n)
  for _ = 1, steps do
    step({ n, n }, now, next, rate)
    now, next = next, now
  end
  return now:read()
end

local function in_lua(n, steps)
  local now, next = new_plate(n), new_plate(n)
  for _ = 1, steps do
    for y = 1, n - 2 do
      for x = 2, n - 1 do
        local at = y * n + x
        next[at] = now[at] + rate * (now[at - 1] + now[at + 1] + now[at - n] + now[at + n] - 4 * now[at])
      end
    end
    now, next = next, now
  end
  return now
end

app:main { args = {
  size = { 512, "points in a row, and rows" },
  steps = { 1000, "how many" },
  out = { "heat.png", "the picture" },
  device = { "any", "as gpu = ..., or none" },
} } (function(args)
  local n, steps = args.size, args.steps
  local device = tidepool.gpu.device { args.device == "none" and "no device" or args.device, "threads" }
  if device then on_device(device, n, 1) end -- compiles it, the first time on this machine
  local began = tidepool.now()
  local plate = device and on_device(device, n, steps) or in_lua(n, steps)
  local seconds = tidepool.now() - began

  local sum, difference, pixels = 0, 0, tidepool.array("uint8", 3 * n * n)
  local plain = n <= 128 and in_lua(n, steps) or plate -- a large one would take long
  for i = 1, n * n do
    sum, difference = sum + plate[i], math.max(difference, math.abs(plate[i] - plain[i]))
    pixels[3 * i - 2], pixels[3 * i - 1], pixels[3 * i] = 2.55 * plate[i], 0, 255 - 2.55 * plate[i]
  end
  print(("%d x %d points, %d steps in %.3f s on %s; mean %.3f; at most %.1e from plain Lua: %s"):format(n, n, steps, seconds,
    device and device.name or "one thread", sum / (n * n), difference, picture.write(args.out, n, n, 3, pixels)))
end)
