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
    assert.matches("^tidepool: [^ ]*job.lua:11: captures captures 2.%d MB %('records'%), encoded anew at each map and call: "
      .. "local shared = tidepool.share%(records%)", lines[1])
    assert.matches("^tidepool: [^ ]*job.lua:1[24]: takes is passed the same 2.%d MB again and again: tidepool.share%(value%)", lines[2])
  end)

  it("is not named for a few calls", function()
    assert.equal("", support.output_of((script:gsub("N", "3"))))
  end)
end)
