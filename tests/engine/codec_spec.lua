--- What travels to a worker, seen through f:remote: functions with all they need, modules, handles;
-- and what is refused.

local tidepool = require "tidepool"
local support = require "tests.support"

local contains = support.contains

describe("A function travels", function()
  local app = tidepool.App "codec"

  local shapes = "local shapes = {}\nfunction shapes.area(x) return x * x end\nreturn shapes\n"

  --- The function's values, computed in a worker.
  local function there(fn, ...)
    return app:func { name = "there" } (fn):remote(...)
  end

  after_each(function() support.check_pool() end)

  it("with its upvalues, whatever their types", function()
    local n, s, t, yes, none = 1, "s", { 2, { 3 } }, true, nil
    local a, b, c, d, e, f = there(function() return n, s, t[1], t[2][1], yes, none end)
    assert.same({ 1, "s", 2, 3, true }, { a, b, c, d, e })
    assert.is_nil(f)
  end)

  it("with functions as upvalues, recursively", function()
    local function c(x) return x + 1 end
    local function b(x) return c(x) * 2 end
    local function a(x) return b(x) - 3 end
    assert.equal(9, there(function(x) return a(x) end, 5))
  end)

  it("when it calls itself, or another that calls it back", function()
    local function factorial(n) return n <= 1 and 1 or n * factorial(n - 1) end
    assert.equal(120, there(factorial, 5))
    local even
    local function odd(n) return n ~= 0 and even(n - 1) end
    function even(n) return n == 0 or odd(n - 1) end
    assert.is_true(there(function(n) return even(n) end, 10))
  end)

  it("when functions made at one place know each other", function()
    local all = {}
    for i = 1, 3 do
      all[i] = function(x)
        if x == 0 then return i, all[i] == all[1] end
        return all[i % #all + 1](x - 1)
      end
    end
    local f = app:func(function(i, x) return all[i](x) end)
    assert.same({ 1, true }, { f:remote(1, 0) })
    assert.same({ 2, false }, { f:remote(3, 5) })
    local given = app:func(function(list, first) return first == list[1], list[2](4) end)
    assert.same({ true, 3, false }, { given:remote(all, all[1]) })
  end)

  it("with upvalues that it shares with another function of the message", function()
    local count = 0
    local function up() count = count + 1 end
    local function get() return count end
    assert.equal(2, there(function()
      up()
      up()
      return get()
    end))
    assert.equal(0, count)
    assert.same({ 3, 3 }, { there(function(counter)
      counter.up()
      counter.up()
      counter.up()
      return counter.get(), counter.get()
    end, { up = up, get = get }) })
  end)

  it("with tables that upvalues and arguments of one kind share among themselves", function()
    local shared = {}
    local a, b = { shared }, { shared }
    assert.is_true(there(function() return a[1] == b[1] end))
  end)

  it("with the globals that it reads, and the globals of those", function()
    codec_spec_base = 10 -- luacheck: ignore
    codec_spec_add = function(x) return x + codec_spec_base end -- luacheck: ignore
    assert.equal(15, there(function(x) return codec_spec_add(x) end, 5)) -- luacheck: ignore
    codec_spec_fib = function(n) return n < 2 and n or codec_spec_fib(n - 1) + codec_spec_fib(n - 2) end -- luacheck: ignore
    assert.equal(55, there(function(n) return codec_spec_fib(n) end, 10)) -- luacheck: ignore
  end)

  it("with the library as a global", function()
    local before = rawget(_G, "tidepool")
    rawset(_G, "tidepool", require "tidepool")
    assert.equal("function", there(function() return type(tidepool.range) end)) -- luacheck: ignore
    rawset(_G, "tidepool", before)
  end)

  it("with an environment of its own", function()
    local fn = function(x) return helper(x) .. tostring(missing) end -- luacheck: ignore
    setfenv(fn, setmetatable({ helper = function(x) return "<" .. x .. ">" end }, { __index = _G }))
    assert.equal("<a>nil", there(fn, "a"))
  end)

  it("and finds no global that nobody set", function()
    assert.is_nil(there(function() return codec_spec_nobody end)) -- luacheck: ignore
  end)

  it("with builtins by name, which are the worker's own", function()
    local insert, format, floor = table.insert, string.format, math.floor
    local list = {}
    local text = there(function()
      insert(list, floor(2.7))
      return format("%d", list[1])
    end)
    assert.equal("2", text)
    assert.same({}, list)
    assert.equal(string, (there(function() return string end)))
    assert.equal(print, (there(function() return print end)))
  end)

  it("with modules by name, Lua and C", function()
    local cjson, lfs, luassert = require "cjson", require "lfs", require "luassert.util"
    assert.equal('[1,2]', there(function() return cjson.encode { 1, 2 } end))
    assert.equal("directory", there(function() return lfs.attributes("/tmp", "mode") end))
    local encode = cjson.encode
    assert.equal('{"a":1}', there(function() return encode { a = 1 } end))
    assert.is_true(there(function() return luassert.deepcompare({ 1 }, { 1 }) end))
    assert.equal(cjson, (there(function() return cjson end)))
  end)

  it("with modules found through the caller's package.path", function()
    local output = support.output_of([[
      package.path = "DIR/?.lua;" .. package.path
      local tidepool = require "tidepool"
      local shapes = require "shapes"
      local f = tidepool.App("t"):func(function(x) return shapes.area(x) end)
      print(unpack(f:map({ 1, 2 }):list()))
      local area = shapes.area
      print(tidepool.App("u"):func(function(x) return area(x) end):remote(3))
    ]], { files = { ["shapes.lua"] = shapes } })
    assert.equal("1\t4\n9\n", output)
  end)

  it("and may itself require modules, which are looked for where the caller would", function()
    local output = support.output_of([[
      package.path = "DIR/?.lua;" .. package.path
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x) return require("shapes").area(x) end)
      print(unpack(f:map({ 1, 2 }):list()))
    ]], { files = { ["shapes.lua"] = shapes } })
    assert.equal("1\t4\n", output)
  end)

  it("with handles of other functions, which run in the same pool", function()
    local double = app:func(function(x) return 2 * x end)
    assert.equal(10, there(function(x) return (double:remote(x)) end, 5))
    assert.equal(12, there(function(x) return double(x) end, 6))
    assert.equal(14, there(function(f, x) return (f:remote(x)) end, double, 7))
  end)

  it("and handles come back as what they were", function()
    local double = app:func { name = "double" } (function(x) return 2 * x end)
    local back = there(function(f) return f end, double)
    assert.equal("double", back.name)
    assert.equal(4, (back:remote(2)))
  end)

  it("with varargs, many arguments and many results", function()
    assert.equal(0, there(function(...) return select("#", ...) end))
    assert.equal(3, there(function(...) return select("#", ...) end, nil, nil, nil))
    local values = {}
    for i = 1, 200 do values[i] = i end
    local function pack(...) return { n = select("#", ...), ... } end
    local back = pack(there(function(...) return ... end, unpack(values)))
    assert.equal(200, back.n)
    assert.equal(200, back[200])
  end)

  it("after it was compiled and changed in the caller", function()
    local k = 1
    local fn = function(x)
      local s = 0
      for i = 1, 1000 do s = s + i * x * k end
      return s
    end
    for _ = 1, 200 do fn(1) end
    assert.equal(500500, there(fn, 1))
    k = 2
    assert.equal(1001000, there(fn, 1))
  end)

  it("made by load from text, and as a result that the caller can call", function()
    local fn = loadstring "local a, b = ... return a * b"
    assert.equal(6, there(fn, 2, 3))
    local adder = there(function(n) return function(x) return x + n end end, 10)
    assert.equal(15, adder(5))
  end)

  it("with strings that look like bytecode, which stay strings", function()
    local s = string.dump(function() return 1 end)
    assert.equal(s, there(function(x) return x end, s))
  end)

  it("with typed numbers as upvalues", function()
    local big = 9007199254740993LL
    assert.equal(9007199254740994LL, there(function() return big + 1 end))
  end)

  it("with a class that it captures", function()
    local Stack = {}
    Stack.__index = Stack
    function Stack.new() return setmetatable({ n = 0 }, Stack) end
    function Stack:push(x)
      self.n = self.n + 1
      self[self.n] = x
      return self
    end
    tidepool.class("codec.Stack", Stack)
    local stack = there(function() return Stack.new():push(1):push(2) end)
    assert.equal(2, stack.n)
    assert.equal(Stack, getmetatable(stack))
    stack = there(function(s) return s:push "c" end, stack)
    assert.equal(3, stack.n)
  end)

  it("with a class whose methods were added after it was made known", function()
    local Late = {}
    Late.__index = Late
    tidepool.class("codec.Late", Late)
    there(function(o) return o end, setmetatable({}, Late))
    function Late.hello() return "hello" end
    assert.equal("hello", there(function(o) return o:hello() end, setmetatable({}, Late)))
  end)
end)

describe("What cannot travel is refused before anything runs, with its path:", function()
  local app = tidepool.App "refused"

  --- Maps fn over one input; expects a refusal with the parts, and that fn did not run.
  local function refused(fn, ...)
    local f = app:func { name = "evaluate" } (fn)
    local ok, err = pcall(function()
      local list = f:map({ 1 }):list()
      return list
    end)
    assert.is_false(ok)
    contains(tostring(err), "evaluate", ...)
    if tidepool.is_failure(err) then assert.equal("codec", err.kind) end
    support.check_pool()
  end

  it("an upvalue that is an open file", function()
    local conn = io.tmpfile()
    refused(function() return conn end, 'upvalue "conn": a userdata cannot travel to a worker')
  end)

  it("something inside an upvalue's table", function()
    local state = { db = { handles = { io.tmpfile() } } }
    refused(function() return state end, 'upvalue "state".db.handles[1]', "a userdata cannot travel")
  end)

  it("an upvalue of a function that is an upvalue", function()
    local conn = coroutine.create(print)
    local function query() return conn end
    refused(function() return query() end, 'upvalue "query"', 'upvalue "conn"', "a coroutine cannot travel")
  end)

  it("a global", function()
    codec_spec_db = io.tmpfile() -- luacheck: ignore
    refused(function() return codec_spec_db end, 'global "codec_spec_db": a userdata cannot travel') -- luacheck: ignore
  end)

  it("running Results and Calls", function()
    local give = app:func(function(x) return x end)
    local results, call = give:map { 1 }, give:spawn(1)
    refused(function() return call end, 'upvalue "call"', "cannot travel") -- first: waiting for anything may end it
    refused(function() return results end, 'upvalue "results"', "cannot travel")
    assert.equal(1, call:get())
    assert.equal(1, results:list().n)
  end)

  it("a userdata without bytes, whatever lies behind it", function()
    for _ = 1, 300 do
      local proxy = newproxy()
      refused(function() return proxy end, 'upvalue "proxy"', "cannot travel")
    end
  end)

  it("a table with an unknown metatable", function()
    local object = setmetatable({}, {})
    refused(function() return object end, 'upvalue "object"', "metatable", "tidepool.class")
  end)

  it("an argument of remote and spawn, by its number", function()
    local give = app:func { name = "give" } (function(x) return x end)
    local ok, err = pcall(give.remote, give, 1, { io.tmpfile() })
    assert.is_false(ok)
    contains(tostring(err), "give", "argument 2[1]", "a userdata cannot travel")
    ok, err = pcall(function() return give:spawn(io.tmpfile()):get() end)
    assert.is_false(ok)
    contains(tostring(err), "argument 1", "a userdata cannot travel")
  end)
end)
