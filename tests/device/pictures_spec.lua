--- Pictures that the examples write: examples/lib/picture.lua, with libpng and without.

local ffi = require "ffi"
local lfs = require "lfs"
local shell = require "tests.cli.shell"
local support = require "tests.support"
local tidepool = require "tidepool"

local picture = dofile "examples/lib/picture.lua"

describe("an example's picture", function()
  it("is a PNG file with its pixels", function()
    local path, pixels = support.temp_path() .. ".png", tidepool.array("uint8", { 0, 50, 100, 150, 200, 255 })
    assert.equal(path, picture.write(path, 3, 2, 1, pixels))
    assert.equal("\137PNG\r\n\26\n", support.read_file(path):sub(1, 8))
    local read, width, height = picture.read(path)
    assert.same({ 3, 2 }, { width, height })
    assert.same(pixels:list(), read:list())
  end)

  it("is PGM or PPM where there is no libpng", function()
    local load = ffi.load
    ffi.load = function() error "no libpng" end -- luacheck: ignore
    local without = assert(loadstring((support.read_file "examples/lib/picture.lua":gsub("ffi.cdef %[%[.-%]%]", ""))))()
    ffi.load = load -- luacheck: ignore
    local path, pixels = support.temp_path(), tidepool.array("uint8", { 1, 2, 3, 4, 5, 6 })
    assert.equal(path .. ".pgm", without.write(path .. ".png", 3, 2, 1, pixels))
    assert.equal("P5 3 2 255\n\1\2\3\4\5\6", support.read_file(path .. ".pgm"))
    assert.equal(path .. ".ppm", without.write(path .. ".png", 2, 1, 3, pixels))
    assert.equal("P6 2 1 255\n\1\2\3\4\5\6", support.read_file(path .. ".ppm"))
    support.contains(select(2, pcall(without.read, path)), "apt install libpng16-16")
  end)

  it("that cannot be written says why", function()
    support.contains(select(2, pcall(picture.write, "/nonexistent/x.png", 1, 1, 1, tidepool.array("uint8", 1))), "/nonexistent/x.png: ")
    support.contains(select(2, pcall(picture.read, "/nonexistent/x.png")), "/nonexistent/x.png: ")
  end)

  it("can be another one's input", function()
    local root = lfs.currentdir()
    local done = shell.run(("$T run %s/examples/mandelbrot.lua --size 40 --iterations 20 --out a.png --device threads && " ..
      "$T run %s/examples/filter.lua --image a.png --radius 1 --out b.png --device threads"):format(root, root))
    assert.equal("", done.stderr)
    support.contains(done.stdout, "40 x 40 pixels, ", ": a.png\n", "40 x 40 pixels in ", " on threads; at most 0 from plain Lua: b.png\n")
    local _, width, height = picture.read(done.dir .. "/b.png")
    assert.same({ 40, 40 }, { width, height })
  end)
end)
