--- starmap: each item is a list of arguments.

local tidepool = require "tidepool"
local support = require "tests.support"

local collect, contains = support.collect, support.contains

describe("starmap", function()
  local app = tidepool.App "starmap"
  local sum = app:func { name = "sum" } (function(a, b) return a + b end)
  local count = app:func(function(...) return select("#", ...), ... end)

  after_each(function() support.check_pool() end)

  it("spreads {1,2} and {3,4} over the arguments: 3 and 7", function()
    local got = {}
    for i, value in sum:starmap { { 1, 2 }, { 3, 4 } } do got[i] = value end
    assert.same({ 3, 7 }, got)
  end)

  it("gives as many arguments as an item's n says, with nils in between and at the end", function()
    local n, a, b, c = count:starmap({ { nil, 2, nil, n = 3 }, { n = 0 }, { 1 } }):list()
    assert.same({ 3, 0, 1, n = 3 }, n)
    assert.same({ [3] = 1, n = 3 }, a)
    assert.same({ [1] = 2, n = 3 }, b)
    assert.same({ n = 3 }, c or { n = 3 })
  end)

  it("takes items from an iterator, also an endless one", function()
    local i = 0
    local function pairs_of_numbers()
      i = i + 1
      return { i, i }
    end
    for index, value in sum:starmap(pairs_of_numbers, { window = 4 }) do
      assert.equal(2 * index, value)
      if index == 20 then break end
    end
    assert.is_true(i <= 24)
  end)

  it("raises the failing item's error at its place", function()
    local got, n, err = collect(sum:starmap { { 1, 2 }, { 1 }, { 3, 4 } })
    assert.equal(1, n)
    assert.same({ 3 }, got)
    assert.equal(2, err.index)
    contains(err.message, "arithmetic")
  end)

  it("puts failures in their places with return_exceptions", function()
    local list = sum:starmap({ { 1, 2 }, { 1 }, { 3, 4 } }, { return_exceptions = true }):list()
    assert.equal(3, list[1])
    assert.is_true(tidepool.is_failure(list[2]))
    assert.equal(7, list[3])
  end)

  it("says at its place that an item is no table", function()
    local got, n, err = collect(sum:starmap { { 1, 2 }, 3 })
    assert.equal(1, n)
    assert.same({ 3 }, got)
    assert.is_true(tidepool.is_failure(err))
    assert.equal("usage", err.kind)
    assert.equal("input", err.phase)
    contains(err.message, "starmap: item 2 is a number (a table expected)")
  end)

  it("refuses a hole in an item that has no n", function()
    local _, n, err = collect(sum:starmap { { 1, 2 }, { nil, 3 } })
    assert.equal(1, n)
    assert.equal("usage", err.kind)
    contains(err.message, "item 2", "hole")
  end)

  it("says at its place that an item's n is none", function()
    for _, n in ipairs { -1, 1.5, 0 / 0, 1 / 0, "x", 1e6, false } do
      for _, items in ipairs { { { 1, 2 }, { n = n } }, coroutine.wrap(function()
        coroutine.yield { 1, 2 }
        coroutine.yield { n = n }
      end) } do
        local got, n_results, err = collect(sum:starmap(items))
        assert.same({ 3 }, got)
        assert.equal(1, n_results)
        assert.equal("usage", err.kind)
        contains(err.message, "starmap: item 2: n must be an integer from 0 to 7000")
      end
    end
    local many = {}
    for i = 1, 7001 do many[i] = i end
    contains(support.failure_of(function() sum:starmap({ many }):list() end).message, "item 1 has 7001 arguments")
  end)

  it("gives nothing for no items", function()
    assert.equal(0, sum:starmap({}):list().n)
  end)

  it("passes tables inside items as they are", function()
    local nested = app:func(function(t, s) return t[1] .. s end)
    assert.same({ "ax", n = 1 }, nested:starmap({ { { "a" }, "x" } }):list())
  end)
end)
