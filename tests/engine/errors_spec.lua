--- Errors of the user's code: each error keeps its value, message, index and place.

local ffi = require "ffi"
local tidepool = require "tidepool"
local support = require "tests.support"

local collect, contains, failure_of = support.collect, support.contains, support.failure_of
local sleep = support.sleep
local here = support.file()

describe("An error in a mapped function", function()
  local app = tidepool.App "errors"

  --- The Failure of one input in the middle of others, which must not be touched by it.
  local function failure_from(raise)
    local f = app:func { name = "raises" } (function(x)
      if x == 7 then raise() end
      return x
    end)
    local got, n, err = collect(f:map(tidepool.range(20), { return_exceptions = true }))
    assert.is_nil(err)
    assert.equal(20, n)
    for i = 1, 20 do
      if i ~= 7 then assert.equal(i, got[i]) end
    end
    local failure = got[7]
    assert.is_true(tidepool.is_failure(failure))
    assert.equal("error", failure.kind)
    assert.equal(7, failure.index)
    assert.equal("raises", failure.function_name)
    assert.is_nil(failure.phase)
    return failure
  end

  after_each(function() support.check_pool() end)

  it("names a user's file in a folder named tidepool, too", function()
    local text = [[
      local app = ...
      local function inner(x) error("bad " .. x) end
      return app:func(function(x) inner(x) return 1 end), app:func { batched = { max = 2 } } (function() return 1 end)
    ]]
    local f, wrong = assert(loadstring(text, "@tidepool/job.lua"))(tidepool.App "folder")
    local _, err = pcall(f.remote, f, 7)
    assert.equal("tidepool/job.lua:2: bad 7", err.message)
    contains(err.traceback, "tidepool/job.lua:2: in function", "tidepool/job.lua:3: in function")
    contains(tostring(select(2, pcall(wrong.remote, wrong, 7))), "tidepool/job.lua:3: ")
  end)

  it("names its place, and the traceback names the erroring line", function()
    local line = debug.getinfo(1, "l").currentline + 1
    local failure = failure_from(function() error("boom") end)
    assert.matches("^" .. here .. ":" .. line .. ": boom$", failure.message)
    assert.equal(failure.message, failure.value)
    assert.matches("errors_spec%.lua:" .. line, failure.traceback)
    assert.equal(1, failure.attempts)
    assert.is_number(failure.worker)
  end)

  it("may be nil", function()
    for _, raise in ipairs { function() error(nil) end, function() error() end } do
      local failure = failure_from(raise)
      assert.is_nil(failure.value)
      assert.equal("nil", failure.message)
    end
  end)

  it("may be false or a number", function()
    local failure = failure_from(function() error(false) end)
    assert.is_false(failure.value)
    assert.equal("false", failure.message)

    failure = failure_from(function() error(42) end)
    assert.matches("^" .. here .. ":%d+: 42$", failure.value)
    assert.equal(failure.value, failure.message)

    failure = failure_from(function() error(42, 0) end)
    assert.equal(42, failure.value)
    assert.equal("42", failure.message)
  end)

  it("may be a table, whose fields the failure has too", function()
    local failure = failure_from(function() error { code = 5, why = { "a" } } end)
    assert.equal(5, failure.value.code)
    assert.equal(5, failure.code)
    assert.equal("a", failure.why[1])
    assert.equal("{code=5, why={...}}", failure.message)
  end)

  it("keeps its own fields when the table has fields of the same names", function()
    local failure = failure_from(function() error { index = 99, kind = "mine", message = "text" } end)
    assert.equal("mine", failure.value.kind)
    assert.equal(99, failure.value.index)
  end)

  it("has a short message for a large table", function()
    local failure = failure_from(function()
      local t = {}
      for i = 1, 1000 do t["key" .. i] = ("x"):rep(100) end
      error(t)
    end)
    assert.is_true(#failure.message <= 200)
    assert.equal(100, #failure.value.key1000)
  end)

  it("is shown by its __tostring, which runs in the worker", function()
    local failure = failure_from(function()
      error(setmetatable({ code = 5 }, { __tostring = function() return "pretty" end }))
    end)
    assert.equal("pretty", failure.message)
    assert.equal(5, failure.value.code)
    assert.equal(5, failure.code)
  end)

  it("says when its __tostring fails, and keeps the value", function()
    local failure = failure_from(function()
      error(setmetatable({ code = 5 }, { __tostring = function() error("inner") end }))
    end)
    assert.matches("^%(error object is a table; its __tostring failed: " .. here .. ":%d+: inner%)$", failure.message)
    assert.equal(5, failure.value.code)
  end)

  it("says when its __tostring returns no string", function()
    local failure = failure_from(function()
      error(setmetatable({}, { __tostring = function() return 42 end }))
    end)
    assert.equal("(error object is a table; its __tostring returned a number)", failure.message)
  end)

  it("may be a builtin, which travels", function()
    assert.equal(print, failure_from(function() error(print) end).value)
  end)

  it("says what it was when it cannot travel, and costs that input only", function()
    for pattern, raise in pairs {
      ["a userdata"] = function() error(io.tmpfile()) end,
      ["a cdata<int %[1%]>"] = function() error(require("ffi").new "int[1]") end,
    } do
      local failure = failure_from(raise)
      assert.is_nil(failure.value)
      assert.matches("^%(error object is " .. pattern .. ", which cannot travel%)$", failure.message)
    end
    local failure = failure_from(function() error(coroutine.create(print)) end)
    assert.is_nil(failure.value)
    assert.matches("^%(error object is a %a+, which cannot travel%)$", failure.message)
  end)

  it("drops only the value when a table holds something that cannot travel", function()
    local failure = failure_from(function() error { code = 1, file = io.tmpfile() } end)
    contains(failure.message, "code=1")
  end)

  it("may contain itself", function()
    local failure = failure_from(function()
      local t = { code = 1 }
      t.self = t
      error(t)
    end)
    assert.equal(1, failure.code)
    assert.equal(failure.value, failure.value.self)
    assert.is_string(tostring(failure))
  end)

  it("keeps all bytes of a long message", function()
    local failure = failure_from(function() error("a\0b\255" .. ("x"):rep(2 ^ 20), 0) end)
    assert.equal("a\0b\255" .. ("x"):rep(2 ^ 20), failure.message)
  end)

  it("may be an int64", function()
    local failure = failure_from(function() error(5LL) end)
    assert.equal(5LL, failure.value)
    contains(failure.message, "5")
  end)

  it("shows the chain of its causes, at most 8 levels of it", function()
    local failure = failure_from(function()
      local _, inner = pcall(error, "inner")
      local _, middle = pcall(error, { msg = "middle", cause = inner })
      error { msg = "outer", cause = middle }
    end)
    local text = tostring(failure)
    contains(text, "caused by:", "middle", "inner")

    failure = failure_from(function()
      local cause = "the end"
      for i = 1, 50 do cause = { msg = "level " .. i, cause = cause } end
      error(cause)
    end)
    local _, shown = tostring(failure):gsub("caused by:", "")
    assert.is_true(shown >= 1 and shown <= 8, shown .. " causes shown")
  end)

  it("has the frames of other files in order, and none of the library", function()
    local lib = [[
local lib = {}
local function a() error("deep") end
local function b() a() local _ end
function lib.c() b() local _ end
return lib
]]
    local script = [[
package.path = "DIR/?.lua;" .. package.path
local tidepool = require "tidepool"
local lib = require "lib"
local f = tidepool.App("t"):func { name = "f" } (function()
  lib.c()
end)
local ok, failure = pcall(function() return f:map({ 1 }):list() end)
print(failure.traceback)
]]
    local output = support.output_of(script, { files = { ["lib.lua"] = lib } })
    assert.matches("lib%.lua:2.*lib%.lua:3.*lib%.lua:4.*job%.lua:5", output)
    assert.is_nil(output:find("[tidepool]/", 1, true), output)
  end)

  it("has no frame of the library late in a long map either, where loops are compiled", function()
    local f = app:func(function(x)
      if x == 5000 then error "late" end
      return x
    end)
    local _, n, err = collect(f:map(tidepool.range(10000)))
    assert.equal(4999, n)
    for frame in err.traceback:gmatch "\n%s+([^\n]+)" do contains(frame, "errors_spec.lua:") end
  end)

  it("ends an uncaught script with its text, its worker's traceback and the loop's line", function()
    local done = support.run_script([[
local tidepool = require "tidepool"
local f = tidepool.App("t"):func { name = "f" } (function(x)
  error("deep " .. x)
end)
for i in f:map({ 1 }) do
  print(i)
end
]])
    assert.equal(1, done.code)
    assert.equal("", done.stdout)
    contains(done.stderr, "job.lua:3: deep 1", "in input 1 of map 'f'", "attempt 1 of 1", "job.lua:5:")
  end)

  it("may be a stack overflow, with a short traceback", function()
    local failure = failure_from(function()
      local function r() return 1 + r() end
      return r()
    end)
    contains(failure.message, "stack overflow")
    -- LuaJIT leaves a handler some 14 slots on a stack that has overflowed; where they end in a
    -- frame decides whether there is a traceback.
    local _, lines = (failure.traceback or ""):gsub("\n", "")
    assert.is_true(lines < 30, failure.traceback)
  end)

  it("may be an error in an error handler, which xpcall reports in the worker", function()
    local f = app:func(function(x)
      local ok, err = xpcall(function() error "a" end, function() error "b" end)
      return x, ok, err
    end)
    local x, ok, err = f:map({ 1, 2 }):list()
    assert.same({ 1, 2, n = 2 }, x)
    assert.same({ false, false, n = 2 }, ok)
    contains(tostring(err[1]), "error in error handling")
  end)

  it("is the one of the lowest index, 100 times out of 100; without order it may be either", function()
    local f = app:func(function(x)
      if x == 4 then
        sleep(0.005)
        error "four"
      elseif x == 9 then
        error "nine"
      end
      return x
    end)
    for _ = 1, 100 do
      local got, n, err = collect(f:map(tidepool.range(12)))
      assert.equal(3, n)
      assert.same({ 1, 2, 3 }, got)
      assert.equal(4, err.index)
    end
    local _, _, err = collect(f:map(tidepool.range(12), { ordered = false }))
    assert.is_true(err.index == 4 or err.index == 9)
  end)

  it("is caught inside the worker by the user's own pcall", function()
    local f = app:func(function(x)
      local ok, err = pcall(error, "inner " .. x, 0)
      return ok, err
    end)
    local ok, err = f:map({ 1, 2 }):list()
    assert.same({ false, false, n = 2 }, ok)
    assert.same({ "inner 1", "inner 2", n = 2 }, err)
  end)

  it("crosses nested maps with the place where it began", function()
    local inner = app:func { name = "inner" } (function() error("the root", 0) end)
    local outer = app:func { name = "outer" } (function(x)
      for _ in inner:map { x } do end -- luacheck: ignore
    end)
    local failure = failure_of(outer.remote, outer, 1)
    contains(tostring(failure), "the root", "inner")
  end)

  it("of assert is the same as in the caller", function()
    local function raise() _G.assert(false, "asserted") end
    local _, here_and_now = pcall(raise)
    assert.equal(here_and_now, failure_from(raise).message)
    assert.equal(8, failure_from(function() _G.assert(nil, { code = 8 }) end).code)
  end)
end)

describe("An input iterator's error", function()
  local f = tidepool.App("input errors"):func(function(x) return x end)

  it("is raised after the results due before it, with phase input", function()
    local got, n, err = collect(f:map(coroutine.wrap(function()
      for i = 1, 6 do coroutine.yield(i) end
      error("gen broke")
    end)))
    assert.same({ 1, 2, 3, 4, 5, 6 }, got)
    assert.equal(6, n)
    assert.equal("error", err.kind)
    assert.equal("input", err.phase)
    contains(err.message, "gen broke")
    support.check_pool()
  end)
end)

describe("An error in the loop's body", function()
  it("is the same object outside, stops the map, and prints nothing", function()
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x) return x end)
      local mine = {}
      print(select(2, pcall(function()
        for i in f:map(tidepool.range(1000)) do
          if i == 3 then error(mine) end
        end
      end)) == mine)
    ]])
    assert.equal("true\n", output)
  end)
end)

describe("An error in a finalizer", function()
  it("changes no result and is told once per worker", function()
    local done = support.run_script([[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x)
        local object = newproxy(true)
        getmetatable(object).__gc = function() error("in gc") end
        object = nil
        local garbage = {}
        for i = 1, 50 do garbage[i] = { i } end
        if x % 50 == 0 then collectgarbage() end
        return x
      end)
      local n = 0
      for i, x in f:map(tidepool.range(1000)) do
        assert(i == x)
        n = n + 1
      end
      print(n)
    ]], { workers = 2 })
    assert.equal("1000\n", done.stdout)
    assert.equal(0, done.code)
    local lines = 0
    for line in done.stderr:gmatch "[^\n]+" do
      lines = lines + 1
      assert.matches("^tidepool: worker %d+: error in a finalizer: .*job%.lua:%d+: in gc$", line)
    end
    assert.is_true(lines >= 1 and lines <= 2, done.stderr)
  end)

  it("is one line, without what a terminal would obey", function()
    local done = support.run_script([[
      require "tidepool".App("t"):func(function()
        getmetatable(newproxy(true)).__gc = function() error("\27[2J\r\nforged", 0) end
        collectgarbage()
        collectgarbage()
      end):remote()
    ]], { workers = 1 })
    assert.equal(0, done.code)
    assert.matches("^tidepool: worker %d+: error in a finalizer: \\027%[2J\\013\\010forged\n$", done.stderr)
  end)
end)

describe("A function that cannot be loaded in a worker", function()
  it("fails every input once, with the cause, and no endless retrying", function()
    package.preload["spec.only_here"] = function()
      return { value = 1 }
    end
    local only_here = require "spec.only_here"
    package.preload["spec.only_here"] = nil
    local f = tidepool.App("load"):func(function(x) return only_here.value + x end)
    local text
    local ok, err = pcall(function()
      local list = f:map({ 1, 2, 3 }, { return_exceptions = true }):list()
      assert.equal(3, list.n)
      for i = 1, 3 do
        assert.is_true(tidepool.is_failure(list[i]))
        text = tostring(list[i])
      end
    end)
    contains(ok and text or tostring(err), "spec.only_here")
    support.check_pool()
  end)
end)

describe("tostring of a failure", function()
  it("shows message, input, function, worker and attempts, then user frames only", function()
    local f = tidepool.App("text"):func { name = "f", retries = 1 } (function(x)
      if x == 2 then error "bad" end
    end)
    local _, _, err = collect(f:map { 1, 2 })
    assert.matches("^" .. here .. ":%d+: bad\n%s*in input 2 of map 'f' %(worker %d+, attempt 2 of 2%)\n", tostring(err))
    contains(tostring(err), "errors_spec.lua:")
    assert.is_nil(tostring(err):find("[tidepool]/", 1, true))
  end)

  it("is_failure tells failures from everything else", function()
    for _, value in ipairs { 1, "x", {}, print, true, { kind = "error" }, ffi.new "int[1]" } do
      assert.is_false(tidepool.is_failure(value))
    end
    assert.is_false(tidepool.is_failure(nil))
  end)
end)

describe("A Failure in the place of the loop's error string", function()
  local fails = tidepool.App "t":func { name = "fails" } (function(x) error(x, 0) end)
  local err = support.failure_of(fails.remote, fails, "disk full: sda1")

  it("is joined by .. on both sides, with its message", function()
    assert.equal("failed: disk full: sda1", "failed: " .. err)
    assert.equal("disk full: sda1!", err .. "!")
    assert.equal("1disk full: sda12", 1 .. err .. 2)
    assert.equal("disk full: sda1, disk full: sda1", err .. ", " .. err)
    local fine, why = pcall(function() return err .. nil end)
    assert.is_false(fine)
    assert.matches("errors_spec.lua:%d+: attempt to concatenate a failure and nil", why)
  end)

  it("has the methods of strings, also the script's own", function()
    assert.equal("sda1", err:match ": (%w+)$")
    assert.same({ 6, 9 }, { err:find("full", 1, true) })
    assert.equal("disk FULL: sda1", (err:gsub("full", string.upper)))
    assert.equal("DISK FULL: SDA1", err:upper())
    assert.equal(15, err:len())
    rawset(string, "first_word", function(s) return s:match "%a+" end)
    assert.equal("disk", err:first_word())
    rawset(string, "first_word", nil)
    assert.is_nil(err.first_word)
    assert.is_nil(err.code)
  end)

  it("keeps the fields of an error value that is a table, and its own", function()
    local with = support.failure_of(fails.remote, fails, { code = 7, format = "raw", find = 3 })
    assert.same({ 7, "raw", 3, "error" }, { with.code, with.format, with.find, with.kind })
    assert.equal("function", type(with.match))
  end)

  it("does so in workers", function()
    local f = tidepool.App "t":func(function(e) return "got: " .. e, e:match "^(.-):" end)
    assert.same({ "got: disk full: sda1", "disk full" }, { f:remote(err) })
  end)
end)
