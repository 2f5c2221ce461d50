--- What a function is, for those who keep results by it: the same in every process, and something
-- else as soon as what it does may differ.

-- luacheck: ignore 113
require "tidepool"
local identity = require "tidepool.engine.identity"
local support = require "tests.support"

local show = [[
  local identity = require "tidepool.engine.identity"
  function show(fn, setups)
    local parts, why = identity.parts(fn, setups)
    if not parts then return print("none: " .. why) end
    for _, part in ipairs(parts) do
      io.write(part[1], " ", (part[2]:gsub(".", function(c) return ("%02x"):format(c:byte()) end)), "\n")
    end
  end
]]

local function parts_of(script, options)
  local parts = {}
  for name, id in support.output_of(show .. script, options):gmatch "([^\n]*) (%x+)\n" do parts[name] = id end
  return parts
end

--- The names of the parts that two scripts do not share, in order.
local function differences(a, b, options_a, options_b)
  local x, y, names = parts_of(a, options_a), parts_of(b, options_b or options_a), {}
  assert.truthy(next(x))
  for name, id in pairs(x) do
    if y[name] ~= id then names[#names + 1] = name end
  end
  for name in pairs(y) do
    if not x[name] then names[#names + 1] = name end
  end
  table.sort(names)
  return table.concat(names, ", ")
end

local everything = [[
  local tidepool = require "tidepool"
  local app = tidepool.App "x"
  local train = { a = 1, bcd = 2, ce = { 1, 2, 3, x = "y", zz = true }, [1.5] = "n", [true] = 2, [-0.25] = 0 / 0 }
  local keys = { [{ 1 }] = "a", [{ 2 }] = "b", [{ 3, x = 1, yy = 2, zzz = 3 }] = "c" }
  local helper = function(x) return { alpha = x, beta = 2, gamma = { d = 1, e = 2, f = "three", [7] = "g" }, "q", 7 } end
  function Global(x) return helper(x).alpha end
  local Class = { name = "C", other = { p = 1, q = 2, r = 3 } }
  Class.__index = Class
  function Class:hello(n) return n + self.p end
  tidepool.class("my.Class", Class)
  local object = setmetatable({ p = 1, q = "a string that is longer than thirty-two bytes" }, Class)
  local decorated = app:func(function(x) return x + 1 end)
  local array = tidepool.array("double", { 1, 2, 3 })
  local constants = { one = 1, two = 2, three = 3, four = 4, five = 5, six = 6, seven = 7, eight = 8, nine = 9 }
  local fn = function(x)
    for _, v in pairs(train) do x = x + (tonumber(v) or 0) end
    local t = { one = 1, two = 2, three = 3, four = 4, five = 5, six = 6, seven = 7, eight = 8, nine = 9, ten = "ten" }
    return helper(x), Global(x), object:hello(x), decorated(x), keys, array, t, constants
  end
]]

describe("The identity of a function", function()
  it("is the same in every process", function()
    local seen, n = {}, 0
    for _ = 1, tonumber(os.getenv "TIDEPOOL_PROCESSES") or 8 do
      local text = support.output_of(show .. everything .. "show(fn)")
      if not seen[text] then n = n + 1 end
      seen[text] = true
    end
    assert.equal(1, n)
    assert.truthy(next(seen):find('upvalue "keys"', 1, true))
  end)

  it("does not depend on what was in the memory that it is computed in", function()
    local core = require "tidepool.core"
    local app = require "tidepool".App "x"
    local decorated, one = app:func(function(x) return x end), app:cls { work = function(self) return self.x end } { x = 1 }
    local ids, file = {}, support.temp_path()
    local function note()
      for _, value in ipairs { decorated, one, one.work, { one } } do ids[#ids + 1] = core.func.identity("argument", value) end
    end
    note()
    -- the identities of inputs come to lie where those strings have been
    app:func(function() end):map({ ("x"):rep(1000), ("y"):rep(1000), {} }, { journal = file }):list()
    for size = 1, 200 do core.func.identity("argument", { ("x"):rep(size), ("y"):rep(size) }) end
    note()
    app:func(function() end):map({ ("z"):rep(1000), one }, { journal = { file = file, name = "one" } }):list()
    note()
    for i = 1, 4 do assert.same({ ids[i], ids[i] }, { ids[i + 4], ids[i + 8] }) end
  end)

  it("does not change as the function runs and is compiled", function()
    local after = everything .. "for i = 1, 300 do fn(i) end decorated(1) show(fn)"
    assert.equal("", differences(everything .. "show(fn)", after))
    -- LuaJIT changes the bytecode of a loop over pairs once it turns out to be another one.
    local loop = "local fn = function(f, s, c) local n = 0 for k in pairs(s) do n = n + 1 end for k in f, s, c do n = n + 1 end return n end "
    assert.equal("", differences(loop .. "show(fn)", loop .. "for i = 1, 300 do fn(next, { 1, 2 }) fn(ipairs {}, { 1, 2 }, 0) end show(fn)"))
    local despecialised = "local pairs = function(t) return function(s, i) i = (i or 0) + 1 if s[i] then return i end end, t end "
      .. "local fn = function(t) local n = 0 for k in pairs(t) do n = n + 1 end return n end "
    assert.equal("", differences(despecialised .. "show(fn)", despecialised .. "for i = 1, 300 do fn { 1, 2 } end show(fn)"))
  end)

  it("does not change with lines, comments, other functions, names of locals and the file's place", function()
    local moved = everything:gsub("\n", "\n-- a comment\n\nlocal unused_" .. "= 1\n", 1):gsub("local t = {", "local table_of_constants = {")

      :gsub("nine = 9, ten = \"ten\" }", "\n nine = 9, -- nine\n ten = \"ten\" }")
      :gsub("keys, array, t, constants", "keys, array, table_of_constants, constants")
    assert.equal("", differences(everything .. "show(fn)", moved .. "function other() end show(fn)"))
  end)

  it("names the part that has changed", function()
    local function changed(from, to)
      local text, n = everything:gsub(from:gsub("%p", "%%%0"), (to:gsub("%%", "%%%%")))
      assert.equal(1, n, from)
      return differences(everything .. "show(fn)", text .. "show(fn)")
    end
    assert.equal('upvalue "train"', changed("zz = true", "zz = false"))
    assert.equal('upvalue "keys"', changed("yy = 2", "yy = 3"))
    assert.equal('upvalue "array"', changed("{ 1, 2, 3 })\n  local constants", "{ 1, 2, 4 })\n  local constants"))
    assert.equal('upvalue "object"', changed("n + self.p", "n - self.p"))
    assert.equal('upvalue "decorated"', changed("return x + 1 end", "return x + 2 end"))
    assert.equal('global "Global", upvalue "helper"', changed("beta = 2", "beta = 3"))
    assert.equal('global "Global"', changed("helper(x).alpha end", "helper(x).beta end"))
    assert.equal("code", changed("tonumber(v) or 0", "tonumber(v) or 1"))
    assert.equal("code", changed('ten = "ten"', 'ten = "Ten"'))
  end)

  it("tells values apart that look alike, and not those that are equal", function()
    local core = require "tidepool.core"
    local function value(text) return core.func.identity("value", loadstring("return " .. text)()) end
    assert.equal(value "{ a = 1, b = 2 }", value "{ b = 2, a = 1 }")
    assert.equal(value "{ 1, 2, nil, 4 }", value "{ 1, 2, nil, 4 }")
    assert.equal(value "0/0", value "-(0/0)")
    assert.equal(value "{ 1, 2, 3, 4, 5, 6, 7, 8, 0/0, 1, 2, 3, 4, 5 }",
      value "{ 1, 2, 3, 4, 5, 6, 7, 8, -(0/0), 1, 2, 3, 4, 5 }")
    local different = { "1", "'1'", "true", "nil", "{}", "{ 1 }", "{ [2] = 1 }", "{ {} }", "0", "-0", "1LL", "1ULL", "1i", "{ a = 1 }", "{ A = 1 }",
      "'a'", "('a'):rep(40)", "{ ('a'):rep(40), ('a'):rep(40) }", "function() return 1 end", "function() return 2 end", "print", "math", "math.sin" }
    for i, a in ipairs(different) do
      for j, b in ipairs(different) do
        if i ~= j then assert.not_equal(value(a), value(b), a .. " and " .. b) end
      end
    end
  end)

  it("has the modules that it uses, by what their files do, and those that they require", function()
    local script = [[
      package.path = "DIR/?.lua;" .. package.path
      local stats = require "stats"
      show(function(x) return stats.mean(x) end)
      show(function(x) return require("stats").mean(x) end)
    ]]
    local stats = [[local util = require "util" local M = { calls = 0 } M.started = os.time() + math.random()
      function M.mean(x) M.calls = M.calls + 1 return util.id(x) end return M]]
    local function with(a, b) return { files = { ["stats.lua"] = a, ["util.lua"] = b } } end
    local util = "return { id = function(x) return x end }"
    assert.equal("", differences(script, script, with(stats, util), with("-- a comment\n\n" .. stats, util)))
    assert.equal('module "stats"', differences(script, script, with(stats, util), with(stats:gsub("%+ 1", "+ 2"), util)))
    assert.equal('module "util"', differences(script, script, with(stats, util), with(stats, "return { id = function(x) return -x end }")))
  end)

  it("has what an app sets up in workers", function()
    local script = "show(function(x) return x end, { { fn = function() Rate = %d end } })"
    assert.equal("setup 1", differences(script:format(1), script:format(2)))
  end)

  it("is its own also where a function lay that had a name, of a module that was loaded again", function()
    local core = require "tidepool.core"
    for _ = 1, 3 do
      core.add_builtins("reloaded", { f = function() return 0 end, g = function() return 0 end, h = function() return 0 end })
      collectgarbage()
      collectgarbage()
      local expected = core.func.identity("fn", function() return 1 end)
      for _ = 1, 10000 do
        local fn = function() return 1 end
        assert.equal(expected, core.func.identity("fn", fn))
      end
    end
  end)

  it("is refused with the reason where a part cannot travel", function()
    local thread = coroutine.create(print)
    local parts, why = identity.parts(function() return thread end)
    assert.is_nil(parts)
    assert.equal('upvalue "thread": a coroutine cannot travel to a worker', why)
  end)

  it("is refused, not sought for ever, for tables that are each other's keys", function()
    local a, b = {}, {}
    a[b], b[a] = true, true
    local parts, why = identity.parts(function() return a end)
    assert.is_nil(parts)
    assert.truthy(why:find("cannot be compared", 1, true), why)
  end)
end)
