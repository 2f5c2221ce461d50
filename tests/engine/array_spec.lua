-- Typed arrays: numbers in memory that all workers share.

local ffi = require "ffi"
local support = require "tests.support"
local tidepool = require "tidepool"

--- The error of fn must have this line of this file in front, and all the texts.
local function mistake(fn, ...)
  local ok, err = pcall(fn)
  assert.is_false(ok)
  err = tostring(err)
  assert.matches("array_spec%.lua:%d+: ", err)
  for _, text in ipairs { ... } do assert.is_truthy(err:find(text, 1, true), err) end
end

describe("A typed array", function()
  it("is made of a count or of a list, for each element type", function()
    for _, ctype in ipairs { "double", "float", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64" } do
      local zeros, numbers = tidepool.array(ctype, 3), tidepool.array(ctype, { 1, 2, 3 })
      assert.equal(3, #zeros)
      assert.equal(ctype, zeros.ctype)
      assert.equal(0, tonumber(zeros[3]))
      assert.equal(2, tonumber(numbers[2]))
      numbers[2] = 7
      assert.equal(7, tonumber(numbers[2]))
    end
    assert.equal(0, #tidepool.array("double", 0))
    assert.equal(0, #tidepool.array("double", {}))
  end)

  it("starts with zeros also where memory is used again", function()
    for _ = 1, 20 do
      local a = tidepool.array("double", 5000)
      for i = 1, 5000 do assert(a[i] == 0) end
      a:fill(7)
      a = nil -- luacheck: ignore
      collectgarbage()
    end
  end)

  it("checks its bounds", function()
    local a = tidepool.array("double", 10)
    mistake(function() return a[0] end, "array index 0 is out of range", "10 elements")
    mistake(function() return a[11] end, "array index 11")
    mistake(function() return a[-1] end, "array index -1")
    mistake(function() return a[0 / 0] end, "out of range")
    mistake(function() return a[1.5] end, "array index 1.5 is not a whole number", "10 elements")
    mistake(function() a[9.5] = 1 end, "array index 9.5 is not a whole number", "10 elements")
    mistake(function() a[11] = 1 end, "array index 11")
    mistake(function() a.x = 1 end, "an array has no field 'x' that could be set")
    mistake(function() a[1] = "one" end, "array element 1 must be a number", "one")
    mistake(function() return a:slice(2, 11) end, "slice", "1 to 10")
    local one = tidepool.array("double", 1)
    mistake(function() return one[2] end, "1 element")
  end)

  it("has views in the same memory, copies in other, and is filled", function()
    local a = tidepool.array("int32", { 1, 2, 3, 4, 5 })
    local middle, copy = a:slice(2, 4), a:copy()
    assert.same({ 2, 3, 4, n = 3 }, middle:list())
    middle[1] = 20
    assert.equal(20, a[2])
    assert.equal(2, copy[2])
    assert.same({ 9, 9, 9, n = 3 }, middle:fill(9):list())
    assert.same({ 1, 9, 9, 9, 5, n = 5 }, a:list())
    assert.same({ 9, 5, n = 2 }, a:slice(4):list())
    assert.equal(0, #a:slice(3, 2))
    assert.equal(5, a.data[4])
    a = nil -- luacheck: ignore
    collectgarbage()
    assert.equal(9, middle[1]) -- a view keeps the memory
  end)

  it("goes when nobody holds it, for which the collector is run the less often the larger Lua's heap is", function()
    local function count_collections(run)
      local count, is_done = 0, false
      local function watch()
        local one = newproxy(true)
        getmetatable(one).__gc = function()
          count = count + 1
          if not is_done then watch() end
        end
      end
      collectgarbage()
      watch()
      run()
      is_done = true
      return count
    end
    local core = require "tidepool.core"
    local function drop_two_gigabytes()
      local before, most = core.array.bytes(), 0
      for _ = 1, 128 do
        tidepool.array("double", 2 ^ 21)
        most = math.max(most, core.array.bytes() - before)
      end
      return most
    end
    local few
    assert(count_collections(function() few = drop_two_gigabytes() end) >= 4)
    assert(few <= 2 ^ 29, few)
    local heap = {}
    for i = 1, 100 do heap[i] = ("x"):rep(1000000) .. i end
    local collections = count_collections(drop_two_gigabytes)
    assert(collections <= 4, collections)
    assert.equal(100, #heap)
  end)

  it("gives a NaN that is safe in Lua, whatever bits the memory has", function()
    local a = tidepool.array("double", 2)
    ffi.cast("uint64_t *", a.data)[0] = 0xfffc000000000000ULL
    assert.equal("number", type(a[1]))
    assert.is_true(a[1] ~= a[1])
    local app = tidepool.App "nan"
    local kind = app:func(function(x) return type(x), x ~= x end)
    for i, name, is_nan in kind:map(a) do
      assert.equal("number", name)
      assert.equal(i == 1, is_nan)
    end
    local same = app:func(function(x) return x end)
    local list = same:map(a):list()
    assert.is_true(list[1] ~= list[1])
  end)

  it("says what is wrong with its arguments", function()
    mistake(function() tidepool.array("duble", 3) end, "duble", 'did you mean "double"')
    mistake(function() tidepool.array("double", -1) end, "at least 0")
    mistake(function() tidepool.array("double", 1.5) end, "integer")
    mistake(function() tidepool.array("double", { 1, "x" }) end, "element 2", "not a number")
    mistake(function() tidepool.array("double") end, "tidepool.array")
    mistake(function() tidepool.array("double", 2 ^ 44) end, "not enough memory")
  end)

  it("may come with every input, whole and in views, more of them than are remembered", function()
    local app = tidepool.App "arrays"
    local at = app:func(function(a, i) return a[i], #a, a.ctype end)
    local arrays = {}
    for i = 1, 20 do
      arrays[i] = tidepool.array(i % 2 == 0 and "double" or "int32", 10)
      for k = 1, 10 do arrays[i][k] = 100 * i + k end
    end
    local items = {}
    for i = 1, 400 do
      local a = arrays[i % 20 + 1]
      items[i] = { i % 3 == 0 and a:slice(3, 5 + i % 4) or a, 2 }
    end
    for _ = 1, 2 do
      for i, x, n, ctype in at:starmap(items) do
        assert.same({ items[i][1][2], #items[i][1], items[i][1].ctype }, { x, n, ctype })
      end
      collectgarbage()
    end
    local one = arrays[3]
    local write = app:func(function(a, i) a[i] = -i end)
    write:for_each((function()
      local i = 0
      return function() i = i + 1 if i == 1 then return one end end
    end)(), { 4 })
    assert.equal(-4, one[4])
    for i, x in app:func(function(a) return a end):map({ one, one, 1 }) do
      if i < 3 then assert.equal(-4, x[4]) end
    end
  end)

  it("is freed when nobody holds it", function()
    local output = support.output_of [[
      local tidepool = require "tidepool"
      for _ = 1, 300 do tidepool.array("double", 2 ^ 20):fill(1) end -- 2.4 GB in all
      print(tonumber(io.open "/proc/self/status":read "*a":match "VmHWM:%s*(%d+)") < 700 * 1024)
    ]]
    assert.equal(support.sanitized and output or "true\n", output)
  end)
end)

describe("An array's elements", function()
  local types = { "double", "float", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64" }

  it("are gone through by each and by ipairs", function()
    for _, name in ipairs(types) do
      for _, each in ipairs { function(a) return a:each() end, ipairs, pairs } do
        local seen = {}
        for i, x in each(tidepool.array(name, { 3, 1, 2 })) do seen[#seen + 1] = i .. ":" .. tonumber(x) end
        assert.equal("1:3 2:1 3:2", table.concat(seen, " "))
      end
    end
    for _ in tidepool.array("double", 0):each() do error "there is none" end
    local a = tidepool.array("double", 1)
    ffi.cast("uint64_t *", a.data)[0] = 0xfffc000000000000ULL
    for _, x in a:each() do assert.equal("number", type(x)) end
  end)

  it("have a sum, a mean, a least and a greatest one, as results have", function()
    for _, name in ipairs(types) do
      local a = tidepool.array(name, { 3, 1, 9, 2, 1, 9 })
      assert.equal(25, tonumber(a:sum()))
      assert.equal(25 / 6, a:mean())
      assert.equal(1, tonumber(a:min()))
      assert.equal(9, tonumber(a:max()))
      assert.equal(2, a:argmin())
      assert.equal(3, a:argmax())
      local none = tidepool.array(name, 0)
      assert.equal(0, tonumber(none:sum()))
      assert.is_nil(none:mean())
      assert.is_nil(none:min() or none:max() or none:argmin() or none:argmax())
    end
    local app = tidepool.App "same"
    local f = app:func { returns = "double", executor = "inline" } (function(x) return x / 3 end)
    local thirds = f:map(tidepool.range(50003)):array()
    assert.equal(f:map(tidepool.range(50003)):sum(), thirds:sum())
    assert.equal(f:map(tidepool.range(50003)):mean(), thirds:mean())
  end)

  it("of 64 bits stay what they are", function()
    local a = tidepool.array("int64", { 2 ^ 53, 1, -2 ^ 62 })
    assert.equal("-4602678819172646911LL", tostring(a:sum()))
    assert.equal("9007199254740993LL", tostring(a:slice(1, 2):sum()))
    local top = tidepool.array("uint64", { 0xffffffffffffffffULL, 0xfffffffffffffffeULL })
    assert.equal("18446744073709551615ULL", tostring(top:max()))
    assert.equal("18446744073709551614ULL", tostring(top:min()))
    assert.equal(2, top:argmin())
    assert.equal("18446744073709551614ULL", tostring(top:sort()[1]))
  end)

  it("that are NaNs win, and zeros go by their signs", function()
    local a = tidepool.array("double", { 1, 0, 2 })
    ffi.cast("uint64_t *", a.data)[1] = 0xfffc000000000000ULL -- a NaN that is no number to LuaJIT
    for _, x in ipairs { a:min(), a:max(), a:sum(), a:mean() } do
      assert.equal("number", type(x))
      assert.is_true(x ~= x)
    end
    assert.equal(2, a:argmin())
    assert.equal(2, a:argmax())
    for _, list in ipairs { { 0, -1 / math.huge }, { -1 / math.huge, 0 } } do
      assert.equal(-math.huge, 1 / tidepool.array("float", list):min())
      assert.equal(math.huge, 1 / tidepool.array("float", list):max())
    end
  end)

  it("are sorted in their place, all types alike", function()
    for _, name in ipairs(types) do
      local signed = not name:find "^u"
      local list = {}
      for i = 1, 3000 do list[i] = (i * 7919 % 251) - (signed and 125 or 0) end
      local a = tidepool.array(name, list)
      table.sort(list)
      assert.equal(a, a:sort())
      for i = 1, 3000 do assert(tonumber(a[i]) == list[i], name) end
      a:sort(function(x, y) return x > y end)
      for i = 1, 3000 do assert(tonumber(a[i]) == list[3001 - i], name) end
    end
    for _, name in ipairs { "double", "float" } do
      local a = tidepool.array(name, { 0 / 0, 2.5, -math.huge, 0, math.huge, -1 / math.huge, -(0 / 0), -1e-30, -7, 1e30 })
      a:sort()
      assert.equal("-inf -7 -1e-30 -0 0 2.5 1e+30 inf", ("%g %g %g %g %g %g %g %g"):format(a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]))
      assert.is_true(a[9] ~= a[9] and a[10] ~= a[10])
    end
    local part = tidepool.array("int16", { 5, 4, 300, -300, 2, 1 })
    part:slice(2, 5):sort()
    assert.same({ 5, -300, 2, 4, 300, 1, n = 6 }, part:list())
    assert.equal(0, #tidepool.array("int8", 0):sort())
    mistake(function() part:sort "down" end, "array:sort: expected a function", "down")
  end)

  it("are mapped here by map", function()
    local a = tidepool.array("double", { 1, 4, 9 })
    assert.same({ 1, 2, 3, n = 3 }, a:map(math.sqrt):list())
    local whole = a:map(function(x) return x / 2 end, "int32")
    assert.equal("int32", whole.ctype)
    assert.same({ 0, 2, 4, n = 3 }, whole:list())
    local f = tidepool.App "map":func(function(x) return x + 1 end)
    assert.same({ 2, 5, 10, n = 3 }, a:map(f):list())
    mistake(function() a:map(function(x) if x < 9 then return x end end) end, "array:map: the function has returned nothing for element 3")
    mistake(function() a:map(3) end, "array:map: expected a function, got 3")
    mistake(function() a:map(math.sqrt, "real") end, "array:map: unknown element type", "real")
  end)

  it("are computed with whole arrays", function()
    local a, b = tidepool.array("double", { 1, 2, 3 }), tidepool.array("int32", { 4, 5, 6 })
    assert.same({ 5, 7, 9, n = 3 }, (a + b):list())
    assert.same({ -3, -3, -3, n = 3 }, (a - b):list())
    assert.same({ 4, 10, 18, n = 3 }, (a * b):list())
    assert.same({ 0.25, 0.4, 0.5, n = 3 }, (a / b):list())
    assert.same({ 1, 32, 729, n = 3 }, (a ^ b):list())
    assert.same({ 1, 0, 1, n = 3 }, (a % 2):list())
    assert.same({ -1, -2, -3, n = 3 }, (-a):list())
    assert.same({ 3, 5, 7, n = 3 }, (2 * a + 1):list())
    assert.same({ 2, 2.5, 3, n = 3 }, (b / 2):list())
    assert.same({ 1, 2, 3, n = 3 }, a:list())
    local f, wide = tidepool.array("float", { 1, 2, 3 }), tidepool.array("int64", { 1, 2, 3 })
    assert.equal("float", (f + 1).ctype)
    assert.equal("double", (f + b).ctype)
    assert.equal("double", (b + b).ctype)
    assert.equal("int64", (wide + b).ctype)
    assert.equal("9007199254740993LL", tostring((wide + 9007199254740992LL)[1]))
    assert.equal("uint64", (wide + 1ULL).ctype)
    mistake(function() return a + tidepool.array("double", 2) end, "array +: 3 elements on the left, 2 elements on the right")
    mistake(function() return a * "x" end, "array *: expected an array or a number on the right", "x")
    mistake(function() return {} - a end, "array -: expected an array or a number on the left, got a table")
  end)

  it("are shown, the first of them", function()
    assert.equal('tidepool.array("int8", 2) { 1, 2 }', tostring(tidepool.array("int8", { 1, 2 })))
    assert.equal('tidepool.array("double", 9) { 0, 0, 0, 0, 0, 0, 0, 0, ... }', tostring(tidepool.array("double", 9)))
    assert.equal('tidepool.array("uint8", { rows = 2, columns = 3 }) { { 1, 2, 3 }, { 4, 5, 6 } }',
      tostring(tidepool.array("uint8", { { 1, 2, 3 }, { 4, 5, 6 } })))
    assert.truthy(tostring(tidepool.array("float", { rows = 20, columns = 20 }, 1.5)):find "{ 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, ... }, ... }$")
  end)

  it("may all have one value from the start", function()
    assert.same({ 7, 7, n = 2 }, tidepool.array("int32", 2, 7):list())
    assert.same({ 1.5, 1.5, n = 2 }, tidepool.array("double", { rows = 1, columns = 2 }, 1.5):row(1):list())
    mistake(function() tidepool.array("double", 3, "one") end, "expected a number for all elements", "one")
    mistake(function() tidepool.array("double", { 1 }, 2) end, "takes a value where it is told how many elements there are")
    mistake(function() tidepool.array("double", 3, 1, 2) end, "takes (type, number of elements or list, value), but has got more: 2")
  end)
end)

describe("A matrix", function()
  it("is made of a shape, of rows, or of an array, and its rows are views", function()
    local zeros = tidepool.array("double", { rows = 2, columns = 3 })
    assert.same({ 2, 3, 6 }, { zeros.rows, zeros.columns, #zeros })
    local m = tidepool.array("int32", { { 1, 2, 3 }, tidepool.array("int8", { 4, 5, 6 }) })
    assert.same({ 2, 3, 6 }, { m.rows, m.columns, #m })
    assert.equal(6, m:at(2, 3))
    assert.equal(4, m[{ 2, 1 }])
    assert.equal(4, m[4])
    m:set(2, 1, 40)
    m[{ 1, 3 }] = 30
    local row = m:row(2)
    row[2] = 50
    assert.same({ { 1, 2, 30, n = 3 }, { 40, 50, 6, n = 3 }, n = 2 }, m:list())
    assert.same({ 0, 0 }, { row.rows, row.columns })
    local tall = m:reshape(3, 2)
    tall[{ 3, 2 }] = 60
    assert.equal(60, m:at(2, 3))
    assert.same({ 3, 2 }, { tall.rows, tall.columns })
    local copy = tidepool.array("double", m)
    assert.same({ 2, 3 }, { copy.rows, copy.columns })
    assert.same({ 2, 3 }, { m:copy().rows, m:copy().columns })
    local doubled = m * 2
    assert.same({ 80, 2, 3 }, { doubled:at(2, 1), doubled.rows, doubled.columns })
    assert.equal(2, m:map(function(x) return -x end).rows)
    assert.equal(3, (m + m:slice(1)).columns)
    mistake(function() return m + m:reshape(3, 2) end, "array +: 2 rows of 3 columns on the left, 3 rows of 2 columns on the right")
  end)

  it("says what is wrong with places and shapes", function()
    local m, a = tidepool.array("double", { rows = 2, columns = 3 }), tidepool.array("double", 6)
    mistake(function() m:at(3, 1) end, "array:at: there is no row 3 in 2 rows of 3 columns")
    mistake(function() return m[{ 1, 4 }] end, "array:at: there is no column 4")
    mistake(function() m[{ 0, 1 }] = 1 end, "array:set: there is no row 0")
    mistake(function() return m[{ 1, 1, 1, 1 }] end, "array:at takes (row, column, border), but has got more: 1")
    mistake(function() m:row(2.5) end, "array:row: there is no row 2.5")
    mistake(function() m:at(1) end, "array:at: there is no column nil in 2 rows of 3 columns")
    mistake(function() m:at(1, 0 / 0, "wrap") end, "array:at: column nan is not a whole number")
    mistake(function() m:at(1.5, 1, 0) end, "array:at: row 1.5 is not a whole number")
    mistake(function() m:at(1, 1, "mirror") end, 'what is beyond the border is "clamp", "wrap" or a number', "mirror")
    mistake(function() tidepool.array("double", { rows = 0, columns = 2 }):at(1, 1, "clamp") end, "there is no row 1 in 0 rows of 2 columns")
    mistake(function() m:set(1, 1, "x") end, "array element 1 must be a number", "x")
    mistake(function() a:at(1, 1) end, "array:at: the array has no rows: a:reshape(rows, columns) gives it some")
    mistake(function() a:reshape(2, 2) end, "2 rows of 2 columns are 4 elements, but the array has 6")
    mistake(function() a:reshape(2) end, "array:reshape: the number of columns must be a whole number", "nil")
    mistake(function() tidepool.array("double", { rows = 2 }) end, "the number of columns must be a whole number", "nil")
    mistake(function() tidepool.array("double", { rows = 2, columns = 2, depth = 2 }) end, "a shape is { rows =, columns = }, or { planes =", "depth")
    mistake(function() tidepool.array("double", { { 1, 2 }, { 3 } }) end, "row 2 is of 1 elements, but the first has 2")
    mistake(function() tidepool.array("double", { { 1, 2 }, 3 }) end, "row 2 is 3, but the first has 2")
    mistake(function() tidepool.array("double", { { 1, 2 }, { 3, "x" } }) end, "element 2 of row 2", "not a number")
    mistake(function() a.at(1, 1) end, "array.at was called with a dot", "write array:at(row, column)")
  end)

  it("is read beyond its borders", function()
    local m = tidepool.array("double", { { 1, 2, 3 }, { 4, 5, 6 } })
    assert.same({ 1, 6, 3, 3 }, { m:at(0, -5, "clamp"), m:at(7, 1e300, "clamp"), m:at(-1, 3, "clamp"), m:at(1, 3, "clamp") })
    assert.same({ 6, 4, 1, 5 }, { m:at(0, 0, "wrap"), m:at(2, 4, "wrap"), m:at(-1, -5, "wrap"), m:at(20, 302, "wrap") })
    assert.same({ 0, -1.5, 6 }, { m:at(0, 1, 0), m:at(1, 4, -1.5), m:at(2, 3, 0) })
    assert.equal(3LL, tidepool.array("int64", m):at(1, 9, 3LL))
  end)

  it("may have planes", function()
    local a = tidepool.array("int16", { { { 1, 2, 3 }, { 4, 5, 6 } }, { { 7, 8, 9 }, { 10, 11, 12 } } })
    assert.same({ 2, 2, 3, 12 }, { a.planes, a.rows, a.columns, #a })
    assert.same({ 11, 11, 6 }, { a:at(2, 2, 2), a[{ 2, 2, 2 }], a:at(1, 2, 3) })
    assert.same({ 12, 3, -1, 9 }, { a:at(0, 0, 0, "wrap"), a:at(0, 0, 5, "clamp"), a:at(3, 1, 1, -1), a:at(2, 1, 3, -1) })
    assert.same({ { { 1, 2, 3, n = 3 }, { 4, 5, 6, n = 3 }, n = 2 }, { { 7, 8, 9, n = 3 }, { 10, 11, 12, n = 3 }, n = 2 }, n = 2 }, a:list())
    a:set(1, 2, 3, 60)
    a[{ 1, 1, 1 }] = 10
    assert.same({ 10, 2, 3, n = 3 }, a:row(1, 1):list())
    local plane = a:plane(1)
    plane:set(1, 2, 20)
    assert.same({ 0, 2, 20 }, { plane.planes, plane.rows, a:at(1, 1, 2) })
    assert.equal('tidepool.array("int16", { planes = 2, rows = 2, columns = 3 }) '
      .. '{ { { 10, 20, 3 }, { 4, 5, 60 } }, { { 7, 8, 9 }, { 10, 11, 12 } } }', tostring(a))
    local turned = a:reshape(3, 2, 2)
    assert.same({ 3, 2, 2, 0, 2 }, { turned.planes, turned.rows, turned.columns, a:reshape(tidepool.grid(6, 2)).planes,
      a:reshape(tidepool.grid(2, 3, 2)).planes })
    assert.same({ 2, 2, 0, 2 }, { (a * 2).planes, a:copy().planes, a:slice(1).planes, tidepool.array("double", a).planes })
    assert.equal(4, tidepool.array("double", { planes = 2, rows = 1, columns = 2 }, 1):sum())
    mistake(function() return a + turned end, "2 planes of 2 rows of 3 columns on the left, 3 planes of 2 rows of 2 columns on the right")
    mistake(function() a:at(3, 1, 1) end, "array:at: there is no plane 3 in 2 planes of 2 rows of 3 columns")
    mistake(function() a:at(1, 1) end, "array:at: there is no column nil in 2 planes")
    mistake(function() a:plane(0) end, "array:plane: there is no plane 0")
    mistake(function() plane:plane(1) end, "array:plane: the array has no planes: a:reshape(planes, rows, columns) gives it some")
    mistake(function() a:reshape(2, 2, 2) end, "array:reshape: 2 planes of 2 rows of 2 columns are 8 elements, but the array has 12")
    mistake(function() a:image "x.png" end, "array:image: a picture is a matrix, and the array has planes: a:plane(z):image(path)")
    mistake(function() tidepool.array("double", { planes = 0, rows = 1, columns = 1 }) end, "the number of planes must be a whole number", "0")
    mistake(function() tidepool.array("double", { { { 1 } }, { { 1 }, { 2 } } }) end, "plane 2 has 2 rows of 1 columns, but the first has 1")
  end)

  it("travels with its planes", function()
    local app = tidepool.App "planes"
    local a = tidepool.array("double", tidepool.grid(2, 3, 2))
    for k = 1, 12 do a[k] = k end
    for _, executor in ipairs { "threads", "processes" } do
      local f = app:func { executor = executor } (function(b) return a.planes, a:at(2, 1, 2), b.planes, b.rows, a:reshape(3, 2, 2) end)
      local planes, element, others, rows, back = f:remote(a:reshape(6, 2))
      assert.same({ 2, 8, 0, 6, 3, 2 }, { planes, element, others, rows, back.planes, back.columns })
    end
  end)

  it("has its fields whatever names were asked for before", function()
    local m = tidepool.array("double", { { 1, 2 } })
    local function get(name) return m[name] end
    for _ = 1, 200 do assert(get "nothing" == nil) end
    for _ = 1, 200 do assert(get "columns" == 2 and get "length" == 2 and get "planes" == 0) end
  end)

  it("travels with its shape, and is mapped by its elements", function()
    local app = tidepool.App "matrix"
    local m = tidepool.array("double", { { 1, 2, 3 }, { 4, 5, 6 } })
    local look = app:func(function(i, other) return m:at(i, 3), m.rows, other.columns, other:at(2, 1), m:slice(1).columns end)
    assert.same({ 6, 2, 2, 3, 0 }, { look:remote(2, m:reshape(3, 2)) })
    assert.same({ 3, 2, 3, 4, 0 }, { look:remote(1, m) }) -- the same memory in another shape
    local back = app:func(function(a) return a:reshape(2, 3) end):remote(m:slice(1))
    assert.same({ 2, 3 }, { back.rows, back.columns })
    local double = app:func { returns = "double" } (function(x) return 2 * x end)
    assert.same({ 2, 4, 6, 8, 10, 12, n = 6 }, double:map(m):array():list())
  end)
end)

describe("A file of NumPy's format .npy", function()
  local path = support.temp_dir() .. "/a.npy"

  local function write(descr, fortran, shape, data)
    local header = ("{'descr': %s, 'fortran_order': %s, 'shape': (%s), }"):format(descr, fortran, shape)
    local file = assert(io.open(path, "wb"))
    file:write("\147NUMPY\1\0", string.char(#header % 256, math.floor(#header / 256)), header, data)
    file:close()
  end

  it("keeps arrays and matrices of all types", function()
    for _, name in ipairs { "double", "float", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64" } do
      local a = tidepool.array(name, { 1, 2, 100 })
      assert.equal(a, a:save(path))
      local b = tidepool.load_array(path)
      assert.equal(tostring(a), tostring(b))
      local m = tidepool.array(name, { { 1, 2, 3 }, { 4, 5, 6 } })
      m:save(path)
      assert.equal(tostring(m), tostring(tidepool.load_array(path)))
    end
    tidepool.array("double", 0):save(path)
    assert.equal(0, #tidepool.load_array(path))
    local many = tidepool.array("double", 300000, 1.25) -- more than is read at once
    many[300000] = 7
    many:save(path)
    local again = tidepool.load_array(path)
    assert.same({ 1.25, 7, 300000 }, { again[1], again[300000], #again })
  end)

  it("is written as the format says", function()
    tidepool.array("int16", { { 1, 2 }, { 3, -1 } }):save(path)
    local text = support.read_file(path)
    assert.equal("\147NUMPY\1\0", text:sub(1, 8))
    local length = text:byte(9) + 256 * text:byte(10)
    assert.equal(0, (10 + length) % 64)
    assert.matches("^{'descr': '<i2', 'fortran_order': False, 'shape': %(2, 2%), } *\n$", text:sub(11, 10 + length))
    assert.equal("\1\0\2\0\3\0\255\255", text:sub(11 + length))
    tidepool.array("uint8", { 1 }):save(path)
    assert.truthy(support.read_file(path):find("'descr': '|u1', 'fortran_order': False, 'shape': (1,),", 1, true))
  end)

  it("is read in either order of bytes and of elements", function()
    write("'>u2'", "False", "2,", "\1\2\0\3")
    assert.same({ 258, 3, n = 2 }, tidepool.load_array(path):list())
    write("'|b1'", "True", "2, 3", "\1\0\1\1\0\0")
    assert.same({ { 1, 1, 0, n = 3 }, { 0, 1, 0, n = 3 }, n = 2 }, tidepool.load_array(path):list())
    write("'<f8'", "False", "", ("\0"):rep(7) .. "\64")
    assert.equal(2, #{ tidepool.load_array(path)[1], #tidepool.load_array(path) })
    write("'|u1'", "True", "2, 1, 3", "\1\2\3\4\5\6")
    assert.same({ { { 1, 3, 5, n = 3 }, n = 1 }, { { 2, 4, 6, n = 3 }, n = 1 }, n = 2 }, tidepool.load_array(path):list())
    tidepool.array("uint8", tidepool.grid(2, 1, 3), 7):save(path)
    local again = tidepool.load_array(path)
    assert.same({ 2, 1, 3, 42 }, { again.planes, again.rows, again.columns, again:sum() })
    write("'<f8'", "True", "1, 1", ("\0"):rep(6) .. "\252\255") -- a NaN
    assert.equal("number", type(tidepool.load_array(path):at(1, 1)))
    assert.same({ 0, 0 }, { tidepool.load_array(path).rows - 1, tidepool.load_array(path).columns - 1 })
  end)

  it("says what is wrong with it", function()
    write("'<f8'", "False", "3,", ("\0"):rep(20))
    mistake(function() tidepool.load_array(path) end, path .. ": it ends before its 3 elements")
    write("'<c16'", "False", "3,", "")
    mistake(function() tidepool.load_array(path) end, "its elements are not numbers of one type: '<c16'")
    write("[('a', '<f8')]", "False", "3,", "")
    mistake(function() tidepool.load_array(path) end, "not numbers of one type: [('a', '<f8')]")
    write("'<f8'", "False", "2, 2, 2, 1", "")
    mistake(function() tidepool.load_array(path) end, "it has 4 dimensions; an array has three at most")
    local file = io.open(path, "wb")
    file:write "PK\3\4 something else"
    file:close()
    mistake(function() tidepool.load_array(path) end, "it is no file of NumPy's format .npy")
    mistake(function() tidepool.load_array "/nonexistent/a.npy" end, "tidepool.load_array: /nonexistent/a.npy: No such file")
    mistake(function() tidepool.array("double", 1):save "/nonexistent/a.npy" end, "array:save: /nonexistent/a.npy: No such file")
    mistake(function() tidepool.array("double", 100000):save "/dev/full" end, "array:save: /dev/full: No space left")
    mistake(function() tidepool.array("double", 1):save() end, "array:save: expected a path, got nil")
  end)
end)

for _, executor in ipairs { "threads", "inline" } do
  describe("On " .. executor .. " typed arrays", function()
    local app = tidepool.App("arrays", { executor = executor })

    it("are inputs, also several at once, and beside lists and ranges", function()
      local a, b = tidepool.array("double", { 1, 2, 3 }), tidepool.array("int8", { 10, 20, 30, 40 })
      local sum = app:func(function(x, y) return x + (y or 0) end)
      assert.same({ 1, 2, 3, n = 3 }, sum:map(a):list())
      assert.same({ 11, 22, 33, n = 3 }, sum:map(a, b):list())
      assert.same({ 11, 21, 31, n = 3 }, sum:map(b, { 1, 1, 1 }):list())
      assert.same({ 11, 22, 33, 44, n = 4 }, sum:map(tidepool.range(4), b):list())
      assert.equal(0, sum:map(tidepool.array("double", 0)):list().n)
      local wide = tidepool.array("int64", { 1, 2 })
      assert.equal("2LL", tostring((app:func(function(x) return x end):map(wide):list()[2])))
    end)

    it("are what returns says, for several values of several types", function()
      local halves = app:func { returns = { "double", "int32" } } (function(x) return x / 2, x * 2 end)
      local half, double = halves:map(tidepool.range(1000)):array()
      assert.equal("double", half.ctype)
      assert.equal("int32", double.ctype)
      for i = 1, 1000 do assert(half[i] == i / 2 and double[i] == 2 * i) end
      for i, h, d in halves:map { 5, 6 } do assert.same({ (4 + i) / 2, 2 * (4 + i) }, { h, d }) end
      local list, other = halves:map({ 5, 6 }):list()
      assert.same({ 2.5, 3, n = 2 }, list)
      assert.same({ 10, 12, n = 2 }, other)
      local n = 0
      local unknown = halves:map(function() n = n + 1 return n <= 100 and n or nil end):array()
      assert.equal(100, #unknown)
      assert.equal(50, unknown[100])
    end)

    it("are made of other results with results:array()", function()
      local length = app:func(function(s) return #s end)
      local a = length:map({ "a", "bb", "ccc" }):array("uint8")
      assert.equal("uint8", a.ctype)
      assert.same({ 1, 2, 3, n = 3 }, a:list())
      local id = app:func(function(x) return x end)
      assert.equal(0, #id:map({}):array())
      mistake(function() id:map({ 1, "x" }):array() end, "result 2", "x")
      mistake(function() id:map({ 1 }):array("floaty") end, "floaty")
    end)

    it("keep the promise of returns, item by item", function()
      local f = app:func { name = "f", returns = "double" } (function(x)
        if x == 3 then return "three" elseif x == 5 then return elseif x == 7 then error "seven" end
        return x
      end)
      local got = {}
      for i, r in f:map(tidepool.array("double", { 1, 2, 3, 4, 5, 6, 7, 8 }), { return_exceptions = true }) do
        got[i] = tidepool.is_failure(r) and r.message or r
      end
      local info = debug.getinfo(f.raw, "S")
      local place = ("%s:%d: it returned "):format(info.short_src, info.linedefined)
      assert.equal(place .. 'a string, but returns = "double"', got[3])
      assert.equal(place .. 'nothing, but returns = "double"', got[5])
      assert.matches("seven", got[7])
      got[3], got[5], got[7] = 0, 0, 0
      assert.same({ 1, 2, 0, 4, 0, 6, 0, 8 }, got)
      assert.same({ 1, 2, -1, n = 3 }, f:map({ 1, 2, 3 }, { on_error = function() return -1 end }):array():list())
      local fine, failure = pcall(function() f:map({ 1, 2, 3 }):array() end)
      assert.is_false(fine)
      assert.equal(3, failure.index)
      -- Inputs that are not numbers take the general way, to the same arrays.
      local size = app:func { returns = { "int32", "double" } } (function(s) return #s, s == "b" and "no" or 1 end)
      local lengths = size:map({ "a", "b", "ccc" }, { on_error = function() return 0 end }):array()
      assert.same({ 1, 0, 3, n = 3 }, lengths:list())
    end)

    it("travel by reference: as upvalues, arguments and results, whole and in part", function()
      local shared = tidepool.array("double", 100)
      local write = app:func(function(i) shared[i] = i * i end)
      write:for_each(tidepool.range(100))
      for i = 1, 100 do assert(shared[i] == i * i) end
      local back = app:func(function(a, i) a[1] = i return a, a:slice(2, 3) end)
      local whole, part = back:remote(shared:slice(11, 20), -5)
      assert.equal(10, #whole)
      assert.equal(-5, shared[11])
      whole[1] = -6
      assert.equal(-6, shared[11])
      assert.same({ 144, 169, n = 2 }, part:list())
      local made = app:func(function(n) return tidepool.array("int16", n):fill(n) end):remote(4)
      collectgarbage()
      assert.same({ 4, 4, 4, 4, n = 4 }, made:list())
    end)

    it("of a million elements go through many slices in order, with a window too", function()
      local n = support.times(1000000)
      local xs = tidepool.array("double", n)
      for i = 1, n do xs[i] = i end
      local square = app:func { returns = "double" } (function(x) return x * x end)
      local squares = square:map(xs):array()
      for i = 1, n do assert(squares[i] == i * i) end
      local at = 0
      for i, r in square:map(xs, { window = 1000 }) do
        at = at + 1
        assert(i == at and r == i * i)
        if i == 5000 then break end
      end
    end)
  end)
end
