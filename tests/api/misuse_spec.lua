--- Calls that say something else than what was meant: an error at the caller's line, never a result
-- that is silently another one.

local tidepool = require "tidepool"
local support = require "tests.support"

local contains = support.contains

local app = tidepool.App "misuse"
local give = app:func { name = "give" } (function(...) return ... end)

local function double() return tidepool.array("double", { 1, 2, 3 }) end

--- fn() is an error with this file's name and these words.
local function refused(fn, ...)
  local fine, why = pcall(function() local result = fn() return result end)
  assert.is_false(fine, "nothing was said")
  assert.matches("misuse_spec%.lua:%d+: ", tostring(why))
  contains(tostring(why), ...)
end

describe("An argument too many", function()
  local calls = {
    ["tidepool.App"] = function() return tidepool.App("a", {}, 7) end,
    ["tidepool.array"] = function() return tidepool.array("double", 3, 1, 7) end,
    ["tidepool.range"] = function() return tidepool.range(1, 2, 3, 7) end,
    ["tidepool.const"] = function() return tidepool.const(1, 7) end,
    ["tidepool.iter"] = function() return tidepool.iter(next, {}, nil, 7) end,
    ["tidepool.sleep"] = function() return tidepool.sleep(0, 7) end,
    ["tidepool.wait"] = function() return tidepool.wait({}, {}, 7) end,
    ["tidepool.as_completed"] = function() return tidepool.as_completed({}, 7) end,
    ["as_completed:add"] = function() return tidepool.as_completed({}):add(give:spawn(), 7) end,
    ["tidepool.class"] = function() return tidepool.class("misuse", {}, 7) end,
    ["tidepool.current"] = function() return tidepool.current(7) end,
    ["tidepool.now"] = function() return tidepool.now(7) end,
    ["tidepool.workers"] = function() return tidepool.workers(2, 7) end,
    ["tidepool.step"] = function() return tidepool.step(7) end,
    ["tidepool.loop"] = function() return tidepool.loop(7) end,
    ["app:func"] = function() return app:func({}, print, 7) end,
    ["app:func { options }"] = function() return app:func {} (print, 7) end,
    ["app:include"] = function() return app:include(tidepool.App "b", 7) end,
    ["app:main"] = function() return app:main(print, 7) end,
    ["Function:starmap"] = function() return give:starmap({}, {}, 7) end,
    ["Function:with"] = function() return give:with({}, 7) end,
    ["Function:stats"] = function() return give:stats(7) end,
    ["Function:opencl"] = function() return give:opencl(7) end,
    ["results:next"] = function() return give:map({ 1 }):next(7) end,
    ["results:list"] = function() return give:map({ 1 }):list(7) end,
    ["results:array"] = function() return give:map({ 1 }):array("double", 7) end,
    ["results:sum"] = function() return give:map({ 1 }):sum(7) end,
    ["results:mean"] = function() return give:map({ 1 }):mean(7) end,
    ["results:min"] = function() return give:map({ 1 }):min(7) end,
    ["results:max"] = function() return give:map({ 1 }):max(7) end,
    ["results:reduce"] = function() return give:map({ 1 }):reduce(math.max, 0, 7) end,
    ["results:cancel"] = function() return give:map({ 1 }):cancel(7) end,
    ["results:done"] = function() return give:map({ 1 }):done(7) end,
    ["results:progress"] = function() return give:map({ 1 }):progress(7) end,
    ["results:times"] = function() return give:map({ 1 }):times(7) end,
    ["call:get"] = function() return give:spawn(1):get(1, 7) end,
    ["call:done"] = function() return give:spawn(1):done(7) end,
    ["call:cancel"] = function() return give:spawn(1):cancel(7) end,
    ["call:on_done"] = function() return give:spawn(1):on_done(print, 7) end,
    ["task:get"] = function() return tidepool.async(function() end):get(1, 7) end,
    ["task:done"] = function() return tidepool.async(function() end):done(7) end,
    ["task:cancel"] = function() return tidepool.async(function() end):cancel(7) end,
    ["task:on_done"] = function() return tidepool.async(function() end):on_done(print, 7) end,
    ["array:slice"] = function() return double():slice(1, 2, 7) end,
    ["array:fill"] = function() return double():fill(0, 7) end,
    ["array:copy"] = function() return double():copy(7) end,
    ["array:list"] = function() return double():list(7) end,
  }

  it("is an error at the line, with what the function takes", function()
    for name, call in pairs(calls) do refused(call, name .. " takes ", "has got more: 7") end
  end)
end)

describe("A value that is nil because its name is misspelt", function()
  it("is no option and no function", function()
    refused(function() return app:func(evaluat) end, "app:func: expected options or a function, got nil") -- luacheck: ignore evaluat
    refused(function() return app:func({}, evaluat) end, "got nil") -- luacheck: ignore evaluat
    assert.equal(3, app:func()(function(x) return x end)(3))
  end)

  it("is no input, whatever stands beside it", function()
    refused(function() return give:map(nil) end, "input 1 is nil")
    refused(function() return give:map({ 1, 2 }, nil) end, "input 2 is nil")
    refused(function() return give:map(nil, { 1, 2 }) end, "input 1 is nil")
    refused(function() return give:for_each({ 1, 2 }, nil) end, "input 2 is nil")
    refused(function() return give:spawn_map({ 1, 2 }, nil) end, "input 2 is nil")
    refused(function() return tidepool.gather(give:spawn(1), nil) end, "item 2 is nil")
  end)
end)

describe("A method called with a dot, or on something else", function()
  it("is an error that shows how it is written", function()
    refused(function() return double().slice(1, 2) end, "write array:slice(first, last)")
    refused(function() return double().copy() end, "write array:copy()")
    refused(function() return double().fill({}, 2) end, "write array:fill(number)")
    refused(function() return give:map({ 1 }).list() end, "write results:list()")
    refused(function() return give:spawn(1).get() end, "write call:get()")
  end)
end)

describe("A range of something else than numbers", function()
  it("says what it was", function()
    refused(function() return tidepool.range() end, "expected numbers (from, to, step), got nil")
    refused(function() return tidepool.range(nil, 5) end, "expected numbers (from, to, step), got nil")
    refused(function() return tidepool.range("5") end, 'expected numbers (from, to, step), got the string "5"')
    refused(function() return tidepool.range(1, 2, false) end, "expected numbers (from, to, step), got false")
  end)
end)

describe("An empty table behind the inputs", function()
  it("is options that say nothing", function()
    assert.equal(2, give:map({ 1, 2 }, {}):list().n)
    assert.equal(2, give:map(tidepool.range(2), {}):list().n)
    assert.equal(2, give:spawn_map({ 1, 2 }, {}):list().n)
    assert.equal(2, give:starmap({ { 1 }, { 2 } }, {}):list().n)
    assert.same({ ok = 2, failed = 0 }, give:for_each({ 1, 2 }, {}))
    assert.equal(5, (tidepool.gather(give:spawn(5), {})))
    assert.equal(5, tidepool.gather({ give:spawn(5) }, {})[1])
  end)

  it("alone, or with an n, is a list", function()
    assert.equal(0, give:map({}):list().n)
    assert.equal(0, give:map({ 1, 2 }, { n = 0 }):list().n)
    assert.equal(0, give:map({}, {}):list().n)
    assert.equal(0, tidepool.gather({}).n)
  end)
end)

describe("Results that have been read", function()
  local function take(results, how)
    if how == "reduce" then return results:reduce(math.max, 0) end
    if how == "gather" then return tidepool.gather(results) end
    if how ~= "for" then return results[how](results) end
    for _ in results do end
  end

  it("are not read again as if there were none", function()
    local ways = { "list", "array", "sum", "mean", "min", "max", "reduce", "for", "get", "gather" }
    for _, first in ipairs(ways) do
      for _, second in ipairs(ways) do
        local results = give:map { 1, 2 }
        take(results, first)
        refused(function() return take(results, second) end, "these results have been read")
      end
      local results = give:map { 1, 2 }
      take(results, first)
      refused(function() return give:map(results) end, "Function:map: input 1: these results have been read")
      assert.is_nil(results:next()) -- the end, as often as it is asked for
      assert.is_true(results:done())
    end
  end)

  it("are so after a failure too, which was raised once", function()
    local results = app:func(function() error "first" end):map { 1, 2 }
    contains(tostring(support.failure_of(function() results:list() end)), "first")
    refused(function() return results:list() end, "these results have been read")
  end)

  it("are not those of which some are left, of none, or of a map that was cancelled", function()
    local results = give:map { 3, 2, 1 }
    assert.same({ 1, 3 }, { results:next() })
    local list = results:list()
    assert.same({ 3, nil, 2, 1 }, { list.n, list[1], list[2], list[3] })
    assert.equal(0, give:map({}):sum())
    results = give:map { 1 }
    results:cancel()
    for _ = 1, 2 do assert.equal("cancelled", support.failure_of(function() results:list() end).kind) end
  end)

  it("may be shared by several tasks, of which one meets the end first", function()
    local results, n = give:map(tidepool.range(100)), 0
    local function consume()
      for _ in results do n = n + 1 end
    end
    tidepool.gather(tidepool.async(consume), tidepool.async(consume), tidepool.async(consume))
    assert.equal(100, n)
  end)

  it("are there after tidepool.loop, and twice in one gather", function()
    local results = give:spawn_map { 5, 6 }
    tidepool.loop()
    assert.same({ 5, 6, n = 2 }, results:list())
    results = give:map { 7 }
    local a, b = tidepool.gather(results, results)
    assert.same({ { 7, n = 1 }, { 7, n = 1 } }, { a, b })
    results = give:spawn_map(tidepool.range(40), { window = 4 }) -- too many to wait for somebody
    tidepool.loop()
    refused(function() return results:list() end, "have been read by tidepool.loop")
    results = app:func(function() error "lost" end):spawn_map { 1 }
    assert.equal(1, #tidepool.loop())
    contains(tostring(support.failure_of(function() results:list() end)), "lost")
  end)
end)

describe("tidepool.wait", function()
  it("for more than there are is an error", function()
    refused(function() return tidepool.wait({ give:spawn(1) }, { n = 2 }) end, "option 'n' is 2, but there is 1 to wait for")
    assert.equal(0, #tidepool.wait({}))
  end)
end)
