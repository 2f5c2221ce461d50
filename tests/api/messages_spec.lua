--- What the mistakes of a first week are told: the name of what is wrong, and what would be right.

local devices = require "tests.support_device"
local support = require "tests.support"
local tidepool = require "tidepool"

local contains, failure_of = support.contains, support.failure_of

describe("What cannot travel", function()
  local app = tidepool.App "messages"
  local give = app:func(function(x) return x end)

  --- The error of giving x to a function, or of one that captures it, has these texts.
  local function refused(x, ...)
    local as_argument = failure_of(function() give:remote(x) end)
    local as_upvalue = failure_of(function() app:func(function() return x end):remote() end)
    for _, f in ipairs { as_argument, as_upvalue } do
      assert.equal("codec", f.kind)
      contains(tostring(f), "messages_spec.lua:", ...)
    end
  end

  it("says what it is, and what to do instead", function()
    local lpeg = require "lpeg"
    refused(lpeg.P "a", "a userdata cannot travel to a worker (lpeg-pattern: make it inside of the function, or in app:setup)")
    refused(coroutine.create(print), "a coroutine cannot travel to a worker")
    refused(coroutine.wrap(print), "a coroutine (of coroutine.wrap) cannot travel to a worker")
    local call = give:spawn(1)
    refused(call, "a Call cannot travel to a worker: pass what call:get() gives")
    local task = tidepool.async(function() end)
    refused(task, "a Task cannot travel to a worker: pass what task:get() gives")
    local results = give:map { 1 }
    refused(results, "Results cannot travel to a worker: pass what results:list() gives")
    results:list()
    task:get()
    call:get()
  end)

  it("as an input of a map is told with the line that gives or reads it", function()
    local thread = coroutine.create(print)
    local each = app:func { yields = true } (function(x) coroutine.yield(x) end)
    local function inputs()
      local i = 0
      return function()
        i = i + 1
        if i <= 3 then return i == 2 and thread or i end
      end
    end
    for name, fails in pairs {
      list = function() give:map({ 1, thread, 3 }):list() end,
      iterator = function() give:map(inputs()):list() end,
      ["side by side"] = function() give:map({ 1, 2 }, { 3, thread }):list() end,
      starmap = function() give:starmap({ { 1 }, { thread } }):list() end,
      for_each = function() give:for_each({ 1, thread }) end,
      stream = function() for _ in each:flat_map({ 1, thread }) do end end,
      processes = function() give:with({ executor = "processes" }):map({ 1, thread }):list() end,
      inline = function() give:with({ executor = "inline" }):map({ 1, thread }):list() end,
      task = function() tidepool.async(function() give:map({ 1, thread }):list() end):get() end,
    } do
      local failure = failure_of(fails)
      assert.same({ "codec", 2 }, { failure.kind, failure.index }, name)
      local line = debug.getinfo(fails, "S").linedefined
      contains(failure.message, ("messages_spec.lua:%d: argument "):format(line), ": a coroutine cannot travel to a worker")
    end
  end)

  it("is named with its path and its class", function()
    local Shape = { __name = "Shape" }
    refused({ objects = { { shape = setmetatable({}, Shape) } } },
      ".objects[1].shape: a table with an unknown metatable of class Shape cannot travel to a worker",
      "(make it known with tidepool.class, or let a module have the class in a field)")
  end)

  it("may be a thing of a library, which goes by its name there", function()
    local dkjson = require "dkjson"
    local null = dkjson.null
    local is_null = app:func(function(x) return x == dkjson.null, x == null, dkjson.encode { x } end)
    assert.same({ true, true, "[null]" }, { is_null:remote(null) })
    local dir = support.temp_dir()
    local file = assert(io.open(dir .. "/held_function.lua", "w"))
    file:write "local hidden = newproxy(true) return { pack = function(x) return type(hidden) .. x end }"
    file:close()
    local path = package.path
    package.path = dir .. "/?.lua;" .. path
    local pack = require "held_function".pack
    assert.equal("userdata1", app:func(function(x) return pack(x) end):remote(1))
    package.path = path
  end)

  it("are no ranges, apps and files that every worker has", function()
    local sum = app:func(function(range)
      local s = 0
      for x in range do s = s + x end
      return s
    end)
    assert.equal(10, sum:remote(tidepool.range(4)))
    local other = tidepool.App "other"
    local conn = io.tmpfile()
    local reads = other:func(function() return conn end) -- cannot travel, but the app that has it can
    assert.equal("other", app:func(function() return other.name end):remote())
    contains(tostring(failure_of(function() reads:remote() end)), 'upvalue "conn": a userdata cannot travel to a worker (FILE*: make it inside')
    conn:close()
    local stderr = io.stderr
    assert.is_true(app:func(function() return stderr == io.stderr end):remote())
  end)

  it("is a module that only the script can load", function()
    package.preload["of_the_script"] = function() return { a = 1 } end
    local ours = require "of_the_script"
    local f = failure_of(function() app:func(function() return ours.a end):remote() end)
    contains(f.message, 'module "of_the_script" is not to be found in a worker', "app:setup")
    assert.is_nil(f.message:find("\n", 1, true))
    local other = tidepool.App "with setup"
    other:setup(function() package.preload["of_the_script"] = function() return { a = 2 } end end)
    assert.equal(2, other:func(function() return require "of_the_script".a end):remote())
    package.preload["of_the_script"], package.loaded["of_the_script"] = nil, nil
    package.loaded["vim._editor"] = { cmd = function() return 1 end }
    local vim = package.loaded["vim._editor"]
    f = failure_of(function() app:func(function() return vim.cmd() end):remote() end)
    contains(f.message, 'the editor (module "vim._editor") is not in workers: use it in the task')
    package.loaded["vim._editor"] = nil
  end)
end)

describe("A mistake", function()
  local app = tidepool.App "mistakes"
  local f = app:func { name = "f" } (function(x) return x end)

  local function mistake(fn, ...)
    local fine, why = pcall(fn)
    assert.is_false(fine)
    contains(tostring(why), "messages_spec.lua:", ...)
  end

  it("has no place of ours in front", function()
    local failed = failure_of(function() app:func(error):map({ "a" }):list() end)
    assert.equal("a", failed.message)
    assert.equal("a", failed.value)
  end)

  it("names what would be right", function()
    mistake(function() f:map({ 1, 2 }, 5) end, "input 2 is a number", "tidepool.const(5)")
    mistake(function() f:map({ 1, 2 }, "x") end, "input 2 is a string", "tidepool.const")
    mistake(function() app:func { workers = 8 } end, "option 'workers' is not of one function", "-w N", "concurrency_limit")
    mistake(function() f:mapp { 1 } end, "f has no method 'mapp' (did you mean 'map'?)")
    mistake(function() return f:spwan(1) end, "did you mean 'spawn'?")
    mistake(function() f:Map { 1 } end, "f has no method 'Map' (did you mean 'map'?)")
    mistake(function() return app:Func {} end, "an app has no method 'Func' (did you mean 'func'?)")
    mistake(function() return tidepool.asynk() end, "tidepool has no function 'asynk' (did you mean 'async'?)")
    mistake(function() return tidepool.Sleep(1) end, "tidepool has no function 'Sleep' (did you mean 'sleep'?)")
    assert.is_nil(f.description)
    assert.is_nil(app.description)
    assert.is_nil(tidepool.description)
    mistake(function() f:starmap({ 1, 2 }):list() end, "starmap: item 1 is a number (a table expected)")
    mistake(function() tidepool.array("int", 3) end, 'did you mean "int32"?')
    mistake(function() tidepool.array("number", 3) end, 'did you mean "double"?')
    mistake(function() f:map(tidepool.const(1), tidepool.const(2)) end, "all inputs are constants")
    mistake(function() f:starmap({ { 1 } }, { 2 }) end, "Function:starmap takes one list, of the arguments of each call", "f:map(xs, ys)")
    mistake(function() app:func { 1 } end, "app:func: options have names", "but this table has element 1: 1")
    mistake(function() f:reduce { 1 } end, "f has no method 'reduce': its results have, as in f:map(inputs):reduce()")
  end)

  it("in the name of a method names the one that is meant, of each class", function()
    local call, task, event, dict, queue = f:spawn(1), tidepool.async(function() end), tidepool.event(), tidepool.Dict(), tidepool.Queue()
    local a, results, stream = tidepool.array("double", 3), f:map { 1, 2 }, f:stream(1)
    mistake(function() a:slcie(1) end, "an array has no method 'slcie' (did you mean 'slice'?)")
    mistake(function() results:lsit() end, "Results have no method 'lsit' (did you mean 'list'?)")
    mistake(function() call:gett() end, "a call has no method 'gett' (did you mean 'get'?)")
    mistake(function() task:cancle() end, "a task has no method 'cancle' (did you mean 'cancel'?)")
    mistake(function() event:faill() end, "an event has no method 'faill' (did you mean 'fail'?)")
    mistake(function() stream:nextt() end, "a stream has no method 'nextt' (did you mean 'next'?)")
    mistake(function() dict:set("a", 1) end, "a Dict has no method 'set' (did you mean 'put'?)")
    mistake(function() queue:pop() end, "a Queue has no method 'pop' (did you mean 'get'?)")
    mistake(function() results.total = 3 end, "Results have no field 'total' that could be set: take results:list()")
    -- what is not near may be asked for
    assert.same({ nil, nil, nil, nil }, { a.name, call.name, task.result, event.name })
    event:set()
    stream:cancel()
    call:get()
    task:get()
    assert.equal(3, results:sum())
  end)

  -- Looking for what is near takes some 20 us, as long as a task does.
  it("in a name is looked for where a user makes it, not where our code asks for fields that are not set", function()
    local check = require "tidepool.base.check"
    local missing, asked = check.missing, {}
    check.missing = function(what, key, ...)
      if type(key) == "string" then asked[#asked + 1] = what .. ": " .. key end
      return missing(what, key, ...)
    end
    local fine, why = pcall(function()
      local event = tidepool.event()
      event:set(1)
      event:get()
      f:spawn(1):get()
      tidepool.async(function() return f:spawn(2):get() end):get()
      tidepool.gather { f:spawn(1), tidepool.async(function() end) }
      for _ in tidepool.as_completed { f:spawn(1), tidepool.async(function() end) } do end
      for _ in f:stream(1) do end
      tidepool.array("double", { 1, 2 }):sum()
      f:map(tidepool.array("double", { 1, 2 })):array()
    end)
    check.missing = missing
    assert.same({ {}, true }, { asked, fine }, why)
  end)

  it("in a function of C that is called for the user has the user's line", function()
    mistake(function() f:map({ 1, "a" }):reduce(math.max, 0) end, "bad argument #2 to the function of results:reduce (number expected, got string)")
    mistake(function() tidepool.Dict():update("a", math.max) end, "bad argument #1 to the function of dict:update (number expected, got nil)")
    local failing = app:func(function() error "x" end)
    mistake(function() failing:map({ 1 }, { on_error = math.max }):list() end, "bad argument #1 to the function that is told of failures")
  end)

  it("in a size of memory shows the size as people read it", function()
    local grow = function() return #("x"):rep(1e8) end
    for given, shown in pairs { [10] = "10 bytes", ["100k"] = "100 KiB", ["3M"] = "3 MiB" } do
      contains(failure_of(function() app:func { executor = "processes", memory = given } (grow):remote() end).message, "have " .. shown)
    end
  end)

  devices.on_device(it, pending)("with a device names the function that was called, and what would be right", function()
    local device = tidepool.gpu.device()
    local b = device:buffer("double", { 1, 2, 3 })
    local k = device:kernel "__kernel void k(__global double *a, int n) { a[0] = n; }"
    mistake(function() b:write { 1, "a" } end, 'buffer:write: element 2 of the list is the string "a", not a number')
    mistake(function() b:write { 1, nil, 3 } end, "buffer:write: element 2 of the list is nil, not a number")
    mistake(function() b:write({ 1 }, "x") end, 'buffer:write: expected the number of the first element, got the string "x"')
    mistake(function() device:buffer("double", { 1, "a" }) end, "device:buffer: element 2 of the list is")
    mistake(function() b:wirte { 1 } end, "a buffer has no method 'wirte' (did you mean 'write'?)")
    mistake(function() return b.size end, "a buffer has no field 'size': the number of its elements is #buffer")
    mistake(function() return b.lenght end, "a buffer has no field 'lenght' (did you mean 'length'?)")
    mistake(function() b:list() end, "a buffer has no method 'list': buffer:read() gives the elements, in an array")
    mistake(function() b:free() end, "a buffer has no method 'free': its memory goes when nobody holds it any more")
    mistake(function() k:run(1, b, 2) end, "a kernel has no method 'run': it is called itself: kernel(number of work items, ")
    mistake(function() k(4, 4, b, 2) end, "takes 2 arguments after global_size, got 3; two or three sizes are a list: { columns, rows }")
    mistake(function() device:buffer { 1, 2 } end, 'got a table, without its element type: device:buffer("float", list)')
    mistake(function() device:has(5) end, "device:has: expected the name of an extension, got 5")
    mistake(function() b:copy(5) end, "buffer:copy takes no arguments", "has got more: 5")
    mistake(function() b:reduce(5) end, "buffer:reduce: expected a function, got a number")
    mistake(function() b:reduce(print) end, "fn does not exist here: a device has no output")
    mistake(function() tidepool.gpu.device("any", 5) end, "tidepool.gpu.device takes a device, or a list of them, but has got more: 5")
    mistake(function() app:func { gpu = true } (print):map({ 1 }):list() end, "cannot be translated: it is a C function")
    mistake(function() device:kernell "x" end, "a device has no method 'kernell' (did you mean 'kernel'?)")
    mistake(function() k:tiem() end, "a kernel has no method 'tiem' (did you mean 'time'?)")
    assert.same({ nil, nil }, { b.name, device.max_bufers })
  end)

  it("in what an array is made of is no shorter array", function()
    local hole = "is nil, not a number"
    mistake(function() tidepool.array("double", { 1, nil, 3 }) end, "element 2 of the list " .. hole)
    mistake(function() tidepool.array("double", { nil, nil, 3 }) end, "element 1 of the list " .. hole)
    mistake(function() tidepool.array("double", { [5] = 1 }) end, "element 1 of the list " .. hole)
    mistake(function() tidepool.array("double", { { 1, nil, 3 }, { 1 } }) end, "element 2 of row 1 " .. hole)
    mistake(function() tidepool.array("double", { { 1 }, { 1, nil, 3 } }) end, "element 2 of row 2 " .. hole)
    mistake(function() tidepool.array("double", { row = 2, cols = 3 }) end, "the list has names (", "a shape is { rows =, columns = }")
    mistake(function() tidepool.array("double", { rows = 2, cols = 3 }) end, "and has no 'cols'")
    mistake(function() tidepool.array("double", 1e15) end, "must be an integer of at least 0 and at most 2^45, got 1e+15")
    mistake(function() tidepool.array("double", 0 / 0) end, "must be an integer of at least 0 and at most 2^45, got nan")
    assert.equal(0, #tidepool.array("double", {}))
    assert.equal(2, #tidepool.array("double", { 1, 2, n = 2 }))
  end)

  it("in a field of an array is told of as a field", function()
    local a = tidepool.array("double", 3)
    mistake(function() a.scale = 2 end, "an array has no field 'scale' that could be set: its elements are numbered, from 1")
    mistake(function() a[4] = 2 end, "array index 4 is out of range: the array has 3 elements")
  end)

  it("is not needed: a constant comes with every input", function()
    local add = app:func(function(a, b, c) return a + b + (c or 0) end)
    assert.same({ n = 3, 11, 12, 13 }, add:map({ 1, 2, 3 }, tidepool.const(10)):list())
    assert.same({ n = 2, 111, 112 }, add:map(tidepool.range(2), tidepool.const(10), tidepool.const(100)):list())
    local i = 0
    assert.same({ n = 2, 6, 7 }, add:map(function() i = i + 1 if i < 3 then return i end end, tidepool.const(5)):list())
    local name = app:func(function(x, t) return x .. t.name end)
    assert.same({ n = 2, "1a", "2a" }, name:map({ 1, 2 }, tidepool.const { name = "a" }):list())
    assert.same({ n = 1, false }, app:func(function(_, b) return b == true end):map({ 1 }, tidepool.const(nil)):list())
    local array = tidepool.array("double", { 1, 2 })
    assert.same({ n = 2, 3, 4 }, add:map(array, tidepool.const(2)):list())
    assert.equal(3LL, add:map({ 1 }, tidepool.const(2LL)):list()[1])
  end)
end)

describe("What is said of a function without a name", function()
  local app = tidepool.App "messages"

  --- The message of the error has its place once, and this text behind it.
  local function says_once(fn, text)
    local fine, why = pcall(fn)
    assert.is_false(fine)
    local message = tostring(type(why) == "table" and why.message or why):match "^[^\n]*"
    local _, n = message:gsub("messages_spec%.lua:%d+", "")
    contains(message, "messages_spec.lua:", text)
    assert.equal(1, n, message)
  end

  it("names its place once, where it is called in the line that has it", function()
    local list, hidden = {}, coroutine.create(print)
    says_once(function() app:func(function() return hidden end):remote() end, "a coroutine cannot travel to a worker")
    says_once(function() app:func(function(x) return x end):remote(hidden) end, "a coroutine cannot travel to a worker")
    says_once(function() app:func { gpu = "no such card" } (function(x) return x end):map({ 1 }) end, ': gpu = "no such card": ')
    says_once(function() app:func { yields = true } (function(x) return x end):map({ 1 }) end, ": it yields its values (option 'yields')")
    says_once(function() app:func(function() return hidden end)(list):map() end, ": f(inputs):map() calls the function here and now")
  end)

  devices.on_device(it, pending)("names its place once, too, when a device refuses it", function()
    says_once(function() app:func { gpu = true } (function(x) return tostring(x) end):map({ 1 }):list() end, "tostring")
    says_once(function() app:func { gpu = true } (function(x) return x + 1 end):map({ 1, "one" }):list() end, "string")
  end)
end)

describe("What is looked for in the wrong place", function()
  local app = tidepool.App "messages"
  local mistake = support.mistake
  local f = app:func { name = "f" } (function(x) return x end)

  it("is told where it is: options", function()
    mistake(function() f:map({ 1 }, { timeout = 5 }) end,
      "Function:map: option 'timeout' is one of functions: app:func { timeout = 5 } (fn), or f:with { timeout = 5 }")
    mistake(function() f:for_each({ 1 }, { retries = { max = 2 } }) end, "Function:for_each: option 'retries'", "f:with { retries = { ... } }")
    mistake(function() f:starmap({ { 1 } }, { max_workers = 2 }) end, "Function:starmap: option 'max_workers' is one of functions")
    mistake(function() app:func { return_exceptions = true } (print) end,
      "app:func: option 'return_exceptions' is one of calls: f:map(inputs, { return_exceptions = true })")
    mistake(function() tidepool.App("x", { journal = "run.db" }) end, 'f:map(inputs, { journal = "run.db" })')
    mistake(function() f:with { ordered = false } end, "Function:with: option 'ordered' is one of calls")
  end)

  it("is told where it is: methods, as others call them", function()
    local map, results = "functions have it: app:func(fn):map(...)", "waits, and gives what it returned: call:get()"
    mistake(function() return tidepool.map(print, {}) end, "tidepool has no function 'map': " .. map)
    mistake(function() return app:map(print, {}) end, "an app has no method 'map': " .. map)
    mistake(function() return app:spawn(print) end, "an app has no method 'spawn': functions have it: app:func(fn):spawn(...)")
    local call, task = f:spawn(1), tidepool.async(function() end)
    for _, name in ipairs { "wait", "join", "await" } do
      mistake(function() return call[name](call) end, ("a call has no method '%s': %s"):format(name, results))
      mistake(function() return task[name](task) end, ("a task has no method '%s'"):format(name), "task:get()")
    end
    assert.equal(1, call:get())
    assert.is_nil(tidepool.maps)
  end)

  it("is shown by its name when it is the key of a table that should be a list", function()
    mistake(function() f:map { progress = true } end, "input 1 is a table with names ('progress'), not a list")
  end)

  it("does not name a function after a variable that it is not assigned to", function()
    local function named()
      local h, M = io.tmpfile(), {} h:close() return app:func(function() return M end)
    end
    assert.matches("^messages_spec.lua:%d+$", (named().name:gsub("^.*/", "")))
    local function own()
      local M = {} M.__index = M; local g = app:func(function() return M end) return g
    end
    assert.equal("g", own().name)
  end)
end)

describe("What has no effect", function()
  local app = tidepool.App "messages"
  local mistake = support.mistake
  local function id(x) return x end

  it("is refused where an option needs another one that is not there", function()
    for name, value in pairs { precision = "single", recursion_limit = 5 } do
      mistake(function() app:func { [name] = value } (id) end, ("app:func: option '%s' goes with `gpu`"):format(name))
      mistake(function() app:func(id):with { [name] = value } end, ("Function:with: option '%s' goes with `gpu`"):format(name))
      mistake(function() app:func { gpu = true, executor = "threads", [name] = value } (id) end, name, "this one drives it itself")
      mistake(function() app:cls { [name] = value } { run = id } end, ("app:cls: option '%s' goes with `gpu`"):format(name))
      assert.equal(3, tidepool.App("defaults", { [name] = value }):func(id)(3)) -- for those that have a gpu
      assert.equal(name, app:func { gpu = true, [name] = value, name = name } (id).name)
    end
    for name, value in pairs { returns = "double", cache = true } do
      mistake(function() app:func { yields = true, [name] = value } (id) end, ("app:func: option '%s' is about what a function returns"):format(name))
      mistake(function() app:func { yields = true } (id):with { [name] = value } end, "Function:with: option '" .. name)
    end
    for name, value in pairs { backoff = 2, max_delay = 2, jitter = 0.5 } do
      mistake(function() app:func { retries = { max = 2, [name] = value } } end, "retries", name .. ", which goes with initial_delay")
    end
    mistake(function() app:func(id):for_each({ 1 }, { times = true }) end, "Function:for_each: unknown option 'times'")
    mistake(function() app:func { yields = true } (id):flat_map({ 1 }, { times = true }) end, "option 'times' is not for values that come while")
  end)

  it("is refused where a field is assigned that nobody would read", function()
    local f, C = app:func { name = "f" } (id), app:cls { name = "C" } { run = id }
    mistake(function() f.timeout = 5 end, "f: field 'timeout' of a function cannot be set", "and f:with { timeout = 5 } is one with another")
    mistake(function() f.retries = { max = 2 } end, "f:with { retries = { ... } }")
    mistake(function() f.name = "g" end, "f: field 'name' of a function cannot be set", 'f:with { name = "g" }')
    for _, name in ipairs { "raw", "map", "anything" } do
      mistake(function() f[name] = print end, ("f: field '%s' of a function cannot be set: its options are given when it is made"):format(name))
    end
    mistake(function() f.options = { timeout = 5 } end, "f: the options of a function cannot be set: f:with { ... } is one with others")
    for _, name in ipairs { "name", "func", "timeout", "defaults", "functions" } do
      mistake(function() app[name] = "x" end, ("app 'messages': field '%s' of an app cannot be set"):format(name))
    end
    mistake(function() C.run = print end, "C: field 'run' of a class cannot be set")
    assert.same({ "f", id, "messages", "f" }, { f.name, f.raw, app.name, f.options.name })
    assert.equal(f, app.functions.f)
  end)
end)

describe("The kind of a value", function()
  it("has its article wherever it is told", function()
    local app = tidepool.App "messages"
    local ffi = require "ffi"
    local f = app:func { name = "f" } (function(x) return x end)
    local kinds = {
      { coroutine.create(print), "a thread" }, { io.stdout, "a file" }, { newproxy(), "a userdata" }, { ffi.new "int[3]", "a cdata<int [3]>" },
      { ffi.typeof "int", "a ctype<int>" }, { tidepool.array("double", 3), "an array" }, { app, "a tidepool.App" }, { f, "a tidepool.Function" },
      { tidepool.Dict(), "a tidepool.Dict" }, { true, "true" }, { 5, "5" }, { 5LL, "5LL" }, { print, "a function" }, { {}, "a table" },
      { setmetatable({}, { __tostring = error }), "a table" },
    }
    for _, case in ipairs(kinds) do
      support.mistake(function() tidepool.sleep(type(case[1]) == "number" and "5" or case[1]) end,
        "got " .. (type(case[1]) == "number" and 'the string "5"' or case[2]))
      if case[1] ~= f and case[1] ~= app and type(case[1]) ~= "table" then support.mistake(function() f:with(case[1]) end, "got " .. case[2]) end
    end
    support.mistake(function() tidepool.App(5) end, "tidepool.App: the name must be a string, got 5")
    support.mistake(function() tidepool.App("x", "y") end, 'a table of options, got the string "y"')
    support.mistake(function() app:include(f) end, "app:include: expected an App, got a tidepool.Function")
    support.mistake(function() tidepool.iter(5) end, "got 5")
    local failure = failure_of(function() app:func { returns = { "double", "int8" } } (function() return "x" end):map({ 1 }):list() end)
    contains(failure.message, 'it returned a string, but returns = { "double", "int8" }')
    failure = failure_of(function() app:func { batched = 2 } (function() return newproxy() end):remote(1) end)
    contains(failure.message, "its result 1 is a userdata")
  end)
end)

describe("A function of ours that an item calls at its very end", function()
  it("blames the function of the item, whose line is no longer known", function()
    local app = tidepool.App "messages"
    local a = tidepool.array("double", 3)
    local line = debug.getinfo(1, "l").currentline
    local fails = {
      { function() return a:at(9) end, "array:at: " },
      { function() return a:sum(1) end, "array:sum takes no arguments" },
      { function() return tidepool.range("x") end, "tidepool.range: expected numbers" },
    }
    for _, executor in ipairs { "threads", "processes", "inline" } do
      for i, case in ipairs(fails) do
        local f = app:func({ executor = executor, name = "f" }, case[1])
        contains(failure_of(f.remote, f, 1).message, ("messages_spec.lua:%d: %s"):format(line + 1 + i, case[2]))
      end
    end
  end)
end)
