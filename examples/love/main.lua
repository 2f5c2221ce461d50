-- A game whose terrain is computed by worker threads, tile by tile, while its frames go on:
--
--   love examples/love [--once]
--
-- LÖVE has a LuaJIT of its own, which needs the module (make install, or make module and
-- LUA_CPATH="build/module/?.so;;"). What matters is one line: tidepool.step() in love.update lets
-- tasks go on, and never waits. With --once it ends when the terrain is there.
--
-- prints: 48 tiles, drawn as they came

-- luacheck: globals love

local tidepool = require "tidepool"
local app = tidepool.App "terrain"

local TILE, ACROSS, DOWN = 64, 8, 6

--- The pixels of one tile, as RGBA bytes: value noise in five octaves, coloured by height.
local tile = app:func(function(column, row)
  local floor = math.floor
  local function lattice(x, y)
    local h = (x * 374761393 + y * 668265263) % 4294967296
    h = (h * (h % 65536 + 1)) % 4294967296
    return h / 4294967296
  end
  local function noise(x, y)
    local x0, y0 = floor(x), floor(y)
    local u, v = x - x0, y - y0
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    local top = lattice(x0, y0) * (1 - u) + lattice(x0 + 1, y0) * u
    local bottom = lattice(x0, y0 + 1) * (1 - u) + lattice(x0 + 1, y0 + 1) * u
    return top * (1 - v) + bottom * v
  end
  local pixels = {}
  for y = 0, TILE - 1 do
    for x = 0, TILE - 1 do
      local height, size, share = 0, 1 / 96, 0.5
      for _ = 1, 5 do
        height = height + share * noise((column * TILE + x) * size, (row * TILE + y) * size)
        size, share = size * 2, share / 2
      end
      local shade = floor(255 * height)
      if height < 0.45 then
        pixels[#pixels + 1] = string.char(20, shade, 160, 255) -- water
      else
        pixels[#pixels + 1] = string.char(shade, 200, 60, 255) -- land
      end
    end
  end
  return table.concat(pixels)
end)

local images, n_images, frames, ends = {}, 0, 0, false

function love.load(arguments)
  ends = arguments[1] == "--once"
  local places = {}
  for row = 0, DOWN - 1 do
    for column = 0, ACROSS - 1 do places[#places + 1] = { column, row } end
  end
  tidepool.async(function()
    for i, pixels in tile:starmap(places) do
      local data = love.image.newImageData(TILE, TILE, "rgba8", pixels)
      images[i] = { love.graphics.newImage(data), places[i][1] * TILE, places[i][2] * TILE }
      n_images = i
    end
  end)
end

function love.update()
  frames = frames + 1
  tidepool.step()
  if ends and n_images == ACROSS * DOWN then
    print(("%d tiles, drawn as they came"):format(n_images))
    love.event.quit(frames > 1 and 0 or 1)
  end
end

function love.draw()
  for i = 1, n_images do love.graphics.draw(unpack(images[i])) end
end
