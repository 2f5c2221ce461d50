--- Images and samplers of devices driven by hand: device:image, and kernels that take them; in the
-- script, in workers, and on devices that are another one (tests/opencl/faults.c).

local devices = require "tests.support_device"
local shell = require "tests.cli.shell"
local support = require "tests.support"
local tidepool = require "tidepool"

local contains, mistake, run = support.contains, support.mistake, shell.run
local on_device, on_pocl = devices.on_device(it, pending), devices.on_pocl(it, pending)
local device = #devices.list > 0 and tidepool.gpu.device()

describe("an image", function()
  on_device("has the elements of a list or an array, or zeros, and gives them back", function()
    local grey = device:image("uint8", { columns = 3, rows = 2 }, { 1, 2, 3, 4, 5, 255 })
    assert.equal("tidepool.Image: 2 x 3 of 1 uint8 on " .. device.name, tostring(grey))
    local got = grey:read()
    assert.same({ 2, 3, 255 }, { got.rows, got.columns, got:at(2, 3) })
    local into = tidepool.array("uint8", 6)
    assert.is_true(rawequal(into, grey:write({ 9, 8, 7, 6, 5, 4 }):read(into)))
    assert.same({ 9, 8, 7, 6, 5, 4, n = 6 }, into:list())
    local colours = device:image("unsigned char", { columns = 2, rows = 2, channels = 4, normalized = true })
    got = colours:read()
    assert.same({ 2, 8, 0 }, { got.rows, got.columns, got:sum() })
    local line = device:image("float", { columns = 4 }, tidepool.array("float", { 1, 2, 3, 4 }):slice(1, 4))
    assert.same({ 1, 2, 3, 4, n = 4 }, line:read():list())
    local deep = device:image("int16", { columns = 2, rows = 2, planes = 2, channels = 4 }, tidepool.array("int16", 32, -7))
    assert.equal(-7, deep:read():at(2, 2, 8))
    assert.same({ 32, 32, 4, 2, 2, 2 }, { #deep, deep.length, deep.channels, deep.columns, deep.rows, deep.planes })
    assert.equal(32, tidepool.App "deep":func(function(x) return #x end):remote(deep))
  end)

  on_device("is read by kernels, by samplers of theirs or of the call, and is written by them", function()
    local n = 4
    local picture = device:image("float", { columns = n, rows = n, channels = 1 })
    local back, out = device:image("float", { columns = n, rows = n }), device:buffer("float", 8)
    local list = {}
    for y = 0, n - 1 do
      for x = 0, n - 1 do list[#list + 1] = 10 * y + x end
    end
    picture:write(list)
    local turn = device:kernel [[
      __constant sampler_t plain = CLK_NORMALIZED_COORDS_FALSE | CLK_ADDRESS_CLAMP_TO_EDGE | CLK_FILTER_NEAREST;
      __kernel void turn(__read_only image2d_t from, write_only image2d_t to) {
        int2 at = (int2)(get_global_id(0), get_global_id(1));
        write_imagef(to, at.yx, read_imagef(from, plain, at + (int2)(1, 0)));
      }]]
    assert.equal("tidepool.Kernel: turn(image2d_t from, image2d_t to)", tostring(turn))
    turn({ n, n }, picture, back)
    local turned = back:read()
    assert.same({ 1, 3, 3, 11, 33 }, { turned:at(1, 1), turned:at(3, 1), turned:at(4, 1), turned:at(1, 2), turned:at(4, 4) })
    local probe = device:kernel [[
      __kernel void probe(read_only image2d_t from, sampler_t by, float x, float y, __global float *out, int i) {
        out[i] = read_imagef(from, by, (float2)(x, y)).x;
      }]]
    for i, each in ipairs {
      { {}, 1.7, 2.2 }, { { filter = "linear" }, 1, 1 }, { { address = "clamp" }, -3, 0 }, { { address = "edge" }, -3, 9 },
      { { normalized = true, address = "wrap" }, 1.3, 0.1 }, { { normalized = true, address = "mirror" }, 1.1, 0.1 },
    } do
      probe(1, picture, each[1], each[2], each[3], out, i - 1)
    end
    assert.same({ 21, 5.5, 0, 30, 1, 3, 0, 0, n = 8 }, out:read():list())
  end)

  on_device("of integers is seen as such, or normalized as numbers up to 1", function()
    local sum = device:kernel [[
      __kernel void sum(read_only image2d_t whole, read_only image2d_t part, read_only image3d_t deep, read_only image1d_t line,
                        __global float *out) {
        const sampler_t s = CLK_FILTER_NEAREST;
        out[0] = read_imageui(whole, s, (int2)(1, 0)).w;
        out[1] = read_imagef(part, s, (int2)(0, 0)).x;
        out[2] = read_imagei(deep, s, (int4)(0, 1, 1, 0)).y;
        out[3] = read_imagef(line, s, 2).x;
      }]]
    local out = device:buffer("float", 4)
    sum(1, device:image("uint8", { columns = 2, rows = 1, channels = 4 }, { 1, 2, 3, 4, 5, 6, 7, 200 }),
      device:image("uint8", { columns = 1, rows = 1, channels = 4, normalized = true }, { 255, 0, 0, 0 }),
      device:image("int32", { columns = 1, rows = 2, planes = 2, channels = 4 },
        { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, -14, 15, 16 }),
      device:image("float", { columns = 3, channels = 4 }, { 0, 0, 0, 0, 0, 0, 0, 0, 2.5, 0, 0, 0 }), out)
    assert.same({ 200, 1, -14, 2.5, n = 4 }, out:read():list())
  end)

  on_device("may be captured by functions on threads, which share it", function()
    local picture = device:image("float", { columns = 2, rows = 1 }, { 1, 2 })
    local pick = device:kernel [[
      __kernel void pick(read_only image2d_t from, sampler_t by, int x, __global float *out) {
        out[0] = read_imagef(from, by, (int2)(x, 0)).x;
      }]]
    local f = tidepool.App("images"):func { executor = "threads" } (function(x)
      local out = picture.device:buffer("float", 1)
      pick(1, picture, { address = "clamp" }, x, out)
      return out:read()[1] + picture:read()[1]
    end)
    for _ = 1, 10 do assert.same({ 2, 3, n = 2 }, f:map({ 0, 1 }):list()) end
  end)

  on_device("that is not right is one clear error at the user's line", function()
    local picture, b = device:image("float", { columns = 2, rows = 2 }), device:buffer("float", 4)
    local k = device:kernel "__kernel void k(read_only image2d_t a, sampler_t s, __global float *b) { b[0] = read_imagef(a, s, (int2)0).x; }"
    local function complains(text, f) mistake(f, text) end
    complains("device:image: images have elements of float and of integers of up to 32 bits, not of double",
      function() device:image("double", { columns = 1 }) end)
    complains("device:image: unknown element type", function() device:image("flaot", { columns = 1 }) end)
    complains("device:image: expected what it is like, as in { columns = 640", function() device:image("float", 640, 480) end)
    complains("device:image: an image has no 'colums' (did you mean 'columns'?)", function() device:image("float", { colums = 1 }) end)
    complains("device:image: an image has no 1", function() device:image("float", { 640, 480 }) end)
    complains("'columns' must be a whole number of at least 1, got nil", function() device:image("float", { rows = 1 }) end)
    complains("'rows' must be a whole number of at least 1, got 1.5", function() device:image("float", { columns = 1, rows = 1.5 }) end)
    complains("an image with planes has rows, too", function() device:image("float", { columns = 1, planes = 2 }) end)
    complains("'channels' must be 1, 2 or 4, got 3", function() device:image("float", { columns = 1, rows = 1, channels = 3 }) end)
    complains("integers of 8 and 16 bits may be normalized, not int32", function() device:image("int", { columns = 1, normalized = true }) end)
    complains("expected 4 elements of float, got 3 of float", function() picture:write { 1, 2, 3 } end)
    complains("image:read: expected 4 elements of float, got 4 of double", function() picture:read(tidepool.array("double", 4)) end)
    complains("image:read", function() picture.read() end)
    complains("argument 1 (image2d_t a) takes an image of 2 dimensions, got a buffer of float", function() k(1, b, {}, b) end)
    complains("takes an image of 2 dimensions, got one of 1", function() k(1, device:image("float", { columns = 1 }), {}, b) end)
    complains('argument 2 (sampler_t s) takes how to read, as in { filter = "linear"', function() k(1, picture, 7, b) end)
    complains("has filter, address and normalized, not 'filtre'", function() k(1, picture, { filtre = "linear" }, b) end)
    complains('may have filter = "nearest" or "linear", got the string "cubic"', function() k(1, picture, { filter = "cubic" }, b) end)
    complains('may have address = "none", "edge", "clamp", "wrap", "mirror", got', function() k(1, picture, { address = "repeat" }, b) end)
    complains('has address = "wrap" only with normalized = true', function() k(1, picture, { address = "wrap" }, b) end)
    complains("argument 3 (__global float *b) takes a buffer, got an image", function() k(1, picture, {}, picture) end)
    contains(tostring(select(2, pcall(device.image, device, "float", { columns = 999999, rows = 2 }))), "images of 999999 x 2 x 1: that is too large")
    local fine, why = pcall(device.image, device, "float", { columns = 4, rows = 2, channels = 2 }) -- which PoCL 3 does not have
    assert(fine or tostring(why):find("has no images with 2 channels of that type; four channels are what all devices have", 1, true), why)
    k(1, picture, {}, b)
    assert.equal(0, b:read()[1])
  end)

  for how, environment in pairs { ["with memory of its own"] = "FAULTS_COPIES=1 ", ["whose compiler keeps no names"] = "FAULTS_NAMELESS=1 " } do
    on_pocl("is the same on a device " .. how, function()
      local done = run(("TIDEPOOL_OPENCL=%s %s $T job.lua"):format(devices.faults(), environment), { ["job.lua"] = [[
        local tidepool = require "tidepool"
        local d = tidepool.gpu.device "cpu"
        local picture, out = d:image("uint8", { columns = 2, rows = 2, channels = 4 }, tidepool.array("uint8", 16, 7)), d:buffer("uint32", 4)
        local k = d:kernel("__kernel void k(__read_only image2d_t a, sampler_t s, write_only image2d_t c, __global uint *b) {\n" ..
          "int2 at = (int2)(get_global_id(0), get_global_id(1)); uint4 v = read_imageui(a, s, at);\n" ..
          "b[at.y * 2 + at.x] = v.x + at.x; write_imageui(c, at, v + (uint4)1); }")
        local other = d:image("uint8", { columns = 2, rows = 2, channels = 4 })
        k({ 2, 2 }, picture, { address = "clamp" }, other, out)
        print(table.concat(out:read():list(), " "), other:read():sum(), k)
      ]] })
      assert.same({ stderr = "", stdout = "7 8 7 8\t128\ttidepool.Kernel: k(image2d_t a, sampler_t s, image2d_t c, __global uint *b)\n" },
        { stderr = done.stderr, stdout = (done.stdout:gsub("unsigned int", "uint")) })
    end)
  end

  on_pocl("of a device that has lost it says so, and goes on with new ones", function()
    local done = run(("TIDEPOOL_OPENCL=%s FAULTS_COPIES=1 $T job.lua"):format(devices.faults()), { ["job.lua"] = [[
      local tidepool = require "tidepool"
      local ffi = require "ffi"
      ffi.cdef "void faults_kill_all(void);"
      local faults = ffi.load(os.getenv "TIDEPOOL_OPENCL")
      local d = tidepool.gpu.device "cpu"
      local picture = d:image("float", { columns = 2, rows = 2 })
      faults.faults_kill_all()
      pcall(function() d:buffer("float", 4):read() end)
      local _, failure = pcall(picture.read, picture)
      print(failure.kind, failure.message:match "has lost the buffer")
      print(d:image("float", { columns = 2, rows = 2 }, { 1, 2, 3, 4 }):read():sum())
    ]] })
    assert.same({ stderr = "", stdout = "device\thas lost the buffer\n10\n" }, { stderr = done.stderr, stdout = done.stdout })
  end)
end)
