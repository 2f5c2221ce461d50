--- Grids: the places of matrices as inputs. That every executor gives them their results in their
-- shape is a promise (tests/promises.lua).

local support = require "tests.support"
local tidepool = require "tidepool"

local contains, failure_of, mistake = support.contains, support.failure_of, support.mistake
local app = tidepool.App "grid"

describe("A grid", function()
  it("is an iterator over its places, row by row", function()
    local seen, grid = {}, tidepool.grid(2, 3)
    for _ = 1, 2 do
      for y, x in grid do seen[#seen + 1] = y .. x end
    end
    assert.equal("11 12 13 21 22 23 11 12 13 21 22 23", table.concat(seen, " "))
    seen = {}
    for z, y, x in tidepool.grid(2, 1, 2) do seen[#seen + 1] = z .. y .. x end
    assert.equal("111 112 211 212", table.concat(seen, " "))
    assert.same({ "tidepool.grid(2, 3)", "tidepool.grid(4, 2, 3)" }, { tostring(grid), tostring(tidepool.grid(4, 2, 3)) })
    assert.same({ 2, 3, 6 }, { grid.rows, grid.columns, grid.n })
  end)

  it("is the shape of an array", function()
    local a = tidepool.array("uint8", tidepool.grid(2, 3), 4)
    assert.same({ 2, 3, 24 }, { a.rows, a.columns, a:sum() })
    assert.equal(2, tidepool.array("float", tidepool.grid(2, 3, 4)).planes)
  end)

  it("is zipped with other inputs, and gives no shape when it is not the longest that is mapped", function()
    local f = app:func(function(y, x, ...) return y * 10 + x + select("#", ...) * 100 end)
    assert.equal(0, f:map(tidepool.grid(2, 3), { 1, 2, 3 }):array().rows)
    assert.equal(2, f:map(tidepool.grid(2, 3), tidepool.const(1)):array().rows)
    assert.same({ 311, 312, n = 2 }, f:map(tidepool.grid(2, 3), tidepool.range(2), tidepool.grid(3, 2)):list())
    local step, k = app:func(function(v, y, x) return ("%d:%d,%d"):format(v, y, x) end), 0
    local list = step:map(function() k = k + 1 return k < 5 and k or nil end, tidepool.grid(2, 2)):list()
    assert.same({ "1:1,1", "2:1,2", "3:2,1", "4:2,2", n = 4 }, list)
  end)

  it("is what for_each, spawn_map and flat_map take, too, and travels", function()
    local f = app:func(function(y, x) coroutine.yield(y) coroutine.yield(x) end)
    local seen = {}
    for i, v in f:flat_map(tidepool.grid(1, 2)) do seen[#seen + 1] = i .. ":" .. v end
    assert.equal("1:1 1:1 2:1 2:2", table.concat(seen, " "))
    local counts = tidepool.array("int32", tidepool.grid(2, 2))
    local count = app:func(function(y, x) counts:set(y, x, y * 10 + x) end)
    assert.same({ ok = 4, failed = 0 }, count:for_each(tidepool.grid(2, 2)))
    assert.same({ 11, 12, 21, 22, n = 4 }, counts:slice(1):list())
    local inner = app:func(function(y, x) return y * x end)
    local outer = app:func(function(grid) return inner:map(grid):sum(), grid.n end)
    for _, executor in ipairs { "threads", "processes" } do
      assert.same({ 18, 6 }, { outer:with({ executor = executor }):remote(tidepool.grid(2, 3)) })
    end
    assert.equal(18, inner:spawn_map(tidepool.grid(2, 3)):sum())
  end)

  it("says what is wrong", function()
    mistake(function() tidepool.grid(3) end, "tidepool.grid: the number of columns must be a whole number of at least 1, got nil")
    mistake(function() tidepool.grid(2.5, 1) end, "the number of rows must be a whole number of at least 1, got 2.5")
    mistake(function() tidepool.grid(1, 2, 0) end, "the number of columns must be a whole number of at least 1, got 0")
    mistake(function() tidepool.grid(1, 2, 3, 4) end, "tidepool.grid takes (rows, columns) or (planes, rows, columns), but has got more: 4")
    mistake(function() tidepool.grid(2 ^ 30, 2 ^ 30) end, "places are more than an array can have")
    mistake(function() app:func(print):starmap(tidepool.grid(1, 2)) end, "Function:starmap: input 1 is a grid", "f:map(tidepool.grid(rows, columns))")
    mistake(function() app:func(print):map(tidepool.grid(1, 2), 5) end, "Function:map: input 2 is a number")
  end)

  it("has the places of failures in several dimensions", function()
    local f = app:func { name = "deep" } (function(z, y, x) if z == 2 and x == 2 then error "here" end return y end)
    local err = failure_of(function() f:map(tidepool.grid(2, 3, 2)):list() end)
    contains(tostring(err), "in input 8 (2, 1, 2) of map 'deep'")
    assert.same({ 2, 1, 2 }, err.place)
    assert.is_nil(failure_of(function() f:map({ 2 }, { 1 }, { 2 }):list() end).place)
  end)
end)
