-- A filter that smooths a picture but keeps its edges (bilateral), by a plain Lua function on a
-- device: it reads a captured typed array, the picture.
--
--   tidepool run examples/filter.lua [--image photo.png] [--radius 4] [--out filtered.png]
--                                    [--device any]
--
-- Without --image it draws one, of --size pixels, with noise. Without a device, or with --device
-- threads, worker threads run the same function.
--
-- test: --size 64 --radius 2 --out /dev/null
-- prints: 64 x 64 pixels in ... s on ...; noise of 12.6, then 4.8; at most ... from plain Lua: ...
-- test: --size 64 --radius 2 --out /dev/null --device threads
-- prints: 64 x 64 pixels in ... s on threads; noise of 12.6, then 4.8; at most 0 from ...

local tidepool = require "tidepool"
local picture = dofile((debug.getinfo(1, "S").source:match "^@(.*/)" or "") .. "lib/picture.lua")
local app = tidepool.App "filter"

local pixels, width, height, radius
local contrast = 40 -- shades that count as one surface

local smooth = app:func { gpu = { "any", "threads" }, returns = "uint8" } (function(i)
  local column, row = i % width, math.floor(i / width)
  local own, sum, weights = pixels[i + 1], 0, 0
  for dy = -radius, radius do
    for dx = -radius, radius do
      local x = math.min(math.max(column + dx, 0), width - 1)
      local y = math.min(math.max(row + dy, 0), height - 1)
      local other = pixels[y * width + x + 1]
      local difference = (other - own) / contrast
      local weight = math.exp(-(dx * dx + dy * dy) / (radius * radius) - difference * difference)
      sum, weights = sum + weight * other, weights + weight
    end
  end
  return math.floor(sum / weights + 0.5)
end)

--- What is drawn: a disc and a slope.
local function shade(x, y)
  if (x - 0.5) ^ 2 + (y - 0.5) ^ 2 < 0.1 then return 200 end
  return 40 + 80 * x
end

--- How far the picture is from what was drawn.
local function noise_of(p)
  local sum = 0
  for i = 1, #p do sum = sum + math.abs(p[i] - shade((i - 1) % width / width, math.floor((i - 1) / width) / height)) end
  return sum / #p
end

app:main { args = {
  image = { "", "a PNG file" },
  size = { 512, "pixels in a row, and rows, of a picture of our own" },
  radius = { 4, "pixels that are looked at on each side" },
  out = { "filtered.png", "the picture" },
  device = { "any", "as gpu = ..., or threads" },
} } (function(args)
  radius = args.radius
  if args.image ~= "" then
    pixels, width, height = picture.read(args.image)
  else
    width, height = args.size, args.size
    pixels = tidepool.array("uint8", width * height)
    for i = 1, #pixels do
      local clean = shade((i - 1) % width / width, math.floor((i - 1) / width) / height)
      pixels[i] = math.floor(clean + 50 * (tidepool.gpu.random(1, i) - 0.5) + 0.5)
    end
  end
  local wanted = { args.device == "threads" and "no device" or args.device, "threads" }
  local f = smooth:with { gpu = wanted }
  local indices = tidepool.array("int32", #pixels)
  for i = 1, #indices do indices[i] = i - 1 end

  f:remote(0) -- compiles it, the first time on this machine
  local began = tidepool.now()
  local filtered = f:map(indices):array()
  local seconds = tidepool.now() - began

  local difference = 0
  for i = 1, #pixels, math.ceil(#pixels / 10000) do difference = math.max(difference, math.abs(filtered[i] - smooth(i - 1))) end
  local noise = args.image == "" and ("; noise of %.1f, then %.1f"):format(noise_of(pixels), noise_of(filtered)) or ""
  local device = tidepool.gpu.device(wanted)
  print(("%d x %d pixels in %.3f s on %s%s; at most %d from plain Lua: %s"):format(width, height, seconds, device and device.name or "threads", noise,
    difference, picture.write(args.out, width, height, 1, filtered)))
end)
