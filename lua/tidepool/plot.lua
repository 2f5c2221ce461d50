--- Small charts of characters: numbers over an axis, and histograms. They are printed, in a worker
-- as what it prints is. A character is a cell of 2 x 4 dots, which braille shows one by one; where
-- the environment does not say UTF-8, only whether a cell has one.

local check = require "tidepool.base.check"
local ffi = require "ffi"
local lazy = require "tidepool.base.lazy"

local array, results = lazy "tidepool.array", lazy "tidepool.results"

local plot = {}

local WIDTH, HEIGHT = 60, 12 -- cells of a chart
local BAR = 40               -- cells of the longest bar of a histogram
local BINS_MAX = 200

local floor, huge = math.floor, math.huge

--- Does what reads our output take UTF-8, as far as the environment says?
local function is_utf8()
  local locale = ""
  for _, name in ipairs { "LC_ALL", "LC_CTYPE", "LANG" } do
    if locale == "" then locale = os.getenv(name) or "" end
  end
  return locale:upper():find "UTF%-?8" ~= nil
end

local function is_finite(x)
  return x == x and x ~= huge and x ~= -huge
end

--- The numbers of a list, an array or results, as doubles from 0 on, and how many they are.
local function numbers(what, value)
  if results.of(value) then value = value:array() end
  local is_array = array.type_of(value) ~= nil
  if not is_array and type(value) ~= "table" then
    check.fail("tidepool.plot: %s: expected a list of numbers, an array or results, got %s", what, check.show(value))
  end
  local n = is_array and value.length or value.n or #value
  local list = ffi.new("double[?]", math.max(n, 1))
  for i = 1, n do
    local x = value[i]
    if type(x) ~= "number" and not is_array then
      check.fail("tidepool.plot: %s: element %d is %s, and no number", what, i, x == nil and "nil" or check.show(x))
    end
    list[i - 1] = tonumber(x)
  end
  return list, n
end

--- The least and the greatest number where keep(i); nothing when there is none.
local function range(list, n, keep)
  local least, most = huge, -huge
  for i = 0, n - 1 do
    if keep(i) then least, most = math.min(least, list[i]), math.max(most, list[i]) end
  end
  if least <= most then return least, most end
end

--- A function from a number to its dot, from 0 to dots - 1. Halves, so that nothing overflows.
local function scale(least, most, dots)
  local width = most / 2 - least / 2
  if width == 0 then return function() return floor(dots / 2) end end
  return function(x) return floor((x / 2 - least / 2) / width * (dots - 1) + 0.5) end
end

--- The bits of the dots of a braille cell, by row from above and column.
local BITS = { [0] = { [0] = 0x01, 0x08 }, { [0] = 0x02, 0x10 }, { [0] = 0x04, 0x20 }, { [0] = 0x40, 0x80 } }

--- A braille character by its dots.
local function braille(dots)
  return "\226" .. string.char(160 + floor(dots / 64), 128 + dots % 64)
end

--- Dots that can be set, from the lower left, and read as lines of cells, the highest first.
local function new_canvas()
  local set = ffi.new("uint8_t[?]", 2 * WIDTH * 4 * HEIGHT)
  local canvas = {}
  function canvas.dot(x, y) set[y * 2 * WIDTH + x] = 1 end

  function canvas.line(x, y, to_x, to_y)
    local steps = math.max(math.abs(to_x - x), math.abs(to_y - y))
    for k = 0, steps do
      local share = steps == 0 and 0 or k / steps
      canvas.dot(floor(x + (to_x - x) * share + 0.5), floor(y + (to_y - y) * share + 0.5))
    end
  end

  function canvas.row(row, with_braille)
    local cells = {}
    for column = 0, WIDTH - 1 do
      local dots = 0
      for down = 0, 3 do
        for right = 0, 1 do
          local y = 4 * (HEIGHT - row) + 3 - down
          if set[y * 2 * WIDTH + 2 * column + right] ~= 0 then dots = dots + BITS[down][right] end
        end
      end
      cells[#cells + 1] = dots == 0 and " " or with_braille and braille(dots) or "*"
    end
    return (table.concat(cells):gsub(" +$", ""))
  end
  return canvas
end

local function shown(x)
  return ("%.4g"):format(x)
end

local function left_out(n)
  return n > 0 and ("(%d %s left out: not finite)"):format(n, n == 1 and "is" or "are") or nil
end

--- Draws the points, with lines between neighbours where the xs rise from one to the next.
local function draw(xs, ys, n)
  local function keep(i) return is_finite(xs[i]) and is_finite(ys[i]) end
  local lowest, highest = range(ys, n, keep)
  if not lowest then return { "(nothing to plot)", left_out(n) } end
  local left, right = range(xs, n, keep)
  local column, row = scale(left, right, 2 * WIDTH), scale(lowest, highest, 4 * HEIGHT)
  local canvas, skipped, is_line = new_canvas(), 0, true
  for i = 1, n - 1 do is_line = is_line and xs[i] > xs[i - 1] end
  local before
  for i = 0, n - 1 do
    if keep(i) then
      local point = { column(xs[i]), row(ys[i]) }
      if is_line and before then canvas.line(before[1], before[2], point[1], point[2]) else canvas.dot(point[1], point[2]) end
      before = point
    else
      skipped, before = skipped + 1, nil
    end
  end

  local with_braille = is_utf8()
  local side, corner, bottom = "|", "+", "-"
  if with_braille then side, corner, bottom = "│", "└", "─" end
  local labels = { [1] = shown(highest), [HEIGHT] = shown(lowest) }
  if lowest == highest then labels = { [HEIGHT / 2] = shown(lowest) } end
  local room = math.max(#shown(highest), #shown(lowest))
  local lines = {}
  for i = 1, HEIGHT do
    local label = labels[i] or ""
    lines[i] = (" "):rep(room - #label) .. label .. " " .. side .. canvas.row(i, with_braille)
  end
  lines[#lines + 1] = (" "):rep(room + 1) .. corner .. bottom:rep(WIDTH)
  local from, to = shown(left), shown(right)
  lines[#lines + 1] = (" "):rep(room + 2) .. from .. (" "):rep(math.max(1, WIDTH - #from - #to)) .. to
  lines[#lines + 1] = left_out(skipped)
  return lines
end

--- tidepool.plot.
function plot.print(xs, ys, extra)
  check.no_more(extra, "tidepool.plot", "(xs, ys)")
  local first, n = numbers(ys == nil and "ys" or "xs", xs)
  if ys == nil then
    xs = ffi.new("double[?]", math.max(n, 1))
    for i = 0, n - 1 do xs[i] = i + 1 end
    return print(table.concat(draw(xs, first, n), "\n"))
  end
  local second, m = numbers("ys", ys)
  if n ~= m then check.fail("tidepool.plot: there are %d xs, but %d ys", n, m) end
  print(table.concat(draw(first, second, n), "\n"))
end

--- The bar of a count: half cells in braille.
local function bar(count, most, with_braille)
  local halves = most > 0 and math.ceil(2 * BAR * count / most) or 0
  if not with_braille then return ("#"):rep(math.ceil(halves / 2)) end
  return ("⣿"):rep(floor(halves / 2)) .. ("⡇"):rep(halves % 2)
end

--- How many bars a histogram is to have, as users say it.
function plot.check_bins(bins)
  if bins == nil then return 10 end
  if type(bins) == "number" and bins % 1 == 0 and bins >= 1 and bins <= BINS_MAX then return bins end
  check.fail("results:histogram: the number of bars is a whole number from 1 to %d, not %s", BINS_MAX, check.show(bins))
end

--- results:histogram: prints how many of the numbers of an array, if there is one, lie in each of
--- so many ranges of the same width.
function plot.histogram(a, bins)
  local list, n = ffi.new "double[1]", 0
  if a then list, n = numbers("results", a) end
  local least, most = range(list, n, function(i) return is_finite(list[i]) end)
  if not least then return print(n == 0 and "(no results)" or ("(none of %d results is finite)"):format(n)) end
  if least == most then bins = 1 end
  local width, counts, skipped = most / 2 - least / 2, {}, 0
  for k = 1, bins do counts[k] = 0 end
  for i = 0, n - 1 do
    local x = list[i]
    if is_finite(x) then
      local k = width == 0 and 1 or math.min(bins, 1 + floor((x / 2 - least / 2) / width * bins))
      counts[k] = counts[k] + 1
    else
      skipped = skipped + 1
    end
  end

  local with_braille, from, to, lines = is_utf8(), {}, {}, {}
  local from_room, to_room, largest = 0, 0, 0
  for k = 1, bins do
    from[k] = shown(least + 2 * width * ((k - 1) / bins))
    to[k] = shown(k == bins and most or least + 2 * width * (k / bins))
    from_room, to_room, largest = math.max(from_room, #from[k]), math.max(to_room, #to[k]), math.max(largest, counts[k])
  end
  for k = 1, bins do
    local drawn = bar(counts[k], largest, with_braille)
    lines[k] = ("%s%s .. %s%s %s%d"):format((" "):rep(from_room - #from[k]), from[k], (" "):rep(to_room - #to[k]), to[k],
      drawn ~= "" and drawn .. " " or "", counts[k])
  end
  lines[#lines + 1] = left_out(skipped)
  print(table.concat(lines, "\n"))
end

return plot
