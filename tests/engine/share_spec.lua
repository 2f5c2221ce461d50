--- Large constants: tidepool.share.

local support = require "tests.support"
local tidepool = require "tidepool"

for _, executor in ipairs { "inline", "threads", "processes" } do
  describe("On " .. executor .. " a shared value", function()
    local app = tidepool.App("share", { executor = executor })

    it("is decoded once by each worker, captured or passed", function()
      local data = tidepool.share { seen = 0, list = { 10, 20, 30 } }
      local captured = app:func(function()
        local value = data()
        value.seen = value.seen + 1 -- the worker's own copy
        return value.seen, tidepool.current().worker
      end)
      local passed = app:func(function(shared) return shared().list[2], shared().seen > 0 and 1 or 0 end)
      local most, n = {}, 500
      for _, seen, worker in captured:map(tidepool.range(n)) do most[worker] = math.max(most[worker] or 0, seen) end
      local all = 0
      for _, seen in pairs(most) do all = all + seen end
      assert.equal(n, all)
      assert.equal(0, data().seen)
      for _ = 1, 3 do assert.equal(20, (passed:remote(data))) end
      assert.same({ 20, 20, n = 2 }, (passed:map({ data, data }):list()))
    end)

    it("may be anything that travels, also nested, and comes back", function()
      local values = { 5, "text", false, { { 1 }, x = "y" } }
      for _, value in ipairs(values) do
        local data = tidepool.share(value)
        assert.equal(value, data())
        assert.same(value, app:func(function() return data() end):remote())
      end
      local double = tidepool.share(function(x) return 2 * x end)
      assert.equal(8, app:func(function(x) return double()(x) end):remote(4))
      local inner = tidepool.share { k = 3 }
      local outer = tidepool.share { inner = inner }
      assert.equal(3, app:func(function() return outer().inner().k end):remote())
      local back = app:func(function(shared) return shared end):remote(inner)
      assert.equal(3, back().k)
    end)

    it("is as it was when it was shared", function()
      local list = { 1 }
      local data = tidepool.share(list)
      list[1] = 2
      assert.equal(1, app:func(function() return data()[1] end):remote())
    end)

    it("of which there are many is there for each", function()
      local many, sum = {}, 0
      for i = 1, 50 do many[i] = tidepool.share { i } end
      local get = app:func(function(shared) return shared()[1] end)
      for _, x in get:map(many) do sum = sum + x end
      for _, x in get:map(many) do sum = sum + x end
      assert.equal(50 * 51, sum)
    end)
  end)
end

describe("A shared value", function()
  it("of arrays has them by reference", function()
    local a = tidepool.array("int32", 3)
    local data = tidepool.share { a = a }
    tidepool.App "x":func(function(i) data().a[i] = i end):for_each { 1, 2, 3 }
    assert.same({ 1, 2, 3, n = 3 }, a:list())
  end)

  it("says what is wrong", function()
    local data = tidepool.share { x = 1 }
    support.mistake(function() return data.x end, "a shared value has no field 'x': call it for the value, as in data().x")
    support.mistake(function() data.x = 2 end, "it is a constant")
    support.mistake(function() tidepool.share() end, "tidepool.share: expected a value, got nil")
    support.mistake(function() tidepool.share { conn = io.tmpfile() } end, "tidepool.share: value.conn: a userdata cannot travel")
    support.mistake(function() tidepool.share(1, 2) end, "tidepool.share takes a value, but has got more: 2")
    assert.matches("^tidepool.Shared: %d+ bytes$", tostring(data))
  end)
end)

describe("What is captured or passed again and again", function()
  local script = [[
    local tidepool = require "tidepool"
    local app = tidepool.App("x", { executor = "inline" })
    local records, few = {}, { 1, 2, 3 }
    for i = 1, 100000 do records[i] = "record number " .. i end
    local data = tidepool.share(records)
    local captures = app:func(function(i) return #records[i] end)
    local takes = app:func(function(all, i) return #all[i] end)
    local shares = app:func(function(i) return #data()[i] end)
    local small = app:func(function(i) return few[i] end)
    for i = 1, N do
      records[i] = "number " .. i
      captures:remote(i)
      takes:remote(records, i)
      shares:remote(i)
      takes:remote(data(), i)
      small:remote(i)
    end
  ]]

  it("is named once, when it is large", function()
    local done = support.run_script((script:gsub("N", "20")))
    assert.equal(0, done.code)
    local lines = {}
    for line in done.stderr:gmatch "[^\n]+" do lines[#lines + 1] = line end
    table.sort(lines)
    assert.equal(2, #lines, done.stderr)
    assert.matches("^tidepool: [^ ]*job.lua:12: captures captures 2.%d MB %('records'%), encoded anew at each map and call: "
      .. "local shared = tidepool.share%(records%)", lines[1])
    assert.matches("^tidepool: [^ ]*job.lua:1[35]: takes is passed the same 2.%d MB again and again: tidepool.share%(value%)", lines[2])
  end)

  it("is not named for a few calls", function()
    assert.equal("", support.output_of((script:gsub("N", "3"))))
  end)

  it("is not named when it is captured and does not change: it is encoded once", function()
    local text = script:gsub("N", "20"):gsub('records%[i%] = "number " .. i', ""):gsub("takes:remote%b()", "")
    assert.equal("", support.output_of(text))
  end)
end)

for _, executor in ipairs { "inline", "threads", "processes" } do
  describe("On " .. executor .. " a large captured value", function()
    local app = tidepool.App("large", { executor = executor })

    it("is at each call what it is then, whatever has changed in it", function()
      local parts = { deep = { list = {} } }
      local records, others, n = {}, {}, 2000
      for i = 1, n do records[i] = { id = i, name = "record " .. i, tags = { "a", "b" } } end
      for i = 1, n do others[i] = records[i] end
      for i = 1, 100 do parts[i] = { i } end
      local alias, helper = records[7], function() return "old" end
      local mixed = { helper = helper, rows = parts }
      local look = app:func(function(i)
        local r = records[i]
        local extra = r.extra
        return r.id, r.name, #r.tags, type(extra) == "table" and extra.x or extra, alias == records[7], others[i] == r, #records, mixed.helper(),
          #mixed.rows.deep.list, getmetatable(r) ~= nil
      end)
      local function same(i)
        local function seen(...) return { n = select("#", ...), ... } end
        local here = seen(look(i))
        for _ = 1, 3 do assert.same(here, seen(look:remote(i))) end
      end
      same(3)
      records[3].id = 3.5
      same(3)
      records[3].id = -1 / math.huge -- where LuaJIT has integers (arm64), the literal -0 is 0
      assert.equal(-math.huge, 1 / look:remote(3))
      records[3].name = nil
      collectgarbage()
      records[3].name = "RECORD 3" -- where the old one was, perhaps
      same(3)
      for i = 1, 50 do
        records[i].name = nil
        collectgarbage "step"
        records[i].name = "another " .. i
        same(i)
      end
      records[3].tags[3] = "c"
      same(3)
      records[3].extra = { x = 5 }
      same(3)
      records[3].extra.x = 6
      same(3)
      records[3].extra = nil
      same(3)
      alias = { id = 7, name = "another 7", tags = { "a", "b" } } -- equal, and another table
      same(7)
      alias = records[7]
      same(7)
      others[8] = { id = 8, name = "another 8", tags = { "a", "b" } }
      same(8)
      others[8] = records[8]
      same(8)
      records[n + 1] = { id = n + 1, name = "one more", tags = {} }
      others[n + 1] = records[n + 1]
      same(n + 1)
      records[n + 1] = nil
      same(n)
      mixed.helper = function() return "new" end
      same(1)
      parts.deep.list[1] = records[1]
      same(1)
      records[1].name = "changed twice"
      same(1)
      records[2].extra = "large " .. ("x"):rep(100)
      same(2)
      records[1], records[2] = records[2], records[1]
      same(1)
      same(2)
      records = { { id = 1, name = "few", tags = {} } }
      others, alias = { records[1] }, nil
      same(1)
    end)

    it("may refer to functions, objects and 64-bit integers, which count too", function()
      local count = 0
      local Row = { __index = { double = function(self) return self.n * 2 end } }
      tidepool.class("share_spec.Counted", Row)
      local list = {}
      for i = 1, 3000 do list[i] = { n = i, text = "text " .. i } end
      list[1].call = function() return count end
      list[2].big = 5LL
      setmetatable(list[3], Row)
      local look = app:func(function() return list[1].call(), tostring(list[2].big), list[3]:double(), list[4].n end)
      local function check(...)
        local expected = { ... }
        for _ = 1, 3 do assert.same(expected, { look:remote() }) end
      end
      check(0, "5LL", 6, 4)
      count = 1
      check(1, "5LL", 6, 4)
      list[2].big = 6LL
      check(1, "6LL", 6, 4)
      Row.__index.double = function(self) return self.n * 3 end
      check(1, "6LL", 9, 4)
      list[4].n = 40
      check(1, "6LL", 9, 40)
    end)
  end)
end
