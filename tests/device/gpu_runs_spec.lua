--- Elements that the lanes of a vector want when they are neighbours, and when they are not: at
--- borders, ends of rows, and in matrices that no vector fits in (not stock: the translation is the
--- same there).

local devices = require "tests.support_device"
local support = require "tests.support"
local tidepool = require "tidepool"
local translate = require "tidepool.translate.translate".translate

local contains, error_of = support.contains, support.error_of
local app = tidepool.App("runs", { gpu = true })

local on_device = devices.on_device(it, pending)

--- What the function gives there for the inputs is what it gives here, in both precisions. All is
--- whole, and small enough for floats.
local function same(fn, run, inputs, each)
  for precision, f in pairs(run) do
    local got, k = { f:map(unpack(inputs)):array() }, 0
    each(function(...)
      k = k + 1
      for i, value in ipairs { fn(...) } do
        local text = ("%s, result %d at input %d (%s): %.17g, not %.17g"):format(precision, i, k, table.concat({ ... }, ", "), got[i][k], value)
        assert(value == got[i][k], text)
      end
    end)
  end
end

--- The function on the device in both precisions.
local function on(fn)
  return { double = app:func(fn), single = app:func { precision = "single" } (fn) }
end

local function over(shape)
  return { shape }, function(look) for a, b, c in shape do look(a, b, c) end end
end

describe("Lanes that are neighbours in a grid", function()
  on_device("read what they read one by one beyond all borders", function()
    local m, bytes, floats, by, half = nil, nil, nil, 2, 0.5
    local function wrapped(y, x) return floats:at(y + 1, x - 3, "wrap") end
    local function fn(y, x)
      local a, b, c, d, right, up = 0, 0, 0, 0, x + 4, y - by
      for j = -2, 2 do
        local row = y + j
        for i = -3, 2 do
          local w = (j * 7 + i) * 0.5 * 2 + 20
          a, b, c = a + w * m:at(row, x + i, "clamp"), b + w * floats:at(j + y, i + x, "wrap"), c + w * bytes:at(row, right - i, -5)
        end
      end
      for i = -by, by do d = d + i * bytes:at(up, x + i, "clamp") + m:at(y, i, 3) - floats:at(i, x, "wrap") end
      if (x + y) % 3 == 0 then d = d * 2 + m:at(y + half + half, x - 1, "clamp") end
      return a, b, c, d, bytes:at(x, y, 7), m:at(y, x) + wrapped(y, x) + wrapped(x, y)
    end
    local run = on(fn)
    for _, size in ipairs { { 1, 1 }, { 1, 5 }, { 6, 1 }, { 7, 5 }, { 2, 15 }, { 3, 16 }, { 5, 17 }, { 3, 31 }, { 4, 100 } } do
      local shape = tidepool.grid(size[1], size[2])
      m, bytes, floats = tidepool.array("double", shape), tidepool.array("uint8", shape), tidepool.array("float", shape)
      for k = 1, #m do m[k], bytes[k], floats[k] = k * 7 % 101, k * 11 % 101, k * 13 % 101 end
      same(fn, run, over(shape))
    end
  end)

  on_device("read planes", function()
    local m
    local function fn(z, y, x)
      local s = 0
      for k = -1, 1 do
        s = s * 3 + m:at(z + k, y - k, x + k, "clamp") + m:at(z, y, x + k, "wrap") + m:at(k + z, y, x, 1) + m:at(1, y, x + 5, 0)
      end
      return s + m:at(z, y, x)
    end
    local run = on(fn)
    for _, size in ipairs { { 1, 1, 1 }, { 3, 2, 7 }, { 2, 3, 33 }, { 4, 1, 16 } } do
      local shape = tidepool.grid(unpack(size))
      m = tidepool.array("int16", shape)
      for k = 1, #m do m[k] = k * 7 % 101 - 50 end
      same(fn, run, over(shape))
    end
  end)

  on_device("name the first index that is wrong, where it is", function()
    local m = tidepool.array("double", tidepool.grid(40, 48)) -- no vector has the end of a row in it
    local half, far = 0.5, 1e300
    local which
    local f = app:func(function(y, x)
      local sum = 0
      if which == 1 then return m:at(y, x + (y == 3 and 1 or 0))
      elseif which == 2 then return m:at(y + 1, x * 1)
      elseif which == 3 then
        for k = 1, 60 do sum = sum + m:at(y - 1, k) + m:at(k, x) end
      elseif which == 4 then
        for k = 1, 60 do sum = sum + m:at(y, k) end
      elseif which == 5 then return m:at(y, x + half)
      elseif which == 6 then return m:at(y + half, x, "clamp")
      elseif which == 7 then return m:at(y, x + far)
      elseif which == 8 then return m:at(y, x + far * 0 / 0, 1)
      else return m:at(y, x + far, 7) end
      return sum
    end)
    local texts = { "there is no column 49 in", "there is no row 41 in", "there is no row 0 in", "there is no column 49 in",
      "there is no column 1.5 in", "row 1.5 is not a whole number", "there is no column 1e+300", "column nan is not a whole number" }
    for k, text in ipairs(texts) do
      which = k
      contains(error_of(function() f:map(tidepool.grid(40, 48)):array() end), "gpu_runs_spec.lua:", "array:at: ", text)
    end
    which = 9
    assert.equal(7, f:map(tidepool.grid(40, 48)):array():at(3, 4))
  end)
end)

describe("A place of a grid", function()
  on_device("reads the same in any number of lanes, and in one", function()
    local device, m = tidepool.gpu.device(), tidepool.array("float", tidepool.grid(2, 5, 9))
    for k = 1, #m do m[k] = k * 7 % 101 end
    local function fn(y, x)
      local s = 0
      for z = 1, 2 do
        for i = -3, 3 do
          s = s + (i + 10) * m:at(z, y + i, x - i, "clamp") + m:at(z - i, y, x + i, "wrap") * 3 + m:at(z, x + i, y, -4) - m:at(z, 5, 9)
        end
      end
      return s + m:at(1, y, x)
    end
    local shape = tidepool.grid(5, 9)
    for _, lanes in ipairs { 1, 4 } do
      local made = translate(fn, { lanes = lanes, inputs = { "row", "column" } })
      local results, args = device:buffer("double", shape.n), {}
      local plain = { first = 0, count = shape.n, index = 0, output = results, failed = device:buffer("uint8", shape.n) }
      for i, argument in ipairs(made.arguments) do
        local value = argument.shape and shape[argument.shape] or plain[argument.kind] or argument.read()
        args[i] = argument.kind == "array" and device:buffer(value) or value
      end
      device:kernel(made.source)({ math.ceil(shape.n / lanes) }, unpack(args))
      local got, k = results:read(), 0
      for y, x in shape do
        k = k + 1
        assert(got[k] == fn(y, x), ("%d lanes: %.17g at %d, %d, not %.17g"):format(lanes, got[k], y, x, fn(y, x)))
      end
    end
  end)
end)

describe("Lanes whose numbers are neighbours", function()
  on_device("read what they read one by one", function()
    local a, m, by = tidepool.array("double", 300), tidepool.array("float", tidepool.grid(10, 30)), 3
    for k = 1, 300 do a[k], m[k] = k * 7 % 101, k * 11 % 101 end
    local function fn(y, x)
      local left, sum = x - 1, 0
      for i = -1, 1 do sum = sum * 3 + a[x + i] + a[i + 2 + x] + m:at(y, x + i, "clamp") end
      return sum + a[left] + a[x + by] + a[y] * a[x * 2], m:at(y - by, x, -9), m:at(x, y, "wrap")
    end
    local run = { double = app:func(fn) }
    local ys, xs = {}, {}
    local function add(y, x) ys[#ys + 1], xs[#xs + 1] = y, x end
    for y = 1, 10 do for x = 2, 140 do add(y, x) end end
    for x = 140, 2, -1 do add(3, x) end
    for k = 1, 200 do add(k * 7 % 10 + 1, k * 13 % 130 + 2) end
    for _ = 1, 40 do add(4, 9) end
    same(fn, run, { ys, xs }, function(look) for k, y in ipairs(ys) do look(y, xs[k]) end end)
  end)

  on_device("fail where there is no such element", function()
    local a = tidepool.array("double", 100)
    local f = app:func(function(x) return a[x + 1] end)
    local function list(first, n, step)
      local xs = {}
      for k = 1, n do xs[k] = first + (k - 1) * (step or 1) end
      return xs
    end
    for text, xs in pairs {
      ["index 101 of 'a' is out of range"] = list(1, 100), ["index 0 of 'a' is out of range"] = list(-1, 64),
      ["index 1.25 of 'a' is not a whole number"] = list(0.25, 64), ["index nan of 'a'"] = list(0 / 0, 64),
      ["index inf of 'a'"] = list(1 / 0, 64), ["index 9.007"] = list(2 ^ 53, 64), ["index 1e+300 of 'a'"] = list(1e300, 64),
    } do contains(error_of(function() f:map(xs):list() end), text) end
  end)
end)
