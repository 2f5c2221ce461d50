--- What a mapped function finds in a worker is what it finds in the script: modules under all their
-- names, changed libraries, globals by computed names; and what it changes in a worker is gone when
-- the next input begins.

-- luacheck: ignore 142 143
local support = require "tests.support"


describe("A module with several names", function()
  after_each(function() support.check_pool() end)

  it("is loaded in workers by all of them, whatever their order in package.loaded", function()
    local files, script = {}, { [[package.path = "DIR/?.lua;" .. package.path local tidepool = require "tidepool" local app = tidepool.App "t"]] }
    for i = 1, 8 do
      files[("part%d_core.lua"):format(i)] = "return { base = 1 }"
      files[("part%d.lua"):format(i)] = ([[local core = require "part%d_core" function core.more(x) return x + core.base end return core]]):format(i)
      script[#script + 1] = ([[do local m = require "part%d" io.write(app:func(function(x) return m.more(x) end):remote(%d), " ") end]]):format(i, i)
    end
    assert.equal("2 3 4 5 6 7 8 9 ", support.output_of(table.concat(script, "\n"), { files = files }))
  end)

  it("is found under a name that only the script has given it", function()
    assert.equal("2\n", support.output_of([[
      package.path = "DIR/?.lua;" .. package.path
      local shapes = require "shapes"
      package.loaded.s = shapes
      print(require("tidepool").App("t"):func(function(x) return shapes.double(x) end):remote(1))
    ]], { files = { ["shapes.lua"] = "return { double = function(x) return 2 * x end }" } }))
  end)

  it("is found under the name that is left of them", function()
    assert.equal("2\t4\n", support.output_of([[
      package.path = "DIR/?.lua;" .. package.path
      local shapes = require "shapes"
      local f = require("tidepool").App("t"):func(function(x) return shapes.double(x) end)
      local first = f:remote(1)
      package.loaded.shapes, package.loaded["other"] = nil, shapes
      package.preload.other = nil
      print(first, (f:remote(2)))
    ]], { files = { ["shapes.lua"] = "return { double = function(x) return 2 * x end }",
      ["other.lua"] = "return { double = function(x) return 2 * x end }" } }))
  end)
end)

describe("A module that has not loaded in a worker", function()
  it("is tried again for the next input, also when a module that it needs was what failed", function()
    local text = [[
      package.path = "DIR/?.lua;" .. package.path
      package.loaded.shapes = {}
      local shapes = require "shapes"
      local app = require("tidepool").App "t"
      for _, f in ipairs {
        app:func { retries = { max = 1, initial_delay = 0 } } (function(x) return shapes.double(x) end),
        app:func { retries = { max = 1, initial_delay = 0 } } (function(x) return require "others".double(x) end),
      } do
        print(f:remote(1))
      end
    ]]
    local module = [[require "NAME_core" return { double = function(x) return 2 * x end }]]
    local core = [[
      local path = package.path:match "^(.-)/%?" .. "/NAME_tried"
      if io.open(path) then return {} end
      io.open(path, "w"):close()
      error("not yet", 0)
    ]]
    local files = {}
    for _, name in ipairs { "shapes", "others" } do
      files[name .. ".lua"], files[name .. "_core.lua"] = module:gsub("NAME", name), core:gsub("NAME", name)
    end
    assert.equal("2\n2\n", support.output_of(text, { files = files, workers = 1 }))
  end)
end)

--- A script's values of `values`, an expression list for each line, computed here and in a worker:
-- both, as "here | there" lines.
local function both(prelude, ...)
  local parts = { [[local tidepool = require "tidepool" local app = tidepool.App "t"]], prelude }
  for _, values in ipairs { ... } do
    parts[#parts + 1] = ([[do local f = app:func { name = "f" } (function(x) return %s end)
      local function text(...) for i = 1, select("#", ...) do io.write(tostring((select(i, ...))), " ") end end
      text(f("a")) io.write "| " text(f:remote("a")) print() end]]):format(values)
  end
  return support.output_of(table.concat(parts, "\n"))
end

describe("Globals that a function does not name", function()
  it("are found by what asks for them by computed names", function()
    local prelude = [[factor = 3 local G = _G local get = loadstring function by_name(name) return rawget(_G, name) end]]
    assert.equal(("3 | 3 \n"):rep(12), both(prelude, "package.loaded._G['fac' .. 'tor']", "require '_G'.factor",
      "debug.getfenv(function() end)['fac' .. 'tor']", "_G.factor", "_G['fac' .. 'tor']", "getfenv().factor", "rawget(_G, 'fac' .. 'tor')",
      "loadstring 'return factor'()", "G.factor", "get 'return factor'()", "by_name 'factor'",
      "assert(load(function() local t = x x = nil return t and 'return factor' end))()"))
  end)

  it("are the worker's own to write to", function()
    assert.equal("4 | 5 \n", both("n = 3", "(function() _G.n = _G.n + 1 return n end)()"))
  end)

  it("are those of the call, though another function found others before", function()
    assert.equal("1 2 1 nil\n", support.output_of [[
      local tidepool = require "tidepool"
      local app = tidepool.App "t"
      local get = app:func(function(k) return _G[k] end)
      local own = app:func(function() return level end)
      level = 1
      io.write(get:remote "level", " ")
      level = 2
      io.write(get:remote "level", " ")
      level = 1
      io.write(get:remote "level", " ")
      level = nil
      print((own:remote()))
    ]])
  end)

  it("that cannot travel say so where they are used, by name", function()
    local output = support.output_of [[
      local tidepool = require "tidepool"
      conn, fine = io.tmpfile(), 5
      local f = tidepool.App "t":func(function(k) return _G[k] == nil, _G.fine, _G[k].write end)
      print(select(2, pcall(f.remote, f, "conn")).message)
    ]]
    assert.truthy(output:find('global "conn" cannot be used here: a userdata cannot travel to a worker', 1, true), output)
    -- What stands for it would come back, and raise there.
    output = support.output_of [[
      local tidepool = require "tidepool"
      conn = io.tmpfile()
      local app = tidepool.App "t"
      local inner = app:func(function(x) return x end)
      for _, executor in ipairs { "threads", "processes", "inline" } do
        local f = app:func { executor = executor } (function(k, how)
          local x = _G[k]
          if how == "pass" then return inner:remote(x) end
          return 1, { x = x }
        end)
        print(select(2, pcall(f.remote, f, "conn")).message)
        print(select(2, pcall(f.remote, f, "conn", "pass")).message)
      end
    ]]
    local why = 'global "conn" cannot be used here: a userdata cannot travel to a worker'
    local _, n = output:gsub((why:gsub("%p", "%%%0")), "")
    assert.equal(6, n, output)
    assert.truthy(output:find("result 2.x: " .. why, 1, true), output)
    assert.truthy(output:find("argument 1: " .. why, 1, true), output)
  end)

  it("are those of the function's own environment when it has one", function()
    assert.equal("7 | 7 \n", both([[
      local reader = setfenv(function() return getfenv()['sec' .. 'ret'] end, { secret = 7, getfenv = getfenv })
    ]], "reader()"))
  end)
end)

describe("What a script has changed in standard libraries", function()
  it("is in workers too: added, replaced, removed", function()
    assert.equal("[a] [a] 2.5 9 nil %a | [a] [a] 2.5 9 nil %a \n", both([[
      function string.wrap(s) return "[" .. s .. "]" end
      function math.half(x) return x / 2 end
      math.floor = function() return 9 end
      os.tmpname = nil
      getmetatable("").__unm = function(s) return "%" .. s end
    ]], "x:wrap(), string.wrap(x), math.half(5), math.floor(1.5), os.tmpname, -x"))
  end)

  it("is what it has added to libraries that differ between states, whatever items do to them", function()
    assert.equal(("1 2 3 nil\n"):rep(3), support.output_of([[
      local tidepool = require "tidepool"
      local ffi = require "ffi"
      function ffi.one() return 1 end
      function jit.two() return 2 end
      function package.three() return 3 end
      local app = tidepool.App "t"
      local f = app:func(function() return ffi.one(), jit.two(), package.three(), ffi.four end)
      local g = app:func(function() ffi.one, jit.two, ffi.four = nil, nil, 4 end)
      for _ = 1, 3 do
        print((("%d %d %d %s"):format(f:remote())))
        g:remote()
      end
    ]], { workers = 1 }))
  end)

  it("are metatables of types", function()
    assert.equal("3 | 3 \n", both("debug.setmetatable(1, { __index = math })", "(9):sqrt()"))
  end)

  it("is gone again when the script takes it back, and for functions that travelled before", function()
    assert.equal("1 nil 1 nil\n", support.output_of [[
      local tidepool = require "tidepool"
      local f = tidepool.App "t":func(function() return math.one and math.one() end)
      local out = {}
      for i = 1, 4 do
        math.one = i % 2 == 1 and function() return 1 end or nil
        out[i] = tostring((f:remote()))
      end
      print(table.concat(out, " "))
    ]])
  end)

  it("says so where it is used when it cannot travel", function()
    local output = support.output_of [[
      local tidepool = require "tidepool"
      local out = io.tmpfile()
      function string.show(s) out:write(s) end
      local app = tidepool.App "t"
      local f = app:func(function(s) return s:show() end)
      print(select(2, pcall(f.remote, f, "x")).message)
      print((app:func(function(s) return s:upper() end):remote "x"))
    ]]
    assert.truthy(output:find('string.show, which is defined in the script, cannot be used here: upvalue "out": a userdata cannot', 1, true), output)
    assert.truthy(output:find "X\n$", output)
  end)

  it("is in nested maps too", function()
    assert.equal("!1 !2 2\n", support.output_of [[
      local tidepool = require "tidepool"
      function string.bang(s) return "!" .. s end
      local app = tidepool.App "t"
      local inner = app:func(function(s) return s:bang() end)
      local outer = app:func(function() local r = inner:map({ "1", "2" }):list() return r[1], r[2], #r end)
      print((("%s %s %d"):format(outer:remote())))
    ]])
  end)
end)

describe("What a script has changed in modules that it requires", function()
  local shapes = [[local shapes = {}
    function shapes.double(x) return 2 * x end
    function shapes.twice(x) return shapes.double(x) end
    return shapes]]

  --- What the script prints, with that module and one that changes it.
  local function of_shapes(script, module)
    return support.output_of([[
      package.path = "DIR/?.lua;" .. package.path
      local tidepool = require "tidepool"
      local app = tidepool.App "t"
      local shapes = require "shapes"
    ]] .. script, { files = { ["shapes.lua"] = module or shapes } })
  end

  it("is in workers too: functions added and replaced", function()
    assert.equal("6 30 60 false\n", of_shapes [[
      function shapes.triple(x) return 3 * x end
      function shapes.double(x) return 10 * x end
      local f = app:func(function(x) return shapes.triple(x), shapes.double(x + 1), shapes.twice(2 * x + 2), shapes.none == true end)
      local a, b, c, d = f:remote(2)
      print(("%d %d %d %s"):format(a, b, c, tostring(d)))
    ]])
  end)

  it("is there where a function requires the module itself, and where another one does not know it", function()
    assert.equal("9 4\n", of_shapes [[
      function shapes.triple(x) return 3 * x end
      local f = app:func(function(x) return require "shapes".triple(x) end)
      local g = app:func(function(x) return x + 1 end)
      print(("%d %d"):format(f:remote(3), g:remote(3)))
    ]])
  end)

  it("is as it was at the call, and gone again when it was taken back", function()
    assert.equal("2 1 10 nil 10\n", of_shapes [[
      local f = app:func(function() return shapes.double(1), shapes.extra and shapes.extra() end)
      local before = f:remote()
      function shapes.extra() return 10 end
      local _, extra = f:remote()
      local original = shapes.double
      function shapes.double(x) return x end
      local changed = f:remote()
      shapes.extra, shapes.double = nil, original
      local after = { f:remote() }
      shapes.extra = function() return 10 end
      local again = { f:remote() }
      print(("%d %d %d %s %d"):format(before, changed, extra, tostring(after[2]), again[2]))
    ]])
  end)

  it("is in processes and nested maps too, and in what -e and the module's own upvalues say", function()
    assert.equal("11 11\n", of_shapes [[
      local step = 10
      function shapes.more(x) return x + step end
      local inner = app:func(function(x) return shapes.more(x) end)
      local outer = app:func { executor = "processes" } (function(x) return inner:map({ x }):list()[1] end)
      print(("%d %d"):format(outer:remote(1), inner:with { executor = "processes" }:remote(1)))
    ]])
    assert.equal("7\n", of_shapes [[
      assert(loadstring("local shapes = ... function shapes.seven() return 7 end", "=(command line)"))(shapes)
      print(app:func(function() return shapes.seven() end):remote() .. "")
    ]])
  end)

  it("says so where it is used when it cannot travel", function()
    local output = of_shapes [[
      local out = io.tmpfile()
      function shapes.show(s) out:write(s) end
      local f = app:func(function(s) return shapes.show(s) end)
      print(select(2, pcall(f.remote, f, "x")).message)
      print((app:func(function(x) return shapes.double(x) end):remote(2)))
    ]]
    assert.truthy(output:find('shapes.show, which is defined in the script, cannot be used here: upvalue "out": a userdata cannot', 1, true), output)
    assert.truthy(output:find "4\n$", output)
  end)

  it("is no matter of what a module does to itself, or another to it", function()
    assert.equal("5\n", of_shapes([[print(app:func(function() return shapes.five() end):remote() .. "")]], [[
      local shapes, conn = {}, io.tmpfile()
      return setmetatable(shapes, { __index = function(t, key)
        t[key] = function() return conn and 5 end
        return t[key]
      end })
    ]]))
  end)
end)

describe("What an item changes in its worker", function()
  local tidepool = require "tidepool"
  local app = tidepool.App "changes"
  local probe = app:func { name = "probe" } (function()
    local list = { tostring(debug.gethook()), type(string.format), type(table.concat), type(print), ("x"):upper(), package.path,
      tostring(getmetatable("").__unm), tostring(rawget(math, "extra")), tostring(io.output() == io.stdout), os.setlocale(), tostring((jit.status())),
      tostring(debug.getmetatable(1)), tostring(#package.loaders), loadstring "return type(string)"(),
      tostring(package.preload.of_an_item) }
    return table.concat(list, " ")
  end)

  local breaks = {
    ["a hook"] = function() debug.sethook(function() error "hook" end, "", 1) end,
    ["string.format"] = function() string.format = nil end, -- luacheck: ignore
    ["table.concat"] = function() table.concat = nil end, -- luacheck: ignore
    ["print in _G"] = function() _G.print = 5 end, -- luacheck: ignore
    ["the string metatable's __index"] = function() getmetatable("").__index = {} end,
    ["a new event of strings"] = function() getmetatable("").__unm = print end,
    ["package.path"] = function() package.path = "nowhere" end,
    ["a new field of math"] = function() math.extra = 1 end, -- luacheck: ignore
    ["a captured library"] = (function() local m = math return function() m.extra = 1 end end)(),
    ["the default output"] = function() io.output(io.stderr) end,
    ["the compiler"] = function() jit.off() end,
    ["the thread's environment"] = function() setfenv(0, {}) end,
    ["numbers' metatable"] = function() debug.setmetatable(1, { __index = math }) end,
    ["the loaders"] = function() table.insert(package.loaders, 1, function() end) end,
    ["a loader of one module"] = function() package.preload.of_an_item = print end,
    ["everything, with an error"] = function()
      string.format, table.concat, string.gsub, string.find, _G.type = nil, nil, nil, nil, nil -- luacheck: ignore
      error "broken"
    end,
  }

  for what, change in pairs(breaks) do
    it("is as before for the next one: " .. what, function()
      local before = probe:remote()
      local f = app:func { name = "change" } (change)
      for _ = 1, 2 * support.workers() do pcall(f.remote, f) end
      for _, text in probe:map(tidepool.range(50)) do assert.equal(before, text) end
    end)
  end

  it("is as before for the next one of the same map", function()
    local f = app:func(function(x)
      local had = math.extra == nil
      math.extra = x -- luacheck: ignore
      return had
    end)
    for _, had in f:map(tidepool.range(200)) do assert.is_true(had) end
  end)

  it("is there in the maps that it starts, as it is in a loop, and still there for itself after them", function()
    local inner = app:func(function(x)
      local found = math.extra
      math.extra = x -- luacheck: ignore
      return found
    end)
    local outer = app:func(function()
      math.extra = 7 -- luacheck: ignore
      local found = inner:map(tidepool.range(10)):list()
      return found, math.extra
    end)
    local found, extra = outer:remote()
    found.n = nil
    assert.same({ { 7, 7, 7, 7, 7, 7, 7, 7, 7, 7 }, 7 }, { found, extra })
  end)

  it("stays when a module did it while it was loaded", function()
    assert.equal("3 3 3 3\n", support.output_of([[
      package.path = "DIR/?.lua;" .. package.path
      local tidepool = require "tidepool"
      local f = tidepool.App "t":func(function() require "adds" return math.three() end)
      print(table.concat(f:map(tidepool.range(4)):list(), " "))
    ]], { files = { ["adds.lua"] = "function math.three() return 3 end" } }))
  end)
end)

describe("app:setup", function()
  local tidepool = require "tidepool"

  after_each(function() support.check_pool() end)

  it("runs in each worker once, before the first item of the app's functions, and keeps what it sets", function()
    local path = support.temp_path()
    local note, level = support.note, 3
    local app = tidepool.App "prepared"
    local first = app:func(function(x) return require("cjson").encode(x / 3), string.prepared end) -- made before it
    app:setup(function()
      require "cjson".encode_number_precision(level)
      string.prepared = "yes" -- luacheck: ignore
      note(path, "set up")
    end)
    local second = app:func(function(x) return require("cjson").encode(x / 3) end)
    for _, text, prepared in first:map(tidepool.range(100)) do
      assert.is_true(#text <= 5, text)
      assert.equal("yes", prepared)
    end
    for _, text in second:map(tidepool.range(100)) do assert.is_true(#text <= 5, text) end
    local times = #support.notes(path)
    assert.is_true(times >= 1 and times <= support.workers(), times)
    for _, f in ipairs { first, second } do f:map(tidepool.range(100)):list() end
    assert.is_true(#support.notes(path) <= support.workers())
    assert.is_nil(string.prepared)
  end)

  it("leaves what it sets to all functions of the app: globals, variables, tables, also deep ones", function()
    assert.equal(("open 1 3 4 nil 1 \n"):rep(9), support.output_of([[
      local tidepool = require "tidepool"
      local app = tidepool.App "kept"
      local connection, settings, shared = nil, { deep = { old = 1 } }, { runs = 0 }
      local function connect() connection = "open" settings.deep.old = nil end
      app:setup(function()
        connect()
        settings.deep[1], of_setup = 1, 3
        settings.deep.whole, shared.deep, settings.deep = settings, settings.deep, settings.deep
        require "cjson".of_setup = 4
        shared.runs = shared.runs + 1
      end)
      local function look()
        local is_whole = settings.deep.whole == settings and shared.deep == settings.deep
        return connection, is_whole and settings.deep[1], of_setup, require "cjson".of_setup, settings.deep.old, shared.runs
      end
      local f, g = app:func(look), app:func { name = "g" } (function(x) return look(x) end)
      local function show(...)
        for i = 1, 6 do io.write(tostring((select(i, ...))), " ") end
        print()
      end
      show(f:remote())
      for _, a, b, c, d, e, i in f:map { 1, 2 } do show(a, b, c, d, e, i) end
      show(g:remote())
      for _, a, b, c, d, e, i in g:map { 1, 2 } do show(a, b, c, d, e, i) end
      -- What it may reach besides is left alone: functions and apps, and what modules keep.
      local other = tidepool.App "other"
      other:setup(function()
        connect()
        settings.deep[1], of_setup, shared.f, shared.runs = 1, 3, f, 1
        settings.deep.whole, shared.deep = settings, settings.deep
      end)
      for i = 1, 3 do show(other:func(function() return look() end):remote()) end
    ]], { workers = 1 }))
  end)

  it("runs for each app, though an earlier one that is gone may have had its address", function()
    assert.equal("0\n", support.output_of([[
      local tidepool = require "tidepool"
      local wrong = 0
      for i = 1, 60 do
        local app = tidepool.App "short"
        app:setup(loadstring("of_setup = " .. i))
        if app:func(function() return of_setup end):remote() ~= i then wrong = wrong + 1 end
        app = nil
        collectgarbage()
      end
      print(wrong)
    ]], { workers = 1 }))
  end)

  it("runs before nested maps' items too, and several run in their order", function()
    local app, order = tidepool.App "order", {}
    app:setup(function() order[#order + 1] = "a" end)
    app:setup(function() order[#order + 1] = "b" end)
    local inner = app:func(function() return table.concat(order) end)
    local outer = tidepool.App "other":func(function() return inner:map({ 1, 2, 3 }):list() end)
    for _, text in ipairs((outer:remote())) do assert.equal("ab", text) end
  end)

  -- An inner map's functions take along what the worker has, so what the setup sets is there before
  -- it runs.
  it("keeps what it sets where an inner map came first, as modules do", function()
    assert.equal("0\n0\n", support.output_of([[
      package.path = "DIR/?.lua;" .. package.path
      local tidepool = require "tidepool"
      local app = tidepool.App "kept"
      app:setup(function() math.of_setup = 7 end)
      -- run(f): the values of f that are not as expected, once both workers have run it
      local function run(f)
        local wrong, seen = 0, {}
        repeat
          for _, value, worker in f:map(tidepool.range(4)) do
            wrong, seen[worker] = wrong + (value == 7 and 0 or 1), true
          end
        until seen[1] and seen[2]
        return wrong
      end
      local function slow(field, module)
        return app:func(function()
          if module then require(module) end
          tidepool.sleep(0.01)
          return math[field], tidepool.current().worker
        end)
      end
      for _, each in ipairs { { "of_setup" }, { "of_module", "sets" } } do
        local inner = slow(unpack(each))
        app:func(function()
          if each[2] then require(each[2]) end
          run(inner)
        end):remote()
        print(run(slow(unpack(each))))
      end
    ]], { workers = 2, files = { ["sets.lua"] = "math.of_module = 7 return {}" } }))
  end)

  it("that fails fails the inputs, with its app and line, and is tried again for the next", function()
    local path = support.temp_path()
    local app = tidepool.App "broken"
    app:setup(function()
      if not io.open(path) then error "there is no file" end
    end)
    local f = app:func { name = "f" } (function(x) return x end)
    local results = f:map({ 1, 2 }, { return_exceptions = true }):list()
    for i = 1, 2 do
      assert.truthy(results[i].message:find "^setup of app 'broken': .*travel_spec.lua:%d+: there is no file$", results[i].message)
      assert.equal(i, results[i].index)
    end
    support.note(path, "there")
    assert.equal(3, (f:remote(3)))
  end)

  it("may not call the app's functions, which wait for it", function()
    local app = tidepool.App "round"
    local f = app:func { name = "f" } (function(x) return x end)
    app:setup(function() f:remote(1) end)
    local _, failure = pcall(f.remote, f, 1)
    support.contains(failure.message, "setup of app 'round' calls a function of that app, which needs it first")
    assert.is_true(#failure.message < 1000, failure.message)
  end)

  it("is refused by name when it is no function or cannot travel", function()
    local app = tidepool.App "refused"
    support.mistake(function() app:setup(5) end, "app:setup: expected a function, got a number")
    local file = io.tmpfile()
    app:setup(function() file:write "x" end)
    local f = app:func { name = "f" } (function(x) return x end)
    local _, failure = pcall(f.remote, f, 1)
    assert.truthy(failure.message:find('setup[1].fn: upvalue "file": a userdata cannot travel', 1, true), failure.message)
  end)
end)

describe("A table that a function captures", function()
  local tidepool = require "tidepool"
  local app = tidepool.App "captured"

  it("is the same table when it comes in an input", function()
    local NONE, red = {}, setmetatable({ name = "red" }, nil)
    local colours = { red = red, blue = { name = "blue" } }
    local which = app:func(function(x, list)
      return x == NONE, x == colours.red, list ~= nil and list[2] == colours.blue
    end)
    assert.same({ n = 3, true, false, false }, which:map({ NONE, 1, {} }):list())
    assert.same({ true, false, false }, { which:remote(NONE) })
    assert.same({ false, true, true }, { which:remote(red, { 1, colours.blue, n = 2 }) })
    local weights = { [NONE] = 1, [red] = 2 }
    local weigh = app:func(function(x) return weights[x] end)
    assert.same({ n = 3, 1, 2, 1 }, weigh:starmap({ { NONE }, { red }, { NONE } }):list())
  end)

  it("is the script's own when a result or an error carries it back", function()
    local NONE, shown = {}, setmetatable({}, tidepool.class("shown", { __tostring = function() return "shown" end }))
    local find = app:func(function(x)
      if x == 3 then error(NONE) end
      return x == 1 and NONE or { x, shown, shown }
    end)
    local got = find:map({ 1, 2, 3 }, { return_exceptions = true }):list()
    assert.equal(NONE, got[1])
    assert.equal(shown, got[2][2])
    assert.equal(shown, got[2][3])
    assert.equal(NONE, got[3].value)
    assert.equal(NONE, (find:remote(1)))
    local cyclic = { name = "cyclic" }
    cyclic.self, cyclic.list = cyclic, { cyclic }
    local give = app:func(function() return cyclic.list[1], cyclic.list end)
    local a, b = give:remote()
    assert.equal(cyclic, a)
    assert.equal(cyclic.list, b)
  end)

  it("travels by value once it has been written to", function()
    local out, deep = { n = 0 }, { point = { x = 0 } }
    local scratch = app:func(function(x)
      out.n, deep.point.x = x, x
      return out, deep, deep.point
    end)
    local a, b, c = scratch:map({ 5, 6, 7 }):list()
    assert.same({ 5, 6, 7 }, { a[1].n, a[2].n, a[3].n })
    assert.same({ 5, 6, 7 }, { b[1].point.x, b[2].point.x, b[3].point.x })
    assert.same({ 5, 6, 7 }, { c[1].x, c[2].x, c[3].x })
    assert.same({ n = 0 }, out)
    local state = { pos = { 0 }, name = "state" }
    local read = app:func(function(s) return s.pos[1], s == state end)
    local i = 0
    local positions, same = read:map(function()
      i = i + 1
      state.pos[1] = i - 1
      if i <= 3 then return state end
    end):list()
    assert.same({ 0, 1, 2 }, { positions[1], positions[2], positions[3] })
    assert.same({ true, false, false }, { same[1], same[2], same[3] })
  end)

  it("travels by value when what is in it could change without a trace", function()
    local ffi = require "ffi"
    local big = { limit = ffi.new("int64_t", 7) }
    local give = app:func(function(x) return x.limit, big.limit end)
    assert.same({ 7LL, 7LL }, { give:remote(big) })
  end)

  it("is the same in maps inside of items, and for a function called again", function()
    local NONE = {}
    local inner = app:func(function(x) return x == NONE and "none" or NONE end)
    local outer = app:func(function(x)
      local list = inner:map({ NONE, x, NONE }):list()
      return list[1], list[2] == NONE, list[3], list[2]
    end)
    for _ = 1, 3 do
      local a, b, c, d = outer:remote(1)
      assert.same({ "none", true, "none" }, { a, b, c })
      assert.equal(NONE, d)
      NONE = {} -- equal bytes, another table
    end
  end)
end)

describe("A function that has not changed", function()
  it("is sent once, though the first map of a script loads more of Tidepool", function()
    local text = [[
      local n = 0
      local f = require("tidepool").App("t", { executor = "EXECUTOR" }):func(function() n = n + 1 return n end)
      print(f:remote(), f:map({ 0 }):list()[1], f:remote())
    ]]
    for _, executor in ipairs { "threads", "processes" } do
      assert.equal("1\t2\t3\n", support.output_of((text:gsub("EXECUTOR", executor)), { workers = 1 }))
    end
  end)
end)
