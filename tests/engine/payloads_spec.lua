--- Arguments and results of every shape and size.

local ffi = require "ffi"
local bit = require "bit"
local tidepool = require "tidepool"
local support = require "tests.support"

local collect, contains, failure_of = support.collect, support.contains, support.failure_of

describe("A payload", function()
  local app = tidepool.App "payloads"
  local give = app:func { name = "give" } (function(...) return ... end)

  --- There and back, through another state.
  local function round(value)
    return (give:remote(value))
  end

  local box = ffi.new "union { double d; uint64_t u; }"

  local function bits(x)
    box.d = x
    return bit.tohex(box.u)
  end

  after_each(function() support.check_pool() end)

  it("may be nil among others", function()
    local odd = app:func(function(x) if x % 2 == 1 then return x end end)
    local got, n = collect(odd:map(tidepool.range(10)))
    assert.equal(10, n)
    assert.same({ 1, [3] = 3, [5] = 5, [7] = 7, [9] = 9 }, got)
    local f = app:func(function() return nil, nil, 3, nil end)
    for _, a, b, c, d in f:map { 1 } do assert.same({ n = 4, [3] = 3 }, { n = 4, a, b, c, d }) end
    assert.equal(4, select("#", f:remote()))
  end)

  it("may be a list with holes and n", function()
    local list = round { 1, nil, 3, n = 5 }
    assert.same({ 1, nil, 3, n = 5 }, list)
  end)

  it("may be -0, NaN or infinite", function()
    local zero = -1 / math.huge -- where LuaJIT has integers (arm64), the literal -0 is 0
    assert.equal(-1 / 0, 1 / round(zero))
    assert.equal(1 / 0, 1 / round(0))
    local nan = round(0 / 0)
    assert.are_not.equal(nan, nan)
    assert.equal(1 / 0, round(1 / 0))
    assert.equal(-1 / 0, round(-1 / 0))
    local list = give:map({ zero, 0 / 0, 1 / 0, -1 / 0, 1.5 }):list()
    assert.equal(-1 / 0, 1 / list[1])
    assert.are_not.equal(list[2], list[2])
    assert.same({ 1 / 0, -1 / 0, 1.5 }, { list[3], list[4], list[5] })
  end)

  it("may be any double, bit for bit", function()
    local doubles = { 2 ^ 53 + 1, 1e308, 5e-324, 0x1p-1022, -1e-300, 2 ^ 31, 2 ^ 32, -2 ^ 31 - 1, 0.1 }
    math.randomseed(7)
    for _ = 1, 20000 do doubles[#doubles + 1] = (math.random() - 0.5) * 2 ^ math.random(-1000, 1000) end
    local list = give:map(doubles):list()
    local back = round(doubles)
    for i, x in ipairs(doubles) do
      if bits(x) ~= bits(list[i]) or bits(x) ~= bits(back[i]) then assert.equal(bits(x), bits(list[i])) end
    end
  end)

  it("may be an int64, a uint64 or a complex number", function()
    for _, value in ipairs { -9223372036854775807LL - 1, 18446744073709551615ULL, 0LL } do
      local back = round(value)
      assert.equal(tostring(ffi.typeof(value)), tostring(ffi.typeof(back)))
      assert.is_true(value == back)
    end
    local z = round(ffi.new("complex", 1, -2.5))
    assert.equal(tostring(ffi.typeof "complex"), tostring(ffi.typeof(z)))
    assert.same({ 1, -2.5 }, { z.re, z.im })
  end)

  it("may be any string", function()
    local all, random = {}, {}
    for i = 0, 255 do all[#all + 1] = string.char(i) end
    for i = 1, 2 ^ 20 do random[i] = string.char(math.random(0, 255)) end
    for _, s in ipairs { "", "\0", table.concat(all), "\255\254", "\27LJ\2", table.concat(random) } do
      assert.is_true(s == round(s))
    end
  end)

  it("may be a string of 100 MB, whose memory is given back", function()
    local before = support.held().rss
    local s = ("x"):rep(100e6)
    assert.is_true(s == round(s))
    s = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    local list = give:map({ 1, 2, 3, 4 }):list() -- workers come by and may collect
    assert.equal(4, list.n)
    if not support.sanitized then assert.is_true(support.held().rss - before < 400) end
  end)

  it("may be a string of nearly 1 GiB, and is refused above, before anything is sent", function()
    if support.sanitized or support.memory_available() < 9000 then
      return pending "needs 9 GB of memory and no sanitizer"
    end
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local give = tidepool.App("t"):func(function(s) return s end)
      local s = ("x"):rep(2^30 - 64)
      print(give:remote(s) == s)
      s = nil
      collectgarbage() collectgarbage()
      s = ("x"):rep(2^30 + 1)
      local ok, err = pcall(give.remote, give, s)
      print(ok, tidepool.is_failure(err) and err.kind or "codec")
      print((tostring(err):find("string of 1073741825 bytes is over the limit of 1073741824", 1, true)) ~= nil)
      s = nil
      print(give:map({ 1, 2, 3 }):list().n)
    ]], { seconds = 600 })
    assert.equal("true\nfalse\tcodec\ntrue\n3\n", output)
  end)

  it("may be nested 10,000 deep and is refused beyond, with a short path", function()
    local function nest(depth)
      local t = {}
      for _ = 2, depth do t = { x = t } end
      return t
    end
    local back, depth = round(nest(10000)), 1
    while back.x do back, depth = back.x, depth + 1 end
    assert.equal(10000, depth)
    for _, too_deep in ipairs { 10001, 100000 } do
      local ok, err = pcall(round, nest(too_deep))
      assert.is_false(ok)
      contains(tostring(err), "nested deeper than 10000")
      assert.is_true(#tostring(err) < 2000)
    end
    local grow = app:func(function()
      local t = {}
      for _ = 1, 100000 do t = { x = t } end
      return t
    end)
    assert.equal("codec", failure_of(grow.remote, grow).kind)
  end)

  it("may contain itself", function()
    local t = {}
    t.self = t
    local back = round(t)
    assert.equal(back, back.self)
    assert.are_not.equal(t, back)
  end)

  it("keeps what its parts share", function()
    local s = { 1 }
    local back = round { s, s, { s } }
    assert.equal(back[1], back[2])
    assert.equal(back[1], back[3][1])
    local same = app:func(function(a, b) return a == b end)
    assert.is_true(same:remote(s, s))
    assert.same({ true, n = 1 }, same:starmap({ { s, s } }):list())
  end)

  it("with an unknown metatable is refused, with what to do", function()
    local t = setmetatable({ 1 }, { __index = { x = 1 } })
    local ok, err = pcall(round, t)
    assert.is_false(ok)
    contains(tostring(err), "metatable", "tidepool.class")
    ok, err = pcall(round, { a = { t } })
    assert.is_false(ok)
    contains(tostring(err), ".a[1]", "metatable")
  end)

  it("of a registered class keeps its methods on the other side and back", function()
    local Point = {}
    Point.__index = Point
    function Point:length() return math.sqrt(self.x * self.x + self.y * self.y) end
    function Point.__add(a, b) return setmetatable({ x = a.x + b.x, y = a.y + b.y }, Point) end
    tidepool.class("payloads.Point", Point)
    local f = app:func(function(p, q) return (p + q):length(), p + q end)
    local length, sum = f:remote(setmetatable({ x = 1, y = 1 }, Point), setmetatable({ x = 2, y = 3 }, Point))
    assert.equal(5, length)
    assert.equal(Point, getmetatable(sum))
    assert.equal(5, sum:length())
  end)

  it("may hold functions and builtins", function()
    local up = 5
    local f = app:func(function(t) return t.a.cb(2), t[1](4), t[1] end)
    local a, b, sqrt = f:remote { a = { cb = function(x) return x + up end }, math.sqrt }
    assert.same({ 7, 2 }, { a, b })
    assert.equal(math.sqrt, sqrt)
  end)

  it("that cannot travel is refused with its path and type", function()
    for what, value in pairs {
      ["a userdata"] = io.tmpfile(),
      ["a coroutine"] = coroutine.create(print),
      ["void *"] = ffi.cast("void *", 1),
      ["int [4]"] = ffi.new "int[4]",
    } do
      local ok, err = pcall(round, { user = { socket = value } })
      assert.is_false(ok)
      contains(tostring(err), ".user.socket", what)
      if tidepool.is_failure(err) then assert.equal("codec", err.kind) end
    end
    local ok, err = pcall(round, { ["odd key"] = { newproxy() } })
    assert.is_false(ok)
    contains(tostring(err), '["odd key"][1]', "a userdata cannot travel")
  end)

  it("that cannot travel back fails that input only", function()
    local f = app:func(function(x)
      if x == 7 then return { out = io.tmpfile() } end
      return x
    end)
    local got, n, err = collect(f:map(tidepool.range(20), { return_exceptions = true }))
    assert.is_nil(err)
    assert.equal(20, n)
    for i = 1, 20 do
      if i ~= 7 then assert.equal(i, got[i]) end
    end
    assert.equal("codec", got[7].kind)
    assert.equal(7, got[7].index)
    contains(got[7].message, ".out", "a userdata")
  end)

  it("that cannot travel back names its function, the function's place, and what in it cannot", function()
    local line = debug.getinfo(1, "l").currentline
    local gives = { -- a function a line
      ["a value"] = { function() return coroutine.create(print) end, "result 1: a coroutine" },
      ["a second value"] = { function() return 1, coroutine.create(print) end, "result 2: a coroutine" },
      ["inside of a table"] = { function() return { a = { 1, coroutine.create(print) } } end, "result 1.a[2]: a coroutine" },
      ["behind results that were columns"] = {
        function(x) return x < 3 and x or coroutine.create(print) end, "result 1: a coroutine",
      },
    }
    local lines = { ["a value"] = 2, ["a second value"] = 3, ["inside of a table"] = 4, ["behind results that were columns"] = 6 }
    for _, executor in ipairs { "threads", "processes", "inline" } do
      for name, case in pairs(gives) do
        local f = app:func({ executor = executor, name = name }, case[1])
        local failure = failure_of(function() f:map({ 1, 2, 3 }):list() end)
        assert.equal("codec", failure.kind)
        contains(failure.message, ("payloads_spec.lua:%d: %s: %s"):format(line + lines[name], name, case[2]))
      end
    end
    local batched = app:func({ batched = 3, name = "batch" }, function(xs)
      for i = 1, #xs do xs[i] = coroutine.create(print) end
      return xs
    end)
    contains(failure_of(batched.remote, batched, 1).message, ("payloads_spec.lua:%d: batch: result 1: a coroutine"):format(line + 18))
    local builtin = app:func({ name = "create" }, coroutine.create)
    contains(failure_of(builtin.remote, builtin, function() end).message, "create: result 1: a coroutine")
  end)

  it("is read raw: no metamethod of the user runs", function()
    local trap = {
      __index = function() error "__index ran" end,
      __pairs = function() error "__pairs ran" end,
      __len = function() error "__len ran" end,
      __newindex = function() error "__newindex ran" end,
    }
    tidepool.class("payloads.Trap", trap)
    local back = round(setmetatable({ 1, 2, a = 3 }, trap))
    assert.same({ 1, 2, 3 }, { rawget(back, 1), rawget(back, 2), rawget(back, "a") })
  end)

  it("may be one of ten million, in constant memory", function()
    local n = support.times(1e7)
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x) return x + 1 end)
      local sum = 0
      for _, v in f:map(tidepool.range(tonumber(arg[1]))) do sum = sum + v end
      print(("%d"):format(sum))
      print(tonumber(io.open "/proc/self/status":read "*a":match "VmHWM:%s*(%d+)") < 256 * 1024)
    ]], { seconds = 600, args = { n } })
    local sum, in_bounds = output:match "^(%d+)\n(%a+)\n$"
    assert.equal(n * (n + 3) / 2, tonumber(sum)) -- 50000015000000
    assert.is_true(in_bounds == "true" or support.sanitized)
  end)

  it("may be missing: no inputs, no calls", function()
    local got, n, err = collect(give:map {})
    assert.same({}, got)
    assert.equal(0, n)
    assert.is_nil(err)
    support.mistake(function() give:map(nil) end, "map: input 1 is nil (a table or an iterator expected)")
  end)

  it("may be one of endlessly many: the source is read no further than the window", function()
    local asked, last = 0, 0
    for i in give:map(function() asked = asked + 1 return asked end, { window = 10 }) do
      last = i
      if i == 5 then break end
    end
    assert.equal(5, last)
    assert.is_true(asked <= 15)
    support.check_pool()
  end)

  it("may have keys of every kind", function()
    local t = { [true] = 1, [false] = 2, [1.5] = 3, [-1] = 4, [2 ^ 40] = 5, [""] = 6, ["\0"] = 7, [0] = 8, [1] = 9, [1 / 0] = 10 }
    assert.same(t, round(t))
    local key = {}
    local back = round { [key] = key }
    local k, v = next(back)
    assert.equal(k, v)
  end)

  it("may be one table of ten million integers", function()
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local give = tidepool.App("t"):func(function(t) return t end)
      local t = {}
      local n = tonumber(arg[1])
      for i = 1, n do t[i] = i end
      local back = give:remote(t)
      for i = 1, n do assert(back[i] == i) end
      print(#back)
    ]], { seconds = 600, args = { support.times(1e7) } })
    assert.equal(support.times(1e7), tonumber(output))
  end)

  it("may fill all that a map may hold while those before wait for their retries", function()
    local f = app:func { retries = { max = 1, initial_delay = 0.5, jitter = 0 } } (function(x)
      if x <= 8 and tidepool.current().attempt == 1 then error "once" end
      return ("x"):rep(2 ^ 23)
    end)
    for _, read in ipairs { "list", "loop" } do
      local results, n = f:map(tidepool.range(18)), 0
      if read == "list" then
        n = results:list().n
      else
        for i in results do n = i end
      end
      assert.equal(18, n)
    end
  end)

  it("may be many large results, held to the window", function()
    if support.sanitized then return end
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x) return ("%d"):format(x % 10):rep(8e6) end)
      local n = 0
      for i, s in f:map(tidepool.range(100), { window = 4 }) do
        assert(#s == 8e6 and s:sub(1, 1) == tostring(i % 10))
        n = n + 1
        s = nil
        if i % 4 == 0 then collectgarbage() end
      end
      print(n, tonumber(io.open "/proc/self/status":read "*a":match "VmHWM:%s*(%d+)") < 600 * 1024)
    ]], { seconds = 300, workers = 2 })
    assert.equal("100\ttrue\n", output)
  end)
end)
