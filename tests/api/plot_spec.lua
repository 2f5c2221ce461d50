--- Charts, histograms and pictures: tidepool.plot, results:histogram, array:image.

local tidepool = require "tidepool"
local ffi = require "ffi"
local support = require "tests.support"

local contains, mistake = support.contains, support.mistake

--- What a call prints, as its lines.
local function printed(fn, ...)
  local lines, print_before = {}, _G.print
  _G.print = function(text) -- luacheck: ignore
    for line in (text .. "\n"):gmatch "([^\n]*)\n" do lines[#lines + 1] = line end
  end
  local fine, why = pcall(fn, ...)
  _G.print = print_before -- luacheck: ignore
  if not fine then error(why, 0) end
  return lines
end

local getenv = os.getenv

--- In an environment with this locale.
local function speak(locale)
  os.getenv = function(name) -- luacheck: ignore
    if name == "LC_ALL" then return locale end
    if name ~= "LC_CTYPE" and name ~= "LANG" then return getenv(name) end
  end
end

describe("tidepool.plot", function()
  before_each(function() speak "C" end)
  after_each(function() os.getenv = getenv end) -- luacheck: ignore

  it("draws a line through numbers, the highest above, the first on the left", function()
    local lines = printed(tidepool.plot, { 1, 2, 3, 4 })
    assert.equal(14, #lines)
    assert.truthy(lines[1]:find "^4 | +%*+$" and lines[12]:find "^1 |%*+$", lines[1] .. lines[12])
    assert.equal("  +" .. ("-"):rep(60), lines[13])
    assert.equal("   1" .. (" "):rep(58) .. "4", lines[14])
    local last = 100
    for i = 1, 12 do -- it rises: the first star of a line is left of that of the line above
      local at = assert(lines[i]:find("*", 1, true), lines[i])
      assert.is_true(at < last)
      last = at
    end
  end)

  it("shows each dot in braille where the environment says UTF-8", function()
    for _, locale in ipairs { "C.UTF-8", "de_DE.utf8" } do
      speak(locale)
      local lines = printed(tidepool.plot, { 0, 1 }, { 0, 1 })
      assert.equal("1 │" .. (" "):rep(55) .. "⢀⡠⠤⠒⠉", lines[1])
      assert.equal("  └" .. ("─"):rep(60), lines[13])
    end
    speak ""
    assert.equal("0 |", printed(tidepool.plot, { 0, 1 })[12]:sub(1, 3))
  end)

  it("draws points where xs do not rise, and takes lists, arrays and results", function()
    local app = tidepool.App "plot"
    local f = app:func(function(x) return x * x end)
    local xs = { 1, 2, 3, 0 }
    local lines = printed(tidepool.plot, xs, f:map(xs))
    local stars = 0
    for i = 1, 12 do stars = stars + select(2, lines[i]:gsub("%*", "")) end
    assert.equal(4, stars)
    assert.same(lines, printed(tidepool.plot, tidepool.array("float", xs), tidepool.array("int64", { 1, 4, 9, 0 })))
    assert.same(printed(tidepool.plot, { 1, 4, 9 }), printed(tidepool.plot, f:map { 1, 2, 3 }))
  end)

  it("leaves out what is not finite, and says so; and draws what is flat, huge, or not there", function()
    local lines = printed(tidepool.plot, { 1, 0 / 0, 2, 1 / 0, -1 / 0, 3 })
    assert.equal("(3 are left out: not finite)", lines[15])
    assert.truthy(lines[1]:find "^3 |" and lines[12]:find "^1 |")
    assert.same({ "(nothing to plot)" }, printed(tidepool.plot, {}))
    assert.same({ "(nothing to plot)", "(1 is left out: not finite)" }, printed(tidepool.plot, { 1 / 0 }))
    local flat = printed(tidepool.plot, { 5, 5 })
    assert.equal("5 |" .. ("*"):rep(60), flat[6])
    assert.equal("  |", flat[1])
    contains(printed(tidepool.plot, { -1.7e308, 1.7e308 })[1], " 1.7e+308 |")
  end)

  it("works in a worker, whose lines stay together", function()
    local out = support.output_of([[
      local tidepool = require "tidepool"
      local f = tidepool.App "w":func(function(x) tidepool.plot { x, x + 1 } end)
      f:for_each(tidepool.range(4))]], { setup = "export LC_ALL=C", flags = { "--log=tag" } })
    assert.equal(4 * 14, select(2, out:gsub("\n", "\n")))
  end)

  it("names what is no number", function()
    mistake(function() tidepool.plot(5) end, "tidepool.plot: ys: expected a list of numbers, an array or results, got 5")
    mistake(function() tidepool.plot { 1, "x" } end, 'tidepool.plot: ys: element 2 is the string "x", and no number')
    mistake(function() tidepool.plot({ n = 2, 1 }, { 1, 2 }) end, "tidepool.plot: xs: element 2 is nil, and no number")
    mistake(function() tidepool.plot({ 1 }, { 1, 2 }) end, "tidepool.plot: there are 1 xs, but 2 ys")
    mistake(function() tidepool.plot({ 1 }, { 1 }, 3) end, "tidepool.plot takes (xs, ys), but has got more: 3")
  end)
end)

describe("results:histogram", function()
  local app = tidepool.App "histogram"
  local f = app:func(function(x) return x end)

  before_each(function() speak "C" end)
  after_each(function() os.getenv = getenv end) -- luacheck: ignore

  it("counts the results in ranges of the same width", function()
    local lines = printed(function() f:map({ 0, 1, 1.5, 3.5, 4 }):histogram(4) end)
    assert.same({ "0 .. 1 #################### 1", "1 .. 2 ######################################## 2", "2 .. 3 0",
      "3 .. 4 ######################################## 2" }, lines)
    speak "C.UTF-8"
    lines = printed(function() f:map({ 1, 2, 2, 2 }):histogram(2) end)
    assert.same({ "  1 .. 1.5 " .. ("⣿"):rep(13) .. "⡇ 1", "1.5 ..   2 " .. ("⣿"):rep(40) .. " 3" }, lines)
  end)

  it("has ten bars, of any number of results and on every executor", function()
    for _, executor in ipairs { "inline", "threads", "processes" } do
      local lines = printed(function() f:with({ executor = executor }):map(tidepool.range(20000)):histogram() end)
      assert.equal(10, #lines)
      for _, line in ipairs(lines) do contains(line, " 2000") end
    end
    local whole = app:func { returns = "int64" } (function(x) return x end)
    assert.equal(3, #printed(function() whole:map(tidepool.range(9)):histogram(3) end))
  end)

  it("tells apart what is not finite, what is equal, and nothing", function()
    assert.same({ "7 .. 7 ######################################## 3", "(2 are left out: not finite)" },
      printed(function() f:map({ 7, 7, 0 / 0, 7, 1 / 0 }):histogram(5) end))
    assert.same({ "(no results)" }, printed(function() f:map({}):histogram() end))
    assert.same({ "(none of 1 results is finite)" }, printed(function() f:map({ 0 / 0 }):histogram() end))
  end)

  it("raises failures, and names what is no number", function()
    local bad = app:func(function(x) if x == 3 then error "three" end return x end)
    contains(tostring(support.failure_of(function() bad:map({ 1, 2, 3 }):histogram() end)), "three")
    mistake(function() f:map({ "a" }):histogram() end, 'results:histogram is of numbers, but result 1 is the string "a"')
    mistake(function() f:map({ 1 }):histogram(0) end, "results:histogram: the number of bars is a whole number from 1 to 200, not 0")
    mistake(function() f:map({ 1 }):histogram(1.5) end, "not 1.5")
    mistake(function() f.map({ 1 }) end, "f:map")
    support.check_pool()
  end)
end)

describe("array:image", function()
  --- The picture's size and its bytes, as libpng reads them.
  local function read(path)
    local picture = dofile "examples/lib/picture.lua"
    local pixels, width, height = picture.read(path)
    return width, height, pixels:list()
  end

  it("is a PNG file, from the least element, black, to the greatest, white", function()
    local path = support.temp_path() .. ".png"
    local m = tidepool.array("double", { { -1, 0, 1 }, { 0 / 0, 1 / 0, -0.5 } })
    assert.equal(m, m:image(path))
    local width, height, pixels = read(path)
    assert.same({ 3, 2 }, { width, height })
    assert.same({ 0, 128, 255, 0, 0, 64 }, { unpack(pixels, 1, 6) })
    tidepool.array("int64", { { 10, 20 } }):image(path)
    assert.same({ 0, 255 }, { unpack(select(3, read(path)), 1, 2) })
    tidepool.array("float", { { 5, 5 } }):image(path)
    assert.same({ 0, 0 }, { unpack(select(3, read(path)), 1, 2) })
    tidepool.array("uint8", { { 3, 200 } }):image(path)
    assert.same({ 3, 200 }, { unpack(select(3, read(path)), 1, 2) })
  end)

  it("says what is wrong", function()
    local m = tidepool.array("double", { { 1, 2 } })
    mistake(function() tidepool.array("double", 4):image "x.png" end, "array:image: the array has no rows: a:reshape(rows, columns) gives it some")
    mistake(function() m:image(5) end, "array:image: expected a path, got 5")
    mistake(function() m:image "a\0b" end, "a zero byte")
    mistake(function() m:image "/nonexistent/x.png" end, "array:image: /nonexistent/x.png: No such file or directory")
    mistake(function() m:image("a", "b") end, 'array:image takes a path, but has got more: the string "b"')
    mistake(function() m.image "a" end, "write array:image(path)")
  end)

  it("names the package where there is no libpng", function()
    local image, load = require "tidepool.image", ffi.load
    package.loaded["tidepool.image"] = nil
    ffi.load = function() error "no libpng" end -- luacheck: ignore
    local _, why = pcall(require("tidepool.image").write, tidepool.array("double", { { 1, 2 } }), "x.png")
    package.loaded["tidepool.image"], ffi.load = image, load -- luacheck: ignore
    contains(why, "array:image needs libpng (libpng16.so.16), which is not installed: on Debian, apt install libpng16-16")
  end)
end)
