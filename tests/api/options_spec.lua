--- Every mistake of a user is one clear message with the user's own file and line, and changes
-- nothing. In these specs the wrong call stands on the line of the function that `mistake` is
-- given.

local tidepool = require "tidepool"
local executors = require "tidepool.engine.executors"
local support = require "tests.support"

local contains, mistake = support.contains, support.mistake

describe("A mistake", function()
  local app = tidepool.App "options"
  local f = app:func { name = "f" } (function(x) return x end)

  after_each(function() support.check_pool() end)

  describe("in the options of a function", function()
    it("that no option is called so names the nearest that is", function()
      mistake(function() app:func { concurency_limit = 5 } end, "concurency_limit", "did you mean", "concurrency_limit")
      mistake(function() app:func { retrys = 5 } end, "retrys", "retries")
      mistake(function() app:func { Name = "x" } end, "Name", "name")
      mistake(function() app:func { zzzzzzzz = 1 } end, "zzzzzzzz")
      mistake(function() app:func { [{}] = 1 } end, "option")
      mistake(function() app:func({ nam = "x" }, f.raw) end, "nam", "name")
      mistake(function() f:with { windw = 5 } end, "windw", "window")
      mistake(function() tidepool.App("x", { retires = 1 }) end, "retires", "retries")
    end)

    it("that only a cloud has says why it is refused", function()
      for _, name in ipairs { "image", "region", "proxy", "secrets", "cloud" } do
        local err = mistake(function() app:func { [name] = "x" } end, name)
        assert.is_nil(err:find("did you mean", 1, true), err)
      end
    end)

    it("that is of a wrong type or out of range names option, value and what is allowed", function()
      for _, name in ipairs { "concurrency_limit", "max_containers", "max_workers", "window" } do
        for _, value in ipairs { 0, -1, 1.5, 0 / 0, 1 / 0, "5", true, {} } do
          mistake(function() app:func { [name] = value } end, name, type(value) == "table" and "table" or tostring(value))
        end
      end
      for _, value in ipairs { -1, 1.5, 0 / 0, "x", true } do
        mistake(function() app:func { retries = value } end, "retries", tostring(value))
      end
      for _, value in ipairs { 5, true, {} } do
        mistake(function() app:func { name = value } end, "name", "string")
      end
    end)

    it("in a table of retries names the field", function()
      mistake(function() app:func { retries = { mx = 1 } } end, "retries", "mx", "max")
      mistake(function() app:func { retries = { max = -1 } } end, "retries", "max", "-1")
      mistake(function() app:func { retries = { max = "2" } } end, "retries", "max")
      mistake(function() app:func { retries = { max = 2, initial_delay = -1 } } end, "initial_delay", "-1")
      mistake(function() app:func { retries = { max = 2, backoff = 0 / 0 } } end, "backoff")
      mistake(function() app:func { retries = { max = 2, max_delay = "x" } } end, "max_delay")
      mistake(function() app:func { retries = { max = 2, jitter = 7 } } end, "jitter", "7")
      mistake(function() app:func { retries = { max = 2, on = 5 } } end, "on", "function")
    end)

    it("about the executor says which there are", function()
      mistake(function() app:func { executor = "thread" } end, "executor", "thread", "threads")
      mistake(function() app:func { executor = 5 } end, "executor", "5")
      mistake(function() app:func { executor = "gpuu" } end, "executor", "inline", "threads")
    end)

    it("that only worker processes can keep is refused with others", function()
      mistake(function() app:func { memory = "64M", executor = "threads" } end, "memory", "process")
      mistake(function() app:func { executor = "threads", timeout = 1 } end, "timeout", "process")
      mistake(function() app:func { executor = "inline", crash_retries = 1 } end, "crash_retries", "process")
      mistake(function() app:func { gpu = true, timeout = 1 } end, "timeout", "process")
      local threads = tidepool.App("x", { executor = "threads" })
      mistake(function() threads:func({ timeout = 1 }, function() end) end, "timeout", "process")
    end)

    it("that an executor cannot honour names those that can", function()
      local said = support.output_of [[
        local core = require "tidepool.core"
        local list = core.executors()
        list[#list + 1] = { name = "rooms", summary = "rooms of their own", runs_lua = true, kill = true }
        list[#list + 1] = { name = "islands", summary = "islands", runs_lua = true, isolated = true, bounds_memory = true }
        core.executors = function() return list end
        local tidepool = require "tidepool"
        local app = tidepool.App "needs"
        local function complain(fn, ...)
          local _, why = pcall(fn, ...)
          print((tostring(why):gsub("^[^:]*:%d+: ", "")))
        end
        complain(app.func, app, { executor = "threads", timeout = 1 })
        complain(app.func, app, { gpu = true, timeout = 1 })
        complain(app.func, app, { executor = "rooms", memory = "1M" })
        complain(app.func, app, { executor = "nowhere" })
        complain(tidepool.App("x", { timeout = 1 }).func, tidepool.App("x", { timeout = 1 }), { executor = "inline" }, print)
        local options = require "tidepool.options"
        print(options.executor { timeout = 1 }.name, options.executor { memory = 5 }.name, options.executor {}.name,
          options.executor { gpu = true }.name)]]
      --- The executors that there are with a capability, and more.
      local function those(capability, ...)
        local list = executors.that("runs_lua", capability)
        for _, name in ipairs { ... } do list[#list + 1] = { name = name } end
        return executors.in_words(list)
      end
      local killing = those("kill", "rooms")
      assert.equal(([[
app:func: option 'timeout' needs an executor that can stop what runs by force: %s, not "threads"
app:func: option 'timeout' needs an executor that can stop what runs by force: %s, not a device
app:func: option 'memory' needs an executor that bounds the memory of an item: %s, not "rooms"
app:func: option 'executor' must be %s, got the string "nowhere"
app:func: option 'timeout' needs an executor that can stop what runs by force: %s, not "inline"
processes	processes	threads	opencl
]]):format(killing, killing, those("bounds_memory", "islands"), those("runs_lua", "rooms", "islands"), killing), said)
    end)

    it("that gives an option twice, by its alias, is told", function()
      mistake(function() app:func { concurrency_limit = 5, max_workers = 6 } end, "concurrency_limit", "max_workers")
      mistake(function() app:func { max_containers = 5, max_workers = 6 } end, "concurrency_limit", "max_")
      mistake(function() f:with { concurrency_limit = 5, max_workers = 6 } end, "concurrency_limit", "max_workers")
      mistake(function() f:map({ 1 }, { ordered = true, order_outputs = false }) end, "ordered", "order_outputs")
    end)

    it("is told in an app's defaults and in with() too", function()
      mistake(function() tidepool.App("x", { concurrency_limit = 0 }) end, "tidepool.App", "concurrency_limit", "0")
      mistake(function() tidepool.App("x", { max_workers = "2" }) end, "tidepool.App", "max_workers", "2")
      mistake(function() tidepool.App { retries = -1 } end, "tidepool.App", "retries", "-1")
      mistake(function() tidepool.App("x", { memory = "1G", executor = "inline" }) end, "memory", "process")
      mistake(function() tidepool.App("x", { image = "debian" }) end, "image")
      mistake(function() f:with { max_containers = 1.5 } end, "Function:with", "max_containers", "1.5")
      mistake(function() f:with { executor = "processses" } end, "Function:with", "processes")
      mistake(function() f:with { region = "eu" } end, "Function:with", "region")
      mistake(function() f:with() end, "Function:with", "nil")
    end)

    it("that is of one function cannot be a default", function()
      for option, value in pairs { name = "n", kernel = "double f(double x) { return x; }" } do
        mistake(function() tidepool.App("x", { [option] = value }) end, "tidepool.App", option)
      end
    end)
  end)

  describe("in the decorator", function()
    it("is told when it gets no function", function()
      mistake(function() app:func(42) end, "app:func", "number")
      mistake(function() app:func "name" end, "app:func", "string")
      mistake(function() app:func {} (42) end, "function", "number")
      mistake(function() app:func {} () end, "function")
      mistake(function() app:func({}, "x") end, "function", "string")
      mistake(function() app:func {} {} end, "function", "table")
    end)

    it("is told when it is called with a dot", function()
      mistake(function() app.func(function() end) end, "app:func")
      mistake(function() app.func { name = "x" } end, "app:func")
      mistake(function() app.main(function() end) end, "app:main")
    end)

    it("is none when the function is a builtin", function()
      local g = app:func(math.sqrt)
      assert.same({ 2, 3, n = 2 }, g:map({ 4, 9 }):list())
    end)
  end)

  it("is none when an option overrides the app's: the nearer of gpu and executor counts", function()
    assert.is_nil(tidepool.App("x", { executor = "inline" }):func({ gpu = true }, f.raw).options.executor)
    assert.equal("cluster", tidepool.App("x", { executor = "cluster" }):func({ gpu = true }, f.raw).options.executor) -- on its devices
    assert.is_nil(tidepool.App("x", { gpu = true }):func({ executor = "inline" }, f.raw).options.gpu)
    local g = app:func({ gpu = true }, f.raw):with { executor = "inline" }
    assert.equal(3, (g:remote(3)))
  end)

  describe("in a call", function()
    it("with a dot shows the right form", function()
      mistake(function() f.map({ 1, 2, 3 }) end, "f:map(")
      mistake(function() f.map() end, "f:map(")
      mistake(function() f.starmap({ { 1 } }) end, "f:starmap(")
      mistake(function() f.for_each({ 1 }) end, "f:for_each(")
      mistake(function() f.remote(1) end, "f:remote(")
      mistake(function() f.spawn(1) end, "f:spawn(")
    end)

    --- g(inputs):map() must say how it is meant.
    local function shows_the_right_form(g)
      local inputs = { 1, 2, 3 }
      local ok, err = pcall(function()
        local results = g(inputs):map()
        return results
      end)
      assert.is_false(ok)
      contains(tostring(err), "options_spec.lua:", ":map(inputs)")
    end

    it("f(inputs):map() shows the right form when f cannot take a list", function()
      shows_the_right_form(app:func { name = "square" } (function(x) return x * x end))
    end)

    it("f(inputs):map() shows the right form when f returns nothing", function()
      shows_the_right_form(app:func { name = "nothing" } (function() end))
    end)

    it("f(inputs):map() shows the right form when f returns a number", function()
      shows_the_right_form(app:func { name = "count" } (function(x) return #x end))
    end)

    it("about inputs says which input, what it is, and what is expected", function()
      mistake(function() f:map(nil) end, "map: input 1 is nil (a table or an iterator expected)")
      mistake(function() f:map() end, "map", "input")
      mistake(function() f:map(42) end, "map: input 1 is a number (a table or an iterator expected)")
      mistake(function() f:map("abc") end, "map: input 1 is a string (a table or an iterator expected)")
      mistake(function() f:map({ 1 }, 42) end, "map: input 2 is a number")
      mistake(function() f:map(true, { 1 }) end, "map: input 1 is a boolean")
      mistake(function() f:map({ 1 }, nil, { 1 }) end, "map: input 2 is nil")
      mistake(function() f:for_each(42) end, "for_each: input 1 is a number")
      mistake(function() f:spawn_map(42) end, "spawn_map: input 1 is a number")
      mistake(function() f:starmap(nil) end, "starmap: input 1 is nil")
      mistake(function() f:starmap(42) end, "starmap: input 1 is a number")
      mistake(function() f:map(io.stdout) end, "map: input 1 is a file")
      mistake(function() f:map(coroutine.create(print)) end, "map: input 1 is a thread")
      mistake(function() f:map(app) end, "map: input 1 is a tidepool.App (a table or an iterator expected)")
      mistake(function() f:map(f:spawn(1)) end, "map: input 1 is a tidepool.Call")
      mistake(function() f:map(tidepool.async(print)) end, "map: input 1 is a tidepool.Task")
    end)

    it("that gives the three values of pairs as three inputs shows the right form", function()
      mistake(function() f:map(pairs { 1, 2 }) end, "map: input 1", "tidepool.iter(pairs(t))")
      mistake(function() f:map(ipairs { 1, 2 }) end, "map: input 1", "tidepool.iter(ipairs(t))")
      mistake(function() f:map(next, { 1, 2 }) end, "map: input 1", "tidepool.iter(pairs(t))")
    end)

    it("that gives a list with a hole beside an iterator is told", function()
      mistake(function() f:map({ 1, nil, 3 }, function() end) end, "map: input 1 has a hole at [2]")
      mistake(function() f:map(function() end, { 1, nil, 3 }) end, "map: input 2 has a hole at [2]")
    end)

    it("that gives a table with names where a list is expected is told, and misspelled options are too", function()
      mistake(function() f:map({ 1, 2 }, { return_exeptions = true }) end, "return_exeptions", "return_exceptions")
      mistake(function() f:map({ 1, 2 }, { return_exceptions = true, windw = 3 }) end, "windw", "window")
      mistake(function() f:map({ a = 1, b = 2 }) end, "map: input 1")
    end)

    it("that gives only options is told that inputs are missing", function()
      mistake(function() f:map({ return_exceptions = true }) end, "map", "input")
    end)

    it("with a bad n is told", function()
      mistake(function() f:map({ n = -1 }) end, "map: input 1", "n")
      mistake(function() f:map({ n = 1.5, 1 }) end, "map: input 1", "n")
      mistake(function() f:map({ n = "2", 1, 2 }) end, "map: input 1", "n")
    end)

    it("about call options names option, value and what is allowed", function()
      mistake(function() f:map({ 1 }, { return_exceptions = "yes" }) end, "return_exceptions", "yes", "true or false")
      mistake(function() f:map({ 1 }, { ordered = 1 }) end, "ordered", "true or false", "1")
      mistake(function() f:map({ 1 }, { order_outputs = "no" }) end, "order", "true or false", "no")
      mistake(function() f:map({ 1 }, { window = 0 }) end, "window", "0")
      mistake(function() f:map({ 1 }, { window = 2.5 }) end, "window", "2.5")
      mistake(function() f:map({ 1 }, { window = "4" }) end, "window", "4")
      mistake(function() f:map({ 1 }, { on_error = 5 }) end, "on_error", "function")
      mistake(function() f:map({ 1 }, { halt = 5 }) end, "halt", "failures")
      mistake(function() f:map({ 1 }, { halt = {} }) end, "halt", "needs a field failures, share or success")
      mistake(function() f:map({ 1 }, { halt = { sucess = 1 } }) end, "halt", "success")
      mistake(function() f:map({ 1 }, { halt = { share = 1 } }) end, "halt", "share", "below 1")
      mistake(function() f:map({ 1 }, { halt = { failures = 0 } }) end, "halt", "failures", "at least 1")
      mistake(function() f:map({ 1 }, { halt = { failures = 2 } }) end, "halt", "return_exceptions")
      mistake(function() f:starmap({ { 1 } }, { window = -1 }) end, "window", "-1")
      mistake(function() f:starmap({ { 1 } }, 5) end, "starmap", "options", "5")
      mistake(function() f:starmap({ { 1 } }, "x") end, "starmap", "options", "x")
      mistake(function() f:starmap({ { 1 } }, { window = 1, retries = 1 }) end, "retries")
      mistake(function() f:for_each({ 1 }, { ignore_exception = true }) end, "ignore_exceptions")
      mistake(function() f:spawn_map({ 1 }, { ignore_exceptions = true }) end, "ignore_exceptions", "return_exceptions")
    end)

    it("starts nothing", function()
      local path = support.temp_path()
      local note = support.note
      local noted = app:func(function(x) note(path, x) end)
      pcall(noted.map, noted, { 1, 2, 3 }, { window = 0 })
      pcall(noted.map, noted, { 1, 2, 3 }, 42)
      support.sleep(0.05)
      assert.same({}, support.notes(path))
    end)
  end)

  describe("elsewhere", function()
    it("in App, main and include is told", function()
      mistake(function() tidepool.App(42) end, "App", "42")
      mistake(function() tidepool.App("x", 42) end, "App", "42")
      mistake(function() app:main(42) end, "main", "a number")
      mistake(function() app:main {} (42) end, "main", "number")
      mistake(function() app:include(42) end, "include", "42")
      mistake(function() app:include({}) end, "include")
    end)

    it("in range is told", function()
      mistake(function() tidepool.range() end, "range")
      mistake(function() tidepool.range("x") end, "range", "string")
      mistake(function() tidepool.range(1, 10, 0) end, "range", "step")
      mistake(function() tidepool.range(0 / 0) end, "range")
      mistake(function() tidepool.range(1, {}) end, "range", "table")
    end)

    it("in iter and class is told", function()
      mistake(function() tidepool.iter(nil) end, "iter", "nil")
      mistake(function() tidepool.iter(42) end, "iter", "42")
      mistake(function() tidepool.class(42, {}) end, "class", "42")
      mistake(function() tidepool.class("x") end, "class")
      mistake(function() tidepool.class("", {}) end, "class")
    end)

    it("in Results and Calls is told", function()
      local results, call = f:map { 1 }, f:spawn(1)
      mistake(function() results.list() end, "results:list()")
      mistake(function() results.next() end, "results:next()")
      mistake(function() call.get() end, "call:get()")
      mistake(function() call:get("x") end, "get", "x")
      assert.equal(1, results:list().n)
      assert.equal(1, call:get())
    end)
  end)

  it("ends a script with exit code 1, the message and the user's line", function()
    local done = support.run_script [[
local tidepool = require "tidepool"
local app = tidepool.App "t"
local f = app:func { concurency_limit = 5 } (function(x) return x end)
]]
    assert.equal(1, done.code)
    contains(done.stderr, "job.lua:3: ", "concurency_limit", "concurrency_limit")
    assert.is_nil(done.stderr:find("[tidepool]/", 1, true), done.stderr)
  end)

  it("found inside a worker names the worker's line", function()
    local g = app:func(function(x)
      local list = f:map(x):list()
      return list
    end)
    local failure = support.failure_of(g.remote, g, 42)
    contains(failure.message, "options_spec.lua:", "map: input 1 is a number")
  end)
end)

describe("Aliases", function()
  local app = tidepool.App "aliases"

  it("mean the option they stand for", function()
    local f = app:func(function(x) return x end)
    local n = 0
    for _ in f:map({ 1, 2, 3 }, { order_outputs = false }) do n = n + 1 end
    assert.equal(3, n)
    for _, name in ipairs { "concurrency_limit", "max_containers", "max_workers" } do
      assert.equal(3, app:func { [name] = 2 } (f.raw):map({ 1, 2, 3 }):list().n)
    end
  end)
end)
