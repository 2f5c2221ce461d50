--- Functions on devices that are given fewer arguments than they have parameters: what is missing
--- is nil there, as in plain Lua.

local devices = require "tests.support_device"
local tidepool = require "tidepool"

local app = tidepool.App("defaults", { gpu = true })
local on_device = devices.on_device(it, pending)

describe("an argument that is missing", function()
  local scaled = app:func(function(x, k) k = k or 2 return x * k end)

  on_device("has its default, in each way to call", function()
    assert.same({ 2, 4, 6, n = 3 }, scaled:map({ 1, 2, 3 }):list())
    assert.same({ 10, 40, n = 2 }, scaled:map({ 1, 2 }, { 10, 20 }):list())
    assert.same({ 2, 4, n = 2 }, scaled:map(tidepool.range(2)):list())
    assert.same({ 2, 4, n = 2 }, scaled:map(tidepool.array("double", { 1, 2 })):list())
    assert.same({ 2, 4, n = 2 }, scaled:starmap({ { 1 }, { 2 } }):list())
    assert.equal(6, scaled:remote(3))
    assert.equal(12, scaled:remote(3, 4))
    assert.equal(12, scaled:map({ 1, 2, 3 }):sum())
    assert.equal(12, scaled:map({ 1, 2, 3 }):reduce(function(a, b) return a + b end, 0))
  end)

  on_device("is not taken for missing where one input has it", function()
    local list = scaled:starmap({ { 1 }, { 2, 3 } }, { return_exceptions = true }):list()
    assert.truthy(tostring(list[1]):find("it takes 2 numbers, got 1", 1, true), tostring(list[1]))
    assert.equal(6, list[2])
  end)

  on_device("is a float's in single precision", function()
    local f = app:func({ precision = "single" }, function(x, k) k = k or 0.5 return x * k end)
    assert.same({ 0.5, 1, n = 2 }, f:map({ 1, 2 }):list())
  end)
end)
