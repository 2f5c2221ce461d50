--- Assignments to elements that depend on the element: atomic on a device, however they are
--- written, with what they mean on threads.

local devices = require "tests.support_device"
local tidepool = require "tidepool"

local on_device = devices.on_device(it, pending)
local app = tidepool.App()
local COUNT = 10000

--- Maps over 1 to COUNT on a device.
local function run(f) app:func { gpu = true } (f):for_each(tidepool.range(COUNT)) end

describe("An update of an element on a device", function()
  on_device("loses nothing, whatever it looks like", function()
    local a = {}
    for k = 1, 11 do a[k] = tidepool.array("double", 2) end
    local a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11 = unpack(a)
    local other, inc = a5, function(v) return v + 1 end
    local function get(k) return a7[k] end
    local function bump(array, k) array[k] = array[k] + 1 end
    run(function(i)
      local k = i % 2 + 1
      local j = k
      local name = a4
      a1[1 + i % 2] = a1[i % 2 + 1] + 1
      a2[k] = 1 + a2[j]
      a3[1 + (1 + i) % 2] = a3[(i + 1) % 2 + 1] + 1
      name[k] = a4[k] + 1
      a5[k] = other[k] + 1
      a7[k] = get(k) + 1
      bump(a8, k)
      local old = a9[k]
      local half = k / 2
      a9[k] = old + half * 2 / k
      local now = a10[j] + 1
      a10[k] = now
      a11:add(k, 1)
    end)
    run(function(i) a6[i % 2 + 1] = inc(a6[i % 2 + 1]) end) -- not in vectors, which lose most
    for k, array in ipairs(a) do assert.same({ k, COUNT / 2, COUNT / 2 }, { k, array[1], array[2] }) end
  end)

  on_device("loses nothing where tables are among its other operands", function()
    local a = {}
    for k = 1, 5 do a[k] = tidepool.array("int32", 2) end
    local a1, a2, a3, a4, a5 = unpack(a)
    local function ones(n)
      local list = {}
      for i = 1, n do list[#list + 1] = i end
      return #list - n + 1
    end
    local function one() return 1 end
    run(function(i)
      local k, places, t = i % 2 + 1, { i % 2 + 1, 1 }, { one = 1 }
      local f = one
      if i > 5 then f = math.abs end
      a1[k] = a1[k] + ones(i % 4)
      a2[k] = f(1) + a2[k] * t.one
      for j = 1, 1 do a3[places[j]] = a3[places[j]] + 1 end
      a4[places[1]] = math.max(a4[k] + (places[3] or 1), a4[places[1]] + ones(2))
      a5[k] = t.one + a5[k] + f(-1) * 0
    end)
    for k = 1, 5 do assert.same({ k, COUNT / 2, COUNT / 2 }, { k, a[k][1], a[k][2] }) end
    local fine, why = pcall(run, function(i)
      local function other() local t = { i } a2[1] = t[1] return t[1] end
      a1[1] = a1[1] + other()
    end)
    assert.is_false(fine)
    assert.matches("an update of 'a1' by a function that changes something else", tostring(why), 1, true)
  end)

  on_device("takes what it reads before, where something was assigned in between", function()
    local a, b = tidepool.array("double", { 5, 7 }), tidepool.array("double", { 5, 7 })
    local function swap(array)
      return function(i)
        local t = array[1]
        array[1] = array[2]
        array[2] = t
        local k = 1
        local j = k
        k = k + 1
        array[k] = array[j] + i
      end
    end
    app:func { gpu = true } (swap(a)):for_each { 1 }
    swap(b)(1)
    assert.same(b:list(), a:list())
  end)

  on_device("may have calls for its other operands, with all that they give", function()
    local a, b, c = tidepool.array("double", 3), tidepool.array("double", 3), tidepool.array("int32", 3)
    local function update(x, y, z)
      return function(i)
        local k = i % 3 + 1
        x[k] = math.max(x[k], math.sqrt(i))
        y[k] = math.max(math.abs(i) - COUNT, y[k], math.frexp(i)) -- two numbers
        z[k] = bit.bor(z[k], math.floor(i / 3))
      end
    end
    run(update(a, b, c))
    local x, y, z = tidepool.array("double", 3), tidepool.array("double", 3), tidepool.array("int32", 3)
    for i = 1, COUNT do update(x, y, z)(i) end
    assert.same({ x:list(), y:list(), z:list() }, { a:list(), b:list(), c:list() })
  end)

  on_device("draws random numbers as often as it does on threads", function()
    local drawn = {}
    for _, executor in ipairs { "threads", "device" } do
      local a = tidepool.array("double", 8)
      local function roll() return math.random(8) end
      local f = app:func(executor == "device" and { gpu = true } or {}) (function()
        a[math.random(8)] = a[math.random(8)] + math.random(5)
        a[roll()] = a[roll()] + 1
        a[1] = a[1] > 0 and a[1] + math.random(9) or math.random(9)
        return math.random(1000)
      end)
      math.randomseed(7)
      drawn[executor] = { f:map({ 1, 2, 3, 4, 5, 6 }, { window = 1 }):list(), a:list() }
    end
    assert.same(drawn.threads[1], drawn.device[1])
    drawn = drawn.device[2]
    assert.is_true(drawn[1] > 0)
  end)

  on_device("is refused where doing it once more would do something else once more", function()
    local a, b = tidepool.array("double", 2), tidepool.array("double", 2)
    local function inc(v)
      b[1] = b[1] + 1
      return v + 1
    end
    local fine, why = pcall(run, function(i) a[i % 2 + 1] = inc(a[i % 2 + 1]) end)
    assert.is_false(fine)
    assert.truthy(tostring(why):find("an update of 'a' by a function that changes something else", 1, true), tostring(why))
  end)
end)

describe("a:set on a device", function()
  local SHAPES = { { rows = 3, columns = 4 }, { planes = 2, rows = 3, columns = 4 } }

  --- What elements of matrices are after these inputs, and what failed.
  local function results(options, inputs)
    local m, bytes = tidepool.array("double", SHAPES[1]), tidepool.array("int16", SHAPES[2])
    local f = app:func(options) (function(i)
      m:set(i, 1, 0.5 * i)
      bytes:set(i % 2 + 1, 3, i, 70000 * i)
      if i > 2 then m:set(2, i / 2, i) end
      m:set(1, 1, 7)
      return i
    end)
    local list = {}
    for _, r in f:map(inputs, { return_exceptions = true }) do list[#list + 1] = type(r) == "number" and r or r.message:match "array:.*columns" end
    for _, a in ipairs { m, bytes } do
      for i = 1, #a do list[#list + 1] = a[i] end
    end
    return list
  end

  on_device("writes the element that it writes on threads, or fails as there", function()
    local inputs = { 1, 2, 3, 4, 0, -1, 1.5, 0 / 0, 1 / 0, 1e20 }
    local want = results({}, inputs)
    assert.equal("array:set: there is no column 1.5 in 3 rows of 4 columns", want[3])
    assert.same(want, results({ gpu = true }, inputs))
  end)

  on_device("loses nothing when it is an update", function()
    local m, planes = tidepool.array("double", SHAPES[1]), tidepool.array("int32", SHAPES[2])
    run(function(i)
      local y, x = i % 2 + 1, i % 4 + 1
      m:set(y, x, m:at(y, x) + 1)
      planes:set(2, y, 1, 1 + planes:at(2, y, 1))
    end)
    local sum = 0
    for i = 1, #m do sum = sum + m[i] end
    assert.same({ COUNT, COUNT / 4, COUNT / 2 }, { sum, m:at(1, 1), planes:at(2, 2, 1) })
  end)
end)

describe("a:add, a:max and a:min on a device", function()
  local VALUES = { 0, -0.0, 1, -1, 255, 2 ^ 31 - 1, 2 ^ 31, 2 ^ 31 + 5, -2 ^ 31, -2 ^ 31 - 1, 2 ^ 32 - 1, 2 ^ 32 + 5, 2 ^ 53, 2 ^ 62,
    2 ^ 63 - 1024, 2 ^ 63, 1e20, -1e20, 1 / 0, -1 / 0, 0 / 0, 1.5, -0.5, 2 ^ 31 - 0.5, 5e-324 }

  --- What the elements are after each value was given to each method once, and what failed.
  local function results(ctype, options)
    local n = #VALUES
    local values = tidepool.array("double", VALUES)
    local sums, most, least = tidepool.array(ctype, n, 10), tidepool.array(ctype, n, 10), tidepool.array(ctype, n, 10)
    local f = app:func(options) (function(i)
      local v = values[i]
      sums:add(i, v)
      sums:add(i, 2147483647)
      most:max(i, v)
      least:min(i, v * 2 - v)
    end)
    local failures = {}
    for i, r in f:map(tidepool.range(n), { return_exceptions = true }) do
      failures[i] = r and tostring(r.message):match "array:.-got %S+" or "none"
    end
    local list = {}
    for i = 1, n do list[i] = ("%s %s %s %s"):format(tostring(sums[i]), tostring(most[i]), tostring(least[i]), failures[i]) end
    return list
  end

  on_device("do what they do on threads, for all types and values", function()
    for _, ctype in ipairs { "int32", "uint32", "int64", "uint64", "float", "double" } do
      local want = results(ctype, {})
      assert.equal(ctype == "int32" and "array:add: elements of type int32 take whole numbers, got 1.5" or nil, ctype == "int32"
        and want[22]:match "array.*" or nil)
      assert.same(want, results(ctype, { gpu = true }), ctype)
    end
  end)
end)
